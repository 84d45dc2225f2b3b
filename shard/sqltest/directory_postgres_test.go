//go:build servers

package sqltest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
	"github.com/sysblocks/sysblocks/shard"
)

// A directory on a server, which is killed and started again.
func TestDirectoryPostgres(t *testing.T) {
	server := pgserver.Start(t)
	db := openPostgres(t, server)
	testDirectory(t, directoryBase{
		db: db, dollar: true, strict: true,
		refuse: `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER refuse BEFORE INSERT ON refused FOR EACH ROW EXECUTE FUNCTION refuse()`,
		stop:  server.Kill,
		start: func() { server.Run(t) },
	})
	// PostgreSQL writes a UUID in small letters, however it is given.
	s := newStore[string](t, directoryBase{db: db, dollar: true}, shard.SQLDirectoryConfig{Table: "uuids", KeyType: "UUID"})
	d := newDirectory(t, s, shard.DirectoryConfig[string]{})
	const k = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
	_, err := d.Insert(t.Context(), k, shard.Placement{Shard: "s1"})
	require.NoError(t, err)
	d.Clear()
	_, err = d.Route(t.Context(), k)
	require.EqualError(t, err, "shard: uuids.id must compare keys as Go does, and return them as they are, got "+strings.ToLower(k)+" for "+k)
	// The same moment in another time zone is not the same key.
	times := newStore[time.Time](t, directoryBase{db: db, dollar: true}, shard.SQLDirectoryConfig{Table: "times", KeyType: "TIMESTAMP"})
	zones := newDirectory(t, times, shard.DirectoryConfig[time.Time]{})
	moment := time.Date(2020, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	_, err = zones.Insert(t.Context(), moment, shard.Placement{Shard: "s1"})
	require.NoError(t, err)
	zones.Clear()
	_, err = zones.Route(t.Context(), moment)
	require.ErrorContains(t, err, "shard: times.id must compare keys as Go does, and return them as they are, got ")
	require.ErrorContains(t, err, fmt.Sprint(" for ", moment))
}
