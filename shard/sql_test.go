package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// newFakeDB returns a DB on shards a, b, c and d, whose keys go to them by their remainder.
func newFakeDB(tb testing.TB, replicas int, c SQLConfig) (*DB[int64], *fakeCluster, *fakeRouter) {
	tb.Helper()
	ids := []ID{"a", "b", "c", "d"}
	cluster := newFakeCluster(tb, replicas, ids...)
	router := &fakeRouter{ids: ids}
	db, err := OpenSQL(router, cluster.groups, c)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db, cluster, router
}

func put(tb testing.TB, db *DB[int64], k, v int64) {
	tb.Helper()
	_, err := db.Exec(tb.Context(), k, "put", k, v)
	require.NoError(tb, err)
}

// get returns the number of a key, or -1.
func get(ctx context.Context, tb testing.TB, db *DB[int64], k int64) int64 {
	tb.Helper()
	v := int64(-1)
	if err := db.QueryRow(ctx, k, "get", k).Scan(&v); err != sql.ErrNoRows {
		require.NoError(tb, err)
	}
	return v
}

func TestOpenSQL(t *testing.T) {
	router := &fakeRouter{ids: []ID{"a", "b"}}
	good := newFakeCluster(t, 1, "a", "b", "c").groups
	a := good["a"]
	for _, tt := range []struct {
		name   string
		router Router[int64]
		groups map[ID]Group
		config SQLConfig
		want   string
	}{
		{"router", nil, good, SQLConfig{}, "shard: router must not be nil"},
		{"no groups", router, nil, SQLConfig{}, "shard: groups must not be empty"},
		{"no name", router, map[ID]Group{"": a}, SQLConfig{}, `shard: groups must not have "" as a shard`},
		{"a nil pointer", (*Map[int64])(nil), good, SQLConfig{}, "shard: router must not be nil"},
		{"a nil function", routerFunc(nil), good, SQLConfig{}, "shard: router must not be nil"},
		{"the same database", router, map[ID]Group{"a": a, "b": a}, SQLConfig{}, `shard: groups must have databases of their own, got the same *sql.DB for "a" and "b"`},
		{"of a replica", router, map[ID]Group{"a": {Primary: a.Primary, Replicas: []Replica{{Name: "x", DB: good["b"].Primary}}}, "b": good["b"]}, SQLConfig{}, `shard: groups must have databases of their own, got the same *sql.DB for "a" and "b"`},
		{"a hole", router, map[ID]Group{"a": a, "c": good["c"]}, SQLConfig{}, `shard: groups must have all shards of the router, got none for "b": unknown shard`},
		{"primary", router, map[ID]Group{"a": a, "b": {}}, SQLConfig{}, `shard: Primary of "b" must not be nil`},
		{"replica", router, map[ID]Group{"a": {Primary: a.Primary, Replicas: []Replica{{Name: "x"}}}}, SQLConfig{}, `shard: DB of replica "x" of "a" must not be nil`},
		{"replica's name", router, map[ID]Group{"a": {Primary: a.Primary, Replicas: []Replica{{DB: a.Primary}}}}, SQLConfig{}, `shard: Name of replica 0 of "a" must not be empty`},
		{"the same name", router, map[ID]Group{"a": {Primary: a.Primary, Replicas: []Replica{{Name: "x", DB: a.Primary}, {Name: "x", DB: a.Primary}}}}, SQLConfig{}, `shard: Name of replicas of "a" must differ, got "x" twice`},
		{"Name", router, good, SQLConfig{Name: string(make([]byte, 65))}, "shard: Name must be at most 64 bytes, got 65"},
		{"Consistency", router, good, SQLConfig{Consistency: -3}, "shard: Consistency must be Primary, Eventual, ReadYourWrites or a BoundedStaleness, got Consistency(-3)"},
		{"MaxWait", router, good, SQLConfig{MaxWait: -1}, "shard: MaxWait must be between 0 and 1h, got -1ns"},
		{"MaxWait", router, good, SQLConfig{MaxWait: math.MaxInt64}, "shard: MaxWait must be between 0 and 1h, got 2562047h47m16.854775807s"},
		{"LagCache", router, good, SQLConfig{LagCache: -1}, "shard: LagCache must be between 0 and 1h, got -1ns"},
		{"ProbeInterval", router, good, SQLConfig{ProbeInterval: 1}, "shard: ProbeInterval must be 0, or between 10ms and 1h, got 1ns"},
		{"Heartbeat", router, good, SQLConfig{Heartbeat: 2 * time.Hour}, "shard: Heartbeat must be 0, or between 10ms and 1h, got 2h0m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OpenSQL(tt.router, tt.groups, tt.config)
			require.EqualError(t, err, tt.want)
		})
	}

	db, err := OpenSQL(router, good, SQLConfig{})
	require.NoError(t, err)
	require.Equal(t, []ID{"a", "b"}, db.Shards(), "those of the router")
	g, err := db.Shard("c")
	require.NoError(t, err)
	require.Same(t, good["c"].Primary, g.Primary)
	g.Replicas[0].Name = "changed"
	good["c"].Replicas[0].Name = "changed"
	again, _ := db.Shard("c")
	require.Equal(t, "r0", again.Replicas[0].Name)
	_, err = db.Shard("d")
	require.ErrorIs(t, err, ErrUnknownShard)
	require.EqualError(t, err, `shard: "d": unknown shard`)
	require.NoError(t, db.Close())
	require.NoError(t, db.Close())

	// A router that is no Lister can name shards that are not there.
	db, err = OpenSQL(routerFunc(func(k int64) (Placement, error) { return Placement{Shard: ID(rune('a' + k))}, nil }), good, SQLConfig{})
	require.NoError(t, err)
	require.Equal(t, []ID{"a", "b", "c"}, db.Shards(), "those of the groups")
	for _, err := range everyErr(t, db, 3) {
		require.ErrorIs(t, err, ErrUnknownShard)
	}
	db, err = OpenSQL(routerFunc(func(k int64) (Placement, error) { return Placement{}, nil }), good, SQLConfig{})
	require.NoError(t, err)
	for _, err := range everyErr(t, db, 3) {
		require.ErrorIs(t, err, ErrNoShard)
	}
}

