package httplimit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
)

func newMiddleware(t testing.TB, c Config) *Middleware {
	t.Helper()
	m, err := New(c)
	require.NoError(t, err)
	return m
}

// hello is the handler behind the middleware.
var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

// get returns what h answers to a request from remote.
func get(h http.Handler, remote string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = remote
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A script is a Limiter that says what it is told to, and writes down what it is asked.
type script struct {
	take, peek ratelimit.Result
	name       string
	log        *[]string
}

func (s *script) Take(_ context.Context, key string, n int64) ratelimit.Result {
	if s.log != nil {
		*s.log = append(*s.log, fmt.Sprintf("%s take %q %d", s.name, key, n))
	}
	return s.take
}

func (s *script) Peek(_ context.Context, key string, n int64) ratelimit.Result {
	if s.log != nil {
		*s.log = append(*s.log, fmt.Sprintf("%s peek %q %d", s.name, key, n))
	}
	return s.peek
}

// scripted returns a policy that always says the same.
func scripted(name string, r ratelimit.Result) Policy {
	return Policy{Name: name, Limit: ratelimit.PerMinute(100), Limiter: &script{take: r, peek: r, name: name}}
}

func TestInvalid(t *testing.T) {
	limit := ratelimit.PerMinute(100)
	for _, c := range []struct {
		p    []Policy
		want string
	}{
		{nil, "httplimit: Policies must be at least 1, got 0"},
		{[]Policy{{Limit: limit}, {Name: "default", Limit: limit}}, `httplimit: Name must be different for each policy, got "default" twice`},
		{[]Policy{{Name: "größe", Limit: limit}}, `httplimit: Name must be printable ASCII, got "größe"`},
		{[]Policy{{Name: "a\nb", Limit: limit}}, `httplimit: Name must be printable ASCII, got "a\nb"`},
		{[]Policy{{Unit: "\x7f", Limit: limit}}, `httplimit: Unit must be printable ASCII, got "\x7f"`},
		{[]Policy{{}}, `httplimit: Limit of "default": ratelimit: invalid limit: Count must be from 1 to 999999999999999, got 0`},
		{[]Policy{{Limit: ratelimit.PerSecond(1e15)}}, `httplimit: Limit of "default": ratelimit: invalid limit: Count must be from 1 to 999999999999999, got 1000000000000000`},
		{[]Policy{{Limit: ratelimit.Limit{Count: 1}}}, `httplimit: Limit of "default": ratelimit: invalid limit: Per must be more than 0, got 0s`},
		{[]Policy{{Limit: limit.WithBurst(-1)}}, `httplimit: Limit of "default": ratelimit: invalid limit: Burst must be from 0 to 999999999999999, got -1`},
		{[]Policy{{Limit: limit.WithBurst(1e15)}}, `httplimit: Limit of "default": ratelimit: invalid limit: Burst must be from 0 to 999999999999999, got 1000000000000000`},
		{[]Policy{{Limit: ratelimit.Unlimited}}, `httplimit: Limit of "default": ratelimit: invalid limit: it must have a number and a time, got unlimited`},
		{[]Policy{{Name: "x", Limit: ratelimit.None}}, `httplimit: Limit of "x": ratelimit: invalid limit: it must have a number and a time, got none`},
		{[]Policy{{Name: "x", Limit: ratelimit.PerSecond(9e11)}}, `httplimit: Limit of "x": ratelimit: invalid limit: 900000000000 per 1s is more than can be counted`},
	} {
		_, err := New(Config{Policies: c.p})
		require.EqualError(t, err, c.want)
		if strings.Contains(c.want, "Limit of") {
			require.ErrorIs(t, err, ratelimit.ErrLimit)
		}
	}
	_, err := New(Config{Policies: []Policy{{Limit: limit}}, Addr: AddrConfig{IPv6Prefix: 200}})
	require.EqualError(t, err, "httplimit: IPv6Prefix must be from 0 to 128, got 200")
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: limit}}})
	require.PanicsWithValue(t, "httplimit: next must not be nil", func() { m.Handler(nil) })
}

