package bloom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	bnb "github.com/bits-and-blooms/bloom/v3"
	"github.com/stretchr/testify/require"
)

var (
	_ Filter[string] = (*Classic[string])(nil)
	_ Filter[string] = (*SplitBlock[string])(nil)
)

// Types of keys made of those that Classic and SplitBlock take.
type (
	classicName  string
	classicBytes []byte
	classicID    [16]byte
	classicPort  uint16
)

// exported returns what Export writes.
func exported(t *testing.T, f interface {
	Export(io.Writer) (int64, error)
}) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := f.Export(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.Bytes()
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// sameAsTheirs adds keys to a Classic and to a filter of bits-and-blooms, to which each key is what
// encode makes of it, and compares the two.
func sameAsTheirs[K any](t *testing.T, n uint64, p float64, key func(i uint64) K, encode func(K) []byte) {
	t.Helper()
	what := fmt.Sprintf("%T with N = %d, FPR = %v", key(0), n, p)
	f, err := NewClassic[K](Config[K]{N: n, FPR: p})
	require.NoError(t, err, what)
	theirs := bnb.NewWithEstimates(uint(n), p)
	require.True(t, theirs.Equal(f.Unwrap()), what)
	for i := range n + n/2 {
		k := key(i)
		had := theirs.TestAndAdd(encode(k))
		require.Equal(t, had, f.Contains(k), "%s: key %d", what, i)
		require.Equal(t, !had, f.Add(k), "%s: key %d", what, i)
		require.True(t, f.Contains(k), "%s: key %d", what, i)
	}
	for i := range n {
		k := key(1e6 + i)
		require.Equal(t, theirs.Test(encode(k)), f.Contains(k), "%s: key %d", what, i)
	}
	require.True(t, theirs.Equal(f.Unwrap()), what)
	require.EqualValues(t, theirs.Cap(), f.Bits(), what)

	want, err := theirs.MarshalBinary()
	require.NoError(t, err, what)
	got := exported(t, f)
	require.Equal(t, want, got, what)

	var back bnb.BloomFilter
	require.NoError(t, back.UnmarshalBinary(got), what)
	require.True(t, theirs.Equal(&back), what)
	var g Classic[K]
	read, err := g.Import(io.MultiReader(bytes.NewReader(want), strings.NewReader("more")))
	require.NoError(t, err, what)
	require.EqualValues(t, len(want), read, what)
	require.True(t, theirs.Equal(g.Unwrap()), what)
	require.Equal(t, want, exported(t, &g), what)
}

func TestClassicSameAsBitsAndBlooms(t *testing.T) {
	integer := func(v int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(v)) }
	for _, n := range []uint64{1, 2, 13, 1000} {
		for _, p := range []float64{0.9, 0.5, 0.1, 0.01, 1e-4, 1e-9} {
			sameAsTheirs(t, n, p, func(i uint64) string { return strings.Repeat("k", int(i%37)) + fmt.Sprint(i) }, func(k string) []byte { return []byte(k) })
			sameAsTheirs(t, n, p, func(i uint64) classicName { return classicName(fmt.Sprint(i)) }, func(k classicName) []byte { return []byte(k) })
			sameAsTheirs(t, n, p, func(i uint64) []byte { return fmt.Append(nil, "k", i) }, func(k []byte) []byte { return k })
			sameAsTheirs(t, n, p, func(i uint64) classicBytes { return fmt.Append(nil, "k", i) }, func(k classicBytes) []byte { return k })
			sameAsTheirs(t, n, p, func(i uint64) (k classicID) { binary.BigEndian.PutUint64(k[3:], i); return k }, func(k classicID) []byte { return k[:] })
			sameAsTheirs(t, n, p, func(i uint64) [3]byte { return [3]byte{byte(i), byte(i >> 8), 7} }, func(k [3]byte) []byte { return k[:] })
			sameAsTheirs(t, n, p, func(i uint64) int { return int(-i) }, func(k int) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) int8 { return int8(i) }, func(k int8) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) int16 { return int16(-i) }, func(k int16) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) int32 { return int32(-i) }, func(k int32) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) int64 { return int64(i) << 40 }, integer)
			sameAsTheirs(t, n, p, func(i uint64) uint8 { return uint8(i) }, func(k uint8) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) classicPort { return classicPort(-i) }, func(k classicPort) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) uint32 { return uint32(-i) }, func(k uint32) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) uint64 { return -i }, func(k uint64) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) uint { return uint(i) }, func(k uint) []byte { return integer(int64(k)) })
			sameAsTheirs(t, n, p, func(i uint64) uintptr { return uintptr(i) }, func(k uintptr) []byte { return integer(int64(k)) })
		}
	}
}

