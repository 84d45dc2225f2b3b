package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A served is the whole service, as it is run, on a port of this machine.
type served struct {
	app   *app
	url   string
	ahead atomic.Int64 // of the time, by the clock of links
	stop  func()

	client *http.Client
}

// serveApp serves with the settings that change leaves.
func serveApp(t *testing.T, change func(*settings)) *served {
	t.Helper()
	s := settings{dir: t.TempDir(), codes: "counter", unlimited: true, drain: 10 * time.Second}
	if change != nil {
		change(&s)
	}
	a, err := newApp(t.Context(), s, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	f := &served{app: a, client: &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	a.links.clock = func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx, l) }()
	f.stop = sync.OnceFunc(func() {
		f.client.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.close(context.Background())
	})
	t.Cleanup(f.stop)
	return f
}

// do sends a request, whose body if there is any is JSON, and returns the answer with its body.
func (f *served) do(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, f.url+path, b)
	require.NoError(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := f.client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(got)
}

// raw sends a request as it is written, and returns the answer with its body.
func (f *served) raw(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	require.NoError(t, err)
	defer c.Close()
	go func() { _, _ = io.WriteString(c, request) }() // it may be answered before it is read
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(got)
}

// detail returns what a problem says, and wants it to be one.
func detail(t *testing.T, resp *http.Response, body string) string {
	t.Helper()
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), body)
	var p problem
	require.NoError(t, json.Unmarshal([]byte(body), &p), body)
	require.Equal(t, resp.StatusCode, p.Status)
	require.NotEmpty(t, p.Title)
	return p.Detail
}

// create makes a link of which the body says what it is.
func (f *served) create(t *testing.T, body string, headers ...string) linkView {
	t.Helper()
	resp, got := f.do(t, "POST", "/api/links", body, headers...)
	require.Equal(t, 201, resp.StatusCode, got)
	var v linkView
	require.NoError(t, json.Unmarshal([]byte(got), &v))
	require.Equal(t, "/api/links/"+v.Code, resp.Header.Get("Location"))
	require.Equal(t, f.url+"/"+v.Code, v.ShortURL)
	return v
}

