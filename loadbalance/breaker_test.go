package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBreakerInvalid(t *testing.T) {
	for _, c := range []struct {
		c    BreakerConfig
		want string
	}{
		{BreakerConfig{}, "loadbalance: ConsecutiveFailures or FailureRate must be set, got 0 for both"},
		{BreakerConfig{ConsecutiveFailures: -1}, "loadbalance: ConsecutiveFailures must be at least 0, got -1"},
		{BreakerConfig{FailureRate: -0.1}, "loadbalance: FailureRate must be between 0 and 1, got -0.1"},
		{BreakerConfig{FailureRate: 1.1}, "loadbalance: FailureRate must be between 0 and 1, got 1.1"},
		{BreakerConfig{FailureRate: math.NaN()}, "loadbalance: FailureRate must be between 0 and 1, got NaN"},
		{BreakerConfig{ConsecutiveFailures: 1, FailureRate: math.Inf(1)}, "loadbalance: FailureRate must be between 0 and 1, got +Inf"},
		{BreakerConfig{FailureRate: 1, MinRequests: -1}, "loadbalance: MinRequests must be at least 1, got -1"},
		{BreakerConfig{FailureRate: 1, Window: time.Millisecond}, "loadbalance: Window must be at least 10ms, got 1ms"},
		{BreakerConfig{FailureRate: 1, Window: -1}, "loadbalance: Window must be at least 10ms, got -1ns"},
		{BreakerConfig{FailureRate: 1, OpenFor: 1}, "loadbalance: OpenFor must be at least 1ms, got 1ns"},
		{BreakerConfig{FailureRate: 1, OpenFor: math.MinInt64}, "loadbalance: OpenFor must be at least 1ms, got -2562047h47m16.854775808s"},
		{BreakerConfig{FailureRate: 1, Probes: -2}, "loadbalance: Probes must be at least 1, got -2"},
	} {
		_, err := NewBreaker(c.c)
		require.EqualError(t, err, c.want)
	}
}

func TestBreakerStateString(t *testing.T) {
	require.Equal(t, "closed, open, half-open, BreakerState(3)", fmt.Sprintf("%v, %v, %v, %v", Closed, Open, HalfOpen, BreakerState(3)))
}

func newBreaker(t testing.TB, c BreakerConfig) *Breaker {
	t.Helper()
	b, err := NewBreaker(c)
	require.NoError(t, err)
	return b
}

// A naiveBreaker keeps all that has happened.
type naiveBreaker struct {
	c     BreakerConfig
	state BreakerState
	since time.Duration // when the state was entered
	ended []naiveResult // in this state, if it is Closed
	out   []*naivePermit
	good  int           // of the probes
	last  time.Duration // when one was let through
}

type naiveResult struct {
	at     time.Duration
	failed bool
}

type naivePermit struct {
	void   bool // its result does not count
	late   bool // another one has been let through in its place
	permit *Permit
}

func (n *naiveBreaker) enter(s BreakerState, now time.Duration) {
	n.state, n.since, n.ended, n.good = s, now, nil, 0
	for _, p := range n.out {
		p.void = true
	}
}

// valid returns how many are in flight whose results count.
func (n *naiveBreaker) valid() (count int) {
	for _, p := range n.out {
		if !p.void && !p.late {
			count++
		}
	}
	return count
}

func (n *naiveBreaker) allow(now time.Duration) bool {
	if n.state == Open {
		if now < n.since+n.c.OpenFor {
			return false
		}
		n.enter(HalfOpen, now)
	}
	if n.state == HalfOpen {
		if n.valid()+n.good >= n.c.Probes {
			if now < n.last+n.c.OpenFor {
				return false
			}
			for _, p := range n.out { // others come in their place
				p.late = true
			}
		}
	}
	n.out = append(n.out, &naivePermit{})
	n.last = now
	return true
}

func (n *naiveBreaker) done(i int, failed, canceled bool, now time.Duration) {
	p := n.out[i]
	n.out = append(n.out[:i:i], n.out[i+1:]...)
	if p.void || canceled || p.late && failed {
		return
	}
	if n.state == HalfOpen {
		if failed {
			n.enter(Open, now)
		} else if n.good++; n.good == n.c.Probes {
			n.enter(Closed, now)
		}
		return
	}
	n.ended = append(n.ended, naiveResult{now, failed})
	streak, all, bad := 0, 0, 0
	for k := len(n.ended) - 1; k >= 0 && n.ended[k].failed; k-- {
		streak++
	}
	step := n.c.Window / 10
	for _, r := range n.ended {
		if r.at/step > now/step-10 {
			if all++; r.failed {
				bad++
			}
		}
	}
	if n.c.ConsecutiveFailures > 0 && streak >= n.c.ConsecutiveFailures ||
		n.c.FailureRate > 0 && all >= n.c.MinRequests && float64(bad)/float64(all) >= n.c.FailureRate {
		n.enter(Open, now)
	}
}

