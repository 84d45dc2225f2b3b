package shard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sysblocks/sysblocks/shard"
)

// A table is a store of rows for one process, for want of a database. It shows what a store must do.
type table struct {
	mu   sync.Mutex
	rows map[string]shard.Placement
}

func (t *table) Lookup(_ context.Context, keys []string) (map[string]shard.Placement, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := map[string]shard.Placement{}
	for _, k := range keys {
		if row, ok := t.rows[k]; ok {
			found[k] = row
		}
	}
	return found, nil
}

func (t *table) Insert(_ context.Context, k string, row shard.Placement) (shard.Placement, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if there, ok := t.rows[k]; ok {
		return there, shard.ErrExists
	}
	t.rows[k] = row
	return row, nil
}

func (t *table) Update(_ context.Context, k string, epoch uint64, row shard.Placement) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch there, ok := t.rows[k]; {
	case !ok:
		return shard.ErrNotFound
	case there.Epoch != epoch:
		return shard.ErrStaleEpoch
	}
	t.rows[k] = row
	return nil
}

func (t *table) Delete(_ context.Context, k string, epoch uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if there, ok := t.rows[k]; ok && there.Epoch != epoch {
		return shard.ErrStaleEpoch
	}
	delete(t.rows, k)
	return nil
}

// newTable returns a store with some tenants, and a directory of it.
func newTable() (*table, *shard.Directory[string]) {
	t := &table{rows: map[string]shard.Placement{
		"acme":   {Shard: "db-1", Epoch: 1},
		"globex": {Shard: "db-2", Epoch: 1},
	}}
	d, err := shard.NewDirectory(t, shard.DirectoryConfig[string]{Capacity: 100_000})
	if err != nil {
		panic(err)
	}
	return t, d
}

func ExampleDirectory() {
	ctx := context.Background()
	_, tenants := newTable()
	databases := map[shard.ID]map[string]string{"db-1": {}, "db-2": {}}

	// The row comes before the data.
	_, err := tenants.Create(ctx, "initech", shard.Placement{Shard: "db-2"}, func(_ context.Context, p shard.Placement) error {
		databases[p.Shard]["initech"] = "the data"
		return nil
	})
	fmt.Println(err, databases)

	p, err := tenants.Route(ctx, "initech")
	fmt.Println(p.Shard, err)

	// And goes after it.
	err = tenants.Remove(ctx, "initech", func(_ context.Context, p shard.Placement) error {
		delete(databases[p.Shard], "initech")
		return nil
	})
	fmt.Println(err, databases)

	_, err = tenants.Route(ctx, "initech")
	fmt.Println(err)
	// Output:
	// <nil> map[db-1:map[] db-2:map[initech:the data]]
	// db-2 <nil>
	// <nil> map[db-1:map[] db-2:map[]]
	// not found
}

func ExampleDirectory_Route() {
	ctx := context.Background()
	_, tenants := newTable()
	for range 3 {
		p, err := tenants.Route(ctx, "acme")
		fmt.Println(p.Shard, err)
	}
	_, err := tenants.Route(ctx, "nobody")
	fmt.Println(errors.Is(err, shard.ErrNotFound))
	s := tenants.Stats()
	fmt.Println(s.Hits, "answers from the cache,", s.Batches, "from the store")
	// Output:
	// db-1 <nil>
	// db-1 <nil>
	// db-1 <nil>
	// true
	// 2 answers from the cache, 2 from the store
}

func ExampleDirectory_RouteAll() {
	_, tenants := newTable()
	found, err := tenants.RouteAll(context.Background(), []string{"globex", "nobody", "acme"})
	if err != nil {
		panic(err)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		fmt.Println(name, "is in", found[name].Shard)
	}
	fmt.Println(tenants.Stats().Batches, "call of the store")
	// Output:
	// acme is in db-1
	// globex is in db-2
	// 1 call of the store
}

// A Create that was stopped between the row and the data can be tried again, by anybody.
func ExampleDirectory_Create() {
	ctx := context.Background()
	_, tenants := newTable()
	p, err := tenants.Create(ctx, "initech", shard.Placement{Shard: "db-1"}, func(context.Context, shard.Placement) error {
		return errors.New("connection lost")
	})
	fmt.Println(p.Shard, err)
	// The second would put it elsewhere, but comes to where the first may have written already.
	p, err = tenants.Create(ctx, "initech", shard.Placement{Shard: "db-2"}, func(_ context.Context, p shard.Placement) error {
		fmt.Println("writing to", p.Shard)
		return nil
	})
	fmt.Println(p.Shard, err)
	// Output:
	// db-1 connection lost
	// writing to db-1
	// db-1 <nil>
}

