package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/loadbalance/proxy"
)

// backends starts servers that answer with their names, and returns a pool of them.
func backends(names ...string) (*loadbalance.Pool[*url.URL], func()) {
	var endpoints []loadbalance.Endpoint[*url.URL]
	var servers []*httptest.Server
	for _, name := range names {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s: %s %s %s", name, r.Method, r.URL.Path, body)
		}))
		u, err := url.Parse(s.URL)
		if err != nil {
			log.Fatal(err)
		}
		servers = append(servers, s)
		endpoints = append(endpoints, loadbalance.Endpoint[*url.URL]{ID: name, Value: u, Weight: 1})
	}
	pool, err := loadbalance.New(loadbalance.Config[*url.URL]{Policy: loadbalance.RoundRobin(), Seed: 1, Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	return pool, func() {
		for _, s := range servers {
			s.Close()
		}
		pool.Close()
	}
}

func show(resp *http.Response, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.StatusCode, strings.TrimSpace(string(body)))
}

// A proxy before servers that are checked: those that fail are left out.
func Example() {
	check, err := proxy.CheckHTTP(proxy.CheckHTTPConfig{Path: "/healthz"})
	if err != nil {
		log.Fatal(err)
	}
	config := loadbalance.Config[*url.URL]{Policy: loadbalance.LeastResponseTime()}
	config.Health.Check = check
	config.Health.Interval = time.Second
	config.Outlier.ConsecutiveErrors = 5
	pool, err := loadbalance.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello, ", r.Header.Get("X-Forwarded-Host"))
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	if err := pool.Add(loadbalance.Endpoint[*url.URL]{ID: "one", Value: u, Weight: 1}); err != nil {
		log.Fatal(err)
	}

	handler, err := proxy.NewReverseProxy(pool, proxy.ReverseProxyConfig{})
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(handler)
	defer front.Close()
	req, err := http.NewRequest("GET", front.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Host = "shop.example"
	show(http.DefaultClient.Do(req))
	// Output:
	// 200 hello, shop.example
}

// A client whose requests go to several servers by the name of the service. One of them is down.
func ExampleNewTransport() {
	pool, closeAll := backends("a", "b")
	defer closeAll()
	if err := pool.Add(loadbalance.Endpoint[*url.URL]{ID: "c", Value: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Weight: 1}); err != nil {
		log.Fatal(err)
	}
	transport, err := proxy.NewTransport(pool, proxy.TransportConfig{
		OnTry: func(t proxy.Try) {
			if t.Err != nil {
				fmt.Printf("try %d, %s: %v\n", t.Number, t.ID, t.Outcome)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	answers := make(map[string]int)
	for range 3 {
		resp, err := client.Post("http://users/add", "text/plain", strings.NewReader("alice"))
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answers[string(body)[1:]]++
	}
	fmt.Println(answers)
	// Output:
	// try 1, c: ConnectError
	// map[: POST /add alice:3]
}

// The answer of a server that is not retried is handed on; an error is one of these.
func ExampleError() {
	pool, err := loadbalance.New(loadbalance.Config[*url.URL]{Endpoints: []loadbalance.Endpoint[*url.URL]{
		{ID: "a", Value: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Weight: 1},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	transport, err := proxy.NewTransport(pool, proxy.TransportConfig{Tries: 2, Backoff: time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	_, err = client.Get("http://users/")
	var failed *proxy.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Tries, "tries, the last with", failed.ID)
	}
	if err := pool.Remove("a"); err != nil {
		log.Fatal(err)
	}
	_, err = client.Get("http://users/")
	fmt.Println(errors.Is(err, loadbalance.ErrUnavailable))
	// Output:
	// 2 tries, the last with a
	// true
}

// Clients come back to the server that has answered them first.
func ExampleNewReverseProxy() {
	pool, closeAll := backends("a", "b", "c")
	defer closeAll()
	handler, err := proxy.NewReverseProxy(pool, proxy.ReverseProxyConfig{
		Transport: proxy.TransportConfig{
			TryTimeout: 5 * time.Second,
			Sticky:     &proxy.StickyCookie{Name: "backend", Secret: []byte("32 bytes that nobody else knows.")},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	get := func(cookies []*http.Cookie) *http.Response {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/cart", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	first := get(nil)
	body, _ := io.ReadAll(first.Body)
	same := true
	for range 5 {
		again, _ := io.ReadAll(get(first.Cookies()).Body)
		same = same && string(again) == string(body)
	}
	fmt.Println(first.StatusCode, first.Cookies()[0].Name, same)
	// Output:
	// 200 backend true
}

func ExampleCheckHTTP() {
	check, err := proxy.CheckHTTP(proxy.CheckHTTPConfig{Path: "/healthz", Contains: "ready"})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "starting")
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(check(context.Background(), loadbalance.Endpoint[*url.URL]{ID: "a", Value: u}))
	// Output:
	// loadbalance/proxy: the check was answered without "ready" in the first 8 bytes
}

// Connections to a server of any protocol, here one that sends back what it gets.
func ExampleNewTCPProxy() {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	pool, err := loadbalance.New(loadbalance.Config[string]{
		Policy:    loadbalance.LeastConnections(),
		Endpoints: []loadbalance.Endpoint[string]{{ID: "a", Value: backend.Addr().String(), Weight: 1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	p, err := proxy.NewTCPProxy(pool, proxy.TCPConfig{IdleTimeout: 5 * time.Minute, MaxConnections: 10_000})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- p.Serve(l) }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	fmt.Println(string(got), err)
	conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(p.Shutdown(ctx))
	fmt.Println(errors.Is(<-served, proxy.ErrClosed))
	fmt.Println(p.Stats().Sent, p.Stats().Received)
	// Output:
	// hello <nil>
	// <nil>
	// true
	// 5 5
}

// The mistake: to not close the body of an answer. The request is in flight for ever, and its endpoint
// gets fewer and fewer others, or is never drained.
func ExampleNewTransport_mistake() {
	pool, closeAll := backends("a")
	defer closeAll()
	transport, err := proxy.NewTransport(pool, proxy.TransportConfig{})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	resp, err := client.Get("http://users/")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.StatusCode, pool.Stats().Endpoints[0].InFlight) // and that was that
	resp.Body.Close()
	fmt.Println(pool.Stats().Endpoints[0].InFlight)
	// Output:
	// 200 1
	// 0
}
