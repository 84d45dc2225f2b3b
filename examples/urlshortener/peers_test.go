//go:build servers

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
	t.Parallel()
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

// inBackground calls f with the numbers below n, at once, and returns where its answers come.
func inBackground(n int, f func(i int) string) <-chan string {
	answers := make(chan string, n)
	for i := range n {
		go func() { answers <- f(i) }()
	}
	return answers
}

// TestPeersStopped has three processes, of which one is stopped for longer than it is waited for, or cut off from the
// broker. Whoever asks it as soon as it goes on, or while it is cut off, is told of the links that were made meanwhile;
// and it makes none that the others do not know.
func TestPeersStopped(t *testing.T) {
	t.Parallel()
	server, broker := pgserver.Start(t), startNATS(t)
	urls := newDatabases(t, server, "a", "b")
	gates := []*gate{newGate(t, "127.0.0.1:"+broker.port), newGate(t, "127.0.0.1:"+broker.port), newGate(t, "127.0.0.1:"+broker.port)}
	processes := make([]*process, len(gates))
	var wg sync.WaitGroup
	for i := range processes { // each listens for a while before it serves
		dir := t.TempDir()
		wg.Go(func() {
			processes[i] = startProcess(t, "-dir="+dir, "-dsn="+urls[0], "-dsn="+urls[1], "-nats=nats://"+gates[i].addr,
				"-peers")
		})
	}
	wg.Wait()
	n := 0
	// fresh returns a name that was looked for in vain by all, so that they remember it.
	fresh := func() string {
		t.Helper()
		n++
		name := fmt.Sprint("link-", n)
		for _, p := range processes {
			resp, _ := get(t, p, "/"+name)
			require.Equal(t, http.StatusNotFound, resp.StatusCode)
		}
		return name
	}
	create := func(p *process, name string) { // when it can
		t.Helper()
		within(t, 20*time.Second, func() bool {
			status := alias(t, p, name)
			// A try that was answered with 503 may have made it: that it is taken is not an acknowledgement.
			if status == http.StatusConflict {
				resp, _ := get(t, p, "/"+name)
				require.Equal(t, http.StatusFound, resp.StatusCode)
				return true
			}
			return status == http.StatusCreated
		})
	}
	everywhere := func(name string) {
		t.Helper()
		for i, p := range processes {
			resp, body := get(t, p, "/"+name)
			require.Equal(t, http.StatusFound, resp.StatusCode, "%s of %d: %s %s", name, i, body, p.logged())
		}
	}
	a, b := processes[0], processes[1]
	// trusted waits until b trusts its filter: it keeps look-ups from the database then.
	trusted := func() {
		t.Helper()
		refused := func() string {
			_, body := get(t, b, "/metrics")
			_, after, ok := strings.Cut(body, "\nfilter_refused_total ")
			require.True(t, ok)
			line, _, _ := strings.Cut(after, "\n")
			return line
		}
		before := refused()
		within(t, 30*time.Second, func() bool {
			n++
			get(t, b, fmt.Sprint("/absent-", n))
			return refused() != before
		})
	}

	// Stopped while others make links. Requests that came meanwhile are answered when it goes on.
	for range 2 {
		trusted()
		names := []string{fresh(), fresh(), fresh(), fresh()}
		b.Signal(t, syscall.SIGSTOP)
		for _, name := range names {
			create(a, name)
		}
		answers := inBackground(len(names), func(i int) string { // each waits in a connection of its own
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			defer client.CloseIdleConnections()
			resp, err := client.Get(b.base.String() + "/" + names[i])
			if err != nil {
				return err.Error()
			}
			defer resp.Body.Close()
			return resp.Status
		})
		b.Signal(t, syscall.SIGCONT)
		for _, name := range names {
			everywhere(name)
		}
		for range names {
			require.Equal(t, "302 Found", <-answers)
		}
	}

	// Stopped itself while it is to make links: when it goes on, it makes none that others do not know.
	for range 2 {
		trusted()
		names := []string{fresh(), fresh(), fresh(), fresh()}
		a.Signal(t, syscall.SIGSTOP)
		answers := inBackground(len(names), func(i int) string {
			body := fmt.Sprintf(`{"url": "https://example.com", "alias": %q}`, names[i])
			resp, err := http.Post(a.base.String()+"/api/links", "application/json", strings.NewReader(body))
			if err != nil {
				return fmt.Sprint(names[i], " ", err)
			}
			resp.Body.Close()
			return fmt.Sprint(names[i], " ", resp.StatusCode)
		})
		within(t, 15*time.Second, func() bool { // until it is waited for no longer
			n++
			return alias(t, b, fmt.Sprint("other-", n)) == http.StatusCreated
		})
		a.Signal(t, syscall.SIGCONT)
		for range names {
			name, status, _ := strings.Cut(<-answers, " ")
			if status == "201" {
				everywhere(name)
			} else {
				require.Equal(t, "503", status)
			}
		}
		create(a, fresh())
	}

	// Cut off from the broker, and from nothing else.
	trusted()
	name, later := fresh(), fresh()
	gates[1].set(false, false, true)
	create(a, name)
	everywhere(name)
	create(a, later) // which b remembers that there is none
	within(t, 15*time.Second, func() bool {
		n++
		resp, err := http.Post(b.base.String()+"/api/links", "application/json",
			strings.NewReader(fmt.Sprintf(`{"url": "https://example.com", "alias": "link-%d"}`, n)))
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		if resp.StatusCode != http.StatusServiceUnavailable {
			return false
		}
		require.Contains(t, string(body), "other processes cannot be told of it at the moment; please try again")
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
		return true
	})
	gates[1].heal()
	trusted()
	everywhere(later)

	// The broker comes back, and knows nothing. Each makes a link as soon as it can.
	for _, p := range processes {
		name := fresh()
		broker.kill()
		broker.dir = t.TempDir()
		require.True(t, broker.run(t))
		create(p, name)
		everywhere(name)
	}
}
