package ttlcache

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// want checks what GetOrLoad gives, and that nobody waits.
func want(t *testing.T, c *Cache[int, int], k, v int) {
	t.Helper()
	start := time.Now()
	got, err := c.GetOrLoad(t.Context(), k)
	require.NoError(t, err)
	require.Equal(t, v, got)
	require.Equal(t, start, time.Now(), "it waited")
	synctest.Wait()
}

func TestRefreshAhead(t *testing.T) {
	for _, shards := range []int{0, 1} {
		src := newSource()
		bubble(t, Config[int, int]{TTL: 10 * time.Second, RefreshAhead: 0.8, Shards: shards, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
			want(t, c, 1, 1)
			src.set(func(s *source) { s.version, s.took = 1, time.Second })
			time.Sleep(8*time.Second - 1)
			want(t, c, 1, 1)
			require.Equal(t, 1, src.count(1), "it is not due yet")
			time.Sleep(time.Nanosecond)
			for range 10 {
				want(t, c, 1, 1)
			}
			require.Equal(t, 2, src.count(1), "one load in the background")
			time.Sleep(time.Second)
			synctest.Wait()
			want(t, c, 1, 1001)
			_, _, remaining := c.Lookup(1)
			require.Equal(t, 10*time.Second, remaining)

			// As long as a key is in use, nobody waits for it, however long that is.
			for range 1000 {
				time.Sleep(100 * time.Millisecond)
				want(t, c, 1, 1001)
			}
			st := c.Stats()
			require.InDelta(t, 13, st.Refreshes, 2)
			require.EqualValues(t, 1, st.Misses)
			require.Zero(t, st.RefreshErrors)

			// Get does not load.
			require.NoError(t, c.Refresh(t.Context(), 1))
			n := src.count(1)
			time.Sleep(9 * time.Second)
			_, ok := c.Get(1)
			require.True(t, ok)
			synctest.Wait()
			require.Equal(t, n, src.count(1))
		})
	}
}

// The share is that of the entry's own time to live.
func TestRefreshAheadOwnTTL(t *testing.T) {
	src := newSource()
	src.ttl = time.Hour
	bubble(t, Config[int, int]{TTL: time.Second, RefreshAhead: 0.5, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		time.Sleep(30*time.Minute - 1)
		want(t, c, 1, 1)
		require.Equal(t, 1, src.count(1))
		time.Sleep(time.Nanosecond)
		want(t, c, 1, 1)
		require.Equal(t, 2, src.count(1))
		require.NoError(t, c.SetTTL(t.Context(), 2, 2, Forever))
		time.Sleep(1e6 * time.Hour)
		want(t, c, 2, 2)
		require.Zero(t, src.count(2))
	})
}

func TestStaleWhileRevalidate(t *testing.T) {
	for _, shards := range []int{0, 1} {
		src := newSource()
		bubble(t, Config[int, int]{TTL: 10 * time.Second, StaleWhileRevalidate: 5 * time.Second, Shards: shards, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
			want(t, c, 1, 1)
			src.set(func(s *source) { s.version, s.took = 1, time.Second })
			time.Sleep(10 * time.Second)
			_, ok := c.Get(1)
			require.False(t, ok, "Get returns only what is fresh")
			_, ok = c.Peek(1)
			require.False(t, ok)
			_, state, remaining := c.Lookup(1)
			require.Equal(t, Stale, state)
			require.Equal(t, 5*time.Second, remaining)
			for range c.All() {
				t.Error("it is not fresh")
			}
			for range 10 {
				want(t, c, 1, 1)
			}
			require.Equal(t, 2, src.count(1))
			time.Sleep(time.Second)
			synctest.Wait()
			want(t, c, 1, 1001)
			require.EqualValues(t, 10, c.Stats().StaleHits)

			time.Sleep(15 * time.Second)
			_, state, _ = c.Lookup(1)
			require.Equal(t, Absent, state)
			start := time.Now()
			_, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, time.Second, time.Since(start), "it was gone")
		})
	}
}

