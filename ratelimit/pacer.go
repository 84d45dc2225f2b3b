package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Pacer lets calls through one after the other, evenly spaced: a leaky bucket with a queue. Up to
// slack of them may come unspaced, at the start and after a pause. What is spaced is when calls are
// let go; a goroutine that wakes up late comes closer to the next one.
//
// A Pacer is safe for concurrent use by multiple goroutines; those who wait are served in the order
// in which they came. The zero value cannot be used.
type Pacer struct {
	bucket   *Bucket
	maxQueue int64
	maxWait  time.Duration
}

// ErrQueue is in the error of Pacer.Wait and Concurrency.Acquire when as many wait as may.
var ErrQueue = errors.New("the queue is full")

// NewPacer returns a Pacer for calls at the rate of l, whose Burst must be 0 or 1. Up to maxQueue
// may wait at the same time; slack is how many of what was not used during a pause may follow at
// once. Both must be at least 0. It returns an error if something is out of range.
func NewPacer(l Limit, maxQueue, slack int64) (*Pacer, error) {
	switch {
	case l == Unlimited || l == None:
		return nil, fmt.Errorf("%w: a Pacer cannot be %v", ErrLimit, l)
	case l.Burst != 0 && l.Burst != 1:
		return nil, fmt.Errorf("%w: Burst must be 0 or 1 with a Pacer, which has slack instead, got %d", ErrLimit, l.Burst)
	case maxQueue < 0:
		return nil, fmt.Errorf("ratelimit: maxQueue must be at least 0, got %d", maxQueue)
	case slack < 0 || slack == 1<<63-1:
		return nil, fmt.Errorf("ratelimit: slack must be at least 0 and less than 2^63-1, got %d", slack)
	}
	b, err := NewBucket(l.WithBurst(slack + 1))
	if err != nil {
		return nil, err
	}
	p := &Pacer{bucket: b, maxQueue: maxQueue}
	s := b.state.Load()
	if maxQueue > maxAhead/s.inc {
		return nil, fmt.Errorf("ratelimit: maxQueue must be at most %d with this rate, got %d", maxAhead/s.inc, maxQueue)
	}
	p.maxWait = s.duration(maxQueue * s.inc)
	return p, nil
}

// Wait waits for the caller's turn. It returns an error at once if the queue is full (ErrQueue), or
// the turn would not come before ctx's deadline (ErrWait); and ctx's error if it ends before. The
// place of who gives up is taken by somebody else only if nobody stands behind it.
func (p *Pacer) Wait(ctx context.Context) error {
	err := p.bucket.wait(ctx, 1, p.maxWait)
	if errors.Is(err, errLong) {
		return fmt.Errorf("ratelimit: more than %d calls ahead: %w", p.maxQueue, ErrQueue)
	}
	return err
}
