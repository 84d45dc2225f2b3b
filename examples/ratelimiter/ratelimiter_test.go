package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
	"github.com/sysblocks/sysblocks/ratelimit"
)

func TestMain(m *testing.M) { clitest.Main(m, main) }

// command runs the command in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// A process is the command with -serve, in a process of its own.
type process struct {
	*clitest.Process
	url string
}

// startService starts a service on a free port, with the flags.
func startService(t *testing.T, flags ...string) process {
	t.Helper()
	p := clitest.Start(t, append([]string{"-serve", "127.0.0.1:0"}, flags...)...)
	return process{p, p.Until(t, &p.Stdout, ` at (http://\S+)$`)[1]}
}

// sums reads the last line of the table that -load prints.
func sums(t *testing.T, out string) (admitted, refused []int) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^ +sum .*$`).FindString(out)
	for _, m := range regexp.MustCompile(`(\d+) / +(\d+)`).FindAllStringSubmatch(line, -1) {
		a, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		r, err := strconv.Atoi(m[2])
		require.NoError(t, err)
		admitted, refused = append(admitted, a), append(refused, r)
	}
	require.NotEmpty(t, admitted, out)
	return admitted, refused
}

// within requires that no more was admitted than the limit allows since start, and that all of what
// was sent was, if it is less than the burst.
func within(t *testing.T, l ratelimit.Limit, start time.Time, admitted, refused int) {
	t.Helper()
	most := int(l.Count) + int(time.Since(start)*time.Duration(l.Count)/l.Per)
	assert.LessOrEqual(t, admitted, most)
	assert.GreaterOrEqual(t, admitted, min(admitted+refused, int(l.Count)))
}

func TestDefault(t *testing.T) {
	start := time.Now()
	code, out, stderr := command(t, "-for=2s")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "Services  1, with a limit of its own\nLimit     100 per 1m0s, burst 100, for each user\n")
	admitted, refused := sums(t, out)
	require.Len(t, admitted, 3)
	for i := range admitted {
		within(t, ratelimit.PerMinute(100), start, admitted[i], refused[i])
	}
	require.NotEmpty(t, regexp.MustCompile(`(?m)^ +1 .*\n +2 `).FindString(out), out)
}

// Two services that know nothing of each other admit twice as much.
func TestReplicas(t *testing.T) {
	a, b := startService(t, "-limit=20"), startService(t, "-limit=20")
	code, out, stderr := command(t, "-load", a.url+","+b.url+"/", "-for=1s", "-users=eve=200")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "Services  "+a.url+", "+b.url+"\n")
	admitted, refused := sums(t, out)
	require.GreaterOrEqual(t, admitted[0], min(admitted[0]+refused[0], 40))
	require.NotContains(t, out, "Limit", "it is theirs")

	// An interrupt ends a service in order.
	require.Zero(t, a.End(t, os.Interrupt), a.Output())
	code, _, stderr = command(t, "-load", a.url, "-for=1s", "-users=eve=5")
	require.Equal(t, 1, code)
	require.Regexp(t, `^ratelimiter: \d+ requests failed\n$`, stderr)
}

// Without Redis, from the beginning.
func TestNoRedis(t *testing.T) {
	start := time.Now()
	code, out, stderr := command(t, "-redis=127.0.0.1:1", "-replicas=2", "-limit=20", "-for=1s", "-users=eve=100")
	require.Zero(t, code, stderr)
	admitted, refused := sums(t, out)
	within(t, ratelimit.PerMinute(20), start, admitted[0], refused[0])
	require.Regexp(t, `(?m)^Redis could not be asked about \d+ of these`, out)
}

func TestService(t *testing.T) {
	s, err := parse([]string{"-limit=2"})
	require.NoError(t, err)
	x, err := newService(s)
	require.NoError(t, err)
	get := func(path, user string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set(userHeader, user)
		w := httptest.NewRecorder()
		x.handler.ServeHTTP(w, r)
		return w
	}
	w := get("/hello", "alice")
	require.Equal(t, "Hello, alice!\n", w.Body.String())
	require.Equal(t, `"default";q=2;w=60`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, `"default";r=1;t=30`, w.Header().Get("RateLimit"))
	require.Equal(t, http.StatusOK, get("/hello", "alice").Code)
	w = get("/hello", "alice")
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "30", w.Header().Get("Retry-After"))
	require.Equal(t, http.StatusOK, get("/hello", "bob").Code)
	require.Equal(t, http.StatusOK, get("/healthz", "alice").Code)
	require.Equal(t, http.StatusNotFound, get("/", "alice").Code)
}

// TestEdge runs by a clock that stands still between the steps.
func TestEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		code, out, stderr := command(t, "-edge")
		require.Zero(t, code, stderr)
		readme, err := os.ReadFile("README.md")
		require.NoError(t, err)
		require.Contains(t, string(readme), "```text\n"+out+"```\n")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, run(ctx, []string{"-edge"}, io.Discard, io.Discard))
}

func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"-nonsense":                  "flag provided but not defined: -nonsense (see -help)",
		"here":                       `unexpected argument "here"`,
		"-limit=0":                   "-limit, -per, -burst: ratelimit: invalid limit: Count must be at least 1, got 0",
		"-per=-1s":                   "-limit, -per, -burst: ratelimit: invalid limit: Per must be more than 0, got -1s",
		"-edge -limit=3":             "-edge goes without other flags",
		"-serve=:0 -load=x":          `-load must be URLs such as http://host:port, got "x"`,
		"-serve=:0 -load=http://a":   "-serve and -load are for two processes",
		"-serve=":                    "-serve must not be empty",
		"-redis=":                    "-redis must not be empty",
		"-load=":                     `-load must be URLs such as http://host:port, got ""`,
		"-load=http://a -replicas=2": "-limit, -per, -burst, -redis and -replicas are for those who serve, not for -load",
		"-serve=:0 -for=2s":          "-users and -for are for the load, not for -serve",
		"-serve=:0 -replicas=2":      "-replicas goes with -redis: without it, every service is for itself",
		"-replicas=0":                "-replicas must be from 1 to 100, got 0",
		"-for=1ms":                   "-for must be from 1s to 1h, got 1ms",
		"-users=a":                   `-users must be NAME=RATE,... with rates from 1 to 10000, got "a"`,
		"-users=a=1,a=2":             `-users has "a" twice`,
		"-users=a=0":                 `-users must be NAME=RATE,... with rates from 1 to 10000, got "a=0"`,
	} {
		code, out, stderr := command(t, strings.Fields(args)...)
		require.Equal(t, 2, code, args)
		require.Empty(t, out)
		require.Contains(t, stderr, "ratelimiter: "+want, args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
	code, out, _ := command(t, "-help")
	require.Zero(t, code)
	require.Contains(t, out, "-redis ADDR")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	code, _, stderr := command(t, "-serve", taken.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "address already in use")
	code, _, stderr = command(t, "-redis=127.0.0.1:1", "-limit=40000000", "-per=1m")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "microseconds")
}
