package consistenthash

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

var underRace bool // see race_test.go

// fleet returns n members that are called prefix0 and so on, of weight 1, in three zones.
func fleet(prefix string, n int) []Member[string] {
	members := make([]Member[string], n)
	for i := range members {
		id := fmt.Sprint(prefix, i)
		members[i] = Member[string]{Node{ID: id, Weight: 1, Zone: fmt.Sprint("zone", i%3)}, id}
	}
	return members
}

// algorithms are those of the package, with their defaults.
func algorithms() []Algorithm {
	return []Algorithm{Slots(SlotsConfig{}), Ring(RingConfig{}), Rendezvous(), Maglev(0), Ketama()}
}

func newMap(t testing.TB, a Algorithm, members []Member[string]) *Map[string] {
	t.Helper()
	m, err := New(Config[string]{Algorithm: a, Members: members})
	require.NoError(t, err)
	return m
}

func update(t testing.TB, m *Map[string], f func(*Tx[string]) error) {
	t.Helper()
	require.NoError(t, m.Update(f))
}

func TestGet(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, fleet("server", 10))
		for i := range 1000 {
			key := fmt.Sprint("key", i)
			want, ok := m.Get(key)
			require.True(t, ok)
			got, ok := m.GetBytes([]byte(key))
			require.True(t, ok)
			require.Equal(t, want, got)
			require.Equal(t, m.Hash(key), m.HashBytes([]byte(key)))
			got, ok = m.GetHash(m.Hash(key))
			require.True(t, ok)
			require.Equal(t, want, got)
			member, ok := m.Owner(m.Hash(key))
			require.True(t, ok)
			require.Equal(t, want, member.ID)
			require.Equal(t, want, member.Value)
			for _, get := range []func() ([]string, error){
				func() ([]string, error) { return m.GetN(nil, key, 3, Placement{}) },
				func() ([]string, error) { return m.GetNBytes(nil, []byte(key), 3, Placement{}) },
				func() ([]string, error) { return m.GetNHash(nil, m.Hash(key), 3, Placement{}) },
			} {
				three, err := get()
				require.NoError(t, err)
				require.Equal(t, want, three[0])
				require.Len(t, three, 3)
			}
		}
	}
}

// TestFewNodes has no node, drained ones only, and a single one.
func TestFewNodes(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, nil)
		nothing := func() {
			t.Helper()
			_, ok := m.Get("key")
			require.False(t, ok)
			_, ok = m.GetHash(math.MaxUint64)
			require.False(t, ok)
			_, ok = m.Owner(0)
			require.False(t, ok)
			some, err := m.GetN(nil, "key", 1, Placement{})
			require.ErrorIs(t, err, ErrTooFewNodes)
			require.Empty(t, some)
			_, err = m.GetN(nil, "key", 1, Placement{MaxPerZone: 1})
			require.ErrorIs(t, err, ErrTooFewNodes)
			some, err = m.GetN(nil, "key", 0, Placement{MaxPerZone: 1, Strict: true})
			require.NoError(t, err)
			require.Empty(t, some)
			for range m.state.Load().picker.(Replicator).Seq(0) {
				t.Fatal("a sequence of no nodes")
			}
			b, err := NewBounded(m, BoundedConfig{})
			require.NoError(t, err)
			_, err = b.Acquire("key")
			require.ErrorIs(t, err, ErrNoNode)
			require.Zero(t, b.Total())
		}
		nothing()
		require.Zero(t, m.Len())
		update(t, m, func(tx *Tx[string]) error {
			return errors.Join(tx.Add(Member[string]{Node{ID: "a"}, "a"}), tx.Add(Member[string]{Node{ID: "b"}, "b"}))
		})
		nothing()
		require.Equal(t, 2, m.Len())
		update(t, m, func(tx *Tx[string]) error { return tx.SetWeight("b", 2) })
		for i := range uint64(100) {
			v, ok := m.GetHash(HashUint64(i))
			require.True(t, ok)
			require.Equal(t, "b", v)
			some, err := m.GetNHash(nil, i, 2, Placement{})
			require.ErrorIs(t, err, ErrTooFewNodes)
			require.Equal(t, []string{"b"}, some)
		}
	}
}

func TestHash(t *testing.T) {
	m := newMap(t, nil, fleet("server", 3))
	require.Equal(t, xxhash.Sum64String("key"), m.Hash("key"))
	seeded, err := New(Config[string]{Seed: 7, Members: fleet("server", 3)})
	require.NoError(t, err)
	require.Equal(t, mix(xxhash.Sum64String("key")^7), seeded.Hash("key"))
	require.Equal(t, seeded.Hash("key"), seeded.HashBytes([]byte("key")))
	require.NotEqual(t, m.Fingerprint(), seeded.Fingerprint())

	require.Equal(t, HashUint64(5), m.HashUint64(5))
	require.Equal(t, mix(HashUint64(5)^7), seeded.HashUint64(5))

	// Small numbers are spread.
	counts := map[string]int{}
	for i := range uint64(3000) {
		v, _ := m.GetHash(HashUint64(i))
		counts[v]++
	}
	require.Len(t, counts, 3)
	for _, n := range counts {
		require.InDelta(t, 1000, n, 6*math.Sqrt(1000))
	}
}

