package ttlcache

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/notfound"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// Forever is a time to live that does not end.
const Forever time.Duration = math.MaxInt64

// ErrNotFound is what a Loader returns, or wraps, for a key that does not exist. It is the
// only error that is remembered, for Config.NegativeTTL. All packages of this module that load
// values export the same error under this name.
var ErrNotFound = notfound.Err

// An Entry is what a Loader returns.
type Entry[V any] struct {
	// Value is the value.
	Value V
	// TTL is the time to live: 0 is the cache's, Forever none; if it is negative, the value is
	// given to those who wait for it, and not kept.
	TTL time.Duration
}

// A Loader loads the value under a key from where it comes from. ctx has the values of the
// caller's context for whom the value is loaded; it ends when nobody waits for the value any
// more, after Config.LoadTimeout, or when Close gives up waiting. A Loader must not ask
// the same cache to load the same key, which would wait for itself.
type Loader[K comparable, V any] func(ctx context.Context, k K) (Entry[V], error)

// A BulkLoader loads the values under several keys, which are distinct. A key that is missing
// in what it returns does not exist, as if a Loader had returned ErrNotFound; if it returns an
// error, that is for all keys.
type BulkLoader[K comparable, V any] func(ctx context.Context, keys []K) (map[K]Entry[V], error)

