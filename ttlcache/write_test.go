package ttlcache

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A database is a Store, and can load.
type database struct {
	mu      sync.Mutex
	rows    map[int]int
	batches [][]Write[int, int]
	took    time.Duration
	fail    func(batch []Write[int, int]) error // before anything is written
	half    bool                                // a batch that fails is half written
	active  map[int]bool                        // keys that are being written
	overlap bool                                // a key was written twice at one time
}

func newDatabase() *database { return &database{rows: map[int]int{}, active: map[int]bool{}} }

func (d *database) Write(ctx context.Context, batch []Write[int, int]) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range batch {
		d.overlap = d.overlap || d.active[w.Key]
		d.active[w.Key] = true
	}
	whole := batch
	defer func() {
		for _, w := range whole {
			delete(d.active, w.Key)
		}
	}()
	d.batches = append(d.batches, slices.Clone(batch))
	took, fail := d.took, d.fail
	err := func() error {
		d.mu.Unlock()
		defer d.mu.Lock()
		if took > 0 {
			select {
			case <-time.After(took):
			case <-ctx.Done():
			}
		}
		if fail != nil {
			if err := fail(batch); err != nil {
				return err
			}
		}
		return ctx.Err()
	}()
	if err != nil {
		if d.half {
			batch = batch[:len(batch)/2]
		} else {
			return err
		}
	}
	for _, w := range batch {
		if w.Deleted {
			delete(d.rows, w.Key)
		} else {
			d.rows[w.Key] = w.Value
		}
	}
	return err
}

func (d *database) load(_ context.Context, k int) (Entry[int], error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.rows[k]
	if !ok {
		return Entry[int]{}, ErrNotFound
	}
	return Entry[int]{Value: v}, nil
}

func (d *database) set(f func(d *database)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *database) all() map[int]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.rows)
}

func failing(err error) func([]Write[int, int]) error {
	return func([]Write[int, int]) error { return err }
}

func TestWriteAround(t *testing.T) {
	db := newDatabase()
	bubble(t, Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: db.load, Store: db}, func(t *testing.T, c *Cache[int, int]) {
		_, err := c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, c.Set(t.Context(), 1, 5))
		require.Equal(t, map[int]int{1: 5}, db.all())
		_, ok := c.Get(1)
		require.False(t, ok)
		want(t, c, 1, 5)
		require.NoError(t, c.Set(t.Context(), 1, 6))
		want(t, c, 1, 6)
		v, loaded, err := c.SetIfAbsent(t.Context(), 2, 7)
		require.NoError(t, err)
		require.Equal(t, []any{7, false}, []any{v, loaded})
		require.NoError(t, c.Delete(t.Context(), 1))
		require.Equal(t, map[int]int{2: 7}, db.all())
		_, err = c.GetOrLoad(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		require.EqualValues(t, 4, c.Stats().Written)
	})
}

func TestWriteThrough(t *testing.T) {
	db := newDatabase()
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: db.load, Store: db, WriteMode: WriteThrough}, func(t *testing.T, c *Cache[int, int]) {
		ctx := t.Context()
		require.NoError(t, c.Set(ctx, 1, 5))
		require.NoError(t, c.SetTTL(ctx, 2, 6, time.Minute))
		require.Equal(t, map[int]int{1: 5, 2: 6}, db.all())
		v, ok := c.Get(1)
		require.True(t, ok)
		require.Equal(t, 5, v)
		_, _, remaining := c.Lookup(2)
		require.Equal(t, time.Minute, remaining)

		v, loaded, err := c.SetIfAbsent(ctx, 1, 7)
		require.NoError(t, err)
		require.Equal(t, []any{5, true}, []any{v, loaded})
		v, loaded, err = c.SetIfAbsent(ctx, 3, 7)
		require.NoError(t, err)
		require.Equal(t, []any{7, false}, []any{v, loaded})

		v, ok, err = c.Compute(ctx, 3, func(old int, ok bool) (int, Op) { require.True(t, ok); return old + 1, OpSet })
		require.NoError(t, err)
		require.Equal(t, []any{8, true}, []any{v, ok})
		v, ok, err = c.Compute(ctx, 3, func(old int, ok bool) (int, Op) { return 0, OpKeep })
		require.NoError(t, err)
		require.Equal(t, []any{8, true}, []any{v, ok})
		_, ok, err = c.Compute(ctx, 3, func(old int, ok bool) (int, Op) { return 0, OpDelete })
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, map[int]int{1: 5, 2: 6}, db.all())

		// A failure: the entry is invalidated, not left as it was.
		db.set(func(d *database) { d.fail = failing(errSource) })
		require.ErrorIs(t, c.Set(ctx, 1, 50), errSource)
		require.False(t, c.Contains(1))
		require.ErrorIs(t, c.Delete(ctx, 2), errSource)
		require.False(t, c.Contains(2))
		_, _, err = c.Compute(ctx, 9, func(int, bool) (int, Op) { return 1, OpSet })
		require.ErrorIs(t, err, errSource)
		_, _, err = c.SetIfAbsent(ctx, 9, 1)
		require.ErrorIs(t, err, errSource)
		require.False(t, c.Contains(9))
		want(t, c, 1, 5)
		want(t, c, 2, 6)
		require.EqualValues(t, 4, c.Stats().WriteErrors)

		// So is it if the Store panics, or the function that Compute is given does.
		db.set(func(d *database) { d.fail = func([]Write[int, int]) error { panic("boom") } })
		require.PanicsWithValue(t, "boom", func() { _ = c.Set(ctx, 1, 60) })
		require.False(t, c.Contains(1))
		db.set(func(d *database) { d.fail = nil })
		want(t, c, 1, 5)
		require.PanicsWithValue(t, "f", func() {
			_, _, _ = c.Compute(ctx, 1, func(int, bool) (int, Op) { panic("f") })
		})
		require.True(t, c.Contains(1))
		require.NoError(t, c.Set(ctx, 1, 61), "nothing is locked any more")
	})
}

