package bloom

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"slices"
)

// A Fuse8 is a set of keys that never changes, with a false-positive rate of 1/256 = 0.4 %: a
// binary fuse filter with three places a key. (Graf, Lemire: Binary Fuse Filters: Fast and
// Smaller Than Xor Filters, 2022.) It is made of all keys at once, by BuildFuse8. Contains takes
// constant time, with three accesses to memory, and allocates nothing.
//
// It needs 9.0 bits a key for a million keys or more, 9.5 for 100,000, 10.2 for 10,000 and 11.3 for
// 1,000; a Bloom filter with that rate needs 11.5 or more.
//
// A Fuse8 is immutable, so it is safe for concurrent use by multiple goroutines; but ReadFrom and
// UnmarshalBinary replace it, and while they do so nothing else may be called. The zero value
// contains nothing, and can be read into.
type Fuse8[K any] struct {
	fuse     fuse[uint8]
	hash     Hasher[K]
	maxBytes uint64
}

// BuildFuse8 returns a filter of the keys. Keys may come more than once; their order makes no
// difference, not even to what WriteTo writes. It takes time in proportion to n·log n for n keys,
// about 150 ns a key for a million, and meanwhile about 30 bytes of memory a key.
//
// Of c, Hash and MaxBytes are as for other filters; N may be 0, or about the number of keys,
// which saves a little time; FPR may be 0, or at least 1/256. It returns an error if c is not
// valid, or the filter would be larger than c.MaxBytes.
func BuildFuse8[K any](c Config[K], keys iter.Seq[K]) (*Fuse8[K], error) {
	f, err := buildFuse[uint8](&c, "Fuse8", keys)
	if err != nil {
		return nil, err
	}
	return &Fuse8[K]{fuse: f, hash: c.Hash, maxBytes: c.MaxBytes}, nil
}

// Contains reports whether k may be in the set; false is certain.
func (f *Fuse8[K]) Contains(k K) bool {
	return len(f.fuse.prints) > 0 && f.fuse.contains(f.hash.hash(k))
}

// ContainsHash is Contains for who has the hash already, that of Hasher.Hash.
func (f *Fuse8[K]) ContainsHash(h uint64) bool {
	return len(f.fuse.prints) > 0 && f.fuse.contains(h)
}

// Len returns the number of distinct hashes of the keys: the number of distinct keys, unless two
// have the same hash of 64 bits.
func (f *Fuse8[K]) Len() uint64 { return f.fuse.n }

// Bits returns the size of the filter in bits.
func (f *Fuse8[K]) Bits() uint64 { return uint64(len(f.fuse.prints)) * 8 }

