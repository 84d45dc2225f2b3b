package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// owners says which of several processes keeps a link in its cache, and asks that one for it: so each link is loaded from
// the database once, and not once for each process. All processes that know the same others agree who it is; while they
// do not, a link is loaded twice. A process that does not answer at once is left out, and the database asked.
type owners struct {
	members *members
	secret  string // by which processes know each other
	client  *http.Client

	mu    sync.Mutex
	known []member
	ring  *consistenthash.Map[member]
}

const (
	// askTimeout is how long the owner of a link has to answer.
	askTimeout = 300 * time.Millisecond
	// borrowTTL is how long a process keeps a link that another owns: hot links do not all go to their owner.
	borrowTTL = 2 * time.Second
	ownerPath = "/peer/links/"
)

// ownership is how owners are found, in processes and fronts alike. Processes are few: no table is needed, and none is
// made when one comes or goes.
func ownership() consistenthash.Algorithm { return consistenthash.Rendezvous() }

func newOwners(m *members, secret string) *owners {
	return &owners{members: m, secret: secret, client: &http.Client{Timeout: askTimeout, Transport: &http.Transport{
		// Who asks goes when his time is over; package net/http would go on connecting, to a machine that has gone for minutes.
		DialContext:         (&net.Dialer{Timeout: askTimeout}).DialContext,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
	}}}
}

// of returns the process that owns a code, and false if it is this one, or nobody can be asked.
func (o *owners) of(code string) (member, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Fronts send requests to the owner as well; and who is about to end is not to get any.
	now := slices.DeleteFunc(o.members.list(), func(m member) bool { return m.Draining })
	if o.ring == nil || !slices.EqualFunc(now, o.known, member.same) {
		var nodes []consistenthash.Member[member]
		for _, m := range now {
			nodes = append(nodes, consistenthash.Member[member]{Node: consistenthash.Node{ID: m.ID, Weight: 1}, Value: m})
		}
		ring, err := consistenthash.New(consistenthash.Config[member]{Algorithm: ownership(), Members: nodes})
		if err != nil {
			return member{}, false
		}
		o.ring, o.known = ring, now
	}
	m, ok := o.ring.Get(code)
	// One that says that it is where this process is, as each does that is at 127.0.0.1 on a machine of its own, would be
	// this one, which would wait for itself.
	return m, ok && m.ID != o.members.self.ID && m.URL != "" && m.URL != o.members.self.URL
}

// ask asks the owner for a link. It returns an error if the owner has none, or does not know.
func (o *owners) ask(ctx context.Context, owner member, code string) (link, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, owner.URL+ownerPath+code, nil)
	if err != nil {
		return link{}, err
	}
	req.Header.Set("Authorization", "Bearer "+o.secret)
	resp, err := o.client.Do(req)
	if err != nil {
		return link{}, err
	}
	defer func() {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
		_ = resp.Body.Close()
	}()
	if resp.StatusCode != http.StatusOK {
		return link{}, fmt.Errorf("the process at %s answers with %s", owner.URL, resp.Status)
	}
	var l link
	err = json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&l)
	if err == nil && l.Code != code {
		err = fmt.Errorf("asked for %s, got %s", code, l.Code)
	}
	return l, err
}

// serve answers another process. What it is asked for, it looks up itself. If it may not have been told what others have
// changed, it does not answer: who asks looks it up himself.
func (o *owners) serve(l *links) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(key), []byte(o.secret)) != 1 {
			http.NotFound(w, r) // strangers need not know that there is anything
			return
		}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), ownKey{}, true), readTimeout)
		defer cancel()
		before := l.trusted()
		if before == 0 {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		found, err := l.resolve(ctx, r.PathValue("code"))
		switch {
		case l.trusted() != before:
			http.Error(w, "", http.StatusServiceUnavailable)
		case errors.Is(err, errNoLink):
			http.NotFound(w, r)
		case err != nil:
			http.Error(w, "", http.StatusServiceUnavailable)
		default:
			writeJSON(w, http.StatusOK, found)
		}
	}
}

// ownKey is in the context of a look-up for another process, which must not be sent on.
type ownKey struct{}
