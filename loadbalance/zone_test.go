package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// zoned3 returns a Pool with n endpoints in each of three zones.
func zoned3(t *testing.T, n int, inner Policy) *Pool[int] {
	var es []Endpoint[int]
	for z, name := range []string{"east", "west", "north"} {
		for i := range n {
			es = append(es, Endpoint[int]{ID: fmt.Sprintf("%s%02d", name, i), Value: z, Weight: 1, Zone: name})
		}
	}
	p, err := New(Config[int]{Policy: PreferZone(inner), Endpoints: es, Zone: "west", Seed: 1})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func TestPreferZone(t *testing.T) {
	for _, inner := range []Policy{nil, RoundRobin(), IPHash(), LeastResponseTime()} {
		p := zoned3(t, 5, inner)
		east := func(i int) Request { return Request{Zone: "east", Hash: uint64(i)} }
		require.Equal(t, []int{1000, 0, 0}, count(3, picks(t, p, 1000, east)))
		require.Equal(t, []int{0, 1000, 0}, count(3, picks(t, p, 1000, anyRequest)), "the pool's own zone")
		away := count(3, picks(t, p, 3000, func(i int) Request { return Request{Zone: "south", Hash: uint64(i)} }))
		if _, ok := inner.(LatencyPolicy); !ok { // which goes by what it measures
			for _, n := range away { // nobody is near
				require.InDelta(t, 1000, n, 250)
			}
		}

		// Four of five do the work of all; three, 1.4 · 0.6 of it, and one 0.28.
		for down, stays := range []float64{1, 1, 0.84, 0.56, 0.28, 0} {
			if down > 0 {
				p.hostFor(t, fmt.Sprintf("east%02d", down-1)).down = true
				p.mu.Lock()
				p.rebuildLocked()
				p.mu.Unlock()
			}
			got := count(3, picks(t, p, 10000, east))
			require.InDelta(t, 10000*stays, got[0], 250, "%d down", down) // five standard deviations
			if stays < 1 && inner == nil {
				require.InDelta(t, got[1], got[2], 500)
			}
		}
	}
}

func (p *Pool[T]) hostFor(t *testing.T, id string) *host {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := p.findLocked(id)
	require.True(t, found)
	return p.list[i].h
}

// Nine of ten callers are in one zone with a tenth of the endpoints: they do not overrun it.
func TestPreferZoneSpillsOver(t *testing.T) {
	es := []Endpoint[int]{{ID: "e", Weight: 1, Zone: "east"}}
	for i := range 9 {
		es = append(es, Endpoint[int]{ID: fmt.Sprint("w", i), Value: 1 + i, Weight: 1, Zone: "west"})
	}
	p, err := New(Config[int]{Policy: PreferZone(nil), Endpoints: es, Zone: "east", Seed: 1})
	require.NoError(t, err)
	for range busy {
		require.Zero(t, pick(t, p, Request{}), "up to %d in flight, they stay", busy)
	}
	for range 992 {
		pick(t, p, Request{})
	}
	require.InDelta(t, 2*1000.0/11, p.Stats().Endpoints[0].InFlight, 4, "twice as many as elsewhere")
}

func TestPreferZoneTried(t *testing.T) {
	p := zoned3(t, 2, RoundRobin())
	r := Request{Zone: "east", Tried: []string{"east00"}}
	again := func(int) Request { return r }
	require.Equal(t, []int{10, 0, 0}, count(3, picks(t, p, 10, again)))
	r.Tried = append(r.Tried, "east01")
	require.Zero(t, count(3, picks(t, p, 10, again))[0])
}

func TestConsistentHashBounds(t *testing.T) {
	toFirst := func([]string, []uint32) (Locator, error) { return LocatorFunc(func(uint64) int { return 0 }), nil }
	p := pool(t, ConsistentHash(toFirst, 1.25), 1, 1, 1, 1)
	for range 400 {
		pick(t, p, Request{Hash: 7})
		total := int64(0)
		stats := p.Stats()
		for _, e := range stats.Endpoints {
			total += e.InFlight
		}
		for _, e := range stats.Endpoints {
			require.LessOrEqual(t, float64(e.InFlight), 1.25*float64(total)/4+1)
		}
	}
	require.EqualValues(t, 125, p.Stats().Endpoints[0].InFlight)
	// With weights: 1.25 of 3/6.
	p = pool(t, ConsistentHash(toFirst, 1.25), 3, 1, 2)
	for range 400 {
		pick(t, p, Request{Hash: 7})
	}
	require.EqualValues(t, 250, p.Stats().Endpoints[0].InFlight)
	// No bound: all go there.
	p = pool(t, ConsistentHash(toFirst, 0), 1, 1)
	require.Equal(t, []int{100, 0}, count(2, picks(t, p, 100, anyRequest)))
}

func TestConsistentHashErrors(t *testing.T) {
	full := errors.New("too many")
	build := func(ids []string, _ []uint32) (Locator, error) {
		switch {
		case len(ids) > 2:
			return nil, full
		case len(ids) == 1:
			return nil, nil
		}
		return LocatorFunc(func(h uint64) int { return int(h % 2) }), nil
	}
	p, err := New(Config[int]{Policy: PreferZone(ConsistentHash(build, 0)), Endpoints: endpoints(1, 1, 1)})
	require.ErrorIs(t, err, full)
	require.Nil(t, p)
	p = pool(t, ConsistentHash(build, 0), 1, 1)
	require.ErrorIs(t, p.Add(Endpoint[int]{ID: "x", Weight: 1}), full)
	require.ErrorIs(t, p.Remove("h00000"), errNoLocator)
	require.Len(t, p.Endpoints(), 2, "nothing has changed")
	require.NoError(t, p.Add(Endpoint[int]{ID: "x"}), "without weight, it is none of the Locator's")
	// A change of health is not refused: then requests go by IPHash.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l, err := p.PickID("h00000")
	require.NoError(t, err)
	require.ErrorIs(t, p.Drain(ctx, "h00000"), context.Canceled)
	require.Equal(t, 1, pick(t, p, Request{Hash: 2}))
	l.Done(OK)

	require.Panics(t, func() { ConsistentHash(nil, 0) })
	for _, bound := range []float64{-1, 0.5, 1001} {
		require.Panics(t, func() { ConsistentHash(build, bound) }, "%v", bound)
	}
}
