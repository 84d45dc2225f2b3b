package ratelimit

import (
	"context"
	"errors"
	"math"
	"math/big"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newBucket(t testing.TB, l Limit) *Bucket {
	t.Helper()
	b, err := NewBucket(l)
	require.NoError(t, err)
	return b
}

func TestInvalidLimits(t *testing.T) {
	for _, c := range []struct {
		l    Limit
		want string
	}{
		{Limit{}, "ratelimit: invalid limit: Count must be at least 1, got 0"},
		{PerSecond(-1), "ratelimit: invalid limit: Count must be at least 1, got -1"},
		{Limit{Count: 1}, "ratelimit: invalid limit: Per must be more than 0, got 0s"},
		{Every(-time.Second), "ratelimit: invalid limit: Per must be more than 0, got -1s"},
		{PerSecond(1).WithBurst(-1), "ratelimit: invalid limit: Burst must be at least 0, got -1"},
		{Every(math.MaxInt64), "ratelimit: invalid limit: a burst of 1 at 1 per 2562047h47m16.854775807s takes longer to come in than can be counted"},
		{PerHour(1).WithBurst(1e9), "ratelimit: invalid limit: a burst of 1000000000 at 1 per 1h0m0s takes longer to come in than can be counted"},
		{PerSecond(math.MaxInt64), "ratelimit: invalid limit: 9223372036854775807 per 1s is more than can be counted"},
		{PerSecond(7e11 + 1), "ratelimit: invalid limit: 700000000001 per 1s is more than can be counted"},
	} {
		_, err := NewBucket(c.l)
		require.EqualError(t, err, c.want)
		require.ErrorIs(t, err, ErrLimit)
		b := newBucket(t, PerSecond(3))
		require.True(t, b.Allow())
		require.EqualError(t, b.SetLimit(c.l), c.want)
		require.Equal(t, PerSecond(3), b.Limit())
	}
	for _, l := range []Limit{Unlimited, None, PerSecond(5).WithBurst(6), PerSecond(0)} {
		_, err := NewFixedWindow(l)
		require.ErrorIs(t, err, ErrLimit, "%v", l)
		_, err = NewSlidingLog(l)
		require.ErrorIs(t, err, ErrLimit, "%v", l)
		_, err = NewSlidingCounter(l)
		require.ErrorIs(t, err, ErrLimit, "%v", l)
	}
	_, err := NewFixedWindow(Limit{Count: 1<<31 + 1, Per: time.Hour})
	require.ErrorContains(t, err, "Count must be at most 2147483648 here, got 2147483649")
	_, err = NewSlidingLog(Limit{Count: 1<<24 + 1, Per: time.Hour})
	require.ErrorContains(t, err, "Count must be at most 16777216 here, got 16777217")
}

func TestString(t *testing.T) {
	require.Equal(t, "100 per 1m0s, burst 100", PerMinute(100).String())
	require.Equal(t, "1 per 2s, burst 5", Every(2*time.Second).WithBurst(5).String())
	require.Equal(t, "unlimited", Unlimited.String())
	require.Equal(t, "none", None.String())
}

// FuzzRate checks that a limit that is taken is kept within 1 %, and that its figures are within
// bounds.
func FuzzRate(f *testing.F) {
	for _, l := range limits {
		f.Add(l.Count, int64(l.Per), l.Burst)
	}
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(int64(1), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, count, per, burst int64) {
		l := Limit{Count: count, Per: time.Duration(per), Burst: burst}
		r, err := l.rate()
		if err != nil {
			require.ErrorIs(t, err, ErrLimit)
			return
		}
		if l == Unlimited || l == None {
			return
		}
		require.True(t, r.inc > 0 && r.tau > 0 && r.tau <= maxTau && r.shift <= maxShift)
		require.Equal(t, new(big.Int).Mul(big.NewInt(r.inc), big.NewInt(r.burst)).Int64(), r.tau)
		exact := new(big.Rat).SetFrac(new(big.Int).Lsh(big.NewInt(per), uint(r.shift)), big.NewInt(count))
		ratio := new(big.Rat).Quo(new(big.Rat).SetInt64(r.inc), exact)
		require.GreaterOrEqual(t, ratio.Cmp(big.NewRat(1, 1)), 0, "never too short")
		require.LessOrEqual(t, ratio.Cmp(big.NewRat(101, 100)), 0, "at most 1 %% too long")
		b := newBucket(t, l)
		require.Equal(t, l.burst(), b.TakeUpTo(math.MaxInt64).Allowed)
		require.False(t, b.AllowN(l.burst()) && l.Per > time.Hour)
	})
}

