package shard

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// idEpoch is the Epoch of layouts that do not give one. It will not change.
var idEpoch = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

// An IDLayout says which bits of an ID mean what: from the top the time, the number of the shard, and a
// sequence. So IDs are ordered by their time. Whatever issues, reads or routes the IDs of one table
// must use the same layout for good; the zero IDLayout is one:
//
//	bit 63  62                    22  21       10  9         0
//	    0   milliseconds since 2025   shard number   sequence
//
// It lasts until September 2094, has 4,096 shards, and each shard can have 1,024,000 IDs a second.
//
// JavaScript has no integers beyond 2^53, and the default layout is beyond that from 25 days after
// its Epoch: JSON.parse would change IDs without a word. Send them as strings, by the tag
// `json:",string"` or in Base62, or choose a layout of at most 53 bits, such as 41 of time, 5 of shard
// and 7 of sequence.
//
// An IDLayout is a value. Its methods return an error if it is not valid, and are safe for concurrent
// use by multiple goroutines.
type IDLayout struct {
	_ struct{}

	// TimeBits is how many bits the time has, at least 1. If all three numbers of bits are 0, they
	// are 41, 12 and 10. Together they are at most 63, so that no ID is negative.
	TimeBits int
	// ShardBits is how many bits the number of the shard has, 1 to 32.
	ShardBits int
	// SequenceBits is how many bits tell apart the IDs that a shard issues within a Unit, at least 1.
	SequenceBits int
	// Unit is the unit of time. 0: a millisecond. 2^TimeBits units must be less than 292 years.
	Unit time.Duration
	// Epoch is the time that is written as 0. Zero: 2025-01-01 00:00 UTC. It is in the years 1 to 9999.
	Epoch time.Time
}

// maxIDTime is the longest time that a layout can span, in nanoseconds: an hour less than a Duration
// holds, so that what is added to a time within it needs no check.
const maxIDTime = math.MaxInt64 - int64(time.Hour)

// minIDEpoch and maxIDEpoch are the beginnings of the years 1 and 10000, in seconds of Unix.
const (
	minIDEpoch = -62135596800
	maxIDEpoch = 253402300800
)

// Validate returns an error if the layout is not valid.
func (l IDLayout) Validate() error {
	_, err := l.resolve()
	return err
}

// resolve returns the layout with its defaults, or an error if it is not valid.
func (l IDLayout) resolve() (IDLayout, error) {
	if err := l.resolveBits(); err != nil {
		return l, err
	}
	if l.Unit == 0 {
		l.Unit = time.Millisecond
	}
	if l.Epoch.IsZero() {
		l.Epoch = idEpoch
	}
	l.Epoch = l.Epoch.Round(0) // no monotonic clock: the wall clock counts
	if l.Unit < 0 {
		return l, fmt.Errorf("shard: Unit must be at least 0, got %v", l.Unit)
	}
	if most := time.Duration(maxIDTime >> l.TimeBits); l.Unit > most {
		return l, fmt.Errorf("shard: Unit must be at most %v with %d TimeBits, for 292 years, got %v", most, l.TimeBits, l.Unit)
	}
	if s := l.Epoch.Unix(); s < minIDEpoch || s >= maxIDEpoch {
		return l, fmt.Errorf("shard: Epoch must be in the years 1 to 9999, got year %d", l.Epoch.UTC().Year())
	}
	return l, nil
}

// resolveBits is resolve for the numbers of bits.
func (l *IDLayout) resolveBits() error {
	if l.TimeBits == 0 && l.ShardBits == 0 && l.SequenceBits == 0 {
		l.TimeBits, l.ShardBits, l.SequenceBits = 41, 12, 10
	}
	switch {
	case l.TimeBits < 1 || l.TimeBits > 61:
		return fmt.Errorf("shard: TimeBits must be 1 to 61, got %d", l.TimeBits)
	case l.ShardBits < 1 || l.ShardBits > 32:
		return fmt.Errorf("shard: ShardBits must be 1 to 32, got %d", l.ShardBits)
	case l.SequenceBits < 1 || l.SequenceBits > 61:
		return fmt.Errorf("shard: SequenceBits must be 1 to 61, got %d", l.SequenceBits)
	case l.TimeBits+l.ShardBits+l.SequenceBits > 63:
		return fmt.Errorf("shard: TimeBits, ShardBits and SequenceBits must be at most 63 together, got %d + %d + %d",
			l.TimeBits, l.ShardBits, l.SequenceBits)
	}
	return nil
}

// check returns an error if id is not one of the layout's, whose bits are resolved.
func (l *IDLayout) check(id int64) error {
	if id < 0 {
		return fmt.Errorf("shard: an ID must be at least 0, got %d", id)
	}
	if n := l.TimeBits + l.ShardBits + l.SequenceBits; id>>n != 0 {
		return fmt.Errorf("shard: an ID of this layout must be less than 2^%d, got %d", n, id)
	}
	return nil
}

// IDParts is what an ID is made of.
type IDParts struct {
	// Time is when the ID was issued, by the clock of its generator, rounded down to the Unit of the
	// layout, in UTC. After a burst it may be up to MaxLead late, and more after the clock was set back,
	// or after a restart with a Mark: see IDGen.
	Time time.Time
	// Shard is the number of the shard.
	Shard uint32
	// Sequence tells it apart from the others of this time and shard. It does not always start from 0.
	Sequence int64
}

// Parse returns what id is made of. It returns an error if id is negative, or has more bits than the
// layout.
func (l IDLayout) Parse(id int64) (IDParts, error) {
	l, err := l.resolve()
	if err != nil {
		return IDParts{}, err
	}
	return l.parse(id)
}

