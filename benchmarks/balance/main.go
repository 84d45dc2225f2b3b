// Balance measures how evenly the algorithms of package consistenthash, and those of other
// libraries, divide keys among nodes, and how much moves without need when a node leaves or
// joins.
//
//	go run ./balance
//	go run ./balance -nodes 10,30,100 -sets 20 -svg .
//
// Load is what a node has as a multiple of its fair share. It is exact where an algorithm tells
// which ranges of positions belong to whom, or has partitions that can be gone through. Of the
// others keys are sampled, and the output says by how much chance makes these differ.
//
// What moves without need is what belonged to a node that stays, and belongs afterwards to
// another one that was there before, as a share of what belonged to those that stay.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main, with everything that it touches as arguments. It returns 2 if the input is at
// fault, 1 if something could not be measured or written, and otherwise 0.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		o.flags.SetOutput(stdout)
		fmt.Fprintln(stdout, "usage: balance [flags]")
		o.flags.PrintDefaults()
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "balance:", err)
		return 2
	}
	if err := o.produce(stdout); err != nil {
		fmt.Fprintln(stderr, "balance:", err)
		return 1
	}
	return 0
}

type options struct {
	flags    *flag.FlagSet
	sets     int // of nodes, for each number of them
	peerSets int
	nodes    []int
	keys     int // sampled, where a load is not exact
	changes  int // nodes of each set that leave
	seed     uint64
	impls    []impl
	svg      string
}

const (
	maxSets  = 10_000
	maxNodes = 5000 // of which consistent still has more than one partition each
	maxKeys  = 100_000_000
)

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("balance", flag.ContinueOnError)
	o.flags = f
	// The package would print all flags below each error.
	f.SetOutput(io.Discard)
	f.Usage = func() {}

	f.IntVar(&o.sets, "sets", 50, "`number` of sets of nodes, of which all results are medians")
	f.IntVar(&o.peerSets, "peersets", 10, "`number` of sets for the other libraries, which take longer")
	nodes := f.String("nodes", "10,100,1000", "`list` of numbers of nodes")
	f.IntVar(&o.keys, "keys", 1_000_000, "`number` of keys to sample where a load is not exact; a tenth of them for moves")
	f.IntVar(&o.changes, "changes", 5, "`number` of nodes of each set that leave, one at a time")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the choice of nodes that leave")
	only := f.String("only", "", "`list` of implementations (default all)")
	f.StringVar(&o.svg, "svg", "", "draw peak.svg, minimum.svg and moves.svg into this `directory`")

	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.impls, err = choose(impls(), *only); err != nil {
		return o, err
	}
	for _, s := range split(*nodes) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 2 || n > maxNodes {
			return o, fmt.Errorf("-nodes: must be from 2 to %d, got %q", maxNodes, s)
		}
		o.nodes = append(o.nodes, n)
	}
	return o, o.check()
}

func (o options) check() error {
	switch {
	case o.flags.NArg() > 0:
		return fmt.Errorf("takes flags only, got %q (-h shows all flags)", o.flags.Arg(0))
	case o.sets < 1 || o.sets > maxSets:
		return fmt.Errorf("-sets: must be from 1 to %d, got %d", maxSets, o.sets)
	case o.peerSets < 1 || o.peerSets > maxSets:
		return fmt.Errorf("-peersets: must be from 1 to %d, got %d", maxSets, o.peerSets)
	case o.keys < 10 || o.keys > maxKeys:
		return fmt.Errorf("-keys: must be from 10 to %d, got %d", maxKeys, o.keys)
	case o.changes < 1 || o.changes > maxNodes:
		return fmt.Errorf("-changes: must be from 1 to %d, got %d", maxNodes, o.changes)
	}
	if o.svg != "" {
		if info, err := os.Stat(o.svg); err != nil {
			return fmt.Errorf("-svg: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("-svg: %s is no directory", o.svg)
		}
	}
	return nil
}

// produce measures everything and writes the results. It opens the files first: what is wrong
// with them must not cost the measuring.
func (o options) produce(stdout io.Writer) (err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	r := report{options: o}
	if o.svg != "" {
		for _, d := range drawings {
			f, err := os.Create(filepath.Join(o.svg, d.file))
			if err != nil {
				return err
			}
			files = append(files, f)
		}
	}
	if r.results, err = o.measure(); err != nil {
		return err
	}
	err = r.writeTables(stdout)
	for i, f := range files {
		err = errors.Join(err, r.chart(drawings[i]).WriteSVG(f))
	}
	return err
}

// split returns the parts of a list without the spaces around them.
func split(list string) []string {
	parts := strings.Split(list, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
