package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

func TestCheckHTTPErrors(t *testing.T) {
	for _, x := range []struct {
		c    CheckHTTPConfig
		want string
	}{
		{CheckHTTPConfig{Path: "x"}, `Path must be a path that begins with /, got "x"`},
		{CheckHTTPConfig{Path: "//host/x"}, `Path must be a path that begins with /, got "//host/x"`},
		{CheckHTTPConfig{Path: "/%zz"}, `Path must be a path that begins with /, got "/%zz"`},
		{CheckHTTPConfig{Method: "a b"}, `Method must be one of HTTP, got "a b"`},
		{CheckHTTPConfig{Statuses: []int{99}}, "Statuses must be between 100 and 599, got 99"},
		{CheckHTTPConfig{MaxBody: -1}, "MaxBody must be between 1 and 1073741824, got -1"},
	} {
		_, err := CheckHTTP(x.c)
		require.EqualError(t, err, "loadbalance/proxy: "+x.want)
	}
}

func TestCheckHTTP(t *testing.T) {
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != "GET" && r.Method != "HEAD" || r.URL.Path == "/base/down":
			w.WriteHeader(503)
		case r.URL.Path == "/base/redirect":
			http.Redirect(w, r, "/base/down", http.StatusFound)
		case r.URL.Path == "/base/host" && (r.Host != "own.test" || r.Header.Get("X-Probe") != "1" || r.URL.RawQuery != "q=1"):
			w.WriteHeader(400)
		case r.URL.Path == "/base/short":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "x")
		default:
			io.WriteString(w, strings.Repeat("x", 100)+"ready "+r.UserAgent())
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Config.ErrorLog = discardLog
	s.Start()
	defer s.Close()
	u, err := url.Parse(s.URL + "/base")
	require.NoError(t, err)
	for _, x := range []struct {
		name string
		c    CheckHTTPConfig
		want string
	}{
		{"plain", CheckHTTPConfig{}, ""},
		{"HEAD", CheckHTTPConfig{Method: "HEAD"}, ""},
		{"POST", CheckHTTPConfig{Method: "POST"}, "status 503"},
		{"down", CheckHTTPConfig{Path: "/down"}, "status 503"},
		{"down is fine", CheckHTTPConfig{Path: "/down", Statuses: []int{503}}, ""},
		{"up is not", CheckHTTPConfig{Statuses: []int{503}}, "status 200"},
		{"redirect", CheckHTTPConfig{Path: "/redirect"}, ""},
		{"redirect is not fine", CheckHTTPConfig{Path: "/redirect", Statuses: []int{200}}, "status 302"},
		{"host", CheckHTTPConfig{Path: "/host?q=1", Host: "own.test", Header: http.Header{"X-Probe": {"1"}}}, ""},
		{"no host", CheckHTTPConfig{Path: "/host?q=1"}, "status 400"},
		{"contains", CheckHTTPConfig{Contains: "ready sysblocks"}, ""},
		{"contains not", CheckHTTPConfig{Contains: "ready yes"}, `without "ready yes"`},
		{"too late", CheckHTTPConfig{Contains: "ready", MaxBody: 100}, `without "ready" in the first 100 bytes`},
		{"short", CheckHTTPConfig{Path: "/short", Contains: "ready"}, "unexpected EOF"},
	} {
		t.Run(x.name, func(t *testing.T) {
			check, err := CheckHTTP(x.c)
			require.NoError(t, err)
			before := conns.Load()
			for range 2 {
				err = check(t.Context(), loadbalance.Endpoint[*url.URL]{ID: "a", Value: u})
				if x.want == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, x.want)
				}
			}
			require.Equal(t, before+2, conns.Load(), "a connection was used again")
		})
	}
	check, err := CheckHTTP(CheckHTTPConfig{})
	require.NoError(t, err)
	require.ErrorIs(t, check(t.Context(), loadbalance.Endpoint[*url.URL]{}), errNoURL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, check(ctx, loadbalance.Endpoint[*url.URL]{Value: u}), context.Canceled)
	s.Close()
	require.Error(t, check(t.Context(), loadbalance.Endpoint[*url.URL]{Value: u}))
}

func TestCheckHTTPWithTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = discardLog
	s.StartTLS()
	defer s.Close()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	e := loadbalance.Endpoint[*url.URL]{ID: "a", Value: u}
	check, err := CheckHTTP(CheckHTTPConfig{})
	require.NoError(t, err)
	var cert *tls.CertificateVerificationError
	require.ErrorAs(t, check(t.Context(), e), &cert)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	check, err = CheckHTTP(CheckHTTPConfig{TLS: &tls.Config{RootCAs: roots}, Contains: "HTTP/2.0"})
	require.NoError(t, err)
	require.NoError(t, check(t.Context(), e))
}
