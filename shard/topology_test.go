package shard

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func slotParts(bounds ...int) []Part {
	var parts []Part
	for i := range len(bounds) + 1 {
		p := Part{ID: PartID(i), Shard: ID(fmt.Sprint("s", i))}
		if i > 0 {
			p.Low = encodeWord(uint64(bounds[i-1]))
		}
		if i < len(bounds) {
			p.High = encodeWord(uint64(bounds[i]))
		}
		parts = append(parts, p)
	}
	return parts
}

func TestValidate(t *testing.T) {
	slots := func(edit func(*TopologyConfig)) TopologyConfig {
		c := TopologyConfig{Epoch: 5, Strategy: BySlots, Hash: XXH64, Slots: 16, Parts: slotParts(4, 8)}
		edit(&c)
		return c
	}
	texts := func(edit func(*TopologyConfig)) TopologyConfig {
		c := TopologyConfig{Epoch: 5, Strategy: ByRange, Keys: Text, Parts: []Part{
			{ID: 1, Shard: "a", High: []byte("m")}, {ID: 2, Shard: "b", Low: []byte("m")},
		}}
		edit(&c)
		return c
	}
	for _, c := range []struct {
		want string
		c    TopologyConfig
	}{
		{"", slots(func(c *TopologyConfig) {})},
		{"", texts(func(c *TopologyConfig) { slices.Reverse(c.Parts) })},
		{"Epoch must be at least 1, got 0", slots(func(c *TopologyConfig) { c.Epoch = 0 })},
		{"Strategy must be mod, range or slots, got Strategy(0)", slots(func(c *TopologyConfig) { c.Strategy = 0 })},
		{"", slots(func(c *TopologyConfig) { c.Keys = Int })},
		{"Keys must be float, int, text or uint, or left out, got KeyKind(9)", slots(func(c *TopologyConfig) { c.Keys = 9 })},
		{"Hash must be one for keys of kind int, got crc16", slots(func(c *TopologyConfig) { c.Keys, c.Hash = Int, CRC16 })},
		{"Parts: part 4294967295: ID must be below that, which is for keys that are pinned", slots(func(c *TopologyConfig) { c.Parts[1].ID = PinnedPart })},
		{`Parts: part 1: Shard and Target must be UTF-8, got "\xff" and ""`, slots(func(c *TopologyConfig) { c.Parts[1].Shard = "\xff" })},
		{"Slots must be from 1 to 65536, got 131072", slots(func(c *TopologyConfig) { c.Slots = 1 << 17 })},
		{"Tags must be false for vitess-hash, which takes integers", slots(func(c *TopologyConfig) { c.Hash, c.Tags = VitessHash, true })},
		{"Parts must have from 1 to 1048576 parts, got 0", slots(func(c *TopologyConfig) { c.Parts = nil })},
		{"Parts must have different IDs, got two with 0", slots(func(c *TopologyConfig) { c.Parts[1].ID = 0 })},
		{"Parts: part 1: Shard is required", slots(func(c *TopologyConfig) { c.Parts[1].Shard = "" })},
		{"Parts: part 1: State must be serving, migrating or fenced, got PartState(9)", slots(func(c *TopologyConfig) { c.Parts[1].State = 9 })},
		{`Parts: part 1: Target must be left out while the part is serving, got "x"`, slots(func(c *TopologyConfig) { c.Parts[1].Target = "x" })},
		{`Parts: part 1: Target must be another shard than Shard, got "s1" for both`, slots(func(c *TopologyConfig) { c.Parts[1].State, c.Parts[1].Target = Fenced, "s1" })},
		{"Parts: part 1: Epoch must be from 1 to that of the topology, 5, got 6", slots(func(c *TopologyConfig) { c.Parts[1].Epoch = 6 })},
		{"Parts: part 1: High must have 8 bytes, for a bound of kind uint, got 1", slots(func(c *TopologyConfig) { c.Parts[1].High = []byte{8} })},
		{"Parts: part 1: High must be below Slots, 16, got 16", slots(func(c *TopologyConfig) { c.Parts[1].High = encodeWord(16) })},
		{"Parts: part 1: Low must be above the least key, or left out", slots(func(c *TopologyConfig) { c.Parts[1].Low = encodeWord(0) })},
		{"Parts: part 1: Low must be below High, got 4 and 4", slots(func(c *TopologyConfig) { c.Parts[1].High = encodeWord(4) })},
		{"Parts must have all keys, got none for those below 4, before part 1", slots(func(c *TopologyConfig) { c.Parts = c.Parts[1:] })},
		{"Parts must have all keys, got none for those from 8, after part 1", slots(func(c *TopologyConfig) { c.Parts = c.Parts[:2] })},
		{"Parts must have all keys, got none for those from 4 to below 8, between parts 0 and 2", slots(func(c *TopologyConfig) { c.Parts = slices.Delete(c.Parts, 1, 2) })},
		{"Parts must have each key once, got parts 0 and 1 for 3", slots(func(c *TopologyConfig) { c.Parts[1].Low = encodeWord(3) })},
		{"Parts must have each key once, got parts 0 and 1 for the first key", slots(func(c *TopologyConfig) { c.Parts[1].Low = nil })},
		{"Parts must have each key once, got parts 1 and 2 for 8", slots(func(c *TopologyConfig) { c.Parts[1].High = nil })},
		{"Keys must be float, int, text or uint, got KeyKind(0)", texts(func(c *TopologyConfig) { c.Keys = 0 })},
		{"Hash, Seed, Tags and Slots must be left out for ranges", texts(func(c *TopologyConfig) { c.Hash = XXH64 })},
		{`Parts must have all keys, got none for those from "l" to below "m", between parts 1 and 2`, texts(func(c *TopologyConfig) { c.Parts[0].High = []byte("l") })},
		{"Parts: part 1: High must be a number, got 0000000000000003", texts(func(c *TopologyConfig) { c.Keys, c.Parts[0].High = Float, encodeWord(3) })},
	} {
		top, err := NewTopology(c.c)
		if c.want == "" {
			require.NoError(t, err)
			require.NoError(t, top.Validate())
			continue
		}
		require.EqualError(t, err, "shard: "+c.want)
		require.Nil(t, top)
	}
	require.EqualError(t, new(Topology).Validate(), "shard: Epoch must be at least 1, got 0")
}

// TestTopologyIsApart shows that nothing that goes in or comes out is part of a topology.
func TestTopologyIsApart(t *testing.T) {
	c := TopologyConfig{Epoch: 1, Strategy: ByRange, Keys: Text, Parts: []Part{
		{ID: 1, Shard: "a", High: []byte("m")}, {ID: 2, Shard: "b", Low: []byte("m")},
	}}
	top, err := NewTopology(c)
	require.NoError(t, err)
	want := top.String()
	c.Parts[0].Shard, c.Parts[0].High[0] = "x", 'x'
	require.Equal(t, want, top.String())
	p := top.Parts()
	p[0].Shard, p[0].High[0] = "x", 'x'
	require.Equal(t, want, top.String())
	d := top.Config()
	d.Parts[1].Low[0] = 'x'
	require.Equal(t, want, top.String())
}

func TestNext(t *testing.T) {
	top, err := NewTopology(TopologyConfig{Epoch: 5, Strategy: BySlots, Hash: XXH64, Parts: slotParts(100, 200)})
	require.NoError(t, err)

	// A part begins to move, is fenced, and is somewhere else.
	for i, step := range []func(p *Part){
		func(p *Part) { p.State, p.Target, p.Epoch = Migrating, "new", 1000 }, // the epoch is not its to say
		func(p *Part) { p.State = Fenced },
		func(p *Part) { p.State, p.Shard, p.Target = Serving, p.Target, "" },
	} {
		next, err := top.Next(func(c *TopologyConfig) { step(&c.Parts[1]) })
		require.NoError(t, err)
		require.NoError(t, next.Follows(top))
		require.ErrorIs(t, top.Follows(next), ErrStaleEpoch)
		top = next
		require.Equal(t, uint64(6+i), top.Epoch())
		if i < 2 {
			require.Equal(t, []ID{"s0", "s1", "s2"}, top.Shards()) // "new" has nothing that is to be read
		}
		require.Equal(t, []uint64{5, uint64(6 + i), 5}, []uint64{top.Parts()[0].Epoch, top.Parts()[1].Epoch, top.Parts()[2].Epoch})
	}
	require.Equal(t, []ID{"new", "s0", "s2"}, top.Shards())

	// It is split, and put together again.
	split, err := top.Next(func(c *TopologyConfig) {
		high := c.Parts[1].High
		c.Parts[1].High = encodeWord(150)
		c.Parts = append(c.Parts, Part{ID: 9, Low: encodeWord(150), High: high, Shard: "new"})
	})
	require.NoError(t, err)
	require.Equal(t, `epoch 9, 16384 slots, by xxh64
part 0 to below 100: s0, serving, epoch 5
part 1 from 100 to below 150: new, serving, epoch 9
part 9 from 150 to below 200: new, serving, epoch 9
part 2 from 200: s2, serving, epoch 5
`, split.String())
	whole, err := split.Next(func(c *TopologyConfig) {
		c.Parts[1].High = c.Parts[2].High
		c.Parts = slices.Delete(c.Parts, 2, 3)
	})
	require.NoError(t, err)
	require.NoError(t, whole.Follows(split))
	require.NoError(t, whole.Follows(top)) // an epoch may be missed
	require.NoError(t, whole.Follows(whole))

	// What is refused changes nothing.
	_, err = top.Next(func(c *TopologyConfig) { c.Parts[1].High = encodeWord(150) })
	require.EqualError(t, err, "shard: Parts must have all keys, got none for those from 150 to below 200, between parts 1 and 2")
	_, err = top.Next(func(c *TopologyConfig) { c.Seed = 1 })
	require.ErrorIs(t, err, ErrIncompatible)
	require.EqualError(t, err, "shard: incompatible topology: 16384 slots, by xxh64 with seed 1 takes the place of 16384 slots, by xxh64")
	last, err := NewTopology(TopologyConfig{Epoch: math.MaxUint64, Strategy: BySlots, Hash: XXH64, Parts: slotParts()})
	require.NoError(t, err)
	_, err = last.Next(func(*TopologyConfig) {})
	require.EqualError(t, err, "shard: Epoch must have a next one, got 18446744073709551615")
	_, err = new(Topology).Next(func(*TopologyConfig) {})
	require.Error(t, err)

	// Others may make topologies without Next.
	follows := func(edit func(*TopologyConfig)) error {
		c := top.Config()
		edit(&c)
		next, err := NewTopology(c)
		require.NoError(t, err)
		return next.Follows(top)
	}
	require.NoError(t, follows(func(*TopologyConfig) {}))
	require.NoError(t, follows(func(c *TopologyConfig) { c.Epoch++ }))
	for want, edit := range map[string]func(*TopologyConfig){
		"part 0 is not as it was, so its Epoch must be above 8, got 5":  func(c *TopologyConfig) { c.Epoch++; c.Parts[0].Shard = "x" },
		"part 1 is not as it was, so its Epoch must be above 8, got 7":  func(c *TopologyConfig) { c.Epoch++; c.Parts[1].Epoch = 7 },
		"part 2 is not as it was, so its Epoch must be above 8, got 8":  func(c *TopologyConfig) { c.Parts[2].State = Fenced; c.Parts[2].Epoch = 8 },
		"part 2 is not as it was, so its Epoch must be above 8, got 4":  func(c *TopologyConfig) { c.Parts[2].Epoch = 4 },
		"part 1 is not as it was, so its Epoch must be above 8, got 8":  func(c *TopologyConfig) { c.Parts[1].High = nil; c.Parts = c.Parts[:2] },
		"Epoch must be above 8, got 7":                                  func(c *TopologyConfig) { c.Epoch = 7; c.Parts[1].Epoch = 7 },
		"part 77 is not as it was, so its Epoch must be above 8, got 5": func(c *TopologyConfig) { c.Epoch++; c.Parts[0].ID = 77 },
	} {
		err := follows(edit)
		require.ErrorIs(t, err, ErrStaleEpoch, want)
		require.EqualError(t, err, "shard: stale epoch: "+want)
	}
	require.EqualError(t, top.Follows(nil), "shard: Topology is required")
	for what, edit := range map[string]func(*TopologyConfig){
		"kind of keys": func(c *TopologyConfig) { c.Keys = Text }, "tags": func(c *TopologyConfig) { c.Tags = true },
		"hash": func(c *TopologyConfig) { c.Hash = CRC16 }, "slots": func(c *TopologyConfig) { c.Slots *= 2 },
		"strategy": func(c *TopologyConfig) { c.Strategy = ByMod },
	} {
		require.ErrorIs(t, follows(func(c *TopologyConfig) { c.Epoch++; edit(c) }), ErrIncompatible, what)
	}
	target := func(to ID) *Topology {
		c := top.Config()
		c.Parts[0].State, c.Parts[0].Target = Migrating, to
		other, err := NewTopology(c)
		require.NoError(t, err)
		return other
	}
	require.ErrorIs(t, target("x").Follows(target("y")), ErrStaleEpoch)
}

