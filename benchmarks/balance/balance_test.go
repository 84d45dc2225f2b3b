package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/consistenthash"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func command(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

// small is a run that takes little time.
var small = []string{"-sets", "3", "-peersets", "2", "-nodes", "3,20", "-keys", "2000", "-changes", "2"}

func TestTable(t *testing.T) {
	code, stdout, stderr := command(small...)
	assert.Empty(t, stderr)
	require.Equal(t, 0, code)
	path := filepath.Join("testdata", "table.txt")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(stdout), 0o666))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), stdout)
}

func TestSVG(t *testing.T) {
	dir := t.TempDir()
	code, _, stderr := command(append(small, "-svg", dir)...)
	assert.Empty(t, stderr)
	require.Equal(t, 0, code)
	for file, texts := range map[string][]string{
		"peak.svg":    {"Peak load", "nodes", "multiple of the fair share", "slots", "jump", "consistent"},
		"minimum.svg": {"Minimum load", "ring"},
		"moves.svg":   {"Moved without need", "maglev, one leaves", "maglev, one joins"},
	} {
		got, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		require.NoError(t, xml.Unmarshal(got, new(struct{})))
		for _, want := range texts {
			assert.Contains(t, string(got), ">"+want+"<", file)
		}
		assert.NotContains(t, string(got), "points=1", file)
	}

	r := report{options: options{nodes: []int{10}, impls: impls()[:1]}, results: [][][]result{{{{peak: 1}}}}}
	assert.Len(t, r.chart(drawings[2]).Series, 2, "there is something to draw if nothing moves")
}

func TestBadInput(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"flag provided but not defined: -x", []string{"-x"}},
		{"flag needs an argument: -nodes", []string{"-nodes"}},
		{`invalid value "x" for flag -sets: parse error`, []string{"-sets", "x"}},
		{`takes flags only, got "10"`, []string{"10"}},
		{"-sets: must be from 1 to 10000, got 0", []string{"-sets", "0"}},
		{"-sets: must be from 1 to 10000, got 10001", []string{"-sets", "10001"}},
		{"-peersets: must be from 1 to 10000, got -1", []string{"-peersets", "-1"}},
		{`-nodes: must be from 2 to 5000, got ""`, []string{"-nodes", ""}},
		{`-nodes: must be from 2 to 5000, got "1"`, []string{"-nodes", "10,1"}},
		{`-nodes: must be from 2 to 5000, got "5001"`, []string{"-nodes", "5001"}},
		{`-nodes: must be from 2 to 5000, got "ten"`, []string{"-nodes", "ten"}},
		{"-keys: must be from 10 to 100000000, got 9", []string{"-keys", "9"}},
		{"-keys: must be from 10 to 100000000, got 100000001", []string{"-keys", "100000001"}},
		{"-changes: must be from 1 to 5000, got 0", []string{"-changes", "0"}},
		{`-only: no implementation "rings"; there are slots, ring, rendezvous, maglev, ketama, jump, hashring,`, []string{"-only", "ring,rings"}},
		{"no such file or directory", []string{"-svg", none}},
		{"-svg: " + file + " is no directory", []string{"-svg", file}},
	} {
		code, stdout, stderr := command(tc.args...)
		assert.Equal(t, 2, code, tc.args)
		assert.Empty(t, stdout, tc.args)
		assert.True(t, strings.HasPrefix(stderr, "balance: "), stderr)
		assert.Contains(t, stderr, tc.want)
		assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		assert.NoFileExists(t, none)
	}
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := command("-h")
	assert.Equal(t, 0, code)
	assert.Empty(t, stderr)
	assert.Contains(t, stdout, "usage: balance [flags]\n")
	assert.Contains(t, stdout, "-peersets")
}

var errFull = errors.New("disk full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestOutputErrors(t *testing.T) {
	args := []string{"-only", "ring", "-sets", "1", "-nodes", "3"}
	var stderr bytes.Buffer
	assert.Equal(t, 1, run(args, fullDisk{}, &stderr))
	assert.Equal(t, "balance: disk full\n", stderr.String())

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "minimum.svg"), 0o777))
	code, stdout, text := command(append(args, "-svg", dir)...)
	assert.Equal(t, 1, code)
	assert.Empty(t, stdout, "nothing is measured in vain")
	assert.Regexp(t, `^balance: open .*minimum\.svg: is a directory\n$`, text)

	assert.ErrorIs(t, report{options: options{nodes: []int{3}, impls: impls()[:1]},
		results: [][][]result{{{{peak: 1}}}}}.chart(drawings[0]).WriteSVG(fullDisk{}), errFull)
}

// What cannot be built ends the run with an error that says what it was.
func TestBuildError(t *testing.T) {
	o := options{sets: 2, nodes: []int{300}, changes: 1, keys: 10, impls: []impl{ours("maglev", "entries", consistenthash.Maglev(257))}}
	assert.EqualError(t, o.produce(io.Discard),
		"maglev with 300 nodes: consistenthash: Maglev takes at most 257 nodes with a size of 257, got 300")

	o.nodes = []int{257} // one more, which joins, is too many
	assert.ErrorContains(t, o.produce(io.Discard), "maglev with 257 nodes: consistenthash: Maglev takes at most 257 nodes")
}

