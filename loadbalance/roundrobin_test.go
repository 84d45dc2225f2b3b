package loadbalance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// nginx is smooth weighted round robin, as nginx does it.
type nginx struct{ weights, current []int64 }

func newNginx(weights []uint32) *nginx {
	n := &nginx{current: make([]int64, len(weights))}
	for _, w := range weights {
		n.weights = append(n.weights, int64(w))
	}
	return n
}

func (n *nginx) pick() int {
	best, total := -1, int64(0)
	for i, w := range n.weights {
		n.current[i] += w
		total += w
		if w > 0 && (best < 0 || n.current[i] > n.current[best]) {
			best = i
		}
	}
	n.current[best] -= total
	return best
}

// rotation returns whether got is want, again and again, from some place of it on.
func rotation(want, got []int) bool {
	n := len(want)
	for start := range n {
		if slices.Equal(got[:min(n, len(got))], append(slices.Clone(want[start:]), want[:start]...)[:min(n, len(got))]) {
			for i := n; i < len(got); i++ {
				if got[i] != got[i-n] {
					return false
				}
			}
			return true
		}
	}
	return false
}

func TestSmoothIsNginx(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		weights := make([]uint32, 1+rnd.IntN(12))
		most := uint32(1) << rnd.IntN(9)
		round := 0
		for i := range weights {
			weights[i] = 1 + rnd.Uint32N(most)
			round += int(weights[i])
		}
		p := pool(t, SmoothWeightedRoundRobin(), weights...)
		oracle := newNginx(weights)
		want := make([]int, round)
		for i := range want {
			want[i] = oracle.pick()
		}
		got := picks(t, p, 2*round+3, anyRequest)
		require.True(t, rotation(want, got), "weights %v: %v is not %v", weights, got, want)
		for start := range 3 { // each round, from wherever
			for i, n := range count(len(weights), got[start:start+round]) {
				require.EqualValues(t, weights[i], n, "weights %v", weights)
			}
		}
	}
	// The example in nginx's documentation of the algorithm.
	require.Equal(t, []uint16{0, 0, 1, 0, 2, 0, 0}, smooth([]uint32{5, 1, 1}))
}

// The longest rounds, with as many different weights as can be.
func TestSmoothLongRounds(t *testing.T) {
	weights := []uint32{1}
	left := uint32(maxRound - 1)
	for w := uint32(2); w <= left; w++ {
		weights = append(weights, w)
		left -= w
	}
	weights[len(weights)-1] += left
	turns := round(wide(weights))
	require.Equal(t, weights, turns)
	oracle := newNginx(weights)
	for i, got := range smooth(turns) {
		if want := oracle.pick(); want != int(got) {
			require.Equal(t, want, int(got), "step %d", i)
		}
	}
	for _, n := range []int{2, 1000, MaxEndpoints} { // equal weights: a round is one turn each
		require.Equal(t, even(n), round(wide(slices.Repeat([]uint32{12345}, n))))
	}
}

func wide(weights []uint32) []uint64 {
	w := make([]uint64, len(weights))
	for i := range w {
		w[i] = uint64(weights[i])
	}
	return w
}

// With weights whose round would be longer than 65,536.
func TestRoundIsBounded(t *testing.T) {
	require.Equal(t, []uint32{1, 65535}, round([]uint64{1, 1_000_000}))
	rnd := rand.New(rand.NewPCG(3, 4))
	for k := range 200 {
		n := 2 + rnd.IntN(300)
		if k%50 == 0 {
			n = MaxEndpoints
		}
		weights, sum := make([]uint64, n), 0.0 // exact: the sum is below 2^53
		for i := range weights {
			weights[i] = 1 + rnd.Uint64N(uint64(1)<<(1+rnd.IntN(36)))
		}
		weights[0] |= 1 << 30
		weights[1] |= 1
		for _, w := range weights {
			sum += float64(w)
		}
		turns := round(weights)
		total, raised := 0, 0.0
		for _, n := range turns {
			total += int(n)
			if n == 1 { // perhaps only because others are
				raised++
			}
		}
		require.Equal(t, maxRound, total)
		for i, n := range turns {
			share := float64(weights[i]) * maxRound / sum
			if n < 1 || n > 1 && float64(n) >= share+1 {
				require.Fail(t, "nobody has none, and only who is raised has a turn too many", "%d for %v", n, share)
			}
			if float64(n) <= share*(1-raised/maxRound)-1 {
				require.Fail(t, "what is raised is taken from all others in proportion", "%d for %v, %v raised", n, share, raised)
			}
		}
	}
}

