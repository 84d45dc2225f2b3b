//go:build servers

package redislimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/redisserver"
	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
)

// bound is how long the tests wait for what is to happen at once.
const bound = 10 * time.Second

// A server is a redis-server of our own.
type server struct{ *redisserver.Server }

func startServer(tb testing.TB) *server { return &server{redisserver.Start(tb)} }

// client is one with the settings that go-redis has by default.
func (s *server) client(tb testing.TB) *redis.Client { return clientOf(tb, s.Addr) }

func clientOf(tb testing.TB, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: addr})
	tb.Cleanup(func() { client.Close() })
	return client
}

func newLimiter(tb testing.TB, client redis.UniversalClient, config dist.Config) *dist.Limiter {
	tb.Helper()
	config.Name = "test"
	if config.Timeout == 0 {
		config.Timeout = bound // the tests do not depend on speed
	}
	if config.Replicas == 0 && config.OnOutage == dist.Share {
		config.Replicas = 1
	}
	if config.OnError == nil {
		config.OnError = func(err error) { tb.Error(err) }
	}
	l, err := NewLimiter(client, config)
	require.NoError(tb, err)
	return l
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

// info returns the figure of a name that the server's INFO has.
func info(tb testing.TB, client *redis.Client, section, name string) int64 {
	tb.Helper()
	text, err := client.Info(context.Background(), section).Result()
	require.NoError(tb, err)
	_, rest, ok := strings.Cut(text, "\n"+name)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(regexp.MustCompile(`\d+`).FindString(rest), 10, 64)
	require.NoError(tb, err)
	return n
}

func TestLimiter(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerHour(10), {Count: 100, Per: 24 * time.Hour, Burst: 12}}})
	ctx := t.Context()
	for _, key := range []string{"a", "", "{", "}", "{}", "{a}", "a{b}c", "\x00\xff\r\n", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 66)} {
		require.EqualValues(t, 10, l.Peek(ctx, key, 1).Remaining, "%q is a key of its own", key)
		r := l.Take(ctx, key, 7)
		require.True(t, r.OK())
		require.False(t, r.Degraded)
		require.Equal(t, int64(7), r.Allowed)
		require.Equal(t, int64(3), r.Remaining)
		require.Equal(t, 7*24*time.Hour/100, r.ResetAfter, "of the one that takes longest")
		r = l.Take(ctx, key, 4)
		require.False(t, r.OK())
		require.LessOrEqual(t, r.RetryAfter, 6*time.Minute)
		require.Greater(t, r.RetryAfter, 6*time.Minute-bound)
		require.True(t, l.Take(ctx, key, 3).OK())
		require.False(t, l.Peek(ctx, key, 1).OK())
		require.NoError(t, l.Delete(ctx, key))
		require.True(t, l.Take(ctx, key, 10).OK())
		require.False(t, l.Peek(ctx, key, 1).OK())
	}
	require.NoError(t, client.ScriptFlush(ctx).Err())
	require.True(t, l.Take(ctx, "b", 10).OK(), "the script is sent again")
	require.Zero(t, l.Stats().Degraded)
	s.Kill()
	require.ErrorContains(t, l.Delete(ctx, "b"), "dist: deleting: ")

	_, err := New(Config{})
	require.EqualError(t, err, "redislimit: Client must not be nil")
	_, err = New(Config{Client: client, Prefix: "a{"})
	require.EqualError(t, err, `redislimit: Prefix must be without braces, got "a{"`)
	_, err = NewLimiter(nil, dist.Config{})
	require.EqualError(t, err, "redislimit: Client must not be nil")
	b, err := New(Config{Client: client, Prefix: "app:"})
	require.NoError(t, err)
	_, err = NewLimiter(client, dist.Config{Backend: b})
	require.EqualError(t, err, "redislimit: Backend must be nil, as it is made of the client")
	require.Equal(t, "app:n:{k}", b.key("n", "k"))
	require.Regexp(t, `^app:n#\{[-\w]{43}\}$`, b.key("n", ""))
}

// A timed is a request, at a time in microseconds.
type timed struct {
	at int64
	r  dist.Request
}

