package consistenthash_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// cache stands for whatever there is to be had for each node, such as a client.
type cache struct{ address string }

func members(ids ...string) []consistenthash.Member[*cache] {
	var members []consistenthash.Member[*cache]
	for i, id := range ids {
		members = append(members, consistenthash.Member[*cache]{
			Node:  consistenthash.Node{ID: id, Weight: 1, Zone: fmt.Sprint("zone", i%3)},
			Value: &cache{address: id + ":6379"},
		})
	}
	return members
}

func Example() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("redis-a", "redis-b", "redis-c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, user := range []string{"ann", "bob", "eve"} {
		c, _ := m.Get(user)
		fmt.Println(user, c.address)
	}

	// A node more takes its share of the keys, from all others alike; no other key moves.
	before := map[int]*cache{}
	for i := range 1000 {
		before[i], _ = m.Get(fmt.Sprint("key", i))
	}
	err = m.Update(func(tx *consistenthash.Tx[*cache]) error {
		return tx.Add(members("redis-d")[0])
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	moved := map[string]int{}
	for i := range 1000 {
		if now, _ := m.Get(fmt.Sprint("key", i)); now != before[i] {
			moved[now.address]++
		}
	}
	fmt.Println("moved", moved)
	// Output:
	// ann redis-c:6379
	// bob redis-a:6379
	// eve redis-a:6379
	// moved map[redis-d:6379:251]
}

func ExampleMap_Get() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	if c, ok := m.Get("some key"); ok { // false only if no member has weight
		fmt.Println(c.address)
	}
	// Output:
	// c:6379
}

// Numbers must be hashed: their upper bits are all alike.
func ExampleHashUint64() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	for user := range uint64(4) {
		wrong, _ := m.GetHash(user)
		right, _ := m.GetHash(consistenthash.HashUint64(user))
		fmt.Println(user, "not", wrong.address, "but", right.address)
	}
	// Output:
	// 0 not c:6379 but c:6379
	// 1 not c:6379 but b:6379
	// 2 not c:6379 but a:6379
	// 3 not c:6379 but c:6379
}

// Three replicas, each in another zone.
func ExampleMap_GetN() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c", "d", "e", "f")})
	if err != nil {
		fmt.Println(err)
		return
	}
	caches, err := m.GetN(nil, "some key", 3, consistenthash.Placement{MaxPerZone: 1})
	for _, c := range caches {
		fmt.Println(c.address)
	}
	fmt.Println(err)

	// A fourth zone there is not. Without Strict, what there is comes with the error.
	caches, err = m.GetN(nil, "some key", 4, consistenthash.Placement{MaxPerZone: 1})
	fmt.Println(len(caches), errors.Is(err, consistenthash.ErrTooFewZones))
	caches, err = m.GetN(nil, "some key", 4, consistenthash.Placement{MaxPerZone: 1, Strict: true})
	fmt.Println(len(caches), errors.Is(err, consistenthash.ErrTooFewZones))
	// Output:
	// c:6379
	// b:6379
	// a:6379
	// <nil>
	// 4 true
	// 0 true
}

// A batch of changes is one update: all of it, or nothing.
func ExampleMap_Update() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = m.Update(func(tx *consistenthash.Tx[*cache]) error {
		if err := tx.SetWeight("a", 0); err != nil { // drained
			return err
		}
		if err := tx.Add(members("d")[0]); err != nil {
			return err
		}
		return tx.Remove("x")
	})
	fmt.Println(err)
	for _, member := range m.Members() {
		fmt.Println(member.ID, member.Weight)
	}
	// Output:
	// consistenthash: node "x": no node has this ID
	// a 1
	// b 1
	// c 1
}

// Two processes find out whether they place all keys alike.
func ExampleMap_Fingerprint() {
	one, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	ordered := members("a", "b", "c")
	slices.Reverse(ordered)
	other, err := consistenthash.New(consistenthash.Config[*cache]{Members: ordered})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(one.Fingerprint() == other.Fingerprint())
	err = other.Update(func(tx *consistenthash.Tx[*cache]) error { return tx.SetWeight("a", 2) })
	fmt.Println(one.Fingerprint() == other.Fingerprint(), err)
	// Output:
	// true
	// false <nil>
}

