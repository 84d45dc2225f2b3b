package consistenthash

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/fixedlog"
)

// TestReach looks for scores that a reach stops although they beat the one it was made from.
func TestReach(t *testing.T) {
	table := fixedlog.NewTable()
	rng := rand.New(rand.NewPCG(7, 7))
	random := func() score {
		u := ^(rng.Uint64() >> rng.IntN(64))
		return score{u: u, log: fixedlog.Neg(table, u), weight: 1 + uint32(rng.Uint64()>>(32+rng.IntN(32))), node: int32(rng.IntN(3))}
	}
	stopped, passed := 0, 0
	for range 1000000 {
		a, b := random(), random()
		if rng.IntN(2) == 0 { // nearly equal
			x := float64(b.weight) / float64(a.weight) * (float64(^a.u) + 1)
			if x < 1<<63 {
				b.u = ^(uint64(x) + uint64(rng.IntN(64)) - 32)
				b.log = fixedlog.Neg(table, b.u)
			}
		}
		if a.weight == b.weight && a.u == b.u && a.node == b.node {
			continue
		}
		if a.beats(b) == b.beats(a) {
			t.Fatalf("%+v and %+v are not ordered", a, b)
		}
		within := a.reach().within(b.u, b.weight)
		if b.beats(a) {
			if !within {
				t.Fatalf("%+v beats %+v", b, a)
			}
			passed++
		} else if !within {
			stopped++
		}
	}
	require.Greater(t, stopped, 100000)
	require.Greater(t, passed, 100000)
}

func TestBound(t *testing.T) {
	for _, c := range []struct{ load, n, weight, total, want uint64 }{
		{10000, 100, 1, 3, 34},
		{10500, 65536, 1, 10, 6882},
		{10500, 65536, 1, 1000, 69},
		{10000, 1000, 1, 10, 100},
		{10001, 1000, 1, 10, 101},
		{10500, 100, 1, 1, 100},
		{10500, 65536, 1, math.MaxUint32, 1},
		{maxLoad * loadUnit, 65536, 1, 10000, 6554},
		{maxLoad * loadUnit, 1 << 20, math.MaxUint32, math.MaxUint32, 1 << 20},
		{maxLoad * loadUnit, 1 << 62, math.MaxUint32, math.MaxUint32, 1 << 62},
		{loadUnit, 1 << 50, 1 << 31, 1 << 48, 1 << 33},
	} {
		require.Equal(t, c.want, bound(c.load, c.n, c.weight, c.total), "%+v", c)
	}
}

func TestScale(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for range 100000 {
		n := 1 + rng.Uint64()>>(40+rng.IntN(24))
		i := rng.Uint64N(n)
		first := unscale(i, n)
		if scale(first, n) != i || i > 0 && scale(first-1, n) != i-1 {
			t.Fatalf("%d of %d begins at %#x", i, n, first)
		}
	}
}

func exactBound(load, n, weight, total uint64) uint64 {
	number := func(x uint64) *big.Int { return new(big.Int).SetUint64(x) }
	product := new(big.Int).Mul(number(load), new(big.Int).Mul(number(n), number(weight)))
	divisor := new(big.Int).Mul(number(loadUnit), number(total))
	q := product.Add(product, new(big.Int).Sub(divisor, number(1))).Quo(product, divisor)
	if q.Cmp(number(n)) > 0 {
		return n
	}
	return q.Uint64()
}
