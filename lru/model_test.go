package lru

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

// A container is what Cache and Local have in common, and what the tests need beside.
type container interface {
	Get(int) (int, bool)
	Peek(int) (int, bool)
	Contains(int) bool
	Set(int, int) (stored, evicted bool)
	SetIfAbsent(int, int) (actual int, loaded bool)
	Compute(int, func(int, bool) (int, Op)) (int, bool)
	Delete(int) (int, bool)
	Clear()
	Len() int
	Weight() int
	Cap() int
	Resize(int) (evicted int, err error)
	All() iter.Seq2[int, int]
	Keys() iter.Seq[int]
	Stats() Stats

	check() error
	degrade(mask uint64)
	shardOf(int) int
	shards() int
}

var (
	_ container = (*Cache[int, int])(nil)
	_ container = (*Local[int, int])(nil)
)

// A departure is what OnEvict is told.
type departure[K comparable, V any] struct {
	key   K
	value V
	cause Cause
}

// A model is the naive reference for one shard: a list, the most recent first.
type model struct {
	list     []modelEntry
	capacity int
	room     int // entries that there is memory for
	fifo     bool
	slack    bool // hits on entries that are near move nothing
	era      int
	inEra    int
	weigh    func(k, v int) uint32
	left     *[]departure[int, int]
	stats    Stats
}

type modelEntry struct {
	key, value, weight int
	era                int // in which it was put in front
}

func (m *model) find(k int) int {
	return slices.IndexFunc(m.list, func(e modelEntry) bool { return e.key == k })
}

func (m *model) leave(i int, cause Cause) modelEntry {
	e := m.list[i]
	m.list = slices.Delete(m.list, i, i+1)
	*m.left = append(*m.left, departure[int, int]{e.key, e.value, cause})
	return e
}

// insert adds an entry in front, in an arena that doubles when it is full.
func (m *model) insert(e modelEntry) {
	if len(m.list) == m.room {
		m.room = min(max(8, 2*m.room), m.capacity)
		m.era += 4 // growth moves all entries
	}
	m.pushFront(e)
}

// pushFront puts an entry in front and counts it, as package arena does: an era is a
// quarter of the slack, and an entry of one of the last four eras is near.
func (m *model) pushFront(e modelEntry) {
	e.era = m.era
	m.list = slices.Insert(m.list, 0, e)
	if len := m.eraLen(); len > 0 {
		if m.inEra++; m.inEra >= len {
			m.inEra = 0
			m.era++
		}
	}
}

// eraLen returns the number of entries put in front in one era, 0 without slack.
func (m *model) eraLen() int {
	n := m.capacity * 3 / 8
	if !m.slack || n < 16 {
		return 0
	}
	return n / 4
}

// forget makes no entry near.
func (m *model) forget() {
	m.era += 4
	m.inEra = 0
}

func (m *model) near(e modelEntry) bool { return m.eraLen() > 0 && m.era-e.era < 4 }

func (m *model) use(i int) {
	e := m.list[i]
	switch {
	case m.fifo || m.near(e):
	case i == 0:
		m.list[0].era = m.era
	default:
		m.list = slices.Delete(m.list, i, i+1)
		m.pushFront(e)
	}
}

func (m *model) get(k int) (int, bool) {
	i := m.find(k)
	if i < 0 {
		m.stats.Misses++
		return 0, false
	}
	m.stats.Hits++
	v := m.list[i].value
	m.use(i)
	return v, true
}

func (m *model) weight() int {
	sum := 0
	for _, e := range m.list {
		sum += e.weight
	}
	return sum
}

// shrink evicts, the last first but never key k, until need more units fit.
func (m *model) shrink(k, need int) (evicted int) {
	for m.weight()+need > m.capacity {
		i := len(m.list) - 1
		if m.list[i].key == k {
			i--
		}
		m.leave(i, Evicted)
		m.stats.Evictions++
		evicted++
	}
	return evicted
}

func (m *model) set(k, v int) (stored, evicted bool) {
	w := 1
	if m.weigh != nil {
		w = max(1, int(m.weigh(k, v)))
	}
	i := m.find(k)
	if w > m.capacity {
		m.stats.Refused++
		if i >= 0 {
			m.leave(i, Replaced)
		}
		*m.left = append(*m.left, departure[int, int]{k, v, Refused})
		return false, false
	}
	m.stats.Sets++
	if i < 0 {
		evicted = m.shrink(k, w) > 0
		m.insert(modelEntry{k, v, w, 0})
		return true, evicted
	}
	*m.left = append(*m.left, departure[int, int]{k, m.list[i].value, Replaced})
	m.list[i].value, m.list[i].weight = v, w
	m.use(i)
	return true, m.shrink(k, 0) > 0
}

func (m *model) compute(k int, v int, op Op) (int, bool) {
	i := m.find(k)
	if i >= 0 {
		m.stats.Hits++
	} else {
		m.stats.Misses++
	}
	switch {
	case op == OpSet:
		if stored, _ := m.set(k, v); stored {
			return v, true
		}
	case i >= 0 && op == OpDelete:
		m.leave(i, Deleted)
	case i >= 0:
		v := m.list[i].value
		m.use(i)
		return v, true
	}
	return 0, false
}

func (m *model) delete(k int) (int, bool) {
	i := m.find(k)
	if i < 0 {
		return 0, false
	}
	return m.leave(i, Deleted).value, true
}

// A setup is one kind of cache to compare with the model.
type setup struct {
	name     string
	capacity int
	shards   int // 0: a Local
	order    Order
	weigher  func(int, int) uint32
	mask     uint64
}

func setups() []setup {
	var list []setup
	weigher := func(_, v int) uint32 { return uint32(v) % 12 }
	for _, shards := range []int{0, 1, 4} {
		for _, order := range []Order{RecentUse, Insertion} {
			for hash, mask := range map[string]uint64{"random": math.MaxUint64, "constant": 0, "shard": math.MaxUint32 << 32, "slot": math.MaxUint32} {
				for _, capacity := range []int{1, 2, 7, 60, 400} {
					name := fmt.Sprintf("shards=%d/order=%v/hash=%s/capacity=%d", shards, order, hash, capacity)
					list = append(list,
						setup{name + "/weights=no", capacity, shards, order, nil, mask},
						setup{name + "/weights=yes", capacity, shards, order, weigher, mask})
				}
			}
		}
	}
	return list
}

