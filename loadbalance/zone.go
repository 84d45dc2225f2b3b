package loadbalance

// PreferZone returns the Policy that gives requests to endpoints in the caller's zone, among which inner
// chooses, or among all if that is nil: PowerOfTwoChoices().
//
// If less than 1/1.4 of the zone's endpoints are healthy, as many requests go elsewhere as those that
// are healthy are too few for. When a request finds its endpoint in the zone busy, with 8 or more in
// flight and, for its weight, more than twice as many as what inner chooses elsewhere, it goes there:
// so callers that are unevenly spread over zones do not overrun the few endpoints in one. A zone
// without endpoints has all requests go elsewhere.
func PreferZone(inner Policy) Policy {
	if inner == nil {
		inner = PowerOfTwoChoices()
	}
	return zonePolicy{inner}
}

type zonePolicy struct{ inner Policy }

// UsesLatency reports whether the inner Policy does.
func (p zonePolicy) UsesLatency() bool {
	l, ok := p.inner.(LatencyPolicy)
	return ok && l.UsesLatency()
}

// Check asks the inner Policy.
func (p zonePolicy) Check(ids []string, weights []uint32) error {
	if c, ok := p.inner.(Checker); ok {
		return c.Check(ids, weights)
	}
	return nil
}

// UsesTotal reports whether the inner Policy does.
func (p zonePolicy) UsesTotal() bool {
	t, ok := p.inner.(TotalPolicy)
	return ok && t.UsesTotal()
}

const (
	busy       = 8 // requests in flight, up to which nobody is sent elsewhere
	busyFactor = 2
	leaves     = 4 // how often an endpoint elsewhere is looked for
)

// A zoned has a Picker for each zone, and one for all.
type zoned struct {
	zones map[string]*zone
	all   Picker
}

// A zone is the endpoints of one, and who picks among them.
type zone struct {
	view    View
	indices []int
	picker  Picker
	stay    uint64 // random numbers up to this stay
	spills  bool   // not all do
}

func (p zonePolicy) Build(v View, prev Picker) Picker {
	before, _ := prev.(*zoned)
	if before == nil {
		before = &zoned{}
	}
	members := make(map[string][]int)
	for i, x := range v.l.infos {
		members[x.zone] = append(members[x.zone], i)
	}
	z := &zoned{zones: make(map[string]*zone, len(members)), all: p.inner.Build(v, before.all)}
	if z.all == nil {
		return nil
	}
	for name, indices := range members {
		n := &zone{view: v.choose(indices), indices: indices, stay: ^uint64(0)}
		var old Picker
		if b := before.zones[name]; b != nil {
			old = b.picker
		}
		if n.picker = p.inner.Build(n.view, old); n.picker == nil {
			return nil
		}
		healthy := float64(len(indices)) / float64(v.l.zones[name])
		if able := overProvision * healthy; able < 1 && len(members) > 1 {
			n.spills, n.stay = true, uint64(able*(1<<32)*(1<<32))
		}
		z.zones[name] = n
	}
	return z
}

func (z *zoned) Pick(v View, r Request) int {
	name := r.Zone
	if name == "" {
		name = v.l.core.zone
	}
	here := z.zones[name]
	if here == nil {
		return z.all.Pick(v, r)
	}
	if here.spills && v.l.core.rand() > here.stay {
		if i := z.elsewhere(name, v, r); i >= 0 {
			return i
		}
	}
	i := here.picker.Pick(here.view, r)
	if uint(i) >= uint(len(here.indices)) {
		return -1
	}
	i = here.indices[i]
	if len(z.zones) == 1 {
		return i
	}
	if r.Tried != nil && here.exhausted(r) {
		if j := z.elsewhere(name, v, r); j >= 0 {
			return j
		}
	}
	m := &v.l.members[i]
	if m.h.inFlight() < busy {
		return i
	}
	if j := z.elsewhere(name, v, r); j >= 0 && busyFactor*v.l.members[j].cost() < m.cost() {
		return j
	}
	return i
}

// elsewhere returns an endpoint in another zone, or -1: where nearly all are in this one, it may not
// find the others.
func (z *zoned) elsewhere(name string, v View, r Request) int {
	for range leaves {
		i := z.all.Pick(v, r)
		if uint(i) < uint(len(v.l.infos)) && v.l.infos[i].zone != name {
			return i
		}
		r.Hash = mix(r.Hash + golden) // for those that go by it
	}
	start, _ := below(v.l.core.rand(), len(v.l.infos))
	for k := range v.l.infos {
		if x := (start + k) % len(v.l.infos); v.l.infos[x].zone != name && !r.tried(v.l.infos[x].id) {
			return x
		}
	}
	return -1
}

// exhausted reports whether a request has been tried with all endpoints of the zone.
func (n *zone) exhausted(r Request) bool {
	for i := range n.indices {
		if !r.tried(n.view.ID(i)) {
			return false
		}
	}
	return true
}
