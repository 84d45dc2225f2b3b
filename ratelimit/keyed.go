package ratelimit

import (
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/sharding"
)

// A KeyedConfig configures a Keyed.
type KeyedConfig struct {
	_ struct{}

	// MaxKeys is the number of keys that there is room for, from 1 to 2^31-1. Required. Memory is taken as
	// it is needed; with HashKeys it is between 21 and 43 bytes for each key, without it comes to as
	// much, and the size of K, twice.
	MaxKeys int
	// OnFull says what happens to a new key when MaxKeys others are in debt. The zero value is DropLeast.
	OnFull OnFull
	// Shards is the number of parts with a lock of their own, among which keys are divided by hash; it
	// is rounded up to a power of two, at most MaxKeys. 0: as many as the CPUs can use.
	Shards int
	// HashKeys stores 64-bit hashes in place of keys, with a random seed. That takes no more than 43 bytes a
	// key, whatever K is, and nothing of what keys point to is kept alive. In return All is not
	// there, and two keys that have the same hash share their tokens: among a million keys there are two
	// with a probability of 1 in 37 million.
	HashKeys bool
}

// An OnFull is what a Keyed does with a new key when there is no room.
type OnFull uint8

const (
	// DropLeast forgets, of some keys, the one that is nearest to having all its tokens: so that key gets
	// back what it would have got a little later anyway. Those who send many requests under one key are
	// not forgotten because somebody sends one request under each of many.
	DropLeast OnFull = iota
	// RefuseNew refuses what is asked for new keys. RetryAfter is then when the first place is free, of
	// those that were looked at.
	RefuseNew
	// ShareOverflow lets all new keys share one bucket of the same limit.
	ShareOverflow
)

// String returns the name of the constant.
func (o OnFull) String() string {
	switch o {
	case DropLeast:
		return "DropLeast"
	case RefuseNew:
		return "RefuseNew"
	case ShareOverflow:
		return "ShareOverflow"
	}
	return fmt.Sprintf("OnFull(%d)", uint8(o))
}

// A Keyed has a token bucket for each key, as Bucket is one: for each client, tenant, or address.
//
// There is nothing to sweep, and nothing to close: a key that has all its tokens is no different from
// one that has never been seen, and its place is for the next one that needs it. No call allocates,
// new keys included, but for tables that double as keys become more, until there are MaxKeys.
//
// A Keyed is safe for concurrent use by multiple goroutines, and linearizable for each key. As long as
// there is room, what it allows for each key is exactly what a Bucket would. The zero value cannot
// be used.
type Keyed[K comparable] struct {
	seed   maphash.Seed
	mask   uint64 // all ones; the tests clear bits of it to make hashes collide
	base   time.Time
	shift  uint8 // units, of this limit and all others
	onFull OnFull
	hashed bool
	max    int64

	limit  atomic.Pointer[keyedLimit]
	shards []shard[K]
	which  uint // a hash shifted by so much is its shard

	_        [64]byte     // what follows is written by all who come with a new key
	used     atomic.Int64 // entries in all shards, at most max
	overflow shard[K]
}

// A keyedLimit is a limit in units.
type keyedLimit struct {
	rate
	limit    Limit
	constant bool
}

// NewKeyed returns a Keyed with the limit l for each key. It returns an error if the limit is not
// valid (ErrLimit), or a field of the KeyedConfig.
func NewKeyed[K comparable](l Limit, config KeyedConfig) (*Keyed[K], error) {
	switch {
	case config.MaxKeys < 1 || config.MaxKeys > math.MaxInt32:
		return nil, fmt.Errorf("ratelimit: MaxKeys must be between 1 and %d, got %d", math.MaxInt32, config.MaxKeys)
	case config.OnFull > ShareOverflow:
		return nil, fmt.Errorf("ratelimit: OnFull must be DropLeast, RefuseNew or ShareOverflow, got %v", config.OnFull)
	case config.Shards < 0 || config.Shards > sharding.Max:
		return nil, fmt.Errorf("ratelimit: Shards must be between 0 and %d, got %d", sharding.Max, config.Shards)
	}
	r, err := l.rate()
	if err != nil {
		return nil, err
	}
	procs := runtime.GOMAXPROCS(0)
	n := sharding.Default(procs, config.MaxKeys, minPerShard, maxPerShard)
	if config.Shards > 0 {
		n = sharding.Asked(config.Shards, config.MaxKeys)
	}
	x := &Keyed[K]{
		seed: maphash.MakeSeed(), mask: ^uint64(0), base: time.Now(), shift: r.shift, onFull: config.OnFull,
		hashed: config.HashKeys, max: int64(config.MaxKeys), shards: make([]shard[K], n),
		which: uint(64 - bits.Len(uint(n-1))),
	}
	x.limit.Store(&keyedLimit{r, l, l.constant()})
	stripes := sharding.Stripes(procs, config.MaxKeys/n/minPerStripe)
	for i := range x.shards {
		x.shards[i].init(stripes, r.shift, !config.HashKeys)
	}
	if config.OnFull == ShareOverflow {
		x.overflow.init(sharding.Stripes(procs, math.MaxInt), r.shift, false)
		x.overflow.cells[0].hash = 1
	}
	return x, nil
}

