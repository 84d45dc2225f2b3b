//go:build servers

package main

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// startRedis starts a redis-server on a free port.
func startRedis(t *testing.T) (addr string, kill func()) {
	t.Helper()
	// The port may be taken between our asking for it and the server's; then another will do.
	for range 10 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr = l.Addr().String()
		require.NoError(t, l.Close())
		host, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		cmd := exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		kill = func() { _ = cmd.Process.Kill(); <-ended }
		client := redis.NewClient(&redis.Options{Addr: addr})
		for up := false; !up; {
			select {
			case <-ended:
				up = true // no
			case <-time.After(10 * time.Millisecond):
				if client.Ping(t.Context()).Err() == nil {
					client.Close()
					t.Cleanup(kill)
					return addr, kill
				}
			}
		}
		client.Close()
	}
	t.Fatal("redis-server does not start")
	return "", nil
}

// Two services in processes of their own, with one Redis, admit what one would; and go on when it is
// gone.
func TestSharedLimit(t *testing.T) {
	addr, kill := startRedis(t)
	l := ratelimit.Limit{Count: 40, Per: time.Minute}
	flags := []string{"-redis", addr, "-replicas=2", "-limit=40"}
	a, b := startService(t, flags...), startService(t, flags...)
	start := time.Now()
	code, out, stderr := command(t, "-load", a.url+","+b.url, "-for=2s", "-users=bob=100,alice=5")
	require.Zero(t, code, stderr)
	t.Log("\n" + out)
	admitted, refused := sums(t, out)
	for i := range admitted {
		within(t, l, start, admitted[i], refused[i])
	}

	// One process with two services does the same.
	start = time.Now()
	code, out, stderr = command(t, "-redis", addr, "-replicas=2", "-limit=40", "-for=1s", "-users=carol=100")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "Services  2, sharing the limit in Redis at "+addr+"\n")
	admitted, refused = sums(t, out)
	within(t, l, start, admitted[0], refused[0])

	// Without Redis each has its half, and nobody waits for long.
	kill()
	start = time.Now()
	code, out, stderr = command(t, "-load", a.url+","+b.url, "-for=2s", "-users=dave=100")
	require.Zero(t, code, stderr)
	t.Log("\n" + out)
	admitted, refused = sums(t, out)
	within(t, l, start, admitted[0], refused[0])
}
