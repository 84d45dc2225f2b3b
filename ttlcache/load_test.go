package ttlcache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errSource = errors.New("the source is down")

// A source is where the values of a test come from. The value of a key is version·1000 + key.
type source struct {
	mu      sync.Mutex
	loads   map[int]int
	batches [][]int
	version int
	took    time.Duration // that a load takes
	ttl     time.Duration
	err     error
	absent  func(k int) bool
}

func newSource() *source { return &source{loads: map[int]int{}} }

func (s *source) load(ctx context.Context, k int) (Entry[int], error) {
	s.mu.Lock()
	s.loads[k]++
	took, version := s.took, s.version
	s.mu.Unlock()
	if took > 0 {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return Entry[int]{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return Entry[int]{}, s.err
	case s.absent != nil && s.absent(k):
		return Entry[int]{}, fmt.Errorf("key %d: %w", k, ErrNotFound)
	}
	return Entry[int]{Value: version*1000 + k, TTL: s.ttl}, nil
}

func (s *source) bulk(ctx context.Context, keys []int) (map[int]Entry[int], error) {
	s.mu.Lock()
	s.batches = append(s.batches, slices.Sorted(slices.Values(keys)))
	s.mu.Unlock()
	all := map[int]Entry[int]{}
	for _, k := range keys {
		e, err := s.load(ctx, k)
		switch {
		case err == nil:
			all[k] = e
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return all, nil
}

// count returns how often k was loaded; with k < 0, how often any key was.
func (s *source) count(k int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k >= 0 {
		return s.loads[k]
	}
	sum := 0
	for _, n := range s.loads {
		sum += n
	}
	return sum
}

func (s *source) set(f func(s *source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// bubble runs a test with a fake clock, and a cache that is closed at its end.
func bubble(t *testing.T, config Config[int, int], test func(t *testing.T, c *Cache[int, int])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if config.Capacity == 0 {
			config.Capacity = 1000
		}
		c, err := New(config)
		require.NoError(t, err)
		test(t, c)
		synctest.Wait()
		require.NoError(t, c.check())
		_ = c.Close(context.Background())
	})
}

func TestGetOrLoad(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for range 3 {
			v, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, 1, v)
		}
		require.Equal(t, 1, src.count(1))
		src.set(func(s *source) { s.version = 1 })
		time.Sleep(time.Minute - 1)
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		time.Sleep(time.Nanosecond)
		_, ok := c.Get(1)
		require.False(t, ok)
		v, err = c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1001, v)
		require.Equal(t, 2, src.count(1))
		st := c.Stats()
		require.Equal(t, []uint64{3, 3, 2, 1}, []uint64{st.Hits, st.Misses, st.Loads, st.Expired})
	})
}

// The entry's own time to live counts, and one that is negative keeps it out.
func TestEntryTTL(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for _, ttl := range []time.Duration{time.Second, time.Hour, Forever} {
			src.set(func(s *source) { s.ttl = ttl })
			k := int(ttl % 1000)
			_, err := c.GetOrLoad(t.Context(), k)
			require.NoError(t, err)
			_, state, remaining := c.Lookup(k)
			require.Equal(t, Fresh, state)
			require.Equal(t, ttl, remaining)
			c.Clear()
		}
		require.NoError(t, c.Set(t.Context(), 7, 8))
		src.set(func(s *source) { s.ttl = -1 })
		v, err := c.GetOrLoad(t.Context(), 9)
		require.NoError(t, err)
		require.Equal(t, 9, v)
		require.False(t, c.Contains(9))
		require.NoError(t, c.Refresh(t.Context(), 7))
		require.False(t, c.Contains(7), "what was there before is outdated")
	})
}

func TestStampede(t *testing.T) {
	src := newSource()
	src.took = 20 * time.Millisecond
	bubble(t, Config[int, int]{TTL: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for round := 1; round <= 3; round++ {
			var wg sync.WaitGroup
			start := time.Now()
			for range 1000 {
				wg.Go(func() {
					v, err := c.GetOrLoad(t.Context(), 1)
					if v != 1 || err != nil {
						t.Errorf("got %d, %v", v, err)
					}
				})
			}
			wg.Wait()
			require.Equal(t, round, src.count(1))
			require.Equal(t, src.took, time.Since(start), "nobody waits longer than one load takes")
			time.Sleep(time.Minute)
		}
	})
}

