package lfu_test

import (
	"fmt"
	"strings"

	"github.com/sysblocks/sysblocks/lfu"
)

func Example() {
	cache, err := lfu.New(lfu.Config[string, int]{Capacity: 1000})
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
	_, err := lfu.New(lfu.Config[string, int]{Capacity: -1})
	fmt.Println(err)
	// Output: lfu: Capacity must be at least 1, got -1
}

// A scan over many keys, each used once, leaves alone what is used often.
func ExampleCache() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100, Shards: 1})
	for range 3 {
		cache.Set("popular", 1)
	}
	for i := range 10_000 {
		cache.Set(fmt.Sprint("once", i), i)
		if i%50 == 0 {
			cache.Get("popular")
		}
	}
	fmt.Println(cache.Contains("popular"), cache.Len())
	// Output: true 100
}

// What leaves without having been of use is Rejected.
func ExampleConfig_onEvict() {
	rejected := 0
	cache, _ := lfu.New(lfu.Config[int, string]{
		Capacity: 10,
		Shards:   1,
		OnEvict: func(_ int, _ string, why lfu.Cause) {
			if why == lfu.Rejected {
				rejected++
			}
		},
	})
	for k := range 10 {
		cache.Set(k, "in use")
		cache.Get(k)
	}
	for k := range 100 {
		cache.Set(1000+k, "used once")
		cache.Get(k % 10)
	}
	fmt.Println(rejected > 90)
	// Output: true
}

// A cache of at most 1 KiB of text.
func ExampleConfig_weigher() {
	cache, _ := lfu.New(lfu.Config[string, string]{
		Capacity: 1 << 10,
		Weigher:  func(k, v string) uint32 { return uint32(len(k) + len(v)) },
	})
	cache.Set("a", strings.Repeat("x", 500))
	cache.Set("b", strings.Repeat("x", 500))
	fmt.Println(cache.Len(), "entries weigh", cache.Weight())

	stored, _ := cache.Set("d", strings.Repeat("x", 2000))
	fmt.Println("stored:", stored)
	// Output:
	// 2 entries weigh 1002
	// stored: false
}

func ExampleCache_Get() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 100})
	cache.Set(1, "one")
	fmt.Println(cache.Get(1))
	_, ok := cache.Get(2)
	fmt.Println(ok)
	// Output:
	// one true
	// false
}

func ExampleCache_Set() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 1})
	fmt.Println(cache.Set(1, "one"))
	fmt.Println(cache.Set(2, "two"))
	// Output:
	// true false
	// true true
}

func ExampleCache_SetIfAbsent() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 100})
	fmt.Println(cache.SetIfAbsent(1, "one"))
	fmt.Println(cache.SetIfAbsent(1, "uno"))
	// Output:
	// one false
	// one true
}

func ExampleCache_Compute() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100})
	for _, word := range strings.Fields("to be or not to be") {
		cache.Compute(word, func(n int, _ bool) (int, lfu.Op) { return n + 1, lfu.OpSet })
	}
	fmt.Println(cache.Peek("to"))
	// Output: 2 true
}

// Between Get and Set others come in, and one of two increments is lost. Compute does both
// in one step.
func ExampleCache_Compute_mistake() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100})

	n, _ := cache.Get("visits") // wrong: another goroutine reads the same number,
	cache.Set("visits", n+1)    // and one of both writes is for nothing

	cache.Compute("visits", func(n int, _ bool) (int, lfu.Op) { return n + 1, lfu.OpSet })
	fmt.Println(cache.Peek("visits"))
	// Output: 2 true
}

func ExampleCache_Delete() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 100})
	cache.Set(1, "one")
	fmt.Println(cache.Delete(1))
	_, ok := cache.Delete(1)
	fmt.Println(ok)
	// Output:
	// one true
	// false
}

