package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errSick = errors.New("sick")

// TestHealthModel compares the state after each check with what a look at all results before says.
func TestHealthModel(t *testing.T) {
	for seed := range uint64(few(40)) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			rise, fall, startDown := 1+r.IntN(4), 1+r.IntN(4), r.IntN(2) == 0
			message := fmt.Sprintf("seed %d: rise %d, fall %d, start down %v", seed, rise, fall, startDown)
			var mu sync.Mutex
			var all []bool
			var events recorder
			p := poolOf(t, Config[int]{
				Endpoints: endpointsOf(1),
				OnEvent:   events.record,
				Health: HealthConfig[int]{
					Check: func(context.Context, Endpoint[int]) error {
						mu.Lock()
						defer mu.Unlock()
						all = append(all, r.IntN(3) > 0)
						if all[len(all)-1] {
							return nil
						}
						return fmt.Errorf("check %d: %w", len(all), errSick)
					},
					Interval: time.Second, Jitter: -1, Rise: rise, Fall: fall, StartDown: startDown,
				},
			})
			up := !startDown
			for i := range 100 {
				synctest.Wait()
				mu.Lock()
				results := slices.Clone(all)
				mu.Unlock()
				require.Len(t, results, i+1, message)
				lastAre := func(n int, want bool) bool {
					return len(results) >= n && !slices.Contains(results[len(results)-n:], !want)
				}
				var want []string
				switch {
				case !up && (lastAre(rise, true) || i == 0 && results[0]):
					up, want = true, []string{"Up a"}
				case up && lastAre(fall, false):
					up, want = false, []string{"Down a"}
				}
				if errs := events.errs; want != nil {
					if last := errs[len(errs)-1]; up {
						require.NoError(t, last, message)
					} else {
						require.EqualError(t, last, fmt.Sprintf("check %d: sick", i+1), message)
					}
				}
				if i == 0 {
					want = append([]string{"Added a"}, want...)
				}
				require.Equal(t, want, events.take(), "%s, after %v", message, results)
				s := statsOf(t, p, "a")
				_, err := p.Pick(Request{})
				if up {
					require.NoError(t, err, message)
					require.Equal(t, Healthy, s.State, message)
				} else {
					require.Equal(t, ErrAllUnhealthy, err, message)
					require.Equal(t, Unhealthy, s.State, message)
				}
				require.Equal(t, results[i], s.CheckError == nil, message)
				time.Sleep(time.Second)
			}
		})
	}
}

func TestHealthJitter(t *testing.T) {
	for _, c := range []struct{ jitter, low, high float64 }{
		{0, 0.9, 1.1}, {0.3, 0.7, 1.3}, {1, 0.001, 2}, {-1, 1, 1}, {math.Inf(-1), 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var times []time.Time
			p := poolOf(t, Config[int]{Endpoints: endpointsOf(1), Health: HealthConfig[int]{
				Check: func(context.Context, Endpoint[int]) error {
					time.Sleep(3 * time.Second / 2) // the Interval is from the end of one to the next
					times = append(times, time.Now())
					return nil
				},
				Interval: time.Second, Jitter: c.jitter,
			}})
			time.Sleep(500 * time.Second)
			p.Close()
			require.Greater(t, len(times), 120)
			shortest, longest := math.Inf(1), 0.0
			for i := 1; i < len(times); i++ {
				wait := (times[i].Sub(times[i-1]) - 3*time.Second/2).Seconds()
				shortest, longest = min(shortest, wait), max(longest, wait)
			}
			require.GreaterOrEqual(t, shortest, c.low-1e-9)
			require.LessOrEqual(t, longest, c.high+1e-9)
			// Of 120, none is in the outer third on one side with a probability below (5/6)^120 < 4e-10.
			require.LessOrEqual(t, shortest, 1-(1-c.low)*2/3)
			require.GreaterOrEqual(t, longest, 1+(c.high-1)*2/3)
		})
	}
}