// The empty string has no data to point to.
func TestClassicEmptyKey(t *testing.T) {
	f, err := NewClassic[string](Config[string]{N: 10, FPR: 0.01})
	require.NoError(t, err)
	require.False(t, f.Contains(""))
	require.True(t, f.Add(""))
	require.True(t, f.Contains(""))
	require.True(t, f.Unwrap().Test(nil))

	g, err := NewClassic[[]byte](Config[[]byte]{N: 10, FPR: 0.01})
	require.NoError(t, err)
	require.True(t, g.Add(nil))
	require.False(t, g.Add([]byte{}))
	require.True(t, f.Unwrap().Equal(g.Unwrap()))
}

func TestClassicRefused(t *testing.T) {
	refused := func(c Config[string]) error {
		f, err := NewClassic[string](c)
		require.Nil(t, f)
		require.Error(t, err)
		return err
	}
	refused(Config[string]{FPR: 0.01})
	for _, p := range []float64{0, 1, -1, math.NaN(), math.Inf(1)} {
		refused(Config[string]{N: 1, FPR: p})
	}
	refused(Config[string]{N: 1, FPR: 0.01, SingleWinner: true})
	require.ErrorContains(t, refused(Config[string]{N: 1, FPR: 0.01, Hash: XXH[string](0)}), "Murmur3")
	require.ErrorContains(t, refused(Config[string]{N: 1, FPR: 0.01, Hash: MapHash[string]()}), "Murmur3")

	for _, c := range []Config[string]{
		{N: 1000, FPR: 0.01, MaxBytes: 1199}, // 9586 bits are 150 words
		{N: 1 << 40, FPR: 0.01},
		{N: math.MaxUint64, FPR: math.SmallestNonzeroFloat64},
		{N: math.MaxUint64, FPR: 1e-300, MaxBytes: math.MaxUint64},
		{N: 1 << 62, FPR: 0.3, MaxBytes: math.MaxUint64},
	} {
		require.Less(t, allocated(func() { require.ErrorIs(t, refused(c), ErrTooLarge) }), uint64(1<<20))
	}
	_, err := NewClassic[string](Config[string]{N: 1000, FPR: 0.01, MaxBytes: 1200})
	require.NoError(t, err)
	f, err := NewClassic[string](Config[string]{N: 3, FPR: math.SmallestNonzeroFloat64})
	require.NoError(t, err)
	require.LessOrEqual(t, f.Unwrap().K(), uint(classicMaxK))

	_, err = NewClassic[float64](Config[float64]{N: 1, FPR: 0.01})
	require.ErrorContains(t, err, "float64")
	_, err = NewClassic[bool](Config[bool]{N: 1, FPR: 0.01})
	require.ErrorContains(t, err, "bool")
	_, err = NewClassic[struct{ a, b int }](Config[struct{ a, b int }]{N: 1, FPR: 0.01})
	require.Error(t, err)
	_, err = NewClassic[[]string](Config[[]string]{N: 1, FPR: 0.01})
	require.Error(t, err)
	_, err = NewClassic[*int](Config[*int]{N: 1, FPR: 0.01})
	require.Error(t, err)
	var none Classic[float64]
	_, err = none.Import(bytes.NewReader(nil))
	require.ErrorContains(t, err, "float64")
	_, err = none.ReadFrom(bytes.NewReader(nil))
	require.ErrorContains(t, err, "float64")
}

