//go:build servers

package redisserver

import "testing"

func TestServer(t *testing.T) {
	s := Start(t)
	other := &Server{Addr: s.Addr, dir: t.TempDir()}
	t.Cleanup(other.Kill)
	if other.Run(t) {
		t.Error("it is another's answer")
	}
	s.Kill()
	s.Kill()
	if !other.Run(t) {
		t.Error("the port is free again")
	}
	other.Kill()
	if !s.Run(t) {
		t.Error("it does not start again")
	}
}
