package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/bits"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/internal/trace"
)

// A loadSettings is what -load and its companions say.
type loadSettings struct {
	duration time.Duration // 0: no load
	target   *url.URL      // nil: a service in this process
	key      string
	workers  int
	links    int
}

func (s *loadSettings) flags(flags *flag.FlagSet) {
	flags.DurationVar(&s.duration, "load", 0, "do nothing but measure for `DURATION` how many requests the service answers, one in a directory of its own")
	flags.Func("load-target", "let -load drive the service at `URL`, which should have -no-limits (default: one in this process)", func(v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return errors.New("must be a URL such as http://localhost:8080")
		}
		s.target = u
		return nil
	})
	flags.StringVar(&s.key, "load-key", "", "the API `KEY` with which -load makes links at -load-target")
	flags.IntVar(&s.workers, "load-workers", 64, "`NUMBER` of connections of -load")
	flags.IntVar(&s.links, "load-links", 1000, "`NUMBER` of links that -load makes first, and then follows")
}

func (s *loadSettings) check() error {
	switch {
	case s.duration < 0:
		return fmt.Errorf("-load must be at least 0, got %v", s.duration)
	case s.workers < 1 || s.workers > 10_000:
		return fmt.Errorf("-load-workers must be from 1 to 10000, got %d", s.workers)
	case s.links < 1 || s.links > 1_000_000:
		return fmt.Errorf("-load-links must be from 1 to 1000000, got %d", s.links)
	case s.target != nil && s.duration == 0:
		return errors.New("-load-target is for -load, which is missing")
	}
	return nil
}

// What a service of 100 million new links a month has on average, each of which is followed 100 times.
const (
	expectedWrites = 40
	expectedReads  = 3850
	readsPerWrite  = 100
	// zipfExponent is about that of web traffic.
	zipfExponent = 0.9
)

// load measures a service, and prints what it has found.
func load(ctx context.Context, s settings, stdout, stderr io.Writer) (err error) {
	base, bare := s.load.target, loadResult{}
	if base == nil {
		if bare, err = loadBare(ctx, s.load); err != nil {
			return err
		}
		var stop func() error
		if base, stop, err = serveForLoad(ctx, s, stderr); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	g, err := newGenerator(base, s.load.key, s.load.workers)
	if err != nil {
		return err
	}
	if err := g.prepare(ctx, s.load.links); err != nil {
		return err
	}
	before, err := g.status(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, s.load.duration)
	r := g.run(limited)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	after, err := g.settled(ctx, before.clicked()+r.reads)
	if err != nil {
		return err
	}
	hits, misses := float64(after.Hits-before.Hits), float64(after.Misses-before.Misses)
	line := func(name, format string, a ...any) {
		fmt.Fprintf(stdout, "%-10s"+format+"\n", append([]any{name}, a...)...)
	}
	line("Load", "%v, %d connections, %d links by Zipf's law (s = %v), %d reads to 1 write", s.load.duration, s.load.workers, len(g.links), zipfExponent, readsPerWrite)
	line("Redirects", "%.0f/s, p50 %v, p99 %v; with 100 million new links a month, there are %d/s", r.perSecond(r.reads), r.latency.quantile(.5), r.latency.quantile(.99), expectedReads)
	line("Links", "%.0f/s; 100 million a month are %d/s", r.perSecond(r.writes), expectedWrites)
	line("Errors", "%d", r.errors)
	line("Hits", "%.2f %% of look-ups were answered by the cache", 100*hits/max(hits+misses, 1))
	line("Clicks", "%d redirects answered, %d counted", r.reads, after.clicked()-before.clicked())
	if s.load.target == nil {
		line("Bare", "%.0f/s, p50 %v, p99 %v by a handler that only redirects: the service has %.0f %% of that",
			bare.perSecond(bare.reads), bare.latency.quantile(.5), bare.latency.quantile(.99), 100*r.perSecond(r.reads)/max(bare.perSecond(bare.reads), 1))
	}
	if r.errors > 0 {
		return fmt.Errorf("%d requests have failed, the first with: %w", r.errors, r.first)
	}
	return nil
}

// serveForLoad starts a service without limits, in a directory that stop takes away.
func serveForLoad(ctx context.Context, s settings, stderr io.Writer) (base *url.URL, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "urlshortener")
	if err != nil {
		return nil, nil, err
	}
	s.dir, s.unlimited, s.keys = dir, true, apiKeys{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	a, err := newApp(ctx, s, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return nil, nil, errors.Join(err, l.Close(), os.RemoveAll(dir))
	}
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- a.serve(serving, l) }()
	return &url.URL{Scheme: "http", Host: l.Addr().String()}, func() error {
		end()
		err := <-served
		a.close(context.WithoutCancel(ctx))
		return errors.Join(err, os.RemoveAll(dir))
	}, nil
}

