package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	return l.Addr().String()
}

// A request that has failed at one endpoint is answered by another, and the log says so.
func TestRetries(t *testing.T) {
	good := echo(t, "good")
	var asked atomic.Int64
	busy := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(503)
	})
	f := startGateway(t, fmt.Sprintf(`
pools:
  mixed:
    policy: round_robin
    endpoints: [{id: bad-1, url: %q}, {id: bad-2, url: "http://%s"}, {id: good, url: %q}]
  bad: {endpoints: [{id: bad-1, url: %q}, {id: bad-2, url: %q}]}
routes:
  - {name: retried, prefix: /, pool: mixed, retries: {tries: 3, ratio: 1000}}
  - {name: once, prefix: /once, pool: bad, retries: {tries: 3, ratio: 1000}}
`, busy.URL, closedPort(t), good.URL, busy.URL, busy.URL))
	for range 30 {
		resp, _ := f.get(t, "/")
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "good", resp.Header.Get("X-Backend"))
	}
	assert.Positive(t, asked.Load())
	assert.Greater(t, f.status().Routes[0].Tries, uint64(30))
	eventually(t, func() bool { return strings.Contains(f.log.String(), `"endpoint":"good","status":200`) }, "log")
	assert.Regexp(t, `"tries":[23]`, f.log.String())

	// What may have been done is not done twice.
	before := asked.Load()
	for range 3 {
		resp, _ := f.do(t, "POST", f.url(0)+"/once")
		assert.Equal(t, 503, resp.StatusCode)
	}
	assert.EqualValues(t, 3, asked.Load()-before)
}

// Without retries that are left, an overload is not made worse.
func TestRetryBudget(t *testing.T) {
	var asked atomic.Int64
	busy := func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(503)
	}
	a, b := serveBackend(t, busy), serveBackend(t, busy)
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {endpoints: [{url: %q}, {url: %q}]}}
routes: [{name: r, prefix: /, pool: p, retries: {tries: 2, ratio: 0.1, burst: 5}}]
`, a.URL, b.URL))
	for range 100 {
		resp, _ := f.get(t, "/")
		assert.Equal(t, 503, resp.StatusCode)
	}
	assert.LessOrEqual(t, asked.Load(), int64(100+5+10))
	assert.Greater(t, asked.Load(), int64(100+5))
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	slow := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	good := echo(t, "good")
	f := startGateway(t, fmt.Sprintf(`
pools:
  slow: {endpoints: [{url: %q}]}
  both: {policy: round_robin, endpoints: [{url: %q}, {url: %q}]}
routes:
  - {name: all, prefix: /all, pool: slow, timeout: 20ms}
  - {name: try, prefix: /try, pool: slow, retries: {tries: 1, try_timeout: 20ms}}
  - {name: other, prefix: /other, pool: both, retries: {try_timeout: 20ms, ratio: 1000}}
`, slow.URL, slow.URL, good.URL))
	for _, p := range []string{"/all", "/try"} {
		resp, body := f.get(t, p)
		assert.Equal(t, 504, resp.StatusCode, p)
		assert.Contains(t, body, "did not answer in time")
	}
	before := f.status().Routes[2].Tries
	for range 4 { // two of them are given to the slow one
		resp, _ := f.get(t, "/other")
		assert.Equal(t, 200, resp.StatusCode)
	}
	assert.Greater(t, f.status().Routes[2].Tries-before, uint64(4))
}

func TestNoEndpoint(t *testing.T) {
	f := startGateway(t, fmt.Sprintf(`
pools:
  gone: {endpoints: [{url: "http://%s"}], health: {tcp: true, interval: 1ms, start_down: true}}
  unchecked: {endpoints: [{url: "http://%s"}]}
routes:
  - {name: gone, prefix: /gone, pool: gone}
  - {name: unchecked, prefix: /unchecked, pool: unchecked}
