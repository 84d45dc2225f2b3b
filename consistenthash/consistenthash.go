package consistenthash

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// A Member is a node of a Map, with what the Map returns for it: an address, a client, a pool.
type Member[T any] struct {
	Node
	Value T // what look-ups return
}

// A Config says what a Map is to be like. The zero value is a good default.
type Config[T any] struct {
	_ struct{}

	// Algorithm decides which node has which key. Nil: Slots(SlotsConfig{}). A Map keeps it for life.
	Algorithm Algorithm

	// Members are the first nodes, in any order. The slice is copied. Mind that a node of Weight 0
	// gets no keys.
	Members []Member[T]

	// Seed, if not 0, makes the positions of keys independent of those in maps with another seed.
	// Where one map decides which server a key goes to, and another one, on that server,
	// which of its parts, they should have different seeds: nodes that are called the same in both
	// would have the same keys, and nothing would be left for the others. Ketama, whose
	// positions are given, refuses one.
	Seed uint64
}

// A Map says which member has a key.
//
// A Map is safe for concurrent use by multiple goroutines. Reading takes no lock, and is
// linearizable: each call sees the members of one moment, all of an Update or nothing. The zero value
// cannot be used.
type Map[T any] struct {
	algorithm Algorithm
	seed      uint64
	state     atomic.Pointer[state[T]]

	mu sync.Mutex // held by who replaces state
}

// A state is the members of one moment. It is never changed.
type state[T any] struct {
	// What Get reads of Slots lies together.
	plain  bool     // whether picker is slots and has nodes, and keys are hashed without a seed
	shift  uint8    // of slots
	owner  []uint16 // of slots; nil if picker is something else, or has no nodes
	values []T      // of members

	picker      Picker
	hasher      KeyHasher // nil: XXH64
	seed        uint64
	members     []Member[T] // in order of ID
	nodes       []Node      // of members
	zones       []int32     // the zone of each node, numbered
	zoneSizes   []int32     // nodes with weight in each zone
	active      int         // nodes with weight
	fingerprint uint64
}

// New returns a Map. It returns an error if a member has no ID, or two the same (ErrDuplicate), if the
// algorithm's parameters are out of range, if it does not take as many members, or such weights, and
// if it is a KeyHasher and there is a Seed.
func New[T any](c Config[T]) (*Map[T], error) {
	m := &Map[T]{algorithm: c.Algorithm, seed: c.Seed}
	if m.algorithm == nil {
		m.algorithm = Slots(SlotsConfig{})
	}
	if _, ok := m.algorithm.(KeyHasher); ok && m.seed != 0 {
		return nil, fmt.Errorf("consistenthash: Seed must be 0 with an algorithm that hashes keys itself, got %d", m.seed)
	}
	members := slices.Clone(c.Members)
	slices.SortStableFunc(members, func(a, b Member[T]) int { return cmp.Compare(a.ID, b.ID) })
	s, err := m.build(nil, members)
	if err != nil {
		return nil, err
	}
	m.state.Store(s)
	return m, nil
}

// build returns a state of members, which are in order of ID and are not copied. prev may be nil.
func (m *Map[T]) build(prev *state[T], members []Member[T]) (*state[T], error) {
	s := &state[T]{seed: m.seed, members: members, nodes: make([]Node, len(members)), zones: make([]int32, len(members)), values: make([]T, len(members))}
	s.hasher, _ = m.algorithm.(KeyHasher)
	numbers := make(map[string]int32)
	for i := range members {
		n := members[i].Node
		if n.ID == "" {
			return nil, errEmptyID
		}
		if i > 0 && n.ID == members[i-1].ID {
			return nil, fmt.Errorf("consistenthash: node %q: %w", n.ID, ErrDuplicate)
		}
		s.nodes[i], s.values[i] = n, members[i].Value
		zone, ok := numbers[n.Zone]
		if !ok {
			zone = int32(len(numbers))
			numbers[n.Zone] = zone
			s.zoneSizes = append(s.zoneSizes, 0)
		}
		s.zones[i] = zone
		if n.Weight > 0 {
			s.active++
			s.zoneSizes[zone]++
		}
	}
	var err error
	rebuilder, ok := m.algorithm.(Rebuilder)
	switch {
	case prev != nil && samePlacement(prev.picker, prev.nodes, s.nodes):
		s.picker = prev.picker
	case prev != nil && ok:
		s.picker, err = rebuilder.Rebuild(prev.picker, slices.Clone(s.nodes))
	default:
		s.picker, err = m.algorithm.Build(slices.Clone(s.nodes))
	}
	if err != nil {
		return nil, err
	}
	if s.picker == nil {
		return nil, fmt.Errorf("consistenthash: %T made no Picker", m.algorithm)
	}
	if p, ok := s.picker.(*slots); ok && len(p.owner) > 0 {
		s.owner, s.shift, s.plain = p.owner, p.shift, m.seed == 0 && s.hasher == nil
	}
	s.fingerprint = m.digest(s.nodes)
	return s, nil
}

// samePlacement reports whether p, made of a, is what the algorithm would make of b. The package's own
// look at IDs and weights alone; zones are for GetN. Others may look at all.
func samePlacement(p Picker, a, b []Node) bool {
	switch p.(type) {
	case *slots, *ring, *rendezvous, *maglev:
	default:
		return slices.Equal(a, b)
	}
	return slices.EqualFunc(a, b, func(a, b Node) bool { return a.ID == b.ID && a.Weight == b.Weight })
}

