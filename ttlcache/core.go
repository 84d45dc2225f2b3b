package ttlcache

import (
	"slices"
	"sync/atomic"

	"github.com/sysblocks/sysblocks/internal/arena"
)

// A core is one shard's entries, their order of eviction and their times, without locks. Hashes,
// weights and times come from outside.
//
// An entry is fresh until its deadline, then stale for the time given in the configuration,
// and then dead. Dead entries are as good as not there; the wheel finds them.
//
// Invariants, checked by check in the tests:
//
//	weight() ≤ capacity
//	with weights: weight = Σ weights[n] over the entries n, and 1 ≤ weights[n] ≤ capacity
//	{n : n in the wheel} ⊇ {n : dead(n) < never}; all of them are in use
//	every column that is in use is as long as the arena's nodes
type core[K comparable, V any] struct {
	sets, evictions uint64
	arena           arena.Arena[K, item[V]]

	wheel wheel
	spec  *spec // what is the same for all shards

	hits, misses, refused, expired uint64

	capacity uint64
	exact    bool // a hit moves its entry to the front at once and always

	weight  uint64
	columns columns
}

// A spec is what a core needs of the configuration.
type spec struct {
	weighted bool
	moving   bool // a use or a touch may put deadlines off, up to a limit for each entry
	holding  bool
	costing  bool
	plain    bool  // none of these: see core.plain
	ttl      int64 // nominal, of an entry for which none is given; never: none
	window   int64 // for which an entry is stale before it is dead
}

type item[V any] struct {
	value V
	// deadline is when the entry is no longer fresh, in ns; never: it does not expire. Where
	// deadlines are moving it is the latest time to which that may be put off.
	deadline int64
}

// columns are what only some caches need to know of each node, by its number. Each is nil
// unless it is needed. Readers store to those that are atomic.
type columns struct {
	weights []uint32
	slid    []atomic.Int64 // moving: when the entry is no longer fresh
	hold    []atomic.Int64 // until when not to load the entry again, see refresh.go
	costs   []uint32       // how long the load took, in µs
	ttls    []int64        // nominal, once there was an entry for which one was given
}

// An offer is an entry as it is to be stored: what goes with the value.
type offer struct {
	ttl      int64 // nominal
	deadline int64
	latest   int64 // that the deadline may be put off to
	weight   uint32
	cost     uint32 // see columns
}

func (c *core[K, V]) init(spec *spec, capacity uint64, exact bool) {
	c.spec = spec
	c.exact = exact
	c.wheel.reset(0)
	c.setCapacity(capacity)
}

// setCapacity also says which entries a hit leaves where they are: those in the first three
// eighths, as in package lru.
func (c *core[K, V]) setCapacity(capacity uint64) {
	c.capacity = capacity
	if c.exact || c.spec.weighted {
		c.arena.SetSlack(0)
	} else {
		c.arena.SetSlack(int(capacity * 3 / 8))
	}
}

// maxLen returns the largest number of entries, whatever their weights.
func (c *core[K, V]) maxLen() int { return maxLen(c.exact || c.spec.weighted) }

func maxLen(exact bool) int {
	if exact {
		return arena.MaxLen
	}
	return arena.MaxLenSlack
}

// deadline returns when entry n is no longer fresh.
func (c *core[K, V]) deadline(n uint32) int64 {
	if c.spec.moving {
		return c.columns.slid[n].Load()
	}
	return c.arena.Value(n).deadline
}

// dead returns when entry n is as good as not there.
func (c *core[K, V]) dead(n uint32) int64 { return sum(c.deadline(n), c.spec.window) }

// ttl returns the nominal time to live of entry n.
func (c *core[K, V]) ttl(n uint32) int64 {
	if c.columns.ttls != nil {
		return c.columns.ttls[n]
	}
	return c.spec.ttl
}

// sum returns a + b, at most never. a is a time, and b a duration, and neither is negative.
func sum(a, b int64) int64 {
	if a > never-b {
		return never
	}
	return a + b
}

// expire takes out entries that are dead at the time now, and returns how many. It looks at
// budget entries at most, so some may be left: then the wheel's due is not after now.
func (c *core[K, V]) expire(now int64, budget int, out *departures[K, V]) int {
	if now < c.wheel.due {
		c.wheel.advance(now)
		return 0
	}
	fired := c.wheel.turn(now, budget, c.dead, func(n uint32) { c.leave(n, Expired, out) })
	c.expired += uint64(fired)
	return fired
}

const (
	// step is how many entries a call looks at, at most, to find some that have expired. An
	// entry comes up once for each level of the wheel, and each Set adds one entry at
	// most, so the wheel keeps up.
	step = 16
	// leap is how many a call looks at, at most, before it evicts an entry that is alive.
	leap = 1024
)

// find returns the node of k, unless it is dead: then it takes it out.
func (c *core[K, V]) find(h uint32, k K, now int64, out *departures[K, V]) uint32 {
	n := c.arena.Find(h, k)
	if n != 0 && c.dead(n) <= now {
		c.expired++
		c.remove(n, Expired, out)
		return 0
	}
	return n
}