func TestStaleIfError(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: 10 * time.Second, StaleIfError: time.Minute, RetryDelay: 5 * time.Second, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		src.set(func(s *source) { s.err = errSource })
		time.Sleep(10 * time.Second)
		want(t, c, 1, 1)
		require.Equal(t, 2, src.count(1), "it was tried")
		require.EqualValues(t, 1, c.Stats().StaleOnError)
		for range 10 {
			want(t, c, 1, 1)
		}
		require.Equal(t, 2, src.count(1), "but not again at once")
		time.Sleep(5 * time.Second)
		src.set(func(s *source) { s.took = time.Second })
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.Equal(t, 3, src.count(1))
		require.ErrorIs(t, c.Refresh(t.Context(), 1), errSource, "who asks for a refresh is told")

		time.Sleep(54*time.Second - 1 - 2*time.Second) // to the last moment
		src.set(func(s *source) { s.took = 0 })
		v, err = c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		time.Sleep(1 + time.Second)
		_, err = c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, errSource)

		// A key that has gone is not an error.
		src.set(func(s *source) { s.err = nil })
		_, err = c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		src.set(func(s *source) { s.absent = func(int) bool { return true } })
		time.Sleep(10 * time.Second)
		_, err = c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		_, state, _ := c.Lookup(1)
		require.Equal(t, Absent, state)
	})
}

// A background load that fails is told, counted and not tried again at once; what is there stays.
func TestRefreshFails(t *testing.T) {
	type failure struct {
		key int
		err error
	}
	var failures []failure
	src := newSource()
	load := src.load
	bubble(t, Config[int, int]{TTL: 10 * time.Second, RefreshAhead: 0.5, StaleIfError: 10 * time.Second,
		Loader:         func(ctx context.Context, k int) (Entry[int], error) { return load(ctx, k) },
		OnRefreshError: func(k int, err error) { failures = append(failures, failure{k, err}) },
	}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		src.set(func(s *source) { s.err = errSource })
		time.Sleep(5 * time.Second)
		for range 10 {
			want(t, c, 1, 1)
		}
		require.Equal(t, 2, src.count(1))
		require.Equal(t, []failure{{1, errSource}}, failures)
		time.Sleep(time.Second)
		want(t, c, 1, 1)
		require.Equal(t, 3, src.count(1), "after RetryDelay it is tried again")
		require.EqualValues(t, 2, c.Stats().RefreshErrors)

		// A panic in the background, and a Goexit.
		time.Sleep(time.Second)
		load = func(context.Context, int) (Entry[int], error) { panic("boom") }
		want(t, c, 1, 1)
		var p *PanicError
		require.ErrorAs(t, failures[2].err, &p)
		require.Equal(t, "boom", p.Value)
		time.Sleep(time.Second)
		load = func(context.Context, int) (Entry[int], error) { runtime.Goexit(); return Entry[int]{}, nil }
		want(t, c, 1, 1)
		require.Len(t, failures, 4)
		time.Sleep(time.Second)
		load = src.load
		src.set(func(s *source) { s.err, s.version = nil, 1 })
		want(t, c, 1, 1)
		want(t, c, 1, 1001)
		require.Zero(t, c.refreshing.Load())
	})
}

// No more loads in the background than may be at one time: the rest is left out.
func TestRefreshShed(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: 10 * time.Second, RefreshAhead: 0.5, MaxConcurrentRefresh: 3, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 10 {
			want(t, c, k, k)
		}
		src.set(func(s *source) { s.took = time.Second })
		time.Sleep(6 * time.Second)
		for k := range 10 {
			want(t, c, k, k)
		}
		require.Equal(t, 13, src.count(-1))
		st := c.Stats()
		require.Equal(t, []uint64{3, 7}, []uint64{st.Refreshes, st.RefreshShed})
		time.Sleep(time.Second)
		synctest.Wait()
		for k := range 10 {
			want(t, c, k, k)
		}
		require.Equal(t, 16, src.count(-1), "the next use of a key tries again")
	})
}

