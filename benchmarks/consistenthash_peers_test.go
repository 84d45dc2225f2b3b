package benchmarks

import (
	"testing"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	gojump "github.com/dgryski/go-jump"
	gorendezvous "github.com/dgryski/go-rendezvous"
	lithammer "github.com/lithammer/go-jump-consistent-hash"
	"github.com/serialx/hashring"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// A placer is one implementation with its nodes and the keys to look up. Its loops are written
// out for each, so that what is measured is a direct call, as in a program. They look up
// keys[from:to], and return how many of the results are of the kind that is expected.
type placer struct {
	owner    func(key string) string       // "" if it is no node
	locate   func() func(from, to int) int // a loop for one goroutine
	several  func(key string) []string
	replicas func(from, to int) int // three nodes for each key
}

// A placerImpl makes placers of one implementation. What it does not have is nil.
type placerImpl struct {
	name string
	make func(tb testing.TB, nodes, keys []string) placer
	// build does once what makes a placer of the nodes; weights are nil if all are equal.
	build    func(tb testing.TB, nodes []string, weights []uint32)
	weighted bool
	// grow returns functions that add the node to the others, and that undo it.
	grow func(tb testing.TB, nodes []string, node string) (add, undo func())
}

const copies = 3 // nodes that replicas asks for

// placerImpls are all implementations. Those at the end have numbered buckets instead of nodes:
// nothing to build or to add, and no replicas.
func placerImpls() []placerImpl {
	return []placerImpl{
		oursPlacer("ours-slots", consistenthash.Slots(consistenthash.SlotsConfig{})),
		oursPlacer("ours-ring", consistenthash.Ring(consistenthash.RingConfig{})),
		oursPlacer("ours-rendezvous", consistenthash.Rendezvous()),
		oursPlacer("ours-maglev", consistenthash.Maglev(0)),
		oursPlacer("ours-ketama", consistenthash.Ketama()),
		hashringPlacer(),
		consistentPlacer(),
		rendezvousPlacer(),
		{name: "ours-jump", make: func(_ testing.TB, nodes, keys []string) placer {
			return placer{
				owner: func(key string) string {
					return bucket(nodes, consistenthash.Jump(xxhash.Sum64String(key), len(nodes)))
				},
				locate: same(func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if i := consistenthash.Jump(xxhash.Sum64String(k), len(nodes)); i >= 0 {
							legal++
						}
					}
					return legal
				}),
			}
		}},
		{name: "go-jump", make: func(_ testing.TB, nodes, keys []string) placer {
			return placer{
				owner: func(key string) string { return bucket(nodes, int(gojump.Hash(xxhash.Sum64String(key), len(nodes)))) },
				locate: same(func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if i := gojump.Hash(xxhash.Sum64String(k), len(nodes)); i >= 0 {
							legal++
						}
					}
					return legal
				}),
			}
		}},
		// lithammer's has hashes for strings, of which it recommends CRC64; one is for one goroutine.
		{name: "lithammer-jump", make: func(_ testing.TB, nodes, keys []string) placer {
			return placer{
				owner: func(key string) string {
					return bucket(nodes, int(lithammer.HashString(key, int32(len(nodes)), lithammer.NewCRC64())))
				},
				locate: func() func(from, to int) int {
					hasher := lithammer.NewCRC64()
					return func(from, to int) (legal int) {
						for _, k := range keys[from:to] {
							if i := lithammer.HashString(k, int32(len(nodes)), hasher); i >= 0 {
								legal++
							}
						}
						return legal
					}
				},
			}
		}},
	}
}

// same returns a function that returns loop: that many goroutines may share.
func same(loop func(from, to int) int) func() func(from, to int) int {
	return func() func(from, to int) int { return loop }
}

// bucket returns the node with the number i, "" if there is none.
func bucket(nodes []string, i int) string {
	if i < 0 || i >= len(nodes) {
		return ""
	}
	return nodes[i]
}

// oursPlacer is a Map with an algorithm of the package.
func oursPlacer(name string, algorithm consistenthash.Algorithm) placerImpl {
	member := func(node string, weight uint32) consistenthash.Member[string] {
		return consistenthash.Member[string]{Node: consistenthash.Node{ID: node, Weight: weight}, Value: node}
	}
	newMap := func(tb testing.TB, nodes []string, weights []uint32) *consistenthash.Map[string] {
		members := make([]consistenthash.Member[string], len(nodes))
		for i, n := range nodes {
			members[i] = member(n, 1)
			if weights != nil {
				members[i].Weight = weights[i]
			}
		}
		return must(consistenthash.New(consistenthash.Config[string]{Algorithm: algorithm, Members: members}))(tb)
	}
	return placerImpl{
		name: name,
		make: func(tb testing.TB, nodes, keys []string) placer {
			m := newMap(tb, nodes, nil)
			dst := make([]string, 0, copies)
			return placer{
				owner: func(key string) string {
					node, _ := m.Get(key)
					return node
				},
				locate: same(func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if node, ok := m.Get(k); ok && node != "" {
							legal++
						}
					}
					return legal
				}),
				several: func(key string) []string {
					return must(m.GetN(nil, key, copies, consistenthash.Placement{}))(tb)
				},
				replicas: func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if dst, err := m.GetN(dst[:0], k, copies, consistenthash.Placement{}); err == nil && len(dst) == copies {
							legal++
						}
					}
					return legal
				},
			}
		},
		build:    func(tb testing.TB, nodes []string, weights []uint32) { newMap(tb, nodes, weights) },
		weighted: true,
		grow: func(tb testing.TB, nodes []string, node string) (add, undo func()) {
			m := newMap(tb, nodes, nil)
			update := func(f func(*consistenthash.Tx[string]) error) {
				if err := m.Update(f); err != nil {
					tb.Fatal(err)
				}
			}
			return func() {
					update(func(tx *consistenthash.Tx[string]) error { return tx.Add(member(node, 1)) })
				}, func() {
					update(func(tx *consistenthash.Tx[string]) error { return tx.Remove(node) })
				}
		},
	}
}

