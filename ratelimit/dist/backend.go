package dist

import (
	"context"
	"fmt"
	"math/bits"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A Backend keeps the state that processes share. It decides by the generic cell rate algorithm, with
// its own clock: of each key and limit it knows the theoretical arrival time, at which all tokens
// are there again.
//
// A Backend is safe for concurrent use by multiple goroutines.
type Backend interface {
	// Take takes r.N tokens of r.Key from each of r.Rates, if all have as many; otherwise none from any.
	// That is: if for each rate, max(0, tat - now) + N·Interval is at most Interval·Burst, then that
	// much after now is the new tat. A tat that is more than Interval·Burst after now, which only a
	// clock that went back can leave, counts as so much, and is written so, whatever is decided.
	// Nothing else is written if the tokens are refused, or r.Peek is set.
	//
	// If r.Window is more than 0, it remembers that long that it has allowed r.ID, and allows it again
	// without taking anything: a client that did not see the answer may have sent it twice.
	//
	// It neither changes r nor keeps it. It should return when ctx ends; that it does not, delays
	// nobody, but takes one of Config.MaxInFlight.
	Take(ctx context.Context, r *Request) (Reply, error)
}

// A Deleter is a Backend that can forget a key: that of a client who is to start afresh.
type Deleter interface {
	// Delete forgets what was taken of a key. ctx is as with Backend.Take.
	Delete(ctx context.Context, name, key string) error
}

// A Request asks for tokens. It is not safe for concurrent use while it is changed.
type Request struct {
	// ID is of this request only, in all processes.
	ID [16]byte
	// Name is the Config.Name of the Limiter; different names have different keys.
	Name string
	// Key is the key, of any bytes.
	Key string
	// N is the number of tokens: at least 1 and at most the least Burst, or 0 with Peek.
	N int64
	// Peek is whether only to look.
	Peek bool
	// Rates are the limits.
	Rates []Rate
	// Window is how long to remember ID; 0: not at all.
	Window time.Duration
}

// A Reply is what a Backend has decided.
type Reply struct {
	// Allowed is whether the tokens were taken, or would be.
	Allowed bool
	// Ahead is, for each of Rates, how many microseconds the theoretical arrival time is after now, after
	// what was taken: 0 to Interval·Burst.
	Ahead []int64
}

// A Rate is a limit as a Backend counts it. All of its figures, and their sums with the present time in
// microseconds, are below 2^53, so that languages that know only floating point count exactly.
type Rate struct {
	// Interval is the time in which one token comes in, in microseconds, rounded up.
	Interval int64
	// Burst is the number of tokens that there are after a pause.
	Burst int64
}

// maxTau bounds Interval·Burst, in microseconds: 35 years. The present is about 2^50.7, and what is
// compared is at most two of maxTau after it, which is below 2^53 for the next hundred years.
const maxTau = 1 << 50

// rate returns l in microseconds, or an error if the interval is more than 1 % too long then.
func rate(l ratelimit.Limit) (Rate, error) {
	if l == ratelimit.Unlimited || l == ratelimit.None {
		return Rate{}, fmt.Errorf("%w: %v cannot be shared", ratelimit.ErrLimit, l)
	}
	if _, err := ratelimit.NewBucket(l); err != nil {
		return Rate{}, err
	}
	r := Rate{Interval: ceil(ceil(int64(l.Per), l.Count), 1000), Burst: burst(l)}
	// Interval·Count is at least Per, and may be at most that and a hundredth.
	if hi, lo := bits.Mul64(uint64(r.Interval)*1000, uint64(l.Count)); hi > 0 || lo > uint64(l.Per)+uint64(l.Per)/100 {
		return Rate{}, fmt.Errorf("%w: %v cannot be counted in microseconds to within 1 %%", ratelimit.ErrLimit, l)
	}
	if hi, lo := bits.Mul64(uint64(r.Interval), uint64(r.Burst)); hi > 0 || lo > maxTau {
		return Rate{}, fmt.Errorf("%w: the burst of %v takes longer to come in than can be counted", ratelimit.ErrLimit, l)
	}
	return r, nil
}

// share returns the limit of one of so many processes, as a cell.
func share(l ratelimit.Limit, replicas int) (cell, error) {
	c := cell{burst: max(1, burst(l)/int64(replicas))}
	hi, lo := bits.Mul64(uint64(l.Per), uint64(replicas))
	if hi < uint64(l.Count) {
		inc, rest := bits.Div64(hi, lo, uint64(l.Count))
		if rest > 0 {
			inc++
		}
		if hi, lo = bits.Mul64(inc, uint64(c.burst)); hi == 0 && lo <= maxTau*1000 {
			c.inc, c.tau = int64(inc), int64(lo)
			return c, nil
		}
	}
	return cell{}, fmt.Errorf("dist: Replicas must be so few that a share of %v can be counted, got %d", l, replicas)
}

// ceil returns a / b, rounded up.
func ceil(a, b int64) int64 { return (a-1)/b + 1 }

func burst(l ratelimit.Limit) int64 {
	if l.Burst == 0 {
		return l.Count
	}
	return l.Burst
}

// A cell is a limit in nanoseconds: the time in which a token comes in, how far ahead of now the
// theoretical arrival time may be, and the tokens that there are after a pause.
type cell struct{ inc, tau, burst int64 }

func (r Rate) cell() cell {
	return cell{inc: r.Interval * 1000, tau: r.Interval * r.Burst * 1000, burst: r.Burst}
}

// fits reports whether n tokens, at least 0, are there.
func (c cell) fits(n, ahead int64) bool { return n <= c.burst && ahead+n*c.inc <= c.tau }

// result is that of n tokens, with theoretical arrival times so far ahead of now, in nanoseconds, after
// what was taken. Several limits are put together as by ratelimit.Multi.
func result(cells []cell, n int64, ahead []int64, allowed bool) ratelimit.Result {
	var sum ratelimit.Result
	for i, c := range cells {
		a := ahead[i]
		r := ratelimit.Result{Limit: c.burst, ResetAfter: time.Duration(a)}
		have := c.tau - a
		if have > 0 {
			r.Remaining = have / c.inc
		}
		if a > 0 {
			r.NextToken = time.Duration((r.Remaining+1)*c.inc - have)
		}
		switch {
		case allowed:
		case n < 0 || n > c.burst:
			r.RetryAfter = ratelimit.Never
		default:
			r.RetryAfter = time.Duration(max(0, n*c.inc-have))
		}
		if i == 0 {
			sum = r
		} else {
			sum = sum.And(r)
		}
	}
	if allowed {
		sum.Allowed = n
	}
	return sum
}
