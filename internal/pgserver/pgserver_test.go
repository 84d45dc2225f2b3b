//go:build servers && unix

package pgserver

import (
	"os/exec"
	"strings"
	"testing"
)

// query returns what psql says.
func query(t *testing.T, s *Server, sql string) string {
	t.Helper()
	out, err := exec.Command(program(t, "psql"), "-XAtq", "-d", s.URL("postgres"), "-c", sql).CombinedOutput()
	if err != nil {
		return "error: " + string(out)
	}
	return strings.TrimSpace(string(out))
}

func TestServer(t *testing.T) {
	s := Start(t, "work_mem=3MB")
	query(t, s, "CREATE TABLE t (n int)")
	r := s.Replica(t, "work_mem=5MB")
	for _, tt := range []struct {
		s    *Server
		want string
	}{{s, "f|3MB"}, {r, "t|5MB"}} {
		if got := query(t, tt.s, "SELECT pg_is_in_recovery(), current_setting('work_mem')"); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	s.Kill()
	s.Kill()
	if got := query(t, s, "SELECT 1"); !strings.HasPrefix(got, "error: ") {
		t.Errorf("it runs: %q", got)
	}
	s.Run(t)
	if got := query(t, s, "SELECT count(*) FROM t"); got != "0" {
		t.Error(got)
	}
	s.Stop()
	r.Promote(t)
	if got := query(t, r, "SELECT pg_is_in_recovery()"); got != "f" {
		t.Error(got)
	}
	other := r.Replica(t)
	other.Stop()
	s.Run(t)
	other.Follow(t, r)
	other.Run(t)
	if got := query(t, other, "SELECT pg_is_in_recovery()"); got != "t" {
		t.Error(got)
	}
}
