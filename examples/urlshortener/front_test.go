package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// TestDirectory has processes that are heard of, are about to end, say that they have left, or say nothing any more.
func TestDirectory(t *testing.T) {
	d := newDirectory()
	start := time.Unix(1000, 0)
	was := d.changed
	differs := func() bool {
		now := d.changed
		defer func() { was = now }()
		return now != was
	}
	d.hear(member{ID: "a", URL: "http://a"}, start)
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://a"}, start.Add(time.Second))
	require.False(t, differs())
	d.hear(member{URL: "http://nobody"}, start)
	require.False(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.True(t, differs())

	// Who is about to end is so for good: beats may overtake each other.
	d.hear(member{ID: "a", URL: "http://elsewhere", Draining: true}, start.Add(time.Second))
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.False(t, differs())
	require.True(t, d.others["a"].Draining)

	// So is who has left, as long as something may still come.
	d.leave("a", start.Add(time.Second))
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.False(t, differs())
	require.Empty(t, d.others)
	d.leave("unknown", start.Add(time.Second))
	require.False(t, differs())

	d.hear(member{ID: "b"}, start)
	d.hear(member{ID: "c"}, start.Add(1))
	differs()
	d.forget(start.Add(leaseTime))
	require.False(t, differs())
	d.forget(start.Add(leaseTime + 1))
	require.True(t, differs())
	require.Len(t, d.others, 1)
	require.Contains(t, d.others, "c")
	d.forget(start.Add(time.Hour))
	require.Empty(t, d.others)
	require.Empty(t, d.left)
}

// TestDraining has a process that is about to end: it is told of links as before, but owns none any more.
func TestDraining(t *testing.T) {
	t.Parallel()
	broker := newBroker(t)
	rows := new(sync.Map)
	a, b := newFakeProcess(t, broker, "a", rows), newFakeProcess(t, broker, "b", rows)
	within := func(condition func() bool) {
		t.Helper()
		require.Eventually(t, condition, 10*time.Second, 10*time.Millisecond)
	}
	within(func() bool { return a.fresh() && b.fresh() && len(a.list()) == 2 })
	b.drain()
	within(func() bool {
		return slices.ContainsFunc(a.list(), func(m member) bool { return m.ID == "b" && m.Draining })
	})
	require.NoError(t, a.insert("one"))
	require.True(t, b.finds("one"))
	require.True(t, b.fresh()) // so it was told
	ofA, ofB := newOwners(a.members, ""), newOwners(b.members, "")
	for _, code := range []string{"abc", "abd", "abe", "abf", "abg", "abh", "abi"} {
		_, other := ofA.of(code)
		require.False(t, other, "%s is asked for where nobody is to ask", code)
		owner, _ := ofB.of(code)
		require.Equal(t, "a", owner.ID)
	}
}

// A fronted is a front in this process, with the processes that it is to find.
type fronted struct {
	*served // what do and raw need
	front   *front
	broker  *natsserver.Server
	conn    *nats.Conn
}

func startFront(t *testing.T, networks ...string) *fronted {
	t.Helper()
	f := &fronted{broker: newBroker(t)}
	connect := func() *nats.Conn {
		conn, err := nats.Connect("", nats.InProcessServer(f.broker))
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	f.conn = connect()
	s := settings{front: true, proxies: trusted(t, networks...)}
	var err error
	find := func(context.Context) (cluster, error) { return testCluster, nil }
	f.front, err = newFront(t.Context(), s, connect(), find, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	server := httptest.NewServer(f.front.handler())
	f.served = &served{url: server.URL, client: &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		server.Close()
		f.front.close()
	})
	return f
}

// says has a process say something, and waits until the front has as many processes as that makes.
func (f *fronted) says(t *testing.T, m member, alive int) {
	t.Helper()
	require.NoError(t, f.conn.Publish(testCluster.subject(beatKind), testCluster.seal(beatKind, m)))
	within10(t, func() bool { return f.front.alive() == alive })
}

func within10(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

// join starts a process that h serves for, and has it say that it is there until the test ends.
func (f *fronted) join(t *testing.T, id string, h http.HandlerFunc) (m member) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	m = member{ID: id, URL: server.URL, In: true}
	f.beat(t, m)
	return m
}

// beat has a process say that it is there until the test ends.
func (f *fronted) beat(t *testing.T, m member) {
	t.Helper()
	f.says(t, m, f.front.alive()+1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(beatEvery):
				_ = f.conn.Publish(testCluster.subject(beatKind), testCluster.seal(beatKind, m))
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
	})
}

// nobody returns the URL of a process that is not there.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

// A seen is a process that answers with its name, and remembers what it was asked.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func (s *seen) serve(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.requests, s.bodies = append(s.requests, r.Clone(context.Background())), append(s.bodies, string(body))
		s.mu.Unlock()
		_, _ = io.WriteString(w, name)
	}
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *seen) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

