package ttlcache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errTier = errors.New("the tier is down")

// A shelf is a Tier in memory that can fail: before it does what it is asked for, or, with
// after set, when it has done it.
type shelf struct {
	mu     sync.Mutex
	values map[int]shelved
	took   time.Duration
	down   bool
	after  bool
	gets   int
	subs   []func(int)
	clears []func()
}

type shelved struct {
	value int
	until time.Time // zero: for ever
}

func newShelf() *shelf { return &shelf{values: map[int]shelved{}} }

// do calls f, if the shelf is not down, after the time that it takes.
func (s *shelf) do(ctx context.Context, f func()) error {
	s.mu.Lock()
	took := s.took
	s.mu.Unlock()
	if took > 0 {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down && !s.after {
		return errTier
	}
	f()
	if s.down {
		return errTier
	}
	return nil
}

func (s *shelf) Get(ctx context.Context, k int) (v int, remaining time.Duration, ok bool, err error) {
	err = s.do(ctx, func() {
		s.gets++
		e, there := s.values[k]
		if !there || !e.until.IsZero() && time.Until(e.until) <= 0 {
			return
		}
		v, remaining, ok = e.value, Forever, true
		if !e.until.IsZero() {
			remaining = time.Until(e.until)
		}
	})
	return v, remaining, ok, err
}

func (s *shelf) Set(ctx context.Context, k, v int, ttl time.Duration) error {
	return s.do(ctx, func() {
		e := shelved{value: v}
		if ttl != Forever {
			e.until = time.Now().Add(ttl)
		}
		s.values[k] = e
	})
}

func (s *shelf) Delete(ctx context.Context, k int) error {
	return s.do(ctx, func() { delete(s.values, k) })
}

func (s *shelf) set(f func(s *shelf)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *shelf) has(k int) (v int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.values[k]
	return e.value, ok
}

// a line is a shelf that tells of changes.
type line struct{ *shelf }

func (l line) Subscribe(invalidate func(int), clear func()) func() {
	l.subs = append(l.subs, invalidate)
	l.clears = append(l.clears, clear)
	return func() { l.subs, l.clears = nil, nil }
}

func TestTier(t *testing.T) {
	src, next := newSource(), newShelf()
	bubble(t, Config[int, int]{TTL: time.Minute, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		ctx := t.Context()
		want(t, c, 1, 1)
		v, ok := next.has(1)
		require.True(t, ok, "it is filled by a load")
		require.Equal(t, 1, v)

		time.Sleep(20 * time.Second)
		c.Clear()
		want(t, c, 1, 1)
		require.Equal(t, 1, src.count(1), "it is read from there")
		_, _, remaining := c.Lookup(1)
		require.Equal(t, 40*time.Second, remaining, "for as long as it is fresh there")

		require.NoError(t, c.Set(ctx, 1, 5))
		require.NoError(t, c.SetTTL(ctx, 2, 6, Forever))
		c.Clear()
		want(t, c, 1, 5)
		want(t, c, 2, 6)
		_, _, remaining = c.Lookup(2)
		require.Equal(t, Forever, remaining)
		require.NoError(t, c.Delete(ctx, 1))
		_, ok = next.has(1)
		require.False(t, ok)
		want(t, c, 1, 1)

		src.set(func(s *source) { s.version = 1 })
		require.NoError(t, c.Refresh(ctx, 1), "it does not ask there")
		v, _ = next.has(1)
		require.Equal(t, 1001, v)

		m, err := c.GetOrLoadAll(ctx, []int{1, 2, 3, 4})
		require.NoError(t, err)
		require.Equal(t, map[int]int{1: 1001, 2: 6, 3: 1003, 4: 1004}, m)
		v, _ = next.has(4)
		require.Equal(t, 1004, v)
		c.Invalidate(1)
		v, ok = next.has(1)
		require.True(t, ok, "that is this level's alone")
		require.Equal(t, 1001, v)
		v, ok, err = c.Compute(ctx, 1, func(old int, ok bool) (int, Op) { require.False(t, ok); return 9, OpSet })
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, 9, v)
		v, _ = next.has(1)
		require.Equal(t, 9, v)
		st := c.Stats()
		require.Equal(t, []uint64{3, 4, 0}, []uint64{st.TierHits, st.TierMisses, st.TierErrors})
	})
}

