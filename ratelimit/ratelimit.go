package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"
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

	// Degraded is whether a limiter of several processes has decided without the others: see package
	// dist. The limiters of this package never do.
	Degraded bool
}

// OK reports whether what was asked for was allowed; so the zero Result is one that was.
func (r Result) OK() bool { return r.RetryAfter == 0 }

// And returns what two limits say together, of which both must allow: Limit, Remaining and NextToken
// of the one that has fewer tokens, RetryAfter and ResetAfter of the one that takes longer, and the
// fewer tokens that were taken.
func (r Result) And(o Result) Result {
	sum := r
	switch {
	case o.Remaining < r.Remaining:
		sum.Limit, sum.Remaining, sum.NextToken = o.Limit, o.Remaining, o.NextToken
	case o.Remaining > r.Remaining:
	case r.NextToken == 0 || o.NextToken == 0:
		sum.Limit, sum.NextToken = min(r.Limit, o.Limit), 0 // one of them is full
	default:
		sum.Limit, sum.NextToken = min(r.Limit, o.Limit), max(r.NextToken, o.NextToken)
	}
	sum.Allowed = min(r.Allowed, o.Allowed)
	sum.RetryAfter = max(r.RetryAfter, o.RetryAfter)
	sum.ResetAfter = max(r.ResetAfter, o.ResetAfter)
	sum.Degraded = r.Degraded || o.Degraded
	return sum
}

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
	// inverse is floor((2^64-1) / inc).
	inverse uint64
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

// constant reports whether l is Unlimited or None, which no rate can express.
func (l Limit) constant() bool { return l == Unlimited || l == None }

// rate returns l in the coarsest units in which the emission interval, rounded up, is at most 1 % too
// long. Rounded up, as too much must never be allowed.
func (l Limit) rate() (rate, error) {
	if l.constant() {
		return rate{burst: l.Burst}, nil
	}
	if err := l.check(); err != nil {
		return rate{}, err
	}
	for shift := range uint8(maxShift + 1) {
		if r, fit := l.at(shift); fit == fits {
			return r, nil
		} else if fit == tooLong {
			break // in finer units even more so
		}
	}
	if hi, lo := bits.Mul64(uint64(l.Per), 1<<maxShift); hi == 0 && lo/100 < uint64(l.Count) {
		return rate{}, fmt.Errorf("%w: %d per %v is more than can be counted", ErrLimit, l.Count, l.Per)
	}
	return rate{}, fmt.Errorf("%w: a burst of %d at %d per %v takes longer to come in than can be counted", ErrLimit, l.burst(), l.Count, l.Per)
}

// A fit is how well a Limit can be expressed in given units.
type fit int

const (
	fits    fit = iota
	tooFine     // the interval would be more than 1 % too long
	tooLong     // Burst would take longer to come in than can be counted
)

// at returns l, which is valid, in units of 2^-shift nanoseconds.
func (l Limit) at(shift uint8) (rate, fit) {
	hi, lo := bits.Mul64(uint64(l.Per), 1<<shift)
	if hi >= uint64(l.Count) {
		return rate{}, tooLong
	}
	inc, rest := bits.Div64(hi, lo, uint64(l.Count))
	if rest > 0 {
		// The interval is (inc + rest/Count); rounding up adds less than 1 to inc.
		if inc < 100 {
			return rate{}, tooFine
		}
		inc++
	}
	burst := l.burst()
	high, tau := bits.Mul64(inc, uint64(burst))
	if high > 0 || tau > maxTau {
		return rate{}, tooLong
	}
	return rate{inc: int64(inc), tau: int64(tau), burst: burst, shift: shift, inverse: math.MaxUint64 / inc}, fits
}

// decide takes n tokens from what tat, a theoretical arrival time in the units of r, leaves at now, or
// if debit is false finds out whether it could. It is not valid if tat is sealed.
func (r *rate) decide(tat *atomic.Int64, now, n int64, debit bool) (res Result, valid bool) {
	var t int64
	possible, allowed := n >= 0 && n <= r.burst, false
	if possible && debit && n > 0 {
		t, allowed = r.debit(tat, now, n*r.inc, 0)
	} else {
		t = tat.Load()
		allowed = possible && (n == 0 || max(t, now)+n*r.inc-now <= r.tau)
	}
	if t == sealed {
		return Result{}, false
	}
	var taken int64
	var retry time.Duration
	switch {
	case allowed:
		taken = n
	case possible:
		retry = r.duration(max(t, now) + n*r.inc - now - r.tau)
	default:
		retry = Never
	}
	return r.result(t, now, taken, retry), true
}

// debit adds cost, for n tokens, to tat, unless that would then be more than tau + ahead after now.
// It returns tat as it is now, and whether it was changed; or sealed.
func (r *rate) debit(tat *atomic.Int64, now, cost, ahead int64) (t int64, ok bool) {
	for {
		t := tat.Load()
		if t == sealed {
			return sealed, false
		}
		next := max(t, now) + cost
		if next-now > r.tau+ahead {
			return t, false
		}
		if tat.CompareAndSwap(t, next) {
			return next, true
		}
	}
}

// result returns what there is at now, with that tat, and what was decided. It is made in one piece, as
// to make it in several takes twice as long.
func (r *rate) result(tat, now, taken int64, retry time.Duration) Result {
	ahead := max(0, tat-now)
	have := max(0, r.tau-ahead)
	// have / inc, by multiplication, which is three times as fast: the product is less than the
	// quotient by at most one.
	hi, _ := bits.Mul64(uint64(have), r.inverse)
	remaining := int64(hi)
	if have-remaining*r.inc >= r.inc {
		remaining++
	}
	// With reservations, what is missing may be more than Burst.
	next := int64(0)
	if ahead > 0 {
		next = (remaining+1)*r.inc - (r.tau - ahead)
	}
	return Result{
		Allowed: taken, Limit: r.burst, Remaining: remaining,
		RetryAfter: retry, ResetAfter: r.duration(ahead), NextToken: r.duration(next),
	}
}

// duration returns the time that n units take, at least 0, rounded up.
func (r *rate) duration(n int64) time.Duration {
	return time.Duration((n-1)>>(r.shift&63) + 1)
}

// always is the result with Unlimited and None.
func (l Limit) always(n int64) Result {
	r := Result{Limit: l.Burst, Remaining: l.Burst}
	if n == 0 || n > 0 && l == Unlimited {
		r.Allowed = n
	} else {
		r.RetryAfter = Never
	}
	return r
}
