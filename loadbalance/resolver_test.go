package loadbalance

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A registry is a Resolver whose answers are set by the test.
type registry struct {
	mu    sync.Mutex
	found []Endpoint[int]
	err   error
	takes time.Duration
	panic any
	calls []time.Time
}

func (r *registry) resolve(ctx context.Context) ([]Endpoint[int], error) {
	r.mu.Lock()
	found, err, takes, out := r.found, r.err, r.takes, r.panic
	r.calls = append(r.calls, time.Now())
	r.mu.Unlock()
	if out != nil {
		panic(out)
	}
	select {
	case <-time.After(takes):
		return found, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *registry) set(found []Endpoint[int], err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found, r.err, r.panic = found, err, nil
}

// take returns when it was called since the last time.
func (r *registry) take() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// TestResolver has a Resolver find endpoints, others, none, and fail.
func TestResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry{found: endpointsOf(2)}
		var events recorder
		p := poolOf(t, Config[int]{Resolve: r.resolve, ResolveEvery: 10 * time.Second, OnEvent: events.record})
		synctest.Wait()
		require.Equal(t, []string{"Added a", "Added b"}, events.take())
		begin := time.Now()
		s := p.Stats()
		require.Equal(t, begin, s.Resolved)
		require.NoError(t, s.ResolveError)
		open := hold(t, p, "b", 1)
		r.set(endpointsOf(3)[1:], nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"Added c", "Removed a"}, events.take())
		require.EqualValues(t, 1, statsOf(t, p, "b").InFlight)
		open[0].Done(OK)

		want, failures := p.Endpoints(), 0
		for _, bad := range []struct {
			set func()
			err string
		}{
			{func() { r.set(nil, errSick) }, "sick"},
			{func() { r.set(endpointsOf(1), errSick) }, "sick"},
			{func() { r.set(nil, nil) }, "loadbalance: Resolve has found no endpoints"},
			{func() { r.set([]Endpoint[int]{{ID: "x"}, {}}, nil) }, "loadbalance: ID of an endpoint must not be empty"},
			{func() { r.set([]Endpoint[int]{{ID: "x"}, {ID: "x"}}, nil) }, `loadbalance: endpoint "x": ID is there already`},
			{func() { r.panic = "out of order" }, "loadbalance: Resolve panicked: out of order"},
		} {
			bad.set()
			require.EqualError(t, p.Refresh(context.Background()), bad.err)
			failures++
			s := p.Stats()
			require.EqualError(t, s.ResolveError, bad.err)
			require.Equal(t, failures, s.ResolveFailures)
			require.Equal(t, want, p.Endpoints(), "they stay")
			require.Equal(t, []string{"ResolveFailed"}, events.take())
		}
		r.set(endpointsOf(1), nil)
		require.NoError(t, p.Refresh(context.Background()))
		s = p.Stats()
		require.Zero(t, s.ResolveFailures)
		require.NoError(t, s.ResolveError)
		require.Equal(t, time.Now(), s.Resolved)
		require.Equal(t, endpointsOf(1), p.Endpoints())
	})
	p := poolOf(t, Config[int]{})
	require.NoError(t, p.Refresh(context.Background()), "without a Resolver, it does nothing")
}

// TestResolverTimes requires the times between calls: sooner after the first failures, and never more
// than ResolveEvery.
func TestResolverTimes(t *testing.T) {
	for _, every := range []time.Duration{10 * time.Millisecond, 30 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			r := registry{found: endpointsOf(1)}
			poolOf(t, Config[int]{Resolve: r.resolve, ResolveEvery: every})
			time.Sleep(100 * every)
			synctest.Wait()
			calls := r.take()
			shortest, longest := every, time.Duration(0)
			for i := 1; i < len(calls); i++ {
				wait := calls[i].Sub(calls[i-1])
				require.LessOrEqual(t, wait, every)
				require.GreaterOrEqual(t, wait, every-every/10)
				shortest, longest = min(shortest, wait), max(longest, wait)
			}
			// Of 100 none is in one half with a probability of 2^-100.
			require.Less(t, shortest, every-every/20)
			require.Greater(t, longest, every-every/20)

			r.set(nil, errSick)
			time.Sleep(40*every + time.Minute)
			synctest.Wait()
			calls = r.take()
			for i := 1; i < len(calls); i++ {
				want := min(every, time.Second<<min(i-1, 10))
				wait := calls[i].Sub(calls[i-1])
				require.LessOrEqual(t, wait, want, "%d", i)
				require.GreaterOrEqual(t, wait, want-want/10, "%d", i)
			}
			require.Greater(t, len(calls), 25)
		})
	}
}

