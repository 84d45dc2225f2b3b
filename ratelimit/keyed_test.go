package ratelimit

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// underRace is whether the race detector is on.
var underRace bool

func newKeyed[K comparable](t testing.TB, l Limit, c KeyedConfig) *Keyed[K] {
	t.Helper()
	x, err := NewKeyed[K](l, c)
	require.NoError(t, err)
	return x
}

// inShards divides x, which is new, into n shards, however few keys there are for each.
func inShards[K comparable](x *Keyed[K], c KeyedConfig, n int) *Keyed[K] {
	if c.HashKeys {
		x.hashed = newDebts[struct{}](c, x.shift, n)
	} else {
		x.stored = newDebts[K](c, x.shift, n)
	}
	return x
}

// check requires the invariants of x.
func (x *Keyed[K]) check(t testing.TB) {
	t.Helper()
	if x.hashed != nil {
		x.hashed.check(t, func(h uint64, _ struct{}) uint64 { return h })
		return
	}
	x.stored.check(t, func(h uint64, k K) uint64 {
		if k != k { // NaN
			return h
		}
		return x.hash(k)
	})
}

func (d *debts[S]) check(t testing.TB, hash func(uint64, S) uint64) {
	t.Helper()
	sum := 0
	for i := range d.shards {
		s := &d.shards[i]
		n := 0
		for at := range s.cells {
			h, k := s.cells[at].hash, s.cells[at].key
			if h == 0 {
				var none S
				require.Equal(t, none, k, "nothing is kept alive")
				continue
			}
			n++
			require.EqualValues(t, i, h>>d.which)
			for j := s.home(h); j != at; j = s.after(j) {
				require.NotZero(t, s.cells[j].hash, "the way to %d from %d has a hole at %d", at, s.home(h), j)
			}
			require.Equal(t, hash(h, k), h)
			if k == k {
				require.Equal(t, at, s.find(h, k), "twice")
			}
		}
		require.Equal(t, n, s.len)
		require.LessOrEqual(t, n, len(s.cells)/4*3)
		sum += n
	}
	require.EqualValues(t, sum, d.used.Load())
	require.LessOrEqual(t, sum, int(d.max))
}

func TestKeyedInvalid(t *testing.T) {
	for _, c := range []struct {
		l    Limit
		c    KeyedConfig
		want string
	}{
		{PerSecond(1), KeyedConfig{}, "ratelimit: MaxKeys must be between 1 and 2147483647, got 0"},
		{PerSecond(1), KeyedConfig{MaxKeys: -1}, "ratelimit: MaxKeys must be between 1 and 2147483647, got -1"},
		{PerSecond(1), KeyedConfig{MaxKeys: 1, OnFull: 3}, "ratelimit: OnFull must be DropLeast, RefuseNew or ShareOverflow, got OnFull(3)"},
		{PerSecond(1), KeyedConfig{MaxKeys: 1, Shards: -1}, "ratelimit: Shards must be between 0 and 65536, got -1"},
		{PerSecond(1), KeyedConfig{MaxKeys: 1, Shards: 1<<16 + 1}, "ratelimit: Shards must be between 0 and 65536, got 65537"},
		{PerSecond(0), KeyedConfig{MaxKeys: 1}, "ratelimit: invalid limit: Count must be at least 1, got 0"},
	} {
		_, err := NewKeyed[string](c.l, c.c)
		require.EqualError(t, err, c.want)
	}
	x := newKeyed[string](t, PerSecond(5), KeyedConfig{MaxKeys: 10})
	require.True(t, x.Take("a", 3).OK())
	for _, c := range []struct {
		l    Limit
		want string
	}{
		{PerSecond(0), "ratelimit: invalid limit: Count must be at least 1, got 0"},
		{PerSecond(3e9), "ratelimit: invalid limit: 3000000000 per 1s, burst 3000000000 cannot be counted in the units of this Keyed, which are nanoseconds / 2^0"},
		{PerHour(1).WithBurst(1e9), "ratelimit: invalid limit: 1 per 1h0m0s, burst 1000000000 cannot be counted in the units of this Keyed, which are nanoseconds / 2^0"},
	} {
		_, err := x.TakeLimit("a", c.l, 1)
		require.EqualError(t, err, c.want)
		require.ErrorIs(t, err, ErrLimit)
		_, err = x.PeekLimit("a", c.l, 1)
		require.EqualError(t, err, c.want)
		require.EqualError(t, x.SetLimit(c.l), c.want)
	}
	require.Equal(t, PerSecond(5), x.Limit())
	require.EqualValues(t, 2, x.Peek("a", 0).Remaining)
	require.Equal(t, "RefuseNew", RefuseNew.String())
	require.Equal(t, "ShareOverflow", ShareOverflow.String())
	require.Equal(t, "DropLeast", DropLeast.String())
}

