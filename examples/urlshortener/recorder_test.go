package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
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
		body, err := json.Marshal(clickGroup{ID: strings.Repeat("x", 30), Clicks: rest[:n]})
		require.NoError(t, err)
		require.Less(t, len(body), 1<<20)
		all, rest = all+n, rest[n:]
	}
	require.Equal(t, len(clicks), all)
	require.Greater(t, groups, 2)
	require.Equal(t, maxClicks, groupLength(make([]click, 2*maxClicks)))
	require.Equal(t, 1, groupLength([]click{{Referrer: strings.Repeat("a", maxGroup)}, {}}))
}

// Two processes that have the same number by mistake have groups of their own, and so has one whose clock is set back.
func TestGroupIDs(t *testing.T) {
	s, err := openSpool(t.TempDir(), 1000)
	require.NoError(t, err)
	defer s.close()
	publish := func(context.Context, clickGroup) error { return nil }
	a, b := newRecorder(publish, s, newIDs(t)), newRecorder(publish, s, newIDs(t))
	defer a.close()
	defer b.close()
	ids, err := shard.NewIDGen(shard.IDConfig{Mark: brokenMark{}}) // gives no numbers, as if the clock was set back
	require.NoError(t, err)
	c := newRecorder(publish, s, ids)
	defer c.close()
	seen := map[string]bool{}
	for range 1000 {
		for _, r := range []*recorder{a, b, c} {
			id := r.id()
			require.False(t, seen[id])
			seen[id] = true
		}
	}
}

type brokenMark struct{}

func (brokenMark) LoadMark(context.Context) (int64, error) { return 0, errors.New("no") }
func (brokenMark) SaveMark(context.Context, int64) error   { return errors.New("no") }

// TestReplayUnderLoad has a broker that comes back while clicks go on to come: they do not go through the spool for ever.
func TestReplayUnderLoad(t *testing.T) {
	s, err := openSpool(t.TempDir(), 1<<24)
	require.NoError(t, err)
	defer s.close()
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
		delivered[g.ID] = len(g.Clicks)
		return nil
	}, s, newIDs(t))
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
