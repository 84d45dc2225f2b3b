package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/loadbalance/proxy"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// A gateway is all that a config describes, but for the listeners.
type gateway struct {
	config  *config
	pools   []*pool // in the order of their names
	routes  []*route
	plans   map[string]*httplimit.Middleware // of API keys that have their own
	clients *clients
	base    *http.Transport
	metrics *metrics
	handler http.Handler
	log     *slog.Logger // what happens to pools and breakers
	logFile func() error

	followers atomic.Int32 // of the status
	draining  atomic.Bool
	stopped   chan struct{}
}

// A route is one of the config, and what it has done.
type route struct {
	config  *routeConfig
	pool    *pool
	breaker *loadbalance.Breaker // nil: there is none
	handler http.Handler

	requests     atomic.Uint64
	inFlight     atomic.Int64
	tries        atomic.Uint64
	limited      atomic.Uint64
	unauthorized atomic.Uint64
}

// options are what is not in the file.
type options struct {
	stdout, stderr io.Writer
	onEvent        func(pool string, e loadbalance.Event) // nil: they go to stderr
	dry            bool                                   // only to see whether it would work
}

// newGateway makes a gateway, or says what is wrong with the config, and leaves nothing behind.
func newGateway(c *config, o options) (*gateway, error) {
	g := &gateway{
		config:  c,
		plans:   map[string]*httplimit.Middleware{},
		stopped: make(chan struct{}),
		log:     slog.New(slog.NewTextHandler(o.stderr, nil)),
		logFile: func() error { return nil },
		base:    http.DefaultTransport.(*http.Transport).Clone(),
	}
	// Backends are reached directly, with as many connections as are needed, and bodies go through
	// as they are.
	g.base.Proxy = nil
	g.base.DisableCompression = true
	g.base.MaxIdleConns = 0
	g.base.MaxIdleConnsPerHost = 256
	g.base.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	if o.onEvent == nil {
		o.onEvent = g.logEvent
	}
	if err := g.build(o); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *gateway) build(o options) error {
	c := g.config
	var err error
	if g.clients, err = newClients(c.trusted); err != nil {
		return err
	}
	var errs []error
	for i := range c.APIKeys {
		if err := g.newPlan(i); err != nil {
			errs = append(errs, err)
		}
	}
	pools := map[string]*pool{}
	add := func(name, of string, policy *policyConfig) *pool {
		if p, ok := pools[name]; ok {
			return p
		}
		p, err := c.newPool(name, of, policy, o.onEvent, o.dry)
		pools[name] = p // nil, too: it is said once
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		g.pools = append(g.pools, p)
		return p
	}
	for name, pc := range c.Pools {
		add(name, name, pc.Policy)
	}
	for i := range c.Routes {
		rc := &c.Routes[i]
		policy, name := c.Pools[rc.Pool].Policy, rc.Pool
		if rc.Policy != nil && rc.Policy.String() != policy.String() {
			policy, name = rc.Policy, rc.Pool+":"+rc.Policy.String()
		}
		p := add(name, rc.Pool, policy)
		if p == nil {
			continue
		}
		r := &route{config: rc, pool: p}
		if err := g.newHandler(i, r, policy); err != nil {
			errs = append(errs, err)
		}
		g.routes = append(g.routes, r)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slices.SortFunc(g.pools, func(a, b *pool) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	log := slog.New(slog.DiscardHandler)
	if !o.dry {
		if log, g.logFile, err = openLog(c.AccessLog, o.stdout); err != nil {
			g.logFile = func() error { return nil }
			return c.errorAt([]any{"access_log"}, "must be stdout, off, or a file that can be written: %w", err)
		}
	}
	g.metrics = newMetrics(g)
	g.handler = accessLog(log, g.clients, g.metrics.measure(newRouter(g.routes)))
	return nil
}

// newPlan makes the limit of a key that has its own, wherever it is used.
func (g *gateway) newPlan(i int) error {
	k := g.config.APIKeys[i]
	if k.RateLimit == nil {
		return nil
	}
	m, err := newLimit("plan", *k.RateLimit, g.clients, func(r *http.Request) string { return entryOf(r).apiKey })
	if err != nil {
		return g.config.libraryError([]any{"api_keys", i, "rate_limit"}, err)
	}
	g.plans[k.Name] = m
	return nil
}

// newLimit makes a limit that counts what it refuses. A nil key is the address of the client.
func newLimit(name string, l limitConfig, clients *clients, key func(*http.Request) string) (*httplimit.Middleware, error) {
	return httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{{Name: name, Limit: l.limit(), Key: key}},
		Addr:     httplimit.AddrConfig{TrustedProxies: clients.trusted},
		OnDecision: func(r *http.Request, d httplimit.Decision) {
			if !d.Allowed {
				entryOf(r).route.limited.Add(1)
			}
		},
	})
}