func (s setup) make(t testing.TB, onEvict func(int, int, Cause)) container {
	config := Config[int, int]{Capacity: s.capacity, Shards: s.shards, Order: s.order, Weigher: s.weigher, OnEvict: onEvict}
	var c container
	var err error
	if s.shards == 0 {
		c, err = NewLocal(config)
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
	models []*model
	got    []departure[int, int] // as OnEvict was told
	want   []departure[int, int]
	held   map[int]bool // values that were offered and have not left
}

func newRun(t testing.TB, s setup) *run {
	r := &run{t: t, held: map[int]bool{}}
	r.cache = s.make(t, func(k, v int, cause Cause) {
		require.NoError(t, r.cache.check(), "in OnEvict")
		require.True(t, r.held[v], "value %d left twice", v)
		delete(r.held, v)
		r.got = append(r.got, departure[int, int]{k, v, cause})
	})
	n := r.cache.shards()
	for i := range n {
		r.models = append(r.models, &model{
			capacity: int(sharding.Share(s.capacity, n, i)), fifo: s.order == Insertion, slack: n > 1 && s.weigher == nil, weigh: s.weigher, left: &r.want,
		})
	}
	return r
}

func (r *run) model(k int) *model { return r.models[r.cache.shardOf(k)] }

// step does one operation on both, and compares all that can be seen.
func (r *run) step(op, k, v int) {
	t, c, m := r.t, r.cache, r.model(k)
	r.got, r.want = r.got[:0], r.want[:0]
	switch op {
	case 0, 1, 2:
		got, ok := c.Get(k)
		want, wantOK := m.get(k)
		require.Equal(t, wantOK, ok, "Get(%d)", k)
		require.Equal(t, want, got, "Get(%d)", k)
	case 3, 4, 5, 6:
		r.held[v] = true
		stored, evicted := c.Set(k, v)
		wantStored, wantEvicted := m.set(k, v)
		require.Equal(t, wantStored, stored, "Set(%d, %d)", k, v)
		require.Equal(t, wantEvicted, evicted, "Set(%d, %d)", k, v)
	case 7:
		r.held[v] = true
		got, loaded := c.SetIfAbsent(k, v)
		want, ok := m.get(k)
		if !ok {
			want = v
			m.set(k, v)
		} else {
			delete(r.held, v) // never offered to the cache, for the key was there
		}
		require.Equal(t, ok, loaded, "SetIfAbsent(%d, %d)", k, v)
		require.Equal(t, want, got, "SetIfAbsent(%d, %d)", k, v)
	case 8:
		got, ok := c.Delete(k)
		want, wantOK := m.delete(k)
		require.Equal(t, wantOK, ok, "Delete(%d)", k)
		require.Equal(t, want, got, "Delete(%d)", k)
	case 9, 10, 11:
		op := Op(op - 9)
		if op == OpSet {
			r.held[v] = true
		}
		before, had := c.Peek(k)
		got, ok := c.Compute(k, func(old int, ok bool) (int, Op) {
			require.Equal(t, before, old, "Compute(%d)", k)
			require.Equal(t, had, ok, "Compute(%d)", k)
			return v, op
		})
		want, wantOK := m.compute(k, v, op)
		require.Equal(t, wantOK, ok, "Compute(%d, %d, %d)", k, v, op)
		require.Equal(t, want, got, "Compute(%d, %d, %d)", k, v, op)
	case 12:
		if v%8 != 0 {
			return
		}
		c.Clear()
		for _, m := range r.models {
			for len(m.list) > 0 {
				m.leave(0, Cleared)
			}
		}
	case 13:
		n := 1 + v%80
		if r.cache.Cap() > 80 || v%3 == 0 {
			n += 300 // enough for slack
		}
		evicted, err := c.Resize(n)
		require.NoError(t, err)
		r.resize(n, evicted)
	}
	require.Equal(t, r.want, r.got, "what left")
	r.compare()
}

// resize follows a Resize. Where the number of shards has changed, the order in which
// entries of different shards follow each other is the cache's to choose: the model
// then takes over what is there, after it has seen that the values that left account
// for what is missing.
func (r *run) resize(n, evicted int) {
	c := r.cache
	require.Equal(r.t, n, c.Cap())
	require.Len(r.t, r.got, evicted)
	shards := c.shards()
	if shards == len(r.models) {
		for i, m := range r.models {
			was := m.eraLen()
			m.capacity = int(sharding.Share(n, shards, i))
			m.shrink(-1, 0)
			if m.eraLen() != was {
				m.forget()
			}
			if m.room > m.capacity {
				m.room = m.capacity
				m.era += 4 // less memory moves all entries, too
			}
		}
		return
	}
	old, stats := map[int]modelEntry{}, Stats{}
	for _, m := range r.models {
		stats.add(m.stats)
		for _, e := range m.list {
			old[e.key] = e
		}
	}
	stats.Evictions += uint64(evicted)
	first := *r.models[0]
	r.models = nil
	for i := range shards {
		m := first
		m.list, m.stats, m.room, m.era, m.inEra = nil, Stats{}, 0, 0, 0
		m.capacity, m.slack = int(sharding.Share(n, shards, i)), shards > 1 && m.weigh == nil
		r.models = append(r.models, &m)
	}
	r.models[0].stats = stats
	all := slices.Collect(c.Keys())
	for _, k := range slices.Backward(all) {
		e := old[k]
		delete(old, k)
		r.model(k).insert(e)
	}
	r.want = append(r.want, r.got...)
	require.Len(r.t, old, evicted)
	for _, d := range r.got {
		require.Equal(r.t, Evicted, d.cause)
		require.Equal(r.t, old[d.key].value, d.value)
	}
}

func (r *run) compare() {
	t, c := r.t, r.cache
	require.NoError(t, c.check())
	var want []modelEntry
	var stats Stats
	weight := 0
	for _, m := range r.models {
		want = append(want, m.list...)
		weight += m.weight()
		stats.add(m.stats)
	}
	require.Equal(t, len(want), c.Len())
	require.Equal(t, weight, c.Weight())
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
	if len(want) > 0 {
		e := want[rand.IntN(len(want))]
		v, ok := c.Peek(e.key)
		require.True(t, ok)
		require.Equal(t, e.value, v)
		require.True(t, c.Contains(e.key))
	}
	require.False(t, c.Contains(-1))
	if l, ok := c.(*Local[int, int]); ok {
		keys := slices.Collect(l.Keys())
		slices.Reverse(keys)
		k, _, ok := l.Oldest()
		require.Equal(t, len(want) > 0, ok)
		for back := range l.Backward() {
			require.Equal(t, keys[0], back)
			require.Equal(t, keys[0], k)
			break
		}
	}
}

// TestModel compares random operations with a naive list, in every kind of cache.
func TestModel(t *testing.T) {
	steps := 500
	if testing.Short() {
		steps = 200
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
				op := random.IntN(14)
				if op == 13 && random.IntN(10) != 0 {
					op = 3
				}
				// Values are distinct, so that each can be followed.
				r.step(op, random.IntN(10+s.capacity+s.capacity/2), step)
			}
		})
	}
}