type routerFunc func(k int64) (Placement, error)

func (f routerFunc) Route(_ context.Context, k int64) (Placement, error) { return f(k) }

// everyErr returns the errors of all methods that take a key.
func everyErr(t *testing.T, db *DB[int64], k int64) map[string]error {
	ctx := t.Context()
	errs := map[string]error{}
	_, errs["Exec"] = db.Exec(ctx, k, "put", k, 1)
	rows, err := db.Query(ctx, k, "get", k)
	if err == nil {
		rows.Close()
	}
	errs["Query"] = err
	var v int64
	errs["QueryRow"] = db.QueryRow(ctx, k, "get", k).Scan(&v)
	errs["ExecRow"] = db.ExecRow(ctx, k, "put", k, 1).Scan(&v)
	errs["InTx"] = db.InTx(ctx, k, nil, func(*Tx[int64]) error { return nil })
	errs["InTx ReadOnly"] = db.InTx(ctx, k, &sql.TxOptions{ReadOnly: true}, func(*Tx[int64]) error { return nil })
	_, _, errs["On"] = db.On(ctx, k)
	return errs
}

func TestRouting(t *testing.T) {
	db, cluster, router := newFakeDB(t, 0, SQLConfig{})
	for k := range int64(20) {
		put(t, db, k, 100+k)
	}
	for k := range int64(20) {
		require.Equal(t, 100+k, get(t.Context(), t, db, k))
		rows, err := db.Query(t.Context(), k, "get", k)
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.False(t, rows.Next())
		require.NoError(t, rows.Close())
		d, p, err := db.On(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: router.ids[k%4], Part: PartID(k % 4), Epoch: 1}, p)
		require.Same(t, cluster.groups[p.Shard].Primary, d)
	}
	for i, id := range router.ids {
		want := [][2]int64{}
		for k := int64(i); k < 20; k += 4 {
			want = append(want, [2]int64{k, 100 + k})
		}
		require.Equal(t, want, cluster.primaries[id].visible())
	}
	require.EqualValues(t, -1, get(t.Context(), t, db, 77))

	var v int64
	require.NoError(t, db.ExecRow(t.Context(), 5, "put", 5, 7).Scan(&v))
	require.EqualValues(t, 5, v)
	require.EqualValues(t, 7, get(t.Context(), t, db, 5))

	// Errors name the shard, and are those of the router as they are.
	_, err := db.Exec(t.Context(), 6, "nonsense")
	require.EqualError(t, err, `shard "c": syntax error in "nonsense"`)
	_, err = db.Query(t.Context(), 6, "nonsense")
	require.EqualError(t, err, `shard "c": syntax error in "nonsense"`)
	row := db.QueryRow(t.Context(), 6, "nonsense")
	require.NoError(t, row.Err())
	require.EqualError(t, row.Scan(), `shard "c": syntax error in "nonsense"`)
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, ID("c"), failed.Shard)
	require.EqualError(t, db.ExecRow(t.Context(), 6, "nonsense").Scan(), `shard "c": syntax error in "nonsense"`)
	router.err = errors.New("no route")
	for method, err := range everyErr(t, db, 1) {
		require.Equal(t, router.err, err, method)
	}
	stats := db.Stats()
	require.Len(t, stats, 4)
	require.Equal(t, GroupStats{Shard: "b", Writes: 6, PrimaryReads: 5 + 5 + 1 + 1}, stats[1])
}