// XFetch loads early, the more often the nearer the end and the longer the load takes.
func TestXFetch(t *testing.T) {
	early := func(beta float64, took time.Duration) (share float64) {
		src := newSource()
		src.took = took
		const keys = 2000
		bubble(t, Config[int, int]{Capacity: keys * 4, TTL: 100 * time.Second, XFetchBeta: beta, MaxConcurrentRefresh: keys, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
			var wg sync.WaitGroup
			for k := range keys {
				wg.Go(func() { _, _ = c.GetOrLoad(t.Context(), k) })
			}
			wg.Wait()
			time.Sleep(90 * time.Second)
			for k := range keys {
				want(t, c, k, k)
			}
			share = float64(src.count(-1)-keys) / keys
		})
		return share
	}
	// A load is due if Δ·β·(-ln u) ≥ 10 s, with chance exp(-10 s / (Δ·β)). Five standard
	// deviations of 2000 draws are at most 0.056.
	require.InDelta(t, 0.368, early(1, 10*time.Second), 0.056)
	require.InDelta(t, 0.135, early(1, 5*time.Second), 0.056)
	require.InDelta(t, 0.607, early(2, 10*time.Second), 0.056)
	require.Zero(t, early(1, 100*time.Millisecond))
}

// While an entry is loaded in the background it is replaced, deleted, evicted.
func TestRefreshOvertaken(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: 10 * time.Second, RefreshAhead: 0.5, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		begin := func() {
			src.set(func(s *source) { s.took = 0 })
			c.Invalidate(1)
			want(t, c, 1, 1)
			src.set(func(s *source) { s.took = time.Second })
			time.Sleep(6 * time.Second)
			want(t, c, 1, 1)
		}
		begin()
		require.NoError(t, c.Set(t.Context(), 1, 7))
		time.Sleep(2 * time.Second)
		want(t, c, 1, 7)
		time.Sleep(3 * time.Second)
		n := src.count(1)
		want(t, c, 1, 7)
		require.Equal(t, n+1, src.count(1), "its successor can be loaded, too")
		time.Sleep(2 * time.Second)

		begin()
		c.Invalidate(1)
		time.Sleep(2 * time.Second)
		require.False(t, c.Contains(1))

		begin()
		require.NoError(t, c.Refresh(t.Context(), 1))
		time.Sleep(2 * time.Second)
		require.True(t, c.Contains(1))
	})
}

// Many callers on an entry that is due, on several CPUs: one load.
func TestRefreshRace(t *testing.T) {
	var loads atomic.Int64
	c, err := New(Config[int, int]{Capacity: 100, TTL: time.Hour, RefreshAhead: 0.000001, MaxConcurrentRefresh: 1000,
		Loader: func(ctx context.Context, k int) (Entry[int], error) {
			if n := loads.Add(1); n > 1 {
				<-ctx.Done() // until Close
				return Entry[int]{}, ctx.Err()
			}
			return Entry[int]{Value: 1}, nil
		}})
	require.NoError(t, err)
	_, err = c.GetOrLoad(t.Context(), 1)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for loads.Load() < 2 { // until it is due
				_, _ = c.GetOrLoad(context.Background(), 1)
			}
			for range 1000 {
				if v, err := c.GetOrLoad(context.Background(), 1); v != 1 || err != nil {
					t.Errorf("got %d, %v", v, err)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 2, loads.Load())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, c.Close(ctx), context.Canceled)
}

// A load in the background has the values of the caller's context, and not its end.
func TestRefreshContext(t *testing.T) {
	type key struct{}
	var values []any
	bubble(t, Config[int, int]{TTL: 10 * time.Second, RefreshAhead: 0.5, Loader: func(ctx context.Context, k int) (Entry[int], error) {
		time.Sleep(time.Second)
		values = append(values, ctx.Value(key{}))
		return Entry[int]{Value: k}, ctx.Err()
	}}, func(t *testing.T, c *Cache[int, int]) {
		for i := range 2 {
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, i))
			_, err := c.GetOrLoad(ctx, 1)
			require.NoError(t, err)
			cancel()
			time.Sleep(6 * time.Second)
		}
		synctest.Wait()
		require.Equal(t, []any{0, 1}, values)
		require.Zero(t, c.Stats().RefreshErrors)
	})
}
