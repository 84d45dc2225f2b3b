package bloom

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// A Scalable is a Bloom filter that grows: for sets of which nobody knows how large they will
// become. When its newest stage has the keys that it was made for, the next one has room for
// twice as many, at half the rate of false positives. (Almeida, Baquero, Preguiça, Hutchison:
// Scalable Bloom Filters, 2007.)
//
// Config.N is the number of keys of the first stage, and Config.FPR is for the whole filter,
// however many keys it has: stage i, counted from 0, is made for N·2^i keys at the rate FPR/2^(i+1)
// and never gets more, and a key not in the filter is a false positive with a probability of at
// most the sum of these rates, FPR·(1/2 + 1/4 + …) < FPR. The least FPR is 1e-6.
//
// With n keys it has about log2(n/N) stages, all of which Contains asks, the newest first. At 1 %
// it takes 12 bits a key with one stage, 20 with six when the newest is full, and twice as many
// when that is new. So N should not be far too small.
//
// It stops growing before its data takes more than Config.MaxBytes, and before the rate of a stage
// would fall below 1e-11, after 16 stages if FPR is 1e-6 and after 29 if it is 1 %. Then it goes on to
// take keys, and the rate rises; Saturated tells.
//
// A Scalable is safe for concurrent use by multiple goroutines, except ReadFrom and
// UnmarshalBinary, during which no other method may be called. A key whose Add has returned is
// found by every Contains that begins after that. The zero value can only be read into.
type Scalable[K any] struct {
	stages    atomic.Pointer[[]*stage] // the newest first, at least one; never changed, but replaced
	stuck     atomic.Bool              // there can be no other stage
	saturated atomic.Bool              // a stage has more keys than its capacity, or may have
	mu        sync.Mutex               // held by who replaces stages
	hash      Hasher[K]
	n         uint64
	rate      float64
	maxBytes  uint64
}

// A stage is one of the filters of a Scalable.
type stage struct {
	blocks   blocks
	capacity uint64
	rate     float64
	_        [128]byte     // everybody reads what is above, and what is below is written often
	used     atomic.Uint64 // keys added, at most capacity but for a moment, or when there is no next
	_        [120]byte
}

const (
	scalableLeastFPR = 1e-6
	// stageLeastFPR is the least rate of a stage: below it lanesFPR is not exact any more.
	stageLeastFPR = 1e-11
	tightening    = 0.5
	growth        = 2
)

// NewScalable returns an empty filter. It returns an error if c is not valid, or the first stage
// would be larger than c.MaxBytes.
func NewScalable[K any](c Config[K]) (*Scalable[K], error) {
	if err := c.check("Scalable", scalableLeastFPR); err != nil {
		return nil, err
	}
	first, tooMuch := newStage(c.N, c.FPR*(1-tightening), c.MaxBytes)
	if tooMuch > 0 {
		return nil, c.tooLarge(tooMuch)
	}
	f := &Scalable[K]{hash: c.Hash, n: c.N, rate: c.FPR, maxBytes: c.MaxBytes}
	f.stages.Store(&[]*stage{first})
	return f, nil
}

// newStage returns a stage for n keys at the rate p, or how many bytes it would be, if that is
// more than maxBytes.
func newStage(n uint64, p float64, maxBytes uint64) (*stage, float64) {
	bs, tooMuch := newBlocks(n, p, maxBytes)
	if tooMuch > 0 {
		return nil, tooMuch
	}
	return &stage{blocks: bs, capacity: n, rate: p}, 0
}

// Contains reports whether k may be in the filter; false is certain. It takes time in
// proportion to the number of stages.
func (f *Scalable[K]) Contains(k K) bool { return f.ContainsHash(f.hash.hash(k)) }

// ContainsHash is Contains for who has the hash already: that of Hasher.Hash, or another one
// of which all 64 bits are random. One filter must see hashes of one kind only.
func (f *Scalable[K]) ContainsHash(h uint64) bool { return has(*f.stages.Load(), h) }

// has reports whether any of the stages has h. A stage, once it is in the list, stays in all
// lists that come after it, so that what was added to it is found whichever of them is asked.
func has(stages []*stage, h uint64) bool {
	for _, s := range stages {
		if b, x := s.blocks.at(h); b.hasConcurrent(x) {
			return true
		}
	}
	return false
}

// Add adds k, and reports whether that changed the filter: false means that k was in it
// already, or looked so. Of several goroutines that add the same key at once, more than one may
// be told true. When the newest stage is full, one caller makes the next, for which others that
// add new keys wait.
func (f *Scalable[K]) Add(k K) (added bool) { return f.AddHash(f.hash.hash(k)) }

