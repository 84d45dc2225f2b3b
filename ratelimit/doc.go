// Package ratelimit decides how often something may happen: requests of a client, calls of a slow
// service, bytes of a connection.
//
// Bucket is for almost everybody: a token bucket that never allows more than its limit, and costs
// hardly more than reading the clock.
//
// Do not use it to bound how many do something at the same time, which Concurrency does; nor where
// what is asked for costs as much to refuse as to do.
//
// # Which to choose
//
//	                what it allows                     state          choose it
//	Bucket          Burst at once, then Count evenly   one word       by default
//	Multi           what all of its limits allow       one a limit    10 a second and 1000 a day
//	Pacer           one after the other, evenly        one word       the other side must not be
//	                spaced; the rest waits in a queue                 given two at once
//	SlidingLog      Count in any time of length Per,   8 bytes for    Count is small, and the rule
//	                exactly                            each of Count  is "never more than"
//	SlidingCounter  about that                         a few words    Count is large, and about is
//	                                                                  enough
//	FixedWindow     Count in each window by the        one word       the rule is "a day", or others
//	                clock; up to twice that around                    count so, too
//	                an edge
//	Concurrency     n at the same time                 those who      what is scarce is not calls,
//	                                                   wait           but places
//	Keyed           what a Bucket does, for each       21 to 32       there is a limit for each client,
//	                of up to MaxKeys keys              bytes a key    tenant or address
//
// A limit of several processes together is package dist, over Redis package redislimit; package
// httplimit is for HTTP servers.
//
// # What can be relied on
//
// In any time t, a Bucket allows at most Burst + floor(t·Count/Per), by the times that its callers
// read. That holds for goroutines that read the clock and are then held up, and for reservations
// that are cancelled; the tests compare schedules of all of these with exact arithmetic. Intervals
// are rounded up to units of a nanosecond or, where that would make them more than 1 % too long, finer
// ones; what cannot be counted so is refused when the limiter is made.
//
// RetryAfter is tight: a nanosecond earlier the same would be refused, and at it it is allowed, if
// nobody else has taken anything. What is refused changes nothing. No limiter starts a goroutine, and
// none has anything to close.
//
// Time is that of the monotonic clock; limiters made in a bubble of testing/synctest go by its clock.
package ratelimit
