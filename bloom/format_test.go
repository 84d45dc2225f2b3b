package bloom

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A storable is what every kind that can be stored has.
type storable interface {
	Tester[string]
	io.WriterTo
	io.ReaderFrom
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// stored is a filter with three keys, and how to make a zero value of its kind.
type stored struct {
	name   string
	filter storable
	zero   func() storable
}

var threeKeys = []string{"", "sysblocks", "user:00000000001"}

func storables(t testing.TB) []stored {
	all := []stored{}
	c := Config[string]{N: 3, FPR: 0.01, Hash: XXH[string](42)}
	plain := Config[string]{N: 3, FPR: 0.01}
	add := func(name string, f storable, err error, zero func() storable) {
		require.NoError(t, err)
		for _, k := range threeKeys {
			switch f := f.(type) {
			case Filter[string]:
				f.Add(k)
			case *Cuckoo[string]:
				require.NoError(t, f.Add(k))
			}
		}
		all = append(all, stored{name, f, zero})
	}
	blocked, err := NewBlocked(c)
	add("blocked", blocked, err, func() storable { return new(Blocked[string]) })
	single := c
	single.SingleWinner = true
	words, err := NewConcurrent(single)
	add("singlewinner", words, err, func() storable { return new(Concurrent[string]) })
	split, err := NewSplitBlock(plain)
	add("splitblock", split, err, func() storable { return new(SplitBlock[string]) })
	classic, err := NewClassic(plain)
	add("classic", classic, err, func() storable { return new(Classic[string]) })
	small := c
	small.N = 1
	scalable, err := NewScalable(small)
	add("scalable", scalable, err, func() storable { return new(Scalable[string]) })
	cuckoo, err := NewCuckoo(c)
	add("cuckoo", cuckoo, err, func() storable { return new(Cuckoo[string]) })
	fuse8, err := BuildFuse8(Config[string]{Hash: c.Hash}, slices.Values(threeKeys))
	add("fuse8", fuse8, err, func() storable { return new(Fuse8[string]) })
	fuse16, err := BuildFuse16(Config[string]{Hash: c.Hash}, slices.Values(threeKeys))
	add("fuse16", fuse16, err, func() storable { return new(Fuse16[string]) })
	rotating, err := NewRotating(RotatingConfig[string]{N: 3, FPR: 0.01, Generations: 2, Window: 1 << 62, Hash: c.Hash})
	add("rotating", rotating, err, func() storable { return new(Rotating[string]) })
	return all
}

func TestRoundTrip(t *testing.T) {
	for _, s := range storables(t) {
		t.Run(s.name, func(t *testing.T) {
			data, err := s.filter.MarshalBinary()
			require.NoError(t, err)
			f := s.zero()
			require.NoError(t, f.UnmarshalBinary(data))
			for _, k := range threeKeys {
				require.True(t, f.Contains(k))
			}
			wrong := 0
			for i := range 1000 {
				require.Equal(t, s.filter.Contains(fmt.Sprint(i)), f.Contains(fmt.Sprint(i)))
				if f.Contains(fmt.Sprint(i)) {
					wrong++
				}
			}
			require.Less(t, wrong, 100)

			// A reader that returns a byte at a time, and has more to say afterwards.
			f = s.zero()
			n, err := f.ReadFrom(iotest.OneByteReader(io.MultiReader(bytes.NewReader(data), bytes.NewReader([]byte("more")))))
			require.NoError(t, err)
			require.Equal(t, int64(len(data)), n)
			require.True(t, f.Contains(threeKeys[1]))
		})
	}
}

// Golden files: what was stored once can be read for ever.
func TestGolden(t *testing.T) {
	for _, s := range storables(t) {
		t.Run(s.name, func(t *testing.T) {
			name := filepath.Join("testdata", "golden-"+s.name+".bin")
			data, err := s.filter.MarshalBinary()
			require.NoError(t, err)
			if *update {
				require.NoError(t, os.WriteFile(name, data, 0o644))
			}
			want, err := os.ReadFile(name)
			require.NoError(t, err)
			if s.name != "rotating" { // which has the time of writing
				require.Equal(t, want, data)
			}
			f := s.zero()
			require.NoError(t, f.UnmarshalBinary(want))
			if s.name == "rotating" {
				// It has a window of a hundred years.
				require.Less(t, time.Now().Year(), 2126)
			}
			for _, k := range threeKeys {
				require.True(t, f.Contains(k))
			}
		})
	}
}

// unchanged returns a function that fails if f is not as it was.
func unchanged(t testing.TB, s stored) func() {
	f := s.filter
	return func() {
		t.Helper()
		for _, k := range threeKeys {
			require.True(t, f.Contains(k))
		}
		require.False(t, f.Contains("absent key number 4"))
	}
}

// Whatever byte of a stored filter is changed, and wherever it ends, that is found out, and the filter
// that was to be replaced is as it was.
func TestDamage(t *testing.T) {
	for _, s := range storables(t) {
		t.Run(s.name, func(t *testing.T) {
			check := unchanged(t, s)
			data, err := s.filter.MarshalBinary()
			require.NoError(t, err)
			for i := range data {
				for _, flip := range []byte{1, 0x80, 0xff} {
					bad := bytes.Clone(data)
					bad[i] ^= flip
					require.Error(t, s.filter.UnmarshalBinary(bad), "byte %d", i)
					_, err := s.filter.ReadFrom(bytes.NewReader(bad))
					// A size that was changed may be found too large before its checksum is reached.
					require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge), "byte %d: %v", i, err)
				}
				err := s.filter.UnmarshalBinary(data[:i])
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", i)
				require.ErrorIs(t, err, ErrCorrupt)
			}
			check()
			require.ErrorIs(t, s.filter.UnmarshalBinary(append(bytes.Clone(data), 0)), ErrCorrupt)
			check()
			broken := errors.New("broken pipe")
			_, err = s.filter.ReadFrom(io.MultiReader(bytes.NewReader(data[:len(data)-3]), iotest.ErrReader(broken)))
			require.ErrorIs(t, err, broken)
			check()
			// A short write, a failing one, at any place.
			for i := range len(data) {
				_, err := s.filter.WriteTo(&shortWriter{left: i})
				require.ErrorIs(t, err, errFull, "%d bytes", i)
				n, err := s.filter.WriteTo(&shortWriter{left: i, silent: true})
				require.ErrorIs(t, err, io.ErrShortWrite)
				require.Equal(t, int64(i), n)
			}
		})
	}
}

