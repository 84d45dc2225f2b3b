package bloom

import "math"

// A lanes filter is an array of units (blocks or words), each divided into lanes, in each of
// which a key sets one bit. With n keys thrown into the units at random, j of which are in the
// unit of a key that is looked up, that key is a false positive with probability
// (1 - (1-1/width)^j)^lanes. j is binomially distributed, and the mean over it is what counts: the
// textbook formula takes all units to be equally full, and promises too much. (Putze, Sanders,
// Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007, take Poisson's distribution;
// with the binomial one the sum is exact, and has a closed form.)

// lanesFPR returns the false-positive rate of units with the given lanes when n keys are in.
// The sum is of numbers near 1 that cancel, so it is exact to about 1e-13.
func lanesFPR(n, units float64, lanes, width int) float64 {
	// (1-x)^lanes = Σ C(lanes,i) (-1)^i x^i, and E[q^(ij)] = (1 - (1-q^i)/units)^n.
	sum, c := 0.0, 1.0
	for i := range lanes + 1 {
		q := math.Pow(1-1/float64(width), float64(i))
		sum += c * math.Exp(n*math.Log1p(-(1-q)/units))
		c *= -float64(lanes-i) / float64(i+1)
	}
	return max(sum, 0)
}

// lanesUnits returns the least number of units with which n keys have at most the rate p, or
// +Inf if not even limit of them do.
func lanesUnits(n uint64, p, limit float64, lanes, width int) float64 {
	limit = math.Floor(min(limit, 1<<52))
	if limit < 1 || lanesFPR(float64(n), limit, lanes, width) > p {
		return math.Inf(1)
	}
	low, high := 0.0, limit // too few, enough
	for high-low > 1 {
		if mid := math.Floor((low + high) / 2); lanesFPR(float64(n), mid, lanes, width) <= p {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// lanesCount estimates how many keys have set the given share of the bits. The share of a lane
// that n keys leave unset is (1 - 1/(width·units))^n in the mean.
func lanesCount(fill, units float64, width int) uint64 {
	if fill <= 0 {
		return 0
	}
	bits := units * float64(width)
	// A filter that is full to the last bit says nothing but "very many".
	fill = min(fill, 1-1/(2*bits))
	return uint64(math.Round(math.Log1p(-fill) / math.Log1p(-1/bits)))
}
