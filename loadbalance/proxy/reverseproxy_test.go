package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

func TestNewReverseProxyErrors(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	_, err := NewReverseProxy(nil, ReverseProxyConfig{})
	require.EqualError(t, err, "loadbalance/proxy: pool must be set, got nil")
	_, err = NewReverseProxy(pool, ReverseProxyConfig{MaxBufferedBody: 1 << 40})
	require.EqualError(t, err, "loadbalance/proxy: MaxBufferedBody must be at most 2147483647, got 1099511627776")
	_, err = NewReverseProxy(pool, ReverseProxyConfig{Transport: TransportConfig{Tries: -1}})
	require.Error(t, err)
}

// Which header fields the endpoint sees.
func TestForwarded(t *testing.T) {
	var got *http.Request
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) { got = r })
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL+"/base")
	backendHost := strings.TrimPrefix(backend.URL, "http://")
	send := func(c ReverseProxyConfig, target string) http.Header {
		s := newProxy(t, pool, c)
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 198.51.100.8\r\n"+
			"X-Forwarded-Host: old.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 444\r\nX-Real-IP: 198.51.100.9\r\n"+
			"X_FORWARDED_FOR: 198.51.100.7\r\nx-forwarded_host: old.test\r\nX_Real_IP: 198.51.100.9\r\nX_Other: 1\r\n"+
			"Forwarded: for=198.51.100.7\r\nConnection: close, X-Secret, X-Forwarded-For\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"+
			"Proxy-Authorization: x\r\nTe: gzip\r\nX-Other: 1\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		slurp(t, resp)
		for _, name := range []string{"X-Secret", "Keep-Alive", "Proxy-Authorization", "Te"} {
			require.Empty(t, got.Header.Values(name), name)
		}
		require.Equal(t, "1", got.Header.Get("X-Other"))
		require.Empty(t, got.Header.Values("User-Agent"))
		require.Empty(t, got.Header.Values("Accept-Encoding"))
		return got.Header
	}
	h := send(ReverseProxyConfig{}, "/x?q=1")
	require.Equal(t, "/base/x?q=1", got.RequestURI)
	require.Equal(t, backendHost, got.Host)
	require.Equal(t, []string{"127.0.0.1"}, h.Values("X-Forwarded-For"))
	require.Equal(t, []string{"shop.test"}, h.Values("X-Forwarded-Host"))
	require.Equal(t, []string{"http"}, h.Values("X-Forwarded-Proto"))
	for name := range h {
		require.Contains(t, []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Other", "X_other"}, name)
	}

	h = send(ReverseProxyConfig{TrustForwarded: true, PreserveHost: true}, "/")
	require.Equal(t, "shop.test", got.Host)
	require.Equal(t, []string{"198.51.100.7, 198.51.100.8, 127.0.0.1"}, h.Values("X-Forwarded-For"))
	require.Equal(t, []string{"old.test"}, h.Values("X-Forwarded-Host"))
	require.Equal(t, []string{"https"}, h.Values("X-Forwarded-Proto"))
	require.Equal(t, []string{"444"}, h.Values("X-Forwarded-Port"))
	require.Equal(t, []string{"198.51.100.9"}, h.Values("X-Real-Ip"))
	require.Equal(t, []string{"for=198.51.100.7"}, h.Values("Forwarded"))

	// The client cannot say where the request goes.
	send(ReverseProxyConfig{}, "http://elsewhere.test/x")
	require.Equal(t, backendHost, got.Host)
	require.Equal(t, "/base/x", got.RequestURI)

	send(ReverseProxyConfig{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.Host = "own.test"
		r.Out.URL.Path = "/y"
	}}, "/x")
	require.Equal(t, "own.test", got.Host)
	require.Equal(t, "/base/y", got.RequestURI)
}

