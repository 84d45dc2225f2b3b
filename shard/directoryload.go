package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// A dirBatch is keys that the store is asked for in one call. While it is open, which ends when it is full or
// when the store is asked, its run is wanted by itself, so that it takes further keys even if those
// who want the first ones have gone. Then it goes on for as long as somebody waits, or, if it is wanted,
// until the store has answered, or LoadTimeout is over.
type dirBatch[K comparable] struct {
	run    *flight.Run
	calls  []*dirCall[K]
	wanted bool
	closed bool
	turn   chan struct{} // closed when the store may be asked; running is set then
	runs   bool
}

// close is called when no more keys come.
func (b *dirBatch[K]) close() {
	if !b.closed {
		b.closed = true
		if !b.wanted {
			b.calls[0].Release()
		}
	}
}

// A dirQueue is the batches that wait for their turn, of which only the last may be open. While fewer than
// Concurrency batches are under way nobody waits; while there are that many, the keys that are asked
// for gather in the last one. So no key waits for others to come, and the busier the store is, the
// more keys it is asked for at once. A batch for which nobody waits any more leaves.
type dirQueue[K comparable] struct {
	mu      sync.Mutex // taken by who holds the lock of a segment, and not the other way round
	waiting []*dirBatch[K]
	running int
}

// drop takes out a batch, and reports whether it was there.
func (q *dirQueue[K]) drop(b *dirBatch[K]) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, b)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

// add starts a call for k, which nobody else is loading, in the last of batches, or in a new one if that
// is closed. If it is wanted, it does not end when nobody waits. The segment of k is locked.
func (d *Directory[K]) add(ctx context.Context, s *dirSegment[K], k K, batches []*dirBatch[K], waits, wanted bool) (*dirCall[K], []*dirBatch[K]) {
	if n := len(batches); n == 0 || batches[n-1].closed {
		batches = append(batches, &dirBatch[K]{run: flight.NewRun(ctx, 0, true), turn: make(chan struct{})})
	}
	b := batches[len(batches)-1]
	call := s.flights.Start(k, b.run, waits)
	b.calls = append(b.calls, call)
	b.wanted = b.wanted || wanted
	if len(b.calls) >= d.maxBatch {
		b.close()
	}
	return call, batches
}

// dispatch gives batches that wait their turn, as far as there may be more.
func (d *Directory[K]) dispatch() {
	q := &d.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running < d.concurrency && len(q.waiting) > 0 {
		b := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.running++
		b.close()
		b.runs = true
		close(b.turn)
	}
}

