package consistenthash

import (
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/fixedlog"
)

// The models here are written from the definitions, as simply as can be, and share nothing with the
// package but the constants, mix, and, for weighted scores, fixedlog.Neg, which has tests of its own.

// A model is a list of nodes in order of ID, without those of weight 0.
type model []Node

func modelOf(nodes []Node) model {
	m := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Weight == 0 })
	slices.SortFunc(m, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return m
}

func modelScore(id string, h uint64) uint64 { return mix(h ^ mix(xxhash.Sum64String(id)+nodeSalt)) }

// modelBeats orders the scores a of node n and b of node o.
func modelBeats(n, o Node, a, b uint64) bool {
	table := fixedlog.NewTable()
	if n.Weight != o.Weight { // by weight / log
		nhi, nlo := bits.Mul64(uint64(n.Weight), fixedlog.Neg(table, b))
		ohi, olo := bits.Mul64(uint64(o.Weight), fixedlog.Neg(table, a))
		if c := cmp.Or(cmp.Compare(nhi, ohi), cmp.Compare(nlo, olo)); c != 0 {
			return c > 0
		}
	}
	if a != b {
		return a > b
	}
	return n.ID < o.ID
}

// ranking returns the IDs in the order of their scores.
func (m model) ranking(h uint64) []string {
	sorted := slices.Clone(m)
	slices.SortFunc(sorted, func(a, b Node) int {
		if modelBeats(a, b, modelScore(a.ID, h), modelScore(b.ID, h)) {
			return -1
		}
		return 1
	})
	ids := make([]string, len(sorted))
	for i := range sorted {
		ids[i] = sorted[i].ID
	}
	return ids
}

// slots returns the owner of each slot: all pairs, from the highest score down, where both still have
// room. load is in units of 1/10000.
func (m model) slots(n int, load int64) []string {
	type pair struct {
		slot, node int
		u          uint64
	}
	var pairs []pair
	total := new(big.Int)
	for i := range m {
		total.Add(total, big.NewInt(int64(m[i].Weight)))
		for s := range n {
			pairs = append(pairs, pair{s, i, modelScore(m[i].ID, mix(uint64(s)+slotSalt))})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if modelBeats(m[a.node], m[b.node], a.u, b.u) {
			return -1
		}
		return 1
	})
	room := make([]int64, len(m))
	for i := range m {
		// ceil(load·n·w / (10000·total))
		x := new(big.Int).Mul(big.NewInt(load*int64(n)), big.NewInt(int64(m[i].Weight)))
		d := new(big.Int).Mul(total, big.NewInt(10000))
		q, r := x.QuoRem(x, d, new(big.Int))
		room[i] = q.Int64()
		if r.Sign() > 0 {
			room[i]++
		}
	}
	owners := make([]string, n)
	for _, p := range pairs {
		if owners[p.slot] == "" && room[p.node] > 0 {
			owners[p.slot] = m[p.node].ID
			room[p.node]--
		}
	}
	return owners
}

// slotSequence is what Slots promises: the owner, what comes after it in the ranking, what came
// before it.
func (m model) slotSequence(slot int, owner string) []string {
	r := m.ranking(mix(uint64(slot) + slotSalt))
	at := slices.Index(r, owner)
	return append(slices.Clone(r[at:]), r[:at]...)
}

type modelPoint struct {
	at uint64
	id string
}

