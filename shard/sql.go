package shard

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"
)

// A Group is the databases of a shard: all of them have the same data, or will soon.
type Group struct {
	_ struct{}

	// Primary is the database that is written. Required. No other group can have it, nor its replicas:
	// what asks several shards at once would wait for connections that it has taken itself, if there is
	// a limit. Shards that are in one database have an sql.DB each.
	Primary *sql.DB
	// Replicas are copies of it, which can be read. They may be none.
	Replicas []Replica
	// Probe tells how far the replicas are. nil: nobody knows, and they are read with Eventual only.
	Probe LagProbe
	// Balancer chooses among the replicas that are fit for a read. nil: they take turns.
	Balancer Balancer
}

// A SQLConfig says how a DB reads. The zero value reads from the primaries.
type SQLConfig struct {
	_ struct{}

	// Name distinguishes this DB from others in a session that they share, and in its token. "" is a
	// name like the others. At most 64 bytes.
	Name string
	// Consistency is which databases a read can go to, if its context does not say: see
	// WithConsistency. 0: Primary.
	Consistency Consistency
	// MaxWait is how long a read waits for a replica to be fit for it, before it goes to the primary;
	// and how long a write in a session waits to be told how far the primary is. At most 1 h. 0: 100
	// ms.
	MaxWait time.Duration
	// LagCache is for how long it is believed that a replica is as far as it was. At most 1 h. 0: 100
	// ms, or three times ProbeInterval, if that is more.
	LagCache time.Duration
	// ProbeInterval is how often a goroutine for each database that has a Probe asks how far it is,
	// from 10 ms to 1 h. 0: there are no goroutines, and reads that need to know it ask.
	ProbeInterval time.Duration
	// Heartbeat is the least time between two heartbeats, which make the log of a primary that is idle
	// move on; see LagProbe. From 10 ms to 1 h. 0: 1 s.
	Heartbeat time.Duration
	// Unreachable reports of an error of a replica whether another database is to be asked instead, for
	// drivers that have errors of their own for lost connections. Those of the network, those that
	// package sql knows, and the SQLSTATEs of PostgreSQL that say so need no mention. nil: there are no
	// others.
	Unreachable func(error) bool
	// Refused reports of the error of a commit whether it is the database's answer that it has not
	// committed, and will not: then it is not ErrOutcomeUnknown. Those that tell their SQLSTATE need no
	// mention; pgx.ErrTxCommitRollback, which does not, is one. nil: there are no others.
	Refused func(error) bool
}

// checked returns the config with its defaults.
func (c SQLConfig) checked() (SQLConfig, error) {
	switch {
	case len(c.Name) > maxName:
		return c, fmt.Errorf("shard: Name must be at most %d bytes, got %d", maxName, len(c.Name))
	case !c.Consistency.valid():
		return c, fmt.Errorf("shard: Consistency must be Primary, Eventual, ReadYourWrites or a BoundedStaleness, got %v", c.Consistency)
	case c.MaxWait < 0 || c.MaxWait > time.Hour:
		return c, fmt.Errorf("shard: MaxWait must be between 0 and 1h, got %v", c.MaxWait)
	case c.LagCache < 0 || c.LagCache > time.Hour:
		return c, fmt.Errorf("shard: LagCache must be between 0 and 1h, got %v", c.LagCache)
	case c.ProbeInterval != 0 && (c.ProbeInterval < 10*time.Millisecond || c.ProbeInterval > time.Hour):
		return c, fmt.Errorf("shard: ProbeInterval must be 0, or between 10ms and 1h, got %v", c.ProbeInterval)
	case c.Heartbeat != 0 && (c.Heartbeat < 10*time.Millisecond || c.Heartbeat > time.Hour):
		return c, fmt.Errorf("shard: Heartbeat must be 0, or between 10ms and 1h, got %v", c.Heartbeat)
	}
	if c.MaxWait == 0 {
		c.MaxWait = 100 * time.Millisecond
	}
	if c.LagCache == 0 {
		c.LagCache = max(100*time.Millisecond, 3*c.ProbeInterval)
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = time.Second
	}
	return c, nil
}

