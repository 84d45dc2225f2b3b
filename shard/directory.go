package shard

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/clock"
	"github.com/sysblocks/sysblocks/internal/keylock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// A DirectoryConfig configures a Directory. Capacity is required.
type DirectoryConfig[K comparable] struct {
	_ struct{}

	// Capacity is the largest number of rows that the cache holds, from 1 to 2^31-1. Required. Memory is taken
	// as it is needed: 77 bytes for each row if K is a string, beside what that points to, and 69 if it
	// is an integer of 64 bits, in tables that are half full at least.
	Capacity int
	// NegativeCapacity is the number of keys, beside those, of which it is remembered that they do not
	// exist, up to 2^30; but one at least in each of the parts that the cache divides itself into, of 256
	// rows or more. A flood of such keys pushes out no rows. Their memory is kept until others take their
	// place, and holds what the keys point to: if strangers choose the keys, long strings among them
	// must be refused before, by Filter for example, or they take NegativeCapacity times their length.
	// 0: Capacity, or 65536 if that is less.
	NegativeCapacity int

	// TTL is how long a row is used after the store was asked for it. Then the next caller waits for the
	// store: so this is how long a key that has been moved, or deleted, by another process is routed
	// to where it was, unless Invalidate is told. Rows that are not Serving are used for RetryAfter, if
	// that is less, because they will change soon. 0: one minute.
	TTL time.Duration
	// NegativeTTL is how long it is remembered that a key does not exist: so long may a key that another
	// process has inserted be unknown. 0: one second; negative: not at all.
	NegativeTTL time.Duration
	// StaleFor is how long after its TTL a row is used while the store fails. 0: one hour; negative:
	// not at all.
	StaleFor time.Duration
	// RetryAfter is how long, after the store has failed for a key, its row is used without asking the
	// store again, and how long after it has hung it is not asked for any key. 0: one second.
	RetryAfter time.Duration

	// LoadTimeout is how long the store has for an answer: if it takes longer, it hangs; see Directory.
	// Callers wait for twice as long at the most, because keys may have to wait for other keys before the
	// store is asked. 0: five seconds.
	LoadTimeout time.Duration
	// MaxBatch is how many keys the store is asked for in one call. 0: 128.
	MaxBatch int
	// Concurrency is how many such calls are under way at the same time. Keys that are asked for when
	// there are so many go together into the next; nobody waits for others to come. 0: 4.
	Concurrency int

	// Filter, if not nil, is asked before the store is asked for a key. It may return false only if the
	// key certainly does not exist: then Route returns ErrNotFound, and nothing is remembered. A Bloom
	// filter of all keys fits. It is called outside any lock, by several goroutines at once.
	Filter func(K) bool
	// Admit, if not nil, is told of a key before its row is inserted, so that Filter lets it pass from
	// then on, even if nobody learns that the row was inserted. It is called outside any lock, by
	// several goroutines at once, also for keys that are then not inserted. Of the keys that other
	// processes insert, the program must tell the filter itself.
	Admit func(K)
}

// defaults of DirectoryConfig
const (
	dirDefaultTTL         = time.Minute
	dirDefaultNegativeTTL = time.Second
	dirDefaultStaleFor    = time.Hour
	dirDefaultRetryAfter  = time.Second
	dirDefaultLoadTimeout = 5 * time.Second
	dirDefaultMaxBatch    = 128
	dirDefaultConcurrency = 4
	dirDefaultNegatives   = 1 << 16
)

func (c *DirectoryConfig[K]) validate() error {
	for _, f := range []struct {
		name   string
		n      int
		lo, hi int
	}{
		{"Capacity", c.Capacity, 1, math.MaxInt32},
		{"NegativeCapacity", c.NegativeCapacity, 0, 1 << 30},
		{"MaxBatch", c.MaxBatch, 0, math.MaxInt32},
		{"Concurrency", c.Concurrency, 0, math.MaxInt32},
	} {
		if f.n < f.lo || f.n > f.hi {
			return fmt.Errorf("shard: %s must be between %d and %d, got %d", f.name, f.lo, f.hi, f.n)
		}
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"TTL", c.TTL},
		{"RetryAfter", c.RetryAfter},
		{"LoadTimeout", c.LoadTimeout},
	} {
		if f.d < 0 {
			return fmt.Errorf("shard: %s must be at least 0, got %v", f.name, f.d)
		}
	}
	return nil
}

