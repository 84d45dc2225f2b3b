package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A server is a gateway with its listeners.
type server struct {
	*gateway
	addrs     []net.Addr          // of the listeners, in the order of the config
	certs     []*x509.Certificate // of those with TLS; nil: HTTP
	adminAddr net.Addr            // nil: there is none

	public []*http.Server
	back   *http.Server // the admin's
	failed chan error
	served sync.WaitGroup

	inFlight atomic.Int64 // of the public
	serving  context.Context
	cut      context.CancelFunc // ends serving, and all requests
}

// startServer opens all listeners, and then makes the gateway and serves: if one of them cannot be
// opened, nothing was served, and no endpoint was asked for its health by a second gateway.
func startServer(c *config, o options) (*server, error) {
	s := &server{failed: make(chan error, len(c.Listeners)+1)}
	var listeners []net.Listener
	fail := func(err error) (*server, error) {
		for _, l := range listeners {
			l.Close()
		}
		return nil, err
	}
	var configs []*tls.Config
	for i, lc := range c.Listeners {
		var config *tls.Config
		var leaf *x509.Certificate
		if lc.TLS != nil {
			cert, err := certificate(lc.TLS)
			if err != nil {
				return fail(c.errorAt([]any{"listeners", i, "tls"}, "must be a certificate and its key: %w", err))
			}
			config = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
			leaf = cert.Leaf
		}
		l, err := net.Listen("tcp", lc.Address)
		if err != nil {
			return fail(c.errorAt([]any{"listeners", i, "address"}, "must be free: %w", err))
		}
		listeners = append(listeners, l)
		s.addrs, s.certs = append(s.addrs, l.Addr()), append(s.certs, leaf)
		configs = append(configs, config)
	}
	if a := c.Admin.Address; a != "" {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return fail(c.errorAt([]any{"admin", "address"}, "must be free: %w", err))
		}
		listeners = append(listeners, l)
		s.adminAddr = l.Addr()
	}
	g, err := newGateway(c, o)
	if err != nil {
		return fail(err)
	}
	s.gateway = g
	s.serving, s.cut = context.WithCancel(context.Background())
	for i, lc := range c.Listeners {
		server := g.newServer(s.counted(limitStalls(lc.BodyIdleTimeout, g.handler)))
		server.BaseContext = func(net.Listener) context.Context { return s.serving }
		server.TLSConfig = configs[i]
		s.public = append(s.public, server)
	}
	if s.adminAddr != nil {
		s.back = g.newServer(g.admin())
	}
	for i, l := range listeners {
		s.served.Go(func() {
			var err error
			switch {
			case i == len(s.public):
				err = s.back.Serve(l)
			case s.certs[i] != nil:
				err = s.public[i].ServeTLS(l, "", "") // with HTTP/2
			default:
				err = s.public[i].Serve(l)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				s.failed <- err
			}
		})
	}
	return s, nil
}

func (g *gateway) newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
	}
}

// url returns where listener i is.
func (s *server) url(i int) string {
	if s.certs[i] != nil {
		return "https://" + s.addrs[i].String()
	}
	return "http://" + s.addrs[i].String()
}

// run serves until ctx ends or a listener fails, and stops. When something comes from again, it reads
// the config again.
func (s *server) run(ctx context.Context, again <-chan os.Signal, read func() (*config, error)) error {
	for {
		select {
		case <-ctx.Done():
			return s.stop(ctx)
		case err := <-s.failed:
			return errors.Join(err, s.stop(ctx))
		case <-again:
			if err := s.reload(read); err != nil {
				s.log.Error("not reloaded", "error", err.Error())
			}
		}
	}
}

// stop has balancers in front look elsewhere, waits for the requests in flight, and ends all. The
// admin listener goes last, as it shows all that.
func (s *server) stop(ctx context.Context) error {
	s.draining.Store(true)
	if d := s.config.Shutdown.Delay; d > 0 {
		time.Sleep(d)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.Shutdown.Timeout)
	defer cancel()
	var late atomic.Bool
	var stopping sync.WaitGroup
	for _, p := range s.public {
		stopping.Go(func() {
			if p.Shutdown(ctx) != nil {
				late.Store(true)
				p.Close()
			}
		})
	}
	stopping.Wait()
	if !s.allAnswered(ctx) { // Shutdown does not wait for WebSockets
		late.Store(true)
	}
	s.cut()
	if late.Load() { // handlers see that their requests have ended, and write what is for the log
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOffTime)
		s.allAnswered(soon)
		cancel()
	}
	close(s.stopped) // the streams of the status
	if s.back != nil && s.back.Shutdown(ctx) != nil {
		s.back.Close() // what is shown there is no client's
	}
	s.served.Wait()
	s.close()
	if late.Load() {
		return errors.New("requests were still in flight when the time was over, and were cut off")
	}
	return nil
}

const (
	cutOffTime  = time.Second // for handlers to end whose requests were cut off
	answeredPer = 5 * time.Millisecond
)

// counted counts the requests in flight, among which WebSockets are.
func (s *server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		next.ServeHTTP(w, r)
	})
}

// allAnswered waits until no request is in flight, or ctx ends. As Shutdown does, it looks again and
// again.
func (s *server) allAnswered(ctx context.Context) bool {
	ticker := time.NewTicker(answeredPer)
	defer ticker.Stop()
	for s.inFlight.Load() > 0 {
		select {
		case <-ctx.Done():
			return s.inFlight.Load() == 0
		case <-ticker.C:
		}
	}
	return true
}
