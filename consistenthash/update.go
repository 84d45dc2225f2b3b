package consistenthash

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Update changes the members: f says how, by the methods of the Tx that it is given, which is valid
// until f returns. The map then changes all at once, with one rebuilding. If f returns an error or
// panics, or a method of the Tx has failed, or the algorithm does not take the result, nothing
// changes; Update returns the error, or the first of them.
//
// Less moves if a node that takes the place of another keeps its ID, with another Value.
//
// Updates take place one after the other, and f runs while the others wait: it must not call
// Update of the same map. Reading goes on meanwhile.
func (m *Map[T]) Update(f func(*Tx[T]) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	prev := m.state.Load()
	tx := &Tx[T]{members: slices.Clone(prev.members)}
	defer func() { tx.done = true }()
	if err := f(tx); err != nil {
		return err
	}
	if tx.err != nil {
		return tx.err
	}
	s, err := m.build(prev, tx.members)
	if err != nil {
		return err
	}
	m.state.Store(s)
	return nil
}

// A Tx is a change of a Map that is being put together. It is not safe for concurrent use.
type Tx[T any] struct {
	members []Member[T] // in order of ID
	err     error       // the first
	done    bool
}

var errDone = errors.New("consistenthash: Tx used after Update")

// find returns the place of id, or where it belongs, or an error.
func (t *Tx[T]) find(id string) (int, bool, error) {
	if t.done {
		return 0, false, errDone
	}
	if id == "" {
		return 0, false, t.fail(errEmptyID)
	}
	i, ok := slices.BinarySearchFunc(t.members, id, func(m Member[T], id string) int { return cmp.Compare(m.ID, id) })
	return i, ok, nil
}

func (t *Tx[T]) fail(err error) error {
	if t.err == nil {
		t.err = err
	}
	return err
}

// Add adds a member. It returns an error if its ID is there already (ErrDuplicate) or empty.
func (t *Tx[T]) Add(m Member[T]) error {
	i, ok, err := t.find(m.ID)
	if err != nil {
		return err
	}
	if ok {
		return t.fail(fmt.Errorf("consistenthash: node %q: %w", m.ID, ErrDuplicate))
	}
	t.members = slices.Insert(t.members, i, m)
	return nil
}

// Set adds a member, or replaces the one that has its ID. It returns an error if the ID is empty.
func (t *Tx[T]) Set(m Member[T]) error {
	i, ok, err := t.find(m.ID)
	if err != nil {
		return err
	}
	if ok {
		t.members[i] = m
	} else {
		t.members = slices.Insert(t.members, i, m)
	}
	return nil
}

// Remove removes the member with that ID. It returns an error if there is none (ErrUnknown), and
// then Update fails, too: ask Get where that may be.
func (t *Tx[T]) Remove(id string) error {
	i, err := t.known(id)
	if err != nil {
		return err
	}
	t.members = slices.Delete(t.members, i, i+1)
	return nil
}

// SetWeight changes the weight of the member with that ID; 0 drains it. It returns an error if there is
// none (ErrUnknown).
func (t *Tx[T]) SetWeight(id string, weight uint32) error {
	i, err := t.known(id)
	if err != nil {
		return err
	}
	t.members[i].Weight = weight
	return nil
}

func (t *Tx[T]) known(id string) (int, error) {
	i, ok, err := t.find(id)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, t.fail(fmt.Errorf("consistenthash: node %q: %w", id, ErrUnknown))
	}
	return i, nil
}

// Clear removes all members. With Set after it for each, a whole list of members replaces another, as
// service discovery has it; with Slots, only what differs is computed anew. It is best done in
// order of ID.
func (t *Tx[T]) Clear() {
	if !t.done {
		clear(t.members)
		t.members = t.members[:0]
	}
}

// Get returns the member with that ID, as the change has it so far.
func (t *Tx[T]) Get(id string) (Member[T], bool) {
	if t.done || id == "" {
		return Member[T]{}, false
	}
	i, ok, _ := t.find(id)
	if !ok {
		return Member[T]{}, false
	}
	return t.members[i], true
}

// Len returns the number of members, as the change has it so far.
func (t *Tx[T]) Len() int { return len(t.members) }