// A Directory says where each key is by looking it up: in a cache, and if it is not there, in a
// DirectoryStore. Unlike a Locator it can place every key by itself, such as the tenants of a
// service, and a key can move alone. It is a Router.
//
// # Reading
//
// However many callers want a key that is not in the cache, the store is asked for it once. Each of them
// waits as long as his own context lets him; the store is asked on as long as somebody waits, or, if there
// is a row past its TTL, until LoadTimeout. What the store has answered is used for TTL, and that there
// is no such key for NegativeTTL. Then the next callers wait for the store again; if it fails, or takes
// longer than LoadTimeout, or than one of them has time, they are given what there was before, for
// StaleFor at the most, and the store is tried again after RetryAfter, by one caller for each key. Nobody
// is given anything stale while the store answers within the time of all who wait. Of keys that are not
// in the cache it is asked each time, but by no more than Concurrency calls at once.
//
// If the store does not answer within LoadTimeout, and has answered no other call meanwhile, it hangs.
// Then nobody waits for it: rows that are past their TTL are used at once, and keys without one are an
// error that wraps context.DeadlineExceeded. After RetryAfter one look-up tries the store again, until
// it is answered.
//
// The store may read from copies that lag behind. A row of an earlier epoch than that in the cache is
// taken for such, and is not used; after TTL and as long again, or StaleFor if that is less, it is,
// because the key may have been deleted, and inserted with a lower epoch. So copies must not lag behind
// for longer than TTL. That a key does not exist has no epoch, and is believed. What has left the cache,
// by Invalidate or for want of room, is not compared with.
//
// # Writing
//
// A key whose data is somewhere, and whose row is nowhere, is lost. A row without data is harmless. So the
// row comes before the data, and goes after it: Create and Remove keep to that order, and find out if others
// do something with the same key at the same time, in other processes too. They can be stopped at any
// moment, and tried again.
//
// Rows are written by Insert, Update and Delete too. What any of these has written is what Route returns
// from then on: no look-up that is under way brings back what was there before. Those of one key wait for
// each other. If one fails, it may have had its effect all the same, now or later. Other processes
// see it after TTL, or when their Invalidate is told.
//
// A Directory is safe for concurrent use by multiple goroutines. In one process, and with a store that does
// not lag behind, Route is linearizable with the methods that write; what other processes write is seen
// late. It has no goroutine but those that ask the store, or wait for their turn to; these end when Lookup
// returns, whose context ends when nobody waits, or after LoadTimeout. The zero value cannot be used.
type Directory[K comparable] struct {
	hasher   arena.Hasher
	segments []dirSegment[K] // a power of two of them
	clock    clock.Clock[K]

	store                                               DirectoryStore[K]
	ttl, negativeTTL, staleFor, retryAfter, loadTimeout time.Duration // negativeTTL and staleFor 0: not at all
	maxBatch, concurrency                               int
	filter                                              func(K) bool
	admit                                               func(K)

	queue dirQueue[K]
	keys  keylock.Locks[K] // held by who writes a row
	lives keylock.Locks[K] // held by who creates or removes a key, before keys
	epoch atomic.Uint64    // the last that was given to a row

	suspicion atomic.Int64 // 0, or until when the store, which hangs, is not to be asked; see suspect
	answered  atomic.Int64 // when the store has answered last

	counters struct {
		misses, negative, stale, filtered, loads, batches, errors, lagging atomic.Uint64
	}
}

