package ttlcache_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// users is a database of the examples.
type users struct {
	mu    sync.Mutex
	names map[int]string
}

func (u *users) load(_ context.Context, id int) (ttlcache.Entry[string], error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	name, ok := u.names[id]
	if !ok {
		return ttlcache.Entry[string]{}, ttlcache.ErrNotFound
	}
	return ttlcache.Entry[string]{Value: name}, nil
}

// Write makes users a Store.
func (u *users) Write(_ context.Context, batch []ttlcache.Write[int, string]) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range batch {
		if w.Deleted {
			delete(u.names, w.Key)
		} else {
			u.names[w.Key] = w.Value
		}
	}
	return nil
}

func newCache[V any](config ttlcache.Config[int, V]) *ttlcache.Cache[int, V] {
	config.Capacity = 1000
	cache, err := ttlcache.New(config)
	if err != nil {
		log.Fatal(err)
	}
	return cache
}

// Cache-aside: the cache loads what it does not have, and who changes the database says so.
func Example() {
	db := &users{names: map[int]string{1: "Ada", 2: "Grace"}}
	cache, err := ttlcache.New(ttlcache.Config[int, string]{
		Capacity:     10_000,
		TTL:          10 * time.Minute,
		Jitter:       0.1,              // what was loaded together does not expire together
		NegativeTTL:  10 * time.Second, // users who do not exist
		RefreshAhead: 0.8,              // users in use are loaded again before they expire
		StaleIfError: time.Hour,        // if the database is down
		Loader:       db.load,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	defer cache.Close(ctx)

	fmt.Println(cache.GetOrLoad(ctx, 1))
	fmt.Println(cache.GetOrLoad(ctx, 3))
	db.names[1] = "Ada Lovelace"
	cache.Invalidate(1)
	fmt.Println(cache.GetOrLoad(ctx, 1))
	// Output:
	// Ada <nil>
	//  not found
	// Ada Lovelace <nil>
}

// A mistake: the database is changed after the cache is told. A load that comes between the two
// reads the old value, and the cache keeps it.
func Example_mistake() {
	db := &users{names: map[int]string{1: "Ada"}}
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, Loader: db.load})
	ctx := context.Background()

	cache.Invalidate(1)                 // wrong: too early
	_, _ = cache.GetOrLoad(ctx, 1)      // another request
	db.names[1] = "Ada Lovelace"        // the change
	stale, _ := cache.GetOrLoad(ctx, 1) // and every request for an hour
	cache.Invalidate(1)                 // right: after the change
	fresh, _ := cache.GetOrLoad(ctx, 1)
	fmt.Println(stale, "/", fresh)
	// Output: Ada / Ada Lovelace
}

func ExampleNew() {
	_, err := ttlcache.New(ttlcache.Config[int, string]{Capacity: 10, TTL: -time.Second})
	fmt.Println(err)
	// Output: ttlcache: TTL must be at least 0, got -1s
}

func ExampleCache_Get() {
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour})
	_ = cache.Set(context.Background(), 1, "one")
	v, ok := cache.Get(1)
	fmt.Println(v, ok)
	_, ok = cache.Get(2)
	fmt.Println(ok)
	// Output:
	// one true
	// false
}

func ExampleCache_GetOrLoad() {
	loads := 0
	cache := newCache(ttlcache.Config[int, string]{
		TTL: time.Hour,
		Loader: func(_ context.Context, k int) (ttlcache.Entry[string], error) {
			loads++
			time.Sleep(10 * time.Millisecond)
			return ttlcache.Entry[string]{Value: fmt.Sprint("value of ", k), TTL: time.Minute}, nil
		},
	})
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() { _, _ = cache.GetOrLoad(context.Background(), 1) })
	}
	wg.Wait()
	fmt.Println(loads)
	// Output: 1
}

func ExampleCache_GetOrLoadAll() {
	cache := newCache(ttlcache.Config[int, string]{
		TTL: time.Hour,
		BulkLoader: func(_ context.Context, keys []int) (map[int]ttlcache.Entry[string], error) {
			slices.Sort(keys)
			fmt.Println("load", keys)
			all := map[int]ttlcache.Entry[string]{}
			for _, k := range keys {
				if k < 10 { // others do not exist
					all[k] = ttlcache.Entry[string]{Value: fmt.Sprint("v", k)}
				}
			}
			return all, nil
		},
	})
	ctx := context.Background()
	_ = cache.Set(ctx, 1, "one")
	values, err := cache.GetOrLoadAll(ctx, []int{1, 2, 3, 99})
	fmt.Println(values, err)
	// Output:
	// load [2 3 99]
	// map[1:one 2:v2 3:v3] <nil>
}

func ExampleCache_Refresh() {
	db := &users{names: map[int]string{1: "Ada"}}
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, Loader: db.load})
	ctx := context.Background()
	_, _ = cache.GetOrLoad(ctx, 1)
	db.names[1] = "Ada Lovelace"
	if err := cache.Refresh(ctx, 1); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cache.Get(1))
	// Output: Ada Lovelace true
}

func ExampleCache_Lookup() {
	db := &users{names: map[int]string{1: "Ada"}}
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, NegativeTTL: time.Minute, Loader: db.load})
	ctx := context.Background()
	_, _ = cache.GetOrLoad(ctx, 1)
	_, _ = cache.GetOrLoad(ctx, 2)
	for k := 1; k <= 3; k++ {
		v, state, remaining := cache.Lookup(k)
		fmt.Printf("%q %v %v\n", v, state, remaining.Round(time.Second))
	}
	// Output:
	// "Ada" Fresh 1h0m0s
	// "" Negative 1m0s
	// "" Absent 0s
}