func TestBreakerModel(t *testing.T) {
	for seed := range uint64(few(200)) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			c := BreakerConfig{
				ConsecutiveFailures: r.IntN(5),
				FailureRate:         float64(1+r.IntN(10)) / 10,
				MinRequests:         1 + r.IntN(10),
				Window:              time.Second + time.Duration(r.IntN(1000)),
				OpenFor:             time.Duration(100+r.IntN(1000)) * time.Millisecond,
				Probes:              1 + r.IntN(4),
			}
			var changes []BreakerState
			c.OnChange = func(from, to BreakerState) {
				if len(changes) > 0 {
					require.Equal(t, changes[len(changes)-1], from, "seed %d", seed)
				}
				require.NotEqual(t, from, to)
				changes = append(changes, to)
			}
			b, n := newBreaker(t, c), &naiveBreaker{c: c}
			begin := time.Now()
			failures := 0.1 + 0.8*r.Float64()
			for i := range 400 {
				message := fmt.Sprintf("seed %d, step %d: %+v, naive %v", seed, i, c, n.state)
				now := time.Since(begin)
				switch k := r.IntN(10); {
				case k < 4:
					p, err := b.Allow()
					require.Equal(t, n.allow(now), err == nil, message)
					if err != nil {
						require.ErrorIs(t, err, ErrOpen)
						p.Done(OK)
						break
					}
					n.out[len(n.out)-1].permit = &p
				case k < 8 && len(n.out) > 0:
					j := r.IntN(len(n.out))
					p, o := n.out[j].permit, []Outcome{OK, ClientError, OK.WithLoad(1)}[r.IntN(3)]
					canceled := r.IntN(10) == 0
					failed := !canceled && r.Float64() < failures
					if failed {
						o = []Outcome{ServerError, ConnectError, Timeout, Overload, 99}[r.IntN(5)]
					} else if canceled {
						o = Canceled
					}
					n.done(j, failed, canceled, now)
					p.Done(o)
					p.Done(OK)
					p.Done(ServerError)
				case k == 8:
					time.Sleep(time.Duration(r.IntN(int(c.OpenFor))))
				default:
					time.Sleep(time.Duration(r.IntN(int(c.Window / 5))))
				}
				now = time.Since(begin)
				want, left := n.state, time.Duration(0)
				if want == Open {
					if left = max(0, n.since+c.OpenFor-now); left == 0 {
						want = HalfOpen
					}
				}
				require.Equal(t, want, b.State(), message)
				require.Equal(t, left, b.RetryAfter(), message)
			}
		})
	}
}

// TestBreakerProbes has probes that never end, and requests that are rare.
func TestBreakerProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 3})
		allow := func(want bool) *Permit {
			t.Helper()
			p, err := b.Allow()
			require.Equal(t, want, err == nil, "%v", err)
			return &p
		}
		early := allow(true)
		allow(true).Done(Timeout)
		require.Equal(t, Open, b.State())
		_, err := b.Allow()
		require.EqualError(t, err, "loadbalance: the Breaker is open, for 1s more")
		time.Sleep(time.Second)
		early.Done(ServerError) // of an earlier state
		lost := []*Permit{allow(true), allow(true), allow(true)}
		_, err = b.Allow()
		require.EqualError(t, err, "loadbalance: the Breaker is open: half-open, and waiting for 3 requests")
		time.Sleep(time.Second - 1)
		allow(false)
		time.Sleep(time.Nanosecond)
		// Others in their place, whose results count, and not those of the lost.
		instead := []*Permit{allow(true), allow(true), allow(true)}
		allow(false)
		for _, p := range lost {
			p.Done(ServerError)
		}
		require.Equal(t, HalfOpen, b.State())
		instead[0].Done(OK)
		instead[1].Done(Canceled)
		instead[2].Done(OK)
		require.Equal(t, HalfOpen, b.State())
		allow(true).Done(ServerError)
		require.Equal(t, Open, b.State())

		// One request in a while: each that succeeds counts, however long the next takes to come.
		for range 3 {
			time.Sleep(10 * time.Second)
			require.Equal(t, HalfOpen, b.State())
			allow(true).Done(OK)
		}
		require.Equal(t, Closed, b.State())
	})
}

