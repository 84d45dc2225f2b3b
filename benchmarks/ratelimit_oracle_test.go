package benchmarks

import (
	"cmp"
	"fmt"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	juju "github.com/juju/ratelimit"
	"github.com/stretchr/testify/require"
	uber "go.uber.org/ratelimit"
	xrate "golang.org/x/time/rate"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A grant is n tokens that were allowed at a time, by the clock that the caller has read. With a limit, it
// is the change to that limit instead.
type grant struct {
	at    time.Duration
	n     int64
	limit ratelimit.Limit
}

// A verdict says by how much a limiter has exceeded its limit, in the interval where it was most: how
// many were admitted there, and how many may have been.
type verdict struct {
	total               int64 // admitted in all
	interval            time.Duration
	admitted, allowance int64
}

func (v verdict) excess() int64 { return max(0, v.admitted-v.allowance) }

// judge is the oracle: in every interval, Burst + floor(elapsed·Count/Per) may be admitted.
//
// It follows the exact level of a bucket in rational numbers: what is in it flows out at Count/Per. How far
// the level is above Burst is how much the interval since the bucket was last empty has exceeded; no
// other interval that ends then has exceeded more. If limits change, each flows for its time.
func judge(l ratelimit.Limit, grants []grant) verdict {
	slices.SortStableFunc(grants, func(a, b grant) int { return cmp.Compare(a.at, b.at) })
	burst := func() int64 { return cmp.Or(l.Burst, l.Count) }
	level, flown := new(big.Rat), new(big.Rat) // flown: since the bucket was empty
	var v verdict
	var since, last time.Duration
	var admitted int64 // since then
	first := true
	for _, g := range grants {
		if d := g.at - last; d > 0 && !first {
			flow := new(big.Rat).SetFrac(
				new(big.Int).Mul(big.NewInt(int64(d)), big.NewInt(l.Count)), big.NewInt(int64(l.Per)))
			flown.Add(flown, flow)
			if level.Sub(level, flow); level.Sign() < 0 {
				level.SetInt64(0)
			}
		}
		last = g.at
		if g.limit != (ratelimit.Limit{}) {
			l = g.limit
			continue
		}
		first = false
		if level.Sign() == 0 {
			since, admitted = g.at, 0
			flown.SetInt64(0)
		}
		v.total += g.n
		admitted += g.n
		level.Add(level, new(big.Rat).SetInt64(g.n))
		allowance := burst() + new(big.Int).Quo(flown.Num(), flown.Denom()).Int64()
		if v.allowance == 0 || admitted-allowance > v.admitted-v.allowance {
			v.interval, v.admitted, v.allowance = g.at-since, admitted, allowance
		}
	}
	return v
}

// TestJudge compares the oracle with its definition, interval by interval.
func TestJudge(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	exceeded := 0
	for range 2000 {
		l := ratelimit.Limit{Count: 1 + rng.Int64N(5), Per: time.Duration(1 + rng.Int64N(9)), Burst: 1 + rng.Int64N(6)}
		grants := make([]grant, rng.IntN(20))
		for i := range grants {
			grants[i] = grant{at: time.Duration(rng.Int64N(30)), n: rng.Int64N(4)}
		}
		got := judge(l, slices.Clone(grants))
		var want, total int64
		for _, from := range grants {
			total += from.n
			for _, to := range grants {
				sum := -l.Burst - int64(to.at-from.at)*l.Count/int64(l.Per)
				for _, g := range grants {
					if from.at <= g.at && g.at <= to.at {
						sum += g.n
					}
				}
				if from.at <= to.at {
					want = max(want, sum)
				}
			}
		}
		require.Equal(t, want, got.excess(), "seed %d: %v, %v", seed, l, grants)
		require.Equal(t, total, got.total)
		if want > 0 {
			exceeded++
		}
	}
	require.Positive(t, exceeded)
}

// A driven is a limiter in a schedule, in which time stands still unless the schedule sleeps. Times are
// what callers have read, perhaps some time ago.
type driven struct {
	allow func(read time.Time, n int64) bool
	// reserve returns when the tokens may be used, and what gives them back. What cannot be passed a time
	// reads the clock itself.
	reserve  func(read time.Time, n int64) (at time.Time, cancel func(read time.Time))
	setLimit func(read time.Time, l ratelimit.Limit)
}

// driveOurs passes the time to AllowAt. Reserve, Cancel and SetLimit take none.
func driveOurs(tb testing.TB, l ratelimit.Limit) driven {
	b := must(ratelimit.NewBucket(l))(tb)
	return driven{
		allow: b.AllowAt,
		reserve: func(_ time.Time, n int64) (time.Time, func(time.Time)) {
			r, ok := b.Reserve(n, time.Hour)
			require.True(tb, ok)
			return time.Now().Add(r.Delay()), func(time.Time) { r.Cancel() }
		},
		setLimit: func(_ time.Time, l ratelimit.Limit) { require.NoError(tb, b.SetLimit(l)) },
	}
}

func perSecond(l ratelimit.Limit) float64 { return float64(l.Count) / l.Per.Seconds() }

func driveXTime(tb testing.TB, l ratelimit.Limit) driven {
	x := xrate.NewLimiter(xrate.Limit(perSecond(l)), int(cmp.Or(l.Burst, l.Count)))
	return driven{
		allow: func(read time.Time, n int64) bool { return x.AllowN(read, int(n)) },
		reserve: func(read time.Time, n int64) (time.Time, func(time.Time)) {
			r := x.ReserveN(read, int(n))
			require.True(tb, r.OK())
			return read.Add(r.DelayFrom(read)), r.CancelAt
		},
		setLimit: func(read time.Time, l ratelimit.Limit) {
			x.SetLimitAt(read, xrate.Limit(perSecond(l)))
			x.SetBurstAt(read, int(cmp.Or(l.Burst, l.Count)))
		},
	}
}

// driveJuju reads the clock itself, while it holds its lock: so no time is ever stale. It can neither
// cancel nor change.
func driveJuju(_ testing.TB, l ratelimit.Limit) driven {
	b := juju.NewBucketWithRate(perSecond(l), cmp.Or(l.Burst, l.Count))
	return driven{allow: func(_ time.Time, n int64) bool {
		_, ok := b.TakeMaxDuration(n, 0)
		return ok
	}}
}

// driveUber is for those who wait: what it is asked for, it allows in its time.
func driveUber(_ testing.TB, l ratelimit.Limit) driven {
	x := uber.New(int(l.Count), uber.Per(l.Per), uber.WithSlack(int(l.Burst)-1))
	return driven{allow: func(time.Time, int64) bool {
		x.Take()
		return true
	}}
}

// A run is one limiter in one schedule.
type run struct {
	driven
	start  time.Time
	grants []grant
	// ownClock is whether the limiter reads the clock itself, so that what it allows counts then.
	ownClock bool
}

// allow asks for n tokens with a time that was read so long ago.
func (r *run) allow(ago time.Duration, n int64) bool {
	read := time.Now().Add(-ago)
	if !r.driven.allow(read, n) {
		return false
	}
	if r.ownClock {
		read = time.Now()
	}
	r.grants = append(r.grants, grant{at: read.Sub(r.start), n: n})
	return true
}

// reserve reserves n tokens, which are used when they may be, unless cancel is called.
func (r *run) reserve(ago time.Duration, n int64) (cancel func(ago time.Duration)) {
	at, undo := r.driven.reserve(time.Now().Add(-ago), n)
	i := len(r.grants)
	r.grants = append(r.grants, grant{at: at.Sub(r.start), n: n})
	return func(ago time.Duration) {
		undo(time.Now().Add(-ago))
		r.grants[i].n = 0 // not used
	}
}

func (r *run) setLimit(ago time.Duration, l ratelimit.Limit) {
	r.driven.setLimit(time.Now().Add(-ago), l)
	r.grants = append(r.grants, grant{at: time.Since(r.start), limit: l})
}

// What a schedule does besides asking: not all limiters can.
const (
	reserves = 1 << iota // and cancels, or sets the limit
	streams              // asks so often that limiters that block can take part
)

// schedules provoke, one after the other, what limiters are known to do wrong, or might. What ours and x/time
// admit in all, and how much too much x/time does, is asserted, since it is published.
//
// x/time is given the time, or reads it before it takes its lock. When it allows something at an earlier time
// than what it has allowed before, its clock goes back there (golang/go#65508, golang/go#71360), and the time in
// between comes in once more. What it refuses leaves its clock as it is.
var schedules = []struct {
	name, why           string
	limit               ratelimit.Limit
	kind                int
	do                  func(r *run)
	ours, xtime, excess int64
}{
	{
		name: "in order", why: "Each caller decides at the time that it has read.",
		limit: ratelimit.PerSecond(1000).WithBurst(20),
		do: func(r *run) {
			for range 10_000 {
				r.allow(0, 1)
				time.Sleep(137 * time.Microsecond)
			}
		},
		ours: 1389, xtime: 1389, excess: 0,
	},
	{
		name: "frozen clock", why: "All ask at the same moment.",
		limit: ratelimit.PerSecond(1000).WithBurst(20),
		do: func(r *run) {
			for range 1000 {
				r.allow(0, 1)
			}
		},
		ours: 20, xtime: 20, excess: 0,
	},
	{
		name: "frozen clock, 5 in a ns", why: "A wait of less than a nanosecond is rounded down to none.",
		limit: ratelimit.PerSecond(5e9).WithBurst(1),
		do: func(r *run) {
			for range 1000 {
				r.allow(0, 1)
			}
		},
		ours: 1, xtime: 5, excess: 4,
	},
	{
		name: "one late caller", why: "One of the callers has read the clock 10 s ago: the limiter's goes back there, " +
			"and those 10 s come in once more.",
		limit: ratelimit.PerSecond(10).WithBurst(100),
		do: func(r *run) {
			time.Sleep(10 * time.Second)
			r.allow(0, 99)
			r.allow(10*time.Second, 1)
			r.allow(0, 100)
		},
		ours: 99, xtime: 200, excess: 99,
	},
	{
		name: "two callers", why: "Every other caller has read the clock 20 ms before (golang/go#71360).",
		limit: ratelimit.PerSecond(100).WithBurst(10),
		do: func(r *run) {
			time.Sleep(20 * time.Millisecond)
			for range 5000 {
				r.allow(0, 1)
				r.allow(20*time.Millisecond, 1)
			}
		},
		ours: 10, xtime: 10000, excess: 9988,
	},
	{
		name: "contention", why: "A million calls a second read the clock, and decide 200 us later on average, in " +
			"another order (golang/go#65508). juju's tokens come at ticks, so one may come early.",
		limit: ratelimit.PerSecond(100_000).WithBurst(100),
		do: func(r *run) {
			type call struct{ read, decide time.Duration }
			rng := rand.New(rand.NewPCG(1, 1))
			calls := make([]call, 30_000)
			for i := range calls {
				read := time.Duration(i) * time.Microsecond
				calls[i] = call{read, read + time.Duration(rng.ExpFloat64()*float64(200*time.Microsecond))}
			}
			slices.SortFunc(calls, func(a, b call) int { return cmp.Compare(a.decide, b.decide) })
			for _, c := range calls {
				time.Sleep(c.decide - time.Since(r.start))
				r.allow(c.decide-c.read, 1)
			}
		},
		ours: 3097, xtime: 30000, excess: 26901,
	},
	{
		name: "late reservations", why: "As with two callers, who reserve, and then wait as they are told.",
		limit: ratelimit.PerSecond(100).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			time.Sleep(20 * time.Millisecond)
			for range 500 {
				r.reserve(0, 1)
				r.reserve(20*time.Millisecond, 1)
			}
		},
		ours: 1000, xtime: 1000, excess: 988,
	},
	{
		name: "cancelled twice", why: "A reservation is cancelled, and once more by a defer: it is refunded twice.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			r.allow(0, 10)
			cancel := r.reserve(0, 10)
			time.Sleep(5 * time.Second)
			cancel(0)
			cancel(0)
			r.allow(0, 10)
		},
		ours: 10, xtime: 20, excess: 5,
	},
	{
		name: "cancelled by a late caller", why: "Who cancels has read the clock 6 s ago: it goes back there.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			r.allow(0, 10)
			cancel := r.reserve(0, 10)
			time.Sleep(6 * time.Second)
			r.reserve(0, 1)
			cancel(6 * time.Second)
			r.allow(0, 10)
		},
		ours: 11, xtime: 21, excess: 4,
	},
	{
		name: "cancelled under another limit", why: "What was reserved later is counted at the former rate, and " +
			"comes earlier: the refund is 9 of 5.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			r.allow(0, 10)
			cancel := r.reserve(0, 5)
			r.setLimit(0, ratelimit.PerSecond(10))
			r.reserve(0, 5)
			cancel(0)
			time.Sleep(time.Second)
			for range 10 {
				r.allow(0, 1)
			}
		},
		ours: 15, xtime: 24, excess: 4,
	},
	{
		name: "cancelled a moment later", why: "What could be used at once is not refunded a moment later, although " +
			"nobody has taken anything.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			cancel := r.reserve(0, 5)
			time.Sleep(time.Millisecond)
			cancel(0)
			r.allow(0, 10)
		},
		ours: 10, xtime: 0, excess: 0,
	},
	{
		name: "cancelled in the middle", why: "Somebody has reserved behind: what could be refunded is not, by either.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			r.allow(0, 10)
			cancel := r.reserve(0, 5)
			r.reserve(0, 5)
			cancel(0)
			time.Sleep(10 * time.Second)
			for range 10 {
				r.allow(0, 1)
			}
		},
		ours: 15, xtime: 15, excess: 0,
	},
	{
		name: "cancelled at once", why: "Others have taken at the same moment: x/time refunds; ours never does when others " +
			"have taken since.",
		limit: ratelimit.PerSecond(1).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			cancel := r.reserve(0, 5)
			r.allow(0, 5)
			cancel(0)
			r.allow(0, 5)
		},
		ours: 5, xtime: 10, excess: 0,
	},
	{
		name: "limit set by a late caller", why: "The limit is set to what it is, with a time of 20 ms ago: the clock goes " +
			"back, whatever is there.",
		limit: ratelimit.PerSecond(100).WithBurst(10),
		kind:  reserves,
		do: func(r *run) {
			time.Sleep(20 * time.Millisecond)
			for range 1000 {
				r.setLimit(20*time.Millisecond, ratelimit.PerSecond(100).WithBurst(10))
				r.allow(0, 1)
			}
		},
		ours: 10, xtime: 1000, excess: 990,
	},
	{
		name: "steady stream", why: "Intervals of 1428.57 ns are rounded down by juju and uber, by 0.04 %.",
		limit: ratelimit.PerSecond(700_000).WithBurst(10),
		kind:  streams,
		do: func(r *run) {
			for time.Since(r.start) < 100*time.Millisecond {
				r.allow(0, 1)
				time.Sleep(700 * time.Nanosecond)
			}
		},
		ours: 69988, xtime: 70009, excess: 0,
	},
}

