package ratelimit

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/readlock"
)

// A shard is a part of debts: a hash table with open addressing and linear probing (Knuth, vol. 3,
// section 6.4, algorithm L, with deletion by moving back, algorithm R).
//
// An entry whose tat is past says the same as none. So it may be overwritten by any key that comes by
// it on its way, and nobody needs to look for such entries: only when the table would have to grow, or
// when there are MaxKeys, some are looked at.
//
// Who has the lock for reading changes a tat, atomically; who has it for writing, everything.
//
// Invariants: all cells from the home of an entry to its place are in use. In all, len are: at most 3/4
// of cells, of which there are 2^n or 3·2^n.
//
// A tat that was dropped for being past is at most latest, and now never returns less. So a call that has
// read the clock before another that dropped the entry finds it as past as that one did; by its
// own, earlier time it would start a new one too early.
type shard[S comparable] struct {
	lock    readlock.Lock[S]
	origin  time.Duration // since the base of the Keyed: 0 of tat
	horizon time.Duration // after origin, all that units can count
	shift   uint8
	cells   []cell[S]
	len     int

	cursor     int   // where to look for room next
	soonest    int64 // no tat is earlier; see least
	first      int   // the cell whose tat is soonest, unless that has changed
	latest     int64 // the latest time at which anybody has had the lock for writing
	dropped    uint64
	turnedAway atomic.Uint64
	_          [64]byte // the next shard is written to by others
}

// A cell is an entry: a theoretical arrival time, as in block, of a key. It is not in use if hash is 0.
type cell[S comparable] struct {
	key  S // first, as it takes no memory if its size is 0, but at the end it would
	hash uint64
	tat  atomic.Int64
}

const (
	minPerShard  = 256  // keys at the least that a shard is made for
	maxPerShard  = 8192 // as long as there may be more shards, so that nobody waits long for a table that grows
	minAsked     = 64   // at the least, whatever is asked for: those of a shard are what is dropped from
	minPerStripe = 64

	minCells = 8
	// sample is how many entries are looked at to make room.
	sample = 16
)

func (s *shard[S]) init(stripes int, shift uint8) {
	s.lock.Init(stripes)
	s.shift, s.horizon = shift, maxNow>>shift
	s.cells = make([]cell[S], minCells)
}

// now returns the time d after the base of the Keyed in units, but not less than latest; it is
// latest from then on.
func (s *shard[S]) now(d time.Duration) int64 {
	if d-s.origin > s.horizon {
		s.latest, s.soonest = 0, 0
		for i := range s.cells {
			if c := &s.cells[i]; c.hash != 0 {
				c.tat.Store(aheadAt(c.tat.Load(), d-s.origin, s.shift))
			}
		}
		s.origin = d
	}
	s.latest = max(s.latest, int64(max(0, d-s.origin))<<s.shift)
	return s.latest
}

// home returns the cell in which an entry with hash h is, unless that was in use.
func (s *shard[S]) home(h uint64) int {
	// The lower half of h, as a fraction of 2^32, of the cells: D. Lemire, "Fast random integer generation
	// in an interval" (2019). The number of cells need not be a power of two.
	return int(h & math.MaxUint32 * uint64(len(s.cells)) >> 32)
}

// after returns the cell after i.
func (s *shard[S]) after(i int) int {
	if i++; i < len(s.cells) {
		return i
	}
	return 0
}

// distance returns how many cells it is from one to another.
func (s *shard[S]) distance(from, to int) int {
	if d := to - from; d >= 0 {
		return d
	}
	return to - from + len(s.cells)
}

// find returns where k is, or a negative number.
func (s *shard[S]) find(h uint64, k S) int {
	cells := s.cells
	for i := s.home(h); uint(i) < uint(len(cells)); {
		c := &cells[i]
		if c.hash == h && c.key == k {
			return i
		}
		if c.hash == 0 {
			break
		}
		if i++; i == len(cells) {
			i = 0
		}
	}
	return -1
}

