package lru

import (
	"math"
	"slices"

	"github.com/sysblocks/sysblocks/internal/arena"
)

// A core is the cache proper: the entries, the order of eviction and the bound on
// weight, without locks. Local is one core; Cache is one for each shard. Hashes and
// weights come from outside, so that neither is computed under a lock.
//
// Invariants, checked by check in the tests:
//
//	weight() ≤ capacity
//	with weights: weight = Σ weights[n] over the entries n, and 1 ≤ weights[n] ≤ capacity
type core[K comparable, V any] struct {
	sets, evictions uint64
	arena           arena.Arena[K, V]

	hits, misses, refused uint64

	capacity uint64
	order    Order
	exact    bool // a hit moves its entry to the front at once and always

	weighted bool
	weights  []uint32 // by node, as long as the arena's nodes
	weight   uint64
}

// init prepares a zero core. If it is not exact, a hit may leave an entry that is near the
// front where it is.
func (c *core[K, V]) init(config *Config[K, V], capacity uint64, exact bool) {
	c.weighted = config.Weigher != nil
	c.order = config.Order
	c.exact = exact
	c.setCapacity(capacity)
}

// setCapacity also says which entries a hit leaves where they are: none, all, or those that
// are near the front, in the first three eighths of the capacity; by weight, that does not
// tell how many entries they are. On request traces, three eighths cost about a tenth of a
// point of hit ratio against the exact order, and a quarter half of that; but with a quarter
// the hits of two CPUs take an eighth longer. With a half it is three tenths of a point.
func (c *core[K, V]) setCapacity(capacity uint64) {
	c.capacity = capacity
	switch {
	case c.order == Insertion:
		c.arena.SetSlack(math.MaxInt)
	case c.exact || c.weighted:
		c.arena.SetSlack(0)
	default:
		c.arena.SetSlack(int(capacity * 3 / 8))
	}
}

// maxLen returns the largest number of entries, whatever their weights.
func (c *core[K, V]) maxLen() int { return maxLen(c.exact || c.weighted) }

func maxLen(exact bool) int {
	if exact {
		return arena.MaxLen
	}
	return arena.MaxLenSlack
}

func (c *core[K, V]) get(h uint32, k K) (v V, ok bool) {
	n := c.arena.Find(h, k)
	if n == 0 {
		c.misses++
		return v, false
	}
	return c.use(n), true
}

func (c *core[K, V]) peek(h uint32, k K) (v V, ok bool) {
	if n := c.arena.Find(h, k); n != 0 {
		return *c.arena.Value(n), true
	}
	return v, false
}

// set stores v under k, with weight w, unless w is more than the capacity.
func (c *core[K, V]) set(h uint32, k K, v V, w uint32, out *departures[K, V]) (stored, evicted bool) {
	n := c.arena.Find(h, k)
	if n == 0 && out == nil && !c.weighted && uint64(c.arena.Len()) == c.capacity {
		// What put comes to in a full cache, without three calls.
		c.sets++
		c.evictions++
		c.arena.ReplaceBack(h, k, v)
		return true, true
	}
	return c.put(n, h, k, v, w, out)
}

// put is set for a caller that has looked k up already: n is its node, or 0.
func (c *core[K, V]) put(n, h uint32, k K, v V, w uint32, out *departures[K, V]) (stored, evicted bool) {
	before := c.evictions
	switch {
	case uint64(w) > c.capacity:
		if n != 0 {
			c.remove(n, Replaced, out)
		}
		c.refused++
		out.Add(k, v, Refused)
		return false, false
	case n != 0:
		c.update(n, v, w, out)
	default:
		c.insert(h, k, v, w, out)
	}
	c.sets++
	return true, c.evictions != before
}

// update gives entry n a new value and weight.
func (c *core[K, V]) update(n uint32, v V, w uint32, out *departures[K, V]) {
	p := c.arena.Value(n)
	if out != nil {
		out.Add(*c.arena.Key(n), *p, Replaced)
	}
	*p = v
	c.arena.Promote(n)
	if c.weighted {
		c.weight += uint64(w) - uint64(c.weights[n])
		c.weights[n] = w
		for c.weight > c.capacity {
			// The entry itself stays: it may stand last, in insertion order.
			last := c.arena.Back()
			if last == n {
				last = c.arena.Prev(n)
			}
			c.evict(last, out)
		}
	}
}

// insert adds an entry that is not there, and evicts what it takes the place of.
func (c *core[K, V]) insert(h uint32, k K, v V, w uint32, out *departures[K, V]) {
	if !c.weighted {
		if uint64(c.arena.Len()) == c.capacity {
			last := c.arena.Back()
			if out != nil {
				out.Add(*c.arena.Key(last), *c.arena.Value(last), Evicted)
			}
			c.evictions++
			c.arena.ReplaceBack(h, k, v)
			return
		}
		c.grow()
		c.arena.Insert(h, k, v)
		return
	}
	for c.weight+uint64(w) > c.capacity || c.arena.Len() == c.maxLen() {
		c.evict(c.arena.Back(), out)
	}
	c.grow()
	c.weights[c.arena.Insert(h, k, v)] = w
	c.weight += uint64(w)
}

