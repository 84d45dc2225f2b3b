package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// A SQLDirectoryConfig says where an SQLDirectory has its rows. The zero value is a table for SQLite.
type SQLDirectoryConfig struct {
	_ struct{}

	// Table is the name of the table, with that of its schema and a dot before it, if need be. "":
	// directory.
	Table string
	// KeyColumn is the column of the keys, which must be unique. "": id.
	KeyColumn string
	// ShardColumn is the column of Placement.Shard. "": shard.
	ShardColumn string
	// EpochColumn is the column of Placement.Epoch, which must be an integer of 64 bits. "": epoch.
	EpochColumn string
	// StateColumn is the column of Placement.State, an integer: 0 is Serving, 1 Migrating, 2 Fenced.
	// "": state.
	StateColumn string
	// PartColumn is the column of Placement.Part, which must hold integers up to 2^32-1. "": there is
	// none, and Part is 0.
	PartColumn string

	// KeyType is the type of KeyColumn, for CreateTable. "": BIGINT for integers, TEXT for all else.
	KeyType string
	// Dollar says that placeholders are written $1, $2 and so on, as PostgreSQL wants it, and not ?.
	Dollar bool
	// MaxKeys is how many keys are looked up by one statement, at most 32,766; more take several. SQLite
	// before 3.32 takes no more than 999. 0: 512.
	MaxKeys int
}

const (
	sqlDefaultKeys = 512
	sqlMaxKeys     = 1<<15 - 2 // placeholders, which is SQLite's bound from 3.32; PostgreSQL's is 65,535
)

