package proxy

import (
	"net/http"
	"time"
)

// A StickyCookie has clients come back to the endpoint that has answered them before, by a cookie.
type StickyCookie struct {
	_ struct{}

	// Name is that of the cookie, a token as RFC 6265 has it. Required.
	Name string
	// Secret is what the endpoint's ID is encrypted and authenticated with, at least 16 bytes. All proxies that clients
	// may come by need the same. Required.
	Secret []byte
	// MaxAge is how long clients keep the cookie, in whole seconds. 0: until they are closed.
	MaxAge time.Duration
	// Path is where clients send it. "": "/".
	Path string
	// Insecure has clients send it without TLS, too.
	Insecure bool
	// Readable lets scripts read it: it is not HttpOnly.
	Readable bool
	// SameSite says whether other sites' requests have it. 0: http.SameSiteLaxMode.
	SameSite http.SameSite
}
