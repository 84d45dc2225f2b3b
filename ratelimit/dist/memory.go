package dist

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A MemoryConfig configures a Memory. Its zero value is valid.
type MemoryConfig struct {
	_ struct{}

	// MaxKeys is the most keys whose state is kept, and requests that are remembered. 0 is 65,536. Beyond
	// it, the keys that are full soonest are forgotten first, and new keys begin with what could be
	// missing of those: never is more allowed than the limits.
	MaxKeys int
}

// A Memory is a Backend in the memory of this process: for tests, and for programs that may have one
// process today and several tomorrow. It is what the other Backends are compared with.
//
// A Memory is safe for concurrent use by multiple goroutines, and linearizable.
type Memory struct {
	base time.Time
	most int

	mu    sync.Mutex
	keys  book[memoryKey]
	ids   map[[16]byte]int64 // until when they are remembered
	order []memoryID         // the same in the order in which they came
}

type memoryKey struct{ name, key string }

type memoryID struct {
	id    [16]byte
	until int64
}

// NewMemory returns a Memory in which nothing has been taken, or an error that names the field of
// config that is wrong.
func NewMemory(config MemoryConfig) (*Memory, error) {
	if config.MaxKeys < 0 {
		return nil, fmt.Errorf("dist: MaxKeys must be at least 0, got %d", config.MaxKeys)
	}
	if config.MaxKeys == 0 {
		config.MaxKeys = defaultKeys
	}
	m := &Memory{base: time.Now(), most: config.MaxKeys, ids: map[[16]byte]int64{}}
	m.keys.most = config.MaxKeys
	return m, nil
}

// Take is that of Backend. It returns an error only if ctx has ended. Complexity: O(len(r.Rates)).
func (m *Memory) Take(ctx context.Context, r *Request) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.base).Microseconds()
	k := memoryKey{r.Name, r.Key}
	e := m.keys.entries[k]
	tats := m.keys.floor
	if e != nil {
		tats = e.tats
	}
	reply, cut := Reply{Allowed: true, Ahead: make([]int64, len(r.Rates))}, false
	for i, rate := range r.Rates {
		tau := rate.Interval * rate.Burst
		if i < len(tats) {
			cut = cut || tats[i]-now > tau
			reply.Ahead[i] = min(max(0, tats[i]-now), tau)
		}
		reply.Allowed = reply.Allowed && r.N <= rate.Burst && reply.Ahead[i]+r.N*rate.Interval <= tau
	}
	take := reply.Allowed && !r.Peek
	if !r.Peek && m.remembered(r.ID, now) {
		reply.Allowed, take = true, false
	}
	if !take && !cut {
		return reply, nil
	}
	if e == nil {
		e = m.keys.add(k, now, len(r.Rates))
	}
	if len(e.tats) != len(r.Rates) {
		e.tats = make([]int64, len(r.Rates))
	}
	for i, rate := range r.Rates {
		if take {
			reply.Ahead[i] += r.N * rate.Interval
		}
		e.tats[i] = now + reply.Ahead[i]
	}
	if take && r.Window > 0 {
		m.remember(r.ID, now, now+r.Window.Microseconds())
	}
	return reply, nil
}

// Delete is that of Deleter. It returns an error only if ctx has ended.
func (m *Memory) Delete(ctx context.Context, name, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.keys.entries, memoryKey{name, key})
	return nil
}

// remembered reports whether id was allowed within its window.
func (m *Memory) remembered(id [16]byte, now int64) bool {
	until, ok := m.ids[id]
	return ok && now < until
}

// remember makes room by forgetting the oldest, whether they are over or, if there are too many,
// not: then a request that is sent again is charged again.
func (m *Memory) remember(id [16]byte, now, until int64) {
	drop := 0
	for drop < len(m.order) && (m.order[drop].until <= now || len(m.order)-drop >= m.most) {
		if old := m.order[drop]; m.ids[old.id] == old.until {
			delete(m.ids, old.id)
		}
		drop++
	}
	m.order = append(m.order[drop:], memoryID{id, until})
	m.ids[id] = until
}
