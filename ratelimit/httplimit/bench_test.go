package httplimit

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// benchResponse is a ResponseWriter that costs nothing.
type benchResponse struct{ header http.Header }

func (w *benchResponse) Header() http.Header         { return w.header }
func (w *benchResponse) Write(b []byte) (int, error) { return len(b), nil }
func (w *benchResponse) WriteHeader(int)             {}

// BenchmarkHandler is what a request costs beside the handler, which does nothing here.
func BenchmarkHandler(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	policies := func(n int, l ratelimit.Limit) []Policy {
		var ps []Policy
		for i := range n {
			ps = append(ps, Policy{Name: fmt.Sprint("policy", i), Limit: l})
		}
		return ps
	}
	for _, c := range []struct {
		name string
		n    int
		l    ratelimit.Limit
		hook func(*http.Request, Decision)
	}{
		{"policies=1/case=allowed/hook=no", 1, ratelimit.PerSecond(1e9), nil},
		{"policies=1/case=allowed/hook=yes", 1, ratelimit.PerSecond(1e9), func(*http.Request, Decision) {}},
		{"policies=3/case=allowed/hook=no", 3, ratelimit.PerSecond(1e9), nil},
		{"policies=1/case=refused/hook=no", 1, ratelimit.PerHour(1), nil},
	} {
		m := newMiddleware(b, Config{Policies: policies(c.n, c.l), OnDecision: c.hook})
		h := m.Handler(next)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			w := &benchResponse{header: http.Header{}}
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
		b.Run(c.name+"/parallel=yes", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w := &benchResponse{header: http.Header{}}
				for pb.Next() {
					clear(w.header)
					h.ServeHTTP(w, r)
				}
			})
		})
	}
}

// BenchmarkAddr is what finding the address costs.
func BenchmarkAddr(b *testing.B) {
	a := newAddr(b, AddrConfig{TrustedProxies: testProxies})
	f := newAddr(b, AddrConfig{TrustedProxies: testProxies, Header: forwarded})
	for _, c := range []struct {
		name string
		a    *ClientAddr
		r    *http.Request
	}{
		{"header=none", a, from("203.0.113.9:80", "")},
		{"header=X-Forwarded-For", a, from(proxy, xForwardedFor, "1.2.3.4, 203.0.113.9, 10.0.0.2")},
		{"header=Forwarded", f, from(proxy, forwarded, "for=1.2.3.4, for=203.0.113.9;proto=https, for=10.0.0.2")},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.a.Key(c.r)
			}
		})
	}
}
