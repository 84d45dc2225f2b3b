package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A wallClock is by how much a test has set the wall clock.
type wallClock struct{ by atomic.Int64 }

func (c *wallClock) step(d time.Duration) { c.by.Add(int64(d)) }

// newTestGen returns an IDGen with this clock. Its Epoch is an hour ago, unless there is one.
func (c *wallClock) newTestGen(t testing.TB, config IDConfig) *IDGen {
	t.Helper()
	if config.Layout.Epoch.IsZero() {
		config.Layout.Epoch = time.Now().Add(-time.Hour)
	}
	g, err := newIDGen(config, func() time.Duration { return time.Duration(c.by.Load()) })
	require.NoError(t, err)
	return g
}

// endedCtx is a context that lets nobody wait.
var endedCtx = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// nextID returns an ID that must be there at once.
func nextID(t testing.TB, g *IDGen) int64 {
	t.Helper()
	id, err := g.Next(endedCtx)
	require.NoError(t, err)
	return id
}

func timeOfID(t testing.TB, g *IDGen, id int64) time.Time {
	t.Helper()
	p, err := g.Parse(id)
	require.NoError(t, err)
	return p.Time
}

var tinyLayout = IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 1}

func TestIDConfigErrors(t *testing.T) {
	day := 24 * time.Hour
	for want, c := range map[string]IDConfig{
		"shard: Shard must be less than 2^12, got 4096":             {Shard: 4096},
		"shard: MaxLead must be at least 0, got -1ns":               {MaxLead: -1},
		"shard: MaxRegression must be at least 0, got -1ns":         {MaxRegression: -1},
		"shard: MarkAhead must be at least 0, got -1ns":             {MarkAhead: -1},
		"shard: MarkAhead must be at least Unit, which is 1ms, got": {MarkAhead: time.Microsecond},
		"shard: TimeBits must be 1 to 61, got 0":                    {Layout: IDLayout{ShardBits: 1}},
		"shard: Epoch must not be in the future, got ":              {Layout: IDLayout{Epoch: time.Now().Add(day)}},
		"the time of IDs is exhausted":                              {Layout: IDLayout{Epoch: time.Now().Add(-70 * 366 * day)}},
		"after Epoch: the time of IDs is exhausted":                 {Layout: IDLayout{Epoch: time.Unix(-60_000_000_000, 0)}},
	} {
		g, err := NewIDGen(c)
		require.ErrorContains(t, err, want)
		require.Nil(t, g)
	}
	for _, c := range []IDConfig{
		{},
		{Shard: 4095, MaxLead: math.MaxInt64, MaxRegression: math.MaxInt64, MarkAhead: math.MaxInt64},
		{MaxLead: 1, MaxRegression: 1, MarkAhead: time.Millisecond},
		{Layout: IDLayout{Unit: time.Hour, TimeBits: 20, ShardBits: 32, SequenceBits: 11}, Shard: math.MaxUint32},
		{Layout: IDLayout{TimeBits: 61, ShardBits: 1, SequenceBits: 1, Unit: 1}},
		{Layout: IDLayout{TimeBits: 1, ShardBits: 1, SequenceBits: 61, Unit: time.Hour, Epoch: time.Now()}, MaxLead: math.MaxInt64},
		{Layout: IDLayout{TimeBits: 1, ShardBits: 1, SequenceBits: 61, Unit: 35040 * time.Hour}},
	} {
		g, err := NewIDGen(c)
		require.NoError(t, err, "%+v", c)
		last := int64(-1)
		for range 100 {
			id := nextID(t, g)
			require.Greater(t, id, last, "%+v", c)
			last = id
			n, err := g.ShardOf(id)
			require.NoError(t, err)
			require.Equal(t, c.Shard, n)
		}
	}
}

func TestIDLayoutErrors(t *testing.T) {
	for want, l := range map[string]IDLayout{
		"shard: TimeBits must be 1 to 61, got -1":                                                           {TimeBits: -1},
		"shard: TimeBits must be 1 to 61, got 62":                                                           {TimeBits: 62, ShardBits: 1, SequenceBits: 1},
		"shard: ShardBits must be 1 to 32, got 0":                                                           {TimeBits: 41, SequenceBits: 1},
		"shard: ShardBits must be 1 to 32, got 33":                                                          {TimeBits: 20, ShardBits: 33, SequenceBits: 1},
		"shard: SequenceBits must be 1 to 61, got 0":                                                        {TimeBits: 41, ShardBits: 12},
		"shard: SequenceBits must be 1 to 61, got " + strconv.Itoa(math.MaxInt):                             {TimeBits: 1, ShardBits: 1, SequenceBits: math.MaxInt},
		"shard: TimeBits, ShardBits and SequenceBits must be at most 63 together, got 41 + 12 + 11":         {TimeBits: 41, ShardBits: 12, SequenceBits: 11},
		"shard: Unit must be at least 0, got -1ns":                                                          {Unit: -1},
		"shard: Unit must be at most 4.194302ms with 41 TimeBits, for 292 years, got 4.194303ms":            {Unit: 4_194_303},
		"shard: Unit must be at most 3ns with 61 TimeBits, for 292 years, got 1ms":                          {TimeBits: 61, ShardBits: 1, SequenceBits: 1},
		"shard: Epoch must be in the years 1 to 9999, got year 10000":                                       {Epoch: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"shard: Epoch must be in the years 1 to 9999, got year 0":                                           {Epoch: time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC)},
		"shard: Epoch must be in the years 1 to 9999, got year " + strconv.Itoa(time.Unix(1<<60, 0).Year()): {Epoch: time.Unix(1<<60, 0).UTC()},
	} {
		require.ErrorContains(t, l.Validate(), want, "%+v", l)
		_, err := l.Parse(0)
		require.ErrorContains(t, err, want)
		_, err = l.FirstAt(time.Now())
		require.ErrorContains(t, err, want)
		_, err = NewIDGen(IDConfig{Layout: l})
		require.ErrorContains(t, err, want)
		_, err = NewIDLocator(l, map[uint32]ID{0: "a"})
		require.ErrorContains(t, err, want)
	}
	_, err := IDLayout{TimeBits: -1}.ShardOf(0)
	require.ErrorContains(t, err, "TimeBits")
}

