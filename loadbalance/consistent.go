package loadbalance

import (
	"errors"
	"fmt"
	"math"
	"sync"
)

// A Locator says where hashes belong; it is what consistent hashing is to this package. A Picker of
// package consistenthash is one, and so is a function of your own (LocatorFunc). It must not change, as
// it is called by many goroutines at the same time.
type Locator interface {
	// Pick returns the index of an endpoint in the lists that the Locator was built from.
	Pick(hash uint64) int
}

// A LocatorFunc is a function that is a Locator.
type LocatorFunc func(hash uint64) int

// Pick calls f.
func (f LocatorFunc) Pick(hash uint64) int { return f(hash) }

// A sequencer is a Locator that knows where else a hash belongs.
type sequencer interface {
	AppendN(dst []int32, hash uint64, n int) []int32
}

// ConsistentHash returns the Policy that gives all requests with the same Hash to the same endpoint, as
// long as there is room: a Locator, which build makes for endpoints in the order of their IDs, says
// which. With a bound of, say, 1.25, an endpoint has room while it has no more in flight than 1.25
// times its share by weight of all in flight in the Pool, rounded up; what is too much goes to the next
// in the sequence of the hash (V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent Hashing with
// Bounded Loads", 2018). The bound is at least 1 and at most 1000; 0 is none. When several pick at the
// same moment, an endpoint may have a few more.
//
// The sequence is the Locator's, if it has the method AppendN of consistenthash.Replicator; otherwise
// the places of further hashes that are made of it.
//
// build is called when endpoints are set (an error is Set's), and when their health changes; if it then
// returns an error, requests go by IPHash until the next change. It must not call the Pool. Slow starts
// do not matter: requests would move twice. ConsistentHash panics if build is nil or bound is out of
// range.
func ConsistentHash(build func(ids []string, weights []uint32) (Locator, error), bound float64) Policy {
	if build == nil {
		panic("loadbalance: ConsistentHash needs a function that builds a Locator, got nil")
	}
	if bound != 0 && !(bound >= 1 && bound <= 1000) {
		panic(fmt.Sprintf("loadbalance: bound must be 0, or between 1 and 1000, got %v", bound))
	}
	return consistentPolicy{build, bound}
}

type consistentPolicy struct {
	build func(ids []string, weights []uint32) (Locator, error)
	bound float64
}

var errNoLocator = errors.New("loadbalance: there is no Locator, but no error either")

func (p consistentPolicy) locator(ids []string, weights []uint32) (Locator, error) {
	l, err := p.build(ids, weights)
	if err == nil && l == nil {
		err = errNoLocator
	}
	return l, err
}

// Check builds a Locator.
func (p consistentPolicy) Check(ids []string, weights []uint32) error {
	if _, err := p.locator(ids, weights); err != nil {
		return fmt.Errorf("loadbalance: no Locator for these endpoints: %w", err)
	}
	return nil
}

// UsesTotal reports whether there is a bound.
func (p consistentPolicy) UsesTotal() bool { return p.bound > 0 }

// A consistent picks by a Locator.
type consistent struct {
	locator Locator
	share   []float64 // of all requests in flight that each may have; nil: there is no bound
}

func (p consistentPolicy) Build(v View, _ Picker) Picker {
	ids, weights, sum := make([]string, v.Len()), make([]uint32, v.Len()), 0.0
	for i, x := range v.l.infos {
		ids[i], weights[i] = x.id, x.weight
		sum += float64(x.weight)
	}
	l, err := p.locator(ids, weights)
	if err != nil {
		return hashPolicy{}.Build(v, nil)
	}
	c := &consistent{locator: l}
	if p.bound > 0 {
		c.share = make([]float64, len(ids))
		for i, w := range weights {
			c.share[i] = p.bound * float64(w) / sum
		}
	}
	return c
}

func (c *consistent) Pick(v View, r Request) int {
	i := c.locator.Pick(r.Hash)
	if uint(i) >= uint(len(v.l.members)) || c.takes(v, i, r) {
		return i
	}
	// The owner is full, or has been tried. The bounds of all add up to what is in flight at least, so
	// somebody has room, if it was not taken just now.
	if s, ok := c.locator.(sequencer); ok {
		room := sequences.Get().(*[]int32)
		defer sequences.Put(room)
		for ask := 4; ; ask *= 4 {
			ask = min(ask, v.Len())
			*room = s.AppendN((*room)[:0], r.Hash, ask)
			for _, k := range *room {
				if k := int(k); uint(k) < uint(v.Len()) && c.takes(v, k, r) {
					return k
				}
			}
			if ask == v.Len() || len(*room) < ask {
				return c.any(v, i, r)
			}
		}
	}
	for k := range uint64(rehashes) {
		j := c.locator.Pick(mix(r.Hash + (k+1)*golden))
		if uint(j) < uint(v.Len()) && c.takes(v, j, r) {
			return j
		}
	}
	return c.any(v, i, r)
}

// rehashes is how many further hashes are tried, before any endpoint will do.
const rehashes = 32

// sequences are buffers for AppendN: one of the caller's own would have to be allocated for an interface.
var sequences = sync.Pool{New: func() any { return new([]int32) }}

// any returns any endpoint that has room, or else i.
func (c *consistent) any(v View, i int, r Request) int {
	start, _ := below(mix(r.Hash), v.Len())
	for k := range v.Len() {
		if j := (start + k) % v.Len(); c.takes(v, j, r) {
			return j
		}
	}
	return i
}

// takes reports whether endpoint i has room for one more, and has not been tried.
func (c *consistent) takes(v View, i int, r Request) bool {
	if r.Tried != nil && r.tried(v.l.infos[i].id) {
		return false
	}
	if c.share == nil {
		return true
	}
	total := v.Total() + 1
	return float64(v.l.members[i].h.inFlight()) < math.Ceil(c.share[i]*float64(total))
}
