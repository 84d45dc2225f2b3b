package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAccessLog(t *testing.T) {
	a := echo(t, "a")
	file := filepath.Join(t.TempDir(), "access.log")
	f := startGateway(t, "access_log: "+file+"\n"+keys(nil, "alice")+pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: orders, prefix: /api/orders, strip_prefix: /api, pool: a, auth: {api_key: X-API-Key}}
`)
	resp, body := f.get(t, "/api/orders/1?secret=yes", "X-API-Key: key-of-alice", "X-Request-Id: my-id.1", "Host: shop.test")
	require.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, []string{"my-id.1"}, resp.Header.Values("X-Request-Id"))
	assert.Contains(t, body, "X-Request-Id: my-id.1\r\n")

	resp, body = f.get(t, "/api/orders/2", "X-API-Key: key-of-alice", `X-Request-Id: "}, {"forged": "`)
	made := resp.Header.Get("X-Request-Id")
	assert.Regexp(t, `^[0-9a-f]{32}$`, made)
	assert.Contains(t, body, "X-Request-Id: "+made+"\r\n")

	resp, _ = f.get(t, "/api/orders/3")
	require.Equal(t, 401, resp.StatusCode)
	resp, _ = f.do(t, "DELETE", f.url(0)+"/nowhere%0a")
	require.Equal(t, 400, resp.StatusCode)

	var logged []map[string]any
	eventually(t, func() bool {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		logged = nil
		for line := range strings.Lines(string(text)) {
			var x map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &x), line)
			logged = append(logged, x)
		}
		return len(logged) == 4
	}, "four lines")
	for _, x := range logged {
		assert.Positive(t, x["duration_ms"])
		assert.Positive(t, x["bytes"])
		for _, k := range []string{"duration_ms", "bytes", "time", "level"} {
			delete(x, k)
		}
	}
	gateway := f.addrs[0].String()
	assert.Equal(t, map[string]any{
		"msg": "request", "id": "my-id.1", "method": "GET", "host": "shop.test", "path": "/api/orders/1", "route": "orders",
		"endpoint": "a", "status": 200.0, "tries": 1.0, "api_key": "alice", "client": "127.0.0.1",
	}, logged[0])
	assert.Equal(t, made, logged[1]["id"])
	assert.Equal(t, map[string]any{
		"msg": "request", "id": logged[2]["id"], "method": "GET", "host": gateway, "path": "/api/orders/3", "route": "orders",
		"endpoint": "", "status": 401.0, "tries": 0.0, "api_key": "", "client": "127.0.0.1",
	}, logged[2])
	assert.Equal(t, map[string]any{
		"msg": "request", "id": logged[3]["id"], "method": "DELETE", "host": gateway, "path": "/nowhere\n", "route": "none",
		"endpoint": "", "status": 400.0, "tries": 0.0, "api_key": "", "client": "127.0.0.1",
	}, logged[3])
}

func TestAccessLogOff(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, "access_log: \"off\"\n"+pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
	resp, _ := f.get(t, "/")
	assert.Equal(t, 200, resp.StatusCode)
	require.NoError(t, f.stop(t.Context())) // all is written
	assert.Empty(t, f.log.String())
}

// scrape reads /metrics as Prometheus does.
func (f *fixture) scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := f.client.Get(f.adminURL("/metrics"))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err)
	return families
}

// value returns the value of the one metric with these labels, "name=value" each.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	require.Contains(t, families, name)
	for _, m := range families[name].GetMetric() {
		var has []string
		for _, l := range m.GetLabel() {
			has = append(has, l.GetName()+"="+l.GetValue())
		}
		if !assert.ObjectsAreEqual(labels, has) {
			continue
		}
		switch {
		case m.GetHistogram() != nil:
			return float64(m.GetHistogram().GetSampleCount())
		case m.GetCounter() != nil:
			return m.GetCounter().GetValue()
		}
		return m.GetGauge().GetValue()
	}
	t.Errorf("there is no %s with %v", name, labels)
	return -1
}

func TestMetrics(t *testing.T) {
	here, release := make(chan struct{}), make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/wait":
			here <- struct{}{}
			<-release
		case "/broken":
			w.WriteHeader(500)
		}
	})
	f := startGateway(t, keys(nil, "alice")+pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: r, prefix: /, pool: a}
  - {name: limited, prefix: /limited, pool: a, rate_limit: {count: 1, per: 1h}}
  - {name: private, prefix: /private, pool: a, auth: {api_key: X-API-Key}}
  - {name: broken, prefix: /broken, pool: a, breaker: {consecutive_failures: 1, open_for: 1h}}
`)
	for _, p := range []string{"/", "/", "/limited", "/limited", "/private", "/broken", "/broken", "/a//b"} {
		f.get(t, p)
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		f.get(t, "/wait")
	}()
	<-here
	defer func() {
		close(release)
		<-got
	}()
	m := f.scrape(t)
	for _, x := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{2, "gateway_requests_total", []string{"code=200", "route=r"}},
		{1, "gateway_requests_total", []string{"code=200", "route=limited"}},
		{1, "gateway_requests_total", []string{"code=429", "route=limited"}},
		{1, "gateway_requests_total", []string{"code=401", "route=private"}},
		{1, "gateway_requests_total", []string{"code=500", "route=broken"}},
		{1, "gateway_requests_total", []string{"code=503", "route=broken"}},
		{1, "gateway_requests_total", []string{"code=400", "route=none"}},
		{2, "gateway_request_duration_seconds", []string{"route=r"}},
		{1, "gateway_requests_in_flight", []string{"route=r"}},
		{0, "gateway_requests_in_flight", []string{"route=limited"}},
		{1, "gateway_tries_total", []string{"route=broken"}},
		{0, "gateway_tries_total", []string{"route=private"}},
		{1, "gateway_rate_limited_total", []string{"route=limited"}},
		{1, "gateway_unauthorized_total", []string{"route=private"}},
		{0, "gateway_breaker_state", []string{"route=broken", "state=closed"}},
		{1, "gateway_breaker_state", []string{"route=broken", "state=open"}},
		{1, "gateway_endpoint_state", []string{"endpoint=a", "pool=a", "state=healthy"}},
		{0, "gateway_endpoint_state", []string{"endpoint=a", "pool=a", "state=draining"}},
		{1, "gateway_endpoint_in_flight", []string{"endpoint=a", "pool=a"}},
		{5, "gateway_endpoint_picked_total", []string{"endpoint=a", "pool=a"}},
		{1, "gateway_endpoint_failed_total", []string{"endpoint=a", "pool=a"}},
		{1, "gateway_pool_available", []string{"pool=a"}},
	} {
		assert.Equal(t, x.want, value(t, m, x.name, x.labels...), "%s%v", x.name, x.labels)
	}
	assert.Contains(t, m, "go_goroutines")
}

