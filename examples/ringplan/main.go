// Command ringplan answers: what moves if I add, remove or re-weight nodes? From a file of
// nodes it builds the map that package consistenthash would build, changes it, and prints how much
// moves from where to where, how much of that had to, and the load of each node before and after.
// Without a file it plans for a sample.
//
//	go run ./examples/ringplan
//	go run ./examples/ringplan -nodes nodes.txt -add "10.0.0.7:6379 2 zone-a" -remove 10.0.0.2:6379
//	go run ./examples/ringplan -nodes nodes.txt -to nodes.new -svg load.svg
package main

import (
	"cmp"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const (
	// defaultSamples keep the noise of a share below a tenth of a percent.
	defaultSamples = 1_000_000
	minSamples     = 1000
	maxSamples     = 1 << 30
	defaultTop     = 10
)

//go:embed nodes.txt
var sampleNodes string

// sampleChanges are what is planned without any other.
var sampleChanges = []change{
	{kind: remove, node: consistenthash.Node{ID: "10.0.0.2:6379"}},
	{kind: add, node: consistenthash.Node{ID: "10.0.1.4:6379", Weight: 2, Zone: "b"}},
}

const usage = `What moves if I add, remove or re-weight nodes?

  ringplan                                       a sample
  ringplan -nodes FILE -add "10.0.0.7:6379 2 a"  a node comes, with weight 2, in zone a
  ringplan -nodes FILE -remove 10.0.0.2:6379     one leaves
  ringplan -nodes FILE -weight "[::1]:6379 3"    one is to have another weight; 0 drains it
  ringplan -nodes FILE -to FILE                  all nodes as they are to be afterwards
  ringplan -nodes FILE -to-algorithm ring        another algorithm

Files of nodes have a node a line: ID [WEIGHT [ZONE]]. Weight is 1 if it is left out. What
follows # at the beginning of a word is a comment; - is standard input.

Changes can be given together and more than once, and are made in their order.

Flags:
`

// settings is the command line.
type settings struct {
	file      string // of nodes; "": the sample
	to        string // "": as it is, but for changes
	changes   []change
	algorithm [2]algorithm // before and after
	seed      uint64
	samples   int
	keys      string
	list      bool
	top       int
	json      bool
	svg       string
}

// A change is what one flag asks for.
type change struct {
	kind kind
	node consistenthash.Node
}

type kind int

const (
	add kind = iota
	remove
	reweight
)

// run is the command: it returns 0 after success, 2 after bad input, and 1 if the change is not
// possible or the output cannot be written.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, err := parse(args)
	if err == nil {
		err = s.run(stdin, stdout, stderr)
	}
	return cli.End("ringplan", cli.Without("consistenthash: ", err), stdout, stderr)
}

func (s settings) run(stdin io.Reader, stdout, stderr io.Writer) error {
	in, err := s.read(stdin)
	if err != nil {
		return cli.Input(err)
	}
	before, after, err := s.maps(in)
	if err != nil {
		return err
	}
	var svg io.WriteCloser
	if s.svg != "" {
		if name := s.input(s.svg); name != "" {
			return cli.Input(fmt.Errorf("-svg would overwrite the file of -%s", name))
		}
		// Now rather than after the work, which would be lost.
		if svg, err = os.Create(s.svg); err != nil {
			return cli.Input(err)
		}
		defer svg.Close()
	}
	bar := progress.New(stderr)
	p := newPlan(s, [2]*nodeMap{before, after}, in.keys, bar)
	bar.Finish()

	write := p.writeText
	if s.json {
		write = p.writeJSON
	}
	if err := write(stdout); err != nil {
		return fmt.Errorf("the plan cannot be written: %w", err)
	}
	if svg != nil {
		if err := cmp.Or(p.chart().WriteSVG(svg), svg.Close()); err != nil {
			return fmt.Errorf("the picture cannot be written: %w", err)
		}
	}
	return nil
}