// With BulkLoader, only the keys that are not in the second level are loaded.
func TestTierBulk(t *testing.T) {
	src, next := newSource(), newShelf()
	bubble(t, Config[int, int]{TTL: time.Minute, BulkLoader: src.bulk, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		next.set(func(s *shelf) { s.values[2] = shelved{value: 20}; s.took = time.Millisecond })
		start := time.Now()
		m, err := c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Equal(t, map[int]int{1: 1, 2: 20, 3: 3}, m)
		require.Equal(t, [][]int{{1, 3}}, src.batches)
		require.Equal(t, 2*time.Millisecond, time.Since(start), "the second level is asked side by side")
		require.Equal(t, map[int]int{1: 1, 2: 20, 3: 3}, m)
		v, _ := next.has(3)
		require.Equal(t, 3, v)
	})
}

// There may be nothing but the second level.
func TestTierAlone(t *testing.T) {
	next := newShelf()
	bubble(t, Config[int, int]{TTL: time.Minute, NegativeTTL: time.Minute, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		next.set(func(s *shelf) { s.values[1] = shelved{value: 10}; s.down = true })
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, errTier)
		require.NotErrorIs(t, err, ErrNotFound, "nobody knows")
		next.set(func(s *shelf) { s.down = false })
		want(t, c, 1, 10)
		_, err = c.GetOrLoad(t.Context(), 2)
		require.ErrorIs(t, err, ErrNotFound)
		_, state, _ := c.Lookup(2)
		require.Equal(t, Negative, state)
		m, err := c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Equal(t, map[int]int{1: 10}, m)
	})
}

// A second level that fails is as if it had nothing.
func TestTierDown(t *testing.T) {
	src, next := newSource(), newShelf()
	bubble(t, Config[int, int]{TTL: time.Minute, Loader: src.load, BulkLoader: src.bulk, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		next.set(func(s *shelf) { s.down = true })
		want(t, c, 1, 1)
		m, err := c.GetOrLoadAll(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Len(t, m, 3)
		require.EqualValues(t, 6, c.Stats().TierErrors)
		require.Zero(t, c.Stats().TierBacklog, "reads do not use up the backlog")
	})
}

// What was deleted while the second level was down does not come back.
func TestTierDeletedStaysDeleted(t *testing.T) {
	for _, after := range []bool{false, true} {
		src, next := newSource(), newShelf()
		bubble(t, Config[int, int]{TTL: time.Hour, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
			ctx := t.Context()
			want(t, c, 1, 1)
			want(t, c, 2, 2)
			want(t, c, 3, 3)
			src.set(func(s *source) { s.version = 1; s.absent = func(k int) bool { return k == 1 } })
			next.set(func(s *shelf) { s.down, s.after = true, after })
			require.NoError(t, c.Delete(ctx, 1))
			require.NoError(t, c.Set(ctx, 2, 22))
			require.NoError(t, c.Refresh(ctx, 3))
			require.Equal(t, 3, c.Stats().TierBacklog)
			synctest.Wait() // until it has been tried in vain
			next.set(func(s *shelf) { s.values = map[int]shelved{1: {value: 1}, 2: {value: 2}, 3: {value: 3}} })
			gets := next.gets
			next.set(func(s *shelf) { s.down = false })
			c.Clear()
			_, err := c.GetOrLoad(ctx, 1)
			require.ErrorIs(t, err, ErrNotFound, "the old value is there, but is not asked for")
			require.Equal(t, gets, next.gets)
			want(t, c, 2, 1002)
			want(t, c, 3, 1003)
			require.EqualValues(t, 3, c.Stats().TierBypass)
			require.Zero(t, c.Stats().TierBacklog, "what was loaded has been put there, and what does not exist removed")
			_, ok := next.has(1)
			require.False(t, ok)
		})
	}
}

// A Tier that is down for long: attempts become rare, but go on; Close tells what is left.
func TestTierDownForLong(t *testing.T) {
	next := newShelf()
	bubble(t, Config[int, int]{TTL: time.Hour, Next: next, TierBacklog: 10}, func(t *testing.T, c *Cache[int, int]) {
		ctx := t.Context()
		next.set(func(s *shelf) {
			for k := range 20 {
				s.values[k] = shelved{value: k}
			}
			s.down = true
		})
		for k := range 10 {
			require.NoError(t, c.Delete(ctx, k))
		}
		require.NoError(t, c.Delete(ctx, 0), "it is known already")
		require.ErrorIs(t, c.Delete(ctx, 10), errTier, "there is no more room to remember")
		require.ErrorIs(t, c.Set(ctx, 11, 1), errTier)
		require.False(t, c.Contains(11))
		errs := c.Stats().TierErrors
		time.Sleep(time.Hour)
		n := c.Stats().TierErrors - errs
		require.Greater(t, n, uint64(3*600))
		require.Less(t, n, uint64(3*800))
		next.set(func(s *shelf) { s.down = false })
		time.Sleep(mendLast)
		synctest.Wait()
		require.Zero(t, c.Stats().TierBacklog)
		require.Len(t, next.values, 10)

		next.set(func(s *shelf) { s.down = true })
		require.NoError(t, c.Delete(ctx, 12))
		require.NoError(t, c.Delete(ctx, 13))
		err := c.Close(ctx)
		var ie *InvalidationError[int]
		require.ErrorAs(t, err, &ie)
		require.ErrorIs(t, err, errTier)
		require.ElementsMatch(t, []int{12, 13}, ie.Keys)
		require.Contains(t, err.Error(), "2 keys")
	})
	// One that comes back at the last moment.
	bubble(t, Config[int, int]{TTL: time.Hour, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Delete(t.Context(), 12))
		synctest.Wait()
		next.set(func(s *shelf) { s.down = false })
		require.NoError(t, c.Close(t.Context()))
		_, ok := next.has(12)
		require.False(t, ok)
	})
}