func TestRoundRobinGoesOn(t *testing.T) {
	p := pool(t, RoundRobin(), even(5)...)
	first := pick(t, p, Request{})
	require.Equal(t, (first+1)%5, pick(t, p, Request{}))
	// The next one in order is next, whoever comes and goes.
	next := (first + 2) % 5
	require.NoError(t, p.Remove(fmt.Sprintf("h%05d", first)))
	require.Equal(t, next, pick(t, p, Request{}))
	// If it is removed itself, it is the one after it.
	gone := (first + 3) % 5
	require.NoError(t, p.Remove(fmt.Sprintf("h%05d", gone)))
	require.Equal(t, (first+4)%5, pick(t, p, Request{}))
	require.NoError(t, p.Add(Endpoint[int]{ID: "a", Value: 9, Weight: 1}))
	got := picks(t, p, 8, anyRequest)
	require.Equal(t, got[:4], got[4:])
	require.Contains(t, got, 9)
}

// A change of something else, as often as there are requests, takes nothing from anybody.
func TestSmoothGoesOn(t *testing.T) {
	for _, weights := range [][]uint32{{5, 1, 1}, {1, 1, 1, 1}, {7, 3, 2, 2}} {
		p := pool(t, SmoothWeightedRoundRobin(), weights...)
		oracle, round := newNginx(weights), 0
		for _, w := range weights {
			round += int(w)
		}
		want := make([]int, round)
		for i := range want {
			want[i] = oracle.pick()
		}
		got := make([]int, 4*round)
		for i := range got {
			got[i] = pick(t, p, Request{})
			changed := endpoints(weights...)
			changed[0].Zone = fmt.Sprint(i)
			_, err := p.Set(changed)
			require.NoError(t, err)
		}
		require.True(t, rotation(want, got), "%v", got)
	}
}

// Requests come between changes of weights, and each endpoint has its share of all.
func TestSmoothUnderChanges(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	pools := 50
	if underRace {
		pools = 5
	}
	for range pools {
		n := 3 + rnd.IntN(6)
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = 1 + rnd.Uint32N(5)
		}
		p := pool(t, SmoothWeightedRoundRobin(), weights...)
		counts, fair := make([]float64, n), make([]float64, n)
		const changes = 3000
		for range changes {
			i := rnd.IntN(n)
			weights[i] = 1 + rnd.Uint32N(5)
			require.NoError(t, p.SetWeight(fmt.Sprintf("h%05d", i), weights[i]))
			sum := uint32(0)
			for _, w := range weights {
				sum += w
			}
			for range 1 + rnd.IntN(4) {
				counts[pick(t, p, Request{})]++
				for j, w := range weights {
					fair[j] += float64(w) / float64(sum)
				}
			}
		}
		for i := range counts {
			require.InEpsilon(t, fair[i], counts[i], 0.15, "endpoint %d of %d", i, n)
		}
	}
}

// Pools that are made alike begin at different places.
func TestFleetIsNotInStep(t *testing.T) {
	for _, policy := range []Policy{RoundRobin(), SmoothWeightedRoundRobin()} {
		firsts := make([]int, 10)
		for range 2000 {
			p, err := New(Config[int]{Policy: policy, Endpoints: endpoints(even(10)...)})
			require.NoError(t, err)
			firsts[pick(t, p, Request{})]++
		}
		for _, n := range firsts { // 200 and 7 standard deviations of 13.4
			require.InDelta(t, 200, n, 94)
		}
	}
}

func FuzzRound(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(0))
	f.Add([]byte{0, 255, 1, 9}, uint8(30))
	f.Fuzz(func(t *testing.T, data []byte, shift uint8) {
		if len(data) == 0 || len(data) > 64 {
			return
		}
		weights := make([]uint64, len(data))
		for i, b := range data {
			weights[i] = 1 + uint64(b)<<(int(shift)*i%29)
		}
		turns := round(weights)
		order := smooth(turns)
		require.LessOrEqual(t, len(order), maxRound)
		counts := make([]uint32, len(data))
		for _, i := range order {
			counts[i]++
		}
		require.Equal(t, turns, counts)
		if len(order) < 2000 {
			oracle := newNginx(turns)
			for _, i := range order {
				require.Equal(t, oracle.pick(), int(i))
			}
		}
	})
}
