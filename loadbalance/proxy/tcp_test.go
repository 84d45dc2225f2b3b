package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

func tcpPool(t testing.TB, c loadbalance.Config[string], addresses ...string) *loadbalance.Pool[string] {
	for i, a := range addresses {
		c.Endpoints = append(c.Endpoints, loadbalance.Endpoint[string]{ID: name(i), Value: a, Weight: 1})
	}
	if c.Policy == nil {
		c.Policy = loadbalance.RoundRobin()
	}
	c.Seed = 1
	return checked(t, c)
}

// tcpBackend returns the address of a server that serves connections by f, and closes them.
func tcpBackend(t testing.TB, f func(*net.TCPConn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// echo sends back what it gets, until the other side has sent all.
func echo(c *net.TCPConn) { io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// serveTCP returns a proxy and its address.
func serveTCP(t testing.TB, pool *loadbalance.Pool[string], c TCPConfig) (*TCPProxy, string) {
	p, err := NewTCPProxy(pool, c)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.ErrorIs(t, <-served, ErrClosed)
		require.Zero(t, p.Stats().Active)
	})
	return p, l.Addr().String()
}

func dial(t testing.TB, address string) *net.TCPConn {
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestNewTCPProxyErrors(t *testing.T) {
	pool := tcpPool(t, loadbalance.Config[string]{}, "x:1")
	for _, x := range []struct {
		c    TCPConfig
		want string
	}{
		{TCPConfig{DialTimeout: -1}, "DialTimeout must be at least 0, got -1ns"},
		{TCPConfig{HandshakeTimeout: -1}, "HandshakeTimeout must be at least 0, got -1ns"},
		{TCPConfig{IdleTimeout: -1}, "IdleTimeout must be 0, or between 1ms and 8784h0m0s, got -1ns"},
		{TCPConfig{IdleTimeout: 1<<63 - 1}, "IdleTimeout must be 0, or between 1ms and 8784h0m0s, got 2562047h47m16.854775807s"},
		{TCPConfig{MaxConnections: -1}, "MaxConnections must be at least 0, got -1"},
		{TCPConfig{Tries: -1}, "Tries must be between 1 and 100, got -1"},
		{TCPConfig{ProxyProtocol: 3}, "ProxyProtocol must be 0, 1 or 2, got 3"},
	} {
		_, err := NewTCPProxy(pool, x.c)
		require.EqualError(t, err, "loadbalance/proxy: "+x.want)
	}
	_, err := NewTCPProxy(nil, TCPConfig{})
	require.EqualError(t, err, "loadbalance/proxy: pool must be set, got nil")
}

// Much data in both directions at the same time, and the end of one direction before the other: copied
// by the kernel or not, with deadlines or not.
func TestTCPProxy(t *testing.T) {
	cert := selfSigned(t)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	server, client := &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: roots}
	data := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	sum := sha256.Sum256(data)
	for _, idle := range []time.Duration{0, time.Minute} {
		for _, x := range []struct {
			name     string
			down, up bool
		}{{"plain", false, false}, {"tls to clients", true, false}, {"tls to endpoints", false, true}, {"both", true, true}} {
			t.Run(fmt.Sprintf("%s/idle=%v", x.name, idle), func(t *testing.T) {
				backend := tcpBackend(t, func(c *net.TCPConn) {
					var conn net.Conn = c
					if x.up {
						conn = tls.Server(c, server)
						defer conn.Close()
					}
					h := sha256.New()
					io.Copy(io.MultiWriter(conn, h), conn) // echo, and then the sum
					conn.Write(h.Sum(nil))
				})
				pool := tcpPool(t, loadbalance.Config[string]{}, backend)
				ended := make(chan Conn, 1)
				c := TCPConfig{IdleTimeout: idle, OnConn: func(c Conn) { ended <- c }, KeepAlive: time.Minute}
				if x.down {
					c.TLS = server
				}
				if x.up {
					c.UpstreamTLS = client
				}
				p, address := serveTCP(t, pool, c)
				raw := dial(t, address)
				var conn interface {
					net.Conn
					CloseWrite() error
				} = raw
				if x.down {
					config := client.Clone()
					config.ServerName = "localhost"
					conn = tls.Client(raw, config)
				}
				go func() {
					conn.Write(data)
					conn.CloseWrite()
				}()
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Len(t, got, len(data)+len(sum))
				require.True(t, bytes.Equal(data, got[:len(data)]))
				require.Equal(t, sum[:], got[len(data):])
				info := <-ended
				require.NoError(t, info.Err)
				require.Equal(t, "a", info.ID)
				require.Equal(t, int64(len(data)), info.Sent)
				require.Equal(t, int64(len(got)), info.Received)
				require.Equal(t, loadbalance.OK, info.Outcome)
				require.Equal(t, raw.LocalAddr().String(), info.Client.String())
				stats := p.Stats()
				require.EqualValues(t, 1, stats.Accepted)
				require.EqualValues(t, len(data), stats.Sent)
				require.EqualValues(t, len(got), stats.Received)
			})
		}
	}
}

// Messages go to and fro, after there was much data too: splicing must not hold back what is little.
func TestTCPMessages(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Minute} {
		pool := tcpPool(t, loadbalance.Config[string]{}, tcpBackend(t, echo))
		_, address := serveTCP(t, pool, TCPConfig{IdleTimeout: idle})
		conn := dial(t, address)
		for _, n := range []int{1, relayBuffer - 1, relayBuffer, relayBuffer + 1, 300 << 10, 1, 5, 300 << 10, 1} {
			data := bytes.Repeat([]byte{byte(n)}, n)
			go conn.Write(data)
			got := make([]byte, n)
			_, err := io.ReadFull(conn, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		}
	}
}

// Splicing goes back to copying after a lull, and the other way round; the deadlines must lose nothing.
func TestTCPLulls(t *testing.T) {
	for _, idle := range []time.Duration{0, 10 * time.Second} {
		pool := tcpPool(t, loadbalance.Config[string]{}, tcpBackend(t, echo))
		_, address := serveTCP(t, pool, TCPConfig{IdleTimeout: idle})
		conn := dial(t, address)
		go func() {
			for range 3 {
				conn.Write(bytes.Repeat([]byte{7}, 500<<10))
				time.Sleep(2 * lull) // not for correctness: it may or may not be long enough
				conn.Write([]byte{8})
			}
			conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Len(t, got, 3*(500<<10+1))
		require.Equal(t, 3, bytes.Count(got, []byte{8}))
	}
}

// A listener of what is sent to it: net.Conn or error.
type listener struct {
	next   chan any
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener { return &listener{next: make(chan any), closed: make(chan struct{})} }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case x := <-l.next:
		if err, ok := x.(error); ok {
			return nil, err
		}
		return x.(net.Conn), nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// connect returns a new connection to the proxy behind l.
func (l *listener) connect() net.Conn {
	client, server := net.Pipe()
	l.next <- server
	return client
}

// pipes is a Dial whose connections are served by f.
func pipes(f func(address string, c net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "down") {
			return nil, refused
		}
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			f(address, there)
		}()
		return here, nil
	}
}

func echoPipe(_ string, c net.Conn) { io.Copy(c, c) }

// inBubble runs f with a proxy over pipes and a fake clock.
func inBubble(t *testing.T, addresses []string, c TCPConfig, f func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string])) {
	synctest.Test(t, func(t *testing.T) {
		pool := tcpPool(t, loadbalance.Config[string]{}, addresses...)
		if c.Dial == nil {
			c.Dial = pipes(echoPipe)
		}
		p, err := NewTCPProxy(pool, c)
		require.NoError(t, err)
		l := newListener()
		served := make(chan error, 1)
		go func() { served <- p.Serve(l) }()
		defer p.Close() // if f fails
		f(t, p, l, pool)
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.ErrorIs(t, <-served, ErrClosed)
		require.Zero(t, p.Stats().Active)
	})
}

