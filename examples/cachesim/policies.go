package main

import (
	"fmt"
	"slices"

	"github.com/sysblocks/sysblocks/internal/trace"
	"github.com/sysblocks/sysblocks/lfu"
	"github.com/sysblocks/sysblocks/lru"
)

// A policy is one row of the report.
type policy struct {
	name string
	// config is the Go expression that makes this cache, with %d for its size.
	config string
	// usual marks the form that a program with many goroutines should take. It
	// is recommended even where another form needs a little less space.
	usual bool
	// replay sends the keys through a new cache of size entries and returns the
	// number of hits. From time to time it reports through done how many more
	// requests it has got through.
	replay func(keys []uint64, size int, done func(requests int)) (hits int, err error)
	// curve, where a policy has one, gives the hits at every size from one pass.
	curve func(keys []uint64) curve
	// bound marks what is no policy to choose but a limit for all of them.
	bound bool
	// note says what a bound is, if it is not that of all policies.
	note string
}

// policies is the table of everything that is compared; a new policy is a new
// line. The recommendation is the first of those that need the least.
func policies(shards int) []policy {
	sharded := fmt.Sprintf("%d shards", shards)
	config := fmt.Sprintf("{Capacity: %%d, Shards: %d}", shards)
	if shards == 0 {
		sharded = "default shards"
		config = "{Capacity: %d}"
	}
	table := []policy{
		{name: "LRU, 1 shard", replay: through(lru.RecentUse, 1), curve: lruCurve, usual: shards == 1,
			config: "lru.New(lru.Config[K, V]{Capacity: %d, Shards: 1})"},
		{name: "LRU, " + sharded, replay: through(lru.RecentUse, shards), usual: true,
			config: "lru.New(lru.Config[K, V]" + config + ")"},
		{name: "FIFO, 1 shard", replay: through(lru.Insertion, 1),
			config: "lru.New(lru.Config[K, V]{Capacity: %d, Shards: 1, Order: lru.Insertion})"},
		{name: "LFU, adaptive", replay: adaptive(shards), usual: true,
			config: "lfu.New(lfu.Config[K, V]" + config + ")"},
		{name: "LFU, exact", replay: exact,
			config: "lfu.NewExact(lfu.Config[K, V]{Capacity: %d})"},
		{name: "optimal", replay: optimal, bound: true},
	}
	if shards == 1 {
		table = slices.Delete(table, 1, 2) // the same as the first
	}
	return table
}

// cache is what a policy must offer to be replayed.
type cache interface {
	Get(key uint64) (struct{}, bool)
	Set(key uint64, value struct{}) (stored, evicted bool)
}

// through replays keys as a program uses a cache: ask for the key, and store it
// after a miss.
func through(order lru.Order, shards int) func([]uint64, int, func(int)) (int, error) {
	return func(keys []uint64, size int, done func(int)) (int, error) {
		c, err := lru.New(lru.Config[uint64, struct{}]{Capacity: size, Shards: shards, Order: order})
		if err != nil {
			return 0, err
		}
		return replay(c, keys, done), nil
	}
}

func adaptive(shards int) func([]uint64, int, func(int)) (int, error) {
	return func(keys []uint64, size int, done func(int)) (int, error) {
		c, err := lfu.New(lfu.Config[uint64, struct{}]{Capacity: size, Shards: shards})
		if err != nil {
			return 0, err
		}
		return replay(c, keys, done), nil
	}
}

func exact(keys []uint64, size int, done func(int)) (int, error) {
	c, err := lfu.NewExact(lfu.Config[uint64, struct{}]{Capacity: size})
	if err != nil {
		return 0, err
	}
	return replay(c, keys, done), nil
}

func replay(c cache, keys []uint64, done func(int)) (hits int) {
	for part := range slices.Chunk(keys, 1<<16) {
		for _, key := range part {
			if _, ok := c.Get(key); ok {
				hits++
			} else {
				c.Set(key, struct{}{})
			}
		}
		done(len(part))
	}
	return hits
}

func optimal(keys []uint64, size int, done func(int)) (int, error) {
	hits := trace.Belady(keys, size)
	done(len(keys))
	return hits, nil
}
