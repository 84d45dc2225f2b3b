package consistenthash

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiff compares Diff with the owners of a million keys, for changes of nodes and of algorithms.
func TestDiff(t *testing.T) {
	keys := 1000000
	if testing.Short() || underRace {
		keys = 20000
	}
	rng := rand.New(rand.NewPCG(9, 9))
	ranged := []Algorithm{Slots(SlotsConfig{}), Ring(RingConfig{}), Maglev(0)}
	for i, a := range ranged {
		b := ranged[(i+1)%len(ranged)]
		before := newMap(t, a, fleet("server", 12))
		after := newMap(t, a, before.Members())
		update(t, after, func(tx *Tx[string]) error {
			require.NoError(t, tx.Remove("server3"))
			require.NoError(t, tx.SetWeight("server4", 3))
			return tx.Add(Member[string]{Node{ID: "new", Weight: 2}, "new"})
		})
		other := newMap(t, b, before.Members())
		none := newMap(t, b, nil)
		for _, pair := range [][2]*Map[string]{{before, after}, {after, before}, {before, other}, {after, other}, {before, none}, {none, before}} {
			requireDiff(t, pair[0], pair[1], rng, keys)
		}
		for _, same := range []*Map[string]{before, none} {
			for range Diff(same, same) {
				t.Fatal("something moves from a map to itself")
			}
		}
		for range Diff(before, after) {
			break // ends it
		}
		for range Diff(before, newMap(t, b, nil)) {
			break
		}
	}
	k := newMap(t, Ketama(), fleet("server", 7))
	k2 := newMap(t, Ketama(), fleet("server", 8))
	requireDiff(t, k, k2, rng, keys)
}

func requireDiff(t *testing.T, from, to *Map[string], rng *rand.Rand, keys int) {
	t.Helper()
	moves := slices.Collect(Diff(from, to))
	require.NotEmpty(t, moves)
	for i, m := range moves {
		if m.First > m.Last || m.From == m.To {
			t.Fatalf("%+v", m)
		}
		if i > 0 {
			last := moves[i-1]
			if m.First <= last.Last || m.First == last.Last+1 && m.From == last.From && m.To == last.To {
				t.Fatalf("%+v after %+v", m, last) // or they would be one
			}
		}
	}
	id := func(m *Map[string], h uint64) string {
		x, _ := m.Owner(h)
		return x.ID
	}
	check := func(h uint64) {
		i, _ := slices.BinarySearchFunc(moves, h, func(m Move, h uint64) int {
			if m.Last < h {
				return -1
			}
			return 1
		})
		a, b := id(from, h), id(to, h)
		if i == len(moves) || moves[i].First > h {
			if a != b {
				t.Fatalf("%#x moves from %s to %s, which is not in Diff", h, a, b)
			}
		} else if moves[i].From != a || moves[i].To != b {
			t.Fatalf("%#x moves from %s to %s, and Diff says %+v", h, a, b, moves[i])
		}
	}
	for range keys {
		check(rng.Uint64())
	}
	for _, m := range moves[:min(len(moves), 3000)] {
		check(m.First)
		check(m.Last)
		check(m.First - 1)
		check(m.Last + 1)
	}
	check(0)
	check(math.MaxUint64)

	// Sums of shares are what the nodes lose and gain.
	change := map[string]float64{}
	for _, m := range moves {
		change[m.From] -= m.Share()
		change[m.To] += m.Share()
	}
	want := shares(to)
	for id, s := range shares(from) {
		want[id] -= s
	}
	for id := range maps.Keys(want) {
		require.InDelta(t, want[id], change[id], 1e-9, id)
	}
	require.Equal(t, slices.Collect(DiffKeys(from, to, slices.Values([]uint64{moves[0].First, moves[0].Last}))),
		[]Move{{moves[0].First, moves[0].First, moves[0].From, moves[0].To}, {moves[0].Last, moves[0].Last, moves[0].From, moves[0].To}})
}

// shares returns the part of all positions that each node has.
func shares(m *Map[string]) map[string]float64 {
	shares := map[string]float64{}
	for _, s := range m.Shares() {
		if s.Part > 0 {
			shares[s.ID] = s.Part
		}
	}
	if len(shares) == 0 {
		shares[""] = 1
	}
	return shares
}

