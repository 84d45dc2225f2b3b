package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// An app is the whole service in one process: the blocks, put together.
type app struct {
	settings settings
	log      *slog.Logger

	lock     *os.File
	shared   *shared // nil: nothing is
	store    *store
	queue    *queue
	spool    *spool
	recorder *recorder
	counter  *counter
	links    *links
	server   *server
	refused  atomic.Int64

	stop context.CancelFunc
	jobs sync.WaitGroup
}

const (
	cacheCapacity = 200_000
	spoolBytes    = 256 << 20
	// rebuildEvery is how often the filter is made anew.
	rebuildEvery = time.Hour
	// forgetEvery is how often what is known of groups that were counted long ago is taken away.
	forgetEvery = time.Hour
)

// newApp opens everything. What it has opened is closed again if something fails.
func newApp(ctx context.Context, s settings, log *slog.Logger) (a *app, err error) {
	a = &app{settings: s, log: log}
	defer func() {
		if err != nil {
			a.close(ctx)
		}
	}()
	if a.lock, err = lockDir(s.dir); err != nil {
		return a, err
	}
	if a.store, err = openStore(ctx, s.dir, s.dsns); err != nil {
		return a, err
	}
	cluster, err := a.store.cluster(ctx)
	if err != nil {
		return a, err
	}
	if s.redis != "" {
		if a.shared, err = openShared(ctx, s.redis, cluster, s.replicas); err != nil {
			return a, err
		}
	}
	if a.queue, err = openQueue(ctx, queueConfig{name: cluster.name(), dir: s.dir, url: s.nats, sync: s.sync, replicas: s.natsReplicas}); err != nil {
		return a, err
	}
	if a.spool, err = openSpool(s.dir, spoolBytes, log); err != nil {
		return a, fmt.Errorf("the spool cannot be opened: %w", err)
	}
	coder, err := a.coder(ctx)
	if err != nil {
		return a, err
	}
	if a.links, err = newLinks(a.store, coder, cacheCapacity, s.cacheTTL, 1_000_000, a.shared.next()); err != nil {
		return a, err
	}
	if s.peers {
		// The filter is made when the others are known.
		err = a.links.join(ctx, a.queue.conn, member{ID: rand.Text(), URL: s.advertise}, log)
	} else {
		err = a.links.rebuild(ctx)
	}
	if err != nil {
		return a, err
	}
	a.recorder = newRecorder(a.queue.publish, a.spool)
	a.counter = newCounter(a.queue, func(ctx context.Context, groups []clickGroup) ([]refusal, error) {
		return a.store.count(ctx, groups, time.Now())
	}, s.dir, log)
	limits, err := a.limits()
	if err != nil {
		return a, err
	}
	a.server = &server{
		links: a.links, recorder: a.recorder, limits: limits, log: log, ready: a.ready, seen: newSeenStatus(),
		api: &api{links: a.links, base: s.base, keys: &s.keys, log: log, proxies: s.proxies, private: s.private},
	}
	a.server.metrics = newMetrics(a)
	jobs, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.every(jobs, rebuildEvery, "the filter is not made anew", a.links.rebuild)
	a.every(jobs, forgetEvery, "groups that were counted are not forgotten", func(ctx context.Context) error {
		return a.store.forget(ctx, time.Now().Add(-keepCounted))
	})
	return a, nil
}

// coder returns what makes codes.
func (a *app) coder(ctx context.Context) (coder, error) {
	switch a.settings.codes {
	case "random":
		return randomCoder{}, nil
	case "hash":
		key, err := a.store.secret(ctx, "hash", 16)
		return hashCoder{key}, err
	}
	key, err := a.store.secret(ctx, "codes", 16)
	if err != nil {
		return nil, err
	}
	p, err := newPermutation(key)
	return &counterCoder{permutation: p, block: a.store.block}, err
}

