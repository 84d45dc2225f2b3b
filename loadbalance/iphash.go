package loadbalance

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/cespare/xxhash/v2"

	"github.com/sysblocks/sysblocks/internal/fixedlog"
)

// IPHash returns the Policy that gives all requests with the same Hash to the same endpoint, in
// proportion to their weights: those of a client, if Hash is HashAddr of its address. When an endpoint
// comes or goes, only those that are given to it, or were, move; and the same in all processes.
//
// It is weighted rendezvous hashing (C. Schindelhauer and G. Schomaker, 2005) over a table of 32,768
// places. So the standard deviation of equal shares is 2 % with 10 endpoints, 6 % with 100, and 17 %
// with 1000; an endpoint whose weight is below a part in ten thousand may have none. Where that
// matters, use ConsistentHash. A slow start does not matter to it: requests would move twice.
//
// To pick takes O(1). To build takes O(n) for each place, 3 ns for each if weights are equal, 10 ns
// otherwise; after a change of a few endpoints, as much for each place and endpoint that changed.
func IPHash() Policy { return hashPolicy{} }

// HashString returns a hash for Request.Hash: XXH64 with seed 0, the same in all processes.
func HashString(s string) uint64 { return xxhash.Sum64String(s) }

// HashAddr returns a hash of a client's address for Request.Hash, the same in all processes: of all of
// an IPv4 address, and of the first 64 bits of an IPv6 address, as the rest is often chosen anew by the
// same client. An IPv4 address in IPv6 form is the same as without it; zones do not matter.
func HashAddr(a netip.Addr) uint64 {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return mix(uint64(binary.BigEndian.Uint32(b[:])) + golden)
	}
	b := a.As16()
	return mix(mix(binary.BigEndian.Uint64(b[:8])+golden) + golden)
}

const places = 1 << 15

type hashPolicy struct{}

// A hashTable has an owner for each place: the endpoint with the lowest score there.
type hashTable struct {
	list   *list
	owners []uint16
	scores []float32
	logs   *fixedlog.Table
}

func (hashPolicy) Build(v View, prev Picker) Picker {
	t := &hashTable{list: v.l, owners: make([]uint16, places), scores: make([]float32, places), logs: fixedlog.NewTable()}
	before, _ := prev.(*hashTable)
	if before == nil || !t.follow(before) {
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
	now := make([]int, len(before.list.infos)) // the index of who was there before
	gone, added := 0, len(t.list.infos)
	stays := make([]bool, len(t.list.infos))
	for k, old := range before.list.infos {
		i, found := t.list.find(old.id)
		if !found || t.list.infos[i].weight != old.weight {
			now[k] = -1
			gone++
			continue
		}
		now[k] = i
		stays[i] = true
		added--
	}
	if 2*(gone+added) > len(t.list.infos) {
		return false // it is as fast to begin anew
	}
	for p, owner := range before.owners {
		if i := now[owner]; i >= 0 {
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
	return int(t.owners[mix(hash)&(places-1)])
}
