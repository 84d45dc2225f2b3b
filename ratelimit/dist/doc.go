// Package dist limits how often something may happen in several processes together: they share the
// state of each key in a Backend, such as Redis (package redislimit).
//
// Do not use it where each process can have a limit of its own, which package ratelimit keeps a
// thousand times faster and without anything that can fail; nor for what must never happen once too
// often, such as payments: a limit that goes on when its Backend is away allows more, and one that
// stops stops all.
//
// # How it decides
//
// Take asks the Backend, in one call for all Limits: they are all taken from, or none is. The
// Backend's clock is the only one that counts, and its state is exact: in any time t by its clock,
// in whole microseconds, it allows at most Burst + floor(t·Count/Per), whatever the processes do.
// Intervals are rounded up to microseconds; limits which that would make more than 1 % slower are
// refused by New.
//
// What the Backend refuses is noted, and until RetryAfter all that it would refuse is refused here,
// for any number of tokens, and without a call. RetryAfter is tight: a microsecond earlier the same
// would be refused, and at it, it is allowed, if nobody else has taken anything. What is told
// without a call may be early by as long as the call before took, never late.
//
// # When the Backend cannot be asked
//
// A caller waits for Timeout at most, and then does not care what the Backend's client does. After
// a few failures in a row a breaker opens, and callers do not wait at all, but for one in each
// Cooldown, who finds out when it is back. Whoever does not get a decision of the Backend, gets one
// by Config.OnOutage, and a Result that is Degraded.
//
//	         allows                       choose it
//	Share    this process's share:        by default: the sum of the shares is about the limit, if
//	         Count/Replicas, and          Replicas is right and the load is even. A process with more
//	         Burst/Replicas at once       load than others refuses what the limit would allow
//	Open     everything                   to be refused costs more than to be too many
//	Closed   nothing                      to be too many costs more than to be refused
//
// Also then, what is known to be refused still is.
//
// # How much is allowed through an outage
//
// With a Limit of Count per Per with Burst, and R as Replicas, in any time t:
//
//	the Backend   Burst + t·Count/Per, and Burst more each time that it loses its state
//	each process  with Share, without the Backend: max(1, floor(Burst/R)) + t·Count/(Per·R),
//	              in all outages together; with Open, everything; with Closed, nothing
//
// So R processes allow, however often and for whichever of them the Backend fails, at most
//
//	Burst + max(Burst, R) + 2·t·Count/Per
//
// where one half is the Backend's and the other that of the processes: as long as the Backend
// decides for all, or for none, it is one of the halves. What the Backend allows is taken from the
// share, too, as far as it goes: who has used up his part does not begin an outage with a burst. A
// call that was not answered in time may have taken its tokens; then less is allowed, not more.
//
// A Backend that comes back without its state, or with an old one, is not noticed. Denials that
// processes have noted go on for what is left of their RetryAfter, which is never more than what a
// full Burst takes.
//
// # What it costs
//
// A decision costs a call of the Backend, and some microseconds for the goroutine that makes it. A
// denial that is known costs a lock and a look into a map, and allocates nothing. MaxKeys bounds
// the memory, and MaxInFlight the goroutines, even if the Backend never returns.
package dist
