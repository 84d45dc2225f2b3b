package arena

import "math/bits"

// slots is the number of entries that a bucket holds: as many as fit into 64 bytes
// with a one-byte tag and a four-byte node number each, and the overflow count.
const slots = 12

// loadPercent bounds how full the index may be. At 60 % one look-up in twenty reads a
// second bucket, after long use; the index costs 64/(12·0.6) = 8.9 bytes an entry.
const loadPercent = 60

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

// Bytes are searched eight or four at a time, as words: of the bytes of x,
//
//	(x - ones) &^ x & highs
//
// marks those that are zero by their high bit (Hacker's Delight, section 6-1). A byte
// 0x01 above a zero byte may be marked too: a look-up compares keys anyway, and the lowest
// mark, by which a free slot is chosen, is always a true one. The expression is written
// out where it is used, as tagOf is: the compiler does not inline functions that are not
// generic into the instances of those that are.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080

	ones32  = 0x01010101
	highs32 = 0x80808080
)

// tagOf returns the index tag of a hash: its low byte, but never 0, which says free.
// The bucket number comes from the high bits, so that the two are independent.
func tagOf(h uint32) uint8 {
	tag := uint8(h)
	if tag == 0 {
		tag = 1
	}
	return tag
}

// bucketsFor returns how many buckets an index for n entries has.
func bucketsFor(n int) int {
	const full = slots * loadPercent // entries per 100 buckets
	return int((int64(n)*100 + full - 1) / full)
}

// home returns the home bucket of a hash. A multiplication instead of a mask
// (D. Lemire, "Fast random integer generation in an interval", 2019) lets the index
// have any size, so that no capacity costs twice the memory of its neighbour.
func (t *Table[K, V]) home(h uint32) int {
	return int(uint64(h) * uint64(len(t.buckets)) >> 32)
}

// Find returns the node that holds k, or 0. h is k's hash. Complexity: O(1)
// expected, one bucket and one node read.
func (t *Table[K, V]) Find(h uint32, k K) uint32 {
	tag := uint64(h & 0xff)
	if tag == 0 {
		tag = 1
	}
	pattern := tag * ones
	at := t.home(h)
	// Entries that were displaced long ago can leave no bucket with a count of zero, when
	// there are few; so the look-up ends after one turn at the latest.
	for range len(t.buckets) {
		b := &t.buckets[at]
		x := b.lo ^ pattern
		for m := (x - ones) &^ x & highs; m != 0; m &= m - 1 {
			// A false mark can lead to a free slot, whose node is 0.
			n := b.node[uint(bits.TrailingZeros64(m))/8]
			if t.nodes[n].key == k && n != 0 {
				return n
			}
		}
		y := b.hi ^ uint32(pattern)
		for m := (y - ones32) &^ y & highs32; m != 0; m &= m - 1 {
			n := b.node[8+uint(bits.TrailingZeros32(m))/8]
			if t.nodes[n].key == k && n != 0 {
				return n
			}
		}
		if b.overflow == 0 {
			break
		}
		at = t.after(at)
	}
	return 0
}

// after returns the bucket to try after bucket at.
func (t *Table[K, V]) after(at int) int {
	if at++; at < len(t.buckets) {
		return at
	}
	return 0
}

// link enters node n, whose hash is h, into the index, which must have room.
func (t *Table[K, V]) link(h, n uint32) {
	for at := t.home(h); ; at = t.after(at) {
		b := &t.buckets[at]
		if t.linkAt(b, h, n) {
			return
		}
		b.overflow++
	}
}

// linkAt enters node n into bucket b, unless that is full.
func (t *Table[K, V]) linkAt(b *bucket, h, n uint32) bool {
	tag := h & 0xff
	if tag == 0 {
		tag = 1
	}
	if m := (b.lo - ones) &^ b.lo & highs; m != 0 {
		shift := uint(bits.TrailingZeros64(m)) &^ 7
		b.lo |= uint64(tag) << shift
		b.node[shift/8] = n
		return true
	}
	if m := (b.hi - ones32) &^ b.hi & highs32; m != 0 {
		shift := uint(bits.TrailingZeros32(m)) &^ 7
		b.hi |= tag << shift
		b.node[8+shift/8] = n
		return true
	}
	return false
}

// unlink takes node n, whose hash is h, out of the index, in which it must be.
func (t *Table[K, V]) unlink(h, n uint32) {
	for at := t.home(h); ; at = t.after(at) {
		b := &t.buckets[at]
		if t.unlinkAt(b, h, n) {
			return
		}
		b.overflow--
	}
}

// unlinkAt takes node n out of bucket b, if it is there.
func (t *Table[K, V]) unlinkAt(b *bucket, h, n uint32) bool {
	tag := uint64(h & 0xff)
	if tag == 0 {
		tag = 1
	}
	pattern := tag * ones
	x := b.lo ^ pattern
	for m := (x - ones) &^ x & highs; m != 0; m &= m - 1 {
		if shift := uint(bits.TrailingZeros64(m)) &^ 7; b.node[shift/8] == n {
			b.lo &^= 0xff << shift
			b.node[shift/8] = 0
			return true
		}
	}
	y := b.hi ^ uint32(pattern)
	for m := (y - ones32) &^ y & highs32; m != 0; m &= m - 1 {
		if shift := uint(bits.TrailingZeros32(m)) &^ 7; b.node[8+shift/8] == n {
			b.hi &^= 0xff << shift
			b.node[8+shift/8] = 0
			return true
		}
	}
	return false
}
