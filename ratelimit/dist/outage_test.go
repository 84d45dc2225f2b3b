package dist

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A fake is a Backend that does what it is told.
type fake struct {
	mu    sync.Mutex
	do    func(context.Context, *Request) (Reply, error)
	last  Request
	calls int
}

func (f *fake) Take(ctx context.Context, r *Request) (Reply, error) {
	f.mu.Lock()
	do := f.do
	f.last = *r
	f.calls++
	f.mu.Unlock()
	return do(ctx, r)
}

func (f *fake) set(do func(context.Context, *Request) (Reply, error)) {
	f.mu.Lock()
	f.do = do
	f.mu.Unlock()
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// take takes, and returns how many calls there have been then.
func (f *fake) take(t *testing.T, l *Limiter, key string, n int64, calls int) int {
	t.Helper()
	l.Take(t.Context(), key, n)
	require.Equal(t, calls, f.count())
	return f.count()
}

func fail(context.Context, *Request) (Reply, error) { return Reply{}, errors.New("down") }

func allow(_ context.Context, r *Request) (Reply, error) {
	return Reply{Allowed: true, Ahead: make([]int64, len(r.Rates))}, nil
}

// TestPolicies are what decides when every call fails.
func TestPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := []ratelimit.Limit{ratelimit.PerSecond(10)}
		ctx := t.Context()
		f := &fake{do: fail}
		l := newLimiter(t, Config{Backend: f, Limits: limits, Replicas: 2})
		require.Equal(t, ratelimit.Result{
			Allowed: 2, Limit: 5, Remaining: 3, ResetAfter: 400 * time.Millisecond, NextToken: 200 * time.Millisecond, Degraded: true,
		}, l.Take(ctx, "k", 2))
		require.Equal(t, l.Peek(ctx, "k", 3), l.Peek(ctx, "k", 3))
		require.True(t, l.Peek(ctx, "new", 5).OK())
		require.EqualValues(t, 5, l.Peek(ctx, "new", 5).Remaining)
		require.Equal(t, 200*time.Millisecond, l.Take(ctx, "k", 4).RetryAfter)
		require.True(t, l.Take(ctx, "k", 3).OK())
		require.False(t, l.Take(ctx, "k", 1).OK())
		time.Sleep(200 * time.Millisecond)
		require.True(t, l.Take(ctx, "k", 1).OK())
		require.True(t, l.Stats().Open)
		require.Equal(t, 800*time.Millisecond, l.Take(ctx, "k", 6).RetryAfter, "more than the share: when the backend is asked again")

		l = newLimiter(t, Config{Backend: f, Limits: limits, Replicas: 25})
		require.Equal(t, ratelimit.Result{Allowed: 1, Limit: 1, ResetAfter: 2500 * time.Millisecond, NextToken: 2500 * time.Millisecond, Degraded: true}, l.Take(ctx, "k", 1))

		l = newLimiter(t, Config{Backend: f, Limits: limits, OnOutage: Open})
		for range 30 {
			require.Equal(t, ratelimit.Result{Allowed: 7, Limit: 10, Remaining: 10, Degraded: true}, l.Take(ctx, "k", 7))
		}
		require.Equal(t, ratelimit.Never, l.Take(ctx, "k", 11).RetryAfter)

		l = newLimiter(t, Config{Backend: f, Limits: limits, OnOutage: Closed})
		second := time.Second
		require.Equal(t, ratelimit.Result{Limit: 10, RetryAfter: second, ResetAfter: second, NextToken: second, Degraded: true}, l.Take(ctx, "k", 1))
		require.True(t, l.Peek(ctx, "k", 0).OK())
		s := l.Stats()
		require.Equal(t, Stats{Degraded: 2, Errors: 2}, s)

		// Several limits, all or none.
		l = newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10), ratelimit.PerHour(24)}, Replicas: 2})
		require.True(t, l.Take(ctx, "k", 5).OK())
		time.Sleep(time.Second)
		require.True(t, l.Take(ctx, "k", 5).OK())
		time.Sleep(time.Second)
		require.False(t, l.Take(ctx, "k", 3).OK())
		require.EqualValues(t, 2, l.Peek(ctx, "k", 3).Remaining)
		require.True(t, l.Take(ctx, "k", 2).OK())
	})
}

