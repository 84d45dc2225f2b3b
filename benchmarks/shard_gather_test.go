package benchmarks

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sysblocks/sysblocks/shard"
)

// A gatherImpl asks all shards, at most limit of them at the same time, 0: all, collects what they
// answer, and returns how much that is.
type gatherImpl struct {
	name   string
	gather func(ctx context.Context, shards []shard.ID, limit int, f func(context.Context, shard.ID) (int, error)) (int, error)
}

// gatherImpls are ours, errgroup as it is used for that, and as a floor, a sync.WaitGroup with
// nothing else: no context to cancel, no errors, and no limit, so that it is left out where there
// is one.
//
// Ours beyond errgroup's first error: all errors, each with its shard; what the others have
// answered; panics, which reach the caller; checks of the list.
var gatherImpls = []gatherImpl{
	{"sysblocks", func(ctx context.Context, shards []shard.ID, limit int, f func(context.Context, shard.ID) (int, error)) (int, error) {
		replies, err := shard.Gather(ctx, shards, shard.Policy{Concurrency: limit}, f)
		return len(replies), err
	}},
	{"errgroup", func(ctx context.Context, shards []shard.ID, limit int, f func(context.Context, shard.ID) (int, error)) (int, error) {
		g, ctx := errgroup.WithContext(ctx)
		if limit > 0 {
			g.SetLimit(limit)
		}
		values := make([]int, len(shards))
		for i, s := range shards {
			g.Go(func() (err error) {
				values[i], err = f(ctx, s)
				return err
			})
		}
		return len(values), g.Wait()
	}},
	{"ours-stream", func(ctx context.Context, shards []shard.ID, limit int, f func(context.Context, shard.ID) (int, error)) (int, error) {
		values := make([]int, 0, len(shards)) // as they come
		for r, err := range shard.Stream(ctx, shards, shard.Policy{Concurrency: limit}, f) {
			if err != nil {
				return 0, err
			}
			values = append(values, r.Value)
		}
		return len(values), nil
	}},
	{"ours-floor", func(ctx context.Context, shards []shard.ID, limit int, f func(context.Context, shard.ID) (int, error)) (int, error) {
		values := make([]int, len(shards))
		var wg sync.WaitGroup
		for i, s := range shards {
			wg.Go(func() { values[i], _ = f(ctx, s) })
		}
		wg.Wait()
		return len(values), nil
	}},
}

// BenchmarkGather asks shards that answer at once, or after they have let others run. One iteration
// is one Gather.
func BenchmarkGather(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, answer := range []struct {
		name string
		f    func(context.Context, shard.ID) (int, error)
	}{
		{"none", func(context.Context, shard.ID) (int, error) { return 1, nil }},
		{"yield", func(context.Context, shard.ID) (int, error) { runtime.Gosched(); return 1, nil }},
	} {
		for _, n := range []int{1, 4, 16, 256} {
			for _, limit := range []int{0, 4} {
				if limit >= n {
					continue
				}
				shards := make([]shard.ID, n)
				for i := range shards {
					shards[i] = shard.ID(fmt.Sprintf("shard%04d", i))
				}
				for round := range *rounds {
					for i := range gatherImpls {
						impl := gatherImpls[(i+round)%len(gatherImpls)]
						if impl.name == "ours-floor" && limit > 0 {
							continue
						}
						b.Run(fmt.Sprintf("work=%s/shards=%d/limit=%d/impl=%s/round=%d", answer.name, n, limit, impl.name, round+1), func(b *testing.B) {
							b.ReportAllocs()
							for b.Loop() {
								if got, err := impl.gather(ctx, shards, limit, answer.f); got != n || err != nil {
									b.Fatal(got, err)
								}
							}
						})
					}
				}
			}
		}
	}
}
