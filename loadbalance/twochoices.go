package loadbalance

// PowerOfTwoChoices returns the Policy that takes two endpoints at random, and gives the request to the one that is less
// busy: with fewer requests in flight, with this one, for its weight. That keeps the maximum as close to
// the average as a look at all does, nearly (M. Mitzenmacher, "The Power of Two Choices in Randomized Load
// Balancing", 2001), takes O(1), and forms no herd.
//
// When weights differ, the two are chosen by weight, so that one that has most of the weight can have most of the requests.
func PowerOfTwoChoices() Policy { return twoPolicy{} }

type twoPolicy struct{}

func (twoPolicy) Build(v View, _ Picker) Picker {
	if v.Len() == 1 {
		return first{}
	}
	return twoChoices{newAlias(weights(v))}
}

// first is for one endpoint.
type first struct{}

func (first) Pick(View, Request) int { return 0 }

type twoChoices struct {
	alias *alias // nil: their weights are equal
}

func (p twoChoices) Pick(v View, _ Request) int {
	i, j := two(v, p.alias)
	members := v.l.members
	if members[j].cost() < members[i].cost() {
		return j
	}
	return i
}

// weights returns the weights, without regard to slow starts.
func weights(v View) []uint64 {
	w := make([]uint64, len(v.l.infos))
	for i, x := range v.l.infos {
		w[i] = uint64(x.weight)
	}
	return w
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
