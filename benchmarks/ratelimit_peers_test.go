package benchmarks

import (
	"context"
	"testing"
	"time"

	juju "github.com/juju/ratelimit"
	sethvargo "github.com/sethvargo/go-limiter/memorystore"
	"github.com/stretchr/testify/require"
	"github.com/throttled/throttled/v2"
	throttledmem "github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululemem "github.com/ulule/limiter/v3/drivers/store/memory"
	uber "go.uber.org/ratelimit"
	xrate "golang.org/x/time/rate"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A bucketImpl makes a token bucket of so many a second, and so many at once, and returns its Allow. Those
// that have windows of a second instead allow as many at once as in a second: burst says so.
type bucketImpl struct {
	name  string
	burst func(perSecond, burst int64) int64
	make  func(tb testing.TB, perSecond, burst int64) func() bool
}

func asAsked(_, burst int64) int64     { return burst }
func aWindow(perSecond, _ int64) int64 { return perSecond }

// bucketImpls are single limiters, and then those that have one for each key, with a single key.
var bucketImpls = []bucketImpl{
	{"sysblocks", asAsked, func(tb testing.TB, perSecond, burst int64) func() bool {
		return must(ratelimit.NewBucket(ratelimit.PerSecond(perSecond).WithBurst(burst)))(tb).Allow
	}},
	{"xtime", asAsked, func(_ testing.TB, perSecond, burst int64) func() bool {
		return xrate.NewLimiter(xrate.Limit(perSecond), int(burst)).Allow
	}},
	{"juju", asAsked, func(_ testing.TB, perSecond, burst int64) func() bool {
		x := juju.NewBucketWithRate(float64(perSecond), burst)
		return func() bool { return x.TakeAvailable(1) == 1 }
	}},
	{"throttled", asAsked, func(tb testing.TB, perSecond, burst int64) func() bool {
		take := throttledTake(tb, quota{perSecond, burst, time.Second}, 0)
		return func() bool { return take("key") }
	}},
	{"sethvargo", aWindow, func(tb testing.TB, perSecond, _ int64) func() bool {
		take := sethvargoTake(tb, quota{perSecond, perSecond, time.Second}, 1)
		return func() bool { return take("key") }
	}},
	{"ulule", aWindow, func(_ testing.TB, perSecond, _ int64) func() bool {
		take := ululeTake(quota{perSecond, perSecond, time.Second})
		return func() bool { return take("key") }
	}},
}

// A quota is a limit as all of them can be made with: count in each per, and burst at once.
type quota struct {
	count, burst int64
	per          time.Duration
}

// throttledTake returns a function that takes one from a store of throttled, for maxKeys keys; 0: without bound.
// When ten attempts to write have failed because of others, it returns an error, which is a refusal here.
func throttledTake(tb testing.TB, q quota, maxKeys int) func(key string) bool {
	x := must(throttled.NewGCRARateLimiterCtx(must(throttledmem.NewCtx(maxKeys))(tb), q.throttled()))(tb)
	ctx := context.Background()
	return func(key string) bool {
		limited, _, err := x.RateLimitCtx(ctx, key, 1)
		return err == nil && !limited
	}
}

func (q quota) throttled() throttled.RateQuota {
	return throttled.RateQuota{MaxRate: throttled.PerDuration(int(q.count), q.per), MaxBurst: int(q.burst) - 1}
}

// sethvargoTake returns a function that takes one from a store of sethvargo, which begins with room for keys. After
// its first interval, v0.7.1 gives as many tokens as an interval has nanoseconds for each, where those are fewer than
// Tokens: of a million a second, a thousand.
func sethvargoTake(tb testing.TB, q quota, keys int) func(key string) bool {
	x := must(sethvargo.New(&sethvargo.Config{
		Tokens: uint64(q.count), Interval: q.per, InitialAlloc: keys,
		SweepInterval: 100 * time.Hour, SweepMinTTL: 1000 * time.Hour,
	}))(tb)
	ctx := context.Background()
	tb.Cleanup(func() { _ = x.Close(ctx) })
	return func(key string) bool {
		_, _, _, ok, err := x.Take(ctx, key)
		return err == nil && ok
	}
}

// ululeTake returns a function that takes one from a store of ulule's, which is never swept.
func ululeTake(q quota) func(key string) bool {
	x := ulule.New(ululemem.NewStoreWithOptions(ulule.StoreOptions{Prefix: "limiter"}),
		ulule.Rate{Period: q.per, Limit: q.count})
	ctx := context.Background()
	return func(key string) bool {
		c, err := x.Get(ctx, key)
		return err == nil && !c.Reached
	}
}

// pacerRate is a token in each nanosecond, which no loop can use up; pacerSlack is what may come at once, the tokens
// of a second.
const (
	pacerRate  = 1e9
	pacerSlack = 1 << 30
)

// pacerImpls are limiters that let the caller wait.
var pacerImpls = []struct {
	name string
	make func(tb testing.TB) func() error
}{
	{"sysblocks", func(tb testing.TB) func() error {
		p := must(ratelimit.NewPacer(ratelimit.PerSecond(pacerRate), pacerSlack, pacerSlack))(tb)
		ctx := context.Background()
		return func() error { return p.Wait(ctx) }
	}},
	{"ours-bucket", func(tb testing.TB) func() error {
		x := must(ratelimit.NewBucket(ratelimit.PerSecond(pacerRate).WithBurst(pacerSlack + 1)))(tb)
		ctx := context.Background()
		return func() error { return x.Wait(ctx, 1) }
	}},
	{"uber", func(testing.TB) func() error {
		x := uber.New(pacerRate, uber.WithSlack(pacerSlack))
		return func() error {
			x.Take()
			return nil
		}
	}},
	{"xtime", func(testing.TB) func() error {
		x := xrate.NewLimiter(pacerRate, pacerSlack+1)
		ctx := context.Background()
		return func() error { return x.Wait(ctx) }
	}},
	{"juju", func(testing.TB) func() error {
		x := juju.NewBucketWithRate(pacerRate, pacerSlack+1)
		return func() error {
			x.Wait(1)
			return nil
		}
	}},
}

// TestBucketImpls checks that what the benchmarks call limits: after the burst, it allows no more than comes in.
func TestBucketImpls(t *testing.T) {
	for _, impl := range bucketImpls {
		t.Run(impl.name, func(t *testing.T) {
			start := time.Now()
			allow := impl.make(t, 1, 10)
			admitted := int64(0)
			for range 100 {
				if allow() {
					admitted++
				}
			}
			burst := impl.burst(1, 10)
			require.GreaterOrEqual(t, admitted, burst)
			require.LessOrEqual(t, admitted, burst+int64(time.Since(start).Seconds()))
		})
	}
	for _, impl := range pacerImpls {
		t.Run(impl.name, func(t *testing.T) {
			wait := impl.make(t)
			for range 10 {
				require.NoError(t, wait())
			}
		})
	}
}
