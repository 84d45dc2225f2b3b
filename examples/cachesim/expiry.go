package main

import (
	"container/list"
	"fmt"
	"time"
)

// lifetime returns a time to live in requests: an entry that was stored at one request has expired
// at the first one that comes so many later, or more.
func lifetime(ttl time.Duration, rate float64) int {
	const most = 1 << 40 // more than any trace has
	n := ttl.Seconds() * rate
	if n >= most {
		return most
	}
	life := int(n)
	if float64(life) < n {
		life++
	}
	return max(1, life)
}

// expiringPolicies is the table of what is compared where entries expire.
func expiringPolicies(s settings) []policy {
	return []policy{
		{name: fmt.Sprintf("TTL %v, LRU", s.ttl), replay: expiring(s.life()), usual: true,
			config: fmt.Sprintf("ttlcache.New(ttlcache.Config[K, V]{Capacity: %%d, TTL: %s})", goDuration(s.ttl))},
		{name: "LRU, no expiry", replay: expiring(lifetime(1<<62, 1e9)), curve: lruCurve, bound: true,
			note: "what expiry costs: the difference"},
		{name: "optimal, no expiry", replay: optimal, bound: true},
	}
}

// goDuration returns a Go expression for d.
func goDuration(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "Hour"}, {time.Minute, "Minute"}, {time.Second, "Second"}, {time.Millisecond, "Millisecond"}} {
		if d%unit.d == 0 {
			return fmt.Sprintf("%d * time.%s", d/unit.d, unit.name)
		}
	}
	return fmt.Sprintf("%d * time.Nanosecond", d)
}

// expiring replays keys through a cache as package ttlcache has it with one shard: what has expired
// leaves first, then what was not used for longest. The package itself cannot be replayed
// faster than its clock runs, so this does what it does; a test compares the two.
func expiring(life int) func([]uint64, int, func(int)) (int, error) {
	return func(keys []uint64, size int, done func(int)) (hits int, err error) {
		type entry struct {
			key  uint64
			at   int           // the request that stored it
			used *list.Element // in byUse
		}
		var byUse, byAge list.List // of *entry; the most recent first
		at := make(map[uint64]*list.Element, min(size, len(keys)))
		leave := func(e *list.Element) {
			entry := byAge.Remove(e).(*entry)
			byUse.Remove(entry.used)
			delete(at, entry.key)
		}
		const part = 1 << 16
		for i, key := range keys {
			if i%part == 0 && i > 0 {
				done(part)
			}
			for oldest := byAge.Back(); oldest != nil && i-oldest.Value.(*entry).at >= life; oldest = byAge.Back() {
				leave(oldest)
			}
			if e := at[key]; e != nil {
				hits++
				byUse.MoveToFront(e.Value.(*entry).used)
				continue
			}
			if len(at) == size {
				leave(at[byUse.Back().Value.(*entry).key])
			}
			entry := &entry{key: key, at: i}
			entry.used = byUse.PushFront(entry)
			at[key] = byAge.PushFront(entry)
		}
		done((len(keys)-1)%part + 1)
		return hits, nil
	}
}