// atTime is the script with the time, which it takes from ARGV, and without expiry, which goes by the
// server's clock.
func atTime(t *testing.T) *redis.Script {
	text := source
	for from, to := range map[string]string{
		"redis.call('TIME')":    "{0, table.remove(ARGV)}",
		"tats, ' '), 'PX', px)": "tats, ' '))",
		"'NX', 'PX', ARGV[1])":  "'NX')",
	} {
		require.Contains(t, text, from)
		text = strings.Replace(text, from, to, 1)
	}
	return redis.NewScript(text)
}

// TestModel compares the script with dist.Memory, and with an exact bucket in rational numbers, on
// random requests at random times.
func TestModel(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	script := atTime(t)
	b, err := New(Config{Client: client})
	require.NoError(t, err)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round, rates := range [][]dist.Rate{
		{{Interval: 1, Burst: 1}}, {{Interval: 100_000, Burst: 10}}, {{Interval: 1, Burst: 1 << 50}}, {{Interval: 1 << 40, Burst: 1 << 10}},
		{{Interval: 100_000, Burst: 10}, {Interval: 600_000, Burst: 100}, {Interval: 86_400_000, Burst: 30}},
		{{Interval: 3, Burst: 7}, {Interval: 5, Burst: 5}, {Interval: 7, Burst: 4}, {Interval: 9, Burst: 20}, {Interval: 2, Burst: 5}, {Interval: 1, Burst: 9}, {Interval: 8, Burst: 8}, {Interval: 4, Burst: 6}},
	} {
		var requests []timed
		var want []dist.Reply
		synctest.Test(t, func(t *testing.T) {
			m, err := dist.NewMemory(dist.MemoryConfig{})
			require.NoError(t, err)
			start := time.Now()
			for i := range 2000 {
				if gap := rng.ExpFloat64() * float64(rates[0].Interval) * float64(min(rates[0].Burst, 20)) / 10; rng.IntN(3) > 0 {
					time.Sleep(time.Duration(gap * float64(time.Microsecond)))
				}
				most := rates[0].Burst
				for _, r := range rates {
					most = min(most, r.Burst)
				}
				r := dist.Request{
					ID: [16]byte{byte(i), byte(i >> 8), byte(round)}, Name: fmt.Sprint("model", round), Key: fmt.Sprint(rng.IntN(3)),
					N: 1 + rng.Int64N(max(1, most/[]int64{1, 4, 64}[rng.IntN(3)])), Peek: rng.IntN(4) == 0, Rates: rates, Window: 1 << 62,
				}
				if i > 0 && rng.IntN(5) == 0 {
					again := requests[i-1-rng.IntN(min(i, 5))].r
					r.ID, r.Key = again.ID, again.Key
				}
				requests = append(requests, timed{time.Since(start).Microseconds(), r})
				reply, err := m.Take(t.Context(), &r)
				require.NoError(t, err)
				want = append(want, reply)
			}
		})
		const epoch = 1_800_000_000_000_000
		levels := map[string][]*big.Rat{}
		last := map[string]int64{}
		charged := map[[16]byte]bool{}
		allowed := 0
		for i, q := range requests {
			keys, args := b.arguments(&q.r)
			got, err := script.Run(t.Context(), client, keys, append(args, epoch+q.at)...).Int64Slice()
			require.NoError(t, err)
			reply := dist.Reply{Allowed: got[0] == 1, Ahead: got[1:]}
			require.Equal(t, want[i], reply, "seed %d: %d: %+v", seed, i, q)
			// The exact bucket.
			k := q.r.Key
			if levels[k] == nil {
				for range rates {
					levels[k] = append(levels[k], new(big.Rat))
				}
			}
			fits := true
			for j, r := range rates {
				level := levels[k][j]
				if level.Sub(level, big.NewRat(q.at-last[k], r.Interval)); level.Sign() < 0 {
					level.SetInt64(0)
				}
				fits = fits && new(big.Rat).Add(level, new(big.Rat).SetInt64(q.r.N)).Cmp(new(big.Rat).SetInt64(r.Burst)) <= 0
			}
			last[k] = q.at
			retried := !q.r.Peek && charged[q.r.ID]
			require.Equal(t, fits || retried, reply.Allowed, "seed %d: %d: %+v", seed, i, q)
			if fits && !retried && !q.r.Peek {
				charged[q.r.ID] = true
				allowed++
				for _, level := range levels[k] {
					level.Add(level, new(big.Rat).SetInt64(q.r.N))
				}
			}
		}
		require.Greater(t, allowed, 10)
	}
}