// NewDirectory returns a Directory of the rows in store, or an error that names the field of config that
// is wrong. Memory comes with the entries.
func NewDirectory[K comparable](store DirectoryStore[K], config DirectoryConfig[K]) (*Directory[K], error) {
	if store == nil {
		return nil, errors.New("shard: store must not be nil")
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	d := &Directory[K]{
		hasher:      arena.NewHasher(),
		store:       store,
		ttl:         dirOr(config.TTL, dirDefaultTTL),
		negativeTTL: max(0, dirOr(config.NegativeTTL, dirDefaultNegativeTTL)),
		staleFor:    max(0, dirOr(config.StaleFor, dirDefaultStaleFor)),
		retryAfter:  dirOr(config.RetryAfter, dirDefaultRetryAfter),
		loadTimeout: dirOr(config.LoadTimeout, dirDefaultLoadTimeout),
		maxBatch:    dirOr(config.MaxBatch, dirDefaultMaxBatch),
		concurrency: dirOr(config.Concurrency, dirDefaultConcurrency),
		filter:      config.Filter,
		admit:       config.Admit,
	}
	d.clock.Init()
	negatives := dirOr(config.NegativeCapacity, min(config.Capacity, dirDefaultNegatives))
	procs := runtime.GOMAXPROCS(0)
	d.divide(sharding.Default(procs, config.Capacity, dirMinShare, dirMaxShare), procs, config.Capacity, negatives)
	return d, nil
}

// dirOr returns v, or otherwise if that is 0.
func dirOr[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// divide makes n segments.
func (d *Directory[K]) divide(n, procs, capacity, negatives int) {
	d.segments = make([]dirSegment[K], n)
	for i := range d.segments {
		s := &d.segments[i]
		s.rows.capacity = int(sharding.Share(capacity, n, i))
		if d.negativeTTL > 0 {
			s.negatives.capacity = max(1, int(sharding.Share(negatives, n, i)))
		}
		s.lock.Init(sharding.Stripes(procs, s.rows.capacity/dirMinPerStripe))
	}
}

// MovesKeys makes the Directory a KeyMover: it tells a DB that each key is a part of its own, whatever Part
// its row has, so that the state and the epoch of one key say nothing of another.
func (d *Directory[K]) MovesKeys() {}

func (d *Directory[K]) hash(k K) uint64 {
	return maphash.Comparable(d.hasher.Seed, k) & d.hasher.Mask
}

// errDirKey is returned for a key that cannot be found again.
var errDirKey = errors.New("shard: the key is not equal to itself")

// Route returns the placement of k: from the cache, or else from the store. It returns ErrNotFound if k
// has no row, and the error of the store, or of ctx, if it cannot be known. If Lookup panics, or calls
// runtime.Goexit, so do all who wait for it; what a panic gives them is an error that wraps
// the first, and has its stack. It panics, as a map does, if k is or holds an interface and what is in
// it cannot be compared. Complexity: O(1), beside the store.
func (d *Directory[K]) Route(ctx context.Context, k K) (Placement, error) {
	h := maphash.Comparable(d.hasher.Seed, k) & d.hasher.Mask
	s := &d.segments[uint32(h>>32)&uint32(len(d.segments)-1)]
	r := s.lock.TryRLock()
	if r == nil {
		return d.route(ctx, h, k)
	}
	n := s.lists.Find(uint32(h), k)
	if n == 0 {
		r.RUnlock()
		return d.route(ctx, h, k)
	}
	it := s.lists.Value(n)
	if it.negative() || it.deadline <= d.clock.Soon() && !d.ahead(it.deadline) {
		r.RUnlock()
		return d.route(ctx, h, k)
	}
	it.use()
	p := it.placement()
	if r.RUnlockHit() {
		s.tidy()
	}
	return p, nil
}

// route is Route for a key that it has not found at once.
func (d *Directory[K]) route(ctx context.Context, h uint64, k K) (Placement, error) {
	p, use := d.look(h, k)
	if use == dirNothing {
		return d.miss(ctx, h, k)
	}
	return p, d.without(use)
}

// without returns the error of an answer without the store.
func (d *Directory[K]) without(use dirUse) error {
	switch use {
	case dirNegative:
		return ErrNotFound
	case dirHangs:
		return d.tooLong()
	}
	return nil
}

// miss is Route for a key that is not in the cache.
func (d *Directory[K]) miss(ctx context.Context, h uint64, k K) (Placement, error) {
	if err := d.may(ctx, k); err != nil {
		return Placement{}, err
	}
	call, p, use := d.begin(ctx, h, k, nil)
	d.dispatch()
	if call == nil {
		d.count(use)
		return p, d.without(use)
	}
	d.counters.misses.Add(1)
	p, _, err := d.wait(ctx, h, call, d.patience())
	return p, err
}

// may returns an error if the store need not, or cannot, be asked for k.
func (d *Directory[K]) may(ctx context.Context, k K) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case k != k:
		return errDirKey
	case d.filter != nil && !d.filter(k):
		d.counters.filtered.Add(1)
		return ErrNotFound
	}
	return nil
}

