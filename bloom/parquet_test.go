package bloom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

// parquetMR returns the filter that parquet-mr has written; see the file.
func parquetMR(t *testing.T) []byte {
	t.Helper()
	// The size is 1024, and 2048 as a zigzag number.
	b := append([]byte{0x15, 0x80, 0x10, 0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0}, make([]byte, 1024)...)
	text, err := os.ReadFile("testdata/parquet-mr-1024.txt")
	require.NoError(t, err)
	words := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var i int
		var w uint32
		_, err := fmt.Sscanf(line, "%d %x", &i, &w)
		require.NoError(t, err)
		binary.LittleEndian.PutUint32(b[16+4*i:], w)
		words++
	}
	require.Equal(t, 4*8, words, "four strings in four blocks")
	return b
}

func TestParquetMR(t *testing.T) {
	want := parquetMR(t)
	keys := []string{"hello", "parquet", "bloom", "filter"}
	f := splitOf[string](t, 32)
	for _, k := range keys {
		require.True(t, f.Add(k))
	}
	require.Equal(t, want, exported(t, f))
	require.Equal(t, want[16:], f.Bitset())

	var g SplitBlock[string]
	n, err := g.Import(iotest.OneByteReader(io.MultiReader(bytes.NewReader(want), strings.NewReader("more"))))
	require.NoError(t, err)
	require.EqualValues(t, len(want), n)
	require.Equal(t, f, &g)
	for _, k := range keys {
		require.True(t, g.Contains(k))
		require.True(t, g.ContainsHash(xxhash.Sum64String(k)))
	}
	for _, k := range []string{"", "Hello", "parque", "blooms", "filter "} {
		require.False(t, g.Contains(k))
	}

	for i := range want {
		n, err := g.Import(bytes.NewReader(want[:i]))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", i)
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes", i)
		require.EqualValues(t, i, n)
	}
	failing := errors.New("failing")
	for _, i := range []int{0, 5, 16, 100} {
		_, err := g.Import(io.MultiReader(bytes.NewReader(want[:i]), iotest.ErrReader(failing)))
		require.ErrorIs(t, err, failing)
	}
	require.Equal(t, f, &g)

	// What came from a Parquet file can be stored in the format of this package.
	b, err := g.MarshalBinary()
	require.NoError(t, err)
	var h SplitBlock[[]byte]
	require.NoError(t, h.UnmarshalBinary(b))
	require.True(t, h.Contains([]byte("bloom")))
	require.Equal(t, want, exported(t, &h))
}

// samePlain adds keys to filters and to naive ones, in which a key is XXH64 of what encode makes of it.
func samePlain[K any](t *testing.T, key func(r *rand.Rand) K, encode func(K) []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 5))
	for _, blocks := range []int{1, 2, 3, 1000} {
		f, n := splitOf[K](t, blocks), make(naiveSplit, blocks)
		for range 8 * blocks {
			k := key(r)
			h := xxhash.Sum64(encode(k))
			require.Equal(t, h, f.Hash(k), "%T: %v", k, k)
			had := n.check(h)
			n.insert(h)
			require.Equal(t, had, f.Contains(k), "%T: %v", k, k)
			require.Equal(t, !had, f.Add(k), "%T: %v", k, k)
			require.True(t, f.Contains(k), "%T: %v", k, k)
		}
		sameSplit(t, n, f)
		for range 1000 {
			k := key(r)
			require.Equal(t, n.check(xxhash.Sum64(encode(k))), f.Contains(k), "%T: %v", k, k)
		}
	}
}

type (
	parquetName  string
	parquetFlag  bool
	parquetPrice float64
	parquetID    [16]byte
	parquetDay   int32
)

