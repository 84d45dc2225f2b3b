package plot

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Bars is a bar chart: a group of bars for each of several things, the same
// bars in each group. All values must be at least 0.
type Bars struct {
	_ struct{}

	Title  string // above the chart; may be empty
	XLabel string // what the groups are; may be empty
	YLabel string // what the values are; may be empty

	Groups []string    // their names, at least one
	Series []BarSeries // at least one
	// MarkName is for the legend: what the Marks of all series are.
	MarkName string
}

// BarSeries is one bar in each group.
type BarSeries struct {
	Name   string    // for the legend
	Values []float64 // one for each group; NaN for no bar
	// Marks are heights at which a line is drawn across the bars, one for each
	// group; NaN for no line. Nil if there are none.
	Marks []float64
}

const (
	groupWidth  = 10   // points, where there are so many groups that the chart becomes wider,
	widestChart = 1400 // up to this
)

// fills are the colours of the bars. They differ in lightness as much as they can,
// so that they can be told apart without colour.
var fills = []color.Color{
	color.RGBA{0xc6, 0xdf, 0xf2, 0xff},
	color.RGBA{0x00, 0x5a, 0x8d, 0xff},
	color.RGBA{0x6f, 0xa8, 0xd0, 0xff},
}

// prepared returns a copy of b that is fit to be drawn, and its greatest height.
func (b Bars) prepared() (Bars, float64, error) {
	if len(b.Groups) == 0 {
		return b, 0, errors.New("plot: no groups")
	}
	if n := len(b.Series); n < 1 || n > len(fills) {
		return b, 0, fmt.Errorf("plot: there must be from 1 to %d series of bars, got %d", len(fills), n)
	}
	b.Title, b.XLabel, b.YLabel, b.MarkName = printable(b.Title), printable(b.XLabel), printable(b.YLabel), printable(b.MarkName)
	b.Groups, b.Series = slices.Clone(b.Groups), slices.Clone(b.Series)
	for i := range b.Groups {
		b.Groups[i] = shortened(printable(b.Groups[i]))
	}
	top := 0.0
	for i := range b.Series {
		s := &b.Series[i]
		s.Name = printable(s.Name)
		if len(s.Values) != len(b.Groups) || s.Marks != nil && len(s.Marks) != len(b.Groups) {
			return b, 0, fmt.Errorf("plot: series %q has %d values and %d marks for %d groups", s.Name, len(s.Values), len(s.Marks), len(b.Groups))
		}
		for _, v := range slices.Concat(s.Values, s.Marks) {
			if math.IsNaN(v) {
				continue
			}
			if !(0 <= v && v <= maxMagnitude) {
				return b, 0, fmt.Errorf("plot: series %q has the value %v; it must be a number from 0 to %v", s.Name, v, maxMagnitude)
			}
			top = max(top, v)
		}
	}
	if top == 0 {
		top = 1
	}
	return b, top, nil
}

// WriteSVG writes the chart as an SVG file. The more groups there are, the wider it is, to a
// limit; names that do not fit side by side are upright, and some are left out where even
// so there is no room. It fails if the chart is not valid, and if w fails.
func (b Bars) WriteSVG(w io.Writer) error {
	b, top, err := b.prepared()
	if err != nil {
		return err
	}
	p := framed(b.Title, b.XLabel, b.YLabel)

	// The axis and its label take about 60 points beside the groups.
	margin := vg.Points(10)
	width := min(max(svgWidth, vg.Points(float64(groupWidth*len(b.Groups)))+60+2*margin), vg.Points(widestChart))
	room := (width - 60 - 2*margin) / vg.Length(len(b.Groups))
	ticks, long := b.names(p, room)
	p.X.Tick.Marker = ticks

	lines := plotter.NewGrid()
	lines.Horizontal.Color, lines.Vertical.Color = grid, nil
	bars := &barPlotter{b}
	p.Add(lines, bars)
	p.X.Min, p.X.Max = -0.5, float64(len(b.Groups))-0.5
	p.Y.Min, p.Y.Max = 0, top*1.05

	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.ThumbnailWidth = vg.Points(24)
	legend.Padding = vg.Points(3)
	write(&legend.TextStyle, 12)
	marked := false
	for i, s := range b.Series {
		legend.Add(shortened(s.Name), fill{fills[i]})
		marked = marked || s.Marks != nil
	}
	if marked {
		legend.Add(shortened(b.MarkName), mark{})
	}

	names := legend.Rectangle(draw.Canvas{}).Size()
	out := vgsvg.New(width, svgHeight+names.Y+long)
	canvas := draw.New(out)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Rectangle.Path())
	inner := draw.Crop(canvas, margin, -margin, margin, -margin)
	p.Draw(draw.Crop(inner, 0, 0, names.Y+margin, 0))
	// Below the chart, which may then be as wide as it likes.
	legend.Draw(draw.Crop(inner, vg.Points(40), 0, 0, names.Y-inner.Size().Y))

	return save(w, out)
}

