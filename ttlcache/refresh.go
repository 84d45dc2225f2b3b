package ttlcache

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/sysblocks/sysblocks/internal/readlock"
)

// getEager is the part of GetOrLoad that needs no waiting, in a cache where a use of an entry may
// start a load in the background, or a stale entry may be used.
//
// Each entry has a hold: a time before which no load is to be tried, set by a load that failed,
// or never while one is under way in the background. So of the many that use an entry only one
// goes to the trouble of starting its load, and nobody tries a source that has just failed.
func (c *Cache[K, V]) getEager(ctx context.Context, h uint64, k K) (v V, ok bool) {
	s := c.of(h)
	r := (*readlock.Stripe[K])(nil)
	if !c.exact {
		r = s.lock.TryRLock()
	}
	if r == nil {
		return c.getEagerLocked(ctx, h, k)
	}
	n := s.core.arena.Find(uint32(h), k)
	if n == 0 {
		if r.RUnlockMiss() {
			c.tidyUp(s)
		}
		return v, false
	}
	w := c.weighUp(s, n)
	if !w.usable {
		r.RUnlock()
		return c.getEagerLocked(ctx, h, k) // it may be dead
	}
	v = s.core.arena.Value(n).value
	start := w.load && c.mayRefresh(s, n)
	c.hit(s, r, n)
	if start {
		c.startRefresh(ctx, h, k)
	}
	return v, true
}

// hit ends a look-up that has found entry n under the lock for reading.
func (c *Cache[K, V]) hit(s *shard[K, V], r *readlock.Stripe[K], n uint32) {
	if !s.core.arena.Near(n) && !s.note(r, n) {
		if s.lock.TryUpgrade(r) {
			s.tidy()
			s.core.arena.Promote(n)
			s.lock.Unlock()
			return
		}
		// Somebody is quicker, and has the lock: what he does may move n to another place,
		// so the use of the entry is not noted, only counted.
		s.lockAll()
		s.core.hits++
		s.lock.Unlock()
		return
	}
	if r.RUnlockHit() {
		c.tidyUp(s)
	}
}

// getEagerLocked is getEager under the lock for writing.
func (c *Cache[K, V]) getEagerLocked(ctx context.Context, h uint64, k K) (v V, ok bool) {
	s := c.lockFor(h)
	out := c.departures(s)
	start := false
	if n := c.findLocked(s, h, k, out); n != 0 {
		if w := c.weighUp(s, n); w.usable {
			s.core.arena.Promote(n)
			v, ok = s.core.arena.Value(n).value, true
			start = w.load && c.mayRefresh(s, n)
		}
	}
	if ok {
		s.core.hits++
	} else {
		s.core.misses++
	}
	s.lock.Unlock()
	if start {
		c.startRefresh(ctx, h, k)
	}
	c.report(s, out)
	return v, ok
}

// What is to be done with an entry that is asked for.
type weighed struct {
	usable bool // its value need not be loaded first
	load   bool // it should be loaded in the background
}

// weighUp says what is to be done with entry n. It does what use does.
func (c *Cache[K, V]) weighUp(s *shard[K, V], n uint32) weighed {
	deadline := s.core.deadline(n)
	if deadline == never {
		return weighed{usable: true}
	}
	if deadline-c.leadTime(s, n, maxDraw) > c.clock.Soon() {
		if c.config.Sliding {
			c.slide(s, n, deadline)
		}
		return weighed{usable: true} // as nearly always
	}
	now := c.clock.Now()
	switch {
	case deadline > now:
		early := deadline - c.leadTime(s, n, -math.Log(1-rand.Float64()))
		if c.config.Sliding {
			c.slide(s, n, deadline)
		}
		return weighed{usable: true, load: now >= early}
	case sum(deadline, int64(c.config.StaleWhileRevalidate)) > now:
		c.counters.stale.Add(1)
		return weighed{usable: true, load: true}
	case sum(deadline, int64(c.config.StaleIfError)) > now:
		// The next caller loads it and waits, unless that has just failed.
		if hold := s.core.columns.hold[n].Load(); hold > now && hold != never {
			c.counters.stale.Add(1)
			return weighed{usable: true}
		}
	}
	return weighed{}
}

