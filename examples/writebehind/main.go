// Command writebehind shows what write-behind buys and what it risks: it counts page views in a
// database file through a cache that acknowledges each count at once and writes many of them
// in one transaction later, while the database fails at random. In the end it compares every
// count that was acknowledged with what the file has and with what Close has returned.
//
//	go run ./examples/writebehind
//	go run ./examples/writebehind -views 100000 -pages 20000 -fail 0.3
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/ttlcache"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `Count page views in a database through a cache that writes behind, while the database fails at random.

Flags:
`

// settings is the command line.
type settings struct {
	views, pages, writers int
	fail                  float64
	file                  string
}

func parse(args []string) (s settings, err error) {
	defer func() { err = cli.Usage(err) }()
	flags := flag.NewFlagSet("writebehind", flag.ContinueOnError)
	flags.IntVar(&s.views, "views", 20_000, "count `N` page views")
	flags.IntVar(&s.pages, "pages", 2_000, "of `N` pages")
	flags.IntVar(&s.writers, "writers", 4, "in `N` goroutines")
	flags.Float64Var(&s.fail, "fail", 0.2, "the `SHARE` of transactions that fail, from 0 to below 1")
	flags.StringVar(&s.file, "file", "", "the database `FILE` (default a temporary one)")
	if _, err := cli.Parse(flags, usage, args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"views", s.views}, {"pages", s.pages}, {"writers", s.writers}} {
		if n.value < 1 {
			return s, fmt.Errorf("-%s must be at least 1, got %d", n.name, n.value)
		}
	}
	if !(s.fail >= 0 && s.fail < 1) {
		return s, fmt.Errorf("-fail must be at least 0 and less than 1, got %v", s.fail)
	}
	return s, nil
}

// run is the command: it returns 0 after success, 2 after a bad command line, and 1 if something fails or a count is wrong.
func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args)
	if err == nil {
		err = s.run(stdout)
	}
	return cli.End("writebehind", err, stdout, stderr)
}

func (s settings) run(out io.Writer) error {
	if s.file == "" {
		dir, err := os.MkdirTemp("", "writebehind")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		s.file = filepath.Join(dir, "views.db")
	}
	ctx := context.Background()
	db, err := openDatabase(s.file)
	if err != nil {
		return err
	}
	defer db.Close()

	cache, err := newCounter(db, s.fail, ttlcache.BatchConfig{Size: 500, Delay: 20 * time.Millisecond, Retries: 20, Backoff: time.Millisecond})
	if err != nil {
		return err
	}
	start := time.Now()
	acked, err := count(ctx, cache, s)
	if err != nil {
		return err
	}
	took := time.Since(start)
	lost := closeCounter(ctx, cache)
	all := time.Since(start)

	stats := cache.Stats()
	fmt.Fprintf(out, "counted    %d views of %d pages in %v: %v each\n", s.views, len(acked), took.Round(time.Millisecond), (took / time.Duration(s.views)).Round(100*time.Nanosecond))
	fmt.Fprintf(out, "written    %d rows in %d transactions, the last after %v\n", stats.Written, db.commits.Load(), all.Round(time.Millisecond))
	fmt.Fprintf(out, "left out   %d writes of rows that were overwritten in time\n", stats.Coalesced)
	fmt.Fprintf(out, "failed     %d transactions, tried again or in parts\n", db.failures.Load())
	problems, err := compare(ctx, db, acked, lost)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d counts are wrong, among them: %s", len(problems), problems[0])
	}
	fmt.Fprintf(out, "compared   %d counts: each is in the file, or is one of the %d that Close gave back\n", len(acked), len(lost))
	return nil
}