// newHandler makes what a request goes through after it has found its route.
func (g *gateway) newHandler(i int, r *route, policy *policyConfig) error {
	c, rc := g.config, r.config
	reverse, err := g.newReverseProxy(i, r)
	if err != nil {
		return err
	}
	var next http.Handler = reverse
	if t := rc.Timeout; t > 0 {
		next = withTimeout(t, next)
	}
	next = g.hash(rc, policy, stripPrefix(rc.StripPrefix, next))
	if b := rc.Breaker; b != nil {
		r.breaker, err = loadbalance.NewBreaker(loadbalance.BreakerConfig{
			ConsecutiveFailures: b.ConsecutiveFailures, FailureRate: b.FailureRate, MinRequests: b.MinRequests,
			Window: b.Window, OpenFor: b.OpenFor, Probes: b.Probes,
			OnChange: func(from, to loadbalance.BreakerState) {
				g.log.Info("breaker", "route", rc.Name, "from", from.String(), "to", to.String())
			},
		})
		if err != nil {
			return c.libraryError([]any{"routes", i, "breaker"}, err)
		}
	}
	next = breaker(r.breaker, next)

	// Who guesses keys is limited by address before, and who has one by its name after.
	var limit *httplimit.Middleware
	if l := rc.RateLimit; l != nil {
		var key func(*http.Request) string
		if l.By == "api_key" {
			key = func(r *http.Request) string { return entryOf(r).apiKey }
		}
		if limit, err = newLimit("route", l.limitConfig, g.clients, key); err != nil {
			return c.libraryError([]any{"routes", i, "rate_limit"}, err)
		}
	}
	if rc.Auth != nil {
		byKey := next
		if limit != nil && rc.RateLimit.By == "api_key" {
			byKey, limit = limit.Handler(next), nil
		}
		planned := map[string]http.Handler{}
		for name, m := range g.plans {
			planned[name] = m.Handler(next)
		}
		next = newAuth(c, rc.Auth, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h, ok := planned[entryOf(r).apiKey]; ok {
				h.ServeHTTP(w, r)
				return
			}
			byKey.ServeHTTP(w, r)
		}))
	}
	if limit != nil {
		next = limit.Handler(next)
	}
	inner := changeResponse(rc.ResponseHeaders, next)
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		r.inFlight.Add(1)
		defer r.inFlight.Add(-1)
		inner.ServeHTTP(w, req)
	})
	return nil
}

// hash notes what a request stays at an endpoint by: what the route says, or else the address.
func (g *gateway) hash(rc *routeConfig, policy *policyConfig, next http.Handler) http.Handler {
	if !policy.usesHash() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := entryOf(r)
		by := ""
		if h := rc.Hash; h != nil && h.Header != "" {
			by = r.Header.Get(h.Header)
		} else if h != nil && h.Cookie != "" {
			if c, err := r.Cookie(h.Cookie); err == nil {
				by = c.Value
			}
		}
		if by != "" {
			e.hash = loadbalance.HashString(by)
		} else { // also for those who have not logged in, say, and have no cookie yet
			e.hash = loadbalance.HashAddr(e.client)
		}
		next.ServeHTTP(w, r)
	})
}