// TestHealthLongest has the longest Interval, which must not become one of a millisecond with the Jitter.
func TestHealthLongest(t *testing.T) {
	for range 20 { // half of the jitters make it longer
		synctest.Test(t, func(t *testing.T) {
			checks := 0
			poolOf(t, Config[int]{Endpoints: endpointsOf(1), Health: HealthConfig[int]{
				Check:    func(context.Context, Endpoint[int]) error { checks++; return nil },
				Interval: 366 * 24 * time.Hour,
				Timeout:  math.MaxInt64,
				Jitter:   1,
			}})
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, 1, checks)
		})
	}
}

// TestHealthTimeout has the check of one endpoint hang, which must not matter to the others.
func TestHealthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		checks := make(map[string]int)
		p := poolOf(t, Config[int]{Endpoints: endpointsOf(3), Health: HealthConfig[int]{
			Check: func(ctx context.Context, e Endpoint[int]) error {
				mu.Lock()
				checks[e.ID]++
				mu.Unlock()
				if e.ID != "b" {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			},
			Interval: time.Second, Timeout: 9 * time.Second, Jitter: -1, Fall: 2,
		}})
		time.Sleep(19*time.Second - 1)
		mu.Lock()
		require.Equal(t, map[string]int{"a": 19, "b": 2, "c": 19}, checks)
		mu.Unlock()
		require.Equal(t, Healthy, statsOf(t, p, "b").State)
		require.ErrorIs(t, statsOf(t, p, "b").CheckError, context.DeadlineExceeded)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, Unhealthy, statsOf(t, p, "b").State)
		require.Equal(t, 2, p.Stats().Available)
	})
}

func TestHealthPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var well atomic.Bool
		p := poolOf(t, Config[int]{Endpoints: endpointsOf(1), Health: HealthConfig[int]{
			Check: func(context.Context, Endpoint[int]) error {
				if !well.Load() {
					panic("out of order")
				}
				return nil
			},
			Interval: time.Second, Jitter: -1, Fall: 1, Rise: 1,
		}})
		synctest.Wait()
		require.EqualError(t, statsOf(t, p, "a").CheckError, "loadbalance: Check panicked: out of order")
		require.Equal(t, Unhealthy, statsOf(t, p, "a").State)
		well.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, Healthy, statsOf(t, p, "a").State)
	})
}

// TestHealthSet changes endpoints between their checks, which keeps what is known of them.
func TestHealthSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // for the checks of two endpoints
		var seen []Endpoint[int]
		var well atomic.Bool
		var events recorder
		p := poolOf(t, Config[int]{OnEvent: events.record, Endpoints: endpointsOf(1), Health: HealthConfig[int]{
			Check: func(_ context.Context, e Endpoint[int]) error {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, e)
				if !well.Load() {
					return errSick
				}
				return nil
			},
			Interval: time.Second, Jitter: -1, Fall: 3, Rise: 2,
		}})
		want := []Endpoint[int]{{ID: "a", Value: 0, Weight: 1}}
		for i := 1; i <= 2; i++ {
			synctest.Wait()
			e := Endpoint[int]{ID: "a", Value: i, Weight: uint32(i), Zone: "z", Priority: uint8(i)}
			want = append(want, e)
			_, err := p.Set([]Endpoint[int]{e})
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		require.Equal(t, want, seen)
		require.Equal(t, []string{"Added a", "Down a"}, events.take(), "three failures in a row, with a Set between each two")
		_, err := p.Set(endpointsOf(2))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, Unhealthy, statsOf(t, p, "a").State, "Set makes nobody well")
		require.Equal(t, Healthy, statsOf(t, p, "b").State)
		require.Equal(t, map[string]int{"b": 10}, countPicks(t, p, 10, Request{}))
		well.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"Added b", "Up a"}, events.take())

		require.NoError(t, p.SetWeight("a", 0))
		mu.Lock()
		checks := len(seen)
		mu.Unlock()
		require.Equal(t, Weightless, statsOf(t, p, "a").State)
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		require.Len(t, seen, checks+2, "who has no weight is checked, too")
		mu.Unlock()
	})
}

