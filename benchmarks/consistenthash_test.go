package benchmarks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/consistenthash"
)

var placerSizes = flag.String("nodes", "10,100,1000", "numbers of nodes of consistenthash and its peers")

// BenchmarkLocate is the look-up of the node that has a key, by one goroutine.
func BenchmarkLocate(b *testing.B) {
	comparePlacers(b, func(b *testing.B, p placer, keys []string) {
		loop := p.locate()
		legal := 0
		b.ResetTimer()
		for left := b.N; left > 0; {
			part := min(left, len(keys))
			legal += loop(0, part)
			left -= part
		}
		mustBeLegal(b, legal)
	}, func(placerImpl) bool { return true })
}

// BenchmarkLocateParallel is Locate on all CPUs, while nobody changes the nodes.
func BenchmarkLocateParallel(b *testing.B) {
	comparePlacers(b, func(b *testing.B, p placer, keys []string) {
		var goroutines, legal atomic.Int64
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			// A loop does as many look-ups at once as have been granted, up to a batch.
			const batch = 256
			loop := p.locate()
			at, mine := int(goroutines.Add(1))*(len(keys)/3)%len(keys), 0
			for {
				n := 0
				for n < min(batch, len(keys)-at) && pb.Next() {
					n++
				}
				if n == 0 {
					break
				}
				mine += loop(at, at+n)
				if at += n; at == len(keys) {
					at = 0
				}
			}
			legal.Add(int64(mine))
		})
		mustBeLegal(b, int(legal.Load()))
	}, func(placerImpl) bool { return true })
}

// BenchmarkReplicas is the look-up of three different nodes for a key.
func BenchmarkReplicas(b *testing.B) {
	comparePlacers(b, func(b *testing.B, p placer, keys []string) {
		legal := 0
		b.ResetTimer()
		for left := b.N; left > 0; {
			part := min(left, len(keys))
			legal += p.replicas(0, part)
			left -= part
		}
		mustBeLegal(b, legal)
	}, placerImpl.hasReplicas)
}

func mustBeLegal(b *testing.B, legal int) {
	if legal != b.N {
		b.Fatalf("%d of %d look-ups found nothing", b.N-legal, b.N)
	}
}

// hasReplicas reports whether an implementation finds more than one node for a key.
func (in placerImpl) hasReplicas() bool { return in.grow != nil && in.name != "go-rendezvous" }

// BenchmarkBuild makes a placement of a list of nodes, with equal weights and, if the
// implementation has them, with weights from 1 to 10.
func BenchmarkBuild(b *testing.B) {
	for _, kind := range []string{"equal", "1to10"} {
		b.Run("weights="+kind, func(b *testing.B) {
			forPlacers(b, func(in placerImpl) bool { return in.build != nil && (kind == "equal" || in.weighted) },
				func(nodes []string) func(b *testing.B, in placerImpl) {
					var weights []uint32
					if kind != "equal" {
						rng := rand.New(rand.NewPCG(1, uint64(len(nodes))))
						for range nodes {
							weights = append(weights, 1+rng.Uint32N(10))
						}
					}
					return func(b *testing.B, in placerImpl) {
						for b.Loop() {
							in.build(b, nodes, weights)
						}
					}
				})
		})
	}
}

// BenchmarkAddNode adds one node to those that are there. It is removed again while the clock
// stands.
func BenchmarkAddNode(b *testing.B) {
	forPlacers(b, func(in placerImpl) bool { return in.grow != nil },
		func(nodes []string) func(b *testing.B, in placerImpl) {
			return func(b *testing.B, in placerImpl) {
				add, undo := in.grow(b, nodes, "node-9999:7000")
				for b.Loop() {
					add()
					b.StopTimer()
					undo()
					b.StartTimer()
				}
			}
		})
}

// BenchmarkBounded acquires a node for a key and releases it, by one goroutine. None of the
// others bounds the load of requests. Meanwhile each node has, on average, as many requests in
// flight as held says; the share of those that went elsewhere than to the owner of their key
// stands beside the time.
func BenchmarkBounded(b *testing.B) {
	compareBounded(b, func(b *testing.B, m *consistenthash.Map[string], bounded *consistenthash.Bounded[string], keys []string) {
		elsewhere, i := 0, 0
		for b.Loop() {
			i++
			l, err := bounded.Acquire(keys[i%len(keys)])
			if err != nil {
				b.Fatal(err)
			}
			l.Release()
		}
		for _, k := range keys {
			l, _ := bounded.Acquire(k)
			if owner, _ := m.Get(k); owner != l.Value() {
				elsewhere++
			}
			l.Release()
		}
		b.ReportMetric(100*float64(elsewhere)/float64(len(keys)), "%elsewhere")
	})
}

// BenchmarkBoundedParallel is Bounded on all CPUs.
func BenchmarkBoundedParallel(b *testing.B) {
	compareBounded(b, func(b *testing.B, _ *consistenthash.Map[string], bounded *consistenthash.Bounded[string], keys []string) {
		var goroutines atomic.Int64
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			i := int(goroutines.Add(1)) * (len(keys) / 3)
			for pb.Next() {
				i++
				l, err := bounded.Acquire(keys[i%len(keys)])
				if err != nil {
					b.Error(err)
					return
				}
				l.Release()
			}
		})
	})
}