func TestRow(t *testing.T) {
	db, cluster, _ := newFakeDB(t, 0, SQLConfig{})
	put(t, db, 0, 1)
	ctx := t.Context()
	row := db.QueryRow(ctx, 0, "get", 0)
	var v int64
	var raw sql.RawBytes
	require.EqualError(t, row.Scan(&raw), `shard "a": shard: RawBytes cannot be scanned from a Row`)
	require.EqualError(t, row.Scan(&v), "shard: Scan was called already")
	require.Error(t, db.QueryRow(ctx, 0, "get", 0).Scan(&v, &v))
	row = db.QueryRow(ctx, 4, "get", 4)
	require.Equal(t, sql.ErrNoRows, row.Scan(&v))
	require.Equal(t, sql.ErrNoRows, (&Row{}).Scan(&v))

	a := cluster.primaries["a"]
	broken := errors.New("broken")
	a.failAt(broken, "next")
	require.ErrorIs(t, db.QueryRow(ctx, 0, "get", 0).Scan(&v), broken)
	a.failAt(broken, "close")
	require.ErrorIs(t, db.QueryRow(ctx, 0, "get", 0).Scan(&v), broken, "as of sql.Row")
	a.setFail(nil)

	// One whose context ends before it is scanned, and one that never is.
	ctx, cancel := context.WithCancel(ctx)
	row = db.QueryRow(ctx, 0, "get", 0)
	require.NoError(t, row.Err())
	cancel()
	require.ErrorIs(t, row.Scan(&v), context.Canceled)
	require.NoError(t, db.QueryRow(t.Context(), 0, "get", 0).Err())
	// A row that has gone with its database has not been seen.
	db, cluster, _ = newFakeDB(t, 1, SQLConfig{Consistency: Eventual})
	put(t, db, 0, 1)
	cluster.replicas["a"][0].catchUp()
	cluster.replicas["a"][0].failAt(io.ErrUnexpectedEOF, "close")
	require.Equal(t, int64(1), get(t.Context(), t, db, 0))
	require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Failures)
	// But if it was written, it may have been.
	cluster.primaries["a"].failAt(io.ErrUnexpectedEOF, "close")
	mine := WithSession(t.Context())
	require.ErrorIs(t, db.ExecRow(mine, 0, "put", 0, 2).Scan(&v), io.ErrUnexpectedEOF)
	_, _, unknown := sessionOf(mine).need(place{"", "a"}, 0)
	require.True(t, unknown)
	cluster.primaries["a"].setFail(nil)
	require.Error(t, db.ExecRow(mine, 0, "put", 0, 3).Scan(), "it was written all the same")
	require.Equal(t, int64(3), get(WithConsistency(mine, ReadYourWrites), t, db, 0))
}

// How a statement has ended is told when its rows are closed, whether there were any or not.
func TestRowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 0, SQLConfig{})
		put(t, db, 0, 1)
		a := cluster.primaries["a"]
		var v int64
		require.Equal(t, sql.ErrNoRows, db.QueryRow(t.Context(), 4, "get more", 4).Scan(&v))
		broken := errors.New("broken")
		a.failAt(broken, "close")
		for _, key := range []int64{0, 4} {
			require.ErrorIs(t, db.QueryRow(t.Context(), key, "get more", key).Scan(&v), broken)
			require.ErrorIs(t, db.ExecRow(t.Context(), key, "get more", key).Scan(&v), broken)
		}
		a.setFail(nil)
		writes := db.Stats()[0].Writes
		ctx, cancel := context.WithCancel(t.Context())
		row := db.ExecRow(ctx, 0, "put", 0, 2)
		cancel()
		synctest.Wait()
		require.ErrorIs(t, row.Scan(&v), context.Canceled)
		require.Equal(t, writes, db.Stats()[0].Writes, "it is not known to have been written")
	})
}

func TestFenced(t *testing.T) {
	db, cluster, router := newFakeDB(t, 1, SQLConfig{})
	put(t, db, 1, 11)
	router.place(1, Placement{Shard: "b", Part: 7, Epoch: 3, State: Fenced})
	for method, err := range everyErr(t, db, 1) {
		switch method {
		case "Query", "QueryRow", "On", "InTx ReadOnly":
			require.NoError(t, err, method)
		default:
			require.ErrorIs(t, err, ErrFenced, method)
			require.EqualError(t, err, `shard: part 7 of "b": the part is fenced`, method)
		}
	}
	require.Len(t, cluster.primaries["b"].log, 1)
	router.place(1, Placement{Shard: "b", Part: 7, Epoch: 3, State: Migrating})
	for method, err := range everyErr(t, db, 1) {
		require.NoError(t, err, method)
	}
}

