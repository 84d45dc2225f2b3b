package loadbalance

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
)

// RoundRobin returns the Policy that gives requests to one endpoint after the other, in the order of
// their IDs, whatever their weights. Each Pool begins at a random place, and goes on where it was when the
// endpoints change.
func RoundRobin() Policy { return cyclePolicy{weighted: false} }

// SmoothWeightedRoundRobin returns the Policy that gives requests to endpoints in turn and in
// proportion to their weights, in the order of nginx: one with weight 5 among others gets its five not
// at once, but spread over the round. In each round, of as many requests as the weights' sum over their
// greatest common divisor, each endpoint gets exactly its weight over the divisor.
//
// That holds while a round is no longer than 65,536. Otherwise it is 65,536 long, and each endpoint has
// a whole number of them, at least 1: so a weight of 1 beside 1,000,000 gets 1/65,536. The share of an
// endpoint then differs from that of its weight by less than 1/65,536 of all requests, but for those
// that are raised to it, and what these get is taken from the others in proportion to their weights.
//
// To pick takes O(1). To build takes O(s·d) for a round of s requests and d different weights: up to 50 ms
// where these are hundreds.
func SmoothWeightedRoundRobin() Policy { return cyclePolicy{weighted: true} }

// maxRound bounds the length of a round.
const maxRound = 1 << 16

type cyclePolicy struct{ weighted bool }

// A cycle gives requests to the endpoints in a fixed order, again and again.
type cycle struct {
	n       uint64
	slots   []uint16 // the endpoint of each place in the order; nil: they come one after the other
	list    *list
	_       [88]byte // every pick writes next, and reads the above
	next    atomic.Uint64
	_       [56]byte
	retries atomic.Uint64
	_       [56]byte
}

func (p cyclePolicy) Build(v View, prev Picker) Picker {
	c := &cycle{n: uint64(v.Len()), list: v.l}
	weights := make([]uint64, v.Len())
	even := true
	for i, x := range v.l.infos {
		weights[i] = 1
		if p.weighted {
			weights[i] = uint64(x.weight)
		}
		if !v.l.even {
			weights[i] *= uint64(x.ramp)
		}
		even = even && weights[i] == weights[0]
	}
	if !even {
		c.slots = smooth(round(weights))
		c.n = uint64(len(c.slots))
	}
	if before, ok := prev.(*cycle); ok {
		c.next.Store(c.after(before))
	} else {
		c.next.Store(v.randomStart(int(c.n)))
	}
	return c
}

func (c *cycle) Pick(_ View, r Request) int {
	if len(r.Tried) > 0 {
		return c.retry(r)
	}
	place := (c.next.Add(1) - 1) % c.n
	if c.slots == nil {
		return int(place)
	}
	return int(c.slots[place])
}

// retry returns an endpoint that has not been tried, if one is near, and leaves the turns as they are:
// if retries took one each, of two endpoints the one that fails would have all first tries.
func (c *cycle) retry(r Request) int {
	start := c.next.Load() + c.retries.Add(1) // so that they do not all go to the next one
	for k := range uint64(64) {
		if i := c.at((start + k) % c.n); !r.tried(c.list.infos[i].id) {
			return i
		}
	}
	return c.at(start % c.n)
}

func (c *cycle) at(place uint64) int {
	if c.slots == nil {
		return int(place)
	}
	return int(c.slots[place])
}

// after returns the place to begin at for who has been where before is: as far into the round, and
// there at the endpoint whose turn it is, if it is still one.
func (c *cycle) after(before *cycle) uint64 {
	place := before.next.Load() % before.n
	turn, found := c.list.find(before.list.infos[before.at(place)].id)
	if c.slots == nil {
		return uint64(turn) % c.n
	}
	hi, lo := bits.Mul64(place, c.n)
	start, _ := bits.Div64(hi, lo, before.n)
	if found {
		for k := range c.n {
			if p := (start + k) % c.n; c.at(p) == turn {
				return p
			}
		}
	}
	return start
}

// round returns how often each comes in a round.
func round(weights []uint64) []uint32 {
	divisor, sum := uint64(0), uint64(0)
	for _, w := range weights {
		divisor = gcd(divisor, w)
		sum += w
	}
	turns := make([]uint32, len(weights))
	if sum/divisor <= maxRound {
		for i, w := range weights {
			turns[i] = uint32(w / divisor)
		}
		return turns
	}
	// Who would have less than one has one; which leaves less for the others, so that it may be the
	// turn of the next, in the order of weights.
	order := make([]int32, len(weights))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return compare(weights[a], weights[b]) })
	places, left := uint64(maxRound), order
	for len(left) > 0 {
		w := weights[left[0]]
		if hi, lo := bits.Mul64(w, places); hi > 0 || lo >= sum {
			break
		}
		turns[left[0]] = 1
		places--
		sum -= w
		left = left[1:]
	}
	// The others have the whole part of their share, and those with the largest fractions one more.
	fractions := make([]uint64, len(weights))
	given := uint64(0)
	for _, i := range left {
		hi, lo := bits.Mul64(weights[i], places)
		whole, fraction := bits.Div64(hi, lo, sum)
		turns[i], fractions[i] = uint32(whole), fraction
		given += whole
	}
	slices.SortStableFunc(left, func(a, b int32) int { return compare(fractions[b], fractions[a]) })
	for k := range places - given {
		if uint64(len(left)) > k {
			turns[left[k]]++
		}
	}
	return turns
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// smooth returns the order of nginx's smooth weighted round robin (I. Sysoev, M. Dounin, nginx commit
// 52327e0, 2012): each step adds to everybody's score their weight, takes the first of those with the
// highest score, and subtracts from it the sum of the weights.
//
// Those with the same weight take turns, in their order, as each turn makes one's score lower than the
// others' until all have had theirs. So only the next of each weight is looked at.
func smooth(weights []uint32) []uint16 {
	type class struct {
		members []uint16
		next    int
	}
	byWeight := make(map[uint32]int)
	var classes []class
	var gains, scores []int64
	sum := int64(0)
	for i, w := range weights {
		k, ok := byWeight[w]
		if !ok {
			k = len(classes)
			byWeight[w] = k
			classes = append(classes, class{})
			gains, scores = append(gains, int64(w)), append(scores, 0)
		}
		classes[k].members = append(classes[k].members, uint16(i))
		sum += int64(w)
	}
	order := make([]uint16, sum)
	for t := range order {
		best, high := -1, int64(math.MinInt64)
		for k := range scores {
			scores[k] += gains[k]
			s := scores[k]
			if s > high || s == high && classes[k].members[classes[k].next] < classes[best].members[classes[best].next] {
				best, high = k, s
			}
		}
		c := &classes[best]
		order[t] = c.members[c.next]
		if c.next++; c.next == len(c.members) {
			c.next = 0
			scores[best] -= sum // now that all of them have had their turn
		}
	}
	return order
}
