package ttlcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sysblocks/sysblocks/internal/flight"
)

// A PanicError is what GetOrLoad, GetOrLoadAll and Refresh panic with when a load that they
// wait for has panicked: it has the value and the stack of the load's goroutine.
type PanicError = flight.PanicError

// GetOrLoad returns the value under k: from memory, if it is fresh there, or else from the
// second level or the Loader, whose value it keeps. However many callers ask for k meanwhile, it
// is loaded once; each waits as long as his own ctx lets him, and the load goes on as long as
// somebody waits. A panic of the Loader, or a call of runtime.Goexit, reaches all of them.
//
// A key that does not exist is ErrNotFound, which is remembered for Config.NegativeTTL. No
// other error is. An entry that is stale may be returned, see StaleWhileRevalidate and
// StaleIfError in Config.
//
// Complexity: as Get for a hit.
func (c *Cache[K, V]) GetOrLoad(ctx context.Context, k K) (V, error) {
	h := maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
	if v, ok := c.getForLoad(ctx, h, k); ok {
		return v, nil
	}
	return c.load(ctx, h, k)
}

// getForLoad returns the value under k if it need not be loaded first: it is fresh, or
// stale and another load is not to be waited for.
func (c *Cache[K, V]) getForLoad(ctx context.Context, h uint64, k K) (v V, ok bool) {
	if c.eager {
		return c.getEager(ctx, h, k)
	}
	if c.exact {
		return c.getLocked(h, k)
	}
	// This is Get, written out, because to hash the key twice is half of its time.
	s := c.of(h)
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
	if !c.use(s, n) {
		r.RUnlock()
		return c.getLocked(h, k)
	}
	v = s.core.arena.Value(n).value
	c.hit(s, r, n)
	return v, true
}

