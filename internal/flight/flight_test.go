package flight

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A loader is a group with a lock, as its owners have it.
type loader struct {
	mu    sync.Mutex
	group Group[string, int]
	kept  map[string]int
	load  func(context.Context, string) (int, error)
}

func newLoader(load func(context.Context, string) (int, error)) *loader {
	return &loader{kept: map[string]int{}, load: load}
}

// get loads k, or waits for the load that is under way.
func (l *loader) get(ctx context.Context, k string, timeout time.Duration) (int, error) {
	return l.begin(ctx, k, timeout).Wait(ctx)
}

func (l *loader) begin(ctx context.Context, k string, timeout time.Duration) *Call[string, int] {
	l.mu.Lock()
	call := l.group.Join(k)
	if call != nil {
		l.mu.Unlock()
		return call
	}
	run := NewRun(ctx, timeout, false)
	call = l.group.Start(k, run, true)
	l.mu.Unlock()
	var v int
	run.Go(func(ctx context.Context) (err error) {
		v, err = l.load(ctx, k)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.group.Valid(call) && err == nil {
			l.kept[k] = v
		}
		l.group.End(call)
		return err
	}, func(err error) {
		l.mu.Lock()
		l.group.End(call)
		l.mu.Unlock()
		call.Finish(v, err)
	})
	return call
}

func (l *loader) underWay(k string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.group.UnderWay(k)
}

func TestOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		l := newLoader(func(context.Context, string) (int, error) {
			time.Sleep(time.Second)
			return int(loads.Add(1)), nil
		})
		for round := 1; round < 3; round++ {
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					v, err := l.get(t.Context(), "a", 0)
					if v != round || err != nil {
						t.Errorf("got %d, %v", v, err)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, round, loads.Load())
			require.Empty(t, l.group.calls)
		}
	})
}

func TestContexts(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan error, 1)
		l := newLoader(func(ctx context.Context, k string) (int, error) {
			require.Equal(t, "first", ctx.Value(key{}))
			_, deadline := ctx.Deadline()
			require.False(t, deadline, "the first caller's deadline is his own")
			select {
			case <-ctx.Done():
				ends <- ctx.Err()
				return 0, ctx.Err()
			case <-time.After(10 * time.Second):
				return 1, nil
			}
		})
		first, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "first"), time.Second)
		defer cancel()
		errs := make(chan error, 3)
		go func() { _, err := l.get(first, "a", 0); errs <- err }()
		synctest.Wait()
		second, cancel2 := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel2()
		go func() { _, err := l.get(second, "a", 0); errs <- err }()
		synctest.Wait()
		require.ErrorIs(t, <-errs, context.DeadlineExceeded)
		require.Equal(t, time.Second, since())
		require.Empty(t, ends, "the second waits still")
		require.True(t, l.underWay("a"))
		require.ErrorIs(t, <-errs, context.DeadlineExceeded)
		require.False(t, l.underWay("a"))
		synctest.Wait()
		require.ErrorIs(t, <-ends, context.Canceled, "nobody waits any more")
		require.Empty(t, l.group.calls)
	})
}

// since returns the time since the bubble's clock began.
func since() time.Duration { return time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) }

// Who comes after the last one has gone does not get the error of the load that was cancelled.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		release := make(chan bool)
		l := newLoader(func(ctx context.Context, k string) (int, error) {
			if loads.Add(1) == 1 {
				<-release // it does not look at its context
				return 1, nil
			}
			return 2, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		call := l.begin(ctx, "a", 0)
		synctest.Wait()
		cancel()
		_, err := call.Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		v, err := l.get(t.Context(), "a", 0)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		close(release)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 2}, l.kept, "the first was overtaken")
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		l := newLoader(func(ctx context.Context, k string) (int, error) {
			<-release // it does not look at its context
			return 1, nil
		})
		_, err := l.get(t.Context(), "a", time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "the load takes longer than 1s: context deadline exceeded")
		require.Equal(t, time.Second, since())
		require.False(t, l.underWay("a"))
		close(release)
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		run := NewRun(t.Context(), 0, true)
		var g Group[string, int]
		call := g.Start("a", run, false)
		require.True(t, g.UnderWay("a"))
		run.Go(func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}, func(err error) { call.Finish(0, err) })
		joined := g.Join("a")
		require.Same(t, call, joined)
		run.Cancel(why)
		_, err := joined.Wait(t.Context())
		require.ErrorIs(t, err, why)
		require.Nil(t, g.Join("a"))
	})
}

