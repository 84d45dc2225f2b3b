package arena

import "math"

// MaxLenSlack is the largest number of entries that an Arena with slack (see SetSlack) can
// hold; 8 of the 32 bits of a link are needed for the era.
const MaxLenSlack = 1<<eraShift - 2

// An Arena is a Table whose entries are in one list, from front to back. An Arena is not safe
// for concurrent use, but calls that only read may run together: those of Table, Front,
// Back, Next, Prev and Near. The zero value is an empty arena.
//
// Invariants, checked by Check, beside those of Table:
//
//	{n : n reachable from head} = {n : n in use}
//	Prev(Next(n)) = n = Next(Prev(n)), with head and tail as Next(0) and Prev(0)
//	Near(n) ⇒ fewer than slack nodes are in front of n
type Arena[K comparable, V any] struct {
	// What a write changes comes first, and fits on the cache line of its lock; what
	// follows changes rarely, so that other CPUs keep it in their caches.
	head, tail uint32 // of the list
	clock      uint32 // era<<24 | number of nodes put in front in this era
	sweep      uint32 // the node whose age is looked at next

	mask   uint32 // of a node's prev field: the bits of the link
	near   uint32 // a node is near if it was put in front fewer eras ago
	eraLen uint32 // nodes put in front in one era

	Table[K, V]
}

// Front returns the first node of the list, or 0.
func (a *Arena[K, V]) Front() uint32 { return a.head }

// Back returns the last node of the list, or 0.
func (a *Arena[K, V]) Back() uint32 { return a.tail }

// Next returns the node behind n, or 0.
func (a *Arena[K, V]) Next(n uint32) uint32 { return a.nodes[n].next }

// Prev returns the node before n, or 0.
func (a *Arena[K, V]) Prev(n uint32) uint32 { return a.nodes[n].prev & a.mask }

// Clear removes all entries and keeps the memory for others. Complexity: O(Room).
func (a *Arena[K, V]) Clear() {
	a.Table.Clear()
	a.head, a.tail = 0, 0
}

// Reserve makes room for n entries in all and no more than n, which must be at least
// Len and at most MaxLen. It moves entries to new nodes, the last in the list first, so that
// node numbers change, and a cache that evicts the last goes through memory upwards. No node
// is near afterwards, if SetSlack has been given a number of nodes. Complexity: O(n).
func (a *Arena[K, V]) Reserve(n int) {
	if a.mask == 0 {
		a.mask = math.MaxUint32 // an arena without slack
	}
	old, at := a.Table, a.tail
	a.Init(n)
	a.head, a.tail = 0, 0
	for at != 0 {
		from := &old.nodes[at]
		to := a.Add(old.hashes[at], from.key, from.value)
		a.nodes[to].prev = a.stamp(aged)
		a.nodes[to].next = a.head
		if a.head == 0 {
			a.tail = to
		} else {
			a.nodes[a.head].prev |= to
		}
		a.head = to
		at = from.prev & a.mask
	}
	a.sweep = 0
}

// Insert adds k, which must not be there, with value v at the front of the list.
// h is k's hash. The arena must not be Full.
func (a *Arena[K, V]) Insert(h uint32, k K, v V) uint32 {
	n := a.Add(h, k, v)
	a.pushFront(n)
	return n
}

// Remove takes node n out and zeroes it, so that the arena keeps nothing of it alive.
func (a *Arena[K, V]) Remove(n uint32) {
	a.detach(n)
	a.Drop(n)
}

// MoveBefore moves node n to the place before another node at, or to the back if at is 0. The
// arena must be without slack.
func (a *Arena[K, V]) MoveBefore(n, at uint32) {
	a.detach(n)
	prev := a.tail
	if at != 0 {
		prev = a.nodes[at].prev
		a.nodes[at].prev = n
	} else {
		a.tail = n
	}
	if prev == 0 {
		a.head = n
	} else {
		a.nodes[prev].next = n
	}
	a.nodes[n].prev, a.nodes[n].next = prev, at
}

// ReplaceBack removes the last node and inserts k with value v at the front, as Remove and
// Insert do, but in one step: the new entry takes over the node. The list must not be empty.
//
// This is what a full cache does for each new key. It does by itself what it can do without
// a loop, because the calls to unlink, link, detach and pushFront would be a sixth of its
// time: hardly any entry is outside its home bucket.
func (a *Arena[K, V]) ReplaceBack(h uint32, k K, v V) {
	n := a.tail
	old := a.hashes[n]
	a.hashes[n] = h
	if !a.unlinkAt(&a.buckets[a.home(old)], old, n) {
		a.unlink(old, n)
	}
	if !a.linkAt(&a.buckets[a.home(h)], h, n) {
		a.link(h, n)
	}
	nodes := a.nodes
	nd := &nodes[n]
	nd.key, nd.value = k, v
	if a.len == 1 {
		nd.prev = a.stamp(0)
		return
	}
	a.tail = nd.prev & a.mask
	nodes[a.tail].next = 0
	at := &nodes[a.head].prev
	*at = *at&^a.mask | n
	nd.next, nd.prev = a.head, a.stamp(0)
	a.head = n
	if a.eraLen > 0 {
		a.tick()
	}
}

// toFront moves node n to the front.
func (a *Arena[K, V]) toFront(n uint32) {
	if a.head == n {
		a.nodes[n].prev = a.stamp(0)
		return
	}
	a.detach(n)
	a.pushFront(n)
}

// detach takes node n out of the list.
func (a *Arena[K, V]) detach(n uint32) {
	nodes, mask := a.nodes, a.mask
	prev, next := nodes[n].prev&mask, nodes[n].next
	if prev == 0 {
		a.head = next
	} else {
		nodes[prev].next = next
	}
	if next == 0 {
		a.tail = prev
	} else {
		at := &nodes[next].prev
		*at = *at&^mask | prev
	}
}

// pushFront puts node n, which is in no list, at the front.
func (a *Arena[K, V]) pushFront(n uint32) {
	nodes, first := a.nodes, a.head
	if first == 0 {
		a.tail = n
	} else {
		at := &nodes[first].prev
		*at = *at&^a.mask | n
	}
	nodes[n].next = first
	nodes[n].prev = a.stamp(0)
	a.head = n
	if a.eraLen > 0 {
		a.tick()
	}
}
