package loadbalance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// hold picks an endpoint by its ID n times.
func hold[T any](t testing.TB, p *Pool[T], id string, n int) []*Lease[T] {
	t.Helper()
	leases := make([]*Lease[T], n)
	for i := range leases {
		l, err := p.PickID(id)
		require.NoError(t, err)
		leases[i] = &l
	}
	return leases
}

// TestDrain waits for what is in flight, and no longer, by several at the same time.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events recorder
		p := poolOf(t, Config[int]{Endpoints: endpointsOf(2), OnEvent: events.record})
		events.take()
		leases := hold(t, p, "a", 3)
		other := hold(t, p, "b", 1)
		var running sync.WaitGroup
		begin := time.Now()
		for range 4 {
			running.Go(func() {
				if err := p.Drain(context.Background(), "a"); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took != 3*time.Second {
					t.Errorf("Drain took %v", took)
				}
			})
		}
		running.Go(func() {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Second/2, errSick)
			defer cancel()
			err := p.Drain(ctx, "a")
			if !errors.Is(err, errSick) {
				t.Errorf("got %v, not the cause", err)
			}
			if took := time.Since(begin); took != 5*time.Second/2 || err.Error() != `loadbalance: 1 requests are in flight at "a": sick` {
				t.Errorf("got %v after %v", err, took)
			}
		})
		synctest.Wait()
		require.Equal(t, []string{"Draining a"}, events.take(), "once")
		require.Equal(t, Drained, statsOf(t, p, "a").State)
		require.Equal(t, map[string]int{"b": 20}, countPicks(t, p, 20, Request{}))
		_, err := p.PickID("a")
		require.EqualError(t, err, `loadbalance: no endpoint is available: "a" is given no requests now`)
		for _, l := range leases {
			time.Sleep(time.Second)
			l.Done(OK)
		}
		running.Wait()
		require.EqualValues(t, 3, statsOf(t, p, "a").Outcomes[OK])

		ended, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, p.Drain(ended, "a"), "nothing is in flight, so nothing is waited for")
		require.ErrorIs(t, p.Drain(ended, "b"), context.Canceled)
		require.ErrorIs(t, p.Drain(context.Background(), "c"), ErrUnknown)
		require.ErrorIs(t, p.Resume("c"), ErrUnknown)
		_, err = p.Pick(Request{})
		require.Equal(t, ErrDraining, err)
		require.NoError(t, p.Resume("b"))
		require.NoError(t, p.Resume("b"), "again")
		require.NoError(t, p.Remove("a"))
		require.Equal(t, []string{"Draining b", "Resumed b", "Removed a"}, events.take())
		require.Equal(t, map[string]int{"b": 20}, countPicks(t, p, 20, Request{}))
		other[0].Done(OK)
	})
}

// TestDrainResume uses an endpoint again while others wait for the drain, who then wait no longer.
func TestDrainResume(t *testing.T) {
	for name, again := range map[string]func(*Pool[string]) error{
		"resume": func(p *Pool[string]) error { return p.Resume("a") },
		"remove and add": func(p *Pool[string]) error {
			return errors.Join(p.Remove("a"), p.Add(Endpoint[string]{ID: "a", Weight: 1}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := poolOf(t, Config[string]{Endpoints: []Endpoint[string]{{ID: "a", Weight: 1}, {ID: "b", Weight: 1}}})
				l, err := p.PickID("a")
				require.NoError(t, err)
				drained := make(chan error, 2)
				for range 2 {
					go func() { drained <- p.Drain(context.Background(), "a") }()
				}
				time.Sleep(time.Second)
				require.Empty(t, drained)
				require.NoError(t, again(p))
				require.ErrorIs(t, <-drained, ErrResumed)
				require.ErrorIs(t, <-drained, ErrResumed)
				// It can be drained again.
				go func() { drained <- p.Drain(context.Background(), "a") }()
				time.Sleep(time.Second)
				require.Empty(t, drained)
				l.Done(OK)
				require.NoError(t, <-drained)
			})
		})
	}
}