func ping(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := c.Write([]byte("ping"))
	require.NoError(t, err)
	buf := make([]byte, 4)
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf))
}

func gone(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
}

// A connection on which nothing moves is closed in time, and no other.
func TestIdleTimeout(t *testing.T) {
	var ended []Conn
	inBubble(t, []string{"x:1"}, TCPConfig{IdleTimeout: 10 * time.Second, OnConn: func(c Conn) { ended = append(ended, c) }},
		func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			c := l.connect()
			for range 5 {
				time.Sleep(9 * time.Second)
				ping(t, c)
			}
			start := time.Now()
			gone(t, c)
			require.Equal(t, 10*time.Second, time.Since(start))
			synctest.Wait()
			require.Len(t, ended, 1)
			require.ErrorIs(t, ended[0].Err, os.ErrDeadlineExceeded)
			require.Equal(t, loadbalance.OK, ended[0].Outcome)
			require.Equal(t, 55*time.Second, ended[0].Duration)
		})
}

// One direction alone keeps it alive.
func TestIdleOneWay(t *testing.T) {
	c := TCPConfig{IdleTimeout: 10 * time.Second, Dial: pipes(func(_ string, c net.Conn) {
		for range 10 {
			time.Sleep(6 * time.Second)
			c.Write([]byte("x"))
		}
	})}
	inBubble(t, []string{"x:1"}, c, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		got, err := io.ReadAll(l.connect())
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("x", 10), string(got))
	})
}

