package lfu

import (
	"slices"

	"github.com/sysblocks/sysblocks/internal/arena"
)

// A core is one shard of a Cache, without its lock: the entries, and the policy that says
// which of them leave. See the package comment for the policy.
//
// Invariants, checked by check in the tests:
//
//	each entry is in window, probation or protected, and its meta says in which
//	weight = Σ the segments' weights ≤ capacity
//	with weights: 1 ≤ weights[n] ≤ capacity, and each segment's weight is the sum of its entries'
type core[K comparable, V any] struct {
	// What each write changes comes first, so that it is on few cache lines, with the lock.
	sets, evictions, rejections, admissions uint64

	segments [3]segment
	weight   uint64 // of all entries
	uses     int64  // counted into frequencies, less half of them at each new epoch
	epoch    uint32 // the age of frequencies: 24 bits
	random   uint32 // state of a generator: not 0

	lists    arena.Lists[K, V]
	meta     []uint32 // by node, as long as the nodes: see below
	weights  []uint32 // likewise; nil: every entry weighs 1
	weighted bool
	capacity uint64

	steering *steering // shared by all shards
	ghosts   ghosts

	hits, misses, refused uint64
}

// A segment is one of the three lists.
type segment struct {
	arena.List
	weight uint64
}

// indices of core.segments
const (
	window = iota
	probation
	protected
)

// A word of meta is
//
//	epoch<<8 | segment<<6 | frequency<<2 | hits
//
// Hits are those since the entry was last looked at, at most 3. They are all that a reader
// writes, atomically, and two readers who write at once may lose one. Everything else is
// the writer's, who has the lock for himself. The frequency, at most 15, is as of the epoch.
const (
	hitsMask       = 3
	frequencyShift = 2
	frequencyMask  = 15
	segmentShift   = 6
	epochShift     = 8
)

const (
	maxHits      = 3
	maxFrequency = 15

	// usesPerEpoch is how many uses an entry has on average in an epoch, after which
	// frequencies are halved.
	usesPerEpoch = 20

	// protectedShare is the part of the main segments that protected may have.
	protectedShare = 0.8

	// A candidate that has lost is admitted all the same one time in warmOdds, if it has been
	// used often. Else whoever made enough keys as frequent as can be could keep
	// everything else out until they have aged.
	warm     = 10
	warmOdds = 1024

	// saturatedOdds is one in how many new entries counts as a use, of those that are as
	// frequent as can be already.
	saturatedOdds = 16

	// maxMoves bounds how many entries one call moves between the segments, each for a
	// reason of its own, before it lets the next call go on: 0.1 ms or so.
	maxMoves = 4096
)

// init prepares a zero core.
func (c *core[K, V]) init(capacity uint64, weighted bool, s *steering, random uint32) {
	c.capacity, c.weighted, c.steering, c.random = capacity, weighted, s, random|1
}

// entries returns the number of entries on which the policy's lengths of time are based:
// as many as fit.
func (c *core[K, V]) entries() int {
	if c.weighted {
		return max(1, c.lists.Len())
	}
	return int(c.capacity)
}

// maxWindow returns how much weight the window is to have.
func (c *core[K, V]) maxWindow() uint64 {
	return max(1, uint64(c.steering.share()*float64(c.capacity)))
}

// hit counts a use of entry n, under the lock for writing.
func (c *core[K, V]) hit(n uint32) {
	if c.meta[n]&hitsMask < maxHits {
		c.meta[n]++
	}
}

func (c *core[K, V]) get(h uint32, k K) (v V, ok bool) {
	n := c.lists.Find(h, k)
	if n == 0 {
		c.misses++
		return v, false
	}
	c.hits++
	c.hit(n)
	return *c.lists.Value(n), true
}

func (c *core[K, V]) peek(h uint32, k K) (v V, ok bool) {
	if n := c.lists.Find(h, k); n != 0 {
		return *c.lists.Value(n), true
	}
	return v, false
}

// estimate returns the frequency of the key, whether it is there or remembered.
func (c *core[K, V]) estimate(h uint32, k K) int {
	if n := c.lists.Find(h, k); n != 0 {
		return int(c.frequency(n))
	}
	found, _ := c.ghosts.find(h)
	return int(found.frequency)
}

// aged returns the frequency of an entry as of now. It has been halved for each epoch.
func (c *core[K, V]) aged(meta uint32) uint32 {
	missed := (c.epoch - meta>>epochShift) & (1<<24 - 1)
	return meta >> frequencyShift & frequencyMask >> min(missed, maxFrequency)
}

// frequency returns the frequency of entry n, as look would find it. It changes nothing.
func (c *core[K, V]) frequency(n uint32) uint32 {
	m := c.meta[n]
	return min(maxFrequency, c.aged(m)+m&hitsMask)
}

