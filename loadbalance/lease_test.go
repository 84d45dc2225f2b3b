package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutcomeString(t *testing.T) {
	for o, want := range map[Outcome]string{
		OK: "OK", ServerError: "ServerError", ConnectError: "ConnectError", Timeout: "Timeout", Overload: "Overload",
		ClientError: "ClientError", Canceled: "Canceled", 7: "Outcome(7)", 255: "Outcome(255)",
		OK.WithLoad(0.5): "OK at load 0.50", Timeout.WithLoad(1): "Timeout at load 0.94", OK.WithLoad(0): "OK",
	} {
		require.Equal(t, want, o.String())
	}
}

func TestOutcomeRoom(t *testing.T) {
	for _, c := range []struct{ load, room float64 }{
		{0, 1}, {-1, 1}, {math.Inf(-1), 1}, {math.NaN(), 1}, {0.25, 0.75}, {0.9, 0.1}, {1, 1.0 / 16}, {2, 1.0 / 16}, {math.Inf(1), 1.0 / 16},
	} {
		for o := range Outcome(numOutcomes) {
			x := o.WithLoad(c.load)
			require.InDelta(t, c.room, x.room(), 1e-5, "%v", c.load)
			require.Equal(t, o, x.kind())
			require.Equal(t, x, o.WithLoad(0.3).WithLoad(c.load), "the last counts")
		}
	}
	require.Equal(t, ServerError, Outcome(77).WithLoad(0.5).kind())
}

type ownError struct {
	o       Outcome
	timeout bool
}

func (e ownError) Error() string    { return "own" }
func (e ownError) Outcome() Outcome { return e.o }
func (e ownError) Timeout() bool    { return e.timeout }

type timeoutError bool

func (e timeoutError) Error() string { return "timeout" }
func (e timeoutError) Timeout() bool { return bool(e) }

func TestOutcomeOf(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
	_, late := c.Read(make([]byte, 1))
	require.Error(t, late)
	server := <-accepted
	require.NoError(t, server.(*net.TCPConn).SetLinger(0)) // it is reset
	require.NoError(t, server.Close())
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	_, reset := c.Read(make([]byte, 1))
	require.ErrorIs(t, reset, syscall.ECONNRESET)
	require.NoError(t, c.Close())
	_, gone := c.Read(make([]byte, 1))
	require.ErrorIs(t, gone, net.ErrClosed)
	require.NoError(t, l.Close())
	_, refused := net.Dial("tcp", address)
	require.ErrorIs(t, refused, syscall.ECONNREFUSED)
	var d net.Dialer
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, canceled := d.DialContext(ended, "tcp", address)
	require.Error(t, canceled)
	past, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	_, dialLate := d.DialContext(past, "tcp", address)
	require.Error(t, dialLate)

	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, OK},
		{errSick, ServerError},
		{io.EOF, ServerError},
		{reset, ServerError},
		{gone, ServerError},
		{late, Timeout},
		{refused, ConnectError},
		{canceled, Canceled},
		{dialLate, ConnectError},
		{context.Canceled, Canceled},
		{context.DeadlineExceeded, Timeout},
		{past.Err(), Timeout},
		{os.ErrDeadlineExceeded, Timeout},
		{syscall.ETIMEDOUT, Timeout},
		{timeoutError(true), Timeout},
		{timeoutError(false), ServerError},
		{ownError{o: Overload}, Overload},
		{ownError{o: OK, timeout: true}, OK},
		{ownError{o: ClientError.WithLoad(0.5)}, ClientError.WithLoad(0.5)},
		{errors.Join(context.Canceled, ownError{o: Timeout}), Timeout},
		{errors.Join(timeoutError(false), context.DeadlineExceeded), Timeout},
		{errors.Join(late, context.Canceled), Canceled},
		// As net/http reports a proxy that does not answer.
		{&net.OpError{Op: "proxyconnect", Net: "tcp", Err: refused}, ConnectError},
		{&net.OpError{Op: "read", Err: context.DeadlineExceeded}, Timeout},
		{&net.OpError{Op: "dial", Err: context.Canceled}, Canceled},
		{&net.OpError{Op: "dial"}, ConnectError},
		{&net.OpError{Op: "write"}, ServerError},
		{&net.DNSError{IsTimeout: true}, Timeout},
		{&net.DNSError{}, ServerError},
		{ErrUnavailable, ServerError},
	} {
		require.Equal(t, c.want, OutcomeOf(c.err), "%v", c.err)
		if c.err != nil {
			require.Equal(t, c.want, OutcomeOf(fmt.Errorf("wrapped: %w", fmt.Errorf("%w twice", c.err))), "%v", c.err)
			require.Equal(t, c.want, OutcomeOf(errors.Join(errSick, c.err)), "%v", c.err)
		}
	}
}

