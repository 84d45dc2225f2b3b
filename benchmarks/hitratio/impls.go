package main

import (
	"fmt"
	"slices"
	"strings"

	theine "github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	freelru "github.com/elastic/go-freelru"
	"github.com/hashicorp/golang-lru/arc/v2"
	golanglru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"
	phuslu "github.com/phuslu/lru"

	"github.com/sysblocks/sysblocks/lfu"
	"github.com/sysblocks/sysblocks/lru"
)

// A cache is what a replay asks of an implementation.
type cache struct {
	get   func(key uint64) bool
	set   func(key uint64)
	len   func() int
	close func() // nil: there is nothing to close
}

// An impl is a column of the table.
type impl struct {
	name string
	make func(size int) (cache, error)
}

// impls returns all implementations: ours first, with one column of lru and lfu for
// each number of shards (0 is their own choice), and then the others. A further
// one is a line here and, unless its methods happen to fit, a function below.
func impls(shards []int) []impl {
	var all []impl
	for _, n := range shards {
		suffix := ""
		if n > 0 {
			suffix = fmt.Sprintf("/shards=%d", n)
		}
		all = append(all,
			impl{"lru" + suffix, ours(lru.Config[uint64, uint64]{Shards: n})},
			impl{"lfu" + suffix, func(size int) (cache, error) {
				c, err := lfu.New(lfu.Config[uint64, uint64]{Shards: n, Capacity: size})
				return setters(c, err)
			}},
		)
	}
	return append(all,
		impl{"lfu.Exact", func(size int) (cache, error) {
			c, err := lfu.NewExact(lfu.Config[uint64, uint64]{Capacity: size})
			return setters(c, err)
		}},
		impl{"fifo", ours(lru.Config[uint64, uint64]{Shards: 1, Order: lru.Insertion})},
		impl{"golang-lru", func(size int) (cache, error) {
			c, err := golanglru.New[uint64, uint64](size)
			return adders(c, err)
		}},
		impl{"phuslu", func(size int) (cache, error) {
			c := phuslu.NewLRUCache[uint64, uint64](size)
			return cache{
				get: func(k uint64) bool { _, ok := c.Get(k); return ok },
				set: func(k uint64) { c.Set(k, k) },
				len: c.Len,
			}, nil
		}},
		impl{"freelru", func(size int) (cache, error) {
			c, err := freelru.NewSharded[uint64, uint64](uint32(size), hash)
			return adders(c, err)
		}},
		impl{"freelru/synced", func(size int) (cache, error) {
			c, err := freelru.NewSynced[uint64, uint64](uint32(size), hash)
			return adders(c, err)
		}},
		impl{"2q", func(size int) (cache, error) {
			c, err := golanglru.New2Q[uint64, uint64](size)
			return quietAdders(c, err)
		}},
		impl{"arc", func(size int) (cache, error) {
			c, err := arc.NewARC[uint64, uint64](size)
			return quietAdders(c, err)
		}},
		impl{"otter", newOtter},
		impl{"theine", newTheine},
		impl{"ristretto", newRistretto},
	)
}

// newOtter has it do by the caller what it would leave to another goroutine, so that what it
// decides does not depend on when that one runs.
func newOtter(size int) (cache, error) {
	c, err := otter.New(&otter.Options[uint64, uint64]{MaximumSize: size, Executor: func(f func()) { f() }})
	if err != nil {
		return cache{}, err
	}
	return cache{
		get:   func(k uint64) bool { _, ok := c.GetIfPresent(k); return ok },
		set:   func(k uint64) { c.Set(k, k) },
		len:   c.EstimatedSize,
		close: func() { c.StopAllGoroutines() },
	}, nil
}

func newTheine(size int) (cache, error) {
	c, err := theine.NewBuilder[uint64, uint64](int64(size)).Build()
	if err != nil {
		return cache{}, err
	}
	return cache{
		get:   func(k uint64) bool { _, ok := c.Get(k); return ok },
		set:   func(k uint64) { c.Set(k, k, 1) },
		len:   c.Len,
		close: c.Close,
	}, nil
}

// newRistretto waits for each set to take effect, if it ever will.
func newRistretto(size int) (cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[uint64, uint64]{
		NumCounters: 10 * int64(size), MaxCost: int64(size), BufferItems: 64, IgnoreInternalCost: true,
	})
	if err != nil {
		return cache{}, err
	}
	return cache{
		get:   func(k uint64) bool { _, ok := c.Get(k); return ok },
		set:   func(k uint64) { c.Set(k, k, 1); c.Wait() },
		len:   func() int { return int(c.MaxCost() - c.RemainingCost()) },
		close: c.Close,
	}, nil
}

func ours(config lru.Config[uint64, uint64]) func(size int) (cache, error) {
	return func(size int) (cache, error) {
		config := config
		config.Capacity = size
		c, err := lru.New(config)
		return setters(c, err)
	}
}

// setters adapts our own.
func setters(c interface {
	Get(uint64) (uint64, bool)
	Set(uint64, uint64) (bool, bool)
	Len() int
}, err error) (cache, error) {
	if err != nil {
		return cache{}, err
	}
	return cache{
		get: func(k uint64) bool { _, ok := c.Get(k); return ok },
		set: func(k uint64) { c.Set(k, k) },
		len: c.Len,
	}, nil
}

// adders adapts the libraries whose Set is called Add.
func adders(c interface {
	Get(uint64) (uint64, bool)
	Add(uint64, uint64) bool
	Len() int
}, err error) (cache, error) {
	if err != nil {
		return cache{}, err
	}
	return cache{
		get: func(k uint64) bool { _, ok := c.Get(k); return ok },
		set: func(k uint64) { c.Add(k, k) },
		len: c.Len,
	}, nil
}

// quietAdders adapts those whose Add does not say whether it evicted anything.
func quietAdders(c interface {
	Get(uint64) (uint64, bool)
	Add(uint64, uint64)
	Len() int
}, err error) (cache, error) {
	if err != nil {
		return cache{}, err
	}
	return cache{
		get: func(k uint64) bool { _, ok := c.Get(k); return ok },
		set: func(k uint64) { c.Add(k, k) },
		len: c.Len,
	}, nil
}

// hash is the one that freelru has to be given. Its shards and its tables go by
// different bits, so all of them must be good: the finalizer of MurmurHash3.
func hash(k uint64) uint32 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	k ^= k >> 33
	return uint32(k)
}

// choose returns those of all whose names are in the list, in the order of all;
// an empty list is all of them.
func choose(all []impl, list string) ([]impl, error) {
	if list == "" {
		return all, nil
	}
	wanted := split(list)
	var names []string
	var chosen []impl
	for _, im := range all {
		names = append(names, im.name)
		if slices.Contains(wanted, im.name) {
			chosen = append(chosen, im)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return nil, fmt.Errorf("-only: no implementation %q; there are %s", w, strings.Join(names, ", "))
		}
	}
	return chosen, nil
}

func split(list string) []string {
	parts := strings.Split(list, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
