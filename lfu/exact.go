package lfu

import (
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"slices"

	"github.com/sysblocks/sysblocks/internal/arena"
	"github.com/sysblocks/sysblocks/internal/departed"
)

// An Exact is the classic LFU cache: it counts the uses of each entry, and evicts the one with
// the lowest count, of several the one used the longest ago. It is made by NewExact, and not
// to be copied. Exact is not safe for concurrent use.
//
// Every operation takes constant time, but for ageing, which takes time in proportion to Len
// once in Config.AgeAfter operations (K. Shah, A. Mitra and D. Matani, "An O(1) algorithm
// for implementing the LFU cache eviction scheme", 2010): see the comment of groups.
type Exact[K comparable, V any] struct {
	entries arena.Arena[K, V] // the first to be evicted is the last in the list
	groups  groups
	weights []uint32 // by node; nil: every entry weighs 1
	weight  uint64
	ops     int // since the counts were last halved
	stats   Stats

	config   Config[K, V]
	capacity uint64
	hasher   arena.Hasher
	spare    departed.Spare[K, V, Cause]
}

// NewExact returns an empty cache, or an error that names the field of config that is
// wrong. Memory comes with the entries, up to what Capacity needs, and is then used again.
func NewExact[K comparable, V any](config Config[K, V]) (*Exact[K, V], error) {
	switch {
	case config.AgeAfter < 0:
		return nil, fmt.Errorf("lfu: AgeAfter must be at least 0, got %d", config.AgeAfter)
	case config.Shards != 0 && config.Shards != 1:
		return nil, fmt.Errorf("lfu: Shards must be 0 or 1 for an Exact, got %d", config.Shards)
	}
	if err := config.validateCapacity(config.Capacity, 1); err != nil {
		return nil, err
	}
	return &Exact[K, V]{config: config, capacity: uint64(config.Capacity), hasher: arena.NewHasher()}, nil
}

// groups says how often each entry has been used. All entries are in one list, by count, the
// highest first, and among equals the most recently used first. A group is the entries of
// one count, neighbours in that list. An entry used once more goes to the front of the group
// in front of its own, if that has the next count; else it becomes a group there.
//
// Invariants, checked by check in the tests:
//
//	the groups of the entries, in list order, are in descending order of their counts
//	groups of entries n and m are the same ⇔ their counts are equal
//	first of a group is its first entry in list order, and size the number of them
type groups struct {
	of   []uint32 // the group of each node
	all  []group  // all[0] is not used
	free uint32   // first free group, chained by first; 0: none
}

type group struct {
	count uint32 // saturates
	first uint32 // node
	size  uint32
}

const maxCount = math.MaxUint32

func (c *Exact[K, V]) hash(k K) uint32 {
	return uint32(maphash.Comparable(c.hasher.Seed, k) & c.hasher.Mask)
}

// newGroup returns an empty group for a count.
func (g *groups) newGroup(count uint32) uint32 {
	i := g.free
	if i != 0 {
		g.free = g.all[i].first
	} else {
		if len(g.all) == 0 {
			g.all = append(g.all, group{})
		}
		i = uint32(len(g.all))
		g.all = append(g.all, group{})
	}
	g.all[i] = group{count: count}
	return i
}

// leave takes entry n, whose neighbour behind is next, out of its group.
func (g *groups) leave(n, next uint32) {
	i := g.of[n]
	p := &g.all[i]
	p.size--
	switch {
	case p.size == 0:
		*p = group{first: g.free}
		g.free = i
	case p.first == n:
		p.first = next
	}
}

// join makes entry n the first of a group.
func (g *groups) join(n, i uint32) {
	g.of[n] = i
	g.all[i].first = n
	g.all[i].size++
}

// use counts a use of entry n.
func (c *Exact[K, V]) use(n uint32) {
	g := &c.groups
	i := g.of[n]
	count, first := g.all[i].count, g.all[i].first
	if count == maxCount {
		// It stays in its group, and becomes the most recent there.
		if n != first {
			c.entries.MoveBefore(n, first)
			g.all[i].first = n
		}
		return
	}
	// What is in front of the group has a higher count: the next one, or one above that.
	to, before := uint32(0), first
	if above := c.entries.Prev(first); above != 0 && g.all[g.of[above]].count == count+1 {
		to = g.of[above]
		before = g.all[to].first
	}
	g.leave(n, c.entries.Next(n))
	if to == 0 {
		to = g.newGroup(count + 1)
	}
	if n != before {
		c.entries.MoveBefore(n, before)
	}
	g.join(n, to)
}

