package loadbalance

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// end picks an endpoint by its ID and ends the request so, for each outcome.
func end[T any](t testing.TB, p *Pool[T], id string, outcomes ...Outcome) {
	t.Helper()
	for _, o := range outcomes {
		l, err := p.PickID(id)
		require.NoError(t, err)
		l.Done(o)
	}
}

// ends is end for n requests.
func ends[T any](t testing.TB, p *Pool[T], id string, n int, o Outcome) {
	t.Helper()
	for range n {
		end(t, p, id, o)
	}
}

func TestOutlierConsecutive(t *testing.T) {
	for _, c := range []struct {
		outcomes []Outcome
		ejected  bool
	}{
		{[]Outcome{ServerError, ServerError}, false},
		{[]Outcome{ServerError, ServerError, ServerError}, true},
		{[]Outcome{ConnectError, Timeout, ServerError}, true},
		{[]Outcome{ServerError.WithLoad(1), Timeout.WithLoad(0.5), ConnectError.WithLoad(0)}, true},
		{[]Outcome{200, 201, 202}, true}, // none of the constants
		{[]Outcome{ServerError, ServerError, OK, ServerError, ServerError}, false},
		{[]Outcome{ServerError, ServerError, OK.WithLoad(0.7), ServerError, ServerError}, false},
		{[]Outcome{ServerError, ServerError, ClientError, ServerError, ServerError}, false}, // it answers
		{[]Outcome{ServerError, Canceled, ServerError, Overload, ServerError}, true},        // which say nothing
		{[]Outcome{ServerError, ServerError, Canceled, Overload}, false},
		{[]Outcome{Canceled, Canceled, Canceled, Overload, Overload, Overload, ClientError, ClientError, ClientError}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var events recorder
			p := timedPool(t, Config[int]{Endpoints: endpointsOf(2), OnEvent: events.record, Outlier: OutlierConfig{ConsecutiveErrors: 3}})
			events.take()
			for i, o := range c.outcomes {
				require.Equal(t, Healthy, statsOf(t, p, "a").State, "%v, %d", c.outcomes, i)
				end(t, p, "a", o)
			}
			if !c.ejected {
				require.Equal(t, Healthy, statsOf(t, p, "a").State, "%v", c.outcomes)
				require.Empty(t, events.take())
				return
			}
			s := statsOf(t, p, "a")
			require.Equal(t, Outlying, s.State, "%v", c.outcomes)
			require.Equal(t, 30*time.Second, s.EjectedFor)
			require.Equal(t, 1, s.Ejections)
			require.EqualError(t, events.errs[0], "loadbalance: 3 requests failed one after the other")
			require.Equal(t, []string{"Ejected a"}, events.take())
			require.Equal(t, map[string]int{"b": 10}, countPicks(t, p, 10, Request{}))
			_, err := p.PickID("a")
			require.ErrorIs(t, err, ErrUnavailable)
			require.NotErrorIs(t, err, ErrUnknown)
			time.Sleep(30*time.Second - 1)
			synctest.Wait()
			require.Empty(t, events.take())
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.Equal(t, []string{"Returned a"}, events.take())
			require.Equal(t, Healthy, statsOf(t, p, "a").State)
			end(t, p, "a", ServerError, ServerError)
			require.Empty(t, events.take(), "what was before does not count")
		})
	}
}

// TestOutlierSpans ejects an endpoint again and again: it takes longer each time, up to a maximum, and is
// forgotten in time.
func TestOutlierSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(2), Outlier: OutlierConfig{
			ConsecutiveErrors: 1, EjectFor: 10 * time.Second, MaxEjectFor: 35 * time.Second, Interval: time.Minute,
		}})
		for i, span := range []time.Duration{10, 20, 30, 35, 35} {
			end(t, p, "a", Timeout)
			s := statsOf(t, p, "a")
			require.Equal(t, span*time.Second, s.EjectedFor, "%d", i)
			require.Equal(t, i+1, s.Ejections)
			time.Sleep(s.EjectedFor - 1)
			synctest.Wait()
			require.Equal(t, Outlying, statsOf(t, p, "a").State)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.Equal(t, Healthy, statsOf(t, p, "a").State)
		}
		// The rest of this interval is one in which it was ejected; each that follows takes one off.
		before := time.Now()
		for n := 5; n > 0; n-- {
			for statsOf(t, p, "a").Ejections == n {
				time.Sleep(time.Second)
				synctest.Wait()
			}
			require.Equal(t, n-1, statsOf(t, p, "a").Ejections)
		}
		took := time.Since(before)
		require.Greater(t, took, 5*time.Minute)
		require.LessOrEqual(t, took, 6*time.Minute)
		p.mu.Lock()
		require.Zero(t, p.timerAt, "nothing is left to be done")
		p.mu.Unlock()
		time.Sleep(1000 * time.Hour)
		end(t, p, "a", Timeout)
		require.Equal(t, 10*time.Second, statsOf(t, p, "a").EjectedFor)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, statsOf(t, p, "a").Ejections, "no whole interval has gone by")
	})
}

