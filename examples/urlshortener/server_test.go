package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// TestRedirect follows links, and waits until their clicks are counted: those of GET, and by referrer.
func TestRedirect(t *testing.T) {
	f := serveApp(t, nil)
	f.create(t, `{"url":"https://example.com/a?b=c#d","alias":"temporary"}`)
	f.create(t, `{"url":"https://example.com/ü","alias":"permanent","permanent":true}`)
	for range 3 {
		resp, body := f.do(t, "GET", "/temporary?ignored=1", "", "Referer", "https://News.example/x")
		require.Equal(t, 302, resp.StatusCode)
		require.Equal(t, "https://example.com/a?b=c#d", resp.Header.Get("Location"))
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		require.Equal(t, "strict-origin-when-cross-origin", resp.Header.Get("Referrer-Policy"))
		require.Empty(t, body)
		resp, _ = f.do(t, "HEAD", "/temporary", "")
		require.Equal(t, 302, resp.StatusCode)
	}
	resp, _ := f.do(t, "GET", "/permanent", "")
	require.Equal(t, 301, resp.StatusCode)
	require.Equal(t, "https://example.com/%C3%BC", resp.Header.Get("Location"))
	require.Equal(t, "private, max-age=90", resp.Header.Get("Cache-Control"))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		resp, _ := f.do(t, method, "/temporary", "")
		require.Equal(t, 405, resp.StatusCode, method)
	}
	resp, body := f.do(t, "GET", "/nothing-here", "")
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, "There is no such link. It may have expired, or have been deleted.\n", body)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))

	today := time.Now().UTC().Format(time.DateOnly)
	for code, want := range map[string]tally{
		"temporary": {Total: 3, Days: map[string]int64{today: 3}, Referrers: map[string]int64{"news.example": 3}},
		"permanent": {Total: 1, Days: map[string]int64{today: 1}, Referrers: map[string]int64{"": 1}},
	} {
		require.Eventually(t, func() bool {
			_, body := f.do(t, "GET", "/api/links/"+code, "")
			var l linkView
			return json.Unmarshal([]byte(body), &l) == nil && l.Clicks.Total == want.Total &&
				fmt.Sprint(*l.Clicks) == fmt.Sprint(want)
		}, 20*time.Second, 20*time.Millisecond, code)
	}
}

// TestOrigins lets pages of this origin and programs change something, and no other page.
func TestOrigins(t *testing.T) {
	f := serveApp(t, nil)
	f.create(t, `{"url":"https://example.com/","alias":"kept"}`)
	for _, x := range []struct {
		headers []string
		status  int
	}{
		{nil, 201},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 201},
		{[]string{"Sec-Fetch-Site", "none"}, 201},
		{[]string{"Origin", f.url}, 201},
		{[]string{"Origin", f.url, "Sec-Fetch-Site", "same-origin"}, 201},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Origin", f.url, "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
	} {
		resp, body := f.do(t, "POST", "/api/links", `{"url":"https://example.com/"}`, x.headers...)
		require.Equal(t, x.status, resp.StatusCode, x.headers)
		if x.status == 403 {
			require.Equal(t, "a page of another origin must not do this", detail(t, resp, body))
			resp, _ = f.do(t, "DELETE", "/api/links/kept", "", x.headers...)
			require.Equal(t, 403, resp.StatusCode)
		}
		resp, _ = f.do(t, "GET", "/kept", "", x.headers...) // links are there to be followed from anywhere
		require.Equal(t, 302, resp.StatusCode)
		resp, _ = f.do(t, "GET", "/api/links", "", x.headers...)
		require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin")) // and the list is read by no other page
	}
}