// begin gives entry n, which has just been inserted at the front, the count 1.
func (c *Exact[K, V]) begin(n uint32) {
	g := &c.groups
	last := c.entries.Back()
	switch {
	case last == n:
		g.join(n, g.newGroup(1))
	case g.all[g.of[last]].count == 1:
		i := g.of[last]
		if first := g.all[i].first; first != n {
			c.entries.MoveBefore(n, first)
		}
		g.join(n, i)
	default:
		c.entries.MoveBefore(n, 0)
		g.join(n, g.newGroup(1))
	}
}

// operation counts one, and halves all counts when it is time.
func (c *Exact[K, V]) operation() {
	if c.config.AgeAfter == 0 {
		return
	}
	if c.ops++; c.ops < c.config.AgeAfter {
		return
	}
	c.ops = 0
	// The order does not change, for halving keeps it. Groups whose counts become equal
	// become one, which begins where the first of them did.
	g := &c.groups
	last := uint32(0) // the group in front
	for n := c.entries.Front(); n != 0; {
		i := g.of[n]
		p := g.all[i]
		half := max(1, p.count/2)
		next := n
		if last == 0 || g.all[last].count != half {
			g.all[i].count = half
			last = i
			for range p.size {
				next = c.entries.Next(next)
			}
		} else {
			for range p.size {
				g.of[next] = last
				next = c.entries.Next(next)
			}
			g.all[last].size += p.size
			g.all[i] = group{first: g.free}
			g.free = i
		}
		n = next
	}
}

// Get returns the value under k, and whether there is one. It counts as a use of the entry.
// Complexity: O(1).
func (c *Exact[K, V]) Get(k K) (v V, ok bool) {
	n := c.entries.Find(c.hash(k), k)
	if n == 0 {
		c.stats.Misses++
		return v, false
	}
	c.hit(n)
	return *c.entries.Value(n), true
}

// hit is a look-up that found entry n.
func (c *Exact[K, V]) hit(n uint32) {
	c.stats.Hits++
	c.use(n)
	c.operation()
}

// Peek returns the value under k, and whether there is one. Unlike Get, it is no use of the
// entry, and changes no statistics. Complexity: O(1).
func (c *Exact[K, V]) Peek(k K) (v V, ok bool) {
	if n := c.entries.Find(c.hash(k), k); n != 0 {
		return *c.entries.Value(n), true
	}
	return v, false
}

// Contains reports whether there is a value under k. It is no use of the entry, and changes
// no statistics. Complexity: O(1).
func (c *Exact[K, V]) Contains(k K) bool { return c.entries.Find(c.hash(k), k) != 0 }

// Frequency returns the number of uses of k since it was stored, halved as Config.AgeAfter
// says: at least 1, and 0 if it is not there. From 2^32 - 1 on it does not grow. It is no use
// of the entry. Complexity: O(1).
func (c *Exact[K, V]) Frequency(k K) uint32 {
	n := c.entries.Find(c.hash(k), k)
	if n == 0 {
		return 0
	}
	return c.groups.all[c.groups.of[n]].count
}

// Set stores v under k, in place of what was there, and counts as a use of the entry: the
// first one, if k is new. It evicts entries until there is room, and reports whether it
// evicted any.
//
// Only with a Weigher can a value be refused, when it weighs more than the capacity:
// then stored is false, nothing is evicted, and a value that k had before is removed,
// so that a stale value does not outlive a failed update.
//
// Complexity: O(1), amortised while the cache still grows, and for each entry evicted.
func (c *Exact[K, V]) Set(k K, v V) (stored, evicted bool) {
	w := c.config.weigh(k, v)
	h := c.hash(k)
	out := c.departures()
	stored, evicted = c.put(c.entries.Find(h, k), h, k, v, w, out)
	c.report(out)
	return stored, evicted
}

