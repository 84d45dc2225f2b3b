package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/trace"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func command(args ...string) (code int, stdout, stderr string) {
	return commandWith("", args...)
}

func commandWith(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
	return path
}

// exact are the implementations with one order of eviction and no random hash.
const exact = "lru/shards=1,fifo,golang-lru,freelru/synced"

func golden(t *testing.T, name, got string) {
	t.Helper()
	got = regexp.MustCompile(`GOMAXPROCS=\d+`).ReplaceAllString(got, "GOMAXPROCS=N")
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o666))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestTable(t *testing.T) {
	code, stdout, stderr := command("-only", exact, "-synthetic", "zipf,loop,scan,mixed",
		"-requests", "30000", "-keys", "1000", "-sizes", "1%,20%,999")
	assert.Empty(t, stderr)
	require.Equal(t, 0, code)
	golden(t, "table.txt", stdout)
}

func TestCSV(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.csv")
	code, _, stderr := command("-only", exact, "-synthetic", "scan", "-requests", "20000", "-keys", "1000",
		"-sizes", "100,5%", "-csv", path)
	assert.Empty(t, stderr)
	require.Equal(t, 0, code)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	golden(t, "results.csv", string(got))
}

func TestSVG(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"one trace", []string{"-synthetic", "zipf", "-sizes", "10,20%"}, []string{"Hit ratio, zipf", "size (entries)"}},
		{"mean over percent", []string{"-synthetic", "zipf,loop", "-sizes", "1%,20%"}, []string{"Hit ratio, mean of 2 traces", "size (percent of the distinct keys)"}},
		{"mean over sizes", []string{"-synthetic", "zipf,loop", "-sizes", "10,20"}, []string{"Hit ratio, mean of 2 traces", "size (entries)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out.svg")
			code, _, stderr := command(append(tc.args, "-requests", "5000", "-keys", "100", "-svg", path)...)
			assert.Empty(t, stderr)
			require.Equal(t, 0, code)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, xml.Unmarshal(got, new(struct{})))
			for _, want := range append(tc.want, "lru/shards=1", "phuslu", "optimum") {
				assert.Contains(t, string(got), ">"+want+"<")
			}
		})
	}
}

func TestTraces(t *testing.T) {
	text := file(t, "keys.txt", "a\nb\na\nb\n")
	arc := file(t, "requests.lis", "0 2 0 0\n0 2 0 1\n")
	fields := file(t, "fields.csv", "1,a\n2,b\n3,a\n4,b\n")
	line := regexp.MustCompile(`(?m)^(keys\.txt|requests|fields\.csv|stdin) +2 +50\.00 +50\.00$`)
	for _, tc := range []struct {
		name string
		args []string
	}{
		{"text", []string{text}},
		{"flag", []string{"-trace", text}},
		{"arc", []string{arc}},
		{"fields", []string{"-field", "2", "-separator", ",", fields}},
		{"standard input", []string{"-"}},
		{"format", []string{"-format", "arc", "-trace", arc}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := commandWith("x\ny\nx\ny\n", append([]string{"-only", "golang-lru", "-sizes", "2"}, tc.args...)...)
			assert.Empty(t, stderr)
			require.Equal(t, 0, code)
			assert.Regexp(t, line, stdout)
		})
	}

	code, stdout, _ := command("-only", "golang-lru", "-sizes", "1,2", "-trace", text, "-trace", arc, arc)
	require.Equal(t, 0, code)
	assert.Regexp(t, `(?m)^mean +1 +0\.00 +25\.00$`, stdout)
	assert.Regexp(t, `(?m)^mean +2 +50\.00 +50\.00$`, stdout)

	code, stdout, _ = command("-only", "golang-lru", "-sizes", "1", "-limit", "1", text)
	require.Equal(t, 0, code)
	assert.Contains(t, stdout, "keys.txt: 1 requests, 1 distinct keys\n")
}

