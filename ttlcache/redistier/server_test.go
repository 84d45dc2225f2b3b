//go:build servers

package redistier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/redisserver"
	"github.com/sysblocks/sysblocks/ttlcache"
)

// bound is how long the tests wait for what is to happen at once.
const bound = 10 * time.Second

// A server is a redis-server of our own.
type server struct{ *redisserver.Server }

func startServer(tb testing.TB) *server {
	tb.Helper()
	return &server{redisserver.Start(tb)}
}

func (s *server) client(tb testing.TB) redis.UniversalClient {
	client := redis.NewClient(&redis.Options{
		Addr: s.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: time.Second, ContextTimeoutEnabled: true,
	})
	tb.Cleanup(func() { client.Close() })
	return client
}

func tierOn[V any](tb testing.TB, s *server) *Tier[string, V] {
	tb.Helper()
	tier, err := New(Config[string, V]{Client: s.client(tb), Prefix: "test:"})
	require.NoError(tb, err)
	return tier
}

// eventually waits until ok, but not for longer than bound.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", bound, what)
		}
	}
}

func TestTier(t *testing.T) {
	s := startServer(t)
	tier := tierOn[string](t, s)
	ctx := t.Context()
	get := func(k string) (string, time.Duration, bool) {
		v, remaining, ok, err := tier.Get(ctx, k)
		require.NoError(t, err)
		return v, remaining, ok
	}
	_, _, ok := get("a")
	require.False(t, ok)
	require.NoError(t, tier.Set(ctx, "a", "one", time.Hour))
	v, remaining, ok := get("a")
	require.True(t, ok)
	require.Equal(t, "one", v)
	require.LessOrEqual(t, remaining, time.Hour)
	require.Greater(t, remaining, time.Hour-bound)
	for _, ttl := range []time.Duration{ttlcache.Forever, ttlcache.Forever - 1} {
		require.NoError(t, tier.Set(ctx, "a", "two", ttl))
		v, remaining, ok = get("a")
		require.True(t, ok)
		require.Equal(t, "two", v)
		require.Greater(t, remaining, 100*365*24*time.Hour)
	}
	require.NoError(t, tier.Set(ctx, "a", "three", time.Microsecond), "too short to be kept")
	_, _, ok = get("a")
	require.False(t, ok)
	require.NoError(t, tier.Set(ctx, "a", "four", 5*time.Millisecond))
	eventually(t, "it expires", func() bool { _, _, ok := get("a"); return !ok })
	require.NoError(t, tier.Set(ctx, "", "empty", time.Hour))
	v, _, ok = get("")
	require.True(t, ok)
	require.Equal(t, "empty", v)
	require.NoError(t, tier.Delete(ctx, ""))
	require.NoError(t, tier.Delete(ctx, ""), "it need not be there")
	_, _, ok = get("")
	require.False(t, ok)

	raw := s.client(t)
	require.NoError(t, raw.Set(ctx, "test:bad", "qqq", 0).Err())
	_, _, _, err := tier.Get(ctx, "bad")
	require.ErrorIs(t, err, errFormat)
	require.ErrorContains(t, err, `redistier: Get "bad"`)
	require.NoError(t, raw.LPush(ctx, "test:list", "x").Err())
	_, _, _, err = tier.Get(ctx, "list")
	require.ErrorContains(t, err, "WRONGTYPE")
	require.NoError(t, raw.ScriptFlush(ctx).Err())
	require.NoError(t, tier.Set(ctx, "a", "five", time.Hour), "the scripts are sent again")

	s.Kill()
	_, _, _, err = tier.Get(ctx, "a")
	require.Error(t, err)
	require.Error(t, tier.Set(ctx, "a", "", time.Hour))
	require.Error(t, tier.Delete(ctx, "a"))
}

