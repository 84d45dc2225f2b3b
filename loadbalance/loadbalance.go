package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An Endpoint is something that requests can be sent to.
type Endpoint[T any] struct {
	ID    string // distinguishes it; not empty
	Value T      // what a pick is for: an address, a URL, a client

	// Weight is its share of the requests, in proportion to the other endpoints' weights, with the policies
	// that go by weights. With all policies, 0, which is also what a forgotten Weight is, means that it is
	// given no requests.
	Weight uint32
	// Zone is where it is, for PreferZone. "" is a zone like the others.
	Zone string
	// Priority is the level it belongs to. Those of level 0 get all requests, as long as at
	// least 1/1.4 of them are healthy; then the next levels get what these are too few for.
	Priority uint8
}

// MaxEndpoints is how many endpoints a Pool can have.
const MaxEndpoints = 1 << 16

// A Config configures a Pool.
type Config[T any] struct {
	_ struct{}

	// Policy chooses among the endpoints that can be used. nil: PowerOfTwoChoices().
	Policy Policy
	// Endpoints are those to begin with. Others can be set later.
	Endpoints []Endpoint[T]
	// Zone is where the callers are, for PreferZone; Zone of a Request overrides it.
	Zone string

	// Health asks endpoints whether they are well. The zero value asks nobody.
	Health HealthConfig[T]
	// Outlier ejects endpoints whose requests fail. The zero value ejects nobody.
	Outlier OutlierConfig
	// SlowStart is how long an endpoint that is added to others, or is healthy again, takes to come to its
	// full share: it begins with a sixteenth. At most a day. 0: it has its full share at once.
	SlowStart time.Duration
	// PanicThreshold is the share of healthy endpoints, from 0 to 1, below which nothing is believed:
	// requests go to all endpoints but draining ones, as it is more likely that the checks are wrong,
	// and few endpoints cannot do the work of all. It holds for each Priority, when not enough are
	// healthy in all levels together. A common value is 0.5. 0: never, and when all are unhealthy, Pick
	// returns ErrAllUnhealthy.
	PanicThreshold float64
	// LatencyHalfLife is the time in which half of what is known of an endpoint's latency is forgotten,
	// with a LatencyPolicy. From 10 ms to 1 h; 0: 5 s.
	LatencyHalfLife time.Duration

	// Resolve finds the endpoints, every ResolveEvery; see DNS. What it finds is set as by Set: so what
	// Add, Remove and SetWeight have changed is undone, but an endpoint that is draining, and is found
	// again, is still draining. nil: they are as they were set.
	Resolve Resolver[T]
	// ResolveEvery is the time between two calls of Resolve, at least 10 ms. 0: 30 s.
	ResolveEvery time.Duration

	// OnEvent is called for each change of an endpoint's state, in their order, one at a time, and
	// outside of all locks, by the goroutine whose call has changed it, or another that does so at the
	// same time. It must not call Close. nil: nothing is called.
	OnEvent func(Event)
	// Seed makes the random choices repeatable, if calls come one after the other: for tests and
	// simulations. It makes picks of several CPUs slower. 0: they differ in each Pool.
	Seed uint64
}

// Errors that callers can tell apart with errors.Is.
var (
	// ErrUnavailable is in all errors of Pick: there is nowhere to send the request now.
	ErrUnavailable = errors.New("loadbalance: no endpoint is available")
	// ErrNoEndpoints is for a Pool that has none.
	ErrNoEndpoints = fmt.Errorf("%w: there are none", ErrUnavailable)
	// ErrNoWeight is for a Pool with no endpoint that has weight and is not draining.
	ErrNoWeight = fmt.Errorf("%w: none that is not draining has weight", ErrUnavailable)
	// ErrDraining is for a Pool whose endpoints are all draining.
	ErrDraining = fmt.Errorf("%w: all are draining", ErrUnavailable)
	// ErrAllUnhealthy is for a Pool whose endpoints are all unhealthy or ejected.
	ErrAllUnhealthy = fmt.Errorf("%w: all are unhealthy", ErrUnavailable)
	// ErrTried is for a Request that has been tried with all endpoints that are available.
	ErrTried = fmt.Errorf("%w: all others have been tried", ErrUnavailable)
	// ErrClosed is for a Pool that has been closed.
	ErrClosed = fmt.Errorf("%w: the Pool is closed", ErrUnavailable)

	// ErrDuplicate is in the error of giving two endpoints the same ID.
	ErrDuplicate = errors.New("ID is there already")
	// ErrUnknown is in the error of changing, draining or removing an endpoint that is not there.
	ErrUnknown = errors.New("no endpoint has this ID")
	// ErrResumed is in the error of draining an endpoint that is used again before it is empty.
	ErrResumed = errors.New("it is used again")
	// errPolicy is for a Picker that returns what is no index.
	errPolicy = fmt.Errorf("%w: the Picker returned no index of an endpoint", ErrUnavailable)
)