// look counts the hits of entry n since it was last looked at into its frequency, and returns
// it.
func (c *core[K, V]) look(n uint32) uint32 {
	m := c.meta[n]
	was := c.aged(m)
	now := min(maxFrequency, was+m&hitsMask)
	c.meta[n] = c.epoch<<epochShift | m&(3<<segmentShift) | now<<frequencyShift
	c.count(now - was)
	return now
}

// count counts uses, and begins a new epoch after so many.
func (c *core[K, V]) count(uses uint32) {
	c.uses += int64(uses)
	if most := usesPerEpoch * int64(c.entries()); c.uses >= most {
		c.uses = min(c.uses, most) / 2
		c.epoch = (c.epoch + 1) & (1<<24 - 1)
	}
}

func (c *core[K, V]) weightOf(n uint32) uint64 {
	if c.weighted {
		return uint64(c.weights[n])
	}
	return 1
}

// segmentOf returns the segment of entry n.
func (c *core[K, V]) segmentOf(n uint32) *segment {
	return &c.segments[c.meta[n]>>segmentShift&3]
}

// push puts entry n, which is in no segment, at the front of one.
func (c *core[K, V]) push(n, to uint32) {
	c.meta[n] = c.meta[n]&^(3<<segmentShift) | to<<segmentShift
	s := &c.segments[to]
	c.lists.PushFront(&s.List, n)
	s.weight += c.weightOf(n)
}

// pull takes entry n out of its segment.
func (c *core[K, V]) pull(n uint32) {
	s := c.segmentOf(n)
	c.lists.Detach(&s.List, n)
	s.weight -= c.weightOf(n)
}

// set stores v under k, with weight w, unless w is more than the capacity.
func (c *core[K, V]) set(h uint32, k K, v V, w uint32, out *departures[K, V]) (stored, evicted, inserted bool) {
	return c.put(c.lists.Find(h, k), h, k, v, w, out)
}

// put is set for a caller that has looked k up already: n is its node, or 0.
func (c *core[K, V]) put(n, h uint32, k K, v V, w uint32, out *departures[K, V]) (stored, evicted, inserted bool) {
	before := c.evictions + c.rejections
	switch {
	case uint64(w) > c.capacity:
		if n != 0 {
			c.remove(n, Replaced, out)
		}
		c.refused++
		out.Add(k, v, Refused)
		return false, false, false
	case n != 0:
		c.update(n, v, w, out)
	default:
		c.insert(h, k, v, w, out)
	}
	c.sets++
	return true, c.evictions+c.rejections != before, n == 0
}

// update gives entry n a new value and weight.
func (c *core[K, V]) update(n uint32, v V, w uint32, out *departures[K, V]) {
	p := c.lists.Value(n)
	if out != nil {
		out.Add(*c.lists.Key(n), *p, Replaced)
	}
	*p = v
	c.hit(n)
	if !c.weighted {
		return
	}
	s := c.segmentOf(n)
	delta := uint64(w) - uint64(c.weights[n]) // modulo 2^64
	c.weights[n] = w
	s.weight += delta
	c.weight += delta
	if c.weight <= c.capacity {
		return
	}
	// The entry itself stays: it is out of the way while others leave.
	to := c.meta[n] >> segmentShift & 3
	c.pull(n)
	c.shrink(c.capacity, out)
	c.push(n, to)
}

// insert adds an entry that is not there, after what must leave for it has left. It enters
// the window, where it stays until others have come after it; but if it was in the window a
// short while ago, the window was too small to show its worth, and it skips it.
func (c *core[K, V]) insert(h uint32, k K, v V, w uint32, out *departures[K, V]) {
	g, known := c.ghosts.take(h)
	if known && g.near {
		c.steering.steer(g.side, float64(w))
		c.balance()
	}
	to, need := uint32(window), uint64(w)
	if known && g.near && g.side == windowSide {
		to, need = probation, 0
		c.admissions++
	}
	c.drainWindow(need, uint64(w), out)
	c.shrink(c.capacity-uint64(w), out)

	if c.lists.Full() {
		c.reserve(max(8, 2*c.lists.Len()))
	}
	n := c.lists.Add(h, k, v)
	c.meta[n] = c.epoch<<epochShift | min(maxFrequency, g.frequency+1)<<frequencyShift
	// A frequency that cannot grow counts in part. Did it not at all, then time would stand
	// still when all are of that kind, and what was hot once could stay for ever.
	if g.frequency < maxFrequency || c.oneIn(saturatedOdds) {
		c.count(1)
	}
	if c.weighted {
		c.weights[n] = w
	}
	c.push(n, to)
	c.weight += uint64(w)
}

