package bloom

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"reflect"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// This file has what is Parquet's in a SplitBlock: the hash of keys, and the format of files.

// parquetHash returns how keys of type K are read, and the width of their plain encoding. The Hasher
// only carries these two: its own methods mix what they hash, and the format wants plain XXH64.
func parquetHash[K any]() (Hasher[K], error) {
	t := reflect.TypeFor[K]()
	form, _ := formOf[K]()
	switch t.Kind() {
	case reflect.Bool:
		// A bool is a byte that is 0 or 1.
		return Hasher[K]{form: formUint8, id: hashParquetByte}, nil
	case reflect.Float32:
		return Hasher[K]{form: formUint32, id: hashParquet32}, nil
	case reflect.Float64:
		return Hasher[K]{form: formWord, id: hashParquet64}, nil
	case reflect.Int, reflect.Uint, reflect.Uintptr:
		// A column's type cannot depend on the machine: these are INT64 where they have 32 bits, too.
		return Hasher[K]{form: form, id: hashParquet64}, nil
	}
	switch form {
	case formNone:
		return Hasher[K]{}, fmt.Errorf("bloom: Parquet has no plain encoding for keys of type %v", t)
	case formString, formSlice, formArray:
		return Hasher[K]{form: form, id: hashParquetVar}, nil
	case formWord:
		return Hasher[K]{form: form, id: hashParquet64}, nil
	}
	return Hasher[K]{form: form, id: hashParquet32}, nil
}

// Hash returns the hash of k for AddHash and ContainsHash: XXH64, with seed 0, of its plain encoding.
// Who looks for one key in the filters of many row groups hashes once.
//
// It reads k by the form that parquetHash derived from its type; see view.go for why that is safe.
func (f *SplitBlock[K]) Hash(k K) uint64 {
	p := unsafe.Pointer(&k)
	switch f.hash.form {
	case formString:
		return xxhash.Sum64String(*(*string)(p))
	case formSlice:
		return xxhash.Sum64(*(*[]byte)(p))
	case formArray:
		return xxhash.Sum64(unsafe.Slice((*byte)(p), unsafe.Sizeof(k)))
	}
	w := word(p, f.hash.form)
	switch f.hash.id {
	case hashParquet32:
		return xxh4(uint32(w))
	case hashParquetByte:
		return xxh1(uint8(w))
	}
	return xxh8(w)
}

// The primes of XXH64.
const (
	xxhPrime1 = 0x9e3779b185ebca87
	xxhPrime2 = 0xc2b2ae3d27d4eb4f
	xxhPrime3 = 0x165667b19e3779f9
	xxhPrime4 = 0x85ebca77c2b2ae63
	xxhPrime5 = 0x27d4eb2f165667c5
)

// xxh8 returns XXH64, with seed 0, of the 8 bytes of w, little-endian. It is what is left of XXH64 for
// inputs of that length, so short that the compiler inlines it: 2.6 ns instead of 4.2, and no
// buffer is needed. (Collet: xxHash fast digest algorithm, version 0.1.1.)
func xxh8(w uint64) uint64 {
	h := (xxhPrime5 + 8) ^ bits.RotateLeft64(w*xxhPrime2, 31)*xxhPrime1
	h = bits.RotateLeft64(h, 27)*xxhPrime1 + xxhPrime4
	h = (h ^ h>>33) * xxhPrime2
	h = (h ^ h>>29) * xxhPrime3
	return h ^ h>>32
}

// xxh4 is xxh8 for 4 bytes.
func xxh4(w uint32) uint64 {
	h := (xxhPrime5 + 4) ^ uint64(w)*xxhPrime1
	h = bits.RotateLeft64(h, 23)*xxhPrime2 + xxhPrime3
	h = (h ^ h>>33) * xxhPrime2
	h = (h ^ h>>29) * xxhPrime3
	return h ^ h>>32
}

// xxh1 is xxh8 for one byte.
func xxh1(w uint8) uint64 {
	h := (xxhPrime5 + 1) ^ uint64(w)*xxhPrime5
	h = bits.RotateLeft64(h, 11) * xxhPrime1
	h = (h ^ h>>33) * xxhPrime2
	h = (h ^ h>>29) * xxhPrime3
	return h ^ h>>32
}

// Export writes the filter to w as Parquet files have it at the bloom_filter_offset of a column: a
// BloomFilterHeader in Thrift's compact protocol, and the bitset. It writes pieces of at most
// 32 KiB and returns the number of bytes written, which is the bloom_filter_length. The size of
// the bitset must be less than 2 GiB, or nothing is written: the header has 31 bits for it.
func (f *SplitBlock[K]) Export(w io.Writer) (int64, error) {
	size := uint64(len(f.blocks)) * splitBytes
	switch {
	case size == 0:
		return 0, f.hash.storable()
	case size > math.MaxInt32:
		return 0, fmt.Errorf("bloom: a filter in Parquet must have less than 2 GiB, got %d bytes", size)
	}
	e := &encoder{w: w, buf: make([]byte, 0, min(chunkBytes, parquetHeaderBytes+size))}
	e.buf = appendParquetHeader(e.buf, uint32(size))
	writeSplitBlocks(e, f.blocks)
	e.flush()
	return e.written, e.err
}