// TestForks asks that whoever has seen keys in a higher epoch does not go back, though part names return.
func TestForks(t *testing.T) {
	base, err := NewTopology(TopologyConfig{Epoch: 6, Strategy: BySlots, Hash: XXH64, Parts: slotParts(100)})
	require.NoError(t, err)
	next := func(from *Topology, edit func(*TopologyConfig)) *Topology {
		to, err := from.Next(edit)
		require.NoError(t, err)
		return to
	}
	// One splits part 0, and moves the upper half; another goes on from the same topology without knowing.
	a := next(next(base, func(c *TopologyConfig) {
		c.Parts = append(c.Parts, Part{ID: 2, Low: encodeWord(50), High: encodeWord(100), Shard: "s0"})
		c.Parts[0].High = encodeWord(50)
	}), func(c *TopologyConfig) { c.Parts[1].Shard = "x" })
	b := next(next(next(base, func(c *TopologyConfig) { c.Parts[0].Shard = "y" }), func(*TopologyConfig) {}), func(*TopologyConfig) {})
	require.Greater(t, b.Epoch(), a.Epoch())
	require.ErrorIs(t, b.Follows(a), ErrStaleEpoch)

	// Part 1, which had moved last, is swallowed by part 0 with an epoch that is higher than only its own.
	c := TopologyConfig{Epoch: 9, Strategy: BySlots, Hash: XXH64, Parts: slotParts(100)}
	c.Parts[0].Epoch = 2
	old, err := NewTopology(c)
	require.NoError(t, err)
	c = TopologyConfig{Epoch: 10, Strategy: BySlots, Hash: XXH64, Parts: slotParts()}
	c.Parts[0].Epoch = 3
	swallowed, err := NewTopology(c)
	require.NoError(t, err)
	require.ErrorIs(t, swallowed.Follows(old), ErrStaleEpoch)
}

func TestTopologyJSON(t *testing.T) {
	for _, c := range []struct {
		make func() (*Topology, error)
		want string
	}{
		{func() (*Topology, error) {
			m, err := NewSlots[string](SlotsConfig{Shards: []ID{"a", "b"}, Seed: 7, Tags: true})
			return m.Topology(), err
		}, `{"epoch":1,"strategy":"slots","keys":"text","hash":"xxh64","seed":7,"tags":true,"slots":16384,"parts":[` +
			`{"id":0,"high":8192,"shard":"a","epoch":1},{"id":1,"low":8192,"shard":"b","epoch":1}]}`},
		{func() (*Topology, error) {
			m, err := NewMod[int](ModConfig{Shards: []ID{"a", "b"}, Epoch: 3})
			return m.Topology(), err
		}, `{"epoch":3,"strategy":"mod","keys":"int","hash":"identity","slots":2,"parts":[` +
			`{"id":0,"high":1,"shard":"a","epoch":3},{"id":1,"low":1,"shard":"b","epoch":3}]}`},
		{func() (*Topology, error) {
			m, err := NewRange(RangeConfig[int64]{Bounds: []int64{-5, math.MaxInt64}, Shards: ids("s", 3)})
			return m.Topology(), err
		}, `{"epoch":1,"strategy":"range","keys":"int","parts":[` +
			`{"id":0,"high":-5,"shard":"s0","epoch":1},{"id":1,"low":-5,"high":9223372036854775807,"shard":"s1","epoch":1},` +
			`{"id":2,"low":9223372036854775807,"shard":"s2","epoch":1}]}`},
		{func() (*Topology, error) {
			m, err := NewRange(RangeConfig[string]{Bounds: []string{"é\"", "\xff\x00"}, Shards: ids("s", 3)})
			return m.Topology(), err
		}, `{"epoch":1,"strategy":"range","keys":"text","parts":[` +
			`{"id":0,"high":"é\"","shard":"s0","epoch":1},{"id":1,"low":"é\"","high":{"hex":"ff00"},"shard":"s1","epoch":1},` +
			`{"id":2,"low":{"hex":"ff00"},"shard":"s2","epoch":1}]}`},
		{func() (*Topology, error) {
			m, err := NewRange(RangeConfig[float64]{Bounds: []float64{math.Inf(-1), 0.1, math.Inf(1)}, Shards: ids("s", 4)})
			return m.Topology(), err
		}, `{"epoch":1,"strategy":"range","keys":"float","parts":[` +
			`{"id":0,"high":"-Inf","shard":"s0","epoch":1},{"id":1,"low":"-Inf","high":0.1,"shard":"s1","epoch":1},` +
			`{"id":2,"low":0.1,"high":"+Inf","shard":"s2","epoch":1},{"id":3,"low":"+Inf","shard":"s3","epoch":1}]}`},
	} {
		top, err := c.make()
		require.NoError(t, err)
		text, err := json.Marshal(top)
		require.NoError(t, err)
		require.Equal(t, c.want, string(text))
		back, err := ParseTopology(text)
		require.NoError(t, err)
		require.Equal(t, top, back)
		require.NoError(t, back.Follows(top))
	}

	// As people write it: no epochs of parts, in any order.
	top, err := ParseTopology([]byte(`{
		"epoch": 7, "strategy": "range", "keys": "int",
		"parts": [
			{"id": 1, "low": 1000, "shard": "b", "state": "migrating", "target": "c"},
			{"id": 0, "high": 1000, "shard": "a", "epoch": 2}
		]
	}`))
	require.NoError(t, err)
	require.Equal(t, `epoch 7, ranges of int
part 0 to below 1000: a, serving, epoch 2
part 1 from 1000: b, migrating to c, epoch 7
`, top.String())

	for text, want := range map[string]string{
		`{`:                          "shard: topology: unexpected end of JSON input",
		`{} {}`:                      "shard: topology: invalid character '{' after top-level value",
		`{"epoc":1}`:                 `shard: topology: json: unknown field "epoc"`,
		`{}`:                         "shard: Epoch must be at least 1, got 0",
		`{"epoch":1,"epoch":2}`:      `shard: topology: must have each name once in an object, got "epoch" twice`,
		`{"EPOCH":1}`:                `shard: topology: must have names in lower case, got "EPOCH"`,
		`{"parts":[{"state":null}]}`: "shard: topology: must have no null",
		`{"parts":[{"id":1,"low":{"hex":"00","hex":"01"}}]}`:                               `shard: topology: must have each name once in an object, got "hex" twice`,
		"{\"epoch\":\"\xe9\"}":                                                             "shard: topology: must be UTF-8",
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"id":3,"state":"gone"}]}`:   `shard: Parts: part 3: State must be serving, migrating or fenced, got "gone"`,
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"low":"a\ud800"}]}`:         "shard: Parts: part 0: Low must be given as hex if it has what is no text, or U+FFFD, got \"a\ufffd\"",
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"low":{}}]}`:                "shard: Parts: part 0: Low must have bytes as hex: there are none",
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"id":1,"shard":"\ud800"}]}`: "shard: Parts: part 1: Shard and Target must be UTF-8, got \"\ufffd\" and \"\"",
		`{"strategy":"hash"}`: `shard: topology: shard: Strategy must be mod, range or slots, got "hash"`,
		`{"epoch":1,"strategy":"range","keys":"int","parts":[{"high":"5"}]}`:         `shard: Parts: part 0: High must be a bound of kind int, got "\"5\"": invalid syntax`,
		`{"epoch":1,"strategy":"range","keys":"int","parts":[{"low":1e3}]}`:          `shard: Parts: part 0: Low must be a bound of kind int, got "1e3": invalid syntax`,
		`{"epoch":1,"strategy":"slots","hash":"xxh64","parts":[{"low":-1}]}`:         `shard: Parts: part 0: Low must be a bound of kind uint, got "-1": invalid syntax`,
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"low":5}]}`:           `shard: Parts: part 0: Low must be a string or bytes as hex, got "5"`,
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"low":{"hex":1}}]}`:   `shard: Parts: part 0: Low must have bytes as hex: json: cannot unmarshal number into Go struct field hexJSON.hex of type string`,
		`{"epoch":1,"strategy":"range","keys":"text","parts":[{"low":{"hex":"0"}}]}`: `shard: Parts: part 0: Low must have bytes as hex: encoding/hex: odd length hex string`,
	} {
		_, err := ParseTopology([]byte(text))
		require.EqualError(t, err, want)
	}
	before := top.String()
	require.Error(t, top.UnmarshalJSON([]byte(`{"epoch":1}`)))
	require.Equal(t, before, top.String())
	text, err := json.Marshal(struct{ T Topology }{*top}) // not only as a pointer
	require.NoError(t, err)
	require.Contains(t, string(text), `{"T":{"epoch":7,`)
	_, err = json.Marshal(new(Topology))
	require.ErrorContains(t, err, "shard: Epoch must be at least 1, got 0")
}

// TestTopologyModel makes random changes to topologies, good ones and bad ones, and asks of each that is taken
// that every slot has exactly the shard that a plain table says.
func TestTopologyModel(t *testing.T) {
	const slots = 64
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 9))
		var owner [slots]ID
		m, err := NewSlots[int64](SlotsConfig{Shards: []ID{"a", "b", "c"}, Slots: slots})
		require.NoError(t, err)
		top := m.Topology()
		fill := func(p *Part) {
			low, high := 0, slots
			if p.Low != nil {
				low = int(p.Low[7])
			}
			if p.High != nil {
				high = int(p.High[7])
			}
			for s := low; s < high; s++ {
				owner[s] = p.Shard
			}
		}
		for _, p := range top.Parts() {
			fill(&p)
		}
		nextID := PartID(100)
		for step := range 100 {
			next, err := top.Next(func(c *TopologyConfig) {
				p := &c.Parts[rng.IntN(len(c.Parts))]
				switch rng.IntN(4) {
				case 0: // moves
					p.Shard = ID("abcdefgh"[rng.IntN(8):][:1])
				case 1: // is split, or something that is not allowed
					at := encodeWord(1 + rng.Uint64N(slots-1))
					q := p.clone()
					p.High, q.Low, q.ID = at, at, nextID
					nextID++
					c.Parts = append(c.Parts, q)
				case 2: // is lost
					p.Shard = ""
				case 3: // goes to its neighbour, or leaves a gap
					i := rng.IntN(len(c.Parts))
					if i > 0 && rng.IntN(4) > 0 {
						c.Parts[i-1].High = c.Parts[i].High
					}
					c.Parts = slices.Delete(c.Parts, i, i+1)
				}
			})
			if err != nil {
				continue
			}
			require.NoError(t, m.Update(next), "seed %d step %d", seed, step)
			require.ErrorIs(t, m.Update(top), ErrStaleEpoch)
			top = next
			for _, p := range top.Parts() {
				fill(&p)
			}
			for range 50 {
				k := int64(rng.Uint64())
				require.Equal(t, owner[xxh64Word(uint64(k), 0)>>58], m.Locate(k).Shard, "seed %d step %d key %d", seed, step, k)
			}
		}
	}
}