// A DB sends statements to the databases that their keys are in. It does not read them: the key is an
// argument of its own, and which method is called says whether a statement writes.
//
// Exec, ExecRow and InTx go to the primary. Query, QueryRow, the Scatter functions, and InTx with
// ReadOnly go where the Consistency says. A statement that writes must not be given to those, as it
// would go to a replica, which refuses it at best; and nobody would look whether its part is fenced.
//
// An error of a database is an *Error, which names the shard. That of a part that is fenced is
// ErrFenced, of a shard that has no Group ErrUnknownShard, and those of the Router are returned as they
// are. sql.ErrNoRows is returned as it is.
//
// The look at the state of a part comes before the statement: a part can be fenced while a write to it
// is on its way. Who moves data must wait for such writes before what was written last is copied.
//
// A DB is safe for concurrent use by multiple goroutines. It has no data, and what it promises is what
// the databases do: those of one shard, as nothing here spans two. It opens no databases, and does not
// close those that it is given, so to add a shard, open another DB over the same ones. It starts
// goroutines only if SQLConfig.ProbeInterval says so; then Close must be called. The zero value cannot
// be used.
type DB[K any] struct {
	router Router[K]
	config SQLConfig
	groups map[ID]*group
	ids    []ID // of groups, sorted

	stop    context.CancelFunc
	polling sync.WaitGroup
}

