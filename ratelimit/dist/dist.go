package dist

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// An Outage says what decides while the backend cannot be asked.
type Outage int

// What decides while the backend cannot be asked.
const (
	Share  Outage = iota // the process's share of each limit
	Open                 // everything is allowed that the limits ever allow
	Closed               // nothing is allowed
)

// String returns the name, such as "Share".
func (o Outage) String() string {
	switch o {
	case Share:
		return "Share"
	case Open:
		return "Open"
	case Closed:
		return "Closed"
	}
	return fmt.Sprintf("Outage(%d)", int(o))
}

// A Config says what is limited, and how. Backend, Name, Limits and, with Share, Replicas are required.
type Config struct {
	_ struct{}

	// Backend keeps the state. Package redislimit has one.
	Backend Backend

	// Name is put before the keys: Limiters of one Name share their state, so their Limits should be the
	// same. It is without braces.
	Name string

	// Limits hold at once, as with ratelimit.All: what one of them does not allow takes nothing from
	// the others. There are 1 to 8. If they are changed, what was used stays used: the time until all
	// is there again goes on, limit by limit in this order, but is at most what the new limit can be
	// short of.
	Limits []ratelimit.Limit

	// OnOutage says what decides while the backend cannot be asked. 0 is Share.
	OnOutage Outage

	// Replicas is how many processes share the limits: with Share, each has Count/Replicas of a limit,
	// and Burst/Replicas, but at least 1, while the backend cannot be asked. At least 1 with Share;
	// else it is not used.
	Replicas int

	// Timeout is the longest that a caller waits for the backend. 0 is 50 ms: a hundred times what Redis
	// takes nearby, long enough for its pauses (a fork, a slow command of others), and not so long that
	// the callers of one who waits give up.
	Timeout time.Duration

	// MaxInFlight is the most calls of the backend at a time, each with a goroutine: also those that it
	// does not return from after Timeout. If there are as many, callers do not wait, and OnOutage
	// decides. 0 is 1024.
	MaxInFlight int

	// Failures is how many calls in a row fail until the breaker opens: then nobody waits for the backend,
	// but one caller in each Cooldown, who finds out whether it is back. It does not matter for which keys
	// they fail. 0 is 5.
	Failures int

	// Cooldown is the time between two such callers. 0 is one second.
	Cooldown time.Duration

	// RetryWindow is how long the backend remembers what it has allowed, so that a request that a
	// client sends again, as it got no answer, counts once. The client's retries end with Timeout, so
	// it need not be much longer; if it is too short, one may count twice, never not at all. It takes
	// about 170 bytes of Redis for each request within it. 0 is one second, or twice Timeout if that
	// is longer; a negative number means never to remember.
	RetryWindow time.Duration

	// MaxKeys is the most keys for which denials and shares are kept in this process, of about 160
	// bytes each with one limit. With more in use at once, those that are full soonest are forgotten
	// first, and keys that come new during an outage begin with a share of which as much may be used
	// up. 0 is 65,536.
	MaxKeys int

	// OnError is called when a call of the backend has failed, by the goroutine of the caller that waited
	// for it, with no lock held. Nil: nothing is.
	OnError func(error)
}

const (
	maxLimits   = 8
	defaultKeys = 1 << 16
	// maxTime bounds the durations of a Config, so that sums of them do not overflow.
	maxTime = 24 * 365 * time.Hour
)

func (c *Config) check() error {
	switch {
	case c.Backend == nil:
		return errors.New("dist: Backend must not be nil")
	case c.Name == "":
		return errors.New("dist: Name must not be empty")
	case strings.ContainsAny(c.Name, "{}"):
		return fmt.Errorf("dist: Name must be without braces, got %q", c.Name)
	case len(c.Limits) < 1 || len(c.Limits) > maxLimits:
		return fmt.Errorf("dist: Limits must be 1 to %d, got %d", maxLimits, len(c.Limits))
	case c.OnOutage < Share || c.OnOutage > Closed:
		return fmt.Errorf("dist: OnOutage must be Share, Open or Closed, got %d", c.OnOutage)
	case c.OnOutage == Share && c.Replicas < 1:
		return fmt.Errorf("dist: Replicas must be at least 1 with Share, got %d", c.Replicas)
	case c.Timeout < 0 || c.Timeout > maxTime:
		return fmt.Errorf("dist: Timeout must be 0 to %v, got %v", maxTime, c.Timeout)
	case c.MaxInFlight < 0:
		return fmt.Errorf("dist: MaxInFlight must be at least 0, got %d", c.MaxInFlight)
	case c.Failures < 0:
		return fmt.Errorf("dist: Failures must be at least 0, got %d", c.Failures)
	case c.Cooldown < 0 || c.Cooldown > maxTime:
		return fmt.Errorf("dist: Cooldown must be 0 to %v, got %v", maxTime, c.Cooldown)
	case c.RetryWindow > maxTime:
		return fmt.Errorf("dist: RetryWindow must be at most %v, got %v", maxTime, c.RetryWindow)
	case c.MaxKeys < 0:
		return fmt.Errorf("dist: MaxKeys must be at least 0, got %d", c.MaxKeys)
	}
	return nil
}

