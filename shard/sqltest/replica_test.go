//go:build servers

package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
	"github.com/sysblocks/sysblocks/shard"
)

// One is a Router to the only shard.
type one struct{}

func (one) Route(context.Context, string) (shard.Placement, error) {
	return shard.Placement{Shard: "one"}, nil
}

// A cluster is a primary and replicas that stream from it.
type cluster struct {
	primary  *pgserver.Server
	replicas []*pgserver.Server
	group    shard.Group
}

// startCluster starts a cluster, which has a table in which the number of "k" is 0.
func startCluster(t *testing.T, replicas int, settings ...string) *cluster {
	t.Helper()
	cl := &cluster{primary: pgserver.Start(t, settings...)}
	cl.group = shard.Group{Primary: openPostgres(t, cl.primary), Probe: shard.PostgresProbe(shard.PostgresConfig{})}
	for _, statement := range []string{`CREATE TABLE n (k varchar(50) PRIMARY KEY, v bigint NOT NULL)`, `INSERT INTO n VALUES ('k', 0)`} {
		_, err := cl.group.Primary.Exec(statement)
		require.NoError(t, err)
	}
	for i := range replicas {
		r := cl.primary.Replica(t)
		cl.replicas = append(cl.replicas, r)
		cl.group.Replicas = append(cl.group.Replicas, shard.Replica{Name: fmt.Sprint("r", i), DB: openPostgres(t, r)})
	}
	return cl
}

