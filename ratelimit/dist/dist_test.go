package dist

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// limits are those of the parent's tests that microseconds can express, and some more.
var limits = []ratelimit.Limit{
	ratelimit.PerSecond(1), ratelimit.PerSecond(10), ratelimit.PerSecond(7), ratelimit.PerSecond(1e6), ratelimit.PerMinute(100),
	ratelimit.PerHour(13).WithBurst(2), ratelimit.Every(time.Millisecond), ratelimit.Every(24 * time.Hour),
	ratelimit.PerSecond(1000).WithBurst(1), {Count: 997, Per: 1009 * time.Millisecond, Burst: 31}, ratelimit.PerSecond(9900).WithBurst(40),
}

// A counter counts the calls that get through to a Backend.
type counter struct {
	Backend
	mu    sync.Mutex
	calls int
}

func (c *counter) Take(ctx context.Context, r *Request) (Reply, error) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	return c.Backend.Take(ctx, r)
}

func newMemory(tb testing.TB) *Memory {
	tb.Helper()
	m, err := NewMemory(MemoryConfig{})
	require.NoError(tb, err)
	return m
}

func newLimiter(tb testing.TB, config Config) *Limiter {
	tb.Helper()
	if config.Name == "" {
		config.Name = "test"
	}
	if config.Replicas == 0 && config.OnOutage == Share {
		config.Replicas = 1
	}
	l, err := New(config)
	require.NoError(tb, err)
	return l
}

func TestConfig(t *testing.T) {
	m := newMemory(t)
	ok := Config{Backend: m, Name: "n", Limits: []ratelimit.Limit{ratelimit.PerSecond(1)}, Replicas: 1}
	_, err := New(ok)
	require.NoError(t, err)
	for want, change := range map[string]func(*Config){
		"dist: Backend must not be nil":                              func(c *Config) { c.Backend = nil },
		"dist: Name must not be empty":                               func(c *Config) { c.Name = "" },
		`dist: Name must be without braces, got "a}"`:                func(c *Config) { c.Name = "a}" },
		"dist: Limits must be 1 to 8, got 0":                         func(c *Config) { c.Limits = nil },
		"dist: Limits must be 1 to 8, got 9":                         func(c *Config) { c.Limits = make([]ratelimit.Limit, 9) },
		"dist: OnOutage must be Share, Open or Closed, got 3":        func(c *Config) { c.OnOutage = 3 },
		"dist: OnOutage must be Share, Open or Closed, got -1":       func(c *Config) { c.OnOutage = -1 },
		"dist: Replicas must be at least 1 with Share, got 0":        func(c *Config) { c.Replicas = 0 },
		"dist: Timeout must be 0 to 8760h0m0s, got -1ns":             func(c *Config) { c.Timeout = -1 },
		"dist: MaxInFlight must be at least 0, got -1":               func(c *Config) { c.MaxInFlight = -1 },
		"dist: Failures must be at least 0, got -1":                  func(c *Config) { c.Failures = -1 },
		"dist: Cooldown must be 0 to 8760h0m0s, got -1ns":            func(c *Config) { c.Cooldown = -1 },
		"dist: RetryWindow must be at most 8760h0m0s, got 9000h0m0s": func(c *Config) { c.RetryWindow = 9000 * time.Hour },
		"dist: MaxKeys must be at least 0, got -1":                   func(c *Config) { c.MaxKeys = -1 },
		"dist: Replicas must be so few that a share of 1 per 8760h0m0s, burst 1 can be counted, got 1000": func(c *Config) {
			c.Replicas, c.Limits = 1000, []ratelimit.Limit{ratelimit.Every(365 * 24 * time.Hour)}
		},
		"dist: Replicas must be so few that a share of 1 per 8760h0m0s, burst 1 can be counted, got 100": func(c *Config) {
			c.Replicas, c.Limits = 100, []ratelimit.Limit{ratelimit.Every(365 * 24 * time.Hour)}
		},
		"dist: Limits[1]: ratelimit: invalid limit: Count must be at least 1, got 0": func(c *Config) {
			c.Limits = []ratelimit.Limit{ratelimit.PerSecond(1), {}}
		},
		"dist: Limits[0]: ratelimit: invalid limit: unlimited cannot be shared": func(c *Config) { c.Limits = []ratelimit.Limit{ratelimit.Unlimited} },
		"dist: Limits[0]: ratelimit: invalid limit: none cannot be shared":      func(c *Config) { c.Limits = []ratelimit.Limit{ratelimit.None} },
		"dist: Limits[0]: ratelimit: invalid limit: 3000000 per 1s, burst 3000000 cannot be counted in microseconds to within 1 %": func(c *Config) {
			c.Limits = []ratelimit.Limit{ratelimit.PerSecond(3e6)}
		},
		"dist: Limits[0]: ratelimit: invalid limit: the burst of 1 per 313000h0m0s, burst 1 takes longer to come in than can be counted": func(c *Config) {
			c.Limits = []ratelimit.Limit{ratelimit.Every(313000 * time.Hour)}
		},
	} {
		c := ok
		change(&c)
		_, err := New(c)
		require.EqualError(t, err, want)
		require.Equal(t, strings.Contains(want, "invalid limit"), errors.Is(err, ratelimit.ErrLimit))
	}
	_, err = NewMemory(MemoryConfig{MaxKeys: -1})
	require.EqualError(t, err, "dist: MaxKeys must be at least 0, got -1")
	require.Equal(t, "Share Open Closed Outage(7)", fmt.Sprint(Share, Open, Closed, Outage(7)))
	mine := []ratelimit.Limit{ratelimit.PerSecond(5)}
	l := newLimiter(t, Config{Backend: m, Limits: mine})
	mine[0].Count = 7
	require.Equal(t, []ratelimit.Limit{ratelimit.PerSecond(5)}, l.Limits())
}

