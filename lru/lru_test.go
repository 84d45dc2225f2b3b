package lru

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// underRace is whether the race detector is on; see race_test.go.
var underRace bool

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		require.NoError(tb, err)
		return v
	}
}

func TestConfigErrors(t *testing.T) {
	weigh := func(int, int) uint32 { return 1 }
	for _, c := range []struct {
		config     Config[int, int]
		err, local string // local: if it differs
	}{
		{Config[int, int]{}, "lru: Capacity must be at least 1, got 0", ""},
		{Config[int, int]{Capacity: -1}, "lru: Capacity must be at least 1, got -1", ""},
		{Config[int, int]{Capacity: 1, Shards: -1}, "lru: Shards must be between 0 and 65536, got -1", ""},
		{Config[int, int]{Capacity: 1, Shards: 1<<16 + 1}, "lru: Shards must be between 0 and 65536, got 65537",
			"lru: Shards must be 0 or 1 for a Local, got 65537"},
		{Config[int, int]{Capacity: 1, Order: 2}, "lru: Order must be RecentUse or Insertion, got Order(2)", ""},
		{Config[int, int]{Capacity: 1, Shards: 2}, "", "lru: Shards must be 0 or 1 for a Local, got 2"},
		{Config[int, int]{Capacity: math.MaxInt, Weigher: weigh}, "", ""},
	} {
		_, err := New(c.config)
		check(t, c.err, err)
		if c.local != "" {
			c.err = c.local
		}
		_, err = NewLocal(c.config)
		check(t, c.err, err)
	}
	if math.MaxInt > math.MaxInt32 {
		big := math.MaxInt // int has 64 bits
		_, err := New(Config[int, int]{Capacity: big, Shards: 4})
		require.EqualError(t, err, "lru: Capacity must be at most 67108856 with 4 shards, got 9223372036854775807")
		_, err = NewLocal(Config[int, int]{Capacity: big})
		require.EqualError(t, err, "lru: Capacity must be at most 2147483646 with 1 shards, got 9223372036854775807")
	}
}

func TestResizeErrors(t *testing.T) {
	for _, shards := range []int{0, 1, 4} {
		c := setup{capacity: 100, shards: shards, mask: math.MaxUint64}.make(t, nil)
		c.Set(1, 1)
		for _, n := range []int{0, -1, math.MinInt} {
			evicted, err := c.Resize(n)
			require.Zero(t, evicted)
			require.EqualError(t, err, fmt.Sprintf("lru: Capacity must be at least 1, got %d", n))
			require.Equal(t, 100, c.Cap())
			require.Equal(t, 1, c.Len())
		}
	}
}

// TestResizeHeavy: an entry that is too heavy for its share of the new capacity leaves.
func TestResizeHeavy(t *testing.T) {
	left := map[int]Cause{}
	c := must(New(Config[int, int]{
		Capacity: 104, Shards: 1 << 3, // of 13 each
		Weigher: func(_, v int) uint32 { return uint32(v) },
		OnEvict: func(k, _ int, why Cause) { left[k] = why },
	}))(t)
	c.Set(1, 12) // as much as a share
	c.Set(2, 1)
	evicted, err := c.Resize(7) // in four shards of two or one
	require.NoError(t, err)
	require.Equal(t, 1, evicted)
	require.Equal(t, map[int]Cause{1: Evicted}, left)
	require.True(t, c.Contains(2))
	require.NoError(t, c.check())
	require.EqualValues(t, 1, c.Stats().Evictions)
}

func check(t *testing.T, want string, err error) {
	t.Helper()
	if want == "" {
		assert.NoError(t, err)
	} else {
		assert.EqualError(t, err, want)
	}
}

func TestShardSize(t *testing.T) {
	if size := reflect.TypeFor[shard[string, int]]().Size(); bits.UintSize == 64 {
		require.Zero(t, size%128, "%d bytes", size)
	}
}

func TestShardsFor(t *testing.T) {
	config := Config[int, int]{}
	require.Equal(t, 128, config.shardsFor(1<<20, 4))
	require.Equal(t, 1, config.shardsFor(511, 4))
	config.Shards = 5
	require.Equal(t, 8, config.shardsFor(100, 4))
	require.Equal(t, 4, config.shardsFor(7, 4))
	config = Config[int, int]{Weigher: func(int, int) uint32 { return 1 }}
	for capacity, want := range map[int]int{1: 1, 8191: 1, 8192: 2, 1 << 30: 8} {
		require.Equal(t, want, config.shardsFor(capacity, 1))
		require.Equal(t, want, config.shardsFor(capacity, 64))
	}
}

