package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A HashLocator places hashes, and says how keys are hashed for it: consistenthash.Map[shard.ID], whose
// values are IDs, is one. It must be safe for concurrent use by multiple goroutines.
type HashLocator interface {
	// Hash returns the hash of a string.
	Hash(key string) uint64
	// HashBytes returns the hash of bytes: that of the same string.
	HashBytes(key []byte) uint64
	// HashUint64 returns the hash of an integer.
	HashUint64(key uint64) uint64
	// GetHash returns the shard of a hash, and false if there are no shards.
	GetHash(h uint64) (ID, bool)
}

// A ConsistentConfig says what NewConsistent cannot learn from its HashLocator.
type ConsistentConfig struct {
	_ struct{}

	// Shards returns all shards that the HashLocator can return at the moment. nil: Shards and Placements of
	// the router return none, so what depends on them, such as OpenSQL's check that no shard is
	// missing, has nothing to check.
	Shards func() []ID
	// Epoch returns the epoch of placements. It is asked before the HashLocator, so who changes that does so
	// before Epoch returns more: then no placement with the new epoch is an old one. nil: it is 0.
	Epoch func() uint64
}

// Consistent is a router by consistent hashing: nodes have weights, and come and go, and few keys move when
// they do; but which ones is decided by a computation, and not by a table that could be edited. It
// fits caches, and stores that can move what is asked for; where data must be moved before it is asked for,
// NewSlots and a directory keep to what was decided.
//
// Consistent is a Locator, a Router and a Lister. It is safe for concurrent use by multiple goroutines, and
// goes by what its HashLocator says at the moment of the call. The zero value cannot be used.
type Consistent[K Key] struct {
	c    ConsistentConfig
	l    HashLocator
	form form
}

// NewConsistent returns a router that goes by l. Integers are hashed widened to 64 bits with their sign.
func NewConsistent[K Key](l HashLocator, c ConsistentConfig) (*Consistent[K], error) {
	if l == nil {
		return nil, errors.New("shard: HashLocator is required")
	}
	return &Consistent[K]{c, l, formOf[K]()}, nil
}

// Locate returns the placement of k, whose Part is 0. Its Shard is "" if there are no shards. It takes as
// long as the HashLocator does, and allocates nothing if that does not.
func (r *Consistent[K]) Locate(k K) Placement {
	epoch := r.epoch()
	var h uint64
	switch r.form {
	case formText:
		h = r.l.Hash(textOf(at(&k), formText))
	case formBytes:
		h = r.l.HashBytes(bytesOf(at(&k))) // not as a string, which who gets it may keep
	default:
		h = r.l.HashUint64(numberOf(at(&k), r.form))
	}
	id, _ := r.l.GetHash(h)
	return Placement{Shard: id, Epoch: epoch}
}

func (r *Consistent[K]) epoch() uint64 {
	if r.c.Epoch == nil {
		return 0
	}
	return r.c.Epoch()
}

// Route returns the placement of k, or ErrNoShard if there are no shards.
func (r *Consistent[K]) Route(_ context.Context, k K) (Placement, error) {
	return route(r, k)
}

// Shards returns the shards, each once, sorted.
func (r *Consistent[K]) Shards() []ID {
	if r.c.Shards == nil {
		return nil
	}
	ids := slices.Clone(r.c.Shards())
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Placements returns one placement for each shard, sorted by shard.
func (r *Consistent[K]) Placements() []Placement { return placementsOf(r.Shards(), r.epoch()) }

// route is Route of a Locator.
func route[K any](l Locator[K], k K) (Placement, error) {
	p := l.Locate(k)
	if p.Shard == "" {
		return Placement{}, fmt.Errorf("shard: key %s: %w", abbreviate(k), ErrNoShard)
	}
	return p, nil
}

func placementsOf(ids []ID, epoch uint64) []Placement {
	ps := make([]Placement, len(ids))
	for i, id := range ids {
		ps[i] = Placement{Shard: id, Epoch: epoch}
	}
	return ps
}