func compareBounded(b *testing.B, run func(b *testing.B, m *consistenthash.Map[string], bounded *consistenthash.Bounded[string], keys []string)) {
	keys := placerKeys()
	algorithms := []struct {
		name      string
		algorithm consistenthash.Algorithm
	}{
		{"ours-slots", consistenthash.Slots(consistenthash.SlotsConfig{})},
		{"ours-ring", consistenthash.Ring(consistenthash.RingConfig{})},
	}
	for _, n := range placerNumbers(b) {
		for _, held := range []int{0, 10} {
			for round := range *rounds {
				for j := range algorithms {
					a := algorithms[(j+round)%len(algorithms)]
					b.Run(fmt.Sprintf("held=%d/nodes=%d/impl=%s/round=%d", held, n, a.name, round+1), func(b *testing.B) {
						b.ReportAllocs()
						c := consistenthash.Config[string]{Algorithm: a.algorithm}
						for _, node := range nodesOf(n) {
							c.Members = append(c.Members, consistenthash.Member[string]{
								Node: consistenthash.Node{ID: node, Weight: 1}, Value: node,
							})
						}
						m := must(consistenthash.New(c))(b)
						bounded := must(consistenthash.NewBounded(m, consistenthash.BoundedConfig{}))(b)
						rng := rand.New(rand.NewPCG(1, uint64(n)))
						for range held * n { // they are never released
							if _, err := bounded.AcquireHash(rng.Uint64()); err != nil {
								b.Fatal(err)
							}
						}
						run(b, m, bounded, keys)
					})
				}
			}
		}
	}
}

// nodesOf returns the names of n nodes.
func nodesOf(n int) []string {
	nodes := make([]string, n)
	for i := range nodes {
		nodes[i] = fmt.Sprintf("node-%04d:7000", i)
	}
	return nodes
}

// placerKeys returns different keys of 16 bytes, which lie in the order in which they are used.
func placerKeys() []string {
	keys, _, _ := textKeys(1 << 16)
	return keys
}

// placerNumbers returns the numbers of nodes; -short has a small one.
func placerNumbers(b *testing.B) (numbers []int) {
	list := *placerSizes
	if testing.Short() {
		list = "10"
	}
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < copies || n > 5000 {
			b.Fatalf("-nodes: must be from %d to 5000, got %q", copies, s)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// forPlacers lets those implementations take turns that fit, with each number of nodes.
func forPlacers(b *testing.B, fits func(placerImpl) bool, prepare func(nodes []string) func(b *testing.B, in placerImpl)) {
	var impls []placerImpl
	for _, in := range placerImpls() {
		if fits(in) {
			impls = append(impls, in)
		}
	}
	for _, n := range placerNumbers(b) {
		run := prepare(nodesOf(n))
		for round := range *rounds {
			for j := range impls {
				in := impls[(j+round)%len(impls)]
				b.Run(fmt.Sprintf("nodes=%d/impl=%s/round=%d", n, in.name, round+1), func(b *testing.B) {
					b.ReportAllocs()
					run(b, in)
				})
			}
		}
	}
}

// comparePlacers is forPlacers for look-ups: a placer is made once for all rounds.
func comparePlacers(b *testing.B, run func(b *testing.B, p placer, keys []string), fits func(placerImpl) bool) {
	keys := placerKeys()
	forPlacers(b, fits, func(nodes []string) func(b *testing.B, in placerImpl) {
		made := make(map[string]placer)
		return func(b *testing.B, in placerImpl) {
			p, ok := made[in.name]
			if !ok {
				p = in.make(b, nodes, keys)
				made[in.name] = p
			}
			run(b, p, keys)
		}
	})
}

// TestPlacers checks that what the benchmarks call finds nodes that are there: none measures how
// fast an error is.
func TestPlacers(t *testing.T) {
	keys := placerKeys()[:1000]
	for _, in := range placerImpls() {
		t.Run(in.name, func(t *testing.T) {
			for _, n := range []int{10, 100, 1000} {
				nodes := nodesOf(n)
				p := in.make(t, nodes, keys)
				assert.Equal(t, len(keys), p.locate()(0, len(keys)))
				found := make(map[string]int)
				for _, k := range keys {
					owner := p.owner(k)
					require.True(t, slices.Contains(nodes, owner), owner)
					found[owner]++
				}
				if in.hasReplicas() {
					for _, k := range keys[:100] {
						list := p.several(k)
						require.Len(t, list, copies)
						assert.Equal(t, p.owner(k), list[0])
						for i, node := range list {
							require.True(t, slices.Contains(nodes, node), node)
							assert.NotContains(t, list[:i], node)
						}
					}
				}
				if n == 10 {
					assert.Len(t, found, n)
					for node, count := range found {
						assert.Greater(t, count, 30, node)
					}
				}
				if in.hasReplicas() {
					assert.Equal(t, len(keys), p.replicas(0, len(keys)))
				} else {
					assert.Nil(t, p.replicas)
				}
			}
			if in.build != nil {
				in.build(t, nodesOf(10), nil)
			}
			if in.weighted {
				in.build(t, nodesOf(3), []uint32{1, 5, 10})
			}
			if in.grow != nil {
				add, undo := in.grow(t, nodesOf(10), "node-9999:7000")
				for range 3 {
					add()
					undo()
				}
			}
		})
	}
}
