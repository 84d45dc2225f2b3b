package ttlcache

import (
	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/departed"
	"github.com/sysblocks/sysblocks/internal/flight"
	"github.com/sysblocks/sysblocks/internal/readlock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// The numbers of package lru, for the same reasons.
const (
	minPerStripe     = 4 * readlock.MaxNotes // entries for each stripe with which readers leave notes
	minShare         = 256                   // capacity of a shard that is chosen by default
	minWeight        = 4096                  // the same with a Weigher
	maxWeighedShards = 8
)

// A shard is one part of a cache, with a lock of its own. Readers use the core up to the
// first write, and store only to its atomic columns; what a hit should have written else
// they note in the lock, for the next writer.
type shard[K comparable, V any] struct {
	lock  readlock.Lock[K] // with the beginning of core on one cache line: what a Set changes
	core  core[K, V]
	notes int // readers leave notes if there are so many entries at least

	flights flight.Group[K, outcome[V]] // guarded by lock

	// writes are the keys that are being written elsewhere, each by one call. Who takes one
	// away says that what is written is outdated already. Guarded by lock.
	writes map[K]struct{}

	// spare is the departures of an earlier call, for its memory. It is apart from what
	// the lock guards because a call gives it back after it has unlocked.
	spare departed.Spare[K, V, Cause]

	// The size is a multiple of 128 bytes where pointers have 64 bits, so that what a Set
	// changes is on one cache line in each shard, and none of the shard before is on that
	// one or on the one that the processor fetches with it.
	_ [24]byte
}

// shards returns the number of shards: a power of two, at most the capacity.
func (config *Config[K, V]) shards(procs int) int {
	capacity := max(1, config.Capacity)
	switch {
	case config.Shards > 0:
		return sharding.Asked(config.Shards, capacity)
	case config.Weigher != nil:
		return sharding.FloorPow2(max(1, min(maxWeighedShards, capacity/minWeight)))
	}
	return sharding.Default(procs, capacity, minShare, arena.MaxLenSlack)
}

func (c *Cache[K, V]) initShards(procs int) {
	n := c.config.shards(procs)
	c.shards = make([]shard[K, V], n)
	c.exact = n == 1
	stripes := 1
	if !c.exact {
		stripes = sharding.Stripes(procs, c.config.Capacity/n/minPerStripe)
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.lock.Init(stripes)
		s.notes = minPerStripe * stripes
		s.core.init(&c.spec, sharding.Share(c.config.Capacity, n, i), c.exact)
	}
}

// of returns the shard to which a hash belongs: its upper half chooses the shard, and
// the lower half the place in it.
func (c *Cache[K, V]) of(h uint64) *shard[K, V] {
	return &c.shards[uint32(h>>32)&uint32(len(c.shards)-1)]
}

// lockFor returns the shard to which a hash belongs, locked for writing.
func (c *Cache[K, V]) lockFor(h uint64) *shard[K, V] {
	s := c.of(h)
	s.lockAll()
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

// tidyUp does what the readers of a shard have noted, and brings their counts to safety.
func (c *Cache[K, V]) tidyUp(s *shard[K, V]) {
	s.lock.Lock()
	s.tidy()
	s.lock.Unlock()
}

// departures are the values that have left by one call.
type departures[K comparable, V any] = departed.List[K, V, Cause]

// departures returns where a call on s collects what leaves: nil if nobody asks.
func (c *Cache[K, V]) departures(s *shard[K, V]) *departures[K, V] {
	if c.config.OnRemove == nil {
		return nil
	}
	return s.spare.Take()
}

// report tells the user what has left. No lock is held.
func (c *Cache[K, V]) report(s *shard[K, V], out *departures[K, V]) {
	if out != nil {
		s.spare.Report(out, c.config.OnRemove)
	}
}

// newDepartures returns a list for a call that may change several shards, or more than once.
func (c *Cache[K, V]) newDepartures() *departures[K, V] {
	if c.config.OnRemove == nil {
		return nil
	}
	return new(departures[K, V])
}

// reportAll tells the user what has left by such a call. No lock is held.
func (c *Cache[K, V]) reportAll(out *departures[K, V]) {
	if out != nil {
		out.Report(c.config.OnRemove)
	}
}

// each calls f for each shard, locked for writing, and reports what f makes leave.
func (c *Cache[K, V]) each(f func(s *shard[K, V], out *departures[K, V])) {
	out := c.newDepartures()
	defer c.reportAll(out)
	for i := range c.shards {
		s := &c.shards[i]
		s.lockAll()
		f(s, out)
		s.lock.Unlock()
	}
}
