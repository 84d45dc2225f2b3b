package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// A ReverseProxyConfig configures a reverse proxy.
type ReverseProxyConfig struct {
	_ struct{}

	// Transport says how requests are balanced and tried again. Two defaults are others than
	// NewTransport's: Base neither asks for compression nor decompresses, and Hash is HashRemoteAddr.
	Transport TransportConfig
	// MaxBufferedBody is how many bytes of a request's body are kept so that it can be sent again. A
	// request whose body is longer is not retried once that much of it was sent. 0: 64 KiB; negative:
	// none.
	MaxBufferedBody int64

	// TrustForwarded keeps the header fields Forwarded and X-Forwarded-* of incoming requests, and adds
	// to X-Forwarded-For. It is for proxies that can only be reached through others that set them.
	// Otherwise they are removed, with X-Real-Ip, and set anew, as anybody can send any; and so are their
	// names with _, such as X_Forwarded_For, which many programs take for the same.
	TrustForwarded bool
	// PreserveHost sends the Host of the incoming request. Otherwise it is the endpoint's.
	PreserveHost bool
	// Rewrite changes requests before they are sent, at the end of what this package does itself. The
	// URL's scheme and host are set after it; Out.Host stays, if it sets that. It must not change In.
	// nil: nothing else is changed.
	Rewrite func(*httputil.ProxyRequest)

	// ModifyResponse changes answers, or returns an error for ErrorHandler; see httputil.ReverseProxy.
	// nil: they are as they come.
	ModifyResponse func(*http.Response) error
	// ErrorHandler answers requests for which there is no answer. nil: WriteError.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
	// FlushInterval is how often answers are flushed while they are copied; negative: after each write.
	// Server-sent events, and answers of unknown length, are always flushed after each write. 0: when
	// a buffer is full.
	FlushInterval time.Duration
	// ErrorLog gets what httputil.ReverseProxy has to say, such as of answers that broke off. nil: it
	// is discarded.
	ErrorLog *log.Logger
}

// NewReverseProxy returns a reverse proxy for the endpoints of pool; see NewTransport. It returns an
// error if pool is nil or a field is out of range.
//
// It passes on upgrades of the protocol (WebSocket), server-sent events, bodies of any length in both
// directions, and trailers (gRPC, if both sides speak HTTP/2). Path and query are passed on as they have
// come, also what package net/url cannot parse in a query: httputil alone would drop parameters with ; or
// a wrong %, and sort the others. So who decides by a parameter before the proxy must know that endpoints
// may see others than url.ParseQuery. It refuses, with 400, URLs that are not
// of a path, as in GET x:http://other/admin: whatever guards paths before it does not see that one.
func NewReverseProxy(pool *loadbalance.Pool[*url.URL], c ReverseProxyConfig) (*httputil.ReverseProxy, error) {
	if c.MaxBufferedBody == 0 {
		c.MaxBufferedBody = 64 << 10
	}
	if c.MaxBufferedBody > math.MaxInt32 {
		return nil, fmt.Errorf("loadbalance/proxy: MaxBufferedBody must be at most %d, got %d", math.MaxInt32, c.MaxBufferedBody)
	}
	if c.Transport.Base == nil {
		base := newBase()
		base.DisableCompression = true
		c.Transport.Base = base
	}
	if c.Transport.Hash == nil {
		c.Transport.Hash = HashRemoteAddr
	}
	if c.ErrorHandler == nil {
		c.ErrorHandler = WriteError
	}
	if c.ErrorLog == nil {
		c.ErrorLog = log.New(io.Discard, "", 0) // otherwise it would be that of package log
	}
	t, err := NewTransport(pool, c.Transport)
	if err != nil {
		return nil, err
	}
	t.buffer = max(c.MaxBufferedBody, 0)
	t.server = true
	if modify := c.ModifyResponse; modify != nil {
		c.ModifyResponse = func(resp *http.Response) error {
			returned := false
			defer func() {
				if !returned {
					resp.Body.Close() // by a panic; nobody else would
				}
			}()
			err := modify(resp)
			returned = true
			return err
		}
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			forward(r, c.TrustForwarded)
			if !c.PreserveHost {
				r.Out.Host = ""
			}
			r.Out.URL.Host = "" // what there may be is from the client: GET http://host/
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			if c.Rewrite != nil {
				c.Rewrite(r)
			}
		},
		Transport:      t,
		FlushInterval:  c.FlushInterval,
		ErrorLog:       c.ErrorLog,
		BufferPool:     buffers{},
		ModifyResponse: c.ModifyResponse,
		ErrorHandler:   c.ErrorHandler,
	}, nil
}

