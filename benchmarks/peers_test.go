package benchmarks

import (
	"hash/maphash"
	"testing"

	theine "github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	freelru "github.com/elastic/go-freelru"
	golang "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/maypok86/otter/v2"
	phuslu "github.com/phuslu/lru"

	"github.com/sysblocks/sysblocks/lfu"
	"github.com/sysblocks/sysblocks/lru"
)

// A cache is what the workloads need of an implementation.
type cache interface {
	Get(string) (int, bool)
	Set(string, int)
	Len() int
}

// An impl makes caches of one implementation.
type impl struct {
	name string
	make func(tb testing.TB, capacity int) cache
}

// concurrent are the implementations that are safe for concurrent use.
var concurrent = []impl{
	{"sysblocks", func(tb testing.TB, n int) cache { return ours{must(lru.New(lru.Config[string, int]{Capacity: n}))(tb)} }},
	{"phuslu", func(_ testing.TB, n int) cache { return phusluCache{phuslu.NewLRUCache[string, int](n)} }},
	{"freelru", func(tb testing.TB, n int) cache {
		return freeCache{must(freelru.NewSharded[string, int](uint32(n), hashString()))(tb)}
	}},
	{"golang-lru", func(tb testing.TB, n int) cache { return golangCache{must(golang.New[string, int](n))(tb)} }},
}

// adaptive are the implementations that are safe for concurrent use and adapt to the
// workload.
var adaptive = []impl{
	{"sysblocks", func(tb testing.TB, n int) cache {
		return oursAdaptive{must(lfu.New(lfu.Config[string, int]{Capacity: n}))(tb)}
	}},
	{"otter", func(tb testing.TB, n int) cache {
		c := must(otter.New(&otter.Options[string, int]{MaximumSize: n}))(tb)
		tb.Cleanup(func() { c.StopAllGoroutines() })
		return otterCache{c}
	}},
	{"theine", func(tb testing.TB, n int) cache {
		c := must(theine.NewBuilder[string, int](int64(n)).Build())(tb)
		tb.Cleanup(c.Close)
		return theineCache{c}
	}},
	{"ristretto", func(tb testing.TB, n int) cache {
		c := must(ristretto.NewCache(&ristretto.Config[string, int]{
			NumCounters: 10 * int64(n), MaxCost: int64(n), BufferItems: 64, IgnoreInternalCost: true,
		}))(tb)
		tb.Cleanup(c.Close)
		return ristrettoCache{c}
	}},
}

// local are the implementations for one goroutine.
var local = []impl{
	{"sysblocks", func(tb testing.TB, n int) cache {
		return oursLocal{must(lru.NewLocal(lru.Config[string, int]{Capacity: n}))(tb)}
	}},
	{"freelru", func(tb testing.TB, n int) cache {
		return freeCache{must(freelru.New[string, int](uint32(n), hashString()))(tb)}
	}},
	{"simplelru", func(tb testing.TB, n int) cache {
		return simpleCache{must(simplelru.NewLRU[string, int](n, nil))(tb)}
	}},
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// hashString is the fastest hash of strings that freelru can be given.
func hashString() func(string) uint32 {
	seed := maphash.MakeSeed()
	return func(s string) uint32 { return uint32(maphash.String(seed, s)) }
}

type ours struct{ *lru.Cache[string, int] }

func (c ours) Set(k string, v int) { c.Cache.Set(k, v) }

type oursLocal struct{ *lru.Local[string, int] }

func (c oursLocal) Set(k string, v int) { c.Local.Set(k, v) }

type oursAdaptive struct{ *lfu.Cache[string, int] }

func (c oursAdaptive) Set(k string, v int) { c.Cache.Set(k, v) }

type oursExact struct{ *lfu.Exact[string, int] }

func (c oursExact) Set(k string, v int) { c.Exact.Set(k, v) }

type otterCache struct{ *otter.Cache[string, int] }

func (c otterCache) Get(k string) (int, bool) { return c.GetIfPresent(k) }
func (c otterCache) Set(k string, v int)      { c.Cache.Set(k, v) }
func (c otterCache) Len() int                 { c.CleanUp(); return c.EstimatedSize() }

type theineCache struct{ *theine.Cache[string, int] }

func (c theineCache) Set(k string, v int) { c.Cache.Set(k, v, 1) }

type ristrettoCache struct{ *ristretto.Cache[string, int] }

func (c ristrettoCache) Set(k string, v int) { c.Cache.Set(k, v, 1) }
func (c ristrettoCache) Len() int            { c.Wait(); return int(c.MaxCost() - c.RemainingCost()) }

type phusluCache struct{ *phuslu.LRUCache[string, int] }

func (c phusluCache) Set(k string, v int) { c.LRUCache.Set(k, v) }

type freeCache struct{ freelru.Cache[string, int] }

func (c freeCache) Set(k string, v int) { c.Add(k, v) }

type golangCache struct{ *golang.Cache[string, int] }

func (c golangCache) Set(k string, v int) { c.Add(k, v) }

type simpleCache struct{ *simplelru.LRU[string, int] }

func (c simpleCache) Set(k string, v int) { c.Add(k, v) }