// TestWarmShare charges the share while all is well: an outage does not begin with a fresh burst.
func TestWarmShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		f := &fake{do: m.Take}
		l := newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, Replicas: 2})
		require.True(t, l.Take(t.Context(), "k", 4).OK())
		require.True(t, l.Take(t.Context(), "j", 9).OK(), "more than the share")
		require.True(t, l.Take(t.Context(), "i", 5).OK())
		require.True(t, l.Take(t.Context(), "i", 5).OK())
		f.set(fail)
		require.EqualValues(t, 1, l.Peek(t.Context(), "k", 1).Remaining)
		require.EqualValues(t, 0, l.Peek(t.Context(), "j", 1).Remaining)
		require.Equal(t, 200*time.Millisecond, l.Take(t.Context(), "j", 1).RetryAfter)
		require.Equal(t, 200*time.Millisecond, l.Take(t.Context(), "i", 1).RetryAfter, "not more than all of the share is used")
		f.set(m.Take)
		require.False(t, l.Take(t.Context(), "k", 10).OK())
		f.set(fail)
		require.False(t, l.Take(t.Context(), "k", 10).Degraded, "what the backend is known to refuse is refused, by the limit")
	})
}

// TestHang never holds a caller longer than Timeout, and has no more goroutines than MaxInFlight.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{do: func(context.Context, *Request) (Reply, error) { <-release; return Reply{}, errors.New("late") }}
		var mu sync.Mutex
		var told []error
		l := newLimiter(t, Config{
			Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(1000)}, OnOutage: Closed, MaxInFlight: 8,
			OnError: func(err error) { mu.Lock(); told = append(told, err); mu.Unlock() },
		})
		start := time.Now()
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				r := l.Take(context.Background(), "k", 1)
				require.True(t, r.Degraded && !r.OK())
				require.Contains(t, []time.Duration{0, 50 * time.Millisecond}, time.Since(start))
			})
		}
		wg.Wait()
		s := l.Stats()
		require.Equal(t, Stats{Degraded: 100, Timeouts: 8, Saturated: 92, InFlight: 8, Open: true}, s)
		require.LessOrEqual(t, runtime.NumGoroutine(), before+8+1)
		require.Len(t, told, 8)
		require.ErrorIs(t, told[0], context.DeadlineExceeded)
		require.EqualError(t, told[0], "dist: no answer within 50ms: context deadline exceeded")
		require.Equal(t, 8, f.count())
		time.Sleep(time.Hour)
		l.Take(t.Context(), "k", 1)
		require.EqualValues(t, 93, l.Stats().Saturated, "they still hang")
		close(release)
		synctest.Wait()
		require.Zero(t, l.Stats().InFlight)
		require.EqualValues(t, 8, l.Stats().Timeouts, "once")
		require.Zero(t, l.Stats().Errors)
		f.set(allow)
		require.False(t, l.Take(t.Context(), "k", 1).Degraded, "it probes, and it is back")
		require.False(t, l.Stats().Open)
	})
}

// TestLateAnswer is dropped.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		f := &fake{do: func(ctx context.Context, r *Request) (Reply, error) {
			reply, err := m.Take(ctx, r)
			time.Sleep(60 * time.Millisecond)
			return reply, err
		}}
		l := newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, Replicas: 10, Failures: 2})
		require.True(t, l.Take(t.Context(), "k", 1).Degraded)
		require.True(t, l.Take(t.Context(), "k", 1).Degraded)
		require.True(t, l.Stats().Open, "that they came late does not count as success")
		time.Sleep(time.Second)
		f.set(m.Take)
		r := l.Peek(t.Context(), "k", 0)
		require.False(t, r.Degraded)
		require.EqualValues(t, 10, r.Remaining)
	})
}