func TestOutlierMaxEjected(t *testing.T) {
	for _, c := range []struct {
		endpoints int
		part      float64
		want      int
	}{
		{1, 1, 0}, {2, 1, 1}, {2, 0.01, 1}, {3, 1, 2}, {10, 0, 1}, {10, 0.1, 1}, {10, 0.19, 1}, {10, 0.2, 2}, {10, 0.3, 3}, {10, 1, 9},
		{20, 0.15, 3}, {25, 0.28, 7}, {25, 0.56, 14},
	} {
		p := poolOf(t, Config[int]{Endpoints: endpointsOf(c.endpoints), Outlier: OutlierConfig{ConsecutiveErrors: 2, MaxEjected: c.part}})
		for range 2 {
			for _, e := range p.Endpoints() {
				if statsOf(t, p, e.ID).State == Healthy {
					end(t, p, e.ID, ServerError, ServerError)
				}
			}
		}
		require.Equal(t, c.endpoints-c.want, p.Stats().Available, "%+v", c)
	}
	for n := 1; n <= 100; n++ { // 7 % of 100 are 7, though 0.07 · 100 is not
		for k := 1; k < n; k++ {
			p := &Pool[int]{config: Config[int]{Outlier: OutlierConfig{MaxEjected: float64(k) / float64(n), EjectFor: 1}}}
			for range n {
				p.list = append(p.list, &endpoint[int]{Endpoint[int]{Weight: 1}, &host{}})
			}
			for i := range k - 1 {
				p.list[i].h.ejected = true
			}
			require.True(t, p.ejectLocked(p.list[k-1].h, 0, nil), "%d of %d", k, n)
			if k < n-1 {
				require.False(t, p.ejectLocked(p.list[k].h, 0, nil), "%d of %d", k+1, n)
			}
		}
	}
}

// TestOutlierOnce has endpoints be unhealthy, draining and without weight besides.
func TestOutlierOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		var events recorder
		p := timedPool(t, Config[int]{
			Endpoints: endpointsOf(6),
			Health:    HealthConfig[int]{Check: w.Check, Interval: time.Second, Jitter: -1, Fall: 1, Rise: 1},
			Outlier:   OutlierConfig{ConsecutiveErrors: 1, MaxEjected: 0.5, EjectFor: time.Minute},
			OnEvent:   events.record,
		})
		events.take()
		end(t, p, "a", ServerError)
		w.set(errSick, "a", "b")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, Unhealthy, statsOf(t, p, "a").State)
		require.Positive(t, statsOf(t, p, "a").EjectedFor, "and ejected, too")
		require.Equal(t, 4, p.Stats().Available)
		end(t, p, "c", ServerError)
		end(t, p, "d", ServerError)
		require.Equal(t, 2, p.Stats().Available, "a counts once, and b, which is not ejected, does not")
		end(t, p, "e", ServerError)
		require.Equal(t, 2, p.Stats().Available, "three of six are ejected")
		require.Equal(t, []string{"Ejected a", "Down a", "Down b", "Ejected c", "Ejected d"}, sortedPair(events.take(), 1))

		// A sick endpoint that comes back from its ejection is sick still.
		w.set(nil, "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, Unhealthy, statsOf(t, p, "a").State)
		require.Equal(t, 5, p.Stats().Available)
		events.take()

		// Only c and d are left, of which one must stay.
		for _, id := range []string{"b", "e"} {
			require.NoError(t, p.SetWeight(id, 0))
		}
		require.NoError(t, p.Drain(context.Background(), "f"))
		end(t, p, "c", ServerError)
		end(t, p, "d", ServerError)
		require.Equal(t, map[string]int{"d": 3}, countPicks(t, p, 3, Request{}))
		require.Equal(t, Outlying, statsOf(t, p, "c").State)
	})
}

// sortedPair puts the events at i and i+1 in order, where either may come first.
func sortedPair(events []string, i int) []string {
	if i+1 < len(events) && events[i] > events[i+1] {
		events[i], events[i+1] = events[i+1], events[i]
	}
	return events
}

