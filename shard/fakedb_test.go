package shard

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A fakeServer is a database in memory, for package sql: numbers by number. Its statements are
//
//	put K V        writes, and as a query returns K
//	get K          returns the number of K, if it has one
//	get more K     does so, and says that another result may follow
//	list [LIMIT]   returns K and its number for all, sorted
//
// and those of fakeStatements, which mean the same. It has a log of what was written, and can be a
// replica, which shows the beginning of another's.
type fakeServer struct {
	name string

	mu       sync.Mutex
	log      [][2]int64
	primary  *fakeServer // nil: it is one
	applied  int         // of a replica: how much of the log it shows
	timeline uint64

	// fail is asked before each operation: connect, exec, query, next, begin, commit, rollback;
	// written, replayed and beat of the probe, and told, when it has a position. It may block.
	fail func(ctx context.Context, op string) error
	// lose is asked when a commit, or a put outside of a transaction, has been done.
	lose func() error

	rows, txs, conns int      // that are open
	did              []string // the statements, with the name of the key
}

// fakeStatements are what the examples say instead.
var fakeStatements = map[string]string{
	"INSERT INTO scores (id, points) VALUES ($1, $2)":              "put",
	"INSERT INTO scores (id, points) VALUES ($1, $2) RETURNING id": "put",
	"UPDATE scores SET points = $2 WHERE id = $1":                  "put",
	"SELECT points FROM scores WHERE id = $1":                      "get",
	"SELECT id, points FROM scores ORDER BY id LIMIT $1":           "list",
	"SELECT epoch FROM parts WHERE part = $1 FOR SHARE":            "get",
	"UPDATE parts SET epoch = $2 WHERE part = $1":                  "put",
}

// fakeServers are those that examples open by their names: as sql.Open("example", "north"), and its
// replica as "replica of north", to which nothing ever comes.
var fakeServers = struct {
	sync.Mutex
	byName map[string]*fakeServer
}{byName: map[string]*fakeServer{}}

func init() { sql.Register("example", exampleDriver{}) }

type exampleDriver struct{}

func (exampleDriver) Open(name string) (driver.Conn, error) {
	fakeServers.Lock()
	defer fakeServers.Unlock()
	named := func(name string) *fakeServer {
		s := fakeServers.byName[name]
		if s == nil {
			s = &fakeServer{name: name, timeline: 1}
			fakeServers.byName[name] = s
		}
		return s
	}
	s := named(name)
	if of, ok := strings.CutPrefix(name, "replica of "); ok {
		s.primary = named(of)
	}
	return fakeConnector{s}.Connect(context.Background())
}

func (s *fakeServer) check(ctx context.Context, op string) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *fakeServer) setFail(f func(ctx context.Context, op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// stop lets everything fail as if the server were not there.
func (s *fakeServer) stop() {
	s.setFail(func(context.Context, string) error { return driver.ErrBadConn })
}

// hang lets everything wait for its context.
func (s *fakeServer) hang() {
	s.setFail(func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	})
}

// failAt lets the operations fail that are named.
func (s *fakeServer) failAt(err error, ops ...string) {
	s.setFail(func(_ context.Context, op string) error {
		if slices.Contains(ops, op) {
			return err
		}
		return nil
	})
}

// visible returns what a read sees, in the order of the keys.
func (s *fakeServer) visible() [][2]int64 {
	s.mu.Lock()
	log, n := s.log, len(s.log)
	primary := s.primary
	if primary != nil {
		n = s.applied
	}
	s.mu.Unlock()
	if primary != nil {
		primary.mu.Lock()
		log = primary.log
		primary.mu.Unlock()
	}
	last := map[int64]int64{}
	for _, w := range log[:n] {
		last[w[0]] = w[1]
	}
	var all [][2]int64
	for k, v := range last {
		all = append(all, [2]int64{k, v})
	}
	slices.SortFunc(all, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return all
}

// catchUp lets a replica show all that its primary has.
func (s *fakeServer) catchUp() {
	s.primary.mu.Lock()
	n, timeline := len(s.primary.log), s.primary.timeline
	s.primary.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.timeline = n, timeline
}

func (s *fakeServer) statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.did)
}

