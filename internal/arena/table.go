package arena

// MaxLen is the largest number of entries that a Table can hold.
const MaxLen = 1<<31 - 2

// A Table holds entries under distinct keys, each in a node that has a number; 0 names none.
// Whoever uses a Table links the nodes: an Arena in its one list, others in Lists. A Table
// is not safe for concurrent use, but calls that only read may run together: Len, Key,
// Value, Hash, Full, Room and Find. The zero value is an empty table without room.
//
// Invariants, checked by check:
//
//	every number from 1 to used-1 is in use or free, and not both; Len() are in use
//	{n : n in use} = {n : n in the index}
//	a node that is not in use has a zero key and a zero value
type Table[K comparable, V any] struct {
	nodes   []node[K, V] // nodes[0] is not used
	buckets []bucket
	hashes  []uint32 // hashes[n] belongs to nodes[n]

	free uint32 // first free node, chained by next; 0: none
	used int    // nodes[used:] have never been used
	len  int
}

type node[K comparable, V any] struct {
	key   K
	value V
	prev  uint32 // the link; in an Arena with slack also the era, above it: see eraShift
	next  uint32
}

// Init makes room for n entries, at most MaxLen, in a table that is to be empty.
// Complexity: O(n).
func (t *Table[K, V]) Init(n int) {
	*t = Table[K, V]{
		nodes:   make([]node[K, V], n+1),
		buckets: make([]bucket, bucketsFor(n)),
		hashes:  make([]uint32, n+1),
		used:    1,
	}
}

// Len returns the number of entries.
func (t *Table[K, V]) Len() int { return t.len }

// Key returns a pointer to the key of node n. The key must not be changed.
func (t *Table[K, V]) Key(n uint32) *K { return &t.nodes[n].key }

// Value returns a pointer to the value of node n, valid until the next Init.
func (t *Table[K, V]) Value(n uint32) *V { return &t.nodes[n].value }

// Hash returns the hash of the key of node n.
func (t *Table[K, V]) Hash(n uint32) uint32 { return t.hashes[n] }

// Full reports whether there is no room for one more entry.
func (t *Table[K, V]) Full() bool { return t.len+1 >= len(t.nodes) }

// Room returns the number of entries that the table has memory for.
func (t *Table[K, V]) Room() int { return max(len(t.nodes)-1, 0) }

// Clear removes all entries and keeps the memory for others. Complexity: O(Room).
func (t *Table[K, V]) Clear() {
	clear(t.nodes)
	clear(t.buckets)
	t.used = min(1, len(t.nodes))
	t.free, t.len = 0, 0
}

// Add adds k, which must not be there, with value v, in a node that is in no list. h is k's
// hash. The table must not be Full.
func (t *Table[K, V]) Add(h uint32, k K, v V) uint32 {
	n := t.free
	if n != 0 {
		t.free = t.nodes[n].next
	} else {
		n = uint32(t.used)
		t.used++
	}
	nd := &t.nodes[n]
	nd.key, nd.value = k, v
	t.hashes[n] = h
	t.link(h, n)
	t.len++
	return n
}

// Drop takes out node n, which must be in no list any more, and zeroes it, so that the
// table keeps nothing of it alive.
func (t *Table[K, V]) Drop(n uint32) {
	t.unlink(t.hashes[n], n)
	t.len--
	t.nodes[n] = node[K, V]{next: t.free}
	t.free = n
}
