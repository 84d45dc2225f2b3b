package bloom

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"unsafe"
)

// A stored filter is, with all numbers little-endian:
//
//	 0  8  "sysbloom"
//	 8  2  version of the format: 1
//	10  2  kind of filter
//	12  4  hash
//	16  8  its seed, or the name given to Func
//	24  8  N
//	32  8  FPR, as IEEE 754
//	40  8  units: blocks, words, buckets, stages…
//	48  8  a number of the kind's
//	56  8  another one
//	64  8  bytes of the payload
//	72  4  CRC-32C of the bytes 0 to 71
//	76  …  payload
//	 …  4  CRC-32C of the payload
//
// CRC-32C finds every change of a single byte, and of any 32 bits in a row.

const (
	magic         = "sysbloom"
	formatVersion = 1
	headerBytes   = 76
	chunkBytes    = 32 << 10
	// tableBytes is the most that a payload has beside the data that MaxBytes is for.
	tableBytes = 64 * 32
)

// filterKind is the kind of a stored filter. The numbers never change.
type filterKind uint16

const (
	kindBlocks     filterKind = 1 // Blocked, Concurrent
	kindWords      filterKind = 2 // Concurrent with SingleWinner
	kindSplitBlock filterKind = 3
	kindClassic    filterKind = 4
	kindScalable   filterKind = 5
	kindCuckoo     filterKind = 6
	kindFuse8      filterKind = 7
	kindFuse16     filterKind = 8
	kindRotating   filterKind = 9
)

var kindNames = map[filterKind]string{
	kindBlocks: "Blocked or Concurrent", kindWords: "Concurrent with SingleWinner", kindSplitBlock: "SplitBlock",
	kindClassic: "Classic", kindScalable: "Scalable", kindCuckoo: "Cuckoo", kindFuse8: "Fuse8", kindFuse16: "Fuse16",
	kindRotating: "Rotating",
}

// A header is what comes before the payload.
type header struct {
	kind    filterKind
	hash    hashID
	seed    uint64
	n       uint64
	rate    float64
	units   uint64
	extra   [2]uint64
	payload uint64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append appends the header as it is stored.
func (h *header) append(b []byte) []byte {
	from := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, formatVersion)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.hash))
	for _, v := range [...]uint64{h.seed, h.n, math.Float64bits(h.rate), h.units, h.extra[0], h.extra[1], h.payload} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// An encoder writes a stored filter. Its methods do nothing after an error, which finish returns.
type encoder struct {
	w       io.Writer
	buf     []byte
	crc     uint32
	written int64
	err     error
}

// newEncoder begins with the header, to which it adds the hash, unless that is not storable.
func newEncoder[K any](w io.Writer, hash *Hasher[K], h header) *encoder {
	e := &encoder{w: w, err: hash.storable()}
	if e.err == nil {
		h.hash, h.seed = hash.id, hash.seed
		e.buf = h.append(make([]byte, 0, min(chunkBytes, headerBytes+h.payload+4)))
		e.flush()
		e.crc = 0
	}
	return e
}

// uint64 writes a number.
func (e *encoder) uint64(v uint64) {
	if len(e.buf)+8 > cap(e.buf) {
		e.flush()
	}
	if e.err == nil {
		e.buf = binary.LittleEndian.AppendUint64(e.buf, v)
	}
}

// bytes writes bytes.
func (e *encoder) bytes(b []byte) {
	for len(b) > 0 && e.err == nil {
		if len(e.buf) == cap(e.buf) {
			e.flush()
		}
		n := min(len(b), cap(e.buf)-len(e.buf))
		e.buf = append(e.buf, b[:n]...)
		b = b[n:]
	}
}

// flush writes what has been buffered.
func (e *encoder) flush() {
	if e.err != nil {
		return
	}
	e.crc = crc32.Update(e.crc, castagnoli, e.buf)
	n, err := e.w.Write(e.buf)
	if err == nil && n < len(e.buf) {
		err = io.ErrShortWrite
	}
	e.written += int64(n)
	e.buf = e.buf[:0]
	if err != nil {
		e.err = fmt.Errorf("bloom: writing a filter: %w", err)
	}
}

// finish writes the checksum of the payload.
func (e *encoder) finish() (int64, error) {
	e.flush()
	e.buf = binary.LittleEndian.AppendUint32(e.buf, e.crc)
	e.flush()
	return e.written, e.err
}

// A decoder reads a stored filter, and no byte beyond it. Its methods return zeros after an
// error, which finish returns.
type decoder struct {
	r        io.Reader
	maxBytes uint64
	buf      []byte
	left     uint64 // bytes of the payload still to read
	data     uint64 // bytes of the blocks read
	crc      uint32
	read     int64
	err      error
}

