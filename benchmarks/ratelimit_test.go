package benchmarks

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"
)

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
// what the limit allows in the time that all took; more than 1 is too much, if not by more than the 1 % that some
// round a rate to.
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
			for i := range bucketImpls {
				impl := bucketImpls[(i+round)%len(bucketImpls)]
				b.Run(fmt.Sprintf("case=%s/impl=%s/round=%d", c.name, impl.name, round+1), func(b *testing.B) {
					b.ReportAllocs()
					start := time.Now()
					allow := impl.make(b, c.perSecond, c.burst)
					b.ResetTimer()
					allowed := run(b, allow)
					b.StopTimer()
					burst := impl.burst(c.perSecond, c.burst)
					allowance := math.Floor(time.Since(start).Seconds()*float64(c.perSecond)) + float64(burst)
					b.ReportMetric(float64(allowed)/allowance, "allowed/allowance")
				})
			}
		}
	}
}

// BenchmarkPacer waits for one turn after the other, at a rate that no loop reaches: so nobody ever sleeps, and what
// is measured is what the limiter itself takes. A Pacer and uber's are made for this; of the others it is the Wait
// of a bucket. uber's has no errors, and knows of no context.
func BenchmarkPacer(b *testing.B) {
	comparePacers(b, func(b *testing.B, wait func() error) {
		for range b.N {
			if err := wait(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPacerParallel does so from all CPUs, with 32 goroutines each.
func BenchmarkPacerParallel(b *testing.B) {
	comparePacers(b, func(b *testing.B, wait func() error) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := wait(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func comparePacers(b *testing.B, run func(*testing.B, func() error)) {
	for round := range *rounds {
		for i := range pacerImpls {
			impl := pacerImpls[(i+round)%len(pacerImpls)]
			b.Run(fmt.Sprintf("impl=%s/round=%d", impl.name, round+1), func(b *testing.B) {
				b.ReportAllocs()
				wait := impl.make(b)
				b.ResetTimer()
				run(b, wait)
			})
		}
	}
}