// FuzzRate checks that a limit that is taken is kept within 1 %, never too lax, and that its figures,
// with the present time, are exact in floating point.
func FuzzRate(f *testing.F) {
	for _, l := range limits {
		f.Add(l.Count, int64(l.Per), l.Burst, 3)
	}
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), math.MaxInt)
	f.Add(int64(1), int64(1), int64(1), 1)
	f.Add(int64(1), int64(math.MaxInt64), int64(1), 1)
	f.Add(int64(101), int64(100_000), int64(0), 7)
	f.Fuzz(func(t *testing.T, count, per, tokens int64, replicas int) {
		l := ratelimit.Limit{Count: count, Per: time.Duration(per), Burst: tokens}
		r, err := rate(l)
		if err != nil {
			require.ErrorIs(t, err, ratelimit.ErrLimit)
			return
		}
		require.True(t, r.Interval > 0 && r.Burst > 0 && r.Burst == burst(l))
		tau := new(big.Int).Mul(big.NewInt(r.Interval), big.NewInt(r.Burst))
		require.LessOrEqual(t, tau.Cmp(big.NewInt(maxTau)), 0)
		const year2100 = 4102444800 * 1_000_000
		require.Less(t, int64(year2100+2*maxTau), int64(1)<<53)
		exact := new(big.Rat).SetFrac(big.NewInt(per), new(big.Int).Mul(big.NewInt(1000), big.NewInt(count)))
		ratio := new(big.Rat).Quo(new(big.Rat).SetInt64(r.Interval), exact)
		require.GreaterOrEqual(t, ratio.Cmp(big.NewRat(1, 1)), 0, "never too short")
		require.LessOrEqual(t, ratio.Cmp(big.NewRat(101, 100)), 0, "at most 1 %% too long")
		if replicas < 1 {
			return
		}
		s, err := share(l, replicas)
		if err != nil {
			require.ErrorContains(t, err, "Replicas")
			return
		}
		require.Equal(t, max(1, burst(l)/int64(replicas)), s.burst)
		require.Equal(t, s.inc*s.burst, s.tau)
		exact.SetFrac(new(big.Int).Mul(big.NewInt(per), big.NewInt(int64(replicas))), big.NewInt(count))
		require.GreaterOrEqual(t, new(big.Rat).SetInt64(s.inc).Cmp(exact), 0, "never too short")
	})
}

