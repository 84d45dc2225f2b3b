package arena

// MaxLen is the largest number of entries that an Arena can hold: node numbers have
// 31 bits, and number 0 is the sentinel.
const MaxLen = 1<<31 - 2

// young is the top bit of a node's prev field: whether the node is in the young
// segment of the list (see Promote). It stands there because prev is on the cache
// line that a look-up has just read.
const young = 1 << 31

// An Arena holds entries under distinct keys, in a list from front to back.
// Nodes are named by number; 0 names none. An Arena is not safe for concurrent use.
// The zero value is an empty arena.
//
// Invariants, checked by Check:
//
//	{n : n reachable from the sentinel} = {n : n in the index}, Len() of them
//	nodes[nodes[n].prev].next = n = nodes[nodes[n].next].prev
//	the first youngLen nodes, and no others, carry the young mark; edge is the last
//	of them, or 0; youngLen ≤ max(len >> youngShift) over the list since the last push
//	every number below used is the sentinel, in the list, or free, and only one of these
//	a free node's key and value are zero
type Arena[K comparable, V any] struct {
	nodes   []node[K, V] // nodes[0] is the sentinel of the circular list
	hashes  []uint32     // hashes[n] belongs to nodes[n]
	buckets []bucket

	used int    // nodes[used:] have never been used
	free uint32 // first free node, chained by next; 0: none
	len  int

	youngLen   int
	youngShift uint8 // the young segment holds at most len >> youngShift; 0: there is none
	edge       uint32
}

type node[K comparable, V any] struct {
	key        K
	value      V
	prev, next uint32
}

// Len returns the number of entries.
func (a *Arena[K, V]) Len() int { return a.len }

// Key returns a pointer to the key of node n. The key must not be changed.
func (a *Arena[K, V]) Key(n uint32) *K { return &a.nodes[n].key }

// Value returns a pointer to the value of node n, valid until the next Reserve.
func (a *Arena[K, V]) Value(n uint32) *V { return &a.nodes[n].value }

// Front returns the first node of the list, or 0.
func (a *Arena[K, V]) Front() uint32 {
	if a.len == 0 {
		return 0
	}
	return a.nodes[0].next
}

// Back returns the last node of the list, or 0.
func (a *Arena[K, V]) Back() uint32 {
	if a.len == 0 {
		return 0
	}
	return a.nodes[0].prev
}

// Next returns the node behind n, or 0.
func (a *Arena[K, V]) Next(n uint32) uint32 { return a.nodes[n].next }

// Prev returns the node before n, or 0.
func (a *Arena[K, V]) Prev(n uint32) uint32 { return a.nodes[n].prev &^ young }

// Full reports whether the next Insert must be preceded by a Reserve or a Remove.
func (a *Arena[K, V]) Full() bool { return a.len+1 >= len(a.nodes) }

// Room returns the number of entries that the arena has memory for.
func (a *Arena[K, V]) Room() int { return max(len(a.nodes)-1, 0) }

// Clear removes all entries and keeps the memory for others. Complexity: O(Room).
func (a *Arena[K, V]) Clear() {
	clear(a.nodes)
	clear(a.buckets)
	a.used = min(1, len(a.nodes))
	a.free, a.len, a.youngLen, a.edge = 0, 0, 0, 0
}

// Reserve makes room for n entries in all and no more than n, which must be at least
// Len and at most MaxLen. It moves entries to new nodes, in list order, so that
// node numbers change and entries near in the list become near in memory.
// Complexity: O(n).
func (a *Arena[K, V]) Reserve(n int) {
	nodes, hashes, buckets := make([]node[K, V], n+1), make([]uint32, n+1), make([]bucket, bucketsFor(n))
	old, oldHashes := a.nodes, a.hashes
	a.nodes, a.hashes, a.buckets = nodes, hashes, buckets

	to := uint32(0)
	if a.len > 0 {
		for from := old[0].next; from != 0; from = old[from].next {
			to++
			nodes[to] = node[K, V]{
				key: old[from].key, value: old[from].value,
				prev: to - 1 | old[from].prev&young, next: to + 1,
			}
			hashes[to] = oldHashes[from]
			a.link(hashes[to], to)
		}
	}
	nodes[to].next = 0
	nodes[0].next, nodes[0].prev = min(1, to), to
	a.edge = uint32(a.youngLen)
	a.used = int(to) + 1
	a.free = 0
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
	a.unlink(n)
	a.detach(n)
	a.len--
	a.nodes[n] = node[K, V]{next: a.free}
	a.free = n
}

// Replace removes node n and inserts k with value v at the front, as Remove and
// Insert do but in one step: the new entry takes over node n.
func (a *Arena[K, V]) Replace(n, h uint32, k K, v V) {
	a.unlink(n)
	nd := &a.nodes[n]
	nd.key, nd.value = k, v
	a.hashes[n] = h
	a.link(h, n)
	a.toFront(n)
}

// SetYoung makes the first 1/2^shift of the list the young segment, whose nodes
// Promote leaves where they are; shift 0 is for none. The arena must be empty.
func (a *Arena[K, V]) SetYoung(shift uint8) { a.youngShift = shift }

// Promote moves node n to the front, unless it is young already. A caller that can
// bear an order that is off by at most the young segment saves the writes to up to
// five nodes on nearly every hit, because hits fall mostly on nodes near the front.
func (a *Arena[K, V]) Promote(n uint32) {
	if a.nodes[n].prev&young == 0 {
		a.toFront(n)
	}
}

// toFront moves node n to the front.
func (a *Arena[K, V]) toFront(n uint32) {
	if a.nodes[0].next != n {
		a.detach(n)
		a.pushFront(n)
	}
}

// detach takes node n out of the list.
func (a *Arena[K, V]) detach(n uint32) {
	nd := &a.nodes[n]
	prev, next := nd.prev&^young, nd.next
	if nd.prev&young != 0 {
		a.youngLen--
		if a.edge == n {
			a.edge = prev
		}
	}
	a.nodes[prev].next = next
	at := &a.nodes[next].prev
	*at = *at&young | prev
}

// pushFront puts node n, which is in no list, at the front, and as the first of the
// young segment, whose last node then grows old if the segment is over its size.
func (a *Arena[K, V]) pushFront(n uint32) {
	first := a.nodes[0].next
	a.nodes[0].next = n
	at := &a.nodes[first].prev
	*at = *at&young | n
	nd := &a.nodes[n]
	nd.next = first
	nd.prev = 0
	if a.youngShift == 0 {
		return
	}
	nd.prev = young
	if a.youngLen++; a.youngLen == 1 {
		a.edge = n
	}
	// More than one turn only after removals have shortened the list; each is paid for
	// by the call that made its node young.
	for a.youngLen > a.len>>a.youngShift {
		last := &a.nodes[a.edge].prev
		*last &^= young
		a.edge = *last
		a.youngLen--
	}
}