// in returns l in the units of x.
func (x *Keyed[K]) in(l Limit) (keyedLimit, error) {
	if l.constant() {
		return keyedLimit{limit: l, constant: true}, nil
	}
	if err := l.check(); err != nil {
		return keyedLimit{}, err
	}
	r, fit := l.at(x.shift)
	if fit != fits {
		return keyedLimit{}, fmt.Errorf("%w: %v cannot be counted in the units of this Keyed, which are nanoseconds / 2^%d", ErrLimit, l, x.shift)
	}
	return keyedLimit{rate: r, limit: l}, nil
}

// hash returns the hash of k; never 0, which is that of no key.
func (x *Keyed[K]) hash(k K) uint64 {
	return max(1, maphash.Comparable(x.seed, k)&x.mask)
}

// Allow takes one token of k, and reports whether there was one.
func (x *Keyed[K]) Allow(k K) bool { return x.take(k, x.limit.Load(), 1, true).OK() }

// Take takes n tokens of k, if there are as many; otherwise none. It panics, as a map does, if K is or
// holds an interface and what is in it cannot be compared. Complexity: O(1) on average.
func (x *Keyed[K]) Take(k K, n int64) Result { return x.take(k, x.limit.Load(), n, true) }

// Peek reports whether Take would take n tokens of k, or when; the rest is as it is now.
func (x *Keyed[K]) Peek(k K, n int64) Result { return x.take(k, x.limit.Load(), n, false) }

// TakeLimit is Take with another limit: of the tenant's plan, of the kind of request. It returns an
// error that wraps ErrLimit if the limit is not valid, or needs other units than that of NewKeyed:
// nanoseconds, unless that one is faster than ten million a second.
//
// What a key owes is time, until it has all its tokens, whichever limit it was taken by. So if limits
// take turns, what is allowed by each keeps to it, and what is taken by one is missing from the
// others: a token of a limit of one an hour keeps the key busy for an hour under any limit. Who is
// given a faster limit for good starts afresh with Delete.
func (x *Keyed[K]) TakeLimit(k K, l Limit, n int64) (Result, error) {
	r, err := x.in(l)
	if err != nil {
		return Result{}, err
	}
	return x.take(k, &r, n, true), nil
}

// PeekLimit is Peek with another limit, as TakeLimit is Take.
func (x *Keyed[K]) PeekLimit(k K, l Limit, n int64) (Result, error) {
	r, err := x.in(l)
	if err != nil {
		return Result{}, err
	}
	return x.take(k, &r, n, false), nil
}

// Limit returns the limit of each key.
func (x *Keyed[K]) Limit() Limit { return x.limit.Load().limit }

// SetLimit changes the limit. What keys owe, they go on owing as in TakeLimit. It returns an error, and
// changes nothing, if the limit is not valid or needs other units, as TakeLimit does.
func (x *Keyed[K]) SetLimit(l Limit) error {
	r, err := x.in(l)
	if err != nil {
		return err
	}
	x.limit.Store(&r)
	return nil
}

func (x *Keyed[K]) take(k K, l *keyedLimit, n int64, debit bool) Result {
	if l.constant {
		return l.limit.always(n)
	}
	h := x.hash(k)
	s := &x.shards[h>>x.which]
	d := time.Since(x.base)
	if lock := s.lock.TryRLock(); lock != nil {
		if uint64(d-s.origin) <= uint64(s.horizon) {
			now := int64(d-s.origin) << s.shift
			if i := s.find(h, k); i >= 0 {
				r, _ := l.decide(&s.cells[i].tat, now, n, debit)
				lock.RUnlock()
				return r
			}
			if !debit && (x.onFull == DropLeast || x.used.Load() < x.max) {
				lock.RUnlock()
				return l.untouched(now, n)
			}
		}
		lock.RUnlock()
	}
	// What is not to be taken, or cannot be, gives an absent key no place.
	return x.takeSlow(s, h, k, l, d, n, debit && n > 0 && n <= l.burst)
}

