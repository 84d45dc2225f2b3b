package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sysblocks/sysblocks/internal/notfound"
)

// An ID names a shard: a database, or a group of a primary and its replicas.
type ID string

// A PartID names a part of the keys, which moves as a whole when data is moved: a slot, a range, a
// remainder. It stays when the part moves to another shard.
type PartID uint32

// A PartState says what may be done with the keys of a part.
type PartState uint8

const (
	// Serving is the state of a part that is read and written as usual.
	Serving PartState = iota
	// Migrating is the state of a part that is being copied to another shard: it is read and
	// written where it was.
	Migrating
	// Fenced is the state of a part that is not to be written, for the moment in which its new
	// shard takes over: it is read where it was.
	Fenced
)

var stateNames = [...]string{Serving: "serving", Migrating: "migrating", Fenced: "fenced"}

// String returns the name of the state: "serving", "migrating" or "fenced".
func (s PartState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("PartState(%d)", uint8(s))
}

// MarshalText returns the name of the state.
func (s PartState) MarshalText() ([]byte, error) {
	if int(s) >= len(stateNames) {
		return nil, fmt.Errorf("shard: State must be serving, migrating or fenced, got %v", s)
	}
	return []byte(stateNames[s]), nil
}

// UnmarshalText sets the state to the one that has the name.
func (s *PartState) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if string(text) == name {
			*s = PartState(i)
			return nil
		}
	}
	return fmt.Errorf("shard: State must be serving, migrating or fenced, got %q", text)
}

// A Placement says where a key is. (The order of the fields keeps it at 32 bytes: with 40, to return it takes
// as long as to find it.)
type Placement struct {
	// Shard is the shard that has the key. "" if none does, which only a Locator returns: a Router
	// returns an error.
	Shard ID
	// Epoch is the epoch of the topology in which the part came to be as it is. It grows when the
	// part moves, or changes its state, so a shard that is told the epochs of its parts can
	// refuse requests that were routed by an older one. 0 where there is no topology.
	Epoch uint64
	// Part is the part of the keys that it belongs to: unique within the shard. Keys of a part are always on
	// the same shard, and move together; but in a Directory, each key moves by itself.
	Part PartID
	// State says what may be done with the key.
	State PartState
}

// A Locator says where keys are by computing it. Locate never blocks, allocates nothing, and gives every
// key exactly one placement. The types of this package that are Locators are Routers as well.
type Locator[K any] interface {
	// Locate returns the placement of k. Its Shard is "" if no shard is responsible.
	Locate(k K) Placement
}

// A Router says where keys are, and may look it up for that.
type Router[K any] interface {
	// Route returns the placement of k, whose Shard is not "", or an error: ErrNotFound if the key
	// is looked up, and nobody knows it; ErrNoShard if no shard is responsible.
	Route(ctx context.Context, k K) (Placement, error)
}

// A KeyMover is a Router in which each key moves by itself, whatever Part its placement has: a Directory is
// one. A Router that asks a KeyMover should be one, too, or a transaction takes keys of the same Part for
// one that moves as a whole, and returns ErrStaleEpoch of two that have different epochs.
type KeyMover interface {
	// MovesKeys does nothing.
	MovesKeys()
}

// A RangeRouter says where all keys of a range are.
type RangeRouter[K any] interface {
	// RouteRange returns the placements of all parts that can have keys from lo to hi, both included,
	// in the order of their keys, each once.
	RouteRange(ctx context.Context, lo, hi K) ([]Placement, error)
}

// A Lister knows all shards that it can return placements for. All Locators of this package do.
type Lister interface {
	// Shards returns the shards, each once, sorted.
	Shards() []ID
}

var (
	// ErrNotFound is what is returned of a key that has no placement because nobody inserted it. It is
	// the ErrNotFound of every package of this module that has one.
	ErrNotFound = notfound.Err
	// ErrNoShard is returned of a key that no shard is responsible for.
	ErrNoShard = errors.New("no shard is responsible")
	// ErrUnknownShard is returned of a shard that a router names, and nobody has configured.
	ErrUnknownShard = errors.New("unknown shard")
	// ErrFenced is returned of a write to a part that is fenced. It can be tried again, in some
	// seconds, by a topology that is newer.
	ErrFenced = errors.New("the part is fenced")
	// ErrCrossShard is returned of a transaction that is to include a key of another shard.
	ErrCrossShard = errors.New("the key belongs to another shard")
	// ErrStaleEpoch is returned of a topology that is older than the one that it is to replace, and of a
	// transaction whose keys may have been elsewhere since it began.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrIncompatible is returned of a topology under which keys would have other parts than under the
	// one that it is to replace.
	ErrIncompatible = errors.New("incompatible topology")
)

// A Policy says how many shards are asked at once, and how many must answer. The zero value asks all at
// once, and wants all to answer. It is for Gather and Stream, which refuse negative values, and a MinSuccess
// of more shards than they are given.
type Policy struct {
	_ struct{}

	// Concurrency is how many shards are asked at the same time. 0: all.
	Concurrency int
	// MinSuccess is how many must succeed for the result to be of use, which PartialError.Enough tells.
	// All are asked, also when so many have. 0: all.
	MinSuccess int
	// PerShard bounds the time of each shard, from when it is asked: the time in which it waits for
	// others, because of Concurrency, does not count. 0: only the caller's context does.
	PerShard time.Duration
	// FailFast ends all the others as soon as so many have failed that MinSuccess cannot be reached.
	// Otherwise they go on, and what they answer is returned with the error.
	FailFast bool
}

// A Reply is what a shard has answered.
type Reply[R any] struct {
	// Shard is the shard.
	Shard ID
	// Value is what the function that asked it has returned.
	Value R
}