func TestIDParse(t *testing.T) {
	epoch := time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)
	javascript := IDLayout{TimeBits: 41, ShardBits: 5, SequenceBits: 7}
	decades := IDLayout{TimeBits: 38, ShardBits: 16, SequenceBits: 9, Unit: 10 * time.Millisecond, Epoch: time.Date(1900, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))}
	for _, c := range []struct {
		layout IDLayout
		id     int64
		want   IDParts
		err    string
	}{
		{IDLayout{}, 0, IDParts{Time: epoch}, ""},
		{IDLayout{}, 1<<22 | 2<<10 | 3, IDParts{Time: epoch.Add(time.Millisecond), Shard: 2, Sequence: 3}, ""},
		{IDLayout{TimeBits: 41, ShardBits: 12, SequenceBits: 10}, 1<<22 | 4095<<10, IDParts{Time: epoch.Add(time.Millisecond), Shard: 4095}, ""},
		{IDLayout{}, math.MaxInt64, IDParts{Time: time.Date(2094, 9, 7, 15, 47, 35, 551e6, time.UTC), Shard: 4095, Sequence: 1023}, ""},
		{IDLayout{}, -1, IDParts{}, "shard: an ID must be at least 0, got -1"},
		{IDLayout{}, math.MinInt64, IDParts{}, "shard: an ID must be at least 0, got -9223372036854775808"},
		{javascript, 1<<53 - 1, IDParts{Time: time.Date(2094, 9, 7, 15, 47, 35, 551e6, time.UTC), Shard: 31, Sequence: 127}, ""},
		{javascript, 1 << 53, IDParts{}, "shard: an ID of this layout must be less than 2^53, got 9007199254740992"},
		{decades, 1<<25 | 65535<<9 | 511, IDParts{Time: time.Date(1899, 12, 31, 23, 0, 0, 10e6, time.UTC), Shard: 65535, Sequence: 511}, ""},
		{tinyLayout, 7, IDParts{Time: epoch.Add(time.Millisecond), Shard: 1, Sequence: 1}, ""},
	} {
		got, err := c.layout.Parse(c.id)
		n, err2 := c.layout.ShardOf(c.id)
		require.Equal(t, err, err2)
		if c.err != "" {
			require.EqualError(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
		require.Equal(t, c.want.Shard, n)
		first, err := c.layout.FirstAt(c.want.Time)
		require.NoError(t, err)
		l, err := c.layout.resolve()
		require.NoError(t, err)
		require.Equal(t, c.id>>(l.ShardBits+l.SequenceBits)<<(l.ShardBits+l.SequenceBits), first)
		within, err := c.layout.FirstAt(c.want.Time.Add(l.Unit - 1))
		require.NoError(t, err)
		require.Equal(t, first, within)
	}
	for _, at := range []time.Time{epoch, epoch.Add(-1), {}, time.Unix(-1<<60, 0)} {
		first, err := IDLayout{}.FirstAt(at)
		require.NoError(t, err)
		require.Zero(t, first)
	}
	for _, at := range []time.Time{time.Date(2094, 9, 7, 15, 47, 35, 552e6, time.UTC), time.Unix(1<<60, 0)} {
		_, err := IDLayout{}.FirstAt(at)
		require.ErrorIs(t, err, ErrTimeExhausted)
	}
}

func TestIDLocator(t *testing.T) {
	var (
		_ Locator[int64] = (*IDLocator)(nil)
		_ Router[int64]  = (*IDLocator)(nil)
		_ Lister         = (*IDLocator)(nil)
	)
	for want, shards := range map[string]map[uint32]ID{
		"shard: shards must have at least 1 entry, got 0":            nil,
		"shard: shard numbers must be less than 2^12, got 4096":      {0: "a", 4096: "b"},
		`shard: shards must not be "", got that for number 3`:        {0: "a", 3: ""},
		"shard: shard numbers must be less than 2^12, got 429496729": {math.MaxUint32: "a"},
	} {
		_, err := NewIDLocator(IDLayout{}, shards)
		require.ErrorContains(t, err, want)
	}
	for _, shards := range []map[uint32]ID{
		{0: "a"}, {1: "b", 2: "a", 7: "b"}, {4095: "z"}, {0: "a", 4000: "b"}, {100: "c"},
	} {
		l, err := NewIDLocator(IDLayout{}, shards)
		require.NoError(t, err)
		all := map[ID]bool{}
		for n := range uint32(4096) {
			id := int64(12345)<<22 | int64(n)<<10 | 17
			want := Placement{}
			if shards[n] != "" {
				want = Placement{Shard: shards[n], Part: PartID(n)}
				all[shards[n]] = true
			}
			require.Equal(t, want, l.Locate(id))
			got, err := l.Route(t.Context(), id)
			require.Equal(t, want, got)
			if want.Shard == "" {
				require.ErrorIs(t, err, ErrNoShard)
				require.EqualError(t, err, fmt.Sprintf("shard: ID %d has the shard number %d: no shard is responsible", id, n))
			} else {
				require.NoError(t, err)
			}
		}
		for _, s := range l.Shards() {
			require.True(t, all[s])
			delete(all, s)
		}
		require.Empty(t, all)
		require.True(t, slices.IsSorted(l.Shards()))
		require.Zero(t, l.Locate(-1))
		_, err = l.Route(t.Context(), -1)
		require.EqualError(t, err, "shard: an ID must be at least 0, got -1")
	}
	shards := map[uint32]ID{0: "a"}
	l, err := NewIDLocator(tinyLayout, shards)
	require.NoError(t, err)
	shards[0], shards[1] = "b", "b"
	l.Shards()[0] = "c"
	require.Equal(t, []ID{"a"}, l.Shards())
	require.Equal(t, Placement{Shard: "a"}, l.Locate(1))
	require.Zero(t, l.Locate(2))
	require.Zero(t, l.Locate(1<<43))
	_, err = l.Route(t.Context(), 1<<43)
	require.ErrorContains(t, err, "must be less than 2^43")

	wide, err := NewIDLocator(IDLayout{TimeBits: 30, ShardBits: 32, SequenceBits: 1}, map[uint32]ID{math.MaxUint32: "z"})
	require.NoError(t, err)
	require.Equal(t, Placement{Shard: "z", Part: math.MaxUint32}, wide.Locate(math.MaxInt64))
	require.Zero(t, wide.Locate(0))
}

func TestIDNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		start := time.Now()
		g := c.newTestGen(t, IDConfig{Shard: 9})
		require.Equal(t, start.Add(-time.Hour), g.Layout().Epoch)
		for i := range int64(5) {
			id := nextID(t, g)
			p, err := g.Parse(id)
			require.NoError(t, err)
			require.Equal(t, IDParts{Time: start.UTC(), Shard: 9, Sequence: i}, p)
			n, err := g.ShardOf(id)
			require.NoError(t, err)
			require.EqualValues(t, 9, n)
		}
		time.Sleep(time.Millisecond)
		p, err := g.Parse(nextID(t, g))
		require.NoError(t, err)
		require.Equal(t, IDParts{Time: start.Add(time.Millisecond).UTC(), Shard: 9}, p)
		time.Sleep(7 * 24 * time.Hour)
		require.True(t, time.Now().Equal(timeOfID(t, g, nextID(t, g))))
		_, err = g.Parse(-1)
		require.Error(t, err)
		_, err = g.ShardOf(-1)
		require.Error(t, err)
	})
}