func TestErrorsAreNotCached(t *testing.T) {
	src := newSource()
	src.err = errSource
	bubble(t, Config[int, int]{TTL: time.Minute, NegativeTTL: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for i := range 3 {
			_, err := c.GetOrLoad(t.Context(), 1)
			require.ErrorIs(t, err, errSource)
			require.Equal(t, i+1, src.count(1))
		}
		require.EqualValues(t, 3, c.Stats().LoadErrors)
		src.set(func(s *source) { s.err = nil })
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, v)
	})
}

func TestNoLoader(t *testing.T) {
	bubble(t, Config[int, int]{}, func(t *testing.T, c *Cache[int, int]) {
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNoLoader)
		_, err = c.GetOrLoadAll(t.Context(), []int{1})
		require.ErrorIs(t, err, ErrNoLoader)
		require.ErrorIs(t, c.Refresh(t.Context(), 1), ErrNoLoader)
		require.NoError(t, c.Set(t.Context(), 1, 2))
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 2, v)
	})
}

func TestEndedContext(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.GetOrLoad(ctx, 1)
		require.ErrorIs(t, err, context.Canceled)
		_, err = c.GetOrLoadAll(ctx, []int{1})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, c.Refresh(ctx, 1), context.Canceled)
		require.Zero(t, src.count(-1))
	})
}

// Each waiter keeps his own context; the load goes on until the last has gone; and who comes
// then starts another.
func TestWaiters(t *testing.T) {
	src := newSource()
	src.took = time.Hour
	bubble(t, Config[int, int]{Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		start := time.Now()
		ends := make(chan time.Duration, 10)
		for i := range 10 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10-i)*time.Second)
				defer cancel()
				_, err := c.GetOrLoad(ctx, 1)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				ends <- time.Since(start)
			}()
			synctest.Wait()
		}
		for i := range 10 {
			require.Equal(t, time.Duration(i+1)*time.Second, <-ends)
		}
		require.Equal(t, 1, src.count(1))
		src.set(func(s *source) { s.took = time.Second })
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err, "not the error of the load that was cancelled")
		require.Equal(t, 1, v)
		require.Equal(t, 2, src.count(1))
	})
}

func TestLoadTimeout(t *testing.T) {
	var loads atomic.Int64
	bubble(t, Config[int, int]{LoadTimeout: time.Second, Loader: func(ctx context.Context, k int) (Entry[int], error) {
		if loads.Add(1) > 1 {
			return Entry[int]{Value: 2}, nil
		}
		time.Sleep(time.Minute) // whatever its context says
		return Entry[int]{Value: 1}, nil
	}}, func(t *testing.T, c *Cache[int, int]) {
		start := time.Now()
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		v, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		time.Sleep(time.Hour)
		v, _ = c.Get(1)
		require.Equal(t, 2, v, "what came too late was not kept")
	})
}