var (
	sqlName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	sqlType = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_ ]*(\([0-9]+\))?$`)
)

// A SQLDirectory is a DirectoryStore in a table of an SQL database: SQLite from 3.24, PostgreSQL, or
// another that knows INSERT … ON CONFLICT DO NOTHING. Keys are given to the driver as they are, and
// scanned from what it returns, so K is a string, an integer up to 2^63-1, or what else the driver takes, or what
// implements driver.Valuer and, by a pointer, sql.Scanner. The database must return keys as they are given
// to it, and compare them as Go does: where it ignores case or trailing spaces, or a column of another
// type gives a key another form, such as another time zone to a time.Time, the key is an error.
//
// Names are not quoted, so a database that folds the case of names does so.
//
// A SQLDirectory is safe for concurrent use by multiple goroutines. It is as consistent as the database:
// if that reads from replicas that lag behind, see Directory. The zero value cannot be used.
type SQLDirectory[K comparable] struct {
	db      *sql.DB
	config  SQLDirectoryConfig // with its defaults
	columns string             // of a row, without the key
	one     string             // the statement that selects a row
	insert  string
	update  string
	remove  string
}

// NewSQLDirectory returns a store of the rows in a table of db, which CreateTable describes. It returns an
// error that names the field of config that is wrong, and asks the database for nothing.
func NewSQLDirectory[K comparable](db *sql.DB, config SQLDirectoryConfig) (*SQLDirectory[K], error) {
	if db == nil {
		return nil, errors.New("shard: db must not be nil")
	}
	c := &config
	c.Table = dirOr(c.Table, "directory")
	c.KeyColumn = dirOr(c.KeyColumn, "id")
	c.ShardColumn = dirOr(c.ShardColumn, "shard")
	c.EpochColumn = dirOr(c.EpochColumn, "epoch")
	c.StateColumn = dirOr(c.StateColumn, "state")
	c.MaxKeys = dirOr(c.MaxKeys, sqlDefaultKeys)
	if c.KeyType == "" {
		c.KeyType = sqlKeyType[K]()
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	s := &SQLDirectory[K]{db: db, config: config}
	names := []string{c.ShardColumn, c.EpochColumn, c.StateColumn}
	if c.PartColumn != "" {
		names = append(names, c.PartColumn)
	}
	n := len(names)
	s.columns = strings.Join(names, ", ")
	s.one = fmt.Sprintf("SELECT %s FROM %s WHERE %s = %s", s.columns, c.Table, c.KeyColumn, c.placeholder(1))
	s.insert = fmt.Sprintf("INSERT INTO %s (%s, %s) VALUES (%s) ON CONFLICT (%s) DO NOTHING",
		c.Table, s.columns, c.KeyColumn, c.placeholders(n+1), c.KeyColumn)
	for i := range names {
		names[i] += " = " + c.placeholder(i+1)
	}
	s.update = fmt.Sprintf("UPDATE %s SET %s WHERE %s = %s AND %s = %s",
		c.Table, strings.Join(names, ", "), c.KeyColumn, c.placeholder(n+1), c.EpochColumn, c.placeholder(n+2))
	s.remove = fmt.Sprintf("DELETE FROM %s WHERE %s = %s AND %s = %s",
		c.Table, c.KeyColumn, c.placeholder(1), c.EpochColumn, c.placeholder(2))
	return s, nil
}

// sqlKeyType returns the type of a column of keys.
func sqlKeyType[K any]() string {
	switch reflect.TypeFor[K]().Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "BIGINT"
	}
	return "TEXT"
}

func (c *SQLDirectoryConfig) validate() error {
	schema, table, dotted := strings.Cut(c.Table, ".")
	if !dotted {
		table = schema
	}
	for _, f := range [][2]string{
		{"Table", schema},
		{"Table", table},
		{"KeyColumn", c.KeyColumn},
		{"ShardColumn", c.ShardColumn},
		{"EpochColumn", c.EpochColumn},
		{"StateColumn", c.StateColumn},
		{"PartColumn", dirOr(c.PartColumn, "part")},
	} {
		if !sqlName.MatchString(f[1]) {
			return fmt.Errorf("shard: %s must be a name of at most 63 letters, digits and _, got %q", f[0], f[1])
		}
	}
	seen := map[string]string{}
	for _, f := range [][2]string{
		{"KeyColumn", c.KeyColumn},
		{"ShardColumn", c.ShardColumn},
		{"EpochColumn", c.EpochColumn},
		{"StateColumn", c.StateColumn},
		{"PartColumn", c.PartColumn},
	} {
		name := strings.ToLower(f[1])
		if other, taken := seen[name]; taken {
			return fmt.Errorf("shard: %s must be another than %s, got %q", f[0], other, f[1])
		}
		seen[name] = f[0]
	}
	switch {
	case !sqlType.MatchString(c.KeyType):
		return fmt.Errorf("shard: KeyType must be a name such as TEXT or VARCHAR(100), got %q", c.KeyType)
	case c.MaxKeys < 1 || c.MaxKeys > sqlMaxKeys:
		return fmt.Errorf("shard: MaxKeys must be between 0 and %d, got %d", sqlMaxKeys, c.MaxKeys)
	}
	return nil
}

// placeholder returns the i-th placeholder of a statement, from 1.
func (c *SQLDirectoryConfig) placeholder(i int) string {
	if c.Dollar {
		return "$" + strconv.Itoa(i)
	}
	return "?"
}

// placeholders returns the first n.
func (c *SQLDirectoryConfig) placeholders(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.placeholder(i + 1))
	}
	return b.String()
}

// CreateTable returns the statement that creates the table, if it is not there. It is not executed.
func (s *SQLDirectory[K]) CreateTable() string {
	c := &s.config
	part := ""
	if c.PartColumn != "" {
		part = fmt.Sprintf(", %s BIGINT NOT NULL", c.PartColumn)
	}
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s %s NOT NULL PRIMARY KEY, %s TEXT NOT NULL, %s BIGINT NOT NULL, %s SMALLINT NOT NULL%s)",
		c.Table, c.KeyColumn, c.KeyType, c.ShardColumn, c.EpochColumn, c.StateColumn, part)
}

// A sqlRow is a row as it is scanned.
type sqlRow struct {
	shard              string
	epoch, state, part int64
}

// scan returns where the columns of a row go to.
func (s *SQLDirectory[K]) scan(r *sqlRow) []any {
	to := []any{&r.shard, &r.epoch, &r.state}
	if s.config.PartColumn != "" {
		to = append(to, &r.part)
	}
	return to
}

// placement returns the row, or an error if it cannot be one.
func (s *SQLDirectory[K]) placement(r *sqlRow) (Placement, error) {
	switch {
	case r.epoch < 0:
		return Placement{}, fmt.Errorf("shard: %s.%s must be at least 0, got %d", s.config.Table, s.config.EpochColumn, r.epoch)
	case r.state < 0 || r.state > int64(Fenced):
		return Placement{}, fmt.Errorf("shard: %s.%s must be between 0 and %d, got %d", s.config.Table, s.config.StateColumn, Fenced, r.state)
	case r.part < 0 || r.part > math.MaxUint32:
		return Placement{}, fmt.Errorf("shard: %s.%s must be between 0 and %d, got %d", s.config.Table, s.config.PartColumn, uint32(math.MaxUint32), r.part)
	}
	return Placement{Shard: ID(r.shard), Part: PartID(r.part), Epoch: uint64(r.epoch), State: PartState(r.state)}, nil
}

// values returns p as arguments of a statement, with room for more.
func (s *SQLDirectory[K]) values(p Placement, more ...any) ([]any, error) {
	if p.Epoch > math.MaxInt64 {
		return nil, fmt.Errorf("shard: Epoch must be at most %d, got %d", int64(math.MaxInt64), p.Epoch)
	}
	args := []any{string(p.Shard), int64(p.Epoch), int64(p.State)}
	switch {
	case s.config.PartColumn != "":
		args = append(args, int64(p.Part))
	case p.Part != 0:
		return nil, fmt.Errorf("shard: Part must be 0 without a PartColumn, got %d", p.Part)
	}
	return append(args, more...), nil
}

// Lookup returns the rows of keys. If one cannot be a row, or is that of a key that was not asked for, it
// returns the others, and an error.
func (s *SQLDirectory[K]) Lookup(ctx context.Context, keys []K) (map[K]Placement, error) {
	found := make(map[K]Placement, len(keys))
	var bad error
	for len(keys) > 0 {
		n := min(len(keys), s.config.MaxKeys)
		if err := s.lookup(ctx, keys[:n], found, &bad); err != nil {
			return found, fmt.Errorf("shard: cannot look up keys in %s: %w", s.config.Table, err)
		}
		keys = keys[n:]
	}
	return found, bad
}

// lookup adds the rows of keys, which are as many as one statement takes, to found.
func (s *SQLDirectory[K]) lookup(ctx context.Context, keys []K, found map[K]Placement, bad *error) error {
	// The last key fills up the next power of two, so that the driver and the database, which may keep
	// what they have prepared, see few statements.
	n := min(1<<bits.Len(uint(len(keys)-1)), s.config.MaxKeys)
	args := make([]any, n)
	for i := range args {
		args[i] = keys[min(i, len(keys)-1)]
	}
	query := fmt.Sprintf("SELECT %s, %s FROM %s WHERE %s IN (%s)",
		s.config.KeyColumn, s.columns, s.config.Table, s.config.KeyColumn, s.config.placeholders(n))
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	asked := make(map[K]bool, len(keys))
	for _, k := range keys {
		asked[k] = true
	}
	// of names the key of a row: that which was scanned, if it was, or one of those that were asked for. A
	// Directory asks for each alone then.
	of := func(k K) string {
		switch {
		case asked[k]:
			return fmt.Sprint(k)
		case len(keys) == 1:
			return fmt.Sprint(keys[0])
		}
		return fmt.Sprintf("%v or another of %d keys", keys[0], len(keys))
	}
	for rows.Next() {
		var k K
		var r sqlRow
		if err := rows.Scan(append([]any{&k}, s.scan(&r)...)...); err != nil {
			*bad = fmt.Errorf("shard: cannot read the row of %s in %s: %w", of(k), s.config.Table, err)
			continue
		}
		switch p, err := s.placement(&r); {
		case !asked[k]:
			*bad = fmt.Errorf("shard: %s.%s must compare keys as Go does, and return them as they are, got %v for %s",
				s.config.Table, s.config.KeyColumn, k, of(k))
		case err != nil:
			*bad = err
		default:
			found[k] = p
		}
	}
	return rows.Err()
}

// row returns the row of k, or ErrNotFound.
func (s *SQLDirectory[K]) row(ctx context.Context, k K) (Placement, error) {
	var r sqlRow
	err := s.db.QueryRowContext(ctx, s.one, k).Scan(s.scan(&r)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Placement{}, ErrNotFound
	}
	if err != nil {
		return Placement{}, err
	}
	return s.placement(&r)
}

// exec executes a statement, and reports whether it has changed a row.
func (s *SQLDirectory[K]) exec(ctx context.Context, query string, args ...any) (bool, error) {
	result, err := s.db.ExecContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// Insert adds the row p for k, if it has none; else it returns that, and an error that wraps ErrExists.
func (s *SQLDirectory[K]) Insert(ctx context.Context, k K, p Placement) (Placement, error) {
	args, err := s.values(p, k)
	if err != nil {
		return Placement{}, err
	}
	for range dirTries {
		done, err := s.exec(ctx, s.insert, args...)
		if err == nil && done {
			return p, nil
		}
		var there Placement
		if err == nil {
			there, err = s.row(ctx, k)
		}
		switch {
		case err == nil:
			return there, fmt.Errorf("shard: cannot insert %v into %s: %w", k, s.config.Table, ErrExists)
		case !errors.Is(err, ErrNotFound): // else it was deleted in between
			return Placement{}, fmt.Errorf("shard: cannot insert %v into %s: %w", k, s.config.Table, err)
		}
	}
	return Placement{}, fmt.Errorf("shard: cannot insert %v into %s: it was not inserted %d times, and was not there then; a trigger may refuse it", k, s.config.Table, dirTries)
}

// Update replaces the row of k by p, if its epoch is the given one.
func (s *SQLDirectory[K]) Update(ctx context.Context, k K, epoch uint64, p Placement) error {
	args, err := s.values(p, k, int64(epoch))
	if err != nil {
		return err
	}
	done, err := s.write(ctx, k, epoch, s.update, args)
	if err == nil && !done {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("shard: cannot update %v in %s: %w", k, s.config.Table, err)
	}
	return nil
}

// Delete removes the row of k, if its epoch is the given one.
func (s *SQLDirectory[K]) Delete(ctx context.Context, k K, epoch uint64) error {
	if _, err := s.write(ctx, k, epoch, s.remove, []any{k, int64(epoch)}); err != nil {
		return fmt.Errorf("shard: cannot delete %v from %s: %w", k, s.config.Table, err)
	}
	return nil
}

// write executes a statement that changes the row of k if it has an epoch, and reports whether there was
// one. If the row has another epoch it returns ErrStaleEpoch.
func (s *SQLDirectory[K]) write(ctx context.Context, k K, epoch uint64, query string, args []any) (bool, error) {
	if epoch <= math.MaxInt64 {
		if done, err := s.exec(ctx, query, args...); done || err != nil {
			return done, err
		}
	}
	there, err := s.row(ctx, k)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return false, fmt.Errorf("its epoch is %d, and not %d: %w", there.Epoch, epoch, ErrStaleEpoch)
}
