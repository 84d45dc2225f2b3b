// Command estimate does the arithmetic of a system on the back of an envelope, and shows it: from users, actions,
// sizes and ratios to requests a second, storage, bandwidth, servers and shards; and how long a service is away
// with an availability. Without flags it does so for a service of short posts.
//
//	go run ./examples/estimate
//	go run ./examples/estimate -for shortener
//	go run ./examples/estimate -users 5M -actions 0.5 -ratio 20 -size 2KB
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `The arithmetic of a system on the back of an envelope.

  estimate                      a service of short posts: 300 million users
  estimate -for posts-small     a smaller one: 100 million users, 100 views each
  estimate -for shortener       a URL shortener: 100 million links a month
  estimate -users 5M -actions 0.5 -ratio 20 -size 2KB

Numbers may have K, M, B (or G), T, P or E behind them, sizes KB, MB, GB, TB, PB or EB; a rate is so many a second,
minute, hour, day, month or year. Units are decimal, a month has 30 days, and a year 365. What -for sets, other flags
replace.

Flags:
`

// systems are the worked examples.
var systems = map[string]input{
	"posts": {users: 300e6, actions: 2, ratio: 100, size: 280, mediaShare: 0.1, mediaSize: 200e3},
	"posts-small": {users: 100e6, actions: 2, views: 100, size: 280, mediaShare: 0.1, mediaSize: 200e3,
		response: 1000},
	"shortener": {writes: rate{100e6, "month"}, reads: rate{10e9, "month"}, size: 500, years: 10},
}

// run is the command: it returns 0 after success, 2 after a bad command line, and 1 if the output cannot be
// written.
func run(args []string, stdout, stderr io.Writer) int {
	in, asJSON, err := parse(args)
	if err == nil {
		write := in.writeText
		if asJSON {
			write = in.writeJSON
		}
		if err = write(stdout); err != nil {
			err = fmt.Errorf("the estimate cannot be written: %w", err)
		}
	}
	return cli.End("estimate", err, stdout, stderr)
}

