package consistenthash

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

// A BoundedConfig says how a Bounded places requests.
type BoundedConfig struct {
	_ struct{}

	// LoadFactor bounds the requests in flight on a node: to its fair share of all of them times
	// LoadFactor, rounded up. From 1 to 1000; it is rounded to four decimal places. The
	// lower it is, the more even is the load, and the more requests go elsewhere than to the owner of
	// their key. 0: 1.25.
	LoadFactor float64
}

// A Bounded is consistent hashing with bounded loads (V. Mirrokni, M. Thorup and M. Zadimoghaddam,
// "Consistent Hashing with Bounded Loads", SODA 2018): a request goes to the owner of its key unless
// that has too many in flight, and then to the first node of the key's own sequence that has
// not. So what one hot node cannot take spreads over all others, where on a ring it
// would all fall on the neighbour.
//
// It takes its members from a Map, and follows all of its updates; the count of requests on a node
// survives its removal and return. Acquiring takes no lock, but after an update. When many nodes
// are full, it looks at them one after the other, in the key's sequence: with Ring, Ketama and Maglev
// that takes 5 to 17 ns for each full node. Slots and Rendezvous rank all nodes when more than eight
// are full, which takes 50 µs with 1000 nodes, however many of them are full.
//
// A Bounded is safe for concurrent use by multiple goroutines. No node is given a request beyond
// the bound for what is in flight at some moment of the call. The zero value cannot be used.
type Bounded[T any] struct {
	m      *Map[T]
	factor uint64 // LoadFactor in units of 1/loadUnit
	state  atomic.Pointer[boundedState[T]]

	mu    sync.Mutex       // held by who replaces state
	loads map[string]*load // by ID: of all live nodes, and of others with requests in flight

	// total is the requests in flight on all live nodes, and those that are being placed. Every
	// request writes to it, so what every request reads is kept off its cache line.
	_     [64]byte
	total atomic.Int64
	_     [56]byte
}

// A boundedState is what belongs to one state of the Map. It is never changed.
type boundedState[T any] struct {
	of         *state[T]
	replicator Replicator
	loads      []*load // of each node
	share      []uint64
	unit       uint64 // a node with c requests has room if c·unit < total·share
	live       int    // nodes that can be reached
	growth     int    // of what is asked for of a sequence
}

// A load is the number of requests in flight on a node, and the flag live: whether it can be given
// more, and total counts those it has. They are in one word, so each request is counted in total or
// not by the one operation that adds it to the node or takes it from it. It has a cache line of its
// own, as requests for different nodes should not get in each other's way.
type load struct {
	word atomic.Uint64
	_    [56]byte
}

const live = 1 << 63

func inFlight(word uint64) int64 { return int64(word &^ live) }

// NewBounded returns a Bounded for the members of m. It returns an error if m is nil, LoadFactor is
// out of range, or m's algorithm makes no Replicator.
func NewBounded[T any](m *Map[T], c BoundedConfig) (*Bounded[T], error) {
	if err := checkLoad(c.LoadFactor); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("consistenthash: NewBounded needs a Map, got nil")
	}
	if p := m.state.Load().picker; !isReplicator(p) {
		return nil, fmt.Errorf("consistenthash: %T is no Replicator, which NewBounded needs", p)
	}
	b := &Bounded[T]{m: m, factor: 12500, loads: make(map[string]*load)}
	if c.LoadFactor != 0 {
		b.factor = fixedLoad(c.LoadFactor)
	}
	b.current()
	return b, nil
}

func isReplicator(p Picker) bool {
	_, ok := p.(Replicator)
	return ok
}

