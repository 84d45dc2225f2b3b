package proxy

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// A ReverseProxyConfig configures a reverse proxy.
type ReverseProxyConfig struct {
	_ struct{}

	// Transport says how requests are balanced and tried again. Two defaults are others than NewTransport's: Base
	// neither asks for compression nor decompresses, and Hash is HashRemoteAddr.
	Transport TransportConfig
	// MaxBufferedBody is how many bytes of a request's body are kept so that it can be sent again. A request
	// whose body is longer is not retried once that much of it was sent. 0: 64 KiB; negative: none.
	MaxBufferedBody int64

	// TrustForwarded keeps the header fields Forwarded and X-Forwarded-* of incoming requests, and adds to
	// X-Forwarded-For. It is for proxies that can only be reached through others that set them. Otherwise they
	// are removed, with X-Real-Ip, and set anew, as anybody can send any.
	TrustForwarded bool
	// PreserveHost sends the Host of the incoming request. Otherwise it is the endpoint's.
	PreserveHost bool
	// Rewrite changes requests before they are sent, at the end of what this package does itself. The URL's
	// scheme and host are set after it. It must not change In. nil: nothing else is changed.
	Rewrite func(*httputil.ProxyRequest)

	// ModifyResponse changes answers, or returns an error for ErrorHandler; see httputil.ReverseProxy. nil: they
	// are as they come.
	ModifyResponse func(*http.Response) error
	// ErrorHandler answers requests for which there is no answer. nil: WriteError.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)
	// FlushInterval is how often answers are flushed while they are copied; negative: after each write.
	// Server-sent events, and answers of unknown length, are always flushed after each write. 0: when
	// a buffer is full.
	FlushInterval time.Duration
	// ErrorLog gets what httputil.ReverseProxy has to say, such as of answers that broke off. nil: it is discarded.
	ErrorLog *log.Logger
}

// NewReverseProxy returns a reverse proxy for the endpoints of pool; see NewTransport. It returns an error if pool is
// nil or a field is out of range.
func NewReverseProxy(pool *loadbalance.Pool[*url.URL], c ReverseProxyConfig) (*httputil.ReverseProxy, error) {
	if c.FlushInterval < -1<<62 {
		return nil, fmt.Errorf("loadbalance/proxy: FlushInterval must be, got %v", c.FlushInterval)
	}
	t, err := NewTransport(pool, c.Transport)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{Transport: t}, nil
}

// WriteError answers a request for which a Transport has returned err: with status 503 for
// loadbalance.ErrUnavailable, 504 for a time-out, and otherwise 502.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	if errors.Is(err, loadbalance.ErrUnavailable) {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, http.StatusText(status), status)
}