// To move a tenant, its row is changed step by step. Each step names the epoch of the one before, so of two
// who move it at the same time one finds out. Other processes learn of a step when the row in their caches
// is past its TTL, or when Invalidate is told: only then, and when the writes that were under way have
// ended, is it true that nobody writes.
func ExampleDirectory_Update() {
	ctx := context.Background()
	_, tenants := newTable()
	p, _ := tenants.Route(ctx, "acme")
	mine := p
	for _, next := range []shard.Placement{
		{Shard: "db-1", State: shard.Migrating}, // then the data is copied
		{Shard: "db-1", State: shard.Fenced},    // then TTL is waited for, and the rest is copied
		{Shard: "db-2"},
	} {
		var err error
		if mine, err = tenants.Update(ctx, "acme", mine.Epoch, next); err != nil {
			panic(err)
		}
	}
	_, err := tenants.Update(ctx, "acme", p.Epoch, shard.Placement{Shard: "db-3", State: shard.Migrating})
	fmt.Println(errors.Is(err, shard.ErrStaleEpoch))
	p, _ = tenants.Route(ctx, "acme")
	fmt.Println(p.Shard, p.State)
	// Output:
	// true
	// db-2 serving
}

// What another process has changed is seen after TTL, unless somebody tells.
func ExampleDirectory_Invalidate() {
	ctx := context.Background()
	store, tenants := newTable()
	route := func() {
		p, _ := tenants.Route(ctx, "acme")
		fmt.Println(p.Shard)
	}
	route()
	store.rows["acme"] = shard.Placement{Shard: "db-2", Epoch: 2} // by another process
	route()
	tenants.Invalidate("acme") // by a message from it
	route()
	// Output:
	// db-1
	// db-1
	// db-2
}

// A filter keeps keys that do not exist from the store. It must know a key before its row is there.
func ExampleDirectoryConfig_filter() {
	ctx := context.Background()
	store, _ := newTable()
	var known sync.Map // or a Bloom filter, which is smaller
	known.Store("acme", true)
	known.Store("globex", true)
	tenants, err := shard.NewDirectory(store, shard.DirectoryConfig[string]{
		Capacity: 100_000,
		Filter:   func(k string) bool { _, ok := known.Load(k); return ok },
		Admit:    func(k string) { known.Store(k, true) },
	})
	if err != nil {
		panic(err)
	}
	_, err = tenants.Route(ctx, "nobody")
	fmt.Println(err, tenants.Stats().Batches)
	_, err = tenants.Insert(ctx, "initech", shard.Placement{Shard: "db-1"})
	_, ok := known.Load("initech")
	fmt.Println(err, ok)
	// Output:
	// not found 0
	// <nil> true
}

// The data before the row: if the process ends in between, there is data that nobody finds.
func ExampleDirectory_Insert_mistake() {
	ctx := context.Background()
	_, tenants := newTable()
	databases := map[shard.ID][]string{}

	databases["db-1"] = append(databases["db-1"], "initech")
	stopped := true
	if !stopped {
		_, _ = tenants.Insert(ctx, "initech", shard.Placement{Shard: "db-1"})
	}

	_, err := tenants.Route(ctx, "initech")
	fmt.Println(databases, err)
	// Output: map[db-1:[initech]] not found
}

func ExampleNewSQLDirectory() {
	db := openDirectory()
	rows, err := shard.NewSQLDirectory[string](db, shard.SQLDirectoryConfig{
		Table:     "tenants",
		KeyColumn: "name",
		Dollar:    true, // PostgreSQL
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(rows.CreateTable())

	tenants, err := shard.NewDirectory(rows, shard.DirectoryConfig[string]{Capacity: 100_000})
	if err != nil {
		panic(err)
	}
	fmt.Println(tenants.Len())
	// Output:
	// CREATE TABLE IF NOT EXISTS tenants (name TEXT NOT NULL PRIMARY KEY, shard TEXT NOT NULL, epoch BIGINT NOT NULL, state SMALLINT NOT NULL)
	// 0
}

// openDirectory stands for sql.Open with a driver's name.
func openDirectory() *sql.DB { return sql.OpenDB(nil) }
