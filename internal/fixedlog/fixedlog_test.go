package fixedlog

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogTable(t *testing.T) {
	table := NewTable()
	for i, got := range table {
		want := math.Log2(1 + float64(i)/(1<<logBits))
		require.InDelta(t, want, float64(got)/(1<<Point), 1e-15, "entry %d", i)
		if i > 0 {
			require.Greater(t, got, table[i-1])
		}
	}
}

func TestNegLog(t *testing.T) {
	table := NewTable()
	require.Equal(t, uint64(64<<Point), Neg(table, 0))
	require.Equal(t, uint64(64<<Point), Neg(table, 1))
	require.Equal(t, uint64(1<<Point), Neg(table, 1<<63))
	require.Equal(t, uint64(2<<Point), Neg(table, 1<<62))
	require.EqualValues(t, 1, Neg(table, math.MaxUint64))

	rng := rand.New(rand.NewPCG(6, 6))
	for range 200000 {
		u := rng.Uint64() >> rng.IntN(64)
		if rng.IntN(2) == 0 {
			u = ^u // near 2^64
		}
		got := Neg(table, u)
		// Monotone, also from one segment to the next.
		for _, d := range []uint64{1, 2, 1 << 20, 1 << 53, 1 << 54} {
			if u+d > u && Neg(table, u+d) > got {
				t.Fatalf("%#x + %#x has a greater one", u, d)
			}
		}
		edge := u &^ (1<<(63-min(bits.LeadingZeros64(u|1), 52)-logBits+1) - 1)
		if edge > 0 && Neg(table, edge-1) < Neg(table, edge) {
			t.Fatalf("%#x - 1 has a smaller one", edge)
		}
		// Close, and never too low.
		exact := -math.Log2(float64(max(u, 1)) / (1 << 64))
		if ^u < 1<<40 { // where float64 would round u to 2^64
			exact = (float64(^u) + 1) / (1 << 64) * math.Log2E
		}
		value := float64(got) / (1 << Point)
		if value-exact > math.Ldexp(1, -22) || value-exact < -1e-14 {
			t.Fatalf("%#x: %v, exactly %v", u, value, exact)
		}
	}
}