// forward sets the header fields that tell where a request comes from. Those of the request that may be
// forged are removed: some have been by httputil, as have those that are for one connection only.
func forward(r *httputil.ProxyRequest, trust bool) {
	if strings.EqualFold(r.Out.Header.Get("Upgrade"), "h2c") {
		// The client offers what this server does not do; and Base refuses it over HTTP/2.
		delete(r.Out.Header, "Connection")
		delete(r.Out.Header, "Upgrade")
	}
	delete(r.Out.Header, "Http2-Settings")
	if !trust {
		for name := range r.Out.Header {
			if forgeable(name) {
				delete(r.Out.Header, name)
			}
		}
		r.SetXForwarded()
		return
	}
	if prior := r.In.Header["X-Forwarded-For"]; prior != nil {
		r.Out.Header["X-Forwarded-For"] = prior // SetXForwarded makes a new one of it
	}
	r.SetXForwarded()
	for _, name := range [...]string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if prior := r.In.Header[name]; prior != nil {
			r.Out.Header[name] = prior
		}
	}
	if prior := r.In.Header["X-Forwarded-For"]; prior != nil && r.Out.Header["X-Forwarded-For"] == nil {
		r.Out.Header["X-Forwarded-For"] = prior // over a Unix socket there is no address to be added
	}
}

// forgeable reports whether a header field tells where a request comes from. Many a program (CGI, WSGI)
// takes - and _ in names for the same.
func forgeable(name string) bool {
	if strings.Contains(name, "_") {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	return strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip"
}

// statusClientClosed is what nginx logs for requests that the client has given up.
const statusClientClosed = 499

// WriteError answers a request for which a Transport has returned err:
//
//	503    no endpoint is available (loadbalance.ErrUnavailable), with Retry-After: 1
//	504    the endpoint, or the request's context, has timed out
//	413    the request's body is longer than http.MaxBytesReader allows
//	400    the request's body cannot be read (ErrRequestBody), or its URL has no path (GET x:y)
//	431    the request's header is longer than the endpoint allows, which HTTP/2 tells beforehand
//	499    the client has gone, and nobody sees it but who logs statuses
//	502    anything else
//
// The body says nothing but what the status means.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	var tooLong *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	var failed *Error
	status := http.StatusBadGateway
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		w.WriteHeader(statusClientClosed)
		return
	case errors.As(err, &tooLong):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrRequestBody), errors.Is(err, errOpaque):
		status = http.StatusBadRequest
	case errors.As(err, &failed) && failed.Err.Error() == headerTooLong:
		status = http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, loadbalance.ErrUnavailable):
		w.Header().Set("Retry-After", "1")
		status = http.StatusServiceUnavailable
	case errors.As(err, &timeout) && timeout.Timeout(), r.Context().Err() != nil:
		status = http.StatusGatewayTimeout
	}
	http.Error(w, http.StatusText(status), status)
}

// bufferSize is how much of a body is copied at a time.
const bufferSize = 32 << 10

var bufferPool = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// buffers are those that bodies are copied through. They are kept by their arrays, as to keep slices
// would allocate.
type buffers struct{}

func (buffers) Get() []byte  { return bufferPool.Get().(*[bufferSize]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[bufferSize]byte)(b)) }