// TestContext lets the caller go when its own context ends, which says nothing about the backend.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type value struct{}
		f := &fake{do: func(ctx context.Context, r *Request) (Reply, error) {
			require.Equal(t, 7, ctx.Value(value{}))
			select {
			case <-ctx.Done():
				return Reply{}, ctx.Err()
			case <-time.After(30 * time.Millisecond):
				return allow(ctx, r)
			}
		}}
		l := newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, Failures: 1})
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), value{}, 7), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.True(t, l.Take(ctx, "k", 1).Degraded)
		require.Equal(t, 10*time.Millisecond, time.Since(start))
		require.True(t, l.Take(ctx, "k", 1).Degraded, "it has ended already")
		require.Equal(t, 1, f.count())
		time.Sleep(time.Second)
		require.Equal(t, Stats{Degraded: 2, Keys: 1}, l.Stats(), "it has succeeded, without anybody")

		// The backend hangs, and its callers have less time than it takes to find out: it counts in the end.
		f.set(func(ctx context.Context, _ *Request) (Reply, error) { <-ctx.Done(); return Reply{}, ctx.Err() })
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		require.True(t, l.Take(ctx, "k", 1).Degraded)
		require.False(t, l.Stats().Open)
		time.Sleep(time.Second)
		require.True(t, l.Stats().Open)
		require.EqualValues(t, 1, l.Stats().Timeouts)

		// And if it answers too late, to nobody.
		f.set(func(ctx context.Context, r *Request) (Reply, error) {
			time.Sleep(60 * time.Millisecond)
			return allow(ctx, r)
		})
		l = newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, Failures: 1})
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		require.True(t, l.Take(ctx, "k", 1).Degraded)
		time.Sleep(time.Second)
		require.True(t, l.Stats().Open)
	})
}

// TestBreaker opens, probes with one call, and closes.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{do: fail}
		l := newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(1e5)}, OnOutage: Open, Failures: 3, Cooldown: 2 * time.Second})
		ctx := t.Context()
		for range 2 {
			l.Take(ctx, "k", 1)
			l.Take(ctx, "k", 1)
			f.set(allow)
			require.False(t, l.Take(ctx, "k", 1).Degraded, "a success begins anew")
			f.set(fail)
		}
		for range 100 {
			require.True(t, l.Take(ctx, "k", 1).Degraded)
		}
		require.Equal(t, 6+3, f.count())
		require.True(t, l.Stats().Open)
		for i := range 3 {
			time.Sleep(2*time.Second - time.Nanosecond)
			l.Take(ctx, "k", 1)
			require.Equal(t, 9+i, f.count())
			time.Sleep(time.Nanosecond)
			for range 10 {
				l.Take(ctx, "k", 1)
			}
			require.Equal(t, 10+i, f.count(), "one call")
		}
		// Of many at the same time, too; and a probe that hangs for ever is not the last.
		f.set(func(context.Context, *Request) (Reply, error) {
			time.Sleep(365 * 24 * time.Hour)
			return Reply{}, errors.New("")
		})
		time.Sleep(2 * time.Second)
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { l.Take(short, "k", 1) })
		}
		wg.Wait()
		require.Equal(t, 13, f.count())
		f.set(allow)
		time.Sleep(2050 * time.Millisecond)
		require.False(t, l.Take(ctx, "k", 1).Degraded)
		require.False(t, l.Take(ctx, "k", 1).Degraded)
		require.False(t, l.Stats().Open)
		time.Sleep(366 * 24 * time.Hour)
	})
	// Who began before it opened says nothing about now.
	b := breaker{most: 1, cooldown: 10, timeout: 5}
	probe, ok := b.admit(0)
	require.True(t, ok && !probe)
	b.settle(1, false, false)
	b.settle(2, false, true)
	open, wait := b.isOpen(3)
	require.True(t, open)
	require.EqualValues(t, 8, wait)
	b.settle(4, false, false)
	_, wait = b.isOpen(100)
	require.EqualValues(t, 1, wait)
	_, wait = (&breaker{cooldown: 7}).isOpen(0)
	require.EqualValues(t, 7, wait)
}

// TestBadBackends are failures, and nothing worse.
func TestBadBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for want, do := range map[string]func(context.Context, *Request) (Reply, error){
			"down":                              fail,
			"dist: the backend panicked: boo\n": func(context.Context, *Request) (Reply, error) { panic("boo") },
			"dist: the backend has ended its goroutine":                                func(context.Context, *Request) (Reply, error) { runtime.Goexit(); return Reply{}, nil },
			"dist: the backend's answer has 2 limits, want 1":                          func(context.Context, *Request) (Reply, error) { return Reply{Ahead: []int64{1, 2}}, nil },
			"dist: in the backend's answer Ahead is -1, and must be 0 to 1000000":      func(context.Context, *Request) (Reply, error) { return Reply{Ahead: []int64{-1}}, nil },
			"dist: in the backend's answer Ahead is 1000001, and must be 0 to 1000000": func(context.Context, *Request) (Reply, error) { return Reply{Ahead: []int64{1000001}}, nil },
			"dist: the backend has refused what the limits allow":                      func(context.Context, *Request) (Reply, error) { return Reply{Ahead: []int64{900000}}, nil },
		} {
			var told error
			l := newLimiter(t, Config{Backend: &fake{do: do}, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, MaxInFlight: 1, OnError: func(err error) { told = err }})
			for i := range 3 {
				require.True(t, l.Take(t.Context(), "k", 1).Degraded)
				require.ErrorContains(t, told, want)
				require.Equal(t, Stats{Degraded: uint64(i + 1), Errors: uint64(i + 1), Keys: 1}, l.Stats())
			}
			require.Equal(t, strings.Contains(want, "panicked"), strings.Contains(told.Error(), "outage_test.go"), "the stack of a panic is told")
		}
	})
}

