package bloom

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

var _ Tester[string] = (*Cuckoo[string])(nil)

// newCuckoo returns a filter, or fails the test.
func newCuckoo[K any](t testing.TB, c Config[K]) *Cuckoo[K] {
	f, err := NewCuckoo(c)
	require.NoError(t, err)
	return f
}

// A cuckooClass is all that a filter knows of a key: its fingerprint, and the lower of its two
// buckets.
type cuckooClass struct{ fp, bucket uint64 }

func cuckooClassOf[K any](f *Cuckoo[K], k K) cuckooClass {
	i, fp := f.table.at(f.hash.hash(k))
	return cuckooClass{fp, min(i, f.table.other(i, fp))}
}

// checkCuckoo returns what is in the filter, after it has checked that all of it is in order.
func checkCuckoo[K any](f *Cuckoo[K]) (map[cuckooClass]int, error) {
	t := &f.table
	content, used := map[cuckooClass]int{}, uint64(0)
	for i := range t.buckets {
		for s := range uint64(cuckooSlots) {
			if fp := t.get(i, s); fp != 0 {
				j := t.other(i, fp)
				if j >= t.buckets || (i+j)%2 != 1 || t.other(j, fp) != i {
					return nil, fmt.Errorf("fingerprint %d: buckets %d and %d", fp, i, j)
				}
				content[cuckooClass{fp, min(i, j)}]++
				used++
			}
		}
	}
	padding := t.data[t.buckets*uint64(t.width)*cuckooSlots/8:]
	if used != t.used || len(padding) != cuckooPadding || !bytes.Equal(padding, make([]byte, cuckooPadding)) {
		return nil, fmt.Errorf("%d fingerprints, not %d, padding %x", used, t.used, padding)
	}
	return content, nil
}

// TestCuckooModel compares a filter with maps: one of keys, which it must never miss, and one of
// their classes, with which it must agree exactly.
func TestCuckooModel(t *testing.T) {
	hashes := map[string]Hasher[int]{
		"xxh":      XXH[int](1),
		"constant": Func(1, func(int) uint64 { return 42 }),
		"few":      Func(2, func(k int) uint64 { return uint64(k % 3) }),
	}
	steps := 250
	if brief() {
		steps = 100
	}
	for name, hash := range hashes {
		for n := uint64(1); n <= 200; n += 1 + n/20*15 {
			for _, p := range []float64{0.5, 0.01, 1e-4, 1e-8} {
				f := newCuckoo(t, Config[int]{N: n, FPR: p, Hash: hash})
				seed := n
				r := rand.New(rand.NewPCG(seed, 2))
				keys, classes, total := map[int]int{}, map[cuckooClass]int{}, 0
				// Honest callers delete only what they have added.
				honest := n%2 == 0
				for i := range steps {
					where := fmt.Sprintf("hash %s, N = %d, FPR = %v, seed %d, step %d", name, n, p, seed, i)
					// Rather many adds, then rather many deletes.
					k, op, mostly := r.IntN(int(2*n)+1), r.IntN(8), i/int(n*4)%2
					class := cuckooClassOf(f, k)
					before := f.Clone()
					switch {
					case op < 2 || op < 6 && mostly == 0:
						err := f.Add(k)
						if err == nil {
							keys[k]++
							classes[class]++
							total++
							break
						}
						require.ErrorIs(t, err, ErrFull, where)
						require.GreaterOrEqual(t, total, 8, where)
						require.True(t, bytes.Equal(before.table.data, f.table.data), where)
					case !honest || keys[k] > 0:
						err := f.Delete(k)
						if classes[class] > 0 {
							require.NoError(t, err, where)
							keys[k]--
							if classes[class]--; classes[class] == 0 {
								delete(classes, class)
							}
							total--
							break
						}
						require.ErrorIs(t, err, ErrAbsent, where)
						require.True(t, bytes.Equal(before.table.data, f.table.data), where)
					default:
						require.Equal(t, classes[class] > 0, f.Contains(k), where)
					}
					content, err := checkCuckoo(f)
					require.NoError(t, err, where)
					if !maps.Equal(content, classes) {
						require.Equal(t, classes, content, where)
					}
					require.EqualValues(t, total, f.Len(), where)
					if honest {
						for k, count := range keys {
							if count > 0 && !f.Contains(k) {
								require.Fail(t, "false negative", "%s: %d", where, k)
							}
						}
					}
				}
			}
		}
	}
}

