package loadbalance

import "math/bits"

// Random returns the Policy that gives each request to any endpoint, whatever their weights. To pick
// takes O(1).
func Random() Policy { return randomPolicy{weighted: false} }

// WeightedRandom returns the Policy that gives each request to any endpoint, with a probability in
// proportion to its weight, by the alias method (A. J. Walker, 1977; M. D. Vose, "A Linear Algorithm
// for Generating Random Numbers with a Given Distribution", 1991). The probabilities are exact to
// 2^-48. To pick takes O(1), with one random number; to build, O(n).
func WeightedRandom() Policy { return randomPolicy{weighted: true} }

type randomPolicy struct{ weighted bool }

func (p randomPolicy) Build(v View, _ Picker) Picker {
	if a := newAlias(shares(v, p.weighted)); a != nil {
		return weightedRandom{a}
	}
	return evenRandom{}
}

type evenRandom struct{}

func (evenRandom) Pick(v View, _ Request) int {
	i, _ := below(v.l.core.rand(), len(v.l.members))
	return i
}

type weightedRandom struct{ *alias }

func (p weightedRandom) Pick(v View, _ Request) int { return p.pick(v.l.core.rand()) }

// shares returns numbers in proportion to the share that each endpoint should have now.
func shares(v View, weighted bool) []uint64 {
	s := make([]uint64, len(v.l.infos))
	for i, x := range v.l.infos {
		s[i] = uint64(x.ramp)
		if weighted {
			s[i] *= uint64(x.weight)
		}
	}
	return s
}

// An alias chooses by shares. Each column belongs to one endpoint, up to a limit, and to another beyond it.
type alias struct {
	columns []column
}

type column struct {
	limit uint64
	other uint32
}

// newAlias returns an alias for shares of at most 2^36, of which there are at most 2^16. If all are the
// same, it returns nil.
func newAlias(shares []uint64) *alias {
	n, sum, even := uint64(len(shares)), uint64(0), true
	for _, s := range shares {
		sum += s
		even = even && s == shares[0]
	}
	if even {
		return nil
	}
	a := &alias{make([]column, n)}
	left := make([]uint64, n) // share·n, of which a column holds sum: at most 2^52 and 2^52
	var small, large []uint32
	for i, s := range shares {
		if left[i] = s * n; left[i] < sum {
			small = append(small, uint32(i))
		} else {
			large = append(large, uint32(i))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		limit, _ := bits.Div64(left[s], 0, sum) // left/sum, in units of 2^-64
		a.columns[s] = column{limit, l}
		if left[l] -= sum - left[s]; left[l] < sum {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	// The arithmetic is exact, so only full columns are left.
	for _, i := range append(small, large...) {
		a.columns[i] = column{^uint64(0), i}
	}
	return a
}

// pick chooses by 64 random bits.
func (a *alias) pick(r uint64) int {
	i, rest := below(r, len(a.columns))
	if c := &a.columns[i]; rest >= c.limit {
		return int(c.other)
	}
	return i
}
