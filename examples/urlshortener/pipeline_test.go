package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// TestRecorder has a broker that goes away and comes back, and loses answers: every click that was recorded is
// delivered, in groups with an ID of their own.
func TestRecorder(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<20)
	var state atomic.Int64 // 0: there; 1: away; 2: takes, and does not answer
	var mu sync.Mutex
	delivered := map[string]int{} // by group
	groups := 0
	r := newRecorder(func(ctx context.Context, g clickGroup) error {
		if state.Load() == 1 {
			return errors.New("away")
		}
		mu.Lock()
		delivered[g.id()] = len(g.Clicks)
		groups++
		mu.Unlock()
		if state.Load() == 2 {
			return errors.New("no answer")
		}
		return nil
	}, s)
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
	s := newSpool(t, t.TempDir(), 10)
	r := newRecorder(func(context.Context, clickGroup) error { return errors.New("away") }, s)
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
	t.Parallel()
	s := newStore(t)
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	total := 0
	for round := range 2 {
		q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir, sync: round == 0})
		require.NoError(t, err)
		sp := newSpool(t, dir, 1<<20)
		r := newRecorder(q.publish, sp)
		var fails atomic.Int64
		fails.Store(2)
		c := newCounter(q, func(ctx context.Context, groups []clickGroup) ([]refusal, error) {
			if refused, err := s.count(ctx, groups, noon); err != nil || len(refused) > 0 {
				return refused, err
			}
			if fails.Add(-1) >= 0 { // counted, and the answer is lost
				return nil, errors.New("lost")
			}
			return nil, nil
		}, dir, log)
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

// TestRefused has a group that the database refuses among others: those are counted, and it is kept aside, as is one that
// comes later. What is no group at all is thrown away.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, db := range s.opened {
		_, err := db.Exec(`CREATE TRIGGER poison BEFORE INSERT ON clicks WHEN NEW.code = 'poison' BEGIN SELECT RAISE(ABORT, 'it is poison'); END`)
		require.NoError(t, err)
	}
	dir := t.TempDir()
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	var log clitest.Output
	c := newCounter(q, func(ctx context.Context, groups []clickGroup) ([]refusal, error) {
		return s.count(ctx, groups, noon)
	}, dir, slog.New(slog.NewTextHandler(&log, nil)))
	defer c.close()
	counted := func(n int64) func() bool { return func() bool { return total(t, s, "good") == n } }
	n := uint64(0)
	publish := func(clicks ...click) {
		t.Helper()
		n++
		require.NoError(t, q.publish(t.Context(), clickGroup{"run", n, clicks}))
	}
	for i := range 100 {
		if i == 50 {
			publish(click{Code: "poison"}, click{Code: "another"})
			_, err := q.stream.Publish(t.Context(), q.config.clickSubject(), []byte("no group"))
			require.NoError(t, err)
		}
		publish(click{Code: "good"})
	}
	within(t, 30*time.Second, counted(100))
	publish(click{Code: "poison"})
	publish(click{Code: "good"})
	within(t, 30*time.Second, counted(101))
	within(t, 60*time.Second, func() bool {
		n, err := q.depth(t.Context())
		return err == nil && n == 0 && c.refused.Load() == 3
	}, "what is refused comes again for ever")
	body, err := os.ReadFile(c.file())
	require.NoError(t, err)
	var lines []uint64
	for line := range bytes.Lines(body) {
		var kept struct {
			Error string
			Group clickGroup
		}
		require.NoError(t, json.Unmarshal(line, &kept))
		require.Contains(t, kept.Error, "it is poison")
		require.Equal(t, "run", kept.Group.Run)
		lines = append(lines, kept.Group.Number)
	}
	require.ElementsMatch(t, []uint64{51, 102}, lines)
	require.EqualValues(t, 1, total(t, s, "another"), "what another shard takes of it is counted") // they are in two shards
	require.NotEqual(t, s.router.Locate("poison").Shard, s.router.Locate("another").Shard)

	// The file cannot be written: it stays in the queue.
	require.NoError(t, os.Remove(c.file()))
	require.NoError(t, os.Mkdir(c.file(), 0o700))
	publish(click{Code: "poison"})
	publish(click{Code: "good"})
	within(t, 30*time.Second, func() bool { return strings.Contains(log.String(), "stay in the queue") })
	publish(click{Code: "good"})
	within(t, 30*time.Second, counted(103))
	within(t, 30*time.Second, func() bool { n, err := q.depth(t.Context()); return err == nil && n <= 1 })
	left, err := q.depth(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, left)
}

