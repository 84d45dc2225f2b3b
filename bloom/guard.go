package bloom

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/notfound"
)

// ErrNotFound is what Guard.Get returns for a key that is not in the store, and what a load function
// returns, or wraps, for one. All packages of this module that load values export the same
// error under this name.
var ErrNotFound = notfound.Err

// ErrRebuilding is in the error of Rebuild while another one is under way.
var ErrRebuilding = errors.New("a rebuild is under way")

// A Guard stands in front of a store and keeps requests for absent keys from it: whoever asks
// for keys that do not exist, by mistake or to do harm, reaches the store with only Config.FPR of
// them. A key that is in the store is never refused, if these rules are kept:
//
//   - Before a row becomes visible in the store, its key is admitted, by Admit, not more than
//     AdmitGrace before.
//   - When the process starts, and later from time to time, Rebuild is given all keys of the store.
//     Until the first has succeeded, the Guard fails open: it lets every key pass.
//   - If others write to the store as well, each process must admit a key before any of them makes its
//     row visible. Whenever that is not sure, FailOpen is called before rows may appear that were not
//     admitted here, and Rebuild when that is over.
//   - A cache in front of the Guard that remembers that a key is absent, as ttlcache does with
//     NegativeTTL, is told when the row is there: by Invalidate, after the commit.
//
// Keys that are deleted from the store pass until the next Rebuild, or the one after if they were
// admitted lately.
//
// Config.N is how many keys the store has, roughly: the filters grow with it (see Scalable), and a
// Rebuild makes the next one larger if it finds more. At 1 % it takes 13 or 14 bits for each key of
// the store, as much again during a Rebuild, and 17 to 60 for each key that was admitted since the
// Rebuild before the last, or AdmitGrace before. Config.MaxBytes is for each of up to five
// filters: the one of the last Rebuild, the one being made, and three for what was admitted.
//
// A Guard is safe for concurrent use by multiple goroutines. A key whose Admit has returned
// passes every Get that begins after that, until a Rebuild that begins AdmitGrace later, or after that,
// has not found it in the store. The zero value cannot be used.
type Guard[K, V any] struct {
	state   atomic.Pointer[guardState[K]]
	mu      sync.Mutex // held by who replaces state
	busy    bool       // a Rebuild is under way, guarded by mu
	config  Config[K]
	begun   time.Time // when recent[0] of state was put there, guarded by mu
	opened  uint64    // calls of FailOpen, guarded by mu
	rebuilt uint64    // successful calls of Rebuild, guarded by mu

	_        [128]byte // the line of state is read by everybody, these are written
	admitted atomic.Uint64
	_        [120]byte
	passed   atomic.Uint64
	_        [120]byte
	refused  atomic.Uint64
	_        [120]byte
	notFound atomic.Uint64
	_        [120]byte
}

// A guardState is what Get looks at. It is never changed, but replaced.
//
// base has the keys of the last successful Rebuild, and recent what was admitted, the latest first.
// When a Rebuild begins, a new recent filter is put in front, from which time on keys are admitted
// there, unless the last one was put there less than AdmitGrace before, or there are three. When
// the Rebuild has succeeded, all but the first two are dropped. What is dropped then was admitted
// before the second was put there, and so more than AdmitGrace before the first was, and the scan
// began: its row was visible by then, if it was to become visible, and the scan has seen it. A
// Rebuild that fails drops nothing.
type guardState[K any] struct {
	base   *Scalable[K] // nil before the first Rebuild
	recent []*Scalable[K]
	open   bool
}

// AdmitGrace is how long after the call of Admit a row may become visible in the store.
const AdmitGrace = 5 * time.Minute

// The parts of the FPR: the sum over base and three of recent is 1.
const (
	guardBaseShare   = 0.7
	guardRecentShare = 0.1
)

// NewGuard returns a Guard that fails open, until Rebuild. It returns an error if c is not valid,
// or the filters would be larger than c.MaxBytes.
func NewGuard[K, V any](c Config[K]) (*Guard[K, V], error) {
	if err := c.check("Guard", scalableLeastFPR/guardRecentShare); err != nil {
		return nil, err
	}
	g := &Guard[K, V]{config: c}
	// The base is made only to see that it can be.
	if _, err := g.newBase(c.N); err != nil {
		return nil, err
	}
	first, err := g.newRecent()
	if err != nil {
		return nil, err
	}
	g.state.Store(&guardState[K]{recent: []*Scalable[K]{first}, open: true})
	g.begun = time.Now()
	return g, nil
}