// A Limiter decides by the state that several processes share in a Backend.
//
// A Limiter is safe for concurrent use by multiple goroutines. What the Backend decides is
// linearizable, if the Backend is; what is decided without it, is so within the process. It starts
// a goroutine for each call of the Backend, which ends with it, and has nothing to close.
type Limiter struct {
	backend  Backend
	name     string
	limits   []ratelimit.Limit
	onOutage Outage
	onError  func(error)
	timeout  time.Duration
	window   time.Duration
	rates    []Rate
	cells    []cell
	burst    int64 // the least
	base     time.Time
	prefix   [8]byte // of the IDs of requests
	local    *local
	breaker  breaker
	calls    sync.Pool // of *call

	maxInFlight int64
	inFlight    atomic.Int64
	requests    atomic.Uint64
	decided     atomic.Uint64
	degraded    atomic.Uint64
	timeouts    atomic.Uint64
	errors      atomic.Uint64
	saturated   atomic.Uint64
}

// New returns a Limiter, or an error that names the field of config that is wrong. It does not ask the
// Backend anything.
func New(config Config) (*Limiter, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	l := &Limiter{
		backend: config.Backend, name: config.Name, limits: slices.Clone(config.Limits),
		onOutage: config.OnOutage, onError: config.OnError,
		timeout: config.Timeout, window: max(0, config.RetryWindow),
		burst: math.MaxInt64, base: time.Now(), maxInFlight: int64(config.MaxInFlight),
	}
	var shares []cell
	for i, limit := range l.limits {
		r, err := rate(limit)
		if err != nil {
			return nil, fmt.Errorf("dist: Limits[%d]: %w", i, err)
		}
		l.rates, l.cells, l.burst = append(l.rates, r), append(l.cells, r.cell()), min(l.burst, r.Burst)
		if l.onOutage == Share {
			s, err := share(limit, config.Replicas)
			if err != nil {
				return nil, err
			}
			shares = append(shares, s)
		}
	}
	if l.timeout == 0 {
		l.timeout = 50 * time.Millisecond
	}
	if l.maxInFlight == 0 {
		l.maxInFlight = 1024
	}
	if config.RetryWindow == 0 {
		l.window = max(time.Second, 2*l.timeout)
	}
	l.breaker = breaker{most: config.Failures, cooldown: config.Cooldown, timeout: l.timeout}
	if l.breaker.most == 0 {
		l.breaker.most = 5
	}
	if l.breaker.cooldown == 0 {
		l.breaker.cooldown = time.Second
	}
	keys := config.MaxKeys
	if keys == 0 {
		keys = defaultKeys
	}
	l.local = newLocal(l.cells, shares, keys)
	l.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	_, _ = rand.Read(l.prefix[:]) // which never fails
	return l, nil
}

// now returns the present.
func (l *Limiter) now() instant {
	t := time.Now()
	return instant{mono: int64(t.Sub(l.base)), wall: t.UnixNano()}
}

// Take takes n tokens of a key from each of the limits, if all have as many; otherwise none from
// any. In the Result, Limit, Remaining and NextToken are those of the limit that has the fewest
// tokens, RetryAfter and ResetAfter those of the one that takes longest. It takes one call of the
// Backend, or none if the Backend has refused as much not long ago.
//
// The caller is back when Timeout has passed, or ctx has ended, at the latest; then, and whenever the
// Backend has not decided, Config.OnOutage has, and the Result is Degraded. To take none is always
// allowed, fewer than none or more than the least Burst never; such a Result is made without asking the
// Backend, and what it says beside that is how it would be if nobody had taken anything.
func (l *Limiter) Take(ctx context.Context, key string, n int64) ratelimit.Result {
	if n <= 0 || n > l.burst {
		return l.without(n)
	}
	return l.decide(ctx, key, n, false)
}