// open returns a DB on the cluster, as if it were that of another process.
func (c *cluster) open(t *testing.T, config shard.SQLConfig) *shard.DB[string] {
	t.Helper()
	db, err := shard.OpenSQL(one{}, map[shard.ID]shard.Group{"one": c.group}, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// set writes the number of "k".
func set(ctx context.Context, t *testing.T, db *shard.DB[string], v int64) {
	t.Helper()
	_, err := db.Exec(ctx, "k", `UPDATE n SET v = $1 WHERE k = 'k'`, v)
	require.NoError(t, err)
}

// get returns the number of "k", and whether it comes from a replica.
func get(ctx context.Context, t *testing.T, db *shard.DB[string]) (v int64, replica bool) {
	t.Helper()
	require.NoError(t, db.QueryRow(ctx, "k", `SELECT v, pg_is_in_recovery() FROM n WHERE k = 'k'`).Scan(&v, &replica))
	return v, replica
}

// pause stops the replay of a replica, and returns when it stands still.
func (c *cluster) pause(t *testing.T, i int) {
	t.Helper()
	d := c.group.Replicas[i].DB
	_, err := d.Exec(`SELECT pg_wal_replay_pause()`)
	require.NoError(t, err)
	eventually(t, "the replay is paused", func() bool {
		var state string
		require.NoError(t, d.QueryRow(`SELECT pg_get_wal_replay_pause_state()`).Scan(&state))
		return state == "paused"
	})
}

func (c *cluster) resume(t *testing.T, i int) {
	t.Helper()
	_, err := c.group.Replicas[i].DB.Exec(`SELECT pg_wal_replay_resume()`)
	require.NoError(t, err)
}

// only returns the cluster with one of the replicas.
func (c *cluster) only(i int) *cluster {
	o := *c
	o.replicas, o.group.Replicas = c.replicas[i:i+1], c.group.Replicas[i:i+1]
	return &o
}

// long is a wait that does not end in a test, unless it is in vain.
const long = bound

// What holds with two replicas that stream from a primary; the last part changes which is which.
func TestReplicas(t *testing.T) {
	c := startCluster(t, 2)
	t.Run("ReadYourWrites", func(t *testing.T) { testReadYourWrites(t, c.only(0)) })
	t.Run("BoundedStaleness", func(t *testing.T) { testBoundedStaleness(t, c.only(1)) })
	t.Run("Privileges", func(t *testing.T) { testPrivileges(t, c) })
	t.Run("WrongReplica", func(t *testing.T) { testWrongReplica(t, c) })
	t.Run("PageBoundary", func(t *testing.T) { testPageBoundary(t, c) })
	for _, consistency := range []shard.Consistency{shard.Eventual, shard.ReadYourWrites, shard.BoundedStaleness(time.Second)} {
		t.Run("Killed/"+consistency.String(), func(t *testing.T) { testKilled(t, c, consistency) })
	}
	t.Run("Conflict", func(t *testing.T) { testConflict(t, c) })
	t.Run("Failover", func(t *testing.T) { testFailover(t, c) })
}

// What the primary has acknowledged, and not sent, as it is not written to its disk.
func TestUnsent(t *testing.T) {
	c := startCluster(t, 1, "synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=1GB", "bgwriter_delay=10s")
	t.Run("Commits", func(t *testing.T) { testUnsentCommits(t, c) })
	t.Run("Idle", func(t *testing.T) { testIdle(t, c) })
}

func testReadYourWrites(t *testing.T, c *cluster) {
	db := c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: 50 * time.Millisecond})
	ctx := t.Context()
	patient := c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: long})
	_, replica := get(ctx, t, db)
	require.False(t, replica, "there is no session")

	mine := shard.WithSession(ctx)
	_, replica = get(mine, t, db)
	require.True(t, replica, "nothing was written")
	for i := range int64(20) {
		set(mine, t, patient, i)
		v, replica := get(mine, t, patient)
		require.Equal(t, i, v)
		require.True(t, replica, "it has waited")
	}

	// What does not come.
	c.pause(t, 0)
	set(mine, t, db, 100)
	v, replica := get(mine, t, db)
	require.EqualValues(t, 100, v)
	require.False(t, replica)
	v, replica = get(shard.WithSession(ctx), t, db)
	require.EqualValues(t, 19, v, "of another session")
	require.True(t, replica)
	v, _ = get(shard.WithConsistency(mine, shard.Eventual), t, db)
	require.EqualValues(t, 19, v)
	// The session goes on in another process.
	next, err := shard.WithSessionToken(ctx, shard.SessionToken(mine))
	require.NoError(t, err)
	v, replica = get(next, t, c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites}))
	require.EqualValues(t, 100, v)
	require.False(t, replica)
	// A replica that stands still is not waited for each time.
	waits := db.Stats()[0].Waits
	for range 20 {
		_, replica = get(mine, t, db)
		require.False(t, replica)
	}
	require.LessOrEqual(t, db.Stats()[0].Waits-waits, int64(2))
	// Transactions, rows that are returned, and all shards at once.
	inTx := func(opts *sql.TxOptions, statement string) (v int64, replica bool) {
		require.NoError(t, db.InTx(mine, "k", opts, func(tx *shard.Tx[string]) error {
			return tx.QueryRow(mine, "k", statement).Scan(&v, &replica)
		}))
		return v, replica
	}
	_, replica = inTx(nil, `UPDATE n SET v = 101 WHERE k = 'k' RETURNING v, false`)
	require.False(t, replica)
	v, replica = inTx(&sql.TxOptions{ReadOnly: true}, `SELECT v, pg_is_in_recovery() FROM n`)
	require.EqualValues(t, 101, v)
	require.False(t, replica)
	require.NoError(t, db.ExecRow(mine, "k", `UPDATE n SET v = 102 WHERE k = 'k' RETURNING v`).Scan(&v))
	replies, err := shard.Scatter(mine, db, shard.Policy{}, `SELECT v FROM n`, nil, scanCount)
	require.NoError(t, err)
	require.EqualValues(t, 102, replies[0].Value)

	c.resume(t, 0)
	eventually(t, "the replica has it", func() bool {
		v, replica := get(mine, t, db)
		require.EqualValues(t, 102, v)
		return replica
	})
	v, replica = inTx(&sql.TxOptions{ReadOnly: true}, `SELECT v, pg_is_in_recovery() FROM n`)
	require.EqualValues(t, 102, v)
	require.True(t, replica)
}