// TestKeyedModel compares a Keyed that has room with a bucket for each key. Some hashes are equal, and
// units are of all sizes.
func TestKeyedModel(t *testing.T) {
	seed := rand.Uint64()
	for _, l := range []Limit{PerSecond(10), PerMinute(100).WithBurst(7), {Count: 997, Per: 1009 * time.Millisecond, Burst: 31}, PerSecond(3e9).WithBurst(5)} {
		for _, hashed := range []bool{false, true} {
			for _, mask := range []uint64{^uint64(0), 0xf000_0000_0000_0007, 0} {
				if hashed && mask != ^uint64(0) {
					continue // keys with the same hash are the same there
				}
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(seed, 0))
					c := KeyedConfig{MaxKeys: 64, HashKeys: hashed}
					x := inShards(newKeyed[int](t, l, c), c, 4)
					x.mask = mask
					model := map[int]*Bucket{}
					bucket := func(k int) *Bucket {
						if model[k] == nil {
							model[k] = newBucket(t, l)
						}
						return model[k]
					}
					step := max(2, int64(l.Per)/l.Count)
					for i := range 4000 {
						time.Sleep(time.Duration(rng.Int64N(step)))
						k, n := rng.IntN(64), rng.Int64N(l.burst()+3)-1
						if i/1000%2 == 1 {
							k %= 8 // so that others are in debt no more
						}
						var want, got Result
						switch rng.IntN(12) {
						case 0:
							want, got = bucket(k).Peek(n), x.Peek(k, n)
						case 1:
							_, was := model[k]
							delete(model, k)
							if !x.Delete(k) && was {
								continue // it was in debt no more, and overwritten
							}
							require.Zero(t, x.Peek(k, 0).ResetAfter)
						default:
							want, got = bucket(k).Take(n), x.Take(k, n)
							require.Equal(t, bucket(k).Peek(1).OK(), x.Peek(k, 1).OK())
						}
						require.Equal(t, want, got, "seed %d, step %d: %d of %d", seed, i, n, k)
						if !underRace && !testing.Short() || i%16 == 0 {
							x.check(t)
						}
					}
					if !hashed {
						all := maps.Collect(x.All())
						for k, b := range model {
							if want := b.Peek(0); want.ResetAfter > 0 {
								require.Equal(t, want, all[k])
								delete(all, k)
							}
						}
						require.Empty(t, all)
					}
					require.Zero(t, x.Stats())
					x.Clear()
					x.check(t)
					require.Zero(t, x.Len())
				})
			}
		}
	}
}

// TestKeyedLimits lets limits take turns: what is taken by each keeps to it.
func TestKeyedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []Limit{PerSecond(10).WithBurst(100), PerMinute(60).WithBurst(20), PerMinute(200).WithBurst(50)}
		x := newKeyed[string](t, all[0], KeyedConfig{MaxKeys: 10})
		rng := rand.New(rand.NewPCG(1, 1))
		start := time.Now()
		events := make([][]event, len(all))
		for range 5000 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(time.Second)))
			i, n := rng.IntN(len(all)), 1+rng.Int64N(3)
			peek, err := x.PeekLimit("k", all[i], n)
			require.NoError(t, err)
			r, err := x.TakeLimit("k", all[i], n)
			require.NoError(t, err)
			require.Equal(t, peek.OK(), r.OK())
			require.Equal(t, peek.RetryAfter, r.RetryAfter)
			if r.OK() {
				events[i] = append(events[i], event{time.Since(start), n})
			}
		}
		for i, l := range all {
			requireWithin(t, l, events[i], "")
			require.Greater(t, len(events[i]), 10)
		}

		require.NoError(t, x.SetLimit(PerSecond(2)))
		require.EqualValues(t, 2, x.Peek("new", 0).Limit)
		require.NoError(t, x.SetLimit(None))
		require.False(t, x.Allow("new"))
		require.NoError(t, x.SetLimit(Unlimited))
		require.True(t, x.Take("new", 1e15).OK())
		r, err := x.TakeLimit("new", None, 1)
		require.NoError(t, err)
		require.Equal(t, Never, r.RetryAfter)
		for _, r := range x.All() {
			require.True(t, r.OK())
		}
	})
}

