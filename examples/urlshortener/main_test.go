package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

func TestMain(m *testing.M) {
	// Most of what takes long here waits: for processes that start, and for times that run out.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	clitest.Main(m, main)
}

// A process is a service in a process of its own.
type process struct {
	*clitest.Process
	base *url.URL
}

// signal sends a signal to the process, and waits for its end.
func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	p.End(t, sig)
}

// logged returns what the process has logged.
func (p *process) logged() string { return p.Stderr.String() }

// startProcess starts a service on a free port, and waits until it says where it is. It is killed when the test ends.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	return startCommand(t, append([]string{"-addr=127.0.0.1:0", "-no-limits"}, args...)...)
}

// startCommand does that with no flags but those of args.
func startCommand(t *testing.T, args ...string) *process {
	t.Helper()
	p := clitest.Start(t, args...)
	base, err := url.Parse(p.Until(t, &p.Stdout, `.*`)[0])
	require.NoError(t, err)
	return &process{p, base}
}

// command runs the command in this process, until it ends of itself.
func command(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = run(ctx, args, func(name string) string { return env[name] }, &out, &errs)
	return code, out.String(), errs.String()
}

func TestFlagErrors(t *testing.T) {
	const short = "0123456789abcde"
	for _, x := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{[]string{"-nothing"}, nil, "flag provided but not defined: -nothing"},
		{[]string{"more"}, nil, `unexpected argument "more"`},
		{[]string{"-codes=best"}, nil, `invalid value "best" for flag -codes: must be counter, random or hash`},
		{[]string{"-dsn=mysql://u:secret@a/b"}, nil, "invalid value of -dsn: must be a URL that begins with postgres://"},
		{[]string{"-dsn=postgres://a/b", "-dsn=postgres://a/b"}, nil, "invalid value of -dsn: the same database is there twice"},
		{[]string{"-api-key=secret"}, nil, "invalid value of -api-key: must be NAME=KEY"},
		{[]string{"-api-key=ann=" + short}, nil, "invalid value of -api-key: the key of ann must have at least 16 characters, got 15"},
		{nil, map[string]string{"URLSHORTENER_API_KEY": "ann=" + short}, "invalid value of -api-key: the key of ann must have at least 16 characters, got 15"},
		{[]string{"-cache-ttl=0s"}, nil, "-cache-ttl must be from 1s to 1h, got 0s"},
		{[]string{"-cache-ttl=2h"}, nil, "-cache-ttl must be from 1s to 1h, got 2h0m0s"},
		{[]string{"-nats=nats://a", "-nats-replicas=0"}, nil, "-nats-replicas must be from 1 to 5, got 0"},
		{[]string{"-nats=nats://a", "-nats-replicas=6"}, nil, "-nats-replicas must be from 1 to 5, got 6"},
		{[]string{"-nats-replicas=3"}, nil, "-nats-replicas needs a cluster at -nats"},
		{[]string{"-base=sho.rt"}, nil, `invalid value "sho.rt" for flag -base: must be a URL such as https://sho.rt`},
		{[]string{"-base=https://sho.rt/path"}, nil, `invalid value "https://sho.rt/path" for flag -base: must be a URL such as https://sho.rt`},
		{[]string{"-redis=localhost"}, nil, `invalid value "localhost" for flag -redis: must be HOST:PORT`},
		{[]string{"-peers"}, nil, "-peers needs databases and a broker that the processes share: -dsn and -nats"},
		{[]string{"-front", "-nats=nats://a"}, nil, "-front needs the broker of the processes, and the first database, which says who they are: -nats and -dsn"},
		{[]string{"-front", "-dsn=postgres://a/b"}, nil, "-front needs the broker of the processes, and the first database, which says who they are: -nats and -dsn"},
		{[]string{"-front", "-nats=nats://a", "-redis=a:1", "-dir=a", "-peers=false"}, nil, "-front keeps no links, it passes requests on to processes that do: -dir, -redis cannot be given with it"},
		{[]string{"-front", "-nats=nats://a"}, map[string]string{"URLSHORTENER_PEERS": "true"}, "-front keeps no links, it passes requests on to processes that do: -peers cannot be given with it"},
		{[]string{"-front", "-nats=nats://a", "-load=1s"}, nil, "-front keeps no links, it passes requests on to processes that do: -load cannot be given with it"},
		{[]string{"-trusted-proxies=10.0.0.0/8 proxy"}, nil, `invalid value of -trusted-proxies: must be a network such as 10.0.0.0/8, or an address, got "proxy"`},
		{[]string{"-trusted-proxies=10.0.0.0/33"}, nil, `invalid value of -trusted-proxies: must be a network such as 10.0.0.0/8, or an address, got "10.0.0.0/33"`},
		{[]string{"-api-key=ann=ключ-к-ссылкам-secret"}, nil, "invalid value of -api-key: the key of ann must have only printable characters of ASCII, and no spaces"},
		{[]string{"-trusted-proxies=::/0"}, nil, `invalid value of -trusted-proxies: must not be everybody, got "::/0"`},
		{[]string{"-trusted-proxies=::ffff:0.0.0.0/96"}, nil, `invalid value of -trusted-proxies: must not be everybody, got "::ffff:0.0.0.0/96"`},
		{nil, map[string]string{"URLSHORTENER_TRUSTED_PROXIES": "10.0.0.1:80"}, `invalid value of -trusted-proxies: must be a network such as 10.0.0.0/8, or an address, got "10.0.0.1:80"`},
		{[]string{"-drain-delay=-1s"}, nil, "-drain-delay must be at least 0, got -1s"},
		{[]string{"-replicas=0"}, nil, "-replicas must be at least 1, got 0"},
		{[]string{"-replicas=2"}, nil, "-replicas needs a Redis at -redis, in which processes share limits"},
		{[]string{"-nats=nats://u:secret@localhost:port"}, nil, "invalid value of -nats: must be a URL such as nats://localhost:4222"},
		{[]string{"-nats=nats://a,http://u:secret@b"}, nil, "invalid value of -nats: must be a URL such as nats://localhost:4222"},
		{nil, map[string]string{"URLSHORTENER_NATS": "nats://u:secret%@a"}, "invalid value of -nats: must be a URL such as nats://localhost:4222"},
		{[]string{"-drain=-1s"}, nil, "-drain must be at least 0, got -1s"},
		{[]string{"-drain=soon"}, nil, `invalid value "soon" for flag -drain: parse error`},
		{nil, map[string]string{"URLSHORTENER_DRAIN": "soon"}, `invalid value "soon" of URLSHORTENER_DRAIN: parse error`},
		{[]string{"-dir="}, nil, "-dir must not be empty"},
		{[]string{"-load=-1s"}, nil, "-load must be at least 0, got -1s"},
		{[]string{"-load=1s", "-load-workers=0"}, nil, "-load-workers must be from 1 to 10000, got 0"},
		{[]string{"-load=1s", "-load-links=0"}, nil, "-load-links must be from 1 to 1000000, got 0"},
		{[]string{"-load-target=http://localhost"}, nil, "-load-target is for -load, which is missing"},
		{[]string{"-load=1s", "-load-target=localhost:80"}, nil, `invalid value "localhost:80" for flag -load-target: must be a URL such as http://localhost:8080`},
	} {
		code, stdout, stderr := command(t, x.env, x.args...)
		require.Equal(t, 2, code, x.args)
		require.Empty(t, stdout)
		require.Equal(t, "urlshortener: "+x.want+" (see -help)\n", stderr)
		require.NotContains(t, stderr, "secret")
		require.NotContains(t, stderr, short)
	}
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := command(t, nil, "-help")
	require.Zero(t, code)
	require.Empty(t, stderr)
	for _, name := range []string{"-addr", "-dir", "-dsn", "-nats", "-redis", "-codes", "-load", "URLSHORTENER_API_KEY"} {
		require.Contains(t, stdout, name)
	}
}

