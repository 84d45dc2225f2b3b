package loadbalance

// LeastResponseTime returns the Policy that takes two endpoints at random, as PowerOfTwoChoices, and
// gives the request to the one that promises the earlier answer: by its latency times the requests in
// flight there, with this one, for its weight. If both are idle, by its latency alone.
//
// Latency is a peak EWMA: it follows at once when an endpoint becomes slower, and by half in
// LatencyHalfLife when it becomes faster. A new endpoint has the median of all. A failure makes an
// endpoint slower, so that one that fails fast attracts nobody; a request that is cancelled, or fails
// by its own fault, never makes it faster. An endpoint that reports to be busy (Outcome.WithLoad)
// counts as slower.
//
// It reads the clock twice for each request.
func LeastResponseTime() Policy { return latencyPolicy{} }

type latencyPolicy struct{}

// UsesLatency returns true.
func (latencyPolicy) UsesLatency() bool { return true }

func (latencyPolicy) Build(v View, _ Picker) Picker {
	if v.Len() == 1 {
		return first{}
	}
	return leastResponse{newAlias(shares(v, true))}
}

type leastResponse struct{ alias *alias }

func (p leastResponse) Pick(v View, r Request) int {
	i, j := two(v, p.alias)
	a, b := &v.l.members[i], &v.l.members[j]
	first, second := a.h.latency(r.now), b.h.latency(r.now)
	m, n := a.h.inFlight(), b.h.inFlight()
	// Between two that are idle, weights are in the choice of the first. It is drawn against the second,
	// as with two endpoints, or one that has most of the weight, both are always chosen.
	if m == 0 && n == 0 && b.per > a.per && float64(v.l.core.rand()>>11)/(1<<53) >= a.per/b.per {
		return i
	}
	if m > 0 || n > 0 {
		first *= float64(m+1) * a.per
		second *= float64(n+1) * b.per
	}
	if clearly*second < first {
		return j
	}
	return i
}

// clearly is by how much the second of two must be better. What differs by less is as good: so that an
// endpoint that was slow once is tried again when its latency has come near that of another, and not
// only when it is the same.
const clearly = 17.0 / 16
