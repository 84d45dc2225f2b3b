package shard

import (
	"context"
	"errors"
)

// ErrExists is returned of a row that is to be inserted for a key that has one.
var ErrExists = errors.New("the key has a row already")

// A DirectoryStore is the table behind a Directory: for each key that exists a row, which is the key's
// placement. A SQLDirectory is one; a program may have its own.
//
// All methods must be safe for concurrent use by multiple goroutines, and must return soon after ctx
// has ended. The row of a key has an epoch that is greater each time that the row changes; Update and
// Delete name the epoch that the caller has seen, so that of two who change a row one finds out that
// he was late. Without that a mover could bring back what another has moved on.
type DirectoryStore[K comparable] interface {
	// Lookup returns the rows of keys, which are distinct, and at least one. A key that is missing in
	// what it returns does not exist; if there is an error too, the key's row is not known. What it
	// returns for other keys is ignored. It may read from a copy that lags behind: see Directory. ctx has
	// the values of the context of one of those who want a key. Lookup must not ask the same Directory.
	// If one key makes it fail, it may be asked for the others again, without it.
	Lookup(ctx context.Context, keys []K) (map[K]Placement, error)
	// Insert adds the row p for k, if it has none. Else it changes nothing, and returns the row that is
	// there, and an error that wraps ErrExists. That row must not come from a copy that lags behind.
	Insert(ctx context.Context, k K, p Placement) (Placement, error)
	// Update replaces the row of k by p, if its epoch is the given one. Else it changes nothing, and
	// returns an error that wraps ErrStaleEpoch, or ErrNotFound if k has no row.
	Update(ctx context.Context, k K, epoch uint64, p Placement) error
	// Delete removes the row of k, if its epoch is the given one. Else it changes nothing, and returns
	// an error that wraps ErrStaleEpoch. It returns nil if k has no row.
	Delete(ctx context.Context, k K, epoch uint64) error
}
