package benchmarks

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	juju "github.com/juju/ratelimit"
	xrate "golang.org/x/time/rate"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A bucketImpl makes a token bucket of so many a second, and so many at once, and returns its Allow.
type bucketImpl struct {
	name string
	make func(b *testing.B, perSecond, burst int64) func() bool
}

var bucketImpls = []bucketImpl{
	{"sysblocks", func(b *testing.B, perSecond, burst int64) func() bool {
		x, err := ratelimit.NewBucket(ratelimit.PerSecond(perSecond).WithBurst(burst))
		if err != nil {
			b.Fatal(err)
		}
		return x.Allow
	}},
	{"xtime", func(_ *testing.B, perSecond, burst int64) func() bool {
		return xrate.NewLimiter(xrate.Limit(perSecond), int(burst)).Allow
	}},
	{"juju", func(_ *testing.B, perSecond, burst int64) func() bool {
		x := juju.NewBucketWithRate(float64(perSecond), burst)
		return func() bool { return x.TakeAvailable(1) == 1 }
	}},
}

// rateCases are limits for which, in these loops, all is allowed, nearly nothing, and about a tenth.
var rateCases = []struct {
	name             string
	perSecond, burst int64
}{
	{"allowed", 1e9, 1e6},
	{"refused", 1, 1},
	{"mixed", 1e6, 10},
}

// BenchmarkTokenBucket asks for one token after the other. Beside the time stands what was allowed, as a multiple of
// what the limit allows in the time that all took; more than 1 is too much.
func BenchmarkTokenBucket(b *testing.B) {
	compareBuckets(b, func(b *testing.B, allow func() bool) int64 {
		allowed := int64(0)
		for range b.N {
			if allow() {
				allowed++
			}
		}
		return allowed
	})
}

// BenchmarkTokenBucketParallel does so from all CPUs, with 32 goroutines each.
func BenchmarkTokenBucketParallel(b *testing.B) {
	compareBuckets(b, func(b *testing.B, allow func() bool) int64 {
		var allowed atomic.Int64
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			mine := int64(0)
			for pb.Next() {
				if allow() {
					mine++
				}
			}
			allowed.Add(mine)
		})
		return allowed.Load()
	})
}

func compareBuckets(b *testing.B, run func(*testing.B, func() bool) int64) {
	for _, c := range rateCases {
		for round := range *rounds {
			for _, impl := range bucketImpls {
				b.Run(fmt.Sprintf("case=%s/impl=%s/round=%d", c.name, impl.name, round+1), func(b *testing.B) {
					b.ReportAllocs()
					start := time.Now()
					allow := impl.make(b, c.perSecond, c.burst)
					b.ResetTimer()
					allowed := run(b, allow)
					b.StopTimer()
					allowance := math.Floor(time.Since(start).Seconds()*float64(c.perSecond)) + float64(c.burst)
					b.ReportMetric(float64(allowed)/allowance, "allowed/allowance")
				})
			}
		}
	}
}
