package plot

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	svgWidth  = 20 * vg.Centimeter
	svgHeight = 12 * vg.Centimeter
)

// palette is that of M. Okabe and K. Ito ("Color Universal Design", 2008), whose
// colours people with any kind of colour blindness can tell apart; without its
// yellow, which white paper swallows.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, // blue
	color.RGBA{0xd5, 0x5e, 0x00, 0xff}, // vermilion
	color.RGBA{0x00, 0x9e, 0x73, 0xff}, // bluish green
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, // reddish purple
	color.RGBA{0xe6, 0x9f, 0x00, 0xff}, // orange
	color.RGBA{0x56, 0xb4, 0xe9, 0xff}, // sky blue
	color.RGBA{0x00, 0x00, 0x00, 0xff}, // black
}

var (
	ink  = color.Gray{0x33}
	grid = color.Gray{0xdd}
)

// The lengths of palette, dashes and glyphs have no common factor, so that it
// takes 168 curves until two look alike.
var dashes = [][]vg.Length{
	nil,
	{vg.Points(6), vg.Points(3)},
	{vg.Points(2), vg.Points(2)},
}

var glyphs = []draw.GlyphDrawer{
	draw.CircleGlyph{},
	draw.BoxGlyph{},
	draw.PyramidGlyph{},
	draw.RingGlyph{},
	draw.SquareGlyph{},
	draw.TriangleGlyph{},
	draw.CrossGlyph{},
	draw.PlusGlyph{},
}

// framed returns a chart with a title and axes, and nothing in it.
func framed(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	write(&p.Title.TextStyle, 14)
	p.Title.Padding = vg.Points(8)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		write(&axis.Label.TextStyle, 12)
		write(&axis.Tick.Label, 11)
		axis.Label.Padding = vg.Points(4)
		axis.Color = ink
		axis.Tick.Color = ink
		axis.Tick.Marker = plot.TickerFunc(linearTicks)
		axis.Padding = 0
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	return p
}

// WriteSVG writes the chart as an SVG file, with the names of the curves to the
// right of it. It fails if the chart has no series or one without points, if a
// coordinate is not a finite number of a magnitude up to 1e15, and if w fails.
func (c Chart) WriteSVG(w io.Writer) error {
	c, err := c.prepared()
	if err != nil {
		return err
	}
	x, y := c.axes()

	p := framed(c.Title, c.XLabel, c.YLabel)
	if c.LogX {
		p.X.Scale = plot.LogScale{}
		p.X.Tick.Marker = plot.TickerFunc(logTicks)
	}

	lines := plotter.NewGrid()
	lines.Horizontal.Color, lines.Vertical.Color = grid, grid
	p.Add(lines)

	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.ThumbnailWidth = vg.Points(36)
	legend.Padding = vg.Points(5)
	write(&legend.TextStyle, 12)

	curves := make([]plot.Plotter, 0, 2*len(c.Series))
	for i, s := range c.Series {
		points := make(plotter.XYs, len(s.Points))
		for j, pt := range s.Points {
			points[j] = plotter.XY(pt)
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("plot: series %q: %w", s.Name, err)
		}
		line.Color = palette[i%len(palette)]
		line.Width = vg.Points(1.5)
		line.Dashes = dashes[i%len(dashes)]
		marks.Color = line.Color
		marks.Shape = glyphs[i%len(glyphs)]
		marks.Radius = vg.Points(3)
		curves = append(curves, marks, line)
		legend.Add(shortened(s.Name), line, marks)
	}
	slices.Reverse(curves) // the first comes last, and so on top
	p.Add(curves...)
	// Add has stretched the axes to the data; these ranges may be wider.
	p.X.Min, p.X.Max = x[0], x[1]
	p.Y.Min, p.Y.Max = y[0], y[1]

	margin := vg.Points(10)
	names := legend.Rectangle(draw.Canvas{}).Size()
	names.X *= 1.15 // the viewer's font may be wider
	out := vgsvg.New(svgWidth, max(svgHeight, names.Y+6*margin))
	canvas := draw.New(out)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Rectangle.Path())
	inner := draw.Crop(canvas, margin, -margin, margin, -margin)
	p.Draw(draw.Crop(inner, 0, -names.X-margin, 0, 0))
	legend.Draw(draw.Crop(inner, inner.Size().X-names.X, 0, 0, -vg.Points(24)))

	return save(w, out)
}

// save writes out to w, all at once.
func save(w io.Writer, out *vgsvg.Canvas) error {
	var file bytes.Buffer
	if _, err := out.WriteTo(&file); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	if _, err := w.Write(withFallback(file.Bytes())); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	return nil
}

// withFallback names other fonts beside the one that was drawn with: a viewer that does not have
// it would take one with serifs.
func withFallback(file []byte) []byte {
	return bytes.ReplaceAll(file,
		[]byte("font-family:Liberation Sans;"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
}

// shortened keeps a name from taking the room of the curves.
func shortened(name string) string {
	const most = 36
	if r := []rune(name); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return name
}

// write makes a style sans-serif of the given size.
func write(style *text.Style, points float64) {
	style.Font = font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, vg.Points(points))
	style.Color = ink
}

// linearTicks puts five to ten ticks at round numbers.
func linearTicks(lo, hi float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(hi-lo)))
	switch n := (hi - lo) / step; {
	case n < 2:
		step /= 5
	case n < 5:
		step /= 2
	}
	var ticks []plot.Tick
	for i := math.Ceil(lo / step); i <= math.Floor(hi/step*(1+1e-12)); i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: number(i * step)})
	}
	return ticks
}

// logTicks puts ticks at 1, 2 and 5 times the powers of ten, or at powers alone
// where these are many, eleven at most.
func logTicks(lo, hi float64) []plot.Tick {
	from, to := math.Floor(math.Log10(lo)), math.Floor(math.Log10(hi))
	factors := []float64{1, 2, 5}
	if to-from > 4 {
		factors = factors[:1]
	}
	step := math.Ceil((to - from) / 10)
	var ticks []plot.Tick
	for e := from; e <= to; e += max(step, 1) {
		for _, f := range factors {
			if v := f * math.Pow(10, e); lo <= v && v <= hi {
				ticks = append(ticks, plot.Tick{Value: v, Label: number(v)})
			}
		}
	}
	return ticks
}