`, closedPort(t), closedPort(t)))
	resp, body := f.get(t, "/gone")
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, body, "No endpoint of this route is available.")
	resp, body = f.get(t, "/unchecked")
	assert.Equal(t, 502, resp.StatusCode, body)
	assert.NotContains(t, body, "127.0.0.1", "clients are not told of the inside")
}

// A client that has gone is no failure, of the endpoint or for the breaker.
func TestClientGoes(t *testing.T) {
	here := make(chan struct{}, 10)
	slow := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		here <- struct{}{}
		<-r.Context().Done()
	})
	f := startGateway(t, pools(map[string]*httptest.Server{"a": slow})+`
routes: [{name: r, prefix: /, pool: a, breaker: {consecutive_failures: 1}}]
`)
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", f.url(0), nil)
		require.NoError(t, err)
		go func() {
			<-here
			cancel()
		}()
		_, err = f.client.Do(req)
		require.ErrorIs(t, err, context.Canceled)
		eventually(t, func() bool { return strings.Count(f.log.String(), `"status":499`) == i+1 }, "499: %s", f.log)
	}
	assert.Equal(t, "closed", f.status().Routes[0].Breaker)
	assert.Zero(t, f.pools[0].Stats().Endpoints[0].Failed)
}

func TestBreaker(t *testing.T) {
	var broken atomic.Bool
	var asked atomic.Int64
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if broken.Load() {
			w.WriteHeader(500)
		}
	})
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: r, prefix: /, pool: a, breaker: {consecutive_failures: 3, open_for: 300ms, probes: 1}}
  - {name: long, prefix: /long, pool: a, breaker: {consecutive_failures: 1, open_for: 90s}}
`)
	resp, _ := f.get(t, "/")
	require.Equal(t, 200, resp.StatusCode)
	broken.Store(true)
	for range 3 {
		resp, _ = f.get(t, "/")
		require.Equal(t, 500, resp.StatusCode)
	}
	before := asked.Load()
	resp, body := f.get(t, "/")
	require.Equal(t, 503, resp.StatusCode)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	assert.Contains(t, body, "is left alone for a while")
	assert.Equal(t, before, asked.Load(), "an open breaker has let a request through")

	broken.Store(false)
	eventually(t, func() bool {
		resp, _ := f.get(t, "/")
		return resp.StatusCode == 200
	}, "it closes again")
	eventually(t, func() bool { return f.status().Routes[0].Breaker == "closed" }, "it says so")
	assert.Contains(t, f.errs.String(), "msg=breaker route=r from=closed to=open")

	broken.Store(true)
	resp, _ = f.get(t, "/long")
	require.Equal(t, 500, resp.StatusCode)
	resp, _ = f.get(t, "/long")
	require.Equal(t, 503, resp.StatusCode)
	assert.Regexp(t, `^(90|[1-8]\d)$`, resp.Header.Get("Retry-After"))
}

// An answer that goes on for long is as good as a short one: while a breaker is half-open, others need not
// wait for its end.
func TestBreakerAndStreams(t *testing.T) {
	var broken atomic.Bool
	release := make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			w.WriteHeader(500)
			return
		}
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
			<-release
		}
	})
	defer close(release)
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes: [{name: r, prefix: /, pool: a, breaker: {consecutive_failures: 1, open_for: 50ms}}]
`)
	broken.Store(true)
	resp, _ := f.get(t, "/")
	require.Equal(t, 500, resp.StatusCode)
	broken.Store(false)
	eventually(t, func() bool {
		resp, err := f.client.Get(f.url(0) + "/stream")
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp.StatusCode == 200
	}, "it is tried again")
	assert.Equal(t, "closed", f.status().Routes[0].Breaker)
	resp, _ = f.get(t, "/")
	assert.Equal(t, 200, resp.StatusCode)
}

func TestOutcomes(t *testing.T) {
	for status, want := range map[int]loadbalance.Outcome{
		200: loadbalance.OK, 304: loadbalance.OK, 404: loadbalance.ClientError, 429: loadbalance.Overload,
		500: loadbalance.ServerError, 502: loadbalance.ConnectError, 503: loadbalance.Overload, 504: loadbalance.Timeout,
	} {
		assert.Equal(t, want, outcomeOf(status), status)
	}
}

// A backend that cuts its answer off has failed, and the client sees that it is not whole. The breaker has
// counted the request before, by its header.
func TestBrokenAnswer(t *testing.T) {
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes: [{name: r, prefix: /, pool: a, retries: {tries: 1}, breaker: {consecutive_failures: 1, open_for: 1h}}]
`)
	resp, err := f.client.Get(f.url(0))
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	require.Error(t, err)
	eventually(t, func() bool { return strings.Contains(f.log.String(), `"bytes":4,`) }, "it is logged")
	assert.EqualValues(t, 1, f.pools[0].Stats().Endpoints[0].Failed)
	assert.Equal(t, "closed", f.status().Routes[0].Breaker)
}

