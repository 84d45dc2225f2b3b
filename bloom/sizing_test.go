package bloom

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// naiveLanesFPR is the sum that lanesFPR has a closed form of.
func naiveLanesFPR(n, units float64, lanes, width int) float64 {
	sum := 0.0
	for j := range int(n) + 1 {
		j := float64(j)
		lgn, _ := math.Lgamma(n + 1)
		lgj, _ := math.Lgamma(j + 1)
		lgnj, _ := math.Lgamma(n - j + 1)
		p := lgn - lgj - lgnj
		if units > 1 {
			p += j*math.Log(1/units) + (n-j)*math.Log1p(-1/units)
		} else if j < n {
			continue
		}
		sum += math.Exp(p) * math.Pow(1-math.Pow(1-1/float64(width), j), float64(lanes))
	}
	return sum
}

func TestLanesFPR(t *testing.T) {
	for _, shape := range []struct{ lanes, width int }{{8, 64}, {8, 32}, {4, 16}, {8, 8}} {
		for _, n := range []float64{1, 2, 17, 100, 2000} {
			for _, units := range []float64{1, 2, 3, 20, 150} {
				want := naiveLanesFPR(n, units, shape.lanes, shape.width)
				require.InDelta(t, want, lanesFPR(n, units, shape.lanes, shape.width), 1e-12+1e-9*want,
					"n %v, units %v, shape %v", n, units, shape)
			}
		}
	}
}

// The bits a key that the comments and the table of the package promise.
func TestBitsPerKey(t *testing.T) {
	for _, c := range []struct {
		lanes, width int
		fpr, bits    float64
	}{
		{8, 64, 0.1, 5.88}, {8, 64, 0.01, 10.10}, {8, 64, 0.001, 15.72}, {8, 64, 0.0001, 23.61},
		{8, 32, 0.1, 5.99}, {8, 32, 0.01, 10.53}, {8, 32, 0.001, 16.89}, {8, 32, 0.0001, 26.34},
		{4, 16, 0.1, 5.22}, {4, 16, 0.01, 12.85}, {8, 8, 0.001, 25.34}, {8, 8, 0.0001, 48.51},
	} {
		const n = 1e6
		units := lanesUnits(n, c.fpr, 1<<52, c.lanes, c.width)
		require.InDelta(t, c.bits, units*float64(c.lanes*c.width)/n, 0.006, "%+v", c)
		require.LessOrEqual(t, lanesFPR(n, units, c.lanes, c.width), c.fpr)
		require.Greater(t, lanesFPR(n, units-1, c.lanes, c.width), c.fpr)
	}
}

func TestLanesUnits(t *testing.T) {
	require.Equal(t, 1.0, lanesUnits(1, 0.5, 1<<52, 8, 64))
	require.True(t, math.IsInf(lanesUnits(1<<62, 0.01, 1<<52, 8, 64), 1))
	require.True(t, math.IsInf(lanesUnits(1000, 0.01, 3, 8, 64), 1))
	require.True(t, math.IsInf(lanesUnits(1000, 0.01, 0.5, 8, 64), 1))
	for n := uint64(1); n < 300; n++ {
		units := lanesUnits(n, 0.01, 1<<52, 8, 64)
		require.LessOrEqual(t, lanesFPR(float64(n), units, 8, 64), 0.01)
		require.LessOrEqual(t, units*512/float64(n), 514.0)
	}
}
