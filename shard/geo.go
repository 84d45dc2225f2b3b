package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A GeoConfig says which shard has the keys of which region.
type GeoConfig[K any] struct {
	_ struct{}

	// Region returns the region of a key, such as "de" or "eu-west-1". It must be safe for concurrent use by
	// multiple goroutines, and always return the same for a key. Required, unless K is string: then
	// keys are regions.
	Region func(K) string
	// Shards is the shard of each region. A region that is not there has the shard of what it is a part of:
	// "us-ca-sf" that of "us-ca", and if that is not there, of "us". Names are compared as they are, so
	// "DE" is not "de". A shard may have several regions.
	Shards map[string]ID
	// Default is the shard of all other regions. "": they have none, which is safer where the law says
	// where data must be.
	Default ID
	// Epoch is the epoch of all placements. Parts are numbers of regions in the order of their names, which
	// change with Shards: so another Geo, with other regions, must have a higher one. 0: 1.
	Epoch uint64
}

// Geo is a router by region: data is near those who use it, or where the law wants it. Where a region has
// several shards, Compose divides it further.
//
// Geo is a Locator, a Router and a Lister. It is safe for concurrent use by multiple goroutines, and does
// not change. The zero value cannot be used.
type Geo[K any] struct {
	region   func(K) string
	regions  map[string]Placement
	fallback Placement
	places   []Placement // of all regions, in the order of their names, then of the fallback
}

// NewGeo returns a router by region.
func NewGeo[K any](c GeoConfig[K]) (*Geo[K], error) {
	g := &Geo[K]{region: c.Region, regions: make(map[string]Placement, len(c.Shards))}
	if g.region == nil {
		identity, ok := any(func(k string) string { return k }).(func(K) string)
		if !ok {
			return nil, errors.New("shard: Region is required")
		}
		g.region = identity
	}
	if len(c.Shards) == 0 && c.Default == "" {
		return nil, errors.New("shard: Shards must have a region, got none")
	}
	epoch := max(c.Epoch, 1)
	for i, name := range slices.Sorted(maps.Keys(c.Shards)) {
		id := c.Shards[name]
		switch {
		case name == "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--"):
			return nil, fmt.Errorf(`shard: Shards must have names of regions, parts of which "-" parts, got %q`, name)
		case id == "":
			return nil, fmt.Errorf("shard: Shards must have a shard for each region, got none for %q", name)
		}
		p := Placement{Shard: id, Part: PartID(i), Epoch: epoch}
		g.regions[name] = p
		g.places = append(g.places, p)
	}
	if c.Default != "" {
		g.fallback = Placement{Shard: c.Default, Part: PartID(len(g.places)), Epoch: epoch}
		g.places = append(g.places, g.fallback)
	}
	return g, nil
}

// Locate returns the placement of k. Its Part is the number of the region in the order of names, by which the
// shard was found. Its Shard is "" if the region has none. It takes a look-up for each "-" in the name of the
// region, and one more, and allocates nothing if Region does not.
func (g *Geo[K]) Locate(k K) Placement {
	for name := g.region(k); ; {
		if p, ok := g.regions[name]; ok {
			return p
		}
		i := strings.LastIndexByte(name, '-')
		if i < 0 {
			return g.fallback
		}
		name = name[:i]
	}
}

// Route returns the placement of k, or ErrNoShard if its region has none.
func (g *Geo[K]) Route(_ context.Context, k K) (Placement, error) {
	p := g.Locate(k)
	if p.Shard == "" {
		return Placement{}, fmt.Errorf("shard: region %q: %w", g.region(k), ErrNoShard)
	}
	return p, nil
}

// Shards returns the shards, each once, sorted.
func (g *Geo[K]) Shards() []ID { return Distinct(g.places) }

// Placements returns those of all regions, in the order of their names, and of the default.
func (g *Geo[K]) Placements() []Placement { return slices.Clone(g.places) }

// Distinct returns the shards of the placements, each once, sorted: whom to ask, after RouteRange.
func Distinct(ps []Placement) []ID {
	ids := make([]ID, len(ps))
	for i := range ps {
		ids[i] = ps[i].Shard
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
