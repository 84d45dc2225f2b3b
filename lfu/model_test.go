package lfu

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/sharding"
)

// A container is what Cache and Exact have in common.
type container interface {
	Get(int) (int, bool)
	Peek(int) (int, bool)
	Contains(int) bool
	Set(int, int) (stored, evicted bool)
	SetIfAbsent(int, int) (int, bool)
	Compute(int, func(int, bool) (int, Op)) (int, bool)
	Delete(int) (int, bool)
	Clear()
	Len() int
	Weight() int
	Cap() int
	Resize(int) (int, error)
	All() iter.Seq2[int, int]
	Keys() iter.Seq[int]
	Stats() Stats
	Shards() int

	check() error
	degrade(mask uint64)
	shardOf(int) int
	fullHash(int) uint64
	unguard()
}

var (
	_ container = (*Cache[int, int])(nil)
	_ container = (*Exact[int, int])(nil)
)

// A departure is what OnEvict is told.
type departure struct {
	key, value int
	cause      Cause
}

// An item is an entry of a model.
type item struct {
	key, value, weight int

	uses int // of an exactModel

	// of a policyModel
	hits, frequency, epoch int
	hash                   uint32
}

// A model is the naive reference for one shard.
type model interface {
	find(k int) *item
	use(e *item)             // a hit
	insert(e *item)          // after what must leave has left
	room(e *item, need int)  // makes room, but e stays
	remove(e *item)          // without a trace
	resize(n int) (gone int) // returns how many were evicted
	items() []*item          // in the order of All
	operation()              // a use or a set has been done
}

// A base is what the models have in common.
type base struct {
	capacity int
	stats    Stats
	left     *[]departure
}

func (b *base) leave(e *item, cause Cause) {
	*b.left = append(*b.left, departure{e.key, e.value, cause})
}

// An exactModel sorts its items.
type exactModel struct {
	base
	list     []*item // the most recently used first
	ageAfter int
	ops      int
}

func (m *exactModel) find(k int) *item {
	for _, e := range m.list {
		if e.key == k {
			return e
		}
	}
	return nil
}

func (m *exactModel) remove(e *item) {
	m.list = slices.DeleteFunc(m.list, func(o *item) bool { return o == e })
}

func (m *exactModel) use(e *item) {
	e.uses++
	m.remove(e)
	m.list = slices.Insert(m.list, 0, e)
}

func (m *exactModel) insert(e *item) { m.use(e) }

// items are in the order of uses, and of recency among equals.
func (m *exactModel) items() []*item {
	sorted := slices.Clone(m.list)
	slices.SortStableFunc(sorted, func(a, b *item) int { return b.uses - a.uses })
	return sorted
}

func (m *exactModel) operation() {
	if m.ops++; m.ageAfter == 0 || m.ops < m.ageAfter {
		return
	}
	m.ops = 0
	m.list = m.items() // the former rank decides
	for _, e := range m.list {
		e.uses = max(1, e.uses/2)
	}
}

func weightOf(items []*item) (sum int) {
	for _, e := range items {
		sum += e.weight
	}
	return sum
}

func (m *exactModel) room(e *item, need int) {
	for weightOf(m.list)+need > m.capacity {
		worst := slices.DeleteFunc(m.items(), func(o *item) bool { return o == e })
		last := worst[len(worst)-1]
		m.remove(last)
		m.stats.Evictions++
		m.leave(last, Evicted)
	}
}

func (m *exactModel) resize(n int) int {
	before := m.stats.Evictions
	m.capacity = n
	m.room(nil, 0)
	return int(m.stats.Evictions - before)
}

// A policyModel is the policy of core in plain slices, the front first. It has the ghosts and
// the steering of a core, which have tests of their own.
type policyModel struct {
	base
	window, probation, protected []*item
	weighted                     bool
	ghosts                       ghosts
	steering                     *steering
	epoch, uses                  int
	random                       uint32
}

func (m *policyModel) items() []*item {
	return slices.Concat(m.protected, m.probation, m.window)
}

func (m *policyModel) find(k int) *item {
	for _, e := range m.items() {
		if e.key == k {
			return e
		}
	}
	return nil
}

func (m *policyModel) use(e *item) { e.hits = min(3, e.hits+1) }

func (m *policyModel) operation() {}

