package ttlcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/clock"
	"github.com/sysblocks/sysblocks/internal/keylock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// errors that callers can branch on
var (
	// ErrKey is returned by calls that load, or that write to a Store or a second level, for
	// a key that is not equal to itself, such as NaN.
	ErrKey = errors.New("ttlcache: the key is not equal to itself")
	// ErrClosed is returned by calls that load or write, after Close.
	ErrClosed = errors.New("ttlcache: the cache is closed")
	// ErrTooHeavy is returned by calls that set a value that weighs more than its shard's
	// part of the capacity, in a cache without a Store.
	ErrTooHeavy = errors.New("ttlcache: the value weighs more than its shard's part of the capacity")
	// ErrNoLoader is returned by calls that load, where there is nothing to load from.
	ErrNoLoader = errors.New("ttlcache: neither Loader nor BulkLoader nor Next is configured")
)

// A Cache is a cache whose entries expire, made by New, and not to be copied. Cache is safe for
// concurrent use by multiple goroutines. Every operation on one key is linearizable, but
// where there is a Store or a second level, Get may see the value before that of a Set that
// has not returned; Len, Weight, Stats, Keys, All, Clear and Resize go through the
// shards one after the other, and see or treat each of them at a moment of its own.
//
// A Cache has no goroutine but for loads that are under way, for WriteBehind, for keys that
// wait to be invalidated in Next, and a Janitor; Close ends all of them.
//
// With more than one shard the order of eviction is about the order of use, within
// each shard, as in package lru; with one it is exact.
type Cache[K comparable, V any] struct {
	hasher arena.Hasher
	shards []shard[K, V] // a power of two of them
	exact  bool          // each use of an entry must find its place in the one order of all
	eager  bool          // a use of an entry may start a load, or a stale one be used
	slow   bool          // a write goes elsewhere too, so that a key needs a lock for longer
	config Config[K, V]  // as given to New, but for defaults
	spec   spec

	clock clock.Clock[K]

	keys      keylock.Locks[K] // held by who writes elsewhere, and by who keeps what he read there
	negatives *negatives[K]    // nil: none
	tier      *tier[K, V]      // nil: none
	queue     *queue[K, V]     // nil: no WriteBehind

	refreshing atomic.Int64 // loads in the background
	counters   counters
	life       life

	resizing sync.Mutex   // held by Resize, which alone changes capacity
	capacity atomic.Int64 // of all shards
}

// New returns an empty cache, or an error that names the field of config that is wrong.
// Memory comes with the entries, up to what Capacity needs, and is then used again.
func New[K comparable, V any](config Config[K, V]) (*Cache[K, V], error) {
	procs := runtime.GOMAXPROCS(0)
	if err := config.validate(procs); err != nil {
		return nil, err
	}
	config.setDefaults()
	c := &Cache[K, V]{hasher: arena.NewHasher(), config: config}
	c.eager = config.StaleWhileRevalidate > 0 || config.StaleIfError > 0 || config.RefreshAhead > 0 || config.XFetchBeta > 0
	c.slow = config.Store != nil || config.Next != nil
	c.spec = spec{
		weighted: config.Weigher != nil,
		moving:   config.Sliding || config.MaxLifetime > 0,
		holding:  c.eager,
		costing:  config.XFetchBeta > 0,
		ttl:      config.ttlOf(0),
		window:   int64(max(config.StaleWhileRevalidate, config.StaleIfError)),
	}
	c.spec.plain = !c.spec.weighted && !c.spec.moving && !c.spec.holding && config.OnRemove == nil
	c.clock.Init()
	c.capacity.Store(int64(config.Capacity))
	c.initShards(procs)
	if config.NegativeTTL > 0 {
		c.negatives = newNegatives[K](&c.config, procs)
	}
	c.life.init()
	if config.WriteMode == WriteBehind {
		c.queue = newQueue(c)
	}
	if config.Next != nil {
		c.tier = newTier(c)
	}
	if config.Janitor > 0 {
		c.life.others.Go(c.janitor)
	}
	return c, nil
}

