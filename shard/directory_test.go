package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/arena"
)

// A dirTable is a DirectoryStore in memory.
type dirTable[K comparable] struct {
	mu      sync.Mutex
	rows    map[K]Placement
	lookups [][]K // the keys of each call of Lookup
	calls   int   // of all methods

	// before and after are called by each method, if not nil, before and after it reads or writes the
	// rows, outside the lock. If one returns an error, so does the method.
	before, after func(ctx context.Context, op string, keys ...K) error

	fails string // the method that returns errDown when it has done its work
}

func newDirTable[K comparable](rows map[K]Placement) *dirTable[K] {
	t := &dirTable[K]{rows: map[K]Placement{}}
	maps.Copy(t.rows, rows)
	return t
}

func (t *dirTable[K]) do(ctx context.Context, op string, keys []K, f func() error) error {
	t.mu.Lock()
	t.calls++
	if op == "lookup" {
		t.lookups = append(t.lookups, slices.Clone(keys))
	}
	before, after := t.before, t.after
	t.mu.Unlock()
	if before != nil {
		if err := before(ctx, op, keys...); err != nil {
			return err
		}
	}
	t.mu.Lock()
	err := f()
	t.mu.Unlock()
	if after != nil {
		if err := after(ctx, op, keys...); err != nil {
			return err
		}
	}
	if op == t.fails {
		return errDown
	}
	return err
}

func (t *dirTable[K]) Lookup(ctx context.Context, keys []K) (found map[K]Placement, err error) {
	asked := slices.Clone(keys)
	err = t.do(ctx, "lookup", asked, func() error {
		found = map[K]Placement{}
		for _, k := range keys {
			if p, ok := t.rows[k]; ok {
				found[k] = p
			}
		}
		return nil
	})
	clear(keys) // they are the store's
	if err != nil {
		found = nil
	}
	return found, err
}

func (t *dirTable[K]) Insert(ctx context.Context, k K, p Placement) (there Placement, err error) {
	err = t.do(ctx, "insert", []K{k}, func() (err error) {
		if old, ok := t.rows[k]; ok {
			there, err = old, fmt.Errorf("key %v: %w", k, ErrExists)
			return err
		}
		t.rows[k], there = p, p
		return nil
	})
	return there, err
}

func (t *dirTable[K]) Update(ctx context.Context, k K, epoch uint64, p Placement) error {
	return t.do(ctx, "update", []K{k}, func() error {
		switch old, ok := t.rows[k]; {
		case !ok:
			return fmt.Errorf("key %v: %w", k, ErrNotFound)
		case old.Epoch != epoch:
			return fmt.Errorf("key %v: %w", k, ErrStaleEpoch)
		}
		t.rows[k] = p
		return nil
	})
}

func (t *dirTable[K]) Delete(ctx context.Context, k K, epoch uint64) error {
	return t.do(ctx, "delete", []K{k}, func() error {
		if old, ok := t.rows[k]; ok && old.Epoch != epoch {
			return fmt.Errorf("key %v: %w", k, ErrStaleEpoch)
		}
		delete(t.rows, k)
		return nil
	})
}

// set changes the row of k as another process does.
func (t *dirTable[K]) set(k K, p Placement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[k] = p
}

func (t *dirTable[K]) drop(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rows, k)
}

func (t *dirTable[K]) row(k K) (Placement, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.rows[k]
	return p, ok
}

// hook sets before.
func (t *dirTable[K]) hook(before func(ctx context.Context, op string, keys ...K) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before = before
}

// down makes every call fail with err, or none if that is nil.
func (t *dirTable[K]) down(err error) {
	t.hook(func(context.Context, string, ...K) error { return err })
}

// asked returns how often Lookup was called, and begins to count anew.
func (t *dirTable[K]) asked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.lookups)
	t.lookups = nil
	return n
}

// askedFor returns for how many keys each call of Lookup was, sorted, and begins to count anew.
func (t *dirTable[K]) askedFor() (n []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, keys := range t.lookups {
		n = append(n, len(keys))
	}
	t.lookups = nil
	slices.Sort(n)
	return n
}

// check returns an error that says which invariant does not hold, or nil.
func (d *Directory[K]) check() error {
	for i := range d.segments {
		s := &d.segments[i]
		s.lock.Lock()
		err := s.check()
		s.lock.Unlock()
		if err != nil {
			return fmt.Errorf("segment %d: %w", i, err)
		}
	}
	return nil
}

func (s *dirSegment[K]) check() error {
	if err := s.lists.Check(&s.rows.List, &s.negatives.List); err != nil {
		return err
	}
	for _, q := range []*dirSieve{&s.rows, &s.negatives} {
		if q.Len() > q.capacity {
			return fmt.Errorf("%d entries, capacity %d", q.Len(), q.capacity)
		}
		hand := q.hand == 0
		for n := q.Front(); n != 0; n = s.lists.Next(n) {
			it := s.lists.Value(n)
			if s.sieve(it) != q {
				return fmt.Errorf("entry %v is in the wrong list", *it)
			}
			hand = hand || n == q.hand
		}
		if !hand {
			return fmt.Errorf("the hand is at %d, which is not in the list", q.hand)
		}
	}
	return nil
}

// idle fails unless nothing is under way.
func (d *Directory[K]) idle(t *testing.T) {
	t.Helper()
	require.NoError(t, d.check())
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	require.Zero(t, d.queue.running)
	require.Empty(t, d.queue.waiting)
}

func newDirectory[K comparable](t testing.TB, store DirectoryStore[K], config DirectoryConfig[K]) *Directory[K] {
	if config.Capacity == 0 {
		config.Capacity = 1000
	}
	d, err := NewDirectory(store, config)
	require.NoError(t, err)
	return d
}

var errDown = errors.New("down")

var _ Router[string] = (*Directory[string])(nil)

func TestDirectoryConfig(t *testing.T) {
	store := newDirTable[int](nil)
	for want, c := range map[string]DirectoryConfig[int]{
		"Capacity must be between 1 and 2147483647, got 0":          {},
		"Capacity must be between 1 and 2147483647, got -1":         {Capacity: -1},
		"NegativeCapacity must be between 0 and 1073741824, got -1": {Capacity: 1, NegativeCapacity: -1},
		"MaxBatch must be between 0 and 2147483647, got -1":         {Capacity: 1, MaxBatch: -1},
		"Concurrency must be between 0 and 2147483647, got -1":      {Capacity: 1, Concurrency: -1},
		"TTL must be at least 0, got -1ns":                          {Capacity: 1, TTL: -1},
		"RetryAfter must be at least 0, got -1ns":                   {Capacity: 1, RetryAfter: -1},
		"LoadTimeout must be at least 0, got -1ns":                  {Capacity: 1, LoadTimeout: -1},
	} {
		_, err := NewDirectory(store, c)
		require.EqualError(t, err, "shard: "+want)
	}
	_, err := NewDirectory[int](nil, DirectoryConfig[int]{Capacity: 1})
	require.EqualError(t, err, "shard: store must not be nil")
	// Memory comes with the entries, so that the largest is no problem.
	d, err := NewDirectory(store, DirectoryConfig[int]{
		Capacity: math.MaxInt32, NegativeCapacity: 1 << 30, MaxBatch: math.MaxInt32, Concurrency: math.MaxInt32,
		TTL: math.MaxInt64, NegativeTTL: math.MaxInt64, StaleFor: math.MaxInt64, RetryAfter: math.MaxInt64, LoadTimeout: math.MaxInt64,
	})
	require.NoError(t, err)
	store.set(1, Placement{Shard: "a"})
	for range 2 {
		p, err := d.Route(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: "a"}, p)
		_, err = d.Route(t.Context(), 2)
		require.ErrorIs(t, err, ErrNotFound)
	}
	require.Equal(t, 2, store.asked())
	d.idle(t)
	for i := range d.segments {
		s := &d.segments[i]
		require.Less(t, s.rows.capacity+s.negatives.capacity, arena.MaxLen)
	}
	// A few negatives do not make all rows share one lock.
	d, err = NewDirectory(store, DirectoryConfig[int]{Capacity: 1 << 20, NegativeCapacity: 1})
	require.NoError(t, err)
	require.Greater(t, len(d.segments), 1)
	for i := range d.segments {
		s := &d.segments[i]
		require.Equal(t, 1, s.negatives.capacity)
	}
}

func TestDirectoryRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows := map[string]Placement{
			"a": {Shard: "s1", Part: 7, Epoch: 3},
			"b": {Shard: "s2", Epoch: math.MaxUint64, State: Migrating},
			"c": {Shard: "s1", Epoch: 0, State: Fenced},
			"":  {Shard: "s3"},
		}
		store := newDirTable(rows)
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, NegativeTTL: 10 * time.Second})
		for range 3 {
			for k, want := range rows {
				p, err := d.Route(t.Context(), k)
				require.NoError(t, err)
				require.Equal(t, want, p)
			}
			_, err := d.Route(t.Context(), "nobody")
			require.ErrorIs(t, err, ErrNotFound)
		}
		require.Equal(t, 5, store.asked())
		require.Equal(t, 4, d.Len())
		require.Equal(t, DirectoryStats{Hits: 8, NegativeHits: 2, Misses: 5, Loads: 5, Batches: 5, Rows: 4, Negatives: 1}, d.Stats())

		time.Sleep(time.Second - 1) // what is not serving is soon looked up again
		_, err := d.Route(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, 0, store.asked())
		time.Sleep(time.Nanosecond)
		for k, want := range rows {
			p, err := d.Route(t.Context(), k)
			require.NoError(t, err)
			require.Equal(t, want, p)
		}
		require.Equal(t, 2, store.asked())

		time.Sleep(9*time.Second - 1)
		_, err = d.Route(t.Context(), "nobody")
		require.ErrorIs(t, err, ErrNotFound)
		require.Equal(t, 0, store.asked())
		time.Sleep(time.Nanosecond)
		_, err = d.Route(t.Context(), "nobody")
		require.ErrorIs(t, err, ErrNotFound)
		require.Equal(t, 1, store.asked())

		time.Sleep(50*time.Second - 1)
		_, err = d.Route(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, 0, store.asked())
		store.set("a", Placement{Shard: "s9", Epoch: 4})
		store.drop("")
		time.Sleep(time.Nanosecond)
		p, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: "s9", Epoch: 4}, p)
		_, err = d.Route(t.Context(), "")
		require.ErrorIs(t, err, ErrNotFound)
		require.Equal(t, 2, store.asked())
		d.idle(t)
	})
}

