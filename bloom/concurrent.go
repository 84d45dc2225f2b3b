package bloom

import (
	"io"
)

// A Concurrent is a Bloom filter that any number of goroutines may ask and add to. There is no
// lock: a key that is there is found with plain loads, and bits are set with one atomic
// operation each.
//
// It is a Blocked otherwise: the same bits for the same keys, the same memory, and each can read
// what the other has stored (without SingleWinner). Contains takes 2 or 3 ns more, and Add of a new key
// three times as long, for its atomic operations.
//
// With Config.SingleWinner, of the goroutines that add the same key at the same time at most
// one gets true: the way to do something once for each key, and, if the filter errs, not at all.
// All bits of a key then lie in one word, which is changed in one step. That takes more
// memory: 5.2 bits a key for 10 % false positives, 12.9 for 1 %, 25.3 for 0.1 % and 48.5 for
// 0.01 %, which is the least FPR. Without it, true means only that this call set a bit: two
// goroutines that each set some of a key's bits are both told so.
//
// A Concurrent is safe for concurrent use by multiple goroutines, except ReadFrom and
// UnmarshalBinary, during which no other method may be called. A key whose Add has returned is
// found by every Contains that begins after that. The zero value can only be read into.
type Concurrent[K any] struct {
	shared
	hash     Hasher[K]
	n        uint64
	rate     float64
	maxBytes uint64
}

// NewConcurrent returns an empty filter. It returns an error if c is not valid, or the filter
// would be larger than c.MaxBytes.
func NewConcurrent[K any](c Config[K]) (*Concurrent[K], error) {
	least := blockLeastFPR
	if c.SingleWinner {
		least = wordLeastFPR
	}
	if err := c.check("Concurrent", least); err != nil {
		return nil, err
	}
	s, tooMuch := newShared(c.N, c.FPR, c.MaxBytes, c.SingleWinner)
	if tooMuch > 0 {
		return nil, c.tooLarge(tooMuch)
	}
	return &Concurrent[K]{shared: s, hash: c.Hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}, nil
}

// Contains reports whether k may be in the filter; false is certain.
func (f *Concurrent[K]) Contains(k K) bool { return f.has(f.hash.hash(k)) }

// Add adds k, and reports whether that changed the filter: false means that k was in it
// already, or looked so.
func (f *Concurrent[K]) Add(k K) (added bool) { return f.add(f.hash.hash(k)) }

// ContainsHash is Contains for who has the hash already: that of Hasher.Hash, or another one
// of which all 64 bits are random. One filter must see hashes of one kind only.
func (f *Concurrent[K]) ContainsHash(h uint64) bool { return f.has(h) }

// AddHash is Add for who has the hash already; see ContainsHash.
func (f *Concurrent[K]) AddHash(h uint64) (added bool) { return f.add(h) }

// Union adds to f the keys that are in o. The two must have the same size and the same Hash, as they
// have if they were made with the same Config; else the error wraps ErrMismatch and f is as it
// was. It takes time in proportion to the size.
func (f *Concurrent[K]) Union(o *Concurrent[K]) error {
	err := f.match(o)
	if err == nil {
		f.blocks.union(o.blocks)
	}
	return err
}

// Intersect leaves in f what looks as if it were in both: all keys that are in both, and more false
// positives than a filter that was given only these. The conditions are those of Union. A key
// that is added to both meanwhile may get lost.
func (f *Concurrent[K]) Intersect(o *Concurrent[K]) error {
	err := f.match(o)
	if err == nil {
		f.blocks.intersect(o.blocks)
	}
	return err
}

// match returns an error if a bit means one thing in f and another in o.
func (f *Concurrent[K]) match(o *Concurrent[K]) error {
	if f.lanes != o.lanes {
		return errLanes
	}
	return matchBlocks(f.blocks, o.blocks, &f.hash, &o.hash)
}

// EstimatedCount estimates the number of distinct keys that were added, from the bits that are
// set; with 10,000 keys or more, up to twice N, and an FPR of at most 0.1, it is wrong by less
// than 2 %. It takes time in proportion to the size.
func (f *Concurrent[K]) EstimatedCount() uint64 { return f.count() }

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *Concurrent[K]) EstimatedFPR() float64 { return f.fpr() }

// FillRatio returns the share of the bits that are set, from 0 to 1. It takes time in
// proportion to the size.
func (f *Concurrent[K]) FillRatio() float64 { return f.blocks.fill() }

// Bits returns the size of the filter in bits.
func (f *Concurrent[K]) Bits() uint64 { return uint64(len(f.blocks)) * blockBytes * 8 }

// Clone returns a copy, which has what was added before Clone was called, and perhaps some of
// what was added meanwhile.
func (f *Concurrent[K]) Clone() *Concurrent[K] {
	c := *f
	c.blocks = f.blocks.clone()
	return &c
}

// Reset removes all keys. A key that is added meanwhile may get lost.
func (f *Concurrent[K]) Reset() { f.blocks.reset() }

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. What was added before the call is in it, and perhaps
// some of what is added meanwhile. A filter with MapHash cannot be stored: the error wraps
// ErrNotStorable, and nothing is written.
func (f *Concurrent[K]) WriteTo(w io.Writer) (int64, error) {
	h := header{kind: kindBlocks, n: f.n, rate: f.rate}
	if f.lanes > 0 {
		h.kind, h.extra[0] = kindWords, uint64(f.lanes)
	}
	return writeBlocks(w, f.blocks, &f.hash, h)
}

// ReadFrom replaces the filter by one that WriteTo of a Concurrent or a Blocked has written, and
// reads no byte more than that wrote. The file decides the size; its hash must be
// f's, or one of XXH if f is the zero value; and if f has SingleWinner, the file must have it, too. (If
// only the file has it, f gets it.) All is checked before f
// is changed: on any error f is as it was. A filter larger than the MaxBytes that f was made
// with is an error, before memory for it is taken.
func (f *Concurrent[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	wanted := []filterKind{kindWords, kindBlocks}
	if f.lanes > 0 {
		wanted = wanted[:1]
	}
	h := d.header(wanted...)
	hash := readHash(d, f.hash, h)
	s := d.shared(h)
	n, err := d.finish()
	if err == nil {
		*f = Concurrent[K]{shared: s, hash: hash, n: h.n, rate: h.rate, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *Concurrent[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Concurrent[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }
