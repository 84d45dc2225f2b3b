package shard

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

var ctx = context.Background()

type (
	namedString string
	namedBytes  []byte
	namedInt    int32
)

func TestMod(t *testing.T) {
	m, err := NewMod[int64](ModConfig{Shards: []ID{"a", "b", "c", "a"}})
	require.NoError(t, err)
	for k, want := range map[int64]ID{
		0: "a", 1: "b", 2: "c", 3: "a", 4: "a", 5: "b",
		-1: "a", -2: "c", -3: "b", -4: "a",
		math.MaxInt64: "a", math.MinInt64: "a", math.MinInt64 + 1: "b",
	} {
		require.Equal(t, want, m.Locate(k).Shard, "%d", k)
	}
	require.Equal(t, Placement{Shard: "a", Part: 3, Epoch: 1}, m.Locate(3))
	require.Equal(t, Placement{Shard: "a", Part: 0, Epoch: 1}, m.Locate(4))
	require.Equal(t, []ID{"a", "b", "c"}, m.Shards())

	u, err := NewMod[uint64](ModConfig{Shards: []ID{"a", "b", "c"}})
	require.NoError(t, err)
	require.Equal(t, ID("a"), u.Locate(math.MaxUint64).Shard) // 3 divides 2^64-1

	s, err := NewMod[namedInt](ModConfig{Shards: []ID{"a", "b", "c"}})
	require.NoError(t, err)
	require.Equal(t, ID("c"), s.Locate(-1).Shard)

	h, err := NewMod[string](ModConfig{Shards: []ID{"a", "b", "c"}, Tags: true, Epoch: 9})
	require.NoError(t, err)
	require.Equal(t, PartID(xxhash.Sum64String("x")%3), h.Locate("x").Part)
	require.Equal(t, h.Locate("x"), h.Locate("1{x}2"))
	require.Equal(t, uint64(9), h.Locate("x").Epoch)
}

func TestSlots(t *testing.T) {
	m, err := NewSlots[string](SlotsConfig{Shards: []ID{"a", "b", "c"}})
	require.NoError(t, err)
	require.Equal(t, `epoch 1, 16384 slots of text, by xxh64
part 0 to below 5461: a, serving, epoch 1
part 1 from 5461 to below 10923: b, serving, epoch 1
part 2 from 10923: c, serving, epoch 1
`, m.Topology().String())
	for i := range 1000 {
		k := fmt.Sprint("key", i)
		slot := xxhash.Sum64String(k) >> 50
		want := ID("a")
		if slot >= 10923 {
			want = "c"
		} else if slot >= 5461 {
			want = "b"
		}
		require.Equal(t, want, m.Locate(k).Shard)
		p, err := m.Route(ctx, k)
		require.NoError(t, err)
		require.Equal(t, m.Locate(k), p)
	}

	// One slot, and as many shards as slots.
	one, err := NewSlots[int64](SlotsConfig{Shards: []ID{"a"}, Slots: 1})
	require.NoError(t, err)
	require.Equal(t, ID("a"), one.Locate(math.MinInt64).Shard)
	ones, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Slots: 1})
	require.NoError(t, err)
	require.Equal(t, ID("a"), ones.Locate("x").Shard)
	full, err := NewSlots[int64](SlotsConfig{Shards: ids("s", 256), Slots: 256})
	require.NoError(t, err)
	for k := range int64(1000) {
		require.Equal(t, PartID(xxh64Word(uint64(k), 0)>>56), full.Locate(k).Part)
	}

	// Redis: the slots of its specification, and of tags.
	r, err := NewSlots[string](SlotsConfig{Shards: ids("s", RedisSlots), Hash: CRC16})
	require.NoError(t, err)
	require.Equal(t, PartID(12182), r.Locate("foo").Part)
	require.Equal(t, PartID(12182), r.Locate("{foo}bar").Part)
	require.Equal(t, PartID(0), r.Locate("").Part)

	// Vitess: a slot is the beginning of the keyspace ID.
	v, err := NewSlots[int](SlotsConfig{Shards: []ID{"-80", "80-"}, Hash: VitessHash})
	require.NoError(t, err)
	require.Equal(t, ID("-80"), v.Locate(1).Shard)
	require.Equal(t, ID("80-"), v.Locate(4).Shard)
}