// TestSecurityHeaders has them on every answer, and a page that needs nothing that they forbid.
func TestSecurityHeaders(t *testing.T) {
	f := serveApp(t, nil)
	f.create(t, `{"url":"https://example.com/","alias":"abc"}`)
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/assets/page.js": "text/javascript; charset=utf-8", "/assets/style.css": "text/css; charset=utf-8",
		"/assets/favicon.svg": "image/svg+xml", "/favicon.ico": "image/svg+xml", "/openapi.json": "application/json", "/robots.txt": "text/plain; charset=utf-8",
		"/abc": "", "/nothing": "text/plain; charset=utf-8", "/healthz": "text/plain; charset=utf-8", "/api/links": "application/json",
		"/api/links/nothing": "application/problem+json",
	} {
		resp, _ := f.do(t, "GET", path, "")
		require.Equal(t, contentSecurityPolicy, resp.Header.Get("Content-Security-Policy"), path)
		require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"), path)
		require.Equal(t, kind, resp.Header.Get("Content-Type"), path)
	}
	require.NotContains(t, contentSecurityPolicy, "unsafe")
	_, page := f.do(t, "GET", "/", "")
	for _, bad := range []string{`<script>`, `<style`, ` style=`, ` onclick=`, `http://`, `<iframe`, `<base`} {
		require.NotContains(t, page, bad)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		require.True(t, strings.HasPrefix(m[1], "/"), m[1])
		resp, _ := f.do(t, "GET", m[1], "")
		require.Equal(t, 200, resp.StatusCode, m[1])
	}
}

// TestLimits refuses who makes or follows too many links, and tells when to come again.
func TestLimits(t *testing.T) {
	f := serveApp(t, func(s *settings) { s.unlimited = false })
	until := func(method, path, body string, most int) (*http.Response, string, int) {
		for n := range most {
			if resp, got := f.do(t, method, path, body); resp.StatusCode == 429 {
				return resp, got, n
			}
		}
		t.Fatalf("%s %s is never refused", method, path)
		return nil, "", 0
	}
	for _, x := range []struct {
		method, path, body, policy string
		burst, most                int
	}{
		{"POST", "/api/links", `{"url":"https://example.com/"}`, "create", 20, 200},
		{"GET", "/nothing-here", "", "follow", 200, 5000},
	} {
		resp, body, n := until(x.method, x.path, x.body, x.most)
		require.GreaterOrEqual(t, n, x.burst)
		require.Regexp(t, `^[1-9]\d*$`, resp.Header.Get("Retry-After"))
		require.Contains(t, resp.Header.Get("RateLimit-Policy"), fmt.Sprintf("%q;q=", x.policy))
		require.Contains(t, resp.Header.Get("RateLimit"), fmt.Sprintf("%q;r=0", x.policy))
		require.Contains(t, detail(t, resp, body), "Try again after")
		require.Contains(t, body, fmt.Sprintf(`"violated-policies":[%q]`, x.policy))
	}
	require.EqualValues(t, 2, f.app.refused.Load())
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", "/api/status"} { // who watches is not refused
		resp, _ := f.do(t, "GET", path, "")
		require.Equal(t, 200, resp.StatusCode, path)
	}
}

func TestReadyz(t *testing.T) {
	f := serveApp(t, nil)
	get := func() (int, string) {
		resp, body := f.do(t, "GET", "/readyz", "")
		return resp.StatusCode, body
	}
	status, body := get()
	require.Equal(t, 200, status, body)
	require.Equal(t, "ok\n", body)
	f.app.server.draining.Store(true)
	status, body = get()
	require.Equal(t, 503, status)
	require.Equal(t, "shutting down\n", body)
	f.app.server.draining.Store(false)
	require.NoError(t, f.app.store.opened[2].Close())
	status, body = get()
	require.Equal(t, 503, status)
	require.Equal(t, "no answer from shard-2\n", body)
	resp, _ := f.do(t, "GET", "/healthz", "") // it is no reason to start the process again
	require.Equal(t, 200, resp.StatusCode)
	_, body = f.do(t, "GET", "/api/status", "")
	require.Contains(t, body, `"missing":"no answer from shard-2"`)
	require.NotContains(t, body, `"shard-2":`)
	require.Contains(t, body, `"shard-3":`)
}