// TestErrUnavailable makes each error happen.
func TestErrUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ward
		p := timedPool(t, Config[int]{Health: w.config()})
		unavailable := func(want error, r Request) {
			t.Helper()
			_, err := p.Pick(r)
			require.Equal(t, want, err)
			require.ErrorIs(t, err, ErrUnavailable)
			err = p.Do(context.Background(), r, func(context.Context, int) error { panic("it is not called") })
			require.Equal(t, want, err)
			if r.Tried == nil {
				_, f, err := p.Choose(1)
				require.Equal(t, want, err)
				require.Nil(t, f)
			}
		}
		unavailable(ErrNoEndpoints, Request{})
		for n := 1; n <= 2; n++ { // one endpoint, and two
			_, err := p.Set(endpointsOf(n))
			require.NoError(t, err)
			synctest.Wait()
			l, err := p.Pick(Request{})
			require.NoError(t, err)
			l.Done(OK)
			tried := []string{"a", "b"}[:n]
			unavailable(ErrTried, Request{Tried: tried})
			unavailable(ErrTried, Request{Tried: append([]string{"x"}, tried...)})
			w.set(errSick, tried...)
			time.Sleep(time.Second)
			synctest.Wait()
			unavailable(ErrAllUnhealthy, Request{})
			unavailable(ErrAllUnhealthy, Request{Tried: tried})
			w.set(nil, tried...)
			time.Sleep(time.Second)
			synctest.Wait()
			require.NoError(t, p.Drain(context.Background(), "a"))
			if n == 2 {
				require.Equal(t, map[string]int{"b": 3}, countPicks(t, p, 3, Request{}))
				unavailable(ErrTried, Request{Tried: []string{"b"}})
				require.NoError(t, p.SetWeight("b", 0))
				unavailable(ErrNoWeight, Request{})
				require.NoError(t, p.Drain(context.Background(), "b"))
			}
			unavailable(ErrDraining, Request{})
			_, err = p.PickID("a")
			require.ErrorIs(t, err, ErrUnavailable)
			require.NoError(t, p.Resume("a"))
			require.NoError(t, p.SetWeight("a", 0))
			unavailable(ErrNoWeight, Request{})
			_, err = p.Set(nil)
			require.NoError(t, err)
			unavailable(ErrNoEndpoints, Request{Tried: tried})
		}
		p.Close()
		unavailable(ErrClosed, Request{})
		unavailable(ErrClosed, Request{Tried: []string{"a"}})
		require.ErrorIs(t, errPolicy, ErrUnavailable)
	})
}

