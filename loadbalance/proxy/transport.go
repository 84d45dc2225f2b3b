package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// A TransportConfig configures a Transport.
type TransportConfig struct {
	_ struct{}

	// Base sends the requests, and keeps connections. nil: a copy of http.DefaultTransport as it is at
	// that time, with up to 256 idle connections for each endpoint, 5 s to connect, and without Proxy:
	// endpoints are reached directly, whatever HTTP_PROXY says. (If http.DefaultTransport is no
	// *http.Transport, a new one.)
	Base http.RoundTripper
	// Tries is how often a request may be tried in all, from 1 to 100. 1: there are no retries; 0: 3.
	Tries int
	// Budget bounds the retries of all requests, and can be shared by several Transports. nil: one with
	// Ratio 0.2.
	Budget *loadbalance.Budget
	// TryTimeout is how long each try may take to the header of the answer, after which it is given up,
	// and perhaps another endpoint tried. The body may take longer. While the body of the request is
	// sent, the time begins anew with each part that Base takes of it, and does not run while Base waits
	// for the caller; but for one in memory, as http.NewRequest has it. 0: no limit but that of the
	// request's context.
	TryTimeout time.Duration
	// Backoff bounds the wait before a retry when all endpoints have been tried: it is random up to
	// Backoff the first time, then up to twice that, and so on, up to 32 times. While there is another
	// endpoint, there is no wait. At most a minute; 0: 25 ms.
	Backoff time.Duration
	// RetryStatus are the statuses, from 400 to 599, that are retried if the request may be. nil: 502,
	// 503 and 504; empty, but not nil: none. An answer with Retry-After is handed on when all endpoints
	// have been tried.
	RetryStatus []int

	// Hash returns what is Hash of the loadbalance.Request: for IPHash and ConsistentHash. nil: 0, which
	// is one endpoint for all with those; see HashRemoteAddr.
	Hash func(*http.Request) uint64
	// Zone returns where the caller is, for PreferZone. nil: that of the Pool.
	Zone func(*http.Request) string
	// Sticky has a client get the same endpoint again by a cookie. nil: there is none.
	Sticky *StickyCookie

	// EndpointHost sends the host of the endpoint's URL as Host. Otherwise it is that of the request,
	// or of its URL: a name of the service, which all endpoints go by. A request with neither, as a
	// server gets it, has the endpoint's.
	EndpointHost bool

	// Outcome tells how a try ended, by the header of the answer, or by an error if there was none;
	// both are there if the body has ended with an error. It is not asked about requests that the
	// caller has given up. nil: Classify.
	Outcome func(*http.Response, error) loadbalance.Outcome
	// OnTry is called after each try, by the goroutine of the request: when there is the header of the
	// answer, or an error. It must not touch the request. nil: nothing is called.
	OnTry func(Try)
}

// A Try is what OnTry is told of an attempt to have a request answered.
type Try struct {
	Request  *http.Request       // as it was given to the Transport
	ID       string              // of the endpoint
	Number   int                 // 1 for the first try of a request
	Status   int                 // of the answer; 0: there was none
	Err      error               // why there was none
	Duration time.Duration       // to the header of the answer, or the error
	Outcome  loadbalance.Outcome // what the endpoint is charged with
}

// A Transport is an http.RoundTripper that sends each request to an endpoint that a Pool picks, and may
// try again with another.
//
// A Transport is safe for concurrent use by multiple goroutines. It starts none.
type Transport struct {
	pool   *loadbalance.Pool[*url.URL]
	config TransportConfig
	sticky *sticky // nil: there is none
	buffer int64   // how much is kept of bodies; 0: nothing
	server bool    // for a reverse proxy, whose requests have a context that ends with them
}