func TestStrings(t *testing.T) {
	require.Equal(t, "RecentUse Insertion Order(9)", fmt.Sprint(RecentUse, " ", Insertion, " ", Order(9)))
	for c, want := range map[Cause]string{Evicted: "Evicted", Replaced: "Replaced", Deleted: "Deleted",
		Cleared: "Cleared", Refused: "Refused", 0: "Cause(0)"} {
		require.Equal(t, want, c.String())
	}
	require.Zero(t, Stats{}.HitRatio())
	require.Equal(t, 0.25, Stats{Hits: 1, Misses: 3}.HitRatio())
}

// TestKeys tries kinds of keys on which an index could go wrong.
func TestKeys(t *testing.T) {
	nan := math.NaN()
	floats := must(New(Config[float64, int]{Capacity: 10}))(t)
	for i := range 100 {
		floats.Set(nan, i)
		require.NoError(t, floats.check())
	}
	require.Equal(t, 10, floats.Len(), "NaN is no key's equal, and leaves all the same")
	_, ok := floats.Get(nan)
	require.False(t, ok)
	floats.Set(0.0, 1)
	v, ok := floats.Get(math.Copysign(0, -1))
	require.True(t, ok)
	require.Equal(t, 1, v)
	_, err := floats.Resize(3)
	require.NoError(t, err)
	floats.Clear()
	require.Zero(t, floats.Len())

	type pair struct {
		a any
		b string
	}
	mixed := must(New(Config[any, int]{Capacity: 10}))(t)
	keys := []any{1, int8(1), "1", 1.0, [2]int{1, 2}, pair{1, "x"}, pair{"1", "x"}, &mixed, nil}
	for i, k := range keys {
		mixed.Set(k, i)
	}
	for i, k := range keys {
		v, ok := mixed.Get(k)
		require.True(t, ok, "%v", k)
		require.Equal(t, i, v)
	}
	for _, bad := range []any{[]int{1}, map[int]int{}, func() {}, pair{[]int{1}, "x"}} {
		for name, f := range map[string]func(){
			"Get":         func() { mixed.Get(bad) },
			"Peek":        func() { mixed.Peek(bad) },
			"Contains":    func() { mixed.Contains(bad) },
			"Set":         func() { mixed.Set(bad, 1) },
			"SetIfAbsent": func() { mixed.SetIfAbsent(bad, 1) },
			"Delete":      func() { mixed.Delete(bad) },
			"Compute":     func() { mixed.Compute(bad, func(int, bool) (int, Op) { return 1, OpSet }) },
		} {
			require.Panics(t, f, "%s of a %T", name, bad)
		}
	}
	require.NoError(t, mixed.check())
	require.Equal(t, len(keys), mixed.Len())
	mixed.Set("still", 1)
	require.True(t, mixed.Contains("still"))

	empty := must(NewLocal(Config[struct{}, string]{Capacity: 2}))(t)
	empty.Set(struct{}{}, "a")
	empty.Set(struct{}{}, "b")
	require.Equal(t, 1, empty.Len())
}