func TestShares(t *testing.T) {
	members := fleet("server", 4)
	members[1].Weight = 2
	members[2].Weight = 0
	require.Nil(t, newMap(t, Rendezvous(), members).Shares())
	require.Empty(t, newMap(t, nil, nil).Shares())
	for _, a := range []Algorithm{Slots(SlotsConfig{}), Ring(RingConfig{}), Maglev(0), Ketama()} {
		m := newMap(t, a, members)
		sum := 0.0
		for i, s := range m.Shares() {
			require.Equal(t, members[i].Node, s.Node)
			require.InDelta(t, float64(s.Weight)/4, s.Fair, 1e-15)
			require.InDelta(t, s.Fair, s.Part, s.Fair/2)
			hits := 0
			for h := range uint64(20000) {
				x, _ := m.GetHash(HashUint64(h))
				if x == s.ID {
					hits++
				}
			}
			require.InDelta(t, float64(hits)/20000, s.Part, 5*math.Sqrt(0.25/20000))
			sum += s.Part
		}
		require.InDelta(t, 1, sum, 1e-12)
		for i := range members {
			members[i].Weight = min(members[i].Weight, 2)
		}
	}
}

func TestShare(t *testing.T) {
	require.EqualValues(t, 1, Move{First: 0, Last: math.MaxUint64}.Share())
	require.EqualValues(t, 0.5, Move{First: 1 << 63, Last: math.MaxUint64}.Share())
	require.Equal(t, math.Ldexp(1, -64), Move{First: 5, Last: 5}.Share())
}

// TestDiffIsOfTheMoment changes the maps after Diff was called.
func TestDiffIsOfTheMoment(t *testing.T) {
	a, b := newMap(t, Ring(RingConfig{}), fleet("server", 3)), newMap(t, Ring(RingConfig{}), fleet("server", 4))
	diff, keys := Diff(a, b), DiffKeys(a, b, slices.Values([]uint64{0, 1 << 60, 1 << 61, 1 << 62, 1 << 63}))
	want, wantKeys := slices.Collect(diff), slices.Collect(keys)
	update(t, a, func(tx *Tx[string]) error { tx.Clear(); return nil })
	update(t, b, func(tx *Tx[string]) error { return tx.Remove("server0") })
	require.Equal(t, want, slices.Collect(diff))
	require.Equal(t, wantKeys, slices.Collect(keys))
}

func TestDiffPanics(t *testing.T) {
	slots, rendezvous, ketama := newMap(t, nil, fleet("a", 2)), newMap(t, Rendezvous(), fleet("a", 2)), newMap(t, Ketama(), fleet("a", 2))
	seeded, err := New(Config[string]{Seed: 3, Members: fleet("a", 2)})
	require.NoError(t, err)
	require.True(t, slots.Ranged())
	require.True(t, ketama.Ranged())
	require.False(t, rendezvous.Ranged())
	require.PanicsWithValue(t, "consistenthash: rendezvous has no ranges to compare; DiffKeys compares key by key",
		func() { Diff(slots, rendezvous) })
	require.Panics(t, func() { Diff(rendezvous, slots) })
	require.PanicsWithValue(t, "consistenthash: two maps that hash keys differently cannot be compared: XXH64 with Seed 0 and XXH64 with Seed 3",
		func() { Diff(slots, seeded) })
	require.PanicsWithValue(t, "consistenthash: two maps that hash keys differently cannot be compared: the hash of ketama and XXH64 with Seed 0",
		func() { Diff(ketama, slots) })
	require.Panics(t, func() { DiffKeys(slots, ketama, slices.Values([]uint64{1})) })
	require.Empty(t, slices.Collect(DiffKeys(slots, newMap(t, nil, fleet("a", 2)), slices.Values([]uint64{1}))))
	for m := range DiffKeys(slots, newMap(t, nil, nil), slices.Values([]uint64{1, 2})) {
		require.Equal(t, Move{1, 1, m.From, ""}, m)
		break
	}
}

// TestSlotsMoveLittle bounds what moves between nodes that stay, when others come and go: 0.01 %,
// 0.1 % and 0.3 % are what is to be had at 10, 100 and 1000 nodes in the median; one fleet may have
// more.
func TestSlotsMoveLittle(t *testing.T) {
	for _, c := range []struct {
		n     int
		bound float64
	}{{10, 0.001}, {100, 0.003}, {400, 0.006}} {
		if underRace && c.n > 100 {
			continue
		}
		m := newMap(t, nil, fleet("server", c.n))
		less := newMap(t, nil, fleet("server", c.n))
		update(t, less, func(tx *Tx[string]) error { return tx.Remove("server5") })
		for _, pair := range [][2]*Map[string]{{m, less}, {less, m}} {
			needless := 0.0
			for move := range Diff(pair[0], pair[1]) {
				if move.From != "server5" && move.To != "server5" {
					needless += move.Share()
				}
			}
			require.LessOrEqual(t, needless, c.bound, fmt.Sprint(c.n))
		}
		peak := 0.0
		for _, s := range shares(m) {
			peak = max(peak, s*float64(c.n))
		}
		require.LessOrEqual(t, peak, 1.06)
	}
}