func TestWriteError(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer stop()
	for _, x := range []struct {
		err    error
		ctx    context.Context
		status int
	}{
		{loadbalance.ErrAllUnhealthy, t.Context(), 503},
		{&Error{Err: ErrTryTimeout, ID: "10.0.0.1"}, t.Context(), 504},
		{context.DeadlineExceeded, t.Context(), 504},
		{errors.New("any cause"), late, 504},
		{&Error{Err: refused, ID: "10.0.0.1"}, t.Context(), 502},
		{errors.New("10.0.0.1 failed"), t.Context(), 502},
		{fmt.Errorf("%w: %w", ErrRequestBody, io.ErrUnexpectedEOF), t.Context(), 400},
		{fmt.Errorf("%w: %w", ErrRequestBody, &http.MaxBytesError{Limit: 1}), t.Context(), 413},
		{errOpaque, t.Context(), 400},
		{&Error{Err: errors.New(headerTooLong)}, t.Context(), 431},
		{context.Canceled, gone, 499},
	} {
		w := httptest.NewRecorder()
		WriteError(w, httptest.NewRequest("GET", "/", nil).WithContext(x.ctx), x.err)
		require.Equal(t, x.status, w.Code, x.err)
		require.NotContains(t, w.Body.String(), "10.0.0.1")
		if x.status == 503 {
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		}
		if x.status == 499 {
			require.Empty(t, w.Body.String())
		} else {
			require.Equal(t, http.StatusText(x.status)+"\n", w.Body.String())
		}
	}
}

// Answers of errors, from real servers.
func TestProxyErrors(t *testing.T) {
	get := func(c ReverseProxyConfig, method string, body io.Reader, urls ...string) int {
		s := newProxy(t, newPool(t, loadbalance.Config[*url.URL]{}, urls...), c)
		resp, err := s.Client().Do(newRequest(t, method, s.URL, body))
		require.NoError(t, err)
		slurp(t, resp)
		return resp.StatusCode
	}
	down := httptest.NewServer(nil)
	down.Close()
	hangs := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	cuts := newBackend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	require.Equal(t, 503, get(ReverseProxyConfig{}, "GET", nil))
	require.Equal(t, 502, get(ReverseProxyConfig{}, "GET", nil, down.URL))
	require.Equal(t, 504, get(ReverseProxyConfig{Transport: TransportConfig{TryTimeout: 20 * time.Millisecond}}, "POST", strings.NewReader("x"), hangs.URL))
	require.Equal(t, 502, get(ReverseProxyConfig{}, "POST", strings.NewReader("x"), cuts.URL))
	require.Equal(t, 418, get(ReverseProxyConfig{ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
		require.ErrorIs(t, err, loadbalance.ErrUnavailable)
		w.WriteHeader(418)
	}}, "GET", nil))
	ok := newBackend(t, func(w http.ResponseWriter, r *http.Request) {})
	require.Equal(t, 502, get(ReverseProxyConfig{ModifyResponse: func(*http.Response) error { return errors.New("no") }}, "GET", nil, ok.URL))
}

// Bodies pass through, of any length, in both directions, with and without a known length.
func TestBodies(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		default:
			w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	s := newProxy(t, pool, ReverseProxyConfig{})
	for _, method := range []string{"PUT", "POST"} {
		for _, n := range []int{0, 1, 4 << 10, 64 << 10, 64<<10 + 1, 3 << 20} {
			for _, known := range []bool{true, false} {
				data := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
				var body io.Reader = bytes.NewReader(data)
				if !known {
					body = struct{ io.Reader }{body}
				}
				resp, err := s.Client().Do(newRequest(t, method, s.URL, body))
				require.NoError(t, err)
				require.True(t, string(data) == slurp(t, resp), "%s of %d bytes", method, n)
				if known {
					require.Equal(t, fmt.Sprint(n), resp.Header.Get("X-Length"))
				}
			}
		}
	}
	for _, x := range []struct {
		method, path string
		status       int
	}{{"GET", "/204", 204}, {"GET", "/304", 304}, {"HEAD", "/", 200}} {
		resp, err := s.Client().Do(newRequest(t, x.method, s.URL+x.path, nil))
		require.NoError(t, err)
		require.Equal(t, x.status, resp.StatusCode)
		require.Empty(t, slurp(t, resp))
	}
}