// put stores v under k; n is its node, or 0.
func (c *Exact[K, V]) put(n, h uint32, k K, v V, w uint32, out *departures[K, V]) (stored, evicted bool) {
	before := c.stats.Evictions
	switch {
	case uint64(w) > c.capacity:
		if n != 0 {
			c.remove(n, Replaced, out)
		}
		c.stats.Refused++
		out.Add(k, v, Refused)
		return false, false
	case n != 0:
		p := c.entries.Value(n)
		if out != nil {
			out.Add(*c.entries.Key(n), *p, Replaced)
		}
		*p = v
		c.use(n)
		if c.config.Weigher != nil {
			c.weight += uint64(w) - uint64(c.weights[n])
			c.weights[n] = w
			c.shrink(c.capacity, n, out)
		}
	default:
		c.shrink(c.capacity-uint64(w), 0, out)
		if c.entries.Full() {
			c.reserve(max(8, 2*c.entries.Len()))
		}
		n = c.entries.Insert(h, k, v)
		c.begin(n)
		c.weight += uint64(w)
		if c.config.Weigher != nil {
			c.weights[n] = w
		}
	}
	c.stats.Sets++
	c.operation()
	return true, c.stats.Evictions != before
}

// shrink evicts entries, but not entry spared, until their weight is at most most.
func (c *Exact[K, V]) shrink(most uint64, spared uint32, out *departures[K, V]) {
	for c.weight > most {
		n := c.entries.Back()
		if n == spared {
			n = c.entries.Prev(n)
		}
		c.stats.Evictions++
		c.remove(n, Evicted, out)
	}
}

// remove takes entry n out, for the given cause.
func (c *Exact[K, V]) remove(n uint32, cause Cause, out *departures[K, V]) {
	if out != nil {
		out.Add(*c.entries.Key(n), *c.entries.Value(n), cause)
	}
	if c.config.Weigher != nil {
		c.weight -= uint64(c.weights[n])
	} else {
		c.weight--
	}
	c.groups.leave(n, c.entries.Next(n))
	c.entries.Remove(n)
}

// reserve makes room for n entries in all, or for as many as there can be.
func (c *Exact[K, V]) reserve(n int) {
	n = int(min(uint64(n), c.capacity, arena.MaxLen))
	// Reserve numbers the nodes anew, the last in the list first.
	of, weights := make([]uint32, n+1), c.weights
	if c.config.Weigher != nil {
		weights = make([]uint32, n+1)
	}
	to := uint32(0)
	for at := c.entries.Back(); at != 0; at = c.entries.Prev(at) {
		to++
		i := c.groups.of[at]
		of[to] = i
		c.groups.all[i].first = to // the last to come is the first in the list
		if c.config.Weigher != nil {
			weights[to] = c.weights[at]
		}
	}
	c.groups.of, c.weights = of, weights
	c.entries.Reserve(n)
}

// SetIfAbsent returns the value under k, if there is one, as Get does, and loaded is
// true. Else it stores v, as Set does, and returns it; v may be refused, as by Set.
// Complexity: as Set.
func (c *Exact[K, V]) SetIfAbsent(k K, v V) (actual V, loaded bool) {
	w := c.config.weigh(k, v)
	h := c.hash(k)
	if n := c.entries.Find(h, k); n != 0 {
		c.hit(n)
		return *c.entries.Value(n), true
	}
	c.stats.Misses++
	out := c.departures()
	c.put(0, h, k, v, w, out)
	c.report(out)
	return v, false
}

// Compute calls f with the value under k, or with the zero value and false, and does
// what f returns. It returns the value that is then under k, and whether there is one:
// a value given with OpSet may be refused, as by Set. It counts as a look-up, and one use
// of the entry. f, and the Weigher on what f returns, must not call the cache. If one
// of them panics, nothing changes. Complexity: as Set, beside f.
func (c *Exact[K, V]) Compute(k K, f func(old V, ok bool) (V, Op)) (V, bool) {
	var old, none V
	h := c.hash(k)
	n := c.entries.Find(h, k)
	if n != 0 {
		old = *c.entries.Value(n)
	}
	v, op := f(old, n != 0)
	w := uint32(1)
	switch op {
	case OpKeep, OpDelete:
	case OpSet:
		w = c.config.weigh(k, v)
	default:
		panic("lfu: Compute: the function returned an unknown Op")
	}
	// Nothing can have changed, unless f called the cache against this documentation.
	n = c.entries.Find(h, k)

	if n != 0 {
		c.stats.Hits++
	} else {
		c.stats.Misses++
	}
	out := c.departures()
	defer c.report(out)
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
	c.use(n)
	c.operation()
	return old, true
}