// What does not fit in a unit goes into the next ones, up to MaxLead, and then waits.
func TestIDOverflow(t *testing.T) {
	for _, c := range []struct {
		lead   time.Duration
		atOnce int
	}{{1, 2}, {time.Millisecond, 4}, {5*time.Millisecond + 999_999, 12}, {0, 22}} {
		synctest.Test(t, func(t *testing.T) {
			var clock wallClock
			g := clock.newTestGen(t, IDConfig{Layout: tinyLayout, MaxLead: c.lead})
			start := time.Now()
			var ids []int64
			for {
				id, err := g.Next(endedCtx)
				if err != nil {
					require.ErrorIs(t, err, context.Canceled)
					require.EqualError(t, err, "shard: waiting until more IDs fit in the time: context canceled")
					break
				}
				ids = append(ids, id)
			}
			require.Len(t, ids, c.atOnce)
			lead := time.Duration(c.atOnce/2-1) * time.Millisecond
			require.True(t, timeOfID(t, g, ids[len(ids)-1]).Equal(start.Add(lead)))
			for i := range 10 { // two each millisecond
				id, err := g.Next(t.Context())
				require.NoError(t, err)
				require.Greater(t, id, ids[len(ids)-1])
				ids = append(ids, id)
				require.Equal(t, time.Duration(i/2+1)*time.Millisecond, time.Since(start))
				require.True(t, timeOfID(t, g, id).Equal(time.Now().Add(lead)))
			}
			time.Sleep(time.Second)
			require.True(t, timeOfID(t, g, nextID(t, g)).Equal(time.Now()))
		})
	}
}

func TestIDNextN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{Layout: IDLayout{TimeBits: 41, ShardBits: 3, SequenceBits: 2}, Shard: 5, MaxLead: 9 * time.Millisecond})
		n, err := g.NextN(endedCtx, nil)
		require.NoError(t, err)
		require.Zero(t, n)
		ids := make([]int64, 40)
		n, err = g.NextN(endedCtx, ids)
		require.NoError(t, err)
		require.Equal(t, 40, n)
		more := make([]int64, 10)
		n, err = g.NextN(endedCtx, more)
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, n)
		time.Sleep(2 * time.Millisecond)
		n, err = g.NextN(endedCtx, more)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 8, n)
		ids = append(ids, more[:8]...)
		start := time.Now()
		n, err = g.NextN(t.Context(), more)
		require.NoError(t, err)
		require.Equal(t, 10, n)
		require.Equal(t, 3*time.Millisecond, time.Since(start))
		ids = append(ids, more...)
		for i, id := range ids {
			p, err := g.Parse(id)
			require.NoError(t, err)
			require.EqualValues(t, 5, p.Shard)
			require.EqualValues(t, i%4, p.Sequence)
			if i > 0 {
				require.Greater(t, id, ids[i-1])
			}
		}
	})
}

// Small steps back are not noticed, for as long as the rate is moderate.
func TestIDSmallRegression(t *testing.T) {
	for _, step := range []time.Duration{time.Nanosecond, time.Millisecond, time.Second, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var c wallClock
			g := c.newTestGen(t, IDConfig{})
			id := nextID(t, g)
			before := time.Now().UTC()
			c.step(-step)
			start := time.Now()
			for time.Since(start) < 2*step+10*time.Millisecond {
				n := nextID(t, g)
				require.Greater(t, n, id)
				id = n
				at := timeOfID(t, g, id)
				if time.Since(start) < step {
					require.Equal(t, before, at)
				}
				time.Sleep(3 * time.Millisecond)
			}
			id = nextID(t, g)
			require.Equal(t, time.Now().Add(-step).Truncate(time.Millisecond).UTC(), timeOfID(t, g, id))
		})
	}
}

func TestIDLargeRegression(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{Layout: IDLayout{Epoch: time.Now().Add(-48 * time.Hour)}})
		last := nextID(t, g)
		time.Sleep(time.Millisecond)
		c.step(-time.Hour)
		for range 3 {
			_, err := g.Next(t.Context())
			require.ErrorIs(t, err, ErrClockRegression)
			require.EqualError(t, err, "shard: the clock is 59m59.999999999s behind what it has shown, which is more than 2s: the clock went back")
			n, err := g.NextN(t.Context(), make([]int64, 3))
			require.ErrorIs(t, err, ErrClockRegression)
			require.Zero(t, n)
		}
		c.step(time.Hour) // set right
		id := nextID(t, g)
		require.Greater(t, id, last)
		require.True(t, time.Now().Equal(timeOfID(t, g, id)))
		last = id

		c.step(-30 * time.Minute) // goes by
		time.Sleep(30*time.Minute - time.Second)
		id = nextID(t, g)
		require.Greater(t, id, last)
		time.Sleep(time.Hour)

		c.step(-100 * time.Hour) // before Epoch
		_, err := g.Next(t.Context())
		require.ErrorIs(t, err, ErrClockRegression)
		require.ErrorContains(t, err, "before Epoch")
		c.step(math.MinInt64 / 2)
		_, err = g.Next(t.Context())
		require.ErrorIs(t, err, ErrClockRegression)
	})
}

// A step back that was over before anybody asked for an ID is none.
func TestIDRegressionOfIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{})
		last := nextID(t, g)
		time.Sleep(time.Hour)
		c.step(-40 * time.Minute)
		id := nextID(t, g)
		require.Greater(t, id, last)
		require.True(t, time.Now().Add(-40*time.Minute).Equal(timeOfID(t, g, id)))

		// Nor is one that undoes a step that nobody has seen.
		c.step(time.Hour)
		c.step(-time.Hour)
		time.Sleep(time.Millisecond)
		require.Greater(t, nextID(t, g), id)
	})
}

func TestIDWaitForClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{Layout: IDLayout{Epoch: time.Now().Add(-3 * time.Hour)}, WaitForClock: true, MaxRegression: time.Minute})
		last := nextID(t, g)
		time.Sleep(time.Millisecond)
		c.step(-time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := g.Next(ctx)
		require.ErrorIs(t, err, ErrClockRegression)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		_, err = g.Next(endedCtx)
		require.ErrorIs(t, err, ErrClockRegression)
		require.ErrorIs(t, err, context.Canceled)

		id, err := g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, last)
		require.InDelta(t, 59*time.Minute, time.Since(start), float64(2*time.Millisecond))
		last = id

		time.Sleep(time.Hour) // so the clock has caught up; then one that is set right while somebody waits
		last = nextID(t, g)
		time.Sleep(time.Millisecond)
		c.step(-2 * time.Hour)
		start = time.Now()
		go func() {
			time.Sleep(time.Minute)
			c.step(2 * time.Hour)
		}()
		id, err = g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, last)
		require.LessOrEqual(t, time.Since(start), time.Minute+time.Second)

		time.Sleep(time.Millisecond)
		c.step(-6 * time.Hour) // before Epoch
		id2, err := g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id2, id)
	})
}