// What the Store has and what the cache has come in the same order, and a load that began
// before a write, or during it, is not kept.
func TestWriteThroughOrder(t *testing.T) {
	db := newDatabase()
	db.took = time.Second
	bubble(t, Config[int, int]{TTL: time.Hour, Loader: db.load, Store: db, WriteMode: WriteThrough}, func(t *testing.T, c *Cache[int, int]) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := c.Set(t.Context(), 1, i); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() { _, _ = c.GetOrLoad(t.Context(), 1) })
		}
		wg.Wait()
		v, ok := c.Get(1)
		require.True(t, ok)
		require.Equal(t, db.all()[1], v)
		require.False(t, db.overlap)

		// Who waits for his turn may lose patience; then nothing was done.
		go c.Set(t.Context(), 1, 100)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Set(ctx, 1, 101), context.DeadlineExceeded)
		require.ErrorIs(t, c.Delete(ctx, 1), context.DeadlineExceeded)
		_, _, err := c.SetIfAbsent(ctx, 1, 101)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, c.Contains(1))
		time.Sleep(time.Minute)
		v, _ = c.Get(1)
		require.Equal(t, 100, v)
	})
}

func TestTooHeavy(t *testing.T) {
	heavy := func(_, v int) uint32 { return uint32(v) }
	bubble(t, Config[int, int]{Capacity: 10, Shards: 1, Weigher: heavy}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 10))
		require.ErrorIs(t, c.Set(t.Context(), 1, 11), ErrTooHeavy)
		require.False(t, c.Contains(1))
		_, _, err := c.SetIfAbsent(t.Context(), 1, 11)
		require.ErrorIs(t, err, ErrTooHeavy)
		require.EqualValues(t, 2, c.Stats().Refused)
	})
	db := newDatabase()
	bubble(t, Config[int, int]{Capacity: 10, Shards: 1, Weigher: heavy, Loader: db.load, Store: db, WriteMode: WriteThrough}, func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 11), "it was written")
		require.False(t, c.Contains(1))
		want(t, c, 1, 11)
	})
}

func behind(db *database, batch BatchConfig) Config[int, int] {
	return Config[int, int]{TTL: time.Hour, NegativeTTL: time.Hour, Loader: db.load, Store: db, WriteMode: WriteBehind, Batch: batch}
}

