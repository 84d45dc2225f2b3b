package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
	"github.com/sysblocks/sysblocks/shard"
)

// command runs shardplan, which must not print both a plan and an error.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &errs)
	require.Truef(t, out.Len() == 0 || errs.Len() == 0, "stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
	return code, out.String(), errs.String()
}

// planned returns what shardplan prints as JSON.
func planned(t *testing.T, stdin string, args ...string) plan {
	t.Helper()
	code, out, stderr := command(t, stdin, append(args, "-json")...)
	require.Zero(t, code, stderr)
	var p plan
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&p))
	return p
}

// write writes a file, and returns its name.
func write(t *testing.T, content string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "file")
	require.NoError(t, err)
	_, err = f.WriteString(content)
	require.NoError(t, errors.Join(err, f.Close()))
	return f.Name()
}

// All figures are the same on all machines.
func TestGolden(t *testing.T) {
	for name, args := range map[string][]string{
		"sample": nil,
		"next":   {"-next=testdata/next.json", "-show=0"},
		"ints":   {"-topology=testdata/ints.json", "-keys=testdata/ints.txt", "-key=-8", "-key=-100", "-show=4"},
		"few":    {"-topology=topology.json", "-key=ann", "-key=bob"},
	} {
		t.Run(name, func(t *testing.T) {
			code, got, stderr := command(t, "", args...)
			require.Zero(t, code, stderr)
			for line := range strings.Lines(got) {
				if !strings.Contains(line, "{") { // a part, as long as it is
					assert.LessOrEqual(t, len([]rune(line)), 79, line)
				}
				assert.Equal(t, strings.TrimRight(line, " \n")+"\n", line, "white space at the end")
			}
			clitest.Golden(t, filepath.Join("testdata", name+".golden"), got)
		})
	}
}

// The README shows what the command prints.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, out, _ := command(t, "")
	assert.Contains(t, string(readme), "```text\n"+out+"```\n")
	_, out, _ = command(t, "", "-next=testdata/next.json")
	shown := strings.Replace(out[strings.Index(out, "Next  "):], "testdata/", "examples/shardplan/testdata/", 1)
	assert.Contains(t, string(readme), "```text\n"+shown+"```\n")
}

// The plan says where package shard has the keys, and counts each of them.
func TestJSON(t *testing.T) {
	requests := strings.Fields(sampleKeys)
	counts := map[string]int64{}
	for _, k := range requests {
		counts[k]++
	}
	p := planned(t, "", "-show=1000000")
	assert.Equal(t, topologyInfo{Epoch: 3, Scheme: "ranges of text", Parts: 4}, p.Topology)
	assert.Equal(t, amount{int64(len(counts)), int64(len(requests))}, p.Total)
	assert.Empty(t, p.Left)
	assert.Nil(t, p.Next)

	topology, err := shard.ParseTopology([]byte(sampleTopology))
	require.NoError(t, err)
	require.Equal(t, topology.Shards(), p.Shards)
	as := func(l shard.Locator[string], err error) shard.Locator[string] {
		require.NoError(t, err)
		return l
	}
	oracles := map[string]shard.Locator[string]{
		"topology": as(shard.NewMap[string](topology)),
		"mod":      as(shard.NewMod[string](shard.ModConfig{Shards: p.Shards})),
		"slots":    as(shard.NewSlots[string](shard.SlotsConfig{Shards: p.Shards})),
		"redis":    as(shard.NewSlots[string](shard.SlotsConfig{Shards: p.Shards, Hash: shard.CRC16})),
	}
	require.Len(t, p.List, len(counts))
	for _, l := range p.List {
		require.Equal(t, counts[string(l.Key)], l.Requests)
		for name, o := range oracles {
			require.Equal(t, o.Locate(string(l.Key)).Shard, l.Shards[name], name)
		}
	}
	require.Len(t, p.Strategies, len(strategies))
	for i, c := range p.Strategies {
		assert.Equal(t, strategies[i], c.Name)
		for j, id := range p.Shards {
			var want amount
			for _, l := range p.List {
				if l.Shards[c.Name] == id {
					want.add(l.Requests)
				}
			}
			assert.Equal(t, want, amount{c.Keys.Shards[j], c.Requests.Shards[j]}, c.Name)
		}
		fair := float64(p.Total.Keys) / 4
		assert.InDelta(t, float64(slices.Max(c.Keys.Shards))/fair, c.Keys.Peak, 1e-12)
		assert.InDelta(t, float64(slices.Min(c.Keys.Shards))/fair, c.Keys.Least, 1e-12)
	}
	byRange := p.Strategies[5].Keys.Shards
	assert.LessOrEqual(t, slices.Max(byRange)-slices.Min(byRange), int64(1))
	require.Len(t, p.Hot, 1)
	assert.Equal(t, keyText("london:7"), p.Hot[0].Key)
	assert.True(t, p.Hot[0].TooHot)
}

