package shard

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"sync"
	"time"
)

// Scatter executes a statement that reads in all shards, several at the same time, and returns what
// scan makes of the rows of each. It is ScatterOn with db.Shards().
func Scatter[K, R any](ctx context.Context, db *DB[K], p Policy, query string, args []any, scan func(*sql.Rows) (R, error)) ([]Reply[R], error) {
	return ScatterOn(ctx, db, db.Shards(), p, query, args, scan)
}

// ScatterOn executes a statement that reads in some shards, such as those of the placements that
// RouteRange returns (see Distinct), and returns what scan makes of the rows of each. What fails in
// some of them is a *PartialError, as of Gather.
//
// scan is called once for each shard, by several goroutines at the same time, with its rows before the
// first one, and reads as many as it wants to. The rows are closed when it returns, or panics; it need
// not look at Err, as an error of the rows is one of the shard, whatever scan returns. The statement
// goes where the Consistency says, in each shard on its own, so what comes of several shards is not of
// one moment.
func ScatterOn[K, R any](ctx context.Context, db *DB[K], shards []ID, p Policy, query string, args []any, scan func(*sql.Rows) (R, error)) ([]Reply[R], error) {
	if scan == nil {
		panic("shard: the function that scans rows must not be nil")
	}
	epoch := db.epoch()
	return Gather(ctx, shards, p, func(ctx context.Context, id ID) (v R, err error) {
		g := db.groups[id]
		if g == nil {
			return v, ErrUnknownShard
		}
		rows, done, err := g.scatter(ctx, epoch, query, args)
		if err != nil {
			return v, err
		}
		returned := false
		defer func() {
			closed := rows.Close()
			if !returned {
				done(context.Canceled) // the database has done nothing wrong
				return
			}
			if failed := rows.Err(); failed != nil {
				closed = failed
			}
			if err == nil {
				err = closed
			}
			done(g.blame(ctx, err))
		}()
		v, err = scan(rows)
		returned = true
		return v, err
	})
}

// epoch returns that of the router's topology, or 0 if it has none: before it, all parts have come to
// where they are.
func (db *DB[K]) epoch() uint64 {
	if r, ok := db.router.(interface{ Topology() *Topology }); ok {
		if t := r.Topology(); t != nil {
			return t.Epoch()
		}
	}
	return 0
}

// scatter executes a statement that reads. It is the same for all parts of the shard.
func (g *group) scatter(ctx context.Context, epoch uint64, query string, args []any) (rows *sql.Rows, done func(error), err error) {
	done, err = g.read(ctx, g.hash, epoch, func(d *sql.DB) (err error) {
		rows, err = d.QueryContext(ctx, query, args...)
		return err
	})
	return rows, done, err
}