// A side that takes nothing is given up, though it sends.
func TestIdleStalled(t *testing.T) {
	inBubble(t, []string{"x:1"}, TCPConfig{IdleTimeout: 10 * time.Second, Dial: pipes(func(_ string, c net.Conn) {
		for range 1000 {
			time.Sleep(3 * time.Second)
			c.Write([]byte("x"))
		}
	})}, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		c := l.connect()
		start := time.Now()
		c.Write([]byte("x"))
		io.Copy(io.Discard, c)
		require.GreaterOrEqual(t, time.Since(start), 10*time.Second)
		require.LessOrEqual(t, time.Since(start), 20*time.Second)
		time.Sleep(time.Hour) // for the endpoint
	})
}

// A real connection whose client takes nothing, with what is on its way in a pipe.
func TestIdleStalledSplice(t *testing.T) {
	pool := tcpPool(t, loadbalance.Config[string]{}, tcpBackend(t, func(c *net.TCPConn) {
		go io.Copy(io.Discard, c)
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}))
	ended := make(chan Conn, 1)
	_, address := serveTCP(t, pool, TCPConfig{IdleTimeout: 50 * time.Millisecond, OnConn: func(c Conn) { ended <- c }})
	c := dial(t, address)
	go func() {
		for { // so it is not idle
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	info := <-ended
	require.ErrorIs(t, info.Err, os.ErrDeadlineExceeded)
	require.Equal(t, loadbalance.OK, info.Outcome)
}

// A connection of an hour does not make its endpoint slow.
func TestTCPLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := tcpPool(t, loadbalance.Config[string]{Policy: loadbalance.LeastResponseTime()}, "x:1")
		dialed := pipes(echoPipe)
		p, err := NewTCPProxy(pool, TCPConfig{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			time.Sleep(time.Millisecond)
			return dialed(ctx, network, address)
		}})
		require.NoError(t, err)
		l := newListener()
		go p.Serve(l)
		c := l.connect()
		ping(t, c)
		time.Sleep(time.Hour)
		c.Close()
		synctest.Wait()
		require.InEpsilon(t, time.Millisecond, pool.Stats().Endpoints[0].Latency, 1e-3)
		require.NoError(t, p.Close())
	})
}

func TestMaxConnections(t *testing.T) {
	inBubble(t, []string{"x:1"}, TCPConfig{MaxConnections: 2}, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		a, b := l.connect(), l.connect()
		ping(t, a)
		ping(t, b)
		gone(t, l.connect())
		synctest.Wait()
		require.Equal(t, TCPStats{Active: 2, Accepted: 2, Refused: 1, Sent: 8, Received: 8}, p.Stats())
		a.Close()
		synctest.Wait()
		ping(t, l.connect())
		require.EqualValues(t, 2, inFlight(pool))
	})
}

