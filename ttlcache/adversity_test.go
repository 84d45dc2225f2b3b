package ttlcache

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What hooks, stores, other processes and bad luck do at the worst moment.

// Within one tick of the wheel there may be more entries than one call looks at, some due and
// some not: all are looked at in the end, and those that are due leave first.
func TestManyInOneTick(t *testing.T) {
	const late, early, between = 1900 * time.Microsecond, 1200 * time.Microsecond, 1500 * time.Microsecond
	bubble(t, Config[int, int]{Capacity: 10, Shards: 1}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.SetTTL(t.Context(), 1, 1, late))
		require.NoError(t, c.SetTTL(t.Context(), 2, 2, early))
		time.Sleep(between)
		require.Equal(t, 1, c.DeleteExpired(1))
		require.Zero(t, c.DeleteExpired(1))
	})
	bubble(t, Config[int, int]{Capacity: 5000, Shards: 1}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 5000 {
			ttl := late
			if k%3 == 2 {
				ttl = early
			}
			require.NoError(t, c.SetTTL(t.Context(), k, k, ttl))
		}
		time.Sleep(between)
		require.Equal(t, 5000-1666, c.Len())
		require.Equal(t, 5000-1666, c.Len())
		time.Sleep(late)
		require.Zero(t, c.Len())
	})
	bubble(t, Config[int, int]{Capacity: 101, Shards: 1}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 100 {
			require.NoError(t, c.SetTTL(t.Context(), k, k, late))
		}
		require.NoError(t, c.SetTTL(t.Context(), 100, 1, early))
		time.Sleep(between)
		require.NoError(t, c.Set(t.Context(), 200, 1))
		require.Equal(t, []uint64{0, 1}, []uint64{c.Stats().Evictions, c.Stats().Expired})
	})
	// The same for keys that do not exist.
	src := newSource()
	src.absent = func(int) bool { return true }
	bubble(t, Config[int, int]{Capacity: 5000, NegativeTTL: between, BulkLoader: src.bulk}, func(t *testing.T, c *Cache[int, int]) {
		keys := make([]int, 3000)
		for i := range keys {
			keys[i] = i
		}
		_, err := c.GetOrLoadAll(t.Context(), keys)
		require.NoError(t, err)
		time.Sleep(early)
		require.Zero(t, c.Len())
		require.Equal(t, 3000, c.Stats().NegativeLen)
		time.Sleep(between)
		c.DeleteExpired(1)
		require.Zero(t, c.Stats().NegativeLen)
	})
}

// A source that does not answer is an error, too: a stale value is returned when the load's
// time is over, and then at once.
func TestStaleIfTimeout(t *testing.T) {
	for _, obeys := range []bool{false, true} {
		first := true
		bubble(t, Config[int, int]{TTL: time.Second, StaleIfError: time.Hour, RetryDelay: time.Minute, LoadTimeout: time.Second,
			Loader: func(ctx context.Context, k int) (Entry[int], error) {
				if first {
					first = false
					return Entry[int]{Value: 7}, nil
				}
				if obeys {
					<-ctx.Done()
				} else {
					time.Sleep(time.Hour)
				}
				return Entry[int]{}, ctx.Err()
			}}, func(t *testing.T, c *Cache[int, int]) {
			want(t, c, 1, 7)
			time.Sleep(time.Second)
			for range 3 {
				start := time.Now()
				v, err := c.GetOrLoad(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, 7, v)
				require.Equal(t, time.Second, time.Since(start))
				for range 10 {
					want(t, c, 1, 7)
				}
				time.Sleep(time.Minute)
			}
			m, err := c.GetOrLoadAll(t.Context(), []int{1})
			require.NoError(t, err)
			require.Equal(t, map[int]int{1: 7}, m)
			time.Sleep(2 * time.Hour)
		})
	}
}

