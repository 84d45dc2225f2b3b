package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A backend is one of the small servers of the demonstration. It can be killed, and started again
// at the same address.
type backend struct {
	name  string
	addr  string
	slow  time.Duration // how long it takes to answer
	fails uint64        // each of so many requests is answered by 503; 0: none

	asked  atomic.Uint64
	mu     sync.Mutex
	server *http.Server // nil: it is dead
	served sync.WaitGroup
}

// startBackend starts a backend at a free address.
func startBackend(ctx context.Context, name string, slow time.Duration, fails uint64) (*backend, error) {
	b := &backend{name: name, addr: "127.0.0.1:0", slow: slow, fails: fails}
	return b, b.start(ctx)
}

// start starts it, again if it was killed. Its port may be taken for a moment by somebody else's
// connection; it waits for that.
func (b *backend) start(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", b.addr)
	for err != nil {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
		l, err = net.Listen("tcp", b.addr)
	}
	b.addr = l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(b.serve), ReadHeaderTimeout: 5 * time.Second}
	b.server = server
	b.served.Go(func() { _ = server.Serve(l) }) // ends by kill
	return nil
}

// kill ends it as a crash does: connections are cut, with the requests on them.
func (b *backend) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server == nil {
		return
	}
	b.server.Close()
	b.server = nil
	b.served.Wait()
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "demo-backend")
	switch {
	case r.URL.Path == "/healthz":
		return
	case strings.HasPrefix(r.URL.Path, "/legacy"):
		http.Error(w, "it has never worked", http.StatusInternalServerError)
		return
	case b.fails > 0 && b.asked.Add(1)%b.fails == 0:
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	select {
	case <-r.Context().Done():
		return
	case <-time.After(b.slow):
	}
	fmt.Fprintf(w, "%s: %s\n", b.name, r.URL.Path)
}
