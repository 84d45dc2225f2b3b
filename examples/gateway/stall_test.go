package main

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reader is a backend that reads what it is sent.
func reader(t *testing.T) *httptest.Server {
	return serveBackend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
}

const stalled = "HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx" // and no more

// A client that sends nothing more of a body is answered when the time is over, and it is nobody else's
// failure.
func TestStalledBody(t *testing.T) {
	const routes = `
routes:
  - {name: all, prefix: /all, pool: a, timeout: 20ms, retries: {tries: 1}, breaker: {consecutive_failures: 1, open_for: 1h}}
  - {name: try, prefix: /try, pool: a, retries: {try_timeout: 20ms, ratio: 1000}, breaker: {consecutive_failures: 1, open_for: 1h}}
  - {name: rest, prefix: /, pool: a, breaker: {consecutive_failures: 1, open_for: 1h}}
  - {name: keys, prefix: /keys, pool: a, auth: {api_key: X-API-Key}}
`
	pool := keys(nil, "alice") + pools(map[string]*httptest.Server{"a": reader(t)})
	f := startGateway(t, pool+routes)
	hasty := startGateway(t, "listeners: [{address: \"127.0.0.1:0\", body_idle_timeout: 20ms}, {address: \"127.0.0.1:0\", body_idle_timeout: 20ms, tls: {self_signed: [a]}}]\n"+pool+routes)
	for _, x := range []struct {
		f      *fixture
		target string
		want   int
	}{
		{f, "POST /all", 504}, {f, "PUT /all", 504},
		{hasty, "POST /", 408}, {hasty, "PUT /", 408}, {hasty, "POST /try", 408}, {hasty, "POST /keys", 401},
	} {
		for range 2 {
			status, body := x.f.raw(t, x.target+" "+stalled)
			assert.Equal(t, x.want, status, "%s: %s", x.target, body)
		}
	}
	for _, x := range []*fixture{f, hasty} {
		for _, r := range x.status().Routes[:3] {
			assert.Equal(t, "closed", r.Breaker, r.Name)
		}
	}

	// With HTTP/2, too, where the connection goes on.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport}
	for range 2 {
		more, end := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), "POST", hasty.url(1), io.MultiReader(strings.NewReader("x"), more))
		require.NoError(t, err)
		resp, err := c.Do(req)
		require.NoError(t, err)
		assert.Equal(t, 408, resp.StatusCode)
		assert.Equal(t, 2, resp.ProtoMajor)
		end.Close() // the client waits for it
		resp.Body.Close()
	}
}

// A body that nobody can read is its client's failure: it must not have everybody's breaker open.
func TestMalformedBody(t *testing.T) {
	f := startGateway(t, pools(map[string]*httptest.Server{"a": reader(t)})+`
routes: [{name: r, prefix: /, pool: a, breaker: {consecutive_failures: 2, open_for: 1h}}]
`)
	for range 4 {
		status, body := f.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nZZZ\r\n")
		assert.Equal(t, 400, status)
		assert.Contains(t, body, "cannot be read")
	}
	assert.Equal(t, "closed", f.status().Routes[0].Breaker)
	resp, _ := f.do(t, "POST", f.url(0))
	assert.Equal(t, 200, resp.StatusCode)
}

// A client that takes nothing of an answer does not hold the request for ever.
func TestStalledAnswer(t *testing.T) {
	endless := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	for _, x := range []struct{ listener, route string }{{", body_idle_timeout: 20ms", ""}, {"", ", timeout: 20ms"}} {
		f := startGateway(t, "listeners: [{address: \"127.0.0.1:0\""+x.listener+"}]\n"+pools(map[string]*httptest.Server{"a": endless})+
			"routes: [{name: r, prefix: /, pool: a"+x.route+"}]\n")
		_, err := io.WriteString(f.dial(t), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		eventually(t, func() bool { return strings.Contains(f.log.String(), `"status":200`) }, "it ends: %v", x)
		assert.Zero(t, f.status().Routes[0].InFlight)
	}
}

// deadlines is a response that remembers its deadlines, as how long there is to them; 0: there is none.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write []time.Duration
}

func until(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(time.Until(t), -1)
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, until(t))
	return nil
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write = append(d.write, until(t))
	return nil
}

// Each piece of a body has its own time, and between pieces of an answer there may be any.
func TestDeadlines(t *testing.T) {
	const idle = 10 * time.Second
	serve := func(d *deadlines, proto int, body io.Reader, f http.HandlerFunc) {
		d.ResponseRecorder = httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/", body)
		r.ProtoMajor = proto
		limitStalls(idle, f).ServeHTTP(d, r)
	}
	synctest.Test(t, func(t *testing.T) {
		for _, x := range []struct {
			proto int
			read  []time.Duration
		}{{1, []time.Duration{idle, idle, idle, idle, 0}}, {2, []time.Duration{idle, 0, idle, 0, idle, 0}}} {
			var d deadlines
			serve(&d, x.proto, io.MultiReader(strings.NewReader("a"), strings.NewReader("b")), func(w http.ResponseWriter, r *http.Request) {
				for range 2 {
					_, err := r.Body.Read(make([]byte, 1))
					require.NoError(t, err)
					time.Sleep(time.Hour)
				}
				_, err := r.Body.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				_, _ = io.WriteString(w, "c")
				time.Sleep(time.Hour)
				require.NoError(t, http.NewResponseController(w).Flush())
			})
			assert.Equal(t, x.read, d.read, "HTTP/%d", x.proto)
			assert.Equal(t, []time.Duration{idle, 0, idle, 0, idle}, d.write) // the last is for the server's
		}

		// When the time of the request is over, there is a second for what is still to be written.
		var d deadlines
		serve(&d, 1, lateBody{}, func(w http.ResponseWriter, r *http.Request) {
			withTimeout(time.Minute, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				synctest.Wait()
				_, err := r.Body.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				w.WriteHeader(504)
			})).ServeHTTP(w, r)
		})
		assert.Equal(t, []time.Duration{idle, -1}, d.read)
		assert.Equal(t, []time.Duration{time.Second, time.Second, time.Second, time.Second}, d.write)

		// Who reads on after the end does not touch the next request.
		d = deadlines{}
		var body io.Reader
		serve(&d, 1, strings.NewReader("abc"), func(w http.ResponseWriter, r *http.Request) { body = r.Body })
		before := len(d.read)
		_, err := body.Read(make([]byte, 1))
		require.True(t, errors.Is(err, http.ErrBodyReadAfterClose))
		assert.Len(t, d.read, before)
	})
}

// lateBody is a body that fails as one does whose time is over.
type lateBody struct{}

func (lateBody) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// A client of HTTP/2 that leaves its side open gets what comes, for longer than the idle time.
func TestOpenSideOverHTTP2(t *testing.T) {
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		assert.NoError(t, c.EnableFullDuplex())
		for range 10 {
			io.WriteString(w, "x")
			c.Flush()
			select {
			case <-time.After(250 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	f := startGateway(t, "listeners: [{address: \"127.0.0.1:0\", body_idle_timeout: 2s, tls: {self_signed: [a]}}]\n"+
		pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	body, open := io.Pipe()
	defer open.Close()
	go open.Write([]byte("x"))
	req, err := http.NewRequest("POST", f.url(0)+"/", body)
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "xxxxxxxxxx", string(got))
}
