package bloom

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
)

var (
	// ErrFull is in the error of Add of a Cuckoo that has no room for the key.
	ErrFull = errors.New("filter is full")
	// ErrAbsent is in the error of Delete of a Cuckoo for a key that is not in it.
	ErrAbsent = errors.New("key is not in the filter")

	// The errors that are returned are made once, so that Add and Delete allocate nothing.
	errNoRoom = fmt.Errorf("bloom: no room for a key in a Cuckoo: %w", ErrFull)
	errNoKey  = fmt.Errorf("bloom: nothing to delete from a Cuckoo: %w", ErrAbsent)
)

// A Cuckoo is a cuckoo filter: a set from which keys can be deleted. It stores a fingerprint of
// each key, of a few bits, in one of two buckets that the key's hash chooses. (Fan, Andersen,
// Kaminsky, Mitzenmacher: Cuckoo Filter: Practically Better Than Bloom, 2014.) Each operation
// touches two buckets, each in one cache line or seldom two, but for an Add that must move
// fingerprints, and allocates nothing.
//
// It needs 7.4 bits a key for 10 % false positives, 10.6 for 1 %, 13.8 for 0.1 % and 18.0 for
// 0.01 %, so at 0.1 % and below it is smaller than a Blocked; with fewer than 1,000 keys it needs
// more. The least FPR is 2e-9.
//
// Unlike a Bloom filter, a Cuckoo can be full: N keys fit, a few more may, and then Add returns an
// error. (Of all sets of N keys, about one in a million does not fit; see cuckooBuckets.) The same
// key can be added more than once, and then must be deleted as often; but there are 8 slots for
// a key, and the ninth time does not fit.
//
// A Cuckoo is not safe for concurrent use, but Contains may be called by many goroutines while
// no other method is. The zero value can only be read into.
type Cuckoo[K any] struct {
	table    cuckooTable
	hash     Hasher[K]
	n        uint64
	rate     float64
	maxBytes uint64
}

// NewCuckoo returns an empty filter. It returns an error if c is not valid, or the filter would
// be larger than c.MaxBytes.
func NewCuckoo[K any](c Config[K]) (*Cuckoo[K], error) {
	if err := c.check("Cuckoo", cuckooLeastFPR); err != nil {
		return nil, err
	}
	buckets, width := cuckooShape(c.N, c.FPR)
	if bytes := buckets * float64(width) * cuckooSlots / 8; bytes > float64(c.MaxBytes) {
		return nil, c.tooLarge(bytes)
	}
	t := cuckooTable{data: make([]byte, uint64(buckets)*uint64(width)*cuckooSlots/8+cuckooPadding)}
	t.shape(uint64(buckets), width)
	return &Cuckoo[K]{table: t, hash: c.Hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}, nil
}

// Contains reports whether k may be in the filter; false is certain, as long as no key was deleted
// that had not been added. It takes constant time.
func (f *Cuckoo[K]) Contains(k K) bool {
	t := &f.table
	i, fp := t.at(f.hash.hash(k))
	// Both buckets are always looked at: a branch after the first would often be mispredicted.
	j := t.other(i, fp)
	if t.width > 16 {
		return t.match2(i, fp)|t.match2(j, fp) != 0
	}
	// This is match written out, as the two calls would take a tenth of the time.
	p, q := i*uint64(t.width)*cuckooSlots, j*uint64(t.width)*cuckooSlots
	x := binary.LittleEndian.Uint64(t.data[p/8:])>>(p%8) ^ fp*t.ones
	y := binary.LittleEndian.Uint64(t.data[q/8:])>>(q%8) ^ fp*t.ones
	return ((x-t.ones)&^x|(y-t.ones)&^y)&t.highs != 0
}

// Add adds k. If there is no room for it, the error wraps ErrFull, and the filter is as it was. A
// key that is in the filter already is added once more, up to 8 times. It takes constant time:
// when both buckets are full, at most 1024 others are searched for one that is not, by way of
// fingerprints that can move there. The last 1 % of N keys take about five times as long as the
// mean of all.
func (f *Cuckoo[K]) Add(k K) error {
	i, fp := f.table.at(f.hash.hash(k))
	if !f.table.add(i, fp) {
		return errNoRoom
	}
	return nil
}

