package main

import (
	"fmt"
	"math"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/internal/trace"
)

// A report is what was found out about one workload.
type report struct {
	settings
	requests int
	distinct int
	most     int // hits that are possible with room for everything
	sizes    []int
	rows     []row
	// need is the number of hits asked for, with the reason if that is not the
	// target: see attainable.
	need  int
	lower bool
}

// A row is what was found out about one policy.
type row struct {
	policy
	hits     []int   // at each size
	speed    float64 // requests a second
	smallest int     // the size that has the hits needed, or 0
	exact    bool    // whether smallest is known to the entry
}

// life is the time to live in requests.
func (s settings) life() int { return lifetime(s.ttl, s.rate) }

// searchReplays is about how many replays one search takes; for the bar only.
const searchReplays = 8

func simulate(s settings, keys []uint64, bar *progress.Bar) (*report, error) {
	distinct := trace.Unique(keys)
	r := &report{
		settings: s,
		requests: len(keys),
		distinct: distinct,
		sizes:    ladder(s.sizes, distinct),
	}
	r.most = r.requests - r.distinct
	table := policies(s.shards)
	if s.ttl > 0 {
		table = expiringPolicies(s)
		// With room for everything, an entry is missed only when it has expired.
		var err error
		if r.most, err = expiring(s.life())(keys, distinct, func(int) {}); err != nil {
			return nil, err
		}
	}
	r.need, r.lower = attainable(s.target, r.requests, r.requests-r.most)
	bar.Plan("replaying", int64(len(table)*(len(r.sizes)+searchReplays)*len(keys)))
	for _, p := range table {
		bar.Describe(fmt.Sprintf("%-19s", p.name))
		row := row{policy: p}
		start := time.Now()
		for _, size := range r.sizes {
			hits, err := p.replay(keys, size, bar.Done)
			if err != nil {
				return nil, err
			}
			row.hits = append(row.hits, hits)
		}
		row.speed = float64(len(keys)*len(r.sizes)) / time.Since(start).Seconds()
		if r.need > 0 {
			if err := row.search(r, keys, bar.Done); err != nil {
				return nil, err
			}
		}
		r.rows = append(r.rows, row)
	}
	return r, nil
}

// attainable returns the hits that a target ratio takes. Some requests miss in every
// cache: the first one for each key, and those that come when the entry has expired. A
// target beyond what is left is replaced by 90 % of that, and lower is set.
func attainable(target float64, requests, misses int) (need int, lower bool) {
	most := requests - misses
	if ratio(most, requests) < target {
		return int(math.Ceil(0.9 * float64(most))), true
	}
	need = int(math.Ceil(target * float64(requests)))
	if need > 0 && ratio(need-1, requests) >= target {
		need-- // the product was rounded up
	}
	return need, false
}

func ratio(hits, requests int) float64 { return float64(hits) / float64(requests) }

// search finds the smallest size with the hits needed: to the entry where the
// policy has a curve, and otherwise to 1 % by bisection between the sizes that
// were tried. That takes the hits to grow with the size, which they do but for
// a trifle: FIFO has Belady's anomaly, and shards share the keys out by chance.
func (w *row) search(r *report, keys []uint64, done func(int)) error {
	if w.curve != nil {
		if size, ok := w.curve(keys).smallest(r.need); ok {
			w.smallest, w.exact = size, true
		}
		done(searchReplays * len(keys))
		return nil
	}
	low, high := 0, 0
	for i, hits := range w.hits {
		if hits >= r.need {
			high = r.sizes[i]
			break
		}
		low = r.sizes[i]
	}
	if high == 0 { // then all keys must do
		if low >= r.distinct {
			return nil
		}
		high = r.distinct
		if hits, err := w.replay(keys, high, done); err != nil || hits < r.need {
			return err
		}
	}
	for high-low > max(1, high/100) {
		middle := low + (high-low)/2
		hits, err := w.replay(keys, middle, done)
		if err != nil {
			return err
		}
		if hits >= r.need {
			high = middle
		} else {
			low = middle
		}
	}
	w.smallest = high
	return nil
}
