package loadbalance

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// levelsOf returns endpoints, 10 in each of n priorities: 0a … 0j, 1a … 1j.
func levelsOf(n int) []Endpoint[int] {
	var es []Endpoint[int]
	for k := range n {
		for _, e := range endpointsOf(10) {
			e.ID = fmt.Sprint(k) + e.ID
			e.Priority = uint8(k * 7) // not each number is a level
			es = append(es, e)
		}
	}
	return es
}

// sicken has a Pool of levelsOf find so many of each level healthy; it needs a bubble.
func (w *ward) sicken(healthy ...int) {
	for k, n := range healthy {
		for i, e := range endpointsOf(10) {
			err := errSick
			if i < n {
				err = nil
			}
			w.set(err, fmt.Sprint(k)+e.ID)
		}
	}
	time.Sleep(time.Second)
	synctest.Wait()
}

func (w *ward) config() HealthConfig[int] {
	return HealthConfig[int]{Check: w.Check, Interval: time.Second, Jitter: -1, Fall: 1, Rise: 1}
}

// TestLevels compares the parts of levels with Envoy's formula: each does 1.4 times the work of those that
// are healthy, and the next have the rest.
func TestLevels(t *testing.T) {
	const n = 20000
	for _, c := range []struct {
		healthy   []int
		threshold float64
		want      []float64
	}{
		{[]int{10}, 0, []float64{1}},
		{[]int{1}, 0, []float64{1}},
		{[]int{10, 10}, 0, []float64{1, 0}},
		{[]int{8, 10}, 0, []float64{1, 0}},
		{[]int{7, 10}, 0, []float64{0.98, 0.02}},
		{[]int{6, 10}, 0, []float64{0.84, 0.16}},
		{[]int{6, 1}, 0, []float64{0.84 / 0.98, 0.14 / 0.98}},
		{[]int{0, 10}, 0, []float64{0, 1}},
		{[]int{0, 1}, 0, []float64{0, 1}},
		{[]int{1, 0}, 0, []float64{1, 0}},
		{[]int{3, 3, 3}, 0, []float64{0.42, 0.42, 0.16}},
		{[]int{6, 0, 10}, 0, []float64{0.84, 0, 0.16}},
		{[]int{1, 1, 2}, 0, []float64{0.25, 0.25, 0.5}},
		{[]int{0, 0, 5}, 0, []float64{0, 0, 1}},
		// Enough in all levels together: none panics, few as they are in the first.
		{[]int{1, 10}, 0.5, []float64{0.14, 0.86}},
		{[]int{2, 3}, 0.3, []float64{0.4, 0.6}},
		{[]int{1, 5}, 0.2, []float64{0.14 / 0.84, 0.7 / 0.84}},
		{[]int{0, 0}, 0.1, []float64{1, 0}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var w ward
			p := timedPool(t, Config[int]{Endpoints: levelsOf(len(c.healthy)), Health: w.config(), PanicThreshold: c.threshold, Seed: 1})
			w.sicken(c.healthy...)
			got := make([]float64, len(c.healthy))
			each := make(map[string]int)
			for range n {
				l, err := p.Pick(Request{})
				require.NoError(t, err)
				got[l.Endpoint().Priority/7]++
				each[l.ID()]++
				l.Done(OK)
			}
			left := 1.0
			for _, h := range c.healthy {
				left -= min(left, 1.4*float64(h)/10)
			}
			for k, want := range c.want {
				// 5 standard deviations, which is wrong for fewer than one seed of a million.
				require.InDelta(t, want*n, got[k], 5*math.Sqrt(n*want*(1-want)), "%+v, level %d", c, k)
				picked := 0
				for id := range each {
					if int(id[0]-'0') == k {
						picked++
					}
				}
				switch {
				case want == 0:
					require.Zero(t, picked)
				case left > 1e-9 && float64(c.healthy[k]) < c.threshold*10:
					require.Equal(t, 10, picked, "%+v: level %d panics", c, k)
				default:
					require.Equal(t, c.healthy[k], picked, "%+v, level %d", c, k)
				}
			}
		})
	}
}

// TestLevelOfHash has requests with the same Hash stay at their level.
func TestLevelOfHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		p := timedPool(t, Config[int]{Endpoints: levelsOf(2), Health: w.config(), Policy: IPHash()})
		w.sicken(5, 10)
		const n = 5000
		second := 0
		for i := range uint64(n) {
			r := Request{Hash: i + 1}
			l, err := p.Pick(r)
			require.NoError(t, err)
			for range 5 {
				require.Equal(t, map[string]int{l.ID(): 1}, countPicks(t, p, 1, r))
			}
			second += int(l.Endpoint().Priority) / 7
		}
		require.InDelta(t, 0.3*n, second, 5*math.Sqrt(n*0.3*0.7))
	})
}

