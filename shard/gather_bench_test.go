package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"
)

// Comparisons with other libraries are in the module benchmarks.

func BenchmarkGather(b *testing.B) {
	refused := errors.New("refused")
	for _, x := range []struct {
		name   string
		policy Policy
		err    error
	}{
		{"all", Policy{}, nil},
		{"four", Policy{Concurrency: 4}, nil},
		{"pershard", Policy{PerShard: time.Minute}, nil},
		{"failed", Policy{}, refused},
	} {
		for _, n := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("policy=%s/shards=%d", x.name, n), func(b *testing.B) {
				b.ReportAllocs()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				shards := shardsOf(n)
				last := shards[n-1]
				for b.Loop() {
					_, err := Gather(ctx, shards, x.policy, func(_ context.Context, s ID) (int, error) {
						if s == last {
							return 0, x.err
						}
						return 0, nil
					})
					if !errors.Is(err, x.err) {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkStream(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("shards=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			shards := shardsOf(n)
			for b.Loop() {
				for _, err := range Stream(ctx, shards, Policy{}, noop) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// One iteration is one value.
func BenchmarkMergeSorted(b *testing.B) {
	for _, k := range []int{1, 2, 3, 16, 256} {
		b.Run(fmt.Sprintf("inputs=%d", k), func(b *testing.B) {
			b.ReportAllocs()
			seqs := make([]iter.Seq2[int, error], k)
			for i := range seqs {
				seqs[i] = func(yield func(int, error) bool) {
					for v := i; yield(v, nil); v += k {
					}
				}
			}
			for range MergeSorted(cmp.Compare[int], seqs...) {
				if !b.Loop() {
					break
				}
			}
		})
	}
	b.Run("top=10/inputs=16", func(b *testing.B) { // one iteration is one merge
		b.ReportAllocs()
		seqs := make([]iter.Seq2[int, error], 16)
		for i := range seqs {
			values := make([]int, 10)
			for j := range values {
				values[j] = 16*j + i
			}
			seqs[i] = Values(values)
		}
		for b.Loop() {
			for _, err := range Limit(10, MergeSorted(cmp.Compare[int], seqs...)) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
