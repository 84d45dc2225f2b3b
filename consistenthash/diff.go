package consistenthash

import (
	"fmt"
	"iter"
	"math"
)

// A Move is a range of positions whose owner differs between two maps.
type Move struct {
	First, Last uint64 // positions, both included
	From, To    string // IDs of the owners; "" if there is none
}

// Share returns the part of all positions that are in the range, from 0 to 1.
func (m Move) Share() float64 { return (float64(m.Last-m.First) + 1) / (1 << 64) }

// Ranged reports whether keys lie in ranges, which Diff needs: so it is with all algorithms of
// this package but Rendezvous, and with others that make a Ranger.
func (m *Map[T]) Ranged() bool {
	_, ok := m.state.Load().picker.(Ranger)
	return ok
}

// CanDiff returns an error that says why Diff cannot compare two maps, or nil: if one of them is not
// Ranged, or if they hash keys differently, so that positions in one have nothing to do with those in
// the other: with another Seed, or by a KeyHasher of another name (see Algorithm).
func CanDiff[T any](from, to *Map[T]) error {
	for _, m := range []*Map[T]{from, to} {
		if !m.Ranged() {
			return fmt.Errorf("consistenthash: %s has no ranges to compare; DiffKeys compares key by key", m.name())
		}
	}
	return agree(from, to)
}

// Diff returns the ranges of positions that have another owner in to than in from, in ascending
// order; each is as long as it can be. It compares the maps as they are when it is called, so the
// sequence can be gone through later, and again. The algorithms may differ, so it also tells what a
// change of algorithm moves. O(slots, points or entries).
//
// It panics if CanDiff returns an error.
func Diff[T any](from, to *Map[T]) iter.Seq[Move] {
	if err := CanDiff(from, to); err != nil {
		panic(err.Error())
	}
	a, b := from.state.Load(), to.state.Load()
	ra, rb := a.picker.(Ranger), b.picker.(Ranger)
	return func(yield func(Move) bool) {
		var pending Move
		has := false
		flush := func() bool { return !has || yield(pending) }
		for r := range overlaps(ra, rb) {
			m := Move{r.first, r.last, a.id(r.from), b.id(r.to)}
			if m.From == m.To {
				continue
			}
			if has && pending.Last+1 == m.First && pending.From == m.From && pending.To == m.To {
				pending.Last = m.Last
				continue
			}
			if !flush() {
				return
			}
			pending, has = m, true
		}
		flush()
	}
}

// overlap is a range of positions in which neither of two Rangers changes its owner.
type overlap struct {
	first, last uint64
	from, to    int
}

// overlaps returns them in order.
func overlaps(from, to Ranger) iter.Seq[overlap] {
	return func(yield func(overlap) bool) {
		next, stop := iter.Pull2(whole(to.Ranges()))
		defer stop()
		end, owner, _ := next()
		var first uint64
		for last, from := range whole(from.Ranges()) {
			for {
				o := overlap{first, min(last, end), from, owner}
				if !yield(o) || o.last == math.MaxUint64 {
					return
				}
				first = o.last + 1
				if end == o.last {
					end, owner, _ = next()
				}
				if o.last == last {
					break
				}
			}
		}
	}
}

// whole makes of no ranges the range of all positions, without owner.
func whole(ranges iter.Seq2[uint64, int]) iter.Seq2[uint64, int] {
	return func(yield func(uint64, int) bool) {
		empty := true
		for last, owner := range ranges {
			empty = false
			if !yield(last, owner) {
				return
			}
		}
		if empty {
			yield(math.MaxUint64, -1)
		}
	}
}

// DiffKeys returns those of the positions in keys whose owner differs between from and to, each as
// a Move of one position, in the order of keys. It works with all algorithms, and takes two Picks a
// key. The maps are compared as they are when it is called. It panics if they hash keys
// differently; see Diff.
func DiffKeys[T any](from, to *Map[T], keys iter.Seq[uint64]) iter.Seq[Move] {
	if err := agree(from, to); err != nil {
		panic(err.Error())
	}
	a, b := from.state.Load(), to.state.Load()
	return func(yield func(Move) bool) {
		for h := range keys {
			m := Move{h, h, a.id(a.picker.Pick(h)), b.id(b.picker.Pick(h))}
			if m.From != m.To && !yield(m) {
				return
			}
		}
	}
}

// id returns the ID of a node by its index; "" for -1.
func (s *state[T]) id(i int) string {
	if i < 0 {
		return ""
	}
	return s.nodes[i].ID
}

// agree returns an error unless keys have the same positions in both maps.
func agree[T any](a, b *Map[T]) error {
	if ha, hb := a.hashing(), b.hashing(); ha != hb {
		return fmt.Errorf("consistenthash: two maps that hash keys differently cannot be compared: %s and %s", ha, hb)
	}
	return nil
}

// hashing names how keys are hashed.
func (m *Map[T]) hashing() string {
	if _, ok := m.algorithm.(KeyHasher); ok {
		return "the hash of " + m.name()
	}
	return fmt.Sprintf("XXH64 with Seed %d", m.seed)
}
