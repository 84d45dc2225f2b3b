package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// A PostgresConfig configures a PostgresProbe. The zero value is good.
type PostgresConfig struct {
	_ struct{}

	// NoHeartbeat is set if the probe must not write anything. Then replicas of a primary that is idle
	// can look stale for a while; see PostgresProbe.
	NoHeartbeat bool
	// Prefix is that of the heartbeats, by which consumers of logical replication know them.
	// "": "sysblocks/shard".
	Prefix string
}

// PostgresProbe returns a LagProbe for PostgreSQL 13 or later with streaming replication. It can be
// that of several groups, and its users need no privileges; but those of replicas learn of a change of
// the primary at once only if they are in pg_read_all_stats, and otherwise with the next restart point
// of the replica. It does so by any driver, also through a pooler that gives each statement another
// connection.
//
// A Position has the system identifier of the cluster as Source, so that a replica of another cluster
// is never taken for one of this; the timeline; and as Offset the number of bytes that were ever
// written to the write-ahead log (the LSN). That of the primary is where the next record will go to: it
// is behind the commits that are not on its disk yet, as with synchronous_commit off. A database that
// is not in recovery, because it was promoted, is no replica any more.
//
// What the log has behind the last commit, such as the changes of a transaction that is open, a primary
// that is idle may not write out for 15 seconds or longer, and replicas lack it so long. The heartbeat
// is a transaction with a logical message, which writes it out: it needs no table and changes nothing,
// takes about 120 bytes of the log and a transaction ID, waits for the primary's disk but for no
// replica, and is sent only when it is needed, at most once in SQLConfig.Heartbeat.
func PostgresProbe(c PostgresConfig) LagProbe {
	if c.Prefix == "" {
		c.Prefix = "sysblocks/shard"
	}
	return &postgresProbe{c}
}

type postgresProbe struct{ c PostgresConfig }

// The functions return an LSN as such; its distance from the first is a number. The name of a file of
// the log begins with its timeline. pg_control_checkpoint has that of the last checkpoint, which after
// a promotion is not the present one.
const postgresWritten = `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint,
	('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint,
	system_identifier,
	current_setting('wal_block_size')::bigint,
	pg_size_bytes(current_setting('wal_segment_size'))
FROM pg_control_system()`

// Nothing tells the timeline of what was replayed last. All of these are at most that, or that of the
// log which is received; and a replica receives that of a timeline only if all it has replayed belongs
// to it.
const postgresReplayed = `SELECT pg_is_in_recovery(),
	coalesce((pg_last_wal_replay_lsn() - '0/0')::bigint, 0),
	greatest(c.timeline_id, r.min_recovery_end_timeline, (SELECT received_tli FROM pg_stat_wal_receiver))::bigint,
	system_identifier
FROM pg_control_system(), pg_control_checkpoint() c, pg_control_recovery() r`

// Written is that of LagProbe.
func (p *postgresProbe) Written(ctx context.Context, primary *sql.DB) (Position, error) {
	var offset, timeline, source, block, segment int64
	err := primary.QueryRowContext(ctx, postgresWritten).Scan(&offset, &timeline, &source, &block, &segment)
	if err != nil {
		return Position{}, fmt.Errorf("shard: position of the primary: %w", err)
	}
	if block <= 0 || segment <= 0 {
		return Position{}, fmt.Errorf("shard: position of the primary: blocks of %d bytes in segments of %d", block, segment)
	}
	return Position{uint64(source), uint64(timeline), behindPage(uint64(offset), uint64(block), uint64(segment))}, nil
}

// behindPage returns an LSN, but the end of a page for the place behind the header of the next, which
// is empty. It is there that the next record goes to when the last one has filled its page; but a
// replica that has replayed that has replayed up to the end of the page, and would look as if it lacked
// something until another record comes.
func behindPage(lsn, block, segment uint64) uint64 {
	const short, long = 24, 40 // the size of the headers: in the first page of a segment it is long
	if lsn%segment == long {
		return lsn - long
	}
	if lsn%block == short && lsn%segment != short {
		return lsn - short
	}
	return lsn
}

// errNoReplica is returned of a database that follows nobody.
var errNoReplica = errors.New("shard: position of a replica: it is not in recovery")

// Replayed is that of LagProbe.
func (p *postgresProbe) Replayed(ctx context.Context, replica *sql.DB) (Position, error) {
	var recovering bool
	var offset, timeline, source int64
	err := replica.QueryRowContext(ctx, postgresReplayed).Scan(&recovering, &offset, &timeline, &source)
	if err != nil {
		return Position{}, fmt.Errorf("shard: position of a replica: %w", err)
	}
	if !recovering {
		return Position{}, errNoReplica
	}
	return Position{uint64(source), uint64(timeline), uint64(offset)}, nil
}

// Beat is that of LagProbe. A setting that is local to the transaction is in force when it commits:
// "local" waits for this server's disk, which also sends what is in the log, and not for replicas that
// may be away.
func (p *postgresProbe) Beat(ctx context.Context, primary *sql.DB) error {
	if p.c.NoHeartbeat {
		return nil
	}
	const beat = `SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, $1::text, '')`
	rows, err := primary.QueryContext(ctx, beat, p.c.Prefix)
	if err == nil {
		err = rows.Close()
	}
	if err != nil {
		return fmt.Errorf("shard: heartbeat: %w", err)
	}
	return nil
}
