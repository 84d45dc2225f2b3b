package ratelimit

import (
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/sharding"
)

// debts are what keys owe, for as many as may be: the part of a Keyed that knows no hash function. S
// is what is stored of a key, besides its hash: the key itself, or struct{}, which is always equal.
type debts[S comparable] struct {
	base   time.Time
	onFull OnFull
	max    int64
	shards []shard[S]
	which  uint // a hash shifted by so much is its shard

	_        [64]byte     // what follows is written by all who come with a new key
	used     atomic.Int64 // entries in all shards, at most max
	overflow shard[S]     // has one entry, in the first cell; with ShareOverflow
}

// newDebts returns debts in n shards, a power of two.
func newDebts[S comparable](config KeyedConfig, shift uint8, n int) *debts[S] {
	procs := runtime.GOMAXPROCS(0)
	d := &debts[S]{
		base: time.Now(), onFull: config.OnFull, max: int64(config.MaxKeys),
		shards: make([]shard[S], n), which: uint(64 - bits.Len(uint(n-1))),
	}
	stripes := sharding.Stripes(procs, config.MaxKeys/n/minPerStripe)
	for i := range d.shards {
		d.shards[i].init(stripes, shift)
	}
	if config.OnFull == ShareOverflow {
		d.overflow.init(sharding.Stripes(procs, math.MaxInt), shift)
		d.overflow.cells[0].hash = 1
	}
	return d
}

// take takes n tokens of k, with hash h, or only looks if debit is false. The limit is not constant.
func (d *debts[S]) take(h uint64, k S, l *keyedLimit, n int64, debit bool) Result {
	s := &d.shards[h>>d.which]
	t := time.Since(d.base)
	if lock := s.lock.TryRLock(); lock != nil {
		if uint64(t-s.origin) <= uint64(s.horizon) {
			now := int64(t-s.origin) << s.shift
			if i := s.find(h, k); i >= 0 {
				r, _ := l.decide(&s.cells[i].tat, now, n, debit)
				lock.RUnlock()
				return r
			}
			if !debit && (d.onFull == DropLeast || d.used.Load() < d.max) {
				lock.RUnlock()
				return l.untouched(now, n)
			}
		}
		lock.RUnlock()
	}
	// What is not to be taken, or cannot be, gives an absent key no place.
	return d.takeSlow(s, h, k, l, t, n, debit && n > 0 && n <= l.burst)
}

