package loadbalance

// LeastConnections returns the Policy that gives each request to the endpoint with the fewest in flight, whatever their
// weights; in a slow start, requests count for more. Of several with equally few, any has the
// same chance.
//
// It looks at all of up to 32 endpoints, and beyond at 8 that it chooses at random: the herd that
// follows the one best endpoint, and the time to find it, grow with their number, and what it gains does not.
func LeastConnections() Policy { return leastPolicy{weighted: false} }

// WeightedLeastConnections returns the Policy that gives each request to the endpoint that would, with it, have the fewest
// in flight for its weight; otherwise as LeastConnections.
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
		return sampledLeast{members}
	}
	return exactLeast{members}
}

type exactLeast struct{ members []member }

func (p exactLeast) Pick(v View, _ Request) int {
	best, least, ties := 0, p.members[0].cost(), 1
	for i := 1; i < len(p.members); i++ {
		switch cost := p.members[i].cost(); {
		case cost < least:
			best, least, ties = i, cost, 1
		case cost == least:
			ties++
		}
	}
	if ties == 1 {
		return best
	}
	// Any of them: those who always begin with the first, or at a random place, give more to some. Others may have
	// been given requests meanwhile, and then there are fewer.
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

type sampledLeast struct{ members []member }

func (p sampledLeast) Pick(v View, _ Request) int {
	r := v.l.core.rand()
	best, least := -1, 0.0
	for range samples {
		i, _ := below(r, len(p.members))
		if cost := p.members[i].cost(); best < 0 || cost < least {
			best, least = i, cost
		}
		r = mix(r + golden)
	}
	return best
}
