package loadbalance

// PowerOfTwoChoices returns the Policy that takes two endpoints at random, and gives the request to the
// one that is less busy: with fewer requests in flight, with this one, for its weight. That keeps the
// maximum as close to the average as a look at all does, nearly (M. Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", 2001), takes O(1), and forms no herd.
//
// When weights differ, or in a slow start, the two are chosen by weight: so that one that has most of
// the weight can have most of the requests. If both are idle, it is the first of them, which is so in
// proportion to their weights.
func PowerOfTwoChoices() Policy { return twoPolicy{} }

type twoPolicy struct{}

func (twoPolicy) Build(v View, _ Picker) Picker {
	if v.Len() == 1 {
		return first{}
	}
	return twoChoices{newAlias(shares(v, true))}
}

// first is for one endpoint.
type first struct{}

func (first) Pick(View, Request) int { return 0 }

type twoChoices struct {
	alias *alias // nil: their weights are equal
}

func (p twoChoices) Pick(v View, _ Request) int {
	i, j := two(v, p.alias)
	a, b := &v.l.members[i], &v.l.members[j]
	// Between two that are idle, the cost would always be for the one with more weight.
	first, second := a.h.inFlight(), b.h.inFlight()
	if first > 0 && float64(second+1)*b.per < float64(first+1)*a.per {
		return j
	}
	return i
}

// two returns two different endpoints; of the first, all have the same chance, or one by their weights,
// and of the second the same but for the first. It needs at least two.
func two(v View, a *alias) (i, j int) {
	r := v.l.core.rand()
	n := len(v.l.members)
	if a == nil {
		// The bits that the first choice leaves are as good as new ones: there are 2^48 of them at least.
		i, r = below(r, n)
		j, _ = below(r, n-1)
		if j >= i {
			j++
		}
		return i, j
	}
	i = a.pick(r)
	for range 4 {
		r = mix(r + golden)
		if j = a.pick(r); j != i {
			return i, j
		}
	}
	// One has nearly all of the weight.
	if j, _ = below(mix(r+golden), n-1); j >= i {
		j++
	}
	return i, j
}