// The environment is for what the command line does not say.
func TestEnvironment(t *testing.T) {
	env := map[string]string{"URLSHORTENER_CODES": "hash", "URLSHORTENER_ADDR": ":1", "URLSHORTENER_DSN": "postgres://a/x postgres://b/x"}
	s, err := parse([]string{"-addr=:2"}, func(name string) string { return env[name] })
	require.NoError(t, err)
	require.Equal(t, "hash", s.codes)
	require.Equal(t, ":2", s.addr)
	for _, servers := range []string{"localhost:4222", "nats://u:secret@a,tls://[::1]:4222,b"} {
		s, err := parse([]string{"-nats=" + servers}, func(string) string { return "" })
		require.NoError(t, err)
		require.Equal(t, servers, s.nats)
	}
	require.Equal(t, []string{"postgres://a/x", "postgres://b/x"}, s.dsns)
}

// Who is one of several goes on for a while when it is to end, unless that is said otherwise.
func TestDrainDelay(t *testing.T) {
	for _, x := range []struct {
		args []string
		env  string
		want time.Duration
	}{
		{nil, "", 0},
		{[]string{"-peers"}, "", time.Second},
		{[]string{"-peers", "-drain-delay=0"}, "", 0},
		{[]string{"-peers"}, "5s", 5 * time.Second},
		{[]string{"-drain-delay=2s"}, "5s", 2 * time.Second},
	} {
		s, err := parse(append(x.args, "-dsn=postgres://a/b", "-nats=nats://a"), func(name string) string {
			if name == "URLSHORTENER_DRAIN_DELAY" {
				return x.env
			}
			return ""
		})
		require.NoError(t, err)
		require.Equal(t, x.want, s.drainDelay, x)
	}
}

