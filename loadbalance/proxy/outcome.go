package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// Classify returns the Outcome of an HTTP request by the status of its answer, or by the error if there
// is one: OK below 400; Overload for 429 and 503; Timeout for 504; ClientError for 501, 505, and others
// below 500; and ServerError for the others. Of errors, those of connecting, with the handshake of TLS,
// are ConnectError, or Canceled if it is for a shortage here (of files, memory or local ports);
// ErrRequestBody is Canceled; and others are as loadbalance.OutcomeOf has them. It knows nothing of
// gRPC, where failures have status 200.
func Classify(resp *http.Response, err error) loadbalance.Outcome {
	switch {
	case err != nil && errors.Is(err, ErrRequestBody): // which may wrap any
		return loadbalance.Canceled
	case err != nil && neverSent(err) && shortage(err):
		return loadbalance.Canceled
	case err != nil && neverSent(err):
		return loadbalance.ConnectError
	case err != nil || resp == nil:
		return loadbalance.OutcomeOf(err)
	case resp.StatusCode < 400:
		return loadbalance.OK
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return loadbalance.Overload
	case http.StatusGatewayTimeout:
		return loadbalance.Timeout
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return loadbalance.ClientError
	}
	if resp.StatusCode < 500 {
		return loadbalance.ClientError
	}
	return loadbalance.ServerError
}

// ErrTryTimeout is in the error of a request whose last try has taken TryTimeout. It has a method
// Timeout that returns true.
var ErrTryTimeout error = tryTimeout{}

type tryTimeout struct{}

func (tryTimeout) Error() string { return "loadbalance/proxy: no answer within TryTimeout" }
func (tryTimeout) Timeout() bool { return true }

// errOpaque refuses URLs that say what is asked for where nobody looks who goes by their path.
var errOpaque = errors.New("loadbalance/proxy: URL of the request must have a path, and no opaque part")

var errNoURL = errors.New("loadbalance/proxy: the endpoint has no URL with a host")

// An Error is what a Transport returns if a request was tried, and there is no answer. If it could not
// be tried at all, as no endpoint is available, the error is that of the Pool's Pick.
//
// An Error is safe for concurrent use by multiple goroutines, as long as nobody changes it.
type Error struct {
	ID    string // of the endpoint of the last try
	Tries int    // how many there were
	Err   error  // of the last one
}

// Error names the endpoint; so it is not for clients.
func (e *Error) Error() string {
	return fmt.Sprintf("loadbalance/proxy: try %d, endpoint %q: %v", e.Tries, e.ID, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether Err is a time-out.
func (e *Error) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// neverSent reports whether nothing of a request can have been sent, as there was no connection.
//
// What happens after the handshake of TLS is never taken for that. Some of what happens in it is not
// either: an alert of the other side looks the same at any time.
func neverSent(err error) bool {
	switch {
	case err == errNoURL:
		return true
	case errors.Is(err, ErrRequestBody):
		return false
	}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return errors.As(err, &op) && op.Op == "dial" ||
		errors.As(err, &cert) ||
		errors.As(err, &record) && record.Conn != nil || // it is nil if there has been a handshake
		err.Error() == "net/http: TLS handshake timeout" // it has a type of its own, which is not exported
}

// shortage reports whether an error of dialing is for what this system lacks: then it would be the same
// with all endpoints, and have them ejected.
func shortage(err error) bool {
	for _, e := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// notValid reports whether a request is refused by package net/http itself, whatever the endpoint.
func notValid(err error) bool {
	s := err.Error()
	return strings.HasPrefix(s, "net/http: invalid ") ||
		strings.HasPrefix(s, "http2: invalid ") ||
		strings.HasPrefix(s, "http: ContentLength=") || // and the body has another length
		s == "http2: request body larger than specified content length" ||
		s == headerTooLong
}

// headerTooLong is the error of HTTP/2 for a request whose header is longer than the endpoint allows.
const headerTooLong = "http2: request header list larger than peer's advertised limit"