// Those that cannot be reached are left out.
func TestDialFails(t *testing.T) {
	var failed []string
	c := TCPConfig{OnError: func(id string, err error) {
		require.ErrorIs(t, err, refused)
		failed = append(failed, id)
	}}
	inBubble(t, []string{"down:1", "down:2", "x:1"}, c, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		for range 6 {
			c := l.connect()
			ping(t, c)
			c.Close()
		}
		synctest.Wait()
		require.EqualValues(t, 6, outcomes(pool, 2, loadbalance.OK))
		require.EqualValues(t, len(failed), outcomes(pool, 0, loadbalance.ConnectError)+outcomes(pool, 1, loadbalance.ConnectError))
		require.NotEmpty(t, failed)
		require.Zero(t, p.Stats().Failed)
	})
	var ended []Conn
	inBubble(t, []string{"down:1", "down:2"}, TCPConfig{OnConn: func(c Conn) { ended = append(ended, c) }},
		func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			gone(t, l.connect())
			synctest.Wait()
			require.ErrorIs(t, ended[0].Err, refused)
			require.ErrorContains(t, ended[0].Err, strconv.Quote(ended[0].ID))
			require.Equal(t, loadbalance.ConnectError, ended[0].Outcome)
			require.EqualValues(t, 1, p.Stats().Failed)
			require.EqualValues(t, 1, picked(pool, 0))
			require.EqualValues(t, 1, picked(pool, 1))
		})
	inBubble(t, nil, TCPConfig{OnConn: func(c Conn) { ended = append(ended, c) }},
		func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			gone(t, l.connect())
			synctest.Wait()
			require.ErrorIs(t, ended[1].Err, loadbalance.ErrUnavailable)
			require.Empty(t, ended[1].ID)
			require.Equal(t, loadbalance.Canceled, ended[1].Outcome)
		})
}

// What this system lacks is no endpoint's failure.
func TestShortage(t *testing.T) {
	for _, errno := range []error{syscall.EMFILE, syscall.EADDRNOTAVAIL} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
		require.Equal(t, loadbalance.Canceled, Classify(nil, err))
		var ended []Conn
		c := TCPConfig{
			OnConn: func(c Conn) { ended = append(ended, c) },
			Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, err },
		}
		inBubble(t, []string{"x:1", "y:1"}, c, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			gone(t, l.connect())
			synctest.Wait()
			require.ErrorIs(t, ended[0].Err, errno)
			require.Equal(t, loadbalance.Canceled, ended[0].Outcome)
			for i := range 2 {
				require.EqualValues(t, 1, outcomes(pool, i, loadbalance.Canceled))
			}
		})
	}
}

func TestDialTimeout(t *testing.T) {
	c := TCPConfig{DialTimeout: 3 * time.Second, Tries: 2, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	inBubble(t, []string{"x:1", "x:2"}, c, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		start := time.Now()
		gone(t, l.connect())
		require.Equal(t, 6*time.Second, time.Since(start))
		l.connect() // which Close ends while it is being connected
	})
}

// Handshakes that go nowhere, with clients and endpoints.
func TestHandshakeTimeouts(t *testing.T) {
	cert := selfSigned(t)
	inBubble(t, []string{"x:1"}, TCPConfig{HandshakeTimeout: time.Second, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}},
		func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			start := time.Now()
			gone(t, l.connect())
			require.Equal(t, time.Second, time.Since(start))
			synctest.Wait()
			require.EqualValues(t, 1, p.Stats().Failed)
			require.Zero(t, picked(pool, 0), "an endpoint was picked for who may be no client")
		})
	inBubble(t, []string{"x:1"}, TCPConfig{DialTimeout: time.Second, Tries: 1, UpstreamTLS: &tls.Config{}, Dial: pipes(func(_ string, c net.Conn) { io.Copy(io.Discard, c) })},
		func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
			start := time.Now()
			gone(t, l.connect())
			require.Equal(t, time.Second, time.Since(start))
			synctest.Wait()
			require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.ConnectError))
		})
}