func TestInTx(t *testing.T) {
	db, cluster, router := newFakeDB(t, 0, SQLConfig{})
	ctx := t.Context()
	a := cluster.primaries["a"]
	require.NoError(t, db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
		require.Equal(t, ID("a"), tx.Shard())
		_, err := tx.Exec(ctx, 0, "put", 0, 1)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, 4, "put", 4, 2)
		require.NoError(t, err)
		var v int64
		require.NoError(t, tx.QueryRow(ctx, 4, "get", 4).Scan(&v))
		require.EqualValues(t, 2, v)
		require.Equal(t, sql.ErrNoRows, tx.QueryRow(ctx, 8, "get", 8).Scan(&v))
		rows, err := tx.Query(ctx, 0, "get", 0)
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.NoError(t, rows.Close())
		require.NotNil(t, tx.Tx())
		require.Empty(t, a.visible(), "not committed")

		for k := range int64(3) {
			k++
			want := fmt.Sprintf(`shard: the transaction is in "a", the key in %q: the key belongs to another shard`, router.ids[k])
			require.EqualError(t, tx.Check(k), want)
			require.ErrorIs(t, tx.Check(k), ErrCrossShard)
			_, err = tx.Exec(ctx, k, "put", k, 1)
			require.EqualError(t, err, want)
			_, err = tx.Query(ctx, k, "get", k)
			require.EqualError(t, err, want)
			require.EqualError(t, tx.QueryRow(ctx, k, "get", k).Scan(&v), want)
		}
		require.NoError(t, tx.Check(8))
		p, err := tx.Placement(8)
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: "a", Epoch: 1}, p)
		p, err = tx.Placement(1)
		require.ErrorIs(t, err, ErrCrossShard)
		require.Zero(t, p)
		return nil
	}))
	require.Equal(t, [][2]int64{{0, 1}, {4, 2}}, a.visible())
	require.Empty(t, cluster.primaries["b"].log)

	// All the ways in which it is not committed.
	mine := errors.New("mine")
	write := func(tx *Tx[int64]) {
		_, err := tx.Exec(ctx, 0, "put", 0, 99)
		require.NoError(t, err)
	}
	var kept *Tx[int64]
	require.Equal(t, mine, db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
		kept = tx
		write(tx)
		return mine
	}))
	require.PanicsWithValue(t, "oh", func() {
		_ = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
			write(tx)
			panic("oh")
		})
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
			write(tx)
			runtime.Goexit()
			return nil
		})
	})
	wg.Wait()
	canceled, cancel := context.WithCancel(ctx)
	defer cancel()
	canceled = WithSession(canceled)
	err := db.InTx(canceled, 0, nil, func(tx *Tx[int64]) error {
		write(tx)
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrOutcomeUnknown, "it was not tried")
	require.Empty(t, SessionToken(canceled))
	err = db.InTx(ctx, 0, &sql.TxOptions{ReadOnly: true}, func(tx *Tx[int64]) error {
		_, err := tx.Exec(ctx, 0, "put", 0, 99)
		return err
	})
	require.ErrorIs(t, err, errReadOnly)
	for op, want := range map[string]bool{"begin": false, "commit": true} {
		a.failAt(mine, op)
		err = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
			write(tx)
			return nil
		})
		require.ErrorIs(t, err, mine)
		require.Equal(t, want, errors.Is(err, ErrOutcomeUnknown), op)
		a.setFail(nil)
	}
	require.Equal(t, [][2]int64{{0, 1}, {4, 2}}, a.visible())
	// Without a router nobody knows whether the keys are where they were.
	for _, check := range []bool{true, false} {
		err = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
			_, err := tx.Exec(ctx, 0, "nonsense")
			require.EqualError(t, err, `shard "a": syntax error in "nonsense"`)
			_, err = tx.Query(ctx, 0, "nonsense")
			require.EqualError(t, err, `shard "a": syntax error in "nonsense"`)
			require.EqualError(t, tx.QueryRow(ctx, 0, "nonsense").Scan(), `shard "a": syntax error in "nonsense"`)
			require.EqualError(t, tx.QueryRow(ctx, 0, "get", 4).Scan(new(sql.RawBytes)), `shard "a": shard: RawBytes cannot be scanned from a Row`)
			write(tx)
			router.err = mine
			if check {
				return tx.Check(0)
			}
			return nil
		})
		require.Equal(t, mine, err)
		router.err = nil
	}
	require.Equal(t, [][2]int64{{0, 1}, {4, 2}}, a.visible())
	// A database that refuses to commit says so.
	a.failAt(stateError("40001"), "commit")
	err = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error { return nil })
	require.ErrorIs(t, err, stateError("40001"))
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	require.EqualError(t, err, `shard "a": SQLSTATE 40001`)
	a.setFail(nil)
	// One that has committed, and is gone before it says so.
	a.lose = func() error { return net.ErrClosed }
	err = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
		write(tx)
		return nil
	})
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.ErrorIs(t, err, net.ErrClosed)
	require.EqualError(t, err, `shard "a": whether it was committed is not known: use of closed network connection`)
	a.lose = nil
	// One that f has ended.
	err = db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error { return tx.Tx().Rollback() })
	require.ErrorIs(t, err, sql.ErrTxDone)
	require.NotErrorIs(t, err, ErrOutcomeUnknown)

	require.EqualError(t, kept.Check(0), `shard: the transaction in "a" has ended with its function: sql: transaction has already been committed or rolled back`)
	_, err = kept.Exec(ctx, 0, "put", 0, 1)
	require.ErrorIs(t, err, sql.ErrTxDone)
	require.ErrorIs(t, kept.QueryRow(ctx, 0, "get", 0).Scan(), sql.ErrTxDone)
	require.Panics(t, func() { _ = db.InTx(ctx, 0, nil, nil) })
}

// A stateError is an error with a SQLSTATE.
type stateError string

func (e stateError) Error() string    { return "SQLSTATE " + string(e) }
func (e stateError) SQLState() string { return string(e) }

