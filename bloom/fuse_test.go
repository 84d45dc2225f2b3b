package bloom

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fuseFilter is what Fuse8 and Fuse16 have in common.
type fuseFilter[K any] interface {
	Tester[K]
	ContainsHash(h uint64) bool
	Len() uint64
	Bits() uint64
	EstimatedFPR() float64
	WriteTo(w io.Writer) (int64, error)
	ReadFrom(r io.Reader) (int64, error)
	MarshalBinary() ([]byte, error)
	UnmarshalBinary(data []byte) error
}

// A fuseKind is one of the two.
type fuseKind[K any] struct {
	name  string
	kind  filterKind
	bytes uint64 // of a fingerprint
	build func(Config[K], iter.Seq[K]) (fuseFilter[K], error)
	zero  func() fuseFilter[K]
}

// rate returns the false-positive rate of the kind.
func (k fuseKind[K]) rate() float64 { return math.Exp2(-8 * float64(k.bytes)) }

func fuseKinds[K any]() []fuseKind[K] {
	return []fuseKind[K]{
		{"Fuse8", kindFuse8, 1, func(c Config[K], keys iter.Seq[K]) (fuseFilter[K], error) { return BuildFuse8(c, keys) },
			func() fuseFilter[K] { return new(Fuse8[K]) }},
		{"Fuse16", kindFuse16, 2, func(c Config[K], keys iter.Seq[K]) (fuseFilter[K], error) { return BuildFuse16(c, keys) },
			func() fuseFilter[K] { return new(Fuse16[K]) }},
	}
}

// numbers yields n numbers.
func numbers(from, n uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for k := from; k-from < n && yield(k); k++ {
		}
	}
}

// marshalled returns what a filter is stored as.
func marshalled[K any](t *testing.T, f fuseFilter[K]) []byte {
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	return data
}

func TestFuseSizes(t *testing.T) {
	var sizes []uint64
	for n := range uint64(21) {
		sizes = append(sizes, n)
	}
	r := rand.New(rand.NewPCG(1, 1))
	step, largest := uint64(1), 1e6
	if brief() {
		step, largest = 16, 1e5
	}
	// With about 11,500 keys the segments that the formula gives are too long; see fuseShape.
	for n := uint64(11_400); n <= 11_560; n += step {
		sizes = append(sizes, n)
	}
	for range 30 {
		sizes = append(sizes, uint64(math.Pow(largest, r.Float64())))
	}
	sizes = append(sizes, uint64(largest))
	for _, n := range sizes {
		for _, kind := range fuseKinds[uint64]() {
			if kind.bytes == 2 && n > 11_400 && n%4 != 0 {
				continue // The shape and the places are those of Fuse8.
			}
			from := r.Uint64()
			f, err := kind.build(Config[uint64]{}, numbers(from, n))
			require.NoError(t, err, "%s, %d keys", kind.name, n)
			require.Equal(t, n, f.Len())
			for k := from; k-from < n; k++ {
				if !f.Contains(k) {
					require.Fail(t, "false negative", "%s, %d keys from %d: %d", kind.name, n, from, k)
				}
			}
			if n == 0 {
				require.Zero(t, f.Bits())
				require.False(t, f.Contains(1))
				continue
			}
			// One key takes 12 fingerprints, a few take up to 8 each, many 1.125 or a little more.
			require.Less(t, float64(f.Bits())/float64(kind.bytes)/8, 1.35*float64(n)+8*math.Sqrt(float64(n))+24, "%d keys", n)
		}
	}
}