// maxDraw is at least the largest -ln(u) for a u in (0, 1] of 53 bits.
const maxDraw = 37

// leadTime returns how long before its time to live ends entry n is to be loaded again, in ns.
// For XFetch that depends on a draw from the exponential distribution, -ln(u) with u uniform
// in (0, 1]: a load is due if now + Δ·β·draw ≥ deadline.
func (c *Cache[K, V]) leadTime(s *shard[K, V], n uint32, draw float64) int64 {
	lead := 0.0
	if c.config.RefreshAhead > 0 {
		// Of the shortest time that the entry may have, or it would be loaded all the time.
		ttl := float64(s.core.ttl(n))
		if c.config.MaxLifetime > 0 {
			ttl = min(ttl, float64(c.config.MaxLifetime))
		}
		ttl *= 1 - c.config.Jitter
		lead = ttl - math.Round(c.config.RefreshAhead*ttl)
	}
	if c.config.XFetchBeta > 0 {
		delta := 1000 * float64(s.core.columns.costs[n])
		lead = max(lead, delta*c.config.XFetchBeta*draw)
	}
	if lead >= never {
		return never
	}
	return int64(lead)
}

// mayRefresh reports whether a load of entry n may start in the background, and if so takes one
// of the places for such loads, and sets the hold.
func (c *Cache[K, V]) mayRefresh(s *shard[K, V], n uint32) bool {
	hold := &s.core.columns.hold[n]
	at := hold.Load()
	if at != 0 && (at == never || at > c.clock.Now()) {
		return false
	}
	if c.refreshing.Add(1) > int64(c.config.MaxConcurrentRefresh) {
		c.refreshing.Add(-1)
		c.counters.shed.Add(1)
		return false
	}
	if !hold.CompareAndSwap(at, never) {
		c.refreshing.Add(-1)
		return false
	}
	return true
}

// startRefresh loads k in the background, after mayRefresh.
func (c *Cache[K, V]) startRefresh(ctx context.Context, h uint64, k K) {
	s := c.lockFor(h)
	if c.queue != nil {
		if _, ok := c.queue.get(k); ok { // there is nothing newer than what will be written
			if n := s.core.arena.Find(uint32(h), k); n != 0 {
				s.core.columns.hold[n].Store(sum(c.clock.Now(), int64(c.config.RetryDelay)))
			}
			s.lock.Unlock()
			c.refreshing.Add(-1)
			return
		}
	}
	if s.flights.UnderWay(k) || !c.life.begin() {
		s.lock.Unlock()
		c.refreshing.Add(-1)
		return // the load that is under way clears the hold; after Close nobody minds it
	}
	run := c.newRun(ctx, true)
	call := s.flights.Start(k, run, false)
	s.lock.Unlock()
	c.counters.refreshes.Add(1)
	c.fly(run, []*loading[K, V]{call}, how{background: true})
}

// refreshed is called after a load in the background.
func (c *Cache[K, V]) refreshed(k K, err error) {
	if err == nil {
		return
	}
	c.counters.refreshErrors.Add(1)
	if c.config.OnRefreshError != nil {
		c.config.OnRefreshError(k, err)
	}
}

// longerThan returns until when what the second level has must live to be of use. Where a load
// in the background replaces an entry, that is a good deal longer than the entry does: somebody
// else has loaded it again.
func (c *Cache[K, V]) longerThan(h uint64, k K, how how) int64 {
	if !how.background {
		return 0
	}
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if n := s.core.arena.Find(uint32(h), k); n != 0 {
		return sum(s.core.deadline(n), s.core.ttl(n)/16)
	}
	return 1 // anything, but the value may have to be loaded all the same
}