// OnRemove is called by a GetOrLoad that has begun a load: it may panic, and may wait for that load.
func TestOnRemoveWhileLoading(t *testing.T) {
	var c *Cache[int, int]
	var hook func()
	src := newSource()
	bubble(t, Config[int, int]{Shards: 2, TTL: time.Second, Loader: src.load, OnRemove: func(int, int, Cause) { hook() }}, func(t *testing.T, cache *Cache[int, int]) {
		c = cache
		for _, all := range []bool{false, true} {
			for i, h := range []func(){
				func() { panic("hook") },
				func() {
					v, err := c.GetOrLoad(t.Context(), 1000)
					require.NoError(t, err)
					require.Equal(t, 1000, v)
				},
			} {
				hook = func() {}
				c.Clear()
				for k := range 20 {
					require.NoError(t, c.Set(t.Context(), k, k))
				}
				time.Sleep(2 * time.Second)
				hook = h
				ask := func() {
					if all {
						_, _ = c.GetOrLoadAll(t.Context(), []int{1000, 1001})
					} else {
						_, _ = c.GetOrLoad(t.Context(), 1000)
					}
				}
				if i == 0 {
					require.Panics(t, ask)
				} else {
					ask()
				}
				hook = func() {}
				synctest.Wait()
				v, err := c.GetOrLoad(t.Context(), 1000)
				require.NoError(t, err)
				require.Equal(t, 1000, v)
			}
		}
	})
}

// OnRemove that panics in a GetOrLoad which begins a load in the background.
func TestOnRemovePanicsBeforeRefresh(t *testing.T) {
	src := newSource()
	boom := true
	bubble(t, Config[int, int]{Shards: 1, TTL: 100 * time.Second, RefreshAhead: 0.5, MaxConcurrentRefresh: 1, Loader: src.load,
		OnRemove: func(_, _ int, cause Cause) {
			if boom && cause == Expired {
				panic("hook")
			}
		}}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		require.NoError(t, c.SetTTL(t.Context(), 2, 2, time.Second))
		time.Sleep(60 * time.Second)
		require.PanicsWithValue(t, "hook", func() { _, _ = c.GetOrLoad(t.Context(), 1) })
		synctest.Wait()
		require.Zero(t, c.refreshing.Load())
		require.Equal(t, 2, src.count(1))
		boom = false
	})
}

// A function that panics in Compute does not keep OnRemove from what has expired by the way.
func TestComputePanicsAfterExpiry(t *testing.T) {
	told := 0
	bubble(t, Config[int, int]{Shards: 1, TTL: time.Second, OnRemove: func(int, int, Cause) { told++ }}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 1))
		time.Sleep(time.Second)
		require.Panics(t, func() {
			_, _, _ = c.Compute(t.Context(), 2, func(int, bool) (int, Op) { panic("f") })
		})
		require.Equal(t, 1, told)
	})
}

// The shortest life that an entry may have decides when it is loaded ahead.
func TestNoRefreshStorm(t *testing.T) {
	for name, config := range map[string]Config[int, int]{
		"no TTL":         {MaxLifetime: time.Minute, RefreshAhead: 0.8},
		"a longer TTL":   {TTL: time.Hour, MaxLifetime: time.Minute, RefreshAhead: 0.8},
		"a large Jitter": {TTL: time.Minute, Jitter: 0.9, RefreshAhead: 0.3},
	} {
		src := newSource()
		config.Loader = src.load
		bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
			for k := range 20 {
				for range 100 { // a second in all
					want(t, c, k, k)
					time.Sleep(10 * time.Millisecond)
				}
				require.Equal(t, 1, src.count(k), name)
			}
		})
	}
}

// LoadTimeout is of one load, not of the time that it waits for its turn.
func TestLoadTimeoutOfMany(t *testing.T) {
	src := newSource()
	src.took = 100 * time.Millisecond
	bubble(t, Config[int, int]{LoadTimeout: time.Second, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		keys := make([]int, 1000)
		for i := range keys {
			keys[i] = i
		}
		m, err := c.GetOrLoadAll(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, m, 1000)
	})
}