func TestParquetPlain(t *testing.T) {
	le4 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	le8 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	flag := func(v bool) []byte {
		if v {
			return []byte{1}
		}
		return []byte{0}
	}
	text := func(r *rand.Rand) []byte {
		b := make([]byte, r.IntN(80))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	samePlain(t, func(r *rand.Rand) bool { return r.Uint32()&1 != 0 }, flag)
	samePlain(t, func(r *rand.Rand) parquetFlag { return r.Uint32()&1 != 0 }, func(k parquetFlag) []byte { return flag(bool(k)) })
	samePlain(t, func(r *rand.Rand) int8 { return int8(r.Uint32()) }, func(k int8) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) int16 { return int16(r.Uint32()) }, func(k int16) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) int32 { return int32(r.Uint32()) }, func(k int32) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) parquetDay { return parquetDay(r.Uint32()) }, func(k parquetDay) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) uint8 { return uint8(r.Uint32()) }, func(k uint8) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) uint16 { return uint16(r.Uint32()) }, func(k uint16) []byte { return le4(uint32(k)) })
	samePlain(t, func(r *rand.Rand) uint32 { return r.Uint32() }, le4)
	samePlain(t, func(r *rand.Rand) int64 { return int64(r.Uint64()) }, func(k int64) []byte { return le8(uint64(k)) })
	samePlain(t, func(r *rand.Rand) int { return int(r.Uint64()) }, func(k int) []byte { return le8(uint64(k)) })
	samePlain(t, func(r *rand.Rand) uint64 { return r.Uint64() }, le8)
	samePlain(t, func(r *rand.Rand) uint { return uint(r.Uint64()) }, func(k uint) []byte { return le8(uint64(k)) })
	samePlain(t, func(r *rand.Rand) uintptr { return uintptr(r.Uint64()) }, func(k uintptr) []byte { return le8(uint64(k)) })
	samePlain(t, func(r *rand.Rand) float32 { return math.Float32frombits(r.Uint32()) }, func(k float32) []byte { return le4(math.Float32bits(k)) })
	samePlain(t, func(r *rand.Rand) float64 { return r.NormFloat64() }, func(k float64) []byte { return le8(math.Float64bits(k)) })
	samePlain(t, func(r *rand.Rand) parquetPrice { return parquetPrice(r.NormFloat64()) }, func(k parquetPrice) []byte { return le8(math.Float64bits(float64(k))) })
	samePlain(t, func(r *rand.Rand) string { return string(text(r)) }, func(k string) []byte { return []byte(k) })
	samePlain(t, func(r *rand.Rand) parquetName { return parquetName(text(r)) }, func(k parquetName) []byte { return []byte(k) })
	samePlain(t, text, func(k []byte) []byte { return k })
	samePlain(t, func(r *rand.Rand) (k [12]byte) { copy(k[:], text(r)); return k }, func(k [12]byte) []byte { return k[:] })
	samePlain(t, func(r *rand.Rand) (k parquetID) { copy(k[:], text(r)); return k }, func(k parquetID) []byte { return k[:] })
	samePlain(t, func(r *rand.Rand) (k [40]byte) { copy(k[:], text(r)); return k }, func(k [40]byte) []byte { return k[:] })
}

// Zero and minus zero are two keys, as are numbers in columns of different width.
func TestParquetKeysApart(t *testing.T) {
	f := splitOf[float64](t, 10)
	f.Add(0)
	require.False(t, f.Contains(math.Copysign(0, -1)))
	f.Add(math.NaN())
	require.True(t, f.Contains(math.NaN()))
	require.NotEqual(t, splitOf[int32](t, 1).Hash(7), splitOf[int64](t, 1).Hash(7))
	require.Equal(t, splitOf[int8](t, 1).Hash(-7), splitOf[int32](t, 1).Hash(-7))
	require.Equal(t, splitOf[int](t, 1).Hash(-7), splitOf[int64](t, 1).Hash(-7))
	require.Equal(t, splitOf[string](t, 1).Hash("abcd"), splitOf[[4]byte](t, 1).Hash([4]byte{'a', 'b', 'c', 'd'}))
}

func TestParquetXXH(t *testing.T) {
	for w := range 256 {
		require.Equal(t, xxhash.Sum64([]byte{byte(w)}), xxh1(uint8(w)))
	}
	r := rand.New(rand.NewPCG(6, 6))
	for i := range 100_000 {
		w := r.Uint64() >> (i % 64)
		require.Equal(t, xxhash.Sum64(binary.LittleEndian.AppendUint64(nil, w)), xxh8(w))
		require.Equal(t, xxhash.Sum64(binary.LittleEndian.AppendUint32(nil, uint32(w))), xxh4(uint32(w)))
	}
}

func TestParquetBitset(t *testing.T) {
	f, err := NewSplitBlock[int64](Config[int64]{N: 100_000, FPR: 0.01, MaxBytes: 1 << 20})
	require.NoError(t, err)
	for i := range int64(100_000) {
		f.Add(i)
	}
	b := f.Bitset()
	require.EqualValues(t, f.Bits(), 8*len(b))
	var g SplitBlock[int64]
	require.NoError(t, g.ImportBitset(b))
	require.Equal(t, f.blocks, g.blocks)
	clear(b)
	require.Equal(t, f.blocks, g.blocks, "it was copied")
	require.NoError(t, g.ImportBitset(f.Bitset()))

	before := f.Clone()
	for _, n := range []int{0, 1, 31, 33, 48} {
		require.ErrorIs(t, f.ImportBitset(make([]byte, n)), ErrCorrupt, "%d bytes", n)
	}
	require.ErrorIs(t, f.ImportBitset(make([]byte, 1<<20+32)), ErrTooLarge)
	require.Equal(t, before, f)
	require.NoError(t, f.ImportBitset(make([]byte, 1<<20)))

	// Large enough that memory is taken several times.
	whole := exported(t, before)
	n, err := g.Import(iotest.HalfReader(bytes.NewReader(whole)))
	require.NoError(t, err)
	require.EqualValues(t, len(whole), n)
	require.Equal(t, before.blocks, g.blocks)
	require.Equal(t, len(g.blocks), cap(g.blocks))
	full := errors.New("full")
	for _, write := range []func(io.Writer) (int64, error){before.Export, before.WriteTo} {
		n, err := write(&limitedWriter{left: 50_000, err: full})
		require.ErrorIs(t, err, full)
		require.EqualValues(t, 50_000, n)
	}
}