// TestShardClosed has databases that do not answer: that is said, with when to try again, and what is known is still
// followed.
func TestShardClosed(t *testing.T) {
	f := serveApp(t, nil)
	var codes []string
	for i := range 20 {
		codes = append(codes, f.create(t, fmt.Sprintf(`{"url":"https://example.com/%d"}`, i)).Code)
	}
	for _, code := range codes[:10] { // these are followed now and then
		resp, _ := f.do(t, "GET", "/"+code, "")
		require.Equal(t, 302, resp.StatusCode)
	}
	for _, db := range f.app.store.opened {
		require.NoError(t, db.Close())
	}
	for i, code := range codes {
		resp, body := f.do(t, "GET", "/"+code, "")
		if i < 10 {
			require.Equal(t, 302, resp.StatusCode)
			continue
		}
		require.Equal(t, 503, resp.StatusCode)
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		require.Equal(t, "This link cannot be looked up at the moment. Please try again.\n", body)
	}
	resp, _ := f.do(t, "GET", "/zzzzzzz", "") // the filter knows without them
	require.Equal(t, 404, resp.StatusCode)
	f.app.links.coder = randomCoder{} // asks no database
	for _, x := range [][3]string{
		{"POST", "/api/links", `{"url":"https://example.com/"}`}, {"POST", "/api/links", `{"url":"https://example.com/","alias":"an-alias"}`},
		{"GET", "/api/links", ""}, {"GET", "/api/links/" + codes[0], ""}, {"GET", "/api/links/" + codes[15], ""}, {"DELETE", "/api/links/" + codes[0], ""},
	} {
		resp, body := f.do(t, x[0], x[1], x[2])
		require.Equal(t, 503, resp.StatusCode, x)
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
		require.Equal(t, "the database does not answer; please try again", detail(t, resp, body))
	}
}

// TestCodesUnavailable has no database to hand out numbers for codes.
func TestCodesUnavailable(t *testing.T) {
	f := serveApp(t, nil)
	require.NoError(t, f.app.store.opened[0].Close())
	resp, body := f.do(t, "POST", "/api/links", `{"url":"https://example.com/"}`)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "the database does not answer; please try again", detail(t, resp, body))
}

// TestStale follows a link whose time in the cache is long over, while the databases do not answer.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s, err := openStore(ctx, dir, nil)
		require.NoError(t, err)
		l, err := newLinks(s, randomCoder{}, 100, time.Minute, 1000, nil)
		require.NoError(t, err)
		require.NoError(t, l.rebuild(ctx))
		sp, err := openSpool(dir, 1000, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		rec := newRecorder(func(context.Context, clickGroup) error { return nil }, sp)
		a := &app{store: s, links: l, spool: sp, recorder: rec}
		a.server = &server{
			links: l, recorder: rec, log: slog.New(slog.DiscardHandler), seen: newSeenStatus(),
			api: &api{links: l, keys: &apiKeys{}, log: slog.New(slog.DiscardHandler)},
		}
		a.server.metrics = newMetrics(a)
		h := a.server.handler()
		get := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			return w
		}
		hot, err := l.create(ctx, draft{Target: "https://example.com/hot"})
		require.NoError(t, err)
		cold, err := l.create(ctx, draft{Target: "https://example.com/cold"})
		require.NoError(t, err)
		require.Equal(t, 302, get("/"+hot.Code).Code)
		for _, db := range s.opened {
			require.NoError(t, db.Close())
		}
		for range 5 {
			time.Sleep(time.Minute)
			w := get("/" + hot.Code)
			require.Equal(t, 302, w.Code)
			require.Equal(t, "https://example.com/hot", w.Header().Get("Location"))
			w = get("/" + cold.Code)
			require.Equal(t, 503, w.Code)
			require.Equal(t, "5", w.Header().Get("Retry-After"))
		}
		time.Sleep(staleIfError) // nobody vouches for it any more
		require.Equal(t, 503, get("/"+hot.Code).Code)
		rec.close()
		require.NoError(t, sp.close())
		require.NoError(t, l.cache.Close(ctx))
	})
}