// A part that moves while there is a transaction.
func TestInTxMoves(t *testing.T) {
	serving := Placement{Shard: "a", Part: 9, Epoch: 5}
	for _, tt := range []struct {
		name       string
		then       Placement
		check, ctx error // of a transaction that writes
		reads      error
	}{
		{"stays", serving, nil, nil, nil},
		{"migrates", Placement{Shard: "a", Part: 9, Epoch: 6, State: Migrating}, ErrStaleEpoch, nil, nil},
		{"fenced", Placement{Shard: "a", Part: 9, Epoch: 7, State: Fenced}, ErrFenced, nil, nil},
		{"moved", Placement{Shard: "b", Part: 9, Epoch: 8}, ErrCrossShard, nil, ErrCrossShard},
		{"and back", Placement{Shard: "a", Part: 9, Epoch: 11}, ErrStaleEpoch, nil, nil},
	} {
		for _, when := range []string{"check", "commit", "commit of another"} {
			for _, reads := range []bool{false, true} {
				t.Run(fmt.Sprint(tt.name, " ", when, " ", reads), func(t *testing.T) {
					db, cluster, router := newFakeDB(t, 0, SQLConfig{})
					ctx := t.Context()
					router.place(0, serving)
					router.place(4, Placement{Shard: "a", Part: 1, Epoch: 1})
					key := int64(0)
					if when == "commit of another" {
						key = 4
					}
					want := tt.check
					if reads {
						want = tt.reads
					}
					err := db.InTx(ctx, key, &sql.TxOptions{ReadOnly: reads}, func(tx *Tx[int64]) error {
						require.NoError(t, tx.Check(0))
						if !reads {
							_, err := tx.Exec(ctx, 0, "put", 0, 1)
							require.NoError(t, err)
						}
						router.place(0, tt.then)
						if when == "check" {
							err := tx.Check(0)
							require.ErrorIs(t, err, want)
							return err
						}
						return nil
					})
					require.ErrorIs(t, err, want)
					require.Equal(t, want == nil && !reads, len(cluster.primaries["a"].log) == 1)
				})
			}
		}
	}
}

func scanList(rows *sql.Rows) (all [][2]int64, err error) {
	for rows.Next() {
		var kv [2]int64
		if err := rows.Scan(&kv[0], &kv[1]); err != nil {
			return nil, err
		}
		all = append(all, kv)
	}
	return all, nil // the error of the rows is looked at by others
}

func scanPair(rows *sql.Rows) (kv [2]int64, err error) {
	err = rows.Scan(&kv[0], &kv[1])
	return kv, err
}

func byFirst(a, b [2]int64) int { return int(a[0] - b[0]) }

func TestScatter(t *testing.T) {
	db, cluster, router := newFakeDB(t, 0, SQLConfig{})
	ctx := t.Context()
	for k := range int64(10) {
		put(t, db, k, k*k)
	}
	replies, err := Scatter(ctx, db, Policy{}, "list", nil, scanList)
	require.NoError(t, err)
	require.Equal(t, []Reply[[][2]int64]{
		{"a", [][2]int64{{0, 0}, {4, 16}, {8, 64}}}, {"b", [][2]int64{{1, 1}, {5, 25}, {9, 81}}},
		{"c", [][2]int64{{2, 4}, {6, 36}}}, {"d", [][2]int64{{3, 9}, {7, 49}}},
	}, replies)
	first := func(rows *sql.Rows) ([2]int64, error) {
		require.True(t, rows.Next())
		return scanPair(rows)
	}
	some, err := ScatterOn(ctx, db, []ID{"d", "b"}, Policy{}, "list", []any{1}, first)
	require.NoError(t, err)
	require.Equal(t, []Reply[[2]int64]{{"d", [2]int64{3, 9}}, {"b", [2]int64{1, 1}}}, some)

	_, err = ScatterOn(ctx, db, []ID{"b", "x"}, Policy{}, "list", nil, scanList)
	require.ErrorIs(t, err, ErrUnknownShard)
	require.EqualError(t, err, `shard: 1 of 2 shards have failed: "x": unknown shard`)
	_, err = ScatterOn(ctx, db, nil, Policy{}, "list", nil, scanList)
	require.ErrorIs(t, err, ErrNoShard)
	require.Panics(t, func() { _, _ = Scatter[int64, int](ctx, db, Policy{}, "list", nil, nil) })

	// Everything that can fail in one shard, or in the function.
	broken := errors.New("broken")
	for _, op := range []string{"query", "next", "close"} {
		cluster.primaries["c"].failAt(broken, op)
		replies, err = Scatter(ctx, db, Policy{}, "list", nil, scanList)
		var partial *PartialError
		require.ErrorAs(t, err, &partial, op)
		require.Equal(t, []*Error{{Shard: "c", Asked: true, Err: broken}}, partial.Failed, op)
		require.Len(t, replies, 3)
		cluster.primaries["c"].setFail(nil)
	}
	_, err = Scatter(ctx, db, Policy{}, "list", nil, func(rows *sql.Rows) (int, error) { return 0, broken })
	require.ErrorIs(t, err, ErrAllFailed)
	require.ErrorIs(t, err, broken)
	require.Panics(t, func() {
		_, _ = Scatter(ctx, db, Policy{}, "list", nil, func(rows *sql.Rows) (int, error) { panic("oh") })
	})
	router.ids = append(router.ids, "e")
	_, err = Scatter(ctx, db, Policy{}, "list", nil, scanList)
	require.EqualError(t, err, `shard: 1 of 5 shards have failed: "e": unknown shard`, "a hole is an error")
}

