package shard

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/internal/flight"
)

// A dirAnswer is what the callers of a load get, if there is no error.
type dirAnswer struct {
	placement Placement
	stale     bool
}

type dirCall[K comparable] = flight.Call[K, dirAnswer]

// A dirBatch is keys that the store is asked for in one call. From when the first of them is added until
// the store is asked, the run is wanted by itself, so that it takes further keys even if those
// who want the first ones have gone.
type dirBatch[K comparable] struct {
	run   *flight.Run
	calls []*dirCall[K]
}

// A dirQueue is the batches that wait for their turn. While fewer than Concurrency batches are under way
// nobody waits; while there are that many, the keys that are asked for gather in the next one. So no
// key waits for others to come, and the busier the store is, the more keys it is asked for at once.
type dirQueue[K comparable] struct {
	mu      sync.Mutex // taken by who holds the lock of a segment, and not the other way round
	waiting []*dirBatch[K]
	running int
}

// add starts a call for k, which nobody else is loading, in the last of batches, or in a new one if that
// is full. The segment of k is locked.
func (d *Directory[K]) add(ctx context.Context, s *dirSegment[K], k K, batches []*dirBatch[K]) (*dirCall[K], []*dirBatch[K]) {
	if n := len(batches); n == 0 || len(batches[n-1].calls) >= d.maxBatch {
		batches = append(batches, &dirBatch[K]{run: flight.NewRun(ctx, 0, true)})
	}
	b := batches[len(batches)-1]
	call := s.flights.Start(k, b.run, true)
	b.calls = append(b.calls, call)
	return call, batches
}

// dispatch launches the batches that wait, as far as there may be more.
func (d *Directory[K]) dispatch() {
	q := &d.queue
	for {
		q.mu.Lock()
		if q.running >= d.concurrency || len(q.waiting) == 0 {
			q.mu.Unlock()
			return
		}
		b := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.running++
		q.mu.Unlock()
		d.launch(b)
	}
}

// launch asks the store for a batch, in a goroutine of its own.
func (d *Directory[K]) launch(b *dirBatch[K]) {
	b.calls[0].Release() // from now on the run is wanted as long as somebody waits
	found := make([]dirLoaded, len(b.calls))
	b.run.Go(func(ctx context.Context) error {
		if ctx.Err() != nil {
			return context.Cause(ctx) // nobody waits
		}
		at := d.clock.Now()
		d.ask(ctx, b.calls, found)
		givenUp := ctx.Err() != nil
		for i, call := range b.calls {
			d.keep(call, &found[i], at, givenUp)
		}
		return nil
	}, func(err error) {
		d.queue.mu.Lock()
		d.queue.running--
		d.queue.mu.Unlock()
		for i, call := range b.calls {
			l := &found[i]
			if err != nil {
				*l = dirLoaded{err: err}
				d.abort(call, err)
			}
			call.Finish(l.answer, l.err)
		}
		d.dispatch()
	})
}

// dirLoaded is what was loaded for a key.
type dirLoaded struct {
	answer dirAnswer // if there is no error
	err    error     // ErrNotFound, or why it is not known
	done   bool      // the store has answered
}

// ask asks the store for calls, within LoadTimeout.
func (d *Directory[K]) ask(ctx context.Context, calls []*dirCall[K], found []dirLoaded) {
	d.counters.loads.Add(uint64(len(calls)))
	asking, cancel := context.WithTimeoutCause(ctx, d.loadTimeout, d.tooLong())
	defer cancel()
	all := make([]int, len(calls))
	for i := range all {
		all[i] = i
	}
	failures := 0
	d.askSome(asking, calls, found, all, &failures)
}

// tooLong is the error of a load that takes longer than LoadTimeout.
func (d *Directory[K]) tooLong() error {
	return fmt.Errorf("shard: the store of the directory has not answered for %v: %w", d.loadTimeout, context.DeadlineExceeded)
}

