package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClockRegression is in the error of an IDGen whose clock was set back by more than MaxRegression.
	ErrClockRegression = errors.New("the clock went back")
	// ErrTimeExhausted is in the error of an IDGen, and of an IDLayout, for a time that is later than
	// the bits of the layout can say.
	ErrTimeExhausted = errors.New("the time of IDs is exhausted")
)

// An IDConfig says how an IDGen issues IDs.
type IDConfig struct {
	_ struct{}

	// Layout says which bits mean what. Zero: the default, see IDLayout.
	Layout IDLayout
	// Shard is the number of the shard, which all IDs of the generator carry. No other generator may
	// have the same number at the same time, in this process or another.
	Shard uint32
	// MaxLead is how far the time of an ID may be ahead of the clock: when the sequence of a Unit is used
	// up, that of the next is begun, and so on, before it is necessary to wait. 0: 10 ms; less than a
	// Unit: always wait. A process that is killed and restarted within MaxLead, without a Mark, could
	// issue IDs twice.
	MaxLead time.Duration
	// MaxRegression is by how much the clock may be set back without anybody noticing: IDs go on from
	// the last. 0: 2 s, which is more than a leap second and the adjustments of NTP: ntpd steps
	// the clock by what is more than 128 ms, at a second chrony does. Less than 10 µs counts as that: so
	// much can the two clocks that time.Now reads, and the system turns, differ. A process that is
	// restarted within that time, without a Mark, could issue IDs twice.
	MaxRegression time.Duration
	// WaitForClock says that after greater regressions callers wait, as long as their contexts let them,
	// until the clock is as late as it was, less MaxRegression. Otherwise they get
	// ErrClockRegression at once.
	WaitForClock bool
	// Mark keeps, over restarts, up to where IDs may have been issued, and there they begin. If that is
	// ahead of the clock it was reserved, and does not count as a regression: be it that the clock was
	// set back meanwhile, or that MarkAhead or MaxLead was longer before. But if it is ahead by more
	// than a day, or MarkAhead and MaxLead if they are longer, and MaxRegression, one of the two is
	// taken to be wrong, which is ErrClockRegression. nil: nothing keeps it, and if the clock is set
	// back while the process is restarted, IDs are issued twice.
	Mark MarkStore
	// MarkAhead is for how long IDs are reserved each time that Mark is saved; half of it later it is
	// saved again, by one of the callers. 0: 10 s. At least a Unit. After a restart, IDs begin where the
	// reservation ends, so their times are up to that much ahead of the clock at first. MaxLead may be
	// longer, but a burst that goes beyond has to wait for more saves.
	MarkAhead time.Duration
}

