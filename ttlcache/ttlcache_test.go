package ttlcache

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// underRace is whether the race detector is on; see race_test.go.
var underRace bool

func TestConfigErrors(t *testing.T) {
	loader := newSource().load
	for message, config := range map[string]Config[int, int]{
		"Capacity must be at least 1, got 0":                                                             {},
		"Capacity must be at least 1, got -5":                                                            {Capacity: -5},
		"Shards must be between 0 and 65536, got -1":                                                     {Capacity: 1, Shards: -1},
		"Shards must be between 0 and 65536, got 65537":                                                  {Capacity: 1, Shards: 65537},
		"TTL must be at least 0, got -1ns":                                                               {Capacity: 1, TTL: -1},
		"MaxLifetime must be at least 0, got -1s":                                                        {Capacity: 1, MaxLifetime: -time.Second},
		"NegativeTTL must be at least 0, got -1ns":                                                       {Capacity: 1, NegativeTTL: -1},
		"StaleWhileRevalidate must be at least 0, got -1ns":                                              {Capacity: 1, StaleWhileRevalidate: -1},
		"StaleIfError must be at least 0, got -1ns":                                                      {Capacity: 1, StaleIfError: -1},
		"RetryDelay must be at least 0, got -1ns":                                                        {Capacity: 1, RetryDelay: -1},
		"LoadTimeout must be at least 0, got -1ns":                                                       {Capacity: 1, LoadTimeout: -1},
		"Janitor must be at least 0, got -1ns":                                                           {Capacity: 1, Janitor: -1},
		"NegativeCapacity must be at least 0, got -1":                                                    {Capacity: 1, NegativeCapacity: -1},
		"MaxConcurrentRefresh must be at least 0, got -1":                                                {Capacity: 1, MaxConcurrentRefresh: -1},
		"TierBacklog must be at least 0, got -1":                                                         {Capacity: 1, TierBacklog: -1},
		"Jitter must be at least 0 and less than 1, got 1":                                               {Capacity: 1, Jitter: 1},
		"Jitter must be at least 0 and less than 1, got NaN":                                             {Capacity: 1, Jitter: math.NaN()},
		"RefreshAhead must be at least 0 and less than 1, got -0.5":                                      {Capacity: 1, RefreshAhead: -0.5},
		"XFetchBeta must be at least 0 and finite, got +Inf":                                             {Capacity: 1, XFetchBeta: math.Inf(1)},
		"WriteMode must be WriteAround, WriteThrough or WriteBehind, got WriteMode(3)":                   {Capacity: 1, WriteMode: 3},
		"WriteMode WriteBehind needs a Store":                                                            {Capacity: 1, WriteMode: WriteBehind},
		"StaleWhileRevalidate, StaleIfError, RefreshAhead and XFetchBeta need a Loader or a BulkLoader":  {Capacity: 1, RefreshAhead: 0.5},
		"Batch.Size must be at least 0, got -1":                                                          {Capacity: 1, Batch: BatchConfig{Size: -1}},
		"Batch.Backoff must be at least 0, got -1":                                                       {Capacity: 1, Batch: BatchConfig{Backoff: -1}},
		"Batch.WhenFull must be Block or WriteNow, got 2":                                                {Capacity: 1, Batch: BatchConfig{WhenFull: 2}},
		fmt.Sprintf("NegativeCapacity must be at most %d, got %d", math.MaxInt32-1, math.MaxInt32):       {Capacity: 1, NegativeCapacity: math.MaxInt32},
		fmt.Sprintf("Capacity must be at most %d with 1 shards, got %d", math.MaxInt32-1, math.MaxInt32): {Capacity: math.MaxInt32, Shards: 1, Loader: loader},
		fmt.Sprintf("Capacity must be at most %d with 2 shards, got %d", 2*(1<<24-2), 2*(1<<24-2)+1):     {Capacity: 2*(1<<24-2) + 1, Shards: 2},
	} {
		_, err := New(config)
		require.EqualError(t, err, "ttlcache: "+message)
	}
	c, err := New(Config[int, int]{Capacity: 10, Shards: 8})
	require.NoError(t, err)
	require.EqualError(t, c.SetTTL(t.Context(), 1, 1, -time.Second), "ttlcache: SetTTL: ttl must be at least 0, got -1s")
	_, err = c.Resize(7)
	require.EqualError(t, err, "ttlcache: Capacity must be at least 8 with 8 shards, got 7")
	require.Equal(t, 10, c.Cap())
	require.Equal(t, 8, c.Shards())
	require.Panics(t, func() {
		_, _, _ = c.Compute(t.Context(), 1, func(int, bool) (int, Op) { return 0, 3 })
	})
	require.NoError(t, c.Set(t.Context(), 1, 1), "nothing is locked any more")
}