func TestWriteBehind(t *testing.T) {
	db := newDatabase()
	bubble(t, behind(db, BatchConfig{Size: 10, Delay: time.Second}), func(t *testing.T, c *Cache[int, int]) {
		ctx := t.Context()
		start := time.Now()
		for k := range 5 {
			require.NoError(t, c.Set(ctx, k, k))
		}
		for k := range 5 {
			require.NoError(t, c.Set(ctx, k, 10+k)) // instead
		}
		require.NoError(t, c.Delete(ctx, 0))
		synctest.Wait()
		require.Empty(t, db.all())
		require.Equal(t, 5, c.Stats().Queued)
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.Empty(t, db.all())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, map[int]int{1: 11, 2: 12, 3: 13, 4: 14}, db.all())
		require.Len(t, db.batches, 1)
		st := c.Stats()
		require.Equal(t, []uint64{5, 6}, []uint64{st.Written, st.Coalesced})
		require.Zero(t, st.Queued)

		// A batch that is full does not wait.
		for k := range 25 {
			require.NoError(t, c.Set(ctx, k, 20+k))
		}
		synctest.Wait()
		require.Len(t, db.all(), 20)
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, c.Flush(ctx))
		require.Equal(t, time.Second, time.Since(start), "nor does Flush")
		require.Len(t, db.all(), 25)
		require.NoError(t, c.Set(ctx, 1, 99))
		require.NoError(t, c.Close(ctx), "nor does Close")
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, 99, db.all()[1])
		require.NoError(t, c.Flush(ctx))
	})
}

// What is still in the queue is found even if the cache has evicted it.
func TestWriteBehindEvicted(t *testing.T) {
	db := newDatabase()
	config := behind(db, BatchConfig{Delay: time.Hour})
	config.Capacity, config.Shards = 2, 1
	bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.rows[5] = 1 })
		for k := range 10 {
			require.NoError(t, c.Set(t.Context(), k, 10+k))
		}
		require.NoError(t, c.Delete(t.Context(), 6))
		for k := range 10 {
			if k != 6 {
				want(t, c, k, 10+k)
			}
		}
		_, err := c.GetOrLoad(t.Context(), 6)
		require.ErrorIs(t, err, ErrNotFound)
		m, err := c.GetOrLoadAll(t.Context(), []int{5, 6, 7})
		require.NoError(t, err)
		require.Equal(t, map[int]int{5: 15, 7: 17}, m)
		require.Zero(t, c.Stats().Loads)
	})
	require.Equal(t, 15, db.all()[5])
	require.Len(t, db.all(), 9)
}

func TestWriteBehindRetries(t *testing.T) {
	db := newDatabase()
	bubble(t, behind(db, BatchConfig{Size: 4, Delay: 1, Retries: 5, Backoff: time.Second, MaxBackoff: 4 * time.Second}), func(t *testing.T, c *Cache[int, int]) {
		attempts := 0
		db.set(func(d *database) {
			d.half = true
			d.fail = func([]Write[int, int]) error {
				if attempts++; attempts <= 3 {
					return errSource
				}
				return nil
			}
		})
		for k := range 4 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		start := time.Now()
		for c.Stats().Queued > 0 {
			time.Sleep(time.Millisecond)
		}
		// 1, 2 and 4 seconds, each shortened by up to a half.
		require.GreaterOrEqual(t, time.Since(start), 7*time.Second/2)
		require.LessOrEqual(t, time.Since(start), 7*time.Second+10*time.Millisecond)
		require.Len(t, db.all(), 4)
		require.EqualValues(t, 3, c.Stats().Retries)
	})
}

// One write that the Store cannot take does not spoil the others of its batch.
func TestWriteBehindPoison(t *testing.T) {
	db := newDatabase()
	poison := func(batch []Write[int, int]) error {
		for _, w := range batch {
			if w.Key == 13 || w.Key == 14 {
				return errSource
			}
		}
		return nil
	}
	var told []Write[int, int]
	for _, hook := range []bool{false, true} {
		config := behind(db, BatchConfig{Size: 50, Delay: 1, Retries: 1, Backoff: 1})
		if hook {
			config.OnWriteError = func(writes []Write[int, int], err error) {
				if !errors.Is(err, errSource) {
					t.Errorf("got %v", err)
				}
				told = append(told, writes...)
			}
		}
		bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
			db.set(func(d *database) { d.rows = map[int]int{13: 1}; d.fail = poison })
			for k := range 50 {
				require.NoError(t, c.Set(t.Context(), k, 100+k))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Len(t, db.all(), 49)
			failed := []Write[int, int]{{Key: 13, Value: 113}, {Key: 14, Value: 114}}
			if hook {
				require.ElementsMatch(t, failed, told)
				want(t, c, 13, 1) // the cache has what the Store has
				_, err := c.GetOrLoad(t.Context(), 14)
				require.ErrorIs(t, err, ErrNotFound)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 2, c.Stats().WriteErrors)
				return
			}
			require.Equal(t, 2, c.Stats().Queued)
			want(t, c, 13, 113) // it was acknowledged, and nobody was told
			err := c.Flush(t.Context())
			var we *WriteError[int, int]
			require.ErrorAs(t, err, &we)
			require.ErrorIs(t, err, errSource)
			require.ElementsMatch(t, failed, we.Writes)
			require.Contains(t, err.Error(), "2 writes")
			want(t, c, 13, 1)
			require.NoError(t, c.Flush(t.Context()), "it was told once")

			// A later write of the key is a new chance.
			require.NoError(t, c.Set(t.Context(), 14, 5))
			time.Sleep(time.Minute)
			require.Equal(t, 1, c.Stats().Queued)
			db.set(func(d *database) { d.fail = nil })
			require.NoError(t, c.Set(t.Context(), 14, 6))
			time.Sleep(time.Minute)
			require.Zero(t, c.Stats().Queued)
			require.Equal(t, 6, db.all()[14])

			// And so is Flush.
			db.set(func(d *database) { d.fail = poison })
			require.NoError(t, c.Set(t.Context(), 14, 7))
			time.Sleep(time.Minute)
			db.set(func(d *database) { d.fail = nil })
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, 7, db.all()[14])
		})
	}
}