// TestOutlierLateErrors has requests fail that were picked before the ejection, or removal, of their
// endpoint.
func TestOutlierLateErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events recorder
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(4), OnEvent: events.record, Outlier: OutlierConfig{
			ConsecutiveErrors: 3, SuccessRateFactor: 1, MinRequests: 5, MinEndpoints: 2, MaxEjected: 1, EjectFor: time.Second,
		}})
		events.take()
		hold := func(id string, n int) (ls []*Lease[int]) {
			for range n {
				l, err := p.PickID(id)
				require.NoError(t, err)
				ls = append(ls, &l)
			}
			return ls
		}
		// All at the same time: one ejection.
		var running sync.WaitGroup
		for _, l := range hold("a", 50) {
			running.Go(func() { l.Done(ConnectError) })
		}
		running.Wait()
		require.Equal(t, []string{"Ejected a"}, events.take())
		require.Equal(t, 1, statsOf(t, p, "a").Ejections)

		// While it is ejected: they do not count afterwards.
		some, others := hold("b", 3), hold("b", 2)
		for _, l := range some {
			l.Done(ServerError)
		}
		for _, l := range others {
			l.Done(ServerError)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		events.take()
		end(t, p, "b", ServerError, ServerError)
		require.Empty(t, events.take())
		end(t, p, "b", ServerError)
		require.Equal(t, []string{"Ejected b"}, events.take())
		require.Equal(t, 2*time.Second, statsOf(t, p, "b").EjectedFor)

		// After it was removed: they do not count when it is added again, as nothing of that does.
		late, open := hold("c", 20), hold("c", 1)
		require.NoError(t, p.Remove("c"))
		for _, l := range late {
			l.Done(ServerError)
		}
		require.NoError(t, p.Add(endpointsOf(3)[2]))
		require.EqualValues(t, 1, statsOf(t, p, "c").InFlight)
		events.take()
		end(t, p, "c", ServerError, ServerError)
		require.Empty(t, events.take())
		ends(t, p, "c", 5, OK)
		ends(t, p, "d", 7, OK)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NotContains(t, events.take(), "Ejected c", "its success rate is that since it was added")
		open[0].Done(ServerError)

		// One that is ejected when it is removed is a new one when it is added.
		end(t, p, "a", ServerError, ServerError, ServerError)
		require.Equal(t, Outlying, statsOf(t, p, "a").State)
		require.NoError(t, p.Remove("a"))
		require.NoError(t, p.Add(endpointsOf(1)[0]))
		require.Equal(t, Healthy, statsOf(t, p, "a").State)
		require.Zero(t, statsOf(t, p, "a").Ejections)
		events.take()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, events.take(), "no end of its ejection")
	})
}

// TestOutlierDraining drains what is ejected, takes its weight, and gives both back.
func TestOutlierDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events recorder
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(3), OnEvent: events.record, Outlier: OutlierConfig{ConsecutiveErrors: 1, MaxEjected: 1}})
		end(t, p, "a", ServerError)
		require.NoError(t, p.Drain(context.Background(), "a"))
		require.Equal(t, Drained, statsOf(t, p, "a").State)
		require.NoError(t, p.Resume("a"))
		require.Equal(t, Outlying, statsOf(t, p, "a").State)
		require.NoError(t, p.SetWeight("a", 0))
		require.Equal(t, Weightless, statsOf(t, p, "a").State)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"Added a", "Added b", "Added c", "Ejected a", "Draining a", "Resumed a", "Returned a"}, events.take())
		require.Equal(t, 2, p.Stats().Available)
		require.NoError(t, p.SetWeight("a", 1))
		require.Equal(t, 3, p.Stats().Available)
	})
}

// TestOutlierReturnsSlowly has a slow start after an ejection.
func TestOutlierReturnsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(2), SlowStart: 15 * time.Second, Outlier: OutlierConfig{ConsecutiveErrors: 1}})
		end(t, p, "a", ServerError)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Equal(t, 1.0/16, statsOf(t, p, "a").Ramp)
		time.Sleep(14 * time.Second)
		synctest.Wait()
		require.Equal(t, 15.0/16, statsOf(t, p, "a").Ramp)
		require.Equal(t, 15.0/16, p.snap.Load().view.Ramp(0))
	})
}

