package shard

import "fmt"

// A ModConfig says how NewMod divides keys.
type ModConfig struct {
	_ struct{}

	// Shards is the shard of each remainder, from 0 on, so their number is what keys are divided by: from 1
	// to 65,536. A shard may have several.
	Shards []ID
	// Hash is what is divided. 0: Identity for integers, and XXH64 for all other keys.
	Hash Hash
	// Seed is the seed of XXH64. 0 for all other hashes.
	Seed uint64
	// Tags says that only the tag of a key is hashed, if it has one; see HashTag.
	Tags bool
	// Epoch is the epoch of the topology. 0: 1.
	Epoch uint64
}

// NewMod returns a Map by remainders: the key k is in Shards[k mod len(Shards)]. Of negative keys the
// remainder counts as well from 0 up, as in mathematics: -1 is in the last shard. The operator % of Go, C
// and SQL gives negative remainders, and abs(k) % n other ones: who has data that was placed so
// must keep to that.
//
// It is for data that is divided so already, and will stay. With another number of shards nearly all keys
// have other shards; with NewSlots few.
func NewMod[K Key](c ModConfig) (*Map[K], error) {
	if n := len(c.Shards); n < 1 || n > maxSlots {
		return nil, fmt.Errorf("shard: Shards must have from 1 to %d shards, got %d", maxSlots, n)
	}
	t := TopologyConfig{
		Epoch: max(c.Epoch, 1), Strategy: ByMod, Hash: c.Hash, Seed: c.Seed, Tags: c.Tags, Keys: KindOf[K](),
		Slots: len(c.Shards), Parts: make([]Part, len(c.Shards)),
	}
	if t.Hash == 0 {
		t.Hash = XXH64
		if k := KindOf[K](); k == Int || k == Uint {
			t.Hash = Identity
		}
	}
	for i, id := range c.Shards {
		t.Parts[i] = Part{ID: PartID(i), Low: slotBound(i, t.Slots), High: slotBound(i+1, t.Slots), Shard: id}
	}
	return newMap[K](t)
}

// slotBound returns the bound below slot i of n, which is none at both ends.
func slotBound(i, n int) []byte {
	if i == 0 || i == n {
		return nil
	}
	return encodeWord(uint64(i))
}

// newMap returns a Map with the topology of c.
func newMap[K Key](c TopologyConfig) (*Map[K], error) {
	t, err := NewTopology(c)
	if err != nil {
		return nil, err
	}
	return NewMap[K](t)
}
