package consistenthash

import (
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"
)

// A SlotsConfig says how Slots places keys.
type SlotsConfig struct {
	_ struct{}

	// Slots is the number of slots, a power of two from 256 to 1,048,576. 0: 65,536. There should be
	// 50 for each node at least; memory and the time to build grow with it. With another number
	// nearly all keys have other owners: choose it once.
	Slots int

	// LoadFactor bounds the slots of a node: to its fair share times LoadFactor, rounded
	// up. From 1 to 1000; it is rounded to four decimal places. The lower it is, the more even
	// is the load, and the more slots move that would not have to when nodes change; with 1000
	// none, and it is rendezvous hashing of slots. 0: 1.05.
	LoadFactor float64
}

// Slots returns the algorithm that New takes by default. Positions are divided into slots of equal
// size, and the slots among the nodes: each node has a score for each slot, as in Rendezvous, and
// each slot goes to the node with the highest, except that a node has at most its fair share times
// LoadFactor. One that would have more keeps those for which its score is highest, and the others go
// to their next node.
//
// That is a stable matching: no slot and node that prefer each other are kept apart. As both prefer
// the higher score, there is exactly one, whatever the order in which it is looked for; so the
// placement depends on the set of nodes alone. (D. Gale and L. Shapley, "College Admissions and the
// Stability of Marriage", 1962; that symmetric preferences have one stable matching follows by taking
// the pairs from the highest score down: each is forced.)
//
// A look-up reads one entry of a table: O(1). Replicas are in the order of the scores, so the keys of
// a node that fails spread over all others. The tables take 18 bytes a slot, 1.2 MB by default. To
// build takes O(Slots·n), about 0.2 s for 1000 nodes; to change one node O(Slots), some ms.
//
// The bound has a price. When a node leaves, few slots move without need between others: of 1000
// nodes 0.05 % for one that leaves, but 1.2 % for 100 that leave at once. And the node that takes
// over a slot is not always the next of its sequence, as that may be full: it is for 99 % of the
// slots with 100 nodes, for 90 % with 1000, where for 4 % it is not even one of the three that GetN
// returned before. With a LoadFactor of 1.25 it is for 99.4 %. Whoever stores replicas, and does
// not only cache, chooses that, or Ring, or Rendezvous.
//
// There can be at most 65,535 nodes; a node whose share is less than a slot may get none.
func Slots(c SlotsConfig) Algorithm { return slotsAlgorithm{c} }

type slotsAlgorithm struct{ SlotsConfig }

func (a slotsAlgorithm) String() string {
	n, load := a.parameters()
	return fmt.Sprintf("slots(%d,%v)", n, float64(load)/loadUnit)
}

// parameters returns the number of slots and the load factor in units of 1/10000.
func (a slotsAlgorithm) parameters() (slots int, load uint64) {
	slots, load = 65536, 10500
	if a.Slots != 0 {
		slots = a.Slots
	}
	if a.LoadFactor != 0 {
		load = fixedLoad(a.LoadFactor)
	}
	return slots, load
}

func (a slotsAlgorithm) check() error {
	if n := a.Slots; n != 0 && (n < 1<<8 || n > 1<<20 || n&(n-1) != 0) {
		return fmt.Errorf("consistenthash: Slots must be a power of two from 256 to 1048576, got %d", n)
	}
	return checkLoad(a.LoadFactor)
}

const (
	loadUnit = 10000 // load factors are multiples of 1/loadUnit, so that bounds are exact
	maxLoad  = 1000
)

func checkLoad(f float64) error {
	if f != 0 && !(f >= 1 && f <= maxLoad) { // negated, so as to catch NaN
		return fmt.Errorf("consistenthash: LoadFactor must be from 1 to %d, got %v", maxLoad, f)
	}
	return nil
}

func fixedLoad(f float64) uint64 { return uint64(math.Round(f * loadUnit)) }

// bound returns the most that a node may have of n things: ceil(load·n·weight / total), at most
// n; load in units of 1/loadUnit. As load is at least 1, the bounds of all nodes add up to n at least.
// weight is at most total, and total less than 2^49 (maxNodes weights of 32 bits).
func bound(load, n, weight, total uint64) uint64 {
	hi, lo := bits.Mul64(n, weight)
	high, low := bits.Mul64(lo, load)
	high += hi * load
	unit := total * loadUnit // less than 2^63
	low, carry := bits.Add64(low, unit-1, 0)
	high += carry
	if high >= unit {
		return n // of more than 2^50 things
	}
	q, _ := bits.Div64(high, low, unit)
	return min(q, n)
}

const (
	listed       = 8 // nodes that are kept for each slot, in the order of their scores
	noNode       = math.MaxUint16
	maxSlotNodes = math.MaxUint16 // nodes; indices have 16 bits, and noNode is none of them
)

// slots is the result of Slots. Nodes are places in the electorate, but in owner, which has the
// indices that Pick returns.
//
// lists[s][:known] are the nodes with the highest scores for slot s, in their order. This is what
// makes changes cheap: it takes n scores to find, but when a node comes or leaves, one score tells
// whether and where it comes in, and the rest remain in order.
type slots struct {
	electorate
	shift uint8 // 64 - log2(number of slots)
	load  uint64
	known int // min(listed, number of nodes)
	owner []uint16
	lists [][listed]uint16
}