func TestWriteBehindStorePanics(t *testing.T) {
	db := newDatabase()
	db.fail = func([]Write[int, int]) error { panic("boom") }
	bubble(t, behind(db, BatchConfig{Delay: 1, Retries: 1}), func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 1))
		var p *PanicError
		require.ErrorAs(t, c.Flush(t.Context()), &p)
		require.Equal(t, "boom", p.Value)
	})
}

func TestWriteBehindFull(t *testing.T) {
	db := newDatabase()
	db.took = time.Second
	bubble(t, behind(db, BatchConfig{Size: 1, Delay: 1, Queue: 3}), func(t *testing.T, c *Cache[int, int]) {
		start := time.Now()
		for k := range 3 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		require.NoError(t, c.Set(t.Context(), 2, 20), "a key that waits takes no more room")
		require.Zero(t, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, c.Set(ctx, 3, 3), context.DeadlineExceeded)
		require.False(t, c.Contains(3), "it was not acknowledged")
		require.NoError(t, c.Set(t.Context(), 4, 4))
		require.Equal(t, time.Second, time.Since(start).Round(time.Millisecond), "until there is room")
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, map[int]int{0: 0, 1: 1, 2: 20, 4: 4}, db.all())
	})
	bubble(t, behind(db, BatchConfig{Size: 1, Delay: 1, Queue: 1, WhenFull: WriteNow}), func(t *testing.T, c *Cache[int, int]) {
		db.set(func(d *database) { d.rows = map[int]int{} })
		require.NoError(t, c.Set(t.Context(), 1, 1))
		synctest.Wait()
		start := time.Now()
		require.NoError(t, c.Set(t.Context(), 2, 2))
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, 2, db.all()[2])
		v, ok := c.Get(2)
		require.True(t, ok)
		require.Equal(t, 2, v)
	})
}

// A key that a worker has is not written by another at the same time, and its last value wins.
func TestWriteBehindOrder(t *testing.T) {
	db := newDatabase()
	rng := rand.New(rand.NewPCG(1, 2))
	db.took = 10 * time.Millisecond
	db.fail = func([]Write[int, int]) error {
		if rng.IntN(3) == 0 {
			return errSource
		}
		return nil
	}
	bubble(t, behind(db, BatchConfig{Size: 3, Delay: time.Millisecond, Workers: 4, Retries: 100, Backoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, Queue: 20}), func(t *testing.T, c *Cache[int, int]) {
		var mu sync.Mutex
		safe := db.fail
		db.fail = func(batch []Write[int, int]) error {
			mu.Lock()
			defer mu.Unlock()
			return safe(batch)
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 3))
				for i := range 300 {
					k := g + 8*rng.IntN(4)
					if err := c.Set(t.Context(), k, i); err != nil {
						t.Error(err)
					}
					if rng.IntN(4) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		last := maps.Collect(c.All())
		require.NoError(t, c.Close(t.Context()))
		require.Equal(t, last, db.all())
		require.False(t, db.overlap)
		seen := map[int]int{}
		for _, batch := range db.batches {
			for _, w := range batch {
				require.GreaterOrEqual(t, w.Value, seen[w.Key], "in order")
				seen[w.Key] = w.Value
			}
		}
	})
}