// Negative answers are not remembered if that is turned off.
func TestDirectoryNegativeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[int]Placement{1: {Shard: "a"}})
		d := newDirectory(t, store, DirectoryConfig[int]{NegativeTTL: -1})
		for range 3 {
			_, err := d.Route(t.Context(), 2)
			require.ErrorIs(t, err, ErrNotFound)
		}
		require.Equal(t, 3, store.asked())
		_, err := d.Route(t.Context(), 1)
		require.NoError(t, err)
		store.drop(1)
		time.Sleep(time.Minute)
		_, err = d.Route(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		require.Zero(t, d.Len(), "it is known that the key does not exist")
		require.Zero(t, d.Stats().Negatives)
		d.idle(t)
	})
}

func TestDirectoryOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 1}})
		store.before = func(ctx context.Context, op string, keys ...string) error {
			time.Sleep(time.Second)
			return nil
		}
		d := newDirectory(t, store, DirectoryConfig[string]{})
		const callers = 10_000
		var good atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if p, err := d.Route(t.Context(), "a"); err == nil && p == (Placement{Shard: "s1", Epoch: 1}) {
					good.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, callers, good.Load())
		require.Equal(t, [][]string{{"a"}}, store.lookups)
		require.EqualValues(t, 1, d.Stats().Batches)
		d.idle(t)
	})
}

// Without a bubble the callers do not all come before the answer, but it is one call all the same.
func TestDirectoryOneCallAtOnce(t *testing.T) {
	store := newDirTable(map[string]Placement{"a": {Shard: "s1"}})
	d := newDirectory(t, store, DirectoryConfig[string]{})
	var wg sync.WaitGroup
	start := make(chan bool)
	for range 10_000 {
		wg.Go(func() {
			<-start
			if _, err := d.Route(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	require.Equal(t, 1, store.asked())
}

func TestDirectoryStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 1}})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, StaleFor: 10 * time.Minute, RetryAfter: 2 * time.Second})
		route := func(want ID) {
			t.Helper()
			p, err := d.Route(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, want, p.Shard)
		}
		route("s1")
		store.down(errDown)
		require.Equal(t, 1, store.asked())
		time.Sleep(time.Minute - 1)
		route("s1")
		require.Equal(t, 0, store.asked(), "it is fresh")
		time.Sleep(time.Nanosecond)
		for range 5 {
			route("s1")
		}
		require.Equal(t, 1, store.asked(), "the store was down, and is left alone")
		require.EqualValues(t, 5, d.Stats().Stale)
		for range 10 {
			time.Sleep(2 * time.Second)
			for range 5 {
				route("s1")
			}
			require.Equal(t, 1, store.asked(), "it is tried once each time")
		}
		_, err := d.Route(t.Context(), "unknown")
		require.ErrorIs(t, err, errDown, "there is nothing that could be stale")
		require.EqualValues(t, 12, d.Stats().Errors)

		store.down(nil)
		store.set("a", Placement{Shard: "s2", Epoch: 2})
		store.asked()
		time.Sleep(2*time.Second - 1)
		route("s1")
		require.Equal(t, 0, store.asked())
		time.Sleep(time.Nanosecond)
		for range 5 {
			route("s2")
		}
		require.Equal(t, 1, store.asked(), "it has recovered")

		// It ends after StaleFor.
		store.down(errDown)
		time.Sleep(11*time.Minute - 1)
		route("s2")
		time.Sleep(time.Nanosecond)
		store.asked()
		for range 3 {
			_, err := d.Route(t.Context(), "a")
			require.ErrorIs(t, err, errDown)
		}
		require.Equal(t, 3, store.asked())
		store.down(nil)
		route("s2")
		d.idle(t)
	})
}

// However many want it, one asks a store that is down, each time.
func TestDirectoryStaleTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1"}})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, RetryAfter: time.Second})
		_, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		store.hook(func(context.Context, string, ...string) error { time.Sleep(100 * time.Millisecond); return errDown })
		time.Sleep(time.Minute)
		for round := range 5 {
			store.asked()
			var waited atomic.Int64
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					start := time.Now()
					if p, err := d.Route(t.Context(), "a"); err != nil || p.Shard != "s1" {
						t.Errorf("got %v, %v", p, err)
					}
					if time.Since(start) > 0 {
						waited.Add(1)
					}
				})
			}
			wg.Wait()
			require.Equal(t, 1, store.asked())
			if round == 0 {
				require.EqualValues(t, 1000, waited.Load(), "nobody knew")
			} else {
				require.EqualValues(t, 1, waited.Load())
			}
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 5000, d.Stats().Stale)
		d.idle(t)
	})
}

func TestDirectoryStaleOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 5}})
		d := newDirectory(t, store, DirectoryConfig[string]{StaleFor: -1})
		_, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		store.down(errDown)
		time.Sleep(time.Minute)
		_, err = d.Route(t.Context(), "a")
		require.ErrorIs(t, err, errDown)
		store.down(nil)
		store.set("a", Placement{Shard: "s2", Epoch: 4})
		p, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, ID("s2"), p.Shard, "what is not used any more is not compared with")
	})
}

// What is remembered of a key that does not exist is never used after its time.
func TestDirectoryNegativeIsNeverStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		d := newDirectory(t, store, DirectoryConfig[string]{NegativeTTL: time.Second})
		_, err := d.Route(t.Context(), "a")
		require.ErrorIs(t, err, ErrNotFound)
		store.down(errDown)
		time.Sleep(time.Second)
		_, err = d.Route(t.Context(), "a")
		require.ErrorIs(t, err, errDown)
	})
}

// While the store hangs, one caller at a time waits for it.
func TestDirectoryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1"}})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, LoadTimeout: 5 * time.Second, RetryAfter: time.Second})
		hang := func(ctx context.Context, op string, keys ...string) error {
			<-ctx.Done()
			return ctx.Err()
		}
		took := func() time.Duration {
			t.Helper()
			start := time.Now()
			p, err := d.Route(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, ID("s1"), p.Shard)
			return time.Since(start)
		}
		require.Zero(t, took())
		store.hook(hang)
		time.Sleep(time.Minute)
		require.Equal(t, 5*time.Second, took())
		require.Zero(t, took())
		time.Sleep(time.Second)
		go took()
		synctest.Wait()
		for range 20 { // longer than RetryAfter, which goes on while somebody tries
			require.Zero(t, took())
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 3, store.asked())

		_, err := d.Route(t.Context(), "unknown")
		require.EqualError(t, err, "shard: the store of the directory has not answered for 5s: context deadline exceeded")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		store.hook(nil)
		require.Zero(t, took())
		synctest.Wait()
		d.idle(t)
	})
}

// Callers whose time is shorter than LoadTimeout are given stale answers too, but for the first.
func TestDirectoryHangsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1"}})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, RetryAfter: time.Second})
		_, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		store.hook(func(ctx context.Context, op string, keys ...string) error { <-ctx.Done(); return ctx.Err() })
		time.Sleep(time.Minute)
		short := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := d.Route(ctx, "a")
			return err
		}
		require.Equal(t, context.DeadlineExceeded, short())
		start := time.Now()
		for time.Since(start) < time.Minute {
			require.NoError(t, short(), "after %v", time.Since(start))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 12, store.asked(), "at first, and once every six seconds")
		store.hook(nil)
		time.Sleep(10 * time.Second)
		require.NoError(t, short())
		synctest.Wait()
		require.NoError(t, short())
		require.Equal(t, 1, store.asked())
		d.idle(t)
	})
}

// Callers who have less time than the store takes are given an old row, but the store is asked all the
// same, and the next caller is given what it has answered.
func TestDirectoryImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 1}})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute})
		_, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		store.set("a", Placement{Shard: "s2", Epoch: 2})
		store.hook(func(ctx context.Context, op string, keys ...string) error {
			select {
			case <-time.After(20 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		time.Sleep(time.Minute)
		store.asked()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err = d.Route(ctx, "a")
		require.Equal(t, context.DeadlineExceeded, err)
		time.Sleep(20 * time.Millisecond)
		p, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, ID("s2"), p.Shard)
		require.Equal(t, 1, store.asked())
		// Where there is no row it is not asked for nobody.
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err = d.Route(ctx, "b")
		require.Equal(t, context.DeadlineExceeded, err)
		synctest.Wait()
		require.Zero(t, d.Stats().Errors)
		d.idle(t)
	})
}

