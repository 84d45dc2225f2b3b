package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/loadbalance/proxy"
)

// A front passes requests on to the processes that the broker knows. It keeps no links: there can be several.
//
// Who follows a link gets to the process that owns it, by the same hash as processes ask each other by: so it is in the
// cache there. All other requests go to the less busy of two. A process that has said that it is about to end, or was not
// heard of for leaseTime, gets none, and one that is not in yet, as it could make no links, only if there is no other; one
// that fails is left out for a while, before its time is over. What may be sent twice is tried with another process if one
// fails.
//
// When the broker is away, nobody is heard of, and that says nothing of the processes: the front goes on with those that
// it knows.
type front struct {
	settings settings
	log      *slog.Logger
	conn     *nats.Conn
	sub      *nats.Subscription // nil: it is not known yet whom to listen to

	codes, rest     *loadbalance.Pool[*url.URL] // the same processes
	toOwner, toAny  *httputil.ReverseProxy
	base            *http.Transport
	metrics         *metrics
	passed          *prometheus.CounterVec
	retries, ejects atomic.Int64
	draining        atomic.Bool

	mu        sync.Mutex
	directory // of all who are there

	names struct { // of those that get requests; it is held for a moment only, by callbacks of the pools, too
		sync.RWMutex
		byID map[string]string
	}

	stop context.CancelFunc
	jobs sync.WaitGroup
}

// frontFlags are those that a front has.
var frontFlags = []string{"front", "addr", "dsn", "nats", "trusted-proxies", "drain", "drain-delay"}

const (
	// ownerBound is by how much a process may have more than its share of the redirects under way: the rest of a link
	// that everybody follows goes to others, who ask its owner once in borrowTTL.
	ownerBound = 1.5
	// tryTimeout is how long a process may take; it gives up by itself after less than that.
	tryTimeout = 4 * time.Second
	// dialTimeout is how long it may take to be connected to: nothing was sent then, and everything can be sent elsewhere.
	dialTimeout = time.Second
	// retryBurst and retryRatio bound retries: as many as requests may be under way in a process that dies, and so many
	// of all requests, later.
	retryBurst = 256
	retryRatio = 0.2
	// frontName is in Via of what a front has passed on: if that comes back, a process says that it is where a front is.
	frontName = "urlshortener-front"
	// contactGap is the longest time between two looks, when the broker answered, after which silence means something.
	contactGap = 3 * beatEvery
)

// runFront is the command with -front.
func (s settings) runFront(ctx context.Context, l net.Listener, log *slog.Logger, stdout io.Writer) error {
	conn, err := nats.Connect(s.nats, nats.Name("urlshortener-front"), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the broker is away: requests go to the processes that were there", "error", err)
			}
		}))
	if err != nil {
		return fmt.Errorf("the broker of -nats does not answer: %w", err)
	}
	defer conn.Close()
	f, err := newFront(ctx, s, conn, func(ctx context.Context) (cluster, error) { return findCluster(ctx, s.dsns[0]) }, log)
	if err != nil {
		return err
	}
	defer f.close()
	fmt.Fprintf(stdout, "http://%s\n", l.Addr())
	return s.serve(ctx, l, f.handler(), log, func() { f.draining.Store(true) })
}

// errNoCluster is the error of finding the cluster of processes none of which was ever started.
var errNoCluster = errors.New("no process was ever started over these databases")

// findCluster reads what the first database says of the processes over it, and changes nothing there.
func findCluster(ctx context.Context, dsn string) (cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return cluster{}, fmt.Errorf("the database of -dsn number 1 cannot be opened: %w", err)
	}
	defer db.Close()
	var there bool
	var text string
	if err = db.QueryRowContext(ctx, `SELECT to_regclass('secrets') IS NOT NULL`).Scan(&there); err == nil && there {
		err = db.QueryRowContext(ctx, `SELECT value FROM secrets WHERE name = 'peers'`).Scan(&text)
	}
	if err == nil && !there || errors.Is(err, sql.ErrNoRows) {
		return cluster{}, errNoCluster
	}
	key, bad := hex.DecodeString(text)
	if err = cmp.Or(err, bad); err != nil {
		return cluster{}, fmt.Errorf("the database of -dsn number 1 does not say who its processes are: %w", err)
	}
	return cluster{key}, nil
}