func ExampleCache_Resize() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 3, Shards: 1})
	for i := range 3 {
		cache.Set(i, "x")
	}
	evicted, err := cache.Resize(1)
	fmt.Println(evicted, err, cache.Len())
	_, err = cache.Resize(0)
	fmt.Println(err)
	// Output:
	// 2 <nil> 1
	// lfu: Capacity must be at least 1, got 0
}

func ExampleCache_Hottest() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100})
	for i, word := range strings.Fields("a b b c c c") {
		cache.Set(word, i)
	}
	for word := range cache.Hottest() {
		fmt.Println(word, cache.EstimateFrequency(word))
	}
	// Output:
	// c 3
	// b 2
	// a 1
}

func ExampleCache_Coldest() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100})
	for i, word := range strings.Fields("a b b c c c") {
		cache.Set(word, i)
	}
	for word := range cache.Coldest() {
		fmt.Println(word)
		break
	}
	// Output: a
}

func ExampleCache_All() {
	cache, _ := lfu.New(lfu.Config[string, int]{Capacity: 100, Shards: 1})
	cache.Set("a", 1)
	cache.Set("b", 2)
	for k, v := range cache.All() {
		fmt.Println(k, v)
	}
	// Output:
	// a 1
	// b 2
}

func ExampleCache_Stats() {
	cache, _ := lfu.New(lfu.Config[int, string]{Capacity: 1})
	cache.Set(1, "one")
	cache.Get(1)
	cache.Get(2)
	fmt.Printf("%+v\n", cache.Stats())
	// Output: {Hits:1 Misses:1 Sets:1 Evictions:0 Rejections:0 Refused:0}
}

func ExampleCache_Policy() {
	cache, _ := lfu.New(lfu.Config[int, int]{Capacity: 100})
	for i := range 1000 {
		cache.Set(i, i) // each key once: no reason for a larger window
	}
	// It begins with 0.01. A ghost that has the hash of another key may move it by a step, seldom.
	fmt.Println(cache.Policy().WindowShare < 0.05)
	// Output: true
}

func ExampleNewExact() {
	cache, _ := lfu.NewExact(lfu.Config[string, int]{Capacity: 2})
	cache.Set("a", 1)
	cache.Get("a")
	cache.Set("b", 2)
	cache.Set("c", 3) // b has been used once, a twice
	fmt.Println(cache.Contains("a"), cache.Contains("b"))
	// Output: true false
}

// What was popular once keeps its place for ever, unless counts age.
func ExampleConfig_ageAfter() {
	for _, ageAfter := range []int{0, 100} {
		cache, _ := lfu.NewExact(lfu.Config[string, int]{Capacity: 1, AgeAfter: ageAfter})
		for range 1000 {
			cache.Set("yesterday", 1)
		}
		fmt.Println(cache.Frequency("yesterday") > 200)
	}
	// Output:
	// true
	// false
}

func ExampleExact_Frequency() {
	cache, _ := lfu.NewExact(lfu.Config[string, int]{Capacity: 2})
	cache.Set("a", 1)
	cache.Get("a")
	fmt.Println(cache.Frequency("a"), cache.Frequency("b"))
	// Output: 2 0
}

func ExampleExact_Coldest() {
	cache, _ := lfu.NewExact(lfu.Config[string, int]{Capacity: 3})
	cache.Set("a", 1)
	cache.Set("b", 2)
	cache.Get("a")
	fmt.Println(cache.Coldest())
	fmt.Println(cache.DeleteColdest())
	fmt.Println(cache.Coldest())
	// Output:
	// b 2 true
	// b 2 true
	// a 1 true
}

func ExampleExact_All() {
	cache, _ := lfu.NewExact(lfu.Config[string, int]{Capacity: 3})
	for i, word := range strings.Fields("a b b c c c") {
		cache.Set(word, i)
	}
	for k := range cache.Keys() {
		fmt.Print(k, " ")
	}
	for k := range cache.Backward() {
		fmt.Print(k, " ")
	}
	// Output: c b a a b c
}