func TestCuckooCopies(t *testing.T) {
	// All keys look the same: 8 fit, however large the filter is, and the ninth changes nothing.
	for _, n := range []uint64{1, 8, 20, 1000} {
		f := newCuckoo(t, Config[int]{N: n, FPR: 0.01, Hash: Func(1, func(int) uint64 { return 1 << 40 })})
		require.False(t, f.Contains(5))
		for k := range 8 {
			require.NoError(t, f.Add(k))
		}
		before, err := f.MarshalBinary()
		require.NoError(t, err)
		err = f.Add(8)
		require.ErrorIs(t, err, ErrFull)
		require.EqualError(t, err, "bloom: no room for a key in a Cuckoo: filter is full")
		after, err := f.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, before, after)
		for range 8 {
			require.True(t, f.Contains(5))
			require.NoError(t, f.Delete(5))
		}
		require.False(t, f.Contains(5))
		err = f.Delete(5)
		require.ErrorIs(t, err, ErrAbsent)
		require.EqualError(t, err, "bloom: nothing to delete from a Cuckoo: key is not in the filter")
		require.Zero(t, f.Len())
	}
}

// TestCuckooFull adds keys until one does not fit, and some more.
func TestCuckooFull(t *testing.T) {
	for _, n := range []uint64{1, 9, 10, 50, 1000, 20_000} {
		for _, p := range []float64{0.3, 0.01, 1e-5} {
			f := newCuckoo(t, Config[uint64]{N: n, FPR: p, Hash: XXH[uint64](n)})
			var in []uint64
			for k := uint64(0); ; k++ {
				if err := f.Add(k); err != nil {
					require.ErrorIs(t, err, ErrFull)
					break
				}
				in = append(in, k)
			}
			require.GreaterOrEqual(t, len(in), int(n))
			require.LessOrEqual(t, uint64(len(in)), f.Cap())
			before, err := f.MarshalBinary()
			require.NoError(t, err)
			for k := range uint64(200) {
				if f.Add(1<<32+k) == nil {
					in = append(in, 1<<32+k)
					before, err = f.MarshalBinary()
					require.NoError(t, err)
					continue
				}
				after, err := f.MarshalBinary()
				require.NoError(t, err)
				require.True(t, bytes.Equal(before, after))
			}
			_, err = checkCuckoo(f)
			require.NoError(t, err)
			for _, k := range in {
				require.True(t, f.Contains(k))
			}
			for _, k := range in {
				require.NoError(t, f.Delete(k))
			}
			require.Zero(t, f.Len())
			require.Equal(t, make([]byte, len(f.table.data)), f.table.data)
		}
	}
}

// TestCuckooFits checks that N keys fit. By what was measured, see cuckooBuckets, about one of a
// million filters is too small; these are some thousands.
func TestCuckooFits(t *testing.T) {
	sizes := map[uint64]uint64{1000: 50, 10_000: 10, 100_000: 4, 1_000_000: 1} // to numbers of seeds
	for n := range uint64(300) {
		sizes[n+1] = 10
	}
	if brief() {
		delete(sizes, 1_000_000)
	}
	for n, seeds := range sizes {
		for seed := range seeds {
			for _, p := range []float64{0.5, 0.001} {
				f := newCuckoo(t, Config[uint64]{N: n, FPR: p, Hash: XXH[uint64](seed)})
				for k := range n {
					if err := f.Add(k); err != nil {
						require.NoError(t, err, "N = %d, FPR = %v, seed %d, key %d", n, p, seed, k)
					}
				}
			}
		}
	}
}