// TestKeyedPeekIsTake requires of Peek what Take then does, in all states of fullness.
func TestKeyedPeekIsTake(t *testing.T) {
	for _, onFull := range []OnFull{DropLeast, RefuseNew, ShareOverflow} {
		for _, shards := range []int{1, 4, 16, -1} {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(onFull), uint64(shards)))
				c := KeyedConfig{MaxKeys: 20, OnFull: onFull}
				if shards < 0 {
					c.MaxKeys, shards = 24, 1 // of 32 cells, so that one shard is full when it is crowded
				}
				x := inShards(newKeyed[int](t, PerSecond(5), c), c, shards)
				refused, allowed := 0, 0
				for range 5000 {
					time.Sleep(time.Duration(rng.ExpFloat64() * float64(20*time.Millisecond)))
					k, n := rng.IntN(60), rng.Int64N(7)-1
					peek := x.Peek(k, n)
					require.Equal(t, peek, x.Peek(k, n))
					r := x.Take(k, n)
					require.Equal(t, peek.OK(), r.OK(), "%d of %d", n, k)
					require.Equal(t, peek.RetryAfter, r.RetryAfter)
					if r.OK() {
						allowed++
						require.Equal(t, peek.Remaining-n, r.Remaining)
					} else if refused++; r.RetryAfter != Never {
						require.Positive(t, r.RetryAfter)
						require.Positive(t, r.ResetAfter)
					}
					if !underRace && !testing.Short() || rng.IntN(16) == 0 {
						x.check(t)
					}
					if rng.IntN(50) == 0 {
						x.Delete(rng.IntN(60))
					}
				}
				require.Greater(t, refused, 100)
				require.Greater(t, allowed, 100)
				require.Equal(t, onFull == DropLeast, x.Stats().Dropped > 0)
				require.Equal(t, onFull != DropLeast, x.Stats().TurnedAway > 0)
				require.Equal(t, c.MaxKeys, x.Cap())
			})
		}
	}
}

// TestKeyedFull is what happens to new keys when there is no room, one by one.
func TestKeyedFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fill := func(onFull OnFull) *Keyed[string] {
			x := newKeyed[string](t, PerSecond(2), KeyedConfig{MaxKeys: 8, OnFull: onFull})
			for i := range 8 {
				require.True(t, x.Take("spoofed"+strconv.Itoa(i), 1).OK())
			}
			require.True(t, x.Take("spoofed0", 1).OK())
			require.Equal(t, 8, x.Len())
			return x
		}
		x := fill(DropLeast)
		for i := range 100 {
			require.True(t, x.Allow("new"+strconv.Itoa(i)))
			require.False(t, x.Allow("spoofed0"), "it owes most")
		}
		require.Equal(t, KeyedStats{Dropped: 100}, x.Stats())

		x = fill(RefuseNew)
		r := x.Take("new", 1)
		require.Equal(t, Result{Limit: 2, RetryAfter: 500 * time.Millisecond, ResetAfter: 500 * time.Millisecond, NextToken: 500 * time.Millisecond}, r)
		require.Equal(t, Never, x.Take("new", 3).RetryAfter)
		require.Equal(t, Never, x.Take("new", -1).RetryAfter)
		require.True(t, x.Take("new", 0).OK())
		require.Equal(t, KeyedStats{TurnedAway: 1}, x.Stats())
		time.Sleep(r.RetryAfter - time.Nanosecond)
		require.False(t, x.Allow("new"))
		time.Sleep(time.Nanosecond)
		require.True(t, x.Allow("new"))
		require.True(t, x.Allow("spoofed0"))
		require.LessOrEqual(t, x.Len(), 8)

		x = fill(ShareOverflow)
		require.True(t, x.Allow("new1"))
		require.EqualValues(t, 1, x.Peek("new3", 1).Remaining)
		require.True(t, x.Allow("new2"))
		require.Equal(t, 500*time.Millisecond, x.Take("new3", 1).RetryAfter)
		require.Equal(t, KeyedStats{TurnedAway: 3}, x.Stats())
		x.Delete("spoofed3")
		require.True(t, x.Allow("new3"))
		require.False(t, x.Allow("new4"))
		x.Clear()
		require.EqualValues(t, 2, x.Peek("new4", 1).Remaining)
	})
}