func newDecoder(r io.Reader, maxBytes uint64) *decoder {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	return &decoder{r: r, maxBytes: maxBytes}
}

// fail records the first error.
func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// corrupt records that something is wrong with the file.
func (d *decoder) corrupt(format string, args ...any) {
	d.fail(fmt.Errorf("bloom: %s: %w", fmt.Sprintf(format, args...), ErrCorrupt))
}

// fill reads exactly b.
func (d *decoder) fill(b []byte) bool {
	if d.err != nil {
		return false
	}
	n, err := io.ReadFull(d.r, b)
	d.read += int64(n)
	switch {
	case err == nil:
		return true
	case d.read == 0 && err == io.EOF:
		d.fail(fmt.Errorf("bloom: there is no filter to read: %w: %w: %w", ErrCorrupt, io.ErrUnexpectedEOF, io.EOF))
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		d.fail(fmt.Errorf("bloom: the filter ends after %d bytes: %w: %w", d.read, ErrCorrupt, io.ErrUnexpectedEOF))
	default:
		d.fail(fmt.Errorf("bloom: reading a filter: %w", err))
	}
	return false
}

// header reads the header of a filter of a wanted kind, and checks it before anything is
// allocated.
func (d *decoder) header(want ...filterKind) header {
	var b [headerBytes]byte
	var h header
	if !d.fill(b[:]) {
		return h
	}
	if string(b[:8]) != magic {
		d.corrupt("it begins with %q, not %q", b[:8], magic)
		return h
	}
	if binary.LittleEndian.Uint32(b[72:]) != crc32.Checksum(b[:72], castagnoli) {
		d.corrupt("the checksum of the header is wrong")
		return h
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != formatVersion {
		d.fail(fmt.Errorf("bloom: stored in version %d of the format, this package reads %d: %w", v, formatVersion, ErrMismatch))
		return h
	}
	h.kind = filterKind(binary.LittleEndian.Uint16(b[10:]))
	h.hash = hashID(binary.LittleEndian.Uint32(b[12:]))
	h.seed = binary.LittleEndian.Uint64(b[16:])
	h.n = binary.LittleEndian.Uint64(b[24:])
	h.rate = math.Float64frombits(binary.LittleEndian.Uint64(b[32:]))
	h.units = binary.LittleEndian.Uint64(b[40:])
	h.extra = [2]uint64{binary.LittleEndian.Uint64(b[48:]), binary.LittleEndian.Uint64(b[56:])}
	h.payload = binary.LittleEndian.Uint64(b[64:])
	switch {
	case !slices.Contains(want, h.kind):
		name := kindNames[h.kind]
		if name == "" {
			name = fmt.Sprintf("kind %d", h.kind)
		}
		d.fail(fmt.Errorf("bloom: stored is a %s, not a %s: %w", name, kindNames[want[0]], ErrMismatch))
	case h.payload > d.maxBytes && !(h.kind == kindScalable || h.kind == kindRotating) || h.payload > tableBytes && h.payload-tableBytes > d.maxBytes:
		d.fail(fmt.Errorf("bloom: the stored filter has %d bytes, MaxBytes is %d: %w", h.payload, d.maxBytes, ErrTooLarge))
	case !(h.rate > 0 && h.rate < 1):
		d.corrupt("FPR is %v", h.rate)
	}
	d.left = h.payload
	return h
}

// chunk reads the next bytes of the payload, at most max and in multiples of unit, or returns nil
// when there are no more or after an error.
func (d *decoder) chunk(unit, max uint64) []byte {
	size := min(chunkBytes/unit*unit, d.left/unit*unit, max)
	if size == 0 || d.err != nil {
		return nil
	}
	if uint64(cap(d.buf)) < size {
		d.buf = make([]byte, size)
	}
	d.buf = d.buf[:size]
	if !d.fill(d.buf) {
		return nil
	}
	d.left -= size
	d.crc = crc32.Update(d.crc, castagnoli, d.buf)
	return d.buf
}

// uint64 reads a number.
func (d *decoder) uint64() uint64 {
	b := d.chunk(8, 8)
	if b == nil {
		d.corrupt("the payload is too short")
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// bytes reads n bytes. Memory is taken as they come: what a header says costs nothing.
func (d *decoder) bytes(n uint64) []byte {
	if n > d.left {
		d.corrupt("the payload is too short")
	}
	var all []byte
	for uint64(len(all)) < n && d.err == nil {
		all = append(withRoom(all, n), d.chunk(1, n-uint64(len(all)))...)
	}
	return all
}

// blocks reads so many blocks.
func (d *decoder) blocks(n uint64) blocks {
	if n < 1 || n > d.left/blockBytes {
		d.corrupt("%d blocks in %d bytes", n, d.left)
	} else if d.data += n * blockBytes; d.data > d.maxBytes {
		d.fail(fmt.Errorf("bloom: the stored filter has %d bytes, MaxBytes is %d: %w", d.data, d.maxBytes, ErrTooLarge))
	}
	var bs blocks
	for uint64(len(bs)) < n && d.err == nil {
		bs = withRoom(bs, n)
		for b := d.chunk(blockBytes, (n-uint64(len(bs)))*blockBytes); len(b) > 0; b = b[blockBytes:] {
			var one block
			for j := range one {
				one[j] = binary.LittleEndian.Uint64(b[8*j:])
			}
			bs = append(bs, one)
		}
	}
	return bs
}

// words reads so many words.
func (d *decoder) words(n uint64) []uint64 {
	if n < 1 || n > d.left/8 {
		d.corrupt("%d words in %d bytes", n, d.left)
	}
	var ws []uint64
	for uint64(len(ws)) < n && d.err == nil {
		ws = withRoom(ws, n)
		for b := d.chunk(8, (n-uint64(len(ws)))*8); len(b) > 0; b = b[8:] {
			ws = append(ws, binary.LittleEndian.Uint64(b))
		}
	}
	return ws
}

// withRoom returns s with room for the elements of another chunk, but not for more than n. Memory is
// taken as the bytes come: twice what has come, and at last no more than is needed.
func withRoom[T any](s []T, n uint64) []T {
	var one T
	chunk := chunkBytes / int(unsafe.Sizeof(one))
	if cap(s)-len(s) >= chunk || uint64(cap(s)) >= n {
		return s
	}
	c := make([]T, len(s), min(n, uint64(max(chunk, 2*cap(s)))))
	copy(c, s)
	return c
}

// finish reads the checksum of the payload. Only when it returns no error may what was read be
// used.
func (d *decoder) finish() (int64, error) {
	if d.err == nil && d.left > 0 {
		d.corrupt("%d bytes of the payload are of no use", d.left)
	}
	var sum [4]byte
	if d.fill(sum[:]) && binary.LittleEndian.Uint32(sum[:]) != d.crc {
		d.corrupt("the checksum of the payload is wrong")
	}
	return d.read, d.err
}

// readHash returns the hash of a stored filter; see Hasher.read.
func readHash[K any](d *decoder, have Hasher[K], h header) Hasher[K] {
	if d.err != nil {
		return have
	}
	hash, err := have.read(h.hash, h.seed)
	if err != nil {
		d.fail(err)
	}
	return hash
}

// matchHash returns an error if two filters use different hashes.
func matchHash[K any](h, o *Hasher[K]) error {
	if !h.same(o) {
		return fmt.Errorf("bloom: the filters have different hashes or seeds: %w", ErrMismatch)
	}
	return nil
}

// blocks writes blocks, as they are when they are reached: other goroutines may go on adding.
func (e *encoder) blocks(bs blocks) {
	for i := range bs {
		for j := range bs[i] {
			e.uint64(atomic.LoadUint64(&bs[i][j]))
		}
	}
}

// writeBlocks stores a filter that is blocks and nothing more.
func writeBlocks[K any](w io.Writer, bs blocks, hash *Hasher[K], h header) (int64, error) {
	h.units, h.payload = uint64(len(bs)), uint64(len(bs))*blockBytes
	e := newEncoder(w, hash, h)
	e.blocks(bs)
	return e.finish()
}

// marshal returns what f writes, about size bytes.
func marshal(f io.WriterTo, size uint64) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, headerBytes+size+64))
	if _, err := f.WriteTo(b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unmarshal reads f from data and checks that nothing follows it, before f is changed: so the
// length is looked at first.
func unmarshal(f io.ReaderFrom, data []byte) error {
	if len(data) >= headerBytes && string(data[:8]) == magic {
		// A header that lies about the length is found out by its checksum.
		if size := binary.LittleEndian.Uint64(data[64:]); size < uint64(len(data)) && headerBytes+size+4 < uint64(len(data)) {
			return fmt.Errorf("bloom: %d bytes follow the filter: %w", uint64(len(data))-headerBytes-size-4, ErrCorrupt)
		}
	}
	_, err := f.ReadFrom(bytes.NewReader(data))
	return err
}