func testUnsentCommits(t *testing.T, c *cluster) {
	db := c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: 20 * time.Millisecond, Heartbeat: time.Hour})
	mine := shard.WithSession(t.Context())
	behind := 0
	for i := range int64(20) {
		set(mine, t, db, i)
		var flushed bool
		require.NoError(t, c.group.Primary.QueryRow(`SELECT pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()`).Scan(&flushed))
		v, replica := get(mine, t, db)
		require.Equal(t, i, v)
		if !flushed && !replica {
			behind++
		}
	}
	require.Positive(t, behind, "there were some")
	// A heartbeat sends them.
	patient := c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: long})
	set(mine, t, patient, 100)
	v, replica := get(mine, t, patient)
	require.EqualValues(t, 100, v)
	require.True(t, replica)
}

func testBoundedStaleness(t *testing.T, c *cluster) {
	db := c.open(t, shard.SQLConfig{Consistency: shard.BoundedStaleness(time.Hour), MaxWait: long})
	ctx := t.Context()
	set(ctx, t, db, 1)
	v, replica := get(ctx, t, db)
	require.EqualValues(t, 1, v, "it has all that was written when it was asked for")
	require.True(t, replica)

	c.pause(t, 0)
	set(ctx, t, db, 2)
	v, replica = get(ctx, t, db)
	require.EqualValues(t, 1, v, "which may be an hour old")
	require.True(t, replica)
	short := shard.WithConsistency(ctx, shard.BoundedStaleness(100*time.Millisecond))
	eventually(t, "it is too old", func() bool {
		v, replica := get(short, t, db)
		return v == 2 && !replica
	})
	for range 100 { // and does not get younger
		v, replica := get(short, t, db)
		require.EqualValues(t, 2, v)
		require.False(t, replica)
	}
	lag := db.Stats()[0].Replicas[0].Lag
	require.Greater(t, lag, 100*time.Millisecond)
	c.resume(t, 0)
	eventually(t, "it is young enough", func() bool {
		v, replica := get(short, t, db)
		require.EqualValues(t, 2, v)
		return replica
	})
}

// A primary that is idle is asked, and written to when needed, and its replicas do not look stale.
func testIdle(t *testing.T, c *cluster) {
	const staleness = 100 * time.Millisecond
	ctx := t.Context()
	// read reads until that has gone on for longer than staleness, and then returns when a replica is
	// read.
	read := func(db *shard.DB[string]) {
		t.Helper()
		start := time.Now()
		eventually(t, "a replica is read", func() bool {
			_, replica := get(ctx, t, db)
			return replica && time.Since(start) > 3*staleness
		})
	}
	db := c.open(t, shard.SQLConfig{Consistency: shard.BoundedStaleness(staleness), MaxWait: long, Heartbeat: 10 * time.Millisecond})
	require.NoError(t, c.group.Probe.Beat(ctx, c.group.Primary)) // so that nothing is left over
	read(db)
	require.Zero(t, db.Stats()[0].Heartbeats, "the replica has everything")

	// A transaction that is open leaves something in the log that is not sent.
	tx, err := c.group.Primary.BeginTx(ctx, nil)
	require.NoError(t, err)
	defer tx.Rollback()
	unsent := func(of int) {
		t.Helper()
		_, err := tx.Exec(`INSERT INTO n SELECT 'x' || i, i FROM generate_series($1::int, $1::int + 2) i`, 3*of)
		require.NoError(t, err)
		var behind bool
		require.NoError(t, c.group.Primary.QueryRow(`SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()`).Scan(&behind))
		require.True(t, behind)
	}
	var before, after sql.NullTime
	const replayed = `SELECT pg_last_xact_replay_timestamp()`
	require.NoError(t, c.group.Replicas[0].DB.QueryRow(replayed).Scan(&before))
	unsent(0)
	read(db)
	require.Positive(t, db.Stats()[0].Heartbeats)
	require.NoError(t, db.Stats()[0].HeartbeatErr)
	require.NoError(t, c.group.Replicas[0].DB.QueryRow(replayed).Scan(&after))
	require.NotEqual(t, before, after, "others can see the heartbeat, too")

	// Without heartbeats it does look stale, and stays so.
	group := c.group
	group.Probe = shard.PostgresProbe(shard.PostgresConfig{NoHeartbeat: true})
	silent, err := shard.OpenSQL(one{}, map[shard.ID]shard.Group{"one": group}, shard.SQLConfig{Consistency: shard.BoundedStaleness(staleness), MaxWait: 10 * time.Millisecond})
	require.NoError(t, err)
	unsent(1)
	start := time.Now()
	eventually(t, "it looks stale", func() bool {
		_, replica := get(ctx, t, silent)
		return !replica && time.Since(start) > 2*staleness
	})
	for range 50 {
		_, replica := get(ctx, t, silent)
		require.False(t, replica)
	}
}

