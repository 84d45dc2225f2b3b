package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// command runs ringplan, which must not print both a plan and an error.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &errs)
	require.Truef(t, out.Len() == 0 || errs.Len() == 0, "stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
	return code, out.String(), errs.String()
}

// All figures are the same on all machines.
func TestGolden(t *testing.T) {
	for name, args := range map[string][]string{
		"sample":     nil,
		"rendezvous": {"-algorithm=rendezvous", "-weight=10.0.0.1:6379 3", "-top=3"},
		"ketama":     {"-algorithm=ketama", "-to-algorithm=ring,virtual-nodes=100", "-keys=testdata/keys.txt", "-list"},
		"to":         {"-nodes=testdata/old.txt", "-to=testdata/new.txt", "-algorithm=maglev", "-keys=testdata/keys.txt"},
		"nothing":    {"-nodes=testdata/old.txt", "-top=0"},
		"emptied":    {"-nodes=testdata/old.txt", "-to=/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			code, got, stderr := command(t, "", args...)
			require.Zero(t, code, stderr)
			for line := range strings.Lines(got) {
				assert.LessOrEqual(t, len([]rune(line)), lineWidth+1, line)
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
}

func TestStandardInput(t *testing.T) {
	code, out, stderr := command(t, "a\nb\n", "-nodes", "-", "-add", "[::1]:6379 2 z")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "Nodes         standard input\n")
	assert.Contains(t, out, "add [::1]:6379, weight 2, zone z\n")
	code, out, stderr = command(t, "a\nb\n", "-nodes", "nodes.txt", "-to", "-")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "all nodes as in standard input\n")
	code, out, stderr = command(t, "k1\nk2\x1b[2J\n", "-to-algorithm=ketama", "-keys", "-", "-list")
	require.Zero(t, code, stderr)
	assert.NotContains(t, out, "\x1b", "a key must not command the terminal")
}

// Changes are made in the order of the command line.
func TestOrderOfChanges(t *testing.T) {
	code, out, stderr := command(t, "", "-remove=10.0.0.1:6379", "-add=10.0.0.1:6379 5", "-weight=10.0.0.1:6379 3")
	require.Zero(t, code, stderr)
	assert.Regexp(t, `\n  10\.0\.0\.1:6379  a>- +1 +3 `, out)
	code, _, stderr = command(t, "", "-weight=new 3", "-add=new")
	assert.Equal(t, 1, code)
	assert.Equal(t, "ringplan: node \"new\": no node has this ID\n", stderr)
}

func TestSVG(t *testing.T) {
	file := filepath.Join(t.TempDir(), "load.svg")
	code, _, stderr := command(t, "", "-svg", file)
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
	for _, name := range []string{"10.0.0.2:6379", "10.0.1.4:6379", "before", "after", "fair share", "a sample"} {
		assert.Contains(t, names, name)
	}
}

// A program that reads the plan finds all in it, and its moves are true.
func TestJSON(t *testing.T) {
	for name, args := range map[string][]string{
		"slots":      {"-keys=testdata/keys.txt", "-list", "-remove=10.0.0.2:6379", "-slots=4096"},
		"ring":       {"-algorithm=ring", "-add=x 3 c", "-weight=10.0.0.1:6379 0"},
		"maglev":     {"-algorithm=maglev", "-size=1009", "-remove=10.0.0.2:6379"},
		"ketama":     {"-algorithm=ketama", "-remove=10.0.0.2:6379"},
		"rendezvous": {"-algorithm=rendezvous", "-samples=5000", "-add=x"},
		"keys":       {"-to-algorithm=ketama", "-keys=testdata/keys.txt"},
		"nothing":    {"-nodes=/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := command(t, "", append(args, "-json")...)
			require.Zero(t, code, stderr)
			var got planJSON
			d := json.NewDecoder(strings.NewReader(out))
			d.DisallowUnknownFields()
			require.NoError(t, d.Decode(&got))
			again, err := json.MarshalIndent(got, "", "  ")
			require.NoError(t, err)
			assert.Equal(t, out, string(again)+"\n")

			p := planFor(t, "", append(args, "-json")...)
			assert.Equal(t, p.moved, got.Moved)
			assert.Equal(t, p.least, got.Least)
			assert.Equal(t, p.needless, got.Needless)
			assert.Equal(t, hex(p.maps[0].Fingerprint()), got.Before.Fingerprint)
			assert.Equal(t, hex(p.maps[1].Fingerprint()), got.After.Fingerprint)
			require.Len(t, got.Nodes, len(p.nodes))
			for i, n := range got.Nodes {
				assert.Equal(t, p.nodes[i].sides[0].there, n.Before != nil)
				assert.Equal(t, p.nodes[i].sides[1].there, n.After != nil)
			}
			assert.Len(t, got.Transfers, len(p.transfers))
			if got.Keys != nil {
				assert.Equal(t, p.keyMoves, got.Keys.Moved)
			}

			if got.Method != exact {
				assert.Empty(t, got.Moves)
				return
			}
			moved, last := 0.0, uint64(0)
			for i, m := range got.Moves {
				lo, err := strconv.ParseUint(m.First, 0, 64)
				require.NoError(t, err)
				hi, err := strconv.ParseUint(m.Last, 0, 64)
				require.NoError(t, err)
				require.LessOrEqual(t, lo, hi)
				require.True(t, i == 0 || last < lo, "in order")
				last = hi
				for _, h := range []uint64{lo, lo + (hi-lo)/2, hi} {
					from, _ := p.maps[0].GetHash(h)
					to, _ := p.maps[1].GetHash(h)
					require.Equal(t, [2]string{from, to}, [2]string{m.From, m.To})
				}
				moved += m.Share
			}
			assert.InDelta(t, got.Moved, moved, 1e-12)
		})
	}
}