// What the service needs is missing: one line says what.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := closed.Addr().String()
	require.NoError(t, closed.Close())
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	inUse := t.TempDir()
	lock, err := lockDir(inUse)
	require.NoError(t, err)
	defer lock.Close()
	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "links-2.db"), []byte(strings.Repeat("no database ", 100)), 0o600))
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"-addr=" + taken.Addr().String()}, []string{"-addr cannot be listened on", "address already in use"}},
		{[]string{"-dir=" + filepath.Join(file, "below")}, []string{"-dir cannot be used", "not a directory"}},
		{[]string{"-dir=" + inUse}, []string{"-dir " + inUse + " is in use by another process: give each a directory of its own"}},
		{[]string{"-dir=" + broken}, []string{"the database " + filepath.Join(broken, "links-2.db") + " cannot be opened", "not a database"}},
		{[]string{"-front", "-dsn=postgres://u:secret@" + nobody + "/links", "-nats=nats://" + nobody}, []string{"the broker of -nats does not answer"}},
		{[]string{"-nats=nats://" + nobody}, []string{"the broker of -nats does not answer"}},
		{[]string{"-redis=" + nobody}, []string{"the Redis of -redis at " + nobody + " does not answer", "connection refused"}},
		{[]string{"-dsn=postgres://u:secret@" + nobody + "/links"}, []string{"the database of -dsn number 1 cannot be opened", "connection refused"}},
		{[]string{"-load=1s", "-load-target=http://" + nobody}, []string{"links cannot be made", "connection refused"}},
	} {
		args := []string{"-addr=127.0.0.1:0"}
		if x.args[0] != "-front" {
			args = append(args, "-dir="+t.TempDir())
		}
		code, stdout, stderr := command(t, nil, append(args, x.args...)...)
		require.Equal(t, 1, code, x.args)
		require.Empty(t, stdout)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		require.NotContains(t, stderr, "secret")
		for _, want := range x.want {
			require.Contains(t, stderr, want)
		}
	}
}

// A second process does not touch the directory of the first; when that has ended, however it did, it is free.
func TestDirOfOneProcess(t *testing.T) {
	dir := t.TempDir()
	first := startProcess(t, "-dir="+dir)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		code, _, stderr := command(t, nil, "-addr=127.0.0.1:0", "-dir="+dir)
		require.Equal(t, 1, code)
		require.Equal(t, "urlshortener: -dir "+dir+" is in use by another process: give each a directory of its own\n", stderr)
		resp, err := http.Get(first.base.String() + "/healthz")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		first.signal(t, sig)
		first = startProcess(t, "-dir="+dir)
	}
}

// TestCodes makes links by each of the strategies, and finds them again after a restart, in the same databases.
func TestCodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made := map[string]string{} // by target
	for round := range 2 {
		for _, strategy := range []string{"counter", "random", "hash"} {
			p := startProcess(t, "-dir="+dir, "-codes="+strategy)
			g, err := newGenerator(p.base, "", 4)
			require.NoError(t, err)
			c := &loadConn{generator: g}
			for i := range 5 {
				g.last.Store(int64(100*i) + 7)
				l, err := c.create(t.Context())
				require.NoError(t, err)
				require.Len(t, l.code, codeLength)
				key := fmt.Sprint(strategy, l.target)
				if old, there := made[key]; there && strategy == "hash" {
					require.Equal(t, old, l.code) // the same link
				} else if there {
					require.NotEqual(t, old, l.code)
				}
				made[key] = l.code
			}
			for key, code := range made {
				_, err := c.follow(t.Context(), loadLink{code, key[strings.Index(key, "http"):]})
				require.NoError(t, err, "round %d: %s %s", round, key, code)
			}
			c.close()
			p.signal(t, syscall.SIGTERM)
			require.Zero(t, p.Wait(t), p.logged())
		}
	}
}
