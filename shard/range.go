package shard

import (
	"bytes"
	"fmt"
)

// A RangeConfig says how NewRange divides keys.
type RangeConfig[K Key] struct {
	_ struct{}

	// Bounds is where one range ends and the next one begins, ascending: range i has the keys k with
	// Bounds[i-1] <= k < Bounds[i]. The first range begins with the least key that there is, and the last
	// one has no end. The least key itself, an empty string or the least integer of 64 bits, is no bound.
	Bounds []K
	// Shards is the shard of each range, one more than Bounds. A shard may have several.
	Shards []ID
	// Epoch is the epoch of the topology. 0: 1.
	Epoch uint64
}

// NewRange returns a Map by ranges of keys. Neighbours are in the same shard, so a query for a range of keys
// asks few shards (RouteRange); and so are all the keys of today, if keys grow with time: then the last
// shard has all the load. It takes O(n) for n ranges.
func NewRange[K Key](c RangeConfig[K]) (*Map[K], error) {
	n := len(c.Shards)
	switch {
	case n < 1 || n > maxParts:
		return nil, fmt.Errorf("shard: Shards must have from 1 to %d shards, got %d", maxParts, n)
	case len(c.Bounds) != n-1:
		return nil, fmt.Errorf("shard: Bounds must have one bound less than Shards, %d, got %d", n-1, len(c.Bounds))
	}
	t := TopologyConfig{Epoch: max(c.Epoch, 1), Strategy: ByRange, Keys: KindOf[K](), Parts: make([]Part, n)}
	for i, id := range c.Shards {
		t.Parts[i].ID, t.Parts[i].Shard = PartID(i), id
		if i == n-1 {
			break
		}
		b := EncodeKey(c.Bounds[i])
		switch {
		case len(b) == 0 || t.Keys != Text && bytes.Equal(b, make([]byte, wordBytes)):
			return nil, fmt.Errorf("shard: Bounds[%d] must be above the least key, got %#v", i, c.Bounds[i])
		case i > 0 && bytes.Compare(t.Parts[i].Low, b) >= 0:
			return nil, fmt.Errorf("shard: Bounds[%d] must be above the one before, %#v, got %#v", i, c.Bounds[i-1], c.Bounds[i])
		}
		t.Parts[i].High = b
		t.Parts[i+1].Low = b
	}
	return newMap[K](t)
}
