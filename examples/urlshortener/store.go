package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/sysblocks/sysblocks/shard"
)

// A link is what a code or an alias stands for.
type link struct {
	Code      string
	Target    string    // "": it was deleted
	Owner     string    // the name of the API key
	Permanent bool      // redirect with 301
	Created   time.Time // to the millisecond
	Expires   time.Time // zero: never
}

// gone reports whether the link leads nowhere any more.
func (l link) gone(now time.Time) bool {
	return l.Target == "" || !l.Expires.IsZero() && !now.Before(l.Expires)
}

var (
	errTaken    = errors.New("taken already")
	errNoLink   = errors.New("there is no such link")
	errNotOwner = errors.New("the link is somebody else's")
)

// A store is the databases: links and clicks are in the shard of the code, and what there is once is in the first
// shard. A code stays taken when its link has expired or was deleted, so that old links never lead to what
// somebody else has put there.
type store struct {
	db     *shard.DB[string]
	router *shard.Map[string]
	// concurrency is in how many shards clicks are counted at a time. 0: all. Files are written by this process's own
	// CPUs, which readers wait for.
	concurrency int
	opened      []*sql.DB
}

const shards = 4 // of files

// schema is what each shard has. It is the same for SQLite and PostgreSQL; times are milliseconds since 1970.
const schema = `
CREATE TABLE IF NOT EXISTS links (
	code TEXT PRIMARY KEY, target TEXT NOT NULL, owner TEXT NOT NULL, permanent INTEGER NOT NULL,
	created BIGINT NOT NULL, expires BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS links_by_owner ON links (owner, created, code, expires) WHERE target <> '';
CREATE TABLE IF NOT EXISTS clicks (
	code TEXT NOT NULL, day BIGINT NOT NULL, referrer TEXT NOT NULL, n BIGINT NOT NULL,
	PRIMARY KEY (code, day, referrer)
);
CREATE TABLE IF NOT EXISTS counted (
	run TEXT NOT NULL, block BIGINT NOT NULL, at BIGINT NOT NULL, bits BYTEA NOT NULL, PRIMARY KEY (run, block)
);
CREATE INDEX IF NOT EXISTS counted_by_time ON counted (at);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, next BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
`

// openStore opens the shards, which are PostgreSQL databases, or if none are named, files in a directory.
func openStore(ctx context.Context, dir string, dsns []string) (*store, error) {
	s := &store{}
	var names []shard.ID
	groups := map[shard.ID]shard.Group{}
	add := func(driver, dsn string, connections int) error {
		db, err := sql.Open(driver, dsn)
		if err != nil {
			return err
		}
		s.opened = append(s.opened, db)
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		create := schema
		if driver == "pgx" {
			// Texts are in the order of their bytes, as shard merges them, and not in one of people. Of several processes,
			// one makes the tables: not even IF NOT EXISTS can be done by two.
			create = `SELECT pg_advisory_xact_lock(7369617831);` + strings.ReplaceAll(schema, " TEXT", ` TEXT COLLATE "C"`)
		}
		if _, err := db.ExecContext(ctx, create); err != nil {
			return err
		}
		if err := claim(ctx, db, fmt.Sprintf("%d of %d", len(names)+1, max(len(dsns), 1))); driver == "pgx" && err != nil {
			return err
		}
		id := shard.ID(fmt.Sprint("shard-", len(names)))
		names = append(names, id)
		groups[id] = shard.Group{Primary: db}
		return nil
	}
	for i := range shards {
		if len(dsns) > 0 {
			break
		}
		s.concurrency = 1
		file := filepath.Join(dir, fmt.Sprintf("links-%d.db", i))
		// Readers go on while one writes; who wants to write waits for that, and says so from the beginning. What was
		// committed outlasts a power failure as well: a link that was acknowledged is there.
		dsn := "file:" + file + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)&_txlock=immediate"
		if err := add("sqlite", dsn, 8); err != nil {
			return nil, errors.Join(fmt.Errorf("the database %s cannot be opened: %w", file, err), s.close())
		}
	}
	for i, dsn := range dsns {
		if err := add("pgx", dsn, 16); err != nil {
			return nil, errors.Join(fmt.Errorf("the database of -dsn number %d cannot be opened: %w", i+1, err), s.close())
		}
	}
	var err error
	if s.router, err = shard.NewSlots[string](shard.SlotsConfig{Shards: names}); err == nil {
		s.db, err = shard.OpenSQL(s.router, groups, shard.SQLConfig{})
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) close() error {
	var err error
	for _, db := range s.opened {
		err = errors.Join(err, db.Close())
	}
	return err
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// insert adds a link, or returns errTaken and changes nothing.
func (s *store) insert(ctx context.Context, l link) error {
	result, err := s.db.Exec(ctx, l.Code,
		`INSERT INTO links (code, target, owner, permanent, created, expires) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (code) DO NOTHING`,
		l.Code, l.Target, l.Owner, number(l.Permanent), millis(l.Created), millis(l.Expires))
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errTaken
	}
	return nil
}

const linkColumns = `code, target, owner, permanent, created, expires`

func scanLink(scan func(...any) error) (l link, err error) {
	var permanent int
	var created, expires int64
	err = scan(&l.Code, &l.Target, &l.Owner, &permanent, &created, &expires)
	l.Permanent, l.Created, l.Expires = permanent != 0, timeOf(created), timeOf(expires)
	return l, err
}

