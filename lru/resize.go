package lru

import (
	"hash/maphash"

	"github.com/sysblocks/sysblocks/internal/sharding"
)

// resize is Resize with a valid capacity, up to the report of what was evicted.
func (c *Cache[K, V]) resize(capacity int, out *departures[K, V]) (evicted int) {
	c.resizing.Lock()
	defer c.resizing.Unlock()
	t := c.table.Load()
	n := c.config.shardsFor(capacity, c.procs)
	if n != len(t.shards) {
		return c.reshard(t, capacity, out)
	}
	// At every moment the shards' capacities add up to no more than what Cap says:
	// it grows before they do, and shrinks after them.
	if capacity > c.Cap() {
		c.capacity.Store(int64(capacity))
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.lockAll()
		evicted += s.core.resize(sharding.Share(capacity, n, i), out)
		s.lock.Unlock()
	}
	c.capacity.Store(int64(capacity))
	return evicted
}

// reshard moves all entries to a table for another capacity, with another number of
// shards. It holds every old lock until the new table is in place: a call that waits
// for one of them then finds the shard retired, and looks for its own in the new table.
// No other code holds two of these locks, so their order does not matter.
func (c *Cache[K, V]) reshard(from *table[K, V], capacity int, out *departures[K, V]) (evicted int) {
	to := c.newTable(capacity)
	var sum Stats
	longest := 0
	for i := range from.shards {
		s := &from.shards[i]
		s.lockAll()
		sum.add(s.stats())
		longest = max(longest, s.core.arena.Len())
	}

	// Least recent first, one entry of each shard in turn, so that the most recent of
	// each are among the most recent of all.
	for left := longest; left > 0; left-- {
		for i := range from.shards {
			if old := &from.shards[i].core; old.arena.Len() == left {
				evicted += c.move(old, to, out)
			}
		}
	}

	for i := range to.shards {
		moved := &to.shards[i].core
		evicted += int(moved.evictions)
		moved.sets, moved.evictions = 0, 0
	}
	first := &to.shards[0].core
	first.hits, first.misses, first.sets = sum.Hits, sum.Misses, sum.Sets
	first.evictions, first.refused = sum.Evictions+uint64(evicted), sum.Refused

	c.capacity.Store(int64(capacity))
	c.table.Store(to)
	for i := range from.shards {
		s := &from.shards[i]
		s.retired = true
		s.core = core[K, V]{}
		s.lock.Unlock()
	}
	return evicted
}

// move moves the last entry of a shard to where it belongs in another table, and returns 1
// if it is too heavy for that: it is then evicted.
func (c *Cache[K, V]) move(from *core[K, V], to *table[K, V], out *departures[K, V]) (evicted int) {
	n := from.arena.Back()
	k, v, w := *from.arena.Key(n), *from.arena.Value(n), uint32(1)
	if from.weighted {
		w = from.weights[n]
	}
	from.remove(n, Evicted, nil)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := to.of(h)
	if uint64(w) > s.core.capacity {
		out.Add(k, v, Evicted)
		return 1
	}
	s.core.put(0, uint32(h), k, v, w, out)
	return 0
}