// The parts of a header: fields, each with its number before it, so that any order will do.
const (
	parquetSize        = "\x05\x02\x40" // 32
	parquetAlgorithm   = "\x0c\x04\x1c\x00\x00"
	parquetHashing     = "\x0c\x06\x1c\x00\x00"
	parquetCompression = "\x0c\x08\x1c\x00\x00"
	parquetRest        = parquetAlgorithm + parquetHashing + parquetCompression + "\x00"
	parquetAll         = parquetSize + parquetAlgorithm + parquetHashing + parquetCompression
)

func TestParquetHeader(t *testing.T) {
	bitset := strings.Repeat("12345678", 4)
	nested := func(n int, open, end string) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	for what, h := range map[string]string{
		"long numbers":     parquetAll + "\x00",
		"any order":        parquetCompression + parquetSize + parquetHashing + parquetAlgorithm + "\x00",
		"a long varint":    "\x15\xc0\x80\x80\x80\x00" + parquetRest,
		"truth and lies":   "\x01\x0e" + parquetAll + "\x02\x10\x00", // fields 7 and 8
		"unknown integers": parquetAll + "\x13\xff\x14\x80\x01\x15\x01\x16\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00",
		"a double":         parquetAll + "\x1712345678\x00",
		"a uuid":           parquetAll + "\x1d1234567812345678\x00",
		"a string":         parquetAll + "\x18\x05hello\x00",
		"an empty string":  parquetAll + "\x18\x00\x00",
		"a list":           parquetAll + "\x19\x25\x01\x02\x00",
		"a long list":      parquetAll + "\x19\xf1\x10" + strings.Repeat("\x01", 16) + "\x00",
		"a set":            parquetAll + "\x1a\x18\x01a\x00",
		"a map":            parquetAll + "\x1b\x02\x58" + "\x02\x01a" + "\x04\x01b" + "\x00",
		"a map of bools":   parquetAll + "\x1b\x02\x12" + "\x01\x02\x02\x01" + "\x00",
		"an empty map":     parquetAll + "\x1b\x00\x00",
		"a struct":         parquetAll + "\x1c\x15\x02\x1c\x00\x00\x00",
		"structs":          parquetAll + nested(thriftDepth, "\x1c", "\x00") + "\x00",
		"far away":         parquetAll + "\x05\xfe\xff\x03\x00\x00",
		"negative":         parquetAll + "\x05\x01\x00\x00",
		"first":            "\x05\x00\x01" + parquetAll + "\x00",
		"in the algorithm": parquetSize + "\x0c\x04\x1c\x15\x02\x00\x00" + parquetHashing + parquetCompression + "\x00",
	} {
		var f SplitBlock[string]
		n, err := f.Import(strings.NewReader(h + bitset + "more"))
		require.NoError(t, err, what)
		require.EqualValues(t, len(h)+32, n, what)
		require.Equal(t, bitset, string(f.Bitset()), what)
		for i := range len(h) + 32 {
			_, err := f.Import(strings.NewReader((h + bitset)[:i]))
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%s: %d bytes", what, i)
		}
	}

	f := splitOf[string](t, 3)
	f.Add("a")
	before := f.Clone()
	refuse := func(what, h string, want error) {
		t.Helper()
		var err error
		b := []byte(h + bitset)
		require.Less(t, allocated(func() { _, err = f.Import(bytes.NewReader(b)) }), uint64(128<<10), what)
		require.ErrorIs(t, err, want, what)
		require.Equal(t, before, f, what)
	}
	sized := func(v int64) string {
		return "\x15" + string(binary.AppendUvarint(nil, uint64(v<<1)^uint64(v>>63))) + parquetRest
	}
	for _, v := range []int64{0, 1, -1, -32, math.MinInt32, 31, 33, 1 << 31, 1 << 32, 1<<32 + 32, math.MaxInt64, math.MinInt64, math.MaxInt32} {
		refuse(fmt.Sprint(v), sized(v), ErrCorrupt)
	}
	refuse("2 GiB less 32", sized(1<<31-32), ErrTooLarge)
	refuse("1 GiB, most of it missing", sized(1<<30), io.ErrUnexpectedEOF)

	refuse("another algorithm", parquetSize+"\x0c\x04\x2c\x00\x00"+parquetHashing+parquetCompression+"\x00", ErrMismatch)
	refuse("another hash", parquetSize+parquetAlgorithm+"\x0c\x06\x2c\x00\x00"+parquetCompression+"\x00", ErrMismatch)
	refuse("another compression", parquetSize+parquetAlgorithm+parquetHashing+"\x0c\x08\x2c\x00\x00"+"\x00", ErrMismatch)
	refuse("no algorithm", parquetSize+"\x0c\x04\x00"+parquetHashing+parquetCompression+"\x00", ErrCorrupt)
	refuse("two algorithms", parquetSize+"\x0c\x04\x1c\x00\x1c\x00\x00"+parquetHashing+parquetCompression+"\x00", ErrCorrupt)
	refuse("a number for an algorithm", parquetSize+"\x0c\x04\x15\x02\x00"+parquetHashing+parquetCompression+"\x00", ErrCorrupt)
	refuse("an algorithm that is a number", parquetSize+"\x05\x04\x02"+parquetHashing+parquetCompression+"\x00", ErrCorrupt)
	refuse("a size that is a struct", "\x1c\x00"+parquetRest, ErrCorrupt)
	refuse("a size of 64 bits", "\x16\x40"+parquetRest, ErrCorrupt)
	refuse("nothing", "\x00", ErrCorrupt)
	refuse("no size", parquetRest, ErrCorrupt)
	refuse("no field 2", parquetSize+parquetHashing+parquetCompression+"\x00", ErrCorrupt)
	refuse("no field 3", parquetSize+parquetAlgorithm+parquetCompression+"\x00", ErrCorrupt)
	refuse("no field 4", parquetSize+parquetAlgorithm+parquetHashing+"\x00", ErrCorrupt)
	refuse("two sizes", parquetSize+parquetSize+parquetRest, ErrCorrupt)
	refuse("two field 2", parquetSize+parquetAlgorithm+parquetRest, ErrCorrupt)
	refuse("no type", parquetAll+"\x10", ErrCorrupt)
	refuse("type 14", parquetAll+"\x1e", ErrCorrupt)
	refuse("type 15", parquetAll+"\x1f", ErrCorrupt)
	refuse("a list without a type", parquetAll+"\x19\x10", ErrCorrupt)
	refuse("a map without a type of keys", parquetAll+"\x1b\x01\x05", ErrCorrupt)
	refuse("a map without a type of values", parquetAll+"\x1b\x01\x50\x01", ErrCorrupt)
	refuse("a number of a field over 15 bits", parquetAll+"\x05\x80\x80\x04\x00\x00", ErrCorrupt)
	refuse("a number of a field over 15 bits by a step", parquetAll+"\x05\xfe\xff\x03\x00\x15\x00\x00", ErrCorrupt)

	refuse("an endless varint", "\x15"+strings.Repeat("\xff", 1<<16), ErrCorrupt)
	refuse("a varint of 65 bits", "\x15"+strings.Repeat("\x80", 9)+"\x02"+parquetRest, ErrCorrupt)
	refuse("deep structs", parquetAll+strings.Repeat("\x1c", 1<<16), ErrCorrupt)
	refuse("a struct too deep", parquetAll+nested(thriftDepth+1, "\x1c", "\x00")+"\x00", ErrCorrupt)
	refuse("deep lists", parquetAll+strings.Repeat("\x19", 1<<16), ErrCorrupt)
	refuse("deep structs in the hash", parquetSize+"\x0c\x06"+strings.Repeat("\x1c", 1<<16), ErrCorrupt)
	refuse("a long string", parquetAll+"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"+strings.Repeat("a", 1<<16), ErrCorrupt)
	refuse("a long list that is there", parquetAll+"\x19\xf5\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"+strings.Repeat("\x00", 1<<16), ErrCorrupt)
	refuse("a long map that is there", parquetAll+"\x1b\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x11"+strings.Repeat("\x01", 1<<16), ErrCorrupt)
	refuse("many fields", parquetAll+strings.Repeat("\x01\x0e", 1<<16), ErrCorrupt)
}

// Whatever a byte of a header is changed to, Import returns an error, or reads a filter from the same
// bitset; it does not panic and takes no memory that was not asked for.
func TestParquetHeaderChanged(t *testing.T) {
	whole := parquetMR(t)
	f := splitOf[string](t, 1)
	for i := range 16 {
		for x := 1; x < 256; x++ {
			b := bytes.Clone(whole)
			b[i] ^= byte(x)
			before := f.Clone()
			if _, err := f.Import(bytes.NewReader(b)); err != nil {
				require.Equal(t, before, f)
				require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMismatch) || errors.Is(err, ErrTooLarge), "byte %d ^ %#x: %v", i, x, err)
			} else {
				require.LessOrEqual(t, f.Blocks(), 32)
			}
		}
	}
}