// TestCallbackPanics: a panic in a function of the user's comes out, and does no damage.
func TestCallbackPanics(t *testing.T) {
	for _, shards := range []int{0, 1, 2} {
		var told []int
		s := setup{capacity: 10, shards: shards, mask: math.MaxUint64, weigher: func(_, v int) uint32 {
			if v == 666 {
				panic("weigher")
			}
			return 1
		}}
		c := s.make(t, func(_, v int, _ Cause) {
			told = append(told, v)
			if v%2 == 0 {
				panic("OnEvict")
			}
		})
		for i := range 5 {
			c.Set(i, i)
		}
		whole := func(n int) {
			t.Helper()
			require.NoError(t, c.check())
			require.Equal(t, n, c.Len())
		}
		require.PanicsWithValue(t, "OnEvict", func() { c.Delete(0) })
		whole(4)
		require.False(t, c.Contains(0), "the call has taken effect")
		require.PanicsWithValue(t, "OnEvict", func() { c.Set(2, 13) })
		v, _ := c.Peek(2)
		require.Equal(t, 13, v)
		whole(4)
		require.PanicsWithValue(t, "weigher", func() { c.Set(2, 666) })
		require.PanicsWithValue(t, "weigher", func() { c.SetIfAbsent(7, 666) })
		require.PanicsWithValue(t, "weigher", func() {
			c.Compute(2, func(int, bool) (int, Op) { return 666, OpSet })
		})
		require.PanicsWithValue(t, "compute", func() { c.Compute(2, func(int, bool) (int, Op) { panic("compute") }) })
		require.Panics(t, func() { c.Compute(2, func(int, bool) (int, Op) { return 1, Op(9) }) })
		v, _ = c.Peek(2)
		require.Equal(t, 13, v)
		whole(4)
		done := make(chan bool)
		go func() { // Goexit is no panic, and must unlock too
			defer close(done)
			c.Compute(2, func(int, bool) (int, Op) { runtime.Goexit(); return 0, OpKeep })
		}()
		<-done
		whole(4)

		told = nil
		require.PanicsWithValue(t, "OnEvict", func() { c.Clear() })
		slices.Sort(told)
		require.Equal(t, []int{1, 3, 4, 13}, told, "all are told of, panic or not")
		whole(0)
		c.Set(1, 1)
		whole(1)
	}
}

// TestReentrantCallbacks has OnEvict call everything.
func TestReentrantCallbacks(t *testing.T) {
	for _, shards := range []int{0, 1, 4} {
		var c container
		depth, calls := 0, 0
		s := setup{capacity: 20, shards: shards, mask: math.MaxUint64, weigher: func(k, _ int) uint32 { return uint32(k % 5) }}
		c = s.make(t, func(k, v int, cause Cause) {
			calls++
			if depth > 2 {
				return
			}
			depth++
			defer func() { depth-- }()
			require.NoError(t, c.check())
			c.Get(k)
			c.Peek(k)
			c.Set(k+1000, v)
			c.SetIfAbsent(k+2000, v)
			c.Delete(k + 1000)
			c.Compute(k+3000, func(int, bool) (int, Op) { return v, OpSet })
			_, err := c.Resize(10 + v%20)
			require.NoError(t, err)
			for range c.All() {
				c.Len()
			}
			c.Stats()
		})
		for i := range 200 {
			c.Set(i, i)
			require.NoError(t, c.check())
			require.LessOrEqual(t, c.Weight(), c.Cap())
		}
		c.Clear()
		require.NotZero(t, calls)
		require.NoError(t, c.check())
	}
}

// TestCollectable: what has left is not kept alive, in no corner of the cache.
func TestCollectable(t *testing.T) {
	type big struct{ _ [64]byte }
	type key struct{ p *big }
	for _, onEvict := range []func(key, *big, Cause){nil, func(key, *big, Cause) {}} {
		for name, leave := range map[string]func(c *Cache[key, *big], k key){
			"Delete":  func(c *Cache[key, *big], k key) { c.Delete(k) },
			"Clear":   func(c *Cache[key, *big], _ key) { c.Clear() },
			"Replace": func(c *Cache[key, *big], k key) { c.Set(k, nil); c.Delete(k) },
			"Resize": func(c *Cache[key, *big], _ key) {
				for range 200 {
					c.Set(key{new(big)}, new(big))
				}
				_, _ = c.Resize(1)
			},
			"Compute": func(c *Cache[key, *big], k key) {
				c.Compute(k, func(*big, bool) (*big, Op) { return nil, OpDelete })
			},
			"evict": func(c *Cache[key, *big], _ key) {
				for range 2000 {
					c.Set(key{new(big)}, nil)
				}
			},
		} {
			c := must(New(Config[key, *big]{Capacity: 1000, Shards: 4, OnEvict: onEvict}))(t)
			k, v := key{new(big)}, new(big)
			wk, wv := weak.Make(k.p), weak.Make(v)
			c.Set(k, v)
			for range 300 {
				c.Set(key{new(big)}, new(big))
			}
			c.Get(k)
			leave(c, k)
			k, v = key{}, nil
			runtime.GC()
			require.Nil(t, wk.Value(), "%s: the key", name)
			require.Nil(t, wv.Value(), "%s: the value", name)
			runtime.KeepAlive(c)
		}
	}
}