// Half of 100 a minute is used, then all.
func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.Limit{Count: 2, Per: time.Minute, Burst: 100}}}})
		h := m.Handler(hello)
		var w *httptest.ResponseRecorder
		for range 50 {
			w = get(h, "192.0.2.1:1234")
		}
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "hello", w.Body.String())
		require.Equal(t, []string{`"default";q=2;w=60`}, w.Header().Values("RateLimit-Policy"))
		require.Equal(t, []string{`"default";r=50;t=30`}, w.Header().Values("RateLimit"))
		require.Empty(t, w.Header().Values("Retry-After"))
		require.Empty(t, w.Header().Values("X-RateLimit-Limit"))
		for range 50 {
			require.Equal(t, http.StatusOK, get(h, "192.0.2.1:1235").Code)
		}

		time.Sleep(500 * time.Millisecond)
		w = get(h, "192.0.2.1:1234")
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		require.Equal(t, `"default";q=2;w=60`, w.Header().Get("RateLimit-Policy"))
		require.Equal(t, `"default";r=0;t=30`, w.Header().Get("RateLimit"), "29.5, rounded up")
		require.Equal(t, "30", w.Header().Get("Retry-After"))
		var body map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
		require.Equal(t, map[string]any{
			"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "title": "Quota Exceeded",
			"status": 429.0, "detail": "Try again after 30 s.", "violated-policies": []any{"default"},
		}, body)

		// Others are not concerned.
		require.Equal(t, `"default";r=99;t=30`, get(h, "192.0.2.2:1234").Header().Get("RateLimit"))
		require.Equal(t, `"default";r=99;t=30`, get(h, "[2001:db8::1]:1234").Header().Get("RateLimit"))
		require.Equal(t, `"default";r=98;t=30`, get(h, "[2001:db8::2]:1234").Header().Get("RateLimit"), "the same /64")
		require.Equal(t, `"default";r=99;t=30`, get(h, "[2001:db8:0:1::2]:1234").Header().Get("RateLimit"))
		// Of whom nothing is known share one.
		require.Equal(t, `"default";r=99;t=30`, get(h, "@").Header().Get("RateLimit"))
		require.Equal(t, `"default";r=98;t=30`, get(h, "").Header().Get("RateLimit"))

		// Whoever waits as long as told is served.
		time.Sleep(30 * time.Second)
		require.Equal(t, http.StatusOK, get(h, "192.0.2.1:1234").Code)
		require.Equal(t, http.StatusTooManyRequests, get(h, "192.0.2.1:1234").Code)
	})
}

// After Retry-After a request is always served, and a second earlier it would not have been, if
// nobody else asks; and Retry-After is not before t.
func TestRetryAfterIsEnough(t *testing.T) {
	for _, l := range []ratelimit.Limit{
		ratelimit.PerSecond(1), ratelimit.PerSecond(3), ratelimit.PerSecond(1000), ratelimit.PerMinute(7),
		ratelimit.Every(1500 * time.Millisecond), ratelimit.Every(time.Second + 1), ratelimit.Every(time.Second - 1),
		ratelimit.PerHour(11).WithBurst(3), ratelimit.PerMinute(100).WithBurst(10),
	} {
		for _, cost := range []int64{1, 2, 3} {
			synctest.Test(t, func(t *testing.T) {
				burst := max(l.Burst, 1)
				if l.Burst == 0 {
					burst = l.Count
				}
				if cost > burst {
					return
				}
				m := newMiddleware(t, Config{Policies: []Policy{{Limit: l, Cost: func(*http.Request) int64 { return cost }}}})
				h := m.Handler(hello)
				for range 5 {
					w := get(h, proxy)
					for w.Code == http.StatusOK {
						w = get(h, proxy)
					}
					wait, err := strconv.Atoi(w.Header().Get("Retry-After"))
					require.NoError(t, err)
					require.Positive(t, wait)
					_, after, _ := strings.Cut(w.Header().Get("RateLimit"), ";t=")
					until, err := strconv.Atoi(after)
					require.NoError(t, err)
					require.LessOrEqual(t, until, wait)
					time.Sleep(time.Duration(wait-1) * time.Second)
					require.Equal(t, http.StatusTooManyRequests, get(h, proxy).Code)
					time.Sleep(time.Second)
					require.Equal(t, http.StatusOK, get(h, proxy).Code, "%v, %d", l, cost)
				}
			})
		}
	}
}

func TestKeyAndCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Decision
		m := newMiddleware(t, Config{
			Policies: []Policy{{
				Limit: ratelimit.PerMinute(60).WithBurst(10),
				Key:   ByHeader("x-api-key"),
				Cost: func(r *http.Request) int64 {
					n, _ := strconv.ParseInt(r.URL.Query().Get("cost"), 10, 64)
					return n
				},
			}},
			OnDecision: func(_ *http.Request, d Decision) { seen = append(seen, d) },
		})
		h := m.Handler(hello)
		ask := func(key, cost string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodPost, "/?cost="+cost, nil)
			if key != "" {
				r.Header.Set("X-API-Key", key)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		require.Equal(t, `"default";r=7;t=1`, ask("alice", "3").Header().Get("RateLimit"))
		require.Equal(t, `"default";r=9;t=1`, ask("bob", "1").Header().Get("RateLimit"))
		require.Equal(t, `"default";r=8;t=1`, ask("", "2").Header().Get("RateLimit"))
		w := ask("alice", "9")
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, `"default";r=7;t=1`, w.Header().Get("RateLimit"), "a refusal costs nothing")
		require.Equal(t, "2", w.Header().Get("Retry-After"))

		// What is free is not even asked for.
		before := len(seen)
		w = ask("alice", "0")
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, `"default";q=60;w=60`, w.Header().Get("RateLimit-Policy"))
		require.Empty(t, w.Header().Values("RateLimit"))
		require.Len(t, seen, before)

		// What can never be is refused without a time.
		for _, cost := range []string{"11", "-1", "-9223372036854775808", "9223372036854775807"} {
			w = ask("alice", cost)
			require.Equal(t, http.StatusTooManyRequests, w.Code, cost)
			require.Empty(t, w.Header().Values("Retry-After"))
			require.Equal(t, `"default";r=7;t=1`, w.Header().Get("RateLimit"))
			require.Contains(t, w.Body.String(), "trying again does not help")
			require.Contains(t, w.Body.String(), `"violated-policies":["default"]`)
			require.Equal(t, ratelimit.Never, seen[len(seen)-1].RetryAfter)
		}
		require.Equal(t, "alice", seen[0].Outcomes[0].Key)
		require.EqualValues(t, 3, seen[0].Outcomes[0].Cost)
		require.EqualValues(t, 7, seen[0].Outcomes[0].Result.Remaining)
	})
}