// A body that was sent is sent again to another endpoint, up to MaxBufferedBody.
func TestBodyIsSentAgain(t *testing.T) {
	failing := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(503)
	})
	good := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	for _, x := range []struct {
		method string
		most   int64
		n      int
		again  bool
	}{
		{"PUT", 0, 64 << 10, true},
		{"PUT", 0, 64<<10 + 1, false},
		{"PUT", -1, 1, false},
		{"PUT", 100, 100, true},
		{"PUT", 100, 101, false},
		{"POST", 0, 10, false},
	} {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, failing.URL, good.URL)
		s := newProxy(t, pool, ReverseProxyConfig{MaxBufferedBody: x.most})
		data := strings.Repeat("x", x.n)
		failures := 0
		for range 4 {
			resp, err := s.Client().Do(newRequest(t, x.method, s.URL, struct{ io.Reader }{strings.NewReader(data)}))
			require.NoError(t, err)
			if body := slurp(t, resp); resp.StatusCode == 200 {
				require.True(t, data == body, "%+v", x)
			} else {
				failures++
			}
		}
		require.Equal(t, x.again, failures == 0, "%+v", x)
	}
}

// The client asks first, and the endpoint decides.
func TestExpectContinue(t *testing.T) {
	var read atomic.Bool
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(403)
			return
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	s := newProxy(t, newPool(t, loadbalance.Config[*url.URL]{}, backend.URL), ReverseProxyConfig{})
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second}}
	defer client.CloseIdleConnections()
	do := func(path string) (*http.Response, bool) {
		read.Store(false)
		req := newRequest(t, "PUT", s.URL+path, readFunc(func(p []byte) (int, error) {
			if read.Swap(true) {
				return 0, io.EOF
			}
			return copy(p, "body"), nil
		}))
		req.Header.Set("Expect", "100-continue")
		continued := false
		trace := &httptrace.ClientTrace{Got100Continue: func() { continued = true }}
		resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		require.NoError(t, err)
		return resp, continued
	}
	resp, continued := do("/yes")
	require.Equal(t, "body", slurp(t, resp))
	require.True(t, continued)
	resp, continued = do("/no")
	require.Equal(t, 403, resp.StatusCode)
	slurp(t, resp)
	require.False(t, continued)
	require.False(t, read.Load(), "the body was sent though the endpoint did not want it")
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// The endpoint answers while the client still sends. Package net/http must be told that this is wanted.
func TestEarlyAnswer(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(413)
		io.WriteString(w, "too long")
	})
	h, err := NewReverseProxy(newPool(t, loadbalance.Config[*url.URL]{}, backend.URL), ReverseProxyConfig{})
	require.NoError(t, err)
	s := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		h.ServeHTTP(w, r)
	})
	pr, pw := io.Pipe()
	defer pw.Close()
	go pw.Write([]byte("beginning"))
	resp, err := s.Client().Do(newRequest(t, "POST", s.URL, pr))
	require.NoError(t, err)
	require.Equal(t, 413, resp.StatusCode)
	require.Equal(t, "too long", slurp(t, resp))
}

// Events arrive while the answer goes on; and when the client leaves, the endpoint is told.
func TestServerSentEvents(t *testing.T) {
	next, left := make(chan string), make(chan struct{})
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		for {
			http.NewResponseController(w).Flush()
			select {
			case s := <-next:
				fmt.Fprintf(w, "data: %s\n\n", s)
			case <-r.Context().Done():
				close(left)
				return
			}
		}
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	s := newProxy(t, pool, ReverseProxyConfig{})
	resp, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	lines := bufio.NewReader(resp.Body)
	for _, event := range []string{"one", "two"} {
		next <- event
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: "+event+"\n", line)
		lines.ReadString('\n')
		require.EqualValues(t, 1, inFlight(pool))
	}
	resp.Body.Close()
	<-left
	eventually(t, func() bool { return inFlight(pool) == 0 }, "the stream is in flight")
	require.Zero(t, pool.Stats().Endpoints[0].Failed)
}

