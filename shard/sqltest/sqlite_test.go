package sqltest

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/sysblocks/sysblocks/shard"
)

// Four files, without a server.
func TestSQLite(t *testing.T) {
	testSuite(t, func(t *testing.T) databases {
		dir := t.TempDir()
		file := func(id shard.ID) string { return filepath.Join(dir, string(id)+".db") }
		d := databases{dbs: map[shard.ID]*sql.DB{}}
		for _, id := range ids {
			// A transaction that is to write begins as one, so that it waits for its turn, and does not
			// find out in the middle that it is not.
			db, err := sql.Open("sqlite", "file:"+file(id)+"?_txlock=immediate&_pragma=busy_timeout(20000)&_pragma=synchronous(off)")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			db.SetMaxIdleConns(-1) // one that is open would still have the file that is taken away
			d.dbs[id] = db
		}
		d.stop = func(id shard.ID) {
			require.NoError(t, os.Rename(file(id), file(id)+".away"))
			require.NoError(t, os.Mkdir(file(id), 0o700)) // or an empty one would be made
		}
		d.start = func(id shard.ID) {
			require.NoError(t, os.Remove(file(id)))
			require.NoError(t, os.Rename(file(id)+".away", file(id)))
		}
		return d
	})
}