// TestResolverLongest has the longest ResolveEvery.
func TestResolverLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry{found: endpointsOf(1)}
		poolOf(t, Config[int]{Resolve: r.resolve, ResolveEvery: 1<<63 - 1})
		time.Sleep(24 * 365 * time.Hour)
		require.Len(t, r.take(), 1)
	})
}

// TestResolverLate has an answer come after that of a call that began later: it is older, and must not
// count.
func TestResolverLate(t *testing.T) {
	for _, late := range []error{nil, errSick} {
		synctest.Test(t, func(t *testing.T) {
			r := registry{found: endpointsOf(1), takes: 3 * time.Second, err: late}
			var events recorder
			p := poolOf(t, Config[int]{Resolve: r.resolve, OnEvent: events.record})
			time.Sleep(time.Second)
			r.mu.Lock()
			r.found, r.takes, r.err = endpointsOf(3)[1:], time.Second, nil
			r.mu.Unlock()
			require.NoError(t, p.Refresh(context.Background()))
			require.Equal(t, endpointsOf(3)[1:], p.Endpoints())
			time.Sleep(5 * time.Second)
			synctest.Wait()
			require.Equal(t, endpointsOf(3)[1:], p.Endpoints())
			require.NoError(t, p.Stats().ResolveError)
			require.Equal(t, []string{"Added b", "Added c"}, events.take())
		})
	}
}

// TestResolverHangs has a Resolver that does not answer: it has 30 s, and Close ends it.
func TestResolverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry{takes: 1000 * time.Hour}
		var events recorder
		p := poolOf(t, Config[int]{Resolve: r.resolve, OnEvent: events.record})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, p.Refresh(ctx), context.DeadlineExceeded)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"ResolveFailed", "ResolveFailed"}, events.take())
		require.Len(t, r.take(), 2)
		time.Sleep(3 * time.Second) // it is asking again
		require.Len(t, r.take(), 1)
		begin := time.Now()
		p.Close()
		require.Equal(t, begin, time.Now())
		require.Empty(t, events.take())
		r.mu.Lock()
		r.found, r.takes = endpointsOf(1), 0
		r.mu.Unlock()
		require.Equal(t, ErrClosed, p.Refresh(context.Background()))
		require.Empty(t, events.take())
		require.Empty(t, p.Endpoints())
	})
}

// TestResolverRefreshes has many call Refresh at the same time.
func TestResolverRefreshes(t *testing.T) {
	r := registry{found: endpointsOf(3)}
	p := poolOf(t, Config[int]{Resolve: r.resolve, ResolveEvery: 10 * time.Millisecond})
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range few(200) {
				if err := p.Refresh(context.Background()); err != nil {
					t.Error(err)
				}
				if l, err := p.Pick(Request{}); err != nil {
					t.Error(err)
				} else {
					l.Done(OK)
				}
			}
		})
	}
	running.Wait()
	noneInFlight(t, p)
}

func TestDNS(t *testing.T) {
	value := func(a netip.AddrPort) string { return "http://" + a.String() }
	for _, c := range []struct{ host, id string }{
		{"127.0.0.1", "127.0.0.1:80"}, {"::1", "[::1]:80"}, {"::ffff:10.0.0.1", "10.0.0.1:80"},
	} {
		found, err := DNS(c.host, 80, value)(context.Background())
		require.NoError(t, err)
		require.Equal(t, []Endpoint[string]{{ID: c.id, Value: "http://" + c.id, Weight: 1}}, found)
	}
	found, err := DNS("localhost", 80, value)(context.Background())
	require.NoError(t, err)
	require.NotEmpty(t, found)
	for _, e := range found {
		a, err := netip.ParseAddrPort(e.ID)
		require.NoError(t, err)
		require.True(t, a.Addr().IsLoopback())
	}
	p := poolOf(t, Config[string]{Resolve: DNS("localhost", 80, value)})
	require.NoError(t, p.Refresh(context.Background()))
	require.Len(t, p.Endpoints(), len(found))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = DNS("example.invalid", 80, value)(ended)
	require.True(t, err != nil && !errors.Is(err, context.DeadlineExceeded), "%v", err)
}