func TestAnd(t *testing.T) {
	fast := Result{Allowed: 2, Limit: 10, Remaining: 8, ResetAfter: 2, NextToken: 1}
	slow := Result{Limit: 100, Remaining: 1, RetryAfter: 7, ResetAfter: 99, NextToken: 3, Degraded: true}
	both := Result{Limit: 100, Remaining: 1, RetryAfter: 7, ResetAfter: 99, NextToken: 3, Degraded: true}
	require.Equal(t, both, fast.And(slow))
	require.Equal(t, both, slow.And(fast))
	slow.Remaining, both.Remaining, both.Limit = 8, 8, 10
	require.Equal(t, both, fast.And(slow), "they have as many: the later of the next tokens")
	require.Equal(t, both, slow.And(fast))
	fast.NextToken, both.NextToken = 0, 0
	require.Equal(t, both, fast.And(slow), "one of them is full, and does not grow")
	require.Equal(t, both, slow.And(fast))
	require.Equal(t, fast, fast.And(fast))
}

// FuzzConstructors checks that limiters of all kinds either refuse a limit, or keep it at the first
// moment: what is allowed then is at most the burst.
func FuzzConstructors(f *testing.F) {
	for _, l := range limits {
		f.Add(l.Count, int64(l.Per), l.Burst, int64(1))
	}
	for _, n := range []int64{1, 2, maxTau - 1, maxTau, maxTau + 1, maxNow, math.MaxInt64} {
		f.Add(int64(1), n, int64(1), n)
		f.Add(n, int64(time.Hour), n, n)
		f.Add(int64(1), int64(1), n, n)
	}
	f.Fuzz(func(t *testing.T, count, per, burst, n int64) {
		synctest.Test(t, func(t *testing.T) {
			l := Limit{Count: count, Per: time.Duration(per), Burst: burst}
			check := func(x Limiter, err error) {
				if err != nil {
					require.ErrorIs(t, err, ErrLimit)
					return
				}
				most := x.Peek(0).Limit
				if most > 1<<20 {
					return // a SlidingLog would take its time
				}
				peek, r := x.Peek(n), x.Take(n)
				require.Equal(t, 0 <= n && n <= most, r.OK())
				require.Equal(t, peek.OK(), r.OK())
				require.Equal(t, n > most || n < 0, r.RetryAfter == Never)
				if r.OK() {
					require.Equal(t, most-n, r.Remaining)
					require.Equal(t, n == 0, x.Take(most).OK())
				}
				require.GreaterOrEqual(t, x.Peek(1).RetryAfter, time.Duration(0))
			}
			if l != Unlimited && l != None {
				b, err := NewBucket(l)
				check(b, err)
				m, err := All(l, l)
				check(m, err)
				w, err := NewFixedWindow(l)
				check(w, err)
				s, err := NewSlidingLog(l)
				check(s, err)
				c, err := NewSlidingCounter(l)
				check(c, err)
				k, err := NewKeyed[int](l, KeyedConfig{MaxKeys: 1})
				check(keyedLimiter{k}, err)
			}
			x := newKeyed[int](t, PerSecond(1), KeyedConfig{MaxKeys: 1})
			r, err := x.TakeLimit(1, l, n)
			if err != nil {
				require.ErrorIs(t, err, ErrLimit)
			} else if l != Unlimited && l != None {
				require.Equal(t, 0 <= n && n <= l.burst(), r.OK())
			}
			if _, err := NewPacer(l, n, burst); err != nil {
				require.ErrorContains(t, err, "ratelimit: ")
			}
		})
	})
}

// A keyedLimiter is one key of a Keyed.
type keyedLimiter struct{ k *Keyed[int] }

func (x keyedLimiter) Take(n int64) Result { return x.k.Take(0, n) }
func (x keyedLimiter) Peek(n int64) Result { return x.k.Peek(0, n) }

