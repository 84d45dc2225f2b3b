package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCount(t *testing.T) {
	testCount(t, newStore(t), func(error) bool { return true }) // who is in another's way for too long tries again
}

// mustCount counts groups that nobody refuses.
func mustCount(t *testing.T, s *store, now time.Time, groups ...clickGroup) {
	t.Helper()
	refused, err := s.count(t.Context(), groups, now)
	require.NoError(t, err)
	require.Empty(t, refused)
}

// TestMostReferrers has a link that comes from many pages: those with most clicks are shown, and the others together.
func TestMostReferrers(t *testing.T) { testMostReferrers(t, newStore(t)) }

func testMostReferrers(t *testing.T, s *store) {
	g := clickGroup{Run: "run", Number: 1}
	add := func(n int, day int64, referrer string) {
		for range n {
			g.Clicks = append(g.Clicks, click{Code: "popular", Day: day, Referrer: referrer})
		}
	}
	today := dayOf(noon)
	add(3, today, "")
	add(60, today, "big.example")
	add(40, today-1, "big.example")
	for i := range 190 {
		add(1, today-1, fmt.Sprintf("host-%03d", i))
	}
	mustCount(t, s, noon, g)
	got, err := s.clicks(t.Context(), "popular")
	require.NoError(t, err)
	require.EqualValues(t, 293, got.Total)
	require.Equal(t, map[string]int64{"2026-05-03": 230, "2026-05-04": 63}, got.Days)
	require.Len(t, got.Referrers, maxReferrers+1)
	require.EqualValues(t, 100, got.Referrers["big.example"])
	require.EqualValues(t, 3, got.Referrers[""])
	require.EqualValues(t, 190-(maxReferrers-2), got.Referrers[others])

	// Of a day, the first ones are kept; all are counted.
	g = clickGroup{Run: "flood", Number: 1}
	add(5, today, "first.example")
	mustCount(t, s, noon, g)
	for n := range 5 {
		g = clickGroup{Run: "flood", Number: uint64(2 + n)}
		add(2, today, "first.example")
		add(1, today, "")
		for i := range 150 {
			add(1, today, fmt.Sprintf("flood-%d.example", 100*n+i))
			g.Clicks[len(g.Clicks)-1].Code = "flooded"
			add(1, today+1, fmt.Sprintf("flood-%d.example", 100*n+i))
			g.Clicks[len(g.Clicks)-1].Code = "flooded"
		}
		mustCount(t, s, noon, g, g)
	}
	got, err = s.clicks(t.Context(), "flooded")
	require.NoError(t, err)
	require.EqualValues(t, 1500, got.Total)
	require.Equal(t, map[string]int64{"2026-05-04": 750, "2026-05-05": 750}, got.Days)
	require.Len(t, got.Referrers, maxReferrers)
	require.Positive(t, got.Referrers[others])
	for _, day := range []int64{today, today + 1} {
		var rows int
		require.NoError(t, s.db.QueryRow(t.Context(), "flooded", `SELECT COUNT(*) FROM clicks WHERE code = 'flooded' AND day = $1`, day).Scan(&rows))
		require.Equal(t, maxDayReferrers+1, rows)
	}
	got, err = s.clicks(t.Context(), "popular")
	require.NoError(t, err)
	require.EqualValues(t, 15, got.Referrers["first.example"])

	mustCount(t, s, noon, clickGroup{Run: "run", Number: 2, Clicks: []click{{Code: "rare", Day: today, Referrer: "a"}}})
	got, err = s.clicks(t.Context(), "rare")
	require.NoError(t, err)
	require.Equal(t, tally{Total: 1, Days: map[string]int64{"2026-05-04": 1}, Referrers: map[string]int64{"a": 1}}, got)
}

func total(t *testing.T, s *store, code string) int64 {
	t.Helper()
	n, err := s.clicks(t.Context(), code)
	require.NoError(t, err)
	return n.Total
}