func TestStrings(t *testing.T) {
	require.Equal(t, "Expired Evicted Deleted Replaced Cleared Refused Cause(0) Cause(7)",
		fmt.Sprint(Expired, " ", Evicted, " ", Deleted, " ", Replaced, " ", Cleared, " ", Refused, " ", Cause(0), " ", Cause(7)))
	require.Equal(t, "Absent Fresh Stale Negative State(4)", fmt.Sprint(Absent, " ", Fresh, " ", Stale, " ", Negative, " ", State(4)))
	require.Equal(t, "WriteAround WriteThrough WriteBehind WriteMode(3)", fmt.Sprint(WriteAround, " ", WriteThrough, " ", WriteBehind, " ", WriteMode(3)))
}

// A shard fills whole pairs of cache lines, so that neighbours do not disturb each other.
func TestShardSize(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) == 8 {
		require.Zero(t, unsafe.Sizeof(shard[string, int]{})%128)
	}
}

// What was set at one instant with a jitter of a tenth expires all over the last tenth.
func TestAvalanche(t *testing.T) {
	const keys, ttl, bins = 100_000, time.Hour, 20
	bubble(t, Config[int, int]{Capacity: 2 * keys, TTL: ttl, Jitter: 0.1}, func(t *testing.T, c *Cache[int, int]) {
		for k := range keys {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		_, _, remaining := c.Lookup(1)
		require.LessOrEqual(t, remaining, ttl)
		time.Sleep(ttl*9/10 - 10*time.Millisecond) // a running clock may be late by that
		require.Equal(t, keys, c.Len())
		time.Sleep(10 * time.Millisecond)
		last := keys
		for range bins {
			time.Sleep(ttl / 10 / bins)
			n := c.Len()
			// Each bin has its share, 5000, with a standard deviation of 69.
			require.InDelta(t, keys/bins, last-n, 6*69)
			last = n
		}
		require.Zero(t, last)
	})
}

// Expired entries leave before live ones, and by the calls that come anyway.
func TestExpiredGoFirst(t *testing.T) {
	for _, shards := range []int{1, 4} {
		causes := map[Cause]int{}
		bubble(t, Config[int, int]{Capacity: 400, Shards: shards, OnRemove: func(_, _ int, c Cause) { causes[c]++ }}, func(t *testing.T, c *Cache[int, int]) {
			for k := range 40 {
				require.NoError(t, c.SetTTL(t.Context(), k, k, Forever))
			}
			for k := 40; k < 240; k++ {
				require.NoError(t, c.SetTTL(t.Context(), k, k, time.Duration(k)*time.Millisecond))
			}
			require.Empty(t, causes)
			time.Sleep(time.Second)
			for k := 240; k < 440; k++ { // as many again as have expired
				require.NoError(t, c.SetTTL(t.Context(), k, k, Forever))
			}
			require.Zero(t, causes[Evicted])
			require.Equal(t, 200, causes[Expired])
			require.Equal(t, 240, c.Len())
		})
	}
}

// Reads alone take out what they find expired, and somewhat more.
func TestReadsExpire(t *testing.T) {
	bubble(t, Config[int, int]{Capacity: 100, Shards: 1, TTL: time.Second}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 50 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		time.Sleep(time.Second)
		for range 10 {
			c.Get(0)
		}
		require.Zero(t, c.shards[0].core.arena.Len())
	})
}

func TestDeleteExpired(t *testing.T) {
	bubble(t, Config[int, int]{Capacity: 100_000, TTL: time.Second}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 10_000 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		time.Sleep(time.Second)
		require.Equal(t, 3000, c.DeleteExpired(3000))
		require.Zero(t, c.DeleteExpired(0))
		require.Equal(t, 7000, c.DeleteExpired(math.MaxInt))
		require.Zero(t, c.DeleteExpired(math.MaxInt))
		require.EqualValues(t, 10_000, c.Stats().Expired)
	})
}

