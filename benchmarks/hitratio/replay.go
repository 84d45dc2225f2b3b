package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/internal/trace"
)

// A workload is a trace or a generated sequence of requests.
type workload struct {
	name   string
	keys   []uint64
	unique int
}

// A size is a number of entries, or a share of the distinct keys of a workload.
type size struct {
	entries int
	percent float64 // if entries is 0
}

// maxSize keeps a slip of the finger from taking all memory: some
// implementations allocate everything at once.
const maxSize = 100_000_000

func parseSizes(list string) ([]size, error) {
	var sizes []size
	for _, s := range split(list) {
		if p, ok := strings.CutSuffix(s, "%"); ok {
			f, err := strconv.ParseFloat(p, 64)
			if err != nil || !(f > 0 && f <= 100) {
				return nil, fmt.Errorf("-sizes: a percentage must be above 0%% and at most 100%%, got %q", s)
			}
			sizes = append(sizes, size{percent: f})
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxSize {
			return nil, fmt.Errorf("-sizes: a size must be from 1 to %d, or a percentage of the distinct keys, got %q", maxSize, s)
		}
		sizes = append(sizes, size{entries: n})
	}
	return sizes, nil
}

func (s size) of(w workload) int {
	if s.entries > 0 {
		return s.entries
	}
	return int(math.Ceil(float64(w.unique) * s.percent / 100))
}

func (s size) String() string {
	if s.entries > 0 {
		return strconv.Itoa(s.entries)
	}
	return strconv.FormatFloat(s.percent, 'g', -1, 64) + "%"
}

// A result is what a replay through one implementation came to.
type result struct {
	hits int
	held int   // the greatest number of entries seen
	err  error // of making the cache; the rest is zero then
}

// replay sends the requests through a new cache: get, and on a miss set. After
// every 64th set and at the end the cache is asked how many entries it holds:
// some have to visit all their shards for it, and only those that may shrink
// can ever hold more in between than what is seen so.
func replay(keys []uint64, im impl, size int) result {
	c, err := im.make(size)
	if err != nil {
		return result{err: err}
	}
	if c.close != nil {
		defer c.close()
	}
	var r result
	sets := 0
	for _, k := range keys {
		if c.get(k) {
			r.hits++
			continue
		}
		c.set(k)
		if sets++; sets%64 == 0 {
			r.held = max(r.held, c.len())
		}
	}
	r.held = max(r.held, c.len())
	return r
}

// A row is one workload at one size.
type row struct {
	work    workload
	size    size
	entries int // size for this workload
	results []result
	optimum int // hits
}

func replayAll(works []workload, sizes []size, least int, ims []impl) []row {
	var rows []row
	for _, w := range works {
		for _, s := range sizes {
			r := row{work: w, size: s, entries: s.of(w)}
			if r.entries < least {
				continue
			}
			for _, im := range ims {
				r.results = append(r.results, replay(w.keys, im, r.entries))
			}
			r.optimum = trace.Belady(w.keys, r.entries)
			rows = append(rows, r)
		}
	}
	return rows
}

func (r row) percent(hits int) float64 { return 100 * float64(hits) / float64(len(r.work.keys)) }
