package consistenthash

import (
	"fmt"
	"sync"
)

// A Placement says how GetN spreads replicas.
type Placement struct {
	_ struct{}

	// MaxPerZone is how many of the nodes may be in the same zone, at least 1. 0: any number.
	MaxPerZone int

	// Strict makes GetN return nothing, instead of what there is, if it cannot have all.
	Strict bool
}

// GetN appends to dst the values of n different members for key, in the order of the key's own
// sequence: the owner first, then those where replicas belong. With MaxPerZone, members of zones that
// have enough are passed over.
//
// If there are not enough members with weight, or not enough zones, it returns an error that wraps
// ErrTooFewNodes or ErrTooFewZones. With Strict, dst is then returned as it was. Otherwise all has
// been appended that there is: with too few zones, first those that MaxPerZone allows, then others,
// up to n. So whoever can do with less goes on with what has been appended, and may report the
// error.
//
// It allocates nothing if dst has room, but for the errors of Strict. With Slots it takes O(n) if the
// first eight of the sequence are enough, else O(members), and if the first 16 are not,
// O(members·log(members)); with Rendezvous the latter two; with Ring, Ketama and Maglev, the steps
// until enough different nodes, or zones, are met.
func (m *Map[T]) GetN(dst []T, key string, n int, p Placement) ([]T, error) {
	s := m.state.Load()
	return s.getN(dst, s.hash(key), n, p)
}

// GetNBytes is GetN for a key in a byte slice.
func (m *Map[T]) GetNBytes(dst []T, key []byte, n int, p Placement) ([]T, error) {
	s := m.state.Load()
	return s.getN(dst, s.hashBytes(key), n, p)
}

// GetNHash is GetN for the position of a key; see GetHash.
func (m *Map[T]) GetNHash(dst []T, h uint64, n int, p Placement) ([]T, error) {
	return m.state.Load().getN(dst, h, n, p)
}

// A walk is the memory that following a key's sequence takes.
type walk struct {
	nodes  []int32 // the sequence, as far as it is known
	chosen []int32
	used   []int32 // nodes chosen in each zone
}

var walks = sync.Pool{New: func() any { return new(walk) }}

func (s *state[T]) getN(dst []T, h uint64, n int, p Placement) ([]T, error) {
	if n < 0 {
		return dst, fmt.Errorf("consistenthash: n must be at least 0, got %d", n)
	}
	if p.MaxPerZone < 0 {
		return dst, fmt.Errorf("consistenthash: MaxPerZone must be at least 0, got %d", p.MaxPerZone)
	}
	replicator, ok := s.picker.(Replicator)
	if !ok {
		return dst, fmt.Errorf("consistenthash: %T is no Replicator, so there is no GetN", s.picker)
	}
	w := walks.Get().(*walk)
	defer walks.Put(w)
	var nodes []int32
	var err error
	if p.MaxPerZone == 0 {
		w.nodes = replicator.AppendN(w.nodes[:0], h, min(n, s.active))
		nodes = w.nodes
	} else {
		nodes, err = s.spread(w, replicator, h, n, p.MaxPerZone)
	}
	if len(nodes) < n {
		err = ErrTooFewNodes
	}
	if err != nil && p.Strict {
		zones := 0
		for _, size := range s.zoneSizes {
			zones += min(int(size), 1)
		}
		return dst, fmt.Errorf("%w: n is %d, MaxPerZone %d, and %d nodes in %d zones have weight", err, n, p.MaxPerZone, s.active, zones)
	}
	for _, i := range nodes {
		dst = append(dst, s.members[i].Value)
	}
	return dst, err
}

// spread returns up to n nodes of the sequence of the key at h, first those for which no zone has more
// than most; it returns ErrTooFewZones if there are others among them. It looks at as much of the
// sequence as is needed, in parts that double.
func (s *state[T]) spread(w *walk, r Replicator, h uint64, n, most int) ([]int32, error) {
	n = min(n, s.active)
	possible := 0
	for _, size := range s.zoneSizes {
		possible += min(int(size), most)
	}
	w.chosen = w.chosen[:0]
	w.used = append(w.used[:0], s.zoneSizes...)
	clear(w.used)
	seen := 0
	for ask := n; ; ask = min(max(2*ask, listed), s.active) {
		w.nodes = r.AppendN(w.nodes[:0], h, ask)
		for _, i := range w.nodes[min(seen, len(w.nodes)):] {
			if len(w.chosen) < n && int(w.used[s.zones[i]]) < most {
				w.used[s.zones[i]]++
				w.chosen = append(w.chosen, i)
			}
		}
		if len(w.chosen) >= min(n, possible) || len(w.nodes) < ask || ask >= s.active {
			break
		}
		seen = len(w.nodes)
	}
	if len(w.chosen) == n {
		return w.chosen, nil
	}
	// Those that were chosen are the first ones of each zone.
	clear(w.used)
	for _, i := range w.nodes {
		if len(w.chosen) == n {
			break
		}
		if used := &w.used[s.zones[i]]; int(*used) < most {
			*used++
		} else {
			w.chosen = append(w.chosen, i)
		}
	}
	return w.chosen, ErrTooFewZones
}
