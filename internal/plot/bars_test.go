package plot

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sampleBars has a group without one of its bars, and one without a mark.
func sampleBars() Bars {
	return Bars{
		Title:    "Load",
		XLabel:   "node",
		YLabel:   "share (%)",
		Groups:   []string{"a", "b", "c"},
		MarkName: "fair",
		Series: []BarSeries{
			{Name: "before", Values: []float64{40, 60, math.NaN()}, Marks: []float64{50, 50, math.NaN()}},
			{Name: "after", Values: []float64{30, 30, 40}},
		},
	}
}

// groups returns bars for n groups, with names of that length.
func groups(n, length int) Bars {
	b := Bars{Series: []BarSeries{{Name: "s"}}}
	for i := range n {
		b.Groups = append(b.Groups, strings.Repeat("x", length-4)+fmt.Sprintf("%04d", i))
		b.Series[0].Values = append(b.Series[0].Values, float64(i))
	}
	return b
}

func TestBars(t *testing.T) {
	var got bytes.Buffer
	require.NoError(t, sampleBars().WriteSVG(&got))
	all := texts(t, got.Bytes())
	for _, want := range []string{"Load", "node", "share (%)", "a", "b", "c", "before", "after", "fair", "0", "60"} {
		assert.Contains(t, all, want)
	}
	assert.NotRegexp(t, `NaN|Inf`, got.String())
	assert.Contains(t, got.String(), "sans-serif")

	// Two bars and three, and one of each in the legend.
	for i, want := range []int{3, 4} {
		r, g, b, _ := fills[i].RGBA()
		assert.Equal(t, want, strings.Count(got.String(), fmt.Sprintf("fill:#%02X%02X%02X", r>>8, g>>8, b>>8)), "series %d", i)
	}

	var again bytes.Buffer
	require.NoError(t, sampleBars().WriteSVG(&again))
	assert.Equal(t, got.String(), again.String(), "two drawings of one chart")

	plain := sampleBars()
	plain.Series[0].Marks = nil
	got.Reset()
	require.NoError(t, plain.WriteSVG(&got))
	assert.NotContains(t, texts(t, got.Bytes()), "fair", "no marks, no legend of them")
}

func TestBarsDifferInLightness(t *testing.T) {
	for i, a := range fills {
		for _, b := range fills[:i] {
			la, lb := color.GrayModel.Convert(a).(color.Gray).Y, color.GrayModel.Convert(b).(color.Gray).Y
			assert.Greater(t, math.Abs(float64(la)-float64(lb)), 50.0)
		}
	}
}

var svgSize = regexp.MustCompile(`<svg width="([0-9.]+)pt" height="([0-9.]+)pt"`)

func TestManyBars(t *testing.T) {
	size := func(b Bars) (width, height float64, names int) {
		var got bytes.Buffer
		require.NoError(t, b.WriteSVG(&got))
		m := svgSize.FindStringSubmatch(got.String())
		require.NotNil(t, m)
		width, _ = strconv.ParseFloat(m[1], 64)
		height, _ = strconv.ParseFloat(m[2], 64)
		for _, text := range texts(t, got.Bytes()) {
			if len(text) >= 4 && strings.Contains(strings.Join(b.Groups, "\n"), text) {
				names++
			}
		}
		return width, height, names
	}
	w10, h10, n10 := size(groups(10, 4))
	assert.Equal(t, 10, n10)
	_, high, n := size(groups(10, 30))
	assert.Greater(t, high, h10, "upright names need more height")
	assert.Equal(t, 10, n)
	w100, _, n100 := size(groups(100, 20))
	assert.Greater(t, w100, w10)
	assert.Equal(t, 100, n100)
	w, _, n := size(groups(1000, 20))
	assert.LessOrEqual(t, w, float64(widestChart))
	assert.Less(t, n, 200, "names are left out")
	assert.Greater(t, n, 50)
}

func TestOddBars(t *testing.T) {
	one := func(v float64) []float64 { return []float64{v} }
	for name, b := range map[string]Bars{
		"markup":     {Title: `<a> & "b"`, YLabel: "\xff", XLabel: "\x00", MarkName: "<m>", Groups: []string{"</svg>"}, Series: []BarSeries{{Name: "<", Values: one(1), Marks: one(1)}}},
		"no labels":  {Groups: []string{""}, Series: []BarSeries{{Values: one(1)}}},
		"zero":       {Groups: []string{"g"}, Series: []BarSeries{{Values: one(0), Marks: one(0)}}},
		"no bars":    {Groups: []string{"g"}, Series: []BarSeries{{Values: one(math.NaN())}}},
		"great":      {Groups: []string{"g"}, Series: []BarSeries{{Values: one(1e15)}}},
		"small":      {Groups: []string{"g"}, Series: []BarSeries{{Values: one(1e-15)}}},
		"long names": groups(3, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			require.NoError(t, b.WriteSVG(&got))
			texts(t, got.Bytes())
			assert.NotRegexp(t, `NaN|Inf`, got.String())
		})
	}
}

func TestInvalidBars(t *testing.T) {
	with := func(values, marks []float64) Bars {
		return Bars{Groups: []string{"g"}, Series: []BarSeries{{Name: "s", Values: values, Marks: marks}}}
	}
	for _, tc := range []struct {
		name string
		bars Bars
		want string
	}{
		{"no groups", Bars{Series: []BarSeries{{}}}, "plot: no groups"},
		{"no series", Bars{Groups: []string{"g"}}, "plot: there must be from 1 to 3 series of bars, got 0"},
		{"too many", Bars{Groups: []string{"g"}, Series: make([]BarSeries, 4)}, "got 4"},
		{"too few values", with(nil, nil), `plot: series "s" has 0 values and 0 marks for 1 groups`},
		{"too many marks", with([]float64{1}, []float64{1, 2}), "1 values and 2 marks for 1 groups"},
		{"negative", with([]float64{-1}, nil), `plot: series "s" has the value -1`},
		{"infinite mark", with([]float64{1}, []float64{math.Inf(1)}), "has the value +Inf"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			assert.ErrorContains(t, tc.bars.WriteSVG(&out), tc.want)
			assert.Empty(t, out.Bytes())
		})
	}
}

func TestBarsAreNotChanged(t *testing.T) {
	b := sampleBars()
	b.Groups[0] = "\x00"
	require.NoError(t, b.WriteSVG(io.Discard))
	assert.Equal(t, "\x00", b.Groups[0])
}

func TestBarsWriteError(t *testing.T) {
	assert.ErrorIs(t, sampleBars().WriteSVG(fullDisk{}), errFull)
}
