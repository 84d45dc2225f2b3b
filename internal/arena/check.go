package arena

import "fmt"

// Check returns an error that says which invariant of the arena does not hold, or nil.
// It is for tests. Complexity: O(Room).
func (a *Arena[K, V]) Check() error {
	if len(a.nodes) == 0 {
		if a.len != 0 || a.used != 0 || a.free != 0 || len(a.buckets) != 0 {
			return fmt.Errorf("arena without nodes: len %d, used %d, free %d, %d buckets", a.len, a.used, a.free, len(a.buckets))
		}
		return nil
	}
	if len(a.hashes) != len(a.nodes) || a.used > len(a.nodes) {
		return fmt.Errorf("%d nodes, %d hashes, %d used", len(a.nodes), len(a.hashes), a.used)
	}
	state := make([]byte, len(a.nodes)) // 'l' in the list, 'f' free
	if err := a.checkList(state); err != nil {
		return err
	}
	if err := a.checkFree(state); err != nil {
		return err
	}
	return a.checkIndex(state)
}

func (a *Arena[K, V]) checkList(state []byte) error {
	count := 0
	prev := uint32(0)
	for n := a.head; n != 0; n = a.nodes[n].next {
		if int(n) >= a.used || state[n] != 0 {
			return fmt.Errorf("list leads to node %d, which is unused or in the list already", n)
		}
		state[n] = 'l'
		if a.Prev(n) != prev {
			return fmt.Errorf("node %d: prev is %d, want %d", n, a.Prev(n), prev)
		}
		if a.Near(n) && a.eraLen > 0 && count >= nearEras*int(a.eraLen) {
			return fmt.Errorf("node %d is near with %d nodes in front of it", n, count)
		}
		count++
		prev = n
	}
	switch {
	case a.tail != prev:
		return fmt.Errorf("tail is %d, want %d", a.tail, prev)
	case count != a.len:
		return fmt.Errorf("%d nodes in the list, Len is %d", count, a.len)
	}
	return nil
}

func (a *Arena[K, V]) checkFree(state []byte) error {
	count := 1 + a.len // node 0 and the list
	for n := a.free; n != 0; n = a.nodes[n].next {
		if int(n) >= a.used || state[n] != 0 {
			return fmt.Errorf("free chain leads to node %d, which is unused, in use or free already", n)
		}
		state[n] = 'f'
		count++
	}
	if count != a.used {
		return fmt.Errorf("%d nodes in the list or free, %d used", count, a.used)
	}
	var key K
	for n := range a.nodes {
		if state[n] != 'l' && any(a.nodes[n].key) != any(key) {
			return fmt.Errorf("node %d is not in the list, and has a key", n)
		}
	}
	return nil
}

func (a *Arena[K, V]) checkIndex(state []byte) error {
	overflow := make([]uint32, len(a.buckets))
	count := 0
	for at := range a.buckets {
		b := &a.buckets[at]
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
			h := a.hashes[n]
			if b.tag(slot) != tagOf(h) {
				return fmt.Errorf("node %d: tag %#x, want %#x", n, b.tag(slot), tagOf(h))
			}
			for passed := a.home(h); passed != at; passed = a.after(passed) {
				overflow[passed]++
			}
		}
	}
	if count != a.len {
		return fmt.Errorf("%d nodes in the index, Len is %d", count, a.len)
	}
	for at, want := range overflow {
		if got := a.buckets[at].overflow; got != want {
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