// TestSameNumber shows that a number has the same place whatever its type.
func TestSameNumber(t *testing.T) {
	c := SlotsConfig{Shards: ids("s", 1000), Seed: 5}
	a, err := NewSlots[int64](c)
	require.NoError(t, err)
	b, err := NewSlots[int8](c)
	require.NoError(t, err)
	d, err := NewSlots[uint16](c)
	require.NoError(t, err)
	ptr, err := NewSlots[uintptr](c)
	require.NoError(t, err)
	e, err := NewSlots[namedInt](c)
	require.NoError(t, err)
	for n := int64(-128); n < 128; n++ {
		require.Equal(t, a.Locate(n), b.Locate(int8(n)))
		require.Equal(t, a.Locate(n), e.Locate(namedInt(n)))
		if n >= 0 {
			require.Equal(t, a.Locate(n), d.Locate(uint16(n)))
			require.Equal(t, a.Locate(n), ptr.Locate(uintptr(n)))
		}
	}
	s, err := NewSlots[string](c)
	require.NoError(t, err)
	y, err := NewSlots[namedBytes](c)
	require.NoError(t, err)
	n, err := NewSlots[namedString](c)
	require.NoError(t, err)
	for _, k := range []string{"", "a", "abcdefgh", "abcdefghijklmnop"} {
		require.Equal(t, s.Locate(k), y.Locate(namedBytes(k)))
		require.Equal(t, s.Locate(k), n.Locate(namedString(k)))
	}
	require.Equal(t, s.Locate(""), y.Locate(nil))
}

func ids(prefix string, n int) []ID {
	l := make([]ID, n)
	for i := range l {
		l[i] = ID(fmt.Sprint(prefix, i))
	}
	return l
}

func TestRange(t *testing.T) {
	m, err := NewRange(RangeConfig[string]{Bounds: []string{"g", "ga", "m"}, Shards: []ID{"a", "b", "c", "a"}})
	require.NoError(t, err)
	for k, want := range map[string]PartID{
		"": 0, "f": 0, "f\xff\xff": 0, "g": 1, "g\x00": 1, "g`": 1, "ga": 2, "gb": 2, "l": 2, "m": 3, "\xff\xff": 3,
	} {
		require.Equal(t, want, m.Locate(k).Part, "%q", k)
	}
	list := func(ps []Placement, err error) string {
		require.NoError(t, err)
		var s []string
		for _, p := range ps {
			s = append(s, fmt.Sprint(p.Part, p.Shard))
		}
		return strings.Join(s, " ")
	}
	require.Equal(t, "0a 1b 2c 3a", list(m.RouteRange(ctx, "", "z")))
	require.Equal(t, "0a", list(m.RouteRange(ctx, "", "f")))
	require.Equal(t, "0a 1b", list(m.RouteRange(ctx, "f", "g")))
	require.Equal(t, "1b", list(m.RouteRange(ctx, "g", "g")))
	require.Equal(t, "2c 3a", list(m.RouteFrom(ctx, "h")))
	require.Equal(t, "0a 1b 2c 3a", list(m.RouteFrom(ctx, "")))
	ps, err := m.RouteRange(ctx, "", "z")
	require.NoError(t, err)
	require.Equal(t, []ID{"a", "b", "c"}, Distinct(ps))
	_, err = m.RouteRange(ctx, "b", "a")
	require.EqualError(t, err, "shard: lo must be at most hi, got b and a")

	i, err := NewRange(RangeConfig[int64]{Bounds: []int64{math.MinInt64 + 1, -1, 0, math.MaxInt64}, Shards: ids("s", 5)})
	require.NoError(t, err)
	for k, want := range map[int64]PartID{
		math.MinInt64: 0, math.MinInt64 + 1: 1, -2: 1, -1: 2, 0: 3, 1: 3, math.MaxInt64 - 1: 3, math.MaxInt64: 4,
	} {
		require.Equal(t, want, i.Locate(k).Part, "%d", k)
	}
	u, err := NewRange(RangeConfig[uint64]{Bounds: []uint64{1, math.MaxUint64}, Shards: ids("s", 3)})
	require.NoError(t, err)
	for k, want := range map[uint64]PartID{0: 0, 1: 1, math.MaxUint64 - 1: 1, math.MaxUint64: 2} {
		require.Equal(t, want, u.Locate(k).Part, "%d", k)
	}
	inf, nan := math.Inf(1), math.NaN()
	f, err := NewRange(RangeConfig[float64]{Bounds: []float64{-inf, -1, 0, 1, inf}, Shards: ids("s", 6)})
	require.NoError(t, err)
	for _, c := range []struct {
		k    float64
		want PartID
	}{
		{nan, 0}, {-nan, 0}, {-inf, 1}, {-math.MaxFloat64, 1}, {-1, 2}, {-math.SmallestNonzeroFloat64, 2},
		{math.Copysign(0, -1), 3}, {0, 3}, {1, 4}, {math.MaxFloat64, 4}, {inf, 5},
	} {
		require.Equal(t, c.want, f.Locate(c.k).Part, "%v", c.k)
	}
	one, err := NewRange(RangeConfig[string]{Shards: []ID{"a"}})
	require.NoError(t, err)
	require.Equal(t, ID("a"), one.Locate("x").Shard)
	require.Equal(t, "0a", list(one.RouteRange(ctx, "", "x")))

	// By slots, a range is everywhere.
	s, err := NewSlots[string](SlotsConfig{Shards: []ID{"a", "b"}})
	require.NoError(t, err)
	require.Equal(t, "0a 1b", list(s.RouteRange(ctx, "x", "x")))
	require.Equal(t, "0a 1b", list(s.RouteFrom(ctx, "x")))
	require.Equal(t, "0a 1b", list(s.Placements(), nil))
}

