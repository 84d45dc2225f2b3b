package arena

import "math"

// To put an entry in front takes writes to five nodes, and keeps all other readers out.
// Most hits fall on entries that are near the front anyway, so a cache that can bear it
// leaves these where they are. Whether a node is near must then be known from the node
// alone. A node carries the era in which it was put in front; an era ends when slack/4
// nodes have been put in front in it. A node that is less than four eras old has fewer than
// slack nodes in front of it, because each node that was put in front of it was counted.
//
// The era has eight bits, in the upper part of the node's prev field, which a look-up reads
// anyway. So that it does not seem new again after 256 eras, every fourth time that a
// node is put in front another one is looked at, in turn; if it is not near, its era is
// set to be 128 eras ago. All nodes are looked at within four times their number, and
// where slack is a quarter of them at least, as SetSlack asks, this is within 64 eras, or
// 80 where rounding makes eras short. Ages thus stay below 128 + 80 and a little.
//
// The alternatives were a pointer to the last near node, which moves whenever a node is put
// in front: one more cache miss each time, a sixth of the time of a Set; and a full 32-bit
// count in each node: four bytes more.
const (
	eraShift  = 24
	nearEras  = 4
	aged      = 128 // eras ago: not near for long
	sweepRate = 4   // times that a node is put in front for each one looked at
)

// SetSlack sets which nodes are near, and are thus left by Promote where they are: with n
// 0, as in the zero value, none; with math.MaxInt all; else some of the first n in the
// list, most of them of the first 3/4·n. That n must be a quarter of the arena's room at
// least, and 16 at least, or it is taken as 0. No node is near until it is next put in
// front, if this changes anything. Complexity: O(Room), or O(1) if it does not.
func (a *Arena[K, V]) SetSlack(n int) {
	mask, near, eraLen := uint32(math.MaxUint32), uint32(0), uint32(0)
	switch {
	case n == math.MaxInt:
		near = math.MaxUint32
	case n >= 4*nearEras:
		mask, near, eraLen = 1<<eraShift-1, nearEras, uint32(n/nearEras)
	}
	if mask == a.mask && near == a.near && eraLen == a.eraLen {
		return
	}
	link := a.mask // as it was
	a.mask, a.near, a.eraLen, a.clock = mask, near, eraLen, 0
	for i := range a.nodes {
		p := &a.nodes[i].prev
		*p = *p&link | a.stamp(aged)
	}
}

// Near reports whether node n is near the front.
func (a *Arena[K, V]) Near(n uint32) bool {
	return uint32(uint8(a.clock>>eraShift)-uint8(a.nodes[n].prev>>eraShift)) < a.near
}

// Promote moves node n to the front, unless it is near.
func (a *Arena[K, V]) Promote(n uint32) {
	if !a.Near(n) {
		a.toFront(n)
	}
}

// stamp returns the era that was age eras ago, where a prev field has it.
func (a *Arena[K, V]) stamp(age uint32) uint32 {
	return (a.clock - age<<eraShift) &^ a.mask
}

// tick counts a node that was put in front.
func (a *Arena[K, V]) tick() {
	a.clock++
	inEra := a.clock & (1<<eraShift - 1)
	end := inEra >= a.eraLen
	if end {
		a.clock += 1<<eraShift - inEra
	}
	if end || inEra%sweepRate == 0 {
		if a.sweep++; int(a.sweep) >= len(a.nodes) {
			a.sweep = 1
		}
		if !a.Near(a.sweep) {
			p := &a.nodes[a.sweep].prev
			*p = *p&a.mask | a.stamp(aged)
		}
	}
}
