package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/hashicorp/golang-lru/v2/expirable"
	jellydator "github.com/jellydator/ttlcache/v3"
	"github.com/karlseguin/ccache/v3"
	"github.com/maypok86/otter/v2"
	gocache "github.com/patrickmn/go-cache"
	phuslu "github.com/phuslu/lru"
	"github.com/viccon/sturdyc"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// ttl is the time to live of the workloads in which nothing expires.
const ttl = time.Hour

// expiring are the implementations whose entries expire.
var expiring = []impl{
	{"sysblocks", func(tb testing.TB, n int) cache {
		c := must(ttlcache.New(ttlcache.Config[string, int]{Capacity: n, TTL: ttl}))(tb)
		tb.Cleanup(func() { _ = c.Close(context.Background()) })
		return oursExpiring{c}
	}},
	{"phuslu", func(_ testing.TB, n int) cache { return phusluTTL{phuslu.NewTTLCache[string, int](n)} }},
	{"otter", func(tb testing.TB, n int) cache {
		c := must(otter.New(&otter.Options[string, int]{
			MaximumSize: n, ExpiryCalculator: otter.ExpiryWriting[string, int](ttl),
		}))(tb)
		tb.Cleanup(func() { c.StopAllGoroutines() })
		return otterTTL{otterCache{c}}
	}},
	{"theine", func(tb testing.TB, n int) cache {
		c := must(theine.NewBuilder[string, int](int64(n)).Build())(tb)
		tb.Cleanup(c.Close)
		return theineTTL{c}
	}},
	{"ccache", func(tb testing.TB, n int) cache {
		c := ccache.New(ccache.Configure[int]().MaxSize(int64(n)))
		tb.Cleanup(c.Stop)
		return ccacheTTL{c}
	}},
	{"sturdyc", func(_ testing.TB, n int) cache {
		return sturdycTTL{sturdyc.New[int](n, 64, ttl, 10, sturdyc.WithNoContinuousEvictions())}
	}},
	{"jellydator", func(_ testing.TB, n int) cache {
		return jellydatorTTL{jellydator.New(jellydator.WithTTL[string, int](ttl),
			jellydator.WithCapacity[string, int](uint64(n)), jellydator.WithDisableTouchOnHit[string, int]())}
	}},
	{"expirable", func(_ testing.TB, n int) cache {
		return expirableTTL{expirable.NewLRU[string, int](n, nil, ttl)}
	}},
}

// unbounded is go-cache, which has no capacity: where others evict, it grows.
var unbounded = impl{"go-cache", func(testing.TB, int) cache { return goCacheTTL{gocache.New(ttl, 0)} }}

type oursExpiring struct{ *ttlcache.Cache[string, int] }

func (c oursExpiring) Set(k string, v int) { _ = c.Cache.Set(context.Background(), k, v) }
func (c oursExpiring) SetFor(k string, v int, d time.Duration) {
	_ = c.SetTTL(context.Background(), k, v, d)
}

type phusluTTL struct{ *phuslu.TTLCache[string, int] }

func (c phusluTTL) Set(k string, v int)                     { c.TTLCache.Set(k, v, ttl) }
func (c phusluTTL) SetFor(k string, v int, d time.Duration) { c.TTLCache.Set(k, v, d) }

type otterTTL struct{ otterCache }

func (c otterTTL) SetFor(k string, v int, d time.Duration) {
	c.Set(k, v)
	c.SetExpiresAfter(k, d)
}

type theineTTL struct{ *theine.Cache[string, int] }

func (c theineTTL) Set(k string, v int)                     { c.SetWithTTL(k, v, 1, ttl) }
func (c theineTTL) SetFor(k string, v int, d time.Duration) { c.SetWithTTL(k, v, 1, d) }

type ccacheTTL struct{ *ccache.Cache[int] }