// TestFuseFPR counts false positives. Of numbers so many are asked that 5 % is five standard
// deviations for Fuse8, and two for Fuse16, where more would take too long; of strings fewer, and
// the bound is five. The keys are always the same, so the results are too; with other keys one of
// 22 would fail.
func TestFuseFPR(t *testing.T) {
	const n = 10_000
	measure := func(f fuseFilter[uint64], g fuseFilter[string], rate float64, want uint64) {
		require.Equal(t, rate, f.EstimatedFPR())
		tolerance := 0.05 * float64(want)
		if briefRates() {
			want /= 10
			tolerance = 5 * math.Sqrt(float64(want))
		}
		found, tries := uint64(0), want*uint64(1/rate)
		for k := uint64(n); k < n+tries; k++ {
			if f.Contains(k) {
				found++
			}
		}
		t.Logf("%d false positives of numbers, %d expected", found, want)
		require.InDelta(t, want, found, tolerance)

		found, want, tries = 0, want/36, tries/36
		key := []byte("key ")
		for k := uint64(n); k < n+tries; k++ {
			key = strconv.AppendUint(key[:4], k, 10)
			if g.Contains(string(key)) {
				found++
			}
		}
		t.Logf("%d false positives of strings, %d expected", found, want)
		require.InDelta(t, want, found, 5*math.Sqrt(float64(want)))
	}
	words := func(yield func(string) bool) {
		for k := range n {
			if !yield("key " + strconv.Itoa(k)) {
				return
			}
		}
	}
	f8, err := BuildFuse8(Config[uint64]{}, numbers(0, n))
	require.NoError(t, err)
	g8, err := BuildFuse8(Config[string]{}, words)
	require.NoError(t, err)
	f16, err := BuildFuse16(Config[uint64]{}, numbers(0, n))
	require.NoError(t, err)
	g16, err := BuildFuse16(Config[string]{}, words)
	require.NoError(t, err)
	measure(f8, g8, 1.0/256, 10_000)
	measure(f16, g16, 1.0/65536, 1_600)
}

func TestFuseSameBytes(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		for _, n := range []int{1, 2, 3, 20, 500, 11_450, 50_000} {
			keys := slices.Collect(numbers(77, uint64(n)))
			want, err := kind.build(Config[uint64]{}, slices.Values(keys))
			require.NoError(t, err)
			require.EqualValues(t, n, want.Len())
			r := rand.New(rand.NewPCG(3, uint64(n)))
			for range 3 {
				// In another order, and some of them more than once.
				shuffled := append(slices.Clone(keys), keys[:r.IntN(n+1)]...)
				r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				input := slices.Clone(shuffled)
				f, err := kind.build(Config[uint64]{N: uint64(r.IntN(2 * n))}, slices.Values(shuffled))
				require.NoError(t, err)
				require.Equal(t, input, shuffled, "the input was changed")
				require.True(t, bytes.Equal(marshalled(t, want), marshalled(t, f)), "%d keys", n)
			}
		}
	}
}

func TestFuseSameHash(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		// Keys with the same hash are one.
		f, err := kind.build(Config[uint64]{Hash: Func(1, func(uint64) uint64 { return 3 })}, numbers(0, 1000))
		require.NoError(t, err)
		require.EqualValues(t, 1, f.Len())
		require.True(t, f.Contains(5))

		// A weak hash, which uses few bits, is made the best of.
		f, err = kind.build(Config[uint64]{Hash: Func(1, func(k uint64) uint64 { return k % 1000 << 40 })}, numbers(0, 5000))
		require.NoError(t, err)
		require.EqualValues(t, 1000, f.Len())
		for k := range uint64(5000) {
			require.True(t, f.Contains(k))
		}
	}
}

// TestFuseCannotFail builds filters of hashes that have the same first place, as if somebody had
// chosen them so that all attempts but the last resort fail.
func TestFuseCannotFail(t *testing.T) {
	for _, n := range []int{100, 3000} {
		for _, start := range []uint64{0, 1 << 63, math.MaxUint64 - uint64(n)} {
			var hashes []uint64
			for i := range n {
				hashes = append(hashes, start+uint64(i))
			}
			f, tooMuch := newFuse[uint8](hashes, 1<<30)
			require.Zero(t, tooMuch)
			if n == 3000 {
				require.Len(t, f.prints, 3*16384, "not the last resort")
			}
			for _, h := range hashes {
				require.True(t, f.has(h))
			}
			// With a limit, it is an error in the end.
			most := uint64(n)
			if n == 3000 {
				most *= 2
			}
			_, tooMuch = newFuse[uint8](hashes, most)
			require.Greater(t, tooMuch, most)
		}
	}
	for n := range uint64(100) {
		for try := range 80 {
			segments, length := fuseShape(1+n*n*n*5, try)
			require.True(t, segments >= 3 && length >= 1 && length <= fuseMaxLength && length&(length-1) == 0)
			if try%2 == 1 && try < 64 {
				s, l := fuseShape(1+n*n*n*5, try-1)
				require.LessOrEqual(t, segments*length, s*l)
			}
		}
	}
}