// launch lets a batch, which is in the queue, wait for its turn and ask the store, in a goroutine of its own.
func (d *Directory[K]) launch(b *dirBatch[K]) {
	var found []dirLoaded
	b.run.Go(func(ctx context.Context) error {
		select {
		case <-b.turn:
		case <-ctx.Done():
			d.queue.drop(b)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx) // nobody waits
		}
		found = make([]dirLoaded, len(b.calls))
		at := d.clock.Now()
		d.ask(ctx, b.calls, found, at)
		givenUp := ctx.Err() != nil
		for i, call := range b.calls {
			d.keep(call, &found[i], at, givenUp)
		}
		return nil
	}, func(err error) {
		d.queue.mu.Lock()
		if b.runs {
			d.queue.running--
		}
		d.queue.mu.Unlock()
		for i, call := range b.calls {
			l := dirLoaded{err: err}
			if err == nil {
				l = found[i]
			} else {
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

// ask asks the store for calls, within LoadTimeout from at, which is now.
func (d *Directory[K]) ask(ctx context.Context, calls []*dirCall[K], found []dirLoaded, at int64) {
	d.counters.loads.Add(uint64(len(calls)))
	asking, cancel := context.WithTimeoutCause(ctx, d.loadTimeout, d.tooLong())
	defer cancel()
	suspect := func() {
		if errors.Is(asking.Err(), context.DeadlineExceeded) {
			d.suspect(at)
		}
	}
	defer context.AfterFunc(asking, suspect)() // a Lookup that does not heed its context hangs too
	all := make([]int, len(calls))
	for i := range all {
		all[i] = i
	}
	d.askSome(asking, calls, found, all)
	suspect()
}

// tooLong is the error of a load that takes longer than LoadTimeout.
func (d *Directory[K]) tooLong() error {
	return fmt.Errorf("shard: the store of the directory has not answered for %v: %w", d.loadTimeout, context.DeadlineExceeded)
}

// suspect takes note that a call of the store that began at some time has not been answered in time. If no
// other was answered since, it is the store that hangs. Then, so that not each key has to find that out,
// nobody waits for it: who has a row, however old, is given that, and who has none, an error. After
// RetryAfter one load tries it again, and ends that if it is answered.
func (d *Directory[K]) suspect(at int64) {
	if d.answered.Load() <= at {
		d.suspicion.Store(dirSum(d.clock.Now(), d.retryAfter))
	}
}

// suspected reports whether the store hangs, and nobody is to try it.
func (d *Directory[K]) suspected() bool {
	at := d.suspicion.Load()
	return at != 0 && d.ahead(at)
}

// try reports whether the caller may ask the store, and whether he is the one who tries it though it hangs.
func (d *Directory[K]) try() (may, tries bool) {
	at := d.suspicion.Load()
	if at == 0 {
		return true, false
	}
	// If nothing comes of this try, not even that it takes too long, the next one is after that time.
	now := d.clock.Now()
	tries = at <= now && d.suspicion.CompareAndSwap(at, dirSum(dirSum(now, d.loadTimeout), d.retryAfter))
	return tries, tries
}

// lookup asks the store for keys.
func (d *Directory[K]) lookup(ctx context.Context, keys []K) (map[K]Placement, error) {
	d.counters.batches.Add(1)
	one := len(keys) == 1
	rows, err := d.store.Lookup(ctx, keys)
	if one && errors.Is(err, ErrNotFound) {
		err = nil
	}
	if err == nil || ctx.Err() == nil {
		d.answered.Store(d.clock.Now())
		d.suspicion.Store(0)
	}
	if err == nil {
		return rows, nil
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		d.counters.errors.Add(1)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	return rows, err
}

// askSome asks the store for some of calls. If it fails, that may be because of one of the keys, such as
// a string that is no UTF-8 where the store wants that, and the others are to have their answers. So some
// keys, far from each other, are asked for alone. If one of them is answered, it is not the store that
// fails, and what is left is tried again in halves. Of n keys of which b are bad that takes O(b log n) calls,
// and 9 if all are.
func (d *Directory[K]) askSome(ctx context.Context, calls []*dirCall[K], found []dirLoaded, some []int) {
	left := d.askOnce(ctx, calls, found, some)
	if len(left) == 0 || len(some) == 1 {
		return
	}
	works := len(left) < len(some)
	every := (len(left) + dirProbes - 1) / dirProbes
	var rest []int
	for i := range left {
		switch {
		case ctx.Err() != nil:
			return
		case works || i%every != 0:
			rest = append(rest, left[i])
		default:
			works = len(d.askOnce(ctx, calls, found, left[i:i+1])) == 0
		}
	}
	half := (len(rest) + 1) / 2
	for _, part := range [][]int{rest[:half], rest[half:]} {
		if works && len(part) > 0 && ctx.Err() == nil {
			d.askSome(ctx, calls, found, part)
		}
	}
}

// dirProbes is how many keys are asked for alone before the store is taken to be down.
const dirProbes = 8

// askOnce asks the store for some of calls, and returns those of which it has not learned.
func (d *Directory[K]) askOnce(ctx context.Context, calls []*dirCall[K], found []dirLoaded, some []int) (left []int) {
	keys := make([]K, len(some))
	for i, at := range some {
		keys[i] = calls[at].Key
	}
	rows, err := d.lookup(ctx, keys)
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
	return left
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
// in the same step. If the call was overtaken, what it has found may be outdated, and is not kept. Those
// who wait for it are given what is there, if it is fresh, and not what was found, even if that is newer: else
// one of them could ask again, and be given what is there after that. A load that was given up has
// failed because nobody waits for it.
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
	case !valid && n != 0 && d.ahead(s.lists.Value(n).deadline):
		if it != nil {
			d.rescue(it, l)
		} else {
			l.err = ErrNotFound
		}
	case l.done && l.err == nil:
		if it != nil && it.epoch > l.answer.placement.Epoch && d.ahead(dirSum(it.deadline, min(d.ttl, d.staleFor))) {
			d.counters.lagging.Add(1)
			d.rescue(it, l)
		} else if valid {
			s.set(n, uint32(h), k, d.item(l.answer.placement, at))
		}
	case l.err == ErrNotFound:
		if valid && d.negativeTTL > 0 {
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
// is under way, or starts one, in batches if that is not nil, else in one that it adds to the queue. It
// may have done so too if it returns a row that is stale.
func (d *Directory[K]) begin(ctx context.Context, h uint64, k K, batches *[]*dirBatch[K]) (call *dirCall[K], p Placement, use dirUse) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	old := false // whether there is a row that may be the answer if the store hangs
	if n := s.lists.Find(uint32(h), k); n != 0 {
		it := s.lists.Value(n)
		use = d.judge(it)
		old = use == dirNothing && d.servable(it)
		if old && it.hold != 0 {
			// The store has failed when it was asked for this key last. One caller at a time tries again;
			// the others do not wait for him.
			it.hold = dirSum(d.clock.Now(), d.retryAfter)
			if s.flights.UnderWay(k) {
				use = dirStale
			}
		}
		if use == dirFresh {
			s.hits++
		}
		if old || use == dirFresh || use == dirStale {
			it.use()
			p = it.placement()
		}
	}
	if use != dirNothing {
		return nil, p, use
	}
	may, tries := d.try()
	switch {
	case !may && old:
		return nil, p, dirStale
	case !may:
		return nil, p, dirHangs
	case !tries: // whose load must not be one that hangs already
		if call = s.flights.Join(k); call != nil {
			return call, Placement{}, dirNothing
		}
	}
	// The load of a row that is old, or of who tries a store that hangs, is of use to others, too: it
	// goes on when its callers have gone. With an old row nobody waits for a store that hangs.
	waits, wanted := !(tries && old), tries || old
	if batches != nil {
		call, *batches = d.add(ctx, s, k, *batches, waits, wanted)
	} else {
		d.queue.mu.Lock()
		n := len(d.queue.waiting)
		call, d.queue.waiting = d.add(ctx, s, k, d.queue.waiting, waits, wanted)
		for _, b := range d.queue.waiting[n:] {
			d.launch(b)
		}
		d.queue.mu.Unlock()
	}
	if !waits {
		return nil, p, dirStale
	}
	return call, Placement{}, dirNothing
}

// patience is how long somebody waits for a call. The store has LoadTimeout, from when it is asked; as much
// again is for the batches before. More can only be needed if it is very busy, or if a Lookup does not
// heed its context.
func (d *Directory[K]) patience() time.Duration {
	return time.Duration(dirSum(int64(d.loadTimeout), d.loadTimeout))
}

// tooBusy is the error of who has waited for that long.
func (d *Directory[K]) tooBusy() error {
	return fmt.Errorf("shard: other keys before, or the store of the directory, have taken %v: %w", d.patience(), context.DeadlineExceeded)
}

// wait waits for a call, and reports whether it has taken longer than that.
func (d *Directory[K]) wait(ctx context.Context, h uint64, call *dirCall[K], patience time.Duration) (p Placement, long bool, err error) {
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := call.Wait(bound)
	if err != nil && bound.Err() == context.DeadlineExceeded && errors.Is(err, bound.Err()) {
		p, a.stale = d.late(h, call.Key)
		switch {
		case ctx.Err() != nil:
			return Placement{}, false, ctx.Err()
		case !a.stale:
			return Placement{}, true, d.tooBusy()
		}
		d.counters.stale.Add(1)
		return p, true, nil
	}
	if err != nil {
		return Placement{}, false, err
	}
	if a.stale {
		d.counters.stale.Add(1)
	}
	return a.placement, false, nil
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