func (c ccacheTTL) Get(k string) (int, bool) {
	item := c.Cache.Get(k)
	if item == nil || item.Expired() {
		return 0, false
	}
	return item.Value(), true
}
func (c ccacheTTL) Set(k string, v int)                     { c.Cache.Set(k, v, ttl) }
func (c ccacheTTL) SetFor(k string, v int, d time.Duration) { c.Cache.Set(k, v, d) }
func (c ccacheTTL) Len() int                                { return c.ItemCount() }

type sturdycTTL struct{ *sturdyc.Client[int] }

func (c sturdycTTL) Set(k string, v int) { c.Client.Set(k, v) }
func (c sturdycTTL) Len() int            { return c.Size() }

type jellydatorTTL struct {
	*jellydator.Cache[string, int]
}

func (c jellydatorTTL) Get(k string) (int, bool) {
	item := c.Cache.Get(k)
	if item == nil {
		return 0, false
	}
	return item.Value(), true
}
func (c jellydatorTTL) Set(k string, v int)                     { c.Cache.Set(k, v, jellydator.DefaultTTL) }
func (c jellydatorTTL) SetFor(k string, v int, d time.Duration) { c.Cache.Set(k, v, d) }

type expirableTTL struct{ *expirable.LRU[string, int] }

func (c expirableTTL) Set(k string, v int) { c.Add(k, v) }

type goCacheTTL struct{ *gocache.Cache }

func (c goCacheTTL) Get(k string) (int, bool) {
	v, ok := c.Cache.Get(k)
	if !ok {
		return 0, false
	}
	return v.(int), true
}
func (c goCacheTTL) Set(k string, v int)                     { c.SetDefault(k, v) }
func (c goCacheTTL) SetFor(k string, v int, d time.Duration) { c.Cache.Set(k, v, d) }
func (c goCacheTTL) Len() int                                { return c.ItemCount() }

// BenchmarkExpiringGetHit, BenchmarkExpiringMixed, BenchmarkExpiringSetEvict and
// BenchmarkExpiringMemory are the workloads of package lru with a time to live of an hour.
func BenchmarkExpiringGetHit(b *testing.B) {
	getHit(b, append(slices.Clip(expiring), unbounded), parallel)
}
func BenchmarkExpiringMixed(b *testing.B)    { mixed(b, expiring, parallel) }
func BenchmarkExpiringSetEvict(b *testing.B) { setEvict(b, expiring, parallel) }
func BenchmarkExpiringMemory(b *testing.B)   { memory(b, append(slices.Clip(expiring), unbounded)) }

// A timed cache can be given a time to live for each entry.
type timed interface {
	cache
	SetFor(k string, v int, d time.Duration)
}

// BenchmarkExpireChurn sets keys that expire after 1 to 100 ms, as fast as it can, in a cache
// with room for many more than are alive at one time, and looks others up. Beside the time
// stand the heap that is live at the end, and the hits. Those who cannot be given a time to
// live for each entry are left out.
func BenchmarkExpireChurn(b *testing.B) {
	capacity := 1_000_000
	if testing.Short() {
		capacity = 10_000
	}
	keys := keysOf(4 * capacity)
	for r := range *rounds {
		for i := range len(expiring) + 1 {
			in := append(slices.Clip(expiring), unbounded)[(i+r)%(len(expiring)+1)]
			before := heap()
			c, ok := in.make(b, capacity).(timed)
			if !ok {
				continue
			}
			b.Run(fmt.Sprintf("impl=%s/round=%d", in.name, r+1), func(b *testing.B) {
				b.ReportAllocs()
				var hits, goroutines atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					rng := rand.New(rand.NewPCG(uint64(goroutines.Add(1)), 1))
					mine, at := int64(0), rng.IntN(len(keys))
					for pb.Next() {
						if at++; at == len(keys) {
							at = 0
						}
						c.SetFor(keys[at], at, time.Duration(1+rng.IntN(100))*time.Millisecond)
						if _, ok := c.Get(keys[max(0, at-1000)]); ok {
							mine++
						}
					}
					hits.Add(mine)
				})
				b.StopTimer()
				b.ReportMetric(float64(int64(heap())-int64(before))/1e6, "MB")
				b.ReportMetric(100*float64(hits.Load())/float64(b.N), "%hits")
				runtime.KeepAlive(c)
			})
		}
	}
}

