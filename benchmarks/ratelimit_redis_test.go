//go:build servers

package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	redisrate "github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/throttled/throttled/v2"
	throttledredis "github.com/throttled/throttled/v2/store/goredisstore.v9"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/sysblocks/sysblocks/internal/redisserver"
	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
	"github.com/sysblocks/sysblocks/ratelimit/redislimit"
)

// redisClient returns a client with the options that all have, on a server without keys.
func redisClient(tb testing.TB, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: addr, PoolSize: 64, MinIdleConns: 64, MaxRetries: -1,
		DialTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
	})
	tb.Cleanup(func() { _ = client.Close() })
	require.NoError(tb, client.FlushAll(context.Background()).Err())
	return client
}

// A redisTake takes one token of the key. An error is a call that was not decided by the limit.
type redisTake func(ctx context.Context, key string) (bool, error)

// A redisImpl makes a limiter with a quota for each key.
type redisImpl struct {
	name  string
	burst func(count, burst int64) int64
	make  func(tb testing.TB, client *redis.Client, q quota) redisTake
}

// errDegraded is that ours has decided without Redis.
var errDegraded = errors.New("decided without Redis")

// oursOnRedis is ours as it is by default: it remembers, for a second, which requests were allowed, so that one that
// the client sends twice counts once; and it knows, without asking, how long a key that was refused will be.
func oursOnRedis(change func(*dist.Config)) func(testing.TB, *redis.Client, quota) redisTake {
	return func(tb testing.TB, client *redis.Client, q quota) redisTake {
		config := dist.Config{
			Backend: must(redislimit.New(redislimit.Config{Client: client}))(tb),
			Name:    "ours", Limits: []ratelimit.Limit{q.limit()}, Replicas: 1, Timeout: 10 * time.Second,
		}
		change(&config)
		x := must(dist.New(config))(tb)
		return func(ctx context.Context, key string) (bool, error) {
			r := x.Take(ctx, key, 1)
			if r.Degraded {
				return r.OK(), errDegraded
			}
			return r.OK(), nil
		}
	}
}

// redisImpls are ours with and without what it does besides, and those of others. ours-backend asks Redis each time,
// and nothing else, as the others do. throttled's Redis store reads, and then compares and swaps: two round trips,
// and an error after ten attempts.
var redisImpls = []redisImpl{
	{"sysblocks", asAsked, oursOnRedis(func(*dist.Config) {})},
	{"ours-forgetful", asAsked, oursOnRedis(func(c *dist.Config) { c.RetryWindow = -1 })},
	{"ours-backend", asAsked, func(tb testing.TB, client *redis.Client, q quota) redisTake {
		x := must(redislimit.New(redislimit.Config{Client: client}))(tb)
		interval := (q.per.Microseconds() + q.count - 1) / q.count
		rates := []dist.Rate{{Interval: interval, Burst: q.burst}}
		return func(ctx context.Context, key string) (bool, error) {
			r, err := x.Take(ctx, &dist.Request{Name: "ours", Key: key, N: 1, Rates: rates})
			return r.Allowed, err
		}
	}},
	{"redis_rate", asAsked, func(_ testing.TB, client *redis.Client, q quota) redisTake {
		x := redisrate.NewLimiter(client)
		limit := redisrate.Limit{Rate: int(q.count), Burst: int(q.burst), Period: q.per}
		return func(ctx context.Context, key string) (bool, error) {
			r, err := x.Allow(ctx, key, limit)
			return err == nil && r.Allowed == 1, err
		}
	}},
	{"throttled", asAsked, func(tb testing.TB, client *redis.Client, q quota) redisTake {
		store := must(throttledredis.NewCtx(client, "throttled:"))(tb)
		x := must(throttled.NewGCRARateLimiterCtx(store, q.throttled()))(tb)
		return func(ctx context.Context, key string) (bool, error) {
			limited, _, err := x.RateLimitCtx(ctx, key, 1)
			return err == nil && !limited, err
		}
	}},
	{"ulule", aWindow, func(tb testing.TB, client *redis.Client, q quota) redisTake {
		x := ulule.New(must(ululeredis.NewStore(client))(tb), ulule.Rate{Period: q.per, Limit: q.count})
		return func(ctx context.Context, key string) (bool, error) {
			c, err := x.Get(ctx, key)
			return err == nil && !c.Reached, err
		}
	}},
}

// BenchmarkRedis takes a token of one key, or of ten thousand in turn (a hundred with -short), which are there before
// the clock starts, and have been refused once already where they are refused: sysblocks then does not ask Redis.
// Beside the time stands what was allowed of what may have been, and how many calls failed.
func BenchmarkRedis(b *testing.B) {
	compareRedis(b, func(b *testing.B, take func(i int)) {
		for i := range b.N {
			take(i)
		}
	})
}

// BenchmarkRedisParallel does so from all CPUs, with 32 goroutines each.
func BenchmarkRedisParallel(b *testing.B) {
	compareRedis(b, func(b *testing.B, take func(i int)) {
		var next atomic.Int64
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				take(int(next.Add(1)))
			}
		})
	})
}

