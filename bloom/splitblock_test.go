package bloom

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// naiveSplit is a straight transcription of the specification's pseudo-code.
type naiveSplit [][8]uint32

func (f naiveSplit) mask(x uint32) (m [8]uint32) {
	salt := [8]uint32{0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31}
	for i := range m {
		y := x * salt[i]
		m[i] |= 1 << (y >> 27)
	}
	return m
}

func (f naiveSplit) insert(h uint64) {
	b := &f[((h>>32)*uint64(len(f)))>>32]
	for i, m := range f.mask(uint32(h)) {
		b[i] |= m
	}
}

func (f naiveSplit) check(h uint64) bool {
	b := &f[((h>>32)*uint64(len(f)))>>32]
	for i, m := range f.mask(uint32(h)) {
		if b[i]&m == 0 {
			return false
		}
	}
	return true
}

// splitOf returns an empty filter with so many blocks.
func splitOf[K any](t *testing.T, blocks int) *SplitBlock[K] {
	t.Helper()
	var f SplitBlock[K]
	require.NoError(t, f.ImportBitset(make([]byte, 32*blocks)))
	require.Equal(t, blocks, f.Blocks())
	return &f
}

// sameSplit checks that f has the blocks of n.
func sameSplit[K any](t *testing.T, n naiveSplit, f *SplitBlock[K]) {
	t.Helper()
	require.Len(t, f.blocks, len(n))
	for i := range n {
		require.Equal(t, n[i], [8]uint32(f.blocks[i]), "block %d", i)
	}
}

func TestSplitBlockNaive(t *testing.T) {
	for _, blocks := range []int{1, 2, 3, 1000} {
		f, n := splitOf[uint64](t, blocks), make(naiveSplit, blocks)
		r := rand.New(rand.NewPCG(2, uint64(blocks)))
		for i := range 8 * blocks {
			h := r.Uint64()
			switch i {
			case 0:
				h = 0
			case 1:
				h = math.MaxUint64
			case 2:
				h = math.MaxUint32
			case 3:
				h = math.MaxUint32 << 32
			}
			had := n.check(h)
			n.insert(h)
			require.Equal(t, had, f.ContainsHash(h))
			require.Equal(t, !had, f.AddHash(h))
			require.True(t, f.ContainsHash(h))
			require.False(t, f.AddHash(h))
		}
		sameSplit(t, n, f)
		for range 10_000 {
			h := r.Uint64()
			require.Equal(t, n.check(h), f.ContainsHash(h))
			k := r.Uint64()
			require.Equal(t, n.check(f.Hash(k)), f.Contains(k))
		}
	}
}

// The specification says what these filters of 1024 blocks should do.
func TestSplitBlockSpecification(t *testing.T) {
	for _, c := range []struct {
		keys    int
		rate, ε float64
	}{{13_107, 0.0004, 0.1}, {26_214, 0.0126, 0.01}, {52_428, 0.18, 0.02}} {
		require.InEpsilon(t, c.rate, lanesFPR(float64(c.keys), 1024, splitLanes, splitWidth), c.ε)
		f := splitOf[uint64](t, 1024)
		r := rand.New(rand.NewPCG(3, uint64(c.keys)))
		for range c.keys {
			f.AddHash(r.Uint64())
		}
		// The 1024 blocks differ, and the rate of one filter from the mean.
		require.InEpsilon(t, c.rate, f.EstimatedFPR(), c.ε+0.05)
	}
	for _, c := range []struct{ bitsPerKey, rate float64 }{{6, 0.1}, {10.5, 0.01}, {16.9, 0.001}, {26.4, 0.0001}, {41, 0.00001}} {
		f, err := NewSplitBlock[uint64](Config[uint64]{N: 100_000, FPR: c.rate})
		require.NoError(t, err)
		require.InEpsilon(t, c.bitsPerKey, float64(f.Bits())/100_000, 0.01, "FPR = %v", c.rate)
	}
}

// The bounds are those of TestClassicFPR.
func TestSplitBlockFPR(t *testing.T) {
	const n = 30_000
	for _, p := range []float64{0.1, 0.01, 0.001, 0.0001} {
		tests := max(1_000_000, 1000/p)
		if briefRates() {
			tests /= 10
		}
		f, err := NewSplitBlock[uint64](Config[uint64]{N: n, FPR: p})
		require.NoError(t, err)
		r := rand.New(rand.NewPCG(4, math.Float64bits(p)))
		for range n {
			f.Add(r.Uint64())
		}
		wrong := 0
		for range int(tests) {
			if f.Contains(r.Uint64()) {
				wrong++
			}
		}
		got := float64(wrong) / tests
		t.Logf("FPR = %v: measured %.6f, estimated %.6f, %.2f bits a key", p, got, f.EstimatedFPR(), float64(f.Bits())/n)
		require.Less(t, got, 1.05*p+4*math.Sqrt(p/tests), "FPR = %v", p)
		require.Greater(t, got, 0.95*p-4*math.Sqrt(p/tests), "FPR = %v", p)
	}
}