// TestConcurrent is for the race detector: a backend that fails, hangs and answers, and callers with
// contexts of all kinds.
func TestConcurrent(t *testing.T) {
	m := newMemory(t)
	var n atomic.Int64
	f := &fake{do: func(ctx context.Context, r *Request) (Reply, error) {
		switch n.Add(1) % 7 {
		case 0:
			return Reply{}, errors.New("down")
		case 1:
			<-ctx.Done()
			return Reply{}, ctx.Err()
		}
		return m.Take(ctx, r)
	}}
	for _, policy := range []Outage{Share, Open, Closed} {
		l := newLimiter(t, Config{
			Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(1e5), ratelimit.PerMinute(1e6)}, OnOutage: policy, MaxKeys: 50,
			Timeout: time.Millisecond, MaxInFlight: 4, Failures: 2, Cooldown: time.Millisecond, OnError: func(error) {},
		})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				for i := range 300 {
					key := fmt.Sprint(i % 100)
					l.Take(ctx, key, 1+int64(i%5))
					l.Peek(ctx, key, 1)
					l.Stats()
					if g == 0 && i == 200 {
						cancel()
					}
				}
			})
		}
		wg.Wait()
		s := l.Stats()
		require.EqualValues(t, 8*600, s.Decided+s.Denied+s.Degraded)
		require.LessOrEqual(t, s.InFlight, 4)
	}
}

// A forgetter is a Backend whose Delete does what it is told.
type forgetter struct {
	Backend
	f func(context.Context) error
}

func (f forgetter) Delete(ctx context.Context, _, _ string) error { return f.f(ctx) }

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		config := Config{Backend: m, Limits: []ratelimit.Limit{ratelimit.PerHour(2)}}
		l := newLimiter(t, config)
		ctx := t.Context()
		require.True(t, l.Take(ctx, "a", 2).OK())
		require.True(t, l.Take(ctx, "b", 2).OK())
		require.False(t, l.Take(ctx, "a", 1).OK())
		require.NoError(t, l.Delete(ctx, "a"))
		require.EqualValues(t, 2, l.Peek(ctx, "a", 0).Remaining)
		require.True(t, l.Take(ctx, "a", 2).OK())
		require.False(t, l.Take(ctx, "b", 1).OK(), "only the one")
		require.NoError(t, l.Delete(ctx, "never seen"))

		// Where it does not work, the denial stays.
		config.Backend = &counter{Backend: m}
		require.EqualError(t, newLimiter(t, config).Delete(ctx, "a"), "dist: the Backend cannot delete")
		ended, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, l.Delete(ended, "a"), context.Canceled)
		require.ErrorIs(t, m.Delete(ended, "test", "a"), context.Canceled)
		var f func(context.Context) error
		config.Backend, config.MaxInFlight = forgetter{m, func(ctx context.Context) error { return f(ctx) }}, 1
		l = newLimiter(t, config)
		require.False(t, l.Take(ctx, "a", 1).OK())
		for want, g := range map[string]func(context.Context) error{
			"dist: deleting: no":                                        func(context.Context) error { return errors.New("no") },
			"dist: deleting: the backend panicked: oh\n":                func(context.Context) error { panic("oh") },
			"dist: deleting: dist: the backend has ended its goroutine": func(context.Context) error { runtime.Goexit(); return nil },
		} {
			f = g
			err := l.Delete(ctx, "a")
			require.ErrorContains(t, err, want)
			require.Zero(t, l.Stats().InFlight)
		}
		hang := make(chan struct{})
		f = func(context.Context) error { <-hang; return nil }
		start := time.Now()
		require.ErrorIs(t, l.Delete(ctx, "a"), context.DeadlineExceeded)
		require.Equal(t, 50*time.Millisecond, time.Since(start))
		require.EqualError(t, l.Delete(ctx, "a"), "dist: deleting: 1 calls are in flight")
		close(hang)
		synctest.Wait()
		require.Zero(t, l.Stats().InFlight)
		require.False(t, l.Take(ctx, "a", 1).OK())
		require.EqualValues(t, 2, l.Stats().Denied+l.Stats().Decided)
	})
}

