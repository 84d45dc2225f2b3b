package lfu

import "math/bits"

// ghosts remembers keys that were evicted a short while ago: from which side, and how often
// they had been used. It stores a fingerprint of a key's hash, so that now and then one key
// is taken for another; that costs a wrong guess, never a wrong answer.
//
// It is a hash table of buckets of 8 words, which fills a cache line half. A word is
//
//	fingerprint<<17 | side<<16 | frequency<<12 | stamp
//
// and the stamp says when: the number of evictions from that side until then, in units of
// 1/128 of the number of entries. It wraps after 32 times that number, when hardly any ghost
// is left, because a new one takes the place of the oldest of its bucket.
//
// The zero value remembers nothing until init.
type ghosts struct {
	words   []uint32
	entries int       // of the cache, for which this was made
	clock   [2]uint32 // by side: evictions, in units
	rest    [2]uint32 // and what there is of the next unit
	unit    uint32    // evictions
	reach   uint32    // a ghost is near if it is that many units old at most
}

// A side is the part of a shard from which an entry was evicted.
type side uint32

const (
	windowSide side = iota
	mainSide
)

const (
	ghostsPerEntry = 3 // the more, the longer the memory; what steers must be near anyway
	ghostBucket    = 8
	stampMask      = 1<<12 - 1
)

// A ghost is what is remembered of a key.
type ghost struct {
	side      side
	near      bool
	frequency uint32
}

// init forgets all ghosts, and makes room for those of a shard of so many entries.
func (g *ghosts) init(entries int) {
	buckets := (int64(entries)*ghostsPerEntry + ghostBucket - 1) / ghostBucket
	unit := max(1, entries/128)
	*g = ghosts{
		words:   make([]uint32, buckets*ghostBucket),
		entries: entries,
		unit:    uint32(unit),
		reach:   uint32(max(1, entries/4) / unit),
	}
}

// place returns the bucket and the fingerprint that belong to a hash.
func (g *ghosts) place(h uint32) (bucket []uint32, fingerprint uint32) {
	// The finalizer of MurmurHash3, because the index and the shards have used the bits of h.
	x := uint64(h) * 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	i, _ := bits.Mul64(x, uint64(len(g.words)/ghostBucket))
	fingerprint = uint32(x>>8) & 0x7fff
	if fingerprint == 0 {
		fingerprint = 1 // so that no ghost is the word 0
	}
	return g.words[i*ghostBucket : (i+1)*ghostBucket], fingerprint
}

// age returns how many units ago, at most 4095, a ghost was put.
func (g *ghosts) age(word uint32) uint32 {
	return (g.clock[word>>16&1] - word) & stampMask
}

// find returns what is remembered of the key with hash h, and where, or nil.
func (g *ghosts) find(h uint32) (found ghost, at *uint32) {
	if len(g.words) == 0 {
		return found, nil
	}
	bucket, fingerprint := g.place(h)
	for i, word := range bucket {
		if word>>17 == fingerprint {
			return ghost{
				side:      side(word >> 16 & 1),
				near:      g.age(word) <= g.reach,
				frequency: word >> 12 & maxFrequency,
			}, &bucket[i]
		}
	}
	return found, nil
}

// take is find, and forgets the ghost.
func (g *ghosts) take(h uint32) (found ghost, ok bool) {
	found, at := g.find(h)
	if at == nil {
		return found, false
	}
	*at = 0
	return found, true
}

// put remembers that the key with hash h was evicted just now.
func (g *ghosts) put(h uint32, from side, frequency uint32) {
	if g.rest[from]++; g.rest[from] == g.unit {
		g.rest[from] = 0
		g.clock[from]++
	}
	bucket, fingerprint := g.place(h)
	oldest := uint32(0) // age and place; an empty place is older than all
	for i, word := range bucket {
		age := g.age(word)
		if word == 0 {
			age = stampMask + 1
		}
		oldest = max(oldest, age*ghostBucket+uint32(i))
	}
	bucket[oldest%ghostBucket] = fingerprint<<17 | uint32(from)<<16 | frequency<<12 | g.clock[from]&stampMask
}
