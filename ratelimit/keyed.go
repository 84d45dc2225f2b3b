package ratelimit

import (
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"runtime"
	"sync/atomic"

	"github.com/sysblocks/sysblocks/internal/sharding"
)

// A KeyedConfig configures a Keyed.
type KeyedConfig struct {
	_ struct{}

	// MaxKeys is the number of keys that there is room for, from 1 to 2^31-1. Required. Memory is taken as
	// it is needed; with HashKeys it is 21 to 32 bytes for each key, in tables that are 1/2 to 3/4 full;
	// without, the size of K comes to the 16 bytes of an entry. Besides, shards take about half a byte for
	// each of MaxKeys from the beginning, with eight CPUs.
	MaxKeys int
	// OnFull says what happens to a new key when there are MaxKeys others, and none of those of its shard
	// that are looked at has ended to be in debt: 16 with DropLeast, all with the others. The zero
	// value is DropLeast.
	OnFull OnFull
	// Shards is the number of parts with a lock of their own, among which keys are divided by hash; it
	// is rounded up to a power of two, but no more than one for each 64 of MaxKeys. 0: as many as the
	// CPUs can use. All, Clear, and now and then a call that finds a shard full (with other than DropLeast,
	// up to once for each new key), lock one shard for as long as it takes to go through it.
	Shards int
	// HashKeys stores 64-bit hashes in place of keys, with a random seed. That takes 32 bytes a key at most,
	// whatever K is, and nothing of what keys point to is kept alive. In return All is not
	// there, and two keys that have the same hash share their tokens: among a million keys there are two
	// with a probability of 1 in 37 million.
	HashKeys bool
}

// An OnFull is what a Keyed does with a new key when there is no room.
type OnFull uint8

const (
	// DropLeast forgets, of some keys, the one that is nearest to having all its tokens: that key gets
	// them back early. With a Burst of 2 or more, those who have used up all are not forgotten because
	// somebody sends one request under each of many keys; with a Burst of 1 nothing tells them
	// apart, and the oldest is forgotten first.
	DropLeast OnFull = iota
	// RefuseNew refuses what is asked for new keys. RetryAfter, NextToken and ResetAfter are then the
	// time until the first place is free in the shard of the key.
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
// new keys included, but one that finds the table of a shard too full of keys in debt.
//
// A Keyed is safe for concurrent use by multiple goroutines, and linearizable for each key. As long as
// none is dropped or turned away (see Stats), what it allows for each key is exactly what a Bucket would.
// The zero value cannot be used.
type Keyed[K comparable] struct {
	seed   maphash.Seed
	mask   uint64                     // all ones; the tests clear bits of it to make hashes collide
	shift  uint8                      // the units of limit, and of all others
	limit  atomic.Pointer[keyedLimit] // of those who name none
	stored *debts[K]                  // nil with HashKeys
	hashed *debts[struct{}]           // with HashKeys
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
	x := &Keyed[K]{seed: maphash.MakeSeed(), mask: ^uint64(0), shift: r.shift}
	x.limit.Store(&keyedLimit{r, l, l.constant()})
	n := sharding.Default(runtime.GOMAXPROCS(0), config.MaxKeys, minPerShard, maxPerShard)
	if config.Shards > 0 {
		n = min(sharding.Asked(config.Shards, config.MaxKeys), sharding.FloorPow2(max(1, config.MaxKeys/minAsked)))
	}
	if config.HashKeys {
		x.hashed = newDebts[struct{}](config, r.shift, n)
	} else {
		x.stored = newDebts[K](config, r.shift, n)
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
// holds an interface and what is in it cannot be compared, unless the limit is Unlimited or None.
// Complexity: O(1) on average.
func (x *Keyed[K]) Take(k K, n int64) Result { return x.take(k, x.limit.Load(), n, true) }

// Peek reports whether Take would take n tokens of k, or when; the rest is as it is now.
func (x *Keyed[K]) Peek(k K, n int64) Result { return x.take(k, x.limit.Load(), n, false) }

// TakeLimit is Take with another limit: of the tenant's plan, of the kind of request. It returns an
// error that wraps ErrLimit if the limit is not valid, or cannot be counted in the units of that of
// NewKeyed: nanoseconds, which express up to ten million a second within 1 %, and some rates beyond
// exactly; if that one needs finer units, slow limits with a large burst are too long for them.
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
	switch {
	case l.constant:
		return l.limit.always(n)
	case x.hashed != nil:
		return x.hashed.take(x.hash(k), struct{}{}, l, n, debit)
	}
	return x.stored.take(x.hash(k), k, l, n, debit)
}

// Delete forgets what k owes, and reports whether it was there.
func (x *Keyed[K]) Delete(k K) bool {
	if x.hashed != nil {
		return x.hashed.delete(x.hash(k), struct{}{})
	}
	return x.stored.delete(x.hash(k), k)
}

// Clear forgets all keys, and keeps the memory for others. Complexity: O(MaxKeys).
func (x *Keyed[K]) Clear() {
	if x.hashed != nil {
		x.hashed.clear()
	} else {
		x.stored.clear()
	}
}

// Len returns the number of keys that have an entry: at most MaxKeys, and at least as many as are in
// debt. Those that are not any more are counted until another takes their place. Complexity: O(1).
func (x *Keyed[K]) Len() int {
	if x.hashed != nil {
		return int(x.hashed.used.Load())
	}
	return int(x.stored.used.Load())
}

// Cap returns MaxKeys.
func (x *Keyed[K]) Cap() int {
	if x.hashed != nil {
		return int(x.hashed.max)
	}
	return int(x.stored.max)
}

// All returns the keys that are in debt, and what Peek(k, 0) says of them, in no order. It sees each
// shard as it is at one moment; what is changed meanwhile may be seen or not. It panics if keys are
// not stored (HashKeys).
func (x *Keyed[K]) All() iter.Seq2[K, Result] {
	if x.stored == nil {
		panic("ratelimit: All of a Keyed with HashKeys, which stores no keys")
	}
	return func(yield func(K, Result) bool) {
		for k, owes := range x.stored.all {
			l := x.limit.Load()
			r := l.limit.always(0)
			if !l.constant {
				r = l.result(owes, 0, 0, 0)
			}
			if !yield(k, r) {
				return
			}
		}
	}
}

// KeyedStats counts what has happened to a Keyed since it was made.
type KeyedStats struct {
	Dropped    uint64 // keys that were forgotten while in debt, by DropLeast
	TurnedAway uint64 // calls that RefuseNew refused, or ShareOverflow put in the shared bucket, for lack of room
}

// Stats returns what has happened. If either number grows, MaxKeys is too small, or under attack: with
// DropLeast it begins to when about two thirds of MaxKeys are in debt.
func (x *Keyed[K]) Stats() KeyedStats {
	if x.hashed != nil {
		return x.hashed.stats()
	}
	return x.stored.stats()
}
