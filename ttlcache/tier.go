package ttlcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// A Tier is a second level, mostly one that many processes share. A Cache reads it for a key that
// it does not have, before it calls a Loader, and fills it with what a Loader returns; Set
// and Delete go through to it. Package ttlcache/redistier has one for Redis.
//
// If Get fails, the key counts as not there. If Set or Delete fails, what the Tier has for the
// key may be outdated, so this cache does not read it there any more, and goes on calling
// Delete until one succeeds; but see Config.TierBacklog.
//
// Its methods are called by many goroutines, but for one key only one of Set and Delete at a
// time, by one cache. If other processes use the same Tier, a value that one of them has loaded
// may come to it after another has deleted the key, and stay until it expires, unless the
// Tier is a Leaser.
type Tier[K comparable, V any] interface {
	// Get returns the value under k, and how long it is still fresh: Forever if it does not
	// expire, 0 if that is not known; then it is the cache's time to live.
	Get(ctx context.Context, k K) (v V, remaining time.Duration, ok bool, err error)
	// Set stores v under k for a time: Forever if it does not expire.
	Set(ctx context.Context, k K, v V, ttl time.Duration) error
	// Delete removes k. It is no error if k is not there.
	Delete(ctx context.Context, k K) error
}

// A Leaser is a Tier that can tell whether a key was changed, by any process, since a load of it
// began: so that a value which was loaded before a Delete in another process does not come to
// the Tier after it. If Config.Next is one, the cache calls GetLease and Fill for what it
// loads, instead of Get and Set.
type Leaser[K comparable, V any] interface {
	// GetLease is Get, and in the same step takes a lease if the key is not there, or if always
	// is set.
	GetLease(ctx context.Context, k K, always bool) (v V, remaining time.Duration, ok bool, lease string, err error)
	// Fill is Set if the lease is still good, and else does nothing and returns false. A lease is
	// good for a time, until somebody sets, fills or deletes the key.
	Fill(ctx context.Context, k K, v V, ttl time.Duration, lease string) (filled bool, err error)
}

// An Invalidator is a Tier that knows when others change it. If Config.Next is one, the cache
// subscribes to it.
type Invalidator[K comparable] interface {
	// Subscribe makes the Tier call invalidate with each key that somebody else has changed,
	// and clear when it may have missed some, until the function that it returns has been
	// called; that waits for calls that are under way. Both call the user's OnRemove.
	Subscribe(invalidate func(K), clear func()) (unsubscribe func())
}

// An InvalidationError is returned by Close when keys could not be removed from the second level,
// which may go on to give their outdated values to other processes until they expire.
type InvalidationError[K comparable] struct {
	Keys []K   // in no order
	Err  error // of one of them
}

// Error returns how many keys there are, and the error.
func (e *InvalidationError[K]) Error() string {
	return fmt.Sprintf("ttlcache: %d keys could not be invalidated in the second level: %v", len(e.Keys), e.Err)
}

// Unwrap returns the error.
func (e *InvalidationError[K]) Unwrap() error { return e.Err }

// A tier is a cache's second level, and the keys that must not be read from it. A goroutine tries
// to invalidate these while there are any.
type tier[K comparable, V any] struct {
	cache       *Cache[K, V]
	next        Tier[K, V]
	leaser      Leaser[K, V] // next, if it is one
	unsubscribe func()

	ctx    context.Context // of the goroutine
	cancel context.CancelFunc

	mu       sync.Mutex
	suspects map[K]suspicion // what is in the Tier for them may be outdated
	numbers  uint64
	mending  bool // the goroutine is there
	stopped  bool
}

// A suspicion is why what is in a Tier may be outdated. Each has a number of its own, 1 or more.
type suspicion struct {
	err    error
	number uint64
}

