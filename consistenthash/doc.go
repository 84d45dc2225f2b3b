// Package consistenthash decides which of several nodes has a key, so that all processes that
// know the nodes decide alike, and few keys move when nodes come and go.
//
// Map is for almost everybody: nodes with weights and zones, what belongs to each of them, and
// look-ups that take no lock while nodes change. Bounded, on top of it, keeps a node with a hot
// key from being overrun. Algorithms decide what is where; a Map with any of them works the same.
//
// Do not use it where it does not matter which node does the work: a balancer that looks at
// their load spreads it better. To move stored data when ownership
// changes, it tells what moves (Diff), but does not move it.
//
// # Which to choose
//
//	              Slots          Ring           Rendezvous     Maglev         Ketama         Jump
//	choose it     by default     copies are     few nodes,     load must be   others         buckets are
//	when                         stored; none   or very        evenest        already        numbered, and
//	                             may move       different                     use it         come and go
//	                             without need   weights                                      at the end
//	peak load,    1.02           1.11           1.00           1.00           1.12           1.00
//	10 nodes
//	100           1.05           1.20           1.00           1.00           1.21           1.00
//	1000          1.05           1.27           1.00           1.01           1.28           1.00
//	least load,   0.67           0.77           1.00           0.99           0.76           1.00
//	1000 nodes
//	moves without 0.03 %         nothing        nothing        0.6 %          nothing, but   nothing
//	need, of 100                                                              see there
//	nodes
//	next in the   takes over,    takes over     takes over     does not       takes over     -
//	sequence      nearly always                                take over      nearly always
//	a look-up     O(1), 2 ns     O(1), 10 ns    O(n), 1.3 to   O(1), 5 ns     O(1), 10 ns    O(log n)
//	                                            2.2 ns a node
//	a change,     3 ms           3 ms           0.3 ms         2 ms           12 ms          none
//	1000 nodes
//	memory        1.2 MB         16 to 20       none           0.13 MB        16 to 20       none
//	                             bytes a point                                bytes a point
//	weights       yes            yes            yes            yes            yes            no
//	Diff          yes            yes            no             yes            yes            no
//
// Peak and least load are those of the most and of the least loaded node, as a multiple of its fair
// share, with equal weights: of the positions, slots or entries that it has (benchmarks/balance
// computes them). What is asked for is not even, so the load in requests is less even than that;
// where it matters, use Bounded. (Of Rendezvous and Jump only samples can be taken, which deviate
// by chance; 1.00 is what they tend to.) Without need means: from a node that stays to another one
// that was there before, when one leaves. The time of a look-up is without the hash of the key.
//
// # What can be relied on
//
// Placement depends on the set of nodes, by their IDs and weights, and on nothing else: not on the
// order in which they came, not on what was there before, not on the process or the machine. All is
// computed in integers, or rounded as IEEE 754 prescribes, so it is the same to the last bit on all
// platforms; testdata has placements of every algorithm that the tests compare with. If one ever
// changes, it is a breaking change, and Fingerprint changes with it. Two processes whose
// fingerprints are equal agree on all keys.
//
// Nodes whose points or scores collide are ordered by ID; none is lost, and when one goes, the other
// is there. No look-up takes a lock, or allocates (but for errors of GetN with Strict); an Update
// happens entirely or not at all.
//
// Keys are hashed with XXH64, which is quick and even, but no secret: who can choose keys can find any
// number of them that go to one node. Where that is a danger, hash keys with a secret of your own
// and use GetHash, GetNHash and AcquireHash; or use Bounded.
//
// # Replicas
//
// Each key has a sequence of all nodes, in which its owner is the first, and GetN takes what it
// returns from its beginning. With Ring and Rendezvous the sequence remains as it is when a node
// leaves, but for that node, so the next one is who takes over, and has a copy if GetN chose where
// copies are. With Slots and Ketama that is nearly always so; their comments say when not. With Maglev
// it is not. The sequences of two keys of the same node differ, so its keys spread over many others
// when it fails.
package consistenthash
