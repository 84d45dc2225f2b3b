package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

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
	// Statuses are those of an endpoint that is well, from 100 to 599. nil: 200 to 399, and a redirect
	// is not followed.
	Statuses []int
	// Contains is what the first MaxBody bytes of the answer must contain. "": the body is not looked at.
	Contains string
	// MaxBody is how many bytes of the answer are read, from 1 to 1 GiB. 0: 64 KiB.
	MaxBody int64
	// TLS is for endpoints with https. nil: the defaults of package crypto/tls.
	TLS *tls.Config
}

// CheckHTTP returns a Check for loadbalance.HealthConfig that asks endpoints by HTTP. It returns an
// error if a field is out of range.
//
// Each check makes a connection of its own, as an endpoint that is well takes new ones; and it goes to
// the endpoint directly, whatever HTTP_PROXY says.
func CheckHTTP(c CheckHTTPConfig) (func(context.Context, loadbalance.Endpoint[*url.URL]) error, error) {
	if c.MaxBody == 0 {
		c.MaxBody = 64 << 10
	}
	if c.Path == "" {
		c.Path = "/"
	}
	c.Statuses = slices.Clone(c.Statuses)
	for _, status := range c.Statuses {
		if status < 100 || status > 599 {
			return nil, fmt.Errorf("loadbalance/proxy: Statuses must be between 100 and 599, got %d", status)
		}
	}
	if c.MaxBody < 1 || c.MaxBody > 1<<30 {
		return nil, fmt.Errorf("loadbalance/proxy: MaxBody must be between 1 and %d, got %d", 1<<30, c.MaxBody)
	}
	path, err := url.Parse(c.Path)
	if err != nil || !strings.HasPrefix(c.Path, "/") || path.Host != "" {
		return nil, fmt.Errorf("loadbalance/proxy: Path must be a path that begins with /, got %q", c.Path)
	}
	asked, err := http.NewRequest(c.Method, "/", nil)
	if err != nil {
		return nil, fmt.Errorf("loadbalance/proxy: Method must be one of HTTP, got %q", c.Method)
	}
	asked.Header = c.Header.Clone()
	if asked.Header == nil {
		asked.Header = make(http.Header)
	}
	if asked.Header.Get("User-Agent") == "" {
		asked.Header.Set("User-Agent", "sysblocks-health-check")
	}
	asked.Host = c.Host
	base := &http.Transport{
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if c.TLS != nil {
		base.TLSClientConfig = c.TLS.Clone()
	}
	return func(ctx context.Context, e loadbalance.Endpoint[*url.URL]) error {
		if e.Value == nil || e.Value.Host == "" {
			return errNoURL
		}
		req := asked.WithContext(ctx)
		u := *path
		joinURL(&u, e.Value)
		req.URL = &u
		resp, err := base.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if c.Statuses == nil && (resp.StatusCode < 200 || resp.StatusCode > 399) ||
			c.Statuses != nil && !slices.Contains(c.Statuses, resp.StatusCode) {
			return fmt.Errorf("loadbalance/proxy: the check was answered with status %d", resp.StatusCode)
		}
		if c.Contains == "" {
			return nil
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, c.MaxBody))
		if err != nil {
			return err
		}
		if !bytes.Contains(body, []byte(c.Contains)) {
			return fmt.Errorf("loadbalance/proxy: the check was answered without %q in the first %d bytes", c.Contains, len(body))
		}
		return nil
	}, nil
}
