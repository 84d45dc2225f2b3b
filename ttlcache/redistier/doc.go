// Package redistier is a second level for package ttlcache on Redis, or what speaks its protocol:
// values that one process has loaded serve all, and a change in one process drops the copies
// that the others have in their memory.
//
// # How it hangs together
//
//	process A             Redis              process B
//	ttlcache    Set   -> SET k, PUBLISH  ->  drops its k
//	ttlcache    Get   <- GET k, PTTL k       loads k when it is next asked for, from Redis
//
// Each change writes the value and publishes the key in one script, so there is no change without
// its message, and messages come in the order of the changes. A process knows its own messages,
// and keeps what it has just set.
//
// A process that misses a key takes a lease, which is gone once anybody has changed the key; without
// it, what the process then loads is not written to Redis. So a value that was loaded before
// another process has deleted it does not come back. A lease takes a small key in Redis for
// Config.LeaseTime at the most.
//
// If the line to Redis on which messages come is lost, some may be missed: then the first level
// is emptied, at once and again when the line is back. Between the two, a value may be as old
// as its time to live allows. A line that is silent is probed every Config.Ping.
//
// What others than this package do to the keys, such as DEL in redis-cli, is not announced; they
// can do so themselves: PUBLISH with the channel "sysblocks:" + Prefix and the message ":" and the
// key, without prefix. The message ":" and nothing means all keys.
//
// # The server
//
// It needs no setting. As it is a cache, let it forget: maxmemory with an eviction policy, and no
// persistence; a server that comes back with an old snapshot would bring back what was deleted
// after that.
//
// # Why go-redis
//
// Of the two mature clients, rueidis has client-side caching built in, in which the server itself
// keeps track of who has what. In its broadcasting mode that also tells a process of its own
// changes, and drops what it has just loaded; if that is turned off (NOLOOP), the server may, of
// two changes of a key in one turn of its loop, leave out the process that made the first, which
// then keeps an outdated value. In the other mode a process is not told of a key that it has
// set itself. Publishing is exact, works with every kind of deployment, and go-redis is what
// most applications have already: they can pass the client that they use.
package redistier