// parse is Parse by a layout that is resolved.
func (l *IDLayout) parse(id int64) (IDParts, error) {
	if err := l.check(id); err != nil {
		return IDParts{}, err
	}
	return IDParts{
		Time:     l.Epoch.Add(time.Duration(id>>(l.ShardBits+l.SequenceBits)) * l.Unit).UTC(),
		Shard:    l.number(id),
		Sequence: id & (1<<l.SequenceBits - 1),
	}, nil
}

// ShardOf returns the number of the shard of id. It returns an error if id is negative, or has more
// bits than the layout. It takes some nanoseconds and allocates nothing.
func (l IDLayout) ShardOf(id int64) (uint32, error) {
	if err := l.resolveBits(); err != nil {
		return 0, err
	}
	return l.shardOf(id)
}

// shardOf is ShardOf by a layout whose bits are resolved.
func (l *IDLayout) shardOf(id int64) (uint32, error) {
	if err := l.check(id); err != nil {
		return 0, err
	}
	return l.number(id), nil
}

// number returns the number of the shard of an ID of the layout, whose bits are resolved.
func (l *IDLayout) number(id int64) uint32 {
	return uint32(id >> l.SequenceBits & (1<<l.ShardBits - 1))
}

// FirstAt returns the lowest ID of the time t, of any shard, so the rows of the last hour are WHERE
// id >= FirstAt(an hour ago). That is as exact as the clocks of the generators, and not more. Some that
// were issued before t are at least that, as IDs can be ahead of their clock (see IDGen). Some that
// were issued at t or later are lower: by a clock that is behind, within a millisecond after a clock
// stepped forward, and by a process that was stopped, for however long, after it had read the clock. Who
// must not miss any asks for those of an earlier time as well.
//
// It returns 0 if t is before Epoch, and an error, which wraps ErrTimeExhausted, if t is later than an ID
// can be.
func (l IDLayout) FirstAt(t time.Time) (int64, error) {
	l, err := l.resolve()
	if err != nil {
		return 0, err
	}
	d := t.Sub(l.Epoch) // what does not fit is the longest Duration
	if d < 0 {
		return 0, nil
	}
	units := int64(d / l.Unit)
	if units>>l.TimeBits != 0 {
		return 0, fmt.Errorf("shard: no ID is of %v or later: %w", t, ErrTimeExhausted)
	}
	return units << (l.ShardBits + l.SequenceBits), nil
}

// An IDLocator places IDs on the shards whose numbers they carry. It is a Locator, a Router and a Lister.
//
// An IDLocator never changes, and is safe for concurrent use by multiple goroutines. The zero value
// cannot be used.
type IDLocator struct {
	layout IDLayout
	bits   int         // of an ID
	dense  []Placement // by number; nil if that would be mostly holes
	sparse map[uint32]Placement
	shards []ID
}

// NewIDLocator returns an IDLocator for IDs of the given layout, and shards by their numbers. Several
// numbers may have the same shard: so a shard that takes over the rows of another takes over its
// number. It returns an error if the layout is not valid, there are no shards, a number has more bits than
// the layout, or a shard is "". The map is copied.
//
// The Part of a Placement is the number of the shard.
func NewIDLocator(layout IDLayout, shards map[uint32]ID) (*IDLocator, error) {
	layout, err := layout.resolve()
	if err != nil {
		return nil, err
	}
	if len(shards) == 0 {
		return nil, fmt.Errorf("shard: shards must have at least 1 entry, got 0")
	}
	numbers := slices.Sorted(maps.Keys(shards))
	l := &IDLocator{layout: layout, bits: layout.TimeBits + layout.ShardBits + layout.SequenceBits}
	last := numbers[len(numbers)-1]
	if uint64(last)>>layout.ShardBits != 0 {
		return nil, fmt.Errorf("shard: shard numbers must be less than 2^%d, got %d", layout.ShardBits, last)
	}
	if uint64(last) < 4*uint64(len(numbers))+64 {
		l.dense = make([]Placement, last+1)
	} else {
		l.sparse = make(map[uint32]Placement, len(numbers))
	}
	for _, n := range numbers {
		id := shards[n]
		if id == "" {
			return nil, fmt.Errorf("shard: shards must not be \"\", got that for number %d", n)
		}
		p := Placement{Shard: id, Part: PartID(n)}
		if l.dense != nil {
			l.dense[n] = p
		} else {
			l.sparse[n] = p
		}
		l.shards = append(l.shards, id)
	}
	slices.Sort(l.shards)
	l.shards = slices.Compact(l.shards)
	return l, nil
}

// Locate returns where id is, and the zero Placement if no shard has its number, or it is no ID of the
// layout: negative, or with more bits.
func (l *IDLocator) Locate(id int64) Placement {
	if uint64(id)>>l.bits != 0 {
		return Placement{}
	}
	n := l.layout.number(id)
	if l.dense == nil {
		return l.sparse[n]
	}
	if int64(n) >= int64(len(l.dense)) {
		return Placement{}
	}
	return l.dense[n]
}

// Route returns where id is. It returns an error that wraps ErrNoShard if no shard has its number, and
// another if it is no ID of the layout. It does not look at ctx.
func (l *IDLocator) Route(_ context.Context, id int64) (Placement, error) {
	if p := l.Locate(id); p.Shard != "" {
		return p, nil
	}
	n, err := l.layout.shardOf(id)
	if err != nil {
		return Placement{}, err
	}
	return Placement{}, fmt.Errorf("shard: ID %d has the shard number %d: %w", id, n, ErrNoShard)
}

// Shards returns the shards, each once, sorted.
func (l *IDLocator) Shards() []ID { return slices.Clone(l.shards) }
