package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func trusted(t *testing.T, networks ...string) (p proxies) {
	t.Helper()
	for _, n := range networks {
		require.NoError(t, p.add(n))
	}
	return p
}

// TestOrigin has requests of which trusted proxies, and others, say where they went to.
func TestOrigin(t *testing.T) {
	p := trusted(t, "10.1.2.3/8", "192.0.2.7", "::ffff:198.51.100.0/120", "2001:db8::/32")
	for _, x := range []struct {
		from  string
		tls   bool
		proto []string
		host  []string
		want  string
	}{
		{"10.9.9.9:1", false, []string{"https"}, []string{"sho.rt"}, "https://sho.rt"},
		{"11.9.9.9:1", false, []string{"https"}, []string{"sho.rt"}, "http://asked"},
		{"192.0.2.7:1", false, []string{"HTTPS"}, nil, "https://asked"},
		{"192.0.2.8:1", false, []string{"https"}, nil, "http://asked"},
		{"[::ffff:192.0.2.7]:1", false, nil, []string{"sho.rt:8443"}, "http://sho.rt:8443"},
		{"198.51.100.200:1", false, []string{"https"}, nil, "https://asked"},
		{"[2001:db8::1%eth0]:1", false, []string{"https"}, []string{"[2001:db8::2]:80"}, "https://[2001:db8::2]:80"},
		{"[2001:db9::1]:1", false, []string{"https"}, nil, "http://asked"},
		{"11.9.9.9:1", true, []string{"http"}, nil, "https://asked"},
		{"10.9.9.9:1", true, []string{"http"}, nil, "http://asked"},
		{"@", false, []string{"https"}, nil, "http://asked"}, // nobody knows who that is
		// What a client has written stands before what the proxy adds.
		{"10.9.9.9:1", false, []string{"http", "http, https"}, []string{"evil.example, sho.rt"}, "https://sho.rt"},
		// What cannot be in a URL is not taken.
		{"10.9.9.9:1", false, []string{"javascript"}, []string{"sho.rt/path"}, "http://asked"},
		{"10.9.9.9:1", false, []string{"https,"}, []string{"a@sho.rt"}, "http://asked"},
		{"10.9.9.9:1", false, []string{""}, []string{"sho.rt,"}, "http://asked"},
	} {
		r := &http.Request{RemoteAddr: x.from, Host: "asked", Header: http.Header{"X-Forwarded-Proto": x.proto, "X-Forwarded-Host": x.host}}
		if x.tls {
			r.TLS = &tls.ConnectionState{}
		}
		scheme, host := p.origin(r)
		require.Equal(t, x.want, scheme+"://"+host, "%+v", x)
	}
}

// TestNoHost makes links whose short URLs can be used, though the client has not said which host it asks, or what cannot
// be one.
func TestNoHost(t *testing.T) {
	f := serveApp(t, nil)
	const body = `{"url":"https://example.com/"}`
	for head, want := range map[string]string{
		"HTTP/1.0\r\n":                        f.url,
		"HTTP/1.1\r\nHost:\r\n":               f.url,
		"HTTP/1.1\r\nHost: a'(b);%20$\r\n":    f.url,
		"HTTP/1.1\r\nHost: sho.rt:8080\r\n":   "http://sho.rt:8080",
		"HTTP/1.1\r\nHost: [2001:db8::1]\r\n": "http://[2001:db8::1]",
		"HTTP/1.0\r\nX-Forwarded-Host: b\r\n": f.url,
	} {
		resp, got := f.raw(t, fmt.Sprintf("POST /api/links %sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", head, len(body), body))
		require.Equal(t, 201, resp.StatusCode, "%s: %s", head, got)
		var v linkView
		require.NoError(t, json.Unmarshal([]byte(got), &v))
		require.Equal(t, want+"/"+v.Code, v.ShortURL, head)
	}
}

