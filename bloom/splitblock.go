package bloom

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"unsafe"
)

// A SplitBlock is the Bloom filter that Parquet files have for their columns, bit for bit: a blocked
// filter with blocks of 256 bits. Use it to read and write those; where no other program has to
// agree, Blocked is faster, and at low rates a tenth smaller. Each operation takes constant
// time, but for hashing, and one access to memory, and allocates nothing.
//
// It needs 6.0 bits a key for 10 % false positives, 10.5 for 1 %, 16.9 for 0.1 % and 26.3 for
// 0.01 %. The least FPR is 1e-7.
//
// The hash is XXH64, with seed 0, of a key's plain encoding in Parquet, and keys may be of any type
// that has one, named here with the physical type of the column:
//
//	bool                           BOOLEAN               1 byte
//	int8, int16, int32             INT32                 4 bytes, widened with the sign
//	uint8, uint16, uint32          INT32                 4 bytes, widened with zeros
//	int, int64                     INT64                 8 bytes
//	uint, uint64, uintptr          INT64                 8 bytes
//	float32, float64               FLOAT, DOUBLE         4 and 8 bytes
//	string, []byte                 BYTE_ARRAY            without the length
//	string, []byte, [n]byte        FIXED_LEN_BYTE_ARRAY
//	[12]byte                       INT96
//
// and of types made of these. The same number in columns of 32 and of 64 bits is not the same key.
// Of floating-point numbers the bits count: 0 is not the same key as -0, and there are many NaNs.
// Who knows the hash, which is everybody, can make keys that collide.
//
// A SplitBlock is not safe for concurrent use, but Contains and ContainsHash may be called by many
// goroutines while no other method is. The zero value can only be read into.
//
// (Apache Parquet: BloomFilter.md; Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient
// Bloom Filters, 2007.)
type SplitBlock[K any] struct {
	blocks   []splitBlock
	hash     Hasher[K] // how keys are read; its own methods hash otherwise
	n        uint64
	rate     float64
	maxBytes uint64
}

// A splitBlock has eight lanes of 32 bits, in each of which a key sets one bit.
type splitBlock [splitLanes]uint32

const (
	splitLanes = 8
	splitWidth = 32 // of a lane
	splitBytes = splitLanes * splitWidth / 8

	// splitMaxBlocks is the limit of the specification: 31 bits of the hash tell that many
	// blocks apart.
	splitMaxBlocks = 1<<31 - 1

	// splitLeastFPR is the least rate for which they are made: there they take three times
	// what Classic does, and the 32 bits that choose in a block are soon too few.
	splitLeastFPR = 1e-7
)

// The salts of the specification: odd numbers that a hash is multiplied with, one for each lane.
const (
	splitSalt0 = 0x47b6137b
	splitSalt1 = 0x44974d91
	splitSalt2 = 0x8824ad5b
	splitSalt3 = 0xa2b7289d
	splitSalt4 = 0x705495c7
	splitSalt5 = 0x2df1424b
	splitSalt6 = 0x9efc4947
	splitSalt7 = 0x5c6bfb31
)

// NewSplitBlock returns an empty filter. It returns an error if c is not valid, has a Hash, has keys
// of another type than those named above, or the filter would be larger than c.MaxBytes. It has as
// few blocks as the keys need; other writers round up to a power of two. For a filter with a
// given number of blocks, see ImportBitset.
func NewSplitBlock[K any](c Config[K]) (*SplitBlock[K], error) {
	if c.Hash.form != formNone {
		return nil, fmt.Errorf("bloom: Hash of a SplitBlock must be the zero value: its hash is XXH64 with seed 0, which the format fixes")
	}
	hash, err := parquetHash[K]()
	if err != nil {
		return nil, err
	}
	c.Hash = hash
	if err := c.check("SplitBlock", splitLeastFPR); err != nil {
		return nil, err
	}
	units := lanesUnits(c.N, c.FPR, splitMaxBlocks, splitLanes, splitWidth)
	if math.IsInf(units, 1) {
		return nil, fmt.Errorf("bloom: N = %d with FPR = %v takes more blocks than a SplitBlock can have, %d: %w", c.N, c.FPR, splitMaxBlocks, ErrTooLarge)
	}
	if size := units * splitBytes; size > float64(c.MaxBytes) {
		return nil, c.tooLarge(size)
	}
	return &SplitBlock[K]{blocks: make([]splitBlock, int(units)), hash: hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}, nil
}