func TestScatterSorted(t *testing.T) {
	db, cluster, _ := newFakeDB(t, 0, SQLConfig{})
	ctx := t.Context()
	for k := range int64(40) {
		put(t, db, k, k*k)
	}
	collect := func(p Policy, limit int, args ...any) (keys []int64, errs []error) {
		for kv, err := range Limit(limit, ScatterSorted(ctx, db, db.Shards(), p, "list", args, scanPair, byFirst)) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			keys = append(keys, kv[0])
		}
		return keys, errs
	}
	keys, errs := collect(Policy{}, 100)
	require.Empty(t, errs)
	require.Len(t, keys, 40)
	require.True(t, slices.IsSorted(keys))
	keys, errs = collect(Policy{}, 7, 7)
	require.Empty(t, errs)
	require.Equal(t, []int64{0, 1, 2, 3, 4, 5, 6}, keys)
	for range ScatterSorted(ctx, db, db.Shards(), Policy{}, "list", nil, scanPair, byFirst) {
		break // what is left open is found when the test ends
	}

	// A shard that fails at the beginning.
	broken := errors.New("broken")
	for _, enough := range []bool{false, true} {
		cluster.primaries["c"].failAt(broken, "query")
		p := Policy{}
		if enough {
			p.MinSuccess = 3
		}
		keys, errs = collect(p, 100)
		require.Len(t, errs, 1)
		var partial *PartialError
		require.ErrorAs(t, errs[0], &partial)
		require.Equal(t, ID("c"), partial.Failed[0].Shard)
		require.Len(t, keys, map[bool]int{true: 30, false: 0}[enough])
		n := 0
		for _, err := range ScatterSorted(ctx, db, db.Shards(), p, "list", nil, scanPair, byFirst) {
			require.ErrorIs(t, err, broken, "first of all")
			n++
			break
		}
		require.Equal(t, 1, n)
	}
	// And later.
	var calls int
	cluster.primaries["c"].setFail(func(_ context.Context, op string) error {
		if op == "next" {
			if calls++; calls > 3 {
				return broken
			}
		}
		return nil
	})
	keys, errs = collect(Policy{}, 100)
	require.Equal(t, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, keys)
	require.Len(t, errs, 1)
	require.EqualError(t, errs[0], `shard "c": broken`)
	cluster.primaries["c"].setFail(nil)
	// In the functions.
	for kv, err := range ScatterSorted(ctx, db, db.Shards(), Policy{}, "list", nil, func(rows *sql.Rows) (kv [2]int64, err error) { return kv, broken }, byFirst) {
		require.ErrorIs(t, err, broken)
		require.Zero(t, kv)
	}
	require.PanicsWithValue(t, "oh", func() {
		for range ScatterSorted(ctx, db, db.Shards(), Policy{}, "list", nil, scanPair, byFirst) {
			panic("oh")
		}
	})
	require.Panics(t, func() {
		for range ScatterSorted(ctx, db, db.Shards(), Policy{}, "list", nil, func(rows *sql.Rows) (kv [2]int64, err error) { panic("oh") }, byFirst) {
			continue
		}
	})
	require.Panics(t, func() { ScatterSorted(ctx, db, db.Shards(), Policy{}, "list", nil, scanPair, nil) })
	for _, err := range ScatterSorted(ctx, db, nil, Policy{}, "list", nil, scanPair, byFirst) {
		require.ErrorIs(t, err, ErrNoShard)
	}
	for _, err := range ScatterSorted(ctx, db, []ID{"x"}, Policy{}, "list", nil, scanPair, byFirst) {
		require.ErrorIs(t, err, ErrUnknownShard)
	}
	canceled, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	for _, err := range ScatterSorted(canceled, db, db.Shards(), Policy{}, "list", nil, scanPair, byFirst) {
		if seen++; err != nil {
			require.ErrorIs(t, err, context.Canceled)
			break
		}
		cancel()
	}
	require.Greater(t, seen, 1)
}

// Rows that are out of order are those of a shard.
func TestScatterSortedUnsorted(t *testing.T) {
	db, _, _ := newFakeDB(t, 0, SQLConfig{})
	for k := range int64(16) {
		put(t, db, k, k)
	}
	put(t, db, 10, 1) // in c, behind 2 and 6
	var keys []int64
	var failed error
	for kv, err := range ScatterSorted(t.Context(), db, db.Shards(), Policy{}, "list", nil, scanPair, func(a, b [2]int64) int { return int(a[1] - b[1]) }) {
		if err != nil {
			require.NoError(t, failed, "it is the last")
			failed = err
			continue
		}
		keys = append(keys, kv[0])
	}
	require.Equal(t, []int64{0, 1, 2, 3, 4, 5, 6}, keys)
	require.ErrorIs(t, failed, ErrUnsorted)
	require.EqualError(t, failed, `shard "c": not sorted`)
	var of *Error
	require.ErrorAs(t, failed, &of)
	require.Equal(t, ID("c"), of.Shard)
}

