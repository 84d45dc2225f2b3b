// Package departed collects the values that leave a cache while its lock is held, and tells
// the user of them when it is not.
package departed

import "sync/atomic"

// A List is the values that have left a cache by one call. A nil *List collects nothing. C
// is the type of the cache's causes. A List is not safe for concurrent use.
type List[K, V, C any] struct {
	items []item[K, V, C]
}

type item[K, V, C any] struct {
	key   K
	value V
	cause C
}

// keep is the longest list whose memory is kept for the next call.
const keep = 64

// Add adds a value that has left, with its key and the reason.
func (d *List[K, V, C]) Add(k K, v V, cause C) {
	if d != nil {
		d.items = append(d.items, item[K, V, C]{k, v, cause})
	}
}

// Report calls f for each value, in the order of Add, and empties the list. If f panics, or
// calls runtime.Goexit, it is called for the others all the same; then the first panic goes
// on, and those of later calls are dropped. f may make calls that use other lists.
func (d *List[K, V, C]) Report(f func(K, V, C)) {
	items := d.items
	d.items = items[:0]
	if cap(items) > keep {
		d.items = nil
	}
	defer clear(items)
	report(items, f)
}

func report[K, V, C any](items []item[K, V, C], f func(K, V, C)) {
	next := func() {
		d := &items[0]
		items = items[1:]
		f(d.key, d.value, d.cause)
	}
	var rest func()
	rest = func() { // a panic or a Goexit is under way
		if len(items) == 0 {
			return
		}
		defer rest() // if f calls Goexit again
		for len(items) > 0 {
			func() {
				defer func() { _ = recover() }()
				next()
			}()
		}
	}
	defer rest()
	for len(items) > 0 {
		next()
	}
}

// A Spare keeps the memory of a list for the next call that needs one. A Spare is safe for
// concurrent use by multiple goroutines; calls that overlap make lists of their own.
type Spare[K, V, C any] struct {
	list atomic.Pointer[List[K, V, C]]
}

// Take returns an empty list.
func (s *Spare[K, V, C]) Take() *List[K, V, C] {
	if l := s.list.Swap(nil); l != nil {
		return l
	}
	return new(List[K, V, C])
}

// Report is l.Report, and keeps the list. Take may be called again while f runs.
func (s *Spare[K, V, C]) Report(l *List[K, V, C], f func(K, V, C)) {
	l.Report(f)
	s.list.Store(l)
}
