package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

//go:embed demo.yaml
var demoYAML []byte

// A demo is a gateway by demo.yaml, with the backends that it is for, all at free ports.
type demo struct {
	*server
	backends map[string]*backend // by the endpoints' IDs
	client   *http.Client
	log      *lastLine
	lines    *timeline
}

// demoBackends are the endpoints of demo.yaml, by their addresses there.
var demoBackends = []struct {
	addr, name string
	slow       time.Duration
	fails      uint64
}{
	{addr: "127.0.0.1:9101", name: "shop-1", slow: 5 * time.Millisecond},
	{addr: "127.0.0.1:9102", name: "shop-2", slow: 5 * time.Millisecond},
	{addr: "127.0.0.1:9103", name: "shop-3", slow: 80 * time.Millisecond},
	{addr: "127.0.0.1:9104", name: "prices-1", slow: 5 * time.Millisecond, fails: 3},
	{addr: "127.0.0.1:9105", name: "prices-2", slow: 5 * time.Millisecond},
}

// startDemo starts the backends and the gateway; listen is where its first listener is, "" any free
// port.
func startDemo(ctx context.Context, listen string, stdout io.Writer) (*demo, error) {
	d := &demo{backends: map[string]*backend{}, log: &lastLine{}, lines: &timeline{w: stdout, start: time.Now()}}
	text := string(demoYAML)
	starting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, b := range demoBackends {
		x, err := startBackend(starting, b.name, b.slow, b.fails)
		if err != nil {
			d.stopBackends()
			return nil, err
		}
		d.backends[b.name] = x
		text = strings.ReplaceAll(text, b.addr, x.addr)
	}
	c, err := parseConfig("demo.yaml", []byte(text))
	if err == nil {
		for i := range c.Listeners {
			c.Listeners[i].Address = "127.0.0.1:0"
		}
		if listen != "" {
			c.Listeners[0].Address = listen
		}
		c.Admin.Address = "127.0.0.1:0"
		d.server, err = startServer(c, options{stdout: d.log, stderr: io.Discard, onEvent: d.lines.event})
	}
	if err != nil {
		d.stopBackends()
		return nil, err
	}
	trusted := x509.NewCertPool()
	for _, cert := range d.certs {
		if cert != nil {
			trusted.AddCert(cert)
		}
	}
	d.client = &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 32,
		TLSClientConfig:     &tls.Config{RootCAs: trusted},
		ForceAttemptHTTP2:   true,
	}}
	return d, nil
}

func (d *demo) stopBackends() {
	for _, b := range d.backends {
		b.kill()
	}
}

// stop ends everything.
func (d *demo) stop(ctx context.Context) error {
	d.client.CloseIdleConnections()
	err := d.server.stop(ctx)
	d.stopBackends()
	return err
}

// demonstrate shows the gateway for s.length, kills a backend and starts it again while that goes on,
// and prints what came of it.
func demonstrate(ctx context.Context, s settings, stdout io.Writer) (err error) {
	d, err := startDemo(ctx, s.listen, stdout)
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := d.stop(ctx); err == nil {
			err = stopErr
		}
	}()
	stdout = d.lines // events come while we print
	fmt.Fprintf(stdout, "Serving      %s and %s, by demo.yaml, over %d small servers\n", d.url(0), d.url(1), len(d.backends))
	fmt.Fprintf(stdout, "Status page  %s\n\n", statusURL(d.adminAddr))

	ended := make(chan struct{})
	loading, stopLoad := context.WithCancel(ctx)
	seen := newTally()
	go func() {
		defer close(ended)
		d.load(loading, seen)
	}()
	defer func() {
		stopLoad()
		<-ended
	}()
	victim := d.backends["shop-1"]
	wait(ctx, s.length/4)
	d.lines.say("shop-1 is killed")
	victim.kill()
	wait(ctx, s.length/4)
	d.lines.say("shop-1 is started again")
	if err := victim.start(ctx); err != nil {
		return err
	}
	wait(ctx, s.length/2)
	if !s.keep {
		stopLoad()
		<-ended
	}
	d.lines.mute()
	fmt.Fprintln(stdout)
	if err := d.report(seen, stdout); err != nil {
		return err
	}
	if s.keep && ctx.Err() == nil {
		fmt.Fprintf(stdout, "\nThe load goes on, until interrupted. The status page is at %s\n", statusURL(d.adminAddr))
		<-ctx.Done()
	}
	return nil
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// load sends requests until ctx ends.
func (d *demo) load(ctx context.Context, seen *tally) {
	var clients sync.WaitGroup
	send := func(n int, pause time.Duration, request func() (route, url string, h map[string]string)) {
		for range n {
			clients.Go(func() {
				for ctx.Err() == nil {
					route, url, h := request()
					d.send(ctx, seen, route, url, h)
					wait(ctx, pause)
				}
			})
		}
	}
	plain, secure := d.url(0), d.url(1)
	send(4, 5*time.Millisecond, func() (string, string, map[string]string) {
		return "products", fmt.Sprintf("%s/products/%d", plain, rand.IntN(100)), nil
	})
	send(1, 20*time.Millisecond, func() (string, string, map[string]string) {
		return "products", fmt.Sprintf("%s/products/%d", secure, rand.IntN(100)), nil
	})
	send(2, 10*time.Millisecond, func() (string, string, map[string]string) {
		image := fmt.Sprint(rand.IntN(50))
		return "images", plain + "/images/" + image, map[string]string{"X-Image": image}
	})
	send(2, 10*time.Millisecond, func() (string, string, map[string]string) {
		return "prices", plain + "/api/prices", nil
	})
	send(1, 30*time.Millisecond, func() (string, string, map[string]string) {
		return "search", plain + "/search?q=tea", nil
	})
	visits := 0
	send(1, 50*time.Millisecond, func() (string, string, map[string]string) {
		if visits++; visits%5 == 0 {
			return "account", plain + "/account", map[string]string{"X-API-Key": "not one of ours"}
		}
		return "account", plain + "/account", map[string]string{"X-API-Key": "demo-key-of-alice"}
	})
	send(1, 50*time.Millisecond, func() (string, string, map[string]string) {
		return "legacy", plain + "/legacy", nil
	})
	clients.Wait()
}