// limits returns the rate limits: of those who make links, by key or address, and of those who follow them.
func (a *app) limits() (*httplimit.Middleware, error) {
	if a.settings.unlimited {
		return nil, nil
	}
	creating := func(r *http.Request) bool { return r.Method == http.MethodPost || r.Method == http.MethodDelete }
	cost := func(which bool) func(*http.Request) int64 {
		return func(r *http.Request) int64 {
			if creating(r) == which {
				return 1
			}
			return 0
		}
	}
	create, follow := ratelimit.PerMinute(60).WithBurst(20), ratelimit.PerMinute(1200).WithBurst(200)
	creates, err := a.shared.limiter("create", create)
	if err != nil {
		return nil, err
	}
	follows, err := a.shared.limiter("follow", follow)
	if err != nil {
		return nil, err
	}
	addr, err := httplimit.NewClientAddr(a.settings.proxies.config())
	if err != nil {
		return nil, err
	}
	// Who has a key has a limit of his own, wherever he is. A wrong key counts for the address, so that nobody guesses.
	who := func(r *http.Request) string {
		if name, ok := a.settings.keys.find(requestKey(r)); ok {
			return "key " + name
		}
		return addr.Key(r)
	}
	return httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{
			{Name: "create", Limit: create, Limiter: creates, Key: who, Cost: cost(true)},
			{Name: "follow", Limit: follow, Limiter: follows, Cost: cost(false)},
		},
		Addr: a.settings.proxies.config(),
		OnDecision: func(_ *http.Request, d httplimit.Decision) {
			if !d.Allowed {
				a.refused.Add(1)
			}
		},
	})
}

// every calls f now and then, until the app is closed. Of processes that were started together, not all do it at the
// same time: after the first hour they are spread over a fifth of one.
func (a *app) every(ctx context.Context, interval time.Duration, what string, f func(context.Context) error) {
	a.jobs.Go(func() {
		for {
			select {
			case <-time.After(interval - interval/10 + mathrand.N(interval/5)):
			case <-ctx.Done():
				return
			}
			if err := f(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn(what, "error", err)
			}
		}
	})
}

// errJoining is what is missing when a process is not one of several yet: it could make no links.
var errJoining = errors.New("the other processes are not known yet")

// ready returns what is missing.
func (a *app) ready(ctx context.Context) error {
	if a.links.others != nil && !a.links.others.joined() {
		return errJoining
	}
	return a.store.ping(ctx)
}

// serve serves until ctx ends, and then lets the requests that are under way finish.
func (a *app) serve(ctx context.Context, l net.Listener) error {
	return a.settings.serve(ctx, l, a.server.handler(), a.log, func() {
		a.server.draining.Store(true)
		if a.links.others != nil {
			a.links.others.drain()
		}
	})
}

// serve serves until ctx ends. Then it calls draining, which is to have others send no more requests, goes on as long
// as they may take to notice, and lets the requests that are under way finish.
func (s settings) serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger, draining func()) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	draining()
	select {
	case err := <-failed:
		return err
	case <-time.After(s.drainDelay):
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	err := server.Shutdown(wait)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.Join(fmt.Errorf("requests have not ended within %v", s.drain), server.Close())
	}
	return err
}

// close gives what was recorded to the broker, and closes everything, in the order in which that is used.
func (a *app) close(ctx context.Context) {
	if a.stop != nil {
		a.stop()
	}
	a.jobs.Wait()
	if a.links != nil && a.links.others != nil {
		a.links.others.close()
	}
	if a.recorder != nil {
		a.recorder.close()
	}
	if a.counter != nil {
		a.counter.close()
	}
	if a.spool != nil {
		_ = a.spool.close()
	}
	if a.queue != nil {
		a.queue.close()
	}
	if a.links != nil {
		_ = a.links.cache.Close(ctx)
	}
	if a.store != nil {
		_ = a.store.close()
	}
	a.shared.close()
	if a.lock != nil {
		_ = a.lock.Close() // at the end: another process may begin at once
	}
}
