//go:build servers

package redisserver

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// bound is how long a server may take to start.
const bound = 10 * time.Second

// A Server is a redis-server of our own, on a free port of this machine, without persistence. It is not
// safe for concurrent use.
type Server struct {
	Addr string // host:port; stays when the server is killed and started again

	dir  string
	args []string
	cmd  *exec.Cmd
}

// Start starts a server, with more arguments if there are any, which is killed when the test ends.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s := &Server{dir: tb.TempDir(), args: args}
	tb.Cleanup(func() { s.Kill() })
	// The port may be taken between our asking for it and the server's; then another will do.
	for range 30 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		s.Addr = l.Addr().String()
		l.Close()
		if l.Addr().(*net.TCPAddr).Port > 55_000 {
			continue // in a cluster, 10,000 above it there is another
		}
		if s.Run(tb) {
			return s
		}
	}
	tb.Fatal("redis-server does not start")
	return nil
}

// Run starts the server again that was killed, without what it had, and reports whether it answers: it, not
// another that has got its port meanwhile.
func (s *Server) Run(tb testing.TB) bool {
	tb.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	logFile := filepath.Join(s.dir, "log"+port)
	s.cmd = exec.Command("redis-server", append([]string{"--bind", host, "--port", port,
		"--save", "", "--appendonly", "no", "--dir", s.dir, "--logfile", logFile}, s.args...)...)
	endWithUs(s.cmd)
	_ = os.Remove(logFile) // of an attempt before, to which it would add
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		tb.Fatal(err)
	}
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if s.answers() {
			return true
		}
		if log, _ := os.ReadFile(logFile); bytes.Contains(log, []byte("in use")) {
			break
		}
	}
	s.Kill()
	return false
}

// answers reports whether our process answers at the address.
func (s *Server) answers() bool {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("INFO server\r\nQUIT\r\n")); err != nil {
		return false
	}
	answer, _ := io.ReadAll(conn)
	return bytes.Contains(answer, fmt.Appendf(nil, "\r\nprocess_id:%d\r\n", s.cmd.Process.Pid))
}

// Kill kills the server, if it runs, and waits for its end.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Signal sends a signal to the server, which runs.
func (s *Server) Signal(tb testing.TB, sig os.Signal) {
	tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		tb.Fatal(err)
	}
}