func newTier[K comparable, V any](c *Cache[K, V]) *tier[K, V] {
	t := &tier[K, V]{cache: c, next: c.config.Next, suspects: map[K]suspicion{}, unsubscribe: func() {}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.leaser, _ = t.next.(Leaser[K, V])
	if in, ok := t.next.(Invalidator[K]); ok {
		t.unsubscribe = in.Subscribe(c.Invalidate, c.Clear)
	}
	return t
}

// load looks k up, and reports whether it is there and lives until a time at least.
func (t *tier[K, V]) load(ctx context.Context, k K, l *loaded[V], until int64) bool {
	c := t.cache
	suspect := t.suspect(k)
	if suspect {
		c.counters.tierBypass.Add(1)
		if t.leaser == nil {
			l.err = nil
			return false
		}
	}
	at := c.clock.Now()
	v, remaining, ok, lease, err := t.get(ctx, k, suspect || until > 0)
	l.err, l.lease = nil, lease
	if err != nil {
		c.counters.tierErrors.Add(1)
		l.err = fmt.Errorf("ttlcache: second level: %w", err)
		return false
	}
	if suspect {
		return false
	}
	l.missed = !ok
	if remaining == 0 {
		remaining = time.Duration(c.spec.ttl)
	}
	if !ok || remaining < 0 || sum(at, int64(remaining)) < until {
		c.counters.tierMisses.Add(1)
		return false
	}
	c.counters.tierHits.Add(1)
	*l = loaded[V]{value: v, at: at, ttl: c.spec.ttl, left: int64(remaining)}
	return true
}

// get looks k up, and takes a lease if the Tier has that and the value may have to be loaded.
func (t *tier[K, V]) get(ctx context.Context, k K, always bool) (v V, remaining time.Duration, ok bool, lease string, err error) {
	if t.leaser != nil {
		return t.leaser.GetLease(ctx, k, always)
	}
	v, remaining, ok, err = t.next.Get(ctx, k)
	return v, remaining, ok, "", err
}

// lease takes a lease for a load that does not look k up.
func (t *tier[K, V]) lease(ctx context.Context, k K, l *loaded[V]) {
	if t.leaser != nil {
		var err error
		if _, _, _, l.lease, err = t.leaser.GetLease(ctx, k, true); err != nil {
			t.cache.counters.tierErrors.Add(1)
		}
	}
}

// fill stores what was loaded, until its deadline. It returns false if the key was changed by
// somebody since the load began. If it must, because what is there is known to be outdated, k is
// a suspect if that fails. The caller has locked the key.
func (t *tier[K, V]) fill(ctx context.Context, k K, l *loaded[V], deadline int64, must bool) bool {
	ttl := until(deadline, t.cache.clock.Now())
	if ttl <= 0 {
		return true
	}
	since := t.mark(k)
	filled, err := true, error(nil)
	switch {
	case t.leaser == nil:
		err = t.next.Set(ctx, k, l.value, ttl)
	case l.lease != "":
		filled, err = t.leaser.Fill(ctx, k, l.value, ttl, l.lease)
	case must:
		err = errNoLease // the Tier was down, and has what it had
	default:
		return true
	}
	switch {
	case err == nil && filled:
		t.trust(k, since)
	case err == nil:
	case must:
		t.distrust(k, err)
	default:
		t.cache.counters.tierErrors.Add(1)
	}
	return filled
}

// set stores v under k. Like delete, it returns an error only if it fails and there is no room
// to remember that. The caller has locked the key.
func (t *tier[K, V]) set(ctx context.Context, k K, v V, deadline int64) error {
	ttl := until(deadline, t.cache.clock.Now())
	if ttl <= 0 {
		return t.delete(ctx, k)
	}
	since := t.mark(k)
	return t.wrote(k, since, t.next.Set(ctx, k, v, ttl))
}

func (t *tier[K, V]) delete(ctx context.Context, k K) error {
	since := t.mark(k)
	return t.wrote(k, since, t.next.Delete(ctx, k))
}

func (t *tier[K, V]) wrote(k K, since uint64, err error) error {
	if err == nil {
		t.trust(k, since)
		return nil
	}
	if !t.distrust(k, err) {
		return fmt.Errorf("ttlcache: the second level may have an outdated value, and too many keys wait to be invalidated there: %w", err)
	}
	return nil
}

// outdated says that what the Tier has for k may be outdated, although no call has failed, and
// has the goroutine remove it.
func (t *tier[K, V]) outdated(k K) {
	if !t.distrust(k, errOutdated) {
		// There is no room to remember it: this is the best that can be done.
		ctx, cancel := context.WithTimeout(t.ctx, mendTimeout)
		defer cancel()
		_ = t.next.Delete(ctx, k)
	}
}

var (
	errOutdated = errors.New("a write was not made, or made later")
	errNoLease  = errors.New("the second level could not be asked for a lease")
)

// suspect reports whether what the Tier has for k may be outdated.
func (t *tier[K, V]) suspect(k K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.suspects[k]
	return ok
}

// mark returns what trust needs to know of the time before a write of k.
func (t *tier[K, V]) mark(k K) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.suspects[k].number
}