// RouteAll returns the placements of keys, as Route does, and asks the store for all that are not in the
// cache in one call, or in as many as MaxBatch makes necessary, of which no more than Concurrency wait
// or are under way at a time. A key that has no row is missing in the result. If there are keys of which
// it cannot be known, the result has the others, and the error is a *KeysError. Once it has waited for
// one key for twice LoadTimeout, it waits for no other. Complexity: O(len(keys)), beside the store.
func (d *Directory[K]) RouteAll(ctx context.Context, keys []K) (map[K]Placement, error) {
	result := make(map[K]Placement, len(keys))
	var seen map[K]struct{}
	var all []dirMissing[K]
	failed := &KeysError[K]{}
	for _, k := range keys {
		h := d.hash(k)
		p, use := d.look(h, k)
		switch {
		case use == dirFresh || use == dirStale:
			result[k] = p
		case use == dirNothing:
			if _, again := seen[k]; again {
				continue
			}
			if seen == nil {
				seen = make(map[K]struct{})
			}
			seen[k] = struct{}{}
			switch err := d.may(ctx, k); err {
			case nil:
				all = append(all, dirMissing[K]{k: k, h: h})
			case ErrNotFound:
			default:
				failed.add(k, err)
			}
		}
	}
	// A part at a time, or others would wait for all of it.
	part := int(min(int64(len(all)), int64(d.concurrency)*int64(d.maxBatch)))
	patience := d.patience()
	for ; len(all) > 0 && patience > 0 && ctx.Err() == nil; all = all[part:] {
		part = min(part, len(all))
		patience = d.routePart(ctx, all[:part], patience, result, failed)
	}
	for _, m := range all {
		if err := ctx.Err(); err != nil {
			failed.add(m.k, err)
		} else if p, ok := d.late(m.h, m.k); ok {
			d.count(dirStale)
			result[m.k] = p
		} else {
			failed.add(m.k, d.tooBusy())
		}
	}
	if len(failed.Keys) > 0 {
		return result, failed
	}
	return result, nil
}

// A dirMissing is a key of a RouteAll that is not in the cache.
type dirMissing[K comparable] struct {
	k    K
	h    uint64
	call *dirCall[K]
}