// hashringPlacer is serialx/hashring. Its weights are numbers of points, one for each node if it
// is not told otherwise, which is no balance at all; so it is given 160 a node, as Ring and
// Ketama have.
func hashringPlacer() placerImpl {
	const points = 160
	newRing := func(nodes []string, weights []uint32) *hashring.HashRing {
		numbers := make(map[string]int, len(nodes))
		for i, n := range nodes {
			numbers[n] = points
			if weights != nil {
				numbers[n] *= int(weights[i])
			}
		}
		return hashring.NewWithWeights(numbers)
	}
	return placerImpl{
		name: "hashring",
		make: func(_ testing.TB, nodes, keys []string) placer {
			r := newRing(nodes, nil)
			return placer{
				owner: func(key string) string {
					node, _ := r.GetNode(key)
					return node
				},
				locate: same(func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if node, ok := r.GetNode(k); ok && node != "" {
							legal++
						}
					}
					return legal
				}),
				several: func(key string) []string {
					list, _ := r.GetNodes(key, copies)
					return list
				},
				replicas: func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if list, ok := r.GetNodes(k, copies); ok && len(list) == copies {
							legal++
						}
					}
					return legal
				},
			}
		},
		build:    func(_ testing.TB, nodes []string, weights []uint32) { newRing(nodes, weights) },
		weighted: true,
		grow: func(_ testing.TB, nodes []string, node string) (add, undo func()) {
			r := newRing(nodes, nil)
			// A ring never changes; the one with the node is another, and this one remains.
			return func() { r.AddWeightedNode(node, points) }, func() {}
		},
	}
}

// A named node is what consistent has as a member.
type named string

func (n named) String() string { return string(n) }

// xxHasher gives consistent the hash that the others have.
type xxHasher struct{}

func (xxHasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// consistentPlacer is buraksezer/consistent. It divides keys among partitions, each of which has
// an owner. Their number is a prime, with which the 1.25-fold of what is fair is enough for all
// partitions, as it must be, also with 1000 nodes: ceil(floor(7919 / 1000) · 1.25) · 1000 is
// 9000. It takes keys in byte slices, which are made beforehand, so that it is spared the
// conversion.
func consistentPlacer() placerImpl {
	newRing := func(nodes []string) *consistent.Consistent {
		members := make([]consistent.Member, len(nodes))
		for i, n := range nodes {
			members[i] = named(n)
		}
		return consistent.New(members, consistent.Config{
			Hasher: xxHasher{}, PartitionCount: 7919, ReplicationFactor: 20, Load: 1.25,
		})
	}
	return placerImpl{
		name: "consistent",
		make: func(tb testing.TB, nodes, keys []string) placer {
			c := newRing(nodes)
			bytes := make([][]byte, len(keys))
			for i, k := range keys {
				bytes[i] = []byte(k)
			}
			return placer{
				owner: func(key string) string {
					if m := c.LocateKey([]byte(key)); m != nil {
						return m.String()
					}
					return ""
				},
				locate: same(func(from, to int) (legal int) {
					for _, k := range bytes[from:to] {
						if m := c.LocateKey(k); m != nil {
							legal++
						}
					}
					return legal
				}),
				several: func(key string) (list []string) {
					for _, m := range must(c.GetClosestN([]byte(key), copies))(tb) {
						list = append(list, m.String())
					}
					return list
				},
				replicas: func(from, to int) (legal int) {
					for _, k := range bytes[from:to] {
						if list, err := c.GetClosestN(k, copies); err == nil && len(list) == copies {
							legal++
						}
					}
					return legal
				},
			}
		},
		build: func(_ testing.TB, nodes []string, _ []uint32) { newRing(nodes) },
		grow: func(_ testing.TB, nodes []string, node string) (add, undo func()) {
			c := newRing(nodes)
			return func() { c.Add(named(node)) }, func() { c.Remove(node) }
		},
	}
}

// rendezvousPlacer is dgryski/go-rendezvous, with xxhash. Its Remove panics, with an index that
// is out of range by one, so to undo is to make another one.
func rendezvousPlacer() placerImpl {
	return placerImpl{
		name: "go-rendezvous",
		make: func(_ testing.TB, nodes, keys []string) placer {
			r := gorendezvous.New(nodes, xxhash.Sum64String)
			return placer{
				owner: r.Lookup,
				locate: same(func(from, to int) (legal int) {
					for _, k := range keys[from:to] {
						if node := r.Lookup(k); node != "" {
							legal++
						}
					}
					return legal
				}),
			}
		},
		build: func(_ testing.TB, nodes []string, _ []uint32) { gorendezvous.New(nodes, xxhash.Sum64String) },
		grow: func(_ testing.TB, nodes []string, node string) (add, undo func()) {
			r := gorendezvous.New(nodes, xxhash.Sum64String)
			return func() { r.Add(node) }, func() { r = gorendezvous.New(nodes, xxhash.Sum64String) }
		},
	}
}
