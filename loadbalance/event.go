package loadbalance

import (
	"fmt"
	"sync"
)

// An Event is a change of the state of an endpoint, or of all of one Priority.
type Event struct {
	Kind     EventKind // what has happened
	ID       string    // of the endpoint, or ""
	Priority uint8     // with Panicked, PanicEnded and PolicyFailed
	Err      error     // why, or nil
}

// An EventKind says what an Event is.
type EventKind uint8

const (
	// Added is an endpoint that was not there before.
	Added EventKind = iota
	// Removed is an endpoint that is no longer there.
	Removed
	// Up is an endpoint whose checks succeed again.
	Up
	// Down is an endpoint whose checks fail.
	Down
	// Ejected is an endpoint whose requests fail.
	Ejected
	// Returned is an endpoint whose ejection has ended.
	Returned
	// Draining is an endpoint that is given no more requests.
	Draining
	// Resumed is an endpoint that was draining.
	Resumed
	// Panicked is a Priority whose endpoints get requests whether they are healthy or not.
	Panicked
	// PanicEnded is a Priority where that is over.
	PanicEnded
	// ResolveFailed is a Resolver that has returned an error, or what is not valid.
	ResolveFailed
	// PolicyFailed is a Policy whose Build has panicked, or returned no Picker.
	PolicyFailed
)

// String returns the name of the constant.
func (k EventKind) String() string {
	names := [...]string{"Added", "Removed", "Up", "Down", "Ejected", "Returned", "Draining", "Resumed", "Panicked", "PanicEnded", "ResolveFailed", "PolicyFailed"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// notices are those that a callback has not been called for, in order.
type notices[E any] struct {
	mu      sync.Mutex
	queue   []E
	calling bool // somebody calls it
}

// add has the callback called with e by flush. Who adds holds the lock of what e is about, so that the
// order is that of what has happened.
func (n *notices[E]) add(e E) {
	n.mu.Lock()
	n.queue = append(n.queue, e)
	n.mu.Unlock()
}

// flush calls the callback, if there is one, outside of all locks. If somebody is about it already, who
// may be the caller of this, in the callback, it leaves the rest to them.
func (n *notices[E]) flush(callback func(E)) {
	if callback == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.calling {
		return
	}
	n.calling = true
	defer func() { n.calling = false }()
	for len(n.queue) > 0 {
		next := n.queue[0]
		n.queue = n.queue[1:]
		func() {
			n.mu.Unlock()
			defer n.mu.Lock()
			callback(next)
		}()
	}
	n.queue = nil
}

// emitLocked has OnEvent called by flush, unless the Pool is closed.
func (p *Pool[T]) emitLocked(e Event) {
	if p.config.OnEvent != nil && !p.closed {
		p.events.add(e)
	}
}

// flush calls OnEvent. It must be called without the mutex of the Pool.
func (p *Pool[T]) flush() { p.events.flush(p.config.OnEvent) }
