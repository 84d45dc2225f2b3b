package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

func TestNewTransportErrors(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	for _, x := range []struct {
		c    TransportConfig
		want string
	}{
		{TransportConfig{Tries: -1}, "Tries must be between 1 and 100, got -1"},
		{TransportConfig{Tries: 101}, "Tries must be between 1 and 100, got 101"},
		{TransportConfig{TryTimeout: -1}, "TryTimeout must be at least 0, got -1ns"},
		{TransportConfig{Backoff: -1}, "Backoff must be between 0 and 1m, got -1ns"},
		{TransportConfig{Backoff: time.Hour}, "Backoff must be between 0 and 1m, got 1h0m0s"},
		{TransportConfig{RetryStatus: []int{503, 200}}, "RetryStatus must be between 400 and 599, got 200"},
		{TransportConfig{Sticky: &StickyCookie{}}, `Sticky.Name must be a token, and Path that of a cookie, got "" and ""`},
	} {
		_, err := NewTransport(pool, x.c)
		require.EqualError(t, err, "loadbalance/proxy: "+x.want)
	}
	_, err := NewTransport(nil, TransportConfig{})
	require.EqualError(t, err, "loadbalance/proxy: pool must be set, got nil")
}

func TestDefaultBase(t *testing.T) {
	base := newBase()
	require.Nil(t, base.Proxy)
	require.Equal(t, 256, base.MaxIdleConnsPerHost)
	require.Zero(t, base.MaxIdleConns)
	old := http.DefaultTransport
	defer func() { http.DefaultTransport = old }()
	http.DefaultTransport = roundTrip(nil)
	require.Equal(t, 256, newBase().MaxIdleConnsPerHost)
}

// What a request looks like at the endpoint, and that the caller's is left alone.
func TestRoundTrip(t *testing.T) {
	var got *http.Request
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "https://one.test:8443/base?k=v")
	tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		got = r
		return reply(200, "hello", "Location", "/next"), nil
	})})
	req := newRequest(t, "GET", "http://service/x%2Fy?q=1", nil)
	before := *req.URL
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	require.EqualValues(t, 1, inFlight(pool))
	require.Equal(t, "hello", slurp(t, resp))
	require.Zero(t, inFlight(pool))
	require.Equal(t, "https://one.test:8443/base/x%2Fy?k=v&q=1", got.URL.String())
	require.Equal(t, "service", got.Host)
	require.Equal(t, before, *req.URL)
	require.Same(t, req, resp.Request)
	next, err := resp.Location()
	require.NoError(t, err)
	require.Equal(t, "http://service/next", next.String())
}

func TestJoinURL(t *testing.T) {
	for _, x := range []struct{ endpoint, url, want string }{
		{"http://e", "http://s/a", "http://e/a"},
		{"http://e", "http://s", "http://e"},
		{"http://e/", "http://s/a", "http://e/a"},
		{"http://e/b", "http://s/a", "http://e/b/a"},
		{"http://e/b/", "http://s/a/", "http://e/b/a/"},
		{"http://e/b", "http://s", "http://e/b"},
		{"http://e/b/", "http://s", "http://e/b/"},
		{"http://e/b%2Fc", "http://s/a", "http://e/b%2Fc/a"},
		{"http://e/b", "http://s/a%2Fd", "http://e/b/a%2Fd"},
		{"http://e/b", "http://s//a/../d", "http://e/b//a/../d"},
		{"http://e?x=1", "http://s/a?y=2", "http://e/a?x=1&y=2"},
		{"http://e?x=1", "http://s/a", "http://e/a?x=1"},
		{"https://u:p@e", "http://v:w@s/a", "https://e/a"},
	} {
		e, err := url.Parse(x.endpoint)
		require.NoError(t, err)
		u, err := url.Parse(x.url)
		require.NoError(t, err)
		joinURL(u, e)
		require.Equal(t, x.want, u.String(), "%s and %s", x.endpoint, x.url)
	}
	u := &url.URL{Path: "*"}
	joinURL(u, &url.URL{Scheme: "http", Host: "e", Path: "/b"})
	require.Equal(t, "*", u.Path)
}

func TestClassify(t *testing.T) {
	for status, want := range map[int]loadbalance.Outcome{
		101: loadbalance.OK, 200: loadbalance.OK, 304: loadbalance.OK,
		400: loadbalance.ClientError, 404: loadbalance.ClientError, 429: loadbalance.Overload,
		500: loadbalance.ServerError, 501: loadbalance.ClientError, 502: loadbalance.ServerError,
		503: loadbalance.Overload, 504: loadbalance.Timeout, 505: loadbalance.ClientError, 599: loadbalance.ServerError,
	} {
		require.Equal(t, want, Classify(reply(status, ""), nil), status)
	}
	for _, x := range []struct {
		err  error
		want loadbalance.Outcome
	}{
		{refused, loadbalance.ConnectError},
		{fmt.Errorf("x: %w", refused), loadbalance.ConnectError},
		{&tls.CertificateVerificationError{Err: io.EOF}, loadbalance.ConnectError},
		{errors.New("net/http: TLS handshake timeout"), loadbalance.ConnectError},
		{tls.RecordHeaderError{}, loadbalance.ServerError},
		{io.ErrUnexpectedEOF, loadbalance.ServerError},
		{context.Canceled, loadbalance.Canceled},
		{context.DeadlineExceeded, loadbalance.Timeout},
		{ErrTryTimeout, loadbalance.Timeout},
		{&Error{Err: ErrTryTimeout}, loadbalance.Timeout},
	} {
		require.Equal(t, x.want, Classify(nil, x.err), x.err)
		require.Equal(t, x.want, Classify(reply(200, ""), x.err), x.err)
	}
}

