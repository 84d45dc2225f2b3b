package shard

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A Replica is a database that is a copy of the primary, and follows it.
type Replica struct {
	_ struct{}

	// Name distinguishes it from the other replicas of its group, for the Balancer and in Stats.
	// Required.
	Name string
	// DB is the database. Required. Its user needs to read only, and should not be able to write.
	DB *sql.DB
}

// A Balancer chooses one of the replicas of a group. A *loadbalance.Pool[string] is one, whose
// endpoints have the names of replicas as values; whatever has another method is adapted by a function
// of two lines.
type Balancer interface {
	// Choose returns the name of a replica, and a function that is called once, unless it is nil: with
	// the error if it cannot be reached or was too slow, or else nil; and with context.Canceled if it is
	// not used after all, because it does not have what the read is to see, or was asked for that first.
	// Then Choose is called again, some times.
	// If it returns an error, or a name that no replica has, the replicas that are fit take turns.
	//
	// hash is the same for all keys of a part, so that reads of a part can be kept together. Choose is
	// called at the same time by several goroutines, and must be fast. A statement counts from the time
	// before it is sent to its first row; but in Scatter to the end of its rows, and in a transaction
	// to its end.
	Choose(hash uint64) (name string, done func(error), err error)
}

// A Position is a place in the log of a database that one primary writes, and replicas follow.
type Position struct {
	// Source says whose log it is. Positions in the logs of two sources have nothing to do with each
	// other.
	Source uint64
	// Timeline grows when another database becomes the primary, as what its log has behind that point
	// is not what that of the former one had there.
	Timeline uint64
	// Offset grows with what is written.
	Offset uint64
}

// Covers reports whether a replica that is at p has all that the primary had written at q, as far as it
// has not been lost: if q is in an earlier timeline, the primary of that one may have failed before any
// other database had what was at its end, which then is nowhere.
//
// The offset counts, too, as a replica of a later timeline may just be far behind. And a replica of an
// earlier timeline has not seen that another is the primary now, so that it covers nothing that this
// has written, whatever the offset of what the former primary has left to it.
func (p Position) Covers(q Position) bool {
	return p.Source == q.Source && p.Timeline >= q.Timeline && p.Offset >= q.Offset
}

// compare orders the positions of the primaries of one source, by the time at which they were there.
func (p Position) compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.Offset, q.Offset))
}

// A LagProbe tells how far the databases of a group are. PostgresProbe returns one. It is called by
// several goroutines at the same time, for several groups if it is the probe of all, with contexts that
// end.
type LagProbe interface {
	// Written returns a position of the primary behind all writes that it has acknowledged before the
	// call. They may not be on its disk yet.
	Written(ctx context.Context, primary *sql.DB) (Position, error)
	// Replayed returns the position up to which a replica shows everything to the reads that begin when
	// it has returned. It returns an error if that is not known, or the database follows nobody. A
	// Timeline that is not known yet must be too small rather than too large.
	Replayed(ctx context.Context, replica *sql.DB) (Position, error)
	// Beat makes the log of the primary move on, as by writing something to it that changes nothing,
	// and sends what is in it to the replicas. It is called when the primary is idle, and a replica is
	// behind: it may be waiting for something that will be sent with the next write only. Where that
	// cannot be, it returns nil.
	Beat(ctx context.Context, primary *sql.DB) error
}

const (
	// setAside is for how long a replica is not used after it has failed, unless a Probe reaches it.
	setAside = time.Second
	// A read that waits for a replica asks it again after firstPause, then after twice as long, up to
	// lastPause; and no replica is asked more often than that, however many wait.
	firstPause = time.Millisecond
	lastPause  = 16 * time.Millisecond
	// maxSamples is how many positions of a primary are kept.
	maxSamples = 64
)

// A group is the databases of a shard, and what is known of them.
//
// How old the data of a replica is follows from two positions: what a sample of the primary says was
// written at some time, a replica that covers the sample has; so it has all that was acknowledged
// before the time at which the sample was asked for. This needs neither the clocks of the servers nor a
// table, and holds for a primary that is idle as well as for one that is not. All times are those of
// this process.
type group struct {
	id      ID
	place   place
	hash    uint64
	config  Group
	primary *sql.DB
	probe   LagProbe
	c       *SQLConfig

	replicas []*replica
	turn     atomic.Uint64 // whose of the replicas it is

	sampling atomic.Bool // somebody is asking the primary

	mu       sync.Mutex
	samples  []sample      // in the order of their times; at most maxSamples
	beat     time.Time     // of the last heartbeat
	changed  chan struct{} // closed when something has become known; nil if nobody waits
	lastErrs [2]error      // of the last sample, and of the last heartbeat

	writes, primaryReads, waits, timeouts, beats atomic.Int64
}