// AddHash is Add for who has the hash already; see ContainsHash.
func (f *Scalable[K]) AddHash(h uint64) (added bool) {
	for {
		stages := f.stages.Load()
		if has(*stages, h) {
			return false
		}
		s := (*stages)[0]
		// Who adds takes a place first, so that no stage gets more keys than its rate is for.
		if s.used.Add(1) <= s.capacity || f.stuck.Load() {
			b, x := s.blocks.at(h)
			return b.addConcurrent(x)
		}
		s.used.Add(^uint64(0))
		f.grow(stages)
	}
}

// grow adds a stage, unless somebody has replaced the list that the caller saw.
func (f *Scalable[K]) grow(seen *[]*stage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stages.Load() != seen || f.stuck.Load() {
		return
	}
	s := (*seen)[0]
	n, p := s.capacity*growth, s.rate*tightening
	bytes := dataBytes(*seen)
	var next *stage
	if p >= stageLeastFPR && s.capacity <= math.MaxUint64/growth && bytes < f.maxBytes {
		next, _ = newStage(n, p, f.maxBytes-bytes)
	}
	if next == nil {
		f.saturated.Store(true)
		f.stuck.Store(true)
		return
	}
	stages := append([]*stage{next}, *seen...)
	f.stages.Store(&stages)
}

// dataBytes returns the memory that stages take.
func dataBytes(stages []*stage) uint64 {
	sum := uint64(0)
	for _, s := range stages {
		sum += uint64(len(s.blocks)) * blockBytes
	}
	return sum
}

// Stages returns the number of stages.
func (f *Scalable[K]) Stages() int { return len(*f.stages.Load()) }

// Saturated reports whether the filter needed to grow and could not: then it has more keys than its
// FPR is for. Keys are still never lost. See EstimatedFPR.
func (f *Scalable[K]) Saturated() bool { return f.saturated.Load() }

// Len returns the number of keys that were added: those for which Add returned true, and some
// more if the same key was added by several goroutines at once. It takes time in proportion to
// the number of stages.
func (f *Scalable[K]) Len() uint64 {
	sum := uint64(0)
	for _, s := range *f.stages.Load() {
		sum += s.len(f.saturated.Load())
	}
	return sum
}

// len returns the number of keys in the stage: used may be above capacity for a moment.
func (s *stage) len(saturated bool) uint64 {
	if saturated {
		return s.used.Load()
	}
	return min(s.used.Load(), s.capacity)
}

// EstimatedFPR returns the share of the keys not in the filter for which Contains is true now,
// computed from the bits that are set. It takes time in proportion to the size.
func (f *Scalable[K]) EstimatedFPR() float64 {
	none := 1.0
	for _, s := range *f.stages.Load() {
		none *= 1 - s.blocks.fpr()
	}
	return 1 - none
}

// FillRatio returns the share of the bits that are set, from 0 to 1. It takes time in
// proportion to the size.
func (f *Scalable[K]) FillRatio() float64 {
	set, all := 0.0, 0.0
	for _, s := range *f.stages.Load() {
		set += s.blocks.fill() * float64(len(s.blocks))
		all += float64(len(s.blocks))
	}
	return set / all
}

// Bits returns the size of the filter in bits, as it is now.
func (f *Scalable[K]) Bits() uint64 {
	if f.stages.Load() == nil {
		return 0
	}
	return dataBytes(*f.stages.Load()) * 8
}

// Clone returns a copy, which has what was added before Clone was called, and perhaps some of
// what was added meanwhile.
func (f *Scalable[K]) Clone() *Scalable[K] {
	c := &Scalable[K]{hash: f.hash, n: f.n, rate: f.rate, maxBytes: f.maxBytes}
	stages := slices.Clone(*f.stages.Load())
	for i, s := range stages {
		stages[i] = &stage{blocks: s.blocks.clone(), capacity: s.capacity, rate: s.rate}
		// The number is taken after the bits, so that no key is in them that is not counted: it
		// would use up room in the stage that others are given.
		stages[i].used.Store(s.len(f.saturated.Load()))
	}
	c.saturated.Store(f.saturated.Load())
	c.stages.Store(&stages)
	return c
}

// Reset removes all keys and all stages but a new first one. A key that is added meanwhile may
// get lost.
func (f *Scalable[K]) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	stages := *f.stages.Load()
	old := stages[len(stages)-1]
	// First of all, or the new stage would be filled without end.
	f.stuck.Store(false)
	f.saturated.Store(false)
	f.stages.Store(&[]*stage{{blocks: make(blocks, len(old.blocks)), capacity: old.capacity, rate: old.rate}})
}