func TestPoolInvalid(t *testing.T) {
	check := func(context.Context, Endpoint[int]) error { return nil }
	const longest = "2562047h47m16.854775807s"
	health := func(c HealthConfig[int]) Config[int] {
		c.Check = check
		return Config[int]{Health: c}
	}
	outlier := func(c OutlierConfig) Config[int] {
		c.ConsecutiveErrors = max(c.ConsecutiveErrors, 1)
		return Config[int]{Outlier: c}
	}
	for _, c := range []struct {
		c    Config[int]
		want string
	}{
		{Config[int]{SlowStart: -1}, "SlowStart must be between 0 and 24h, got -1ns"},
		{Config[int]{SlowStart: 24*time.Hour + 1}, "SlowStart must be between 0 and 24h, got 24h0m0.000000001s"},
		{Config[int]{SlowStart: math.MaxInt64}, "SlowStart must be between 0 and 24h, got " + longest},
		{Config[int]{PanicThreshold: -0.1}, "PanicThreshold must be between 0 and 1, got -0.1"},
		{Config[int]{PanicThreshold: 1.1}, "PanicThreshold must be between 0 and 1, got 1.1"},
		{Config[int]{PanicThreshold: math.NaN()}, "PanicThreshold must be between 0 and 1, got NaN"},
		{Config[int]{LatencyHalfLife: 1}, "LatencyHalfLife must be between 10ms and 1h, got 1ns"},
		{Config[int]{LatencyHalfLife: -time.Second}, "LatencyHalfLife must be between 10ms and 1h, got -1s"},
		{Config[int]{LatencyHalfLife: math.MaxInt64}, "LatencyHalfLife must be between 10ms and 1h, got " + longest},
		{Config[int]{ResolveEvery: 9 * time.Millisecond}, "ResolveEvery must be at least 10ms, got 9ms"},
		{Config[int]{ResolveEvery: -1}, "ResolveEvery must be at least 10ms, got -1ns"},
		{health(HealthConfig[int]{Interval: -1}), "Health.Interval must be between 1ms and a year, got -1ns"},
		{health(HealthConfig[int]{Interval: math.MaxInt64}), "Health.Interval must be between 1ms and a year, got " + longest},
		{health(HealthConfig[int]{Timeout: 1}), "Health.Timeout must be at least 1ms, got 1ns"},
		{health(HealthConfig[int]{Timeout: -time.Hour}), "Health.Timeout must be at least 1ms, got -1h0m0s"},
		{health(HealthConfig[int]{Jitter: 1.5}), "Health.Jitter must be at most 1, got 1.5"},
		{health(HealthConfig[int]{Jitter: math.NaN()}), "Health.Jitter must be at most 1, got NaN"},
		{health(HealthConfig[int]{Rise: -1}), "Health.Rise must be at least 1, got -1"},
		{health(HealthConfig[int]{Fall: -7}), "Health.Fall must be at least 1, got -7"},
		{Config[int]{Outlier: OutlierConfig{ConsecutiveErrors: -1}}, "Outlier.ConsecutiveErrors must be between 0 and 2147483647, got -1"},
		{outlier(OutlierConfig{SuccessRateFactor: -1}), "Outlier.SuccessRateFactor must be at least 0, got -1"},
		{outlier(OutlierConfig{SuccessRateFactor: math.NaN()}), "Outlier.SuccessRateFactor must be at least 0, got NaN"},
		{outlier(OutlierConfig{MinRequests: -1}), "Outlier.MinRequests must be at least 1, got -1"},
		{outlier(OutlierConfig{MinEndpoints: -1}), "Outlier.MinEndpoints must be at least 1, got -1"},
		{outlier(OutlierConfig{Interval: 1}), "Outlier.Interval must be between 1ms and a year, got 1ns"},
		{outlier(OutlierConfig{Interval: math.MaxInt64}), "Outlier.Interval must be between 1ms and a year, got " + longest},
		{outlier(OutlierConfig{EjectFor: -1}), "Outlier.EjectFor must be between 1ms and a year, got -1ns"},
		{outlier(OutlierConfig{EjectFor: math.MaxInt64}), "Outlier.EjectFor must be between 1ms and a year, got " + longest},
		{outlier(OutlierConfig{MaxEjectFor: time.Second}), "Outlier.MaxEjectFor must be between EjectFor, 30s, and a year, got 1s"},
		{outlier(OutlierConfig{MaxEjectFor: math.MaxInt64}), "Outlier.MaxEjectFor must be between EjectFor, 30s, and a year, got " + longest},
		{outlier(OutlierConfig{MaxEjected: -0.1}), "Outlier.MaxEjected must be between 0 and 1, got -0.1"},
		{outlier(OutlierConfig{MaxEjected: math.NaN()}), "Outlier.MaxEjected must be between 0 and 1, got NaN"},
		{outlier(OutlierConfig{MaxEjected: 1.01}), "Outlier.MaxEjected must be between 0 and 1, got 1.01"},
	} {
		_, err := New(c.c)
		require.EqualError(t, err, "loadbalance: "+c.want)
	}
	synctest.Test(t, func(t *testing.T) { // what is invalid leaves no goroutine behind
		c := health(HealthConfig[int]{})
		c.Endpoints = []Endpoint[int]{{ID: "a"}, {ID: "a"}}
		c.Resolve = func(context.Context) ([]Endpoint[int], error) { panic("it is not called") }
		_, err := New(c)
		require.ErrorIs(t, err, ErrDuplicate)
	})
}