// An IDGen issues IDs for one shard: not negative, ordered by time, and carrying the number of the shard.
// See IDLayout for what they look like.
//
// An IDGen is safe for concurrent use by multiple goroutines, and linearizable: an ID that was asked for
// after another was returned is greater. It starts no goroutine. The zero value cannot be used.
//
// # Order
//
// Within a generator IDs are issued once, and always in order, whatever the clock does. Between
// generators they are in order as far as clocks agree.
//
// # When the clock does strange things
//
// IDs have the time of the wall clock, which is looked at once in a millisecond; in between, and if a
// call comes while another looks, the monotonic clock says how much later it is.
//
//   - A leap second, or a step back by NTP, up to MaxRegression: IDs go on from the last one, with times
//     that are ahead of the clock, until it has caught up. For that time there are half as many as
//     usual, 2^SequenceBits in two Units; whoever asks for more waits.
//   - A greater step back: ErrClockRegression, or waiting, until the clock is right. If it is right
//     already, and was wrong before: restart with a number that nobody has used, or, if there has been
//     a Mark, with the same number, and if it was wrong by more than a day, with a MaxRegression that
//     is longer than the step.
//   - A step back while the process is restarted, with a Mark: IDs go on from the mark, as after a small
//     step.
//   - A step forward, a machine that was suspended, a virtual one that was paused: the next IDs have the
//     new time. If the clock was wrong, and is set right after that, it is a step back. A wrong time
//     of which IDs were issued cannot be taken back.
//   - The clock is slewed: nothing happens.
//   - The process is stopped between looking at the clock and using it: the ID has the time from before,
//     and is in order nevertheless.
//   - Time is used up, in 2094 by default: ErrTimeExhausted. IDs never begin again.
//
// # What no generator can notice
//
// A generator that follows another with the same number within a Unit and MaxLead, without a Mark, issues
// what the other has issued; so a process makes one, and keeps it.
//
// Two generators with the same number, at the same time, issue the same IDs, unless they have a Mark that
// notices, as FileMark does on one machine. Give out numbers by what can lock: a row of the database that
// the shard is, a StatefulSet's ordinal, a lease. A copy of a virtual machine has the same number too,
// and one that is put back to a snapshot may issue again what it has issued then.
type IDGen struct {
	// state is the last ID that was issued, without the number of the shard: time<<seqBits | sequence.
	// -1 before the first. One more than that is the next ID of the same time, or when the sequence
	// is used up, the first of the next time.
	//
	// Invariant: state grows by every ID, and never falls. When it was made, it was less than ceil, and its
	// time was not later than max(t, pace) + MaxLead, where t is what the clock showed just before.
	_     [128]byte // on a line of its own, which travels between CPUs
	state atomic.Int64
	_     [120]byte

	// What follows is written about once in a millisecond, by sync.
	syncAt atomic.Int64 // when, in nanoseconds after base, the wall clock is to be looked at. 0: always
	offset atomic.Int64 // from the time after base to that after Epoch, in nanoseconds
	bound  atomic.Int64 // states are less than that, unless the clock is later than at the last sync
	ceil   atomic.Int64 // states are less than that: they are not below the mark

	// What follows is not written, nor is anything after mu on the same line.
	base      time.Time
	unit      uint64 // nanoseconds
	inverse   uint64 // floor((2^64-1) / unit)
	units     int64  // that Layout can count
	lead      int64  // states may be less than those of the present unit plus that
	leadUnits int64  // lead in units: MaxLead and 1
	shard     int64  // the bits of the number of the shard, in place
	shardBits uint8
	seqBits   uint8
	end       int64 // states are less than that
	ahead     int64 // MarkAhead in units
	slack     int64 // how far a mark may be ahead of the clock, in nanoseconds
	layout    IDLayout
	config    IDConfig
	set       func() time.Duration // by how much tests have set the wall clock; nil: not at all
	_         [64]byte

	mu     sync.Mutex // never held for more than some nanoseconds
	synced int64      // when sync was called last, in nanoseconds after base
	high   int64      // the latest time after Epoch that both the clock and an ID have shown
	// pace is a time after Epoch, in nanoseconds, that IDs can have. It is that of the clock; but if
	// state is ahead of the clock, because it was set back or because IDs began at a mark, pace
	// is ahead as well, and advances half as fast as the clock. So the clock comes nearer however
	// many IDs are asked for, and while it does, half as many as usual can be issued.
	pace int64
	marker
}

const (
	// syncEvery is the time between two looks at the wall clock, in nanoseconds, if IDs are asked for. A
	// look takes as long as an ID, so it hardly matters to who issues many.
	syncEvery = int64(time.Millisecond)
	// longestWait is for how long a caller sleeps before he looks at the wall clock again: somebody may
	// have set it right.
	longestWait = time.Second
	// maxAsked is the most states that are asked for in one go.
	maxAsked = 1 << 40
	// maxReserved is how far ahead of the clock every mark is taken for a reservation. See IDConfig.Mark.
	maxReserved = 24 * time.Hour
)

// NewIDGen returns an IDGen. It returns an error if the configuration is not valid, or the clock shows
// a time before the Epoch of the layout, or after all that it has. It does not ask Mark for anything;
// the first call does.
func NewIDGen(c IDConfig) (*IDGen, error) { return newIDGen(c, nil) }