// digest returns the fingerprint of nodes.
func (m *Map[T]) digest(nodes []Node) uint64 {
	d := xxhash.New()
	var buffer [8]byte
	number := func(n uint64) {
		binary.LittleEndian.PutUint64(buffer[:], n)
		d.Write(buffer[:])
	}
	text := func(s string) {
		number(uint64(len(s)))
		d.WriteString(s)
	}
	text(hashVersion)
	text(m.name())
	number(m.seed)
	for i := range nodes {
		text(nodes[i].ID)
		number(uint64(nodes[i].Weight))
		text(nodes[i].Zone)
	}
	return d.Sum64()
}

// Get returns the value of the member that has key; false if no member has weight. It takes the
// algorithm's time for one Pick beside that of XXH64 of the key, and allocates nothing. Owner returns
// the member itself.
func (m *Map[T]) Get(key string) (T, bool) {
	s := m.state.Load()
	if s.plain { // get and hash, written out for the usual case
		h := xxhash.Sum64String(key)
		return s.values[s.owner[h>>(s.shift&63)]], true
	}
	return s.get(s.hash(key))
}

// GetBytes is Get for a key in a byte slice.
func (m *Map[T]) GetBytes(key []byte) (T, bool) {
	s := m.state.Load()
	return s.get(s.hashBytes(key))
}

// GetHash is Get for the position of a key: what Hash or HashUint64 of the map returned, or any number
// whose 64 bits, above all the upper ones, are random. Numbers that are not must be hashed, or
// all small ones will have the same owner.
func (m *Map[T]) GetHash(h uint64) (T, bool) {
	return m.state.Load().get(h)
}

// Owner returns the member that has the key at position h, as Owner(Hash(key)), with its ID and zone;
// false if no member has weight.
func (m *Map[T]) Owner(h uint64) (Member[T], bool) {
	s := m.state.Load()
	i := s.picker.Pick(h)
	if i < 0 {
		return Member[T]{}, false
	}
	return s.members[i], true
}

func (s *state[T]) get(h uint64) (T, bool) {
	if s.owner != nil {
		return s.values[s.owner[h>>(s.shift&63)]], true
	}
	i := s.picker.Pick(h)
	if i < 0 {
		var none T
		return none, false
	}
	return s.values[i], true
}

// Hash returns the position of key, which Get(key) looks up: XXH64 with seed 0, mixed with Seed if
// that is not 0; or what the algorithm makes it, if it is a KeyHasher.
func (m *Map[T]) Hash(key string) uint64 { return m.state.Load().hash(key) }

// HashBytes is Hash for a key in a byte slice.
func (m *Map[T]) HashBytes(key []byte) uint64 { return m.state.Load().hashBytes(key) }

// HashUint64 is Hash for a key that is a number. It has nothing to do with the decimal digits of the
// number as a key, nor with a KeyHasher.
func (m *Map[T]) HashUint64(key uint64) uint64 {
	h := HashUint64(key)
	if m.seed != 0 {
		h = mix(h ^ m.seed)
	}
	return h
}

func (s *state[T]) hash(key string) uint64 {
	if s.hasher != nil {
		return s.hasher.HashKey(view(key))
	}
	h := xxhash.Sum64String(key)
	if s.seed != 0 {
		h = mix(h ^ s.seed)
	}
	return h
}

func (s *state[T]) hashBytes(key []byte) uint64 {
	if s.hasher != nil {
		return s.hasher.HashKey(key)
	}
	h := xxhash.Sum64(key)
	if s.seed != 0 {
		h = mix(h ^ s.seed)
	}
	return h
}

// Members returns the members in order of ID, as a copy.
func (m *Map[T]) Members() []Member[T] { return slices.Clone(m.state.Load().members) }

// A Share is what a node has of all positions, and of all keys as far as their positions are random.
type Share struct {
	Node
	Part float64 // from 0 to 1
	Fair float64 // what it would have by its weight
}

// Shares returns the share of each member, in order of ID, exactly; nil if the map is not Ranged.
// O(slots, points or entries).
func (m *Map[T]) Shares() []Share {
	s := m.state.Load()
	r, ok := s.picker.(Ranger)
	if !ok {
		return nil
	}
	shares := make([]Share, len(s.nodes))
	total := 0.0
	for i, n := range s.nodes {
		shares[i].Node = n
		total += float64(n.Weight)
	}
	for i, n := range s.nodes {
		if n.Weight > 0 {
			shares[i].Fair = float64(n.Weight) / total
		}
	}
	var first uint64
	for last, i := range r.Ranges() {
		shares[i].Part += Move{First: first, Last: last}.Share()
		first = last + 1
	}
	return shares
}

// Len returns the number of members, those of weight 0 included.
func (m *Map[T]) Len() int { return len(m.state.Load().members) }

// String returns the algorithm, the number of members and the fingerprint, to be read by people.
func (m *Map[T]) String() string {
	s := m.state.Load()
	return fmt.Sprintf("%s, %d members, fingerprint %016x", m.name(), len(s.members), s.fingerprint)
}

// name returns what stands for the algorithm in Fingerprint.
func (m *Map[T]) name() string {
	if named, ok := m.algorithm.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", m.algorithm)
}

// Fingerprint returns a hash of all that decides where keys are: the algorithm with its parameters,
// the version of the hashing, Seed, and the nodes with their weights and zones. Processes whose
// maps have the same fingerprint place every key alike, so they can tell each other to find
// out whether they agree. Values are not in it.
func (m *Map[T]) Fingerprint() uint64 { return m.state.Load().fingerprint }
