// Package trace reads request traces and makes synthetic ones.
//
// A trace is the sequence of keys that a program asked its cache for. It is
// what a replacement policy is judged by: replay the keys, count the hits, and
// compare with [Belady]'s optimum for the same keys.
//
// Keys are uint64. A trace whose keys are text gets dense numbers instead, in
// order of first appearance: exact where a hash could collide, and no policy
// here looks at anything but the identity of a key.
package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Format is the way in which a trace is written down.
type Format int

const (
	// Auto goes by the name: .u64 is U64, .lis is ARC, and anything else is
	// Text; a .gz behind these does not matter.
	Auto Format = iota
	// U64 is one little-endian uint64 a request, and nothing else.
	U64
	// Text is one request a line: the whole line is the key, or one field of it.
	Text
	// ARC is the format of the traces of Megiddo and Modha ("ARC: A Self-Tuning,
	// Low Overhead Replacement Cache", USENIX FAST 2003): lines of
	// "start count ignored ignored", each of which asks for the count keys from
	// start on.
	ARC
)

var formatNames = [...]string{Auto: "auto", U64: "u64", Text: "text", ARC: "arc"}

// String returns the name that [ParseFormat] takes.
func (f Format) String() string {
	if f < 0 || int(f) >= len(formatNames) {
		return "Format(" + strconv.Itoa(int(f)) + ")"
	}
	return formatNames[f]
}

// ParseFormat returns the format called name: auto, u64, text or arc.
func ParseFormat(name string) (Format, error) {
	for f, s := range formatNames {
		if s == name {
			return Format(f), nil
		}
	}
	return 0, fmt.Errorf("trace: format must be one of %s, got %q", strings.Join(formatNames[:], ", "), name)
}

// Options says how a trace is read. The zero value reads a whole trace whose
// format its name tells.
type Options struct {
	_ struct{}

	// Format is the trace's format; zero is Auto.
	Format Format
	// Field is the field of each line that holds the key, counted from 1; zero
	// takes the whole line. Formats other than Text ignore it.
	Field int
	// Separator stands between the fields of a line; empty means any run of
	// white space. Formats other than Text ignore it.
	Separator string
	// Limit is the greatest number of requests to read; zero means all of them.
	// What lies behind the last of them is not looked at.
	Limit int
}

const (
	// maxLine bounds the memory that one line can take. Keys that are longer
	// than this are a sign of a binary file read as text.
	maxLine = 1 << 20
	// maxCount bounds the keys of one ARC line: far more than any real request
	// asks for, and few enough that a damaged number does not fill the memory.
	maxCount = 1 << 24
)

// Read returns the keys of the trace in r, which is called name in errors and
// for [Auto]. Data that starts like a gzip file is decompressed first, whatever
// the name. (So a plain U64 file whose first key ends in the bytes 08 8b 1f is
// misread; compress such a file.)
//
// Lines may end in LF or CRLF, and the last one in nothing. Empty lines are
// skipped, and white space around a key is no part of it. A line of more than
// 1 MiB is an error, and so is a trace without any request. Read streams: apart
// from the keys that it returns (and, for Text, one copy of each distinct key)
// it needs a fixed amount of memory. On an error no keys are returned.
func Read(r io.Reader, name string, o Options) ([]uint64, error) {
	keys, err := read(r, name, o)
	if err != nil {
		return nil, fmt.Errorf("trace: %s: %w", name, err)
	}
	return keys, nil
}

// Open is [Read] on the file at path; "-" is standard input.
func Open(path string, o Options) ([]uint64, error) {
	if path == "-" {
		return Read(os.Stdin, "standard input", o)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer f.Close()
	return Read(f, path, o)
}

// Unique returns the number of distinct keys.
func Unique(keys []uint64) int {
	seen := make(map[uint64]struct{})
	for _, k := range keys {
		seen[k] = struct{}{}
	}
	return len(seen)
}

func read(r io.Reader, name string, o Options) ([]uint64, error) {
	if o.Field < 0 {
		return nil, fmt.Errorf("option Field must not be negative, got %d", o.Field)
	}
	if o.Limit < 0 {
		return nil, fmt.Errorf("option Limit must not be negative, got %d", o.Limit)
	}

	br := bufio.NewReader(r)
	if magic, _ := br.Peek(3); bytes.Equal(magic, []byte("\x1f\x8b\x08")) {
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("bad gzip: %w", err)
		}
		defer zr.Close()
		br = bufio.NewReader(gzipReader{zr})
	}

	var keys []uint64
	var err error
	switch o.Format.resolve(name) {
	case U64:
		keys, err = readU64(br, o.Limit)
	case Text:
		keys, err = readText(br, o)
	case ARC:
		keys, err = readARC(br, o.Limit)
	default:
		err = fmt.Errorf("unknown format %v", o.Format)
	}
	if err == nil && len(keys) == 0 {
		err = errors.New("no requests in it")
	}
	return keys, err
}