// BenchmarkStampede has 1,000 goroutines ask for one key that is not there, whose load takes
// 20 ms. Beside the time of the whole stand the number of loads and the 99th percentile of what
// a caller waits.
func BenchmarkStampede(b *testing.B) {
	const callers, took = 1000, 20 * time.Millisecond
	var loads atomic.Int64
	load := func() int {
		loads.Add(1)
		time.Sleep(took)
		return 1
	}
	ctx := context.Background()
	get := []struct {
		name string
		make func(tb testing.TB) func(k string)
	}{
		{"sysblocks", func(tb testing.TB) func(string) {
			c := must(ttlcache.New(ttlcache.Config[string, int]{Capacity: 1000, TTL: ttl,
				Loader: func(context.Context, string) (ttlcache.Entry[int], error) {
					return ttlcache.Entry[int]{Value: load()}, nil
				}}))(tb)
			return func(k string) { _, _ = c.GetOrLoad(ctx, k) }
		}},
		{"phuslu", func(testing.TB) func(string) {
			c := phuslu.NewTTLCache[string, int](1000)
			return func(k string) {
				_, _, _ = c.GetOrLoad(ctx, k, func(context.Context, string) (int, time.Duration, error) { return load(), ttl, nil })
			}
		}},
		{"otter", func(tb testing.TB) func(string) {
			c := must(otter.New(&otter.Options[string, int]{MaximumSize: 1000, ExpiryCalculator: otter.ExpiryWriting[string, int](ttl)}))(tb)
			return func(k string) {
				_, _ = c.Get(ctx, k, otter.LoaderFunc[string, int](func(context.Context, string) (int, error) { return load(), nil }))
			}
		}},
		{"sturdyc", func(testing.TB) func(string) {
			c := sturdyc.New[int](1000, 10, ttl, 10, sturdyc.WithNoContinuousEvictions())
			return func(k string) {
				_, _ = c.GetOrFetch(ctx, k, func(context.Context) (int, error) { return load(), nil })
			}
		}},
		{"ccache", func(tb testing.TB) func(string) {
			c := ccache.New(ccache.Configure[int]().MaxSize(1000))
			tb.Cleanup(c.Stop)
			return func(k string) { _, _ = c.Fetch(k, ttl, func() (int, error) { return load(), nil }) }
		}},
		{"jellydator", func(testing.TB) func(string) {
			c := jellydator.New(jellydator.WithTTL[string, int](ttl), jellydator.WithLoader[string, int](
				jellydator.NewSuppressedLoader[string, int](jellydator.LoaderFunc[string, int](func(c *jellydator.Cache[string, int], k string) *jellydator.Item[string, int] {
					return c.Set(k, load(), ttl)
				}), nil)))
			return func(k string) { c.Get(k) }
		}},
		{"go-cache", func(testing.TB) func(string) {
			c := gocache.New(ttl, 0)
			return func(k string) {
				if _, ok := c.Get(k); !ok {
					c.SetDefault(k, load())
				}
			}
		}},
	}
	for _, in := range get {
		b.Run("impl="+in.name, func(b *testing.B) {
			ask := in.make(b)
			loads.Store(0)
			var waits []time.Duration
			n := 0
			for b.Loop() {
				n++
				k := fmt.Sprint("key", n)
				times := make([]time.Duration, callers)
				var wg sync.WaitGroup
				for i := range times {
					wg.Go(func() {
						start := time.Now()
						ask(k)
						times[i] = time.Since(start)
					})
				}
				wg.Wait()
				waits = append(waits, times...)
			}
			slices.Sort(waits)
			b.ReportMetric(float64(loads.Load())/float64(n), "loads/op")
			b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