// xtimeVersion is what the figures of schedules are of.
const xtimeVersion = "golang.org/x/time v0.16.0"

// TestOracleOfPeers runs every schedule with every limiter that can be driven so, and logs what was
// admitted. Ours never exceeds its limit; what x/time does is as published.
func TestOracleOfPeers(t *testing.T) {
	var table oracleTable
	for _, s := range schedules {
		for _, in := range []struct {
			name     string
			drive    func(testing.TB, ratelimit.Limit) driven
			ownClock bool
			fits     bool
		}{
			{"sysblocks", driveOurs, false, true},
			{"xtime", driveXTime, false, true},
			{"juju", driveJuju, true, s.kind != reserves},
			{"uber", driveUber, true, s.kind == streams},
		} {
			if !in.fits {
				continue
			}
			var v verdict
			synctest.Test(t, func(t *testing.T) {
				r := &run{driven: in.drive(t, s.limit), start: time.Now(), ownClock: in.ownClock}
				s.do(r)
				v = judge(s.limit, r.grants)
			})
			table.add(s.name, s.limit, in.name, v)
			switch in.name {
			case "sysblocks":
				require.Zero(t, v.excess(), "%s: %+v", s.name, v)
				require.Equal(t, s.ours, v.total, s.name)
			case "xtime":
				require.Equal(t, s.xtime, v.total, "%s, with %s", s.name, xtimeVersion)
				require.Equal(t, s.excess, v.excess(), "%s, with %s: %+v", s.name, xtimeVersion, v)
			}
		}
		table.explain(s.name, s.why)
	}
	table.log(t)
}