// newBase returns an empty filter for n keys.
func (g *Guard[K, V]) newBase(n uint64) (*Scalable[K], error) {
	c := g.config
	c.N, c.FPR = n, c.FPR*guardBaseShare
	return NewScalable(c)
}

// newRecent returns an empty filter for what is admitted, which grows.
func (g *Guard[K, V]) newRecent() (*Scalable[K], error) {
	c := g.config
	c.N, c.FPR = max(min(c.N, 256), c.N/32), c.FPR*guardRecentShare
	return NewScalable(c)
}

// Get returns what load returns, or ErrNotFound, without calling load, if k is certainly not in the
// store. load is called with ctx, on the caller's goroutine, without any lock; its error is
// returned as it is.
func (g *Guard[K, V]) Get(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	s := g.state.Load()
	if !s.pass(k) {
		g.refused.Add(1)
		var none V
		return none, ErrNotFound
	}
	g.passed.Add(1)
	v, err := load(ctx, k)
	if err != nil && !s.open && errors.Is(err, ErrNotFound) {
		g.notFound.Add(1)
	}
	return v, err
}

// Guarded returns a function that is Get with load: what a cache can be given to load with. With
// ttlcache, V is its Entry.
func (g *Guard[K, V]) Guarded(load func(context.Context, K) (V, error)) func(context.Context, K) (V, error) {
	return func(ctx context.Context, k K) (V, error) { return g.Get(ctx, k, load) }
}

// Contains reports whether Get would let k pass.
func (g *Guard[K, V]) Contains(k K) bool { return g.state.Load().pass(k) }

// pass reports whether k may be in the store.
func (s *guardState[K]) pass(k K) bool {
	if s.open {
		return true
	}
	h := s.base.hash.hash(k)
	if s.base.ContainsHash(h) {
		return true
	}
	for _, f := range s.recent {
		if f.ContainsHash(h) {
			return true
		}
	}
	return false
}

// Admit lets k pass from now on. Call it before the row becomes visible to others, before the
// transaction is committed that is; if the transaction then fails, one more absent key passes,
// and nothing else happens.
func (g *Guard[K, V]) Admit(k K) {
	g.admitted.Add(1)
	for s := g.state.Load(); ; {
		s.recent[0].Add(k)
		// A Rebuild that began meanwhile, and succeeded, and another one after it, may have
		// dropped the filter that k went to.
		now := g.state.Load()
		if now == s {
			return
		}
		s = now
	}
}

