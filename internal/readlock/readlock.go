// Package readlock is a reader-writer lock for critical sections of some nanoseconds, most of
// them reads. It also counts what the reads found, and takes note of what they want to be
// written, for the next writer to write.
//
// With sync.RWMutex, as with sync.Mutex, every reader writes to one and the same cache
// line, so that two CPUs that read take turns: the line must travel between them, which
// costs more than the read. Here a reader announces itself in one of several stripes, a
// cache line each, chosen by its goroutine; a writer raises a flag and waits until no
// stripe has readers left (the idea of Linux's brlock and of D. Dice and A. Kogan,
// "BRAVO: Biased Locking for Reader-Writer Locks", USENIX ATC 2019). A reader pays two
// atomic operations, as for a mutex, on a line that is usually its own; a writer pays
// two, and one load for each stripe.
//
// Not chosen: a mutex for each stripe, of which a writer takes all. It costs a writer two
// atomic operations for each stripe, four times as much as a mutex with four.
package readlock

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A Lock is the lock. It must be given its stripes by Init before use, and must not be
// copied afterwards. A Lock is safe for concurrent use by multiple goroutines.
//
// Why it excludes: Go's atomic operations are sequentially consistent. A reader adds itself
// to its stripe, then loads the flag; a writer sets the flag, then loads the stripes. So of
// a reader and a writer that come together, at least one sees the other: the reader
// goes away again, or the writer waits for it. What a writer did happens before a
// reader loads the flag that it has cleared, and what a reader did happens before the writer
// loads the stripe that it has left.
//
// The type parameter has no meaning. It is there because the compiler inlines the methods of
// a generic type into the generic code that calls them, and others it does not when that
// code is instantiated in a third package.
type Lock[T any] struct {
	// writer is the flag: held while a writer holds the lock, or waits for readers to leave;
	// reserved while the first of the waiting writers has waited for too long, and nobody
	// else may have the lock next.
	writer  atomic.Uint32
	stripes []Stripe[T] // a power of two of them
}

// A Stripe is what some of the readers announce themselves in.
type Stripe[T any] struct {
	// state holds four numbers, so that a reader can leave and be counted in one
	// operation: misses<<46 | hits<<28 | notes<<16 | readers inside.
	//
	// The 16 bits for the readers suffice because from 2^15 on they go away again at once.
	// They are inside for nanoseconds, unless they are preempted there, which happens to few
	// of them at once. The 18 bits for each count suffice because the reader that brings one
	// to 2^17 brings a writer.
	state        atomic.Uint64
	hits, misses uint64           // what the state had counted when it was last tidied; the writer's
	notes        [MaxNotes]uint32 // notes[i] is the reader's who brought the number of notes to i+1
	queue        sync.Mutex       // in the first stripe: held by the one that waits for the flag by trying
	_            [128 - 96]byte   // no two stripes are on one cache line, or on a pair fetched together
}

// values of Lock.writer
const (
	held     = 1
	reserved = 2
)

// MaxNotes is the number of notes that a stripe has room for.
const MaxNotes = 16

const (
	reader = 1
	note   = 1 << 16
	hit    = 1 << 28
	miss   = 1 << 46

	readers = note - reader
	crowd   = 1 << 15       // in the number of readers: no more of them
	due     = 1<<45 | 1<<63 // a count has come to 2^17
)

// Init gives the lock n stripes, a power of two. Goroutines are spread over them evenly and
// blindly, so there should be more of them than CPUs; but each costs a writer a load.
func (l *Lock[T]) Init(n int) { l.stripes = make([]Stripe[T], n) }

// TryRLock locks for reading, unless a writer is there, or waits for long, and returns the
// stripe by which to unlock, or nil.
func (l *Lock[T]) TryRLock() *Stripe[T] {
	s := &l.stripes[hint[T]()&uint32(len(l.stripes)-1)]
	if s.state.Add(reader)&crowd != 0 || l.writer.Load() != 0 {
		s.RUnlock()
		return nil
	}
	return s
}

// RUnlock unlocks what TryRLock locked.
func (s *Stripe[T]) RUnlock() { s.state.Add(^uint64(reader - 1)) }

// RUnlockHit is RUnlock, and counts a hit. It returns true if the counts are to be brought
// to safety: by Lock, Tidy and Unlock.
func (s *Stripe[T]) RUnlockHit() bool { return s.state.Add(hit-reader)&due != 0 }