// TestKeyedSpoofed sends ten million requests under a new key each, and requires of those that are
// exhausted that they stay so.
func TestKeyedSpoofed(t *testing.T) {
	n := 10_000_000
	if underRace || testing.Short() {
		n = 200_000
	}
	for _, hashed := range []bool{false, true} {
		x := newKeyed[int](t, PerHour(2), KeyedConfig{MaxKeys: 10_000, HashKeys: hashed})
		const exhausted = 100
		for k := range exhausted {
			require.True(t, x.Take(-k-1, 2).OK())
		}
		for k := range n / 2 {
			if !x.Allow(k) {
				t.Fatalf("%d is refused", k)
			}
			if k%1000 == 0 {
				for k := range exhausted {
					if x.Allow(-k - 1) {
						t.Fatal("an exhausted key was allowed more")
					}
				}
			}
		}
		x.check(t)
		require.Equal(t, 10_000, x.Len())
		require.EqualValues(t, n/2+exhausted-10_000, x.Stats().Dropped)
	}
}

// TestKeyedRefuseNew requires that new keys are refused only if all others of their shard are in
// debt, and are allowed at RetryAfter.
func TestKeyedRefuseNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 3))
		for _, maxKeys := range []int{8, 20, 24, 100, 1000} {
			x := newKeyed[int](t, PerMinute(1), KeyedConfig{MaxKeys: maxKeys, OnFull: RefuseNew, Shards: 1})
			for k := range maxKeys {
				require.True(t, x.Allow(k))
				time.Sleep(time.Duration(rng.Int64N(int64(time.Minute) / int64(maxKeys))))
			}
			for k := maxKeys; k < 3*maxKeys; k++ {
				r := x.Take(k, 1)
				if r.OK() {
					continue
				}
				time.Sleep(r.RetryAfter - time.Nanosecond)
				require.False(t, x.Allow(k))
				time.Sleep(time.Nanosecond)
				require.True(t, x.Allow(k), "%d keys", maxKeys)
			}
			x.check(t)
		}
	})
}

// TestKeyedRefuseNewMoves has the key that would have been free first take more, or be gone: then it is
// another's time that is told.
func TestKeyedRefuseNewMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newKeyed[string](t, PerSecond(1).WithBurst(10), KeyedConfig{MaxKeys: 2, OnFull: RefuseNew})
		require.True(t, x.Take("a", 1).OK())
		require.True(t, x.Take("b", 4).OK())
		require.Equal(t, time.Second, x.Take("new", 1).RetryAfter)
		require.True(t, x.Take("a", 5).OK())
		require.Equal(t, 4*time.Second, x.Peek("new", 1).RetryAfter)
		require.Equal(t, 4*time.Second, x.Take("new", 1).RetryAfter)
		x.Delete("b")
		require.True(t, x.Take("c", 2).OK())
		require.Equal(t, 2*time.Second, x.Take("new", 1).RetryAfter)
		time.Sleep(2 * time.Second)
		require.True(t, x.Allow("new"))

		// Where the shard of the key has no entries, it is the first place in any.
		c := KeyedConfig{MaxKeys: 3, OnFull: RefuseNew}
		y := inShards(newKeyed[int](t, PerSecond(1).WithBurst(10), c), c, 8)
		of := func(shard uint64) int {
			for k := 0; ; k++ {
				if y.hash(k)>>y.stored.which == shard {
					return k
				}
			}
		}
		require.True(t, y.Take(of(1), 9).OK())
		require.True(t, y.Take(of(2), 2).OK())
		require.True(t, y.Take(of(5), 3).OK())
		for _, r := range []Result{y.Peek(of(0), 1), y.Take(of(0), 1)} {
			require.Equal(t, 2*time.Second, r.RetryAfter)
		}
		time.Sleep(2 * time.Second)
		require.True(t, y.Peek(of(0), 1).OK())
		require.True(t, y.Take(of(0), 1).OK())
		y.check(t)
	})
}

// TestKeyedSteady has new keys come all the time, of which so many are in debt at once, and requires
// that hardly one is dropped as long as a third of the places is free.
func TestKeyedSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxKeys, n = 10_000, 100_000
		for percent, most := range map[int]uint64{50: 0, 67: n / 100, 90: n / 5} {
			x := newKeyed[int](t, PerSecond(1), KeyedConfig{MaxKeys: maxKeys, HashKeys: true})
			for k := range n {
				require.True(t, x.Allow(k))
				time.Sleep(time.Second / time.Duration(maxKeys*percent/100))
			}
			t.Log(percent, x.Stats().Dropped)
			require.LessOrEqual(t, x.Stats().Dropped, most, "%d %%", percent)
		}
	})
}

