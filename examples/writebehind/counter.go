package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// newCounter returns a cache of counts over a database that fails a share of the time. It is
// much smaller than the database, so counts that are not written yet are evicted, too.
func newCounter(db *database, fail float64, batch ttlcache.BatchConfig) (*ttlcache.Cache[int, int], error) {
	return ttlcache.New(ttlcache.Config[int, int]{
		Capacity:  1000,
		TTL:       time.Minute,
		Loader:    db.load,
		Store:     flaky{db, fail},
		WriteMode: ttlcache.WriteBehind,
		Batch:     batch,
	})
}

// count counts views, each writer those of pages of its own, and returns the last count of each
// page that was acknowledged.
func count(ctx context.Context, cache *ttlcache.Cache[int, int], s settings) (map[int]int, error) {
	writers := min(s.writers, s.pages)
	acked := make([]map[int]int, writers)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		acked[w] = map[int]int{}
		wg.Go(func() {
			mine := (s.pages - w + writers - 1) / writers
			for i := w; i < s.views; i += writers {
				page := w + writers*rand.IntN(mine)
				// A count that is neither in the cache nor on its way to the file is in the file.
				n, err := cache.GetOrLoad(ctx, page)
				if err != nil && !errors.Is(err, ttlcache.ErrNotFound) {
					errs[w] = err
					return
				}
				if n != acked[w][page] {
					errs[w] = fmt.Errorf("page %d: read %d after %d was acknowledged", page, n, acked[w][page])
					return
				}
				if err := cache.Set(ctx, page, n+1); err != nil {
					errs[w] = err
					return
				}
				acked[w][page] = n + 1
			}
		})
	}
	wg.Wait()
	all := map[int]int{}
	for _, m := range acked {
		for page, n := range m {
			all[page] = n
		}
	}
	return all, errors.Join(errs...)
}

// closeCounter closes the cache, and returns the counts that could not be written.
func closeCounter(ctx context.Context, cache *ttlcache.Cache[int, int]) map[int]int {
	lost := map[int]int{}
	var we *ttlcache.WriteError[int, int]
	if errors.As(cache.Close(ctx), &we) {
		for _, w := range we.Writes {
			lost[w.Key] = w.Value
		}
	}
	return lost
}

// compare returns what is wrong: counts that were acknowledged, but are neither in the file nor
// among those that are known not to be.
func compare(ctx context.Context, db *database, acked, lost map[int]int) (problems []string, err error) {
	rows, err := db.QueryContext(ctx, `SELECT page, n FROM views`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	stored := map[int]int{}
	for rows.Next() {
		var page, n int
		if err := rows.Scan(&page, &n); err != nil {
			return nil, err
		}
		stored[page] = n
	}
	for page, n := range acked {
		if stored[page] != n && lost[page] != n {
			problems = append(problems, fmt.Sprintf("page %d: %d was acknowledged, the file has %d, Close gave back %d", page, n, stored[page], lost[page]))
		}
	}
	return problems, rows.Err()
}