// Which requests are retried after what. The endpoint that fails is a, and b answers.
func TestRetries(t *testing.T) {
	broken := errors.New("connection broken")
	type result int
	const (
		retried result = iota
		failed
		handedOn // the answer
	)
	plain := func() io.Reader { return struct{ io.Reader }{strings.NewReader("body")} } // no GetBody
	again := func() io.Reader { return strings.NewReader("body") }
	none := func() io.Reader { return nil }
	for _, x := range []struct {
		name    string
		method  string
		body    func() io.Reader
		header  string
		reads   int // bytes of the body, before it fails
		status  int
		err     error
		want    result
		tries   int
		statues []int
	}{
		{name: "GET refused", method: "GET", body: none, err: refused, want: retried},
		{name: "GET broken", method: "GET", body: none, err: broken, want: retried},
		{name: "GET timeout", method: "GET", body: none, err: ErrTryTimeout, want: retried},
		{name: "GET 502", method: "GET", body: none, status: 502, want: retried},
		{name: "GET 503", method: "GET", body: none, status: 503, want: retried},
		{name: "GET 504", method: "GET", body: none, status: 504, want: retried},
		{name: "GET 500", method: "GET", body: none, status: 500, want: handedOn},
		{name: "GET 404", method: "GET", body: none, status: 404, want: handedOn},
		{name: "GET 500 if so configured", method: "GET", body: none, status: 500, statues: []int{500}, want: retried},
		{name: "GET 503 if not", method: "GET", body: none, status: 503, statues: []int{}, want: handedOn},
		{name: "GET once", method: "GET", body: none, err: refused, tries: 1, want: failed},
		{name: "HEAD", method: "HEAD", body: none, err: broken, want: retried},
		{name: "OPTIONS", method: "OPTIONS", body: none, err: broken, want: retried},
		{name: "TRACE", method: "TRACE", body: none, err: broken, want: retried},
		{name: "DELETE", method: "DELETE", body: none, err: broken, want: retried},
		{name: "no method", method: "", body: none, err: broken, want: retried},
		{name: "PUT that can be had again", method: "PUT", body: again, reads: 4, err: broken, want: retried},
		{name: "PUT that was not read", method: "PUT", body: plain, err: broken, want: retried},
		{name: "PUT that was read", method: "PUT", body: plain, reads: 1, err: broken, want: failed},
		{name: "PUT 503 that was read", method: "PUT", body: plain, reads: 1, status: 503, want: handedOn},
		{name: "POST refused", method: "POST", body: none, err: refused, want: retried},
		{name: "POST refused, not read", method: "POST", body: plain, err: refused, want: retried},
		{name: "POST refused, to be had again", method: "POST", body: again, err: refused, want: retried},
		{name: "POST refused, read", method: "POST", body: plain, reads: 1, err: refused, want: failed},
		{name: "POST broken", method: "POST", body: none, err: broken, want: failed},
		{name: "POST 503", method: "POST", body: again, status: 503, want: handedOn},
		{name: "PATCH broken", method: "PATCH", body: none, err: broken, want: failed},
		{name: "POST with a key", method: "POST", body: again, header: "Idempotency-Key", err: broken, want: retried},
		{name: "POST with another key", method: "POST", body: again, header: "X-Idempotency-Key", status: 503, want: retried},
		{name: "not valid", method: "GET", body: none, err: errors.New(`net/http: invalid method "x"`), want: failed},
	} {
		t.Run(x.name, func(t *testing.T) {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
			var hosts []string
			var failures atomic.Int32 // bodies of failures that were not closed
			tr := newTransport(t, pool, TransportConfig{Tries: x.tries, RetryStatus: x.statues, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				hosts = append(hosts, r.URL.Host)
				if r.Body != nil {
					defer r.Body.Close()
				}
				if len(hosts) > 1 {
					body := []byte("no body")
					if r.Body != nil {
						body, _ = io.ReadAll(r.Body)
					}
					return reply(200, string(body)), nil
				}
				if x.reads > 0 {
					io.ReadFull(r.Body, make([]byte, x.reads))
				}
				if x.err != nil {
					return nil, x.err
				}
				resp := reply(x.status, "failed")
				failures.Add(1)
				resp.Body = &closeCounter{ReadCloser: resp.Body, closed: func() { failures.Add(-1) }}
				return resp, nil
			})})
			req := newRequest(t, x.method, "http://s/", x.body())
			if x.header != "" {
				req.Header.Set(x.header, "1")
			}
			closed := 0
			if req.Body != nil {
				req.Body = &closeCounter{ReadCloser: req.Body, closed: func() { closed++ }}
			}
			resp, err := tr.RoundTrip(req)
			switch x.want {
			case retried:
				require.NoError(t, err)
				require.Equal(t, 200, resp.StatusCode)
				want := "no body"
				if req.Body != nil {
					want = "body"
				}
				require.Equal(t, want, slurp(t, resp))
				require.Len(t, hosts, 2)
				require.NotEqual(t, hosts[0], hosts[1])
			case failed:
				require.ErrorIs(t, err, x.err)
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, 1, e.Tries)
				require.Len(t, hosts, 1)
			case handedOn:
				require.NoError(t, err)
				require.Equal(t, x.status, resp.StatusCode)
				require.Equal(t, "failed", slurp(t, resp))
				require.Len(t, hosts, 1)
			}
			require.Zero(t, failures.Load())
			if req.Body != nil {
				require.Equal(t, 1, closed)
			}
		})
	}
}

// A closeCounter calls closed for its first Close only, and again for each Close of a body that is not
// to be closed twice.
type closeCounter struct {
	io.ReadCloser
	closed func()
	done   bool
}

func (c *closeCounter) Close() error {
	if !c.done {
		c.done = true
		c.closed()
	}
	return c.ReadCloser.Close()
}