// TestKeyedFrozenClock allows exactly Burst of each key while time stands still, to goroutines that all
// ask for all keys while tables grow.
func TestKeyedFrozenClock(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const keys, burst = 500, 3
			x := newKeyed[int](t, Every(time.Second).WithBurst(burst), KeyedConfig{MaxKeys: keys, HashKeys: hashed})
			allowed := make([]atomic.Int64, keys)
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), 0))
					for _, k := range rng.Perm(keys) {
						if x.Allow(k) {
							allowed[k].Add(1)
						}
						x.Peek(rng.IntN(keys), 1)
					}
				})
			}
			wg.Wait()
			for k := range allowed {
				require.EqualValues(t, burst, allowed[k].Load())
			}
			x.check(t)
		})
	}
}

// TestKeyedConcurrent does everything at once by the real clock, and compares the sums with what the
// time that all took allows.
func TestKeyedConcurrent(t *testing.T) {
	l := PerSecond(20_000).WithBurst(5)
	x := newKeyed[int](t, l, KeyedConfig{MaxKeys: 200})
	const keys = 100 // whose sums are compared; others come and go, but there is room for all
	start := time.Now()
	allowed := make([]atomic.Int64, keys)
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range 2000 {
				k := rng.IntN(keys)
				if x.Allow(k) {
					allowed[k].Add(1)
				}
				switch other := keys + rng.IntN(100); rng.IntN(200) {
				case 0:
					x.Delete(other)
				case 1:
					for k := range x.All() {
						if k < 0 {
							t.Error("an absurd key")
						}
					}
				case 2:
					if err := x.SetLimit(l); err != nil {
						t.Error(err)
					}
				default:
					x.Take(other, 2)
				}
			}
		})
	}
	wg.Wait()
	most := int64(time.Since(start).Seconds()*float64(l.Count)) + 1 + l.burst()
	for k := range allowed {
		require.LessOrEqual(t, allowed[k].Load(), most)
		require.GreaterOrEqual(t, allowed[k].Load(), l.burst())
	}
	x.check(t)
	require.Zero(t, x.Stats().Dropped)
}

// TestKeyedStale has a call that read the clock come after another has dropped its key: it must not
// find tokens that were not there yet when it read the clock.
func TestKeyedStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newKeyed[string](t, Every(10*time.Second), KeyedConfig{MaxKeys: 1})
		require.True(t, x.Allow("k"))
		time.Sleep(5 * time.Second)
		stale := time.Since(x.stored.base)
		time.Sleep(5 * time.Second)
		require.True(t, x.Allow("other")) // in the place of k
		require.True(t, x.Delete("other"))
		h := x.hash("k")
		require.True(t, x.stored.takeSlow(&x.stored.shards[0], h, "k", x.limit.Load(), stale, 1, true).OK())
		require.Equal(t, 10*time.Second, x.Take("k", 1).RetryAfter, "as if it had read the clock later")
	})
}

// TestKeyedForget requires tables not to grow for keys that are in debt no more, and all
// keys to fit that are.
func TestKeyedForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newKeyed[int](t, PerSecond(1), KeyedConfig{MaxKeys: 1 << 20, Shards: 1})
		for k := range 100_000 {
			x.Allow(k)
			time.Sleep(10 * time.Millisecond)
		}
		// Hundred were in debt at a time.
		require.LessOrEqual(t, len(x.stored.shards[0].cells), 1024)
		x.check(t)
		for k := range 1000 {
			require.True(t, x.Allow(k))
		}
		for k := range 1000 {
			require.False(t, x.Allow(k))
		}
	})
}

// TestKeyedHorizon lets time go past what units can count, for limits that need the finest.
func TestKeyedHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, onFull := range []OnFull{DropLeast, ShareOverflow} {
			x := newKeyed[int](t, PerSecond(5e11).WithBurst(1e15), KeyedConfig{MaxKeys: 1, OnFull: onFull})
			require.EqualValues(t, 16, x.shift)
			b := newBucket(t, x.Limit())
			for range 100 {
				require.Equal(t, b.Take(9e14), x.Take(1, 9e14))
				require.Equal(t, b.Peek(9e14), x.Peek(1, 9e14))
				if onFull == ShareOverflow {
					require.Equal(t, b.Peek(9e14), func() Result { x.Take(2, 9e14); return x.Peek(2, 9e14) }())
				}
				time.Sleep(b.Peek(9e14).RetryAfter)
			}
			time.Sleep(100 * 24 * time.Hour)
			require.EqualValues(t, 1e15, x.Peek(1, 0).Remaining)
			require.True(t, x.Take(1, 1e15).OK())
			require.False(t, x.Take(1, 1e15).OK())
		}
	})
}

