package loadbalance

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/cespare/xxhash/v2"

	"github.com/sysblocks/sysblocks/internal/fixedlog"
)

// IPHash returns the Policy that gives all requests with the same Hash to the same endpoint, in
// proportion to their weights: those of a client, if Hash is HashAddr of its address. When an endpoint comes or goes,
// only those that are given to it, or were, move; and the same in all processes.
//
// It is weighted rendezvous hashing (C. Schindelhauer and G. Schomaker, 2005) over a table: of 4096 places, or 256 for each
// endpoint if that is more, up to 65,536. So shares are even to about 6 % with up to 256 endpoints, and with thousands
// to 12 % or more; where that matters, use ConsistentHash. A slow start does not matter to it: requests would move twice.
//
// To pick takes O(1). To build takes 10 ns for each place and endpoint, and after a change of one
// endpoint, for each place.
func IPHash() Policy { return hashPolicy{} }

// HashString returns a hash for Request.Hash: XXH64 with seed 0, the same in all processes.
func HashString(s string) uint64 { return xxhash.Sum64String(s) }

// HashAddr returns a hash of a client's address for Request.Hash, the same in all processes: of all of an IPv4
// address, and of the first 64 bits of an IPv6 address, as the rest is often chosen anew by the same
// client. An IPv4 address in IPv6 form is the same as without it; zones do not matter.
func HashAddr(a netip.Addr) uint64 {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return mix(uint64(binary.BigEndian.Uint32(b[:])) + golden)
	}
	b := a.As16()
	return mix(mix(binary.BigEndian.Uint64(b[:8])+golden) + golden)
}

const (
	minPlaces     = 1 << 12
	maxPlaces     = 1 << 16
	placesPerHost = 256
)

type hashPolicy struct{}

// A hashTable has an owner for each place: the endpoint with the lowest score there.
type hashTable struct {
	list   *list
	owners []uint16
	scores []float32
	logs   *fixedlog.Table
}

func (hashPolicy) Build(v View, prev Picker) Picker {
	n := minPlaces
	for n < maxPlaces && n < placesPerHost*v.Len() {
		n *= 2
	}
	t := &hashTable{list: v.l, owners: make([]uint16, n), scores: make([]float32, n), logs: fixedlog.NewTable()}
	before, _ := prev.(*hashTable)
	if before == nil || len(before.owners) != n || !t.follow(before) {
		for i := range t.scores {
			t.scores[i] = float32(math.Inf(1))
		}
		for i := range v.l.infos {
			t.claim(i)
		}
	}
	return t
}

// follow makes the table from one before. It reports false if too much has changed.
func (t *hashTable) follow(before *hashTable) bool {
	const gone = -1
	now := make([]int, len(before.list.infos)) // the index of who was there before
	changes := 0
	stays := make([]bool, len(t.list.infos))
	for k, old := range before.list.infos {
		i, found := t.list.find(old.id)
		if !found || t.list.infos[i].weight != old.weight {
			now[k] = gone
			changes++
			continue
		}
		now[k] = i
		stays[i] = true
	}
	if changes > 2 {
		return false
	}
	for p, owner := range before.owners {
		if i := now[owner]; i != gone {
			t.owners[p], t.scores[p] = uint16(i), before.scores[p]
			continue
		}
		t.scores[p] = float32(math.Inf(1))
		for i, x := range t.list.infos {
			if stays[i] {
				t.offer(p, i, t.score(HashString(x.id), p, x.weight))
			}
		}
	}
	for i := range stays {
		if !stays[i] {
			t.claim(i)
		}
	}
	return true
}

// claim offers all places to endpoint i.
func (t *hashTable) claim(i int) {
	id, weight := HashString(t.list.infos[i].id), t.list.infos[i].weight
	for p := range t.owners {
		t.offer(p, i, t.score(id, p, weight))
	}
}

// offer makes endpoint i the owner of a place if its score is lower; of equal ones, the first has it.
func (t *hashTable) offer(p, i int, s float32) {
	if s < t.scores[p] || s == t.scores[p] && i < int(t.owners[p]) {
		t.owners[p], t.scores[p] = uint16(i), s
	}
}

// score is an exponentially distributed number with the rate weight, so the lowest of several is
// each one's with a probability in proportion to the weights. It is the same on all machines: a division is
// rounded in one way.
func (t *hashTable) score(id uint64, place int, weight uint32) float32 {
	u := mix(id ^ mix(uint64(place)+golden))
	return float32(float64(fixedlog.Neg(t.logs, u)) / float64(weight))
}

func (t *hashTable) Pick(_ View, r Request) int {
	i := t.at(r.Hash)
	for k := uint64(1); r.Tried != nil && r.tried(t.list.infos[i].id) && k <= 16; k++ {
		i = t.at(mix(r.Hash + k*golden))
	}
	return i
}

func (t *hashTable) at(hash uint64) int {
	// Mixed, as callers may pass numbers that are no hashes.
	return int(t.owners[mix(hash)&uint64(len(t.owners)-1)])
}