// A forward step is seen within a millisecond.
func TestIDForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{})
		id := nextID(t, g)
		c.step(time.Hour)
		time.Sleep(time.Millisecond)
		n := nextID(t, g)
		require.Greater(t, n, id)
		require.True(t, time.Now().Add(time.Hour).Equal(timeOfID(t, g, n)))
		c.step(-time.Hour) // it was wrong
		time.Sleep(time.Millisecond)
		_, err := g.Next(endedCtx)
		require.ErrorIs(t, err, ErrClockRegression)
	})
}

func TestIDTimeExhausted(t *testing.T) {
	for _, c := range []IDConfig{
		{Layout: IDLayout{TimeBits: 5, ShardBits: 57 - 32, SequenceBits: 2}, MaxLead: 1},
		{Layout: IDLayout{TimeBits: 5, ShardBits: 1, SequenceBits: 3}, MaxLead: time.Hour, Shard: 1},
		{Layout: IDLayout{TimeBits: 4, ShardBits: 32, SequenceBits: 5, Unit: time.Hour}, Shard: math.MaxUint32},
		{Layout: IDLayout{TimeBits: 1, ShardBits: 1, SequenceBits: 1, Unit: time.Hour}},
		{Layout: IDLayout{TimeBits: 6, ShardBits: 32, SequenceBits: 25 - 20}, Shard: math.MaxUint32, Mark: &memMark{}, MarkAhead: 3 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			var clock wallClock
			c.Layout.Epoch = time.Now()
			g := clock.newTestGen(t, c)
			last, issued := int64(-1), 0
			for {
				id, err := g.Next(t.Context())
				if err != nil {
					require.ErrorIs(t, err, ErrTimeExhausted)
					break
				}
				require.Greater(t, id, last)
				last = id
				issued++
			}
			l := g.Layout()
			require.Equal(t, 1<<(l.TimeBits+l.SequenceBits)-1, issued, "all but the highest")
			for range 3 {
				time.Sleep(365 * 24 * time.Hour)
				_, err := g.Next(t.Context())
				require.ErrorIs(t, err, ErrTimeExhausted)
				_, err = g.NextN(t.Context(), make([]int64, 2))
				require.ErrorIs(t, err, ErrTimeExhausted)
			}
			clock.step(math.MaxInt64 / 2)
			_, err := g.Next(t.Context())
			require.ErrorIs(t, err, ErrTimeExhausted)
			if m, ok := c.Mark.(*memMark); ok {
				require.Greater(t, m.mark.Load(), last)
				clock.step(-math.MaxInt64 / 2)
				g = clock.newTestGen(t, IDConfig{Layout: IDLayout{TimeBits: 6, ShardBits: 32, SequenceBits: 5, Epoch: time.Now()}, Mark: m})
				_, err := g.Next(t.Context())
				require.ErrorIs(t, err, ErrTimeExhausted)
			}
		})
	}
}

// A jump of the clock beyond the end does not use up what is before.
func TestIDJumpBeyondEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		g := c.newTestGen(t, IDConfig{})
		id := nextID(t, g)
		c.step(200 * 365 * 24 * time.Hour)
		time.Sleep(time.Millisecond)
		_, err := g.Next(endedCtx)
		require.ErrorIs(t, err, ErrTimeExhausted)
		c.step(-200 * 365 * 24 * time.Hour)
		require.Greater(t, nextID(t, g), id)
	})
}

// An idChecker checks that IDs are issued once, and in order.
type idChecker struct {
	last   atomic.Int64 // an ID that was returned to somebody, and the greatest of those
	mu     sync.Mutex
	issued map[int64]bool
}

// next gets ids by get, which calls one generator, or a generator after its predecessor has stopped.
func (c *idChecker) next(t *testing.T, ids []int64, get func([]int64) (int, error)) {
	before := c.last.Load()
	n, err := get(ids)
	if err != nil {
		t.Error(err)
	}
	for i, id := range ids[:n] {
		if id <= before {
			t.Errorf("%d was issued after %d was returned", id, before)
		}
		if i > 0 && id <= ids[i-1] {
			t.Errorf("%d was issued after %d", id, ids[i-1])
		}
	}
	c.add(t, ids[:n])
	for n > 0 {
		if last := c.last.Load(); last >= ids[n-1] || c.last.CompareAndSwap(last, ids[n-1]) {
			break
		}
	}
}

// add checks that nobody has got one of the ids.
func (c *idChecker) add(t *testing.T, ids []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.issued == nil {
		c.issued = map[int64]bool{}
	}
	for _, id := range ids {
		if c.issued[id] {
			t.Errorf("%d was issued twice", id)
		}
		c.issued[id] = true
	}
}

// Eight goroutines, by the real clock.
func TestIDConcurrent(t *testing.T) {
	const each = 5000
	var all idChecker
	var ordered [2]idChecker
	var wg sync.WaitGroup
	for s := range uint32(2) {
		var clock wallClock
		c := &ordered[s]
		g := clock.newTestGen(t, IDConfig{
			Layout: IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 12}, Shard: s, Mark: FileMark(filepath.Join(t.TempDir(), "mark")), MarkAhead: 20 * time.Millisecond,
		})
		for i := range 4 {
			wg.Go(func() {
				ids := make([]int64, 1+i*3)
				for n := 0; n < each; n += len(ids) {
					c.next(t, ids, func(ids []int64) (int, error) {
						if len(ids) > 1 {
							return g.NextN(t.Context(), ids)
						}
						id, err := g.Next(t.Context())
						ids[0] = id
						return 1, err
					})
					all.add(t, ids)
				}
			})
		}
	}
	wg.Wait()
	require.GreaterOrEqual(t, len(all.issued), 8*each)
}