// TestAgainstMulti compares every field of every Result with a ratelimit.Multi of the same rates, at
// times in whole microseconds: they are the same algorithm.
func TestAgainstMulti(t *testing.T) {
	for _, set := range [][]ratelimit.Limit{
		{ratelimit.PerSecond(10)}, {ratelimit.PerSecond(1e6)}, {ratelimit.Every(time.Hour)},
		{ratelimit.PerSecond(10), ratelimit.PerMinute(100)},
		{ratelimit.PerSecond(5).WithBurst(20), {Count: 1000, Per: 24 * time.Hour, Burst: 300}, ratelimit.PerMinute(100)},
	} {
		synctest.Test(t, func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			backend := &counter{Backend: newMemory(t)}
			l := newLimiter(t, Config{Backend: backend, Limits: set})
			m, err := ratelimit.All(set...)
			require.NoError(t, err)
			most := m.Peek(0).Limit
			for _, limit := range set {
				most = min(most, burst(limit))
			}
			step := float64(set[0].Per) / float64(set[0].Count)
			refused := 0
			for range 2000 {
				time.Sleep(time.Duration(rng.ExpFloat64()*step/2) / time.Microsecond * time.Microsecond)
				n := 1 + rng.Int64N(most)
				want, got := m.Peek(n), l.Peek(t.Context(), "k", n)
				require.Equal(t, want, got, "seed %d, n %d", seed, n)
				if rng.IntN(4) == 0 {
					continue
				}
				want, got = m.Take(n), l.Take(t.Context(), "k", n)
				require.Equal(t, want, got, "seed %d, n %d", seed, n)
				if !got.OK() {
					refused++
					if rng.IntN(3) == 0 {
						time.Sleep(got.RetryAfter - time.Microsecond)
						require.False(t, l.Take(t.Context(), "k", n).OK())
						time.Sleep(time.Microsecond)
						require.True(t, l.Take(t.Context(), "k", n).OK(), "RetryAfter is tight")
						require.True(t, m.Take(n).OK())
					}
				}
			}
			require.Positive(t, refused)
			s := l.Stats()
			require.EqualValues(t, backend.calls, s.Decided)
			require.Positive(t, s.Denied)
			require.Zero(t, s.Degraded+s.Errors+s.Timeouts+s.Saturated)
		})
	}
}

// What does not depend on what was taken, costs no call.
func TestWithoutCall(t *testing.T) {
	backend := &counter{Backend: newMemory(t)}
	l := newLimiter(t, Config{Backend: backend, Limits: []ratelimit.Limit{ratelimit.PerSecond(10), ratelimit.PerMinute(7)}})
	for _, n := range []int64{0, -1, 8, 11, math.MaxInt64, math.MinInt64} {
		r := l.Take(t.Context(), "k", n)
		require.Equal(t, n == 0, r.OK(), n)
		require.Zero(t, r.Allowed)
		require.EqualValues(t, 7, r.Limit)
		if n != 0 {
			require.Equal(t, ratelimit.Never, r.RetryAfter)
			require.Equal(t, r, l.Peek(t.Context(), "k", n))
		}
	}
	require.Zero(t, backend.calls)
	require.True(t, l.Take(t.Context(), "k", 3).OK())
	require.EqualValues(t, 4, l.Peek(t.Context(), "k", 0).Remaining)
	require.Equal(t, 2, backend.calls)
}

// TestDenials counts calls: who was refused is not asked about again, for any n, until its time.
func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &counter{Backend: newMemory(t)}
		l := newLimiter(t, Config{Backend: backend, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}})
		other := newLimiter(t, Config{Backend: backend, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}})
		ctx := t.Context()
		require.True(t, l.Take(ctx, "k", 8).OK())
		r := l.Take(ctx, "k", 4)
		require.Equal(t, 200*time.Millisecond, r.RetryAfter)
		require.Equal(t, 2, backend.calls)
		for range 10 {
			require.Equal(t, r, l.Take(ctx, "k", 4))
			require.Equal(t, r, l.Peek(ctx, "k", 4))
			require.Equal(t, 500*time.Millisecond, l.Take(ctx, "k", 7).RetryAfter, "for another n, it is as exact")
		}
		require.Equal(t, 2, backend.calls)
		require.True(t, l.Take(ctx, "k", 2).OK(), "what is there is asked for")
		require.Equal(t, 3, backend.calls)
		require.Equal(t, 400*time.Millisecond, l.Take(ctx, "k", 4).RetryAfter, "which is known, too")
		require.Equal(t, 3, backend.calls)

		time.Sleep(400*time.Millisecond - time.Nanosecond)
		require.Equal(t, time.Nanosecond, l.Take(ctx, "k", 4).RetryAfter)
		require.Equal(t, 3, backend.calls)
		time.Sleep(time.Nanosecond)
		require.True(t, l.Take(ctx, "k", 4).OK())
		require.Equal(t, 4, backend.calls)

		// What others take makes it later, never earlier.
		require.False(t, l.Take(ctx, "k", 1).OK())
		time.Sleep(100 * time.Millisecond)
		require.True(t, other.Take(ctx, "k", 1).OK())
		calls := backend.calls
		require.Equal(t, 100*time.Millisecond, l.Take(ctx, "k", 1).RetryAfter)
		require.Equal(t, calls+1, backend.calls, "it could not be known here")
	})
}

