package lfu

import "sync"

// A guard keeps the window from staying at a wrong size where ghosts do not tell: they see
// what a slightly larger window would gain, and not that a much larger one would. For keys of
// one hash in rate it keeps two caches of keys only, in proportion smaller than the real one:
// one all window, which is nearly LRU, and one with the smallest window. When one of
// them has had clearly more hits than the real cache on the same requests, the window
// takes a step towards it, the larger the more these are.
//
// A guard is safe for concurrent use by multiple goroutines. It passes over a request when
// another is just under way.
type guard struct {
	mu       sync.Mutex
	steering *steering
	recent   shadow // all window
	frequent shadow // the smallest window
	requests int
	hits     int // of the real cache
	steps    uint64
}

// A shadow is a cache of keys only, and how it has done.
type shadow struct {
	core core[uint64, struct{}]
	hits int
	lead float64 // by how much its hit ratio is above the real one, smoothed
}

const (
	maxRate    = 64  // a key in so many
	minSample  = 32  // entries that a shadow must have to count
	periods    = 2   // a period has that number of requests for each entry of a shadow
	smoothing  = 0.3 // weight of the last period in the lead
	leadToStep = 0.04
	step       = 0.1 // of the capacity, for this lead; more in proportion for a larger one
	maxStep    = 0.5
)

// rateFor returns the rate for a cache of so many entries: the largest power of two that
// leaves a shadow minSample of them.
func rateFor(capacity int) int {
	rate := maxRate
	for rate > 1 && capacity/rate < minSample {
		rate /= 2
	}
	return rate
}

func newGuard(capacity int, weighted bool, s *steering, random uint32) *guard {
	g := &guard{steering: s}
	share := max(1, capacity/rateFor(capacity))
	g.recent.core.init(uint64(share), weighted, newSteering(share, 1, true), random)
	g.frequent.core.init(uint64(share), weighted, newSteering(share, minWindow, true), random)
	return g
}

// see is told of a request for the sampled key with hash h, with weight w, and whether it was
// a hit.
func (g *guard) see(h uint64, w uint32, hit bool) {
	if !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	// All sampled keys have some bits in common, so they must not be used again as they are.
	h *= 0xC2B2AE3D27D4EB4F
	h ^= h >> 29
	g.requests++
	if hit {
		g.hits++
	}
	g.recent.request(h, w)
	g.frequent.request(h, w)
	if g.requests >= periods*g.recent.core.entries() {
		g.compare()
	}
}

func (s *shadow) request(h uint64, w uint32) {
	n := s.core.lists.Find(uint32(h), h)
	if n != 0 {
		s.hits++
		s.core.hit(n)
		return
	}
	s.core.put(0, uint32(h), h, struct{}{}, w, nil)
}

// compare ends a period.
func (g *guard) compare() {
	for _, s := range []*shadow{&g.recent, &g.frequent} {
		s.lead += smoothing * (float64(s.hits-g.hits)/float64(g.requests) - s.lead)
		s.hits = 0
	}
	g.requests, g.hits = 0, 0
	if g.recent.core.lists.Len() < minSample {
		return
	}
	r, f := g.recent.lead, g.frequent.lead
	switch {
	case r > leadToStep && r > f:
		g.steering.move(min(maxStep, step/leadToStep*r))
		g.steps++
	case f > leadToStep && f > r:
		g.steering.move(-min(maxStep, step/leadToStep*f))
		g.steps++
	}
}