// open returns a database on the server, which is closed when the test ends; then nothing may be left
// open.
func (s *fakeServer) open(tb testing.TB) *sql.DB {
	d := sql.OpenDB(fakeConnector{s})
	tb.Cleanup(func() {
		d.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.rows != 0 || s.txs != 0 || s.conns != 0 {
			tb.Errorf("%s: left open: %d rows, %d transactions, %d connections", s.name, s.rows, s.txs, s.conns)
		}
	})
	return d
}

type fakeConnector struct{ s *fakeServer }

func (c fakeConnector) Driver() driver.Driver { return nil }

func (c fakeConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.s.check(ctx, "connect"); err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.conns++
	return &fakeConn{s: c.s}, nil
}

type fakeConn struct {
	s  *fakeServer
	tx *fakeTx
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not supported") }
func (c *fakeConn) Begin() (driver.Tx, error)           { return nil, errors.New("not supported") }

func (c *fakeConn) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.conns--
	return nil
}

type fakeTx struct {
	c     *fakeConn
	reads bool
	wrote [][2]int64
}

func (c *fakeConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.s.check(ctx, "begin"); err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.txs++
	c.tx = &fakeTx{c: c, reads: opts.ReadOnly}
	return c.tx, nil
}

func (t *fakeTx) end() {
	t.c.s.mu.Lock()
	defer t.c.s.mu.Unlock()
	t.c.s.txs--
	t.c.tx = nil
}

func (t *fakeTx) Commit() error {
	defer t.end()
	if err := t.c.s.check(context.Background(), "commit"); err != nil {
		return err
	}
	return t.c.s.write(t.wrote...)
}

func (t *fakeTx) Rollback() error {
	defer t.end()
	return t.c.s.check(context.Background(), "rollback")
}

var errReadOnly = errors.New("cannot write in a read-only transaction")

// write appends to the log.
func (s *fakeServer) write(w ...[2]int64) error {
	if len(w) == 0 {
		return nil
	}
	s.mu.Lock()
	if s.primary != nil {
		s.mu.Unlock()
		return errReadOnly
	}
	s.log = append(s.log, w...)
	lose := s.lose
	s.mu.Unlock()
	if lose != nil {
		return lose()
	}
	return nil
}

func (c *fakeConn) put(args []driver.NamedValue) error {
	w := [2]int64{args[0].Value.(int64), args[1].Value.(int64)}
	if c.tx == nil {
		return c.s.write(w)
	}
	if c.tx.reads {
		return errReadOnly
	}
	c.tx.wrote = append(c.tx.wrote, w)
	return nil
}

func (c *fakeConn) noted(query string, args []driver.NamedValue) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, a := range args {
		query += fmt.Sprint(" ", a.Value)
	}
	c.s.did = append(c.s.did, query)
}

func (c *fakeConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.s.check(ctx, "exec"); err != nil {
		return nil, err
	}
	c.noted(query, args)
	if q, ok := fakeStatements[query]; ok {
		query = q
	}
	if query != "put" {
		return nil, fmt.Errorf("syntax error in %q", query)
	}
	if err := c.put(args); err != nil {
		return nil, err
	}
	return driver.RowsAffected(1), nil
}

func (c *fakeConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.s.check(ctx, "query"); err != nil {
		return nil, err
	}
	c.noted(query, args)
	if q, ok := fakeStatements[query]; ok {
		query = q
	}
	r := &fakeRows{s: c.s, ctx: ctx}
	switch query {
	case "get", "get more":
		r.columns = []string{"v"}
		all := c.s.visible()
		if c.tx != nil {
			all = append(all, c.tx.wrote...)
		}
		for _, kv := range slices.Backward(all) {
			if kv[0] == args[0].Value.(int64) {
				r.values = [][]driver.Value{{kv[1]}}
				break
			}
		}
	case "list":
		r.columns = []string{"k", "v"}
		for _, kv := range c.s.visible() {
			if len(args) == 0 || int64(len(r.values)) < args[0].Value.(int64) {
				r.values = append(r.values, []driver.Value{kv[0], kv[1]})
			}
		}
	case "put":
		if err := c.put(args); err != nil {
			return nil, err
		}
		r.columns = []string{"k"}
		r.values = [][]driver.Value{{args[0].Value}}
	default:
		return nil, fmt.Errorf("syntax error in %q", query)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.rows++
	if query == "get more" {
		return moreRows{r}, nil
	}
	return r, nil
}

type fakeRows struct {
	s       *fakeServer
	ctx     context.Context
	columns []string
	values  [][]driver.Value
	closed  bool
}

func (r *fakeRows) Columns() []string { return r.columns }

func (r *fakeRows) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.s.mu.Lock()
	r.s.rows--
	r.s.mu.Unlock()
	return r.s.check(context.Background(), "close")
}

