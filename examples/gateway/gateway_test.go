package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// A fixture is a gateway that listens at a free port.
type fixture struct {
	*server
	log, errs *clitest.Output
	client    *http.Client
}

// startGateway starts a gateway by a config, in which listeners and admin are added, and ends it
// with the test.
func startGateway(t *testing.T, yaml string) *fixture {
	t.Helper()
	if !strings.Contains(yaml, "listeners:") {
		yaml = "listeners: [{address: \"127.0.0.1:0\"}]\n" + yaml
	}
	c, err := parseConfig("test.yaml", []byte("admin: {address: \"127.0.0.1:0\"}\n"+yaml))
	require.NoError(t, err)
	f := &fixture{log: &clitest.Output{}, errs: &clitest.Output{}}
	f.server, err = startServer(c, options{stdout: f.log, stderr: f.errs})
	require.NoError(t, err)
	f.client = cleanClient(t)
	t.Cleanup(func() {
		if !f.draining.Load() {
			require.NoError(t, f.stop(context.Background()))
		}
	})
	return f
}

// cleanClient returns a client that leaves no connections behind.
func cleanClient(t *testing.T) *http.Client {
	c := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// get sends a request to the first listener; header is "Name: value" each.
func (f *fixture) get(t *testing.T, path string, header ...string) (*http.Response, string) {
	t.Helper()
	return f.do(t, http.MethodGet, f.url(0)+path, header...)
}

func (f *fixture) do(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// raw sends to the first listener what no http.Client would, and returns the answer. It ends nothing: a
// request that is not whole is still to come.
func (f *fixture) raw(t *testing.T, request string) (status int, body string) {
	t.Helper()
	conn := f.dial(t)
	_, err := io.WriteString(conn, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// dial returns a connection to the first listener.
func (f *fixture) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.addrs[0].String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return conn
}

// adminURL is where the admin listener is, with the path.
func (f *fixture) adminURL(path string) string { return "http://" + f.adminAddr.String() + path }

// echo is a backend that answers its name and what it was asked.
func echo(t *testing.T, name string) *httptest.Server {
	return serveBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", name)
		w.Header().Set("X-Request-Id", "the backend's own")
		fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
		fmt.Fprintf(w, "Host: %s\n", r.Host)
		_ = r.Header.Write(w)
	})
}

func serveBackend(t *testing.T, f http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

// pools is the YAML of pools with one endpoint each.
func pools(servers map[string]*httptest.Server) string {
	s := "pools:\n"
	for name, x := range servers {
		s += fmt.Sprintf("  %s: {endpoints: [{id: %s, url: %q}]}\n", name, name, x.URL)
	}
	return s
}

// eventually polls what must be true at some time soon.
func eventually(t *testing.T, is func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, is, 20*time.Second, 10*time.Millisecond, fmt.Sprintf(what, args...))
}