// NewTransport returns a Transport over the endpoints of pool, whose values are URLs with scheme and
// host, and perhaps a path and a query that all requests get. It returns an error if pool is nil or a
// field is out of range.
func NewTransport(pool *loadbalance.Pool[*url.URL], c TransportConfig) (*Transport, error) {
	if c.Tries == 0 {
		c.Tries = 3
	}
	if c.Backoff == 0 {
		c.Backoff = 25 * time.Millisecond
	}
	if c.RetryStatus == nil {
		c.RetryStatus = []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
	}
	c.RetryStatus = slices.Clone(c.RetryStatus)
	switch {
	case pool == nil:
		return nil, errors.New("loadbalance/proxy: pool must be set, got nil")
	case c.Tries < 1 || c.Tries > 100:
		return nil, fmt.Errorf("loadbalance/proxy: Tries must be between 1 and 100, got %d", c.Tries)
	case c.TryTimeout < 0:
		return nil, fmt.Errorf("loadbalance/proxy: TryTimeout must be at least 0, got %v", c.TryTimeout)
	case c.Backoff < 0 || c.Backoff > time.Minute:
		return nil, fmt.Errorf("loadbalance/proxy: Backoff must be between 0 and 1m, got %v", c.Backoff)
	}
	for _, status := range c.RetryStatus {
		if status < 400 || status > 599 {
			return nil, fmt.Errorf("loadbalance/proxy: RetryStatus must be between 400 and 599, got %d", status)
		}
	}
	if c.Base == nil {
		c.Base = newBase()
	}
	if c.Budget == nil {
		var err error
		if c.Budget, err = loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: 0.2}); err != nil {
			return nil, err
		}
	}
	if c.Outcome == nil {
		c.Outcome = Classify
	}
	t := &Transport{pool: pool, config: c}
	if c.Sticky != nil {
		var err error
		if t.sticky, err = newSticky(*c.Sticky); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// newBase returns the Transport that is used if no other is given.
func newBase() *http.Transport {
	base := &http.Transport{ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second}
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		base = d.Clone()
	}
	base.Proxy = nil
	base.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	base.MaxIdleConns = 0
	base.MaxIdleConnsPerHost = 256
	return base
}

// RoundTrip sends a request to an endpoint, and to another if that fails and the request may be
// retried; see the package comment for when. The request in flight ends when the body of the answer has
// been read to its end, or is closed, or at once if there is none; its latency is the time to the header.
//
// It returns an Error if the last try has no answer, and the answer of the last try, with whatever
// status, if it has. If there is no endpoint to try, its error wraps loadbalance.ErrUnavailable. A
// request whose URL is opaque (x:y, without a path) is refused: what is in it would be sent as it is,
// without the path of the endpoint.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	b := body{req: req}
	if hasBody(req) && req.GetBody == nil {
		most := t.buffer
		if !idempotent(req) {
			most = min(most, bufferedUnsafe)
		}
		size := req.ContentLength
		if size == 0 {
			size = -1
		}
		b.replay = newReplay(req.Body, size, most)
		b.progress = &b.replay.progress
	} else if hasBody(req) && !inMemory(req.Body) {
		b.progress = new(progress)
	}
	if b.progress != nil && t.config.TryTimeout > 0 {
		b.progress.start = time.Now()
	}
	if req.URL == nil {
		b.finish(false)
		return nil, errors.New("loadbalance/proxy: URL of the request must be set, got nil")
	}
	if req.URL.Opaque != "" {
		b.finish(false)
		return nil, errOpaque
	}
	if err := gaveUp(req); err != nil {
		b.finish(false)
		return nil, err
	}
	t.config.Budget.Request()
	var r loadbalance.Request
	if t.config.Hash != nil {
		r.Hash = t.config.Hash(req)
	}
	if t.config.Zone != nil {
		r.Zone = t.config.Zone(req)
	}
	c := &call{t: t, number: 1}
	stuck := "" // to which endpoint the client is
	var err error
	if t.sticky != nil {
		for id := range t.sticky.ids(req) {
			if c.lease, err = t.pool.PickID(id); err == nil {
				stuck = id
				break
			}
		}
	}
	if stuck == "" {
		c.lease, err = t.pool.Pick(r)
	}
	if err != nil {
		b.finish(false)
		return nil, err
	}
	for {
		resp, err := c.try(req, &b)
		next, why := c.retry(req, resp, err, &r, &b)
		if next != nil {
			c.discard(resp)
			c = next
			continue
		}
		b.finish(resp != nil)
		if resp != nil {
			if t.sticky != nil && stuck != c.lease.ID() && answered(c.outcome) {
				t.sticky.set(resp.Header, c.lease.ID())
			}
			return c.answer(req, resp), nil
		}
		if why != nil {
			err = fmt.Errorf("%w, after %w", why, err)
		}
		return nil, &Error{ID: c.lease.ID(), Tries: c.number, Err: err}
	}
}

