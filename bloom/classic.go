package bloom

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"reflect"
	"unsafe"

	bnb "github.com/bits-and-blooms/bloom/v3"
)

// A Classic is the Bloom filter of 1970: one array of m bits, in which a key sets k, wherever they
// are. It is the smallest of the Bloom filters and has no least FPR, but an operation touches up to
// k cache lines: Blocked is several times as fast. It needs 4.8 bits a key for 10 % false
// positives, 9.6 for 1 %, 14.4 for 0.1 % and 19.2 for 0.01 %. (Bloom: Space/Time Trade-offs in Hash
// Coding with Allowable Errors, 1970.)
//
// It is a filter of bits-and-blooms/bloom with a type of keys, and with checks where data comes in:
// Unwrap returns that filter, and Export and Import exchange it with programs that use that
// package. Both set the same bits for the same keys: the bytes of strings, byte slices and byte
// arrays, and the 8 bytes, little-endian, of an integer widened to 64 bits with its sign.
// There are no other types of keys. As k is a whole number, rounded up, the rate at N keys is a little
// above FPR: by up to 5 % of it where FPR is 10 % or less, and by up to 13 % where it is more. With
// fewer than 100 keys it is more: these formulas are for many, and with one key the rate is
// up to four times FPR.
// Contains and Add take time in proportion to k and to the length of the key; they allocate
// nothing.
//
// A Classic is not safe for concurrent use, but Contains may be called by many goroutines while
// no other method is. The zero value can only be read into.
type Classic[K any] struct {
	filter   *bnb.BloomFilter
	hash     Hasher[K] // says how keys are read; the hash is that of filter
	n        uint64
	rate     float64
	maxBytes uint64
}

// classicMaxK is the largest k that is read. NewClassic and NewWithEstimates of bits-and-blooms make
// filters with k = log2(1/FPR), rounded up, and no float64 is smaller than 2^-1074. A test
// takes k steps, so a file must not choose it freely.
const classicMaxK = 1 << 12

// NewClassic returns an empty filter. It returns an error if c is not valid, has a Hash, has keys of
// another type than those named above, or the filter would be larger than c.MaxBytes.
func NewClassic[K any](c Config[K]) (*Classic[K], error) {
	if c.Hash.form != formNone {
		return nil, fmt.Errorf("bloom: Hash of a Classic must be the zero value: its hash is Murmur3, which its format fixes")
	}
	hash, err := classicHash[K]()
	if err != nil {
		return nil, err
	}
	c.Hash = hash
	if err := c.check("Classic", 0); err != nil {
		return nil, err
	}
	// These are the formulas of bnb.EstimateParameters, in the same order, so that the same
	// numbers come out; but m is looked at before it is made an integer, which may not hold it.
	m := math.Ceil(-1 * float64(c.N) * math.Log(c.FPR) / math.Pow(math.Log(2), 2))
	size := math.Ceil(m/64) * 8
	if size > float64(min(c.MaxBytes, math.MaxInt/8)) {
		return nil, c.tooLarge(size)
	}
	if uint64(uint(c.N)) != c.N { // where an uint has 32 bits
		return nil, c.tooLarge(size)
	}
	f := bnb.NewWithEstimates(uint(c.N), c.FPR)
	if f.BitSet().Len() != f.Cap() {
		// The bit set of a filter that memory cannot be had for is an empty one.
		return nil, c.tooLarge(size)
	}
	return &Classic[K]{filter: f, hash: hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}, nil
}

// classicHash returns how keys of type K are read, and what their hash is called in a file.
func classicHash[K any]() (Hasher[K], error) {
	form, _ := formOf[K]()
	switch form {
	case formNone:
		return Hasher[K]{}, fmt.Errorf("bloom: keys of a Classic must be strings, byte slices, byte arrays or integers, not %v", reflect.TypeFor[K]())
	case formString, formSlice, formArray:
		return Hasher[K]{form: form, id: hashMurmurBytes}, nil
	}
	return Hasher[K]{form: form, id: hashMurmurInt}, nil
}