func TestMeasure(t *testing.T) {
	l := load{Shards: []int64{2, 4, 4, 4, 5, 5, 7, 9}} // mean 5, standard deviation 2
	l.measure()
	assert.Equal(t, 1.8, l.Peak)
	assert.Equal(t, 0.4, l.Least)
	assert.InDelta(t, 0.4, l.CV, 1e-15)
	l = load{Shards: []int64{7}}
	l.measure()
	assert.Equal(t, load{Shards: []int64{7}, Peak: 1, Least: 1}, l)
}

// What is to be expected by chance is the mean of all placements that there are.
func TestChance(t *testing.T) {
	p := planned(t, "a\nb\nb\nc\nc\nc\nc\nd\n", "-keys=-", "-strategies=slots")
	var squares [2]float64
	for placement := range 4 * 4 * 4 * 4 {
		loads := [2]load{{Shards: make([]int64, 4)}, {Shards: make([]int64, 4)}}
		for _, requests := range []int64{1, 2, 4, 1} {
			loads[0].Shards[placement%4]++
			loads[1].Shards[placement%4] += requests
			placement /= 4
		}
		for i := range loads {
			loads[i].measure()
			squares[i] += loads[i].CV * loads[i].CV / 256
		}
	}
	assert.InDelta(t, math.Sqrt(squares[0]), p.Chance.Keys, 1e-12)
	assert.InDelta(t, math.Sqrt(squares[1]), p.Chance.Requests, 1e-12)
}

// Evenest ranges exist for any number of keys from that of the shards on.
func TestRanges(t *testing.T) {
	for n := 4; n < 40; n++ {
		keys := ""
		for i := range n {
			keys += fmt.Sprintln(i*i - 100)
		}
		p := planned(t, keys, "-keys=-", "-type=int", "-strategies=range")
		l := p.Strategies[0].Keys.Shards
		assert.LessOrEqual(t, slices.Max(l)-slices.Min(l), int64(1), n)
	}
	p := planned(t, "1\n2\n3\n", "-keys=-", "-type=int", "-strategies=range,mod")
	assert.Equal(t, []leftOut{{"range", "needs a key for each of the 4 shards, got 3"}}, p.Left)
}

func TestTypes(t *testing.T) {
	file := func(strategy string) string {
		return write(t, `{"epoch": 1, `+strategy+`, "parts": [{"id": 0, "shard": "a"}]}`)
	}
	for _, test := range []struct {
		topology string
		args     []string
		want     shard.KeyKind
		left     []string
	}{
		{`"strategy": "range", "keys": "text"`, nil, shard.Text, nil},
		{`"strategy": "range", "keys": "uint"`, nil, shard.Uint, []string{"redis"}},
		{`"strategy": "range", "keys": "float"`, nil, shard.Float, []string{"redis"}},
		{`"strategy": "range", "keys": "uint"`, []string{"-type=int"}, shard.Int, []string{"topology", "redis"}},
		{`"strategy": "slots", "hash": "xxh64"`, nil, shard.Text, nil},
		{`"strategy": "slots", "hash": "crc16"`, []string{"-type=int"}, shard.Int, []string{"topology", "redis"}},
		{`"strategy": "mod", "hash": "identity", "slots": 1`, nil, shard.Int, []string{"redis"}},
		{`"strategy": "mod", "hash": "identity", "slots": 1`, []string{"-type=uint"}, shard.Uint, []string{"redis"}},
		{`"strategy": "mod", "hash": "identity", "slots": 1`, []string{"-type=text"}, shard.Text, []string{"topology"}},
	} {
		p := planned(t, "1\n2\n", append(test.args, "-topology", file(test.topology), "-keys=-")...)
		assert.Equal(t, test.want, p.Type)
		var left []string
		for _, l := range p.Left {
			left = append(left, l.Name)
		}
		assert.Equal(t, test.left, left)
	}
	p := planned(t, "1e3\n 1000 \n-0\n0\n+Inf\n", "-type=float", "-keys=-", "-strategies=mod")
	assert.Equal(t, amount{3, 5}, p.Total)
	assert.Equal(t, keyText("0"), p.List[1].Key, "and not -0")
}