// TestSeedsInLayers places keys by one map on servers and there, by another one, on parts that are
// called the same.
func TestSeedsInLayers(t *testing.T) {
	for _, a := range []Algorithm{Slots(SlotsConfig{}), Ring(RingConfig{VirtualNodes: 1000}), Rendezvous(), Maglev(0)} {
		outer := newMap(t, a, fleet("node", 4))
		count := func(seed uint64) map[string]int {
			inner, err := New(Config[string]{Seed: seed, Algorithm: a, Members: fleet("node", 4)})
			require.NoError(t, err)
			parts := map[string]int{}
			for i := range 40000 {
				key := fmt.Sprint("key", i)
				if server, _ := outer.Get(key); server == "node0" {
					part, _ := inner.Get(key)
					parts[part]++
				}
			}
			return parts
		}
		require.Len(t, count(0), 1)
		parts := count(1)
		require.Len(t, parts, 4)
		for _, n := range parts {
			require.InDelta(t, 2500, n, 600)
		}
	}
}

func TestMembers(t *testing.T) {
	members := fleet("server", 12)
	m := newMap(t, nil, members)
	members[3].ID = "changed by the caller"
	got := m.Members()
	require.Len(t, got, 12)
	require.Equal(t, 12, m.Len())
	require.True(t, slices.IsSortedFunc(got, func(a, b Member[string]) int { return compare(a.ID, b.ID) }))
	got[0].ID = "changed by the caller"
	require.Equal(t, "server0", m.Members()[0].ID)
}

func compare(a, b string) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func TestInvalid(t *testing.T) {
	many := make([]Node, maxNodes+1)
	for i := range many {
		many[i] = Node{ID: fmt.Sprint(i), Weight: 1}
	}
	one := []Node{{ID: "a", Weight: 1}}
	for _, c := range []struct {
		algorithm Algorithm
		nodes     []Node
		want      string
	}{
		{Slots(SlotsConfig{Slots: -1}), one, "consistenthash: Slots must be a power of two from 256 to 1048576, got -1"},
		{Slots(SlotsConfig{Slots: 128}), one, "consistenthash: Slots must be a power of two from 256 to 1048576, got 128"},
		{Slots(SlotsConfig{Slots: 1000}), one, "consistenthash: Slots must be a power of two from 256 to 1048576, got 1000"},
		{Slots(SlotsConfig{Slots: 1 << 21}), one, "consistenthash: Slots must be a power of two from 256 to 1048576, got 2097152"},
		{Slots(SlotsConfig{LoadFactor: 0.99}), one, "consistenthash: LoadFactor must be from 1 to 1000, got 0.99"},
		{Slots(SlotsConfig{LoadFactor: -1}), one, "consistenthash: LoadFactor must be from 1 to 1000, got -1"},
		{Slots(SlotsConfig{LoadFactor: 1001}), one, "consistenthash: LoadFactor must be from 1 to 1000, got 1001"},
		{Slots(SlotsConfig{LoadFactor: math.NaN()}), one, "consistenthash: LoadFactor must be from 1 to 1000, got NaN"},
		{Slots(SlotsConfig{}), many[:65536], "consistenthash: Slots takes at most 65535 nodes, got 65536"},
		{Ring(RingConfig{VirtualNodes: -1}), one, "consistenthash: VirtualNodes must be from 1 to 65536, got -1"},
		{Ring(RingConfig{VirtualNodes: 65537}), one, "consistenthash: VirtualNodes must be from 1 to 65536, got 65537"},
		{Ring(RingConfig{}), []Node{{ID: "a", Weight: 1 << 17}}, `consistenthash: Ring takes at most 16777216 points, got more: VirtualNodes is 160, WeightUnit 1, and node "a" has weight 131072`},
		{Ring(RingConfig{VirtualNodes: 65536}), []Node{{ID: "a", Weight: math.MaxUint32}}, `consistenthash: Ring takes at most 16777216 points, got more: VirtualNodes is 65536, WeightUnit 1, and node "a" has weight 4294967295`},
		{Maglev(-1), one, "consistenthash: Maglev's size must be a prime from 2 to 16777213, got -1"},
		{Maglev(65536), one, "consistenthash: Maglev's size must be a prime from 2 to 16777213, got 65536"},
		{Maglev(1), one, "consistenthash: Maglev's size must be a prime from 2 to 16777213, got 1"},
		{Maglev(16777259), one, "consistenthash: Maglev's size must be a prime from 2 to 16777213, got 16777259"},
		{Maglev(7), many[:8], "consistenthash: Maglev takes at most 7 nodes with a size of 7, got 8"},
		{Maglev(0), many[:65536], "consistenthash: Maglev takes at most 65535 nodes with a size of 65537, got 65536"},
		{Ketama(), many[:104858], "consistenthash: Ketama takes at most 16777216 points, got 16777280 with 104858 nodes"},
	} {
		_, err := c.algorithm.Build(c.nodes)
		require.EqualError(t, err, c.want)
	}
	for _, a := range algorithms() {
		_, err := a.Build([]Node{{ID: "b", Weight: 1}, {ID: "", Weight: 1}})
		require.EqualError(t, err, "consistenthash: ID must not be empty")
		_, err = a.Build([]Node{{ID: "b", Weight: 1}, {ID: "a", Weight: 1}, {ID: "b", Weight: 2}})
		require.EqualError(t, err, `consistenthash: node "b": ID is there already`)
		require.ErrorIs(t, err, ErrDuplicate)
		_, err = New(Config[string]{Algorithm: a, Members: append(fleet("x", 2), fleet("x", 1)...)})
		require.ErrorIs(t, err, ErrDuplicate)
		_, err = New(Config[string]{Algorithm: a, Members: []Member[string]{{}}})
		require.EqualError(t, err, "consistenthash: ID must not be empty")
	}
	_, err := Rendezvous().Build(many)
	require.EqualError(t, err, "consistenthash: there may be at most 131072 nodes, got 131073")
	_, err = New(Config[string]{Algorithm: pickless{}})
	require.EqualError(t, err, "consistenthash: consistenthash.pickless made no Picker")
	_, err = NewBounded[string](nil, BoundedConfig{})
	require.EqualError(t, err, "consistenthash: NewBounded needs a Map, got nil")
	_, err = New(Config[string]{Algorithm: Ketama(), Seed: 1})
	require.EqualError(t, err, "consistenthash: Seed must be 0 with an algorithm that hashes keys itself, got 1")
}