// names makes the ticks of the groups, and sets the style of their labels, for groups that have
// room on the axis. It returns how long the labels are if they are upright.
func (b Bars) names(p *plot.Plot, room vg.Length) (ticks plot.ConstantTicks, long vg.Length) {
	style := &p.X.Tick.Label
	// Ticks are not seen, and keep the labels away from the axis.
	p.X.Tick.Color = color.White
	p.X.Tick.Length = vg.Points(8)
	widest := vg.Length(0)
	for _, name := range b.Groups {
		widest = max(widest, style.Width(name))
	}
	every := 1
	if widest > room*0.9 {
		const smallest = 7
		size := min(11, room.Points()*0.9)
		if size < smallest {
			size = smallest
			every = int(math.Ceil(smallest / 0.9 / room.Points()))
		}
		write(style, size)
		style.Rotation = math.Pi / 2
		style.XAlign, style.YAlign = draw.XRight, draw.YCenter
		for _, name := range b.Groups {
			long = max(long, style.Width(name))
		}
	}
	for i := 0; i < len(b.Groups); i += every {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: b.Groups[i]})
	}
	return ticks, long
}

// barPlotter draws the bars, and the marks on top of them.
type barPlotter struct{ Bars }

func (b *barPlotter) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	pitch := x(1) - x(0)
	width := pitch * 0.8 / vg.Length(len(b.Series))
	left := func(group, series int) vg.Length {
		return x(float64(group)) - pitch*0.4 + vg.Length(series)*width
	}
	outline := draw.LineStyle{Color: ink, Width: min(vg.Points(0.75), width/6)}
	for i, s := range b.Series {
		for g, v := range s.Values {
			if math.IsNaN(v) {
				continue
			}
			l := left(g, i)
			box := []vg.Point{{X: l, Y: y(0)}, {X: l, Y: y(v)}, {X: l + width, Y: y(v)}, {X: l + width, Y: y(0)}}
			c.FillPolygon(fills[i], box)
			c.StrokeLines(outline, append(box, box[0]))
		}
	}
	for i, s := range b.Series {
		for g, v := range s.Marks {
			if !math.IsNaN(v) {
				strokeMark(&c, left(g, i), left(g, i)+width, y(v), min(vg.Points(1.5), width/3))
			}
		}
	}
}

// strokeMark draws a mark so that it can be seen on dark and on light.
func strokeMark(c *draw.Canvas, from, to, y, width vg.Length) {
	c.StrokeLine2(draw.LineStyle{Color: color.White, Width: 2 * width}, from, y, to, y)
	c.StrokeLine2(draw.LineStyle{Color: palette[1], Width: width}, from, y, to, y)
}

// fill is a bar in the legend.
type fill struct{ color.Color }

func (f fill) Thumbnail(c *draw.Canvas) {
	box := []vg.Point{c.Min, {X: c.Min.X, Y: c.Max.Y}, c.Max, {X: c.Max.X, Y: c.Min.Y}}
	c.FillPolygon(f.Color, box)
	c.StrokeLines(draw.LineStyle{Color: ink, Width: vg.Points(0.75)}, append(box, box[0]))
}

// mark is a mark in the legend.
type mark struct{}

func (mark) Thumbnail(c *draw.Canvas) {
	strokeMark(c, c.Min.X, c.Max.X, (c.Min.Y+c.Max.Y)/2, vg.Points(1.5))
}
