// Package plot draws hit-ratio curves, and any others like them, as SVG files
// and as text, and groups of bars as SVG files.
//
// It knows nothing of caches: a [Chart] is a handful of curves over one axis,
// usually the size. In both outputs each curve can be told from the others
// without its colour, and so can the bars of [Bars].
package plot

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Point is a point of a curve.
type Point struct {
	X float64 // along the axis that XLabel names
	Y float64 // and that which YLabel names
}

// Series is a named curve. Its points need not be in order; they are joined
// from the smallest X to the greatest.
type Series struct {
	Name   string  // for the legend
	Points []Point // at least one
}

// Chart is a set of curves. Where one covers another, the first of them is on
// top.
type Chart struct {
	_ struct{}

	Title  string // above the chart; may be empty
	XLabel string // what X is; may be empty
	// YLabel tells what Y is. If there is a percent sign in it, the axis goes
	// from 0 to 100 at least, so that charts can be compared by eye.
	YLabel string
	// LogX makes the X axis logarithmic, as fits sizes; all X must be positive.
	LogX   bool
	Series []Series // at least one
}

// maxMagnitude bounds the coordinates: beyond it float64 has no digits left to
// put ticks at.
const maxMagnitude = 1e15

// prepared returns a copy of c that is fit to be drawn: valid, in order, and
// with names of printable characters only (XML has no way to write the others).
func (c Chart) prepared() (Chart, error) {
	if len(c.Series) == 0 {
		return c, errors.New("plot: no series")
	}
	c.Title, c.XLabel, c.YLabel = printable(c.Title), printable(c.XLabel), printable(c.YLabel)
	c.Series = slices.Clone(c.Series)
	for i := range c.Series {
		s := &c.Series[i]
		s.Name = printable(s.Name)
		if len(s.Points) == 0 {
			return c, fmt.Errorf("plot: series %q has no points", s.Name)
		}
		for _, p := range s.Points {
			// Negated, so as to catch NaN.
			if !(math.Abs(p.X) <= maxMagnitude && math.Abs(p.Y) <= maxMagnitude) {
				return c, fmt.Errorf("plot: series %q has the point (%v, %v); a coordinate must be a number up to %v", s.Name, p.X, p.Y, maxMagnitude)
			}
			if c.LogX && p.X <= 0 {
				return c, fmt.Errorf("plot: series %q has X %v, which a logarithmic axis cannot show", s.Name, p.X)
			}
		}
		s.Points = slices.SortedStableFunc(slices.Values(s.Points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
	}
	return c, nil
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// axes returns the ranges of both axes, neither of them empty. The chart must
// be prepared.
func (c Chart) axes() (x, y [2]float64) {
	x = [2]float64{math.Inf(1), math.Inf(-1)}
	y = x
	if strings.Contains(c.YLabel, "%") {
		y = [2]float64{0, 100}
	}
	for _, s := range c.Series {
		for _, p := range s.Points {
			x = [2]float64{min(x[0], p.X), max(x[1], p.X)}
			y = [2]float64{min(y[0], p.Y), max(y[1], p.Y)}
		}
	}
	if c.LogX && narrow(x) {
		x = [2]float64{x[0] / 2, x[1] * 2}
	}
	return widened(x), widened(y)
}

// narrow reports whether r is a single value, or so close to it that ticks
// would be lost in rounding.
func narrow(r [2]float64) bool {
	return r[1]-r[0] <= 1e-9*max(math.Abs(r[0]), math.Abs(r[1]))
}

// widened returns r with room around it if it is narrow.
func widened(r [2]float64) [2]float64 {
	if !narrow(r) {
		return r
	}
	by := max(1, math.Abs(r[0])/2)
	return [2]float64{r[0] - by, r[1] + by}
}

// number writes v shortly, as fits a tick: 560, 2.5k, 1M.
func number(v float64) string {
	unit := ""
	for _, u := range []string{"k", "M", "G", "T"} {
		if math.Abs(v) < 1000 {
			break
		}
		v /= 1000
		unit = u
	}
	return strconv.FormatFloat(v, 'g', 4, 64) + unit
}