var errFull = errors.New("disk full")

// shortWriter takes so many bytes.
type shortWriter struct {
	left   int
	silent bool
}

func (w *shortWriter) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	if n < len(b) && !w.silent {
		return n, errFull
	}
	return n, nil
}

// forged changes a stored header, and its checksum.
func forged(data []byte, at int, value uint64) []byte {
	bad := bytes.Clone(data)
	binary.LittleEndian.PutUint64(bad[at:], value)
	binary.LittleEndian.PutUint32(bad[72:], crc32.Checksum(bad[:72], castagnoli))
	return bad
}

// taken returns how many bytes f allocates.
func taken(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// zeros is a reader of nothing but zeros, so many.
type zeros struct{ left int64 }

func (z *zeros) Read(b []byte) (int, error) {
	n := int(min(int64(len(b)), z.left))
	clear(b[:n])
	z.left -= int64(n)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// A header that has the right checksum but lies costs no memory, and no crash.
func TestHostileHeader(t *testing.T) {
	for _, s := range storables(t) {
		t.Run(s.name, func(t *testing.T) {
			check := unchanged(t, s)
			data, err := s.filter.MarshalBinary()
			require.NoError(t, err)
			for _, at := range []int{24, 32, 40, 48, 56, 64} {
				for _, v := range []uint64{0, 1, 2, 3, 63, 64, 65, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 61, 1<<63 - 1, 1 << 63, 1<<64 - 1, math.Float64bits(math.NaN()), math.Float64bits(0.5)} {
					bad := forged(data, at, v)
					if bytes.Equal(bad, data) {
						continue
					}
					f := s.zero()
					used := taken(func() { _, err = f.ReadFrom(bytes.NewReader(bad)) })
					require.Less(t, used, uint64(1<<20), "byte %d is %d", at, v)
					if err == nil {
						// Some of the numbers may have another value; but it must not crash.
						for i := range 100 {
							f.Contains(fmt.Sprint(i))
						}
						_, err := f.MarshalBinary()
						require.NoError(t, err)
					}
				}
			}
			// 1 TB, of which nothing comes.
			bad := forged(data, 64, 1<<40)
			used := taken(func() { err = s.filter.UnmarshalBinary(bad) })
			require.ErrorIs(t, err, ErrTooLarge)
			require.Less(t, used, uint64(64<<10))
			check()
		})
	}
}

// With a large MaxBytes, memory is taken as the bytes come.
func TestReadInPieces(t *testing.T) {
	f, err := NewBlocked(Config[string]{N: 1000, FPR: 0.01, MaxBytes: 1 << 50})
	require.NoError(t, err)
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	claim := uint64(min(1<<40, math.MaxInt/2+1))
	bad := forged(forged(data, 40, claim/64), 64, claim)[:headerBytes]
	used := taken(func() { _, err = f.ReadFrom(io.MultiReader(bytes.NewReader(bad), &zeros{1 << 20})) })
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, used, uint64(8<<20))
}

func TestReadMaxBytes(t *testing.T) {
	big, err := NewBlocked(Config[string]{N: 100_000, FPR: 0.01})
	require.NoError(t, err)
	data, err := big.MarshalBinary()
	require.NoError(t, err)
	small, err := NewBlocked(Config[string]{N: 10, FPR: 0.01, MaxBytes: 10_000})
	require.NoError(t, err)
	require.ErrorIs(t, small.UnmarshalBinary(data), ErrTooLarge)
	var zero Blocked[string]
	require.NoError(t, zero.UnmarshalBinary(data))
}

// A file belongs to a hash, and to a kind of keys.
func TestReadHash(t *testing.T) {
	write := func(h Hasher[string]) []byte {
		f, err := NewBlocked(Config[string]{N: 10, FPR: 0.01, Hash: h})
		require.NoError(t, err)
		f.Add("a")
		data, err := f.MarshalBinary()
		require.NoError(t, err)
		return data
	}
	read := func(h Hasher[string], data []byte) (*Blocked[string], error) {
		f, err := NewBlocked(Config[string]{N: 10, FPR: 0.01, Hash: h})
		require.NoError(t, err)
		return f, f.UnmarshalBinary(data)
	}
	f := func(s string) uint64 { return uint64(len(s)) }
	xxh := write(XXH[string](1))
	named := write(Func(5, f))

	// The zero value takes the seed of XXH from the file; but what was chosen stays.
	zero := new(Blocked[string])
	require.NoError(t, zero.UnmarshalBinary(xxh))
	require.True(t, zero.Contains("a"))
	require.Equal(t, XXH[string](1).Hash("x"), zero.hash.Hash("x"))
	b, err := read(XXH[string](1), xxh)
	require.NoError(t, err)
	require.True(t, b.Contains("a"))
	_, err = read(XXH[string](2), xxh)
	require.EqualError(t, err, "bloom: stored with a hash of seed or name 0x1, the filter to read into has 0x2: filters do not match")
	_, err = read(MapHash[string](), xxh)
	require.ErrorIs(t, err, ErrMismatch)
	_, err = read(Func(5, f), xxh)
	require.ErrorIs(t, err, ErrMismatch)
	b, err = read(Func(5, f), named)
	require.NoError(t, err)
	require.True(t, b.Contains("b")) // of the same length
	_, err = read(Func(6, f), named)
	require.ErrorIs(t, err, ErrMismatch)
	_, err = read(XXH[string](5), named)
	require.ErrorIs(t, err, ErrMismatch)
	zero = new(Blocked[string])
	require.ErrorIs(t, zero.UnmarshalBinary(named), ErrMismatch)
	// A hash that cannot be stored, with the right checksums.
	none := bytes.Clone(xxh)
	copy(none[12:], []byte{0, 0, 0, 0})
	binary.LittleEndian.PutUint32(none[72:], crc32.Checksum(none[:72], castagnoli))
	_, err = read(MapHash[string](), none)
	require.ErrorIs(t, err, ErrCorrupt)
	var structs0 Blocked[struct{ a int }]
	require.ErrorIs(t, structs0.UnmarshalBinary(none), ErrCorrupt)

	// Strings and byte slices are the same keys, integers others.
	var slices Blocked[[]byte]
	require.NoError(t, slices.UnmarshalBinary(xxh))
	require.True(t, slices.Contains([]byte("a")))
	var ints Blocked[int]
	require.ErrorIs(t, ints.UnmarshalBinary(xxh), ErrMismatch)
	var structs Blocked[struct{ a int }]
	require.ErrorIs(t, structs.UnmarshalBinary(xxh), ErrMismatch)

	for _, h := range []Hasher[string]{MapHash[string](), Func(0, f)} {
		m, err := NewBlocked(Config[string]{N: 10, FPR: 0.01, Hash: h})
		require.NoError(t, err)
		_, err = m.MarshalBinary()
		require.ErrorIs(t, err, ErrNotStorable)
		n, err := m.WriteTo(&shortWriter{})
		require.ErrorIs(t, err, ErrNotStorable)
		require.Zero(t, n)
	}

	// A version that is to come.
	later := bytes.Clone(xxh)
	later[8] = 2
	binary.LittleEndian.PutUint32(later[72:], crc32.Checksum(later[:72], castagnoli))
	_, err = read(XXH[string](1), later)
	require.EqualError(t, err, "bloom: stored in version 2 of the format, this package reads 1: filters do not match")
	var c Scalable[string]
	require.EqualError(t, c.UnmarshalBinary(xxh), "bloom: stored is a Blocked or Concurrent, not a Scalable: filters do not match")
	require.ErrorContains(t, zero.UnmarshalBinary(bytes.Repeat([]byte("no filter"), 20)), "bloom: it begins with")
}

// FuzzRead reads whatever the fuzzer makes of stored filters, with checksums that are right: no
// crash, no large allocation, and what is read can be stored and read again.
func FuzzRead(f *testing.F) {
	all := storables(f)
	for i, s := range all {
		data, err := s.filter.MarshalBinary()
		require.NoError(f, err)
		f.Add(uint8(i), data, false)
		f.Add(uint8(i), data, true)
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte, fix bool) {
		if fix && len(data) >= headerBytes+4 {
			data = bytes.Clone(data)
			copy(data, magic)
			binary.LittleEndian.PutUint16(data[8:], formatVersion)
			binary.LittleEndian.PutUint32(data[72:], crc32.Checksum(data[:72], castagnoli))
			end := len(data) - 4
			binary.LittleEndian.PutUint32(data[end:], crc32.Checksum(data[headerBytes:end], castagnoli))
		}
		s := all[int(which)%len(all)]
		filter := s.zero()
		used := taken(func() {
			if filter.UnmarshalBinary(data) != nil {
				filter = nil
			}
		})
		if used > 1<<20+64*uint64(len(data)) {
			t.Fatalf("%d bytes allocated for %d", used, len(data))
		}
		if filter == nil {
			return
		}
		for _, k := range threeKeys {
			filter.Contains(k)
		}
		again, err := filter.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.zero().UnmarshalBinary(again); err != nil {
			t.Fatal(err)
		}
	})
}