// ScatterSorted executes a statement that reads in some shards, and yields what scan makes of each row,
// in the order of cmp, over all shards. The statement must return the rows in that order. Rows that are
// equal come in the order of shards.
//
// If the statement also has a LIMIT, each shard returns no more rows than could be needed. With Limit,
// the first n of all shards are read so:
//
//	latest := shard.Limit(10, shard.ScatterSorted(ctx, db, db.Shards(), shard.Policy{},
//		"SELECT id, text FROM posts ORDER BY id DESC LIMIT 10", nil, scanPost, newestFirst))
//	for post, err := range latest {
//
// All shards are asked at the beginning, as Gather does. If any has failed, the first pair is a zero
// value and a *PartialError. It is the last as well, unless it says Enough: then the rows of the others
// follow, for a loop that goes on. A shard that fails later than that ends the loop with an *Error,
// as without what it has left out nobody knows which row is the next. So a loop that ends at any error
// never takes a part for the whole.
//
// Rows that a shard does not return in the order end the loop so, too, when that is seen: then the error
// is also ErrUnsorted.
//
// scan is called after Next, in the goroutine of the loop. PerShard is how long each shard may take to
// answer, but not for its rows. Each shard keeps a connection until the loop ends, so the loop must not
// wait for another of an sql.DB that has no more (sql.DB.SetMaxOpenConns). All rows are closed then,
// however it ends: a driver may read what is left of them for that, and if that takes longer than 100
// ms, the statements that are left are cancelled. Each range over what ScatterSorted returns executes
// the statement anew.
func ScatterSorted[K, R any](ctx context.Context, db *DB[K], shards []ID, p Policy, query string, args []any, scan func(*sql.Rows) (R, error), compare func(a, b R) int) iter.Seq2[R, error] {
	if scan == nil || compare == nil {
		panic("shard: the functions that scan and compare rows must not be nil")
	}
	return func(yield func(R, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var o opened
		defer func() {
			defer cancel()
			// Drivers give up a connection whose statement is cancelled. Mostly there is little left to
			// read, and a new connection costs more.
			defer time.AfterFunc(closeGrace, cancel).Stop()
			o.close()
		}()
		var none R
		epoch := db.epoch()
		replies, err := Gather(ctx, shards, p, func(asked context.Context, id ID) (*openRows, error) {
			return o.open(ctx, asked, db.groups[id], epoch, query, args)
		})
		if err != nil {
			var partial *PartialError
			if !yield(none, err) || !errors.As(err, &partial) || !partial.Enough {
				return
			}
		}
		seqs := make([]iter.Seq2[R, error], len(replies))
		for i, reply := range replies {
			seqs[i] = eachRow(reply.Value, scan, compare)
		}
		for v, err := range MergeSorted(compare, seqs...) {
			if !yield(v, err) {
				return
			}
		}
	}
}

// closeGrace is how long rows that are not wanted any more may take to be closed, before they are cancelled.
const closeGrace = 100 * time.Millisecond

// openRows is the rows of a shard.
type openRows struct {
	group *group
	rows  *sql.Rows
	done  func(error)
	err   error // that has ended them
}

// opened is the rows of several shards, to be closed together.
type opened struct {
	mu   sync.Mutex
	rows []*openRows
}

// open executes a statement with a context that ends with asked until there is an answer, and with ctx
// then.
func (o *opened) open(ctx, asked context.Context, g *group, epoch uint64, query string, args []any) (*openRows, error) {
	if g == nil {
		return nil, ErrUnknownShard
	}
	ctx, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(asked, func() { cancel(context.Cause(asked)) })
	rows, done, err := g.scatter(ctx, epoch, query, args)
	if err != nil {
		detach()
		cancel(err)
		if asked.Err() != nil && errors.Is(err, context.Canceled) {
			err = asked.Err() // that of the shard, which may be a time-out
		}
		return nil, err
	}
	r := &openRows{group: g, rows: rows, done: func(err error) { cancel(err); done(err) }}
	o.mu.Lock()
	o.rows = append(o.rows, r)
	o.mu.Unlock()
	if !detach() {
		return nil, asked.Err() // too late; o closes them
	}
	return r, nil
}

// close closes all rows, even if a driver panics.
func (o *opened) close() {
	for _, r := range o.rows {
		defer func() {
			r.rows.Close()
			r.done(r.group.blame(context.Background(), r.err))
		}()
	}
}

// eachRow yields what scan makes of each row. It looks at their order itself, as MergeSorted does not know
// which shard they are of.
func eachRow[R any](r *openRows, scan func(*sql.Rows) (R, error), compare func(a, b R) int) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		var none, last R
		for first := true; r.rows.Next(); first = false {
			v, err := scan(r.rows)
			if err != nil {
				r.err = err
				yield(none, r.group.failed(err))
				return
			}
			if !first && compare(last, v) > 0 {
				yield(none, r.group.failed(ErrUnsorted)) // the database has done what it was told
				return
			}
			last = v
			if !yield(v, nil) {
				return
			}
		}
		if err := r.rows.Err(); err != nil {
			r.err = err
			yield(none, r.group.failed(err))
		}
	}
}