// parse returns the settings.
func parse(args []string) (s settings, err error) {
	defer func() { err = cli.Usage(err) }()
	s.algorithm[0].name = "slots"
	var to string
	flags := flag.NewFlagSet("ringplan", flag.ContinueOnError)
	flags.StringVar(&s.file, "nodes", "", "the nodes there are, from `FILE`")
	changes := func(name, usage string, kind kind, least, most int) {
		flags.Func(name, usage, func(v string) error {
			n, ok, err := parseNode(v, least, most)
			if err == nil && !ok {
				err = errors.New("the ID is missing")
			}
			s.changes = append(s.changes, change{kind, n})
			return err
		})
	}
	changes("add", "add a `NODE`, written like a line of the file: \"ID [WEIGHT [ZONE]]\"", add, 1, 3)
	changes("remove", "remove the node `ID`", remove, 1, 1)
	changes("weight", "give a node another weight: \"`ID WEIGHT`\"", reweight, 2, 2)
	flags.StringVar(&s.to, "to", "", "the nodes there are to be, from `FILE`")
	flags.StringVar(&s.algorithm[0].name, "algorithm", s.algorithm[0].name, "the algorithm `NAME`: "+strings.Join(algorithms, ", "))
	flags.StringVar(&to, "to-algorithm", "", "the algorithm afterwards, as `NAME[,PARAMETER=VALUE]...`: such as\n"+
		"ring,virtual-nodes=320; a parameter that is not in it is as its flag says (default: the same)")
	s.algorithm[0].parameters(flags)
	flags.Uint64Var(&s.seed, "seed", 0, "the `SEED` of the map")
	flags.IntVar(&s.samples, "samples", defaultSamples, "rendezvous: compare `N` positions")
	flags.StringVar(&s.keys, "keys", "", "say as well which of the keys in `FILE` move: one key a line")
	flags.BoolVar(&s.list, "list", false, "with -keys: list those that move")
	flags.IntVar(&s.top, "top", defaultTop, "print the `N` largest transfers")
	flags.BoolVar(&s.json, "json", false, "print the plan as JSON, with the ranges that move")
	flags.StringVar(&s.svg, "svg", "", "draw the load before and after to `FILE`, as SVG")

	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	if err := checkName(s.algorithm[0].name); err != nil {
		return s, fmt.Errorf("-algorithm: %w", err)
	}
	if s.algorithm[1], err = parseAlgorithm(to, s.algorithm[0]); err != nil {
		return s, fmt.Errorf("-to-algorithm: %w", err)
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q: give a file with -nodes", flags.Arg(0))
	case given["to"] && len(s.changes) > 0:
		return s, errors.New("-to has all nodes as they are to be: it goes without -add, -remove and -weight")
	case s.samples < minSamples || s.samples > maxSamples:
		return s, fmt.Errorf("-samples must be from %d to %d, got %d", minSamples, maxSamples, s.samples)
	case given["samples"] && s.algorithm[0].ranged() && s.algorithm[1].ranged():
		return s, errors.New("-samples is for rendezvous: the others are compared exactly")
	case s.list && !given["keys"]:
		return s, errors.New("-list needs -keys")
	case s.top < 0:
		return s, fmt.Errorf("-top must be at least 0, got %d", s.top)
	case given["top"] && s.json:
		return s, errors.New("-top is for the text: with -json all transfers are printed")
	case s.differ() && !given["keys"]:
		return s, fmt.Errorf("%s and %s hash keys differently, so there is no telling what moves but by the keys: give them with -keys",
			s.algorithm[0].name, s.algorithm[1].name)
	}
	for _, name := range []string{"nodes", "to", "to-algorithm", "keys", "svg"} {
		if given[name] && flags.Lookup(name).Value.String() == "" {
			return s, fmt.Errorf("-%s must not be empty", name)
		}
	}
	if s.to != "" && s.file == "" {
		return s, errors.New("-to needs -nodes: the nodes there are")
	}
	if s.svg == "-" {
		return s, errors.New("-svg must be a file, as the plan goes to standard output")
	}
	standard := slices.DeleteFunc([]string{"nodes", "to", "keys"}, func(name string) bool { return flags.Lookup(name).Value.String() != "-" })
	if len(standard) > 1 {
		return s, fmt.Errorf("-%s and -%s cannot both be standard input", standard[0], standard[1])
	}
	for name, owner := range parameterOf {
		if given[name] && owner != s.algorithm[0].name && owner != s.algorithm[1].name {
			return s, fmt.Errorf("-%s is for the algorithm %s", name, owner)
		}
	}
	// Parameters are checked by those who know how, before there are nodes.
	for _, a := range s.algorithm {
		if _, err := s.build(a, nil); err != nil {
			return s, err
		}
	}
	if s.file == "" && s.to == "" && to == "" && len(s.changes) == 0 {
		s.changes = sampleChanges
	}
	return s, nil
}