// routePart asks the store for all, and adds what it finds to result and failed. It returns 0 if it has waited
// for as long as it may, so that no more is to be waited for.
func (d *Directory[K]) routePart(ctx context.Context, all []dirMissing[K], patience time.Duration, result map[K]Placement, failed *KeysError[K]) time.Duration {
	// No function of the user's is called before the batches are on their way, so that nothing can keep
	// them from it.
	var batches []*dirBatch[K]
	for i := range all {
		m := &all[i]
		var p Placement
		var use dirUse
		if m.call, p, use = d.begin(ctx, m.h, m.k, &batches); m.call != nil {
			d.counters.misses.Add(1)
			continue
		}
		d.count(use)
		switch use {
		case dirHangs:
			failed.add(m.k, d.tooLong())
		case dirFresh, dirStale:
			result[m.k] = p
		}
	}
	d.queue.mu.Lock()
	if n := len(d.queue.waiting); n > 0 && len(batches) > 0 {
		d.queue.waiting[n-1].close()
	}
	d.queue.waiting = append(d.queue.waiting, batches...)
	for _, b := range batches {
		d.launch(b)
	}
	d.queue.mu.Unlock()
	d.dispatch()
	next := 0
	defer func() { // if a load has panicked, the others are not waited for
		for ; next < len(all); next++ {
			if call := all[next].call; call != nil {
				call.Release()
			}
		}
	}()
	for next < len(all) {
		m := &all[next]
		next++
		if m.call == nil {
			continue
		}
		p, long, err := d.wait(ctx, m.h, m.call, patience)
		if long {
			patience = 0
		}
		switch {
		case err == nil:
			result[m.k] = p
		case !errors.Is(err, ErrNotFound):
			failed.add(m.k, err)
		}
	}
	return patience
}

// A KeysError says which keys RouteAll could not look up.
type KeysError[K comparable] struct {
	// Keys are the keys, each once, in the order in which they were given.
	Keys []K
	// Errs are the reasons: Errs[i] that of Keys[i].
	Errs []error
}

func (e *KeysError[K]) add(k K, err error) { e.Keys, e.Errs = append(e.Keys, k), append(e.Errs, err) }

// Error returns the number of keys, and the first with its error.
func (e *KeysError[K]) Error() string {
	if len(e.Keys) == 1 {
		return fmt.Sprintf("shard: cannot look up %v: %v", e.Keys[0], e.Errs[0])
	}
	return fmt.Sprintf("shard: cannot look up %v and %d other keys: %v", e.Keys[0], len(e.Keys)-1, e.Errs[0])
}

// Unwrap returns the errors.
func (e *KeysError[K]) Unwrap() []error { return e.Errs }

// nextEpoch returns an epoch that is greater than a given one, which is not the greatest, than any that it
// has returned before, and, as far as clocks agree, than those that other processes have given to
// rows before: the time in microseconds. So a key that was deleted and is inserted again has a greater
// epoch than before.
func (d *Directory[K]) nextEpoch(after uint64) uint64 {
	for {
		last := d.epoch.Load()
		next := max(last, after, uint64(max(0, time.Now().UnixMicro()-1))) + 1
		if next > dirMaxEpoch || d.epoch.CompareAndSwap(last, next) {
			return next
		}
	}
}

// passEpoch makes nextEpoch return greater ones than a given one from now on.
func (d *Directory[K]) passEpoch(epoch uint64) {
	for last := d.epoch.Load(); last < epoch && epoch < dirMaxEpoch; last = d.epoch.Load() {
		d.epoch.CompareAndSwap(last, epoch)
	}
}

// dirMaxEpoch is the greatest epoch that nextEpoch remembers. Greater ones are of somebody's own making, and
// would use up those of all other keys.
const dirMaxEpoch = 1 << 62

// newRow returns p as it is to be written in place of a row of a given epoch.
func (d *Directory[K]) newRow(k K, p Placement, after uint64) (Placement, error) {
	if k != k {
		return p, errDirKey
	}
	if err := checkRow(p); err != nil {
		return p, err
	}
	if p.Epoch == 0 {
		if after == math.MaxUint64 {
			return p, fmt.Errorf("shard: no epoch is greater than %d", uint64(math.MaxUint64))
		}
		p.Epoch = d.nextEpoch(after)
	}
	if p.Epoch <= after {
		return p, fmt.Errorf("shard: Epoch must be greater than %d, got %d: %w", after, p.Epoch, ErrStaleEpoch)
	}
	return p, nil
}

