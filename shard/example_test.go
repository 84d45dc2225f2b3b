package shard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sysblocks/sysblocks/shard"
)

func Example() {
	users, err := shard.NewSlots[string](shard.SlotsConfig{Shards: []shard.ID{"db-a", "db-b", "db-c"}})
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"ann", "bob", "cem", "dan"} {
		fmt.Println(name, "is in", users.Locate(name).Shard)
	}
	// Output:
	// ann is in db-a
	// bob is in db-b
	// cem is in db-c
	// dan is in db-a
}

func ExampleNewSlots_redis() {
	// The slots of a Redis Cluster: keys with the same tag are together.
	m, err := shard.NewSlots[string](shard.SlotsConfig{
		Shards: []shard.ID{"redis-0", "redis-1", "redis-2"},
		Hash:   shard.CRC16,
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Locate("{user1000}.cart").Shard, m.Locate("{user1000}.orders").Shard, m.Locate("foo").Shard)
	// Output: redis-0 redis-0 redis-2
}

func ExampleNewMod() {
	m, err := shard.NewMod[int64](shard.ModConfig{Shards: []shard.ID{"a", "b", "c"}})
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Locate(7).Shard, m.Locate(-1).Shard) // % would make it -1
	// Output: b c
}

// With other remainders nearly everything is somewhere else. Slots are moved one by one.
func ExampleNewMod_mistake() {
	three, _ := shard.NewMod[int](shard.ModConfig{Shards: []shard.ID{"a", "b", "c"}})
	four, _ := shard.NewMod[int](shard.ModConfig{Shards: []shard.ID{"a", "b", "c", "d"}})
	moved := 0
	for k := range 1000 {
		if three.Locate(k).Shard != four.Locate(k).Shard {
			moved++
		}
	}
	fmt.Println("moved by remainders:", moved)

	slots, _ := shard.NewSlots[int](shard.SlotsConfig{Shards: []shard.ID{"a", "b", "c"}})
	next, err := slots.Topology().Next(func(c *shard.TopologyConfig) {
		for i := range 3 { // the last quarter of each shard's slots goes to d
			p := &c.Parts[i]
			cut := shard.EncodeKey(uint(5461*i + 4096))
			c.Parts = append(c.Parts, shard.Part{ID: shard.PartID(3 + i), Low: cut, High: p.High, Shard: "d"})
			c.Parts[i].High = cut
		}
	})
	if err != nil {
		panic(err)
	}
	moved = 0
	after, _ := shard.NewMap[int](next)
	for k := range 1000 {
		if slots.Locate(k).Shard != after.Locate(k).Shard {
			moved++
		}
	}
	fmt.Println("moved by slots:", moved)
	// Output:
	// moved by remainders: 748
	// moved by slots: 227
}

func ExampleNewRange() {
	m, err := shard.NewRange(shard.RangeConfig[string]{
		Bounds: []string{"h", "p"},
		Shards: []shard.ID{"a-to-g", "h-to-o", "p-to-z"},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Locate("lisbon").Shard)
	ps, err := m.RouteRange(context.Background(), "a", "helsinki")
	if err != nil {
		panic(err)
	}
	fmt.Println(shard.Distinct(ps))
	// Output:
	// h-to-o
	// [a-to-g h-to-o]
}

func ExampleMap_Update() {
	m, err := shard.NewRange(shard.RangeConfig[int]{Bounds: []int{1000}, Shards: []shard.ID{"a", "b"}})
	if err != nil {
		panic(err)
	}
	old := m.Topology()
	for _, change := range []func(p *shard.Part){
		func(p *shard.Part) { p.State, p.Target = shard.Migrating, "c" },
		func(p *shard.Part) { p.State = shard.Fenced },
		func(p *shard.Part) { p.Shard, p.State, p.Target = p.Target, shard.Serving, "" },
	} {
		next, err := m.Topology().Next(func(c *shard.TopologyConfig) { change(&c.Parts[1]) })
		if err != nil {
			panic(err)
		}
		if err := m.Update(next); err != nil {
			panic(err)
		}
		p := m.Locate(5000)
		fmt.Printf("epoch %d: %s, %v\n", p.Epoch, p.Shard, p.State)
	}
	fmt.Println("epoch of what has not moved:", m.Locate(1).Epoch)
	fmt.Println(errors.Is(m.Update(old), shard.ErrStaleEpoch))
	// Output:
	// epoch 2: b, migrating
	// epoch 3: b, fenced
	// epoch 4: c, serving
	// epoch of what has not moved: 1
	// true
}

func ExampleParseTopology() {
	t, err := shard.ParseTopology([]byte(`{
		"epoch": 7, "strategy": "range", "keys": "text",
		"parts": [
			{"id": 0, "high": "m", "shard": "db-a"},
			{"id": 1, "low": "m", "shard": "db-b", "state": "migrating", "target": "db-c"}
		]
	}`))
	if err != nil {
		panic(err)
	}
	fmt.Print(t)
	_, err = shard.ParseTopology([]byte(`{
		"epoch": 8, "strategy": "range", "keys": "text",
		"parts": [{"id": 0, "high": "m", "shard": "db-a"}, {"id": 1, "low": "n", "shard": "db-b"}]
	}`))
	fmt.Println(err)
	// Output:
	// epoch 7, ranges of text
	// part 0 to below "m": db-a, serving, epoch 7
	// part 1 from "m": db-b, migrating to db-c, epoch 7
	// shard: Parts must have all keys, got none for those from "m" to below "n", between parts 0 and 1
}

func ExampleTopology_MarshalJSON() {
	m, err := shard.NewSlots[string](shard.SlotsConfig{Shards: []shard.ID{"a", "b"}})
	if err != nil {
		panic(err)
	}
	text, err := json.Marshal(m.Topology())
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
	// Output: {"epoch":1,"strategy":"slots","keys":"text","hash":"xxh64","slots":16384,"parts":[{"id":0,"high":8192,"shard":"a","epoch":1},{"id":1,"low":8192,"shard":"b","epoch":1}]}
}

func ExampleCompose() {
	regions, err := shard.NewGeo(shard.GeoConfig[string]{Shards: map[string]shard.ID{"eu": "eu", "us": "us"}})
	if err != nil {
		panic(err)
	}
	eu, _ := shard.NewSlots[int64](shard.SlotsConfig{Shards: []shard.ID{"frankfurt-0", "frankfurt-1"}})
	us, _ := shard.NewSlots[int64](shard.SlotsConfig{Shards: []shard.ID{"oregon-0"}})
	m, err := shard.Compose(regions, map[shard.ID]shard.Locator[int64]{"eu": eu, "us": us})
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Locate(shard.Pair[string, int64]{Outer: "eu-west", Inner: 42}).Shard)

	// All users of a region, wherever they are in it.
	ps, err := m.RouteOuter(context.Background(), "eu-west")
	if err != nil {
		panic(err)
	}
	fmt.Println(shard.Distinct(ps))

	_, err = m.Route(context.Background(), shard.Pair[string, int64]{Outer: "br", Inner: 42})
	fmt.Println(errors.Is(err, shard.ErrNoShard))
	// Output:
	// frankfurt-1
	// [frankfurt-0 frankfurt-1]
	// true
}

func ExampleNewPinned() {
	m, err := shard.NewSlots[string](shard.SlotsConfig{Shards: []shard.ID{"a", "b"}})
	if err != nil {
		panic(err)
	}
	users, err := shard.NewPinned[string](m, map[string]shard.ID{"celebrity": "big"})
	if err != nil {
		panic(err)
	}
	fmt.Println(users.Locate("ann").Shard, users.Locate("celebrity").Shard, users.Shards())
	// Output: a big [a b big]
}

func ExampleHashTag() {
	fmt.Println(shard.HashTag("{user1}.cart"), shard.HashTag("user1"))
	// Output: user1 user1
}

func ExampleEncodeKey() {
	fmt.Printf("%x %x %q\n", shard.EncodeKey(-1), shard.EncodeKey(1), shard.EncodeKey("one"))
	k, err := shard.DecodeKey[int8](shard.EncodeKey(int64(-1)))
	fmt.Println(k, err)
	// Output:
	// 7fffffffffffffff 8000000000000001 "one"
	// -1 <nil>
}