// Shutdown waits for connections, until its time is up.
func TestShutdown(t *testing.T) {
	inBubble(t, []string{"x:1"}, TCPConfig{}, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		a := l.connect()
		ping(t, a)
		start := time.Now()
		go func() {
			time.Sleep(time.Minute)
			ping(t, a)
			a.Close()
		}()
		require.NoError(t, p.Shutdown(t.Context()))
		require.Equal(t, time.Minute, time.Since(start))
		other := newListener()
		require.ErrorIs(t, p.Serve(other), ErrClosed)
		<-other.closed
	})
	var ended []Conn
	inBubble(t, []string{"x:1"}, TCPConfig{OnConn: func(c Conn) { ended = append(ended, c) }}, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		a := l.connect()
		ping(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, p.Shutdown(ctx), context.DeadlineExceeded)
		gone(t, a)
		require.EqualValues(t, 1, outcomes(pool, 0, loadbalance.Canceled))
		require.Error(t, ended[0].Err)
	})
}

// Errors of Accept that pass are waited for, longer and longer; others end Serve.
func TestAcceptErrors(t *testing.T) {
	many := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	var at []time.Duration
	var start time.Time
	c := TCPConfig{OnError: func(id string, err error) {
		require.Empty(t, id)
		require.ErrorIs(t, err, syscall.EMFILE)
		at = append(at, time.Since(start))
	}}
	inBubble(t, []string{"x:1"}, c, func(t *testing.T, p *TCPProxy, l *listener, pool *loadbalance.Pool[string]) {
		start = time.Now()
		for range 11 {
			l.next <- many
		}
		ping(t, l.connect())
		require.Equal(t, 5*time.Millisecond, at[1])
		require.Equal(t, 15*time.Millisecond, at[2])
		require.Equal(t, time.Second, at[10]-at[9])

		other := newListener()
		served := make(chan error, 1)
		go func() { served <- p.Serve(other) }()
		own := errors.New("own")
		other.next <- own
		require.ErrorIs(t, <-served, own)
		<-other.closed
		l.next <- many // and Close comes while it waits
	})
}

// An endpoint that takes connections and cuts them off has failed; one that ends them has not, nor has
// one that cuts off what a client has sent, as that may be anything.
func TestTCPOutcomes(t *testing.T) {
	for _, x := range []struct {
		name string
		f    func(*net.TCPConn)
		send int
		want loadbalance.Outcome
	}{
		{"cut at once", func(c *net.TCPConn) { c.SetLinger(0) }, 0, loadbalance.ServerError},
		{"ended at once", func(c *net.TCPConn) {}, 0, loadbalance.OK},
		{"cut after it has got something", func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 4))
			c.SetLinger(0)
		}, 4, loadbalance.OK},
		{"ended after it has got something", func(c *net.TCPConn) { io.ReadFull(c, make([]byte, 4)) }, 4, loadbalance.OK},
		{"ended while there is more", func(c *net.TCPConn) { io.ReadFull(c, make([]byte, 4)) }, 50000, loadbalance.OK},
	} {
		t.Run(x.name, func(t *testing.T) {
			dialed := make(chan struct{}) // otherwise to dial may fail
			pool := tcpPool(t, loadbalance.Config[string]{}, tcpBackend(t, func(c *net.TCPConn) {
				<-dialed
				x.f(c)
			}))
			ended := make(chan Conn, 1)
			_, address := serveTCP(t, pool, TCPConfig{
				OnConn: func(c Conn) { ended <- c },
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					defer close(dialed)
					return new(net.Dialer).DialContext(ctx, network, address)
				},
			})
			c := dial(t, address)
			c.Write(make([]byte, x.send))
			io.Copy(io.Discard, c)
			c.Close()
			require.Equal(t, x.want, (<-ended).Outcome)
		})
	}
}

