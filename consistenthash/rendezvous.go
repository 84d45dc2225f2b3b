package consistenthash

import (
	"iter"
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/sysblocks/sysblocks/internal/fixedlog"
)

// Rendezvous returns highest-random-weight hashing (D. Thaler and C. Ravishankar, "Using
// Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking, 1998): each node
// has a score for each key, and the highest has the key. Scores are weighted by logarithms (J.
// Resch, "New Hashing Algorithms for Data Storage", 2015), so that a node has its
// share of the keys, as far as chance goes, within 0.03 % of it.
//
// Nothing moves but to a node whose weight has grown, and from one whose weight has fallen. It
// needs no memory but the list of nodes; a look-up looks at each of them, O(n): 1.3 ns a node with
// equal weights, 2.2 ns otherwise.
// There are no ranges of keys to move: Diff does not work with it, DiffKeys does.
func Rendezvous() Algorithm { return rendezvousAlgorithm{} }

type rendezvousAlgorithm struct{}

func (rendezvousAlgorithm) String() string { return "rendezvous" }

func (rendezvousAlgorithm) Build(nodes []Node) (Picker, error) {
	ranked, err := rank(nodes)
	if err != nil {
		return nil, err
	}
	return &rendezvous{ranked}, nil
}

type rendezvous struct{ electorate }

func (r *rendezvous) Pick(h uint64) int { return r.winner(h) }

func (r *rendezvous) AppendN(dst []int32, h uint64, n int) []int32 { return r.appendRanking(dst, h, n) }

func (r *rendezvous) Seq(h uint64) iter.Seq[int] { return sequence(r, h) }

// An electorate is the nodes with weight, in order of ID, ready to be scored.
type electorate struct {
	hash   []uint64 // of each
	weight []uint32 // of each
	index  []int32  // of each in the list of nodes that it was made from
	even   bool     // whether all weights are equal
	log    *fixedlog.Table
}

// rank checks nodes and returns their electorate.
func rank(nodes []Node) (electorate, error) {
	order, err := ordered(nodes)
	if err != nil {
		return electorate{}, err
	}
	e := electorate{even: true}
	for _, i := range order {
		if nodes[i].Weight == 0 {
			continue
		}
		e.hash = append(e.hash, hashNode(nodes[i].ID))
		e.weight = append(e.weight, nodes[i].Weight)
		e.index = append(e.index, i)
		e.even = e.even && nodes[i].Weight == e.weight[0]
	}
	if !e.even {
		e.log = fixedlog.NewTable()
	}
	return e, nil
}

// A score is what a node has with a key. Its order is by weight / log, then by u, then by place in
// the electorate, which is by ID: a total order. Two scores of the same weight can be compared
// by u alone, as fixedlog.Neg is monotone; log is only there in an uneven electorate.
type score struct {
	u      uint64 // random: mix(key ^ node)
	log    uint64 // fixedlog.Neg(u)
	weight uint32
	node   int32 // place in the electorate
}

// score returns the score of node i with the key at h.
func (e *electorate) score(h uint64, i int) score {
	s := score{u: mix(h ^ e.hash[i]), weight: e.weight[i], node: int32(i)}
	if !e.even {
		s.log = fixedlog.Neg(e.log, s.u)
	}
	return s
}

// beats reports whether s comes before t.
func (s score) beats(t score) bool {
	if s.weight != t.weight {
		// s.weight / s.log > t.weight / t.log, without the divisions.
		ahi, alo := bits.Mul64(uint64(s.weight), t.log)
		bhi, blo := bits.Mul64(uint64(t.weight), s.log)
		if ahi != bhi {
			return ahi > bhi
		}
		if alo != blo {
			return alo > blo
		}
	}
	if s.u != t.u {
		return s.u > t.u
	}
	return s.node < t.node
}

// A reach spares most logarithms. It is made from a score: another, with the random number u and weight
// w, can only beat that one if 2^64 - u is at most w times the reach.
type reach uint64