// TestUpdateAllOrNothing makes changes fail in every way, and requires that nothing has changed.
func TestUpdateAllOrNothing(t *testing.T) {
	m := newMap(t, Ring(RingConfig{}), fleet("server", 3))
	before, members := m.Fingerprint(), m.Members()
	add := func(tx *Tx[string]) {
		require.NoError(t, tx.Add(Member[string]{Node{ID: "new", Weight: 1}, "new"}))
		require.NoError(t, tx.Remove("server1"))
		require.NoError(t, tx.SetWeight("server0", 5))
		require.Equal(t, 3, tx.Len())
	}
	mine := errors.New("mine")
	for _, c := range []struct {
		f    func(*Tx[string]) error
		want string
	}{
		{func(tx *Tx[string]) error { add(tx); return mine }, "mine"},
		{func(tx *Tx[string]) error { add(tx); return tx.Remove("unknown") }, `consistenthash: node "unknown": no node has this ID`},
		// An error that is dropped still counts, and the first of several.
		{func(tx *Tx[string]) error { add(tx); _ = tx.Remove("server1"); _ = tx.Remove("x"); return nil }, `consistenthash: node "server1": no node has this ID`},
		{func(tx *Tx[string]) error { add(tx); _ = tx.SetWeight("server1", 3); return nil }, `consistenthash: node "server1": no node has this ID`},
		{func(tx *Tx[string]) error { add(tx); _ = tx.Add(Member[string]{Node: Node{ID: "new"}}); return nil }, `consistenthash: node "new": ID is there already`},
		{func(tx *Tx[string]) error { add(tx); _ = tx.Set(Member[string]{}); return nil }, "consistenthash: ID must not be empty"},
		{func(tx *Tx[string]) error { add(tx); _ = tx.Add(Member[string]{}); return nil }, "consistenthash: ID must not be empty"},
		// The algorithm refuses what has come about.
		{func(tx *Tx[string]) error { add(tx); return tx.SetWeight("server2", 1<<30) }, `consistenthash: Ring takes at most 16777216 points, got more: VirtualNodes is 160, WeightUnit 1, and node "server2" has weight 1073741824`},
	} {
		require.EqualError(t, m.Update(c.f), c.want)
		require.Equal(t, before, m.Fingerprint())
		require.Equal(t, members, m.Members())
	}
	require.PanicsWithValue(t, "mine", func() { _ = m.Update(func(tx *Tx[string]) error { add(tx); panic("mine") }) })
	require.Equal(t, members, m.Members())

	var kept *Tx[string]
	update(t, m, func(tx *Tx[string]) error { kept = tx; add(tx); return nil })
	require.NotEqual(t, before, m.Fingerprint())
	members = m.Members()
	const used = "consistenthash: Tx used after Update"
	require.EqualError(t, kept.Add(Member[string]{Node: Node{ID: "late"}}), used)
	require.EqualError(t, kept.Set(Member[string]{Node: Node{ID: "late"}}), used)
	require.EqualError(t, kept.Remove("new"), used)
	require.EqualError(t, kept.SetWeight("new", 3), used)
	kept.Clear()
	_, ok := kept.Get("new")
	require.False(t, ok)
	require.Equal(t, members, m.Members())
}

