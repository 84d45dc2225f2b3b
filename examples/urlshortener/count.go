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

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

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

// A clickGroup is clicks that were recorded together. Its run and its number make that it is counted once, however
// often it comes: groups are numbered 1, 2, 3 and so on within one run of a process, which has a random name.
type clickGroup struct {
	Run    string  `json:"run"`
	Number uint64  `json:"n"`
	Clicks []click `json:"clicks"`
}

func (g clickGroup) id() string { return fmt.Sprint(g.Run, "-", g.Number) }

// blockGroups is how many groups have a row together in which it is noted, by a bit for each, that they are counted.
// A group that is being counted for the first time has its bit beside those before it: so a batch changes a row or two,
// and of a thousand groups a second there are eight million rows after a year.
const blockGroups = 4096

// A block is the groups of a run that have a row together.
type block struct {
	run    string
	number int64
}

func (g clickGroup) block() block { return block{g.Run, int64(g.Number / blockGroups)} }

// keepCounted is for how long it is known that a group was counted, after the last one of its block. Groups come for
// the first time within moments, and again if it is not known whether the broker, or the database, had them: a week
// later if a database was away for so long, and after months from the spool of a process that nobody started. Of what
// comes even later, a group that was counted long ago would be counted once more; one that was not is counted all the
// same, so that nothing is lost.
const keepCounted = 365 * 24 * time.Hour

// A refusal is a group that a shard does not take, though it takes others.
type refusal struct {
	group clickGroup
	err   error
}

// count adds groups to the counts, each once: if it returns an error, all of them can be counted again, and those
// whose counts were added already are passed over, shard by shard. Groups that are refused, by one shard at least, are
// none of the others' business: those are counted.
func (s *store) count(ctx context.Context, groups []clickGroup, now time.Time) (refused []refusal, err error) {
	byShard := map[shard.ID][]clickGroup{}
	for _, g := range groups {
		parts := map[shard.ID][]click{}
		for _, c := range g.Clicks {
			id := s.router.Locate(c.Code).Shard
			parts[id] = append(parts[id], c)
		}
		for id, clicks := range parts {
			byShard[id] = append(byShard[id], clickGroup{g.Run, g.Number, clicks})
		}
	}
	if len(byShard) == 0 {
		return nil, nil
	}
	// A shard that does not answer keeps no other from being counted, and the broker not from giving the groups to
	// somebody else later than ackWait.
	replies, err := shard.Gather(ctx, slices.Sorted(maps.Keys(byShard)), shard.Policy{Concurrency: s.concurrency, PerShard: ackWait * 3 / 4}, func(ctx context.Context, id shard.ID) ([]refusal, error) {
		db, err := s.db.Shard(id)
		if err != nil {
			return nil, err
		}
		return countSome(ctx, db.Primary, byShard[id], now)
	})
	for _, r := range replies {
		refused = append(refused, r.Value...)
	}
	return refused, err
}

// countSome adds what groups have for one shard. If they are not taken together, it looks for those that are to blame.
func countSome(ctx context.Context, db *sql.DB, groups []clickGroup, now time.Time) ([]refusal, error) {
	err := countTogether(ctx, db, groups, now, true)
	if err == nil || ctx.Err() != nil || !refuses(err) {
		return nil, err
	}
	// Nor is it the groups if the shard refuses anything.
	if other := countTogether(ctx, db, []clickGroup{{Clicks: []click{{}}}}, now, false); other != nil {
		return nil, err
	}
	if len(groups) == 1 {
		return []refusal{{groups[0], err}}, nil
	}
	first, err := countSome(ctx, db, groups[:len(groups)/2], now)
	if err != nil {
		return nil, err
	}
	second, err := countSome(ctx, db, groups[len(groups)/2:], now)
	return append(first, second...), err
}

// errBitmap is a row of a block that nobody has written so.
var errBitmap = errors.New("the bitmap of a block is damaged")

// refuses reports whether an error is about what was to be written. Others are about the database: its disk is full, it
// is shutting down, two were in each other's way; then groups wait, however long that takes.
func refuses(err error) bool {
	var pg *pgconn.PgError
	var lite *sqlite.Error
	switch {
	case errors.As(err, &pg):
		// The classes of wrong data, violated constraints and views, exceeded limits, and what triggers raise.
		return len(pg.Code) == 5 && slices.Contains([]string{"22", "23", "44", "54", "P0"}, pg.Code[:2])
	case errors.As(err, &lite):
		code := lite.Code() & 0xff
		return code == sqlite3.SQLITE_CONSTRAINT || code == sqlite3.SQLITE_MISMATCH || code == sqlite3.SQLITE_TOOBIG
	}
	return errors.Is(err, errBitmap)
}