func (config *Config[K, V]) setDefaults() {
	if config.NegativeCapacity == 0 {
		config.NegativeCapacity = defaultNegative
		if config.Weigher == nil {
			config.NegativeCapacity = min(config.Capacity, defaultNegative)
		}
	}
	if config.RetryDelay == 0 {
		config.RetryDelay = defaultRetryDelay
	}
	if config.MaxConcurrentRefresh == 0 {
		config.MaxConcurrentRefresh = defaultRefreshes
	}
	if config.TierBacklog == 0 {
		config.TierBacklog = defaultTierBacklog
	}
	config.Batch.setDefaults()
}

// Get returns the value under k, and whether there is a fresh one. It never loads. It makes the
// entry the most recently used, and with Sliding it begins its time to live anew.
// Complexity: O(1).
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	if c.exact {
		return c.getLocked(h, k)
	}
	s := &c.shards[uint32(h>>32)&uint32(len(c.shards)-1)]
	r := s.lock.TryRLock()
	if r == nil {
		return c.getLocked(h, k)
	}
	n := s.core.arena.Find(uint32(h), k)
	if n == 0 {
		if r.RUnlockMiss() {
			c.tidyUp(s)
		}
		return v, false
	}
	it := s.core.arena.Value(n)
	v = it.value
	if (c.spec.moving || it.deadline <= c.clock.Soon()) && !c.use(s, n) {
		r.RUnlock()
		return c.getLocked(h, k)
	}
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

// use does for entry n of a shard, which is locked in some way, what the time asks for: it
// reports whether the entry is fresh, and begins its time to live anew if that is to be.
func (c *Cache[K, V]) use(s *shard[K, V], n uint32) bool {
	deadline := s.core.deadline(n)
	if !c.ahead(deadline) {
		return false
	}
	if c.config.Sliding {
		c.slide(s, n, deadline)
	}
	return true
}

// ahead reports whether a time has not come yet.
func (c *Cache[K, V]) ahead(at int64) bool {
	return at > c.clock.Soon() || at == never || at > c.clock.Now()
}

// slide begins the time to live of entry n anew, whose deadline may move. Two goroutines that
// do so at once have about the same time, so it does not matter who is the last.
func (c *Cache[K, V]) slide(s *shard[K, V], n uint32, deadline int64) {
	ttl := s.core.ttl(n)
	next := min(sum(c.now(ttl), c.jittered(ttl)), s.core.arena.Value(n).deadline)
	if next > deadline {
		s.core.columns.slid[n].Store(next)
	}
}

// lateTTL is the least time to live, in ns, that is counted from a time that may be up to
// clock.Tick late, a thousandth of it.
const lateTTL = int64(1000 * clock.Tick)

// now returns the time, from which the given time to live is to be counted.
func (c *Cache[K, V]) now(ttl int64) int64 {
	if ttl >= lateTTL {
		now, _ := c.clock.Late()
		return now
	}
	return c.clock.Now()
}

// jittered returns a time to live, shortened by chance.
func (c *Cache[K, V]) jittered(ttl int64) int64 {
	if c.config.Jitter == 0 || ttl == never {
		return ttl
	}
	return max(1, ttl-int64(rand.Float64()*c.config.Jitter*float64(ttl)))
}

// offer returns what goes with a value that is set at a time, with a time to live.
func (c *Cache[K, V]) offer(now, ttl int64, weight uint32) offer {
	o := offer{ttl: ttl, weight: weight, deadline: sum(now, c.jittered(ttl))}
	latest := int64(never)
	if c.config.MaxLifetime > 0 {
		latest = sum(now, int64(c.config.MaxLifetime))
		o.deadline = min(o.deadline, latest)
	}
	if o.latest = o.deadline; c.spec.moving {
		o.latest = latest
	}
	return o
}

// getLocked is Get under the lock for writing. It takes out the entry if it is dead.
func (c *Cache[K, V]) getLocked(h uint64, k K) (v V, ok bool) {
	s := c.of(h)
	out := c.departures(s)
	v, ok = c.getLocal(s, h, k, out)
	c.report(s, out)
	return v, ok
}

// getLocal is getLocked up to the report.
func (c *Cache[K, V]) getLocal(s *shard[K, V], h uint64, k K, out *departures[K, V]) (v V, ok bool) {
	s.lockAll()
	n := c.findLocked(s, h, k, out)
	if n != 0 && c.use(s, n) {
		s.core.hits++
		s.core.arena.Promote(n)
		v, ok = s.core.arena.Value(n).value, true
	} else {
		s.core.misses++
	}
	s.lock.Unlock()
	return v, ok
}