// What was made with just enough memory is read with the same.
func TestReadExactly(t *testing.T) {
	c := Config[string]{N: 1000, FPR: 0.01}
	f, err := NewScalable(c)
	require.NoError(t, err)
	c.MaxBytes = f.Bits() / 8
	g, err := NewScalable(c)
	require.NoError(t, err)
	data, err := g.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, g.UnmarshalBinary(data))
	c.MaxBytes--
	_, err = NewScalable(c)
	require.ErrorIs(t, err, ErrTooLarge)
	small := &Scalable[string]{maxBytes: c.MaxBytes}
	require.ErrorIs(t, small.UnmarshalBinary(data), ErrTooLarge)

	rc := RotatingConfig[string]{N: 1000, FPR: 0.01, Generations: 5}
	r, err := NewRotating(rc)
	require.NoError(t, err)
	rc.MaxBytes = r.Bits() / 8
	r, err = NewRotating(rc)
	require.NoError(t, err)
	fresh, err := r.MarshalBinary() // one generation of six
	require.NoError(t, err)
	for range 6 {
		r.Rotate()
	}
	data, err = r.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, r.UnmarshalBinary(data))
	other := &Rotating[string]{maxBytes: rc.MaxBytes - 1}
	require.ErrorIs(t, other.UnmarshalBinary(fresh), ErrTooLarge)
}