// current returns the state for the Map as it is now.
func (b *Bounded[T]) current() *boundedState[T] {
	if s := b.state.Load(); s != nil && s.of == b.m.state.Load() {
		return s
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.followLocked()
}

// followLocked makes the state for the Map as it is now, if there is none yet.
//
// A node that cannot be reached any more loses its flag, and total what the node has: from then on
// nobody can add to it, so what it has only falls, and at zero it can be forgotten. If it comes
// back before, it still has its count.
func (b *Bounded[T]) followLocked() *boundedState[T] {
	prev, of := b.state.Load(), b.m.state.Load()
	if prev != nil && prev.of == of {
		return prev
	}
	s := &boundedState[T]{
		of:    of,
		loads: make([]*load, len(of.nodes)),
		share: make([]uint64, len(of.nodes)),
	}
	s.replicator, _ = of.picker.(Replicator)
	switch s.growth = 4; of.picker.(type) {
	case *slots, *rendezvous:
		s.growth = maxNodes // they rank all nodes, to name more than a few of them
	}
	reached := make(map[string]bool, of.active)
	var total uint64
	if s.replicator != nil {
		// Not all nodes with weight can be reached: a light one may have no point in Ketama's ring.
		for _, i := range s.replicator.AppendN(nil, 0, of.active) {
			n := of.nodes[i]
			reached[n.ID] = true
			s.share[i] = uint64(n.Weight) * b.factor
			total += uint64(n.Weight)
			s.live++
		}
	}
	s.unit = total * loadUnit
	for id, l := range b.loads {
		if reached[id] {
			continue
		}
		if word := l.word.And(^uint64(live)); word&live != 0 {
			b.total.Add(-inFlight(word))
		}
		if inFlight(l.word.Load()) == 0 {
			delete(b.loads, id)
		}
	}
	for i, n := range of.nodes {
		l := b.loads[n.ID]
		if l == nil {
			l = new(load)
			if reached[n.ID] {
				b.loads[n.ID] = l
			}
		}
		if reached[n.ID] {
			if word := l.word.Or(live); word&live == 0 {
				b.total.Add(inFlight(word))
			}
		}
		s.loads[i] = l
	}
	b.state.Store(s)
	return s
}

// A Lease is a request in flight. A Lease is safe for concurrent use by multiple goroutines. Its
// methods have pointer receivers, and it must not be copied once it is used: a copy that is
// released, too, ends somebody else's request.
type Lease[T any] struct {
	member Member[T]
	total  *atomic.Int64
	load   *load // nil: of the zero value
	ended  atomic.Bool
}

// Value returns the value of the member that the request goes to.
func (l *Lease[T]) Value() T { return l.member.Value }

// Node returns the node that the request goes to.
func (l *Lease[T]) Node() Node { return l.member.Node }

// Release ends the request. Only the first call counts, also of several at the same time.
func (l *Lease[T]) Release() {
	if l.load == nil || l.ended.Swap(true) {
		return
	}
	for {
		word := l.load.word.Load()
		if inFlight(word) == 0 {
			return // a copy has been released before, and so has what took its place
		}
		if l.load.word.CompareAndSwap(word, word-1) {
			if word&live != 0 {
				l.total.Add(-1)
			}
			return
		}
	}
}

// Acquire chooses a member for a request for key, and counts it as in flight until Release of the
// Lease is called, which must not be forgotten: Do cannot forget it. It returns ErrNoNode if no
// member has weight. It takes O(1) while the owner has room, and allocates nothing.
func (b *Bounded[T]) Acquire(key string) (Lease[T], error) { return b.AcquireHash(b.m.Hash(key)) }

// AcquireBytes is Acquire for a key in a byte slice.
func (b *Bounded[T]) AcquireBytes(key []byte) (Lease[T], error) {
	return b.AcquireHash(b.m.HashBytes(key))
}

// AcquireHash is Acquire for the position of a key; see Map.GetHash.
func (b *Bounded[T]) AcquireHash(h uint64) (Lease[T], error) {
	total := b.total.Add(1) // this one included
	for {
		// While an update takes place, total is for a moment more than it should be, by what was on
		// a node that leaves, or less, by what is still on one that comes back: even less than 0.
		total = max(total, 1)
		s := b.current()
		if s.live == 0 {
			b.total.Add(-1)
			return Lease[T]{}, ErrNoNode
		}
		i, taken := s.take(h, total)
		if taken {
			return Lease[T]{member: s.of.members[i], total: &b.total, load: s.loads[i]}, nil
		}
		// The nodes have changed; or all were full, each when it was looked at. As the bounds for total
		// requests add up to total at least, and this request has no place yet, that can only be
		// if others have found places since total was read. So someone always gets on, and
		// this one tries again with what is now in flight.
		runtime.Gosched()
		total = b.total.Load()
	}
}

// take adds a request to the first node of the sequence that has room, when total are in flight. It
// reports false if none has, or the state is no longer valid.
func (s *boundedState[T]) take(h uint64, total int64) (node int, taken bool) {
	i := s.of.picker.Pick(h)
	taken, valid := s.claim(i, total)
	if taken || !valid {
		return i, taken
	}
	w := walks.Get().(*walk)
	defer walks.Put(w)
	seen := 1 // the owner
	for ask := min(listed, s.live); ; ask = min(s.growth*ask, s.live) {
		w.nodes = s.replicator.AppendN(w.nodes[:0], h, ask)
		for _, i := range w.nodes[min(seen, len(w.nodes)):] {
			if taken, valid := s.claim(int(i), total); taken || !valid {
				return int(i), taken
			}
		}
		if seen = ask; ask == s.live {
			return 0, false
		}
	}
}

// claim adds a request to node i if it has room for it.
//
// It has if its count would then be at most ceil(factor·total·weight / weights), that is, if the
// count is now less than the quotient. Look and add are one operation: to add first and take back
// what was too much would let others, meanwhile, find a node full that is not.
func (s *boundedState[T]) claim(i int, total int64) (taken, valid bool) {
	l := s.loads[i]
	hi, lo := bits.Mul64(uint64(total), s.share[i])
	for {
		word := l.word.Load()
		if word&live == 0 {
			return false, false
		}
		if h, l := bits.Mul64(uint64(inFlight(word)), s.unit); h > hi || h == hi && l >= lo {
			return false, true
		}
		if l.word.CompareAndSwap(word, word+1) {
			return true, true
		}
	}
}

// Do calls f with the value of a member that it acquires for key, and releases it when f returns or
// panics. It returns f's error, or ErrNoNode.
func (b *Bounded[T]) Do(key string, f func(T) error) error {
	l, err := b.Acquire(key)
	if err != nil {
		return err
	}
	defer l.Release()
	return f(l.Value())
}

// InFlight returns the number of requests in flight on the node with that ID, which may have been
// removed. It takes a lock.
func (b *Bounded[T]) InFlight(id string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.followLocked()
	if l := b.loads[id]; l != nil {
		return inFlight(l.word.Load())
	}
	return 0
}

// Total returns the number of requests in flight on the nodes that can be given more, and of those
// that are just being placed.
func (b *Bounded[T]) Total() int64 {
	b.current()
	return max(0, b.total.Load())
}
