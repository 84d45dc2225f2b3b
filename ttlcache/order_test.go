package ttlcache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// With several shards a hit may leave an entry where it is, or be noted for later; but what is
// among the third of a shard that was used last is not evicted.
func TestRecentlyUsedStay(t *testing.T) {
	src := newSource()
	rounds := 50
	if underRace {
		rounds = 5
	}
	for name, config := range map[string]Config[int, int]{
		"plain":   {TTL: time.Hour, Loader: src.load},
		"sliding": {TTL: time.Hour, Sliding: true, Loader: src.load},
		"eager":   {TTL: time.Hour, Loader: src.load, RefreshAhead: 0.9},
	} {
		t.Run(name, func(t *testing.T) {
			const capacity = 8000
			config.Capacity, config.Shards = capacity, 2
			c, err := New(config)
			require.NoError(t, err)
			defer c.Close(t.Context())
			rng := rand.New(rand.NewPCG(1, 1))
			next := 0
			for range capacity {
				require.NoError(t, c.Set(t.Context(), next, next))
				next++
			}
			for round := range rounds {
				var used []int
				for i, k := range rng.Perm(capacity)[:capacity/8] {
					k = next - 1 - k // some are gone by now
					var ok bool
					if i%2 == 0 {
						_, ok = c.Get(k)
					} else if ok = c.Contains(k); ok {
						_, err := c.GetOrLoad(t.Context(), k)
						require.NoError(t, err)
					}
					if ok {
						used = append(used, k)
					}
				}
				for range capacity / 8 {
					require.NoError(t, c.Set(t.Context(), next, next))
					next++
				}
				for _, k := range used {
					require.True(t, c.Contains(k), "round %d: %d was evicted", round, k)
				}
			}
			require.NoError(t, c.check())
		})
	}
}

// The counts of hits and misses are exact, however many come between two writes.
func TestCounts(t *testing.T) {
	c, err := New(Config[int, int]{Capacity: 2000, TTL: time.Hour, Shards: 2, Loader: newSource().load})
	require.NoError(t, err)
	defer c.Close(t.Context())
	require.NoError(t, c.Set(t.Context(), 1, 1))
	const n = 1 << 18
	for range n {
		c.Get(1)
		c.Get(2)
		_, _ = c.GetOrLoad(t.Context(), 1)
	}
	st := c.Stats()
	require.EqualValues(t, 2*n, st.Hits)
	require.EqualValues(t, n, st.Misses)
}

// Where room is needed for a heavier value, what has expired leaves, and not what is alive, even if
// there is a lot of it; and not the entry that gets the value, though it had expired, too.
func TestHeavierValue(t *testing.T) {
	for _, again := range []time.Duration{time.Second, Forever} {
		causes := map[Cause]int{}
		bubble(t, Config[int, int]{Capacity: 1000, Shards: 1, Weigher: func(_, v int) uint32 { return uint32(v) }, OnRemove: func(_, _ int, c Cause) { causes[c]++ }}, func(t *testing.T, c *Cache[int, int]) {
			require.NoError(t, c.SetTTL(t.Context(), -1, 1, Forever))
			require.NoError(t, c.SetTTL(t.Context(), -2, 1, Forever))
			for k := range 998 {
				require.NoError(t, c.SetTTL(t.Context(), k, 1, time.Second))
			}
			time.Sleep(time.Second)
			require.NoError(t, c.SetTTL(t.Context(), -2, 900, again))
			require.Zero(t, causes[Evicted])
			require.True(t, c.Contains(-1))
			v, ok := c.Get(-2)
			require.True(t, ok)
			require.Equal(t, 900, v)
			require.NoError(t, c.check())
		})
	}
}

// Weights up to the largest there is.
func TestLargeWeights(t *testing.T) {
	bubble(t, Config[int, int]{Capacity: 1 << 30, Shards: 1, Weigher: func(_, v int) uint32 { return uint32(v) }}, func(t *testing.T, c *Cache[int, int]) {
		for k := range 10 {
			require.NoError(t, c.Set(t.Context(), k, 1<<29))
			require.LessOrEqual(t, c.Weight(), c.Cap())
		}
		require.Equal(t, 2, c.Len())
		require.NoError(t, c.Set(t.Context(), 99, 1<<30), fmt.Sprint(c.Weight()))
		require.Equal(t, 1, c.Len())
	})
}

// An entry that is refreshed ahead and slides as well.
func TestSlidingAndRefreshAhead(t *testing.T) {
	for _, shards := range []int{1, 4} {
		src := newSource()
		bubble(t, Config[int, int]{Shards: shards, TTL: 10 * time.Second, Sliding: true, RefreshAhead: 0.5, MaxLifetime: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
			want(t, c, 1, 1)
			time.Sleep(4 * time.Second)
			want(t, c, 1, 1)
			_, _, remaining := c.Lookup(1)
			require.Equal(t, 10*time.Second, remaining)
			require.Equal(t, 1, src.count(1))
			time.Sleep(6 * time.Second)
			want(t, c, 1, 1)
			require.Equal(t, 2, src.count(1))
			_, _, remaining = c.Lookup(1)
			require.Equal(t, 10*time.Second, remaining)
		})
	}
}

// XFetch with loads that take longer than anything lives.
func TestXFetchSlowLoads(t *testing.T) {
	src := newSource()
	src.took = 100 * time.Hour
	bubble(t, Config[int, int]{TTL: time.Second, XFetchBeta: 1e300, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		_, err := c.GetOrLoad(t.Context(), 1)
		require.NoError(t, err)
		want(t, c, 1, 1)
		require.Equal(t, 2, src.count(1), "it is loaded again at once")
		time.Sleep(200 * time.Hour)
	})
}

// A load that others wait for is not begun again in the background.
func TestRefreshWhileLoading(t *testing.T) {
	src := newSource()
	bubble(t, Config[int, int]{TTL: 10 * time.Second, StaleWhileRevalidate: time.Minute, Loader: src.load}, func(t *testing.T, c *Cache[int, int]) {
		want(t, c, 1, 1)
		src.set(func(s *source) { s.took = time.Second })
		time.Sleep(20 * time.Second)
		go c.Refresh(t.Context(), 1)
		time.Sleep(time.Millisecond)
		want(t, c, 1, 1)
		require.Equal(t, 2, src.count(1))
		require.Zero(t, c.refreshing.Load())
		time.Sleep(time.Second)
		time.Sleep(10 * time.Second)
		want(t, c, 1, 1)
		require.Equal(t, 3, src.count(1), "later it can be")
		time.Sleep(time.Second)
	})
}