// Delete removes k, once if it was added more than once. If Contains of k is false, the error wraps
// ErrAbsent. It takes constant time.
//
// Only keys that were added may be deleted. A key that was not, but for which Contains is true
// nevertheless, has the fingerprint of another key: Delete removes that, and from then on
// Contains of the other key is false.
func (f *Cuckoo[K]) Delete(k K) error {
	i, fp := f.table.at(f.hash.hash(k))
	if !f.table.delete(i, fp) {
		return errNoKey
	}
	return nil
}

// Len returns the number of fingerprints in the filter: how often Add succeeded, less how often
// Delete did.
func (f *Cuckoo[K]) Len() uint64 { return f.table.used }

// Cap returns the number of slots for fingerprints. More than N of them can be used, but hardly
// ever all.
func (f *Cuckoo[K]) Cap() uint64 { return f.table.buckets * cuckooSlots }

// Bits returns the size of the filter in bits.
func (f *Cuckoo[K]) Bits() uint64 { return f.Cap() * uint64(f.table.width) }

// FillRatio returns the share of the slots that are used, from 0 to 1.
func (f *Cuckoo[K]) FillRatio() float64 { return float64(f.Len()) / float64(max(f.Cap(), 1)) }

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the number of slots that are used. A key that was added more than once counts
// as often, though it makes no more false positives than once.
func (f *Cuckoo[K]) EstimatedFPR() float64 {
	return cuckooFPR(float64(f.table.used), max(float64(f.table.buckets), 1), f.table.width)
}

// Clone returns a copy.
func (f *Cuckoo[K]) Clone() *Cuckoo[K] {
	c := *f
	c.table.data = slices.Clone(f.table.data)
	return &c
}