// reach returns the reach of s. As -log2(u / 2^64) > (1 - u/2^64)·log2(e), and fixedlog.Neg rounds
// up, to beat s takes (2^64 - u)·log2(e) <= s.log / s.weight · w, in units of 2^-64. The reach may
// be too great by rounding, never too small; so floating point may be used here.
func (s score) reach() reach {
	const log2e = 1.44269
	r := float64(s.log) * (1 << (64 - fixedlog.Point) * (1 + 1e-9)) / (log2e * float64(s.weight))
	if r >= 1<<63 {
		return math.MaxUint64
	}
	return reach(r) + 1
}

// within reports whether a node of weight w with the random number u may beat the score.
func (r reach) within(u uint64, w uint32) bool {
	hi, lo := bits.Mul64(uint64(r), uint64(w))
	return hi > 0 || ^u < lo
}

// winner returns the index of the node with the highest score for the key at h, or -1.
func (e *electorate) winner(h uint64) int {
	if len(e.hash) == 0 {
		return -1
	}
	if e.even {
		var best uint64
		at := 0
		for i, node := range e.hash {
			if u := mix(h ^ node); u > best {
				best, at = u, i
			}
		}
		return int(e.index[at])
	}
	best := e.score(h, 0)
	reach := best.reach()
	weight := e.weight[:len(e.hash)]
	for i, node := range e.hash {
		u := mix(h ^ node)
		if !reach.within(u, weight[i]) {
			continue
		}
		s := score{u: u, log: fixedlog.Neg(e.log, u), weight: weight[i], node: int32(i)}
		if s.beats(best) {
			best, reach = s, s.reach()
		}
	}
	return int(e.index[best.node])
}

// few is the number of winners up to which they are found by insertion, without other memory.
const few = 16

var rankings = sync.Pool{New: func() any { return new([]score) }}

// appendRanking appends the indices of the n nodes with the highest scores, in their order.
func (e *electorate) appendRanking(dst []int32, h uint64, n int) []int32 {
	n = min(n, len(e.hash))
	if n <= 0 {
		return dst
	}
	if n <= few {
		var top [few]score
		for _, s := range top[:e.top(top[:n], h)] {
			dst = append(dst, e.index[s.node])
		}
		return dst
	}
	all := rankings.Get().(*[]score)
	*all = e.ranking((*all)[:0], h)
	for _, s := range (*all)[:n] {
		dst = append(dst, e.index[s.node])
	}
	rankings.Put(all)
	return dst
}

// top fills dst with the highest scores in their order, and returns how many there are.
func (e *electorate) top(dst []score, h uint64) int {
	n := 0
	reach := reach(math.MaxUint64)
	for i, node := range e.hash {
		s := score{u: mix(h ^ node), weight: e.weight[i], node: int32(i)}
		if n == len(dst) {
			if e.even {
				if s.u <= dst[n-1].u {
					continue // an equal one is of a later node, too
				}
			} else if !reach.within(s.u, s.weight) {
				continue
			}
		}
		if !e.even {
			s.log = fixedlog.Neg(e.log, s.u)
		}
		if n < len(dst) {
			n++
		} else if !s.beats(dst[n-1]) {
			continue
		}
		j := n - 1
		for j > 0 && s.beats(dst[j-1]) {
			dst[j] = dst[j-1]
			j--
		}
		dst[j] = s
		if n == len(dst) && !e.even {
			reach = dst[n-1].reach()
		}
	}
	return n
}

// ranking appends the scores of all nodes to dst, in their order.
func (e *electorate) ranking(dst []score, h uint64) []score {
	for i := range e.hash {
		dst = append(dst, e.score(h, i))
	}
	slices.SortFunc(dst, func(a, b score) int {
		if a.beats(b) {
			return -1
		}
		return 1
	})
	return dst
}