func TestUpdate(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, fleet("server", 5))
		before, picker := m.Fingerprint(), m.state.Load().picker
		// What only changes values leaves the placement, what changes zones the owners.
		update(t, m, func(tx *Tx[string]) error {
			x, ok := tx.Get("server1")
			require.True(t, ok)
			x.Value = "new value"
			return tx.Set(x)
		})
		require.Equal(t, before, m.Fingerprint())
		require.Same(t, picker, m.state.Load().picker)
		require.Equal(t, "new value", m.Members()[1].Value)
		update(t, m, func(tx *Tx[string]) error {
			x, _ := tx.Get("server1")
			x.Zone = "elsewhere"
			return tx.Set(x)
		})
		require.NotEqual(t, before, m.Fingerprint())
		require.Same(t, picker, m.state.Load().picker)

		// A whole list replaces another.
		update(t, m, func(tx *Tx[string]) error {
			tx.Clear()
			require.Zero(t, tx.Len())
			_, ok := tx.Get("server1")
			require.False(t, ok)
			_, ok = tx.Get("")
			require.False(t, ok)
			for _, x := range fleet("server", 5) {
				if err := tx.Set(x); err != nil {
					return err
				}
			}
			return nil
		})
		require.Equal(t, before, m.Fingerprint())

		// What comes and goes leaves nothing behind.
		update(t, m, func(tx *Tx[string]) error { return tx.Add(Member[string]{Node{ID: "new", Weight: 3}, "new"}) })
		require.NotEqual(t, before, m.Fingerprint())
		update(t, m, func(tx *Tx[string]) error { return tx.Remove("new") })
		require.Equal(t, before, m.Fingerprint())
		for i := range 1000 {
			h := HashUint64(uint64(i))
			require.Equal(t, picker.Pick(h), m.state.Load().picker.Pick(h))
		}
	}
}

// TestFingerprint changes one thing at a time.
func TestFingerprint(t *testing.T) {
	seen := map[uint64]string{}
	add := func(name string, c Config[string]) {
		m, err := New(c)
		require.NoError(t, err)
		require.Equal(t, "", seen[m.Fingerprint()], "%s is like it", name)
		seen[m.Fingerprint()] = name
	}
	node := func(n ...Node) []Member[string] {
		var members []Member[string]
		for _, n := range n {
			members = append(members, Member[string]{Node: n})
		}
		return members
	}
	add("none", Config[string]{})
	add("a", Config[string]{Members: node(Node{ID: "a", Weight: 1})})
	add("weight", Config[string]{Members: node(Node{ID: "a", Weight: 2})})
	add("zone", Config[string]{Members: node(Node{ID: "a", Weight: 1, Zone: "z"})})
	add("name", Config[string]{Members: node(Node{ID: "az", Weight: 1})})
	add("two", Config[string]{Members: node(Node{ID: "a", Weight: 1}, Node{ID: "b", Weight: 1})})
	add("drained", Config[string]{Members: node(Node{ID: "a", Weight: 1}, Node{ID: "b"})})
	add("seed", Config[string]{Seed: 1, Members: node(Node{ID: "a", Weight: 1})})
	for i, a := range []Algorithm{
		Slots(SlotsConfig{Slots: 1024}), Slots(SlotsConfig{LoadFactor: 1.0501}), Ring(RingConfig{}), Ring(RingConfig{VirtualNodes: 161}),
		Ring(RingConfig{WeightUnit: 2}), Maglev(0), Maglev(257), Rendezvous(), Ketama(), foreign{}, &foreign{},
	} {
		add(fmt.Sprint(i, a), Config[string]{Algorithm: a, Members: node(Node{ID: "a", Weight: 1})})
	}
	same, err := New(Config[string]{Algorithm: Slots(SlotsConfig{Slots: 65536, LoadFactor: 1.05}), Members: node(Node{ID: "a", Weight: 1})})
	require.NoError(t, err)
	require.Equal(t, "a", seen[same.Fingerprint()], "defaults, written out, are the same")
}

// foreign is somebody else's algorithm, with nothing optional.
type foreign struct{}

func (foreign) Build(nodes []Node) (Picker, error) {
	for i := range nodes {
		nodes[i].ID = "changed" // is its own copy
	}
	return foreignPicker(len(nodes)), nil
}

type foreignPicker int

func (p foreignPicker) Pick(h uint64) int {
	if p == 0 {
		return -1
	}
	return int(h % uint64(p))
}

// foreignHasher hashes in its own way, too.
type foreignHasher struct{ foreign }

func (foreignHasher) HashKey(key []byte) uint64 { return uint64(len(key)) }