// What is on its way to the Store is newer than what can be loaded from it.
func TestRefreshOfQueued(t *testing.T) {
	db := newDatabase()
	config := behind(db, BatchConfig{Delay: time.Hour})
	config.TTL, config.RefreshAhead = 10*time.Second, 0.5
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.rows = map[int]int{1: 1, 2: 1} })
		require.NoError(t, c.Set(t.Context(), 1, 2))
		require.NoError(t, c.Delete(t.Context(), 2))
		require.NoError(t, c.Refresh(t.Context(), 1))
		require.NoError(t, c.Refresh(t.Context(), 2))
		want(t, c, 1, 2)
		time.Sleep(6 * time.Second)
		want(t, c, 1, 2) // would begin a load in the background
		want(t, c, 1, 2)
		require.Zero(t, c.refreshing.Load())
		_, err := c.GetOrLoad(t.Context(), 2)
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, c.Flush(t.Context()))
		want(t, c, 1, 2)
	})
}

// And Compute goes on from there, even if the cache had to evict it.
func TestComputeOfQueued(t *testing.T) {
	db := newDatabase()
	config := behind(db, BatchConfig{Delay: time.Hour})
	config.Capacity = 1
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		for range 10 {
			_, _, err := c.Compute(t.Context(), 1, func(old int, _ bool) (int, Op) { return old + 1, OpSet })
			require.NoError(t, err)
			require.NoError(t, c.Set(t.Context(), 2, 0))
		}
		v, loaded, err := c.SetIfAbsent(t.Context(), 1, 99)
		require.NoError(t, err)
		require.Equal(t, []any{10, true}, []any{v, loaded})
		require.NoError(t, c.Close(t.Context()))
		require.Equal(t, 10, db.all()[1])
	})
}

// A Store that comes back is given what was given up before, and the places in the queue are free.
func TestStoreComesBack(t *testing.T) {
	db := newDatabase()
	bubble(t, behind(db, BatchConfig{Delay: 1, Queue: 1, Retries: 1}), func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.fail = failing(errSource) })
		require.NoError(t, c.Set(t.Context(), 1, 1))
		time.Sleep(time.Minute)
		set := make(chan error, 1)
		go func() { set <- c.Set(t.Context(), 2, 2) }()
		time.Sleep(time.Hour)
		require.Empty(t, set)
		db.set(func(d *database) { d.fail = nil })
		time.Sleep(time.Minute)
		require.NoError(t, <-set)
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, map[int]int{1: 1, 2: 2}, db.all())

		// One that does not: who waits for a place does not keep Close from ending.
		db.set(func(d *database) { d.fail = failing(errSource) })
		require.NoError(t, c.Set(t.Context(), 3, 3))
		go func() { set <- c.Set(t.Context(), 4, 4) }()
		time.Sleep(time.Minute)
		var we *WriteError[int, int]
		require.ErrorAs(t, c.Close(t.Context()), &we)
		require.Equal(t, []Write[int, int]{{Key: 3, Value: 3}}, we.Writes)
		require.ErrorIs(t, <-set, ErrClosed)
	})
}

// A Store that calls runtime.Goexit.
func TestStoreGoexits(t *testing.T) {
	db := newDatabase()
	bubble(t, behind(db, BatchConfig{Delay: 1}), func(t *testing.T, c *Cache[int, int]) {
		first := true
		db.set(func(d *database) {
			d.fail = func([]Write[int, int]) error {
				if first {
					first = false
					runtime.Goexit()
				}
				return nil
			}
		})
		require.NoError(t, c.Set(t.Context(), 1, 1))
		time.Sleep(time.Minute)
		require.Equal(t, map[int]int{1: 1}, db.all())
	})
}

