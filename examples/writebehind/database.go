package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync/atomic"

	_ "modernc.org/sqlite" // the driver: SQLite, translated to Go

	"github.com/sysblocks/sysblocks/ttlcache"
)

// A database is the counts in a file.
type database struct {
	*sql.DB
	commits, failures atomic.Int64
}

func openDatabase(file string) (*database, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS views (page INTEGER PRIMARY KEY, n INTEGER NOT NULL)`); err != nil {
		db.Close()
		return nil, err
	}
	return &database{DB: db}, nil
}

// load is the cache's Loader.
func (db *database) load(ctx context.Context, page int) (ttlcache.Entry[int], error) {
	var n int
	err := db.QueryRowContext(ctx, `SELECT n FROM views WHERE page = ?`, page).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		err = ttlcache.ErrNotFound
	}
	return ttlcache.Entry[int]{Value: n}, err
}

// Write makes the database the cache's Store: one transaction for all changes of a batch. To
// write a row twice does no harm.
func (db *database) Write(ctx context.Context, batch []ttlcache.Write[int, int]) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	for _, w := range batch {
		if w.Deleted {
			_, err = tx.ExecContext(ctx, `DELETE FROM views WHERE page = ?`, w.Key)
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO views (page, n) VALUES (?, ?) ON CONFLICT (page) DO UPDATE SET n = excluded.n`, w.Key, w.Value)
		}
		if err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	db.commits.Add(1)
	return nil
}

var errUnlucky = errors.New("the connection was lost")

// A flaky database fails at random: before anything is written, or, which is worse, after all of
// it was, when only the answer is lost.
type flaky struct {
	*database
	share float64
}

func (f flaky) Write(ctx context.Context, batch []ttlcache.Write[int, int]) error {
	luck := rand.Float64()
	if luck >= f.share/2 {
		if err := f.database.Write(ctx, batch); err != nil {
			return err
		}
	}
	if luck < f.share {
		f.failures.Add(1)
		return errUnlucky
	}
	return nil
}
