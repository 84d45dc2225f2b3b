package loadbalance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// pool returns a Pool of endpoints with these weights, whose values are their indices.
func pool(tb testing.TB, policy Policy, weights ...uint32) *Pool[int] {
	tb.Helper()
	p, err := New(Config[int]{Policy: policy, Endpoints: endpoints(weights...), Seed: 1})
	require.NoError(tb, err)
	tb.Cleanup(p.Close)
	return p
}

func endpoints(weights ...uint32) []Endpoint[int] {
	es := make([]Endpoint[int], len(weights))
	for i, w := range weights {
		es[i] = Endpoint[int]{ID: fmt.Sprintf("h%05d", i), Value: i, Weight: w}
	}
	return es
}

func even(n int) []uint32 {
	w := make([]uint32, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

// pick picks and does not end the request.
func pick(tb testing.TB, p *Pool[int], r Request) int {
	tb.Helper()
	l, err := p.Pick(r)
	require.NoError(tb, err)
	return l.Value()
}

// picks picks n times and ends each request.
func picks(tb testing.TB, p *Pool[int], n int, r func(i int) Request) []int {
	tb.Helper()
	got := make([]int, n)
	for i := range got {
		l, err := p.Pick(r(i))
		if err != nil {
			require.NoError(tb, err)
		}
		got[i] = l.Value()
		l.Done(OK)
	}
	return got
}

func anyRequest(int) Request { return Request{} }

func count(n int, got []int) []int {
	counts := make([]int, n)
	for _, i := range got {
		counts[i]++
	}
	return counts
}

// policies are all that come with the package, by name.
func policies() map[string]Policy {
	locate := func(ids []string, _ []uint32) (Locator, error) {
		return LocatorFunc(func(h uint64) int { return int(h % uint64(len(ids))) }), nil
	}
	return map[string]Policy{
		"RoundRobin":               RoundRobin(),
		"SmoothWeightedRoundRobin": SmoothWeightedRoundRobin(),
		"Random":                   Random(),
		"WeightedRandom":           WeightedRandom(),
		"LeastConnections":         LeastConnections(),
		"WeightedLeastConnections": WeightedLeastConnections(),
		"LeastResponseTime":        LeastResponseTime(),
		"PowerOfTwoChoices":        PowerOfTwoChoices(),
		"IPHash":                   IPHash(),
		"PreferZone":               PreferZone(nil),
		"PreferZone(RoundRobin)":   PreferZone(RoundRobin()),
		"ConsistentHash":           ConsistentHash(locate, 0),
		"ConsistentHash bounded":   ConsistentHash(locate, 1.25),
	}
}

// requireChiSquare requires that counts are as likely as they are by the weights: a failure means that one
// of 10^5 runs would be so far off, by the approximation of Wilson and Hilferty.
func requireChiSquare(tb testing.TB, counts []int, weights []float64) {
	tb.Helper()
	total, sum := 0.0, 0.0
	for i := range counts {
		total += float64(counts[i])
		sum += weights[i]
	}
	x, degrees := 0.0, -1.0
	for i, n := range counts {
		if weights[i] == 0 {
			require.Zero(tb, n)
			continue
		}
		want := total * weights[i] / sum
		require.Greater(tb, want, 5.0, "too few for the approximation")
		x += (float64(n) - want) * (float64(n) - want) / want
		degrees++
	}
	z := (math.Cbrt(x/degrees) - (1 - 2/(9*degrees))) / math.Sqrt(2/(9*degrees))
	require.Less(tb, z, 4.26, "chi-square %.1f with %.0f degrees of freedom", x, degrees)
	require.Greater(tb, z, -4.26, "too even to be random: chi-square %.1f with %.0f degrees of freedom", x, degrees)
}

func TestPoliciesAllocateNothing(t *testing.T) {
	for name, policy := range policies() {
		for _, n := range []int{1, 2, 10, 100} {
			p := pool(t, policy, even(n)...)
			require.NoError(t, p.SetWeight("h00000", 3))
			hash := uint64(0)
			require.Zero(t, testing.AllocsPerRun(1000, func() {
				hash++
				l, err := p.Pick(Request{Hash: hash})
				if err != nil {
					panic(err)
				}
				l.Done(OK)
			}), "%s with %d", name, n)
			if n == 1 {
				continue
			}
			// Nor for a second try, and with several levels.
			es := p.Endpoints()
			es[0].Priority = 1
			_, err := p.Set(es)
			require.NoError(t, err)
			p.hostFor(t, es[1].ID).down = true
			p.mu.Lock()
			p.rebuildLocked()
			p.mu.Unlock()
			r := Request{Tried: []string{"h00001", "h00002"}}
			require.Zero(t, testing.AllocsPerRun(1000, func() {
				r.Hash++
				l, err := p.Pick(r)
				if err != nil {
					panic(err)
				}
				l.Done(OK)
			}), "%s with %d", name, n)
		}
	}
}

// Whatever a policy does, it returns an endpoint that can be used, and one that has not been tried
// while there is one.
func TestPoliciesPickWhatTheyMay(t *testing.T) {
	for name, policy := range policies() {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2, 3, 10, 40} {
				rnd := rand.New(rand.NewPCG(uint64(n), 7))
				weights := make([]uint32, n)
				usable := map[string]bool{}
				for i := range weights {
					if weights[i] = rnd.Uint32N(4); weights[i] > 0 {
						usable[fmt.Sprintf("h%05d", i)] = true
					}
				}
				if len(usable) == 0 {
					weights[0] = 1
					usable["h00000"] = true
				}
				p := pool(t, policy, weights...)
				for i := range 50 {
					r := Request{Hash: rnd.Uint64()}
					for range len(usable) {
						l, err := p.Pick(r)
						require.NoError(t, err)
						require.True(t, usable[l.ID()], l.ID())
						require.NotContains(t, r.Tried, l.ID())
						r.Tried = append(r.Tried, l.ID())
						if i%2 == 0 {
							l.Done(ServerError)
						}
					}
					_, err := p.Pick(r)
					require.ErrorIs(t, err, ErrTried)
				}
			}
		})
	}
}