// findLocked returns the node of k, which is not dead, or 0. Where something is due, it
// takes out some of what has expired, and k if it has.
func (c *Cache[K, V]) findLocked(s *shard[K, V], h uint64, k K, out *departures[K, V]) uint32 {
	if !c.ahead(s.core.wheel.due) {
		now := c.clock.Now()
		s.core.expire(now, step, out)
		return s.core.find(uint32(h), k, now, out)
	}
	return s.core.arena.Find(uint32(h), k)
}

// Lookup returns what the cache knows of k: a value that is fresh or stale, and in both
// cases for how long it will still be so, or that the key is known not to exist, and for how
// long; Forever if that does not end. It changes nothing. Complexity: O(1).
func (c *Cache[K, V]) Lookup(k K) (v V, state State, remaining time.Duration) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	r := s.lock.TryRLock()
	if r == nil {
		s.lockAll()
	}
	now := c.clock.Now()
	n := s.core.arena.Find(uint32(h), k)
	if n != 0 {
		deadline := s.core.deadline(n)
		dead := sum(deadline, c.spec.window)
		switch {
		case deadline > now:
			v, state, remaining = s.core.arena.Value(n).value, Fresh, until(deadline, now)
		case dead > now:
			v, state, remaining = s.core.arena.Value(n).value, Stale, until(dead, now)
		}
	}
	if r == nil {
		s.lock.Unlock()
	} else {
		r.RUnlock()
	}
	if state == Absent && c.negatives != nil {
		if at := c.negatives.deadline(h, k); at > now {
			return v, Negative, until(at, now)
		}
	}
	return v, state, remaining
}

// until returns the duration from now to a time.
func until(at, now int64) time.Duration {
	if at == never {
		return Forever
	}
	return time.Duration(at - now)
}

// Peek returns the value under k, and whether there is a fresh one. Unlike Get, it changes
// nothing: neither the order, nor a time to live, nor the statistics. Complexity: O(1).
func (c *Cache[K, V]) Peek(k K) (v V, ok bool) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.of(h)
	r := s.lock.TryRLock()
	if r == nil {
		s.lockAll()
	}
	if n := s.core.arena.Find(uint32(h), k); n != 0 && c.ahead(s.core.deadline(n)) {
		v, ok = s.core.arena.Value(n).value, true
	}
	if r == nil {
		s.lock.Unlock()
	} else {
		r.RUnlock()
	}
	return v, ok
}

// Contains reports whether there is a fresh value under k. It changes nothing.
// Complexity: O(1).
func (c *Cache[K, V]) Contains(k K) bool {
	_, ok := c.Peek(k)
	return ok
}

// Set stores v under k, in place of what was there, with the cache's time to live, and makes the
// entry the most recently used. If there is no room, what has expired leaves, or else what
// was not used for longest. A load for k that is under way does not overwrite it.
//
// Where there is a Store or a second level, Set writes to these first, as Config.WriteMode says,
// and ctx is for that. If it returns an error, the entry is not left as it was but removed,
// except for errors that come before anything was done: of ctx, while it waits for its turn,
// and ErrClosed.
//
// Only with a Weigher can a value be refused, when it weighs more than its shard's part of the
// capacity: then a value that k had before is removed, so that a stale value does not outlive
// a failed update. Set returns ErrTooHeavy, unless the value was written to a Store.
//
// Complexity: O(1), amortised while the cache still grows, and for each entry that leaves.
func (c *Cache[K, V]) Set(ctx context.Context, k K, v V) error {
	return c.set(ctx, k, v, c.spec.ttl)
}

// SetTTL is Set with another time to live: 0 is the cache's, Forever none.
func (c *Cache[K, V]) SetTTL(ctx context.Context, k K, v V, ttl time.Duration) error {
	if ttl < 0 {
		return fmt.Errorf("ttlcache: SetTTL: ttl must be at least 0, got %v", ttl)
	}
	return c.set(ctx, k, v, c.config.ttlOf(ttl))
}

