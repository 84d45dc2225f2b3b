package main

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ttlcache"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "views.db")
	require.NoError(t, run([]string{"-views=2000", "-pages=500", "-file=" + file}, &out))
	require.Contains(t, out.String(), "each is in the file, or is one of the 0 that Close gave back")
	require.FileExists(t, file)
	require.NoError(t, run([]string{"-views=200", "-pages=1"}, &out))
	for args, want := range map[string]string{
		"-views=0": "-views must be at least 1, got 0",
		"-fail=1":  "-fail must be at least 0 and less than 1, got 1",
		"-file=" + filepath.Join(t.TempDir(), "absent", "x"): "unable to open database file",
	} {
		require.ErrorContains(t, run([]string{args}, &out), want)
	}
	require.NoError(t, run([]string{"-help"}, &out))
}

// 100,000 writes over a database that fails at random, so often that some writes are given up.
func TestNothingIsLost(t *testing.T) {
	for name, test := range map[string]struct {
		views   int
		fail    float64
		retries int
		hurry   bool
	}{
		"some retries":    {30_000, 0.3, 3, false},
		"hardly any":      {5_000, 0.7, 1, false},
		"close in a rush": {5_000, 0.3, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings{views: test.views, pages: test.views / 5, writers: 8, fail: test.fail}
			if testing.Short() {
				s.views, s.pages = 5000, 2000
			}
			db, err := openDatabase(filepath.Join(t.TempDir(), "views.db"))
			require.NoError(t, err)
			defer db.Close()
			cache, err := newCounter(db, s.fail, ttlcache.BatchConfig{Size: 200, Delay: time.Millisecond, Workers: 2, Retries: test.retries, Backoff: time.Microsecond, MaxBackoff: time.Microsecond, Queue: 2000})
			require.NoError(t, err)
			acked, err := count(t.Context(), cache, s)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.hurry {
				cancel()
			}
			lost := closeCounter(ctx, cache)
			if test.hurry {
				require.NotEmpty(t, lost)
			}
			problems, err := compare(t.Context(), db, acked, lost)
			require.NoError(t, err)
			require.Empty(t, problems)
			require.Positive(t, db.failures.Load())
			t.Logf("%d rows written in %d transactions, %d failures, %d given back", cache.Stats().Written, db.commits.Load(), db.failures.Load(), len(lost))
		})
	}
}
