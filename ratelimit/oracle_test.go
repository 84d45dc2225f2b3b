package ratelimit

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An event is n tokens that were allowed at a time.
type event struct {
	at time.Duration
	n  int64
}

// requireWithin is the oracle: in no interval were more than Burst + floor(elapsed·Count/Per) allowed.
//
// It follows the exact level of a bucket, in rational numbers: what is in it flows out at
// Count/Per, and must never be more than Burst. That the level stays within Burst is the same as
// that all intervals that end there do, as the level is the greatest excess among them; and as what
// is allowed are whole numbers, the floor makes no difference.
func requireWithin(t *testing.T, l Limit, events []event, format string, args ...any) {
	t.Helper()
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	level, burst := new(big.Rat), new(big.Rat).SetInt64(l.burst())
	var last time.Duration
	for i, e := range events {
		if i > 0 {
			flow := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(int64(e.at-last)), big.NewInt(l.Count)), big.NewInt(int64(l.Per)))
			if level.Sub(level, flow); level.Sign() < 0 {
				level.SetInt64(0)
			}
		}
		last = e.at
		level.Add(level, new(big.Rat).SetInt64(e.n))
		if level.Cmp(burst) > 0 {
			t.Fatalf("at %v the level is %s with %v: %s", e.at, level.FloatString(9), l, fmt.Sprintf(format, args...))
		}
	}
}

// limits are of many kinds: slow, fast, finer than a nanosecond, with remainders, with bursts.
var limits = []Limit{
	PerSecond(1), PerSecond(10), PerSecond(7), PerSecond(1e6), PerSecond(1e9), PerSecond(3e9).WithBurst(5), PerMinute(100), PerHour(13).WithBurst(2),
	Every(time.Millisecond), Every(7 * time.Nanosecond).WithBurst(9), {Count: 3, Per: 10 * time.Nanosecond, Burst: 40},
	{Count: 12_500_000_000, Per: time.Second, Burst: 64000}, Every(24 * time.Hour), PerSecond(1000).WithBurst(1),
	{Count: 997, Per: 1009 * time.Millisecond, Burst: 31},
}

// TestOracleAt asks at random times, in and out of order.
func TestOracleAt(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, l := range limits {
		for round := range 20 {
			b, err := NewBucket(l)
			require.NoError(t, err)
			base := b.state.Load().base
			var at time.Duration
			var events []event
			step := float64(l.Per) / float64(l.Count) * []float64{0.1, 1, 3, 50}[round%4]
			for range 400 {
				at += time.Duration(rng.ExpFloat64() * step)
				asked := at
				switch rng.IntN(10) {
				case 0: // stale
					asked = max(0, at-time.Duration(rng.ExpFloat64()*step*20))
				case 1: // a clock that is ahead
					asked += time.Duration(rng.ExpFloat64() * step)
				}
				n := 1 + rng.Int64N(min(l.burst()+1, 5))
				if b.AllowAt(base.Add(asked), n) {
					events = append(events, event{asked, n})
				}
			}
			requireWithin(t, l, events, "seed %d", seed)
			require.NotEmpty(t, events)
		}
	}
}

