package shard

import (
	"sync/atomic"
	"time"
	"unique"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/flight"
	"github.com/sysblocks/sysblocks/internal/readlock"
)

const (
	dirMinShare     = 256     // entries of a segment at least, if there are more
	dirMaxShare     = 1 << 29 // rows of a segment at most: with the negatives, it has room for 2^31-2
	dirMinPerStripe = 64
	dirNever        = 1<<63 - 1
)

// A dirSegment is one part of the cache of a Directory, with a lock of its own. Readers find an entry,
// copy it, and mark it as used; everything else needs the lock for writing.
//
// Invariants, checked by check in the tests:
//
//	an entry is in negatives if it is negative, else in rows
//	Len ≤ capacity in both
//	a hand is 0, or a node of its list
type dirSegment[K comparable] struct {
	lock      readlock.Lock[K]
	lists     arena.Lists[K, dirItem]
	rows      dirSieve
	negatives dirSieve // keys that do not exist; a flood of them pushes out no rows
	flights   flight.Group[K, dirAnswer]

	hits, evictions uint64
	_               [64]byte // the next segment is written to by others
}

// A dirItem is what is known of a key. With a string and its links in the table it takes 64 bytes where
// pointers have 64 bits, so that a look-up that finds its entry far away waits for one cache line only.
type dirItem struct {
	shard    unique.Handle[ID] // so that a million entries do not hold a million copies of ten names; zero: there is no row
	epoch    uint64
	deadline int64 // when it is no longer fresh; times are those of Directory.clock, in ns
	hold     int64 // 0, or until when the store is not to be asked again, because it has failed
	part     PartID
	marks    uint32 // state<<1, and whether it was used since the hand came by: which readers set, atomically
}

const dirUsed = 1 // in dirItem.marks

// negative reports whether it is known that there is no row.
func (it *dirItem) negative() bool { return it.shard == unique.Handle[ID]{} }

func (it *dirItem) placement() Placement {
	return Placement{
		Shard: it.shard.Value(), Part: it.part, Epoch: it.epoch,
		State: PartState(atomic.LoadUint32(&it.marks) >> 1),
	}
}

func (it *dirItem) use() {
	if atomic.LoadUint32(&it.marks)&dirUsed == 0 { // so that readers of a hot entry share its cache line
		atomic.OrUint32(&it.marks, dirUsed)
	}
}

// A dirSieve is a list of entries, the newest in front, and says which of them is the next to leave: the
// first from the hand towards the front that was not used since the hand came by it last (Y. Zhang et
// al., "SIEVE is Simpler than LRU", NSDI 2024). A hit moves nothing, so it needs no lock for writing.
type dirSieve struct {
	arena.List
	hand     uint32
	capacity int
}

// of returns the segment to which a hash belongs: its upper half chooses the segment, and the lower
// half the place in it.
func (d *Directory[K]) of(h uint64) *dirSegment[K] {
	return &d.segments[uint32(h>>32)&uint32(len(d.segments)-1)]
}

// sieve returns the list that an item belongs to.
func (s *dirSegment[K]) sieve(it *dirItem) *dirSieve {
	if it.negative() {
		return &s.negatives
	}
	return &s.rows
}

// remove takes out entry n.
func (s *dirSegment[K]) remove(n uint32) {
	q := s.sieve(s.lists.Value(n))
	if q.hand == n {
		q.hand = s.lists.Prev(n)
	}
	s.lists.Detach(&q.List, n)
	s.lists.Drop(n)
}

// set makes it what is known of k, whose entry is n, or 0.
func (s *dirSegment[K]) set(n, h uint32, k K, it dirItem) {
	if n != 0 {
		if old := s.lists.Value(n); old.negative() == it.negative() {
			it.marks |= dirUsed // somebody wanted it again
			*old = it
			return
		}
		s.remove(n)
	}
	q := s.sieve(&it)
	if q.capacity == 0 {
		return
	}
	for q.Len() >= q.capacity {
		s.evict(q)
	}
	if s.lists.Full() {
		s.grow()
	}
	s.lists.PushFront(&q.List, s.lists.Add(h, k, it))
}

// evict takes out the entry of q that is the next to leave. Each that it passes by has been used since
// it passed by last, so the cost is that of a use, and it ends: nobody can use one meanwhile.
func (s *dirSegment[K]) evict(q *dirSieve) {
	n := q.hand
	for {
		if n == 0 {
			n = q.Back()
		}
		it := s.lists.Value(n)
		if it.marks&dirUsed == 0 {
			break
		}
		it.marks &^= dirUsed
		n = s.lists.Prev(n)
	}
	q.hand = n // remove puts it on
	s.remove(n)
	s.evictions++
}

// grow doubles the room for entries. It moves all of them to other nodes. Complexity: O(Len).
func (s *dirSegment[K]) grow() {
	old := s.lists
	s.lists = arena.Lists[K, dirItem]{}
	s.lists.Init(min(max(8, 2*old.Len()), s.rows.capacity+s.negatives.capacity))
	for _, q := range []*dirSieve{&s.rows, &s.negatives} {
		was := *q
		*q = dirSieve{capacity: was.capacity}
		for from := was.Back(); from != 0; from = old.Prev(from) {
			to := s.lists.Add(old.Hash(from), *old.Key(from), *old.Value(from))
			s.lists.PushFront(&q.List, to)
			if from == was.hand {
				q.hand = to
			}
		}
	}
}

