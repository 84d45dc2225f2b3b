//go:build unix

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// limitFiles makes the disk as good as full: no file gets longer than fileLimit, until the function that is returned is
// called, or the test ends. It is that of the whole process: what go test itself writes must be shorter.
func limitFiles(t *testing.T) (lift func()) {
	t.Helper()
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	limited := old
	limited.Cur = fileLimit
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limited))
	lift = sync.OnceFunc(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old)) })
	t.Cleanup(lift)
	return lift
}

const fileLimit = 1 << 20

// TestSpoolDiskFull has writes that are cut short in the middle of a record.
func TestSpoolDiskFull(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<30)
	group := func(n, length int) clickGroup {
		return clickGroup{"run", uint64(n), []click{{Referrer: strings.Repeat("x", length)}}}
	}
	lift := limitFiles(t)
	var want []uint64
	for n := range 50 {
		if err := s.add(group(n, 100_000)); err == nil {
			want = append(want, uint64(n))
		} else { // there is room elsewhere: in another file
			require.ErrorContains(t, err, "file too large")
		}
		require.ErrorContains(t, s.add(group(1000, 2*fileLimit)), "file too large")
	}
	require.Len(t, want, 50)
	lift()
	require.NoError(t, s.add(group(50, 2*fileLimit)))
	want = append(want, 50)
	var got []uint64
	require.NoError(t, s.replay(func(g clickGroup) error { got = append(got, g.Number); return nil }))
	require.Equal(t, want, got)
	require.Empty(t, files(t, dir, "*"))
}

// TestDiskFull has a broker in this process, and a spool, on a disk that is full for a while: clicks are dropped, and
// counted as that, and when there is room again, all that were recorded are counted.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir, sync: true})
	require.NoError(t, err)
	defer q.close()
	s := newSpool(t, dir, 4*fileLimit)
	r := newRecorder(q.publish, s)
	defer r.close()
	var mu sync.Mutex
	counted := map[string]int{}
	counts := func() (n int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, clicks := range counted {
			n += int64(clicks)
		}
		return n
	}
	c := newCounter(q, func(_ context.Context, groups []clickGroup) ([]refusal, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, g := range groups {
			counted[g.id()] = len(g.Clicks)
		}
		return nil, nil
	}, dir, log)
	defer c.close()
	click := func() {
		require.NoError(t, r.record(t.Context(), click{Code: "abc", Referrer: strings.Repeat("x", fileLimit/3)}))
	}
	click()
	lift := limitFiles(t)
	for end := time.Now().Add(30 * time.Second); r.dropped.Load() == 0; click() {
		require.True(t, time.Now().Before(end), "the disk is not full")
	}
	lift()
	before := r.published.Load()
	within(t, 30*time.Second, func() bool { click(); return r.published.Load() > before+10 }, "the broker does not come back")
	within(t, 30*time.Second, func() bool {
		return s.bytes() == 0 && counts() == r.published.Load()+r.spooled.Load()
	}, "clicks that were recorded are not counted")
	require.Equal(t, r.clicked.Load(), r.published.Load()+r.spooled.Load()+r.dropped.Load())
}

// TestSpoolTooManyFiles has a process that can open no more files when the broker is back: the spool is read later, and
// not kept aside as if it were damaged.
func TestSpoolTooManyFiles(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<20)
	require.NoError(t, s.add(numbered(0)))
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	limited := old
	limited.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limited))
	err := s.replay(func(clickGroup) error { t.Error("delivered"); return nil })
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
	require.ErrorIs(t, err, syscall.EMFILE)
	require.Equal(t, to(1), numbers(t, s))
	require.Empty(t, files(t, dir, "*"))
}

// TestCountDiskFull has databases on a disk that is full for a while. What a little one of them could still take does not
// say that it is the groups: none is refused, and all are counted when there is room.
func TestCountDiskFull(t *testing.T) {
	s := newStore(t)
	var groups []clickGroup
	for n := range 2 {
		g := clickGroup{Run: "run", Number: uint64(n + 1)}
		for i := range 4000 {
			g.Clicks = append(g.Clicks, click{Code: "abc", Day: int64(i), Referrer: fmt.Sprint(strings.Repeat("x", 240), n)})
		}
		groups = append(groups, g)
	}
	lift := limitFiles(t)
	for range 2 {
		refused, err := s.count(t.Context(), groups, noon)
		require.Error(t, err)
		require.Empty(t, refused)
	}
	lift()
	mustCount(t, s, noon, groups...)
	require.EqualValues(t, 8000, total(t, s, "abc"))
}