func (m *policyModel) entries() int {
	if m.weighted {
		return max(1, len(m.items()))
	}
	return m.capacity
}

func (m *policyModel) count(n, entries int) {
	if m.uses += n; m.uses >= 20*entries {
		m.uses = min(m.uses, 20*entries) / 2
		m.epoch++
	}
}

func (m *policyModel) look(e *item) int { return m.lookOf(e, m.entries()) }

func (m *policyModel) lookOf(e *item, entries int) int {
	for ; e.epoch < m.epoch; e.epoch++ {
		e.frequency /= 2
	}
	was := e.frequency
	e.frequency = min(maxFrequency, was+e.hits)
	e.hits = 0
	m.count(e.frequency-was, entries)
	return e.frequency
}

func pop(list *[]*item) *item {
	last := (*list)[len(*list)-1]
	*list = (*list)[:len(*list)-1]
	return last
}

func push(list *[]*item, e *item) { *list = slices.Insert(*list, 0, e) }

func (m *policyModel) maxWindow() int {
	return max(1, int(m.steering.share()*float64(m.capacity)))
}

func (m *policyModel) balance() {
	most := int(protectedShare * float64(m.capacity-min(m.capacity, m.maxWindow())))
	for weightOf(m.protected) > most {
		if e := pop(&m.protected); e.hits > 0 {
			m.lookWith(e, 1)
			push(&m.protected, e)
		} else {
			push(&m.probation, e)
		}
	}
}

// victim returns the main item that is the next to be evicted, which stays where it is.
func (m *policyModel) victim() *item {
	for len(m.probation) > 0 {
		e := m.probation[len(m.probation)-1]
		if e.hits == 0 {
			return e
		}
		m.look(e)
		push(&m.protected, pop(&m.probation))
		m.balance()
	}
	for len(m.protected) > 0 {
		e := m.protected[len(m.protected)-1]
		if e.hits == 0 {
			return e
		}
		m.look(e)
		push(&m.protected, pop(&m.protected))
	}
	return nil
}

func (m *policyModel) remove(e *item) {
	for _, list := range []*[]*item{&m.window, &m.probation, &m.protected} {
		*list = slices.DeleteFunc(*list, func(o *item) bool { return o == e })
	}
}

// out evicts an item. extra is the number of items that are in no list, e among them, which
// count as entries all the same.
func (m *policyModel) out(e *item, from side, cause Cause, extra int) {
	m.remove(e)
	if cause == Rejected {
		m.stats.Rejections++
	} else {
		m.stats.Evictions++
	}
	entries := m.capacity
	if m.weighted {
		entries = len(m.items()) + extra
	}
	if g := m.ghosts.entries; g < entries-entries/3 || g > 4*entries {
		m.ghosts.init(entries)
	}
	m.ghosts.put(e.hash, from, uint32(m.lookOf(e, entries)))
	m.leave(e, cause)
}

func (m *policyModel) insert(e *item) {
	g, known := m.ghosts.take(e.hash)
	if known && g.near {
		m.steering.steer(g.side, float64(e.weight))
		m.balance()
	}
	direct := known && g.near && g.side == windowSide
	need := e.weight
	if direct {
		need = 0
	}
	for most := m.maxWindow(); weightOf(m.window)+need > most && len(m.window) > 0; {
		c := pop(&m.window)
		if c.hits > 0 {
			m.lookWith(c, 1)
			push(&m.window, c)
			continue
		}
		stays := true
		for stays && weightOf(m.items())+c.weight+e.weight > m.capacity {
			v := m.victimWith(1)
			if v != nil {
				f := m.lookWith(c, 1)
				wins := f > m.lookWith(v, 1)
				if !wins && f >= warm {
					wins = m.oneIn(warmOdds)
				}
				if wins {
					m.out(v, mainSide, Evicted, 2)
					continue
				}
			}
			stays = false
			m.out(c, windowSide, Rejected, 1)
		}
		if stays {
			push(&m.probation, c)
		}
	}
	m.room(nil, e.weight)

	e.frequency, e.epoch = min(maxFrequency, int(g.frequency)+1), m.epoch
	if g.frequency < maxFrequency || m.oneIn(saturatedOdds) {
		m.count(1, max(1, len(m.items())+1)*btoi(m.weighted)+m.capacity*btoi(!m.weighted))
	}
	if direct {
		push(&m.probation, e)
	} else {
		push(&m.window, e)
	}
}

func (m *policyModel) oneIn(n uint32) bool {
	m.random ^= m.random << 13
	m.random ^= m.random >> 17
	m.random ^= m.random << 5
	return m.random%n == 0
}

// lookWith and victimWith are look and victim while extra items are in no list.
func (m *policyModel) lookWith(e *item, extra int) int {
	if m.weighted {
		return m.lookOf(e, max(1, len(m.items())+extra))
	}
	return m.look(e)
}

func (m *policyModel) victimWith(extra int) *item {
	if !m.weighted || extra == 0 {
		return m.victim()
	}
	// The number of entries counts for looks only: stand in for those that are missing.
	m.window = append(m.window, make([]*item, extra)...)
	for i := range extra {
		m.window[len(m.window)-1-i] = &item{key: math.MinInt + i}
	}
	v := m.victim()
	m.window = m.window[:len(m.window)-extra]
	return v
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *policyModel) room(spared *item, need int) {
	extra := 0
	var back *[]*item
	if spared != nil && weightOf(m.items())+need > m.capacity {
		for _, list := range []*[]*item{&m.window, &m.probation, &m.protected} {
			if slices.Contains(*list, spared) {
				back = list
			}
		}
		m.remove(spared)
		need += spared.weight
		extra = 1
	}
	for weightOf(m.items())+need > m.capacity {
		if v := m.victimWith(extra); v != nil {
			m.out(v, mainSide, Evicted, extra+1)
			continue
		}
		m.out(m.window[len(m.window)-1], windowSide, Evicted, extra+1)
	}
	if back != nil {
		push(back, spared)
	}
}

func (m *policyModel) resize(n int) int {
	before := m.stats.Evictions
	if n != m.capacity {
		m.ghosts = ghosts{}
		m.uses = int(float64(m.uses) * float64(n) / float64(m.capacity))
	}
	m.capacity = n
	m.room(nil, 0)
	m.balance()
	return int(m.stats.Evictions - before)
}

// A setup is one kind of cache to compare with its model.
type setup struct {
	name     string
	capacity int
	shards   int // 0: an Exact
	ageAfter int
	weigher  func(int, int) uint32
	mask     uint64
}

func setups() []setup {
	var list []setup
	weigher := func(_, v int) uint32 { return uint32(v) % 12 }
	masks := []struct {
		name string
		mask uint64
	}{{"random", math.MaxUint64}, {"constant", 0}, {"shard", math.MaxUint32 << 32}, {"slot", math.MaxUint32}}
	for _, shards := range []int{0, 1, 4} {
		for _, ageAfter := range []int{0, 1, 50} {
			if shards > 0 && ageAfter > 0 {
				continue
			}
			for _, hash := range masks {
				for _, capacity := range []int{1, 2, 7, 60, 200} {
					if capacity < shards {
						continue
					}
					name := fmt.Sprintf("shards=%d/age=%d/hash=%s/capacity=%d", shards, ageAfter, hash.name, capacity)
					list = append(list,
						setup{name + "/weights=no", capacity, shards, ageAfter, nil, hash.mask},
						setup{name + "/weights=yes", capacity, shards, ageAfter, weigher, hash.mask})
				}
			}
		}
	}
	return list
}

func (s setup) make(t testing.TB, onEvict func(int, int, Cause)) container {
	config := Config[int, int]{Capacity: s.capacity, Shards: s.shards, AgeAfter: s.ageAfter, Weigher: s.weigher, OnEvict: onEvict}
	var c container
	var err error
	if s.shards == 0 {
		c, err = NewExact(config)
	} else {
		c, err = New(config)
	}
	require.NoError(t, err)
	c.degrade(s.mask)
	return c
}

// A run compares one cache with its models.
type run struct {
	t      testing.TB
	cache  container
	weigh  func(int, int) uint32
	models []model
	bases  []*base
	got    []departure // as OnEvict was told
	want   []departure
	held   map[int]bool // values that were offered and have not left
}