// TestFrozenClock allows exactly Burst while time stands still.
func TestFrozenClock(t *testing.T) {
	for _, l := range limits {
		synctest.Test(t, func(t *testing.T) {
			b, err := NewBucket(l)
			require.NoError(t, err)
			most := min(l.burst(), 2000)
			if most < l.burst() {
				require.True(t, b.AllowN(l.burst()-most))
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			allowed := int64(0)
			for range 64 {
				wg.Go(func() {
					mine := int64(0)
					for range most/16 + 1 {
						if b.Allow() {
							mine++
						}
					}
					mu.Lock()
					allowed += mine
					mu.Unlock()
				})
			}
			wg.Wait()
			require.Equal(t, most, allowed, "%v", l)
			require.Zero(t, b.Peek(1).Remaining)
		})
	}
}

// TestOracleSetLimit changes the limit all the time. The level of what was used goes on from one
// limit to the next: what is allowed must never raise it above Burst.
func TestOracleSetLimit(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	all := []Limit{PerSecond(10), PerMinute(100).WithBurst(7), PerSecond(1000), PerSecond(3e9).WithBurst(40), Every(time.Minute).WithBurst(3), None, Unlimited}
	for range 60 {
		synctest.Test(t, func(t *testing.T) {
			limit, flowing := all[0], all[0] // what comes in under None and Unlimited is as before
			b := newBucket(t, limit)
			level, last := new(big.Rat), time.Now()
			for range 300 {
				time.Sleep(time.Duration(rng.ExpFloat64() * float64(50*time.Millisecond)))
				now := time.Now()
				flow := big.NewRat(int64(now.Sub(last)), int64(flowing.Per))
				level.Sub(level, flow.Mul(flow, new(big.Rat).SetInt64(flowing.Count)))
				if level.Sign() < 0 {
					level.SetInt64(0)
				}
				last = now
				if rng.IntN(4) == 0 {
					limit = all[rng.IntN(len(all))]
					require.NoError(t, b.SetLimit(limit))
					if limit != None && limit != Unlimited {
						flowing = limit
					}
					continue
				}
				n := 1 + rng.Int64N(5)
				ok := b.AllowN(n)
				switch {
				case limit == Unlimited:
					require.True(t, ok)
				case limit == None:
					require.False(t, ok)
				case ok:
					level.Add(level, new(big.Rat).SetInt64(n))
					require.LessOrEqual(t, level.Cmp(new(big.Rat).SetInt64(limit.burst())), 0, "seed %d: level %v with %v", seed, level, limit)
				default:
					// Not stricter than by the rounding of intervals, 1 %, and of what was used.
					after := new(big.Rat).Add(level, new(big.Rat).SetInt64(n))
					slack := new(big.Rat).Mul(new(big.Rat).SetInt64(limit.burst()+8), big.NewRat(99, 100))
					require.Positive(t, after.Cmp(slack.Sub(slack, big.NewRat(8, 1))), "seed %d: %v refused at level %v with %v", seed, n, level.FloatString(6), limit)
				}
			}
		})
	}
}

// TestOracleSchedules takes, reserves and cancels, as time goes on. What was
// reserved is used when it was granted for; what was refunded was not used.
func TestOracleSchedules(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, l := range limits {
		if l.Per/time.Duration(l.Count) < time.Microsecond {
			continue // cannot be slept for
		}
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				b, err := NewBucket(l)
				require.NoError(t, err)
				now := func() time.Duration { return time.Since(start) }
				type reserved struct {
					event
					r *Reservation
				}
				var events []event
				var pending []reserved
				step := float64(l.Per) / float64(l.Count)
				for range 300 {
					time.Sleep(time.Duration(rng.ExpFloat64() * step * 0.8))
					n := 1 + rng.Int64N(min(l.burst()+1, 6))
					switch rng.IntN(6) {
					case 0, 1:
						if r, ok := b.Reserve(n, time.Duration(rng.ExpFloat64()*step*4)); ok {
							pending = append(pending, reserved{event{now() + r.Delay(), n}, &r})
						}
					case 2:
						if len(pending) > 0 {
							i := rng.IntN(len(pending))
							p := pending[i]
							pending = slices.Delete(pending, i, i+1)
							refund := p.r.Cancel()
							require.Contains(t, []int64{0, p.n}, refund)
							require.Zero(t, p.r.Cancel())
							if refund == 0 {
								events = append(events, p.event)
							}
						}
					case 3:
						r := b.TakeUpTo(n)
						if r.Allowed > 0 {
							events = append(events, event{now(), r.Allowed})
						}
						require.Equal(t, r.Allowed == 0, !r.OK())
					default:
						peek := b.Peek(n)
						r := b.Take(n)
						require.Equal(t, peek.OK(), r.OK())
						require.Equal(t, peek.RetryAfter, r.RetryAfter)
						if r.OK() {
							events = append(events, event{now(), n})
						}
					}
				}
				for _, p := range pending {
					events = append(events, p.event)
				}
				requireWithin(t, l, events, "seed %d", seed)
			})
		}
	}
}

