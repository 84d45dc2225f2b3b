package shard

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Strategy is a way in which a Topology divides the keys.
type Strategy uint8

const (
	// ByMod divides by the remainder of a key, or of its hash, by a number.
	ByMod Strategy = iota + 1
	// BySlots divides by slots of the hash of a key, of which each shard has many.
	BySlots
	// ByRange divides by ranges of keys.
	ByRange
)

var strategyNames = map[Strategy]string{ByMod: "mod", BySlots: "slots", ByRange: "range"}

// String returns the name of the strategy: "mod", "slots" or "range".
func (s Strategy) String() string {
	if name, ok := strategyNames[s]; ok {
		return name
	}
	return fmt.Sprintf("Strategy(%d)", uint8(s))
}

// MarshalText returns the name of the strategy.
func (s Strategy) MarshalText() ([]byte, error) { return marshalName("Strategy", strategyNames, s) }

// UnmarshalText sets the strategy to the one that has the name.
func (s *Strategy) UnmarshalText(text []byte) error {
	return unmarshalName("Strategy", strategyNames, s, text)
}

const (
	// RedisSlots is the number of slots of a Redis Cluster, and of a Map by slots.
	RedisSlots = 1 << 14
	maxSlots   = 1 << 16 // of BySlots and ByMod: a slot's part is kept in 16 bits
	maxParts   = 1 << 20
)

// A Part is a part of the keys, or of the slots, and where it is. Its bounds are bytes in the order of
// the keys, as EncodeKey makes them; of slots and remainders, they are those of an uint.
type Part struct {
	// ID is the part's name, unique in its topology. It stays when the part moves.
	ID PartID
	// Low is the first key of the part. Empty: it begins with the first of all.
	Low []byte
	// High is the first key behind the part. Empty: it ends with the last of all.
	High []byte
	// Shard is the shard that has the part.
	Shard ID
	// State says what may be done with the part. The zero value is Serving.
	State PartState
	// Target is the shard that a part that is Migrating or Fenced moves to, other than Shard; "" if that
	// is not known, and if the part is Serving.
	Target ID
	// Epoch is the epoch of the topology in which the part came to be as it is. 0: that of the topology.
	Epoch uint64
}

// equal reports whether two parts are the same but for their epochs.
func (p *Part) equal(q *Part) bool {
	return p.ID == q.ID && p.Shard == q.Shard && p.State == q.State && p.Target == q.Target &&
		bytes.Equal(p.Low, q.Low) && bytes.Equal(p.High, q.High)
}

func (p *Part) clone() Part {
	c := *p
	c.Low, c.High = slices.Clone(p.Low), slices.Clone(p.High)
	return c
}

// A TopologyConfig says what a Topology is made of.
type TopologyConfig struct {
	_ struct{}

	// Epoch numbers the topologies that follow each other. At least 1.
	Epoch uint64
	// Strategy is how keys are divided. Required.
	Strategy Strategy
	// Keys is the kind of keys: required for ByRange. 0 otherwise: Maps of all kinds take the topology, each of
	// which may place the same key elsewhere.
	Keys KeyKind
	// Hash is the hash of keys: required for ByMod and BySlots, 0 for ByRange. Identity is for ByMod.
	Hash Hash
	// Seed is the seed of XXH64. 0 for all others.
	Seed uint64
	// Tags says that only the tag of a key is hashed, if it has one; see HashTag. CRC16 does so
	// without being told. Not for ByRange.
	Tags bool
	// Slots is the number of slots, or of remainders, from 1 to 65,536; a power of two for BySlots.
	// 0: 16,384 for BySlots. Not for ByRange.
	Slots int
	// Parts is the parts, in any order. Each key must be in exactly one: no gap, no overlap.
	Parts []Part
}

// A Topology says which part of the keys is where: the data behind a Map, to be stored, and given to
// other processes. All that know it place the same keys alike; of what kind keys are is part of it, as the
// text "42" is not the number.
//
// A Topology does not change; Next makes the one that follows it. A Topology is safe for concurrent use
// by multiple goroutines, but for UnmarshalJSON. The zero value has no parts, and no Map takes it.
type Topology struct {
	c TopologyConfig // as NewTopology has completed it: parts ascend, nothing is left to defaults
}

