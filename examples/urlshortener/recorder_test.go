package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// However long what comes with a click is, and however it is written in JSON, a group is taken by the broker.
func TestGroupLength(t *testing.T) {
	require.Zero(t, groupLength(nil))
	var clicks []click
	for i := range 9000 {
		clicks = append(clicks, click{Code: codeOf(uint64(i)), Day: 1 << 40, Referrer: strings.Repeat([]string{"<", "\xff", "a"}[i%3], 253)})
	}
	groups, all := 0, 0
	for rest := clicks; len(rest) > 0; groups++ {
		n := groupLength(rest)
		require.Positive(t, n)
		body, err := json.Marshal(clickGroup{Run: strings.Repeat("x", 26), Number: math.MaxUint64, Clicks: rest[:n]})
		require.NoError(t, err)
		require.Less(t, len(body), 1<<20)
		all, rest = all+n, rest[n:]
	}
	require.Equal(t, len(clicks), all)
	require.Greater(t, groups, 2)
	require.Equal(t, maxClicks, groupLength(make([]click, 2*maxClicks)))
	require.Equal(t, 1, groupLength([]click{{Referrer: strings.Repeat("a", maxGroup)}, {}}))
}

// A number is given once within a run, whatever becomes of its group, and each recorder has a run of its own.
func TestGroupNumbers(t *testing.T) {
	s := newSpool(t, t.TempDir(), 200) // for the first that nobody takes
	seen := map[string]bool{}
	n := 0
	publish := func(_ context.Context, g clickGroup) error {
		require.False(t, seen[g.id()])
		seen[g.id()] = true
		if n++; n%3 != 0 {
			return errors.New("away")
		}
		return nil
	}
	a, b := newRecorder(publish, s), newRecorder(publish, s)
	a.close()
	b.close()
	require.NotEqual(t, a.run, b.run)
	for _, r := range []*recorder{a, b} {
		for range 100 {
			r.away.Store(false)
			r.keep([]click{{Code: "abc"}})
		}
		require.EqualValues(t, 100, r.groups)
	}
	require.Len(t, seen, 200)
	require.Positive(t, a.dropped.Load())
	require.Positive(t, a.spooled.Load())
	require.Positive(t, a.published.Load())
	require.NoError(t, s.replay(func(g clickGroup) error { require.True(t, seen[g.id()]); return nil }))
}

// TestBrokerSilent has a broker that takes what it is sent, and does not answer: the first click waits for it, and no
// other, until the broker has answered again.
func TestBrokerSilent(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := openSpool(dir, 1<<20, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		var silent atomic.Bool
		silent.Store(true)
		delivered := 0
		r := newRecorder(func(ctx context.Context, g clickGroup) error {
			if silent.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			delivered += len(g.Clicks)
			return nil
		}, s)
		for i := range 100 {
			began := time.Now()
			require.NoError(t, r.record(t.Context(), click{Code: "abc"}))
			want := groupWait
			if i == 0 {
				want += publishTimeout
			}
			require.LessOrEqual(t, time.Since(began), want)
			time.Sleep(100 * time.Millisecond)
		}
		require.EqualValues(t, 100, r.spooled.Load())
		silent.Store(false)
		time.Sleep(2 * (replayEvery + publishTimeout))
		require.Zero(t, s.bytes())
		require.NoError(t, r.record(t.Context(), click{Code: "abc"}))
		require.EqualValues(t, 1, r.published.Load())
		r.close()
		require.Equal(t, 101, delivered)
		require.NoError(t, s.close())
	})
}

// TestBrokerSlow has a broker that takes a group just in time, and clicks that come faster: they take no more memory
// than they may, and what there is no room for is counted as dropped.
func TestBrokerSlow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := openSpool(dir, 1<<20, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		delivered, longest := 0, 0
		r := newRecorder(func(_ context.Context, g clickGroup) error {
			time.Sleep(publishTimeout - time.Millisecond)
			delivered, longest = delivered+len(g.Clicks), max(longest, len(g.Clicks))
			return nil
		}, s)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		const all = 3 * maxPending
		for i := range all {
			_ = r.record(gone, click{Code: "abc"})
			if i%(all/3) == 0 {
				time.Sleep(time.Second)
			}
		}
		r.mu.Lock()
		require.LessOrEqual(t, len(r.pending), maxPending)
		r.mu.Unlock()
		require.Positive(t, r.dropped.Load())
		r.close()
		require.EqualValues(t, all, r.clicked.Load())
		require.EqualValues(t, all-r.dropped.Load(), delivered)
		require.EqualValues(t, delivered, r.published.Load())
		require.Equal(t, maxClicks, longest)
		require.NoError(t, s.close())
	})
}

