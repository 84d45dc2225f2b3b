package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/shard"
)

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir, 1000)
	require.NoError(t, err)
	group := func(i int) clickGroup { return clickGroup{fmt.Sprint("g", i), []click{{Code: "abc", Day: int64(i)}}} }
	kept := 0
	for ; ; kept++ {
		if err := s.add(group(kept)); err != nil {
			require.ErrorIs(t, err, errSpoolFull)
			break
		}
	}
	require.Greater(t, kept, 10)
	require.LessOrEqual(t, s.bytes(), int64(1000))

	// Delivered in order; what fails stays whole, and comes again.
	var got []clickGroup
	down := errors.New("down")
	require.ErrorIs(t, s.replay(func(g clickGroup) error {
		if len(got) == 3 {
			return down
		}
		got = append(got, g)
		return nil
	}), down)
	require.Positive(t, s.bytes())
	require.ErrorIs(t, s.add(group(99)), errSpoolFull) // both files count

	// The process is killed while it writes: what is cut off was not kept.
	require.NoError(t, s.close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "clicks.spool"), []byte("\x20\x00\x00\x00half"), 0o600))
	s, err = openSpool(dir, 2000)
	require.NoError(t, err)
	require.NoError(t, s.add(group(100)))
	got = nil
	require.NoError(t, s.replay(func(g clickGroup) error { got = append(got, g); return nil }))
	require.Len(t, got, kept+1)
	for i := range kept {
		require.Equal(t, group(i), got[i])
	}
	require.Equal(t, group(100), got[kept])
	require.Zero(t, s.bytes())
	require.NoError(t, s.replay(func(clickGroup) error { return down })) // there is nothing

	// A record whose bytes have changed ends the file.
	require.NoError(t, s.add(group(1)))
	require.NoError(t, s.add(group(2)))
	file := filepath.Join(dir, "clicks.spool")
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	body[len(body)-3] ^= 1
	require.NoError(t, os.WriteFile(file, body, 0o600))
	require.NoError(t, s.close())
	s, err = openSpool(dir, 2000)
	require.NoError(t, err)
	got = nil
	require.NoError(t, s.replay(func(g clickGroup) error { got = append(got, g); return nil }))
	require.Equal(t, []clickGroup{group(1)}, got)
	require.NoError(t, s.close())
}

func newIDs(t *testing.T) *shard.IDGen {
	t.Helper()
	ids, err := shard.NewIDGen(shard.IDConfig{})
	require.NoError(t, err)
	return ids
}

// TestRecorder has a broker that goes away and comes back, and loses answers: every click that was recorded is
// delivered, in groups with an ID of their own.
func TestRecorder(t *testing.T) {
	s, err := openSpool(t.TempDir(), 1<<20)
	require.NoError(t, err)
	defer s.close()
	var state atomic.Int64 // 0: there; 1: away; 2: takes, and does not answer
	var mu sync.Mutex
	delivered := map[string]int{} // by group
	groups := 0
	r := newRecorder(func(ctx context.Context, g clickGroup) error {
		if state.Load() == 1 {
			return errors.New("away")
		}
		mu.Lock()
		delivered[g.ID] = len(g.Clicks)
		groups++
		mu.Unlock()
		if state.Load() == 2 {
			return errors.New("no answer")
		}
		return nil
	}, s, newIDs(t))
	var recorded atomic.Int64
	for i := range 4 {
		state.Store([]int64{0, 1, 2, 0}[i])
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if r.record(context.Background(), click{Code: "abc"}) == nil {
					recorded.Add(1)
				}
			})
		}
		wg.Wait()
	}
	require.Eventually(t, func() bool { return s.bytes() == 0 && !r.away.Load() }, 10*time.Second, 10*time.Millisecond)
	r.close()
	r.close()
	require.Error(t, r.record(context.Background(), click{}))
	sum := 0
	for _, n := range delivered {
		sum += n
	}
	require.EqualValues(t, 800, recorded.Load())
	require.Equal(t, 800, sum)
	require.Less(t, groups, 800)
	require.Zero(t, r.dropped.Load())
	require.EqualValues(t, 800, r.published.Load()+r.spooled.Load())
}

// TestRecorderDrops has neither a broker nor room: nobody waits for that.
func TestRecorderDrops(t *testing.T) {
	s, err := openSpool(t.TempDir(), 10)
	require.NoError(t, err)
	defer s.close()
	r := newRecorder(func(context.Context, clickGroup) error { return errors.New("away") }, s, newIDs(t))
	defer r.close()
	for range 5 {
		require.NoError(t, r.record(context.Background(), click{Code: "abc"}))
	}
	require.EqualValues(t, 5, r.dropped.Load())
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.record(ended, click{Code: "abc"}) // may be either; it must return
}

// TestQueue sends clicks through the embedded broker into the database, with a counter that fails at first, and a
// process that begins again: each is counted once.
func TestQueue(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	ids := newIDs(t)
	log := slog.New(slog.DiscardHandler)
	total := 0
	for round := range 2 {
		q, err := openQueue(t.Context(), dir, "")
		require.NoError(t, err)
		sp, err := openSpool(dir, 1<<20)
		require.NoError(t, err)
		r := newRecorder(q.publish, sp, ids)
		var fails atomic.Int64
		fails.Store(2)
		c := newCounter(q, func(ctx context.Context, groups []clickGroup) error {
			if err := s.count(ctx, groups, noon); err != nil {
				return err
			}
			if fails.Add(-1) >= 0 { // counted, and the answer is lost
				return errors.New("lost")
			}
			return nil
		}, log)
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				if err := r.record(context.Background(), click{Code: fmt.Sprint("code", i%3), Day: dayOf(noon)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		total += 300
		if round == 0 { // the process ends with what it has recorded, counted or not
			c.close()
		} else {
			require.Eventually(t, func() bool { n, err := q.depth(t.Context()); return err == nil && n == 0 }, 20*time.Second, 20*time.Millisecond)
			c.close()
		}
		r.close()
		require.NoError(t, sp.close())
		q.close()
	}
	sum := int64(0)
	for i := range 3 {
		n, err := s.clicks(t.Context(), fmt.Sprint("code", i))
		require.NoError(t, err)
		sum += n.Total
	}
	require.EqualValues(t, total, sum)
}