// randomGroups returns groups of some runs, with the numbers at which blocks begin and end, and what they count.
func randomGroups(rng *rand.Rand) (groups []clickGroup, want map[string]tally) {
	want = map[string]tally{}
	for _, run := range []string{"run-a", "run-b", "RUN-B", "r"} {
		for _, first := range []uint64{1, blockGroups - 20, 3*blockGroups - 5, 1 << 40, 1<<64 - 30} {
			for n := range uint64(30) {
				g := clickGroup{Run: run, Number: first + n}
				for range rng.IntN(6) {
					c := click{Code: fmt.Sprint("code", rng.IntN(12)), Day: dayOf(noon) + rng.Int64N(2), Referrer: []string{"", "a.example"}[rng.IntN(2)]}
					g.Clicks = append(g.Clicks, c)
					w, there := want[c.Code]
					if !there {
						w = tally{Days: map[string]int64{}, Referrers: map[string]int64{}}
					}
					w.Total++
					w.Days[time.UnixMilli(c.Day*dayMillis).UTC().Format(time.DateOnly)]++
					w.Referrers[c.Referrer]++
					want[c.Code] = w
				}
				groups = append(groups, g)
			}
		}
	}
	return groups, want
}

// testCount has several who count at the same time, groups that come in any order, and more than once, in the same batch
// and in others: each is counted once. Errors that may come are those for which mayFail returns true.
func testCount(t *testing.T, s *store, mayFail func(error) bool) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	groups, want := randomGroups(rand.New(rand.NewPCG(seed, 0)))
	var wg sync.WaitGroup
	for counter := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(counter+1)))
			mine := slices.Concat(groups, groups[:len(groups)/2])
			rng.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			for len(mine) > 0 {
				n := min(len(mine), 1+rng.IntN(150))
				refused, err := s.count(context.Background(), mine[:n], noon)
				if len(refused) > 0 || err != nil && !mayFail(err) {
					t.Error(refused, err)
					return
				}
				if err == nil {
					mine = mine[n:]
				}
			}
		})
	}
	wg.Wait()
	mustCount(t, s, noon)
	sum := int64(0)
	for code, w := range want {
		got, err := s.clicks(t.Context(), code)
		require.NoError(t, err)
		require.Equal(t, w, got, code)
		sum += w.Total
	}
	totals, err := s.totals(t.Context())
	require.NoError(t, err)
	require.Len(t, totals, len(s.opened))
	all := int64(0)
	for _, n := range totals {
		all += n[1]
	}
	require.Equal(t, sum, all)
	for _, db := range s.opened { // a row for a block, and not for a group
		var n int
		require.NoError(t, db.QueryRow(`SELECT COUNT(*) FROM counted`).Scan(&n))
		require.LessOrEqual(t, n, 4*8)
	}
	testForget(t, s)
	testRefused(t, s)
}

// testForget has groups that come again after a month, as the spool of a process that was down for so long is delivered
// then; and after more than a year. Those that were never counted are, and what is counted twice is only what was counted
// more than a year ago.
func testForget(t *testing.T, s *store) {
	counted := clickGroup{"forget", 7, []click{{Code: "forget"}}}
	never := clickGroup{"forget", 8, []click{{Code: "forget"}}}
	busy := clickGroup{"forget", blockGroups, []click{{Code: "forget"}}}
	later := func(d time.Duration) time.Time {
		now := noon.Add(d)
		require.NoError(t, s.forget(t.Context(), now.Add(-keepCounted)))
		return now
	}
	mustCount(t, s, noon, counted, busy)
	mustCount(t, s, later(30*24*time.Hour), counted, busy)
	require.EqualValues(t, 2, total(t, s, "forget"))

	// A clock that is behind, by years, makes nothing older.
	mustCount(t, s, noon.Add(-10*keepCounted), clickGroup{"forget", blockGroups + 1, nil}, busy)
	mustCount(t, s, later(keepCounted-time.Hour), counted, busy) // until a year after this
	require.EqualValues(t, 2, total(t, s, "forget"))

	now := later(2*keepCounted + time.Hour)
	mustCount(t, s, now, never)
	require.EqualValues(t, 3, total(t, s, "forget"))
	mustCount(t, s, now, counted)
	require.EqualValues(t, 4, total(t, s, "forget"))
	mustCount(t, s, now, counted, never)
	require.EqualValues(t, 4, total(t, s, "forget"))
}