// Close with a Store that is down ends after the retries of one batch, and returns everything.
func TestCloseStoreDown(t *testing.T) {
	db := newDatabase()
	db.fail = failing(errSource)
	bubble(t, behind(db, BatchConfig{Size: 10, Delay: time.Hour, Retries: 3, Backoff: time.Second}), func(t *testing.T, c *Cache[int, int]) {
		for k := range 1000 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		start := time.Now()
		err := c.Close(t.Context())
		require.LessOrEqual(t, time.Since(start), 7*time.Second)
		var we *WriteError[int, int]
		require.ErrorAs(t, err, &we)
		require.ErrorIs(t, err, errSource)
		require.Len(t, we.Writes, 1000)
		require.Equal(t, err, c.Close(t.Context()), "again")
	})
}

// Close that does not want to wait returns what may not have been written.
func TestCloseInAHurry(t *testing.T) {
	db := newDatabase()
	db.took = time.Hour
	bubble(t, behind(db, BatchConfig{Size: 10, Delay: 1, Queue: 100}), func(t *testing.T, c *Cache[int, int]) {
		for k := range 100 {
			require.NoError(t, c.Set(t.Context(), k, k))
		}
		blocked := make(chan error)
		go func() { blocked <- c.Set(t.Context(), 100, 100) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := c.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var we *WriteError[int, int]
		require.ErrorAs(t, err, &we)
		require.Len(t, we.Writes, 100)
		require.ErrorIs(t, <-blocked, ErrClosed)
		require.False(t, c.Contains(100))
	})
}

// A Flush that is given up leaves everything where it was.
func TestFlushGivenUp(t *testing.T) {
	db := newDatabase()
	db.took = time.Second
	bubble(t, behind(db, BatchConfig{Delay: 1}), func(t *testing.T, c *Cache[int, int]) {
		require.NoError(t, c.Set(t.Context(), 1, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		require.ErrorIs(t, c.Flush(ctx), context.DeadlineExceeded)
		cancel()
		require.ErrorIs(t, c.Flush(ctx), context.DeadlineExceeded)
		// Flush waits for what came before it, also where a worker has the key already.
		require.NoError(t, c.Set(t.Context(), 1, 2))
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, 2, db.all()[1])
	})
}

// Every write that was acknowledged is in the Store or in the error of Close, with writers,
// workers, a Store that fails at random, evictions, flushes and Close at any time.
func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(20) {
		db := newDatabase()
		var failures atomic.Int64
		config := behind(db, BatchConfig{Size: 7, Delay: time.Millisecond, Workers: 3, Retries: 1, Backoff: 1, MaxBackoff: 1, Queue: 50})
		config.Capacity, config.Shards = 10, 1
		bubble(t, config, func(t *testing.T, c *Cache[int, int]) {
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(seed, 9))
			db.took = time.Millisecond
			db.half = true
			db.fail = func([]Write[int, int]) error {
				mu.Lock()
				defer mu.Unlock()
				if rng.IntN(2) == 0 {
					failures.Add(1)
					return errSource
				}
				return nil
			}
			acked := make([]map[int]int, 6)
			reported := map[int]int{}
			note := func(err error) {
				var we *WriteError[int, int]
				if errors.As(err, &we) {
					mu.Lock()
					defer mu.Unlock()
					for _, w := range we.Writes {
						if w.Deleted {
							w.Value = -1
						}
						reported[w.Key] = max(reported[w.Key], w.Value)
					}
				}
			}
			var wg sync.WaitGroup
			for g := range acked {
				acked[g] = map[int]int{}
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(g)))
					for i := 1; ; i++ {
						k := g + len(acked)*rng.IntN(20)
						switch err := c.Set(t.Context(), k, i); {
						case err == nil:
							acked[g][k] = i
						case errors.Is(err, ErrClosed):
							return
						default:
							t.Error(err)
						}
						if v, err := c.GetOrLoad(t.Context(), k); err == nil && v < i && reported[k] == 0 {
							mu.Lock()
							lost := reported[k] == 0
							mu.Unlock()
							if lost {
								t.Errorf("key %d: read %d after %d was acknowledged", k, v, i)
							}
						}
						time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
					}
				})
			}
			wg.Go(func() {
				for range 3 {
					time.Sleep(30 * time.Millisecond)
					note(c.Flush(t.Context()))
				}
			})
			time.Sleep(150 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seed)*time.Millisecond)
			defer cancel()
			note(c.Close(ctx))
			wg.Wait()
			time.Sleep(time.Second)
			rows := db.all()
			for _, m := range acked {
				for k, v := range m {
					require.True(t, rows[k] == v || reported[k] >= v, "seed %d: key %d: %d was acknowledged, the Store has %d, reported was %d", seed, k, v, rows[k], reported[k])
				}
			}
			require.False(t, db.overlap)
		})
		require.Positive(t, failures.Load())
	}
}