// TestReplayUnderLoad has a broker that comes back while clicks go on to come: they do not go through the spool for ever.
func TestReplayUnderLoad(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<24)
	var away atomic.Bool
	away.Store(true)
	var mu sync.Mutex
	delivered := map[string]int{}
	r := newRecorder(func(_ context.Context, g clickGroup) error {
		if away.Load() {
			return errors.New("away")
		}
		mu.Lock()
		defer mu.Unlock()
		delivered[g.id()] = len(g.Clicks)
		return nil
	}, s)
	ctx, stop := context.WithCancel(t.Context())
	var clickers sync.WaitGroup
	var recorded atomic.Int64
	for range 8 {
		clickers.Go(func() {
			for ctx.Err() == nil {
				if r.record(context.Background(), click{Code: "abc"}) == nil {
					recorded.Add(1)
				}
			}
		})
	}
	within(t, 10*time.Second, func() bool { return r.spooled.Load() > 100 })
	away.Store(false)
	within(t, 10*time.Second, func() bool { return !r.away.Load() && s.bytes() == 0 && r.published.Load() > 100 }, "it does not end")
	stop()
	clickers.Wait()
	within(t, 10*time.Second, func() bool { return s.bytes() == 0 })
	r.close()
	all := 0
	for _, n := range delivered {
		all += n
	}
	require.EqualValues(t, recorded.Load(), all)
	require.Zero(t, r.dropped.Load())
}

// TestDiskHangs has no broker, and a disk on which nothing is ever written: who comes later waits for neither, nor who
// asks how much there is. When the disk goes on, all is recorded.
func TestDiskHangs(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<20)
	hang := make(chan struct{})
	create := s.create
	s.create = func(name string) (spoolFile, error) {
		f, err := create(name)
		return hookedFile{f, func() error { <-hang; return nil }}, err
	}
	r := newRecorder(func(context.Context, clickGroup) error { return errors.New("away") }, s)
	defer r.close()
	goOn := sync.OnceFunc(func() { close(hang) })
	defer goOn()
	within(t, 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience/10)
		defer cancel()
		return r.record(ctx, click{Code: "abc"}) == nil
	}, "everybody waits for the disk")
	require.Zero(t, s.bytes())
	for range 1000 {
		require.NoError(t, r.record(t.Context(), click{Code: "abc"}))
	}
	require.Zero(t, r.spooled.Load()+r.dropped.Load())
	goOn()
	within(t, 30*time.Second, func() bool { return r.spooled.Load() == r.clicked.Load() })
}

// TestSpoolUnreadableOnReturn has a spool that cannot be read when the broker is back: that keeps no click from it.
func TestSpoolUnreadableOnReturn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "here")
	require.NoError(t, os.Mkdir(dir, 0o700))
	s := newSpool(t, dir, 1<<20)
	var away atomic.Bool
	away.Store(true)
	r := newRecorder(func(context.Context, clickGroup) error {
		if away.Load() {
			return errors.New("away")
		}
		return nil
	}, s)
	defer r.close()
	require.NoError(t, r.record(t.Context(), click{Code: "abc"}))
	require.EqualValues(t, 1, r.spooled.Load())
	require.NoError(t, os.Rename(dir, dir+"-not"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory, so that nothing in it can be opened
	away.Store(false)
	within(t, 30*time.Second, func() bool {
		require.NoError(t, r.record(t.Context(), click{Code: "abc"}))
		return r.published.Load() > 0
	}, "the broker is never asked again")
	require.Positive(t, s.bytes())
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Rename(dir+"-not", dir))
	within(t, 30*time.Second, func() bool { return s.bytes() == 0 })
}

// TestCloseWhileReplaying closes a recorder with more in its spool than is to be waited for: the rest stays there.
func TestCloseWhileReplaying(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<20)
	for n := range 10 {
		require.NoError(t, s.add(numbered(n)))
	}
	delivered := 0
	created := make(chan *recorder, 1)
	closed := make(chan struct{})
	r := newRecorder(func(context.Context, clickGroup) error {
		if delivered++; delivered == 1 {
			r := <-created
			go func() { defer close(closed); r.close() }()
			<-r.stop
		}
		return nil
	}, s)
	created <- r
	<-closed
	require.Equal(t, 1, delivered)
	require.Positive(t, s.bytes())
}

// TestCloseWhileRecording closes recorders to which clicks come: each is recorded, or told that it is not.
func TestCloseWhileRecording(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<20)
	for range 300 {
		var published, recorded atomic.Int64
		r := newRecorder(func(_ context.Context, g clickGroup) error { published.Add(int64(len(g.Clicks))); return nil }, s)
		var clickers sync.WaitGroup
		for range 8 {
			clickers.Go(func() {
				for r.record(context.Background(), click{Code: "abc"}) == nil {
					recorded.Add(1)
				}
			})
		}
		for published.Load() == 0 {
			runtime.Gosched()
		}
		r.close()
		clickers.Wait()
		require.Equal(t, recorded.Load(), published.Load())
		require.Equal(t, recorded.Load(), r.clicked.Load())
	}
}