// A lease is good until anybody has changed the key.
func TestLeases(t *testing.T) {
	s := startServer(t)
	one, two := tierOn[string](t, s), tierOn[string](t, s)
	ctx := t.Context()
	lease := func(tier *Tier[string, string], always bool) string {
		_, _, _, lease, err := tier.GetLease(ctx, "a", always)
		require.NoError(t, err)
		return lease
	}
	fill := func(tier *Tier[string, string], lease string) bool {
		filled, err := tier.Fill(ctx, "a", "value", time.Hour, lease)
		require.NoError(t, err)
		return filled
	}
	for name, change := range map[string]func() error{
		"Delete": func() error { return two.Delete(ctx, "a") },
		"Set":    func() error { return two.Set(ctx, "a", "other", time.Hour) },
		"Fill":   func() error { fill(two, lease(two, true)); return nil },
		"server": func() error { s.Kill(); require.True(t, s.Run(t)); return nil },
	} {
		require.NoError(t, one.Delete(ctx, "a"))
		l := lease(one, false)
		require.NotEmpty(t, l)
		require.Equal(t, l, lease(two, false), "it is shared")
		require.NoError(t, change())
		require.False(t, fill(one, l), name)
	}
	require.NoError(t, one.Delete(ctx, "a"))
	l := lease(one, false)
	require.True(t, fill(one, l))
	require.False(t, fill(one, l), "once")
	require.Empty(t, lease(one, false), "it is there")
	require.NotEmpty(t, lease(one, true))
	require.False(t, fill(one, ""))
	filled, err := one.Fill(ctx, "a", "value", time.Microsecond, lease(one, true))
	require.NoError(t, err)
	require.True(t, filled, "there was nothing to fill")
	raw := s.client(t)
	left, err := raw.PTTL(ctx, "{test:a}:lease").Result()
	require.NoError(t, err)
	require.Positive(t, left)
	require.LessOrEqual(t, left, time.Minute)
}

// A record is where the values of all processes come from.
type record struct {
	mu   sync.Mutex
	rows map[string]string
}

func (r *record) load(_ context.Context, k string) (ttlcache.Entry[string], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.rows[k]
	if !ok {
		return ttlcache.Entry[string]{}, ttlcache.ErrNotFound
	}
	return ttlcache.Entry[string]{Value: v}, nil
}

func (r *record) set(k, v string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v == "" {
		delete(r.rows, k)
	} else {
		r.rows[k] = v
	}
}

func newCache(tb testing.TB, s *server, r *record) *ttlcache.Cache[string, string] {
	tb.Helper()
	cache, err := ttlcache.New(ttlcache.Config[string, string]{Capacity: 10_000, TTL: time.Hour, Loader: r.load, Next: tierOn[string](tb, s)})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = cache.Close(context.Background()) })
	return cache
}

// listening waits until the line of a cache is there: a change by another is noticed.
func listening(tb testing.TB, s *server, caches ...*ttlcache.Cache[string, string]) {
	tb.Helper()
	probe := tierOn[string](tb, s)
	ctx := context.Background()
	for _, cache := range caches {
		eventually(tb, "a cache listens", func() bool {
			_ = cache.Set(ctx, "probe", "x")
			_ = probe.Delete(ctx, "probe")
			time.Sleep(5 * time.Millisecond)
			return !cache.Contains("probe")
		})
	}
}