// TestCuckooFPR counts false positives of a million keys. Their standard deviation is at most the
// root of their mean; five of these, with which one true filter in three million fails, are
// allowed on both sides. On the lower side 3 % more are: cuckooFPR takes all buckets to be
// equally full.
func TestCuckooFPR(t *testing.T) {
	const n = 20_000
	tries := uint64(1_000_000)
	if briefRates() {
		tries /= 10
	}
	for _, p := range []float64{0.1, 0.01, 0.001, 0.0001} {
		integers := newCuckoo(t, Config[uint64]{N: n, FPR: p})
		texts := newCuckoo(t, Config[string]{N: n, FPR: p})
		for k := range uint64(n) {
			require.NoError(t, integers.Add(k))
			require.NoError(t, texts.Add("key "+strconv.FormatUint(k, 10)))
		}
		var found [2]float64
		key := []byte("key ")
		for k := n + uint64(0); k < n+tries; k++ {
			if integers.Contains(k) {
				found[0]++
			}
			key = strconv.AppendUint(key[:4], k, 10)
			if texts.Contains(string(key)) {
				found[1]++
			}
		}
		require.LessOrEqual(t, integers.EstimatedFPR(), p)
		want := integers.EstimatedFPR() * float64(tries)
		for i, kind := range []string{"integers", "strings"} {
			t.Logf("FPR %v, %s: %.3g measured, %.3g estimated, %.2f bits a key",
				p, kind, found[i]/float64(tries), integers.EstimatedFPR(), float64(integers.Bits())/n)
			require.LessOrEqual(t, found[i], want+5*math.Sqrt(want), "%v, %s", p, kind)
			require.GreaterOrEqual(t, found[i], want*0.97-5*math.Sqrt(want), "%v, %s", p, kind)
			if !briefRates() {
				require.LessOrEqual(t, found[i], 1.05*p*float64(tries), "%v, %s", p, kind)
			}
		}
	}
}

// TestCuckooTable checks the arithmetic of every width against the naive way.
func TestCuckooTable(t *testing.T) {
	for width := uint(cuckooMinWidth); width <= cuckooMaxWidth; width++ {
		if width == 31 {
			continue
		}
		const buckets = 26
		tb := cuckooTable{data: make([]byte, buckets*width*cuckooSlots/8+cuckooPadding)}
		tb.shape(buckets, width)
		var want [buckets * cuckooSlots]uint64
		r := rand.New(rand.NewPCG(1, uint64(width)))
		for range 600 {
			// Few values, so that there are equal ones and zeros; and those with all bits set.
			p, fp := r.Uint64N(uint64(len(want))), r.Uint64N(4)
			if fp == 3 {
				fp = 1<<width - 1
			}
			tb.set(p/cuckooSlots, p%cuckooSlots, fp)
			want[p] = fp
			i := r.Uint64N(buckets)
			for _, fp := range []uint64{0, 1, 2, 3, 1 << (width - 1), 1<<width - 2, 1<<width - 1} {
				first := -1
				for s := cuckooSlots - 1; s >= 0; s-- {
					require.Equal(t, want[i*cuckooSlots+uint64(s)], tb.get(i, uint64(s)))
					if want[i*cuckooSlots+uint64(s)] == fp {
						first = s
					}
				}
				require.Equal(t, first, tb.find(i, fp), "width %d", width)
				require.Equal(t, first >= 0, tb.match(i, fp) != 0, "width %d", width)
			}
		}
		for range 1000 {
			h := r.Uint64()
			i, fp := tb.at(h)
			require.True(t, i < buckets && fp > 0 && fp < 1<<width)
			j := tb.other(i, fp)
			require.True(t, j < buckets && (i+j)%2 == 1 && tb.other(j, fp) == i)
		}
		for _, h := range []uint64{0, math.MaxUint64} {
			i, fp := tb.at(h)
			require.True(t, i < buckets && fp > 0 && fp < 1<<width)
		}
	}
}

