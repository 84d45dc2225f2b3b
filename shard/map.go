package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// A Map says where keys are by a Topology, which can be replaced by a later one while it is in use. NewMod,
// NewSlots and NewRange make one with a topology of that strategy, NewMap with any.
//
// A Map is a Locator, a Router, a RangeRouter and a Lister. A Map is safe for concurrent use by
// multiple goroutines. Each call goes by one topology: what it returns is right as of some moment of the
// call. The zero value cannot be used.
type Map[K Key] struct {
	table atomic.Pointer[table]
	form  form

	mu sync.Mutex // held by Update, so that of two the later topology wins
}

// A table is a topology, prepared for look-ups. It does not change.
//
// Invariant: places[part(k)] is the placement of the part p with p.Low <= x(k) < p.High, where x is the
// key itself for ByRange, and its slot else.
type table struct {
	how    how
	hash   Hash
	signed bool
	tags   bool
	shift  uint8  // of XXH64 to the slot, which is its uppermost bits
	mask   uint64 // of CRC16 to the slot, which is its lowest bits
	seed   uint64
	slots  uint64
	parts  []uint16 // of slots: the index of the part of each
	places []Placement
	words  []uint64 // of ranges: the lower bounds of all parts but the first, as words
	texts  *texts   // and of texts what else is to be known

	topology *Topology
}

// how says what Locate has to do, so that it need not look at several fields.
type how uint8

const (
	howOther       how = iota // by part
	howWordSlot               // slots of XXH64 of integers of 64 bits
	howTextSlot               // slots of XXH64 of strings, with seed 0, without tags
	howSignedMod              // remainders of int64
	howWordRange              // ranges of uint64
	howSignedRange            // ranges of int64
	howTextRange              // ranges of strings
)

// NewMap returns a Map that goes by t. Its hash, or the kind of its bounds, must be one for keys of type K.
func NewMap[K Key](t *Topology) (*Map[K], error) {
	if t == nil {
		return nil, fmt.Errorf("shard: Topology is required")
	}
	m := &Map[K]{form: formOf[K]()}
	tab, err := newTable(t, m.form)
	if err != nil {
		return nil, err
	}
	m.table.Store(tab)
	return m, nil
}

func newTable(t *Topology, f form) (*table, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	c, kind := &t.c, kindOf(f)
	tab := &table{
		hash: c.Hash, signed: kind == Int, tags: kind == Text && (c.Tags || c.Hash == CRC16), seed: c.Seed,
		topology: t, places: make([]Placement, len(c.Parts)),
	}
	for i := range c.Parts {
		p := &c.Parts[i]
		tab.places[i] = Placement{Shard: p.Shard, Part: p.ID, Epoch: p.Epoch, State: p.State}
	}
	if c.Keys != 0 && c.Keys != kind {
		return nil, fmt.Errorf("shard: Keys of the topology must be %v, as those of the Map, got %v", kind, c.Keys)
	}
	switch c.Strategy {
	case ByRange:
		tab.setRanges(c, f)
		return tab, nil
	case BySlots:
		tab.shift = uint8(64 - bits.Len(uint(c.Slots-1))) // 64 for one slot
		tab.mask = uint64(c.Slots - 1)
	}
	if !c.Hash.takes(kind) {
		return nil, fmt.Errorf("shard: Hash of the topology must be one for keys of kind %v, got %v", kind, c.Hash)
	}
	tab.slots = uint64(c.Slots)
	tab.parts = make([]uint16, c.Slots)
	for i := range c.Parts {
		low, high := uint64(0), tab.slots
		if p := &c.Parts[i]; p.Low != nil {
			low = binary.BigEndian.Uint64(p.Low)
		}
		if p := &c.Parts[i]; p.High != nil {
			high = binary.BigEndian.Uint64(p.High)
		}
		for s := low; s < high; s++ {
			tab.parts[s] = uint16(i)
		}
	}
	switch {
	case c.Strategy == ByMod && c.Hash == Identity && f == formInt64:
		tab.how = howSignedMod
	case c.Slots == 1: // a shift by 64 is not one by 64&63
	case c.Strategy == BySlots && c.Hash == XXH64 && (f == formInt64 || f == formUint64):
		tab.how = howWordSlot
	case c.Strategy == BySlots && c.Hash == XXH64 && f == formText && c.Seed == 0 && !c.Tags:
		tab.how = howTextSlot
	}
	return tab, nil
}

// Locate returns the placement of k. It takes O(1), with O(len(k)) for the hash; by ranges O(log n) for n of
// them. It takes no lock and allocates nothing.
func (m *Map[K]) Locate(k K) Placement {
	t := m.table.Load()
	return t.places[t.partOf(at(&k), m.form)]
}

// Route returns Locate's result. It never fails.
func (m *Map[K]) Route(_ context.Context, k K) (Placement, error) { return m.Locate(k), nil }

// RouteRange returns the placements of all parts that can have keys from lo to hi, both included, in the
// order of the parts. By slots and remainders that is all parts: neighbours are anywhere. lo must be at most
// hi.
func (m *Map[K]) RouteRange(_ context.Context, lo, hi K) ([]Placement, error) {
	t := m.table.Load()
	if a, b := EncodeKey(lo), EncodeKey(hi); bytes.Compare(a, b) > 0 {
		return nil, fmt.Errorf("shard: lo must be at most hi, got %v and %v", lo, hi)
	}
	if t.words == nil {
		return slices.Clone(t.places), nil
	}
	return slices.Clone(t.places[t.partOf(at(&lo), m.form) : t.partOf(at(&hi), m.form)+1]), nil
}

// RouteFrom returns the placements of all parts that can have keys from lo on, as RouteRange does.
func (m *Map[K]) RouteFrom(_ context.Context, lo K) ([]Placement, error) {
	t := m.table.Load()
	if t.words == nil {
		return slices.Clone(t.places), nil
	}
	return slices.Clone(t.places[t.partOf(at(&lo), m.form):]), nil
}

// Placements returns those of all parts, in the order of the parts.
func (m *Map[K]) Placements() []Placement { return slices.Clone(m.table.Load().places) }

// Shards returns the shards that have parts, each once, sorted. It takes O(n·log n) for n parts.
func (m *Map[K]) Shards() []ID { return m.table.Load().topology.Shards() }

// Topology returns the topology that m goes by.
func (m *Map[K]) Topology() *Topology { return m.table.Load().topology }

