package benchmarks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	parquetbloom "github.com/parquet-go/parquet-go/bloom"
	parquetxxhash "github.com/parquet-go/parquet-go/bloom/xxhash"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/bloom"
)

// checkParquet adds keys to a filter here and to one of parquet-go with as many blocks: the bytes
// are the same, and each filter reads what the other has written.
func checkParquet[K any](t *testing.T, blocks int, keys []K, hash func(K) uint64) {
	t.Helper()
	ours := new(bloom.SplitBlock[K])
	require.NoError(t, ours.ImportBitset(make([]byte, 32*blocks))) // empty, of that size
	theirs := make(parquetbloom.SplitBlockFilter, blocks)
	for _, k := range keys {
		ours.Add(k)
		theirs.Insert(hash(k))
	}
	require.Equal(t, theirs.Bytes(), ours.Bitset())
	read := new(bloom.SplitBlock[K])
	require.NoError(t, read.ImportBitset(theirs.Bytes()))
	mine := parquetbloom.MakeSplitBlockFilter(bytes.Clone(ours.Bitset()))
	for _, k := range keys {
		require.True(t, read.Contains(k))
		require.True(t, mine.Check(hash(k)))
	}
}

func TestParquetGo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, blocks := range []int{1, 2, 3, 32, 1000} {
		for _, n := range []int{1, 10, 1000} {
			ints := make([]int64, n)
			small := make([]int32, n)
			floats := make([]float64, n)
			texts := make([]string, n)
			for i := range n {
				ints[i], small[i], floats[i] = int64(rng.Uint64()), int32(rng.Uint32()), rng.NormFloat64()
				texts[i] = strings.Repeat("x", rng.IntN(40)) + fmt.Sprint(rng.Uint64())
			}
			checkParquet(t, blocks, ints, func(k int64) uint64 { return parquetxxhash.Sum64Uint64(uint64(k)) })
			checkParquet(t, blocks, small, func(k int32) uint64 { return parquetxxhash.Sum64Uint32(uint32(k)) })
			checkParquet(t, blocks, floats, func(k float64) uint64 { return parquetxxhash.Sum64Uint64(math.Float64bits(k)) })
			checkParquet(t, blocks, texts, func(k string) uint64 { return parquetxxhash.Sum64([]byte(k)) })
		}
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], 7)
	require.Equal(t, parquetxxhash.Sum64(b[:]), parquetxxhash.Sum64Uint64(7))
}

// parquetFile is what parquet-go writes and reads.
type parquetFile struct {
	Name string `parquet:"name"`
	ID   int64  `parquet:"id"`
	Size int32  `parquet:"size"`
}

// A filter in a Parquet file that parquet-go has written is imported from its place in the
// file, header and all, and answers like parquet-go's own.
func TestParquetFile(t *testing.T) {
	var file bytes.Buffer
	w := parquet.NewGenericWriter[parquetFile](&file, parquet.BloomFilters(
		parquet.SplitBlockFilter(11, "name"), parquet.SplitBlockFilter(11, "id"), parquet.SplitBlockFilter(11, "size"),
	))
	const n = 1000
	for i := range n {
		_, err := w.Write([]parquetFile{{Name: fmt.Sprint("name ", i), ID: int64(i) << 33, Size: int32(-i)}})
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	names := importColumn[string](t, file.Bytes(), 0)
	ids := importColumn[int64](t, file.Bytes(), 1)
	sizes := importColumn[int32](t, file.Bytes(), 2)
	wrong := 0
	for i := range n {
		require.True(t, names.Contains(fmt.Sprint("name ", i)))
		require.True(t, ids.Contains(int64(i)<<33))
		require.True(t, sizes.Contains(int32(-i)))
		if names.Contains(fmt.Sprint("other ", i)) || ids.Contains(int64(i)<<33+1) || sizes.Contains(int32(i+1)) {
			wrong++
		}
	}
	require.Less(t, wrong, n/10)
}

// importColumn imports the filter of a column, from where the file's metadata says that it is.
func importColumn[K any](t *testing.T, data []byte, column int) *bloom.SplitBlock[K] {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	offset := f.Metadata().RowGroups[0].Columns[column].MetaData.BloomFilterOffset
	require.Positive(t, offset)
	filter := new(bloom.SplitBlock[K])
	_, err = filter.Import(bytes.NewReader(data[offset:]))
	require.NoError(t, err)
	theirs := f.RowGroups()[0].ColumnChunks()[column].BloomFilter()
	require.Equal(t, theirs.Size(), int64(len(filter.Bitset())))
	bitset := make([]byte, theirs.Size())
	_, err = theirs.ReadAt(bitset, 0)
	require.NoError(t, err)
	require.Equal(t, bitset, filter.Bitset())
	// What we export is what stands in the file.
	var out bytes.Buffer
	_, err = filter.Export(&out)
	require.NoError(t, err)
	require.Equal(t, data[offset:int(offset)+out.Len()], out.Bytes())
	return filter
}

// A file of the Parquet project, written by Impala, that comes with parquet-go's tests.
func TestParquetImpala(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/parquet-go/parquet-go").Output()
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "testdata", "data_index_bloom_encoding_stats.parquet"))
	require.NoError(t, err)
	filter := importColumn[string](t, data, 0)
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	rows := f.RowGroups()[0].Rows()
	defer rows.Close()
	buf := make([]parquet.Row, 100)
	n, _ := rows.ReadRows(buf)
	require.Positive(t, n)
	for _, row := range buf[:n] {
		require.True(t, filter.Contains(row[0].String()), row[0].String())
	}
	wrong := 0
	for i := range 1000 {
		if filter.Contains(fmt.Sprint("no such row ", i)) {
			wrong++
		}
	}
	require.Less(t, wrong, 100)
}
