package lru

import (
	"fmt"
	"hash/maphash"
	"iter"
	"slices"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/departed"
)

// A Local is a Cache without locks, of one shard, and so with one exact order. It is made by
// NewLocal, and not to be copied. Local is not safe for concurrent use.
type Local[K comparable, V any] struct {
	core   core[K, V]
	hasher arena.Hasher
	config Config[K, V]
	spare  departed.Spare[K, V, Cause]
}

// NewLocal returns an empty cache, or an error that names the field of config that is
// wrong. Memory comes with the entries, up to what Capacity needs, and is then used again.
func NewLocal[K comparable, V any](config Config[K, V]) (*Local[K, V], error) {
	if config.Shards > 1 {
		return nil, fmt.Errorf("lru: Shards must be 0 or 1 for a Local, got %d", config.Shards)
	}
	if config.Shards == 0 {
		config.Shards = 1
	}
	if err := config.validate(1); err != nil {
		return nil, err
	}
	c := &Local[K, V]{hasher: arena.NewHasher(), config: config}
	c.core.init(&config, uint64(config.Capacity), true)
	return c, nil
}

func (c *Local[K, V]) hash(k K) uint32 {
	return uint32(maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask)
}

// Get returns the value under k, and whether there is one. It makes the entry the
// most recently used, in the order RecentUse. Complexity: O(1).
func (c *Local[K, V]) Get(k K) (V, bool) { return c.core.get(c.hash(k), k) }

// Peek returns the value under k, and whether there is one. Unlike Get, it changes
// neither the order nor the statistics. Complexity: O(1).
func (c *Local[K, V]) Peek(k K) (V, bool) { return c.core.peek(c.hash(k), k) }

// Contains reports whether there is a value under k. It changes neither the order nor
// the statistics. Complexity: O(1).
func (c *Local[K, V]) Contains(k K) bool {
	_, ok := c.Peek(k)
	return ok
}

// Set stores v under k, in place of what was there, and makes the entry the most
// recently used. It evicts entries until there is room, and reports whether it
// evicted any.
//
// Only with a Weigher can a value be refused, when it weighs more than the capacity:
// then stored is false, nothing is evicted, and a value that k had before is removed,
// so that a stale value does not outlive a failed update.
//
// Complexity: O(1), amortised while the cache still grows, and for each entry evicted.
func (c *Local[K, V]) Set(k K, v V) (stored, evicted bool) {
	w := c.config.weigh(k, v)
	out := c.departures()
	stored, evicted = c.core.set(c.hash(k), k, v, w, out)
	c.report(out)
	return stored, evicted
}

// SetIfAbsent returns the value under k, if there is one, as Get does, and loaded is
// true. Else it stores v, as Set does, and returns it; v may be refused, as by Set.
// Complexity: as Set.
func (c *Local[K, V]) SetIfAbsent(k K, v V) (actual V, loaded bool) {
	w := c.config.weigh(k, v)
	out := c.departures()
	actual, loaded = c.core.setIfAbsent(c.hash(k), k, v, w, out)
	c.report(out)
	return actual, loaded
}

// Compute calls f with the value under k, or with the zero value and false, and does
// what f returns. It returns the value that is then under k, and whether there is one:
// a value given with OpSet may be refused, as by Set. It counts as a look-up, and a use
// of the entry. f, and the Weigher on what f returns, must not call the cache. If one
// of them panics, nothing changes. Complexity: as Set, beside f.
func (c *Local[K, V]) Compute(k K, f func(old V, ok bool) (V, Op)) (V, bool) {
	out := c.departures()
	v, ok := c.core.compute(c.hash(k), k, f, c.config.weigh, out)
	c.report(out)
	return v, ok
}

// Delete removes the value under k and returns it, and whether there was one.
// Complexity: O(1).
func (c *Local[K, V]) Delete(k K) (V, bool) {
	out := c.departures()
	v, ok := c.core.delete(c.hash(k), k, out)
	c.report(out)
	return v, ok
}

// Oldest returns the entry that is the next to be evicted, and whether there is one. It
// changes neither the order nor the statistics. Complexity: O(1).
func (c *Local[K, V]) Oldest() (k K, v V, ok bool) {
	n := c.core.arena.Back()
	if n == 0 {
		return k, v, false
	}
	return *c.core.arena.Key(n), *c.core.arena.Value(n), true
}

// DeleteOldest removes the entry that is the next to be evicted and returns it, and
// whether there was one. The Cause is Deleted. Complexity: O(1).
func (c *Local[K, V]) DeleteOldest() (k K, v V, ok bool) {
	k, v, ok = c.Oldest()
	if ok {
		out := c.departures()
		c.core.remove(c.core.arena.Back(), Deleted, out)
		c.report(out)
	}
	return k, v, ok
}

// Clear removes all entries. The memory is kept for other entries, and the statistics
// go on. Complexity: O(Cap).
func (c *Local[K, V]) Clear() {
	out := c.departures()
	c.core.clear(out)
	c.report(out)
}

// Resize changes the capacity to n, evicts what is over it, and returns the number of
// entries evicted. It returns an error, and changes nothing, if n is not a capacity that
// NewLocal would take. Complexity: O(1) for each entry evicted, and O(n) where memory
// can be given back.
func (c *Local[K, V]) Resize(n int) (evicted int, err error) {
	if err := c.config.validateCapacity(n, 1); err != nil {
		return 0, err
	}
	out := c.departures()
	evicted = c.core.resize(uint64(n), out)
	c.report(out)
	return evicted, nil
}

// Len returns the number of entries. Complexity: O(1).
func (c *Local[K, V]) Len() int { return c.core.arena.Len() }

// Weight returns the sum of the weights of the entries; without a Weigher it is Len.
// Complexity: O(1).
func (c *Local[K, V]) Weight() int { return int(c.core.held()) }

// Cap returns the capacity: Config.Capacity, or what Resize made of it.
func (c *Local[K, V]) Cap() int { return int(c.core.capacity) }

// Stats returns the statistics. Complexity: O(1).
func (c *Local[K, V]) Stats() Stats { return c.core.stats() }

// All returns an iterator over the entries from the last to be evicted to the first:
// the most recent first. It copies the entries when the loop begins, so the body may
// call the cache, and what it changes there the loop does not see. It does not change
// the order or the statistics. Complexity: O(Len) time and memory.
func (c *Local[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range c.core.appendAll(nil) {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Backward is All in the opposite order: the next to be evicted first.
func (c *Local[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range slices.Backward(c.core.appendAll(nil)) {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Keys returns an iterator over the keys, in the order and with the guarantees of All.
func (c *Local[K, V]) Keys() iter.Seq[K] { return keys(c.All()) }

// departures returns where a call collects what leaves: nil if nobody asks.
func (c *Local[K, V]) departures() *departures[K, V] {
	if c.config.OnEvict == nil {
		return nil
	}
	return c.spare.Take()
}

// report tells the user what has left. It comes after everything else that a call
// does, for OnEvict may call the cache.
func (c *Local[K, V]) report(out *departures[K, V]) {
	if out != nil {
		c.spare.Report(out, c.config.OnEvict)
	}
}