// gaveUp returns why the caller does not want an answer any more, or nil if it does. An http.Client with
// a Timeout closes Cancel, perhaps before the context ends; and whoever looks at the deadline may fail
// before it does.
func gaveUp(req *http.Request) error {
	ctx := req.Context()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-cancelOf(req):
		return context.Canceled
	default:
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

func cancelOf(req *http.Request) <-chan struct{} {
	return req.Cancel //lint:ignore SA1019 http.Client sets it
}

// answered reports whether an outcome is that of an endpoint that is well.
func answered(o loadbalance.Outcome) bool {
	o = o.WithLoad(0)
	return o == loadbalance.OK || o == loadbalance.ClientError
}

// bufferedUnsafe is how much is kept of the body of a request that is not idempotent. Base may have
// read that much into its buffer when it finds that the connection was closed before anything was
// written.
const bufferedUnsafe = 4 << 10

// A body is that of a request, for each of its tries.
type body struct {
	req      *http.Request
	replay   *replay       // nil: there is none, or the request has GetBody
	progress *progress     // nil: there is none, or it is in memory
	again    io.ReadCloser // for the next try; nil: this is the first, or there is none
	opened   bool          // Base has the request's own, and closes it
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// set sets the body of out for the next try.
func (b *body) set(out *http.Request) {
	switch {
	case !hasBody(b.req):
	case b.again != nil:
		out.Body, b.again = b.again, nil
	case b.replay != nil:
		out.Body = b.replay.first()
	default:
		b.opened = true
		if b.progress != nil {
			out.Body = &watched{src: b.req.Body, p: b.progress}
		}
	}
	switch {
	case b.progress == nil:
	case b.replay == nil:
		get, p := b.req.GetBody, b.progress
		out.GetBody = func() (io.ReadCloser, error) {
			again, err := get()
			if err != nil {
				return nil, err
			}
			return &watched{src: again, p: p}, nil
		}
	case b.replay.max > 0:
		out.GetBody = b.replay.getBody
	}
}

// rewind reports whether the body can be sent again, and gets it.
func (b *body) rewind() bool {
	switch {
	case !hasBody(b.req):
		return true
	case b.replay != nil:
		if next := b.replay.next(); next != nil {
			b.again = next
			return true
		}
	case b.req.GetBody != nil:
		if again, err := b.req.GetBody(); err == nil {
			if b.progress != nil {
				b.progress = &progress{start: b.progress.start}
				again = &watched{src: again, p: b.progress}
			}
			b.again = again
			return true
		}
	}
	return false
}

// spoiled reports whether the body cannot be sent again.
func (b *body) spoiled() bool { return b.replay != nil && b.replay.spoiled() }

// failed reports whether the body could not be read.
func (b *body) failed() bool { return b.progress != nil && b.progress.fails.Load() }

// finish says that there will be no other try, and closes what no try has got.
func (b *body) finish(answered bool) {
	switch {
	case b.replay != nil:
		b.replay.finish(answered)
	case hasBody(b.req) && !b.opened:
		b.req.Body.Close()
	}
	if b.again != nil {
		b.again.Close()
	}
}

// A call is a try: what it needs is allocated at once. After that it is the body of the answer.
type call struct {
	t        *Transport
	number   int // of the try
	waits    int // how often there was a wait before
	lease    loadbalance.Lease[*url.URL]
	cancel   context.CancelCauseFunc // of the context of TryTimeout, or nil
	outcome  loadbalance.Outcome     // by the header of the answer, or the error
	caller   bool                    // it failed for what the caller did
	state    atomic.Int32            // waiting, returned or late
	progress *progress               // of the body, if there is TryTimeout
	ctx      context.Context         // of the request
	resp     *http.Response
	body     io.ReadCloser
	closed   atomic.Bool // by the caller
	url      url.URL
	out      http.Request
}

// end ends the request in flight.
func (c *call) end(o loadbalance.Outcome) {
	c.lease.Done(o)
	if c.cancel != nil {
		c.cancel(nil)
	}
}

// try sends the request. If it returns an error, or panics, the request in flight has ended.
func (c *call) try(req *http.Request, b *body) (resp *http.Response, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		c.end(loadbalance.ServerError) // by a panic, of a hook or of Base
		b.finish(false)
		if resp != nil {
			resp.Body.Close()
		}
	}()
	config := &c.t.config
	c.ctx = req.Context()
	var start time.Time
	if config.OnTry != nil {
		start = time.Now()
	}
	if u := c.lease.Value(); u == nil || u.Host == "" {
		err = errNoURL
	} else {
		resp, err = c.send(req, u, b)
	}
	switch {
	case err != nil && (gaveUp(req) != nil || b.failed() || notValid(err)):
		c.caller, c.outcome = true, loadbalance.Canceled
	default:
		c.outcome = config.Outcome(resp, err)
	}
	if resp != nil {
		c.lease.Answered(c.outcome) // how long the body takes says nothing of the endpoint
	}
	if config.OnTry != nil {
		x := Try{Request: req, ID: c.lease.ID(), Number: c.number, Err: err, Duration: time.Since(start), Outcome: c.outcome}
		if resp != nil {
			x.Status = resp.StatusCode
		}
		config.OnTry(x)
	}
	returned = true
	if err != nil {
		c.end(c.outcome)
	}
	return resp, err
}

// send has Base send the request to u.
func (c *call) send(req *http.Request, u *url.URL, b *body) (*http.Response, error) {
	timed := c.t.config.TryTimeout > 0
	if d := c.t.config.TryTimeout; d == 0 {
		c.out = *req // not Clone: of what the two share, nothing is changed
	} else {
		var ctx context.Context
		ctx, c.cancel = context.WithCancelCause(c.ctx)
		if c.progress = b.progress; c.progress != nil {
			c.progress.moved()
		}
		timer := time.AfterFunc(d, c.late)
		defer timer.Stop()
		c.out = *req.WithContext(ctx)
	}
	c.url = *req.URL
	joinURL(&c.url, u)
	c.out.URL = &c.url
	if c.t.config.EndpointHost {
		c.out.Host = ""
	} else if c.out.Host == "" {
		c.out.Host = req.URL.Host
	}
	b.set(&c.out)
	resp, err := c.t.config.Base.RoundTrip(&c.out)
	if timed && !c.state.CompareAndSwap(waiting, returned) && c.ctx.Err() == nil {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, ErrTryTimeout
	}
	if err == nil && resp == nil {
		return nil, errors.New("loadbalance/proxy: Base has returned neither an answer nor an error")
	}
	if err != nil {
		return nil, err
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	if resp.StatusCode < 100 { // a server panics if it is to send that
		resp.Body.Close()
		return nil, fmt.Errorf("loadbalance/proxy: answer with status %03d", resp.StatusCode)
	}
	return resp, nil
}

// What a call with TryTimeout does.
const (
	waiting  = iota // for Base
	returned        // Base has
	late            // TryTimeout has passed before
)

// late gives up the try if TryTimeout has passed. The time begins anew with each part of the body that
// is read, and does not run while the caller is waited for: how long sending takes is the caller's matter
// as long as the endpoint takes what comes.
func (c *call) late() {
	if c.progress != nil {
		if left := c.t.config.TryTimeout - c.progress.idle(); left > 0 {
			if c.state.Load() == waiting {
				time.AfterFunc(left, c.late)
			}
			return
		}
	}
	if c.state.CompareAndSwap(waiting, late) {
		c.cancel(ErrTryTimeout)
	}
}

// joinURL makes u one of the endpoint.
func joinURL(u, endpoint *url.URL) {
	u.Scheme, u.Host, u.User = endpoint.Scheme, endpoint.Host, nil
	if endpoint.Path != "" && endpoint.Path != "/" && u.Path != "*" {
		// JoinPath would clean the path, which is the endpoint's business.
		path, raw := endpoint.Path, endpoint.EscapedPath()
		ours := u.EscapedPath()
		switch a, b := strings.HasSuffix(raw, "/"), strings.HasPrefix(ours, "/"); {
		case a && b:
			path, raw = path+u.Path[1:], raw+ours[1:]
		case !a && !b && ours != "":
			path, raw = path+"/"+u.Path, raw+"/"+ours
		default:
			path, raw = path+u.Path, raw+ours
		}
		u.Path, u.RawPath = path, raw
	}
	if q := endpoint.RawQuery; q != "" {
		if u.RawQuery != "" {
			q += "&" + u.RawQuery
		}
		u.RawQuery = q
	}
}

// retry decides whether the request is tried again. Then it returns the next call, whose endpoint is
// picked and for which the body is there. Otherwise it may return why the caller has given up.
func (c *call) retry(req *http.Request, resp *http.Response, err error, r *loadbalance.Request, b *body) (*call, error) {
	t := c.t
	switch {
	case resp != nil && !slices.Contains(t.config.RetryStatus, resp.StatusCode),
		c.number >= t.config.Tries, c.caller, gaveUp(req) != nil, b.spoiled():
		return nil, nil
	case !idempotent(req) && (resp != nil || !neverSent(err)):
		return nil, nil
	case t.config.Budget.Left() == 0: // to not pick in vain
		return nil, nil
	}
	next := &call{t: t, number: c.number + 1, waits: c.waits}
	r.Tried = append(r.Tried, c.lease.ID())
	var none error
	next.lease, none = t.pool.Pick(*r)
	if errors.Is(none, loadbalance.ErrTried) {
		if resp != nil && resp.Header.Get("Retry-After") != "" {
			return nil, nil
		}
		if !sleep(c.ctx, cancelOf(req), t.backoff(c.waits)) {
			return nil, gaveUp(req)
		}
		next.waits++
		r.Tried = nil
		next.lease, none = t.pool.Pick(*r)
	}
	if none != nil {
		return nil, nil
	}
	if !t.config.Budget.Retry() || !c.rewind(next, resp, b) {
		next.lease.Done(loadbalance.Canceled)
		return nil, nil
	}
	return next, nil
}

// rewind has the body ready for next. If GetBody panics, nothing is left in flight.
func (c *call) rewind(next *call, resp *http.Response, b *body) bool {
	returned := false
	defer func() {
		if returned {
			return
		}
		next.lease.Done(loadbalance.Canceled)
		b.finish(false)
		c.discard(resp)
	}()
	ok := b.rewind()
	returned = true
	return ok
}

// backoff returns how long to wait after so many waits.
func (t *Transport) backoff(waits int) time.Duration {
	return rand.N(t.config.Backoff<<min(waits, 5)) + 1
}

// sleep reports whether it has slept until its time.
func sleep(ctx context.Context, canceled <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-canceled:
	}
	return false
}

// idempotent reports whether a request may be sent twice.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	// As package net/http has it: the field may be there without a value, so that it is not sent.
	_, a := req.Header["Idempotency-Key"]
	_, b := req.Header["X-Idempotency-Key"]
	return a || b
}