func TestClassicZeroValue(t *testing.T) {
	var f, g Classic[string]
	require.Panics(t, func() { f.Contains("") })
	require.Panics(t, func() { f.Add("") })
	require.Nil(t, f.Unwrap())
	require.Zero(t, f.EstimatedCount())
	require.Zero(t, f.EstimatedFPR())
	require.Zero(t, f.FillRatio())
	require.Zero(t, f.Bits())
	f.Reset()
	require.Equal(t, &f, f.Clone())
	require.NoError(t, f.Union(&g))
	require.NoError(t, f.Intersect(&g))
	_, err := f.WriteTo(io.Discard)
	require.Error(t, err)
	_, err = f.Export(io.Discard)
	require.Error(t, err)
	full, err := NewClassic[string](Config[string]{N: 10, FPR: 0.01})
	require.NoError(t, err)
	require.ErrorIs(t, f.Union(full), ErrMismatch)
	require.ErrorIs(t, full.Intersect(&f), ErrMismatch)
}

func TestClassicSets(t *testing.T) {
	c := Config[uint64]{N: 1000, FPR: 0.01}
	made := func(from, to uint64) *Classic[uint64] {
		f, err := NewClassic[uint64](c)
		require.NoError(t, err)
		for i := from; i < to; i++ {
			f.Add(i)
		}
		return f
	}
	a, b := made(0, 600), made(400, 1000)
	u := a.Clone()
	require.NoError(t, u.Union(b))
	require.True(t, made(0, 1000).Unwrap().Equal(u.Unwrap()))
	require.True(t, made(0, 600).Unwrap().Equal(a.Unwrap()), "a copy was made")

	i := a.Clone()
	require.NoError(t, i.Intersect(b))
	for k := range uint64(1000) {
		if k >= 400 && k < 600 {
			require.True(t, i.Contains(k))
		} else {
			require.Equal(t, i.Contains(k), a.Contains(k) && b.Contains(k) && i.Contains(k))
		}
	}
	require.Less(t, i.FillRatio(), a.FillRatio())
	u.Reset()
	require.True(t, made(0, 0).Unwrap().Equal(u.Unwrap()))
	require.Zero(t, u.EstimatedCount())

	other, err := NewClassic[uint64](Config[uint64]{N: 1001, FPR: 0.01})
	require.NoError(t, err)
	require.ErrorIs(t, a.Union(other), ErrMismatch)
	require.ErrorIs(t, a.Intersect(other), ErrMismatch)
	theirs, err := bnb.New(uint(a.Bits()), 3).MarshalBinary()
	require.NoError(t, err)
	_, err = other.Import(bytes.NewReader(theirs))
	require.NoError(t, err)
	require.ErrorIs(t, a.Union(other), ErrMismatch, "the same m, another k")
	require.True(t, made(0, 600).Unwrap().Equal(a.Unwrap()))
}

// The bound on the estimate is that of its comment, and is more than six standard deviations.
func TestClassicEstimates(t *testing.T) {
	f, err := NewClassic[uint64](Config[uint64]{N: 50_000, FPR: 0.01})
	require.NoError(t, err)
	for n := uint64(1); n <= 100_000; n++ {
		f.Add(n * 0x9e3779b97f4a7c15)
		if n == 1 {
			require.EqualValues(t, 1, f.EstimatedCount())
		}
		if n == 10_000 || n == 50_000 || n == 100_000 {
			require.InEpsilon(t, n, f.EstimatedCount(), 0.02)
		}
		if n == 50_000 {
			require.InEpsilon(t, 0.01, f.EstimatedFPR(), 0.05)
			require.InDelta(t, 0.5, f.FillRatio(), 0.03)
		}
	}
	f.Unwrap().BitSet().SetAll()
	require.EqualValues(t, 1, f.FillRatio())
	require.EqualValues(t, 1, f.EstimatedFPR())
	require.Greater(t, f.EstimatedCount(), uint64(100_000))
	require.True(t, f.Contains(0))

	one, err := NewClassic[uint64](Config[uint64]{N: 1, FPR: 0.9})
	require.NoError(t, err)
	require.EqualValues(t, 1, one.Bits())
	one.Add(1)
	require.EqualValues(t, 1, one.EstimatedCount())
}

