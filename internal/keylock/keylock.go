// Package keylock has a lock for each key, for critical sections that wait for something
// outside the process.
package keylock

import (
	"context"
	"sync"
)

// Locks is a lock for each key. It holds memory only for the keys that are locked. The zero
// value has none locked. Locks is safe for concurrent use by multiple goroutines.
type Locks[K comparable] struct {
	mu   sync.Mutex
	keys map[K]*key
}

type key struct {
	users int           // who have the lock or wait for it; guarded by Locks.mu
	held  chan struct{} // with room for one, who has the lock; those who wait come in turn
}

// Lock locks k, or returns the error of ctx if that ends first.
func (l *Locks[K]) Lock(ctx context.Context, k K) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	e := l.keys[k]
	if e == nil {
		e = l.add(k)
	} else {
		e.users++
	}
	l.mu.Unlock()
	select {
	case e.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.leave(k, e)
		return ctx.Err()
	}
}

// TryLock locks k, unless somebody has the lock or waits for it.
func (l *Locks[K]) TryLock(k K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[k] != nil {
		return false
	}
	l.add(k).held <- struct{}{}
	return true
}

// add adds k, with one user. l.mu is locked.
func (l *Locks[K]) add(k K) *key {
	if l.keys == nil {
		l.keys = map[K]*key{}
	}
	e := &key{users: 1, held: make(chan struct{}, 1)}
	l.keys[k] = e
	return e
}

// Unlock unlocks k, which the caller has locked.
func (l *Locks[K]) Unlock(k K) {
	l.mu.Lock()
	e := l.keys[k]
	l.mu.Unlock()
	l.leave(k, e)
	<-e.held
}

func (l *Locks[K]) leave(k K, e *key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.keys, k)
	}
}
