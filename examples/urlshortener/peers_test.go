//go:build servers

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
)

// alias makes a link, and returns the status.
func alias(t *testing.T, p *process, name string) int {
	t.Helper()
	resp, err := http.Post(p.base.String()+"/api/links", "application/json",
		strings.NewReader(fmt.Sprintf(`{"url": "https://example.com/%s", "alias": %q}`, name, name)))
	require.NoError(t, err)
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestPeers has three processes over the same databases: a link that one has acknowledged leads somewhere in all of
// them at once, though they had remembered that there is none; also when one has died, and when the broker was away.
func TestPeers(t *testing.T) {
	server, broker := pgserver.Start(t), startNATS(t)
	urls := newDatabases(t, server, "a", "b")
	start := func() *process {
		return startProcess(t, "-dir="+t.TempDir(), "-dsn="+urls[0], "-dsn="+urls[1], "-nats="+broker.url,
			"-peers")
	}
	processes := []*process{start(), start(), start()}
	n := 0
	// everywhere makes a link in each process in turn, which the others have just looked for in vain.
	everywhere := func(times int) {
		t.Helper()
		for range times {
			for i, p := range processes {
				n++
				name := fmt.Sprint("link-", n)
				for _, q := range processes {
					resp, _ := get(t, q, "/"+name)
					require.Equal(t, http.StatusNotFound, resp.StatusCode)
				}
				require.Equal(t, http.StatusCreated, alias(t, p, name), "%s", p.logged())
				for j := range processes {
					q := processes[(i+1+j)%len(processes)]
					resp, body := get(t, q, "/"+name)
					require.Equal(t, http.StatusFound, resp.StatusCode, "%s made by %d: %s", name, i, body)
				}
			}
		}
	}
	everywhere(5) // their filters are not all trusted yet
	avoided := func() uint64 {
		_, body := get(t, processes[0], "/api/status")
		var st status
		require.NoError(t, json.Unmarshal([]byte(body), &st))
		return st.Avoided
	}
	before := avoided()
	within(t, 20*time.Second, func() bool {
		n++
		get(t, processes[0], fmt.Sprint("/absent-", n))
		return avoided() > before // the filter is trusted
	})
	everywhere(10)

	// Each link is loaded from the database by the process that owns it, for all of them.
	passed := func() (n float64) {
		for _, p := range processes {
			_, body := get(t, p, "/metrics")
			_, after, ok := strings.Cut(body, "\nfilter_passed_total ")
			require.True(t, ok)
			line, _, _ := strings.Cut(after, "\n")
			v, err := strconv.ParseFloat(line, 64)
			require.NoError(t, err)
			n += v
		}
		return n
	}
	loaded := passed()
	const more = 30
	for i := range more {
		name := fmt.Sprint("shared-", i)
		require.Equal(t, http.StatusCreated, alias(t, processes[i%3], name))
		for _, p := range processes {
			resp, _ := get(t, p, "/"+name)
			require.Equal(t, http.StatusFound, resp.StatusCode)
		}
	}
	require.InDelta(t, more, passed()-loaded, 3) // not three times as many
	resp, _ := get(t, processes[0], ownerPath+"shared-0")
	require.Equal(t, http.StatusNotFound, resp.StatusCode) // for strangers

	// A link that is deleted in one process leads nowhere in the others.
	req, err := http.NewRequest(http.MethodDelete, processes[0].base.String()+"/api/links/link-1", nil)
	require.NoError(t, err)
	resp, err = http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	for _, p := range processes {
		resp, _ := get(t, p, "/link-1")
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
	}

	// One dies without a word: the others wait until its time is over, and not longer.
	processes[2].signal(t, syscall.SIGKILL)
	processes = processes[:2]
	within(t, 15*time.Second, func() bool {
		n++
		return alias(t, processes[0], fmt.Sprint("link-", n)) == http.StatusCreated
	})
	everywhere(3)

	// Without the broker no link is acknowledged, as nobody can be told; those that there are lead where they did.
	broker.kill()
	within(t, 15*time.Second, func() bool { // until then a connection may look well
		n++
		return alias(t, processes[0], fmt.Sprint("link-", n)) == http.StatusServiceUnavailable
	})
	for _, p := range processes {
		resp, _ := get(t, p, "/link-2")
		require.Equal(t, http.StatusFound, resp.StatusCode)
	}
	require.True(t, broker.run(t))
	for _, p := range processes { // each is there again when it is connected
		within(t, 20*time.Second, func() bool {
			n++
			return alias(t, p, fmt.Sprint("link-", n)) == http.StatusCreated
		})
	}
	everywhere(5)
}
