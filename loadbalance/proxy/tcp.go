package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// ErrClosed is what Serve returns after Shutdown or Close.
var ErrClosed = errors.New("loadbalance/proxy: the TCPProxy is closed")

// A TCPConfig configures a TCPProxy.
type TCPConfig struct {
	_ struct{}

	// DialTimeout is how long it may take to connect to an endpoint, with the handshake of UpstreamTLS.
	// 0: 5 s.
	DialTimeout time.Duration
	// HandshakeTimeout is how long the handshake of TLS may take. 0: 10 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is after how long in which no byte moves in either direction a connection is closed.
	// A side that does not take what is sent to it, 128 KiB, is given up after up to twice that time,
	// even if it sends. At least 1 ms and at most a year; 0: no limit.
	IdleTimeout time.Duration
	// KeepAlive is the time between probes of TCP connections that are idle. 0: 15 s; negative: there
	// are none.
	KeepAlive time.Duration
	// MaxConnections is how many connections there may be at the same time, of all listeners; those
	// beyond are closed at once, and count as Refused. 0: no limit.
	MaxConnections int
	// Tries is how many endpoints may be dialed for a connection, from 1 to 100. 0: 3.
	Tries int

	// TLS is for connections of clients. nil: they are without.
	TLS *tls.Config
	// UpstreamTLS is for connections to endpoints; if its ServerName is "", it is the host of the
	// endpoint. nil: they are without.
	UpstreamTLS *tls.Config
	// ProxyProtocol is the version of the PROXY protocol in which endpoints are told the client's
	// address, 1 or 2. 0: they are not.
	ProxyProtocol int

	// Hash returns Hash of the loadbalance.Request. nil: loadbalance.HashAddr of the client's address.
	Hash func(net.Conn) uint64
	// Dial connects to an endpoint. nil: a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnConn is called when a connection has ended. nil: nothing is called.
	OnConn func(Conn)
	// OnError is called with errors that end no connection that OnConn is told of: of Accept, and of
	// dialing an endpoint, with its ID. nil: nothing is called.
	OnError func(id string, err error)
}

// A Conn is what OnConn is told of a connection that has ended. It is not net.Conn.
type Conn struct {
	Client   net.Addr            // where it came from
	ID       string              // of the endpoint, or the last that was tried; "": there was none
	Sent     int64               // bytes from the client to the endpoint
	Received int64               // bytes from the endpoint to the client
	Duration time.Duration       // from Accept to the end
	Err      error               // why it ended, other than that both sides had sent all
	Outcome  loadbalance.Outcome // what the endpoint is charged with; Canceled if there was none
}

// TCPStats are what a TCPProxy has done.
type TCPStats struct {
	Active   int    // connections now
	Accepted uint64 // connections that were not refused
	Refused  uint64 // connections beyond MaxConnections
	Failed   uint64 // connections for which no endpoint could be reached, or whose handshake failed
	Sent     uint64 // bytes from clients to endpoints
	Received uint64 // bytes from endpoints to clients
}

// A TCPProxy passes TCP connections on to the endpoints of a Pool, whose values are addresses,
// host:port. When one side has sent all, that is passed on, and the other direction goes on
// (half-close).
//
// A TCPProxy is safe for concurrent use by multiple goroutines. Serve starts two for each connection;
// Shutdown and Close end them. A panic of a hook ends the program, as nobody can catch it.
type TCPProxy struct {
	pool   *loadbalance.Pool[string]
	config TCPConfig

	stopped context.Context // ends when connections are to be closed
	stop    context.CancelFunc

	active         atomic.Int64
	accepted       atomic.Uint64
	refused        atomic.Uint64
	failed         atomic.Uint64
	sent, received atomic.Uint64

	mu        sync.Mutex
	closed    bool
	listeners map[*net.Listener]struct{}
	running   sync.WaitGroup // added to only while it is not closed
}