// Flush is for what was acknowledged before it, in this or a later version, or an error; and each of
// several is.
func TestFlushTellsTheTruth(t *testing.T) {
	db := newDatabase()
	bubble(t, behind(db, BatchConfig{Retries: 1}), func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.fail, d.took = failing(errSource), time.Second })
		require.NoError(t, c.Set(t.Context(), 1, 1))
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- c.Flush(t.Context()) }()
		}
		time.Sleep(1500 * time.Millisecond) // the second attempt is under way
		require.NoError(t, c.Set(t.Context(), 1, 2))
		for range 2 {
			var we *WriteError[int, int]
			require.ErrorAs(t, <-errs, &we)
			require.Equal(t, []Write[int, int]{{Key: 1, Value: 2}}, we.Writes)
		}
		require.Zero(t, c.Stats().Queued)
	})
	// OnWriteError comes before the end of it.
	told := false
	config := behind(db, BatchConfig{Retries: 1})
	config.OnWriteError = func([]Write[int, int], error) { time.Sleep(time.Second); told = true }
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 1))
		require.NoError(t, c.Flush(t.Context()))
		require.True(t, told)
	})
}

// A key that is not equal to itself cannot be locked, or waited for.
func TestNaNElsewhere(t *testing.T) {
	c, err := New(Config[float64, int]{Capacity: 10, Loader: func(context.Context, float64) (Entry[int], error) { return Entry[int]{Value: 1}, nil }, Store: nanStore{}})
	require.NoError(t, err)
	defer c.Close(t.Context())
	nan := math.NaN()
	require.ErrorIs(t, c.Set(t.Context(), nan, 1), ErrKey)
	require.ErrorIs(t, c.Delete(t.Context(), nan), ErrKey)
	_, err = c.GetOrLoad(t.Context(), nan)
	require.ErrorIs(t, err, ErrKey)
	require.ErrorIs(t, c.Refresh(t.Context(), nan), ErrKey)
	m, err := c.GetOrLoadAll(t.Context(), []float64{nan, 2, nan})
	require.ErrorIs(t, err, ErrKey)
	require.Equal(t, map[float64]int{2: 1}, m)
	_, _, err = c.SetIfAbsent(t.Context(), nan, 1)
	require.ErrorIs(t, err, ErrKey)
}

type nanStore struct{}

func (nanStore) Write(context.Context, []Write[float64, int]) error { return nil }

// Delete forgets that a key does not exist: cache-aside, where the row was inserted.
func TestDeleteForgets(t *testing.T) {
	db := newDatabase()
	bubble(t, Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: db.load}, func(t *testing.T, c *Cache[int, int]) {
		for k, forget := range []func(k int){
			func(k int) { require.NoError(t, c.Delete(t.Context(), k)) },
			func(k int) { c.Invalidate(k) },
			func(k int) {
				_, _, err := c.Compute(t.Context(), k, func(int, bool) (int, Op) { return 0, OpDelete })
				require.NoError(t, err)
			},
		} {
			_, err := c.GetOrLoad(t.Context(), k)
			require.ErrorIs(t, err, ErrNotFound)
			db.set(func(d *database) { d.rows[k] = 5 })
			forget(k)
			want(t, c, k, 5)
		}
	})
}

// The hooks run when the key is unlocked: they may use it.
func TestHooksAndKeyLocks(t *testing.T) {
	next := newShelf()
	next.took = time.Millisecond
	var c *Cache[int, int]
	var mu sync.Mutex
	var errs []error
	hook := func(k, _ int, cause Cause) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		var err error
		if cause == Evicted {
			err = c.Delete(ctx, k)
		} else if _, err = c.GetOrLoad(ctx, k); errors.Is(err, ErrNotFound) {
			err = nil
		}
		if err != nil {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		}
	}
	bubble(t, Config[int, int]{Capacity: 1, Shards: 1, TTL: time.Hour, Next: next, OnRemove: hook}, func(t *testing.T, cache *Cache[int, int]) {
		c = cache
		var wg sync.WaitGroup
		for g := range 3 {
			wg.Go(func() {
				for range 50 {
					_ = c.Set(t.Context(), g, g)
					_, _ = c.GetOrLoad(t.Context(), (g+1)%3)
					if g == 0 {
						_ = c.Delete(t.Context(), 1)
					}
				}
			})
		}
		wg.Wait()
		require.Empty(t, errs)
	})
}