// load returns the value under k, which was not found in memory.
func (c *Cache[K, V]) load(ctx context.Context, h uint64, k K) (V, error) {
	var none V
	if !c.loads() {
		return none, ErrNoLoader
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if k != k {
		return none, ErrKey
	}
	s := c.of(h)
	out := c.departures(s)
	f := c.begin(ctx, s, h, k, nil, out)
	if f.run != nil {
		// Before the report: the load is on its way even if the user's function panics.
		c.fly(f.run, []*loading[K, V]{f.call}, how{})
	}
	c.report(s, out)
	switch {
	case f.err != nil:
		return none, f.err
	case f.call == nil:
		return f.value, nil
	}
	return c.wait(ctx, h, f.call)
}

// wait waits for a call.
func (c *Cache[K, V]) wait(ctx context.Context, h uint64, call *loading[K, V]) (V, error) {
	o, err := call.Wait(ctx)
	if err != nil && ctx.Err() == nil && c.config.StaleIfError > 0 {
		// If the load itself has failed, it has looked for a stale value. But it may have
		// run out of time, and may go on for ever.
		l := loaded[V]{err: err}
		s := c.lockFor(h)
		defer s.lock.Unlock()
		c.rescue(s, h, call.Key, &l)
		return l.value, l.err
	}
	return o.value, err
}

// loads reports whether there is anything to load from.
func (c *Cache[K, V]) loads() bool {
	return c.config.Loader != nil || c.config.BulkLoader != nil || c.config.Next != nil
}

// A loading is the load of one key.
type loading[K comparable, V any] = flight.Call[K, outcome[V]]

// An outcome is what the callers of a load get.
type outcome[V any] struct {
	value  V
	failed error // why the value is the one that was there before, if it is
}

// A found is what there is to do for a key that was not found in memory: nothing, because there
// is now a value or an error; or to wait for call, which must be run first if run is not nil.
type found[K comparable, V any] struct {
	value V
	err   error
	call  *loading[K, V]
	run   *flight.Run
}

// begin looks for k again, now under the lock, and joins the load of k that is under way, or
// starts one: with run, or with one of its own if that is nil.
func (c *Cache[K, V]) begin(ctx context.Context, s *shard[K, V], h uint64, k K, run *flight.Run, out *departures[K, V]) (f found[K, V]) {
	s.lockAll()
	defer s.lock.Unlock()
	if c.known(s, h, k, &f, out) {
		return f
	}
	if f.call = s.flights.Join(k); f.call != nil {
		return f
	}
	if !c.life.begin() {
		f.err = ErrClosed
		return f
	}
	if f.run = run; run == nil {
		f.run = c.newRun(ctx, false)
	}
	f.call = s.flights.Start(k, f.run, true)
	return f
}

func (c *Cache[K, V]) newRun(ctx context.Context, wanted bool) *flight.Run {
	return flight.NewRun(ctx, c.config.LoadTimeout, wanted)
}

// known reports whether k needs no load: it is fresh after all, it is known not to exist, or its
// value is still on its way to the Store. The shard is locked.
func (c *Cache[K, V]) known(s *shard[K, V], h uint64, k K, f *found[K, V], out *departures[K, V]) bool {
	if n := c.findLocked(s, h, k, out); n != 0 && c.ahead(s.core.deadline(n)) {
		f.value = s.core.arena.Value(n).value
		return true
	}
	if c.queued(s, h, k, f, out) {
		return true
	}
	if c.negatives != nil && c.ahead(c.negatives.deadline(h, k)) {
		c.counters.negative.Add(1)
		f.err = ErrNotFound
		return true
	}
	return false
}

// queued reports whether the last write of k is still on its way to the Store: what could be
// loaded from there is older. The shard is locked.
func (c *Cache[K, V]) queued(s *shard[K, V], h uint64, k K, f *found[K, V], out *departures[K, V]) bool {
	if c.queue == nil {
		return false
	}
	w, ok := c.queue.get(k)
	switch {
	case !ok:
		return false
	case w.Deleted:
		f.err = ErrNotFound
	default:
		// If the entry has left, it comes back.
		now := c.clock.Now()
		s.core.set(uint32(h), k, w.Value, c.offer(now, w.ttl, w.weight), now, out)
		f.value = w.Value
	}
	return true
}

// How a load is to be done.
type how struct {
	background bool
	bypass     bool // the second level is left out
}

// fly runs the load of calls, which have been started with run. The cache's life was begun for
// each of them.
func (c *Cache[K, V]) fly(run *flight.Run, calls []*loading[K, V], how how) {
	stop := context.AfterFunc(c.life.ctx, func() { run.Cancel(ErrClosed) })
	results := make([]loaded[V], len(calls))
	run.Go(func(ctx context.Context) error {
		if len(calls) > 1 {
			return c.loadMany(ctx, calls, results)
		}
		c.loadOne(ctx, calls[0], how, &results[0])
		return nil
	}, func(err error) {
		stop()
		if how.background {
			c.refreshing.Add(-1)
		}
		if err != nil {
			c.counters.loadErrors.Add(uint64(len(calls)))
		}
		for i, call := range calls {
			l := &results[i]
			if err != nil {
				l.err = err
			}
			c.endCall(call)
			call.Finish(outcome[V]{l.value, l.failed}, l.err)
		}
		defer func() {
			for range calls {
				c.life.end()
			}
		}()
		if how.background {
			c.refreshed(calls[0].Key, either(results[0].err, results[0].failed))
		}
	})
}

// endCall ends a call that was not kept because it panicked, or because there was no time left.
func (c *Cache[K, V]) endCall(call *loading[K, V]) {
	h := c.hash(call.Key)
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if s.flights.End(call) && c.spec.holding {
		if n := s.core.arena.Find(uint32(h), call.Key); n != 0 {
			s.core.columns.hold[n].Store(sum(c.clock.Now(), int64(c.config.RetryDelay)))
		}
	}
}

func (c *Cache[K, V]) hash(k K) uint64 {
	return maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask
}

// loaded is what was loaded for a key.
type loaded[V any] struct {
	value  V
	err    error
	failed error // what err was, if it was a stale value that came to the rescue

	at   int64 // when its time to live began
	ttl  int64 // nominal; unkept: it is not to be kept
	cost int64 // ns that the loader took
	left int64 // from the second level: what is left of its time to live there; 0: from a loader

	missed bool   // the second level was asked, and has nothing
	lease  string // of the second level, see Leaser
}

const unkept = -1

// kept reports whether there is a value to be kept.
func (l *loaded[V]) kept() bool { return l.err == nil && l.ttl != unkept }

// loadOne loads the key of call, and keeps what it finds.
func (c *Cache[K, V]) loadOne(ctx context.Context, call *loading[K, V], how how, l *loaded[V]) {
	k := call.Key
	h := c.hash(k)
	if c.tier != nil && how.bypass {
		c.tier.lease(ctx, k, l)
	}
	if c.tier == nil || how.bypass || !c.tier.load(ctx, k, l, c.longerThan(h, k, how)) {
		c.callLoader(ctx, k, l)
	}
	c.keep(ctx, h, call, how, l)
}

// callLoader calls the Loader, or the BulkLoader in its place.
func (c *Cache[K, V]) callLoader(ctx context.Context, k K, l *loaded[V]) {
	if c.config.Loader == nil {
		all := []loaded[V]{*l}
		c.callBulkLoader(ctx, []K{k}, all)
		*l = all[0]
		return
	}
	start := c.clock.Now()
	c.counters.loads.Add(1)
	e, err := c.config.Loader(ctx, k)
	c.took(l, e, err, start)
}

// callBulkLoader calls the BulkLoader for keys, if there is one.
func (c *Cache[K, V]) callBulkLoader(ctx context.Context, keys []K, results []loaded[V]) {
	if c.config.BulkLoader == nil {
		// There is only the second level. If it has failed, the key may exist.
		for i := range results {
			if results[i].err == nil {
				results[i].err = ErrNotFound
			}
		}
		return
	}
	start := c.clock.Now()
	c.counters.loads.Add(uint64(len(keys)))
	all, err := c.config.BulkLoader(ctx, slices.Clone(keys))
	for i, k := range keys {
		e, found := all[k]
		if !found && err == nil {
			c.took(&results[i], e, ErrNotFound, start)
		} else {
			c.took(&results[i], e, err, start)
		}
	}
}

// took notes what a loader has returned for a key.
func (c *Cache[K, V]) took(l *loaded[V], e Entry[V], err error, start int64) {
	now := c.clock.Now()
	*l = loaded[V]{at: now, cost: now - start, err: err, missed: l.missed, lease: l.lease}
	switch {
	case errors.Is(err, ErrNotFound):
		c.counters.notFound.Add(1)
	case err != nil:
		c.counters.loadErrors.Add(1)
	case e.TTL < 0:
		l.value, l.ttl = e.Value, unkept
	default:
		l.value, l.ttl = e.Value, c.config.ttlOf(e.TTL)
	}
}

// loadMany loads the keys of calls, which are more than one, and keeps what it finds.
func (c *Cache[K, V]) loadMany(ctx context.Context, calls []*loading[K, V], results []loaded[V]) error {
	if c.tier != nil {
		for i := range results {
			results[i].err = flight.ErrGoexit // what is left if the Tier calls runtime.Goexit
		}
		err := inParallel(len(calls), func(i int) {
			if !c.tier.load(ctx, calls[i].Key, &results[i], 0) {
				results[i].ttl = unkept
			}
		})
		if err != nil {
			return err
		}
	}
	var keys []K
	var at []int // where keys are in calls
	for i, call := range calls {
		if c.tier == nil || results[i].ttl == unkept {
			keys = append(keys, call.Key)
			at = append(at, i)
		}
	}
	if len(keys) > 0 {
		some := make([]loaded[V], len(keys))
		for i, to := range at {
			some[i] = results[to]
		}
		c.callBulkLoader(ctx, keys, some)
		for i, to := range at {
			results[to] = some[i]
		}
	}
	if !c.slow {
		for i, call := range calls {
			c.keep(ctx, c.hash(call.Key), call, how{}, &results[i])
		}
		return nil
	}
	return inParallel(len(calls), func(i int) { c.keep(ctx, c.hash(calls[i].Key), calls[i], how{}, &results[i]) })
}

// parallel is how many loads or calls of the second level GetOrLoadAll makes at one time.
const parallel = 16

// inParallel calls f with the numbers below n, several at a time. It returns a panic of f as
// a *PanicError.
func inParallel(n int, f func(i int)) error {
	var next atomic.Int64
	var failed atomic.Pointer[PanicError]
	var wg sync.WaitGroup
	for range min(n, parallel) {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					p, ok := v.(*PanicError)
					if !ok {
						p = &PanicError{Value: v, Stack: debug.Stack()}
					}
					failed.CompareAndSwap(nil, p)
				}
			}()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
	if p := failed.Load(); p != nil {
		return p
	}
	return nil
}

