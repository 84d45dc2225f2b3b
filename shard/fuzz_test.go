package shard

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRoute asks of every strategy that any key has exactly one shard: the same each time, one of those that
// there are, and in a part that says it has the key.
func FuzzRoute(f *testing.F) {
	for _, k := range []string{"", "a", "{a}", "{}", "user{1}", "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x00"} {
		f.Add(k, int64(0), uint64(0), uint8(3))
	}
	f.Add("x", int64(math.MinInt64), uint64(math.MaxUint64), uint8(255))
	f.Add("x", int64(-1), uint64(1), uint8(0))
	f.Fuzz(func(t *testing.T, text string, n int64, seed uint64, shards uint8) {
		list := ids("s", int(shards)+1)
		for _, h := range []Hash{XXH64, CRC16, VitessXXHash} {
			if h == XXH64 {
				exactlyOne(t, text)(NewSlots[string](SlotsConfig{Shards: list, Hash: h, Seed: seed, Tags: true}))
			}
			exactlyOne(t, text)(NewSlots[string](SlotsConfig{Shards: list, Hash: h}))
			exactlyOne(t, []byte(text))(NewMod[[]byte](ModConfig{Shards: list, Hash: h}))
		}
		for _, h := range []Hash{XXH64, VitessHash, VitessXXHash, Identity} {
			exactlyOne(t, n)(NewMod[int64](ModConfig{Shards: list, Hash: h}))
			exactlyOne(t, uint64(n))(NewMod[uint64](ModConfig{Shards: list, Hash: h}))
			if h != Identity {
				exactlyOne(t, n)(NewSlots[int64](SlotsConfig{Shards: list, Hash: h}))
				exactlyOne(t, int16(n))(NewSlots[int16](SlotsConfig{Shards: list, Hash: h}))
			}
		}
		exactlyOne(t, math.Float64frombits(uint64(n)))(NewSlots[float64](SlotsConfig{Shards: list}))

		// Ranges whose bounds are around the key.
		var texts []string
		var numbers []int64
		for i := range shards % 4 {
			texts = append(texts, text[:len(text)/(int(i)+1)]+"\x01", text+string(rune('a'+i)))
			numbers = append(numbers, n/(int64(i)+1), int64(seed)>>i)
		}
		texts, numbers = tidy(texts, ""), tidy(numbers, math.MinInt64)
		exactlyOne(t, text)(NewRange(RangeConfig[string]{Bounds: texts, Shards: ids("s", len(texts)+1)}))
		exactlyOne(t, n)(NewRange(RangeConfig[int64]{Bounds: numbers, Shards: ids("s", len(numbers)+1)}))
	})
}

func tidy[K interface{ ~string | ~int64 }](bounds []K, least K) []K {
	slices.Sort(bounds)
	return slices.DeleteFunc(slices.Compact(bounds), func(k K) bool { return k == least })
}

func exactlyOne[K Key](t *testing.T, k K) func(*Map[K], error) {
	return func(m *Map[K], err error) {
		t.Helper()
		require.NoError(t, err)
		p := m.Locate(k)
		require.Equal(t, p, m.Locate(k))
		require.Contains(t, m.Shards(), p.Shard)

		// The part says so itself, by its bounds; and no other does.
		top := m.Topology()
		x := EncodeKey(k)
		if top.Strategy() != ByRange {
			x = encodeWord(m.table.Load().slotOf(k, m.form))
		}
		var found []PartID
		for _, q := range top.Parts() {
			if slices.Compare(q.Low, x) <= 0 && (q.High == nil || slices.Compare(x, q.High) < 0) {
				found = append(found, q.ID)
				require.Equal(t, q.Shard, p.Shard)
			}
		}
		require.Equal(t, []PartID{p.Part}, found)

		// Who has read the topology from a file decides alike.
		text, err := top.MarshalJSON()
		require.NoError(t, err)
		back, err := ParseTopology(text)
		require.NoError(t, err)
		other, err := NewMap[K](back)
		require.NoError(t, err)
		require.Equal(t, p, other.Locate(k))

		all, err := m.RouteRange(ctx, k, k)
		require.NoError(t, err)
		require.Contains(t, all, p)
	}
}

// slotOf returns the slot of a key by the plain way, which partOf has short cuts for.
func (t *table) slotOf(k any, f form) uint64 {
	c := &t.topology.c
	var h uint64
	switch k := k.(type) {
	case string:
		if c.Tags || c.Hash == CRC16 {
			k = HashTag(k)
		}
		h = c.Hash.hashText(k, c.Seed)
	case []byte:
		return t.slotOf(string(k), f)
	case int64:
		h = c.Hash.hashNumber(uint64(k), true, c.Seed)
	case int16:
		h = c.Hash.hashNumber(uint64(k), true, c.Seed)
	case uint64:
		h = c.Hash.hashNumber(k, false, c.Seed)
	case float64:
		h = c.Hash.hashNumber(binary.BigEndian.Uint64(EncodeKey(k)), false, c.Seed)
	}
	_, signed := k.(int64)
	switch {
	case c.Strategy == ByMod && c.Hash == Identity && signed:
		m := int64(c.Slots)
		return uint64((int64(h)%m + m) % m)
	case c.Strategy == ByMod:
		return h % uint64(c.Slots)
	case c.Hash == CRC16:
		return h % uint64(c.Slots)
	}
	for n := c.Slots; n < 1<<16; n *= 2 {
		h >>= 1
	}
	return h >> 48
}

// FuzzParseTopology gives it any text: what is taken can be stored and read again, and has each key once.
func FuzzParseTopology(f *testing.F) {
	f.Add([]byte(`{"epoch":1,"strategy":"slots","hash":"xxh64","parts":[{"id":0,"high":8192,"shard":"a"},{"id":1,"low":8192,"shard":"b"}]}`))
	f.Add([]byte(`{"epoch":1,"strategy":"range","keys":"text","parts":[{"id":0,"high":{"hex":"ff"},"shard":"a"},{"id":1,"low":"\u00ff","shard":"b"}]}`))
	f.Add([]byte(`{"epoch":1,"strategy":"range","keys":"float","parts":[{"id":0,"high":"NaN","shard":"a"},{"id":1,"low":-0.0,"shard":"b"}]}`))
	f.Add([]byte(`{"epoch":2,"strategy":"mod","hash":"crc16","slots":1,"parts":[{"id":7,"shard":"a","state":"fenced","target":"b","epoch":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		top, err := ParseTopology(text)
		if err != nil {
			return
		}
		require.NoError(t, top.Validate())
		stored, err := top.MarshalJSON()
		require.NoError(t, err)
		back, err := ParseTopology(stored)
		require.NoError(t, err, "%s", stored)
		require.Equal(t, top, back)
		require.NoError(t, back.Follows(top))
		if m, err := NewMap[string](top); err == nil {
			require.NotEmpty(t, m.Locate("key").Shard)
		}
		if m, err := NewMap[int64](top); err == nil {
			require.NotEmpty(t, m.Locate(-1).Shard)
		}
		_ = top.String()
	})
}

// FuzzHashTag compares it with the rule of the specification, read literally.
func FuzzHashTag(f *testing.F) {
	for _, k := range []string{"", "{", "}", "{}", "a{b}c", "{{b}}", "}{", "{}{a}"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		want := key
		for s := 0; s < len(key); s++ {
			if key[s] != '{' {
				continue
			}
			for e := s + 1; e < len(key); e++ {
				if key[e] == '}' {
					if e > s+1 {
						want = key[s+1 : e]
					}
					break
				}
			}
			break
		}
		require.Equal(t, want, HashTag(key))
	})
}
