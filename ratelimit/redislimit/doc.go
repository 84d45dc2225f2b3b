// Package redislimit keeps the limits of package dist in Redis, or what speaks its protocol, so that
// processes share them.
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
//	limiter, err := redislimit.NewLimiter(client, dist.Config{
//		Name:     "api",
//		Limits:   []ratelimit.Limit{ratelimit.PerSecond(10), ratelimit.PerHour(1000)},
//		Replicas: 4,
//	})
//	...
//	if r := limiter.Take(ctx, user, 1); !r.OK() { // not now, but after r.RetryAfter
//
// Do not use it where a limit for each process will do; see package dist for that, and for what happens
// when Redis is away.
//
// # What can be relied on
//
// One script decides about all limits of a key, in one step and one round trip, by the clock of the
// server that has the key. Callers at the same time share round trips, but not in a Cluster, where a node
// that hangs would hold up those who ask for keys of the others. What is refused writes
// nothing, and so does Peek. Every request has an ID, which the script remembers for
// dist.Config.RetryWindow if it allows it: a request that the client sends again, because the
// connection broke before the answer came, is charged once.
//
// The client may have any settings. By default go-redis waits for an answer for seconds, then sends
// the request again, up to three times, and does not look at the context's deadline while it waits;
// package dist leaves it behind after dist.Config.Timeout. Such a call goes on holding one of the
// client's connections for as long as the client's ReadTimeout says. To give it up with the caller,
// set ContextTimeoutEnabled.
//
// What is not: a replica that takes over may not have the last writes, as Redis replicates after it has
// answered. As much as was taken by those may be taken again.
//
// # What is in Redis
//
// With a Prefix "p:", a Name "n" and a key "k":
//
//	p:n:{k}              the time at which each limit will be full again, in microseconds since 1970
//	p:n:{k} and 16 bytes nothing; that it is there means that the request with this ID was allowed
//	p:n#{hash of k}      as above, if k is empty, longer than 64 bytes, or has braces
//
// In a Cluster, what is between braces decides about the node, so that all of a decision is on one.
// A state expires when all of its limits are full, within a millisecond or two: who asks for
// nothing takes no memory. It takes about 130 bytes with one limit and 180 with two, and each
// request that is remembered 170.
//
// # The server
//
// It must be Redis 5 or later; it is tested with 7.0. It needs no persistence: without it, a
// restart gives every key its burst once more, and with an old snapshot what was used since. A time
// in it that is further ahead than the limit can be short of, as after the clock went back or
// another server with a slower clock took over, is mended when it is seen: then all is as it should
// be within one burst.
//
// It should evict nothing (maxmemory-policy noeviction): a state that is evicted is one more burst.
// A server that is full then refuses to write, which is an error, and dist.Config.OnOutage decides.
// Of the other policies volatile-ttl does least harm, as it begins with what is full soonest.
//
// # Why go-redis
//
// Most applications have it already, and can pass the client that they use. Nothing here depends on its
// retries, timeouts or pipelines being set up in some way.
package redislimit
