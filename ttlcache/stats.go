package ttlcache

import "sync/atomic"

// Stats counts what a cache has done since it was made.
type Stats struct {
	Hits         uint64 // look-ups that were answered from memory: fresh, stale or negative
	Misses       uint64 // and those that were not
	StaleHits    uint64 // of the Hits, how many were stale
	NegativeHits uint64 // and of how many it was known that there is nothing

	Sets      uint64 // values stored, those that were loaded included
	Evictions uint64 // entries evicted for want of room
	Expired   uint64 // entries taken out because they had expired
	Refused   uint64 // values refused because they weigh too much

	Loads         uint64 // keys for which a Loader or BulkLoader was called
	LoadErrors    uint64 // of these, how many failed
	NotFound      uint64 // of these, how many do not exist
	StaleOnError  uint64 // loads that failed, whose callers were given a stale value
	Refreshes     uint64 // loads that were in the background
	RefreshErrors uint64 // of these, how many failed
	RefreshShed   uint64 // loads in the background left out because there were too many

	NegativeLen     int    // keys that are known not to exist
	NegativeRefused uint64 // such keys that were not remembered for want of room

	TierHits    uint64 // look-ups in Next that found the key
	TierMisses  uint64 // and those that did not
	TierErrors  uint64 // reads from and writes to Next that failed
	TierBypass  uint64 // look-ups that left Next out, because what is there may be outdated
	TierBacklog int    // keys that wait to be invalidated in Next

	Written     uint64 // writes to the Store that succeeded
	WriteErrors uint64 // writes to the Store that failed for good
	Retries     uint64 // batches that WriteBehind has tried again
	Coalesced   uint64 // writes that WriteBehind left out because a later one came in time
	Queued      int    // keys that wait to be written, those that were given up included
}

// HitRatio returns Hits / (Hits + Misses), or 0 before the first look-up.
func (s Stats) HitRatio() float64 {
	if s.Hits == 0 {
		return 0
	}
	return float64(s.Hits) / (float64(s.Hits) + float64(s.Misses))
}

// counters are those numbers that are not counted in the shards.
type counters struct {
	stale, negative                      atomic.Uint64
	loads, loadErrors, notFound          atomic.Uint64
	staleOnError                         atomic.Uint64
	refreshes, refreshErrors, shed       atomic.Uint64
	negativeRefused                      atomic.Uint64
	tierHits, tierMisses, tierErrors     atomic.Uint64
	tierBypass                           atomic.Uint64
	written, writeErrors, retries, merge atomic.Uint64
}

// Stats returns the statistics. Complexity: O(shards).
func (c *Cache[K, V]) Stats() Stats {
	n := &c.counters
	sum := Stats{
		StaleHits: n.stale.Load(), NegativeHits: n.negative.Load(),
		Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(), NotFound: n.notFound.Load(),
		StaleOnError: n.staleOnError.Load(),
		Refreshes:    n.refreshes.Load(), RefreshErrors: n.refreshErrors.Load(), RefreshShed: n.shed.Load(),
		NegativeRefused: n.negativeRefused.Load(),
		TierHits:        n.tierHits.Load(), TierMisses: n.tierMisses.Load(),
		TierErrors: n.tierErrors.Load(), TierBypass: n.tierBypass.Load(),
		Written: n.written.Load(), WriteErrors: n.writeErrors.Load(),
		Retries: n.retries.Load(), Coalesced: n.merge.Load(),
	}
	c.each(func(s *shard[K, V], _ *departures[K, V]) {
		s.tidy()
		core := &s.core
		hits, misses := s.lock.Counts()
		sum.Hits += hits + core.hits
		sum.Misses += misses + core.misses
		sum.Sets += core.sets
		sum.Evictions += core.evictions
		sum.Expired += core.expired
		sum.Refused += core.refused
	})
	// They were counted as misses before it was known.
	sum.Hits += sum.NegativeHits
	sum.Misses -= sum.NegativeHits
	if c.negatives != nil {
		sum.NegativeLen = c.negatives.len()
	}
	if c.tier != nil {
		sum.TierBacklog = c.tier.backlog()
	}
	if c.queue != nil {
		sum.Queued = c.queue.len()
	}
	return sum
}
