package main

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
	"github.com/sysblocks/sysblocks/internal/trace"
	"github.com/sysblocks/sysblocks/lru"
)

// command runs cachesim, which must not print both a report and an error.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &errs)
	require.Truef(t, out.Len() == 0 || errs.Len() == 0, "stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
	return code, out.String(), errs.String()
}

var speed = regexp.MustCompile(` +[0-9.]+ M requests/s`)

// What the adaptive cache decides depends a little on its random hash, and so may the advice.
var byChance = regexp.MustCompile(`(?m)^  LFU, adaptive .*$`)

// A single shard, because how several share the keys out differs from run to
// run.
func TestGolden(t *testing.T) {
	for name, args := range map[string][]string{
		"access":      {"-trace", "testdata/access.log", "-field", "7"},
		"unreachable": {"-trace", "testdata/access.log", "-field", "7", "-target", "95%", "-sizes", "3,2,50%,1,2"},
		"scan":        {"-trace", "testdata/scan.txt", "-sizes", "1,2,3,4,5,6,7,8,9,10"},
	} {
		t.Run(name, func(t *testing.T) {
			code, got, stderr := command(t, "", append(args, "-shards=1", "-plot=false")...)
			require.Zero(t, code, stderr)
			got = speed.ReplaceAllString(got, "  … M requests/s")
			got, advice, _ := strings.Cut(got, "\nTake ")
			if name == "scan" {
				assert.Equal(t, "LRU, 1 shard, with 11 entries (100 % of the keys):\n\n"+
					"  lru.New(lru.Config[K, V]{Capacity: 11, Shards: 1})\n", advice)
			}
			got = byChance.ReplaceAllString(got, "  LFU, adaptive …")
			clitest.Golden(t, filepath.Join("testdata", name+".golden"), got)
		})
	}
}

func TestSynthetic(t *testing.T) {
	code, out, stderr := command(t, "", "-requests=20000", "-sizes=1%,10%")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "synthetic, seed 1 ")
	assert.Contains(t, out, "20,000, for ")
	assert.Contains(t, out, "\nTake LFU, adaptive, with ")
	assert.Contains(t, out, "\n  lfu.New(lfu.Config[K, V]{Capacity: ")
	assert.Contains(t, out, "\n* LRU, 1 shard", "the legend of the plot")
	for line := range strings.Lines(out) {
		assert.LessOrEqual(t, len([]rune(line)), lineWidth+1, line)
	}
}

func TestStandardInput(t *testing.T) {
	const log = "GET;a\nGET;b\nGET;a\nGET;a\n"
	code, out, stderr := command(t, log, "-trace=-", "-field=2", "-sep=;", "-target=0.5", "-shards=1", "-sizes=1,2")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "Workload   standard input\n")
	assert.Contains(t, out, "Requests   4, for 2 distinct keys\n")
	assert.Regexp(t, `\n  LRU, 1 shard +25\.00 +50\.00\n`, out)
	assert.Regexp(t, `\n  LRU, 1 shard +2 entries  exactly `, out)

	code, out, stderr = command(t, log, "-trace=-", "-field=2", "-sep=;", "-requests=2", "-shards=1")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "Requests   2, for 2 distinct keys\n")
	assert.Contains(t, out, "No key is asked for twice")
	assert.NotContains(t, out, "Take")
}

func TestSVG(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plot.svg")
	code, _, stderr := command(t, "", "-trace=testdata/access.log", "-field=7", "-svg", file)
	require.Zero(t, code, stderr)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	names := ""
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if text, ok := token.(xml.CharData); ok {
			names += string(text)
		}
	}
	for _, name := range []string{"LRU, 1 shard", "FIFO, 1 shard", "LFU, adaptive", "LFU, exact", "optimal", ": access.log"} {
		assert.Contains(t, names, name)
	}
}