// NewTopology returns a topology, or an error that names what is wrong with c. It takes O(n·log n) for n
// parts.
func NewTopology(c TopologyConfig) (*Topology, error) {
	c.Parts = slices.Clone(c.Parts)
	for i := range c.Parts {
		p := &c.Parts[i]
		*p = p.clone()
		if len(p.Low) == 0 {
			p.Low = nil
		}
		if len(p.High) == 0 {
			p.High = nil
		}
		if p.Epoch == 0 {
			p.Epoch = c.Epoch
		}
	}
	// Those that begin alike overlap, so their order is only of use to the message that says so.
	slices.SortFunc(c.Parts, func(p, q Part) int {
		return cmp.Or(bytes.Compare(p.Low, q.Low), cmp.Compare(p.ID, q.ID))
	})
	if c.Strategy == BySlots && c.Slots == 0 {
		c.Slots = RedisSlots
	}
	t := &Topology{c}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return t, nil
}

// Validate returns an error if t is not a topology that NewTopology would make: of the zero value, that is.
// It takes O(n) for n parts.
func (t *Topology) Validate() error {
	c := &t.c
	if c.Epoch == 0 {
		return errors.New("shard: Epoch must be at least 1, got 0")
	}
	if err := c.checkStrategy(); err != nil {
		return err
	}
	if n := len(c.Parts); n == 0 || n > maxParts {
		return fmt.Errorf("shard: Parts must have from 1 to %d parts, got %d", maxParts, n)
	}
	seen := make(map[PartID]bool, len(c.Parts))
	for i := range c.Parts {
		p := &c.Parts[i]
		if err := c.checkPart(p); err != nil {
			return err
		}
		if seen[p.ID] {
			return fmt.Errorf("shard: Parts must have different IDs, got two with %d", p.ID)
		}
		seen[p.ID] = true
	}
	return c.checkTiling()
}

func (c *TopologyConfig) checkStrategy() error {
	if _, ok := strategyNames[c.Strategy]; !ok {
		return fmt.Errorf("shard: Strategy must be %s, got %v", listNames(strategyNames), c.Strategy)
	}
	if c.Strategy == ByRange {
		switch {
		case kindNames[c.Keys] == "":
			return fmt.Errorf("shard: Keys must be %s, got %v", listNames(kindNames), c.Keys)
		case c.Hash != 0 || c.Seed != 0 || c.Tags || c.Slots != 0:
			return errors.New("shard: Hash, Seed, Tags and Slots must be left out for ranges")
		}
		return nil
	}
	switch {
	case c.Keys != 0 && kindNames[c.Keys] == "":
		return fmt.Errorf("shard: Keys must be %s, or left out, got %v", listNames(kindNames), c.Keys)
	case hashNames[c.Hash] == "":
		return fmt.Errorf("shard: Hash must be %s, got %v", listNames(hashNames), c.Hash)
	case c.Keys != 0 && !c.Hash.takes(c.Keys):
		return fmt.Errorf("shard: Hash must be one for keys of kind %v, got %v", c.Keys, c.Hash)
	case c.Hash == Identity && c.Strategy != ByMod:
		return fmt.Errorf("shard: Hash must be a hash for %v, got %v: neighbours would all be in one slot", c.Strategy, c.Hash)
	case c.Hash != XXH64 && c.Seed != 0:
		return fmt.Errorf("shard: Seed must be 0 for %v, got %d", c.Hash, c.Seed)
	case c.Tags && !c.Hash.takes(Text):
		return fmt.Errorf("shard: Tags must be false for %v, which takes integers", c.Hash)
	case c.Slots < 1 || c.Slots > maxSlots:
		return fmt.Errorf("shard: Slots must be from 1 to %d, got %d", maxSlots, c.Slots)
	case c.Strategy == BySlots && c.Slots&(c.Slots-1) != 0:
		return fmt.Errorf("shard: Slots must be a power of two, got %d", c.Slots)
	}
	if c.Hash == VitessHash {
		if _, err := desBlock(); err != nil {
			return fmt.Errorf("shard: Hash: %v needs DES, which this runtime refuses: %w", c.Hash, err)
		}
	}
	return nil
}

// boundKind returns the kind of the bounds.
func (c *TopologyConfig) boundKind() KeyKind {
	if c.Strategy == ByRange {
		return c.Keys
	}
	return Uint
}

