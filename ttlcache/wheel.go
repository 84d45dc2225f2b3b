package ttlcache

import (
	"math"
	"math/bits"
)

// A wheel holds the numbers of nodes by the time when something is due for them: a
// hierarchical timing wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels",
// SOSP 1987), in which to add or to take out a node is O(1) whatever its time.
//
// Time is divided into ticks. A level has 32 slots of 1, 32, 32², … ticks. A node
// is in the lowest level that can tell its tick from the current one: the level of the highest
// digit, to base 32, in which the two differ, in the slot of that digit. So at each level all
// slots that are in use come after the current one, in order, and the next event is the first
// slot in use of the lowest level that has one. When its time comes, its nodes are spread over
// the levels below: each node moves at most once a level. Ticks that differ above the
// highest level are in overflow until the digit above the levels changes.
//
// A node need not be moved when its time is put off: it is found when its former time comes,
// and then goes to its new place. So the entries of a cache that are used, replaced or reused
// all the time touch their wheel about once in each time to live.
//
// Invariants, checked by check in the tests, for a node n in the wheel, whose tick is t(n):
//
//	the slot of n begins at t(n) or before, and not before now, but for slots being spread
//	due ≤ the time of n
type wheel struct {
	now  int64 // tick: nothing before it is in the wheel, but for a slot that is being spread
	due  int64 // ns: nothing is due before
	bits [levels]uint32
	// links are the lists, each a ring through its slot: first those of the slots, then
	// those of the nodes, of which next is 0 for one that is not in the wheel.
	links []link

	// In the current tick some nodes may be due, and others not yet. They are looked at in
	// turn, and those that are not due go to the end of the slot. pass is the first of
	// these: where it comes up again, all have been looked at. earliest is not after the
	// time of any of them. Both are of one tick only.
	pass     uint32
	passTick int64
	earliest int64
}

type link struct{ prev, next uint32 }

const (
	tickShift = 20 // a tick is 2^20 ns, about 1 ms
	digitBits = 5
	digits    = 1 << digitBits
	levels    = 6                  // 2^30 ticks: 13 days
	spanShift = levels * digitBits // of the ticks that the levels cover
	overflow  = 1 + levels*digits  // two slots, for the spans with even and odd numbers
	firstNode = overflow + 2 - 1   // links[firstNode+n] belongs to node n, which is 1 at least
	never     = math.MaxInt64
)

// reset empties the wheel and makes room for nodes up to n.
func (w *wheel) reset(n int) {
	w.due, w.earliest, w.pass = never, never, 0
	w.bits = [levels]uint32{}
	w.links = make([]link, firstNode+n+1)
	for i := range uint32(firstNode + 1) {
		w.links[i] = link{i, i}
	}
}

// contains reports whether node n is in the wheel.
func (w *wheel) contains(n uint32) bool { return w.links[firstNode+n].next != 0 }

// remove takes node n out of the wheel, if it is in there.
func (w *wheel) remove(n uint32) {
	l := &w.links[firstNode+n]
	if l.next != 0 {
		if n == w.pass {
			w.pass = 0 // the next one will do
		}
		w.links[l.prev].next = l.next
		w.links[l.next].prev = l.prev
		*l = link{}
	}
}

// add puts node n, which is not in the wheel, where it belongs if it is due at a time, in ns.
func (w *wheel) add(n uint32, at int64) {
	tick := max(at>>tickShift, w.now)
	slot, due := uint32(0), at
	switch diff := uint64(tick ^ w.now); {
	case diff>>spanShift != 0:
		span := w.now >> spanShift
		slot = overflow + uint32(span&1)
		due = (span + 1) << spanShift << tickShift
	case diff == 0:
		slot = w.mark(0, tick)
		w.earliest = min(w.earliest, at)
	default:
		level := (bits.Len64(diff) - 1) / digitBits
		shift := level * digitBits
		slot = w.mark(level, tick>>shift)
		due = tick >> shift << shift << tickShift
	}
	w.due = min(w.due, due)
	w.append(slot, n)
}

