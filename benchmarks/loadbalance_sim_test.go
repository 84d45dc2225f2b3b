package benchmarks

import (
	"cmp"
	eventheap "container/heap"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	kratosp2c "github.com/go-kratos/kratos/v2/selector/p2c"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/plot"
	"github.com/sysblocks/sysblocks/loadbalance"
)

// The simulation is a test, as only in one can the clock that the library reads be another than the computer's. With -v it
// prints its tables:
//
//	go test -run=Simulation -v -sim.hosts=100 -sim.requests=1000000 -sim.svg=. .
var (
	simHosts    = flag.Int("sim.hosts", 20, "hosts of the simulation of loadbalance")
	simRequests = flag.Int("sim.requests", 12_000, "requests that are simulated for each policy")
	simLoad     = flag.Float64("sim.load", 0.7, "part of what all hosts can do that is asked of them")
	simSeed     = flag.Uint64("sim.seed", 1, "seed of arrivals, of service times, and of our choices")
	simSVG      = flag.String("sim.svg", "", "draw sim-shares.svg and sim-latency.svg into this `directory`")
)

const (
	simWorkers   = 4                      // of each host; who finds none free waits, and is served in turn
	simService   = 10 * time.Millisecond  // the mean of service times, which are exponentially distributed
	simSlowness  = 10                     // how many times longer the slow host takes
	simFailure   = 100 * time.Microsecond // what the failing host takes to answer with an error
	simSlow      = 0                      // who is slow
	simFailing   = 1                      // who fails
	simQuarters  = 4
	simSlowStart = time.Second
)

// A simPolicy is one way to balance in the simulation.
type simPolicy struct {
	name string
	// policy is ours, or make makes a peer for so many hosts.
	policy loadbalance.Policy
	make   func(tb testing.TB, n int, weighted bool) chooser
	// goesByLoad says that who is new looks idle, or fast, or slow.
	goesByLoad bool
}

func simPolicies() []simPolicy {
	return []simPolicy{
		{name: "RoundRobin", policy: loadbalance.RoundRobin()},
		{name: "SmoothWeightedRoundRobin", policy: loadbalance.SmoothWeightedRoundRobin()},
		{name: "Random", policy: loadbalance.Random()},
		{name: "WeightedRandom", policy: loadbalance.WeightedRandom()},
		{name: "LeastConnections", policy: loadbalance.LeastConnections(), goesByLoad: true},
		{name: "WeightedLeastConnections", policy: loadbalance.WeightedLeastConnections(), goesByLoad: true},
		{name: "PowerOfTwoChoices", policy: loadbalance.PowerOfTwoChoices(), goesByLoad: true},
		{name: "LeastResponseTime", policy: loadbalance.LeastResponseTime(), goesByLoad: true},
		{name: "IPHash", policy: loadbalance.IPHash()},
		{name: "ConsistentHash, no bound", policy: loadbalance.ConsistentHash(maglev, 0)},
		{name: "ConsistentHash, bound 1.25", policy: loadbalance.ConsistentHash(maglev, 1.25)},
		{name: "PreferZone", policy: loadbalance.PreferZone(nil), goesByLoad: true},
		{name: "kratos p2c", make: kratosChooser(kratosp2c.NewBuilder)},
		{name: "go-zero p2c", make: gozeroP2C},
		{name: "gRPC least_request", make: grpcLeastRequest},
	}
}

// A simCase is one run.
type simCase struct {
	hosts, requests int
	load            float64
	seed            uint64
	// broken has a slow host and a failing one. Otherwise all are well, and one more is added after half of the requests.
	broken    bool
	eject     bool
	slowStart time.Duration
}

func (c simCase) added() int { return c.hosts }

// rate returns how many requests come in a second.
func (c simCase) rate() float64 {
	one := float64(simWorkers) / simService.Seconds()
	capacity := one * float64(c.hosts)
	if c.broken {
		capacity = one * (float64(c.hosts-2) + 1/float64(simSlowness)) // who fails does no work
	}
	return c.load * capacity
}

// A simResult is what came out. What the first fifth of the requests met is left out of all but the
// quarters, as nobody was known then.
type simResult struct {
	P50, P99      time.Duration        // of those that succeeded
	Slow, Failing float64              // their requests, as multiples of the fair share
	Quarters      [simQuarters]float64 // of Failing, over all requests
	Failed, Asked int
	First100ms    float64 // of the host that was added: its requests in that time, as a multiple of the fair share
	FirstSecond   float64
	latencies     []time.Duration // sorted
}

// A simRequest is a request that comes, and what it would take of a host that is well; the same with all policies.
type simRequest struct {
	came, work time.Duration
	number     int
	hash       uint64
	done       func(failed bool)
}

type simEvent struct {
	at   time.Duration
	host int
	r    *simRequest // which ends there
}

