package loadbalance

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// Comparisons with other libraries are in the module benchmarks.

func benchmarkPolicies() []struct {
	name   string
	policy Policy
} {
	return []struct {
		name   string
		policy Policy
	}{
		{"roundrobin", RoundRobin()},
		{"smoothwrr", SmoothWeightedRoundRobin()},
		{"random", Random()},
		{"weightedrandom", WeightedRandom()},
		{"leastconn", LeastConnections()},
		{"weightedleastconn", WeightedLeastConnections()},
		{"p2c", PowerOfTwoChoices()},
		{"leastresponse", LeastResponseTime()},
		{"iphash", IPHash()},
		{"preferzone", PreferZone(nil)},
	}
}

func benchmarkPool(b *testing.B, policy Policy, n int) *Pool[int] {
	es := endpoints(even(n)...)
	for i := range es {
		es[i].Weight = uint32(1 + i%4)
	}
	p, err := New(Config[int]{Policy: policy, Endpoints: es})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}

// What a pick cannot be faster than.
func BenchmarkYardstick(b *testing.B) {
	b.Run("of=atomicadd", func(b *testing.B) {
		var n atomic.Uint64
		for b.Loop() {
			n.Add(1)
		}
	})
	b.Run("of=clock", func(b *testing.B) {
		start, sum := time.Now(), time.Duration(0)
		for b.Loop() {
			sum += time.Since(start)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, x := range benchmarkPolicies() {
		for _, n := range []int{10, 100} {
			b.Run(fmt.Sprintf("policy=%s/n=%d", x.name, n), func(b *testing.B) {
				p := benchmarkPool(b, x.policy, n)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Pick(Request{Hash: 7}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPickDone(b *testing.B) {
	for _, x := range benchmarkPolicies() {
		for _, n := range []int{10, 100} {
			b.Run(fmt.Sprintf("policy=%s/n=%d", x.name, n), func(b *testing.B) {
				p := benchmarkPool(b, x.policy, n)
				b.ReportAllocs()
				for b.Loop() {
					l, err := p.Pick(Request{Hash: 7})
					if err != nil {
						b.Fatal(err)
					}
					l.Done(OK)
				}
			})
		}
	}
}

func BenchmarkPickDoneParallel(b *testing.B) {
	for _, x := range benchmarkPolicies() {
		b.Run(fmt.Sprintf("policy=%s/n=100", x.name), func(b *testing.B) {
			p := benchmarkPool(b, x.policy, 100)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l, err := p.Pick(Request{Hash: 7})
					if err != nil {
						b.Error(err)
						return
					}
					l.Done(OK)
				}
			})
		})
	}
}

// What a change of one endpoint costs.
func BenchmarkSetWeight(b *testing.B) {
	for _, x := range benchmarkPolicies() {
		for _, n := range []int{100, 1000} {
			b.Run(fmt.Sprintf("policy=%s/n=%d", x.name, n), func(b *testing.B) {
				p := benchmarkPool(b, x.policy, n)
				w := uint32(0)
				for b.Loop() {
					w++
					if err := p.SetWeight("h00007", 1+w%7); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