func (c *Cache[K, V]) set(ctx context.Context, k K, v V, ttl int64) error {
	w := c.config.weigh(k, v)
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	if c.slow {
		return c.writeThrough(ctx, h, Write[K, V]{Key: k, Value: v}, ttl, w)
	}
	if c.life.closed.Load() {
		return ErrClosed
	}
	if c.spec.plain && ttl == c.spec.ttl {
		c.setPlain(h, k, v)
		return nil
	}
	now := c.now(ttl)
	if !c.setLocal(h, k, v, c.offer(now, ttl, w), now) {
		return ErrTooHeavy
	}
	return nil
}

// setPlain is setLocal for an entry that is nothing but a value and the cache's time to live,
// as most are. In a full cache in which nothing is due, it does what setLocal does without its
// calls, which would be a fifth of the time.
func (c *Cache[K, V]) setPlain(h uint64, k K, v V) {
	ttl := c.spec.ttl
	now := c.now(ttl)
	deadline := sum(now, ttl)
	if c.config.Jitter > 0 {
		deadline = sum(now, c.jittered(ttl))
	}
	s := &c.shards[uint32(h>>32)&uint32(len(c.shards)-1)]
	if s.lock.Lock() {
		s.tidy()
	}
	core := &s.core
	if now+int64(clock.Margin) < core.wheel.due && uint64(core.arena.Len()) == core.capacity && core.plain() &&
		core.arena.Find(uint32(h), k) == 0 {
		s.flights.Overtake(k)
		if c.negatives != nil {
			c.negatives.delete(h, k)
		}
		core.replaceLast(uint32(h), k, v, deadline)
	} else {
		c.setLocked(s, h, k, v, offer{ttl: ttl, deadline: deadline, latest: deadline, weight: 1}, now, nil)
	}
	s.lock.Unlock()
}

// setLocal is Set in this level alone. It reports whether the value was not refused.
func (c *Cache[K, V]) setLocal(h uint64, k K, v V, o offer, now int64) (stored bool) {
	s := c.lockFor(h)
	out := c.departures(s)
	stored = c.setLocked(s, h, k, v, o, now, out)
	s.lock.Unlock()
	c.report(s, out)
	return stored
}

// setLocked is setLocal for who has locked the shard.
func (c *Cache[K, V]) setLocked(s *shard[K, V], h uint64, k K, v V, o offer, now int64, out *departures[K, V]) (stored bool) {
	s.flights.Overtake(k)
	if c.negatives != nil {
		c.negatives.delete(h, k)
	}
	// now may be late. If it could be that something is due, it must not be.
	if now+int64(clock.Margin) >= s.core.wheel.due {
		now = c.clock.Now()
	}
	return s.core.set(uint32(h), k, v, o, now, out)
}

// SetIfAbsent returns the value under k, if there is a fresh one, as Get does, and loaded is
// true. Else it stores v, as Set does, and returns it. What counts is this cache, not a
// Store or a second level behind it. Complexity: as Set.
func (c *Cache[K, V]) SetIfAbsent(ctx context.Context, k K, v V) (actual V, loaded bool, err error) {
	w := c.config.weigh(k, v)
	actual, _, err = c.compute(ctx, k, func(old V, ok bool) (V, uint32, Op) {
		if loaded = ok; ok {
			return old, 0, OpKeep
		}
		return v, w, OpSet
	})
	if !loaded && err == nil {
		actual = v
	}
	return actual, loaded, err
}

// Compute calls f with the fresh value under k, or with the zero value and false, and does
// what f returns, as Set with the cache's time to live and Delete do, in one step that nothing
// else on k comes between. It returns the value that is then under k, and whether there is one.
// It counts as a look-up, and a use of the entry.
//
// Other than all other functions that the cache is given, f, and the Weigher on what
// f returns, run under a lock: they must be quick, and must not call the cache, which
// would deadlock. If one of them panics, nothing changes.
//
// Complexity: as Set, beside f.
func (c *Cache[K, V]) Compute(ctx context.Context, k K, f func(old V, ok bool) (V, Op)) (V, bool, error) {
	return c.compute(ctx, k, func(old V, ok bool) (V, uint32, Op) {
		v, op := f(old, ok)
		switch op {
		case OpKeep, OpDelete:
			return v, 0, op
		case OpSet:
			return v, c.config.weigh(k, v), op
		}
		panic("ttlcache: Compute: the function returned an unknown Op")
	})
}

