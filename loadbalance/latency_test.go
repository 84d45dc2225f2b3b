package loadbalance

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// after has a request take that long at an endpoint, in the bubble.
func after(t *testing.T, p *Pool[int], id string, took time.Duration, o Outcome) {
	t.Helper()
	l, err := p.PickID(id)
	require.NoError(t, err)
	time.Sleep(took)
	l.Done(o)
}

func latencyOf(p *Pool[int], id string) time.Duration {
	for _, e := range p.Stats().Endpoints {
		if e.ID == id {
			return e.Latency
		}
	}
	return -1
}

const (
	a = "h00000"
	b = "h00001"
	c = "h00002"
	d = "h00003"
)

func TestPeakEWMA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1, 1), LatencyHalfLife: time.Second})
		require.NoError(t, err)
		defer p.Close()
		require.Zero(t, latencyOf(p, a))
		after(t, p, a, 100*time.Millisecond, OK)
		require.InEpsilon(t, 100*time.Millisecond, latencyOf(p, a), 1e-6)
		after(t, p, b, 20*time.Millisecond, OK)
		after(t, p, c, 20*time.Millisecond, OK)

		// It jumps up at once.
		after(t, p, a, time.Second, OK)
		require.InEpsilon(t, time.Second, latencyOf(p, a), 1e-6)
		// And comes down to the median by half in a half-life, if nothing ends.
		time.Sleep(time.Second)
		require.InEpsilon(t, 510*time.Millisecond, latencyOf(p, a), 1e-3)
		time.Sleep(500 * time.Millisecond) // 2^-1.5 is 0.354; linear between 0.5 and 0.25, it is 0.375
		require.InEpsilon(t, 20*time.Millisecond+367500*time.Microsecond, latencyOf(p, a), 1e-3)
		time.Sleep(time.Hour)
		require.InEpsilon(t, 20*time.Millisecond, latencyOf(p, a), 1e-3)
		// What ends takes it down by half of the difference in a half-life, and below the median, too.
		after(t, p, a, 10*time.Millisecond, OK)
		for range 1000 {
			after(t, p, a, 10*time.Millisecond, OK)
		}
		require.InEpsilon(t, 10*time.Millisecond, latencyOf(p, a), 0.01)
		// But not by time.
		low := latencyOf(p, a)
		time.Sleep(time.Hour)
		require.Equal(t, low, latencyOf(p, a))
	})
}

func TestFailuresOnlyRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1, 1), LatencyHalfLife: time.Second})
		require.NoError(t, err)
		defer p.Close()
		// Of an endpoint that nothing is known of, too.
		after(t, p, b, 50*time.Millisecond, OK)
		after(t, p, a, 0, ServerError)
		require.InEpsilon(t, 100*time.Millisecond, latencyOf(p, a), 1e-3)

		after(t, p, c, 50*time.Millisecond, OK)
		after(t, p, a, 5*time.Millisecond, OK) // the weight of 5 ms of a second is little
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 2000 {
			before := latencyOf(p, a)
			took := time.Duration(rnd.IntN(1000)) * time.Microsecond
			o := []Outcome{ServerError, ConnectError, Timeout, Overload, ClientError, Canceled}[rnd.IntN(6)]
			l, err := p.PickID(a)
			require.NoError(t, err)
			l.Done(o) // in no time: nothing is forgotten meanwhile
			now := latencyOf(p, a)
			require.GreaterOrEqual(t, now, before-1, "%v", o)
			if o.failed() && before < 40*50*time.Millisecond {
				require.Greater(t, now, before, "%v", o)
			}
			time.Sleep(took)
		}
		// At most to 64 times the median, so that an endpoint that is well again is tried within seconds.
		for range 100 {
			after(t, p, a, 0, Timeout)
		}
		require.LessOrEqual(t, latencyOf(p, a), 64*50*time.Millisecond)
		require.Greater(t, latencyOf(p, a), 50*time.Second/100)
		time.Sleep(10 * time.Second)
		require.Less(t, latencyOf(p, a), 100*time.Millisecond)

		// A request that is cancelled after a long time has taken that long at least.
		after(t, p, b, 3*time.Second, Canceled)
		require.InEpsilon(t, 3*time.Second, latencyOf(p, b), 1e-3)
	})
}