func (a slotsAlgorithm) Build(nodes []Node) (Picker, error) {
	s, err := a.prepare(nodes)
	if err != nil || len(s.hash) == 0 {
		return s, err
	}
	for slot := range s.lists {
		s.list(slot)
	}
	s.match()
	return s, nil
}

// prepare returns slots for the nodes without lists and owners.
func (a slotsAlgorithm) prepare(nodes []Node) (*slots, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	e, err := rank(nodes)
	if err != nil {
		return nil, err
	}
	if len(nodes) > maxSlotNodes {
		return nil, fmt.Errorf("consistenthash: Slots takes at most %d nodes, got %d", maxSlotNodes, len(nodes))
	}
	n, load := a.parameters()
	s := &slots{electorate: e, shift: uint8(64 - bits.TrailingZeros(uint(n))), load: load, known: min(listed, len(e.hash))}
	if len(e.hash) > 0 {
		s.owner = make([]uint16, n)
		s.lists = make([][listed]uint16, n)
	}
	return s, nil
}

// list finds the list of a slot from the scores of all nodes.
func (s *slots) list(slot int) {
	var top [listed]score
	s.top(top[:s.known], hashSlot(slot))
	for i := range s.known {
		s.lists[slot][i] = uint16(top[i].node)
	}
}

// Rebuild makes the lists from those of prev.
func (a slotsAlgorithm) Rebuild(prev Picker, nodes []Node) (Picker, error) {
	old, ok := prev.(*slots)
	if !ok {
		return a.Build(nodes)
	}
	s, err := a.prepare(nodes)
	if err != nil || len(s.hash) == 0 {
		return s, err
	}
	if len(old.lists) != len(s.lists) {
		return a.Build(nodes)
	}
	moved, fresh := s.compare(old)
	if len(fresh) > listed && len(fresh) > len(s.hash)/4 {
		return a.Build(nodes)
	}
	kept := len(s.hash) - len(fresh)
	for slot := range s.lists {
		s.relist(slot, old, moved, fresh, kept)
	}
	s.match()
	return s, nil
}

// compare finds the nodes of old in s: moved[i] is the place of old's node i in s, or noNode if it
// has left; fresh are the nodes of s that old does not have. A node with another weight is another
// node. IDs are not compared, but their hashes: what has the same hash has the same scores. With
// equal hashes the order within s decides, and nodes of old are matched in that order, so among
// them too the lists remain in order.
func (s *slots) compare(old *slots) (moved []uint16, fresh []int) {
	type key struct {
		hash   uint64
		weight uint32
	}
	at := make(map[key][]uint16, len(s.hash))
	for i := range s.hash {
		k := key{s.hash[i], s.weight[i]}
		at[k] = append(at[k], uint16(i))
	}
	moved = make([]uint16, len(old.hash))
	for i := range old.hash {
		k := key{old.hash[i], old.weight[i]}
		moved[i] = noNode
		if places := at[k]; len(places) > 0 {
			moved[i], at[k] = places[0], places[1:]
		}
	}
	for _, places := range at {
		for _, p := range places {
			fresh = append(fresh, int(p))
		}
	}
	slices.Sort(fresh)
	return moved, fresh
}

// relist makes the list of a slot from that of old. If that has lost nobody, it is the beginning of
// the ranking of the kept nodes, or all of it, and fresh nodes come in where they belong; but not
// behind the last of a beginning, where others may be better. A list that has lost somebody is made
// anew, if there are nodes that it does not know: that happens to listed/n of them for each node that
// leaves, at n scores each, so it costs no more than the rest.
func (s *slots) relist(slot int, old *slots, moved []uint16, fresh []int, kept int) {
	list, n := &s.lists[slot], 0
	for _, i := range old.lists[slot][:old.known] {
		if m := moved[i]; m != noNode {
			list[n] = m
			n++
		}
	}
	if n < min(listed, kept) {
		s.list(slot)
		return
	}
	h := hashSlot(slot)
	var last score // of a full list, and
	var limit reach
	current := false // whether they are
	for _, i := range fresh {
		if n == listed {
			if !current {
				last, current = s.score(h, int(list[n-1])), true
				limit = last.reach()
			}
			// Nearly always this ends here, without a logarithm.
			u := mix(h ^ s.hash[i])
			if s.even {
				if u < last.u {
					continue
				}
			} else if !limit.within(u, s.weight[i]) {
				continue
			}
		}
		c := s.score(h, i)
		if n == listed && !c.beats(last) {
			continue
		}
		if n < listed {
			n++
		}
		j := n - 1
		for j > 0 && c.beats(s.score(h, int(list[j-1]))) {
			list[j] = list[j-1]
			j--
		}
		list[j] = uint16(i)
		current = false
	}
}

// A claim is a slot that a node has, with the random number of their score, by which one node
// orders its slots: for one weight, scores have the order of these. They differ, as mix is a
// bijection.
type claim struct {
	u    uint64
	slot int32
}