// WriteTo writes the filter to w, in the format of this package, in pieces of at most 32 KiB, and
// returns the number of bytes written. What was added before the call is in it, and perhaps
// some of what is added meanwhile. A filter with MapHash cannot be stored: the error wraps
// ErrNotStorable, and nothing is written.
func (f *Scalable[K]) WriteTo(w io.Writer) (int64, error) {
	if err := f.hash.storable(); err != nil {
		return 0, err
	}
	// The payload is capacity, rate and number of blocks of each stage, then all blocks, and then
	// the number of keys of each stage, taken last: see Clone.
	stages := *f.stages.Load()
	h := header{kind: kindScalable, n: f.n, rate: f.rate, units: uint64(len(stages))}
	h.payload = uint64(len(stages))*32 + dataBytes(stages)
	if f.saturated.Load() {
		h.extra[0] = 1
	}
	e := newEncoder(w, &f.hash, h)
	for _, s := range stages {
		e.uint64(s.capacity)
		e.uint64(math.Float64bits(s.rate))
		e.uint64(uint64(len(s.blocks)))
	}
	for _, s := range stages {
		e.blocks(s.blocks)
	}
	for _, s := range stages {
		// More than its capacity is in a stage only if the filter is saturated, which it may have
		// become since the header was written; the reader finds out by the number.
		e.uint64(s.len(f.saturated.Load()))
	}
	return e.finish()
}

// ReadFrom replaces the filter by one that WriteTo has written, and reads no byte more than that
// wrote. The file decides the sizes and rates; its hash must be f's, or one of XXH if f is the zero
// value. All is checked before f is changed: on any error f is as it was. A filter larger than
// the MaxBytes that f was made with is an error, before memory for it is taken.
func (f *Scalable[K]) ReadFrom(r io.Reader) (int64, error) {
	d := newDecoder(r, f.maxBytes)
	h := d.header(kindScalable)
	hash := readHash(d, f.hash, h)
	stages := d.stages(h)
	n, err := d.finish()
	if err != nil {
		return n, err
	}
	f.hash, f.n, f.rate, f.maxBytes = hash, h.n, h.rate, d.maxBytes
	f.saturated.Store(h.extra[0] == 1 || slices.ContainsFunc(stages, func(s *stage) bool { return s.used.Load() > s.capacity }))
	f.stuck.Store(false) // there may be more memory now
	f.stages.Store(&stages)
	return n, nil
}

// stages reads the payload of a Scalable.
func (d *decoder) stages(h header) []*stage {
	// There cannot be more: capacities double.
	if h.units < 1 || h.units > 64 || h.extra[0] > 1 || h.extra[1] != 0 {
		d.corrupt("%d stages", h.units)
		return nil
	}
	stages := make([]*stage, h.units)
	sizes, sum := make([]uint64, h.units), uint64(0)
	for i := range stages {
		s := &stage{capacity: d.uint64(), rate: math.Float64frombits(d.uint64())}
		sizes[i] = d.uint64()
		switch {
		case d.err != nil:
			return nil
		case s.capacity < 1 || !(s.rate > 0 && s.rate < 1) || i > 0 && (s.capacity > math.MaxUint64/growth || s.capacity*growth != stages[i-1].capacity):
			d.corrupt("a stage has a capacity of %d and a rate of %v", s.capacity, s.rate)
			return nil
		case sizes[i] > (d.maxBytes-sum)/blockBytes:
			d.fail(fmt.Errorf("bloom: the stored filter has more than MaxBytes, %d: %w", d.maxBytes, ErrTooLarge))
			return nil
		}
		sum += sizes[i] * blockBytes
		stages[i] = s
	}
	for i := range stages {
		stages[i].blocks = d.blocks(sizes[i])
	}
	for _, s := range stages {
		if s.used.Store(d.uint64()); s.used.Load() > math.MaxInt64 {
			d.corrupt("a stage has %d keys", s.used.Load())
		}
	}
	return stages
}

// MarshalBinary returns what WriteTo writes.
func (f *Scalable[K]) MarshalBinary() ([]byte, error) { return marshal(f, f.Bits()/8) }

// UnmarshalBinary is ReadFrom of data, which must be one filter and nothing more.
func (f *Scalable[K]) UnmarshalBinary(data []byte) error { return unmarshal(f, data) }