// A Config says what a cache is to be like. Capacity is required; the zero value of every
// other field is a good default, or turns something off.
type Config[K comparable, V any] struct {
	_ struct{}

	// Capacity is the largest number of entries, at least 1; with a Weigher, the
	// largest sum of their weights.
	Capacity int

	// Weigher returns the weight of an entry, in units of Capacity; 0 counts as 1. Nil:
	// every entry weighs 1. It is called once for each value that is offered, outside any
	// lock (but see Compute). A value that weighs more than its shard's part of the
	// capacity is refused, see Set.
	Weigher func(K, V) uint32

	// Shards is the number of parts with a lock and an order of eviction of their own,
	// among which keys and capacity are divided evenly; it does not change with Resize. 1
	// gives one exact order; other numbers, up to 65536, are rounded up to a power of two;
	// there are never more shards than Capacity. 0 chooses, as in package lru.
	Shards int

	// TTL is the time to live of an entry for which no other is given: 0 or Forever for
	// none. Times to live of 10 s and more may be cut short by 10 ms, because the clock
	// is not read for each Set when there are many.
	TTL time.Duration

	// Sliding makes Get, GetOrLoad and GetOrLoadAll begin the entry's time to live anew,
	// so that an entry expires when it was not used for so long.
	Sliding bool

	// MaxLifetime is the longest time that an entry is fresh after its value was set,
	// whatever its time to live, and however often it is used or touched; 0: no limit.
	MaxLifetime time.Duration

	// Jitter is the share by which each time to live is shortened at the most, from 0 to
	// below 1, each time by another random part of it: 0.1 lets what was set at one
	// instant with a TTL of an hour expire within the last six minutes of it. NegativeTTL
	// is not shortened.
	Jitter float64

	// NegativeTTL is how long it is remembered that a key does not exist; 0: not at all.
	NegativeTTL time.Duration

	// NegativeCapacity is the number of such keys that are remembered. They take no room
	// from the entries. While so many are remembered, further ones are not: a flood
	// of keys that do not exist can push out neither. 0 is Capacity, or 65536 if that is
	// less, or there is a Weigher.
	NegativeCapacity int

	// StaleWhileRevalidate is how long after its time to live an entry is still given to
	// callers of GetOrLoad, while one load in the background replaces it.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long after its time to live an entry is given to callers of
	// GetOrLoad if the load fails, with an error other than ErrNotFound.
	StaleIfError time.Duration

	// RetryDelay is how long after a load has failed for an entry that is still there (to
	// be refreshed, or stale) no other load is tried, and callers are given that entry, as
	// far as the above allows it. 0 is one second.
	RetryDelay time.Duration

	// RefreshAhead is the share of the time to live, between 0 and 1, after which the next
	// GetOrLoad has the entry loaded again in the background, so that nobody waits for keys
	// that are in use. 0: not at all. With Jitter, the share is that of the shortest time
	// to live that an entry may have. With Sliding, what is in use all the time never comes
	// near its end, and is not loaded again before MaxLifetime.
	RefreshAhead float64

	// XFetchBeta turns on probabilistic early expiration (A. Vattani, F. Chierichetti and K.
	// Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015): GetOrLoad
	// has an entry loaded again in the background with a chance that rises as its end comes
	// nearer, the earlier the longer the last load took. 1 is the paper's optimum,
	// more is earlier, 0 turns it off. It spreads the loads of many processes that share
	// a source, which RefreshAhead does not. What came from the second level has taken no time
	// to load, and is not loaded early.
	XFetchBeta float64

	// MaxConcurrentRefresh is the number of loads in the background at one time. What would
	// be more is left out, not queued: the next use of the key tries again. 0 is 16.
	MaxConcurrentRefresh int

	// Loader loads what is not there. Nil: BulkLoader does.
	Loader Loader[K, V]

	// BulkLoader loads several keys at once for GetOrLoadAll. Nil: Loader does, for several
	// keys at one time.
	BulkLoader BulkLoader[K, V]

	// LoadTimeout is how long a load may take, and how long callers wait for one at the
	// most; 0: as long as somebody waits.
	LoadTimeout time.Duration

	// OnRefreshError, if not nil, is called with the error of each load in the background
	// that failed, and with a *PanicError if it panicked. It is called on the
	// goroutine of the load.
	OnRefreshError func(K, error)

	// Store is where writes go to, as WriteMode says. Nil: the caller writes to where values
	// come from himself.
	Store Store[K, V]

	// WriteMode says when writes go to the Store: WriteAround, the default, WriteThrough, or
	// WriteBehind.
	WriteMode WriteMode

	// Batch says how WriteBehind writes. Its zero value is a good default.
	Batch BatchConfig

	// OnWriteError, if not nil, is told of each batch of writes that WriteBehind has given up,
	// with the error; they are then not in the error of Flush or Close. It is called on the
	// goroutine that writes, so it must not write through the cache, which may have to wait
	// for that.
	OnWriteError func([]Write[K, V], error)

	// Next is a second level, such as Redis, shared by many processes: see Tier. Nil: none.
	Next Tier[K, V]

	// TierBacklog is the number of keys that may wait to be invalidated in Next because
	// a write to it failed. 0 is 65536.
	TierBacklog int

	// Janitor, if not 0, makes a goroutine that takes out what has expired so often. Without,
	// it leaves with the calls that come anyway, and a cache that is not used any
	// more keeps what it holds. Close stops it.
	Janitor time.Duration

	// OnRemove, if not nil, is called exactly once for each value that leaves the
	// cache, or was refused entry, with the reason. It runs on the goroutine whose call
	// made the value leave, after that call has taken effect and released its locks (for
	// a value that was loaded, on the load's), so it may call the cache. If it panics, the
	// panic reaches that caller, after OnRemove has been called for the other values that
	// left by the same call; if it panics for these too, their panics are dropped.
	OnRemove func(K, V, Cause)
}

// defaults of Config
const (
	defaultNegative    = 1 << 16
	defaultRetryDelay  = time.Second
	defaultRefreshes   = 16
	defaultTierBacklog = 1 << 16
)

