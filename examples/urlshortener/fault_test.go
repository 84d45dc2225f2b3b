package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// within fails the test if a condition does not come true.
func within(t *testing.T, d time.Duration, condition func() bool, message ...any) {
	t.Helper()
	require.Eventually(t, condition, d, 10*time.Millisecond, message...)
}

// A running is a generator that runs in the background.
type running struct {
	*generator
	stop context.CancelFunc
	done chan loadResult
}

func (g *generator) start(ctx context.Context) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{generator: g, stop: stop, done: make(chan loadResult, 1)}
	go func() { r.done <- g.run(ctx) }()
	return r
}

func (r *running) end() loadResult {
	r.stop()
	return <-r.done
}

func sum(counts []atomic.Int64) (n int64) {
	for i := range counts {
		n += counts[i].Load()
	}
	return n
}

// answers waits until so many more redirects were answered.
func (g *generator) answers(t *testing.T, more int64) {
	t.Helper()
	before := sum(g.answered)
	within(t, 60*time.Second, func() bool { return sum(g.answered) >= before+more }, "redirects are not answered")
}

// aim turns a generator to another process.
func (g *generator) aim(p *process) { g.host, g.port = p.base.Hostname(), p.base.Port() }

func newTestGenerator(t *testing.T, p *process, links int) *generator {
	t.Helper()
	g, err := newGenerator(p.base, "", 16)
	require.NoError(t, err)
	require.NoError(t, g.prepare(t.Context(), links))
	return g
}

// check compares the counts of a service with those of a generator: a click whose redirect was answered counts once,
// and one of which it is not known, once or not at all. And each link that was acknowledged is there.
func (g *generator) check(t *testing.T, p *process) {
	t.Helper()
	st, err := g.settled(t.Context(), sum(g.answered))
	require.NoError(t, err)
	require.Zero(t, st.Dropped)
	counted, answered := int64(0), sum(g.answered)
	for i, l := range g.links {
		resp, err := http.Get(p.base.String() + "/api/links/" + l.code)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		var v linkView
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
		require.NoError(t, resp.Body.Close())
		require.Equal(t, l.target, v.URL)
		require.GreaterOrEqual(t, v.Clicks.Total, g.answered[i].Load(), "clicks are missing")
		require.LessOrEqual(t, v.Clicks.Total, g.answered[i].Load()+g.unanswered[i].Load(), "clicks were counted twice")
		counted += v.Clicks.Total
	}
	c := &loadConn{generator: g}
	defer c.close()
	for _, l := range g.made {
		_, err := c.follow(t.Context(), l)
		require.NoError(t, err)
	}
	t.Logf("%d redirects answered, %d not, %d counted; %d links made", answered, sum(g.unanswered), counted, len(g.made))
}

// TestKilled kills the process under load, again and again. What was answered was done.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := startProcess(t, "-dir="+dir)
	g := newTestGenerator(t, p, 50)
	for range 3 {
		load := g.start(t.Context())
		g.answers(t, 2000)
		p.signal(t, syscall.SIGKILL)
		require.Positive(t, load.end().errors)
		p = startProcess(t, "-dir="+dir)
		g.aim(p)
	}
	load := g.start(t.Context())
	g.answers(t, 500)
	require.Zero(t, load.end().errors)
	require.NotEmpty(t, g.made)
	g.check(t, p)
}

// TestTerminated ends the process under load as it is ended every day: it answers what it has read.
func TestTerminated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := startProcess(t, "-dir="+dir)
	g := newTestGenerator(t, p, 50)
	for range 2 {
		load := g.start(t.Context())
		g.answers(t, 2000)
		p.signal(t, syscall.SIGTERM)
		require.Zero(t, p.Wait(t), p.logged())
		load.end()
		p = startProcess(t, "-dir="+dir)
		g.aim(p)
	}
	require.NotEmpty(t, g.made)
	g.check(t, p)
}
