package benchmarks

import (
	"slices"
	"testing"

	"github.com/sysblocks/sysblocks/lfu"
)

// BenchmarkAdaptiveGetHit, BenchmarkAdaptiveMixed, BenchmarkAdaptiveSetEvict and
// BenchmarkAdaptiveMemory are the workloads of package lru, for the caches that adapt. Some
// of these lose sets, or do their work in other goroutines: the hit ratio says what the
// speed is worth.
func BenchmarkAdaptiveGetHit(b *testing.B)   { getHit(b, adaptive, parallel) }
func BenchmarkAdaptiveMixed(b *testing.B)    { mixed(b, adaptive, parallel) }
func BenchmarkAdaptiveSetEvict(b *testing.B) { setEvict(b, adaptive, parallel) }
func BenchmarkAdaptiveMemory(b *testing.B) {
	memory(b, append(slices.Clip(adaptive), impl{"exact", func(tb testing.TB, n int) cache {
		return oursExact{must(lfu.NewExact(lfu.Config[string, int]{Capacity: n}))(tb)}
	}}))
}