// TestEndpointsInvalid requires that what is not valid changes nothing.
func TestEndpointsInvalid(t *testing.T) {
	var events recorder
	bad := ConsistentHash(func(ids []string, weights []uint32) (Locator, error) {
		for _, w := range weights {
			if w == 13 {
				return nil, errSick
			}
		}
		return LocatorFunc(func(uint64) int { return 0 }), nil
	}, 0)
	given := endpointsOf(2)
	p := poolOf(t, Config[int]{Endpoints: given, OnEvent: events.record, Policy: bad})
	given[0].ID = "changed by the caller"
	require.Equal(t, []string{"Added a", "Added b"}, events.take())
	many := make([]Endpoint[int], MaxEndpoints+1)
	for i := range many {
		many[i].ID = fmt.Sprint(i)
	}
	set := func(es ...Endpoint[int]) error { _, err := p.Set(es); return err }
	snap := p.snap.Load()
	for _, c := range []struct {
		err  error
		is   error
		want string
	}{
		{set(Endpoint[int]{}), nil, "loadbalance: ID of an endpoint must not be empty"},
		{set(Endpoint[int]{ID: "b"}, Endpoint[int]{ID: "c"}, Endpoint[int]{ID: "b"}), ErrDuplicate, `loadbalance: endpoint "b": ID is there already`},
		{set(many...), nil, "loadbalance: there may be at most 65536 endpoints, got 65537"},
		{set(Endpoint[int]{ID: "c", Weight: 13}), errSick, "loadbalance: no Locator for these endpoints: sick"},
		{p.Add(Endpoint[int]{}), nil, "loadbalance: ID of an endpoint must not be empty"},
		{p.Add(Endpoint[int]{ID: "a", Value: 7}), ErrDuplicate, `loadbalance: endpoint "a": ID is there already`},
		{p.Add(Endpoint[int]{ID: "c", Weight: 13}), errSick, "loadbalance: no Locator for these endpoints: sick"},
		{p.SetWeight("a", 13), errSick, "loadbalance: no Locator for these endpoints: sick"},
		{p.SetWeight("c", 1), ErrUnknown, `loadbalance: endpoint "c": no endpoint has this ID`},
		{p.Remove("c"), ErrUnknown, `loadbalance: endpoint "c": no endpoint has this ID`},
		{p.Remove(""), ErrUnknown, `loadbalance: endpoint "": no endpoint has this ID`},
	} {
		require.EqualError(t, c.err, c.want)
		if c.is != nil {
			require.ErrorIs(t, c.err, c.is)
		}
	}
	require.Same(t, snap, p.snap.Load())
	require.Equal(t, endpointsOf(2), p.Endpoints())
	require.Empty(t, events.take())
	require.Len(t, p.hosts, 2)

	d, err := p.Set([]Endpoint[int]{{ID: "c", Weight: 1}, {ID: "b", Weight: 2, Value: 9}})
	require.NoError(t, err)
	require.Equal(t, Diff{Added: []string{"c"}, Removed: []string{"a"}, Changed: []string{"b"}}, d)
	require.Equal(t, []Endpoint[int]{{ID: "b", Weight: 2, Value: 9}, {ID: "c", Weight: 1}}, p.Endpoints())
	p.Endpoints()[0].ID = "changed by the caller"
	require.Equal(t, "b", p.Endpoints()[0].ID)
}