// A denial counts from when the request was sent, however late the answer comes, and an older
// answer that comes later is of no use.
func TestDenialOfSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		l := newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(10)}, Timeout: time.Second})
		f.do = func(context.Context, *Request) (Reply, error) {
			time.Sleep(300 * time.Millisecond)
			return Reply{Ahead: []int64{1_000_000}}, nil
		}
		require.Equal(t, 100*time.Millisecond, l.Take(t.Context(), "k", 1).RetryAfter)
		require.Equal(t, 2, f.take(t, l, "k", 1, 2), "100 ms from sending are over")
		require.Equal(t, 200*time.Millisecond, l.Take(t.Context(), "j", 2).RetryAfter)

		now := l.now()
		l.local.learn("k", now, []int64{900_000}, false, now.mono)
		l.local.learn("k", instant{now.mono - 1, now.wall}, []int64{1_000_000}, false, now.mono)
		r, ok := l.local.denial("k", 2, now)
		require.True(t, ok)
		require.Equal(t, 100*time.Millisecond, r.RetryAfter)

		// A machine that has slept: the monotonic clock has stood still, the other has not. And one whose
		// other clock has gone back, or whose clocks both have.
		later := instant{now.mono + 1, now.wall + int64(200*time.Hour)}
		_, ok = l.local.denial("k", 2, later)
		require.False(t, ok)
		later = instant{now.mono + int64(99*time.Millisecond), now.wall - int64(200*time.Hour)}
		r, ok = l.local.denial("k", 2, later)
		require.True(t, ok)
		require.Equal(t, time.Millisecond, r.RetryAfter)
		r, ok = l.local.denial("k", 2, instant{now.mono - 1e9, now.wall - 1e9})
		require.True(t, ok)
		require.Equal(t, 100*time.Millisecond, r.RetryAfter, "never longer than was said")
	})
}

// TestRetriedRequest is a Backend's memory for requests.
func TestRetriedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMemory(MemoryConfig{MaxKeys: 3})
		require.NoError(t, err)
		take := func(id byte, n int64, window time.Duration) Reply {
			r, err := m.Take(t.Context(), &Request{ID: [16]byte{id}, Name: "n", Key: "k", N: n, Rates: []Rate{{100_000, 10}}, Window: window})
			require.NoError(t, err)
			return r
		}
		first := take(1, 10, time.Second)
		require.True(t, first.Allowed)
		require.Equal(t, first, take(1, 10, time.Second), "it took the last tokens itself")
		require.False(t, take(2, 1, time.Second).Allowed)
		peek, err := m.Take(t.Context(), &Request{ID: [16]byte{1}, Name: "n", Key: "k", N: 1, Peek: true, Rates: []Rate{{100_000, 10}}})
		require.NoError(t, err)
		require.False(t, peek.Allowed, "who looks is no request that was allowed")
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, Reply{true, []int64{900_000}}, take(1, 10, time.Second))
		require.True(t, take(3, 1, 0).Allowed)
		require.False(t, take(3, 1, 0).Allowed, "nothing is remembered")
		time.Sleep(900 * time.Millisecond)
		require.Equal(t, Reply{false, []int64{100_000}}, take(1, 10, time.Second), "its window is over")
		for id := range byte(4) {
			require.True(t, take(10+id, 1, time.Hour).Allowed)
		}
		require.Len(t, m.ids, 3)
		require.Len(t, m.order, 3)
		ahead := take(12, 1, time.Hour).Ahead
		require.Equal(t, ahead, take(13, 1, time.Hour).Ahead)
		require.NotEqual(t, ahead, take(10, 1, time.Hour).Ahead, "the oldest was forgotten, as there are too many")
		time.Sleep(2 * time.Hour)
		require.True(t, take(10, 1, time.Hour).Allowed)
		require.Len(t, m.ids, 1)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = m.Take(ctx, &Request{})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// TestIDs are of one request only.
func TestIDs(t *testing.T) {
	f := &fake{do: func(_ context.Context, r *Request) (Reply, error) {
		return Reply{true, make([]int64, len(r.Rates))}, nil
	}}
	seen := map[[16]byte]bool{}
	for range 3 {
		l := newLimiter(t, Config{Backend: f, Limits: limits[:1], Timeout: time.Hour})
		for range 100 {
			require.True(t, l.Take(t.Context(), "k", 1).OK())
			require.False(t, seen[f.last.ID])
			seen[f.last.ID] = true
			require.Equal(t, 2*time.Hour, f.last.Window)
		}
	}
	newLimiter(t, Config{Backend: f, Limits: limits[:1], RetryWindow: -1}).Take(t.Context(), "k", 1)
	require.Zero(t, f.last.Window)
}

