package benchmarks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sysblocks/sysblocks/internal/trace"
)

var (
	rounds     = flag.Int("rounds", 1, "times that each comparison is repeated, the implementations taking turns")
	capacities = flag.String("capacities", "10000,100000,1000000", "capacities of the caches")
)

// forCapacities runs a benchmark for each capacity; -short has one small one.
func forCapacities(b *testing.B, run func(b *testing.B, capacity int)) {
	list := *capacities
	if testing.Short() {
		list = "1000"
	}
	for s := range strings.SplitSeq(list, ",") {
		capacity, err := strconv.Atoi(s)
		if err != nil {
			b.Fatalf("-capacities: %v", err)
		}
		b.Run(fmt.Sprintf("capacity=%d", capacity), func(b *testing.B) { run(b, capacity) })
	}
}

// takeTurns runs a workload on each implementation, round after round, each round
// beginning with another of them. An implementation has one cache for all rounds, which
// fill prepares. run returns the share of its look-ups that were hits, or a negative
// number if it has none.
func takeTurns(b *testing.B, impls []impl, capacity int, fill func(c cache), run func(b *testing.B, c cache) float64) {
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
				if hits := run(b, caches[i]); hits >= 0 {
					b.ReportMetric(100*hits, "%hits")
				}
			})
		}
	}
}

// keysOf returns n distinct keys of 16 bytes, each a string of its own on the heap.
func keysOf(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i)
	}
	return keys
}

// zipfOf returns n keys, and draws from them with Zipf's distribution, s = 1.01. How popular
// a key is has nothing to do with where it lies in memory.
func zipfOf(n int) (keys, draws []string) {
	const count, seed = 1 << 20, 1
	keys = keysOf(n)
	free := rand.New(rand.NewPCG(seed, 0)).Perm(n)
	places := make(map[uint64]int, n)
	draws = make([]string, count)
	for i, k := range trace.Zipf(count, uint64(n), 1.01, seed) {
		place, ok := places[k]
		if !ok {
			place = free[len(places)]
			places[k] = place
		}
		draws[i] = keys[place]
	}
	return keys, draws
}

// An op does one operation, and returns whether it was a hit.
type op func(c cache, k string) bool

func get(c cache, k string) bool {
	_, ok := c.Get(k)
	return ok
}

func set(c cache, k string) bool {
	c.Set(k, 1)
	return false
}

func getOrSet(c cache, k string) bool {
	if _, ok := c.Get(k); ok {
		return true
	}
	c.Set(k, 1)
	return false
}

// filled returns a function that does op with all keys.
func filled(do op, lists ...[]string) func(cache) {
	return func(c cache) {
		for _, keys := range lists {
			for _, k := range keys {
				do(c, k)
			}
		}
	}
}

// parallel does op on all CPUs, each goroutine from a place of its own in the draws. Every run
// on a cache goes on where the one before ended: if each began anew, a run shorter than the
// capacity would find its keys there, and set values where it should evict.
func parallel(draws []string, do op) func(b *testing.B, c cache) float64 {
	done := make(map[cache]int) // draws that some goroutine has used
	return func(b *testing.B, c cache) float64 {
		var goroutines, hits, longest atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			from := done[c] + int(goroutines.Add(1))*(len(draws)/3)
			i := from % len(draws)
			ops, mine := int64(0), int64(0)
			for pb.Next() {
				if i++; i == len(draws) {
					i = 0
				}
				ops++
				if do(c, draws[i]) {
					mine++
				}
			}
			hits.Add(mine)
			for old := longest.Load(); ops > old && !longest.CompareAndSwap(old, ops); old = longest.Load() {
			}
		})
		done[c] += int(longest.Load())
		return float64(hits.Load()) / float64(b.N)
	}
}

// serial does op on one goroutine, and goes on likewise.
func serial(draws []string, do op) func(b *testing.B, c cache) float64 {
	done := make(map[cache]int)
	return func(b *testing.B, c cache) float64 {
		i, hits := done[c]%len(draws), 0
		for b.Loop() {
			if i++; i == len(draws) {
				i = 0
			}
			if do(c, draws[i]) {
				hits++
			}
		}
		done[c] += b.N
		return float64(hits) / float64(b.N)
	}
}

// noHits hides the hit ratio of a workload that does not look anything up.
func noHits(run func(*testing.B, cache) float64) func(*testing.B, cache) float64 {
	return func(b *testing.B, c cache) float64 {
		run(b, c)
		return -1
	}
}