// TestAllocations: in the steady state nothing is allocated, whatever is done.
func TestAllocations(t *testing.T) {
	type op struct {
		name string
		do   func(c container, i int)
	}
	compute := func(old int, ok bool) (int, Op) { return old + 1, Op(old % 3) }
	ops := []op{
		{"Get", func(c container, i int) { c.Get(i % 300) }},
		{"Peek", func(c container, i int) { c.Peek(i % 300) }},
		{"Set, evicting", func(c container, i int) { c.Set(i, i) }},
		{"Set, replacing", func(c container, i int) { c.Set(i%300, i) }},
		{"SetIfAbsent", func(c container, i int) { c.SetIfAbsent(i%700, i) }},
		{"Compute", func(c container, i int) { c.Compute(i%700, compute) }},
		{"Delete, Set", func(c container, i int) { c.Delete(i); c.Set(i+1, i) }},
		{"Stats", func(c container, i int) { c.Stats(); c.Len(); c.Cap(); c.Weight() }},
	}
	for _, shards := range []int{0, 1, 4} {
		for _, weigher := range []func(int, int) uint32{nil, func(k, _ int) uint32 { return uint32(k%7 + 1) }} {
			for _, onEvict := range []func(int, int, Cause){nil, func(int, int, Cause) {}} {
				s := setup{capacity: 500, shards: shards, weigher: weigher, mask: math.MaxUint64}
				c := s.make(t, onEvict)
				// By weight, the number of entries wanders; let it have been everywhere.
				warm := 20_000
				if underRace {
					warm = 3000
				}
				for i := range warm {
					for _, o := range ops {
						o.do(c, i)
					}
				}
				for _, o := range ops {
					i := 0
					allocs := testing.AllocsPerRun(2000, func() {
						o.do(c, i)
						i++
					})
					require.Zero(t, allocs, "%s, shards=%d, weights=%t, OnEvict=%t", o.name, shards, weigher != nil, onEvict != nil)
				}
			}
		}
	}
	local := must(NewLocal(Config[string, string]{Capacity: 10}))(t)
	words := strings.Fields("a b c d e f g h i j k l m n o p q r s t u v w x y z")
	i := 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		w := words[i%len(words)]
		local.Set(w, w)
		local.Oldest()
		local.DeleteOldest()
		i++
	}))
	// A key that holds pointers makes maphash copy nothing.
	anys := must(New(Config[any, int]{Capacity: 10}))(t)
	boxed := []any{"a", 1, &i, "c"}
	i = 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		anys.Set(boxed[i%4], i)
		anys.Get(boxed[(i+1)%4])
		i++
	}))
}

// TestIteration: the loop's body may do anything.
func TestIteration(t *testing.T) {
	for _, shards := range []int{0, 1, 4} {
		c := setup{capacity: 400, shards: shards, mask: math.MaxUint64}.make(t, nil)
		for i := range 50 {
			c.Set(i, i)
		}
		stats := c.Stats()
		seen := 0
		for k := range c.Keys() {
			seen++
			if seen == 3 {
				break
			}
			_ = k
		}
		require.Equal(t, 3, seen)
		for range c.All() {
			break
		}
		require.Equal(t, stats, c.Stats())
		seen = 0
		for k := range c.All() {
			c.Delete(k)
			c.Set(k+1000, k)
			seen++
		}
		require.GreaterOrEqual(t, seen, 50)
		require.Equal(t, 50, c.Len())
		for range c.Keys() {
			c.Clear()
		}
		require.Zero(t, c.Len())
	}
	l := must(NewLocal(Config[int, int]{Capacity: 10}))(t)
	for i := range 5 {
		l.Set(i, i)
	}
	for k := range l.Backward() {
		require.Zero(t, k)
		break
	}
	for k := range l.All() {
		require.Equal(t, 4, k)
		break
	}
}

