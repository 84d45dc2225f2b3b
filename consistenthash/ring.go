package consistenthash

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"
	"sync"
)

// A RingConfig says how Ring places keys.
type RingConfig struct {
	_ struct{}

	// VirtualNodes is the number of points that a node of weight WeightUnit has on the ring, from
	// 1 to 65,536. The more, the more even is the load: a node's share of it deviates by
	// 1/sqrt(points) from the fair one. With twice as many, half of the keys have other
	// owners: choose it once. 0: 160.
	VirtualNodes int

	// WeightUnit is the weight for which a node has VirtualNodes points; others have more or
	// fewer in proportion, rounded, but at least one. Choose it so that the usual weight has
	// some hundred points: all together may have 16,777,216. 0: 1.
	WeightUnit uint32
}

// Ring returns the classic consistent hashing (D. Karger and others, "Consistent Hashing and Random
// Trees", STOC 1997): each node has points on a ring of 2^64 positions, and a key belongs to the
// node of the next point, at its own position or after it.
//
// Nothing moves but to a node whose weight has grown, and from one whose weight has fallen; a
// key's replicas are on the nodes that come next, and as each point has another neighbour, the
// keys of a node that fails spread over many others. The price is that the load is only as even
// as the points are: with 160 of them, the most loaded of 100 nodes has about 1.2 times
// its share. Points at the same position are all kept, and the one of the lowest ID counts.
//
// A look-up takes O(1): an index of the ring leads to the place where the points
// begin that come into question, on average one. To build it takes O(points); memory is 16
// to 20 bytes a point.
func Ring(c RingConfig) Algorithm { return ringAlgorithm{c} }

type ringAlgorithm struct{ RingConfig }

func (a ringAlgorithm) String() string {
	n, unit := a.parameters()
	return fmt.Sprintf("ring(%d,%d)", n, unit)
}

func (a ringAlgorithm) parameters() (virtual int, unit uint32) {
	virtual, unit = 160, 1
	if a.VirtualNodes != 0 {
		virtual = a.VirtualNodes
	}
	if a.WeightUnit != 0 {
		unit = a.WeightUnit
	}
	return virtual, unit
}

const (
	maxVirtual = 1 << 16
	maxPoints  = 1 << 24
)

func (a ringAlgorithm) Build(nodes []Node) (Picker, error) {
	if n := a.VirtualNodes; n != 0 && (n < 1 || n > maxVirtual) {
		return nil, fmt.Errorf("consistenthash: VirtualNodes must be from 1 to %d, got %d", maxVirtual, n)
	}
	order, err := ordered(nodes)
	if err != nil {
		return nil, err
	}
	virtual, unit := a.parameters()
	counts := make([]int, len(order)) // of points
	total := 0
	for i, at := range order {
		if w := nodes[at].Weight; w > 0 {
			n := (uint64(w)*uint64(virtual)*2 + uint64(unit)) / (2 * uint64(unit)) // rounded
			counts[i] = int(min(max(n, 1), maxPoints+1))
		}
		if total += counts[i]; total > maxPoints {
			return nil, fmt.Errorf("consistenthash: Ring takes at most %d points, got more: "+
				"VirtualNodes is %d, WeightUnit %d, and node %q has weight %d", maxPoints, virtual, unit, nodes[at].ID, nodes[at].Weight)
		}
	}
	points := make([]ringPoint, 0, total)
	for i, at := range order {
		h := hashNode(nodes[at].ID)
		for j := range counts[i] {
			points = append(points, ringPoint{point(h, j), int32(i)})
		}
	}
	return newRing(points, order), nil
}

// A ringPoint is a virtual node.
type ringPoint struct {
	at   uint64
	node int32 // its place in order of ID
}

// A ring is points in order, and an index by their upper bits.
//
// points is sorted, and ends with 2^64-1 as a sentinel that belongs to the node of the first point:
// so a search always ends, and after the last point comes the first. start[b] is the first
// i for which points[i]>>shift >= b. Points are random, and there are as many b as points or more,
// so a search that begins there looks at two on average.
type ring struct {
	points []uint64
	owners []int32 // of points, as indices in the list of nodes
	start  []uint32
	shift  uint8
	nodes  int // that have points, and
	limit  int // one more than the greatest index
}

