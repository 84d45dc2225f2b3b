package loadbalance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// underRace is whether the race detector is on.
var underRace bool

// few returns n, or a part of it where that takes long.
func few(n int) int {
	if underRace {
		n /= 4
	}
	if testing.Short() {
		n /= 4
	}
	return max(n, 1)
}

// poolOf returns a Pool that is closed at the end of the test.
func poolOf[T any](t testing.TB, c Config[T]) *Pool[T] {
	t.Helper()
	p, err := New(c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// timedPool is poolOf for a bubble of synctest. The clock of a Pool begins at 1 ns, so that is waited for.
func timedPool[T any](t testing.TB, c Config[T]) *Pool[T] {
	t.Helper()
	p := poolOf(t, c)
	time.Sleep(time.Nanosecond)
	return p
}

// endpointsOf returns n endpoints a, b, c … of weight 1.
func endpointsOf(n int) []Endpoint[int] {
	es := make([]Endpoint[int], n)
	for i := range es {
		es[i] = Endpoint[int]{ID: string(rune('a' + i)), Value: i, Weight: 1}
	}
	return es
}

// statsOf returns what is known of one endpoint.
func statsOf[T any](t testing.TB, p *Pool[T], id string) EndpointStats {
	t.Helper()
	for _, e := range p.Stats().Endpoints {
		if e.ID == id {
			return e
		}
	}
	require.FailNow(t, "there is no such endpoint", id)
	return EndpointStats{}
}

// countPicks picks n times, ends all, and returns how often each was picked.
func countPicks[T any](t testing.TB, p *Pool[T], n int, r Request) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for range n {
		l, err := p.Pick(r)
		require.NoError(t, err)
		counts[l.ID()]++
		l.Done(OK)
	}
	return counts
}

// A recorder keeps events as strings: "Down a", "Panicked 0".
type recorder struct {
	mu     sync.Mutex
	events []string
	errs   []error
}

func (r *recorder) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := e.Kind.String()
	switch e.Kind {
	case Panicked, PanicEnded:
		name = fmt.Sprintf("%s %d", name, e.Priority)
	case ResolveFailed:
	default:
		name += " " + e.ID
	}
	r.events = append(r.events, name)
	r.errs = append(r.errs, e.Err)
}

// take returns the events since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events, r.errs = nil, nil
	return events
}

// A ward is a set of sick endpoints, and a Check that finds them.
type ward struct {
	mu   sync.Mutex
	sick map[string]error
}

func (w *ward) Check(_ context.Context, e Endpoint[int]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sick[e.ID]
}

// set makes endpoints sick with err, or well again.
func (w *ward) set(err error, ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sick == nil {
		w.sick = make(map[string]error)
	}
	for _, id := range ids {
		w.sick[id] = err
	}
}

// everyPolicy returns all policies of the package.
func everyPolicy() map[string]Policy {
	modulo := func(ids []string, _ []uint32) (Locator, error) {
		n := uint64(len(ids))
		return LocatorFunc(func(hash uint64) int { return int(hash % n) }), nil
	}
	return map[string]Policy{
		"RoundRobin":               RoundRobin(),
		"SmoothWeightedRoundRobin": SmoothWeightedRoundRobin(),
		"Random":                   Random(),
		"WeightedRandom":           WeightedRandom(),
		"LeastConnections":         LeastConnections(),
		"WeightedLeastConnections": WeightedLeastConnections(),
		"PowerOfTwoChoices":        PowerOfTwoChoices(),
		"LeastResponseTime":        LeastResponseTime(),
		"IPHash":                   IPHash(),
		"ConsistentHash":           ConsistentHash(modulo, 1.25),
		"PreferZone":               PreferZone(LeastResponseTime()),
	}
}