// TestStress has goroutines do everything at once, with callbacks that come back into the
// cache, while others look at what must hold at every moment.
func TestStress(t *testing.T) {
	steps := 20_000
	if testing.Short() {
		steps = 2_000
	}
	const keys, most = 400, 3000 // most: the largest capacity
	for _, s := range []struct {
		capacity, shards int
		weigher          func(int, int) uint32
		mask             uint64
	}{
		{100, 4, nil, math.MaxUint64},
		{most, 2, nil, math.MaxUint64},
		{1000, 4, nil, math.MaxUint64},
		{1000, 1, nil, math.MaxUint64},
		{1000, 8, func(_, v int) uint32 { return uint32(v % 20) }, math.MaxUint64},
		{300, 2, nil, math.MaxUint32 << 32},
	} {
		var offered, left atomic.Int64
		var c *Cache[int, int]
		var depth atomic.Int32
		c = must(New(Config[int, int]{Capacity: s.capacity, Shards: s.shards, Weigher: s.weigher, OnEvict: func(k, v int, cause Cause) {
			left.Add(1)
			if k != v%keys {
				t.Errorf("%v: value %d under key %d", cause, v, k)
			}
			if depth.Add(1) < 3 && cause == Evicted {
				c.Get(k)
				offered.Add(1)
				c.Set(k, v)
			}
			depth.Add(-1)
		}}))(t)
		c.degrade(s.mask)
		var stop atomic.Bool
		var watch, work sync.WaitGroup
		watch.Go(func() {
			for !stop.Load() {
				if err := c.check(); err != nil {
					t.Error(err)
					return
				}
				if n := c.Weight(); n > most {
					t.Errorf("weight %d, capacity was never over %d", n, most)
				}
				for k, v := range c.All() {
					if k != v%keys {
						t.Errorf("value %d under key %d", v, k)
					}
				}
				runtime.Gosched()
			}
		})
		for g := range 4 {
			seed := rand.Uint64()
			work.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(g)))
				for range steps {
					k := r.IntN(keys)
					v := k + keys*r.IntN(1000)
					switch op := r.IntN(100); {
					case op < 55:
						if v, ok := c.Get(k); ok && v%keys != k {
							t.Errorf("Get(%d) = %d", k, v)
						}
					case op < 80:
						offered.Add(1)
						c.Set(k, v)
					case op < 85:
						offered.Add(1)
						if _, loaded := c.SetIfAbsent(k, v); loaded {
							offered.Add(-1)
						}
					case op < 90:
						set := false
						c.Compute(k, func(old int, ok bool) (int, Op) {
							set = r.IntN(2) == 0
							if set {
								return v, OpSet
							}
							return 0, OpDelete
						})
						if set {
							offered.Add(1)
						}
					case op < 95:
						c.Delete(k)
					case op < 98:
						if v, ok := c.Peek(k); ok && v%keys != k {
							t.Errorf("Peek(%d) = %d", k, v)
						}
					case op == 98 && r.IntN(10) == 0:
						if _, err := c.Resize(1 + r.IntN(most)); err != nil {
							t.Error(err)
						}
					case op == 99 && r.IntN(50) == 0:
						c.Clear()
					}
				}
			})
		}
		work.Wait()
		stop.Store(true)
		watch.Wait()
		require.NoError(t, c.check())
		require.EqualValues(t, offered.Load(), left.Load()+int64(c.Len()), "each value offered has left once, or is here")
		require.NotZero(t, c.Stats().Hits)
	}
}

// TestIterationMeetsResize: entries that move to other shards under a loop come once.
func TestIterationMeetsResize(t *testing.T) {
	c := must(New(Config[int, int]{Capacity: 2048, Shards: 0}))(t)
	for i := range 600 {
		c.Set(i, i)
	}
	for _, sizes := range [][]int{{100_000}, {700}, {100_000, 700}, {700, 100_000, 5000}} {
		seen := map[int]bool{}
		for k := range c.Keys() {
			require.False(t, seen[k], "%d came twice", k)
			seen[k] = true
			if len(seen)%50 == 1 && len(sizes) > 0 {
				_, err := c.Resize(sizes[0])
				require.NoError(t, err)
				sizes = sizes[1:]
			}
		}
		require.Len(t, seen, c.Len())
		require.Equal(t, 600, c.Len())
		_, err := c.Resize(2048)
		require.NoError(t, err)
	}
}

// TestWeightsGrow: recent use counts also after the entries have become much heavier,
// and so much fewer than there once were.
func TestWeightsGrow(t *testing.T) {
	c := must(New(Config[int, int]{Capacity: 1 << 17, Shards: 2, Weigher: func(_, w int) uint32 { return uint32(w) }}))(t)
	for i := range 1 << 17 {
		c.Set(i, 1)
	}
	const hot = -1
	c.Set(hot, 1000)
	for i := range 10_000 {
		c.Set(1_000_000+i, 1000)
		_, ok := c.Get(hot)
		require.True(t, ok, "evicted after %d sets, although used after each", i)
	}
	require.NoError(t, c.check())
}