// TestCounterClosed closes a counter while it counts. The next one, as in a process that is started again, counts what
// it had begun with, though the first had counted some of it.
func TestCounterClosed(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	const all = 500
	for i := range uint64(all) {
		require.NoError(t, q.publish(t.Context(), clickGroup{"run", i + 1, []click{{Code: "abc"}}}))
	}
	counting := make(chan struct{})
	c := newCounter(q, func(ctx context.Context, groups []clickGroup) ([]refusal, error) {
		mustCount(t, s, noon, groups[:len(groups)/2]...)
		close(counting)
		<-ctx.Done()
		return nil, ctx.Err()
	}, dir, log)
	<-counting
	c.close()
	require.Positive(t, total(t, s, "abc"))
	require.Less(t, total(t, s, "abc"), int64(all))
	q.close()
	q, err = openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	c = newCounter(q, func(ctx context.Context, groups []clickGroup) ([]refusal, error) {
		return s.count(ctx, groups, noon)
	}, dir, log)
	defer c.close()
	within(t, 30*time.Second, func() bool { n, err := q.depth(t.Context()); return err == nil && n == 0 })
	require.EqualValues(t, all, total(t, s, "abc"))

	// What is counted takes no room any more.
	within(t, 10*time.Second, func() bool {
		info, err := (*q.groups.Load()).Info(t.Context())
		return err == nil && info.State.Msgs == 0 && info.State.LastSeq == all
	})
}

// TestSync sees that the flag reaches the broker in this process: what it takes is on the disk, unless that is not wanted.
func TestSync(t *testing.T) {
	for _, x := range []struct {
		args   []string
		always bool
	}{{nil, true}, {[]string{"-sync"}, true}, {[]string{"-sync=false"}, false}} {
		s, err := parse(append(x.args, "-dir="+t.TempDir()), func(string) string { return "" })
		require.NoError(t, err)
		a, err := newApp(t.Context(), s, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		config := a.queue.embedded.Load().JetStreamConfig()
		require.Equal(t, x.always, config.SyncAlways)
		require.Equal(t, time.Second, config.SyncInterval)
		a.close(t.Context())
	}
}

// TestStreamLimits sees that nothing is thrown away that is not counted: not when it is old, and not when there is no
// room for more.
func TestStreamLimits(t *testing.T) {
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: t.TempDir()})
	require.NoError(t, err)
	defer q.close()
	config := (*q.groups.Load()).CachedInfo().Config
	require.Zero(t, config.MaxAge)
	require.Equal(t, jetstream.DiscardNew, config.Discard)
	require.EqualValues(t, -1, config.MaxBytes)
	require.EqualValues(t, -1, config.MaxMsgs)
	// An administrator who sets a limit has groups refused then.
	config.MaxMsgs = 10
	_, err = q.stream.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	for i := range uint64(10) {
		require.NoError(t, q.publish(t.Context(), clickGroup{"run", i + 1, nil}))
	}
	require.Error(t, q.publish(t.Context(), clickGroup{"run", 11, nil}))
}

// TestStreamBegunAnew has a broker in this process whose stream is made anew, with numbers that were there before, while
// groups are counted: those that come are counted, and not taken away as if they were the ones before.
func TestStreamBegunAnew(t *testing.T) {
	dir := t.TempDir()
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	var mu sync.Mutex
	counted := map[string]bool{}
	counting, goOn := make(chan struct{}), make(chan struct{})
	c := newCounter(q, func(_ context.Context, groups []clickGroup) ([]refusal, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, g := range groups {
			if counted[g.id()] = true; g.Number == 11 {
				close(counting)
				<-goOn
			}
		}
		return nil, nil
	}, dir, slog.New(slog.DiscardHandler))
	defer c.close()
	publish := func(from, to uint64) {
		t.Helper()
		for n := from; n <= to; n++ {
			require.NoError(t, q.publish(t.Context(), clickGroup{"run", n, []click{{Code: "abc"}}}))
		}
	}
	state := func() jetstream.StreamState {
		info, err := (*q.groups.Load()).Info(t.Context())
		require.NoError(t, err)
		return info.State
	}
	publish(1, 10)
	within(t, 30*time.Second, func() bool { return state().FirstSeq == 11 })
	publish(11, 11)
	<-counting
	require.NoError(t, q.stream.DeleteStream(t.Context(), q.config.clickStream()))
	require.NoError(t, q.prepare(t.Context()))
	publish(12, 40)
	close(goOn)
	within(t, 30*time.Second, func() bool { s := state(); return s.Msgs == 0 && s.LastSeq == 29 })
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, counted, 40)
}