// A Pool balances requests over endpoints.
//
// A Pool is safe for concurrent use by multiple goroutines. Picks take no lock, and go by the endpoints and
// their health as they were at some moment of the call; once Remove or Drain has marked an endpoint, no
// pick that begins returns it. A Pool starts goroutines only if Health has a Check, or
// there is a Resolver; and timers for slow starts and ejections. Then Close must be called. The zero
// value cannot be used.
type Pool[T any] struct {
	config Config[T]
	core   core
	snap   atomic.Pointer[snapshot[T]]

	mu        sync.Mutex
	list      []*endpoint[T]   // in order of ID
	hosts     map[string]*host // by ID: of all endpoints, and of others with requests in flight
	previous  map[uint8]*level // by priority
	panicked  map[uint8]bool
	begun     bool // there has been an endpoint
	closed    bool
	timer     *time.Timer // calls tick
	timerAt   int64       // when; 0: it is not set
	evalAt    int64       // when success rates are evaluated next
	checkers  map[string]context.CancelFunc
	resolved  resolution
	built     int64 // when the last snapshot was ready
	took      int64 // how long it took to make
	policyErr error // of the last Build that panicked

	stop    context.CancelFunc
	stopped context.Context
	running sync.WaitGroup
	events  notices[Event]
}

// An endpoint is one of a set. It is never changed.
type endpoint[T any] struct {
	Endpoint[T]
	h *host
}

// New returns a Pool. It returns an error if a field of the Config is out of range, or the Endpoints
// are not valid.
func New[T any](c Config[T]) (*Pool[T], error) {
	if c.Policy == nil {
		c.Policy = PowerOfTwoChoices()
	}
	if c.LatencyHalfLife == 0 {
		c.LatencyHalfLife = 5 * time.Second
	}
	if c.ResolveEvery == 0 {
		c.ResolveEvery = 30 * time.Second
	}
	switch {
	case c.SlowStart < 0 || c.SlowStart > 24*time.Hour:
		return nil, fmt.Errorf("loadbalance: SlowStart must be between 0 and 24h, got %v", c.SlowStart)
	case !(c.PanicThreshold >= 0 && c.PanicThreshold <= 1):
		return nil, fmt.Errorf("loadbalance: PanicThreshold must be between 0 and 1, got %v", c.PanicThreshold)
	case c.LatencyHalfLife < 10*time.Millisecond || c.LatencyHalfLife > time.Hour:
		return nil, fmt.Errorf("loadbalance: LatencyHalfLife must be between 10ms and 1h, got %v", c.LatencyHalfLife)
	case c.ResolveEvery < 10*time.Millisecond:
		return nil, fmt.Errorf("loadbalance: ResolveEvery must be at least 10ms, got %v", c.ResolveEvery)
	}
	var err error
	if c.Health, err = c.Health.checked(); err != nil {
		return nil, err
	}
	if c.Outlier, err = c.Outlier.checked(); err != nil {
		return nil, err
	}
	p := &Pool[T]{
		config:   c,
		hosts:    make(map[string]*host),
		previous: make(map[uint8]*level),
		panicked: make(map[uint8]bool),
		checkers: make(map[string]context.CancelFunc),
	}
	p.config.Endpoints = nil // which belong to the caller
	p.stopped, p.stop = context.WithCancel(context.Background())
	k := &p.core
	k.start, k.zone = time.Now(), c.Zone
	if k.seeded = c.Seed != 0; k.seeded {
		k.seed.Store(c.Seed)
	}
	if l, ok := c.Policy.(LatencyPolicy); ok {
		k.timed = l.UsesLatency()
	}
	if t, ok := c.Policy.(TotalPolicy); ok {
		k.counted = t.UsesTotal()
	}
	k.outlier = c.Outlier.enabled()
	k.rates = c.Outlier.SuccessRateFactor > 0
	k.consecutive = uint32(c.Outlier.ConsecutiveErrors)
	k.perHalfLife = (1 << ewmaShift) / float64(c.LatencyHalfLife)
	k.emptied, k.tooMany = p.emptied, p.tooMany
	p.evalAt = k.now() + int64(c.Outlier.Interval)
	p.snap.Store(&snapshot[T]{state: state{core: k, err: ErrNoEndpoints}})
	if _, err := p.Set(c.Endpoints); err != nil {
		p.stop()
		return nil, err
	}
	if c.Resolve != nil {
		p.running.Go(p.resolve)
	}
	return p, nil
}

