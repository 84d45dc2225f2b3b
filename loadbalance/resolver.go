package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// A Resolver finds the endpoints of a Pool: in DNS, in a registry. It must return when ctx ends.
type Resolver[T any] func(ctx context.Context) ([]Endpoint[T], error)

// A resolution is what is known of the last call of a Resolver.
type resolution struct {
	calls    int       // that have begun
	latest   int       // of those that have succeeded, the one that began last
	at       time.Time // of the last that succeeded
	failures int       // since then
	err      error
}

// resolveTimeout bounds a call of a Resolver.
const resolveTimeout = 30 * time.Second

var errResolvedNone = errors.New("loadbalance: Resolve has found no endpoints")

// resolve calls Resolve until the Pool is closed.
func (p *Pool[T]) resolve() {
	for {
		failures := 0
		if err := p.Refresh(p.stopped); err != nil {
			p.mu.Lock()
			failures = p.resolved.failures
			p.mu.Unlock()
		}
		every := p.config.ResolveEvery
		if failures > 0 { // sooner, and then less and less so
			every = min(every, time.Second<<min(failures-1, 10))
		}
		// Many processes that were started together should not all ask together.
		every -= time.Duration(rand.Int64N(int64(every)/10 + 1))
		select {
		case <-p.stopped.Done():
			return
		case <-time.After(every):
		}
	}
}

// Refresh calls Resolve now, in the goroutine of the caller, and sets the endpoints that it returns. If
// it returns an error, or none, or what is not valid, the endpoints stay as they are, and Refresh
// returns an error. It is of use to wait for the first endpoints, and when a name is known to have
// changed. When several calls of Resolve overlap, what comes after the endpoints of one that began
// later is ignored. Without a Resolver, Refresh does nothing.
func (p *Pool[T]) Refresh(ctx context.Context) error {
	if p.config.Resolve == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	p.mu.Lock()
	p.resolved.calls++
	call := p.resolved.calls
	p.mu.Unlock()
	found, err := p.callResolver(ctx)
	if err == nil && len(found) == 0 {
		err = errResolvedNone
	}
	found = sorted(found)

	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	r := &p.resolved
	if call < r.latest {
		return nil // there is a newer answer
	}
	if err == nil {
		_, err = p.setLocked(found)
	}
	r.err = err
	if err == nil {
		r.latest, r.failures, r.at = call, 0, time.Now()
		return nil
	}
	r.failures++
	p.emitLocked(Event{Kind: ResolveFailed, Err: err})
	return err
}

func (p *Pool[T]) callResolver(ctx context.Context) (found []Endpoint[T], err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("loadbalance: Resolve panicked: %v", r)
		}
	}()
	return p.config.Resolve(ctx)
}

// DNS returns a Resolver that looks up the addresses of a host name, with the system's resolver, and makes
// an endpoint of weight 1 of each: its ID is address:port, and its Value what value returns for it.
func DNS[T any](host string, port uint16, value func(netip.AddrPort) T) Resolver[T] {
	return func(ctx context.Context) ([]Endpoint[T], error) {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		endpoints := make([]Endpoint[T], 0, len(addresses))
		seen := make(map[netip.AddrPort]bool, len(addresses))
		for _, a := range addresses {
			at := netip.AddrPortFrom(a.Unmap(), port)
			if !seen[at] {
				seen[at] = true
				endpoints = append(endpoints, Endpoint[T]{ID: at.String(), Value: value(at), Weight: 1})
			}
		}
		return endpoints, nil
	}
}