func TestJanitor(t *testing.T) {
	var expired atomic.Int64
	bubble(t, Config[int, int]{TTL: time.Second, Janitor: time.Minute, OnRemove: func(int, int, Cause) { expired.Add(1) }}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 100 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		time.Sleep(59 * time.Second)
		require.Zero(t, expired.Load())
		time.Sleep(time.Second)
		synctest.Wait()
		require.EqualValues(t, 100, expired.Load())
	})
}

// A clock that runs gives the same answers, to the nanosecond, but that long times to live may
// be cut short by one tick.
func TestRunningClock(t *testing.T) {
	for _, ttl := range []time.Duration{time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond, 9 * time.Second, 10 * time.Second, time.Minute} {
		early := time.Duration(0)
		if ttl >= 10*time.Second {
			early = 10 * time.Millisecond
		}
		bubble(t, Config[int, int]{TTL: ttl}, func(t *testing.T, c *Cache[int, int]) {
			spin := func() {
				for range 200 {
					c.Get(0)
				}
			}
			require.NoError(t, c.SetTTL(t.Context(), 0, 0, 500*time.Millisecond)) // reads ask for the exact time
			for i := 1; i < 100; i++ {
				spin()
				time.Sleep(3 * time.Millisecond)
				require.NoError(t, c.SetTTL(t.Context(), 0, 0, 500*time.Millisecond))
				spin()
				require.NotEqual(t, int64(math.MaxInt64), c.clock.Soon(), "it runs")
				time.Sleep(time.Duration(i%13) * 700 * time.Microsecond)
				require.NoError(t, c.Set(t.Context(), i, i))
				start := time.Now()
				_, _, remaining := c.Lookup(i)
				require.LessOrEqual(t, remaining, ttl)
				require.GreaterOrEqual(t, remaining, ttl-early)
				for time.Since(start) < remaining-time.Duration(1) {
					time.Sleep(min(5*time.Millisecond*time.Duration(1+ttl/time.Second), remaining-1-time.Since(start)))
					_, ok := c.Get(i)
					require.True(t, ok, "%v after %v of %v", i, time.Since(start), ttl)
				}
				time.Sleep(time.Nanosecond)
				_, ok := c.Get(i)
				require.False(t, ok, "after %v", time.Since(start))
				if ttl > time.Second {
					break
				}
			}
		})
	}
}

// Sliding, to the nanosecond, and not beyond MaxLifetime.
func TestSliding(t *testing.T) {
	for _, shards := range []int{0, 1} {
		src := newSource()
		bubble(t, Config[int, int]{Shards: shards, TTL: time.Second, Sliding: true, MaxLifetime: 5 * time.Second, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
			require.NoError(t, c.Set(t.Context(), 1, 1))
			for range 4 {
				time.Sleep(time.Second - 1)
				_, ok := c.Peek(1)
				require.True(t, ok, "it does not slide")
				want(t, c, 1, 1)
			}
			time.Sleep(time.Second - 1)
			_, ok := c.Get(1)
			require.True(t, ok)
			_, _, remaining := c.Lookup(1)
			require.Equal(t, 5*time.Nanosecond, remaining)
			require.True(t, c.Touch(1))
			time.Sleep(5 * time.Nanosecond)
			_, ok = c.Get(1)
			require.False(t, ok)
			require.Zero(t, src.count(1))

			require.NoError(t, c.SetTTL(t.Context(), 2, 2, 2*time.Second))
			time.Sleep(2*time.Second - 1)
			_, ok = c.Get(2)
			require.True(t, ok)
			_, _, remaining = c.Lookup(2)
			require.Equal(t, 2*time.Second, remaining, "its own time to live")
			time.Sleep(2 * time.Second)
			_, ok = c.Get(2)
			require.False(t, ok)
		})
	}
}

func TestTouch(t *testing.T) {
	bubble(t, Config[int, int]{TTL: time.Second}, func(t *testing.T, c *Cache[int, int]) {
		require.False(t, c.Touch(1))
		require.NoError(t, c.Set(t.Context(), 1, 1))
		require.NoError(t, c.SetTTL(t.Context(), 2, 2, time.Minute))
		time.Sleep(time.Second - 1)
		require.True(t, c.Touch(1))
		require.True(t, c.Touch(2))
		_, _, remaining := c.Lookup(1)
		require.Equal(t, time.Second, remaining)
		_, _, remaining = c.Lookup(2)
		require.Equal(t, time.Minute, remaining)
		time.Sleep(time.Second)
		require.False(t, c.Touch(1))
	})
}

