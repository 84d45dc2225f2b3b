package loadbalance

// PreferZone returns the Policy that gives requests to endpoints in the caller's zone, among which inner
// chooses, or among all if that is nil: PowerOfTwoChoices().
//
// If less than 1/1.4 of the zone's endpoints are healthy, as many requests go elsewhere as those that are healthy are too few
// for. When a request finds its endpoint in the zone busy, with 8 or more in flight and, for its weight, more than twice as
// many as what inner chooses among all others, it goes there: so callers that are unevenly spread over zones do not overrun the
// few endpoints in one. A zone without endpoints has all requests go elsewhere.
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

func (p zonePolicy) bounds() bool {
	b, ok := p.inner.(interface{ bounds() bool })
	return ok && b.bounds()
}

const (
	busy       = 8 // requests in flight, up to which nobody is sent elsewhere
	busyFactor = 2
)

// A zoned has a Picker for each zone, and one for what is outside of it.
type zoned struct {
	zones map[string]*zone
	all   Picker
}

type zone struct {
	here, elsewhere part
	stay            uint64 // random numbers up to this stay
	spills          bool   // not all do
}

// A part is some of the endpoints, and who picks among them; without a Picker there are none.
type part struct {
	view    View
	indices []int
	picker  Picker
}

func (p zonePolicy) Build(v View, prev Picker) Picker {
	before, _ := prev.(*zoned)
	if before == nil {
		before = &zoned{}
	}
	z := &zoned{zones: make(map[string]*zone), all: p.inner.Build(v, before.all)}
	for _, x := range v.l.infos {
		if z.zones[x.zone] != nil {
			continue
		}
		old := before.zones[x.zone]
		if old == nil {
			old = &zone{}
		}
		n := &zone{
			here:      p.part(v, old.here.picker, func(i int) bool { return v.l.infos[i].zone == x.zone }),
			elsewhere: p.part(v, old.elsewhere.picker, func(i int) bool { return v.l.infos[i].zone != x.zone }),
			stay:      ^uint64(0),
		}
		if able := overProvision * v.Healthy(x.zone); able < 1 && n.elsewhere.picker != nil {
			n.spills, n.stay = true, uint64(able*(1<<32)*(1<<32))
		}
		z.zones[x.zone] = n
	}
	return z
}

func (p zonePolicy) part(v View, prev Picker, keep func(int) bool) part {
	sub, indices := v.Filter(keep)
	if len(indices) == 0 {
		return part{}
	}
	return part{sub, indices, p.inner.Build(sub, prev)}
}

func (p *part) pick(r Request) int {
	i := p.picker.Pick(p.view, r)
	if uint(i) >= uint(len(p.indices)) {
		return -1
	}
	return p.indices[i]
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
		return here.elsewhere.pick(r)
	}
	i := here.here.pick(r)
	if here.elsewhere.picker == nil || i < 0 {
		return i
	}
	if r.Tried != nil && r.tried(v.l.infos[i].id) && z.exhausted(here, v, r) {
		return here.elsewhere.pick(r)
	}
	m := &v.l.members[i]
	if m.h.inFlight() < busy {
		return i
	}
	if j := here.elsewhere.pick(r); j >= 0 && busyFactor*v.l.members[j].cost() < m.cost() {
		return j
	}
	return i
}

// exhausted reports whether a request has been tried with all endpoints of its zone.
func (z *zoned) exhausted(here *zone, v View, r Request) bool {
	for _, i := range here.here.indices {
		if !r.tried(v.l.infos[i].id) {
			return false
		}
	}
	return true
}
