package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/sony/sonyflake"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
)

// idLayouts are layouts, and the generators that can have them: one that no loop uses up, and those that bwmarrin and
// sonyflake have by default. What these take is what their sequence lets them, 4,096 a millisecond and 256 in ten:
// whoever asks for more waits.
var idLayouts = []struct {
	name   string
	layout shard.IDLayout
	impls  []idImpl
}{
	{"wide", shard.IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 21}, []idImpl{oursID, bwmarrinID}},
	{"bwmarrin", shard.IDLayout{TimeBits: 41, ShardBits: 10, SequenceBits: 12}, []idImpl{oursID, bwmarrinID}},
	{"sonyflake", shard.IDLayout{TimeBits: 39, ShardBits: 16, SequenceBits: 8, Unit: 10 * time.Millisecond}, []idImpl{oursID, sonyflakeID}},
}

// An idImpl makes a generator of IDs, of which it returns how to get one, and how to get many.
type idImpl struct {
	name string
	make func(tb testing.TB, l shard.IDLayout) (next func() (int64, error), fill func([]int64) error)
}

// Ours waits for a timer, without a lock. It has used up its lead before, which would be a head start.
var oursID = idImpl{"sysblocks", func(tb testing.TB, l shard.IDLayout) (func() (int64, error), func([]int64) error) {
	g := must(shard.NewIDGen(shard.IDConfig{Layout: l, Shard: 1}))(tb)
	ctx := context.Background()
	lead := 10 * time.Millisecond
	if l.Unit == 0 {
		l.Unit = time.Millisecond
	}
	ids := make([]int64, 1<<min(l.SequenceBits, 12))
	for range (int(lead/l.Unit) + 1) << l.SequenceBits / len(ids) {
		must(g.NextN(ctx, ids))(tb)
	}
	return func() (int64, error) { return g.Next(ctx) }, func(ids []int64) error {
		_, err := g.NextN(ctx, ids)
		return err
	}
}}

// bwmarrin's waits by reading the clock again and again, with its mutex locked.
var bwmarrinID = idImpl{"bwmarrin", func(tb testing.TB, l shard.IDLayout) (func() (int64, error), func([]int64) error) {
	snowflake.NodeBits, snowflake.StepBits = uint8(l.ShardBits), uint8(l.SequenceBits)
	n := must(snowflake.NewNode(1))(tb)
	return each(func() (int64, error) { return n.Generate().Int64(), nil })
}}

// sonyflake's sleeps with its mutex locked. Its sequence is above the number of the machine.
var sonyflakeID = idImpl{"sonyflake", func(tb testing.TB, _ shard.IDLayout) (func() (int64, error), func([]int64) error) {
	s := must(sonyflake.New(sonyflake.Settings{MachineID: func() (uint16, error) { return 1, nil }}))(tb)
	return each(func() (int64, error) {
		id, err := s.NextID()
		return int64(id), err
	})
}}

// each returns next, and how to get many by it.
func each(next func() (int64, error)) (func() (int64, error), func([]int64) error) {
	return next, func(ids []int64) error {
		for i := range ids {
			var err error
			if ids[i], err = next(); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestIDImpls checks that what the benchmarks call issues IDs once, and in order.
func TestIDImpls(t *testing.T) {
	for _, l := range idLayouts {
		for _, impl := range l.impls {
			t.Run("layout="+l.name+"/impl="+impl.name, func(t *testing.T) {
				next, fill := impl.make(t, l.layout)
				ids := make([]int64, 600)
				require.NoError(t, fill(ids))
				last := int64(0)
				for range 300 {
					id, err := next()
					require.NoError(t, err)
					ids = append(ids, id)
				}
				for _, id := range ids {
					require.Greater(t, id, last)
					last = id
				}
			})
		}
	}
}

// BenchmarkID gets one ID after the other.
func BenchmarkID(b *testing.B) {
	compareIDs(b, func(b *testing.B, next func() (int64, error), _ func([]int64) error) {
		for b.Loop() {
			if _, err := next(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkIDParallel does so from all CPUs.
func BenchmarkIDParallel(b *testing.B) {
	compareIDs(b, func(b *testing.B, next func() (int64, error), _ func([]int64) error) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := next(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkIDBlock gets a hundred IDs at once, for which the others are called a hundred times.
func BenchmarkIDBlock(b *testing.B) {
	ids := make([]int64, 100)
	compareIDs(b, func(b *testing.B, _ func() (int64, error), fill func([]int64) error) {
		for b.Loop() {
			if err := fill(ids); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func compareIDs(b *testing.B, run func(*testing.B, func() (int64, error), func([]int64) error)) {
	for _, l := range idLayouts {
		for round := range *rounds {
			for i := range l.impls {
				impl := l.impls[(i+round)%len(l.impls)]
				b.Run(fmt.Sprintf("layout=%s/impl=%s/round=%d", l.name, impl.name, round+1), func(b *testing.B) {
					b.ReportAllocs()
					next, fill := impl.make(b, l.layout)
					b.ResetTimer()
					run(b, next, fill)
				})
			}
		}
	}
}