func TestTwoCaches(t *testing.T) {
	s := startServer(t)
	r := &record{rows: map[string]string{"a": "1"}}
	one, two := newCache(t, s, r), newCache(t, s, r)
	listening(t, s, one, two)
	ctx := t.Context()
	v, err := one.GetOrLoad(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "1", v)
	r.set("a", "")
	v, err = two.GetOrLoad(ctx, "a")
	require.NoError(t, err, "it comes from Redis")
	require.Equal(t, "1", v)

	require.NoError(t, two.Set(ctx, "a", "2"))
	eventually(t, "one sees what two has set", func() bool { v, err := one.GetOrLoad(ctx, "a"); return err == nil && v == "2" })
	eventually(t, "two keeps what it has set itself, when no message of an earlier change is under way", func() bool {
		require.NoError(t, two.Set(ctx, "a", "2"))
		time.Sleep(5 * time.Millisecond)
		return two.Contains("a")
	})
	require.NoError(t, one.Delete(ctx, "a"))
	eventually(t, "two sees what one has deleted", func() bool { _, err := two.GetOrLoad(ctx, "a"); return errors.Is(err, ttlcache.ErrNotFound) })

	// An operator's message.
	require.NoError(t, one.Set(ctx, "b", "3"))
	require.NoError(t, one.Set(ctx, "c", "3"))
	raw := s.client(t)
	require.NoError(t, raw.Publish(ctx, "sysblocks:test:", ":b").Err())
	eventually(t, "a message drops a key", func() bool { return !one.Contains("b") })
	require.True(t, one.Contains("c"))
	require.NoError(t, raw.Publish(ctx, "sysblocks:test:", ":").Err())
	eventually(t, "a message drops all keys", func() bool { return one.Len() == 0 })
}

// Losing the line empties the first level, also if the server only stops answering.
func TestLineLost(t *testing.T) {
	s := startServer(t)
	r := &record{rows: map[string]string{"a": "1"}}
	cache := newCache(t, s, r)
	ctx := t.Context()
	listening(t, s, cache)
	fill := func() {
		_, err := cache.GetOrLoad(ctx, "a")
		require.NoError(t, err)
		require.True(t, cache.Contains("a"))
	}
	fill()
	raw := s.client(t)
	require.NoError(t, raw.ClientKillByFilter(ctx, "TYPE", "pubsub").Err())
	eventually(t, "the first level is emptied when the line is cut", func() bool { return !cache.Contains("a") })
	listening(t, s, cache)

	fill()
	s.Signal(t, syscall.SIGSTOP)
	eventually(t, "the first level is emptied when the server does not answer", func() bool { return !cache.Contains("a") })
	s.Signal(t, syscall.SIGCONT)
	listening(t, s, cache)

	fill()
	s.Kill()
	eventually(t, "the first level is emptied when the server dies", func() bool { return !cache.Contains("a") })
	fill() // from the record
	require.True(t, s.Run(t))
	eventually(t, "and when it is back, since something may have been missed", func() bool { return !cache.Contains("a") })
	listening(t, s, cache)
}

