package bloom

import (
	"fmt"
	"io"
	"math/bits"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// A Blocked is a Bloom filter of which each key touches one cache line: the default where one
// goroutine, or none any more, adds keys. Each operation takes constant time, a fixed number of
// instructions and one access to memory, and allocates nothing.
//
// It needs 5.9 bits a key for 10 % false positives, 10.1 for 1 %, 15.7 for 0.1 % and 23.6 for
// 0.01 %; below that Classic and the Fuse filters are much smaller. The least FPR is 1e-8.
//
// A Blocked is not safe for concurrent use, but Contains may be called by many goroutines while
// no other method is. See Concurrent. The zero value can only be read into.
type Blocked[K any] struct {
	blocks   blocks
	hash     Hasher[K]
	n        uint64
	rate     float64
	maxBytes uint64
}

// NewBlocked returns an empty filter. It returns an error if c is not valid, or the filter
// would be larger than c.MaxBytes.
func NewBlocked[K any](c Config[K]) (*Blocked[K], error) {
	if err := c.check("Blocked", blockLeastFPR); err != nil {
		return nil, err
	}
	bs, tooMuch := newBlocks(c.N, c.FPR, c.MaxBytes)
	if tooMuch > 0 {
		return nil, c.tooLarge(tooMuch)
	}
	return &Blocked[K]{blocks: bs, hash: c.Hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}, nil
}

// Contains reports whether k may be in the filter; false is certain.
func (f *Blocked[K]) Contains(k K) bool {
	// This is ContainsHash of the hash, written out for the usual keys: the calls would take a
	// fifth of the time.
	h := uint64(0)
	switch f.hash.form {
	case formWord:
		hi, lo := bits.Mul64(*(*uint64)(unsafe.Pointer(&k))^f.hash.seed, mixer)
		h = hi ^ lo
	case formString:
		h = xxhash.Sum64String(*(*string)(unsafe.Pointer(&k))) ^ f.hash.seed
	default:
		h = f.hash.hashOther(k)
	}
	hi, x := bits.Mul64(h, mixer2)
	i, _ := bits.Mul64(hi^x, uint64(len(f.blocks)))
	b := &f.blocks[i]
	if ((b[0]>>(x>>6&63))&(b[1]>>(x>>12&63))&(b[2]>>(x>>18&63))&(b[3]>>(x>>24&63)))&1 == 0 {
		return false
	}
	return b[4]&(1<<(x>>30&63)) != 0 && b[5]&(1<<(x>>36&63)) != 0 &&
		b[6]&(1<<(x>>42&63)) != 0 && b[7]&(1<<(x>>48&63)) != 0
}

// Add adds k, and reports whether that changed the filter: false means that k was in it
// already, or looked so.
func (f *Blocked[K]) Add(k K) (added bool) {
	// Written out likewise.
	h := uint64(0)
	switch f.hash.form {
	case formWord:
		hi, lo := bits.Mul64(*(*uint64)(unsafe.Pointer(&k))^f.hash.seed, mixer)
		h = hi ^ lo
	case formString:
		h = xxhash.Sum64String(*(*string)(unsafe.Pointer(&k))) ^ f.hash.seed
	default:
		h = f.hash.hashOther(k)
	}
	hi, x := bits.Mul64(h, mixer2)
	i, _ := bits.Mul64(hi^x, uint64(len(f.blocks)))
	b := &f.blocks[i]
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

// ContainsHash is Contains for who has the hash already: that of Hasher.Hash, or another one
// of which all 64 bits are random. One filter must see hashes of one kind only.
func (f *Blocked[K]) ContainsHash(h uint64) bool {
	b, x := f.blocks.at(h)
	return b.has(x)
}

// AddHash is Add for who has the hash already; see ContainsHash.
func (f *Blocked[K]) AddHash(h uint64) (added bool) {
	b, x := f.blocks.at(h)
	return b.add(x)
}

// Union adds to f the keys that are in o. The two must have the same size and the same Hash, as they
// have if they were made with the same Config; else the error wraps ErrMismatch and f is as it
// was. The result is what adding all keys to one filter gives. It takes time in proportion to
// the size.
func (f *Blocked[K]) Union(o *Blocked[K]) error {
	err := matchBlocks(f.blocks, o.blocks, &f.hash, &o.hash)
	if err == nil {
		f.blocks.union(o.blocks)
	}
	return err
}

// Intersect leaves in f what looks as if it were in both: all keys that are in both, and more false
// positives than a filter that was given only these. The conditions are those of Union.
func (f *Blocked[K]) Intersect(o *Blocked[K]) error {
	err := matchBlocks(f.blocks, o.blocks, &f.hash, &o.hash)
	if err == nil {
		f.blocks.intersect(o.blocks)
	}
	return err
}

// matchBlocks returns an error if a bit means one thing in bs and another in os.
func matchBlocks[K any](bs, os blocks, h, oh *Hasher[K]) error {
	if len(bs) != len(os) {
		return fmt.Errorf("bloom: the filters have %d and %d blocks: %w", len(bs), len(os), ErrMismatch)
	}
	return matchHash(h, oh)
}

// EstimatedCount estimates the number of distinct keys that were added, from the bits that are
// set; with 10,000 keys or more, up to twice N, and an FPR of at most 0.1, it is wrong by less
// than 2 %. It takes time in proportion to the size.
func (f *Blocked[K]) EstimatedCount() uint64 {
	return lanesCount(f.FillRatio(), float64(len(f.blocks)), blockWidth)
}

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *Blocked[K]) EstimatedFPR() float64 { return f.blocks.fpr() }

// FillRatio returns the share of the bits that are set, from 0 to 1: about half when a filter
// of 1 % has the keys that it was made for. It takes time in proportion to the size.
func (f *Blocked[K]) FillRatio() float64 { return f.blocks.fill() }

// Bits returns the size of the filter in bits.
func (f *Blocked[K]) Bits() uint64 { return uint64(len(f.blocks)) * blockBytes * 8 }

// Clone returns a copy.
func (f *Blocked[K]) Clone() *Blocked[K] {
	c := *f
	c.blocks = f.blocks.clone()
	return &c
}

// Reset removes all keys.
func (f *Blocked[K]) Reset() { clear(f.blocks) }

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. A filter with MapHash cannot be stored: the error
// wraps ErrNotStorable, and nothing is written.
func (f *Blocked[K]) WriteTo(w io.Writer) (int64, error) {
	return writeBlocks(w, f.blocks, &f.hash, header{kind: kindBlocks, n: f.n, rate: f.rate})
}

// ReadFrom replaces the filter by one that WriteTo of a Blocked or a Concurrent has written, and
// reads no byte more than that wrote. The file decides the size; its hash must be f's, or one of
// XXH if f is the zero value. All is checked before f is changed: on any error f is as it was. A
// filter larger than the MaxBytes that f was made with is an error, before memory for it is taken.
func (f *Blocked[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindBlocks)
	hash := readHash(d, f.hash, h)
	bs := d.blocks(h.units)
	n, err := d.finish()
	if err == nil {
		*f = Blocked[K]{blocks: bs, hash: hash, n: h.n, rate: h.rate, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *Blocked[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Blocked[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }
