package shard

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

// benchDirectory returns a directory whose cache has all of n keys, and the keys in random order.
func benchDirectory[K comparable](b *testing.B, n int, key func(i int) K, config DirectoryConfig[K]) (*Directory[K], []K) {
	store := newDirTable[K](nil)
	keys := make([]K, n)
	for i := range keys {
		keys[i] = key(i)
		store.rows[keys[i]] = Placement{Shard: ID(fmt.Sprintf("shard%d", i%16)), Epoch: uint64(i)}
	}
	config.Capacity = 2 * n
	config.TTL = time.Hour
	d := newDirectory(b, store, config)
	if _, err := d.RouteAll(context.Background(), keys); err != nil {
		b.Fatal(err)
	}
	rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return d, keys
}

func benchStringKey(i int) string { return fmt.Sprintf("user:%08d", i) }

func benchIntKey(i int) uint64 { return uint64(i) * 0x9e3779b97f4a7c15 }

// Route of a key that is in the cache, beside a hash of the key, which is what a Locator begins with.
func BenchmarkDirectoryRoute(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{1 << 10, 1 << 14, 1 << 17} {
		b.Run(fmt.Sprintf("impl=directory/key=int/n=%d", n), func(b *testing.B) {
			benchRoute(b, ctx, n, benchIntKey)
		})
		b.Run(fmt.Sprintf("impl=directory/key=string/n=%d", n), func(b *testing.B) {
			benchRoute(b, ctx, n, benchStringKey)
		})
	}
	b.Run("impl=xxhash/key=int/n=1024", func(b *testing.B) {
		b.ReportAllocs()
		var sum, k uint64
		var bytes [8]byte
		for b.Loop() {
			k++
			bytes = [8]byte{byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24), byte(k >> 32), byte(k >> 40), byte(k >> 48), byte(k >> 56)}
			sum += xxhash.Sum64(bytes[:])
		}
		benchSink = sum
	})
	b.Run("impl=xxhash/key=string/n=1024", func(b *testing.B) {
		keys := make([]string, 1<<10)
		for i := range keys {
			keys[i] = benchStringKey(i)
		}
		b.ReportAllocs()
		var sum uint64
		i := 0
		for b.Loop() {
			sum += xxhash.Sum64String(keys[i&(1<<10-1)])
			i++
		}
		benchSink = sum
	})
}

var benchSink uint64

func benchRoute[K comparable](b *testing.B, ctx context.Context, n int, key func(i int) K) {
	d, keys := benchDirectory(b, n, key, DirectoryConfig[K]{})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := d.Route(ctx, keys[i&(n-1)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// The same from all CPUs.
func BenchmarkDirectoryParallel(b *testing.B) {
	ctx := context.Background()
	d, keys := benchDirectory(b, 1<<17, benchStringKey, DirectoryConfig[string]{})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		i := rand.IntN(len(keys))
		for pb.Next() {
			if _, err := d.Route(ctx, keys[i&(len(keys)-1)]); err != nil {
				b.Error(err)
				return
			}
			i++
		}
	})
}

// What is answered without the store though there is no fresh row, and what is not.
func BenchmarkDirectoryOther(b *testing.B) {
	ctx := context.Background()
	b.Run("answer=negative", func(b *testing.B) {
		d, _ := benchDirectory(b, 1<<10, benchIntKey, DirectoryConfig[uint64]{NegativeTTL: time.Hour})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Route(ctx, 1); err != ErrNotFound {
				b.Fatal(err)
			}
		}
	})
	b.Run("answer=stale", func(b *testing.B) {
		d, keys := benchDirectory(b, 1<<10, benchIntKey, DirectoryConfig[uint64]{RetryAfter: time.Hour})
		d.store.(*dirTable[uint64]).down(errDown)
		d.doubt(d.hash(keys[0]), keys[0])
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Route(ctx, keys[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("answer=miss", func(b *testing.B) {
		d, keys := benchDirectory(b, 1<<10, benchIntKey, DirectoryConfig[uint64]{})
		b.ReportAllocs()
		for b.Loop() {
			d.Invalidate(keys[0])
			if _, err := d.Route(ctx, keys[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("answer=all100", func(b *testing.B) {
		d, keys := benchDirectory(b, 1<<10, benchIntKey, DirectoryConfig[uint64]{})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.RouteAll(ctx, keys[:100]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
