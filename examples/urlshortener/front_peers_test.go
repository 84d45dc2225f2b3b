//go:build servers

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
)

// metric returns the sum of a metric, with whatever labels, of some processes.
func metric(t *testing.T, name string, processes ...*process) (sum float64) {
	t.Helper()
	found := false
	for _, p := range processes {
		_, body := get(t, p, "/metrics")
		for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:{[^}]*})? (\S+)$`).FindAllStringSubmatch(body, -1) {
			v, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err)
			sum, found = sum+v, true
		}
	}
	require.True(t, found || strings.HasPrefix(name, "front_"), name) // what was not counted yet, is not there
	return sum
}

// TestFrontOfPeers has three processes behind a front: links are loaded by one of them each; and nobody who follows a
// link sees that one is killed, and nobody at all that they are started anew, one after the other, or that the broker is.
func TestFrontOfPeers(t *testing.T) {
	t.Parallel()
	server, broker := pgserver.Start(t), startNATS(t)
	urls := newDatabases(t, server, "a", "b")
	front := startCommand(t, "-front", "-addr=127.0.0.1:0", "-nats="+broker.url, "-dsn="+urls[0])
	resp, body := get(t, front, "/abcdefg")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, "no process of the service is there; please try again\n", body)
	resp, _ = get(t, front, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)

	processes, dirs := make([]*process, 3), []string{t.TempDir(), t.TempDir(), t.TempDir()}
	start := func(i int, addr string, more ...string) {
		t.Helper()
		processes[i] = startProcess(t, append(more, "-dir="+dirs[i], "-dsn="+urls[0], "-dsn="+urls[1], "-nats="+broker.url, "-addr="+addr,
			"-peers", "-trusted-proxies=127.0.0.1")...)
	}
	ready := func(i int) {
		t.Helper()
		within(t, 30*time.Second, func() bool {
			resp, _ := get(t, processes[i], "/readyz")
			return resp.StatusCode == http.StatusOK
		}, "%s", processes[i].logged())
	}
	alive := func(n int) {
		t.Helper()
		within(t, 20*time.Second, func() bool { return metric(t, "front_processes", front) == float64(n) }, "%s", front.logged())
	}
	for i := range processes {
		start(i, "127.0.0.1:0")
	}
	for i := range processes {
		ready(i)
	}
	alive(3)
	resp, _ = get(t, front, "/readyz")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	within(t, 20*time.Second, func() bool { // until the filters of all are trusted
		before := metric(t, "filter_refused_total", processes...)
		for i, p := range processes {
			get(t, p, fmt.Sprint("/absent-", i, "-", time.Now().UnixNano()))
		}
		return metric(t, "filter_refused_total", processes...) >= before+3
	})

	// What is made through the front is there in all processes, and leads back to the front.
	var made []linkView
	for i := range 60 {
		resp, body := post(t, front, fmt.Sprint("https://example.com/", i))
		require.Equal(t, http.StatusCreated, resp.StatusCode, body)
		var v linkView
		require.NoError(t, json.Unmarshal([]byte(body), &v))
		require.Equal(t, front.base.String()+"/"+v.Code, v.ShortURL)
		made = append(made, v)
	}
	hits := metric(t, "cache_hits_total", processes...)
	loads, passed := metric(t, "cache_loads_total", processes...), metric(t, "filter_passed_total", processes...)
	for range 5 {
		for _, v := range made {
			resp, _ := get(t, front, "/"+v.Code)
			require.Equal(t, http.StatusFound, resp.StatusCode)
			require.Equal(t, v.URL, resp.Header.Get("Location"))
		}
	}
	// Each link is loaded from the database once, and is in the cache of one process only.
	require.InDelta(t, len(made), metric(t, "filter_passed_total", processes...)-passed, 3)
	require.InDelta(t, len(made), metric(t, "cache_loads_total", processes...)-loads, 3)
	require.InDelta(t, 4*len(made), metric(t, "cache_hits_total", processes...)-hits, 3)
	for _, p := range processes {
		require.Positive(t, metric(t, "cache_hits_total", p))
		for _, v := range made[:10] {
			resp, _ := get(t, p, "/"+v.Code)
			require.Equal(t, http.StatusFound, resp.StatusCode)
		}
	}
	resp, _ = get(t, front, ownerPath+made[0].Code)
	require.Equal(t, http.StatusNotFound, resp.StatusCode)

	// One dies under load.
	g := newTestGenerator(t, front, 50)
	g.readOnly = true
	load := g.start(t.Context())
	g.answers(t, 1000)
	processes[1].signal(t, syscall.SIGKILL)
	g.answers(t, 1000)
	alive(2)
	g.answers(t, 1000)
	start(1, processes[1].base.Host)
	ready(1)
	alive(3)
	g.answers(t, 1000)
	r := load.end()
	require.Zero(t, r.errors, "%v\n%s", r.first, front.logged())
	t.Logf("killed: %d redirects, %v retries, %v ejections", r.reads, metric(t, "front_retries_total", front), metric(t, "front_ejections_total", front))

	// All are started anew, one after the other, while links are made as well.
	g.readOnly = false
	load = g.start(t.Context())
	g.answers(t, 1000)
	before := metric(t, "front_retries_total", front)
	for range 2 {
		for i, p := range processes {
			p.signal(t, syscall.SIGTERM)
			require.Zero(t, p.Wait(t), p.logged())
			start(i, p.base.Host)
			ready(i)
			alive(3)
			g.answers(t, 500)
		}
	}
	r = load.end()
	require.Zero(t, r.errors, "%v\n%s", r.first, front.logged())
	require.Positive(t, r.writes)
	t.Logf("restarted: %d redirects, %d links made, %v retries", r.reads, r.writes, metric(t, "front_retries_total", front)-before)
	c := &loadConn{generator: g}
	defer c.close()
	for _, l := range g.made {
		_, err := c.follow(t.Context(), l)
		require.NoError(t, err, l)
	}

	// One that is to end is left alone before it takes no more.
	processes[2].signal(t, syscall.SIGTERM)
	start(2, processes[2].base.Host, "-drain-delay=1h")
	ready(2)
	alive(3)
	processes[2].Signal(t, syscall.SIGTERM)
	alive(2)
	resp, _ = get(t, processes[2], "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	resp, _ = get(t, processes[2], "/"+made[0].Code)
	require.Equal(t, http.StatusFound, resp.StatusCode)
	processes[2].signal(t, syscall.SIGTERM) // who asks twice does not want to wait
	start(2, processes[2].base.Host)
	ready(2)
	alive(3)

	// The broker goes for longer than a process is given: links are followed, as the front knows where.
	g.readOnly = true
	load = g.start(t.Context())
	broker.kill()
	for began := time.Now(); time.Since(began) < leaseTime+2*contactGap; {
		g.answers(t, 10)
	}
	require.True(t, broker.run(t))
	within(t, 20*time.Second, func() bool { // everybody is connected again
		resp, _ := post(t, front, "https://example.com/back")
		return resp.StatusCode == http.StatusCreated
	})
	alive(3)
	r = load.end()
	require.Zero(t, r.errors, "%v\n%s", r.first, front.logged())

	front.signal(t, syscall.SIGTERM)
	require.Zero(t, front.Wait(t), front.logged())
}
