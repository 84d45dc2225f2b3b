package main

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
)

// reload sets the endpoints of all pools anew: what is known of those that stay is kept, as are the
// requests in flight at those that go. Everything else needs a restart, and if anything else has
// changed, or is wrong, nothing is done.
func (g *gateway) reload(read func() (*config, error)) error {
	c, err := read()
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(g.config.withoutEndpoints(), c.withoutEndpoints()) {
		return fmt.Errorf("%s: only endpoints can change without a restart, and something else has", c.file)
	}
	var errs []error
	for _, p := range g.pools {
		if c.Pools[p.of].DNS != nil {
			continue
		}
		diff, err := p.Set(c.endpoints(p.of))
		if err != nil { // the policy cannot work with them
			errs = append(errs, c.libraryError([]any{"pools", p.of}, err))
			continue
		}
		g.log.Info("reloaded", "pool", p.name, "added", diff.Added, "removed", diff.Removed, "changed", diff.Changed)
	}
	return errors.Join(errs...)
}

// withoutEndpoints returns what reload cannot change.
func (c *config) withoutEndpoints() *config {
	x := *c
	x.root = nil
	x.Pools = maps.Clone(c.Pools)
	for name, p := range x.Pools {
		p.Endpoints = nil
		x.Pools[name] = p
	}
	return &x
}
