package trace

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestZipfFrequencies compares the sampled frequencies with the exact ones by a
// chi-squared test. The bound is that of B. Laurent and P. Massart ("Adaptive
// Estimation of a Quadratic Functional by Model Selection", Annals of Statistics
// 28(5), 2000, lemma 1): chi-squared with f degrees of freedom exceeds
// f + 2√(fx) + 2x with a probability of at most e^-x. With x = 14, a correct
// sampler would fail one of the 28 cases for one seed in 40,000. The seed is
// fixed, and so is the outcome.
func TestZipfFrequencies(t *testing.T) {
	const n = 100_000
	for _, keys := range []uint64{1, 2, 100, 2000} {
		for _, s := range []float64{0.1, 0.8, 1 - 1e-9, 1, 1.01, 2, 6} {
			t.Run(fmt.Sprintf("keys=%d/s=%v", keys, s), func(t *testing.T) {
				count := map[uint64]float64{}
				for _, k := range Zipf(n, keys, s, 42) {
					count[k]++
				}
				total := 0.0
				for k := uint64(1); k <= keys; k++ {
					total += math.Pow(float64(k), -s)
				}
				chi2, classes := 0.0, 0.0
				var restWant, restGot float64
				for k := uint64(1); k <= keys; k++ {
					want := n * math.Pow(float64(k), -s) / total
					got := count[mix(k-1)]
					delete(count, mix(k-1))
					if want < 20 { // too rare to count alone
						restWant += want
						restGot += got
						continue
					}
					chi2 += (got - want) * (got - want) / want
					classes++
				}
				require.Empty(t, count, "keys that no rank maps to")
				if restWant >= 20 {
					chi2 += (restGot - restWant) * (restGot - restWant) / restWant
					classes++
				}
				freedom := max(classes-1, 0)
				const x = 14
				assert.LessOrEqual(t, chi2, freedom+2*math.Sqrt(freedom*x)+2*x)
			})
		}
	}
}

// With a range far too large for a table, ranks stay within it and the first
// one keeps its share: 1/ln(1e15) or so of all for s = 1, ± 5 standard
// deviations.
func TestZipfOfManyKeys(t *testing.T) {
	const n, keys = 100_000, 1_000_000_000_000_000
	first := 0
	for _, k := range Zipf(n, keys, 1, 7) {
		if k == mix(0) {
			first++
		}
	}
	p := 1 / (math.Log(keys) + 0.5772156649)
	assert.InDelta(t, n*p, first, 5*math.Sqrt(n*p*(1-p)))

	z, rng := newZipf(1<<53, 1e-9), newRand(1)
	for range 10_000 {
		require.Less(t, z.rank(rng), uint64(1<<53))
	}
	assert.Equal(t, 1, Unique(Zipf(1000, 1<<53, 1000, 1)), "all requests for the first key")
}

func TestZipfKeysAreNotNeighbours(t *testing.T) {
	keys := Zipf(10_000, 1000, 0.8, 1)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for i := 1; i < len(keys); i++ {
		assert.Greater(t, keys[i]-keys[i-1], uint64(1<<32))
	}
}

func TestGolden(t *testing.T) {
	assert.Equal(t, []uint64{0, 1, 2, 0, 1, 2, 0}, Loop(7, 3))
	assert.Equal(t, uint64(0xe220a8397b1dcdaf), mix(0), "first output of splitmix64 with seed 0")
	assert.Equal(t, []uint64{0x7b2502ec026da1a2, 0xcf64624732260342, 0x790e222a5252e7c6, 0xef96e022e649cec6}, Zipf(4, 1000, 0.8, 1))
	assert.Equal(t, []uint64{0xe220a8397b1dcdaf, 0x8705cd72fa976def, 0x481ec0a212a9f3db, 0xdc29f439bcbdda2a}, Synthetic(10_001, 1)[8_998:9_002])
	// Over everything, so that no part changes unnoticed.
	assert.Equal(t, []int{65317, 58783, 52428}, []int{
		Belady(Zipf(100_000, 10_000, 0.9, 1), 500),
		Belady(Scan(100_000, 10_000, 1), 500),
		Belady(Synthetic(100_000, 1), 500),
	})
}

func TestDeterminism(t *testing.T) {
	for name, f := range map[string]func(n int, seed uint64) []uint64{
		"zipf":      func(n int, seed uint64) []uint64 { return Zipf(n, 1000, 1.01, seed) },
		"scan":      func(n int, seed uint64) []uint64 { return Scan(n, 1000, seed) },
		"synthetic": Synthetic,
	} {
		t.Run(name, func(t *testing.T) {
			long := f(25_000, 5)
			assert.Equal(t, long, f(25_000, 5))
			assert.Equal(t, long[:12_345], f(12_345, 5), "a prefix")
			assert.NotEqual(t, long, f(25_000, 6))
			assert.Empty(t, f(0, 5))
		})
	}
}

func TestScan(t *testing.T) {
	keys := Scan(40_000, 1000, 1)
	seen := map[uint64]int{}
	for _, k := range keys {
		seen[k]++
	}
	for i, k := range keys {
		if i%10_000 >= 9_000 {
			require.Equal(t, 1, seen[k], "request %d is of a scan, but its key is not new", i)
		}
	}
	assert.LessOrEqual(t, len(seen), 1000+4*1_000)
}

// In Synthetic the key that is most popular in one turn has left the top in the
// next, and is rare.
func TestSyntheticShifts(t *testing.T) {
	keys := Synthetic(20_000, 1)
	top := mix(0)
	count := func(part []uint64) (n int) {
		for _, k := range part {
			if k == top {
				n++
			}
		}
		return n
	}
	assert.Greater(t, count(keys[:9_000]), 300)
	assert.Less(t, count(keys[10_000:19_000]), 10)
}

// Shifts wrap around: they bring no key that was not there, and after shifts by
// as many ranks as there are keys all is as before.
func TestShiftsWrapAround(t *testing.T) {
	still, shifted := turns(60_000, 250, 0, 1), turns(60_000, 250, 100, 1)
	assert.Equal(t, 250+6*1_000, Unique(shifted))
	assert.NotEqual(t, still[10_000:19_000], shifted[10_000:19_000])
	assert.Equal(t, still[50_000:], shifted[50_000:]) // 500 ranks later
}

func TestMisuse(t *testing.T) {
	for want, f := range map[string]func(){
		"trace: the number of requests must not be negative, got -1":              func() { Zipf(-1, 1, 1, 0) },
		"trace: the number of keys must be from 1 to 2^53, got 0":                 func() { Zipf(1, 0, 1, 0) },
		"trace: the number of keys must be from 1 to 2^53, got 9007199254740993":  func() { Zipf(1, 1<<53+1, 1, 0) },
		"trace: the exponent of Zipf must be positive and finite, got 0":          func() { Zipf(1, 1, 0, 0) },
		"trace: the exponent of Zipf must be positive and finite, got NaN":        func() { Zipf(1, 1, math.NaN(), 0) },
		"trace: the exponent of Zipf must be positive and finite, got +Inf":       func() { Zipf(1, 1, math.Inf(1), 0) },
		"trace: the number of keys must be from 1 to 2^53, got 18446744073709551": func() { Loop(1, 18446744073709551) },
		"trace: the number of requests must not be negative, got -2":              func() { Loop(-2, 1) },
		"trace: the number of requests must not be negative, got -3":              func() { Scan(-3, 1, 0) },
		"trace: the number of requests must not be negative, got -4":              func() { Synthetic(-4, 0) },
	} {
		assert.PanicsWithValue(t, want, f)
	}
}