func TestStats(t *testing.T) {
	require.Zero(t, Stats{}.HitRatio())
	require.Equal(t, 0.75, Stats{Hits: 3, Misses: 1}.HitRatio())
	src := newSource()
	src.absent = func(k int) bool { return k == 9 }
	bubble(t, Config[int, int]{NegativeTTL: time.Hour, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		want(t, c, 1, 1)
		for range 3 {
			_, _ = c.GetOrLoad(t.Context(), 9)
		}
		c.Get(1)
		c.Get(2)
		st := c.Stats()
		require.Equal(t, Stats{Hits: 4, Misses: 3, NegativeHits: 2, Sets: 1, Loads: 2, NotFound: 1, NegativeLen: 1}, st)
	})
}

// All gives each fresh entry once, the most recent of a shard first, and bears changes meanwhile.
func TestAll(t *testing.T) {
	bubble(t, Config[int, int]{Capacity: 4000, TTL: time.Hour}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 1000 {
			require.NoError(t, c.Set(t.Context(), k, -k))
		}
		seen := map[int]bool{}
		for k, v := range c.All() {
			require.Equal(t, -k, v)
			require.False(t, seen[k])
			seen[k] = true
			require.NoError(t, c.Delete(t.Context(), k))
		}
		require.Len(t, seen, 1000)
		require.Zero(t, c.Len())
		for k := range 10 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		for range c.Keys() {
			break
		}
		require.Len(t, slices.Collect(c.Keys()), 10)
	})
}

// The hooks may call the cache.
func TestReentry(t *testing.T) {
	var c *Cache[int, int]
	var err error
	left := 0
	c, err = New(Config[int, int]{Capacity: 10, Shards: 1, TTL: time.Nanosecond, OnRemove: func(k, v int, cause Cause) {
		left++
		c.Get(k)
		c.Len()
		if v >= 0 && left < 1000 {
			_ = c.Set(context.Background(), k, -1)
		}
	}})
	require.NoError(t, err)
	for k := range 100 {
		require.NoError(t, c.Set(t.Context(), k, k))
	}
	c.Clear()
	_, err = c.Resize(1)
	require.NoError(t, err)
	c.DeleteExpired(math.MaxInt)
	require.Zero(t, c.Len())
	require.Equal(t, 200, left)
}

func TestOnRemovePanics(t *testing.T) {
	calls := 0
	c, err := New(Config[int, int]{Capacity: 2, Shards: 1, OnRemove: func(int, int, Cause) { calls++; panic("hook") }})
	require.NoError(t, err)
	for k := range 2 {
		require.NoError(t, c.Set(t.Context(), k, k))
	}
	require.PanicsWithValue(t, "hook", func() { _ = c.Set(t.Context(), 2, 2) })
	require.PanicsWithValue(t, "hook", func() { c.Clear() })
	require.Equal(t, 3, calls)
	require.Zero(t, c.Len())
	require.NoError(t, c.check())
}

func TestNaN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config[float64, int]{Capacity: 10, Shards: 1, TTL: time.Second})
		require.NoError(t, err)
		for range 20 {
			require.NoError(t, c.Set(t.Context(), math.NaN(), 1))
		}
		require.Equal(t, 10, c.Len())
		_, ok := c.Get(math.NaN())
		require.False(t, ok)
		time.Sleep(time.Second)
		require.Zero(t, c.Len())
	})
}