// Import replaces the filter by one that Export or another writer of Parquet has written, and reads no
// byte beyond it; it reads the header byte by byte, so r should be buffered. What the keys were
// is not in the file: the column must have the type of K. The format has no checksum, so most
// damage is not found; but the header is checked, and the size before memory is taken, with the
// MaxBytes that f was made with. A filter with another algorithm, hash or compression than
// Parquet had until now is an error that wraps ErrMismatch. On any error f is as it was. As N
// and FPR are not in the file, WriteTo then writes those at which half of the bits would be set.
func (f *SplitBlock[K]) Import(r io.Reader) (int64, error) {
	hash, err := parquetHash[K]()
	if err != nil {
		return 0, err
	}
	d := newDecoder(r, f.maxBytes)
	t := thriftReader{d: d, left: parquetHeaderLimit}
	f.read(d, hash, t.bloomFilterHeader())
	return d.read, d.err
}

// Bitset returns the bitset as Parquet has it after the header, in a copy: for other packages that
// write the header themselves.
func (f *SplitBlock[K]) Bitset() []byte {
	b := make([]byte, 0, len(f.blocks)*splitBytes)
	for i := range f.blocks {
		for _, w := range f.blocks[i] {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
	}
	return b
}

// ImportBitset is Import of the bitset alone, for who has it from another package. Its length must be
// a multiple of 32, at least 32, and at most the MaxBytes that f was made with. It is copied. A
// bitset of zeros makes f an empty filter of that size: so one is made that shall be, byte for
// byte, what a writer makes who chooses the number of blocks otherwise than NewSplitBlock.
func (f *SplitBlock[K]) ImportBitset(bitset []byte) error {
	hash, err := parquetHash[K]()
	if err != nil {
		return err
	}
	d := newDecoder(bytes.NewReader(bitset), f.maxBytes)
	f.read(d, hash, int64(len(bitset)))
	return d.err
}

// read replaces f by a filter with a bitset of so many bytes, if d can read that.
func (f *SplitBlock[K]) read(d *decoder, hash Hasher[K], size int64) {
	switch {
	case d.err != nil:
	case size < 1 || size%splitBytes != 0 || size/splitBytes > splitMaxBlocks:
		d.corrupt("a bitset of %d bytes, which is not one to 2^31-1 blocks of %d", size, splitBytes)
	case uint64(size) > d.maxBytes:
		d.fail(fmt.Errorf("bloom: the bitset has %d bytes, MaxBytes is %d: %w", size, d.maxBytes, ErrTooLarge))
	}
	if d.err != nil {
		return
	}
	d.left = uint64(size)
	bs := readSplitBlocks(d, d.left/splitBytes)
	if d.err == nil {
		units := float64(len(bs))
		n := lanesCount(0.5, units, splitWidth)
		rate := lanesFPR(float64(n), units, splitLanes, splitWidth)
		*f = SplitBlock[K]{blocks: bs, hash: hash, n: n, rate: rate, maxBytes: f.maxBytes}
	}
}

// A BloomFilterHeader is, in Thrift's compact protocol,
//
//	15 …         field 1, i32: the size of the bitset in bytes, as a zigzag varint
//	1c 1c 00 00  field 2, a union: the algorithm; its field 1, an empty struct: split block
//	1c 1c 00 00  field 3, a union: the hash; its field 1: XXH64
//	1c 1c 00 00  field 4, a union: the compression; its field 1: none
//	00           the end
//
// where the higher four bits of a field's first byte are what its number is above the last one's, or
// 0 before a number that is written out, and the lower four are its type. Fields may come in
// any order, and a later version may have more of them. (Apache Thrift: Thrift Compact protocol
// encoding.)

const (
	// parquetHeaderBytes is the most that appendParquetHeader appends.
	parquetHeaderBytes = 1 + binary.MaxVarintLen32 + 3*4 + 1

	// parquetHeaderLimit is the largest header that is read, with unknown fields: hundreds of
	// times what is known. thriftDepth is how deep structs and lists in these may be nested.
	parquetHeaderLimit = 4096
	thriftDepth        = 16
)

// appendParquetHeader appends the header of a filter whose bitset has so many bytes.
func appendParquetHeader(b []byte, size uint32) []byte {
	b = append(b, 0x15)
	b = binary.AppendUvarint(b, uint64(size)<<1)
	for range 3 {
		b = append(b, 0x1c, 0x1c, 0, 0)
	}
	return append(b, 0)
}

// The types of Thrift's compact protocol.
const (
	thriftStop   = 0
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
	thriftUUID   = 13
)

// A thriftReader reads Thrift's compact protocol, byte by byte because it must not read too much, and
// no more than left bytes. After an error its methods return zeros, which end every loop.
type thriftReader struct {
	d    *decoder
	left uint64
	buf  [1]byte
}

// byte reads a byte.
func (t *thriftReader) byte() byte {
	if t.left == 0 {
		t.d.corrupt("the header has more than %d bytes", parquetHeaderLimit)
	}
	if !t.d.fill(t.buf[:]) {
		return 0
	}
	t.left--
	return t.buf[0]
}

// varint reads a number, seven bits a byte.
func (t *thriftReader) varint() uint64 {
	v := uint64(0)
	for shift := 0; shift < 64; shift += 7 {
		b := t.byte()
		if shift == 63 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	t.d.corrupt("a number in the header has more than 64 bits")
	return 0
}

// zigzag reads a number that may be negative and has so many bits.
func (t *thriftReader) zigzag(bits int) int64 {
	u := t.varint()
	if u>>bits != 0 {
		t.d.corrupt("a number in the header has more than %d bits", bits)
		return 0
	}
	return int64(u>>1) ^ -int64(u&1)
}

// field reads the beginning of a field that comes after one with the given number.
func (t *thriftReader) field(last int64) (id int64, typ byte) {
	b := t.byte()
	typ = b & 15
	switch {
	case typ == thriftStop && b != 0:
		t.d.corrupt("a field of the header has no type")
		return 0, thriftStop
	case typ == thriftStop:
		return 0, thriftStop
	case b>>4 == 0:
		id = t.zigzag(16)
	default:
		id = last + int64(b>>4)
	}
	if id > math.MaxInt16 {
		t.d.corrupt("a field of the header has the number %d", id)
	}
	if t.d.err != nil {
		return 0, thriftStop
	}
	return id, typ
}

// skip reads over a value. depth is how deep it may be nested.
func (t *thriftReader) skip(typ byte, depth int) {
	if depth == 0 {
		t.d.corrupt("the header is nested more than %d deep", thriftDepth)
	}
	if t.d.err != nil {
		return
	}
	switch typ {
	case thriftTrue, thriftFalse: // the type is the value
	case thriftByte:
		t.byte()
	case thriftI16, thriftI32, thriftI64:
		t.varint()
	case thriftDouble:
		t.skipBytes(8)
	case thriftUUID:
		t.skipBytes(16)
	case thriftBinary:
		t.skipBytes(t.varint())
	case thriftList, thriftSet:
		b := t.byte()
		n := uint64(b >> 4)
		if n == 15 {
			n = t.varint()
		}
		t.skipElements(n, depth, b&15)
	case thriftMap:
		if n := t.varint(); n > 0 {
			b := t.byte()
			t.skipElements(n, depth, b>>4, b&15)
		}
	case thriftStruct:
		for last := int64(0); ; {
			id, typ := t.field(last)
			if typ == thriftStop {
				return
			}
			t.skip(typ, depth-1)
			last = id
		}
	default:
		t.d.corrupt("a field of the header has the type %d", typ)
	}
}

// skipElements reads over n elements of a list, or of a map, in which each has two types. Every one
// takes at least a byte, so left ends the loop.
func (t *thriftReader) skipElements(n uint64, depth int, types ...byte) {
	for ; n > 0 && t.d.err == nil; n-- {
		for _, typ := range types {
			if typ == thriftTrue || typ == thriftFalse {
				t.byte() // outside of structs these have a byte of their own
			} else {
				t.skip(typ, depth-1)
			}
		}
	}
}

// skipBytes reads over n bytes.
func (t *thriftReader) skipBytes(n uint64) {
	for ; n > 0 && t.d.err == nil; n-- {
		t.byte()
	}
}

// bloomFilterHeader reads the header and returns the size of the bitset in bytes.
func (t *thriftReader) bloomFilterHeader() (size int64) {
	names := [...]string{1: "size", 2: "algorithm", 3: "hash", 4: "compression"}
	types := [...]byte{1: thriftI32, 2: thriftStruct, 3: thriftStruct, 4: thriftStruct}
	var seen [5]bool
	for last := int64(0); ; {
		id, typ := t.field(last)
		if typ == thriftStop {
			break
		}
		last = id
		if id < 1 || id > 4 {
			t.skip(typ, thriftDepth)
			continue
		}
		if seen[id] || typ != types[id] {
			t.d.corrupt("the %s in the header has the type %d, or is there twice", names[id], typ)
			return 0
		}
		seen[id] = true
		if id == 1 {
			size = t.zigzag(32)
		} else {
			t.union(names[id])
		}
	}
	for id := 1; id <= 4; id++ {
		if !seen[id] {
			t.d.corrupt("there is no %s in the header", names[id])
		}
	}
	return size
}

// union reads a union that must be what was the only choice when this was written: field 1, a struct
// without fields. That may have got some since.
func (t *thriftReader) union(name string) {
	id, typ := t.field(0)
	switch {
	case typ == thriftStop:
		t.d.corrupt("there is no %s in the header", name)
		return
	case id != 1:
		t.d.fail(fmt.Errorf("bloom: the %s has the number %d, this package knows 1 only: %w", name, id, ErrMismatch))
		return
	case typ != thriftStruct:
		t.d.corrupt("the %s in the header has the type %d", name, typ)
		return
	}
	t.skip(thriftStruct, thriftDepth)
	if _, typ := t.field(id); typ != thriftStop {
		t.d.corrupt("there is more than one %s in the header", name)
	}
}