// tidy brings the counts of the readers to safety.
func (s *dirSegment[K]) tidy() {
	s.lock.Lock()
	s.lock.Tidy(func(uint32) {})
	s.lock.Unlock()
}

// What a dirItem is good for at a moment.
type dirUse uint8

const (
	dirNothing  dirUse = iota // the store is to be asked
	dirFresh                  // it is the answer
	dirNegative               // it is the answer that the key does not exist
	dirStale                  // it is the answer because the store has failed a moment ago
	dirHangs                  // the store is not to be asked, because it hangs
)

// judge says what an item is good for now.
func (d *Directory[K]) judge(it *dirItem) dirUse {
	switch {
	case d.ahead(it.deadline) && it.negative():
		return dirNegative
	case d.ahead(it.deadline):
		return dirFresh
	case (d.ahead(it.hold) || d.suspected()) && d.servable(it):
		return dirStale
	}
	return dirNothing
}

// servable reports whether an item, fresh or not, may be the answer while the store is down.
func (d *Directory[K]) servable(it *dirItem) bool {
	return !it.negative() && d.ahead(dirSum(it.deadline, d.staleFor))
}

// ahead reports whether a time has not come yet. Mostly that can be told without the exact time.
func (d *Directory[K]) ahead(at int64) bool {
	return at > d.clock.Soon() || at == dirNever || at > d.clock.Now()
}

// dirSum returns a + b, of which b is not negative, but at most dirNever.
func dirSum(a int64, b time.Duration) int64 {
	if a > dirNever-int64(b) {
		return dirNever
	}
	return a + int64(b)
}

// look returns what is known of k, and counts it.
func (d *Directory[K]) look(h uint64, k K) (p Placement, use dirUse) {
	s := d.of(h)
	r := s.lock.TryRLock()
	if r == nil {
		s.lock.Lock()
	}
	if n := s.lists.Find(uint32(h), k); n != 0 {
		it := s.lists.Value(n)
		if use = d.judge(it); use != dirNothing {
			it.use()
		}
		if use == dirFresh || use == dirStale {
			p = it.placement()
		}
	}
	switch {
	case r == nil:
		if use == dirFresh {
			s.hits++
		}
		s.lock.Unlock()
	case use != dirFresh:
		r.RUnlock()
	case r.RUnlockHit():
		s.tidy()
	}
	d.count(use)
	return p, use
}

// count counts an answer other than a fresh one.
func (d *Directory[K]) count(use dirUse) {
	switch use {
	case dirNegative:
		d.counters.negative.Add(1)
	case dirStale:
		d.counters.stale.Add(1)
	}
}

// item returns the item of a row that the store was asked for at a time.
func (d *Directory[K]) item(p Placement, at int64) dirItem {
	ttl := d.ttl
	if p.State != Serving {
		ttl = min(ttl, d.retryAfter) // it will change soon
	}
	return dirItem{
		shard: unique.Make(p.Shard), epoch: p.Epoch, deadline: dirSum(at, ttl),
		part: p.Part, marks: uint32(p.State) << 1,
	}
}

// know takes note of the row that k had at some time after at. Loads that are under way may have seen
// an older one. If what is there is of a later epoch, then either that is newer, or the key was
// deleted and inserted again with a lower one; only the store knows.
func (d *Directory[K]) know(h uint64, k K, p Placement, at int64) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	s.flights.Overtake(k)
	n := s.lists.Find(uint32(h), k)
	if n != 0 {
		if it := s.lists.Value(n); !it.negative() && it.epoch > p.Epoch {
			s.remove(n)
			return
		}
	}
	s.set(n, uint32(h), k, d.item(p, at))
}

// doubt takes note that the row of k may have changed: the store is asked before what is there is used
// again, but if it does not answer, that is better than nothing.
func (d *Directory[K]) doubt(h uint64, k K) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	s.flights.Overtake(k)
	n := s.lists.Find(uint32(h), k)
	if n == 0 {
		return
	}
	if it := s.lists.Value(n); it.negative() {
		s.remove(n)
	} else {
		it.deadline = min(it.deadline, d.clock.Now())
	}
}

// forget forgets what is known of k.
func (d *Directory[K]) forget(h uint64, k K) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	s.flights.Overtake(k)
	if n := s.lists.Find(uint32(h), k); n != 0 {
		s.remove(n)
	}
}

// cached returns the row of k that is in the cache, however old.
func (d *Directory[K]) cached(h uint64, k K) (p Placement, ok bool) {
	s := d.of(h)
	s.lock.Lock()
	defer s.lock.Unlock()
	if n := s.lists.Find(uint32(h), k); n != 0 {
		if it := s.lists.Value(n); !it.negative() {
			return it.placement(), true
		}
	}
	return p, false
}