// askSome asks the store for some of calls. If it fails, that may be because of one of the keys, such as
// a string that is no UTF-8 where the store wants that, and the others are to have their answers. So what
// is left is tried again in halves, until more have failed in a row than it takes to come from all
// keys down to one: then it is the store that fails.
func (d *Directory[K]) askSome(ctx context.Context, calls []*dirCall[K], found []dirLoaded, some []int, failures *int) {
	keys := make([]K, len(some))
	for i, at := range some {
		keys[i] = calls[at].Key
	}
	d.counters.batches.Add(1)
	rows, err := d.store.Lookup(ctx, keys)
	if len(some) == 1 && errors.Is(err, ErrNotFound) {
		err = nil
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	var left []int
	for _, at := range some {
		l := &found[at]
		p, ok := rows[calls[at].Key]
		switch {
		case ok:
			l.answer.placement, l.err, l.done = p, checkRow(p), true
		case err == nil:
			l.err, l.done = ErrNotFound, true
		default:
			l.err = err
			left = append(left, at)
		}
	}
	if err == nil {
		*failures = 0
		return
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		d.counters.errors.Add(1)
	}
	if *failures++; len(left) < len(some) {
		*failures = 0 // it has answered for some
	}
	if len(some) == 1 {
		return
	}
	half := (len(left) + 1) / 2
	for _, part := range [][]int{left[:half], left[half:]} {
		if len(part) == 0 || ctx.Err() != nil || *failures > bits.Len(uint(len(calls)-1))+1 {
			return
		}
		d.askSome(ctx, calls, found, part, failures)
	}
}

// checkRow returns an error if p cannot be a row.
func checkRow(p Placement) error {
	switch {
	case p.Shard == "":
		return errors.New("shard: Shard of a row must not be empty")
	case p.State > Fenced:
		return fmt.Errorf("shard: State of a row must be serving, migrating or fenced, got %v", p.State)
	}
	return nil
}

// keep keeps what was loaded for call from the store, which was asked at a time, and ends the call
// in the same step. If the call was overtaken, what it has found may be outdated, and is not kept; those
// who wait for it came before that, so they may have it. A load that was given up has failed
// because nobody waits for it.
func (d *Directory[K]) keep(call *dirCall[K], l *dirLoaded, at int64, givenUp bool) {
	k := call.Key
	h := d.hash(k)
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	valid := s.flights.End(call)
	n := s.lists.Find(uint32(h), k)
	var it *dirItem // a placement that may be the answer if the store has none that is better
	if n != 0 && d.servable(s.lists.Value(n)) {
		it = s.lists.Value(n)
	}
	switch {
	case !l.done && givenUp:
	case l.done && l.err == nil:
		if it != nil && it.epoch > l.answer.placement.Epoch {
			d.counters.lagging.Add(1)
			d.rescue(it, l)
		} else if valid {
			s.set(n, uint32(h), k, d.item(l.answer.placement, at))
		}
	case l.err == ErrNotFound:
		if !valid && it != nil && d.ahead(it.deadline) {
			d.rescue(it, l) // it was inserted meanwhile
		} else if valid && d.negativeTTL > 0 {
			s.set(n, uint32(h), k, dirItem{deadline: dirSum(at, d.negativeTTL)})
		} else if valid && n != 0 {
			s.remove(n)
		}
	case it != nil:
		d.rescue(it, l)
	}
}

// rescue makes it the answer in place of what was loaded. The store is not asked again for a while, if
// it would have to be.
func (d *Directory[K]) rescue(it *dirItem, l *dirLoaded) {
	stale := !d.ahead(it.deadline)
	if stale {
		it.hold = dirSum(d.clock.Now(), d.retryAfter)
	}
	l.answer, l.err = dirAnswer{it.placement(), stale}, nil
}

// abort ends a call whose load has panicked, or was given up before it began.
func (d *Directory[K]) abort(call *dirCall[K], err error) {
	h := d.hash(call.Key)
	s := d.of(h)
	s.lock.Lock()
	s.flights.End(call)
	s.lock.Unlock()
	if _, ok := err.(*flight.PanicError); ok || err == flight.ErrGoexit {
		d.late(h, call.Key) // so that not everyone is given the panic
	}
}

// begin looks for k again, now under the lock. If the store is to be asked, it joins the call for k that
// is under way, or starts one, in batches if that is not nil, else in one that is to be dispatched.
func (d *Directory[K]) begin(ctx context.Context, h uint64, k K, batches *[]*dirBatch[K]) (call *dirCall[K], p Placement, use dirUse) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	if n := s.lists.Find(uint32(h), k); n != 0 {
		it := s.lists.Value(n)
		use = d.judge(it)
		if use == dirNothing && it.hold != 0 && d.servable(it) {
			// The store has failed when it was asked for this key last. One caller at a time tries again;
			// the others do not wait for him.
			it.hold = dirSum(d.clock.Now(), d.retryAfter)
			if s.flights.UnderWay(k) {
				use = dirStale
			}
		}
		switch use {
		case dirFresh, dirStale:
			if use == dirFresh {
				s.hits++
			}
			it.use()
			return nil, it.placement(), use
		case dirNegative:
			return nil, p, use
		}
	}
	if call = s.flights.Join(k); call != nil {
		return call, p, use
	}
	if batches != nil {
		call, *batches = d.add(ctx, s, k, *batches)
		return call, p, use
	}
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	call, d.queue.waiting = d.add(ctx, s, k, d.queue.waiting)
	return call, p, use
}

// wait waits for a call.
func (d *Directory[K]) wait(ctx context.Context, h uint64, call *dirCall[K]) (p Placement, err error) {
	// The store has LoadTimeout, from when it is asked; as much again is for the batches before. More can
	// only be needed if a Lookup does not heed its context.
	bound, cancel := context.WithTimeout(ctx, time.Duration(dirSum(int64(d.loadTimeout), d.loadTimeout)))
	defer cancel()
	a, err := call.Wait(bound)
	switch {
	case err == nil:
		p = a.placement
	case bound.Err() == context.DeadlineExceeded && errors.Is(err, context.DeadlineExceeded):
		p, a.stale = d.late(h, call.Key)
		switch {
		case ctx.Err() != nil:
			return Placement{}, ctx.Err()
		case !a.stale:
			return Placement{}, d.tooLong()
		}
	default:
		return Placement{}, err
	}
	if a.stale {
		d.counters.stale.Add(1)
	}
	return p, nil
}

// late takes note that somebody has waited for the store for as long as he could, and returns the stale
// placement of k, if there is one. From now on others are given it without waiting: else, while a store
// hangs, nobody whose time is shorter than LoadTimeout would ever be given it.
func (d *Directory[K]) late(h uint64, k K) (p Placement, ok bool) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	n := s.lists.Find(uint32(h), k)
	if n == 0 || !d.servable(s.lists.Value(n)) {
		return p, false
	}
	it := s.lists.Value(n)
	if !d.ahead(it.deadline) {
		it.hold = dirSum(d.clock.Now(), d.retryAfter)
	}
	return it.placement(), true
}
