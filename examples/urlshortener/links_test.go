package main

import (
	"context"
	"database/sql"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
)

func newTestLinks(t *testing.T, s *store) *links {
	t.Helper()
	key, err := s.secret(t.Context(), "codes", 16)
	require.NoError(t, err)
	p, err := newPermutation(key)
	require.NoError(t, err)
	l, err := newLinks(s, &counterCoder{permutation: p, block: s.block}, 1000, time.Minute, 10_000, nil)
	require.NoError(t, err)
	require.NoError(t, l.rebuild(t.Context()))
	t.Cleanup(func() { require.NoError(t, l.cache.Close(context.Background())) })
	return l
}

func TestLinks(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	l := newTestLinks(t, s)
	now := noon
	l.clock = func() time.Time { return now }

	_, err := l.resolve(ctx, "abcdefg")
	require.ErrorIs(t, err, errNoLink)
	made, err := l.create(ctx, draft{Target: "http://example.com/a", Owner: "ann"})
	require.NoError(t, err)
	require.Len(t, made.Code, codeLength)
	got, err := l.resolve(ctx, made.Code)
	require.NoError(t, err)
	require.Equal(t, made, got)

	// An alias that was looked for before it was made is found at once.
	_, err = l.resolve(ctx, "my-alias")
	require.ErrorIs(t, err, errNoLink)
	_, err = l.create(ctx, draft{Target: "http://example.com/b", Alias: "my-alias", Owner: "ann", Permanent: true, Expires: now.Add(time.Minute)})
	require.NoError(t, err)
	got, err = l.resolve(ctx, "my-alias")
	require.NoError(t, err)
	require.True(t, got.Permanent)
	_, err = l.create(ctx, draft{Target: "http://example.com/c", Alias: "my-alias"})
	require.ErrorIs(t, err, errTaken)

	now = now.Add(time.Minute)
	_, err = l.resolve(ctx, "my-alias") // has expired, in the cache as well
	require.ErrorIs(t, err, errNoLink)

	require.ErrorIs(t, l.remove(ctx, made.Code, "bob"), errNotOwner)
	require.NoError(t, l.remove(ctx, made.Code, "ann"))
	_, err = l.resolve(ctx, made.Code)
	require.ErrorIs(t, err, errNoLink)

	// Another process finds what is there, through its own filter.
	kept, err := l.create(ctx, draft{Target: "http://example.com/d"})
	require.NoError(t, err)
	other := newTestLinks(t, s)
	got, err = other.resolve(ctx, kept.Code)
	require.NoError(t, err)
	require.Equal(t, kept, got)
}

// underRace is set where the race detector runs.
var underRace bool

// TestAbsentCodes asks for a million codes that do not exist, where a million do: hardly one in a hundred reaches the
// databases.
func TestAbsentCodes(t *testing.T) {
	n := 1_000_000
	if underRace {
		n = 20_000 // it is one goroutine, ten times slower
	}
	s := newStore(t)
	key, err := s.secret(t.Context(), "codes", 16)
	require.NoError(t, err)
	p, err := newPermutation(key)
	require.NoError(t, err)
	fill(t, s, func(yield func(string) bool) {
		for i := range n {
			if !yield(codeOf(p.forward(uint64(i)))) {
				return
			}
		}
	})
	l, err := newLinks(s, &counterCoder{permutation: p, block: s.block}, cacheCapacity, time.Minute, uint64(n), nil)
	require.NoError(t, err)
	require.NoError(t, l.rebuild(t.Context()))
	defer func() { require.NoError(t, l.cache.Close(context.Background())) }()
	h := (&server{links: l, log: slog.New(slog.DiscardHandler)}).redirect
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	ask := func(code string) int {
		r.SetPathValue("code", code)
		w := httptest.NewRecorder()
		h(w, r)
		return w.Code
	}
	for i := range n {
		require.Equal(t, http.StatusNotFound, ask(codeOf(p.forward(uint64(n+i))))) // what is made next
	}
	stats := l.guard.Stats()
	reached := l.cache.Stats().Loads - stats.Refused
	require.Equal(t, reached, stats.NotFound)
	require.Positive(t, reached) // the filter is as full as it may be
	require.LessOrEqual(t, reached, uint64(n)*11/1000)
	t.Logf("%d of %d requests have reached a database", reached, n)
}

// fill puts links into the databases, as fast as they take them.
func fill(t *testing.T, s *store, codes iter.Seq[string]) {
	t.Helper()
	txs := map[shard.ID]*sql.Tx{}
	inserts := map[shard.ID]*sql.Stmt{}
	for code := range codes {
		id := s.router.Locate(code).Shard
		if inserts[id] == nil {
			db, err := s.db.Shard(id)
			require.NoError(t, err)
			txs[id], err = db.Primary.Begin()
			require.NoError(t, err)
			inserts[id], err = txs[id].Prepare(`INSERT INTO links (code, target, owner, permanent, created, expires) VALUES ($1, 'http://example.com/', '', 0, 0, 0)`)
			require.NoError(t, err)
		}
		_, err := inserts[id].Exec(code)
		require.NoError(t, err)
	}
	for _, tx := range txs {
		require.NoError(t, tx.Commit())
	}
}

// TestSameTarget has codes that follow from the target: the same one for the same link.
func TestSameTarget(t *testing.T) {
	s := newStore(t)
	l := newTestLinks(t, s)
	l.coder = hashCoder{key: []byte("k")}
	a, err := l.create(t.Context(), draft{Target: "http://example.com/a", Owner: "ann"})
	require.NoError(t, err)
	again, err := l.create(t.Context(), draft{Target: "http://example.com/a", Owner: "ann"})
	require.NoError(t, err)
	require.Equal(t, a, again)
	other, err := l.create(t.Context(), draft{Target: "http://example.com/a", Owner: "bob"})
	require.NoError(t, err)
	require.NotEqual(t, a.Code, other.Code)
	// As many others as there may be, whose links expire at another time each.
	for i := range 3 * maxTries {
		_, err := l.create(t.Context(), draft{Target: "http://example.com/a", Owner: "bob", Expires: l.clock().Add(time.Duration(i+1) * time.Hour)})
		require.NoError(t, err, i)
	}
	again, err = l.create(t.Context(), draft{Target: "http://example.com/a", Owner: "ann"})
	require.NoError(t, err)
	require.Equal(t, a, again)

	// Of many at once, all get the same.
	var wg sync.WaitGroup
	var codes sync.Map
	var n atomic.Int64
	for range 20 {
		wg.Go(func() {
			m, err := l.create(t.Context(), draft{Target: "http://example.com/z"})
			if err != nil {
				t.Error(err)
			}
			if _, there := codes.LoadOrStore(m.Code, true); !there {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, n.Load())
}