// keyBytes returns the bytes of the key of the given form and size that p points to: those of the
// key itself, or for integers those that it puts into buf. It reads the key as view.go says,
// and is as safe. Beyond that, the bytes of a string must not be changed: they are given
// to methods of bnb.BloomFilter only, which read them and keep nothing.
func keyBytes(p unsafe.Pointer, size uintptr, form keyForm, buf *[8]byte) []byte {
	switch form {
	case formString:
		s := *(*string)(p)
		return unsafe.Slice(unsafe.StringData(s), len(s))
	case formSlice:
		return *(*[]byte)(p)
	case formArray:
		return unsafe.Slice((*byte)(p), size)
	}
	binary.LittleEndian.PutUint64(buf[:], word(p, form))
	return buf[:]
}

// Contains reports whether k may be in the filter; false is certain.
func (f *Classic[K]) Contains(k K) bool {
	var buf [8]byte
	key := keyBytes(unsafe.Pointer(&k), unsafe.Sizeof(k), f.hash.form, &buf)
	return f.filter.Test(key)
}

// Add adds k, and reports whether that changed the filter: false means that k was in it
// already, or looked so.
func (f *Classic[K]) Add(k K) (added bool) {
	var buf [8]byte
	key := keyBytes(unsafe.Pointer(&k), unsafe.Sizeof(k), f.hash.form, &buf)
	return !f.filter.TestOrAdd(key)
}

// Unwrap returns the filter of bits-and-blooms itself, not a copy: what is added to one is in the
// other. That lasts until the filter is read anew. It is nil in the zero value.
func (f *Classic[K]) Unwrap() *bnb.BloomFilter { return f.filter }

// Union adds to f the keys that are in o. The two must have the same m and k, as they have if they
// were made with the same Config; else the error wraps ErrMismatch and f is as it was. The result
// is what adding all keys to one filter gives. It takes time in proportion to the size.
func (f *Classic[K]) Union(o *Classic[K]) error {
	err := f.match(o)
	if err == nil && f.filter != nil {
		err = f.filter.Merge(o.filter)
	}
	return err
}

// Intersect leaves in f what looks as if it were in both: all keys that are in both, and more false
// positives than a filter that was given only these. The conditions are those of Union.
func (f *Classic[K]) Intersect(o *Classic[K]) error {
	err := f.match(o)
	if err == nil && f.filter != nil {
		f.filter.BitSet().InPlaceIntersection(o.filter.BitSet())
	}
	return err
}

// match returns an error if a bit means one thing in f and another in o.
func (f *Classic[K]) match(o *Classic[K]) error {
	m, k := f.params()
	if om, ok := o.params(); om != m || ok != k {
		return fmt.Errorf("bloom: the filters have %d and %d bits, and set %d and %d for a key: %w", m, om, k, ok, ErrMismatch)
	}
	return matchHash(&f.hash, &o.hash)
}

// params returns m and k.
func (f *Classic[K]) params() (m, k uint64) {
	if f.filter == nil {
		return 0, 0
	}
	return uint64(f.filter.Cap()), uint64(f.filter.K())
}

// classicWords returns the number of words that so many bits take.
func classicWords(bits uint64) uint64 { return bits/64 + min(bits%64, 1) }

// word returns the ith word of the m bits. The bit set may have more than these, or, if somebody has
// changed it through Unwrap, fewer.
func (f *Classic[K]) word(i, m uint64) uint64 {
	ws := f.filter.BitSet().Words()
	if i >= uint64(len(ws)) {
		return 0
	}
	w := ws[i]
	if left := m - 64*i; left < 64 {
		w &= 1<<left - 1
	}
	return w
}

