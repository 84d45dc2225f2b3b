package dist

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// BenchmarkTake is what a decision costs without a network: allowed by the Backend in memory, or denied
// without it.
func BenchmarkTake(b *testing.B) {
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("user", i)
	}
	ctx := context.Background()
	for name, limit := range map[string]ratelimit.Limit{"allowed": ratelimit.PerSecond(1e6).WithBurst(1e9), "denied": ratelimit.Every(24 * time.Hour)} {
		l := newLimiter(b, Config{Backend: newMemory(b), Limits: []ratelimit.Limit{limit}, Timeout: time.Minute})
		for range 2 {
			for _, k := range keys {
				l.Take(ctx, k, 1)
			}
		}
		b.Run("case="+name+"/callers=one", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.Take(ctx, keys[i%len(keys)], 1)
			}
		})
		b.Run("case="+name+"/callers=many", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					l.Take(ctx, keys[i%len(keys)], 1)
				}
			})
		})
	}
}

// BenchmarkMemory is the Backend alone.
func BenchmarkMemory(b *testing.B) {
	m := newMemory(b)
	ctx := context.Background()
	r := &Request{Name: "n", Key: "k", N: 1, Rates: []Rate{{1, 1e9}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Take(ctx, r); err != nil {
			b.Fatal(err)
		}
	}
}