func TestStandardInput(t *testing.T) {
	p := planned(t, "\ufeffann\r\nbob\r\n\r\nann\r\n x \n\ufeffy", "-keys=-", "-show=3", "-key=bob", "-key=cem", "-key=bob")
	assert.Equal(t, amount{4, 5}, p.Total)
	var list []string
	for _, l := range p.List {
		list = append(list, fmt.Sprint(l.Key, l.Requests))
	}
	assert.Equal(t, []string{"bob1", "cem0", "ann2", " x 1"}, list)

	p = planned(t, sampleTopology, "-topology=-", "-key=\x00", "-key=", "-key=a", "-key=a")
	assert.Equal(t, amount{3, 4}, p.Total)
	code, out, stderr := command(t, "k2\x1b[2J\nk\u009b2J\n", "-keys=-")
	require.Zero(t, code, stderr)
	assert.NotContains(t, out, "\x1b", "a key must not command the terminal")
	assert.NotContains(t, out, "\u009b")
	assert.Contains(t, out, "Hottest key   none")
	assert.NotContains(t, out, "Requests of each shard", "there is one for each key")
}

func TestNotUTF8(t *testing.T) {
	_, out, _ := command(t, "\xff\x00\n", "-keys=-", "-topology=testdata/bytes.json", "-json")
	assert.Contains(t, out, `"hex": "ff00"`)
}

// Those that move are those that the maps place differently.
func TestNext(t *testing.T) {
	p := planned(t, "", "-next=testdata/next.json")
	var moved, moving amount
	counts := map[string]int64{}
	for _, k := range strings.Fields(sampleKeys) {
		counts[k]++
	}
	for k, n := range counts {
		if k >= "c" && k < "g" {
			moved.add(n)
		}
		if k >= "s" {
			moving.add(n)
		}
	}
	c := p.Next
	assert.True(t, c.Follows)
	assert.Equal(t, uint64(4), c.Epoch)
	assert.Equal(t, moved, *c.Moved)
	assert.Equal(t, moving, *c.Moving)
	var what []string
	for _, d := range c.Parts {
		what = append(what, d.What)
	}
	assert.Equal(t, []string{"bounds", "state", "new"}, what)

	back := planned(t, "", "-topology=testdata/next.json", "-keys=keys.txt", "-next=topology.json").Next
	assert.False(t, back.Follows)
	assert.Contains(t, back.Why, "stale epoch: Epoch must be above 4, got 3")
	assert.Equal(t, moved, *back.Moved)
	assert.Equal(t, "gone", back.Parts[2].What)

	same := planned(t, "", "-next=topology.json").Next
	assert.True(t, same.Follows)
	assert.Empty(t, same.Parts)
	assert.Equal(t, amount{}, *same.Moved)

	other := planned(t, "", "-next=testdata/bytes.json").Next
	assert.False(t, other.Follows)
	assert.Contains(t, other.Why, "incompatible topology: 16384 slots, by crc16 takes the place of ranges of text")
	assert.Positive(t, other.Moved.Keys, "what moves can be counted even so")

	none := planned(t, "", "-next=testdata/ints.json").Next
	assert.Nil(t, none.Moved)
	assert.Equal(t, "the next topology takes no keys of type text: ranges of int", none.NoMoves)
}

// All that are above the fair share are named.
func TestHot(t *testing.T) {
	p := planned(t, strings.Repeat("a\n", 40)+strings.Repeat("b\n", 30)+strings.Repeat("c\n", 25)+"d\ne\nf\ng\nh\n", "-keys=-")
	require.Len(t, p.Hot, 2)
	assert.Equal(t, hotKey{"a", 40, 0.4, true}, p.Hot[0])
	assert.Equal(t, hotKey{"b", 30, 0.3, true}, p.Hot[1])
	p = planned(t, "a\nb\nb\nc\nc\nd\ne\nf\ng\nh\n", "-keys=-")
	assert.Equal(t, []hotKey{{"b", 2, 0.2, false}}, p.Hot)
}

