package redislimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit/dist"
)

// A wire is a hook that takes the place of the server: do gets each batch, and how each command ends.
type wire struct {
	do func(ctx context.Context, cmds []redis.Cmder) error
}

func (w *wire) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("there is no server") }
}

func (w *wire) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return w.do(ctx, []redis.Cmder{cmd}) }
}

func (w *wire) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return w.do(ctx, cmds) }
}

func newWire(t *testing.T, do func(ctx context.Context, cmds []redis.Cmder) error) *Backend {
	client := redis.NewClient(&redis.Options{Addr: "192.0.2.1:1"})
	t.Cleanup(func() { client.Close() })
	client.AddHook(&wire{do})
	b, err := New(Config{Client: client})
	require.NoError(t, err)
	return b
}

func allow(cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		cmd.(*redis.Cmd).SetVal([]any{int64(1), int64(5)})
	}
	return nil
}

var request = dist.Request{Name: "n", Key: "k", N: 1, Rates: []dist.Rate{{Interval: 5, Burst: 1}}}

func TestAnswers(t *testing.T) {
	answer := []any{int64(1), int64(5)}
	var err error
	b := newWire(t, func(_ context.Context, cmds []redis.Cmder) error {
		cmds[0].(*redis.Cmd).SetVal(answer)
		cmds[0].SetErr(err)
		return err
	})
	reply, got := b.Take(t.Context(), &request)
	require.NoError(t, got)
	require.Equal(t, dist.Reply{Allowed: true, Ahead: []int64{5}}, reply)
	answer = []any{int64(0)}
	_, got = b.Take(t.Context(), &request)
	require.EqualError(t, got, "redislimit: the server's answer has 1 parts, want 2")
	err = errors.New("down")
	_, got = b.Take(t.Context(), &request)
	require.EqualError(t, got, "redislimit: down")
	require.ErrorIs(t, got, err)
}

func TestArguments(t *testing.T) {
	b := newWire(t, nil)
	r := dist.Request{ID: [16]byte{7, 15: 9}, Name: "n", Key: "k", N: 3, Rates: []dist.Rate{{Interval: 5, Burst: 10}, {Interval: 1 << 20, Burst: 1 << 30}}}
	keys, args := b.arguments(&r)
	require.Equal(t, []string{"n:{k}"}, keys)
	require.Equal(t, []any{int64(0), true, int64(15), int64(50), int64(3 << 20), int64(1 << 50)}, args)
	for window, want := range map[time.Duration]int64{1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Second: 1000, 1<<63 - 1: 365 * 24 * 3600 * 1000} {
		r.Window = window
		keys, args = b.arguments(&r)
		require.Equal(t, []string{"n:{k}", "n:{k}\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"}, keys)
		require.Equal(t, want, args[0])
	}
	r.Peek = true
	keys, args = b.arguments(&r)
	require.Len(t, keys, 1)
	require.Equal(t, false, args[1])
	require.NotEqual(t, b.key("n", ""), b.key("n", "{}"))
}

// TestBatches lets callers queue behind those who are on their way, and go together.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		b := newWire(t, func(_ context.Context, cmds []redis.Cmder) error {
			mu.Lock()
			sizes = append(sizes, len(cmds))
			mu.Unlock()
			time.Sleep(time.Second)
			return allow(cmds)
		})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range maxLeaders + 2*maxBatch + 3 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Nanosecond) // one after the other
				reply, err := b.Take(t.Context(), &request)
				if err != nil || !reply.Allowed {
					t.Error(reply, err)
				}
				require.Less(t, time.Since(start), 2100*time.Millisecond)
			})
		}
		wg.Wait()
		require.Equal(t, []int{1, 1, 1, 1, maxBatch, maxBatch, 3}, sizes)
		require.Zero(t, b.batcher.leaders)
		require.Empty(t, b.batcher.queue)
	})
}

// TestBatchLeft lets one leave who is in the batch of another, who then leaves, too, before he leads: the
// first must not lead in his place.
func TestBatchLeft(t *testing.T) {
	x := &batcher{leaders: maxLeaders}
	newEntry := func() *entry { return &entry{ctx: t.Context(), wake: make(chan struct{}, 1)} }
	e, f, g := newEntry(), newEntry(), newEntry()
	x.queue = []*entry{e, f, g}
	x.next()
	x.leave(f)
	x.leave(e)
	require.Equal(t, []*entry{g}, g.batch)
	require.Equal(t, maxLeaders, x.leaders)
	x.leave(g)
	require.Equal(t, maxLeaders-1, x.leaders)
	require.Empty(t, x.queue)
}