// testRefused has groups that a database does not take: all others are counted, and those are told.
func testRefused(t *testing.T, s *store) {
	for _, db := range s.opened {
		_, err := db.Exec(`CREATE UNIQUE INDEX poison ON clicks (referrer) WHERE referrer = 'poison.example'`)
		require.NoError(t, err)
		defer func() {
			_, err := db.Exec(`DROP INDEX poison`)
			require.NoError(t, err)
		}()
	}
	var groups []clickGroup
	for i := range 100 {
		groups = append(groups, clickGroup{"refused", uint64(i + 1), []click{{Code: "refused"}}})
	}
	poison := click{Code: "refused", Referrer: "poison.example"}
	mustCount(t, s, noon, clickGroup{"refused", 1000, []click{poison}})
	for _, i := range []int{0, 40, 41, 99} {
		c := poison
		c.Day = int64(i + 1)
		groups[i].Clicks = append(groups[i].Clicks, c)
	}
	for range 2 {
		refused, err := s.count(t.Context(), groups, noon)
		require.NoError(t, err)
		require.Len(t, refused, 4)
		for i, r := range refused {
			require.Equal(t, groups[[]int{0, 40, 41, 99}[i]].id(), r.group.id())
			require.Error(t, r.err)
		}
		require.EqualValues(t, 1+96, total(t, s, "refused"))
	}
	alone, err := s.count(t.Context(), groups[:1], noon)
	require.NoError(t, err)
	require.Len(t, alone, 1)

	// A database that takes nothing refuses nobody.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	none, err := s.count(ended, groups, noon)
	require.Error(t, err)
	require.Empty(t, none)
	for _, db := range s.opened {
		_, err := db.Exec(`ALTER TABLE counted RENAME TO elsewhere`)
		require.NoError(t, err)
		defer func() {
			_, err := db.Exec(`ALTER TABLE elsewhere RENAME TO counted`)
			require.NoError(t, err)
		}()
	}
	none, err = s.count(t.Context(), groups, noon)
	require.Error(t, err)
	require.Empty(t, none)
}

// TestRefusedAll has databases that refuse whatever comes, which is not the groups' fault; and then one in which the row
// of a block is damaged, which keeps nobody but its own groups from being counted. What is only tried leaves nothing.
func TestRefusedAll(t *testing.T) {
	s := newStore(t)
	exec := func(query string, args ...any) {
		t.Helper()
		for _, db := range s.opened {
			_, err := db.Exec(query, args...)
			require.NoError(t, err)
		}
	}
	wrong, right := clickGroup{"wrong", 1, []click{{Code: "abc"}}}, clickGroup{"right", 1, []click{{Code: "abc"}}}
	exec(`CREATE TRIGGER fail BEFORE INSERT ON clicks BEGIN SELECT RAISE(ABORT, 'nothing is taken'); END`)
	refused, err := s.count(t.Context(), []clickGroup{wrong, right}, noon)
	require.ErrorContains(t, err, "nothing is taken")
	require.Empty(t, refused)

	exec(`DROP TRIGGER fail`)
	exec(`INSERT INTO counted (run, block, at, bits) VALUES ('wrong', 0, 0, $1)`, []byte("short"))
	refused, err = s.count(t.Context(), []clickGroup{wrong, right}, noon)
	require.NoError(t, err)
	require.Len(t, refused, 1)
	require.Equal(t, wrong.id(), refused[0].group.id())
	require.ErrorIs(t, refused[0].err, errBitmap)
	require.EqualValues(t, 1, total(t, s, "abc"))
	totals, err := s.totals(t.Context())
	require.NoError(t, err)
	for _, n := range totals {
		require.LessOrEqual(t, n[1], int64(1))
	}
	require.Zero(t, total(t, s, ""))
	for _, db := range s.opened {
		var n int
		require.NoError(t, db.QueryRow(`SELECT COUNT(*) FROM counted WHERE run = ''`).Scan(&n))
		require.Zero(t, n)
	}
}
