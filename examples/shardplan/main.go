// Command shardplan answers: where does each of my keys go, and how evenly? From a topology of
// package shard and a file of keys it prints where the topology has them, where other strategies
// would with the same shards, how even each is beside what chance alone gives, and what moves
// if another topology follows. Without files it does so for a sample.
//
//	go run ./examples/shardplan
//	go run ./examples/shardplan -topology topology.json -keys requests.txt
//	go run ./examples/shardplan -topology topology.json -keys requests.txt -next next.json
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/shard"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const defaultShow = 10

//go:embed topology.json
var sampleTopology string

//go:embed keys.txt
var sampleKeys string

const usage = `Where does each of my keys go, and how evenly?

  shardplan                                           a sample
  shardplan -topology FILE -keys FILE                 your own
  shardplan -topology FILE -keys - < requests         keys from standard input
  shardplan -topology FILE -key ann -key bob          some keys
  shardplan -topology FILE -keys FILE -next FILE      what moves if another topology follows
  shardplan -topology FILE -keys FILE -strategies topology,slots

A topology is what shard.ParseTopology reads. Files of keys have a key a line, each of which counts
as a request; - is standard input. Strategies place keys over the shards of the topology:

  topology    as the topology says
  mod         remainders: shard.NewMod
  slots       slots of XXH64: shard.NewSlots
  redis       slots of CRC16, as Redis Cluster has them; for texts only
  consistent  consistent hashing: shard.NewConsistent with consistenthash.Map
  range       ranges with the bounds that divide the given keys most evenly: shard.NewRange

Flags:
`

// settings is the command line.
type settings struct {
	topology   string // "": the sample
	next       string
	file       string   // of keys
	keys       []string // of -key; without these and a file: the sample
	kind       shard.KeyKind
	strategies []string
	show       int
	json       bool
}

// run is the command: it returns 0 after success, 2 after a bad command line, and 1 if a file is bad, or the
// output cannot be written.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, err := parse(args)
	if err == nil {
		err = s.run(stdin, stdout, stderr)
	}
	return cli.End("shardplan", cli.Without("shard: ", err), stdout, stderr)
}

func (s settings) run(stdin io.Reader, stdout, stderr io.Writer) error {
	t, next, err := s.topologies(stdin)
	if err != nil {
		return err
	}
	bar := progress.New(stderr)
	p, err := s.plan(t, next, stdin, bar)
	bar.Finish()
	if err != nil {
		return err
	}
	write := p.writeText
	if s.json {
		write = p.writeJSON
	}
	if err := write(stdout); err != nil {
		return fmt.Errorf("the plan cannot be written: %w", err)
	}
	return nil
}

// parse returns the settings.
func parse(args []string) (s settings, err error) {
	flags := flag.NewFlagSet("shardplan", flag.ContinueOnError)
	flags.StringVar(&s.topology, "topology", "", "the topology, from `FILE`, in JSON")
	flags.StringVar(&s.file, "keys", "", "the keys, from `FILE`: one a line; a line that is there twice is two requests")
	flags.Func("key", "list where `KEY` is as well; can be given more than once, and without -keys these are the keys", func(v string) error {
		s.keys = append(s.keys, v)
		return nil
	})
	flags.Func("type", "the `TYPE` of keys: text, int, uint or float (default: what the topology takes, text if it takes all)", func(v string) error {
		if s.kind.UnmarshalText([]byte(v)) != nil {
			return errors.New("must be text, int, uint or float")
		}
		return nil
	})
	s.strategies = strategies
	flags.Func("strategies", "only the strategies in `LIST`, with commas between them", func(v string) error {
		s.strategies = strings.Split(v, ",")
		for i, name := range s.strategies {
			if !slices.Contains(strategies, name) {
				return fmt.Errorf("there is no strategy %q, only %s", name, strings.Join(strategies, ", "))
			}
			if slices.Contains(s.strategies[:i], name) {
				return fmt.Errorf("%s is there twice", name)
			}
		}
		return nil
	})
	flags.IntVar(&s.show, "show", defaultShow, "list the first `N` keys of the file; all of -key are")
	flags.StringVar(&s.next, "next", "", "say what changes and moves if the topology in `FILE` follows")
	flags.BoolVar(&s.json, "json", false, "print the plan as JSON")

	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	var standard []string
	for _, name := range []string{"topology", "keys", "next"} {
		switch value := flags.Lookup(name).Value.String(); {
		case given[name] && value == "":
			return s, cli.Usagef("-%s must not be empty", name)
		case value == "-":
			standard = append(standard, name)
		}
	}
	switch {
	case flags.NArg() > 0:
		return s, cli.Usagef("unexpected argument %q: give a file with -topology or -keys", flags.Arg(0))
	case len(standard) > 1:
		return s, cli.Usagef("-%s and -%s cannot both be standard input", standard[0], standard[1])
	case s.show < 0:
		return s, cli.Usagef("-show must be at least 0, got %d", s.show)
	case s.file == "" && len(s.keys) == 0 && (given["topology"] || given["type"]):
		return s, cli.Usagef("which keys? Give them with -keys or -key: the sample's are for its own topology")
	}
	return s, nil
}