func TestSplitBlockRefused(t *testing.T) {
	refused := func(c Config[string]) error {
		f, err := NewSplitBlock[string](c)
		require.Nil(t, f)
		require.Error(t, err)
		return err
	}
	refused(Config[string]{FPR: 0.01})
	for _, p := range []float64{0, 1, -1, math.NaN(), math.Inf(1), 0.9e-7} {
		refused(Config[string]{N: 1, FPR: p})
	}
	refused(Config[string]{N: 1, FPR: 0.01, SingleWinner: true})
	require.ErrorContains(t, refused(Config[string]{N: 1, FPR: 0.01, Hash: XXH[string](0)}), "XXH64")
	require.ErrorContains(t, refused(Config[string]{N: 1, FPR: 0.01, Hash: MapHash[string]()}), "XXH64")
	for _, c := range []Config[string]{
		{N: 1000, FPR: 0.01, MaxBytes: 1000},
		{N: 1 << 33, FPR: 0.01},
		{N: 1 << 40, FPR: 0.01, MaxBytes: math.MaxUint64},
		{N: math.MaxUint64, FPR: 1e-7, MaxBytes: math.MaxUint64},
	} {
		require.Less(t, allocated(func() { require.ErrorIs(t, refused(c), ErrTooLarge) }), uint64(1<<20))
	}
	_, err := NewSplitBlock[string](Config[string]{N: 1, FPR: 1e-7})
	require.NoError(t, err)

	_, err = NewSplitBlock[complex128](Config[complex128]{N: 1, FPR: 0.01})
	require.ErrorContains(t, err, "complex128")
	_, err = NewSplitBlock[struct{ a, b int }](Config[struct{ a, b int }]{N: 1, FPR: 0.01})
	require.Error(t, err)
	_, err = NewSplitBlock[[]string](Config[[]string]{N: 1, FPR: 0.01})
	require.Error(t, err)
	_, err = NewSplitBlock[*int](Config[*int]{N: 1, FPR: 0.01})
	require.Error(t, err)
	var none SplitBlock[*int]
	require.ErrorContains(t, none.ImportBitset(make([]byte, 32)), "*int")
	_, err = none.Import(bytes.NewReader(nil))
	require.ErrorContains(t, err, "*int")
	_, err = none.ReadFrom(bytes.NewReader(nil))
	require.ErrorContains(t, err, "*int")
}

func TestSplitBlockZeroValue(t *testing.T) {
	var f, g SplitBlock[string]
	require.Panics(t, func() { f.Contains("") })
	require.Panics(t, func() { f.Add("") })
	require.Panics(t, func() { f.ContainsHash(0) })
	require.Panics(t, func() { f.AddHash(0) })
	require.Zero(t, f.EstimatedCount())
	require.Zero(t, f.EstimatedFPR())
	require.Zero(t, f.FillRatio())
	require.Zero(t, f.Bits())
	require.Zero(t, f.Blocks())
	require.Empty(t, f.Bitset())
	f.Reset()
	require.Equal(t, &f, f.Clone())
	require.NoError(t, f.Union(&g))
	_, err := f.WriteTo(io.Discard)
	require.Error(t, err)
	_, err = f.Export(io.Discard)
	require.Error(t, err)
	require.ErrorIs(t, f.Union(splitOf[string](t, 1)), ErrMismatch)
	require.ErrorIs(t, splitOf[string](t, 1).Intersect(&f), ErrMismatch)
}

func TestSplitBlockSets(t *testing.T) {
	made := func(from, to uint64) *SplitBlock[uint64] {
		f, err := NewSplitBlock[uint64](Config[uint64]{N: 1000, FPR: 0.01})
		require.NoError(t, err)
		for i := from; i < to; i++ {
			f.Add(i)
		}
		return f
	}
	a, b := made(0, 600), made(400, 1000)
	u := a.Clone()
	require.NoError(t, u.Union(b))
	require.Equal(t, made(0, 1000), u)
	require.Equal(t, made(0, 600), a, "a copy was made")

	i := a.Clone()
	require.NoError(t, i.Intersect(b))
	for k := range uint64(2000) {
		if k >= 400 && k < 600 {
			require.True(t, i.Contains(k))
		} else if i.Contains(k) {
			require.True(t, a.Contains(k) && b.Contains(k))
		}
	}
	require.Less(t, i.FillRatio(), a.FillRatio())
	u.Reset()
	require.Equal(t, made(0, 0), u)

	other := splitOf[uint64](t, a.Blocks()+1)
	require.ErrorIs(t, a.Union(other), ErrMismatch)
	require.ErrorIs(t, a.Intersect(other), ErrMismatch)
	require.Equal(t, made(0, 600), a)
	require.NoError(t, splitOf[uint64](t, a.Blocks()).Union(a))
}