// A hit and a Set in a full cache allocate nothing, nor does a GetOrLoad that hits.
func TestAllocs(t *testing.T) {
	for name, config := range map[string]Config[string, int]{
		"plain":   {TTL: time.Hour},
		"short":   {TTL: time.Second},
		"sliding": {TTL: time.Hour, Sliding: true, MaxLifetime: time.Hour},
		"jitter":  {TTL: time.Hour, Jitter: 0.5},
		"hook":    {TTL: time.Hour, OnRemove: func(string, int, Cause) {}},
		"weighed": {TTL: time.Hour, Weigher: func(string, int) uint32 { return 1 }},
		"eager": {TTL: time.Hour, RefreshAhead: 0.99, XFetchBeta: 1, StaleIfError: time.Hour, NegativeTTL: time.Hour,
			Loader: func(context.Context, string) (Entry[int], error) { return Entry[int]{}, ErrNotFound }},
	} {
		t.Run(name, func(t *testing.T) {
			config.Capacity = 1000
			c, err := New(config)
			require.NoError(t, err)
			defer c.Close(context.Background())
			ctx := context.Background()
			keys := make([]string, 4000)
			for i := range keys {
				keys[i] = fmt.Sprint("key", i)
				_ = c.Set(ctx, keys[i], i)
			}
			i := 0
			require.Zero(t, testing.AllocsPerRun(10_000, func() {
				i++
				_ = c.Set(ctx, keys[i%len(keys)], i)
				c.Get(keys[i%len(keys)])
				c.Peek(keys[i%len(keys)])
				c.Lookup(keys[i%len(keys)])
				c.Touch(keys[i%len(keys)])
				_, _ = c.GetOrLoad(ctx, keys[i%len(keys)])
			}))
		})
	}
}

// Everything at once, on several CPUs; a value is never returned after its time, nor one of
// another key, and nothing is left in the end.
func TestStress(t *testing.T) {
	for name, config := range map[string]Config[int, int]{
		"plain":   {TTL: 5 * time.Millisecond},
		"one":     {TTL: 5 * time.Millisecond, Shards: 1},
		"sliding": {TTL: 5 * time.Millisecond, Sliding: true, MaxLifetime: 20 * time.Millisecond},
		"eager":   {TTL: 5 * time.Millisecond, RefreshAhead: 0.5, XFetchBeta: 1, StaleWhileRevalidate: time.Millisecond, StaleIfError: time.Millisecond, NegativeTTL: time.Millisecond, NegativeCapacity: 10},
		"weighed": {TTL: 5 * time.Millisecond, Weigher: func(k, v int) uint32 { return uint32(k % 7) }},
		"jitter":  {TTL: 5 * time.Millisecond, Jitter: 0.9, Janitor: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			var left atomic.Int64
			config.Capacity = 500
			config.OnRemove = func(int, int, Cause) { left.Add(1) }
			config.Loader = func(ctx context.Context, k int) (Entry[int], error) {
				switch {
				case k%10 == 3:
					return Entry[int]{}, ErrNotFound
				case k%10 == 4 && rand.IntN(2) == 0:
					return Entry[int]{}, errSource
				}
				runtime.Gosched()
				return Entry[int]{Value: k}, nil
			}
			c, err := New(config)
			require.NoError(t, err)
			var wg sync.WaitGroup
			for g := range 6 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), 5))
					ctx := context.Background()
					for i := range 4000 {
						k := rng.IntN(1000)
						var v int
						ok := false
						switch rng.IntN(12) {
						case 0, 1, 2:
							v, ok = c.Get(k)
						case 3, 4:
							w, err := c.GetOrLoad(ctx, k)
							v, ok = w, err == nil
						case 5:
							_ = c.Set(ctx, k, k)
						case 6:
							_ = c.SetTTL(ctx, k, k, time.Duration(rng.IntN(3000))*time.Microsecond+1)
						case 7:
							_ = c.Delete(ctx, k)
						case 8:
							v, ok = c.Peek(k)
							c.Touch(k)
						case 9:
							v, ok, _ = c.Compute(ctx, k, func(old int, ok bool) (int, Op) { return k, Op(rng.IntN(3)) })
						case 10:
							m, _ := c.GetOrLoadAll(ctx, []int{k, (k + 1) % 1000})
							v, ok = m[k]
						case 11:
							switch i % 100 {
							case 0:
								c.Clear()
							case 1:
								_, _ = c.Resize(300 + rng.IntN(400))
							case 2:
								_ = c.Refresh(ctx, k)
							case 3:
								c.DeleteExpired(5)
							case 4:
								if err := c.check(); err != nil {
									t.Error(err)
								}
							case 5:
								for k, v := range c.All() {
									if k != v {
										t.Errorf("All: %d has %d", k, v)
									}
								}
							default:
								c.Invalidate(k)
							}
						}
						if ok && v != k {
							t.Errorf("key %d has %d", k, v)
						}
					}
				})
			}
			wg.Wait()
			require.NoError(t, c.check())
			require.NoError(t, c.Close(context.Background()))
			require.LessOrEqual(t, c.Len(), c.Cap())
			c.Clear()
			st := c.Stats()
			require.EqualValues(t, st.Sets+st.Refused, left.Load(), "each value has left exactly once")
			requireNoGoroutines(t, before)
		})
	}
}