func TestConstructorErrors(t *testing.T) {
	for want, f := range map[string]func() error{
		"shard: Shards must have from 1 to 65536 shards, got 0": func() error { _, err := NewMod[int](ModConfig{}); return err },
		"shard: Parts: part 1: Shard is required": func() error {
			_, err := NewMod[int](ModConfig{Shards: []ID{"a", ""}})
			return err
		},
		"shard: Hash must be one for keys of kind text, got identity": func() error {
			_, err := NewMod[string](ModConfig{Shards: []ID{"a"}, Hash: Identity})
			return err
		},
		"shard: Hash must be a hash for slots, got identity: neighbours would all be in one slot": func() error {
			_, err := NewSlots[int](SlotsConfig{Shards: []ID{"a"}, Hash: Identity})
			return err
		},
		"shard: Hash must be one for keys of kind int, got crc16": func() error {
			_, err := NewSlots[int](SlotsConfig{Shards: []ID{"a"}, Hash: CRC16})
			return err
		},
		"shard: Hash must be one for keys of kind text, got vitess-hash": func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Hash: VitessHash})
			return err
		},
		"shard: Seed must be 0 for crc16, got 3": func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Hash: CRC16, Seed: 3})
			return err
		},
		"shard: Slots must be a power of two, got 1000": func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Slots: 1000})
			return err
		},
		"shard: Slots must be from 1 to 65536, got -1": func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Slots: -1})
			return err
		},
		"shard: Shards must have from 1 to 2 shards, one for each slot, got 3": func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: ids("s", 3), Slots: 2})
			return err
		},
		`shard: Shards must have each shard once, got "a" twice`: func() error {
			_, err := NewSlots[string](SlotsConfig{Shards: []ID{"a", "a"}})
			return err
		},
		"shard: Bounds must have one bound less than Shards, 1, got 0": func() error {
			_, err := NewRange(RangeConfig[int]{Shards: ids("s", 2)})
			return err
		},
		"shard: Bounds[1] must be above the one before, 5, got 5": func() error {
			_, err := NewRange(RangeConfig[int]{Bounds: []int{5, 5}, Shards: ids("s", 3)})
			return err
		},
		`shard: Bounds[0] must be above the least key, got ""`: func() error {
			_, err := NewRange(RangeConfig[string]{Bounds: []string{""}, Shards: ids("s", 2)})
			return err
		},
		"shard: Bounds[0] must be above the least key, got NaN": func() error {
			_, err := NewRange(RangeConfig[float64]{Bounds: []float64{math.NaN()}, Shards: ids("s", 2)})
			return err
		},
		"shard: Topology is required":            func() error { _, err := NewMap[int](nil); return err },
		"shard: Epoch must be at least 1, got 0": func() error { _, err := NewMap[int](new(Topology)); return err },
		"shard: Hash must be crc16, identity, vitess-hash, vitess-xxhash or xxh64, got Hash(77)": func() error {
			_, err := NewSlots[int](SlotsConfig{Shards: []ID{"a"}, Hash: 77})
			return err
		},
		"shard: Keys of the topology must be text, as those of the Map, got int": func() error {
			m, err := NewRange(RangeConfig[int]{Shards: []ID{"a"}})
			require.NoError(t, err)
			_, err = NewMap[string](m.Topology())
			return err
		},
	} {
		require.EqualError(t, f(), want)
	}
}

