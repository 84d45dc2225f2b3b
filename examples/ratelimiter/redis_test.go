//go:build servers

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/redisserver"
	"github.com/sysblocks/sysblocks/ratelimit"
)

// Two services in processes of their own, with one Redis, admit what one would; and go on when it is
// gone.
func TestSharedLimit(t *testing.T) {
	server := redisserver.Start(t)
	addr := server.Addr
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
	server.Kill()
	start = time.Now()
	code, out, stderr = command(t, "-load", a.url+","+b.url, "-for=2s", "-users=dave=100")
	require.Zero(t, code, stderr)
	t.Log("\n" + out)
	admitted, refused = sums(t, out)
	within(t, l, start, admitted[0], refused[0])
}
