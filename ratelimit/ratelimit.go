package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// A Limit says how much is allowed: Count in each Per, and not more than Burst at once.
type Limit struct {
	// Count is the number of tokens for each Per, at least 1.
	Count int64
	// Per is the time in which Count tokens come in, evenly; more than 0.
	Per time.Duration
	// Burst is the most that can be taken at once, after a pause. 0: Count.
	Burst int64
}

// PerSecond returns the Limit of n a second, with a burst of n.
func PerSecond(n int64) Limit { return Limit{Count: n, Per: time.Second} }

// PerMinute returns the Limit of n a minute, with a burst of n.
func PerMinute(n int64) Limit { return Limit{Count: n, Per: time.Minute} }

// PerHour returns the Limit of n an hour, with a burst of n.
func PerHour(n int64) Limit { return Limit{Count: n, Per: time.Hour} }

// Every returns the Limit of one in each d, with a burst of one.
func Every(d time.Duration) Limit { return Limit{Count: 1, Per: d} }

// WithBurst returns l with another Burst.
func (l Limit) WithBurst(n int64) Limit {
	l.Burst = n
	return l
}

var (
	// Unlimited allows everything.
	Unlimited = Limit{Count: math.MaxInt64, Per: 1, Burst: math.MaxInt64}
	// None allows nothing.
	None = Limit{Count: 0, Per: math.MaxInt64, Burst: 0}
)

// String returns the limit as in "100 per 1m0s, burst 20".
func (l Limit) String() string {
	switch l {
	case Unlimited:
		return "unlimited"
	case None:
		return "none"
	}
	return fmt.Sprintf("%d per %v, burst %d", l.Count, l.Per, l.burst())
}

func (l Limit) burst() int64 {
	if l.Burst == 0 {
		return l.Count
	}
	return l.Burst
}

// Never is the RetryAfter of what will not be allowed, however long one waits.
const Never time.Duration = math.MaxInt64

// A Result says what a limiter has decided.
type Result struct {
	Allowed   int64 // tokens taken: what was asked for, or 0; less only with TakeUpTo
	Limit     int64 // tokens that there are after a pause
	Remaining int64 // tokens that can be taken now, after those that were

	// RetryAfter is the time after which the same would be allowed, if nobody else takes anything: not
	// earlier, not later. 0 if it was allowed; Never if it is more than there can be.
	RetryAfter time.Duration
	// ResetAfter is the time after which all tokens are there again, if nobody takes any.
	ResetAfter time.Duration
	// NextToken is the time after which Remaining grows; 0 if all tokens are there.
	NextToken time.Duration
}

// OK reports whether what was asked for was allowed; so the zero Result is one that was.
func (r Result) OK() bool { return r.RetryAfter == 0 }

// A Limiter decides whether something may happen now. It is safe for concurrent use by multiple
// goroutines.
type Limiter interface {
	// Take takes n tokens, if they are there; otherwise it changes nothing. To take none is always
	// allowed, fewer than none never.
	Take(n int64) Result
	// Peek reports whether Take would take, or when, and changes nothing. The rest of the Result
	// is as it is now.
	Peek(n int64) Result
}

// ErrLimit is in the error of a Limit that cannot be kept exactly enough, or is none.
var ErrLimit = errors.New("ratelimit: invalid limit")

// A rate is a Limit in the units in which a limiter counts: 2^-shift nanoseconds.
type rate struct {
	inc   int64 // the emission interval: units until a token comes in
	tau   int64 // burst·inc: how far ahead of now the theoretical arrival time may be
	burst int64
	shift uint8
}

// maxTau bounds burst·inc, so that no sum of times overflows: with nanoseconds, it is 36 years.
const maxTau = 1 << 60

// maxShift is that of the finest unit.
const maxShift = 16

// check returns an error if l says nothing that could be kept; Unlimited and None are not for it.
func (l Limit) check() error {
	switch {
	case l.Count < 1:
		return fmt.Errorf("%w: Count must be at least 1, got %d", ErrLimit, l.Count)
	case l.Per <= 0:
		return fmt.Errorf("%w: Per must be more than 0, got %v", ErrLimit, l.Per)
	case l.Burst < 0:
		return fmt.Errorf("%w: Burst must be at least 0, got %d", ErrLimit, l.Burst)
	}
	return nil
}

// rate returns l in the coarsest units in which the emission interval, rounded up, is at most 1 % too
// long. Rounded up, as too much must never be allowed.
func (l Limit) rate() (rate, error) {
	if l == Unlimited || l == None {
		return rate{burst: l.Burst}, nil
	}
	if err := l.check(); err != nil {
		return rate{}, err
	}
	for shift := range uint8(maxShift + 1) {
		hi, lo := bits.Mul64(uint64(l.Per), 1<<shift)
		if hi >= uint64(l.Count) {
			break // longer than any time
		}
		inc, rest := bits.Div64(hi, lo, uint64(l.Count))
		if rest > 0 {
			// The interval is (inc + rest/Count); rounding up adds less than 1 to inc.
			if inc < 100 {
				continue
			}
			inc++
		}
		high, tau := bits.Mul64(inc, uint64(l.burst()))
		if high > 0 || tau > maxTau {
			break
		}
		return rate{inc: int64(inc), tau: int64(tau), burst: l.burst(), shift: shift}, nil
	}
	if hi, lo := bits.Mul64(uint64(l.Per), 1<<maxShift); hi == 0 && lo/100 < uint64(l.Count) {
		return rate{}, fmt.Errorf("%w: %d per %v is more than can be counted", ErrLimit, l.Count, l.Per)
	}
	return rate{}, fmt.Errorf("%w: a burst of %d at %d per %v takes longer to come in than can be counted", ErrLimit, l.burst(), l.Count, l.Per)
}