// A run that is wanted goes on when all callers have gone.
func TestWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := NewRun(t.Context(), 0, true)
		var g Group[string, int]
		call := g.Start("a", run, false)
		run.Go(func(ctx context.Context) error {
			time.Sleep(time.Second)
			return ctx.Err()
		}, func(err error) { call.Finish(1, err) })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := g.Join("a").Wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, g.Join("a").Await(ctx), context.Canceled)
		g.Join("a").Release()
		v, err := g.Join("a").Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.NoError(t, call.Await(t.Context()))
	})
}

func TestOvertake(t *testing.T) {
	var g Group[string, int]
	g.Overtake("a")
	run := NewRun(t.Context(), 0, false)
	a, b, c := g.Start("a", run, true), g.Start("b", run, true), g.Start("c", run, true)
	require.Equal(t, []uint64{0, 1, 2, 3}, []uint64{a.Number, b.Number, c.Number, g.Started()})
	g.Overtake("a")
	require.False(t, g.Valid(a))
	require.False(t, g.End(a))
	require.Nil(t, g.Join("a"))
	again := g.Start("a", run, true)
	require.False(t, g.End(a), "the one that is under way is another one")
	require.Same(t, again, g.Join("a"))
	require.True(t, g.Valid(b))
	require.True(t, g.End(b))
	require.False(t, g.End(b))
	g.OvertakeAll()
	require.False(t, g.Valid(c))
	require.Empty(t, g.calls)
}

func TestPanic(t *testing.T) {
	cause := errors.New("cause")
	l := newLoader(func(context.Context, string) (int, error) { panic(cause) })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			defer func() {
				p, ok := recover().(*PanicError)
				if !ok || !errors.Is(p, cause) || len(p.Stack) == 0 {
					t.Errorf("recovered %v", p)
				}
			}()
			l.get(t.Context(), "a", 0)
			t.Error("it must panic")
		})
	}
	wg.Wait()
	require.Empty(t, l.group.calls)
	require.Contains(t, (&PanicError{Value: "value", Stack: []byte("stack")}).Error(), "value\n\nstack")
	require.NoError(t, (&PanicError{Value: "value"}).Unwrap())
}

func TestGoexit(t *testing.T) {
	l := newLoader(func(context.Context, string) (int, error) { runtime.Goexit(); return 0, nil })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			l.get(t.Context(), "a", 0)
			t.Error("it must not return")
		})
	}
	wg.Wait()
	require.Empty(t, l.group.calls)
}

// Callers come, lose patience and go, while loads fail, and are overtaken.
func TestStress(t *testing.T) {
	failure := errors.New("failure")
	var running [4]atomic.Int64
	l := newLoader(func(ctx context.Context, k string) (int, error) {
		i := k[0] - 'a'
		running[i].Add(1)
		defer running[i].Add(-1)
		for range 10 {
			runtime.Gosched()
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if i == 3 {
			return 0, failure
		}
		return int(i), nil
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				k := string(rune('a' + (g+i)%4))
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 {
					go cancel()
				}
				if i%7 == 0 {
					l.mu.Lock()
					l.group.Overtake(k)
					l.mu.Unlock()
				}
				v, err := l.get(ctx, k, 0)
				switch {
				case err == nil && (k == "d" || v != int(k[0]-'a')):
					t.Errorf("%s: got %d", k, v)
				case err != nil && ctx.Err() == nil && !(k == "d" && errors.Is(err, failure)):
					t.Errorf("%s: %v, but nobody cancelled", k, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
