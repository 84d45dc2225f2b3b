package benchmarks

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkGetHit draws keys from half as many as fit, so that every look-up is a hit.
func BenchmarkGetHit(b *testing.B) { getHit(b, concurrent, parallel) }

// BenchmarkMixed draws keys from four times as many as fit, and sets what it misses.
func BenchmarkMixed(b *testing.B) { mixed(b, concurrent, parallel) }

// BenchmarkSetEvict sets one new key after the other in a full cache.
func BenchmarkSetEvict(b *testing.B) { setEvict(b, concurrent, parallel) }

// BenchmarkLocalGetHit, BenchmarkLocalMixed and BenchmarkLocalSetEvict are the same for the types
// that are for one goroutine.
func BenchmarkLocalGetHit(b *testing.B)   { getHit(b, local, serial) }
func BenchmarkLocalMixed(b *testing.B)    { mixed(b, local, serial) }
func BenchmarkLocalSetEvict(b *testing.B) { setEvict(b, local, serial) }

// A driver makes a run of an operation and a list of keys: parallel or serial.
type driver func(draws []string, do op) func(*testing.B, cache) float64

func getHit(b *testing.B, impls []impl, drive driver) {
	forCapacities(b, func(b *testing.B, capacity int) {
		keys, draws := zipfOf(capacity / 2)
		takeTurns(b, impls, capacity, filled(getOrSet, keys, draws), drive(draws, get))
	})
}

func mixed(b *testing.B, impls []impl, drive driver) {
	forCapacities(b, func(b *testing.B, capacity int) {
		_, draws := zipfOf(4 * capacity)
		takeTurns(b, impls, capacity, filled(getOrSet, draws), drive(draws, getOrSet))
	})
}

func setEvict(b *testing.B, impls []impl, drive driver) {
	forCapacities(b, func(b *testing.B, capacity int) {
		keys := keysOf(4 * capacity)
		takeTurns(b, impls, capacity, filled(set, keys), noHits(drive(keys, set)))
	})
}

// BenchmarkMemory measures the heap that a full cache of string keys and int values takes for
// each entry, keys not included, at capacities among which none is favourable to all.
func BenchmarkMemory(b *testing.B) { memory(b, concurrent) }

func memory(b *testing.B, impls []impl) {
	sizes := []int{700_000, 1_000_000, 1_100_000, 1_500_000}
	if testing.Short() {
		sizes = []int{7_000}
	}
	for _, n := range sizes {
		keys := keysOf(n + n/10)
		for _, in := range impls {
			b.Run(fmt.Sprintf("capacity=%d/impl=%s", n, in.name), func(b *testing.B) {
				for b.Loop() {
					before := heap()
					c := in.make(b, n)
					filled(set, keys)(c)
					b.ReportMetric(float64(heap()-before)/float64(c.Len()), "B/entry")
					runtime.KeepAlive(c)
				}
			})
		}
	}
}

// heap returns the bytes that are live on the heap.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkGCScan measures a garbage collection while a cache holds 1,000,000 entries.
func BenchmarkGCScan(b *testing.B) {
	n := 1_000_000
	if testing.Short() {
		n = 10_000
	}
	keys := keysOf(n)
	for r := range *rounds {
		for i := range concurrent {
			in := concurrent[(i+r)%len(concurrent)]
			b.Run(fmt.Sprintf("capacity=%d/impl=%s/round=%d", n, in.name, r+1), func(b *testing.B) {
				c := in.make(b, n)
				filled(set, keys)(c)
				runtime.GC()
				for b.Loop() {
					runtime.GC()
				}
				runtime.KeepAlive(c)
			})
		}
	}
	runtime.KeepAlive(keys)
}
