package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFrontLoop has a process that advertises the address of the front, as with -addr :8080 on all machines: what goes
// there is refused when it comes back, and then goes elsewhere.
func TestFrontLoop(t *testing.T) {
	f := startFront(t, "127.0.0.0/8")
	f.beat(t, member{ID: "loop", URL: f.url, In: true})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", f.url+"/api/links", strings.NewReader("{}"))
	require.NoError(t, err)
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusLoopDetected, resp.StatusCode)
	requests := func() (n int) {
		_, metrics := f.do(t, "GET", "/metrics", "")
		for _, line := range strings.Split(metrics, "\n") {
			var one int
			if name, n1, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(name, "http_requests_total") && !strings.Contains(name, "/metrics") {
				_, _ = fmt.Sscan(n1, &one)
				n += one
			}
		}
		return n
	}
	require.Equal(t, 2, requests()) // it came back once

	var a seen
	f.join(t, "a", a.serve("a"))
	for i := range 50 {
		resp, body := f.do(t, "GET", fmt.Sprint("/code", i), "")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "a", body)
	}
	require.Equal(t, "1.1 urlshortener-front", a.last().Header.Get("Via"))
}

// TestFrontFailing has a process that answers everything with an error, and at once, so that it is never busy: it is left
// out, and those who follow links are answered by another.
func TestFrontFailing(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			f := startFront(t)
			var good seen
			var failed atomic.Int64
			f.join(t, "bad", func(w http.ResponseWriter, _ *http.Request) {
				failed.Add(1)
				w.Header().Set("Retry-After", "5")
				w.WriteHeader(status)
			})
			f.join(t, "good", good.serve("good"))
			answered := map[int]int{}
			for range 1000 {
				resp, _ := f.do(t, "POST", "/api/links", "{}")
				answered[resp.StatusCode]++
			}
			// How often it is tried again depends on how long all takes.
			most := 3 * (1 + int(f.front.ejects.Load()))
			require.LessOrEqual(t, answered[status], most)
			require.Positive(t, f.front.ejects.Load())
			failed.Store(0)
			answered = map[int]int{}
			for i := range 1000 {
				resp, _ := f.do(t, "GET", fmt.Sprint("/code", i), "")
				answered[resp.StatusCode]++
			}
			require.LessOrEqual(t, failed.Load(), int64(3*f.front.ejects.Load()))
			if status == http.StatusServiceUnavailable { // it may be the database of that one
				require.Equal(t, map[int]int{http.StatusOK: 1000}, answered)
			}
		})
	}
}

// TestFrontDeletes has a process that deletes a link, and cannot tell the others, which is 503: another would not find it
// any more, and is not asked.
func TestFrontDeletes(t *testing.T) {
	f := startFront(t)
	var deleted atomic.Int64
	remove := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "5")
		if deleted.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}
	f.join(t, "a", remove)
	f.join(t, "b", remove)
	resp, _ := f.do(t, "DELETE", "/api/links/abc", "")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.EqualValues(t, 1, deleted.Load())
}

// serveAsCommand serves h as the command does, with its limits and times, and returns where.
func serveAsCommand(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- settings{drain: time.Minute}.serve(ctx, l, h, slog.New(slog.DiscardHandler), func() {})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return "http://" + l.Addr().String()
}

// TestFrontLongHeader has headers as long as the front reads, which with what it adds are too long for processes: that is
// the client's fault, and no process is left out for it.
func TestFrontLongHeader(t *testing.T) {
	f := startFront(t)
	t.Cleanup(f.front.base.CloseIdleConnections)
	f.url = serveAsCommand(t, f.front.handler())
	for _, id := range []string{"a", "b"} {
		f.beat(t, member{ID: id, URL: serveAsCommand(t, new(seen).serve(id)), In: true})
	}
	statuses := map[int]int{}
	for n := 20_000; n < 20_600; n += 10 {
		f.front.base.CloseIdleConnections() // the first one of a connection must be shorter than others
		resp, _ := f.raw(t, "GET /abcdefg HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: "+strings.Repeat("x", n)+"\r\n\r\n")
		statuses[resp.StatusCode]++
	}
	require.Positive(t, statuses[http.StatusOK])
	require.Positive(t, statuses[http.StatusRequestHeaderFieldsTooLarge])
	require.Len(t, statuses, 2, "%v", statuses)
	require.Zero(t, f.front.ejects.Load())
	_, metrics := f.do(t, "GET", "/metrics", "")
	require.True(t, strings.Contains(metrics, `front_requests_total{outcome="ClientError"`), "processes refuse none")
}