// TestMetrics reads what Prometheus reads, after requests for all kinds of paths: the time series are as many as before.
func TestMetrics(t *testing.T) {
	f := serveApp(t, nil)
	f.create(t, `{"url":"https://example.com/","alias":"abc"}`)
	series := func() map[string]float64 {
		resp, body := f.do(t, "GET", "/metrics", "")
		require.Equal(t, 200, resp.StatusCode)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(body))
		require.NoError(t, err)
		all := map[string]float64{}
		for name, family := range families {
			require.NotEmpty(t, family.GetHelp(), name)
			for _, m := range family.Metric {
				key := name
				for _, l := range m.Label {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
				all[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return all
	}
	ask := func(n int) {
		for i := range n {
			for _, path := range []string{"/abc", fmt.Sprintf("/absent-%d-%d", n, i), fmt.Sprintf("/api/links/none-%d-%d", n, i), fmt.Sprint("/api/none", i), fmt.Sprint("/assets/", i), fmt.Sprint("/a/b/", i), fmt.Sprint("//", i)} {
				_, _ = f.do(t, "GET", path, "")
			}
			_, _ = f.do(t, fmt.Sprint("METHOD", i), "/abc", "")
			_, _ = f.do(t, "GET", "/abc", "", "Referer", fmt.Sprintf("https://host%d.example/", i))
		}
	}
	ask(1)
	series()
	before := series()
	ask(50)
	after := series()
	for key := range after {
		require.Contains(t, before, key)
	}
	require.Equal(t, before["http_requests_total path=/{code} status=302"]+100, after["http_requests_total path=/{code} status=302"])
	require.Equal(t, before["http_requests_total path=/api status=404"]+100, after["http_requests_total path=/api status=404"])
	require.Equal(t, before["clicks_recorded_total"]+100, after["clicks_recorded_total"])
	require.Equal(t, before["filter_refused_total"]+100, after["filter_refused_total"])
	require.Greater(t, after["cache_hits_total"], before["cache_hits_total"]+98)
	require.Equal(t, 1.0, after["http_requests_total path=/api status=201"])
	for _, name := range []string{
		"cache_misses_total", "cache_loads_total", "cache_entries", "filter_passed_total", "clicks_spooled_total", "clicks_dropped_total",
		"spool_bytes", "queue_groups", "limited_total", "go_goroutines",
	} {
		require.Contains(t, after, name)
	}
}

// A handler that panics is counted as what it is, and a first status is what counts.
func TestCountedStatus(t *testing.T) {
	m := newMetrics(&app{})
	for path, h := range map[string]http.HandlerFunc{
		"/a": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"/healthz": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(204)
			w.WriteHeader(500)
		},
		"/readyz": func(http.ResponseWriter, *http.Request) {},
	} {
		func() {
			defer func() { _ = recover() }()
			m.count(h).ServeHTTP(httptest.NewRecorder(), &http.Request{URL: &url.URL{Path: path}})
		}()
	}
	var got []string
	families, err := m.requests.GetMetricWithLabelValues("/{code}", "500")
	require.NoError(t, err)
	require.NotNil(t, families)
	for _, l := range [][2]string{{"/{code}", "500"}, {"/healthz", "204"}, {"/readyz", "200"}, {"/healthz", "500"}, {"/healthz", "103"}} {
		if m.requests.DeleteLabelValues(l[0], l[1]) {
			got = append(got, l[0]+" "+l[1])
		}
	}
	require.Equal(t, []string{"/{code} 500", "/healthz 204", "/readyz 200"}, got)
}

// TestSeenStatus asks the blocks once for all who ask at the same time, and again when the answer is old.
func TestSeenStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSeenStatus()
		var asked atomic.Int64
		slow := 500 * time.Millisecond
		ask := func(ctx context.Context) status {
			asked.Add(1)
			time.Sleep(slow)
			return status{Clicks: asked.Load()}
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := s.get(t.Context(), ask).Clicks; got != 1 {
					t.Error("got", got)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, asked.Load())
		time.Sleep(statusShare*slow - 1)
		require.EqualValues(t, 1, s.get(t.Context(), ask).Clicks)
		time.Sleep(time.Nanosecond)
		require.EqualValues(t, 2, s.get(t.Context(), ask).Clicks)
		// Who has gone waits for nobody, and takes away nothing from the others.
		time.Sleep(time.Minute)
		gone, cancel := context.WithCancelCause(t.Context())
		wg.Go(func() { s.get(t.Context(), ask) })
		synctest.Wait()
		cancel(errors.New("gone"))
		require.Zero(t, s.get(gone, ask).Clicks)
		wg.Wait()
		require.EqualValues(t, 3, asked.Load())
	})
}
