package lfu

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
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
	// largest sum of their weights. Without a Weigher a shard holds at most 2^31 - 2
	// entries, and New refuses more.
	Capacity int

	// Shards is the number of parts with a lock and lists of their own, among which keys
	// and capacity are divided evenly. Numbers up to 65536 are rounded up to a power of
	// two; there are never more shards than Capacity. 0 chooses: without a Weigher one
	// for each 256 of Capacity, but at most 256, and at most 32 for each of the GOMAXPROCS
	// of the moment of New, or 2 if that is 1; with a Weigher one for each 4096 of Capacity,
	// but at most 8. The number does not change with Resize. An Exact has one shard, and
	// refuses another number.
	Shards int

	// Weigher returns the weight of an entry, in units of Capacity; 0 counts as 1, so
	// that the number of entries is bounded too. Nil: every entry weighs 1. It is called
	// once for each value that is offered, outside any lock (but see Compute).
	//
	// A value that weighs more than its shard's part of the capacity is refused, so
	// with a Weigher read what Set returns, or watch Stats.Refused. One that weighs more
	// than the window of a Cache, at least 1 % of it, takes its room at once from
	// entries that may be worth more: keep such values out if they are used once.
	Weigher func(K, V) uint32

	// OnEvict, if not nil, is called exactly once for each value that leaves the
	// cache, or was refused entry, with the reason. It runs on the goroutine whose call
	// made the value leave, after that call has taken effect and released its lock, so
	// it may call the cache. If it panics, the panic reaches that caller, after OnEvict
	// has been called for the other values that left by the same call; if it panics for
	// these too, their panics are dropped.
	OnEvict func(K, V, Cause)

	// AgeAfter is the number of operations, at least 0, after which an Exact halves all
	// counts, rounded down but not below 1, so that what was popular once can leave; where
	// that makes counts equal, the entry that had the higher one stays longer. 0: never.
	// Uses by Get, SetIfAbsent and Compute, and values stored, are operations. A Cache has
	// an ageing of its own, and New refuses another number than 0.
	AgeAfter int
}

// A Cause is the reason why a value left a cache.
type Cause uint8

const (
	// Evicted: to make room, or because Resize took room away.
	Evicted Cause = iota + 1
	// Rejected: it had its time in the window of a Cache, and was not used more than what it
	// would have taken the place of.
	Rejected
	// Replaced: by another value for the same key, including one that was then Refused.
	Replaced
	// Deleted: by Delete, DeleteColdest or Compute.
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
	case Rejected:
		return "Rejected"
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
	Hits       uint64 // look-ups by Get, SetIfAbsent and Compute that found the key
	Misses     uint64 // and those that did not
	Sets       uint64 // values stored
	Evictions  uint64 // entries evicted for want of room
	Rejections uint64 // entries rejected for want of room; see Rejected
	Refused    uint64 // values refused because they weigh too much
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
	s.Rejections += t.Rejections
	s.Refused += t.Refused
}

// A Policy says how a Cache has adapted to its workload.
type Policy struct {
	// WindowShare is the part of the capacity that the window is to have now, from 0.01 to
	// 0.99. Small: frequent use foretells use; large: recent use does.
	WindowShare float64

	Admissions  uint64 // entries that came to the main segments
	Rejections  uint64 // entries that left the cache at the end of the window
	Adaptations uint64 // misses on keys evicted shortly before: each asks for a slightly other share
	GuardSteps  uint64 // times that a sample of the keys asked for one other by 0.1 or more
}

// A Cache is a cache of bounded size that adapts to its workload, made by New, and not
// to be copied. Cache is safe for concurrent use by multiple goroutines. Every operation on
// one key is linearizable; Len, Weight, Stats, Policy, Keys, All, Hottest, Coldest, Clear and
// Resize go through the shards one after the other, and see or treat each of them at a moment
// of its own.
//
// A value is there as soon as Set has returned, and stays at least until another value is set
// in its shard, unless it is deleted; what happens then is the policy's to decide. There is
// no buffer in which it could be lost, no goroutine, and nothing to close.
//
// A key that is not equal to itself, such as NaN, is stored but never found; it leaves
// when it is evicted or cleared.
type Cache[K comparable, V any] struct {
	hasher   arena.Hasher
	shards   []shard[K, V] // a power of two of them
	steering *steering
	guard    *guard
	config   Config[K, V] // as given to New

	resizing sync.Mutex   // held by Resize, which alone changes what follows
	capacity atomic.Int64 // of all shards
}

