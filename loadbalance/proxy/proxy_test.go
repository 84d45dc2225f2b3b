package proxy

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// name returns the ID of endpoint i.
func name(i int) string { return string(rune('a' + i)) }

// newPool returns a pool of the URLs, with IDs a, b and so on, whose requests must all have ended when
// the test does.
func newPool(t testing.TB, c loadbalance.Config[*url.URL], urls ...string) *loadbalance.Pool[*url.URL] {
	for i, s := range urls {
		u, err := url.Parse(s)
		require.NoError(t, err)
		c.Endpoints = append(c.Endpoints, loadbalance.Endpoint[*url.URL]{ID: name(i), Value: u, Weight: 1})
	}
	if c.Policy == nil {
		c.Policy = loadbalance.RoundRobin()
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	return checked(t, c)
}

// checked returns a pool whose requests must all have ended when the test does.
func checked[T any](t testing.TB, c loadbalance.Config[T]) *loadbalance.Pool[T] {
	p, err := loadbalance.New(c)
	require.NoError(t, err)
	t.Cleanup(func() {
		// A client may have its answer a little before the proxy is done with it.
		eventually(t, func() bool { return inFlight(p) == 0 }, "a request never ends")
		p.Close()
	})
	return p
}

func inFlight[T any](p *loadbalance.Pool[T]) int64 {
	n := int64(0)
	for _, e := range p.Stats().Endpoints {
		n += e.InFlight
	}
	return n
}

// eventually waits for what happens in another goroutine.
func eventually(t testing.TB, done func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Error(what)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// outcomes returns how often requests at endpoint i have ended so.
func outcomes[T any](p *loadbalance.Pool[T], i int, o loadbalance.Outcome) uint64 {
	return p.Stats().Endpoints[i].Outcomes[o]
}

func picked[T any](p *loadbalance.Pool[T], i int) uint64 { return p.Stats().Endpoints[i].Picked }

// A roundTrip is a function that is an http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reply returns an answer.
func reply(status int, body string, header ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{
		Status: strconv.Itoa(status), StatusCode: status, Header: h, ContentLength: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1,
	}
}

// refused is the error of a dial.
var refused = &net.OpError{Op: "dial", Net: "tcp", Err: io.ErrClosedPipe}

func newTransport(t testing.TB, pool *loadbalance.Pool[*url.URL], c TransportConfig) *Transport {
	tr, err := NewTransport(pool, c)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// newProxy returns a server with a reverse proxy.
func newProxy(t testing.TB, pool *loadbalance.Pool[*url.URL], c ReverseProxyConfig) *httptest.Server {
	h, err := NewReverseProxy(pool, c)
	require.NoError(t, err)
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		h.Transport.(*Transport).CloseIdleConnections()
	})
	return s
}

// newBackend returns a server.
func newBackend(t testing.TB, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func newRequest(t testing.TB, method, u string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(context.Background(), method, u, body)
	require.NoError(t, err)
	return r
}

// slurp reads and closes the body of an answer.
func slurp(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return string(b)
}

var discardLog = log.New(io.Discard, "", 0)

// selfSigned returns a certificate for localhost that nobody trusts.
func selfSigned(t testing.TB) tls.Certificate {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
}