// Loads, and fills of the second level, that began before a Delete do not survive it, however
// long each step takes.
func TestTierRaces(t *testing.T) {
	for seed := range uint64(100) {
		src, next := newSource(), newShelf()
		rng := rand.New(rand.NewPCG(seed, 0))
		bubble(t, Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
			src.set(func(s *source) { s.took = time.Duration(rng.IntN(3)) * time.Millisecond })
			next.set(func(s *shelf) { s.took = time.Duration(1+rng.IntN(5)) * time.Millisecond })
			var wg sync.WaitGroup
			for range 5 {
				at := time.Duration(rng.IntN(20)) * time.Millisecond
				wg.Go(func() {
					time.Sleep(at)
					_, _ = c.GetOrLoad(t.Context(), 1)
				})
			}
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			// The record changes, and then the cache is told.
			src.set(func(s *source) { s.version = 1 })
			require.NoError(t, c.Delete(t.Context(), 1))
			for range 5 {
				v, err := c.GetOrLoad(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, 1001, v, "seed %d", seed)
				c.Invalidate(1)
			}
			wg.Wait()
			v, err := c.GetOrLoad(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, 1001, v, "seed %d", seed)
		})
	}
}

// A load in the background takes what another process has loaded, if that is newer.
func TestTierRefreshedElsewhere(t *testing.T) {
	src, next := newSource(), newShelf()
	bubble(t, Config[int, int]{TTL: 100 * time.Second, RefreshAhead: 0.5, StaleWhileRevalidate: 100 * time.Second, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		time.Sleep(60 * time.Second)
		want(t, c, 1, 1)
		require.Equal(t, 2, src.count(1), "what is there is no newer")

		time.Sleep(60 * time.Second)
		next.set(func(s *shelf) { s.values[1] = shelved{77, time.Now().Add(90 * time.Second)} })
		want(t, c, 1, 1)
		want(t, c, 1, 77)
		require.Equal(t, 2, src.count(1))
		_, _, remaining := c.Lookup(1)
		require.Equal(t, 90*time.Second, remaining)

		time.Sleep(100 * time.Second) // it is stale
		next.set(func(s *shelf) { s.values[1] = shelved{78, time.Now().Add(90 * time.Second)} })
		want(t, c, 1, 77)
		want(t, c, 1, 78)
		require.Equal(t, 2, src.count(1))
	})
}