// The body of an answer that is not wanted is read, so that the connection can be used again, if it is
// at most drained bytes long, and for at most drainTime.
const (
	drained   = 4 << 10
	drainTime = 100 * time.Millisecond
)

// discard ends a call whose answer is not wanted; it may be nil.
func (c *call) discard(resp *http.Response) {
	if resp == nil {
		return
	}
	if resp.ContentLength >= 0 && resp.ContentLength <= drained {
		timer := time.AfterFunc(drainTime, func() { resp.Body.Close() })
		io.CopyN(io.Discard, resp.Body, drained)
		timer.Stop()
	}
	resp.Body.Close()
	c.end(c.outcome)
}

// answer returns resp as the caller gets it.
func (c *call) answer(req *http.Request, resp *http.Response) *http.Response {
	resp.Request = req // so that Location is relative to what was asked, and not to an endpoint
	if resp.Body == http.NoBody {
		c.end(c.outcome)
		return resp
	}
	if empty(req, resp) {
		c.lease.Done(c.outcome) // who knows that there is none need not close the body, with package net/http
	}
	c.resp, c.body = resp, resp.Body
	resp.Body = c
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if w, ok := c.body.(io.ReadWriteCloser); ok {
			resp.Body = &upgraded{c, w}
		}
		if c.t.server {
			// httputil does not close what it cannot hand on, as an upgrade that was not asked for. Others
			// may end the context once they have the connection, as that of dialing.
			context.AfterFunc(c.ctx, func() { c.Close() })
		}
	}
	return resp
}

