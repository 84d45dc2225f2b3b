package httplimit_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// ask sends a request as from an address, and prints what is answered.
func ask(h http.Handler, from string, header ...string) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = from
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("RateLimit"))
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, "hello\n")
})

func Example() {
	m, err := httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{{Limit: ratelimit.PerHour(60).WithBurst(2)}},
	})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(m.Handler(hello))
	defer server.Close()

	for range 3 {
		resp, err := http.Get(server.URL)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Status)
		for _, name := range []string{"RateLimit-Policy", "RateLimit", "Retry-After"} {
			if value := resp.Header.Get(name); value != "" {
				fmt.Printf("\t%s: %s\n", name, value)
			}
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Printf("%s", body)
	}
	// Output:
	// 200 OK
	// 	RateLimit-Policy: "default";q=60;w=3600
	// 	RateLimit: "default";r=1;t=60
	// hello
	// 200 OK
	// 	RateLimit-Policy: "default";q=60;w=3600
	// 	RateLimit: "default";r=0;t=60
	// hello
	// 429 Too Many Requests
	// 	RateLimit-Policy: "default";q=60;w=3600
	// 	RateLimit: "default";r=0;t=60
	// 	Retry-After: 60
	// {"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,"detail":"Try again after 60 s.","violated-policies":["default"]}
}

// A limit for each client, and one for each account, in which writing costs more than reading. The
// account has been checked by whoever stands before this handler.
func ExampleNew() {
	m, err := httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{{
			Name:  "client",
			Limit: ratelimit.PerHour(100),
		}, {
			Name:  "account",
			Limit: ratelimit.PerHour(1000),
			Key:   httplimit.ByHeader("X-Account"),
			Cost: func(r *http.Request) int64 {
				if r.Method == http.MethodGet {
					return 1
				}
				return 50
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	h := m.Handler(hello)
	ask(h, "192.0.2.1:1234", "X-Account", "alice")
	ask(h, "192.0.2.2:1234", "X-Account", "alice")
	// Output:
	// 200 "client";r=99;t=36, "account";r=999;t=4
	// 200 "client";r=99;t=36, "account";r=998;t=4
}

// A limit that is only tried: what it would refuse is counted, and no client sees anything of it.
func ExamplePolicy_shadow() {
	m, err := httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{
			{Name: "generous", Limit: ratelimit.PerHour(100)},
			{Name: "stricter", Limit: ratelimit.PerHour(1), Shadow: true},
		},
		OnDecision: func(r *http.Request, d httplimit.Decision) {
			for _, o := range d.Outcomes {
				if o.Shadow && !o.Result.OK() {
					fmt.Println(o.Policy, "would refuse", o.Key)
				}
				if o.Result.Degraded {
					fmt.Println(o.Policy, "has lost the others")
				}
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	h := m.Handler(hello)
	ask(h, "192.0.2.1:1234")
	ask(h, "192.0.2.1:1234")
	// Output:
	// 200 "generous";r=99;t=36
	// stricter would refuse 192.0.2.1
	// 200 "generous";r=98;t=36
}

// All clients together, with a limiter of one's own.
func ExampleKeyed() {
	limit := ratelimit.PerHour(2)
	all, err := ratelimit.NewKeyed[string](limit, ratelimit.KeyedConfig{MaxKeys: 1})
	if err != nil {
		log.Fatal(err)
	}
	m, err := httplimit.New(httplimit.Config{Policies: []httplimit.Policy{{
		Name:    "all",
		Limit:   limit,
		Limiter: httplimit.Keyed(all),
		Key:     func(*http.Request) string { return "" },
	}}})
	if err != nil {
		log.Fatal(err)
	}
	h := m.Handler(hello)
	ask(h, "192.0.2.1:1234")
	ask(h, "192.0.2.2:1234")
	ask(h, "192.0.2.3:1234")
	all.Delete("")
	ask(h, "192.0.2.3:1234")
	// Output:
	// 200 "all";r=1;t=1800
	// 200 "all";r=0;t=1800
	// 429 "all";r=0;t=1800
	// 200 "all";r=1;t=1800
}

// The proxy adds whom it has seen, at the right; what stands left of that, anybody may have written.
func ExampleClientAddr() {
	a, err := httplimit.NewClientAddr(httplimit.AddrConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "10.0.0.1:1234"
	r.Header.Set("X-Forwarded-For", "127.0.0.1, 2001:db8::7, 10.0.0.2")
	fmt.Println(a.Addr(r), a.Key(r))
	// Output: 2001:db8::7 2001:db8::/64
}

// Pages for people, problems for programs.
func ExampleWriteProblem() {
	m, err := httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{{Limit: ratelimit.Every(time.Hour)}},
		Refuse: func(w http.ResponseWriter, r *http.Request, d httplimit.Decision) {
			if r.URL.Path != "/" {
				httplimit.WriteProblem(w, r, d)
				return
			}
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprintln(w, "Please come back in", d.RetryAfter)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	h := m.Handler(hello)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	fmt.Print(w.Body)
	// Output: Please come back in 1h0m0s
}

// The first address of X-Forwarded-For is whatever the client has sent. Who takes it for the key lets
// everybody have as many limits as they like.
func ExamplePolicy_mistake() {
	limit := ratelimit.PerHour(1)
	wrong, err := httplimit.New(httplimit.Config{Policies: []httplimit.Policy{{
		Limit: limit,
		Key:   httplimit.ByHeader("X-Forwarded-For"),
	}}})
	if err != nil {
		log.Fatal(err)
	}
	right, err := httplimit.New(httplimit.Config{
		Policies: []httplimit.Policy{{Limit: limit}},
		Addr:     httplimit.AddrConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range []*httplimit.Middleware{wrong, right} {
		h := m.Handler(hello)
		ask(h, "10.0.0.1:1234", "X-Forwarded-For", "1.1.1.1, 203.0.113.9")
		ask(h, "10.0.0.1:1234", "X-Forwarded-For", "2.2.2.2, 203.0.113.9")
	}
	// Output:
	// 200 "default";r=0;t=3600
	// 200 "default";r=0;t=3600
	// 200 "default";r=0;t=3600
	// 429 "default";r=0;t=3600
}