func TestHeaderFields(t *testing.T) {
	ok := ratelimit.Result{Allowed: 1, Limit: 10, Remaining: 3}
	for _, c := range []struct {
		name                 string
		p                    Policy
		r                    ratelimit.Result
		policy, limit, retry string
	}{
		{
			name: "full again", r: ok, policy: `"default";q=100;w=60`, limit: `"default";r=3`,
		}, {
			name: "rounded up", r: ratelimit.Result{Remaining: 3, NextToken: 1}, policy: `"default";q=100;w=60`, limit: `"default";r=3;t=1`,
		}, {
			name: "exact", r: ratelimit.Result{NextToken: 2 * time.Second}, policy: `"default";q=100;w=60`, limit: `"default";r=0;t=2`,
		}, {
			name: "quotes", p: Policy{Name: `a"b\c`}, r: ok, policy: `"a\"b\\c";q=100;w=60`, limit: `"a\"b\\c";r=3`,
		}, {
			name: "unit", p: Policy{Unit: "content-bytes"}, r: ok, policy: `"default";q=100;qu="content-bytes";w=60`, limit: `"default";r=3`,
		}, {
			name: "half a second", p: Policy{Limit: ratelimit.Every(500 * time.Millisecond)}, r: ok,
			policy: `"default";q=1`, limit: `"default";r=3`,
		}, {
			name: "the most", p: Policy{Limit: ratelimit.Limit{Count: maxInteger, Per: 1 << 62, Burst: maxInteger}},
			r:      ratelimit.Result{Remaining: 1 << 62, NextToken: 1<<63 - 2},
			policy: `"default";q=999999999999999`, limit: `"default";r=999999999999999;t=9223372037`,
		}, {
			name: "negative", r: ratelimit.Result{Remaining: -3, NextToken: -5}, policy: `"default";q=100;w=60`, limit: `"default";r=0`,
		}, {
			name: "refused", r: ratelimit.Result{RetryAfter: 1001 * time.Millisecond, NextToken: time.Millisecond},
			policy: `"default";q=100;w=60`, limit: `"default";r=0;t=1`, retry: "2",
		}, {
			name: "Retry-After is not before t", r: ratelimit.Result{RetryAfter: time.Second, NextToken: time.Minute},
			policy: `"default";q=100;w=60`, limit: `"default";r=0;t=60`, retry: "60",
		}, {
			name: "never", r: ratelimit.Result{RetryAfter: ratelimit.Never, NextToken: ratelimit.Never},
			policy: `"default";q=100;w=60`, limit: `"default";r=0`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.p
			if p.Limit.Count == 0 {
				p.Limit = ratelimit.PerMinute(100)
			}
			p.Limiter = &script{take: c.r, peek: c.r}
			w := get(newMiddleware(t, Config{Policies: []Policy{p}}).Handler(hello), proxy)
			require.Equal(t, c.policy, w.Header().Get("RateLimit-Policy"))
			require.Equal(t, c.limit, w.Header().Get("RateLimit"))
			require.Equal(t, c.retry, w.Header().Get("Retry-After"))
			require.Equal(t, c.r.OK(), w.Code == http.StatusOK)
		})
	}
}