// locate returns where k is, or a negative number and the first entry on its way that may be
// overwritten, if there is one.
func (s *shard[S]) locate(h uint64, k S, now int64) (i, reuse int) {
	reuse = -1
	for i := s.home(h); s.cells[i].hash != 0; i = s.after(i) {
		c := &s.cells[i]
		if c.hash == h && c.key == k {
			return i, -1
		}
		if reuse < 0 && c.tat.Load() <= now {
			reuse = i
		}
	}
	return -1, reuse
}

// empty returns the first cell that is not in use on the way of h.
func (s *shard[S]) empty(h uint64) int {
	i := s.home(h)
	for s.cells[i].hash != 0 {
		i = s.after(i)
	}
	return i
}

// put writes an entry without its tat.
func (s *shard[S]) put(i int, h uint64, k S) { s.cells[i].hash, s.cells[i].key = h, k }

// crowded reports whether one entry more would be too many.
func (s *shard[S]) crowded() bool { return s.len+1 > len(s.cells)/4*3 }

// sweep removes those of the next entries that owe nothing, and returns how many those were; if there were
// none, least is the one of them that owes least, or negative if there are no entries at all.
func (s *shard[S]) sweep(now int64, most int) (freed int64, least int) {
	i, left := s.cursor%len(s.cells), min(most, s.len)
	least = -1
	for left > 0 {
		c := &s.cells[i]
		switch {
		case c.hash == 0:
			i = s.after(i)
			continue
		case c.tat.Load() <= now:
			s.remove(i) // and another may be there now
			freed++
		default:
			if least < 0 || c.tat.Load() < s.cells[least].tat.Load() {
				least = i
			}
			i = s.after(i)
		}
		left--
	}
	s.cursor = i
	return freed, least
}

// least returns the least tat; there are entries. It looks at all of them, unless the one that had the least
// still has: as no tat is earlier than soonest, one that is soonest is the least.
func (s *shard[S]) least() int64 {
	if s.first < len(s.cells) {
		if c := &s.cells[s.first]; c.hash != 0 && c.tat.Load() == s.soonest {
			return s.soonest
		}
	}
	s.soonest = math.MaxInt64
	for i := range s.cells {
		if c := &s.cells[i]; c.hash != 0 {
			s.note(i, c.tat.Load())
		}
	}
	return s.soonest
}

// note notes that cell i has that tat.
func (s *shard[S]) note(i int, tat int64) {
	if tat < s.soonest {
		s.soonest, s.first = tat, i
	}
}

// remove removes an entry, and moves those behind it that would not be found any more.
func (s *shard[S]) remove(hole int) {
	for i := s.after(hole); s.cells[i].hash != 0; i = s.after(i) {
		if s.distance(s.home(s.cells[i].hash), i) < s.distance(hole, i) {
			continue // its way does not lead past the hole
		}
		s.move(&s.cells[i], hole)
		hole = i
	}
	var none S
	s.put(hole, 0, none)
	s.len--
}

// move copies an entry to place i.
func (s *shard[S]) move(from *cell[S], i int) {
	s.put(i, from.hash, from.key)
	s.cells[i].tat.Store(from.tat.Load())
}

// grow makes a table in which there is room for one entry more, without those that owe nothing, and
// returns how many those were.
func (s *shard[S]) grow(now int64) (past int) {
	old := s.cells
	for i := range old {
		if c := &old[i]; c.hash != 0 && c.tat.Load() <= now {
			past++
		}
	}
	s.len -= past
	n := len(old)
	if s.len+1 > n/2 {
		if n&(n-1) == 0 {
			n += n / 2
		} else {
			n += n / 3 // the next power of two
		}
	}
	s.cursor = 0
	s.cells = make([]cell[S], n)
	for i := range old {
		if c := &old[i]; c.hash != 0 && c.tat.Load() > now {
			s.move(c, s.empty(c.hash))
		}
	}
	return past
}

func (s *shard[S]) clear() {
	var none S
	for i := range s.cells {
		s.put(i, 0, none)
	}
	s.len = 0
}