func TestUnlimitedAndNone(t *testing.T) {
	b := newBucket(t, Unlimited)
	for range 100 {
		require.True(t, b.Allow())
		require.True(t, b.AllowAt(time.Time{}, math.MaxInt64))
	}
	require.Equal(t, Result{Allowed: 7, Limit: math.MaxInt64, Remaining: math.MaxInt64}, b.Take(7))
	require.EqualValues(t, 7, b.TakeUpTo(7).Allowed)
	require.False(t, b.AllowN(-1))
	require.Equal(t, Never, b.Take(-1).RetryAfter)
	r, ok := b.Reserve(1<<40, 0)
	require.True(t, ok)
	require.Zero(t, r.Delay())
	require.Zero(t, r.Cancel())
	require.NoError(t, b.Wait(t.Context(), math.MaxInt64))

	b = newBucket(t, None)
	require.False(t, b.Allow())
	require.True(t, b.AllowN(0))
	require.Equal(t, Result{RetryAfter: Never}, b.Take(1))
	require.True(t, b.Take(0).OK())
	_, ok = b.Reserve(1, Never)
	require.False(t, ok)
	require.ErrorIs(t, b.Wait(t.Context(), 1), ErrBurst)

	m, err := All(Unlimited, PerSecond(3))
	require.NoError(t, err)
	require.EqualValues(t, 3, m.Take(0).Remaining)
	m, err = All(None, PerSecond(3))
	require.NoError(t, err)
	require.Equal(t, Never, m.Take(1).RetryAfter)
	require.EqualValues(t, 0, m.Take(1).Remaining)
}

// TestSetLimit keeps what has been used.
func TestSetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, PerSecond(10))
		require.True(t, b.AllowN(3))
		require.NoError(t, b.SetLimit(PerMinute(20)))
		require.Equal(t, PerMinute(20), b.Limit())
		require.EqualValues(t, 17, b.Peek(0).Remaining)
		require.Equal(t, 3*3*time.Second, b.Peek(0).ResetAfter)
		require.NoError(t, b.SetLimit(PerMinute(2)))
		require.EqualValues(t, 0, b.Peek(0).Remaining)
		require.Equal(t, 60*time.Second, b.Peek(1).RetryAfter, "three of two are missing")
		time.Sleep(60 * time.Second)
		require.True(t, b.Allow())

		// None and Unlimited forget nothing; what comes in meanwhile, comes in as before.
		require.NoError(t, b.SetLimit(None))
		require.False(t, b.Allow())
		require.NoError(t, b.SetLimit(Unlimited))
		require.True(t, b.AllowN(1e9))
		require.NoError(t, b.SetLimit(PerSecond(5)))
		require.EqualValues(t, 3, b.Peek(0).Remaining)
		require.True(t, b.AllowN(3))
		require.NoError(t, b.SetLimit(None))
		time.Sleep(400 * time.Millisecond)
		require.NoError(t, b.SetLimit(PerSecond(5)))
		require.EqualValues(t, 2, b.Peek(0).Remaining)

		// To other units, and where it would overflow.
		require.NoError(t, b.SetLimit(PerSecond(1e9)))
		require.EqualValues(t, 1e9-3, b.Peek(0).Remaining)
		require.True(t, b.AllowN(1e8))
		before := b.Peek(0)
		require.ErrorContains(t, b.SetLimit(Every(365*24*time.Hour)), "what was used would take longer to come in than can be counted")
		require.Equal(t, before, b.Peek(0))
		require.Equal(t, PerSecond(1e9), b.Limit())

		// What began with none has all.
		c := newBucket(t, None)
		require.NoError(t, c.SetLimit(PerSecond(5)))
		require.True(t, c.AllowN(5))

		// A reservation of before refunds nothing.
		b = newBucket(t, PerSecond(10))
		r, ok := b.Reserve(4, 0)
		require.True(t, ok)
		require.NoError(t, b.SetLimit(PerSecond(20)))
		require.Zero(t, r.Cancel())
		require.EqualValues(t, 16, b.Peek(0).Remaining)
	})
}

