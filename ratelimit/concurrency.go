package ratelimit

import (
	"context"
	"fmt"
	"sync"
)

// A Concurrency bounds how many do something at the same time. Those who have to wait are served in
// the order in which they came.
//
// A Concurrency is safe for concurrent use by multiple goroutines. The zero value cannot be used.
type Concurrency struct {
	n, queue int

	mu          sync.Mutex
	free        int
	first, last *waiter // of those who wait; then free is 0
	waiting     int
}

// A waiter is in a list, in order.
type waiter struct {
	prev, next *waiter
	ready      chan struct{} // closed when it is its turn
}

// NewConcurrency returns a Concurrency for n at the same time, at least 1, while up to queue others
// wait, at least 0. It returns an error if one is out of range.
func NewConcurrency(n, queue int) (*Concurrency, error) {
	if n < 1 {
		return nil, fmt.Errorf("ratelimit: n must be at least 1, got %d", n)
	}
	if queue < 0 {
		return nil, fmt.Errorf("ratelimit: queue must be at least 0, got %d", queue)
	}
	return &Concurrency{n: n, queue: queue, free: n}, nil
}

// Acquire waits until the caller is one of the n. Release must then be called, once; Do cannot
// forget it. It returns an error at once if the queue is full (ErrQueue), and ctx's error if it
// ends before.
func (c *Concurrency) Acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.free > 0 {
		c.free--
		c.mu.Unlock()
		return nil
	}
	if c.waiting == c.queue {
		c.mu.Unlock()
		return fmt.Errorf("ratelimit: %d are waiting: %w", c.queue, ErrQueue)
	}
	w := &waiter{prev: c.last, ready: make(chan struct{})}
	if c.last != nil {
		c.last.next = w
	} else {
		c.first = w
	}
	c.last = w
	c.waiting++
	c.mu.Unlock()

	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-w.ready: // just before; so it is the next one's turn
		c.releaseLocked()
	default:
		c.removeLocked(w)
	}
	return ctx.Err()
}

// TryAcquire is Acquire for who does not want to wait: it reports whether the caller is one of the n.
func (c *Concurrency) TryAcquire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free == 0 {
		return false
	}
	c.free--
	return true
}

// Release ends what Acquire or TryAcquire has begun. It panics if nothing has.
func (c *Concurrency) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked()
}

func (c *Concurrency) releaseLocked() {
	w := c.first
	if w == nil {
		if c.free == c.n {
			panic("ratelimit: Release without Acquire")
		}
		c.free++
		return
	}
	c.removeLocked(w)
	close(w.ready)
}

func (c *Concurrency) removeLocked(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		c.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		c.last = w.prev
	}
	w.prev, w.next = nil, nil
	c.waiting--
}

// Do calls f as one of the n, and releases when f returns or panics. It returns f's error, or that
// of Acquire.
func (c *Concurrency) Do(ctx context.Context, f func(context.Context) error) error {
	if err := c.Acquire(ctx); err != nil {
		return err
	}
	defer c.Release()
	return f(ctx)
}