// takeSlow is take for who found no entry, or the lock taken.
func (x *Keyed[K]) takeSlow(s *shard[K], h uint64, k K, l *keyedLimit, d time.Duration, n int64, debit bool) Result {
	for {
		s.lock.Lock()
		now := s.now(d)
		i, reuse := s.locate(h, k, now)
		if i >= 0 {
			r, _ := l.decide(&s.cells[i].tat, now, n, debit)
			s.lock.Unlock()
			return r
		}
		var wait int64 // until there is room
		switch {
		case !debit:
			wait = x.waitForRoom(s, reuse, now)
		case reuse >= 0:
			i = reuse
			s.put(i, h, k)
		default:
			i, wait = x.insert(s, h, k, now)
		}
		if i >= 0 {
			// A bucket that was full.
			tat := now + n*l.inc
			s.cells[i].tat.Store(tat)
			s.lock.Unlock()
			return l.result(tat, now, n, 0)
		}
		s.lock.Unlock()
		if wait == elsewhere {
			wait = x.lookElsewhere(s, d, debit)
			if debit && wait == 0 {
				continue
			}
		}
		if wait == 0 { // so it is only asked
			return l.untouched(now, n)
		}
		if debit {
			s.turnedAway.Add(1)
		}
		if x.onFull == ShareOverflow {
			return x.takeOverflow(l, d, n, debit)
		}
		t := l.duration(wait)
		r := Result{Limit: l.burst, RetryAfter: t, ResetAfter: t, NextToken: t}
		switch {
		case n == 0:
			r.RetryAfter = 0
		case n < 0 || n > l.burst:
			r.RetryAfter = Never
		}
		return r
	}
}

// untouched is what Peek says of a key that is not there.
func (l *keyedLimit) untouched(now, n int64) Result {
	var past atomic.Int64
	r, _ := l.decide(&past, now, n, false)
	return r
}

// elsewhere, in place of a wait, is that all entries are in other shards.
const elsewhere = -1

// insert makes room for k in s, which is locked, and puts it there. If there is none, i is negative and
// wait is how long there will not be any, or elsewhere.
func (x *Keyed[K]) insert(s *shard[K], h uint64, k K, now int64) (i int, wait int64) {
	if !x.reserve() {
		v, next := s.least(x.look(s, h))
		if v < 0 {
			return -1, elsewhere
		}
		s.cursor = next
		owes := s.cells[v].tat.Load() - now
		if owes > 0 && x.onFull != DropLeast {
			return -1, owes
		}
		s.drop(v, owes)
	} else if s.crowded() {
		if v, _ := s.least(int(h)); s.cells[v].tat.Load() <= now {
			s.drop(v, 0)
			x.used.Add(-1)
		} else {
			x.used.Add(-int64(s.grow(now)))
		}
	}
	i = s.empty(h)
	s.put(i, h, k)
	s.len++
	return i, 0
}

// look returns where to look for room for a key with hash h. If one of those there must go, it may be
// there where h has been looked for, which is in the CPU's cache; otherwise those who ask again are to
// get to see all.
func (x *Keyed[K]) look(s *shard[K], h uint64) int {
	if x.onFull == DropLeast {
		return int(h)
	}
	return s.cursor
}