// A Diff is what Set has changed: IDs, in order.
type Diff struct {
	Added   []string // that were not there before
	Removed []string // that are no longer there
	Changed []string // in Weight, Zone or Priority; values are not compared
}

// Set replaces the endpoints. What is known of those that stay, by their IDs, is kept: requests in flight,
// latency, health, and whether they are draining. It returns an error, and changes
// nothing, if an ID is empty or there twice (ErrDuplicate), there are more than MaxEndpoints, or the Policy
// cannot work with them. It takes O(n log n), and what the Policy takes.
func (p *Pool[T]) Set(endpoints []Endpoint[T]) (Diff, error) {
	next := sorted(endpoints)
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	return p.setLocked(next)
}

// sorted returns a copy of endpoints in the order of their IDs.
func sorted[T any](endpoints []Endpoint[T]) []Endpoint[T] {
	s := slices.Clone(endpoints)
	slices.SortStableFunc(s, func(a, b Endpoint[T]) int { return strings.Compare(a.ID, b.ID) })
	return s
}

// Add adds an endpoint. It returns an error if its ID is there already (ErrDuplicate), and otherwise as
// Set.
func (p *Pool[T]) Add(e Endpoint[T]) error {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	next := p.endpointsLocked()
	i, found := p.findLocked(e.ID)
	if found {
		return fmt.Errorf("loadbalance: endpoint %q: %w", e.ID, ErrDuplicate)
	}
	_, err := p.setLocked(slices.Insert(next, i, e))
	return err
}

// Remove removes an endpoint, and does not wait for the requests in flight there; see Drain. If it is
// added again before they have ended, they still count. It returns an error if there is none with that
// ID (ErrUnknown).
func (p *Pool[T]) Remove(id string) error {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	next := p.endpointsLocked()
	i, found := p.findLocked(id)
	if !found {
		return fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrUnknown)
	}
	_, err := p.setLocked(slices.Delete(next, i, i+1))
	return err
}

// SetWeight changes the weight of an endpoint. It returns an error if there is none with that ID
// (ErrUnknown), or the Policy cannot work with the weight.
func (p *Pool[T]) SetWeight(id string, weight uint32) error {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	next := p.endpointsLocked()
	i, found := p.findLocked(id)
	if !found {
		return fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrUnknown)
	}
	next[i].Weight = weight
	_, err := p.setLocked(next)
	return err
}

// Drain gives no more requests to an endpoint, and waits until none is in flight there. Then it can be
// removed, or, with Resume, be used again. It returns an error if there is none with that ID
// (ErrUnknown), ctx ends before, which leaves it draining, or it is used again before (ErrResumed).
func (p *Pool[T]) Drain(ctx context.Context, id string) error {
	d, h, err := p.drain(id)
	if err != nil || d == nil {
		return err
	}
	select {
	case <-d.over:
	case <-ctx.Done():
		select {
		case <-d.over:
		default:
			return fmt.Errorf("loadbalance: %d requests are in flight at %q: %w", h.inFlight(), id, context.Cause(ctx))
		}
	}
	return d.err
}

// drain has an endpoint drain. It returns nil if nothing is in flight there.
func (p *Pool[T]) drain(id string) (*drain, *host, error) {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	i, found := p.findLocked(id)
	if !found {
		return nil, nil, fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrUnknown)
	}
	h := p.list[i].h
	if !h.draining {
		h.draining = true
		p.emitLocked(Event{Kind: Draining, ID: id})
		p.rebuildLocked()
	}
	if h.drain == nil {
		h.drain = &drain{over: make(chan struct{})}
		h.waited.Store(true) // before what is in flight is read: so who ends the last sees it
	}
	d := h.drain
	h.freeLocked()
	return d, h, nil
}

