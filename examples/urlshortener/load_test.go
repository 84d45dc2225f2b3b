package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLoad measures a service in this process, for a moment: no request fails, and each click is counted.
func TestLoad(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := command(t, nil, "-load=500ms", "-load-links=50", "-load-workers=8")
	require.Zero(t, code, stderr)
	require.Regexp(t, `Redirects \d+/s, p50 \S+s, p99 \S+s; with 100 million new links a month, there are 3850/s`, stdout)
	require.Regexp(t, `Links     \d+/s; 100 million a month are 40/s`, stdout)
	require.Contains(t, stdout, "Errors    0\n")
	require.Contains(t, stdout, "by a handler that only redirects")
	var answered, counted int
	_, err := fmt.Sscanf(stdout[strings.Index(stdout, "\nClicks")+1:], "Clicks %d redirects answered, %d counted", &answered, &counted)
	require.NoError(t, err, stdout)
	require.Positive(t, answered)
	require.Equal(t, answered, counted)
}

// TestLoadTarget drives another process, with a key, and one that does not do what it should.
func TestLoadTarget(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "-dir="+t.TempDir(), "-api-key=ann=0123456789abcdef")
	code, stdout, stderr := command(t, nil, "-load=300ms", "-load-links=20", "-load-workers=4", "-load-target="+p.base.String(), "-load-key=0123456789abcdef")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "Errors    0\n")
	require.NotContains(t, stdout, "only redirects")
	code, _, stderr = command(t, nil, "-load=300ms", "-load-target="+p.base.String())
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "links cannot be made: a link was not made: 401 Unauthorized")

	var n atomic.Int64
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 4 {
		case 0:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case 1:
			w.Header().Set("Location", "http://example.com/other")
			w.WriteHeader(http.StatusFound)
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("Location", "http://example.com/")
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer bad.Close()
	base, err := url.Parse(bad.URL)
	require.NoError(t, err)
	g, err := newGenerator(base, "", 2)
	require.NoError(t, err)
	g.readOnly = true
	g.follow([]loadLink{{"bare", "http://example.com/"}})
	load := g.start(t.Context())
	g.answers(t, 10)
	r := load.end()
	require.GreaterOrEqual(t, r.errors, int64(20))
	require.Equal(t, r.reads, sum(g.answered))
	require.Equal(t, r.errors, sum(g.unanswered))
	require.Error(t, r.first)
}

// TestHistogram compares quantiles with those of sorted durations.
func TestHistogram(t *testing.T) {
	var h, part histogram
	require.Zero(t, h.quantile(.5))
	rng := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		part.record(d)
	}
	h.add(&part)
	h.record(0)
	h.record(time.Duration(1<<63 - 1))
	slices.Sort(all)
	for _, q := range []float64{.1, .5, .9, .99, .999} {
		require.InEpsilon(t, float64(all[int(q*10_000)]), float64(h.quantile(q)), .06, "%v", q)
	}
	require.Greater(t, h.quantile(1), 100*365*24*time.Hour)
}
