package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
)

// A directory in a file, without a server.
func TestDirectorySQLite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "directory.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(20000)&_pragma=synchronous(off)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	testDirectory(t, directoryBase{
		db:     db,
		refuse: "CREATE TRIGGER refuse BEFORE INSERT ON refused BEGIN SELECT RAISE(IGNORE); END",
		stop: func() {
			db.SetMaxIdleConns(-1) // one that is open would still have the file that is taken away
			require.NoError(t, os.Rename(file, file+".away"))
			require.NoError(t, os.Mkdir(file, 0o700)) // or an empty one would be made
		},
		start: func() {
			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Rename(file+".away", file))
		},
	})
}

// A directoryBase is a database for directories.
type directoryBase struct {
	db          *sql.DB
	dollar      bool
	strict      bool   // a string with a zero byte is no string
	refuse      string // the statements after which nothing is inserted into a table named refused
	stop, start func()
}

// newStore returns a store with a table of its own.
func newStore[K comparable](t *testing.T, b directoryBase, config shard.SQLDirectoryConfig) *shard.SQLDirectory[K] {
	t.Helper()
	config.Dollar = b.dollar
	s, err := shard.NewSQLDirectory[K](b.db, config)
	require.NoError(t, err)
	for range 2 {
		_, err = b.db.Exec(s.CreateTable())
		require.NoError(t, err)
	}
	return s
}

func newDirectory[K comparable](t *testing.T, store shard.DirectoryStore[K], config shard.DirectoryConfig[K]) *shard.Directory[K] {
	t.Helper()
	config.Capacity = 10_000
	d, err := shard.NewDirectory(store, config)
	require.NoError(t, err)
	return d
}

func testDirectory(t *testing.T, b directoryBase) {
	t.Run("Rows/string", func(t *testing.T) {
		testDirectoryRows(t, b, "rows_s", [3]string{"ä 'quoted' \"key\"; --", "", "none"})
	})
	t.Run("Rows/int", func(t *testing.T) {
		testDirectoryRows(t, b, "rows_i", [3]int64{math.MinInt64, math.MaxInt64, 0})
	})
	t.Run("Contest", func(t *testing.T) { testDirectoryContest(t, b) })
	t.Run("Many", func(t *testing.T) { testDirectoryMany(t, b) })
	t.Run("Bad", func(t *testing.T) { testDirectoryBad(t, b) })
	t.Run("Refused", func(t *testing.T) { testDirectoryRefused(t, b) })
	t.Run("Processes", func(t *testing.T) { testDirectoryProcesses(t, b) })
	t.Run("Stopped", func(t *testing.T) { testDirectoryStopped(t, b) })
}

func testDirectoryRows[K comparable](t *testing.T, b directoryBase, table string, keys [3]K) {
	s := newStore[K](t, b, shard.SQLDirectoryConfig{Table: table, PartColumn: "part"})
	ctx := t.Context()
	one, two, none := keys[0], keys[1], keys[2]
	row := shard.Placement{Shard: "s1", Part: math.MaxUint32, Epoch: math.MaxInt64 - 1, State: shard.Fenced}
	got, err := s.Insert(ctx, one, row)
	require.NoError(t, err)
	require.Equal(t, row, got)
	got, err = s.Insert(ctx, one, shard.Placement{Shard: "s2", Epoch: 1})
	require.ErrorIs(t, err, shard.ErrExists)
	require.Equal(t, row, got)
	other := shard.Placement{Shard: "s2"}
	_, err = s.Insert(ctx, two, other)
	require.NoError(t, err)
	found, err := s.Lookup(ctx, keys[:])
	require.NoError(t, err)
	require.Equal(t, map[K]shard.Placement{one: row, two: other}, found)

	moved := shard.Placement{Shard: "s3", Epoch: math.MaxInt64, State: shard.Migrating}
	require.ErrorIs(t, s.Update(ctx, one, 7, moved), shard.ErrStaleEpoch)
	require.ErrorIs(t, s.Update(ctx, none, 7, moved), shard.ErrNotFound)
	require.NoError(t, s.Update(ctx, one, row.Epoch, moved))
	require.ErrorIs(t, s.Delete(ctx, one, row.Epoch), shard.ErrStaleEpoch)
	require.NoError(t, s.Delete(ctx, one, moved.Epoch))
	require.NoError(t, s.Delete(ctx, one, moved.Epoch))
	found, err = s.Lookup(ctx, keys[:])
	require.NoError(t, err)
	require.Equal(t, map[K]shard.Placement{two: other}, found)
}

