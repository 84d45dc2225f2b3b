// Package lfu provides caches of bounded size that keep what is used often.
//
// Cache is for almost everybody: it finds out by itself whether recent or frequent use
// foretells use, and keeps more of what will be asked for than LRU on most workloads. Exact is
// the textbook's LFU, for where the counts themselves matter.
//
// Do not use them where entries must expire with time, or where a miss is to be loaded once
// however many ask for it. Where the order of eviction must be known beforehand, use package
// lru with one shard, or Exact.
//
// # Which to choose
//
//	                        lru.Cache         lfu.Cache          lfu.Exact
//	goroutines              many              many               one
//	evicts                  what was used     what its workload  what was used the
//	                        the longest ago   shows to be worth  fewest times
//	                                          the least
//	hit ratio, mean of      68.4 %            71.2 %             56.8 %
//	20 replays of traces
//	loop over a little      0 %               88 % of the keys   all that fit, once
//	more than fits                            in it              they are counted
//	scans                   push all out      pass by            pass by
//	popularity changes      at once           soon               never, without AgeAfter
//	known order             with Shards: 1    no                 yes
//	bytes an entry          46                64                 49
//	a hit costs             least             as much            more: it moves an entry
//	a Set that evicts costs least             twice as much      as much
//
// The hit ratios are the means over the traces that benchmarks/README.md names, at 1 %, 5 %
// and 20 % of their keys; the optimum there is 76.6 %. Choose lru.Cache where writes outnumber
// reads, or where the workload is known to be about recent use alone: a policy that must find
// that out loses a few points on the way.
//
// # What can be relied on
//
// A cache never holds more than its capacity, not for an instant, counted in entries or, with
// a Weigher, in weight. A value is there as soon as Set has returned: nothing waits in a
// buffer, and nothing is dropped. It starts no goroutine, and there is nothing to close. It
// allocates only while it grows (but for lists of what leaves, where calls overlap and there
// is an OnEvict), it keeps no pointer for each entry that the collector would have to follow,
// and what has left it can be collected at once.
//
// OnEvict is told of each value that leaves, exactly once and with the reason, and is called
// without any lock held. Hashes are seeded at random, so that nobody outside can choose keys
// that collide; and keys that somebody has made hot leave when they are not used any more.
//
// # How Cache decides
//
// Each shard has three lists: the window, where every entry begins, and the main part,
// which is probation and protected. A hit only counts, up to 3, in the entry; it moves nothing
// and takes no lock for itself. What it counts is looked at when the entry comes to the end
// of its list: if it has been hit, it gets a second chance in the window, or goes on to
// protected. An entry at the end of the window competes with the one that the main part would
// evict: only if it has been used more often, of late, it takes its place. Frequencies are
// from 0 to 15, and halved from time to time.
//
// Keys that were evicted are remembered for some time, as ghosts of four bytes, with their
// frequency and the side that evicted them. A miss on a ghost of the window, evicted only
// shortly before, says that the window was too small: it grows a little, and shrinks for a
// ghost of the main part. So the share of the window finds its place anywhere between 1 % and
// 99 % of the capacity, for all shards together. Because ghosts know only what a slightly
// larger part would have gained, a guard beside them runs two caches of keys only, on a
// sample, one all window and one with the smallest, and steps in when one of them does
// clearly better.
//
// The ideas come from W-TinyLFU (G. Einziger, R. Friedman and B. Manes, "TinyLFU: A Highly
// Efficient Cache Admission Policy", ACM Transactions on Storage, 2017), ARC (N. Megiddo and
// D. Modha, FAST 2003), CLOCK, and set dueling (M. Qureshi and others, "Adaptive Insertion
// Policies for High Performance Caching", ISCA 2007).
package lfu
