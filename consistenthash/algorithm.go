package consistenthash

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// A Node is something that keys can be placed on.
type Node struct {
	ID string // distinguishes it, and decides where it is; not empty

	// Weight is its share of the keys, in proportion to the other nodes' weights. 0, which is
	// also what a forgotten Weight is: it is drained, that is, known but given no keys.
	Weight uint32

	// Zone is what GetN spreads replicas over: a rack, a data centre. "" is a zone like the others.
	Zone string
}

// An Algorithm decides which node has which key. Slots, Ring, Rendezvous, Maglev and Ketama return
// those that come with the package.
//
// One that has a String method is known by what it returns in Fingerprint; it should name the
// algorithm, its version and all parameters. Otherwise the name of its type stands for it.
// A KeyHasher hashes keys in its own way, and a Rebuilder knows how to make a new Picker
// from a former one.
type Algorithm interface {
	// Build makes a Picker for nodes. The result must depend on nothing but the set of nodes: not on
	// their order. It returns an error if nodes are not valid, and must not keep the slice.
	Build(nodes []Node) (Picker, error)
}

// A Picker says which node has a key. It never changes, and is safe for concurrent use by multiple
// goroutines.
type Picker interface {
	// Pick returns the owner of the keys at position h: its index in the list of nodes
	// that the Picker was built from, or -1 if no node has weight. It must not panic.
	Pick(h uint64) int
}

// A Replicator is a Picker that can name more than one node for a key.
type Replicator interface {
	Picker
	// AppendN appends to dst the first n nodes of the key's sequence, all different, by
	// their indices: the owner, then where replicas belong. There are fewer if there are
	// fewer nodes that it can place keys on; these are the same nodes for all h.
	AppendN(dst []int32, h uint64, n int) []int32
	// Seq returns the same sequence, to its end.
	Seq(h uint64) iter.Seq[int]
}

// A Ranger is a Picker whose keys lie in ranges of positions, which Diff compares.
type Ranger interface {
	Picker
	// Ranges returns ranges that cover all positions in ascending order: the last position of
	// each, and the owner's index. Nothing, if no node has weight.
	Ranges() iter.Seq2[uint64, int]
}

// A Rebuilder is an Algorithm for which a change costs less than a new Picker.
type Rebuilder interface {
	Algorithm
	// Rebuild returns what Build would return, given what Build or Rebuild returned for
	// other nodes. It must not change prev.
	Rebuild(prev Picker, nodes []Node) (Picker, error)
}

// A KeyHasher is an Algorithm with a hash of its own for keys, such as Ketama.
type KeyHasher interface {
	Algorithm
	// HashKey returns the position of a key. It must not change or keep the slice.
	HashKey(key []byte) uint64
}

// maxNodes bounds the number of nodes, so that sums of weights and indices stay far from their limits.
const maxNodes = 1 << 17

// ordered checks nodes and returns their indices in order of ID.
func ordered(nodes []Node) ([]int32, error) {
	if len(nodes) > maxNodes {
		return nil, fmt.Errorf("consistenthash: there may be at most %d nodes, got %d", maxNodes, len(nodes))
	}
	order := make([]int32, len(nodes))
	sorted := true
	for i := range nodes {
		if nodes[i].ID == "" {
			return nil, errEmptyID
		}
		order[i] = int32(i)
		sorted = sorted && (i == 0 || nodes[i-1].ID < nodes[i].ID)
	}
	if sorted {
		return order, nil
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(nodes[a].ID, nodes[b].ID) })
	for i := 1; i < len(order); i++ {
		if id := nodes[order[i]].ID; id == nodes[order[i-1]].ID {
			return nil, fmt.Errorf("consistenthash: node %q: %w", id, ErrDuplicate)
		}
	}
	return order, nil
}

// Errors that callers can tell apart with errors.Is.
var (
	// ErrDuplicate is in the error of giving two nodes the same ID.
	ErrDuplicate = errors.New("ID is there already")
	// ErrUnknown is in the error of changing or removing a node that is not there.
	ErrUnknown = errors.New("no node has this ID")
	// ErrTooFewNodes is in the error of asking for more nodes than can have keys.
	ErrTooFewNodes = errors.New("consistenthash: fewer nodes can have keys than were asked for")
	// ErrTooFewZones is in the error of asking for more nodes than MaxPerZone allows with
	// the zones there are.
	ErrTooFewZones = errors.New("consistenthash: too few zones for as many nodes as were asked for")
	// ErrNoNode is in the error of asking for a node where none has weight.
	ErrNoNode = errors.New("consistenthash: no node has weight")
)

var errEmptyID = errors.New("consistenthash: ID must not be empty")

// sequence returns the sequence of the key at h, which it asks for in parts that double.
func sequence(r Replicator, h uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		var nodes []int32
		for n := 4; ; n *= 2 {
			seen := len(nodes)
			nodes = r.AppendN(nodes[:0], h, n)
			for _, i := range nodes[seen:] {
				if !yield(int(i)) {
					return
				}
			}
			if len(nodes) < n {
				return
			}
		}
	}
}