// The measured rate may be 5 % above the one asked for, and four standard deviations of the number
// of false positives more, so that it fails by chance, if the seed is changed, once in 30,000
// times for each rate.
func TestClassicFPR(t *testing.T) {
	const n = 30_000
	for _, p := range []float64{0.1, 0.01, 0.001, 0.0001} {
		tests := max(1_000_000, 1000/p)
		if briefRates() {
			tests /= 10
		}
		f, err := NewClassic[uint64](Config[uint64]{N: n, FPR: p})
		require.NoError(t, err)
		r := rand.New(rand.NewPCG(1, math.Float64bits(p)))
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

func TestClassicStored(t *testing.T) {
	for _, n := range []uint64{1, 20, 30_000} {
		f, err := NewClassic[string](Config[string]{N: n, FPR: 0.02})
		require.NoError(t, err)
		for i := range n {
			f.Add(fmt.Sprint(i))
		}
		b, err := f.MarshalBinary()
		require.NoError(t, err)
		var g Classic[classicName]
		read, err := g.ReadFrom(iotest.HalfReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("more"))))
		require.NoError(t, err)
		require.EqualValues(t, len(b), read)
		require.True(t, f.Unwrap().Equal(g.Unwrap()))
		again, err := g.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, b, again)
		require.NoError(t, g.UnmarshalBinary(b))
		require.ErrorIs(t, g.UnmarshalBinary(append(b[:len(b):len(b)], 0)), ErrCorrupt)

		var ints Classic[int]
		require.ErrorIs(t, ints.UnmarshalBinary(b), ErrMismatch)
		var blocked Blocked[string]
		require.ErrorIs(t, blocked.UnmarshalBinary(b), ErrMismatch)
		require.Equal(t, Classic[int]{}, ints)
	}
}

// WriteTo stores the m bits, whatever the bit set has been made of meanwhile.
func TestClassicStoredUnwrapped(t *testing.T) {
	f, err := NewClassic[int](Config[int]{N: 10, FPR: 0.02})
	require.NoError(t, err)
	f.Add(1)
	g := f.Clone()
	g.Unwrap().BitSet().Set(uint(g.Bits()) + 3)
	require.Equal(t, f.FillRatio(), g.FillRatio())
	want, err := f.MarshalBinary()
	require.NoError(t, err)
	got, err := g.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, want, got)

	g = f.Clone()
	g.Unwrap().BitSet().ClearAll().Compact()
	f.Reset()
	want, err = f.MarshalBinary()
	require.NoError(t, err)
	got, err = g.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Zero(t, g.FillRatio())
}

// damaged checks that of the bytes of a stored filter none can be changed or missing. read reads
// into a filter, and unchanged reports whether that is as it was.
func damaged(t *testing.T, whole []byte, read func(io.Reader) (int64, error), unchanged func() bool) {
	t.Helper()
	for i := range whole {
		n, err := read(bytes.NewReader(whole[:i]))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", i)
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes", i)
		require.EqualValues(t, i, n)
		for x := 1; x < 256; x++ {
			b := bytes.Clone(whole)
			b[i] ^= byte(x)
			_, err := read(bytes.NewReader(b))
			require.Error(t, err, "byte %d ^ %#x", i, x)
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMismatch) || errors.Is(err, ErrTooLarge), "byte %d ^ %#x: %v", i, x, err)
		}
	}
	require.True(t, unchanged())
}