// freeLocked ends the calls of Drain that wait, if nothing is in flight. The host must be closed, so that
// this is for good; if something is, who leaves last finds it in emptied.
func (h *host) freeLocked() {
	if h.drain != nil && h.inFlight() == 0 {
		h.overLocked(nil)
	}
}

// overLocked ends the calls of Drain that wait.
func (h *host) overLocked(err error) {
	if h.drain != nil {
		h.waited.Store(false)
		h.drain.err = err
		close(h.drain.over)
		h.drain = nil
	}
}

// emptied is called when the last request at a closed host has ended.
func (p *Pool[T]) emptied(h *host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.word.Load()&closed != 0 {
		h.freeLocked()
	}
}

// Resume gives requests to an endpoint that was draining, with a slow start. Calls of Drain that wait
// return ErrResumed. It returns an error if there is none with that ID (ErrUnknown).
func (p *Pool[T]) Resume(id string) error {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	i, found := p.findLocked(id)
	if !found {
		return fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrUnknown)
	}
	if h := p.list[i].h; h.draining {
		h.draining = false
		h.overLocked(fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrResumed))
		p.rampLocked(h)
		p.emitLocked(Event{Kind: Resumed, ID: id})
		p.rebuildLocked()
	}
	return nil
}

// Endpoints returns the endpoints, in the order of their IDs.
func (p *Pool[T]) Endpoints() []Endpoint[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endpointsLocked()
}

func (p *Pool[T]) endpointsLocked() []Endpoint[T] {
	all := make([]Endpoint[T], len(p.list), len(p.list)+1)
	for i, e := range p.list {
		all[i] = e.Endpoint
	}
	return all
}

func (p *Pool[T]) findLocked(id string) (int, bool) { return find(p.list, id) }

// find returns the index of the endpoint with that ID in a list in order of ID, or where it would be.
func find[T any](list []*endpoint[T], id string) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(e *endpoint[T], id string) int { return strings.Compare(e.ID, id) })
}

// setLocked makes next the set of endpoints; it is in order of ID.
func (p *Pool[T]) setLocked(next []Endpoint[T]) (Diff, error) {
	if p.closed {
		return Diff{}, ErrClosed
	}
	if err := p.check(next); err != nil {
		return Diff{}, err
	}
	var d Diff
	list := make([]*endpoint[T], len(next))
	for i, e := range next {
		h := p.hosts[e.ID]
		if h == nil {
			h = &host{core: &p.core, id: e.ID}
			p.hosts[e.ID] = h
		}
		list[i] = &endpoint[T]{e, h}
		if j, found := p.findLocked(e.ID); found {
			if old := p.list[j]; old.Weight != e.Weight || old.Zone != e.Zone || old.Priority != e.Priority {
				d.Changed = append(d.Changed, e.ID)
			}
			continue
		}
		d.Added = append(d.Added, e.ID)
		h.forgetLocked() // what ended while it was gone
		h.overLocked(fmt.Errorf("loadbalance: endpoint %q: %w", e.ID, ErrResumed))
		h.member = true
		h.down = p.config.Health.StartDown && p.config.Health.Check != nil
		if p.begun {
			p.rampLocked(h)
		}
		p.emitLocked(Event{Kind: Added, ID: e.ID})
	}
	old := p.list
	p.list = list
	p.begun = p.begun || len(list) > 0
	for _, e := range old {
		if _, found := p.findLocked(e.ID); found {
			continue
		}
		d.Removed = append(d.Removed, e.ID)
		e.h.forgetLocked()
		p.emitLocked(Event{Kind: Removed, ID: e.ID})
	}
	p.rebuildLocked()
	p.watchLocked(d)
	for id, h := range p.hosts {
		if !h.member && h.inFlight() == 0 && h.drain == nil {
			delete(p.hosts, id)
		}
	}
	return d, nil
}

// forgetLocked forgets the health of a host that is no longer one of the endpoints.
func (h *host) forgetLocked() {
	h.member, h.draining, h.down, h.checked, h.results, h.lastErr = false, false, false, false, 0, nil
	h.ejected, h.ejectedTo, h.ejections, h.ejectedIn = false, 0, 0, false
	h.ramping = false
	h.streak.Store(0)
	h.succeeded.Store(0)
	h.failed.Store(0)
}