// A sample is a position of the primary that was asked for at some time.
type sample struct {
	at  time.Time
	pos Position
}

// A replica is one of a group.
type replica struct {
	Replica
	known  atomic.Pointer[knowledge] // nil: it has not been asked
	asking atomic.Bool               // somebody is asking it
	failed atomic.Pointer[time.Time] // when a statement failed last; nil: none has since it was asked

	reads, stale, failures atomic.Int64
}

// Knowledge is what a replica has answered. It is never changed.
type knowledge struct {
	at      time.Time // when it was asked
	err     error     // if not nil, nothing else is set
	pos     Position
	asOf    time.Time // it has all that was acknowledged before; zero: of no time
	unmoved time.Time // since when it is at pos
}

// age returns how long t was before now. A system that sleeps stops the clock that does not jump, and a
// step back turns the other one back; so the larger counts, which is never too small for both.
func age(now, t time.Time) time.Duration {
	return elapsed(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// elapsed is age, of what the two clocks say.
func elapsed(monotonic, wall time.Duration) time.Duration { return max(monotonic, wall) }

// newGroup checks and copies a group.
func newGroup(id ID, config Group, c *SQLConfig) (*group, error) {
	switch {
	case id == "":
		return nil, errors.New(`shard: groups must not have "" as a shard`)
	case config.Primary == nil:
		return nil, fmt.Errorf("shard: Primary of %q must not be nil", id)
	}
	config.Replicas = slices.Clone(config.Replicas)
	g := &group{id: id, place: place{c.Name, id}, hash: xxhash.Sum64String(string(id)), config: config, primary: config.Primary, probe: config.Probe, c: c}
	names := map[string]bool{}
	for i, r := range config.Replicas {
		switch {
		case r.Name == "":
			return nil, fmt.Errorf("shard: Name of replica %d of %q must not be empty", i, id)
		case r.DB == nil:
			return nil, fmt.Errorf("shard: DB of replica %q of %q must not be nil", r.Name, id)
		case names[r.Name]:
			return nil, fmt.Errorf("shard: Name of replicas of %q must differ, got %q twice", id, r.Name)
		}
		names[r.Name] = true
		g.replicas = append(g.replicas, &replica{Replica: r})
	}
	return g, nil
}

// databases returns all of the group.
func (g *group) databases() []*sql.DB {
	all := []*sql.DB{g.primary}
	for _, r := range g.replicas {
		all = append(all, r.DB)
	}
	return all
}

// hashOf returns the hash of a part for a Balancer.
func (g *group) hashOf(p Placement) uint64 {
	hi, lo := bits.Mul64(g.hash^uint64(p.Part)*0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo
}

// failed returns err with the name of the shard; nil and sql.ErrNoRows as they are.
func (g *group) failed(err error) error {
	if err == nil || err == sql.ErrNoRows {
		return err
	}
	return &Error{Shard: g.id, Asked: true, Err: err}
}

// A need is what a read needs of a replica.
type need struct {
	c   Consistency
	any bool     // ReadYourWrites: there is no write to be seen
	pos Position // ReadYourWrites: the last write to be seen
}

// need returns what a read with ctx of a placement with an epoch needs, and false if only the primary
// will do.
func (g *group) need(ctx context.Context, epoch uint64) (need, bool) {
	c, ok := ctx.Value(consistencyKey{}).(Consistency)
	if !ok {
		c = g.c.Consistency
	}
	n := need{c: c}
	if c == Primary || len(g.replicas) == 0 || g.probe == nil && c != Eventual {
		return n, false
	}
	if c == ReadYourWrites {
		s := sessionOf(ctx)
		if s == nil {
			return n, false
		}
		var unknown bool
		if n.pos, n.any, unknown = s.need(g.place, epoch); unknown {
			// This read goes to the primary, and the next need not.
			g.tell(ctx, epochs{math.MaxUint64, epoch}, s)
			return n, false
		}
	}
	return n, true
}

// satisfies reports whether a replica is known to have what is needed.
func (g *group) satisfies(r *replica, n need, now time.Time) bool {
	if t := r.failed.Load(); t != nil && age(now, *t) < setAside {
		return false
	}
	if n.c == Eventual || n.any {
		return true
	}
	k := r.known.Load()
	if k == nil || k.err != nil || age(now, k.at) > g.c.LagCache {
		return false
	}
	if n.c == ReadYourWrites {
		return k.pos.Covers(n.pos)
	}
	return !k.asOf.IsZero() && age(now, k.asOf) <= time.Duration(n.c)
}

// tried is the replicas that a read has been tried with, and until when it may wait for another.
type tried struct {
	replicas [2]*replica
	until    time.Time // zero: it has not waited
}

func (t *tried) has(r *replica) bool { return r == t.replicas[0] || r == t.replicas[1] }

// bounded returns a context that ends MaxWait after the first call for the same read.
func (g *group) bounded(ctx context.Context, t *tried) (context.Context, context.CancelFunc) {
	if t.until.IsZero() {
		t.until = time.Now().Add(g.c.MaxWait)
	}
	return context.WithDeadline(ctx, t.until)
}

// choose returns a replica that is known to have what is needed, or nil, and what is to be called in
// the end. It takes no lock, and allocates nothing.
func (g *group) choose(n need, hash uint64, not *tried) (*replica, func(error)) {
	now := time.Now()
	fit := 0
	for _, r := range g.replicas {
		if !not.has(r) && g.satisfies(r, n, now) {
			fit++
		}
	}
	if fit == 0 {
		return nil, nil
	}
	if b := g.config.Balancer; b != nil {
		// A balancer that picks at random may return the same one again.
		for range 2 * len(g.replicas) {
			name, done, err := b.Choose(hash)
			if err != nil {
				break
			}
			if done == nil {
				done = doNothing
			}
			i := slices.IndexFunc(g.replicas, func(r *replica) bool { return r.Name == name })
			if i >= 0 && !not.has(g.replicas[i]) && g.satisfies(g.replicas[i], n, now) {
				return g.replicas[i], done
			}
			done(context.Canceled)
			if i < 0 {
				break
			}
		}
	}
	turn := g.turn.Add(1) % uint64(fit)
	for _, r := range g.replicas {
		// One that has just become fit may take another's turn; one that is not fit any more leaves it.
		if !not.has(r) && g.satisfies(r, n, now) {
			if turn == 0 {
				return r, doNothing
			}
			turn--
		}
	}
	return nil, nil
}

func doNothing(error) {}

// read calls try with a database that the consistency of ctx allows, and again if the error is that of
// a replica that cannot be reached: with another, and then with the primary. It returns what is to be
// called when the statement has ended. That is called by read if try fails or panics.
func (g *group) read(ctx context.Context, hash, epoch uint64, try func(*sql.DB) error) (func(error), error) {
	n, ok := g.need(ctx, epoch)
	if ok {
		var not tried
		for i := range not.replicas {
			r, done := g.find(ctx, n, hash, &not)
			if r == nil {
				break
			}
			r.reads.Add(1)
			err := g.attempt(ctx, r.DB, done, try)
			if err == nil {
				return done, nil
			}
			if ctx.Err() != nil || !g.unreachable(err) {
				return nil, err
			}
			r.failures.Add(1)
			if sqlState(err) != recoveryConflict { // then it is well
				now := time.Now()
				r.failed.Store(&now)
			}
			not.replicas[i] = r
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	g.primaryReads.Add(1)
	return doNothing, try(g.primary)
}

// attempt calls try, and done if it does not succeed.
func (g *group) attempt(ctx context.Context, d *sql.DB, done func(error), try func(*sql.DB) error) error {
	returned := false
	defer func() {
		if !returned {
			done(context.Canceled)
		}
	}()
	err := try(d)
	returned = true
	if err != nil {
		done(g.blame(ctx, err))
	}
	return err
}

// blame returns err if it says something of the database, for its Balancer: that it cannot be reached,
// or was too slow. Another error is an answer like others, such as that a table does not exist.
func (g *group) blame(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil && !g.unreachable(err) {
		return nil
	}
	return err
}

// find returns a replica that has what is needed, and if none is known to, it asks and waits; or nil.
func (g *group) find(ctx context.Context, n need, hash uint64, not *tried) (*replica, func(error)) {
	r, done := g.choose(n, hash, not)
	if r == nil && n.c != Eventual && !n.any {
		r, done = g.await(ctx, n, hash, not)
	} else if r != nil && g.refresh(ctx, r, n, not) {
		// It may not be fit any more; and the time that this has taken is none of the replica's.
		done(context.Canceled)
		r, done = g.choose(n, hash, not)
	}
	if g.probe != nil && n.c != Eventual && !n.any {
		now := time.Now()
		for _, other := range g.replicas {
			if other != r && !g.satisfies(other, n, now) {
				other.stale.Add(1)
			}
		}
	}
	return r, done
}

// refresh asks how far a replica is before what is known of it is too old, so that one read does so,
// and not all that come when it is. It reports whether it has asked.
func (g *group) refresh(ctx context.Context, r *replica, n need, not *tried) bool {
	if n.c == Eventual || n.any || g.c.ProbeInterval > 0 {
		return false
	}
	now := time.Now()
	k := r.known.Load()
	if k == nil || age(now, k.at) <= g.c.LagCache/2 || r.asking.Load() {
		return false
	}
	bounded, cancel := g.bounded(ctx, not)
	defer cancel()
	if d := time.Duration(n.c); n.c > 0 && age(now, k.asOf) > d/2 {
		g.sampleIfDue(ctx, bounded, g.sampleEvery(n))
	}
	return g.askIfFree(ctx, bounded, r)
}

// sampleEvery returns how old the last sample of the primary may be for what is needed.
func (g *group) sampleEvery(n need) time.Duration {
	if n.c > 0 {
		return min(time.Duration(n.c)/4, g.c.LagCache)
	}
	return g.c.LagCache
}

// await asks the databases how far they are, one after the other, until a replica has what is needed,
// and returns that. It returns nil when MaxWait is over, or ctx, or when it would be in vain to wait:
// because all replicas have failed, or stand still, or are too far behind to be told from those.
//
// Each database is asked by one caller at a time, and the others wait for that, or go on with another;
// so a replica that hangs delays one of them, and who wait for a write do not ask more often than one
// would.
func (g *group) await(ctx context.Context, n need, hash uint64, not *tried) (*replica, func(error)) {
	bounded, cancel := g.bounded(ctx, not)
	defer cancel()
	w := waiting{n: n, not: not, start: time.Now()}
	w.since = w.start.Add(-firstPause)
	for pause := firstPause; ; {
		changed := g.changes() // before looking at what is known, so that no change is missed
		if r, done := g.choose(n, hash, not); r != nil {
			return r, done
		}
		if bounded.Err() != nil {
			break
		}
		progress, hope := g.advance(ctx, bounded, &w)
		if progress {
			continue
		}
		if !hope {
			return nil, nil
		}
		if !w.waited {
			w.waited = true
			g.waits.Add(1)
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
			w.since = time.Now()
			pause = min(2*pause, lastPause)
		case <-bounded.Done():
		}
		timer.Stop()
	}
	if ctx.Err() == nil {
		if !w.waited { // but for an answer
			g.waits.Add(1)
		}
		g.timeouts.Add(1)
	}
	return nil, nil
}

// A waiting is a read that waits for a replica.
type waiting struct {
	n         need
	not       *tried
	start     time.Time
	since     time.Time // what was asked before is to be asked again
	waited    bool      // it has paused
	noPrimary bool      // the primary could not be asked
}

// advance asks one database that nobody has asked since some time, if there is one that nobody is
// asking, and returns whether it has; and if not, whether there is a replica that is worth waiting for.
func (g *group) advance(ctx, bounded context.Context, w *waiting) (progress, hope bool) {
	// Reads of writes need no samples, but when they wait, they find out whether the primary is idle.
	if (w.n.c > 0 || w.waited) && !w.noPrimary {
		switch g.sampleIfDue(ctx, bounded, g.sampleEvery(w.n)) {
		case sampleTaken:
			return true, true
		case sampleTaking:
			hope = true
		case sampleFailed:
			w.noPrimary = true
		}
	}
	if w.n.c == ReadYourWrites && g.isLost(w.n.pos, w.start) {
		return false, false
	}
	now := time.Now()
	for _, r := range g.replicas {
		k := r.known.Load()
		if w.not.has(r) || g.isDown(r, k, now) || k != nil && !k.at.Before(w.since) {
			continue
		}
		if g.askIfFree(ctx, bounded, r) {
			return true, true
		}
		hope = true
	}
	if hope {
		return false, true
	}
	target, known := g.target(w.n, now)
	if d := time.Duration(w.n.c); d > 0 && (!known || w.noPrimary || age(now, target) >= d/2) {
		return false, false // what they lack is about as old as it may be, or nobody knows
	}
	for _, r := range g.replicas {
		k := r.known.Load()
		if w.not.has(r) || g.isDown(r, k, now) || k == nil || k.err != nil {
			continue
		}
		if !known || age(now, target) < g.c.MaxWait || age(now, k.unmoved) < g.c.MaxWait {
			return false, true
		}
	}
	return false, false
}

// isLost reports whether the primary, when it was asked after some time, did not have a position at
// which something was written before: because it was lost with the former primary, or that is what
// somebody says who has made it up. Its replicas will have it no sooner.
func (g *group) isLost(pos Position, after time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.samples)
	// A clock that is coarse may have the same time for what was before.
	return n > 0 && g.samples[n-1].at.After(after) && !g.samples[n-1].pos.Covers(pos)
}

// isDown reports whether a replica is not to be asked, as it has failed a moment ago.
func (g *group) isDown(r *replica, k *knowledge, now time.Time) bool {
	t := r.failed.Load()
	return t != nil && age(now, *t) < setAside || k != nil && k.err != nil && age(now, k.at) < setAside
}

// target returns since when the primary has been where a replica must be, if that is known: for a
// bounded staleness the first time at which it would be enough to have been there.
func (g *group) target(n need, now time.Time) (since time.Time, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.samples, func(s sample) bool {
		if n.c > 0 {
			return age(now, s.at) <= time.Duration(n.c)
		}
		return s.pos.Covers(n.pos)
	})
	if i < 0 {
		return time.Time{}, false
	}
	return g.samples[i].at, true
}

// What sampleIfDue has done.
const (
	sampleNotDue = iota
	sampleTaken
	sampleTaking // somebody else is about to
	sampleFailed
)

// sampleIfDue asks the primary how far it is, unless the last sample is younger than every.
func (g *group) sampleIfDue(ctx, bounded context.Context, every time.Duration) int {
	g.mu.Lock()
	n := len(g.samples)
	due := n == 0 || age(time.Now(), g.samples[n-1].at) > every
	g.mu.Unlock()
	switch {
	case !due:
		return sampleNotDue
	case !g.sampling.CompareAndSwap(false, true):
		return sampleTaking
	case g.sample(ctx, bounded):
		return sampleTaken
	}
	return sampleFailed
}

// sample asks the primary how far it is. The caller has set sampling.
func (g *group) sample(ctx, bounded context.Context) bool {
	defer func() {
		g.sampling.Store(false)
		g.announce()
	}()
	start := time.Now()
	pos, err := g.probe.Written(bounded, g.primary)
	if err != nil {
		if ctx.Err() == nil {
			g.setErr(0, err)
		}
		return false
	}
	g.setErr(0, nil)
	if !g.learn(sample{start, pos}) {
		return true
	}
	g.beats.Add(1)
	err = g.probe.Beat(bounded, g.primary)
	if err == nil || ctx.Err() == nil {
		g.setErr(1, err)
	}
	return true
}

func (g *group) setErr(i int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastErrs[i] = err
}

// learn notes a sample, and reports whether it is time for a heartbeat: if the primary has not moved
// since the last sample, and a replica that was asked since then does not have that.
func (g *group) learn(s sample) (beat bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.samples); n > 0 {
		last := g.samples[n-1]
		if last.pos.Source != s.pos.Source {
			g.samples = g.samples[:0] // of another database
		} else if last.pos == s.pos {
			for _, r := range g.replicas {
				k := r.known.Load()
				beat = beat || k != nil && k.err == nil && !k.at.Before(last.at) && !k.pos.Covers(s.pos)
			}
			beat = beat && age(s.at, g.beat) >= g.c.Heartbeat
		}
	}
	if beat {
		g.beat = s.at
	}
	g.addLocked(s)
	return beat
}

// addLocked adds a sample. Of those that are at the same position the first and the last are kept; and
// if there are too many, the one goes whose neighbours are nearest to each other, in proportion to
// their age: so there are many that are young, and some that are as old as there have ever been reads.
func (g *group) addLocked(s sample) {
	n := len(g.samples)
	if n > 0 && s.at.Before(g.samples[n-1].at) {
		return // it was asked for before, and has come later
	}
	if n > 1 && g.samples[n-1].pos == s.pos && g.samples[n-2].pos == s.pos {
		g.samples[n-1].at = s.at
		return
	}
	if g.samples = append(g.samples, s); n < maxSamples {
		return
	}
	drop, least := 1, 0.0
	for i := 1; i < n; i++ {
		gap := float64(age(g.samples[i+1].at, g.samples[i-1].at)) / float64(1+age(s.at, g.samples[i-1].at))
		if i == 1 || gap < least {
			drop, least = i, gap
		}
	}
	g.samples = slices.Delete(g.samples, drop, drop+1)
}

// askIfFree asks a replica how far it is, unless somebody is asking it.
func (g *group) askIfFree(ctx, bounded context.Context, r *replica) bool {
	if !r.asking.CompareAndSwap(false, true) {
		return false
	}
	defer func() {
		r.asking.Store(false)
		g.announce()
	}()
	start := time.Now()
	pos, err := g.probe.Replayed(bounded, r.DB)
	now := time.Now()
	if err != nil {
		// That the caller has gone says nothing of the replica, nor that it had no time left to answer.
		if ctx.Err() == nil && (bounded.Err() == nil || age(now, start) >= g.c.MaxWait/2) {
			r.known.Store(&knowledge{at: start, err: err})
		}
		return true
	}
	k := &knowledge{at: start, pos: pos, unmoved: now}
	if old := r.known.Load(); old != nil && old.err == nil && old.pos == pos {
		k.unmoved = old.unmoved
	}
	g.mu.Lock()
	for _, s := range slices.Backward(g.samples) {
		if pos.Covers(s.pos) {
			k.asOf = s.at
			break
		}
	}
	g.mu.Unlock()
	if t := r.failed.Load(); t != nil && t.Before(start) {
		r.failed.CompareAndSwap(t, nil)
	}
	r.known.Store(k)
	return true
}

// changes returns a channel that is closed at the next announce.
func (g *group) changes() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

// announce tells those who wait that a database has been asked.
func (g *group) announce() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// poll starts goroutines that ask the databases how far they are, each on its own, so that none is held
// up by another that hangs.
func (g *group) poll(ctx context.Context, running *sync.WaitGroup) {
	if g.probe == nil || len(g.replicas) == 0 {
		return
	}
	every := g.c.ProbeInterval
	start := func(ask func(bounded context.Context)) {
		running.Go(func() {
			ticker := time.NewTicker(every)
			defer ticker.Stop()
			for {
				bounded, cancel := context.WithTimeout(ctx, max(every, time.Second))
				ask(bounded)
				cancel()
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	start(func(bounded context.Context) { g.sampleIfDue(ctx, bounded, every/2) })
	for _, r := range g.replicas {
		start(func(bounded context.Context) { g.askIfFree(ctx, bounded, r) })
	}
}

// wrote tells sessions of a statement that writes to placements with the epochs, and has ended with err.
// After any error it may have written: a database that refuses a statement need not have refused all of
// it, if that was several, or a procedure that commits.
func (g *group) wrote(ctx context.Context, e epochs, err error, sessions ...*session) {
	if err == nil {
		g.writes.Add(1)
	}
	if len(sessions) == 0 {
		return
	}
	told := false
	defer func() {
		if !told { // the write counts, whatever the probe does
			for _, s := range sessions {
				s.mark(g.place, e.low)
			}
		}
	}()
	told = err == nil && g.probe != nil && g.tell(ctx, e, sessions...)
}

// tell asks the primary how far it is, and tells sessions, which then need no database that is further.
// It reports whether it could.
func (g *group) tell(ctx context.Context, e epochs, sessions ...*session) bool {
	bounded, cancel := context.WithTimeout(ctx, g.c.MaxWait)
	defer cancel()
	var few [4]uint64
	marks := few[:0]
	for _, s := range sessions {
		marks = append(marks, s.marks(g.place))
	}
	start := time.Now()
	pos, err := g.probe.Written(bounded, g.primary)
	if err != nil {
		return false
	}
	for i, s := range sessions {
		s.note(g.place, pos, e, marks[i])
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.samples); n == 0 || age(start, g.samples[n-1].at) > g.c.LagCache/8 {
		g.addLocked(sample{start, pos})
	}
	return true
}

// recoveryConflict is the SQLSTATE with which a replica has cancelled a statement that was in the way
// of its replication.
const recoveryConflict = "40001"

// sqlState returns the SQLSTATE of an error, which the drivers for PostgreSQL tell; "" if there is
// none.
func sqlState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		if state := e.SQLState(); len(state) == 5 {
			return state
		}
	}
	return ""
}

// refused reports whether err is the answer that a transaction was not committed.
func (g *group) refused(err error) bool {
	return refused(err) || err != nil && g.c.Refused != nil && g.c.Refused(err)
}

// refused reports whether err is a database's answer that it has not done what it was to do.
func refused(err error) bool {
	switch state := sqlState(err); {
	case state == "", state == "40003": // statement completion unknown
		return false
	default:
		switch state[:2] {
		case "08", "57", "58", "XX": // connection, operator, system, internal: it may be done all the same
			return false
		}
		return true
	}
}

// unreachable reports whether err says that another database may do what this one does not.
func (g *group) unreachable(err error) bool {
	if f := g.c.Unreachable; f != nil && f(err) {
		return true
	}
	switch state := sqlState(err); state {
	case "57P01", "57P02", "57P03", // it shuts down, has crashed, or starts
		"53300", // it has too many connections
		recoveryConflict:
		return true
	case "": // it has not answered, or its driver does not say what
	default:
		return state[:2] == "08" // connection
	}
	var network net.Error
	for _, is := range []error{driver.ErrBadConn, sql.ErrConnDone, net.ErrClosed, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, is) {
			return true
		}
	}
	return errors.As(err, &network)
}

// A GroupStats is what the databases of a shard have done since OpenSQL.
type GroupStats struct {
	// Shard is the shard.
	Shard ID
	// Writes is how many statements and transactions have written, without those that have failed.
	Writes int64
	// PrimaryReads is how many reads the primary was asked for.
	PrimaryReads int64
	// Waits is how many reads have waited for a replica.
	Waits int64
	// Timeouts is how many of these have waited for MaxWait, so that the primary was asked.
	Timeouts int64
	// Heartbeats is how many heartbeats were sent.
	Heartbeats int64
	// ProbeErr is why the primary could not be asked how far it is, the last time; nil if it could.
	ProbeErr error
	// HeartbeatErr is why the last heartbeat could not be sent; nil if it could.
	HeartbeatErr error
	// Replicas is what the replicas have done, in the order in which they were given.
	Replicas []ReplicaStats
}

// A ReplicaStats is what a replica has done since OpenSQL.
type ReplicaStats struct {
	// Name is its name.
	Name string
	// Reads is how many reads it was asked for.
	Reads int64
	// Stale is how many reads did not go to it because it was not known to have what they needed.
	Stale int64
	// Failures is how many reads went on to another database, because it could not be reached.
	Failures int64
	// Lag is the age of the time before which it is known to have everything. -1 if none is.
	Lag time.Duration
	// ProbeErr is why it could not be asked how far it is, the last time; nil if it could.
	ProbeErr error
}

// Stats returns what the databases of each shard have done, in the order of the shards. It is not a
// snapshot of one moment. Complexity: O(number of databases).
func (db *DB[K]) Stats() []GroupStats {
	stats := make([]GroupStats, 0, len(db.ids))
	for _, id := range db.ids {
		stats = append(stats, db.groups[id].stats())
	}
	return stats
}

func (g *group) stats() GroupStats {
	s := GroupStats{
		Shard:        g.id,
		Writes:       g.writes.Load(),
		PrimaryReads: g.primaryReads.Load(),
		Waits:        g.waits.Load(),
		Timeouts:     g.timeouts.Load(),
		Heartbeats:   g.beats.Load(),
	}
	g.mu.Lock()
	s.ProbeErr, s.HeartbeatErr = g.lastErrs[0], g.lastErrs[1]
	g.mu.Unlock()
	now := time.Now()
	for _, r := range g.replicas {
		rs := ReplicaStats{Name: r.Name, Reads: r.reads.Load(), Stale: r.stale.Load(), Failures: r.failures.Load(), Lag: -1}
		if k := r.known.Load(); k != nil {
			if rs.ProbeErr = k.err; !k.asOf.IsZero() {
				rs.Lag = age(now, k.asOf)
			}
		}
		s.Replicas = append(s.Replicas, rs)
	}
	return s
}
