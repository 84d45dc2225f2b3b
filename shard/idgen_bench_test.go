package shard

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

// idSink keeps results alive.
var idSink atomic.Int64

// BenchmarkIDYardstick is what IDs cannot do without, and what a key of 16 bytes takes to hash.
func BenchmarkIDYardstick(b *testing.B) {
	var n atomic.Int64
	sum := int64(0)
	base := time.Now()
	key := "user:00000000001"
	for _, y := range []struct {
		name string
		do   func()
	}{
		{"atomic-add", func() { n.Add(1) }},
		{"time.Now", func() { sum += int64(time.Now().Nanosecond()) }},
		{"time.Since", func() { sum += int64(time.Since(base)) }},
		{"xxhash-16-bytes", func() { sum += int64(xxhash.Sum64String(key)) }},
	} {
		b.Run("op="+y.name, func(b *testing.B) {
			for b.Loop() {
				y.do()
			}
		})
	}
	idSink.Store(sum)
}

// BenchmarkIDGen issues IDs by the layout that has so many of them that no benchmark waits, and by the
// default one, where a loop gets 1,024 a millisecond.
func BenchmarkIDGen(b *testing.B) {
	ctx := context.Background()
	wide := IDLayout{TimeBits: 41, ShardBits: 1, SequenceBits: 21}
	for _, l := range []struct {
		name   string
		config IDConfig
	}{
		{"wide", IDConfig{Layout: wide}},
		{"wide-marked", IDConfig{Layout: wide, Mark: FileMark(b.TempDir() + "/mark")}},
		{"default", IDConfig{}},
	} {
		g, err := NewIDGen(l.config)
		if err != nil {
			b.Fatal(err)
		}
		next := func() int64 {
			id, err := g.Next(ctx)
			if err != nil {
				b.Error(err)
			}
			return id
		}
		b.Run("op=Next/layout="+l.name, func(b *testing.B) {
			b.ReportAllocs()
			var last int64
			for b.Loop() {
				last = next()
			}
			idSink.Store(last)
		})
		b.Run("op=NextParallel/layout="+l.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var last int64
				for pb.Next() {
					last = next()
				}
				idSink.Store(last)
			})
		})
		b.Run("op=NextN/n=1000/layout="+l.name, func(b *testing.B) {
			b.ReportAllocs()
			ids := make([]int64, 1000)
			for b.Loop() {
				if _, err := g.NextN(ctx, ids); err != nil {
					b.Error(err)
				}
			}
		})
	}
}

func BenchmarkIDLayout(b *testing.B) {
	g, err := NewIDGen(IDConfig{Shard: 7})
	if err != nil {
		b.Fatal(err)
	}
	id, err := g.Next(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	loc, err := NewIDLocator(IDLayout{}, map[uint32]ID{7: "seven"})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("op=ShardOf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if n, err := g.ShardOf(id); n != 7 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("op=Parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if p, err := g.Parse(id); p.Shard != 7 || err != nil {
				b.Fatal(p, err)
			}
		}
	})
	b.Run("op=Locate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if p := loc.Locate(id); p.Shard != "seven" {
				b.Fatal(p)
			}
		}
	})
}

func BenchmarkBase62(b *testing.B) {
	id := uint64(1<<62 + 12345)
	s := Base62(id)
	buf := make([]byte, 0, base62Len)
	b.Run("op=Base62", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s = Base62(id)
		}
	})
	b.Run("op=AppendBase62", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = AppendBase62(buf[:0], id)
		}
	})
	b.Run("op=ParseBase62", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if n, err := ParseBase62(s); n != id || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}