func (c *TopologyConfig) checkPart(p *Part) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("shard: Parts: part %d: "+format, append([]any{p.ID}, args...)...)
	}
	switch {
	case p.Shard == "":
		return bad("Shard is required")
	case strings.ContainsRune(string(p.Shard), utf8.RuneError), strings.ContainsRune(string(p.Target), utf8.RuneError):
		return bad("Shard and Target must be UTF-8, got %q and %q", p.Shard, p.Target)
	case p.ID == PinnedPart:
		return bad("ID must be below that, which is for keys that are pinned")
	case int(p.State) >= len(stateNames):
		return bad("State must be serving, migrating or fenced, got %v", p.State)
	case p.Target != "" && p.State == Serving:
		return bad("Target must be left out while the part is serving, got %q", p.Target)
	case p.Target == p.Shard:
		return bad("Target must be another shard than Shard, got %q for both", p.Target)
	case p.Epoch == 0 || p.Epoch > c.Epoch:
		return bad("Epoch must be from 1 to that of the topology, %d, got %d", c.Epoch, p.Epoch)
	}
	for i, name := range []string{"Low", "High"} {
		b := [...][]byte{p.Low, p.High}[i]
		if len(b) == 0 || c.boundKind() == Text {
			continue
		}
		if len(b) != wordBytes {
			return bad("%s must have %d bytes, for a bound of kind %v, got %d", name, wordBytes, c.boundKind(), len(b))
		}
		w := binary.BigEndian.Uint64(b)
		if c.Strategy != ByRange && w >= uint64(c.Slots) {
			return bad("%s must be below Slots, %d, got %d", name, c.Slots, w)
		}
		if c.boundKind() == Float && wordOfFloat(floatOf(w)) != w {
			return bad("%s must be a number, got %x", name, b)
		}
		if w == 0 {
			return bad("%s must be above the least key, or left out", name)
		}
	}
	if len(p.Low) > 0 && len(p.High) > 0 && bytes.Compare(p.Low, p.High) >= 0 {
		return bad("Low must be below High, got %s and %s", c.boundText(p.Low), c.boundText(p.High))
	}
	return nil
}

// checkTiling returns an error unless the parts, in the order of their bounds, have each key once.
func (c *TopologyConfig) checkTiling() error {
	first, last := &c.Parts[0], &c.Parts[len(c.Parts)-1]
	if first.Low != nil {
		return fmt.Errorf("shard: Parts must have all keys, got none for those below %s, before part %d", c.boundText(first.Low), first.ID)
	}
	for i := 1; i < len(c.Parts); i++ {
		p, q := &c.Parts[i-1], &c.Parts[i]
		switch d := bytes.Compare(p.High, q.Low); {
		case p.High == nil || q.Low == nil || d > 0:
			return fmt.Errorf("shard: Parts must have each key once, got parts %d and %d for %s", p.ID, q.ID, c.boundText(q.Low))
		case d < 0:
			return fmt.Errorf("shard: Parts must have all keys, got none for those from %s to below %s, between parts %d and %d",
				c.boundText(p.High), c.boundText(q.Low), p.ID, q.ID)
		}
	}
	if last.High != nil {
		return fmt.Errorf("shard: Parts must have all keys, got none for those from %s, after part %d", c.boundText(last.High), last.ID)
	}
	return nil
}

// boundText returns a bound as people read it.
func (c *TopologyConfig) boundText(b []byte) string {
	if len(b) == 0 {
		return "the first key"
	}
	if c.boundKind() == Text {
		return abbreviate(string(b))
	}
	w := binary.BigEndian.Uint64(b)
	switch c.boundKind() {
	case Int:
		return strconv.FormatInt(int64(w^signBit), 10)
	case Float:
		return strconv.FormatFloat(floatOf(w), 'g', -1, 64)
	}
	return strconv.FormatUint(w, 10)
}

// Config returns what t is made of: a copy.
func (t *Topology) Config() TopologyConfig {
	c := t.c
	c.Parts = t.Parts()
	return c
}

// Epoch returns the number of t among the topologies that follow each other.
func (t *Topology) Epoch() uint64 { return t.c.Epoch }

// Strategy returns how t divides keys.
func (t *Topology) Strategy() Strategy { return t.c.Strategy }

// Parts returns the parts in the order of their bounds: a copy.
func (t *Topology) Parts() []Part {
	parts := make([]Part, len(t.c.Parts))
	for i := range parts {
		parts[i] = t.c.Parts[i].clone()
	}
	return parts
}

