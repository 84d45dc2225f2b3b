package loadbalance

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

// A Request says what a pick is for. The zero value is right where nothing in it matters.
type Request struct {
	// Hash is of what requests stay together by: an address (HashAddr), a session or a key (HashString).
	// IPHash and ConsistentHash go by it, the others do not.
	Hash uint64
	// Zone is where the caller is, for PreferZone. "": Zone of the Config.
	Zone string
	// Tried are the IDs of endpoints that are not to be picked, because the request has failed there.
	Tried []string

	now int64 // when it was picked, if the pool measures latency
}

// Tries reports whether the request has been tried with that endpoint.
func (r Request) tried(id string) bool { return slices.Contains(r.Tried, id) }

// A Policy makes Pickers. RoundRobin and the other functions without a receiver return those that come
// with the package; anyone can write one.
//
// A LatencyPolicy asks for latencies to be measured, a TotalPolicy for requests to be counted, and a
// Checker can refuse endpoints. Who wraps a Policy must have the methods of what it wraps.
type Policy interface {
	// Build makes a Picker for the endpoints of v, of which there is at least one. It is called for each
	// change: of endpoints, of their weights, of their health, and for each step of a slow start. prev
	// is what it returned for the same Pool and Priority before, or nil; its Pick may still be running.
	//
	// It is called while other changes of the Pool wait, so it must not call the Pool. If it panics, or
	// returns nil, requests go by PowerOfTwoChoices until the next change (PolicyFailed).
	Build(v View, prev Picker) Picker
}

// A Picker chooses endpoints. It is called by many goroutines at the same time.
type Picker interface {
	// Pick returns an index in v, which is the View that the Picker was built from. It should not
	// return an endpoint in r.Tried, if it can know another; the Pool looks for one itself otherwise.
	Pick(v View, r Request) int
}

// A LatencyPolicy is a Policy that may go by View.Latency. Only for those are latencies measured, which
// takes two readings of the clock for each request.
type LatencyPolicy interface {
	Policy
	// UsesLatency reports whether its Pickers call View.Latency.
	UsesLatency() bool
}

// A TotalPolicy is a Policy that may go by View.Total. Only for those is it counted, which takes two
// atomic operations for each request; for others, View.Total adds up.
type TotalPolicy interface {
	Policy
	// UsesTotal reports whether its Pickers call View.Total.
	UsesTotal() bool
}

// A Checker is a Policy that cannot work with all endpoints.
type Checker interface {
	Policy
	// Check returns an error if the endpoints with these IDs and weights, none of which is 0, are not
	// valid. It is called before they take the place of others; not for changes of health.
	Check(ids []string, weights []uint32) error
}

// A View is the endpoints that a Picker chooses from: those that may be picked now, in the order of their
// IDs. Which they are never changes, nor do their weights; what they do is read as it is.
//
// A View is safe for concurrent use by multiple goroutines, and small: it is passed by value.
type View struct{ l *list }

// A list is what a View shows. It is never changed.
type list struct {
	core    *core
	members []member
	infos   []info
	zones   map[string]int // how many endpoints there are that would be here if all were healthy
	even    bool           // all ramps are 1
}

// A member is what is read of an endpoint to tell how busy it is.
type member struct {
	h   *host
	per float64 // 1 / (weight · ramp)
}

// An info is what is fixed about an endpoint in a list.
type info struct {
	id, zone string
	weight   uint32
	ramp     uint8 // in units of 1/rampUnit
}

// rampUnit is how many steps there are in a slow start.
const rampUnit = 16

// Len returns the number of endpoints.
func (v View) Len() int { return len(v.l.members) }

// ID returns the ID of endpoint i.
func (v View) ID(i int) string { return v.l.infos[i].id }

// Zone returns the zone of endpoint i.
func (v View) Zone(i int) string { return v.l.infos[i].zone }

// Weight returns the weight of endpoint i, which is never 0.
func (v View) Weight(i int) uint32 { return v.l.infos[i].weight }

// Ramp returns how far endpoint i is in its slow start: the part of its weight that it should have now, in
// sixteenths from 1/16 to 1.
func (v View) Ramp(i int) float64 { return float64(v.l.infos[i].ramp) / rampUnit }

// InFlight returns the number of requests in flight at endpoint i.
func (v View) InFlight(i int) int64 { return v.l.members[i].h.inFlight() }

// Total returns the number of requests in flight in the Pool; or, if the Policy is no TotalPolicy, at
// the endpoints of v, which takes O(n).
func (v View) Total() int64 {
	if v.l.core.counted {
		return max(0, v.l.core.total.Load())
	}
	sum := int64(0)
	for i := range v.l.members {
		sum += v.l.members[i].h.inFlight()
	}
	return sum
}

// Latency returns the peak EWMA of the latency of endpoint i, or the median of all, if it is not
// known; at least 1 ns. It is 1 ns for all if the Policy is no LatencyPolicy.
func (v View) Latency(i int, r Request) time.Duration {
	return time.Duration(v.l.members[i].h.latency(r.now))
}

// Rand returns 64 random bits. They come from the Seed of the Config, if there is one.
func (v View) Rand() uint64 { return v.l.core.rand() }

// Filter returns the View of those endpoints for which keep returns true, and their indices in v.
func (v View) Filter(keep func(i int) bool) (View, []int) {
	var indices []int
	for i := range v.Len() {
		if keep(i) {
			indices = append(indices, i)
		}
	}
	return v.choose(indices), indices
}

// choose returns the View of those endpoints.
func (v View) choose(indices []int) View {
	f := &list{core: v.l.core, zones: v.l.zones, even: true, members: make([]member, len(indices)), infos: make([]info, len(indices))}
	for k, i := range indices {
		f.members[k], f.infos[k] = v.l.members[i], v.l.infos[i]
		f.even = f.even && v.l.infos[i].ramp == rampUnit
	}
	return View{f}
}

// Healthy returns the share of the endpoints in that zone that are healthy. Draining ones, and those with
// no weight, do not count.
func (v View) Healthy(zone string) float64 {
	all := v.l.zones[zone]
	if all == 0 {
		return 0
	}
	n := 0
	for i := range v.l.infos {
		if v.l.infos[i].zone == zone {
			n++
		}
	}
	return min(1, float64(n)/float64(all))
}

// cost is how busy an endpoint would be with one more request, for its weight.
func (m *member) cost() float64 { return float64(m.h.inFlight()+1) * m.per }

// find returns the index of the endpoint with that ID, or where it would be, and whether it is there.
func (l *list) find(id string) (int, bool) {
	return slices.BinarySearchFunc(l.infos, id, func(x info, id string) int {
		switch {
		case x.id < id:
			return -1
		case x.id > id:
			return 1
		}
		return 0
	})
}

// rand returns 64 random bits: from the runtime, whose sources are local to a thread, or from the
// seed (SplitMix64; G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number
// Generators", OOPSLA 2014), in an order that depends on that of the calls alone.
func (c *core) rand() uint64 {
	if !c.seeded {
		return rand.Uint64()
	}
	return mix(c.seed.Add(golden))
}

const golden = 0x9e3779b97f4a7c15

// mix is the finalizer of SplitMix64, a bijection.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns one of n numbers for random bits, and bits that are left: what is below the point of
// r·n/2^64. Each number's share differs from 1/n by 2^-64 at most.
func below(r uint64, n int) (int, uint64) {
	hi, lo := bits.Mul64(r, uint64(n))
	return int(hi), lo
}
