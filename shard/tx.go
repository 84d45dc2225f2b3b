package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrOutcomeUnknown is returned of a transaction that was to be committed, when the answer did not
// come: it may have been committed, or not, or may yet be.
var ErrOutcomeUnknown = errors.New("whether it was committed is not known")

// A Tx is a transaction in one database: that of the key that InTx was called with. All keys that it is
// used with must be there, and each method takes the one that its statement is about: it returns
// ErrCrossShard, and does nothing, if that is on another shard. Errors of the database are as those of
// a DB.
//
// A Tx is safe for concurrent use by multiple goroutines, as much as an sql.Tx is: a statement cannot
// be executed while the rows of another are read. It cannot be used after InTx has returned. The zero
// value cannot be used.
type Tx[K any] struct {
	db    *DB[K]
	group *group
	ctx   context.Context // of InTx
	tx    *sql.Tx
	shard ID
	reads bool // ReadOnly
	ended atomic.Bool

	mu       sync.Mutex
	parts    map[any]checkedPart[K] // by what moves as a whole; see unit
	sessions []*session             // to be told when it is committed, each once
}

// A checkedPart is a part that a key of a Tx is in, with the first such key, by which it is found
// again.
type checkedPart[K any] struct {
	key   K
	epoch uint64
}

// unit returns what a key moves together with: its part, or if the router moves keys, the key alone; then a
// Tx remembers all keys that it was used with.
func (t *Tx[K]) unit(key K, p Placement) any {
	if _, ok := t.db.router.(KeyMover); ok {
		return key
	}
	return p.Part
}

// InTx calls f with a transaction in the shard that has the key, and commits it if f returns nil. If f
// returns an error, that is returned, and the transaction is rolled back; and so it is if f panics or
// calls runtime.Goexit, which go on then. When ctx ends, so does the transaction. It is never tried
// again here.
//
// With opts.ReadOnly it goes where the Consistency says, and otherwise to the primary; then all keys
// that it is used with must be on parts that are not fenced. Before it is committed, it is looked at
// those parts again: if one is fenced now, the error is ErrFenced; if it is on another shard,
// ErrCrossShard; and if it has another epoch, ErrStaleEpoch, as it may have been elsewhere in between (that
// its migration has begun gives it one, too). In all three cases the transaction is rolled back, and
// can be tried again. The part may still be fenced between that look and the commit.
//
// If it was not the database that refused to commit, as far as that can be told (SQLConfig.Refused), but
// its answer did not come, the error is ErrOutcomeUnknown. Who tries that again must make sure that it
// does no harm to do it twice.
//
// A session is told of a transaction that was committed, or may have been, as of an Exec: that of ctx,
// and those of the contexts of its statements.
//
// The transaction has a connection of its own. What f calls beside it takes another, if that is in the
// same sql.DB: a method of the DB, or a Directory whose rows are there, which is asked for each key that
// is not in its cache, also by Check. If there is none left, because there is a limit
// (sql.DB.SetMaxOpenConns) that such transactions have used up, they all wait until their contexts end.
// So give the store of a Directory an sql.DB of its own.
func (db *DB[K]) InTx(ctx context.Context, key K, opts *sql.TxOptions, f func(*Tx[K]) error) (err error) {
	if f == nil {
		panic("shard: the function of a transaction must not be nil")
	}
	reads := opts != nil && opts.ReadOnly
	var p Placement
	var g *group
	if reads {
		p, g, err = db.route(ctx, key)
	} else {
		p, g, err = db.routeWrite(ctx, key)
	}
	if err != nil {
		return err
	}
	t := &Tx[K]{db: db, group: g, ctx: ctx, shard: p.Shard, reads: reads, sessions: sessionsOf(ctx)}
	t.parts = map[any]checkedPart[K]{t.unit(key, p): {key, p.Epoch}}
	done := func(error) {}
	if reads {
		done, err = g.read(ctx, g.hashOf(p), p.Epoch, func(d *sql.DB) (err error) {
			t.tx, err = d.BeginTx(ctx, opts)
			return err
		})
	} else {
		t.tx, err = g.primary.BeginTx(ctx, opts)
	}
	if err != nil {
		return g.failed(err)
	}
	returned := false
	defer func() {
		t.ended.Store(true)
		_ = t.tx.Rollback() // ErrTxDone, if it was committed
		if !returned {
			done(context.Canceled) // the database has done nothing wrong
		}
	}()
	err = f(t)
	t.ended.Store(true)
	if err == nil {
		err = t.commit(ctx)
	}
	returned = true
	done(g.blame(ctx, err))
	return err
}