// requireNoGoroutines waits until there are as few goroutines as before.
func requireNoGoroutines(t *testing.T, before int) {
	t.Helper()
	for range 1_000_000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
	}
	buf := make([]byte, 1<<16)
	t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// Close with loads, refreshes and writes under way, in a bubble, which ends only when all its
// goroutines have.
func TestClose(t *testing.T) {
	src, db := newSource(), newDatabase()
	synctest.Test(t, func(t *testing.T) {
		src.took = time.Second
		db.took = time.Second
		c, err := New(Config[int, int]{Capacity: 100, TTL: 10 * time.Second, RefreshAhead: 0.1, Loader: src.load, Store: db, WriteMode: WriteThrough, Janitor: time.Minute})
		require.NoError(t, err)
		require.NoError(t, c.Set(t.Context(), 1, 1))
		time.Sleep(2 * time.Second)
		want(t, c, 1, 1) // begins a load in the background
		loaded, written := make(chan error, 1), make(chan error, 1)
		go func() { _, err := c.GetOrLoad(t.Context(), 2); loaded <- err }()
		go func() { written <- c.Set(t.Context(), 3, 3) }()
		synctest.Wait()
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- c.Close(t.Context()) }()
		}
		synctest.Wait()
		require.Empty(t, closed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded, "the second waits for the first")

		_, err = c.GetOrLoad(t.Context(), 9)
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.GetOrLoadAll(t.Context(), []int{9})
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, c.Refresh(t.Context(), 9), ErrClosed)
		require.ErrorIs(t, c.Set(t.Context(), 9, 9), ErrClosed)
		require.ErrorIs(t, c.Delete(t.Context(), 9), ErrClosed)
		_, _, err = c.Compute(t.Context(), 9, func(int, bool) (int, Op) { return 9, OpSet })
		require.ErrorIs(t, err, ErrClosed)
		v, ok := c.Get(1)
		require.True(t, ok, "what is there can be read")
		require.Equal(t, 1, v)

		require.NoError(t, <-closed)
		require.NoError(t, <-closed)
		require.NoError(t, <-loaded)
		require.NoError(t, <-written)
		require.Equal(t, 3, db.all()[3])
		require.NoError(t, c.Close(t.Context()))
	})
	// Without a Store.
	c, err := New(Config[int, int]{Capacity: 1})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	require.ErrorIs(t, c.Set(t.Context(), 1, 1), ErrClosed)
	require.ErrorIs(t, c.Delete(t.Context(), 1), ErrClosed)
	_, _, err = c.SetIfAbsent(t.Context(), 1, 1)
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, c.Flush(t.Context()))
}

// Close that gives up cancels the loads, and their callers learn why.
func TestCloseCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		c, err := New(Config[int, int]{Capacity: 100, Loader: func(ctx context.Context, k int) (Entry[int], error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			time.Sleep(time.Second)
			return Entry[int]{}, ctx.Err()
		}})
		require.NoError(t, err)
		got := make(chan error, 1)
		go func() { _, err := c.GetOrLoad(t.Context(), 1); got <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, <-ended, ErrClosed)
		require.ErrorIs(t, <-got, ErrClosed)
		time.Sleep(time.Second)
	})
}

// A cache that nobody holds any more is collected, though its clock ran.
func TestCollected(t *testing.T) {
	collected := make(chan bool, 1)
	func() {
		c, err := New(Config[int, int]{Capacity: 100, TTL: time.Hour})
		require.NoError(t, err)
		for i := range 1000 {
			c.Get(i)
			_ = c.Set(context.Background(), i, i)
		}
		runtime.AddCleanup(c, func(int) { collected <- true }, 0)
	}()
	for {
		runtime.GC()
		select {
		case <-collected:
			return
		default:
			runtime.Gosched()
		}
	}
}