func TestLoaderPanics(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		bubble(t, Config[int, int]{NegativeTTL: time.Hour}, func(t *testing.T, c *Cache[int, int]) {
			loads := atomic.Int64{}
			c.config.Loader = func(context.Context, int) (Entry[int], error) {
				time.Sleep(time.Second)
				loads.Add(1)
				panic("boom")
			}
			var wg sync.WaitGroup
			var panics atomic.Int64
			for range 10 {
				wg.Go(func() {
					defer func() {
						if p, ok := recover().(*PanicError); ok && p.Value == "boom" && len(p.Stack) > 0 {
							panics.Add(1)
						}
					}()
					if bulk {
						_, _ = c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
					} else {
						_, _ = c.GetOrLoad(t.Context(), 1)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 10, panics.Load())
			require.Equal(t, map[bool]int64{false: 1, true: 3}[bulk], loads.Load())
			c.config.Loader = newSource().load
			v, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err, "it was not cached")
			require.Equal(t, 1, v)
			require.EqualValues(t, loads.Load(), c.Stats().LoadErrors)
		})
	}
}

func TestLoaderGoexits(t *testing.T) {
	bubble(t, Config[int, int]{}, func(t *testing.T, c *Cache[int, int]) {
		c.config.Loader = func(context.Context, int) (Entry[int], error) {
			time.Sleep(time.Second)
			runtime.Goexit()
			return Entry[int]{}, nil
		}
		var wg sync.WaitGroup
		returned := atomic.Int64{}
		for range 10 {
			wg.Go(func() {
				_, _ = c.GetOrLoad(t.Context(), 1)
				returned.Add(1)
			})
		}
		wg.Wait()
		require.Zero(t, returned.Load())
		c.config.Loader = newSource().load
		_, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
	})
}

// What was loaded before a change must not come after it.
func TestOvertakenLoads(t *testing.T) {
	changes := map[string]struct {
		change func(t *testing.T, c *Cache[int, int])
		want   any
	}{
		"Set":        {func(t *testing.T, c *Cache[int, int]) { require.NoError(t, c.Set(t.Context(), 1, 77)) }, 77},
		"SetTTL":     {func(t *testing.T, c *Cache[int, int]) { require.NoError(t, c.SetTTL(t.Context(), 1, 77, time.Hour)) }, 77},
		"Delete":     {func(t *testing.T, c *Cache[int, int]) { require.NoError(t, c.Delete(t.Context(), 1)) }, nil},
		"Invalidate": {func(t *testing.T, c *Cache[int, int]) { c.Invalidate(1) }, nil},
		"Clear":      {func(t *testing.T, c *Cache[int, int]) { c.Clear() }, nil},
		"SetIfAbsent": {func(t *testing.T, c *Cache[int, int]) {
			_, _, err := c.SetIfAbsent(t.Context(), 1, 77)
			require.NoError(t, err)
		}, 77},
		"Compute set": {func(t *testing.T, c *Cache[int, int]) {
			_, _, err := c.Compute(t.Context(), 1, func(int, bool) (int, Op) { return 77, OpSet })
			require.NoError(t, err)
		}, 77},
		"Compute delete": {func(t *testing.T, c *Cache[int, int]) {
			_, _, err := c.Compute(t.Context(), 1, func(int, bool) (int, Op) { return 0, OpDelete })
			require.NoError(t, err)
		}, nil},
	}
	for name, ch := range changes {
		for _, bulk := range []bool{false, true} {
			t.Run(fmt.Sprint(name, bulk), func(t *testing.T) {
				src := newSource()
				src.took = time.Second
				config := Config[int, int]{TTL: time.Hour, Loader: src.load}
				if bulk {
					config.BulkLoader = src.bulk
				}
				bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
					done := make(chan int)
					go func() {
						if bulk {
							m, err := c.GetOrLoadAll(t.Context(), []int{1, 2})
							if err != nil {
								t.Error(err)
							}
							done <- m[1]
						} else {
							v, err := c.GetOrLoad(t.Context(), 1)
							if err != nil {
								t.Error(err)
							}
							done <- v
						}
					}()
					synctest.Wait()
					ch.change(t, c)
					require.Equal(t, 1, <-done, "the waiter gets what he came for")
					v, ok := c.Get(1)
					if ch.want == nil {
						require.False(t, ok, "%d was kept", v)
					} else {
						require.Equal(t, ch.want, v)
					}
				})
			})
		}
	}
}

// The same for what was found not to exist.
func TestOvertakenNegative(t *testing.T) {
	src := newSource()
	src.took = time.Second
	src.absent = func(int) bool { return true }
	bubble(t, Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for _, change := range []func(){
			func() { require.NoError(t, c.Set(t.Context(), 1, 77)) },
			func() { c.Invalidate(1) },
			func() { c.Clear() },
		} {
			done := make(chan error)
			go func() { _, err := c.GetOrLoad(t.Context(), 1); done <- err }()
			synctest.Wait()
			change()
			require.ErrorIs(t, <-done, ErrNotFound)
			_, state, _ := c.Lookup(1)
			require.NotEqual(t, Negative, state)
			c.Invalidate(1)
		}
	})
}

