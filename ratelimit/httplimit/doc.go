// Package httplimit limits the requests that clients send to an http.Handler, and tells them about
// it: before they are refused by the header fields RateLimit-Policy and RateLimit, and then by the
// status 429, Retry-After, and a problem of the type quota-exceeded.
//
// It is for servers that are reached by clients they do not know, or do not trust to be careful.
//
// Do not use it against floods that fill the connection: those must be stopped before they come here.
// Nor to bound how many requests are served at the same time, which ratelimit.Concurrency
// does; nor for passwords alone, where guesses come from many addresses: limit by account as well.
//
// # What clients are told
//
//	                          in          what it says
//	RateLimit-Policy          all         the limits: "default";q=100;w=60 is 100 in 60 seconds
//	RateLimit                 all         what is left: "default";r=50;t=30 is 50, and more in 30 seconds
//	Retry-After               refusals    the seconds after which the same would be allowed
//	application/problem+json  refusals    violated-policies: the names of those that refused
//	X-RateLimit-Limit         all, with   what there is after a pause: the burst
//	X-RateLimit-Remaining     Legacy      what is left
//	X-RateLimit-Reset                     the seconds until all of it is there
//
// The first four are those of draft-ietf-httpapi-ratelimit-headers-11. The figures are those of the
// limiter's Result, with times rounded up to whole seconds. All times count from the response, so
// that clocks need not agree.
//
//   - q and w are Count and Per: what is allowed for good. A Burst is not in the policy, as the draft
//     has no parameter for it; r shows it, and can be more than q. If Per is not in whole seconds,
//     there is no w, which the draft has in whole seconds only.
//   - t is left out if nothing is missing; and in a refusal if it is later than Retry-After, as may be
//     with a policy that has not refused: nobody is to wait for that.
//   - There is no partition key (pk): it would tell clients what they are known by, and they can do
//     nothing with it.
//   - If a request costs more than there can ever be, there is no Retry-After; see WriteProblem.
//   - If there are such fields already, from a middleware further out, they stay: the lists are joined.
//     So give policies different names.
//
// # Who a client is
//
// By default it is the address of the connection, an IPv6 address by its /64. Behind a proxy
// that is the proxy: then all clients share one limit, until AddrConfig says which proxies are to be
// trusted. See ClientAddr for what is believed of X-Forwarded-For and Forwarded. It is never what a
// client has written.
//
// If no key can be had, it is empty, and all those requests share one limit. They are not let
// through, as that would be what an attacker looks for, and not refused, as that would take the
// service down by a mistake in the configuration.
//
// # All requests
//
// Requests count by whatever method. Those of OPTIONS that browsers send before others, and those of
// health checks, are better answered further out, or given a Cost of 0. Scripts of other origins see
// the header fields only if Access-Control-Expose-Headers names them.
//
// The http.ResponseWriter goes on to the next handler as it is, so that all it can do it still can.
// No goroutine is started, and there is nothing to close.
package httplimit
