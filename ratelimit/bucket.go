package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// A Bucket is a token bucket: it holds up to Burst tokens, and Count of them come in each Per, evenly.
// It is kept as the generic cell rate algorithm (ITU-T I.371): one word, the theoretical arrival
// time, says when the bucket will be full again.
//
// A Bucket is safe for concurrent use by multiple goroutines, and linearizable. By the times that
// calls have read, or were given, it allows no more than Burst + floor(t·Count/Per) in any time t,
// however late they come to decide and in whatever order. The zero value cannot be used.
type Bucket struct {
	state atomic.Pointer[block]
	mu    sync.Mutex // held by who replaces state
}

// A block is a theoretical arrival time (tat) with the rate that it is counted by, in units of the
// rate since base. Rate and base never change: who changes them seals tat, so that nobody can
// use it any more, and goes on in another block. So no increment of a former rate is ever added.
//
// Invariant: at the time now there are floor((tau - max(0, tat-now)) / inc) tokens, or none if
// that is negative, which reservations can make it.
type block struct {
	rate
	limit Limit
	// constant is whether limit is Unlimited or None. The rate is then that of the limit before, so
	// that what was used is still known afterwards; zero if there was none.
	constant bool
	base     time.Time
	horizon  time.Duration // after base, all that units can count
	tat      atomic.Int64  // or sealed
}

const (
	// sealed is tat of a block that is no longer used.
	sealed = math.MinInt64
	// maxNow, maxTau and maxAhead bound now, tau, and what a reservation may be beyond tau. A tat is at
	// most the sum of the three, and what is compared with them is at most that and a cost of tau
	// more: 7·2^60, less than 2^63. So nothing overflows, and no tat is ever sealed by chance.
	maxNow   = 1 << 62
	maxAhead = 1 << 60
)

// NewBucket returns a full Bucket. It returns an error that wraps ErrLimit if the limit is not valid.
func NewBucket(l Limit) (*Bucket, error) {
	r, err := l.rate()
	if err != nil {
		return nil, err
	}
	b := new(Bucket)
	b.state.Store(newBlock(l, r, time.Now(), 0))
	return b, nil
}

func newBlock(l Limit, r rate, base time.Time, tat int64) *block {
	s := &block{rate: r, limit: l, constant: l.constant(), base: base, horizon: maxNow >> r.shift}
	s.tat.Store(tat)
	return s
}

// at returns the state, and the time t after its base, in its units. What is before the base counts
// as the base, and what is later than can be counted as the latest that can: both are between
// t and now, so nothing comes in that would not have.
func (b *Bucket) at(t time.Time) (*block, int64) {
	for {
		s := b.state.Load()
		d := t.Sub(s.base)
		if d <= s.horizon {
			return s, int64(max(d, 0)) << s.shift
		}
		now := time.Now()
		if now.Sub(s.base) < s.horizon/2 {
			return s, int64(s.horizon) << s.shift
		}
		b.rebase(s, now)
	}
}

// now is at for the present.
func (b *Bucket) now() (*block, int64) {
	s := b.state.Load()
	if d := time.Since(s.base); uint64(d) <= uint64(s.horizon) {
		return s, int64(d) << s.shift
	}
	return b.at(time.Now())
}

// rebase makes now the base, unless s has been replaced already.
func (b *Bucket) rebase(s *block, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Load() != s {
		return
	}
	ahead := s.aheadAt(s.tat.Swap(sealed), now.Sub(s.base))
	b.state.Store(newBlock(s.limit, s.rate, now, ahead))
}

// reload waits until a block that was found sealed has been replaced.
func (b *Bucket) reload() {
	b.mu.Lock()
	defer b.mu.Unlock()
}

// Allow takes one token, and reports whether there was one. It takes the time of reading the clock
// and of one atomic operation; refusing does not write.
func (b *Bucket) Allow() bool { return b.AllowN(1) }

// AllowN takes n tokens, if there are as many; otherwise none. It reports whether it did.
func (b *Bucket) AllowN(n int64) bool {
	for {
		s, now := b.now()
		if ok, valid := s.allow(now, n); valid {
			return ok
		}
		b.reload()
	}
}

