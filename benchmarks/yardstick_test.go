package benchmarks

import (
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

// BenchmarkYardstick is what nanoseconds are worth on a machine: costs that no design avoids.
func BenchmarkYardstick(b *testing.B) {
	var n atomic.Int64
	var mu sync.Mutex
	var seed = maphash.MakeSeed()
	var sum uint64
	var now time.Time
	key := "user:00000000001"
	for _, y := range []struct {
		name string
		do   func()
	}{
		{"atomic-add", func() { n.Add(1) }},
		{"lock-unlock", func() { mu.Lock(); sum++; mu.Unlock() }},
		{"hash-16-bytes", func() { sum += maphash.Comparable(seed, key) }},
		{"xxhash-16-bytes", func() { sum += xxhash.Sum64String(key) }},
		{"time.Now", func() { now = time.Now() }},
	} {
		b.Run("op="+y.name, func(b *testing.B) {
			for b.Loop() {
				y.do()
			}
		})
	}
	runtime.KeepAlive(sum)
	runtime.KeepAlive(now)
}
