package ratelimit

import (
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/readlock"
)

// A shard is a part of debts: a hash table with open addressing and
// linear probing (Knuth, vol. 3, section 6.4, algorithm L, with deletion by moving back, algorithm R).
//
// An entry whose tat is past says the same as none. So it may be overwritten by any key that comes by
// it on its way, and nobody needs to look for such entries: only when the table would have to grow, or
// when there are MaxKeys, some are looked at.
//
// Who has the lock for reading changes a tat, atomically; who has it for writing, everything.
//
// Invariants: all cells between the home of an entry and its place are in use; len of them are; at
// most 3/4 of cells. A tat that was in the table when an entry was dropped for being past is at most
// latest, and now is never less than that: for a call that has read the clock before another that
// dropped the entry, it is as past, though by its own time the key would still be in debt.
type shard[S comparable] struct {
	lock    readlock.Lock[S]
	origin  time.Duration // since the base of the Keyed: 0 of tat
	horizon time.Duration // after origin, all that units can count
	shift   uint8
	cells   []cell[S]
	len     int

	cursor     int // where to look for room next, unless there is always some
	latest     int64
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
	maxPerShard  = 8192 // at most, so that nobody waits long for a table that grows
	minPerStripe = 64

	minCells = 8
	// sample is how many entries least looks at.
	sample = 8
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
		s.latest = 0
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

// find returns where k is, or a negative number.
func (s *shard[S]) find(h uint64, k S) int {
	cells := s.cells
	mask := uint(len(cells) - 1)
	for i := uint(h) & mask; i < uint(len(cells)); i = (i + 1) & mask {
		if c := &cells[i]; c.hash == h && c.key == k {
			return int(i)
		} else if c.hash == 0 {
			break
		}
	}
	return -1
}

// locate returns where k is, or a negative number and the first entry on its way that may be
// overwritten, if there is one.
func (s *shard[S]) locate(h uint64, k S, now int64) (i, reuse int) {
	mask := len(s.cells) - 1
	reuse = -1
	for i := int(h) & mask; s.cells[i].hash != 0; i = (i + 1) & mask {
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
	mask := len(s.cells) - 1
	i := int(h) & mask
	for s.cells[i].hash != 0 {
		i = (i + 1) & mask
	}
	return i
}

// put writes an entry without its tat.
func (s *shard[S]) put(i int, h uint64, k S) { s.cells[i].hash, s.cells[i].key = h, k }

// crowded reports whether one entry more would be too many.
func (s *shard[S]) crowded() bool { return s.len+1 > len(s.cells)/4*3 }

// least looks at some entries from cell i on, and returns the one with the least tat; a negative number
// if there is none at all. It also returns the cell behind them.
func (s *shard[S]) least(i int) (v, next int) {
	v = -1
	if s.len == 0 {
		return v, i
	}
	mask := len(s.cells) - 1
	seen := 0
	i &= mask
	for range s.cells {
		if c := &s.cells[i]; c.hash != 0 {
			if v < 0 || c.tat.Load() < s.cells[v].tat.Load() {
				v = i
			}
			seen++
		}
		i = (i + 1) & mask
		if seen == sample {
			break
		}
	}
	return v, i
}

// drop removes an entry that owes so much.
func (s *shard[S]) drop(i int, owes int64) {
	if owes > 0 {
		s.dropped++
	}
	s.remove(i)
}

// remove removes an entry, and moves those behind it that would not be found any more.
func (s *shard[S]) remove(hole int) {
	mask := len(s.cells) - 1
	for i := (hole + 1) & mask; s.cells[i].hash != 0; i = (i + 1) & mask {
		home := int(s.cells[i].hash) & mask
		if (i-home)&mask < (i-hole)&mask {
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
		n *= 2
	}
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