// Rows are closed before they are cancelled, so that their connections stay; but it is not waited long.
func TestScatterSortedClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, router := newFakeDB(t, 0, SQLConfig{})
		for k := range int64(8) {
			put(t, db, k, k)
		}
		for _, hangs := range []bool{false, true} {
			var canceled atomic.Int64
			for _, id := range router.ids {
				var query context.Context
				cluster.primaries[id].setFail(func(ctx context.Context, op string) error {
					switch {
					case op == "query":
						query = ctx
					case op == "close" && hangs:
						<-query.Done()
						canceled.Add(1)
					case op == "close" && query.Err() != nil:
						canceled.Add(1)
					}
					return nil
				})
			}
			start := time.Now()
			for range Limit(2, ScatterSorted(t.Context(), db, db.Shards(), Policy{}, "list", nil, scanPair, byFirst)) {
				continue
			}
			if hangs {
				require.EqualValues(t, 4, canceled.Load())
				require.Equal(t, closeGrace, time.Since(start))
			} else {
				require.Zero(t, canceled.Load())
				require.Zero(t, time.Since(start))
			}
		}
	})
}

// The time of a shard bounds its answer, not the loop.
func TestScatterSortedPerShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 0, SQLConfig{})
		for k := range int64(8) {
			put(t, db, k, k)
		}
		cluster.primaries["b"].hang()
		var keys []int64
		var errs []error
		start := time.Now()
		for kv, err := range ScatterSorted(t.Context(), db, db.Shards(), Policy{PerShard: time.Second, MinSuccess: 1}, "list", nil, scanPair, byFirst) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			keys = append(keys, kv[0])
			time.Sleep(time.Second)
		}
		require.Equal(t, []int64{0, 2, 3, 4, 6, 7}, keys)
		require.Equal(t, 7*time.Second, time.Since(start))
		require.Len(t, errs, 1)
		require.ErrorIs(t, errs[0], context.DeadlineExceeded)
		require.EqualError(t, errs[0], `shard: 1 of 4 shards have failed: "b": context deadline exceeded after 1s`)
	})
}

// What routing and the choice of a replica add to a query, which here does nearly nothing.
func BenchmarkQueryRow(b *testing.B) {
	cluster := newFakeCluster(b, 2, "a")
	for _, r := range cluster.replicas["a"] {
		r.catchUp()
	}
	db, err := OpenSQL(&fakeRouter{ids: []ID{"a"}}, cluster.groups, SQLConfig{LagCache: time.Hour})
	require.NoError(b, err)
	mine := WithSession(b.Context())
	_, err = db.Exec(mine, 0, "put", 0, 1)
	require.NoError(b, err)
	for _, r := range cluster.replicas["a"] {
		r.catchUp()
	}
	clear := func() { // of the statements, which are kept
		for _, s := range append(cluster.replicas["a"], cluster.primaries["a"]) {
			s.mu.Lock()
			s.did = s.did[:0]
			s.mu.Unlock()
		}
	}
	var v int64
	b.Run("impl=sql", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := cluster.groups["a"].Primary.QueryRowContext(mine, "get", 0).Scan(&v); err != nil {
				b.Fatal(err)
			}
			clear()
		}
	})
	for _, c := range []Consistency{Primary, Eventual, ReadYourWrites, BoundedStaleness(time.Hour)} {
		b.Run("impl=shard/consistency="+c.String(), func(b *testing.B) {
			ctx := WithConsistency(mine, c)
			b.ReportAllocs()
			for b.Loop() {
				if err := db.QueryRow(ctx, 0, "get", 0).Scan(&v); err != nil {
					b.Fatal(err)
				}
				clear()
			}
		})
	}
}

// TestInTxSplit has a part that is split while there is a transaction with keys of both halves, of which one
// moves: nothing is written to where a key is not any more.
func TestInTxSplit(t *testing.T) {
	db, cluster, router := newFakeDB(t, 0, SQLConfig{})
	ctx := t.Context()
	for _, key := range []int64{0, 4} {
		router.place(key, Placement{Shard: "a", Part: 9, Epoch: 5})
	}
	err := db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
		for _, key := range []int64{0, 4} {
			_, err := tx.Exec(ctx, key, "put", key, 1)
			require.NoError(t, err)
		}
		router.place(4, Placement{Shard: "b", Part: 10, Epoch: 7})
		router.place(0, Placement{Shard: "a", Part: 9, Epoch: 8, State: Migrating})
		return nil
	})
	require.ErrorIs(t, err, ErrStaleEpoch)
	require.Zero(t, stored(t, cluster, "a", 0, 4))
}

// stored returns how many of the keys the primary of a shard has.
func stored(t *testing.T, cluster *fakeCluster, id ID, keys ...int64) (n int) {
	t.Helper()
	for _, k := range keys {
		var v int64
		if err := cluster.groups[id].Primary.QueryRow("get", k).Scan(&v); err == nil {
			n++
		} else {
			require.ErrorIs(t, err, sql.ErrNoRows)
		}
	}
	return n
}

// A keyRouter is a router in which each key moves by itself, as in a Directory.
type keyRouter struct{ Router[int64] }

func (keyRouter) MovesKeys() {}

// TestInTxKeys has keys of a directory, whose placements have the same part, and other or the same epochs.
func TestInTxKeys(t *testing.T) {
	db, cluster, router := newFakeDB(t, 0, SQLConfig{})
	db.router = keyRouter{db.router}
	ctx := t.Context()
	both := func(then func()) error {
		return db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error {
			for _, key := range []int64{0, 4} {
				_, err := tx.Exec(ctx, key, "put", key, 1)
				require.NoError(t, err)
			}
			then()
			return nil
		})
	}
	for _, epoch := range []uint64{1, 7} {
		router.place(0, Placement{Shard: "a", Epoch: 1})
		router.place(4, Placement{Shard: "a", Epoch: epoch})
		require.NoError(t, both(func() {}))
		require.ErrorIs(t, both(func() { router.place(4, Placement{Shard: "b", Epoch: 9}) }), ErrCrossShard)
	}
	require.Equal(t, 2, stored(t, cluster, "a", 0, 4))
}