// Replicas die while they are read, and come back.
func testKilled(t *testing.T, c *cluster, consistency shard.Consistency) {
	db := c.open(t, shard.SQLConfig{Consistency: consistency, ProbeInterval: 20 * time.Millisecond})
	var reads atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(chan struct{})
	defer close(stop)
	for i := range 4 {
		wg.Go(func() {
			ctx := shard.WithSession(t.Context())
			key := fmt.Sprint("key", i)
			for n := int64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%4 == 0 {
					if _, err := db.Exec(ctx, key, `INSERT INTO n VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = $2`, key, n/4); err != nil {
						t.Error(err)
						return
					}
				}
				var v int64
				err := db.QueryRow(ctx, key, `SELECT v FROM n WHERE k = $1`, key).Scan(&v)
				if err != nil && (consistency == shard.ReadYourWrites || !errors.Is(err, sql.ErrNoRows)) {
					t.Error(err)
					return
				}
				if consistency == shard.ReadYourWrites && v != n/4 {
					t.Errorf("got %d, want %d", v, n/4)
					return
				}
				reads.Add(1)
			}
		})
	}
	progress := func(what string, ok func() bool) {
		from := reads.Load()
		eventually(t, what, func() bool { return reads.Load() > from+50 && ok() || t.Failed() })
	}
	stats := func() shard.GroupStats { return db.Stats()[0] }
	progress("both are read", func() bool { return stats().Replicas[0].Reads > 20 && stats().Replicas[1].Reads > 20 })
	c.replicas[0].Kill()
	progress("it has failed", func() bool { return stats().Replicas[0].ProbeErr != nil })
	before := stats()
	progress("the other is read", func() bool { return stats().Replicas[1].Reads > before.Replicas[1].Reads+20 })
	c.replicas[1].Kill()
	progress("it has failed, too", func() bool { return stats().Replicas[1].ProbeErr != nil })
	before = stats()
	progress("the primary is read", func() bool { return stats().PrimaryReads > before.PrimaryReads+20 })
	before = stats()
	for i := range c.replicas {
		c.replicas[i].Run(t)
		progress("it is read again", func() bool { return stats().Replicas[i].Reads > before.Replicas[i].Reads+20 })
	}
}

