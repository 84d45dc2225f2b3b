package bloom

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/clock"
)

// A RotatingConfig says what a Rotating is to be like. N, FPR and Generations are required.
type RotatingConfig[K any] struct {
	_ struct{}

	// N is the largest number of distinct keys, at least 1, that are added while one generation
	// is the current one: in Window / Generations of time. If they come in bursts, it is the
	// burst that counts: made for 1 %, with five times as many keys in each generation, nearly
	// every key is a false positive.
	N uint64

	// FPR is the false-positive rate of the whole filter when all generations have N keys: more
	// than 0 and less than 1, and at least 1e-8 × (Generations + 1). Each generation is made for
	// FPR / (Generations + 1).
	FPR float64

	// Window is how long a key is remembered after it was added the last time: at least
	// that long, and at most Window / Generations longer. It is at least a millisecond for each
	// of the Generations. 0: generations change only when Rotate is called.
	Window time.Duration

	// Generations is into how many generations the window is divided, 1 to 63. More of them
	// forget more exactly, and make Contains slower. There is one more, the current one.
	Generations int

	// MaxBytes is the most memory, in bytes, that the data of all generations may take. 0: 1 GiB.
	MaxBytes uint64

	// Hash is how keys are hashed; see Config.Hash.
	Hash Hasher[K]

	// SingleWinner asks that of the goroutines that add the same key at once, at most one is
	// told that it was first. It costs memory, see Concurrent, and Add some nanoseconds for a
	// lock that only a change of generations holds alone. It needs an
	// FPR of at least 1e-4 × (Generations + 1).
	SingleWinner bool
}

// A Rotating is a Bloom filter that forgets: for de-duplication over time. Keys are added to
// the current generation; when that is a part of the window old, an empty one takes its place,
// and the oldest is dropped. So a key is remembered for Window after its last Add, and
// forgotten at most Window / Generations later.
//
// Add and Contains ask all generations, the current one first. Nothing runs in the background:
// the calls that come find out that it is time. The clock is monotonic; on Linux it does not go on
// while the machine is suspended.
//
// The first call after a generation's time makes the next one, and allocates it, while others wait:
// about a millisecond for 20 MB.
//
// A Rotating is safe for concurrent use by multiple goroutines, except ReadFrom and
// UnmarshalBinary, during which no other method may be called. A key whose Add has returned is
// found, for Window, by every Contains that begins after that. Calls of Rotate can make that
// shorter: see there. The zero value can only be read into.
type Rotating[K any] struct {
	state    atomic.Pointer[rotation]
	_        [128]byte    // everybody reads state, and with SingleWinner writes mu
	mu       sync.RWMutex // held alone by who replaces state, and with SingleWinner shared by Add
	clock    clock.Clock[K]
	hash     Hasher[K]
	n        uint64
	rate     float64
	window   time.Duration
	parts    int
	single   bool
	maxBytes uint64
}

// A rotation is the generations there are until a time of the clock. It is never changed, but
// replaced.
type rotation struct {
	generations []*shared // the current one, and then the older ones, the newest first
	end         int64     // when the current one is to be replaced
}

const (
	forever = int64(1<<63 - 1)
	// leastPart is the least time that a generation is the current one: to make one takes time, too.
	leastPart = time.Millisecond
)

// NewRotating returns an empty filter. It returns an error if c is not valid, or the generations
// would together be larger than c.MaxBytes.
func NewRotating[K any](c RotatingConfig[K]) (*Rotating[K], error) {
	least := blockLeastFPR
	if c.SingleWinner {
		least = wordLeastFPR
	}
	if c.Generations < 1 || c.Generations > 63 {
		return nil, fmt.Errorf("bloom: Generations must be 1 to 63, got %d", c.Generations)
	}
	if c.Window != 0 && c.Window < leastPart*time.Duration(c.Generations) {
		return nil, fmt.Errorf("bloom: Window must be 0, or at least %v for each of %d Generations, got %v", leastPart, c.Generations, c.Window)
	}
	all := float64(c.Generations + 1)
	common := Config[K]{N: c.N, FPR: c.FPR, MaxBytes: c.MaxBytes, Hash: c.Hash, SingleWinner: c.SingleWinner}
	if err := common.check("Rotating", least*all); err != nil {
		return nil, err
	}
	each := common.MaxBytes / uint64(c.Generations+1)
	first, tooMuch := newShared(c.N, c.FPR/all, each, c.SingleWinner)
	if tooMuch > 0 {
		return nil, common.tooLarge(tooMuch * all)
	}
	f := &Rotating[K]{
		hash: common.Hash, n: c.N, rate: c.FPR, window: c.Window, parts: c.Generations,
		single: c.SingleWinner, maxBytes: common.MaxBytes,
	}
	f.clock.Init()
	f.state.Store(&rotation{generations: []*shared{&first}, end: f.endAfter(0)})
	return f, nil
}