// Eight goroutines, while the clock is set to and fro, and the process is restarted.
func TestIDConcurrentSteps(t *testing.T) {
	seeds := uint64(3)
	if underRace {
		seeds = 1
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			var clock wallClock
			var c idChecker
			mark := &memMark{delay: 3 * time.Millisecond}
			layout := IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 3, Epoch: time.Now().Add(-100 * time.Hour)}
			for range 4 {
				g := clock.newTestGen(t, IDConfig{Layout: layout, WaitForClock: true, Mark: mark, MarkAhead: 200 * time.Millisecond})
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						ids := make([]int64, 1+i)
						for range 40 {
							c.next(t, ids, func(ids []int64) (int, error) { return g.NextN(t.Context(), ids) })
							for _, id := range ids {
								if id >= mark.mark.Load() {
									t.Errorf("%d was issued, and the mark is %d", id, mark.mark.Load())
								}
							}
						}
					})
				}
				for range 20 {
					time.Sleep(time.Duration(rng.IntN(5_000_000)))
					clock.step([]time.Duration{-time.Millisecond, -time.Hour, time.Millisecond, time.Second, time.Hour, -3 * time.Second}[rng.IntN(6)])
				}
				wg.Wait()
			}
			require.Len(t, c.issued, 4*40*36, "seed %d", seed)
		})
	}
}

// TestIDModel compares with a naive generator, which knows its clock at any time.
func TestIDModel(t *testing.T) {
	const ms = int64(time.Millisecond)
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			seq := 1 + rng.IntN(3)
			lead := int64(rng.IntN(6))
			regression := int64(rng.IntN(30))
			units := int64(1) << (6 + rng.IntN(10))
			layout := IDLayout{ShardBits: 1 + rng.IntN(3), SequenceBits: seq, Epoch: time.Now().Add(-50 * time.Millisecond)}
			for layout.TimeBits = 1; 1<<layout.TimeBits < units; layout.TimeBits++ {
			}
			var clock wallClock
			// Where regressions are compared, what differs by less than a unit is the same.
			g := clock.newTestGen(t, IDConfig{Layout: layout, Shard: 1, MaxLead: time.Duration(lead*ms + 1), MaxRegression: time.Duration(regression*ms + ms - 1)})

			last, high := int64(-1), int64(0) // a state, and milliseconds
			shown := int64(0)                 // what the clock would show if it was as at the last call
			pace, synced := 50*ms, int64(0)
			base, offset := time.Now(), int64(50)
			for op := range 300 {
				time.Sleep(time.Duration(1+rng.IntN(4)) * time.Millisecond)
				switch rng.IntN(12) {
				case 0:
					clock.step(-time.Millisecond)
				case 1:
					clock.step(-time.Duration(rng.IntN(60)) * time.Millisecond)
				case 2:
					clock.step(time.Duration(rng.IntN(60)) * time.Millisecond)
				case 3:
					time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
				}
				mono := int64(time.Since(base)) / ms
				now := mono + 50 + clock.by.Load()/ms
				shown, offset = mono+offset, now-mono
				pace = max(now*ms, min(pace+(mono-synced)*ms/2, (last>>seq+1)*ms))
				synced = mono
				for call := range 1 + rng.IntN(8) {
					info := fmt.Sprintf("seed %d, operation %d, call %d", seed, op, call)
					if last >= 0 && call == 0 {
						high = max(high, min(shown, last>>seq))
					}
					id, err := g.Next(endedCtx)
					next := max(last+1, now<<seq)
					switch {
					case now < 0 || high-now > regression:
						require.ErrorIs(t, err, ErrClockRegression, info)
						continue
					case now >= units || next>>seq <= pace/ms+lead && next >= units<<seq-1:
						require.ErrorIs(t, err, ErrTimeExhausted, info)
						continue
					case next>>seq > pace/ms+lead:
						require.Error(t, err, info)
						require.True(t, errors.Is(err, context.Canceled) || next >= units<<seq-1 && errors.Is(err, ErrTimeExhausted), info)
						continue
					}
					require.NoError(t, err, info)
					p, err := g.Parse(id)
					require.NoError(t, err, info)
					require.Equal(t, next, int64(p.Time.Sub(g.Layout().Epoch))/ms<<seq|p.Sequence, info)
					require.EqualValues(t, 1, p.Shard, info)
					last = next
				}
			}
		})
	}
}

func TestIDNilContext(t *testing.T) {
	g, err := NewIDGen(IDConfig{})
	require.NoError(t, err)
	var none context.Context
	for range 2 {
		require.PanicsWithValue(t, "shard: ctx must not be nil", func() { _, _ = g.Next(none) })
		require.PanicsWithValue(t, "shard: ctx must not be nil", func() { _, _ = g.NextN(none, make([]int64, 1)) })
		nextID(t, g)
	}
}

func TestIDUnitsOf(t *testing.T) {
	for _, unit := range []time.Duration{1, 2, 3, 7, 1000, 1 << 20, 1e6, 1e6 + 1, 4_194_302, 1 << 21} {
		g, err := NewIDGen(IDConfig{Layout: IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 1, Unit: unit, Epoch: time.Now()}})
		require.NoError(t, err)
		last := g.units * int64(unit)
		check := func(x int64) {
			require.Equal(t, min(max(x, 0)/int64(unit), g.units), g.unitsOf(x), "%d in %v", x, unit)
		}
		for _, x := range []int64{math.MinInt64, -1, 0, 1, last - 1, last, last + 1, math.MaxInt64} {
			check(x)
		}
		for range 1000 {
			x := rand.Int64()
			check(x)
			check(x / int64(unit) * int64(unit))
			check(x/int64(unit)*int64(unit) - 1)
			check(x >> 20)
		}
	}
}

func TestIDAllocs(t *testing.T) {
	if underRace {
		return
	}
	g, err := NewIDGen(IDConfig{Layout: IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 21}})
	require.NoError(t, err)
	l, err := NewIDLocator(g.Layout(), map[uint32]ID{0: "a"})
	require.NoError(t, err)
	ids := make([]int64, 10)
	buf := make([]byte, 0, 11)
	for name, f := range map[string]func(){
		"Next":    func() { _, _ = g.Next(t.Context()) },
		"NextN":   func() { _, _ = g.NextN(t.Context(), ids) },
		"Parse":   func() { _, _ = g.Parse(ids[0]) },
		"ShardOf": func() { _, _ = IDLayout{}.ShardOf(ids[0]) },
		"Locate":  func() { l.Locate(ids[0]) },
		"Route":   func() { _, _ = l.Route(t.Context(), ids[0]) },
		"Append":  func() { buf = AppendBase62(buf[:0], 1<<63) },
		"Base62":  func() { _, _ = ParseBase62("LygHa16AHYF") },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, f), name)
	}
}

// A memMark is a mark in memory, that outlasts generators.
type memMark struct {
	mark         atomic.Int64
	loads, saves atomic.Int64
	delay        time.Duration // of each call, unless the context ends before

	mu    sync.Mutex
	err   error
	hook  func() // called by SaveMark
	tried int64  // the last mark that SaveMark was called with
}

