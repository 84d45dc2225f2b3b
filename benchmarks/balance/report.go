package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/internal/plot"
)

// A report is what came out: results by implementation, number of nodes, and set.
type report struct {
	options
	results [][][]result
}

func peak(r result) float64    { return r.peak }
func minimum(r result) float64 { return r.minimum }
func leave(r result) float64   { return 100 * r.leave }
func join(r result) float64    { return 100 * r.join }

// median returns the median over the sets.
func (r report) median(impl, size int, of func(result) float64) float64 {
	var list []float64
	for _, res := range r.results[impl][size] {
		list = append(list, of(res))
	}
	slices.Sort(list)
	middle := len(list) / 2
	if len(list)%2 == 1 {
		return list[middle]
	}
	return (list[middle-1] + list[middle]) / 2
}

func (r report) writeTables(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Medians over sets of nodes of equal weight: %s, of the peers %d.\n", count(r.sets, "set"), r.peerSets)
	table := func(title string, of func(result) float64) {
		fmt.Fprintf(&b, "\n%s\n%-17s  %-10s", title, "nodes", "of")
		for _, n := range r.nodes {
			fmt.Fprintf(&b, "  %8d", n)
		}
		b.WriteByte('\n')
		for i, in := range r.impls {
			fmt.Fprintf(&b, "%-17s  %-10s", in.name, in.of)
			for j := range r.nodes {
				fmt.Fprintf(&b, "  %8.4f", r.median(i, j, of))
			}
			b.WriteByte('\n')
		}
	}
	table("Peak load, as a multiple of the fair share", peak)
	table("Minimum load, as a multiple of the fair share", minimum)
	table(fmt.Sprintf("Moved without need when one node leaves, in percent; the mean of %s that leave one at a time", count(r.changes, "node")), leave)
	table("Moved without need when one node joins, in percent", join)
	r.writeStill(&b)
	r.writeNoise(&b)
	if slices.ContainsFunc(r.impls, func(in impl) bool { return in.numbered }) {
		b.WriteString("\nBuckets are numbered with " + r.names(func(in impl) bool { return in.numbered }) + ": the last one leaves.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// names lists the implementations for which f returns true.
func (r report) names(f func(in impl) bool) string {
	var names []string
	for _, in := range r.impls {
		if f(in) {
			names = append(names, in.name)
		}
	}
	return strings.Join(names, ", ")
}

// writeStill says where not a single change moved anything, which a median of 0 does not.
func (r report) writeStill(b *strings.Builder) {
	var still []string
	for i, in := range r.impls {
		greatest := 0.
		for _, results := range r.results[i] {
			for _, res := range results {
				greatest = max(greatest, res.leave, res.join)
			}
		}
		if greatest == 0 {
			still = append(still, in.name)
		}
	}
	if len(still) > 0 {
		fmt.Fprintf(b, "\nNothing moved without need, in any set: %s.\n", strings.Join(still, ", "))
	}
}

// writeNoise says what chance does to loads of which keys were sampled.
func (r report) writeNoise(b *strings.Builder) {
	if !slices.ContainsFunc(r.impls, func(in impl) bool { return in.of == sampled }) {
		return
	}
	fmt.Fprintf(b, `
Of %q, load is that of %d sampled keys (moves: a tenth of them), by which a node's share deviates by
sqrt(nodes / keys), relative, even if the placement is perfectly even; such a one would be seen as:
`, sampled, r.keys)
	line := func(title string, f func(n int) string) {
		fmt.Fprintf(b, "%-17s  %-10s", title, "")
		for _, n := range r.nodes {
			fmt.Fprintf(b, "  %8s", f(n))
		}
		b.WriteByte('\n')
	}
	line("deviation", func(n int) string { return fmt.Sprintf("%.4f", r.noise(n)) })
	line("peak", func(n int) string { return fmt.Sprintf("%.4f", 1+r.noise(n)*medianMax(n)) })
	line("minimum", func(n int) string { return fmt.Sprintf("%.4f", max(0, 1-r.noise(n)*medianMax(n))) })
}

// noise returns the relative standard deviation of the load of one of n nodes among sampled keys.
func (r report) noise(n int) float64 { return math.Sqrt(float64(n) / float64(r.keys)) }

// medianMax returns the median of the maximum of n standard normal numbers.
func medianMax(n int) float64 {
	p := math.Pow(0.5, 1/float64(n))
	return math.Sqrt2 * math.Erfinv(2*p-1)
}

// A drawing is a file with some of the results.
type drawing struct {
	file, title, y string
	curves         []curve
	nonzero        bool // curves that are 0 everywhere are left out
}

type curve struct {
	suffix string
	of     func(result) float64
}

var drawings = []drawing{
	{"peak.svg", "Peak load", "multiple of the fair share", []curve{{"", peak}}, false},
	{"minimum.svg", "Minimum load", "multiple of the fair share", []curve{{"", minimum}}, false},
	// With a percent sign the axis would go up to 100.
	{"moves.svg", "Moved without need", "percent of what nodes that stay had", []curve{{", one leaves", leave}, {", one joins", join}}, true},
}

func (r report) chart(d drawing) plot.Chart {
	c := plot.Chart{Title: d.title, XLabel: "nodes", YLabel: d.y, LogX: true}
	var zero []plot.Series
	for i, in := range r.impls {
		if in.apart && len(r.impls) > 1 {
			continue
		}
		for _, curve := range d.curves {
			s := plot.Series{Name: in.name + curve.suffix}
			greatest := 0.
			for j, n := range r.nodes {
				y := r.median(i, j, curve.of)
				s.Points = append(s.Points, plot.Point{X: float64(n), Y: y})
				greatest = max(greatest, y)
			}
			if d.nonzero && greatest == 0 {
				zero = append(zero, s)
			} else {
				c.Series = append(c.Series, s)
			}
		}
	}
	if len(c.Series) == 0 {
		c.Series = zero
	}
	return c
}
