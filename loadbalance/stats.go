package loadbalance

import "time"

// Stats are what a Pool knows of its endpoints.
type Stats struct {
	Endpoints []EndpointStats // in the order of their IDs
	Available int             // how many can be picked now
	Panicked  bool            // some are picked whether they are healthy or not

	Resolved        time.Time // when Resolve has last succeeded; zero: never
	ResolveFailures int       // how often it has failed since
	ResolveError    error     // of the last call
	PolicyError     error     // of the last Build, if it has panicked or returned no Picker
}

// An EndpointStats is what is known of an endpoint since it was added, or, if requests were in flight
// when it was removed and came back, since before.
type EndpointStats struct {
	ID       string // as in its Endpoint
	Weight   uint32 // as in its Endpoint
	Zone     string // as in its Endpoint
	Priority uint8  // as in its Endpoint

	State    State         // whether it is given requests
	InFlight int64         // requests that have not ended
	Ramp     float64       // the part of its weight that it has in its slow start; otherwise 1
	Latency  time.Duration // peak EWMA; 0 if the Policy is no LatencyPolicy, or it is not known

	Picked     uint64              // requests it was given
	Failed     uint64              // of those that have ended: by ServerError, ConnectError, Timeout or Overload
	Outcomes   [numOutcomes]uint64 // those that have ended, by Outcome
	Ejections  int                 // how often it was ejected, less one for each Interval since without
	EjectedFor time.Duration       // how long it will still be, in the State Outlying
	CheckError error               // of the last check
}

// A State says whether an endpoint is given requests.
type State uint8

const (
	// Healthy endpoints are given requests.
	Healthy State = iota
	// Unhealthy endpoints do not pass their checks.
	Unhealthy
	// Outlying endpoints are ejected, as their requests have failed.
	Outlying
	// Drained endpoints are draining, or have no requests in flight any more.
	Drained
	// Weightless endpoints have weight 0.
	Weightless
)

// String returns what the state is called: healthy, unhealthy, ejected, draining or no weight.
func (s State) String() string {
	names := [...]string{"healthy", "unhealthy", "ejected", "draining", "no weight"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Stats returns what is known of the endpoints now. It takes O(n), with the lock that changes take.
func (p *Pool[T]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{
		Endpoints:       make([]EndpointStats, len(p.list)),
		Available:       p.snap.Load().available,
		Resolved:        p.resolved.at,
		ResolveFailures: p.resolved.failures,
		ResolveError:    p.resolved.err,
		PolicyError:     p.policyErr,
	}
	for _, panicked := range p.panicked {
		s.Panicked = s.Panicked || panicked
	}
	now := p.core.now()
	for i, e := range p.list {
		h := e.h
		x := EndpointStats{
			ID: e.ID, Weight: e.Weight, Zone: e.Zone, Priority: e.Priority,
			Ramp:       float64(p.rampOf(h, now)) / rampUnit,
			Ejections:  h.ejections,
			CheckError: h.lastErr,
		}
		x.Picked, x.InFlight = h.countsLocked()
		switch {
		case h.draining:
			x.State = Drained
		case e.Weight == 0:
			x.State = Weightless
		case h.down:
			x.State = Unhealthy
		case h.ejected:
			x.State = Outlying
		}
		if h.ejected {
			x.EjectedFor = time.Duration(max(0, h.ejectedTo-now))
		}
		if h.ewma.Load() != 0 {
			x.Latency = time.Duration(h.latency(now))
		}
		ended := x.Picked - min(x.Picked, uint64(x.InFlight))
		for o := OK + 1; o < numOutcomes; o++ {
			x.Outcomes[o] = h.bad[o].Load()
			ended -= min(ended, x.Outcomes[o])
			if o.failed() {
				x.Failed += x.Outcomes[o]
			}
		}
		x.Outcomes[OK] = ended
		s.Endpoints[i] = x
	}
	return s
}
