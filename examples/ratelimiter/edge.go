package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// The client that edge plays knows the windows, and comes just before and just after an edge.
const (
	edgeTries = 30                   // on each side
	edgeStep  = 5 * time.Millisecond // between them
)

var edgeLimit = ratelimit.PerSecond(20)

// edge shows what each algorithm admits around the edge of a window.
func edge(ctx context.Context, w io.Writer) error {
	type contender struct {
		name     string
		limiter  ratelimit.Limiter
		admitted [2]int
	}
	fixed, err1 := ratelimit.NewFixedWindow(edgeLimit)
	counter, err2 := ratelimit.NewSlidingCounter(edgeLimit)
	log, err3 := ratelimit.NewSlidingLog(edgeLimit)
	bucket, err4 := ratelimit.NewBucket(edgeLimit)
	small, err5 := ratelimit.NewBucket(edgeLimit.WithBurst(5))
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return err
		}
	}
	all := []*contender{
		{name: "FixedWindow", limiter: fixed},
		{name: "SlidingCounter", limiter: counter},
		{name: "SlidingLog", limiter: log},
		{name: "Bucket, burst 20", limiter: bucket},
		{name: "Bucket, burst 5", limiter: small},
	}
	// Windows of a second begin with the seconds of the clock; those of the SlidingCounter when it is
	// made, so the first of its windows is past when the client comes.
	span := edgeTries * edgeStep
	now := time.Now()
	start := now.Truncate(time.Second).Add(3*time.Second - span)
	for i := range 2 * edgeTries {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(start.Add(time.Duration(i) * edgeStep))):
		}
		for _, c := range all {
			if c.limiter.Take(1).OK() {
				c.admitted[i/edgeTries]++
			}
		}
	}
	fmt.Fprintf(w, "The limit is %d in each %v. A client sends %d requests in the %v before the edge of a\n", edgeLimit.Count, edgeLimit.Per, edgeTries, span)
	fmt.Fprintf(w, "window, and %d in the %v after it. Of these are admitted:\n\n", edgeTries, span)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tbefore\tafter\ttogether\t")
	for _, c := range all {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", c.name, c.admitted[0], c.admitted[1], c.admitted[0]+c.admitted[1])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
FixedWindow admits the limit of two windows at once. SlidingLog never admits more than %d in any
%v; SlidingCounter estimates that. A Bucket admits its burst, and what comes in meanwhile.
`, edgeLimit.Count, edgeLimit.Per)
	return err
}