// TestHostile sends what nobody should send, and wants the answer that is for it.
func TestHostile(t *testing.T) {
	f := serveApp(t, nil)
	f.create(t, `{"url":"https://example.com/","alias":"taken"}`)
	const bodyMust = "the body must be an object with url, and maybe alias, permanent, expires or expires_in: "
	const letters = "alias must have only letters A to Z and a to z, digits, - and _"
	alias := func(a string) string {
		b, err := json.Marshal(a)
		require.NoError(t, err)
		return `{"url":"https://example.com/","alias":` + string(b) + `}`
	}
	for _, x := range []struct {
		body   string
		status int
		detail string
	}{
		{`{"url":"javascript:alert(1)"}`, 422, `url must begin with http:// or https://, got the scheme "javascript"`},
		{`{"url":"java\tscript:alert(1)"}`, 422, "url must have no spaces, control characters or backslashes"},
		{`{"url":"file:///etc/passwd"}`, 422, `url must begin with http:// or https://, got the scheme "file"`},
		{`{"url":"data:text/html,hello"}`, 422, `url must begin with http:// or https://, got the scheme "data"`},
		{`{"url":"http://10.0.0.1/"}`, 422, "url must not lead to a private address, got 10.0.0.1"},
		{`{"url":"http://169.254.169.254/latest/meta-data"}`, 422, "url must not lead to a private address, got 169.254.169.254"},
		{`{"url":"http://localhost:8080/"}`, 422, "url must not lead to a private address, got localhost"},
		{`{"url":"http://[::1]/"}`, 422, "url must not lead to a private address, got ::1"},
		{`{"url":"http://0x7f.1/"}`, 422, "url must not lead to a private address, got 0x7f.1"},
		{`{"url":"https://ann:secret@example.com/"}`, 422, "url must have no user name or password"},
		{`{"url":"https://example.com/\r\nSet-Cookie: a=b"}`, 422, "url must have no spaces, control characters or backslashes"},
		{`{"url":"https://example.com/\u0000"}`, 422, "url must have no spaces, control characters or backslashes"},
		{`{"url":"https://example.com/` + long(3000) + `"}`, 422, "url must be at most 2048 bytes, got 3020"},
		{`{"url":"https://example.com/` + long(100<<10) + `"}`, 413, "the body must be at most 16384 bytes"},
		{`{"url":"` + long(10<<20) + `"}`, 413, "the body must be at most 16384 bytes"},
		{long(10 << 20), 413, "the body must be at most 16384 bytes"},
		{"{\"url\":\"https://example.com/\xff\"}", 400, bodyMust + "it is not UTF-8"},
		{`{"url":"https://example.com/"}` + strings.Repeat(" ", 10<<20), 413, "the body must be at most 16384 bytes"},
		{alias("a/b"), 422, letters},
		{alias("../../etc/passwd"), 422, letters},
		{alias("..%2f..%2fetc"), 422, letters},
		{alias("a\x00b"), 422, letters},
		{alias("a\r\nb"), 422, letters},
		{alias("a\u202eb"), 422, letters},
		{alias("ab"), 422, "alias must have from 3 to 32 characters, got 2"},
		{alias(long(33)), 422, "alias must have from 3 to 32 characters, got 33"},
		{alias("api"), 422, "alias must not be a word that the service uses, got api"},
		{alias("Metrics"), 422, "alias must not be a word that the service uses, got Metrics"},
		{alias("healthz"), 422, "alias must not be a word that the service uses, got healthz"},
		{alias("taken"), 409, "the alias taken is taken"},
		{`{}`, 422, "url is required"},
		{`null`, 422, "url is required"},
		{`{"url":"https://example.com/","expires_in":0}`, 422, "expires_in must be from 1 to 3153600000 seconds, got 0"},
		{`{"url":"https://example.com/","expires_in":-1}`, 422, "expires_in must be from 1 to 3153600000 seconds, got -1"},
		{`{"url":"https://example.com/","expires_in":9223372036854775807}`, 422, "expires_in must be from 1 to 3153600000 seconds, got 9223372036854775807"},
		{`{"url":"https://example.com/","expires_in":1e30}`, 400, bodyMust + "expires_in cannot be a JSON number 1e30"},
		{`{"url":"https://example.com/","expires":"2001-01-01T00:00:00Z"}`, 422, "expires must be in the future, and within 100 years"},
		{`{"url":"https://example.com/","expires":"9999-01-01T00:00:00Z"}`, 422, "expires must be in the future, and within 100 years"},
		{`{"url":"https://example.com/","expires":"2099-01-01T00:00:00Z","expires_in":5}`, 422, "give expires or expires_in, and not both"},
		{`{"url":"https://example.com/","expires":"tomorrow"}`, 400, bodyMust + "expires must be a time such as 2030-01-31T12:00:00Z"},
		{`{"url":"https://example.com/","expires":5}`, 400, bodyMust + "expires must be a time such as 2030-01-31T12:00:00Z"},
		{`{"url":"https://example.com/","expires":[]}`, 400, bodyMust + "expires must be a time such as 2030-01-31T12:00:00Z"},
		{`{"url":"https://example.com/","owner":"bob"}`, 400, bodyMust + `unknown field "owner"`},
		{`{"url":["https://example.com/"]}`, 400, bodyMust + "url cannot be a JSON array"},
		{`["https://example.com/"]`, 400, bodyMust + "it is a JSON array"},
		{`{"url":"https://example.com/"} {}`, 400, bodyMust + "there is more behind the object"},
		{`{"url":"https://example.com/"`, 400, bodyMust + "it ends too early"},
		{` `, 400, bodyMust + "it is empty"},
		{`{"url":"https://example.com/"}]`, 400, bodyMust + "it is no JSON at byte 30"},
		{`url=https://example.com/`, 400, bodyMust + "it is no JSON at byte 1"},
	} {
		resp, body := f.do(t, "POST", "/api/links", x.body)
		name := x.body[:min(len(x.body), 80)]
		require.Equal(t, x.status, resp.StatusCode, "%s: %s", name, body)
		require.Equal(t, x.detail, detail(t, resp, body), name)
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	}
	resp, body := f.do(t, "GET", "/api/links", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, 1, strings.Count(body, `"code"`), body) // nothing was made of all that

	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "\"", ""} {
		resp, body := f.do(t, "POST", "/api/links", `{"url":"https://example.com/"}`, "Content-Type", kind)
		require.Equal(t, 415, resp.StatusCode, kind)
		require.Equal(t, "the body must be application/json", detail(t, resp, body))
	}
	f.create(t, `{"url":"https://example.com/"}`, "Content-Type", "Application/JSON; charset=utf-8")
}