// send sends one request, and notes what came of it.
func (d *demo) send(ctx context.Context, seen *tally, route, url string, header map[string]string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err) // the URLs are ours
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := d.client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	switch {
	case ctx.Err() != nil: // it is the end
	case err != nil:
		seen.add(route, 0)
	default:
		seen.add(route, resp.StatusCode)
	}
}

// report prints what clients have seen, and what the gateway knows.
func (d *demo) report(seen *tally, stdout io.Writer) error {
	s := d.status()
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "route\trequests\ttries\tanswered by")
	for _, r := range s.Routes {
		codes := seen.of(r.Name)
		if len(codes) == 0 {
			continue
		}
		n := 0
		var says []string
		for _, code := range slices.Sorted(maps.Keys(codes)) {
			n += codes[code]
			says = append(says, fmt.Sprintf("%d %s", codes[code], meaning(code, r)))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", r.Name, n, r.Tries, strings.Join(says, ", "))
	}
	fmt.Fprintln(w, "\nendpoint\trequests\tfailed\tstate\tpool\tpolicy")
	for _, p := range s.Pools {
		for _, e := range p.Endpoints {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", e.ID, e.Picked, e.Failed, e.State, p.Of, p.Policy)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	codes := seen.of("products")
	n, failed := 0, 0
	for code, k := range codes {
		n += k
		if code != http.StatusOK {
			failed += k
		}
	}
	fmt.Fprintf(stdout, "\nOf %d requests to /products, %d failed, while shop-1 was killed and came back.\n", n, failed)
	fmt.Fprintf(stdout, "\nThe access log has lines such as\n%s", d.log)
	return nil
}

// meaning says what answers with that status are here.
func meaning(code int, r routeStatus) string {
	switch {
	case code == 0:
		return "not answered"
	case code == http.StatusUnauthorized:
		return "401 (no valid API key)"
	case code == http.StatusTooManyRequests:
		return "429 (too many)"
	case code == http.StatusServiceUnavailable && r.Breaker != "":
		return "503 (the breaker's)"
	}
	return fmt.Sprint(code)
}

// A tally counts answers by route and status; 0 is none.
type tally struct {
	mu    sync.Mutex
	codes map[string]map[int]int
}

func newTally() *tally { return &tally{codes: map[string]map[int]int{}} }

func (t *tally) add(route string, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.codes[route] == nil {
		t.codes[route] = map[int]int{}
	}
	t.codes[route][code]++
}

func (t *tally) of(route string) map[int]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.codes[route])
}

// lastLine is a writer that keeps the last line of those that are about a retry, or else of all.
type lastLine struct {
	mu    sync.Mutex
	line  []byte
	retry bool
}

// Write is called by slog with one line.
func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	retry := bytes.Contains(p, []byte(`"tries":2`))
	if retry || !l.retry {
		l.line, l.retry = bytes.Clone(p), retry
	}
	return len(p), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.line)
}

// A timeline prints what happens, and when.
type timeline struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
	muted bool
}

// Write is for what is printed beside.
func (t *timeline) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w.Write(p)
}

func (t *timeline) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.muted {
		fmt.Fprintf(t.w, "%4.1f s  %s\n", time.Since(t.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (t *timeline) mute() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.muted = true
}

func (t *timeline) event(pool string, e loadbalance.Event) {
	if e.Kind == loadbalance.Added || e.Kind == loadbalance.Removed {
		return
	}
	what := map[loadbalance.EventKind]string{
		loadbalance.Up: "is up", loadbalance.Down: "is down", loadbalance.Ejected: "is ejected",
		loadbalance.Returned: "is no longer ejected", loadbalance.Panicked: "all get requests, healthy or not",
		loadbalance.PanicEnded: "only healthy ones get requests",
	}[e.Kind]
	if e.Err != nil {
		what += ": " + strings.TrimPrefix(e.Err.Error(), "loadbalance: ")
	}
	t.say("  %s", strings.TrimSpace(strings.Join([]string{"pool " + pool + ":", e.ID, what}, " ")))
}