// RUnlockMiss is RUnlockHit for a miss.
func (s *Stripe[T]) RUnlockMiss() bool { return s.state.Add(miss-reader)&due != 0 }

// Note leaves n for the next writer, if there is room. The caller has the lock for reading.
func (s *Stripe[T]) Note(n uint32) bool {
	var i uint64
	for {
		state := s.state.Load()
		if i = state / note % (hit / note); i >= MaxNotes {
			return false
		}
		if s.state.CompareAndSwap(state, state+note) {
			break
		}
	}
	// The place is this reader's alone until the next writer, who waits for it to leave.
	s.notes[i] = n
	return true
}

// TryUpgrade turns the lock for reading that s stands for into the lock for writing, which
// Unlock unlocks, and counts a hit. Nothing comes between the reading and the writing. If
// another goroutine is quicker it returns false, and the caller has no lock any more.
func (l *Lock[T]) TryUpgrade(s *Stripe[T]) bool {
	if !l.writer.CompareAndSwap(0, held) {
		s.RUnlock() // the writer may be waiting for this reader
		return false
	}
	s.state.Add(hit - reader)
	l.awaitReaders()
	return true
}

// Lock locks for writing. It returns whether there are notes.
func (l *Lock[T]) Lock() (notes bool) {
	if !l.writer.CompareAndSwap(0, held) {
		l.lockSlow()
	}
	return l.awaitReaders()
}

// Unlock unlocks what Lock or TryUpgrade locked.
func (l *Lock[T]) Unlock() { l.writer.Add(^uint32(held - 1)) }

// lockSlow waits for the flag. One goroutine does so by trying; the others sleep. One that
// has tried some times in vain, because others were quicker each time, reserves the lock
// for itself, or it might wait for ever.
func (l *Lock[T]) lockSlow() {
	for range spins {
		if l.writer.Load() == 0 && l.writer.CompareAndSwap(0, held) {
			return
		}
	}
	queue := &l.stripes[0].queue
	queue.Lock()
	defer queue.Unlock()
	for i := 0; ; i++ {
		// Only this goroutine sets or clears reserved.
		if w := l.writer.Load(); w&held == 0 && l.writer.CompareAndSwap(w, held) {
			return
		}
		if i == patience {
			l.writer.Or(reserved)
		}
		pause()
	}
}

// awaitReaders waits until no reader is inside, and returns whether there are notes.
func (l *Lock[T]) awaitReaders() (notes bool) {
	all := uint64(0)
	for i := range l.stripes {
		state := l.stripes[i].state.Load()
		if state&readers != 0 {
			state = l.stripes[i].awaitReaders()
		}
		all |= state
	}
	return all&(hit-note) != 0
}

func (s *Stripe[T]) awaitReaders() uint64 {
	for try := 0; ; try++ {
		state := s.state.Load()
		if state&readers == 0 {
			return state
		}
		if try >= spins {
			pause()
		}
	}
}

const (
	spins    = 30 // loads before a goroutine lets others run: about as long as a write takes
	patience = 3  // times that it lets others run before it reserves the lock
)

// pause lets other goroutines run, among which may be the one that is waited for, if it
// was preempted. That is all: to sleep would be kinder where the system has taken the CPU away
// from its thread, but in a bubble of testing/synctest, where a clock stands still as long as
// anybody waits for a mutex, nobody would wake up again.
func pause() { runtime.Gosched() }

// Tidy calls f for each note, in the order in which they were left in each stripe, and makes
// room for more notes and counts. The caller has the lock for writing.
func (l *Lock[T]) Tidy(f func(n uint32)) {
	for i := range l.stripes {
		s := &l.stripes[i]
		// Readers may come, and go away again: their number changes, but nothing else.
		state := s.state.Load() &^ readers
		if state == 0 {
			continue
		}
		s.state.Add(-state)
		s.misses += state >> 46
		s.hits += state >> 28 & (1<<18 - 1)
		for _, n := range s.notes[:min(state/note%(hit/note), MaxNotes)] {
			f(n)
		}
	}
}

// Counts returns the hits and misses that Tidy has brought to safety. The caller has the lock
// for writing.
func (l *Lock[T]) Counts() (hits, misses uint64) {
	for i := range l.stripes {
		hits += l.stripes[i].hits
		misses += l.stripes[i].misses
	}
	return hits, misses
}