// TestServerClock goes by the server's clock, and keeps the state as long as it means anything.
func TestServerClock(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	ctx := t.Context()
	b, err := New(Config{Client: client})
	require.NoError(t, err)
	for _, us := range []int64{500, 1000, 1500, 100_000, 3_600_000_000} {
		key := fmt.Sprint(us)
		reply, err := b.Take(ctx, &dist.Request{ID: [16]byte{1}, Name: "n", Key: key, N: 1, Rates: []dist.Rate{{Interval: us, Burst: 1}}, Window: time.Hour})
		require.NoError(t, err)
		require.Equal(t, dist.Reply{Allowed: true, Ahead: []int64{us}}, reply)
		left := client.PTTL(ctx, b.key("n", key)).Val()
		require.LessOrEqual(t, left, time.Duration(us)*time.Microsecond+2*time.Millisecond)
		if us == 3_600_000_000 {
			require.Greater(t, left, time.Hour-bound)
			tat, err := client.Get(ctx, b.key("n", key)).Int64()
			require.NoError(t, err)
			now := client.Time(ctx).Val().UnixMicro()
			require.LessOrEqual(t, tat-us, now)
			require.Greater(t, tat-us, now-bound.Microseconds())
			left = client.PTTL(ctx, b.key("n", key)+string([]byte{1})+strings.Repeat("\x00", 15)).Val()
			require.LessOrEqual(t, left, time.Hour)
			require.Greater(t, left, time.Hour-bound)
		}
		eventually(t, "it comes in by the server's clock", func() bool {
			r, err := b.Take(ctx, &dist.Request{ID: [16]byte{2}, Name: "n", Key: key, N: 1, Rates: []dist.Rate{{Interval: us, Burst: 1}}})
			return err == nil && r.Allowed || us == 3_600_000_000
		})
	}
	// The state is there until its time, and not much longer, wherever in a millisecond the two are.
	for i := range int64(500) {
		us := 60_000_000 + i*7
		key := fmt.Sprint("expires", i)
		_, err := b.Take(ctx, &dist.Request{Name: "n", Key: key, N: 1, Rates: []dist.Rate{{Interval: us, Burst: 2}, {Interval: us / 2, Burst: 2}}})
		require.NoError(t, err)
		value := client.Get(ctx, b.key("n", key)).Val()
		first, _, ok := strings.Cut(value, " ")
		require.True(t, ok, value)
		tat, err := strconv.ParseInt(first, 10, 64)
		require.NoError(t, err)
		expires := client.PExpireTime(ctx, b.key("n", key)).Val().Microseconds()
		require.GreaterOrEqual(t, expires, tat)
		require.Less(t, expires, tat+bound.Microseconds())
	}
	// A state that expired early would let this pass the limit: by the server's clock, no two are closer.
	var last int64
	for range 2000 {
		r, err := b.Take(ctx, &dist.Request{Name: "n", Key: "dense", N: 1, Rates: []dist.Rate{{Interval: 1000, Burst: 1}}})
		require.NoError(t, err)
		if r.Allowed {
			tat, err := client.Get(ctx, b.key("n", "dense")).Int64()
			if errors.Is(err, redis.Nil) {
				continue // it took more than a millisecond
			}
			require.NoError(t, err)
			require.GreaterOrEqual(t, tat, last+1000)
			last = tat
		}
	}
}

// TestRefusalsWriteNothing, nor does looking.
func TestRefusalsWriteNothing(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	ctx := t.Context()
	b, err := New(Config{Client: client})
	require.NoError(t, err)
	request := func(n int64, id byte) *dist.Request {
		return &dist.Request{ID: [16]byte{id}, Name: "n", Key: "k", N: n, Rates: []dist.Rate{{Interval: 1e9, Burst: 10}, {Interval: 1e8, Burst: 20}}, Window: time.Hour}
	}
	_, err = b.Take(ctx, request(8, 1))
	require.NoError(t, err)
	changes, size := info(t, client, "persistence", "rdb_changes_since_last_save:"), client.DBSize(ctx).Val()
	dump, left := client.Dump(ctx, "n:{k}").Val(), client.PExpireTime(ctx, "n:{k}").Val()
	for i := range 100 {
		r, err := b.Take(ctx, request(3, byte(i+2)))
		require.NoError(t, err)
		require.False(t, r.Allowed)
		for _, n := range []int64{0, 1, 3} {
			peek := request(n, byte(i+2))
			peek.Peek = true
			_, err = b.Take(ctx, peek)
			require.NoError(t, err)
		}
		r, err = b.Take(ctx, request(8, 1))
		require.NoError(t, err)
		require.True(t, r.Allowed, "it has been allowed before")
	}
	require.Equal(t, changes, info(t, client, "persistence", "rdb_changes_since_last_save:"))
	require.Equal(t, size, client.DBSize(ctx).Val())
	require.EqualValues(t, 2, size)
	require.Equal(t, dump, client.Dump(ctx, "n:{k}").Val())
	require.Equal(t, left, client.PExpireTime(ctx, "n:{k}").Val())
}