// A value that expires while it is loaded, or at once, still reaches those who wait for it.
func TestShortTTL(t *testing.T) {
	src := newSource()
	src.took = time.Second
	src.ttl = 1
	bubble(t, Config[int, int]{Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				v, err := c.GetOrLoad(t.Context(), 1)
				if v != 1 || err != nil {
					t.Errorf("got %d, %v", v, err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, src.count(1))
	})
}

func TestNegative(t *testing.T) {
	src := newSource()
	src.absent = func(k int) bool { return k >= 100 }
	bubble(t, Config[int, int]{Capacity: 100, Shards: 1, TTL: time.Hour, NegativeTTL: time.Minute, NegativeCapacity: 50, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 100 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		ask := func(from, to int) {
			for k := from; k < to; k++ {
				_, err := c.GetOrLoad(t.Context(), k)
				require.ErrorIs(t, err, ErrNotFound)
			}
		}
		for range 5 {
			ask(100, 150)
		}
		require.Equal(t, 50, src.count(-1), "each once")
		_, state, remaining := c.Lookup(100)
		require.Equal(t, Negative, state)
		require.Equal(t, time.Minute, remaining)
		_, ok := c.Get(100)
		require.False(t, ok)

		ask(1000, 2000) // a flood
		ask(100, 150)
		require.Equal(t, 1050, src.count(-1), "those are remembered still")
		require.EqualValues(t, 1000, c.Stats().NegativeRefused)
		require.Equal(t, 50, c.Stats().NegativeLen)
		for k := range 100 {
			require.True(t, c.Contains(k), "no real entry was evicted")
		}

		time.Sleep(time.Minute)
		_, state, _ = c.Lookup(100)
		require.Equal(t, Absent, state)
		ask(1000, 1050)
		ask(1000, 1050)
		require.Equal(t, 1100, src.count(-1), "there is room again")

		// One that comes into being.
		require.NoError(t, c.Set(t.Context(), 1000, 5))
		v, err := c.GetOrLoad(t.Context(), 1000)
		require.NoError(t, err)
		require.Equal(t, 5, v)
		c.Invalidate(1001)
		src.set(func(s *source) { s.absent = nil })
		v, err = c.GetOrLoad(t.Context(), 1001)
		require.NoError(t, err)
		require.Equal(t, 1001, v)
		c.Clear()
		require.Zero(t, c.Stats().NegativeLen)
	})
}

// Without NegativeTTL nothing is remembered, but one load does for all who wait.
func TestNoNegative(t *testing.T) {
	src := newSource()
	src.absent = func(k int) bool { return true }
	bubble(t, Config[int, int]{Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		for i := range 3 {
			_, err := c.GetOrLoad(t.Context(), 1)
			require.ErrorIs(t, err, ErrNotFound)
			require.Equal(t, i+1, src.count(1))
		}
		// A value whose key has gone.
		require.NoError(t, c.Set(t.Context(), 2, 2))
		require.ErrorIs(t, c.Refresh(t.Context(), 2), ErrNotFound)
		require.False(t, c.Contains(2))
	})
}

func TestGetOrLoadAll(t *testing.T) {
	for _, kind := range []string{"bulk", "single"} {
		t.Run(kind, func(t *testing.T) {
			src := newSource()
			src.took = time.Millisecond
			src.absent = func(k int) bool { return k == 3 }
			config := Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: src.load}
			if kind == "bulk" {
				config.Loader, config.BulkLoader = nil, src.bulk
			}
			bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
				require.NoError(t, c.Set(t.Context(), 0, 50))
				m, err := c.GetOrLoadAll(t.Context(), []int{0, 1, 2, 3, 2, 1, 0})
				require.NoError(t, err)
				require.Equal(t, map[int]int{0: 50, 1: 1, 2: 2}, m)
				m, err = c.GetOrLoadAll(t.Context(), []int{0, 1, 2, 3, 4})
				require.NoError(t, err)
				require.Equal(t, map[int]int{0: 50, 1: 1, 2: 2, 4: 4}, m)
				require.Equal(t, []int{0, 1, 1, 1, 1}, []int{src.count(0), src.count(1), src.count(2), src.count(3), src.count(4)})
				if kind == "bulk" {
					require.Equal(t, [][]int{{1, 2, 3}, {4}}, src.batches)
				}
				v, err := c.GetOrLoad(t.Context(), 5)
				require.NoError(t, err)
				require.Equal(t, 5, v)
				_, err = c.GetOrLoad(t.Context(), 3)
				require.ErrorIs(t, err, ErrNotFound)
				m, err = c.GetOrLoadAll(t.Context(), nil)
				require.NoError(t, err)
				require.Empty(t, m)

				src.set(func(s *source) { s.err = errSource })
				m, err = c.GetOrLoadAll(t.Context(), []int{1, 8, 9})
				require.ErrorIs(t, err, errSource)
				require.Equal(t, map[int]int{1: 1}, m)
				var ke *KeyError[int]
				require.ErrorAs(t, err, &ke)
				require.Contains(t, []int{8, 9}, ke.Key)
				require.Contains(t, ke.Error(), fmt.Sprint(ke.Key))
			})
		})
	}
}