// grow makes room for one more entry. It doubles the arena, so that growth is O(1)
// an entry, and never beyond the capacity.
func (c *core[K, V]) grow() {
	if c.arena.Full() {
		c.reserve(max(8, 2*c.arena.Len()))
	}
}

// reserve makes room for n entries in all, or for as many as there can be.
func (c *core[K, V]) reserve(n int) {
	n = int(min(uint64(n), c.capacity, uint64(c.maxLen())))
	if c.weighted {
		// Reserve numbers the nodes anew, the last in the list first.
		weights := make([]uint32, 1, n+1)
		for at := c.arena.Back(); at != 0; at = c.arena.Prev(at) {
			weights = append(weights, c.weights[at])
		}
		c.weights = weights[:n+1]
	}
	c.arena.Reserve(n)
}

func (c *core[K, V]) evict(n uint32, out *departures[K, V]) {
	c.evictions++
	c.remove(n, Evicted, out)
}

// remove takes entry n out, for the given cause.
func (c *core[K, V]) remove(n uint32, cause Cause, out *departures[K, V]) {
	if out != nil {
		out.Add(*c.arena.Key(n), *c.arena.Value(n), cause)
	}
	if c.weighted {
		c.weight -= uint64(c.weights[n])
	}
	c.arena.Remove(n)
}

func (c *core[K, V]) setIfAbsent(h uint32, k K, v V, w uint32, out *departures[K, V]) (actual V, loaded bool) {
	n := c.arena.Find(h, k)
	if n != 0 {
		return c.use(n), true
	}
	c.misses++
	c.put(0, h, k, v, w, out)
	return v, false
}

// use is a hit on entry n.
func (c *core[K, V]) use(n uint32) V {
	c.hits++
	c.arena.Promote(n)
	return *c.arena.Value(n)
}

// compute changes nothing before f and weigh have returned.
func (c *core[K, V]) compute(h uint32, k K, f func(V, bool) (V, Op), weigh func(K, V) uint32, out *departures[K, V]) (V, bool) {
	var old, none V
	n := c.arena.Find(h, k)
	if n != 0 {
		old = *c.arena.Value(n)
	}
	v, op := f(old, n != 0)
	w := uint32(1)
	switch op {
	case OpKeep, OpDelete:
	case OpSet:
		w = weigh(k, v)
	default:
		panic("lru: Compute: the function returned an unknown Op")
	}
	// Nothing can have changed, unless f called a Local against its documentation.
	n = c.arena.Find(h, k)

	if n != 0 {
		c.hits++
	} else {
		c.misses++
	}
	switch {
	case op == OpSet:
		if stored, _ := c.put(n, h, k, v, w, out); !stored {
			return none, false
		}
		return v, true
	case n == 0:
		return none, false
	case op == OpDelete:
		c.remove(n, Deleted, out)
		return none, false
	}
	c.arena.Promote(n)
	return old, true
}

func (c *core[K, V]) delete(h uint32, k K, out *departures[K, V]) (v V, ok bool) {
	n := c.arena.Find(h, k)
	if n == 0 {
		return v, false
	}
	v = *c.arena.Value(n)
	c.remove(n, Deleted, out)
	return v, true
}

// resize changes the capacity, evicts what is over it, and returns memory that can no
// longer be used.
func (c *core[K, V]) resize(capacity uint64, out *departures[K, V]) (evicted int) {
	before := c.evictions
	c.setCapacity(capacity)
	for c.held() > capacity {
		c.evict(c.arena.Back(), out)
	}
	if uint64(c.arena.Room()) > capacity {
		c.reserve(c.arena.Room())
	}
	return int(c.evictions - before)
}

// held returns the weight of what is held, which without a weigher is the number of
// entries.
func (c *core[K, V]) held() uint64 {
	if c.weighted {
		return c.weight
	}
	return uint64(c.arena.Len())
}

// clear empties the core and keeps its memory.
func (c *core[K, V]) clear(out *departures[K, V]) {
	if out != nil {
		for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
			out.Add(*c.arena.Key(n), *c.arena.Value(n), Cleared)
		}
	}
	c.arena.Clear()
	c.weight = 0
}

func (c *core[K, V]) stats() Stats {
	return Stats{Hits: c.hits, Misses: c.misses, Sets: c.sets, Evictions: c.evictions, Refused: c.refused}
}

// appendAll appends the entries to list, the most recent first.
func (c *core[K, V]) appendAll(list []entry[K, V]) []entry[K, V] {
	list = slices.Grow(list, c.arena.Len())
	for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
		list = append(list, entry[K, V]{*c.arena.Key(n), *c.arena.Value(n)})
	}
	return list
}

// An entry is a key and its value.
type entry[K comparable, V any] struct {
	key   K
	value V
}
