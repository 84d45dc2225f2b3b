package benchmarks

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sort"
	"sync/atomic"
	"testing"
)

var rounds = flag.Int("rounds", 1, "times that each comparison is repeated, its implementations alternating")
var capacityFlag = flag.Int("capacity", 100_000, "capacity")

// compare runs a workload on each implementation, round after round. Each has one
// cache for all rounds, which fill prepares.
func compare(b *testing.B, impls []impl, capacity int, fill func(c cache), run func(b *testing.B, c cache)) {
	caches := make([]cache, len(impls))
	for i, in := range impls {
		caches[i] = in.make(b, capacity)
		fill(caches[i])
	}
	for r := range *rounds {
		for j := range impls {
			i := (j + r) % len(impls)
			b.Run(fmt.Sprintf("impl=%s/round=%d", impls[i].name, r+1), func(b *testing.B) {
				b.ReportAllocs()
				run(b, caches[i])
			})
		}
	}
}

func keysOf(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

// freshKeys returns n keys in the order in which they lie in memory: a new key
// has just been made, so a cache finds it in the processor's caches.
func freshKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i)
	}
	return keys
}

func zipfDraws(n int, keys []string) []string {
	cdf := make([]float64, len(keys))
	sum := 0.0
	for i := range cdf {
		sum += math.Pow(float64(i+1), -1.01)
		cdf[i] = sum
	}
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]string, n)
	for i := range out {
		out[i] = keys[sort.SearchFloat64s(cdf, r.Float64()*sum)]
	}
	return out
}

const nDraws = 1 << 20

// parallel runs op on all CPUs, each goroutine from a place of its own in the draws.
func parallel(draws []string, op func(c cache, k string)) func(b *testing.B, c cache) {
	return func(b *testing.B, c cache) {
		var place atomic.Uint32
		b.RunParallel(func(pb *testing.PB) {
			i := int(place.Add(1)) * (len(draws) / 3)
			for pb.Next() {
				if i >= len(draws) {
					i %= len(draws)
				}
				op(c, draws[i])
				i++
			}
		})
	}
}

// serial runs op on one goroutine.
func serial(draws []string, op func(c cache, k string)) func(b *testing.B, c cache) {
	return func(b *testing.B, c cache) {
		i := 0
		for b.Loop() {
			if i == len(draws) {
				i = 0
			}
			op(c, draws[i])
			i++
		}
	}
}

func get(c cache, k string) { c.Get(k) }
func set(c cache, k string) { c.Set(k, 1) }
func getOrSet(c cache, k string) {
	if _, ok := c.Get(k); !ok {
		c.Set(k, 1)
	}
}

func each(op func(cache, string), keys ...[]string) func(cache) {
	return func(c cache) {
		for _, ks := range keys {
			for _, k := range ks {
				op(c, k)
			}
		}
	}
}

func BenchmarkGetHit(b *testing.B) {
	keys := keysOf(*capacityFlag / 2)
	draws := zipfDraws(nDraws, keys)
	compare(b, concurrent, *capacityFlag, each(getOrSet, keys, draws), parallel(draws, get))
}

func BenchmarkMixed(b *testing.B) {
	draws := zipfDraws(nDraws, keysOf(4**capacityFlag))
	compare(b, concurrent, *capacityFlag, each(getOrSet, draws), parallel(draws, getOrSet))
}

func BenchmarkSetEvict(b *testing.B) {
	keys := freshKeys(4 * *capacityFlag)
	compare(b, concurrent, *capacityFlag, each(set, keys), parallel(keys, set))
}

func BenchmarkLocalGetHit(b *testing.B) {
	keys := keysOf(*capacityFlag / 2)
	draws := zipfDraws(nDraws, keys)
	compare(b, local, *capacityFlag, each(getOrSet, keys, draws), serial(draws, get))
}

func BenchmarkLocalMixed(b *testing.B) {
	draws := zipfDraws(nDraws, keysOf(4**capacityFlag))
	compare(b, local, *capacityFlag, each(getOrSet, draws), serial(draws, getOrSet))
}

func BenchmarkLocalSetEvict(b *testing.B) {
	keys := freshKeys(4 * *capacityFlag)
	compare(b, local, *capacityFlag, each(set, keys), serial(keys, set))
}

func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{700_000, 1_000_000, 1_100_000, 1_500_000} {
		keys := keysOf(n + n/10)
		for _, in := range concurrent {
			b.Run(fmt.Sprintf("impl=%s/entries=%d", in.name, n), func(b *testing.B) {
				for b.Loop() {
					var before, after runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&before)
					c := in.make(b, n)
					for _, k := range keys {
						c.Set(k, 1)
					}
					runtime.GC()
					runtime.ReadMemStats(&after)
					b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(c.Len()), "B/entry")
					runtime.KeepAlive(c)
				}
			})
		}
	}
}
