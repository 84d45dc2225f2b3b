package readlock

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newLock(stripes int) *Lock[int] {
	l := new(Lock[int])
	l.Init(stripes)
	return l
}

// TestExclusion has readers and writers meet on plain variables, which the race detector
// watches: a writer keeps them equal, a reader must find them so.
func TestExclusion(t *testing.T) {
	for _, stripes := range []int{1, 2, 8} {
		l := newLock(stripes)
		var a, b, noted int
		var reads, writes, upgrades, notes [8]int
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 3000 {
					s := l.TryRLock()
					if s == nil {
						if l.Lock() {
							l.Tidy(func(uint32) { noted++ })
						}
						a++
						b++
						writes[g]++
						l.Unlock()
						continue
					}
					if a != b {
						t.Errorf("read %d and %d", a, b)
					}
					switch {
					case i%7 == 0:
						before := a
						if l.TryUpgrade(s) {
							if a != before {
								t.Error("a writer came between reading and writing")
							}
							a++
							b++
							upgrades[g]++
							l.Unlock()
						}
					case i%5 == 0 && s.Note(7):
						notes[g]++
						s.RUnlock()
					case i%2 == 0:
						reads[g]++
						s.RUnlockHit()
					default:
						s.RUnlockMiss()
					}
					if i%100 == 0 {
						l.Lock()
						a++
						b++
						writes[g]++
						l.Unlock()
					}
				}
			})
		}
		wg.Wait()
		l.Lock()
		l.Tidy(func(n uint32) {
			require.EqualValues(t, 7, n)
			noted++
		})
		hits, misses := l.Counts()
		l.Unlock()
		sum := func(counts [8]int) (n int) {
			for _, c := range counts {
				n += c
			}
			return n
		}
		require.Equal(t, a, b)
		require.Equal(t, sum(writes)+sum(upgrades), a)
		require.Equal(t, sum(notes), noted)
		require.EqualValues(t, sum(reads)+sum(upgrades), hits)
		require.NotZero(t, misses)
	}
}

func TestNotes(t *testing.T) {
	l := newLock(1)
	require.False(t, l.Lock())
	l.Unlock()
	for i := range uint32(MaxNotes) {
		s := l.TryRLock()
		require.True(t, s.Note(100+i))
		require.False(t, s.RUnlockHit())
	}
	s := l.TryRLock()
	require.False(t, s.Note(1), "no room")
	require.True(t, l.TryUpgrade(s))
	var got []uint32
	l.Tidy(func(n uint32) { got = append(got, n) })
	l.Unlock()
	require.Len(t, got, MaxNotes)
	for i, n := range got {
		require.EqualValues(t, 100+i, n)
	}
	s = l.TryRLock()
	require.True(t, s.Note(5), "room again")
	s.RUnlock()
	require.True(t, l.Lock())
	got = got[:0]
	l.Tidy(func(n uint32) { got = append(got, n) })
	require.Equal(t, []uint32{5}, got)
	l.Tidy(func(uint32) { t.Error("a note came twice") })
	hits, misses := l.Counts()
	require.EqualValues(t, MaxNotes+1, hits)
	require.Zero(t, misses)
}

// TestCounts brings the counts to where a reader must call for a writer, and beyond.
func TestCounts(t *testing.T) {
	const n = 3 << 17
	l := newLock(1)
	called := 0
	for i := range n {
		s := l.TryRLock()
		due := s.RUnlockHit()
		if i%3 == 0 {
			due = l.TryRLock().RUnlockMiss() || due
		}
		if due {
			called++
			l.Lock()
			l.Tidy(func(uint32) { t.Error("a note that nobody left") })
			l.Unlock()
		}
	}
	require.Equal(t, 3, called)
	l.Lock()
	l.Tidy(nil)
	hits, misses := l.Counts()
	require.EqualValues(t, n, hits)
	require.EqualValues(t, n/3, misses)
}

