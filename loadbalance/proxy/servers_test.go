//go:build servers

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// startHAProxy returns the address of an haproxy that says from where it is reached. It is given a listener
// that is open already, so nobody else can take the port.
func startHAProxy(t *testing.T, bind string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer file.Close()
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
defaults
	mode http
	timeout connect 10s
	timeout client 60s
	timeout server 60s
frontend f
	bind fd@3 %s
	http-request return status 200 content-type text/plain lf-string "%%[src]:%%[src_port] %%[dst]:%%[dst_port]"
`, bind), 0o600))
	cmd := exec.Command("haproxy", "-db", "-f", config)
	cmd.ExtraFiles = []*os.File{file}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	return l.Addr().String()
}

// haproxy understands what we tell it of clients.
func TestProxyProtocolHAProxy(t *testing.T) {
	backend := startHAProxy(t, "accept-proxy")
	for _, version := range []int{1, 2} {
		pool := tcpPool(t, loadbalance.Config[string]{}, backend)
		_, address := serveTCP(t, pool, TCPConfig{ProxyProtocol: version})
		conn := dial(t, address)
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		got, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(got), fmt.Sprintf("\r\n\r\n%v %v", conn.LocalAddr(), conn.RemoteAddr()))
	}
}

// An haproxy as endpoint, with a check, through a proxy.
func TestReverseProxyHAProxy(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: startHAProxy(t, "")}
	check, err := CheckHTTP(CheckHTTPConfig{Contains: "127.0.0.1:"})
	require.NoError(t, err)
	c := loadbalance.Config[*url.URL]{Endpoints: []loadbalance.Endpoint[*url.URL]{{ID: "a", Value: u, Weight: 1}}}
	c.Health.Check, c.Health.Interval, c.Health.StartDown = check, 5*time.Millisecond, true
	pool := checked(t, c)
	s := newProxy(t, pool, ReverseProxyConfig{})
	eventually(t, func() bool {
		resp, err := s.Client().Get(s.URL)
		require.NoError(t, err)
		slurp(t, resp)
		return resp.StatusCode == http.StatusOK
	}, "haproxy is not well")
}
