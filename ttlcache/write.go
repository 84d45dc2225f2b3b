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
	// harm. It must not keep the batch, nor load or write its keys through the cache.
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
	out := c.newDepartures()
	defer c.reportAll(out)
	unlock, err := c.lockKey(ctx, w.Key)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = c.writeHeld(ctx, h, w, ttl, weight, out)
	return err
}

// lockKey locks a key for a change that goes elsewhere too, and that Close waits for.
func (c *Cache[K, V]) lockKey(ctx context.Context, k K) (unlock func(), err error) {
	if k != k {
		return nil, ErrKey
	}
	if !c.life.begin() {
		return nil, ErrClosed
	}
	if err := c.keys.Lock(ctx, k); err != nil {
		c.life.end()
		return nil, err
	}
	return func() {
		c.keys.Unlock(k)
		c.life.end()
	}, nil
}

// computeThrough is compute where a change goes elsewhere too.
func (c *Cache[K, V]) computeThrough(ctx context.Context, h uint64, k K, f func(V, bool) (V, uint32, Op)) (v V, ok bool, err error) {
	out := c.newDepartures()
	defer c.reportAll(out)
	unlock, err := c.lockKey(ctx, k)
	if err != nil {
		return v, false, err
	}
	defer unlock()
	old, ok := c.getLocal(c.of(h), h, k, out)
	if !ok && c.queue != nil {
		// It may be on its way to the Store, and not here any more.
		if w, queued := c.queue.get(k); queued && !w.Deleted {
			old, ok = w.Value, true
		}
	}
	next, weight, op := f(old, ok)
	switch op {
	case OpSet:
		stored, err := c.writeHeld(ctx, h, Write[K, V]{Key: k, Value: next}, c.spec.ttl, weight, out)
		if !stored {
			return v, false, err
		}
		return next, true, err
	case OpDelete:
		_, err := c.writeHeld(ctx, h, Write[K, V]{Key: k, Deleted: true}, 0, 0, out)
		return v, false, err
	}
	return old, ok, nil
}

// writeHeld makes a change everywhere, and reports whether the value is now here. The key is
// locked. Loads of the key that began before the end of it are overtaken at the end, when the
// change is made here: they may have read what was there before.
func (c *Cache[K, V]) writeHeld(ctx context.Context, h uint64, w Write[K, V], ttl int64, weight uint32, out *departures[K, V]) (stored bool, err error) {
	k := w.Key
	returned, done := false, false
	defer func() {
		if !returned && c.tier != nil { // it panicked: what is elsewhere is not known
			c.tier.outdated(k)
		}
		if !done { // that, or it failed, or is outdated already
			c.dropLocal(h, k, out)
		}
	}()
	stored, done, err = c.writeSteps(ctx, h, w, ttl, weight, out)
	returned = true
	return stored, err
}

// writeSteps makes a change step by step, and reports whether it has come to the end, and whether
// the value is now here.
func (c *Cache[K, V]) writeSteps(ctx context.Context, h uint64, w Write[K, V], ttl int64, weight uint32, out *departures[K, V]) (stored, done bool, err error) {
	k := w.Key
	if !w.Deleted {
		c.beginWrite(h, k)
	}
	if c.config.Store != nil {
		begun, err := c.toStore(ctx, w, ttl, weight)
		if !begun {
			c.endWrite(h, k)
			return false, true, err // nothing was changed
		}
		if err != nil {
			if c.tier != nil {
				if e := c.tier.delete(ctx, k); e != nil {
					err = fmt.Errorf("%w; %w", err, e)
				}
			}
			return false, false, err
		}
	}
	if around := c.config.Store != nil && c.config.WriteMode == WriteAround; w.Deleted || around {
		if c.tier != nil {
			if err := c.tier.delete(ctx, k); err != nil {
				return false, false, err
			}
		}
		c.dropLocal(h, k, out)
		return false, true, nil
	}
	now := c.clock.Now()
	o := c.offer(now, ttl, weight)
	if c.tier != nil {
		if err := c.tier.set(ctx, k, w.Value, o.deadline); err != nil {
			return false, false, err
		}
	}
	stored, outdated := c.setWritten(h, k, w.Value, o, now, out)
	if !stored && !outdated && c.config.Store == nil {
		err = ErrTooHeavy
	}
	return stored, !outdated, err
}

// setWritten sets what was written elsewhere here, unless it is outdated already.
func (c *Cache[K, V]) setWritten(h uint64, k K, v V, o offer, now int64, out *departures[K, V]) (stored, outdated bool) {
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if _, ok := s.writes[k]; !ok {
		return false, true
	}
	delete(s.writes, k)
	return c.setLocked(s, h, k, v, o, now, out), false
}

// beginWrite says that k is being written elsewhere. Before the value is set here, another process
// may have changed it there and its message have come, or WriteBehind may have given it up: then
// it must not be set.
func (c *Cache[K, V]) beginWrite(h uint64, k K) {
	s := c.lockFor(h)
	defer s.lock.Unlock()
	if s.writes == nil {
		s.writes = map[K]struct{}{}
	}
	s.writes[k] = struct{}{}
}

// endWrite says that k is not being written elsewhere after all.
func (c *Cache[K, V]) endWrite(h uint64, k K) {
	s := c.lockFor(h)
	defer s.lock.Unlock()
	delete(s.writes, k)
}

// toStore makes a change in the Store, or sees to it that it will be made. If begun is false, there
// was no room for it in the queue.
func (c *Cache[K, V]) toStore(ctx context.Context, w Write[K, V], ttl int64, weight uint32) (begun bool, err error) {
	if c.queue != nil {
		if queued, err := c.queue.put(ctx, pendingWrite[K, V]{w, ttl, weight}); queued || err != nil {
			return queued, err
		}
	}
	if err := c.config.Store.Write(ctx, []Write[K, V]{w}); err != nil {
		c.counters.writeErrors.Add(1)
		return true, err
	}
	c.counters.written.Add(1)
	return true, nil
}