// NewTCPProxy returns a TCPProxy. It returns an error if pool is nil or a field is out of range.
func NewTCPProxy(pool *loadbalance.Pool[string], c TCPConfig) (*TCPProxy, error) {
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.Tries == 0 {
		c.Tries = 3
	}
	switch {
	case pool == nil:
		return nil, errors.New("loadbalance/proxy: pool must be set, got nil")
	case c.DialTimeout < 0:
		return nil, fmt.Errorf("loadbalance/proxy: DialTimeout must be at least 0, got %v", c.DialTimeout)
	case c.HandshakeTimeout < 0:
		return nil, fmt.Errorf("loadbalance/proxy: HandshakeTimeout must be at least 0, got %v", c.HandshakeTimeout)
	case c.IdleTimeout != 0 && (c.IdleTimeout < time.Millisecond || c.IdleTimeout > maxIdle):
		return nil, fmt.Errorf("loadbalance/proxy: IdleTimeout must be 0, or between 1ms and %v, got %v", maxIdle, c.IdleTimeout)
	case c.MaxConnections < 0:
		return nil, fmt.Errorf("loadbalance/proxy: MaxConnections must be at least 0, got %d", c.MaxConnections)
	case c.Tries < 1 || c.Tries > 100:
		return nil, fmt.Errorf("loadbalance/proxy: Tries must be between 1 and 100, got %d", c.Tries)
	case c.ProxyProtocol < 0 || c.ProxyProtocol > 2:
		return nil, fmt.Errorf("loadbalance/proxy: ProxyProtocol must be 0, 1 or 2, got %d", c.ProxyProtocol)
	}
	if c.Hash == nil {
		c.Hash = func(conn net.Conn) uint64 {
			if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
				return loadbalance.HashAddr(a.AddrPort().Addr())
			}
			return hashAddr(conn.RemoteAddr().String())
		}
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: c.KeepAlive}).DialContext
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	}
	if c.UpstreamTLS != nil {
		c.UpstreamTLS = c.UpstreamTLS.Clone()
	}
	p := &TCPProxy{pool: pool, config: c, listeners: make(map[*net.Listener]struct{})}
	p.stopped, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// maxIdle is so that deadlines cannot overflow.
const maxIdle = 366 * 24 * time.Hour

// Serve accepts connections from l, which it closes at the end, until Shutdown or Close is called; then
// it returns ErrClosed. After temporary errors of Accept, as when there are too many open files, it
// waits, from 5 ms to 1 s; it returns others. It can be called for several listeners at the same time.
func (p *TCPProxy) Serve(l net.Listener) error {
	defer l.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.listeners[&l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.listeners, &l)
		p.mu.Unlock()
	}()
	var wait time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			wait = 0
			p.start(conn)
			continue
		}
		p.mu.Lock()
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return ErrClosed
		}
		var t interface{ Temporary() bool }
		if !errors.As(err, &t) || !t.Temporary() {
			return fmt.Errorf("loadbalance/proxy: %w", err)
		}
		p.report("", err)
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		if !sleep(p.stopped, nil, wait) {
			return ErrClosed
		}
	}
}

// report tells OnError.
func (p *TCPProxy) report(id string, err error) {
	if p.config.OnError != nil {
		p.config.OnError(id, err)
	}
}

// start has a connection served, if there may be one more.
func (p *TCPProxy) start(conn net.Conn) {
	p.mu.Lock()
	full := p.config.MaxConnections > 0 && p.active.Load() >= int64(p.config.MaxConnections)
	if p.closed || full {
		p.mu.Unlock()
		p.refused.Add(1)
		conn.Close()
		return
	}
	p.active.Add(1)
	p.accepted.Add(1)
	p.running.Go(func() {
		defer p.active.Add(-1)
		p.serve(conn)
	})
	p.mu.Unlock()
}

// Shutdown closes the listeners, and waits for the connections to end. When ctx ends before, it closes
// them, waits for their goroutines, and returns ctx's error. It can be called more than once, but not
// by a hook.
func (p *TCPProxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for l := range p.listeners {
		(*l).Close()
	}
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		p.running.Wait()
		close(ended)
	}()
	defer p.stop()
	select {
	case <-ended:
		return nil
	default:
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		p.stop()
		<-ended
		return fmt.Errorf("loadbalance/proxy: connections were closed: %w", context.Cause(ctx))
	}
}

// Close closes the listeners and all connections, and waits for their goroutines. It can be called more
// than once, but not by a hook. It returns nil.
func (p *TCPProxy) Close() error {
	p.stop()
	return p.Shutdown(context.Background())
}

// Stats returns what the TCPProxy has done. The numbers are read one after the other.
func (p *TCPProxy) Stats() TCPStats {
	return TCPStats{
		Active:   int(p.active.Load()),
		Accepted: p.accepted.Load(),
		Refused:  p.refused.Load(),
		Failed:   p.failed.Load(),
		Sent:     p.sent.Load(),
		Received: p.received.Load(),
	}
}

// A link is a connection of a client, and the one to an endpoint.
type link struct {
	p      *TCPProxy
	client net.Conn
	lease  loadbalance.Lease[string]
	id     string // of the endpoint that was picked last
	start  time.Time
	last   atomic.Int64 // when a byte has moved, in nanoseconds since start

	sent, received int64 // each written by one goroutine

	once sync.Once // sets what is below
	err  error     // the first
	down bool      // it was that of reading from the endpoint
}

var errIdle = fmt.Errorf("loadbalance/proxy: idle for longer than IdleTimeout: %w", os.ErrDeadlineExceeded)