// TestBatchDeadlines has many with the same deadline wait for a server that hangs, again and again, and
// requires that others can go afterwards.
func TestBatchDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := true
		b := newWire(t, func(ctx context.Context, cmds []redis.Cmder) error {
			if hang {
				<-ctx.Done()
				for _, cmd := range cmds {
					cmd.SetErr(ctx.Err())
				}
				return ctx.Err()
			}
			return allow(cmds)
		})
		for range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					_, err := b.Take(ctx, &request)
					require.ErrorIs(t, err, context.DeadlineExceeded)
				})
			}
			wg.Wait()
			cancel()
		}
		synctest.Wait()
		require.Zero(t, b.batcher.leaders)
		require.Empty(t, b.batcher.queue)
		hang = false
		reply, err := b.Take(t.Context(), &request)
		require.NoError(t, err)
		require.True(t, reply.Allowed)
	})
}

// TestClusterAlone requires that one who waits for a node that hangs does not hold up others.
func TestClusterAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"192.0.2.1:1"}})
		defer client.Close()
		client.AddHook(&wire{func(ctx context.Context, cmds []redis.Cmder) error {
			if len(cmds) > 1 || strings.Contains(fmt.Sprint(cmds[0].Args()), "{hung}") {
				<-ctx.Done()
				return ctx.Err()
			}
			return allow(cmds)
		}})
		b, err := New(Config{Client: client})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				r := request
				if r.Key = fmt.Sprint(i); i%2 == 0 {
					r.Key = "hung"
				}
				_, err := b.Take(ctx, &r)
				require.Equal(t, i%2 == 0, err != nil)
			})
		}
		wg.Wait()
	})
}

// TestBatchContexts lets go those whose contexts end: a leader makes room, one who queues is not
// sent, and one who was to lead hands on.
func TestBatchContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sent, hung := 0, true
		release := make(chan struct{})
		b := newWire(t, func(ctx context.Context, cmds []redis.Cmder) error {
			mu.Lock()
			sent += len(cmds)
			hangs := hung
			mu.Unlock()
			if hangs {
				<-release // whatever ctx says
			}
			return allow(cmds)
		})
		take := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			_, err := b.Take(ctx, &request)
			return err
		}
		var leaders, others sync.WaitGroup
		for range maxLeaders {
			leaders.Go(func() { require.NoError(t, take(time.Second)) })
		}
		synctest.Wait()
		for range 5 {
			others.Go(func() { require.ErrorIs(t, take(500*time.Millisecond), context.DeadlineExceeded) })
		}
		others.Wait()
		require.Equal(t, maxLeaders, sent)
		mu.Lock()
		hung = false
		mu.Unlock()
		require.NoError(t, take(time.Hour), "the leaders have no time left")
		time.Sleep(time.Second)
		require.NoError(t, take(time.Hour))
		require.Zero(t, b.batcher.leaders)
		close(release)
		leaders.Wait()
		require.Zero(t, b.batcher.leaders)

		// One whose context ended just when it was to lead.
		x := &batcher{leaders: 1}
		one, two, three := &entry{wake: make(chan struct{}, 1)}, &entry{wake: make(chan struct{}, 1)}, &entry{wake: make(chan struct{}, 1)}
		x.queue = []*entry{one, two, three}
		x.next()
		require.Equal(t, []*entry{one, two, three}, one.batch)
		x.leave(one)
		require.Equal(t, []*entry{two, three}, two.batch)
		x.leave(three)
		require.Len(t, two.batch, 2, "it is under way")
		x.next()
		require.Zero(t, x.leaders)
	})
}

// TestBatchContext ends with the last of those who go together.
func TestBatchContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batch []*entry
		for _, d := range []time.Duration{1, 3, 2} {
			ctx, cancel := context.WithTimeout(t.Context(), d*time.Second)
			defer cancel()
			batch = append(batch, &entry{ctx: ctx})
		}
		ctx, cancel := together(batch)
		defer cancel()
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.Equal(t, 3*time.Second, time.Until(deadline))
		ctx, _ = together(batch[:1])
		require.Equal(t, batch[0].ctx, ctx)
		ctx, _ = together(append(batch, &entry{ctx: t.Context()}))
		_, ok = ctx.Deadline()
		require.False(t, ok)
	})
}

// TestBatchPanic is an error for those who went along.
func TestBatchPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newWire(t, func(_ context.Context, cmds []redis.Cmder) error {
			time.Sleep(time.Second)
			if len(cmds) > 1 {
				panic("boo")
			}
			return allow(cmds)
		})
		var wg sync.WaitGroup
		var mu sync.Mutex
		panics, failures := 0, 0
		for range maxLeaders + 3 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						mu.Lock()
						panics++
						mu.Unlock()
					}
				}()
				if _, err := b.Take(t.Context(), &request); err != nil {
					require.ErrorIs(t, err, errPanic)
					mu.Lock()
					failures++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, panics)
		require.Equal(t, 2, failures)
		require.Zero(t, b.batcher.leaders)
	})
}
