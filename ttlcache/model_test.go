package ttlcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A departure is what OnRemove is told.
type departure[K comparable, V any] struct {
	key   K
	value V
	cause Cause
}

// A model is the naive reference for a cache of one shard: a list, the most recent first.
// It does not load.
type model struct {
	config   Config[int, int]
	capacity int
	list     []modelEntry
	now      time.Duration
	left     []departure[int, int]
}

type modelEntry struct {
	key, value, weight int
	ttl                time.Duration // nominal
	deadline, latest   time.Duration
}

func later(a, b time.Duration) time.Duration { return time.Duration(sum(int64(a), int64(b))) }

func (m *model) window() time.Duration {
	return max(m.config.StaleWhileRevalidate, m.config.StaleIfError)
}

func (m *model) dead(e modelEntry) bool { return later(e.deadline, m.window()) <= m.now }

func (m *model) find(k int) int {
	return slices.IndexFunc(m.list, func(e modelEntry) bool { return e.key == k })
}

func (m *model) fresh(k int) int {
	if i := m.find(k); i >= 0 && m.list[i].deadline > m.now {
		return i
	}
	return -1
}

func (m *model) leave(i int, cause Cause) {
	e := m.list[i]
	m.list = slices.Delete(m.list, i, i+1)
	m.left = append(m.left, departure[int, int]{e.key, e.value, cause})
}

// expire takes out all that has expired, in any order.
func (m *model) expire() (n int) {
	for i := 0; i < len(m.list); {
		if m.dead(m.list[i]) {
			m.leave(i, Expired)
			n++
		} else {
			i++
		}
	}
	return n
}

func (m *model) weight() int {
	sum := 0
	for _, e := range m.list {
		sum += e.weight
	}
	return sum
}

func (m *model) promote(i int) {
	e := m.list[i]
	m.list = slices.Insert(slices.Delete(m.list, i, i+1), 0, e)
}

// use begins the entry's time to live anew, if that is to be.
func (m *model) use(i int, touch bool) {
	if e := &m.list[i]; touch || m.config.Sliding {
		e.deadline = max(e.deadline, min(later(m.now, e.ttl), e.latest))
	}
}

func (m *model) get(k int) (int, bool) {
	i := m.fresh(k)
	if i < 0 {
		if i := m.find(k); i >= 0 && m.dead(m.list[i]) {
			m.expire()
		}
		return 0, false
	}
	m.use(i, false)
	v := m.list[i].value
	m.promote(i)
	return v, true
}

func (m *model) set(k, v int, ttl time.Duration) bool {
	m.expire()
	w := 1
	if m.config.Weigher != nil {
		w = int(max(1, m.config.Weigher(k, v)))
	}
	if i := m.find(k); i >= 0 {
		m.leave(i, Replaced)
	}
	if w > m.capacity {
		m.left = append(m.left, departure[int, int]{k, v, Refused})
		return false
	}
	for m.weight()+w > m.capacity {
		m.leave(len(m.list)-1, Evicted)
	}
	if ttl == 0 {
		ttl = m.config.TTL
	}
	if ttl == 0 {
		ttl = Forever
	}
	e := modelEntry{key: k, value: v, weight: w, ttl: ttl, deadline: later(m.now, ttl), latest: Forever}
	if m.config.MaxLifetime > 0 {
		e.latest = later(m.now, m.config.MaxLifetime)
		e.deadline = min(e.deadline, e.latest)
	}
	m.list = slices.Insert(m.list, 0, e)
	return true
}

// modelConfigs are the kinds of caches that are compared with the model.
func modelConfigs() map[string]Config[int, int] {
	loader := func(context.Context, int) (Entry[int], error) {
		return Entry[int]{}, errors.New("the model does not load")
	}
	return map[string]Config[int, int]{
		"plain":       {TTL: time.Second},
		"no ttl":      {},
		"sliding":     {TTL: time.Second, Sliding: true},
		"lifetime":    {TTL: time.Second, Sliding: true, MaxLifetime: 3 * time.Second},
		"cap":         {TTL: time.Second, MaxLifetime: 500 * time.Millisecond},
		"stale":       {TTL: time.Second, StaleIfError: 2 * time.Second, Loader: loader},
		"revalidate":  {TTL: time.Second, StaleWhileRevalidate: time.Second, XFetchBeta: 1, Loader: loader},
		"weighed":     {TTL: time.Second, Weigher: func(k, v int) uint32 { return uint32(v % 5) }},
		"all of them": {TTL: time.Second, Sliding: true, MaxLifetime: time.Minute, StaleIfError: time.Second, Loader: loader, Weigher: func(k, v int) uint32 { return uint32(v % 5) }},
	}
}

// Random calls, compared with the model after each.
func TestModel(t *testing.T) {
	for name, config := range modelConfigs() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(30) {
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(seed, 0))
					next := func(n int) int { return rng.IntN(n) }
					compare(t, fmt.Sprintf("seed %d", seed), config, 1+next(12), 600, next)
				})
			}
		})
	}
}

// compare makes a cache of one shard and a model do the same, as next decides.
func compare(t *testing.T, name string, config Config[int, int], capacity, steps int, next func(n int) int) {
	var left []departure[int, int]
	config.Capacity = capacity
	config.Shards = 1
	told := next(3) > 0
	if told {
		config.OnRemove = func(k, v int, cause Cause) { left = append(left, departure[int, int]{k, v, cause}) }
	}
	c, err := New(config)
	require.NoError(t, err)
	// A clock that runs may cut long times to live short; then they could not be compared.
	c.clock.Stop()
	if next(4) == 0 {
		c.degrade(0)
	}
	m := &model{config: config, capacity: capacity}
	start := time.Now()
	spans := []time.Duration{1, time.Microsecond, 900 * time.Microsecond, time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, time.Second, time.Minute, time.Hour, 7 * 24 * time.Hour}
	ttls := []time.Duration{0, 1, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Hour, 1000 * time.Hour, Forever - 1, Forever}
	ctx := t.Context()
	for step := range steps {
		k, v := next(2*capacity+2), step
		what := ""
		switch op := next(20); op {
		case 0, 1, 2:
			what = fmt.Sprintf("Get(%d)", k)
			got, ok := c.Get(k)
			want, wantOK := m.get(k)
			require.Equal(t, []any{want, wantOK}, []any{got, ok}, "%s step %d: %s", name, step, what)
		case 3, 4, 5, 6:
			ttl := ttls[0]
			if next(2) == 0 {
				ttl = ttls[next(len(ttls))]
			}
			what = fmt.Sprintf("SetTTL(%d, %d, %v)", k, v, ttl)
			err := c.SetTTL(ctx, k, v, ttl)
			require.Equal(t, m.set(k, v, ttl), err == nil, "%s step %d: %s", name, step, what)
		case 7:
			what = fmt.Sprintf("Peek(%d)", k)
			got, ok := c.Peek(k)
			i := m.fresh(k)
			require.Equal(t, i >= 0, ok, "%s step %d: %s", name, step, what)
			require.Equal(t, ok, c.Contains(k))
			if ok {
				require.Equal(t, m.list[i].value, got)
			}
		case 8, 9:
			what = fmt.Sprintf("Lookup(%d)", k)
			got, state, remaining := c.Lookup(k)
			wantState, want, left := Absent, 0, time.Duration(0)
			if i := m.find(k); i >= 0 && !m.dead(m.list[i]) {
				e := m.list[i]
				wantState, want = Fresh, e.value
				until := e.deadline
				if e.deadline <= m.now {
					wantState = Stale
					until = later(e.deadline, m.window())
				}
				if left = until - m.now; until == Forever {
					left = Forever
				}
			}
			require.Equal(t, []any{wantState, want, left}, []any{state, got, remaining}, "%s step %d: %s", name, step, what)
		case 10:
			what = fmt.Sprintf("Delete(%d)", k)
			require.NoError(t, c.Delete(ctx, k))
			if i := m.find(k); i >= 0 {
				if m.dead(m.list[i]) {
					m.leave(i, Expired)
				} else {
					m.leave(i, Deleted)
				}
			}
		case 11:
			what = fmt.Sprintf("Touch(%d)", k)
			i := m.fresh(k)
			require.Equal(t, i >= 0, c.Touch(k), "%s step %d: %s", name, step, what)
			if i >= 0 {
				m.use(i, true)
			}
		case 12:
			what = fmt.Sprintf("SetIfAbsent(%d, %d)", k, v)
			got, loaded, err := c.SetIfAbsent(ctx, k, v)
			want, wantLoaded := m.get(k)
			stored := true
			if !wantLoaded {
				want = v
				if stored = m.set(k, v, 0); !stored {
					want = 0
				}
			}
			require.Equal(t, []any{wantLoaded, want, stored}, []any{loaded, got, err == nil}, "%s step %d: %s", name, step, what)
		case 13, 14:
			op := Op(next(3))
			what = fmt.Sprintf("Compute(%d, %d)", k, op)
			old, wasThere := m.get(k)
			got, ok, err := c.Compute(ctx, k, func(o int, there bool) (int, Op) {
				require.Equal(t, []any{old, wasThere}, []any{o, there}, "%s step %d: %s", name, step, what)
				return v, op
			})
			want, wantOK, stored := old, wasThere, true
			switch op {
			case OpSet:
				want, wantOK = v, true
				if stored = m.set(k, v, 0); !stored {
					want, wantOK = 0, false
				}
			case OpDelete:
				want, wantOK = 0, false
				if i := m.find(k); i >= 0 {
					m.leave(i, Deleted)
				}
			}
			require.Equal(t, []any{want, wantOK, stored}, []any{got, ok, err == nil}, "%s step %d: %s", name, step, what)
		case 15, 16, 17:
			d := spans[next(len(spans))]
			what = fmt.Sprintf("Sleep(%v)", d)
			time.Sleep(d)
			m.now = time.Since(start)
		case 18:
			switch next(8) {
			case 0:
				what = "Clear()"
				c.Clear()
				m.expire()
				for len(m.list) > 0 {
					m.leave(0, Cleared)
				}
			case 1:
				n := 1 + next(2*capacity)
				what = fmt.Sprintf("Resize(%d)", n)
				evicted, err := c.Resize(n)
				require.NoError(t, err)
				want := 0
				m.capacity = n
				if m.weight() > n {
					m.expire()
				}
				for m.weight() > n {
					m.leave(len(m.list)-1, Evicted)
					want++
				}
				require.Equal(t, want, evicted, "%s step %d: %s", name, step, what)
				require.Equal(t, n, c.Cap())
			case 2:
				n := next(3)
				what = fmt.Sprintf("DeleteExpired(%d)", n)
				require.LessOrEqual(t, c.DeleteExpired(n), n)
			}
		case 19:
			what = "Len()"
			got := c.Len()
			m.expire()
			require.Equal(t, len(m.list), got, "%s step %d: %s", name, step, what)
			require.Equal(t, m.weight(), c.Weight())
			var keys []int
			for _, e := range m.list {
				if e.deadline > m.now {
					keys = append(keys, e.key)
				}
			}
			require.Equal(t, keys, slices.Collect(c.Keys()), "%s step %d: %s", name, step, what)
		}
		require.NoError(t, c.check(), "%s step %d: %s", name, step, what)
		what = fmt.Sprintf("%s step %d: %s", name, step, what)
		if told {
			agree(t, c, m, &left, what)
		}
		require.Equal(t, m.alive(), alive(c), what)
	}
	require.NoError(t, c.Close(ctx))
}

// alive returns the entries that are not dead, in the order of use, the most recent first.
func (m *model) alive() (list []entry[int, int]) {
	for _, e := range m.list {
		if !m.dead(e) {
			list = append(list, entry[int, int]{e.key, e.value})
		}
	}
	return list
}

func alive(c *Cache[int, int]) (list []entry[int, int]) {
	core := &c.shards[0].core
	for n := core.arena.Front(); n != 0; n = core.arena.Next(n) {
		if core.dead(n) > c.clock.Now() {
			list = append(list, entry[int, int]{*core.arena.Key(n), core.arena.Value(n).value})
		}
	}
	return list
}

// agree compares what has left, and what is there. The cache may find out earlier or later than
// the model that an entry has expired, but not whether.
func agree(t *testing.T, c *Cache[int, int], m *model, left *[]departure[int, int], what string) {
	for _, d := range *left {
		if d.cause == Expired {
			if i := m.find(d.key); i >= 0 && m.list[i].value == d.value {
				require.True(t, m.dead(m.list[i]), "%s: %v has not expired", what, d)
				m.leave(i, Expired)
			}
		}
	}
	there := map[int]int{}
	s := &c.shards[0]
	for n := s.core.arena.Front(); n != 0; n = s.core.arena.Next(n) {
		there[*s.core.arena.Key(n)] = s.core.arena.Value(n).value
	}
	for i := 0; i < len(m.left); {
		d := m.left[i]
		j := slices.Index(*left, d)
		switch {
		case j >= 0:
			*left = slices.Delete(*left, j, j+1)
			m.left = slices.Delete(m.left, i, i+1)
		case d.cause == Expired:
			v, ok := there[d.key]
			require.True(t, ok && v == d.value, "%s: %v has left unnoticed", what, d)
			i++ // it will be found out
		default:
			require.Fail(t, "a departure is missing", "%s: %v", what, d)
		}
	}
	require.Empty(t, *left, "%s: has left", what)
	for _, e := range m.list {
		v, ok := there[e.key]
		require.True(t, ok && v == e.value, "%s: %v is missing", what, e)
	}
}