func (c *Cache[K, V]) compute(ctx context.Context, k K, f func(V, bool) (V, uint32, Op)) (V, bool, error) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	if c.slow {
		return c.computeThrough(ctx, h, k, f)
	}
	if c.life.closed.Load() {
		var none V
		return none, false, ErrClosed
	}
	s := c.of(h)
	out := c.departures(s)
	defer c.report(s, out) // also if f panics
	return c.computeLocal(s, h, k, f, out)
}

// computeLocal is compute up to the report, which must come after the unlocking.
func (c *Cache[K, V]) computeLocal(s *shard[K, V], h uint64, k K, f func(V, bool) (V, uint32, Op), out *departures[K, V]) (v V, ok bool, err error) {
	s.lockAll()
	defer s.lock.Unlock()
	n := c.findLocked(s, h, k, out)
	fresh := n != 0 && c.ahead(s.core.deadline(n))
	var old V
	if fresh {
		old = s.core.arena.Value(n).value
	}
	v, w, op := f(old, fresh)
	if fresh {
		s.core.hits++
	} else {
		s.core.misses++
	}
	switch {
	case op == OpSet:
		now := c.now(c.spec.ttl)
		if c.setLocked(s, h, k, v, c.offer(now, c.spec.ttl, w), now, out) {
			return v, true, nil
		}
		var none V
		return none, false, ErrTooHeavy
	case op == OpDelete:
		s.flights.Overtake(k)
		if c.negatives != nil {
			c.negatives.delete(h, k)
		}
		if n != 0 {
			s.core.remove(n, Deleted, out)
		}
	case fresh:
		c.use(s, n)
		s.core.arena.Promote(n)
		return old, true, nil
	}
	var none V
	return none, false, nil
}

// Delete removes the value under k, from the Store and the second level too, as Set writes to
// them. A load for k that is under way is not kept. If it returns an error, the value is not
// in this cache any more, but may be elsewhere, except for errors that come before anything
// was done: of ctx, while it waits for its turn, and ErrClosed. Complexity: O(1).
func (c *Cache[K, V]) Delete(ctx context.Context, k K) error {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	if c.slow {
		return c.writeThrough(ctx, h, Write[K, V]{Key: k, Deleted: true}, 0, 0)
	}
	if c.life.closed.Load() {
		return ErrClosed
	}
	out := c.newDepartures()
	c.dropLocal(h, k, out)
	c.reportAll(out)
	return nil
}

// Invalidate removes what this cache knows of k, that it does not exist included, but not what is
// in the Store or the second level: for who has changed it there himself. A load for k that
// is under way is not kept. Complexity: O(1).
func (c *Cache[K, V]) Invalidate(k K) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	out := c.newDepartures()
	c.dropLocal(h, k, out)
	c.reportAll(out)
}

// dropLocal removes the value under k from this level, and what is known of its not being there.
func (c *Cache[K, V]) dropLocal(h uint64, k K, out *departures[K, V]) {
	s := c.lockFor(h)
	s.flights.Overtake(k)
	delete(s.writes, k)
	if c.negatives != nil {
		c.negatives.delete(h, k)
	}
	if n := c.findLocked(s, h, k, out); n != 0 {
		s.core.remove(n, Deleted, out)
	}
	s.lock.Unlock()
}

// Touch begins the time to live of the value under k anew, if there is a fresh one, and
// reports whether there is. It does not change the order. Complexity: O(1).
func (c *Cache[K, V]) Touch(k K) bool {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	s := c.lockFor(h)
	defer s.lock.Unlock()
	n := s.core.arena.Find(uint32(h), k)
	if n == 0 {
		return false
	}
	deadline := s.core.deadline(n)
	if !c.ahead(deadline) {
		return false
	}
	if c.spec.moving {
		c.slide(s, n, deadline)
	} else {
		// The wheel finds the entry when it would have been dead, and puts it off.
		ttl := s.core.ttl(n)
		s.core.arena.Value(n).deadline = max(deadline, sum(c.now(ttl), c.jittered(ttl)))
	}
	return true
}

// Clear removes all entries, and forgets which keys do not exist, in this level alone; loads that
// are under way are not kept. An entry that another goroutine sets meanwhile may stay.
// The memory is kept for other entries, and the statistics go on. Complexity: O(Cap).
func (c *Cache[K, V]) Clear() {
	now := c.clock.Now()
	if c.negatives != nil {
		defer c.negatives.clear()
	}
	c.each(func(s *shard[K, V], out *departures[K, V]) {
		s.flights.OvertakeAll()
		clear(s.writes)
		s.core.clear(now, out)
	})
}