// reserve counts one more entry, unless there are MaxKeys.
func (x *Keyed[K]) reserve() bool {
	for {
		n := x.used.Load()
		if n >= x.max {
			return false
		}
		if x.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// waitForRoom returns the wait that insert would, and changes nothing. With DropLeast there is none.
func (x *Keyed[K]) waitForRoom(s *shard[K], reuse int, now int64) int64 {
	if x.onFull == DropLeast || reuse >= 0 || x.used.Load() < x.max {
		return 0
	}
	v, _ := s.least(s.cursor)
	if v < 0 {
		return elsewhere
	}
	return max(0, s.cells[v].tat.Load()-now)
}

// lookElsewhere makes room in the next shard after s that has an entry, or only looks if debit is
// false, and returns 0; or how long there will not be any.
func (x *Keyed[K]) lookElsewhere(s *shard[K], d time.Duration, debit bool) (wait int64) {
	from := 0
	for &x.shards[from] != s {
		from++
	}
	for i := range x.shards {
		s := &x.shards[(from+i)%len(x.shards)]
		s.lock.Lock()
		if s.len == 0 {
			s.lock.Unlock()
			continue
		}
		now := s.now(d)
		v, next := s.least(s.cursor)
		owes := s.cells[v].tat.Load() - now
		if debit {
			s.cursor = next
			if owes <= 0 || x.onFull == DropLeast {
				s.drop(v, owes)
				x.used.Add(-1)
			}
		}
		s.lock.Unlock()
		if x.onFull == DropLeast {
			return 0
		}
		return max(0, owes)
	}
	return 0 // all have been deleted meanwhile
}

// takeOverflow is take for all that have no place.
func (x *Keyed[K]) takeOverflow(l *keyedLimit, d time.Duration, n int64, debit bool) Result {
	s := &x.overflow
	if lock := s.lock.TryRLock(); lock != nil {
		if uint64(d-s.origin) <= uint64(s.horizon) {
			r, _ := l.decide(&s.cells[0].tat, int64(d-s.origin)<<s.shift, n, debit)
			lock.RUnlock()
			return r
		}
		lock.RUnlock()
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	r, _ := l.decide(&s.cells[0].tat, s.now(d), n, debit)
	return r
}

// Delete forgets what k owes, and reports whether it was there.
func (x *Keyed[K]) Delete(k K) bool {
	h := x.hash(k)
	s := &x.shards[h>>x.which]
	s.lock.Lock()
	defer s.lock.Unlock()
	i := s.find(h, k)
	if i < 0 {
		return false
	}
	s.remove(i)
	x.used.Add(-1)
	return true
}

// Clear forgets all keys, and keeps the memory for others. Complexity: O(MaxKeys).
func (x *Keyed[K]) Clear() {
	for i := range x.shards {
		s := &x.shards[i]
		s.lock.Lock()
		x.used.Add(-int64(s.len))
		s.clear()
		s.lock.Unlock()
	}
	if x.onFull == ShareOverflow {
		x.overflow.lock.Lock()
		x.overflow.cells[0].tat.Store(0)
		x.overflow.lock.Unlock()
	}
}

// Len returns the number of keys that have an entry: at most MaxKeys, and at least as many as are in
// debt. Those that are not any more are counted until another takes their place. Complexity: O(1).
func (x *Keyed[K]) Len() int { return int(x.used.Load()) }

// Cap returns MaxKeys.
func (x *Keyed[K]) Cap() int { return int(x.max) }

// All returns the keys that are in debt, and what Peek(k, 0) says of them, in no order. It sees each
// shard as it is at one moment; what is changed meanwhile may be seen or not. It panics if keys are
// not stored (HashKeys).
func (x *Keyed[K]) All() iter.Seq2[K, Result] {
	if x.hashed {
		panic("ratelimit: All of a Keyed with HashKeys, which stores no keys")
	}
	type debt struct {
		k   K
		tat int64
	}
	return func(yield func(K, Result) bool) {
		for i := range x.shards {
			s := &x.shards[i]
			s.lock.Lock()
			now := s.now(time.Since(x.base))
			var debts []debt
			for j := range s.cells {
				if c := &s.cells[j]; c.hash != 0 && c.tat.Load() > now {
					debts = append(debts, debt{s.keys[j], c.tat.Load()})
				}
			}
			s.lock.Unlock()
			l := x.limit.Load()
			for _, d := range debts {
				r := l.limit.always(0)
				if !l.constant {
					r = l.result(d.tat, now, 0, 0)
				}
				if !yield(d.k, r) {
					return
				}
			}
		}
	}
}

// KeyedStats counts what has happened to a Keyed since it was made.
type KeyedStats struct {
	Dropped    uint64 // keys that were forgotten while in debt, by DropLeast
	TurnedAway uint64 // calls that RefuseNew refused, or ShareOverflow put in the shared bucket, for lack of room
}

// Stats returns what has happened. If either number grows, MaxKeys is too small, or under attack.
func (x *Keyed[K]) Stats() KeyedStats {
	var sum KeyedStats
	for i := range x.shards {
		s := &x.shards[i]
		s.lock.Lock()
		sum.Dropped += s.dropped
		s.lock.Unlock()
		sum.TurnedAway += s.turnedAway.Load()
	}
	return sum
}
