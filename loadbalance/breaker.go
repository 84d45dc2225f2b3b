package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A BreakerConfig configures a Breaker. At least one of ConsecutiveFailures and FailureRate is required.
type BreakerConfig struct {
	_ struct{}

	// ConsecutiveFailures is how many requests must fail, one after the other, for the Breaker to open.
	// 0: it does not open for that.
	ConsecutiveFailures int
	// FailureRate is the part of the requests that ended within Window, from 0 to 1, which must have
	// failed for the Breaker to open. 0: it does not open for that.
	FailureRate float64
	// MinRequests is how many requests must have ended within Window for FailureRate to count. 0: 20.
	MinRequests int
	// Window is the time over which FailureRate is measured, in ten steps; at least 10 ms. 0: 10 s.
	Window time.Duration
	// OpenFor is how long nothing is let through, at least 1 ms. 0: 5 s. It is also how long those that
	// are let through then have to end, from the last of them on, before others are let through in the
	// place of those that have not.
	OpenFor time.Duration
	// Probes is how many requests are let through after that, and must succeed for the Breaker to
	// close. 0: 1.
	Probes int
	// OnChange is called when the state has changed, outside of all locks, in the order of changes.
	// nil: nothing is called.
	OnChange func(from, to BreakerState)
}

// A BreakerState is what a Breaker does with requests.
type BreakerState uint8

const (
	// Closed lets all requests through.
	Closed BreakerState = iota
	// Open lets none through.
	Open
	// HalfOpen lets some through, to see whether they succeed.
	HalfOpen
)

// String returns the state in lower case.
func (s BreakerState) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return fmt.Sprintf("BreakerState(%d)", uint8(s))
}

// ErrOpen is in the error of a Breaker that does not let a request through.
var ErrOpen = errors.New("loadbalance: the Breaker is open")

// A Breaker keeps requests from a service that fails, so that they fail at once, and it can recover (M.
// Nygard, "Release It!", 2007). After OpenFor it lets some through, and closes if they succeed, or
// opens again.
//
// Failures are ServerError, ConnectError, Timeout and Overload. What was cancelled counts as neither.
// Results of requests that were let through in an earlier state are ignored.
//
// A Breaker is safe for concurrent use by multiple goroutines, and linearizable. The zero value cannot
// be used.
type Breaker struct {
	config BreakerConfig
	start  time.Time

	mu         sync.Mutex
	state      BreakerState
	generation uint64        // counts changes of state: results of before do not count
	round      uint64        // HalfOpen: counts how often others were let through in the place of probes
	until      time.Duration // Open: when it becomes half-open; HalfOpen: when new probes are let through
	probes     int           // HalfOpen: let through and not ended
	succeeded  int           // HalfOpen
	streak     int           // Closed: failures one after the other
	steps      [10]struct{ ok, failed int }
	step       int64 // Closed: the time of the current one, in tenths of Window

	changes notices[change]
}

// A change is one of state.
type change struct{ from, to BreakerState }

// NewBreaker returns a closed Breaker. It returns an error if a field is out of range.
func NewBreaker(c BreakerConfig) (*Breaker, error) {
	if c.MinRequests == 0 {
		c.MinRequests = 20
	}
	if c.Window == 0 {
		c.Window = 10 * time.Second
	}
	if c.OpenFor == 0 {
		c.OpenFor = 5 * time.Second
	}
	if c.Probes == 0 {
		c.Probes = 1
	}
	switch {
	case c.ConsecutiveFailures < 0:
		return nil, fmt.Errorf("loadbalance: ConsecutiveFailures must be at least 0, got %d", c.ConsecutiveFailures)
	case !(c.FailureRate >= 0 && c.FailureRate <= 1):
		return nil, fmt.Errorf("loadbalance: FailureRate must be between 0 and 1, got %v", c.FailureRate)
	case c.ConsecutiveFailures == 0 && c.FailureRate == 0:
		return nil, errors.New("loadbalance: ConsecutiveFailures or FailureRate must be set, got 0 for both")
	case c.MinRequests < 1:
		return nil, fmt.Errorf("loadbalance: MinRequests must be at least 1, got %d", c.MinRequests)
	case c.Window < 10*time.Millisecond:
		return nil, fmt.Errorf("loadbalance: Window must be at least 10ms, got %v", c.Window)
	case c.OpenFor < time.Millisecond:
		return nil, fmt.Errorf("loadbalance: OpenFor must be at least 1ms, got %v", c.OpenFor)
	case c.Probes < 1:
		return nil, fmt.Errorf("loadbalance: Probes must be at least 1, got %d", c.Probes)
	}
	return &Breaker{config: c, start: time.Now()}, nil
}

