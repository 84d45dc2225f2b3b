package arena

import "math/bits"

// slots is the number of entries that a bucket holds: as many as fit into 64 bytes
// with a one-byte tag and a four-byte node number each, and the overflow count.
const slots = 12

// loadPercent bounds how full the index may be. At 70 % one look-up in
// twenty reads a second bucket; the index costs 64/(12·0.7) = 7.6 bytes an entry.
const loadPercent = 70

// A bucket is one cache line of the index.
//
// Invariants, for bucket b of the index:
//
//	tag(b, i) == 0  ⇔  slot i of b is free
//	overflow(b) == number of entries whose home is at or before b, and whose
//	               bucket is after b (cyclically)
type bucket struct {
	lo       uint64 // tags of slots 0 to 7, a byte each
	hi       uint32 // tags of slots 8 to 11
	overflow uint32
	node     [slots]uint32
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// tagOf returns the index tag of a hash: its low byte, but never 0, which says free.
// The bucket number comes from the high bits, so that the two are independent.
func tagOf(h uint32) uint8 {
	return uint8(h) | uint8((uint32(uint8(h))-1)>>31)
}

// zeroBytes marks the zero bytes of x, by their high bits. A byte 0x01 just above a
// zero byte may be marked too (Hacker's Delight, section 6-1): a look-up compares
// keys anyway, and the lowest mark, which insertion uses, is always a true one.
func zeroBytes(x uint64) uint64 { return (x - ones) &^ x & highs }

func zeroBytes32(x uint32) uint32 { return (x - ones&0xffffffff) &^ x & (highs & 0xffffffff) }

func (b *bucket) setTag(slot uint, tag uint8) {
	if slot < 8 {
		b.lo = b.lo&^(0xff<<(8*slot)) | uint64(tag)<<(8*slot)
	} else {
		s := 8 * (slot - 8)
		b.hi = b.hi&^(0xff<<s) | uint32(tag)<<s
	}
}

func (b *bucket) tag(slot uint) uint8 {
	if slot < 8 {
		return uint8(b.lo >> (8 * slot))
	}
	return uint8(b.hi >> (8 * (slot - 8)))
}

// bucketsFor returns how many buckets an index for n entries has.
func bucketsFor(n int) int {
	const full = slots * loadPercent // entries per 100 buckets
	return int((int64(n)*100 + full - 1) / full)
}

// home returns the home bucket of a hash. A multiplication instead of a mask
// (D. Lemire, "Fast random integer generation in an interval", 2019) lets the index
// have any size, so that no capacity costs twice the memory of its neighbour.
func (a *Arena[K, V]) home(h uint32) int {
	return int(uint64(h) * uint64(len(a.buckets)) >> 32)
}

// Find returns the node that holds k, or 0. h is k's hash. Complexity: O(1)
// expected, one bucket and one node read.
func (a *Arena[K, V]) Find(h uint32, k K) uint32 {
	if len(a.buckets) == 0 {
		return 0
	}
	at := a.home(h)
	pattern := uint64(tagOf(h)) * ones
	for {
		b := &a.buckets[at]
		for m := zeroBytes(b.lo ^ pattern); m != 0; m &= m - 1 {
			// A false mark can lead to a free slot, whose node is 0, the sentinel.
			n := b.node[uint(bits.TrailingZeros64(m))/8]
			if a.nodes[n].key == k && n != 0 {
				return n
			}
		}
		for m := zeroBytes32(b.hi ^ uint32(pattern)); m != 0; m &= m - 1 {
			n := b.node[8+uint(bits.TrailingZeros32(m))/8]
			if a.nodes[n].key == k && n != 0 {
				return n
			}
		}
		if b.overflow == 0 {
			return 0
		}
		at = a.after(at)
	}
}

func (a *Arena[K, V]) after(at int) int {
	if at++; at < len(a.buckets) {
		return at
	}
	return 0
}

// link enters node n, whose hash is h, into the index, which must have room.
func (a *Arena[K, V]) link(h, n uint32) {
	at := a.home(h)
	for {
		b := &a.buckets[at]
		slot := uint(slots)
		if m := zeroBytes(b.lo); m != 0 {
			slot = uint(bits.TrailingZeros64(m)) / 8
		} else if m := zeroBytes32(b.hi); m != 0 {
			slot = 8 + uint(bits.TrailingZeros32(m))/8
		}
		if slot < slots {
			b.node[slot] = n
			b.setTag(slot, tagOf(h))
			return
		}
		b.overflow++
		at = a.after(at)
	}
}

// unlink takes node n out of the index.
func (a *Arena[K, V]) unlink(n uint32) {
	h := a.hashes[n]
	at := a.home(h)
	pattern := uint64(tagOf(h)) * ones
	for {
		b := &a.buckets[at]
		for m := zeroBytes(b.lo ^ pattern); m != 0; m &= m - 1 {
			if slot := uint(bits.TrailingZeros64(m)) / 8; b.node[slot] == n {
				b.lo &^= 0xff << (8 * slot)
				b.node[slot] = 0
				return
			}
		}
		for m := zeroBytes32(b.hi ^ uint32(pattern)); m != 0; m &= m - 1 {
			if slot := uint(bits.TrailingZeros32(m)) / 8; b.node[8+slot] == n {
				b.hi &^= 0xff << (8 * slot)
				b.node[8+slot] = 0
				return
			}
		}
		b.overflow--
		at = a.after(at)
	}
}