// Callers who ask for keys that others are having loaded wait for those, not longer.
func TestGetOrLoadAllJoins(t *testing.T) {
	src := newSource()
	src.took = time.Second
	bubble(t, Config[int, int]{Loader: src.load, BulkLoader: src.bulk}, func(t *testing.T, c *Cache[int, int]) {
		go c.GetOrLoad(t.Context(), 1)
		synctest.Wait()
		done := make(chan map[int]int)
		go func() {
			m, err := c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
			if err != nil {
				t.Error(err)
			}
			done <- m
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := c.GetOrLoadAll(ctx, []int{2, 3})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		v, err := c.GetOrLoad(t.Context(), 3)
		require.NoError(t, err)
		require.Equal(t, 3, v)
		require.Equal(t, map[int]int{1: 1, 2: 2, 3: 3}, <-done)
		require.Equal(t, []int{1, 1, 1}, []int{src.count(1), src.count(2), src.count(3)})
		m, err := c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Len(t, m, 3)
	})
}

// Without a BulkLoader, so many keys are loaded at one time, and no more.
func TestGetOrLoadAllParallel(t *testing.T) {
	var now, most atomic.Int64
	bubble(t, Config[int, int]{Loader: func(_ context.Context, k int) (Entry[int], error) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(time.Second)
		now.Add(-1)
		return Entry[int]{Value: k}, nil
	}}, func(t *testing.T, c *Cache[int, int]) {
		keys := make([]int, 100)
		for i := range keys {
			keys[i] = i
		}
		start := time.Now()
		m, err := c.GetOrLoadAll(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, m, 100)
		require.EqualValues(t, parallel, most.Load())
		require.Equal(t, 7*time.Second, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		for i := range keys {
			keys[i] += 1000
		}
		_, err = c.GetOrLoadAll(ctx, keys)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Minute)
		require.Zero(t, now.Load())
		require.Less(t, c.Stats().Loads, uint64(150), "those that waited for their turn are left out")
	})
}

// Refresh gives what is there after the call.
func TestRefresh(t *testing.T) {
	src := newSource()
	src.took = time.Second
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Refresh(t.Context(), 1))
		require.Equal(t, 1, src.count(1))

		go c.Refresh(t.Context(), 1)
		synctest.Wait()
		src.set(func(s *source) { s.version = 1 }) // after that load has read it
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := c.Refresh(t.Context(), 1); err != nil {
					t.Error(err)
				}
				if v, _ := c.Get(1); v != 1001 {
					t.Errorf("got %d", v)
				}
			})
		}
		synctest.Wait()
		v, ok := c.Get(1)
		require.True(t, ok, "others are not kept from it meanwhile")
		require.Equal(t, 1, v)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Refresh(ctx, 1), context.DeadlineExceeded)
		wg.Wait()
		require.Equal(t, 3, src.count(1), "they share a load")

		src.set(func(s *source) { s.err = errSource })
		require.ErrorIs(t, c.Refresh(t.Context(), 1), errSource)
		v, ok = c.Get(1)
		require.True(t, ok)
		require.Equal(t, 1001, v)
	})
}

// What a hook panics with while a load is kept reaches those who wait.
func TestOnRemovePanicsInLoad(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{Capacity: 1, Loader: src.load, OnRemove: func(int, int, Cause) { panic("hook") }}, func(t *testing.T, c *Cache[int, int]) {
		_, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		func() {
			defer func() {
				p, ok := recover().(*PanicError)
				require.True(t, ok)
				require.Equal(t, "hook", p.Value)
			}()
			_, _ = c.GetOrLoad(t.Context(), 2)
			t.Error("it must panic")
		}()
		v, ok := c.Get(2)
		require.True(t, ok, "the load has taken effect")
		require.Equal(t, 2, v)
		require.Equal(t, 1, c.Len())
	})
}
