package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/shard"
)

// maxLine is more than any line has that is meant to be one.
const maxLine = 1 << 20

// maxTopology is more than a topology has of as many parts as there can be, if their bounds are not very long. Tests
// change it.
var maxTopology int64 = 1 << 28

// open opens a file, or standard input if its name is "-", and says how it is called, and how long it is: 0
// if that is not known.
func open(name string, stdin io.Reader) (r io.ReadCloser, called string, size int64, err error) {
	called = name
	if name == "-" {
		r, called = io.NopCloser(stdin), "standard input"
	} else if r, err = os.Open(name); err != nil {
		return nil, "", 0, err
	}
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	return r, called, size, nil
}

// topologies returns the topology, and the one of -next, or nil.
func (s settings) topologies(stdin io.Reader) (t, next *shard.Topology, err error) {
	if s.topology == "" {
		t, err = parseTopology([]byte(sampleTopology), "a sample")
	} else {
		t, err = readTopology(s.topology, stdin)
	}
	if err == nil && s.next != "" {
		next, err = readTopology(s.next, stdin)
	}
	return t, next, err
}

func readTopology(name string, stdin io.Reader) (*shard.Topology, error) {
	r, called, _, err := open(name, stdin)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxTopology+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", called, err)
	}
	if int64(len(text)) > maxTopology {
		return nil, fmt.Errorf("%s: longer than %d bytes, which no topology is", called, maxTopology)
	}
	return parseTopology(text, called)
}

func parseTopology(text []byte, called string) (*shard.Topology, error) {
	t, err := shard.ParseTopology(text)
	if err == nil {
		return t, nil
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + strings.Count(string(text[:syntax.Offset]), "\n")
		return nil, fmt.Errorf("%s: line %d: %w", called, line, err)
	}
	if id, ok := badPart(text, err); ok {
		return nil, fmt.Errorf("%s: part %s: %w", called, id, err)
	}
	return nil, fmt.Errorf("%s: %w", called, err)
}

// badPart finds the part whose JSON has the error, where that does not name it. That is the one which alone has
// the same.
func badPart(text []byte, err error) (id string, ok bool) {
	var j struct{ Parts []json.RawMessage }
	if strings.Contains(err.Error(), "part ") || json.Unmarshal(text, &j) != nil {
		return "", false
	}
	for i, p := range j.Parts {
		_, alone := shard.ParseTopology([]byte(`{"parts": [` + string(p) + `]}`))
		if alone == nil || alone.Error() != err.Error() {
			continue
		}
		var named struct{ ID json.RawMessage }
		if json.Unmarshal(p, &named) == nil && named.ID != nil {
			return string(named.ID), true
		}
		return fmt.Sprintf("number %d", i+1), true
	}
	return "", false
}

// A key is a type of keys: the first of each kind.
type key interface {
	string | int64 | uint64 | float64
}

// parsers are for the lines of a file, and -key.

func parseText(s string) (string, error) { return s, nil }

func parseInt(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number from %d to %d, got %.40q", int64(math.MinInt64), int64(math.MaxInt64), s)
	}
	return n, nil
}

func parseUint(s string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number from 0 to %d, got %.40q", uint64(math.MaxUint64), s)
	}
	return n, nil
}

// parseFloat refuses NaN: it equals no key, so there is no telling how often it is asked for. -0 is the same key as 0, and
// is written so.
func parseFloat(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(f) {
		return 0, fmt.Errorf("must be a number of 64 bits, got %.40q", s)
	}
	if f == 0 {
		f = 0 // -0 is less than that
	}
	return f, nil
}

// A tally is how often each key is asked for. It is all that is kept of a file.
type tally[K key] struct {
	counts   map[K]int64
	requests int64
	first    []K // different keys of the file, at most show
	show     int
}

func (t *tally[K]) add(k K) {
	known := len(t.counts)
	t.counts[k]++
	t.requests++
	if len(t.counts) > known && len(t.first) < t.show {
		t.first = append(t.first, k)
	}
}

// read adds the keys of a file, one a line. Empty lines are skipped.
func (t *tally[K]) read(r io.Reader, called string, parse func(string) (K, error), bar *progress.Bar) error {
	const step = 1 << 16 // bytes, for the bar
	line, unseen := 0, 0
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		line++
		if unseen += len(scanner.Bytes()) + 1; unseen >= step {
			bar.Done(unseen)
			unseen = 0
		}
		text := scanner.Text()
		if line == 1 {
			text = strings.TrimPrefix(text, "\ufeff") // which some editors write first
		}
		if text == "" {
			continue
		}
		k, err := parse(text)
		if err != nil {
			return fmt.Errorf("%s: line %d: the key %w", called, line, err)
		}
		t.add(k)
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s: line %d: longer than %d bytes", called, line+1, maxLine)
	case err != nil:
		return fmt.Errorf("%s: line %d: %w", called, line+1, err)
	case len(t.counts) == 0:
		return fmt.Errorf("%s: no keys", called)
	}
	return nil
}

// readKeys returns the keys to be counted, and those of -key, which are the same without a file.
func readKeys[K key](s settings, stdin io.Reader, bar *progress.Bar, parse func(string) (K, error)) (t *tally[K], asked []K, err error) {
	t = &tally[K]{counts: make(map[K]int64), show: s.show}
	for _, text := range s.keys {
		k, err := parse(text)
		if err != nil {
			return nil, nil, cli.Usagef("-key %w", err)
		}
		asked = append(asked, k)
	}
	switch {
	case s.file != "":
		r, called, size, err := open(s.file, stdin)
		if err != nil {
			return nil, nil, err
		}
		defer r.Close()
		if size > 0 {
			bar.Plan("reading", size)
		}
		return t, asked, t.read(r, called, parse, bar)
	case len(asked) == 0:
		return t, nil, t.read(strings.NewReader(sampleKeys), "a sample", parse, bar)
	}
	for _, k := range asked {
		t.add(k)
	}
	return t, asked, nil
}