// What is asked of which policy, and in what order.
func TestSeveralPolicies(t *testing.T) {
	yes := ratelimit.Result{Allowed: 1, Remaining: 5, NextToken: time.Minute}
	no := ratelimit.Result{RetryAfter: 10 * time.Second, NextToken: 10 * time.Second}
	free := func(*http.Request) int64 { return 0 }
	for _, c := range []struct {
		name     string
		p        []script
		set      func(ps []Policy)
		log      string
		violated []string
		limit    string
	}{
		{
			name: "one", p: []script{{take: yes}},
			log: "a take", limit: `"a";r=5;t=60`,
		}, {
			name: "all allow", p: []script{{take: yes, peek: yes}, {take: yes, peek: yes}, {take: yes}},
			log: "a peek, b peek, c take, a take, b take", limit: `"a";r=5;t=60, "b";r=5;t=60, "c";r=5;t=60`,
		}, {
			name: "the first refuses", p: []script{{peek: no}, {peek: yes}, {peek: yes}},
			log: "a peek, b peek, c peek", violated: []string{"a"}, limit: `"a";r=0;t=10, "b";r=5, "c";r=5`,
		}, {
			name: "all refuse", p: []script{{peek: no}, {peek: no}, {peek: no}},
			log: "a peek, b peek, c peek", violated: []string{"a", "b", "c"}, limit: `"a";r=0;t=10, "b";r=0;t=10, "c";r=0;t=10`,
		}, {
			name: "the last refuses", p: []script{{peek: yes}, {peek: yes}, {take: no}},
			log: "a peek, b peek, c take", violated: []string{"c"}, limit: `"a";r=5, "b";r=5, "c";r=0;t=10`,
		}, {
			name: "somebody was faster", p: []script{{take: no, peek: yes}, {take: yes, peek: yes}, {take: yes}},
			log: "a peek, b peek, c take, a take", violated: []string{"a"}, limit: `"a";r=0;t=10, "b";r=5, "c";r=5`,
		}, {
			name: "one takes no part", p: []script{{take: yes}, {}, {}}, set: func(ps []Policy) { ps[1].Cost, ps[2].Cost = free, free },
			log: "a take", limit: `"a";r=5;t=60`,
		}, {
			name: "none takes part", p: []script{{}, {}}, set: func(ps []Policy) { ps[0].Cost, ps[1].Cost = free, free },
		}, {
			name: "a shadow refuses", p: []script{{take: no}, {take: yes, peek: yes}, {take: yes}}, set: func(ps []Policy) { ps[0].Shadow = true },
			log: "b peek, c take, b take, a take", limit: `"b";r=5;t=60, "c";r=5;t=60`,
		}, {
			name: "a shadow behind", p: []script{{take: yes}, {take: yes}}, set: func(ps []Policy) { ps[1].Shadow = true },
			log: "a take, b take", limit: `"a";r=5;t=60`,
		}, {
			name: "a shadow of what is refused", p: []script{{take: no}, {peek: yes}}, set: func(ps []Policy) { ps[1].Shadow = true },
			log: "a take, b peek", violated: []string{"a"}, limit: `"a";r=0;t=10`,
		}, {
			name: "nothing but shadows", p: []script{{take: no}, {take: yes}}, set: func(ps []Policy) { ps[0].Shadow, ps[1].Shadow = true, true },
			log: "a take, b take",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log []string
			var ps []Policy
			for i := range c.p {
				s := &c.p[i]
				s.name, s.log = string(rune('a'+i)), &log
				ps = append(ps, Policy{Name: s.name, Limit: ratelimit.PerMinute(100), Limiter: s})
			}
			if c.set != nil {
				c.set(ps)
			}
			var seen []Decision
			m := newMiddleware(t, Config{Policies: ps, OnDecision: func(_ *http.Request, d Decision) { seen = append(seen, d) }})
			w := get(m.Handler(hello), "192.0.2.7:1")
			require.Equal(t, c.log, strings.ReplaceAll(strings.Join(log, ", "), ` "192.0.2.7" 1`, ""))
			require.Equal(t, c.limit, w.Header().Get("RateLimit"))
			if c.log == "" {
				require.Empty(t, seen)
				return
			}
			require.Len(t, seen, 1)
			require.Equal(t, c.violated, seen[0].Violated())
			require.Equal(t, c.violated == nil, seen[0].Allowed)
			require.Len(t, seen[0].Outcomes, len(ps))
			if c.violated != nil {
				require.Equal(t, http.StatusTooManyRequests, w.Code)
				require.Equal(t, "10", w.Header().Get("Retry-After"))
				require.Equal(t, 10*time.Second, seen[0].RetryAfter)
				var body struct {
					Violated []string `json:"violated-policies"`
				}
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
				require.Equal(t, c.violated, body.Violated)
			} else {
				require.Equal(t, http.StatusOK, w.Code)
				require.Empty(t, w.Header().Get("Retry-After"))
				require.Zero(t, seen[0].RetryAfter)
			}
			if c.limit == "" {
				require.Empty(t, w.Header().Values("RateLimit-Policy"))
			}
		})
	}
}

// Ten a second, and a hundred an hour: what one refuses is not taken from the other.
func TestSeveralForReal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMiddleware(t, Config{Policies: []Policy{
			{Name: "second", Limit: ratelimit.PerSecond(10)},
			{Name: "hour", Limit: ratelimit.PerHour(100)},
			{Name: "all", Limit: ratelimit.PerSecond(1000), Key: func(*http.Request) string { return "" }},
			{Name: "4", Limit: ratelimit.PerHour(1e6)},
			{Name: "5", Limit: ratelimit.PerHour(1e6)},
		}})
		h := m.Handler(hello)
		served := 0
		for range 200 {
			for range 15 {
				if get(h, proxy).Code == http.StatusOK {
					served++
				}
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, 105, served, "100, and 36 s for each of the others")
		require.Equal(t, `"second";q=10;w=1, "hour";q=100;w=3600, "all";q=1000;w=1, "4";q=1000000;w=3600, "5";q=1000000;w=3600`,
			get(h, proxy).Header().Get("RateLimit-Policy"))
	})
}