// TestOracleOfPeersConcurrent asks from 64 goroutines by the real clock. What x/time admits too much depends on
// how they are scheduled, so it is only logged.
func TestOracleOfPeersConcurrent(t *testing.T) {
	const goroutines, calls = 64, 1500
	l := ratelimit.PerSecond(100_000).WithBurst(10)
	var table oracleTable
	for _, in := range []struct {
		name string
		make func() func(read time.Time) bool
	}{
		{"sysblocks", func() func(time.Time) bool {
			b := must(ratelimit.NewBucket(l))(t)
			return func(read time.Time) bool { return b.AllowAt(read, 1) }
		}},
		{"xtime", func() func(time.Time) bool {
			x := xrate.NewLimiter(xrate.Limit(perSecond(l)), int(l.Burst))
			return func(read time.Time) bool { return x.AllowN(read, 1) }
		}},
	} {
		var mu sync.Mutex
		var grants []grant
		var wg sync.WaitGroup
		start := time.Now()
		allow := in.make()
		for range goroutines {
			wg.Go(func() {
				var mine []grant
				for range calls {
					read := time.Now()
					runtime.Gosched()
					if allow(read) {
						mine = append(mine, grant{at: read.Sub(start), n: 1})
					}
				}
				mu.Lock()
				defer mu.Unlock()
				grants = append(grants, mine...)
			})
		}
		wg.Wait()
		v := judge(l, grants)
		table.add("callers yield", l, in.name, v)
		if in.name == "sysblocks" {
			require.Zero(t, v.excess(), "%+v", v)
		}
	}
	table.explain("callers yield", "64 goroutines read the clock, yield the processor, and decide.")

	// The same without a delay of ours, and with the time that each limiter reads itself: so only the whole
	// time is known, and what it allows.
	for _, in := range bucketImpls {
		var admitted atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		allow := in.make(t, l.Count, l.Burst)
		for range goroutines {
			wg.Go(func() {
				for range calls {
					if allow() {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		v := verdict{total: admitted.Load(), admitted: admitted.Load(), interval: time.Since(start)}
		l := l.WithBurst(in.burst(l.Count, l.Burst))
		flown := new(big.Int).Mul(big.NewInt(int64(v.interval)), big.NewInt(l.Count))
		v.allowance = l.Burst + flown.Quo(flown, big.NewInt(int64(l.Per))).Int64()
		table.add("callers do not wait", l, in.name, v)
		if in.name == "sysblocks" {
			require.Zero(t, v.excess(), "%+v", v)
		}
	}
	table.explain("callers do not wait", "64 goroutines ask as fast as they can; the limiter reads the clock.")
	table.log(t)
}

// An oracleTable is what is logged.
type oracleTable struct {
	rows, reasons strings.Builder
	last          string
}

func (o *oracleTable) add(schedule string, l ratelimit.Limit, limiter string, v verdict) {
	if schedule == o.last {
		schedule = ""
	} else {
		o.last = schedule
	}
	fmt.Fprintf(&o.rows, "%s\t%v\t%s\t%d\t%v\t%d\t%d\t%d\t%.2f %%\t\n", schedule, l, limiter,
		v.total, v.interval, v.admitted, v.allowance, v.excess(), 100*float64(v.excess())/float64(max(1, v.allowance)))
}

func (o *oracleTable) explain(schedule, why string) {
	fmt.Fprintf(&o.reasons, "%s: %s\n", schedule, why)
}

// log writes, for each schedule and limiter, how much it admitted in all, and then of the interval in which it
// exceeded its limit most: its length, what was admitted, what may have been, and the difference.
func (o *oracleTable) log(t *testing.T) {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "schedule\tlimit\tlimiter\tadmitted\tin the worst\tadmitted\tallowance\texcess\t\t")
	fmt.Fprint(w, o.rows.String())
	_ = w.Flush()
	t.Logf("\n%s\n%s", out.String(), o.reasons.String())
}
