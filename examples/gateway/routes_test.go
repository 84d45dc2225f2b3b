package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

func TestRoutePrecedence(t *testing.T) {
	const routes = `
routes: # on purpose, those that are for more come first
  - {name: rest, prefix: /, pool: a}
  - {name: api, prefix: /api, pool: a}
  - {name: api-v2, prefix: /api/v2/, pool: a}
  - {name: api-post, prefix: /api, methods: [POST, PUT], pool: a}
  - {name: api-beta, prefix: /api, headers: {X-Beta: "1"}, pool: a}
  - {name: api-any-beta, prefix: /api, headers: {X-Beta: "*"}, pool: a}
  - {name: api-status, path: /api/status, pool: a}
  - {name: any-shop, hosts: ["*.example"], prefix: /, pool: a}
  - {name: eu-shop, hosts: ["*.eu.example"], prefix: /, pool: a}
  - {name: shop, hosts: [shop.example, shop.eu.example], prefix: /, pool: a}
  - {name: only-get, hosts: [read.test], prefix: /, methods: [GET, HEAD], pool: a}
  - {name: only-put, hosts: [read.test], path: /file, methods: [PUT], pool: a}
`
	c, err := parseConfig("x.yaml", []byte("listeners: [{address: \":0\"}]\npools: {a: {endpoints: [{url: \"http://127.0.0.1:1\"}]}}\n"+routes))
	require.NoError(t, err)
	g, err := newGateway(c, options{stdout: &clitest.Output{}, stderr: &clitest.Output{}, dry: true})
	require.NoError(t, err)
	t.Cleanup(g.close)
	x := newRouter(g.routes)
	for _, q := range []struct{ method, url, header, want string }{
		{"GET", "http://other.test/", "", "rest"},
		{"GET", "http://other.test/apis", "", "rest"}, // a prefix ends where a segment does
		{"GET", "http://other.test/api", "", "api"},
		{"GET", "http://other.test/api/", "", "api"},
		{"GET", "http://other.test/api/v2", "", "api"}, // and /api/v2/ is what is in it
		{"GET", "http://other.test/api/v2/", "", "api-v2"},
		{"GET", "http://other.test/api/v2/x", "", "api-v2"},
		{"GET", "http://other.test/api/status", "", "api-status"},
		{"GET", "http://other.test/api/status/", "", "api"},
		{"POST", "http://other.test/api/x", "", "api-post"},
		{"DELETE", "http://other.test/api/x", "", "api"},
		{"GET", "http://other.test/api/x", "X-Beta: 1", "api-beta"},
		{"GET", "http://other.test/api/x", "X-Beta: 2", "api-any-beta"},
		{"GET", "http://other.test/api/v2/x", "X-Beta: 1", "api-v2"}, // the path counts for more
		{"GET", "http://shop.example/api", "", "shop"},               // and the host for more than that
		{"GET", "http://SHOP.example:8080/api", "", "shop"},
		{"GET", "http://shop.example./api", "", "shop"},
		{"GET", "http://a.example/api", "", "any-shop"},
		{"GET", "http://a.b.example/api", "", "any-shop"},
		{"GET", "http://a.eu.example/", "", "eu-shop"},
		{"GET", "http://shop.eu.example/", "", "shop"},
		{"GET", "http://example/", "", "rest"}, // *.example is not it itself
		{"GET", "http://read.test/file", "", "only-get"},
		{"PUT", "http://read.test/file", "", "only-put"},
		{"PUT", "http://read.test/x", "", "rest"},
	} {
		r := httptest.NewRequest(q.method, q.url, nil)
		if name, value, ok := strings.Cut(q.header, ": "); ok {
			r.Header.Set(name, value)
		}
		found, _ := x.match(r)
		require.NotNil(t, found, q)
		assert.Equal(t, q.want, found.config.Name, q)
	}
}

func TestNoRoute(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: read, hosts: [a.test], prefix: /, methods: [GET, HEAD], pool: a}
  - {name: write, hosts: [a.test], prefix: /w, methods: [PUT], pool: a}