// TestLevelsTried has requests be tried with all of a level, which leaves the others.
func TestLevelsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		p := timedPool(t, Config[int]{Endpoints: levelsOf(3), Health: w.config()})
		w.sicken(2, 2, 10)
		var r Request
		for range 14 {
			l, err := p.Pick(r)
			require.NoError(t, err)
			require.NotContains(t, r.Tried, l.ID())
			r.Tried = append(r.Tried, l.ID())
		}
		_, err := p.Pick(r)
		require.Equal(t, ErrTried, err)
		slices.Sort(r.Tried)
		require.Equal(t, []string{"0a", "0b", "1a", "1b"}, r.Tried[:4])
		require.Equal(t, "2j", r.Tried[13])
		for _, id := range r.Tried {
			require.EqualValues(t, 1, statsOf(t, p, id).InFlight)
		}
		// The level that is chosen comes first, also for a request that has been tried.
		for range 100 {
			l, err := p.Pick(Request{Hash: 1, Tried: []string{"2a"}})
			require.NoError(t, err)
			other, err := p.Pick(Request{Hash: 1})
			require.NoError(t, err)
			require.Equal(t, other.Endpoint().Priority, l.Endpoint().Priority)
		}
	})
}

// TestLevelsChange moves endpoints from one level to another.
func TestLevelsChange(t *testing.T) {
	for name, policy := range everyPolicy() {
		endpoints := endpointsOf(4)
		p := poolOf(t, Config[int]{Endpoints: endpoints, Policy: policy})
		for i, want := range [][]string{{"a", "b", "c", "d"}, {"b", "c", "d"}, {"c", "d"}, {"d"}, {"a", "b", "c", "d"}} {
			a, err := p.Pick(Request{})
			require.NoError(t, err)
			d, err := p.Set(endpoints)
			require.NoError(t, err)
			require.EqualValues(t, 1, statsOf(t, p, a.ID()).InFlight)
			a.Done(OK)
			if i > 0 {
				require.NotEmpty(t, d.Changed, name)
				require.Empty(t, d.Added, name)
			}
			got := make(map[string]int)
			for h := range uint64(400) {
				l, err := p.Pick(Request{Hash: mix(h)})
				require.NoError(t, err)
				got[l.ID()]++
				l.Done(OK)
			}
			if name == "LeastResponseTime" || name == "PreferZone" { // which may find some too slow
				require.Subset(t, want, slices.Sorted(maps.Keys(got)), name)
			} else {
				require.Equal(t, want, slices.Sorted(maps.Keys(got)), name)
			}
			endpoints[min(i, 3)].Priority = 255
		}
		noneInFlight(t, p)
	}
}

// TestPanic follows a level into panic and out of it.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		var events recorder
		p := timedPool(t, Config[int]{Endpoints: levelsOf(1), Health: w.config(), PanicThreshold: 0.5, OnEvent: events.record})
		panics := func() []string {
			t.Helper()
			return slices.Sorted(maps.Keys(countPicks(t, p, 300, Request{})))
		}
		onlyPanic := func() []string {
			return slices.DeleteFunc(events.take(), func(e string) bool { return e[:2] != "Pa" })
		}
		w.sicken(5)
		require.Len(t, panics(), 5, "half are enough")
		require.Empty(t, onlyPanic())
		require.False(t, p.Stats().Panicked)
		w.sicken(4)
		require.Len(t, panics(), 10)
		require.Equal(t, []string{"Panicked 0"}, onlyPanic())
		s := p.Stats()
		require.True(t, s.Panicked)
		require.Equal(t, 10, s.Available)
		require.Equal(t, Unhealthy, s.Endpoints[9].State)
		w.sicken(0)
		require.Len(t, panics(), 10)
		require.Empty(t, onlyPanic(), "it does so already")

		// Neither those that drain nor those without weight are used, and they do not count.
		require.NoError(t, p.Drain(context.Background(), "0a"))
		require.NoError(t, p.SetWeight("0b", 0))
		require.Equal(t, []string{"0c", "0d", "0e", "0f", "0g", "0h", "0i", "0j"}, panics())
		w.sicken(6) // 4 of 8
		require.Equal(t, []string{"0c", "0d", "0e", "0f"}, panics())
		require.Equal(t, []string{"PanicEnded 0"}, onlyPanic())
		require.False(t, p.Stats().Panicked)

		// It is over when there is nobody left.
		for _, gone := range []func(){
			func() { _, err := p.Set(nil); require.NoError(t, err) },
			func() {
				es := levelsOf(1)
				for i := range es {
					es[i].Weight = 0
				}
				_, err := p.Set(es)
				require.NoError(t, err)
			},
			func() {
				for _, e := range levelsOf(1) {
					require.NoError(t, p.Drain(context.Background(), e.ID))
				}
			},
			func() { _, err := p.Set(levelsOf(2)[10:]); require.NoError(t, err) },
		} {
			_, err := p.Set(levelsOf(1))
			require.NoError(t, err)
			w.sicken(0)
			require.Equal(t, []string{"Panicked 0"}, onlyPanic())
			gone()
			require.Equal(t, []string{"PanicEnded 0"}, onlyPanic())
			require.False(t, p.Stats().Panicked)
			_, err = p.Set(nil)
			require.NoError(t, err)
		}
	})
}

