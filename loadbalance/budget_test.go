package loadbalance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBudgetInvalid(t *testing.T) {
	for _, c := range []struct {
		c    BudgetConfig
		want string
	}{
		{BudgetConfig{}, "loadbalance: Ratio must be between 1e-06 and 1000, got 0"},
		{BudgetConfig{Ratio: -1}, "loadbalance: Ratio must be between 1e-06 and 1000, got -1"},
		{BudgetConfig{Ratio: math.NaN()}, "loadbalance: Ratio must be between 1e-06 and 1000, got NaN"},
		{BudgetConfig{Ratio: 1000.1}, "loadbalance: Ratio must be between 1e-06 and 1000, got 1000.1"},
		{BudgetConfig{Ratio: math.Inf(1)}, "loadbalance: Ratio must be between 1e-06 and 1000, got +Inf"},
		{BudgetConfig{Ratio: 1, Burst: -1}, "loadbalance: Burst must be between 1 and 1000000, got -1"},
		{BudgetConfig{Ratio: 1, Burst: 1_000_001}, "loadbalance: Burst must be between 1 and 1000000, got 1000001"},
	} {
		_, err := NewBudget(c.c)
		require.EqualError(t, err, c.want)
	}
	var zero Budget
	zero.Request()
	require.False(t, zero.Retry())
	require.Zero(t, zero.Left())
}

// TestBudgetModel compares a Budget with one that counts in millionths.
func TestBudgetModel(t *testing.T) {
	for seed := range uint64(few(80)) {
		r := rand.New(rand.NewPCG(seed, 1))
		millionths := []int{1, 1000, 100_000, 200_000, 333_333, 1_000_000, 1_500_000, 1_000_000_000, 1 + r.IntN(1_000_000_000)}[r.IntN(9)]
		c := BudgetConfig{Ratio: float64(millionths) / 1e6, Burst: []int{0, 1, 10, 1_000_000, 1 + r.IntN(100)}[r.IntN(5)]}
		b, err := NewBudget(c)
		require.NoError(t, err)
		burst := c.Burst
		if burst == 0 {
			burst = 10
		}
		most := int64(burst) * 1_000_000
		saved, requests, retries := most, 0, 0
		// What Ratio is in millionths may be one less, as it is rounded down.
		credit := int64(math.Floor(c.Ratio * 1e6))
		require.InDelta(t, millionths, credit, 1)
		for i := range 1000 {
			message := fmt.Sprintf("seed %d, step %d, %+v", seed, i, c)
			if r.IntN(3) == 0 {
				b.Request()
				requests++
				saved = min(saved+credit, most)
			} else {
				want := saved >= 1_000_000
				require.Equal(t, want, b.Retry(), message)
				if want {
					saved -= 1_000_000
					retries++
				}
			}
			require.Equal(t, int(saved/1_000_000), b.Left(), message)
			require.LessOrEqual(t, float64(retries), float64(burst)+c.Ratio*float64(requests)+1e-6, message)
		}
	}
}

// TestBudgetConcurrent has many take retries: there are never more than there may be, nor fewer.
func TestBudgetConcurrent(t *testing.T) {
	b, err := NewBudget(BudgetConfig{Ratio: 0.25, Burst: 1000})
	require.NoError(t, err)
	for b.Retry() {
	}
	n := few(40000)
	var retries, requests atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range n {
				requests.Add(1) // before, so that there are at least as many when a retry is counted
				b.Request()
				for range 2 {
					if b.Retry() {
						took, of := retries.Add(1), requests.Load()
						if float64(took) > 0.25*float64(of) {
							t.Errorf("%d retries of %d requests", took, of)
						}
					}
				}
			}
		})
	}
	running.Wait()
	require.EqualValues(t, 8*n/4, retries.Load()+int64(b.Left()))
}