func TestFuseConfig(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		keys := numbers(0, 10)
		least := kind.rate()
		for _, c := range []struct {
			config Config[uint64]
			keys   iter.Seq[uint64]
			want   string
		}{
			{Config[uint64]{}, nil, "bloom: keys of a " + kind.name + " must not be nil"},
			{Config[uint64]{FPR: -1}, keys, "bloom: FPR must be more than 0 and less than 1, got -1"},
			{Config[uint64]{FPR: 1}, keys, "bloom: FPR must be more than 0 and less than 1, got 1"},
			{Config[uint64]{FPR: math.NaN()}, keys, "bloom: FPR must be more than 0 and less than 1, got NaN"},
			{Config[uint64]{FPR: 1e-5}, keys, fmt.Sprintf("bloom: FPR of a %s is %v, which is more than 1e-05", kind.name, least)},
			{Config[uint64]{SingleWinner: true}, keys, "bloom: SingleWinner is for a Concurrent or a Rotating, not for a " + kind.name},
		} {
			_, err := kind.build(c.config, c.keys)
			require.EqualError(t, err, c.want)
		}
		// N is a hint, and not trusted.
		for _, n := range []uint64{1, 1 << 60, math.MaxUint64} {
			f, err := kind.build(Config[uint64]{N: n, FPR: least}, keys)
			require.NoError(t, err)
			require.EqualValues(t, 10, f.Len())
		}
	}
	for _, kind := range fuseKinds[[2]int]() {
		_, err := kind.build(Config[[2]int]{}, func(func([2]int) bool) {})
		require.ErrorContains(t, err, "Hash is required")
		f, err := kind.build(Config[[2]int]{Hash: MapHash[[2]int]()}, slices.Values([][2]int{{1, 2}, {3, 4}}))
		require.NoError(t, err)
		require.True(t, f.Contains([2]int{3, 4}))
		_, err = f.MarshalBinary()
		require.ErrorIs(t, err, ErrNotStorable)
	}
}

func TestFuseMaxBytes(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		// 1200 fingerprints could be enough for so many keys, if they were of many more.
		_, err := kind.build(Config[uint64]{MaxBytes: 1200 * kind.bytes}, numbers(0, 1000))
		require.ErrorIs(t, err, ErrTooLarge)
		require.EqualError(t, err, fmt.Sprintf("bloom: a %s of 1000 keys takes %d bytes, the most is %d: over MaxBytes",
			kind.name, 1408*kind.bytes, 1200*kind.bytes))
		sizes := []uint64{1, 5, 100, 11_450, 20_000}
		if brief() {
			sizes = sizes[:4]
		}
		for _, n := range sizes {
			f, err := kind.build(Config[uint64]{}, numbers(0, n))
			require.NoError(t, err)
			// Exactly what it takes is enough, however often the keys come.
			size := f.Bits() / 8
			often := func(yield func(uint64) bool) {
				for range 20 {
					for k := range n {
						if !yield(k) {
							return
						}
					}
				}
			}
			g, err := kind.build(Config[uint64]{MaxBytes: size}, often)
			require.NoError(t, err)
			require.Equal(t, marshalled(t, f), marshalled(t, g))
			_, err = kind.build(Config[uint64]{MaxBytes: n * kind.bytes}, numbers(0, n))
			require.ErrorIs(t, err, ErrTooLarge)

			// Keys without end are not read to the end.
			read := 0
			_, err = kind.build(Config[uint64]{MaxBytes: size}, func(yield func(uint64) bool) {
				for k := uint64(0); yield(k); k++ {
					read++
				}
			})
			require.ErrorIs(t, err, ErrTooLarge)
			require.LessOrEqual(t, uint64(read), size/kind.bytes+1)

			var small fuseFilter[uint64]
			small, err = kind.build(Config[uint64]{MaxBytes: size - 1}, numbers(0, 0))
			require.NoError(t, err)
			require.ErrorIs(t, small.UnmarshalBinary(marshalled(t, f)), ErrTooLarge)
			require.Zero(t, small.Len())
		}
	}
}

func TestFuseStored(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		for _, n := range []uint64{0, 1, 2, 30, 1000, 100_000} {
			f, err := kind.build(Config[uint64]{Hash: XXH[uint64](9)}, numbers(5, n))
			require.NoError(t, err)
			data := marshalled(t, f)
			require.Len(t, data, headerBytes+int(f.Bits()/8)+4)
			g := kind.zero()
			r := bytes.NewReader(append(data, 1, 2, 3))
			read, err := g.ReadFrom(r)
			require.NoError(t, err)
			require.EqualValues(t, len(data), read)
			require.Equal(t, 3, r.Len())
			require.Equal(t, data, marshalled(t, g))
			require.Equal(t, f.Len(), g.Len())
			require.Equal(t, f.EstimatedFPR(), g.EstimatedFPR())
			hash := XXH[uint64](9)
			for k := range 2 * n {
				in := f.Contains(k)
				require.True(t, g.Contains(k) == in && g.ContainsHash(hash.Hash(k)) == in, "%d", k)
			}
			require.ErrorIs(t, g.UnmarshalBinary(append(data, 1)), ErrCorrupt)
		}
		zero := kind.zero()
		require.False(t, zero.Contains(1))
		require.False(t, zero.ContainsHash(1))
		require.Zero(t, zero.Len())
		require.Zero(t, zero.Bits())
		require.Zero(t, zero.EstimatedFPR())
		_, err := zero.MarshalBinary()
		require.Error(t, err)
	}
}

