package ttlcache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/internal/flight"
)

// A BatchConfig says how WriteBehind writes. The zero value is a good default.
type BatchConfig struct {
	_ struct{}

	// Size is the largest number of keys in a batch. 0 is 100.
	Size int
	// Delay is how long a write waits for others with which to make a batch. 0 is 100 ms.
	Delay time.Duration
	// Workers is the number of batches that are written at one time. 0 is 1.
	Workers int
	// Retries is how often a batch that failed is tried again, at growing intervals, before
	// it is given up: 0 is 10, and math.MaxInt for ever. Before that, its keys are tried
	// in ever smaller batches, so that one that the Store cannot take does not spoil the
	// others. What was given up is reported to OnWriteError, and that is that; without
	// one it stays in the queue and is tried once more every MaxBackoff, or every second if
	// that is less, until Flush or Close returns it.
	Retries int
	// Backoff is the time before the first of these, which doubles each time up to
	// MaxBackoff; each is shortened by up to a half, by chance. 0 is 10 ms, and 5 s or Backoff
	// if that is more.
	Backoff, MaxBackoff time.Duration
	// Queue is the number of keys that may wait to be written, those included that were given
	// up and that nobody has been told of. 0 is 65536.
	Queue int
	// WhenFull says what Set, Delete and the like do when so many wait.
	WhenFull WhenFull
}

// WhenFull says what is to be done with a write for which there is no room in a queue.
type WhenFull uint8

const (
	// Block waits until there is, or until the context of the call ends.
	Block WhenFull = iota
	// WriteNow writes to the Store at once, and waits for that.
	WriteNow
)

func (b *BatchConfig) validate() error {
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"Size", int64(b.Size)},
		{"Delay", int64(b.Delay)},
		{"Workers", int64(b.Workers)},
		{"Retries", int64(b.Retries)},
		{"Backoff", int64(b.Backoff)},
		{"MaxBackoff", int64(b.MaxBackoff)},
		{"Queue", int64(b.Queue)},
	} {
		if n.value < 0 {
			return fmt.Errorf("ttlcache: Batch.%s must be at least 0, got %d", n.name, n.value)
		}
	}
	if b.MaxBackoff > 0 && b.MaxBackoff < b.Backoff {
		return fmt.Errorf("ttlcache: Batch.MaxBackoff must be at least Batch.Backoff, %v, got %v", b.Backoff, b.MaxBackoff)
	}
	if b.WhenFull > WriteNow {
		return fmt.Errorf("ttlcache: Batch.WhenFull must be Block or WriteNow, got %d", b.WhenFull)
	}
	return nil
}

func (b *BatchConfig) setDefaults() {
	for p, d := range map[*int]int{&b.Size: 100, &b.Workers: 1, &b.Retries: 10, &b.Queue: 1 << 16} {
		if *p == 0 {
			*p = d
		}
	}
	for p, d := range map[*time.Duration]time.Duration{
		&b.Delay: 100 * time.Millisecond, &b.Backoff: 10 * time.Millisecond, &b.MaxBackoff: 5 * time.Second,
	} {
		if *p == 0 {
			*p = d
		}
	}
	b.MaxBackoff = max(b.MaxBackoff, b.Backoff)
}

// A WriteError has writes that were acknowledged and could not be made, with each key once and
// its last value.
type WriteError[K comparable, V any] struct {
	Writes []Write[K, V] // in no order
	Err    error         // of the last attempt
}

// Error returns how many writes there are, the first keys, and the error.
func (e *WriteError[K, V]) Error() string {
	keys := make([]K, 0, 3)
	for _, w := range e.Writes[:min(len(e.Writes), cap(keys))] {
		keys = append(keys, w.Key)
	}
	return fmt.Sprintf("ttlcache: %d writes could not be made, among them of %v: %v", len(e.Writes), keys, e.Err)
}

// Unwrap returns the error.
func (e *WriteError[K, V]) Unwrap() error { return e.Err }