// at returns the block of a hash, by its higher 32 bits; what chooses the bits in the block is the
// lower 32.
func (f *SplitBlock[K]) at(h uint64) (b *splitBlock, x uint32) {
	return &f.blocks[(h>>32)*uint64(len(f.blocks))>>32], uint32(h)
}

// has reports whether all bits that x chooses are set. It is made as block.has is.
func (b *splitBlock) has(x uint32) bool {
	if ((b[0]>>(x*splitSalt0>>27))&(b[1]>>(x*splitSalt1>>27))&
		(b[2]>>(x*splitSalt2>>27))&(b[3]>>(x*splitSalt3>>27)))&1 == 0 {
		return false
	}
	return b[4]&(1<<(x*splitSalt4>>27)) != 0 && b[5]&(1<<(x*splitSalt5>>27)) != 0 &&
		b[6]&(1<<(x*splitSalt6>>27)) != 0 && b[7]&(1<<(x*splitSalt7>>27)) != 0
}

// add sets the bits that x chooses, and reports whether any was not set. It is made as block.add is.
func (b *splitBlock) add(x uint32) (added bool) {
	if ((b[0]>>(x*splitSalt0>>27))&(b[1]>>(x*splitSalt1>>27))&
		(b[2]>>(x*splitSalt2>>27))&(b[3]>>(x*splitSalt3>>27)))&1 != 0 &&
		((b[4]>>(x*splitSalt4>>27))&(b[5]>>(x*splitSalt5>>27))&
			(b[6]>>(x*splitSalt6>>27))&(b[7]>>(x*splitSalt7>>27)))&1 != 0 {
		return false
	}
	b[0] |= bits.RotateLeft32(1, int(x*splitSalt0>>27))
	b[1] |= bits.RotateLeft32(1, int(x*splitSalt1>>27))
	b[2] |= bits.RotateLeft32(1, int(x*splitSalt2>>27))
	b[3] |= bits.RotateLeft32(1, int(x*splitSalt3>>27))
	b[4] |= bits.RotateLeft32(1, int(x*splitSalt4>>27))
	b[5] |= bits.RotateLeft32(1, int(x*splitSalt5>>27))
	b[6] |= bits.RotateLeft32(1, int(x*splitSalt6>>27))
	b[7] |= bits.RotateLeft32(1, int(x*splitSalt7>>27))
	return true
}

// Contains reports whether k may be in the filter; false is certain.
func (f *SplitBlock[K]) Contains(k K) bool {
	var h uint64
	if f.hash.form == formWord {
		h = xxh8(*(*uint64)(unsafe.Pointer(&k)))
	} else {
		h = f.Hash(k)
	}
	b, x := f.at(h)
	return b.has(x)
}

// Add adds k, and reports whether that changed the filter: false means that k was in it
// already, or looked so.
func (f *SplitBlock[K]) Add(k K) (added bool) {
	var h uint64
	if f.hash.form == formWord {
		h = xxh8(*(*uint64)(unsafe.Pointer(&k)))
	} else {
		h = f.Hash(k)
	}
	b, x := f.at(h)
	return b.add(x)
}

// ContainsHash is Contains for who has the hash already: that of Hash, or XXH64 with seed 0 from
// elsewhere. Any other makes a filter that no reader of Parquet understands.
func (f *SplitBlock[K]) ContainsHash(h uint64) bool {
	b, x := f.at(h)
	return b.has(x)
}

// AddHash is Add for who has the hash already; see ContainsHash.
func (f *SplitBlock[K]) AddHash(h uint64) (added bool) {
	b, x := f.at(h)
	return b.add(x)
}

// Union adds to f the keys that are in o. The two must have the same number of blocks, as they have
// if they were made with the same Config; else the error wraps ErrMismatch and f is as it was. The
// result is what adding all keys to one filter gives. It takes time in proportion to the size.
func (f *SplitBlock[K]) Union(o *SplitBlock[K]) error {
	err := f.match(o)
	if err == nil {
		for i := range f.blocks {
			for j := range f.blocks[i] {
				f.blocks[i][j] |= o.blocks[i][j]
			}
		}
	}
	return err
}

// Intersect leaves in f what looks as if it were in both: all keys that are in both, and more false
// positives than a filter that was given only these. The conditions are those of Union.
func (f *SplitBlock[K]) Intersect(o *SplitBlock[K]) error {
	err := f.match(o)
	if err == nil {
		for i := range f.blocks {
			for j := range f.blocks[i] {
				f.blocks[i][j] &= o.blocks[i][j]
			}
		}
	}
	return err
}

