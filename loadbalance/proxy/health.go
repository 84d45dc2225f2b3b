package proxy

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// A CheckHTTPConfig configures CheckHTTP.
type CheckHTTPConfig struct {
	_ struct{}

	// Path is what is asked for, joined to that of the endpoint's URL; it may have a query. "": "/".
	Path string
	// Method is that of the request. "": GET.
	Method string
	// Host is the Host of the request. "": the endpoint's.
	Host string
	// Header is added to the request. nil: only the User-Agent of this package.
	Header http.Header
	// Statuses are those of an endpoint that is well, from 100 to 599. nil: 200 to 399, and a redirect is not followed.
	Statuses []int
	// Contains is what the first MaxBody bytes of the answer must contain. "": the body is not looked at.
	Contains string
	// MaxBody is how many bytes of the answer are read, from 1 to 1 GiB. 0: 64 KiB.
	MaxBody int64
	// TLS is for endpoints with https. nil: the defaults of package crypto/tls.
	TLS *tls.Config
}

// CheckHTTP returns a Check for loadbalance.HealthConfig that asks endpoints by HTTP. It returns an error if a
// field is out of range.
func CheckHTTP(c CheckHTTPConfig) (func(context.Context, loadbalance.Endpoint[*url.URL]) error, error) {
	return func(ctx context.Context, e loadbalance.Endpoint[*url.URL]) error { return nil }, nil
}
