package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync/atomic"
)

// An Outcome says how a request ended. OK and the other constants are Outcomes; WithLoad adds what the
// endpoint says of itself.
type Outcome uint32

const (
	// OK is a request that was answered.
	OK Outcome = iota
	// ServerError is a request that the endpoint failed to do: HTTP 500, a broken answer.
	ServerError
	// ConnectError is a request that has not reached the endpoint.
	ConnectError
	// Timeout is a request that took too long.
	Timeout
	// Overload is a request that the endpoint turned away because it has too many: HTTP 429 and 503. It
	// raises the endpoint's latency, but is no reason to eject it.
	Overload
	// ClientError is a request that could not be answered by any endpoint: HTTP 404. It is
	// no failure, but an endpoint does not look faster by it either.
	ClientError
	// Canceled is a request that the caller gave up. It says nothing about the endpoint, but
	// that it took at least as long.
	Canceled

	numOutcomes = iota
)

// String returns the name of the constant.
func (o Outcome) String() string {
	names := [numOutcomes]string{"OK", "ServerError", "ConnectError", "Timeout", "Overload", "ClientError", "Canceled"}
	switch k := o & 0xff; {
	case k >= numOutcomes:
		return fmt.Sprintf("Outcome(%d)", k)
	case o > 0xff:
		return fmt.Sprintf("%s at load %.2f", names[k], 1-o.room())
	default:
		return names[k]
	}
}

// WithLoad returns o with the utilization that the endpoint reported, from 0 to 1 (what is outside counts
// as the nearest). LeastResponseTime takes an endpoint that is 90 % busy for 10 times as slow, up to 16
// times.
func (o Outcome) WithLoad(utilization float64) Outcome {
	if !(utilization > 0) {
		utilization = 0
	}
	return o.kind() | Outcome(math.Round(min(utilization, 1)*0xffff))<<8
}

// kind returns o without a load. What is none of the constants counts as ServerError.
func (o Outcome) kind() Outcome {
	if k := o & 0xff; k < numOutcomes {
		return k
	}
	return ServerError
}

// room returns the part of the endpoint that is not busy, at least 1/16.
func (o Outcome) room() float64 { return max(1-float64(o>>8)/0xffff, 1.0/16) }

// failed reports whether it was the endpoint's failure.
func (o Outcome) failed() bool { return o >= ServerError && o <= Overload }

// OutcomeOf returns the Outcome of a call that returned err: OK for nil, Canceled for context.Canceled,
// Timeout for context.DeadlineExceeded and other time-outs, ConnectError for a failed dial, and
// otherwise ServerError. If an error in err's tree has a method Outcome() Outcome, it decides.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OK
	}
	var own interface{ Outcome() Outcome }
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &own):
		return own.Outcome()
	case errors.Is(err, context.Canceled):
		return Canceled
	case dialed(err):
		return ConnectError
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return ServerError
}

// dialed reports whether err is of a failed dial. That to a proxy is inside of another OpError, with
// net/http.
func dialed(err error) bool {
	for op := (*net.OpError)(nil); errors.As(err, &op); err = op.Err {
		if op.Op == "dial" {
			return true
		}
	}
	return false
}

// A Lease is a request in flight at an endpoint. Done must be called when it has ended; Pool.Do cannot
// forget it. A request that never ends counts against its endpoint for ever.
//
// A Lease is safe for concurrent use by multiple goroutines. Its methods have pointer receivers, and it
// must not be copied once it is used: a copy that is done, too, ends somebody else's request.
type Lease[T any] struct {
	e     *endpoint[T] // nil: of the zero value
	start int64
	state atomic.Uint32 // answered, ended
}

const (
	answered = 1 << iota
	ended
)

// Value returns the value of the endpoint.
func (l *Lease[T]) Value() T { return l.Endpoint().Value }

// ID returns the ID of the endpoint.
func (l *Lease[T]) ID() string { return l.Endpoint().ID }

// Endpoint returns the endpoint, as it was when it was picked. That of the zero Lease is the zero Endpoint.
func (l *Lease[T]) Endpoint() Endpoint[T] {
	if l.e == nil {
		return Endpoint[T]{}
	}
	return l.e.Endpoint
}

// Answered takes the latency of the request now, with what is known of its outcome: for an answer that
// has begun, and will take as long as it is long, or the caller reads it slowly. The request stays in
// flight until Done. Only the first call counts, and none after Done. Without it, latency is the time
// to Done.
func (l *Lease[T]) Answered(o Outcome) {
	if l.e == nil || l.state.Or(answered) != 0 {
		return
	}
	if h := l.e.h; h.core.timed {
		h.observe(o, l.start, h.core.now())
	}
}

// Done ends the request. Only the first call counts, also of several at the same time; that of the
// zero Lease does nothing. It allocates nothing.
func (l *Lease[T]) Done(o Outcome) {
	if l.e == nil {
		return
	}
	switch before := l.state.Swap(answered | ended); before {
	case 0:
		l.e.h.done(o, l.start)
	case answered:
		l.e.h.done(o, 0)
	}
}
