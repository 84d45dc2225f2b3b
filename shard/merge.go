package shard

import (
	"errors"
	"fmt"
	"iter"
	"slices"
)

// ErrUnsorted is what MergeSorted yields of an input that is not sorted.
var ErrUnsorted = errors.New("not sorted")

// MergeSorted yields the values of all seqs in the order of cmp, which returns a negative number if
// a comes before b, a positive one if b comes before a, and 0 if it does not matter. Each of seqs
// must be sorted by it. Of values that are equal, those of an earlier one of seqs come first; those
// of the same one stay in their order.
//
// It takes no more from any of seqs than it needs: first a value of each, and then one in place of
// the last that it yielded, when the next is asked for. With Limit, it so reads at most n +
// len(seqs) - 1 values to yield n.
//
// An error of any of seqs ends the merge, for without what comes behind it nobody knows which value
// is the next: it is yielded as it is, beside a zero value. So is an error that is ErrUnsorted, and
// says which of seqs, counted from 0, has a value that belongs before one that it has yielded
// earlier; that costs one comparison where two values of the same one come after each other, and
// what is not taken is not found out. A nil one of seqs is an error as well, as a shard that is
// missing is. The pair with the error is the last.
//
// A value must stay as it is after it was yielded, or the order cannot be checked: an input must not reuse a
// buffer. And cmp must be an order of all values: one for which NaN equals every number is none.
//
// The values of seqs are taken in the goroutine of the loop, one after the other, and all of seqs have
// ended when the loop has, however it ends. What takes long is better asked for before, by Gather: see
// the example. What is returned can be ranged over as often as seqs can.
//
// Complexity: O(log len(seqs)) for each value; the memory is that of a value, and of a coroutine,
// for each of seqs but the first. MergeSorted panics if cmp is nil.
func MergeSorted[R any](cmp func(a, b R) int, seqs ...iter.Seq2[R, error]) iter.Seq2[R, error] {
	if cmp == nil {
		panic("shard: cmp must not be nil")
	}
	seqs = slices.Clone(seqs)
	return func(yield func(R, error) bool) {
		var none R
		for i, seq := range seqs {
			if seq == nil {
				yield(none, fmt.Errorf("shard: seqs must not be nil, got it at index %d of %d", i, len(seqs)))
				return
			}
		}
		if len(seqs) == 0 {
			return
		}
		if err := mergeSorted(cmp, seqs, yield); err != nil {
			yield(none, err)
		}
	}
}