// What may be outdated in the second level, although no call to it has failed.
func TestTierOutdated(t *testing.T) {
	// A load finds that the key does not exist, or is not to be kept.
	src, next := newSource(), newShelf()
	bubble(t, Config[int, int]{TTL: time.Hour, NegativeTTL: time.Minute, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		for k, change := range []func(s *source){
			func(s *source) { s.absent = func(int) bool { return true } },
			func(s *source) { s.absent, s.ttl = nil, -1 },
		} {
			want(t, c, k, k)
			src.set(change)
			_ = c.Refresh(t.Context(), k)
			_, ok := next.has(k)
			require.False(t, ok)
			src.set(func(s *source) { s.absent, s.ttl = nil, 0 })
		}
	})
	// The Store panics after its commit.
	db := newDatabase()
	db.rows[1] = 1
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: db.load, Store: panicking{db}, WriteMode: WriteThrough, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		next.set(func(s *shelf) { s.values = map[int]shelved{} })
		want(t, c, 1, 1)
		require.Panics(t, func() { _ = c.Delete(t.Context(), 1) })
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
	})
	// Another process loads a row that WriteBehind has not deleted yet.
	config := behind(db, BatchConfig{Delay: time.Second})
	config.Next = next
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.rows[1] = 1 })
		require.NoError(t, c.Delete(t.Context(), 1))
		require.NoError(t, next.Set(t.Context(), 1, 1, time.Hour)) // the other
		require.NoError(t, c.Flush(t.Context()))
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		synctest.Wait()
		_, ok := next.has(1)
		require.False(t, ok)
	})
	// A write is given up while it is still on its way to the second level.
	config = behind(db, BatchConfig{Delay: 1, Retries: 1, MaxBackoff: 50 * time.Millisecond})
	config.Next = next
	config.OnWriteError = func([]Write[int, int], error) {}
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.rows[1], d.fail = 1, failing(errSource) })
		next.set(func(s *shelf) { s.took = time.Second })
		go c.Set(t.Context(), 1, 2)
		time.Sleep(time.Minute)
		next.set(func(s *shelf) { s.took = 0 })
		want(t, c, 1, 1)
	})
}

type panicking struct{ *database }

func (p panicking) Write(ctx context.Context, batch []Write[int, int]) error {
	_ = p.database.Write(ctx, batch)
	panic("after the commit")
}

// A Tier that calls runtime.Goexit, or that hangs when Close has little time.
func TestStrangeTiers(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{BulkLoader: src.bulk, Next: goexiting{newShelf()}}, func(t *testing.T, c *Cache[int, int]) {
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = c.GetOrLoadAll(t.Context(), []int{1, 2})
			returned = true
		})
		wg.Wait()
		require.False(t, returned)
	})
	bubble(t, Config[int, int]{Next: hanging{newShelf()}}, func(t *testing.T, c *Cache[int, int]) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, c.Delete(ctx, 1))
		time.Sleep(10 * time.Millisecond)
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.Error(t, c.Close(ctx))
		require.Equal(t, 10*time.Millisecond, time.Since(start))
	})
}

type goexiting struct{ *shelf }

func (goexiting) Get(context.Context, int) (int, time.Duration, bool, error) {
	runtime.Goexit()
	return 0, 0, false, nil
}

type hanging struct{ *shelf }

func (hanging) Delete(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }

// A leasing shelf is one that several processes share.
type leasing struct {
	*shelf
	leases map[int]bool
}

