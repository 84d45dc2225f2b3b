package ttlcache

import (
	"math"

	"github.com/sysblocks/sysblocks/internal/readlock"
	"github.com/sysblocks/sysblocks/internal/sharding"
)

// negatives are keys that are known not to exist, each for as long as NegativeTTL says. They
// have one lock and one bound, so that as many can be remembered as the user was told,
// whatever their hashes. Look-ups change nothing, and run side by side.
//
// While it is full of keys that have not expired, it takes no further ones. To let new keys push
// out old ones would let a flood of keys that do not exist make everyone forget those that are
// asked for time and again; as it is, those are remembered, at the latest when some
// of the flood have expired.
//
// Who holds the lock of a shard may call it, and not the other way round.
type negatives[K comparable] struct {
	lock readlock.Lock[K]
	core core[K, struct{}]
	spec spec
}

func newNegatives[K comparable, V any](config *Config[K, V], procs int) *negatives[K] {
	n := &negatives[K]{spec: spec{ttl: int64(config.NegativeTTL)}}
	n.lock.Init(sharding.Stripes(procs, math.MaxInt))
	n.core.init(&n.spec, uint64(config.NegativeCapacity), true)
	return n
}

// deadline returns until when it is known that k does not exist, 0 if that is not known.
func (n *negatives[K]) deadline(h uint64, k K) (at int64) {
	r := n.lock.TryRLock()
	if r == nil {
		n.lock.Lock()
	}
	if node := n.core.arena.Find(uint32(h), k); node != 0 {
		at = n.core.deadline(node)
	}
	if r == nil {
		n.lock.Unlock()
	} else {
		r.RUnlock()
	}
	return at
}

// add remembers that k does not exist, if there is room, and reports whether there was.
func (n *negatives[K]) add(h uint64, k K, now int64) bool {
	n.lock.Lock()
	defer n.lock.Unlock()
	c := &n.core
	c.expire(now, step, nil)
	node := c.find(uint32(h), k, now, nil)
	if node == 0 && uint64(c.arena.Len()) == c.capacity && c.expireSome(now, nil) == 0 {
		return false
	}
	at := sum(now, n.spec.ttl)
	c.put(node, uint32(h), k, struct{}{}, offer{ttl: n.spec.ttl, deadline: at, latest: at, weight: 1}, now, nil)
	return true
}

// delete forgets that k does not exist.
func (n *negatives[K]) delete(h uint64, k K) {
	if n.deadline(h, k) == 0 {
		return // as nearly always
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	if node := n.core.arena.Find(uint32(h), k); node != 0 {
		n.core.remove(node, Deleted, nil)
	}
}

// expire takes out what has expired.
func (n *negatives[K]) expire(now int64) {
	for done := false; !done; {
		n.lock.Lock()
		n.core.expire(now, leap, nil)
		done = now < n.core.wheel.due
		n.lock.Unlock()
	}
}

// clear forgets all keys.
func (n *negatives[K]) clear() {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.core.clear(never, nil)
}

// len returns the number of keys that are remembered.
func (n *negatives[K]) len() int {
	n.lock.Lock()
	defer n.lock.Unlock()
	return n.core.arena.Len()
}
