package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The children are the same program as the test.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(serve(role, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func command(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestBadInput(t *testing.T) {
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"flag provided but not defined: -x", []string{"-x"}},
		{`takes flags only, got "nginx"`, []string{"nginx"}},
		{"-rounds: must be from 1 to 1000, got 0", []string{"-rounds", "0"}},
		{"-rounds: must be from 1 to 1000, got 1001", []string{"-rounds", "1001"}},
		{"-duration: must be from 1s to 1h, in whole seconds, got 500ms", []string{"-duration", "500ms"}},
		{"-duration: must be from 1s to 1h, in whole seconds, got 1.5s", []string{"-duration", "1500ms"}},
		{"-connections: must be from 2 to 1000, got 1", []string{"-connections", "1"}},
		{"-body: must be from 0 to 1073741824, got -1", []string{"-body", "-1"}},
		{`-only: no contestant "apache"; there are direct, bare, sysblocks, nginx,`, []string{"-only", "tcp-direct, apache"}},
	} {
		code, stdout, stderr := command(tc.args...)
		assert.Equal(t, 2, code, tc.args)
		assert.Empty(t, stdout, tc.args)
		assert.True(t, strings.HasPrefix(stderr, "proxybench: "), stderr)
		assert.Contains(t, stderr, tc.want)
		assert.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := command("-h")
	assert.Equal(t, 0, code)
	assert.Empty(t, stderr)
	assert.Contains(t, stdout, "usage: proxybench [flags]\n")
	assert.Contains(t, stdout, "-connections")
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	defer func(old string) { sbin = old }(sbin)
	sbin = t.TempDir()
	code, _, stderr := command("-only", "tcp-direct,tcp-haproxy")
	assert.Equal(t, 2, code)
	assert.Equal(t, "proxybench: tcp-haproxy needs haproxy, which is not installed (Debian: apt-get install haproxy); see -only\n", stderr)
	_, _, stderr = command("-only", "bare")
	assert.Contains(t, stderr, "bare needs wrk, which is not installed")
}

// Our proxies, and the one of the library, hand on what the backends say: each of them in turn.
func TestProxies(t *testing.T) {
	ctx := t.Context()
	p, behind, err := child(ctx, "http-backends", bodyVariable+"=5")
	require.NoError(t, err)
	t.Cleanup(p.stop)
	require.Len(t, behind, backends)
	for _, c := range contestants {
		if c.tcp || c.program != "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			stop, addr, err := options{}.start(ctx, c, behind)
			require.NoError(t, err)
			defer stop()
			for range backends {
				resp, err := http.Get("http://" + addr + "/")
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				assert.Equal(t, "xxxxx", string(body))
				assert.Equal(t, 200, resp.StatusCode)
			}
		})
	}
}

func TestTCP(t *testing.T) {
	code, stdout, stderr := command("-only", "tcp-direct,tcp-sysblocks", "-rounds", "1", "-duration", "1s", "-connections", "4")
	assert.Empty(t, stderr)
	assert.Equal(t, 0, code)
	assert.Regexp(t, `\| tcp-direct \| [1-9][0-9]* \| [0-9.]+ \| 0 \|\n\| tcp-sysblocks \| [1-9][0-9]* \|  \| 0 \|\n$`, stdout)
}

func TestStartErrors(t *testing.T) {
	ctx := t.Context()
	_, _, err := child(ctx, "nobody")
	assert.EqualError(t, err, "nobody: it does not say where it listens: nobody: there is no such role")
	_, _, err = child(ctx, "http-backends", bodyVariable+"=x")
	assert.ErrorContains(t, err, `strconv.Atoi: parsing "x"`)
	_, _, err = child(ctx, "bare", backendsVariable+"=%")
	assert.ErrorContains(t, err, "invalid URL escape")

	// A program that ends at once, which is what a configuration with a mistake does.
	self, err := os.Executable()
	require.NoError(t, err)
	o := options{programs: map[string]string{"ends": self}}
	c := contestant{
		name: "short", program: "ends",
		args:   func(string, string) []string { return []string{"-test.run=^$", "-test.nosuchflag"} },
		config: func(options, string, string, []string) string { return "" },
	}
	_, _, err = o.start(ctx, c, []string{""})
	assert.ErrorContains(t, err, "short: it has ended (exit status 2): flag provided but not defined: -test.nosuchflag")
	o.programs["ends"] = "/nonexistent"
	_, _, err = o.start(ctx, c, []string{""})
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// An interrupt ends it, and all its children.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	var out, errs bytes.Buffer
	assert.Equal(t, 1, run(ctx, []string{"-only", "tcp-sysblocks", "-duration", "1h"}, &out, &errs))
	assert.Contains(t, errs.String(), "proxybench: ")
	assert.Empty(t, out.String())
}

const wrkOutput = `Running 1s test @ http://127.0.0.1:1/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.32ms    2.04ms  24.53ms   88.46%
    Req/Sec    31.34k     1.93k   35.24k    55.00%
  Latency Distribution
     50%  487.00us
     75%    1.43ms
     90%    4.01ms
     99%    9.41ms
  62412 requests in 1.00s, 71.47MB read
`

func TestParseWrk(t *testing.T) {
	r, err := parseWrk(wrkOutput + "Requests/sec:  62355.60\nTransfer/sec:     71.41MB\n")
	require.NoError(t, err)
	assert.Equal(t, result{rate: 62355.6, p99: 9410 * time.Microsecond}, r)

	r, err = parseWrk(wrkOutput + "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 100\nRequests/sec:  1.5\n")
	require.NoError(t, err)
	assert.Equal(t, 110, r.errors)

	_, err = parseWrk("unable to connect to 127.0.0.1:1 Connection refused\n")
	assert.ErrorContains(t, err, "Connection refused")
}

func TestReport(t *testing.T) {
	o := options{rounds: 3, duration: time.Second, connections: 64, body: 10}
	var err error
	o.contestants, err = choose(contestants, "bare,sysblocks,tcp-sysblocks")
	require.NoError(t, err)
	r := report{o, map[string][]result{
		"bare":          {{100, time.Millisecond, 0}, {200, 3 * time.Millisecond, 1}, {400, 2 * time.Millisecond, 0}},
		"sysblocks":     {{200, time.Second, 0}, {200, time.Second, 0}, {100, time.Second, 0}},
		"tcp-sysblocks": {{2e6, 0, 0}, {4e6, 0, 0}, {3e6, 0, 0}},
	}}
	var out bytes.Buffer
	require.NoError(t, r.write(&out))
	assert.Equal(t, `HTTP, 64 connections, answers of 10 bytes, 3 rounds of 1s: medians.

| | requests/s | ours to it | p99 | errors |
|---|---:|---:|---:|---:|
| bare | 200 | 1.00 | 2ms | 1 |
| sysblocks | 200 |  | 1s | 0 |

TCP, 64 connections that read, 3 rounds of 1s: medians.

| | MB/s | ours to it | errors |
|---|---:|---:|---:|
| tcp-sysblocks | 3 |  | 0 |
`, out.String())

	even := []result{{rate: 1}, {rate: 2}}
	assert.Equal(t, 1.5, median(even, func(r result) float64 { return r.rate }))
	r.contestants = slices.DeleteFunc(r.contestants, func(c contestant) bool { return c.name == "sysblocks" })
	delete(r.results, "sysblocks")
	out.Reset()
	require.NoError(t, r.write(&out))
	assert.Contains(t, out.String(), "| bare | 200 |  | 2ms | 1 |", "nothing to compare with")
	assert.ErrorIs(t, r.write(fullDisk{}), errFull)
}

var errFull = errors.New("disk full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