// When the store hangs, that is found out once, and not for each key.
func TestDirectoryHangsForAll(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const keys = 1000
				store := newDirTable[int](nil)
				all := make([]int, keys)
				for k := range keys {
					all[k] = k
					store.set(k, Placement{Shard: "a"})
				}
				d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 10 * keys, TTL: time.Minute, LoadTimeout: 5 * time.Second, RetryAfter: time.Second})
				_, err := d.RouteAll(t.Context(), all)
				require.NoError(t, err)
				wake := make(chan bool)
				store.hook(func(ctx context.Context, op string, keys ...int) error {
					if deaf {
						<-wake
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
				time.Sleep(time.Minute)
				go func() { _, _ = d.Route(t.Context(), 0) }()
				time.Sleep(5 * time.Second)
				synctest.Wait()
				store.asked()
				start := time.Now()
				for i := range 10_000 {
					p, err := d.Route(t.Context(), i%keys)
					require.NoError(t, err)
					require.Equal(t, ID("a"), p.Shard)
					_, err = d.Route(t.Context(), keys+i)
					require.EqualError(t, err, "shard: the store of the directory has not answered for 5s: context deadline exceeded")
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.Equal(t, time.Duration(i)*3*time.Millisecond, time.Since(start), "nobody waits")
					time.Sleep(3 * time.Millisecond)
				}
				found, err := d.RouteAll(t.Context(), append(all, -1, -2))
				var failed *KeysError[int]
				require.ErrorAs(t, err, &failed)
				require.Equal(t, []int{-1, -2}, failed.Keys)
				require.Len(t, found, keys)
				require.Equal(t, 30*time.Second, time.Since(start))
				if deaf {
					require.Equal(t, 3, store.asked(), "there are places for so many")
				} else {
					require.Equal(t, 5, store.asked(), "it is tried each time that RetryAfter and LoadTimeout are over")
				}
				// Who tries it need not have a row; then he waits.
				time.Sleep(time.Minute)
				close(wake)
				store.hook(nil)
				synctest.Wait()
				if !deaf {
					_, err = d.Route(t.Context(), -3)
					require.Equal(t, ErrNotFound, err)
				}
				_, err = d.Route(t.Context(), -4)
				require.Equal(t, ErrNotFound, err)
				d.idle(t)
			})
		})
	}
}

// One call that takes too long does not make a store suspect that answers others.
func TestDirectoryHangsForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		store.before = func(ctx context.Context, op string, keys ...int) error {
			if keys[0] == 0 {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		d := newDirectory(t, store, DirectoryConfig[int]{})
		go func() { _, _ = d.Route(t.Context(), 0) }()
		time.Sleep(time.Second)
		_, err := d.Route(t.Context(), 1)
		require.Equal(t, ErrNotFound, err)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		_, err = d.Route(t.Context(), 2)
		require.Equal(t, ErrNotFound, err)
		require.EqualValues(t, 1, d.Stats().Errors)
		d.idle(t)
	})
}

// A Lookup that does not heed its context keeps its place, and nothing else.
func TestDirectoryDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[int]Placement{1: {Shard: "a"}, 2: {Shard: "b"}})
		wake := make(chan bool)
		store.before = func(ctx context.Context, op string, keys ...int) error { <-wake; return nil }
		d := newDirectory(t, store, DirectoryConfig[int]{LoadTimeout: time.Second, Concurrency: 1})
		start := time.Now()
		_, err := d.Route(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = d.RouteAll(t.Context(), []int{2})
		require.EqualError(t, err, "shard: cannot look up 2: shard: other keys before, or the store of the directory, have taken 2s: context deadline exceeded")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 4*time.Second, time.Since(start))
		close(wake)
		synctest.Wait()
		require.Equal(t, 2, store.asked(), "2 was to try it again")
		d.idle(t)
		for k := 1; k < 3; k++ {
			_, err = d.Route(t.Context(), k)
			require.NoError(t, err)
		}
	})
}

// Keys for which nobody waits any more do not wait either.
func TestDirectoryDeafMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		wake := make(chan bool)
		store.before = func(ctx context.Context, op string, keys ...int) error { <-wake; return nil }
		d := newDirectory(t, store, DirectoryConfig[int]{MaxBatch: 10})
		for round := range 20 {
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, _ = d.Route(ctx, round*100+i)
				})
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, _ = d.RouteAll(ctx, []int{-i, -i - 1})
				})
			}
			wg.Wait()
			synctest.Wait()
			n := 0
			for _, b := range d.queue.waiting {
				n += len(b.calls)
			}
			require.Less(t, n, 10, "only a batch that is open may stay")
		}
		close(wake)
		synctest.Wait()
		require.LessOrEqual(t, d.Stats().Loads, uint64(20))
		d.idle(t)
	})
}

// A RouteAll of many keys lets others have their turn.
func TestDirectoryRouteAllLetsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		store.before = func(ctx context.Context, op string, keys ...int) error { time.Sleep(20 * time.Millisecond); return nil }
		d := newDirectory(t, store, DirectoryConfig[int]{MaxBatch: 10, Concurrency: 4})
		keys := make([]int, 40_000)
		for i := range keys {
			keys[i] = i
		}
		start := time.Now()
		done := make(chan error)
		go func() { _, err := d.RouteAll(t.Context(), keys); done <- err }()
		for range 100 {
			synctest.Wait()
			at := time.Now()
			_, err := d.Route(t.Context(), -1)
			require.Equal(t, ErrNotFound, err)
			require.LessOrEqual(t, time.Since(at), 60*time.Millisecond)
			d.Invalidate(-1)
		}
		found, err := d.RouteAll(t.Context(), keys[:400])
		require.NoError(t, err)
		require.Empty(t, found)
		require.NoError(t, <-done)
		require.Less(t, time.Since(start), 2*d.patience()+5*time.Second)
		d.idle(t)
	})
}

// However many keys, it is waited for a store that hangs once.
func TestDirectoryRouteAllHangs(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newDirTable(map[int]Placement{9_999: {Shard: "a"}})
			d := newDirectory(t, store, DirectoryConfig[int]{})
			_, err := d.Route(t.Context(), 9_999)
			require.NoError(t, err)
			wake := make(chan bool)
			store.hook(func(ctx context.Context, op string, keys ...int) error {
				if deaf {
					<-wake
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			})
			time.Sleep(time.Minute)
			keys := make([]int, 10_000)
			for i := range keys {
				keys[i] = i
			}
			start := time.Now()
			found, err := d.RouteAll(t.Context(), keys)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, map[int]Placement{9_999: {Shard: "a"}}, found)
			if deaf {
				require.Equal(t, 10*time.Second, time.Since(start))
			} else {
				require.Equal(t, 5*time.Second, time.Since(start))
			}
			close(wake)
			synctest.Wait()
			d.idle(t)
		})
	}
}

func TestDirectoryContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		store := newDirTable(map[string]Placement{"a": {Shard: "s1"}})
		store.before = func(ctx context.Context, op string, keys ...string) error {
			require.Equal(t, "first", ctx.Value(key{}))
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		d := newDirectory(t, store, DirectoryConfig[string]{})
		first, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "first"), time.Second)
		defer cancel()
		errs := make(chan error, 2)
		go func() { _, err := d.Route(first, "a"); errs <- err }()
		synctest.Wait()
		go func() { _, err := d.Route(t.Context(), "a"); errs <- err }()
		require.Equal(t, context.DeadlineExceeded, <-errs)
		require.NoError(t, <-errs, "the load goes on for the second")
		require.Equal(t, 1, store.asked())

		_, err := d.Route(first, "a")
		require.NoError(t, err, "the cache asks no context")
		_, err = d.Route(first, "b")
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, 0, store.asked())
		d.idle(t)
	})
}

func TestDirectoryBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows := map[int]Placement{}
		for k := range 100 {
			rows[k] = Placement{Shard: ID(fmt.Sprint("s", k%7)), Epoch: uint64(k)}
		}
		store := newDirTable(rows)
		store.before = func(ctx context.Context, op string, keys ...int) error { time.Sleep(time.Second); return nil }
		d := newDirectory(t, store, DirectoryConfig[int]{MaxBatch: 10, Concurrency: 2})
		var wg sync.WaitGroup
		route := func(k int) {
			wg.Go(func() {
				p, err := d.Route(t.Context(), k)
				if k < 100 && (err != nil || p != rows[k]) || k >= 100 && err != ErrNotFound {
					t.Errorf("%d: %v, %v", k, p, err)
				}
			})
			synctest.Wait()
		}
		start := time.Now()
		for k := range 27 {
			route(k)
			route(k)
		}
		route(100)
		wg.Wait()
		require.Equal(t, []int{1, 1, 6, 10, 10}, store.askedFor(), "a lone miss does not wait, and what waits goes together")
		require.Equal(t, 3*time.Second, time.Since(start))

		var keys []int
		for k := 20; k < 80; k++ {
			keys = append(keys, k, k)
		}
		keys = append(keys, 100, 101)
		found, err := d.RouteAll(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, found, 60)
		for k, p := range found {
			require.Equal(t, rows[k], p)
		}
		// 27 to 79, and 100 and 101: its NegativeTTL is over.
		require.Equal(t, []int{5, 10, 10, 10, 10, 10}, store.askedFor())
		found, err = d.RouteAll(t.Context(), []int{1, 2, 1})
		require.NoError(t, err)
		require.Equal(t, map[int]Placement{1: rows[1], 2: rows[2]}, found)
		found, err = d.RouteAll(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Equal(t, 0, store.asked())
		d.idle(t)
	})
}

func TestDirectoryRouteAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1"}, "b": {Shard: "s2"}, "c": {Shard: "s3"}})
		store.before = func(ctx context.Context, op string, keys ...string) error {
			time.Sleep(time.Second)
			if slices.Contains(keys, "c") {
				return errDown
			}
			return nil
		}
		d := newDirectory(t, store, DirectoryConfig[string]{MaxBatch: 2, Filter: func(k string) bool { return k != "filtered" }})
		go func() { _, _ = d.Route(t.Context(), "a") }()
		synctest.Wait()
		found, err := d.RouteAll(t.Context(), []string{"a", "b", "filtered", "none", "c", "b", "c"})
		require.Equal(t, map[string]Placement{"a": {Shard: "s1"}, "b": {Shard: "s2"}}, found)
		var failed *KeysError[string]
		require.ErrorAs(t, err, &failed)
		require.Equal(t, &KeysError[string]{Keys: []string{"c"}, Errs: []error{errDown}}, failed)
		require.ErrorIs(t, err, errDown)
		require.EqualError(t, err, "shard: cannot look up c: down")
		require.Equal(t, []int{1, 1, 2}, store.askedFor(), "a was being looked up already")
		require.EqualValues(t, 1, d.Stats().Filtered)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		found, err = d.RouteAll(ctx, []string{"x", "a", "y", "z"})
		require.Equal(t, map[string]Placement{"a": {Shard: "s1"}}, found)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "shard: cannot look up x and 2 other keys: context canceled")
		require.Zero(t, store.asked())
		d.idle(t)
	})
}