func (m *memMark) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memMark) call(ctx context.Context) error {
	if m.delay > 0 {
		select {
		case <-time.After(m.delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *memMark) LoadMark(ctx context.Context) (int64, error) {
	m.loads.Add(1)
	mark := m.mark.Load()
	m.mu.Lock()
	m.tried = mark
	m.mu.Unlock()
	return mark, m.call(ctx)
}

func (m *memMark) SaveMark(ctx context.Context, mark int64) error {
	m.saves.Add(1)
	m.mu.Lock()
	if mark < m.tried {
		panic(fmt.Sprintf("the mark is to go from %d to %d", m.tried, mark))
	}
	m.tried = mark
	m.mu.Unlock()
	if m.hook != nil {
		m.hook()
	}
	if err := m.call(ctx); err != nil {
		return err
	}
	if old := m.mark.Swap(mark); old > mark {
		panic(fmt.Sprintf("the mark went from %d to %d", old, mark))
	}
	return nil
}

func TestIDMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		m := &memMark{}
		layout := IDLayout{Epoch: time.Now().Add(-1000 * time.Hour)}
		config := IDConfig{Layout: layout, Mark: m}
		g := c.newTestGen(t, config)
		require.Zero(t, m.loads.Load(), "the store was asked by NewIDGen")
		_, err := g.Next(endedCtx)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "shard: saving the mark: context canceled")
		require.Zero(t, m.loads.Load())
		start := time.Now()
		last := int64(0)
		for time.Since(start) < time.Minute {
			id, err := g.Next(t.Context())
			require.NoError(t, err)
			require.Greater(t, id, last)
			require.Less(t, id, m.mark.Load())
			require.True(t, time.Now().Truncate(time.Millisecond).Equal(timeOfID(t, g, id)))
			last = id
			time.Sleep(700 * time.Microsecond)
		}
		require.EqualValues(t, 1, m.loads.Load())
		require.EqualValues(t, 12, m.saves.Load(), "each 5 s")

		// Killed and restarted at once, with the same clock.
		mark := m.mark.Load()
		g = c.newTestGen(t, config)
		id, err := g.Next(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, id, mark)
		require.Less(t, id, m.mark.Load())
		require.LessOrEqual(t, time.Until(timeOfID(t, g, id)), 10*time.Second)
		last = id
		// IDs stay there until the clock has caught up.
		time.Sleep(11 * time.Second)
		id, err = g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, last)
		require.True(t, time.Now().Truncate(time.Millisecond).Equal(timeOfID(t, g, id)))

		// With a clock that is an hour behind, again and again.
		c.step(-time.Hour)
		for range 5 {
			mark = m.mark.Load()
			g = c.newTestGen(t, config)
			id, err = g.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, mark, id)
			require.Equal(t, mark+1, m.mark.Load(), "it is raised by what is needed")
		}
		saves := m.saves.Load()
		for range 1000 {
			last = id
			id, err = g.Next(t.Context())
			require.NoError(t, err)
			require.Greater(t, id, last)
			require.Less(t, id, m.mark.Load())
		}
		require.Equal(t, saves+10, m.saves.Load(), "each time it is raised by twice as much")
		time.Sleep(time.Minute)
		c.step(-time.Minute) // it counts from what the clock has shown, not from the mark
		_, err = g.Next(t.Context())
		require.EqualError(t, err, "shard: the clock is 1m0s behind what it has shown, which is more than 2s: the clock went back")

		// With one that cannot be right, if the mark is.
		mark = m.mark.Load()
		c.step(-25 * time.Hour)
		for range 3 {
			g = c.newTestGen(t, config)
			_, err = g.Next(t.Context())
			require.ErrorIs(t, err, ErrClockRegression)
			require.ErrorContains(t, err, "shard: the mark is 26h")
			require.ErrorContains(t, err, " ahead of the clock, which is more than 24h0m2s: the clock went back")
		}
		require.Equal(t, mark, m.mark.Load(), "restarts do not raise it")
		config.WaitForClock = true
		g = c.newTestGen(t, config)
		start = time.Now()
		id, err = g.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, mark, id)
		require.InDelta(t, 2*time.Hour, time.Since(start), float64(3*time.Minute))
		mark = m.mark.Load()
		c.step(-5 * time.Hour)
		config.MaxRegression = 6 * time.Hour // goes on regardless
		g = c.newTestGen(t, config)
		id, err = g.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, mark, id)
	})
}

// A process that is restarted again and again, by a clock that is right, does not get ahead of it.
func TestIDCrashLoop(t *testing.T) {
	hours := IDLayout{TimeBits: 20, ShardBits: 10, SequenceBits: 33, Unit: time.Hour}
	seconds := IDLayout{TimeBits: 33, ShardBits: 10, SequenceBits: 20, Unit: time.Second}
	starts := 1000
	if underRace {
		starts = 100
	}
	for _, x := range []struct {
		config IDConfig
		every  time.Duration
		burst  int // IDs that each process asks for within a millisecond, after the first
	}{
		{config: IDConfig{}, every: 5 * time.Millisecond},
		{config: IDConfig{}, every: 0},
		{config: IDConfig{Layout: tinyLayout}, every: 20 * time.Millisecond, burst: 1000},
		{config: IDConfig{Layout: tinyLayout, MaxLead: 1}, every: 5 * time.Millisecond, burst: 1000},
		{config: IDConfig{Layout: tinyLayout, MaxLead: time.Minute}, every: 100 * time.Millisecond, burst: 1000},
		{config: IDConfig{MaxLead: time.Minute}, every: 5 * time.Second},
		{config: IDConfig{MaxLead: time.Hour}, every: 10 * time.Minute},
		{config: IDConfig{MaxLead: 1 << 62}, every: time.Second},
		{config: IDConfig{Layout: hours}, every: 10 * time.Minute},
		{config: IDConfig{Layout: seconds}, every: 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			var c wallClock
			m := &memMark{}
			x.config.Mark = m
			x.config.Layout.Epoch = time.Now().Add(-1000 * time.Hour)
			last := int64(-1)
			for i := range starts {
				g := c.newTestGen(t, x.config)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				ids := make([]int64, 1+x.burst)
				n, err := g.NextN(ctx, ids)
				cancel()
				if x.burst == 0 || n == 0 {
					require.NoError(t, err, "%+v: start %d", x.config, i)
				}
				for _, id := range ids[:n] {
					require.Greater(t, id, last)
					require.Less(t, id, m.mark.Load())
					last = id
				}
				most := g.config.MarkAhead + g.layout.Unit
				if x.burst > 0 { // what is issued, and as much again for a reservation
					most += 2*g.config.MaxLead + 2*g.layout.Unit
				}
				require.LessOrEqual(t, time.Until(timeOfID(t, g, last)), most, "%+v: start %d", x.config, i)
				time.Sleep(x.every)
			}
		})
	}
}