// An endpoint that has gone leaves no metrics behind.
func TestMetricsOfRemovedEndpoints(t *testing.T) {
	f := startGateway(t, `
pools: {p: {endpoints: [{id: a, url: "http://127.0.0.1:1"}, {id: b, url: "http://127.0.0.1:1"}]}}
routes: [{name: r, prefix: /, pool: p}]
`)
	require.NoError(t, f.pools[0].Remove("a"))
	m := f.scrape(t)
	require.Len(t, m["gateway_endpoint_in_flight"].GetMetric(), 1)
	value(t, m, "gateway_endpoint_in_flight", "endpoint=b", "pool=p")
}

func TestStatusJSON(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, fmt.Sprintf(`
pools:
  p: {policy: least_response_time, endpoints: [{id: a, url: %q, weight: 3, zone: x}, {id: "<b>", url: "http://127.0.0.1:1", weight: 0, priority: 2}]}
routes: [{name: r, prefix: /, pool: p, breaker: {consecutive_failures: 1}}]
`, a.URL))
	f.get(t, "/")
	resp, err := f.client.Get(f.adminURL("/status.json"))
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var s status
	require.NoError(t, json.Unmarshal(body, &s))
	require.Len(t, s.Pools, 1)
	p := s.Pools[0]
	assert.Equal(t, []any{"p", "p", "least_response_time", 1, false}, []any{p.Name, p.Of, p.Policy, p.Available, p.Panicked})
	require.Len(t, p.Endpoints, 2)
	assert.Positive(t, p.Endpoints[1].LatencyMS)
	p.Endpoints[1].LatencyMS = 0
	assert.Equal(t, []endpointStatus{
		{ID: "<b>", State: "no weight", Priority: 2, Ramp: 1},
		{ID: "a", State: "healthy", Zone: "x", Weight: 3, Ramp: 1, Picked: 1},
	}, p.Endpoints)
	assert.Equal(t, []routeStatus{{Name: "r", Pool: "p", Requests: 1, Tries: 1, Breaker: "closed"}}, s.Routes)
	assert.NotContains(t, string(body), "<b>", "it is safe even where it is taken for HTML")
}