// What another node would move, before it is there.
func ExampleDiff() {
	now, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c")})
	if err != nil {
		fmt.Println(err)
		return
	}
	planned, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c", "d")})
	if err != nil {
		fmt.Println(err)
		return
	}
	share := map[string]float64{}
	for move := range consistenthash.Diff(now, planned) {
		share[move.From+" to "+move.To] += move.Share()
	}
	for _, fromTo := range []string{"a to d", "b to d", "c to d", "a to b"} {
		fmt.Printf("%s: %.1f %%\n", fromTo, 100*share[fromTo])
	}
	// Output:
	// a to d: 8.3 %
	// b to d: 8.3 %
	// c to d: 8.3 %
	// a to b: 0.0 %
}

func ExampleDiffKeys() {
	config := consistenthash.Config[*cache]{Algorithm: consistenthash.Rendezvous(), Members: members("a", "b", "c")}
	now, err := consistenthash.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Members = members("a", "b")
	planned, err := consistenthash.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	keys := []uint64{now.Hash("ann"), now.Hash("bob"), now.Hash("eve")}
	for move := range consistenthash.DiffKeys(now, planned, slices.Values(keys)) {
		fmt.Println(slices.Index(keys, move.First), move.From, "to", move.To)
	}
	// Output:
	// 2 c to b
}

// A hot key does not overrun its owner: what is too much goes to other nodes.
func ExampleBounded() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c", "d")})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := consistenthash.NewBounded(m, consistenthash.BoundedConfig{LoadFactor: 1.25})
	if err != nil {
		fmt.Println(err)
		return
	}
	var leases []*consistenthash.Lease[*cache]
	for range 100 {
		lease, err := b.Acquire("hot")
		if err != nil {
			fmt.Println(err)
			return
		}
		leases = append(leases, &lease)
	}
	for _, id := range strings.Fields("a b c d") {
		fmt.Println(id, b.InFlight(id))
	}
	for _, lease := range leases {
		lease.Release()
	}
	fmt.Println(b.Total())
	// Output:
	// a 32
	// b 31
	// c 6
	// d 31
	// 0
}

func ExampleBounded_Do() {
	m, err := consistenthash.New(consistenthash.Config[*cache]{Members: members("a", "b", "c", "d")})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := consistenthash.NewBounded(m, consistenthash.BoundedConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = b.Do("some key", func(c *cache) error {
		fmt.Println("asking", c.address)
		return nil
	})
	fmt.Println(err, b.Total())
	// Output:
	// asking c:6379
	// <nil> 0
}

func ExampleJump() {
	for _, buckets := range []int{10, 11} {
		var row []int
		for user := range uint64(5) {
			row = append(row, consistenthash.Jump(consistenthash.HashUint64(user), buckets))
		}
		fmt.Println(row)
	}
	// Output:
	// [6 2 5 8 5]
	// [6 2 5 8 5]
}

// Nodes that are twice as big have twice the keys.
func ExampleRing() {
	big := members("a", "b", "c")
	big[0].Weight = 2
	m, err := consistenthash.New(consistenthash.Config[*cache]{
		Algorithm: consistenthash.Ring(consistenthash.RingConfig{VirtualNodes: 1000}),
		Members:   big,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	counts := map[string]int{}
	for key := range uint64(100_000) {
		c, _ := m.GetHash(consistenthash.HashUint64(key))
		counts[c.address]++
	}
	fmt.Println(counts)
	// Output:
	// map[a:6379:50361 b:6379:25892 c:6379:23747]
}

// A Member without a Weight is drained: it is known, but has no keys.
func ExampleNode_mistake() {
	m, err := consistenthash.New(consistenthash.Config[string]{
		Members: []consistenthash.Member[string]{{Node: consistenthash.Node{ID: "a"}, Value: "a:6379"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, ok := m.Get("some key")
	fmt.Println(m.Len(), ok)
	// Output:
	// 1 false
}