// Answers that take longer than OpenFor: they are what others are let through in the place of, and still count.
func TestBreakerSlowProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, OpenFor: time.Second})
		p, err := b.Allow()
		require.NoError(t, err)
		p.Done(Timeout)
		for range 4 { // four a second, which take three seconds
			time.Sleep(time.Second)
			if p, err := b.Allow(); err == nil {
				time.AfterFunc(3*time.Second, func() { p.Done(OK) })
			}
		}
		time.Sleep(time.Second)
		require.Equal(t, Closed, b.State())
	})
}

// TestBreakerLongest has the longest times.
func TestBreakerLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, FailureRate: 1, MinRequests: math.MaxInt, Window: math.MaxInt64, OpenFor: math.MaxInt64, Probes: math.MaxInt})
		time.Sleep(time.Hour)
		p, err := b.Allow()
		require.NoError(t, err)
		p.Done(ServerError)
		time.Sleep(24 * 365 * time.Hour)
		require.Equal(t, Open, b.State())
		require.Positive(t, b.RetryAfter())
		_, err = b.Allow()
		require.ErrorIs(t, err, ErrOpen)
	})
}

// TestBreakerRate opens at exactly the rate, for all that can be written with two digits.
func TestBreakerRate(t *testing.T) {
	for k := 1; k <= 100; k++ {
		b := newBreaker(t, BreakerConfig{FailureRate: float64(k) / 100, MinRequests: 100})
		for i := range 100 {
			require.Equal(t, Closed, b.State())
			p, err := b.Allow()
			require.NoError(t, err)
			if i < 100-k {
				p.Done(OK)
			} else {
				p.Done(ServerError)
			}
		}
		require.Equal(t, Open, b.State(), "%d of 100", k)
	}
}

func TestBreakerDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, OpenFor: time.Second})
		ctx := context.Background()
		ended, cancel := context.WithCancel(ctx)
		cancel()
		do := func(err error) error { return b.Do(ctx, func(context.Context) error { return err }) }
		require.NoError(t, do(nil))
		require.Equal(t, context.Canceled, do(context.Canceled))
		require.Equal(t, Closed, b.State())
		require.Equal(t, context.Canceled, b.Do(ended, func(context.Context) error { panic("it is not called") }))
		for _, f := range []func(){
			func() { require.Equal(t, errSick, do(errSick)) },
			func() {
				require.PanicsWithValue(t, "out of order", func() { _ = b.Do(ctx, func(context.Context) error { panic("out of order") }) })
			},
			func() {
				var running sync.WaitGroup
				running.Go(func() { _ = b.Do(ctx, func(context.Context) error { runtime.Goexit(); return nil }) })
				running.Wait()
			},
		} {
			f()
			require.Equal(t, Open, b.State())
			require.ErrorIs(t, b.Do(ctx, func(context.Context) error { panic("it is not called") }), ErrOpen)
			time.Sleep(time.Second)
			require.NoError(t, do(nil))
			require.Equal(t, Closed, b.State())
		}
	})
}

// TestBreakerOnChange has OnChange call the Breaker, panic, and many change it at the same time.
func TestBreakerOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Breaker
		var changes []string
		panics := true
		b = newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, OpenFor: time.Second, OnChange: func(from, to BreakerState) {
			changes = append(changes, fmt.Sprint(from, " ", to))
			b.State()
			b.RetryAfter()
			if p, err := b.Allow(); err == nil {
				p.Done(OK)
			}
			if panics {
				panics = false
				panic(errSick)
			}
		}})
		require.PanicsWithError(t, "sick", func() { _ = b.Do(context.Background(), func(context.Context) error { return errors.New("x") }) })
		time.Sleep(time.Second)
		p, err := b.Allow() // the only probe, so that OnChange gets none
		require.NoError(t, err)
		require.Equal(t, HalfOpen, b.State())
		p.Done(OK)
		require.Equal(t, []string{"closed open", "open half-open", "half-open closed"}, changes)
	})
	var calls int
	b := newBreaker(t, BreakerConfig{ConsecutiveFailures: 1, OpenFor: time.Millisecond, OnChange: func(from, to BreakerState) { calls++ }})
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range few(4000) {
				if p, err := b.Allow(); err == nil {
					p.Done(ServerError)
				}
				runtime.Gosched()
			}
		})
	}
	running.Wait()
	require.Positive(t, calls) // and the race detector has seen them come one at a time
}
