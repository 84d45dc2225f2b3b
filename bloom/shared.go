package bloom

import (
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"
)

// A shared filter is what Concurrent and the generations of Rotating are made of: blocks, in which
// a key has all eight lanes of a block, or, if lanes is not 0, all bits in one of its words.
type shared struct {
	blocks blocks
	lanes  uint8 // of a word: 4 of 16 bits, or 8 of 8; 0: the lanes are the words of a block
}

// wordLeastFPR is the least rate for bits in one word.
const wordLeastFPR = 1e-4

var errLanes = fmt.Errorf("bloom: only one of the filters has SingleWinner, or their FPRs differ: %w", ErrMismatch)

// newShared returns a filter for n keys at the rate p, or how many bytes it would be, if that is
// more than maxBytes.
func newShared(n uint64, p float64, maxBytes uint64, words bool) (s shared, tooMuch float64) {
	if !words {
		s.blocks, tooMuch = newBlocks(n, p, maxBytes)
		return s, tooMuch
	}
	four := lanesUnits(n, p, 1<<52, 4, 64/4)
	eight := lanesUnits(n, p, 1<<52, 8, 64/8)
	s.lanes = 4
	if eight < four {
		s.lanes = 8
	}
	units := math.Ceil(min(four, eight) / blockLanes)
	if bytes := units * blockBytes; bytes > float64(maxBytes) {
		return s, bytes
	}
	s.blocks = make(blocks, int(units))
	return s, 0
}

// word returns the word of a hash and the bits in it, chosen as those of blocks.at are.
func (s *shared) word(h uint64) (w *uint64, mask uint64) {
	hi, lo := bits.Mul64(h, mixer2)
	i, _ := bits.Mul64(hi^lo, uint64(len(s.blocks))*blockLanes)
	if s.lanes == 4 {
		mask = 1<<(lo>>38&15) | 1<<(16|lo>>42&15) | 1<<(32|lo>>46&15) | 1<<(48|lo>>50&15)
	} else {
		for lane := uint64(0); lane < 64; lane += 8 {
			mask |= 1 << (lane | lo>>30&7)
			lo >>= 3
		}
	}
	return &s.blocks[i/blockLanes][i%blockLanes], mask
}

// has reports whether all bits of h are set.
func (s *shared) has(h uint64) bool {
	if s.lanes == 0 {
		b, x := s.blocks.at(h)
		return b.hasConcurrent(x)
	}
	w, mask := s.word(h)
	return atomic.LoadUint64(w)&mask == mask
}

// add sets the bits of h, and reports whether any was not set. With bits in one word at most one
// of the goroutines that add h is told so, for atomic operations on a word come one after the
// other: the first of theirs leaves the word with all bits of h set, and so all later ones find
// it, since bits are never cleared. (Reset and Intersect aside.)
func (s *shared) add(h uint64) (added bool) {
	if s.lanes == 0 {
		b, x := s.blocks.at(h)
		return b.addConcurrent(x)
	}
	w, mask := s.word(h)
	if atomic.LoadUint64(w)&mask == mask {
		return false
	}
	return atomic.OrUint64(w, mask)&mask != mask
}

// count estimates how many keys were added.
func (s *shared) count() uint64 {
	units, width := float64(len(s.blocks)), blockWidth
	if s.lanes > 0 {
		units, width = units*blockLanes, 64/int(s.lanes)
	}
	return lanesCount(s.blocks.fill(), units, width)
}

// fpr returns the probability that a random hash finds all its bits set.
func (s *shared) fpr() float64 {
	if s.lanes == 0 {
		return s.blocks.fpr()
	}
	sum := 0.0
	width := 64 / int(s.lanes)
	for i := range s.blocks {
		for j := range s.blocks[i] {
			w, p := atomic.LoadUint64(&s.blocks[i][j]), 1.0
			for range s.lanes {
				p *= float64(bits.OnesCount64(w&(1<<width-1))) / float64(width)
				w >>= width
			}
			sum += p
		}
	}
	return sum / float64(len(s.blocks)*blockLanes)
}

// shared reads a filter whose header is h.
func (d *decoder) shared(h header) shared {
	s := shared{lanes: uint8(h.extra[0])}
	if h.extra[0] != uint64(s.lanes) || s.lanes != 0 && s.lanes != 4 && s.lanes != 8 || (s.lanes != 0) != (h.kind == kindWords) {
		d.corrupt("%d lanes of a word", h.extra[0])
	}
	s.blocks = d.blocks(h.units)
	return s
}
