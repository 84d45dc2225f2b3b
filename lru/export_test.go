package lru

import (
	"cmp"
	"fmt"
	"hash/maphash"
)

// check returns an error that says which invariant does not hold, or nil.
func (c *core[K, V]) check() error {
	if err := c.arena.Check(); err != nil {
		return err
	}
	if c.held() > c.capacity {
		return fmt.Errorf("holds %d, capacity is %d", c.held(), c.capacity)
	}
	if uint64(c.arena.Room()) > c.capacity {
		return fmt.Errorf("room for %d, capacity is %d", c.arena.Room(), c.capacity)
	}
	if !c.weighted {
		return nil
	}
	if c.arena.Room() > 0 && len(c.weights) != c.arena.Room()+1 {
		return fmt.Errorf("%d weights for %d nodes", len(c.weights), c.arena.Room()+1)
	}
	sum := uint64(0)
	for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
		if w := uint64(c.weights[n]); w < 1 || w > c.capacity {
			return fmt.Errorf("node %d: weight is %d, capacity is %d", n, w, c.capacity)
		}
		sum += uint64(c.weights[n])
	}
	if sum != c.weight {
		return fmt.Errorf("weight is %d, want %d", c.weight, sum)
	}
	return nil
}

func (c *Local[K, V]) check() error { return c.core.check() }

// check locks one shard after the other, so it may run beside other calls.
func (c *Cache[K, V]) check() error {
	var err error
	c.each(func(s *shard[K, V]) { err = cmp.Or(err, s.core.check()) })
	return err
}

// degrade makes hashes agree but in the bits of mask.
func (c *Local[K, V]) degrade(mask uint64) { c.hasher.Mask = mask }
func (c *Cache[K, V]) degrade(mask uint64) { c.hasher.Mask = mask }

func (c *Local[K, V]) shardOf(K) int   { return 0 }
func (c *Cache[K, V]) shardOf(k K) int { return shardOf(c.hash(k), c.shards()) }

func (c *Cache[K, V]) hash(k K) uint64 {
	return maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
}

func (c *Local[K, V]) shards() int { return 1 }
func (c *Cache[K, V]) shards() int { return len(c.table.Load().shards) }