func TestHelp(t *testing.T) {
	code, out, _ := command(t, "", "-help")
	assert.Zero(t, code)
	for _, flag := range []string{"-trace FILE", "-field N", "-sizes LIST", "-target RATIO", "-svg FILE"} {
		assert.Contains(t, out, flag)
	}
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, strings.Repeat("a\nb\nc\n", 1000))
	require.NoError(t, z.Close())
	truncated := file("truncated.gz", zipped.String()[:zipped.Len()-6])
	garbled := file("garbled.gz", "\x1f\x8b\x08 and then something else")
	short := file("short.log", "GET /a\nGET /b\nGET\n")
	odd := file("odd.u64", "12345678123")

	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-trace", filepath.Join(dir, "absent")}, "absent: no such file"},
		{[]string{"-trace", dir}, "is a directory"},
		{[]string{"-trace", truncated}, truncated + ": "},
		{[]string{"-trace", truncated}, "bad gzip"},
		{[]string{"-trace", garbled}, "bad gzip"},
		{[]string{"-trace", short, "-field", "2"}, short + ": line 3: no field 2"},
		{[]string{"-trace", odd}, "truncated"},
		{[]string{"-trace", file("empty", "")}, "no requests"},
		{[]string{"-trace", "-"}, "standard input: no requests"},
		{[]string{"-trace", ""}, "-trace needs"},
		{[]string{"-sizes", "0"}, `-sizes: a size must be from 1 to 2147483646, got "0"`},
		{[]string{"-sizes", "100,-1"}, `got "-1"`},
		{[]string{"-sizes", "100,,200"}, `got ""`},
		{[]string{"-sizes", "99999999999"}, `got "99999999999"`},
		{[]string{"-sizes", "0%"}, `a percentage must be above 0 and at most 100, got "0%"`},
		{[]string{"-sizes", "101%"}, `got "101%"`},
		{[]string{"-sizes", "NaN%"}, `got "NaN%"`},
		{[]string{"-target", "0"}, "-target: must be above 0 and at most 1"},
		{[]string{"-target", "80"}, "-target: must be above 0 and at most 1"},
		{[]string{"-target", "101%"}, "-target: must be above 0 and at most 1"},
		{[]string{"-target", "NaN"}, "-target: must be above 0 and at most 1"},
		{[]string{"-target", "high"}, "-target: must be above 0 and at most 1"},
		{[]string{"-shards", "-1"}, "-shards must be at least 1"},
		{[]string{"-shards", "many"}, "-shards"},
		{[]string{"-requests", "0"}, "-requests must be at least 1"},
		{[]string{"-trace", short, "-field", "-1"}, "-field must be at least 1"},
		{[]string{"-trace", short, "-format", "csv"}, "format must be one of"},
		{[]string{"-trace", short, "-seed", "2"}, "-seed is for the synthetic workload"},
		{[]string{"-field", "7"}, "-field needs a -trace"},
		{[]string{"-colour"}, "-colour"},
		{[]string{"access.log"}, `unexpected argument "access.log"`},
		{[]string{"-requests", "1000", "-svg", filepath.Join(dir, "absent", "plot.svg")}, "plot.svg: no such file"},
		{[]string{"-requests", "1000", "-svg", dir}, "is a directory"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, stderr := command(t, "", test.args...)
			assert.Equal(t, 2, code)
			assert.Contains(t, stderr, test.want)
			assert.Regexp(t, `^cachesim: .*\n$`, stderr)
		})
	}
}

func TestOutputFails(t *testing.T) {
	var stderr bytes.Buffer
	code := run([]string{"-requests=1000"}, nil, clitest.Full{}, &stderr)
	assert.Equal(t, 1, code)
	assert.Equal(t, "cachesim: the report cannot be written: no space left\n", stderr.String())
}

func TestPlotFails(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	var stderr bytes.Buffer
	code := run([]string{"-requests=1000", "-svg=/dev/full"}, nil, io.Discard, &stderr)
	assert.Equal(t, 1, code)
	assert.Regexp(t, "^cachesim: the plot cannot be written: .*\n$", stderr.String())
}

func TestLadder(t *testing.T) {
	sizes := func(list string) []size {
		parsed, err := parseSizes(list)
		require.NoError(t, err)
		return parsed
	}
	// The distinct keys of the ARC paper's OLTP trace, and sizes at which its
	// ratios are published.
	assert.Equal(t, []int{186, 560, 1868, 5606, 18688, 37376, 93440}, ladder(sizes(defaultSizes), 186_880))
	assert.Equal(t, []int{1, 2, 5}, ladder(sizes(defaultSizes), 10))
	assert.Equal(t, []int{323}, ladder(sizes("32.3%"), 1000))
	assert.Equal(t, []int{1, 7, 10}, ladder(sizes("10, 7,1%, 10 %"), 100))
}

func TestAttainable(t *testing.T) {
	for _, test := range []struct {
		target             float64
		requests, distinct int
		need               int
		lower              bool
	}{
		{0.8, 1000, 100, 800, false},
		{0.8, 1000, 200, 800, false}, // just so
		{0.8, 1000, 201, 720, true},
		{0.8, 1001, 100, 801, false},
		{0.07, 100, 10, 7, false}, // 0.07*100 is more than 7
		{1, 10, 1, 9, true},
		{0.5, 10, 10, 0, true},
	} {
		need, lower := attainable(test.target, test.requests, test.distinct)
		assert.Equalf(t, test.need, need, "%+v", test)
		assert.Equalf(t, test.lower, lower, "%+v", test)
	}
}

