// Hitratio replays request traces through the caches of sysblocks and through
// other libraries, and compares their hit ratios with each other and with the
// optimum of a cache that knows the future.
//
//	go run ./hitratio -sizes 1%,5%,20% -synthetic zipf,mixed
//	go run ./hitratio -sizes 560,1868,5606 -svg oltp.svg OLTP.lis
//
// A trace is a file of little-endian uint64 (.u64), an ARC trace (.lis), or text
// with a key on each line; each of them may be compressed with gzip, and "-" is
// standard input. The loop is that of a read-through cache: get, and on a miss
// set. Every implementation is also asked how many entries it really holds, and
// the table says so where that is more than the size that it was given.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/internal/trace"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main, with everything that it touches as arguments. It returns 2 if
// the input is at fault, 1 if the output cannot be written, and otherwise 0.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		o.flags.SetOutput(stdout)
		fmt.Fprintln(stdout, "usage: hitratio [flags] [trace …]")
		o.flags.PrintDefaults()
		return 0
	}
	var r report
	if err == nil {
		r.sizes, r.least, r.ims = o.sizes, o.least, o.ims
		r.works, err = o.load(stdin)
	}
	if err != nil {
		fmt.Fprintln(stderr, "hitratio:", err)
		return 2
	}

	if err := o.produce(&r, stdout); err != nil {
		fmt.Fprintln(stderr, "hitratio:", err)
		return 1
	}
	return 0
}

type options struct {
	flags     *flag.FlagSet
	traces    []string
	read      trace.Options
	synthetic []string
	requests  int
	keys      uint64
	skew      float64
	seed      uint64
	sizes     []size
	least     int
	ims       []impl
	svg, csv  string
}

// maxRequests bounds what is generated, at 8 bytes each.
const maxRequests = 1_000_000_000

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("hitratio", flag.ContinueOnError)
	o.flags = f
	// The package would print all flags below each error.
	f.SetOutput(io.Discard)
	f.Usage = func() {}

	f.Func("trace", "replay this `file`, \"-\" for standard input; can be repeated", func(s string) error {
		o.traces = append(o.traces, s)
		return nil
	})
	format := f.String("format", "auto", "`format` of the traces: auto (by the names), u64, text, arc")
	f.IntVar(&o.read.Field, "field", 0, "of text, the `field` of each line that is the key, from 1; 0 for the whole line")
	f.StringVar(&o.read.Separator, "separator", "", "of text, what stands between fields (default white space)")
	f.IntVar(&o.read.Limit, "limit", 0, "read at most `n` requests of each trace; 0 for all")
	synthetic := f.String("synthetic", "", "replay generated workloads, a `list` of zipf, loop, scan, mixed")
	f.IntVar(&o.requests, "requests", 1_000_000, "`number` of requests to generate")
	f.Uint64Var(&o.keys, "keys", 100_000, "`number` of keys of zipf, loop and scan")
	f.Float64Var(&o.skew, "skew", 0.9, "`exponent` of zipf")
	f.Uint64Var(&o.seed, "seed", 1, "seed of what is generated")
	sizes := f.String("sizes", "1%,2%,5%,10%,20%,50%", "`list` of sizes, in entries or in percent of the distinct keys")
	f.IntVar(&o.least, "least", 1, "leave out what comes to fewer than `n` entries")
	shards := f.String("shards", "0,1", "`list` of numbers of shards of lru and lfu; 0 is its own choice")
	only := f.String("only", "", "`list` of implementations (default all)")
	f.StringVar(&o.svg, "svg", "", "draw the hit ratios to this `file`, of several traces the mean")
	f.StringVar(&o.csv, "csv", "", "write the results to this `file`")

	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.traces = append(o.traces, f.Args()...)
	if *synthetic != "" {
		o.synthetic = split(*synthetic)
	}

	var err error
	if o.read.Format, err = trace.ParseFormat(*format); err != nil {
		return o, fmt.Errorf("-format: %w", err)
	}
	if o.sizes, err = parseSizes(*sizes); err != nil {
		return o, err
	}
	numbers, err := parseShards(*shards)
	if err != nil {
		return o, err
	}
	if o.ims, err = choose(impls(numbers), *only); err != nil {
		return o, err
	}
	return o, o.check()
}