// period is how long a generation is the current one; with rounding, so that Generations of them
// are no shorter than Window.
func (f *Rotating[K]) period() int64 {
	return (int64(f.window)-1)/int64(f.parts) + 1
}

// endAfter returns when a generation that becomes the current one at the given time is replaced.
func (f *Rotating[K]) endAfter(start int64) int64 {
	if f.window == 0 || start > forever-f.period() {
		return forever
	}
	return start + f.period()
}

// now returns the generations, after replacing those whose time is over. Most calls need not
// read the clock of the system for that; see package internal/clock.
func (f *Rotating[K]) now() *rotation {
	s := f.state.Load()
	if f.window > 0 && f.clock.Soon() >= s.end {
		if now := f.clock.Now(); now >= s.end {
			return f.advance(now)
		}
	}
	return s
}

// advance replaces the generations whose time is over.
func (f *Rotating[K]) advance(now int64) *rotation {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state.Load()
	if now < s.end {
		return s // somebody else was first
	}
	// Ends stay multiples of the period, so that a generation that is replaced late, because
	// nobody called, does not make keys live longer.
	steps := 1 + (now-s.end)/f.period()
	end := s.end + (steps-1)*f.period()
	return f.rotate(s, steps, f.endAfter(end))
}

// rotate puts an empty generation in front, moves the others back by so many steps, and drops
// those that come to be too old. It makes the new one, rather than clear the oldest, for that
// one may still be asked.
func (f *Rotating[K]) rotate(s *rotation, steps, end int64) *rotation {
	current := s.generations[0]
	next := &rotation{generations: make([]*shared, 1, f.parts+1), end: end}
	next.generations[0] = &shared{blocks: make(blocks, len(current.blocks)), lanes: current.lanes}
	for i, g := range s.generations {
		// Nobody added anything in steps that were not taken when their time came: they have no
		// generation, but count.
		if steps <= int64(f.parts-i) && g != nil {
			for len(next.generations) < i+int(steps) {
				next.generations = append(next.generations, nil)
			}
			next.generations = append(next.generations, g)
		}
	}
	f.state.Store(next)
	return next
}

// Rotate begins a new generation at once, and drops the oldest if there are Generations besides
// the current one. With a Window, the new one is current for a whole part of it, so one call makes
// no key be forgotten before its time, and each further one a part of Window earlier.
func (f *Rotating[K]) Rotate() {
	f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	end := forever
	if f.window > 0 {
		end = f.endAfter(f.clock.Now())
	}
	f.rotate(f.state.Load(), 1, end)
}

// Contains reports whether k may have been added within the window; false is certain. It takes
// time in proportion to Generations.
func (f *Rotating[K]) Contains(k K) bool { return f.ContainsHash(f.hash.hash(k)) }

// ContainsHash is Contains for who has the hash already: that of Hasher.Hash, or another one
// of which all 64 bits are random. One filter must see hashes of one kind only.
func (f *Rotating[K]) ContainsHash(h uint64) bool {
	return hasAny(f.now().generations, h)
}

// hasAny reports whether any of the generations has h.
func hasAny(generations []*shared, h uint64) bool {
	for _, g := range generations {
		if g != nil && g.has(h) {
			return true
		}
	}
	return false
}

// Add adds k, and reports whether it was not there before: false means that k was added within
// the window, or looked so. In either case it is remembered from now on, for Window. Of several
// goroutines that add the same key at once, more than one may be told true, but not with
// SingleWinner.
func (f *Rotating[K]) Add(k K) (added bool) { return f.AddHash(f.hash.hash(k)) }

// AddHash is Add for who has the hash already; see ContainsHash.
func (f *Rotating[K]) AddHash(h uint64) (added bool) {
	s := f.now()
	if f.single {
		// While the lock is held the generations stay: whoever adds h as well adds it to the
		// same current generation, where one can win at most, or after a rotation, and then
		// finds it in the older one.
		f.mu.RLock()
		s = f.state.Load()
	}
	known := hasAny(s.generations[1:], h)
	added = s.generations[0].add(h) && !known
	if f.single {
		f.mu.RUnlock()
	}
	// If this took so long that the generation is not the current one any more, h would be
	// dropped with it, too early. That happens again only where generations change faster than
	// they can be made; there one that is not quite the last must do.
	for range 10 {
		now := f.now()
		if now == s {
			break
		}
		s = now
		s.generations[0].add(h)
	}
	return added
}

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *Rotating[K]) EstimatedFPR() float64 {
	none := 1.0
	for _, g := range f.now().generations {
		if g != nil {
			none *= 1 - g.fpr()
		}
	}
	return 1 - none
}

// FillRatio returns the share of the bits of the current generation that are set, from 0 to 1. It
// takes time in proportion to the size.
func (f *Rotating[K]) FillRatio() float64 { return f.now().generations[0].blocks.fill() }