// When less is reserved than before the restart, the clock is still right.
func TestIDMarkLowered(t *testing.T) {
	for _, before := range []IDConfig{
		{MarkAhead: time.Hour},
		{MarkAhead: 20 * time.Hour},
		{MaxLead: time.Hour},
		{MarkAhead: time.Hour, MaxLead: time.Hour},
		{MaxRegression: time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			var c wallClock
			m := &memMark{}
			before.Mark = m
			before.Layout = IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 1, Epoch: time.Now().Add(-1000 * time.Hour)}
			ids := make([]int64, 10_000) // 5 s of them
			n, _ := c.newTestGen(t, before).NextN(t.Context(), ids)
			require.Equal(t, len(ids), n)
			time.Sleep(time.Minute)
			id, err := c.newTestGen(t, IDConfig{Mark: m, Layout: before.Layout}).Next(t.Context())
			require.NoError(t, err, "%+v", before)
			require.Greater(t, id, ids[n-1])
		})
	}
}

// After a restart, when IDs are ahead by MarkAhead, half as many can be issued as at other times.
func TestIDMarkedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		m := &memMark{}
		layout := IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 2, Epoch: time.Now().Add(-time.Second)}
		var ch idChecker
		for i := range 3 {
			g := c.newTestGen(t, IDConfig{Layout: layout, Mark: m, MarkAhead: time.Second, MaxLead: 5 * time.Millisecond})
			start := time.Now()
			ids := make([]int64, 1200)
			ch.next(t, ids, func(ids []int64) (int, error) { return g.NextN(t.Context(), ids) })
			require.InDelta(t, []time.Duration{295, 590, 590}[i]*time.Millisecond, time.Since(start), float64(6*time.Millisecond))
		}
		require.Less(t, m.saves.Load(), int64(20))
	})
}

func TestIDMarkFromTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		layout := IDLayout{Epoch: time.Now().Add(-time.Hour)}
		greatest, err := layout.FirstAt(time.Now().Add(time.Second))
		require.NoError(t, err)
		greatest += 3<<10 | 17
		m := &memMark{}
		m.mark.Store(greatest + 1)
		g := c.newTestGen(t, IDConfig{Layout: layout, Mark: m})
		id, err := g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, greatest)
		require.Equal(t, time.Now().Add(time.Second+time.Millisecond).UTC(), timeOfID(t, g, id), "the shard of the mark is higher")

		// The least ID that is not below the mark is the first.
		for _, x := range []struct{ number, mark, first int64 }{
			{2, 0, 2 << 10},
			{2, 1<<10 | 1023, 2 << 10},
			{2, 2 << 10, 2 << 10},
			{2, 2<<10 | 17, 2<<10 | 17},
			{2, 2<<10 | 1023, 2<<10 | 1023},
			{2, 3 << 10, 1<<22 | 2<<10},
			{4095, 4095<<10 | 1023, 4095<<10 | 1023},
			{0, 5<<22 | 1, 5<<22 | 1},
			{4095, math.MaxInt64, math.MaxInt64},
			{4094, math.MaxInt64, 1<<63 - 1<<22 + 4094<<10},
		} {
			g := c.newTestGen(t, IDConfig{Shard: uint32(x.number)})
			if s := g.stateOf(x.mark); s <= g.end {
				require.Equal(t, x.first, g.id(s), "%+v", x)
				require.True(t, s == 0 || g.id(s-1) < x.mark, "%+v", x)
			} else {
				require.Equal(t, g.end+1, s)
			}
		}

		for _, bad := range []int64{-1, 1 << 53, math.MaxInt64} {
			m := &memMark{}
			m.mark.Store(bad)
			g := c.newTestGen(t, IDConfig{Layout: IDLayout{TimeBits: 41, ShardBits: 5, SequenceBits: 6}, Mark: m})
			for range 2 {
				_, err = g.Next(t.Context())
				require.EqualError(t, err, fmt.Sprintf("shard: loading the mark: it must be 0 to %d, got %d", int64(1)<<52, bad))
			}
		}
	})
}

func TestIDMarkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		broken := errors.New("the store is broken")
		m := &memMark{err: broken}
		g := c.newTestGen(t, IDConfig{Mark: m})
		for i := range 3 {
			_, err := g.Next(t.Context())
			require.ErrorIs(t, err, broken)
			require.EqualError(t, err, "shard: loading the mark: the store is broken")
			require.EqualValues(t, i+1, m.loads.Load())
		}
		m.fail(nil)
		last, err := g.Next(t.Context())
		require.NoError(t, err)
		mark := m.mark.Load()

		// When it fails, IDs below the mark go on being issued, and few callers are troubled.
		m.fail(broken)
		saves := m.saves.Load()
		start := time.Now()
		for {
			id, err := g.Next(t.Context())
			if err != nil {
				require.ErrorIs(t, err, broken)
				require.EqualError(t, err, "shard: saving the mark: the store is broken")
				break
			}
			require.Greater(t, id, last)
			require.Less(t, id, mark)
			last = id
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, 10*time.Second, time.Since(start))
		require.LessOrEqual(t, m.saves.Load()-saves, int64(6))
		_, err = g.Next(t.Context())
		require.ErrorIs(t, err, broken)
		c.step(-time.Second) // what has failed may have been saved, so the next mark must not be lower
		time.Sleep(time.Millisecond)
		n, err := g.NextN(t.Context(), make([]int64, 1024))
		require.ErrorIs(t, err, broken)
		require.Less(t, n, 1024)
		m.fail(nil)
		id, err := g.Next(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, id, mark)
	})
}

// Of many who need the mark, one calls the store, and nobody waits longer than he wants, nor less.
func TestIDMarkWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		m := &memMark{delay: time.Second}
		g := c.newTestGen(t, IDConfig{Mark: m})
		var ok, late atomic.Int64
		start := time.Now()
		for i := range 100 {
			wait := 10 * time.Second
			if i%10 == 0 {
				wait = 100 * time.Millisecond
			}
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				_, err := g.Next(ctx)
				switch {
				case err == nil:
					ok.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
					if time.Since(start) != wait {
						t.Errorf("gave up after %v", time.Since(start))
					}
				default:
					t.Error(err)
				}
			}()
			synctest.Wait() // so the first one, who gives up, has called the store
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 10, late.Load())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 90, ok.Load())
		require.EqualValues(t, 2, m.loads.Load())
		require.EqualValues(t, 1, m.saves.Load())
	})
}