// validate returns an error that names the field that is wrong, or nil.
func (config *Config[K, V]) validate(procs int) error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"TTL", config.TTL},
		{"MaxLifetime", config.MaxLifetime},
		{"NegativeTTL", config.NegativeTTL},
		{"StaleWhileRevalidate", config.StaleWhileRevalidate},
		{"StaleIfError", config.StaleIfError},
		{"RetryDelay", config.RetryDelay},
		{"LoadTimeout", config.LoadTimeout},
		{"Janitor", config.Janitor},
	} {
		if d.value < 0 {
			return fmt.Errorf("ttlcache: %s must be at least 0, got %v", d.name, d.value)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"NegativeCapacity", config.NegativeCapacity},
		{"MaxConcurrentRefresh", config.MaxConcurrentRefresh},
		{"TierBacklog", config.TierBacklog},
	} {
		if n.value < 0 {
			return fmt.Errorf("ttlcache: %s must be at least 0, got %d", n.name, n.value)
		}
	}
	loads := config.Loader != nil || config.BulkLoader != nil
	switch {
	case config.Shards < 0 || config.Shards > sharding.Max:
		return fmt.Errorf("ttlcache: Shards must be between 0 and %d, got %d", sharding.Max, config.Shards)
	case config.NegativeCapacity > arena.MaxLen:
		return fmt.Errorf("ttlcache: NegativeCapacity must be at most %d, got %d", arena.MaxLen, config.NegativeCapacity)
	case !(config.Jitter >= 0 && config.Jitter < 1):
		return fmt.Errorf("ttlcache: Jitter must be at least 0 and less than 1, got %v", config.Jitter)
	case !(config.RefreshAhead >= 0 && config.RefreshAhead < 1):
		return fmt.Errorf("ttlcache: RefreshAhead must be at least 0 and less than 1, got %v", config.RefreshAhead)
	case !(config.XFetchBeta >= 0) || math.IsInf(config.XFetchBeta, 1):
		return fmt.Errorf("ttlcache: XFetchBeta must be at least 0 and finite, got %v", config.XFetchBeta)
	case config.WriteMode > WriteBehind:
		return fmt.Errorf("ttlcache: WriteMode must be WriteAround, WriteThrough or WriteBehind, got %v", config.WriteMode)
	case config.WriteMode != WriteAround && config.Store == nil:
		return fmt.Errorf("ttlcache: WriteMode %v needs a Store", config.WriteMode)
	case !loads && (config.StaleWhileRevalidate > 0 || config.StaleIfError > 0 || config.RefreshAhead > 0 || config.XFetchBeta > 0):
		return fmt.Errorf("ttlcache: StaleWhileRevalidate, StaleIfError, RefreshAhead and XFetchBeta need a Loader or a BulkLoader")
	}
	if err := config.Batch.validate(); err != nil {
		return err
	}
	return config.validateCapacity(config.Capacity, config.shards(procs))
}

// validateCapacity returns an error that says why capacity cannot be one, or nil.
func (config *Config[K, V]) validateCapacity(capacity, shards int) error {
	if capacity < 1 {
		return fmt.Errorf("ttlcache: Capacity must be at least 1, got %d", capacity)
	}
	if capacity < shards {
		return fmt.Errorf("ttlcache: Capacity must be at least %d with %d shards, got %d", shards, shards, capacity)
	}
	if most := int64(shards) * int64(maxLen(shards == 1)); config.Weigher == nil && int64(capacity) > most {
		return fmt.Errorf("ttlcache: Capacity must be at most %d with %d shards, got %d", most, shards, capacity)
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

// ttlOf returns the nominal time to live that a caller asks for, in ns.
func (config *Config[K, V]) ttlOf(ttl time.Duration) int64 {
	if ttl == 0 {
		ttl = config.TTL
	}
	if ttl == 0 {
		ttl = Forever
	}
	return int64(ttl)
}

// A Cause is the reason why a value left a cache.
type Cause uint8

const (
	// Expired: its time to live, and the time for which it may be stale, is over.
	Expired Cause = iota + 1
	// Evicted: to make room, or because Resize took room away.
	Evicted
	// Deleted: by Delete, Compute or Invalidate, because a load found that the key
	// does not exist, or because a write to the Store failed.
	Deleted
	// Replaced: by another value for the same key, including one that was then Refused.
	Replaced
	// Cleared: by Clear, or because the second level lost its line to this process.
	Cleared
	// Refused: the value was offered, and weighs more than its shard's part of the capacity.
	Refused
)

// String returns the name of the cause.
func (c Cause) String() string {
	if c >= Expired && c <= Refused {
		return [...]string{"Expired", "Evicted", "Deleted", "Replaced", "Cleared", "Refused"}[c-1]
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// A State is what a cache knows of a key.
type State uint8

const (
	// Absent: nothing.
	Absent State = iota
	// Fresh: its value, which Get returns.
	Fresh
	// Stale: a value whose time to live is over, and which GetOrLoad may still return.
	Stale
	// Negative: that it does not exist.
	Negative
)

// String returns the name of the state.
func (s State) String() string {
	if s <= Negative {
		return [...]string{"Absent", "Fresh", "Stale", "Negative"}[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
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
