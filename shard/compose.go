package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A Pair is a key of two parts: the outer one says in which group of shards it is, and the inner one in which
// shard of the group.
type Pair[O, I any] struct {
	// Outer is the part that says the group.
	Outer O
	// Inner is the part that says the shard within it.
	Inner I
}

// Composed is a router in two steps: by geography and then by hash, say. Compose makes it.
//
// Composed is a Locator, a Router and a Lister, of Pairs. It is safe for concurrent use by multiple
// goroutines if its routers are, and goes by what they say at the moment of the call. The zero value
// cannot be used.
type Composed[O, I any] struct {
	outer Locator[O]
	inner map[ID]Locator[I]
}

// Compose returns a router that asks outer for the name of a group, and then the inner router of that group for
// the shard. All routers must be Listers; every group that outer can return must be in inner, and no shard
// in two groups, as the parts of a shard would have the same names. Later changes of the routers are not
// checked: a group that is missing then has no shard.
func Compose[O, I any](outer Locator[O], inner map[ID]Locator[I]) (*Composed[O, I], error) {
	if outer == nil {
		return nil, errors.New("shard: the outer router is required")
	}
	groups, ok := outer.(Lister)
	if !ok {
		return nil, fmt.Errorf("shard: the outer router must be a Lister, got %T", outer)
	}
	if len(groups.Shards()) == 0 {
		return nil, errors.New("shard: the outer router must have groups, got none")
	}
	for _, id := range groups.Shards() {
		if inner[id] == nil {
			return nil, fmt.Errorf("shard: the inner routers must have one for each group of the outer one, got none for %q", id)
		}
	}
	owner := map[ID]ID{}
	for _, group := range slices.Sorted(maps.Keys(inner)) {
		l, ok := inner[group].(Lister)
		if !ok {
			return nil, fmt.Errorf("shard: the inner routers must be Listers, got %T for %q", inner[group], group)
		}
		if len(l.Shards()) == 0 {
			return nil, fmt.Errorf("shard: the inner routers must have shards, got none for %q", group)
		}
		for _, id := range l.Shards() {
			if other, ok := owner[id]; ok {
				return nil, fmt.Errorf("shard: the inner routers must have different shards, got %q for both %q and %q", id, other, group)
			}
			owner[id] = group
		}
	}
	return &Composed[O, I]{outer, maps.Clone(inner)}, nil
}

// Locate returns the placement of k: shard and part as the inner router says. Its epoch is the sum of both, as
// it is to grow when either does, and its state the one of both that allows less. Its Shard is "" if the group,
// or its router, has none. It takes as long as both routers and a look-up in a map.
func (c *Composed[O, I]) Locate(k Pair[O, I]) Placement {
	o := c.outer.Locate(k.Outer)
	inner := c.inner[o.Shard]
	if inner == nil {
		return Placement{}
	}
	return within(o, inner.Locate(k.Inner))
}

// within returns the placement of a key that is in group o, and there in p.
func within(o, p Placement) Placement {
	p.Epoch += o.Epoch
	p.State = max(p.State, o.State) // the later ones allow less
	return p
}

// Route returns the placement of k, or ErrNoShard if no shard is responsible.
func (c *Composed[O, I]) Route(_ context.Context, k Pair[O, I]) (Placement, error) {
	return route(c, k)
}

// RouteOuter returns the placements of all keys with the outer part o, whatever the inner one: each part, or
// each shard if the inner router does not tell parts, once. It returns ErrNoShard if there are none.
func (c *Composed[O, I]) RouteOuter(_ context.Context, o O) ([]Placement, error) {
	group := c.outer.Locate(o)
	inner := c.inner[group.Shard]
	if inner == nil {
		return nil, fmt.Errorf("shard: outer key %s: %w", abbreviate(o), ErrNoShard)
	}
	ps := allOf(inner)
	if len(ps) == 0 {
		return nil, fmt.Errorf("shard: group %q: %w", group.Shard, ErrNoShard)
	}
	for i := range ps {
		ps[i] = within(group, ps[i])
	}
	return ps, nil
}

// Shards returns the shards of all groups, each once, sorted.
func (c *Composed[O, I]) Shards() []ID {
	var ids []ID
	for _, l := range c.inner {
		ids = append(ids, l.(Lister).Shards()...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Placements returns those of all groups, in the order of their names: shards and parts. Epochs and states are
// those of the inner routers, as keys of several outer parts may be in a group.
func (c *Composed[O, I]) Placements() []Placement {
	var ps []Placement
	for _, group := range slices.Sorted(maps.Keys(c.inner)) {
		ps = append(ps, allOf(c.inner[group])...)
	}
	return ps
}

// allOf returns all placements of a router that is a Lister.
func allOf[K any](l Locator[K]) []Placement {
	if p, ok := l.(interface{ Placements() []Placement }); ok {
		return p.Placements()
	}
	return placementsOf(l.(Lister).Shards(), 0)
}
