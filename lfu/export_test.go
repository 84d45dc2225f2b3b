package lfu

import (
	"cmp"
	"fmt"
	"hash/maphash"
)

// check returns an error that says which invariant does not hold, or nil.
func (c *core[K, V]) check() error {
	s := &c.segments
	if err := c.lists.Check(&s[window].List, &s[probation].List, &s[protected].List); err != nil {
		return err
	}
	if c.weight > c.capacity {
		return fmt.Errorf("holds %d, capacity is %d", c.weight, c.capacity)
	}
	if room := c.lists.Room(); uint64(room) > c.capacity || room > 0 && len(c.meta) != room+1 || c.weighted && len(c.weights) != len(c.meta) {
		return fmt.Errorf("room for %d, %d meta, %d weights, capacity is %d", room, len(c.meta), len(c.weights), c.capacity)
	}
	sum := uint64(0)
	for i := range s {
		part := uint64(0)
		for n := s[i].Front(); n != 0; n = c.lists.Next(n) {
			if c.meta[n]>>segmentShift&3 != uint32(i) {
				return fmt.Errorf("node %d is in segment %d, and meta is %#x", n, i, c.meta[n])
			}
			if c.meta[n]>>epochShift > c.epoch {
				return fmt.Errorf("node %d is of epoch %d, now is %d", n, c.meta[n]>>epochShift, c.epoch)
			}
			w := c.weightOf(n)
			if w < 1 || w > c.capacity {
				return fmt.Errorf("node %d: weight is %d, capacity is %d", n, w, c.capacity)
			}
			part += w
		}
		if part != s[i].weight {
			return fmt.Errorf("segment %d: weight is %d, want %d", i, s[i].weight, part)
		}
		sum += part
	}
	if sum != c.weight {
		return fmt.Errorf("weight is %d, want %d", c.weight, sum)
	}
	return nil
}

// check locks one shard after the other, so it may run beside other calls.
func (c *Cache[K, V]) check() error {
	var err error
	c.each(func(s *shard[K, V]) { err = cmp.Or(err, s.core.check()) })
	g := c.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	return cmp.Or(err, g.recent.core.check(), g.frequent.core.check())
}

func (c *Exact[K, V]) check() error {
	if err := c.entries.Check(); err != nil {
		return err
	}
	if c.weight > c.capacity || uint64(c.entries.Room()) > c.capacity {
		return fmt.Errorf("weight %d, room for %d, capacity is %d", c.weight, c.entries.Room(), c.capacity)
	}
	g := &c.groups
	weight, last, groups := uint64(0), uint32(0), 0
	for n := c.entries.Front(); n != 0; {
		i := g.of[n]
		p := g.all[i]
		switch {
		case p.first != n:
			return fmt.Errorf("group %d: first is %d, want %d", i, p.first, n)
		case p.count < 1:
			return fmt.Errorf("group %d: count is %d", i, p.count)
		case last != 0 && g.all[last].count <= p.count:
			return fmt.Errorf("group %d: count is %d, behind %d", i, p.count, g.all[last].count)
		}
		size := uint32(0)
		for ; n != 0 && g.of[n] == i; n = c.entries.Next(n) {
			size++
			if c.weights != nil {
				weight += uint64(c.weights[n])
			} else {
				weight++
			}
		}
		if size != p.size {
			return fmt.Errorf("group %d: size is %d, want %d", i, p.size, size)
		}
		last = i
		groups++
	}
	if weight != c.weight {
		return fmt.Errorf("weight is %d, want %d", c.weight, weight)
	}
	for i := g.free; i != 0; i = g.all[i].first {
		groups++
	}
	if len(g.all) > 0 && groups != len(g.all)-1 {
		return fmt.Errorf("%d groups are used or free, of %d", groups, len(g.all)-1)
	}
	return nil
}

// degrade makes hashes agree but in the bits of mask.
func (c *Exact[K, V]) degrade(mask uint64) { c.hasher.Mask = mask }
func (c *Cache[K, V]) degrade(mask uint64) { c.hasher.Mask = mask }

func (c *Exact[K, V]) shardOf(K) int { return 0 }
func (c *Cache[K, V]) shardOf(k K) int {
	return int(uint32(c.fullHash(k)>>32) & uint32(len(c.shards)-1))
}

func (c *Exact[K, V]) fullHash(k K) uint64 { return uint64(c.hash(k)) }
func (c *Cache[K, V]) fullHash(k K) uint64 {
	return maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
}

func (c *Exact[K, V]) Shards() int { return 1 }

// unguard has the guard steer nothing, so that what a single core does depends on its own
// requests alone.
func (c *Exact[K, V]) unguard() {}
func (c *Cache[K, V]) unguard() {
	c.guard.steering = newSteering(1, 1, true)
}
