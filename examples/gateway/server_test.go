package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

func TestTLS(t *testing.T) {
	a := echo(t, "a")
	dir := t.TempDir()
	made, err := selfSigned([]string{"files.test"})
	require.NoError(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	require.NoError(t, err)
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: made.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600))
	}
	f := startGateway(t, fmt.Sprintf(`
listeners:
  - {address: "127.0.0.1:0", tls: {self_signed: [shop.test, 127.0.0.1]}}
  - {address: "127.0.0.1:0", tls: {cert: %q, key: %q}}
  - {address: "127.0.0.1:0"}
`, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))+pools(map[string]*httptest.Server{"a": a})+`
routes: [{name: r, prefix: /, pool: a}]
`)
	trusted := x509.NewCertPool()
	for _, c := range f.certs[:2] {
		trusted.AddCert(c)
	}
	for i, x := range []struct{ name, proto, forwarded string }{
		{"shop.test", "HTTP/2.0", "https"}, {"files.test", "HTTP/2.0", "https"}, {"plain.test", "HTTP/1.1", "http"},
	} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: x.name}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		f.client.Transport = transport
		resp, body := f.do(t, "GET", f.url(i)+"/")
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, x.proto, resp.Proto)
		assert.Contains(t, body, "X-Forwarded-Proto: "+x.forwarded+"\r\n")
	}
	f.client.Transport = &http.Transport{} // trusts nobody whom it does not know
	_, err = f.client.Get(f.url(0))
	require.ErrorContains(t, err, "certificate")
	require.True(t, strings.HasPrefix(f.url(0), "https://"))
}

// A request in flight is answered, although the gateway has been told to stop.
func TestShutdown(t *testing.T) {
	here, release := make(chan struct{}), make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			close(here)
			<-release
		}
		fmt.Fprint(w, "done")
	})
	f := startGateway(t, "shutdown: {delay: 50ms, timeout: 1m}\n"+pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
	resp, body := f.do(t, "GET", f.adminURL("/healthz"))
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "ok\n", body)
	answered := make(chan string)
	go func() {
		_, body := f.get(t, "/")
		answered <- body
	}()
	<-here
	stopped := make(chan error)
	go func() { stopped <- f.stop(t.Context()) }()
	// The admin's listener stays until all are answered, and tells balancers to look elsewhere.
	eventually(t, func() bool {
		resp, _ := f.do(t, "GET", f.adminURL("/healthz"))
		return resp.StatusCode == 503
	}, "healthz")
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, func() bool {
		_, err := fresh.Get(f.url(0) + "/new")
		return err != nil
	}, "new connections are refused")
	select {
	case err := <-stopped:
		t.Fatal("stopped with a request in flight:", err)
	default:
	}
	close(release)
	assert.Equal(t, "done", <-answered)
	require.NoError(t, <-stopped)
	_, err := fresh.Get(f.adminURL("/healthz"))
	require.Error(t, err)
}

// Who never ends is cut off when the time is over.
func TestShutdownTimeout(t *testing.T) {
	here := make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		close(here)
		<-r.Context().Done()
	})
	f := startGateway(t, "shutdown: {timeout: 20ms}\n"+pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a, retries: {tries: 1}}]\n")
	cut := make(chan error)
	go func() {
		_, err := f.client.Get(f.url(0))
		cut <- err
	}()
	<-here
	require.ErrorContains(t, f.stop(t.Context()), "requests were still in flight")
	require.Error(t, <-cut)
}

// A WebSocket is a request in flight, too, though http.Server knows nothing of it any more.
func TestShutdownWebSocket(t *testing.T) {
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "echo")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, rw)
	})
	open := func(timeout string) (f *fixture, conn net.Conn, r *bufio.Reader) {
		f = startGateway(t, "shutdown: {timeout: "+timeout+"}\n"+pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n")
		conn = f.dial(t)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		r = bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		return f, conn, r
	}

	// One that ends in time is waited for.
	f, conn, r := open("1m")
	stopped := make(chan error)
	go func() { stopped <- f.stop(t.Context()) }()
	eventually(t, func() bool {
		c, err := net.Dial("tcp", f.addrs[0].String())
		if err == nil {
			c.Close()
		}
		return err != nil
	}, "new connections are refused")
	fmt.Fprint(conn, "hello")
	hello := make([]byte, 5)
	_, err := io.ReadFull(r, hello)
	require.NoError(t, err)
	select {
	case err := <-stopped:
		t.Fatal("stopped with a WebSocket open:", err)
	default:
	}
	conn.Close()
	require.NoError(t, <-stopped)
	assert.Contains(t, f.log.String(), `"status":101`)

	// Another is cut off.
	f, _, r = open("20ms")
	require.ErrorContains(t, f.stop(t.Context()), "requests were still in flight")
	_, err = r.ReadByte()
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is open still")
	assert.Contains(t, f.log.String(), `"status":101`)
}