func TestForeignAlgorithm(t *testing.T) {
	m := newMap(t, foreign{}, fleet("server", 3))
	v, ok := m.GetHash(4)
	require.True(t, ok)
	require.Equal(t, "server1", v)
	require.Equal(t, "server1", m.Members()[1].ID)
	_, err := m.GetN(nil, "key", 2, Placement{})
	require.EqualError(t, err, "consistenthash: consistenthash.foreignPicker is no Replicator, so there is no GetN")
	_, err = NewBounded(m, BoundedConfig{})
	require.EqualError(t, err, "consistenthash: consistenthash.foreignPicker is no Replicator, which NewBounded needs")
	require.False(t, m.Ranged())
	require.Panics(t, func() { Diff(m, m) })
	update(t, m, func(tx *Tx[string]) error { return tx.Remove("server0") })
	v, _ = m.GetHash(4)
	require.Equal(t, "server1", v)

	h := newMap(t, foreignHasher{}, fleet("server", 3))
	v, _ = h.Get("four")
	require.Equal(t, "server1", v)
	v, _ = h.GetBytes([]byte("12345"))
	require.Equal(t, "server2", v)
	require.Panics(t, func() { DiffKeys(m, h, slices.Values([]uint64{1})) })
}

// pickless builds nothing.
type pickless struct{}

func (pickless) Build([]Node) (Picker, error) { return nil, nil }

// moody refuses to be rebuilt.
type moody struct{ foreign }

var errMood = errors.New("not today")

func (moody) Rebuild(Picker, []Node) (Picker, error) { return nil, errMood }

func TestRebuildFails(t *testing.T) {
	m := newMap(t, moody{}, fleet("server", 3))
	before := m.Members()
	require.Equal(t, errMood, m.Update(func(tx *Tx[string]) error { return tx.Remove("server1") }))
	require.Equal(t, before, m.Members())
	v, ok := m.GetHash(1)
	require.True(t, ok)
	require.Equal(t, "server1", v)
}

// byLength hashes in its own way, and places by Slots.
type byLength struct{ Algorithm }

func (byLength) HashKey(key []byte) uint64 { return HashUint64(uint64(len(key))) }

func TestKeyHasherOverSlots(t *testing.T) {
	m := newMap(t, byLength{Slots(SlotsConfig{})}, fleet("server", 9))
	key := ""
	for range 100 {
		key += "x"
		want, _ := m.GetHash(HashUint64(uint64(len(key))))
		a, _ := m.Get(key)
		b, _ := m.GetBytes([]byte(key))
		c, err := m.GetN(nil, key, 1, Placement{})
		require.NoError(t, err)
		require.Equal(t, []string{want, want, want}, []string{a, b, c[0]})
	}
}

// primary places all keys on the node of that zone.
type primary struct{}

func (primary) Build(nodes []Node) (Picker, error) {
	for i, n := range nodes {
		if n.Zone == "primary" {
			return constantPicker(i), nil
		}
	}
	return constantPicker(-1), nil
}

type constantPicker int

func (p constantPicker) Pick(uint64) int { return int(p) }

func TestZonesOfForeignAlgorithms(t *testing.T) {
	m := newMap(t, primary{}, fleet("server", 3))
	_, ok := m.Get("key")
	require.False(t, ok)
	update(t, m, func(tx *Tx[string]) error {
		x, _ := tx.Get("server1")
		x.Zone = "primary"
		return tx.Set(x)
	})
	v, _ := m.Get("key")
	require.Equal(t, "server1", v)
}

func TestGetNErrors(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, append(fleet("server", 6), Member[string]{Node: Node{ID: "drained", Zone: "zone9"}}))
		have := []string{"first"}

		got, err := m.GetN(have, "key", -1, Placement{})
		require.EqualError(t, err, "consistenthash: n must be at least 0, got -1")
		require.Equal(t, have, got)
		got, err = m.GetN(have, "key", 1, Placement{MaxPerZone: -1})
		require.EqualError(t, err, "consistenthash: MaxPerZone must be at least 0, got -1")
		require.Equal(t, have, got)

		// More than there are.
		for _, most := range []int{0, 2, 100, math.MaxInt} {
			got, err = m.GetN(have, "key", 7, Placement{MaxPerZone: most})
			require.ErrorIs(t, err, ErrTooFewNodes)
			require.Equal(t, "first", got[0])
			require.ElementsMatch(t, []string{"server0", "server1", "server2", "server3", "server4", "server5"}, got[1:])
			got, err = m.GetN(have, "key", math.MaxInt, Placement{MaxPerZone: most, Strict: true})
			require.ErrorIs(t, err, ErrTooFewNodes)
			require.ErrorContains(t, err, "and 6 nodes in 3 zones have weight")
			require.Equal(t, have, got)
		}
		// More than the zones allow.
		got, err = m.GetN(have, "key", 4, Placement{MaxPerZone: 1, Strict: true})
		require.ErrorIs(t, err, ErrTooFewZones)
		require.Equal(t, have, got)
		got, err = m.GetN(nil, "key", 4, Placement{MaxPerZone: 1})
		require.ErrorIs(t, err, ErrTooFewZones)
		require.Len(t, got, 4)
		require.Len(t, zonesOf(m, got[:3]), 3, "first what is allowed")
		require.Len(t, unique(got), 4)
		got, err = m.GetN(nil, "key", 6, Placement{MaxPerZone: 2, Strict: true})
		require.NoError(t, err)
		require.Len(t, unique(got), 6)
	}
}