// New returns an empty cache, or an error that names the field of config that is wrong.
// Memory comes with the entries, up to what Capacity needs, and is then used again.
func New[K comparable, V any](config Config[K, V]) (*Cache[K, V], error) {
	procs := runtime.GOMAXPROCS(0)
	switch {
	case config.AgeAfter != 0:
		return nil, fmt.Errorf("lfu: AgeAfter must be 0 for a Cache, got %d", config.AgeAfter)
	case config.Shards < 0 || config.Shards > sharding.Max:
		return nil, fmt.Errorf("lfu: Shards must be between 0 and %d, got %d", sharding.Max, config.Shards)
	}
	n := 1
	if config.Capacity >= 1 {
		n = config.shardsFor(procs)
	}
	if err := config.validateCapacity(config.Capacity, n); err != nil {
		return nil, err
	}
	c := &Cache[K, V]{
		hasher:   arena.NewHasher(),
		shards:   make([]shard[K, V], n),
		steering: newSteering(config.Capacity, minWindow, false),
		config:   config,
	}
	stripes := sharding.Stripes(procs, math.MaxInt)
	for i := range c.shards {
		s := &c.shards[i]
		s.lock.Init(stripes)
		random := uint32(maphash.Comparable(c.hasher.Seed, i))
		s.core.init(sharding.Share(config.Capacity, n, i), config.Weigher != nil, c.steering, random)
	}
	c.capacity.Store(int64(config.Capacity))
	c.guard = newGuard(config.Capacity, config.Weigher != nil, c.steering, uint32(maphash.Comparable(c.hasher.Seed, -1)))
	return c, nil
}