// serve serves a connection until it ends.
func (p *TCPProxy) serve(conn net.Conn) {
	k := &link{p: p, client: conn, start: time.Now()}
	outcome := loadbalance.ServerError // a panic
	defer func() { k.lease.Done(outcome) }()
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok && p.config.KeepAlive != 0 {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: p.config.KeepAlive > 0, Idle: p.config.KeepAlive, Interval: p.config.KeepAlive})
	}
	endpoint, err := k.connect()
	if err != nil {
		p.failed.Add(1)
		k.err, outcome = err, loadbalance.ConnectError
		if p.stopped.Err() != nil || k.id == "" || shortage(err) {
			outcome = loadbalance.Canceled
		}
	} else {
		outcome = k.relay(endpoint)
	}
	if p.config.OnConn == nil {
		return
	}
	p.config.OnConn(Conn{
		Client: conn.RemoteAddr(), ID: k.id, Sent: k.sent, Received: k.received,
		Duration: time.Since(k.start), Err: k.err, Outcome: outcome,
	})
}

// connect does the handshake with the client, and connects to an endpoint.
func (k *link) connect() (net.Conn, error) {
	p := k.p
	r := loadbalance.Request{Hash: p.config.Hash(k.client)}
	if p.config.TLS != nil {
		conn := tls.Server(k.client, p.config.TLS)
		ctx, cancel := context.WithTimeout(p.stopped, p.config.HandshakeTimeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("loadbalance/proxy: handshake with the client: %w", err)
		}
		k.client = conn
	}
	var failed error
	for range p.config.Tries {
		var err error
		if k.lease, err = p.pool.Pick(r); err != nil {
			k.lease = loadbalance.Lease[string]{}
			if failed != nil {
				return nil, failed // of the last that was tried; that no other is left is no news
			}
			return nil, err
		}
		k.id = k.lease.ID()
		conn, err := k.dial()
		if err == nil {
			return conn, nil
		}
		failed = fmt.Errorf("loadbalance/proxy: endpoint %q: %w", k.id, err)
		if p.stopped.Err() != nil {
			k.lease.Done(loadbalance.Canceled)
			return nil, failed
		}
		if shortage(err) {
			k.lease.Done(loadbalance.Canceled)
		} else {
			k.lease.Done(loadbalance.ConnectError)
		}
		p.report(k.id, err)
		r.Tried = append(r.Tried, k.id)
	}
	return nil, failed
}

// dial connects to the endpoint that was picked.
func (k *link) dial() (conn net.Conn, err error) {
	c := &k.p.config
	ctx, cancel := context.WithTimeout(k.p.stopped, c.DialTimeout)
	defer cancel()
	address := k.lease.Value()
	conn, err = c.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	raw := conn
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	if c.ProxyProtocol != 0 {
		deadline, _ := ctx.Deadline()
		conn.SetWriteDeadline(deadline)
		if _, err := conn.Write(proxyHeader(c.ProxyProtocol, k.client.RemoteAddr(), k.client.LocalAddr())); err != nil {
			return nil, err
		}
		conn.SetWriteDeadline(time.Time{})
	}
	if c.UpstreamTLS == nil {
		return conn, nil
	}
	config := c.UpstreamTLS
	if config.ServerName == "" {
		config = config.Clone()
		if config.ServerName, _, err = net.SplitHostPort(address); err != nil {
			return nil, err
		}
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, nil
}

// relay copies in both directions until both have ended, or one has failed.
func (k *link) relay(endpoint net.Conn) loadbalance.Outcome {
	defer endpoint.Close()
	defer context.AfterFunc(k.p.stopped, func() { endpoint.Close() })()
	k.lease.Answered(loadbalance.OK) // so latency is the time to connect
	k.last.Store(int64(time.Since(k.start)))
	var up sync.WaitGroup
	up.Go(func() {
		k.ended(k.pump(endpoint, k.client, &k.sent, &k.p.sent), false, endpoint)
	})
	k.ended(k.pump(k.client, endpoint, &k.received, &k.p.received), true, endpoint)
	up.Wait()
	switch {
	case k.err != nil && k.p.stopped.Err() != nil:
		return loadbalance.Canceled
	case k.down && k.sent == 0 && k.received == 0 && !errors.Is(k.err, errIdle):
		// It took the connection, and cut it before it got or said anything. What a client sends may be
		// why it is cut: a server that closes a connection of which it has not read all resets it.
		return loadbalance.ServerError
	}
	return loadbalance.OK
}

// ended is called when a direction has ended. After an error the other one must, too.
func (k *link) ended(err error, down bool, endpoint net.Conn) {
	if err == nil {
		return
	}
	k.once.Do(func() {
		var writing *writeError
		if errors.As(err, &writing) {
			err, down = writing.error, false
		}
		k.err, k.down = err, down
	})
	k.client.Close()
	endpoint.Close()
}
