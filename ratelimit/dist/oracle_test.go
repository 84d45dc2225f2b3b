package dist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// An event is n tokens that were allowed at a time.
type event struct {
	at time.Duration
	n  int64
}

// requireWithin is the oracle of package ratelimit: in no interval were more than
// Burst + elapsed·Count/Per allowed. It follows the exact level, in rational numbers.
func requireWithin(t *testing.T, l ratelimit.Limit, events []event, format string, args ...any) {
	t.Helper()
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	level, most := new(big.Rat), new(big.Rat).SetInt64(burst(l))
	var last time.Duration
	for _, e := range events {
		flow := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(int64(e.at-last)), big.NewInt(l.Count)), big.NewInt(int64(l.Per)))
		if level.Sub(level, flow); level.Sign() < 0 {
			level.SetInt64(0)
		}
		last = e.at
		level.Add(level, new(big.Rat).SetInt64(e.n))
		if level.Cmp(most) > 0 {
			t.Fatalf("at %v the level is %s with %v: %s", e.at, level.FloatString(9), l, fmt.Sprintf(format, args...))
		}
	}
}

// TestOracle asks at random times, through several Limiters that share a Backend.
func TestOracle(t *testing.T) {
	for _, limit := range limits {
		synctest.Test(t, func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			m := newMemory(t)
			var processes []*Limiter
			for range 3 {
				processes = append(processes, newLimiter(t, Config{Backend: m, Limits: []ratelimit.Limit{limit}}))
				time.Sleep(time.Duration(rng.Int64N(5000)))
			}
			var events []event
			step := float64(limit.Per) / float64(limit.Count) * 0.4
			for range 3000 {
				time.Sleep(time.Duration(rng.ExpFloat64() * step))
				n := 1 + rng.Int64N(min(burst(limit), 5))
				r := processes[rng.IntN(3)].Take(t.Context(), "k", n)
				require.False(t, r.Degraded)
				if r.OK() {
					events = append(events, event{time.Since(m.base).Truncate(time.Microsecond), n})
				}
			}
			requireWithin(t, limit, events, "seed %d", seed)
			require.NotEmpty(t, events)
		})
	}
}

// TestOracleOutages is the bound that the package comment states. Backend and processes fail and
// come back at random, the backend now and then without its state. What the backend has decided is
// within the limit, for each state that it had; what a process has decided, is within its share,
// over all outages together; and so the sum is.
func TestOracleOutages(t *testing.T) {
	limit := ratelimit.PerSecond(100).WithBurst(30)
	const replicas = 4
	shareOf := ratelimit.Limit{Count: limit.Count, Per: limit.Per * replicas, Burst: 30 / replicas}
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			backend := newMemory(t)
			var mu sync.Mutex
			down := [replicas]bool{}
			var processes []*Limiter
			for i := range replicas {
				f := &fake{do: func(ctx context.Context, r *Request) (Reply, error) {
					mu.Lock()
					m, out := backend, down[i]
					mu.Unlock()
					if out && r.N%2 == 0 {
						<-ctx.Done() // it hangs
					}
					if out {
						return Reply{}, errors.New("down")
					}
					return m.Take(ctx, r)
				}}
				processes = append(processes, newLimiter(t, Config{
					Backend: f, Limits: []ratelimit.Limit{limit}, Replicas: replicas, Failures: 1 + rng.IntN(3), Cooldown: 200 * time.Millisecond,
				}))
			}
			start := time.Now()
			var wg sync.WaitGroup
			var decided [][]event // of each state of the backend
			degraded := make([][]event, replicas)
			decided = append(decided, nil)
			total := int64(0)
			for i, l := range processes {
				rng := rand.New(rand.NewPCG(seed, uint64(i)+1))
				wg.Go(func() {
					for time.Since(start) < 20*time.Second {
						time.Sleep(time.Duration(rng.ExpFloat64() * float64(10*time.Millisecond)))
						n := 1 + rng.Int64N(3)
						r := l.Take(t.Context(), "k", n)
						if !r.OK() {
							continue
						}
						mu.Lock()
						if r.Degraded {
							degraded[i] = append(degraded[i], event{time.Since(start), n})
						} else {
							at := time.Since(backend.base).Truncate(time.Microsecond)
							decided[len(decided)-1] = append(decided[len(decided)-1], event{at, n})
						}
						total += n
						mu.Unlock()
					}
				})
			}
			for time.Since(start) < 20*time.Second {
				time.Sleep(time.Duration(rng.ExpFloat64() * float64(time.Second)))
				mu.Lock()
				switch rng.IntN(3) {
				case 0:
					down[rng.IntN(replicas)] = true
				case 1:
					down = [replicas]bool{}
				case 2:
					if rng.IntN(2) == 0 {
						down = [replicas]bool{true, true, true, true}
					} else if down[0] && down[1] && down[2] && down[3] {
						m, err := NewMemory(MemoryConfig{})
						require.NoError(t, err)
						backend, decided = m, append(decided, nil)
					}
				}
				mu.Unlock()
			}
			wg.Wait()
			elapsed := time.Since(start)
			mostOf := func(l ratelimit.Limit) int64 { return burst(l) + int64(elapsed)*l.Count/int64(l.Per) }
			most := int64(0)
			for _, events := range decided {
				requireWithin(t, limit, events, "seed %d", seed)
			}
			most += mostOf(limit) + int64(len(decided)-1)*burst(limit)
			for _, events := range degraded {
				requireWithin(t, shareOf, events, "seed %d", seed)
				most += mostOf(shareOf)
			}
			require.LessOrEqual(t, total, most, "seed %d", seed)
		})
	}
}