// loadBare measures a handler that does nothing but redirect, for a while: what net/http and the generator take.
func loadBare(ctx context.Context, s loadSettings) (loadResult, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return loadResult{}, err
	}
	const target = "http://example.com/"
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Location"] = []string{target}
		w.WriteHeader(http.StatusFound)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	g, err := newGenerator(&url.URL{Scheme: "http", Host: l.Addr().String()}, "", s.workers)
	if err != nil {
		return loadResult{}, err
	}
	g.readOnly = true
	g.follow([]loadLink{{"bare", target}})
	limited, cancel := context.WithTimeout(ctx, max(s.duration/4, 100*time.Millisecond))
	defer cancel()
	r := g.run(limited)
	return r, cmp.Or(r.first, ctx.Err())
}

// A loadLink is a link that a generator has made.
type loadLink struct{ code, target string }

// A generator makes links and follows them, over connections that stay open.
type generator struct {
	host, port string
	tls        bool
	key        string
	workers    int
	readOnly   bool

	links      []loadLink
	order      []uint32 // which link is followed next, again and again
	answered   []atomic.Int64
	unanswered []atomic.Int64 // of requests that were sent: it is not known whether they count

	mu   sync.Mutex
	made []loadLink // that were acknowledged while it ran
	last atomic.Int64
}

func newGenerator(base *url.URL, key string, workers int) (*generator, error) {
	g := &generator{host: base.Hostname(), port: base.Port(), tls: base.Scheme == "https", key: key, workers: workers}
	if g.port == "" {
		g.port = map[bool]string{false: "80", true: "443"}[g.tls]
	}
	return g, nil
}

// follow lets the generator follow links.
func (g *generator) follow(links []loadLink) {
	g.links = links
	g.answered, g.unanswered = make([]atomic.Int64, len(links)), make([]atomic.Int64, len(links))
	number := map[uint64]uint32{}
	for _, key := range trace.Zipf(1<<18, uint64(len(links)), zipfExponent, 1) {
		n, there := number[key]
		if !there {
			n = uint32(len(number))
			number[key] = n
		}
		g.order = append(g.order, n)
	}
}

// prepare makes the links to follow.
func (g *generator) prepare(ctx context.Context, n int) error {
	links := make([]loadLink, n)
	var next atomic.Int64
	errs := make(chan error, g.workers)
	for range g.workers {
		go func() {
			c := &loadConn{generator: g}
			defer c.close()
			for i := next.Add(1) - 1; i < int64(n) && ctx.Err() == nil; i = next.Add(1) - 1 {
				var err error
				if links[i], err = c.create(ctx); err != nil {
					next.Store(int64(n))
					errs <- err
					return
				}
			}
			errs <- ctx.Err()
		}()
	}
	var err error
	for range g.workers {
		err = cmp.Or(err, <-errs)
	}
	if err != nil {
		return fmt.Errorf("links cannot be made: %w", err)
	}
	g.follow(links)
	return nil
}

// A loadResult is what a generator has seen.
type loadResult struct {
	reads, writes int64 // that were answered as they should be
	errors        int64
	first         error
	latency       histogram // of reads
	elapsed       time.Duration
}

func (r *loadResult) perSecond(n int64) float64 { return float64(n) / r.elapsed.Seconds() }

// run sends requests until ctx ends.
func (g *generator) run(ctx context.Context) loadResult {
	results := make([]loadResult, g.workers)
	var workers sync.WaitGroup
	began := time.Now()
	for i := range g.workers {
		workers.Go(func() { g.work(ctx, i, &results[i]) })
	}
	workers.Wait()
	all := loadResult{elapsed: time.Since(began)}
	for i := range results {
		r := &results[i]
		all.reads, all.writes, all.errors = all.reads+r.reads, all.writes+r.writes, all.errors+r.errors
		all.first = cmp.Or(all.first, r.first)
		all.latency.add(&r.latency)
	}
	return all
}

