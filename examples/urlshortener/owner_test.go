package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOwnAddress has another process advertise this one's address, as on machines of which each is 127.0.0.1 to itself:
// nobody asks himself, and waits for the answer.
func TestOwnAddress(t *testing.T) {
	m := &members{self: member{ID: "a", URL: "http://127.0.0.1:8080"}, directory: newDirectory()}
	m.hear(member{ID: "b", URL: "http://127.0.0.1:8080", In: true}, time.Now())
	m.hear(member{ID: "c", URL: "http://127.0.0.1:8081", In: true}, time.Now())
	owners := map[string]int{}
	for i := range 100 {
		owner, other := newOwners(m, "").of(fmt.Sprint("code", i))
		owners[owner.ID]++
		require.Equal(t, owner.ID == "c", other)
	}
	require.Len(t, owners, 3)
}

// TestOwnerWithoutContact asks an owner that is cut off from the broker: it says so, and does not look for what it would
// not tell.
func TestOwnerWithoutContact(t *testing.T) {
	l := newTestLinks(t, newStore(t))
	l.others = &members{directory: newDirectory()}
	l.guard.FailOpen()
	o := newOwners(l.others, "key")
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ownerPath+"{code}", o.serve(l))
	before := l.guard.Stats().Passed
	r := httptest.NewRequest("GET", ownerPath+"abcdefg", nil)
	r.Header.Set("Authorization", "Bearer key")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, before, l.guard.Stats().Passed)
}

// TestOneScan starts one of several processes: the codes of all links are read once.
func TestOneScan(t *testing.T) {
	t.Parallel()
	f := serveApp(t, func(s *settings) { s.peers = true })
	within10(t, func() bool { return f.app.links.trusted() != 0 })
	require.EqualValues(t, 1, f.app.links.guard.Stats().Rebuilds)
	resp, _ := f.do(t, "GET", "/abcdefg", "")
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	require.EqualValues(t, 1, f.app.links.guard.Stats().Refused)

	alone := serveApp(t, nil)
	require.False(t, alone.app.links.guard.Open())
	require.EqualValues(t, 1, alone.app.links.guard.Stats().Rebuilds)
}