func (r *fakeRows) Next(dest []driver.Value) error {
	if err := r.s.check(r.ctx, "next"); err != nil {
		return err
	}
	if len(r.values) == 0 {
		return io.EOF
	}
	copy(dest, r.values[0])
	r.values = r.values[1:]
	return nil
}

// moreRows are not at their end when there are no more rows: package sql closes them only when it is told.
type moreRows struct{ *fakeRows }

func (moreRows) HasNextResultSet() bool { return true }
func (moreRows) NextResultSet() error   { return io.EOF }

// A fakeProbe is the LagProbe of fakeServers. Of replicas of a timeline it tells the one that they have
// seen.
type fakeProbe struct{ servers map[*sql.DB]*fakeServer }

var errNotAReplica = errors.New("not a replica")

func (p fakeProbe) Written(ctx context.Context, d *sql.DB) (Position, error) {
	s := p.servers[d]
	if err := s.check(ctx, "written"); err != nil {
		return Position{}, err
	}
	s.mu.Lock()
	pos := Position{1, s.timeline, uint64(len(s.log))}
	s.mu.Unlock()
	return pos, s.check(ctx, "told")
}

func (p fakeProbe) Replayed(ctx context.Context, d *sql.DB) (Position, error) {
	s := p.servers[d]
	if err := s.check(ctx, "replayed"); err != nil {
		return Position{}, err
	}
	s.mu.Lock()
	pos, follows := Position{1, s.timeline, uint64(s.applied)}, s.primary != nil
	s.mu.Unlock()
	if !follows {
		return Position{}, errNotAReplica
	}
	return pos, s.check(ctx, "told")
}

func (p fakeProbe) Beat(ctx context.Context, d *sql.DB) error {
	s := p.servers[d]
	if err := s.check(ctx, "beat"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, [2]int64{-1, int64(len(s.log))})
	return nil
}

// A fakeCluster is shards with primaries and replicas.
type fakeCluster struct {
	primaries map[ID]*fakeServer
	replicas  map[ID][]*fakeServer
	groups    map[ID]Group
	probe     fakeProbe
}

// newFakeCluster returns shards with as many replicas each, which have a probe.
func newFakeCluster(tb testing.TB, replicas int, ids ...ID) *fakeCluster {
	c := &fakeCluster{map[ID]*fakeServer{}, map[ID][]*fakeServer{}, map[ID]Group{}, fakeProbe{map[*sql.DB]*fakeServer{}}}
	for _, id := range ids {
		p := &fakeServer{name: string(id), timeline: 1}
		c.primaries[id] = p
		g := Group{Primary: p.open(tb), Probe: c.probe}
		c.probe.servers[g.Primary] = p
		for i := range replicas {
			r := &fakeServer{name: fmt.Sprint(id, "-", i), primary: p, timeline: 1}
			d := r.open(tb)
			c.probe.servers[d] = r
			c.replicas[id] = append(c.replicas[id], r)
			g.Replicas = append(g.Replicas, Replica{Name: fmt.Sprint("r", i), DB: d})
		}
		c.groups[id] = g
	}
	return c
}

// A fakeRouter routes by what it is told, and otherwise by the remainder of the key.
type fakeRouter struct {
	ids []ID

	mu  sync.Mutex
	set map[int64]Placement
	err error
}

func (r *fakeRouter) Route(_ context.Context, k int64) (Placement, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return Placement{}, r.err
	}
	if p, ok := r.set[k]; ok {
		return p, nil
	}
	i := int(uint64(k) % uint64(len(r.ids)))
	return Placement{Shard: r.ids[i], Part: PartID(i), Epoch: 1}, nil
}

func (r *fakeRouter) Shards() []ID { return slices.Clone(r.ids) }

func (r *fakeRouter) place(k int64, p Placement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		r.set = map[int64]Placement{}
	}
	r.set[k] = p
}