// All endpoints fail: after the last was tried, it waits, and begins anew; and the last answer is
// handed on.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
		var tries []Try
		var at []time.Duration
		start := time.Now()
		tr := newTransport(t, pool, TransportConfig{
			Tries: 6, Backoff: time.Second,
			OnTry: func(x Try) { tries, at = append(tries, x), append(at, time.Since(start)) },
			Base:  roundTrip(func(r *http.Request) (*http.Response, error) { return reply(503, r.URL.Host), nil }),
		})
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.NoError(t, err)
		require.Equal(t, 503, resp.StatusCode)
		last := slurp(t, resp)
		require.Len(t, tries, 6)
		require.Equal(t, tries[5].ID, last)
		for i, x := range tries {
			require.Equal(t, i+1, x.Number)
			require.Equal(t, 503, x.Status)
			require.Equal(t, loadbalance.Overload, x.Outcome)
			require.NoError(t, x.Err)
			if i%2 == 1 {
				require.NotEqual(t, tries[i-1].ID, x.ID)
				require.Equal(t, at[i-1], at[i], "it has waited while there was another endpoint")
			} else if i > 0 {
				wait := at[i] - at[i-1]
				require.Positive(t, wait)
				require.LessOrEqual(t, wait, time.Second<<(i/2-1))
			}
		}
		require.EqualValues(t, 3, outcomes(pool, 0, loadbalance.Overload))
	})
}

// The second wait is longer than the first may be, half of the time.
func TestBackoffGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		var at []time.Time
		budget, err := loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: 10, Burst: 1000})
		require.NoError(t, err)
		tr := newTransport(t, pool, TransportConfig{Backoff: time.Second, Budget: budget, Base: roundTrip(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Now())
			return nil, refused
		})})
		longer := 0
		for range 60 { // all are shorter once in 2^60
			at = nil
			_, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
			require.ErrorIs(t, err, refused)
			require.LessOrEqual(t, at[1].Sub(at[0]), time.Second)
			if at[2].Sub(at[1]) > time.Second {
				longer++
			}
		}
		require.NotZero(t, longer)
	})
}

// An endpoint that says when to come again is not asked earlier; another is.
func TestRetryAfter(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
	n := 0
	tr := newTransport(t, pool, TransportConfig{Tries: 10, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		n++
		return reply(503, "", "Retry-After", "9"), nil
	})})
	resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
	require.NoError(t, err)
	slurp(t, resp)
	require.Equal(t, 2, n)
}

func TestContextEndsWhileWaiting(t *testing.T) {
	for _, withAnswer := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
			n := 0
			tr := newTransport(t, pool, TransportConfig{Backoff: time.Minute, Tries: 100, Base: roundTrip(func(*http.Request) (*http.Response, error) {
				n++
				if withAnswer {
					return reply(503, "x"), nil
				}
				return nil, refused
			})})
			ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
			defer cancel()
			resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil).WithContext(ctx))
			require.Equal(t, 1, n)
			if withAnswer {
				require.NoError(t, err)
				slurp(t, resp)
				return
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, refused)
		})
	}
}

// There are never more retries than the budget has.
func TestBudget(t *testing.T) {
	budget, err := loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: 0.25, Burst: 2})
	require.NoError(t, err)
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b", "http://c")
	n := 0
	tr := newTransport(t, pool, TransportConfig{Budget: budget, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		n++
		return nil, refused
	})})
	for i := 1; i <= 100; i++ {
		_, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.ErrorIs(t, err, refused)
		require.LessOrEqual(t, float64(n), float64(i)*1.25+2)
	}
	require.GreaterOrEqual(t, n, 125)
	for i := range 3 { // nothing was picked in vain
		require.Zero(t, outcomes(pool, i, loadbalance.Canceled))
	}
}

func TestUnavailable(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{})
	tr := newTransport(t, pool, TransportConfig{})
	for _, body := range []io.Reader{strings.NewReader("x"), struct{ io.Reader }{strings.NewReader("x")}} {
		closed := 0
		req := newRequest(t, "POST", "http://s", body)
		req.Body = &closeCounter{ReadCloser: req.Body, closed: func() { closed++ }}
		_, err := tr.RoundTrip(req)
		require.ErrorIs(t, err, loadbalance.ErrNoEndpoints)
		require.Equal(t, 1, closed)
	}
	_, err := tr.RoundTrip(&http.Request{Method: "GET", Header: http.Header{}})
	require.ErrorContains(t, err, "URL of the request must be set")
}

// An endpoint without a URL is one that cannot be reached.
func TestNoURL(t *testing.T) {
	for _, u := range []*url.URL{nil, {Path: "/x"}} {
		pool := checked(t, loadbalance.Config[*url.URL]{Policy: loadbalance.RoundRobin(), Endpoints: []loadbalance.Endpoint[*url.URL]{
			{ID: "a", Value: u, Weight: 1}, {ID: "b", Value: &url.URL{Scheme: "http", Host: "b"}, Weight: 1},
		}})
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			r.Body.Close()
			return reply(200, string(b)), err
		})})
		for range 2 {
			for _, body := range []io.Reader{strings.NewReader("x"), struct{ io.Reader }{strings.NewReader("x")}} {
				closed := 0
				req := newRequest(t, "POST", "http://s", body)
				req.Body = &closeCounter{ReadCloser: req.Body, closed: func() { closed++ }}
				resp, err := tr.RoundTrip(req)
				require.NoError(t, err)
				require.Equal(t, "x", slurp(t, resp))
				require.Equal(t, 1, closed)
			}
		}
		require.Positive(t, outcomes(pool, 0, loadbalance.ConnectError))
	}
}