// countTogether adds what groups have for one shard, in one transaction, which is only tried, and not committed, unless
// commit is true.
func countTogether(ctx context.Context, db *sql.DB, groups []clickGroup, now time.Time, commit bool) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, ok := db.Driver().(*stdlib.Driver); ok {
		// PostgreSQL gives up a process that has vanished, in place of waiting for the network to tell, and so do those
		// who wait for its rows.
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`SET LOCAL idle_in_transaction_session_timeout = %d`, ackWait.Milliseconds())); err != nil {
			return err
		}
	}
	// All in one order, so that two who count at the same time do not wait for each other: first the blocks, and then
	// the clicks.
	byBlock := map[block][]clickGroup{}
	for _, g := range groups {
		byBlock[g.block()] = append(byBlock[g.block()], g)
	}
	blocks := slices.SortedFunc(maps.Keys(byBlock), compareBlocks)
	sum := map[click]int64{}
	for some := range slices.Chunk(blocks, rowsPerInsert) {
		bitmaps, err := lockBlocks(ctx, tx, some, now)
		if err != nil {
			return err
		}
		for _, b := range some {
			for _, g := range byBlock[b] {
				at, bit := g.Number%blockGroups/8, byte(1)<<(g.Number%8)
				if bitmaps[b][at]&bit != 0 {
					continue // it was counted
				}
				bitmaps[b][at] |= bit
				for _, c := range g.Clicks {
					sum[c]++
				}
			}
		}
		if err := setBitmaps(ctx, tx, some, bitmaps, now); err != nil {
			return err
		}
	}
	if err := boundReferrers(ctx, tx, sum); err != nil {
		return err
	}
	keys := slices.SortedFunc(maps.Keys(sum), compareClicks)
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
	if !commit {
		return nil
	}
	return tx.Commit()
}

func compareClicks(a, b click) int {
	return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Referrer, b.Referrer))
}

// maxDayReferrers is how many referrers of a link are kept of a day, each of which is a row: strangers write them, and
// as many as they like. The first ones are; others are counted together. Two who count at the same time may keep some
// more.
const maxDayReferrers = 200

// boundReferrers makes clicks from new referrers those of others, if the link has enough of that day.
func boundReferrers(ctx context.Context, tx *sql.Tx, sum map[click]int64) error {
	named := map[click][]click{} // by link and day
	for c := range sum {
		if c.Referrer != "" && c.Referrer != others {
			day := click{Code: c.Code, Day: c.Day}
			named[day] = append(named[day], c)
		}
	}
	for some := range slices.Chunk(slices.SortedFunc(maps.Keys(named), compareClicks), rowsPerInsert) {
		var where []string
		var args []any
		for i, day := range some {
			where = append(where, fmt.Sprintf("code = $%d AND day = $%d", 2*i+1, 2*i+2))
			args = append(args, day.Code, day.Day)
		}
		counts, err := scanAll(ctx, tx, `SELECT code, day, '', COUNT(*) FROM clicks WHERE `+strings.Join(where, " OR ")+` GROUP BY code, day`, args...)
		if err != nil {
			return err
		}
		for _, day := range some {
			if counts[day]+int64(len(named[day])) <= maxDayReferrers {
				continue
			}
			known, err := scanAll(ctx, tx, `SELECT code, day, referrer, n FROM clicks WHERE code = $1 AND day = $2`, day.Code, day.Day)
			if err != nil {
				return err
			}
			room := maxDayReferrers - len(known)
			slices.SortFunc(named[day], compareClicks)
			for _, c := range named[day] {
				if _, is := known[c]; is {
					continue
				}
				if room--; room < 0 {
					sum[click{c.Code, c.Day, others}] += sum[c]
					delete(sum, c)
				}
			}
		}
	}
	return nil
}

// scanAll returns the rows of a query for a code, day, referrer and number.
func scanAll(ctx context.Context, tx *sql.Tx, query string, args ...any) (map[click]int64, error) {
	found, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	all := map[click]int64{}
	for found.Next() {
		var c click
		var n int64
		if err := found.Scan(&c.Code, &c.Day, &c.Referrer, &n); err != nil {
			return nil, err
		}
		all[c] = n
	}
	return all, found.Err()
}

func compareBlocks(a, b block) int {
	return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.number, b.number))
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

