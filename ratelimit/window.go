package ratelimit

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// maxPer bounds the length of windows, so that sums of two of them do not overflow.
const maxPer = 1 << 60

// windowed checks a limit that is to be kept in windows, which have no other burst than Count.
func (l Limit) windowed(most int64) error {
	if l.constant() {
		return fmt.Errorf("%w: windows cannot be %v", ErrLimit, l)
	}
	if err := l.check(); err != nil {
		return err
	}
	switch {
	case l.burst() != l.Count:
		return fmt.Errorf("%w: Burst must be 0 or Count with windows, got %d of %d", ErrLimit, l.Burst, l.Count)
	case l.Per > maxPer:
		return fmt.Errorf("%w: Per must be at most %v with windows, got %v", ErrLimit, time.Duration(maxPer), l.Per)
	case l.Count > most:
		return fmt.Errorf("%w: Count must be at most %d here, got %d", ErrLimit, most, l.Count)
	}
	return nil
}

// A FixedWindow allows Count in each of the windows into which time is divided, of length Per, that
// begin at multiples of Per since 1970 (UTC) by the clock at the time of NewFixedWindow. It is
// simple, and what many services document; but around the edge of two windows twice Count may pass
// in next to no time. A Bucket or a SlidingLog does not allow that.
//
// A FixedWindow is safe for concurrent use by multiple goroutines, and linearizable. The zero value
// cannot be used.
type FixedWindow struct {
	limit Limit
	base  time.Time // when a window began
	bits  uint8     // of the count
	word  atomic.Uint64
}

// NewFixedWindow returns a FixedWindow that has taken nothing. It returns an error that wraps
// ErrLimit if the limit is not valid, has another Burst than Count, a Count of more than 2^31, or
// too high a Count for so short a Per.
func NewFixedWindow(l Limit) (*FixedWindow, error) {
	if err := l.windowed(1 << 31); err != nil {
		return nil, err
	}
	// The word must hold as many windows as there can be, so that none is taken for an earlier one.
	width := bits.Len64(uint64(l.Count))
	if hi, lo := bits.Mul64(uint64(l.Per), 1<<(63-width)); hi == 0 && lo < maxNow {
		return nil, fmt.Errorf("%w: a FixedWindow cannot count to %d in windows as short as %v", ErrLimit, l.Count, l.Per)
	}
	now := time.Now()
	into := time.Duration(now.UnixNano() % int64(l.Per))
	return &FixedWindow{limit: l, base: now.Add(-into), bits: uint8(width)}, nil
}

// Take takes n tokens of the current window, if there are as many; otherwise none.
func (f *FixedWindow) Take(n int64) Result { return f.take(n, true) }

// Peek reports whether Take would take n tokens, or when; the rest is as it is now.
func (f *FixedWindow) Peek(n int64) Result { return f.take(n, false) }

func (f *FixedWindow) take(n int64, debit bool) Result {
	since := max(0, time.Since(f.base))
	window := uint64(since / f.limit.Per)
	rest := f.limit.Per - since%f.limit.Per
	mask := uint64(1)<<f.bits - 1
	for {
		// The word has the window, less its upper bits, above the count. A window that is later by less
		// than half of what fits is a new one; an earlier one is that of somebody whose time is
		// stale, who takes from the window that has begun.
		word := f.word.Load()
		count := int64(word & mask)
		left := rest
		if ahead := int64((window<<f.bits)-word&^mask) >> f.bits; ahead > 0 {
			count = 0
		} else if ahead < 0 {
			window = word >> f.bits
			left += time.Duration(-ahead) * f.limit.Per
		}
		possible := n >= 0 && n <= f.limit.Count
		allowed := possible && n <= f.limit.Count-count
		if allowed && debit && n > 0 {
			if !f.word.CompareAndSwap(word, window<<f.bits|uint64(count+n)) {
				continue
			}
			count += n
		}
		r := Result{Limit: f.limit.Count, Remaining: f.limit.Count - count}
		if count > 0 {
			r.ResetAfter, r.NextToken = left, left
		}
		switch {
		case allowed:
			r.Allowed = n
		case possible:
			r.RetryAfter = left
		default:
			r.RetryAfter = Never
		}
		return r
	}
}

// A SlidingLog allows Count in any time of length Per, exactly: it remembers when each was taken.
// It takes 8 bytes for each of Count, as they are needed, and O(n) to take n.
//
// A SlidingLog is safe for concurrent use by multiple goroutines, and linearizable. The zero value
// cannot be used.
type SlidingLog struct {
	limit Limit
	base  time.Time

	mu    sync.Mutex
	ring  []int64 // times since base, ascending from first on
	first int
	used  int
}

const maxLog = 1 << 24

// NewSlidingLog returns a SlidingLog that has taken nothing. It returns an error that wraps
// ErrLimit if the limit is not valid, has another Burst than Count, or a Count of more than
// 16,777,216.
func NewSlidingLog(l Limit) (*SlidingLog, error) {
	if err := l.windowed(maxLog); err != nil {
		return nil, err
	}
	return &SlidingLog{limit: l, base: time.Now()}, nil
}

// Take takes n tokens, if at most Count-n have been taken within Per; otherwise none.
func (s *SlidingLog) Take(n int64) Result { return s.take(n, true) }

