package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
)

// consumerHeader tells backends whose key a request had; clients cannot write it.
const consumerHeader = "X-Consumer"

// An auth lets through only requests with one of some API keys. The gateway knows hashes of them, so
// that who reads its config has no key; SHA-256 is enough for keys that are long and random, as
// it would not be for passwords.
type auth struct {
	header string
	keys   []*apiKeyConfig
	routed *route // for the counts
	next   http.Handler
}

func newAuth(c *config, a *authConfig, r *route, next http.Handler) *auth {
	x := &auth{header: a.APIKey, routed: r, next: next}
	for i := range c.APIKeys {
		if k := &c.APIKeys[i]; len(a.Keys) == 0 || slices.Contains(a.Keys, k.Name) {
			x.keys = append(x.keys, k)
		}
	}
	return x
}

// keyHeaders returns the headers that some route takes keys from. No backend gets any of them: a client may
// send its key also where it is not asked for.
func (c *config) keyHeaders() map[string]bool {
	headers := map[string]bool{}
	for _, r := range c.Routes {
		if r.Auth != nil {
			headers[http.CanonicalHeaderKey(r.Auth.APIKey)] = true
		}
	}
	return headers
}

// ServeHTTP answers 401, or has the next handler know whose key it is. The key itself goes no
// further than this, by Rewrite.
func (x *auth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Values(x.header)
	name := ""
	if len(given) == 1 {
		name = x.find(given[0])
	}
	if name == "" {
		x.routed.unauthorized.Add(1)
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("ApiKey header=%q", x.header))
		problem(w, http.StatusUnauthorized, "A valid API key is needed in the header "+x.header+".")
		return
	}
	entryOf(r).apiKey = name
	r.Header.Set(consumerHeader, name) // the request is the gateway's own: accessLog has cloned it
	x.next.ServeHTTP(w, r)
}

// find returns the name of a key. It takes the same time whichever it is, and if it is none.
func (x *auth) find(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := ""
	for _, k := range x.keys {
		if subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 {
			name = k.Name
		}
	}
	return name
}