func TestClassicDamaged(t *testing.T) {
	f, err := NewClassic[string](Config[string]{N: 20, FPR: 0.02})
	require.NoError(t, err)
	f.Add("a")
	b, err := f.MarshalBinary()
	require.NoError(t, err)
	g := f.Clone()
	damaged(t, b, g.ReadFrom, func() bool { return f.Unwrap().Equal(g.Unwrap()) })

	// These have the right checksums.
	stored := func(h header, words ...uint64) []byte {
		var w bytes.Buffer
		h.kind, h.rate = kindClassic, 0.01
		e := newEncoder(&w, &Hasher[string]{id: hashMurmurBytes, seed: h.seed, form: formString}, h)
		for _, v := range words {
			e.uint64(v)
		}
		_, err := e.finish()
		require.NoError(t, err)
		return w.Bytes()
	}
	require.NoError(t, g.UnmarshalBinary(stored(header{units: 2, payload: 16, extra: [2]uint64{70, 3}}, 1, 63)))
	require.NoError(t, g.UnmarshalBinary(stored(header{units: 1, payload: 8, extra: [2]uint64{64, classicMaxK}}, math.MaxUint64)))
	for what, b := range map[string][]byte{
		"a seed":         stored(header{units: 1, payload: 8, extra: [2]uint64{64, 3}, seed: 1}, 1),
		"no bits":        stored(header{extra: [2]uint64{0, 3}}),
		"k = 0":          stored(header{units: 1, payload: 8, extra: [2]uint64{64, 0}}, 1),
		"k too large":    stored(header{units: 1, payload: 8, extra: [2]uint64{64, classicMaxK + 1}}, 1),
		"too few words":  stored(header{units: 1, payload: 8, extra: [2]uint64{65, 3}}, 1),
		"too many words": stored(header{units: 2, payload: 16, extra: [2]uint64{64, 3}}, 1, 0),
		"units":          stored(header{units: 2, payload: 8, extra: [2]uint64{70, 3}}, 1),
		"odd payload":    stored(header{units: 1, payload: 12, extra: [2]uint64{60, 3}}, 1, 0),
		"bits beyond":    stored(header{units: 2, payload: 16, extra: [2]uint64{70, 3}}, 1, 64),
		"huge":           stored(header{units: 1 << 58, payload: 1 << 61, extra: [2]uint64{math.MaxUint64, 3}}),
	} {
		before := g.Clone()
		_, err := g.ReadFrom(bytes.NewReader(b))
		require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrMismatch), "%s: %v", what, err)
		require.True(t, before.Unwrap().Equal(g.Unwrap()), what)
	}
}