// One key that the store cannot look up does not take the answers from the others.
func TestDirectoryPoison(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 64, 100} {
		for _, bad := range [][]int{{0}, {n - 1}, {n / 2}, {0, n - 1}, {n / 3, n / 2, n - 1}} {
			t.Run(fmt.Sprintf("n=%d/bad=%v", n, bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := newDirTable[int](nil)
					var keys []int
					for k := range n {
						keys = append(keys, k)
						store.set(k, Placement{Shard: "a", Epoch: 1})
					}
					store.before = func(ctx context.Context, op string, keys ...int) error {
						for _, k := range bad {
							if slices.Contains(keys, k) {
								return errDown
							}
						}
						return nil
					}
					d := newDirectory(t, store, DirectoryConfig[int]{})
					found, err := d.RouteAll(t.Context(), keys)
					var failed *KeysError[int]
					require.ErrorAs(t, err, &failed)
					slices.Sort(bad)
					require.Equal(t, slices.Compact(bad), failed.Keys)
					require.Len(t, found, n-len(failed.Keys))
					d.idle(t)
				})
			})
		}
	}
}

// Nor do some that are next to each other, or far from each other.
func TestDirectoryPoisonMore(t *testing.T) {
	for _, bad := range [][]int{{0, 1}, {10, 11}, {126, 127}, {0, 2}, {0, 64}, {0, 1, 2, 3}, {0, 16, 32, 48, 64, 80, 96}, {16, 17, 18, 112}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newDirTable[int](nil)
				keys := make([]int, 128)
				for k := range keys {
					keys[k] = k
					store.set(k, Placement{Shard: "a", Epoch: 1})
				}
				store.before = func(ctx context.Context, op string, keys ...int) error {
					if slices.ContainsFunc(keys, func(k int) bool { return slices.Contains(bad, k) }) {
						return errDown
					}
					return nil
				}
				d := newDirectory(t, store, DirectoryConfig[int]{})
				found, err := d.RouteAll(t.Context(), keys)
				var failed *KeysError[int]
				require.ErrorAs(t, err, &failed)
				require.Equal(t, bad, failed.Keys)
				require.Len(t, found, 128-len(bad))
				require.LessOrEqual(t, store.asked(), 1+len(bad)*2*7+8)
				d.idle(t)
			})
		})
	}
}

// A store that is down is not asked for every key of a batch.
func TestDirectoryPoisonAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		store.down(errDown)
		d := newDirectory(t, store, DirectoryConfig[int]{})
		keys := make([]int, 128)
		for k := range keys {
			keys[k] = k
		}
		_, err := d.RouteAll(t.Context(), keys)
		var failed *KeysError[int]
		require.ErrorAs(t, err, &failed)
		require.Equal(t, keys, failed.Keys)
		require.LessOrEqual(t, store.asked(), 9)
		// Nor if it does not answer in time.
		store.hook(func(ctx context.Context, op string, keys ...int) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		_, err = d.RouteAll(t.Context(), keys)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Equal(t, 1, store.asked())
		d.idle(t)
	})
}

// dirFunc is a store whose Lookup is a function.
type dirFunc[K comparable] struct {
	*dirTable[K]
	lookup func(ctx context.Context, keys []K) (map[K]Placement, error)
}

func (f dirFunc[K]) Lookup(ctx context.Context, keys []K) (map[K]Placement, error) {
	return f.lookup(ctx, keys)
}

// What a store should not do.
func TestDirectoryOddStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer func(ctx context.Context, keys []string) (map[string]Placement, error)
		d := newDirectory(t, dirFunc[string]{newDirTable[string](nil), func(ctx context.Context, keys []string) (map[string]Placement, error) {
			return answer(ctx, keys)
		}}, DirectoryConfig[string]{})
		answers := func(m map[string]Placement, err error) {
			answer = func(context.Context, []string) (map[string]Placement, error) { return m, err }
		}
		good := Placement{Shard: "s1"}

		answers(map[string]Placement{"a": good, "other": good}, nil)
		p, err := d.Route(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, good, p)
		require.Equal(t, 1, d.Len(), "nobody has asked for the other")

		answers(map[string]Placement{"empty": {}, "state": {Shard: "s1", State: 3}, "good": good}, nil)
		_, err = d.Route(t.Context(), "empty")
		require.EqualError(t, err, "shard: Shard of a row must not be empty")
		_, err = d.Route(t.Context(), "state")
		require.EqualError(t, err, "shard: State of a row must be serving, migrating or fenced, got PartState(3)")
		found, err := d.RouteAll(t.Context(), []string{"empty", "good"})
		require.Error(t, err)
		require.Equal(t, map[string]Placement{"good": good}, found)

		// Rows beside an error count; the other keys are not known.
		answers(map[string]Placement{"b": good}, errDown)
		p, err = d.Route(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, good, p)
		_, err = d.Route(t.Context(), "c")
		require.ErrorIs(t, err, errDown)

		answers(nil, fmt.Errorf("no such key: %w", ErrNotFound))
		_, err = d.Route(t.Context(), "d")
		require.Equal(t, ErrNotFound, err)
		answers(map[string]Placement{"d": good}, nil)
		_, err = d.Route(t.Context(), "d")
		require.Equal(t, ErrNotFound, err, "it is remembered")
		answers(nil, nil)
		_, err = d.Route(t.Context(), "e")
		require.Equal(t, ErrNotFound, err)
		d.idle(t)
	})
}

// A panic, or a Goexit, of the store reaches all who wait, and is the end of nothing.
func TestDirectoryPanics(t *testing.T) {
	cause := errors.New("cause")
	for name, fail := range map[string]func(){
		"panic":  func() { panic(cause) },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newDirTable(map[int]Placement{1: {Shard: "a"}, 2: {Shard: "b"}})
				d := newDirectory(t, store, DirectoryConfig[int]{Concurrency: 1, RetryAfter: 10 * time.Second})
				_, err := d.Route(t.Context(), 1)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				store.hook(func(ctx context.Context, op string, keys ...int) error {
					time.Sleep(time.Second)
					fail()
					return nil
				})
				var panicked, returned, ended atomic.Int64
				var wg sync.WaitGroup
				each := func(f func()) {
					wg.Go(func() {
						defer ended.Add(1)
						defer func() {
							if v := recover(); v != nil {
								if err, ok := v.(error); !ok || !errors.Is(err, cause) {
									t.Errorf("panic of %v", v)
								}
								panicked.Add(1)
							}
						}()
						f()
						returned.Add(1)
					})
				}
				for range 10 {
					each(func() { _, _ = d.Route(t.Context(), 1) })
					each(func() { _, _ = d.Route(t.Context(), 2) })
					each(func() { _, _ = d.RouteAll(t.Context(), []int{1, 2, 3}) })
				}
				wg.Wait()
				require.EqualValues(t, 30, ended.Load())
				require.Zero(t, returned.Load())
				if name == "panic" {
					require.EqualValues(t, 30, panicked.Load())
				}
				// What is stale is given to those who come then.
				p, err := d.Route(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, ID("a"), p.Shard)
				store.hook(nil)
				time.Sleep(10 * time.Second)
				found, err := d.RouteAll(t.Context(), []int{1, 2, 3})
				require.NoError(t, err)
				require.Len(t, found, 2)
				d.idle(t)
			})
		})
	}
}

// Who is thrown out of RouteAll by a panic does not hold up the loads of other keys.
func TestDirectoryRouteAllPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		var ended atomic.Bool
		store.before = func(ctx context.Context, op string, keys ...int) error {
			if keys[0] == 1 {
				time.Sleep(time.Second)
				panic("store")
			}
			<-ctx.Done()
			ended.Store(true)
			return ctx.Err()
		}
		d := newDirectory(t, store, DirectoryConfig[int]{MaxBatch: 1})
		require.Panics(t, func() { _, _ = d.RouteAll(t.Context(), []int{1, 2}) })
		synctest.Wait()
		require.True(t, ended.Load(), "nobody waits for the second")
		d.idle(t)
	})
}

// A panic of a function, or of a method that writes, leaves the directory whole.
func TestDirectoryPanicsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[any]Placement{1: {Shard: "a", Epoch: 1}})
		broken := true
		d := newDirectory(t, store, DirectoryConfig[any]{
			Filter: func(k any) bool {
				if k == 13 {
					panic("filter")
				}
				return true
			},
			Admit: func(any) {
				if broken {
					panic("admit")
				}
			},
		})
		ctx := t.Context()
		row := Placement{Shard: "a"}
		require.PanicsWithValue(t, "filter", func() { _, _ = d.Route(ctx, 13) })
		require.PanicsWithValue(t, "filter", func() { _, _ = d.RouteAll(ctx, []any{2, 13}) })
		require.PanicsWithValue(t, "admit", func() { _, _ = d.Insert(ctx, 3, row) })
		require.PanicsWithValue(t, "admit", func() { _, _ = d.Create(ctx, 3, row, nil) })
		require.Equal(t, 0, store.calls)
		broken = false
		// Keys that cannot be compared.
		for _, f := range []func(){
			func() { _, _ = d.Route(ctx, []int{1}) },
			func() { _, _ = d.RouteAll(ctx, []any{4, []int{1}}) },
			func() { _, _ = d.Insert(ctx, []int{1}, row) },
			func() { _ = d.Delete(ctx, []int{1}, 1) },
			func() { d.Invalidate([]int{1}) },
		} {
			require.Panics(t, f)
		}
		require.Equal(t, 0, store.calls)
		// Those that write.
		_, err := d.Route(ctx, 1)
		require.NoError(t, err)
		store.hook(func(ctx context.Context, op string, keys ...any) error { panic(op) })
		require.PanicsWithValue(t, "insert", func() { _, _ = d.Insert(ctx, 1, row) })
		require.PanicsWithValue(t, "update", func() { _, _ = d.Update(ctx, 1, 1, row) })
		require.PanicsWithValue(t, "delete", func() { _ = d.Delete(ctx, 1, 1) })
		require.PanicsWithValue(t, "lookup", func() { _ = d.Remove(ctx, 1, nil) })
		store.hook(nil)
		store.asked()
		_, err = d.Route(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, 1, store.asked(), "nobody knows what they have done")
		require.PanicsWithValue(t, "write", func() {
			_, _ = d.Create(ctx, 5, row, func(context.Context, Placement) error { panic("write") })
		})
		require.PanicsWithValue(t, "erase", func() {
			_ = d.Remove(ctx, 5, func(context.Context, Placement) error { panic("erase") })
		})
		nothing := func(context.Context, Placement) error { return nil }
		_, err = d.Create(ctx, 5, row, nothing)
		require.ErrorIs(t, err, ErrFenced, "it is being removed")
		require.NoError(t, d.Remove(ctx, 5, nothing))
		_, err = d.Create(ctx, 5, row, nothing)
		require.NoError(t, err)
		d.idle(t)
	})
}

