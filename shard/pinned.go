package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// PinnedPart is the part of all keys that are pinned, which are not moved with any other: no topology has a part
// of that ID.
const PinnedPart PartID = math.MaxUint32

// Pinned is a router with exceptions: a few keys, of celebrities or of great customers, have shards of their own,
// and all others are where another router says. The exceptions stand in memory; where there are many, or
// they change, use a Directory.
//
// Pinned is a Locator, a Router and a Lister. It is safe for concurrent use by multiple goroutines if the
// other router is. The zero value cannot be used.
type Pinned[K comparable] struct {
	base Locator[K]
	pins map[K]ID
}

// NewPinned returns a router to the shards of pins, and of base, which must be a Lister, for all other keys.
func NewPinned[K comparable](base Locator[K], pins map[K]ID) (*Pinned[K], error) {
	if base == nil {
		return nil, errors.New("shard: the router of all other keys is required")
	}
	if _, ok := base.(Lister); !ok {
		return nil, fmt.Errorf("shard: the router of all other keys must be a Lister, got %T", base)
	}
	for k, id := range pins {
		switch {
		case id == "":
			return nil, fmt.Errorf("shard: pins must have a shard for each key, got none for %v", k)
		case k != k:
			return nil, fmt.Errorf("shard: pins must have keys that equal themselves, got %v", k)
		}
	}
	return &Pinned[K]{base, maps.Clone(pins)}, nil
}

// Locate returns the placement of k. That of an exception is Serving, in PinnedPart, with epoch 0, whatever is
// done with the part that the key would be in otherwise. It takes as long as base and a look-up in a map.
func (r *Pinned[K]) Locate(k K) Placement {
	if id, ok := r.pins[k]; ok {
		return Placement{Shard: id, Part: PinnedPart}
	}
	return r.base.Locate(k)
}

// Route returns the placement of k, or ErrNoShard if no shard is responsible.
func (r *Pinned[K]) Route(_ context.Context, k K) (Placement, error) { return route(r, k) }

// Shards returns the shards of base and of the exceptions, each once, sorted.
func (r *Pinned[K]) Shards() []ID {
	ids := r.base.(Lister).Shards()
	ids = slices.AppendSeq(slices.Clone(ids), maps.Values(r.pins))
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Placements returns those of base, and one of each shard of the exceptions, sorted by shard.
func (r *Pinned[K]) Placements() []Placement {
	ps := slices.Clone(allOf(r.base))
	ids := slices.Sorted(maps.Values(r.pins))
	for _, id := range slices.Compact(ids) {
		ps = append(ps, Placement{Shard: id, Part: PinnedPart})
	}
	return ps
}