func (g *gateway) newReverseProxy(i int, r *route) (*httputil.ReverseProxy, error) {
	c, rc := g.config, r.config
	t := proxy.TransportConfig{
		Base:       g.base,
		Tries:      rc.Retries.Tries,
		TryTimeout: rc.Retries.TryTimeout,
		Hash:       func(r *http.Request) uint64 { return entryOf(r).hash },
		OnTry: func(try proxy.Try) {
			r.tries.Add(1)
			e := entryOf(try.Request)
			e.tries, e.endpoint = try.Number, try.ID
		},
	}
	ratio := rc.Retries.Ratio
	if ratio == 0 {
		ratio = 0.2
	}
	var err error
	if t.Budget, err = loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: ratio, Burst: rc.Retries.Burst}); err != nil {
		return nil, c.libraryError([]any{"routes", i, "retries"}, err)
	}
	if s := rc.Sticky; s != nil {
		secret := []byte(s.Secret)
		if len(secret) == 0 {
			secret = make([]byte, 32)
			rand.Read(secret) // never fails
		}
		t.Sticky = &proxy.StickyCookie{Name: s.Cookie, Secret: secret, MaxAge: s.MaxAge, Insecure: s.Insecure}
	}
	keyHeaders := c.keyHeaders()
	p, err := proxy.NewReverseProxy(r.pool.Pool, proxy.ReverseProxyConfig{
		Transport:      t,
		PreserveHost:   rc.PreserveHost,
		TrustForwarded: true, // clients.clean has removed what is not to be trusted
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(requestIDHeader) // the gateway has said it
			return nil
		},
		Rewrite: func(pr *httputil.ProxyRequest) {
			if rc.StripPrefix != "" {
				pr.Out.Header.Set("X-Forwarded-Prefix", rc.StripPrefix)
			}
			// Again, as a client can have what is set before taken for the connection's, and removed:
			// by Connection: X-Consumer.
			for name := range keyHeaders {
				pr.Out.Header.Del(name)
			}
			e := entryOf(pr.Out)
			pr.Out.Header.Set(requestIDHeader, e.id)
			if e.apiKey != "" {
				pr.Out.Header.Set(consumerHeader, e.apiKey)
			}
			rc.RequestHeaders.apply(pr.Out.Header)
		},
		ErrorHandler: g.proxyError,
		ErrorLog:     slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
	})
	if err != nil {
		return nil, c.libraryError([]any{"routes", i, "retries"}, err)
	}
	return p, nil
}

// statusClientClosed is what nginx logs for a client that has gone before it was answered.
const statusClientClosed = 499

// proxyError answers a request that no endpoint has answered.
func (g *gateway) proxyError(w http.ResponseWriter, r *http.Request, err error) {
	var timeout interface{ Timeout() bool }
	var tooLong *http.MaxBytesError
	e, s := entryOf(r), streamOf(r)
	idle, timedOut := s.stalled()
	switch {
	case errors.As(err, &tooLong):
		e.clientFailed = true
		problem(w, http.StatusRequestEntityTooLarge, "The body of the request is too long.")
	case timedOut:
		e.clientFailed = true
		problem(w, http.StatusGatewayTimeout, "The request did not come in time.")
	case idle: // before the next case: with HTTP/1.1, the server takes it for the client's going
		e.clientFailed = true
		problem(w, http.StatusRequestTimeout, "The request did not come in time.")
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		w.WriteHeader(statusClientClosed) // into the log: nobody reads it
	case errors.Is(err, proxy.ErrRequestBody):
		e.clientFailed = true
		problem(w, http.StatusBadRequest, "The body of the request cannot be read.")
	case errors.Is(err, loadbalance.ErrUnavailable):
		problem(w, http.StatusServiceUnavailable, "No endpoint of this route is available.")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		// Who sends a body slowly must not have everybody's breaker open.
		e.clientFailed = s.giveUpBody()
		problem(w, http.StatusGatewayTimeout, "The endpoints of this route did not answer in time.")
	default:
		problem(w, http.StatusBadGateway, "The endpoints of this route could not answer.")
	}
}

func (g *gateway) logEvent(pool string, e loadbalance.Event) {
	args := []any{"pool", pool, "event", e.Kind.String()}
	if e.ID != "" {
		args = append(args, "endpoint", e.ID)
	}
	if e.Err != nil {
		args = append(args, "error", e.Err.Error())
	}
	g.log.Info("pool", args...)
}

// close ends the pools. Requests in flight may still go on.
func (g *gateway) close() {
	for _, p := range g.pools {
		p.Close()
	}
	g.base.CloseIdleConnections()
	if err := g.logFile(); err != nil {
		g.log.Error("access log", "error", err.Error())
	}
}
