package loadbalance

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// rampOf returns how far the slow start of an endpoint is, for picks.
func rampOf[T any](t testing.TB, p *Pool[T], id string) float64 {
	t.Helper()
	v := p.snap.Load().view
	for i := range v.Len() {
		if v.ID(i) == id {
			return v.Ramp(i)
		}
	}
	require.FailNow(t, "it cannot be picked", id)
	return 0
}

// TestSlowStartSteps follows a slow start: by a sixteenth after each fifteenth of the time.
func TestSlowStartSteps(t *testing.T) {
	for _, span := range []time.Duration{1, 14, 15, 16, time.Microsecond, time.Second, 15 * time.Second, 24*time.Hour - 1, 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			p := timedPool(t, Config[int]{Endpoints: endpointsOf(2), SlowStart: span})
			require.Equal(t, 1.0, rampOf(t, p, "a"), "those of the beginning have nobody to give way to")
			require.NoError(t, p.Add(Endpoint[int]{ID: "c", Weight: 1}))
			begin := time.Now()
			for k := 1; k <= 15; k++ {
				// Step k ends when k/15 of the span have gone by.
				ends := time.Duration((int64(k)*int64(span) + 14) / 15)
				if wait := ends - time.Since(begin) - 1; wait >= 0 {
					time.Sleep(wait)
					synctest.Wait()
					require.Equal(t, float64(k)/16, rampOf(t, p, "c"), "%v, 1 ns before %v", span, ends)
					require.Equal(t, float64(k)/16, statsOf(t, p, "c").Ramp)
					time.Sleep(time.Nanosecond)
					synctest.Wait()
				}
				if next := (int64(k+1)*int64(span) + 14) / 15; time.Duration(next) > ends {
					require.Equal(t, float64(k+1)/16, rampOf(t, p, "c"), "%v, after %v", span, ends)
				}
			}
			require.Equal(t, span, time.Since(begin))
			require.Equal(t, 1.0, rampOf(t, p, "c"))
			require.Equal(t, 1.0, rampOf(t, p, "a"))
			p.mu.Lock()
			require.Zero(t, p.timerAt, "nothing is left to be done")
			p.mu.Unlock()
		})
	}
}

// TestSlowStartWhen has endpoints come back in all ways.
func TestSlowStartWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		p := timedPool(t, Config[int]{
			SlowStart: 15 * time.Second,
			Health:    HealthConfig[int]{Check: w.Check, Interval: time.Second, Jitter: -1, Rise: 1, Fall: 1},
			Outlier:   OutlierConfig{ConsecutiveErrors: 1, EjectFor: 5 * time.Second},
		})
		_, err := p.Set(endpointsOf(3))
		require.NoError(t, err)
		require.Equal(t, 1.0, rampOf(t, p, "a"), "the first that are set, as there were none")
		starts := func(what string) {
			t.Helper()
			require.Equal(t, 1.0/16, rampOf(t, p, "a"), what)
			require.Equal(t, 1.0, rampOf(t, p, "b"), what)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			require.Equal(t, 4.0/16, rampOf(t, p, "a"), what)
			require.NoError(t, p.SetWeight("a", 2))
			_, err := p.Set([]Endpoint[int]{{ID: "a", Weight: 1}, {ID: "b", Weight: 1}, {ID: "c", Weight: 1}})
			require.NoError(t, err)
			require.Equal(t, 4.0/16, rampOf(t, p, "a"), "%s: Set lets it go on", what)
			time.Sleep(12 * time.Second)
			synctest.Wait()
			require.Equal(t, 1.0, rampOf(t, p, "a"), what)
		}
		require.NoError(t, p.Remove("a"))
		require.NoError(t, p.Add(Endpoint[int]{ID: "a", Weight: 1}))
		starts("Add")

		require.NoError(t, p.Drain(context.Background(), "a"))
		require.NoError(t, p.Resume("a"))
		starts("Resume")

		time.Sleep(time.Second / 2) // between two checks
		w.set(errSick, "a")
		time.Sleep(2 * time.Second)
		w.set(nil, "a")
		time.Sleep(time.Second / 2)
		synctest.Wait()
		starts("Up")

		end(t, p, "a", ServerError)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		starts("Returned")

		// Twice: it begins anew.
		require.NoError(t, p.Drain(context.Background(), "a"))
		require.NoError(t, p.Resume("a"))
		time.Sleep(7 * time.Second)
		require.NoError(t, p.Drain(context.Background(), "a"))
		require.NoError(t, p.Resume("a"))
		starts("Resume in the middle of another slow start")

		require.NoError(t, p.Drain(context.Background(), "a"))
		require.NoError(t, p.Resume("a"))
		time.Sleep(3 * time.Second)
		p.Close() // in the middle: the bubble ends only when no timer is left
	})
}

// TestSlowStartShares has each policy give an endpoint in its slow start its part.
func TestSlowStartShares(t *testing.T) {
	const n = 20000
	for name, policy := range everyPolicy() {
		synctest.Test(t, func(t *testing.T) {
			endpoints := endpointsOf(4)
			p := timedPool(t, Config[int]{Policy: policy, Endpoints: endpoints[1:], SlowStart: 15 * time.Second, Seed: 1})
			require.NoError(t, p.Add(endpoints[0]))
			time.Sleep(3 * time.Second)
			synctest.Wait()
			require.Equal(t, 0.25, rampOf(t, p, "a"))
			const part = 1.0 / 13 // a quarter of one, beside three
			switch name {
			case "RoundRobin", "SmoothWeightedRoundRobin":
				require.Equal(t, map[string]int{"a": 4, "b": 16, "c": 16, "d": 16}, countPicks(t, p, 52, Request{}), name)
			case "Random", "WeightedRandom":
				// 5 standard deviations, which is wrong for fewer than one seed of a million.
				got := countPicks(t, p, n, Request{})
				require.InDelta(t, part*n, got["a"], 5*math.Sqrt(n*part*(1-part)), name)
			case "IPHash", "ConsistentHash": // which say that it does not matter to them
			case "LeastConnections", "WeightedLeastConnections":
				got := heldPicks(t, p, 52*4)
				for i, e := range endpoints {
					require.InDelta(t, []int{4 * 4, 16 * 4, 16 * 4, 16 * 4}[i], got[e.ID], 2, name)
				}
			case "PowerOfTwoChoices", "LeastResponseTime", "PreferZone":
				// With four endpoints, half of the pairs have it, so it gets a chance often enough to
				// be kept at its part, and has at most what would make it look busier, and one more.
				got := heldPicks(t, p, 52*4)
				require.InDelta(t, 4*4, got["a"], 4, name)
			default:
				t.Errorf("what does %s do?", name)
			}
		})
	}
}

// heldPicks picks n times, ends none, and returns how often each was picked.
func heldPicks[T any](t testing.TB, p *Pool[T], n int) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for range n {
		l, err := p.Pick(Request{})
		require.NoError(t, err)
		counts[l.ID()]++
	}
	return counts
}
