// Package lru provides caches of bounded size, which evict what was used, or inserted,
// the longest ago.
//
// Use it where recent use foretells use: sessions, rows by primary key, rendered
// fragments. It is the simplest policy to reason about, it needs no tuning, and each
// hit and each Set costs the same small, constant time.
//
// Package lfu keeps more of what will be asked for on most workloads: above all where keys
// that are used once come in scans, or the work loops over more keys than fit, for a loop
// over n+1 keys never hits a least-recently-used cache of n. Do not use either where entries
// must expire with time, or where a miss is to be loaded once however many ask for it.
//
// # Which type, which order
//
//	                          Cache          Cache            Local
//	                                         Shards: 1
//	goroutines                many           many             one
//	order                     a shard's,     exact            exact
//	                          with slack
//	hits on several CPUs      side by side   one at a time    –
//	a hit costs               least          more             least, with one CPU
//	largest entry, with a     Capacity /     Capacity         Capacity
//	Weigher                   shards
//
//	RecentUse   the default: what is used stays
//	Insertion   first in, first out: a hit changes nothing, so one popular entry leaves
//	            with its age; for data that is worth less the older it is
//
// Choose Cache with its default number of shards, unless a test or an algorithm needs to
// know which entry is the next to leave (Shards: 1), or a single goroutine owns the
// cache (Local).
//
// # What can be relied on
//
// A cache never holds more than its capacity, not for an instant, counted in entries or, with
// a Weigher, in weight. It allocates only while it grows: a full cache makes no garbage (but
// for lists of what leaves, where calls overlap and there is an OnEvict), it keeps no pointer
// for each entry that the collector would have to follow, and what has left it can be
// collected at once. It starts no goroutine, and there is nothing to close.
//
// OnEvict is told of each value that leaves, exactly once and with the reason, and is called
// without any lock held.
//
// # How it works
//
// Entries lie in an array, linked by number in the order of eviction, and are found through
// an index of one cache line for about seven of them; see package internal/arena. A Cache
// is sharded by hash. Readers of a shard do not exclude each other: see internal/readlock.
// A hit on an entry that is near the front of its shard's list changes nothing there.
// A hit on another one is noted, and the entry is moved to the front when next somebody
// writes to the shard, before anything is evicted, or when 16 notes have come together.
package lru
