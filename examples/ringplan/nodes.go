package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// maxLine is more than any line has that is meant to be one.
const maxLine = 1 << 20

// fromFile reads a file, or standard input if its name is "-".
func fromFile[T any](name string, stdin io.Reader, read func(io.Reader, string) ([]T, error)) ([]T, error) {
	if name == "-" {
		return read(stdin, "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, name)
}

// readNodes reads a list of nodes. Errors say where in the file it is wrong.
func readNodes(r io.Reader, file string) ([]consistenthash.Node, error) {
	var nodes []consistenthash.Node
	lines := make(map[string]int) // where each ID is
	err := eachLine(r, file, func(line int, text string) error {
		n, ok, err := parseNode(text, 1, 3)
		if err != nil || !ok {
			return err
		}
		if first, ok := lines[n.ID]; ok {
			return fmt.Errorf("node %q is there already, in line %d", n.ID, first)
		}
		lines[n.ID] = line
		nodes = append(nodes, n)
		return nil
	})
	return nodes, err
}

// readKeys reads keys, one a line. Lines without any are skipped.
func readKeys(r io.Reader, file string) ([]string, error) {
	var keys []string
	err := eachLine(r, file, func(_ int, text string) error {
		text = strings.TrimPrefix(text, "\ufeff") // which some editors write before the first line
		if text != "" {
			keys = append(keys, text)
		}
		return nil
	})
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%s: no keys", file)
	}
	return keys, err
}

func eachLine(r io.Reader, file string, f func(line int, text string) error) error {
	line := 0
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		line++
		if err := f(line, scanner.Text()); err != nil {
			return fmt.Errorf("%s: line %d: %w", file, line, err)
		}
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s: line %d: longer than %d bytes", file, line+1, maxLine)
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// parseNode reads "ID [WEIGHT [ZONE]]", of which there must be from least to most fields. It
// returns false if there is nothing but white space and a comment.
func parseNode(text string, least, most int) (n consistenthash.Node, ok bool, err error) {
	fields := strings.Fields(text)
	for i, f := range fields {
		if strings.HasPrefix(f, "#") {
			fields = fields[:i]
			break
		}
	}
	if len(fields) == 0 {
		return n, false, nil
	}
	if len(fields) < least || len(fields) > most {
		form := []string{"ID", "ID WEIGHT", "ID [WEIGHT [ZONE]]"}[most-1]
		return n, false, fmt.Errorf("must be %s, got %d fields", form, len(fields))
	}
	for _, f := range fields {
		// They would spoil the table, and in JSON and SVG there is no way to write all of them.
		if strings.ContainsFunc(f, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
			return n, false, fmt.Errorf("%q has characters that cannot be printed", f)
		}
	}
	n = consistenthash.Node{ID: fields[0], Weight: 1}
	if len(fields) > 1 {
		w, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			return n, false, fmt.Errorf("the weight must be a whole number from 0 to %d, got %q", uint32(math.MaxUint32), fields[1])
		}
		n.Weight = uint32(w)
	}
	if len(fields) > 2 {
		n.Zone = fields[2]
	}
	return n, true, nil
}