// The caller gives up: that is not the endpoint's fault, and nothing is retried.
func TestCancel(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{Outlier: loadbalance.OutlierConfig{ConsecutiveErrors: 1}}, "http://a", "http://b")
	n := 0
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("had enough")
	tr := newTransport(t, pool, TransportConfig{
		Outcome: func(*http.Response, error) loadbalance.Outcome { panic("not asked") },
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			n++
			cancel(cause)
			return nil, context.Cause(r.Context())
		}),
	})
	_, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil).WithContext(ctx))
	require.ErrorIs(t, err, cause)
	require.Equal(t, 1, n)
	require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled)+outcomes(pool, 1, loadbalance.Canceled))
	_, err = tr.RoundTrip(newRequest(t, "GET", "http://s", nil).WithContext(ctx))
	require.ErrorIs(t, err, cause)
	require.Equal(t, 1, n)
}

// The time of the caller runs out: that says nothing of the endpoint, as it may be any time, and nothing
// is retried.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		n := 0
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			n++
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		})})
		ctx, stop := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too late"))
		defer stop()
		_, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil).WithContext(ctx))
		require.ErrorContains(t, err, "too late")
		require.Equal(t, 1, n)
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled))
	})
}

// The same with an http.Client, which closes Cancel of the request.
func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b", "http://c")
		client := http.Client{Timeout: time.Second}
		n := 0
		canceled := func(r *http.Request) (*http.Response, error) {
			n++
			<-cancelOf(r) // as an http.Transport does
			return nil, errors.New("net/http: request canceled")
		}
		client.Transport = newTransport(t, pool, TransportConfig{Base: roundTrip(canceled)})
		_, err := client.Get("http://s")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, n)

		// While the body of the answer is read.
		client.Transport = newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			resp := reply(200, "xx")
			resp.Body = io.NopCloser(readFunc(func([]byte) (int, error) { return 0, errorOf(canceled(r)) }))
			return resp, nil
		})})
		resp, err := client.Get("http://s")
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		// While there is a wait before a retry, and before it begins.
		tr := newTransport(t, pool, TransportConfig{Tries: 5, Backoff: time.Minute, Base: roundTrip(func(*http.Request) (*http.Response, error) {
			return nil, refused
		})})
		req := newRequest(t, "GET", "http://s", nil)
		cancel := make(chan struct{})
		req.Cancel = cancel //lint:ignore SA1019 http.Client sets it
		time.AfterFunc(time.Nanosecond, func() { close(cancel) })
		_, err = tr.RoundTrip(req)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, refused)
		_, err = tr.RoundTrip(req)
		require.Equal(t, context.Canceled, err)

		var sum [2]uint64
		for i := range 3 {
			sum[0] += outcomes(pool, i, loadbalance.Canceled)
			sum[1] += outcomes(pool, i, loadbalance.ConnectError)
		}
		require.Equal(t, [2]uint64{2, 3}, sum)
	})
}

func errorOf(_ *http.Response, err error) error { return err }

// A try that takes too long is given up; and the time does not count for bodies.
func TestTryTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
		n := 0
		tr := newTransport(t, pool, TransportConfig{TryTimeout: time.Second, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			}
			time.Sleep(999 * time.Millisecond)
			resp := reply(200, "")
			pr, pw := io.Pipe()
			resp.Body = pr
			go func() {
				select {
				case <-time.After(time.Hour):
					pw.Write([]byte("late"))
					pw.Close()
				case <-r.Context().Done():
					pw.CloseWithError(r.Context().Err())
				}
			}()
			return resp, nil
		})})
		start := time.Now()
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.NoError(t, err)
		require.Equal(t, 1999*time.Millisecond, time.Since(start))
		require.Equal(t, "late", slurp(t, resp))
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Timeout)+outcomes(pool, 1, loadbalance.Timeout))

		n = 0
		_, err = tr.RoundTrip(newRequest(t, "POST", "http://s", nil))
		require.ErrorIs(t, err, ErrTryTimeout)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.Timeout())

		// An answer that comes too late is closed.
		closed := 0
		tr.config.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			resp := reply(200, "")
			resp.Body = &closeCounter{ReadCloser: resp.Body, closed: func() { closed++ }}
			return resp, nil
		})
		_, err = tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.ErrorIs(t, err, ErrTryTimeout)
		require.Equal(t, 3, closed)
	})
}

// A body that the caller cannot provide is no endpoint's failure.
func TestRequestBodyFails(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
	n := 0
	tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		n++
		defer r.Body.Close()
		_, err := io.ReadAll(r.Body)
		return nil, err
	})})
	own := errors.New("disk on fire")
	_, err := tr.RoundTrip(newRequest(t, "PUT", "http://s", io.MultiReader(strings.NewReader("x"), errReader{own})))
	require.ErrorIs(t, err, ErrRequestBody)
	require.ErrorIs(t, err, own)
	require.Equal(t, 1, n)
	require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled)+outcomes(pool, 1, loadbalance.Canceled))
}

type errReader struct{ error }

func (e errReader) Read([]byte) (int, error) { return 0, e.error }