func TestHelp(t *testing.T) {
	code, out, _ := command(t, "", "-help")
	assert.Zero(t, code)
	for _, flag := range []string{"-nodes FILE", "-add NODE", "-remove ID", "-weight ID WEIGHT", "-to FILE", "-svg FILE", "-keys FILE"} {
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
	bad := file("bad.txt", "a 1\nb heavy\n")
	twice := file("twice.txt", "a\nb\na\n")
	empty := file("empty.txt", "")
	good := file("good.txt", "a 1\nb 2\n")

	for _, test := range []struct {
		code int
		want string
		args []string
	}{
		{2, "absent: no such file", []string{"-nodes", filepath.Join(dir, "absent")}},
		{2, "is a directory", []string{"-nodes", dir}},
		{2, bad + `: line 2: the weight must be`, []string{"-nodes", bad}},
		{2, twice + `: line 3: node "a" is there already, in line 1`, []string{"-nodes", twice}},
		{2, bad + `: line 2: the weight must be`, []string{"-nodes", good, "-to", bad}},
		{2, "-to needs -nodes", []string{"-to", good}},
		{2, "-svg must be a file", []string{"-svg", "-"}},
		{2, "-svg would overwrite the file of -nodes", []string{"-nodes", good, "-svg", dir + "/./good.txt"}},
		{2, empty + ": no keys", []string{"-keys", empty}},
		{2, "absent: no such file", []string{"-keys", filepath.Join(dir, "absent")}},
		{2, "-nodes must not be empty", []string{"-nodes", ""}},
		{2, "-nodes and -keys cannot both be standard input", []string{"-nodes=-", "-keys=-"}},
		{2, "must be ID [WEIGHT [ZONE]], got 4 fields", []string{"-add", "a 1 z more"}},
		{2, `got "heavy"`, []string{"-add", "a heavy"}},
		{2, "the ID is missing", []string{"-add", " "}},
		{2, "the ID is missing", []string{"-remove", "# comment"}},
		{2, "must be ID, got 2 fields", []string{"-remove", "a 1"}},
		{2, "must be ID WEIGHT, got 1 fields", []string{"-weight", "a"}},
		{2, `got "-1"`, []string{"-weight", "a -1"}},
		{2, "-to has all nodes", []string{"-nodes", good, "-to", twice, "-add", "x"}},
		{2, `ringplan: -algorithm: there is no algorithm "jump", only slots, ring`, []string{"-algorithm", "jump"}},
		{2, `-to-algorithm: there is no algorithm "jump"`, []string{"-to-algorithm", "jump"}},
		{2, `-to-algorithm: ring has no parameter "size"`, []string{"-to-algorithm", "ring,size=7"}},
		{2, `-to-algorithm: ring has no parameter ""`, []string{"-to-algorithm", "ring,"}},
		{2, `invalid value "many" for virtual-nodes`, []string{"-to-algorithm", "ring,virtual-nodes=many"}},
		{2, `invalid value "" for virtual-nodes`, []string{"-to-algorithm", "ring,virtual-nodes"}},
		{2, "-size is for the algorithm maglev", []string{"-size", "7"}},
		{2, "-slots is for the algorithm slots", []string{"-algorithm", "ring", "-slots", "512"}},
		{2, "Slots must be a power of two from 256 to 1048576, got 1000", []string{"-slots", "1000"}},
		{2, "LoadFactor must be from 1 to 1000, got NaN", []string{"-load-factor", "NaN"}},
		{2, "VirtualNodes must be from 1 to 65536, got -1", []string{"-algorithm", "ring", "-virtual-nodes", "-1"}},
		{2, "-weight-unit: must be from 1", []string{"-algorithm", "ring", "-weight-unit", "0"}},
		{2, "size must be a prime", []string{"-to-algorithm", "maglev,size=1000"}},
		{2, "Seed must be 0", []string{"-algorithm", "ketama", "-seed", "1"}},
		{2, "slots and ketama hash keys differently", []string{"-to-algorithm", "ketama"}},
		{2, "ketama and ring hash keys differently", []string{"-algorithm", "ketama", "-to-algorithm", "ring"}},
		{2, "-samples must be from 1000", []string{"-algorithm", "rendezvous", "-samples", "1"}},
		{2, "-samples is for rendezvous", []string{"-samples", "1000"}},
		{2, "-list needs -keys", []string{"-list"}},
		{2, "-top must be at least 0, got -1", []string{"-top", "-1"}},
		{2, "-top is for the text", []string{"-top", "1", "-json"}},
		{2, "-colour", []string{"-colour"}},
		{2, `unexpected argument "nodes.txt"`, []string{"nodes.txt"}},
		{2, "load.svg: no such file", []string{"-svg", filepath.Join(dir, "absent", "load.svg")}},
		{2, "is a directory", []string{"-svg", dir}},

		{1, `node "gone": no node has this ID`, []string{"-remove", "gone"}},
		{1, `node "gone": no node has this ID`, []string{"-weight", "gone 2"}},
		{1, `node "10.0.0.1:6379": ID is there already`, []string{"-add", "10.0.0.1:6379"}},
		{1, "Ring takes at most 16777216 points", []string{"-algorithm", "ring", "-add", "x 1000000"}},
		{1, "Maglev takes at most 5 nodes with a size of 5", []string{"-algorithm", "maglev", "-size", "5", "-remove", "10.0.0.1:6379"}},
		{1, "Maglev takes at most 7 nodes with a size of 7", []string{"-to-algorithm", "maglev,size=7", "-add", "x", "-add", "y"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, stderr := command(t, "", test.args...)
			assert.Equal(t, test.code, code)
			assert.Contains(t, stderr, test.want)
			assert.Regexp(t, `^ringplan: .*\n$`, stderr)
		})
	}
}

func TestOutputFails(t *testing.T) {
	for _, args := range [][]string{nil, {"-json"}} {
		var stderr bytes.Buffer
		code := run(args, nil, clitest.Full{}, &stderr)
		assert.Equal(t, 1, code)
		assert.Equal(t, "ringplan: the plan cannot be written: no space left\n", stderr.String())
	}
}

func TestPictureFails(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	var stderr bytes.Buffer
	code := run([]string{"-svg=/dev/full"}, nil, io.Discard, &stderr)
	assert.Equal(t, 1, code)
	assert.Regexp(t, "^ringplan: the picture cannot be written: .*\n$", stderr.String())
}

// A plan that fails leaves the picture of another one alone.
func TestFailureKeepsPicture(t *testing.T) {
	file := filepath.Join(t.TempDir(), "load.svg")
	require.NoError(t, os.WriteFile(file, []byte("before"), 0o644))
	code, _, _ := command(t, "", "-svg", file, "-remove", "gone")
	assert.Equal(t, 1, code)
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "before", string(got))
}

func TestBar(t *testing.T) {
	for _, test := range []struct {
		share, fair, most float64
		want              string
	}{
		{0.5, 0.5, 1, "xxxxx|     "},
		{1, 0.5, 1, "xxxxx|xxxx "},
		{0, 0.5, 1, "     |     "},
		{0, 1, 1, "          |"},
		{0.3, 0, 1, "xxx        "},
		{0, 0, 0, ""},
	} {
		assert.Equal(t, test.want, drawBar(side{share: test.share, fair: test.fair}, test.most, 11, 'x'))
	}
	assert.NotPanics(t, func() { drawBar(side{share: 1, fair: math.SmallestNonzeroFloat64}, 1, leastBar, 'x') })
}

func TestNumbers(t *testing.T) {
	assert.Equal(t, "0", group(0))
	assert.Equal(t, "999", group(999))
	assert.Equal(t, "1,234,567", group(1234567))
	assert.Equal(t, "1 node", counted(1, "node"))
	assert.Equal(t, "1,000 keys", counted(1000, "key"))
	assert.Equal(t, "12.346", points(0.123456))
	assert.Equal(t, "0x00000000000000ff", hex(255))
}
