package dist

import (
	"sync"
	"time"
)

// A breaker keeps callers from a backend that has failed again and again, but for one now and then, who
// finds out whether it is back. Times are in nanoseconds after the Limiter's base.
//
// There is no flag for a probe that is under way, which one that never ends would leave set: to
// admit one puts off the next by as long as it can take and the cooldown.
type breaker struct {
	most              int // failures in a row that open it
	cooldown, timeout time.Duration

	mu       sync.Mutex
	failures int
	open     bool
	next     int64 // when to probe; if open
}

// admit reports whether to call at now, and whether that is a probe.
func (b *breaker) admit(now int64) (probe, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return false, true
	}
	if now < b.next {
		return false, false
	}
	b.next = now + int64(b.timeout+b.cooldown)
	return true, true
}

// settle notes how a call has ended. Of a call that began before the breaker opened, nothing is
// learnt any more: it says nothing about now.
func (b *breaker) settle(now int64, probe, success bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.open && !probe:
	case success:
		b.open, b.failures = false, 0
	case b.open:
		b.next = now + int64(b.cooldown)
	default:
		if b.failures++; b.failures >= b.most {
			b.open, b.next = true, now+int64(b.cooldown)
		}
	}
}

// isOpen reports whether it is open, and how long until the backend is asked again, more than 0.
func (b *breaker) isOpen(now int64) (open bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return false, b.cooldown
	}
	return true, max(1, time.Duration(b.next-now))
}
