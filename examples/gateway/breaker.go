package main

import (
	"math"
	"net/http"
	"strconv"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// breaker answers 503 at once while a route's backends, all together, fail: they are left alone, and
// clients are told when to come back.
func breaker(b *loadbalance.Breaker, next http.Handler) http.Handler {
	if b == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		permit, err := b.Allow()
		if err != nil {
			seconds := max(1, int(math.Ceil(b.RetryAfter().Seconds()))) // half open, it cannot know
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
			problem(w, http.StatusServiceUnavailable, "What is behind this route fails, and is left alone for a while.")
			return
		}
		done := func(o loadbalance.Outcome) {
			if r.Context().Err() != nil || entryOf(r).clientFailed {
				o = loadbalance.Canceled // the client has gone, or has sent nothing that could be answered
			}
			permit.Done(o)
		}
		// An answer counts when its header is there: a stream, or a WebSocket, may go on for hours, and
		// nothing else would be let through while it is the request that shows whether all is well.
		rec := &recorder{ResponseWriter: w, final: func(code int) { done(outcomeOf(code)) }}
		defer done(loadbalance.ServerError) // if it panics before: only the first call counts
		next.ServeHTTP(rec, r)
		done(outcomeOf(rec.status()))
	})
}

func outcomeOf(status int) loadbalance.Outcome {
	switch {
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return loadbalance.Overload
	case status == http.StatusGatewayTimeout:
		return loadbalance.Timeout
	case status == http.StatusBadGateway:
		return loadbalance.ConnectError
	case status >= 500:
		return loadbalance.ServerError
	case status >= 400:
		return loadbalance.ClientError
	}
	return loadbalance.OK
}