// pickers runs n goroutines that pick and end until the function that is returned is called, which
// waits for them, and returns how often they have picked. Each holds some leases at a time, and look is
// called while one is held.
func pickers[T any](p *Pool[T], n int, before func() any, look func(before any, l *Lease[T])) (stop func() int64) {
	var running sync.WaitGroup
	var done atomic.Bool
	var picked atomic.Int64
	for g := range n {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			var held []*Lease[T]
			end := func(k int) {
				l := held[k]
				look(nil, l)
				l.Done(Outcome(r.IntN(numOutcomes)))
				held = slices.Delete(held, k, k+1)
			}
			for !done.Load() {
				request := Request{Hash: r.Uint64()}
				if len(held) > 0 && r.IntN(4) == 0 {
					request.Tried = []string{held[0].ID()}
				}
				b := before()
				l, err := p.Pick(request)
				if err == nil {
					picked.Add(1)
					look(b, &l)
					held = append(held, &l)
				}
				for len(held) > 0 && (len(held) > 3 || r.IntN(3) == 0) {
					end(r.IntN(len(held)))
				}
				runtime.Gosched() // or who waits for what it holds waits for its turn
			}
			for len(held) > 0 {
				end(0)
			}
		})
	}
	return func() int64 {
		done.Store(true)
		running.Wait()
		return picked.Load()
	}
}

// noneInFlight requires that nothing is in flight, and that nothing is left of who has gone.
func noneInFlight[T any](t testing.TB, p *Pool[T]) {
	t.Helper()
	for _, e := range p.Stats().Endpoints {
		require.Zero(t, e.InFlight, e.ID)
		sum := uint64(0)
		for _, n := range e.Outcomes {
			sum += n
		}
		require.Equal(t, e.Picked, sum, "all that was picked at %s has ended somehow", e.ID)
	}
	require.Zero(t, p.core.total.Load())
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, h := range p.hosts {
		require.Zero(t, h.inFlight(), id)
	}
}

