package main

import (
	"cmp"
	"math"
	"slices"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
)

// A plan is what a change does.
type plan struct {
	settings
	maps [2]*nodeMap // before and after

	// method says where the shares are from. compared is the number of positions or keys that were
	// compared, 0 if the ranges were.
	method   method
	compared int

	nodes     []row                 // in order of ID
	transfers []transfer            // the largest first
	moves     []consistenthash.Move // with the method exact and -json
	peak      [2]peak               // before and after

	moved    float64 // the share that has another owner afterwards
	least    float64 // see least
	needless float64 // see needless

	keyCount int // of -keys
	keyMoves int
	keyList  []keyMove // with -list
}

type method string

const (
	exact   method = "exact"   // Diff
	sampled method = "sampled" // positions
	byKeys  method = "keys"    // those of -keys
)

// A side is what a node is before, or after.
type side struct {
	there  bool
	weight uint32
	zone   string
	fair   float64 // its weight as a part of the sum of all
	share  float64 // of the keys
}

// A row is what becomes of a node.
type row struct {
	id    string
	sides [2]side // before and after
	gives float64
	takes float64
}

// A transfer is what one node gives another. IDs are "" if no node has weight.
type transfer struct {
	from, to string
	share    float64
}

// A keyMove is a key that moves.
type keyMove struct{ key, from, to string }

// A peak is the node with the greatest share, as a multiple of its fair one.
type peak struct {
	id    string
	ratio float64
}

func newPlan(s settings, maps [2]*nodeMap, keys []string, bar *progress.Bar) *plan {
	p := &plan{settings: s, maps: maps, keyCount: len(keys)}
	t := newTally()
	switch {
	case s.differ():
		p.method, p.compared = byKeys, len(keys)
		p.compareKeys(t, keys)
	case maps[0].Ranged() && maps[1].Ranged():
		p.method = exact
		p.compareRanges(t)
	default:
		p.method, p.compared = sampled, s.samples
		p.compareSamples(t, bar)
	}
	if p.method != byKeys && len(keys) > 0 {
		p.findKeys(keys)
	}
	p.fill(t)
	return p
}

// A tally is what each node has, and what goes from one to another, in any unit.
type tally struct {
	has   [2]map[string]float64 // before and after
	moves map[[2]string]float64 // from and to
	unit  float64               // as a share of all keys
}

func newTally() *tally {
	return &tally{has: [2]map[string]float64{{}, {}}, moves: map[[2]string]float64{}, unit: 1}
}

// count adds something that from has before, and to afterwards.
func (t *tally) count(from, to string) {
	t.has[0][from]++
	t.has[1][to]++
	if from != to {
		t.moves[[2]string{from, to}]++
	}
}

// compareRanges finds the exact shares, by Diff. What a map has is its difference from one without
// nodes.
func (p *plan) compareRanges(t *tally) {
	for i, m := range p.maps {
		empty, err := p.build(p.algorithm[i], nil)
		if err != nil {
			panic(err) // parse has done the same
		}
		for r := range consistenthash.Diff(empty, m) {
			t.has[i][r.To] += r.Share()
		}
	}
	for m := range consistenthash.Diff(p.maps[0], p.maps[1]) {
		t.moves[[2]string{m.From, m.To}] += m.Share()
		if p.json {
			p.moves = append(p.moves, m)
		}
	}
}

// compareSamples counts positions. They are the same ones in each run, and as good as random.
func (p *plan) compareSamples(t *tally, bar *progress.Bar) {
	const chunk = 1 << 14
	bar.Plan("comparing", int64(p.compared))
	for i := range p.compared {
		h := consistenthash.HashUint64(uint64(i))
		from, _ := p.maps[0].GetHash(h)
		to, _ := p.maps[1].GetHash(h)
		t.count(from, to)
		if i%chunk == chunk-1 {
			bar.Done(chunk)
		}
	}
	t.unit = 1 / float64(p.compared)
}