func TestShadow(t *testing.T) {
	refused := map[string]int{}
	degraded := 0
	m := newMiddleware(t, Config{
		Policies: []Policy{
			{Name: "new", Limit: ratelimit.PerHour(3), Shadow: true},
			{Name: "old", Limit: ratelimit.PerHour(5)},
			scripted("remote", ratelimit.Result{Remaining: 9, Degraded: true}),
		},
		OnDecision: func(_ *http.Request, d Decision) {
			for _, o := range d.Outcomes {
				if !o.Result.OK() {
					refused[fmt.Sprint(o.Policy, o.Shadow)]++
				}
				if o.Result.Degraded {
					degraded++
				}
			}
		},
	})
	h := m.Handler(hello)
	for i := range 7 {
		w := get(h, proxy)
		require.Equal(t, i < 5, w.Code == http.StatusOK)
		require.NotContains(t, fmt.Sprint(w.Header(), w.Body), "new")
	}
	require.Equal(t, map[string]int{"newtrue": 4, "oldfalse": 2}, refused)
	require.Equal(t, 7, degraded)
}

func TestLegacy(t *testing.T) {
	fields := func(w *httptest.ResponseRecorder) string {
		h := w.Header()
		return h.Get("X-RateLimit-Limit") + " " + h.Get("X-RateLimit-Remaining") + " " + h.Get("X-RateLimit-Reset")
	}
	a := scripted("a", ratelimit.Result{Limit: 10, Remaining: 5, ResetAfter: 1500 * time.Millisecond})
	b := scripted("b", ratelimit.Result{Limit: 100, Remaining: 4, ResetAfter: time.Hour})
	full := scripted("full", ratelimit.Result{Limit: 2, Remaining: 2})
	no := scripted("no", ratelimit.Result{Limit: 20, Remaining: 6, RetryAfter: time.Second, ResetAfter: time.Minute})
	never := scripted("never", ratelimit.Result{Limit: 30, Remaining: 30, RetryAfter: ratelimit.Never})
	shadow := scripted("shadow", ratelimit.Result{Limit: 1})
	shadow.Shadow = true
	free := scripted("free", ratelimit.Result{Limit: 1})
	free.Cost = func(*http.Request) int64 { return 0 }
	for _, c := range []struct {
		p    []Policy
		want string
	}{
		{[]Policy{a}, "10 5 2"},
		{[]Policy{a, b}, "100 4 3600"},
		{[]Policy{b, a, free, shadow}, "100 4 3600"},
		{[]Policy{full}, "2 2 0"},
		{[]Policy{a, no, b}, "20 6 60"},
		{[]Policy{a, no, never}, "30 30 0"},
		{[]Policy{free}, "  "},
		{[]Policy{shadow}, "  "},
	} {
		require.Equal(t, c.want, fields(get(newMiddleware(t, Config{Policies: c.p, Legacy: true}).Handler(hello), proxy)))
	}
	stack := func(inner, outer Policy) string {
		h := newMiddleware(t, Config{Policies: []Policy{inner}, Legacy: true}).Handler(hello)
		return fields(get(newMiddleware(t, Config{Policies: []Policy{outer}, Legacy: true}).Handler(h), proxy))
	}
	require.Equal(t, "100 4 3600", stack(a, b))
	require.Equal(t, "100 4 3600", stack(b, a))
	require.Equal(t, "20 6 60", stack(no, a))
}

// Two, one behind the other, make one list.
func TestStacked(t *testing.T) { synctest.Test(t, testStacked) }