// Insert inserts the row p for k, if it has none, and returns it. An Epoch of 0 stands for a new one, which
// is the time in microseconds, or more. If k has a row, Insert returns that, and an error that wraps
// ErrExists. If the data of k is to be written then, Create is the better choice.
//
// What was remembered of k, such as that it does not exist, is forgotten, and look-ups that are under
// way do not bring it back. Complexity: O(1), beside the store.
func (d *Directory[K]) Insert(ctx context.Context, k K, p Placement) (Placement, error) {
	p, err := d.newRow(k, p, 0)
	if err != nil {
		return Placement{}, err
	}
	h := d.hash(k)
	if d.admit != nil {
		d.admit(k)
	}
	err = d.write(ctx, h, k, func(at int64) error {
		got, err := d.store.Insert(ctx, k, p)
		if err != nil {
			p = got
		}
		if err == nil || errors.Is(err, ErrExists) && checkRow(got) == nil {
			d.know(h, k, p, at)
		} else {
			p = Placement{}
			d.doubt(h, k)
		}
		return err
	})
	return p, err
}

// write calls f, which writes the row of k, while nobody else does. f is given the time before, and takes
// note of what it has written. If it panics, nobody knows.
func (d *Directory[K]) write(ctx context.Context, h uint64, k K, f func(at int64) error) error {
	if err := d.keys.Lock(ctx, k); err != nil {
		return err
	}
	defer d.keys.Unlock(k)
	returned := false
	defer func() {
		if !returned {
			d.doubt(h, k)
		}
	}()
	err := f(d.clock.Now())
	returned = true
	return err
}

// Update replaces the row of k, whose epoch must be the given one, by p, and returns that. An Epoch of p of
// 0 stands for a new one; else it must be greater. If the row has another epoch, somebody else was
// quicker: then Update changes nothing, and returns an error that wraps ErrStaleEpoch. It returns
// ErrNotFound if k has no row. Complexity: O(1), beside the store.
func (d *Directory[K]) Update(ctx context.Context, k K, epoch uint64, p Placement) (Placement, error) {
	p, err := d.newRow(k, p, epoch)
	if err != nil {
		return Placement{}, err
	}
	h := d.hash(k)
	err = d.write(ctx, h, k, func(at int64) error {
		err := d.store.Update(ctx, k, epoch, p)
		switch {
		case err == nil:
			d.know(h, k, p, at)
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrStaleEpoch):
			d.forget(h, k) // what is there may be what the caller has gone by
		default:
			d.doubt(h, k)
		}
		return err
	})
	if err != nil {
		return Placement{}, err
	}
	return p, nil
}

// Delete deletes the row of k, whose epoch must be the given one: else it deletes nothing, and returns an
// error that wraps ErrStaleEpoch. It returns nil if k has no row. The data of k must have been deleted
// before, or it is lost; Remove does both. Complexity: O(1), beside the store.
func (d *Directory[K]) Delete(ctx context.Context, k K, epoch uint64) error {
	if k != k {
		return errDirKey
	}
	h := d.hash(k)
	return d.write(ctx, h, k, func(int64) error {
		err := d.store.Delete(ctx, k, epoch)
		if err == nil {
			d.passEpoch(epoch)
		}
		if err == nil || errors.Is(err, ErrStaleEpoch) {
			d.forget(h, k)
		} else {
			d.doubt(h, k)
		}
		return err
	})
}

