package lru

import (
	"iter"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// maxShards bounds Config.Shards: no machine gains from more.
	maxShards = 1 << 16

	// shardsPerProc is how many shards there are by default for each CPU.
	shardsPerProc = 64

	// minShare is the least capacity of a shard that is chosen by default. Keys fall
	// on shards unevenly, the more so the fewer of them a shard has, and what one shard
	// lacks another cannot lend: with 256 entries in each, the hit ratio is within a
	// few tenths of a point of that of one exact order.
	minShare = 256
)

// A table is the shards that a cache has at one time. Their number changes only when
// Resize asks for a capacity to which another number belongs.
type table[K comparable, V any] struct {
	shards []shard[K, V] // a power of two of them
}

// A shard is one part of a cache, with a lock of its own.
type shard[K comparable, V any] struct {
	mu      sync.Mutex
	core    core[K, V] // the fields that a hit needs come first, on the cache line of mu
	retired bool       // the shard is not in the cache's table any more, and is empty

	// spare is the departures of an earlier call, for its memory. It is apart from what
	// mu guards because a call gives it back after it has released mu.
	spare atomic.Pointer[departures[K, V]]

	// The end of one shard and the beginning of the next are not on one cache line,
	// nor on two that the processor fetches together.
	_ [128]byte
}

// newTable returns empty shards for a capacity.
func newTable[K comparable, V any](config *Config[K, V], capacity int) *table[K, V] {
	n := config.shardsFor(capacity)
	t := &table[K, V]{shards: make([]shard[K, V], n)}
	for i := range t.shards {
		c := &t.shards[i].core
		c.init(config, share(capacity, n, i))
		if n > 1 {
			c.arena.SetYoung(youngShift)
		}
	}
	return t
}

// youngShift makes the young segment, in which a hit moves nothing, a quarter of a shard.
const youngShift = 2

// share returns the part of capacity that shard i of n has. The parts add up to
// capacity, and none of them shrinks when the capacity grows.
func share(capacity, n, i int) uint64 {
	if i < capacity%n {
		return uint64(capacity/n) + 1
	}
	return uint64(capacity / n)
}

// shardsFor returns the number of shards for a capacity: a power of two, at most capacity.
func (config *Config[K, V]) shardsFor(capacity int) int {
	if config.Shards == 0 {
		return floorPow2(max(1, min(shardsPerProc*runtime.GOMAXPROCS(0), capacity/minShare, maxShards)))
	}
	ceil := 1 << bits.Len(uint(config.Shards-1))
	return min(ceil, floorPow2(capacity))
}

// floorPow2 returns the largest power of two that is at most n, which is at least 1.
func floorPow2(n int) int { return 1 << (bits.Len(uint(n)) - 1) }

// of returns the shard to which a hash belongs: its upper half chooses the shard, and
// the lower half the place in it.
func (t *table[K, V]) of(h uint64) *shard[K, V] {
	return &t.shards[uint32(h>>32)&uint32(len(t.shards)-1)]
}

// lock returns the shard to which a hash belongs, locked.
func (c *Cache[K, V]) lock(h uint64) *shard[K, V] {
	for {
		s := c.table.Load().of(h)
		s.mu.Lock()
		if !s.retired {
			return s
		}
		// Resize has stored another table before it unlocked this shard.
		s.mu.Unlock()
	}
}

// locked ranges over the shards, each locked while the loop's body runs, which must not
// call the user's functions. No Resize runs meanwhile, so no entry is seen twice or missed
// because it changed its shard.
func (c *Cache[K, V]) locked() iter.Seq[*shard[K, V]] {
	return func(yield func(*shard[K, V]) bool) {
		c.resizing.Lock()
		defer c.resizing.Unlock()
		t := c.table.Load()
		for i := range t.shards {
			s := &t.shards[i]
			s.mu.Lock()
			more := yield(s)
			s.mu.Unlock()
			if !more {
				return
			}
		}
	}
}

// departures returns where a call on s collects what leaves: nil if nobody asks.
func (c *Cache[K, V]) departures(s *shard[K, V]) *departures[K, V] {
	if c.config.OnEvict == nil {
		return nil
	}
	if out := s.spare.Swap(nil); out != nil {
		return out
	}
	return new(departures[K, V])
}

// report tells the user what has left. No lock is held.
func (c *Cache[K, V]) report(s *shard[K, V], out *departures[K, V]) {
	if out != nil {
		out.report(c.config.OnEvict)
		s.spare.Store(out)
	}
}