// validateCapacity returns an error that says why capacity cannot be that of so many shards,
// or nil.
func (config *Config[K, V]) validateCapacity(capacity, shards int) error {
	if capacity < 1 {
		return fmt.Errorf("lfu: Capacity must be at least 1, got %d", capacity)
	}
	if capacity < shards {
		return fmt.Errorf("lfu: Capacity must be at least %d, the number of shards, got %d", shards, capacity)
	}
	if most := int64(shards) * arena.MaxLen; config.Weigher == nil && int64(capacity) > most {
		return fmt.Errorf("lfu: Capacity must be at most %d with %d shards, got %d", most, shards, capacity)
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

// Get returns the value under k, and whether there is one. It counts as a use of the entry.
// Complexity: O(1).
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	r := s.lock.TryRLock()
	if r == nil {
		return c.getLocked(s, h, k)
	}
	n := s.core.lists.Find(uint32(h), k)
	if n == 0 {
		if r.RUnlockMiss() {
			s.tidy()
		}
		return v, false
	}
	v = *s.core.lists.Value(n)
	// Two readers that count at once may count once.
	m := &s.core.meta[n]
	if was := atomic.LoadUint32(m); was&hitsMask < maxHits {
		atomic.StoreUint32(m, was+1)
	}
	if !c.guard.sees(h) {
		if r.RUnlockHit() {
			s.tidy()
		}
		return v, true
	}
	w := uint32(s.core.weightOf(n))
	if r.RUnlockHit() {
		s.tidy()
	}
	c.guard.see(h, w, true)
	return v, true
}

// getLocked is Get under the lock for writing.
func (c *Cache[K, V]) getLocked(s *shard[K, V], h uint64, k K) (V, bool) {
	s.lock.Lock()
	v, ok := s.core.get(uint32(h), k)
	s.lock.Unlock()
	return v, ok
}

// Peek returns the value under k, and whether there is one. Unlike Get, it is no use of the
// entry, and changes no statistics. Complexity: O(1).
func (c *Cache[K, V]) Peek(k K) (V, bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	if r := s.lock.TryRLock(); r != nil {
		v, ok := s.core.peek(uint32(h), k)
		r.RUnlock()
		return v, ok
	}
	s.lock.Lock()
	v, ok := s.core.peek(uint32(h), k)
	s.lock.Unlock()
	return v, ok
}

// Contains reports whether there is a value under k. It is no use of the entry, and changes
// no statistics. Complexity: O(1).
func (c *Cache[K, V]) Contains(k K) bool {
	_, ok := c.Peek(k)
	return ok
}

// EstimateFrequency returns an estimate of how often k has been used of late, from 0 to 15.
// Uses of an entry that is there are counted in part only, and halved as time goes on; those
// of one that was evicted are remembered for some time as they were. For other keys it is 0,
// or, once in some thousands of them, that of a key that looks the same. It is no use of the
// entry, and locks its shard for a moment, also against readers. Complexity: O(1).
func (c *Cache[K, V]) EstimateFrequency(k K) int {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.core.estimate(uint32(h), k)
}

// Set stores v under k, in place of what was there, and counts as a use of the entry. It
// evicts or rejects entries until there is room, and reports whether there were any.
//
// Only with a Weigher can a value be refused, when it weighs more than its shard's
// part of the capacity: then stored is false, nothing is evicted, and a value that k
// had before is removed, so that a stale value does not outlive a failed update.
//
// Complexity: O(1), amortised while the cache still grows, and for each entry evicted; one
// call passes over some thousand entries that have had hits at most.
func (c *Cache[K, V]) Set(k K, v V) (stored, evicted bool) {
	w := c.config.weigh(k, v)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	s.lock.Lock()
	out := c.departures(s)
	stored, evicted, inserted := s.core.set(uint32(h), k, v, w, out)
	s.lock.Unlock()
	if stored {
		c.sampled(h, w, !inserted)
	}
	c.report(s, out)
	return stored, evicted
}

// SetIfAbsent returns the value under k, if there is one, as Get does, and loaded is
// true. Else it stores v, as Set does, and returns it; v may be refused, as by Set.
// Complexity: as Set.
func (c *Cache[K, V]) SetIfAbsent(k K, v V) (actual V, loaded bool) {
	w := c.config.weigh(k, v)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	s.lock.Lock()
	out := c.departures(s)
	actual, loaded, used := s.core.setIfAbsent(uint32(h), k, v, w, out)
	s.lock.Unlock()
	if used > 0 {
		c.sampled(h, used, loaded)
	}
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
	s := c.of(h)
	v, ok, w, inserted, out := c.compute(s, h, k, f)
	if w > 0 {
		c.sampled(h, w, !inserted)
	}
	c.report(s, out)
	return v, ok
}

// compute is Compute up to what must come after the unlocking.
func (c *Cache[K, V]) compute(s *shard[K, V], h uint64, k K, f func(V, bool) (V, Op)) (v V, ok bool, w uint32, inserted bool, out *departures[K, V]) {
	s.lock.Lock()
	defer s.lock.Unlock()
	out = c.departures(s)
	v, ok, w, inserted = s.core.compute(uint32(h), k, f, c.config.weigh, out)
	return v, ok, w, inserted, out
}

// sampled tells the guard of a request, if it is to see the key.
func (c *Cache[K, V]) sampled(h uint64, w uint32, hit bool) {
	if c.guard.sees(h) {
		c.guard.see(h, w, hit)
	}
}

// Delete removes the value under k and returns it, and whether there was one.
// Complexity: O(1).
func (c *Cache[K, V]) Delete(k K) (V, bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	s.lock.Lock()
	out := c.departures(s)
	v, ok := s.core.delete(uint32(h), k, out)
	s.lock.Unlock()
	c.report(s, out)
	return v, ok
}

// Clear removes all entries. An entry that another goroutine sets meanwhile may stay.
// The memory is kept for other entries; the statistics go on, and so does what the policy has
// learnt. Complexity: O(Cap).
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
// New would take, or less than the number of shards, which stays as it is. It locks one
// shard at a time. Complexity: O(Cap).
func (c *Cache[K, V]) Resize(n int) (evicted int, err error) {
	if err := c.config.validateCapacity(n, len(c.shards)); err != nil {
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

func (c *Cache[K, V]) resize(n int, out *departures[K, V]) (evicted int) {
	c.resizing.Lock()
	defer c.resizing.Unlock()
	if n == c.Cap() {
		return 0
	}
	// At every moment the shards' capacities add up to no more than what Cap says:
	// it grows before they do, and shrinks after them.
	if n > c.Cap() {
		c.capacity.Store(int64(n))
	}
	c.steering.total.Store(int64(n))
	for i := range c.shards {
		s := &c.shards[i]
		s.lock.Lock()
		evicted += s.core.resize(sharding.Share(n, len(c.shards), i), out)
		s.lock.Unlock()
	}
	c.capacity.Store(int64(n))
	c.guard.resize(n)
	return evicted
}

// Len returns the number of entries, which is at most Cap. Like Weight, Stats, Policy, Keys and
// the other iterators it locks each shard for a moment, also against readers.
// Complexity: O(shards).
func (c *Cache[K, V]) Len() int {
	n := 0
	c.each(func(s *shard[K, V]) { n += s.core.lists.Len() })
	return n
}

// Weight returns the sum of the weights of the entries; without a Weigher it is Len.
// Complexity: O(shards).
func (c *Cache[K, V]) Weight() int {
	n := uint64(0)
	c.each(func(s *shard[K, V]) { n += s.core.weight })
	return int(n)
}

// Cap returns the capacity: Config.Capacity, or what Resize made of it.
func (c *Cache[K, V]) Cap() int { return int(c.capacity.Load()) }

// Shards returns the number of shards. With a Weigher, no value that weighs more than
// Cap / Shards, or one unit more in some of them, is stored.
func (c *Cache[K, V]) Shards() int { return len(c.shards) }

// Stats returns the statistics. Complexity: O(shards).
func (c *Cache[K, V]) Stats() Stats {
	var sum Stats
	c.each(func(s *shard[K, V]) { sum.add(s.stats()) })
	return sum
}

// Policy returns how the cache has adapted to its workload. Complexity: O(shards).
func (c *Cache[K, V]) Policy() Policy {
	p := Policy{
		WindowShare: c.steering.share(),
		Adaptations: c.steering.adaptations.Load(),
		GuardSteps:  c.steering.guardSteps.Load(),
	}
	c.each(func(s *shard[K, V]) {
		p.Admissions += s.core.admissions
		p.Rejections += s.core.rejections
	})
	return p
}

// All returns an iterator over the entries, shard by shard, in each of them roughly from the
// last to be evicted to the first. It takes the entries of a shard as they are when the loop
// comes to that shard, and copies them, so the body may call the cache, and may see an entry
// that has left the cache in the meantime. No key comes twice, and none that stays is missed.
// It is no use of the entries. Complexity: O(Len) time, O(Len / shards) memory.
func (c *Cache[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var entries []entry[K, V]
		for i := range c.shards {
			entries = c.shards[i].appendAll(entries[:0])
			for _, e := range entries {
				if !yield(e.key, e.value) {
					return
				}
			}
		}
	}
}

// Keys returns an iterator over the keys, in the order and with the guarantees of All.
func (c *Cache[K, V]) Keys() iter.Seq[K] { return keys(c.All()) }

// Hottest returns an iterator over the entries, the most frequently used first, by
// EstimateFrequency; those of equal frequency come shard by shard, as in All. It takes
// all entries when the loop begins, and copies them. Complexity: O(Len log Len) time, O(Len)
// memory.
func (c *Cache[K, V]) Hottest() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range c.byFrequency() {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Coldest is Hottest in the opposite order.
func (c *Cache[K, V]) Coldest() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range slices.Backward(c.byFrequency()) {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

func (c *Cache[K, V]) byFrequency() []entry[K, V] {
	var all []entry[K, V]
	c.each(func(s *shard[K, V]) { all = s.core.appendAll(all) })
	slices.SortStableFunc(all, func(a, b entry[K, V]) int { return cmp.Compare(b.frequency, a.frequency) })
	return all
}