// However the body of an answer ends, the request does, once.
func TestBodyEnds(t *testing.T) {
	for _, x := range []struct {
		name string
		end  func(t *testing.T, resp *http.Response, cancel func())
		body io.ReadCloser
		want loadbalance.Outcome
	}{
		{name: "EOF", end: func(t *testing.T, resp *http.Response, _ func()) { io.Copy(io.Discard, resp.Body) }},
		{name: "Close", end: func(t *testing.T, resp *http.Response, _ func()) { resp.Body.Close() }},
		{name: "both, and twice", end: func(t *testing.T, resp *http.Response, _ func()) {
			io.Copy(io.Discard, resp.Body)
			require.NoError(t, resp.Body.Close())
			require.NoError(t, resp.Body.Close())
			io.Copy(io.Discard, resp.Body)
		}},
		{name: "none", body: http.NoBody, end: func(*testing.T, *http.Response, func()) {}},
		{name: "nil", end: func(t *testing.T, resp *http.Response, _ func()) { resp.Body.Close() }},
		{name: "error", body: io.NopCloser(errReader{io.ErrUnexpectedEOF}), want: loadbalance.ServerError, end: func(t *testing.T, resp *http.Response, _ func()) {
			_, err := io.Copy(io.Discard, resp.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		}},
		{name: "cancel", body: io.NopCloser(errReader{io.ErrNoProgress}), want: loadbalance.Canceled, end: func(t *testing.T, resp *http.Response, cancel func()) {
			cancel()
			_, err := io.Copy(io.Discard, resp.Body)
			require.ErrorIs(t, err, io.ErrNoProgress)
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, d := range []time.Duration{0, time.Hour} {
				pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
				var tried context.Context
				tr := newTransport(t, pool, TransportConfig{TryTimeout: d, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					tried = r.Context()
					resp := reply(200, "hello")
					if x.body != nil || x.name == "nil" {
						resp.Body = x.body
					}
					return resp, nil
				})})
				ctx, cancel := context.WithCancel(t.Context())
				resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil).WithContext(ctx))
				require.NoError(t, err)
				x.end(t, resp, cancel)
				require.Zero(t, inFlight(pool))
				if x.want != loadbalance.OK {
					require.EqualValues(t, 1, outcomes(pool, 0, x.want))
				}
				if d > 0 {
					require.Error(t, tried.Err(), "the context of the try is still there")
				}
				cancel()
			}
		})
	}
}

// Hooks that panic leave no request in flight, and no body open.
func TestHooksPanic(t *testing.T) {
	boom := func() { panic("boom") }
	for _, x := range []struct {
		name string
		c    TransportConfig
	}{
		{"Hash", TransportConfig{Hash: func(*http.Request) uint64 { boom(); return 0 }}},
		{"Zone", TransportConfig{Zone: func(*http.Request) string { boom(); return "" }}},
		{"Outcome", TransportConfig{Outcome: func(*http.Response, error) loadbalance.Outcome { boom(); return 0 }}},
		{"OnTry", TransportConfig{OnTry: func(Try) { boom() }}},
	} {
		t.Run(x.name, func(t *testing.T) {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
			open := 0
			x.c.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
				open++
				resp := reply(200, "hello")
				resp.Body = &closeCounter{ReadCloser: resp.Body, closed: func() { open-- }}
				return resp, nil
			})
			tr := newTransport(t, pool, x.c)
			require.PanicsWithValue(t, "boom", func() { tr.RoundTrip(newRequest(t, "GET", "http://s", nil)) })
			require.Zero(t, open)
			require.Zero(t, inFlight(pool))
		})
	}
	t.Run("Base", func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") })})
		require.PanicsWithValue(t, "boom", func() { tr.RoundTrip(newRequest(t, "GET", "http://s", nil)) })
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.ServerError))
	})
	t.Run("Outcome at the end of the body", func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		tr := newTransport(t, pool, TransportConfig{
			Outcome: func(_ *http.Response, err error) loadbalance.Outcome {
				if err != nil {
					boom()
				}
				return loadbalance.OK
			},
			Base: roundTrip(func(*http.Request) (*http.Response, error) {
				resp := reply(200, "")
				resp.Body = io.NopCloser(errReader{io.ErrUnexpectedEOF})
				return resp, nil
			}),
		})
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.NoError(t, err)
		require.PanicsWithValue(t, "boom", func() { resp.Body.Read(make([]byte, 1)) })
		require.Zero(t, inFlight(pool))
	})
	t.Run("GetBody", func(t *testing.T) {
		for _, err := range []error{nil, refused} {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
			open := 0
			tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) {
				if err != nil {
					return nil, err
				}
				open++
				resp := reply(503, "hello")
				resp.Body = &closeCounter{ReadCloser: resp.Body, closed: func() { open-- }}
				return resp, nil
			})})
			req := newRequest(t, "PUT", "http://s", strings.NewReader("x"))
			req.GetBody = func() (io.ReadCloser, error) { boom(); return nil, nil }
			require.PanicsWithValue(t, "boom", func() { tr.RoundTrip(req) })
			require.Zero(t, open)
			require.Zero(t, inFlight(pool))
		}
	})
	t.Run("nothing", func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })})
		_, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
		require.ErrorContains(t, err, "neither an answer nor an error")
	})
}

// What is passed on to the Pool.
func TestHashAndZone(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{Policy: loadbalance.IPHash()}, "http://a", "http://b", "http://c")
	tr := newTransport(t, pool, TransportConfig{
		Hash: func(r *http.Request) uint64 { return loadbalance.HashString(r.URL.Path) },
		Base: roundTrip(func(r *http.Request) (*http.Response, error) { return reply(200, r.URL.Host), nil }),
	})
	owners := make(map[string]bool)
	for i := range 30 {
		owner := ""
		for range 3 {
			resp, err := tr.RoundTrip(newRequest(t, "GET", fmt.Sprintf("http://s/%d", i), nil))
			require.NoError(t, err)
			got := slurp(t, resp)
			require.True(t, owner == "" || owner == got)
			owner = got
		}
		owners[owner] = true
	}
	require.Len(t, owners, 3)

	u := &url.URL{Scheme: "http", Host: "h"}
	zones := checked(t, loadbalance.Config[*url.URL]{Policy: loadbalance.PreferZone(nil), Endpoints: []loadbalance.Endpoint[*url.URL]{
		{ID: "a", Value: u, Zone: "x", Weight: 1}, {ID: "b", Value: u, Zone: "y", Weight: 1},
	}})
	tr = newTransport(t, zones, TransportConfig{
		Zone: func(r *http.Request) string { return r.URL.Path[1:] },
		Base: tr.config.Base,
	})
	for range 5 {
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s/y", nil))
		require.NoError(t, err)
		slurp(t, resp)
	}
	require.EqualValues(t, 5, picked(zones, 1))

	require.Equal(t, HashRemoteAddr(&http.Request{RemoteAddr: "192.0.2.1:1"}), HashRemoteAddr(&http.Request{RemoteAddr: "192.0.2.1:2"}))
	require.NotEqual(t, HashRemoteAddr(&http.Request{RemoteAddr: "192.0.2.1:1"}), HashRemoteAddr(&http.Request{RemoteAddr: "192.0.2.2:1"}))
	require.Zero(t, HashRemoteAddr(&http.Request{RemoteAddr: "@"}))
}

