package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// sample has curves that cross, a curve of one point, one that covers another,
// and points out of order.
func sample() Chart {
	return Chart{
		Title:  "Hit ratio against size",
		XLabel: "size (entries)",
		YLabel: "hit ratio (%)",
		LogX:   true,
		Series: []Series{
			{Name: "lru", Points: []Point{{10_000, 70}, {500, 25}, {2_000, 42}}},
			{Name: "the same", Points: []Point{{500, 25}, {2_000, 42}, {10_000, 70}}},
			{Name: "fifo", Points: []Point{{500, 30}, {10_000, 60}}},
			{Name: "once", Points: []Point{{2_000, 55}}},
			{Name: "optimum", Points: []Point{{500, 40}, {2_000, 60}, {10_000, 85}}},
		},
	}
}

func TestText(t *testing.T) {
	linear := sample()
	linear.LogX = false
	plain := Chart{Series: []Series{{Name: "point", Points: []Point{{3, 0.25}}}}}
	for name, c := range map[string]Chart{"log": sample(), "linear": linear, "point": plain} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			require.NoError(t, c.Text(&got, 60, 11))
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o666))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), got.String())
		})
	}
}

func TestTextSize(t *testing.T) {
	for _, size := range [][2]int{{10, 2}, {11, 3}, {80, 24}, {1000, 200}} {
		var got bytes.Buffer
		c := sample()
		c.Title, c.XLabel, c.YLabel = "", "", "%"
		require.NoError(t, c.Text(&got, size[0], size[1]), size)
		rows := strings.Count(got.String(), "┤") + strings.Count(got.String(), "┼")
		assert.Equal(t, size[1], rows, size)
		assert.NotContains(t, got.String(), "\x1b", "escape sequence")
	}
	for _, size := range [][2]int{{9, 10}, {10, 1}, {0, 0}, {-1, -1}, {1001, 10}, {10, 201}} {
		assert.ErrorContains(t, sample().Text(io.Discard, size[0], size[1]), "plot: the size must be", size)
	}
}

func TestTextHasACharacterForEachSeries(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range marks {
		assert.False(t, seen[m], m)
		seen[m] = true
	}
	var c Chart
	for i := range marks {
		c.Series = append(c.Series, Series{Name: "s", Points: []Point{{0, float64(i)}, {1, float64(i)}}})
	}
	require.NoError(t, c.Text(io.Discard, 20, 10))
	c.Series = append(c.Series, c.Series[0])
	assert.ErrorContains(t, c.Text(io.Discard, 20, 10), "at most 24 series")
}

// texts returns the character data of an XML document, and fails if that is not
// well-formed.
func texts(t *testing.T, doc []byte) []string {
	t.Helper()
	var out []string
	for d := xml.NewDecoder(bytes.NewReader(doc)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		if data, ok := token.(xml.CharData); ok {
			if s := strings.TrimSpace(string(data)); s != "" {
				out = append(out, s)
			}
		}
	}
}

func TestSVG(t *testing.T) {
	var got bytes.Buffer
	require.NoError(t, sample().WriteSVG(&got))
	all := texts(t, got.Bytes())
	for _, want := range []string{
		"Hit ratio against size", "size (entries)", "hit ratio (%)",
		"500", "1k", "2k", "5k", "10k", "0", "20", "100",
		"lru", "the same", "fifo", "once", "optimum",
	} {
		assert.Contains(t, all, want)
	}
	assert.NotRegexp(t, `NaN|Inf`, got.String())

	var again bytes.Buffer
	require.NoError(t, sample().WriteSVG(&again))
	assert.Equal(t, got.String(), again.String(), "two drawings of one chart")
}

func TestSVGCurvesDiffer(t *testing.T) {
	// Colour and dashes of each line of the same 2-point path, in 21 series.
	var c Chart
	for i := range 21 {
		c.Series = append(c.Series, Series{Name: fmt.Sprint(i), Points: []Point{{0, 0}, {1, 1}}})
	}
	var got bytes.Buffer
	require.NoError(t, c.WriteSVG(&got))
	styles := map[string]bool{}
	for _, m := range regexp.MustCompile(`style="(fill:none;[^"]*stroke-width:1\.5[^"]*)"`).FindAllStringSubmatch(got.String(), -1) {
		styles[m[1]] = true
	}
	assert.Len(t, styles, 21)
}

