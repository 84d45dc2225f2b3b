//go:build servers && unix

package pgserver

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bound is how long a server may take to start, or to end.
const bound = 20 * time.Second

// settings are those of all servers: small, without a care for power failures, and listening in their
// own directory only, so that no other can be there.
var settings = []string{
	"listen_addresses=", "port=5432", "fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60",
	"autovacuum=off", "wal_retrieve_retry_interval=50ms", "wal_level=replica", "max_wal_senders=8", "max_wal_size=256MB", "timezone=UTC", "lc_messages=C",
}

// A Server is a PostgreSQL of our own, with a cluster that is empty at first. Its superuser is
// "postgres", without a password. It is not safe for concurrent use.
type Server struct {
	dir   string // of the data, the socket and the log
	args  []string
	cmd   *exec.Cmd     // nil: it does not run
	ended chan struct{} // closed when cmd has ended
}

// Start starts a server, with more settings (name=value) if there are any, which is killed when the
// test ends.
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	s := newServer(tb, settings)
	s.tool(tb, "initdb", "--pgdata="+s.data(), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	s.mustRun(tb)
	return s
}

// Replica starts a server that follows s, which runs, by streaming replication. Its settings are its
// own.
func (s *Server) Replica(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	r := newServer(tb, settings)
	r.tool(tb, "pg_basebackup", "--pgdata="+r.data(), "--dbname="+s.URL("postgres"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	r.mustRun(tb)
	return r
}

// newServer returns a server that has a directory, and nothing else.
func newServer(tb testing.TB, settings []string) *Server {
	tb.Helper()
	// That of the test's own directories may only be entered by its user, who PostgreSQL is not run by
	// if it is root. And the name of a socket may not be long.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{dir: dir, args: settings}
	tb.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if c := owner(tb); c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// URL returns the address of a database for clients.
func (s *Server) URL(database string) string {
	q := url.Values{"host": {s.dir}, "port": {"5432"}, "user": {"postgres"}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// Run starts the server again that was stopped or killed, with what it had.
func (s *Server) Run(tb testing.TB) {
	tb.Helper()
	s.mustRun(tb)
}

func (s *Server) mustRun(tb testing.TB) {
	tb.Helper()
	for end := time.Now().Add(bound); ; {
		if s.run(tb) {
			return
		}
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		// Of one that was killed, a process may still be about to find out.
		if time.Now().After(end) || !bytes.Contains(log, []byte("still in use")) {
			tb.Fatalf("postgres does not start:\n%s", log)
		}
	}
}

// run starts the server, and reports whether it answers.
func (s *Server) run(tb testing.TB) bool {
	tb.Helper()
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-k", s.dir}
	for _, a := range slices.Concat(settings, s.args) {
		args = append(args, "-c", a)
	}
	s.cmd = s.command(tb, "postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	endWithUs(s.cmd)
	// Of one that was killed. The server would believe it if another process has that number by now.
	_ = os.Remove(filepath.Join(s.data(), "postmaster.pid"))
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd)
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		// The eighth line is the state: "ready" also of a replica that can be read.
		pid, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
		if lines := strings.Split(string(pid), "\n"); len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" && lines[0] == strconv.Itoa(s.cmd.Process.Pid) {
			return true
		}
		select {
		case <-ended:
			s.cmd = nil
			return false
		default:
		}
	}
	s.Kill()
	return false
}

// Kill ends the server at once, if it runs: clients lose their connections, and when it is started
// again, it recovers from its log.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

// Stop shuts the server down, if it runs: it tells its clients, and writes everything to its disk.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

func (s *Server) end(sig os.Signal) {
	if s.cmd == nil {
		return
	}
	p := s.cmd.Process
	s.cmd = nil
	_ = p.Signal(sig)
	select {
	case <-s.ended:
	case <-time.After(bound):
		_ = p.Kill()
		<-s.ended
	}
}

// Promote makes a replica a primary, and waits until it is one.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	s.tool(tb, "pg_ctl", "promote", "--pgdata="+s.data(), "--wait")
}

// Follow makes a replica that is stopped or killed follow another primary when it is run again.
func (s *Server) Follow(tb testing.TB, primary *Server) {
	tb.Helper()
	conf := filepath.Join(s.data(), "postgresql.auto.conf")
	f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "\nprimary_conninfo = 'host=%s port=5432 user=postgres'\n", primary.dir); err != nil {
		tb.Fatal(err)
	}
}

// tool runs a program of PostgreSQL to its end.
func (s *Server) tool(tb testing.TB, name string, args ...string) {
	tb.Helper()
	cmd := s.command(tb, name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// command returns a command for a program of PostgreSQL, to be run by the user who owns the data.
func (s *Server) command(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(program(tb, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // without PGHOST and the like
	if c := owner(tb); c != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c}
	}
	return cmd
}

// owner returns who is to run the server, if it is not us: it refuses to be run by root.
func owner(tb testing.TB) *syscall.Credential {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		tb.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := cmp.Or(err1, err2); err != nil {
		tb.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// program returns the path of a program of PostgreSQL. Debian has those of the server beside each other
// for each version, and not where programs are looked for.
func program(tb testing.TB, name string) string {
	tb.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	if len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
	}
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}
