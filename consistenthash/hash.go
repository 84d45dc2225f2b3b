package consistenthash

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// hashVersion names all that decides where a key lands beside the algorithm's own parameters: how
// keys, nodes, points, slots and scores are hashed, and in what order ties are broken. It is
// part of Fingerprint, and changes when any of that does.
const hashVersion = "consistenthash/1"

// Every position is an XXH64 with seed 0, mixed where it is combined. The constants keep the
// families apart: without them a key that is called like a node would score lowest on that
// node, because mix(0) is 0.
const (
	nodeSalt = 0x6e6f64652d696431 // "node-id1"
	slotSalt = 0x736c6f742d6e6f31 // "slot-no1"
	skipSalt = 0x736b69702d6e6f31 // "skip-no1"
	golden   = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
)

// mix is the finalizer of MurmurHash3 (A. Appleby): a bijection in which each bit of x changes
// each bit of the result with probability 1/2. XXH64 alone is not enough for scores: those of
// one key on several nodes must be independent, while all that differs is the other operand of
// an exclusive or.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return x
}

// HashUint64 returns a position for keys that are numbers, for Jump, GetHash and their like: a
// bijection, so different numbers have different positions. A Map has a method of this name, which
// knows its Seed.
func HashUint64(k uint64) uint64 {
	return mix(k + golden)
}

// hashNode returns what stands for a node in all scores and points.
func hashNode(id string) uint64 {
	return mix(xxhash.Sum64String(id) + nodeSalt)
}

// hashSlot returns the position that stands for all keys of a slot.
func hashSlot(slot int) uint64 {
	return mix(uint64(slot) + slotSalt)
}

// point returns the place of a node's virtual node i: SplitMix64's sequence, begun at the node.
func point(node uint64, i int) uint64 {
	return mix(node + (uint64(i)+1)*golden)
}

// scale returns floor(h·n / 2^64), which divides all positions evenly among n places.
func scale(h, n uint64) uint64 {
	hi, _ := bits.Mul64(h, n)
	return hi
}

// unscale returns the first position h for which scale(h, n) is i: ceil(i·2^64 / n); i < n.
func unscale(i, n uint64) uint64 {
	q, r := bits.Div64(i, 0, n)
	if r > 0 {
		q++
	}
	return q
}