func (g *generator) work(ctx context.Context, worker int, r *loadResult) {
	c := &loadConn{generator: g}
	defer c.close()
	at := worker * (len(g.order) / g.workers)
	for i := worker; ctx.Err() == nil; i++ {
		var err error
		if !g.readOnly && i%(readsPerWrite+1) == readsPerWrite {
			var l loadLink
			if l, err = c.create(ctx); err == nil {
				r.writes++
				g.mu.Lock()
				g.made = append(g.made, l)
				g.mu.Unlock()
			}
		} else {
			began := time.Now()
			n := g.order[at]
			if at++; at == len(g.order) {
				at = 0
			}
			var sent bool
			if sent, err = c.follow(ctx, g.links[n]); err == nil {
				r.reads++
				g.answered[n].Add(1)
				r.latency.record(time.Since(began))
			} else if sent {
				g.unanswered[n].Add(1)
			}
		}
		if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			return // it was ended while it connected, which is no fault of the service
		}
		if err != nil {
			c.close()
			r.errors++
			r.first = cmp.Or(r.first, err)
			select { // a service that is not there is not asked as fast as can be
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// A loadConn is a connection of a generator. It does by hand what net/http would take more time for than the service
// does to answer.
type loadConn struct {
	*generator
	conn net.Conn // nil: there is none yet
	in   *bufio.Reader
	out  []byte
}

const loadTimeoutOfRequest = 10 * time.Second

func (c *loadConn) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// open connects, if there is no connection. A request that was sent is waited for, also if ctx ends meanwhile.
func (c *loadConn) open(ctx context.Context) (err error) {
	if c.conn == nil {
		addr := net.JoinHostPort(c.host, c.port)
		dialer := &net.Dialer{Timeout: 2 * time.Second}
		if c.tls {
			c.conn, err = (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{ServerName: c.host}}).DialContext(ctx, "tcp", addr)
		} else {
			c.conn, err = dialer.DialContext(ctx, "tcp", addr)
		}
		if err != nil {
			c.conn = nil
			return err
		}
		c.in = bufio.NewReaderSize(c.conn, 4<<10)
	}
	return c.conn.SetDeadline(time.Now().Add(loadTimeoutOfRequest))
}

// follow asks for a link, and returns an error if it does not lead where it should. It reports whether the request may
// have been sent.
func (c *loadConn) follow(ctx context.Context, l loadLink) (sent bool, err error) {
	if err := c.open(ctx); err != nil {
		return false, err
	}
	c.out = append(c.out[:0], "GET /"...)
	c.out = append(c.out, l.code...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.host...)
	c.out = append(c.out, "\r\n\r\n"...)
	if _, err := c.conn.Write(c.out); err != nil {
		return true, err
	}
	status, location, err := c.answer()
	switch {
	case err != nil:
		return true, err
	case status != http.StatusFound && status != http.StatusMovedPermanently:
		return true, fmt.Errorf("a link was answered with the status %d", status)
	case location != l.target:
		return true, fmt.Errorf("a link leads to %q, not %q", location, l.target)
	}
	return true, nil
}

// answer reads an answer whose length is given.
func (c *loadConn) answer() (status int, location string, err error) {
	length, over := 0, false
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, "", cmp.Or(map[bool]error{true: io.ErrUnexpectedEOF}[errors.Is(err, io.EOF)], err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
				return 0, "", fmt.Errorf("an answer begins with %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, "", err
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Location")):
			location = string(value)
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, "", err
			}
		case bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")), bytes.EqualFold(name, []byte("Transfer-Encoding")):
			over = true // what follows is not read
		}
	}
	if over {
		c.close()
	} else if _, err = c.in.Discard(length); err != nil {
		return 0, "", err
	}
	return status, location, nil
}

// create makes a link to a target of its own.
func (c *loadConn) create(ctx context.Context) (loadLink, error) {
	l := loadLink{target: fmt.Sprintf("http://example.com/%d", c.last.Add(1))}
	if err := c.open(ctx); err != nil {
		return l, err
	}
	r, err := http.NewRequest(http.MethodPost, "http://"+c.host+"/api/links", bytes.NewReader(fmt.Appendf(nil, `{"url": %q}`, l.target)))
	if err != nil {
		return l, err
	}
	r.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	if err := r.Write(c.conn); err != nil {
		return l, err
	}
	resp, err := http.ReadResponse(c.in, r)
	if err != nil {
		return l, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.Close {
		c.close()
	}
	if err != nil {
		return l, err
	}
	var v struct{ Code string }
	if resp.StatusCode != http.StatusCreated {
		return l, fmt.Errorf("a link was not made: %s %s", resp.Status, bytes.TrimSpace(body))
	}
	if err := json.Unmarshal(body, &v); err != nil || v.Code == "" {
		return l, fmt.Errorf("a link was made, and has no code: %s", body)
	}
	l.code = v.Code
	return l, nil
}

// status asks the service how it is.
func (g *generator) status(ctx context.Context) (st status, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeoutOfRequest)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, map[bool]string{false: "http://", true: "https://"}[g.tls]+net.JoinHostPort(g.host, g.port)+"/api/status", nil)
	if err != nil {
		return status{}, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return status{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status{}, fmt.Errorf("the status of the service is not to be had: %s", resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// clicked returns how many clicks are counted.
func (s status) clicked() (n int64) {
	for _, shard := range s.Shards {
		n += shard[1]
	}
	return n
}

// settled returns the status when so many clicks are counted, or half a minute has passed.
func (g *generator) settled(ctx context.Context, clicks int64) (status, error) {
	for end := time.Now().Add(30 * time.Second); ; {
		st, err := g.status(ctx)
		if err != nil || st.clicked() >= clicks && st.Queue == 0 || time.Now().After(end) {
			return st, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// A histogram counts durations, each to within 1/32 of it.
type histogram [64 * 32]int64

func (h *histogram) record(d time.Duration) {
	n := uint64(max(d, 32))
	shift := bits.Len64(n) - 6
	h[shift*32+int(n>>shift)]++
}

func (h *histogram) add(other *histogram) {
	for i, n := range other {
		h[i] += n
	}
}

// quantile returns a duration that the given share of all do not exceed, rounded to three digits; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	all := int64(0)
	for _, n := range h {
		all += n
	}
	rest := int64(q * float64(all))
	for i, n := range h {
		if rest -= n; n > 0 && rest <= 0 {
			shift := max(i/32-1, 0)
			d := time.Duration(min(uint64(i-shift*32+1)<<shift, math.MaxInt64))
			return d.Round(max(time.Microsecond, d/500))
		}
	}
	return 0
}