// A replica cancels a statement that its replication would have to wait for: then the primary executes it.
func testConflict(t *testing.T, c *cluster) {
	hasty := *c
	r := c.primary.Replica(t, "max_standby_streaming_delay=0")
	hasty.group.Replicas = []shard.Replica{{Name: "hasty", DB: openPostgres(t, r)}}
	db := hasty.open(t, shard.SQLConfig{Consistency: shard.Eventual})
	var wg sync.WaitGroup
	wg.Go(func() {
		var v int64
		replica := true
		err := db.QueryRow(t.Context(), "k", `SELECT v, pg_is_in_recovery()
			FROM n, pg_sleep(CASE WHEN pg_is_in_recovery() THEN 60 ELSE 0 END) WHERE k = 'k'`).Scan(&v, &replica)
		if err != nil || replica {
			t.Errorf("got %v, %v", replica, err)
		}
	})
	defer wg.Wait()
	eventually(t, "the statement is executed", func() bool {
		var n int
		require.NoError(t, hasty.group.Replicas[0].DB.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'`).Scan(&n))
		return n == 1
	})
	for _, statement := range []string{`ALTER TABLE n ADD COLUMN x int`, `ALTER TABLE n DROP COLUMN x`} {
		_, err := c.group.Primary.Exec(statement)
		require.NoError(t, err)
	}
	wg.Wait()
	require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Failures)
}

// A replica becomes the primary. What is known of positions is not confused by it.
func testFailover(t *testing.T, c *cluster) {
	r := c.primary.Replica(t)
	c.replicas = append(c.replicas, r)
	c.group.Replicas = append(c.group.Replicas, shard.Replica{Name: "r2", DB: openPostgres(t, r)})
	db := c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: 50 * time.Millisecond})
	ctx := t.Context()
	mine := shard.WithSession(ctx)
	set(mine, t, db, 1)
	probe := c.group.Probe
	old, err := probe.Written(ctx, c.group.Primary)
	require.NoError(t, err)
	for i := range 3 {
		eventually(t, "it has been replayed", func() bool {
			p, err := probe.Replayed(ctx, c.group.Replicas[i].DB)
			require.NoError(t, err)
			return p.Covers(old)
		})
	}
	// The replica 1 gets what neither 0 nor 2 do, which is then lost; so its log is not that of the
	// others.
	c.replicas[0].Stop()
	c.replicas[2].Stop()
	for i := range int64(20) {
		set(mine, t, db, 100+i)
	}
	lost, err := probe.Written(ctx, c.group.Primary)
	require.NoError(t, err)
	eventually(t, "it has been replayed", func() bool {
		p, err := probe.Replayed(ctx, c.group.Replicas[1].DB)
		require.NoError(t, err)
		return p.Covers(lost)
	})
	c.primary.Kill()
	c.replicas[0].Run(t)
	c.replicas[0].Promote(t)
	for _, i := range []int{1, 2} { // which 1 cannot, but it tries
		c.replicas[i].Stop()
		c.replicas[i].Follow(t, c.replicas[0])
		c.replicas[i].Run(t)
	}

	c.group.Primary = c.group.Replicas[0].DB
	c.group.Replicas = c.group.Replicas[1:]
	for _, r := range c.group.Replicas {
		r.DB.SetMaxIdleConns(-1)
	}
	db = c.open(t, shard.SQLConfig{Consistency: shard.ReadYourWrites, MaxWait: long})
	yours := shard.WithSession(ctx)
	set(yours, t, db, 2)
	written, err := probe.Written(ctx, c.group.Primary)
	require.NoError(t, err)
	require.Equal(t, old.Timeline+1, written.Timeline)
	require.Less(t, written.Offset, lost.Offset, "by its offset, the replica of the old timeline has it")
	at, err := probe.Replayed(ctx, c.group.Replicas[0].DB)
	require.NoError(t, err)
	require.True(t, at.Offset >= written.Offset && !at.Covers(written))
	start := time.Now()
	eventually(t, "they have tried", func() bool {
		v, replica := get(yours, t, db)
		require.EqualValues(t, 2, v)
		require.True(t, replica, "of the new timeline")
		return time.Since(start) > 500*time.Millisecond
	})
	stats := db.Stats()[0].Replicas
	require.Zero(t, stats[0].Reads, "of the old timeline")
	require.Positive(t, stats[1].Reads)
	// The primary that was a replica is none, if somebody still takes it for one.
	_, err = probe.Replayed(ctx, c.group.Primary)
	require.EqualError(t, err, "shard: position of a replica: it is not in recovery")
	_, err = probe.Written(ctx, c.group.Replicas[0].DB)
	require.Error(t, err)
	// A session from before goes on: its first write in the new timeline counts.
	set(mine, t, db, 3)
	v, _ := get(mine, t, db)
	require.EqualValues(t, 3, v)
}