// AllowAt is AllowN at the time t, for those who have read the clock already. It is no way to use
// another clock: times before NewBucket count as that moment, and after a time in the future there
// is nothing to be had until then.
func (b *Bucket) AllowAt(t time.Time, n int64) bool {
	for {
		s, now := b.at(t)
		if ok, valid := s.allow(now, n); valid {
			return ok
		}
		b.reload()
	}
}

func (s *block) allow(now, n int64) (ok, valid bool) {
	if s.constant || uint64(n) > uint64(s.burst) {
		return n == 0 || n > 0 && s.constant && s.limit == Unlimited, true
	}
	tat, ok := s.debit(&s.tat, now, n*s.inc, 0)
	return ok, tat != sealed
}

// Take takes n tokens, if there are as many; otherwise none.
func (b *Bucket) Take(n int64) Result { return b.take(n, true) }

// Peek reports whether Take would take n tokens, or when; the rest is as it is now.
func (b *Bucket) Peek(n int64) Result { return b.take(n, false) }

func (b *Bucket) take(n int64, debit bool) Result {
	for {
		s, now := b.now()
		if r, valid := s.take(now, n, debit); valid {
			return r
		}
		b.reload()
	}
}

func (s *block) take(now, n int64, debit bool) (r Result, valid bool) {
	if s.constant {
		return s.limit.always(n), true
	}
	return s.decide(&s.tat, now, n, debit)
}

// TakeUpTo takes n tokens, or as many as there are, if that is fewer: Allowed says how many. If
// there is none, RetryAfter is the time until the next one.
func (b *Bucket) TakeUpTo(n int64) Result {
	for {
		s, now := b.now()
		if n <= 0 || s.constant {
			if r, valid := s.take(now, n, true); valid {
				return r
			}
			b.reload()
			continue
		}
		tat := s.tat.Load()
		if tat == sealed {
			b.reload()
			continue
		}
		have := max(0, s.tau-max(0, tat-now)) / s.inc
		r, valid := s.take(now, min(n, max(have, 1)), true)
		if valid && (r.OK() || have == 0) {
			return r
		}
		if !valid {
			b.reload()
		} // or somebody else was faster
	}
}

// Limit returns the limit.
func (b *Bucket) Limit() Limit { return b.state.Load().limit }

// SetLimit changes the limit. Tokens that have been used stay used: if three were missing, three are
// missing from the new Burst, and they come in at the new rate; under None and Unlimited they go on
// coming in at the rate before. It returns an error that wraps ErrLimit if the limit is not valid, or
// what was used would take longer to come in than can be counted, and then changes nothing. Those
// who wait already go on waiting as long as they were told.
func (b *Bucket) SetLimit(l Limit) error {
	r, err := l.rate()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state.Load()
	tat := s.tat.Swap(sealed)
	if l.constant() {
		b.state.Store(newBlock(l, s.rate, s.base, tat))
		return nil
	}
	now := time.Now()
	ahead := int64(0)
	if s.inc > 0 {
		ahead, err = rescale(s.aheadAt(tat, now.Sub(s.base)), r.inc, s.inc)
	}
	if err != nil {
		b.state.Store(newBlock(s.limit, s.rate, s.base, tat))
		return err
	}
	b.state.Store(newBlock(l, r, now, ahead))
	return nil
}

// rescale returns ceil(x·to / from), or an error if that is more than maxTau + maxAhead.
func rescale(x, to, from int64) (int64, error) {
	const most = maxTau + maxAhead
	hi, lo := bits.Mul64(uint64(x), uint64(to))
	lo, carry := bits.Add64(lo, uint64(from)-1, 0)
	if hi += carry; hi < uint64(from) {
		if q, _ := bits.Div64(hi, lo, uint64(from)); q <= most {
			return int64(q), nil
		}
	}
	return 0, fmt.Errorf("%w: what was used would take longer to come in than can be counted", ErrLimit)
}

// A Reservation is tokens that have been taken before they are there. Its methods have pointer
// receivers: do not copy it once it is used. It is not safe for concurrent use.
type Reservation struct {
	s      *block
	tat    int64 // as it was left by the reservation
	tokens int64
	delay  time.Duration
	ended  bool
}