// Peek reports whether Take would take n tokens, or when, and takes nothing; the rest is as it is now.
// Peek of 0 asks the Backend for that.
func (l *Limiter) Peek(ctx context.Context, key string, n int64) ratelimit.Result {
	if n < 0 || n > l.burst {
		return l.without(n)
	}
	return l.decide(ctx, key, n, true)
}

// without is the Result for what does not depend on what was taken.
func (l *Limiter) without(n int64) ratelimit.Result {
	var ahead [maxLimits]int64
	return result(l.cells, n, ahead[:len(l.cells)], n == 0)
}

func (l *Limiter) decide(ctx context.Context, key string, n int64, peek bool) ratelimit.Result {
	now := l.now()
	if r, ok := l.local.denial(key, n, now); ok {
		return r
	}
	reply, ok := l.ask(ctx, key, n, peek, now)
	if !ok {
		l.degraded.Add(1)
		return l.outage(key, n, peek)
	}
	l.decided.Add(1)
	l.local.learn(key, now, reply.Ahead, reply.Allowed, now.mono)
	if reply.Allowed && !peek {
		l.local.charge(key, n, now.mono)
	}
	var ahead [maxLimits]int64
	for i, a := range reply.Ahead {
		ahead[i] = a * 1000
	}
	return result(l.cells, n, ahead[:len(l.cells)], reply.Allowed)
}

// outage decides without the Backend.
func (l *Limiter) outage(key string, n int64, peek bool) ratelimit.Result {
	now := l.now()
	var r ratelimit.Result
	switch l.onOutage {
	case Share:
		if r = l.local.take(key, n, now.mono, peek); r.RetryAfter == ratelimit.Never {
			// It is more than the share, but not than the limit: the Backend would have to be back.
			_, r.RetryAfter = l.breaker.isOpen(now.mono)
		}
	case Open:
		r = l.without(0)
		r.Allowed = n
	case Closed:
		_, wait := l.breaker.isOpen(now.mono)
		r = ratelimit.Result{Limit: l.burst, RetryAfter: wait, ResetAfter: wait, NextToken: wait}
		if n == 0 {
			r.RetryAfter = 0
		}
	}
	r.Degraded = true
	return r
}

// Delete forgets what was taken of a key, here and in the Backend, so that it starts afresh; in other
// processes, denials that they have noted go on for what is left of their RetryAfter. It returns an error
// if the Backend is no Deleter, has failed, or has not answered within Timeout and ctx; then the key
// may have been forgotten, or not.
func (l *Limiter) Delete(ctx context.Context, key string) error {
	d, ok := l.backend.(Deleter)
	if !ok {
		return errors.New("dist: the Backend cannot delete")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.withoutAnswer(ctx, func(ctx context.Context) error { return d.Delete(ctx, l.name, key) }); err != nil {
		return fmt.Errorf("dist: deleting: %w", err)
	}
	l.local.forget(key, l.now().mono)
	return nil
}

// Limits returns the limits.
func (l *Limiter) Limits() []ratelimit.Limit { return slices.Clone(l.limits) }

// Stats are counts since New, and what is so at the moment. They are read one by one, so they may be
// of slightly different moments.
type Stats struct {
	Decided   uint64 // decisions of the Backend
	Denied    uint64 // refusals that were known here, without a call
	Degraded  uint64 // decisions by OnOutage
	Timeouts  uint64 // calls without an answer within Timeout
	Errors    uint64 // calls with an error, or an answer that cannot be
	Saturated uint64 // calls that were not made because of MaxInFlight
	InFlight  int    // calls that are under way, or have not returned since their Timeout
	Keys      int    // keys of which something is known here
	Open      bool   // whether the breaker is open
}

// Stats returns what there is to count.
func (l *Limiter) Stats() Stats {
	s := Stats{
		Decided: l.decided.Load(), Degraded: l.degraded.Load(), Timeouts: l.timeouts.Load(),
		Errors: l.errors.Load(), Saturated: l.saturated.Load(), InFlight: int(l.inFlight.Load()),
	}
	s.Denied, s.Keys = l.local.denials()
	s.Open, _ = l.breaker.isOpen(l.now().mono)
	return s
}

// id returns the ID of a new request: random for the Limiter, and counted within it.
func (l *Limiter) id() (id [16]byte) {
	copy(id[:], l.prefix[:])
	binary.BigEndian.PutUint64(id[8:], l.requests.Add(1))
	return id
}
