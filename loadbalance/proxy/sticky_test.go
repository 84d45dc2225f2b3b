package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/loadbalance"
)

var secret = []byte("0123456789abcdef")

func newTestSticky(t testing.TB, c StickyCookie) *sticky {
	if c.Name == "" {
		c.Name = "lb"
	}
	if c.Secret == nil {
		c.Secret = secret
	}
	s, err := newSticky(c)
	require.NoError(t, err)
	return s
}

func TestStickyErrors(t *testing.T) {
	for _, x := range []struct {
		c    StickyCookie
		want string
	}{
		{StickyCookie{Secret: secret}, "Name must be a token"},
		{StickyCookie{Name: "a b", Secret: secret}, "Name must be a token"},
		{StickyCookie{Name: "a", Path: "/;x", Secret: secret}, "Name must be a token"},
		{StickyCookie{Name: "a"}, "Secret must have at least 16 bytes, got 0"},
		{StickyCookie{Name: "a", Secret: secret[:15]}, "Secret must have at least 16 bytes, got 15"},
		{StickyCookie{Name: "a", Secret: secret, MaxAge: -time.Second}, "MaxAge must be whole seconds"},
		{StickyCookie{Name: "a", Secret: secret, MaxAge: time.Millisecond}, "MaxAge must be whole seconds"},
		{StickyCookie{Name: "a", Secret: secret, MaxAge: 1 << 62}, "MaxAge must be whole seconds"},
		{StickyCookie{Name: "a", Secret: secret, SameSite: 7}, "SameSite must be one of the constants, got 7"},
		{StickyCookie{Name: "a", Secret: secret, SameSite: http.SameSiteNoneMode, Insecure: true}, "Insecure must be false"},
	} {
		_, err := newSticky(x.c)
		require.ErrorContains(t, err, "loadbalance/proxy: Sticky."+x.want)
		require.NotContains(t, err.Error(), string(secret[:15]))
	}
}

func TestStickyValues(t *testing.T) {
	s := newTestSticky(t, StickyCookie{})
	for _, id := range []string{"a", "10.0.0.1:8080", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 2500), "\x00", "a\x00\x00", "\x01", "é"} {
		value := s.encode(id)
		require.Equal(t, id, s.decode(value))
		if len(id) > 2 {
			require.NotContains(t, value, id)
		}
		require.Equal(t, value, newTestSticky(t, StickyCookie{}).encode(id), "proxies with the same secret do not agree")
		require.Empty(t, newTestSticky(t, StickyCookie{Secret: []byte("another secret!!")}).decode(value))
		require.Empty(t, newTestSticky(t, StickyCookie{Name: "other"}).decode(value))
	}
	require.Len(t, s.encode("abc"), len(s.encode("abcdefghijklmnop")), "the length tells IDs apart")
	for _, bad := range []string{"", "a", "x=y", s.encode("a") + "A", s.encode("a")[1:], "a.b.c", strings.Repeat("A", 5000)} {
		require.Empty(t, s.decode(bad), bad)
	}
	// There is one value for each ID: none that differs in a byte, not even in bits that base64 leaves over.
	for _, id := range []string{"a", strings.Repeat("x", 40), strings.Repeat("x", 70)} {
		value := []byte(s.encode(id))
		for i, old := range value {
			for _, other := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.\n") {
				if value[i] = other; old != other && s.decode(string(value)) != "" {
					t.Fatalf("byte %d can be %q", i, other)
				}
			}
			value[i] = old
		}
		require.Empty(t, s.decode(string(value)+"\n"))
	}
}

func TestStickyAttributes(t *testing.T) {
	h := make(http.Header)
	newTestSticky(t, StickyCookie{MaxAge: time.Minute, Path: "/app"}).set(h, "a")
	require.Contains(t, h.Get("Set-Cookie"), "; Path=/app; Max-Age=60; HttpOnly; Secure; SameSite=Lax")
	h = make(http.Header)
	newTestSticky(t, StickyCookie{Insecure: true, Readable: true, SameSite: http.SameSiteStrictMode}).set(h, "a")
	require.True(t, strings.HasSuffix(h.Get("Set-Cookie"), "; Path=/; SameSite=Strict"))
	h = make(http.Header)
	newTestSticky(t, StickyCookie{}).set(h, strings.Repeat("x", 4000)) // browsers would not have it
	require.Empty(t, h)
}

// A client comes back to the same endpoint, through any proxy, until that is not available.
func TestSticky(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a", "http://b", "http://c")
	failing := ""
	status := 200
	c := TransportConfig{
		Tries:  3,
		Sticky: &StickyCookie{Name: "lb", Secret: secret, Insecure: true},
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == failing {
				return nil, errors.New("broken")
			}
			return reply(status, r.URL.Host), nil
		}),
	}
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	get := func() (string, *http.Response) {
		client := &http.Client{Jar: jar, Transport: newTransport(t, pool, c)}
		resp, err := client.Get("http://s.test/")
		require.NoError(t, err)
		return slurp(t, resp), resp
	}
	status = 500
	_, resp := get()
	require.Empty(t, resp.Cookies(), "a client is bound to an endpoint that fails")
	status = 404
	_, resp = get()
	require.Len(t, resp.Cookies(), 1)
	status = 200
	jar, err = cookiejar.New(nil)
	require.NoError(t, err)
	first, resp := get()
	require.Len(t, resp.Cookies(), 1)
	for range 10 {
		again, resp := get()
		require.Equal(t, first, again)
		require.Empty(t, resp.Cookies(), "the cookie is set again")
	}
	// It fails: another answers, and stays.
	failing = first
	second, resp := get()
	require.NotEqual(t, first, second)
	require.Len(t, resp.Cookies(), 1)
	failing = ""
	for range 10 {
		again, _ := get()
		require.Equal(t, second, again)
	}
	// It drains, and then it is removed.
	require.NoError(t, pool.Drain(t.Context(), second))
	third, resp := get()
	require.NotEqual(t, second, third)
	require.Len(t, resp.Cookies(), 1)
	require.NoError(t, pool.Remove(third))
	fourth, _ := get()
	require.NotEqual(t, third, fourth)
	require.NotEqual(t, second, fourth)
	// Who makes one up gets any.
	req := newRequest(t, "GET", "http://s.test/", nil)
	req.Header.Set("Cookie", fmt.Sprintf("lb=%s; lb=x; other=y", second))
	resp, err = newTransport(t, pool, c).RoundTrip(req)
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body)
	require.Len(t, resp.Cookies(), 1)
	// Of several, the first counts that is valid and whose endpoint is there.
	value := newTestSticky(t, StickyCookie{}).encode
	req.Header.Set("Cookie", fmt.Sprintf("lb=x; lb=%s; lb=%s; lb=%s", value("gone"), value(fourth), value("other")))
	for range 4 {
		resp, err := newTransport(t, pool, c).RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, fourth, slurp(t, resp))
		require.Empty(t, resp.Cookies())
	}
}

// Base need not make a header.
func TestStickyNoHeader(t *testing.T) {
	pool := newPool(t, loadbalance.Config[*url.URL]{}, "http://a")
	tr := newTransport(t, pool, TransportConfig{Sticky: &StickyCookie{Name: "s", Secret: make([]byte, 16)}, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200}, nil
	})})
	resp, err := tr.RoundTrip(newRequest(t, "GET", "http://s", nil))
	require.NoError(t, err)
	require.Len(t, resp.Cookies(), 1)
}
