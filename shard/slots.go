package shard

import "fmt"

// A SlotsConfig says how NewSlots divides keys.
type SlotsConfig struct {
	_ struct{}

	// Shards is the shards, each once, at most as many as there are slots. Each gets its share of the slots,
	// in one piece, in this order; the bounds between them are rounded to whole slots.
	Shards []ID
	// Hash is the hash whose slots these are. 0: XXH64.
	Hash Hash
	// Seed is the seed of XXH64. 0 for all other hashes.
	Seed uint64
	// Tags says that only the tag of a key is hashed, if it has one, so that keys with the same tag are
	// in the same shard; see HashTag. CRC16 does so without being told.
	Tags bool
	// Slots is the number of slots, a power of two up to 65,536. 0: 16,384, as Redis Cluster has. It must
	// be chosen once: with another number nearly all keys have other slots.
	Slots int
	// Epoch is the epoch of the topology. 0: 1.
	Epoch uint64
}

// NewSlots returns a Map by slots: the hash of a key says which slot it is in, and a table which shard has the
// slot. To add a shard, slots are moved there from the others (see Topology.Next), and only their keys
// move. With CRC16 it is what Redis Cluster does, bit for bit; with VitessHash and VitessXXHash a slot is the
// beginning of Vitess' keyspace ID, so 2, 4, 8 … shards have what Vitess' "-80" and "80-", and so on, have.
func NewSlots[K Key](c SlotsConfig) (*Map[K], error) {
	t := TopologyConfig{
		Epoch: max(c.Epoch, 1), Strategy: BySlots, Hash: c.Hash, Seed: c.Seed, Tags: c.Tags, Slots: c.Slots, Keys: KindOf[K](),
		Parts: make([]Part, len(c.Shards)),
	}
	if t.Hash == 0 {
		t.Hash = XXH64
	}
	if t.Slots == 0 {
		t.Slots = RedisSlots
	}
	if err := t.checkStrategy(); err != nil {
		return nil, err
	}
	n := len(c.Shards)
	if n < 1 || n > t.Slots {
		return nil, fmt.Errorf("shard: Shards must have from 1 to %d shards, one for each slot, got %d", t.Slots, n)
	}
	seen := map[ID]bool{}
	for i, id := range c.Shards {
		if seen[id] {
			return nil, fmt.Errorf("shard: Shards must have each shard once, got %q twice", id)
		}
		seen[id] = true
		t.Parts[i] = Part{
			ID: PartID(i), Shard: id,
			Low: slotBound(firstSlot(i, n, t.Slots), t.Slots), High: slotBound(firstSlot(i+1, n, t.Slots), t.Slots),
		}
	}
	return newMap[K](t)
}

// firstSlot returns the first slot of shard i of n: i·slots/n, rounded to the nearest.
func firstSlot(i, n, slots int) int {
	return int((2*int64(i)*int64(slots) + int64(n)) / (2 * int64(n)))
}