// newFront returns a front that hears of the processes of a cluster over conn: if there is none yet, when there is.
func newFront(ctx context.Context, s settings, conn *nats.Conn, find func(context.Context) (cluster, error), log *slog.Logger) (f *front, err error) {
	f = &front{settings: s, log: log, conn: conn, directory: newDirectory(), stop: func() {}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	budget, err := loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: retryRatio, Burst: retryBurst})
	if err != nil {
		return f, err
	}
	hasher, err := consistenthash.New(consistenthash.Config[struct{}]{Algorithm: ownership()})
	if err != nil {
		return f, err
	}
	f.base = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	for _, x := range []struct {
		pool   **loadbalance.Pool[*url.URL]
		proxy  **httputil.ReverseProxy
		policy loadbalance.Policy
		again  []int // answers after which another process is asked
	}{
		{&f.codes, &f.toOwner, loadbalance.ConsistentHash(locate, ownerBound), []int{http.StatusServiceUnavailable, http.StatusLoopDetected}},
		// Who could not tell the others that a link is deleted says 503, and another would say that there is none.
		{&f.rest, &f.toAny, loadbalance.PowerOfTwoChoices(), []int{}},
	} {
		if *x.pool, err = loadbalance.New(loadbalance.Config[*url.URL]{
			Policy: x.policy, OnEvent: f.onEvent,
			Outlier: loadbalance.OutlierConfig{ConsecutiveErrors: 3, EjectFor: 2 * time.Second, MaxEjectFor: 30 * time.Second, MaxEjected: 0.5},
		}); err != nil {
			return f, err
		}
		if *x.proxy, err = proxy.NewReverseProxy(*x.pool, proxy.ReverseProxyConfig{
			Transport: proxy.TransportConfig{
				Base: f.base, Budget: budget, TryTimeout: tryTimeout, OnTry: f.onTry, RetryStatus: x.again, Outcome: outcome,
				Hash: func(r *http.Request) uint64 { return hasher.Hash(strings.TrimPrefix(r.URL.Path, "/")) },
			},
			PreserveHost: true, Rewrite: f.rewrite, ErrorHandler: f.failed,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		}); err != nil {
			return f, err
		}
	}
	f.newMetrics()

	c, err := find(ctx)
	running, stop := context.WithCancel(context.Background())
	f.stop = stop
	switch {
	case err == nil:
		err = f.listen(c)
	case errors.Is(err, errNoCluster):
		err = nil
		log.Info("no process is there, nor ever was")
		f.jobs.Go(func() { f.await(running, find) })
	}
	if err != nil {
		return f, err
	}
	f.jobs.Go(func() { f.watch(running) })
	return f, nil
}

// outcome tells how a request ended. A process says 503 if it cannot reach a database, and at once: it would look as if it
// had nothing to do.
func outcome(resp *http.Response, err error) loadbalance.Outcome {
	if err == nil && resp.StatusCode == http.StatusServiceUnavailable {
		return loadbalance.ServerError
	}
	return proxy.Classify(resp, err)
}

// locate makes what says who owns a code of some processes.
func locate(ids []string, weights []uint32) (loadbalance.Locator, error) {
	nodes := make([]consistenthash.Node, len(ids))
	for i, id := range ids {
		nodes[i] = consistenthash.Node{ID: id, Weight: weights[i]}
	}
	return ownership().Build(nodes)
}

func (f *front) close() {
	f.stop()
	f.jobs.Wait()
	if f.sub != nil {
		_ = f.sub.Unsubscribe()
	}
	for _, p := range []*loadbalance.Pool[*url.URL]{f.codes, f.rest} {
		if p != nil {
			p.Close()
		}
	}
	if f.base != nil {
		f.base.CloseIdleConnections()
	}
}

// await listens when it is known to whom.
func (f *front) await(ctx context.Context, find func(context.Context) (cluster, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		c, err := find(ctx)
		if err == nil {
			err = f.listen(c)
		}
		switch {
		case err == nil:
			return
		case !errors.Is(err, errNoCluster) && ctx.Err() == nil:
			f.log.Warn("it cannot be found out which processes there are", "error", err)
		}
	}
}