func TestInvalidator(t *testing.T) {
	src, next := newSource(), line{newShelf()}
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: src.load, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		want(t, c, 2, 2)
		next.set(func(s *shelf) { s.values[1] = shelved{value: 50} })
		next.subs[0](1)
		want(t, c, 1, 50)
		next.clears[0]()
		require.Zero(t, c.Len())
		require.NoError(t, c.Close(t.Context()))
		require.Empty(t, next.subs)
	})
}

// The message of another's change may come before Set has set here what it has written there.
func TestInvalidatedWhileWriting(t *testing.T) {
	next := line{newShelf()}
	for _, all := range []bool{false, true} {
		bubble(t, Config[int, int]{TTL: time.Hour, Next: next}, func(t *testing.T, c *Cache[int, int]) {
			next.set(func(s *shelf) { s.took = time.Second })
			go func() {
				time.Sleep(time.Second / 2)
				if all {
					next.clears[0]()
				} else {
					next.subs[0](1)
				}
			}()
			require.NoError(t, c.Set(t.Context(), 1, 1))
			require.False(t, c.Contains(1))
			require.NoError(t, c.Set(t.Context(), 1, 2))
			require.True(t, c.Contains(1))
			require.Empty(t, c.of(c.hash(1)).writes)
		})
	}
}

// MaxLifetime bounds what comes from the second level, too; and a Tier need not know how long.
func TestTierLifetimes(t *testing.T) {
	next := newShelf()
	for _, sliding := range []bool{false, true} {
		bubble(t, Config[int, int]{TTL: time.Minute, MaxLifetime: 2 * time.Minute, Sliding: sliding, Next: next}, func(t *testing.T, c *Cache[int, int]) {
			next.set(func(s *shelf) { s.values[1] = shelved{value: 1} })
			want(t, c, 1, 1)
			_, _, remaining := c.Lookup(1)
			require.Equal(t, 2*time.Minute, remaining)
		})
	}
	bubble(t, Config[int, int]{TTL: time.Minute, Next: unknowing{next}}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		_, _, remaining := c.Lookup(1)
		require.Equal(t, time.Minute, remaining)
	})
}

type unknowing struct{ *shelf }

func (u unknowing) Get(ctx context.Context, k int) (int, time.Duration, bool, error) {
	v, _, ok, err := u.shelf.Get(ctx, k)
	return v, 0, ok, err
}

// Store and second level together: a failure of the Store invalidates both.
func TestStoreAndTier(t *testing.T) {
	db, next := newDatabase(), newShelf()
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: db.load, Store: db, WriteMode: WriteThrough, Next: next, TierBacklog: 1}, func(t *testing.T, c *Cache[int, int]) {
		ctx := t.Context()
		require.NoError(t, c.Set(ctx, 1, 5))
		v, _ := next.has(1)
		require.Equal(t, 5, v)
		db.set(func(d *database) { d.fail = failing(errSource) })
		require.ErrorIs(t, c.Set(ctx, 1, 6), errSource)
		_, ok := next.has(1)
		require.False(t, ok)
		require.False(t, c.Contains(1))
		want(t, c, 1, 5)

		next.set(func(s *shelf) { s.down = true })
		require.ErrorIs(t, c.Set(ctx, 1, 6), errSource)
		err := c.Set(ctx, 2, 6)
		require.ErrorIs(t, err, errSource)
		require.ErrorIs(t, err, errTier)
		next.set(func(s *shelf) { s.down = false })
		want(t, c, 1, 5)
	})
	// WriteAround removes what the second level has.
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: db.load, Store: db, Next: next}, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.fail = nil })
		want(t, c, 1, 5)
		require.NoError(t, c.Set(t.Context(), 1, 7))
		_, ok := next.has(1)
		require.False(t, ok)
		want(t, c, 1, 7)
	})
	// WriteBehind that gives up.
	config := behind(db, BatchConfig{Delay: 1, Retries: 1})
	config.Next = next
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.fail = failing(errSource) })
		require.NoError(t, c.Set(t.Context(), 1, 8))
		v, _ := next.has(1)
		require.Equal(t, 8, v)
		require.ErrorIs(t, c.Flush(t.Context()), errSource)
		synctest.Wait()
		_, ok := next.has(1)
		require.False(t, ok)
		want(t, c, 1, 7)
	})
}