// NaN is not equal to itself, so it is nowhere.
func TestDirectoryNaN(t *testing.T) {
	store := newDirTable[float64](nil)
	d := newDirectory(t, store, DirectoryConfig[float64]{})
	nan := math.NaN()
	ctx := t.Context()
	row := Placement{Shard: "a", Epoch: 1}
	const want = "shard: the key is not equal to itself"
	_, err := d.Route(ctx, nan)
	require.EqualError(t, err, want)
	_, err = d.RouteAll(ctx, []float64{nan, nan})
	require.ErrorContains(t, err, want)
	_, err = d.Insert(ctx, nan, row)
	require.EqualError(t, err, want)
	_, err = d.Update(ctx, nan, 0, row)
	require.EqualError(t, err, want)
	require.EqualError(t, d.Delete(ctx, nan, 1), want)
	_, err = d.Create(ctx, nan, row, nil)
	require.EqualError(t, err, want)
	require.EqualError(t, d.Remove(ctx, nan, nil), want)
	d.Invalidate(nan)
	require.Zero(t, store.calls)
	// Zeros are equal.
	store.set(0, row)
	p, err := d.Route(ctx, math.Copysign(0, -1))
	require.NoError(t, err)
	require.Equal(t, row, p)
}

// A store that lags behind does not bring back what was before.
func TestDirectoryLagging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := Placement{Shard: "s1", Epoch: 5}, Placement{Shard: "s2", Epoch: 6}
		store := newDirTable(map[string]Placement{"a": old})
		d := newDirectory(t, store, DirectoryConfig[string]{TTL: time.Minute, StaleFor: 10 * time.Minute, RetryAfter: time.Second})
		ctx := t.Context()
		route := func(want Placement) {
			t.Helper()
			p, err := d.Route(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, want, p)
		}
		route(old)
		p, err := d.Update(ctx, "a", 5, now)
		require.NoError(t, err)
		require.Equal(t, now, p)
		store.set("a", old) // a copy that has not heard of it
		route(now)
		store.asked()
		time.Sleep(time.Minute)
		for range 3 {
			route(now)
		}
		require.Equal(t, 1, store.asked(), "it is asked again after RetryAfter")
		require.EqualValues(t, 1, d.Stats().Lagging)
		require.EqualValues(t, 3, d.Stats().Stale)
		time.Sleep(time.Second)
		route(now)
		require.Equal(t, 1, store.asked())
		store.set("a", now)
		time.Sleep(time.Second)
		route(now)
		route(now)
		require.Equal(t, 1, store.asked())

		// After as long again it is believed: the key may be another one by the same name.
		store.set("a", old)
		time.Sleep(2*time.Minute - 1)
		route(now)
		time.Sleep(time.Second)
		route(old)
		require.EqualValues(t, 3, d.Stats().Lagging)

		// The same epoch is no earlier one.
		moved := Placement{Shard: "s3", Epoch: 5}
		store.set("a", moved)
		time.Sleep(time.Minute)
		route(moved)
		d.idle(t)
	})
}

func TestDirectoryFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := map[string]bool{"old": true}
		store := newDirTable(map[string]Placement{"old": {Shard: "s1"}})
		var order []string
		store.before = func(ctx context.Context, op string, keys ...string) error {
			order = append(order, op)
			return nil
		}
		d := newDirectory(t, store, DirectoryConfig[string]{
			Filter: func(k string) bool { return known[k] },
			Admit:  func(k string) { order = append(order, "admit"); known[k] = true },
		})
		ctx := t.Context()
		for range 3 {
			_, err := d.Route(ctx, "new")
			require.Equal(t, ErrNotFound, err)
		}
		require.Zero(t, store.calls)
		require.Equal(t, DirectoryStats{Filtered: 3}, d.Stats(), "nothing is remembered")
		_, err := d.Route(ctx, "old")
		require.NoError(t, err)

		// The filter lets the key pass before there is a row, even if the store fails.
		order = nil
		store.after = func(ctx context.Context, op string, keys ...string) error { return errDown }
		_, err = d.Insert(ctx, "new", Placement{Shard: "s2"})
		require.ErrorIs(t, err, errDown)
		require.Equal(t, []string{"admit", "insert"}, order)
		store.after = nil
		p, err := d.Route(ctx, "new")
		require.NoError(t, err)
		require.Equal(t, ID("s2"), p.Shard)
		// It is not asked of what is in the cache.
		delete(known, "new")
		_, err = d.Route(ctx, "new")
		require.NoError(t, err)
	})
}

func TestDirectoryWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		d := newDirectory(t, store, DirectoryConfig[string]{})
		ctx := t.Context()
		_, err := d.Route(ctx, "a")
		require.Equal(t, ErrNotFound, err)
		p, err := d.Insert(ctx, "a", Placement{Shard: "s1", Part: 9})
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: "s1", Part: 9, Epoch: uint64(time.Now().UnixMicro())}, p)
		row, _ := store.row("a")
		require.Equal(t, p, row)
		got, err := d.Route(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, p, got, "it is not unknown any more")
		require.Equal(t, 1, store.asked())

		got, err = d.Insert(ctx, "a", Placement{Shard: "s2"})
		require.ErrorIs(t, err, ErrExists)
		require.Equal(t, p, got)

		moved, err := d.Update(ctx, "a", p.Epoch, Placement{Shard: "s2", State: Migrating})
		require.NoError(t, err)
		require.Greater(t, moved.Epoch, p.Epoch, "even at the same time")
		_, err = d.Update(ctx, "a", p.Epoch, Placement{Shard: "s3"})
		require.ErrorIs(t, err, ErrStaleEpoch)
		got, err = d.Route(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, moved, got)
		_, err = d.Update(ctx, "a", moved.Epoch, Placement{Shard: "s3", Epoch: moved.Epoch})
		require.ErrorIs(t, err, ErrStaleEpoch)
		require.ErrorContains(t, err, "shard: Epoch must be greater than ")
		_, err = d.Update(ctx, "none", 1, Placement{Shard: "s3"})
		require.ErrorIs(t, err, ErrNotFound)
		_, err = d.Update(ctx, "none", math.MaxUint64, Placement{Shard: "s3"})
		require.EqualError(t, err, "shard: no epoch is greater than 18446744073709551615")

		require.ErrorIs(t, d.Delete(ctx, "a", p.Epoch), ErrStaleEpoch)
		require.NoError(t, d.Delete(ctx, "a", moved.Epoch))
		require.NoError(t, d.Delete(ctx, "a", moved.Epoch))
		_, err = d.Route(ctx, "a")
		require.Equal(t, ErrNotFound, err)
		again, err := d.Insert(ctx, "a", Placement{Shard: "s1"})
		require.NoError(t, err)
		require.Greater(t, again.Epoch, moved.Epoch)

		calls := store.calls
		for _, p := range []Placement{{}, {Shard: "s1", State: 3}} {
			_, err = d.Insert(ctx, "b", p)
			require.Error(t, err)
			_, err = d.Update(ctx, "b", 0, p)
			require.Error(t, err)
		}
		require.Equal(t, calls, store.calls, "what is bad is refused before")
		// Epochs of somebody else's making.
		p, err = d.Insert(ctx, "b", Placement{Shard: "s1", Epoch: 7})
		require.NoError(t, err)
		require.EqualValues(t, 7, p.Epoch)
		p, err = d.Update(ctx, "b", 7, Placement{Shard: "s2", Epoch: math.MaxUint64 - 1})
		require.NoError(t, err)
		p, err = d.Update(ctx, "b", p.Epoch, Placement{Shard: "s2"})
		require.NoError(t, err)
		require.EqualValues(t, uint64(math.MaxUint64), p.Epoch)
		d.idle(t)
	})
}

// A write that fails may have had its effect: the store is asked, but what is there is not thrown away.
func TestDirectoryWritesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		for _, write := range []func(d *Directory[string]) error{
			func(d *Directory[string]) error { _, err := d.Insert(ctx, "a", Placement{Shard: "s2"}); return err },
			func(d *Directory[string]) error {
				_, err := d.Update(ctx, "a", 1, Placement{Shard: "s2"})
				return err
			},
			func(d *Directory[string]) error { return d.Delete(ctx, "a", 1) },
		} {
			store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 1}})
			d := newDirectory(t, store, DirectoryConfig[string]{})
			for _, k := range []string{"a", "b"} {
				_, _ = d.Route(ctx, k)
			}
			store.down(errDown)
			require.ErrorIs(t, write(d), errDown)
			store.asked()
			p, err := d.Route(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, ID("s1"), p.Shard)
			require.Equal(t, 1, store.asked())
			store.down(nil)
			store.set("a", Placement{Shard: "s2", Epoch: 2})
			time.Sleep(time.Second)
			p, err = d.Route(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, ID("s2"), p.Shard)
			d.idle(t)
		}
		// What was unknown may exist now.
		store := newDirTable[string](nil)
		d := newDirectory(t, store, DirectoryConfig[string]{})
		_, err := d.Route(ctx, "a")
		require.Equal(t, ErrNotFound, err)
		store.fails = "insert"
		_, err = d.Insert(ctx, "a", Placement{Shard: "s1"})
		require.ErrorIs(t, err, errDown)
		_, err = d.Route(ctx, "a")
		require.NoError(t, err)
		// Who waits for another's write waits as long as he likes.
		store.hook(func(ctx context.Context, op string, keys ...string) error { time.Sleep(time.Minute); return nil })
		go func() { _, _ = d.Insert(ctx, "b", Placement{Shard: "s1"}) }()
		synctest.Wait()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		calls := store.calls
		require.Equal(t, context.DeadlineExceeded, d.Delete(short, "b", 1))
		require.Equal(t, calls, store.calls)
		time.Sleep(time.Minute)
	})
}

