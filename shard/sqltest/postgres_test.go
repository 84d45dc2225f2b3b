//go:build servers

package sqltest

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
	"github.com/sysblocks/sysblocks/shard"
)

// openPostgres returns a database on a server.
func openPostgres(tb testing.TB, s *pgserver.Server) *sql.DB {
	tb.Helper()
	db, err := sql.Open("pgx", s.URL("postgres"))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	return db
}

// Four databases on servers of their own, so that one can be stopped.
func TestPostgres(t *testing.T) {
	testSuite(t, func(t *testing.T) databases {
		servers := map[shard.ID]*pgserver.Server{}
		d := databases{dbs: map[shard.ID]*sql.DB{}}
		for _, id := range ids {
			servers[id] = pgserver.Start(t)
			d.dbs[id] = openPostgres(t, servers[id])
		}
		d.stop = func(id shard.ID) { servers[id].Kill() }
		d.start = func(id shard.ID) {
			servers[id].Run(t)
			// Who uses a connection that is left from before is the one who finds out that it is
			// broken.
			d.dbs[id].SetMaxIdleConns(-1)
			d.dbs[id].SetMaxIdleConns(2)
		}
		return d
	})
}

// A transaction that has failed, and is committed all the same, is rolled back, and PostgreSQL says so. It is
// no error of the server, so pgx has one of its own.
func TestPostgresRefused(t *testing.T) {
	s := pgserver.Start(t)
	d := openPostgres(t, s)
	_, err := d.Exec(`CREATE TABLE n (k varchar(50) PRIMARY KEY)`)
	require.NoError(t, err)
	for _, known := range []bool{false, true} {
		config := shard.SQLConfig{}
		if known {
			config.Refused = func(err error) bool { return errors.Is(err, pgx.ErrTxCommitRollback) }
		}
		db, err := shard.OpenSQL(one{}, map[shard.ID]shard.Group{"one": {Primary: d}}, config)
		require.NoError(t, err)
		err = db.InTx(t.Context(), "k", nil, func(tx *shard.Tx[string]) error {
			_, err := tx.Exec(t.Context(), "k", `INSERT INTO n VALUES ('k'), ('k')`)
			var failed *shard.Error
			require.ErrorAs(t, err, &failed)
			return nil // it should be returned
		})
		require.ErrorIs(t, err, pgx.ErrTxCommitRollback)
		require.Equal(t, !known, errors.Is(err, shard.ErrOutcomeUnknown))
	}
}

// Who takes the first rows of all shards keeps the connections.
func TestPostgresConnections(t *testing.T) {
	s := pgserver.Start(t)
	config, err := pgx.ParseConfig(s.URL("postgres"))
	require.NoError(t, err)
	var opened atomic.Int64
	groups := map[shard.ID]shard.Group{}
	for _, id := range ids {
		d := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(context.Context, *pgx.ConnConfig) error {
			opened.Add(1)
			return nil
		}))
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		groups[id] = shard.Group{Primary: d}
	}
	router, err := shard.NewMod[int64](shard.ModConfig{Shards: ids})
	require.NoError(t, err)
	db, err := shard.OpenSQL(router, groups, shard.SQLConfig{})
	require.NoError(t, err)
	const n = 50
	for range n {
		got := 0
		for _, err := range shard.Limit(10, shard.ScatterSorted(t.Context(), db, db.Shards(), shard.Policy{},
			`SELECT v, repeat('x', 100) FROM generate_series(1, 10) v ORDER BY v LIMIT 10`, nil,
			func(rows *sql.Rows) (v int, err error) {
				var text string
				err = rows.Scan(&v, &text)
				return v, err
			}, cmp.Compare[int])) {
			require.NoError(t, err)
			got++
		}
		require.Equal(t, 10, got)
	}
	// One for each shard, if none took longer than a tenth of a second to be closed.
	require.Less(t, opened.Load(), int64(n))
}

// A oneAt is a Router to the only shard, by a topology.
type oneAt struct{ epoch uint64 }

func (r oneAt) Route(context.Context, string) (shard.Placement, error) {
	return shard.Placement{Shard: "one", Epoch: r.epoch}, nil
}

// Who changes the epoch of a part waits for the transactions that go by it, and those of processes that
// have not heard of it are refused then.
func TestPostgresEpochs(t *testing.T) {
	s := pgserver.Start(t)
	d := openPostgres(t, s)
	for _, statement := range []string{
		`CREATE TABLE parts (part bigint PRIMARY KEY, epoch bigint NOT NULL)`, `INSERT INTO parts VALUES (0, 1)`, `CREATE TABLE n (k bigint)`,
	} {
		_, err := d.Exec(statement)
		require.NoError(t, err)
	}
	ctx := t.Context()
	write := func(r oneAt, then func()) error {
		db, err := shard.OpenSQL(r, map[shard.ID]shard.Group{"one": {Primary: d}}, shard.SQLConfig{})
		require.NoError(t, err)
		return db.InTx(ctx, "k", nil, func(tx *shard.Tx[string]) error {
			p, err := tx.Placement("k")
			require.NoError(t, err)
			var epoch uint64
			if err := tx.QueryRow(ctx, "k", `SELECT epoch FROM parts WHERE part = $1 FOR SHARE`, int64(p.Part)).Scan(&epoch); err != nil {
				return err
			}
			if epoch != p.Epoch {
				return fmt.Errorf("%w: %d, not %d", shard.ErrStaleEpoch, p.Epoch, epoch)
			}
			then()
			_, err = tx.Exec(ctx, "k", `INSERT INTO n VALUES (1)`)
			return err
		})
	}
	count := func() (n int) {
		require.NoError(t, d.QueryRow(`SELECT count(*) FROM n`).Scan(&n))
		return n
	}
	old, young := oneAt{1}, oneAt{2}
	require.NoError(t, write(old, func() {}))
	require.ErrorIs(t, write(young, func() {}), shard.ErrStaleEpoch)
	drained := make(chan int, 1)
	require.NoError(t, write(old, func() {
		go func() {
			if _, err := d.Exec(`UPDATE parts SET epoch = 2 WHERE part = 0`); err != nil {
				t.Error(err)
			}
			var n int
			if err := d.QueryRow(`SELECT count(*) FROM n`).Scan(&n); err != nil {
				t.Error(err)
			}
			drained <- n
		}()
		eventually(t, "the change waits", func() bool {
			var waits bool
			require.NoError(t, d.QueryRow(`SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`).Scan(&waits))
			return waits
		})
	}))
	require.Equal(t, 2, <-drained, "with what was under way")
	require.ErrorIs(t, write(old, func() {}), shard.ErrStaleEpoch)
	require.Equal(t, 2, count())
	require.NoError(t, write(young, func() {}))
}
