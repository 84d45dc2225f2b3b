package sharding

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefault(t *testing.T) {
	for _, c := range []struct{ procs, capacity, want int }{
		{4, 1, 1}, {4, 511, 1}, {4, 512, 2}, {4, 1868, 4}, {4, 1 << 20, 128}, {4, math.MaxInt32, 128}, {4, 1<<31 - 1, 128}, {1, 40_000_000, 4},
		{64, 1 << 30, maxDefault}, {1, 1 << 20, 2}, {1, 511, 1},
	} {
		require.Equal(t, c.want, Default(c.procs, c.capacity, 256, 1<<24), "%+v", c)
	}
}

func TestAsked(t *testing.T) {
	for _, c := range []struct{ n, capacity, want int }{
		{1, 100, 1}, {2, 100, 2}, {3, 100, 4}, {4, 100, 4}, {5, 100, 8},
		{8, 8, 8}, {8, 7, 4}, {8, 1, 1}, {Max, 100, 64}, {Max - 1, 1 << 20, Max},
	} {
		require.Equal(t, c.want, Asked(c.n, c.capacity), "%+v", c)
	}
}

func TestShare(t *testing.T) {
	for n := 1; n <= 16; n++ {
		for capacity := n; capacity < 100; capacity++ {
			sum := uint64(0)
			for i := range n {
				s := Share(capacity, n, i)
				sum += s
				require.GreaterOrEqual(t, s, uint64(1))
				require.GreaterOrEqual(t, Share(capacity+1, n, i), s)
			}
			require.EqualValues(t, capacity, sum)
		}
	}
}

func TestStripes(t *testing.T) {
	for procs, want := range map[int]int{1: 1, 2: 8, 3: 8, 4: 16, 64: 16} {
		require.Equal(t, want, Stripes(procs, 1<<20))
	}
	for most, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 2, 7: 4, 15: 8, 16: 16, 99: 16} {
		require.Equal(t, want, Stripes(8, most))
	}
}
