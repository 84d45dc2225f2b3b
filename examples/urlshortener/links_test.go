package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestLinks(t *testing.T, s *store) *links {
	t.Helper()
	key, err := s.secret(t.Context(), "codes", 16)
	require.NoError(t, err)
	p, err := newPermutation(key)
	require.NoError(t, err)
	l, err := newLinks(t.Context(), s, &counterCoder{permutation: p, block: s.block}, 1000, 10_000, nil)
	require.NoError(t, err)
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

// TestAbsentCodes asks for a hundred thousand codes that do not exist: hardly one in a hundred reaches the database.
func TestAbsentCodes(t *testing.T) {
	s := newStore(t)
	l := newTestLinks(t, s)
	for i := range 200 {
		_, err := l.create(t.Context(), draft{Target: fmt.Sprint("http://example.com/", i)})
		require.NoError(t, err)
	}
	for i := range 100_000 {
		_, err := l.resolve(t.Context(), codeOf(uint64(i)*12_345_678))
		require.ErrorIs(t, err, errNoLink)
	}
	stats := l.guard.Stats()
	reached := stats.NotFound
	require.LessOrEqual(t, reached, uint64(1100))
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