// A Picker of somebody else's that returns nonsense.
func TestPickerOutOfRange(t *testing.T) {
	for _, i := range []int{-1, 2, math.MaxInt, math.MinInt} {
		p := pool(t, fixedPolicy(i), 1, 1)
		_, err := p.Pick(Request{})
		require.ErrorIs(t, err, ErrUnavailable)
		_, err = p.Pick(Request{Tried: []string{"x"}})
		require.ErrorIs(t, err, ErrUnavailable)
	}
	p := pool(t, fixedPolicy(1), 1, 1)
	require.Equal(t, 1, pick(t, p, Request{}))
}

type fixedPolicy int

func (f fixedPolicy) Build(View, Picker) Picker { return f }
func (f fixedPolicy) Pick(View, Request) int    { return int(f) }

func TestView(t *testing.T) {
	var seen View
	policy := viewPolicy{func(v View) { seen = v }}
	p, err := New(Config[int]{Policy: policy, Endpoints: []Endpoint[int]{
		{ID: "b", Weight: 2, Zone: "east"}, {ID: "a", Weight: 1}, {ID: "zero"}, {ID: "c", Weight: 3, Zone: "east"},
	}})
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, 3, seen.Len())
	for i, want := range []struct {
		id, zone string
		weight   uint32
	}{{"a", "", 1}, {"b", "east", 2}, {"c", "east", 3}} {
		require.Equal(t, want.id, seen.ID(i))
		require.Equal(t, want.zone, seen.Zone(i))
		require.Equal(t, want.weight, seen.Weight(i))
		require.Equal(t, 1.0, seen.Ramp(i))
		require.Zero(t, seen.InFlight(i))
		require.EqualValues(t, 1, seen.Latency(i, Request{}))
	}
	require.Equal(t, 1.0, seen.Healthy("east"))
	require.Equal(t, 0.0, seen.Healthy("west"))
	east, indices := seen.Filter(func(i int) bool { return seen.Zone(i) == "east" })
	require.Equal(t, []int{1, 2}, indices)
	require.Equal(t, "c", east.ID(1))
	l, err := p.Pick(Request{})
	require.NoError(t, err)
	require.EqualValues(t, 1, seen.InFlight(0))
	l.Done(OK)
	require.Zero(t, seen.InFlight(0))
}

type viewPolicy struct{ f func(View) }

func (p viewPolicy) Build(v View, _ Picker) Picker { p.f(v); return first{} }

// badPolicy panics, or returns nothing, when it is told to.
type badPolicy struct{ mode *string }

func (p badPolicy) Build(View, Picker) Picker {
	switch *p.mode {
	case "panic":
		panic("no")
	case "nil":
		return nil
	}
	return first{}
}