// TestKeyedKeys takes keys of odd kinds.
func TestKeyedKeys(t *testing.T) {
	x := newKeyed[any](t, PerHour(1), KeyedConfig{MaxKeys: 100})
	for _, k := range []any{nil, 1, "1", 1.0, struct{}{}, [2]any{1, "a"}} {
		require.True(t, x.Allow(k))
		require.False(t, x.Allow(k))
	}
	require.Panics(t, func() { x.Allow([]int{}) })
	require.Panics(t, func() { x.Delete([2]any{1, []int{}}) })
	for range 200 {
		require.True(t, x.Allow(math.NaN()), "it is not equal to itself")
	}
	require.LessOrEqual(t, x.Len(), 100)
	x.check(t)
	h := newKeyed[string](t, PerHour(1), KeyedConfig{MaxKeys: 100, HashKeys: true})
	require.PanicsWithValue(t, "ratelimit: All of a Keyed with HashKeys, which stores no keys", func() { h.All() })
	for range x.All() {
		break
	}
}

func TestKeyedAllocations(t *testing.T) {
	keys := make([]string, 100_000)
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
	}
	for _, hashed := range []bool{false, true} {
		x := newKeyed[string](t, PerHour(1), KeyedConfig{MaxKeys: 50_000, HashKeys: hashed})
		i := 0
		for ; i < 50_000; i++ {
			x.Allow(keys[i])
		}
		require.Zero(t, testing.AllocsPerRun(40_000, func() {
			x.Take(keys[i], 1) // new
			x.Take(keys[i], 1)
			x.Peek(keys[i-1], 1)
			i++
		}))
	}
}

// TestKeyedMemory requires at most 36 bytes a key of tables at any number of keys: 32, and what shards
// differ by.
func TestKeyedMemory(t *testing.T) {
	most := 300_000
	if underRace || testing.Short() {
		most = 30_000
	}
	x := newKeyed[int](t, PerHour(1), KeyedConfig{MaxKeys: most, HashKeys: true})
	for k := range most {
		require.True(t, x.Allow(k))
		if k%1000 == 999 && k > most/10 {
			bytes := 0
			for i := range x.hashed.shards {
				bytes += len(x.hashed.shards[i].cells) * int(unsafe.Sizeof(x.hashed.shards[i].cells[0]))
			}
			require.LessOrEqual(t, float64(bytes)/float64(k), 36.0, "%d keys", k)
		}
	}
	runtime.KeepAlive(x)
}

// FuzzKeyed does what the input says, and compares with a bucket for each key that has been taken from
// since it was last deleted; while there is room.
func FuzzKeyed(f *testing.F) {
	f.Add([]byte("abcdefgh"), uint8(0))
	f.Add([]byte{0, 1, 255, 1, 2, 3, 3, 3, 128, 200, 7}, uint8(5))
	f.Fuzz(func(t *testing.T, ops []byte, flags uint8) {
		synctest.Test(t, func(t *testing.T) {
			l := PerSecond(10).WithBurst(3)
			c := KeyedConfig{MaxKeys: 256, HashKeys: flags&1 > 0}
			x := inShards(newKeyed[byte](t, l, c), c, 1<<(flags>>1&3))
			if flags&1 == 0 && flags&8 > 0 {
				x.mask = 0xf
			}
			model := map[byte]*Bucket{}
			for i := 0; i+1 < len(ops); i += 2 {
				k := ops[i+1]
				if model[k] == nil {
					model[k] = newBucket(t, l)
				}
				switch ops[i] % 4 {
				case 0, 1:
					require.Equal(t, model[k].Take(int64(ops[i]/4%5)), x.Take(k, int64(ops[i]/4%5)))
				case 2:
					time.Sleep(time.Duration(ops[i]) * 10 * time.Millisecond)
					require.Equal(t, model[k].Peek(1), x.Peek(k, 1))
				case 3:
					x.Delete(k)
					delete(model, k)
				}
				x.check(t)
			}
		})
	})
}