// listen hears what processes say from now on.
func (f *front) listen(c cluster) error {
	sub, err := f.conn.Subscribe(c.subject(beatKind), func(msg *nats.Msg) {
		var o member
		if c.open(beatKind, msg.Data, &o) {
			f.learn(func() { f.hear(o, time.Now()) })
		}
	})
	if err != nil {
		return fmt.Errorf("the broker of -nats does not answer: %w", err)
	}
	if err := f.conn.FlushTimeout(5 * time.Second); err != nil {
		_ = sub.Unsubscribe() // it is made anew
		return fmt.Errorf("the broker of -nats does not answer: %w", err)
	}
	f.sub = sub
	return nil
}

// watch looks again and again who was not heard of for too long.
func (f *front) watch(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := f.conn.FlushTimeout(beatEvery)
		now := time.Now()
		// If this process was stopped, what was said meanwhile may not have been heard yet.
		contact := err == nil && now.Sub(last) < contactGap
		last = now
		f.learn(func() { f.look(now, contact) })
	}
}

// look forgets who was not heard of for leaseTime, in which the broker was there to tell.
func (f *front) look(now time.Time, contact bool) {
	if contact {
		f.forget(now)
		return
	}
	for _, o := range f.others {
		o.heard = now // or would have been, for all that is known
	}
}

// learn calls what changes the directory, and has requests go to those who are there then.
func (f *front) learn(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.changed
	change()
	if f.changed == before {
		return
	}
	var endpoints []loadbalance.Endpoint[*url.URL]
	names := map[string]string{}
	for id, o := range f.others {
		u, err := url.Parse(o.URL)
		if o.Draining || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			continue
		}
		names[id] = u.Scheme + "://" + u.Host
		e := loadbalance.Endpoint[*url.URL]{ID: id, Value: &url.URL{Scheme: u.Scheme, Host: u.Host}, Weight: 1}
		if !o.In {
			e.Priority = 1 // if none is in, as when the broker was away, all still know where links lead
		}
		endpoints = append(endpoints, e)
	}
	f.rename(names)
	for _, p := range []*loadbalance.Pool[*url.URL]{f.codes, f.rest} {
		if _, err := p.Set(endpoints); err != nil {
			f.log.Error("requests do not go to the processes that are there", "error", err)
		}
	}
}

// rename notes who gets requests from now on. Of those who do not any more, the counts are forgotten: processes that
// come and go leave nothing behind.
func (f *front) rename(names map[string]string) {
	f.names.Lock()
	defer f.names.Unlock()
	old, stay := f.names.byID, map[string]bool{}
	f.names.byID = names
	for id, name := range names {
		stay[name] = true
		if old[id] == "" {
			f.log.Info("a process is there", "url", name, "id", id)
		}
	}
	for id, name := range old {
		if names[id] == "" {
			f.log.Info("a process has gone, or is about to", "url", name, "id", id)
		}
		if !stay[name] {
			f.passed.DeletePartialMatch(prometheus.Labels{"process": name})
		}
	}
}

// alive returns how many processes requests can go to.
func (f *front) alive() int {
	f.names.RLock()
	defer f.names.RUnlock()
	return len(f.names.byID)
}

func (f *front) onTry(t proxy.Try) {
	if t.Number > 1 {
		f.retries.Add(1)
	}
	f.names.RLock()
	defer f.names.RUnlock()
	name := f.names.byID[t.ID]
	if name == "" {
		name = "gone"
	}
	f.passed.WithLabelValues(name, t.Outcome.String()).Inc()
}

func (f *front) onEvent(e loadbalance.Event) {
	if e.Kind != loadbalance.Ejected {
		return
	}
	f.ejects.Add(1)
	f.names.RLock()
	name := f.names.byID[e.ID]
	f.names.RUnlock()
	f.log.Warn("a process is left out for a while", "url", name, "id", e.ID, "error", e.Err)
}

func (f *front) newMetrics() {
	f.metrics = newRequestMetrics()
	f.passed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "front_requests_total", Help: "Requests that were sent to a process, retries included, by how that ended.",
	}, []string{"process", "outcome"})
	f.metrics.registry.MustRegister(f.passed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "front_processes", Help: "Processes that are there, and not about to end."},
			func() float64 { return float64(f.alive()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "front_retries_total", Help: "Requests that were sent to a process after another had failed."},
			func() float64 { return float64(f.retries.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "front_ejections_total", Help: "How often a process was left out for a while, as requests failed there."},
			func() float64 { return float64(f.ejects.Load()) }))
}

