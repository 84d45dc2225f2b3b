//go:build servers

package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/pgserver"
	"github.com/sysblocks/sysblocks/internal/redisserver"
)

// newDatabases makes databases, and returns their URLs.
func newDatabases(t *testing.T, server *pgserver.Server, names ...string) (urls []string) {
	t.Helper()
	db, err := sql.Open("pgx", server.URL("postgres"))
	require.NoError(t, err)
	defer db.Close()
	for _, name := range names {
		// Words are sorted as people do, by default: a before B.
		_, err := db.Exec("CREATE DATABASE " + name + " TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
		require.NoError(t, err)
		urls = append(urls, server.URL(name))
	}
	return urls
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := pgserver.Start(t)
	open := func(urls ...string) (*store, error) { return openStore(t.Context(), t.TempDir(), urls) }
	for name, test := range map[string]func(*testing.T, *store){"store": testStore, "referrers": testMostReferrers, "count": func(t *testing.T, s *store) {
		testCount(t, s, func(error) bool { return false }) // two who count do not wait for each other in a circle
	}} {
		t.Run(name, func(t *testing.T) {
			s, err := open(newDatabases(t, server, name+"_a", name+"_b")...)
			require.NoError(t, err)
			defer func() { require.NoError(t, s.close()) }()
			test(t, s)
		})
	}

	// Of processes that begin at the same time, one makes the tables.
	urls := newDatabases(t, server, "a", "b")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := open(urls...)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for want, wrong := range map[string][]string{
		"number 1 cannot be opened: it is shard 2 of 2, not 1 of 2": {urls[1], urls[0]},
		"number 1 cannot be opened: it is shard 1 of 2, not 1 of 1": {urls[0]},
		"number 2 cannot be opened: it is shard 1 of 2, not 2 of 2": {urls[0], urls[0]},
	} {
		_, err := open(wrong...)
		require.ErrorContains(t, err, want)
	}
}

// get asks for a path, and follows no redirect.
func get(t *testing.T, p *process, path string) (*http.Response, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(p.base.String() + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func post(t *testing.T, p *process, target string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Post(p.base.String()+"/api/links", "application/json", strings.NewReader(fmt.Sprintf(`{"url": %q}`, target)))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// TestDatabaseStopped stops the databases for ten seconds under load, which is longer than links are kept in the cache:
// those that are in use lead where they did all the time, others and new ones are answered clearly, and what was clicked
// meanwhile is counted afterwards.
func TestDatabaseStopped(t *testing.T) {
	t.Parallel()
	const outage, ttl = 10 * time.Second, 2 * time.Second
	server := pgserver.Start(t)
	urls := newDatabases(t, server, "a", "b")
	p := startProcess(t, "-dir="+t.TempDir(), "-dsn="+urls[0], "-dsn="+urls[1], "-cache-ttl="+ttl.String())
	g := newTestGenerator(t, p, 50)
	g.readOnly = true
	c := &loadConn{generator: g}
	defer c.close()
	cold, err := c.create(t.Context())
	require.NoError(t, err)
	for _, l := range g.links { // each is in the cache then
		_, err := c.follow(t.Context(), l)
		require.NoError(t, err)
	}
	_, beforeLoad := g.settledClicks(t, int64(len(g.links)))
	load := g.start(t.Context())
	g.answers(t, 500)
	server.Kill()
	began := time.Now()
	rounds := 0
	for ; time.Since(began) < outage; rounds++ {
		g.answers(t, 500)
		resp, body := get(t, p, "/"+cold.code)
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
		require.Contains(t, body, "cannot be looked up at the moment")
		resp, body = post(t, p, "http://example.com/new")
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "5", resp.Header.Get("Retry-After"))
		require.Contains(t, body, "the database does not answer")
		resp, _ = get(t, p, "/0000000") // the filter knows that there is none
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
	}
	for _, l := range g.links { // also those that are hardly ever asked for
		sent, err := c.follow(t.Context(), l)
		require.NoError(t, err)
		require.True(t, sent)
	}
	server.Run(t)
	within(t, 20*time.Second, func() bool { _, err := c.follow(t.Context(), cold); c.close(); return err == nil })
	resp, _ := post(t, p, "http://example.com/new")
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	g.answers(t, 500)
	r := load.end()
	require.Zero(t, r.errors, r.first)
	for i := range g.answered {
		g.answered[i].Add(2) // when it was put into the cache, and at the end
	}
	require.EqualValues(t, len(g.links), beforeLoad)
	g.check(t, p)
}

// TestReplicas asks a broker without a cluster to keep clicks on three servers, which it cannot, and says so.
func TestReplicas(t *testing.T) {
	broker := startNATS(t)
	code, _, stderr := command(t, nil, "-addr=127.0.0.1:0", "-dir="+t.TempDir(), "-nats="+broker.url, "-nats-replicas=3")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the broker cannot keep clicks")
	require.Contains(t, stderr, "replicas > 1 not supported in non-clustered mode")
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
}

// settledClicks waits until so many clicks are counted.
func (g *generator) settledClicks(t *testing.T, n int64) (status, int64) {
	t.Helper()
	st, err := g.settled(t.Context(), n)
	require.NoError(t, err)
	return st, st.clicked()
}

// TestRedisKilled has two processes that share what they know, until Redis is killed, and again when it is back. Readers
// notice nothing.
func TestRedisKilled(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	urls := newDatabases(t, pgserver.Start(t), "a", "b")
	flags := []string{"-dsn=" + urls[0], "-dsn=" + urls[1], "-redis=" + redis.Addr, "-replicas=2"}
	a := startProcess(t, append(flags, "-dir="+t.TempDir())...)
	g := newTestGenerator(t, a, 50)
	b := startProcess(t, append(flags, "-dir="+t.TempDir())...) // it knows these links
	remove := func(code string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodDelete, a.base.String()+"/api/links/"+code, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusNoContent, resp.StatusCode)
		within(t, 10*time.Second, func() bool { resp, _ := get(t, b, "/"+code); return resp.StatusCode == http.StatusNotFound }, "the other process has not forgotten a link")
	}
	c := &loadConn{generator: g}
	defer c.close()
	var extra []loadLink
	for range 2 {
		l, err := c.create(t.Context())
		require.NoError(t, err)
		extra = append(extra, l)
	}
	b.signal(t, syscall.SIGTERM)
	b = startProcess(t, append(flags, "-dir="+t.TempDir())...)
	for _, l := range extra {
		resp, _ := get(t, b, "/"+l.code)
		require.Equal(t, http.StatusFound, resp.StatusCode)
	}
	remove(extra[0].code) // b has it in its cache, and is told

	loads := []*running{g.start(t.Context())}
	other, err := newGenerator(b.base, "", 8)
	require.NoError(t, err)
	other.readOnly = true
	other.follow(g.links)
	loads = append(loads, other.start(t.Context()))
	for range 2 {
		g.answers(t, 500)
		other.answers(t, 500)
		redis.Kill()
		g.answers(t, 1000)
		other.answers(t, 1000)
		require.True(t, redis.Run(t))
	}
	g.answers(t, 500)
	other.answers(t, 500)
	for _, load := range loads {
		r := load.end()
		require.Zero(t, r.errors, r.first)
	}
	remove(extra[1].code)

	// Limits are those of both together.
	a2 := startProcess(t, append(flags, "-dir="+t.TempDir(), "-no-limits=false")...)
	b2 := startProcess(t, append(flags, "-dir="+t.TempDir(), "-no-limits=false")...)
	began := time.Now()
	made := 0
	for i := range 30 {
		resp, body := post(t, []*process{a2, b2}[i%2], "http://example.com/limited")
		switch resp.StatusCode {
		case http.StatusCreated:
			made++
		case http.StatusTooManyRequests:
			require.Contains(t, body, "quota-exceeded")
		default:
			t.Fatal(resp.Status, body)
		}
	}
	require.GreaterOrEqual(t, made, 20)
	require.LessOrEqual(t, made, 20+int(time.Since(began)/time.Second)+1)
}

// TestSharedServers has two services that know nothing of each other, and use the same Redis and the same broker: each
// keeps its links, its limits and its clicks.
func TestSharedServers(t *testing.T) {
	t.Parallel()
	redis, broker := redisserver.Start(t), startNATS(t)
	services := []*process{}
	for range 2 {
		services = append(services, startProcess(t, "-dir="+t.TempDir(), "-redis="+redis.Addr, "-nats="+broker.url))
	}
	for i, p := range services {
		resp, err := http.Post(p.base.String()+"/api/links", "application/json", strings.NewReader(fmt.Sprintf(`{"url": "http://example.com/%d", "alias": "alike"}`, i)))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusCreated, resp.StatusCode)
	}
	clicks := []int{30, 20}
	for i, p := range services {
		for range clicks[i] {
			resp, _ := get(t, p, "/alike")
			require.Equal(t, fmt.Sprint("http://example.com/", i), resp.Header.Get("Location"))
		}
	}
	for i, p := range services {
		want := fmt.Sprintf(`"total":%d,`, clicks[i])
		within(t, 30*time.Second, func() bool { _, body := get(t, p, "/api/links/alike"); return strings.Contains(body, want) }, "clicks are not counted where they were made")
	}
}

// A natsServer is a nats-server of our own, on a free port, with JetStream.
type natsServer struct {
	url, port string
	dir       string
	cmd       *exec.Cmd // nil: it does not run
	log       bytes.Buffer
}

func startNATS(t *testing.T) *natsServer {
	t.Helper()
	s := &natsServer{dir: t.TempDir()}
	t.Cleanup(s.kill)
	for range 20 { // the port may be taken by another meanwhile
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		_, s.port, _ = net.SplitHostPort(l.Addr().String())
		s.url = "nats://" + l.Addr().String()
		require.NoError(t, l.Close())
		if s.run(t) {
			return s
		}
	}
	t.Fatalf("nats-server does not start: %s", &s.log)
	return nil
}

// run starts the server, with what it had, and reports whether it answers.
func (s *natsServer) run(t *testing.T) bool {
	t.Helper()
	s.log.Reset()
	s.cmd = exec.Command("nats-server", "-a", "127.0.0.1", "-p", s.port, "-js", "-sd", s.dir, "-n", s.port)
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, s.cmd.Start())
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		conn, err := nats.Connect(s.url)
		if err == nil {
			name := conn.ConnectedServerName()
			conn.Close()
			if name == s.port {
				return true
			}
		}
	}
	s.kill()
	return false
}