// commit commits the transaction, if its keys are where they were.
func (t *Tx[K]) commit(ctx context.Context) error {
	g := t.group
	if err := ctx.Err(); err != nil {
		return g.failed(err) // it was not tried
	}
	if err := t.checkAgain(ctx); err != nil {
		return err
	}
	err := t.tx.Commit()
	refused := g.refused(err)
	if !t.reads && !refused {
		e, sessions := t.written()
		g.wrote(ctx, e, err, sessions...)
	}
	switch {
	case err == nil:
		return nil
	case t.reads || refused || errors.Is(err, sql.ErrTxDone): // which is also what a Tx is that ctx has ended
		return g.failed(err)
	}
	return g.failed(fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
}

// written returns the epochs of the placements that the keys had, and the sessions to be told.
func (t *Tx[K]) written() (epochs, []*session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := epochs{low: math.MaxUint64}
	for _, c := range t.parts {
		e.low, e.high = min(e.low, c.epoch), max(e.high, c.epoch)
	}
	return e, t.sessions
}

// Shard returns the shard that the transaction is in.
func (t *Tx[K]) Shard() ID { return t.shard }

// Tx returns the transaction, for what is not covered here: statements without a key, or prepared ones.
// It must be neither committed nor rolled back.
func (t *Tx[K]) Tx() *sql.Tx { return t.tx }

// Check returns nil if a statement about the key belongs in this transaction. It returns an error that
// is ErrCrossShard if the key is on another shard; ErrFenced if its part is fenced, unless the
// transaction is ReadOnly; ErrStaleEpoch if the part has been elsewhere since another key of it was
// checked; and sql.ErrTxDone if InTx has returned, or is about to.
func (t *Tx[K]) Check(key K) error {
	_, err := t.Placement(key)
	return err
}

// Placement returns where the key is, or an error as Check does. The Epoch of the placement is what a
// shard can be asked to compare with the one it knows, so that it finds out that this process goes by
// an older topology: see the example.
func (t *Tx[K]) Placement(key K) (Placement, error) { return t.check(t.ctx, key) }

// begin is what comes before a statement about a key.
func (t *Tx[K]) begin(ctx context.Context, key K) error {
	if _, err := t.check(ctx, key); err != nil || t.reads {
		return err
	}
	s := sessionOf(ctx)
	if s == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.sessions, s) {
		t.sessions = append(t.sessions, s)
	}
	return nil
}

// check is Placement, with the context of a statement.
func (t *Tx[K]) check(ctx context.Context, key K) (Placement, error) {
	if t.ended.Load() {
		return Placement{}, fmt.Errorf("shard: the transaction in %q has ended with its function: %w", t.shard, sql.ErrTxDone)
	}
	p, err := t.db.router.Route(ctx, key)
	if err != nil {
		return Placement{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	unit := t.unit(key, p)
	before, ok := t.parts[unit]
	if !ok {
		before.epoch = p.Epoch
	}
	if err := t.fits(p, before.epoch); err != nil {
		return Placement{}, err
	}
	if !ok {
		t.parts[unit] = checkedPart[K]{key, p.Epoch}
	}
	return p, nil
}

// checkAgain checks one key of each part.
func (t *Tx[K]) checkAgain(ctx context.Context) error {
	t.mu.Lock()
	parts := slices.Collect(maps.Values(t.parts))
	t.mu.Unlock()
	for _, c := range parts {
		p, err := t.db.router.Route(ctx, c.key)
		if err != nil {
			return err
		}
		if err := t.fits(p, c.epoch); err != nil {
			return err
		}
	}
	return nil
}

// fits checks a placement of a part that had the epoch before. Under another epoch it may have moved away
// and back, without what this transaction has locked or seen, or have lost some of its keys to another
// part.
func (t *Tx[K]) fits(p Placement, before uint64) error {
	switch {
	case p.Shard != t.shard:
		return fmt.Errorf("shard: the transaction is in %q, the key in %q: %w", t.shard, p.Shard, ErrCrossShard)
	case t.reads:
		return nil
	case p.State == Fenced:
		return fencedError(p)
	case p.Epoch != before:
		return fmt.Errorf("shard: part %d of %q had epoch %d, and now has %d: %w", p.Part, p.Shard, before, p.Epoch, ErrStaleEpoch)
	}
	return nil
}

// Exec executes a statement about the key, after Check.
func (t *Tx[K]) Exec(ctx context.Context, key K, query string, args ...any) (sql.Result, error) {
	if err := t.begin(ctx, key); err != nil {
		return nil, err
	}
	result, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return nil, t.group.failed(err)
	}
	return result, nil
}

// Query executes a statement about the key that returns rows, after Check. The rows must be closed.
func (t *Tx[K]) Query(ctx context.Context, key K, query string, args ...any) (*sql.Rows, error) {
	if err := t.begin(ctx, key); err != nil {
		return nil, err
	}
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, t.group.failed(err)
	}
	return rows, nil
}

// QueryRow executes a statement about the key that returns at most one row, at once, after Check, whose
// error is returned by Scan, too. Scan must be called.
func (t *Tx[K]) QueryRow(ctx context.Context, key K, query string, args ...any) *Row {
	if err := t.begin(ctx, key); err != nil {
		return &Row{err: err}
	}
	row, err := readRow(ctx, t.tx, query, args)
	if err != nil {
		return &Row{err: t.group.failed(err)}
	}
	return &Row{scan: func(dest []any) error { return t.group.failed(row.scan(dest, nil)) }}
}
