package arena

import "math"

const (
	// MaxLen is the largest number of entries that an Arena can hold.
	MaxLen = 1<<31 - 2

	// MaxLenSlack is the same for an Arena with slack (see SetSlack), where 8 of the 32 bits
	// of a link are needed for the era.
	MaxLenSlack = 1<<eraShift - 2
)

// An Arena holds entries under distinct keys, in a list from front to back.
// Nodes are named by number; 0 names none. An Arena is not safe for concurrent use, but
// calls that only read may run together: Len, Key, Value, Front, Back, Next, Prev, Full,
// Room, Find and Near. The zero value is an empty arena.
//
// Invariants, checked by Check:
//
//	{n : n reachable from head} = {n : n in the index}, Len() of them
//	Prev(Next(n)) = n = Next(Prev(n)), with head and tail as Next(0) and Prev(0)
//	every number from 1 to used-1 is in the list or free, and not both
//	a node that is not in the list has a zero key and a zero value
//	Near(n) ⇒ fewer than slack nodes are in front of n
type Arena[K comparable, V any] struct {
	// What a write changes comes first, and fits on the cache line of its lock; what
	// follows changes rarely, so that other CPUs keep it in their caches.
	head, tail uint32 // of the list
	clock      uint32 // era<<24 | number of nodes put in front in this era
	sweep      uint32 // the node whose age is looked at next

	nodes   []node[K, V] // nodes[0] is not used
	buckets []bucket
	mask    uint32   // of a node's prev field: the bits of the link
	near    uint32   // a node is near if it was put in front fewer eras ago
	eraLen  uint32   // nodes put in front in one era
	hashes  []uint32 // hashes[n] belongs to nodes[n]

	free uint32 // first free node, chained by next; 0: none
	used int    // nodes[used:] have never been used
	len  int
}

type node[K comparable, V any] struct {
	key   K
	value V
	prev  uint32 // the link, and with slack, the era above it: see eraShift
	next  uint32
}

// Len returns the number of entries.
func (a *Arena[K, V]) Len() int { return a.len }

// Key returns a pointer to the key of node n. The key must not be changed.
func (a *Arena[K, V]) Key(n uint32) *K { return &a.nodes[n].key }

// Value returns a pointer to the value of node n, valid until the next Reserve.
func (a *Arena[K, V]) Value(n uint32) *V { return &a.nodes[n].value }

// Front returns the first node of the list, or 0.
func (a *Arena[K, V]) Front() uint32 { return a.head }

// Back returns the last node of the list, or 0.
func (a *Arena[K, V]) Back() uint32 { return a.tail }

// Next returns the node behind n, or 0.
func (a *Arena[K, V]) Next(n uint32) uint32 { return a.nodes[n].next }

// Prev returns the node before n, or 0.
func (a *Arena[K, V]) Prev(n uint32) uint32 { return a.nodes[n].prev & a.mask }

// Full reports whether the next Insert must be preceded by a Reserve or a Remove.
func (a *Arena[K, V]) Full() bool { return a.len+1 >= len(a.nodes) }

// Room returns the number of entries that the arena has memory for.
func (a *Arena[K, V]) Room() int { return max(len(a.nodes)-1, 0) }

// Clear removes all entries and keeps the memory for others. Complexity: O(Room).
func (a *Arena[K, V]) Clear() {
	clear(a.nodes)
	clear(a.buckets)
	a.used = min(1, len(a.nodes))
	a.head, a.tail, a.free, a.len = 0, 0, 0, 0
}

// Reserve makes room for n entries in all and no more than n, which must be at least
// Len and at most MaxLen. It moves entries to new nodes, the last in the list first, so that
// node numbers change, and a cache that evicts the last goes through memory upwards. No node
// is near afterwards, if SetSlack has been given a number of nodes. Complexity: O(n).
func (a *Arena[K, V]) Reserve(n int) {
	nodes, hashes, buckets := make([]node[K, V], n+1), make([]uint32, n+1), make([]bucket, bucketsFor(n))
	old, oldHashes := a.nodes, a.hashes
	if a.mask == 0 {
		a.mask = math.MaxUint32 // an arena without slack
	}
	a.nodes, a.hashes, a.buckets = nodes, hashes, buckets

	to, mask := uint32(0), a.mask
	for from := a.tail; from != 0; from = old[from].prev & mask {
		to++
		nodes[to] = node[K, V]{
			key: old[from].key, value: old[from].value,
			prev: to + 1 | a.stamp(aged), next: to - 1,
		}
		hashes[to] = oldHashes[from]
		a.link(hashes[to], to)
	}
	nodes[to].prev = a.stamp(aged)
	a.head, a.tail = to, min(1, to)
	a.used = int(to) + 1
	a.free = 0
	a.sweep = 0
}

// Insert adds k, which must not be there, with value v at the front of the list.
// h is k's hash. The arena must not be Full.
func (a *Arena[K, V]) Insert(h uint32, k K, v V) uint32 {
	n := a.free
	if n != 0 {
		a.free = a.nodes[n].next
	} else {
		n = uint32(a.used)
		a.used++
	}
	nd := &a.nodes[n]
	nd.key, nd.value = k, v
	a.hashes[n] = h
	a.link(h, n)
	a.len++
	a.pushFront(n)
	return n
}

// Remove takes node n out and zeroes it, so that the arena keeps nothing of it alive.
func (a *Arena[K, V]) Remove(n uint32) {
	a.unlink(a.hashes[n], n)
	a.detach(n)
	a.len--
	a.nodes[n] = node[K, V]{next: a.free}
	a.free = n
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