func TestBadInput(t *testing.T) {
	ok := file(t, "ok.txt", "a\n")
	arc := file(t, "bad.lis", "1 1 0 0\n2 x 0 0\n")
	cut := file(t, "cut.u64", "\x00\x00\x00")
	empty := file(t, "empty.txt", "")
	gz := file(t, "bad.u64.gz", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03rubbish")
	none := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"nothing to replay; give it traces or -synthetic (-h shows all flags)", nil},
		{"flag provided but not defined: -x", []string{"-x"}},
		{"flag needs an argument: -sizes", []string{"-sizes"}},
		{`invalid value "x" for flag -requests: parse error`, []string{"-requests", "x"}},
		{"no such file or directory", []string{none}},
		{"no such file or directory", []string{"-trace", ok, "-trace", none}},
		{`bad.lis: line 2: bad count: strconv.ParseUint: parsing "x": invalid syntax`, []string{arc}},
		{"cut.u64: truncated: 3 of 8 bytes after request 0", []string{cut}},
		{"empty.txt: no requests in it", []string{empty}},
		{"standard input: no requests in it", []string{"-"}},
		{"bad.u64.gz: after request 0: bad gzip: ", []string{gz}},
		{"ok.txt: line 1: no field 2", []string{"-field", "2", ok}},
		{"-field: must not be negative, got -1", []string{"-field", "-1", ok}},
		{"-limit: must not be negative, got -1", []string{"-limit", "-1", ok}},
		{`-format: trace: format must be one of auto, u64, text, arc, got "csv"`, []string{"-format", "csv", ok}},
		{`-sizes: a size must be from 1 to 100000000, or a percentage of the distinct keys, got ""`, []string{"-sizes", "", ok}},
		{`got "0"`, []string{"-sizes", "10,0", ok}},
		{`got "-1"`, []string{"-sizes", "-1", ok}},
		{`got "100000001"`, []string{"-sizes", "100000001", ok}},
		{`got "99999999999999999999"`, []string{"-sizes", "99999999999999999999", ok}},
		{`-sizes: a percentage must be above 0% and at most 100%, got "0%"`, []string{"-sizes", "0%", ok}},
		{`got "101%"`, []string{"-sizes", "101%", ok}},
		{`got "NaN%"`, []string{"-sizes", "NaN%", ok}},
		{`got "%"`, []string{"-sizes", "%", ok}},
		{`-shards: must be from 0 to 65536, got "-1"`, []string{"-shards", "-1", ok}},
		{`-shards: must be from 0 to 65536, got "two"`, []string{"-shards", "two", ok}},
		{`-only: no implementation "mru"; there are lru, lfu, lru/shards=1, lfu/shards=1, lfu.Exact, fifo, golang-lru`, []string{"-only", "lru,mru", ok}},
		{`-synthetic: no workload "storm"; there are zipf, loop, scan, mixed`, []string{"-synthetic", "zipf,storm"}},
		{"-requests: must be from 1 to 1000000000, got 0", []string{"-synthetic", "zipf", "-requests", "0"}},
		{"-requests: must be from 1 to 1000000000, got 1000000001", []string{"-synthetic", "zipf", "-requests", "1000000001"}},
		{"-keys: must be from 1 to 2^53, got 0", []string{"-synthetic", "zipf", "-keys", "0"}},
		{"-skew: must be positive and finite, got 0", []string{"-synthetic", "zipf", "-skew", "0"}},
		{"-skew: must be positive and finite, got NaN", []string{"-synthetic", "zipf", "-skew", "NaN"}},
		{"-skew: must be positive and finite, got +Inf", []string{"-synthetic", "zipf", "-skew", "Inf"}},
		{"-svg: the sizes for several traces must be all in entries or all in percent", []string{"-svg", none, "-sizes", "1,1%", ok, ok}},
	} {
		code, stdout, stderr := command(tc.args...)
		assert.Equal(t, 2, code, tc.args)
		assert.Empty(t, stdout, tc.args)
		assert.True(t, strings.HasPrefix(stderr, "hitratio: "), stderr)
		assert.Contains(t, stderr, tc.want)
		assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		assert.NoFileExists(t, none)
	}
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := command("-h")
	assert.Equal(t, 0, code)
	assert.Empty(t, stderr)
	assert.Contains(t, stdout, "usage: hitratio [flags] [trace …]\n")
	assert.Contains(t, stdout, "-synthetic")
}

