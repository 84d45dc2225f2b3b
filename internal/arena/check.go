package arena

import "fmt"

// Check returns an error that says which invariant of the arena does not hold, or nil.
// It is for tests. Complexity: O(Room).
func (a *Arena[K, V]) Check() error {
	listed := make([]bool, len(a.nodes))
	if err := a.checkList(listed); err != nil {
		return err
	}
	return a.check(listed)
}

func (a *Arena[K, V]) checkList(listed []bool) error {
	count := 0
	prev := uint32(0)
	for n := a.head; n != 0; n = a.nodes[n].next {
		if int(n) >= len(listed) || listed[n] {
			return fmt.Errorf("list leads to node %d, which does not exist or is in the list already", n)
		}
		listed[n] = true
		if a.Prev(n) != prev {
			return fmt.Errorf("node %d: prev is %d, want %d", n, a.Prev(n), prev)
		}
		if a.Near(n) && a.eraLen > 0 && count >= nearEras*int(a.eraLen) {
			return fmt.Errorf("node %d is near with %d nodes in front of it", n, count)
		}
		count++
		prev = n
	}
	if a.tail != prev {
		return fmt.Errorf("tail is %d, want %d", a.tail, prev)
	}
	return nil
}

// check is Check for a table, given which nodes are in a list.
func (t *Table[K, V]) check(listed []bool) error {
	if len(t.nodes) == 0 {
		if t.len != 0 || t.used != 0 || t.free != 0 || len(t.buckets) != 0 {
			return fmt.Errorf("table without nodes: len %d, used %d, free %d, %d buckets", t.len, t.used, t.free, len(t.buckets))
		}
		return nil
	}
	if len(t.hashes) != len(t.nodes) || t.used > len(t.nodes) {
		return fmt.Errorf("%d nodes, %d hashes, %d used", len(t.nodes), len(t.hashes), t.used)
	}
	state := make([]byte, len(t.nodes)) // 'l' in a list, 'f' free, 'i' in a list and in the index
	count := 0
	for n, l := range listed {
		switch {
		case l && n >= t.used:
			return fmt.Errorf("node %d is in a list and has never been used", n)
		case l:
			state[n] = 'l'
			count++
		}
	}
	if count != t.len {
		return fmt.Errorf("%d nodes in lists, Len is %d", count, t.len)
	}
	if err := t.checkFree(state); err != nil {
		return err
	}
	return t.checkIndex(state)
}

func (t *Table[K, V]) checkFree(state []byte) error {
	count := 1 + t.len // node 0 and the lists
	for n := t.free; n != 0; n = t.nodes[n].next {
		if int(n) >= t.used || state[n] != 0 {
			return fmt.Errorf("free chain leads to node %d, which is unused, in use or free already", n)
		}
		state[n] = 'f'
		count++
	}
	if count != t.used {
		return fmt.Errorf("%d nodes in the list or free, %d used", count, t.used)
	}
	var key K
	for n := range t.nodes {
		if state[n] != 'l' && any(t.nodes[n].key) != any(key) {
			return fmt.Errorf("node %d is not in the list, and has a key", n)
		}
	}
	return nil
}

func (t *Table[K, V]) checkIndex(state []byte) error {
	overflow := make([]uint32, len(t.buckets))
	count := 0
	for at := range t.buckets {
		b := &t.buckets[at]
		for slot := range uint(slots) {
			n := b.node[slot]
			if (b.tag(slot) == 0) != (n == 0) {
				return fmt.Errorf("bucket %d, slot %d: tag %#x with node %d", at, slot, b.tag(slot), n)
			}
			if n == 0 {
				continue
			}
			if state[n] != 'l' {
				return fmt.Errorf("index holds node %d, which is not in the list, or twice in the index", n)
			}
			state[n] = 'i'
			count++
			h := t.hashes[n]
			if b.tag(slot) != tagOf(h) {
				return fmt.Errorf("node %d: tag %#x, want %#x", n, b.tag(slot), tagOf(h))
			}
			for passed := t.home(h); passed != at; passed = t.after(passed) {
				overflow[passed]++
			}
		}
	}
	if count != t.len {
		return fmt.Errorf("%d nodes in the index, Len is %d", count, t.len)
	}
	for at, want := range overflow {
		if got := t.buckets[at].overflow; got != want {
			return fmt.Errorf("bucket %d: overflow is %d, want %d", at, got, want)
		}
	}
	return nil
}

// tag returns the tag of a slot.
func (b *bucket) tag(slot uint) uint8 {
	if slot < 8 {
		return uint8(b.lo >> (8 * slot))
	}
	return uint8(b.hi >> (8 * (slot - 8)))
}
