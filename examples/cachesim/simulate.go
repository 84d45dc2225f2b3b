package main

import (
	"fmt"
	"math"
	"time"

	"github.com/sysblocks/sysblocks/internal/trace"
)

// A report is what was found out about one workload.
type report struct {
	settings
	requests int
	distinct int
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

// searchReplays is about how many replays one search takes; for the bar only.
const searchReplays = 8

func simulate(s settings, keys []uint64, bar *progress) (*report, error) {
	distinct := trace.Unique(keys)
	r := &report{
		settings: s,
		requests: len(keys),
		distinct: distinct,
		sizes:    ladder(s.sizes, distinct),
	}
	r.need, r.lower = attainable(s.target, r.requests, r.distinct)
	table := policies(s.shards)
	bar.plan(len(table) * (len(r.sizes) + searchReplays) * len(keys))
	for _, p := range table {
		bar.describe(fmt.Sprintf("%-19s", p.name))
		row := row{policy: p}
		start := time.Now()
		for _, size := range r.sizes {
			hits, err := p.replay(keys, size, bar.done)
			if err != nil {
				return nil, err
			}
			row.hits = append(row.hits, hits)
		}
		row.speed = float64(len(keys)*len(r.sizes)) / time.Since(start).Seconds()
		if r.need > 0 {
			if err := row.search(r, keys, bar.done); err != nil {
				return nil, err
			}
		}
		r.rows = append(r.rows, row)
	}
	return r, nil
}

// attainable returns the hits that a target ratio takes. The first request for
// a key misses in every cache, so no more than requests-distinct can hit; a
// target beyond that is replaced by 90 % of what is possible, and lower is set.
func attainable(target float64, requests, distinct int) (need int, lower bool) {
	most := requests - distinct
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
