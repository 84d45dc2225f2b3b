package dist

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// A call is one of the Backend, made by a goroutine of its own.
//
// That is how a caller is back in time whatever the Backend does: a client may retry, or wait for an
// answer for as long as its own settings say, and ignore that ctx has ended, as go-redis does once it
// has a connection. The caller then leaves the goroutine behind. As that may happen to every call,
// there are only MaxInFlight of them, and one more is not made.
//
// The call goes on if the caller leaves early because his own ctx ends, up to Timeout: its end says
// something about the Backend, his leaving does not. What is answered when nobody waits any more is
// dropped. If the tokens were taken, they are lost, which is only stricter.
type call struct {
	ctx     context.Context
	cancel  context.CancelFunc
	request Request
	reply   Reply
	err     error
	probe   bool
	settled atomic.Bool   // by the first of caller and goroutine who knows how it ended
	done    chan struct{} // of capacity 1, for the goroutine's word that it was the first
}

var errGone = errors.New("dist: the backend has ended its goroutine")

// ask calls the Backend and waits for it, but no longer than Timeout and ctx allow. It reports whether
// there is an answer.
func (l *Limiter) ask(ctx context.Context, key string, n int64, peek bool, now instant) (Reply, bool) {
	if ctx.Err() != nil {
		return Reply{}, false
	}
	if l.inFlight.Add(1) > l.maxInFlight {
		l.inFlight.Add(-1)
		l.saturated.Add(1)
		return Reply{}, false
	}
	probe, ok := l.breaker.admit(now.mono)
	if !ok {
		l.inFlight.Add(-1)
		return Reply{}, false
	}
	c := l.calls.Get().(*call)
	c.ctx, c.cancel = context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	c.request = Request{ID: l.id(), Name: l.name, Key: key, N: n, Peek: peek, Rates: l.rates, Window: l.window}
	c.probe = probe
	go l.run(c)
	select {
	case <-c.done:
	case <-c.ctx.Done():
		if c.settled.CompareAndSwap(false, true) {
			l.settle(c, fmt.Errorf("dist: no answer within %v: %w", l.timeout, context.DeadlineExceeded))
			return Reply{}, false
		}
		<-c.done // the goroutine was first: it says so next
	case <-ctx.Done():
		select {
		case <-c.done: // at the same time
		default:
			// If it does not come back, somebody must notice.
			context.AfterFunc(c.ctx, func() {
				if c.settled.CompareAndSwap(false, true) {
					l.count(c, context.DeadlineExceeded)
				}
			})
			return Reply{}, false
		}
	}
	reply, err := c.reply, c.err
	// The goroutine does not use c after its word.
	*c = call{done: c.done}
	l.calls.Put(c)
	if err != nil {
		l.tell(err)
		return Reply{}, false
	}
	return reply, true
}

// run is the goroutine. A Backend that panics has failed; the process goes on, and OnError is told.
func (l *Limiter) run(c *call) {
	cancel := c.cancel
	defer cancel()
	c.err = errGone // if it ends the goroutine, as t.FailNow does
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("dist: the backend panicked: %v\n%s", p, debug.Stack())
		}
		if c.err == nil {
			c.err = c.request.check(c.reply)
		}
		l.inFlight.Add(-1)
		if !c.settled.CompareAndSwap(false, true) {
			return
		}
		l.count(c, c.err)
		c.done <- struct{}{}
	}()
	c.reply, c.err = l.backend.Take(c.ctx, &c.request)
}

// settle is for a caller who has been there first.
func (l *Limiter) settle(c *call, err error) {
	l.count(c, err)
	l.tell(err)
}

// count tells the breaker how a call has ended. What comes after Timeout is a failure, if only
// nobody was there any more to notice.
func (l *Limiter) count(c *call, err error) {
	late := c.ctx.Err() != nil
	l.breaker.settle(l.now().mono, c.probe, err == nil && !late)
	switch {
	case late:
		l.timeouts.Add(1)
	case err != nil:
		l.errors.Add(1)
	}
}

func (l *Limiter) tell(err error) {
	if l.onError != nil {
		l.onError(err)
	}
}

// check returns an error for an answer that cannot be.
func (r *Request) check(reply Reply) error {
	if len(reply.Ahead) != len(r.Rates) {
		return fmt.Errorf("dist: the backend's answer has %d limits, want %d", len(reply.Ahead), len(r.Rates))
	}
	fits := true
	for i, rate := range r.Rates {
		a, tau := reply.Ahead[i], rate.Interval*rate.Burst
		if a < 0 || a > tau {
			return fmt.Errorf("dist: in the backend's answer Ahead is %d, and must be 0 to %d", a, tau)
		}
		fits = fits && a+r.N*rate.Interval <= tau
	}
	if fits && !reply.Allowed {
		return errors.New("dist: the backend has refused what the limits allow")
	}
	return nil
}

// withoutAnswer calls f as run calls Take, for what has no answer but that it was done, and says nothing
// to the breaker: who deletes wants to try.
func (l *Limiter) withoutAnswer(ctx context.Context, f func(context.Context) error) error {
	if l.inFlight.Add(1) > l.maxInFlight {
		l.inFlight.Add(-1)
		return fmt.Errorf("%d calls are in flight", l.maxInFlight)
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := errGone
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("the backend panicked: %v\n%s", p, debug.Stack())
			}
			l.inFlight.Add(-1)
			done <- err
		}()
		err = f(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
