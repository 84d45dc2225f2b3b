//go:build servers

package sqltest

import (
	"testing"

	"github.com/sysblocks/sysblocks/internal/pgserver"
)

// A directory on a server, which is killed and started again.
func TestDirectoryPostgres(t *testing.T) {
	server := pgserver.Start(t)
	db := openPostgres(t, server)
	testDirectory(t, directoryBase{
		db: db, dollar: true, strict: true,
		stop:  server.Kill,
		start: func() { server.Run(t) },
	})
}
