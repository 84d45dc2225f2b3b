package arena

import "fmt"

// Lists is a Table whose entries are in one of several lists each. It is not safe for
// concurrent use, but the same calls as for a Table may run together.
//
// Invariants, checked by Check, beside those of Table:
//
//	each node in use is in exactly one list, and l.Len() nodes are reachable from l
//	Prev(Next(n)) = n = Next(Prev(n)) within a list, with its ends as Next(0) and Prev(0)
type Lists[K comparable, V any] struct{ Table[K, V] }

// A List is a list of nodes of a Lists. The zero value is an empty list.
type List struct{ head, tail, len uint32 }

// Len returns the number of nodes.
func (l *List) Len() int { return int(l.len) }

// Front returns the first node, or 0.
func (l *List) Front() uint32 { return l.head }

// Back returns the last node, or 0.
func (l *List) Back() uint32 { return l.tail }

// Next returns the node behind n in its list, or 0.
func (a *Lists[K, V]) Next(n uint32) uint32 { return a.nodes[n].next }

// Prev returns the node before n in its list, or 0.
func (a *Lists[K, V]) Prev(n uint32) uint32 { return a.nodes[n].prev }

// PushFront puts node n, which is in no list, at the front of l.
func (a *Lists[K, V]) PushFront(l *List, n uint32) {
	a.nodes[n].prev, a.nodes[n].next = 0, l.head
	if l.head == 0 {
		l.tail = n
	} else {
		a.nodes[l.head].prev = n
	}
	l.head = n
	l.len++
}

// Detach takes node n out of l, in which it is.
func (a *Lists[K, V]) Detach(l *List, n uint32) {
	prev, next := a.nodes[n].prev, a.nodes[n].next
	if prev == 0 {
		l.head = next
	} else {
		a.nodes[prev].next = next
	}
	if next == 0 {
		l.tail = prev
	} else {
		a.nodes[next].prev = prev
	}
	l.len--
}

// Check returns an error that says which invariant does not hold, or nil. lists are all
// lists that there are. It is for tests. Complexity: O(Room).
func (a *Lists[K, V]) Check(lists ...*List) error {
	listed := make([]bool, len(a.nodes))
	for i, l := range lists {
		prev, count := uint32(0), 0
		for n := l.head; n != 0; n = a.nodes[n].next {
			if int(n) >= len(listed) || listed[n] {
				return fmt.Errorf("list %d leads to node %d, which does not exist or is in a list already", i, n)
			}
			listed[n] = true
			if a.nodes[n].prev != prev {
				return fmt.Errorf("list %d, node %d: prev is %d, want %d", i, n, a.nodes[n].prev, prev)
			}
			count++
			prev = n
		}
		if l.tail != prev || l.Len() != count {
			return fmt.Errorf("list %d: tail is %d, want %d; Len is %d, want %d", i, l.tail, prev, l.Len(), count)
		}
	}
	return a.check(listed)
}