var errFull = errors.New("disk full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestOutputErrors(t *testing.T) {
	args := []string{"-only", "golang-lru", "-synthetic", "loop", "-requests", "10", "-keys", "5"}
	none := filepath.Join(t.TempDir(), "none", "file")
	for _, name := range []string{"-svg", "-csv"} {
		code, stdout, stderr := command(append(args, name, none)...)
		assert.Equal(t, 1, code)
		assert.Empty(t, stdout, "nothing is replayed in vain")
		assert.Regexp(t, `^hitratio: open .*no such file or directory\n$`, stderr)
	}

	var stderr bytes.Buffer
	assert.Equal(t, 1, run(args, nil, fullDisk{}, &stderr))
	assert.Equal(t, "hitratio: disk full\n", stderr.String())

	r := report{works: []workload{{"w", []uint64{1}, 1}}, sizes: []size{{entries: 1}}}
	r.rows = replayAll(r.works, r.sizes, 0, nil)
	assert.ErrorIs(t, r.writeCSV(fullDisk{}), errFull)
}

func find(t *testing.T, name string) impl {
	t.Helper()
	ims, err := choose(impls([]int{0, 1}), name)
	require.NoError(t, err)
	return ims[0]
}

// Least recently used and first in, first out lose every key of a loop just
// before it comes round again, if it is one longer than they are.
func TestLoopJustTooLong(t *testing.T) {
	const n = 100
	for _, name := range split(exact) {
		im := find(t, name)
		assert.Equal(t, 0, replay(trace.Loop(10*(n+1), n+1), im, n).hits, name)
		assert.Equal(t, 9*n, replay(trace.Loop(10*n, n), im, n).hits, name)
	}
}

// What tells the two orders apart: 1 is used again before 3 comes.
func TestOrders(t *testing.T) {
	keys := []uint64{1, 2, 1, 3, 1}
	assert.Equal(t, 1, replay(keys, find(t, "fifo"), 2).hits)
	for _, name := range []string{"lru/shards=1", "golang-lru", "freelru/synced"} {
		assert.Equal(t, 2, replay(keys, find(t, name), 2).hits, name)
	}
}

// Every implementation keeps all keys if there is room in plenty, none ever hits
// more often than the optimum for what it holds, and one key is no problem.
func TestImpls(t *testing.T) {
	keys := trace.Synthetic(20_000, 1)
	unique := trace.Unique(keys)
	for _, im := range impls([]int{0, 1, 4}) {
		t.Run(im.name, func(t *testing.T) {
			r := replay(keys, im, 20*unique)
			assert.Equal(t, result{hits: len(keys) - unique, held: unique}, r)

			r = replay(keys, im, 500)
			require.NoError(t, r.err)
			assert.LessOrEqual(t, r.hits, trace.Belady(keys, r.held))
			assert.Greater(t, r.hits, trace.Belady(keys, r.held)/4)

			if r = replay(make([]uint64, 1000), im, 1); im.name == "2q" {
				assert.Error(t, r.err, "it divides 1 into parts")
			} else {
				assert.Equal(t, result{hits: 999, held: 1}, r)
			}
		})
	}
}

// sloppy holds twice what it is asked to, and refuses sizes above 10.
var sloppy = impl{"sloppy", func(size int) (cache, error) {
	if size > 10 {
		return cache{}, errors.New("too large")
	}
	held := map[uint64]bool{}
	return cache{
		get: func(k uint64) bool { return held[k] },
		set: func(k uint64) {
			for other := range held {
				if len(held) < 2*size {
					break
				}
				delete(held, other)
			}
			held[k] = true
		},
		len: func() int { return len(held) },
	}, nil
}}

func TestTableSaysWhatIsOdd(t *testing.T) {
	loop := trace.Loop(100, 8)
	r := report{
		works: []workload{{"loop", loop, 8}, {"again", loop, 8}},
		sizes: []size{{entries: 4}, {percent: 100}, {entries: 20}},
		ims:   []impl{sloppy},
	}
	r.rows = replayAll(r.works, r.sizes, 0, r.ims)
	var out bytes.Buffer
	require.NoError(t, r.writeTable(&out))
	golden(t, "odd.txt", out.String())

	c := r.chart()
	assert.Len(t, c.Series[0].Points, 2, "no point where the implementation was not possible")
	assert.Len(t, c.Series[1].Points, 3)

	r.sizes = r.sizes[2:]
	r.rows = replayAll(r.works, r.sizes, 0, r.ims)
	c = r.chart()
	require.Len(t, c.Series, 1, "no series without points")
	assert.Equal(t, "optimum", c.Series[0].Name)
	require.NoError(t, c.WriteSVG(io.Discard))

	out.Reset()
	require.NoError(t, r.writeCSV(&out))
	assert.Equal(t, 3, strings.Count(out.String(), "\n"), "the header and two optima")
}