// keep keeps what was loaded for call, unless it was overtaken, and fills the second level with
// it. Where writes go elsewhere too it does so under the key's lock, so that what was loaded
// before a write cannot come to the second level after it.
func (c *Cache[K, V]) keep(ctx context.Context, h uint64, call *loading[K, V], how how, l *loaded[V]) {
	k := call.Key
	var o offer
	if l.kept() {
		o = c.offer(l.at, l.ttl, c.config.weigh(k, l.value))
		o.cost = microseconds(l.cost)
		if l.left > 0 { // it was shortened by chance when it came there
			o.deadline = sum(l.at, l.left)
			if c.config.MaxLifetime > 0 {
				o.deadline = min(o.deadline, sum(l.at, int64(c.config.MaxLifetime)))
			}
			if !c.spec.moving {
				o.latest = o.deadline
			}
		}
	}
	out := c.newDepartures()
	defer c.reportAll(out) // when the key is unlocked
	if c.slow {
		if !c.keys.TryLock(k) {
			// Who writes k overtakes this load when he is done. He may have to wait for a
			// second level that does not answer; the callers of the load must not.
			return
		}
		defer c.keys.Unlock(k)
		if c.tier != nil && l.left == 0 && c.valid(h, call) && !c.keepInTier(ctx, h, k, how, l, o) {
			// The load is overtaken, and what was there before is outdated, too.
			c.dropLocal(h, k, out)
		}
	}
	c.keepLocked(h, call, l, o, out)
}