// drainWindow moves what is last in the window to probation until need more units fit into
// the window; if the cache has no room for room more units, each is a candidate that must be
// worth more than what would be evicted for it.
func (c *core[K, V]) drainWindow(need, room uint64, out *departures[K, V]) {
	w, most := &c.segments[window], c.maxWindow()
	for moves := 0; w.weight+need > most && w.Len() > 0 && moves < maxMoves; moves++ {
		n := w.Back()
		c.pull(n)
		if c.meta[n]&hitsMask > 0 {
			c.look(n)
			c.push(n, window)
			continue
		}
		if c.contest(n, room, out) {
			c.admissions++
			c.push(n, probation)
		}
	}
}

// contest makes room for room more units if candidate n, which is in no segment, is worth it:
// if not, it is n that leaves, and contest returns false.
func (c *core[K, V]) contest(n uint32, room uint64, out *departures[K, V]) bool {
	for c.weight+room > c.capacity {
		v := c.victim()
		if v == 0 || !c.beats(n, v) {
			c.rejections++
			c.leave(n, windowSide, Rejected, out)
			return false
		}
		c.evict(v, out)
	}
	return true
}

// beats reports whether candidate n is worth more than victim v.
func (c *core[K, V]) beats(n, v uint32) bool {
	f := c.look(n)
	if f > c.look(v) {
		return true
	}
	return f >= warm && c.oneIn(warmOdds)
}

// oneIn returns true one time in n, at random, by Marsaglia's xorshift (2003).
func (c *core[K, V]) oneIn(n uint32) bool {
	c.random ^= c.random << 13
	c.random ^= c.random >> 17
	c.random ^= c.random << 5
	return c.random%n == 0
}

// victim returns the main entry that is the next to be evicted, or 0 if there is none. Each
// entry that it passes over has had hits that let it: so its cost is paid for by them.
func (c *core[K, V]) victim() uint32 {
	moves := 0
	for c.segments[probation].Len() > 0 {
		n := c.segments[probation].Back()
		if moves++; c.meta[n]&hitsMask == 0 || moves > maxMoves {
			return n
		}
		c.look(n)
		c.pull(n)
		c.push(n, protected)
		c.balance()
	}
	for c.segments[protected].Len() > 0 {
		n := c.segments[protected].Back()
		if moves++; c.meta[n]&hitsMask == 0 || moves > maxMoves {
			return n
		}
		c.look(n)
		c.pull(n)
		c.push(n, protected)
	}
	return 0
}

// balance moves to probation what protected has too much.
func (c *core[K, V]) balance() {
	s := &c.segments[protected]
	most := uint64(protectedShare * float64(c.capacity-min(c.capacity, c.maxWindow())))
	for moves := 0; s.weight > most && moves < maxMoves; moves++ {
		n := s.Back()
		c.pull(n)
		if c.meta[n]&hitsMask > 0 {
			c.look(n)
			c.push(n, protected)
		} else {
			c.push(n, probation)
		}
	}
}

// shrink evicts entries until their weight is at most most: from the main segments first.
func (c *core[K, V]) shrink(most uint64, out *departures[K, V]) {
	for c.weight > most {
		if n := c.victim(); n != 0 {
			c.evict(n, out)
			continue
		}
		n := c.segments[window].Back()
		c.pull(n)
		c.evictions++
		c.leave(n, windowSide, Evicted, out)
	}
}

// evict evicts entry n of a main segment.
func (c *core[K, V]) evict(n uint32, out *departures[K, V]) {
	c.pull(n)
	c.evictions++
	c.leave(n, mainSide, Evicted, out)
}

// leave removes entry n, which is in no segment, for want of room, and leaves a ghost.
func (c *core[K, V]) leave(n uint32, from side, cause Cause, out *departures[K, V]) {
	// Ghosts come with the first eviction. With weights the number of entries may change a
	// lot afterwards: then this begins anew, for what is near depends on it.
	if g, now := c.ghosts.entries, c.entries(); g < now-now/3 || g > 4*now {
		c.ghosts.init(now)
	}
	c.ghosts.put(c.lists.Hash(n), from, c.look(n))
	c.drop(n, cause, out)
}

// remove takes entry n out of the cache, for the given cause.
func (c *core[K, V]) remove(n uint32, cause Cause, out *departures[K, V]) {
	c.pull(n)
	c.drop(n, cause, out)
}

func (c *core[K, V]) drop(n uint32, cause Cause, out *departures[K, V]) {
	if out != nil {
		out.Add(*c.lists.Key(n), *c.lists.Value(n), cause)
	}
	c.weight -= c.weightOf(n)
	c.lists.Drop(n)
}