// An overtaken look-up does not return what is newer than what the next one returns.
func TestDirectoryOvertakenIsMonotone(t *testing.T) {
	for _, c := range []struct {
		name  string
		first Placement // none: there is no row
	}{{"row", Placement{Shard: "s1", Epoch: 1}}, {"negative", Placement{}}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				store := newDirTable[string](nil)
				if c.first.Shard != "" {
					store.set("a", c.first)
				}
				d := newDirectory(t, store, DirectoryConfig[string]{})
				read, hold := make(chan bool), make(chan bool)
				store.hook(func(_ context.Context, op string, _ ...string) error {
					if op == "lookup" {
						<-read
					}
					return nil
				})
				type answer struct {
					p   Placement
					err error
				}
				got := make(chan answer, 1)
				go func() { p, err := d.Route(ctx, "a"); got <- answer{p, err} }()
				synctest.Wait()
				store.hook(nil)
				store.mu.Lock()
				store.after = func(_ context.Context, op string, _ ...string) error {
					if op != "lookup" {
						<-hold
					}
					return nil
				}
				store.mu.Unlock()
				// The first is overtaken, and what is in the cache then is outdated by what has not returned yet.
				d.Invalidate("a")
				p, err := d.Route(ctx, "a")
				require.Equal(t, c.first, p)
				next := Placement{Shard: "s2", Epoch: 2}
				go func() {
					if c.first.Shard == "" {
						_, _ = d.Insert(ctx, "a", next)
					} else {
						_, _ = d.Update(ctx, "a", 1, next)
					}
				}()
				synctest.Wait()
				row, _ := store.row("a")
				require.Equal(t, next, row)
				close(read)
				require.Equal(t, answer{c.first, err}, <-got)
				p, err2 := d.Route(ctx, "a")
				require.Equal(t, answer{c.first, err}, answer{p, err2})
				close(hold)
				synctest.Wait()
				p, err = d.Route(ctx, "a")
				require.NoError(t, err)
				require.Equal(t, next, p)
				d.idle(t)
			})
		})
	}
}

// Epochs grow, also if another process, whose clock is ahead, has written in between.
func TestDirectoryEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		ahead := uint64(time.Now().Add(time.Hour).UnixMicro())
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: ahead}, "b": {Shard: "s1", Epoch: ahead + 10}})
		d, other := newDirectory(t, store, DirectoryConfig[string]{}), newDirectory(t, store, DirectoryConfig[string]{})
		_, err := other.RouteAll(ctx, []string{"a", "b"})
		require.NoError(t, err)
		row, err := d.Update(ctx, "a", ahead, Placement{Shard: "s1"})
		require.NoError(t, err)
		require.Equal(t, ahead+1, row.Epoch)
		require.NoError(t, d.Delete(ctx, "a", row.Epoch))
		again, err := d.Insert(ctx, "a", Placement{Shard: "s2"})
		require.NoError(t, err)
		require.Equal(t, ahead+2, again.Epoch)
		require.NoError(t, d.Delete(ctx, "b", ahead+10))
		_, err = d.Insert(ctx, "b", Placement{Shard: "s2"})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		for _, k := range []string{"a", "b"} {
			p, err := other.Route(ctx, k)
			require.NoError(t, err)
			require.Equal(t, ID("s2"), p.Shard)
		}
		// Epochs of somebody's own making are not continued with, or there would soon be none left.
		for _, epoch := range []uint64{math.MaxUint64 - 1, math.MaxInt64} {
			store.set("c", Placement{Shard: "s1", Epoch: epoch})
			row, err = d.Update(ctx, "c", epoch, Placement{Shard: "s1"})
			require.NoError(t, err)
			require.Equal(t, epoch+1, row.Epoch)
			require.NoError(t, d.Delete(ctx, "c", row.Epoch))
		}
		row, err = d.Insert(ctx, "d", Placement{Shard: "s1"})
		require.NoError(t, err)
		require.Equal(t, ahead+12, row.Epoch)
	})
}

// The look-up of Remove has LoadTimeout too, and counts.
func TestDirectoryRemoveHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		store.before = func(ctx context.Context, op string, keys ...string) error { <-ctx.Done(); return ctx.Err() }
		d := newDirectory(t, store, DirectoryConfig[string]{LoadTimeout: 3 * time.Second})
		start := time.Now()
		err := d.Remove(t.Context(), "a", nil)
		require.EqualError(t, err, "shard: the store of the directory has not answered for 3s: context deadline exceeded")
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Equal(t, DirectoryStats{Loads: 1, Batches: 1, Errors: 1}, d.Stats())
	})
}

// What is looked up while the row is written is not kept, in whatever order they come to their ends.
func TestDirectoryOvertaken(t *testing.T) {
	before, after := Placement{Shard: "s1", Epoch: 5}, Placement{Shard: "s2", Epoch: 6}
	for name, c := range map[string]struct {
		row   bool // whether there is one before
		write func(ctx context.Context, d *Directory[string], store *dirTable[string]) error
		want  Placement // after that; none: not found
		asks  int       // how often the store is asked for it
	}{
		"insert": {false, func(ctx context.Context, d *Directory[string], _ *dirTable[string]) error {
			_, err := d.Insert(ctx, "a", after)
			return err
		}, after, 0},
		"update": {true, func(ctx context.Context, d *Directory[string], _ *dirTable[string]) error {
			_, err := d.Update(ctx, "a", 5, after)
			return err
		}, after, 0},
		"delete": {true, func(ctx context.Context, d *Directory[string], _ *dirTable[string]) error {
			return d.Delete(ctx, "a", 5)
		}, Placement{}, 1},
		"doubt": {false, func(ctx context.Context, d *Directory[string], s *dirTable[string]) error {
			s.fails = "insert"
			if _, err := d.Insert(ctx, "a", after); !errors.Is(err, errDown) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		}, after, 1},
		"message": {true, func(_ context.Context, d *Directory[string], s *dirTable[string]) error {
			s.set("a", after)
			d.Invalidate("a")
			return nil
		}, after, 1},
		"clear": {true, func(_ context.Context, d *Directory[string], s *dirTable[string]) error {
			s.set("a", after)
			d.Clear()
			return nil
		}, after, 1},
	} {
		for _, schedule := range [][]string{{"read", "load", "write"}, {"read", "write", "load"}, {"write", "read", "load"}} {
			t.Run(fmt.Sprint(name, schedule), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					store := newDirTable[string](nil)
					if c.row {
						store.set("a", before)
					}
					d := newDirectory(t, store, DirectoryConfig[string]{})
					// The Lookup stops before it reads, and after.
					read, load := make(chan bool), make(chan bool)
					store.before = func(ctx context.Context, op string, keys ...string) error {
						if op == "lookup" {
							<-read
						}
						return nil
					}
					store.after = func(ctx context.Context, op string, keys ...string) error {
						if op == "lookup" {
							<-load
						}
						return nil
					}
					done := make(chan error, 1)
					go func() {
						p, err := d.Route(ctx, "a")
						if err == nil && p != before && p != after {
							err = fmt.Errorf("got %v", p)
						}
						done <- err
					}()
					synctest.Wait()
					steps := map[string]func(){
						"read":  func() { close(read) },
						"load":  func() { close(load) },
						"write": func() { require.NoError(t, c.write(ctx, d, store)) },
					}
					for _, step := range schedule {
						steps[step]()
						synctest.Wait()
					}
					if err := <-done; err != nil {
						require.Equal(t, ErrNotFound, err, "who came before may be told so")
					}
					store.asked()
					for range 2 {
						p, err := d.Route(ctx, "a")
						if c.want.Shard == "" {
							require.Equal(t, ErrNotFound, err)
						} else {
							require.NoError(t, err)
						}
						require.Equal(t, c.want, p)
					}
					require.Equal(t, c.asks, store.asked())
					d.idle(t)
				})
			})
		}
	}
}

// The same with chance in place of a schedule: who routes after Insert has returned finds the key.
func TestDirectoryInsertBesideLoads(t *testing.T) {
	rounds := 3000
	if underRace || testing.Short() {
		rounds = 500
	}
	store := newDirTable[int](nil)
	yield := func(context.Context, string, ...int) error {
		for range rand.IntN(4) {
			runtime.Gosched()
		}
		return nil
	}
	store.before, store.after = yield, yield
	d := newDirectory(t, store, DirectoryConfig[int]{NegativeTTL: time.Hour, TTL: time.Hour})
	for k := range rounds {
		var wg sync.WaitGroup
		var inserted atomic.Bool
		for range 3 {
			wg.Go(func() {
				for range 5 {
					was := inserted.Load()
					if _, err := d.Route(t.Context(), k); err != nil && (was || err != ErrNotFound) {
						t.Errorf("%d: %v", k, err)
					}
				}
			})
		}
		wg.Go(func() {
			if _, err := d.Insert(t.Context(), k, Placement{Shard: "a"}); err != nil {
				t.Error(err)
			}
			inserted.Store(true)
			if _, err := d.Route(t.Context(), k); err != nil {
				t.Errorf("%d after Insert: %v", k, err)
			}
		})
		wg.Wait()
		if _, err := d.Route(t.Context(), k); err != nil {
			t.Errorf("%d at the end: %v", k, err)
		}
	}
	d.idle(t)
}

func TestDirectoryInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[string]Placement{"a": {Shard: "s1", Epoch: 9}})
		d := newDirectory(t, store, DirectoryConfig[string]{})
		ctx := t.Context()
		for _, forget := range []func(){
			func() { d.Invalidate("a"); d.Invalidate("b") },
			d.Clear,
		} {
			store.set("a", Placement{Shard: "s1", Epoch: 9})
			_, err := d.RouteAll(ctx, []string{"a", "b"})
			require.NoError(t, err)
			forget()
			require.Zero(t, d.Len())
			require.Zero(t, d.Stats().Negatives)
			store.down(errDown)
			_, err = d.Route(ctx, "a")
			require.ErrorIs(t, err, errDown, "what is known to be outdated is not used")
			store.down(nil)
			store.set("a", Placement{Shard: "s2", Epoch: 1})
			p, err := d.Route(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, ID("s2"), p.Shard)
			_, err = d.Route(ctx, "b")
			require.Equal(t, ErrNotFound, err)
			d.idle(t)
		}
	})
}

// A full cache drops what is not used; keys that do not exist push out no rows.
func TestDirectoryEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		for k := range 1000 {
			store.set(k, Placement{Shard: "a"})
		}
		d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 100, NegativeCapacity: 10, NegativeTTL: time.Hour, TTL: time.Hour})
		require.Len(t, d.segments, 1)
		ctx := t.Context()
		route := func(k int) {
			if _, err := d.Route(ctx, k); err != nil && k < 1000 {
				t.Error(k, err)
			}
		}
		for k := range 50 {
			route(k)
			route(k)
		}
		for k := range 1000 {
			route(k)
			route(k % 50)
		}
		store.asked()
		for k := range 50 {
			route(k)
		}
		require.Zero(t, store.asked(), "what is used stays")
		require.Equal(t, 100, d.Len())
		for k := 1000; k < 2000; k++ {
			route(k)
			route(1000)
		}
		require.Equal(t, 100, d.Len())
		require.Equal(t, 10, d.Stats().Negatives)
		require.EqualValues(t, 900+990, d.Stats().Evictions)
		store.asked()
		route(1000)
		require.Zero(t, store.asked())
		d.idle(t)
	})
	// What is looked up again is used.
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable(map[int]Placement{1: {Shard: "a"}, 2: {Shard: "a"}, 3: {Shard: "a"}})
		d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 2})
		for _, k := range []int{1, 2} {
			_, _ = d.Route(t.Context(), k)
		}
		time.Sleep(time.Minute)
		for _, k := range []int{1, 3, 1} {
			_, _ = d.Route(t.Context(), k)
		}
		require.Equal(t, 4, store.asked())
	})
	// The hand stays where it is when the table grows, which it does for keys that do not exist too.
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[int](nil)
		for k := range 100 {
			store.set(k, Placement{Shard: "a"})
		}
		d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 8, NegativeCapacity: 100})
		route := func(k int) { _, _ = d.Route(t.Context(), k) }
		for k := range 8 {
			route(k)
			route(k)
		}
		route(8)
		for k := 1; k < 6; k++ {
			route(k)
		}
		route(9) // and 6 is next
		for k := range 50 {
			route(-1 - k)
		}
		route(10)
		store.asked()
		for _, k := range []int{1, 2, 3, 4, 5} {
			route(k)
		}
		require.Zero(t, store.asked())
		d.idle(t)
	})
	// The capacity is kept to in all parts together.
	store := newDirTable[int](nil)
	for k := range 20_000 {
		store.set(k, Placement{Shard: "a"})
	}
	d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 5001, NegativeCapacity: 777})
	for k := 0; k < 40_000; k += 100 {
		keys := make([]int, 100)
		for i := range keys {
			keys[i] = k + i
		}
		_, err := d.RouteAll(t.Context(), keys)
		require.NoError(t, err)
	}
	require.Equal(t, 5001, d.Len())
	require.Equal(t, 777, d.Stats().Negatives)
	d.idle(t)
}

// All keys have one hash.
func TestDirectoryCollisions(t *testing.T) {
	store := newDirTable[int](nil)
	d := newDirectory(t, store, DirectoryConfig[int]{Capacity: 50})
	d.hasher.Mask = 0
	for k := range 100 {
		store.set(k, Placement{Shard: "a", Epoch: uint64(k)})
		p, err := d.Route(t.Context(), k)
		require.NoError(t, err)
		require.EqualValues(t, k, p.Epoch)
		_, err = d.Route(t.Context(), -1-k)
		require.Equal(t, ErrNotFound, err)
	}
	d.idle(t)
}

// errKilled is what a process that is killed does not live to see.
var errKilled = errors.New("killed")

// Create and Remove can be stopped at every step, and tried again. At no moment is there data without a
// row that leads to it.
func TestDirectoryKilled(t *testing.T) {
	// A world is a store and the data in the shards.
	type world struct {
		store *dirTable[string]
		data  map[ID]map[string]string
		step  int // calls so far
		kill  int // the step at which the process is killed; before it takes effect if late is false
		late  bool
	}
	lost := func(w *world) error {
		for id, keys := range w.data {
			for k := range keys {
				if row, ok := w.store.row(k); !ok || row.Shard != id {
					return fmt.Errorf("the data of %s in %s is lost: its row is %v, %v", k, id, row, ok)
				}
			}
		}
		return nil
	}
	newWorld := func(kill int, late bool) *world {
		w := &world{store: newDirTable[string](nil), data: map[ID]map[string]string{"s1": {}, "s2": {}}, kill: kill, late: late}
		w.store.before = func(context.Context, string, ...string) error {
			w.step++
			if w.step == w.kill && !w.late {
				panic(errKilled)
			}
			return nil
		}
		w.store.after = func(context.Context, string, ...string) error {
			if w.step == w.kill && w.late {
				panic(errKilled)
			}
			return lost(w)
		}
		return w
	}
	// effect is one step of a function that writes data.
	effect := func(w *world, f func()) error {
		w.step++
		if w.step == w.kill && !w.late {
			panic(errKilled)
		}
		f()
		if w.step == w.kill && w.late {
			panic(errKilled)
		}
		return lost(w)
	}
	// do calls f in a process of its own, and reports whether that was killed.
	do := func(w *world, f func(d *Directory[string]) error) (killed bool, err error) {
		d := newDirectory(t, w.store, DirectoryConfig[string]{})
		defer func() {
			if v := recover(); v != nil {
				if e, ok := v.(error); !ok || !errors.Is(e, errKilled) {
					panic(v)
				}
				killed = true
			}
		}()
		return false, f(d)
	}
	create := func(w *world, shard ID) func(d *Directory[string]) error {
		return func(d *Directory[string]) error {
			_, err := d.Create(context.Background(), "k", Placement{Shard: shard}, func(_ context.Context, p Placement) error {
				return effect(w, func() { w.data[p.Shard]["k"] = "v" })
			})
			return err
		}
	}
	remove := func(w *world) func(d *Directory[string]) error {
		return func(d *Directory[string]) error {
			return d.Remove(context.Background(), "k", func(_ context.Context, p Placement) error {
				return effect(w, func() { delete(w.data[p.Shard], "k") })
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		steps := 0
		for _, late := range []bool{false, true} {
			for kill := 1; ; kill++ {
				w := newWorld(kill, late)
				killed, err := do(w, create(w, "s1"))
				require.NoError(t, err)
				require.NoError(t, lost(w))
				if killed {
					// Who tries again may want it elsewhere: it comes to where the row says.
					killed, err = do(w, create(w, "s2"))
					require.False(t, killed)
					require.NoError(t, err)
				}
				require.Len(t, w.data["s1"], 1-len(w.data["s2"]), "it is in one place")
				created := w.step
				killed, err = do(w, remove(w))
				require.NoError(t, err)
				require.NoError(t, lost(w))
				if killed {
					killed, err = do(w, remove(w))
					require.False(t, killed)
					if err != nil {
						require.Equal(t, ErrNotFound, err)
					}
				}
				require.Empty(t, w.data["s1"])
				require.Empty(t, w.data["s2"])
				require.Empty(t, w.store.rows)
				steps++
				if kill > created && !killed && w.step < kill {
					break
				}
			}
		}
		require.Equal(t, 2*8, steps, "insert, write, update; lookup, update, erase, delete; and none")
	})
}

func TestDirectoryCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		d := newDirectory(t, store, DirectoryConfig[string]{})
		ctx := t.Context()
		nothing := func(context.Context, Placement) error { return nil }
		p, err := d.Create(ctx, "a", Placement{Shard: "s1"}, func(ctx context.Context, p Placement) error {
			got, err := d.Route(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, p, got, "the row comes first")
			return errDown
		})
		require.Equal(t, errDown, err)
		require.Equal(t, ID("s1"), p.Shard)
		// The second finds it, and gives it a new epoch.
		again, err := d.Create(ctx, "a", Placement{Shard: "s2"}, nothing)
		require.NoError(t, err)
		require.Equal(t, ID("s1"), again.Shard)
		require.Greater(t, again.Epoch, p.Epoch)
		require.ErrorIs(t, d.Delete(ctx, "a", p.Epoch), ErrStaleEpoch)

		// What is fenced is not written.
		fenced, err := d.Update(ctx, "a", again.Epoch, Placement{Shard: "s1", State: Fenced})
		require.NoError(t, err)
		_, err = d.Create(ctx, "a", Placement{Shard: "s2"}, nil)
		require.ErrorIs(t, err, ErrFenced)
		_, err = d.Update(ctx, "a", fenced.Epoch, Placement{Shard: "s2"})
		require.NoError(t, err)

		// A Remove that meets a change leaves the row.
		err = d.Remove(ctx, "a", func(_ context.Context, p Placement) error {
			require.Equal(t, ID("s2"), p.Shard)
			store.set("a", Placement{Shard: "s3", Epoch: p.Epoch + 1})
			return nil
		})
		require.ErrorIs(t, err, ErrStaleEpoch)
		require.Equal(t, errDown, d.Remove(ctx, "a", func(context.Context, Placement) error { return errDown }))
		row, _ := store.row("a")
		require.Equal(t, Fenced, row.State, "it is to be tried again")
		require.NoError(t, d.Remove(ctx, "a", func(_ context.Context, p Placement) error {
			require.Equal(t, ID("s3"), p.Shard)
			return nil
		}))
		require.Equal(t, ErrNotFound, d.Remove(ctx, "a", nil))
		store.down(errDown)
		require.ErrorIs(t, d.Remove(ctx, "a", nil), errDown)
		_, err = d.Create(ctx, "a", Placement{Shard: "s1"}, nil)
		require.ErrorIs(t, err, errDown)
		store.down(nil)

		// Remove knows what this process has created, even if the store reads from a copy that does not.
		_, err = d.Create(ctx, "b", Placement{Shard: "s1"}, nothing)
		require.NoError(t, err)
		row, _ = store.row("b")
		store.after = func(ctx context.Context, op string, keys ...string) error {
			if op == "lookup" {
				return ErrNotFound
			}
			return nil
		}
		require.NoError(t, d.Remove(ctx, "b", func(_ context.Context, p Placement) error {
			require.Equal(t, row.Shard, p.Shard)
			require.Equal(t, Fenced, p.State)
			require.Greater(t, p.Epoch, row.Epoch)
			return nil
		}))
		require.Empty(t, store.rows)
		store.after = nil
		old, err := d.Insert(ctx, "b", Placement{Shard: "s1"})
		require.NoError(t, err)
		row, err = d.Update(ctx, "b", old.Epoch, Placement{Shard: "s2"})
		require.NoError(t, err)
		store.after = func(ctx context.Context, op string, keys ...string) error {
			if op == "lookup" {
				store.set("b", row)
			}
			return nil
		}
		store.set("b", old)
		require.NoError(t, d.Remove(ctx, "b", func(_ context.Context, p Placement) error {
			require.Equal(t, row.Shard, p.Shard)
			return nil
		}))
		store.after = nil

		// A store that contradicts itself is not asked for ever.
		store.set("c", Placement{Shard: "s1", Epoch: 1})
		store.hook(func(ctx context.Context, op string, keys ...string) error {
			if op == "update" {
				return ErrStaleEpoch
			}
			return nil
		})
		_, err = d.Create(ctx, "c", Placement{Shard: "s1"}, nil)
		require.ErrorIs(t, err, ErrStaleEpoch)
		d.idle(t)
	})
}