func TestClassicImportDamaged(t *testing.T) {
	f, err := NewClassic[string](Config[string]{N: 20, FPR: 0.02, MaxBytes: 1 << 20})
	require.NoError(t, err)
	f.Add("a")
	whole := exported(t, f)
	g := f.Clone()
	for i := range whole {
		n, err := g.Import(bytes.NewReader(whole[:i]))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", i)
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes", i)
		require.EqualValues(t, i, n)
	}
	for what, c := range map[string]struct {
		m, k, length uint64
		words        []uint64
		err          error
	}{
		"m beyond the set":    {1 << 40, 3, 64, []uint64{1}, ErrCorrupt},
		"m a bit beyond":      {65, 3, 64, []uint64{1}, ErrCorrupt},
		"m = 0":               {0, 3, 64, []uint64{1}, ErrCorrupt},
		"all zero":            {0, 0, 0, nil, ErrCorrupt},
		"k = 0":               {64, 0, 64, []uint64{1}, ErrCorrupt},
		"k = 2^62":            {64, 1 << 62, 64, []uint64{1}, ErrCorrupt},
		"k too large":         {64, classicMaxK + 1, 64, []uint64{1}, ErrCorrupt},
		"length 2^60":         {64, 3, 1 << 60, []uint64{1}, ErrTooLarge},
		"m and length 2^60":   {1 << 60, 3, 1 << 60, []uint64{1}, ErrTooLarge},
		"length 2^64-1":       {64, 3, math.MaxUint64, []uint64{1}, ErrTooLarge},
		"over MaxBytes":       {64, 3, 1<<23 + 1, []uint64{1}, ErrTooLarge},
		"short":               {1 << 23, 3, 1 << 23, []uint64{1}, io.ErrUnexpectedEOF},
		"a bit beyond m":      {60, 3, 64, []uint64{1 << 60}, ErrCorrupt},
		"a bit far beyond m":  {60, 3, 128, []uint64{1, 1}, ErrCorrupt},
		"a bit beyond length": {60, 3, 60, []uint64{1 << 63}, ErrCorrupt},
	} {
		var b []byte
		for _, v := range append([]uint64{c.m, c.k, c.length}, c.words...) {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		var err error
		var n int64
		require.Less(t, allocated(func() { n, err = g.Import(bytes.NewReader(b)) }), uint64(256<<10), what)
		require.ErrorIs(t, err, c.err, what)
		if c.err == ErrTooLarge || c.words == nil {
			require.EqualValues(t, 24, n, "%s: no more than the header is read", what)
		}
	}
	require.True(t, f.Unwrap().Equal(g.Unwrap()))

	failing := errors.New("failing")
	_, err = g.Import(io.MultiReader(bytes.NewReader(whole[:30]), iotest.ErrReader(failing)))
	require.ErrorIs(t, err, failing)
	require.True(t, f.Unwrap().Equal(g.Unwrap()))
}

// Other constructors of bits-and-blooms make bit sets that are longer than m.
func TestClassicImportLonger(t *testing.T) {
	for _, theirs := range []*bnb.BloomFilter{
		bnb.FromWithM(make([]uint64, 100), 6390, 5), bnb.FromWithM(make([]uint64, 3), 5, 2), bnb.From(make([]uint64, 9), 4), bnb.New(1, 1),
	} {
		for i := range 20 {
			theirs.AddString(fmt.Sprint(i))
		}
		b, err := theirs.MarshalBinary()
		require.NoError(t, err)
		var f Classic[string]
		_, err = f.Import(bytes.NewReader(b))
		require.NoError(t, err)
		require.True(t, theirs.Equal(f.Unwrap()))
		require.Equal(t, b, exported(t, &f))
		require.True(t, f.Contains("1"))

		own, err := f.MarshalBinary()
		require.NoError(t, err)
		var g Classic[string]
		require.NoError(t, g.UnmarshalBinary(own))
		require.Equal(t, f.FillRatio(), g.FillRatio())
		require.Equal(t, f.Bits(), g.Bits())
		require.NoError(t, g.Union(&f))
		require.NoError(t, f.Union(&g))
		require.NoError(t, f.Intersect(&g))
		for i := range 1000 {
			require.Equal(t, theirs.TestString(fmt.Sprint(i)), f.Contains(fmt.Sprint(i)))
			require.Equal(t, theirs.TestString(fmt.Sprint(i)), g.Contains(fmt.Sprint(i)))
		}
	}
}

// Large enough that memory is taken several times, and that pieces are written.
func TestClassicLarge(t *testing.T) {
	f, err := NewClassic[uint64](Config[uint64]{N: 1e6, FPR: 0.01})
	require.NoError(t, err)
	for i := range uint64(1e5) {
		f.Add(i)
	}
	theirs, err := f.Unwrap().MarshalBinary()
	require.NoError(t, err)
	require.True(t, bytes.Equal(theirs, exported(t, f)))
	var g Classic[uint64]
	_, err = g.Import(iotest.HalfReader(bytes.NewReader(theirs)))
	require.NoError(t, err)
	require.True(t, f.Unwrap().Equal(g.Unwrap()))

	for _, write := range []func(io.Writer) (int64, error){f.Export, f.WriteTo} {
		full := errors.New("full")
		w := &limitedWriter{left: 100_000, err: full}
		n, err := write(w)
		require.ErrorIs(t, err, full)
		require.EqualValues(t, 100_000, n)
	}
}

// limitedWriter is a disk that is full after so many bytes.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		n := w.left
		w.left = 0
		return n, w.err
	}
	w.left -= len(b)
	return len(b), nil
}

func TestClassicAllocs(t *testing.T) {
	s, err := NewClassic[string](Config[string]{N: 1000, FPR: 0.01})
	require.NoError(t, err)
	b, err := NewClassic[[]byte](Config[[]byte]{N: 1000, FPR: 0.01})
	require.NoError(t, err)
	a, err := NewClassic[[32]byte](Config[[32]byte]{N: 1000, FPR: 0.01})
	require.NoError(t, err)
	i, err := NewClassic[int](Config[int]{N: 1000, FPR: 0.01})
	require.NoError(t, err)
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
	}))
}