// A stream of an hour does not make its endpoint slow.
func TestLatencyIsToTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{Policy: loadbalance.LeastResponseTime()}, "http://a")
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Millisecond)
			return reply(200, "x"), nil
		})})
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s/", nil))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		slurp(t, resp)
		require.InEpsilon(t, time.Millisecond, pool.Stats().Endpoints[0].Latency, 1e-3)
	})
}

// With an http.Client over real connections: of redirects, cookies and compression it sees what it sees
// without.
func TestClient(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/target", http.StatusFound)
		default:
			fmt.Fprintf(w, "%s %s", r.Host, r.URL.Path)
		}
	})
	pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL)
	client := &http.Client{Transport: newTransport(t, pool, TransportConfig{})}
	resp, err := client.Get("http://service.test/redirect")
	require.NoError(t, err)
	require.Equal(t, "service.test /target", slurp(t, resp))
	require.Equal(t, "http://service.test/target", resp.Request.URL.String())

	req := newRequest(t, "GET", "http://service.test/", nil)
	req.Host = "other.test"
	resp, err = client.Do(req)
	require.NoError(t, err)
	require.Equal(t, "other.test /", slurp(t, resp))

	own := &http.Client{Transport: newTransport(t, pool, TransportConfig{EndpointHost: true})}
	resp, err = own.Do(req)
	require.NoError(t, err)
	require.Equal(t, strings.TrimPrefix(backend.URL, "http://")+" /", slurp(t, resp))

	resp, err = client.Head("http://service.test/")
	require.NoError(t, err) // and no body to close
	require.Equal(t, 200, resp.StatusCode)
	eventually(t, func() bool { return inFlight(pool) == 0 }, "HEAD is in flight")
}

// Endpoints by TLS, with HTTP/2; and one whose certificate is not valid counts as one that cannot be
// reached.
func TestTLSEndpoints(t *testing.T) {
	good := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	good.EnableHTTP2 = true
	good.StartTLS()
	defer good.Close()
	base := good.Client().Transport.(*http.Transport).Clone()
	bad := httptest.NewUnstartedServer(nil)
	bad.Config.ErrorLog = discardLog
	bad.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	bad.StartTLS()
	defer bad.Close()
	plain := newBackend(t, nil)
	pool := newPool(t, loadbalance.Config[*url.URL]{}, good.URL, bad.URL, strings.Replace(plain.URL, "http:", "https:", 1))
	tr := newTransport(t, pool, TransportConfig{Base: base, Tries: 3})
	for range 4 { // so that the budget is enough
		resp, err := tr.RoundTrip(newRequest(t, "POST", "http://s/", strings.NewReader("x")))
		require.NoError(t, err)
		require.Equal(t, "HTTP/2.0", slurp(t, resp))
	}
	require.Positive(t, outcomes(pool, 1, loadbalance.ConnectError))
	require.Positive(t, outcomes(pool, 2, loadbalance.ConnectError))
}

// A try without retries allocates no more than this.
func TestAllocs(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
	resp := reply(200, "")
	body := io.NopCloser(bytes.NewReader(nil))
	tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		resp.Body = body
		return resp, nil
	})})
	req := newRequest(t, "GET", "http://s/", nil)
	n := testing.AllocsPerRun(100, func() {
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	})
	require.LessOrEqual(t, n, 1.0)
}

// Why a request that may be retried is not: the answer or error there is, is handed on.
func TestNoRetry(t *testing.T) {
	own := errors.New("own")
	for _, x := range []struct {
		name string
		once bool
		do   func(t *testing.T, pool *loadbalance.Pool[*url.URL], req *http.Request)
	}{
		{name: "GetBody fails", do: func(t *testing.T, _ *loadbalance.Pool[*url.URL], req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, own }
		}},
		{name: "the others have gone", do: func(t *testing.T, pool *loadbalance.Pool[*url.URL], req *http.Request) {
			for i := range 3 {
				require.NoError(t, pool.SetWeight(name(i), 0))
			}
		}},
		{name: "the Pool is closed", do: func(_ *testing.T, pool *loadbalance.Pool[*url.URL], _ *http.Request) { pool.Close() }},
		{name: "the body is not to be had again", once: true, do: func(*testing.T, *loadbalance.Pool[*url.URL], *http.Request) {}},
	} {
		t.Run(x.name, func(t *testing.T) {
			pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b", "http://c")
			req := newRequest(t, "PUT", "http://s/", strings.NewReader("body"))
			open := 0
			tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
				open++
				resp := reply(503, "not now")
				resp.Body = &closeCounter{ReadCloser: resp.Body, closed: func() { open-- }}
				if open == 1 {
					x.do(t, pool, req)
				}
				return resp, nil
			})})
			if x.once {
				req.GetBody = nil
			}
			resp, err := tr.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, 503, resp.StatusCode)
			require.Equal(t, "not now", slurp(t, resp))
			require.Zero(t, open)
		})
	}
}