// A client that resets its connection, so that the answer cannot be written, is no endpoint's failure.
func TestTCPClientGone(t *testing.T) {
	c := TCPConfig{}
	ended := make(chan Conn, 1)
	c.OnConn = func(c Conn) { ended <- c }
	backend := tcpBackend(t, func(c *net.TCPConn) {
		io.WriteString(c, "a banner")
		io.Copy(io.Discard, c)
	})
	pool := tcpPool(t, loadbalance.Config[string]{}, backend)
	p, err := NewTCPProxy(pool, c)
	require.NoError(t, err)
	l := newListener()
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	here, there := net.Pipe()
	l.next <- noWriter{there}
	x := <-ended
	require.ErrorIs(t, x.Err, syscall.ECONNRESET)
	require.Equal(t, loadbalance.OK, x.Outcome)
	require.Zero(t, x.Received)
	here.Close()
	require.NoError(t, p.Close())
	require.ErrorIs(t, <-served, ErrClosed)
}

// A noWriter is a connection that the other side has reset in the one direction.
type noWriter struct{ net.Conn }

func (noWriter) Write([]byte) (int, error) { return 0, syscall.ECONNRESET }

// A client keeps its endpoint, by its address.
func TestTCPHash(t *testing.T) {
	var got atomic.Value
	c := TCPConfig{Dial: pipes(func(address string, c net.Conn) {
		got.Store(address)
		io.Copy(c, c)
	}), Hash: func(net.Conn) uint64 { return 42 }}
	synctest.Test(t, func(t *testing.T) {
		pool := tcpPool(t, loadbalance.Config[string]{Policy: loadbalance.IPHash()}, "x:1", "x:2", "x:3")
		p, err := NewTCPProxy(pool, c)
		require.NoError(t, err)
		l := newListener()
		go p.Serve(l)
		owner := ""
		for range 10 {
			conn := l.connect()
			ping(t, conn)
			conn.Close()
			require.True(t, owner == "" || owner == got.Load().(string))
			owner = got.Load().(string)
		}
		require.NoError(t, p.Close())
	})
	p, err := NewTCPProxy(tcpPool(t, loadbalance.Config[string]{}), TCPConfig{})
	require.NoError(t, err)
	conn := dial(t, tcpBackend(t, echo))
	require.Equal(t, loadbalance.HashAddr(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()), p.config.Hash(conn))
	pipe, _ := net.Pipe()
	require.Zero(t, p.config.Hash(pipe))
}

func TestProxyHeader(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		require.NoError(t, err)
		return a
	}
	for _, x := range []struct {
		version  int
		from, to net.Addr
		want     string
	}{
		{1, addr("192.0.2.1:1000"), addr("192.0.2.2:443"), "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"},
		{1, addr("[::ffff:192.0.2.1]:1000"), addr("192.0.2.2:443"), "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"},
		{1, addr("[2001:db8::1%lo]:1"), addr("[2001:db8::2]:2"), "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"},
		{1, addr("192.0.2.1:1"), addr("[2001:db8::2]:2"), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"},
		{1, &net.UnixAddr{}, addr("192.0.2.2:443"), "PROXY UNKNOWN\r\n"},
		{1, &net.TCPAddr{}, &net.TCPAddr{}, "PROXY UNKNOWN\r\n"},
		{2, addr("192.0.2.1:258"), addr("192.0.2.2:443"), signature + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x01\x02\x01\xbb"},
		{2, addr("[2001:db8::1]:1"), addr("[2001:db8::2]:2"), signature + "\x21\x21\x00\x24" +
			"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x00\x02"},
		{2, &net.UnixAddr{}, &net.UnixAddr{}, signature + "\x20\x00\x00\x00"},
	} {
		require.Equal(t, x.want, string(proxyHeader(x.version, x.from, x.to)))
	}
	line := make(chan string, 1)
	pool := tcpPool(t, loadbalance.Config[string]{}, tcpBackend(t, func(c *net.TCPConn) {
		s, _ := bufio.NewReader(c).ReadString('\n')
		line <- s
	}))
	_, address := serveTCP(t, pool, TCPConfig{ProxyProtocol: 1})
	c := dial(t, address)
	from, to := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	require.Equal(t, fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", from.Port, to.Port), <-line)
}
