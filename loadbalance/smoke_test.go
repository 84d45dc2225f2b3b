package loadbalance

import (
	"fmt"
	"testing"
)

func benchPool(tb testing.TB, n int, policy Policy) *Pool[int] {
	var es []Endpoint[int]
	for i := range n {
		es = append(es, Endpoint[int]{ID: fmt.Sprintf("%04d", i), Value: i, Weight: uint32(1 + i%4)})
	}
	p, err := New(Config[int]{Policy: policy, Endpoints: es})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func BenchmarkSmoke(b *testing.B) {
	for _, x := range []struct {
		name string
		p    Policy
	}{
		{"rr", RoundRobin()}, {"wrr", SmoothWeightedRoundRobin()}, {"random", Random()}, {"wrandom", WeightedRandom()},
		{"least", LeastConnections()}, {"p2c", PowerOfTwoChoices()}, {"lrt", LeastResponseTime()}, {"ip", IPHash()}, {"zone", PreferZone(nil)},
	} {
		for _, n := range []int{10, 100} {
			p := benchPool(b, n, x.p)
			b.Run(fmt.Sprintf("%s/n=%d/pick", x.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Pick(Request{Hash: 7}); err != nil {
						b.Fatal(err)
					}
				}
			})
			p = benchPool(b, n, x.p)
			b.Run(fmt.Sprintf("%s/n=%d/both", x.name, n), func(b *testing.B) {
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