func TestNewEndpointsStartAtTheMedian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1, 1), LatencyHalfLife: time.Second})
		require.NoError(t, err)
		defer p.Close()
		for range 10 { // the median is found now and then
			after(t, p, a, 10*time.Millisecond, OK)
			after(t, p, b, 40*time.Millisecond, OK)
			after(t, p, c, 90*time.Millisecond, OK)
		}
		require.NoError(t, p.Add(Endpoint[int]{ID: d, Weight: 1}))
		v := p.snap.Load().view
		require.InEpsilon(t, 40*time.Millisecond, v.Latency(3, Request{now: p.core.now()}), 1e-3)
		require.Zero(t, latencyOf(p, d), "nothing is known of it")
	})
}

func TestLoadReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1)})
		require.NoError(t, err)
		defer p.Close()
		after(t, p, a, 10*time.Millisecond, OK.WithLoad(0.9))
		require.InEpsilon(t, 100*time.Millisecond, latencyOf(p, a), 1e-3)
		after(t, p, b, 10*time.Millisecond, OK.WithLoad(1))
		require.InEpsilon(t, 160*time.Millisecond, latencyOf(p, b), 1e-3)
	})
}

// What streams for an hour is not slow; and it is still in flight.
func TestAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1)})
		require.NoError(t, err)
		defer p.Close()
		l, err := p.PickID(a)
		require.NoError(t, err)
		time.Sleep(10 * time.Millisecond)
		l.Answered(OK)
		l.Answered(ServerError)
		require.EqualValues(t, 1, p.Stats().Endpoints[0].InFlight)
		require.InEpsilon(t, 10*time.Millisecond, latencyOf(p, a), 1e-3)
		time.Sleep(time.Hour)
		l.Done(OK)
		l.Answered(OK)
		l.Done(OK)
		require.InEpsilon(t, 10*time.Millisecond, latencyOf(p, a), 1e-3)
		require.Zero(t, p.Stats().Endpoints[0].InFlight)
		var zero Lease[int]
		zero.Answered(OK)
	})
}

// The faster of two gets most, as long as it is not too busy.
func TestLeastResponseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1), Seed: 3})
		require.NoError(t, err)
		defer p.Close()
		after(t, p, a, 10*time.Millisecond, OK)
		after(t, p, b, 100*time.Millisecond, OK)
		counts := make([]int, 2)
		for range 1100 {
			counts[pick(t, p, Request{})]++
		}
		require.InDelta(t, 1000, counts[0], 20)
	})
}

// Times that are far apart, or come in the wrong order, as other CPUs read the clock.
func TestDecayOfOddTimes(t *testing.T) {
	k := &core{perHalfLife: (1 << ewmaShift) / float64(time.Second)}
	at := int64(time.Hour)
	w := uint64(0x4b189680)<<32 | uint64(uint32(at>>ewmaShift)) // 1e7
	require.Equal(t, 1.0, k.decay(w, at))
	require.Equal(t, 1.0, k.decay(w, at-int64(time.Minute)), "an earlier time")
	require.InDelta(t, 0.5, k.decay(w, at+int64(time.Second)), 1e-4)
	require.Zero(t, k.decay(w, at+int64(time.Hour)))
	last := 1.0
	for s := int64(0); s < int64(70*time.Second); s += int64(10 * time.Millisecond) {
		d := k.decay(w, at+s)
		require.LessOrEqual(t, d, last)
		require.GreaterOrEqual(t, d, 0.0)
		last = d
	}
	for _, s := range []time.Duration{1 << 47, 1<<48 - 1, 1 << 48, 1<<48 + 1, 1 << 62} { // the stamp goes round after 78 hours
		d := k.decay(w, at+int64(s))
		require.True(t, d >= 0 && d <= 1, "%v", s)
	}
}

