package sqltest

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
)

// bound is how long the tests wait for what is to happen at once.
const bound = 20 * time.Second

// eventually waits until ok, but not for longer than bound.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", bound, what)
		}
	}
}

// Databases are what the suite runs on: four of a kind.
type databases struct {
	dbs   map[shard.ID]*sql.DB
	stop  func(shard.ID) // so that no statement gets through
	start func(shard.ID)
}

var ids = []shard.ID{"north", "east", "south", "west"}

// names are keys of all shards.
func names(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%03d", i)
	}
	return keys
}

type account struct {
	name    string
	balance int64
}

func scanAccount(rows *sql.Rows) (a account, err error) {
	err = rows.Scan(&a.name, &a.balance)
	return a, err
}

func scanCount(rows *sql.Rows) (n int64, err error) {
	if !rows.Next() {
		return 0, errors.New("no row")
	}
	err = rows.Scan(&n)
	return n, err
}

// testSuite is what holds with databases of any kind.
func testSuite(t *testing.T, open func(t *testing.T) databases) {
	d := open(t)
	router, err := shard.NewSlots[string](shard.SlotsConfig{Shards: ids, Tags: true})
	require.NoError(t, err)
	groups := map[shard.ID]shard.Group{}
	for id, db := range d.dbs {
		groups[id] = shard.Group{Primary: db}
	}
	db, err := shard.OpenSQL(router, groups, shard.SQLConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	ctx := t.Context()
	// fresh gives each part of the suite an empty table.
	fresh := func(t *testing.T) {
		t.Helper()
		for _, id := range db.Shards() {
			group, err := db.Shard(id)
			require.NoError(t, err)
			for _, statement := range []string{`DROP TABLE IF EXISTS accounts`, `CREATE TABLE accounts (name varchar(50) PRIMARY KEY, balance bigint NOT NULL)`} {
				_, err = group.Primary.ExecContext(ctx, statement)
				require.NoError(t, err)
			}
		}
	}
	insert := func(t *testing.T, keys ...string) {
		t.Helper()
		for i, name := range keys {
			result, err := db.Exec(ctx, name, `INSERT INTO accounts VALUES ($1, $2)`, name, i)
			require.NoError(t, err)
			n, err := result.RowsAffected()
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		}
	}
	balance := func(t *testing.T, name string) (n int64) {
		t.Helper()
		require.NoError(t, db.QueryRow(ctx, name, `SELECT balance FROM accounts WHERE name = $1`, name).Scan(&n))
		return n
	}
	// inShard returns keys that are in a shard.
	inShard := func(id shard.ID, n int) (keys []string) {
		for i := 0; len(keys) < n; i++ {
			if name := fmt.Sprint("key-", i); router.Locate(name).Shard == id {
				keys = append(keys, name)
			}
		}
		return keys
	}

	t.Run("Routing", func(t *testing.T) {
		fresh(t)
		keys := names(100)
		insert(t, keys...)
		for i, name := range keys {
			require.EqualValues(t, i, balance(t, name))
			for id, one := range d.dbs { // there, and nowhere else
				var n int
				require.NoError(t, one.QueryRowContext(ctx, `SELECT count(*) FROM accounts WHERE name = $1`, name).Scan(&n))
				require.Equal(t, router.Locate(name).Shard == id, n == 1, "%s in %s", name, id)
			}
		}
		rows, err := db.Query(ctx, "user-007", `SELECT name, balance FROM accounts WHERE name = $1`, "user-007")
		require.NoError(t, err)
		require.True(t, rows.Next())
		a, err := scanAccount(rows)
		require.NoError(t, err)
		require.Equal(t, account{"user-007", 7}, a)
		require.False(t, rows.Next())
		require.NoError(t, rows.Err())

		var n int64
		require.Equal(t, sql.ErrNoRows, db.QueryRow(ctx, "nobody", `SELECT balance FROM accounts WHERE name = $1`, "nobody").Scan(&n))
		require.NoError(t, db.ExecRow(ctx, "user-007", `UPDATE accounts SET balance = balance + 1 WHERE name = $1 RETURNING balance`, "user-007").Scan(&n))
		require.EqualValues(t, 8, n)
		require.EqualValues(t, 8, balance(t, "user-007"))
		require.Equal(t, sql.ErrNoRows, db.ExecRow(ctx, "user-007", `UPDATE accounts SET balance = 0 WHERE name = $1 RETURNING balance`, "nobody").Scan(&n))
		_, err = db.Exec(ctx, "user-007", `INSERT INTO accounts VALUES ($1, 0)`, "user-007")
		var failed *shard.Error
		require.ErrorAs(t, err, &failed, "there is one")
		require.Equal(t, router.Locate("user-007").Shard, failed.Shard)
		require.ErrorAs(t, db.QueryRow(ctx, "user-007", `SELECT nonsense FROM nowhere`).Scan(&n), &failed)
	})

	t.Run("Scatter", func(t *testing.T) {
		fresh(t)
		keys := names(200)
		insert(t, keys...)
		const count, list = `SELECT count(*) FROM accounts`, `SELECT name, balance FROM accounts ORDER BY name LIMIT $1`
		total := func(replies []shard.Reply[int64]) (n int64) {
			for _, r := range replies {
				n += r.Value
			}
			return n
		}
		replies, err := shard.Scatter(ctx, db, shard.Policy{}, count, nil, scanCount)
		require.NoError(t, err)
		require.Len(t, replies, 4)
		require.EqualValues(t, 200, total(replies))
		sorted := func(p shard.Policy, n int) (got []string, err error) {
			for a, e := range shard.Limit(n, shard.ScatterSorted(ctx, db, db.Shards(), p, list, []any{n}, scanAccount,
				func(a, b account) int { return cmp.Compare(a.name, b.name) })) {
				if e != nil {
					err = e
					continue
				}
				got = append(got, a.name)
			}
			return got, err
		}
		got, err := sorted(shard.Policy{}, 30)
		require.NoError(t, err)
		require.Equal(t, keys[:30], got)

		// One of them is stopped.
		d.stop("south")
		replies, err = shard.Scatter(ctx, db, shard.Policy{MinSuccess: 3}, count, nil, scanCount)
		var partial *shard.PartialError
		require.ErrorAs(t, err, &partial)
		require.True(t, partial.Enough)
		require.Len(t, partial.Failed, 1)
		require.Equal(t, shard.ID("south"), partial.Failed[0].Shard)
		require.Contains(t, err.Error(), `"south"`)
		require.Len(t, replies, 3)
		left := slices.DeleteFunc(slices.Clone(keys), func(name string) bool { return router.Locate(name).Shard == "south" })
		require.EqualValues(t, len(left), total(replies))
		got, err = sorted(shard.Policy{MinSuccess: 3}, 30)
		require.ErrorAs(t, err, &partial)
		require.Equal(t, shard.ID("south"), partial.Failed[0].Shard)
		require.Equal(t, left[:30], got)
		got, err = sorted(shard.Policy{}, 30)
		require.ErrorAs(t, err, &partial)
		require.Empty(t, got)
		var failed *shard.Error
		_, err = db.Exec(ctx, inShard("south", 1)[0], count)
		require.ErrorAs(t, err, &failed)
		require.Equal(t, shard.ID("south"), failed.Shard)

		d.start("south")
		replies, err = shard.Scatter(ctx, db, shard.Policy{}, count, nil, scanCount)
		require.NoError(t, err)
		require.EqualValues(t, 200, total(replies))
	})

	t.Run("Transactions", func(t *testing.T) {
		fresh(t)
		mine := inShard("west", 8)
		other := inShard("east", 1)[0]
		insert(t, append(mine, other)...)
		transfer := func(tx *shard.Tx[string], from, to string, n int64) error {
			// In the order of the names, so that two transfers never wait for each other.
			for _, name := range []string{min(from, to), max(from, to)} {
				by := n
				if name == from {
					by = -n
				}
				if _, err := tx.Exec(ctx, name, `UPDATE accounts SET balance = balance + $1 WHERE name = $2`, by, name); err != nil {
					return err
				}
			}
			return nil
		}
		require.NoError(t, db.InTx(ctx, mine[7], nil, func(tx *shard.Tx[string]) error {
			require.NoError(t, transfer(tx, mine[7], mine[0], 5))
			var n int64
			require.NoError(t, tx.QueryRow(ctx, mine[0], `SELECT balance FROM accounts WHERE name = $1`, mine[0]).Scan(&n))
			require.EqualValues(t, 5, n)
			return nil
		}))
		require.EqualValues(t, 2, balance(t, mine[7]))
		require.EqualValues(t, 5, balance(t, mine[0]))

		failure := errors.New("failure")
		require.Equal(t, failure, db.InTx(ctx, mine[0], nil, func(tx *shard.Tx[string]) error {
			require.NoError(t, transfer(tx, mine[0], mine[1], 1))
			return failure
		}))
		require.PanicsWithValue(t, "oh", func() {
			_ = db.InTx(ctx, mine[0], nil, func(tx *shard.Tx[string]) error {
				require.NoError(t, transfer(tx, mine[0], mine[1], 1))
				panic("oh")
			})
		})
		canceled, cancel := context.WithCancel(ctx)
		require.ErrorIs(t, db.InTx(canceled, mine[0], nil, func(tx *shard.Tx[string]) error {
			require.NoError(t, transfer(tx, mine[0], mine[1], 1))
			cancel()
			return nil
		}), context.Canceled)
		// A key of another shard: the transaction does nothing, and neither does the statement.
		err := db.InTx(ctx, mine[0], nil, func(tx *shard.Tx[string]) error {
			require.ErrorIs(t, tx.Check(other), shard.ErrCrossShard)
			require.NoError(t, tx.Check(mine[1]))
			_, err := tx.Exec(ctx, mine[0], `UPDATE accounts SET balance = 0 WHERE name = $1`, mine[0])
			require.NoError(t, err)
			_, err = tx.Exec(ctx, other, `UPDATE accounts SET balance = 0 WHERE name = $1`, other)
			return err
		})
		require.ErrorIs(t, err, shard.ErrCrossShard)
		require.EqualError(t, err, `shard: the transaction is in "west", the key in "east": the key belongs to another shard`)
		require.EqualValues(t, 5, balance(t, mine[0]))
		require.EqualValues(t, 8, balance(t, other))

		// Many at the same time lose nothing.
		var wg sync.WaitGroup
		for g := range 4 {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			wg.Go(func() {
				for range 25 {
					from, to := mine[rng.IntN(8)], mine[rng.IntN(8)]
					if from == to {
						continue
					}
					if err := db.InTx(ctx, from, nil, func(tx *shard.Tx[string]) error { return transfer(tx, from, to, 1) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		sum, err := shard.ScatterOn(ctx, db, []shard.ID{"west"}, shard.Policy{}, `SELECT sum(balance) FROM accounts`, nil, scanCount)
		require.NoError(t, err)
		require.EqualValues(t, 28, sum[0].Value)

		require.NoError(t, db.InTx(ctx, mine[0], &sql.TxOptions{ReadOnly: true}, func(tx *shard.Tx[string]) error {
			var n int64
			return tx.QueryRow(ctx, mine[0], `SELECT count(*) FROM accounts`).Scan(&n)
		}))
	})

	t.Run("Fenced", func(t *testing.T) {
		fresh(t)
		name := inShard("north", 1)[0]
		insert(t, name)
		update := func(state shard.PartState) {
			next, err := router.Topology().Next(func(c *shard.TopologyConfig) {
				for i := range c.Parts {
					if p := &c.Parts[i]; p.Shard == "north" {
						p.State = state
					}
				}
			})
			require.NoError(t, err)
			require.NoError(t, router.Update(next))
		}
		write := func() error {
			_, err := db.Exec(ctx, name, `UPDATE accounts SET balance = balance + 1 WHERE name = $1`, name)
			return err
		}
		require.NoError(t, write())
		update(shard.Migrating)
		require.NoError(t, write())
		// A transaction that has begun before is not committed behind the fence.
		err := db.InTx(ctx, name, nil, func(tx *shard.Tx[string]) error {
			_, err := tx.Exec(ctx, name, `UPDATE accounts SET balance = 99 WHERE name = $1`, name)
			require.NoError(t, err)
			update(shard.Fenced)
			return nil
		})
		require.ErrorIs(t, err, shard.ErrFenced)
		require.ErrorIs(t, write(), shard.ErrFenced)
		require.EqualValues(t, 2, balance(t, name))
		update(shard.Serving)
		require.NoError(t, write())
		require.EqualValues(t, 3, balance(t, name))
	})
}
