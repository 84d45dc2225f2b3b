package lfu

import (
	"sync"
	"sync/atomic"
)

// A guard keeps the window from staying at a wrong size where ghosts do not tell: they see
// what a slightly larger window would gain, and not that a much larger one would. For a sample
// of the keys, one in rate by their hashes, it keeps two caches of keys only, in proportion
// smaller than the real one: one all window, which is nearly LRU, and one with the smallest
// window. When one of them has had clearly more hits than the real cache on the same requests,
// the window takes a step towards it, the larger the more these are.
//
// A sample may be easier or harder than the rest: where the window already is what a shadow
// has, what it leads by all the same is its bias, and is taken off. It is forgotten slowly, for
// the workload may change.
//
// A guard is safe for concurrent use by multiple goroutines. It passes over a request when
// another is just under way.
type guard struct {
	mask     atomic.Uint64 // the keys with none of these bits in their hashes are the sample
	steering *steering
	_        [128]byte // every hit reads mask, and must not wait for what sampled ones write

	mu       sync.Mutex
	capacity int // of the cache
	rate     int // a power of two
	weighted bool
	random   uint32
	recent   shadow // all window
	frequent shadow // the smallest window
	requests int
	hits     int // of the real cache
}

// A shadow is a cache of keys only, and how it has done.
type shadow struct {
	core core[uint64, struct{}]
	hits int
	lead float64 // by how much its hit ratio is above the real one, smoothed
	same int     // periods for which the real window has been about what this has
	bias float64 // see guard
}

const (
	maxRate    = 64
	minSample  = 32  // entries that a shadow of a sample is to have; one of all keys is exact
	maxSample  = 256 // with weights, and a higher rate than need be
	periods    = 2   // a period has that number of requests for each entry of a shadow
	smoothing  = 0.3 // weight of the last period
	forgetting = 0.002
	settling   = 5 // periods until the lead tells of the window of now
	leadToStep = 0.04
	step       = 0.1 // of the capacity, for this lead; more in proportion for a larger one
	maxStep    = 0.5
)

func newGuard(capacity int, weighted bool, s *steering, random uint32) *guard {
	g := &guard{steering: s, weighted: weighted, random: random}
	g.resize(capacity)
	return g
}

// resize begins anew for another capacity of the cache.
func (g *guard) resize(capacity int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.capacity = capacity
	rate := maxRate
	for !g.weighted && rate > 1 && capacity/rate < minSample {
		rate /= 2
	}
	g.setRate(rate)
}

// setRate begins anew with one key in rate. With weights only time can tell how many entries
// a shadow holds: see compare.
func (g *guard) setRate(rate int) {
	g.rate = rate
	share := max(1, g.capacity/rate)
	g.recent, g.frequent = shadow{}, shadow{}
	g.recent.core.init(uint64(share), g.weighted, newSteering(share, 1, true), g.random)
	g.frequent.core.init(uint64(share), g.weighted, newSteering(share, minWindow, true), g.random)
	g.requests, g.hits = 0, 0
	// Bits that neither the choice of a shard nor the place in it uses.
	g.mask.Store(uint64(rate-1) << 56)
}

// sees reports whether the key with hash h is of the sample.
func (g *guard) sees(h uint64) bool { return h&g.mask.Load() == 0 }

// see is told of a request for the sampled key with hash h, the weight of its entry, and
// whether it was a hit.
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
	if n == 0 {
		s.core.put(0, uint32(h), h, struct{}{}, w, nil)
		return
	}
	s.hits++
	if s.core.weightOf(n) == uint64(w) {
		s.core.hit(n)
		return
	}
	s.core.put(n, uint32(h), h, struct{}{}, w, nil) // a hit as well
}

// compare ends a period.
func (g *guard) compare() {
	share := g.steering.share()
	g.recent.compare(g.hits, g.requests, share > 0.9)
	g.frequent.compare(g.hits, g.requests, share < 0.05)
	g.requests, g.hits = 0, 0

	c := &g.recent.core
	switch n := c.lists.Len(); {
	case g.rate > 1 && n < minSample:
		if g.weighted && c.evictions+c.rejections+c.refused > 0 {
			g.setRate(g.rate / 2) // no more fit
		}
		return
	case g.weighted && g.rate < maxRate && n > maxSample:
		g.setRate(g.rate * 2)
		return
	}
	r, f := g.recent.lead-g.recent.bias, g.frequent.lead-g.frequent.bias
	switch {
	case r > leadToStep && r > f:
		g.steering.move(min(maxStep, step/leadToStep*r))
		g.steering.guardSteps.Add(1)
	case f > leadToStep && f > r:
		g.steering.move(-min(maxStep, step/leadToStep*f))
		g.steering.guardSteps.Add(1)
	}
}

// compare ends a period for a shadow. same says that the real window is about what this has.
func (s *shadow) compare(hits, requests int, same bool) {
	s.lead += smoothing * (float64(s.hits-hits)/float64(requests) - s.lead)
	s.hits = 0
	if s.same++; !same {
		s.same = 0
	}
	if s.same > settling {
		s.bias += smoothing * (max(0, s.lead) - s.bias)
	} else {
		s.bias -= forgetting * s.bias
	}
}
