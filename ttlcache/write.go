package ttlcache

import (
	"context"
	"fmt"
)

// A Write is a change of one key.
type Write[K comparable, V any] struct {
	Key     K    // what is changed
	Value   V    // its new value
	Deleted bool // the key is to be deleted; there is no Value
}

// A Store is the system of record behind a cache.
type Store[K comparable, V any] interface {
	// Write makes all changes of the batch, which has each key once, or returns an error.
	// It may be called again with the same changes, and after an error some of them may
	// have been made already, so it must be such that to make a change twice does no
	// harm. It must not keep the batch, nor write the same keys to the cache.
	Write(ctx context.Context, batch []Write[K, V]) error
}

// A WriteMode says what Set, SetIfAbsent, Compute and Delete do with a Store.
type WriteMode uint8

const (
	// WriteAround writes to the Store, if there is one, and removes the key from the cache,
	// so that the next GetOrLoad loads it. Without a Store, the cache alone is written, and
	// the caller writes to where values come from, before that: cache-aside.
	WriteAround WriteMode = iota
	// WriteThrough writes to the Store, and then to the cache. If the Store returns an error,
	// so does the call, and the key is removed from the cache, because it is not known
	// what the Store has now.
	WriteThrough
	// WriteBehind writes to the cache, and later to the Store, many keys at once: see
	// BatchConfig. Until then, GetOrLoad returns the value even if the cache had to
	// evict it. What waits in the queue is lost if the process ends without Close.
	WriteBehind
)

// String returns the name of the mode.
func (m WriteMode) String() string {
	if m <= WriteBehind {
		return [...]string{"WriteAround", "WriteThrough", "WriteBehind"}[m]
	}
	return fmt.Sprintf("WriteMode(%d)", uint8(m))
}

// writeThrough makes a change everywhere: in the Store, in the second level, and here. It holds
// the key's lock all the time, so that changes of one key come everywhere in the same order,
// and no load of the key is kept between them.
func (c *Cache[K, V]) writeThrough(ctx context.Context, h uint64, w Write[K, V], ttl int64, weight uint32) error {
	if !c.life.begin() {
		return ErrClosed
	}
	defer c.life.end()
	if err := c.keys.Lock(ctx, w.Key); err != nil {
		return err
	}
	defer c.keys.Unlock(w.Key)
	_, err := c.writeHeld(ctx, h, w, ttl, weight)
	return err
}

// computeThrough is compute where a change goes elsewhere too.
func (c *Cache[K, V]) computeThrough(ctx context.Context, h uint64, k K, f func(V, bool) (V, uint32, Op)) (v V, ok bool, err error) {
	if !c.life.begin() {
		return v, false, ErrClosed
	}
	defer c.life.end()
	if err := c.keys.Lock(ctx, k); err != nil {
		return v, false, err
	}
	defer c.keys.Unlock(k)
	old, ok := c.getLocked(h, k)
	next, weight, op := f(old, ok)
	switch op {
	case OpSet:
		stored, err := c.writeHeld(ctx, h, Write[K, V]{Key: k, Value: next}, c.spec.ttl, weight)
		if !stored {
			return v, false, err
		}
		return next, true, err
	case OpDelete:
		_, err := c.writeHeld(ctx, h, Write[K, V]{Key: k, Deleted: true}, 0, 0)
		return v, false, err
	}
	return old, ok, nil
}

// writeHeld makes a change everywhere, and reports whether the value is now here. The key is
// locked. Loads of the key that began before the end of it are overtaken at the end, when the
// change is made here: they may have read what was there before.
func (c *Cache[K, V]) writeHeld(ctx context.Context, h uint64, w Write[K, V], ttl int64, weight uint32) (stored bool, err error) {
	k := w.Key
	done := false
	defer func() {
		if !done { // it failed, or panicked, or is outdated: what there is elsewhere is not known
			c.dropLocal(h, k, true)
		}
	}()
	around := c.config.Store != nil && c.config.WriteMode == WriteAround
	if c.config.Store != nil {
		if err := c.toStore(ctx, w, ttl, weight); err != nil {
			if c.tier != nil {
				if e := c.tier.delete(ctx, k); e != nil {
					return false, fmt.Errorf("%w; %w", err, e)
				}
			}
			return false, err
		}
	}
	if w.Deleted || around {
		if c.tier != nil {
			if err := c.tier.delete(ctx, k); err != nil {
				return false, err
			}
		}
		done = true
		c.dropLocal(h, k, !w.Deleted)
		return false, nil
	}
	now := c.clock.Now()
	o := c.offer(now, ttl, weight)
	if c.tier != nil {
		c.beginWrite(h, k)
		if err := c.tier.set(ctx, k, w.Value, o.deadline); err != nil {
			return false, err
		}
	}
	var outdated bool
	if stored, outdated = c.setWritten(h, k, w.Value, o, now); outdated {
		return false, nil
	}
	done = true
	if !stored && c.config.Store == nil {
		return false, ErrTooHeavy
	}
	return stored, nil
}

// setWritten sets what was written elsewhere here, unless it is outdated already.
func (c *Cache[K, V]) setWritten(h uint64, k K, v V, o offer, now int64) (stored, outdated bool) {
	s := c.lockFor(h)
	out := c.departures(s)
	if c.tier != nil {
		_, ok := s.writes[k]
		outdated = !ok
		delete(s.writes, k)
	}
	if !outdated {
		stored = c.setLocked(s, h, k, v, o, now, out)
	}
	s.lock.Unlock()
	c.report(s, out)
	return stored, outdated
}

// beginWrite says that k is being written to the second level. Another process may change k there
// after that, and its message may come before the value is set here: then it must not be.
func (c *Cache[K, V]) beginWrite(h uint64, k K) {
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if s.writes == nil {
		s.writes = map[K]struct{}{}
	}
	s.writes[k] = struct{}{}
}

// toStore makes a change in the Store, or sees to it that it will be made.
func (c *Cache[K, V]) toStore(ctx context.Context, w Write[K, V], ttl int64, weight uint32) error {
	if c.queue != nil {
		if queued, err := c.queue.put(ctx, pendingWrite[K, V]{w, ttl, weight}); queued || err != nil {
			return err
		}
	}
	if err := c.config.Store.Write(ctx, []Write[K, V]{w}); err != nil {
		c.counters.writeErrors.Add(1)
		return err
	}
	c.counters.written.Add(1)
	return nil
}