func newIDGen(c IDConfig, set func() time.Duration) (*IDGen, error) {
	l, err := c.Layout.resolve()
	if err != nil {
		return nil, err
	}
	c.Layout = l
	if uint64(c.Shard)>>l.ShardBits != 0 {
		return nil, fmt.Errorf("shard: Shard must be less than 2^%d, got %d", l.ShardBits, c.Shard)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"MaxLead", &c.MaxLead, 10 * time.Millisecond},
		{"MaxRegression", &c.MaxRegression, 2 * time.Second},
		{"MarkAhead", &c.MarkAhead, max(10*time.Second, l.Unit)},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("shard: %s must be at least 0, got %v", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	c.MaxRegression = max(c.MaxRegression, 10*time.Microsecond)
	if c.MarkAhead < l.Unit {
		return nil, fmt.Errorf("shard: MarkAhead must be at least Unit, which is %v, got %v", l.Unit, c.MarkAhead)
	}
	g := &IDGen{
		base:      time.Now(),
		unit:      uint64(l.Unit),
		inverse:   math.MaxUint64 / uint64(l.Unit),
		units:     1 << l.TimeBits,
		shard:     int64(c.Shard) << l.SequenceBits,
		shardBits: uint8(l.ShardBits),
		seqBits:   uint8(l.SequenceBits),
		layout:    l,
		config:    c,
		set:       set,
	}
	// The highest ID of all is not issued, so that there is always a mark above what is.
	g.end = g.units<<g.seqBits - 1
	g.leadUnits = min(int64(c.MaxLead/l.Unit), g.units-1) + 1
	g.lead = g.leadUnits << g.seqBits
	g.ahead = min(int64(c.MarkAhead/l.Unit), g.units)
	g.slack = max(int64(maxReserved), addTime(g.ahead*int64(l.Unit), g.leadUnits*int64(l.Unit)))
	g.slack = addTime(g.slack, int64(c.MaxRegression))
	g.state.Store(-1)
	if c.Mark == nil {
		g.ceil.Store(g.end)
	}
	if elapsed, _, _, err := g.sync(); elapsed < 0 {
		return nil, fmt.Errorf("shard: Epoch must not be in the future, got %v, %v from now", l.Epoch, time.Duration(-elapsed))
	} else if err != nil {
		return nil, err
	}
	return g, nil
}

// Next returns a new ID. It takes the time of reading a monotonic clock and of one atomic operation, and
// allocates nothing unless it has to wait, which it does
//
//   - when more IDs are asked for than fit in the time that has passed, and MaxLead,
//   - when the clock was set back, if WaitForClock is set,
//   - when the Mark is to be saved, which one call does, and others wait for if they need it.
//
// Those who wait are not served in the order in which they came.
//
// ctx is looked at, and its error wrapped and returned, only then. Other errors wrap
// ErrClockRegression, ErrTimeExhausted, or an error of the Mark. It panics if ctx is nil.
func (g *IDGen) Next(ctx context.Context) (int64, error) {
	if ctx == nil { // now, and not when it has to wait for the first time
		panic("shard: ctx must not be nil")
	}
	// What take does, without calls, which take 2 ns: if it is not yet time to look at the wall clock, and
	// nobody else is quicker. If somebody is, he is out of the way when the clock has been read again.
	//
	// An atomic addition was tried instead. One CPU takes the same time for it, two about a tenth less,
	// but what is beyond the limit has then to be given back, and is lost if somebody comes in between.
	if now := int64(time.Since(g.base)); now < g.syncAt.Load() {
		floor := g.unitsOf(now+g.offset.Load()) << g.seqBits
		last := g.state.Load()
		first := max(last+1, floor)
		if first < min(max(floor+g.lead, g.bound.Load()), g.ceil.Load()) && g.state.CompareAndSwap(last, first) {
			return g.id(first), nil
		}
	}
	first, n := g.take(1)
	if n == 0 {
		var err error
		if first, _, err = g.takeSlowly(ctx, 1); err != nil {
			return 0, err
		}
	}
	return g.id(first), nil
}

// NextN fills ids with new IDs, in order, and returns how many they are: fewer than len(ids) only with an
// error, as of Next. It takes many with one atomic operation, so each costs about a nanosecond; IDs
// that others take at the same time may be between them, if they do not fit in MaxLead. It waits
// as Next does, and panics as it does.
func (g *IDGen) NextN(ctx context.Context, ids []int64) (int, error) {
	if ctx == nil {
		panic("shard: ctx must not be nil")
	}
	for done := 0; done < len(ids); {
		ask := min(int64(len(ids)-done), maxAsked)
		first, n := g.take(ask)
		if n == 0 {
			var err error
			if first, n, err = g.takeSlowly(ctx, ask); err != nil {
				return done, err
			}
		}
		for s := first; s < first+n; s++ {
			ids[done] = g.id(s)
			done++
		}
	}
	return len(ids), nil
}

// Layout returns the layout of the IDs, with its defaults filled in.
func (g *IDGen) Layout() IDLayout { return g.layout }

// Parse returns what an ID of this layout is made of, of this generator or another: as IDLayout.Parse.
func (g *IDGen) Parse(id int64) (IDParts, error) { return g.layout.parse(id) }

// ShardOf returns the number of the shard of an ID of this layout, of this generator or another: as
// IDLayout.ShardOf.
func (g *IDGen) ShardOf(id int64) (uint32, error) { return g.layout.shardOf(id) }

// id returns the ID of a state.
func (g *IDGen) id(state int64) int64 {
	seq := state & (1<<g.seqBits - 1)
	return (state^seq)<<g.shardBits | g.shard | seq
}

// unitsOf returns how many units a time after Epoch is, in nanoseconds: 0 if it is before, and at most one
// more than can be used.
func (g *IDGen) unitsOf(elapsed int64) int64 {
	// The upper half of the product is the quotient, or one less: inverse is less than 2^64/unit by
	// at most 1+1/unit, and elapsed is less than 2^63. It saves 3 ns of a division.
	x := uint64(max(elapsed, 0))
	q, _ := bits.Mul64(x, g.inverse)
	if x-q*g.unit >= g.unit {
		q++
	}
	return min(int64(q), g.units)
}

// take takes up to n states, if it need not look at the wall clock for that, or do anything else. It
// returns the first, and how many, or 0.
func (g *IDGen) take(n int64) (first, got int64) {
	now := int64(time.Since(g.base))
	if at := g.syncAt.Load(); now >= at && (at == 0 || g.syncAt.CompareAndSwap(at, now+syncEvery)) {
		return 0, 0
	}
	// If the wall clock was set, offset may belong to another moment than now; the sum is what the
	// clock shows before or after, or if it was set back to just after Epoch, negative. Each will do.
	return g.takeAt(g.unitsOf(now+g.offset.Load()), n)
}

// takeAt takes up to n states at the time of so many units. If there are none, it returns 0, and the first
// that would be taken.
//
// It is of no importance how late that is done after the clock was read: states come after one another
// in any case, and an earlier time allows less lead.
func (g *IDGen) takeAt(units, n int64) (first, got int64) {
	floor := units << g.seqBits
	for {
		last := g.state.Load()
		first = max(last+1, floor)
		end := min(first+n, max(floor+g.lead, g.bound.Load()), g.ceil.Load())
		if end <= first {
			return first, 0
		}
		if g.state.CompareAndSwap(last, end-1) {
			return first, end - first
		}
	}
}

// takeSlowly takes up to n states, at least one, and does for it whatever is necessary.
func (g *IDGen) takeSlowly(ctx context.Context, n int64) (first, got int64, err error) {
	for {
		elapsed, pace, wait, err := g.sync()
		switch {
		case err != nil && !(wait > 0 && g.config.WaitForClock):
			return 0, 0, err
		case err == nil:
			if first, got = g.takeAt(g.unitsOf(elapsed), n); got > 0 {
				if g.config.Mark != nil {
					g.saveEarly(ctx, elapsed)
				}
				return first, got, nil
			}
			if first >= g.end {
				return 0, 0, fmt.Errorf("shard: no ID is left: %w", ErrTimeExhausted)
			}
			if first >= g.ceil.Load() {
				if err := g.save(ctx, first, elapsed); err != nil {
					return 0, 0, err
				}
				continue
			}
			// The first is too far ahead. It will not be when the clock, or pace, comes to the unit
			// that is MaxLead before its own.
			at := max(first>>g.seqBits-g.leadUnits+1, 0) * int64(g.unit)
			if wait = at - elapsed; at > pace {
				wait = min(wait, 2*min(at-pace, math.MaxInt64/2))
			}
		}
		if wait > 0 { // or others took them meanwhile
			if err := await(ctx, time.Duration(wait), err); err != nil {
				return 0, 0, err
			}
		}
	}
}

// await waits for so long, or for as long as is reasonable. If ctx ends, it returns its error, and what was
// waited for.
func await(ctx context.Context, wait time.Duration, reason error) error {
	if ctx.Err() == nil {
		t := time.NewTimer(min(wait, longestWait))
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
		}
	}
	if reason != nil {
		return fmt.Errorf("%w (%w)", reason, ctx.Err())
	}
	return fmt.Errorf("shard: waiting until more IDs fit in the time: %w", ctx.Err())
}

