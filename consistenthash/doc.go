// Package consistenthash decides which of several nodes has a key, so that all processes that
// know the nodes decide alike, and few keys move when nodes come and go.
//
// Map is for almost everybody: nodes with weights and zones, what belongs to each of them, and
// look-ups that take no lock while nodes change. Bounded, on top of it, keeps a node with a hot
// key from being overrun. Algorithms decide what is where; a Map with any of them works the same.
//
// Do not use it where it does not matter which node does the work: a balancer that looks at
// their load spreads it better (package loadbalance). To move stored data when ownership
// changes, it tells what moves (Diff), but does not move it.
//
// # Which to choose
//
//	              Slots          Ring         Rendezvous   Maglev       Ketama       Jump
//	choose it     by default     nothing may  few nodes,   load must    others       buckets are
//	when                         move that    or many      be evenest   already      numbered, come and
//	                             need not     weights                   use it       go at the end
//	peak load,    1.01           1.12         1.00         1.00         1.25         1.00
//	10 nodes
//	100           1.05           1.22         1.00         1.00         1.40         1.00
//	1000          1.05           1.30         1.00         1.01         1.60         1.00
//	moves without a few of       nothing      nothing      a few of     nothing      nothing
//	need          10,000                                   1,000
//	a look-up     O(1), 2 ns     O(1), 10 ns  O(n), 1.5 ns O(1), 3 ns   O(1), 10 ns  O(log n)
//	                                          a node
//	a change,     3 ms           3 ms         0.2 ms       2 ms         40 ms        none
//	1000 nodes
//	memory        1.2 MB         16 to 20 B   none         0.13 MB      16 to 20 B   none
//	                             a point                                a point
//	weights       yes            yes          yes          yes          yes          no
//	replicas      yes            yes          yes          yes          yes          no
//	Diff          yes            yes          no           yes          yes          no
//
// Peak load is that of the most loaded node, as a multiple of its fair share, with equal weights:
// of the positions, slots or entries that it has. What is asked for is not even, so real load is less
// so; where that matters, use Bounded. Without need means: from a node that stays to another one that
// was there before.
//
// # What can be relied on
//
// Placement depends on the set of nodes, by their IDs and weights, and on nothing else: not on
// the order in which they came, not on what was there before, not on the process or the machine. All
// is computed in integers, or rounded as IEEE 754 prescribes, so it is the same to the last bit on all
// platforms; testdata has placements of every algorithm that the tests compare with. If one ever changes,
// it is a breaking change, and Fingerprint changes with it. Two processes that compare
// fingerprints know whether they agree on all keys.
//
// Nodes whose points or scores collide are ordered by ID; none is lost, and when one goes, the other is
// there. No look-up allocates or takes a lock; an Update happens entirely or not at all.
//
// Keys are hashed with XXH64, which is quick and even, but no secret: who can choose keys can find any
// number of them that go to one node. Where that is a danger, hash keys with a secret of your own
// and use GetHash, GetNHash and AcquireHash; or use Bounded.
//
// # Replicas
//
// Each key has a sequence of all nodes, in which its owner is the first, and GetN takes what it
// returns from its beginning. With Slots, Ring and Rendezvous the rest of the sequence remains as
// it is when a node leaves, but for that node (with Slots nearly always), so the next in the sequence
// is who takes over. The sequences of two keys of the same node differ, so its keys
// spread over many others when it fails.
package consistenthash