// Create and Remove of one key, in one process, do not mix.
func TestDirectoryCreateBesideRemove(t *testing.T) {
	rounds := 200
	if underRace || testing.Short() {
		rounds = 50
	}
	store := newDirTable[int](nil)
	d := newDirectory(t, store, DirectoryConfig[int]{})
	var mu sync.Mutex
	data := map[int]ID{}
	ctx := t.Context()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range rounds {
				k := rng.IntN(3)
				if rng.IntN(2) == 0 {
					_, err := d.Create(ctx, k, Placement{Shard: ID(fmt.Sprint("s", rng.IntN(3)))}, func(_ context.Context, p Placement) error {
						runtime.Gosched()
						mu.Lock()
						defer mu.Unlock()
						if old, ok := data[k]; ok && old != p.Shard {
							return fmt.Errorf("%d is in %s and comes to %s", k, old, p.Shard)
						}
						data[k] = p.Shard
						return nil
					})
					if err != nil {
						t.Error(err)
					}
					continue
				}
				err := d.Remove(ctx, k, func(_ context.Context, p Placement) error {
					runtime.Gosched()
					mu.Lock()
					defer mu.Unlock()
					delete(data, k)
					return nil
				})
				if err != nil && err != ErrNotFound {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for k := range 3 {
		row, ok := store.row(k)
		id, there := data[k]
		require.Equal(t, there, ok, "key %d", k)
		require.Equal(t, id, row.Shard)
	}
	d.idle(t)
}

// While one of them is under way, the other waits for as long as its context lets it.
func TestDirectoryCreateThenRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		d := newDirectory(t, store, DirectoryConfig[string]{})
		ctx := t.Context()
		slow := func(context.Context, Placement) error { time.Sleep(time.Minute); return nil }
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		start := time.Now()
		go func() { _, _ = d.Create(ctx, "a", Placement{Shard: "s1"}, slow) }()
		synctest.Wait()
		require.Equal(t, context.DeadlineExceeded, d.Remove(short, "a", nil))
		require.NoError(t, d.Remove(ctx, "a", slow))
		require.Equal(t, 2*time.Minute, time.Since(start))
		_, err := d.Create(ctx, "a", Placement{Shard: "s1"}, func(context.Context, Placement) error { return nil })
		require.NoError(t, err)
		go func() { _ = d.Remove(ctx, "a", slow) }()
		synctest.Wait()
		_, err = d.Create(ctx, "a", Placement{Shard: "s2"}, func(context.Context, Placement) error { return nil })
		require.NoError(t, err)
		require.Equal(t, 3*time.Minute, time.Since(start))
		row, _ := store.row("a")
		require.Equal(t, ID("s2"), row.Shard)
		d.idle(t)
	})
}

// Everything at once. Each row says its key, and epochs grow, so that an answer can be judged.
func TestDirectoryStress(t *testing.T) {
	rounds := 6000
	if underRace || testing.Short() {
		rounds = 1500
	}
	store := newDirTable[int](nil)
	var fail atomic.Int64
	store.before = func(ctx context.Context, op string, keys ...int) error {
		for range rand.IntN(3) {
			runtime.Gosched()
		}
		switch n := fail.Add(1); {
		case n%17 == 0:
			return errDown
		case n%101 == 0:
			panic(errDown)
		}
		return ctx.Err()
	}
	d := newDirectory(t, store, DirectoryConfig[int]{
		Capacity: 40, NegativeCapacity: 20, TTL: time.Microsecond, NegativeTTL: time.Microsecond, RetryAfter: time.Nanosecond, MaxBatch: 4, Concurrency: 2,
	})
	const keys = 100
	judge := func(k int, p Placement, err error) {
		switch {
		case err == nil && p.Shard != ID(fmt.Sprint("s", k)):
			t.Errorf("%d is in %v", k, p)
		case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errDown) && !errors.Is(err, context.Canceled) &&
			!errors.Is(err, ErrExists) && !errors.Is(err, ErrStaleEpoch):
			t.Errorf("%d: %v", k, err)
		}
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(g)))
			one := func() {
				defer func() {
					if v := recover(); v != nil {
						if err, ok := v.(error); !ok || !errors.Is(err, errDown) {
							panic(v)
						}
					}
				}()
				k := rng.IntN(keys)
				row := Placement{Shard: ID(fmt.Sprint("s", k)), State: PartState(rng.IntN(3))}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if rng.IntN(10) == 0 {
					go cancel()
				}
				switch rng.IntN(20) {
				case 0:
					p, err := d.Insert(ctx, k, row)
					if err == nil || p.Shard != "" {
						judge(k, p, nil)
					}
					judge(k, row, err)
				case 1:
					if p, err := d.Route(ctx, k); err == nil {
						_, err = d.Update(ctx, k, p.Epoch, row)
						judge(k, row, err)
					}
				case 2:
					if p, err := d.Route(ctx, k); err == nil {
						judge(k, row, d.Delete(ctx, k, p.Epoch))
					}
				case 3:
					d.Invalidate(k)
				case 4:
					some := []int{k, (k + 1) % keys, (k + 7) % keys, (k + 8) % keys, (k + 9) % keys, (k + 10) % keys}
					found, err := d.RouteAll(ctx, some)
					judge(k, row, err)
					for k, p := range found {
						judge(k, p, nil)
					}
				case 5:
					if rng.IntN(50) == 0 {
						d.Clear()
					}
					d.Stats()
				default:
					p, err := d.Route(ctx, k)
					judge(k, p, err)
				}
			}
			for range rounds {
				one()
			}
		})
	}
	wg.Wait()
	for ended := false; !ended; runtime.Gosched() { // loads that nobody waits for
		d.queue.mu.Lock()
		ended = d.queue.running == 0 && len(d.queue.waiting) == 0
		d.queue.mu.Unlock()
	}
	d.idle(t)
	store.hook(nil)
	for k := range keys { // all is well again
		d.Invalidate(k)
		p, err := d.Route(t.Context(), k)
		row, ok := store.row(k)
		require.Equal(t, ok, err == nil)
		require.Equal(t, row, p)
	}
}

func TestDirectoryItemSize(t *testing.T) {
	if bits.UintSize == 64 {
		require.EqualValues(t, 40, reflect.TypeFor[dirItem]().Size(), "with 16 of the key and 8 of the links it is a cache line")
	}
}

func TestDirectoryAllocs(t *testing.T) {
	if underRace {
		return // the race detector allocates
	}
	ctx := t.Context()
	ints := newDirTable(map[uint64]Placement{12345: {Shard: "a", Epoch: 1}})
	byInt := newDirectory(t, ints, DirectoryConfig[uint64]{})
	strings := newDirTable(map[string]Placement{"user:12345": {Shard: "a", Epoch: 1}})
	byString := newDirectory(t, strings, DirectoryConfig[string]{})
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := byInt.Route(ctx, 12345); err != nil {
			t.Error(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := byString.Route(ctx, "user:12345"); err != nil {
			t.Error(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := byString.Route(ctx, "nobody"); err != ErrNotFound {
			t.Error(err)
		}
	}))
	require.Equal(t, 2, strings.asked())
}