// TestFront has processes come and go. Links are followed where they are owned, and other requests go to all.
func TestFront(t *testing.T) {
	f := startFront(t)
	none := func() {
		t.Helper()
		for _, x := range [][2]string{{"GET", "/abcdefg"}, {"POST", "/api/links"}, {"GET", "/"}, {"DELETE", "/api/links/abcdefg"}} {
			resp, body := f.do(t, x[0], x[1], "")
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			require.Equal(t, "1", resp.Header.Get("Retry-After"))
			require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
			require.NotEmpty(t, resp.Header.Get("Content-Security-Policy"))
			if strings.HasPrefix(x[1], "/api/") {
				require.Equal(t, "no process of the service is there; please try again", detail(t, resp, body))
			} else {
				require.Equal(t, "no process of the service is there; please try again\n", body)
			}
		}
		resp, _ := f.do(t, "GET", "/readyz", "")
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	}
	none()
	resp, _ := f.do(t, "GET", "/healthz", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	f.says(t, member{ID: "nowhere"}, 0)
	f.says(t, member{ID: "bad", URL: "ftp://127.0.0.1"}, 0)

	processes := map[string]*seen{"a": {}, "b": {}, "c": {}}
	// What processes know of each other; the one that looks is about to end, and so owns nothing.
	looker := &members{self: member{ID: "looker"}, directory: newDirectory()}
	looker.draining.Store(true)
	var all []member
	for _, id := range []string{"a", "b", "c"} {
		m := f.join(t, id, processes[id].serve(id))
		all = append(all, m)
		looker.hear(m, time.Now())
	}
	resp, _ = f.do(t, "GET", "/readyz", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	same := func() (owners map[string]int) {
		t.Helper()
		o := newOwners(looker, "")
		owners = map[string]int{}
		for i := range 60 {
			code := fmt.Sprintf("code%d", i)
			for _, m := range all { // they say so again and again
				if _, there := looker.others[m.ID]; there {
					looker.hear(m, time.Now())
				}
			}
			owner, ok := o.of(code)
			require.True(t, ok)
			for _, method := range []string{"GET", "HEAD"} {
				before := processes[owner.ID].count()
				resp, body := f.do(t, method, "/"+code, "")
				require.Equal(t, http.StatusOK, resp.StatusCode)
				require.Equal(t, before+1, processes[owner.ID].count(), "%s %s by %s", method, code, body)
			}
			owners[owner.ID]++
		}
		return owners
	}
	require.Len(t, same(), 3)
	before := map[string]int{}
	for id, p := range processes {
		before[id] = p.count()
	}
	for range 100 {
		f.do(t, "POST", "/api/links", `{}`)
	}
	for id, p := range processes {
		require.Greater(t, p.count(), before[id]+10, "of 100 requests")
	}

	// Who is about to end gets none, and neither does who has left.
	all[1].Draining = true
	f.says(t, all[1], 2)
	looker.hear(all[1], time.Now())
	require.NotContains(t, same(), "b")
	all[2].Left = true
	f.says(t, all[2], 1)
	looker.leave("c", time.Now())
	require.Equal(t, map[string]int{"a": 60}, same())
	all[0].Left = true
	f.says(t, all[0], 0)
	none()
}

// TestFrontWaits has a front that is started before any process ever was.
func TestFrontWaits(t *testing.T) {
	broker := newBroker(t)
	conn, err := nats.Connect("", nats.InProcessServer(broker))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	var asked atomic.Int64
	f, err := newFront(t.Context(), settings{}, conn, func(context.Context) (cluster, error) {
		switch asked.Add(1) {
		case 1:
			return cluster{}, errNoCluster
		case 2:
			return cluster{}, errors.New("the database is away")
		}
		return testCluster, nil
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(f.close)
	within10(t, func() bool {
		_ = conn.Publish(testCluster.subject(beatKind), testCluster.seal(beatKind, member{ID: "a", URL: "http://127.0.0.1:1"}))
		return f.alive() == 1
	})

	down := errors.New("down")
	_, err = newFront(t.Context(), settings{}, conn, func(context.Context) (cluster, error) { return cluster{}, down }, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, down)
}

// TestFrontPrefers has processes that are not in yet: they get requests only if there is no other, and strangers never.
func TestFrontPrefers(t *testing.T) {
	f := startFront(t)
	processes := map[string]*seen{"in": {}, "new": {}, "stranger": {}}
	server := httptest.NewServer(processes["stranger"].serve("stranger"))
	t.Cleanup(server.Close)
	strangers := cluster{[]byte("another secret")}
	require.NoError(t, f.conn.Publish(testCluster.subject(beatKind), strangers.seal(beatKind, member{ID: "stranger", URL: server.URL, In: true})))
	server = httptest.NewServer(processes["new"].serve("new"))
	t.Cleanup(server.Close)
	f.beat(t, member{ID: "new", URL: server.URL})
	ask := func(want string) {
		t.Helper()
		before := processes[want].count()
		for i := range 20 {
			f.do(t, "GET", fmt.Sprint("/code", i), "")
			f.do(t, "POST", "/api/links", "{}")
		}
		require.Equal(t, before+40, processes[want].count())
	}
	ask("new")
	f.join(t, "in", processes["in"].serve("in"))
	ask("in")
	require.Zero(t, processes["stranger"].count())
}

// TestFrontForgets has the time of processes pass, while the broker is there, and while it is not.
func TestFrontForgets(t *testing.T) {
	f := startFront(t).front
	now := time.Now()
	at := func(d time.Duration, contact bool) int {
		f.learn(func() { f.look(now.Add(d), contact) })
		return f.alive()
	}
	f.learn(func() { f.hear(member{ID: "a", URL: "http://127.0.0.1:1"}, now) })
	require.Equal(t, 1, at(leaseTime, true))
	require.Equal(t, 1, at(time.Hour, false)) // nobody could have been heard of
	require.Equal(t, 1, at(time.Hour+leaseTime, true))
	require.Zero(t, at(time.Hour+leaseTime+1, true))
}

// TestFrontWithoutBroker has the broker go: the front goes on with the processes that it knows.
func TestFrontWithoutBroker(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	var a seen
	f.join(t, "a", a.serve("a"))
	f.broker.Shutdown()
	for began := time.Now(); time.Since(began) < leaseTime+2*contactGap; {
		resp, _ := f.do(t, "GET", "/abcdefg", "")
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
}

// TestFrontPaths asks for what is not passed on, in all the ways to write it.
func TestFrontPaths(t *testing.T) {
	f := startFront(t)
	var a seen
	f.join(t, "a", a.serve("a"))
	for _, target := range []string{
		"/peer/links/abc", "/peer/", "/%70eer/links/abc", "/peer%2flinks/../../peer/links/abc", "//peer/links/abc", "/./peer/links/abc",
		"/x/../peer/links/abc", "http://a/peer/links/abc", "/metrics", "/%6detrics", "/x/../metrics", "http://a/metrics", "/healthz", "/readyz",
		"http:peer", "*",
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS", "PROPFIND"} {
			resp, body := f.raw(t, method+" "+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			require.NotEqual(t, "a", body, "%s %s", method, target)
			require.Less(t, resp.StatusCode, 500, "%s %s", method, target)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		t.Errorf("%s %s was passed on", r.Method, r.RequestURI)
	}
}

// TestFrontPasses has things passed on as they come: a body, a query, an answer; and what nobody should believe, not.
func TestFrontPasses(t *testing.T) {
	f := startFront(t)
	var a seen
	f.join(t, "a", a.serve("a"))
	f.do(t, "POST", "/api/links?x=%zz;y", `{"url": "https://example.com/"}`, "Idempotency-Key", "1", "X-Idempotency-Key", "2",
		"X-Forwarded-For", "203.0.113.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example", "Forwarded", "for=203.0.113.1",
		"X-Real-Ip", "203.0.113.1", "X_forwarded_for", "203.0.113.1", "Authorization", "Bearer key")
	r := a.last()
	require.Equal(t, "/api/links?x=%zz;y", r.RequestURI)
	require.Equal(t, `{"url": "https://example.com/"}`, a.bodies[0])
	host := strings.TrimPrefix(f.url, "http://")
	require.Equal(t, host, r.Host)
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": host, "Forwarded": "", "X-Real-Ip": "",
		"X_forwarded_for": "", "Idempotency-Key": "", "X-Idempotency-Key": "", "Authorization": "Bearer key",
	} {
		require.Equal(t, want, strings.Join(r.Header[name], "|"), name)
	}

	resp, body := f.do(t, "POST", "/api/links", strings.Repeat("x", maxBody+1))
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	require.Equal(t, "the body must be at most 16384 bytes", detail(t, resp, body))
	resp, body = f.raw(t, "POST /api/links HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n"+strings.Repeat("x", 0x8000)+"\r\n0\r\n\r\n")
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	require.Equal(t, "the body must be at most 16384 bytes", detail(t, resp, body))
}

// TestFrontBehindProxy has a proxy that is trusted before the front.
func TestFrontBehindProxy(t *testing.T) {
	f := startFront(t, "127.0.0.0/8")
	var a seen
	f.join(t, "a", a.serve("a"))
	f.do(t, "GET", "/abcdefg", "", "X-Forwarded-For", "203.0.113.1, 203.0.113.2", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "sho.rt",
		"X_forwarded_for", "203.0.113.3")
	h := a.last().Header
	require.Equal(t, []string{"203.0.113.1, 203.0.113.2, 127.0.0.1"}, h["X-Forwarded-For"])
	require.Equal(t, []string{"https"}, h["X-Forwarded-Proto"])
	require.Equal(t, []string{"sho.rt"}, h["X-Forwarded-Host"])
	require.Empty(t, h["X_forwarded_for"])
	f.do(t, "GET", "/abcdefg", "")
	require.Equal(t, []string{"127.0.0.1"}, a.last().Header["X-Forwarded-For"])
}

// TestFrontForged has clients say that they are somebody else. The service believes its front, which does not.
func TestFrontForged(t *testing.T) {
	f := startFront(t)
	app := serveApp(t, func(s *settings) { s.unlimited, s.proxies = false, trusted(t, "127.0.0.1") })
	f.beat(t, member{ID: "a", URL: app.url, In: true})
	refused := false
	for i := 0; i < 100 && !refused; i++ {
		resp, body := f.do(t, "POST", "/api/links", `{"url": "https://example.com/"}`,
			"X-Forwarded-For", fmt.Sprint("203.0.113.", i), "X-Forwarded-Host", "evil.example")
		refused = resp.StatusCode == http.StatusTooManyRequests
		if !refused {
			require.Equal(t, http.StatusCreated, resp.StatusCode)
			require.Contains(t, body, `"short_url":"`+f.url)
		}
	}
	require.True(t, refused)
}

// TestFrontRetries has processes that break off, or are not there: what may be sent twice is answered by another.
func TestFrontRetries(t *testing.T) {
	f := startFront(t)
	var good, broken seen
	f.join(t, "good", good.serve("good"))
	f.join(t, "broken", func(_ http.ResponseWriter, r *http.Request) {
		broken.serve("")(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	for i := range 50 {
		resp, body := f.do(t, "GET", fmt.Sprint("/code", i), "")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "good", body)
	}
	require.Positive(t, broken.count())
	_, metrics := f.do(t, "GET", "/metrics", "")
	require.Regexp(t, `\nfront_retries_total [1-9]`, metrics)
	require.Regexp(t, `\nfront_ejections_total 1\n`, metrics)
	require.Regexp(t, `\nfront_processes 2\n`, metrics)
	require.Regexp(t, `\nfront_requests_total{outcome="OK",process="http://127[^"]*"} 50\n`, metrics)
	require.Regexp(t, `\nfront_requests_total{outcome="ServerError",process="http://127[^"]*"} [1-9]`, metrics)
	require.Regexp(t, `\nhttp_requests_total{path="/{code}",status="200"} 50\n`, metrics)

	// A link may have been made by who has not answered: it is sent once.
	failed := false
	for i := 0; i < 200 && !failed; i++ {
		before := good.count() + broken.count()
		resp, body := f.do(t, "POST", "/api/links", "{}", "Idempotency-Key", "x")
		require.Equal(t, before+1, good.count()+broken.count())
		if failed = resp.StatusCode != http.StatusOK; failed {
			require.Equal(t, http.StatusBadGateway, resp.StatusCode)
			require.Equal(t, "the process that was asked has gone before it has answered; what it was asked for may be done", detail(t, resp, body))
		}
	}
	require.True(t, failed)
}

// TestFrontUnreachable has a process that is not there any more: nothing has reached it, so it is sent to another.
func TestFrontUnreachable(t *testing.T) {
	f := startFront(t)
	dead := member{ID: "dead", URL: nobody(t), In: true}
	f.beat(t, dead)
	for _, method := range []string{"GET", "POST"} {
		resp, body := f.do(t, method, "/api/links", "")
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "1", resp.Header.Get("Retry-After"))
		require.Equal(t, "no process of the service can be reached; please try again", detail(t, resp, body))
	}
	var a seen
	f.join(t, "a", a.serve("a"))
	for range 50 {
		resp, body := f.do(t, "POST", "/api/links", "{}")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "a", body)
	}
	require.Equal(t, 50, a.count())

	// When it is said to be gone, nothing is left of it.
	_, metrics := f.do(t, "GET", "/metrics", "")
	require.Contains(t, metrics, dead.URL)
	dead.Left = true
	f.says(t, dead, 1)
	_, metrics = f.do(t, "GET", "/metrics", "")
	require.NotContains(t, metrics, dead.URL)
}

// TestFrontEnds ends a front: it says so, and answers what is under way.
func TestFrontEnds(t *testing.T) {
	f := startFront(t)
	reached, answer := make(chan bool, 1), make(chan bool)
	f.join(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		reached <- true
		<-answer
		_, _ = io.WriteString(w, "late")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- settings{drain: time.Minute}.serve(ctx, l, f.front.handler(), f.front.log, func() { f.front.draining.Store(true) })
	}()
	base := "http://" + l.Addr().String()
	got := make(chan string, 1)
	go func() {
		resp, err := http.Get(base + "/abcdefg")
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-reached
	cancel()
	within10(t, func() bool { // it takes no more
		c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(answer)
	require.Equal(t, "late", <-got)
	require.NoError(t, <-ended)
	resp, _ := f.do(t, "GET", "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
}