// TestOracleConcurrent takes from 64 goroutines by the real clock, while the limit is set anew all
// the time, and compares the sum with what the time that all took allows.
func TestOracleConcurrent(t *testing.T) {
	for _, l := range []Limit{PerSecond(1e6).WithBurst(10), PerSecond(100), PerSecond(1e9).WithBurst(3)} {
		before := time.Now()
		b, err := NewBucket(l)
		require.NoError(t, err)
		var wg sync.WaitGroup
		var mu sync.Mutex
		allowed := int64(0)
		for g := range 64 {
			wg.Go(func() {
				mine := int64(0)
				for i := range 2000 {
					if g == 0 && i%50 == 0 {
						if err := b.SetLimit(l); err != nil {
							t.Error(err)
						}
					}
					if b.Allow() {
						mine++
					}
				}
				mu.Lock()
				allowed += mine
				mu.Unlock()
			})
		}
		wg.Wait()
		elapsed := new(big.Int).Mul(big.NewInt(int64(time.Since(before))), big.NewInt(l.Count))
		most := elapsed.Quo(elapsed, big.NewInt(int64(l.Per))).Int64() + l.burst()
		require.LessOrEqual(t, allowed, most, "%v", l)
		require.GreaterOrEqual(t, allowed, min(l.burst(), 2000*64))
	}
}

// TestCancelDoesNotMint is the schedule for which refunds as others compute them let 12 pass at once.
func TestCancelDoesNotMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBucket(PerSecond(1).WithBurst(10))
		require.NoError(t, err)
		first, ok := b.Reserve(5, 0)
		require.True(t, ok)
		time.Sleep(6 * time.Second)
		require.True(t, b.AllowN(2))
		require.Zero(t, first.Cancel())
		require.False(t, b.AllowN(9))
		require.True(t, b.AllowN(8))
	})
}

// TestRetryAfterIsTight requires of each RetryAfter that a nanosecond before it the same is
// refused, and at it allowed.
func TestRetryAfterIsTight(t *testing.T) {
	type limiter struct {
		name string
		make func(Limit) (Limiter, error)
	}
	for _, c := range []limiter{
		{"Bucket", func(l Limit) (Limiter, error) { return NewBucket(l) }},
		{"Multi", func(l Limit) (Limiter, error) {
			return All(l, Limit{Count: 2 * l.Count, Per: 3 * l.Per, Burst: 2 * l.Count})
		}},
		{"FixedWindow", func(l Limit) (Limiter, error) { return NewFixedWindow(l.WithBurst(0)) }},
		{"SlidingLog", func(l Limit) (Limiter, error) { return NewSlidingLog(l.WithBurst(0)) }},
		{"SlidingCounter", func(l Limit) (Limiter, error) { return NewSlidingCounter(l.WithBurst(0)) }},
	} {
		for _, l := range limits {
			if l.Per/time.Duration(l.Count) < time.Microsecond || l.Per > time.Hour {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(l.Count), uint64(l.Per)))
				x, err := c.make(l)
				require.NoError(t, err)
				most := x.Peek(0).Limit
				for range 60 {
					n := 1 + rng.Int64N(most)
					peek := x.Peek(n)
					require.Equal(t, peek, x.Peek(n), "Peek changes nothing")
					r := x.Take(n)
					require.Equal(t, peek.OK(), r.OK())
					if r.OK() {
						require.Equal(t, n, r.Allowed)
						require.Equal(t, peek.Remaining-n, r.Remaining, "%s %v", c.name, l)
						time.Sleep(time.Duration(rng.ExpFloat64() * float64(l.Per) / float64(l.Count) / 2))
						continue
					}
					require.Zero(t, r.Allowed)
					require.NotEqual(t, Never, r.RetryAfter)
					time.Sleep(r.RetryAfter - time.Nanosecond)
					require.False(t, x.Peek(n).OK(), "%s %v: %d a nanosecond before %v", c.name, l, n, r.RetryAfter)
					time.Sleep(time.Nanosecond)
					require.True(t, x.Peek(n).OK(), "%s %v: %d after %v", c.name, l, n, r.RetryAfter)
					if rng.IntN(2) == 0 {
						require.True(t, x.Take(n).OK())
					}
					// NextToken and ResetAfter are as tight.
					now := x.Peek(0)
					if now.NextToken > 0 {
						time.Sleep(now.NextToken - time.Nanosecond)
						require.Equal(t, now.Remaining, x.Peek(0).Remaining, "%s %v", c.name, l)
						time.Sleep(time.Nanosecond)
						require.Greater(t, x.Peek(0).Remaining, now.Remaining, "%s %v", c.name, l)
					}
					if now = x.Peek(0); rng.IntN(10) == 0 && now.ResetAfter > 0 && c.name != "Multi" {
						time.Sleep(now.ResetAfter - time.Nanosecond)
						require.Less(t, x.Peek(0).Remaining, most, "%s %v", c.name, l)
						time.Sleep(time.Nanosecond)
						require.Equal(t, most, x.Peek(0).Remaining, "%s %v", c.name, l)
						require.Zero(t, x.Peek(0).ResetAfter)
						require.Zero(t, x.Peek(0).NextToken)
					}
				}
				require.Equal(t, Never, x.Take(most+1).RetryAfter)
				require.Equal(t, Never, x.Peek(math.MaxInt64).RetryAfter)
				require.Equal(t, Never, x.Take(-1).RetryAfter)
				require.Equal(t, Never, x.Take(math.MinInt64).RetryAfter)
				require.True(t, x.Take(0).OK())
			})
		}
	}
}