func (s *natsServer) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// TestBrokerKilled kills the broker under load, and the process as well when clicks are in its spool: each click of a
// redirect that was answered is counted, once.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	broker := startNATS(t)
	dir := t.TempDir()
	p := startProcess(t, "-dir="+dir, "-nats="+broker.url)
	g := newTestGenerator(t, p, 50)
	g.readOnly = true // that others learn of a new link takes the broker
	load := g.start(t.Context())
	for range 2 {
		g.answers(t, 1000)
		broker.kill()
		g.answers(t, 1000)
		require.True(t, broker.run(t))
		g.answers(t, 1000)
	}
	r := load.end()
	require.Zero(t, r.errors, r.first)
	st, _ := g.settledClicks(t, sum(g.answered))
	require.Positive(t, st.Spooled)
	require.Zero(t, st.Spool)

	load = g.start(t.Context())
	g.answers(t, 500)
	broker.kill()
	g.answers(t, 1000)
	p.signal(t, syscall.SIGKILL) // with the spool full
	load.end()
	require.True(t, broker.run(t))
	p = startProcess(t, "-dir="+dir, "-nats="+broker.url)
	g.aim(p)
	g.check(t, p)
}

// TestBrokerWithoutFiles has a broker that comes back with nothing: clicks go on to be counted.
func TestBrokerWithoutFiles(t *testing.T) {
	t.Parallel()
	broker := startNATS(t)
	p := startProcess(t, "-dir="+t.TempDir(), "-nats="+broker.url)
	g := newTestGenerator(t, p, 5)
	g.readOnly = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := g.start(ctx)
	g.answers(t, 100)
	broker.kill()
	broker.dir = t.TempDir()
	require.True(t, broker.run(t))
	before, err := g.status(ctx)
	require.NoError(t, err)
	within(t, 30*time.Second, func() bool {
		st, err := g.status(ctx)
		return err == nil && st.clicked() > before.clicked()+100 && st.Spool == 0
	}, "clicks are not counted")
	r := load.end()
	require.Zero(t, r.errors, r.first)
}