// Update makes m go by t from now on. It returns an error, and changes nothing, unless t can follow the
// topology that m goes by; see Topology.Follows. It takes O(n) for n parts and slots.
func (m *Map[K]) Update(t *Topology) error {
	if t == nil {
		return fmt.Errorf("shard: Topology is required")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := t.Follows(m.table.Load().topology); err != nil {
		return err
	}
	tab, err := newTable(t, m.form)
	if err != nil {
		return err
	}
	m.table.Store(tab)
	return nil
}

// partOf returns the index of the part that k belongs to. What is asked for most comes first.
func (t *table) partOf(k unsafe.Pointer, f form) int {
	switch t.how {
	case howWordSlot:
		return int(t.parts[xxh64Word(wordAt(k), t.seed)>>(t.shift&63)])
	case howTextSlot:
		return int(t.parts[xxhash.Sum64String(textAt(k))>>(t.shift&63)])
	case howSignedMod:
		return int(t.parts[modulo(int64(wordAt(k)), int64(t.slots))])
	case howWordRange:
		return search(t.words, wordAt(k))
	case howSignedRange:
		return search(t.words, wordAt(k)^signBit)
	case howTextRange:
		return t.texts.part(t.words, textAt(k))
	}
	return t.partOfOther(k, f)
}

func (t *table) partOfOther(k unsafe.Pointer, f form) int {
	text := kindOf(f) == Text
	if t.slots == 0 {
		if text {
			return t.texts.part(t.words, textOf(k, f))
		}
		return search(t.words, wordOf(k, f))
	}
	var h uint64
	if text {
		s := textOf(k, f)
		if t.tags {
			s = HashTag(s)
		}
		h = t.hash.hashText(s, t.seed)
	} else {
		h = t.hash.hashNumber(numberOf(k, f), t.signed, t.seed)
	}
	return int(t.parts[t.slot(h)])
}

// slot returns the slot, or the remainder, of a hash.
func (t *table) slot(h uint64) uint64 {
	switch {
	case t.topology.c.Strategy == BySlots && t.hash == CRC16:
		return h & t.mask
	case t.topology.c.Strategy == BySlots:
		return h >> t.shift
	case t.hash == Identity && t.signed:
		return modulo(int64(h), int64(t.slots))
	}
	return h % t.slots
}

// modulo returns the remainder from 0 to m-1, of negative numbers as well.
func modulo(n, m int64) uint64 {
	r := n % m
	if r < 0 {
		r += m
	}
	return uint64(r)
}

// search returns how many of the ascending words are at most w: with lower bounds of all parts but the first,
// the part that w belongs to. Whether half of them are skipped is computed from the borrow of a subtraction
// and not decided by a branch, which would be mispredicted every other time: that makes it three and a half
// times as fast. How often it loops depends on len(words) alone.
func search(words []uint64, w uint64) int {
	base := 0
	for n := len(words); n > 0; {
		half := (n + 1) / 2
		_, below := bits.Sub64(w, words[base+half-1], 0)
		base += half &^ -int(below)
		n -= half
	}
	return base
}

// texts is what is to be known of lower bounds that are texts, beside their words: those are the 8 bytes
// behind what all of them begin with, filled up with zeros. Bounds that have the same word are
// compared as texts.
type texts struct {
	prefix string
	bounds []string
}

func (c *TopologyConfig) lowerBounds() [][]byte {
	bounds := make([][]byte, 0, len(c.Parts))
	for i := range c.Parts[1:] {
		bounds = append(bounds, c.Parts[i+1].Low)
	}
	return bounds
}

func (t *table) setRanges(c *TopologyConfig, f form) {
	bounds := c.lowerBounds()
	t.words = make([]uint64, len(bounds))
	if c.Keys != Text {
		for i, b := range bounds {
			t.words[i] = binary.BigEndian.Uint64(b)
		}
		switch f {
		case formInt64:
			t.how = howSignedRange
		case formUint64:
			t.how = howWordRange
		}
		return
	}
	t.texts = &texts{bounds: make([]string, len(bounds))}
	for i, b := range bounds {
		t.texts.bounds[i] = string(b)
	}
	if n := len(bounds); n > 0 {
		first, last := t.texts.bounds[0], t.texts.bounds[n-1] // what these share, those between share
		i := 0
		for i < min(len(first), len(last)) && first[i] == last[i] {
			i++
		}
		t.texts.prefix = first[:i]
	}
	for i, b := range t.texts.bounds {
		t.words[i] = textWord(b[len(t.texts.prefix):])
	}
	if f == formText {
		t.how = howTextRange
	}
}

// textWord returns the first 8 bytes of s, which has zeros behind its end. Of two texts the lesser one never
// has the greater word.
func textWord(s string) uint64 {
	if len(s) >= 8 {
		return uint64(s[7]) | uint64(s[6])<<8 | uint64(s[5])<<16 | uint64(s[4])<<24 |
			uint64(s[3])<<32 | uint64(s[2])<<40 | uint64(s[1])<<48 | uint64(s[0])<<56
	}
	var w uint64
	for i := range len(s) {
		w |= uint64(s[i]) << (56 - 8*i)
	}
	return w
}

// part returns how many of the bounds are at most s.
func (t *texts) part(words []uint64, s string) int {
	if !strings.HasPrefix(s, t.prefix) {
		if s < t.prefix {
			return 0
		}
		return len(words)
	}
	w := textWord(s[len(t.prefix):])
	n := search(words, w)
	// Of those whose word is w, some may be above s; those with lesser words are not.
	if n == 0 || words[n-1] != w || t.bounds[n-1] <= s {
		return n
	}
	first := 0
	if w > 0 {
		first = search(words, w-1)
	}
	return first + sort.Search(n-first, func(i int) bool { return t.bounds[first+i] > s })
}