// TestMemoryChangedLimits takes over what was used, and mends what is too far ahead.
func TestMemoryChangedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		take := func(key string, n int64, peek bool, rates ...Rate) Reply {
			r, err := m.Take(t.Context(), &Request{Name: "n", Key: key, N: n, Peek: peek, Rates: rates})
			require.NoError(t, err)
			return r
		}
		hour, second := Rate{3_600_000_000, 10}, Rate{100_000, 10}
		require.True(t, take("k", 10, false, hour).Allowed)
		require.Equal(t, Reply{false, []int64{1_000_000}}, take("k", 1, true, second), "mended by looking")
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, Reply{true, []int64{1_000_000, 3_600_000_000}}, take("k", 1, false, second, hour))
		require.Equal(t, Reply{false, []int64{1_000_000}}, take("k", 1, false, second))
		time.Sleep(time.Second)
		require.Equal(t, Reply{true, []int64{0}}, take("k", 10, true, second))
	})
}

// TestBook forgets keys, and never lets more pass for that.
func TestBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		m, err := NewMemory(MemoryConfig{MaxKeys: 20})
		require.NoError(t, err)
		start := time.Now()
		events := map[string][]event{}
		limit := ratelimit.PerSecond(10)
		for range 20000 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(2*time.Millisecond)))
			key := fmt.Sprint(int(rng.ExpFloat64() * 15))
			r, err := m.Take(t.Context(), &Request{Name: "n", Key: key, N: 1, Rates: []Rate{{100_000, 10}}})
			require.NoError(t, err)
			if r.Allowed {
				events[key] = append(events[key], event{time.Since(start), 1})
			}
			require.LessOrEqual(t, len(m.keys.entries), 20)
		}
		total := 0
		for _, e := range events {
			requireWithin(t, limit, e, "seed %d", seed)
			total += len(e)
		}
		require.Greater(t, total, 5000)
		time.Sleep(time.Hour)
		_, err = m.Take(t.Context(), &Request{Name: "n", Key: "new", N: 1, Rates: []Rate{{100_000, 10}}})
		require.NoError(t, err)
		require.LessOrEqual(t, len(m.keys.entries), 20-looks+1, "those that are over make room")
	})
}

// TestKeysAreBounded also where several parts share them.
func TestKeysAreBounded(t *testing.T) {
	for _, most := range []int{1, few, few + 1} {
		l := newLimiter(t, Config{Backend: newMemory(t), Limits: []ratelimit.Limit{ratelimit.Every(time.Hour)}, MaxKeys: most, Timeout: time.Hour})
		for i := range most + 3000 {
			key := fmt.Sprint(i)
			require.True(t, l.Take(t.Context(), key, 1).OK())
			l.Take(t.Context(), key, 1)
		}
		require.LessOrEqual(t, l.Stats().Keys, most)
		require.Greater(t, l.Stats().Keys, most*9/10)
	}
}

func TestAllocations(t *testing.T) {
	l := newLimiter(t, Config{Backend: newMemory(t), Limits: []ratelimit.Limit{ratelimit.Every(time.Hour), ratelimit.PerSecond(5)}, Timeout: time.Hour})
	require.True(t, l.Take(t.Context(), "k", 1).OK())
	require.False(t, l.Take(t.Context(), "k", 1).OK())
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() { l.Take(ctx, "k", 1) }), "a denial that is known")

	// And what the process decides itself during an outage.
	f := &fake{do: func(context.Context, *Request) (Reply, error) { return Reply{}, errors.New("down") }}
	l = newLimiter(t, Config{Backend: f, Limits: []ratelimit.Limit{ratelimit.PerSecond(1e6)}, Failures: 1, Cooldown: time.Hour, Timeout: time.Hour})
	l.Take(ctx, "k", 1)
	require.True(t, l.Stats().Open)
	require.Zero(t, testing.AllocsPerRun(100, func() { l.Take(ctx, "k", 1) }))
}

// TestForgetOutOfOrder has two forget who have read the clock in another order.
func TestForgetOutOfOrder(t *testing.T) {
	l := newLocal([]cell{{inc: 1000, tau: 1000, burst: 1}}, nil, 64)
	l.forget("a", 20)
	l.forget("b", 10)
	l.learn("a", instant{15, 15}, []int64{1}, false, 21)
	_, denied := l.denial("a", 1, instant{22, 22})
	require.False(t, denied)
	l.learn("a", instant{21, 21}, []int64{1}, false, 21)
	_, denied = l.denial("a", 1, instant{22, 22})
	require.True(t, denied)
}