// OpenSQL returns a DB, or an error that says what of its arguments cannot be used: a router that is
// nil, or knows a shard that has no group; a group without a Primary, or with a replica that has no
// database, no name, or that of another; an sql.DB of two groups; or a field of the config. It connects
// to no database, but the goroutines of ProbeInterval do. groups and what is in it is copied.
//
// A Router that is no Lister can return placements on shards that have no group; then calls with such a
// key return ErrUnknownShard.
func OpenSQL[K any](r Router[K], groups map[ID]Group, c SQLConfig) (*DB[K], error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(r); !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Func) && v.IsNil() {
		return nil, errors.New("shard: router must not be nil")
	}
	db := &DB[K]{router: r, config: c, groups: make(map[ID]*group, len(groups)), ids: slices.Sorted(maps.Keys(groups))}
	if len(groups) == 0 {
		return nil, errors.New("shard: groups must not be empty")
	}
	owner := map[*sql.DB]ID{}
	for _, id := range db.ids {
		g, err := newGroup(id, groups[id], &db.config)
		if err != nil {
			return nil, err
		}
		for _, d := range g.databases() {
			if other, ok := owner[d]; ok && other != id {
				return nil, fmt.Errorf("shard: groups must have databases of their own, got the same *sql.DB for %q and %q", other, id)
			}
			owner[d] = id
		}
		db.groups[id] = g
	}
	if l, ok := r.(Lister); ok {
		for _, id := range l.Shards() {
			if db.groups[id] == nil {
				return nil, fmt.Errorf("shard: groups must have all shards of the router, got none for %q: %w", id, ErrUnknownShard)
			}
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	db.stop = stop
	if c.ProbeInterval > 0 {
		for _, id := range db.ids {
			db.groups[id].poll(ctx, &db.polling)
		}
	}
	return db, nil
}

// Close stops the goroutines that ProbeInterval has asked for, and waits for them. The databases stay
// open: they are the caller's, and so is what is in progress. All methods can still be called. It can
// be called more than once, and returns nil.
func (db *DB[K]) Close() error {
	db.stop()
	db.polling.Wait()
	return nil
}

// Shards returns the shards that keys can be on, each once, sorted: those of the router, if it is a
// Lister, and else those that have a group.
func (db *DB[K]) Shards() []ID {
	if l, ok := db.router.(Lister); ok {
		return l.Shards()
	}
	return slices.Clone(db.ids)
}

// Shard returns the databases of a shard, for what cannot be done with a key, as to create tables; or
// an error that is ErrUnknownShard.
func (db *DB[K]) Shard(id ID) (Group, error) {
	g, err := db.group(id)
	if err != nil {
		return Group{}, err
	}
	group := g.config
	group.Replicas = slices.Clone(group.Replicas)
	return group, nil
}

// On returns the placement of a key, and the primary that it is in. Who uses that to write looks at the
// State of the placement first, and does not take part in a session.
func (db *DB[K]) On(ctx context.Context, key K) (*sql.DB, Placement, error) {
	p, g, err := db.route(ctx, key)
	if err != nil {
		return nil, Placement{}, err
	}
	return g.primary, p, nil
}

// Exec executes a statement that writes in the primary of the shard that has the key. If its part is
// fenced, the error is ErrFenced, and nothing is written. It is never tried again here, but package sql
// does so if its driver says that the database has not been told of it (driver.ErrBadConn).
//
// In a session, it then asks the primary how far it is. If that fails, the write has succeeded all the
// same, and the session reads from the primary, until that tells. So it does after an error, as there may
// have been a write nevertheless: the answer did not come, or it is about a later part of the statement.
func (db *DB[K]) Exec(ctx context.Context, key K, query string, args ...any) (sql.Result, error) {
	p, g, err := db.routeWrite(ctx, key)
	if err != nil {
		return nil, err
	}
	result, err := g.primary.ExecContext(ctx, query, args...)
	g.wrote(ctx, epochs{p.Epoch, p.Epoch}, err, sessionsOf(ctx)...)
	if err != nil {
		return nil, g.failed(err)
	}
	return result, nil
}

// ExecRow is Exec for a statement that writes and returns at most one row, such as INSERT with
// RETURNING. It is executed at once, but complete only when Scan has returned, which must be called.
func (db *DB[K]) ExecRow(ctx context.Context, key K, query string, args ...any) *Row {
	p, g, err := db.routeWrite(ctx, key)
	if err != nil {
		return &Row{err: err}
	}
	wrote := func(err error) { g.wrote(ctx, epochs{p.Epoch, p.Epoch}, err, sessionsOf(ctx)...) }
	row, err := readRow(ctx, g.primary, query, args)
	if err != nil {
		wrote(err)
		return &Row{err: g.failed(err)}
	}
	return &Row{scan: func(dest []any) error {
		err := row.scan(dest, wrote)
		return g.failed(err)
	}}
}

// Query executes a statement that reads, in a database of the shard that has the key. The rows must be
// closed.
//
// If the replica that it goes to cannot be reached, or shuts down, or cancels it in favour of its
// replication, another takes its place, and then the primary, each once; but not after the first row,
// which the caller may have seen.
func (db *DB[K]) Query(ctx context.Context, key K, query string, args ...any) (*sql.Rows, error) {
	p, g, err := db.route(ctx, key)
	if err != nil {
		return nil, err
	}
	var rows *sql.Rows
	done, err := g.read(ctx, g.hashOf(p), p.Epoch, func(d *sql.DB) (err error) {
		rows, err = d.QueryContext(ctx, query, args...)
		return err
	})
	if err != nil {
		return nil, g.failed(err)
	}
	done(nil)
	return rows, nil
}

// QueryRow is Query for a statement that returns at most one row. It is executed by Scan, which returns
// its error, and that of routing. As nobody has seen the row before Scan returns, another database can
// take the replica's place until then.
func (db *DB[K]) QueryRow(ctx context.Context, key K, query string, args ...any) *Row {
	p, g, err := db.route(ctx, key)
	if err != nil {
		return &Row{err: err}
	}
	return &Row{scan: func(dest []any) error {
		done, err := g.read(ctx, g.hashOf(p), p.Epoch, func(d *sql.DB) error {
			row, err := readRow(ctx, d, query, args)
			if err != nil {
				return err
			}
			return row.scan(dest, nil)
		})
		if err != nil {
			return g.failed(err)
		}
		done(nil)
		return nil
	}}
}

// group returns the group of a shard.
func (db *DB[K]) group(id ID) (*group, error) {
	g := db.groups[id]
	if g == nil {
		return nil, fmt.Errorf("shard: %q: %w", id, ErrUnknownShard)
	}
	return g, nil
}

// route returns where a key is.
func (db *DB[K]) route(ctx context.Context, key K) (Placement, *group, error) {
	p, err := db.router.Route(ctx, key)
	if err != nil {
		return Placement{}, nil, err
	}
	if p.Shard == "" {
		return Placement{}, nil, fmt.Errorf("shard: routing: %w", ErrNoShard)
	}
	g, err := db.group(p.Shard)
	if err != nil {
		return Placement{}, nil, err
	}
	return p, g, nil
}

// routeWrite returns where a key can be written.
func (db *DB[K]) routeWrite(ctx context.Context, key K) (Placement, *group, error) {
	p, g, err := db.route(ctx, key)
	if err == nil && p.State == Fenced {
		return Placement{}, nil, fencedError(p)
	}
	return p, g, err
}

// fencedError returns the error of a write to p.
func fencedError(p Placement) error {
	return fmt.Errorf("shard: part %d of %q: %w", p.Part, p.Shard, ErrFenced)
}

// A Row is what QueryRow and ExecRow return: a row, or none, or an error. It is not safe for concurrent
// use. The zero value has no row.
type Row struct {
	err  error
	scan func(dest []any) error // nil: there is none, or Scan was called
}

// Err returns the error that is known before Scan is called, such as that of routing; nil if there is
// none.
func (r *Row) Err() error { return r.err }

// Scan copies the columns of the row as that of sql.Row does, and ends the statement. If there is no
// row, the error is sql.ErrNoRows; if there are several, the first counts. It can be called once.
func (r *Row) Scan(dest ...any) error {
	scan := r.scan
	if r.err != nil || scan == nil {
		return cmp.Or(r.err, sql.ErrNoRows)
	}
	r.scan, r.err = nil, errors.New("shard: Scan was called already")
	return scan(dest)
}

// A querier is an *sql.DB or an *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// A firstRow is rows of which the first was asked for.
type firstRow struct {
	rows  *sql.Rows
	found bool
}

// readRow executes a statement that returns a row. It does so up to the first one, as there are drivers
// that only then return an error.
func readRow(ctx context.Context, q querier, query string, args []any) (r firstRow, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return r, err
	}
	defer func() {
		if r.rows == nil { // it has failed, or the driver has panicked
			rows.Close()
		}
	}()
	found := rows.Next()
	if err := rows.Err(); err != nil && !found {
		return r, err
	}
	return firstRow{rows, found}, nil
}

// scan copies the row, if there is one, and ends the statement. Then it calls complete, unless that is
// nil, with the error with which the statement has ended, which is not that of copying.
func (r firstRow) scan(dest []any, complete func(error)) (err error) {
	defer func() {
		// In any case, and before the statement counts as complete: a driver may still have to read how
		// it has ended.
		ended := r.rows.Close()
		if failed := r.rows.Err(); failed != nil {
			ended = failed
		}
		if complete != nil {
			complete(ended)
		}
		if err == nil || ended != nil && err == sql.ErrNoRows {
			err = ended
		}
	}()
	for _, d := range dest {
		if _, ok := d.(*sql.RawBytes); ok {
			return errors.New("shard: RawBytes cannot be scanned from a Row") // they end with the rows
		}
	}
	if !r.found {
		return sql.ErrNoRows
	}
	return r.rows.Scan(dest...)
}