// reserve makes room for n entries in all, or for as many as there can be. It moves all
// entries to new nodes.
func (c *core[K, V]) reserve(n int) {
	n = int(min(uint64(n), c.capacity, arena.MaxLen))
	old := *c
	c.lists = arena.Lists[K, V]{}
	c.lists.Init(n)
	c.segments = [3]segment{}
	c.meta = make([]uint32, n+1)
	if c.weighted {
		c.weights = make([]uint32, n+1)
	}
	for i := range old.segments {
		for from := old.segments[i].Back(); from != 0; from = old.lists.Prev(from) {
			to := c.lists.Add(old.lists.Hash(from), *old.lists.Key(from), *old.lists.Value(from))
			c.meta[to] = old.meta[from]
			if c.weighted {
				c.weights[to] = old.weights[from]
			}
			c.push(to, uint32(i))
		}
	}
}

// setIfAbsent also returns the weight of the entry that was used, or 0 if there is none.
func (c *core[K, V]) setIfAbsent(h uint32, k K, v V, w uint32, out *departures[K, V]) (actual V, loaded bool, used uint32) {
	if n := c.lists.Find(h, k); n != 0 {
		c.hits++
		c.hit(n)
		return *c.lists.Value(n), true, uint32(c.weightOf(n))
	}
	c.misses++
	if stored, _, _ := c.put(0, h, k, v, w, out); stored {
		used = w
	}
	return v, false, used
}

// compute changes nothing before f and weigh have returned. w is the weight of the entry that
// was used, or 0 if there is none, and inserted says whether it is a new one.
func (c *core[K, V]) compute(h uint32, k K, f func(V, bool) (V, Op), weigh func(K, V) uint32, out *departures[K, V]) (v V, ok bool, w uint32, inserted bool) {
	var old, none V
	n := c.lists.Find(h, k)
	if n != 0 {
		old = *c.lists.Value(n)
	}
	v, op := f(old, n != 0)
	w = 1
	switch op {
	case OpKeep, OpDelete:
	case OpSet:
		w = weigh(k, v)
	default:
		panic("lfu: Compute: the function returned an unknown Op")
	}

	if n != 0 {
		c.hits++
	} else {
		c.misses++
	}
	switch {
	case op == OpSet:
		stored, _, inserted := c.put(n, h, k, v, w, out)
		if !stored {
			return none, false, 0, false
		}
		return v, true, w, inserted
	case n == 0:
		return none, false, 0, false
	case op == OpDelete:
		c.remove(n, Deleted, out)
		return none, false, 0, false
	}
	c.hit(n)
	return old, true, uint32(c.weightOf(n)), false
}

func (c *core[K, V]) delete(h uint32, k K, out *departures[K, V]) (v V, ok bool) {
	n := c.lists.Find(h, k)
	if n == 0 {
		return v, false
	}
	v = *c.lists.Value(n)
	c.remove(n, Deleted, out)
	return v, true
}

// resize changes the capacity, evicts what is over it, and returns memory that can no longer
// be used. Ghosts of another capacity are not comparable, and are forgotten.
func (c *core[K, V]) resize(capacity uint64, out *departures[K, V]) (evicted int) {
	before := c.evictions
	if capacity != c.capacity {
		c.ghosts = ghosts{}
		c.uses = int64(float64(c.uses) * float64(capacity) / float64(c.capacity))
	}
	c.capacity = capacity
	c.shrink(capacity, out)
	c.balance()
	if uint64(c.lists.Room()) > capacity {
		c.reserve(c.lists.Room())
	}
	return int(c.evictions - before)
}

// clear empties the core and keeps its memory. What is remembered of evicted keys stays.
func (c *core[K, V]) clear(out *departures[K, V]) {
	for i := range c.segments {
		if out != nil {
			for n := c.segments[i].Front(); n != 0; n = c.lists.Next(n) {
				out.Add(*c.lists.Key(n), *c.lists.Value(n), Cleared)
			}
		}
		c.segments[i] = segment{}
	}
	c.lists.Clear()
	c.weight = 0
}

func (c *core[K, V]) stats() Stats {
	return Stats{
		Hits: c.hits, Misses: c.misses, Sets: c.sets,
		Evictions: c.evictions, Rejections: c.rejections, Refused: c.refused,
	}
}

// appendAll appends the entries to list: the main segments before the window, and in each
// the last to be looked at first.
func (c *core[K, V]) appendAll(list []entry[K, V]) []entry[K, V] {
	list = slices.Grow(list, c.lists.Len())
	for i := range c.segments {
		s := &c.segments[len(c.segments)-1-i] // protected, probation, window
		for n := s.Front(); n != 0; n = c.lists.Next(n) {
			list = append(list, entry[K, V]{*c.lists.Key(n), *c.lists.Value(n), uint8(c.frequency(n))})
		}
	}
	return list
}

// An entry is a key, its value and an estimate of how often it is used.
type entry[K comparable, V any] struct {
	key       K
	value     V
	frequency uint8
}