// A Permit is a request that a Breaker has let through. Done must be called when it has ended; Breaker.Do
// cannot forget it.
//
// A Permit is safe for concurrent use by multiple goroutines. Its method has a pointer receiver, and it
// must not be copied once it is used.
type Permit struct {
	b          *Breaker
	generation uint64
	round      uint64
	ended      atomic.Bool
}

// Allow lets a request through, or returns an error that wraps ErrOpen.
func (b *Breaker) Allow() (Permit, error) {
	defer b.flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != Closed {
		now := time.Since(b.start)
		if b.state == Open {
			if now < b.until {
				return Permit{}, fmt.Errorf("%w, for %v more", ErrOpen, b.until-now)
			}
			b.enterLocked(HalfOpen, now)
		}
		if b.probes+b.succeeded >= b.config.Probes {
			if now < b.until {
				return Permit{}, fmt.Errorf("%w: half-open, and waiting for %d requests", ErrOpen, b.probes)
			}
			// Others in the place of those that have not ended. If these succeed after all, it still
			// counts: otherwise a service whose answers take long would never be trusted again.
			b.round++
			b.probes = 0
		}
		b.probes++
		b.waitLocked(now)
	}
	return Permit{b: b, generation: b.generation, round: b.round}, nil
}

// Done tells the Breaker how the request has ended. Only the first call counts, also of several at the same
// time; that of the zero Permit does nothing.
func (p *Permit) Done(o Outcome) {
	if p.b == nil || p.ended.Swap(true) {
		return
	}
	p.b.done(p.generation, p.round, o.kind())
}

func (b *Breaker) done(generation, round uint64, o Outcome) {
	defer b.flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	if generation != b.generation {
		return
	}
	now := time.Since(b.start)
	if b.state == HalfOpen {
		if round == b.round {
			b.probes-- // otherwise another one is in its place
		}
		switch {
		case o.failed():
			if round == b.round { // what failed late, others are asked about
				b.enterLocked(Open, now)
			}
		case o != Canceled:
			if b.succeeded++; b.succeeded == b.config.Probes {
				b.enterLocked(Closed, now)
			}
		}
		return
	}
	if o == Canceled {
		return
	}
	b.stepLocked(now)
	current := &b.steps[b.step%int64(len(b.steps))]
	if o.failed() {
		current.failed++
		b.streak++
	} else {
		current.ok++
		b.streak = 0
	}
	ok, failed := 0, 0
	for _, s := range b.steps {
		ok, failed = ok+s.ok, failed+s.failed
	}
	c := &b.config
	// By division, as 7 of 100 are 0.07, but 0.07 · 100 is more than 7.
	if c.ConsecutiveFailures > 0 && b.streak >= c.ConsecutiveFailures ||
		c.FailureRate > 0 && ok+failed >= c.MinRequests && float64(failed)/float64(ok+failed) >= c.FailureRate {
		b.enterLocked(Open, now)
	}
}

// stepLocked empties the steps since the last one, of those that are kept.
func (b *Breaker) stepLocked(now time.Duration) {
	n := int64(len(b.steps))
	step := int64(now / (b.config.Window / time.Duration(n)))
	for k := max(b.step+1, step-n+1); k <= step; k++ {
		b.steps[k%n] = struct{ ok, failed int }{}
	}
	b.step = max(b.step, step)
}

func (b *Breaker) enterLocked(s BreakerState, now time.Duration) {
	if s != b.state && b.config.OnChange != nil {
		b.changes.add(change{b.state, s})
	}
	b.state = s
	b.generation++
	b.waitLocked(now)
	b.probes, b.succeeded, b.streak = 0, 0, 0
	clear(b.steps[:])
}

// waitLocked sets until.
func (b *Breaker) waitLocked(now time.Duration) {
	b.until = now + b.config.OpenFor
	if b.until < now { // overflow
		b.until = 1<<63 - 1
	}
}

// flush calls OnChange. It must be called without mu.
func (b *Breaker) flush() {
	if f := b.config.OnChange; f != nil {
		b.changes.flush(func(c change) { f(c.from, c.to) })
	}
}

// Do calls f if the Breaker lets it through, and tells it how f ended, by OutcomeOf; a panic is a
// ServerError. It returns f's error, that of ctx, or one that wraps ErrOpen.
func (b *Breaker) Do(ctx context.Context, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := b.Allow()
	if err != nil {
		return err
	}
	outcome := ServerError // a panic
	defer func() { p.Done(outcome) }()
	err = f(ctx)
	outcome = OutcomeOf(err)
	return err
}

// State returns what the Breaker does with requests now.
func (b *Breaker) State() BreakerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open && time.Since(b.start) >= b.until {
		return HalfOpen
	}
	return b.state
}

// RetryAfter returns how long the Breaker will still be open; 0 if it is not.
func (b *Breaker) RetryAfter() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != Open {
		return 0
	}
	return max(0, b.until-time.Since(b.start))
}