func newRun(t testing.TB, s setup) *run {
	r := &run{t: t, held: map[int]bool{}, weigh: s.weigher}
	r.cache = s.make(t, func(k, v int, cause Cause) {
		require.NoError(t, r.cache.check(), "in OnEvict")
		require.True(t, r.held[v], "value %d left twice", v)
		delete(r.held, v)
		r.got = append(r.got, departure{k, v, cause})
	})
	r.cache.unguard()
	n := r.cache.Shards()
	steering := newSteering(s.capacity, minWindow, false)
	for i := range n {
		b := base{capacity: int(sharding.Share(s.capacity, n, i)), left: &r.want}
		if s.shards == 0 {
			m := &exactModel{base: b, ageAfter: s.ageAfter}
			r.models, r.bases = append(r.models, m), append(r.bases, &m.base)
		} else {
			random := r.cache.(*Cache[int, int]).shards[i].core.random
			m := &policyModel{base: b, weighted: s.weigher != nil, steering: steering, random: random}
			r.models, r.bases = append(r.models, m), append(r.bases, &m.base)
		}
	}
	return r
}

func (r *run) get(k int) (int, bool) {
	i := r.cache.shardOf(k)
	e := r.models[i].find(k)
	if e == nil {
		r.bases[i].stats.Misses++
		return 0, false
	}
	r.bases[i].stats.Hits++
	r.models[i].use(e)
	r.models[i].operation()
	return e.value, true
}

func (r *run) set(k, v int) (stored, evicted bool) {
	i := r.cache.shardOf(k)
	m, b := r.models[i], r.bases[i]
	w := 1
	if r.weigh != nil {
		w = max(1, int(r.weigh(k, v)))
	}
	e := m.find(k)
	if w > b.capacity {
		b.stats.Refused++
		if e != nil {
			m.remove(e)
			b.leave(e, Replaced)
		}
		b.leave(&item{key: k, value: v}, Refused)
		return false, false
	}
	before := b.stats.Evictions + b.stats.Rejections
	if e != nil {
		b.leave(e, Replaced)
		e.value, e.weight = v, w
		m.use(e)
		m.room(e, 0)
	} else {
		e := &item{key: k, value: v, weight: w, hash: uint32(r.cache.fullHash(k))}
		if x, ok := m.(*exactModel); ok {
			x.room(nil, w)
		}
		m.insert(e)
	}
	b.stats.Sets++
	m.operation()
	return true, b.stats.Evictions+b.stats.Rejections != before
}

func (r *run) delete(k int) (int, bool) {
	i := r.cache.shardOf(k)
	e := r.models[i].find(k)
	if e == nil {
		return 0, false
	}
	r.models[i].remove(e)
	r.bases[i].leave(e, Deleted)
	return e.value, true
}

func (r *run) compute(k, v int, op Op) (int, bool) {
	i := r.cache.shardOf(k)
	if op == OpKeep || r.models[i].find(k) == nil && op == OpDelete {
		return r.get(k)
	}
	if r.models[i].find(k) != nil {
		r.bases[i].stats.Hits++
	} else {
		r.bases[i].stats.Misses++
	}
	if op == OpDelete {
		r.delete(k)
		return 0, false
	}
	if stored, _ := r.set(k, v); stored {
		return v, true
	}
	return 0, false
}

