package trace

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func u64(keys ...uint64) string {
	var b []byte
	for _, k := range keys {
		b = binary.LittleEndian.AppendUint64(b, k)
	}
	return string(b)
}

func gz(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

// readable holds the traces that Read takes, with their keys; it seeds the fuzz
// test as well.
var readable = []struct {
	name string // of the trace, too
	data string
	o    Options
	want []uint64
}{
	{"a.u64", u64(7, 0, 1<<64-1, 7), Options{}, []uint64{7, 0, 1<<64 - 1, 7}},
	{"compressed.u64.gz", gz(u64(7, 8)), Options{}, []uint64{7, 8}},
	{"compressed, though not called so.u64", gz(u64(7, 8)), Options{}, []uint64{7, 8}},
	{"plain, though called .u64.gz", u64(7, 8), Options{Format: U64}, []uint64{7, 8}},
	{"two members.u64.gz", gz(u64(7)) + gz(u64(8)), Options{}, []uint64{7, 8}},
	{"a member boundary within a key.u64.gz", gz(u64(7)[:3]) + gz(u64(7)[3:]), Options{}, []uint64{7}},
	{"starts with two bytes of three.u64", "\x1f\x8b\x09\x00\x00\x00\x00\x00", Options{}, []uint64{0x098b1f}},
	{"UPPER.U64", u64(7), Options{}, []uint64{7}},
	{"limit.u64", u64(7, 8, 9), Options{Limit: 2}, []uint64{7, 8}},
	{"limit before damage.u64", u64(7, 8) + "x", Options{Limit: 2}, []uint64{7, 8}},
	{"limit not reached.u64", u64(7, 8), Options{Limit: 3}, []uint64{7, 8}},

	{"keys.txt", "b\na\nb\n", Options{}, []uint64{0, 1, 0}},
	{"no suffix", "b\na\nb", Options{}, []uint64{0, 1, 0}},
	{"CRLF, last line without", "b\r\na\r\nb", Options{}, []uint64{0, 1, 0}},
	{"blank lines", "\n\nb\n \t\r\n\na\n\n", Options{}, []uint64{0, 1}},
	{"white space around keys", " b\nb\t\n  b  \n", Options{}, []uint64{0, 0, 0}},
	{"white space within keys", "a b\na  b\na b\n", Options{}, []uint64{0, 1, 0}},
	{"numbers are text", "1\n01\n1\n", Options{}, []uint64{0, 1, 0}},
	{"bytes that are not UTF-8", "\xff\n\xfe\n\x00\n\xff\n", Options{}, []uint64{0, 1, 2, 0}},
	{"keys.txt.gz", gz("b\na\nb\n"), Options{}, []uint64{0, 1, 0}},
	{"longest line", strings.Repeat("x", maxLine-1) + "\ny\n", Options{}, []uint64{0, 1}},
	{"text limit", "b\na\nc\n", Options{Limit: 2}, []uint64{0, 1}},

	{"second field", "1 b x\n2 a x\n3\t\tb\n", Options{Field: 2}, []uint64{0, 1, 0}},
	{"first field", "b\na x\n", Options{Field: 1}, []uint64{0, 1}},
	{"separator", "1,b,x\n2, a,x\n3,b", Options{Field: 2, Separator: ","}, []uint64{0, 1, 0}},
	{"separator keeps blanks", "1,b b\n2,b  b\n", Options{Field: 2, Separator: ","}, []uint64{0, 1}},
	{"long separator", "1::b\n2::a\n3:x::b\n", Options{Field: 2, Separator: "::"}, []uint64{0, 1, 0}},
	{"separator without field", "a,b\na,c\n", Options{Separator: ","}, []uint64{0, 1}},
	{"text.u64", "b\n", Options{Format: Text}, []uint64{0}},

	{"arc.lis", "10 3 0 0\n5 1 0 1\n", Options{}, []uint64{10, 11, 12, 5}},
	{"arc.lis.gz", gz("10 3 0 0\n"), Options{}, []uint64{10, 11, 12}},
	{"arc, CRLF and no last newline.lis", "10 2 0 0\r\n\r\n5 1 0 1", Options{}, []uint64{10, 11, 5}},
	{"arc without ignored fields.lis", "10 2\n", Options{}, []uint64{10, 11}},
	{"arc of nothing.lis", "10 0 0 0\n5 1 0 1\n", Options{}, []uint64{5}},
	{"arc limit within a line.lis", "10 3 0 0\nbad\n", Options{Limit: 2}, []uint64{10, 11}},
	{"arc limit at the end of a line.lis", "10 3 0 0\nbad\n", Options{Limit: 3}, []uint64{10, 11, 12}},
	{"arc up to the last key.lis", "18446744073709551613 2 0 0\n", Options{}, []uint64{1<<64 - 3, 1<<64 - 2}},
	{"other name", "10 2 0 0\n", Options{Format: ARC, Field: 9}, []uint64{10, 11}},
}

func TestRead(t *testing.T) {
	for _, tc := range readable {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Read(strings.NewReader(tc.data), tc.name, tc.o)
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)

			// However the bytes arrive.
			in := io.Reader(iotest.HalfReader(strings.NewReader(tc.data)))
			if len(tc.data) < 1000 { // byte for byte is quadratic in the line
				in = iotest.OneByteReader(strings.NewReader(tc.data))
			}
			got, err = Read(in, tc.name, tc.o)
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
			got, err = Read(iotest.DataErrReader(strings.NewReader(tc.data)), tc.name, tc.o)
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}

var unreadable = []struct {
	name string
	data string
	o    Options
	want string
}{
	{"empty.u64", "", Options{}, "trace: empty.u64: no requests in it"},
	{"empty.u64.gz", gz(""), Options{}, "trace: empty.u64.gz: no requests in it"},
	{"empty", "", Options{}, "trace: empty: no requests in it"},
	{"blank", "\n \r\n\n", Options{}, "trace: blank: no requests in it"},
	{"nothing.lis", "1 0 0 0\n", Options{}, "trace: nothing.lis: no requests in it"},

	{"cut.u64", u64(7, 8)[:13], Options{}, "trace: cut.u64: truncated: 5 of 8 bytes after request 1"},
	{"cut inside.u64.gz", gz(u64(7) + "abc"), Options{}, "trace: cut inside.u64.gz: truncated: 3 of 8 bytes after request 1"},
	{"header only.u64.gz", gz(u64(7))[:5], Options{}, "trace: header only.u64.gz: bad gzip: unexpected EOF"},
	{"cut.u64.gz", gz(u64(7))[:20], Options{}, "trace: cut.u64.gz: after request 1: bad gzip: unexpected EOF"},
	{"no checksum.u64.gz", gz(u64(7, 8))[:len(gz(u64(7, 8)))-8], Options{}, "trace: no checksum.u64.gz: after request 2: bad gzip: unexpected EOF"},
	{"checksum.u64.gz", flip(gz(u64(7, 8)), -8), Options{}, "trace: checksum.u64.gz: after request 2: bad gzip: gzip: invalid checksum"},
	{"damaged.txt.gz", flip(gz("a\nb\n"), -8), Options{}, "trace: damaged.txt.gz: after line 2: bad gzip: gzip: invalid checksum"},
	{"trailing.u64.gz", gz(u64(7)) + "garbage 10", Options{}, "trace: trailing.u64.gz: after request 1: bad gzip: gzip: invalid header"},

	{"long", "a\n" + strings.Repeat("x", maxLine+1), Options{}, "trace: long: line 2: longer than 1048576 bytes"},
	{"field", "a b\n\nc\n", Options{Field: 2}, "trace: field: line 3: no field 2"},
	{"empty field", "a,b\na,\n", Options{Field: 2, Separator: ","}, "trace: empty field: line 2: no field 2"},
	{"no separator", "a b\n", Options{Field: 2, Separator: ","}, "trace: no separator: line 1: no field 2"},

	{"word.lis", "1 1 0 0\nx 1 0 0\n", Options{}, `trace: word.lis: line 2: bad start: strconv.ParseUint: parsing "x": invalid syntax`},
	{"negative.lis", "-1 1 0 0\n", Options{}, `trace: negative.lis: line 1: bad start: strconv.ParseUint: parsing "-1": invalid syntax`},
	{"start only.lis", "1\n", Options{}, "trace: start only.lis: line 1: no count after the start"},
	{"count.lis", "1 1.5 0 0\n", Options{}, `trace: count.lis: line 1: bad count: strconv.ParseUint: parsing "1.5": invalid syntax`},
	{"large.lis", "1 16777217 0 0\n", Options{}, "trace: large.lis: line 1: count 16777217 is more than 16777216"},
	{"overflow.lis", "18446744073709551615 2 0 0\n", Options{}, "trace: overflow.lis: line 1: start 18446744073709551615 and count 2 overflow 64 bits"},

	{"options", "a\n", Options{Field: -1}, "trace: options: option Field must not be negative, got -1"},
	{"options", "a\n", Options{Limit: -1}, "trace: options: option Limit must not be negative, got -1"},
	{"options", "a\n", Options{Format: 9}, "trace: options: unknown format Format(9)"},
	{"options", "a\n", Options{Format: -1}, "trace: options: unknown format Format(-1)"},
}

// flip returns s with a bit changed; i counts from the end if negative.
func flip(s string, i int) string {
	b := []byte(s)
	b[(i+len(b))%len(b)] ^= 1
	return string(b)
}

func TestReadErrors(t *testing.T) {
	for _, tc := range unreadable {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Read(strings.NewReader(tc.data), tc.name, tc.o)
			assert.EqualError(t, err, tc.want)
			assert.Nil(t, got)
		})
	}
}