// A client that leaves before there is an answer.
func TestClientLeaves(t *testing.T) {
	entered := make(chan struct{})
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	status := make(chan int, 1)
	h, err := NewReverseProxy(pool, ReverseProxyConfig{ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
		rec := httptest.NewRecorder()
		WriteError(rec, r, err)
		status <- rec.Code
	}})
	require.NoError(t, err)
	s := httptest.NewServer(h)
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	_, err = s.Client().Do(newRequest(t, "GET", s.URL, nil).WithContext(ctx))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 499, <-status)
	eventually(t, func() bool { return outcomes(pool, 0, loadbalance.Canceled) == 1 }, "it is no cancellation")
}

// An answer that breaks off is not a whole one for the client, and a failure of the endpoint.
func TestAnswerBreaksOff(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 50000))
		panic(http.ErrAbortHandler)
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	s := newProxy(t, pool, ReverseProxyConfig{})
	resp, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	resp.Body.Close()
	eventually(t, func() bool { return outcomes(pool, 0, loadbalance.ServerError) == 1 }, "it is no failure")
}

// The protocol of a connection is changed, as by WebSocket, and it is in flight until both sides have
// ended.
func TestUpgrade(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			w.WriteHeader(400)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		rw.Flush()
		io.Copy(conn, rw) // until the client has sent all
		io.WriteString(conn, "bye")
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	s := newProxy(t, pool, ReverseProxyConfig{Transport: TransportConfig{TryTimeout: 10 * time.Second}})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	for i := range 3 {
		fmt.Fprintf(conn, "%d", i)
	}
	buf := make([]byte, 9)
	_, err = io.ReadFull(br, buf)
	require.NoError(t, err)
	require.Equal(t, "hello 012", string(buf))
	require.EqualValues(t, 1, inFlight(pool))
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	rest, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Equal(t, "bye", string(rest))
}

// Without a proxy, the body of the answer is the connection.
func TestUpgradedBody(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	client, server := net.Pipe()
	go io.Copy(server, server)
	tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		resp := reply(101, "")
		resp.Body = client
		return resp, nil
	})})
	resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
	require.NoError(t, err)
	rw := resp.Body.(io.ReadWriteCloser)
	_, err = io.WriteString(rw, "ping")
	require.NoError(t, err)
	buf := make([]byte, 4)
	_, err = io.ReadFull(rw, buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf))
	require.ErrorIs(t, rw.(interface{ CloseWrite() error }).CloseWrite(), http.ErrNotSupported)
	require.EqualValues(t, 1, inFlight(pool))
	require.NoError(t, rw.Close())
	require.Zero(t, inFlight(pool))
}

// Informational answers pass.
func TestEarlyHints(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>; rel=preload")
		w.WriteHeader(103)
		io.WriteString(w, "done")
	})
	s := newProxy(t, newPool(t, loadbalance.Config[*url.URL]{}, backend.URL), ReverseProxyConfig{})
	hints := 0
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints++
		require.Equal(t, 103, code)
		require.Equal(t, "</x>; rel=preload", h.Get("Link"))
		return nil
	}}
	req := newRequest(t, "GET", s.URL, nil)
	resp, err := s.Client().Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	require.NoError(t, err)
	require.Equal(t, "done", slurp(t, resp))
	require.Equal(t, 1, hints)
}