// newRing makes a ring of points whose nodes are places in order, which leads to their indices.
func newRing(points []ringPoint, order []int32) *ring {
	r := &ring{limit: len(order)}
	if len(points) == 0 {
		return r
	}
	logBuckets := max(1, bits.Len(uint(len(points)-1))) // so that the shift is less than 64
	r.shift = uint8(64 - logBuckets)
	// The index is made first, by counting, and is what sorts: each point goes into its
	// bucket, and there are only a few to be ordered in each.
	buckets := 1 << logBuckets
	r.start = make([]uint32, buckets+1)
	for _, p := range points {
		r.start[p.at>>r.shift+1]++
	}
	for b := range buckets {
		r.start[b+1] += r.start[b]
	}
	sorted := make([]ringPoint, len(points))
	for _, p := range points {
		b := p.at >> r.shift
		sorted[r.start[b]] = p
		r.start[b]++
	}
	copy(r.start[1:], r.start) // each entry had moved to the end of its bucket
	r.start[0] = 0
	for b := range buckets {
		if bucket := sorted[r.start[b]:r.start[b+1]]; len(bucket) > 1 {
			sortPoints(bucket)
		}
	}
	r.points = make([]uint64, len(points)+1)
	r.owners = make([]int32, len(points)+1)
	seen := make([]bool, len(order))
	for i, p := range sorted {
		r.points[i], r.owners[i] = p.at, order[p.node]
		if !seen[p.node] {
			seen[p.node] = true
			r.nodes++
		}
	}
	r.points[len(points)], r.owners[len(points)] = math.MaxUint64, r.owners[0]
	return r
}

// sortPoints sorts points by position, then by ID.
func sortPoints(points []ringPoint) {
	if len(points) > 16 {
		slices.SortFunc(points, func(a, b ringPoint) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.node, b.node))
		})
		return
	}
	for i := 1; i < len(points); i++ {
		p := points[i]
		j := i
		for j > 0 && (points[j-1].at > p.at || points[j-1].at == p.at && points[j-1].node > p.node) {
			points[j] = points[j-1]
			j--
		}
		points[j] = p
	}
}

// next returns the place of the first point at h or after it. The ring must not be empty.
func (r *ring) next(h uint64) int {
	i := int(r.start[h>>(r.shift&63)])
	for r.points[i] < h {
		i++
	}
	return i
}

func (r *ring) Pick(h uint64) int {
	if len(r.points) == 0 {
		return -1
	}
	return int(r.owners[r.next(h)])
}

func (r *ring) AppendN(dst []int32, h uint64, n int) []int32 {
	if n = min(n, r.nodes); n <= 0 {
		return dst
	}
	return appendDistinct(dst, r.owners, r.next(h), n, r.limit)
}

// marks are sets of nodes, for walks that are to find many.
var marks = sync.Pool{New: func() any { return new([]uint64) }}

// appendDistinct walks around owners from i on, and appends the first n that differ; there must be
// as many. All are less than limit.
func appendDistinct[N uint16 | int32](dst []int32, owners []N, i, n, limit int) []int32 {
	found := len(dst)
	if n <= few {
		for len(dst) < found+n {
			if node := int32(owners[i]); !slices.Contains(dst[found:], node) {
				dst = append(dst, node)
			}
			if i++; i == len(owners) {
				i = 0
			}
		}
		return dst
	}
	set := marks.Get().(*[]uint64)
	words := (limit + 63) / 64
	*set = slices.Grow((*set)[:0], words)[:words]
	clear(*set)
	for len(dst) < found+n {
		node := int32(owners[i])
		if word, bit := &(*set)[node>>6], uint64(1)<<(node&63); *word&bit == 0 {
			*word |= bit
			dst = append(dst, node)
		}
		if i++; i == len(owners) {
			i = 0
		}
	}
	marks.Put(set)
	return dst
}

func (r *ring) Seq(h uint64) iter.Seq[int] { return sequence(r, h) }

func (r *ring) Ranges() iter.Seq2[uint64, int] {
	return func(yield func(uint64, int) bool) {
		for i, owner := range r.owners {
			if i+1 < len(r.owners) && r.owners[i+1] == owner && r.points[i+1] != r.points[i] {
				continue // one range
			}
			if i > 0 && r.points[i] == r.points[i-1] {
				continue // not the first at this position, so it owns nothing
			}
			if !yield(r.points[i], int(owner)) {
				return
			}
		}
	}
}
