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

// command runs writebehind, which must not print both a report and an error.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	require.True(t, out.Len() == 0 || errs.Len() == 0, "stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
	return code, out.String(), errs.String()
}

func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "views.db")
	for _, args := range [][]string{{"-views=2000", "-pages=500", "-file=" + file}, {"-views=200", "-pages=1"}} {
		code, out, errs := command(t, args...)
		require.Zero(t, code, errs)
		require.Contains(t, out, "each is in the file, or is one of the 0 that Close gave back")
	}
	require.FileExists(t, file)
	for args, want := range map[string]string{
		"-views=0": "-views must be at least 1, got 0",
		"-fail=1":  "-fail must be at least 0 and less than 1, got 1",
		"-pages=x": `invalid value "x" for flag -pages: parse error`,
		"more":     `unexpected argument "more"`,
	} {
		code, _, errs := command(t, args)
		require.Equal(t, 2, code)
		require.Equal(t, "writebehind: "+want+" (see -help)\n", errs)
	}
	code, _, errs := command(t, "-file="+filepath.Join(t.TempDir(), "absent", "x"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "unable to open database file")
	code, out, _ := command(t, "-help")
	require.Zero(t, code)
	require.Contains(t, out, "-file FILE")
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
