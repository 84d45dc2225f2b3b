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

// events are those that OnEvent has not been called for.
type events struct {
	mu      sync.Mutex
	queue   []Event
	calling bool // somebody calls OnEvent
}

// emitLocked has OnEvent called by flush, unless the Pool is closed. It needs the mutex of the Pool, so
// that events are in order.
func (p *Pool[T]) emitLocked(e Event) {
	if p.config.OnEvent == nil || p.closed {
		return
	}
	p.events.mu.Lock()
	p.events.queue = append(p.events.queue, e)
	p.events.mu.Unlock()
}

// flush calls OnEvent, without the mutex of the Pool. If somebody is about it already, who may be the
// caller of this, in OnEvent, it leaves the rest to them.
func (p *Pool[T]) flush() {
	if p.config.OnEvent == nil {
		return
	}
	e := &p.events
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calling {
		return
	}
	e.calling = true
	defer func() { e.calling = false }()
	for len(e.queue) > 0 {
		next := e.queue[0]
		e.queue = e.queue[1:]
		func() {
			e.mu.Unlock()
			defer e.mu.Lock()
			p.config.OnEvent(next)
		}()
	}
	e.queue = nil
}