// TestDrainRemove removes an endpoint that is drained, or closes the Pool, while requests are in flight.
func TestDrainRemove(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := poolOf(t, Config[int]{Endpoints: endpointsOf(2)})
			a, begin := hold(t, p, "a", 2), time.Now()
			took := make(chan time.Duration, 1)
			go func() {
				if err := p.Drain(context.Background(), "a"); err != nil {
					t.Error(err)
				}
				took <- time.Since(begin)
			}()
			time.Sleep(time.Second)
			if closes {
				p.Close()
			} else {
				require.NoError(t, p.Remove("a"))
			}
			a[0].Done(OK)
			time.Sleep(time.Second)
			require.Empty(t, took)
			a[1].Done(OK)
			require.Equal(t, 2*time.Second, <-took)
		})
	}
}

// Who drains an endpoint when it is ejected does not wait for the request that had it ejected.
func TestDrainByEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *Pool[int]
		drained := make(chan error, 1)
		p = poolOf(t, Config[int]{
			Endpoints: endpointsOf(3), Outlier: OutlierConfig{ConsecutiveErrors: 1},
			OnEvent: func(e Event) {
				if e.Kind == Ejected {
					drained <- p.Drain(context.Background(), e.ID)
				}
			},
		})
		hold(t, p, "a", 1)[0].Done(ServerError)
		require.NoError(t, <-drained)
	})
}

// TestRemoveInFlight removes an endpoint that has requests in flight, and adds it again: they still count.
func TestRemoveInFlight(t *testing.T) {
	for name, policy := range everyPolicy() {
		p := poolOf(t, Config[int]{Policy: policy, Endpoints: endpointsOf(1)})
		a := hold(t, p, "a", 3)
		require.NoError(t, p.Remove("a"), name)
		_, err := p.Pick(Request{})
		require.Equal(t, ErrNoEndpoints, err)
		_, err = p.PickID("a")
		require.ErrorIs(t, err, ErrUnknown)
		require.NotErrorIs(t, err, ErrUnavailable)
		a[0].Done(ServerError)
		require.NoError(t, p.Add(Endpoint[int]{ID: "a", Value: 7, Weight: 1}))
		s := statsOf(t, p, "a")
		require.EqualValues(t, 2, s.InFlight, name)
		require.EqualValues(t, 3, s.Picked, name)
		require.EqualValues(t, 1, s.Failed, name)
		require.Equal(t, 0, a[1].Value(), "as it was when it was picked")
		l, err := p.Pick(Request{})
		require.NoError(t, err)
		require.Equal(t, 7, l.Value())
		l.Done(OK)
		a[1].Done(OK)
		a[2].Done(OK)
		noneInFlight(t, p)

		// When nothing is in flight, it is forgotten.
		require.NoError(t, p.Remove("a"))
		require.Empty(t, p.hosts)
		require.NoError(t, p.Add(endpointsOf(1)[0]))
		require.Zero(t, statsOf(t, p, "a").Picked)
	}
}

// TestDrainOldSnapshot picks by a snapshot from before the drain, or the removal: the host is closed.
func TestDrainOldSnapshot(t *testing.T) {
	for _, gone := range []func(*Pool[int]) error{
		func(p *Pool[int]) error { return p.Drain(context.Background(), "a") },
		func(p *Pool[int]) error { return p.Remove("a") },
		func(p *Pool[int]) error { return p.SetWeight("a", 0) },
		func(p *Pool[int]) error { p.Close(); return nil },
	} {
		p := poolOf(t, Config[int]{Endpoints: endpointsOf(1)})
		old, h := p.snap.Load(), p.hostOf("a")
		require.NoError(t, gone(p))
		for _, r := range []Request{{}, {Tried: []string{"x"}}} {
			i, _, err := old.pick(r)
			require.NoError(t, err)
			require.Equal(t, -1, i)
		}
		require.Zero(t, h.inFlight())
		p.mu.Lock()
		all, _ := h.countsLocked()
		require.Zero(t, all)
		p.mu.Unlock()
	}
}
