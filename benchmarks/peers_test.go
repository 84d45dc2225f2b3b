package benchmarks

import (
	"hash/maphash"
	"testing"

	freelru "github.com/elastic/go-freelru"
	golang "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	phuslu "github.com/phuslu/lru"

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

type phusluCache struct{ *phuslu.LRUCache[string, int] }

func (c phusluCache) Set(k string, v int) { c.LRUCache.Set(k, v) }

type freeCache struct{ freelru.Cache[string, int] }

func (c freeCache) Set(k string, v int) { c.Add(k, v) }

type golangCache struct{ *golang.Cache[string, int] }

func (c golangCache) Set(k string, v int) { c.Add(k, v) }

type simpleCache struct{ *simplelru.LRU[string, int] }

func (c simpleCache) Set(k string, v int) { c.Add(k, v) }