// Reset removes all keys.
func (f *Cuckoo[K]) Reset() {
	clear(f.table.data)
	f.table.used = 0
}

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. A filter with MapHash cannot be stored: the error
// wraps ErrNotStorable, and nothing is written.
func (f *Cuckoo[K]) WriteTo(w io.Writer) (int64, error) {
	e := newEncoder(w, &f.hash, header{
		kind: kindCuckoo, n: f.n, rate: f.rate, units: f.table.buckets,
		extra: [2]uint64{uint64(f.table.width), f.table.used}, payload: f.Bits() / 8,
	})
	e.bytes(f.table.data[:f.Bits()/8])
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo of a Cuckoo has written, and reads no byte more
// than that wrote. The file decides the size; its hash must be f's, or one of XXH if f is the zero
// value. All is checked before f is changed: on any error f is as it was. A filter larger than the
// MaxBytes that f was made with is an error, before memory for it is taken.
func (f *Cuckoo[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindCuckoo)
	hash := readHash(d, f.hash, h)
	t := d.cuckoo(h)
	n, err := d.finish()
	if err == nil {
		*f = Cuckoo[K]{table: t, hash: hash, n: h.n, rate: h.rate, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *Cuckoo[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Cuckoo[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }

const (
	cuckooSlots    = 4     // of a bucket
	cuckooLoad     = 0.945 // share of them that N keys use, if they are many; see cuckooBuckets
	cuckooMinWidth = 6     // of a fingerprint: narrower ones were not measured
	cuckooMaxWidth = 32
	cuckooLeastFPR = 2e-9 // with fingerprints of 32 bits
	cuckooPadding  = 8    // bytes after the last bucket
	cuckooSearch   = 256  // buckets that are searched from
)

// cuckooShape returns how many buckets n keys need, and how wide their fingerprints are to be for
// the rate p.
func cuckooShape(n uint64, p float64) (buckets float64, width uint) {
	buckets = cuckooBuckets(float64(n))
	width = cuckooMinWidth
	for width < cuckooMaxWidth && (width == 31 || cuckooFPR(float64(n), buckets, width) > p) {
		width++
	}
	return buckets, width
}

// cuckooBuckets returns how many buckets are needed so that n keys fit.
//
// The numbers were measured, with fingerprints of 6 bits and more. In 108,000 filters of 2,048
// slots or more, some of them for 100 million keys, the first key that did not fit came when a
// share of 0.948 of the slots was used at the earliest, and mostly when it was 0.96 to 0.97. In
// small filters the keys are spread less evenly, so up to 32 slots more are needed, or twice the
// number of keys: with these, of millions of sets of keys of many sizes about one in a million
// did not fit. Eight keys fit into two buckets in any case.
func cuckooBuckets(n float64) float64 {
	slots := n
	if n > 2*cuckooSlots {
		slots = min(2*n+6, n/cuckooLoad+32)
	}
	return 2 * math.Ceil(slots/(2*cuckooSlots))
}

// cuckooFPR returns the false-positive rate of buckets in which n slots are used. A key that is
// looked up is compared with what is in two buckets, 2n/buckets slots in the mean, each of which
// has its fingerprint with probability 1/(2^width-1). That the buckets are not all equally full
// makes the true rate a little lower.
func cuckooFPR(n, buckets float64, width uint) float64 {
	return -math.Expm1(2 * n / buckets * math.Log1p(-1/(math.Exp2(float64(width))-1)))
}

// A cuckooTable is an array of buckets of four slots, each with a fingerprint of width bits, or 0
// if it is free. The slots follow each other without a gap, from the lowest bit of the first byte
// on.
//
// The number of buckets is even, and a fingerprint that may be in bucket i may also be in bucket
// (odd - i) mod buckets, where odd is an odd number that the fingerprint alone decides. This is
// its own inverse, so a fingerprint can be moved without knowing the key; it needs no number of
// buckets that is a power of two, as the exclusive or of the paper does; and of the two buckets
// one is even and one is odd, so they are never the same.
//
// Widths are from cuckooMinWidth to 32, but not 31. So a bucket lies within the eight bytes from
// that of its first bit on, if the width is at most 16: it has at most 60 bits and begins with a
// byte or in the middle of one, or it has 64 and begins with a byte. If the width is more, that
// is so of half a bucket, except for 31: half of that has 62 bits, and may begin in the middle of
// a byte.
type cuckooTable struct {
	data    []byte // with padding, so that eight bytes can be read anywhere
	buckets uint64
	used    uint64 // slots that are not 0
	width   uint
	ones    uint64 // bit 0 of each slot in eight bytes
	highs   uint64 // the highest bit of each of them
}

// shape sets what follows from the number of buckets and the width.
func (t *cuckooTable) shape(buckets uint64, width uint) {
	t.buckets, t.width = buckets, width
	t.ones = 1 | 1<<width
	if width <= 16 {
		t.ones |= t.ones << (2 * width)
	}
	t.highs = t.ones << (width - 1)
}

// at returns the first bucket of a hash, and its fingerprint, which is not 0. The fingerprint is
// made from all of the hash, mixed once more, so keys with the same first bucket have nothing
// else in common.
func (t *cuckooTable) at(h uint64) (i, fp uint64) {
	hi, lo := bits.Mul64(h, mixer2)
	h = hi ^ lo
	i, _ = bits.Mul64(h, t.buckets)
	hi, lo = bits.Mul64(h, mixer3)
	fp, _ = bits.Mul64(hi^lo, 1<<t.width-1)
	return i, fp + 1
}

// other returns the other bucket of a fingerprint that may be in bucket i. The fingerprint is squared
// because otherwise what can be reached by moving two fingerprints would all be multiples of one
// number away, and too few buckets: of a filter with fingerprints of 6 bits for 100 million keys,
// 0.92 could be used then, and not 0.96.
func (t *cuckooTable) other(i, fp uint64) uint64 {
	odd, _ := bits.Mul64(fp*fp*mixer, t.buckets)
	j, borrow := bits.Sub64(odd|1, i, 0)
	return j + t.buckets&-borrow
}

// match returns a number that is not 0 if fp is in a slot of bucket i.
func (t *cuckooTable) match(i, fp uint64) uint64 {
	if t.width > 16 {
		return t.match2(i, fp)
	}
	// x has a 0 where fp is. Subtracting 1 from each slot then sets its highest bit, which was
	// not set; above it, the borrow may do so too, but never below. Bits beyond the bucket do
	// no harm.
	p := i * uint64(t.width) * cuckooSlots
	x := binary.LittleEndian.Uint64(t.data[p/8:])>>(p%8) ^ fp*t.ones
	return (x - t.ones) &^ x & t.highs
}

// match2 is match for wide fingerprints, of which eight bytes hold two.
func (t *cuckooTable) match2(i, fp uint64) uint64 {
	p := i * uint64(t.width) * cuckooSlots
	x := binary.LittleEndian.Uint64(t.data[p/8:])>>(p%8) ^ fp*t.ones
	p += 2 * uint64(t.width)
	y := binary.LittleEndian.Uint64(t.data[p/8:])>>(p%8) ^ fp*t.ones
	return ((x-t.ones)&^x | (y-t.ones)&^y) & t.highs
}

// find returns the first slot of bucket i that has fp, which may be 0, or -1. Asking match first
// does not make it faster.
func (t *cuckooTable) find(i, fp uint64) int {
	for s := range uint64(cuckooSlots) {
		if t.get(i, s) == fp {
			return int(s)
		}
	}
	return -1
}

// get returns the fingerprint in a slot.
func (t *cuckooTable) get(i, s uint64) uint64 {
	p := (i*cuckooSlots + s) * uint64(t.width)
	return binary.LittleEndian.Uint64(t.data[p/8:]) >> (p % 8) & (1<<t.width - 1)
}

// set puts a fingerprint, or 0, into a slot.
func (t *cuckooTable) set(i, s, fp uint64) {
	p := (i*cuckooSlots + s) * uint64(t.width)
	b := t.data[p/8:]
	w := binary.LittleEndian.Uint64(b) &^ ((1<<t.width - 1) << (p % 8))
	binary.LittleEndian.PutUint64(b, w|fp<<(p%8))
}

// add puts fp into bucket i or its other bucket, and reports false, and changes nothing, if that is
// not possible.
func (t *cuckooTable) add(i, fp uint64) bool {
	j := t.other(i, fp)
	if s := t.find(i, 0); s >= 0 {
		t.set(i, uint64(s), fp)
	} else if s := t.find(j, 0); s >= 0 {
		t.set(j, uint64(s), fp)
	} else if !t.displace(i, j, fp) {
		return false
	}
	t.used++
	return true
}

// delete frees a slot of bucket i or its other bucket that has fp, and reports whether there is
// one.
func (t *cuckooTable) delete(i, fp uint64) bool {
	s := t.find(i, fp)
	if s < 0 {
		i = t.other(i, fp)
		s = t.find(i, fp)
	}
	if s < 0 {
		return false
	}
	t.set(i, uint64(s), 0)
	t.used--
	return true
}

// displace puts fp into bucket i or j, which are full, after it has moved a fingerprint from there
// to its other bucket, perhaps after another one was moved from there, and so on. It
// searches breadth first for a bucket with a free slot, and moves nothing before it has found
// one: so the fewest fingerprints are moved, and none if it fails. (The paper walks at random,
// and after 500 steps cannot go back.)
//
// No bucket is twice on the way to the one found: what follows the second time would have been
// found after the first time, sooner.
func (t *cuckooTable) displace(i, j, fp uint64) bool {
	// A step of the search is a bucket, and from where it was reached: by moving what is in a
	// slot of the bucket of an earlier step. The three are in one number, since all of the queue
	// is cleared first.
	var queue [cuckooSearch]uint64 // bucket<<10 | slot<<8 | earlier step
	queue[0], queue[1] = i<<10, j<<10
	tail := 2
	for head := 0; head < tail; head++ {
		b := queue[head] >> 10
		for s := range uint64(cuckooSlots) {
			v := t.get(b, s)
			to := t.other(b, v)
			if t.match(to, 0) != 0 {
				t.set(to, uint64(t.find(to, 0)), v)
				for q := head; q > 1; {
					slot := queue[q] >> 8 % cuckooSlots
					q = int(queue[q] % cuckooSearch)
					from := queue[q] >> 10
					t.set(b, s, t.get(from, slot))
					b, s = from, slot
				}
				t.set(b, s, fp)
				return true
			}
			if tail < len(queue) {
				queue[tail] = to<<10 | s<<8 | uint64(head)
				tail++
			}
		}
	}
	return false
}

// cuckoo reads the buckets of a stored Cuckoo.
func (d *decoder) cuckoo(h header) cuckooTable {
	width, used := h.extra[0], h.extra[1]
	switch {
	case d.err != nil:
	case h.n < 1:
		d.corrupt("N is %d", h.n)
	case width < cuckooMinWidth || width > cuckooMaxWidth || width == 31:
		d.corrupt("fingerprints of %d bits", width)
	case h.units < 2 || h.units%2 != 0 || h.payload%width != 0 || h.units/2 != h.payload/width:
		d.corrupt("%d buckets of %d bits in %d bytes", h.units, width*cuckooSlots, h.payload)
	}
	t := cuckooTable{data: d.bytes(h.payload), used: used}
	if d.err != nil {
		return t
	}
	t.data = append(t.data, make([]byte, cuckooPadding)...)
	t.shape(h.units, uint(width))
	count := uint64(0)
	for i := range t.buckets {
		for s := range uint64(cuckooSlots) {
			if t.get(i, s) != 0 {
				count++
			}
		}
	}
	if count != used {
		d.corrupt("%d fingerprints, not %d", count, used)
	}
	return t
}
