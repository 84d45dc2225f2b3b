package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// A TransportConfig configures a Transport.
type TransportConfig struct {
	_ struct{}

	// Base sends the requests, and keeps connections. nil: a copy of http.DefaultTransport as it is at that time, with
	// up to 256 idle connections for each endpoint, 5 s to connect, and without Proxy: endpoints are
	// reached directly, whatever HTTP_PROXY says. (If http.DefaultTransport is no *http.Transport, a new one.)
	Base http.RoundTripper
	// Tries is how often a request may be tried in all, from 1 to 100. 1: there are no retries; 0: 3.
	Tries int
	// Budget bounds the retries of all requests, and can be shared by several Transports. nil: one with Ratio 0.2.
	Budget *loadbalance.Budget
	// TryTimeout is how long each try may take to the header of the answer, after which it is given up,
	// and perhaps another endpoint tried. The body may take longer. 0: no limit but that of the request's context.
	TryTimeout time.Duration
	// Backoff bounds the wait before a retry when all endpoints have been tried: it is random up to Backoff
	// the first time, then up to twice that, and so on, up to 32 times. While there is another endpoint, there is no
	// wait. At most a minute; 0: 25 ms.
	Backoff time.Duration
	// RetryStatus are the statuses, from 400 to 599, that are retried if the request may be. nil: 502, 503 and
	// 504; empty, but not nil: none. An answer with Retry-After is handed on when all
	// endpoints have been tried.
	RetryStatus []int

	// Hash returns what is Hash of the loadbalance.Request: for IPHash and ConsistentHash. nil: 0, which
	// is one endpoint for all with those; see HashRemoteAddr.
	Hash func(*http.Request) uint64
	// Zone returns where the caller is, for PreferZone. nil: that of the Pool.
	Zone func(*http.Request) string
	// Sticky has a client get the same endpoint again by a cookie. nil: there is none.
	Sticky *StickyCookie

	// Outcome tells how a try ended, by the header of the answer, or by an error if there was none; both are there if the
	// body has ended with an error. It is not asked about requests that the caller has given up. nil: Classify.
	Outcome func(*http.Response, error) loadbalance.Outcome
	// OnTry is called after each try, by the goroutine of the request: when there is the header of the answer, or
	// an error. It must not touch the request. nil: nothing is called.
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

// A Transport is an http.RoundTripper that sends each request to an endpoint that a Pool picks, and may try again with
// another.
//
// A Transport is safe for concurrent use by multiple goroutines. It starts none.
type Transport struct {
	pool   *loadbalance.Pool[*url.URL]
	config TransportConfig
}

// NewTransport returns a Transport over the endpoints of pool, whose values are URLs with scheme and host, and
// perhaps a path and a query that all requests get. It returns an error if pool is nil or a field is out of range.
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
	return &Transport{pool: pool, config: c}, nil
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

// RoundTrip sends a request to an endpoint.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return nil, loadbalance.ErrUnavailable
}

// CloseIdleConnections closes the connections of Base that are idle, if it can.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.config.Base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
