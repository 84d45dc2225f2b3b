package bloom

import (
	"math/bits"
	"sync/atomic"
)

// A block is a small Bloom filter that lies in one cache line: eight lanes of 64 bits, in each of
// which a key sets one bit. That one line is all of memory that an operation touches is what
// makes blocked filters fast; that the bits are one a lane means that their places need no
// computing. (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007;
// the lanes are those of the "split" filters of Impala and Parquet, twice as wide.)
type block [blockLanes]uint64

const (
	blockLanes = 8
	blockWidth = 64 // of a lane
	blockBytes = blockLanes * blockWidth / 8

	// blockLeastFPR is the least rate for which blocks are made: there they take about four
	// times what Classic does.
	blockLeastFPR = 1e-8
)

// blocks is a filter made of blocks. It is not safe for concurrent use, except the methods
// whose names say so.
type blocks []block

// newBlocks returns as few blocks as n keys need at the rate p, or how many bytes these would
// be, if that is more than maxBytes.
func newBlocks(n uint64, p float64, maxBytes uint64) (bs blocks, tooMuch float64) {
	units := lanesUnits(n, p, 1<<52, blockLanes, blockWidth)
	if bytes := units * blockBytes; bytes > float64(maxBytes) {
		return nil, bytes
	}
	return make(blocks, int(units)), 0
}

// at returns the block of a hash, and what chooses the bits in it. The hash is mixed to 128 bits.
// Both halves, folded, choose the block, by h·len/2^64: the higher bits decide, but no division is
// needed (Lemire: Fast Random Integer Generation in an Interval, 2019). The middle bits of the
// lower half, from the sixth on, choose the bits: what the hashes in a block have in common are
// the highest bits.
func (bs blocks) at(h uint64) (b *block, x uint64) {
	hi, lo := bits.Mul64(h, mixer2)
	i, _ := bits.Mul64(hi^lo, uint64(len(bs)))
	return &bs[i], lo
}

// has reports whether all bits that x chooses are set. The first four loads depend on nothing but x
// and do not wait for each other. A branch after each would be mispredicted half the time for
// keys that are not there; the one after all four goes one way for nearly all of these, and the
// other for those that are there, so it costs no more than the caller's own branch on the
// result. For keys that come so far, the other four bits are nearly always set. (Without
// branches, has takes a tenth to a fifth more.)
func (b *block) has(x uint64) bool {
	if ((b[0]>>(x>>6&63))&(b[1]>>(x>>12&63))&(b[2]>>(x>>18&63))&(b[3]>>(x>>24&63)))&1 == 0 {
		return false
	}
	return b[4]&(1<<(x>>30&63)) != 0 && b[5]&(1<<(x>>36&63)) != 0 &&
		b[6]&(1<<(x>>42&63)) != 0 && b[7]&(1<<(x>>48&63)) != 0
}

// add sets the bits that x chooses, and reports whether any was not set. Half of the bits tell most
// new keys from old ones. The masks are made by rotation, because the compiler then sets bits
// in memory with one instruction each; a shift becomes a bit-test-and-set, which takes three.
func (b *block) add(x uint64) (added bool) {
	if ((b[0]>>(x>>6&63))&(b[1]>>(x>>12&63))&(b[2]>>(x>>18&63))&(b[3]>>(x>>24&63)))&1 != 0 &&
		((b[4]>>(x>>30&63))&(b[5]>>(x>>36&63))&(b[6]>>(x>>42&63))&(b[7]>>(x>>48&63)))&1 != 0 {
		return false
	}
	b[0] |= bits.RotateLeft64(1, int(x>>6&63))
	b[1] |= bits.RotateLeft64(1, int(x>>12&63))
	b[2] |= bits.RotateLeft64(1, int(x>>18&63))
	b[3] |= bits.RotateLeft64(1, int(x>>24&63))
	b[4] |= bits.RotateLeft64(1, int(x>>30&63))
	b[5] |= bits.RotateLeft64(1, int(x>>36&63))
	b[6] |= bits.RotateLeft64(1, int(x>>42&63))
	b[7] |= bits.RotateLeft64(1, int(x>>48&63))
	return true
}

// hasConcurrent is has, while others call addConcurrent.
func (b *block) hasConcurrent(x uint64) bool {
	if ((atomic.LoadUint64(&b[0])>>(x>>6&63))&
		(atomic.LoadUint64(&b[1])>>(x>>12&63))&
		(atomic.LoadUint64(&b[2])>>(x>>18&63))&
		(atomic.LoadUint64(&b[3])>>(x>>24&63)))&1 == 0 {
		return false
	}
	return atomic.LoadUint64(&b[4])&(1<<(x>>30&63)) != 0 && atomic.LoadUint64(&b[5])&(1<<(x>>36&63)) != 0 &&
		atomic.LoadUint64(&b[6])&(1<<(x>>42&63)) != 0 && atomic.LoadUint64(&b[7])&(1<<(x>>48&63)) != 0
}

// addConcurrent is add, safe for concurrent use: bits are only ever set, each in one step, so
// whoever sees all bits of a key knows that it, or what looks like it, was added, and a key
// whose addConcurrent has returned is seen by all. What is set is not written again: a line that
// is only read stays in the caches of all CPUs.
func (b *block) addConcurrent(x uint64) (added bool) {
	for i := range b {
		m := uint64(1) << (x >> (6 + 6*i) & 63)
		if atomic.LoadUint64(&b[i])&m == 0 {
			atomic.OrUint64(&b[i], m)
			added = true
		}
	}
	return added
}

// The methods below work on whole filters. They load and change words in single steps, so that
// they are safe while others call addConcurrent or hasConcurrent: they see what was added before
// they began, and perhaps what is added meanwhile.

// union sets the bits that are set in o, which is as long.
func (bs blocks) union(o blocks) {
	for i := range bs {
		for j := range bs[i] {
			if w := atomic.LoadUint64(&o[i][j]); w&^atomic.LoadUint64(&bs[i][j]) != 0 {
				atomic.OrUint64(&bs[i][j], w)
			}
		}
	}
}

// intersect clears the bits that are not set in o, which is as long.
func (bs blocks) intersect(o blocks) {
	for i := range bs {
		for j := range bs[i] {
			if w := atomic.LoadUint64(&o[i][j]); atomic.LoadUint64(&bs[i][j])&^w != 0 {
				atomic.AndUint64(&bs[i][j], w)
			}
		}
	}
}

// reset clears all bits.
func (bs blocks) reset() {
	for i := range bs {
		for j := range bs[i] {
			atomic.StoreUint64(&bs[i][j], 0)
		}
	}
}

// clone returns a copy.
func (bs blocks) clone() blocks {
	c := make(blocks, len(bs))
	for i := range bs {
		for j := range bs[i] {
			c[i][j] = atomic.LoadUint64(&bs[i][j])
		}
	}
	return c
}

// fill returns the share of the bits that are set.
func (bs blocks) fill() float64 {
	set := 0
	for i := range bs {
		for j := range bs[i] {
			set += bits.OnesCount64(atomic.LoadUint64(&bs[i][j]))
		}
	}
	return float64(set) / (float64(len(bs)) * blockBytes * 8)
}

// fpr returns the probability that a random hash finds all its bits set: in a block, the product
// over the lanes of the share of their bits that are set.
func (bs blocks) fpr() float64 {
	sum := 0.0
	for i := range bs {
		p := 1.0
		for j := range bs[i] {
			p *= float64(bits.OnesCount64(atomic.LoadUint64(&bs[i][j]))) / blockWidth
		}
		sum += p
	}
	return sum / float64(len(bs))
}