// The server is killed and started again and again, while one cache deletes keys and others
// read them: no reader sees an error, nor a value that was deleted before he asked.
func TestServerKilledUnderLoad(t *testing.T) {
	s := startServer(t)
	r := &record{rows: map[string]string{}}
	const keys = 50
	caches := []*ttlcache.Cache[string, string]{newCache(t, s, r), newCache(t, s, r)}
	listening(t, s, caches...)
	name := func(i int) string { return fmt.Sprint("key", i) }
	var version [keys]atomic.Int64 // that the record has had at least
	for i := range keys {
		r.set(name(i), "0")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var reads, deletes atomic.Int64
	for g := range 4 { // readers of the cache that deletes: it must never go back
		wg.Go(func() {
			for i := g; ctx.Err() == nil; i++ {
				k := i % keys
				least := version[k].Load()
				v, err := caches[0].GetOrLoad(context.Background(), name(k))
				if err != nil {
					t.Errorf("reading %s: %v", name(k), err)
				}
				var got int64
				if _, err := fmt.Sscan(v, &got); err != nil || got < least {
					t.Errorf("%s: read version %q, but %d was deleted", name(k), v, least-1)
					return
				}
				reads.Add(1)
			}
		})
		wg.Go(func() { // of the other: no error
			for i := g; ctx.Err() == nil; i++ {
				if _, err := caches[1].GetOrLoad(context.Background(), name(i%keys)); err != nil {
					t.Errorf("reading %s: %v", name(i%keys), err)
				}
				reads.Add(1)
			}
		})
	}
	wg.Go(func() {
		for i := int64(1); ctx.Err() == nil; i++ {
			k := int(i) % keys
			r.set(name(k), fmt.Sprint(i))
			if err := caches[0].Delete(context.Background(), name(k)); err != nil {
				t.Errorf("deleting: %v", err)
			}
			version[k].Store(i)
			deletes.Add(1)
		}
	})
	for range 4 {
		before := reads.Load()
		eventually(t, "reads go on", func() bool { return reads.Load() > before+1000 })
		s.Kill()
		before, gone := reads.Load(), deletes.Load()
		eventually(t, "reads and deletes go on without a server", func() bool { return reads.Load() > before+1000 && deletes.Load() > gone+50 })
		require.True(t, s.Run(t))
	}
	before := deletes.Load()
	eventually(t, "all is well again", func() bool {
		return deletes.Load() > before+100 && caches[0].Stats().TierBacklog < keys
	})
	cancel()
	wg.Wait()
	// In the end both agree with the record.
	eventually(t, "the backlog is gone", func() bool { return caches[0].Stats().TierBacklog == 0 })
	for i := range keys {
		eventually(t, name(i)+" is the record's everywhere", func() bool {
			for _, c := range caches {
				v, err := c.GetOrLoad(t.Context(), name(i))
				if err != nil || v != r.rows[name(i)] {
					return false
				}
			}
			return true
		})
	}
	require.NoError(t, caches[0].Close(t.Context()))
	require.Positive(t, caches[0].Stats().TierErrors)
}

// What cannot be decoded, as after a change of the codec, is loaded once and replaced.
func TestUndecodable(t *testing.T) {
	s := startServer(t)
	r := &record{rows: map[string]string{"a": "1"}}
	cache := newCache(t, s, r)
	listening(t, s, cache)
	raw := s.client(t)
	require.NoError(t, raw.Set(t.Context(), "test:a", "\xffgarbage", 0).Err())
	for range 3 {
		v, err := cache.GetOrLoad(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, "1", v)
		cache.Invalidate("a")
	}
	require.EqualValues(t, 1, cache.Stats().Loads)
}

// Nothing goes on after Close.
func TestUnsubscribe(t *testing.T) {
	s := startServer(t)
	r := &record{rows: map[string]string{}}
	cache := newCache(t, s, r)
	listening(t, s, cache)
	raw := s.client(t)
	subscribers := func() int64 { return raw.PubSubNumSub(t.Context(), "sysblocks:test:").Val()["sysblocks:test:"] }
	require.EqualValues(t, 1, subscribers())
	require.NoError(t, cache.Close(t.Context()))
	eventually(t, "the server has no subscriber any more", func() bool { return subscribers() == 0 })
}

// BenchmarkInvalidation measures from the beginning of a Set in one cache until another has dropped
// its copy.
func BenchmarkInvalidation(b *testing.B) {
	s := startServer(b)
	r := &record{rows: map[string]string{"a": "1"}}
	one, two := newCache(b, s, r), newCache(b, s, r)
	listening(b, s, one, two)
	ctx := context.Background()
	for b.Loop() {
		if _, err := two.GetOrLoad(ctx, "a"); err != nil {
			b.Fatal(err)
		}
		if err := one.Set(ctx, "a", "2"); err != nil {
			b.Fatal(err)
		}
		for two.Contains("a") {
		}
	}
}

func BenchmarkTier(b *testing.B) {
	s := startServer(b)
	tier := tierOn[string](b, s)
	ctx := context.Background()
	require.NoError(b, tier.Set(ctx, "a", "value", time.Hour))
	b.Run("op=get", func(b *testing.B) {
		for b.Loop() {
			if _, _, _, err := tier.Get(ctx, "a"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("op=set", func(b *testing.B) {
		for b.Loop() {
			if err := tier.Set(ctx, "a", "value", time.Hour); err != nil {
				b.Fatal(err)
			}
		}
	})
	raw := s.client(b)
	b.Run("op=ping", func(b *testing.B) { // the floor
		for b.Loop() {
			if err := raw.Ping(ctx).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
