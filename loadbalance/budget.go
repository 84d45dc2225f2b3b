package loadbalance

import (
	"fmt"
	"math"
	"sync/atomic"
)

// A BudgetConfig configures a Budget.
type BudgetConfig struct {
	_ struct{}

	// Ratio is how many retries there may be for each request, from a millionth to 1000; 0.1 or 0.2 are
	// common. Required.
	Ratio float64
	// Burst is how many retries can be saved up, and how many there are at the beginning, from 1 to a
	// million. 0: 10.
	Burst int
}

// A Budget keeps retries from making an overload worse: of any requests, there are at most Burst + Ratio ·
// requests retries, whenever they come. (gRPC calls it retry throttling, Finagle a retry budget.)
//
// A Budget is safe for concurrent use by multiple goroutines, takes no lock, and is linearizable. The
// zero value allows no retries.
type Budget struct {
	credit int64 // what a request is worth, in units
	most   int64
	saved  atomic.Int64
}

// budgetUnit is what a retry costs.
const budgetUnit = 1_000_000

// NewBudget returns a Budget with Burst retries. It returns an error if a field is out of range.
func NewBudget(c BudgetConfig) (*Budget, error) {
	if c.Burst == 0 {
		c.Burst = 10
	}
	if !(c.Ratio >= 1.0/budgetUnit && c.Ratio <= 1000) {
		return nil, fmt.Errorf("loadbalance: Ratio must be between %v and 1000, got %v", 1.0/budgetUnit, c.Ratio)
	}
	if c.Burst < 1 || c.Burst > 1_000_000 {
		return nil, fmt.Errorf("loadbalance: Burst must be between 1 and 1000000, got %d", c.Burst)
	}
	b := &Budget{credit: int64(math.Floor(c.Ratio * budgetUnit)), most: int64(c.Burst) * budgetUnit}
	b.saved.Store(b.most)
	return b, nil
}

// Request counts a request, which is not a retry.
func (b *Budget) Request() {
	for {
		saved := b.saved.Load()
		next := min(saved+b.credit, b.most)
		if next == saved || b.saved.CompareAndSwap(saved, next) {
			return
		}
	}
}

// Retry takes one retry, and reports whether there was one.
func (b *Budget) Retry() bool {
	for {
		saved := b.saved.Load()
		if saved < budgetUnit {
			return false
		}
		if b.saved.CompareAndSwap(saved, saved-budgetUnit) {
			return true
		}
	}
}

// Left returns how many retries there are now.
func (b *Budget) Left() int { return int(b.saved.Load() / budgetUnit) }