func (l leasing) GetLease(ctx context.Context, k int, always bool) (v int, remaining time.Duration, ok bool, lease string, err error) {
	v, remaining, ok, err = l.Get(ctx, k)
	if err == nil && (always || !ok) {
		l.set(func(*shelf) { l.leases[k] = true })
		lease = "lease"
	}
	return v, remaining, ok, lease, err
}

func (l leasing) Fill(ctx context.Context, k, v int, ttl time.Duration, lease string) (filled bool, err error) {
	l.set(func(*shelf) { filled = l.leases[k] && lease != "" })
	if filled {
		err = l.Set(ctx, k, v, ttl)
	}
	return filled, err
}

func (l leasing) Set(ctx context.Context, k, v int, ttl time.Duration) error {
	l.set(func(*shelf) { delete(l.leases, k) })
	return l.shelf.Set(ctx, k, v, ttl)
}

func (l leasing) Delete(ctx context.Context, k int) error {
	l.set(func(*shelf) { delete(l.leases, k) })
	return l.shelf.Delete(ctx, k)
}

// With leases, what one process has loaded does not come to the second level after another has
// deleted it, and is not kept by the first either.
func TestLeases(t *testing.T) {
	next := leasing{newShelf(), map[int]bool{}}
	src := newSource()
	config := Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: src.load, BulkLoader: src.bulk, Next: next}
	bubble(t, config, func(t *testing.T, a *Cache[int, int]) {
		config.Capacity = 100
		b, err := New(config)
		require.NoError(t, err)
		defer b.Close(context.Background())
		want(t, a, 1, 1)
		v, ok := next.has(1)
		require.True(t, ok)
		require.Equal(t, 1, v)
		require.NoError(t, a.Delete(t.Context(), 1))

		src.set(func(s *source) { s.took = time.Second })
		for _, load := range []func(){
			func() { _, _ = b.GetOrLoad(t.Context(), 1) },
			func() { _, _ = b.GetOrLoadAll(t.Context(), []int{1, 2}) },
			func() { _ = b.Refresh(t.Context(), 1) },
		} {
			b.Invalidate(1)
			b.Invalidate(2)
			done := make(chan bool)
			go func() { load(); close(done) }()
			time.Sleep(time.Second / 2)
			require.NoError(t, a.Delete(t.Context(), 1))
			<-done
			_, ok = next.has(1)
			require.False(t, ok)
			require.False(t, b.Contains(1))
		}
		// Without anybody in the way, each of them fills it.
		require.NoError(t, b.Refresh(t.Context(), 1))
		_, ok = next.has(1)
		require.True(t, ok)
		require.True(t, b.Contains(1))

		// While it is down there are no leases; what must be written is then to be invalidated.
		next.set(func(s *shelf) { s.down = true })
		require.NoError(t, b.Refresh(t.Context(), 1))
		require.Equal(t, 1, b.Stats().TierBacklog)
		require.True(t, b.Contains(1))
		synctest.Wait() // until it has been tried in vain
		next.set(func(s *shelf) { s.down = false })
		b.Invalidate(1)
		_, err = b.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		require.Zero(t, b.Stats().TierBacklog, "a suspect is not read, but filled with a lease")
		require.EqualValues(t, 1, b.Stats().TierBypass)
	})
}

