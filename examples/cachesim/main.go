// Command cachesim answers: which policy, and how big a cache, does my workload
// need? It replays the requests of a log or a trace through the caches of
// packages lru and lfu, or with expiry as in ttlcache, at several sizes, and prints
// their hit ratios and the smallest size that reaches a target. Without input it makes a
// workload of its own.
//
//	go run ./examples/cachesim
//	go run ./examples/cachesim -ttl 1m -rate 1000
//	go run ./examples/cachesim -trace access.log -field 7
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/internal/trace"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const (
	// defaultSizes is in percent of the distinct keys, so that it suits any
	// workload.
	defaultSizes = "0.1%,0.3%,1%,3%,10%,20%,50%"
	// defaultRequests are so many that the ratios are steady, and so few that
	// the first run takes seconds.
	defaultRequests = 1_000_000
	// defaultRate is that of the mean web service.
	defaultRate = 1000
)

const usage = `Which policy, and how big a cache, does my workload need?

  cachesim                               a synthetic workload
  cachesim -trace access.log -field 7    a log: the key is the 7th field of each line
  cachesim -trace keys.txt.gz            one key a line; gzip is recognised
  cachesim -trace - < keys.txt           standard input
  cachesim -ttl 10m -rate 500            entries expire; 500 requests come in a second

Flags:
`

// settings is the command line.
type settings struct {
	trace    string
	read     trace.Options
	requests int
	seed     uint64
	sizes    []size
	shards   int
	ttl      time.Duration // 0: entries do not expire
	rate     float64       // requests a second, with a ttl
	target   float64
	plot     bool
	svg      string
}

// run is the command: it returns 0 after success, 2 after bad input, and 1 if
// the output cannot be written.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, err := parse(args)
	if err == nil {
		err = s.run(stdin, stdout, stderr)
	}
	return cli.End("cachesim", cli.Without("trace: ", err), stdout, stderr)
}

func (s settings) run(stdin io.Reader, stdout, stderr io.Writer) error {
	bar := progress.New(stderr)
	defer bar.Finish()
	bar.Describe("reading")
	keys, err := s.keys(stdin)
	if err != nil {
		return cli.Input(err)
	}
	var svg io.WriteCloser
	if s.svg != "" {
		// Now rather than after the work, which would be lost.
		if svg, err = os.Create(s.svg); err != nil {
			return cli.Input(err)
		}
		defer svg.Close()
	}
	r, err := simulate(s, keys, bar)
	if err != nil {
		return cli.Input(err)
	}
	bar.Finish()

	if err := r.write(stdout); err != nil {
		return fmt.Errorf("the report cannot be written: %w", err)
	}
	if svg != nil {
		chart := r.chart()
		chart.Title = "Hit ratio by cache size: " + filepath.Base(r.workload())
		if err := cmp.Or(chart.WriteSVG(svg), svg.Close()); err != nil {
			return fmt.Errorf("the plot cannot be written: %w", err)
		}
	}
	return nil
}