// Rebuild makes a new filter of all keys of the store, and puts it in the place of the old one. keys
// is a scan of the store that begins when it is called, and yields an error if it cannot go on: then
// the new filter is dropped, Rebuild returns the error, wrapped, and everything is as before. So it
// is when ctx ends, or keys panics. Requests go on meanwhile, by the old filter. Keys that are
// admitted meanwhile, or were within AdmitGrace before, pass afterwards too, although the scan may
// have missed them.
//
// While one Rebuild is under way, the error of another one wraps ErrRebuilding.
func (g *Guard[K, V]) Rebuild(ctx context.Context, keys iter.Seq2[K, error]) error {
	if keys == nil {
		return errors.New("bloom: keys of Rebuild must not be nil")
	}
	opened, err := g.begin()
	if err != nil {
		return err
	}
	defer func() {
		g.mu.Lock()
		g.busy = false
		g.mu.Unlock()
	}()
	base, err := g.scan(ctx, keys)
	if err != nil {
		return err
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.state.Load()
	g.rebuilt++
	// FailOpen since the beginning means that the scan may have missed something.
	g.state.Store(&guardState[K]{base: base, recent: slices.Clone(s.recent[:min(len(s.recent), 2)]), open: g.opened != opened})
	return nil
}

// begin starts a rebuild: from now on what is admitted goes to a filter that will stay.
func (g *Guard[K, V]) begin() (opened uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy {
		return 0, fmt.Errorf("bloom: Rebuild: %w", ErrRebuilding)
	}
	s := g.state.Load()
	if len(s.recent) < 3 && time.Since(g.begun) > AdmitGrace {
		fresh, err := g.newRecent()
		if err != nil {
			return 0, err
		}
		g.state.Store(&guardState[K]{base: s.base, recent: append([]*Scalable[K]{fresh}, s.recent...), open: s.open})
		g.begun = time.Now() // not before it is there
	}
	g.busy = true
	return g.opened, nil
}

// scan returns a filter of all keys.
func (g *Guard[K, V]) scan(ctx context.Context, keys iter.Seq2[K, error]) (*Scalable[K], error) {
	n := g.config.N
	if s := g.state.Load(); s.base != nil {
		n = max(n, s.base.Len()+s.base.Len()/8)
	}
	// If that many do not fit, as many as do are better than several stages.
	fits := func(n uint64) bool {
		units := lanesUnits(n, g.config.FPR*guardBaseShare*(1-tightening), 1<<52, blockLanes, blockWidth)
		return units*blockBytes <= float64(g.config.MaxBytes)
	}
	if !fits(n) {
		low, high := g.config.N, n // fits, does not
		for high-low > 1 {
			if mid := low + (high-low)/2; fits(mid) {
				low = mid
			} else {
				high = mid
			}
		}
		n = low
	}
	base, err := g.newBase(n)
	if err != nil {
		return nil, err
	}
	seen := 0
	for k, err := range keys {
		if err == nil && seen%1024 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("bloom: Rebuild ended after %d keys: %w", seen, err)
		}
		base.Add(k)
		seen++
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("bloom: Rebuild ended after %d keys: %w", seen, err)
	}
	return base, nil
}

// FailOpen lets every key pass until a Rebuild that begins after this call has succeeded. It is to
// be called before rows may become visible whose keys were not admitted here: when the connection
// is lost, say, by which other processes announce theirs and wait for the answer.
func (g *Guard[K, V]) FailOpen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened++
	s := g.state.Load()
	g.state.Store(&guardState[K]{base: s.base, recent: s.recent, open: true})
}

// Open reports whether the Guard lets every key pass: because no Rebuild has succeeded yet, or
// since FailOpen.
func (g *Guard[K, V]) Open() bool { return g.state.Load().open }

// Saturated reports whether one of the filters has more keys than fit into Config.MaxBytes at
// Config.FPR: then more absent keys pass. See EstimatedFPR.
func (g *Guard[K, V]) Saturated() bool {
	s := g.state.Load()
	for _, f := range s.recent {
		if f.Saturated() {
			return true
		}
	}
	return s.base != nil && s.base.Saturated()
}

// GuardStats counts what a Guard has done since it was made.
type GuardStats struct {
	Admitted uint64 // calls of Admit
	Passed   uint64 // calls of Get that called load
	Refused  uint64 // calls of Get that did not
	NotFound uint64 // of those that passed, while it was not open, those for which load returned ErrNotFound
	Rebuilds uint64 // calls of Rebuild that succeeded
}

// AbsentRatio returns the share of the requests for absent keys that reached the store: about
// Config.FPR when all is well, and more as rows are deleted. It is 0 before the first one.
func (s GuardStats) AbsentRatio() float64 {
	if s.NotFound == 0 {
		return 0
	}
	return float64(s.NotFound) / (float64(s.NotFound) + float64(s.Refused))
}

// Stats returns the counts. They are read one after the other, while others may go on counting.
func (g *Guard[K, V]) Stats() GuardStats {
	g.mu.Lock()
	rebuilt := g.rebuilt
	g.mu.Unlock()
	return GuardStats{
		Admitted: g.admitted.Load(),
		Passed:   g.passed.Load(),
		Refused:  g.refused.Load(),
		NotFound: g.notFound.Load(),
		Rebuilds: rebuilt,
	}
}

// EstimatedFPR returns the share of the absent keys that pass now, computed from the bits that are
// set; 1 while every key passes. It takes time in proportion to the size.
func (g *Guard[K, V]) EstimatedFPR() float64 {
	s := g.state.Load()
	if s.open {
		return 1
	}
	none := 1 - s.base.EstimatedFPR()
	for _, f := range s.recent {
		none *= 1 - f.EstimatedFPR()
	}
	return 1 - none
}
