package loadbalance

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A snapshot is what picks go by. It is never changed.
type snapshot[T any] struct {
	state
	endpoints []*endpoint[T]
	available int            // of these, how many have a part of the requests
	all       []*endpoint[T] // also those that cannot be picked
}

// find returns the endpoint with that ID, or nil.
func (s *snapshot[T]) find(id string) *endpoint[T] {
	at := func(l *list, first int) *endpoint[T] {
		if i, found := l.find(id); found {
			return s.endpoints[first+i]
		}
		return nil
	}
	for _, l := range s.levels {
		if e := at(l.list, l.first); e != nil {
			return e
		}
	}
	return nil
}

// A state is the part of a snapshot that has no type parameter.
type state struct {
	core   *core
	picker Picker // of the only level that is used, or nil
	view   View
	err    error // why there is none

	// levels are those that have a part of the requests, in order of priority, and then the others,
	// which are for requests that have been tried with all endpoints of these. Their endpoints come one
	// after the other in endpoints.
	levels []share
	used   int // how many have a part
}

// A share is the part of a level in the requests.
type share struct {
	*level
	upTo  uint64 // random numbers up to this are for this level, or one before
	first int    // index of its first endpoint
}

// A level is the endpoints of one Priority that can be picked, and who picks them.
type level struct {
	list   *list
	picker Picker
	made   Picker // what the Policy has returned: picker, or nil if that is a substitute
	err    error  // why it is one
}

// pick chooses an endpoint, and counts the request as in flight there. It returns its index, or -1 if
// this is no longer the state of the Pool, and when that was, if latency is measured.
func (s *state) pick(r Request) (i int, now int64, err error) {
	if s.core.timed {
		r.now = s.core.now()
	}
	if s.picker == nil || r.Tried != nil {
		return s.pickAmong(r)
	}
	i = s.picker.Pick(s.view, r)
	members := s.view.l.members
	if uint(i) >= uint(len(members)) {
		return 0, 0, errPolicy
	}
	if !members[i].h.enter() {
		return -1, 0, nil
	}
	if s.core.counted {
		s.core.total.Add(1)
	}
	return i, r.now, nil
}

// pickAmong is pick for several levels, and for requests that have been tried.
func (s *state) pickAmong(r Request) (i int, now int64, err error) {
	if s.err != nil {
		return 0, 0, s.err
	}
	levels, chosen := s.levels, 0
	if s.used > 1 {
		// The level goes by the Hash where requests with the same one are to stay together.
		x := s.core.rand()
		if r.Hash != 0 {
			x = mix(r.Hash + golden)
		}
		for chosen < s.used-1 && x > levels[chosen].upTo {
			chosen++
		}
	}
	for k := range levels {
		// The one that is chosen, and then the others in their order.
		switch {
		case k == 0:
			k = chosen
		case k <= chosen:
			k--
		}
		l := levels[k]
		i, err := l.pick(r)
		if err != nil {
			return 0, 0, err
		}
		if i < 0 {
			continue // all tried
		}
		if !l.list.members[i].h.enter() {
			return -1, 0, nil
		}
		if s.core.counted {
			s.core.total.Add(1)
		}
		return l.first + i, r.now, nil
	}
	return 0, 0, ErrTried
}

// pick returns the index of an endpoint in the list of l that has not been tried, or -1.
func (l *level) pick(r Request) (int, error) {
	for range 3 { // a random choice may be one that has not been tried the next time
		i := l.picker.Pick(View{l.list}, r)
		if uint(i) >= uint(len(l.list.members)) {
			return 0, errPolicy
		}
		if !r.tried(l.list.infos[i].id) {
			return i, nil
		}
	}
	best, least, ties := -1, 0.0, uint64(0)
	for i := range l.list.members {
		if r.tried(l.list.infos[i].id) {
			continue
		}
		switch cost := l.list.members[i].cost(); {
		case best < 0 || cost < least:
			best, least, ties = i, cost, 1
		case cost == least:
			if ties++; l.list.core.rand()%ties == 0 {
				best = i
			}
		}
	}
	return best, nil
}

// overProvision is how many times the work of its share a healthy endpoint is trusted to do: with
// 1.4, as in Envoy, 5 of 7 do the work of all.
const overProvision = 1.4

// A tier is the endpoints of one Priority.
type tier[T any] struct {
	priority uint8
	usable   []*endpoint[T] // neither draining nor without weight
	healthy  []*endpoint[T]
	part     float64 // of the requests
	panics   bool
}

// picked returns those that can be picked.
func (t *tier[T]) picked() []*endpoint[T] {
	if t.panics {
		return t.usable
	}
	return t.healthy
}