// Create inserts the row p for k, as Insert does, calls write with it, which is to write the data of k there,
// and gives the row a new epoch. It returns the row, and the error of any of these.
//
// If there is a row already, Create calls write with that one, whatever p says: an earlier Create may
// have got that far, and may even have written the data. The row is given a new epoch before, too, so
// that who has found it without data, and old, does not delete it now. So write must be such that it can
// be done again; if the data belongs to somebody else, it must say so, by its own unique key for
// example, for which all who try are sent to the same place. A row that is Fenced, because the key is
// being moved or removed, is ErrFenced.
//
// If somebody else has changed or deleted the row while write was under way, in another process, what
// it has written may be gone, or may be where nobody looks for it: then Create inserts the row again, or
// takes the one that is there, and calls write again. After ten times, the error is ErrStaleEpoch.
//
// If write fails, or the process ends, the row stays: nobody can tell whether the data was written, and a
// row without data is harmless. To try again is to call Create again; to give up is to call Remove.
// Who removes rows that have no data by and by must leave alone those that are younger, by their
// epochs, than the longest that a Create takes. Only if another process removes or moves the key meanwhile,
// and then Create is not called again, or comes to another shard, can there be data that no row leads to.
//
// Create and Remove of one key, in one process, wait for each other, so write must call neither for k.
func (d *Directory[K]) Create(ctx context.Context, k K, p Placement, write func(context.Context, Placement) error) (Placement, error) {
	if k != k {
		return Placement{}, errDirKey
	}
	if err := d.lives.Lock(ctx, k); err != nil {
		return Placement{}, err
	}
	defer d.lives.Unlock(k)
	young, wrote := false, false
	for range dirTries {
		row, err := d.Insert(ctx, k, p)
		there := errors.Is(err, ErrExists) && row.Shard != ""
		switch {
		case err != nil && !there:
			return row, err
		case row.State == Fenced && !wrote:
			return row, ErrFenced
		case there && (row.State == Fenced || !young):
			// A Remove that has fenced the row may have erased before write wrote. With a new epoch the row
			// stays, and leads to what is there, for the next Remove.
			row, err = d.renew(ctx, k, row)
			switch {
			case overtaken(err):
				continue
			case err != nil:
				return row, err
			case row.State == Fenced:
				return row, ErrFenced
			}
		}
		// From here on the row has an epoch of this call's time. It is not given another if the loop comes back to
		// it, or two who create the same key could keep each other from coming to an end.
		young, wrote = true, true
		if err := write(ctx, row); err != nil {
			return row, err
		}
		renewed, err := d.renew(ctx, k, row)
		switch {
		case err == nil:
			return renewed, nil
		case !overtaken(err):
			return row, err
		}
		p.Shard, p.Part, p.Epoch = row.Shard, row.Part, 0 // where there is something
	}
	return Placement{}, fmt.Errorf("shard: others have changed the row of %v %d times while it was created: %w", k, dirTries, ErrStaleEpoch)
}

// dirTries is how often something is tried while others are quicker.
const dirTries = 10

// renew gives the row of k, which somebody has seen, a new epoch, and its state. Who has seen it before can
// neither change nor delete it any more.
func (d *Directory[K]) renew(ctx context.Context, k K, row Placement) (Placement, error) {
	next := row
	next.Epoch = 0
	next, err := d.Update(ctx, k, row.Epoch, next)
	if err != nil {
		return row, err
	}
	return next, nil
}

// overtaken reports whether an error of Update says that somebody else has changed or deleted the row.
func overtaken(err error) bool { return errors.Is(err, ErrStaleEpoch) || errors.Is(err, ErrNotFound) }

// Remove makes the row of k Fenced, calls erase with it, which is to delete the data of k there, and then
// deletes the row. It returns ErrNotFound, and erases nothing, if k has no row, or none that the store,
// which may lag behind, has heard of. While the row is Fenced, a Create returns ErrFenced, and so does a
// DB, when it is to write; erase must go to the shard that it is given by itself, such as by DB.Shard.
// Other processes that have the row in their caches write by it for TTL, unless they are told: if somebody
// may, erase must wait for that.
//
// If erase fails, or the process ends, the row stays Fenced, and Remove must be called again, in whatever
// process; erase must be such that it can be done again. So Remove takes rows that are Fenced, also if a
// mover has made them so: then his next Update is ErrStaleEpoch, and he must delete what he has
// copied. If somebody changes the row before it is deleted, or the store lags behind, the row stays, and
// the error wraps ErrStaleEpoch: call Remove again, if the key is still to go.
//
// What cannot be seen from here is an erase that has been taken for dead, and goes on: when another
// process has called Remove again, and then Create, it would erase new data. Where that can be, write
// the epoch that Create gives to write beside the data, and erase only what has a lower one than the row
// that erase is given.
func (d *Directory[K]) Remove(ctx context.Context, k K, erase func(context.Context, Placement) error) error {
	if k != k {
		return errDirKey
	}
	if err := d.lives.Lock(ctx, k); err != nil {
		return err
	}
	defer d.lives.Unlock(k)
	row, err := d.current(ctx, k)
	if err != nil {
		return err
	}
	row.State = Fenced
	if row, err = d.renew(ctx, k, row); err != nil {
		return err
	}
	if err := erase(ctx, row); err != nil {
		return err
	}
	return d.Delete(ctx, k, row.Epoch)
}