func TestBuildFails(t *testing.T) {
	for _, mode := range []string{"panic", "nil"} {
		var m string
		var kinds []EventKind
		p, err := New(Config[int]{Policy: badPolicy{&m}, Endpoints: endpoints(1, 1), OnEvent: func(e Event) { kinds = append(kinds, e.Kind) }})
		require.NoError(t, err)
		require.NoError(t, p.Stats().PolicyError)
		m = mode
		d, err := p.Set(endpoints(1, 1, 1))
		require.NoError(t, err)
		require.Equal(t, []string{"h00002"}, d.Added)
		require.Error(t, p.Stats().PolicyError)
		require.Contains(t, kinds, PolicyFailed)
		require.Len(t, count(3, picks(t, p, 100, anyRequest)), 3)
		m = ""
		require.NoError(t, p.Remove("h00001"))
		require.NoError(t, p.Stats().PolicyError)
		require.Equal(t, []int{10, 0, 0}, count(3, picks(t, p, 10, anyRequest)))
		p.Close()
	}
}

// Who wraps a Policy, and has not all of its methods.
type wrapped struct{ Policy }

func TestWrappedBound(t *testing.T) {
	toFirst := func([]string, []uint32) (Locator, error) { return LocatorFunc(func(uint64) int { return 0 }), nil }
	p := pool(t, wrapped{ConsistentHash(toFirst, 1.25)}, even(100)...)
	for range 1000 {
		pick(t, p, Request{Hash: 7})
	}
	for _, e := range p.Stats().Endpoints {
		require.LessOrEqual(t, e.InFlight, int64(13))
	}
}

// A retry takes no turn: or of two, the one that fails would have all first tries.
func TestRoundRobinRetries(t *testing.T) {
	for _, policy := range []Policy{RoundRobin(), SmoothWeightedRoundRobin()} {
		p := pool(t, policy, 1, 1)
		firsts := make([]int, 2)
		for range 1000 {
			l, err := p.Pick(Request{})
			require.NoError(t, err)
			firsts[l.Value()]++
			l.Done(OK)
			if l.Value() == 0 {
				r, err := p.Pick(Request{Tried: []string{l.ID()}})
				require.NoError(t, err)
				require.Equal(t, 1, r.Value())
				r.Done(OK)
			}
		}
		require.Equal(t, []int{500, 500}, firsts)
	}
}

// Retries spread, and move no turns: also in a level that has nothing but retries, and another zone.
func TestRetriesSpread(t *testing.T) {
	for name, policy := range map[string]Policy{"rr": RoundRobin(), "wrr": SmoothWeightedRoundRobin(), "zone": PreferZone(RoundRobin())} {
		for _, priority := range []uint8{0, 1} {
			es := endpoints(1, 1, 1, 1)
			es[0].Zone = "near"
			if priority > 0 || name == "zone" {
				for i := 1; i < 4; i++ {
					es[i].Priority, es[i].Zone = priority, "far"
				}
			}
			p := poolOf(t, Config[int]{Policy: policy, Zone: "near", Endpoints: es, Seed: 1})
			counts := count(4, picks(t, p, 300, func(int) Request { return Request{Tried: []string{"h00000"}} }))
			for _, n := range counts[1:] {
				require.InDelta(t, 100, n, 60, "%s: %v", name, counts)
			}
		}
	}
	require.Equal(t, []int{100, 100, 100}, count(3, picks(t, pool(t, RoundRobin(), 1, 1, 1), 300, func(int) Request {
		return Request{Tried: []string{}} // tried nowhere
	})))
}

// cautious is a Policy that knows what it has returned.
type cautious struct{ fails *bool }

func (p cautious) Build(_ View, prev Picker) Picker {
	if *p.fails {
		panic("not now")
	}
	if prev != nil {
		_ = prev.(fixedPolicy)
	}
	return fixedPolicy(0)
}

// A Build that fails once is asked again, and does not get a Picker that it has not made.
func TestBuildRecovers(t *testing.T) {
	fails := true
	p := pool(t, cautious{&fails}, 1, 1)
	require.Error(t, p.Stats().PolicyError)
	fails = false
	require.NoError(t, p.SetWeight("h00000", 2))
	require.NoError(t, p.Stats().PolicyError)
	require.NoError(t, p.SetWeight("h00000", 3))
	require.NoError(t, p.Stats().PolicyError)
	mode := "nil"
	p = pool(t, PreferZone(badPolicy{&mode}), 1)
	require.ErrorIs(t, p.Stats().PolicyError, errNoPicker)
	pick(t, p, Request{})
}