// DeleteExpired takes out up to max entries that have expired, and returns how many it has
// taken out. Nobody needs to call it: what has expired is never returned, and leaves before
// what has not. It is for a cache that is not used for long, whose memory should be given
// back. It holds no lock for long. Complexity: O(shards), and O(1) for each entry.
func (c *Cache[K, V]) DeleteExpired(max int) (deleted int) {
	now := c.clock.Now()
	for i := range c.shards {
		s := &c.shards[i]
		for deleted < max {
			n, done := c.expireSome(s, now, min(leap, max-deleted))
			if deleted += n; done {
				break
			}
		}
	}
	if c.negatives != nil {
		c.negatives.expire(now)
	}
	return deleted
}

// expireSome takes out up to max expired entries of a shard, and reports whether that is all.
func (c *Cache[K, V]) expireSome(s *shard[K, V], now int64, max int) (n int, done bool) {
	s.lockAll()
	out := c.departures(s)
	n = s.core.expire(now, max, out)
	done = now < s.core.wheel.due
	s.lock.Unlock()
	c.report(s, out)
	return n, done
}

// Resize changes the capacity to n, takes out what is over it, what has expired first, and
// returns the number of entries evicted. It returns an error, and changes nothing, if n is not
// a capacity for the number of shards that the cache has. Complexity: O(Cap).
func (c *Cache[K, V]) Resize(n int) (evicted int, err error) {
	if err := c.config.validateCapacity(n, len(c.shards)); err != nil {
		return 0, err
	}
	c.resizing.Lock()
	defer c.resizing.Unlock()
	// At every moment the shards' capacities add up to no more than what Cap says:
	// it grows before they do, and shrinks after them.
	if n > c.Cap() {
		c.capacity.Store(int64(n))
	}
	i := 0
	c.each(func(s *shard[K, V], out *departures[K, V]) {
		evicted += s.core.resize(sharding.Share(n, len(c.shards), i), c.clock.Now(), out)
		i++
	})
	c.capacity.Store(int64(n))
	return evicted, nil
}

// Len returns the number of entries, which is at most Cap: those that are fresh and those that
// are stale. It takes out what has expired before it counts, and locks each shard for a
// moment, also against readers, as Weight, Stats and Clear do.
// Complexity: O(shards), and O(1) for each entry that has expired.
func (c *Cache[K, V]) Len() int {
	c.DeleteExpired(math.MaxInt)
	n := 0
	c.each(func(s *shard[K, V], _ *departures[K, V]) { n += s.core.arena.Len() })
	return n
}

// Weight returns the sum of the weights of the entries; without a Weigher it is Len.
// Complexity: as Len.
func (c *Cache[K, V]) Weight() int {
	c.DeleteExpired(math.MaxInt)
	n := uint64(0)
	c.each(func(s *shard[K, V], _ *departures[K, V]) { n += s.core.held() })
	return int(n)
}

// Cap returns the capacity: Config.Capacity, or what Resize made of it.
func (c *Cache[K, V]) Cap() int { return int(c.capacity.Load()) }

// Shards returns the number of shards. With a Weigher, no value that weighs more than
// Cap / Shards, or one unit more in some of them, is stored.
func (c *Cache[K, V]) Shards() int { return len(c.shards) }

// All returns an iterator over the fresh entries, shard by shard, in each the most recently
// used first. It takes the entries of a shard as they are when the loop comes to that shard,
// and copies them, so the body may call the cache, and may see an entry that has left
// the cache in the meantime. No key comes twice, and none that stays is missed. Nothing changes
// in the cache. Complexity: O(Len) time, O(Len / shards) memory.
func (c *Cache[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var entries []entry[K, V]
		for i := range c.shards {
			s := &c.shards[i]
			s.lockAll()
			entries = s.core.appendFresh(entries[:0], c.clock.Now())
			s.lock.Unlock()
			for _, e := range entries {
				if !yield(e.key, e.value) {
					return
				}
			}
		}
	}
}

// Keys returns an iterator over the keys, in the order and with the guarantees of All.
func (c *Cache[K, V]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range c.All() {
			if !yield(k) {
				return
			}
		}
	}
}