// insertBlocks is the beginning of a statement that writes rows of blocks. A block is as old as the newest time that any
// process has written, so that one whose clock is behind does not have it forgotten.
func insertBlocks(n int, set string) string {
	return `INSERT INTO counted (run, block, at, bits) VALUES ` + rows(n, 4) + `
		ON CONFLICT (run, block) DO UPDATE SET at = CASE WHEN excluded.at > counted.at THEN excluded.at ELSE counted.at END` + set
}

// lockBlocks returns the bitmaps of blocks, those of new ones empty, and keeps everybody else from them until the
// transaction ends: who wants them meanwhile waits, and sees what this one has written.
func lockBlocks(ctx context.Context, tx *sql.Tx, blocks []block, now time.Time) (map[block][]byte, error) {
	var args []any
	for _, b := range blocks {
		args = append(args, b.run, b.number, now.UnixMilli(), make([]byte, blockGroups/8))
	}
	found, err := tx.QueryContext(ctx, insertBlocks(len(blocks), ` RETURNING run, block, bits`), args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	bitmaps := map[block][]byte{}
	for found.Next() {
		var b block
		var bits []byte
		if err := found.Scan(&b.run, &b.number, &bits); err != nil {
			return nil, err
		}
		if len(bits) != blockGroups/8 {
			return nil, fmt.Errorf("%w: %d of %s has %d bytes", errBitmap, b.number, b.run, len(bits))
		}
		bitmaps[b] = bits
	}
	if err := found.Err(); err != nil {
		return nil, err
	}
	if len(bitmaps) != len(blocks) {
		return nil, fmt.Errorf("of %d blocks, the database has answered %d", len(blocks), len(bitmaps))
	}
	return bitmaps, nil
}

// setBitmaps writes the bitmaps of blocks, which are locked.
func setBitmaps(ctx context.Context, tx *sql.Tx, blocks []block, bitmaps map[block][]byte, now time.Time) error {
	var args []any
	for _, b := range blocks {
		args = append(args, b.run, b.number, now.UnixMilli(), bitmaps[b])
	}
	_, err := tx.ExecContext(ctx, insertBlocks(len(blocks), `, bits = excluded.bits`), args...)
	return err
}

// forget takes away what is known of blocks of which no group was counted since a time.
func (s *store) forget(ctx context.Context, before time.Time) error {
	_, err := shard.Gather(ctx, s.db.Shards(), shard.Policy{}, func(ctx context.Context, id shard.ID) (struct{}, error) {
		db, err := s.db.Shard(id)
		if err == nil {
			_, err = db.Primary.ExecContext(ctx, `DELETE FROM counted WHERE at < $1`, before.UnixMilli())
		}
		return struct{}{}, err
	})
	return err
}

// A tally is how often a link was followed.
type tally struct {
	Total     int64            `json:"total"`
	Days      map[string]int64 `json:"days"`      // 2006-01-02
	Referrers map[string]int64 `json:"referrers"` // those with most clicks, and others
}

// maxReferrers is how many referrers are shown of a link: strangers write them, and as many as they like.
const maxReferrers = 50

// others is the referrers that are not kept, or not shown. No host has parentheses.
const others = "(others)"

// clicks returns how often a link was followed, so far as it is counted. The database adds up, as there may be many
// referrers, and in one statement, so that the sums are those of one moment.
func (s *store) clicks(ctx context.Context, code string) (tally, error) {
	t := tally{Days: map[string]int64{}, Referrers: map[string]int64{}}
	rows, err := s.db.Query(ctx, code, `
		SELECT 1, day, '', CAST(SUM(n) AS BIGINT) FROM clicks WHERE code = $1 GROUP BY day
		UNION ALL SELECT * FROM (
			SELECT 0, 0, referrer, CAST(SUM(n) AS BIGINT) AS total FROM clicks WHERE code = $1
			GROUP BY referrer ORDER BY total DESC, referrer LIMIT $2) AS most`, code, maxReferrers)
	if err != nil {
		return tally{}, err
	}
	defer rows.Close()
	var shown int64
	for rows.Next() {
		var isDay, day, n int64
		var referrer string
		if err := rows.Scan(&isDay, &day, &referrer, &n); err != nil {
			return tally{}, err
		}
		if isDay == 1 {
			t.Total += n
			t.Days[time.UnixMilli(day*dayMillis).UTC().Format(time.DateOnly)] = n
			continue
		}
		shown += n
		t.Referrers[referrer] = n
	}
	if t.Total > shown {
		t.Referrers[others] += t.Total - shown
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
