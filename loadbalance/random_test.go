package loadbalance

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRandomPolicies(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{2, 3, 10, 100} {
		weights := make([]uint32, n)
		shares := make([]float64, n)
		ones := make([]float64, n)
		for i := range weights {
			weights[i] = 1 + rnd.Uint32N(20)
			shares[i], ones[i] = float64(weights[i]), 1
		}
		requireChiSquare(t, count(n, picks(t, pool(t, Random(), weights...), 1000*n, anyRequest)), ones)
		requireChiSquare(t, count(n, picks(t, pool(t, WeightedRandom(), weights...), 1000*n, anyRequest)), shares)
		requireChiSquare(t, count(n, picks(t, pool(t, WeightedRandom(), even(n)...), 1000*n, anyRequest)), ones)
		// The two of two choices, when all are idle and alike: each has the same chance.
		requireChiSquare(t, count(n, picks(t, pool(t, PowerOfTwoChoices(), even(n)...), 1000*n, anyRequest)), ones)
		requireChiSquare(t, count(n, picks(t, pool(t, LeastConnections(), even(n)...), 1000*n, anyRequest)), ones)
	}
}

// The probabilities of an alias add up to the weights, by exact arithmetic.
func TestAliasIsExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for k := range 300 {
		n := 2 + rnd.IntN(50)
		shares, sum := make([]uint64, n), uint64(0)
		for i := range shares {
			shares[i] = 1 + rnd.Uint64N(uint64(1)<<(1+rnd.IntN(36)))
			sum += shares[i]
		}
		a := newAlias(shares)
		if a == nil {
			continue
		}
		got := make([]*big.Rat, n)
		for i := range got {
			got[i] = new(big.Rat)
		}
		whole := new(big.Int).Lsh(big.NewInt(1), 64)
		for i, c := range a.columns {
			limit := new(big.Rat).SetFrac(new(big.Int).SetUint64(c.limit), whole)
			got[i].Add(got[i], limit)
			got[c.other].Add(got[c.other], new(big.Rat).Sub(big.NewRat(1, 1), limit))
		}
		for i := range got {
			p, _ := new(big.Rat).Mul(got[i], big.NewRat(1, int64(n))).Float64()
			require.InDelta(t, float64(shares[i])/float64(sum), p, math.Pow(2, -52), "round %d", k)
		}
	}
	require.Nil(t, newAlias([]uint64{3, 3, 3}))
	// The largest there can be.
	big := make([]uint64, MaxEndpoints)
	for i := range big {
		big[i] = math.MaxUint32 * rampUnit
	}
	big[7] = 1
	a := newAlias(big)
	require.Less(t, a.columns[7].limit, uint64(1)<<40)
}

// Balls into bins: the fullest has at most a few more than the average (P. Berenbrink, A. Czumaj, A.
// Steger and B. Vöcking, "Balanced Allocations: The Heavily Loaded Case", 2006), where a random choice
// has hundreds more.
func TestPowerOfTwoMaximum(t *testing.T) {
	for _, x := range []struct{ n, more int }{{10, 4}, {100, 5}, {1000, 6}} {
		if underRace && x.n == 1000 {
			continue // arithmetic of one goroutine, of which there are a million steps
		}
		for seed := range uint64(3) {
			p, err := New(Config[int]{Endpoints: endpoints(even(x.n)...), Seed: seed + 1})
			require.NoError(t, err)
			for range 1000 * x.n {
				_, err := p.Pick(Request{})
				if err != nil {
					require.NoError(t, err)
				}
			}
			most := int64(0)
			for _, e := range p.Stats().Endpoints {
				most = max(most, e.InFlight)
			}
			require.LessOrEqual(t, most-1000, int64(x.more), "n=%d", x.n)
		}
	}
}

// Two endpoints, and one that has nearly all of the weight.
func TestTwoChoicesByWeight(t *testing.T) {
	for _, policy := range []Policy{PowerOfTwoChoices(), WeightedLeastConnections(), LeastResponseTime()} {
		for _, weights := range [][]uint32{{1, 1}, {1, 3}, {1, 1000}, {10, 1, 1, 1, 1, 1, 1, 1, 1, 1}} {
			p := pool(t, policy, weights...)
			sum := uint32(0)
			for _, w := range weights {
				sum += w
			}
			for range 1000 {
				pick(t, p, Request{})
			}
			for i, e := range p.Stats().Endpoints { // what is in flight is in proportion to weights
				require.InDelta(t, 1000*float64(weights[i])/float64(sum), float64(e.InFlight), 6+0.02*1000*float64(weights[i])/float64(sum))
			}
		}
	}
}