func (f Format) resolve(name string) Format {
	if f != Auto {
		return f
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".gz")
	switch {
	case strings.HasSuffix(name, ".u64"):
		return U64
	case strings.HasSuffix(name, ".lis"):
		return ARC
	}
	return Text
}

// gzipReader says of an error that it comes from the compression: the bare
// "unexpected EOF" of a file that is cut off tells too little.
type gzipReader struct{ r *gzip.Reader }

func (g gzipReader) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("bad gzip: %w", err)
	}
	return n, err
}

func readU64(r io.Reader, limit int) ([]uint64, error) {
	var keys []uint64
	var buf [8]byte
	for limit == 0 || len(keys) < limit {
		n, err := io.ReadFull(r, buf[:])
		switch err {
		case nil:
			keys = append(keys, binary.LittleEndian.Uint64(buf[:]))
		case io.EOF:
			return keys, nil
		case io.ErrUnexpectedEOF:
			return nil, fmt.Errorf("truncated: %d of 8 bytes after request %d", n, len(keys))
		default:
			return nil, fmt.Errorf("after request %d: %w", len(keys), err)
		}
	}
	return keys, nil
}

func readText(r io.Reader, o Options) ([]uint64, error) {
	var keys []uint64
	ids := make(map[string]uint64)
	err := eachLine(r, func(line []byte) (more bool, err error) {
		key := line
		if o.Field > 0 {
			if key = field(line, o.Field, o.Separator); len(key) == 0 {
				return false, fmt.Errorf("no field %d", o.Field)
			}
		}
		id, ok := ids[string(key)]
		if !ok {
			id = uint64(len(ids))
			ids[string(key)] = id
		}
		keys = append(keys, id)
		return o.Limit == 0 || len(keys) < o.Limit, nil
	})
	return keys, err
}

// field returns the n-th field of line, counted from 1, without white space
// around it; it is empty if the line has no such field.
func field(line []byte, n int, separator string) []byte {
	if separator == "" {
		for f := range bytes.FieldsSeq(line) {
			if n--; n == 0 {
				return f
			}
		}
		return nil
	}
	for f := range bytes.SplitSeq(line, []byte(separator)) {
		if n--; n == 0 {
			return bytes.TrimSpace(f)
		}
	}
	return nil
}

func readARC(r io.Reader, limit int) ([]uint64, error) {
	var keys []uint64
	err := eachLine(r, func(line []byte) (more bool, err error) {
		start, err := strconv.ParseUint(string(field(line, 1, "")), 10, 64)
		if err != nil {
			return false, fmt.Errorf("bad start: %w", err)
		}
		second := field(line, 2, "")
		if second == nil {
			return false, errors.New("no count after the start")
		}
		count, err := strconv.ParseUint(string(second), 10, 64)
		if err != nil {
			return false, fmt.Errorf("bad count: %w", err)
		}
		if count > maxCount {
			return false, fmt.Errorf("count %d is more than %d", count, maxCount)
		}
		if start+count < start {
			return false, fmt.Errorf("start %d and count %d overflow 64 bits", start, count)
		}
		for i := range count {
			keys = append(keys, start+i)
			if len(keys) == limit {
				return false, nil
			}
		}
		return true, nil
	})
	return keys, err
}

// eachLine calls do with each line that is not blank, without the white space
// around it, until do wants no more or fails. It adds the line's number to
// errors. The line is valid during the call only.
func eachLine(r io.Reader, do func(line []byte) (more bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	number := 0
	for lines.Scan() {
		number++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		more, err := do(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if !more {
			return nil
		}
	}
	switch err := lines.Err(); err {
	case nil:
		return nil
	case bufio.ErrTooLong:
		return fmt.Errorf("line %d: longer than %d bytes", number+1, maxLine)
	default:
		return fmt.Errorf("after line %d: %w", number, err)
	}
}