// TestHealthRemoved removes an endpoint during its check, and adds it again.
func TestHealthRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type check struct {
			started, ended time.Duration
			value          int
		}
		begin := time.Now()
		var mu sync.Mutex
		var checks []check
		var events recorder
		p := poolOf(t, Config[int]{OnEvent: events.record, Endpoints: endpointsOf(1), Health: HealthConfig[int]{
			Check: func(ctx context.Context, e Endpoint[int]) error {
				c := check{started: time.Since(begin), value: e.Value}
				<-ctx.Done()
				time.Sleep(time.Second) // it is slow to notice
				c.ended = time.Since(begin)
				mu.Lock()
				defer mu.Unlock()
				checks = append(checks, c)
				return errSick
			},
			Interval: time.Second, Timeout: 10 * time.Second, Jitter: -1, Fall: 1,
		}})
		time.Sleep(2 * time.Second)
		require.NoError(t, p.Remove("a"))
		require.NoError(t, p.Add(Endpoint[int]{ID: "a", Value: 1, Weight: 1}))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		done := func() []check {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(checks)
		}
		require.Equal(t, []check{{0, 3 * time.Second, 0}}, done())
		require.Equal(t, Healthy, statsOf(t, p, "a").State, "the result of a check that was stopped does not count")
		require.NoError(t, statsOf(t, p, "a").CheckError)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		require.Equal(t, []check{{0, 3 * time.Second, 0}, {2 * time.Second, 13 * time.Second, 1}}, done())
		require.Equal(t, Unhealthy, statsOf(t, p, "a").State)
		require.NoError(t, p.Remove("a"))
		time.Sleep(time.Hour)
		require.Len(t, done(), 2)
		p.mu.Lock()
		require.Empty(t, p.checkers)
		p.mu.Unlock()
		require.Equal(t, []string{"Added a", "Removed a", "Added a", "Down a", "Removed a"}, events.take())
	})
}

// TestHealthClose closes a Pool during a check that takes a while to end.
func TestHealthClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		var events recorder
		p := poolOf(t, Config[int]{OnEvent: events.record, Endpoints: endpointsOf(3), Health: HealthConfig[int]{
			Check: func(ctx context.Context, _ Endpoint[int]) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				ended.Add(1)
				return ctx.Err()
			},
			Interval: time.Second, Timeout: time.Minute, Fall: 1,
		}})
		time.Sleep(time.Second)
		begin := time.Now()
		for range 3 {
			go p.Close() // they wait, too
		}
		p.Close()
		require.Equal(t, time.Second, time.Since(begin))
		require.EqualValues(t, 3, ended.Load())
		require.Equal(t, []string{"Added a", "Added b", "Added c"}, events.take())
		_, err := p.Pick(Request{})
		require.Equal(t, ErrClosed, err)
	})
}

// TestHealthStartDown has an endpoint start down, and its first check decide.
func TestHealthStartDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := ward{}
		w.set(errSick, "b")
		var events recorder
		p := poolOf(t, Config[int]{OnEvent: events.record, Endpoints: endpointsOf(2), Health: HealthConfig[int]{
			Check:    func(ctx context.Context, e Endpoint[int]) error { time.Sleep(time.Second); return w.Check(ctx, e) },
			Interval: time.Second, Jitter: -1, Rise: 3, StartDown: true,
		}})
		_, err := p.Pick(Request{})
		require.Equal(t, ErrAllUnhealthy, err)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"Added a", "Added b", "Up a"}, events.take())
		w.set(nil, "b")
		time.Sleep(5 * time.Second) // two checks
		synctest.Wait()
		require.Empty(t, events.take(), "after a failure, Rise must succeed")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"Up b"}, events.take())
	})
	// Without a Check there is nobody to say that it is up.
	p := poolOf(t, Config[int]{Endpoints: endpointsOf(1), Health: HealthConfig[int]{StartDown: true}})
	_, err := p.Pick(Request{})
	require.NoError(t, err)
}

func TestCheckTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	check := CheckTCP(func(e Endpoint[string]) string { return e.Value })
	e := Endpoint[string]{ID: "a", Value: l.Addr().String()}
	require.NoError(t, check(context.Background(), e))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, check(ended, e), context.Canceled)
	require.NoError(t, l.Close())
	err = check(context.Background(), e)
	require.Error(t, err)
	require.Equal(t, ConnectError, OutcomeOf(err))
	require.Error(t, check(context.Background(), Endpoint[string]{Value: "nonsense"}))
}