// A replica of another shard, by a mistake in the configuration.
func testWrongReplica(t *testing.T, c *cluster) {
	mistaken := startCluster(t, 0)
	mistaken.group.Replicas = c.group.Replicas // which are further by the offset
	for _, consistency := range []shard.Consistency{shard.ReadYourWrites, shard.BoundedStaleness(time.Minute)} {
		db := mistaken.open(t, shard.SQLConfig{Consistency: consistency, MaxWait: 20 * time.Millisecond})
		mine := shard.WithSession(t.Context())
		set(mine, t, db, 5)
		v, replica := get(mine, t, db)
		require.EqualValues(t, 5, v)
		require.False(t, replica)
	}
}

// The next record can only go behind the header of a page that nobody has begun. The replica has
// everything then, but is not there.
func testPageBoundary(t *testing.T, c *cluster) {
	ctx := t.Context()
	conn, err := c.group.Primary.Conn(ctx)
	require.NoError(t, err)
	defer conn.Close()
	lsn := func() (n int64) {
		require.NoError(t, conn.QueryRowContext(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&n))
		return n
	}
	emit := func(n int64) {
		_, err := conn.ExecContext(ctx, `SELECT pg_logical_emit_message(false, '', repeat('x', $1))`, n)
		require.NoError(t, err)
	}
	from := lsn()
	emit(1000)
	overhead := lsn() - from - 1000 // unless there is a header in between
	eventually(t, "a page is full", func() bool {
		for {
			left := 8192 - lsn()%8192
			if left < 2000 && left > 500 {
				emit(left - overhead)
				break
			}
			emit(min(left, 1000))
		}
		if lsn()%8192 != 24 {
			emit(1001)
			from = lsn()
			emit(1000)
			overhead = lsn() - from - 1000
			return false
		}
		written, err := c.group.Probe.Written(ctx, c.group.Primary)
		require.NoError(t, err)
		// The page is full, so it is sent, and nothing comes after it.
		eventually(t, "the replica has everything", func() bool {
			at, err := c.group.Probe.Replayed(ctx, c.group.Replicas[0].DB)
			require.NoError(t, err)
			return at.Covers(written)
		})
		return uint64(lsn()) == written.Offset+24 // or the server has written something of its own
	})
}

// Users without privileges, and without rights in the database.
func testPrivileges(t *testing.T, c *cluster) {
	ctx := t.Context()
	_, err := c.group.Primary.Exec(`CREATE ROLE nobody LOGIN`)
	require.NoError(t, err)
	_, err = c.group.Primary.Exec(`REVOKE ALL ON SCHEMA public FROM PUBLIC`)
	require.NoError(t, err)
	as := func(s *pgserver.Server) *sql.DB {
		d, err := sql.Open("pgx", strings.Replace(s.URL("postgres"), "user=postgres", "user=nobody", 1))
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		return d
	}
	primary, replica := as(c.primary), as(c.replicas[0])
	probe := shard.PostgresProbe(shard.PostgresConfig{})
	written, err := probe.Written(ctx, primary)
	require.NoError(t, err)
	require.NoError(t, probe.Beat(ctx, primary))
	eventually(t, "it has been replayed", func() bool {
		at, err := probe.Replayed(ctx, replica)
		if err != nil {
			require.ErrorContains(t, err, `role "nobody" does not exist`)
			return false
		}
		return at.Covers(written)
	})
}
