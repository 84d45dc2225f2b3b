package ttlcache

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A life is what Close waits for.
type life struct {
	closed atomic.Bool // set under mu

	mu      sync.Mutex
	pending int           // loads, and writes that go elsewhere
	idle    chan struct{} // closed when pending comes to 0 after closed was set

	ctx    context.Context // ends when Close does not wait any longer for what is pending
	cancel context.CancelFunc

	stop   chan struct{}  // closed to stop the other goroutines
	others sync.WaitGroup // goroutines that run all the time

	done chan struct{} // closed when Close is done
	err  error         // what it returned; to be read after done
}

func (l *life) init() {
	l.idle = make(chan struct{})
	l.stop = make(chan struct{})
	l.done = make(chan struct{})
	l.ctx, l.cancel = context.WithCancel(context.Background())
}

// begin begins something that Close is to wait for, unless the cache is closed.
func (l *life) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.pending++
	return true
}

// end ends it.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending--; l.pending == 0 && l.closed.Load() {
		close(l.idle)
	}
}

// close lets nothing begin any more, and reports whether it is the first to do so.
func (l *life) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.closed.Store(true)
	if l.pending == 0 {
		close(l.idle)
	}
	return true
}

// Close waits for loads that are under way, in the background too, and until WriteBehind has
// written what waits in its queue. Calls that load or write return ErrClosed from now on;
// Get and its like go on. If ctx ends first, Close cancels the contexts of what is
// still under way, and returns.
//
// It returns what could not be done, joined in one error: the error of ctx, a *WriteError with all
// writes that were acknowledged and are not in the Store, and an *InvalidationError with the
// keys that could not be removed from the second level. (What OnWriteError was told of is not
// among them.) A Loader, Store or hook must not call Close, which would wait for it. To call Close again waits for the
// first call and returns what that does.
func (c *Cache[K, V]) Close(ctx context.Context) error {
	l := &c.life
	if !l.close() {
		select {
		case <-l.done:
			return l.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(l.done)
	var errs []error
	if c.tier != nil {
		c.tier.unsubscribe()
	}
	if c.queue != nil {
		c.queue.hurry()
	}
	select {
	case <-l.idle:
	default:
		select {
		case <-l.idle:
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
			l.cancel()
		}
	}
	if c.tier != nil {
		defer context.AfterFunc(ctx, c.tier.cancel)()
	}
	if c.queue != nil {
		if err := c.queue.close(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	close(l.stop)
	if c.tier != nil {
		if err := c.tier.close(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	l.others.Wait()
	l.cancel()
	c.clock.Stop()
	l.err = errors.Join(errs...)
	return l.err
}

// Flush waits until WriteBehind has written all that was acknowledged before the call, without
// the delay of BatchConfig. It tries once more what was given up, and returns a *WriteError
// with what then still cannot be written, and with that the responsibility for it. If ctx ends
// first it returns the error of ctx, and the writes stay in the queue.
func (c *Cache[K, V]) Flush(ctx context.Context) error {
	if c.queue == nil {
		return nil
	}
	lost, err := c.queue.flush(ctx)
	if lost.orNil() == nil {
		return err
	}
	c.queue.lost(lost.Writes)
	return errors.Join(err, lost)
}

// janitor takes out what has expired from time to time.
func (c *Cache[K, V]) janitor() {
	ticker := time.NewTicker(c.config.Janitor)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.DeleteExpired(math.MaxInt)
		case <-c.life.stop:
			return
		}
	}
}