// A pendingWrite is a write and what the cache needs to take the value back.
type pendingWrite[K comparable, V any] struct {
	Write[K, V]
	ttl    int64
	weight uint32
}

// A pending is a key that has not been written yet.
//
// It is in one place at a time: in ready, in the hands of a worker, or parked. A write of a key
// that a worker has comes into again, and becomes the key's write when the worker is done. So
// the writes of a key reach the Store in their order, and of those that wait only the last.
type pending[K comparable, V any] struct {
	write pendingWrite[K, V]
	since int64 // when it came into the queue
	taken bool  // a worker has it
	again *pendingWrite[K, V]
	err   error // why it is parked
	epoch int   // of the queue, when it was parked
	told  bool  // it is not in the queue any more: a Flush has returned it, or Close

	// barriers are told when write is done, and later when again is.
	barriers, later []*barrier[K, V]
}

// A barrier is a Flush that waits for some keys.
type barrier[K comparable, V any] struct {
	left   int
	failed []*pending[K, V] // those that were given up, the first time
	done   chan struct{}
}

func (b *barrier[K, V]) pass() {
	if b.left--; b.left == 0 {
		close(b.done)
	}
}

// A queue is the writes that WriteBehind has acknowledged and not made yet. Who holds the lock
// of a shard may call get; it calls the cache only without its own lock.
type queue[K comparable, V any] struct {
	cache *Cache[K, V]
	batch BatchConfig
	slots chan struct{} // one for each key

	ctx    context.Context // of calls of the Store
	cancel context.CancelFunc
	wg     sync.WaitGroup // the workers

	mu       sync.Mutex
	work     sync.Cond // of the workers
	keys     map[K]*pending[K, V]
	ready    []*pending[K, V] // in the order in which they came
	parked   []*pending[K, V] // given up, but nobody has been told
	epoch    int              // those parked in an earlier one are tried again
	flushing int              // callers for whom there is no delay
	down     bool             // nothing of the last batch could be written
	stopped  bool
	timer    *time.Timer // for the delay
	revival  *time.Timer // for the next epoch

	closing chan struct{} // closed when nobody is to wait for a slot any more
}

func newQueue[K comparable, V any](c *Cache[K, V]) *queue[K, V] {
	q := &queue[K, V]{
		cache: c,
		batch: c.config.Batch,
		slots: make(chan struct{}, c.config.Batch.Queue),
		keys:  map[K]*pending[K, V]{},

		closing: make(chan struct{}),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.work.L = &q.mu
	for range q.batch.Workers {
		q.wg.Go(q.worker)
	}
	return q
}

// put adds a write, and reports whether it did: if not, and there is no error, the caller is to
// make it himself. He has locked the key, so no other write of it can come in between.
func (q *queue[K, V]) put(ctx context.Context, w pendingWrite[K, V]) (bool, error) {
	if q.coalesce(w) {
		return true, nil
	}
	select {
	case q.slots <- struct{}{}:
	default:
		if q.batch.WhenFull == WriteNow {
			return false, nil
		}
		select {
		case q.slots <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-q.closing:
			return false, ErrClosed
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return false, ErrClosed
	}
	p := &pending[K, V]{write: w, since: q.cache.clock.Now()}
	q.keys[w.Key] = p
	q.push(p)
	return true, nil
}

// coalesce puts a write in the place of one of the same key that has not been made.
func (q *queue[K, V]) coalesce(w pendingWrite[K, V]) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.keys[w.Key]
	if p == nil || q.stopped {
		return false
	}
	if p.taken {
		if p.again != nil {
			q.cache.counters.merge.Add(1)
		}
		p.again = &w
		return true
	}
	q.cache.counters.merge.Add(1)
	p.write = w
	if p.err != nil { // a new write is a new chance
		p.err = nil
		q.parked = slices.DeleteFunc(q.parked, func(other *pending[K, V]) bool { return other == p })
		q.push(p)
	}
	return true
}

// push makes p ready.
func (q *queue[K, V]) push(p *pending[K, V]) {
	q.ready = append(q.ready, p)
	if len(q.ready) == 1 || len(q.ready) >= q.batch.Size {
		q.work.Signal()
	}
}

// get returns the last write of k that has not been made.
func (q *queue[K, V]) get(k K) (pendingWrite[K, V], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.keys[k]
	switch {
	case p == nil:
		return pendingWrite[K, V]{}, false
	case p.again != nil:
		return *p.again, true
	}
	return p.write, true
}

// len returns the number of keys.
func (q *queue[K, V]) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.keys)
}