func TestHelp(t *testing.T) {
	code, out, _ := command(t, "", "-help")
	assert.Zero(t, code)
	for _, flag := range []string{"-topology FILE", "-keys FILE", "-key KEY", "-type TYPE", "-strategies LIST", "-show N", "-next FILE", "-json"} {
		assert.Contains(t, out, flag)
	}
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent")
	ranges := func(parts string) string {
		return write(t, "{\"epoch\": 2, \"strategy\": \"range\", \"keys\": \"int\", \"parts\": [\n"+parts+"\n]}")
	}
	gap := ranges(`{"id": 3, "high": 5, "shard": "a"}, {"id": 4, "low": 6, "shard": "b"}`)
	overlap := ranges(`{"id": 3, "high": 5, "shard": "a"}, {"id": 4, "low": 4, "shard": "b"}`)
	unknown := ranges(`{"id": 3, "high": 5, "shard": "a"}, {"id": 4, "lo": 5, "shard": "b"}`)
	unnamed := ranges(`{"id": 3, "high": 5, "shard": "a"}, {"lo": 5, "shard": "b"}`)
	state := ranges(`{"id": 3, "high": 5, "shard": "a"}, {"id": 4, "low": 5, "shard": "b", "state": "moving"}`)
	bound := ranges(`{"id": 3, "high": "five", "shard": "a"}, {"id": 4, "low": 5, "shard": "b"}`)
	syntax := ranges("{\"id\": 3,\n\"shard\": \"a\"},")
	top := write(t, `{"epoch": 2, "strategy": "range", "kind": "int", "parts": []}`)
	empty := write(t, "\n\n")
	letters := write(t, "1\n2\nthree\n")
	long := write(t, "1\n"+strings.Repeat("2", maxLine+1))

	for _, test := range []struct {
		code int
		want string
		args []string
	}{
		{2, "-topology must not be empty", []string{"-topology", ""}},
		{2, "-keys must not be empty", []string{"-keys", ""}},
		{2, "-topology and -next cannot both be standard input", []string{"-topology=-", "-next=-", "-key=a"}},
		{2, `unexpected argument "keys.txt"`, []string{"keys.txt"}},
		{2, "-show must be at least 0, got -1", []string{"-show=-1"}},
		{2, "which keys?", []string{"-topology=topology.json"}},
		{2, "which keys?", []string{"-type=int"}},
		{2, `invalid value "string" for flag -type: must be text, int, uint or float`, []string{"-type=string"}},
		{2, `there is no strategy "ring", only topology, mod, slots`, []string{"-strategies=mod,ring"}},
		{2, `there is no strategy ""`, []string{"-strategies="}},
		{2, "mod is there twice", []string{"-strategies=mod,slots,mod"}},
		{2, "-colour", []string{"-colour"}},
		{2, `-key must be a whole number from -9223372036854775808 to 9223372036854775807, got "ten"`, []string{"-type=int", "-key=ten"}},
		{2, `-key must be a whole number from 0 to 18446744073709551615, got "-1"`, []string{"-type=uint", "-key=-1"}},
		{2, `-key must be a number of 64 bits, got "NaN"`, []string{"-type=float", "-key=NaN"}},
		{2, `got "1e999"`, []string{"-type=float", "-key=1e999"}},

		{1, "absent: no such file", []string{"-topology", absent, "-key=1"}},
		{1, "absent: no such file", []string{"-next", absent}},
		{1, "absent: no such file", []string{"-keys", absent}},
		{1, "is a directory", []string{"-topology", dir, "-key=1"}},
		{1, "is a directory", []string{"-keys", dir}},
		{1, gap + ": Parts must have all keys, got none for those from 5 to below 6, between parts 3 and 4", []string{"-topology", gap, "-key=1"}},
		{1, overlap + ": Parts must have each key once, got parts 3 and 4 for 4", []string{"-topology", overlap, "-key=1"}},
		{1, unknown + `: part 4: topology: json: unknown field "lo"`, []string{"-topology", unknown, "-key=1"}},
		{1, unknown + `: part 4: topology: json: unknown field "lo"`, []string{"-next", unknown}},
		{1, unnamed + `: part number 2: topology: json: unknown field "lo"`, []string{"-topology", unnamed, "-key=1"}},
		{1, state + `: Parts: part 4: State must be serving, migrating or fenced, got "moving"`, []string{"-topology", state, "-key=1"}},
		{1, bound + `: Parts: part 3: High must be a bound of kind int`, []string{"-topology", bound, "-key=1"}},
		{1, syntax + ": line 4: topology: invalid character ']'", []string{"-topology", syntax, "-key=1"}},
		{1, top + `: topology: json: unknown field "kind"`, []string{"-topology", top, "-key=1"}},
		{1, empty + ": no keys", []string{"-keys", empty}},
		{1, empty + ": line 3: topology: unexpected end of JSON input", []string{"-topology", empty, "-key=1"}},
		{1, letters + `: line 3: the key must be a whole number from -9223372036854775808`, []string{"-keys", letters, "-type=int"}},
		{1, `standard input: line 1: the key must be a whole number from 0`, []string{"-keys=-", "-type=uint"}},
		{1, long + ": line 2: longer than 1048576 bytes", []string{"-keys", long}},
		{1, "no strategy can place these keys: redis: takes keys of type text, and not int", []string{"-type=int", "-key=1", "-strategies=redis"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, stderr := command(t, "-1\n", test.args...)
			assert.Equal(t, test.code, code)
			assert.Contains(t, stderr, test.want)
			assert.Regexp(t, `^shardplan: .*\n$`, stderr)
			assert.Equal(t, code == 2, strings.HasSuffix(stderr, " (see -help)\n"))
		})
	}
}