// Flush tells of the last write of a key, and of none that was made after all.
func TestFlushAndLaterAttempts(t *testing.T) {
	// slow makes the write of key 2 take long, and that of key 1 fail as long as down says.
	slow := func(db *database, down func() bool) {
		db.set(func(d *database) {
			d.rows = map[int]int{}
			d.fail = func(batch []Write[int, int]) error {
				for _, w := range batch {
					if w.Key == 2 {
						time.Sleep(5 * time.Second)
					} else if down() {
						return errSource
					}
				}
				return nil
			}
		})
	}
	db := newDatabase()
	batch := BatchConfig{Size: 1, Workers: 2, Retries: 1, Delay: 1}
	bubble(t, behind(db, batch), func(t *testing.T, c *Cache[int, int]) {
		slow(db, func() bool { return true })
		require.NoError(t, c.Set(t.Context(), 2, 2))
		require.NoError(t, c.Set(t.Context(), 1, 10))
		go func() {
			time.Sleep(time.Second)
			_ = c.Set(t.Context(), 1, 11)
		}()
		var we *WriteError[int, int]
		require.ErrorAs(t, c.Flush(t.Context()), &we)
		require.Equal(t, []Write[int, int]{{Key: 1, Value: 11}}, we.Writes)
		require.Zero(t, c.Stats().Queued)
		require.NoError(t, c.Close(t.Context()))
	})
	bubble(t, behind(db, batch), func(t *testing.T, c *Cache[int, int]) {
		var up atomic.Bool
		slow(db, func() bool { return !up.Load() })
		require.NoError(t, c.Set(t.Context(), 2, 2))
		require.NoError(t, c.Set(t.Context(), 1, 10))
		go func() {
			time.Sleep(time.Second)
			up.Store(true)
			_ = c.Flush(t.Context()) // has it tried again
		}()
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, map[int]int{1: 10, 2: 2}, db.all())
		require.True(t, c.Contains(1))
	})
	// Many keys that are ready do not keep those that were given up from being tried again.
	bubble(t, behind(db, BatchConfig{Delay: time.Millisecond, Retries: 1}), func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) {
			d.took = 10 * time.Millisecond
			d.fail = func(batch []Write[int, int]) error {
				for _, w := range batch {
					if w.Key == 1 {
						return errSource
					}
				}
				return nil
			}
		})
		require.NoError(t, c.Set(t.Context(), 1, 10))
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for k := 100; ctx.Err() == nil; k++ {
				time.Sleep(5 * time.Millisecond)
				_ = c.Set(t.Context(), 100+k%500, 1)
			}
		}()
		var we *WriteError[int, int]
		start := time.Now()
		require.ErrorAs(t, c.Flush(t.Context()), &we)
		require.Less(t, time.Since(start), time.Second)
		cancel()
		time.Sleep(time.Second)
	})
}

// Close that ends while writes are tried for the last time returns all of them, once, in one error.
func TestCloseBesideRevival(t *testing.T) {
	for d := time.Second; d < 2*time.Second; d += 50 * time.Millisecond {
		db := newDatabase()
		bubble(t, behind(db, BatchConfig{Size: 1, Workers: 2, Retries: 1, Delay: 1, MaxBackoff: time.Second}), func(t *testing.T, c *Cache[int, int]) {
			db.set(func(db *database) {
				db.fail = func(batch []Write[int, int]) error {
					if batch[0].Key == 1 {
						time.Sleep(100 * time.Millisecond)
					} else {
						time.Sleep(d)
					}
					return errSource
				}
			})
			require.NoError(t, c.Set(t.Context(), 1, 1))
			require.NoError(t, c.Set(t.Context(), 2, 2))
			var we *WriteError[int, int]
			require.ErrorAs(t, c.Close(t.Context()), &we)
			require.ElementsMatch(t, []Write[int, int]{{Key: 1, Value: 1}, {Key: 2, Value: 2}}, we.Writes)
			require.ErrorIs(t, we, errSource)
		})
	}
}

// A Tier that hangs, with no room to remember what it does not do, keeps neither the writer nor
// Close for ever.
func TestTierHangsWhileWriting(t *testing.T) {
	db := newDatabase()
	config := behind(db, BatchConfig{Delay: 1})
	config.Next, config.TierBacklog = hanging{newShelf()}, 1
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		for k := range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_ = c.Delete(ctx, k)
			cancel()
		}
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Set(t.Context(), 9, 9))
		time.Sleep(time.Minute)
		require.Equal(t, map[int]int{9: 9}, db.all())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.Error(t, c.Close(ctx))
		require.LessOrEqual(t, time.Since(start), time.Second)
	})
}