// get returns a link, whether it leads somewhere or not, or errNoLink.
func (s *store) get(ctx context.Context, code string) (link, error) {
	l, err := scanLink(s.db.QueryRow(ctx, code, `SELECT `+linkColumns+` FROM links WHERE code = $1`, code).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return link{}, errNoLink
	}
	return l, err
}

// remove takes a link's target away. It returns errNoLink, or errNotOwner, and changes nothing, if the owner has no
// such link, or it has expired.
func (s *store) remove(ctx context.Context, code, owner string, now time.Time) error {
	return s.db.InTx(ctx, code, nil, func(tx *shard.Tx[string]) error {
		l, err := scanLink(tx.QueryRow(ctx, code, `SELECT `+linkColumns+` FROM links WHERE code = $1`, code).Scan)
		switch {
		case errors.Is(err, sql.ErrNoRows) || err == nil && l.gone(now):
			return errNoLink
		case err != nil:
			return err
		case l.Owner != owner:
			return errNotOwner
		}
		_, err = tx.Exec(ctx, code, `UPDATE links SET target = '' WHERE code = $1`, code)
		return err
	})
}

// A cursor is where a page of links ends: the time and code of its last.
type cursor struct {
	created int64
	code    string
}

// list returns the links of an owner that lead somewhere, the newest first, up to n, behind the cursor if that is not
// zero. Each shard has its own newest n; of those the newest n are taken, and no more than needed is read.
func (s *store) list(ctx context.Context, owner string, after cursor, n int, now time.Time) ([]link, error) {
	if after == (cursor{}) {
		after = cursor{1 << 62, ""}
	}
	newest := func(a, b link) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.Code, a.Code))
	}
	query := `SELECT ` + linkColumns + ` FROM links
		WHERE owner = $1 AND target <> '' AND (expires = 0 OR expires > $2)
		AND (created < $3 OR created = $3 AND code < $4)
		ORDER BY created DESC, code DESC LIMIT $5`
	var links []link
	for l, err := range shard.Limit(n, shard.ScatterSorted(ctx, s.db, s.db.Shards(), shard.Policy{PerShard: 2 * time.Second}, query,
		[]any{owner, now.UnixMilli(), after.created, after.code, n},
		func(rows *sql.Rows) (link, error) { return scanLink(rows.Scan) }, newest)) {
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// codes yields all codes, for a filter.
func (s *store) codes(ctx context.Context) func(yield func(string, error) bool) {
	return func(yield func(string, error) bool) {
		for _, id := range s.db.Shards() {
			if !s.codesOf(ctx, id, yield) {
				return
			}
		}
	}
}

func (s *store) codesOf(ctx context.Context, id shard.ID, yield func(string, error) bool) bool {
	group, err := s.db.Shard(id)
	if err != nil {
		return yield("", err)
	}
	rows, err := group.Primary.QueryContext(ctx, `SELECT code FROM links`)
	if err != nil {
		return yield("", err)
	}
	defer rows.Close()
	for rows.Next() {
		var code string
		err := rows.Scan(&code)
		if !yield(code, err) || err != nil {
			return false
		}
	}
	if err := rows.Err(); err != nil {
		return yield("", err)
	}
	return true
}

// first returns the database of what there is once.
func (s *store) first() *sql.DB { return s.opened[0] }

// claim notes which of the shards a database is, or returns an error if it is another: with databases in another order,
// or another number of them, links would not be found.
func claim(ctx context.Context, db *sql.DB, place string) error {
	if _, err := db.ExecContext(ctx, `INSERT INTO secrets (name, value) VALUES ('place', $1) ON CONFLICT (name) DO NOTHING`, place); err != nil {
		return err
	}
	var is string
	if err := db.QueryRowContext(ctx, `SELECT value FROM secrets WHERE name = 'place'`).Scan(&is); err != nil {
		return err
	}
	if is != place {
		return fmt.Errorf("it is shard %s, not %s: give all databases, each once, in the order of the first time", is, place)
	}
	return nil
}

// block returns the first of n numbers that nobody else gets.
func (s *store) block(ctx context.Context, n uint64) (uint64, error) {
	var next int64
	err := s.first().QueryRowContext(ctx, `INSERT INTO counters (name, next) VALUES ('codes', $1)
		ON CONFLICT (name) DO UPDATE SET next = counters.next + $1 RETURNING next`, int64(n)).Scan(&next)
	if err != nil {
		return 0, &shard.Error{Shard: s.db.Shards()[0], Asked: true, Err: err}
	}
	return uint64(next) - n, nil
}

// secret returns the bytes of that name, which are made at random when they are asked for first, and are the same for
// all processes from then on.
func (s *store) secret(ctx context.Context, name string, length int) ([]byte, error) {
	fresh := make([]byte, length)
	_, _ = rand.Read(fresh) // never fails
	if _, err := s.first().ExecContext(ctx, `INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`,
		name, fmt.Sprintf("%x", fresh)); err != nil {
		return nil, err
	}
	var text string
	if err := s.first().QueryRowContext(ctx, `SELECT value FROM secrets WHERE name = $1`, name).Scan(&text); err != nil {
		return nil, err
	}
	var value []byte
	_, err := fmt.Sscanf(text, "%x", &value)
	if err != nil || len(value) != length {
		return nil, fmt.Errorf("the secret %s must be %d bytes in hexadecimal", name, length)
	}
	return value, nil
}