func TestLeastConnections(t *testing.T) {
	p := pool(t, LeastConnections(), even(maxScan)...)
	for round := 1; round <= 3; round++ { // exact: all have as many
		for range maxScan {
			pick(t, p, Request{})
		}
		for _, e := range p.Stats().Endpoints {
			require.EqualValues(t, round, e.InFlight)
		}
	}
	// Beyond, of eight samples: far from the worst.
	const n = 200
	p = pool(t, LeastConnections(), even(n)...)
	for range 100 * n {
		pick(t, p, Request{})
	}
	for _, e := range p.Stats().Endpoints {
		require.InDelta(t, 100, e.InFlight, 12)
	}
	// Weights do not matter to it, but to its sister.
	p = pool(t, LeastConnections(), 1, 9)
	q := pool(t, WeightedLeastConnections(), 1, 9)
	for range 100 {
		pick(t, p, Request{})
		pick(t, q, Request{})
	}
	require.EqualValues(t, 50, p.Stats().Endpoints[0].InFlight)
	require.EqualValues(t, 10, q.Stats().Endpoints[0].InFlight)
}

// Of those with equally few, any: also of some that stand side by side.
func TestLeastConnectionsTies(t *testing.T) {
	p := pool(t, LeastConnections(), even(8)...)
	busy := map[int]bool{1: true, 2: true, 3: true, 6: true}
	for i := range 8 {
		for busy[i] {
			l, err := p.PickID(endpoints(even(8)...)[i].ID)
			require.NoError(t, err)
			_ = l.ID() // and never ended
			break
		}
	}
	counts := count(8, picks(t, p, 4000, anyRequest))
	requireChiSquare(t, []int{counts[0], counts[4], counts[5], counts[7]}, []float64{1, 1, 1, 1})
	require.Zero(t, counts[1]+counts[2]+counts[3]+counts[6])
}

// With one request at a time, all are idle: then weights decide, and slow starts, which the cost would not.
func TestIdleByWeight(t *testing.T) {
	for name, policy := range map[string]Policy{"p2c": PowerOfTwoChoices(), "weighted least": WeightedLeastConnections(), "response": LeastResponseTime()} {
		synctest.Test(t, func(t *testing.T) {
			p, err := New(Config[int]{Policy: policy, Endpoints: endpoints(9, 10), Seed: 1, SlowStart: 16 * time.Second})
			require.NoError(t, err)
			defer p.Close()
			requireChiSquare(t, count(2, picks(t, p, 4000, anyRequest)), []float64{9, 10})
			require.NoError(t, p.Add(Endpoint[int]{ID: "z", Value: 2, Weight: 19}))
			last := 0
			for range 4 { // it takes up its share little by little, and no more than that
				time.Sleep(4 * time.Second)
				got := count(3, picks(t, p, 2000, anyRequest))[2]
				require.Greater(t, got, last, name)
				require.Less(t, got, 1150, name)
				last = got
			}
		})
	}
	for _, n := range []int{10, 100} { // exact, and sampled
		weights := make([]uint32, n)
		shares := make([]float64, n)
		for i := range weights {
			weights[i] = uint32(1 + i%3)
			shares[i] = float64(weights[i])
		}
		requireChiSquare(t, count(n, picks(t, pool(t, WeightedLeastConnections(), weights...), 500*n, anyRequest)), shares)
	}
}

// An idle endpoint is not better than a busy one that has a thousand times its weight.
func TestIdleAgainstHeavy(t *testing.T) {
	for _, n := range []int{2, 40} {
		weights := even(n)
		weights[0] = 1000
		p := pool(t, WeightedLeastConnections(), weights...)
		light, open := 0, []*Lease[int]{}
		for range 5000 { // three at a time
			l, err := p.Pick(Request{})
			require.NoError(t, err)
			if l.Value() > 0 {
				light++
			}
			if open = append(open, &l); len(open) == 3 {
				open[0].Done(OK)
				open = open[1:]
			}
		}
		require.Less(t, light, 5000*2*(n-1)/1000+60, "of %d", n)
	}
	synctest.Test(t, func(t *testing.T) { // nor if it is a little faster
		p := pool(t, LeastResponseTime(), 1000, 1)
		light := 0
		for range 5000 {
			l, err := p.Pick(Request{})
			require.NoError(t, err)
			light += l.Value()
			time.Sleep(time.Duration(10-l.Value()) * time.Millisecond)
			l.Done(OK)
		}
		require.Less(t, light, 50)
	})
}
