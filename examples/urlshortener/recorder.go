package main

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A recorder takes down clicks, many at a time: those that come while a group is being published go together into the
// next, so that nobody waits for more than two of them. A click counts as recorded when its group was taken by the
// broker, or is in the spool on the disk; and if neither can be, it is dropped, and counted as that: a link works
// without its counts.
type recorder struct {
	publish func(context.Context, clickGroup) error // returns nil when the broker has it
	spool   *spool
	run     string // its name, which no other recorder has, in this process or any other
	groups  uint64 // that were numbered. Only keep uses it: a number is never given twice, whatever becomes of its group.

	mu      sync.Mutex
	pending []click
	waiters chan struct{} // closed when the pending clicks are recorded
	keeping time.Time     // since when a group is being recorded; zero: none is
	wake    chan struct{}
	closed  bool

	away                                 atomic.Bool // the broker, so that nobody waits for it
	published, spooled, dropped, clicked atomic.Int64

	stop chan struct{}
	done sync.WaitGroup
}

const (
	// groupWait is how long a group waits for more clicks when none is being published.
	groupWait = 500 * time.Microsecond
	// maxGroup and maxClicks are how many bytes and clicks a group has at most, unless a single click has more: a message
	// must stay below the broker's limit, which is 1 MiB.
	maxGroup  = 768 << 10
	maxClicks = 4096
	// maxPending is how many clicks may wait. There are more only if groups are recorded more slowly than clicks come: who
	// waited for one of them has gone away.
	maxPending = 64 * maxClicks
	// publishTimeout is how long the broker has to take a group; after that the spool takes it.
	publishTimeout = 500 * time.Millisecond
	// patience is how long a group may take to be recorded. If it takes longer, the disk hangs, and nobody waits for that.
	patience = time.Second
	// replayEvery is how often it is looked whether the broker is back.
	replayEvery = 250 * time.Millisecond
)

func newRecorder(publish func(context.Context, clickGroup) error, spool *spool) *recorder {
	r := &recorder{
		publish: publish, spool: spool, run: rand.Text(),
		waiters: make(chan struct{}), wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	r.done.Go(r.work)
	r.done.Go(r.replay)
	return r
}

// record returns when the click is recorded, or dropped, or ctx has ended, or the disk hangs; then it may still be
// recorded.
func (r *recorder) record(ctx context.Context, c click) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return errors.New("the recorder is closed")
	}
	r.clicked.Add(1)
	if len(r.pending) >= maxPending {
		r.mu.Unlock()
		r.dropped.Add(1)
		return nil
	}
	r.pending = append(r.pending, c)
	recorded := r.waiters
	hangs := !r.keeping.IsZero() && time.Since(r.keeping) > patience
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // it is awake, or will be
	}
	if hangs {
		return nil
	}
	select {
	case <-recorded:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// work records what is pending, until close is called and nothing is.
func (r *recorder) work() {
	for {
		select {
		case <-r.wake:
			time.Sleep(groupWait)
		case <-r.stop:
		}
		for r.next() {
		}
		r.mu.Lock()
		over := r.closed && len(r.pending) == 0
		r.mu.Unlock()
		if over {
			return
		}
	}
}

// next records the clicks that are pending, in groups. It reports whether there were any.
func (r *recorder) next() bool {
	r.mu.Lock()
	clicks, recorded := r.pending, r.waiters
	r.pending, r.waiters = nil, make(chan struct{})
	r.mu.Unlock()
	for rest := clicks; len(rest) > 0; {
		n := groupLength(rest)
		r.setKeeping(time.Now())
		r.keep(rest[:n])
		rest = rest[n:]
	}
	r.setKeeping(time.Time{})
	close(recorded)
	return len(clicks) > 0
}

func (r *recorder) setKeeping(since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeping = since
}

// groupLength returns how many of the clicks are the next group.
func groupLength(clicks []click) int {
	bytes := 0
	for i, c := range clicks {
		bytes += 48 + 6*(len(c.Code)+len(c.Referrer)) // in JSON, at the most
		if i > 0 && (bytes > maxGroup || i == maxClicks) {
			return i
		}
	}
	return len(clicks)
}

// keep gives a group to the broker, or if that does not take it, to the spool.
func (r *recorder) keep(clicks []click) {
	n := int64(len(clicks))
	r.groups++
	g := clickGroup{Run: r.run, Number: r.groups, Clicks: clicks}
	if !r.away.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
		err := r.publish(ctx, g)
		cancel()
		if err == nil {
			r.published.Add(n)
			return
		}
		r.away.Store(true) // it may have taken it all the same: then it is counted once
	}
	if err := r.spool.add(g); err != nil {
		r.dropped.Add(n)
		return
	}
	r.spooled.Add(n)
}

// replay delivers what is in the spool as soon as the broker takes it.
func (r *recorder) replay() {
	t := time.NewTicker(replayEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-r.stop:
			return
		}
		if !r.away.Load() && r.spool.bytes() == 0 {
			continue
		}
		tried := false
		_ = r.spool.replay(func(g clickGroup) error {
			tried = true
			select {
			case <-r.stop: // the rest comes when the process is started again
				return errors.New("the recorder is closed")
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
			defer cancel()
			// It is back with the first that it takes: if more were put into the spool until all were delivered, there
			// would always be more.
			err := r.publish(ctx, g)
			r.away.Store(err != nil)
			return err
		})
		if !tried { // there is nothing, or it cannot be read: the next group tells whether the broker is there
			r.away.Store(false)
		}
	}
}

// close records what is pending, and returns when that is done.
func (r *recorder) close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.done.Wait()
		return
	}
	r.closed = true
	r.mu.Unlock()
	close(r.stop)
	r.done.Wait()
}