// rebuildLocked makes a snapshot of the endpoints as they are now, and closes who is in it no longer.
func (p *Pool[T]) rebuildLocked() {
	if p.closed {
		return
	}
	now := p.core.now()
	s := &snapshot[T]{state: state{core: &p.core}, all: p.list}
	tiers, err := p.tiersLocked()
	s.err = err
	levels := make(map[uint8]*level, len(tiers))
	total := 0.0
	var reserve []*tier[T]
	use := func(l *level, t *tier[T], upTo uint64) {
		s.levels = append(s.levels, share{l, upTo, len(s.endpoints)})
		s.endpoints = append(s.endpoints, t.picked()...)
	}
	for _, t := range tiers {
		l := p.levelLocked(t.priority, t.picked(), t.usable, now)
		levels[t.priority] = l
		if t.part == 0 {
			reserve = append(reserve, t)
			continue
		}
		total += t.part
		upTo := uint64(math.MaxUint64)
		if total < 1-1e-9 {
			upTo = uint64(total * (1 << 32) * (1 << 32))
		}
		use(l, t, upTo)
	}
	s.used = len(s.levels)
	s.available = len(s.endpoints)
	for _, t := range reserve {
		use(levels[t.priority], t, 0)
	}
	if s.used == 1 {
		s.picker, s.view = s.levels[0].picker, View{s.levels[0].list}
	}
	if p.core.timed {
		hosts := make([]*host, len(s.endpoints))
		for i, e := range s.endpoints {
			hosts[i] = e.h
		}
		p.core.measured.Store(&hosts)
	}

	// Whoever a new list has is opened before it is published, and who is to have no more requests is
	// closed after: so nobody who finds a host closed finds the same list again and again. Those that
	// are only unhealthy are not closed: who picks them now has begun before.
	for _, e := range s.endpoints {
		e.h.word.And(^uint64(closed))
	}
	p.snap.Store(s)
	p.previous = levels
	p.policyErr = nil
	for _, l := range levels {
		if l.err != nil {
			p.policyErr = l.err
		}
	}
	for _, e := range p.list {
		if e.h.draining || e.Weight == 0 {
			e.h.word.Or(closed)
		}
	}
	for _, h := range p.hosts {
		h.countsLocked() // now and then
		if !h.member {
			h.word.Or(closed)
			h.freeLocked()
		}
	}
	p.built = p.core.now()
	p.took = p.built - now
	p.armLocked(p.built)
}

// restLocked returns how long changes that nobody waits for, by checks, errors or time, are left
// alone after a snapshot: not at all, but where one takes more than a millisecond. Then many changes
// become one, and no more than about a tenth of a CPU goes into it. With few endpoints, it does not
// take so long by itself.
func (p *Pool[T]) restLocked() int64 {
	if p.took < int64(time.Millisecond) || len(p.list) < 32 {
		return 0
	}
	return min(9*p.took, int64(time.Second))
}

// changedLocked makes a snapshot for what has changed by itself, or has tick do it.
func (p *Pool[T]) changedLocked() {
	now := p.core.now()
	if at := p.built + p.restLocked(); now < at {
		p.setTimerLocked(at, now)
		return
	}
	p.rebuildLocked()
}

// tiersLocked returns the tiers with what parts of the requests they get, or why there are none.
func (p *Pool[T]) tiersLocked() ([]*tier[T], error) {
	byPriority := make(map[uint8]*tier[T])
	var tiers []*tier[T]
	draining, healthy := 0, 0
	for _, e := range p.list {
		if e.h.draining {
			draining++
		}
		if e.h.draining || e.Weight == 0 {
			continue
		}
		t := byPriority[e.Priority]
		if t == nil {
			t = &tier[T]{priority: e.Priority}
			byPriority[e.Priority] = t
			tiers = append(tiers, t)
		}
		t.usable = append(t.usable, e)
		if !e.h.down && !e.h.ejected {
			t.healthy = append(t.healthy, e)
			healthy++
		}
	}
	switch {
	case len(p.list) == 0:
		p.panicLocked(nil)
		return nil, ErrNoEndpoints
	case draining == len(p.list):
		p.panicLocked(nil)
		return nil, ErrDraining
	case len(tiers) == 0:
		p.panicLocked(nil)
		return nil, ErrNoWeight
	}
	slices.SortFunc(tiers, func(a, b *tier[T]) int { return int(a.priority) - int(b.priority) })
	left := 1.0
	for _, t := range tiers {
		t.part = min(left, overProvision*float64(len(t.healthy))/float64(len(t.usable)))
		left -= t.part
	}
	if left < 1e-9 {
		left = 0
	}
	if left > 0 && left < 1 {
		for _, t := range tiers {
			t.part /= 1 - left // what is there is too little, and gets everything
		}
	}
	if healthy == 0 && p.config.PanicThreshold > 0 {
		tiers[0].part = 1
	}
	for _, t := range tiers {
		// By division, as 7 of 25 are 0.28, but 0.28 · 25 is more than 7. Who has no part gives no
		// requests to anybody.
		t.panics = left > 0 && t.part > 0 && float64(len(t.healthy))/float64(len(t.usable)) < p.config.PanicThreshold
	}
	p.panicLocked(tiers)
	if healthy == 0 && !tiers[0].panics {
		return nil, ErrAllUnhealthy
	}
	// Who has no part and nobody to pick has no level.
	return slices.DeleteFunc(tiers, func(t *tier[T]) bool { return len(t.healthy) == 0 && !t.panics }), nil
}