// Bits returns the size in bits of the filter with all its generations.
func (f *Rotating[K]) Bits() uint64 {
	if f.state.Load() == nil {
		return 0
	}
	return uint64(len(f.state.Load().generations[0].blocks)) * blockBytes * 8 * uint64(f.parts+1)
}

// Reset removes all keys. A key that is added meanwhile may get lost.
func (f *Rotating[K]) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state.Load()
	f.rotate(&rotation{generations: s.generations[:1]}, int64(f.parts)+1, s.end)
}

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. What was added before the call is in it, and perhaps
// some of what is added meanwhile. A filter with MapHash cannot be stored: the error wraps
// ErrNotStorable, and nothing is written.
func (f *Rotating[K]) WriteTo(w io.Writer) (int64, error) {
	if err := f.hash.storable(); err != nil {
		return 0, err
	}
	s := f.now()
	left := forever
	if s.end != forever {
		left = max(s.end-f.clock.Now(), 0)
	}
	// The payload is the window, how long the current generation has left of it, the time of
	// writing, which generations there are, and these.
	there, present := uint64(0), uint64(0)
	for i, g := range s.generations {
		if g != nil {
			there |= 1 << i
			present++
		}
	}
	current := s.generations[0]
	h := header{kind: kindRotating, n: f.n, rate: f.rate, units: uint64(len(current.blocks))}
	h.extra = [2]uint64{uint64(current.lanes), uint64(f.parts)}
	h.payload = 4*8 + present*h.units*blockBytes
	e := newEncoder(w, &f.hash, h)
	e.uint64(uint64(f.window))
	e.uint64(uint64(left))
	e.uint64(uint64(time.Now().UnixNano()))
	e.uint64(there)
	for _, g := range s.generations {
		if g != nil {
			e.blocks(g.blocks)
		}
	}
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo has written, and reads no byte more than that
// wrote. The time since then, by the machine's clock, counts for the window: what is too old by now
// is forgotten. The file decides everything but the hash, which must be f's, or one of XXH if f is
// the zero value, and SingleWinner, which the file must have if f has it. All is checked before f
// is changed: on any error f is as it was. A filter larger than the MaxBytes that f was made with
// is an error, before memory for it is taken.
func (f *Rotating[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindRotating)
	hash := readHash(d, f.hash, h)
	read := d.rotation(h)
	n, err := d.finish()
	if err == nil && f.single && read.lanes == 0 {
		err = errLanes
	}
	if err != nil {
		return n, err
	}
	if f.state.Load() == nil {
		f.clock.Init()
	}
	f.hash, f.n, f.rate, f.maxBytes = hash, h.n, h.rate, d.maxBytes
	f.window, f.parts, f.single = read.window, int(h.extra[1]), read.lanes > 0
	s := &rotation{generations: read.generations, end: forever}
	if f.window > 0 && read.left != forever {
		away := max(time.Now().UnixNano()-read.written, 0)
		if now, left := f.clock.Now(), read.left-away; left < forever-now {
			s.end = now + left
		}
	}
	f.state.Store(s)
	f.now()
	return n, nil
}

// A storedRotation is the payload of a Rotating.
type storedRotation struct {
	window        time.Duration
	left, written int64
	generations   []*shared
	lanes         uint8
}

// rotation reads the payload of a Rotating.
func (d *decoder) rotation(h header) storedRotation {
	s := storedRotation{window: time.Duration(d.uint64()), left: int64(d.uint64()), written: int64(d.uint64()), lanes: uint8(h.extra[0])}
	there := d.uint64()
	parts := h.extra[1]
	switch {
	case d.err != nil:
		return s
	case h.extra[0] != 0 && h.extra[0] != 4 && h.extra[0] != 8:
		d.corrupt("%d lanes of a word", h.extra[0])
	case parts < 1 || parts > 63 || there&1 == 0 || there>>1>>parts != 0:
		d.corrupt("%d Generations, of which %b are there", parts, there)
	case h.units > d.maxBytes/blockBytes/(parts+1):
		d.fail(fmt.Errorf("bloom: %d generations of %d bytes, MaxBytes is %d: %w", parts+1, h.units*blockBytes, d.maxBytes, ErrTooLarge))
	case s.window != 0 && s.window < leastPart*time.Duration(parts) || s.left < 0 || s.left > int64(s.window) && s.left != forever || s.written < 0:
		d.corrupt("Window is %v, with %d left", s.window, s.left)
	}
	for i := 0; there>>i != 0 && d.err == nil; i++ {
		var g *shared
		if there>>i&1 != 0 {
			g = &shared{blocks: d.blocks(h.units), lanes: s.lanes}
		}
		s.generations = append(s.generations, g)
	}
	return s
}

// MarshalBinary returns what WriteTo writes.
func (f *Rotating[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Rotating[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }
