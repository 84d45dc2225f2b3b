package shard

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

var (
	sinkPlacement Placement
	sinkUint64    uint64
)

// BenchmarkYardstick is what the others are to be compared with, on a machine that is shared with others.
func BenchmarkYardstick(b *testing.B) {
	texts, numbers := benchKeys()
	b.Run("op=xxhash16", func(b *testing.B) {
		i := 0
		for b.Loop() {
			sinkUint64 = xxhash.Sum64String(texts[i&1023])
			i++
		}
	})
	b.Run("op=xxhash-word", func(b *testing.B) {
		i := 0
		for b.Loop() {
			sinkUint64 = xxh64Word(uint64(numbers[i&1023]), 0)
			i++
		}
	})
	b.Run("op=atomic-add", func(b *testing.B) {
		var n atomic.Int64
		for b.Loop() {
			n.Add(1)
		}
	})
	b.Run("op=time-now", func(b *testing.B) {
		for b.Loop() {
			sinkUint64 = uint64(time.Now().Nanosecond())
		}
	})
}

func benchKeys() (texts []string, numbers []int64) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1024 {
		n := rng.Int64()
		texts, numbers = append(texts, fmt.Sprintf("%016x", n)), append(numbers, n)
	}
	return texts, numbers
}

func benchIDs(n int) []ID {
	ids := make([]ID, n)
	for i := range ids {
		ids[i] = ID(fmt.Sprintf("db-%04d", i))
	}
	return ids
}

func benchLocate[K Key](b *testing.B, name string, keys []K, m *Map[K], err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			sinkPlacement = m.Locate(keys[i&1023])
			i++
		}
	})
}

func BenchmarkLocate(b *testing.B) {
	texts, numbers := benchKeys()
	ids := benchIDs(1024)
	few := ids[:16]
	{
		m, err := NewSlots[string](SlotsConfig{Shards: few})
		benchLocate(b, "strategy=slots/keys=string16", texts, m, err)
	}
	{
		m, err := NewSlots[int64](SlotsConfig{Shards: few})
		benchLocate(b, "strategy=slots/keys=int64", numbers, m, err)
	}
	{
		m, err := NewSlots[string](SlotsConfig{Shards: few, Seed: 7})
		benchLocate(b, "strategy=slots-seed/keys=string16", texts, m, err)
	}
	{
		m, err := NewSlots[string](SlotsConfig{Shards: few, Tags: true})
		benchLocate(b, "strategy=slots-tags/keys=string16", texts, m, err)
	}
	{
		m, err := NewSlots[string](SlotsConfig{Shards: few, Hash: CRC16})
		benchLocate(b, "strategy=slots-redis/keys=string16", texts, m, err)
	}
	{
		m, err := NewSlots[int64](SlotsConfig{Shards: few, Hash: VitessHash})
		benchLocate(b, "strategy=slots-vitess/keys=int64", numbers, m, err)
	}
	{
		m, err := NewMod[int64](ModConfig{Shards: few})
		benchLocate(b, "strategy=mod/keys=int64", numbers, m, err)
	}
	{
		c := RangeConfig[int64]{Shards: ids}
		for i := range len(ids) - 1 {
			c.Bounds = append(c.Bounds, int64(i-511)<<54)
		}
		m, err := NewRange(c)
		benchLocate(b, "strategy=range-1024/keys=int64", numbers, m, err)
	}
	{
		c := RangeConfig[string]{Shards: ids}
		for i := range len(ids) - 1 {
			c.Bounds = append(c.Bounds, fmt.Sprintf("%016x", (int64(i)+1)<<53))
		}
		m, err := NewRange(c)
		benchLocate(b, "strategy=range-1024/keys=string16", texts, m, err)
	}
}