// TestPanicExactly has as many be healthy as the threshold says, which is not below it.
func TestPanicExactly(t *testing.T) {
	for n := 1; n <= 100; n++ {
		for k := 0; k <= n; k++ {
			p := &Pool[int]{config: Config[int]{PanicThreshold: float64(k) / float64(n)}, panicked: make(map[uint8]bool)}
			for i := range n {
				p.list = append(p.list, &endpoint[int]{Endpoint[int]{Weight: 1}, &host{down: i >= k}})
			}
			tiers, err := p.tiersLocked()
			if k == 0 {
				require.Equal(t, ErrAllUnhealthy, err)
				continue
			}
			require.NoError(t, err)
			require.False(t, tiers[0].panics, "%d of %d", k, n)
			if k > 1 && float64(k-1)*1.4 < float64(n)-1e-6 {
				p.list[0].h.down = true
				tiers, err = p.tiersLocked()
				require.NoError(t, err)
				require.True(t, tiers[0].panics, "%d of %d", k-1, n)
			}
		}
	}
}

// TestPanicOfLevels has only those levels panic that get requests then.
func TestPanicOfLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		var events recorder
		p := timedPool(t, Config[int]{Endpoints: levelsOf(3), Health: w.config(), PanicThreshold: 0.5, OnEvent: events.record})
		for _, c := range []struct {
			healthy []int
			events  []string
			levels  string // of which all are picked
		}{
			{[]int{10, 10, 10}, nil, ""},
			{[]int{0, 0, 10}, nil, ""},
			{[]int{1, 2, 3}, []string{"Panicked 0", "Panicked 14", "Panicked 7"}, "012"},
			{[]int{0, 2, 3}, []string{"PanicEnded 0"}, "12"},
			{[]int{1, 5, 0}, []string{"PanicEnded 14", "PanicEnded 7", "Panicked 0"}, "0"},
			{[]int{0, 0, 0}, nil, "0"},
			{[]int{0, 0, 1}, []string{"PanicEnded 0", "Panicked 14"}, "2"},
			{[]int{0, 8, 0}, []string{"PanicEnded 14"}, ""},
		} {
			w.sicken(c.healthy...)
			// One check after the other: what came between is not asked for.
			last := make(map[byte]string)
			for _, e := range events.take() {
				if e[0] == 'P' {
					last[e[len(e)-1]] = e
				}
			}
			for _, e := range c.events {
				require.Equal(t, e, last[e[len(e)-1]], "%v", c.healthy)
			}
			require.Equal(t, c.levels != "", p.Stats().Panicked, "%v", c.healthy)
			got := slices.Sorted(maps.Keys(countPicks(t, p, 1000, Request{})))
			for k, n := range c.healthy {
				of := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return int(id[0]-'0') != k })
				if slices.Contains([]byte(c.levels), byte('0'+k)) {
					n = 10
				}
				if len(of) > 0 {
					require.Len(t, of, n, "%v, level %d", c.healthy, k)
				} else {
					require.NotContains(t, c.levels, fmt.Sprint(k))
				}
			}
		}
	})
}

// A level that is not needed is there for requests that have been tried with all of those that are.
func TestTriedGoesToTheReserve(t *testing.T) {
	es := endpoints(1, 1, 1, 1)
	es[2].Priority, es[3].Priority = 1, 7
	for name, policy := range policies() {
		p, err := New(Config[int]{Policy: policy, Endpoints: es, Seed: 1})
		require.NoError(t, err)
		require.Equal(t, 2, p.Stats().Available)
		require.Equal(t, []int{0, 0}, count(4, picks(t, p, 100, anyRequest))[2:], name)
		var r Request
		var order []int
		for range 4 {
			l, err := p.Pick(r)
			require.NoError(t, err, name)
			order = append(order, l.Value())
			r.Tried = append(r.Tried, l.ID())
			l.Done(ServerError)
		}
		require.ElementsMatch(t, []int{0, 1}, order[:2], name)
		require.Equal(t, []int{2, 3}, order[2:], name)
		_, err = p.Pick(r)
		require.ErrorIs(t, err, ErrTried, name)
		l, err := p.PickID("h00003")
		require.NoError(t, err, "a session that is there stays")
		l.Done(OK)
		p.Close()
	}
}