// takeSlow is take for who found no entry, or the lock taken.
func (d *debts[S]) takeSlow(s *shard[S], h uint64, k S, l *keyedLimit, t time.Duration, n int64, debit bool) Result {
	for {
		s.lock.Lock()
		now := s.now(t)
		i, reuse := s.locate(h, k, now)
		if i >= 0 {
			r, _ := l.decide(&s.cells[i].tat, now, n, debit)
			s.lock.Unlock()
			return r
		}
		var wait int64 // until there is room
		switch {
		case !debit:
			wait = d.waitForRoom(s, reuse, now)
		case reuse >= 0:
			i = reuse
			s.put(i, h, k)
		default:
			i, wait = d.insert(s, h, k, now)
		}
		if i >= 0 {
			// A bucket that was full.
			tat := now + n*l.inc
			s.cells[i].tat.Store(tat)
			s.note(i, tat)
			s.lock.Unlock()
			return l.result(tat, now, n, 0)
		}
		s.lock.Unlock()
		if wait == elsewhere {
			wait = d.lookElsewhere(s, t, debit)
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
		if d.onFull == ShareOverflow {
			return d.takeOverflow(l, t, n, debit)
		}
		w := l.duration(wait)
		r := Result{Limit: l.burst, RetryAfter: w, ResetAfter: w, NextToken: w}
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
func (d *debts[S]) insert(s *shard[S], h uint64, k S, now int64) (i int, wait int64) {
	crowded := s.crowded()
	if crowded || !d.reserve() {
		freed, least := d.sweep(s, now)
		switch {
		case freed > 0:
			// One goes, one comes: then d.used, which all shards write to, stays.
			if freed > 1 {
				d.used.Add(1 - freed)
			}
		case crowded && d.reserve():
			d.used.Add(-int64(s.grow(now)))
		case least < 0:
			return -1, elsewhere
		case d.onFull != DropLeast:
			return -1, s.least() - now
		default:
			s.remove(least)
			s.dropped++
		}
	}
	i = s.empty(h)
	s.put(i, h, k)
	s.len++
	return i, 0
}

// sweep looks for entries in s that owe nothing: at some of them, or, if new keys would have to be
// refused, at all. So those are refused only if all in the shard are in debt, and RetryAfter is when the
// first is not.
func (d *debts[S]) sweep(s *shard[S], now int64) (freed int64, least int) {
	freed, least = s.sweep(now, sample)
	if freed == 0 && d.onFull != DropLeast && least >= 0 && s.least() <= now {
		freed, least = s.sweep(now, s.len)
	}
	return freed, least
}

// reserve counts one more entry, unless there are MaxKeys.
func (d *debts[S]) reserve() bool {
	for {
		n := d.used.Load()
		if n >= d.max {
			return false
		}
		if d.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// waitForRoom returns the wait that insert would, and removes nothing. With DropLeast there is none.
func (d *debts[S]) waitForRoom(s *shard[S], reuse int, now int64) int64 {
	switch {
	case d.onFull == DropLeast || reuse >= 0 || d.used.Load() < d.max:
		return 0
	case s.len == 0:
		return elsewhere
	}
	return max(0, s.least()-now)
}

// lookElsewhere makes room in another shard than s, which has no entries, or only looks if debit is false,
// and returns 0; or how long there will not be any.
func (d *debts[S]) lookElsewhere(s *shard[S], t time.Duration, debit bool) (wait int64) {
	from := 0
	for &d.shards[from] != s {
		from++
	}
	for i := 1; i < len(d.shards); i++ {
		s := &d.shards[(from+i)%len(d.shards)]
		s.lock.Lock()
		if s.len == 0 {
			s.lock.Unlock()
			continue
		}
		now := s.now(t)
		free := d.onFull == DropLeast || s.least() <= now
		if free && debit {
			freed, least := s.sweep(now, s.len)
			if freed == 0 {
				s.remove(least)
				s.dropped++
				freed = 1
			}
			d.used.Add(-freed)
		}
		owes := s.soonest - now
		s.lock.Unlock()
		if free {
			return 0
		}
		if wait == 0 || owes < wait {
			wait = owes
		}
	}
	return wait // 0 if all have been deleted meanwhile
}

// takeOverflow is take for all that have no place.
func (d *debts[S]) takeOverflow(l *keyedLimit, t time.Duration, n int64, debit bool) Result {
	s := &d.overflow
	if lock := s.lock.TryRLock(); lock != nil {
		if uint64(t-s.origin) <= uint64(s.horizon) {
			r, _ := l.decide(&s.cells[0].tat, int64(t-s.origin)<<s.shift, n, debit)
			lock.RUnlock()
			return r
		}
		lock.RUnlock()
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	r, _ := l.decide(&s.cells[0].tat, s.now(t), n, debit)
	return r
}

func (d *debts[S]) delete(h uint64, k S) bool {
	s := &d.shards[h>>d.which]
	s.lock.Lock()
	defer s.lock.Unlock()
	i := s.find(h, k)
	if i < 0 {
		return false
	}
	s.remove(i)
	d.used.Add(-1)
	return true
}

func (d *debts[S]) clear() {
	for i := range d.shards {
		s := &d.shards[i]
		s.lock.Lock()
		d.used.Add(-int64(s.len))
		s.clear()
		s.lock.Unlock()
	}
	if d.onFull == ShareOverflow {
		d.overflow.lock.Lock()
		d.overflow.cells[0].tat.Store(0)
		d.overflow.lock.Unlock()
	}
}

// all yields all keys that are in debt, and how much, with no lock held.
func (d *debts[S]) all(yield func(k S, owes int64) bool) {
	type debt struct {
		k    S
		owes int64
	}
	for i := range d.shards {
		s := &d.shards[i]
		s.lock.Lock()
		now := s.now(time.Since(d.base))
		var debts []debt
		for j := range s.cells {
			c := &s.cells[j]
			if owes := c.tat.Load() - now; c.hash != 0 && owes > 0 {
				debts = append(debts, debt{c.key, owes})
			}
		}
		s.lock.Unlock()
		for _, d := range debts {
			if !yield(d.k, d.owes) {
				return
			}
		}
	}
}

func (d *debts[S]) stats() KeyedStats {
	var sum KeyedStats
	for i := range d.shards {
		s := &d.shards[i]
		s.lock.Lock()
		sum.Dropped += s.dropped
		s.lock.Unlock()
		sum.TurnedAway += s.turnedAway.Load()
	}
	return sum
}