// A backendFunc is a Backend that does what it is told.
type backendFunc func(ctx context.Context, r *Request) (Reply, error)

func (f backendFunc) Take(ctx context.Context, r *Request) (Reply, error) { return f(ctx, r) }

// TestSlowAnswers has answers come after the share has been used, while calls are not made because of
// MaxInFlight: what they charge must not give back what the share was used for.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		l := newLimiter(t, Config{
			Backend: backendFunc(func(ctx context.Context, r *Request) (Reply, error) {
				reply, err := m.Take(ctx, r)
				time.Sleep(45 * time.Millisecond)
				return reply, err
			}),
			Limits:   []ratelimit.Limit{ratelimit.PerSecond(1000).WithBurst(100)},
			Replicas: 10, MaxInFlight: 20,
		})
		var share atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for g := range 40 {
			wg.Go(func() {
				time.Sleep(time.Duration(g) * time.Millisecond)
				for time.Since(start) < 10*time.Second {
					if r := l.Take(t.Context(), "k", 1); r.OK() && r.Degraded {
						share.Add(1)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		require.Positive(t, l.Stats().Saturated)
		require.LessOrEqual(t, share.Load(), int64(10+100*time.Since(start)/time.Second))
		require.Greater(t, share.Load(), int64(900))
	})
}

// TestDeleteOutdatesAnswers has a refusal that was asked for before Delete come after it.
func TestDeleteOutdatesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		var delay time.Duration
		slow := backendFunc(func(ctx context.Context, r *Request) (Reply, error) {
			d := delay
			reply, err := m.Take(ctx, r)
			time.Sleep(d)
			return reply, err
		})
		l := newLimiter(t, Config{
			Backend: forgetter{slow, func(ctx context.Context) error { return m.Delete(ctx, "test", "k") }},
			Limits:  []ratelimit.Limit{ratelimit.PerHour(1)},
		})
		require.True(t, l.Take(t.Context(), "k", 1).OK())
		delay = 20 * time.Millisecond
		go l.Take(t.Context(), "k", 1)
		time.Sleep(time.Millisecond)
		require.NoError(t, l.Delete(t.Context(), "k"))
		time.Sleep(time.Second)
		require.True(t, l.Take(t.Context(), "k", 1).OK())
	})
}

// TestShortContexts has callers leave before Timeout: that the backend hangs is noticed all the same.
func TestShortContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		l := newLimiter(t, Config{
			Backend: backendFunc(func(context.Context, *Request) (Reply, error) { <-hang; return Reply{}, nil }),
			Limits:  []ratelimit.Limit{ratelimit.PerHour(1)},
		})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			require.True(t, l.Take(ctx, "k", 1).Degraded)
			cancel()
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		require.True(t, l.Stats().Open)
		require.GreaterOrEqual(t, l.Stats().Timeouts, uint64(5))
		close(hang)
	})
}

// TestLongKeys takes keys that are too long to be kept.
func TestLongKeys(t *testing.T) {
	l := newLimiter(t, Config{Backend: newMemory(t), Limits: []ratelimit.Limit{ratelimit.PerHour(1)}})
	long := strings.Repeat("x", maxKey)
	for _, k := range []string{long, long + "x", long + "y", short(long + "x"), short(short(long + "x"))} {
		require.True(t, l.Take(t.Context(), k, 1).OK())
		require.False(t, l.Take(t.Context(), k, 1).OK())
		require.False(t, l.Take(t.Context(), k, 1).OK())
	}
	require.EqualValues(t, 5, l.Stats().Denied)
	for k := range l.local.parts[0].book.entries {
		require.LessOrEqual(t, len(k), maxKey+1)
	}
	require.NoError(t, l.Delete(t.Context(), long+"y"))
	require.True(t, l.Take(t.Context(), long+"y", 1).OK())
}