func testStacked(t *testing.T) {
	inner := newMiddleware(t, Config{Policies: []Policy{{Name: "user", Limit: ratelimit.PerHour(1)}}})
	outer := newMiddleware(t, Config{Policies: []Policy{{Name: "addr", Limit: ratelimit.PerHour(5).WithBurst(10)}}})
	h := outer.Handler(inner.Handler(hello))
	for i, limit := range []string{`"addr";r=9;t=720, "user";r=0;t=3600`, `"addr";r=8;t=720, "user";r=0;t=3600`} {
		w := get(h, proxy)
		require.Equal(t, i == 0, w.Code == http.StatusOK)
		require.Equal(t, []string{limit}, w.Header().Values("RateLimit"))
		require.Equal(t, []string{`"addr";q=5;w=3600, "user";q=1;w=3600`}, w.Header().Values("RateLimit-Policy"))
	}
	// What other handlers have set in several lines is in it as well.
	h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("RateLimit", `"x";r=1`)
		w.Header().Add("RateLimit", `"y";r=2`)
		inner.Handler(hello).ServeHTTP(w, r)
	})
	require.Equal(t, []string{`"x";r=1, "y";r=2, "user";r=0;t=3600`}, get(h, "192.0.2.9:1").Header().Values("RateLimit"))
	// A handler that changes its headers does not change those of others.
	careless := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(5)}}}).Handler(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Ratelimit-Policy"][0] = "overwritten"
			w.Header().Add("RateLimit-Policy", "added")
			require.Len(t, w.Header().Values("RateLimit"), 1)
		}))
	get(careless, proxy)
	require.Equal(t, []string{"overwritten", "added"}, get(careless, proxy).Header().Values("RateLimit-Policy"))
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(5)}}})
	require.Equal(t, `"default";q=5;w=3600`, get(m.Handler(hello), proxy).Header().Get("RateLimit-Policy"))
}

func TestRefuse(t *testing.T) {
	var got Decision
	m := newMiddleware(t, Config{
		Policies: []Policy{scripted("x", ratelimit.Result{RetryAfter: 90 * time.Second})},
		Refuse: func(w http.ResponseWriter, r *http.Request, d Decision) {
			got = d
			if r.Method == http.MethodPost {
				WriteProblem(w, r, d)
				return
			}
			http.Error(w, "slow down", http.StatusServiceUnavailable)
		},
	})
	w := get(m.Handler(hello), proxy)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "90", w.Header().Get("Retry-After"))
	require.Equal(t, `"x";r=0`, w.Header().Get("RateLimit"))
	require.Equal(t, []string{"x"}, got.Violated())
	require.Equal(t, 90*time.Second, got.RetryAfter)
	w = httptest.NewRecorder()
	m.Handler(hello).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("body")))
	require.Equal(t, http.StatusTooManyRequests, w.Code)
}

// A hook that panics leaves everything whole.
func TestHookPanics(t *testing.T) {
	calls := 0
	m := newMiddleware(t, Config{
		Policies:   []Policy{{Limit: ratelimit.PerHour(5)}},
		OnDecision: func(*http.Request, Decision) { calls++; panic("hook") },
	})
	for range 3 {
		require.PanicsWithValue(t, "hook", func() { get(m.Handler(hello), proxy) })
	}
	require.Equal(t, 3, calls)
}

// The handler is given the ResponseWriter and the request as they are.
func TestUntouched(t *testing.T) {
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(5)}}})
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	m.Handler(http.HandlerFunc(func(w2 http.ResponseWriter, r2 *http.Request) {
		require.Same(t, w, w2)
		require.Same(t, r, r2)
	})).ServeHTTP(w, r)
	require.False(t, w.Flushed)
}

// On a real server: HEAD, OPTIONS, hijacked and flushed answers, and refusals before the body.
func TestServer(t *testing.T) {
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(5)}}})
	s := httptest.NewServer(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flush":
			w.(http.Flusher).Flush()
		case "/hijack":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(conn, "HTTP/1.1 299 Mine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				conn.Close()
			}
		}
	})))
	defer s.Close()
	do := func(method, path string) *http.Response {
		r, err := http.NewRequest(method, s.URL+path, nil)
		require.NoError(t, err)
		resp, err := s.Client().Do(r)
		require.NoError(t, err)
		return resp
	}
	for i, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		resp := do(method, "/flush")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Contains(t, resp.Header.Get("RateLimit"), fmt.Sprintf(`"default";r=%d;t=7`, 4-i))
		resp.Body.Close()
	}
	resp := do(http.MethodGet, "/hijack")
	require.Equal(t, 299, resp.StatusCode)
	resp.Body.Close()
	do(http.MethodGet, "/").Body.Close()
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		resp := do(method, "/")
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode, method)
		require.Regexp(t, `^7\d\d$`, resp.Header.Get("Retry-After"))
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, method == http.MethodHead, len(body) == 0)
	}

	// Who asks before sending a body is not told to go on.
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 429 Too Many Requests\r\n", line)
}