// TestRangeModel compares ranges of all kinds with a search from the beginning.
func TestRangeModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	text := func(s string) string { return s }
	testRangeModel(t, rng, func() string { return strings.Repeat("p", rng.IntN(3)) + randomText(rng) }, cmp.Compare[string], text)
	testRangeModel(t, rng, func() string { return "a common beginning/" + randomText(rng) }, cmp.Compare[string], text)
	testRangeModel(t, rng, func() []byte { return []byte(randomText(rng)) }, slices.Compare[[]byte], func(b []byte) string { return string(b) })
	testRangeModel(t, rng, func() int64 { return int64(rng.Uint64()) >> rng.IntN(64) }, cmp.Compare[int64], nil)
	testRangeModel(t, rng, func() uint64 { return rng.Uint64() >> rng.IntN(64) }, cmp.Compare[uint64], nil)
	testRangeModel(t, rng, func() int8 { return int8(rng.Uint32()) }, cmp.Compare[int8], nil)
	testRangeModel(t, rng, func() namedInt { return namedInt(rng.Uint32()) }, cmp.Compare[namedInt], nil)
	testRangeModel(t, rng, func() uint { return uint(rng.Uint64()) >> rng.IntN(32) }, cmp.Compare[uint], nil)
	testRangeModel(t, rng, func() float64 { return math.Float64frombits(rng.Uint64()) }, cmp.Compare[float64], nil)
	testRangeModel(t, rng, func() float32 { return math.Float32frombits(rng.Uint32()) }, cmp.Compare[float32], nil)
}

// randomText returns a text that often has a beginning in common with others, zeros at its end, and one of the
// bytes at both ends.
func randomText(rng *rand.Rand) string {
	b := make([]byte, rng.IntN(12))
	for i := range b {
		b[i] = "\x00\x01a\xfe\xff"[rng.IntN(5)]
	}
	return string(b)
}

func testRangeModel[K Key](t *testing.T, rng *rand.Rand, random func() K, compare func(a, b K) int, _ func(K) string) {
	t.Helper()
	rounds := 60
	if underRace || testing.Short() {
		rounds = 10
	}
	for range rounds {
		var c RangeConfig[K]
		for range rng.IntN(60) {
			k := random()
			if b := EncodeKey(k); len(b) > 0 && !slices.Equal(b, make([]byte, wordBytes)) {
				c.Bounds = append(c.Bounds, k)
			}
		}
		slices.SortFunc(c.Bounds, compare)
		c.Bounds = slices.CompactFunc(c.Bounds, func(a, b K) bool { return compare(a, b) == 0 })
		c.Shards = ids("s", len(c.Bounds)+1)
		m, err := NewRange(c)
		require.NoError(t, err)
		for i := range 200 {
			k := random()
			if len(c.Bounds) > 0 && i%2 == 0 {
				k = c.Bounds[rng.IntN(len(c.Bounds))]
			}
			want := 0
			for want < len(c.Bounds) && compare(c.Bounds[want], k) <= 0 {
				want++
			}
			require.Equal(t, PartID(want), m.Locate(k).Part, "%#v in %#v", k, c.Bounds)

			// The bytes of a key are ordered as it is, and lead back to it.
			back, err := DecodeKey[K](EncodeKey(k))
			require.NoError(t, err)
			require.Zero(t, compare(back, k))
			l := random()
			require.Equal(t, sign(compare(k, l)), slices.Compare(EncodeKey(k), EncodeKey(l)), "%#v, %#v", k, l)
			if compare(k, l) <= 0 {
				ps, err := m.RouteRange(ctx, k, l)
				require.NoError(t, err)
				require.Equal(t, m.Placements()[m.Locate(k).Part:m.Locate(l).Part+1], ps)
			}
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func TestLocateAllocatesNothing(t *testing.T) {
	if underRace {
		t.Log("the race detector allocates")
		return
	}
	texts, numbers := benchKeys()
	check := func(name string, f func(i int)) {
		i := 0
		require.Zero(t, testing.AllocsPerRun(1000, func() { f(i & 1023); i++ }), name)
	}
	for _, h := range []Hash{XXH64, CRC16, VitessXXHash} {
		for _, seed := range []uint64{0, 7} {
			if seed != 0 && h != XXH64 {
				continue
			}
			s, err := NewSlots[string](SlotsConfig{Shards: ids("s", 8), Hash: h, Seed: seed, Tags: true})
			require.NoError(t, err)
			check(h.String(), func(i int) { s.Locate(texts[i]) })
			m, err := NewMod[string](ModConfig{Shards: ids("s", 8), Hash: h, Seed: seed})
			require.NoError(t, err)
			check(h.String(), func(i int) { m.Locate(texts[i]) })
		}
	}
	for _, h := range []Hash{XXH64, VitessHash, VitessXXHash} {
		s, err := NewSlots[int64](SlotsConfig{Shards: ids("s", 8), Hash: h})
		require.NoError(t, err)
		check(h.String(), func(i int) { s.Locate(numbers[i]) })
	}
	r, err := NewRange(RangeConfig[string]{Shards: ids("s", 3), Bounds: []string{"5", "a"}})
	require.NoError(t, err)
	check("range", func(i int) { r.Locate(texts[i]) })
	g, err := NewGeo(GeoConfig[string]{Shards: map[string]ID{"0": "a"}, Default: "b"})
	require.NoError(t, err)
	check("geo", func(i int) { g.Locate(texts[i]) })
	c, err := Compose[string, string](g, map[ID]Locator[string]{"a": r, "b": mustSlots(t, "x", "y")})
	require.NoError(t, err)
	check("composed", func(i int) { c.Locate(Pair[string, string]{texts[i], texts[i]}) })
	p, err := NewPinned[string](r, map[string]ID{texts[0]: "x"})
	require.NoError(t, err)
	check("pinned", func(i int) { p.Locate(texts[i]) })
}

func mustSlots(t *testing.T, shards ...ID) *Map[string] {
	t.Helper()
	m, err := NewSlots[string](SlotsConfig{Shards: shards})
	require.NoError(t, err)
	return m
}

// TestUpdate moves parts one after the other while others look keys up: whatever they see is one of the
// topologies, and for one reader they only go forward.
func TestUpdate(t *testing.T) {
	m := mustSlots(t, "a", "b", "c")
	old := m.Topology()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := m.Locate("key") // in part 0
				if p.Epoch < last || p.Part != 0 || p.Shard != ID(fmt.Sprint("a", p.Epoch)) && p.Epoch > 1 {
					t.Errorf("after epoch %d: %+v", last, p)
					return
				}
				last = p.Epoch
			}
		})
	}
	require.Equal(t, PartID(0), m.Locate("key").Part)
	for range 200 {
		next, err := m.Topology().Next(func(c *TopologyConfig) { c.Parts[0].Shard = ID(fmt.Sprint("a", c.Epoch+1)) })
		require.NoError(t, err)
		require.NoError(t, m.Update(next))
		require.NoError(t, m.Update(next)) // again changes nothing
	}
	close(stop)
	wg.Wait()
	require.Equal(t, Placement{Shard: "a201", Epoch: 201}, m.Locate("key"))
	require.ErrorIs(t, m.Update(old), ErrStaleEpoch)
	require.EqualError(t, m.Update(old), "shard: stale epoch: Epoch must be above 201, got 1")
	require.EqualError(t, m.Update(nil), "shard: Topology is required")
	require.Equal(t, uint64(201), m.Topology().Epoch())

	// Of many who update at the same time, the latest topology wins.
	var chain []*Topology
	for top := m.Topology(); len(chain) < 50; {
		next, err := top.Next(func(*TopologyConfig) {})
		require.NoError(t, err)
		chain, top = append(chain, next), next
	}
	for _, top := range chain {
		wg.Go(func() { _ = m.Update(top) })
	}
	wg.Wait()
	require.Equal(t, uint64(251), m.Topology().Epoch())

	other, err := NewSlots[string](SlotsConfig{Shards: []ID{"a"}, Hash: CRC16, Epoch: 300})
	require.NoError(t, err)
	err = m.Update(other.Topology())
	require.ErrorIs(t, err, ErrIncompatible)
	require.EqualError(t, err, "shard: incompatible topology: 16384 slots of text, by crc16 takes the place of 16384 slots of text, by xxh64")
}

var updateGolden = flag.Bool("update", false, "write the golden file anew; a change of it is a breaking change")

// TestGolden compares placements with those in testdata, which must never change: processes of
// different versions and on different machines agree by them.
func TestGolden(t *testing.T) {
	var b strings.Builder
	shards := ids("s", 1000)
	texts := []string{"", "a", "user:1", "{user:1}:cart", "\x00\xff", strings.Repeat("long", 20)}
	numbers := []int64{0, 1, -1, 12345, math.MaxInt64, math.MinInt64}
	for _, h := range []Hash{XXH64, CRC16, VitessXXHash} {
		s, err := NewSlots[string](SlotsConfig{Shards: shards, Hash: h})
		require.NoError(t, err)
		m, err := NewMod[string](ModConfig{Shards: shards, Hash: h})
		require.NoError(t, err)
		for _, k := range texts {
			fmt.Fprintf(&b, "%v %q %016x slots %d mod %d\n", h, k, h.hashText(k, 0), s.Locate(k).Part, m.Locate(k).Part)
		}
	}
	for _, h := range []Hash{XXH64, VitessHash, VitessXXHash, Identity} {
		m, err := NewMod[int64](ModConfig{Shards: shards, Hash: h})
		require.NoError(t, err)
		for _, k := range numbers {
			fmt.Fprintf(&b, "%v %d %016x mod %d", h, k, h.hashNumber(uint64(k), true, 0), m.Locate(k).Part)
			if h != Identity {
				s, err := NewSlots[int64](SlotsConfig{Shards: shards, Hash: h})
				require.NoError(t, err)
				fmt.Fprintf(&b, " slots %d", s.Locate(k).Part)
			}
			b.WriteByte('\n')
		}
	}
	for _, seed := range []uint64{1, math.MaxUint64} {
		s, err := NewSlots[string](SlotsConfig{Shards: shards, Seed: seed, Tags: true})
		require.NoError(t, err)
		n, err := NewSlots[int64](SlotsConfig{Shards: shards, Seed: seed})
		require.NoError(t, err)
		for _, k := range texts {
			fmt.Fprintf(&b, "xxh64 seed %d tags %q slots %d\n", seed, k, s.Locate(k).Part)
		}
		for _, k := range numbers {
			fmt.Fprintf(&b, "xxh64 seed %d %d slots %d\n", seed, k, n.Locate(k).Part)
		}
	}
	for _, k := range texts {
		fmt.Fprintf(&b, "encoded %q %x\n", k, EncodeKey(k))
	}
	for _, k := range numbers {
		fmt.Fprintf(&b, "encoded %d %x uint %x float %x\n", k, EncodeKey(k), EncodeKey(uint64(k)), EncodeKey(float64(k)))
	}
	file := filepath.Join("testdata", "golden.txt")
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}
