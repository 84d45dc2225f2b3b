package consistenthash

import (
	"fmt"
	"iter"
	"math"
	"math/big"
	"slices"
)

// Maglev returns the algorithm of Google's load balancer (D. Eisenbud and others, "Maglev: A Fast and
// Reliable Software Network Load Balancer", NSDI 2016): the nodes take turns to take entries of
// a table, each in an order of its own. size is the number of entries: a prime, 65,537 if it is 0, and
// at most 16,777,213. It should be 100 times the number of nodes at least.
//
// It is the most even of all: the entries of nodes of the same weight differ by one at most. More keys
// move without need than with the other algorithms when nodes change. A node of a
// greater weight has its turn more often; every node with weight has one entry at least.
//
// A look-up reads one entry of the table, O(1). Replicas are the nodes of the entries that follow:
// they differ, and spread, but they are not who takes over when a node leaves, so with Maglev they
// do for hedged requests, not for stored copies. With another size nearly all keys have other
// owners. To build takes O(size·log(size)) with equal weights, O(size·n) at most. Memory is two
// bytes an entry; there can be at most 65,535 nodes.
func Maglev(size int) Algorithm { return maglevAlgorithm{size} }

type maglevAlgorithm struct{ n int }

func (a maglevAlgorithm) String() string { return fmt.Sprintf("maglev(%d)", a.size()) }

func (a maglevAlgorithm) size() int {
	if a.n == 0 {
		return 65537
	}
	return a.n
}

const maxMaglev = 16777213

func (a maglevAlgorithm) Build(nodes []Node) (Picker, error) {
	size := a.size()
	if size < 2 || size > maxMaglev || !big.NewInt(int64(size)).ProbablyPrime(0) {
		return nil, fmt.Errorf("consistenthash: Maglev's size must be a prime from 2 to %d, got %d", maxMaglev, size)
	}
	e, err := rank(nodes)
	if err != nil {
		return nil, err
	}
	if len(nodes) > maxSlotNodes || len(e.hash) > size {
		return nil, fmt.Errorf("consistenthash: Maglev takes at most %d nodes with a size of %d, got %d", min(maxSlotNodes, size), size, len(nodes))
	}
	m := &maglev{nodes: len(e.hash), limit: len(nodes)}
	if len(e.hash) > 0 {
		m.table = populate(e, uint64(size))
	}
	return m, nil
}

// populate lets the nodes take their entries. In each round a node of the greatest weight takes
// one, and another when the share of it that its weight stands for has added up to one. It begins
// with as much as lets it take one in the first round.
func populate(e electorate, size uint64) []uint16 {
	type turn struct{ at, skip, credit uint64 }
	greatest := uint64(slices.Max(e.weight))
	turns := make([]turn, len(e.hash))
	for i, h := range e.hash {
		turns[i] = turn{
			at:     scale(h, size),
			skip:   scale(mix(h^skipSalt), size-1) + 1,
			credit: greatest - uint64(e.weight[i]),
		}
	}
	table := make([]uint16, size)
	for i := range table {
		table[i] = noNode
	}
	for left := size; ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += uint64(e.weight[i]); t.credit < greatest {
				continue
			}
			t.credit -= greatest
			for table[t.at] != noNode {
				if t.at += t.skip; t.at >= size {
					t.at -= size
				}
			}
			table[t.at] = uint16(e.index[i])
			if left--; left == 0 {
				return table
			}
		}
	}
}

// maglev is the result of Maglev.
type maglev struct {
	table []uint16 // indices of nodes
	nodes int      // that have weight, and
	limit int      // one more than the greatest index
}

func (m *maglev) Pick(h uint64) int {
	i := scale(h, uint64(len(m.table)))
	if i >= uint64(len(m.table)) {
		return -1
	}
	return int(m.table[i])
}

func (m *maglev) AppendN(dst []int32, h uint64, n int) []int32 {
	if n = min(n, m.nodes); n <= 0 {
		return dst
	}
	return appendDistinct(dst, m.table, int(scale(h, uint64(len(m.table)))), n, m.limit)
}

func (m *maglev) Seq(h uint64) iter.Seq[int] { return sequence(m, h) }

func (m *maglev) Ranges() iter.Seq2[uint64, int] {
	return func(yield func(uint64, int) bool) {
		size := uint64(len(m.table))
		for i, node := range m.table {
			last := i+1 == len(m.table)
			if !last && m.table[i+1] == node {
				continue
			}
			end := uint64(math.MaxUint64)
			if !last {
				end = unscale(uint64(i)+1, size) - 1
			}
			if !yield(end, int(node)) {
				return
			}
		}
	}
}