// Behind a proxy on a Unix socket.
func TestServerUnix(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", name)
	require.NoError(t, err)
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(5)}}, Addr: AddrConfig{TrustUnix: true}})
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: m.Handler(hello)}}
	s.Start()
	defer s.Close()
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", name)
	}}}
	defer c.CloseIdleConnections()
	for i, forwarded := range []string{"203.0.113.1", "203.0.113.2", "6.6.6.6, 203.0.113.1"} {
		r, err := http.NewRequest(http.MethodGet, "http://unix/", nil)
		require.NoError(t, err)
		r.Header.Set("X-Forwarded-For", forwarded)
		resp, err := c.Do(r)
		require.NoError(t, err)
		resp.Body.Close()
		require.Contains(t, resp.Header.Get("RateLimit"), fmt.Sprintf(`"default";r=%d;t=7`, 4-i/2))
	}
}

// However many come at once, no more are served than the limit allows.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so no time passes
		var hooks atomic.Int64
		m := newMiddleware(t, Config{
			Policies: []Policy{
				{Name: "a", Limit: ratelimit.PerHour(100)},
				{Name: "b", Limit: ratelimit.PerHour(120)},
				{Name: "c", Limit: ratelimit.PerHour(10), Shadow: true},
			},
			Legacy:     true,
			OnDecision: func(*http.Request, Decision) { hooks.Add(1) },
		})
		var served [3]atomic.Int64
		var wg sync.WaitGroup
		h := m.Handler(hello)
		for i := range 12 {
			wg.Go(func() {
				for range 50 {
					if get(h, fmt.Sprintf("192.0.2.%d:80", i%3)).Code == http.StatusOK {
						served[i%3].Add(1)
					}
				}
			})
		}
		wg.Wait()
		for i := range served {
			// Of b more may be taken, but only once there is none of a.
			require.EqualValues(t, 100, served[i].Load())
		}
		require.EqualValues(t, 600, hooks.Load())
	})
}

func TestKeyed(t *testing.T) {
	k, err := ratelimit.NewKeyed[string](ratelimit.PerHour(2), ratelimit.KeyedConfig{MaxKeys: 10})
	require.NoError(t, err)
	l := Keyed(k)
	require.EqualValues(t, 1, l.Take(t.Context(), "x", 1).Remaining)
	require.EqualValues(t, 1, l.Peek(t.Context(), "x", 1).Remaining)
	require.EqualValues(t, 1, k.Peek("x", 0).Remaining)
	require.EqualValues(t, 2, l.Peek(t.Context(), "y", 1).Remaining)
}

func TestByHeader(t *testing.T) {
	key := ByHeader("authorization")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	require.Empty(t, key(r))
	r.Header.Add("Authorization", "Bearer x")
	r.Header.Add("Authorization", "Bearer y")
	require.Equal(t, "Bearer x", key(r))
}

// A request costs the key, the value of RateLimit, and the slice for both headers.
func TestAllocs(t *testing.T) {
	m := newMiddleware(t, Config{Policies: []Policy{{Limit: ratelimit.PerHour(1 << 20)}, {Name: "x", Limit: ratelimit.PerHour(1 << 20)}}})
	h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	h.ServeHTTP(w, r)
	require.EqualValues(t, 3, testing.AllocsPerRun(1000, func() {
		clear(w.Header())
		h.ServeHTTP(w, r)
	}))
}
