package plot

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/guptarohit/asciigraph"
)

// marks are the characters that draw the curves: text may end up in a file or
// a pipe, where there are no colours.
var marks = strings.Split("*+ox#@%&=~abcdefghijklmn", "")

const (
	minWidth, maxWidth   = 10, 1000
	minHeight, maxHeight = 2, 200
)

// Text writes the chart as lines of text, without colours or other escape
// sequences. The curves get width columns, from 10 to 1000, and height rows,
// from 2 to 200; the title, the axes and the names come on top of that.
// Text fails as WriteSVG does, and if there is no room of that size.
func (c Chart) Text(w io.Writer, width, height int) error {
	c, err := c.prepared()
	if err != nil {
		return err
	}
	if width < minWidth || width > maxWidth || height < minHeight || height > maxHeight {
		return fmt.Errorf("plot: the size must be from %d×%d to %d×%d, got %d×%d", minWidth, minHeight, maxWidth, maxHeight, width, height)
	}
	if len(c.Series) > len(marks) {
		return fmt.Errorf("plot: at most %d series as text, got %d", len(marks), len(c.Series))
	}
	x, y := c.axes()
	scale, unscale := func(x float64) float64 { return x }, func(x float64) float64 { return x }
	if c.LogX {
		scale, unscale = math.Log, math.Exp
	}
	left, right := scale(x[0]), scale(x[1])

	data := make([][]float64, len(c.Series))
	chars := make([]asciigraph.CharSet, len(c.Series))
	legend := make([]string, len(c.Series))
	for i, s := range c.Series {
		data[i] = columns(s.Points, scale, left, right, width)
		chars[i] = asciigraph.CreateCharSet(marks[i])
		legend[i] = marks[i] + " " + s.Name
	}
	slices.Reverse(data) // the first comes last, and so on top
	slices.Reverse(chars)

	// As many decimals as tell one row from the next.
	decimals := max(0, int(math.Ceil(-math.Log10((y[1]-y[0])/float64(height-1)))))

	graph := asciigraph.PlotMany(data,
		asciigraph.Height(height-1), // it draws one row more
		asciigraph.LowerBound(y[0]), asciigraph.UpperBound(y[1]),
		asciigraph.YAxisValueFormatter(func(v float64) string { return strconv.FormatFloat(v, 'f', decimals, 64) }),
		asciigraph.XAxisRange(left, right),
		asciigraph.XAxisTickCount(max(2, width/12)),
		asciigraph.XAxisValueFormatter(func(v float64) string { return number(round3(unscale(v))) }),
		asciigraph.SeriesChars(chars...),
	)

	var b strings.Builder
	if c.Title != "" {
		fmt.Fprintf(&b, "%s\n\n", c.Title)
	}
	if c.YLabel != "" {
		fmt.Fprintf(&b, "%s\n", c.YLabel)
	}
	b.WriteString(graph)
	b.WriteByte('\n')
	if c.XLabel != "" {
		// Flush right with the axis, which is the longest line but for labels.
		axis := graph[strings.LastIndex(graph, "└"):]
		axis, _, _ = strings.Cut(axis, "\n")
		before := graph[:strings.LastIndex(graph, "└")]
		indent := len(before) - strings.LastIndex(before, "\n") - 1
		pad := indent + utf8.RuneCountInString(axis) - utf8.RuneCountInString(c.XLabel)
		fmt.Fprintf(&b, "%s%s\n", strings.Repeat(" ", max(pad, 0)), c.XLabel)
	}
	fmt.Fprintf(&b, "\n%s\n", wrapped(legend, width))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	return nil
}

// wrapped joins names in lines of width columns, if none is longer by itself.
func wrapped(names []string, width int) string {
	var b strings.Builder
	used := 0
	for i, name := range names {
		n := utf8.RuneCountInString(name)
		switch {
		case i == 0:
		case used+3+n > width:
			b.WriteByte('\n')
			used = 0
		default:
			b.WriteString("   ")
			used += 3
		}
		b.WriteString(name)
		used += n
	}
	return b.String()
}

// columns samples the curve at n places from left to right, with NaN where it
// does not reach. A curve always reaches one of them.
func columns(points []Point, scale func(float64) float64, left, right float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	column := func(p Point) float64 { return (scale(p.X) - left) / (right - left) * float64(n-1) }
	for _, p := range points {
		out[int(math.Round(column(p)))] = p.Y
	}
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		from, to := column(a), column(b)
		for j := math.Floor(from) + 1; j < to; j++ {
			out[int(j)] = a.Y + (b.Y-a.Y)*(j-from)/(to-from)
		}
	}
	return out
}

// round3 rounds to three significant digits; the place of a character tells no
// more.
func round3(v float64) float64 {
	if v == 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
	return math.Round(v/unit) * unit
}
