package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was not made by encode has no ID; and what was has its own.
func FuzzSticky(f *testing.F) {
	s := newTestSticky(f, StickyCookie{})
	for _, seed := range []string{"", "a", "lb=a", s.encode("a"), s.encode("b") + "; lb=x", "\x00", `"x"`, strings.Repeat("A", 70)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if id := s.decode(value); id != "" {
			require.Equal(t, value, s.encode(id))
		}
		if cookie := s.encode(value); value != "" && len(cookie) <= maxCookie {
			require.Equal(t, value, s.decode(cookie))
		}
		for id := range s.ids(&http.Request{Header: http.Header{"Cookie": {"lb=" + value}}}) {
			require.Contains(t, value, s.encode(id))
		}
	})
}

// A URL that is joined to an endpoint's stays one, of that endpoint.
func FuzzJoinURL(f *testing.F) {
	f.Add("http://e/b", "/a")
	f.Add("http://e/b%2F/", "//a/..%2f/")
	f.Add("https://e?x", "*")
	f.Fuzz(func(t *testing.T, endpoint, path string) {
		e, err := url.Parse(endpoint)
		if err != nil || e.Host == "" {
			return
		}
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		joinURL(u, e)
		require.Equal(t, e.Host, u.Host)
		require.Equal(t, e.Scheme, u.Scheme)
		require.Nil(t, u.User)
		if e.Opaque == "" && u.Opaque == "" {
			require.True(t, strings.HasPrefix(u.Path, strings.TrimSuffix(e.Path, "/")) || u.Path == "*", "%q does not begin with %q", u.Path, e.Path)
		}
	})
}