func unique(s []string) []string {
	s = slices.Sorted(slices.Values(s))
	return slices.Compact(s)
}

func zonesOf(m *Map[string], ids []string) map[string]int {
	zones := map[string]int{}
	for _, x := range m.Members() {
		if slices.Contains(ids, x.ID) {
			zones[x.Zone]++
		}
	}
	return zones
}

// TestPlacement compares GetN with what follows from the whole sequence.
func TestPlacement(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	rounds := 20
	if underRace {
		rounds = 4
	}
	for _, a := range algorithms() {
		for range rounds {
			members := fleet("server", 1+rng.IntN(40))
			zones := 1 + rng.IntN(5)
			for i := range members {
				members[i].Zone = fmt.Sprint(rng.IntN(zones))
				members[i].Weight = uint32(rng.IntN(4))
			}
			m := newMap(t, a, members)
			s := m.state.Load()
			for range 40 {
				h, n, most := rng.Uint64(), rng.IntN(12), 1+rng.IntN(3)
				var allowed, others []string
				used := map[string]int{}
				for i := range s.picker.(Replicator).Seq(h) {
					x := s.members[i]
					if used[x.Zone] < most {
						used[x.Zone]++
						allowed = append(allowed, x.ID)
					} else {
						others = append(others, x.ID)
					}
				}
				all := slices.Concat(allowed, others)
				var want error
				if n > len(all) {
					want = ErrTooFewNodes
				} else if n > len(allowed) {
					want = ErrTooFewZones
				}
				if len(allowed) > n {
					all = allowed
				}
				got, err := m.GetNHash(nil, h, n, Placement{MaxPerZone: most})
				require.Equal(t, want, err)
				require.Equal(t, append([]string(nil), all[:min(n, len(all))]...), got)
				strict, err := m.GetNHash(nil, h, n, Placement{MaxPerZone: most, Strict: true})
				require.ErrorIs(t, err, want)
				if want == nil {
					require.Equal(t, got, strict)
				} else {
					require.Empty(t, strict)
				}
			}
		}
	}
}

// TestNothingMovesWithoutNeed holds Ring and Rendezvous to it exactly, and Jump.
func TestNothingMovesWithoutNeed(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	rounds := 60
	if underRace {
		rounds = 8
	}
	for _, a := range []Algorithm{Ring(RingConfig{}), Ring(RingConfig{VirtualNodes: 50, WeightUnit: 3}), Rendezvous(), Slots(SlotsConfig{LoadFactor: 1000})} {
		members := fleet("10.0.0.", 30)
		for i := range members {
			members[i].Weight = uint32(rng.IntN(9))
		}
		m := newMap(t, a, members)
		for range rounds {
			before := m.Members()
			old, err := New(Config[string]{Algorithm: a, Members: before})
			require.NoError(t, err)
			id := fmt.Sprint("10.0.0.", rng.IntN(35))
			var was, is uint32
			update(t, m, func(tx *Tx[string]) error {
				x, ok := tx.Get(id)
				was, is = x.Weight, uint32(rng.IntN(9))
				if !ok {
					return tx.Add(Member[string]{Node{ID: id, Weight: is}, id})
				}
				if rng.IntN(2) == 0 {
					is = 0
					return tx.Remove(id)
				}
				return tx.SetWeight(id, is)
			})
			moved := 0
			for move := range movesOf(old, m, rng) {
				moved++
				if is > was {
					require.Equal(t, id, move.To)
				} else {
					require.Equal(t, id, move.From)
				}
			}
			require.Equal(t, was != is, moved > 0)
		}
	}
	for range 20000 {
		h, n := rng.Uint64(), 1+rng.IntN(2000)
		if a, b := Jump(h, n), Jump(h, n+1); a != b {
			require.Equal(t, n, b)
		}
	}
}

func movesOf(from, to *Map[string], rng *rand.Rand) iter.Seq[Move] {
	if from.Ranged() {
		return Diff(from, to)
	}
	return DiffKeys(from, to, func(yield func(uint64) bool) {
		for range 20000 {
			if !yield(rng.Uint64()) {
				return
			}
		}
	})
}