// TestOneRoundTrip counts what the server does.
func TestOneRoundTrip(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	ctx := t.Context()
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerHour(20), ratelimit.PerMinute(1000)}})
	require.True(t, l.Take(ctx, "first", 1).OK())
	require.NoError(t, client.ConfigResetStat(ctx).Err())
	for i := range 60 {
		r := l.Take(ctx, fmt.Sprint("k", i%2), 1)
		require.Equal(t, i < 40, r.OK())
	}
	require.EqualValues(t, 42, info(t, client, "commandstats", "cmdstat_evalsha:calls="), "one of each, and one refusal of each key")
	require.Zero(t, info(t, client, "commandstats", "cmdstat_eval:calls="))
	require.EqualValues(t, 18, l.Stats().Denied)
	// Also those that come together.
	var wg sync.WaitGroup
	for g := range 50 {
		wg.Go(func() {
			for i := range 20 {
				if !l.Take(ctx, fmt.Sprint("group", g, i), 1).OK() {
					t.Error("refused")
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1042, info(t, client, "commandstats", "cmdstat_evalsha:calls="))
}

// TestScriptFlushUnderLoad admits exactly the limit.
func TestScriptFlushUnderLoad(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(2000)}})
	var wg sync.WaitGroup
	var allowed atomic.Int64
	for range 32 {
		wg.Go(func() {
			for range 100 {
				if l.Take(t.Context(), "k", 1).OK() {
					allowed.Add(1)
				}
			}
		})
	}
	for range 50 {
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	require.EqualValues(t, 2000, allowed.Load())
	require.Zero(t, l.Stats().Degraded)
}

// TestFailover finds times in the far future, as those of a server whose clock was ahead. Within one
// burst all is as it should be.
func TestFailover(t *testing.T) {
	s := startServer(t)
	client := s.client(t)
	ctx := t.Context()
	for _, planted := range []string{"9007199254740991", "99999999999999999999", strconv.FormatInt(time.Now().Add(time.Hour).UnixMicro(), 10), "1 9007199254740991"} {
		for _, peek := range []bool{false, true} {
			require.NoError(t, client.Set(ctx, "test:{k}", planted, 0).Err())
			l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerSecond(100).WithBurst(5), ratelimit.PerSecond(100).WithBurst(10)}})
			ask := l.Take
			if peek {
				ask = l.Peek
			}
			r := ask(ctx, "k", 1)
			require.False(t, r.OK())
			require.LessOrEqual(t, r.RetryAfter, 10*time.Millisecond)
			require.LessOrEqual(t, r.ResetAfter, 100*time.Millisecond)
			left := client.PTTL(ctx, "test:{k}").Val()
			require.LessOrEqual(t, left, 101*time.Millisecond)
			eventually(t, "it recovers", func() bool { return ask(ctx, "k", 1).OK() })
			eventually(t, "all tokens are there", func() bool { return l.Peek(ctx, "k", 5).OK() })
		}
	}
	// What is not ours is an error, and not a free pass.
	require.NoError(t, client.LPush(ctx, "test:{list}", "x").Err())
	var told atomic.Value
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerSecond(100)}, OnOutage: dist.Closed, OnError: func(err error) { told.Store(err) }})
	require.True(t, l.Take(ctx, "list", 1).Degraded)
	require.ErrorContains(t, told.Load().(error), "redislimit: WRONGTYPE")
}