// Shards returns the shards that have parts, each once, sorted. Those that parts are only to move to do not
// belong to them: what they have of it is not to be read yet. It takes O(n·log n) for n parts.
func (t *Topology) Shards() []ID {
	set := map[ID]bool{}
	for i := range t.c.Parts {
		set[t.c.Parts[i].Shard] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Next returns the topology that follows t: with what edit has changed of its Config, of which it gets a
// copy. The epoch is the next one, also of those parts that edit has changed, added, or given another ID;
// what edit does to epochs itself is ignored. It takes O(n·log n) for n parts.
//
// It does not know where data is: a part that goes to another shard without having been Migrating and Fenced is
// taken to be empty, or copied already. And it does not know of others who make the next topology of t at the
// same time: where topologies are stored, one must be stored only if its predecessor is what is there, as by
// UPDATE … WHERE epoch = $1, so that of two one is told to begin again.
func (t *Topology) Next(edit func(*TopologyConfig)) (*Topology, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if t.c.Epoch+1 == 0 {
		return nil, fmt.Errorf("shard: Epoch must have a next one, got %d", t.c.Epoch)
	}
	c := t.Config()
	edit(&c)
	c.Epoch = t.c.Epoch + 1
	old := t.byID()
	for i := range c.Parts {
		p := &c.Parts[i]
		p.Epoch = c.Epoch
		if q := old[p.ID]; q != nil && p.equal(q) {
			p.Epoch = q.Epoch
		}
	}
	next, err := NewTopology(c)
	if err != nil {
		return nil, err
	}
	if err := next.Follows(t); err != nil {
		return nil, err
	}
	return next, nil
}

func (t *Topology) byID() map[PartID]*Part {
	m := make(map[PartID]*Part, len(t.c.Parts))
	for i := range t.c.Parts {
		m[t.c.Parts[i].ID] = &t.c.Parts[i]
	}
	return m
}

// Follows returns nil if t can take the place of old, for those who have routed by old: it is the same, or it
// has a higher epoch, and each part that is not as it was has an epoch above that of old. It returns an error
// that wraps ErrStaleEpoch if t, or a part of it, is older, or as old and other; and one that wraps
// ErrIncompatible if t divides keys in another way: by another strategy, kind of keys, hash, seed, tags or
// number of slots. It takes O(n) for n parts.
//
// It does not notice that two different topologies were made to follow the same one: see Next.
func (t *Topology) Follows(old *Topology) error {
	if t == nil || old == nil {
		return errors.New("shard: Topology is required")
	}
	if err := t.Validate(); err != nil {
		return err
	}
	a, b := &t.c, &old.c
	switch {
	case a.Strategy != b.Strategy || a.Keys != b.Keys || a.Hash != b.Hash || a.Seed != b.Seed || a.Tags != b.Tags || a.Slots != b.Slots:
		return fmt.Errorf("shard: %w: %s takes the place of %s", ErrIncompatible, a.scheme(), b.scheme())
	case a.Epoch < b.Epoch:
		return fmt.Errorf("shard: %w: Epoch must be above %d, got %d", ErrStaleEpoch, b.Epoch, a.Epoch)
	}
	// That the epoch of a part is above that of its namesake would not do: a name may have come back, with
	// keys that others had meanwhile, in epochs that were higher.
	parts := old.byID()
	for i := range a.Parts {
		p := &a.Parts[i]
		q := parts[p.ID]
		if p.Epoch > b.Epoch || q != nil && p.equal(q) && p.Epoch == q.Epoch {
			continue
		}
		return fmt.Errorf("shard: %w: part %d is not as it was, so its Epoch must be above %d, got %d", ErrStaleEpoch, p.ID, b.Epoch, p.Epoch)
	}
	return nil
}

// scheme returns all that decides which part a key belongs to, but for the bounds.
func (c *TopologyConfig) scheme() string {
	var b strings.Builder
	switch c.Strategy {
	case ByRange:
		b.WriteString("ranges")
	case ByMod:
		fmt.Fprintf(&b, "%d remainders", c.Slots)
	default:
		fmt.Fprintf(&b, "%d slots", c.Slots)
	}
	if c.Keys != 0 {
		fmt.Fprintf(&b, " of %v", c.Keys)
	}
	if c.Hash != 0 {
		fmt.Fprintf(&b, ", by %v", c.Hash)
	}
	if c.Seed != 0 {
		fmt.Fprintf(&b, " with seed %d", c.Seed)
	}
	if c.Tags {
		b.WriteString(" of tags")
	}
	return b.String()
}

// String returns what t is, for people to read: a line for itself, and one for each part.
func (t Topology) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d, %s\n", t.c.Epoch, t.c.scheme())
	for i := range t.c.Parts {
		p := &t.c.Parts[i]
		fmt.Fprintf(&b, "part %d", p.ID)
		if p.Low != nil {
			fmt.Fprintf(&b, " from %s", t.c.boundText(p.Low))
		}
		if p.High != nil {
			fmt.Fprintf(&b, " to below %s", t.c.boundText(p.High))
		}
		fmt.Fprintf(&b, ": %s, %v", p.Shard, p.State)
		if p.Target != "" {
			fmt.Fprintf(&b, " to %s", p.Target)
		}
		fmt.Fprintf(&b, ", epoch %d\n", p.Epoch)
	}
	return b.String()
}