`)
	resp, body := f.get(t, "/", "Host: b.test")
	assert.Equal(t, 404, resp.StatusCode)
	assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	assert.JSONEq(t, `{"title": "Not Found", "status": 404, "detail": "There is no route for this host and path."}`, body)

	resp, _ = f.do(t, "POST", f.url(0)+"/w/x", "Host: a.test")
	assert.Equal(t, 405, resp.StatusCode)
	assert.Equal(t, "GET, HEAD, PUT", resp.Header.Get("Allow"))

	resp, _ = f.get(t, "/w/x", "Host: a.test")
	assert.Equal(t, 200, resp.StatusCode)
}

// What a backend could resolve to another path than the gateway has decided about goes nowhere.
func TestPathTricks(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: public, prefix: /public, pool: a}
`)
	for _, p := range []string{"/public/../private", "/public/%2e%2e/private", "/public/..%2fprivate", "/public/.%2e/", "//public/", "/public//x", "/public/./x", `/public/..%5cprivate`, "/public/..", "/public/..;/private", "/public/.;x=y/a", "/public/;/a", "/public/a;b=c", "/public%3bx", "/public;x=y", "/public%00", "/public%0a", "/public%7f", "/public%c2%85"} {
		resp, body := f.get(t, p)
		assert.Equal(t, 400, resp.StatusCode, "%s: %s", p, body)
	}
	for _, p := range []string{"/public", "/public/", "/public/..x", "/public/a%20b", "/public/a%2Fb", "/public/a...b/...", "/public/?q=../x"} {
		resp, body := f.get(t, p)
		assert.Equal(t, 200, resp.StatusCode, p)
		assert.Contains(t, body, "GET "+p+"\n")
	}
}

// To many servers /account;x=y, or /account with a NUL at its end, is /account: what that needs must not
// be got around by asking for it so.
func TestPathParametersNeedNoLessAuth(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, keys(nil, "alice")+pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: open, prefix: /, pool: a}
  - {name: account, prefix: /account, pool: a, auth: {api_key: X-API-Key}, rate_limit: {count: 1000, per: 1h}}
`)
	for _, p := range []string{"/account;x=y", "/account%3bx", "/account%3Bx/orders", "/account%00", "/account%09", "/;x/account"} {
		resp, _ := f.get(t, p)
		assert.Equal(t, 400, resp.StatusCode, p)
	}
	for p, want := range map[string]int{"/account": 401, "/%61ccount": 401, "/account/": 401, "/accounts": 200, "/other?a=b;c": 200} {
		resp, _ := f.get(t, p)
		assert.Equal(t, want, resp.StatusCode, p)
	}
}

// A request for a whole URL without a path, as clients of proxies write it, is one for /.
func TestEmptyPath(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, path: /, pool: a}]\n")
	for target, want := range map[string]string{"http://a.test": "GET /", "http://a.test?x=1": "GET /?x=1", "http://a.test/": "GET /", "/": "GET /"} {
		status, body := f.raw(t, "GET "+target+" HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		assert.Equal(t, 200, status, target)
		assert.Contains(t, body, want+"\n", target)
	}
	status, _ := f.raw(t, "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nConnection: close\r\n\r\n")
	assert.Equal(t, 400, status)
}

func TestStripPrefix(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: one, prefix: /api, strip_prefix: /api, pool: a}
  - {name: two, prefix: /v1/, strip_prefix: /v1/, pool: a}
  - {name: odd, prefix: "/a b", strip_prefix: "/a b", pool: a}
`)
	for _, x := range []struct{ path, want string }{
		{"/api", "/"},
		{"/api/", "/"},
		{"/api/orders?x=1", "/orders?x=1"},
		{"/api/a%2Fb", "/a%2Fb"}, // stays escaped as it was
		{"/v1/orders", "/orders"},
		{"/a%20b/c", "/c"},
		{"/a%20b/c%2Fd", "/c%2Fd"},
		{"/%61pi/c%2Fd", "/c/d"}, // where the prefix is escaped itself, that is lost
	} {
		resp, body := f.get(t, x.path)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Contains(t, body, "GET "+x.want+"\n", x.path)
		assert.Contains(t, body, "X-Forwarded-Prefix: ")
	}
}