func TestSticky(t *testing.T) {
	a, b, c := echo(t, "one"), echo(t, "two"), echo(t, "three")
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {policy: round_robin, endpoints: [{id: one, url: %q}, {id: two, url: %q}, {id: three, url: %q}]}}
routes: [{name: r, prefix: /, pool: p, sticky: {cookie: backend, insecure: true}}]
`, a.URL, b.URL, c.URL))
	resp, _ := f.get(t, "/")
	require.Len(t, resp.Cookies(), 1)
	cookie, first := resp.Cookies()[0], resp.Header.Get("X-Backend")
	assert.Equal(t, "backend", cookie.Name)
	assert.NotContains(t, cookie.Value, first)
	for range 10 {
		resp, _ := f.get(t, "/", "Cookie: backend="+cookie.Value)
		assert.Equal(t, first, resp.Header.Get("X-Backend"))
	}
	// Without it, it is everybody's turn.
	seen := map[string]bool{}
	for range 6 {
		resp, _ := f.get(t, "/")
		seen[resp.Header.Get("X-Backend")] = true
	}
	assert.Len(t, seen, 3)
}

// By a header, a cookie or the address, and with another policy than the pool's, the same value has
// the same endpoint.
func TestHash(t *testing.T) {
	servers := []*httptest.Server{echo(t, "a"), echo(t, "b"), echo(t, "c"), echo(t, "d")}
	list := ""
	for i, s := range servers {
		list += fmt.Sprintf("{id: e%d, url: %q},", i, s.URL)
	}
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {policy: round_robin, endpoints: [%s]}}
routes:
  - {name: turns, prefix: /turns, pool: p}
  - {name: header, prefix: /header, pool: p, policy: {name: consistent_hash, algorithm: ring}, hash: {header: X-User}}
  - {name: header2, prefix: /header2, pool: p, policy: {name: consistent_hash, algorithm: ring}, hash: {header: X-User}}
  - {name: cookie, prefix: /cookie, pool: p, policy: {name: consistent_hash, bound: 1000}, hash: {cookie: user}}
  - {name: address, prefix: /address, pool: p, policy: ip_hash}
`, strings.TrimSuffix(list, ",")))
	places := func(path string, header func(i int) string) (places map[string]bool) {
		places = map[string]bool{}
		for i := range 40 {
			var first string
			for range 2 {
				resp, _ := f.get(t, path, header(i))
				require.Equal(t, 200, resp.StatusCode)
				got := resp.Header.Get("X-Backend")
				if first != "" && path != "/turns" {
					require.Equal(t, first, got)
				}
				first = got
			}
			places[first] = true
		}
		return places
	}
	user := func(i int) string { return fmt.Sprintf("X-User: %d", i) }
	assert.Len(t, places("/header", user), 4) // each has its chance of 3 in 4^40 to be left out
	assert.Len(t, places("/cookie", func(i int) string { return fmt.Sprintf("Cookie: user=%d", i) }), 4)
	assert.Len(t, places("/address", user), 1)
	assert.Len(t, places("/cookie", user), 1, "without the cookie it is by address")
	assert.Greater(t, len(places("/turns", user)), 1)

	// Routes that want the same of the same pool share it.
	var names []string
	for _, p := range f.pools {
		names = append(names, p.name)
	}
	assert.Equal(t, []string{"p", "p:consistent_hash(1000)", "p:consistent_hash(ring)", "p:ip_hash"}, names)
}