// TestHostilePaths asks for paths as no browser sends them.
func TestHostilePaths(t *testing.T) {
	f := serveApp(t, nil)
	for _, path := range []string{
		"/..%2f..%2fetc%2fpasswd", "/%2e%2e%2fetc%2fpasswd", "/%00", "/a%0d%0aSet-Cookie:%20a=b", "/%ff%fe%fd", "/a%2fb", "/ab", "/" + long(33),
		"/api%2flinks", "/assets/..%2f..%2fserver.go", "/assets/%2e%2e%2fserver.go", "/assets/server.go", "/server.go", "/assets/page.js%00.css",
		"/page/page.js", "/.git/config", "/api/links/..%2f..%2fetc%2fpasswd", "/api/links/%00", "/api/nothing", "/api/links/a/b", "/a/b/c",
	} {
		resp, body := f.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.Equal(t, 404, resp.StatusCode, "%s: %s", path, body)
		require.Empty(t, resp.Header["Set-Cookie"])
		if strings.HasPrefix(path, "/api/") {
			detail(t, resp, body)
		}
	}
	// What can be written in a shorter way is answered with that, on this server.
	for path, want := range map[string]string{
		"/../../etc/passwd": "/etc/passwd", "//evil.example": "/evil.example", "/assets/../server.go": "/server.go",
		"/./api/../metrics": "/metrics",
	} {
		resp, _ := f.raw(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.Contains(t, []int{301, 307}, resp.StatusCode, path)
		require.Equal(t, want, resp.Header.Get("Location"), path)
	}
	for name, request := range map[string]string{
		"path":   "GET /" + long(100<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"header": "GET / HTTP/1.1\r\nHost: x\r\nX-A: " + long(100<<10) + "\r\n\r\n",
	} {
		resp, _ := f.raw(t, request)
		require.Equal(t, 431, resp.StatusCode, name)
	}
	for path, allow := range map[string]string{"/api/links": "GET, HEAD, POST", "/api/links/abc": "DELETE, GET, HEAD", "/api/status": "GET, HEAD"} {
		resp, body := f.do(t, "PUT", path, "{}")
		require.Equal(t, 405, resp.StatusCode)
		require.Equal(t, allow, resp.Header.Get("Allow"))
		require.Equal(t, "the method must be one of "+allow, detail(t, resp, body))
	}
}

// TestOneAlias has several clients that want one alias at once: one of them gets it, and the link leads where he said.
func TestOneAlias(t *testing.T) {
	f := serveApp(t, nil)
	for round := range 10 {
		const clients = 4
		statuses := make([]int, clients)
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				body := fmt.Sprintf(`{"url":"https://example.com/%d","alias":"wanted-%d"}`, i, round)
				resp, err := f.client.Post(f.url+"/api/links", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				statuses[i] = resp.StatusCode
				_ = resp.Body.Close()
			})
		}
		wg.Wait()
		winner := -1
		for i, s := range statuses {
			if s == 201 {
				require.Equal(t, -1, winner, "%v", statuses)
				winner = i
			} else {
				require.Equal(t, 409, s)
			}
		}
		require.NotEqual(t, -1, winner)
		resp, _ := f.do(t, "GET", fmt.Sprintf("/wanted-%d", round), "")
		require.Equal(t, fmt.Sprintf("https://example.com/%d", winner), resp.Header.Get("Location"))
	}
}