// An insertStore takes what is inserted. The Directory remembers it.
type insertStore struct{ DirectoryStore[int64] }

func (insertStore) Insert(_ context.Context, _ int64, p Placement) (Placement, error) { return p, nil }

// Keys of a Directory, which have the same part and epochs of their own.
func TestInTxDirectory(t *testing.T) {
	db, _, _ := newFakeDB(t, 0, SQLConfig{})
	d, err := NewDirectory(insertStore{}, DirectoryConfig[int64]{Capacity: 10})
	require.NoError(t, err)
	ctx := t.Context()
	for key := range int64(2) {
		_, err := d.Insert(ctx, key, Placement{Shard: "a", Epoch: uint64(7 + key)})
		require.NoError(t, err)
	}
	type wrapper struct { // one that has its methods as well
		Router[int64]
		KeyMover
	}
	for _, router := range []Router[int64]{d, wrapper{d, d}} {
		db.router = router
		require.NoError(t, db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error { return tx.Check(1) }))
	}
	db.router = routerFunc(func(k int64) (Placement, error) { return d.Route(ctx, k) })
	require.ErrorIs(t, db.InTx(ctx, 0, nil, func(tx *Tx[int64]) error { return tx.Check(1) }), ErrStaleEpoch, "as KeyMover says")
}

// The sessions of the statements in a transaction are told of it, whichever context it has itself.
func TestInTxSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fault := range []string{"", "written", "commit"} {
			db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Millisecond})
			a := cluster.primaries["a"]
			put(t, db, 0, 1)
			sessions := make([]context.Context, 7)
			for i := range sessions {
				sessions[i] = WithSession(t.Context())
			}
			own, none := sessions[0], sessions[6]
			asked := 0
			a.setFail(func(_ context.Context, op string) error {
				if op == "written" {
					asked++
				}
				if op == fault {
					return io.ErrUnexpectedEOF
				}
				return nil
			})
			err := db.InTx(own, 0, nil, func(tx *Tx[int64]) error {
				for i, ctx := range sessions[1:6] {
					switch i % 3 {
					case 0:
						_, err := tx.Exec(ctx, 0, "put", 0, 2)
						require.NoError(t, err)
					case 1:
						rows, err := tx.Query(ctx, 0, "put", 0, 2)
						require.NoError(t, err)
						require.NoError(t, rows.Close())
					case 2:
						var k int64
						require.NoError(t, tx.QueryRow(ctx, 0, "put", 0, 2).Scan(&k))
					}
				}
				_, err := tx.Exec(none, 1, "put", 1, 2) // nothing is done
				require.ErrorIs(t, err, ErrCrossShard)
				require.Empty(t, SessionToken(sessions[1]), "not committed")
				return nil
			})
			require.Equal(t, fault == "commit", errors.Is(err, ErrOutcomeUnknown))
			require.Equal(t, fault != "commit", err == nil)
			require.Equal(t, fault != "commit", asked == 1, "once for all")
			a.setFail(nil)
			for i, ctx := range sessions[:6] {
				require.NotEmpty(t, SessionToken(ctx), "%d", i)
				if fault == "" {
					require.Equal(t, int64(2), get(ctx, t, db, 0), "%d", i)
				}
			}
			require.Empty(t, SessionToken(none))
			// Not of one that reads, nor of one that is rolled back.
			other := WithSession(t.Context())
			for _, reads := range []bool{false, true} {
				failure := map[bool]error{false: io.EOF}[reads]
				require.Equal(t, failure, db.InTx(t.Context(), 0, &sql.TxOptions{ReadOnly: reads}, func(tx *Tx[int64]) error {
					rows, err := tx.Query(other, 0, "get", 0)
					require.NoError(t, err)
					require.NoError(t, rows.Close())
					return failure
				}))
			}
			require.Empty(t, SessionToken(other))
		}
	})
}

// What a database says it has not committed is known, if the driver's error is.
func TestRefused(t *testing.T) {
	refusal := errors.New("rolled back")
	for _, known := range []bool{false, true} {
		c := SQLConfig{}
		if known {
			c.Refused = func(err error) bool { return errors.Is(err, refusal) }
		}
		db, cluster, _ := newFakeDB(t, 0, c)
		for _, err := range []error{refusal, fmt.Errorf("x: %w", refusal), io.EOF, stateError("40001")} {
			cluster.primaries["a"].failAt(err, "commit")
			mine := WithSession(t.Context())
			got := db.InTx(mine, 0, nil, func(*Tx[int64]) error { return nil })
			require.ErrorIs(t, got, err)
			sure := err == stateError("40001") || known && errors.Is(err, refusal)
			require.Equal(t, !sure, errors.Is(got, ErrOutcomeUnknown), "%v", err)
			require.Equal(t, sure, SessionToken(mine) == "")
			cluster.primaries["a"].setFail(nil)
		}
	}
}