// input is what the files say.
type input struct {
	nodes []consistenthash.Node
	to    []consistenthash.Node // with -to
	keys  []string
}

// read reads all files.
func (s settings) read(stdin io.Reader) (in input, err error) {
	if s.file == "" {
		in.nodes, err = readNodes(strings.NewReader(sampleNodes), "nodes.txt")
	} else {
		in.nodes, err = fromFile(s.file, stdin, readNodes)
	}
	if err == nil && s.to != "" {
		in.to, err = fromFile(s.to, stdin, readNodes)
	}
	if err == nil && s.keys != "" {
		in.keys, err = fromFile(s.keys, stdin, readKeys)
	}
	return in, err
}

// input returns the flag for which file is read; "" if it is not.
func (s settings) input(file string) string {
	out, err := os.Stat(file)
	if err != nil {
		return ""
	}
	for name, in := range map[string]string{"nodes": s.file, "to": s.to, "keys": s.keys} {
		if info, err := os.Stat(in); err == nil && os.SameFile(info, out) {
			return name
		}
	}
	return ""
}

// A nodeMap has the IDs of its nodes as values.
type nodeMap = consistenthash.Map[string]

// maps returns the map there is, and the one there is to be.
func (s settings) maps(in input) (before, after *nodeMap, err error) {
	if before, err = s.build(s.algorithm[0], members(in.nodes)); err != nil {
		return nil, nil, err
	}
	if after, err = s.build(s.algorithm[0], members(in.nodes)); err != nil {
		return nil, nil, err
	}
	err = after.Update(func(tx *consistenthash.Tx[string]) error {
		if s.to != "" {
			tx.Clear()
			for _, m := range members(in.to) {
				tx.Add(m) // the first error is that of Update
			}
		}
		for _, c := range s.changes {
			switch c.kind {
			case add:
				tx.Add(consistenthash.Member[string]{Node: c.node, Value: c.node.ID})
			case remove:
				tx.Remove(c.node.ID)
			case reweight:
				tx.SetWeight(c.node.ID, c.node.Weight)
			}
		}
		return nil
	})
	if err == nil && s.algorithm[1] != s.algorithm[0] {
		after, err = s.build(s.algorithm[1], after.Members())
	}
	return before, after, err
}

func (s settings) build(a algorithm, members []consistenthash.Member[string]) (*nodeMap, error) {
	return consistenthash.New(consistenthash.Config[string]{Algorithm: a.make(), Members: members, Seed: s.seed})
}

func members(nodes []consistenthash.Node) []consistenthash.Member[string] {
	var all []consistenthash.Member[string]
	for _, n := range nodes {
		all = append(all, consistenthash.Member[string]{Node: n, Value: n.ID})
	}
	return all
}

// differ reports whether keys are hashed differently before and after.
func (s settings) differ() bool {
	return (s.algorithm[0].name == "ketama") != (s.algorithm[1].name == "ketama")
}