func compareRedis(b *testing.B, run func(b *testing.B, take func(i int))) {
	addr := redisserver.Start(b).Addr
	many := 10_000
	if testing.Short() {
		many = 100
	}
	for _, c := range []struct {
		name, quota string
		keys        int
	}{
		{"keys=1/answer=allowed", "allowed", 1},
		{"keys=1/answer=refused", "refused", 1},
		{"keys=many/answer=allowed", "allowed", many},
		{"keys=many/answer=refused", "refused", many},
	} {
		q := quotas[c.quota]
		keys := firstKeys(c.keys)
		for round := range *rounds {
			for i := range redisImpls {
				impl := redisImpls[(i+round)%len(redisImpls)]
				b.Run(fmt.Sprintf("%s/impl=%s/round=%d", c.name, impl.name, round+1), func(b *testing.B) {
					b.ReportAllocs()
					ctx := context.Background()
					start := time.Now()
					take := impl.make(b, redisClient(b, addr), q)
					var allowed, failed atomic.Int64
					one := func(i int) {
						switch ok, err := take(ctx, keys[i%len(keys)]); {
						case err != nil:
							failed.Add(1)
						case ok:
							allowed.Add(1)
						}
					}
					for range 2 { // the second time, those that will be refused are
						var wg sync.WaitGroup
						for g := range 64 {
							wg.Go(func() {
								for i := g; i < len(keys); i += 64 {
									one(i)
								}
							})
						}
						wg.Wait()
					}
					if failed.Load() > 0 {
						b.Fatal("the first calls have failed")
					}
					b.ResetTimer()
					run(b, one)
					b.StopTimer()
					each := redisAllowance(q, impl, time.Since(start))
					b.ReportMetric(float64(allowed.Load())/(each*float64(len(keys))), "allowed/allowance")
					b.ReportMetric(float64(failed.Load())/float64(b.N), "failed/asked")
				})
			}
		}
	}
}

// redisAllowance is what a key may have in so much time.
func redisAllowance(q quota, impl redisImpl, elapsed time.Duration) float64 {
	flown := int64(elapsed.Seconds() * float64(q.count) / q.per.Seconds())
	return float64(impl.burst(q.count, q.burst) + flown)
}

// BenchmarkRedisAdmitted asks for one key from 64 goroutines, as fast as they can, for a second (a tenth with -short),
// which is one operation; and reports what was admitted of what may have been, and how many calls failed. Of a bucket
// of 1,000 a second and 10 at once, all should get what there is: less than 1 is lost, more is too much. ulule has
// windows of 1,000 in a second, of which there may be one and a part.
func BenchmarkRedisAdmitted(b *testing.B) {
	addr := redisserver.Start(b).Addr
	length := time.Second
	if testing.Short() {
		length /= 10
	}
	for round := range *rounds {
		for i := range redisImpls {
			impl := redisImpls[(i+round)%len(redisImpls)]
			b.Run(fmt.Sprintf("impl=%s/round=%d", impl.name, round+1), func(b *testing.B) {
				q := quota{1000, 10, time.Second}
				var asked, allowed, failed atomic.Int64
				var firstError atomic.Pointer[error]
				allowance := 0.0
				for range b.N {
					take := impl.make(b, redisClient(b, addr), q)
					var wg sync.WaitGroup
					start := time.Now()
					for range 64 {
						wg.Go(func() {
							for time.Since(start) < length {
								asked.Add(1)
								switch ok, err := take(context.Background(), "key"); {
								case err != nil:
									failed.Add(1)
									firstError.CompareAndSwap(nil, &err)
								case ok:
									allowed.Add(1)
								}
							}
						})
					}
					wg.Wait()
					allowance += redisAllowance(q, impl, time.Since(start))
				}
				b.ReportMetric(float64(allowed.Load())/allowance, "allowed/allowance")
				b.ReportMetric(float64(asked.Load())/float64(b.N), "asked")
				b.ReportMetric(float64(failed.Load())/float64(asked.Load()), "failed/asked")
				if err := firstError.Load(); err != nil {
					b.Logf("the first of %d calls that failed: %v", failed.Load(), *err)
				}
			})
		}
	}
}

// TestRedisImpls checks that what the benchmarks call has a limit for each key, and that nothing of ours exceeds it
// when 64 goroutines ask at the same time.
func TestRedisImpls(t *testing.T) {
	addr := redisserver.Start(t).Addr
	ctx := t.Context()
	for _, impl := range redisImpls {
		t.Run(impl.name, func(t *testing.T) {
			take := impl.make(t, redisClient(t, addr), quotas["refused"])
			for _, want := range []bool{true, false} {
				for _, k := range firstKeys(100) {
					ok, err := take(ctx, k)
					require.NoError(t, err)
					require.Equal(t, want, ok)
				}
			}

			q := quota{1000, 10, time.Second}
			take = impl.make(t, redisClient(t, addr), q)
			var allowed atomic.Int64
			var wg sync.WaitGroup
			start := time.Now()
			for range 64 {
				wg.Go(func() {
					for range 50 {
						if ok, err := take(ctx, "key"); ok && err == nil {
							allowed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			most := redisAllowance(q, impl, time.Since(start))
			t.Logf("%d of %.0f", allowed.Load(), most)
			require.GreaterOrEqual(t, allowed.Load(), q.burst)
			if impl.name == "sysblocks" || impl.name == "ours-forgetful" || impl.name == "ours-backend" {
				require.LessOrEqual(t, float64(allowed.Load()), most)
			}
		})
	}
}