func TestAPIKeys(t *testing.T) {
	const ann, bob = "0123456789abcdef", "fedcba9876543210"
	f := serveApp(t, func(s *settings) {
		require.NoError(t, s.keys.add("ann="+ann))
		require.NoError(t, s.keys.add("bob="+bob))
	})
	l := f.create(t, `{"url":"https://example.com/","alias":"of-ann"}`, "Authorization", "Bearer "+ann)
	f.create(t, `{"url":"https://example.com/","alias":"of-bob"}`, "X-API-Key", bob)
	for _, h := range [][]string{
		{}, {"Authorization", "Bearer"}, {"Authorization", "Bearer "}, {"Authorization", "Bearer ann"}, {"Authorization", "Basic " + ann},
		{"Authorization", "Bearer " + ann + "0"}, {"Authorization", "Bearer " + ann[1:]}, {"X-API-Key", "wrong"}, {"X-API-Key", "ann=" + ann},
		{"Authorization", "Bearer wrong", "X-API-Key", ann}, // what is said first counts
	} {
		for method, path := range map[string]string{"POST": "/api/links", "GET": "/api/links", "DELETE": "/api/links/of-ann"} {
			resp, body := f.do(t, method, path, map[string]string{"POST": `{"url":"https://example.com/"}`}[method], h...)
			require.Equal(t, 401, resp.StatusCode, h)
			require.Equal(t, `Bearer realm="links"`, resp.Header.Get("WWW-Authenticate"))
			require.Equal(t, "an API key is required: Authorization: Bearer KEY", detail(t, resp, body))
		}
	}
	// Another's link looks like none.
	for _, method := range []string{"GET", "DELETE"} {
		for _, code := range []string{"of-ann", "nothing-here", "api", "x"} {
			resp, body := f.do(t, method, "/api/links/"+code, "", "Authorization", "bearer "+bob)
			require.Equal(t, 404, resp.StatusCode)
			require.Equal(t, "there is no such link of yours", detail(t, resp, body))
		}
	}
	_, body := f.do(t, "GET", "/api/links", "", "X-API-Key", bob)
	require.NotContains(t, body, "of-ann")
	require.Contains(t, body, "of-bob")
	resp, _ := f.do(t, "GET", "/of-ann", "") // no key is needed to follow it
	require.Equal(t, 302, resp.StatusCode)
	resp, body = f.do(t, "GET", "/api/links/"+l.Code, "", "X-API-Key", ann)
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, body, `"clicks"`)
	resp, _ = f.do(t, "DELETE", "/api/links/"+l.Code, "", "X-API-Key", ann)
	require.Equal(t, 204, resp.StatusCode)
	for _, path := range []string{"/of-ann", "/api/links/of-ann"} {
		resp, _ = f.do(t, "GET", path, "", "X-API-Key", ann)
		require.Equal(t, 404, resp.StatusCode)
	}
	resp, _ = f.do(t, "DELETE", "/api/links/"+l.Code, "", "X-API-Key", ann)
	require.Equal(t, 404, resp.StatusCode)
	// It stays taken, so that nobody gets what is sent there.
	resp, _ = f.do(t, "POST", "/api/links", `{"url":"https://example.com/","alias":"of-ann"}`, "X-API-Key", bob)
	require.Equal(t, 409, resp.StatusCode)
}

func TestAddKey(t *testing.T) {
	var k apiKeys
	require.NoError(t, k.add("ann=0123456789abcdef"))
	require.NoError(t, k.add("bob=0123456789abcde=="))
	for bad, want := range map[string]string{
		"ann":                  "must be NAME=KEY",
		"=0123456789abcdef":    "must be NAME=KEY",
		"eve=short":            "the key of eve must have at least 16 characters, got 5",
		"ann=fedcba9876543210": "the name ann is there twice",
		"eve=0123456789abcdef": "the key of eve is that of ann",
	} {
		require.EqualError(t, k.add(bad), want)
	}
	name, ok := k.find("0123456789abcde==")
	require.True(t, ok)
	require.Equal(t, "bob", name)
	_, ok = k.find("")
	require.False(t, ok)
}