// TestPostgresFull has a database without room for some of what is to be counted, as it says itself: nothing is refused.
func TestPostgresFull(t *testing.T) {
	s, err := openStore(t.Context(), t.TempDir(), newDatabases(t, pgserver.Start(t), "a"))
	require.NoError(t, err)
	defer func() { require.NoError(t, s.close()) }()
	for _, code := range []string{"53100", "40P01", "55P03", "57P01", "22003"} {
		_, err := s.first().Exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION fail() RETURNS trigger AS $$ BEGIN
			IF NEW.code = 'abc' THEN RAISE EXCEPTION 'no' USING ERRCODE = '%s'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql;
			CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION fail()`, code))
		require.NoError(t, err)
		refused, err := s.count(t.Context(), []clickGroup{{"run", 1, []click{{Code: "abc"}}}, {"run", 2, []click{{Code: "def"}}}}, noon)
		if code == "22003" { // this is about the values
			require.NoError(t, err)
			require.Len(t, refused, 1)
			continue
		}
		require.Error(t, err, code)
		require.Empty(t, refused, code)
	}
}

// TestCounterVanished has a process that counts, and vanishes without a word to PostgreSQL while it has rows that others
// need: they go on soon, and do not wait for the network to notice.
func TestCounterVanished(t *testing.T) {
	t.Parallel()
	server := pgserver.Start(t)
	urls := newDatabases(t, server, "a")
	there, err := openStore(t.Context(), t.TempDir(), urls)
	require.NoError(t, err)
	defer func() { require.NoError(t, there.close()) }()
	u, err := url.Parse(urls[0])
	require.NoError(t, err)
	g := newGate(t, filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
	vanishing, err := openStore(t.Context(), t.TempDir(), []string{"postgres://postgres@" + g.addr + "/a?sslmode=disable"})
	require.NoError(t, err)
	defer func() { _ = vanishing.close() }()

	tx, err := there.first().Begin()
	require.NoError(t, err)
	_, err = tx.Exec(`INSERT INTO clicks VALUES ('abc', $1, '', 1)`, dayOf(noon))
	require.NoError(t, err)
	group := clickGroup{"run", 1, []click{{Code: "abc", Day: dayOf(noon)}}}
	counting := make(chan error, 1)
	go func() {
		_, err := vanishing.count(context.Background(), []clickGroup{group}, noon)
		counting <- err
	}()
	within(t, 30*time.Second, func() bool { // it waits for that row, and has others
		var n int
		return there.first().QueryRow(`SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&n) == nil && n == 1
	})
	g.set(true, true, false)
	require.NoError(t, tx.Commit())
	within(t, 60*time.Second, func() bool {
		_, err := there.count(t.Context(), []clickGroup{group}, noon)
		return err == nil
	}, "what a process had that has vanished is not free")
	require.EqualValues(t, 2, total(t, there, "abc"))
	require.Error(t, <-counting)
}
