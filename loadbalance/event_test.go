package loadbalance

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventKindString(t *testing.T) {
	seen := make(map[string]bool)
	for k := Added; k <= PolicyFailed; k++ {
		require.Regexp(t, "^[A-Z][A-Za-z]+$", k.String())
		seen[k.String()] = true
	}
	require.Len(t, seen, int(PolicyFailed)+1)
	require.Equal(t, "ResolveFailed", ResolveFailed.String())
	require.Equal(t, "EventKind(12)", (PolicyFailed + 1).String())
	require.Equal(t, "Ejected", Ejected.String())
}

func TestStateString(t *testing.T) {
	for s, want := range []string{"healthy", "unhealthy", "ejected", "draining", "no weight", "unknown"} {
		require.Equal(t, want, State(s).String())
	}
}

// TestEventsInside has OnEvent call the Pool, which must not wait for itself, and what that changes
// come after.
func TestEventsInside(t *testing.T) {
	var p *Pool[int]
	var events recorder
	depth := 0
	c := Config[int]{OnEvent: func(e Event) {
		events.record(e)
		if depth++; depth > 1 {
			events.record(Event{Kind: 100})
		}
		defer func() { depth-- }()
		if p == nil {
			return
		}
		p.Stats()
		p.Endpoints()
		switch {
		case e.Kind == Added && e.ID == "b":
			_ = p.Remove("a")
			_ = p.Add(endpointsOf(3)[2])
			_, _ = p.Set(endpointsOf(4))
			if l, err := p.Pick(Request{}); err == nil {
				l.Done(OK)
			}
			if p.Drain(context.Background(), "a") == nil {
				_ = p.Resume("a")
			}
			end(t, p, "d", ServerError)
		case e.Kind == Ejected:
			_ = p.SetWeight("d", 7)
			_ = p.Remove("d")
		}
	}, Endpoints: endpointsOf(1), Outlier: OutlierConfig{ConsecutiveErrors: 1}}
	p = poolOf(t, c)
	require.Equal(t, []string{"Added a"}, events.take())
	require.NoError(t, p.Add(endpointsOf(2)[1]))
	require.Equal(t, []string{
		"Added b", "Removed a", "Added c", "Added a", "Added d", "Draining a", "Resumed a", "Ejected d", "Removed d",
	}, events.take())
}

// TestEventsInOrder has many change the Pool at the same time: who follows the events knows the endpoints.
func TestEventsInOrder(t *testing.T) {
	var calls atomic.Int32
	there := make(map[string]bool) // guarded by the promise that events come one at a time
	draining := make(map[string]bool)
	var wrong []Event
	p := poolOf(t, Config[int]{OnEvent: func(e Event) {
		if calls.Add(1) > 1 {
			wrong = append(wrong, Event{ID: "at the same time"})
		}
		defer calls.Add(-1)
		runtime.Gosched()
		was := there[e.ID]
		switch e.Kind {
		case Added:
			there[e.ID] = true
		case Removed:
			delete(there, e.ID)
			delete(draining, e.ID)
			was = !was
		case Draining:
			was = !was || draining[e.ID]
			draining[e.ID] = true
		case Resumed:
			was = !was || !draining[e.ID]
			delete(draining, e.ID)
		}
		if was {
			wrong = append(wrong, e)
		}
	}})
	var running sync.WaitGroup
	for g := range 4 {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range few(4000) {
				e := endpointsOf(6)[r.IntN(6)]
				switch r.IntN(4) {
				case 0:
					_ = p.Add(e)
				case 1:
					_ = p.Remove(e.ID)
				case 2:
					_ = p.Drain(context.Background(), e.ID)
				case 3:
					_ = p.Resume(e.ID)
				}
			}
		})
	}
	running.Wait()
	// Who called OnEvent last has returned, and nobody leaves an event behind.
	require.Empty(t, wrong)
	require.Empty(t, p.events.queue)
	ids := make(map[string]bool)
	for _, e := range p.Stats().Endpoints {
		ids[e.ID] = true
		require.Equal(t, e.State == Drained, draining[e.ID])
	}
	require.Equal(t, ids, there)
}

// TestEventPanics has OnEvent panic, or end its goroutine: the Pool and the events that follow are whole.
func TestEventPanics(t *testing.T) {
	for _, exits := range []bool{false, true} {
		var events recorder
		p := poolOf(t, Config[int]{OnEvent: func(e Event) {
			events.record(e)
			if e.Kind == Added && e.ID == "b" {
				if exits {
					runtime.Goexit()
				}
				panic("out of order")
			}
		}})
		var recovered any
		var running sync.WaitGroup
		running.Go(func() {
			defer func() { recovered = recover() }()
			_, _ = p.Set(endpointsOf(3))
		})
		running.Wait()
		if !exits {
			require.Equal(t, "out of order", recovered)
		}
		require.Equal(t, []string{"Added a", "Added b"}, events.take())
		require.Len(t, countPicks(t, p, 100, Request{}), 3, "all are there")
		require.NoError(t, p.Remove("a"))
		require.Equal(t, []string{"Added c", "Removed a"}, events.take())
	}
}

// TestEventsClose closes a Pool while OnEvent is called by its timer, which Close waits for; and after that
// nothing is called.
func TestEventsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events recorder
		var ended atomic.Bool
		p := timedPool(t, Config[int]{
			Endpoints: endpointsOf(3),
			Outlier:   OutlierConfig{ConsecutiveErrors: 1, EjectFor: time.Second},
			OnEvent: func(e Event) {
				events.record(e)
				if e.Kind == Returned {
					time.Sleep(time.Second)
					ended.Store(true)
				}
			},
		})
		leases := hold(t, p, "b", 1)
		end(t, p, "a", ServerError)
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, []string{"Added a", "Added b", "Added c", "Ejected a", "Returned a"}, events.take())
		begin := time.Now()
		p.Close()
		require.Equal(t, time.Second/2, time.Since(begin))
		require.True(t, ended.Load())
		require.Equal(t, ErrClosed, p.Add(Endpoint[int]{ID: "x"}))
		_, err := p.Set(nil)
		require.Equal(t, ErrClosed, err)
		require.Equal(t, ErrClosed, p.Remove("a"))
		require.Equal(t, ErrClosed, p.SetWeight("a", 3))
		leases[0].Done(ServerError)
		require.NoError(t, p.Drain(context.Background(), "a"))
		require.NoError(t, p.Resume("a"))
		_, err = p.Pick(Request{})
		require.Equal(t, ErrClosed, err)
		_, err = p.PickID("b")
		require.Equal(t, ErrClosed, err)
		require.Zero(t, p.Stats().Available)
		p.Close()
		require.Empty(t, events.take(), "nothing changes any more")
	})
}
