package shard_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/sysblocks/sysblocks/shard"
)

// openScores returns a DB on two databases. Here they are in memory; in a program, sql.Open would be
// called with the driver of a real one.
func openScores(c shard.SQLConfig, suffix string) *shard.DB[int64] {
	router, err := shard.NewMod[int64](shard.ModConfig{Shards: []shard.ID{"north", "south"}})
	if err != nil {
		log.Fatal(err)
	}
	groups := map[shard.ID]shard.Group{}
	for _, id := range router.Shards() {
		primary, err := sql.Open("example", string(id)+suffix)
		if err != nil {
			log.Fatal(err)
		}
		replica, err := sql.Open("example", "replica of "+string(id)+suffix)
		if err != nil {
			log.Fatal(err)
		}
		groups[id] = shard.Group{Primary: primary, Replicas: []shard.Replica{{Name: "replica", DB: replica}}}
	}
	db, err := shard.OpenSQL(router, groups, c)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

// Statements go to the database that their key is in, which is an argument of its own.
func ExampleOpenSQL() {
	router, err := shard.NewMod[int64](shard.ModConfig{Shards: []shard.ID{"north", "south"}})
	if err != nil {
		log.Fatal(err)
	}
	groups := map[shard.ID]shard.Group{}
	for _, id := range router.Shards() {
		primary, err := sql.Open("example", string(id))
		if err != nil {
			log.Fatal(err)
		}
		defer primary.Close()
		groups[id] = shard.Group{Primary: primary}
	}
	db, err := shard.OpenSQL(router, groups, shard.SQLConfig{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for id := int64(1); id <= 4; id++ {
		if _, err := db.Exec(ctx, id, "INSERT INTO scores (id, points) VALUES ($1, $2)", id, 10*id); err != nil {
			log.Fatal(err)
		}
	}
	var points int
	if err := db.QueryRow(ctx, 3, "SELECT points FROM scores WHERE id = $1", 3).Scan(&points); err != nil {
		log.Fatal(err)
	}
	_, place, err := db.On(ctx, 3)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(points, "in", place.Shard)
	// Output: 30 in south
}

// A transaction is in one database: a key of another is refused before anything is done.
func ExampleDB_InTx() {
	db := openScores(shard.SQLConfig{}, " of InTx")
	ctx := context.Background()
	give := func(from, to int64) error {
		return db.InTx(ctx, from, nil, func(tx *shard.Tx[int64]) error {
			if err := tx.Check(to); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, from, "UPDATE scores SET points = $2 WHERE id = $1", from, 0); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, to, "UPDATE scores SET points = $2 WHERE id = $1", to, 10)
			return err
		})
	}
	fmt.Println(give(1, 3))
	err := give(1, 2)
	fmt.Println(err)
	fmt.Println(errors.Is(err, shard.ErrCrossShard))
	// Output:
	// <nil>
	// shard: the transaction is in "south", the key in "north": the key belongs to another shard
	// true
}

// A process that goes by an older topology does not know that a part is fenced, or has moved. So each shard
// has a table with the epochs of its parts, and a transaction compares the one that it goes by. Who
// moves a part changes that first: FOR SHARE makes this wait for the transactions that have read it, and
// those that come later are refused. A part that has gone has no row there, or 0.
func ExampleTx_Placement() {
	db := openScores(shard.SQLConfig{}, " of Placement")
	ctx := context.Background()
	write := func(id int64) error {
		return db.InTx(ctx, id, nil, func(tx *shard.Tx[int64]) error {
			p, err := tx.Placement(id)
			if err != nil {
				return err
			}
			var epoch uint64
			err = tx.QueryRow(ctx, id, "SELECT epoch FROM parts WHERE part = $1 FOR SHARE", p.Part).Scan(&epoch)
			if err != nil {
				return err
			}
			if epoch != p.Epoch {
				return fmt.Errorf("part %d has epoch %d here, not %d: %w", p.Part, epoch, p.Epoch, shard.ErrStaleEpoch)
			}
			_, err = tx.Exec(ctx, id, "UPDATE scores SET points = $2 WHERE id = $1", id, 100)
			return err
		})
	}
	north, place, err := db.On(ctx, 102)
	if err != nil {
		log.Fatal(err)
	}
	for _, epoch := range []uint64{place.Epoch, place.Epoch + 1} { // the second is that of another process, which fences it
		if _, err := north.Exec("UPDATE parts SET epoch = $2 WHERE part = $1", place.Part, epoch); err != nil {
			log.Fatal(err)
		}
		err := write(102)
		fmt.Println(err, errors.Is(err, shard.ErrStaleEpoch))
	}
	// Output:
	// <nil> false
	// part 0 has epoch 2 here, not 1: stale epoch true
}

// The first rows of all shards, in their order. Each shard sends no more than could be needed.
func ExampleScatterSorted() {
	db := openScores(shard.SQLConfig{}, " of ScatterSorted")
	ctx := context.Background()
	for id := int64(1); id <= 9; id++ {
		if _, err := db.Exec(ctx, id, "INSERT INTO scores (id, points) VALUES ($1, $2)", id, id*id); err != nil {
			log.Fatal(err)
		}
	}
	type score struct{ id, points int }
	scan := func(rows *sql.Rows) (s score, err error) {
		err = rows.Scan(&s.id, &s.points)
		return s, err
	}
	byID := func(a, b score) int { return cmp.Compare(a.id, b.id) }
	const n = 3
	first := shard.ScatterSorted(ctx, db, db.Shards(), shard.Policy{},
		"SELECT id, points FROM scores ORDER BY id LIMIT $1", []any{n}, scan, byID)
	for s, err := range shard.Limit(n, first) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.id, s.points)
	}
	// Output:
	// 1 1
	// 2 4
	// 3 9
}