// What gRPC needs, with HTTP/2 on both sides, by TLS and without: messages in both directions at the
// same time, and trailers, announced or not, also after an answer without a body.
func TestHTTP2(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			w.WriteHeader(400)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/fails" {
			w.Header().Set("Grpc-Status", "5") // trailers only
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(200)
		buf := make([]byte, 100)
		for {
			http.NewResponseController(w).Flush()
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	})
	var both, clear http.Protocols
	both.SetHTTP2(true)
	clear.SetUnencryptedHTTP2(true)
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			start := func(h http.Handler) *httptest.Server {
				s := httptest.NewUnstartedServer(h)
				if secure {
					s.EnableHTTP2 = true
					s.StartTLS()
				} else {
					s.Config.Protocols = &clear
					s.Start()
				}
				t.Cleanup(s.Close)
				return s
			}
			client := func() *http.Transport {
				tr := &http.Transport{Protocols: &clear}
				if secure {
					tr = &http.Transport{Protocols: &both, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
				}
				t.Cleanup(tr.CloseIdleConnections)
				return tr
			}
			pool := newPool(t, loadbalance.Config[*url.URL]{}, start(handler).URL)
			h, err := NewReverseProxy(pool, ReverseProxyConfig{Transport: TransportConfig{Base: client()}})
			require.NoError(t, err)
			s := start(h)
			pr, pw := io.Pipe()
			req := newRequest(t, "POST", s.URL+"/echo", pr)
			req.Header.Set("Te", "trailers")
			resp, err := client().RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, 2, resp.ProtoMajor)
			for range 3 {
				io.WriteString(pw, "hello")
				buf := make([]byte, 5)
				_, err := io.ReadFull(resp.Body, buf)
				require.NoError(t, err)
				require.Equal(t, "hello", string(buf))
			}
			require.EqualValues(t, 1, inFlight(pool))
			pw.Close()
			require.Empty(t, slurp(t, resp))
			require.Equal(t, "0", resp.Trailer.Get("Grpc-Status"))
			require.Equal(t, "fine", resp.Trailer.Get("Grpc-Message"))

			req = newRequest(t, "POST", s.URL+"/fails", nil)
			req.Header.Set("Te", "trailers")
			resp, err = client().RoundTrip(req)
			require.NoError(t, err)
			require.Empty(t, slurp(t, resp))
			require.Equal(t, "5", resp.Header.Get("Grpc-Status"))
		})
	}
}

// Trailers of HTTP/1.1, through the Transport alone and through a proxy.
func TestTrailers(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "42")
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	s := newProxy(t, pool, ReverseProxyConfig{})
	for _, client := range []*http.Client{s.Client(), {Transport: newTransport(t, pool, TransportConfig{})}} {
		resp, err := client.Get(s.URL)
		require.NoError(t, err)
		require.Equal(t, "body", slurp(t, resp))
		require.Equal(t, "42", resp.Trailer.Get("X-Sum"))
	}
}

// With TLS to clients, the endpoint is told so.
func TestTLSClients(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})
	h, err := NewReverseProxy(newPool(t, loadbalance.Config[*url.URL]{}, backend.URL), ReverseProxyConfig{})
	require.NoError(t, err)
	s := httptest.NewTLSServer(h)
	defer s.Close()
	resp, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	require.Equal(t, "https", slurp(t, resp))
}

// An endpoint is cut off and comes back again and again, while requests go on: none fails.
func TestEndpointRestarts(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	var urls []string
	for range 2 {
		urls = append(urls, newBackend(t, handler).URL)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	urls = append(urls, "http://"+address)
	check, err := CheckHTTP(CheckHTTPConfig{})
	require.NoError(t, err)
	c := loadbalance.Config[*url.URL]{Outlier: loadbalance.OutlierConfig{ConsecutiveErrors: 3, EjectFor: 20 * time.Millisecond, MaxEjected: 0.5}}
	c.Health.Check, c.Health.Interval, c.Health.Fall = check, 10*time.Millisecond, 1
	pool := newPool(t, c, urls...)
	budget, err := loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: 1, Burst: 1000})
	require.NoError(t, err)
	s := newProxy(t, pool, ReverseProxyConfig{Transport: TransportConfig{Budget: budget, Tries: 5}})

	stop := make(chan struct{})
	var clients sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				want := fmt.Sprint("body", i)
				req, err := http.NewRequest("PUT", s.URL, strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := s.Client().Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(got) != want {
					t.Errorf("%d %v %q", resp.StatusCode, err, got)
					return
				}
				done.Add(1)
			}
		})
	}
	more := func() {
		n := done.Load() + 50
		eventually(t, func() bool { return done.Load() >= n || t.Failed() }, "nothing goes on")
	}
	for range 3 {
		server := &http.Server{Handler: handler}
		go server.Serve(l)
		n := picked(pool, 2)
		eventually(t, func() bool { return picked(pool, 2) > n+10 || t.Failed() }, "it does not come back")
		more()
		server.Close() // with what is in flight
		more()
		l, err = net.Listen("tcp", address)
		require.NoError(t, err)
	}
	close(stop)
	clients.Wait()
	l.Close()
}

