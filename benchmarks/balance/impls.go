package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	gojump "github.com/dgryski/go-jump"
	gorendezvous "github.com/dgryski/go-rendezvous"
	lithammer "github.com/lithammer/go-jump-consistent-hash"
	"github.com/serialx/hashring"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// An impl is one way to place keys on nodes.
type impl struct {
	name string
	of   string // what its load is measured of
	peer bool
	// numbered says that nodes are numbers: only the last one can leave.
	numbered bool
	// apart keeps it out of the drawings, as it would make all others look alike.
	apart bool
	// build places keys on nodes. prev, which may be nil, is what build returned for others; it
	// may be used, and is not valid afterwards if the implementation changes it.
	build func(prev placement, nodes []string) (placement, error)
}

// sampled is what is measured of keys that stand for all others.
const sampled = "keys"

// A placement is an impl with nodes. Nodes are called by their places in the list of them.
type placement interface {
	// territory returns who has what: of all there is if that can be told, or of the keys, which
	// are only made if they are needed.
	territory(keys func() []string) territory
}

func impls() []impl {
	return []impl{
		ours("slots", "slots", consistenthash.Slots(consistenthash.SlotsConfig{})),
		ours("ring", "positions", consistenthash.Ring(consistenthash.RingConfig{})),
		ours("rendezvous", sampled, consistenthash.Rendezvous()),
		ours("maglev", "entries", consistenthash.Maglev(0)),
		ours("ketama", "positions", consistenthash.Ketama()),
		{name: "jump", of: sampled, numbered: true, build: func(_ placement, nodes []string) (placement, error) {
			return lookup(func(key string) int { return consistenthash.Jump(xxhash.Sum64String(key), len(nodes)) }), nil
		}},
		hashringOf("hashring", 160),
		hashringOf("hashring/points=1", 1),
		{name: "consistent", of: "partitions", peer: true, build: buildConsistent},
		{name: "go-rendezvous", of: sampled, peer: true, build: func(_ placement, nodes []string) (placement, error) {
			// It has a Remove, but that panics.
			r, places := gorendezvous.New(nodes, xxhash.Sum64String), placesOf(nodes)
			return lookup(func(key string) int { return places[r.Lookup(key)] }), nil
		}},
		{name: "go-jump", of: sampled, peer: true, numbered: true, build: func(_ placement, nodes []string) (placement, error) {
			return lookup(func(key string) int { return int(gojump.Hash(xxhash.Sum64String(key), len(nodes))) }), nil
		}},
		{name: "lithammer-jump", of: sampled, peer: true, numbered: true, build: func(_ placement, nodes []string) (placement, error) {
			hasher := lithammer.NewCRC64()
			return lookup(func(key string) int { return int(lithammer.HashString(key, int32(len(nodes)), hasher)) }), nil
		}},
	}
}

// choose returns the implementations in a list, or all if it is empty.
func choose(all []impl, list string) ([]impl, error) {
	if list == "" {
		return all, nil
	}
	var names []string
	for _, in := range all {
		names = append(names, in.name)
	}
	var chosen []impl
	for _, name := range split(list) {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("-only: no implementation %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// placesOf returns the place of each node in the list.
func placesOf(nodes []string) map[string]int {
	places := make(map[string]int, len(nodes))
	for i, n := range nodes {
		places[n] = i
	}
	return places
}

// ours is an algorithm of the package.
func ours(name, of string, a consistenthash.Algorithm) impl {
	return impl{name: name, of: of, build: func(prev placement, nodes []string) (placement, error) {
		list := make([]consistenthash.Node, len(nodes))
		for i, n := range nodes {
			list[i] = consistenthash.Node{ID: n, Weight: 1}
		}
		rebuilder, ok := a.(consistenthash.Rebuilder)
		if old, ranged := prev.(ranges); ok && ranged {
			p, err := rebuilder.Rebuild(old.Ranger, list)
			return placementOf(p, err)
		}
		p, err := a.Build(list)
		return placementOf(p, err)
	}}
}

// placementOf is the placement of a Picker: by its ranges, if it has some.
func placementOf(p consistenthash.Picker, err error) (placement, error) {
	if err != nil {
		return nil, err
	}
	if r, ok := p.(consistenthash.Ranger); ok {
		return ranges{r}, nil
	}
	return lookup(func(key string) int { return p.Pick(xxhash.Sum64String(key)) }), nil
}

// ranges are the positions of an algorithm of the package.
type ranges struct{ consistenthash.Ranger }

func (r ranges) territory(func() []string) (t territory) {
	for last, owner := range r.Ranges() {
		t = append(t, span{last, int32(owner)})
	}
	return t
}

// A lookup returns the place of the node that has a key.
type lookup func(key string) int

func (l lookup) territory(keys func() []string) territory {
	list := keys()
	t := make(territory, len(list))
	for i, k := range list {
		t[i] = span{uint64(i), int32(l(k))}
	}
	return t
}

// hashringOf is serialx/hashring with as many points for each node. It has one if it is not told
// otherwise; 160 are what Ring and Ketama have. Each change makes a new ring.
func hashringOf(name string, points int) impl {
	return impl{name: name, of: sampled, peer: true, apart: points == 1, build: func(_ placement, nodes []string) (placement, error) {
		weights := make(map[string]int, len(nodes))
		for _, n := range nodes {
			weights[n] = points
		}
		r, places := hashring.NewWithWeights(weights), placesOf(nodes)
		return lookup(func(key string) int {
			node, _ := r.GetNode(key)
			return places[node]
		}), nil
	}}
}

// consistentPartitions is a prime that is enough for 1000 nodes.
const consistentPartitions = 7919

// partitions is buraksezer/consistent, with the places of its nodes.
type partitions struct {
	*consistent.Consistent
	places map[string]int
}

type named string

func (n named) String() string { return string(n) }

type xxHasher struct{}

func (xxHasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// buildConsistent changes prev, because a new one takes much longer.
func buildConsistent(prev placement, nodes []string) (placement, error) {
	places := placesOf(nodes)
	if old, ok := prev.(partitions); ok {
		for n := range old.places {
			if _, stays := places[n]; !stays {
				old.Remove(n)
			}
		}
		for _, n := range nodes {
			old.Add(named(n)) // nothing happens if it is there
		}
		return partitions{old.Consistent, places}, nil
	}
	members := make([]consistent.Member, len(nodes))
	for i, n := range nodes {
		members[i] = named(n)
	}
	c := consistent.New(members, consistent.Config{
		Hasher: xxHasher{}, PartitionCount: consistentPartitions, ReplicationFactor: 20, Load: 1.25,
	})
	return partitions{c, places}, nil
}

func (p partitions) territory(func() []string) territory {
	t := make(territory, consistentPartitions)
	for i := range t {
		t[i] = span{uint64(i), int32(p.places[p.GetPartitionOwner(i).String()])}
	}
	return t
}