// Delete removes the value under k and returns it, and whether there was one.
// Complexity: O(1).
func (c *Exact[K, V]) Delete(k K) (v V, ok bool) {
	n := c.entries.Find(c.hash(k), k)
	if n == 0 {
		return v, false
	}
	v = *c.entries.Value(n)
	out := c.departures()
	c.remove(n, Deleted, out)
	c.report(out)
	return v, true
}

// Coldest returns the entry that is the next to be evicted, and whether there is one. It is
// no use of the entry, and changes no statistics. Complexity: O(1).
func (c *Exact[K, V]) Coldest() (k K, v V, ok bool) {
	n := c.entries.Back()
	if n == 0 {
		return k, v, false
	}
	return *c.entries.Key(n), *c.entries.Value(n), true
}

// DeleteColdest removes the entry that is the next to be evicted and returns it, and
// whether there was one. The Cause is Deleted. Complexity: O(1).
func (c *Exact[K, V]) DeleteColdest() (k K, v V, ok bool) {
	k, v, ok = c.Coldest()
	if ok {
		out := c.departures()
		c.remove(c.entries.Back(), Deleted, out)
		c.report(out)
	}
	return k, v, ok
}

// Clear removes all entries. The memory is kept for other entries, and the statistics
// go on. Complexity: O(Cap).
func (c *Exact[K, V]) Clear() {
	out := c.departures()
	if out != nil {
		for n := c.entries.Front(); n != 0; n = c.entries.Next(n) {
			out.Add(*c.entries.Key(n), *c.entries.Value(n), Cleared)
		}
	}
	c.entries.Clear()
	c.weight = 0
	c.groups.all, c.groups.free = c.groups.all[:0], 0
	c.report(out)
}

// Resize changes the capacity to n, evicts what is over it, and returns the number of
// entries evicted. It returns an error, and changes nothing, if n is not a capacity that
// NewExact would take. Complexity: O(1) for each entry evicted, and O(n) where memory
// can be given back.
func (c *Exact[K, V]) Resize(n int) (evicted int, err error) {
	if err := c.config.validateCapacity(n, 1); err != nil {
		return 0, err
	}
	before := c.stats.Evictions
	out := c.departures()
	c.capacity = uint64(n)
	c.shrink(c.capacity, 0, out)
	if c.entries.Room() > n {
		c.reserve(n)
	}
	evicted = int(c.stats.Evictions - before)
	c.report(out)
	return evicted, nil
}

// Len returns the number of entries. Complexity: O(1).
func (c *Exact[K, V]) Len() int { return c.entries.Len() }

// Weight returns the sum of the weights of the entries; without a Weigher it is Len.
// Complexity: O(1).
func (c *Exact[K, V]) Weight() int { return int(c.weight) }

// Cap returns the capacity: Config.Capacity, or what Resize made of it.
func (c *Exact[K, V]) Cap() int { return int(c.capacity) }

// Stats returns the statistics. Complexity: O(1).
func (c *Exact[K, V]) Stats() Stats { return c.stats }

// All returns an iterator over the entries from the last to be evicted to the first: by
// count, the highest first, and among equals the most recently used first. It copies the
// entries when the loop begins, so the body may call the cache, and what it changes there the
// loop does not see. It is no use of the entries. Complexity: O(Len) time and memory.
func (c *Exact[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range c.list() {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Backward is All in the opposite order: the next to be evicted first.
func (c *Exact[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range slices.Backward(c.list()) {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

func (c *Exact[K, V]) list() []entry[K, V] {
	list := make([]entry[K, V], 0, c.entries.Len())
	for n := c.entries.Front(); n != 0; n = c.entries.Next(n) {
		list = append(list, entry[K, V]{key: *c.entries.Key(n), value: *c.entries.Value(n)})
	}
	return list
}

// Keys returns an iterator over the keys, in the order and with the guarantees of All.
func (c *Exact[K, V]) Keys() iter.Seq[K] { return keys(c.All()) }

// departures returns where a call collects what leaves: nil if nobody asks.
func (c *Exact[K, V]) departures() *departures[K, V] {
	if c.config.OnEvict == nil {
		return nil
	}
	return c.spare.Take()
}

// report tells the user what has left. It comes after everything else that a call
// does, for OnEvict may call the cache.
func (c *Exact[K, V]) report(out *departures[K, V]) {
	if out != nil {
		c.spare.Report(out, c.config.OnEvict)
	}
}