func (o options) check() error {
	works := len(o.traces) + len(o.synthetic)
	switch {
	case works == 0:
		return errors.New("nothing to replay; give it traces or -synthetic (-h shows all flags)")
	case o.read.Field < 0:
		return fmt.Errorf("-field: must not be negative, got %d", o.read.Field)
	case o.read.Limit < 0:
		return fmt.Errorf("-limit: must not be negative, got %d", o.read.Limit)
	case o.requests < 1 || o.requests > maxRequests:
		return fmt.Errorf("-requests: must be from 1 to %d, got %d", maxRequests, o.requests)
	case o.keys < 1 || o.keys > 1<<53:
		return fmt.Errorf("-keys: must be from 1 to 2^53, got %d", o.keys)
	case !(o.skew > 0) || math.IsInf(o.skew, 0):
		return fmt.Errorf("-skew: must be positive and finite, got %v", o.skew)
	}
	for _, s := range o.sizes {
		if o.svg != "" && works > 1 && (s.entries == 0) != (o.sizes[0].entries == 0) {
			return errors.New("-svg: the sizes for several traces must be all in entries or all in percent")
		}
	}
	for _, s := range o.synthetic {
		if o.generator(s) == nil {
			return fmt.Errorf("-synthetic: no workload %q; there are zipf, loop, scan, mixed", s)
		}
	}
	return nil
}

func parseShards(list string) ([]int, error) {
	var numbers []int
	for _, s := range split(list) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > 1<<16 {
			return nil, fmt.Errorf("-shards: must be from 0 to %d, got %q", 1<<16, s)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

func (o options) generator(name string) func() []uint64 {
	switch name {
	case "zipf":
		return func() []uint64 { return trace.Zipf(o.requests, o.keys, o.skew, o.seed) }
	case "loop":
		return func() []uint64 { return trace.Loop(o.requests, o.keys) }
	case "scan":
		return func() []uint64 { return trace.Scan(o.requests, o.keys, o.seed) }
	case "mixed":
		return func() []uint64 { return trace.Synthetic(o.requests, o.seed) }
	}
	return nil
}

// load reads and generates everything before the first replay, so that what is
// wrong comes to light at once.
func (o options) load(stdin io.Reader) ([]workload, error) {
	var works []workload
	add := func(name string, keys []uint64) {
		works = append(works, workload{name, keys, trace.Unique(keys)})
	}
	for _, path := range o.traces {
		var keys []uint64
		var err error
		name := "stdin"
		if path == "-" {
			keys, err = trace.Read(stdin, "standard input", o.read)
		} else {
			keys, err = trace.Open(path, o.read)
			name = strings.TrimSuffix(filepath.Base(path), ".gz")
			name = strings.TrimSuffix(strings.TrimSuffix(name, ".u64"), ".lis")
		}
		if err != nil {
			return nil, err
		}
		add(name, keys)
	}
	for _, name := range o.synthetic {
		add(name, o.generator(name)())
	}
	return works, nil
}

// create writes a file. What is there of it after an error stays, as path may
// be something other than a plain file.
// produce replays everything and writes the results. It opens the files first: a path that is
// wrong must not cost the replays.
func (o *options) produce(r *report, stdout io.Writer) error {
	csv, err := create(o.csv)
	if err != nil {
		return err
	}
	svg, err := create(o.svg)
	if err != nil {
		return err
	}
	r.rows = replayAll(r.works, r.sizes, r.least, r.ims)
	err = r.writeTable(stdout)
	if csv != nil {
		err = errors.Join(err, r.writeCSV(csv), csv.Close())
	}
	if svg != nil {
		err = errors.Join(err, r.chart().WriteSVG(svg), svg.Close())
	}
	return err
}

// create creates a file, or returns nil if path is empty.
func create(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	return os.Create(path)
}