// current returns the row of k that the store has, or that in the cache if that is newer, or if the store,
// which may lag behind, does not know it yet.
func (d *Directory[K]) current(ctx context.Context, k K) (Placement, error) {
	cached, ok := d.cached(d.hash(k), k)
	asking, cancel := context.WithTimeoutCause(ctx, d.loadTimeout, d.tooLong())
	defer cancel()
	d.counters.loads.Add(1)
	rows, err := d.lookup(asking, []K{k})
	row, found := rows[k]
	switch {
	case !found && err != nil && !errors.Is(err, ErrNotFound):
		return Placement{}, err
	case !found && !ok:
		return Placement{}, ErrNotFound
	case ok && (!found || cached.Epoch > row.Epoch):
		return cached, nil
	}
	return row, checkRow(row)
}

// Invalidate forgets what is known of k, because it is outdated: another process has changed the row. The
// next Route asks the store, and is given no stale row if that fails. A look-up that is under way does
// not bring back what was there. Complexity: O(1).
func (d *Directory[K]) Invalidate(k K) { d.forget(d.hash(k), k) }

// Clear forgets everything, as Invalidate does, and keeps the memory. Complexity: O(Len) as it was at most.
func (d *Directory[K]) Clear() {
	for i := range d.segments {
		s := &d.segments[i]
		s.lock.Lock()
		s.flights.OvertakeAll()
		s.lists.Clear()
		s.rows = dirSieve{capacity: s.rows.capacity}
		s.negatives = dirSieve{capacity: s.negatives.capacity}
		s.lock.Unlock()
	}
}

// Len returns the number of rows in the cache, those that are not used any more included: they stay
// until they are replaced. Complexity: O(1) for each of some parts of the cache.
func (d *Directory[K]) Len() int {
	n := 0
	for i := range d.segments {
		s := &d.segments[i]
		s.lock.Lock()
		n += s.rows.Len()
		s.lock.Unlock()
	}
	return n
}

// DirectoryStats counts what a Directory has done since it was made.
type DirectoryStats struct {
	Hits         uint64 // look-ups that were answered by a row that was fresh
	NegativeHits uint64 // those of which it was remembered that there is no row
	Stale        uint64 // those that were answered by a row past its TTL, because the store failed
	Filtered     uint64 // those that Filter has refused
	Misses       uint64 // those that waited for the store

	Loads     uint64 // keys that the store was asked for
	Batches   uint64 // calls in which it was
	Errors    uint64 // of these calls, those that failed
	Lagging   uint64 // rows that were not used because one of a later epoch was there
	Evictions uint64 // entries that left the cache for want of room

	Rows      int // rows in the cache
	Negatives int // keys of which it is remembered that there is no row
}

// Stats returns the statistics. Complexity: as Len.
func (d *Directory[K]) Stats() DirectoryStats {
	c := &d.counters
	sum := DirectoryStats{
		NegativeHits: c.negative.Load(), Stale: c.stale.Load(), Filtered: c.filtered.Load(), Misses: c.misses.Load(),
		Loads: c.loads.Load(), Batches: c.batches.Load(), Errors: c.errors.Load(), Lagging: c.lagging.Load(),
	}
	for i := range d.segments {
		s := &d.segments[i]
		s.lock.Lock()
		s.lock.Tidy(func(uint32) {})
		hits, _ := s.lock.Counts()
		sum.Hits += hits + s.hits
		sum.Evictions += s.evictions
		sum.Rows += s.rows.Len()
		sum.Negatives += s.negatives.Len()
		s.lock.Unlock()
	}
	return sum
}