// TestTrustedProxies counts those who come through a trusted proxy by their own addresses, and not those who only say
// so; and short URLs are those that they have asked for.
func TestTrustedProxies(t *testing.T) {
	limited := func(networks ...string) *served {
		return serveApp(t, func(s *settings) {
			s.unlimited, s.proxies = false, trusted(t, networks...)
		})
	}
	const body = `{"url": "https://example.com/"}`
	// left returns how many links the client at an address, or who says that he is there, can make.
	left := func(f *served, forwarded func(i int) string) (n int) {
		for ; n < 100; n++ {
			resp, _ := f.do(t, "POST", "/api/links", body, "X-Forwarded-For", forwarded(n))
			if resp.StatusCode == http.StatusTooManyRequests {
				break
			}
			require.Equal(t, http.StatusCreated, resp.StatusCode)
		}
		return n
	}
	// made returns a link that is made as a proxy, or a client, says.
	made := func(f *served, headers ...string) (v linkView) {
		resp, got := f.do(t, "POST", "/api/links", body, headers...)
		require.Equal(t, http.StatusCreated, resp.StatusCode, got)
		require.NoError(t, json.Unmarshal([]byte(got), &v))
		return v
	}
	always := func(s string) func(int) string { return func(int) string { return s } }

	behind := limited("127.0.0.0/8")
	require.Less(t, left(behind, always("203.0.113.1")), 50)
	require.Positive(t, left(behind, always("203.0.113.2"))) // another one
	require.Zero(t, left(behind, always("203.0.113.1")))
	require.Less(t, left(behind, func(i int) string { return fmt.Sprintf("198.51.100.%d, 203.0.113.3", i) }), 50)
	for i := range 300 { // and those who follow links
		resp, _ := behind.do(t, "GET", "/abcdefg", "", "X-Forwarded-For", fmt.Sprint("203.0.114.", i%200))
		require.NotEqual(t, http.StatusTooManyRequests, resp.StatusCode)
	}
	v := made(behind, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "sho.rt")
	require.Equal(t, "https://sho.rt/"+v.Code, v.ShortURL)

	open := limited("10.0.0.0/8")
	v = made(open, "X-Forwarded-Proto", "https", "X-Forwarded-Host", "sho.rt")
	require.Equal(t, open.url+"/"+v.Code, v.ShortURL)
	require.Less(t, left(open, func(i int) string { return fmt.Sprint("203.0.113.", i) }), 50)

	based := serveApp(t, func(s *settings) { s.base, s.proxies = "https://base.example", trusted(t, "127.0.0.1") })
	v = made(based, "X-Forwarded-Host", "sho.rt")
	require.Equal(t, "https://base.example/"+v.Code, v.ShortURL)
}

// TestDrain ends a server: it goes on for the delay, and says before that it does.
func TestDrain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	said, ended := make(chan bool, 1), make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	go func() {
		ended <- settings{drain: time.Minute, drainDelay: time.Hour}.serve(ctx, l, h, slog.New(slog.DiscardHandler), func() { said <- true })
	}()
	cancel()
	<-said
	for range 3 { // each with a connection of its own
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Empty(t, ended)
	require.NoError(t, l.Close()) // nobody can come any more: there is nothing to wait for
	require.ErrorIs(t, <-ended, net.ErrClosed)
}

// TestJoining has a process that is one of several, but not known to the others yet: it is not ready.
func TestJoining(t *testing.T) {
	f := serveApp(t, nil)
	require.NoError(t, f.app.ready(t.Context()))
	m := &members{}
	f.app.links.others = m
	defer func() { f.app.links.others = nil }()
	err := f.app.ready(t.Context())
	require.ErrorIs(t, err, errJoining)
	require.Equal(t, "the other processes are not known yet", missing(err))
	m.periods = 1
	require.NoError(t, f.app.ready(t.Context()))
}

// TestDrainDelayed has a service that is to end say so, and go on.
func TestDrainDelayed(t *testing.T) {
	f := serveApp(t, func(s *settings) { s.drainDelay = time.Second })
	v := f.create(t, `{"url": "https://example.com/"}`)
	ended := make(chan struct{})
	go func() {
		f.stop()
		close(ended)
	}()
	seen := 0
	for { // until the time is over
		req, err := http.NewRequest("GET", f.url+"/readyz", nil)
		require.NoError(t, err)
		resp, err := f.client.Do(req)
		if err != nil {
			break
		}
		require.NoError(t, resp.Body.Close())
		if resp.StatusCode == http.StatusOK {
			continue
		}
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		resp, err = f.client.Get(f.url + "/" + v.Code)
		if err != nil {
			break
		}
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusFound, resp.StatusCode)
		seen++
	}
	require.Positive(t, seen)
	<-ended
}