// A load in the background, or a Refresh, whose lease is not good any more does not leave the old
// entry as it was, for good.
func TestLeaseGone(t *testing.T) {
	next := leasing{newShelf(), map[int]bool{}}
	src := newSource()
	config := Config[int, int]{TTL: time.Minute, StaleWhileRevalidate: time.Hour, RefreshAhead: 0.5, Loader: src.load, Next: next}
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		for version, ask := range []func(){
			func() { time.Sleep(50 * time.Second); _, _ = c.GetOrLoad(t.Context(), 1) },
			func() { go c.Refresh(t.Context(), 1) },
		} {
			_, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err)
			src.set(func(s *source) { s.took, s.version = time.Second, version+1 })
			ask()
			time.Sleep(time.Second / 2)
			next.set(func(*shelf) { delete(next.leases, 1); delete(next.values, 1) })
			time.Sleep(time.Second)
			v, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, 1000*(version+1)+1, v)
			require.True(t, c.Contains(1))
		}
	})
}

// While WriteBehind deletes rows one after the other, nobody finds in the second level what others
// have loaded before.
func TestDeletedInBatch(t *testing.T) {
	db, next := newDatabase(), newShelf()
	config := behind(db, BatchConfig{Delay: time.Second})
	config.Next, config.TierBacklog = next, 1
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		for k := range 4 {
			db.set(func(d *database) { d.rows[k] = 77 })
			require.NoError(t, c.Delete(t.Context(), k))
		}
		next.set(func(s *shelf) {
			for k := range 4 {
				s.values[k] = shelved{value: 77}
			}
			s.took = 10 * time.Millisecond
		})
		for range 200 {
			for k := range 4 {
				go func() { _, _ = c.GetOrLoad(t.Context(), k) }()
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		for k := range 4 {
			require.False(t, c.Contains(k))
		}
	})
}

// The rest of what can go wrong with several keys at a time.
func TestManyGoWrong(t *testing.T) {
	// A Loader that calls runtime.Goexit for one of them.
	bubble(t, Config[int, int]{Loader: func(_ context.Context, k int) (Entry[int], error) {
		if k == 2 {
			runtime.Goexit()
		}
		return Entry[int]{Value: k}, nil
	}}, func(t *testing.T, c *Cache[int, int]) {
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
			returned = true
		})
		wg.Wait()
		require.False(t, returned)
		require.True(t, c.Contains(1))
	})
	// A Tier that panics, and one that does not answer to a Set: who loads the key does not wait.
	src := newSource()
	bubble(t, Config[int, int]{BulkLoader: src.bulk, Next: panickingTier{newShelf()}}, func(t *testing.T, c *Cache[int, int]) {
		require.Panics(t, func() { _, _ = c.GetOrLoadAll(t.Context(), []int{1, 2, 3}) })
	})
	next := newShelf()
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		next.set(func(s *shelf) { s.took = time.Hour })
		go c.Set(t.Context(), 1, 5) // has the lock of the key
		synctest.Wait()
		next.set(func(s *shelf) { s.took = 0 })
		want(t, c, 1, 1)
		require.False(t, c.Contains(1), "it is not kept: it may be older than what is being set")
		time.Sleep(time.Hour / 2)
		want(t, c, 1, 1)
	})
	// Keys that are not equal to themselves.
	c, err := New(Config[float64, int]{Capacity: 10, BulkLoader: func(_ context.Context, keys []float64) (map[float64]Entry[int], error) {
		return map[float64]Entry[int]{2: {Value: 1}}, nil
	}})
	require.NoError(t, err)
	m, err := c.GetOrLoadAll(t.Context(), []float64{math.NaN(), 2})
	require.ErrorIs(t, err, ErrKey)
	require.Equal(t, map[float64]int{2: 1}, m)
	require.NoError(t, c.Close(t.Context()))
}

type panickingTier struct{ *shelf }

func (panickingTier) Get(context.Context, int) (int, time.Duration, bool, error) { panic("tier") }