// handler returns all paths. What is the front's own, and what processes say to each other, is not passed on.
func (f *front) handler() http.Handler {
	mux := http.NewServeMux()
	own := func(path string, h http.Handler) {
		mux.Handle("GET "+path, secure(h))
		mux.Handle(path, secure(notAllowed("GET, HEAD")))
	}
	own("/metrics", f.metrics.handler())
	own("/healthz", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }))
	own("/readyz", http.HandlerFunc(f.readyz))
	mux.Handle("/peer/", secure(http.HandlerFunc(http.NotFound)))
	mux.HandleFunc("/{code}", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			f.pass(f.toOwner, w, r)
			return
		}
		f.pass(f.toAny, w, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { f.pass(f.toAny, w, r) })
	return f.metrics.count(mux)
}

// readyz says whether requests are to be sent here.
func (f *front) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case f.draining.Load():
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
	case f.alive() == 0:
		http.Error(w, "no process is there", http.StatusServiceUnavailable)
	default:
		_, _ = w.Write([]byte("ok\n"))
	}
}

// pass passes a request on, unless a front has done so before, or its body is longer than any process reads.
func (f *front) pass(to http.Handler, w http.ResponseWriter, r *http.Request) {
	if strings.Contains(strings.Join(r.Header["Via"], ","), frontName) {
		f.log.Error("a request that was passed on has come to a front: -advertise of a process says where a front is", "from", r.RemoteAddr)
		secure(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeProblem(w, http.StatusLoopDetected, "the service sends requests to itself")
		})).ServeHTTP(w, r)
		return
	}
	if r.ContentLength > maxBody {
		f.failed(w, r, &http.MaxBytesError{Limit: maxBody})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	to.ServeHTTP(w, r)
}

// rewrite says where a request comes from and went to. What the client has said of that is gone, unless it is a proxy
// that is trusted.
func (f *front) rewrite(r *httputil.ProxyRequest) {
	h := r.Out.Header
	if prior := r.In.Header["X-Forwarded-For"]; len(prior) > 0 && f.settings.proxies.trust(r.In) {
		h.Set("X-Forwarded-For", strings.Join(prior, ", ")+", "+h.Get("X-Forwarded-For"))
	}
	scheme, host := f.settings.proxies.origin(r.In)
	h.Set("X-Forwarded-Proto", scheme)
	h.Set("X-Forwarded-Host", host)
	h.Add("Via", "1.1 "+frontName)
	// The service does not know these, and would make a second link: it does not do for it to be sent again.
	h.Del("Idempotency-Key")
	h.Del("X-Idempotency-Key")
}

// failed answers a request that no process has answered.
func (f *front) failed(w http.ResponseWriter, r *http.Request, err error) {
	secure(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, detail := http.StatusBadGateway, "the process that was asked has gone before it has answered; what it was asked for may be done"
		switch outcome := proxy.Classify(nil, err); {
		case r.Context().Err() != nil:
			w.WriteHeader(statusGone) // nobody waits for the answer
			return
		case errors.As(err, new(*http.MaxBytesError)):
			writeBodyError(w, err)
			return
		case errors.Is(err, proxy.ErrRequestBody):
			writeBodyError(w, errors.New("it cannot be read"))
			return
		case errors.Is(err, loadbalance.ErrUnavailable):
			status, detail = http.StatusServiceUnavailable, "no process of the service is there; please try again"
		case outcome == loadbalance.ConnectError, outcome == loadbalance.Canceled: // nothing was sent
			status, detail = http.StatusServiceUnavailable, "no process of the service can be reached; please try again"
		case outcome == loadbalance.Timeout:
			status, detail = http.StatusGatewayTimeout, "the process that was asked does not answer; what it was asked for may be done"
		}
		if !errors.Is(err, loadbalance.ErrUnavailable) { // which is logged when it begins
			f.log.Warn("a request was not answered", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		if strings.HasPrefix(r.URL.Path, "/api/") {
			writeProblem(w, status, detail)
			return
		}
		w.Header()["Cache-Control"] = noStore
		http.Error(w, detail, status)
	})).ServeHTTP(w, r)
}