// TestLeaseMisuse ends requests twice, also copies at the same time: for a while counts may be wrong,
// but never for ever.
func TestLeaseMisuse(t *testing.T) {
	var zero Lease[int]
	zero.Done(OK)
	require.Equal(t, Endpoint[int]{}, zero.Endpoint())
	require.Empty(t, zero.ID())
	require.Zero(t, zero.Value())

	for name, policy := range everyPolicy() {
		p := poolOf(t, Config[int]{Policy: policy, Endpoints: endpointsOf(2), Outlier: OutlierConfig{ConsecutiveErrors: 1000}})
		l := hold(t, p, "a", 1)[0]
		var running sync.WaitGroup
		for range 16 {
			running.Go(func() { l.Done(OK) })
		}
		running.Wait()
		require.EqualValues(t, 1, statsOf(t, p, "a").Outcomes[OK], "%s: only the first call counts", name)
		noneInFlight(t, p)

		for range few(400) {
			l := hold(t, p, "a", 1)[0]
			copies := make([]Lease[int], 4)
			for i := range copies {
				copies[i].e, copies[i].start = l.e, l.start // which vet would not let be copied
			}
			for i := range copies {
				running.Go(func() { copies[i].Done(OK) })
			}
			running.Wait()
			require.Zero(t, statsOf(t, p, "a").InFlight, name)
		}
		require.Zero(t, p.core.total.Load(), name)
		a := hold(t, p, "a", 3)
		require.EqualValues(t, 3, statsOf(t, p, "a").InFlight, name)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, p.Drain(ended, "a"), context.Canceled)
		for _, l := range a {
			l.Done(OK)
		}
		require.NoError(t, p.Drain(ended, "a"))
		require.NoError(t, p.Resume("a"))
		end(t, p, "a", OK) // it is not closed
	}
}

// TestLeaseForgotten forgets one: it counts for ever, and only there.
func TestLeaseForgotten(t *testing.T) {
	p := poolOf(t, Config[int]{Policy: LeastConnections(), Endpoints: endpointsOf(2)})
	hold(t, p, "a", 1)
	runtime.GC()
	require.Equal(t, map[string]int{"b": 100}, countPicks(t, p, 100, Request{}))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errSick)
	require.ErrorIs(t, p.Drain(ctx, "a"), errSick)
}

func TestDo(t *testing.T) {
	p := poolOf(t, Config[int]{Endpoints: []Endpoint[int]{{ID: "a", Value: 5, Weight: 1}}})
	do := func(f func() error) error {
		return p.Do(context.Background(), Request{}, func(_ context.Context, v int) error {
			require.Equal(t, 5, v)
			require.EqualValues(t, 1, statsOf(t, p, "a").InFlight)
			return f()
		})
	}
	require.NoError(t, do(func() error { return nil }))
	require.Equal(t, errSick, do(func() error { return errSick }))
	require.Equal(t, ownError{o: Overload}, do(func() error { return ownError{o: Overload} }))
	require.PanicsWithValue(t, "out of order", func() { _ = do(func() error { panic("out of order") }) })
	var running sync.WaitGroup
	running.Go(func() { _ = do(func() error { runtime.Goexit(); return nil }) })
	running.Wait()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, context.Canceled, p.Do(ended, Request{}, func(context.Context, int) error { panic("it is not called") }))
	s := statsOf(t, p, "a")
	require.Equal(t, [numOutcomes]uint64{OK: 1, ServerError: 3, Overload: 1}, s.Outcomes)
	require.EqualValues(t, 4, s.Failed)
	noneInFlight(t, p)
}

func TestChoose(t *testing.T) {
	p := poolOf(t, Config[int]{Policy: IPHash(), Endpoints: endpointsOf(5)})
	v, done, err := p.Choose(77)
	require.NoError(t, err)
	id := endpointsOf(5)[v].ID
	require.Equal(t, map[string]int{id: 10}, countPicks(t, p, 10, Request{Hash: 77}))
	require.EqualValues(t, 1, statsOf(t, p, id).InFlight)
	done(context.DeadlineExceeded)
	done(nil) // which does not count
	require.EqualValues(t, 1, statsOf(t, p, id).Outcomes[Timeout])
	require.EqualValues(t, 10, statsOf(t, p, id).Outcomes[OK])
	noneInFlight(t, p)
}