// panicLocked tells who panics, and who no longer does.
func (p *Pool[T]) panicLocked(tiers []*tier[T]) {
	now := make(map[uint8]bool)
	for _, t := range tiers {
		if t.panics {
			now[t.priority] = true
		}
	}
	if len(now)+len(p.panicked) == 0 {
		return
	}
	for priority := range math.MaxUint8 + 1 {
		switch k := uint8(priority); {
		case now[k] && !p.panicked[k]:
			p.emitLocked(Event{Kind: Panicked, Priority: k})
		case !now[k] && p.panicked[k]:
			p.emitLocked(Event{Kind: PanicEnded, Priority: k})
		}
	}
	p.panicked = now
}

// levelLocked returns the level for those endpoints: the one before, if nothing has changed.
func (p *Pool[T]) levelLocked(priority uint8, use, usable []*endpoint[T], now int64) *level {
	l := &list{core: &p.core, members: make([]member, len(use)), infos: make([]info, len(use)), zones: make(map[string]int), even: true}
	for _, e := range usable {
		l.zones[e.Zone]++
	}
	for i, e := range use {
		ramp := p.rampOf(e.h, now)
		l.infos[i] = info{e.ID, e.Zone, e.Weight, ramp}
		l.members[i] = member{e.h, rampUnit / (float64(e.Weight) * float64(ramp))}
		l.even = l.even && ramp == rampUnit
	}
	prev := p.previous[priority]
	if prev != nil && slices.Equal(prev.list.infos, l.infos) && slices.Equal(prev.list.members, l.members) && equalZones(prev.list.zones, l.zones) {
		return prev
	}
	var picker Picker
	if prev != nil {
		picker = prev.made
	}
	next := &level{list: l}
	next.made, next.err = p.build(View{l}, picker)
	if next.picker = next.made; next.err != nil {
		next.made, next.picker = nil, twoPolicy{}.Build(View{l}, nil)
		p.emitLocked(Event{Kind: PolicyFailed, Priority: priority, Err: next.err})
	}
	return next
}

// build has the Policy make a Picker. If it panics, or returns none, requests go by PowerOfTwoChoices
// until the next change: that is better than no requests at all.
func (p *Pool[T]) build(v View, prev Picker) (made Picker, err error) {
	defer func() {
		if r := recover(); r != nil {
			made, err = nil, fmt.Errorf("loadbalance: Build panicked: %v", r)
		}
	}()
	if made = p.config.Policy.Build(v, prev); made == nil {
		err = errNoPicker
	}
	return made, err
}

var errNoPicker = errors.New("loadbalance: Build has returned no Picker")

func equalZones(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}

// rampOf returns how far a slow start is, in steps.
func (p *Pool[T]) rampOf(h *host, now int64) uint8 {
	if !h.ramping {
		return rampUnit
	}
	step := 1 + (now-h.rampSince)*(rampUnit-1)/int64(p.config.SlowStart)
	if step >= rampUnit {
		h.ramping = false
		return rampUnit
	}
	return uint8(max(1, step))
}

// rampLocked begins a slow start.
func (p *Pool[T]) rampLocked(h *host) {
	if p.config.SlowStart > 0 {
		h.ramping, h.rampSince = true, p.core.now()
	}
}

// armLocked sets the timer for what is due next.
func (p *Pool[T]) armLocked(now int64) {
	next := int64(math.MaxInt64)
	for _, e := range p.list {
		if e.h.ramping {
			step := int64(p.rampOf(e.h, now))
			next = min(next, e.h.rampSince+(step*int64(p.config.SlowStart)+rampUnit-2)/(rampUnit-1))
		}
		if e.h.ejected {
			next = min(next, e.h.ejectedTo)
		}
	}
	if p.core.rates || p.core.outlier && p.decayingLocked() {
		next = min(next, p.evalAt)
	}
	if next < math.MaxInt64 {
		next = max(next, now+p.restLocked())
	}
	p.setTimerLocked(next, now)
}
