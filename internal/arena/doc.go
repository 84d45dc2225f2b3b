// Package arena is the storage that the caches of this module share: entries in
// one slice, found through a compact hash index and kept in intrusive lists: an Arena has
// one, Lists has several, and what both have in common is a Table.
//
// It knows nothing of capacity, weight, time or locks; a cache is a policy on top.
// What it guarantees is the cost: no pointer per entry beyond those inside K and V,
// no allocation while the number of entries stays below its high-water mark, no
// rehash of a key that is removed, and no trace of a removed entry in the index.
//
// # Layout
//
//	nodes    [ –        | k v prev next | k v prev next | … ]    numbered from 1
//	hashes   [    –     |      h        |      h        | … ]    32 bits of each node's hash
//	buckets  [ 12 tags, overflow count, 12 node numbers | … ]    64 bytes: one cache line each
//
// Nodes are linked by number, not by pointer, so the collector sees three slices
// however many entries there are. Hashes stand apart from the nodes because only
// removal and growth read them: a look-up touches one bucket and one node.
//
// # Index
//
// The index is open-addressed by bucket, after Facebook's F14 (N. Bronson and
// X. Shi, "Open-sourcing F14 for faster, more memory-efficient hash tables", 2019):
// an entry lies in its home bucket or, when that is full, in the first later bucket
// with a free slot, and every bucket that it passed over counts it in its overflow
// count. A look-up stops at the first bucket whose count is zero, and a removal
// takes its entry out of the counts again, so that there are neither tombstones nor
// shifts. An entry that was displaced stays so when its home has room again; in the
// long run one bucket in six has been passed over, and a hit reads 1.04 buckets in the
// mean instead of 1.01. It does not get worse than that.
//
// Linear probing over single 4-byte entries with backward-shift deletion was the
// alternative. It needs the home of every entry in the cluster behind a removed one,
// hence either a wider index entry or one node access for each; and its clusters
// cost more, in mispredicted branches, than one cache line of tags.
package arena