func TestCurveByHand(t *testing.T) {
	// Stack distances: a new, b new, a 2, a 1, c new, b 3.
	c := lruCurve([]uint64{'a', 'b', 'a', 'a', 'c', 'b'})
	assert.Equal(t, curve{0, 1, 2, 3}, c)
	for hits, want := range map[int]int{0: 0, 1: 1, 2: 2, 3: 3} {
		size, ok := c.smallest(hits)
		assert.True(t, ok)
		assert.Equal(t, want, size)
	}
	_, ok := c.smallest(4)
	assert.False(t, ok)
	assert.Equal(t, curve{0}, lruCurve(nil))
}

// The curve must agree with the cache at every size.
func TestCurveAgreesWithReplay(t *testing.T) {
	seed := rand.Uint64()
	keys := append(trace.Zipf(2000, 60, 0.8, seed), trace.Loop(500, 40)...)
	c := lruCurve(keys)
	require.Equal(t, trace.Unique(keys)+1, len(c), "seed %d", seed)
	for size := 1; size < len(c); size++ {
		hits, err := through(lru.RecentUse, 1)(keys, size, func(int) {})
		require.NoError(t, err)
		require.Equal(t, c[size], hits, "seed %d, size %d", seed, size)
	}
}

func TestSearch(t *testing.T) {
	// A policy whose hits are a known function of the size.
	calls := 0
	linear := policy{replay: func(_ []uint64, size int, _ func(int)) (int, error) {
		calls++
		return min(size, 90_000), nil
	}}
	for _, test := range []struct {
		sizes        []int
		need         int
		least, most  int
		replaysBelow int
	}{
		{[]int{1000, 10_000, 50_000}, 5000, 5000, 5050, 9},
		{[]int{1000, 10_000, 50_000}, 10_000, 10_000, 10_000, 8},
		{[]int{1000, 10_000, 50_000}, 80_000, 80_000, 80_800, 8},
		{[]int{1000, 10_000, 50_000}, 95_000, 0, 0, 2}, // not with all keys
		{[]int{1000, 200_000}, 95_000, 0, 0, 1},
		{[]int{500}, 37, 37, 37, 10}, // small sizes are found exactly
		{[]int{1}, 1, 1, 1, 1},
	} {
		r := &report{distinct: 100_000, sizes: test.sizes, need: test.need}
		w := row{policy: linear}
		for _, size := range r.sizes {
			hits, _ := w.replay(nil, size, nil)
			w.hits = append(w.hits, hits)
		}
		calls = 0
		require.NoError(t, w.search(r, nil, nil))
		assert.GreaterOrEqualf(t, w.smallest, test.least, "%+v", test)
		assert.LessOrEqualf(t, w.smallest, test.most, "%+v", test)
		assert.LessOrEqualf(t, calls, test.replaysBelow, "%+v", test)
	}
}

func TestBest(t *testing.T) {
	strict, sharded, fifo := policy{name: "strict"}, policy{name: "sharded", usual: true}, policy{name: "fifo"}
	bound := policy{name: "bound", bound: true}
	for _, test := range []struct {
		strict, sharded, fifo int
		want                  string
	}{
		{1000, 1100, 1500, "sharded"},
		{1000, 1101, 1500, "strict"},
		{1000, 0, 1500, "strict"},
		{1000, 1040, 900, "fifo"},
	} {
		r := report{rows: []row{{policy: strict, smallest: test.strict}, {policy: sharded, smallest: test.sharded},
			{policy: fifo, smallest: test.fifo}, {policy: bound, smallest: 1}}}
		assert.Equalf(t, test.want, r.best().name, "%+v", test)
	}
	assert.Nil(t, (&report{rows: []row{{policy: strict}, {policy: bound, smallest: 1}}}).best())
}

func TestNumbers(t *testing.T) {
	assert.Equal(t, "0", group(0))
	assert.Equal(t, "999", group(999))
	assert.Equal(t, "1,000", group(1000))
	assert.Equal(t, "1,234,567", group(1234567))
	assert.Equal(t, "80", short(80))
	assert.Equal(t, "0.3", short(0.3))
	assert.Equal(t, "99.95", short(99.95))
	assert.Equal(t, "0.3 %", share(560, 186_880))
	assert.Equal(t, "20 %", share(37_376, 186_880))
	assert.Equal(t, "100 %", share(5, 5))
	assert.Equal(t, "<0.01 %", share(1, 1_000_000))
}
