// Package ttlcache provides caches whose entries expire, with the loading and writing around them
// done right: one load per key however many ask for it, keys that do not exist remembered,
// expiry spread, values kept fresh in the background, writes that go through to a store or
// follow later in batches, and a second level that many processes share.
//
// Use it where values come from somewhere slower and may change there: rows of a database, answers
// of another service, sessions, rendered pages. Where entries need not expire and nothing is
// loaded, package lru is smaller and package lfu keeps more of what will be asked for.
//
// # Which strategy
//
//	                 reads                   writes                      choose it when
//	cache-aside      GetOrLoad, Loader       the caller, then Delete     writes come from elsewhere too
//	                                         (or Invalidate, or Set)
//	write-around     GetOrLoad, Loader       Set, Store: WriteAround     what is written is not read soon
//	write-through    GetOrLoad, Loader       Set, WriteThrough           it is, and writes may wait
//	write-behind     GetOrLoad, Loader       Set, WriteBehind            writes must not wait, many are of
//	                                                                     the same keys, and a crash may
//	                                                                     lose the last moments
//	refresh-ahead    GetOrLoad, RefreshAhead any of these                nobody may wait for a hot key
//
// # What goes wrong, and what is done about it
//
//	stampede     a hot key expires, and a thousand callers load it: they share one load;
//	             with RefreshAhead, XFetchBeta or StaleWhileRevalidate nobody waits for it
//	penetration  keys that do not exist are loaded each time: NegativeTTL remembers them, apart
//	             from the entries, NegativeCapacity of them at the most
//	avalanche    everything was loaded at one time, and expires at one time: Jitter
//	outage       the source is down: StaleIfError returns the former value, RetryDelay leaves
//	             the source alone for a while
//	race         a load reads the old value, a Set or Delete comes, the load ends: its
//	             callers get what they came for, but it is not kept
//
// # What becomes of an entry
//
//	Set or load        TTL            TTL + the larger stale window
//	   |---- fresh ------|------ stale ------|  expired
//	   Get, Peek, All    |                   |  seen by nothing any more
//	   GetOrLoad --------+--- if allowed ----|
//	   Lookup -----------+-------------------|
//
// No call returns an entry after its time, to the nanosecond of a monotonic clock; setting the
// system's clock changes nothing. (Where the runtime delays a timer for more than 90
// milliseconds, because the process gets no CPU, the time may be late by what is more.)
//
// # What can be relied on
//
// A cache never holds more than its capacity, counted in entries or, with a Weigher, in weight.
// What has expired leaves before anything that has not. A hit, and a Set in a full cache,
// allocate nothing. There is no goroutine for expiry: what has expired leaves in small
// steps with the calls that come anyway. Close waits for all that is under way, and returns
// every write that was acknowledged and could not be made.
//
// OnRemove is told of each value that leaves, exactly once and with the reason. It, the Loader and
// the Weigher are called without any lock held; the Store and the Tier only with the locks of
// the keys that they are to write, which they must not load or write through the cache; and
// what is given to Compute must not call the cache at all.
//
// # How it works
//
// Entries lie in shards as in package lru. Each shard has a hierarchical timing wheel, whose
// lists are numbers beside the entries: to set or remove an entry is O(1), and 8 bytes. An entry
// whose time is put off stays where it is in the wheel, which finds it at its former time and
// then moves it; so an entry that is used, replaced or reused all the time is moved about once
// in each time to live. The clock is read once a Set; for a hit, only where the time that
// was taken down in the last hundredth of a second does not tell.
//
// What is optional costs memory only where it is used: weights, sliding and MaxLifetime, times
// to live other than the cache's, the refreshing of entries.
package ttlcache
