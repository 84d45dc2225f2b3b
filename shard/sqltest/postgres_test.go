//go:build servers

package sqltest

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
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
