package lru

import (
	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/departed"
	"github.com/sysblocks/sysblocks/internal/readlock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

const (
	// minPerStripe is the least number of entries for each stripe with which readers leave
	// notes: all notes together are then for a quarter of the entries at most.
	minPerStripe = 4 * readlock.MaxNotes

	// minShare is the least capacity of a shard that is chosen by default. Keys fall
	// on shards unevenly, the more so the fewer of them a shard has, and what one shard
	// lacks another cannot lend: with 256 entries in each, the hit ratio is within a
	// few tenths of a point of that of one exact order.
	minShare = 256

	// minWeight and maxWeighedShards are the same for a cache with a Weigher. What is the
	// largest value that it takes must not depend on the machine, so here the number of
	// CPUs does not count; and large values must be possible, so there are few shards.
	minWeight        = 4096
	maxWeighedShards = 8
)

// A table is the shards that a cache has at one time. Their number changes only when
// Resize asks for a capacity to which another number belongs.
type table[K comparable, V any] struct {
	shards []shard[K, V] // a power of two of them

	// exact says that each use of an entry must find its place in the one order of all
	// uses, so that there are no readers.
	exact bool
}

// A shard is one part of a cache, with a lock of its own. Readers use the core's get and
// peek only up to the first write; what a hit should have written they note in the lock,
// for the next writer, so that no eviction comes before it.
type shard[K comparable, V any] struct {
	lock    readlock.Lock[K] // with the beginning of core on one cache line: what a Set changes
	core    core[K, V]
	notes   int  // readers leave notes if there are so many entries at least
	retired bool // the shard is not in the cache's table any more, and is empty

	// spare is the departures of an earlier call, for its memory. It is apart from what
	// the lock guards because a call gives it back after it has unlocked.
	spare departed.Spare[K, V, Cause]

	// The size is a multiple of 128 bytes where pointers have 64 bits, so that what a Set
	// changes is on one cache line in each shard, and none of the shard before is on that
	// one or on the one that the processor fetches with it.
	_ [112]byte
}

// newTable returns empty shards for a capacity.
func (c *Cache[K, V]) newTable(capacity int) *table[K, V] {
	n := c.config.shardsFor(capacity, c.procs)
	t := &table[K, V]{
		shards: make([]shard[K, V], n),
		exact:  n == 1 && c.config.Order == RecentUse,
	}
	stripes := sharding.Stripes(c.procs, capacity/n/minPerStripe)
	if t.exact {
		stripes = 1
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.lock.Init(stripes)
		s.notes = minPerStripe * stripes
		s.core.init(&c.config, sharding.Share(capacity, n, i), n == 1)
	}
	return t
}

// shardsFor returns the number of shards for a capacity: a power of two, at most capacity.
func (config *Config[K, V]) shardsFor(capacity, procs int) int {
	switch {
	case config.Shards > 0:
		return sharding.Asked(config.Shards, capacity)
	case config.Weigher != nil:
		return sharding.FloorPow2(max(1, min(maxWeighedShards, capacity/minWeight)))
	}
	return sharding.Default(procs, capacity, minShare, arena.MaxLenSlack)
}

// of returns the shard to which a hash belongs: its upper half chooses the shard, and
// the lower half the place in it.
func (t *table[K, V]) of(h uint64) *shard[K, V] {
	return &t.shards[shardOf(h, len(t.shards))]
}

// shardOf returns the number of the shard to which a hash belongs, of n.
func shardOf(h uint64, n int) int { return int(uint32(h>>32) & uint32(n-1)) }

// lockFor returns the shard to which a hash belongs, locked for writing.
func (c *Cache[K, V]) lockFor(h uint64) *shard[K, V] {
	s := c.table.Load().of(h)
	s.lockAll()
	for s.retired {
		// Resize has stored another table before it unlocked this shard.
		s.lock.Unlock()
		s = c.table.Load().of(h)
		s.lockAll()
	}
	return s
}

// lockAll locks the shard for writing, and does what its readers have noted.
func (s *shard[K, V]) lockAll() {
	if s.lock.Lock() {
		s.tidy()
	}
}

// note leaves a note to promote node n, unless there is no room for one. The notes of
// different goroutines are not in order, so there are none where they could be of more
// than a quarter of the entries.
func (s *shard[K, V]) note(r *readlock.Stripe[K], n uint32) bool {
	return s.core.arena.Len() >= s.notes && r.Note(n)
}

func (s *shard[K, V]) tidy() { s.lock.Tidy(s.core.arena.Promote) }

// each calls f for each shard, locked for writing. No Resize runs meanwhile, so no entry
// is seen twice or missed because it changed its shard. f must not call the user's functions.
func (c *Cache[K, V]) each(f func(s *shard[K, V])) {
	c.resizing.Lock()
	defer c.resizing.Unlock()
	t := c.table.Load()
	for i := range t.shards {
		s := &t.shards[i]
		s.lockAll()
		f(s)
		s.lock.Unlock()
	}
}

// departures are the values that have left by one call.
type departures[K comparable, V any] = departed.List[K, V, Cause]

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

// tidyUp does what the readers of a shard have noted, and brings their counts to safety.
func (c *Cache[K, V]) tidyUp(s *shard[K, V]) {
	s.lock.Lock()
	s.tidy()
	s.lock.Unlock()
}

// stats returns the statistics of a shard, which is locked for writing.
func (s *shard[K, V]) stats() Stats {
	s.tidy()
	sum := s.core.stats()
	hits, misses := s.lock.Counts()
	sum.Hits += hits
	sum.Misses += misses
	return sum
}