func TestSVGOfOddCharts(t *testing.T) {
	many := Chart{}
	for i := range 60 {
		many.Series = append(many.Series, Series{Name: strings.Repeat("name ", i), Points: []Point{{1, float64(i)}}})
	}
	charts := map[string]Chart{
		"markup":     {Title: `<a> & "b" 'c' ]]>`, XLabel: "\x00\x1b[1m\n\uffff", YLabel: "\xff", Series: []Series{{Name: "</svg>", Points: []Point{{1, 1}}}}},
		"no labels":  {Series: []Series{{Points: []Point{{0, 0}}}}},
		"many":       many,
		"extremes":   {Series: []Series{{Points: []Point{{-1e15, 1e15}, {1e15, -1e15}}}}},
		"tiny range": {Series: []Series{{Points: []Point{{1, 1}, {1 + 3e-16, 1 + 3e-16}}}}},
		"tiny log":   {LogX: true, Series: []Series{{Points: []Point{{1e-300, 1}, {1e15, 2}}}}},
		"one X, log": {LogX: true, Series: []Series{{Points: []Point{{7, 1}, {7, 2}}}}},
		"over 100 %": {YLabel: "%", Series: []Series{{Points: []Point{{1, -5}, {2, 130}}}}},
	}
	for name, c := range charts {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			require.NoError(t, c.WriteSVG(&got))
			texts(t, got.Bytes())
			assert.NotRegexp(t, `NaN|Inf`, got.String())
			if len(c.Series) <= len(marks) {
				got.Reset()
				require.NoError(t, c.Text(&got, 20, 5))
				assert.NotRegexp(t, `NaN|Inf`, got.String())
			}
		})
	}
}

func TestInvalid(t *testing.T) {
	one := func(x, y float64) []Series { return []Series{{Name: "s", Points: []Point{{1, 1}, {x, y}}}} }
	for _, tc := range []struct {
		name  string
		chart Chart
		want  string
	}{
		{"no series", Chart{}, "plot: no series"},
		{"no points", Chart{Series: []Series{{Name: "s"}}}, `plot: series "s" has no points`},
		{"X is NaN", Chart{Series: one(math.NaN(), 1)}, `plot: series "s" has the point (NaN, 1)`},
		{"Y is NaN", Chart{Series: one(1, math.NaN())}, `plot: series "s" has the point (1, NaN)`},
		{"infinite", Chart{Series: one(1, math.Inf(-1))}, `plot: series "s" has the point (1, -Inf)`},
		{"huge", Chart{Series: one(1e16, 1)}, `plot: series "s" has the point (1e+16, 1)`},
		{"log of zero", Chart{LogX: true, Series: one(0, 1)}, `plot: series "s" has X 0,`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			assert.ErrorContains(t, tc.chart.WriteSVG(&out), tc.want)
			assert.ErrorContains(t, tc.chart.Text(&out, 40, 10), tc.want)
			assert.Empty(t, out.Bytes())
		})
	}
}

func TestChartIsNotChanged(t *testing.T) {
	c := sample()
	require.NoError(t, c.WriteSVG(io.Discard))
	require.NoError(t, c.Text(io.Discard, 40, 10))
	assert.Equal(t, sample(), c)
}

var errFull = errors.New("disk full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestWriteError(t *testing.T) {
	assert.ErrorIs(t, sample().WriteSVG(fullDisk{}), errFull)
	assert.ErrorIs(t, sample().Text(fullDisk{}, 40, 10), errFull)
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.25: "0.25", 560: "560", 999: "999", 1000: "1k", 2500: "2.5k",
		-37376: "-37.38k", 1e6: "1M", 2e9: "2G", 1e15: "1000T",
	} {
		assert.Equal(t, want, number(v))
	}
}

func TestTicksAreFewAndRound(t *testing.T) {
	for _, r := range [][2]float64{{0, 100}, {0, 1}, {3, 3.5}, {560, 37376}, {-5, 130}, {0, 1e15}, {99, 101}} {
		n := len(linearTicks(r[0], r[1]))
		assert.True(t, 4 <= n && n <= 11, "%d ticks in %v", n, r)
	}
	labels := func(lo, hi float64) (out []string) {
		for _, tick := range logTicks(lo, hi) {
			out = append(out, tick.Label)
		}
		return out
	}
	assert.Equal(t, []string{"1k", "2k", "5k", "10k", "20k"}, labels(560, 37376))
	assert.Equal(t, []string{"1", "10", "100", "1k", "10k", "100k"}, labels(1, 100_000))
	assert.LessOrEqual(t, len(labels(1e-300, 1e15)), 11)
}
