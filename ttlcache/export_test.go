package ttlcache

import (
	"cmp"
	"fmt"
)

// check returns an error that says which invariant does not hold, or nil.
func (w *wheel) check(nodes int, time func(n uint32) int64) error {
	if len(w.links) != firstNode+nodes+1 {
		return fmt.Errorf("%d links for %d nodes", len(w.links), nodes)
	}
	seen := make([]bool, nodes+1)
	for slot := uint32(1); slot <= firstNode; slot++ {
		prev := slot
		for at := w.links[slot].next; at != slot; at = w.links[at].next {
			if at <= firstNode || int(at) >= len(w.links) || seen[at-firstNode] {
				return fmt.Errorf("slot %d leads to %d, which is no node or has been seen", slot, at)
			}
			n := at - firstNode
			seen[n] = true
			if w.links[at].prev != prev {
				return fmt.Errorf("node %d: prev is %d, want %d", n, w.links[at].prev, prev)
			}
			prev = at
			if w.due > time(n) {
				return fmt.Errorf("node %d is due at %d, the wheel at %d", n, time(n), w.due)
			}
			start := w.now
			if slot < overflow {
				level, d := int(slot-1)/digits, int64(slot-1)%digits
				if w.bits[level]&(1<<d) == 0 {
					return fmt.Errorf("slot %d of level %d is in use and not marked", d, level)
				}
				shift := level * digitBits
				start = w.now>>(shift+digitBits)<<(shift+digitBits) | d<<shift
				if start>>shift < w.now>>shift {
					return fmt.Errorf("slot %d of level %d is before tick %d", d, level, w.now)
				}
			}
			if start > time(n)>>tickShift && start > w.now {
				return fmt.Errorf("node %d is due at tick %d, its slot begins at %d, it is %d", n, time(n)>>tickShift, start, w.now)
			}
		}
		if w.links[slot].prev != prev {
			return fmt.Errorf("slot %d: prev is %d, want %d", slot, w.links[slot].prev, prev)
		}
	}
	for n := 1; n <= nodes; n++ {
		if w.contains(uint32(n)) != seen[n] {
			return fmt.Errorf("node %d is in no slot", n)
		}
	}
	return nil
}

// check returns an error that says which invariant does not hold, or nil.
func (c *core[K, V]) check() error {
	if err := c.arena.Check(); err != nil {
		return err
	}
	if c.held() > c.capacity {
		return fmt.Errorf("holds %d, capacity is %d", c.held(), c.capacity)
	}
	room := c.arena.Room()
	if uint64(room) > c.capacity {
		return fmt.Errorf("room for %d, capacity is %d", room, c.capacity)
	}
	cols := &c.columns
	for _, col := range []struct {
		name string
		used bool
		len  int
	}{
		{"weights", c.spec.weighted, len(cols.weights)},
		{"slid", c.spec.moving, len(cols.slid)},
		{"hold", c.spec.holding, len(cols.hold)},
		{"costs", c.spec.costing, len(cols.costs)},
		{"ttls", cols.ttls != nil, len(cols.ttls)},
	} {
		if want := room + 1; col.used && room > 0 && col.len != want || !col.used && col.len != 0 {
			return fmt.Errorf("column %s: %d nodes, want %d", col.name, col.len, want)
		}
	}
	sum, listed := uint64(0), make([]bool, room+1)
	for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
		listed[n] = true
		if c.dead(n) < never && !c.wheel.contains(n) {
			return fmt.Errorf("node %d expires, but is not in the wheel", n)
		}
		if c.spec.weighted {
			if w := uint64(cols.weights[n]); w < 1 || w > c.capacity {
				return fmt.Errorf("node %d: weight is %d, capacity is %d", n, w, c.capacity)
			}
			sum += uint64(cols.weights[n])
		}
	}
	if sum != c.weight {
		return fmt.Errorf("weight is %d, want %d", c.weight, sum)
	}
	for n := 1; n <= room; n++ {
		if c.wheel.contains(uint32(n)) && !listed[n] {
			return fmt.Errorf("node %d is in the wheel, but not in use", n)
		}
	}
	return c.wheel.check(room, c.dead)
}

// check locks one shard after the other, so it may run beside other calls.
func (c *Cache[K, V]) check() error {
	var err error
	c.each(func(s *shard[K, V], _ *departures[K, V]) { err = cmp.Or(err, s.core.check()) })
	if c.negatives != nil {
		c.negatives.lock.Lock()
		err = cmp.Or(err, c.negatives.core.check())
		c.negatives.lock.Unlock()
	}
	return err
}

// degrade makes hashes agree but in the bits of mask.
func (c *Cache[K, V]) degrade(mask uint64) { c.hasher.Mask = mask }