// A store that hangs holds up the one who calls it early, and nobody else until the mark.
func TestIDMarkHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		hang := make(chan struct{})
		m := &memMark{}
		g := c.newTestGen(t, IDConfig{Mark: m})
		_, err := g.Next(t.Context())
		require.NoError(t, err)
		mark := m.mark.Load()
		m.hook = func() { <-hang }
		time.Sleep(6 * time.Second)
		var early atomic.Int64
		go func() {
			id, err := g.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			early.Store(id)
		}()
		synctest.Wait()
		require.Zero(t, early.Load())
		last := int64(0)
		for range 3900 {
			id := nextID(t, g)
			require.Greater(t, id, last)
			require.Less(t, id, mark)
			last = id
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "shard: waiting for the mark to be saved: context deadline exceeded")
		close(hang)
		synctest.Wait()
		require.NotZero(t, early.Load())
		id, err := g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, last)
	})
}

// A store that panics leaves the generator whole.
func TestIDMarkPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		m := &memMark{hook: func() { panic("store") }}
		g := c.newTestGen(t, IDConfig{Mark: m})
		for range 3 {
			require.PanicsWithValue(t, "store", func() { _, _ = g.Next(t.Context()) })
		}
		m.hook = nil
		last, err := g.Next(t.Context())
		require.NoError(t, err)
		m.hook = func() { panic("store") }
		time.Sleep(6 * time.Second)
		require.Panics(t, func() { _, _ = g.Next(t.Context()) }, "the early save")
		id := nextID(t, g) // and not again soon
		require.Greater(t, id, last)
		m.hook = nil
		time.Sleep(6 * time.Second)
		id2, err := g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id2, id)
	})
}

func TestIDFileMark(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mark")
	ctx := t.Context()
	m := FileMark(path)
	mark, err := m.LoadMark(ctx)
	require.NoError(t, err)
	require.Zero(t, mark)
	require.NoError(t, m.SaveMark(ctx, 17))
	require.NoError(t, m.SaveMark(ctx, math.MaxInt64-1))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "9223372036854775806\n", string(text))
	mark, err = FileMark(path).LoadMark(ctx)
	require.NoError(t, err)
	require.Equal(t, int64(math.MaxInt64-1), mark)
	require.ErrorContains(t, m.SaveMark(ctx, 18), "must not be set back to 18")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no other file is left")

	for _, bad := range []string{"", "\n", "x\n", "-1\n", "9223372036854775808\n", "1 2\n", "1\n2\n", "252719", "7\n ", strings.Repeat("1", 1<<20)} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o644))
		_, err := FileMark(path).LoadMark(ctx)
		require.ErrorContains(t, err, path+" must have a number of at least 0 and the end of a line, got ")
		require.Less(t, len(err.Error()), len(path)+200)
		require.Error(t, FileMark(path).SaveMark(ctx, 1))
	}
	require.NoError(t, os.WriteFile(path, []byte(" 12\r\n"), 0o644)) // by an editor
	mark, err = FileMark(path).LoadMark(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 12, mark)

	// Somebody else has written.
	require.NoError(t, os.WriteFile(path, []byte("100\n"), 0o644))
	a, b := FileMark(path), FileMark(path)
	for _, m := range []MarkStore{a, b} {
		mark, err := m.LoadMark(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 100, mark)
	}
	require.NoError(t, a.SaveMark(ctx, 200))
	require.EqualError(t, b.SaveMark(ctx, 300), path+" has 200, not 100: another generator with the same number of a shard writes to it")
	require.NoError(t, a.SaveMark(ctx, 300))
	require.NoError(t, os.Remove(path))
	require.NoError(t, a.SaveMark(ctx, 400), "it was deleted")

	// A directory that is not there, is none, or is in the way.
	require.Error(t, FileMark(filepath.Join(dir, "none", "mark")).SaveMark(ctx, 1))
	require.Error(t, FileMark(filepath.Join(path, "mark")).SaveMark(ctx, 1))
	_, err = FileMark(dir).LoadMark(ctx)
	require.ErrorContains(t, err, dir+" must be a regular file, got d")
	require.Error(t, FileMark(dir).SaveMark(ctx, 1))
	require.Error(t, FileMark("").SaveMark(ctx, 1))
	require.NoError(t, os.Rename(path, path+"2"))
	require.NoError(t, os.Mkdir(path, 0o755))
	require.Error(t, a.SaveMark(ctx, 500))
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Rename(path+"2", path))
	require.NoError(t, a.SaveMark(ctx, 500), "after an error it goes on")
}

// A mark that is a link, as into a volume, stays one, and what it leads to is written.
func TestIDFileMarkLink(t *testing.T) {
	ctx := t.Context()
	dir, volume := t.TempDir(), t.TempDir()
	file, link := filepath.Join(volume, "mark"), filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "second"), link); err != nil {
		return // a system without links, or that lets only some make them
	}
	require.NoError(t, os.Symlink(file, filepath.Join(dir, "second")))
	for range 2 { // the volume is not there
		_, err := FileMark(link).LoadMark(ctx)
		require.ErrorContains(t, err, link+" is a link that leads nowhere: ")
		require.Error(t, FileMark(link).SaveMark(ctx, 5))
	}
	require.NoError(t, os.WriteFile(file, []byte("17\n"), 0o644))
	m := FileMark(link)
	mark, err := m.LoadMark(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 17, mark)
	require.NoError(t, m.SaveMark(ctx, 1000))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "1000\n", string(text))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

// TestIDKill kills a process that issues IDs, and goes on with a clock that is an hour behind.
func TestIDKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mark")
	config := IDConfig{Shard: 3, Mark: FileMark(path), MarkAhead: 30 * time.Millisecond}
	if file := os.Getenv("SHARD_TEST_MARK"); file != "" {
		config.Mark = FileMark(file)
		g, err := NewIDGen(config)
		for err == nil {
			var id int64
			if id, err = g.Next(context.Background()); err == nil {
				_, err = fmt.Println("ID", id)
			}
		}
		t.Fatal(err)
	}
	seen := int64(0)
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestIDKill$", "-test.timeout=30s")
		cmd.Env = append(os.Environ(), "SHARD_TEST_MARK="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		err = cmd.Start()
		if errors.Is(err, syscall.ENOEXEC) {
			return // an emulated program cannot start itself
		}
		require.NoError(t, err)
		before, lines := seen, 0
		var id int64
		for n := 1; n == 1; {
			n, _ = fmt.Fscanf(out, "ID %d\n", &id)
			if n == 1 {
				require.Greater(t, id, seen)
				seen = id
			}
			if lines++; lines == 5000 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait()
		require.Greater(t, lines, 5000, "round %d", round)
		require.Greater(t, seen, before)

		var clock wallClock
		clock.step(-time.Hour)
		config.Mark = FileMark(path)
		g, err := newIDGen(config, func() time.Duration { return time.Duration(clock.by.Load()) })
		require.NoError(t, err)
		id, err = g.Next(t.Context())
		require.NoError(t, err)
		require.Greater(t, id, seen)
		seen = id
	}
}