// keepInTier makes the second level have what was loaded. It returns false if somebody has
// changed it there since the load began, so that what was loaded may be outdated.
func (c *Cache[K, V]) keepInTier(ctx context.Context, h uint64, k K, how how, l *loaded[V], o offer) bool {
	switch {
	case l.kept():
		return c.tier.fill(ctx, k, l, o.deadline, how.bypass)
	case (l.err == nil || errors.Is(l.err, ErrNotFound)) && !l.missed:
		// What is there does not exist any more, or is outdated.
		_ = c.tier.delete(ctx, k) // if that fails, and there is no room to remember it, it expires
	}
	return true
}

// valid reports whether what is loaded for call may be kept.
func (c *Cache[K, V]) valid(h uint64, call *loading[K, V]) bool {
	s := c.lockFor(h)
	defer s.lock.Unlock()
	return s.flights.Valid(call)
}

// keepLocked keeps what was loaded for call in memory, unless it was overtaken, and ends the
// call in the same step.
func (c *Cache[K, V]) keepLocked(h uint64, call *loading[K, V], l *loaded[V], o offer, out *departures[K, V]) {
	k := call.Key
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if !s.flights.End(call) {
		c.rescue(s, h, k, l)
		return
	}
	now := c.clock.Now()
	switch {
	case l.kept():
		if c.negatives != nil {
			c.negatives.delete(h, k)
		}
		s.core.set(uint32(h), k, l.value, o, now, out)
	case l.err == nil:
		s.core.drop(uint32(h), k, now, Replaced, out)
	case errors.Is(l.err, ErrNotFound):
		s.core.drop(uint32(h), k, now, Deleted, out)
		if c.negatives != nil && !c.negatives.add(h, k, now) {
			c.counters.negativeRefused.Add(1)
		}
	default:
		if n := s.core.find(uint32(h), k, now, out); n != 0 && c.spec.holding {
			s.core.columns.hold[n].Store(sum(now, int64(c.config.RetryDelay)))
		}
		c.rescue(s, h, k, l)
	}
}

// rescue gives the callers of a load that has failed the value that is there, if it is fresh
// after all, or StaleIfError allows it.
func (c *Cache[K, V]) rescue(s *shard[K, V], h uint64, k K, l *loaded[V]) {
	if l.err == nil || c.config.StaleIfError == 0 || errors.Is(l.err, ErrNotFound) {
		return
	}
	n := s.core.arena.Find(uint32(h), k)
	if n == 0 || !c.ahead(sum(s.core.deadline(n), int64(c.config.StaleIfError))) {
		return
	}
	s.core.columns.hold[n].Store(sum(c.clock.Now(), int64(c.config.RetryDelay)))
	l.value, l.failed, l.err = s.core.arena.Value(n).value, l.err, nil
	c.counters.staleOnError.Add(1)
}

// microseconds returns a duration in µs, rounded up.
func microseconds(ns int64) uint32 {
	return uint32(min((ns+999)/1000, math.MaxUint32))
}