// mergeSorted yields values until there are no more, or the loop has ended, or there is an error,
// which it returns: so all inputs have ended before the loop sees that.
//
// To take values one by one from an iterator takes a coroutine, and two switches for each value,
// which is more than all the rest. So the first input is not pulled, but ranged over, and yields
// the values of the others in between: one input costs nothing that way, and two half.
func mergeSorted[R any](cmp func(a, b R) int, seqs []iter.Seq2[R, error], yield func(R, error) bool) error {
	m := &merge[R]{cmp: cmp, inputs: make([]input[R], len(seqs)-1)}
	defer m.stop()
	if err := m.start(seqs[1:]); err != nil {
		return err
	}
	var last R
	first := true
	for v, err := range seqs[0] {
		if err != nil {
			return err
		}
		// The values of the others that come before v. If there are any, they do not come before last,
		// or they had been yielded before it; then v does not, either.
		between := false
		for m.left > 0 && cmp(m.min(), v) < 0 {
			between = true
			if !yield(m.min(), nil) {
				return nil
			}
			if err := m.advance(); err != nil {
				return err
			}
		}
		if !first && !between && cmp(last, v) > 0 {
			return unsorted(0, len(seqs))
		}
		if !yield(v, nil) {
			return nil
		}
		first, last = false, v
	}
	for m.left > 0 {
		if !yield(m.min(), nil) {
			return nil
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}

func unsorted(i, n int) error { return fmt.Errorf("shard: input %d of %d: %w", i, n, ErrUnsorted) }

// A merge is a tree of losers (Knuth, The Art of Computer Programming 3, 5.4.1): a tournament in
// which each inner node keeps who has lost there, so that when the winner has a new value, only its
// own way to the top is played again, with one comparison at each step.
//
// Of k inputs, input i stands at leaf k+i; the parent of node n is n/2, and the root is 1. For each
// inner node, tree[n] is the loser of the game at n, and tree[0] is the winner of them all: the
// input whose value comes first. Inputs that have ended lose against all others. No game is a draw,
// as the earlier input wins those between equals: that makes the merge stable, whatever the shape
// of the tree is.
type merge[R any] struct {
	cmp    func(a, b R) int
	inputs []input[R]
	tree   []int
	left   int // how many inputs have not ended
}

// An input is one of the sequences, and the value that is its next.
type input[R any] struct {
	next  func() (R, error, bool)
	stop  func()
	value R
	ended bool
}

// start takes the first value of each input, and plays all games.
func (m *merge[R]) start(seqs []iter.Seq2[R, error]) error {
	k := len(seqs)
	for i := range m.inputs {
		in := &m.inputs[i]
		in.next, in.stop = iter.Pull2(seqs[i])
		m.left++
		if err := m.take(i); err != nil {
			return err
		}
	}
	if k == 0 {
		return nil
	}
	m.tree = make([]int, k)
	winners := make([]int, 2*k)
	for i := range k {
		winners[k+i] = i
	}
	for n := k - 1; n > 0; n-- {
		winners[n], m.tree[n] = m.play(winners[2*n], winners[2*n+1])
	}
	m.tree[0] = winners[1]
	return nil
}

// take takes the next value of input i.
func (m *merge[R]) take(i int) error {
	in := &m.inputs[i]
	v, err, ok := in.next()
	switch {
	case !ok:
		var none R
		in.value, in.ended = none, true
		m.left--
	case err != nil:
		return err
	default:
		in.value = v
	}
	return nil
}

// play returns who of two inputs wins, and who loses.
func (m *merge[R]) play(i, j int) (winner, loser int) {
	a, b := &m.inputs[i], &m.inputs[j]
	if a.ended {
		return j, i
	}
	if !b.ended {
		if c := m.cmp(a.value, b.value); c > 0 || c == 0 && i > j {
			return j, i
		}
	}
	return i, j
}

// min returns the value that comes first. There must be one.
func (m *merge[R]) min() R { return m.inputs[m.tree[0]].value }

// advance replaces the value that comes first by the next of its input.
//
// If that input has been out of order, its new value comes before the old one, which came before
// those of all other inputs. Then it wins again: so only a winner that stays need be compared with
// what it was.
func (m *merge[R]) advance() error {
	i := m.tree[0]
	old := m.inputs[i].value
	if err := m.take(i); err != nil {
		return err
	}
	winner := i
	for n := (len(m.inputs) + i) / 2; n > 0; n /= 2 {
		winner, m.tree[n] = m.play(winner, m.tree[n])
	}
	m.tree[0] = winner
	if winner == i && !m.inputs[i].ended && m.cmp(old, m.inputs[i].value) > 0 {
		return unsorted(i+1, len(m.inputs)+1)
	}
	return nil
}

// stop ends all inputs, even if one of them panics.
func (m *merge[R]) stop() {
	for i := range m.inputs {
		if stop := m.inputs[i].stop; stop != nil {
			defer stop()
		}
	}
}

// Limit yields the first n values of seq, and then ends it without asking for another. Errors are
// passed on, and not counted. If n is negative, it yields an error.
func Limit[R any](n int, seq iter.Seq2[R, error]) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		if n < 0 {
			var none R
			yield(none, fmt.Errorf("shard: n must be at least 0, got %d", n))
			return
		}
		left := n
		if left == 0 {
			return
		}
		for v, err := range seq {
			if !yield(v, err) {
				return
			}
			if err == nil {
				if left--; left == 0 {
					return
				}
			}
		}
	}
}

// Values yields the values of s, each with a nil error: what a shard has answered as an input of
// MergeSorted.
func Values[R any](s []R) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		for _, v := range s {
			if !yield(v, nil) {
				return
			}
		}
	}
}
