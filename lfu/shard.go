package lfu

import (
	"iter"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/departed"
	"github.com/sysblocks/sysblocks/internal/readlock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

const (
	// minShare is the least capacity of a shard that is chosen by default. Keys fall
	// on shards unevenly, the more so the fewer of them a shard has, and what one shard
	// lacks another cannot lend.
	minShare = 256

	// minWeight and maxWeighedShards are the same for a cache with a Weigher. What is the
	// largest value that it takes must not depend on the machine, so here the number of
	// CPUs does not count; and large values must be possible, so there are few shards.
	minWeight        = 4096
	maxWeighedShards = 8
)

// A shard is one part of a cache, with a lock of its own. Readers use the core only up to the
// first write, but for the hits of an entry: see the meta of core.
type shard[K comparable, V any] struct {
	lock readlock.Lock[K]
	core core[K, V]

	// spare is the departures of an earlier call, for its memory. It is apart from what
	// the lock guards because a call gives it back after it has unlocked.
	spare departed.Spare[K, V, Cause]

	// The size is a multiple of 128 bytes where pointers have 64 bits, so that no two shards
	// are on one cache line, nor on two that the processor fetches together.
	_ [96]byte
}

// departures are the values that have left by one call.
type departures[K comparable, V any] = departed.List[K, V, Cause]

// shardsFor returns the number of shards for the configuration's capacity: a power of two, at
// most that.
func (config *Config[K, V]) shardsFor(procs int) int {
	switch {
	case config.Shards > 0:
		return sharding.Asked(config.Shards, config.Capacity)
	case config.Weigher != nil:
		return sharding.FloorPow2(max(1, min(maxWeighedShards, config.Capacity/minWeight)))
	}
	return sharding.Default(procs, config.Capacity, minShare, arena.MaxLen)
}

// of returns the shard to which a hash belongs: its upper half chooses the shard, and
// the lower half the place in it.
func (c *Cache[K, V]) of(h uint64) *shard[K, V] {
	return &c.shards[uint32(h>>32)&uint32(len(c.shards)-1)]
}

// each calls f for each shard, locked for writing. f must not call the user's functions.
func (c *Cache[K, V]) each(f func(s *shard[K, V])) {
	for i := range c.shards {
		s := &c.shards[i]
		s.lock.Lock()
		f(s)
		s.lock.Unlock()
	}
}

// tidy brings the counts of the readers to safety.
func (s *shard[K, V]) tidy() {
	s.lock.Lock()
	s.lock.Tidy(func(uint32) {})
	s.lock.Unlock()
}

// stats returns the statistics of a shard, which is locked for writing.
func (s *shard[K, V]) stats() Stats {
	s.lock.Tidy(func(uint32) {})
	sum := s.core.stats()
	hits, misses := s.lock.Counts()
	sum.Hits += hits
	sum.Misses += misses
	return sum
}

// departures returns where a call on s collects what leaves: nil if nobody asks.
func (c *Cache[K, V]) departures(s *shard[K, V]) *departures[K, V] {
	if c.config.OnEvict == nil {
		return nil
	}
	return s.spare.Take()
}

// report tells the user what has left. No lock is held.
func (c *Cache[K, V]) report(s *shard[K, V], out *departures[K, V]) {
	if out != nil {
		s.spare.Report(out, c.config.OnEvict)
	}
}

// appendAll appends the entries of a shard to list.
func (s *shard[K, V]) appendAll(list []entry[K, V]) []entry[K, V] {
	s.lock.Lock()
	list = s.core.appendAll(list)
	s.lock.Unlock()
	return list
}

// keys returns the keys of a sequence of entries.
func keys[K comparable, V any](all iter.Seq2[K, V]) iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range all {
			if !yield(k) {
				return
			}
		}
	}
}