// trust says that what the Tier has for k is not outdated any more, after a write. If k has
// become a suspect during the write, it stays one.
func (t *tier[K, V]) trust(k K, since uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.suspects[k].number == since {
		delete(t.suspects, k)
	}
}

// distrust says that what the Tier has for k may be outdated, if there is room to remember it.
func (t *tier[K, V]) distrust(k K, err error) bool {
	c := t.cache
	most := c.config.TierBacklog
	if err == errOutdated {
		most *= 2 // nobody can be told that there is no room
	} else {
		c.counters.tierErrors.Add(1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.suspects[k]; !known && len(t.suspects) >= most {
		return false
	}
	t.numbers++
	t.suspects[k] = suspicion{err, t.numbers}
	if !t.mending && !t.stopped {
		t.mending = true
		c.life.others.Go(t.mend)
	}
	return true
}

// backlog returns the number of suspects.
func (t *tier[K, V]) backlog() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.suspects)
}

const (
	mendFirst   = 50 * time.Millisecond // from a failure to the next attempt, then twice as long
	mendLast    = 5 * time.Second       // but no longer
	mendTimeout = 5 * time.Second       // of one attempt
	mendFaults  = 3                     // failures in a row by which the Tier counts as down
)

// mend tries to invalidate the suspects until there are none.
func (t *tier[K, V]) mend() {
	wait := mendFirst
	for {
		if t.mendAll(t.ctx) {
			wait = mendFirst
		}
		t.mu.Lock()
		if len(t.suspects) == 0 || t.stopped {
			t.mending = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-t.cache.life.stop:
			timer.Stop()
		}
		wait = min(2*wait, mendLast)
	}
}

// mendAll tries each suspect once, in any order, but stops when the Tier seems to be down. It
// reports whether it was any use.
func (t *tier[K, V]) mendAll(ctx context.Context) (mended bool) {
	t.mu.Lock()
	keys := slices.Collect(maps.Keys(t.suspects))
	t.mu.Unlock()
	faults := 0
	for _, k := range keys {
		if faults == mendFaults || ctx.Err() != nil || t.isStopped() {
			break
		}
		if t.mendOne(ctx, k) {
			faults = 0
			mended = true
		} else {
			faults++
		}
	}
	return mended
}

func (t *tier[K, V]) isStopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped
}

// mendOne tries to invalidate k, if it is still a suspect when nobody else writes it.
func (t *tier[K, V]) mendOne(ctx context.Context, k K) bool {
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	if t.cache.keys.Lock(ctx, k) != nil {
		return false
	}
	defer t.cache.keys.Unlock(k)
	since := t.mark(k)
	if since == 0 {
		return true
	}
	if err := t.next.Delete(ctx, k); err != nil {
		t.cache.counters.tierErrors.Add(1)
		return false
	}
	t.trust(k, since)
	return true
}

// close tries the suspects a last time, and returns those that are left. Nobody writes any more.
func (t *tier[K, V]) close(ctx context.Context) error {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.cache.life.others.Wait() // for mend: it has been told to stop; when ctx ends, so does t.ctx
	t.mu.Lock()
	t.stopped = false // for mendAll
	t.mending = true  // so that no other is started
	t.mu.Unlock()
	t.mendAll(ctx)
	t.cancel()

	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	if len(t.suspects) == 0 {
		return nil
	}
	e := &InvalidationError[K]{Keys: slices.Collect(maps.Keys(t.suspects))}
	for _, s := range t.suspects {
		e.Err = s.err
		break
	}
	return e
}