// simEvents are a heap by time. There are none at the same time.
type simEvents []simEvent

func (e simEvents) Len() int           { return len(e) }
func (e simEvents) Less(i, j int) bool { return e[i].at < e[j].at }
func (e simEvents) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *simEvents) Push(x any)        { *e = append(*e, x.(simEvent)) }
func (e *simEvents) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = simEvent{}
	*e = (*e)[:last]
	return x
}

// A simHost serves as many at once as it has workers.
type simHost struct {
	busy    int
	waiting []*simRequest
}

// simulate runs one policy in a bubble of its own, where time passes only while all wait for it.
func simulate(t *testing.T, p simPolicy, c simCase) (result simResult) {
	synctest.Test(t, func(t *testing.T) { result = c.run(t, p) })
	return result
}

func (c simCase) run(t *testing.T, p simPolicy) simResult {
	balancer, grow := c.balancer(t, p)
	random := rand.New(rand.NewPCG(c.seed, 1))
	start := time.Now()
	hosts := make([]simHost, c.hosts+1)
	var ends simEvents
	var result simResult
	picked := make([]int, c.hosts+1)
	var quarters [simQuarters][2]int // to the failing host, and to all
	var recent [2][2]int             // to the added host, and to all, in the first 100 ms and in the first second
	serve := func(now time.Duration, host int, r *simRequest) {
		work := r.work
		if c.broken && host == simSlow {
			work *= simSlowness
		}
		hosts[host].busy++
		eventheap.Push(&ends, simEvent{now + work, host, r})
	}
	end := func(e simEvent) {
		failed := c.broken && e.host == simFailing
		e.r.done(failed)
		counts := e.r.number >= c.requests/5
		switch {
		case counts && failed:
			result.Failed++
		case counts:
			result.latencies = append(result.latencies, e.at-e.r.came)
		}
		if failed {
			return
		}
		h := &hosts[e.host]
		h.busy--
		if len(h.waiting) > 0 {
			next := h.waiting[0]
			h.waiting = h.waiting[1:]
			serve(e.at, e.host, next)
		}
	}
	var now, grown time.Duration
	for number := range c.requests {
		now += time.Duration(random.ExpFloat64()/c.rate()*1e9) + 1
		r := &simRequest{came: now, work: time.Duration(random.ExpFloat64()*float64(simService)) + 1, number: number, hash: random.Uint64()}
		for len(ends) > 0 && ends[0].at <= now {
			e := eventheap.Pop(&ends).(simEvent)
			time.Sleep(e.at - time.Since(start))
			end(e)
		}
		time.Sleep(now - time.Since(start))
		if !c.broken && number == c.requests/2 && grow != nil {
			grow()
			grown = now
		}
		i, done := balancer(r.hash)
		require.GreaterOrEqual(t, i, 0)
		r.done = done
		quarter := &quarters[number*simQuarters/c.requests]
		quarter[1]++
		if number >= c.requests/5 {
			result.Asked++
			picked[i]++
		}
		for k, span := range []time.Duration{100 * time.Millisecond, time.Second} {
			if grown > 0 && now < grown+span {
				recent[k][1]++
				if i == c.added() {
					recent[k][0]++
				}
			}
		}
		switch {
		case c.broken && i == simFailing:
			quarter[0]++
			eventheap.Push(&ends, simEvent{now + simFailure, i, r})
		case hosts[i].busy < simWorkers:
			serve(now, i, r)
		default:
			hosts[i].waiting = append(hosts[i].waiting, r)
		}
	}
	for len(ends) > 0 {
		e := eventheap.Pop(&ends).(simEvent)
		time.Sleep(e.at - time.Since(start))
		end(e)
	}
	slices.Sort(result.latencies)
	result.P50, result.P99 = quantile(result.latencies, 0.5), quantile(result.latencies, 0.99)
	share := func(n, of, hosts int) float64 { return float64(n) * float64(hosts) / float64(max(of, 1)) }
	result.Slow = share(picked[simSlow], result.Asked, c.hosts)
	result.Failing = share(picked[simFailing], result.Asked, c.hosts)
	for k, q := range quarters {
		result.Quarters[k] = share(q[0], q[1], c.hosts)
	}
	result.First100ms = share(recent[0][0], recent[0][1], c.hosts+1)
	result.FirstSecond = share(recent[1][0], recent[1][1], c.hosts+1)
	return result
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// balancer returns what chooses a host, and what adds one; nil for a peer.
func (c simCase) balancer(t *testing.T, p simPolicy) (hold func(hash uint64) (int, func(failed bool)), grow func()) {
	if p.make != nil {
		return p.make(t, c.hosts, false).hold, nil
	}
	config := loadbalance.Config[int]{
		Policy: p.policy, Endpoints: poolEndpoints(c.hosts, false), Seed: c.seed, SlowStart: c.slowStart,
	}
	if c.eject {
		config.Outlier = loadbalance.OutlierConfig{ConsecutiveErrors: 5}
	}
	pool := newPool(t, config)
	hold = func(hash uint64) (int, func(failed bool)) {
		// Half of the callers are in each zone.
		l, err := pool.Pick(loadbalance.Request{Hash: hash, Zone: poolEndpoints(2, false)[hash%2].Zone})
		require.NoError(t, err)
		return l.Value(), func(failed bool) {
			if failed {
				l.Done(loadbalance.ServerError)
				return
			}
			l.Done(loadbalance.OK)
		}
	}
	return hold, func() { require.NoError(t, pool.Add(poolEndpoints(c.hosts+1, false)[c.added()])) }
}

// simBase is the case that the flags ask for.
func simBase(broken bool) simCase {
	c := simCase{hosts: *simHosts, requests: *simRequests, load: *simLoad, seed: *simSeed, broken: broken}
	if testing.Short() {
		c.requests = min(c.requests, 8_000)
	}
	return c
}

// A simRow is a policy with its results.
type simRow struct {
	simPolicy
	eject bool
	simResult
}

// TestSimulation compares policies where one host of many is slow and one fails, without and with the ejection of those
// that fail five times one after the other, which the peers do not have.
func TestSimulation(t *testing.T) {
	c := simBase(true)
	var rows []simRow
	for _, eject := range []bool{false, true} {
		c.eject = eject
		for _, p := range simPolicies() {
			if eject && p.make != nil {
				continue
			}
			t.Run(fmt.Sprintf("policy=%s/eject=%v", p.name, eject), func(t *testing.T) {
				rows = append(rows, simRow{p, eject, simulate(t, p, c)})
			})
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, `
%d hosts of %d workers, %v of work each on the average, %.0f requests a second, which is %.0f %% of what they can do; host %d takes
%d times as long, and host %d fails after %v. %d requests, of which the first fifth does not count. Seed %d.

%-26s  %-8s  %9s  %9s  %8s  %8s  %8s
`, c.hosts, simWorkers, simService, c.rate(), 100*c.load, simSlow, simSlowness, simFailing, simFailure, c.requests, c.seed,
		"", "ejection", "p50 ms", "p99 ms", "to slow", "to fail", "failed %")
	for _, r := range rows {
		fmt.Fprintf(&out, "%-26s  %-8s  %9.2f  %9.2f  %8.3f  %8.3f  %8.3f\n", r.name, map[bool]string{false: "no", true: "yes"}[r.eject],
			milliseconds(r.P50), milliseconds(r.P99), r.Slow, r.Failing, 100*float64(r.Failed)/float64(r.Asked))
	}
	for _, r := range rows {
		if r.name == "LeastResponseTime" && !r.eject {
			fmt.Fprintf(&out, "\nTo the failing host by LeastResponseTime, in each quarter of all requests: %.4f\n", r.Quarters)
		}
	}
	t.Log(out.String())
	drawSimulation(t, cmp.Or(*simSVG, t.TempDir()), rows)

	find := func(name string, eject bool) simResult {
		i := slices.IndexFunc(rows, func(r simRow) bool { return r.name == name && r.eject == eject })
		require.GreaterOrEqual(t, i, 0, name)
		return rows[i].simResult
	}
	for _, r := range rows {
		switch {
		case r.make != nil:
		case r.eject:
			assert.Less(t, r.Failing, 0.1, "%s: who fails is ejected", r.name)
		case !r.goesByLoad && r.name != "ConsistentHash, bound 1.25":
			assert.InDelta(t, 1, r.Slow, 0.35, "%s does not look at who is slow", r.name)
		}
	}
	lrt := find("LeastResponseTime", false)
	assert.Less(t, lrt.Failing, 0.5, "who fails fast attracts nobody")
	for _, q := range lrt.Quarters[1:] {
		assert.Less(t, q, 0.2, "once others are known, and it is only tried now and then: %v", lrt.Quarters)
	}
	p2c, rr := find("PowerOfTwoChoices", false), find("RoundRobin", false)
	assert.Greater(t, p2c.Failing, 1.2, "who fails fast looks idle")
	for _, r := range []simResult{p2c, lrt} {
		assert.Less(t, r.Slow, 0.5)
		assert.Less(t, r.P99, rr.P99/2)
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// TestSimulationSlowStart adds a host to others that are well, and looks at what it gets at first.
func TestSimulationSlowStart(t *testing.T) {
	c := simBase(false)
	c.requests = max(c.requests, int(2.1*c.rate())) // of which half come after
	var out strings.Builder
	fmt.Fprintf(&out, `
One host is added to %d, at %.0f %% load: its requests in the first 0.1 s and in the first second, as multiples of the fair
share, without a slow start and with one of %v. Seed %d.

%-26s  %8s  %8s  %8s  %8s
`, c.hosts, 100*c.load, simSlowStart, c.seed, "", "0.1 s", "1 s", "0.1 s", "1 s")
	for _, p := range simPolicies() {
		if p.make != nil {
			continue
		}
		t.Run("policy="+p.name, func(t *testing.T) {
			c := c
			without := simulate(t, p, c)
			c.slowStart = simSlowStart
			with := simulate(t, p, c)
			fmt.Fprintf(&out, "%-26s  %8.3f  %8.3f  %8.3f  %8.3f\n", p.name,
				without.First100ms, without.FirstSecond, with.First100ms, with.FirstSecond)
			assert.Positive(t, without.FirstSecond)
			assert.Positive(t, with.FirstSecond)
			if p.goesByLoad {
				assert.LessOrEqual(t, with.FirstSecond, 1.1)
			}
			if p.goesByLoad && p.name != "LeastResponseTime" {
				// What that one gives depends as much on how long the first request there happens to take.
				assert.Less(t, with.FirstSecond, without.FirstSecond)
			}
		})
	}
	t.Log(out.String())
}

// TestSimulationRepeats runs the same twice, and once with another seed.
func TestSimulationRepeats(t *testing.T) {
	for _, p := range simPolicies() {
		if p.make != nil {
			continue // these take their random numbers from elsewhere, or the order of a map
		}
		t.Run("policy="+p.name, func(t *testing.T) {
			c := simCase{hosts: 10, requests: 2000, load: 0.7, seed: 7, broken: true, eject: true}
			first := simulate(t, p, c)
			assert.Equal(t, first, simulate(t, p, c))
			c.seed++
			assert.NotEqual(t, first, simulate(t, p, c))
		})
	}
}

// TestSimulationQueue checks the simulated hosts themselves: that of a queue whose solution is known. With one host, the policy
// does not matter, and requests wait as Erlang's formula C says (M/M/c).
func TestSimulationQueue(t *testing.T) {
	c := simCase{hosts: 1, requests: 40_000, load: 0.7, seed: 3}
	r := simulate(t, simPolicy{make: func(tb testing.TB, n int, _ bool) chooser {
		return poolChooser(newPool(tb, loadbalance.Config[int]{Policy: loadbalance.RoundRobin(), Endpoints: poolEndpoints(n, false)}))
	}}, c)
	sum := time.Duration(0)
	for _, l := range r.latencies {
		sum += l
	}
	erlangs, term, below := c.load*simWorkers, 1.0, 0.0
	for k := range simWorkers {
		below += term
		term *= erlangs / float64(k+1)
	}
	waits := term / (1 - c.load) / (below + term/(1-c.load))
	want := simService.Seconds() * (1 + waits/(simWorkers*(1-c.load)))
	assert.InEpsilon(t, want, sum.Seconds()/float64(len(r.latencies)), 0.05)
	assert.Equal(t, c.requests-c.requests/5, len(r.latencies))
}

// drawSimulation writes the drawings into a directory.
func drawSimulation(t *testing.T, dir string, rows []simRow) {
	bars := plot.Bars{
		Title: "One host is slow, one fails", YLabel: "multiple of the fair share",
		Series: []plot.BarSeries{{Name: "to the slow host"}, {Name: "to the failing host"}},
	}
	latency := plot.Chart{Title: "Latency of what succeeded", XLabel: "milliseconds", YLabel: "requests that took no longer (%)", LogX: true}
	drawn := []string{"LeastResponseTime", "PowerOfTwoChoices", "LeastConnections", "RoundRobin", "Random", "kratos p2c", "go-zero p2c"}
	for _, r := range rows {
		if r.eject {
			continue
		}
		bars.Groups = append(bars.Groups, r.name)
		bars.Series[0].Values = append(bars.Series[0].Values, r.Slow)
		bars.Series[1].Values = append(bars.Series[1].Values, r.Failing)
		if slices.Contains(drawn, r.name) {
			s := plot.Series{Name: r.name}
			for percent := range 100 {
				s.Points = append(s.Points, plot.Point{X: milliseconds(quantile(r.latencies, float64(percent)/100)), Y: float64(percent)})
			}
			latency.Series = append(latency.Series, s)
		}
	}
	slices.SortStableFunc(latency.Series, func(a, b plot.Series) int {
		return cmp.Compare(slices.Index(drawn, a.Name), slices.Index(drawn, b.Name))
	})
	for file, write := range map[string]func(io.Writer) error{"sim-shares.svg": bars.WriteSVG, "sim-latency.svg": latency.WriteSVG} {
		f, err := os.Create(filepath.Join(dir, file))
		require.NoError(t, err)
		require.NoError(t, write(f))
		require.NoError(t, f.Close())
	}
}
