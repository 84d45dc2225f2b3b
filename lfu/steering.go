package lfu

import (
	"math"
	"sync/atomic"
)

// steering is the share of the capacity that the window is to have. All shards of a cache
// have it in common: what one of them learns is worth knowing for all.
type steering struct {
	bits        atomic.Uint64 // of the share, a float64
	fixed       bool          // nothing changes the share
	total       atomic.Int64  // the capacity of the cache
	adaptations atomic.Uint64
	guardSteps  atomic.Uint64
}

const (
	minWindow = 0.01 // where it begins, too: most workloads have it so
	maxWindow = 0.99
)

func newSteering(total int, share float64, fixed bool) *steering {
	s := &steering{fixed: fixed}
	s.total.Store(int64(total))
	s.bits.Store(math.Float64bits(share))
	return s
}

func (s *steering) share() float64 { return math.Float64frombits(s.bits.Load()) }

// move adds to the share, within its bounds.
func (s *steering) move(by float64) {
	for {
		was := s.bits.Load()
		now := math.Float64bits(min(maxWindow, max(minWindow, math.Float64frombits(was)+by)))
		if s.bits.CompareAndSwap(was, now) {
			return
		}
	}
}

// steer takes account of a miss of weight w that would have been a hit, had the side that
// evicted the entry been a little larger.
func (s *steering) steer(evictor side, w float64) {
	if s.fixed {
		return
	}
	by := w / float64(s.total.Load())
	if evictor == mainSide {
		by = -by
	}
	s.adaptations.Add(1)
	s.move(by)
}