// drop takes out k, if it is there, for the given cause.
func (c *core[K, V]) drop(h uint32, k K, now int64, cause Cause, out *departures[K, V]) {
	if n := c.find(h, k, now, out); n != 0 {
		c.remove(n, cause, out)
	}
}

// set stores v under k. It looks whether something has expired first, because what has goes
// before what is alive. Of o, the weight may be too much.
func (c *core[K, V]) set(h uint32, k K, v V, o offer, now int64, out *departures[K, V]) (stored bool) {
	c.expire(now, step, out)
	return c.put(c.find(h, k, now, out), h, k, v, o, now, out)
}

// replaceLast is what set comes to in a full core that is plain: it stores v under k, which must
// not be there, in the place of the last entry, which is evicted. Nothing is due.
func (c *core[K, V]) replaceLast(h uint32, k K, v V, deadline int64) {
	c.sets++
	c.evictions++
	n := c.arena.Back()
	before := sum(c.arena.Value(n).deadline, c.spec.window)
	c.arena.ReplaceBack(h, k, item[V]{v, deadline})
	// This is schedule, without a look at the wheel: what expires is in there.
	if dead := sum(deadline, c.spec.window); before == never || dead < before {
		c.wheel.remove(n)
		if dead != never {
			c.wheel.add(n, dead)
		}
	}
}

// plain reports whether there is nothing to an entry but its value and its deadline.
func (c *core[K, V]) plain() bool { return c.spec.plain && c.columns.ttls == nil }

// put is set for a caller that has looked k up already: n is its node, which is not dead, or 0.
func (c *core[K, V]) put(n, h uint32, k K, v V, o offer, now int64, out *departures[K, V]) (stored bool) {
	switch {
	case uint64(o.weight) > c.capacity:
		if n != 0 {
			c.remove(n, Replaced, out)
		}
		c.refused++
		out.Add(k, v, Refused)
		return false
	case n != 0:
		c.update(n, v, o, now, out)
	default:
		c.insert(h, k, v, o, now, out)
	}
	c.sets++
	return true
}

// update gives entry n a new value.
func (c *core[K, V]) update(n uint32, v V, o offer, now int64, out *departures[K, V]) {
	it := c.arena.Value(n)
	if out != nil {
		out.Add(*c.arena.Key(n), it.value, Replaced)
	}
	before := c.dead(n)
	*it = item[V]{v, o.latest}
	if c.spec.weighted {
		c.weight += uint64(o.weight) - uint64(c.columns.weights[n])
	}
	c.note(n, o)
	c.schedule(n, before)
	c.arena.Promote(n)
	for c.spec.weighted && c.weight > c.capacity {
		// The entry itself is the first in the list, and not heavier than all that there
		// is room for, so it stays.
		if c.expireOthers(n, now, out) == 0 {
			c.evict(c.arena.Back(), out)
		}
	}
}

// expireOthers is expire for a caller who needs room, and needs entry n, which is alive or was
// just set; it looks at more entries if need be.
func (c *core[K, V]) expireOthers(n uint32, now int64, out *departures[K, V]) int {
	before := c.expired
	if now >= c.wheel.due {
		// n is out of the wheel for a moment, so that it is not found.
		c.wheel.remove(n)
		c.expireSome(now, out)
		c.schedule(n, 0)
	}
	return int(c.expired - before)
}

// expireSome is expire, until an entry was found, or none is there, or so many were looked at
// that it is enough.
func (c *core[K, V]) expireSome(now int64, out *departures[K, V]) (fired int) {
	for range leap / step {
		if fired = c.expire(now, step, out); fired > 0 || now < c.wheel.due {
			break
		}
	}
	return fired
}

// insert adds an entry that is not there, and takes out what it takes the place of.
func (c *core[K, V]) insert(h uint32, k K, v V, o offer, now int64, out *departures[K, V]) {
	if c.spec.weighted {
		for c.weight+uint64(o.weight) > c.capacity || c.arena.Len() == c.maxLen() {
			if c.expireSome(now, out) == 0 {
				c.evict(c.arena.Back(), out)
			}
		}
	} else if uint64(c.arena.Len()) == c.capacity && c.expireSome(now, out) == 0 {
		last := c.arena.Back()
		if out != nil {
			out.Add(*c.arena.Key(last), c.arena.Value(last).value, Evicted)
		}
		c.evictions++
		before := c.dead(last)
		c.arena.ReplaceBack(h, k, item[V]{v, o.latest})
		c.note(last, o)
		c.schedule(last, before)
		return
	}
	c.grow()
	n := c.arena.Insert(h, k, item[V]{v, o.latest})
	if c.spec.weighted {
		c.weight += uint64(o.weight)
	}
	c.note(n, o)
	c.schedule(n, 0)
}