// TestOutlierRates compares what is ejected for success rates with the formula.
func TestOutlierRates(t *testing.T) {
	for seed := range uint64(few(60)) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			n := 2 + r.IntN(8)
			c := OutlierConfig{
				SuccessRateFactor: 0.5 + 2*r.Float64(), MinRequests: 5 + r.IntN(20), MinEndpoints: 1 + r.IntN(n), MaxEjected: 1,
				Interval: time.Minute, EjectFor: time.Second,
			}
			message := fmt.Sprintf("seed %d: %d endpoints, %+v", seed, n, c)
			p := timedPool(t, Config[int]{Endpoints: endpointsOf(n), Outlier: c})
			for range 3 {
				rates := make(map[string]float64)
				for _, e := range p.Endpoints() {
					requests := r.IntN(40)
					failed := r.IntN(requests+1) / (1 + r.IntN(9))
					ends(t, p, e.ID, requests-failed, OK)
					ends(t, p, e.ID, failed, Timeout)
					ends(t, p, e.ID, r.IntN(30), Overload) // which do not count
					ends(t, p, e.ID, r.IntN(30), Canceled)
					if requests >= c.MinRequests {
						rates[e.ID] = float64(requests-failed) / float64(requests)
					}
				}
				mean, variance := 0.0, 0.0
				for _, x := range rates {
					mean += x / float64(len(rates))
				}
				for _, x := range rates {
					variance += (x - mean) * (x - mean) / float64(len(rates))
				}
				p.mu.Lock()
				evalAt := p.evalAt
				p.mu.Unlock()
				time.Sleep(time.Duration(evalAt-p.core.now()) - 1)
				synctest.Wait()
				require.Equal(t, n, p.Stats().Available, "%s: too soon", message)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				left := n
				for _, s := range p.Stats().Endpoints {
					rate, ok := rates[s.ID]
					below := ok && len(rates) >= c.MinEndpoints && rate < mean-c.SuccessRateFactor*math.Sqrt(variance)-1e-12
					if below && left > 1 {
						left--
					} else {
						below = false
					}
					require.Equal(t, below, s.State == Outlying, "%s: %s, %v of mean %v, variance %v", message, s.ID, rate, mean, variance)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				require.Equal(t, n, p.Stats().Available, message)
			}
		})
	}
}

// TestOutlierBoth has the two methods find the same endpoint.
func TestOutlierBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events recorder
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(6), OnEvent: events.record, Outlier: OutlierConfig{
			ConsecutiveErrors: 50, SuccessRateFactor: 1, MinRequests: 10, MaxEjected: 0.34, Interval: 10 * time.Second,
		}})
		events.take()
		for _, e := range p.Endpoints()[1:] {
			ends(t, p, e.ID, 20, OK)
		}
		ends(t, p, "a", 50, ServerError)
		require.Equal(t, []string{"Ejected a"}, events.take())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Empty(t, events.take(), "it is ejected already")
		require.Equal(t, 20*time.Second, statsOf(t, p, "a").EjectedFor)

		for _, e := range p.Endpoints()[2:] {
			ends(t, p, e.ID, 20, OK)
		}
		ends(t, p, "b", 40, ServerError)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.EqualError(t, events.errs[0], "loadbalance: its success rate was 0.0000, and all others' 0.8000 on the average")
		require.Equal(t, []string{"Ejected b"}, events.take(), "two of six are no more than 0.34")
		ends(t, p, "c", 50, ServerError)
		require.Empty(t, events.take(), "three are")
	})
}

// TestOutlierLongest has the longest spans that are allowed.
func TestOutlierLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timedPool(t, Config[int]{Endpoints: endpointsOf(3), Outlier: OutlierConfig{
			ConsecutiveErrors: math.MaxInt32, SuccessRateFactor: math.Inf(1), MinRequests: math.MaxInt, MinEndpoints: math.MaxInt,
			Interval: year, EjectFor: year, MaxEjectFor: year, MaxEjected: 1,
		}})
		p.mu.Lock()
		for _, n := range []int{0, 1, math.MaxInt / 2, math.MaxInt - 2} {
			h := p.list[0].h
			h.ejections, h.ejected = n, false
			require.True(t, p.ejectLocked(h, p.core.now(), errSick))
			require.Equal(t, year, time.Duration(h.ejectedTo-p.core.now()))
		}
		p.rebuildLocked()
		p.mu.Unlock()
		ends(t, p, "b", 100, ServerError)
		time.Sleep(year - 1)
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Available)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, 3, p.Stats().Available)
	})
}

// Where a snapshot takes long, what happens by itself waits for the next; what is asked for does not.
func TestManyChangesBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := timedPool(t, Config[int]{Endpoints: endpoints(even(40)...), Outlier: OutlierConfig{ConsecutiveErrors: 1, MaxEjected: 1, EjectFor: time.Hour}})
		slow := func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.took, p.built = int64(20*time.Millisecond), p.core.now()
		}
		slow()
		for i := range 5 {
			hold(t, p, endpoints(even(40)...)[i].ID, 1)[0].Done(ServerError)
		}
		require.Equal(t, 40, p.Stats().Available)
		require.Equal(t, Outlying, p.Stats().Endpoints[4].State)
		time.Sleep(179 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, 40, p.Stats().Available)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Equal(t, 35, p.Stats().Available)
		slow()
		require.NoError(t, p.Remove("h00039"))
		require.Equal(t, 34, p.Stats().Available)
	})
}
