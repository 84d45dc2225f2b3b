package lru_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sysblocks/sysblocks/lru"
)

func Example() {
	cache, err := lru.New(lru.Config[string, int]{Capacity: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	cache.Set("apples", 3)
	cache.Set("pears", 5)
	if n, ok := cache.Get("apples"); ok {
		fmt.Println("apples:", n)
	}
	if _, ok := cache.Get("plums"); !ok {
		fmt.Println("no plums")
	}
	fmt.Printf("%.0f %% hits\n", 100*cache.Stats().HitRatio())
	// Output:
	// apples: 3
	// no plums
	// 50 % hits
}

func ExampleNew() {
	_, err := lru.New(lru.Config[string, int]{Capacity: -1})
	fmt.Println(err)
	// Output: lru: Capacity must be at least 1, got -1
}

// A connection that leaves the cache must be closed, for whatever reason it leaves.
func ExampleConfig_onEvict() {
	type conn struct{ name string }
	cache, _ := lru.New(lru.Config[string, *conn]{
		Capacity: 2,
		Shards:   1, // so that this example can tell which of them leaves
		OnEvict: func(host string, c *conn, why lru.Cause) {
			fmt.Println("closing", c.name, "-", why)
		},
	})
	cache.Set("a", &conn{"first"})
	cache.Set("b", &conn{"second"})
	cache.Set("b", &conn{"third"})
	cache.Set("c", &conn{"fourth"})
	cache.Delete("b")
	// Output:
	// closing second - Replaced
	// closing first - Evicted
	// closing third - Deleted
}

// A cache of at most 1 KiB of text.
func ExampleConfig_weigher() {
	cache, _ := lru.New(lru.Config[string, string]{
		Capacity: 1 << 10,
		Shards:   1,
		Weigher:  func(k, v string) uint32 { return uint32(len(k) + len(v)) },
	})
	cache.Set("a", strings.Repeat("x", 500))
	cache.Set("b", strings.Repeat("x", 500))
	fmt.Println(cache.Len(), "entries weigh", cache.Weight())

	_, evicted := cache.Set("c", strings.Repeat("x", 500))
	fmt.Println("evicted:", evicted)

	stored, _ := cache.Set("d", strings.Repeat("x", 2000))
	fmt.Println("stored:", stored)
	// Output:
	// 2 entries weigh 1002
	// evicted: true
	// stored: false
}

func ExampleCache_Get() {
	cache, _ := lru.New(lru.Config[int, string]{Capacity: 100})
	cache.Set(1, "one")
	fmt.Println(cache.Get(1))
	_, ok := cache.Get(2)
	fmt.Println(ok)
	// Output:
	// one true
	// false
}

func ExampleCache_Peek() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 2, Shards: 1})
	cache.Set("a", 1)
	cache.Set("b", 2)
	cache.Peek("a") // does not save it
	cache.Set("c", 3)
	fmt.Println(cache.Contains("a"))
	// Output: false
}

func ExampleCache_Set() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 1})
	fmt.Println(cache.Set("a", 1))
	fmt.Println(cache.Set("b", 2))
	// Output:
	// true false
	// true true
}

func ExampleCache_SetIfAbsent() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	fmt.Println(cache.SetIfAbsent("a", 1))
	fmt.Println(cache.SetIfAbsent("a", 2))
	// Output:
	// 1 false
	// 1 true
}

// Counting needs a look and a change in one step.
func ExampleCache_Compute() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	for _, word := range strings.Fields("to be or not to be") {
		cache.Compute(word, func(n int, ok bool) (int, lru.Op) { return n + 1, lru.OpSet })
	}
	n, _ := cache.Get("be")
	fmt.Println(n)
	// Output: 2
}

// The mistake: between Get and Set another goroutine can do the same, and one of the two
// increments is lost. Use Compute.
func ExampleCache_Compute_mistake() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	increment := func(between func()) {
		n, _ := cache.Get("visits")
		between()
		cache.Set("visits", n+1)
	}
	increment(func() { increment(func() {}) }) // as if two goroutines met
	n, _ := cache.Get("visits")
	fmt.Println("two visits, counted:", n)
	// Output: two visits, counted: 1
}

func ExampleCache_Delete() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	cache.Set("a", 1)
	fmt.Println(cache.Delete("a"))
	fmt.Println(cache.Delete("a"))
	// Output:
	// 1 true
	// 0 false
}

func ExampleCache_Clear() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	cache.Set("a", 1)
	cache.Clear()
	fmt.Println(cache.Len())
	// Output: 0
}

func ExampleCache_Resize() {
	cache, _ := lru.New(lru.Config[int, int]{Capacity: 100})
	for i := range 100 {
		cache.Set(i, i)
	}
	fmt.Println(cache.Resize(10))
	fmt.Println(cache.Len(), cache.Cap())
	_, err := cache.Resize(0)
	fmt.Println(err)
	// Output:
	// 90 <nil>
	// 10 10
	// lru: Capacity must be at least 1, got 0
}

func ExampleCache_All() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100, Shards: 1})
	cache.Set("a", 1)
	cache.Set("b", 2)
	cache.Get("a")
	for k, v := range cache.All() {
		fmt.Println(k, v)
	}
	// Output:
	// a 1
	// b 2
}

func ExampleCache_Keys() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100, Shards: 1})
	cache.Set("a", 1)
	cache.Set("b", 2)
	for k := range cache.Keys() {
		fmt.Println(k)
	}
	// Output:
	// b
	// a
}

func ExampleCache_Stats() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 1})
	cache.Set("a", 1)
	cache.Set("b", 2)
	cache.Get("a")
	cache.Get("b")
	fmt.Printf("%+v\n", cache.Stats())
	// Output: {Hits:1 Misses:1 Sets:2 Evictions:1 Refused:0}
}

func ExampleNewLocal() {
	_, err := lru.NewLocal(lru.Config[string, int]{Capacity: 10, Shards: 4})
	fmt.Println(err)
	// Output: lru: Shards must be 0 or 1 for a Local, got 4
}

func ExampleLocal_Oldest() {
	cache, _ := lru.NewLocal(lru.Config[string, int]{Capacity: 2})
	cache.Set("a", 1)
	cache.Set("b", 2)
	cache.Get("a")
	fmt.Println(cache.Oldest())
	fmt.Println(cache.DeleteOldest())
	fmt.Println(cache.DeleteOldest())
	// Output:
	// b 2 true
	// b 2 true
	// a 1 true
}

func ExampleLocal_Backward() {
	cache, _ := lru.NewLocal(lru.Config[string, int]{Capacity: 10})
	cache.Set("a", 1)
	cache.Set("b", 2)
	for k := range cache.Backward() {
		fmt.Println(k)
	}
	// Output:
	// a
	// b
}

// Cache-aside: look, load, store. The error is not cached.
func ExampleCache_cacheAside() {
	cache, _ := lru.New(lru.Config[string, int]{Capacity: 100})
	load := func(k string) (int, error) {
		if k == "" {
			return 0, errors.New("no key")
		}
		fmt.Println("loading", k)
		return len(k), nil
	}
	get := func(k string) (int, error) {
		if v, ok := cache.Get(k); ok {
			return v, nil
		}
		v, err := load(k)
		if err == nil {
			cache.Set(k, v)
		}
		return v, err
	}
	get("pear")
	fmt.Println(get("pear"))
	fmt.Println(get(""))
	// Output:
	// loading pear
	// 4 <nil>
	// 0 no key
}
