package loadbalance

import "math"

// LeastConnections returns the Policy that gives each request to the endpoint with the fewest in
// flight, whatever their weights; in a slow start, requests count for more. Of several with equally
// few, any has the same chance; of those that are idle, in proportion to what they should have (a slow
// start, and with WeightedLeastConnections the weight).
//
// It looks at all of up to 32 endpoints, and beyond at 8 that it chooses at random: the herd that
// follows the one best endpoint, and the time to find it, grow with their number, and what it gains
// does not.
func LeastConnections() Policy { return leastPolicy{weighted: false} }

// WeightedLeastConnections returns the Policy that gives each request to the endpoint that would, with
// it, have the fewest in flight for its weight; otherwise as LeastConnections.
func WeightedLeastConnections() Policy { return leastPolicy{weighted: true} }

const (
	maxScan = 32
	samples = 8
)

type leastPolicy struct{ weighted bool }

func (p leastPolicy) Build(v View, _ Picker) Picker {
	members := make([]member, v.Len())
	for i, m := range v.l.members {
		if members[i] = m; !p.weighted {
			members[i].per = rampUnit / float64(v.l.infos[i].ramp)
		}
	}
	if len(members) > maxScan {
		return sampledLeast{members, newAlias(shares(v, p.weighted))}
	}
	return exactLeast{members}
}

type exactLeast struct{ members []member }

func (p exactLeast) Pick(v View, _ Request) int {
	best, least, ties, idle, lone := 0, math.MaxFloat64, 1, 0.0, math.MaxFloat64
	for i := range p.members {
		m := &p.members[i]
		n := m.h.inFlight()
		if n == 0 {
			idle += 1 / m.per
			lone = min(lone, m.per)
			continue
		}
		switch cost := float64(n+1) * m.per; {
		case cost < least:
			best, least, ties = i, cost, 1
		case cost == least:
			ties++
		}
	}
	// Any of those that are as good: who always begins with the first, or at a random place, gives more
	// to some. Others may have been given requests meanwhile; then there are fewer.
	switch {
	case idle > 0 && lone <= least:
		return p.anyIdle(v, idle, best)
	case ties > 1:
		return p.anyTied(v, least, ties, best)
	}
	return best
}

// anyIdle returns an endpoint that is idle, by its share, or best, when there is none any more.
func (p exactLeast) anyIdle(v View, idle float64, best int) int {
	at := idle * float64(v.l.core.rand()>>11) / (1 << 53)
	for i := range p.members {
		if m := &p.members[i]; m.h.inFlight() == 0 {
			best = i
			if at -= 1 / m.per; at < 0 {
				break
			}
		}
	}
	return best
}

// anyTied returns one of the endpoints that cost the least.
func (p exactLeast) anyTied(v View, least float64, ties, best int) int {
	nth, _ := below(v.l.core.rand(), ties)
	for i := best; i < len(p.members); i++ {
		if p.members[i].cost() == least {
			best = i
			if nth--; nth < 0 {
				break
			}
		}
	}
	return best
}

type sampledLeast struct {
	members []member
	alias   *alias // nil: all should have the same
}

func (p sampledLeast) Pick(v View, _ Request) int {
	r := v.l.core.rand()
	best, least, idle := 0, math.MaxFloat64, -1
	for range samples {
		var i int
		if p.alias != nil {
			i = p.alias.pick(r)
		} else {
			i, _ = below(r, len(p.members))
		}
		m := &p.members[i]
		n := m.h.inFlight()
		if cost := float64(n+1) * m.per; n == 0 && idle < 0 {
			idle = i // the first, so by its share
		} else if n > 0 && cost < least {
			best, least = i, cost
		}
		r = mix(r + golden)
	}
	if idle >= 0 && p.members[idle].per <= least {
		return idle
	}
	return best
}