// append puts node n at the end of a slot.
func (w *wheel) append(slot, n uint32) {
	at := firstNode + n
	last := w.links[slot].prev
	w.links[at] = link{last, slot}
	w.links[last].next = at
	w.links[slot].prev = at
}

// mark says that the slot of a level is in use, and returns it.
func (w *wheel) mark(level int, digit int64) uint32 {
	d := uint32(digit) & (digits - 1)
	w.bits[level] |= 1 << d
	return 1 + uint32(level)*digits + d
}

// front returns the first node in a slot, or 0.
func (w *wheel) front(slot uint32) uint32 {
	if next := w.links[slot].next; next > firstNode {
		return next - firstNode
	}
	return 0
}

// first returns the slot of the next event, its level, or levels for overflow, and the tick at
// which it begins, which is now or before it if the slot is being spread; slot 0 if there
// is none.
func (w *wheel) first() (slot uint32, level int, start int64) {
	span := w.now >> spanShift
	if s := overflow + uint32(span-1)&1; w.front(s) != 0 {
		return s, levels, w.now
	}
	for level := levels - 1; level > 0; level-- {
		d := uint32(w.now>>(level*digitBits)) & (digits - 1)
		if w.bits[level]&(1<<d) != 0 {
			if s := 1 + uint32(level)*digits + d; w.front(s) != 0 {
				return s, level, w.now
			}
			w.bits[level] &^= 1 << d
		}
	}
	for level := range levels {
		for w.bits[level] != 0 {
			d := uint32(bits.TrailingZeros32(w.bits[level]))
			s := 1 + uint32(level)*digits + d
			if w.front(s) != 0 {
				shift := level * digitBits
				above := w.now >> (shift + digitBits) << (shift + digitBits)
				return s, level, above | int64(d)<<shift
			}
			w.bits[level] &^= 1 << d
		}
	}
	if s := overflow + uint32(span)&1; w.front(s) != 0 {
		return s, levels, (span + 1) << spanShift
	}
	return 0, 0, 0
}

// advance tells a wheel in which nothing is due what time it is, so that nodes that are
// added find their place at once.
func (w *wheel) advance(now int64) {
	if now < w.due {
		w.now = max(w.now, now>>tickShift)
	}
}

// turn goes on to the time now, in ns, and looks at budget nodes at most. For each whose
// slot has come, time returns when it is due; if that is now or before, the node is taken
// out of the wheel and fire is called. It returns how many it fired.
//
// If it comes to the end, due is then the time of the next event, and later than now. If not,
// another call goes on where this one has stopped.
func (w *wheel) turn(now int64, budget int, time func(n uint32) int64, fire func(n uint32)) (fired int) {
	target := now >> tickShift
	for now >= w.due {
		slot, level, start := w.first()
		if slot == 0 {
			w.due = never
			break
		}
		if start > target {
			w.due = start << tickShift
			break
		}
		w.now = max(w.now, start)
		current := level == 0 && start == target
		if current && w.passTick != target {
			w.passTick, w.pass, w.earliest = target, 0, never
		}
		for n := w.front(slot); n != 0 && !(current && n == w.pass); n = w.front(slot) {
			if budget == 0 {
				return fired
			}
			budget--
			at := time(n)
			w.remove(n)
			switch {
			case at <= now:
				fire(n)
				fired++
			case current && at>>tickShift == target:
				w.append(slot, n)
				w.earliest = min(w.earliest, at)
				if w.pass == 0 {
					w.pass = n
				}
			case at != never:
				w.add(n, at)
			}
		}
		if current {
			w.due = min(w.earliest, (target+1)<<tickShift)
			w.pass, w.earliest = 0, never
			break
		}
	}
	w.advance(now)
	return fired
}