func TestHeaders(t *testing.T) {
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		for name, want := range map[string]string{"X-Secret": "", "X-Gateway": "yes", "X-Tag": "client,gateway", "X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "", "X-Consumer": ""} {
			if got := strings.Join(r.Header.Values(name), ","); got != want {
				t.Errorf("the backend got %s: %q, want %q", name, got, want)
			}
		}
		h := w.Header()
		h.Set("Server", "secret/1.0")
		h.Set("Cache-Control", "no-store")
		h.Set("Vary", "Origin")
	})
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - name: all
    prefix: /
    pool: a
    rate_limit: {count: 1, per: 1h}
    request_headers:
      set: {X-Gateway: "yes"}
      add: {X-Tag: gateway}
      remove: [X-Secret]
    response_headers:
      set: {Cache-Control: max-age=60}
      add: {Vary: Accept}
      remove: [Server]
`)
	resp, _ := f.get(t, "/", "X-Secret: 1", "X-Gateway: no", "X-Tag: client", "X-Forwarded-For: 6.6.6.6", "X-Real-Ip: 6.6.6.6", "X-Consumer: root")
	require.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, []string{"max-age=60"}, resp.Header.Values("Cache-Control"))
	assert.Equal(t, []string{"Origin", "Accept"}, resp.Header.Values("Vary"))
	assert.Empty(t, resp.Header.Values("Server"))

	resp, _ = f.get(t, "/") // also what the gateway answers itself
	require.Equal(t, 429, resp.StatusCode)
	assert.Equal(t, "max-age=60", resp.Header.Get("Cache-Control"))
}

func TestHost(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: own, prefix: /, pool: a}
  - {name: kept, prefix: /kept, preserve_host: true, pool: a}
`)
	_, body := f.get(t, "/", "Host: shop.test")
	assert.Contains(t, body, "Host: "+a.Listener.Addr().String()+"\n")
	assert.Contains(t, body, "X-Forwarded-Host: shop.test\r\n")
	_, body = f.get(t, "/kept", "Host: shop.test")
	assert.Contains(t, body, "Host: shop.test\n")
}

// Behind a trusted proxy the client is whom that names; and nobody else may name anybody.
func TestTrustedProxies(t *testing.T) {
	a := echo(t, "a")
	routes := `
routes:
  - {name: all, prefix: /, pool: a, rate_limit: {count: 1, per: 1h}}
`
	f := startGateway(t, "trusted_proxies: [127.0.0.1/32]\n"+pools(map[string]*httptest.Server{"a": a})+routes)
	resp, body := f.get(t, "/", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, body, "X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n")
	assert.Contains(t, body, "X-Forwarded-Proto: https\r\n")
	resp, _ = f.get(t, "/", "X-Forwarded-For: 192.0.2.2")
	assert.Equal(t, 200, resp.StatusCode)
	resp, _ = f.get(t, "/", "X-Forwarded-For: 192.0.2.1")
	assert.Equal(t, 429, resp.StatusCode)
	eventually(t, func() bool { return strings.Count(f.log.String(), `"client":"192.0.2.1"`) == 2 }, "log")

	// It sets X-Forwarded-*; what else there is of that kind, a client has written.
	_, body = f.get(t, "/", "X-Forwarded-For: 192.0.2.3", "Forwarded: for=6.6.6.6", "X-Real-Ip: 6.6.6.6", "X_Real_IP: 6.6.6.6", "X_Forwarded_For: 6.6.6.6")
	assert.Contains(t, body, "X-Forwarded-For: 192.0.2.3, 127.0.0.1\r\n")
	assert.NotContains(t, body, "6.6.6.6")

	f = startGateway(t, pools(map[string]*httptest.Server{"a": a})+routes)
	_, body = f.get(t, "/", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
	assert.Contains(t, body, "X-Forwarded-For: 127.0.0.1\r\n")
	assert.Contains(t, body, "X-Forwarded-Proto: http\r\n")
	resp, _ = f.get(t, "/", "X-Forwarded-For: 192.0.2.2")
	assert.Equal(t, 429, resp.StatusCode)
}