// TestFrontConnect asks for tunnels and upgrades, and for paths in the forms that those have.
func TestFrontConnect(t *testing.T) {
	f := startFront(t)
	app := serveApp(t, func(s *settings) { s.proxies = trusted(t, "127.0.0.1") })
	f.beat(t, member{ID: "a", URL: app.url, In: true})
	for _, head := range []string{
		"CONNECT a:80 HTTP/1.1\r\n", "CONNECT /metrics HTTP/1.1\r\n", "CONNECT /x/../metrics HTTP/1.1\r\n", "CONNECT /x/../peer/links/abc HTTP/1.1\r\n",
		"PRI * HTTP/2.0\r\n",
		"GET /abcdefg HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
		"GET /abcdefg HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"TRACE /abcdefg HTTP/1.1\r\n",
	} {
		resp, body := f.raw(t, head+"Host: a\r\n\r\n")
		t.Log(strings.Split(head, "\r")[0], resp.StatusCode)
		require.NotContains(t, body, "go_goroutines", head)
		require.GreaterOrEqual(t, resp.StatusCode, 300, head)
		require.NotEqual(t, http.StatusBadGateway, resp.StatusCode, head)
	}
	require.Zero(t, f.front.ejects.Load())
}

// hole starts a process that takes requests and never answers, though it says that it is there.
func (f *fronted) hole(t *testing.T, id string) {
	t.Helper()
	release := make(chan struct{})
	f.join(t, id, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
}

// status returns the status of the answer to a request, or 0 if there is none.
func (f *fronted) status(method, path string) int {
	req, err := http.NewRequest(method, f.url+path, nil)
	if err != nil {
		return 0
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestFrontHole has one of two processes not answer: who follows a link is answered by the other, and soon it is left out.
func TestFrontHole(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.hole(t, "hole")
	f.join(t, "good", new(seen).serve("good"))
	var wg sync.WaitGroup
	statuses := make([]int, 24)
	for i := range statuses {
		wg.Go(func() { statuses[i] = f.status("GET", fmt.Sprint("/code", i)) })
	}
	wg.Wait()
	for _, status := range statuses {
		require.Equal(t, http.StatusOK, status)
	}
	require.Positive(t, f.front.ejects.Load())
}

// TestFrontHoles has no process that answers. That is said in the end, while the front may still write.
func TestFrontHoles(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	t.Cleanup(f.front.base.CloseIdleConnections)
	f.url = serveAsCommand(t, f.front.handler())
	f.hole(t, "a")
	f.hole(t, "b")
	began := time.Now()
	var wg sync.WaitGroup
	for _, x := range [][2]string{{"GET", "/abcdefg"}, {"GET", "/api/links"}, {"DELETE", "/api/links/abc"}, {"POST", "/api/links"}} {
		wg.Go(func() {
			if status := f.status(x[0], x[1]); status != http.StatusGatewayTimeout {
				t.Errorf("%s %s is answered with %d", x[0], x[1], status)
			}
			t.Logf("%s %s: %v", x[0], x[1], time.Since(began))
		})
	}
	wg.Wait()
}

// TestFrontListens has the broker not answer when it is known whom to listen to: that is done anew, and nothing is left of
// the attempt.
func TestFrontListens(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	before := f.front.conn.NumSubscriptions()
	f.broker.Shutdown()
	require.ErrorContains(t, f.front.listen(testCluster), "the broker of -nats does not answer")
	require.Equal(t, before, f.front.conn.NumSubscriptions())
}