// The last one gone while it waits for the backoff.
func TestGoneWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		n := 0
		tr := newTransport(t, pool, TransportConfig{Backoff: time.Minute, Base: roundTrip(func(*http.Request) (*http.Response, error) {
			n++
			time.AfterFunc(time.Nanosecond, func() { pool.Remove("a") })
			return reply(503, "last"), nil
		})})
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s/", nil))
		require.NoError(t, err)
		require.Equal(t, "last", slurp(t, resp))
		require.Equal(t, 1, n)
	})
}

// The body of an answer that is not wanted is read if it is short, but not for long.
func TestDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
		n := 0
		pr, pw := io.Pipe() // nothing comes
		defer pw.Close()
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) {
			if n++; n > 1 {
				return reply(200, "good"), nil
			}
			resp := reply(503, "x")
			resp.Body = pr
			return resp, nil
		})})
		start := time.Now()
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s/", nil))
		require.NoError(t, err)
		require.Equal(t, "good", slurp(t, resp))
		require.Equal(t, drainTime, time.Since(start))
	})

	// It really is the same connection that is used again.
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	pool := newPool(t, loadbalance.Config[*url.URL]{}, s.URL)
	tr := newTransport(t, pool, TransportConfig{Tries: 5, Backoff: time.Millisecond})
	resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s/", nil))
	require.NoError(t, err)
	require.Equal(t, "not now\n", slurp(t, resp))
	require.EqualValues(t, 5, picked(pool, 0))
	require.EqualValues(t, 1, conns.Load())
}

// A connection that the endpoint has closed while it was idle is no failure, of a POST neither, and its
// body is sent whole.
func TestStaleConnections(t *testing.T) {
	var mu sync.Mutex
	var idle []net.Conn
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			mu.Lock()
			defer mu.Unlock()
			idle = append(idle, c)
		}
	}
	s.Start()
	defer s.Close()
	pool := newPool(t, loadbalance.Config[*url.URL]{}, s.URL)
	front := newProxy(t, pool, ReverseProxyConfig{Transport: TransportConfig{Tries: 1}})
	for range 20 {
		resp, err := front.Client().Do(newRequest(t, "POST", front.URL, strings.NewReader("body")))
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "body", slurp(t, resp))
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(idle) > 0
		}, "no connection is idle")
		mu.Lock()
		for _, c := range idle {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		idle = nil
		mu.Unlock()
	}
}

// Sending a body takes as long as the caller likes, if the endpoint takes it.
func TestSlowCaller(t *testing.T) {
	type sent struct {
		first, then time.Duration // waits of the caller, in a body of three parts
	}
	for _, x := range []struct {
		name     string
		deadline time.Duration
		caller   sent
		reads    int           // parts that the endpoint reads
		answers  time.Duration // after that
		want     loadbalance.Outcome
		took     time.Duration
	}{
		{"the caller stalls until its deadline", 5 * time.Second, sent{time.Hour, 0}, 3, 0, loadbalance.Canceled, 5 * time.Second},
		{"the caller stalls, but not for ever", 0, sent{time.Hour, 0}, 3, 0, loadbalance.OK, time.Hour},
		{"the caller is slow", 0, sent{900 * time.Millisecond, 5 * time.Second}, 3, 999 * time.Millisecond, loadbalance.OK, 6899 * time.Millisecond},
		{"the endpoint is slow to answer", 0, sent{900 * time.Millisecond, 0}, 3, 2 * time.Second, loadbalance.Timeout, 1900 * time.Millisecond},
		{"the endpoint is slow to read", 0, sent{}, 2, time.Hour, loadbalance.Timeout, time.Second},
		{"the endpoint is slow to read what came late", 0, sent{3 * time.Second, 0}, 2, time.Hour, loadbalance.Timeout, 4 * time.Second},
		{"neither is slow", 0, sent{}, 3, time.Second / 2, loadbalance.OK, time.Second / 2},
	} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", x.name, again), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
					tr := newTransport(t, pool, TransportConfig{TryTimeout: time.Second, Tries: 1, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
						answer := make(chan struct{})
						go func() {
							defer close(answer)
							for range x.reads {
								if n, err := r.Body.Read(make([]byte, 10)); n == 0 && err != nil {
									return
								}
							}
							select {
							case <-time.After(x.answers):
							case <-r.Context().Done():
							}
						}()
						select {
						case <-answer:
							return reply(200, "ok"), r.Context().Err()
						case <-r.Context().Done():
							return nil, r.Context().Err()
						}
					})})
					tr.buffer = 1 << 10
					body, w := io.Pipe()
					go func() {
						w.Write([]byte("one"))
						time.Sleep(x.caller.first)
						w.Write([]byte("two"))
						time.Sleep(x.caller.then)
						w.Write([]byte("three"))
						w.Close()
					}()
					ctx, cancel := t.Context(), func() {}
					if x.deadline > 0 {
						ctx, cancel = context.WithTimeout(ctx, x.deadline)
					}
					defer cancel()
					req := newRequest(t, "PUT", "http://s", body).WithContext(ctx)
					if again {
						req.GetBody = func() (io.ReadCloser, error) { panic("not asked") }
					}
					start := time.Now()
					resp, err := tr.RoundTrip(req)
					require.Equal(t, x.took, time.Since(start))
					if x.want == loadbalance.OK {
						require.NoError(t, err)
						require.Equal(t, "ok", slurp(t, resp))
						time.Sleep(time.Hour) // nothing ends the context later
					} else {
						require.Error(t, err)
						require.Equal(t, x.want == loadbalance.Timeout, errors.Is(err, ErrTryTimeout))
					}
					require.EqualValues(t, 1, outcomes(pool, 0, x.want))
					body.Close()
					time.Sleep(2 * time.Hour) // all goroutines end
				})
			})
		}
	}
}