// The zero values have nothing to store, and an empty stream nothing to read.
func TestStoreNothing(t *testing.T) {
	for _, s := range storables(t) {
		_, err := s.zero().MarshalBinary()
		if s.name == "fuse8" || s.name == "fuse16" {
			continue // they are empty filters
		}
		require.Error(t, err, s.name)
		_, err = s.zero().WriteTo(io.Discard)
		require.Error(t, err, s.name)
	}
	var f Blocked[string]
	_, err := f.ReadFrom(bytes.NewReader(nil))
	require.ErrorIs(t, err, io.EOF)
	wrapped := fmt.Errorf("the proxy hung up: %w", io.EOF)
	_, err = f.ReadFrom(iotest.ErrReader(wrapped))
	require.ErrorContains(t, err, "the proxy hung up")
}

// The table of stages of a Scalable, with the right checksums, but not as a Scalable has it.
func TestHostileStages(t *testing.T) {
	f, err := NewScalable(Config[string]{N: 1, FPR: 0.01, Hash: XXH[string](42)})
	require.NoError(t, err)
	for _, k := range threeKeys {
		f.Add(k)
	}
	require.Equal(t, 2, f.Stages())
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	end := len(data) - 4
	for name, c := range map[string]struct {
		at    int
		value uint64
		want  error
	}{
		"no capacity":           {headerBytes, 0, ErrCorrupt},
		"capacity not doubled":  {headerBytes, 3, ErrCorrupt},
		"capacity overflows":    {headerBytes + 24, 1 << 63, ErrCorrupt},
		"rate":                  {headerBytes + 8, math.Float64bits(1), ErrCorrupt},
		"rate is no number":     {headerBytes + 8, math.Float64bits(math.NaN()), ErrCorrupt},
		"no blocks":             {headerBytes + 16, 0, ErrCorrupt},
		"too many blocks":       {headerBytes + 16, 1 << 40, ErrTooLarge},
		"blocks overflow":       {headerBytes + 16, 1 << 58, ErrTooLarge},
		"blocks of the second":  {headerBytes + 40, 1 << 24, ErrTooLarge},
		"more than the payload": {headerBytes + 40, 1000, ErrCorrupt},
		"keys":                  {end - 8, 1 << 63, ErrCorrupt},
	} {
		bad := bytes.Clone(data)
		binary.LittleEndian.PutUint64(bad[c.at:], c.value)
		binary.LittleEndian.PutUint32(bad[end:], crc32.Checksum(bad[headerBytes:end], castagnoli))
		g := new(Scalable[string])
		used := taken(func() { _, err = g.ReadFrom(bytes.NewReader(bad)) })
		require.ErrorIs(t, err, c.want, name)
		require.Less(t, used, uint64(1<<20), name)
	}
	require.ErrorIs(t, new(Scalable[string]).UnmarshalBinary(forged(data, 56, 1)), ErrCorrupt)
}