// compareKeys counts keys that have other positions afterwards.
func (p *plan) compareKeys(t *tally, keys []string) {
	for _, key := range keys {
		from, _ := p.maps[0].Get(key)
		to, _ := p.maps[1].Get(key)
		t.count(from, to)
		if from != to {
			p.addKey(key, from, to)
		}
	}
	t.unit = 1 / float64(len(keys))
}

// findKeys finds the keys that move.
func (p *plan) findKeys(keys []string) {
	positions := make([]uint64, len(keys))
	for i, key := range keys {
		positions[i] = p.maps[0].Hash(key)
	}
	i := 0
	for m := range consistenthash.DiffKeys(p.maps[0], p.maps[1], slices.Values(positions)) {
		// Moves come in the order of keys. Keys at the same position all move, or none does.
		for positions[i] != m.First {
			i++
		}
		p.addKey(keys[i], m.From, m.To)
		i++
	}
}

func (p *plan) addKey(key, from, to string) {
	p.keyMoves++
	if p.list {
		p.keyList = append(p.keyList, keyMove{key, from, to})
	}
}

// fill makes the plan from what has been counted.
func (p *plan) fill(t *tally) {
	rows := make(map[string]*row)
	var nobody [2]float64 // the fair share of "", which has all keys if no node has weight
	for i, m := range p.maps {
		total := 0.0
		for _, n := range m.Members() {
			total += float64(n.Weight)
		}
		if total == 0 {
			nobody[i] = 1
		}
		for _, n := range m.Members() {
			r := rows[n.ID]
			if r == nil {
				r = &row{id: n.ID}
				rows[n.ID] = r
			}
			s := side{there: true, weight: n.Weight, zone: n.Zone, share: t.has[i][n.ID] * t.unit}
			if total > 0 {
				s.fair = float64(n.Weight) / total
			}
			r.sides[i] = s
			if ratio := s.ratio(); ratio > p.peak[i].ratio {
				p.peak[i] = peak{n.ID, ratio}
			}
		}
	}
	for ids, amount := range t.moves {
		p.transfers = append(p.transfers, transfer{ids[0], ids[1], amount * t.unit})
	}
	slices.SortFunc(p.transfers, func(a, b transfer) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	for _, tr := range p.transfers {
		p.moved += tr.share
		from, to := rows[tr.from], rows[tr.to]
		if from != nil {
			from.gives += tr.share
		}
		if to != nil {
			to.takes += tr.share
		}
		if from != nil && to != nil && needless(from.sides, to.sides) {
			p.needless += tr.share
		}
	}
	for _, r := range rows {
		p.nodes = append(p.nodes, *r)
	}
	slices.SortFunc(p.nodes, func(a, b row) int { return cmp.Compare(a.id, b.id) })
	p.least = least(p.nodes, nobody)
}

// least is the share that would have to move if each node had exactly its fair share before and
// after: the sum of what the fair shares of nodes decrease by. nobody are those of no node at all.
func least(nodes []row, nobody [2]float64) float64 {
	sum := max(0, nobody[0]-nobody[1])
	for _, r := range nodes {
		sum += max(0, r.sides[0].fair-r.sides[1].fair)
	}
	return sum
}

// needless reports whether what goes from one node to another does so without need: the first
// stays, and weighs at least what it did, and the other was there, and weighs at most what it did.
func needless(from, to [2]side) bool {
	return from[1].there && from[1].weight >= from[0].weight && to[0].there && to[1].weight <= to[0].weight
}

// ratio is the share as a multiple of the fair one; NaN without any.
func (s side) ratio() float64 {
	if s.fair == 0 {
		return math.NaN()
	}
	return s.share / s.fair
}

// noise returns what a share that was counted may be wrong by, 19 times of 20: 1.96 standard
// deviations of a proportion, or for a share of 0, of one that is seen once.
func (p *plan) noise(share float64) float64 {
	if p.compared == 0 {
		return 0
	}
	n := float64(p.compared)
	share = min(max(share, 1/n), 1-1/n)
	return 1.96 * math.Sqrt(share*(1-share)/n)
}