// EstimatedFPR returns the share of the keys not in the set for which Contains is true: 1/256, or 0
// if the set is empty.
func (f *Fuse8[K]) EstimatedFPR() float64 { return f.fuse.fpr() }

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. A filter with MapHash cannot be stored: the error
// wraps ErrNotStorable, and nothing is written.
func (f *Fuse8[K]) WriteTo(w io.Writer) (int64, error) {
	e := newEncoder(w, &f.hash, f.fuse.header(kindFuse8))
	f.fuse.write(e)
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo of a Fuse8 has written, and reads no byte more
// than that wrote. The hash of the file must be f's, or one of XXH if f is the zero value. All is
// checked before f is changed: on any error f is as it was. A filter larger than the MaxBytes that
// f was made with is an error, before memory for it is taken.
func (f *Fuse8[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindFuse8)
	hash := readHash(d, f.hash, h)
	core := readFuse[uint8](d, h)
	n, err := d.finish()
	if err == nil {
		*f = Fuse8[K]{fuse: core, hash: hash, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *Fuse8[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Fuse8[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }

// A Fuse16 is a Fuse8 with twice the bits, and a false-positive rate of 1/65536 = 0.0015 %. It
// needs 18.1 bits a key for a million keys or more; a Bloom filter with that rate needs 23.1 or
// more.
//
// A Fuse16 is immutable, so it is safe for concurrent use by multiple goroutines; but ReadFrom and
// UnmarshalBinary replace it, and while they do so nothing else may be called. The zero value
// contains nothing, and can be read into.
type Fuse16[K any] struct {
	fuse     fuse[uint16]
	hash     Hasher[K]
	maxBytes uint64
}

// BuildFuse16 is BuildFuse8 for a Fuse16: FPR may be 0, or at least 1/65536.
func BuildFuse16[K any](c Config[K], keys iter.Seq[K]) (*Fuse16[K], error) {
	f, err := buildFuse[uint16](&c, "Fuse16", keys)
	if err != nil {
		return nil, err
	}
	return &Fuse16[K]{fuse: f, hash: c.Hash, maxBytes: c.MaxBytes}, nil
}

// Contains reports whether k may be in the set; false is certain.
func (f *Fuse16[K]) Contains(k K) bool {
	return len(f.fuse.prints) > 0 && f.fuse.contains(f.hash.hash(k))
}

// ContainsHash is Contains for who has the hash already, that of Hasher.Hash.
func (f *Fuse16[K]) ContainsHash(h uint64) bool {
	return len(f.fuse.prints) > 0 && f.fuse.contains(h)
}

// Len returns the number of distinct hashes of the keys: the number of distinct keys, unless two
// have the same hash of 64 bits.
func (f *Fuse16[K]) Len() uint64 { return f.fuse.n }

// Bits returns the size of the filter in bits.
func (f *Fuse16[K]) Bits() uint64 { return uint64(len(f.fuse.prints)) * 16 }

// EstimatedFPR returns the share of the keys not in the set for which Contains is true: 1/65536,
// or 0 if the set is empty.
func (f *Fuse16[K]) EstimatedFPR() float64 { return f.fuse.fpr() }

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. A filter with MapHash cannot be stored: the error
// wraps ErrNotStorable, and nothing is written.
func (f *Fuse16[K]) WriteTo(w io.Writer) (int64, error) {
	e := newEncoder(w, &f.hash, f.fuse.header(kindFuse16))
	f.fuse.write(e)
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo of a Fuse16 has written, and reads no byte more
// than that wrote. The hash of the file must be f's, or one of XXH if f is the zero value. All is
// checked before f is changed: on any error f is as it was. A filter larger than the MaxBytes that
// f was made with is an error, before memory for it is taken.
func (f *Fuse16[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindFuse16)
	hash := readHash(d, f.hash, h)
	core := readFuse[uint16](d, h)
	n, err := d.finish()
	if err == nil {
		*f = Fuse16[K]{fuse: core, hash: hash, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *Fuse16[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Fuse16[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }

// A fuse is what Fuse8 and Fuse16 have in common: an array of fingerprints in segments of equal
// length. A key has a place in each of three segments that follow each other, and a
// fingerprint that is the exclusive or of what is in these places:
//
//	prints[a] ^ prints[b] ^ prints[c] == fingerprint of the key
//
// The first of the three may be any but the last two, so the places at both ends of the array are
// those of fewer keys. Building starts from there, and that lets the array be only an eighth
// larger than the number of keys.
type fuse[T fingerprint] struct {
	prints []T    // none if there are no keys
	starts uint64 // places that may be the first of a key: all but those in the last two segments
	length uint64 // of a segment: a power of two, at most 1<<24
	seed   uint64
	n      uint64 // distinct hashes
}

// A fingerprint is what a fuse stores.
type fingerprint interface{ uint8 | uint16 }

const (
	// fuseMaxPrints is the most fingerprints in a fuse, so that their places are numbers of 32
	// bits.
	fuseMaxPrints = 1<<32 - 1
	// fuseMaxLength is the greatest length of a segment: 24 bits of a hash choose a place in it.
	fuseMaxLength = 1 << 24
	// fuseLeastSize is the least number of fingerprints a key.
	fuseLeastSize = 1.125
)

// places returns the three places of a mixed hash in an array of the given shape, and its fingerprint.
// The first place is h·starts/2^64, so it does not depend on the seed, and hashes in order have
// their places nearly in order: this makes building fast. The rest comes from the hash mixed once
// more, with the seed: 24 bits for each of the other places, and 16 that neither has.
func places(h, seed, starts, length uint64) (a, b, c, print uint64) {
	a, _ = bits.Mul64(h, starts)
	hi, lo := bits.Mul64(h^seed, mixer3)
	x := hi ^ lo
	b = (a + length) ^ (x >> 16 & (length - 1))
	c = (a + 2*length) ^ (x >> 40 & (length - 1))
	return a, b, c, x
}

// contains reports whether a hash may be in f, which must not be empty.
func (f *fuse[T]) contains(h uint64) bool {
	hi, lo := bits.Mul64(h, mixer2)
	return f.has(hi ^ lo)
}

// has reports whether a mixed hash may be in f, which must not be empty.
func (f *fuse[T]) has(h uint64) bool {
	a, b, c, print := places(h, f.seed, f.starts, f.length)
	return f.prints[a]^f.prints[b]^f.prints[c] == T(print)
}

// fuseFPR returns the false-positive rate of fingerprints of type T.
func fuseFPR[T fingerprint]() float64 { return 1 / (float64(^T(0)) + 1) }

// fpr returns the false-positive rate.
func (f *fuse[T]) fpr() float64 {
	if f.n == 0 {
		return 0
	}
	return fuseFPR[T]()
}

// fuseShape returns how many segments the attempt with the number try is made with for n keys,
// and how long they are. The length is that of the paper, and so is the size: 1.125 fingerprints
// a key if the keys are many, and more if they are few.
//
// An attempt fails if the keys do not peel; see build. Most succeed, but with some numbers of keys,
// just above those at which the length changes, segments half as long are better: so every second
// attempt has these. After every 16 attempts the array grows by half.
//
// Attempts 64 and later, which nobody will see who does not choose the hashes, have just three
// segments, each of at least four places a key. Then each key is an edge between two places drawn
// at random, one in the second segment and one in the third. The expected number of cycles in
// such a graph is less than the sum of (1/4)^2k/2k, which is 1/31, and edges without a cycle
// peel, whatever the first places are. So all attempts fail only if the seeds are bad one after
// the other. (Above 4 million keys, such segments would be too long. There the array goes on
// growing until it is too large.)
func fuseShape(n uint64, try int) (segments, length uint64) {
	x := float64(max(n, 2))
	if try >= 64 && n <= 1<<22 {
		return 3, 1 << bits.Len64(4*n-1)
	}
	// These are the paper's formulas for three places a key.
	length = uint64(1) << min(int(math.Log(x)/math.Log(3.33)+2.25), 18)
	size := x * max(fuseLeastSize, 0.875+0.25*math.Log(1e6)/math.Log(x))
	size *= math.Pow(1.5, float64(try/16))
	if try%2 == 1 {
		length /= 2
	}
	segments = max(3, uint64(math.Ceil(size/float64(length))))
	return segments, length
}

// A peeled key is one that had a place for itself when the keys peeled before it were gone.
type peeled struct{ key, place uint32 }

// build fills f, whose shape and seed are set, with the hashes, which are distinct and in order,
// and reports false if that is not possible.
//
// A place that one key only has can be given any fingerprint, so that key can be settled last,
// and is taken away, which may leave other places to one key. If in this way all keys peel, then
// settling them in the opposite order changes no place that counts for a key settled before. For
// each place it is enough to know how many keys have it, and the exclusive or of their numbers:
// when one is left, that is its number.
func (f *fuse[T]) build(hashes []uint64) bool {
	type cell struct{ count, keys uint32 }
	cells := make([]cell, len(f.prints))
	for k, h := range hashes {
		a, b, c, _ := places(h, f.seed, f.starts, f.length)
		for _, p := range [...]uint64{a, b, c} {
			cells[p].count++
			cells[p].keys ^= uint32(k)
		}
	}
	order := make([]peeled, 0, len(hashes))
	var todo []uint32
	for p := range cells {
		for todo = append(todo, uint32(p)); len(todo) > 0; {
			p := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if cells[p].count != 1 {
				continue
			}
			k := cells[p].keys
			order = append(order, peeled{k, p})
			a, b, c, _ := places(hashes[k], f.seed, f.starts, f.length)
			for _, p := range [...]uint64{a, b, c} {
				cells[p].count--
				cells[p].keys ^= k
				if cells[p].count == 1 {
					todo = append(todo, uint32(p))
				}
			}
		}
	}
	if len(order) < len(hashes) {
		return false
	}
	for _, o := range slices.Backward(order) {
		a, b, c, print := places(hashes[o.key], f.seed, f.starts, f.length)
		// What is in o.place is 0 until now.
		f.prints[o.place] = T(print) ^ f.prints[a] ^ f.prints[b] ^ f.prints[c]
	}
	return true
}

// buildFuse returns a fuse of the keys, after it has completed c.
func buildFuse[T fingerprint, K any](c *Config[K], kind string, keys iter.Seq[K]) (f fuse[T], err error) {
	rate := fuseFPR[T]()
	switch {
	case keys == nil:
		return f, fmt.Errorf("bloom: keys of a %s must not be nil", kind)
	case c.FPR != 0 && !(c.FPR > 0 && c.FPR < 1):
		return f, fmt.Errorf("bloom: FPR must be more than 0 and less than 1, got %v", c.FPR)
	case c.FPR != 0 && c.FPR < rate:
		return f, fmt.Errorf("bloom: FPR of a %s is %v, which is more than %v", kind, rate, c.FPR)
	case c.SingleWinner:
		return f, fmt.Errorf("bloom: SingleWinner is for a Concurrent or a Rotating, not for a %s", kind)
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	c.MaxBytes = min(c.MaxBytes, math.MaxInt)
	if err := c.Hash.resolve(); err != nil {
		return f, err
	}
	most := min(c.MaxBytes/fuseBytes[T](), fuseMaxPrints)
	hashes, ok := collect(c, keys, most)
	if !ok {
		return f, fmt.Errorf("bloom: a %s of so many keys takes more than %d bytes: %w",
			kind, most*fuseBytes[T](), ErrTooLarge)
	}
	f, tooMuch := newFuse[T](hashes, most)
	if tooMuch > 0 {
		return f, fmt.Errorf("bloom: a %s of %d keys takes %d bytes, the most is %d: %w",
			kind, len(hashes), tooMuch*fuseBytes[T](), most*fuseBytes[T](), ErrTooLarge)
	}
	return f, nil
}

// newFuse returns a fuse of hashes, which are distinct and in order, or how many fingerprints it
// would have, if that is more than most. The shapes and seeds of the attempts are fixed, so the
// result depends on nothing else.
func newFuse[T fingerprint](hashes []uint64, most uint64) (f fuse[T], tooMuch uint64) {
	if len(hashes) == 0 {
		return f, 0
	}
	for try := 0; ; try++ {
		segments, length := fuseShape(uint64(len(hashes)), try)
		switch size := segments * length; {
		case size <= most:
			f = fuse[T]{
				prints: make([]T, size), starts: size - 2*length, length: length,
				seed: uint64(try+1) * mixer, n: uint64(len(hashes)),
			}
			if f.build(hashes) {
				return f, 0
			}
		case try%2 == 1:
			// The even attempt before it was not smaller.
			return fuse[T]{}, size
		}
	}
}

// collect returns the distinct hashes of keys, in order, or reports false if they are certainly too
// many for an array of most fingerprints: as soon as that is known, for keys need not end.
func collect[K any](c *Config[K], keys iter.Seq[K], most uint64) (hashes []uint64, ok bool) {
	limit := int(float64(most) / fuseLeastSize)
	// N is not trusted: it may save the first few steps of growing.
	hashes = make([]uint64, 0, min(c.N, uint64(limit), 1<<20))
	for k := range keys {
		// Some keys may be the same. Sorting is put off for so long that it takes time in
		// proportion to the keys that came meanwhile, times a logarithm.
		if len(hashes) > limit+limit/8 {
			if hashes = distinct(hashes); len(hashes) > limit {
				return nil, false
			}
		}
		hi, lo := bits.Mul64(c.Hash.hash(k), mixer2)
		hashes = append(hashes, hi^lo)
	}
	hashes = distinct(hashes)
	return hashes, len(hashes) <= limit
}

// distinct sorts hashes and removes all but one of those that are equal.
func distinct(hashes []uint64) []uint64 {
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// fuseBytes returns the size of a fingerprint of type T.
func fuseBytes[T fingerprint]() uint64 { return uint64(bits.Len16(uint16(^T(0)))) / 8 }

// header returns what is stored before the fingerprints.
func (f *fuse[T]) header(kind filterKind) header {
	size := uint64(len(f.prints))
	return header{
		kind: kind, n: f.n, rate: fuseFPR[T](), units: size,
		extra: [2]uint64{f.length, f.seed}, payload: size * fuseBytes[T](),
	}
}

// write writes the fingerprints.
func (f *fuse[T]) write(e *encoder) {
	switch prints := any(f.prints).(type) {
	case []uint8:
		e.bytes(prints)
	case []uint16:
		var buf [512]byte
		for part := range slices.Chunk(prints, len(buf)/2) {
			b := buf[:0]
			for _, p := range part {
				b = binary.LittleEndian.AppendUint16(b, p)
			}
			e.bytes(b)
		}
	}
}

// readFuse reads what header and write have written. Whatever the header says, the places of any
// hash are within the array.
func readFuse[T fingerprint](d *decoder, h header) (f fuse[T]) {
	if d.err != nil {
		return f
	}
	f = fuse[T]{length: h.extra[0], seed: h.extra[1], n: h.n}
	switch size := fuseBytes[T](); {
	case h.rate != fuseFPR[T]():
		d.corrupt("FPR is %v, not %v", h.rate, fuseFPR[T]())
	case h.payload%size != 0 || h.units != h.payload/size:
		d.corrupt("%d fingerprints in %d bytes", h.units, h.payload)
	case h.n == 0:
		if h.units != 0 || f.length != 0 || f.seed != 0 {
			d.corrupt("%d fingerprints of no key", h.units)
		}
		return f
	case h.n > h.units:
		d.corrupt("%d fingerprints of %d keys", h.units, h.n)
	case f.length < 1 || f.length > fuseMaxLength || f.length&(f.length-1) != 0:
		d.corrupt("segments of %d fingerprints", f.length)
	case h.units%f.length != 0 || h.units/f.length < 3:
		d.corrupt("%d fingerprints in segments of %d", h.units, f.length)
	}
	f.starts = h.units - 2*f.length
	switch any(f.prints).(type) {
	case []uint8:
		f.prints, _ = any(d.bytes(h.payload)).([]T)
	case []uint16:
		for d.err == nil && uint64(len(f.prints)) < h.units {
			for b := d.chunk(2, d.left); len(b) > 0; b = b[2:] {
				f.prints = append(f.prints, T(binary.LittleEndian.Uint16(b)))
			}
		}
	}
	return f
}
