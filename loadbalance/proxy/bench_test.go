package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// BenchmarkRoundTrip is what balancing costs, without sending anything.
func BenchmarkRoundTrip(b *testing.B) {
	pool := newPool(b, loadbalance.Config[*url.URL]{Policy: loadbalance.PowerOfTwoChoices()}, "http://a", "http://b")
	resp := reply(200, "")
	body := io.NopCloser(http.NoBody)
	tr := newTransport(b, pool, TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		resp.Body = body
		return resp, nil
	})})
	req := newRequest(b, "GET", "http://s/", nil)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := tr.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

// BenchmarkReverseProxy has a client, a proxy and a server in this process, with HTTP/1.1 between them.
// impl=httputil is the same proxy without balancing.
func BenchmarkReverseProxy(b *testing.B) {
	data := make([]byte, 1024)
	backend := newBackend(b, func(w http.ResponseWriter, r *http.Request) { w.Write(data) })
	u, err := url.Parse(backend.URL)
	require.NoError(b, err)
	base := newBase()
	base.DisableCompression = true
	defer base.CloseIdleConnections()
	pool := newPool(b, loadbalance.Config[*url.URL]{Policy: loadbalance.PowerOfTwoChoices()}, backend.URL, backend.URL)
	ours, err := NewReverseProxy(pool, ReverseProxyConfig{Transport: TransportConfig{Base: base}})
	require.NoError(b, err)
	for _, x := range []struct {
		impl string
		h    http.Handler
	}{
		{"ours", ours},
		{"httputil", &httputil.ReverseProxy{Transport: base, BufferPool: buffers{}, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.SetXForwarded()
		}}},
	} {
		b.Run("impl="+x.impl, func(b *testing.B) {
			s := httptest.NewServer(x.h)
			defer s.Close()
			client := s.Client()
			client.Transport.(*http.Transport).MaxIdleConnsPerHost = 256
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := client.Get(s.URL)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}

// BenchmarkTCPProxy sends 1 MiB through a connection, and gets one byte back.
func BenchmarkTCPProxy(b *testing.B) {
	const n = 1 << 20
	pool := tcpPool(b, loadbalance.Config[string]{}, tcpBackend(b, func(c *net.TCPConn) {
		for {
			if _, err := io.CopyN(io.Discard, c, n); err != nil {
				return
			}
			c.Write([]byte{1})
		}
	}))
	_, address := serveTCP(b, pool, TCPConfig{})
	conn := dial(b, address)
	defer conn.Close()
	data, one := make([]byte, n), make([]byte, 1)
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			b.Fatal(err)
		}
	}
}