func TestOutputFails(t *testing.T) {
	for _, args := range [][]string{nil, {"-json"}} {
		var stderr bytes.Buffer
		code := run(args, nil, clitest.Full{}, &stderr)
		assert.Equal(t, 1, code)
		assert.Equal(t, "shardplan: the plan cannot be written: no space left\n", stderr.String())
	}
}

// What has no end is not read until memory has.
func TestEndless(t *testing.T) {
	defer func(was int64) { maxTopology = was }(maxTopology)
	maxTopology = 100_000
	for _, flag := range []string{"-topology=-", "-next=-"} {
		var stdout, stderr bytes.Buffer
		code := run([]string{flag, "-key=1"}, zeros{}, &stdout, &stderr)
		assert.Equal(t, 1, code)
		assert.Equal(t, "shardplan: standard input: longer than 100000 bytes, which no topology is\n", stderr.String())
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestInputFails(t *testing.T) {
	for flag, want := range map[string]string{"-keys=-": "standard input: line 1: lost", "-next=-": "standard input: lost"} {
		var stdout, stderr bytes.Buffer
		code := run([]string{flag}, iotest.ErrReader(errors.New("lost")), &stdout, &stderr)
		assert.Equal(t, 1, code)
		assert.Equal(t, "shardplan: "+want+"\n", stderr.String())
	}
}

func TestNumbers(t *testing.T) {
	assert.Equal(t, "0", group(0))
	assert.Equal(t, "999", group(999))
	assert.Equal(t, "1,234,567", group(1234567))
	assert.Equal(t, "1 key", counted(1, "key"))
	assert.Equal(t, "1,000 keys", counted(1000, "key"))
	assert.Equal(t, "12.3 %", percent(0.12345))
	assert.Equal(t, `""`, printable(""))
	assert.Equal(t, strings.Repeat("ä", widestCell), cut(strings.Repeat("ä", widestCell)))
	assert.Equal(t, strings.Repeat("ä", widestCell-1)+"…", cut(strings.Repeat("ä", widestCell+1)))
}

// The order of the strategies is the one asked for.
func TestStrategies(t *testing.T) {
	p := planned(t, "", "-strategies=slots,mod", "-key=a")
	assert.Equal(t, []string{"slots", "mod"}, p.names())
	assert.Equal(t, []string{"mod", "slots"}, slices.Sorted(maps.Keys(p.List[0].Shards)))
}

// Keys are of the kind that the topology says, if it says one.
func TestKind(t *testing.T) {
	ints := write(t, `{"epoch":1,"strategy":"slots","keys":"int","hash":"xxh64","parts":[{"id":0,"shard":"a"}]}`)
	p := planned(t, "", "-topology", ints, "-key=-5")
	assert.Equal(t, shard.Int, p.Type)
	assert.Equal(t, shard.ID("a"), p.List[0].Shards["topology"])
	_, _, stderr := command(t, "", "-topology", ints, "-key=x")
	assert.Contains(t, stderr, "must be a whole number")
}