// TestDrainStress drains, removes and adds endpoints while others pick.
func TestDrainStress(t *testing.T) {
	const n = 6
	p := poolOf(t, Config[int]{Endpoints: endpointsOf(n)})
	// drained is whether Drain has returned and Resume was not called; removed is odd when Remove has
	// returned and Add was not called.
	var drained [n]atomic.Bool
	var removed [n]atomic.Uint32
	before := func() any {
		var was [n]uint32
		for i := range was {
			was[i] = removed[i].Load()
		}
		return was
	}
	var late, again atomic.Int64
	look := func(before any, l *Lease[int]) {
		i := l.Value()
		if drained[i].Load() {
			late.Add(1)
		}
		if was, ok := before.([n]uint32); ok && was[i]%2 == 1 && removed[i].Load() == was[i] {
			again.Add(1)
		}
	}
	stop := pickers(p, 6, before, look)
	var changers sync.WaitGroup
	for g := range 2 { // each changes endpoints of its own
		changers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range few(12000) {
				i := g*n/2 + r.IntN(n/2)
				e := endpointsOf(n)[i]
				if err := p.Drain(context.Background(), e.ID); err != nil {
					t.Error(err)
					return
				}
				drained[i].Store(true)
				if statsOf(t, p, e.ID).InFlight > 0 {
					// A pick that has an old list adds one, and takes it back at once.
					h := p.hostOf(e.ID)
					for h.inFlight() > 0 && late.Load() == 0 {
					}
				}
				drained[i].Store(false)
				if r.IntN(2) == 0 {
					p.Resume(e.ID)
					continue
				}
				if r.IntN(2) == 0 {
					p.Resume(e.ID) // so that Remove has something to do
				}
				if err := p.Remove(e.ID); err != nil {
					t.Error(err)
				}
				removed[i].Add(1)
				for range r.IntN(1000) {
					removed[i].Load()
				}
				removed[i].Add(1)
				if err := p.Add(e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	changers.Wait()
	require.Positive(t, stop())
	require.Zero(t, late.Load(), "leases that were held after Drain had returned")
	require.Zero(t, again.Load(), "picks that began after Remove had returned, and returned what it had removed")
	noneInFlight(t, p)
}

// hostOf returns the state of an endpoint.
func (p *Pool[T]) hostOf(id string) *host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hosts[id]
}

// TestPickedAddsUp has all that can happen to endpoints but their removal, and counts what is picked.
func TestPickedAddsUp(t *testing.T) {
	p := poolOf(t, Config[int]{
		Endpoints:      endpointsOf(5),
		Outlier:        OutlierConfig{ConsecutiveErrors: 5, MaxEjected: 0.5, EjectFor: time.Millisecond},
		PanicThreshold: 0.5,
		SlowStart:      time.Millisecond,
	})
	nothing := func() any { return nil }
	stop := pickers(p, 6, nothing, func(any, *Lease[int]) {})
	r := rand.New(rand.NewPCG(1, 1))
	for range few(12000) {
		id := endpointsOf(5)[r.IntN(5)].ID
		switch r.IntN(4) {
		case 0:
			_ = p.SetWeight(id, uint32(r.IntN(3)))
		case 1:
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			_ = p.Drain(ended, id)
		default:
			_ = p.Resume(id)
		}
	}
	picked := stop()
	sum := uint64(0)
	for _, e := range p.Stats().Endpoints {
		sum += e.Picked
	}
	require.EqualValues(t, picked, sum)
	noneInFlight(t, p)
}

// TestPolicyStress changes everything while 8 goroutines pick, with each policy.
func TestPolicyStress(t *testing.T) {
	for name, policy := range everyPolicy() {
		t.Run(name, func(t *testing.T) {
			var w ward
			var events atomic.Int64
			endpoints := endpointsOf(9)
			for i := range endpoints {
				endpoints[i].Weight = uint32(1 + i%3)
				endpoints[i].Zone = string(rune('x' + i%2))
				endpoints[i].Priority = uint8(i / 6)
			}
			p := poolOf(t, Config[int]{
				Policy:         policy,
				Endpoints:      endpoints,
				Zone:           "x",
				Health:         HealthConfig[int]{Check: w.Check, Interval: time.Millisecond, Fall: 1, Rise: 1},
				Outlier:        OutlierConfig{ConsecutiveErrors: 4, SuccessRateFactor: 1, MinRequests: 5, Interval: time.Millisecond, EjectFor: time.Millisecond, MaxEjected: 0.4},
				SlowStart:      time.Millisecond,
				PanicThreshold: 0.3,
				OnEvent:        func(Event) { events.Add(1) },
			})
			stop := pickers(p, 8, func() any { return nil }, func(_ any, l *Lease[int]) {
				if e := l.Endpoint(); e.ID != string(rune('a'+e.Value)) {
					t.Errorf("%s has the value %d", e.ID, e.Value)
				}
			})
			r := rand.New(rand.NewPCG(1, 2))
			var drains sync.WaitGroup
			changes := few(24000)
			if name == "IPHash" { // each takes it 0.1 ms and more
				changes /= 8
			}
			for range changes {
				e := endpoints[r.IntN(len(endpoints))]
				switch r.IntN(9) {
				case 0:
					_ = p.Remove(e.ID)
				case 1:
					_ = p.Add(e)
				case 2:
					some := slices.Clone(endpoints)
					for i := range some {
						some[i].Priority = uint8(r.IntN(3))
					}
					rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
					if _, err := p.Set(some[:r.IntN(len(some)+1)]); err != nil {
						t.Error(err)
					}
				case 3:
					_ = p.SetWeight(e.ID, uint32(r.IntN(4)))
				case 4:
					drains.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
						defer cancel()
						_ = p.Drain(ctx, e.ID)
						_ = p.Resume(e.ID)
					})
				case 5:
					w.set(context.Canceled, e.ID)
				case 6:
					w.set(nil, e.ID)
				case 7:
					p.Stats()
				case 8:
					if l, err := p.PickID(e.ID); err == nil {
						l.Done(OK)
					}
				}
			}
			drains.Wait()
			stop()
			noneInFlight(t, p)
			_, err := p.Set(endpoints)
			require.NoError(t, err)
			p.Close()
			require.Positive(t, events.Load())
			_, err = p.Pick(Request{})
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}