// How many rows each shard has. If one fails, the others are still told, with an error that names it.
func ExampleScatterOn() {
	db := openScores(shard.SQLConfig{}, " of ScatterOn")
	ctx := context.Background()
	for id := int64(1); id <= 5; id++ {
		if _, err := db.Exec(ctx, id, "INSERT INTO scores (id, points) VALUES ($1, $2)", id, id*id); err != nil {
			log.Fatal(err)
		}
	}
	count := func(rows *sql.Rows) (n int, err error) {
		for rows.Next() {
			n++
		}
		return n, nil
	}
	shards := append(db.Shards(), "west") // which is not there
	replies, err := shard.ScatterOn(ctx, db, shards, shard.Policy{MinSuccess: 2},
		"SELECT id, points FROM scores ORDER BY id LIMIT $1", []any{100}, count)
	for _, r := range replies {
		fmt.Println(r.Shard, r.Value)
	}
	var partial *shard.PartialError
	if errors.As(err, &partial) {
		fmt.Println("enough:", partial.Enough, "without:", partial.Failed[0].Shard)
	}
	// Output:
	// north 2
	// south 3
	// enough: true without: west
}

// What a client has written, it reads in its next request as well, if it carries the token.
func ExampleWithSession() {
	db := openScores(shard.SQLConfig{Consistency: shard.ReadYourWrites}, " of WithSession")
	ctx := shard.WithSession(context.Background())
	if _, err := db.Exec(ctx, 1, "INSERT INTO scores (id, points) VALUES ($1, $2)", 1, 100); err != nil {
		log.Fatal(err)
	}
	cookie := shard.SessionToken(ctx)

	ctx, err := shard.WithSessionToken(context.Background(), cookie)
	if err != nil {
		ctx = shard.WithConsistency(ctx, shard.Primary)
	}
	var points int
	if err := db.QueryRow(ctx, 1, "SELECT points FROM scores WHERE id = $1", 1).Scan(&points); err != nil {
		log.Fatal(err)
	}
	fmt.Println(points)
	// Output: 100
}

// A list that may be some seconds old need not be read from the primary.
func ExampleWithConsistency() {
	db := openScores(shard.SQLConfig{}, " of WithConsistency")
	ctx := context.Background()
	if _, err := db.Exec(ctx, 1, "INSERT INTO scores (id, points) VALUES ($1, $2)", 1, 100); err != nil {
		log.Fatal(err)
	}
	// These replicas are far behind.
	for _, c := range []shard.Consistency{shard.Primary, shard.Eventual} {
		var points int
		err := db.QueryRow(shard.WithConsistency(ctx, c), 1, "SELECT points FROM scores WHERE id = $1", 1).Scan(&points)
		fmt.Println(c, points, err)
	}
	// Output:
	// Primary 100 <nil>
	// Eventual 0 sql: no rows in result set
}

// QueryRow is for what reads, even if a statement that writes returns a row: nothing here knows that it
// writes. It goes to a replica, which refuses it at best. ExecRow is for such a statement.
func ExampleDB_QueryRow_mistake() {
	db := openScores(shard.SQLConfig{Consistency: shard.Eventual}, " of QueryRow")
	ctx := context.Background()
	const insert = "INSERT INTO scores (id, points) VALUES ($1, $2) RETURNING id"
	var id int64
	fmt.Println(db.QueryRow(ctx, 1, insert, 1, 100).Scan(&id))
	fmt.Println(db.ExecRow(ctx, 1, insert, 1, 100).Scan(&id), id)
	// Output:
	// shard "south": cannot write in a read-only transaction
	// <nil> 1
}