// What is known of endpoints that stay is kept, and a config that is wrong, or has something else
// changed, changes nothing.
func TestReload(t *testing.T) {
	here, release := make(chan struct{}), make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(here)
			<-release
		}
		fmt.Fprint(w, "a")
	})
	b := echo(t, "b")
	yaml := func(endpoints string) string {
		return "listeners: [{address: \"127.0.0.1:0\"}]\npools: {p: {policy: round_robin, endpoints: [" + endpoints + "]}}\nroutes: [{name: r, prefix: /, pool: p}, {name: s, prefix: /s, pool: p, policy: random}]\n"
	}
	first := fmt.Sprintf("{id: a, url: %q}", a.URL)
	f := startGateway(t, yaml(first))
	reload := func(text string) error {
		return f.reload(func() (*config, error) {
			return parseConfig("test.yaml", []byte("admin: {address: \"127.0.0.1:0\"}\n"+text))
		})
	}
	answered := make(chan string)
	go func() {
		_, body := f.get(t, "/wait")
		answered <- body
	}()
	<-here
	require.NoError(t, reload(yaml(first+fmt.Sprintf(", {id: b, url: %q, weight: 2}", b.URL))))
	for _, p := range f.status().Pools {
		require.Len(t, p.Endpoints, 2)
		assert.EqualValues(t, 2, p.Endpoints[1].Weight)
	}
	assert.EqualValues(t, 1, f.status().Pools[0].Endpoints[0].InFlight)

	require.ErrorContains(t, reload(yaml("{url: nowhere}")), `test.yaml:3: pool "p": endpoints[0].url must be`)
	require.ErrorContains(t, reload(strings.Replace(yaml(first), "random", "ip_hash", 1)), "only endpoints can change without a restart")
	assert.Len(t, f.status().Pools[0].Endpoints, 2)

	// An endpoint can move.
	require.NoError(t, reload(yaml(fmt.Sprintf("{id: a, url: %q}", b.URL))))
	moved, _ := f.get(t, "/")
	assert.Equal(t, "b", moved.Header.Get("X-Backend"))

	// Also a request at an endpoint that goes is answered.
	require.NoError(t, reload(yaml(fmt.Sprintf("{id: b, url: %q}", b.URL))))
	resp, _ := f.get(t, "/")
	assert.Equal(t, "b", resp.Header.Get("X-Backend"))
	close(release)
	assert.Equal(t, "a", <-answered)
}

// The program itself serves until SIGTERM, answers what is in flight, and exits with 0.
func TestCommand(t *testing.T) {
	here, release := make(chan struct{}), make(chan struct{})
	a := serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			close(here)
			<-release
		}
		fmt.Fprint(w, "done")
	})
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`
listeners: [{address: "256.0.0.1:0"}] # -listen is there instead
admin: {address: "127.0.0.1:0"}
`+pools(map[string]*httptest.Server{"a": a})+"routes: [{name: r, prefix: /, pool: a}]\n"), 0o600))
	p := clitest.Start(t, "-config", file, "-listen", "127.0.0.1:0")
	url := p.Until(t, &p.Stderr, `^Serving (http://.*)$`)[1]
	p.Until(t, &p.Stderr, `^Status page `)
	assert.Regexp(t, `(?m)^Serving .*\nStatus page http://127\.0\.0\.1:\d+/$`, p.Stderr.String())

	// SIGHUP has it read the endpoints anew.
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), "id: a,", "id: b,", 1)), 0o600))
	p.Signal(t, syscall.SIGHUP)
	p.Until(t, &p.Stderr, regexp.QuoteMeta("msg=reloaded pool=a added=[b] removed=[a] changed=[]"))
	require.NoError(t, os.WriteFile(file, []byte("routes: []"), 0o600))
	p.Signal(t, syscall.SIGHUP)
	p.Until(t, &p.Stderr, `msg="not reloaded"`)

	f := &fixture{client: cleanClient(t)}
	answered := make(chan string)
	go func() {
		_, body := f.do(t, "GET", url)
		answered <- body
	}()
	<-here
	p.Signal(t, syscall.SIGTERM)
	eventually(t, func() bool {
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
		resp, err := c.Head(url + "/x")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil && strings.Contains(err.Error(), "refused")
	}, "it does not listen any more")
	close(release)
	assert.Equal(t, "done", <-answered)
	require.Zero(t, p.Wait(t), p.Output())
	assert.Contains(t, p.Stdout.String(), `"route":"r","endpoint":"b"`)
}