// EstimatedCount estimates the number of distinct keys that were added, from the bits that are set;
// with 10,000 keys or more, up to twice N, and an FPR of at most 0.1, it is wrong by less than 2 %.
// It takes time in proportion to the size. (Swamidass, Baldi: Mathematical Correction for
// Fingerprint Similarity Measures to Improve Chemical Retrieval, 2007.)
func (f *Classic[K]) EstimatedCount() uint64 {
	fill := f.FillRatio()
	if fill == 0 {
		return 0
	}
	m, k := f.params()
	// A filter that is full to the last bit says nothing but "very many".
	fill = min(fill, 1-1/(2*float64(m)))
	return uint64(max(1, math.Round(-float64(m)/float64(k)*math.Log1p(-fill))))
}

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *Classic[K]) EstimatedFPR() float64 {
	_, k := f.params()
	if k == 0 {
		return 0
	}
	return math.Pow(f.FillRatio(), float64(k))
}

// FillRatio returns the share of the bits that are set, from 0 to 1: about half when a filter
// of 1 % has the keys that it was made for. It takes time in proportion to the size.
func (f *Classic[K]) FillRatio() float64 {
	m, _ := f.params()
	set := 0
	for i := range classicWords(m) {
		set += bits.OnesCount64(f.word(i, m))
	}
	return float64(set) / max(1, float64(m))
}

// Bits returns the size of the filter in bits, which is m.
func (f *Classic[K]) Bits() uint64 {
	m, _ := f.params()
	return m
}

// Clone returns a copy.
func (f *Classic[K]) Clone() *Classic[K] {
	c := *f
	if f.filter != nil {
		c.filter = f.filter.Copy()
	}
	return &c
}

// Reset removes all keys.
func (f *Classic[K]) Reset() {
	if f.filter != nil {
		f.filter.ClearAll()
	}
}

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. Export writes that of bits-and-blooms.
func (f *Classic[K]) WriteTo(w io.Writer) (int64, error) {
	m, k := f.params()
	words := classicWords(m)
	e := newEncoder(w, &f.hash, header{
		kind: kindClassic, n: f.n, rate: f.rate, units: words, extra: [2]uint64{m, k}, payload: 8 * words,
	})
	for i := uint64(0); i < words && e.err == nil; i++ {
		e.uint64(f.word(i, m))
	}
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo has written, and reads no byte more than that
// wrote. The file decides the size and k; the keys must be of the same kind, integers or bytes.
// All is checked before f is changed: on any error f is as it was. A filter larger than the
// MaxBytes that f was made with is an error, before memory for it is taken.
func (f *Classic[K]) ReadFrom(r io.Reader) (int64, error) {
	hash, err := classicHash[K]()
	if err != nil {
		return 0, err
	}
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindClassic)
	hash = readHash(d, hash, h)
	m, k := h.extra[0], h.extra[1]
	switch {
	case d.err != nil:
	case h.units != classicWords(m) || h.payload/8 != h.units || m > math.MaxInt:
		d.corrupt("%d bits in %d words and %d bytes", m, h.units, h.payload)
	default:
		checkClassic(d, m, k)
	}
	ws := d.words(h.units)
	n, err := d.finish()
	if err == nil && ws[len(ws)-1]&^(^uint64(0)>>(-m%64)) != 0 {
		err = fmt.Errorf("bloom: there is more than the %d bits of the filter: %w", m, ErrCorrupt)
	}
	if err == nil {
		*f = Classic[K]{filter: classicOf(ws, m, m, k), hash: hash, n: h.n, rate: h.rate, maxBytes: f.maxBytes}
	}
	return n, err
}

// checkClassic fails if no filter has this m and k.
func checkClassic(d *decoder, m, k uint64) {
	if m < 1 {
		d.corrupt("it has no bits")
	}
	if k < 1 || k > classicMaxK {
		d.corrupt("it sets %d bits for a key, not 1 to %d", k, classicMaxK)
	}
}