func TestCuckooConfig(t *testing.T) {
	for _, c := range []struct {
		config Config[int]
		want   string
	}{
		{Config[int]{FPR: 0.1}, "bloom: N must be at least 1, got 0"},
		{Config[int]{N: 1}, "bloom: FPR must be more than 0 and less than 1, got 0"},
		{Config[int]{N: 1, FPR: 1}, "bloom: FPR must be more than 0 and less than 1, got 1"},
		{Config[int]{N: 1, FPR: math.NaN()}, "bloom: FPR must be more than 0 and less than 1, got NaN"},
		{Config[int]{N: 1, FPR: 1e-9}, "bloom: FPR of a Cuckoo must be at least 2e-09, got 1e-09: Classic goes lower"},
		{Config[int]{N: 1, FPR: 0.1, SingleWinner: true}, "bloom: SingleWinner is for a Concurrent or a Rotating, not for a Cuckoo"},
		{Config[int]{N: 1000, FPR: 0.01, MaxBytes: 1000}, "bloom: N = 1000 with FPR = 0.01 takes 1370 bytes, MaxBytes is 1000: over MaxBytes"},
	} {
		_, err := NewCuckoo(c.config)
		require.EqualError(t, err, c.want)
	}
	_, err := NewCuckoo(Config[int]{N: math.MaxUint64, FPR: 0.5})
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = NewCuckoo(Config[[2]int]{N: 1, FPR: 0.5})
	require.ErrorContains(t, err, "Hash is required")

	// Every rate that is allowed is kept, with a full filter.
	for p := cuckooLeastFPR; p < 1; p *= 1.01 {
		for _, n := range []uint64{1, 8, 9, 30, 1000, 1 << 40} {
			buckets, width := cuckooShape(n, p)
			require.LessOrEqual(t, cuckooFPR(float64(n), buckets, width), p, "N = %d", n)
		}
	}
	newCuckoo(t, Config[int]{N: 1, FPR: math.Nextafter(1, 0)})
}

func TestCuckooSize(t *testing.T) {
	f := newCuckoo(t, Config[int]{N: 100_000, FPR: 0.01})
	require.EqualValues(t, f.Cap()*10, f.Bits())
	require.InDelta(t, 10.59, float64(f.Bits())/100_000, 0.01)
	require.Zero(t, f.EstimatedFPR())
	require.Zero(t, f.FillRatio())
	require.NoError(t, f.Add(1))
	require.NoError(t, f.Add(1))
	require.EqualValues(t, 2, f.Len())
	require.InDelta(t, 2/float64(f.Cap()), f.FillRatio(), 1e-12)
	c := f.Clone()
	require.NoError(t, f.Delete(1))
	require.NoError(t, f.Delete(1))
	require.False(t, f.Contains(1))
	require.True(t, c.Contains(1))
	c.Reset()
	require.False(t, c.Contains(1))
	require.Equal(t, f, c)
}

// forge returns what a filter with this header and payload would be stored as.
func forge(h header, payload []byte) []byte {
	h.payload = uint64(len(payload))
	e := encoder{w: &bytes.Buffer{}, buf: h.append(nil)}
	e.flush()
	e.crc = 0
	e.buf = append(e.buf, payload...)
	_, _ = e.finish()
	return e.w.(*bytes.Buffer).Bytes()
}

func TestCuckooStored(t *testing.T) {
	for _, p := range []float64{0.5, 0.01, 1e-5, 2e-9} {
		for _, n := range []uint64{1, 5, 100, 30_000} {
			f := newCuckoo(t, Config[uint64]{N: n, FPR: p, Hash: XXH[uint64](7)})
			for k := range n {
				require.NoError(t, f.Add(k))
			}
			data, err := f.MarshalBinary()
			require.NoError(t, err)
			var g Cuckoo[uint64]
			require.NoError(t, g.UnmarshalBinary(data))
			again, err := g.MarshalBinary()
			require.NoError(t, err)
			require.Equal(t, data, again)
			require.Equal(t, f.Len(), g.Len())
			require.Equal(t, f.EstimatedFPR(), g.EstimatedFPR())
			for k := range n {
				require.True(t, g.Contains(k))
				require.NoError(t, g.Delete(k))
			}
			require.Equal(t, make([]byte, len(g.table.data)), g.table.data)

			// Nothing is read beyond the filter by ReadFrom, and nothing may follow for
			// UnmarshalBinary.
			r := bytes.NewReader(append(data, 1, 2, 3))
			read, err := g.ReadFrom(r)
			require.NoError(t, err)
			require.EqualValues(t, len(data), read)
			require.Equal(t, 3, r.Len())
			require.ErrorIs(t, g.UnmarshalBinary(append(data, 1)), ErrCorrupt)
		}
	}
	_, err := newCuckoo(t, Config[int]{N: 1, FPR: 0.1, Hash: MapHash[int]()}).MarshalBinary()
	require.ErrorIs(t, err, ErrNotStorable)
	_, err = new(Cuckoo[int]).MarshalBinary()
	require.Error(t, err)
}

// corruptions gives every truncation of data, and every change of one byte in some ways.
func corruptions(data []byte, try func(damaged []byte)) {
	for n := range data {
		try(data[:n])
		for _, x := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(data)
			damaged[n] ^= x
			try(damaged)
		}
	}
}

func TestCuckooDamaged(t *testing.T) {
	f := newCuckoo(t, Config[int]{N: 30, FPR: 0.01})
	for k := range 30 {
		require.NoError(t, f.Add(k))
	}
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	before := f.Clone()
	corruptions(data, func(damaged []byte) {
		require.Error(t, f.UnmarshalBinary(damaged))
		require.Equal(t, before, f)
	})

	// Headers that lie, with right checksums.
	payload := data[headerBytes : len(data)-4]
	good := header{
		kind: kindCuckoo, hash: f.hash.id, n: 30, rate: 0.01, units: f.table.buckets,
		extra: [2]uint64{uint64(f.table.width), 30},
	}
	require.Equal(t, data, forge(good, payload))
	for name, lie := range map[string]func(h *header){
		"N 0":          func(h *header) { h.n = 0 },
		"rate 2":       func(h *header) { h.rate = 2 },
		"no buckets":   func(h *header) { h.units = 0 },
		"odd":          func(h *header) { h.units++ },
		"more":         func(h *header) { h.units += 2 },
		"less":         func(h *header) { h.units -= 2 },
		"enormous":     func(h *header) { h.units += 1 << 63 },
		"width 0":      func(h *header) { h.extra[0] = 0 },
		"width 5":      func(h *header) { h.extra[0], h.units = 5, h.units*2 },
		"width 31":     func(h *header) { h.extra[0] = 31 },
		"width 33":     func(h *header) { h.extra[0] = 33 },
		"width 1<<63":  func(h *header) { h.extra[0] = 1 << 63 },
		"another one":  func(h *header) { h.extra[0]++ },
		"Len":          func(h *header) { h.extra[1]++ },
		"Len enormous": func(h *header) { h.extra[1] = math.MaxUint64 },
	} {
		h := good
		lie(&h)
		require.ErrorIs(t, f.UnmarshalBinary(forge(h, payload)), ErrCorrupt, name)
		require.Equal(t, before, f)
	}
	require.ErrorIs(t, f.UnmarshalBinary(forge(good, payload[1:])), ErrCorrupt)
	require.ErrorIs(t, f.UnmarshalBinary(forge(good, nil)), ErrCorrupt)
	h := good
	h.kind = kindFuse8
	require.ErrorIs(t, f.UnmarshalBinary(forge(h, payload)), ErrMismatch)
	small := newCuckoo(t, Config[int]{N: 8, FPR: 0.01, MaxBytes: 40})
	require.ErrorIs(t, small.UnmarshalBinary(data), ErrTooLarge)
}

func TestCuckooAllocs(t *testing.T) {
	for _, p := range []float64{0.01, 1e-6} {
		f := newCuckoo(t, Config[uint64]{N: 1000, FPR: p})
		k := uint64(0)
		// This fills the filter, so that some fingerprints are moved and some do not fit.
		require.Zero(t, testing.AllocsPerRun(3000, func() {
			k++
			_ = f.Add(k)
			f.Contains(k + 1)
		}))
		require.Greater(t, f.FillRatio(), 0.9)
		require.Zero(t, testing.AllocsPerRun(3000, func() {
			_ = f.Delete(k)
			k--
		}))
	}
	f := newCuckoo(t, Config[string]{N: 1000, FPR: 0.01})
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = f.Add("some string")
		_ = f.Delete("some string")
		_ = f.Delete("another string")
		f.Contains("some string")
	}))
}