// TestJump has the vectors of the paper's reference implementation that are published with its ports.
func TestJump(t *testing.T) {
	for _, v := range []struct {
		key  uint64
		n    int
		want int
	}{
		{1, 1, 0}, {42, 57, 43}, {0xdead10cc, 1, 0}, {0xdead10cc, 666, 361}, {256, 1024, 520},
		{0, -10, -1}, {5, 0, -1},
	} {
		require.Equal(t, v.want, Jump(v.key, v.n), "%v", v)
	}
	for h := range uint64(100000) {
		b := Jump(HashUint64(h), math.MaxInt) // ends
		require.True(t, b >= 0 && b < math.MaxInt)
	}
}

// TestKetama has the counts that libketama gives.
func TestKetama(t *testing.T) {
	m := newMap(t, Ketama(), fleet("server", 10))
	counts := map[string]int{}
	for i := range 100000 {
		v, ok := m.Get(fmt.Sprint("foo", i))
		require.True(t, ok)
		counts[v]++
	}
	for i, want := range []int{9478, 9029, 10863, 10011, 9734, 9444, 10756, 10021, 10762, 9902} {
		require.Equal(t, want, counts[fmt.Sprint("server", i)])
	}
	// Keys at the same 32 bits as a point are the point's, whatever follows.
	r := m.state.Load().picker.(*ring)
	for i, p := range r.points[:100] {
		require.Equal(t, r.Pick(p>>32<<32), r.Pick(p))
		require.Equal(t, int(r.owners[i]), r.Pick(p))
	}
	// A node too light for a point gets nothing, and is not in the way.
	m = newMap(t, Ketama(), []Member[string]{{Node{ID: "a", Weight: 1 << 30}, "a"}, {Node{ID: "b", Weight: 1}, "b"}})
	got, err := m.GetN(nil, "key", 2, Placement{})
	require.Equal(t, ErrTooFewNodes, err)
	require.Equal(t, []string{"a"}, got)
	b, err := NewBounded(m, BoundedConfig{LoadFactor: 1})
	require.NoError(t, err)
	for range 100 {
		_, err := b.Acquire("key")
		require.NoError(t, err)
	}
	require.EqualValues(t, 100, b.InFlight("a"))
}

// TestSimilarNames requires even load of nodes whose names differ little.
func TestSimilarNames(t *testing.T) {
	names := map[string]func(i int) string{
		"server":    func(i int) string { return fmt.Sprint("server", i) },
		"addresses": func(i int) string { return fmt.Sprintf("10.0.%d.%d:6379", i/250, i%250) },
		"ports":     func(i int) string { return fmt.Sprintf("127.0.0.1:%d", 7000+i) },
		"bytes":     func(i int) string { return string(rune('a' + i)) },
	}
	for name, f := range names {
		for _, a := range algorithms() {
			const n = 10
			var members []Member[string]
			for i := range n {
				members = append(members, Member[string]{Node{ID: f(i), Weight: 1}, f(i)})
			}
			m := newMap(t, a, members)
			counts := map[string]int{}
			const keys = 50000
			for i := range keys {
				v, _ := m.Get(f(100 + i))
				counts[v]++
			}
			// The share of a ring's node deviates by 1/sqrt(160) of itself, that of a sample by far
			// less; with 5 standard deviations for each. The others are even but for the sample.
			bound := 5 * math.Sqrt(n/float64(keys))
			switch a.(type) {
			case ringAlgorithm, ketamaAlgorithm:
				bound += 5 / math.Sqrt(160)
			case slotsAlgorithm:
				bound += 0.05
			}
			for id, c := range counts {
				require.InDelta(t, 1, float64(c)*n/keys, bound, "%s, %v, %s", name, a, id)
			}
			require.Len(t, counts, n)
		}
	}
}

// TestWeights requires that each node has its share by weight.
func TestWeights(t *testing.T) {
	weights := []uint32{1, 2, 3, 5, 10, 20, 59}
	var members []Member[string]
	for i, w := range weights {
		id := fmt.Sprint("server", i)
		members = append(members, Member[string]{Node{ID: id, Weight: w}, id})
	}
	for _, a := range algorithms() {
		m := newMap(t, a, members)
		const keys = 200000
		counts := make([]float64, len(weights))
		for h := range uint64(keys) {
			counts[m.state.Load().picker.Pick(HashUint64(h))]++
		}
		for i, w := range weights {
			want := float64(w) / 100
			got := counts[i] / keys
			sd := math.Sqrt(want * (1 - want) / keys) // of the sample
			switch a.(type) {
			case ringAlgorithm:
				sd += want / math.Sqrt(160*float64(w))
			case ketamaAlgorithm:
				sd += want / math.Sqrt(160*7*want)
			case slotsAlgorithm:
				sd += math.Sqrt(want * (1 - want) / 65536) // the slots are a sample, too, with a bound
				require.LessOrEqual(t, got, want*1.05+1.0/65536+4*sd)
			}
			require.InDelta(t, want, got, 5*sd, "%v, weight %d", a, w)
		}
	}
}