// worker writes batches until the queue is stopped.
func (q *queue[K, V]) worker() {
	for {
		batch, again := q.take()
		if batch == nil {
			return
		}
		q.write(batch, again)
	}
}

// take waits for a batch that is due, and takes it; again says that it was given up before. It
// returns nil when the queue is stopped.
func (q *queue[K, V]) take() (batch []*pending[K, V], again bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.stopped {
			return nil, false
		}
		// First, because those that are ready may never end; and each once in an epoch.
		if batch := q.takeParked(); batch != nil {
			return batch, true
		}
		if len(q.ready) > 0 {
			wait := q.ready[0].since + int64(q.batch.Delay) - q.cache.clock.Now()
			if len(q.ready) >= q.batch.Size || q.flushing > 0 || wait <= 0 {
				break
			}
			if q.timer == nil {
				q.timer = time.AfterFunc(time.Duration(wait), func() {
					// With the lock, so that a worker that has just armed the timer waits.
					q.mu.Lock()
					defer q.mu.Unlock()
					q.work.Broadcast()
				})
			} else {
				q.timer.Reset(time.Duration(wait))
			}
		}
		q.work.Wait()
	}
	n := min(len(q.ready), q.batch.Size)
	batch = make([]*pending[K, V], n)
	copy(batch, q.ready)
	clear(q.ready[:n])
	if q.ready = q.ready[n:]; len(q.ready) == 0 {
		q.ready = nil
	} else {
		q.work.Signal() // there may be another batch
	}
	for _, p := range batch {
		p.taken = true
	}
	return batch, false
}

// takeParked takes a batch of those that were parked in an earlier epoch, if there are any.
func (q *queue[K, V]) takeParked() (batch []*pending[K, V]) {
	for len(q.parked) > 0 && q.parked[0].epoch < q.epoch && len(batch) < q.batch.Size {
		p := q.parked[0]
		q.parked = q.parked[1:]
		p.taken, p.err = true, nil
		batch = append(batch, p)
	}
	return batch
}

// park parks p, which was given up because of err. After a while, it is tried again: the
// Store may have come back.
func (q *queue[K, V]) park(p *pending[K, V], err error) {
	p.err, p.epoch = err, q.epoch
	q.parked = append(q.parked, p)
	if len(q.parked) > 1 {
		return
	}
	after := max(q.batch.MaxBackoff, time.Second)
	if q.revival == nil {
		q.revival = time.AfterFunc(after, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.revive()
			if len(q.parked) > 0 && !q.stopped {
				q.revival.Reset(after)
			}
		})
	} else {
		q.revival.Reset(after)
	}
}

// revive has those that are parked tried again, once.
func (q *queue[K, V]) revive() {
	q.epoch++
	q.work.Broadcast()
}

// write writes a batch, with all that can be done about failures; if it was given up before, that
// is one attempt, and others with parts of it.
func (q *queue[K, V]) write(batch []*pending[K, V], again bool) {
	writes := make([]Write[K, V], len(batch))
	for i, p := range batch {
		writes[i] = p.write.Write
	}
	wait := q.batch.Backoff
	for attempt := 0; ; attempt++ {
		err := q.store(writes)
		if err == nil {
			q.setDown(false)
			q.finish(batch, nil)
			return
		}
		if again || attempt >= q.batch.Retries || q.ctx.Err() != nil || q.isDown() {
			q.divide(batch, writes, err)
			return
		}
		q.cache.counters.retries.Add(1)
		timer := time.NewTimer(wait - rand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-q.ctx.Done():
			timer.Stop()
		}
		if wait *= 2; wait > q.batch.MaxBackoff || wait <= 0 {
			wait = q.batch.MaxBackoff
		}
	}
}