// classicOf returns the filter with these words and a bit set of that length.
func classicOf(words []uint64, length, m, k uint64) *bnb.BloomFilter {
	f := bnb.FromWithM(words, uint(m), uint(k))
	// FromWithM takes the length to be that of all words. Shrink sets it, and copies the words
	// to as much memory as they need.
	f.BitSet().Shrink(uint(length - 1))
	return f
}

// MarshalBinary returns what WriteTo writes.
func (f *Classic[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8+8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Classic[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }

// Export writes the filter to w, in the format of WriteTo and MarshalBinary of bits-and-blooms: m,
// k, the length of the bit set and its words, all of them big-endian numbers of 64 bits. It
// writes pieces of at most 32 KiB and returns the number of bytes written. Nothing in that
// format tells a damaged filter from a whole one: WriteTo is better where it will do.
func (f *Classic[K]) Export(w io.Writer) (int64, error) {
	if f.filter == nil {
		return 0, f.hash.storable()
	}
	m, k := f.params()
	set := f.filter.BitSet()
	words := set.Words()[:classicWords(uint64(set.Len()))]
	length := max(uint64(set.Len()), m) // the set may have been compacted, through Unwrap
	e := &encoder{w: w, buf: make([]byte, 0, min(chunkBytes, 24+8*classicWords(length)))}
	for _, v := range [...]uint64{m, k, length} {
		e.uint64(bits.ReverseBytes64(v))
	}
	for i := uint64(0); i < uint64(classicWords(length)) && e.err == nil; i++ {
		v := uint64(0)
		if i < uint64(len(words)) {
			v = words[i]
		}
		e.uint64(bits.ReverseBytes64(v))
	}
	e.flush()
	return e.written, e.err
}

// Import replaces the filter by one that Export, or WriteTo of bits-and-blooms, has written, and
// reads no byte more than that wrote. What the keys are hashed from is not in the file: they
// must have been added as a Classic of K adds them. The format has no checksum, so most damage
// is not found; but the sizes are checked before memory is taken, with the MaxBytes that f was
// made with, k may be at most 4096, and no bit may be missing or be set beyond m. On any error
// f is as it was. As N and FPR are not in the file, WriteTo then writes those at which half
// of the bits would be set.
func (f *Classic[K]) Import(r io.Reader) (int64, error) {
	hash, err := classicHash[K]()
	if err != nil {
		return 0, err
	}
	d := newDecoder(r, f.maxBytes)
	var b [24]byte
	if !d.fill(b[:]) {
		return d.read, d.err
	}
	m, k, length := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	checkClassic(d, m, k)
	words := classicWords(length)
	switch {
	case d.err != nil:
	case length < m:
		// bits-and-blooms would take what is missing to be zero: keys would be lost.
		d.corrupt("%d bits of %d", length, m)
	case words > d.maxBytes/8 || length > math.MaxInt:
		d.fail(fmt.Errorf("bloom: the stored filter has %d bits, MaxBytes is %d: %w", length, d.maxBytes, ErrTooLarge))
	}
	d.left = 8 * words
	var ws []uint64
	for uint64(len(ws)) < words && d.err == nil {
		ws = withRoom(ws, words)
		for b := d.chunk(8, d.left); len(b) > 0; b = b[8:] {
			w := binary.BigEndian.Uint64(b)
			if from := 64 * uint64(len(ws)); from+64 > m && w>>(max(m, from)-from) != 0 {
				d.corrupt("bits beyond the %d of the filter are set", m)
			}
			ws = append(ws, w)
		}
	}
	if d.err == nil {
		// Half of the bits are set after m·ln(2)/k keys, and then the rate is 2^-k.
		n := max(1, math.Round(float64(m)*math.Ln2/float64(k)))
		rate := max(math.Exp2(-float64(k)), math.SmallestNonzeroFloat64)
		*f = Classic[K]{filter: classicOf(ws, length, m, k), hash: hash, n: uint64(n), rate: rate, maxBytes: f.maxBytes}
	}
	return d.read, d.err
}