// empty reports whether an answer has no body. That of 101 has no length, but is a connection.
func empty(req *http.Request, resp *http.Response) bool {
	return resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified ||
		resp.StatusCode != http.StatusSwitchingProtocols && (resp.ContentLength == 0 || req.Method == http.MethodHead)
}

// Read reads the body of the answer.
func (c *call) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err != nil {
		c.broke(err)
	}
	return n, err
}

// broke ends the request in flight when the body does, by an error or io.EOF.
func (c *call) broke(err error) {
	switch {
	case err == io.EOF:
		c.end(c.outcome)
	case c.closed.Load() || gaveUp(&c.out) != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrBodyReadAfterClose):
		c.end(loadbalance.Canceled) // the caller would wait no longer
	default:
		outcome := loadbalance.ServerError // a panic
		defer func() { c.end(outcome) }()
		outcome = c.t.config.Outcome(c.resp, err)
	}
}

// Close closes the body of the answer.
func (c *call) Close() error {
	c.closed.Store(true)
	defer c.end(c.outcome)
	return c.body.Close()
}

// An upgraded is the connection after status 101, and in flight until it is closed.
type upgraded struct {
	c    *call
	conn io.ReadWriteCloser
}

func (u *upgraded) Read(p []byte) (int, error)  { return u.conn.Read(p) }
func (u *upgraded) Write(p []byte) (int, error) { return u.conn.Write(p) }
func (u *upgraded) Close() error                { return u.c.Close() }

// CloseWrite says that nothing more will be written, if the connection can say that.
func (u *upgraded) CloseWrite() error {
	if w, ok := u.conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return fmt.Errorf("loadbalance/proxy: CloseWrite: %w", http.ErrNotSupported)
}

// CloseIdleConnections closes the connections of Base that are idle, if it can.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.config.Base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
