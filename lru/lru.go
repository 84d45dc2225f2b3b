package lru

import (
	"fmt"
	"hash/maphash"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// A Config says what a cache is to be like. Capacity is required; the zero value of
// every other field is a good default.
type Config[K comparable, V any] struct {
	_ struct{}

	// Capacity is the largest number of entries, at least 1; with a Weigher, the
	// largest sum of their weights. Without a Weigher a shard holds at most 2^24 - 2
	// entries (2^31 - 2 if it is the only one, or in a Local), and New refuses more.
	Capacity int

	// Shards is the number of parts with a lock and an order of eviction of their own,
	// among which keys and capacity are divided evenly. 1 gives one exact order; other
	// numbers, up to 65536, are rounded up to a power of two; there are never more shards
	// than Capacity. 0 chooses: without a Weigher one for each 256 of Capacity, but at
	// most 256, and at most 32 for each of the GOMAXPROCS of the moment of New, or 2 if
	// that is 1, and more only where these cannot hold Capacity; with a Weigher one for
	// each 4096 of Capacity, but at most 8. A Local has one shard, and refuses another
	// number.
	Shards int

	// Order is the order of eviction: RecentUse, the default, or Insertion.
	Order Order

	// Weigher returns the weight of an entry, in units of Capacity; 0 counts as 1, so
	// that the number of entries is bounded too. Nil: every entry weighs 1. It is called
	// once for each value that is offered, outside any lock (but see Compute).
	//
	// A value that weighs more than its shard's part of the capacity is refused, so
	// with a Weigher read what Set returns, or watch Stats.Refused.
	Weigher func(K, V) uint32

	// OnEvict, if not nil, is called exactly once for each value that leaves the
	// cache, or was refused entry, with the reason. It runs on the goroutine whose call
	// made the value leave, after that call has taken effect and released its lock, so
	// it may call the cache. If it panics, the panic reaches that caller, after OnEvict
	// has been called for the other values that left by the same call; if it panics for
	// these too, their panics are dropped.
	OnEvict func(K, V, Cause)
}

// An Order is an order of eviction.
type Order uint8

const (
	// RecentUse evicts the entry whose last use, by Get, Set, SetIfAbsent or Compute,
	// is the longest ago: LRU.
	RecentUse Order = iota
	// Insertion evicts the entry that was inserted first: FIFO. Neither a hit nor a
	// new value for a key that is there changes the order.
	Insertion
)

// String returns the name of the order.
func (o Order) String() string {
	switch o {
	case RecentUse:
		return "RecentUse"
	case Insertion:
		return "Insertion"
	}
	return fmt.Sprintf("Order(%d)", uint8(o))
}

// A Cause is the reason why a value left a cache.
type Cause uint8

const (
	// Evicted: to make room, or because Resize took room away.
	Evicted Cause = iota + 1
	// Replaced: by another value for the same key, including one that was then Refused.
	Replaced
	// Deleted: by Delete, DeleteOldest or Compute.
	Deleted
	// Cleared: by Clear.
	Cleared
	// Refused: the value was offered, and weighs more than its shard's part of the capacity.
	Refused
)

// String returns the name of the cause.
func (c Cause) String() string {
	switch c {
	case Evicted:
		return "Evicted"
	case Replaced:
		return "Replaced"
	case Deleted:
		return "Deleted"
	case Cleared:
		return "Cleared"
	case Refused:
		return "Refused"
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// An Op is what a function given to Compute wants done.
type Op uint8

const (
	// OpKeep leaves the entry, or its absence, as it is.
	OpKeep Op = iota
	// OpSet stores the value that the function returned.
	OpSet
	// OpDelete removes the entry, if there is one.
	OpDelete
)

// Stats counts what a cache has done since it was made.
type Stats struct {
	Hits      uint64 // look-ups by Get, SetIfAbsent and Compute that found the key
	Misses    uint64 // and those that did not
	Sets      uint64 // values stored
	Evictions uint64 // entries evicted for want of room
	Refused   uint64 // values refused because they weigh too much
}

// HitRatio returns Hits / (Hits + Misses), or 0 before the first look-up.
func (s Stats) HitRatio() float64 {
	if s.Hits == 0 {
		return 0
	}
	return float64(s.Hits) / (float64(s.Hits) + float64(s.Misses))
}

func (s *Stats) add(t Stats) {
	s.Hits += t.Hits
	s.Misses += t.Misses
	s.Sets += t.Sets
	s.Evictions += t.Evictions
	s.Refused += t.Refused
}

// A Cache is a cache of bounded size, made by New, and not to be copied. Cache is safe for
// concurrent use by multiple goroutines. Every operation on one key is linearizable; Len,
// Weight, Stats, Keys, All, Clear and Resize go through the shards one after the other,
// and see or treat each of them at a moment of its own.
//
// With more than one shard, the order of RecentUse is kept within each shard, and not exactly:
// hits of different goroutines, on up to a quarter of the entries, may come to be ordered in
// another way than they came in time; and without a Weigher, a hit on an entry in the first
// three eighths of a shard does not move it. So an entry may be evicted although its last
// use is more recent than that of others, but without a Weigher never while it is among the
// most recently used third of its shard, unless Resize makes the shard smaller than that.
// With one shard the order is exact.
//
// A key that is not equal to itself, such as NaN, is stored but never found; it leaves
// when it is evicted or cleared.
type Cache[K comparable, V any] struct {
	hasher arena.Hasher
	table  atomic.Pointer[table[K, V]]
	config Config[K, V] // as given to New
	procs  int          // GOMAXPROCS then: it may change, and nothing must move for that

	resizing sync.Mutex   // held by Resize, which alone changes capacity and table
	capacity atomic.Int64 // of all shards
}

// New returns an empty cache, or an error that names the field of config that is wrong.
// Memory comes with the entries, up to what Capacity needs, and is then used again.
func New[K comparable, V any](config Config[K, V]) (*Cache[K, V], error) {
	if err := config.validate(runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	c := &Cache[K, V]{hasher: arena.NewHasher(), config: config, procs: runtime.GOMAXPROCS(0)}
	c.capacity.Store(int64(config.Capacity))
	c.table.Store(c.newTable(config.Capacity))
	return c, nil
}

// validate returns an error that names the field that is wrong, or nil.
func (config *Config[K, V]) validate(procs int) error {
	switch {
	case config.Shards < 0 || config.Shards > sharding.Max:
		return fmt.Errorf("lru: Shards must be between 0 and %d, got %d", sharding.Max, config.Shards)
	case config.Order > Insertion:
		return fmt.Errorf("lru: Order must be RecentUse or Insertion, got %v", config.Order)
	}
	return config.validateCapacity(config.Capacity, procs)
}

// validateCapacity returns an error that says why capacity cannot be one, or nil.
func (config *Config[K, V]) validateCapacity(capacity, procs int) error {
	if capacity < 1 {
		return fmt.Errorf("lru: Capacity must be at least 1, got %d", capacity)
	}
	shards := config.shardsFor(capacity, procs)
	if most := int64(shards) * int64(maxLen(shards == 1)); config.Weigher == nil && int64(capacity) > most {
		return fmt.Errorf("lru: Capacity must be at most %d with %d shards, got %d", most, shards, capacity)
	}
	return nil
}

// weigh returns the weight of an entry. It calls the user's Weigher.
func (config *Config[K, V]) weigh(k K, v V) uint32 {
	if config.Weigher == nil {
		return 1
	}
	return max(1, config.Weigher(k, v))
}

// Get returns the value under k, and whether there is one. It makes the entry the
// most recently used, in the order RecentUse. Complexity: O(1).
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	t := c.table.Load()
	if t.exact {
		return c.getLocked(h, k)
	}
	s := t.of(h)
	r := s.lock.TryRLock()
	if r == nil {
		return c.getLocked(h, k)
	}
	n := s.core.arena.Find(uint32(h), k)
	if n == 0 {
		if s.retired {
			r.RUnlock()
			return c.getLocked(h, k)
		}
		if r.RUnlockMiss() {
			c.tidyUp(s)
		}
		return v, false
	}
	v = *s.core.arena.Value(n)
	if !s.core.arena.Near(n) && !s.note(r, n) {
		if s.lock.TryUpgrade(r) {
			s.tidy()
			s.core.arena.Promote(n)
			s.lock.Unlock()
			return v, true
		}
		return c.getLocked(h, k)
	}
	if r.RUnlockHit() {
		c.tidyUp(s)
	}
	return v, true
}

// getLocked is Get under the lock for writing.
func (c *Cache[K, V]) getLocked(h uint64, k K) (V, bool) {
	s := c.lockFor(h)
	v, ok := s.core.get(uint32(h), k)
	s.lock.Unlock()
	return v, ok
}

// Peek returns the value under k, and whether there is one. Unlike Get, it changes
// neither the order nor the statistics. Complexity: O(1).
func (c *Cache[K, V]) Peek(k K) (V, bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.table.Load().of(h)
	if r := s.lock.TryRLock(); r != nil {
		v, ok := s.core.peek(uint32(h), k)
		retired := s.retired
		r.RUnlock()
		if !retired {
			return v, ok
		}
	}
	s = c.lockFor(h)
	v, ok := s.core.peek(uint32(h), k)
	s.lock.Unlock()
	return v, ok
}

// Contains reports whether there is a value under k. It changes neither the order nor
// the statistics. Complexity: O(1).
func (c *Cache[K, V]) Contains(k K) bool {
	_, ok := c.Peek(k)
	return ok
}

// Set stores v under k, in place of what was there, and makes the entry the most
// recently used. It evicts entries until there is room, and reports whether it
// evicted any.
//
// Only with a Weigher can a value be refused, when it weighs more than its shard's
// part of the capacity: then stored is false, nothing is evicted, and a value that k
// had before is removed, so that a stale value does not outlive a failed update.
//
// Complexity: O(1), amortised while the cache still grows, and for each entry evicted.
func (c *Cache[K, V]) Set(k K, v V) (stored, evicted bool) {
	w := c.config.weigh(k, v)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.lockFor(h)
	out := c.departures(s)
	stored, evicted = s.core.set(uint32(h), k, v, w, out)
	s.lock.Unlock()
	c.report(s, out)
	return stored, evicted
}

// SetIfAbsent returns the value under k, if there is one, as Get does, and loaded is
// true. Else it stores v, as Set does, and returns it; v may be refused, as by Set.
// Complexity: as Set.
func (c *Cache[K, V]) SetIfAbsent(k K, v V) (actual V, loaded bool) {
	w := c.config.weigh(k, v)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.lockFor(h)
	out := c.departures(s)
	actual, loaded = s.core.setIfAbsent(uint32(h), k, v, w, out)
	s.lock.Unlock()
	c.report(s, out)
	return actual, loaded
}

// Compute calls f with the value under k, or with the zero value and false, and does
// what f returns, in one step that nothing else on k comes between. It returns the
// value that is then under k, and whether there is one: a value given with OpSet may
// be refused, as by Set. It counts as a look-up, and a use of the entry.
//
// Other than all other functions that the cache is given, f, and the Weigher on what
// f returns, run under the shard's lock: they must be quick, and must not call the
// cache, which would deadlock. If one of them panics, nothing changes.
//
// Complexity: as Set, beside f.
func (c *Cache[K, V]) Compute(k K, f func(old V, ok bool) (V, Op)) (V, bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s, v, ok, out := c.compute(h, k, f)
	c.report(s, out)
	return v, ok
}

// compute is Compute up to the report, which must come after the unlocking.
func (c *Cache[K, V]) compute(h uint64, k K, f func(V, bool) (V, Op)) (s *shard[K, V], v V, ok bool, out *departures[K, V]) {
	s = c.lockFor(h)
	defer s.lock.Unlock()
	out = c.departures(s)
	v, ok = s.core.compute(uint32(h), k, f, c.config.weigh, out)
	return s, v, ok, out
}

// Delete removes the value under k and returns it, and whether there was one.
// Complexity: O(1).
func (c *Cache[K, V]) Delete(k K) (V, bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.lockFor(h)
	out := c.departures(s)
	v, ok := s.core.delete(uint32(h), k, out)
	s.lock.Unlock()
	c.report(s, out)
	return v, ok
}

// Clear removes all entries. An entry that another goroutine sets meanwhile may stay.
// The memory is kept for other entries, and the statistics go on. Complexity: O(Cap).
func (c *Cache[K, V]) Clear() {
	var out *departures[K, V]
	if c.config.OnEvict != nil {
		out = new(departures[K, V])
	}
	c.each(func(s *shard[K, V]) { s.core.clear(out) })
	if out != nil {
		out.Report(c.config.OnEvict)
	}
}

// Resize changes the capacity to n, evicts what is over it, and returns the number of
// entries evicted. It returns an error, and changes nothing, if n is not a capacity that
// New would take. Where n needs another number of shards (see Config.Shards), the whole
// cache is locked until every entry has its new place; else one shard at a time is. More
// shards have smaller parts, so that even with a larger capacity an entry may be too heavy,
// and is evicted. Complexity: O(Cap).
func (c *Cache[K, V]) Resize(n int) (evicted int, err error) {
	if err := c.config.validateCapacity(n, c.procs); err != nil {
		return 0, err
	}
	var out *departures[K, V]
	if c.config.OnEvict != nil {
		out = new(departures[K, V])
	}
	evicted = c.resize(n, out)
	if out != nil {
		out.Report(c.config.OnEvict)
	}
	return evicted, nil
}

// Len returns the number of entries, which is at most Cap. Like Weight, Stats and Clear it
// locks each shard for a moment, also against readers, and waits for a Resize that is
// under way. Complexity: O(shards).
func (c *Cache[K, V]) Len() int {
	n := 0
	c.each(func(s *shard[K, V]) { n += s.core.arena.Len() })
	return n
}

// Weight returns the sum of the weights of the entries; without a Weigher it is Len.
// Complexity: O(shards).
func (c *Cache[K, V]) Weight() int {
	n := uint64(0)
	c.each(func(s *shard[K, V]) { n += s.core.held() })
	return int(n)
}

// Cap returns the capacity: Config.Capacity, or what Resize made of it.
func (c *Cache[K, V]) Cap() int { return int(c.capacity.Load()) }

// Shards returns the number of shards. With a Weigher, no value that weighs more than
// Cap / Shards, or one unit more in some of them, is stored.
func (c *Cache[K, V]) Shards() int { return len(c.table.Load().shards) }

// Stats returns the statistics. Complexity: O(shards).
func (c *Cache[K, V]) Stats() Stats {
	var sum Stats
	c.each(func(s *shard[K, V]) { sum.add(s.stats()) })
	return sum
}

// All returns an iterator over the entries, shard by shard, in each from the last to
// be evicted to the first: the most recent first. It takes the entries of a shard
// as they are when the loop comes to that shard, and copies them, so the body may call
// the cache, and may see an entry that has left the cache in the meantime. No key comes
// twice, unless it left and came back, and none that stays is missed, not even when a
// Resize moves it; but a key that is not equal to itself may do either when a Resize
// changes the number of shards. The order and the statistics do not change.
// Complexity: O(Len) time, O(Len / shards) memory.
func (c *Cache[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var entries []entry[K, V]
		var left []visited
		t := c.table.Load()
		for i := 0; i < len(t.shards); i++ {
			s := &t.shards[i]
			s.lockAll()
			entries = s.core.appendAll(entries[:0])
			retired := s.retired
			s.lock.Unlock()
			if retired {
				// All entries have other shards now. Go through these, and leave out
				// what came from shards that were done.
				left = append(left, visited{shards: len(t.shards), done: i})
				t = c.table.Load()
				i = -1
				continue
			}
			for _, e := range entries {
				if left != nil && c.wasVisited(left, e.key) {
					continue
				}
				if !yield(e.key, e.value) {
					return
				}
			}
		}
	}
}

// visited says which shards of a former table a loop has done: the first ones.
type visited struct{ shards, done int }

func (c *Cache[K, V]) wasVisited(left []visited, k K) bool {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	return slices.ContainsFunc(left, func(v visited) bool { return shardOf(h, v.shards) < v.done })
}

// Keys returns an iterator over the keys, in the order and with the guarantees of All.
func (c *Cache[K, V]) Keys() iter.Seq[K] { return keys(c.All()) }

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