// divide tries the halves of a batch that has failed, and so on, down to single keys.
func (q *queue[K, V]) divide(batch []*pending[K, V], writes []Write[K, V], err error) {
	if len(batch) == 1 || q.ctx.Err() != nil || q.isDown() {
		q.setDown(true)
		q.finish(batch, err)
		return
	}
	type part struct{ from, to int }
	parts := []part{{0, len(batch) / 2}, {len(batch) / 2, len(batch)}}
	var failed []*pending[K, V]
	written := false
	for len(parts) > 0 && q.ctx.Err() == nil {
		p := parts[0]
		parts = parts[1:]
		e := q.store(writes[p.from:p.to])
		switch {
		case e == nil:
			written = true
			q.finish(batch[p.from:p.to], nil)
		case p.to-p.from == 1:
			err = e
			failed = append(failed, batch[p.from])
		default:
			middle := (p.from + p.to) / 2
			parts = append(parts, part{p.from, middle}, part{middle, p.to})
		}
	}
	for _, p := range parts {
		failed = append(failed, batch[p.from:p.to]...)
	}
	q.setDown(!written)
	if len(failed) > 0 {
		q.finish(failed, err)
	}
}

// store calls the Store, in a goroutine of its own. A panic is an error, and so is runtime.Goexit:
// nobody's call would get it.
func (q *queue[K, V]) store(writes []Write[K, V]) error {
	result := make(chan error, 1)
	go func() {
		err := error(flight.ErrGoexit)
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Value: v, Stack: debug.Stack()}
			}
			result <- err
		}()
		err = q.cache.config.Store.Write(q.ctx, writes)
	}()
	return <-result
}

// isDown reports whether the Store takes nothing at all and somebody waits for the end: then
// one attempt must do.
func (q *queue[K, V]) isDown() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.down && q.flushing > 0
}

func (q *queue[K, V]) setDown(down bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down = down
}

// finish notes that a batch was written, or given up because of err.
func (q *queue[K, V]) finish(batch []*pending[K, V], err error) {
	c := q.cache
	var failed []Write[K, V]
	var passed []*barrier[K, V]
	if err == nil && c.tier != nil {
		// While a row was there still, other processes may have loaded it. As long as the
		// key is in the queue, nobody here looks for it there.
		for _, p := range batch {
			if p.write.Deleted {
				c.tier.outdated(p.write.Key)
			}
		}
	}
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		return // who has stopped it has reported these already
	}
	for _, p := range batch {
		p.taken = false
		if err == nil {
			c.counters.written.Add(1)
		}
		if p.again != nil && err != nil {
			// The former write does not matter any more, but the later one is not made.
			p.later = append(p.barriers, p.later...)
			p.barriers = nil
		}
		passed = append(passed, p.barriers...)
		if p.again == nil && err != nil {
			for _, b := range p.barriers {
				b.failed = append(b.failed, p)
			}
		}
		p.barriers, p.later = p.later, nil
		switch {
		case p.again != nil:
			p.write, p.again = *p.again, nil
			p.since = c.clock.Now()
			q.push(p)
		case err == nil:
			q.remove(p)
		case c.config.OnWriteError == nil:
			q.park(p, err)
		default:
			failed = append(failed, p.write.Write)
			q.remove(p)
		}
	}
	q.mu.Unlock()
	if len(failed) > 0 {
		q.lost(failed)
		c.config.OnWriteError(failed, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range passed {
		b.pass()
	}
}

// remove takes p out of the queue.
func (q *queue[K, V]) remove(p *pending[K, V]) {
	delete(q.keys, p.write.Key)
	<-q.slots
}

// lost sees to it that writes which were not made, and are not in the queue any more, are
// not in the cache either.
func (q *queue[K, V]) lost(writes []Write[K, V]) {
	c := q.cache
	c.counters.writeErrors.Add(uint64(len(writes)))
	out := c.newDepartures()
	for _, w := range writes {
		if _, queued := q.get(w.Key); queued {
			continue // there is a later write
		}
		if c.tier != nil {
			c.tier.outdated(w.Key)
		}
		c.dropLocal(c.hash(w.Key), w.Key, out)
	}
	c.reportAll(out)
}

// hurry lets nobody wait any more: for a slot, or for others to make a batch.
func (q *queue[K, V]) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.closing)
	q.flushing++
	q.revive()
}