// note notes down in the columns what goes with the value of node n.
func (c *core[K, V]) note(n uint32, o offer) {
	cols := &c.columns
	if c.spec.moving {
		cols.slid[n].Store(o.deadline)
	}
	if c.spec.weighted {
		cols.weights[n] = o.weight
	}
	if c.spec.holding {
		cols.hold[n].Store(0)
	}
	if c.spec.costing {
		cols.costs[n] = o.cost
	}
	if o.ttl != c.spec.ttl && cols.ttls == nil {
		cols.ttls = make([]int64, c.arena.Room()+1)
		for i := range cols.ttls {
			cols.ttls[i] = c.spec.ttl
		}
	}
	if cols.ttls != nil {
		cols.ttls[n] = o.ttl
	}
}

// schedule sees to it that the wheel finds entry n when it is dead. before is when the wheel was
// to find it up to now, or 0: if that is not later, it will find it then, and put it off.
func (c *core[K, V]) schedule(n uint32, before int64) {
	dead := c.dead(n)
	if c.wheel.contains(n) {
		if dead >= before && before != 0 {
			return
		}
		c.wheel.remove(n)
	}
	if dead != never {
		c.wheel.add(n, dead)
	}
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
	// Reserve numbers the nodes anew, the last in the list first.
	from := make([]uint32, 1, c.arena.Len()+1)
	for at := c.arena.Back(); at != 0; at = c.arena.Prev(at) {
		from = append(from, at)
	}
	cols := &c.columns
	if c.spec.weighted {
		cols.weights = renumber(cols.weights, from, n)
	}
	if c.spec.moving {
		cols.slid = renumberAtomic(cols.slid, from, n)
	}
	if c.spec.holding {
		cols.hold = renumberAtomic(cols.hold, from, n)
	}
	if c.spec.costing {
		cols.costs = renumber(cols.costs, from, n)
	}
	if cols.ttls != nil {
		cols.ttls = renumber(cols.ttls, from, n)
	}
	c.arena.Reserve(n)
	c.wheel.reset(n)
	for at := range uint32(len(from)) {
		if at != 0 {
			c.schedule(at, 0)
		}
	}
}

// renumber returns a column for nodes up to n, in which node i is what node from[i] was.
func renumber[T any](old []T, from []uint32, n int) []T {
	column := make([]T, n+1)
	for to, at := range from {
		if at != 0 {
			column[to] = old[at]
		}
	}
	return column
}

// renumberAtomic is renumber; no reader is there.
func renumberAtomic(old []atomic.Int64, from []uint32, n int) []atomic.Int64 {
	column := make([]atomic.Int64, n+1)
	for to, at := range from {
		if at != 0 {
			column[to].Store(old[at].Load())
		}
	}
	return column
}

func (c *core[K, V]) evict(n uint32, out *departures[K, V]) {
	c.evictions++
	c.remove(n, Evicted, out)
}

// remove takes entry n out, for the given cause.
func (c *core[K, V]) remove(n uint32, cause Cause, out *departures[K, V]) {
	c.wheel.remove(n)
	c.leave(n, cause, out)
}

// leave takes out entry n, which is not in the wheel any more.
func (c *core[K, V]) leave(n uint32, cause Cause, out *departures[K, V]) {
	if out != nil {
		out.Add(*c.arena.Key(n), c.arena.Value(n).value, cause)
	}
	if c.spec.weighted {
		c.weight -= uint64(c.columns.weights[n])
	}
	c.arena.Remove(n)
}

// resize changes the capacity, takes out what is over it, and returns memory that can no
// longer be used.
func (c *core[K, V]) resize(capacity uint64, now int64, out *departures[K, V]) (evicted int) {
	before := c.evictions
	c.setCapacity(capacity)
	for c.held() > capacity {
		if c.expireSome(now, out) == 0 {
			c.evict(c.arena.Back(), out)
		}
	}
	if uint64(c.arena.Room()) > capacity {
		c.reserve(c.arena.Room())
	}
	return int(c.evictions - before)
}

// held returns the weight of what is held, which without a weigher is the number of
// entries.
func (c *core[K, V]) held() uint64 {
	if c.spec.weighted {
		return c.weight
	}
	return uint64(c.arena.Len())
}

// clear empties the core and keeps its memory.
func (c *core[K, V]) clear(now int64, out *departures[K, V]) {
	for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
		cause := Cleared
		if c.dead(n) <= now {
			cause = Expired
			c.expired++
		}
		if out != nil {
			out.Add(*c.arena.Key(n), c.arena.Value(n).value, cause)
		}
	}
	c.arena.Clear()
	c.wheel.reset(c.arena.Room())
	c.weight = 0
}

// appendFresh appends the entries that are fresh to list, the most recent first.
func (c *core[K, V]) appendFresh(list []entry[K, V], now int64) []entry[K, V] {
	list = slices.Grow(list, c.arena.Len())
	for n := c.arena.Front(); n != 0; n = c.arena.Next(n) {
		if c.deadline(n) > now {
			list = append(list, entry[K, V]{*c.arena.Key(n), c.arena.Value(n).value})
		}
	}
	return list
}

// An entry is a key and its value.
type entry[K comparable, V any] struct {
	key   K
	value V
}