// Peek reports whether Take would take n tokens, or when; the rest is as it is now.
func (s *SlidingLog) Peek(n int64) Result { return s.take(n, false) }

// at returns the i-th oldest time.
func (s *SlidingLog) at(i int) int64 { return s.ring[(s.first+i)%len(s.ring)] }

func (s *SlidingLog) take(n int64, debit bool) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := int64(time.Since(s.base))
	per := int64(s.limit.Per)
	for s.used > 0 && now-s.at(0) >= per {
		if s.first++; s.first == len(s.ring) {
			s.first = 0
		}
		s.used--
	}
	possible := n >= 0 && n <= s.limit.Count
	free := s.limit.Count - int64(s.used)
	allowed := possible && n <= free
	var retry time.Duration
	if possible && !allowed {
		retry = time.Duration(s.at(int(n-free)-1) + per - now)
	}
	if allowed && debit {
		s.grow(int(n))
		for range n {
			s.ring[(s.first+s.used)%len(s.ring)] = now
			s.used++
		}
		free -= n
	}
	r := Result{Limit: s.limit.Count, Remaining: free, RetryAfter: retry}
	if s.used > 0 {
		r.NextToken = time.Duration(s.at(0) + per - now)
		r.ResetAfter = time.Duration(s.at(s.used-1) + per - now)
	}
	if allowed {
		r.Allowed = n
	} else if !possible {
		r.RetryAfter = Never
	}
	return r
}

// grow makes room for n times more.
func (s *SlidingLog) grow(n int) {
	if s.used+n <= len(s.ring) {
		return
	}
	ring := make([]int64, min(int(s.limit.Count), max(2*len(s.ring), s.used+n, 8)))
	for i := range s.used {
		ring[i] = s.at(i)
	}
	s.ring, s.first = ring, 0
}

// A SlidingCounter allows about Count in any time of length Per: it counts in fixed windows, and
// takes it that what was counted in the last one came in evenly. It takes a few words, whatever
// Count is. What is refused does not count. In the worst case, when all came at the end of the last
// window, up to twice Count pass within Per; a SlidingLog is exact.
//
// A SlidingCounter is safe for concurrent use by multiple goroutines, and linearizable. The zero value
// cannot be used.
type SlidingCounter struct {
	limit Limit
	base  time.Time

	mu             sync.Mutex
	window         int64 // the current one, and
	count, earlier int64 // what was taken in it, and in the one before
}

// NewSlidingCounter returns a SlidingCounter that has taken nothing. It returns an error that wraps
// ErrLimit if the limit is not valid, or has another Burst than Count.
func NewSlidingCounter(l Limit) (*SlidingCounter, error) {
	if err := l.windowed(1 << 62); err != nil {
		return nil, err
	}
	return &SlidingCounter{limit: l, base: time.Now()}, nil
}

// Take takes n tokens, if the estimate of what was taken within Per then is at most Count;
// otherwise none.
func (s *SlidingCounter) Take(n int64) Result { return s.take(n, true) }

// Peek reports whether Take would take n tokens, or when; the rest is as it is now.
func (s *SlidingCounter) Peek(n int64) Result { return s.take(n, false) }

func (s *SlidingCounter) take(n int64, debit bool) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, per := int64(time.Since(s.base)), int64(s.limit.Per)
	if window := since / per; window > s.window {
		if window == s.window+1 {
			s.earlier = s.count
		} else {
			s.earlier = 0
		}
		s.window, s.count = window, 0
	}
	into := since - s.window*per
	possible := n >= 0 && n <= s.limit.Count
	allowed := possible && s.wait(into, n) == 0
	if allowed && debit {
		s.count += n
	}
	r := Result{Limit: s.limit.Count, Remaining: max(0, s.limit.Count-s.count-weighted(s.earlier, per-into, per))}
	switch {
	case allowed:
		r.Allowed = n
	case possible:
		r.RetryAfter = time.Duration(s.wait(into, n))
	default:
		r.RetryAfter = Never
	}
	if r.Remaining < s.limit.Count {
		r.NextToken = time.Duration(s.wait(into, r.Remaining+1))
		r.ResetAfter = time.Duration(s.wait(into, s.limit.Count))
	}
	return r
}

// weighted returns ceil(x·part / whole), part being at most whole.
func weighted(x, part, whole int64) int64 {
	hi, lo := bits.Mul64(uint64(x), uint64(part))
	lo, carry := bits.Add64(lo, uint64(whole)-1, 0)
	q, _ := bits.Div64(hi+carry, lo, uint64(whole))
	return int64(q)
}

// wait returns the time until n are allowed, into being how far the window has gone: until earlier
// counts for no more than what is left, or, in the next window, count does.
func (s *SlidingCounter) wait(into, n int64) int64 {
	per := int64(s.limit.Per)
	if left := s.limit.Count - s.count - n; left >= 0 {
		return max(0, fade(s.earlier, left, per)-into)
	}
	return per - into + fade(s.count, s.limit.Count-n, per)
}

// fade returns how far a window must have gone for x, taken in the one before, to count for at most
// left: the least t from 0 to per for which x·(per-t) <= left·per.
func fade(x, left, per int64) int64 {
	if x <= left {
		return 0
	}
	hi, lo := bits.Mul64(uint64(left), uint64(per))
	q, _ := bits.Div64(hi, lo, uint64(x)) // less than per, as left is less than x
	return per - int64(q)
}