// TestOrderBound holds the order of a sharded cache to its word, with uses from different
// depths of the stack, and so in different stripes: what is among the most recently
// used third of its shard is not evicted.
func TestOrderBound(t *testing.T) {
	capacities := []int{32, 200, 3000}
	if underRace {
		capacities = capacities[:2]
	}
	for _, capacity := range capacities {
		var evicted []int
		c := must(New(Config[int, int]{Capacity: capacity, Shards: 2, OnEvict: func(k, _ int, why Cause) {
			if why == Evicted {
				evicted = append(evicted, k)
			}
		}}))(t)
		clock, used := 0, map[int]int{}
		for step := range 20 * capacity {
			clock++
			k := rand.IntN(2 * capacity)
			if rand.IntN(4) > 0 {
				atDepth(rand.IntN(6), func() {
					if _, ok := c.Get(k); ok {
						used[k] = clock
					}
				})
				continue
			}
			evicted = evicted[:0]
			c.Set(k, step)
			used[k] = clock
			for _, e := range evicted {
				newer := 0
				for o := range c.Keys() {
					if c.shardOf(o) == c.shardOf(e) && used[o] > used[e] {
						newer++
					}
				}
				require.GreaterOrEqual(t, newer, capacity/2/3, "of %d entries in a shard", capacity/2)
				delete(used, e)
			}
		}
	}
}

// atDepth calls f with n more kilobytes on the stack, roughly.
//
//go:noinline
func atDepth(n int, f func()) byte {
	var space [1024]byte
	space[n] = 1
	if n == 0 {
		f()
		return space[0]
	}
	return atDepth(n-1, f) + space[n]
}

// TestComputeCallsLocal: to call the cache from the function is forbidden, but it must not
// destroy it.
func TestComputeCallsLocal(t *testing.T) {
	c := must(NewLocal(Config[int, int]{Capacity: 10}))(t)
	for op := OpKeep; op <= OpDelete; op++ {
		for i := range 10 {
			c.Set(i, i)
		}
		c.Compute(5, func(int, bool) (int, Op) {
			c.Delete(5)
			c.Set(77, 77)
			return 55, op
		})
		require.NoError(t, c.check())
	}
}

// TestManyPanics has OnEvict panic for so many entries that no stack would hold them all.
func TestManyPanics(t *testing.T) {
	n, told := 1_000_000, 0
	if testing.Short() {
		n = 10_000
	}
	c := must(NewLocal(Config[int, struct{}]{Capacity: n, OnEvict: func(k int, _ struct{}, _ Cause) { told++; panic(k) }}))(t)
	for i := range n {
		c.Set(i, struct{}{})
	}
	require.PanicsWithValue(t, n-1, c.Clear)
	require.Equal(t, n, told)
}

// TestReadersMeetResize lets readers find their way while the number of shards changes:
// a key that is never evicted must be found at every moment.
func TestReadersMeetResize(t *testing.T) {
	c := must(New(Config[int, int]{Capacity: 1024}))(t)
	for k := range 8 {
		c.Set(k, k)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for !stop.Load() {
				for k := range 8 {
					var v int
					var ok bool
					switch g {
					case 0:
						v, ok = c.Get(k)
					case 1:
						v, ok = c.Peek(k)
					default:
						v, ok = c.SetIfAbsent(k, k)
					}
					if !ok || v != k {
						t.Errorf("%d, %t under %d", v, ok, k)
						return
					}
				}
				runtime.Gosched()
			}
		})
	}
	for i := range 300 {
		n := []int{300, 600, 1024, 5000}[i%4]
		_, err := c.Resize(n)
		require.Equal(t, c.config.shardsFor(n, c.procs), c.Shards())
		require.NoError(t, err)
	}
	stop.Store(true)
	wg.Wait()
	require.Equal(t, 8, c.Len())
}

// TestCountsOverflow makes more hits than the lock's counters hold.
func TestCountsOverflow(t *testing.T) {
	c := must(New(Config[int, int]{Capacity: 2000}))(t)
	c.Set(1, 1)
	const n = 300_000
	for range n {
		c.Get(1)
		c.Get(2)
	}
	require.Equal(t, Stats{Hits: n, Misses: n, Sets: 1}, c.Stats())
}