func TestExpiry(t *testing.T) {
	f := serveApp(t, nil)
	in := f.create(t, `{"url":"https://example.com/","alias":"in-an-hour","expires_in":3600,"permanent":true}`)
	at := f.create(t, fmt.Sprintf(`{"url":"https://example.com/","alias":"at-a-time","expires":%q}`, time.Now().Add(2*time.Hour).Format(time.RFC3339)))
	require.WithinDuration(t, time.Now().Add(time.Hour), *in.Expires, time.Minute)
	require.WithinDuration(t, time.Now().Add(2*time.Hour), *at.Expires, time.Minute)
	follow := func(code string) (int, string) {
		resp, _ := f.do(t, "GET", "/"+code, "")
		return resp.StatusCode, resp.Header.Get("Cache-Control")
	}
	status, cache := follow("in-an-hour")
	require.Equal(t, 301, status)
	require.Equal(t, "private, max-age=90", cache)
	f.ahead.Store(int64(time.Hour - 30*time.Second)) // what is kept does not outlast the link
	_, cache = follow("in-an-hour")
	require.Regexp(t, `^private, max-age=[12]\d$`, cache)
	f.ahead.Store(int64(time.Hour + time.Second))
	status, cache = follow("in-an-hour")
	require.Equal(t, 404, status)
	require.Equal(t, "no-store", cache)
	status, _ = follow("at-a-time")
	require.Equal(t, 302, status)
	_, body := f.do(t, "GET", "/api/links", "")
	require.NotContains(t, body, "in-an-hour")
	require.Contains(t, body, "at-a-time")
	for _, method := range []string{"GET", "DELETE"} {
		resp, body := f.do(t, method, "/api/links/in-an-hour", "")
		require.Equal(t, 404, resp.StatusCode, method)
		require.Equal(t, "there is no such link of yours", detail(t, resp, body))
	}
	resp, body := f.do(t, "POST", "/api/links", `{"url":"https://example.com/","alias":"in-an-hour"}`)
	require.Equal(t, 409, resp.StatusCode)
	require.Equal(t, "the alias in-an-hour is taken", detail(t, resp, body))

	// A link is there until the millisecond that is said, and not made if that has come.
	now := time.Date(2030, 1, 31, 12, 0, 0, 1_500_000, time.UTC)
	for text, want := range map[string]string{
		"2030-01-31T12:00:00.0019Z": "", "2030-01-31T12:00:00.0015Z": "", "2030-01-31T12:00:00.001Z": "",
		"2030-01-31T12:00:00.0021Z": "2030-01-31T12:00:00.002Z", "2030-01-31T13:00:00.0021+01:00": "2030-01-31T12:00:00.002Z",
	} {
		at, err := time.Parse(time.RFC3339, text)
		require.NoError(t, err)
		got, err := expiry(createRequest{Expires: &at}, now)
		if want == "" {
			require.EqualError(t, err, "expires must be in the future, and within 100 years", text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want, got.UTC().Format(time.RFC3339Nano))
	}
}

// TestPaging lists what is in four shards, a page at a time, also when the last page is full.
func TestPaging(t *testing.T) {
	f := serveApp(t, nil)
	want := map[string]bool{}
	for i := range 40 {
		want[f.create(t, fmt.Sprintf(`{"url":"https://example.com/%d"}`, i)).Code] = true
	}
	totals, err := f.app.store.totals(t.Context())
	require.NoError(t, err)
	require.Len(t, totals, shards)
	for id, n := range totals {
		require.Positive(t, n[0], id)
	}
	for limit, pages := range map[int]int{10: 4, 7: 6, 39: 2, 40: 1, 100: 1} {
		got := map[string]bool{}
		last := time.Now().Add(time.Hour)
		after, n := "", 0
		for {
			var page struct {
				Links []linkView
				Next  string
			}
			resp, body := f.do(t, "GET", fmt.Sprintf("/api/links?limit=%d&after=%s", limit, after), "")
			require.Equal(t, 200, resp.StatusCode)
			require.NoError(t, json.Unmarshal([]byte(body), &page))
			require.LessOrEqual(t, len(page.Links), limit)
			for _, l := range page.Links {
				require.False(t, got[l.Code], "twice")
				require.False(t, l.Created.After(last), "the newest first")
				got[l.Code], last = true, l.Created
			}
			n++
			if page.Next == "" {
				break
			}
			after = page.Next
		}
		require.Equal(t, want, got)
		require.Equal(t, pages, n, "limit %d", limit)
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=-1", "limit=ten", "limit=99999999999999999999", "after=x", "after=MTIz", "after=MSAuLi8uLg", "after=%00"} {
		resp, body := f.do(t, "GET", "/api/links?"+query, "")
		require.Equal(t, 400, resp.StatusCode, query)
		require.Contains(t, []string{"limit must be from 1 to 100", "after must be what next was in the page before"}, detail(t, resp, body))
	}
}

func TestReferrer(t *testing.T) {
	for header, want := range map[string]string{
		"": "", "https://News.Example/today?q=1": "news.example", "http://a.example:8080/": "a.example", "https://[2001:db8::1]:1/": "2001:db8::1",
		"android-app://com.app": "com.app", "about:blank": "", "%": "", "https://<b>/": "", "https://%ff/": "", "https://bücher.example/": "",
		"https://a b/": "", "https://" + long(300) + "/": "", "/relative": "",
	} {
		r := &http.Request{Header: http.Header{"Referer": {header}}}
		require.Equal(t, want, referrer(r), header)
	}
}