func TestLoads(t *testing.T) {
	const half = 1 << 63
	assert.Equal(t, []float64{1, 1}, territory{{half - 1, 0}, {math.MaxUint64, 1}}.loads(2))
	assert.Equal(t, []float64{0.5, 1.5}, territory{{half/2 - 1, 0}, {math.MaxUint64, 1}}.loads(2))
	assert.Equal(t, []float64{0, 2}, territory{{math.MaxUint64, 1}}.loads(2))
	assert.Equal(t, []float64{1.2, 1.8, 0}, territory{{0, 1}, {1, 0}, {3, 1}, {4, 0}}.loads(3), "of five keys")
}

// Of twelve positions, 0 to 3 belong to node 0, 4 to 7 to 1, and 8 to 11 to 2.
func TestMoved(t *testing.T) {
	before := territory{{3, 0}, {7, 1}, {11, 2}}
	same := func(node int32) int32 { return node }
	without := func(gone int32) func(int32) int32 {
		return func(node int32) int32 {
			if node == gone {
				return -1
			}
			return node
		}
	}
	renumbered := func(node int32) int32 { // after node 1 has left
		if node >= 1 {
			return node + 1
		}
		return node
	}
	for _, tc := range []struct {
		name        string
		after       territory
		staysBefore func(int32) int32
		staysAfter  func(int32) int32
		want        float64
	}{
		{"nothing changes", before, same, same, 0},
		{"1 leaves, and only what it had moves", territory{{5, 0}, {11, 1}}, without(1), renumbered, 0},
		{"1 leaves, and 0 gives one position to 2", territory{{2, 0}, {3, 1}, {5, 0}, {11, 1}}, without(1), renumbered, 1. / 8},
		{"1 leaves, and all move", territory{{3, 1}, {11, 0}}, without(1), renumbered, 1},
		{"3 joins, and all that moves goes to it", territory{{2, 0}, {4, 3}, {7, 1}, {11, 2}}, same, without(3), 0},
		{"3 joins, and 2 gives three positions to 1", territory{{2, 0}, {3, 3}, {10, 1}, {11, 2}}, same, without(3), 3. / 12},
		{"only half is compared", territory{{2, 0}, {5, 2}}, same, same, 3. / 6},
	} {
		assert.Equal(t, tc.want, before.moved(tc.after, tc.staysBefore, tc.staysAfter), tc.name)
	}
	one := territory{{11, 0}}
	assert.Zero(t, one.moved(one, without(0), same), "nobody stays")
}

// What is counted here is what the package itself says moves.
func TestMovedIsWhatDiffSays(t *testing.T) {
	const n = 20
	o := options{sets: 1, changes: 1, keys: 10, seed: 1}
	for _, tc := range []struct {
		name string
		a    consistenthash.Algorithm
	}{
		{"slots", consistenthash.Slots(consistenthash.SlotsConfig{})},
		{"maglev", consistenthash.Maglev(0)},
		{"ring", consistenthash.Ring(consistenthash.RingConfig{})},
	} {
		r, err := o.measureSet(ours(tc.name, "positions", tc.a), n, 0)
		require.NoError(t, err)
		newMap := func(n int) *consistenthash.Map[string] {
			c := consistenthash.Config[string]{Algorithm: tc.a}
			for i := range n {
				c.Members = append(c.Members, consistenthash.Member[string]{Node: consistenthash.Node{ID: nodeName(0, i), Weight: 1}})
			}
			m, err := consistenthash.New(c)
			require.NoError(t, err)
			return m
		}
		share := 0.
		for m := range consistenthash.Diff(newMap(n), newMap(n+1)) {
			if m.To != nodeName(0, n) {
				share += m.Share()
			}
		}
		assert.InDelta(t, share, r.join, 1e-12, tc.name)
		if tc.name == "maglev" {
			assert.Positive(t, r.join)
			assert.Positive(t, r.leave)
		}
	}
}

// Every implementation gives each node something, and those that claim it move nothing without
// need.
func TestImpls(t *testing.T) {
	o := options{sets: 1, peerSets: 1, nodes: []int{8}, changes: 8, keys: 20_000, seed: 1}
	for _, in := range impls() {
		t.Run(in.name, func(t *testing.T) {
			r, err := o.measureSet(in, 8, 0)
			require.NoError(t, err)
			switch in.name {
			case "slots", "maglev", "consistent":
				assert.Less(t, max(r.leave, r.join), 0.03)
			default:
				assert.Zero(t, r.leave)
				assert.Zero(t, r.join)
			}
			if in.apart {
				return
			}
			assert.Less(t, r.peak, 1.4)
			assert.Greater(t, r.minimum, 0.6)
			assert.LessOrEqual(t, r.minimum, r.peak)
		})
	}
}

// A perfectly even placement has the loads of sampled keys that the table says.
func TestNoise(t *testing.T) {
	assert.InDelta(t, 0, medianMax(1), 1e-12)
	assert.InDelta(t, 0.5449, medianMax(2), 1e-3)
	assert.InDelta(t, 3.198, medianMax(1000), 5e-3)
	r := report{options: options{keys: 1_000_000}}
	assert.InDelta(t, 0.01, r.noise(100), 1e-12)
}

func TestKeys(t *testing.T) {
	a, b := keysOf(0, 1000), keysOf(12, 1000)
	assert.Equal(t, "user000000000000", a[0])
	assert.Equal(t, "user001200000999", b[999])
	seen := make(map[string]bool)
	for _, k := range append(a, b...) {
		assert.Len(t, k, 16)
		seen[k] = true
	}
	assert.Len(t, seen, 2000)
}
