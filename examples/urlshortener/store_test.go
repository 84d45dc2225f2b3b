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

func newStore(t *testing.T) *store {
	t.Helper()
	s, err := openStore(t.Context(), t.TempDir(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	return s
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func TestStore(t *testing.T) { testStore(t, newStore(t)) }

// testStore is what any store must do.
func testStore(t *testing.T, s *store) {
	ctx := context.Background()
	_, err := s.get(ctx, "abcdefg")
	require.ErrorIs(t, err, errNoLink)
	l := link{Code: "abcdefg", Target: "http://example.com", Owner: "ann", Permanent: true, Created: noon, Expires: noon.Add(time.Hour)}
	require.NoError(t, s.insert(ctx, l))
	got, err := s.get(ctx, "abcdefg")
	require.NoError(t, err)
	require.Equal(t, l, got)
	require.False(t, got.gone(noon))
	require.True(t, got.gone(noon.Add(time.Hour)))
	require.ErrorIs(t, s.insert(ctx, link{Code: "abcdefg", Target: "http://other.com", Created: noon}), errTaken)

	require.ErrorIs(t, s.remove(ctx, "abcdefg", "ann", noon.Add(time.Hour)), errNoLink)
	require.ErrorIs(t, s.remove(ctx, "abcdefg", "bob", noon), errNotOwner)
	require.ErrorIs(t, s.remove(ctx, "nothing", "ann", noon), errNoLink)
	require.NoError(t, s.remove(ctx, "abcdefg", "ann", noon))
	require.ErrorIs(t, s.remove(ctx, "abcdefg", "ann", noon), errNoLink)
	got, err = s.get(ctx, "abcdefg")
	require.NoError(t, err)
	require.True(t, got.gone(noon))
	require.ErrorIs(t, s.insert(ctx, l), errTaken) // for good

	// Pages of all shards together, the newest first.
	for i := range 25 {
		require.NoError(t, s.insert(ctx, link{Code: fmt.Sprintf("list%03d", i), Target: "http://x.com", Owner: "ann", Created: noon.Add(time.Duration(i/2) * time.Second)}))
	}
	require.NoError(t, s.insert(ctx, link{Code: "expired", Target: "http://x.com", Owner: "ann", Created: noon, Expires: noon}))
	require.NoError(t, s.insert(ctx, link{Code: "foreign", Target: "http://x.com", Owner: "bob", Created: noon}))
	var codes []string
	for after := (cursor{}); ; {
		page, err := s.list(ctx, "ann", after, 10, noon)
		require.NoError(t, err)
		for _, l := range page {
			codes = append(codes, l.Code)
			after = cursor{l.Created.UnixMilli(), l.Code}
		}
		if len(page) < 10 {
			break
		}
	}
	require.Len(t, codes, 25)
	for i, code := range codes {
		require.Equal(t, fmt.Sprintf("list%03d", 24-i), code)
	}
	seen := map[string]bool{}
	for code, err := range s.codes(ctx) {
		require.NoError(t, err)
		seen[code] = true
	}
	require.Len(t, seen, 28)
	// Those of one moment are all there, whatever their letters and the size of pages.
	moment := []string{"zed", "abc", "_xy", "Zed", "ABD", "Abe", "0ab", "-ab", "aBc"}
	for _, code := range moment {
		require.NoError(t, s.insert(ctx, link{Code: code, Target: "http://x.com", Owner: "cat", Created: noon}))
	}
	for size := range 4 {
		codes = nil
		for after := (cursor{}); ; {
			page, err := s.list(ctx, "cat", after, size+1, noon)
			require.NoError(t, err)
			for _, l := range page {
				codes = append(codes, l.Code)
				after = cursor{l.Created.UnixMilli(), l.Code}
			}
			if len(page) <= size {
				break
			}
		}
		require.ElementsMatch(t, moment, codes, "%d a page", size+1)
	}

	// Of many who want the same code, one gets it.
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := s.insert(ctx, link{Code: "wanted", Target: fmt.Sprint("http://x.com/", i), Created: noon})
			if err == nil {
				won.Add(1)
			} else if err != errTaken {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())

	// Numbers are handed out once.
	var mu sync.Mutex
	firsts := map[uint64]bool{}
	for range 20 {
		wg.Go(func() {
			first, err := s.block(ctx, 100)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			firsts[first] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	for i := range uint64(20) {
		require.True(t, firsts[i*100])
	}
	a, err := s.secret(ctx, "codes", 16)
	require.NoError(t, err)
	require.Len(t, a, 16)
	b, err := s.secret(ctx, "codes", 16)
	require.NoError(t, err)
	require.Equal(t, a, b)
	c, err := s.secret(ctx, "other", 16)
	require.NoError(t, err)
	require.NotEqual(t, a, c)
}