// A proxy lets bytes through to a server, and may cut a connection before the answer.
type proxy struct {
	net.Listener
	server  string
	cut     atomic.Int64 // so many answers
	answers atomic.Int64 // that were cut
}

func startProxy(t *testing.T, server string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{Listener: l, server: server}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer s.Close()
	var script atomic.Bool
	go func() {
		defer s.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Read(buf)
			if bytes.Contains(bytes.ToLower(buf[:n]), []byte("evalsha")) {
				script.Store(true)
			}
			if _, err2 := s.Write(buf[:n]); err != nil || err2 != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		if script.Load() && p.cut.Add(-1) >= 0 {
			p.answers.Add(1)
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestRetriedRequestChargesOnce cuts connections behind the server's decision: the client, with its
// default settings, asks again.
func TestRetriedRequestChargesOnce(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.Addr)
	ctx := t.Context()
	raw := s.client(t)
	for _, cuts := range []int64{1, 2, 3} {
		client := clientOf(t, p.Addr().String())
		config := dist.Config{Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(10)}, RetryWindow: time.Hour}
		l := newLimiter(t, client, config)
		require.True(t, l.Take(ctx, fmt.Sprint("warm", cuts), 1).OK())
		key := fmt.Sprint("k", cuts)
		p.cut.Store(cuts)
		p.answers.Store(0)
		require.NoError(t, raw.ConfigResetStat(ctx).Err())
		r := l.Take(ctx, key, 10)
		require.True(t, r.OK(), "its own first attempt has taken the last tokens")
		require.Zero(t, r.Remaining)
		require.Equal(t, cuts, p.answers.Load())
		require.Equal(t, cuts+1, info(t, raw, "commandstats", "cmdstat_evalsha:calls="))
		require.EqualValues(t, 1, l.Stats().Decided-1)

		// Without the memory, it is charged each time.
		config.RetryWindow = -1
		l = newLimiter(t, client, config)
		p.cut.Store(cuts)
		r = l.Take(ctx, "forgets"+key, 1)
		require.True(t, r.OK())
		require.EqualValues(t, 10-cuts-1, r.Remaining)
	}
	// Those that go together, too.
	client := clientOf(t, p.Addr().String())
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(1000)}, RetryWindow: time.Hour})
	p.cut.Store(3)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := l.Take(ctx, "together", 1); !r.OK() || r.Degraded {
				t.Error(r)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 900, l.Peek(ctx, "together", 1).Remaining)
}

