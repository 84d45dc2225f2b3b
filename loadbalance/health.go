package loadbalance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// A HealthConfig has a Pool check its endpoints. Each has a goroutine of its own for it, so that one that
// hangs holds up no other.
type HealthConfig[T any] struct {
	_ struct{}

	// Check asks an endpoint whether it is well. It must return when ctx ends, and is called by a
	// goroutine of the Pool; what it panics with counts as an error. See CheckTCP, and CheckHTTP of
	// package proxy. nil: nobody is asked.
	Check func(ctx context.Context, e Endpoint[T]) error
	// Interval is the time from the end of a check to the next, at least 1 ms, and at most a year. 0: 5 s.
	Interval time.Duration
	// Timeout is how long a check may take, at least 1 ms. 0: 2 s.
	Timeout time.Duration
	// Jitter is the part of Interval, from 0 to 1, by which it is made shorter or longer at random, so
	// that not all are asked at the same time. 0: 0.1; negative: none.
	Jitter float64
	// Rise is how many checks must succeed, one after the other, for an endpoint to be healthy again.
	// 0: 2. The first check of an endpoint that starts down decides alone.
	Rise int
	// Fall is how many checks must fail, one after the other, for an endpoint to be unhealthy. 0: 3.
	Fall int
	// StartDown has new endpoints be unhealthy until their first check has succeeded. Otherwise they
	// are healthy until Fall checks have failed.
	StartDown bool
}

// checked returns c with its defaults.
func (c HealthConfig[T]) checked() (HealthConfig[T], error) {
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Jitter == 0 {
		c.Jitter = 0.1
	}
	if c.Rise == 0 {
		c.Rise = 2
	}
	if c.Fall == 0 {
		c.Fall = 3
	}
	switch {
	case c.Interval < time.Millisecond || c.Interval > year:
		return c, fmt.Errorf("loadbalance: Health.Interval must be between 1ms and a year, got %v", c.Interval)
	case c.Timeout < time.Millisecond:
		return c, fmt.Errorf("loadbalance: Health.Timeout must be at least 1ms, got %v", c.Timeout)
	case !(c.Jitter <= 1):
		return c, fmt.Errorf("loadbalance: Health.Jitter must be at most 1, got %v", c.Jitter)
	case c.Rise < 0:
		return c, fmt.Errorf("loadbalance: Health.Rise must be at least 1, got %d", c.Rise)
	case c.Fall < 0:
		return c, fmt.Errorf("loadbalance: Health.Fall must be at least 1, got %d", c.Fall)
	}
	c.Jitter = max(c.Jitter, 0)
	return c, nil
}

// CheckTCP returns a Check that succeeds if a connection can be made to address(e), which is host:port.
func CheckTCP[T any](address func(e Endpoint[T]) string) func(context.Context, Endpoint[T]) error {
	return func(ctx context.Context, e Endpoint[T]) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address(e))
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// watchLocked starts checkers for who is new, and stops those of who has gone.
func (p *Pool[T]) watchLocked(d Diff) {
	if p.config.Health.Check == nil {
		return
	}
	for _, id := range d.Removed {
		if stop := p.checkers[id]; stop != nil {
			stop()
			delete(p.checkers, id)
		}
	}
	for _, id := range d.Added {
		ctx, stop := context.WithCancel(p.stopped)
		p.checkers[id] = stop
		p.running.Go(func() {
			defer stop()
			p.watch(ctx, id)
		})
	}
}

// watch checks an endpoint until ctx ends.
func (p *Pool[T]) watch(ctx context.Context, id string) {
	c := &p.config.Health
	for {
		p.mu.Lock()
		i, found := p.findLocked(id)
		if !found || ctx.Err() != nil {
			p.mu.Unlock()
			return
		}
		e := p.list[i].Endpoint // as it is now: its Value may have changed
		p.mu.Unlock()

		err := p.ask(ctx, e)
		if !p.report(ctx, id, err) {
			return
		}
		wait := c.Interval + time.Duration((2*rand.Float64()-1)*c.Jitter*float64(c.Interval))
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait, time.Millisecond)):
		}
	}
}

// ask calls Check.
func (p *Pool[T]) ask(ctx context.Context, e Endpoint[T]) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.Health.Timeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("loadbalance: Check panicked: %v", r)
		}
	}()
	return p.config.Health.Check(ctx, e)
}

// report takes in the result of a check. It returns false if there is nothing more to check.
func (p *Pool[T]) report(ctx context.Context, id string, err error) bool {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	i, found := p.findLocked(id)
	if !found || ctx.Err() != nil || p.closed {
		return false
	}
	h, c := p.list[i].h, &p.config.Health
	first := !h.checked
	h.checked, h.lastErr = true, err
	switch {
	case err == nil && h.results < 0, err != nil && h.results > 0:
		h.results = 0
	}
	if err == nil {
		h.results = min(h.results+1, c.Rise)
	} else {
		h.results = max(h.results-1, -c.Fall)
	}
	switch {
	case h.down && (h.results >= c.Rise || first && err == nil):
		h.down = false
		p.rampLocked(h)
		p.emitLocked(Event{Kind: Up, ID: id})
		p.changedLocked()
	case !h.down && h.results <= -c.Fall:
		h.down = true
		p.emitLocked(Event{Kind: Down, ID: id, Err: err})
		p.changedLocked()
	}
	return true
}