// walk returns the distinct IDs at h and after it around points.
func walkPoints(points []modelPoint, h uint64) []string {
	slices.SortFunc(points, func(a, b modelPoint) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
	var ids []string
	for pass := range 2 {
		for _, p := range points {
			if (p.at >= h || pass == 1) && !slices.Contains(ids, p.id) {
				ids = append(ids, p.id)
			}
		}
	}
	return ids
}

func (m model) ring(virtual int, unit uint32) []modelPoint {
	var points []modelPoint
	for _, n := range m {
		count := max(1, int(math.Round(float64(n.Weight)*float64(virtual)/float64(unit))))
		for i := range count {
			points = append(points, modelPoint{mix(mix(xxhash.Sum64String(n.ID)+nodeSalt) + uint64(i+1)*golden), n.ID})
		}
	}
	return points
}

// ketama returns points of 32 bits.
func (m model) ketama() []modelPoint {
	var total uint64
	for _, n := range m {
		total += uint64(n.Weight)
	}
	var points []modelPoint
	for _, n := range m {
		pct := float32(n.Weight) / float32(total)
		for k := range int(math.Floor(float64(float32(float64(pct) * 40.0 * float64(len(m)))))) {
			sum := md5.Sum(fmt.Appendf(nil, "%s-%d", n.ID, k))
			for j := range 4 {
				points = append(points, modelPoint{uint64(binary.LittleEndian.Uint32(sum[4*j:])), n.ID})
			}
		}
	}
	return points
}

// maglev returns the table, made as the paper has it, from whole permutations.
func (m model) maglev(size uint64) []string {
	table := make([]string, size)
	if len(m) == 0 {
		return table
	}
	permutations := make([][]uint64, len(m))
	var greatest uint64
	for i, n := range m {
		h := mix(xxhash.Sum64String(n.ID) + nodeSalt)
		offset, _ := bits.Mul64(h, size)
		skip, _ := bits.Mul64(mix(h^skipSalt), size-1)
		for j := range size {
			permutations[i] = append(permutations[i], (offset+j*(skip+1))%size)
		}
		greatest = max(greatest, uint64(n.Weight))
	}
	left := size
	for round := uint64(0); left > 0; round++ {
		for i, n := range m {
			// By the end of this round the node is to have had 1 + floor(round·w/greatest) turns.
			w := uint64(n.Weight)
			if round > 0 && round*w/greatest == (round-1)*w/greatest || left == 0 {
				continue
			}
			for table[permutations[i][0]] != "" {
				permutations[i] = permutations[i][1:]
			}
			table[permutations[i][0]] = n.ID
			left--
		}
	}
	return table
}

// A subject is an algorithm and the model of where it places the keys at h: the whole sequence.
type subject struct {
	algorithm Algorithm
	expect    func(m model) func(h uint64) []string
}

func subjects() []subject {
	return []subject{
		{Slots(SlotsConfig{Slots: 256}), slotsModel(256, 10500)},
		{Slots(SlotsConfig{Slots: 512, LoadFactor: 1}), slotsModel(512, 10000)},
		{Slots(SlotsConfig{Slots: 256, LoadFactor: 1.25}), slotsModel(256, 12500)},
		{Slots(SlotsConfig{Slots: 256, LoadFactor: 1000}), slotsModel(256, 1e7)},
		{Rendezvous(), func(m model) func(uint64) []string { return m.ranking }},
		{Ring(RingConfig{VirtualNodes: 10}), func(m model) func(uint64) []string {
			points := m.ring(10, 1)
			return func(h uint64) []string { return walkPoints(points, h) }
		}},
		{Ring(RingConfig{VirtualNodes: 40, WeightUnit: 7}), func(m model) func(uint64) []string {
			points := m.ring(40, 7)
			return func(h uint64) []string { return walkPoints(points, h) }
		}},
		{Ketama(), func(m model) func(uint64) []string {
			points := m.ketama()
			return func(h uint64) []string { return walkPoints(points, h>>32) }
		}},
		{Maglev(251), func(m model) func(uint64) []string {
			table := m.maglev(251)
			return func(h uint64) []string {
				at, _ := bits.Mul64(h, 251)
				var ids []string
				for i := range table {
					if id := table[(int(at)+i)%len(table)]; id != "" && !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
				return ids
			}
		}},
	}
}

func slotsModel(n int, load int64) func(m model) func(uint64) []string {
	return func(m model) func(uint64) []string {
		owners := m.slots(n, load)
		return func(h uint64) []string {
			if len(m) == 0 {
				return nil
			}
			slot := int(h >> (64 - bits.Len(uint(n)-1)))
			return m.slotSequence(slot, owners[slot])
		}
	}
}

// compare checks m against the model at some positions: the owner, and the sequence by all ways to it.
func compareWithModel(t *testing.T, m *Map[string], s subject, rng *rand.Rand, positions int) {
	t.Helper()
	members := m.Members()
	nodes := make([]Node, len(members))
	for i := range members {
		require.Equal(t, members[i].ID, members[i].Value)
		nodes[i] = members[i].Node
	}
	expect := s.expect(modelOf(nodes))
	for range positions {
		h := rng.Uint64()
		switch rng.IntN(20) {
		case 0:
			h = math.MaxUint64
		case 1:
			h = 0
		case 2: // where something begins or ends
			h = h>>56<<56 - uint64(rng.IntN(2))
		}
		want := expect(h)
		got, ok := m.GetHash(h)
		require.Equal(t, len(want) > 0, ok)
		if ok {
			require.Equal(t, want[0], got, "at %#x of %v", h, nodes)
		}
		n := rng.IntN(len(want) + 1)
		all, err := m.GetNHash(nil, h, n, Placement{})
		require.NoError(t, err)
		require.Equal(t, append([]string(nil), want[:n]...), all, "first %d at %#x of %v", n, h, nodes)
		seq := []string{}
		for i := range m.state.Load().picker.(Replicator).Seq(h) {
			seq = append(seq, nodes[i].ID)
		}
		require.Equal(t, append([]string{}, want...), seq)
	}
}

// TestModel changes maps of every algorithm at random, and compares them with the models, and with maps
// that are made anew, in another order.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	rounds, steps := 12, 25
	if testing.Short() || underRace {
		rounds = 2
	}
	for _, s := range subjects() {
		t.Run(fmt.Sprint(s.algorithm), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Log("seed", seed)
				}
			}()
			rng := rand.New(rand.NewPCG(seed, 0))
			for round := range rounds {
				m, err := New(Config[string]{Algorithm: s.algorithm})
				require.NoError(t, err)
				weight := []func() uint32{
					func() uint32 { return 3 },
					func() uint32 { return uint32(rng.IntN(5)) },
					func() uint32 { return 1 << rng.IntN(8) },
					func() uint32 { return uint32(rng.IntN(400)) },
				}[round%4]
				if strings.HasPrefix(fmt.Sprint(s.algorithm), "ring(10,1") {
					weight = func() uint32 { return uint32(rng.IntN(4)) }
				}
				for range steps {
					require.NoError(t, m.Update(func(tx *Tx[string]) error { return change(tx, rng, weight) }))
					compareWithModel(t, m, s, rng, 8)

					members := m.Members()
					rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
					anew, err := New(Config[string]{Algorithm: s.algorithm, Members: members})
					require.NoError(t, err)
					require.Equal(t, anew.Fingerprint(), m.Fingerprint())
					if _, ok := s.algorithm.(slotsAlgorithm); ok {
						requireSameSlots(t, anew, m)
					}
				}
			}
		})
	}
}