// TestFailoverSpreads lets a node fail, and looks where its keys would go next.
func TestFailoverSpreads(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, fleet("server", 20))
		next := map[string]int{}
		total := 0
		for i := range 200000 {
			two, err := m.GetN(nil, fmt.Sprint("key", i), 2, Placement{})
			require.NoError(t, err)
			if two[0] == "server7" {
				next[two[1]]++
				total++
			}
		}
		require.Len(t, next, 19, "%v", a)
		for id, n := range next {
			require.Less(t, float64(n)/float64(total), 3.0/19, "%v: %s", a, id)
		}
	}
}

// TestTakeover removes a node, and sees who takes its keys over: with Ring and Rendezvous always
// the next of their sequence, with Slots nearly always.
func TestTakeover(t *testing.T) {
	keys := uint64(200000)
	if underRace {
		keys /= 5
	}
	for _, c := range []struct {
		algorithm Algorithm
		nodes     int
		share     float64
	}{
		{Ring(RingConfig{}), 50, 1},
		{Rendezvous(), 50, 1},
		{Ketama(), 50, 1},
		{Slots(SlotsConfig{}), 100, 0.98},
		{Slots(SlotsConfig{Slots: 8192, LoadFactor: 1.25}), 125, 0.98},
		{Slots(SlotsConfig{LoadFactor: 1000}), 100, 1},
	} {
		m := newMap(t, c.algorithm, fleet("server", c.nodes))
		less := newMap(t, c.algorithm, m.Members())
		update(t, less, func(tx *Tx[string]) error { return tx.Remove("server7") })
		next, all := 0, 0
		for i := range keys {
			h := HashUint64(i)
			two, err := m.GetNHash(nil, h, 2, Placement{})
			require.NoError(t, err)
			if two[0] != "server7" {
				continue
			}
			all++
			if now, _ := less.GetHash(h); now == two[1] {
				next++
			}
		}
		require.GreaterOrEqual(t, float64(next)/float64(all), c.share, "%v", c.algorithm)
	}
}

func TestString(t *testing.T) {
	m := newMap(t, Slots(SlotsConfig{LoadFactor: 1.25}), fleet("server", 60))
	require.Equal(t, fmt.Sprintf("slots(65536,1.25), 60 members, fingerprint %016x", m.Fingerprint()), m.String())
	require.Contains(t, newMap(t, foreign{}, nil).String(), "consistenthash.foreign, 0 members")
}

func TestAllocations(t *testing.T) {
	for _, a := range algorithms() {
		m := newMap(t, a, fleet("server", 100))
		b, err := NewBounded(m, BoundedConfig{})
		require.NoError(t, err)
		key := "a key of more than thirty-two bytes, which a copy on the stack would not hold"
		bytes := []byte(key)
		dst := make([]string, 0, 20)
		for name, f := range map[string]func(){
			"Get":      func() { m.Get(key) },
			"GetBytes": func() { m.GetBytes(bytes) },
			"GetHash":  func() { m.GetHash(1 << 60) },
			"Owner":    func() { m.Owner(1 << 60) },
			"GetN":     func() { _, _ = m.GetN(dst, key, 3, Placement{}) },
			"zones":    func() { _, _ = m.GetN(dst, key, 3, Placement{MaxPerZone: 1}) },
			"degraded": func() { _, _ = m.GetN(dst, key, 4, Placement{MaxPerZone: 1}) },
			"many":     func() { _, _ = m.GetN(dst, key, 20, Placement{}) },
			"Acquire": func() {
				l, _ := b.Acquire(key)
				l.Release()
			},
		} {
			if underRace {
				f() // the detector makes pools forget at random
				continue
			}
			require.Zero(t, testing.AllocsPerRun(1000, f), "%v: %s", a, name)
		}
	}
}

// TestUpdatesUnderReaders requires of each look-up that it sees all of an update or nothing: at
// each moment the members are a0 to a9 or b0 to b9.
func TestUpdatesUnderReaders(t *testing.T) {
	for _, a := range algorithms() {
		sets := [][]Member[string]{fleet("a", 10), fleet("b", 10)}
		m := newMap(t, a, sets[0])
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var got []string
				for i := uint64(0); ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					var err error
					got, err = m.GetNHash(got[:0], HashUint64(i), 10, Placement{})
					if err != nil || len(unique(got)) != 10 {
						t.Errorf("%v: %v, %v", a, got, err)
						return
					}
					for _, id := range got {
						if id[0] != got[0][0] {
							t.Errorf("%v: torn: %v", a, got)
							return
						}
					}
					if v, ok := m.GetHash(i); !ok || len(v) != 2 {
						t.Errorf("%v: %q", a, v)
						return
					}
				}
			})
		}
		rounds := 40
		if testing.Short() || underRace {
			rounds = 10
		}
		for i := range rounds {
			update(t, m, func(tx *Tx[string]) error {
				tx.Clear()
				for _, x := range sets[(i+1)%2] {
					if err := tx.Add(x); err != nil {
						return err
					}
				}
				return nil
			})
		}
		close(stop)
		wg.Wait()
	}
}
