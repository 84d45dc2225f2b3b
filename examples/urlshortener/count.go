package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sysblocks/sysblocks/shard"
)

// A click is a redirect that was answered.
type click struct {
	Code     string `json:"c"`
	Day      int64  `json:"d"` // days since 1970
	Referrer string `json:"r,omitempty"`
}

const dayMillis = 24 * 60 * 60 * 1000

func dayOf(t time.Time) int64 { return t.UnixMilli() / dayMillis }

// A group is clicks that were recorded together. Its ID makes that it is counted once, however often it comes.
type clickGroup struct {
	ID     string  `json:"id"`
	Clicks []click `json:"clicks"`
}

// count adds groups to the counts, each once: if it returns an error, all of them can be counted again, and those
// whose counts were added already are passed over, shard by shard.
func (s *store) count(ctx context.Context, groups []clickGroup, now time.Time) error {
	byShard := map[shard.ID]map[string]map[click]int64{} // and by group
	for _, g := range groups {
		for _, c := range g.Clicks {
			id := s.router.Locate(c.Code).Shard
			if byShard[id] == nil {
				byShard[id] = map[string]map[click]int64{}
			}
			if byShard[id][g.ID] == nil {
				byShard[id][g.ID] = map[click]int64{}
			}
			byShard[id][g.ID][c]++
		}
	}
	if len(byShard) == 0 {
		return nil
	}
	// A shard that does not answer keeps no other from being counted, and the broker not from giving the groups to
	// somebody else later than ackWait.
	_, err := shard.Gather(ctx, slices.Sorted(maps.Keys(byShard)), shard.Policy{Concurrency: s.concurrency, PerShard: ackWait * 3 / 4}, func(ctx context.Context, id shard.ID) (struct{}, error) {
		return struct{}{}, s.countIn(ctx, id, byShard[id], now)
	})
	return err
}

// countIn adds what groups have for one shard, in one transaction.
func (s *store) countIn(ctx context.Context, id shard.ID, groups map[string]map[click]int64, now time.Time) error {
	db, err := s.db.Shard(id)
	if err != nil {
		return err
	}
	tx, err := db.Primary.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	// All in one order, so that two who count at the same time do not wait for each other.
	sum := map[click]int64{}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(groups)), rowsPerInsert) {
		fresh, err := apply(ctx, tx, ids, now)
		if err != nil {
			return err
		}
		for _, group := range fresh { // the others were counted
			for c, n := range groups[group] {
				sum[c] += n
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(sum), func(a, b click) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Referrer, b.Referrer))
	})
	for some := range slices.Chunk(keys, rowsPerInsert) {
		var args []any
		for _, c := range some {
			args = append(args, c.Code, c.Day, c.Referrer, sum[c])
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO clicks (code, day, referrer, n) VALUES `+rows(len(some), 4)+`
			ON CONFLICT (code, day, referrer) DO UPDATE SET n = clicks.n + excluded.n`, args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// rowsPerInsert is how many rows one statement adds: each statement is parsed, or takes a round trip.
const rowsPerInsert = 200

// rows returns ($1, $2), ($3, $4) and so on.
func rows(n, columns int) string {
	var b strings.Builder
	for i := range n * columns {
		b.WriteString([]string{", ", "("}[number(i%columns == 0)])
		fmt.Fprintf(&b, "$%d", i+1)
		if i%columns == columns-1 {
			b.WriteString([]string{"), ", ")"}[number(i == n*columns-1)])
		}
	}
	return b.String()
}

// apply notes that groups are counted, and returns those of which it was not noted before.
func apply(ctx context.Context, tx *sql.Tx, ids []string, now time.Time) (fresh []string, err error) {
	var args []any
	for _, id := range ids {
		args = append(args, id, now.UnixMilli())
	}
	added, err := tx.QueryContext(ctx, `INSERT INTO applied (id, at) VALUES `+rows(len(ids), 2)+` ON CONFLICT (id) DO NOTHING RETURNING id`, args...)
	if err != nil {
		return nil, err
	}
	defer added.Close()
	for added.Next() {
		var id string
		if err := added.Scan(&id); err != nil {
			return nil, err
		}
		fresh = append(fresh, id)
	}
	return fresh, added.Err()
}

// forget takes away what is known of groups that were counted before a time.
func (s *store) forget(ctx context.Context, before time.Time) error {
	_, err := shard.Gather(ctx, s.db.Shards(), shard.Policy{}, func(ctx context.Context, id shard.ID) (struct{}, error) {
		db, err := s.db.Shard(id)
		if err == nil {
			_, err = db.Primary.ExecContext(ctx, `DELETE FROM applied WHERE at < $1`, before.UnixMilli())
		}
		return struct{}{}, err
	})
	return err
}

// A tally is how often a link was followed.
type tally struct {
	Total     int64            `json:"total"`
	Days      map[string]int64 `json:"days"` // 2006-01-02
	Referrers map[string]int64 `json:"referrers"`
}

// clicks returns how often a link was followed, so far as it is counted.
func (s *store) clicks(ctx context.Context, code string) (tally, error) {
	t := tally{Days: map[string]int64{}, Referrers: map[string]int64{}}
	rows, err := s.db.Query(ctx, code, `SELECT day, referrer, n FROM clicks WHERE code = $1`, code)
	if err != nil {
		return tally{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var day, n int64
		var referrer string
		if err := rows.Scan(&day, &referrer, &n); err != nil {
			return tally{}, err
		}
		t.Total += n
		t.Days[time.UnixMilli(day*dayMillis).UTC().Format(time.DateOnly)] += n
		t.Referrers[referrer] += n
	}
	return t, rows.Err()
}

// totals returns how many links and clicks each shard has. Of shards that do not answer, the error says so.
func (s *store) totals(ctx context.Context) (map[shard.ID][2]int64, error) {
	replies, err := shard.Scatter(ctx, s.db, shard.Policy{PerShard: time.Second, MinSuccess: 1},
		`SELECT (SELECT COUNT(*) FROM links), (SELECT COALESCE(SUM(n), 0) FROM clicks)`, nil,
		func(rows *sql.Rows) (n [2]int64, err error) {
			if !rows.Next() {
				return n, errors.Join(rows.Err(), sql.ErrNoRows)
			}
			return n, rows.Scan(&n[0], &n[1])
		})
	all := map[shard.ID][2]int64{}
	for _, r := range replies {
		all[r.Shard] = r.Value
	}
	return all, err
}