func TestReadFailingReader(t *testing.T) {
	broken := errors.New("broken pipe")
	for name, data := range map[string]string{
		"a.u64": u64(7), "a": "key\n", "a.lis": "1 1 0 0\n", "b.u64": "", "a.u64.gz": gz(u64(7))[:20],
	} {
		_, err := Read(io.MultiReader(strings.NewReader(data), iotest.ErrReader(broken)), name, Options{})
		assert.ErrorIs(t, err, broken, name)
		assert.ErrorContains(t, err, name)
	}
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.u64.gz")
	require.NoError(t, os.WriteFile(file, []byte(gz(u64(7, 8))), 0o666))
	got, err := Open(file, Options{})
	require.NoError(t, err)
	assert.Equal(t, []uint64{7, 8}, got)

	require.NoError(t, os.WriteFile(file, nil, 0o666))
	_, err = Open(file, Options{})
	assert.EqualError(t, err, "trace: "+file+": no requests in it")

	_, err = Open(file+".none", Options{})
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(t.TempDir(), Options{})
	assert.Error(t, err, "a folder")
}

func TestOpenStandardInput(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	old := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = old }()
	io.WriteString(w, "b\na\nb\n")
	w.Close()
	got, err := Open("-", Options{})
	require.NoError(t, err)
	assert.Equal(t, []uint64{0, 1, 0}, got)

	r.Close()
	_, err = Open("-", Options{})
	assert.ErrorContains(t, err, "trace: standard input: ")
}

func TestParseFormat(t *testing.T) {
	for _, f := range []Format{Auto, U64, Text, ARC} {
		got, err := ParseFormat(f.String())
		require.NoError(t, err)
		assert.Equal(t, f, got)
	}
	_, err := ParseFormat("csv")
	assert.EqualError(t, err, `trace: format must be one of auto, u64, text, arc, got "csv"`)
}

func TestUnique(t *testing.T) {
	assert.Equal(t, 0, Unique(nil))
	assert.Equal(t, 1, Unique([]uint64{5, 5, 5}))
	assert.Equal(t, 3, Unique([]uint64{0, 1<<64 - 1, 0, 7}))
}
