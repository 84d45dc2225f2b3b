package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// BenchmarkPick is the choice of an endpoint by one goroutine: alone, and with the end of the request at once. impl=sysblocks
// is a Pool, which counts requests in flight whatever the policy; impl=ours-picker is the Picker in it alone, as
// many of the peers count nothing.
func BenchmarkPick(b *testing.B) {
	compareChoosers(b, func(b *testing.B, choose func(uint64) int) {
		bad := 0
		for hash := uint64(0); b.Loop(); hash++ {
			if choose(hash) < 0 {
				bad++
			}
		}
		if bad > 0 {
			b.Fatalf("%d of %d choices failed", bad, b.N)
		}
	})
}

// BenchmarkPickParallel is the same from all CPUs.
func BenchmarkPickParallel(b *testing.B) {
	compareChoosers(b, func(b *testing.B, choose func(uint64) int) {
		b.RunParallel(func(pb *testing.PB) {
			bad := 0
			for hash := rand.Uint64(); pb.Next(); hash++ {
				if choose(hash) < 0 {
					bad++
				}
			}
			if bad > 0 {
				b.Errorf("%d choices failed", bad)
			}
		})
	})
}

func compareChoosers(b *testing.B, run func(*testing.B, func(uint64) int)) {
	for _, p := range chooserPolicies {
		impls := chooserImpls(p.policy, p.peers)
		for _, op := range []string{"pick", "pick-and-done"} {
			for _, n := range []int{10, 100} {
				for round := range *rounds {
					for i := range impls {
						impl := impls[(i+round)%len(impls)]
						if impl.name == "ours-picker" && op != "pick" && p.counts {
							continue // without what it goes by, it is not comparable
						}
						name := fmt.Sprintf("policy=%s/op=%s/n=%d/impl=%s/round=%d", p.name, op, n, impl.name, round+1)
						b.Run(name, func(b *testing.B) {
							b.ReportAllocs()
							c := impl.make(b, n, p.weighted)
							choose := c.pick
							if op != "pick" {
								choose = c.both
							}
							b.ResetTimer()
							run(b, choose)
						})
					}
				}
			}
		}
	}
}

// BenchmarkPickYardstick is what no balancer avoids, beside that of BenchmarkYardstick.
func BenchmarkPickYardstick(b *testing.B) {
	start := time.Now()
	var since time.Duration
	var sum uint64
	for _, y := range []struct {
		name string
		do   func()
	}{
		{"time.Since", func() { since = time.Since(start) }},
		{"rand.Uint64", func() { sum += rand.Uint64() }},
	} {
		b.Run("op="+y.name, func(b *testing.B) {
			for b.Loop() {
				y.do()
			}
		})
	}
	runtime.KeepAlive(since)
	runtime.KeepAlive(sum)
}

// BenchmarkEndpoints is what changes of the endpoints take: op=new makes a Pool of them, op=weight changes the weight of
// one, and op=health takes one out, or back in, as it happens when its health changes.
func BenchmarkEndpoints(b *testing.B) {
	ctx := context.Background()
	for _, p := range chooserPolicies {
		for _, n := range []int{100, 1000} {
			for round := range *rounds {
				for _, op := range []struct {
					name string
					run  func(b *testing.B, es []loadbalance.Endpoint[int])
				}{
					{"new", func(b *testing.B, es []loadbalance.Endpoint[int]) {
						for b.Loop() {
							must(loadbalance.New(loadbalance.Config[int]{Policy: p.policy, Endpoints: es}))(b).Close()
						}
					}},
					{"weight", func(b *testing.B, es []loadbalance.Endpoint[int]) {
						pool := newPool(b, loadbalance.Config[int]{Policy: p.policy, Endpoints: es})
						for b.Loop() {
							es[n/2].Weight ^= 8
							if d := must(pool.Set(es))(b); len(d.Changed) != 1 {
								b.Fatal(d)
							}
						}
					}},
					{"health", func(b *testing.B, es []loadbalance.Endpoint[int]) {
						pool := newPool(b, loadbalance.Config[int]{Policy: p.policy, Endpoints: es})
						for out := true; b.Loop(); out = !out {
							change := pool.Resume
							if out {
								change = func(id string) error { return pool.Drain(ctx, id) }
							}
							if err := change(es[n/2].ID); err != nil {
								b.Fatal(err)
							}
						}
					}},
				} {
					b.Run(fmt.Sprintf("policy=%s/op=%s/n=%d/impl=sysblocks/round=%d", p.name, op.name, n, round+1), func(b *testing.B) {
						b.ReportAllocs()
						op.run(b, poolEndpoints(n, p.weighted))
					})
				}
			}
		}
	}
}