func ExampleCache_Set() {
	db := &users{names: map[int]string{}}
	cache := newCache(ttlcache.Config[int, string]{
		TTL:       time.Hour,
		Loader:    db.load,
		Store:     db,
		WriteMode: ttlcache.WriteThrough,
	})
	if err := cache.Set(context.Background(), 1, "Ada"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(db.names[1])
	// Output: Ada
}

func ExampleCache_SetTTL() {
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour})
	ctx := context.Background()
	_ = cache.SetTTL(ctx, 1, "a code", 5*time.Minute)
	_ = cache.SetTTL(ctx, 2, "a constant", ttlcache.Forever)
	_, _, remaining := cache.Lookup(1)
	fmt.Println(remaining.Round(time.Second))
	_, _, remaining = cache.Lookup(2)
	fmt.Println(remaining == ttlcache.Forever)
	// Output:
	// 5m0s
	// true
}

func ExampleCache_SetIfAbsent() {
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour})
	ctx := context.Background()
	fmt.Println(cache.SetIfAbsent(ctx, 1, "first"))
	fmt.Println(cache.SetIfAbsent(ctx, 1, "second"))
	// Output:
	// first false <nil>
	// first true <nil>
}

func ExampleCache_Compute() {
	cache := newCache(ttlcache.Config[int, int]{TTL: time.Hour})
	for range 3 {
		n, _, err := cache.Compute(context.Background(), 1, func(old int, _ bool) (int, ttlcache.Op) {
			return old + 1, ttlcache.OpSet
		})
		fmt.Println(n, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

func ExampleCache_Delete() {
	db := &users{names: map[int]string{1: "Ada"}}
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, Loader: db.load, Store: db})
	ctx := context.Background()
	fmt.Println(cache.GetOrLoad(ctx, 1))
	fmt.Println(cache.Delete(ctx, 1), len(db.names))
	_, err := cache.GetOrLoad(ctx, 1)
	fmt.Println(errors.Is(err, ttlcache.ErrNotFound))
	// Output:
	// Ada <nil>
	// <nil> 0
	// true
}

func ExampleCache_Touch() {
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour})
	ctx := context.Background()
	_ = cache.Set(ctx, 1, "a session")
	fmt.Println(cache.Touch(1), cache.Touch(2))
	// Output: true false
}

// WriteBehind acknowledges a write at once, and makes many in one batch.
func ExampleCache_Flush() {
	db := &users{names: map[int]string{}}
	cache := newCache(ttlcache.Config[int, string]{
		TTL:       time.Hour,
		Loader:    db.load,
		Store:     db,
		WriteMode: ttlcache.WriteBehind,
		Batch:     ttlcache.BatchConfig{Size: 1000, Delay: time.Minute},
	})
	ctx := context.Background()
	for i := range 100 {
		_ = cache.Set(ctx, i%10, fmt.Sprint("name ", i))
	}
	fmt.Println(cache.Stats().Queued, cache.Stats().Coalesced)
	if err := cache.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(db.names), db.names[3], cache.Stats().Written)
	// Output:
	// 10 90
	// 10 name 93 10
}

// Close tells of each write that was acknowledged and could not be made.
func ExampleCache_Close() {
	cache := newCache(ttlcache.Config[int, string]{
		Store:     broken{},
		WriteMode: ttlcache.WriteBehind,
		Batch:     ttlcache.BatchConfig{Retries: 1},
	})
	ctx := context.Background()
	_ = cache.Set(ctx, 1, "Ada")
	err := cache.Close(ctx)
	var lost *ttlcache.WriteError[int, string]
	if errors.As(err, &lost) {
		fmt.Println(lost.Writes[0].Key, lost.Writes[0].Value, lost.Err)
	}
	// Output: 1 Ada the disk is full
}

type broken struct{}

func (broken) Write(context.Context, []ttlcache.Write[int, string]) error {
	return errors.New("the disk is full")
}

func ExampleCache_All() {
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, Shards: 1})
	ctx := context.Background()
	_ = cache.Set(ctx, 1, "one")
	_ = cache.Set(ctx, 2, "two")
	for k, v := range cache.All() {
		fmt.Println(k, v)
	}
	// Output:
	// 2 two
	// 1 one
}

func ExampleCache_Stats() {
	db := &users{names: map[int]string{1: "Ada"}}
	cache := newCache(ttlcache.Config[int, string]{TTL: time.Hour, NegativeTTL: time.Minute, Loader: db.load})
	ctx := context.Background()
	for _, k := range []int{1, 1, 1, 2, 2} {
		_, _ = cache.GetOrLoad(ctx, k)
	}
	s := cache.Stats()
	fmt.Println(s.Loads, s.NotFound, s.NegativeHits, s.HitRatio())
	// Output: 2 1 1 0.6
}

func ExampleConfig_OnRemove() {
	cache := newCache(ttlcache.Config[int, string]{
		OnRemove: func(k int, v string, cause ttlcache.Cause) { fmt.Println(k, v, cause) },
	})
	ctx := context.Background()
	_ = cache.Set(ctx, 1, "one")
	_ = cache.Set(ctx, 1, "uno")
	_ = cache.Delete(ctx, 1)
	// Output:
	// 1 one Replaced
	// 1 uno Deleted
}