// parse returns the input.
func parse(args []string) (in input, asJSON bool, err error) {
	defer func() { err = cli.Usage(err) }()
	flags := flag.NewFlagSet("estimate", flag.ContinueOnError)
	system := "posts"
	flags.StringVar(&system, "for", system, "begin with a worked `EXAMPLE`: posts, posts-small or shortener")
	given := map[string]float64{}
	value := func(name, help string, parse func(string) (float64, error)) {
		flags.Func(name, help, func(s string) (err error) { given[name], err = parse(s); return err })
	}
	value("users", "how many `PEOPLE` use it each day", number)
	value("actions", "how often each of them writes a day, in the mean: a `NUMBER`", number)
	value("ratio", "how many reads there are for each write: a `NUMBER`", number)
	value("views", "how often each user reads a day, instead of -ratio: a `NUMBER`", number)
	value("size", "the `SIZE` of what is written", bytes)
	value("media-share", "the `SHARE` of writes that have media with them", share)
	value("media-size", "the `SIZE` of those", bytes)
	value("response", "the `SIZE` of what a read returns (default: that of -size)", bytes)
	value("years", "for how many `YEARS` all is kept (default 5)", number)
	value("peak", "how many times the mean the peak is: a `NUMBER` (default 3)", number)
	value("copies", "how many `COPIES` of everything there are (default 1)", number)
	value("server", "how many `REQUESTS` a second a server serves (default 10,000)", number)
	value("shard-size", "the `SIZE` of what a shard stores (default 2TB)", bytes)
	value("shard-writes", "how many `WRITES` a second a shard takes (default 5,000)", number)
	var writes, reads rate
	flags.Func("writes", "a `RATE` instead of -users and -actions, such as 100M/month", func(s string) (err error) {
		writes, err = rates(s)
		return err
	})
	flags.Func("reads", "a `RATE` instead of -ratio and -views", func(s string) (err error) { reads, err = rates(s); return err })
	flags.BoolVar(&asJSON, "json", false, "print it as JSON")

	if _, err := cli.Parse(flags, usage, args); err != nil {
		return in, false, err
	}
	if flags.NArg() > 0 {
		return in, false, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	in, ok := systems[system]
	if !ok {
		return in, false, fmt.Errorf("-for must be posts, posts-small or shortener, got %q", system)
	}
	in, err = in.with(given, writes, reads)
	return in, asJSON, err
}

// with returns the input with what was given in place of what the example has, and defaults for the rest.
func (in input) with(given map[string]float64, writes, reads rate) (input, error) {
	has := func(name string) bool { _, ok := given[name]; return ok }
	for _, pair := range [][2]bool{
		{writes.period != "", has("users")}, {writes.period != "", has("actions")}, {writes.period != "", has("views")},
		{reads.period != "", has("ratio")}, {reads.period != "", has("views")}, {has("ratio"), has("views")},
	} {
		if pair[0] && pair[1] {
			return in, errors.New("give -users and -actions or -writes, and one of -ratio, -views and -reads")
		}
	}
	switch {
	case writes.period != "":
		if in.views > 0 { // of users, of which there are none
			in.views, in.ratio = 0, in.views/in.actions
		}
		in.users, in.actions, in.writes = 0, 0, writes
	case has("users") && has("actions"):
		in.writes = rate{}
	case in.users == 0 && (has("users") || has("actions") || has("views")):
		return in, errors.New("-users and -actions must both be given, as the example has a rate of writes and no users")
	}
	switch {
	case reads.period != "":
		in.ratio, in.views, in.reads = 0, 0, reads
	case has("ratio"):
		in.views, in.reads = 0, rate{}
	case has("views"):
		in.ratio, in.reads = 0, rate{}
	}
	years := float64(in.years)
	for name, p := range map[string]*float64{
		"users": &in.users, "actions": &in.actions, "ratio": &in.ratio, "views": &in.views, "size": &in.size,
		"media-share": &in.mediaShare, "media-size": &in.mediaSize, "response": &in.response, "years": &years, "peak": &in.peak,
		"copies": &in.copies, "server": &in.server, "shard-size": &in.shardSize, "shard-writes": &in.shardWrites,
	} {
		if has(name) {
			*p = given[name]
		}
	}
	for _, d := range []struct {
		name  string
		p     *float64
		value float64
	}{
		{"years", &years, 5}, {"peak", &in.peak, 3}, {"copies", &in.copies, 1}, {"server", &in.server, 10_000},
		{"shard-size", &in.shardSize, 2e12}, {"shard-writes", &in.shardWrites, 5000},
	} {
		if !has(d.name) && *d.p == 0 {
			*d.p = d.value
		}
	}
	switch {
	case years != math.Trunc(years) || years < 1 || years > 100:
		return in, fmt.Errorf("-years must be a whole number from 1 to 100, got %v", years)
	case in.peak < 1:
		return in, fmt.Errorf("-peak must be at least 1, got %v", in.peak)
	case in.copies < 1:
		return in, fmt.Errorf("-copies must be at least 1, got %v", in.copies)
	}
	for _, name := range []string{"users", "server", "shard-size", "shard-writes", "size", "response"} {
		if n, ok := given[name]; ok && n == 0 {
			return in, fmt.Errorf("-%s must be more than 0", name)
		}
	}
	switch {
	case in.mediaShare > 0 && in.mediaSize == 0:
		return in, errors.New("-media-share must be given with a -media-size of more than 0")
	case has("media-size") && in.mediaShare == 0:
		return in, errors.New("-media-size must be given with a -media-share of more than 0")
	}
	in.years = int(years)
	return in, nil
}

// writeText writes the arithmetic as a table, and that of availabilities behind it.
func (in input) writeText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, l := range in.estimate() {
		result := count(l.Result)
		unit := l.Unit
		if strings.HasPrefix(unit, "B") {
			result, unit = size(l.Result), strings.TrimPrefix(unit, "B")
		}
		text := strings.TrimSpace(result + " " + strings.TrimSpace(unit))
		if l.Note != "" {
			text += ", " + l.Note
		}
		fmt.Fprintf(w, "%s\t%s\t= %s\n", l.What, l.How, text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprint(out, "\nHow long a service is away\n\n")
	w = tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "available\ta year\ta month\ta week\t\n")
	for _, d := range in.downtimes() {
		fmt.Fprintf(w, "%s %%\t%s\t%s\t%s\t\n", d.Percent, duration(d.Year), duration(d.Month), duration(d.Week))
	}
	return w.Flush()
}

// writeJSON writes the same for programs, in which each line says what it is of.
func (in input) writeJSON(out io.Writer) error {
	lines := in.estimate()
	for i := range lines {
		if lines[i].What == "" {
			lines[i].What = lines[i-1].What
		}
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Estimate []line     `json:"estimate"`
		Downtime []downtime `json:"downtime"`
	}{lines, in.downtimes()})
}