// A body is the caller's also if it can be had again; and what is in its error says nothing of the
// endpoint, not even that nothing was sent.
func TestGetBodyFails(t *testing.T) {
	for _, method := range []string{"PUT", "POST"} {
		for _, own := range []error{errors.New("disk on fire"), refused} {
			var got atomic.Int32
			backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
				got.Add(1)
				io.Copy(io.Discard, r.Body)
			})
			pool := newPool(t, loadbalance.Config[*url.URL]{}, backend.URL, backend.URL)
			tr := newTransport(t, pool, TransportConfig{})
			req := newRequest(t, method, "http://s", nil)
			req.GetBody = func() (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 10000)), errReader{own})), nil
			}
			req.Body, _ = req.GetBody()
			req.ContentLength = -1
			_, err := tr.RoundTrip(req)
			require.ErrorIs(t, err, ErrRequestBody)
			require.ErrorIs(t, err, own)
			require.EqualValues(t, 1, picked(pool, 0)+picked(pool, 1))
			require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled)+outcomes(pool, 1, loadbalance.Canceled))
			require.LessOrEqual(t, got.Load(), int32(1))
			require.NotEqual(t, loadbalance.ConnectError, Classify(nil, err))
		}
	}
}

// Base sees what it can send in one piece; other bodies that can be had again are watched, those that
// Base gets by itself, too.
func TestInMemory(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer file.Close()
	for _, x := range []struct {
		body io.Reader
		want bool
	}{
		{strings.NewReader("x"), true}, {bytes.NewReader([]byte("x")), true}, {bytes.NewBufferString("x"), true},
		{file, false}, {io.NopCloser(file), false}, {io.NopCloser(errReader{io.EOF}), false}, {struct{ io.Reader }{}, false},
	} {
		require.Equal(t, x.want, inMemory(x.body))
		req := newRequest(t, "PUT", "http://s", x.body)
		if req.GetBody == nil {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(errReader{io.ErrNoProgress}), nil }
		}
		tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			require.Equal(t, x.want, r.Body == req.Body)
			again, err := r.GetBody()
			require.NoError(t, err)
			_, err = again.Read(make([]byte, 1))
			require.Equal(t, !x.want, errors.Is(err, ErrRequestBody))
			return reply(200, ""), nil
		})})
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		slurp(t, resp)
	}
}

// A Read that Close interrupts fails, with whatever error: for HTTP/2 that is one of its own.
func TestCloseWhileReading(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	pr, pw := io.Pipe()
	reading, read := make(chan struct{}), make(chan error)
	tr := newTransport(t, pool, TransportConfig{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		resp := reply(200, "x")
		resp.Body = struct {
			io.Reader
			io.Closer
		}{
			readFunc(func(p []byte) (int, error) { close(reading); return pr.Read(p) }),
			closeFunc{f: func() {
				pw.CloseWithError(errors.New("http2: response body closed"))
				require.ErrorContains(t, <-read, "http2")
			}},
		}
		return resp, nil
	})})
	resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
	require.NoError(t, err)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		read <- err
	}()
	<-reading
	require.NoError(t, resp.Body.Close())
	require.Zero(t, outcomes(pool, 0, loadbalance.ServerError))
	require.Zero(t, inFlight(pool))
}

// An answer without a body is not in flight, even if it is never closed.
func TestNoBody(t *testing.T) {
	for _, x := range []struct {
		method string
		status int
		length int64
		ended  bool
	}{
		{"HEAD", 200, 10, true}, {"GET", 204, -1, true}, {"GET", 304, 10, true}, {"GET", 200, 0, true},
		{"GET", 200, -1, false}, {"GET", 200, 10, false}, {"GET", 101, 0, false},
	} {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
		var ctx context.Context
		tr := newTransport(t, pool, TransportConfig{TryTimeout: time.Hour, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			ctx = r.Context()
			resp := reply(x.status, "")
			resp.ContentLength = x.length
			return resp, nil
		})})
		resp, err := tr.RoundTrip(newRequest(t, x.method, "http://s", nil))
		require.NoError(t, err)
		require.Equal(t, x.ended, inFlight(pool) == 0, x)
		require.NoError(t, ctx.Err())
		resp.Body.Close()
		require.Error(t, ctx.Err())
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.OK))
	}
}

// A body that Base goes on to read after its try has ended says nothing of the next try: neither that the
// caller is waited for, nor that it has failed.
func TestBodyOfTheTryBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b")
		tries := 0
		tr := newTransport(t, pool, TransportConfig{Tries: 2, TryTimeout: time.Second, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				go r.Body.Read(make([]byte, 1)) // and it is never closed
				synctest.Wait()
				return reply(503, ""), nil
			}
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		})})
		first, w := io.Pipe()
		defer w.Close()
		req := newRequest(t, "PUT", "http://s", first)
		req.GetBody = func() (io.ReadCloser, error) { r, _ := io.Pipe(); return io.NopCloser(r), nil }
		start := time.Now()
		_, err := tr.RoundTrip(req)
		require.ErrorIs(t, err, ErrTryTimeout)
		require.Equal(t, time.Second, time.Since(start))
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Timeout)+outcomes(pool, 1, loadbalance.Timeout))
	})
}

// An endpoint that breaks off while the body is sent is charged with that, over HTTP/2 too, where Base closes the
// body that it is reading.
func TestEndpointBreaksOffWhileSending(t *testing.T) {
	n := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			io.ReadFull(r.Body, make([]byte, 1))
			panic(http.ErrAbortHandler)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	pool := newPool(t, loadbalance.Config[*url.URL]{}, s.URL)
	tr := newTransport(t, pool, TransportConfig{Base: s.Client().Transport})
	body, sent := io.Pipe()
	go sent.Write([]byte("x")) // and nothing more
	req := newRequest(t, "PUT", "http://s", body)
	req.GetBody = func() (io.ReadCloser, error) { r, w := io.Pipe(); w.Close(); return r, nil }
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	resp.Body.Close()
	require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.ServerError))
}