// parse returns the settings.
func parse(args []string) (s settings, err error) {
	defer func() { err = cli.Usage(err) }()
	s.target = 0.8
	s.sizes, _ = parseSizes(defaultSizes)
	flags := flag.NewFlagSet("cachesim", flag.ContinueOnError)
	flags.StringVar(&s.trace, "trace", "", "replay the requests in `FILE`; - is standard input")
	flags.Func("format", "the `FORMAT` of the trace: text (a key a line), u64 (little-endian integers),\n"+
		"arc (the ARC paper's), or auto, which goes by the file's name (default auto)",
		func(v string) (err error) {
			s.read.Format, err = trace.ParseFormat(v)
			return err
		})
	flags.IntVar(&s.read.Field, "field", 0, "the key is field `N` of each line, counted from 1; 0 is the whole line")
	flags.StringVar(&s.read.Separator, "sep", "", "what `STRING` separates the fields (default white space)")
	flags.IntVar(&s.requests, "requests", 0, "use the first `N` requests only (default all; "+
		group(defaultRequests)+" of the synthetic workload)")
	flags.Uint64Var(&s.seed, "seed", 1, "the `SEED` of the synthetic workload")
	flags.Func("sizes", "cache sizes to try: a `LIST` of numbers of entries, or of percentages of the\n"+
		"distinct keys (default "+defaultSizes+")",
		func(v string) (err error) {
			s.sizes, err = parseSizes(v)
			return err
		})
	flags.IntVar(&s.shards, "shards", 0, "give the concurrent LRU `N` shards, rounded up to a power of two\n"+
		"(default: what package lru chooses)")
	flags.DurationVar(&s.ttl, "ttl", 0, "let entries expire after a `DURATION` such as 10m, as in package ttlcache")
	flags.Float64Var(&s.rate, "rate", defaultRate, "with -ttl: how many requests come in a second")
	flags.Func("target", "find the smallest cache with a hit `RATIO` of at least this; 0.8 or more is a rule\n"+
		"of thumb for a cache in front of a database (default 0.8)",
		func(v string) (err error) {
			s.target, err = parseTarget(v)
			return err
		})
	flags.BoolVar(&s.plot, "plot", true, "draw the hit ratios")
	flags.StringVar(&s.svg, "svg", "", "draw them to `FILE` as well, as SVG")

	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q: give a file with -trace", flags.Arg(0))
	case given["trace"] && s.trace == "":
		return s, errors.New("-trace needs the name of a file, or - for standard input")
	case s.read.Field < 0:
		return s, fmt.Errorf("-field must be at least 1, or 0 for the whole line, got %d", s.read.Field)
	case s.requests < 0 || given["requests"] && s.requests == 0:
		return s, fmt.Errorf("-requests must be at least 1, got %d", s.requests)
	case s.shards < 0:
		return s, fmt.Errorf("-shards must be at least 1, or 0 for the default, got %d", s.shards)
	case s.ttl < 0 || given["ttl"] && s.ttl == 0:
		return s, fmt.Errorf("-ttl must be above 0, got %v", s.ttl)
	case !(s.rate > 0) || math.IsInf(s.rate, 1):
		return s, fmt.Errorf("-rate must be above 0 and finite, got %v", s.rate)
	case given["rate"] && s.ttl == 0:
		return s, errors.New("-rate needs a -ttl")
	case given["shards"] && s.ttl > 0:
		return s, errors.New("-shards is for caches without -ttl, which is replayed with one shard")
	case given["trace"] && given["seed"]:
		return s, errors.New("-seed is for the synthetic workload, not for a -trace")
	}
	for _, name := range []string{"field", "sep", "format"} {
		if given[name] && !given["trace"] {
			return s, fmt.Errorf("-%s needs a -trace FILE to read (- is standard input)", name)
		}
	}
	s.read.Limit = s.requests
	return s, nil
}

// keys reads or makes the workload.
func (s settings) keys(stdin io.Reader) ([]uint64, error) {
	switch s.trace {
	case "":
		return trace.Synthetic(cmp.Or(s.requests, defaultRequests), s.seed), nil
	case "-":
		return trace.Read(stdin, "standard input", s.read)
	}
	return trace.Open(s.trace, s.read)
}

// A size is a number of entries or, if that is 0, a percentage of the keys.
type size struct {
	entries int
	percent float64
}

// maxSize is what a cache of one shard can hold.
const maxSize = 1<<31 - 2

func parseSizes(list string) ([]size, error) {
	var sizes []size
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if number, ok := strings.CutSuffix(item, "%"); ok {
			percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil || !(percent > 0 && percent <= 100) {
				return nil, fmt.Errorf("a percentage must be above 0 and at most 100, got %q", item)
			}
			sizes = append(sizes, size{percent: percent})
			continue
		}
		entries, err := strconv.ParseInt(item, 10, 32)
		if err != nil || entries < 1 || entries > maxSize {
			return nil, fmt.Errorf("a size must be from 1 to %d, got %q", maxSize, item)
		}
		sizes = append(sizes, size{entries: int(entries)})
	}
	return sizes, nil
}

// ladder returns sizes in entries, ascending, each once. Percentages are
// rounded down, but not below one entry.
func ladder(sizes []size, distinct int) []int {
	var entries []int
	for _, s := range sizes {
		n := s.entries
		if n == 0 {
			// The little more makes 32.3 % of 1000 keys 323 rather than 322.
			n = max(1, int(float64(distinct)*s.percent/100+1e-6))
		}
		entries = append(entries, n)
	}
	slices.Sort(entries)
	return slices.Compact(entries)
}

func parseTarget(v string) (float64, error) {
	number, isPercent := strings.CutSuffix(v, "%")
	target, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if isPercent {
		target /= 100
	}
	if err != nil || !(target > 0 && target <= 1) {
		return 0, errors.New("must be above 0 and at most 1, or a percentage such as 80%")
	}
	return target, nil
}