// TestWindows compares windows with what they are defined as.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limit{Count: 10, Per: time.Second}
		f, err := NewFixedWindow(l)
		require.NoError(t, err)
		s, err := NewSlidingLog(l)
		require.NoError(t, err)
		c, err := NewSlidingCounter(l)
		require.NoError(t, err)
		rng := rand.New(rand.NewPCG(1, 1))
		start := time.Now()
		var fixed, log []event
		counts := map[int64]int64{}
		for range 3000 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(70*time.Millisecond)))
			at, n := time.Since(start), 1+rng.Int64N(4)
			sum := func(events []event, from time.Duration) int64 {
				var sum int64
				for _, e := range events[max(0, len(events)-40):] {
					if e.at > from {
						sum += e.n
					}
				}
				return sum
			}
			// FixedWindow: of the same second by the clock.
			second := time.Now().Truncate(time.Second).Sub(start)
			ok := sum(fixed, second-1)+n <= 10
			require.Equal(t, ok, f.Take(n).OK())
			if ok {
				fixed = append(fixed, event{at, n})
			}
			// SlidingLog: of the last second.
			ok = sum(log, at-time.Second)+n <= 10
			require.Equal(t, ok, s.Take(n).OK())
			if ok {
				log = append(log, event{at, n})
			}
			// SlidingCounter: of this window, and of the last one in proportion.
			window, into := int64(at/time.Second), at%time.Second
			estimate := new(big.Rat).SetFrac64(counts[window-1]*int64(time.Second-into), int64(time.Second))
			estimate.Add(estimate, new(big.Rat).SetInt64(counts[window]+n))
			ok = estimate.Cmp(new(big.Rat).SetInt64(10)) <= 0
			require.Equal(t, ok, c.Take(n).OK())
			if ok {
				counts[window] += n
			}
		}
	})
}

// TestMultiIsAllOrNone compares a Multi with its limits one by one.
func TestMultiIsAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := []Limit{PerSecond(10), PerMinute(100), {Count: 1000, Per: 24 * time.Hour, Burst: 300}, PerSecond(3e9).WithBurst(7)}
		m, err := All(limits...)
		require.NoError(t, err)
		rng := rand.New(rand.NewPCG(2, 2))
		start := time.Now()
		var events []event
		for range 5000 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(300*time.Millisecond)))
			n := 1 + rng.Int64N(5)
			before := m.Peek(0)
			r := m.Take(n)
			if r.OK() {
				events = append(events, event{time.Since(start), n})
			} else {
				require.Equal(t, before.Remaining, r.Remaining, "a refusal changes no member")
				require.Equal(t, before.ResetAfter, r.ResetAfter)
			}
		}
		for _, l := range limits {
			requireWithin(t, l, events, "")
		}
		require.Greater(t, len(events), 100)
	})
	_, err := All()
	require.EqualError(t, err, "ratelimit: All needs a limit, got none")
	_, err = All(PerSecond(1), PerSecond(0))
	require.ErrorIs(t, err, ErrLimit)
}
