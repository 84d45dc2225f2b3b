package ttlcache

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkPaths measures the ways through a full cache of 10,000 entries: beside each stands, in
// its name, what is different from the plain one.
func BenchmarkPaths(b *testing.B) {
	const capacity = 10_000
	keys := make([]string, 4*capacity)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i)
	}
	ctx := context.Background()
	load := func(context.Context, string) (Entry[int], error) { return Entry[int]{Value: 1}, nil }
	full := func(b *testing.B, config Config[string, int]) *Cache[string, int] {
		config.Capacity = capacity
		if config.TTL == 0 {
			config.TTL = time.Hour
		}
		c, err := New(config)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close(ctx) })
		for _, k := range keys {
			_ = c.Set(ctx, k, 1)
		}
		b.ReportAllocs()
		return c
	}
	each := func(b *testing.B, keys []string, do func(k string)) {
		i := 0
		for b.Loop() {
			if i++; i == len(keys) {
				i = 0
			}
			do(keys[i])
		}
	}
	live := keys[len(keys)-capacity/2:]
	for name, config := range map[string]Config[string, int]{
		"plain":   {},
		"sliding": {Sliding: true},
		"jitter":  {Jitter: 0.1},
		"ahead":   {RefreshAhead: 0.9, Loader: load},
		"xfetch":  {XFetchBeta: 1, Loader: load},
		"hook":    {OnRemove: func(string, int, Cause) {}},
	} {
		b.Run("op=get/config="+name, func(b *testing.B) {
			c := full(b, config)
			each(b, live, func(k string) { c.Get(k) })
		})
		b.Run("op=set/config="+name, func(b *testing.B) {
			c := full(b, config)
			each(b, keys, func(k string) { _ = c.Set(ctx, k, 1) })
		})
		if config.Loader != nil {
			b.Run("op=getorload/config="+name, func(b *testing.B) {
				c := full(b, config)
				each(b, live, func(k string) { _, _ = c.GetOrLoad(ctx, k) })
			})
		}
	}
	// What the running clock saves: a stopped one asks the system each time.
	b.Run("op=get/config=exact-clock", func(b *testing.B) {
		c := full(b, Config[string, int]{})
		c.clock.Stop()
		each(b, live, func(k string) { c.Get(k) })
	})
	b.Run("op=set/config=exact-clock", func(b *testing.B) {
		c := full(b, Config[string, int]{})
		c.clock.Stop()
		each(b, keys, func(k string) { _ = c.Set(ctx, k, 1) })
	})
	b.Run("op=compute/config=plain", func(b *testing.B) {
		c := full(b, Config[string, int]{})
		each(b, live, func(k string) { _, _, _ = c.Compute(ctx, k, func(v int, _ bool) (int, Op) { return v + 1, OpSet }) })
	})
	b.Run("op=load/config=plain", func(b *testing.B) {
		c := full(b, Config[string, int]{Loader: load})
		each(b, keys, func(k string) { _, _ = c.GetOrLoad(ctx, k) })
	})
}
