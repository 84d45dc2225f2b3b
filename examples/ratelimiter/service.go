package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
	"github.com/sysblocks/sysblocks/ratelimit/redislimit"
)

// maxUsers bounds the memory of a service: users beyond it push out who has used least.
const maxUsers = 1_000_000

// A service says hello, but not too often.
type service struct {
	handler http.Handler
	client  *redis.Client // nil: the limit is this service's own
	shared  *dist.Limiter // on client
}

func newService(s settings) (*service, error) {
	x := &service{}
	limiter, err := x.newLimiter(s)
	if err != nil {
		return nil, err
	}
	limit, err := httplimit.New(httplimit.Config{Policies: []httplimit.Policy{{
		Limit:   s.limit,
		Limiter: limiter,
		// It stands for the name of a user whom a middleware further out has authenticated.
		Key: httplimit.ByHeader(userHeader),
	}}})
	if err != nil {
		x.close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /hello", limit.Handler(http.HandlerFunc(hello)))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {}) // is not limited
	x.handler = mux
	return x, nil
}

const userHeader = "X-User"

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello, %s!\n", r.Header.Get(userHeader))
}

// newLimiter is the difference between one service and many.
func (x *service) newLimiter(s settings) (httplimit.Limiter, error) {
	if s.redis == "" {
		users, err := ratelimit.NewKeyed[string](s.limit, ratelimit.KeyedConfig{MaxKeys: maxUsers})
		if err != nil {
			return nil, err
		}
		return httplimit.Keyed(users), nil
	}
	redis.SetLogger(quiet{})
	x.client = redis.NewClient(&redis.Options{Addr: s.redis})
	backend, err := redislimit.New(redislimit.Config{Client: x.client})
	if err != nil {
		x.close()
		return nil, err
	}
	limiter, err := dist.New(dist.Config{
		Backend:  backend,
		Name:     "ratelimiter",
		Limits:   []ratelimit.Limit{s.limit},
		Replicas: s.replicas, // each has its share while Redis is away
	})
	if err != nil {
		x.close()
		return nil, err
	}
	x.shared = limiter
	return limiter, nil
}

// degraded returns how many decisions were made without Redis.
func (x *service) degraded() uint64 {
	if x.shared == nil {
		return 0
	}
	return x.shared.Stats().Degraded
}

// quiet keeps the client from writing that Redis is away into the table: the sums say so.
type quiet struct{}

// Printf is that of the client's logger.
func (quiet) Printf(context.Context, string, ...any) {}

// serve serves until ctx ends.
func (x *service) serve(ctx context.Context, l net.Listener) error {
	defer x.close()
	server := &http.Server{Handler: x.handler, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (x *service) close() {
	if x.client != nil {
		x.client.Close()
	}
}