// raw sends what no http.Client would, and returns all that comes.
func raw(t testing.TB, s *httptest.Server, request string) string {
	c := dial(t, s.Listener.Addr().String())
	defer c.Close()
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

// A URL that has no path would get by what guards paths, and by the path of the endpoint.
func TestOpaqueURL(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL+"/app")
	s := newProxy(t, pool, ReverseProxyConfig{})
	for _, x := range []struct{ target, want string }{
		{"GET x:http://other/admin", "400 Bad Request"},
		{"GET x:admin", "400 Bad Request"},
		{"CONNECT x:443", "HTTP/1.1 200 OK"},
		{"OPTIONS *", "HTTP/1.1 200 OK"},
		{"GET http://other/admin", "/app/admin"},
	} {
		require.Contains(t, raw(t, s, x.target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), x.want, x.target)
	}
	closed := 0
	req := newRequest(t, "PUT", "x:y", &closeCounter{ReadCloser: io.NopCloser(strings.NewReader("")), closed: func() { closed++ }})
	_, err := newTransport(t, pool, TransportConfig{}).RoundTrip(req)
	require.ErrorIs(t, err, errOpaque)
	require.Equal(t, 1, closed)
	require.EqualValues(t, 2, picked(pool, 0)) // the server has answered OPTIONS * itself
}

// rawBackend returns the URL of an endpoint that gives the same answer to all requests, and then waits
// until the connection is closed.
func rawBackend(t testing.TB, answer string) string {
	return "http://" + tcpBackend(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		io.WriteString(c, answer)
		io.Copy(io.Discard, c)
	})
}

type noHijacker struct{ w http.ResponseWriter }

func (n noHijacker) Header() http.Header         { return n.w.Header() }
func (n noHijacker) Write(b []byte) (int, error) { return n.w.Write(b) }
func (n noHijacker) WriteHeader(status int)      { n.w.WriteHeader(status) }

// Requests end even if the answer cannot be handed on.
func TestAnswersThatCannotBeHandedOn(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"
	for _, x := range []struct {
		name, header, answer string
		modify               func(*http.Response) error
		want                 string
		outcome              loadbalance.Outcome
	}{
		{name: "101 that was not asked for", answer: upgrade, want: "HTTP/1.1 502 Bad Gateway"},
		{name: "101 that the server cannot hand on", header: "Connection: Upgrade\r\nUpgrade: websocket\r\n", answer: upgrade,
			want: "HTTP/1.1 502 Bad Gateway"},
		{name: "ModifyResponse panics", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
			modify: func(*http.Response) error { panic(http.ErrAbortHandler) }},
		{name: "no status", answer: "HTTP/1.1 007 Bond\r\nContent-Length: 2\r\n\r\nhi", want: "HTTP/1.1 502 Bad Gateway",
			outcome: loadbalance.ServerError},
	} {
		t.Run(x.name, func(t *testing.T) {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, rawBackend(t, x.answer))
			h, err := NewReverseProxy(pool, ReverseProxyConfig{ModifyResponse: x.modify, Transport: TransportConfig{Tries: 1}})
			require.NoError(t, err)
			s := newBackend(t, func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(noHijacker{w}, r) })
			if x.header == "" {
				x.header = "Connection: close\r\n"
			}
			c := dial(t, s.Listener.Addr().String())
			defer c.Close()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n"+x.header+"\r\n")
			line, _ := bufio.NewReader(c).ReadString('\n')
			require.Equal(t, x.want, strings.TrimSpace(line))
			eventually(t, func() bool { return inFlight(pool) == 0 }, "the request never ends")
			require.EqualValues(t, 1, outcomes(pool, 0, x.outcome))
		})
	}
}