// The status is sent while somebody listens, and not to too many.
func TestStatusEvents(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
	var open []*http.Response
	for range maxFollowers {
		resp, err := f.client.Get(f.adminURL("/status/events"))
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		open = append(open, resp)
	}
	resp, err := f.client.Get(f.adminURL("/status/events"))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, 503, resp.StatusCode)

	r := bufio.NewReader(open[0].Body)
	next := func() (s status) {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		data, ok := strings.CutPrefix(line, "data: ")
		require.True(t, ok, line)
		require.NoError(t, json.Unmarshal([]byte(data), &s))
		line, err = r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "\n", line)
		return s
	}
	first := next()
	assert.Zero(t, first.Routes[0].Requests)
	f.get(t, "/")
	eventually(t, func() bool { return next().Routes[0].Requests == 1 }, "the request is shown")

	// When they have gone, nothing goes on; and when the gateway stops, they are ended.
	for _, resp := range open[1:] {
		resp.Body.Close()
	}
	eventually(t, func() bool { return f.followers.Load() == 1 }, "the others have gone")
	require.NoError(t, f.stop(t.Context()))
	_, err = io.Copy(io.Discard, r)
	require.NoError(t, err)
	assert.Zero(t, f.followers.Load())
}

// The page is whole by itself, and may do nothing else.
func TestStatusPage(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
	resp, body := f.do(t, "GET", f.adminURL("/"))
	require.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'; style-src 'self'")
	assert.Contains(t, body, `name="viewport"`)
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(body, -1) {
		resp, text := f.do(t, "GET", f.adminURL("/"+m[1]))
		assert.Equal(t, 200, resp.StatusCode, m[1])
		if m[1] == "page.js" {
			assert.NotRegexp(t, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval`, text)
		}
		if m[1] == "page.css" {
			assert.Contains(t, text, "prefers-color-scheme: dark")
			assert.Contains(t, text, "max-width: 46rem")
		}
	}
}

// An endpoint can be drained and resumed, by people who look at the page itself.
func TestDrain(t *testing.T) {
	a, b := echo(t, "a"), echo(t, "b")
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {policy: round_robin, endpoints: [{id: a/1, url: %q}, {id: b, url: %q}]}}
routes: [{name: r, prefix: /, pool: p}, {name: s, prefix: /s, pool: p, policy: random}]
`, a.URL, b.URL))
	path := "/pools/p/drain?endpoint=a%2F1"
	resp, _ := f.do(t, "POST", f.adminURL(path), "Origin: http://evil.test")
	assert.Equal(t, 403, resp.StatusCode, "another origin")
	resp, _ = f.do(t, "POST", f.adminURL(path), "Sec-Fetch-Site: cross-site")
	assert.Equal(t, 403, resp.StatusCode, "another site")
	resp, _ = f.do(t, "POST", f.adminURL(path), "Host: evil.test", "Origin: http://evil.test")
	assert.Equal(t, 421, resp.StatusCode, "a name that leads here")
	for path, want := range map[string]int{"/": 421, "/status.json": 421, "/status/events": 421, "/metrics": 200, "/healthz": 200} {
		resp, _ = f.do(t, "GET", f.adminURL(path), "Host: evil.test")
		assert.Equal(t, want, resp.StatusCode, path)
	}
	resp, _ = f.do(t, "GET", f.adminURL(path))
	assert.Equal(t, 404, resp.StatusCode)
	resp, _ = f.do(t, "POST", f.adminURL("/pools/q/drain?endpoint=b"))
	assert.Equal(t, 404, resp.StatusCode)
	resp, _ = f.do(t, "POST", f.adminURL("/pools/p/drain?endpoint=c"))
	assert.Equal(t, 404, resp.StatusCode)
	resp, _ = f.do(t, "POST", f.adminURL("/pools/p/stop?endpoint=b"))
	assert.Equal(t, 404, resp.StatusCode)
	for _, p := range f.status().Pools {
		assert.Equal(t, "healthy", p.Endpoints[0].State)
	}

	resp, body := f.do(t, "POST", f.adminURL(path), "Origin: http://"+f.adminAddr.String(), "Sec-Fetch-Site: same-origin")
	require.Equal(t, 204, resp.StatusCode, body)
	for _, p := range f.status().Pools { // also in the pool of the route with its own policy
		assert.Equal(t, "draining", p.Endpoints[0].State)
	}
	for range 5 {
		resp, _ := f.get(t, "/")
		assert.Equal(t, "b", resp.Header.Get("X-Backend"))
	}
	resp, _ = f.do(t, "POST", f.adminURL("/pools/p/resume?endpoint=a%2F1"), "Host: localhost")
	require.Equal(t, 204, resp.StatusCode)
	assert.Equal(t, "healthy", f.status().Pools[0].Endpoints[0].State)
}