// TestLongGroups has more in the queue than is to be in the memory at once.
func TestLongGroups(t *testing.T) {
	dir := t.TempDir()
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	const all = 12
	for n := range uint64(all) {
		require.NoError(t, q.publish(t.Context(), clickGroup{"run", n + 1, []click{{Referrer: strings.Repeat("x", maxGroup)}}}))
	}
	var most, counted atomic.Int64
	c := newCounter(q, func(_ context.Context, groups []clickGroup) ([]refusal, error) {
		most.Store(max(most.Load(), int64(len(groups))))
		counted.Add(int64(len(groups)))
		return nil, nil
	}, dir, slog.New(slog.DiscardHandler))
	defer c.close()
	within(t, 30*time.Second, func() bool { return counted.Load() == all })
	require.LessOrEqual(t, most.Load()*maxGroup, int64(fetchBytes))
}

// TestNetworkTakesNothing has a network to the broker that takes nothing any more: who publishes is told so in time,
// though what he sends does not fit into what the system keeps of it.
func TestNetworkTakesNothing(t *testing.T) {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	g := newGate(t, s.Addr().String())
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: t.TempDir(), url: "nats://" + g.addr})
	require.NoError(t, err)
	defer q.close()
	publish := func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), publishTimeout/10)
		defer cancel()
		return q.publish(ctx, clickGroup{"run", uint64(n), []click{{Referrer: strings.Repeat("x", maxGroup)}}})
	}
	within(t, 30*time.Second, func() bool { return publish(1) == nil })
	g.set(true, false, false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 30 {
			if publish(n+2) == nil {
				t.Error("it was taken")
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second): // 30 times a twentieth of a second is more than enough
		t.Error("it is waited for the network")
	}
	g.heal()
	within(t, 30*time.Second, func() bool { return publish(100) == nil })
	<-done
}

// TestRefusedForAWhile has a group that is refused now and then: it is counted, and not put aside.
func TestRefusedForAWhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	var tries atomic.Int64
	c := newCounter(q, func(_ context.Context, groups []clickGroup) ([]refusal, error) {
		if tries.Add(1) < maxRefusals {
			return []refusal{{groups[0], errDown}}, nil
		}
		return nil, nil
	}, dir, slog.New(slog.DiscardHandler))
	defer c.close()
	require.NoError(t, q.publish(t.Context(), clickGroup{"run", 1, []click{{Code: "abc"}}}))
	within(t, 30*time.Second, func() bool { n, err := q.depth(t.Context()); return err == nil && n == 0 && tries.Load() > 0 })
	require.EqualValues(t, maxRefusals, tries.Load())
	require.NoFileExists(t, c.file())
	require.Zero(t, c.refused.Load())
}

// TestCountFails has databases that take nothing for a while: groups stay until they do.
func TestCountFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q, err := openQueue(t.Context(), queueConfig{name: "test", dir: dir})
	require.NoError(t, err)
	defer q.close()
	var mu sync.Mutex
	counted := map[string]bool{}
	fails := 3
	c := newCounter(q, func(_ context.Context, groups []clickGroup) ([]refusal, error) {
		mu.Lock()
		defer mu.Unlock()
		if fails--; fails >= 0 {
			return nil, errDown
		}
		for _, g := range groups {
			counted[g.id()] = true
		}
		return nil, nil
	}, dir, slog.New(slog.DiscardHandler))
	defer c.close()
	for n := range uint64(20) {
		require.NoError(t, q.publish(t.Context(), clickGroup{"run", n + 1, []click{{Code: "abc"}}}))
	}
	within(t, 30*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return len(counted) == 20 })
	within(t, 30*time.Second, func() bool { n, err := q.depth(t.Context()); return err == nil && n == 0 })
}