// sync looks at the wall clock, and returns the time after Epoch, in nanoseconds, and pace. If IDs cannot
// have that time, it returns an error, and how long to wait for that to change; 0 if waiting does not
// help.
func (g *IDGen) sync() (elapsed, pace, wait int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	since := int64(now.Sub(g.base))
	elapsed = g.elapsed(now)

	last := g.state.Load()
	next := (last>>g.seqBits + 1) * int64(g.unit) // when the unit after that of the last ID begins
	issued := last >= g.begin                     // not -1, or what precedes the mark
	if issued {
		// What the clock showed, or would have shown, before it was set is the time by the former
		// offset. If no ID is of that time, it is nobody's concern that it will come again.
		g.high = max(g.high, min(since+g.offset.Load(), next-1))
	}
	// It is never beyond next, so after a pause no more than usual can be asked for at once.
	g.pace = max(elapsed, min(g.pace+(since-g.synced)/2, next))
	g.synced = since
	g.offset.Store(elapsed - since)

	behind := g.high - max(elapsed, 0)
	reserved := g.begin>>g.seqBits*int64(g.unit) - max(elapsed, 0)
	switch limit := int64(g.config.MaxRegression); {
	case elapsed < 0:
		wait = -elapsed
		err = fmt.Errorf("shard: the clock is %v before Epoch: %w", time.Duration(-elapsed), ErrClockRegression)
	case !issued && reserved > g.slack:
		wait = reserved - g.slack
		err = fmt.Errorf("shard: the mark is %v ahead of the clock, which is more than %v: %w",
			time.Duration(reserved), time.Duration(g.slack), ErrClockRegression)
	case behind > limit:
		wait = behind - limit
		err = fmt.Errorf("shard: the clock is %v behind what it has shown, which is more than %v: %w",
			time.Duration(behind), time.Duration(limit), ErrClockRegression)
	case g.unitsOf(elapsed) >= g.units:
		err = fmt.Errorf("shard: the clock is %v after Epoch: %w", time.Duration(elapsed), ErrTimeExhausted)
	}
	if err != nil {
		g.syncAt.Store(0) // so every caller comes here
		return elapsed, g.pace, wait, err
	}
	g.bound.Store(min(g.unitsOf(g.pace)<<g.seqBits+g.lead, g.end))
	g.syncAt.Store(since + syncEvery)
	return elapsed, g.pace, 0, nil
}

// addTime returns the sum of two times that are not negative, or if it is too great, the greatest.
func addTime(a, b int64) int64 { return a + min(b, math.MaxInt64-a) }

// elapsed returns the time of the wall clock after Epoch, in nanoseconds, when now is the time: if it is
// more than can be counted, something that certainly is no time of an ID, and to which some minutes
// can be added.
func (g *IDGen) elapsed(now time.Time) int64 {
	d := int64(now.Sub(g.layout.Epoch))
	if g.set != nil {
		d += int64(g.set())
	}
	return min(max(d, math.MinInt64/2), math.MaxInt64-int64(time.Minute))
}