// TestAllowAt goes to the ends of time.
func TestAllowAt(t *testing.T) {
	for _, l := range []Limit{PerSecond(10), PerSecond(3e9).WithBurst(10), PerSecond(5e11).WithBurst(10)} {
		b := newBucket(t, l)
		for range 10 {
			require.True(t, b.AllowAt(time.Time{}, 1), "before it was made counts as when it was made")
		}
		require.False(t, b.AllowAt(time.Time{}, 1))
		require.False(t, b.AllowAt(time.Unix(0, 0), 1))
		later := time.Now().Add(time.Hour)
		require.True(t, b.AllowAt(later, 10))
		require.False(t, b.AllowAt(later, 1))
		require.False(t, b.Allow(), "after a time in the future there is nothing until then")
		require.True(t, b.AllowAt(later.Add(time.Second), 10))
		// Beyond what can be counted it is always the same time.
		require.True(t, b.AllowAt(time.Now().Add(math.MaxInt64), 1))
		for range 9 {
			require.True(t, b.AllowAt(time.Unix(1<<55, 0), 1))
		}
		require.False(t, b.AllowAt(time.Unix(1<<55, 0), 1))
		require.False(t, b.AllowAt(later, 1))
		require.False(t, b.Allow())
	}
	// A time in the future gives nothing to those of before, also where units are fine.
	for _, l := range []Limit{PerSecond(3e9).WithBurst(10), PerSecond(5e11).WithBurst(10)} {
		b := newBucket(t, l)
		allowed := 0
		for range 100 {
			if b.AllowAt(time.Now().Add(400*24*time.Hour), 1) {
				allowed++
			}
			for range 10 {
				if b.AllowAt(b.state.Load().base, 1) {
					allowed++
				}
			}
		}
		require.Equal(t, 10, allowed)
	}
}

// TestExtremes has the longest intervals and the latest times at once: sums that come near 2^63.
func TestExtremes(t *testing.T) {
	for _, l := range []Limit{{1, maxTau, 1}, {1 << 20, maxTau, 1 << 20}, {3, 3 * (maxTau / 3), 3}} {
		b := newBucket(t, l)
		require.True(t, b.AllowAt(time.Now().Add(math.MaxInt64), l.burst()))
		require.False(t, b.AllowAt(time.Time{}, 1))
		require.False(t, b.AllowAt(time.Time{}, l.burst()))
		require.False(t, b.AllowAt(time.Now().Add(math.MaxInt64), 1))
		_, ok := b.Reserve(l.burst(), Never)
		require.False(t, ok)
		require.False(t, b.Peek(l.burst()).OK())

		b = newBucket(t, l)
		for range 5 {
			_, _ = b.Reserve(l.burst(), Never)
		}
		require.False(t, b.AllowAt(time.Time{}, l.burst()))
		require.False(t, b.Allow())
		require.Positive(t, b.state.Load().tat.Load())
	}
	_, err := NewBucket(Limit{1, maxTau + 1, 1})
	require.ErrorIs(t, err, ErrLimit)
	for _, per := range []time.Duration{maxPer + 1, math.MaxInt64} {
		_, err := NewSlidingCounter(Limit{Count: 10, Per: per})
		require.ErrorContains(t, err, "Per must be at most")
	}
	_, err = NewFixedWindow(Limit{Count: 1 << 31, Per: time.Millisecond})
	require.EqualError(t, err, "ratelimit: invalid limit: a FixedWindow cannot count to 2147483648 in windows as short as 1ms")
}

// TestStaleWindow is a call that read the clock before a window ended, and decides after.
func TestStaleWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := NewFixedWindow(PerSecond(5))
		require.NoError(t, err)
		f.word.Store(f.word.Load()&^7 + 3<<f.bits | 5) // three windows later, full
		r := f.Take(1)
		require.False(t, r.OK())
		time.Sleep(r.RetryAfter - time.Nanosecond)
		require.False(t, f.Peek(1).OK())
		time.Sleep(time.Nanosecond)
		require.True(t, f.Peek(1).OK())
	})
}

// TestRebase lets a bucket whose units are fine live longer than they can count.
func TestRebase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, PerSecond(5e11).WithBurst(10)) // its units last for 19 hours
		m, err := All(PerSecond(5e11).WithBurst(10), PerHour(3).WithBurst(10))
		require.NoError(t, err)
		base := b.state.Load().base
		for range 100 {
			require.True(t, b.AllowN(10))
			require.True(t, m.Take(1).OK())
			time.Sleep(7 * time.Hour)
		}
		require.NotEqual(t, base, b.state.Load().base)
		time.Sleep(10 * 365 * 24 * time.Hour)
		require.True(t, b.AllowN(10))
		require.True(t, m.Take(10).OK())
	})
}

func TestTakeUpTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, PerSecond(10))
		require.EqualValues(t, 4, b.TakeUpTo(4).Allowed)
		require.EqualValues(t, 6, b.TakeUpTo(100).Allowed)
		r := b.TakeUpTo(100)
		require.Zero(t, r.Allowed)
		require.Equal(t, 100*time.Millisecond, r.RetryAfter)
		require.True(t, b.TakeUpTo(0).OK())
		require.Equal(t, Never, b.TakeUpTo(-1).RetryAfter)
		time.Sleep(250 * time.Millisecond)
		require.EqualValues(t, 2, b.TakeUpTo(100).Allowed)
	})
}

func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, PerSecond(10))
		r, ok := b.Reserve(10, 0)
		require.True(t, ok)
		require.Zero(t, r.Delay())
		_, ok = b.Reserve(1, 99*time.Millisecond)
		require.False(t, ok)
		r, ok = b.Reserve(1, 100*time.Millisecond)
		require.True(t, ok)
		require.Equal(t, 100*time.Millisecond, r.Delay())
		require.EqualValues(t, 0, b.Peek(0).Remaining)
		require.EqualValues(t, 1, r.Cancel())
		require.Zero(t, r.Cancel())
		for _, bad := range []int64{-1, 11, math.MaxInt64, math.MinInt64} {
			_, ok = b.Reserve(bad, Never)
			require.False(t, ok)
		}
		_, ok = b.Reserve(1, -1)
		require.False(t, ok)
		_, ok = b.Reserve(0, 0)
		require.True(t, ok)
		var zero Reservation
		require.Zero(t, zero.Cancel())
		// As far ahead as can be counted.
		n := 0
		for ; n < 100000; n++ {
			if _, ok := b.Reserve(10, Never); !ok {
				break
			}
		}
		require.Equal(t, 100000, n)
		require.False(t, b.Allow())
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, PerSecond(10).WithBurst(2))
		start := time.Now()
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := b.Wait(t.Context(), 1); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait() // it has come
		}
		wg.Wait()
		require.Equal(t, 1800*time.Millisecond, time.Since(start))
		require.IsIncreasing(t, order)

		// What cannot come in time takes nothing, and is refused at once.
		start = time.Now()
		require.True(t, b.AllowN(0))
		before := b.Peek(0)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := b.Wait(ctx, 2)
		require.ErrorIs(t, err, ErrWait)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, time.Since(start))
		require.Equal(t, before, b.Peek(0))
		require.ErrorIs(t, b.Wait(t.Context(), 3), ErrBurst)
		require.EqualError(t, b.Wait(t.Context(), -1), "ratelimit: n must be at least 0, got -1")

		// Who gives up gives back.
		ctx, cancel2 := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Wait(ctx, 2) }()
		synctest.Wait()
		cancel2()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Equal(t, before, b.Peek(0))
		require.ErrorIs(t, b.Wait(ctx, 0), context.Canceled)
	})
}

func TestPacer(t *testing.T) {
	for _, c := range []struct {
		l               Limit
		maxQueue, slack int64
		want            string
	}{
		{PerSecond(1), -1, 0, "ratelimit: maxQueue must be at least 0, got -1"},
		{PerSecond(1), 0, -1, "ratelimit: slack must be at least 0 and less than 2^63-1, got -1"},
		{PerSecond(1), 0, math.MaxInt64, "ratelimit: slack must be at least 0 and less than 2^63-1, got 9223372036854775807"},
		{PerSecond(1).WithBurst(2), 0, 0, "ratelimit: invalid limit: Burst must be 0 or 1 with a Pacer, which has slack instead, got 2"},
		{Unlimited, 0, 0, "ratelimit: invalid limit: a Pacer cannot be unlimited"},
		{PerSecond(0), 0, 0, "ratelimit: invalid limit: Count must be at least 1, got 0"},
		{PerSecond(1), 1 << 40, 0, "ratelimit: maxQueue must be at most 1152921504 with this rate, got 1099511627776"},
	} {
		_, err := NewPacer(c.l, c.maxQueue, c.slack)
		require.EqualError(t, err, c.want)
	}
	synctest.Test(t, func(t *testing.T) {
		p, err := NewPacer(PerSecond(10), 3, 0)
		require.NoError(t, err)
		start := time.Now()
		var times []time.Duration
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				times = append(times, time.Since(start))
				mu.Unlock()
			})
			synctest.Wait()
		}
		require.ErrorIs(t, p.Wait(t.Context()), ErrQueue)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, p.Wait(ctx), ErrWait)
		wg.Wait()
		require.Equal(t, []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond}, times)
		// After a pause, they are spaced all the same; with slack, two more catch up.
		time.Sleep(time.Hour)
		start = time.Now()
		require.NoError(t, p.Wait(t.Context()))
		require.NoError(t, p.Wait(t.Context()))
		require.Equal(t, 100*time.Millisecond, time.Since(start))
		p, err = NewPacer(PerSecond(10), 3, 2)
		require.NoError(t, err)
		start = time.Now()
		for range 5 {
			require.NoError(t, p.Wait(t.Context()))
		}
		require.Equal(t, 200*time.Millisecond, time.Since(start))
	})
}