func TestOutcomeWithLoad(t *testing.T) {
	for _, x := range []struct{ load, room float64 }{{0, 1}, {0.5, 0.5}, {0.9, 0.1}, {1, 1.0 / 16}, {7, 1.0 / 16}, {-1, 1}} {
		for o := OK; o < numOutcomes; o++ {
			with := o.WithLoad(x.load)
			require.Equal(t, o, with.kind())
			require.InDelta(t, x.room, with.room(), 1e-4)
		}
	}
	require.Equal(t, "Timeout", Timeout.String())
	require.Equal(t, "OK at load 0.50", OK.WithLoad(0.5).String())
	require.Equal(t, ServerError, Outcome(99).kind())
	require.Equal(t, "Outcome(99)", Outcome(99).String())
}

// Most endpoints fail for a while. What is known of the others stays, and when all is well again,
// requests go by it.
func TestLatencyAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{2, 5} {
			p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(even(n)...), Seed: 5})
			require.NoError(t, err)
			times := func(i int) time.Duration { return time.Duration(1+20*i) * time.Millisecond }
			share := func() []int {
				counts := make([]int, n)
				for range 300 {
					l, err := p.Pick(Request{})
					require.NoError(t, err)
					counts[l.Value()]++
					time.Sleep(times(l.Value()))
					l.Done(OK)
				}
				return counts
			}
			for range 3 {
				share()
			}
			before := share()
			require.Greater(t, before[0], before[n-1])
			for range 5000 {
				l, err := p.Pick(Request{})
				require.NoError(t, err)
				time.Sleep(time.Millisecond)
				if l.Value() == 0 && n > 2 {
					l.Done(OK)
				} else {
					l.Done(ServerError)
				}
			}
			for _, e := range p.Stats().Endpoints {
				require.True(t, e.Latency >= 0 && e.Latency < 30*time.Second, "%v", e.Latency)
			}
			time.Sleep(30 * time.Second)
			for range 3 {
				share()
			}
			after := share()
			require.Greater(t, after[0], after[n-1], "%v, before %v", after, before)
			p.Close()
		}
	})
}

// One that fails fast before anything is known of any.
func TestFailingFirst(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		for seed := range uint64(20) {
			synctest.Test(t, func(t *testing.T) {
				p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(even(n)...), Seed: seed + 1, LatencyHalfLife: time.Minute})
				require.NoError(t, err)
				defer p.Close()
				failed := 0
				for range 2000 { // two at a time
					l, err := p.Pick(Request{})
					require.NoError(t, err)
					if l.Value() == 0 {
						failed++
						time.Sleep(20 * time.Microsecond)
						l.Done(ServerError)
					} else {
						time.Sleep(10 * time.Millisecond)
						l.Done(OK)
					}
				}
				require.Less(t, failed, 40, "of 2000, of %d, seed %d", n, seed)
			})
		}
	}
}

// Idle for days, an endpoint is as if it had not been slow.
func TestLatencyAfterDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, idle := range []time.Duration{30 * time.Hour, 63 * time.Hour, 100 * time.Hour, 20 * 24 * time.Hour, 40 * 24 * time.Hour} {
			p, err := New(Config[int]{Policy: LeastResponseTime(), Endpoints: endpoints(1, 1, 1)})
			require.NoError(t, err)
			after(t, p, a, 10*time.Second, OK)
			after(t, p, b, time.Millisecond, OK)
			after(t, p, c, time.Millisecond, OK)
			time.Sleep(idle)
			require.InDelta(t, time.Millisecond, latencyOf(p, a), float64(10*time.Microsecond), "%v", idle)
			for range 100 {
				after(t, p, a, 500*time.Microsecond, OK)
			}
			require.Less(t, latencyOf(p, a), 2*time.Millisecond, "%v", idle)
			p.Close()
		}
	})
}
