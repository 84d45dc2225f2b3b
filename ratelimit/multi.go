package ratelimit

import (
	"errors"
	"sync"
	"time"
)

// A Multi is several limits at once, such as 10 a second and 1000 a day: what one of them does not
// allow takes nothing from the others.
//
// A Multi is safe for concurrent use by multiple goroutines, and linearizable: it decides under a
// lock, in which it also reads the clock. The zero value cannot be used.
type Multi struct {
	mu    sync.Mutex
	cells []*block // as in a Bucket, but changed with mu held
}

// All returns a Multi with full buckets. It returns an error if there is no limit, or one that is
// not valid.
func All(limits ...Limit) (*Multi, error) {
	if len(limits) == 0 {
		return nil, errors.New("ratelimit: All needs a limit, got none")
	}
	m := &Multi{}
	base := time.Now()
	for _, l := range limits {
		r, err := l.rate()
		if err != nil {
			return nil, err
		}
		m.cells = append(m.cells, newBlock(l, r, base, 0))
	}
	return m, nil
}

// Take takes n tokens from each of the limits, if all have as many; otherwise none from any. In the
// Result, Limit, Remaining and NextToken are those of the limit that has the fewest tokens,
// RetryAfter and ResetAfter those of the one that takes longest; see Result.And.
func (m *Multi) Take(n int64) Result { return m.take(n, true) }

// Peek reports whether Take would take n tokens, or when; the rest is as it is now.
func (m *Multi) Peek(n int64) Result { return m.take(n, false) }

func (m *Multi) take(n int64, debit bool) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	allowed := true
	for _, s := range m.cells {
		r, _ := s.take(s.follow(t), n, false)
		allowed = allowed && r.OK()
	}
	var sum Result
	for i, s := range m.cells {
		r, _ := s.take(s.follow(t), n, debit && allowed)
		if i == 0 {
			sum = r
		} else {
			sum = sum.And(r)
		}
	}
	return sum
}

// follow returns t in units, for who holds the lock that s is changed under; it moves the base, where
// a Bucket takes another block.
func (s *block) follow(t time.Time) int64 {
	d := t.Sub(s.base)
	if d > s.horizon {
		ahead := s.aheadAt(s.tat.Load(), d)
		s.base, d = t, 0
		s.tat.Store(ahead)
	}
	return int64(max(0, min(d, s.horizon))) << s.shift
}

// aheadAt returns how far tat is ahead of d after the base; at least 0.
func (s *block) aheadAt(tat int64, d time.Duration) int64 { return aheadAt(tat, d, s.shift) }

// aheadAt returns how far tat is ahead of d, which may be more than what units can count; at least 0.
func aheadAt(tat int64, d time.Duration, shift uint8) int64 {
	if d = max(d, 0); d/2 >= maxNow>>shift {
		return 0 // no tat is as late: see maxNow
	}
	// In two steps, as d may be more than what fits.
	half := int64(d/2) << shift
	rest := int64(d-d/2) << shift
	return max(0, tat-half-rest)
}