func TestConcurrency(t *testing.T) {
	_, err := NewConcurrency(0, 0)
	require.EqualError(t, err, "ratelimit: n must be at least 1, got 0")
	_, err = NewConcurrency(1, -1)
	require.EqualError(t, err, "ratelimit: queue must be at least 0, got -1")
	synctest.Test(t, func(t *testing.T) {
		c, err := NewConcurrency(2, 3)
		require.NoError(t, err)
		ctx := t.Context()
		require.NoError(t, c.Acquire(ctx))
		require.True(t, c.TryAcquire())
		require.False(t, c.TryAcquire())
		var order []int
		give := make([]context.CancelFunc, 3)
		errs := make(chan error, 3)
		for i := range 3 {
			mine, cancel := context.WithCancel(ctx)
			give[i] = cancel
			go func() {
				err := c.Acquire(mine)
				if err == nil {
					order = append(order, i)
				}
				errs <- err
			}()
			synctest.Wait()
		}
		require.ErrorIs(t, c.Acquire(ctx), ErrQueue)
		give[1]()
		require.ErrorIs(t, <-errs, context.Canceled)
		c.Release()
		require.NoError(t, <-errs)
		c.Release()
		require.NoError(t, <-errs)
		require.Equal(t, []int{0, 2}, order)
		c.Release()
		c.Release()
		require.Equal(t, 2, c.free)
		require.Nil(t, c.first)
		require.Nil(t, c.last)
		require.Zero(t, c.waiting)

		mine := errors.New("mine")
		require.Equal(t, mine, c.Do(ctx, func(context.Context) error { return mine }))
		require.Panics(t, func() { _ = c.Do(ctx, func(context.Context) error { panic("mine") }) })
		require.Equal(t, 2, c.free)
		require.PanicsWithValue(t, "ratelimit: Release without Acquire", c.Release)
		give[2]()
		give[0]()
		ended, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, c.Do(ended, nil), context.Canceled)
	})
	// Who is cancelled while it becomes his turn passes it on.
	c, err := NewConcurrency(1, 1000)
	require.NoError(t, err)
	var wg sync.WaitGroup
	inside := 0
	var mu sync.Mutex
	for i := range 64 {
		wg.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+j)%3 == 0 {
					go cancel()
				}
				if c.Acquire(ctx) == nil {
					mu.Lock()
					inside++
					if inside != 1 {
						t.Error("not alone")
					}
					mu.Unlock()
					runtime.Gosched()
					mu.Lock()
					inside--
					mu.Unlock()
					c.Release()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, c.free)
	require.Zero(t, c.waiting)
}

func TestAllocations(t *testing.T) {
	b := newBucket(t, PerSecond(1e9))
	m, err := All(PerSecond(1e9), PerMinute(100))
	require.NoError(t, err)
	w, err := NewFixedWindow(PerSecond(1e9))
	require.NoError(t, err)
	l, err := NewSlidingLog(PerSecond(100))
	require.NoError(t, err)
	c, err := NewSlidingCounter(PerSecond(1e9))
	require.NoError(t, err)
	at := time.Now()
	for range 200 {
		l.Take(1) // it grows until it has room for Count
	}
	for name, f := range map[string]func(){
		"Allow":   func() { b.Allow() },
		"AllowAt": func() { b.AllowAt(at, 1) },
		"Take":    func() { b.Take(1) },
		"Reserve": func() {
			r, _ := b.Reserve(1, 0)
			r.Cancel()
		},
		"Multi":          func() { m.Take(1) },
		"FixedWindow":    func() { w.Take(1) },
		"SlidingLog":     func() { l.Take(1) },
		"SlidingCounter": func() { c.Take(1) },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, f), name)
	}
}