// Delay returns how long to wait before using what was reserved, from the moment of Reserve.
func (r *Reservation) Delay() time.Duration { return r.delay }

// Cancel gives back what was reserved, if nobody has taken anything since and the limit is the
// same, and returns how many tokens that were: all or 0. Only the first call counts.
//
// What others took after it was granted in view of it: to give back then would, after a pause,
// allow more than the limit. (Burst 10, one a second: take 5 at 0 s and 2 at 6 s; with 5 given back
// to the first, 12 would have passed at 6 s.)
func (r *Reservation) Cancel() int64 {
	if r.ended || r.s == nil {
		return 0
	}
	r.ended = true
	if !r.s.tat.CompareAndSwap(r.tat, r.tat-r.tokens*r.s.inc) {
		return 0
	}
	return r.tokens
}

// Reserve takes n tokens, if they are there after maxWait at the latest; Delay of the Reservation
// says when. Otherwise it takes nothing and returns false: also if n is more than Burst, or
// negative.
func (b *Bucket) Reserve(n int64, maxWait time.Duration) (Reservation, bool) {
	for {
		s, now := b.now()
		if n == 0 || s.constant {
			return Reservation{}, n == 0 || n > 0 && s.limit == Unlimited
		}
		if n < 0 || n > s.burst || maxWait < 0 {
			return Reservation{}, false
		}
		ahead := int64(min(maxWait, maxAhead>>s.shift)) << s.shift
		tat, ok := s.debit(&s.tat, now, n*s.inc, ahead)
		if tat == sealed {
			b.reload()
			continue
		}
		if !ok {
			return Reservation{}, false
		}
		return Reservation{s: s, tat: tat, tokens: n, delay: s.duration(max(0, tat-now-s.tau))}, true
	}
}

var (
	// ErrBurst is in the error of Wait for waiting for more than there can be at once.
	ErrBurst = errors.New("more than the limit allows at once")
	// ErrWait is in the error of Wait for what comes too late.
	ErrWait = errors.New("it would come too late")
)

// Wait waits until n tokens are there, and takes them. Those who wait are served in the order in which
// they came, as long as the limit is the same. It returns an error at once, and takes nothing, if they
// will not be there before ctx's deadline (ErrWait, and context.DeadlineExceeded), or never (ErrBurst).
// If ctx ends while it waits, it returns ctx's error.
//
// Who gives up gives back as by Cancel, so only if nobody stands behind: what is given up in the middle
// of a queue is lost. Where callers may disappear, give them deadlines, which then also bound how
// far ahead tokens can be taken.
func (b *Bucket) Wait(ctx context.Context, n int64) error {
	return b.wait(ctx, n, Never)
}

// errLong is the error of wait if it would take longer than its limit, but not than ctx's.
var errLong = errors.New("too long")

// wait is Wait for no longer than most.
func (b *Bucket) wait(ctx context.Context, n int64, most time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n < 0 {
		return fmt.Errorf("ratelimit: n must be at least 0, got %d", n)
	}
	if burst := b.state.Load().limit.burst(); n > burst {
		return fmt.Errorf("ratelimit: waiting for %d of %d: %w", n, burst, ErrBurst)
	}
	short := false // whether ctx allows less than most
	if deadline, ok := ctx.Deadline(); ok {
		if left := max(0, time.Until(deadline)); left < most {
			most, short = left, true
		}
	}
	r, ok := b.Reserve(n, most)
	if !ok && !short && most != Never {
		return errLong
	}
	if !ok && !short {
		return fmt.Errorf("ratelimit: waiting for %d: %w", n, ErrWait) // longer than can be counted
	}
	if !ok {
		return fmt.Errorf("ratelimit: waiting for %d: %w (%w)", n, ErrWait, context.DeadlineExceeded)
	}
	if r.delay == 0 {
		return nil
	}
	t := time.NewTimer(r.delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		select {
		case <-t.C: // at the same time
			return nil
		default:
		}
		r.Cancel()
		return ctx.Err()
	}
}