// check returns an error if a set of endpoints in order of ID is not valid.
func (p *Pool[T]) check(next []Endpoint[T]) error {
	if len(next) > MaxEndpoints {
		return fmt.Errorf("loadbalance: there may be at most %d endpoints, got %d", MaxEndpoints, len(next))
	}
	for i := range next {
		if next[i].ID == "" {
			return errors.New("loadbalance: ID of an endpoint must not be empty")
		}
		if i > 0 && next[i].ID == next[i-1].ID {
			return fmt.Errorf("loadbalance: endpoint %q: %w", next[i].ID, ErrDuplicate)
		}
	}
	checker, ok := p.config.Policy.(Checker)
	if !ok {
		return nil
	}
	var ids []string
	var weights []uint32
	for _, e := range next {
		if e.Weight > 0 {
			ids, weights = append(ids, e.ID), append(weights, e.Weight)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return checker.Check(ids, weights)
}

// Pick chooses an endpoint for a request, which is in flight there until Done of the Lease is called.
// Its errors wrap ErrUnavailable. It takes no lock, and allocates nothing; how long it takes depends on
// the Policy.
func (p *Pool[T]) Pick(r Request) (Lease[T], error) {
	for {
		s := p.snap.Load()
		i, start, err := s.pick(r)
		if err != nil {
			return Lease[T]{}, err
		}
		if i >= 0 {
			return Lease[T]{e: s.endpoints[i], start: start}, nil
		}
		// The host was closed, so there is another snapshot, which does not have it.
	}
}

// PickID picks the endpoint with that ID, for sticky sessions. It returns an error that wraps
// ErrUnknown if there is none, and ErrUnavailable if it is given no requests now: then Pick another. It
// takes O(log n).
func (p *Pool[T]) PickID(id string) (Lease[T], error) {
	for {
		s := p.snap.Load()
		if s.err == ErrClosed {
			return Lease[T]{}, ErrClosed
		}
		e := s.find(id)
		if e == nil {
			if _, found := find(s.all, id); !found {
				return Lease[T]{}, fmt.Errorf("loadbalance: endpoint %q: %w", id, ErrUnknown)
			}
			return Lease[T]{}, fmt.Errorf("%w: %q is given no requests now", ErrUnavailable, id)
		}
		var now int64
		if p.core.timed {
			now = p.core.now()
		}
		if !e.h.enter() {
			continue // as in Pick
		}
		if p.core.counted {
			p.core.total.Add(1)
		}
		return Lease[T]{e: e, start: now}, nil
	}
}

// Choose is Pick in the form that other packages can name in an interface: it returns the value of an
// endpoint, and a function that must be called once with the error of the request, or nil.
func (p *Pool[T]) Choose(hash uint64) (T, func(error), error) {
	l, err := p.Pick(Request{Hash: hash})
	if err != nil {
		var zero T
		return zero, nil, err
	}
	held := &Lease[T]{e: l.e, start: l.start}
	return l.e.Value, func(err error) { held.Done(OutcomeOf(err)) }, nil
}

// Do calls f with the value of an endpoint that it picks, and ends the request when f returns, panics, or
// ends its goroutine. It returns f's error, from which OutcomeOf tells how the request ended, or that of
// Pick or ctx.
func (p *Pool[T]) Do(ctx context.Context, r Request, f func(context.Context, T) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := p.Pick(r)
	if err != nil {
		return err
	}
	outcome := ServerError // a panic
	defer func() { l.Done(outcome) }()
	err = f(ctx, l.Value())
	outcome = OutcomeOf(err)
	return err
}

// Close stops the goroutines and timers of the Pool, and waits for them; from then on Pick returns
// ErrClosed. Requests in flight can still end. It can be called more than once, but not by what the
// Pool calls.
func (p *Pool[T]) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.stop()
		if p.timer != nil {
			p.timer.Stop()
		}
		p.snap.Store(&snapshot[T]{state: state{core: &p.core, err: ErrClosed}})
		for _, e := range p.list {
			e.h.word.Or(closed)
			e.h.freeLocked()
		}
	}
	p.mu.Unlock()
	p.running.Wait()
}

// randomStart returns a place to start at, other in each Pool.
func (v View) randomStart(n int) uint64 {
	if c := v.l.core; c.seeded {
		return mix(c.seed.Load()) % uint64(n)
	}
	return uint64(rand.IntN(min(n, math.MaxInt32)))
}