// match returns an error if a bit means one thing in f and another in o.
func (f *SplitBlock[K]) match(o *SplitBlock[K]) error {
	if len(f.blocks) != len(o.blocks) {
		return fmt.Errorf("bloom: the filters have %d and %d blocks: %w", len(f.blocks), len(o.blocks), ErrMismatch)
	}
	return matchHash(&f.hash, &o.hash)
}

// EstimatedCount estimates the number of distinct keys that were added, from the bits that are
// set; with 10,000 keys or more, up to twice N, and an FPR of at most 0.1, it is wrong by less
// than 2 %. It takes time in proportion to the size.
func (f *SplitBlock[K]) EstimatedCount() uint64 {
	return lanesCount(f.FillRatio(), float64(len(f.blocks)), splitWidth)
}

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *SplitBlock[K]) EstimatedFPR() float64 {
	sum := 0.0
	for i := range f.blocks {
		p := 1.0
		for _, w := range f.blocks[i] {
			p *= float64(bits.OnesCount32(w)) / splitWidth
		}
		sum += p
	}
	return sum / max(1, float64(len(f.blocks)))
}

// FillRatio returns the share of the bits that are set, from 0 to 1. It takes time in proportion to
// the size.
func (f *SplitBlock[K]) FillRatio() float64 {
	set := 0
	for i := range f.blocks {
		for _, w := range f.blocks[i] {
			set += bits.OnesCount32(w)
		}
	}
	return float64(set) / max(1, float64(f.Bits()))
}

// Bits returns the size of the filter in bits.
func (f *SplitBlock[K]) Bits() uint64 { return uint64(len(f.blocks)) * splitBytes * 8 }

// Blocks returns the number of blocks, each of 32 bytes.
func (f *SplitBlock[K]) Blocks() int { return len(f.blocks) }

// Clone returns a copy.
func (f *SplitBlock[K]) Clone() *SplitBlock[K] {
	c := *f
	c.blocks = append([]splitBlock(nil), f.blocks...)
	return &c
}

// Reset removes all keys.
func (f *SplitBlock[K]) Reset() { clear(f.blocks) }

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. Export writes that of Parquet, which has no checksum.
func (f *SplitBlock[K]) WriteTo(w io.Writer) (int64, error) {
	n := uint64(len(f.blocks))
	e := newEncoder(w, &f.hash, header{kind: kindSplitBlock, n: f.n, rate: f.rate, units: n, payload: n * splitBytes})
	writeSplitBlocks(e, f.blocks)
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo has written, and reads no byte more than that
// wrote. The file decides the size; the keys must have an encoding of the same width. All is
// checked before f is changed: on any error f is as it was. A filter larger than the
// MaxBytes that f was made with is an error, before memory for it is taken.
func (f *SplitBlock[K]) ReadFrom(r io.Reader) (int64, error) {
	hash, err := parquetHash[K]()
	if err != nil {
		return 0, err
	}
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindSplitBlock)
	hash = readHash(d, hash, h)
	switch {
	case d.err != nil:
	case h.units < 1 || h.units > splitMaxBlocks || h.payload != h.units*splitBytes:
		d.corrupt("%d blocks in %d bytes", h.units, h.payload)
	}
	bs := readSplitBlocks(d, h.units)
	n, err := d.finish()
	if err == nil {
		*f = SplitBlock[K]{blocks: bs, hash: hash, n: h.n, rate: h.rate, maxBytes: f.maxBytes}
	}
	return n, err
}

// MarshalBinary returns what WriteTo writes.
func (f *SplitBlock[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *SplitBlock[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }

// writeSplitBlocks writes blocks as Parquet has them: as little-endian words.
func writeSplitBlocks(e *encoder, bs []splitBlock) {
	for i := range bs {
		if e.err != nil {
			return
		}
		for j := 0; j < splitLanes; j += 2 {
			e.uint64(uint64(bs[i][j]) | uint64(bs[i][j+1])<<32)
		}
	}
}

// readSplitBlocks reads n blocks, for which the payload has room.
func readSplitBlocks(d *decoder, n uint64) []splitBlock {
	var bs []splitBlock
	for uint64(len(bs)) < n && d.err == nil {
		bs = withRoom(bs, n)
		for b := d.chunk(splitBytes, d.left); len(b) > 0; b = b[splitBytes:] {
			var one splitBlock
			for j := range one {
				one[j] = binary.LittleEndian.Uint32(b[4*j:])
			}
			bs = append(bs, one)
		}
	}
	return bs
}
