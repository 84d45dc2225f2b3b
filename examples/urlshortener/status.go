package main

import (
	"context"
	"database/sql"
	"net/http"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/shard"
)

// A status is what the page shows of the blocks, live.
type status struct {
	Hits      uint64                `json:"hits"`
	Misses    uint64                `json:"misses"`
	Loads     uint64                `json:"loads"`
	Cached    int                   `json:"cached"`
	Avoided   uint64                `json:"avoided"` // look-ups of what does not exist, kept from the database
	Refused   int64                 `json:"refused"` // requests, by the rate limits
	Clicks    int64                 `json:"clicks"`
	Spooled   int64                 `json:"spooled"`
	Dropped   int64                 `json:"dropped"`
	Spool     int64                 `json:"spool_bytes"`
	Queue     int64                 `json:"queue"`             // groups that are not counted yet; -1: not known
	Shards    map[shard.ID][2]int64 `json:"shards"`            // links and clicks
	Missing   string                `json:"missing,omitempty"` // shards that do not answer
	FilterFPR float64               `json:"filter_fpr"`
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, s.seen.get(r.Context(), s.metrics.app.status))
}

// A seenStatus is the status that was made last. Anybody can ask for it, without a key or a limit, and to count what is
// in a shard takes the longer the more there is: so one asks the databases at a time, and what he was told is kept for
// as long as it is new enough.
type seenStatus struct {
	turn chan struct{} // holds one value while somebody asks

	mu    sync.Mutex
	last  status
	until time.Time
}

const (
	statusTimeout = 2 * time.Second
	statusAge     = time.Second
	// statusShare is for how many times as long as it took to make it a status is kept at least: what the page shows
	// takes no more than a tenth of a database's time.
	statusShare = 9
)

func newSeenStatus() *seenStatus { return &seenStatus{turn: make(chan struct{}, 1)} }

// get returns the last status, or a new one from ask if that is too old and nobody else is making one.
func (s *seenStatus) get(ctx context.Context, ask func(context.Context) status) status {
	if st, ok := s.recent(); ok {
		return st
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return status{}
	}
	defer func() { <-s.turn }()
	if st, ok := s.recent(); ok { // another has made it meanwhile
		return st
	}
	// Who asks may go away; others wait for the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
	defer cancel()
	began := time.Now()
	st := ask(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.until = st, time.Now().Add(max(statusAge, statusShare*time.Since(began)))
	return st
}

func (s *seenStatus) recent() (status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, time.Now().Before(s.until)
}

// status asks all blocks.
func (a *app) status(ctx context.Context) status {
	c, g := a.links.cache.Stats(), a.links.guard
	st := status{
		Hits: c.Hits, Misses: c.Misses, Loads: c.Loads, Cached: a.links.cache.Len(), Avoided: g.Stats().Refused,
		Refused: a.refused.Load(), Clicks: a.recorder.clicked.Load(), Spooled: a.recorder.spooled.Load(),
		Dropped: a.recorder.dropped.Load(), Spool: a.spool.bytes(), Queue: -1, FilterFPR: g.EstimatedFPR(),
	}
	if n, err := a.queue.depth(ctx); err == nil {
		st.Queue = int64(n)
	}
	var err error
	if st.Shards, err = a.store.totals(ctx); err != nil {
		st.Missing = missing(err)
	}
	return st
}

// ping asks all shards for an answer.
func (s *store) ping(ctx context.Context) error {
	_, err := shard.Scatter(ctx, s.db, shard.Policy{}, `SELECT 1`, nil, func(rows *sql.Rows) (struct{}, error) {
		for rows.Next() {
		}
		return struct{}{}, rows.Err()
	})
	return err
}