func TestFuseDamaged(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		for _, n := range []uint64{0, 40} {
			f, err := kind.build(Config[uint64]{}, numbers(0, n))
			require.NoError(t, err)
			data := marshalled(t, f)
			corruptions(data, func(damaged []byte) {
				require.Error(t, f.UnmarshalBinary(damaged))
			})
			require.Equal(t, data, marshalled(t, f))
		}
	}
}

// TestFuseHostile reads headers that lie, with right checksums. They are refused, or all hashes
// have places in the array.
func TestFuseHostile(t *testing.T) {
	for _, kind := range fuseKinds[uint64]() {
		good := header{
			kind: kind.kind, hash: hashXXHInteger, n: 8, rate: kind.rate(), units: 24,
			extra: [2]uint64{8, 5},
		}
		payload := make([]byte, 24*kind.bytes)
		f := kind.zero()
		require.NoError(t, f.UnmarshalBinary(forge(good, payload)))
		for name, lie := range map[string]func(h *header){
			"rate":              func(h *header) { h.rate /= 2 },
			"no keys":           func(h *header) { h.n = 0 },
			"more keys":         func(h *header) { h.n = 25 },
			"more":              func(h *header) { h.units += 8 },
			"enormous":          func(h *header) { h.units += 1 << 63 },
			"none":              func(h *header) { h.units = 0 },
			"no length":         func(h *header) { h.extra[0] = 0 },
			"length 3":          func(h *header) { h.extra[0] = 3 },
			"length 16":         func(h *header) { h.extra[0] = 16 },
			"too few segments":  func(h *header) { h.extra[0] = 24 },
			"length 1<<63":      func(h *header) { h.extra[0] = 1 << 63 },
			"length 1<<25":      func(h *header) { h.extra[0] = 1 << 25 },
			"length without n":  func(h *header) { h.n, h.units, h.extra = 0, 0, [2]uint64{8, 0} },
			"hash of strings":   func(h *header) { h.hash = hashXXHBytes },
			"the other kind":    func(h *header) { h.kind ^= kindFuse8 ^ kindFuse16 },
			"payload, no units": func(h *header) { h.n, h.units, h.extra = 0, 0, [2]uint64{} },
		} {
			h := good
			lie(&h)
			require.Error(t, f.UnmarshalBinary(forge(h, payload)), name)
		}
		require.ErrorIs(t, f.UnmarshalBinary(forge(good, payload[1:])), ErrCorrupt)
		require.ErrorIs(t, f.UnmarshalBinary(forge(good, nil)), ErrCorrupt)

		r := rand.New(rand.NewPCG(4, kind.bytes))
		accepted := 0
		for range 5000 {
			h := good
			h.units = r.Uint64N(100)
			h.n = r.Uint64N(h.units + 2)
			h.extra = [2]uint64{1 << r.Uint64N(6), r.Uint64()}
			if h.units == 0 || r.IntN(8) == 0 {
				h.extra[0] = r.Uint64N(200)
			}
			f := kind.zero()
			if f.UnmarshalBinary(forge(h, make([]byte, h.units*kind.bytes))) != nil {
				continue
			}
			accepted++
			for _, x := range []uint64{0, 1, 1 << 63, math.MaxUint64, r.Uint64(), r.Uint64(), ^h.extra[1], h.extra[1]} {
				f.ContainsHash(x)
			}
		}
		require.Greater(t, accepted, 500)
	}
}

func TestFuseAllocs(t *testing.T) {
	for _, kind := range fuseKinds[string]() {
		f, err := kind.build(Config[string]{}, slices.Values([]string{"a", "b", "c"}))
		require.NoError(t, err)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			f.Contains("a")
			f.Contains("some longer string")
			f.ContainsHash(12345)
		}))
	}
}