// What only the client is to blame for is no endpoint's failure, over HTTP/2 neither.
func TestHTTP2Refuses(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		require.Empty(t, r.Header["Http2-Settings"])
		io.WriteString(w, r.Proto)
	}))
	backend.EnableHTTP2 = true
	backend.Config.MaxHeaderBytes = 16 << 10
	backend.Config.ErrorLog = discardLog
	backend.StartTLS()
	t.Cleanup(backend.Close)
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL, backend.URL)
	base := newBase()
	base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	s := newProxy(t, pool, ReverseProxyConfig{Transport: TransportConfig{Base: base}})
	const get = "GET / HTTP/1.1\r\nHost: x\r\n"
	for _, x := range []struct{ request, want string }{
		{get + "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", "HTTP/2.0"},
		{get + "Connection: close\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", "HTTP/2.0"},
		{get + "Connection: close\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", "431 Request Header Fields Too Large"},
		{get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1"}, // it takes another connection
	} {
		c := dial(t, s.Listener.Addr().String())
		io.WriteString(c, x.request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Contains(t, resp.Status+" "+slurp(t, resp), x.want)
		c.Close()
	}
	// A body that is not as long as it should be.
	put := func(pool *loadbalance.Pool[*url.URL], size int64) {
		req := newRequest(t, "PUT", "http://s", strings.NewReader("body"))
		req.ContentLength = size
		_, err := newTransport(t, pool, TransportConfig{Base: base}).RoundTrip(req)
		require.Error(t, err)
	}
	put(pool, 3)
	require.EqualValues(t, 2, outcomes(pool, 0, loadbalance.Canceled)+outcomes(pool, 1, loadbalance.Canceled))
	require.EqualValues(t, 3, outcomes(pool, 0, loadbalance.OK)+outcomes(pool, 1, loadbalance.OK))
	plain := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	pool = newPool(t, loadbalance.Config[*url.URL]{}, plain.URL)
	put(pool, 5)
	require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled))
}

// Over a Unix socket there is no address to add to X-Forwarded-For: what there is, is kept.
func TestForwardedUnix(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	for _, x := range []struct {
		trust bool
		want  []string
	}{{true, []string{"198.51.100.7", "198.51.100.8"}}, {false, nil}} {
		h, err := NewReverseProxy(pool, ReverseProxyConfig{TrustForwarded: x.trust, Transport: TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			require.Equal(t, x.want, r.Header["X-Forwarded-For"])
			return reply(200, ""), nil
		})}})
		require.NoError(t, err)
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "@"
		r.Header["X-Forwarded-For"] = []string{"198.51.100.7", "198.51.100.8"}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 200, w.Code)
	}
}

// Path and query are the endpoint's business, also if package net/url does not understand them.
func TestURLStays(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	s := newProxy(t, newPool(t, loadbalance.Config[*url.URL]{}, backend.URL), ReverseProxyConfig{})
	for _, target := range []string{"/?b=2&a=1", "/?b=2;x&a=1", "/?z=1&a=%zz", "//a//b?x", "/a%2Fb/../c?", "/a;b=c?", "/%2e%2e/x"} {
		got := raw(t, s, "GET "+target+" HTTP/1.0\r\nHost: x\r\n\r\n")
		require.True(t, strings.HasSuffix(got, "\r\n\r\n"+target), "%s: %s", target, got)
	}
}
