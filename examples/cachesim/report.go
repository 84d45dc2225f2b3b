package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/internal/plot"
)

const (
	// lineWidth is for all but plots on wide terminals.
	lineWidth = 78
	// perBlock is how many sizes fit into a line.
	perBlock = 7
	// closeBy is how much more a policy may need and still count as the equal of
	// another: differences below are within what tomorrow's traffic changes.
	closeBy = 0.1
)

// write prints the report.
func (r *report) write(w io.Writer) error {
	var b bytes.Buffer
	r.writeWorkload(&b)
	r.writeRatios(&b)
	if r.plot {
		width := lineWidth
		if columns, ok := progress.Terminal(w); ok {
			width = min(max(columns-1, lineWidth), 110)
		}
		fmt.Fprintln(&b)
		// The axis takes some columns; eleven rows are ten steps of 10 %.
		if err := merged(r.chart()).Text(&b, width-8, 11); err != nil {
			return err
		}
	}
	if r.need == 0 && r.ttl > 0 && r.requests > r.distinct {
		fmt.Fprint(&b, "\nNo entry lives until its key is asked for again: no cache helps with this -ttl.\n")
	} else if r.need == 0 {
		fmt.Fprint(&b, "\nNo key is asked for twice: no cache helps this workload.\n")
	} else {
		r.writeSearch(&b)
		r.writeAdvice(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *report) writeWorkload(b *bytes.Buffer) {
	hint := ""
	if r.trace == "" {
		hint = " (your own: -trace FILE; more: -help)"
	}
	fmt.Fprintf(b, "Workload   %s%s\n", r.workload(), hint)
	fmt.Fprintf(b, "Requests   %s, for %s distinct keys\n", group(r.requests), group(r.distinct))
	why := "the first request for a key misses in every cache"
	if r.ttl > 0 {
		fmt.Fprintf(b, "Entries    expire after %v, or %s requests at %s a second\n", r.ttl, group(r.life()), short(r.rate))
		why = "the first request for a key misses, and one after expiry"
	}
	fmt.Fprintf(b, "Hits       at most %s %%: %s\n", percent(ratio(r.most, r.requests)), why)
}

func (r *report) workload() string {
	switch r.trace {
	case "":
		return fmt.Sprintf("synthetic, seed %d", r.seed)
	case "-":
		return "standard input"
	}
	return r.trace
}

func (r *report) writeRatios(b *bytes.Buffer) {
	fmt.Fprint(b, "\nHit ratio in %, by cache size in entries and in % of the keys\n")
	for from := 0; from < len(r.sizes); from += perBlock {
		to := min(from+perBlock, len(r.sizes))
		fmt.Fprintf(b, "\n%22s", "")
		for _, size := range r.sizes[from:to] {
			fmt.Fprintf(b, "%8d", size)
		}
		fmt.Fprintf(b, "\n%22s", "")
		for _, size := range r.sizes[from:to] {
			fmt.Fprintf(b, "%8s", share(size, r.distinct))
		}
		fmt.Fprintln(b)
		for _, w := range r.rows {
			fmt.Fprintf(b, "  %-20s", w.name)
			for _, hits := range w.hits[from:to] {
				fmt.Fprintf(b, "%8s", percent(ratio(hits, r.requests)))
			}
			fmt.Fprintln(b)
		}
	}
}

func (r *report) writeSearch(b *bytes.Buffer) {
	goal := percent(ratio(r.need, r.requests))
	if r.lower {
		fmt.Fprintf(b, "\n%s %% is out of reach. Smallest cache for %s %%, 90 %% of what is possible:\n\n",
			short(r.target*100), goal)
	} else {
		fmt.Fprintf(b, "\nSmallest cache for a hit ratio of %s %%:\n\n", short(r.target*100))
	}
	for _, w := range r.rows {
		found, how := fmt.Sprintf("%d entries", w.smallest), "within 1 %"
		switch {
		case w.smallest == 0:
			found, how = "not reached", ""
		case w.exact:
			how = "exactly"
		}
		note := fmt.Sprintf("%7.1f M requests/s", w.speed/1e6)
		if w.bound {
			note = cmp.Or(w.note, "no policy can do better")
		}
		fmt.Fprintf(b, "  %-19s%18s  %-10s  %s\n", w.name, found, how, note)
	}
	fmt.Fprint(b, "\n  Requests a second are those of one goroutine, all sizes together.\n")
}

// writeAdvice says what to do.
func (r *report) writeAdvice(b *bytes.Buffer) {
	best := r.best()
	if best == nil {
		return
	}
	fmt.Fprintf(b, "\nTake %s, with %d entries (%s of the keys):\n\n  %s\n",
		best.name, best.smallest, share(best.smallest, r.distinct), fmt.Sprintf(best.config, best.smallest))
	gap := "\n"
	for _, w := range r.rows {
		if more := float64(w.smallest)/float64(best.smallest) - 1; !w.bound && more > closeBy {
			fmt.Fprintf(b, "%s%s, would need %.0f %% more.\n", gap, w.name, more*100)
			gap = ""
		}
	}
}

// best returns the policy that needs the least, or nil.
func (r *report) best() *row {
	least := math.MaxInt
	for _, w := range r.rows {
		if !w.bound && w.smallest > 0 {
			least = min(least, w.smallest)
		}
	}
	var best *row
	for i := range r.rows {
		w := &r.rows[i]
		near := float64(w.smallest) <= float64(least)*(1+closeBy)
		if !w.bound && w.smallest > 0 && near && (best == nil || w.usual && !best.usual) {
			best = w
		}
	}
	return best
}

// chart returns the hit ratios as curves.
func (r *report) chart() plot.Chart {
	chart := plot.Chart{XLabel: "cache size in entries", YLabel: "hit ratio in %", LogX: true}
	for _, w := range r.rows {
		series := plot.Series{Name: w.name}
		for i, hits := range w.hits {
			series.Points = append(series.Points, plot.Point{X: float64(r.sizes[i]), Y: 100 * ratio(hits, r.requests)})
		}
		chart.Series = append(chart.Series, series)
	}
	return chart
}

// merged joins curves that characters could not tell apart.
func merged(chart plot.Chart) plot.Chart {
	var series []plot.Series
next:
	for _, s := range chart.Series {
		for i := range series {
			if covers(series[i].Points, s.Points) {
				series[i].Name += " = " + s.Name
				continue next
			}
		}
		series = append(series, s)
	}
	chart.Series = series
	return chart
}

func covers(a, b []plot.Point) bool {
	for i := range a {
		if math.Abs(a[i].Y-b[i].Y) > 1 {
			return false
		}
	}
	return true
}

func percent(ratio float64) string { return strconv.FormatFloat(100*ratio, 'f', 2, 64) }

// short writes a number with up to two decimals.
func short(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 2, 64), "0"), ".")
}

// share is a size in percent of the keys: two digits say enough.
func share(size, distinct int) string {
	p := 100 * ratio(size, distinct)
	switch {
	case p < 0.01:
		return "<0.01 %"
	case p < 10:
		p, _ = strconv.ParseFloat(strconv.FormatFloat(p, 'g', 2, 64), 64)
		return short(p) + " %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

// group writes a count with a comma every three digits. Cache sizes go without,
// so that they can be pasted.
func group(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