// Refresh loads the value under k anew, from the loader and not from the second level, and waits
// for it; GetOrLoad gives others what is there meanwhile, if that is fresh. If a load of k that
// began before is under way, Refresh waits for that and then loads again, since the value may
// have changed in between; many calls at once share that load. Complexity: O(1), beside the load.
func (c *Cache[K, V]) Refresh(ctx context.Context, k K) error {
	if c.config.Loader == nil && c.config.BulkLoader == nil {
		return ErrNoLoader
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if k != k {
		return ErrKey
	}
	h := c.hash(k)
	s := c.lockFor(h)
	arrived := s.flights.Started()
	for {
		if c.queue != nil {
			if _, ok := c.queue.get(k); ok { // there is nothing newer
				s.lock.Unlock()
				return nil
			}
		}
		call := s.flights.Join(k)
		if call != nil && call.Number >= arrived {
			s.lock.Unlock()
			return refreshOutcome(call.Wait(ctx))
		}
		if call == nil {
			if !c.life.begin() {
				s.lock.Unlock()
				return ErrClosed
			}
			run := c.newRun(ctx, false)
			call = s.flights.Start(k, run, true)
			s.lock.Unlock()
			c.fly(run, []*loading[K, V]{call}, how{bypass: true})
			return refreshOutcome(call.Wait(ctx))
		}
		s.lock.Unlock()
		err := call.Await(ctx)
		if err != nil {
			return err
		}
		s.lockAll()
	}
}

func refreshOutcome[V any](o outcome[V], err error) error { return either(err, o.failed) }

func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// GetOrLoadAll returns the values under keys, as GetOrLoad does. Those that are not in memory
// are loaded by one call of the BulkLoader, or by the Loader, several at a time; a key that
// another caller is having loaded is not loaded again. A key that does not exist is
// missing in the result. If keys could not be loaded, the result has the others, and the
// error says which: it wraps those of the loader. Complexity: O(len(keys)), beside the loads.
func (c *Cache[K, V]) GetOrLoadAll(ctx context.Context, keys []K) (map[K]V, error) {
	result := make(map[K]V, len(keys))
	var missing []K
	for _, k := range keys {
		if _, done := result[k]; done {
			continue
		}
		if v, ok := c.getForLoad(ctx, c.hash(k), k); ok {
			result[k] = v
		} else {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return result, nil
	}
	if !c.loads() {
		return result, ErrNoLoader
	}
	if err := ctx.Err(); err != nil {
		return result, err
	}
	return result, c.loadAll(ctx, missing, result)
}

// loadAll adds the values under keys to result, which were not found in memory.
func (c *Cache[K, V]) loadAll(ctx context.Context, keys []K, result map[K]V) error {
	seen := make(map[K]bool, len(keys))
	keys = slices.DeleteFunc(keys, func(k K) bool {
		again := seen[k]
		seen[k] = true
		return again
	})
	outcomes := make([]loaded[V], len(keys))
	if c.config.BulkLoader != nil {
		c.loadInBulk(ctx, keys, outcomes)
	} else {
		for i := range outcomes {
			outcomes[i].err = flight.ErrGoexit // what is left if the Loader calls runtime.Goexit
		}
		err := inParallel(len(keys), func(i int) {
			outcomes[i].value, outcomes[i].err = c.load(ctx, c.hash(keys[i]), keys[i])
		})
		if err != nil {
			panic(err)
		}
	}
	var errs []error
	for i, o := range outcomes {
		switch {
		case o.err == nil:
			result[keys[i]] = o.value
		case o.err == flight.ErrGoexit:
			runtime.Goexit()
		case !errors.Is(o.err, ErrNotFound):
			errs = append(errs, &KeyError[K]{keys[i], o.err})
		}
	}
	return errors.Join(errs...)
}

// loadInBulk loads keys, which are distinct, with one call of the BulkLoader for those that nobody
// else has loaded at the moment.
func (c *Cache[K, V]) loadInBulk(ctx context.Context, keys []K, outcomes []loaded[V]) {
	waits := make([]*loading[K, V], len(keys))
	var mine []*loading[K, V]
	run := c.newRun(ctx, false)
	out := c.newDepartures()
	for i, k := range keys {
		if k != k {
			outcomes[i].err = ErrKey
			continue
		}
		h := c.hash(k)
		f := c.begin(ctx, c.of(h), h, k, run, out)
		outcomes[i].value, outcomes[i].err = f.value, f.err
		waits[i] = f.call
		if f.run != nil {
			mine = append(mine, f.call)
		}
	}
	if len(mine) > 0 {
		c.fly(run, mine, how{})
	} else {
		run.Cancel(context.Canceled) // it was not needed
	}
	next := 0
	defer func() { // if a load has panicked, the others are not waited for
		for _, call := range waits[next:] {
			if call != nil {
				call.Release()
			}
		}
	}()
	c.reportAll(out)
	for next < len(waits) {
		i, call := next, waits[next]
		next++
		if call != nil {
			outcomes[i].value, outcomes[i].err = c.wait(ctx, c.hash(keys[i]), call)
		}
	}
}

// A KeyError says for which key GetOrLoadAll has failed.
type KeyError[K comparable] struct {
	Key K     // the key
	Err error // why it could not be loaded
}

// Error returns the key and its error.
func (e *KeyError[K]) Error() string { return fmt.Sprintf("%v: %v", e.Key, e.Err) }

// Unwrap returns the error.
func (e *KeyError[K]) Unwrap() error { return e.Err }