// flush is Flush. What could not be written is not in the queue any more.
func (q *queue[K, V]) flush(ctx context.Context) (lost *WriteError[K, V], err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return nil, nil
	}
	b := &barrier[K, V]{left: 1, done: make(chan struct{})}
	for _, p := range q.keys {
		b.await(p)
	}
	q.flushing++
	defer func() { q.flushing-- }()
	q.revive()
	lost = &WriteError[K, V]{}
	for b.left > 1 {
		b.pass()
		q.mu.Unlock()
		err := q.wait(ctx, b)
		q.mu.Lock()
		if err != nil {
			return lost, err
		}
		// What was given up may be tried again already, by another Flush or because of a
		// later write: then that is waited for.
		again := &barrier[K, V]{left: 1, done: make(chan struct{})}
		for _, p := range b.failed {
			switch {
			case p.told:
				lost.add(p) // to another caller; but this one must not think that it is written
			case q.keys[p.write.Key] != p: // it was written, or OnWriteError was told
			case p.err != nil:
				q.parked = slices.DeleteFunc(q.parked, func(other *pending[K, V]) bool { return other == p })
				q.tell(p, lost)
			default:
				again.await(p)
			}
		}
		b = again
	}
	return lost, nil
}

// await makes b wait for the last write of p.
func (b *barrier[K, V]) await(p *pending[K, V]) {
	b.left++
	if p.again != nil {
		p.later = append(p.later, b)
	} else {
		p.barriers = append(p.barriers, b)
	}
}

// wait waits until all that b waits for is done.
func (q *queue[K, V]) wait(ctx context.Context, b *barrier[K, V]) error {
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-q.ctx.Done():
		select {
		case <-b.done: // that was before
			return nil
		default:
			return ErrClosed // Close has given up, and has reported what was left
		}
	}
}

// tell takes p out of the queue, and adds it to what a caller is told.
func (q *queue[K, V]) tell(p *pending[K, V], lost *WriteError[K, V]) {
	q.remove(p)
	p.told = true
	lost.add(p)
}

// add adds the last write of p.
func (e *WriteError[K, V]) add(p *pending[K, V]) {
	w := p.write
	if p.again != nil {
		w = *p.again
	}
	e.Writes = append(e.Writes, w.Write)
	if p.err != nil {
		e.Err = p.err
	}
}

// orNil returns e as an error, or nil if there is nothing in it.
func (e *WriteError[K, V]) orNil() error {
	if e == nil || len(e.Writes) == 0 {
		return nil
	}
	return e
}

// close writes what can be written and stops the workers. Nobody puts anything in any more, but
// if ctx has ended.
func (q *queue[K, V]) close(ctx context.Context) error {
	lost, err := q.flush(ctx)
	if lost == nil {
		lost = &WriteError[K, V]{}
	}
	q.mu.Lock()
	q.stopped = true
	q.work.Broadcast()
	for _, timer := range []*time.Timer{q.timer, q.revival} {
		if timer != nil {
			timer.Stop()
		}
	}
	for _, p := range q.keys { // ctx has ended; what a worker has in hand may still be written
		q.tell(p, lost)
	}
	q.mu.Unlock()
	q.cancel()
	if err == nil {
		q.wg.Wait()
	}
	if lost.Err == nil {
		lost.Err = err
	}
	q.lost(lost.Writes)
	return lost.orNil()
}
