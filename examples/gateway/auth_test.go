package main

import (
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// keys is the YAML of keys that are their names with "key-of-" before.
func keys(extra map[string]string, names ...string) string {
	s := "api_keys:\n"
	for _, n := range names {
		s += fmt.Sprintf("  - {name: %s, sha256: \"%x\"%s}\n", n, sha256.Sum256([]byte("key-of-"+n)), extra[n])
	}
	return s
}

func TestAPIKeys(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, keys(nil, "alice", "bob")+pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: all, prefix: /, pool: a, auth: {api_key: X-API-Key}}
  - {name: hers, prefix: /hers, pool: a, auth: {api_key: Authorization, keys: [alice]}}
  - {name: open, prefix: /open, pool: a}
`)
	for _, x := range []struct {
		path   string
		header []string
		who    string // "": nobody
	}{
		{"/", []string{"X-API-Key: key-of-alice"}, "alice"},
		{"/", []string{"X-API-Key: key-of-bob"}, "bob"},
		{"/", nil, ""},
		{"/", []string{"X-API-Key: "}, ""},
		{"/", []string{"X-API-Key: key-of-mallory"}, ""},
		{"/", []string{"X-API-Key: key-of-alice2"}, ""},
		{"/", []string{"X-API-Key: key-of-alice", "X-API-Key: key-of-bob"}, ""}, // which one is it?
		{"/", []string{"Authorization: key-of-alice"}, ""},
		{"/", []string{"X-Consumer: alice"}, ""},
		{"/", []string{"X-API-Key: key-of-bob", "Connection: X-Consumer, X-Request-Id"}, "bob"},
		{"/", []string{"X-API-Key: key-of-bob", "X_Consumer: alice"}, "bob"},
		{"/hers", []string{"Authorization: key-of-alice", "X-Consumer: bob"}, "alice"},
		{"/hers", []string{"Authorization: key-of-bob"}, ""},
	} {
		resp, body := f.get(t, x.path, x.header...)
		if x.who == "" {
			assert.Equal(t, 401, resp.StatusCode, x)
			assert.Contains(t, resp.Header.Get("WWW-Authenticate"), "ApiKey header=")
			continue
		}
		assert.Equal(t, 200, resp.StatusCode, x)
		assert.Contains(t, body, "X-Consumer: "+x.who+"\r\n")
		assert.Contains(t, body, "X-Request-Id: "+resp.Header.Get("X-Request-Id")+"\r\n")
		assert.Equal(t, 1, strings.Count(strings.ToLower(strings.ReplaceAll(body, "_", "-")), "x-consumer: "), body)
		assert.NotContains(t, body, "key-of-", "the key has gone on to the backend")
	}
	// Also a key that is sent where none, or that of another header, is asked for goes no further.
	for _, path := range []string{"/open", "/"} {
		resp, body := f.get(t, path, "X-API-Key: key-of-bob", "Authorization: key-of-alice")
		assert.Equal(t, 200, resp.StatusCode)
		assert.NotContains(t, body, "key-of-")
	}
	s := f.status()
	require.Len(t, s.Routes, 3)
	assert.EqualValues(t, 7, s.Routes[0].Unauthorized)
	assert.EqualValues(t, 1, s.Routes[1].Unauthorized)
	assert.NotContains(t, f.log.String(), "key-of-")
}

func TestRateLimits(t *testing.T) {
	a := echo(t, "a")
	f := startGateway(t, keys(map[string]string{"carol": ", rate_limit: {count: 3, per: 1h}"}, "alice", "bob", "carol")+pools(map[string]*httptest.Server{"a": a})+`
routes:
  - {name: address, path: /address, pool: a, rate_limit: {count: 2, per: 1h}}
  - {name: key, prefix: /key, pool: a, auth: {api_key: X-API-Key}, rate_limit: {count: 1, per: 1h, by: api_key}}
  - {name: other, prefix: /other, pool: a, auth: {api_key: X-API-Key}}
  - {name: guess, prefix: /guess, pool: a, auth: {api_key: X-API-Key}, rate_limit: {count: 2, per: 1h}}
`)
	expect := func(want int, path, who string) {
		t.Helper()
		var h []string
		if who != "" {
			h = []string{"X-API-Key: key-of-" + who}
		}
		resp, body := f.get(t, path, h...)
		require.Equal(t, want, resp.StatusCode, body)
		if want == 429 {
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.NotEmpty(t, resp.Header.Get("Retry-After"))
			assert.Contains(t, resp.Header.Get("RateLimit"), ";r=0;")
			assert.NotEmpty(t, resp.Header.Get("RateLimit-Policy"))
		}
	}
	expect(200, "/address", "")
	expect(200, "/address", "")
	expect(429, "/address", "")

	expect(200, "/key", "alice")
	expect(429, "/key", "alice")
	expect(200, "/key", "bob") // has his own
	expect(401, "/key", "mallory")

	// Carol's plan is hers on all routes with keys, and takes the place of the route's limit.
	expect(200, "/key", "carol")
	expect(200, "/key", "carol")
	expect(200, "/other", "carol")
	expect(429, "/other", "carol")
	expect(429, "/key", "carol")
	expect(200, "/other", "alice") // is not limited there

	// By address, those who guess are limited, too.
	expect(401, "/guess", "mallory")
	expect(200, "/guess", "alice")
	expect(429, "/guess", "mallory")

	limited := map[string]uint64{}
	for _, r := range f.status().Routes {
		limited[r.Name] = r.Limited
	}
	assert.Equal(t, map[string]uint64{"address": 1, "key": 2, "other": 1, "guess": 1}, limited)
}