// TestWriterKeepsReadersOut: while a writer has the lock nobody gets in, and an upgrade that
// comes too late gives up.
func TestWriterKeepsReadersOut(t *testing.T) {
	l := newLock(4)
	s := l.TryRLock()
	locked := make(chan bool)
	go func() {
		l.Lock() // waits for s
		close(locked)
	}()
	for l.writer.Load() == 0 {
		runtime.Gosched()
	}
	require.Nil(t, l.TryRLock())
	select {
	case <-locked:
		t.Fatal("a writer came in beside a reader")
	default:
	}
	require.False(t, l.TryUpgrade(s), "the writer was first, and the reader has gone away")
	<-locked
	require.Nil(t, l.TryRLock())
	l.Unlock()
	require.NotNil(t, l.TryRLock())
}

// TestWaiters keeps the lock for so long that those who wait go through all stages of
// waiting, with more of them than CPUs.
func TestWaiters(t *testing.T) {
	l := newLock(2)
	l.Lock()
	var wg sync.WaitGroup
	n := 0
	for range 20 {
		wg.Go(func() {
			l.Lock()
			n++
			l.Unlock()
		})
	}
	for l.stripes[0].queue.TryLock() { // until one of them waits by trying
		l.stripes[0].queue.Unlock()
		runtime.Gosched()
	}
	for l.writer.Load()&reserved == 0 { // and has lost patience
		runtime.Gosched()
	}
	l.Unlock()
	wg.Wait()
	require.Equal(t, 20, n)

	// A reader that stays inside for long.
	s := l.TryRLock()
	start := time.Now()
	wg.Go(func() {
		l.Lock()
		l.Unlock()
	})
	for l.writer.Load() == 0 {
		runtime.Gosched()
	}
	for time.Since(start) < time.Millisecond {
		runtime.Gosched()
	}
	s.RUnlock()
	wg.Wait()
}

// TestWaitersInBubble: nobody who waits may need the clock to go on, since it stands still while
// anybody waits for a mutex.
func TestWaitersInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLock(2)
		start := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					l.Lock()
					for range 50 {
						runtime.Gosched()
					}
					l.Unlock()
				}
			})
		}
		wg.Wait()
		require.Equal(t, start, time.Now())
	})
}

// TestHint: the hint must spread goroutines, and should not change within one.
func TestHint(t *testing.T) {
	first := hint[int]()
	require.Equal(t, first, hint[int]())
	const goroutines, stripes = 256, 8
	var counts [stripes]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	var barrier sync.WaitGroup
	barrier.Add(goroutines)
	for range goroutines {
		wg.Go(func() {
			at := hint[int]() % stripes
			mu.Lock()
			counts[at]++
			mu.Unlock()
			barrier.Done() // all exist at once, so no two have the same stack
			barrier.Wait()
		})
	}
	wg.Wait()
	for i, n := range counts {
		// Evenly spread, each stripe would have 32. This bound is only against a hint that
		// is constant, or leaves most stripes empty.
		require.Less(t, n, goroutines/2, "stripe %d", i)
	}
}

// TestNobodyStarves: a writer who takes the lock again and again, as fast as it can, must
// let those in who wait, readers that became writers among them.
func TestNobodyStarves(t *testing.T) {
	l := newLock(2)
	const turns, most = 5, 1 << 28
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range turns {
				l.Lock()
				l.Unlock()
				runtime.Gosched()
			}
			done.Store(true)
		})
	}
	hogged := 0
	for !done.Load() && hogged < most {
		l.Lock()
		hogged++
		l.Unlock()
	}
	wg.Wait()
	require.Less(t, hogged, most)
}

// TestCrowd: there is an end to the readers that a stripe takes, before it is confused.
func TestCrowd(t *testing.T) {
	l := newLock(1)
	s := &l.stripes[0]
	s.state.Store(crowd - 1)
	require.Nil(t, l.TryRLock())
	require.EqualValues(t, crowd-1, s.state.Load())
	s.state.Store(crowd - 2)
	require.NotNil(t, l.TryRLock())
}