// change makes a few random changes.
func change(tx *Tx[string], rng *rand.Rand, weight func() uint32) error {
	for range 1 + rng.IntN(4) {
		id := fmt.Sprintf("server%d", rng.IntN(30))
		_, there := tx.Get(id)
		var err error
		switch {
		case !there:
			err = tx.Add(Member[string]{Node{ID: id, Weight: weight()}, id})
		case rng.IntN(2) == 0:
			err = tx.Remove(id)
		default:
			err = tx.SetWeight(id, weight())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// requireSameSlots compares all owners, and checks that lists are the beginnings of the rankings.
func requireSameSlots(t *testing.T, want, got *Map[string]) {
	t.Helper()
	a, b := want.state.Load().picker.(*slots), got.state.Load().picker.(*slots)
	require.Equal(t, a.owner, b.owner)
	for slot := range b.lists {
		known := b.known
		require.Equal(t, min(listed, len(b.hash)), known)
		var top [listed]score
		b.top(top[:known], hashSlot(slot))
		for i := range known {
			require.Equal(t, uint16(top[i].node), b.lists[slot][i])
		}
	}
}

// colliding returns IDs that differ and have the same XXH64 with seed 0, so the same scores and points.
//
// For inputs of 64 bytes the four lanes are each v = rotl(v + a·p2, 31)·p1 for one word a of the
// first half, then the same for one of the second; after any change of a, there is one b that leads
// to the same v.
func colliding(n int) []string {
	const p1, p2 = 0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f
	inverse := new(big.Int).ModInverse(new(big.Int).SetUint64(p2), new(big.Int).Lsh(big.NewInt(1), 64)).Uint64()
	var start uint64 = p2 // of lane 1 it is p1+p2
	start += p1
	lane := func(a uint64) uint64 { return bits.RotateLeft64(start+a*p2, 31) * p1 }
	ids := make([]string, n)
	for i := range ids {
		a := uint64(i)
		b := (lane(0) - lane(a)) * inverse
		id := make([]byte, 64)
		binary.LittleEndian.PutUint64(id, a)
		binary.LittleEndian.PutUint64(id[32:], b)
		ids[i] = string(id)
	}
	return ids
}

// TestCollisions has nodes whose hashes are all the same, by real collisions of XXH64.
func TestCollisions(t *testing.T) {
	ids := colliding(4)
	for _, id := range ids[1:] {
		require.NotEqual(t, ids[0], id)
		require.Equal(t, xxhash.Sum64String(ids[0]), xxhash.Sum64String(id))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, s := range subjects() {
		t.Run(fmt.Sprint(s.algorithm), func(t *testing.T) {
			m, err := New(Config[string]{Algorithm: s.algorithm})
			require.NoError(t, err)
			for step := range 60 {
				require.NoError(t, m.Update(func(tx *Tx[string]) error {
					id := ids[rng.IntN(len(ids))]
					if rng.IntN(4) == 0 {
						id = "other"
					}
					if _, ok := tx.Get(id); ok && rng.IntN(3) == 0 {
						return tx.Remove(id)
					}
					return tx.Set(Member[string]{Node{ID: id, Weight: 1 + uint32(step/20*rng.IntN(2))}, id})
				}))
				compareWithModel(t, m, s, rng, 10)
			}
		})
	}
}

// TestRingCollisions has single points that collide, of nodes that otherwise differ.
func TestRingCollisions(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		var points []ringPoint
		var model []modelPoint
		order := make([]int32, 1+rng.IntN(6))
		for i := range order {
			order[i] = int32(i)
		}
		for node := range order {
			for range 1 + rng.IntN(5) {
				at := []uint64{0, 1, 1 << 62, 1 << 63, math.MaxUint64 - 1, math.MaxUint64}[rng.IntN(6)]
				points = append(points, ringPoint{at, int32(node)})
				model = append(model, modelPoint{at, fmt.Sprint(node)})
			}
		}
		r := newRing(points, order)
		for _, h := range []uint64{0, 1, 2, 1 << 62, 1<<62 + 1, 1 << 63, math.MaxUint64 - 1, math.MaxUint64} {
			want := walkPoints(model, h)
			require.Equal(t, want[0], fmt.Sprint(r.Pick(h)), "%v at %#x", points, h)
			var got []string
			for _, i := range r.AppendN(nil, h, 10) {
				got = append(got, fmt.Sprint(i))
			}
			require.Equal(t, want, got)
			requireRanges(t, r, h)
		}
	}
}

// requireRanges checks that the range in which h is belongs to its owner, and that ranges ascend to
// the end.
func requireRanges(t *testing.T, r Ranger, h uint64) {
	t.Helper()
	first, found, end := uint64(0), false, false
	for last, owner := range r.Ranges() {
		require.False(t, end)
		require.LessOrEqual(t, first, last)
		if first <= h && h <= last {
			require.Equal(t, r.Pick(h), owner, "at %#x", h)
			found = true
		}
		first, end = last+1, last == math.MaxUint64
	}
	require.True(t, found && end)
}

// TestManyWinners asks for more nodes than are found by insertion.
func TestManyWinners(t *testing.T) {
	nodes := make([]Node, 70)
	for i := range nodes {
		nodes[i] = Node{ID: fmt.Sprintf("node-%d", i), Weight: 1 + uint32(i%7)}
	}
	rng := rand.New(rand.NewPCG(3, 3))
	hashes := 40
	if underRace {
		hashes = 10
	}
	for _, s := range subjects() {
		expect := s.expect(modelOf(nodes))
		p, err := s.algorithm.Build(nodes)
		require.NoError(t, err)
		for range hashes {
			h := rng.Uint64()
			want := expect(h)
			for _, n := range []int{0, 1, 8, 9, few, few + 1, 69, 70, 71, math.MaxInt} {
				var got []string
				for _, i := range p.(Replicator).AppendN(nil, h, n) {
					got = append(got, nodes[i].ID)
				}
				require.Equal(t, append([]string(nil), want[:min(n, len(want))]...), got, "%v, %d at %#x", s.algorithm, n, h)
			}
			if r, ok := p.(Ranger); ok {
				requireRanges(t, r, h)
			}
		}
	}
}
