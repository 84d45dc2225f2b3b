package shard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A dirDriver is a database of one table that understands what an SQLDirectory says, and nothing else.
type dirDriver struct {
	mu     sync.Mutex
	table  string
	key    string                    // its column
	dollar bool                      // placeholders
	rows   []map[string]driver.Value // by column
	seen   []string                  // statements

	fail  func(query string) error // before a statement is executed; nil: none fails
	after func(query string)       // after it

	fold   bool // keys are compared without case
	refuse bool // nothing is inserted
}

func (d *dirDriver) Connect(context.Context) (driver.Conn, error) { return &dirConn{d}, nil }
func (d *dirDriver) Driver() driver.Driver                        { return nil }

type dirConn struct{ d *dirDriver }

func (c *dirConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not prepared") }
func (c *dirConn) Begin() (driver.Tx, error)           { return nil, errors.New("no transactions") }
func (c *dirConn) Close() error                        { return nil }

var (
	dirSelect = regexp.MustCompile(`^SELECT (.+) FROM (\S+) WHERE (\w+) (?:= (\S+)|IN \((.+)\))$`)
	dirInsert = regexp.MustCompile(`^INSERT INTO (\S+) \((.+)\) VALUES \((.+)\) ON CONFLICT \((\w+)\) DO NOTHING$`)
	dirUpdate = regexp.MustCompile(`^UPDATE (\S+) SET (.+) WHERE (\w+) = (\S+) AND (\w+) = (\S+)$`)
	dirDelete = regexp.MustCompile(`^DELETE FROM (\S+) WHERE (\w+) = (\S+) AND (\w+) = (\S+)$`)
)

// begin checks the placeholders of a statement.
func (d *dirDriver) begin(query string, args []driver.NamedValue) ([]driver.Value, error) {
	d.mu.Lock()
	fail := d.fail
	d.seen = append(d.seen, query)
	d.mu.Unlock()
	if fail != nil {
		if err := fail(query); err != nil {
			return nil, err
		}
	}
	var want, got []string
	for i := range args {
		if d.dollar {
			want = append(want, "$"+strconv.Itoa(i+1))
		} else {
			want = append(want, "?")
		}
	}
	for _, word := range strings.FieldsFunc(query, func(r rune) bool { return strings.ContainsRune(" (),", r) }) {
		if word[0] == '?' || word[0] == '$' {
			got = append(got, word)
		}
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return nil, fmt.Errorf("placeholders of %s for %d values", query, len(args))
	}
	values := make([]driver.Value, len(args))
	for i, a := range args {
		values[i] = a.Value
		if s, ok := a.Value.(string); ok && strings.ContainsRune(s, 0) {
			return nil, errors.New("invalid byte sequence")
		}
	}
	return values, nil
}

func (d *dirDriver) end(query string) {
	if d.after != nil {
		d.after(query)
	}
}

func (d *dirDriver) find(k driver.Value) int {
	for i, r := range d.rows {
		if r[d.key] == k {
			return i
		}
	}
	return -1
}

func (c *dirConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	d := c.d
	values, err := d.begin(query, args)
	if err != nil {
		return nil, err
	}
	defer d.end(query)
	d.mu.Lock()
	defer d.mu.Unlock()
	m := dirSelect.FindStringSubmatch(query)
	if m == nil || m[2] != d.table || m[3] != d.key {
		return nil, fmt.Errorf("cannot parse %s", query)
	}
	rows := &dirRows{columns: strings.Split(m[1], ", ")}
	for _, r := range d.rows {
		for _, v := range values {
			if r[d.key] == v || d.fold && strings.EqualFold(fmt.Sprint(r[d.key]), fmt.Sprint(v)) {
				var row []driver.Value
				for _, column := range rows.columns {
					row = append(row, r[column])
				}
				rows.rows = append(rows.rows, row)
				break
			}
		}
	}
	return rows, nil
}

type dirRows struct {
	columns []string
	rows    [][]driver.Value
}

func (r *dirRows) Columns() []string { return r.columns }
func (r *dirRows) Close() error      { return nil }
func (r *dirRows) Next(dest []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	copy(dest, r.rows[0])
	r.rows = r.rows[1:]
	return nil
}

func (c *dirConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	d := c.d
	values, err := d.begin(query, args)
	if err != nil {
		return nil, err
	}
	defer d.end(query)
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := dirInsert.FindStringSubmatch(query); m != nil && m[1] == d.table && m[4] == d.key {
		row := map[string]driver.Value{}
		for i, column := range strings.Split(m[2], ", ") {
			row[column] = values[i]
		}
		if d.refuse || d.find(row[d.key]) >= 0 {
			return driver.RowsAffected(0), nil
		}
		d.rows = append(d.rows, row)
		return driver.RowsAffected(1), nil
	}
	if m := dirUpdate.FindStringSubmatch(query); m != nil && m[1] == d.table && m[3] == d.key {
		n := len(values)
		i := d.find(values[n-2])
		if i < 0 || d.rows[i][m[5]] != values[n-1] {
			return driver.RowsAffected(0), nil
		}
		for j, set := range strings.Split(m[2], ", ") {
			column, _, _ := strings.Cut(set, " = ")
			d.rows[i][column] = values[j]
		}
		return driver.RowsAffected(1), nil
	}
	if m := dirDelete.FindStringSubmatch(query); m != nil && m[1] == d.table && m[2] == d.key {
		i := d.find(values[0])
		if i < 0 || d.rows[i][m[4]] != values[1] {
			return driver.RowsAffected(0), nil
		}
		d.rows = append(d.rows[:i], d.rows[i+1:]...)
		return driver.RowsAffected(1), nil
	}
	return nil, fmt.Errorf("cannot parse %s", query)
}

// openDirDriver returns a database for the given configuration.
func openDirDriver(t *testing.T, c SQLDirectoryConfig) (*sql.DB, *dirDriver) {
	d := &dirDriver{table: dirOr(c.Table, "directory"), key: dirOr(c.KeyColumn, "id"), dollar: c.Dollar}
	db := sql.OpenDB(d)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, d
}

func TestSQLDirectoryConfig(t *testing.T) {
	db, _ := openDirDriver(t, SQLDirectoryConfig{})
	const name = " must be a name of at most 63 letters, digits and _, got "
	long := strings.Repeat("x", 64)
	for want, c := range map[string]SQLDirectoryConfig{
		`Table` + name + `"a b"`:                                          {Table: "a b"},
		`Table` + name + `"x;DROP TABLE y"`:                               {Table: "x;DROP TABLE y"},
		`Table` + name + `""`:                                             {Table: "a."},
		`Table` + name + `"b.c"`:                                          {Table: "a.b.c"},
		`Table` + name + `"` + long + `"`:                                 {Table: long},
		`Table` + name + `"1a"`:                                           {Table: "1a"},
		`Table` + name + `"täble"`:                                        {Table: "täble"},
		`Table` + name + `"a\n"`:                                          {Table: "a\n"},
		`KeyColumn` + name + `"a.b"`:                                      {KeyColumn: "a.b"},
		`ShardColumn` + name + `"\"a\""`:                                  {ShardColumn: `"a"`},
		`EpochColumn` + name + `"a--"`:                                    {EpochColumn: "a--"},
		`StateColumn` + name + `"a,b"`:                                    {StateColumn: "a,b"},
		`PartColumn` + name + `"("`:                                       {PartColumn: "("},
		`EpochColumn must be another than KeyColumn, got "ID"`:            {EpochColumn: "ID"},
		`PartColumn must be another than ShardColumn, got "shard"`:        {PartColumn: "shard"},
		`KeyType must be a name such as TEXT or VARCHAR(100), got "x);"`:  {KeyType: "x);"},
		`KeyType must be a name such as TEXT or VARCHAR(100), got "a(b)"`: {KeyType: "a(b)"},
		"MaxKeys must be between 0 and 32766, got -1":                     {MaxKeys: -1},
		"MaxKeys must be between 0 and 32766, got 32767":                  {MaxKeys: 32767},
	} {
		_, err := NewSQLDirectory[string](db, c)
		require.EqualError(t, err, "shard: "+want)
	}
	_, err := NewSQLDirectory[string](nil, SQLDirectoryConfig{})
	require.EqualError(t, err, "shard: db must not be nil")
}

func TestSQLDirectoryStatements(t *testing.T) {
	db, _ := openDirDriver(t, SQLDirectoryConfig{})
	s, err := NewSQLDirectory[string](db, SQLDirectoryConfig{})
	require.NoError(t, err)
	require.Equal(t, "CREATE TABLE IF NOT EXISTS directory (id TEXT NOT NULL PRIMARY KEY, shard TEXT NOT NULL, epoch BIGINT NOT NULL, state SMALLINT NOT NULL)", s.CreateTable())
	require.Equal(t, "SELECT shard, epoch, state FROM directory WHERE id = ?", s.one)
	require.Equal(t, "INSERT INTO directory (shard, epoch, state, id) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", s.insert)
	require.Equal(t, "UPDATE directory SET shard = ?, epoch = ?, state = ? WHERE id = ? AND epoch = ?", s.update)
	require.Equal(t, "DELETE FROM directory WHERE id = ? AND epoch = ?", s.remove)

	type tenant uint32
	n, err := NewSQLDirectory[tenant](db, SQLDirectoryConfig{
		Table: "routing.tenants", KeyColumn: "tenant", ShardColumn: "db", EpochColumn: "e", StateColumn: "s", PartColumn: "p", Dollar: true,
	})
	require.NoError(t, err)
	require.Equal(t, "CREATE TABLE IF NOT EXISTS routing.tenants (tenant BIGINT NOT NULL PRIMARY KEY, db TEXT NOT NULL, e BIGINT NOT NULL, s SMALLINT NOT NULL, p BIGINT NOT NULL)", n.CreateTable())
	require.Equal(t, "UPDATE routing.tenants SET db = $1, e = $2, s = $3, p = $4 WHERE tenant = $5 AND e = $6", n.update)
	u, err := NewSQLDirectory[[16]byte](db, SQLDirectoryConfig{KeyType: "VARCHAR(36)"})
	require.NoError(t, err)
	require.Contains(t, u.CreateTable(), "(id VARCHAR(36) NOT NULL PRIMARY KEY,")
}

// Both kinds of placeholders, keys of several types, with and without parts.
func TestSQLDirectory(t *testing.T) {
	t.Run("string", func(t *testing.T) { testSQLDirectory(t, SQLDirectoryConfig{}, [3]string{"a", "b", "c"}) })
	t.Run("int", func(t *testing.T) {
		testSQLDirectory(t, SQLDirectoryConfig{Dollar: true, Table: "routing.t", KeyColumn: "k"}, [3]int64{-1, 0, math.MaxInt64})
	})
	type name string
	t.Run("named", func(t *testing.T) {
		testSQLDirectory(t, SQLDirectoryConfig{PartColumn: "part"}, [3]name{"", "b", "c"})
	})
	t.Run("uint16", func(t *testing.T) {
		testSQLDirectory(t, SQLDirectoryConfig{PartColumn: "part", Dollar: true, MaxKeys: 1}, [3]uint16{0, 1, math.MaxUint16})
	})
}

func testSQLDirectory[K comparable](t *testing.T, c SQLDirectoryConfig, keys [3]K) {
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[K](db, c)
	require.NoError(t, err)
	ctx := t.Context()
	a, b, none := keys[0], keys[1], keys[2]
	row := Placement{Shard: "s1", Epoch: math.MaxInt64 - 1, State: Fenced}
	if c.PartColumn != "" {
		row.Part = math.MaxUint32
	}
	got, err := s.Insert(ctx, a, row)
	require.NoError(t, err)
	require.Equal(t, row, got)
	got, err = s.Insert(ctx, a, Placement{Shard: "s2", Epoch: 1})
	require.ErrorIs(t, err, ErrExists)
	require.Equal(t, row, got)
	other := Placement{Shard: "s2", Epoch: 1}
	_, err = s.Insert(ctx, b, other)
	require.NoError(t, err)

	found, err := s.Lookup(ctx, []K{a, b, none})
	require.NoError(t, err)
	require.Equal(t, map[K]Placement{a: row, b: other}, found)
	found, err = s.Lookup(ctx, []K{none})
	require.NoError(t, err)
	require.Empty(t, found)

	moved := Placement{Shard: "s3", Epoch: math.MaxInt64, State: Migrating}
	require.ErrorIs(t, s.Update(ctx, a, 7, moved), ErrStaleEpoch)
	require.ErrorIs(t, s.Update(ctx, none, 7, moved), ErrNotFound)
	require.NoError(t, s.Update(ctx, a, row.Epoch, moved))
	require.ErrorIs(t, s.Update(ctx, a, row.Epoch, moved), ErrStaleEpoch)
	require.ErrorIs(t, s.Delete(ctx, a, row.Epoch), ErrStaleEpoch)
	require.ErrorIs(t, s.Delete(ctx, a, math.MaxUint64), ErrStaleEpoch, "it does not become another number")
	require.NoError(t, s.Delete(ctx, a, moved.Epoch))
	require.NoError(t, s.Delete(ctx, a, moved.Epoch))
	found, err = s.Lookup(ctx, []K{a, b})
	require.NoError(t, err)
	require.Equal(t, map[K]Placement{b: other}, found)

	// What cannot be written is not.
	seen := len(fake.seen)
	big := Placement{Shard: "s1", Epoch: math.MaxInt64 + 1}
	_, err = s.Insert(ctx, none, big)
	require.EqualError(t, err, "shard: Epoch must be at most 9223372036854775807, got 9223372036854775808")
	require.ErrorContains(t, s.Update(ctx, b, 1, big), "shard: Epoch must be at most")
	if c.PartColumn == "" {
		_, err = s.Insert(ctx, none, Placement{Shard: "s1", Epoch: 1, Part: 3})
		require.EqualError(t, err, "shard: Part must be 0 without a PartColumn, got 3")
	}
	require.Len(t, fake.seen, seen)

	// Rows that cannot be.
	for column, bad := range map[string]int64{"epoch": -1, "state": 3, "part": math.MaxUint32 + 1} {
		if column == "part" && c.PartColumn == "" {
			continue
		}
		_, err = s.Insert(ctx, a, row)
		require.NoError(t, err)
		fake.rows[len(fake.rows)-1][column] = bad
		found, err = s.Lookup(ctx, []K{a, b})
		require.ErrorContains(t, err, fmt.Sprintf(".%s must be ", column))
		require.Equal(t, map[K]Placement{b: other}, found, "the others are there")
		_, err = s.Insert(ctx, a, row)
		require.ErrorContains(t, err, fmt.Sprintf(".%s must be ", column))
		require.NotErrorIs(t, err, ErrExists)
		require.Error(t, s.Delete(ctx, a, math.MaxUint64), "-1 is another number")
		fake.rows = fake.rows[:len(fake.rows)-1]
	}
}

// Many keys take several statements, of few different sizes.
func TestSQLDirectorySizes(t *testing.T) {
	c := SQLDirectoryConfig{MaxKeys: 100}
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[int](db, c)
	require.NoError(t, err)
	ctx := t.Context()
	for k := range 300 {
		_, err := s.Insert(ctx, k, Placement{Shard: ID(strconv.Itoa(k)), Epoch: 1})
		require.NoError(t, err)
	}
	kinds := map[string]bool{}
	for n := 1; n <= 300; n++ {
		keys := make([]int, n)
		for i := range keys {
			keys[i] = i
		}
		fake.seen = nil
		found, err := s.Lookup(ctx, keys)
		require.NoError(t, err)
		require.Len(t, found, n)
		require.Len(t, fake.seen, (n+99)/100)
		for _, query := range fake.seen {
			kinds[query] = true
		}
	}
	require.Len(t, kinds, 8, "1, 2, 4, 8, 16, 32, 64, 100")
	found, err := s.Lookup(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestSQLDirectoryErrors(t *testing.T) {
	c := SQLDirectoryConfig{}
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[string](db, c)
	require.NoError(t, err)
	ctx := t.Context()
	row := Placement{Shard: "s1", Epoch: 1}
	fail := func(word string) {
		fake.fail = func(query string) error {
			if strings.HasPrefix(query, word) {
				return errDown
			}
			return nil
		}
	}
	_, err = s.Insert(ctx, "there", row)
	require.NoError(t, err)
	fail("SELECT")
	_, err = s.Lookup(ctx, []string{"a"})
	require.EqualError(t, err, "shard: cannot look up keys in directory: down")
	require.ErrorIs(t, err, errDown)
	_, err = s.Insert(ctx, "there", row)
	require.EqualError(t, err, "shard: cannot insert there into directory: down")
	require.EqualError(t, s.Update(ctx, "there", 2, row), "shard: cannot update there in directory: down")
	require.EqualError(t, s.Delete(ctx, "there", 2), "shard: cannot delete there from directory: down")
	fail("")
	_, err = s.Insert(ctx, "a", row)
	require.ErrorIs(t, err, errDown)
	require.ErrorIs(t, s.Update(ctx, "a", 1, row), errDown)
	require.ErrorIs(t, s.Delete(ctx, "a", 1), errDown)
	fake.fail = nil
	_, err = s.Insert(ctx, "there", row)
	require.EqualError(t, err, "shard: cannot insert there into directory: the key has a row already")
	require.EqualError(t, s.Update(ctx, "there", 2, row), "shard: cannot update there in directory: its epoch is 1, and not 2: stale epoch")
	require.EqualError(t, s.Update(ctx, "none", 2, row), "shard: cannot update none in directory: not found")

	// A row that goes away while it is in the way of another is not in the way any more.
	fake.after = func(query string) {
		if strings.HasPrefix(query, "INSERT") {
			fake.after = nil
			require.NoError(t, s.Delete(ctx, "there", 1))
		}
	}
	got, err := s.Insert(ctx, "there", Placement{Shard: "s2", Epoch: 5})
	require.NoError(t, err)
	require.Equal(t, Placement{Shard: "s2", Epoch: 5}, got)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Lookup(ended, []string{"a"})
	require.ErrorIs(t, err, context.Canceled)

	// A key that the driver does not take.
	u, err := NewSQLDirectory[uint64](db, c)
	require.NoError(t, err)
	_, err = u.Lookup(ctx, []uint64{math.MaxUint64})
	require.Error(t, err)
}

// A row that cannot be read, or is that of another key, is an error of its own key only.
func TestSQLDirectoryBadRows(t *testing.T) {
	c := SQLDirectoryConfig{}
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[string](db, c)
	require.NoError(t, err)
	ctx := t.Context()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("key%02d", i))
		_, err := s.Insert(ctx, keys[i], Placement{Shard: "s1", Epoch: 1})
		require.NoError(t, err)
	}
	keys = append(keys, "none")
	fake.rows[0]["shard"] = nil
	fake.rows[1]["epoch"] = nil
	fake.rows[50]["state"] = "none"
	found, err := s.Lookup(ctx, keys)
	require.ErrorContains(t, err, "shard: cannot read the row of key50 in directory: ")
	require.Len(t, found, 97)
	d := newDirectory(t, s, DirectoryConfig[string]{})
	found, err = d.RouteAll(ctx, keys)
	var failed *KeysError[string]
	require.ErrorAs(t, err, &failed)
	require.Equal(t, []string{"key00", "key01", "key50"}, failed.Keys)
	require.ErrorContains(t, failed.Errs[1], "shard: cannot read the row of key01 in directory: ")
	require.Len(t, found, 97)

	fake.fold = true // as a database that ignores case
	_, err = d.Route(ctx, "KEY02")
	require.EqualError(t, err, "shard: directory.id must compare keys as Go does, and return them as they are, got key02 for KEY02")
	found, err = d.RouteAll(ctx, []string{"key03", "KEY04", "key05", "None"})
	require.ErrorAs(t, err, &failed)
	require.Equal(t, []string{"KEY04"}, failed.Keys)
	require.EqualError(t, failed.Errs[0], "shard: directory.id must compare keys as Go does, and return them as they are, got key04 for KEY04")
	require.Len(t, found, 2)
}

// A row that is neither inserted nor there is not tried for ever.
func TestSQLDirectoryInsertRefused(t *testing.T) {
	c := SQLDirectoryConfig{}
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[string](db, c)
	require.NoError(t, err)
	fake.refuse = true
	_, err = s.Insert(t.Context(), "a", Placement{Shard: "s1", Epoch: 1})
	require.EqualError(t, err, "shard: cannot insert a into directory: it was not inserted 10 times, and was not there then; a trigger may refuse it")
	require.Len(t, fake.seen, 20)
}

// A Directory in front of it: one caller's bad key is nobody else's trouble.
func TestSQLDirectoryBehindDirectory(t *testing.T) {
	c := SQLDirectoryConfig{}
	db, fake := openDirDriver(t, c)
	s, err := NewSQLDirectory[string](db, c)
	require.NoError(t, err)
	d := newDirectory(t, s, DirectoryConfig[string]{})
	ctx := t.Context()
	nothing := func(context.Context, Placement) error { return nil }
	for _, k := range []string{"a", "b", "c"} {
		_, err = d.Create(ctx, k, Placement{Shard: ID("s" + k)}, nothing)
		require.NoError(t, err)
		_, err = d.Create(ctx, k, Placement{Shard: "other"}, nothing)
		require.NoError(t, err)
	}
	d.Clear()
	found, err := d.RouteAll(ctx, []string{"a", "bad\x00", "b", "none", "c"})
	var failed *KeysError[string]
	require.ErrorAs(t, err, &failed)
	require.Equal(t, []string{"bad\x00"}, failed.Keys)
	require.Len(t, found, 3)
	for k, p := range found {
		require.Equal(t, ID("s"+k), p.Shard)
		require.NoError(t, d.Remove(ctx, k, nothing))
	}
	require.Empty(t, fake.rows)
	_, err = d.Route(ctx, "a")
	require.ErrorIs(t, err, ErrNotFound)
}