// step does one operation on both, and compares all that can be seen.
func (r *run) step(op, k, v int) {
	t, c := r.t, r.cache
	r.got, r.want = r.got[:0], r.want[:0]
	switch op {
	case 0, 1, 2, 3:
		got, ok := c.Get(k)
		want, wantOK := r.get(k)
		require.Equal(t, wantOK, ok, "Get(%d)", k)
		require.Equal(t, want, got, "Get(%d)", k)
	case 4, 5, 6, 7:
		r.held[v] = true
		stored, evicted := c.Set(k, v)
		wantStored, wantEvicted := r.set(k, v)
		require.Equal(t, wantStored, stored, "Set(%d, %d)", k, v)
		require.Equal(t, wantEvicted, evicted, "Set(%d, %d)", k, v)
		got, ok := c.Peek(k)
		require.Equal(t, stored, ok, "a value is there as soon as it is stored")
		require.True(t, !ok || got == v)
	case 8:
		r.held[v] = true
		got, loaded := c.SetIfAbsent(k, v)
		want, ok := r.get(k)
		if !ok {
			want = v
			r.set(k, v)
		} else {
			delete(r.held, v) // never offered to the cache, for the key was there
		}
		require.Equal(t, ok, loaded, "SetIfAbsent(%d, %d)", k, v)
		require.Equal(t, want, got, "SetIfAbsent(%d, %d)", k, v)
	case 9:
		got, ok := c.Delete(k)
		want, wantOK := r.delete(k)
		require.Equal(t, wantOK, ok, "Delete(%d)", k)
		require.Equal(t, want, got, "Delete(%d)", k)
	case 10, 11, 12:
		op := Op(op - 10)
		if op == OpSet {
			r.held[v] = true
		}
		before, had := c.Peek(k)
		got, ok := c.Compute(k, func(old int, ok bool) (int, Op) {
			require.Equal(t, before, old, "Compute(%d)", k)
			require.Equal(t, had, ok, "Compute(%d)", k)
			return v, op
		})
		want, wantOK := r.compute(k, v, op)
		require.Equal(t, wantOK, ok, "Compute(%d, %d, %d)", k, v, op)
		require.Equal(t, want, got, "Compute(%d, %d, %d)", k, v, op)
	case 13:
		if v%8 != 0 {
			return
		}
		c.Clear()
		for i, m := range r.models {
			for _, e := range m.items() {
				m.remove(e)
				r.bases[i].leave(e, Cleared)
			}
		}
		// The order of the causes is that of the segments.
		slices.SortFunc(r.got, func(a, b departure) int { return a.value - b.value })
		slices.SortFunc(r.want, func(a, b departure) int { return a.value - b.value })
	case 14:
		n, before := c.Shards()+v%200, c.Cap()
		evicted, err := c.Resize(n)
		require.NoError(t, err)
		want := 0
		for i, m := range r.models {
			if p, ok := m.(*policyModel); ok {
				p.steering.total.Store(int64(n))
			}
			if n == before && c.Shards() > 0 {
				continue
			}
			want += m.resize(int(sharding.Share(n, c.Shards(), i)))
		}
		require.Equal(t, want, evicted)
		require.Equal(t, n, c.Cap())
	}
	require.Equal(t, slices.Clone(r.want), slices.Clone(r.got), "what left")
	r.compare()
}

func (r *run) compare() {
	t, c := r.t, r.cache
	require.NoError(t, c.check())
	var want []*item
	var stats Stats
	for i, m := range r.models {
		want = append(want, m.items()...)
		stats.add(r.bases[i].stats)
	}
	require.Equal(t, len(want), c.Len())
	require.Equal(t, weightOf(want), c.Weight())
	require.LessOrEqual(t, c.Weight(), c.Cap())
	require.Equal(t, stats, c.Stats())
	i := 0
	for k, v := range c.All() {
		require.Equal(t, want[i].key, k, "All, entry %d", i)
		require.Equal(t, want[i].value, v, "All, entry %d", i)
		require.True(t, r.held[v])
		i++
	}
	require.Equal(t, len(want), i)
	require.Len(t, r.held, len(want), "every value offered is held or has left")
	require.False(t, c.Contains(-1))
	if x, ok := c.(*Exact[int, int]); ok {
		for _, e := range want {
			require.EqualValues(t, e.uses, x.Frequency(e.key))
		}
		require.Zero(t, x.Frequency(-1))
		k, v, ok := x.Coldest()
		require.Equal(t, len(want) > 0, ok)
		if ok {
			last := want[len(want)-1]
			require.Equal(t, [2]int{last.key, last.value}, [2]int{k, v})
		}
	}
	if p, ok := c.(*Cache[int, int]); ok {
		require.Equal(t, r.models[0].(*policyModel).steering.share(), p.Policy().WindowShare)
	}
}

// TestModel compares random operations with naive models, in every kind of cache.
func TestModel(t *testing.T) {
	steps := 1500
	if testing.Short() || underRace {
		steps = 300
	}
	for _, s := range setups() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			random := rand.New(rand.NewPCG(seed, 0))
			r := newRun(t, s)
			for step := range steps {
				op := random.IntN(15)
				if op == 14 && random.IntN(10) != 0 {
					op = 4
				}
				// Low keys are drawn more often; values are distinct, so that each can be followed.
				k := random.IntN(1 + random.IntN(10+2*s.capacity))
				r.step(op, k, step)
			}
		})
	}
}