// match finds the stable matching by deferred acceptance: each slot asks the nodes in the order of its
// list; a full node keeps the highest scores, and the slot that it rejects asks its next
// node. It takes O(slots·log(slots per node)), and the order of asking does not matter.
func (s *slots) match() {
	var total uint64
	for _, w := range s.weight {
		total += uint64(w)
	}
	// The claims of each node, and how many it may have. Those of a full node are a heap, with the lowest
	// first. Most nodes have about their fair share, however far above it the bound is.
	claims := make([][]claim, len(s.hash))
	room := make([]int, len(s.hash))
	for i, w := range s.weight {
		room[i] = int(bound(s.load, uint64(len(s.lists)), uint64(w), total))
		claims[i] = make([]claim, 0, min(room[i], int(bound(loadUnit*5/4, uint64(len(s.lists)), uint64(w), total))))
	}
	next := make([]uint8, len(s.lists)) // places asked, of each slot's list
	beyond := make(map[int32][]uint16)  // rankings of slots that went beyond their list
	asked := make(map[int32]int)        // and how many of it they asked
	var scores []score

	for i := range s.lists {
		slot := int32(i)
		for {
			// The next node of the slot. Bounds add up to the number of slots, so there is one that
			// takes it.
			h := hashSlot(int(slot))
			var node int
			if n := next[slot]; int(n) < s.known {
				node = int(s.lists[slot][n])
				next[slot]++
			} else {
				if beyond[slot] == nil {
					scores = s.ranking(scores[:0], h)
					nodes := make([]uint16, len(scores))
					for i := range scores {
						nodes[i] = uint16(scores[i].node)
					}
					beyond[slot], asked[slot] = nodes, int(n)
				}
				node = int(beyond[slot][asked[slot]])
				asked[slot]++
			}
			c := claim{mix(h ^ s.hash[node]), slot}
			heap := claims[node]
			if len(heap) < room[node] {
				heap = append(heap, c)
				claims[node] = heap
				s.owner[slot] = uint16(node)
				if len(heap) == room[node] {
					for i := len(heap) / 2; i >= 0; i-- {
						sink(heap, i)
					}
				}
				break
			}
			if c.u < heap[0].u {
				continue
			}
			s.owner[slot] = uint16(node)
			slot, heap[0] = heap[0].slot, c
			sink(heap, 0)
		}
	}
	for slot, node := range s.owner {
		s.owner[slot] = uint16(s.index[node])
	}
}

// sink restores the order of a heap in which only the claim at i may be too high.
func sink(heap []claim, i int) {
	c := heap[i]
	for {
		child := 2*i + 1
		if child >= len(heap) {
			break
		}
		if child+1 < len(heap) && heap[child+1].u < heap[child].u {
			child++
		}
		if c.u <= heap[child].u {
			break
		}
		heap[i] = heap[child]
		i = child
	}
	heap[i] = c
}

func (s *slots) Pick(h uint64) int {
	slot := h >> (s.shift & 63)
	if slot >= uint64(len(s.owner)) {
		return -1
	}
	return int(s.owner[slot])
}

// AppendN appends the owner, the nodes after it in the ranking of the slot, and at last those before
// it: they have given the slot away, as they are full, and are not to be burdened with replicas
// either, if there are others.
func (s *slots) AppendN(dst []int32, h uint64, n int) []int32 {
	if n = min(n, len(s.hash)); n <= 0 {
		return dst
	}
	slot := h >> (s.shift & 63)
	owner := int32(s.owner[slot])
	list := s.lists[slot][:s.known]
	at := 0 // of the owner in the list, nearly always
	for at < len(list) && s.index[list[at]] != owner {
		at++
	}
	switch {
	case at+n <= len(list):
		for _, node := range list[at : at+n] {
			dst = append(dst, s.index[node])
		}
		return dst
	case at < len(list) && at+n <= few:
		var top [few]score
		s.top(top[:min(at+n, len(s.hash))], hashSlot(int(slot)))
		return s.appendFrom(dst, top[:min(at+n, len(s.hash))], at, n)
	}
	all := rankings.Get().(*[]score)
	defer rankings.Put(all)
	*all = s.ranking((*all)[:0], hashSlot(int(slot)))
	for at = 0; s.index[(*all)[at].node] != owner; {
		at++
	}
	return s.appendFrom(dst, *all, at, n)
}

// appendFrom appends the first n nodes of ranking from place at on, then those before.
func (s *slots) appendFrom(dst []int32, ranking []score, at, n int) []int32 {
	for range n {
		dst = append(dst, s.index[ranking[at].node])
		if at++; at == len(ranking) {
			at = 0
		}
	}
	return dst
}

func (s *slots) Seq(h uint64) iter.Seq[int] { return sequence(s, h) }

func (s *slots) Ranges() iter.Seq2[uint64, int] {
	return func(yield func(uint64, int) bool) {
		for slot, node := range s.owner {
			if slot+1 < len(s.owner) && s.owner[slot+1] == node {
				continue
			}
			if !yield(uint64(slot+1)<<s.shift-1, int(node)) {
				return
			}
		}
	}
}