// An endpoint that is down is given nothing, by its checks, and has its share again when it is back.
func TestHealth(t *testing.T) {
	b, err := startBackend(t.Context(), "b", 0, 0)
	require.NoError(t, err)
	t.Cleanup(b.kill)
	a := echo(t, "a")
	f := startGateway(t, fmt.Sprintf(`
pools:
  p: {policy: round_robin, endpoints: [{id: a, url: %q}, {id: b, url: "http://%s"}], health: {http: /healthz, interval: 5ms, fall: 1, rise: 1}}
  q: {policy: round_robin, endpoints: [{id: b, url: "http://%s"}], health: {tcp: true, interval: 5ms, fall: 1, rise: 1}}
routes: [{name: r, prefix: /, pool: p}, {name: s, prefix: /q, pool: q}]
`, a.URL, b.addr, b.addr))
	state := func() string { return f.status().Pools[0].Endpoints[1].State + f.status().Pools[1].Endpoints[0].State }
	require.Equal(t, "healthyhealthy", state())
	b.kill()
	eventually(t, func() bool { return state() == "unhealthyunhealthy" }, "down")
	assert.Contains(t, f.status().Pools[0].Endpoints[1].Why, "connection refused")
	for range 10 {
		resp, _ := f.get(t, "/")
		require.Equal(t, "a", resp.Header.Get("X-Backend"))
	}
	require.NoError(t, b.start(t.Context()))
	eventually(t, func() bool { return state() == "healthyhealthy" }, "up")
	eventually(t, func() bool { return strings.Contains(f.errs.String(), "event=Up endpoint=b") }, "it is logged")
}

// Endpoints can come from DNS: localhost is in every hosts file.
func TestDNS(t *testing.T) {
	a := echo(t, "a")
	port := a.Listener.Addr().(*net.TCPAddr).Port
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {dns: {host: localhost, port: %d}, resolve_every: 50ms}}
routes: [{name: r, prefix: /, pool: p, retries: {ratio: 1000}}]
`, port))
	eventually(t, func() bool { return len(f.status().Pools[0].Endpoints) > 0 }, "resolved")
	eventually(t, func() bool {
		resp, _ := f.get(t, "/")
		return resp.StatusCode == 200
	}, "an answer")
}

// Streams and upgrades go through all that is wrapped around them.
func TestStreams(t *testing.T) {
	next := make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			w.Header().Set("Upgrade", "echo")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.Copy(c, rw)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for range 2 {
			fmt.Fprint(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes: [{name: r, prefix: /, pool: a, breaker: {consecutive_failures: 5}, response_headers: {set: {X-A: b}}, rate_limit: {count: 100, per: 1s}}]
`)
	resp, err := f.client.Get(f.url(0))
	require.NoError(t, err)
	assert.Equal(t, "b", resp.Header.Get("X-A"))
	event := make([]byte, len("data: x\n\n"))
	for range 2 {
		_, err = io.ReadFull(resp.Body, event) // although the answer has not ended
		require.NoError(t, err)
		assert.Equal(t, "data: x\n\n", string(event))
		next <- struct{}{}
	}
	resp.Body.Close()

	conn, err := net.Dial("tcp", f.addrs[0].String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err = http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	fmt.Fprint(conn, "hello")
	hello := make([]byte, 5)
	_, err = io.ReadFull(r, hello)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(hello))
	conn.Close()
	eventually(t, func() bool { return strings.Contains(f.log.String(), `"status":101`) }, "log: %s", f.log)
}