// The bound on the estimate is that of its comment, and is more than six standard deviations.
func TestSplitBlockEstimates(t *testing.T) {
	f, err := NewSplitBlock[uint64](Config[uint64]{N: 50_000, FPR: 0.01})
	require.NoError(t, err)
	for n := uint64(1); n <= 100_000; n++ {
		f.Add(n)
		if n == 1 || n == 10_000 || n == 50_000 || n == 100_000 {
			require.InEpsilon(t, n, f.EstimatedCount(), 0.02)
		}
		if n == 50_000 {
			require.InEpsilon(t, 0.01, f.EstimatedFPR(), 0.05)
			set := 0
			for _, b := range f.Bitset() {
				set += bits.OnesCount8(b)
			}
			require.Equal(t, float64(set)/float64(f.Bits()), f.FillRatio())
		}
	}
	require.NoError(t, f.ImportBitset(bytes.Repeat([]byte{255}, 320)))
	require.EqualValues(t, 1, f.FillRatio())
	require.EqualValues(t, 1, f.EstimatedFPR())
	require.Greater(t, f.EstimatedCount(), uint64(1000))
}

func TestSplitBlockStored(t *testing.T) {
	for _, n := range []uint64{1, 20, 100_000} {
		f, err := NewSplitBlock[string](Config[string]{N: n, FPR: 0.02})
		require.NoError(t, err)
		for i := range n {
			f.Add(fmt.Sprint(i))
		}
		b, err := f.MarshalBinary()
		require.NoError(t, err)
		var g SplitBlock[string]
		read, err := g.ReadFrom(iotest.HalfReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("more"))))
		require.NoError(t, err)
		require.EqualValues(t, len(b), read)
		require.Equal(t, f.blocks, g.blocks)
		require.Equal(t, len(g.blocks), cap(g.blocks), "no more memory than is needed")
		again, err := g.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, b, again)
		require.NoError(t, g.UnmarshalBinary(b))
		require.ErrorIs(t, g.UnmarshalBinary(append(b[:len(b):len(b)], 0)), ErrCorrupt)

		for _, w := range []io.ReaderFrom{new(SplitBlock[int]), new(SplitBlock[int32]), new(SplitBlock[bool]), new(Blocked[string]), new(Classic[string])} {
			_, err := w.ReadFrom(bytes.NewReader(b))
			require.ErrorIs(t, err, ErrMismatch, "%T", w)
		}
	}
}

func TestSplitBlockDamaged(t *testing.T) {
	f, err := NewSplitBlock[string](Config[string]{N: 20, FPR: 0.02})
	require.NoError(t, err)
	f.Add("a")
	b, err := f.MarshalBinary()
	require.NoError(t, err)
	g := f.Clone()
	damaged(t, b, g.ReadFrom, func() bool { return bytes.Equal(f.Bitset(), g.Bitset()) })

	// These have the right checksums.
	for what, h := range map[string]header{
		"a seed":        {units: 1, payload: 32, seed: 1},
		"no blocks":     {},
		"too much":      {units: 1, payload: 64},
		"too little":    {units: 2, payload: 32},
		"an odd size":   {units: 1, payload: 40},
		"2^31 blocks":   {units: 1 << 31, payload: 1 << 36},
		"over MaxBytes": {units: 1 << 26, payload: 1 << 31},
	} {
		var w bytes.Buffer
		h.kind, h.rate = kindSplitBlock, 0.01
		e := newEncoder(&w, &Hasher[string]{id: hashParquetVar, seed: h.seed, form: formString}, h)
		for range 4 * min(h.units, 2) {
			e.uint64(1)
		}
		_, err := e.finish()
		require.NoError(t, err)
		_, err = g.ReadFrom(&w)
		require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrMismatch), "%s: %v", what, err)
		require.Equal(t, f, g, what)
	}
}

func TestSplitBlockAllocs(t *testing.T) {
	s, b, a := splitOf[string](t, 100), splitOf[[]byte](t, 100), splitOf[[32]byte](t, 100)
	i, f, o := splitOf[int](t, 100), splitOf[float32](t, 100), splitOf[bool](t, 100)
	key, raw, n := strings.Repeat("key", 30), bytes.Repeat([]byte("key"), 30), 0
	require.Zero(t, testing.AllocsPerRun(100, func() {
		n++
		s.Add(key[:n%90])
		s.Contains(key)
		b.Add(raw[:n%90])
		b.Contains(raw)
		a.Add([32]byte{byte(n)})
		a.Contains([32]byte{1})
		i.Add(n)
		i.Contains(5)
		f.Add(float32(n))
		f.Contains(5)
		o.Add(true)
		o.Contains(false)
		o.AddHash(s.Hash(key))
		o.ContainsHash(1)
	}))
}