// TestCluster has all that a decision needs on one node, whatever the key.
func TestCluster(t *testing.T) {
	nodes := startCluster(t)
	ctx := t.Context()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr}})
	defer client.Close()
	b, err := New(Config{Client: client})
	require.NoError(t, err)
	l := newLimiter(t, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(10), ratelimit.PerHour(5)}})
	rng := rand.New(rand.NewPCG(1, 1))
	keys := []string{"", "{", "}", "{}", "}{", "{a}", "{}a", "a{b}c{d}", "\x00", "\xff\xfe{", strings.Repeat("long", 100)}
	for i := range 500 {
		random := make([]byte, rng.IntN(12))
		for j := range random {
			random[j] = "ab{}:\x00\xff \r\n"[rng.IntN(10)]
		}
		keys = append(keys, string(random)+fmt.Sprint(i))
	}
	for _, key := range keys {
		names, _ := b.arguments(&dist.Request{ID: [16]byte{'{', byte(rng.IntN(256)), '}'}, Name: "test", Key: key, N: 1, Window: time.Second})
		require.Len(t, names, 2)
		slot := client.ClusterKeySlot(ctx, names[0]).Val()
		require.Equal(t, slot, client.ClusterKeySlot(ctx, names[1]).Val(), "%q", key)
	}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := g; i < len(keys); i += 16 {
				for j := range 7 {
					if r := l.Take(ctx, keys[i], 1); r.OK() != (j < 5) || r.Degraded {
						t.Errorf("%q: %d: %+v", keys[i], j, r)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, s := range nodes {
		node := s.client(t)
		require.Positive(t, node.DBSize(ctx).Val(), "every node has some")
		require.NoError(t, node.ScriptFlush(ctx).Err())
	}
	for _, key := range keys {
		require.False(t, l.Peek(ctx, key, 1).OK())
		require.True(t, l.Take(ctx, key+"x", 1).OK())
	}
	require.Zero(t, l.Stats().Degraded)
}

func startCluster(t *testing.T) []*server {
	var nodes []*server
	var first *redis.Client
	for i := range 3 {
		s := &server{redisserver.Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")}
		nodes = append(nodes, s)
		client := s.client(t)
		require.NoError(t, client.ClusterAddSlotsRange(t.Context(), i*5461+min(i, 1), []int{5461, 10922, 16383}[i]).Err())
		require.NoError(t, client.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		if i == 0 {
			first = client
			continue
		}
		host, port, err := net.SplitHostPort(s.Addr)
		require.NoError(t, err)
		require.NoError(t, first.ClusterMeet(t.Context(), host, port).Err())
	}
	for _, s := range nodes {
		client := s.client(t)
		eventually(t, "the cluster is there", func() bool {
			text := client.ClusterInfo(t.Context()).Val()
			return strings.Contains(text, "cluster_state:ok") && strings.Contains(text, "cluster_known_nodes:3") && strings.Contains(text, "cluster_slots_ok:16384")
		})
	}
	return nodes
}

// TestHungListener accepts, and never answers. The client has the settings that go-redis has by
// default, with which it would try for many seconds; and settings with which it waits for ever.
func TestHungListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, options := range []redis.Options{{}, {ReadTimeout: -1, WriteTimeout: -1, MaxRetries: 10}} {
		options.Addr = l.Addr().String()
		client := redis.NewClient(&options)
		limiter := newLimiter(t, client, dist.Config{
			Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(100)}, Replicas: 10, Timeout: 20 * time.Millisecond,
			MaxInFlight: 20, Cooldown: 30 * time.Millisecond, OnError: func(error) {},
		})
		goroutines := runtime.NumGoroutine()
		var wg sync.WaitGroup
		var allowed atomic.Int64
		for range 100 {
			wg.Go(func() {
				for range 10 {
					start := time.Now()
					r := limiter.Take(context.Background(), "k", 1)
					if took := time.Since(start); took > bound {
						t.Errorf("it took %v", took)
					}
					if r.OK() {
						allowed.Add(1)
					}
					if !r.Degraded {
						t.Error("who has decided?")
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 10, allowed.Load(), "the share")
		s := limiter.Stats()
		require.LessOrEqual(t, s.InFlight, 20)
		require.Positive(t, s.Timeouts)
		// Each call has a goroutine, and the client up to three more for its connection.
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+20*4+20)
		client.Close()
	}
}

// TestStalledServer is one that is stopped and goes on.
func TestStalledServer(t *testing.T) {
	s := startServer(t)
	limit := ratelimit.Every(24 * time.Hour).WithBurst(1000)
	l := newLimiter(t, s.client(t), dist.Config{
		Limits: []ratelimit.Limit{limit}, Replicas: 10, Timeout: 100 * time.Millisecond, Cooldown: 50 * time.Millisecond, OnError: func(error) {},
	})
	ctx := t.Context()
	eventually(t, "the server decides", func() bool { return !l.Take(ctx, "warm", 1).Degraded })
	decided, shared := int64(0), int64(0)
	take := func() bool {
		start := time.Now()
		r := l.Take(ctx, "k", 1)
		require.Less(t, time.Since(start), bound)
		if r.Degraded {
			shared += r.Allowed
		} else {
			decided += r.Allowed
		}
		return !r.Degraded
	}
	for range 3 {
		eventually(t, "the server decides", take)
		s.Signal(t, syscall.SIGSTOP)
		eventually(t, "the share decides", func() bool { return !take() && l.Stats().Open })
		for range 300 {
			take()
		}
		s.Signal(t, syscall.SIGCONT)
		eventually(t, "the server decides again, without help", take)
	}
	require.LessOrEqual(t, shared, int64(100))
	require.Positive(t, shared)
	// What was taken by nobody's leave, as its answer came late, is lost; never is there more.
	left := l.Peek(ctx, "k", 0)
	require.LessOrEqual(t, decided+left.Remaining, int64(1000))
	eventually(t, "nothing hangs", func() bool { return l.Stats().InFlight == 0 })
}

// TestKilledUnderLoad kills the server and starts it again, while many ask. It has no persistence,
// so it comes back with all tokens there.
func TestKilledUnderLoad(t *testing.T) {
	for _, policy := range []dist.Outage{dist.Share, dist.Open, dist.Closed} {
		t.Run(policy.String(), func(t *testing.T) {
			s := startServer(t)
			const burst, replicas = 500, 5
			var limiters []*dist.Limiter
			for range 2 {
				limiters = append(limiters, newLimiter(t, s.client(t), dist.Config{
					Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(burst)}, OnOutage: policy, Replicas: replicas,
					Timeout: 200 * time.Millisecond, Cooldown: 20 * time.Millisecond, OnError: func(error) {}, MaxInFlight: 64,
				}))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			var decided, degraded, calls [2]atomic.Int64
			for i, l := range limiters {
				for range 8 {
					wg.Go(func() {
						for j := 0; ctx.Err() == nil; j++ {
							// Once "k" is known to be refused, only other keys are asked for.
							l.Peek(context.Background(), fmt.Sprint("other", j), 1)
							start := time.Now()
							r := l.Take(context.Background(), "k", 1)
							if took := time.Since(start); took > bound {
								t.Errorf("it took %v", took)
							}
							if r.Degraded {
								degraded[i].Add(r.Allowed)
							} else {
								decided[i].Add(r.Allowed)
							}
							calls[i].Add(1)
							time.Sleep(100 * time.Microsecond)
						}
					})
				}
			}
			const kills = 3
			for range kills {
				before := calls[0].Load()
				eventually(t, "calls go on", func() bool { return calls[0].Load() > before+50 })
				s.Kill()
				eventually(t, "it is noticed", func() bool { return limiters[0].Stats().Open && limiters[1].Stats().Open })
				before = calls[0].Load()
				eventually(t, "calls go on", func() bool { return calls[0].Load() > before+50 })
				require.True(t, s.Run(t))
				eventually(t, "it recovers without help", func() bool { return !limiters[0].Stats().Open && !limiters[1].Stats().Open })
			}
			cancel()
			wg.Wait()
			require.LessOrEqual(t, decided[0].Load()+decided[1].Load(), int64(burst*(kills+1)), "once for each state that the server had")
			for i := range limiters {
				switch policy {
				case dist.Share:
					require.LessOrEqual(t, degraded[i].Load(), int64(burst/replicas), "of all outages together")
				case dist.Open:
					require.Positive(t, degraded[i].Load())
				case dist.Closed:
					require.Zero(t, degraded[i].Load())
				}
				require.Positive(t, limiters[i].Stats().Degraded)
			}
		})
	}
}

// BenchmarkRedis is decisions by a server on this machine.
func BenchmarkRedis(b *testing.B) {
	s := startServer(b)
	client := s.client(b)
	ctx := context.Background()
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("user", i)
	}
	for name, window := range map[string]time.Duration{"default": 0, "none": -1} {
		l := newLimiter(b, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerSecond(1e6)}, RetryWindow: window})
		b.Run("case=serial/window="+name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if r := l.Take(ctx, keys[i%len(keys)], 1); !r.OK() {
					b.Fatal(r)
				}
			}
		})
		b.Run("case=parallel/window="+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if r := l.Take(ctx, keys[n.Add(1)%int64(len(keys))], 1); !r.OK() {
						b.Error(r)
					}
				}
			})
		})
	}
	b.Run("case=ping", func(b *testing.B) { // the floor of serial
		for b.Loop() {
			if err := client.Ping(ctx).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkHung is how long callers are held when nobody answers: until the breaker opens, and then.
func BenchmarkHung(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer listener.Close()
	for b.Loop() {
		client := redis.NewClient(&redis.Options{Addr: listener.Addr().String()})
		l := newLimiter(b, client, dist.Config{Limits: []ratelimit.Limit{ratelimit.PerSecond(1000)}, Timeout: 50 * time.Millisecond, OnError: func(error) {}})
		var longest, after time.Duration
		for range 5 {
			start := time.Now()
			l.Take(context.Background(), "k", 1)
			longest = max(longest, time.Since(start))
		}
		for range 1000 {
			start := time.Now()
			l.Take(context.Background(), "k", 1)
			after += time.Since(start)
		}
		b.ReportMetric(longest.Seconds()*1e3, "ms-longest")
		b.ReportMetric(float64(after.Nanoseconds())/1000, "ns-when-open")
		client.Close()
	}
}
