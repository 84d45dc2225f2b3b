package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// write writes the tables.
func (r report) write(w io.Writer) error {
	var b strings.Builder
	for _, tcp := range []bool{false, true} {
		if !slices.ContainsFunc(r.contestants, func(c contestant) bool { return c.tcp == tcp }) {
			continue
		}
		if tcp {
			fmt.Fprintf(&b, "TCP, %d connections that read, %s of %v: medians.\n\n", r.connections, rounds(r.rounds), r.duration)
			b.WriteString("| | MB/s | ours to it | errors |\n|---|---:|---:|---:|\n")
		} else {
			fmt.Fprintf(&b, "HTTP, %d connections, answers of %d bytes, %s of %v: medians.\n\n", r.connections, r.body, rounds(r.rounds), r.duration)
			b.WriteString("| | requests/s | ours to it | p99 | errors |\n|---|---:|---:|---:|---:|\n")
		}
		for _, c := range r.contestants {
			if c.tcp != tcp {
				continue
			}
			results := r.results[c.name]
			rate := median(results, func(x result) float64 { return x.rate })
			if tcp {
				fmt.Fprintf(&b, "| %s | %.0f | %s | %d |\n", c.name, rate/1e6, r.ratio(c), sum(results))
				continue
			}
			p99 := time.Duration(median(results, func(x result) float64 { return float64(x.p99) }))
			fmt.Fprintf(&b, "| %s | %.0f | %s | %v | %d |\n", c.name, rate, r.ratio(c), p99.Round(10*time.Microsecond), sum(results))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, strings.TrimSuffix(b.String(), "\n"))
	return err
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// ratio returns the median of our rates in proportion to those of c, or nothing if there are none.
func (r report) ratio(c contestant) string {
	mine, its := r.results[ours[c.tcp]], r.results[c.name]
	if mine == nil || c.name == ours[c.tcp] {
		return ""
	}
	var ratios []result
	for i := range its {
		ratios = append(ratios, result{rate: mine[i].rate / its[i].rate})
	}
	return fmt.Sprintf("%.2f", median(ratios, func(x result) float64 { return x.rate }))
}

func sum(results []result) (n int) {
	for _, r := range results {
		n += r.errors
	}
	return n
}

func median(results []result, of func(result) float64) float64 {
	var list []float64
	for _, r := range results {
		list = append(list, of(r))
	}
	slices.Sort(list)
	middle := len(list) / 2
	if len(list)%2 == 1 {
		return list[middle]
	}
	return (list[middle-1] + list[middle]) / 2
}
