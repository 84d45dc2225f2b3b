package trace

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// best tries everything that a cache can do at each request: keep the key or
// not, and evict any key or none. It returns the greatest number of hits.
func best(keys []uint64, size int) int {
	type state struct {
		at   int
		held string // sorted
	}
	known := map[state]int{}
	var from func(at int, held []byte) int
	from = func(at int, held []byte) int {
		if at == len(keys) {
			return 0
		}
		s := state{at, string(held)}
		if hits, ok := known[s]; ok {
			return hits
		}
		key := byte(keys[at])
		hits := 0
		if slices.Contains(held, key) {
			hits = 1 + from(at+1, held)
		} else {
			hits = from(at+1, held) // not kept
			with := append(slices.Clone(held), key)
			slices.Sort(with)
			if len(with) <= size {
				hits = max(hits, from(at+1, with))
			} else {
				for i := range with {
					hits = max(hits, from(at+1, slices.Delete(slices.Clone(with), i, i+1)))
				}
			}
		}
		known[s] = hits
		return hits
	}
	return from(0, nil)
}

func TestBeladyAgainstBruteForce(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		keys := make([]uint64, rng.IntN(16))
		universe := 1 + rng.Uint64N(6)
		for i := range keys {
			keys[i] = rng.Uint64N(universe)
		}
		size := rng.IntN(5)
		require.Equal(t, best(keys, size), Belady(keys, size), "seed %d: size %d, keys %v", seed, size, keys)
	}
}

func TestBelady(t *testing.T) {
	for _, tc := range []struct {
		name string
		keys []uint64
		size int
		want int
	}{
		{"nothing", nil, 1, 0},
		{"no size", []uint64{1, 1}, 0, 0},
		{"negative size", []uint64{1, 1}, -1, 0},
		{"one key", []uint64{9, 9, 9}, 1, 2},
		// 2 is better not admitted at all.
		{"bypass", []uint64{1, 2, 1, 2, 1}, 1, 2},
		// The example of Silberschatz, Galvin and Gagne, "Operating System
		// Concepts", section on page replacement: 9 faults in 20 references with
		// 3 frames, of which one is saved by not keeping 4.
		{"textbook", []uint64{7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1}, 3, 12},
		{"room for all", Loop(1000, 10), 10, 990},
		{"much larger than the trace", Loop(1000, 10), math.MaxInt, 990},
		// Of a loop, size keys stay and all others pass.
		{"loop", Loop(100_000, 1000), 999, 99 * 999},
		{"scan", Loop(100_000, 100_000), 1000, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.want, Belady(tc.keys, tc.size))
		})
	}
}

// A larger cache never hits less, and one with room for all misses each key
// once.
func TestBeladyGrows(t *testing.T) {
	keys := Synthetic(50_000, 3)
	last := 0
	for size := 1; size < 1<<16; size *= 2 {
		hits := Belady(keys, size)
		assert.GreaterOrEqual(t, hits, last)
		last = hits
	}
	assert.Equal(t, len(keys)-Unique(keys), last)
}

func TestTimes(t *testing.T) {
	for _, n := range []int{1, 63, 64, 65, 4095, 4096, 4097, 300_000} {
		s := newTimes(n)
		model := map[int]bool{}
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		for range 500 {
			i := rng.IntN(n)
			require.Equal(t, model[i], s.has(i))
			if model[i] {
				s.remove(i)
				delete(model, i)
			} else {
				s.add(i)
				model[i] = true
			}
			greatest := -1
			for k := range model {
				greatest = max(greatest, k)
			}
			if greatest >= 0 {
				require.Equal(t, greatest, s.max(), "n=%d", n)
			}
		}
	}
}
