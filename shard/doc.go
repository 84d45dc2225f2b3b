// Package shard routes keys to many databases: by remainder, slot, range, region or look-up table; asks many
// of them at once; and makes IDs that know their shard.
//
// Map is for almost everybody: it goes by a Topology, data that can be checked, stored and replaced while it is
// in use. OpenSQL puts databases behind a router. What is missing on purpose is a parser of SQL: the key is
// an argument of every call, so no statement can go to the wrong shard because it was not understood.
//
// Do not use it while one database is enough: a table can be partitioned, and reads go to replicas, within one.
// And not where it does not matter which server has a key, as for a cache: consistent hashing alone does that.
//
// # Which strategy to choose
//
//	               a key is where       choose it when                  a new shard takes   ranges of keys
//	NewSlots       a table says, for    you have no reason for          slots that you      are everywhere
//	               the slot of its      another
//	               hash                                                 choose
//	NewRange       a table says, for    queries are for ranges, and     a part of a range   are in few shards
//	               the range it is in   keys do not grow with time
//	NewDirectory   a store says, for    keys are few and great, such    nothing, until a    are everywhere
//	               the key itself       as tenants; each can move       key is put there
//	NewGeo         its region is        the law or the distance says    regions             -
//	                                    where data must be
//	NewConsistent  a ring says          it is what others use already   what the ring says  are everywhere
//	NewMod         its remainder is     data is divided so already      nearly all          are everywhere
//	NewPinned      an exception says    a few keys are too hot for      nothing             as the other
//	               or another router    where they would be                                 router has them
//	Compose        two routers say      it has a region, and is         as its routers      as its routers
//	                                    divided further within it
//
// A look-up takes, beside the hash of the key, some nanoseconds by slots and remainders, O(log n) by ranges,
// and that of a cache by a directory. None of them allocates.
//
// # Moving data
//
// A Topology divides the keys into parts, each of which is at one shard. To move a part, it is marked as Migrating
// in the next topology, copied, Fenced in the next one, so that nothing is written any more, and Serving at
// its new shard in the one after that: see Topology.Next. Each part has the epoch in which it came to be as
// it is. A process that still goes by an older topology is found out by a shard that knows the epochs
// of its parts, and refuses requests with others. DB itself sends no epochs, as it does not know how a
// database would compare them; a transaction that begins as in the example of Tx.Placement does. Without
// that, who moves a part must know that all processes go by the topology in which it is Fenced, and that
// their writes from before have ended, ahead of copying the last of it. (That a part is being copied gives
// it a new epoch as well; a shard can go on taking the one before as long as the part stays where it is.)
//
// While a part moves, two shards have its rows: what is copied already, and later what is left behind. Who asks
// all shards must have each leave out the rows whose keys it does not have, or count only one of each.
//
// # Reading and writing
//
// DB sends a statement to the database of its key: writes to the primary, and reads where the Consistency of the
// call allows: to a replica that has what the caller has written before, say. Scatter asks all shards. Gather,
// Stream and MergeSorted do so for anything else that has shards. A partial answer always comes with
// a *PartialError that names what is missing.
//
// # What can be relied on
//
// Where a key is depends on the topology and the key alone, and is the same in every process, on every machine
// and in every version: the tests hold hashes fast by published and golden vectors, and a change would be a
// breaking one. Every topology that is taken has each key exactly once: no gap, no overlap; and a Map never
// goes back to an older one.
package shard
