package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sysblocks/sysblocks/internal/plot"
)

// A report is what came out of all replays. Rows are in order of workload, and
// of size within each.
type report struct {
	works []workload
	sizes []size
	least int // entries
	ims   []impl
	rows  []row
}

// mean returns the mean hit ratio in percent over the rows of the given size, or over all rows
// if size is nil, for each implementation and then the optimum; NaN where an
// implementation could not be made, or there is no row. Each row weighs the same, however
// long its workload is. over says which held more than the size in any row.
func (r report) mean(s *size) (percents []float64, over []bool) {
	percents = make([]float64, len(r.ims)+1)
	over = make([]bool, len(r.ims)+1)
	count := 0.
	for _, row := range r.rows {
		if s != nil && row.size != *s {
			continue
		}
		count++
		for j, res := range row.results {
			if res.err != nil {
				percents[j] = math.NaN()
			}
			percents[j] += row.percent(res.hits)
			over[j] = over[j] || res.held > row.entries
		}
		percents[len(r.ims)] += row.percent(row.optimum)
	}
	for j := range percents {
		percents[j] /= count
	}
	return percents, over
}

func (r report) writeTable(w io.Writer) error {
	cells := [][]string{{"trace", "size"}}
	for _, im := range r.ims {
		cells[0] = append(cells[0], im.name)
	}
	cells[0] = append(cells[0], "optimum")

	var notes []string
	over := false
	for _, row := range r.rows {
		line := []string{row.work.name, strconv.Itoa(row.entries)}
		for j, res := range row.results {
			cell := fmt.Sprintf("%5.2f", row.percent(res.hits))
			switch {
			case res.err != nil:
				cell = "    -"
				note := fmt.Sprintf("%s at %d: %v", r.ims[j].name, row.entries, res.err)
				if !slices.Contains(notes, note) {
					notes = append(notes, note)
				}
			case res.held > row.entries:
				cell += fmt.Sprintf(" (+%d)", res.held-row.entries)
				over = true
			}
			line = append(line, cell)
		}
		cells = append(cells, append(line, fmt.Sprintf("%5.2f", row.percent(row.optimum))))
	}
	if len(r.works) > 1 {
		mean := func(name string, s *size) {
			percents, more := r.mean(s)
			line := []string{"mean", name}
			for j, p := range percents {
				cell := fmt.Sprintf("%5.2f", p)
				if math.IsNaN(p) {
					cell = "    -"
				} else if more[j] {
					cell += " (+)"
				}
				line = append(line, cell)
			}
			cells = append(cells, line)
		}
		for i, s := range r.sizes {
			mean(s.String(), &r.sizes[i])
		}
		if len(r.sizes) > 1 {
			mean("all", nil)
		}
	}

	var b strings.Builder
	for _, w := range r.works {
		fmt.Fprintf(&b, "%s: %d requests, %d distinct keys\n", w.name, len(w.keys), w.unique)
	}
	fmt.Fprintf(&b, "hit ratio in percent; GOMAXPROCS=%d, by which some choose their number of shards\n\n", runtime.GOMAXPROCS(0))
	align(&b, cells)
	if over {
		b.WriteString("\n(+n): held n entries more than the size")
		if len(r.works) > 1 {
			b.WriteString("; (+): did so for a trace")
		}
		b.WriteByte('\n')
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, "\n-: not possible\n%s\n", strings.Join(notes, "\n"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// align writes cells in columns; that of the sizes, the second, is flush right.
func align(b *strings.Builder, cells [][]string) {
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, line := range cells {
		var out strings.Builder
		for i, c := range line {
			width := widths[i]
			if i != 1 {
				width = -width
			}
			fmt.Fprintf(&out, "%*s  ", width, c)
		}
		b.WriteString(strings.TrimRight(out.String(), " "))
		b.WriteByte('\n')
	}
}

func (r report) writeCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	out.Write([]string{"trace", "requests", "size", "impl", "hits", "hit_percent", "held"})
	for _, row := range r.rows {
		line := func(name string, hits, held int) {
			out.Write([]string{
				row.work.name, strconv.Itoa(len(row.work.keys)), strconv.Itoa(row.entries), name,
				strconv.Itoa(hits), strconv.FormatFloat(row.percent(hits), 'f', 4, 64), strconv.Itoa(held),
			})
		}
		for j, res := range row.results {
			if res.err == nil {
				line(r.ims[j].name, res.hits, res.held)
			}
		}
		line("optimum", row.optimum, row.entries)
	}
	out.Flush()
	return out.Error()
}

// chart has the curves of the only workload, or those of the mean.
func (r report) chart() plot.Chart {
	c := plot.Chart{XLabel: "size (entries)", YLabel: "hit ratio (%)", LogX: true}
	c.Title = "Hit ratio, " + r.works[0].name
	if len(r.works) > 1 {
		c.Title = fmt.Sprintf("Hit ratio, mean of %d traces", len(r.works))
		if r.sizes[0].entries == 0 {
			c.XLabel = "size (percent of the distinct keys)"
		}
	}
	for _, im := range r.ims {
		c.Series = append(c.Series, plot.Series{Name: im.name})
	}
	c.Series = append(c.Series, plot.Series{Name: "optimum"})
	for i, s := range r.sizes {
		x := s.percent
		switch {
		case s.entries > 0:
			x = float64(s.entries)
		case len(r.works) == 1:
			x = float64(s.of(r.works[0]))
		}
		percents, _ := r.mean(&r.sizes[i])
		for j, p := range percents {
			if !math.IsNaN(p) {
				c.Series[j].Points = append(c.Series[j].Points, plot.Point{X: x, Y: p})
			}
		}
	}
	drawn := c.Series[:0]
	for _, s := range c.Series {
		if len(s.Points) > 0 {
			drawn = append(drawn, s)
		}
	}
	c.Series = drawn
	return c
}
