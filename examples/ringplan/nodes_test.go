package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/consistenthash"
)

var nodeLines = []struct {
	text string
	want consistenthash.Node
	ok   bool
	err  string
}{
	{"a", consistenthash.Node{ID: "a", Weight: 1}, true, ""},
	{"a 3", consistenthash.Node{ID: "a", Weight: 3}, true, ""},
	{" \ta\t3  zone-1 ", consistenthash.Node{ID: "a", Weight: 3, Zone: "zone-1"}, true, ""},
	{"10.0.0.1:6379 0 b # drained", consistenthash.Node{ID: "10.0.0.1:6379", Zone: "b"}, true, ""},
	{"[::1]:6379 4294967295", consistenthash.Node{ID: "[::1]:6379", Weight: 4294967295}, true, ""},
	{"a#b #c", consistenthash.Node{ID: "a#b", Weight: 1}, true, ""},
	{"knoten-ä 1 süd", consistenthash.Node{ID: "knoten-ä", Weight: 1, Zone: "süd"}, true, ""},
	{"", consistenthash.Node{}, false, ""},
	{"  # only a comment", consistenthash.Node{}, false, ""},
	{"a b", consistenthash.Node{}, false, `the weight must be a whole number from 0 to 4294967295, got "b"`},
	{"a -1", consistenthash.Node{}, false, `got "-1"`},
	{"a 1.5", consistenthash.Node{}, false, `got "1.5"`},
	{"a 4294967296", consistenthash.Node{}, false, `got "4294967296"`},
	{"a 1 z more", consistenthash.Node{}, false, "must be ID [WEIGHT [ZONE]], got 4 fields"},
	{"a\x1b[2J 1", consistenthash.Node{}, false, "cannot be printed"},
	{"a 1 \xff", consistenthash.Node{}, false, "cannot be printed"},
}

func TestParseNode(t *testing.T) {
	for _, test := range nodeLines {
		n, ok, err := parseNode(test.text, 1, 3)
		assert.Equalf(t, test.ok, ok, "%q", test.text)
		if test.err != "" {
			assert.ErrorContainsf(t, err, test.err, "%q", test.text)
			continue
		}
		assert.NoErrorf(t, err, "%q", test.text)
		assert.Equalf(t, test.want, n, "%q", test.text)
	}
	for _, text := range []string{"a", "a 1 z"} {
		_, _, err := parseNode(text, 2, 2)
		assert.ErrorContains(t, err, "must be ID WEIGHT, got ")
	}
	_, _, err := parseNode("a 1", 1, 1)
	assert.EqualError(t, err, "must be ID, got 2 fields")
}

func TestReadNodes(t *testing.T) {
	nodes, err := readNodes(strings.NewReader("# nodes\r\n\r\nb 2 z\r\na\r\n"), "f")
	require.NoError(t, err)
	assert.Equal(t, []consistenthash.Node{{ID: "b", Weight: 2, Zone: "z"}, {ID: "a", Weight: 1}}, nodes)
	nodes, err = readNodes(strings.NewReader("last"), "f")
	require.NoError(t, err)
	assert.Len(t, nodes, 1, "without an end of line")
	nodes, err = readNodes(strings.NewReader("# nothing\n"), "f")
	require.NoError(t, err)
	assert.Empty(t, nodes)

	for text, want := range map[string]string{
		"a\n\nb x\n":     `f: line 3: the weight must be a whole number from 0 to 4294967295, got "x"`,
		"a\nb\n#\na 2":   `f: line 4: node "a" is there already, in line 1`,
		"a 1 z 4\nb x":   "f: line 1: must be ID [WEIGHT [ZONE]], got 4 fields",
		"\n" + tooLong(): "f: line 2: longer than 1048576 bytes",
	} {
		_, err := readNodes(strings.NewReader(text), "f")
		assert.EqualError(t, err, want)
	}
	broken := errors.New("connection reset")
	_, err = readNodes(iotest.ErrReader(broken), "f")
	assert.ErrorIs(t, err, broken)
	assert.EqualError(t, err, "f: connection reset")
}

func tooLong() string { return strings.Repeat("x", maxLine+1) }

func TestReadKeys(t *testing.T) {
	keys, err := readKeys(strings.NewReader("user:1\n\n# no comment\r\n a b \nuser:1"), "f")
	require.NoError(t, err)
	assert.Equal(t, []string{"user:1", "# no comment", " a b ", "user:1"}, keys)
	_, err = readKeys(strings.NewReader("\n\n"), "f")
	assert.EqualError(t, err, "f: no keys")
	_, err = readKeys(strings.NewReader(tooLong()), "f")
	assert.EqualError(t, err, "f: line 1: longer than 1048576 bytes")
}

func TestSampleIsValid(t *testing.T) {
	nodes, err := readNodes(strings.NewReader(sampleNodes), "nodes.txt")
	require.NoError(t, err)
	assert.Len(t, nodes, 6)
}

// Whatever is in a file, nodes are valid, and the same ones come out of what they would be
// written as.
func FuzzReadNodes(f *testing.F) {
	for _, test := range nodeLines {
		f.Add(test.text)
	}
	f.Add(sampleNodes)
	f.Add("a\nb 2\nc 3 z\n")
	f.Add("a\na\n")
	f.Fuzz(func(t *testing.T, text string) {
		nodes, err := readNodes(strings.NewReader(text), "f")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f: ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %q", err)
			}
			return
		}
		if _, err := (settings{}).build(algorithm{name: "rendezvous"}, members(nodes)); err != nil {
			t.Fatalf("nodes that the package does not take: %v", err)
		}
		var again strings.Builder
		for _, n := range nodes {
			fmt.Fprintln(&again, n.ID, n.Weight, n.Zone)
		}
		second, err := readNodes(strings.NewReader(again.String()), "f")
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if len(second) != len(nodes) {
			t.Fatalf("%d nodes, then %d", len(nodes), len(second))
		}
		for i := range nodes {
			if nodes[i] != second[i] {
				t.Fatalf("%+v, then %+v", nodes[i], second[i])
			}
		}
	})
}