// Of many who insert, update or delete one row, one succeeds, and the others are told what is there.
func testDirectoryContest(t *testing.T, b directoryBase) {
	s := newStore[string](t, b, shard.SQLDirectoryConfig{Table: "contest"})
	ctx := t.Context()
	const rivals = 8
	for round := range 10 {
		key := fmt.Sprint("key", round)
		var inserted, updated atomic.Int64
		rows := make([]shard.Placement, rivals)
		var wg sync.WaitGroup
		for i := range rivals {
			wg.Go(func() {
				row, err := s.Insert(ctx, key, shard.Placement{Shard: shard.ID(fmt.Sprint("s", i)), Epoch: 1})
				switch {
				case err == nil:
					inserted.Add(1)
				case !errors.Is(err, shard.ErrExists):
					t.Error(err)
				}
				rows[i] = row
				err = s.Update(ctx, key, 1, shard.Placement{Shard: shard.ID(fmt.Sprint("u", i)), Epoch: 2})
				switch {
				case err == nil:
					updated.Add(1)
				case !errors.Is(err, shard.ErrStaleEpoch):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, inserted.Load())
		require.EqualValues(t, 1, updated.Load())
		found, err := s.Lookup(ctx, []string{key})
		require.NoError(t, err)
		require.EqualValues(t, 2, found[key].Epoch)
		for _, row := range rows {
			require.NotEmpty(t, row.Shard, "the others are told what is there")
		}
	}
}

// Many callers and many keys are few statements.
func testDirectoryMany(t *testing.T, b directoryBase) {
	s := newStore[string](t, b, shard.SQLDirectoryConfig{Table: "many"})
	ctx := t.Context()
	d := newDirectory(t, s, shard.DirectoryConfig[string]{MaxBatch: 1000})
	want := map[string]shard.Placement{}
	tx, err := b.db.Begin() // a thousand transactions would take long
	require.NoError(t, err)
	var keys []string
	for i := range 1500 {
		k := fmt.Sprint("key", i)
		keys = append(keys, k)
		if i%3 == 0 {
			continue
		}
		want[k] = shard.Placement{Shard: shard.ID(fmt.Sprint("s", i%7)), Epoch: uint64(i)}
		_, err = tx.Exec(fmt.Sprintf("INSERT INTO many (id, shard, epoch, state) VALUES ('%s', '%s', %d, 0)", k, want[k].Shard, i))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	found, err := d.RouteAll(ctx, keys)
	require.NoError(t, err)
	require.Equal(t, want, found)
	require.EqualValues(t, 2, d.Stats().Batches)

	// All at once for one.
	d.Clear()
	before := d.Stats().Batches
	var good atomic.Int64
	var wg sync.WaitGroup
	for range 10_000 {
		wg.Go(func() {
			if p, err := d.Route(ctx, "key1"); err == nil && p == want["key1"] {
				good.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 10_000, good.Load())
	require.EqualValues(t, before+1, d.Stats().Batches)

	if b.strict {
		d.Clear()
		found, err = d.RouteAll(ctx, []string{"key1", "a\x00b", "key2", "\xff"})
		var failed *shard.KeysError[string]
		require.ErrorAs(t, err, &failed)
		require.Equal(t, []string{"a\x00b", "\xff"}, failed.Keys)
		require.Equal(t, map[string]shard.Placement{"key1": want["key1"], "key2": want["key2"]}, found)
	}
}

// Rows that cannot be read, and keys that come back in another form, are errors of their own keys.
func testDirectoryBad(t *testing.T, b directoryBase) {
	ctx := t.Context()
	_, err := b.db.Exec("CREATE TABLE bad (id TEXT PRIMARY KEY, shard TEXT, epoch BIGINT, state SMALLINT)")
	require.NoError(t, err)
	var keys []string
	for i := range 128 {
		keys = append(keys, fmt.Sprintf("k%03d", i))
		id := fmt.Sprintf("'s%d'", i)
		if i < 2 {
			id = "NULL"
		}
		_, err = b.db.Exec(fmt.Sprintf("INSERT INTO bad VALUES ('%s', %s, 1, 0)", keys[i], id))
		require.NoError(t, err)
	}
	s, err := shard.NewSQLDirectory[string](b.db, shard.SQLDirectoryConfig{Table: "bad", Dollar: b.dollar})
	require.NoError(t, err)
	found, err := newDirectory(t, s, shard.DirectoryConfig[string]{}).RouteAll(ctx, keys)
	var failed *shard.KeysError[string]
	require.ErrorAs(t, err, &failed)
	require.Equal(t, keys[:2], failed.Keys)
	require.ErrorContains(t, err, "shard: cannot read the row of k000 in bad: ")
	require.Len(t, found, 126)

	most := newStore[int64](t, b, shard.SQLDirectoryConfig{Table: "most", MaxKeys: 32766})
	many := make([]int64, 40_000)
	for i := range many {
		many[i] = int64(i)
	}
	none, err := most.Lookup(ctx, many)
	require.NoError(t, err)
	require.Empty(t, none)
}

// A table in which nothing can be inserted is not asked for ever.
func testDirectoryRefused(t *testing.T, b directoryBase) {
	s := newStore[string](t, b, shard.SQLDirectoryConfig{Table: "refused"})
	_, err := b.db.Exec(b.refuse)
	require.NoError(t, err)
	_, err = s.Insert(t.Context(), "a", shard.Placement{Shard: "s1"})
	require.EqualError(t, err, "shard: cannot insert a into refused: it was not inserted 10 times, and was not there then; a trigger may refuse it")
}

// Two processes create, move and remove the same keys. What each has read may be outdated, but of two who
// write on the ground of the same row one is told.
func testDirectoryProcesses(t *testing.T, b directoryBase) {
	s := newStore[int64](t, b, shard.SQLDirectoryConfig{Table: "processes"})
	ctx := t.Context()
	var moves [4]atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		d := newDirectory(t, s, shard.DirectoryConfig[int64]{})
		for range 2 {
			wg.Go(func() {
				for i := range 40 {
					k := int64(i % len(moves))
					row, err := d.Insert(ctx, k, shard.Placement{Shard: "s0"})
					if err != nil && !errors.Is(err, shard.ErrExists) {
						t.Error(err)
						return
					}
					var n int
					_, _ = fmt.Sscanf(string(row.Shard), "s%d", &n)
					_, err = d.Update(ctx, k, row.Epoch, shard.Placement{Shard: shard.ID(fmt.Sprint("s", n+1))})
					switch {
					case err == nil:
						moves[k].Add(1)
					case !errors.Is(err, shard.ErrStaleEpoch):
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	d := newDirectory(t, s, shard.DirectoryConfig[int64]{})
	for k := range moves {
		p, err := d.Route(ctx, int64(k))
		require.NoError(t, err)
		require.Equal(t, shard.ID(fmt.Sprint("s", moves[k].Load())), p.Shard, "no move was lost")
	}
}

// While the database is stopped there are stale answers, and then fresh ones again. What was being created
// or removed meanwhile can be tried again, and at no time is there data that no row leads to.
func testDirectoryStopped(t *testing.T, b directoryBase) {
	s := newStore[string](t, b, shard.SQLDirectoryConfig{Table: "stopped"})
	ctx := t.Context()
	d := newDirectory(t, s, shard.DirectoryConfig[string]{TTL: time.Millisecond, RetryAfter: time.Millisecond, NegativeTTL: -1})
	row, err := d.Insert(ctx, "tenant", shard.Placement{Shard: "s1"})
	require.NoError(t, err)

	// Others work all the time. Their data is in a place that is not stopped.
	var mu sync.Mutex
	data := map[string]shard.ID{}
	work, done := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := 0; work.Err() == nil; i++ {
				k := fmt.Sprintf("worker%d-%d", g, i%5)
				_, _ = d.Create(work, k, shard.Placement{Shard: shard.ID(fmt.Sprint("s", i%3))}, func(_ context.Context, p shard.Placement) error {
					mu.Lock()
					defer mu.Unlock()
					if old, ok := data[k]; ok && old != p.Shard {
						t.Errorf("%s is in %s, and comes to %s", k, old, p.Shard)
					}
					data[k] = p.Shard
					return nil
				})
				if i%2 == 0 {
					_ = d.Remove(work, k, func(context.Context, shard.Placement) error {
						mu.Lock()
						defer mu.Unlock()
						delete(data, k)
						return nil
					})
				}
			}
		})
	}
	eventually(t, "the workers work", func() bool { mu.Lock(); defer mu.Unlock(); return len(data) > 3 })
	b.stop()
	stale := d.Stats().Stale
	eventually(t, "it is noticed", func() bool {
		p, err := d.Route(ctx, "tenant")
		require.NoError(t, err)
		require.Equal(t, row, p)
		return d.Stats().Stale > stale+10
	})
	_, err = d.Route(ctx, "unknown")
	require.Error(t, err)
	require.NotErrorIs(t, err, shard.ErrNotFound)
	b.start()
	stale = d.Stats().Stale
	moved := row
	eventually(t, "it can be written", func() bool {
		var err error
		moved, err = d.Update(ctx, "tenant", row.Epoch, shard.Placement{Shard: "s2"})
		return err == nil
	})
	d.Invalidate("tenant")
	p, err := d.Route(ctx, "tenant")
	require.NoError(t, err)
	require.Equal(t, moved, p)
	done()
	wg.Wait()
	check := newDirectory(t, s, shard.DirectoryConfig[string]{})
	for k, id := range data {
		p, err := check.Route(ctx, k)
		require.NoError(t, err, "the data of %s is lost", k)
		require.Equal(t, id, p.Shard)
	}
}
