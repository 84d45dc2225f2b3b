package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A router finds the route of a request. Routes are in the order in which they are looked at, so the
// first that fits is the right one: an example can afford to look at them all.
type router struct {
	candidates []candidate
}

// A candidate is a route for one of its hosts.
type candidate struct {
	*route
	host string // "": any
}

// newRouter sorts routes: exact hosts before patterns, the longer ones first, before any host; then
// exact paths before prefixes, the longer ones first; then those that ask for more. Otherwise it is
// the order of the file.
func newRouter(routes []*route) *router {
	x := &router{}
	for _, r := range routes {
		for _, host := range r.config.Hosts {
			x.candidates = append(x.candidates, candidate{r, host})
		}
		if len(r.config.Hosts) == 0 {
			x.candidates = append(x.candidates, candidate{r, ""})
		}
	}
	slices.SortStableFunc(x.candidates, func(a, b candidate) int {
		return slices.Compare(b.rank(), a.rank())
	})
	return x
}

// rank says how exactly a route says what it is for.
func (r candidate) rank() []int {
	host := 0
	switch {
	case strings.HasPrefix(r.host, "*."):
		host = len(r.host)
	case r.host != "":
		host = 1 << 20
	}
	exact, methods := 0, 0
	if r.config.Path != "" {
		exact = 1
	}
	if len(r.config.Methods) > 0 {
		methods = 1
	}
	return []int{host, exact, len(r.config.Path + r.config.Prefix), len(r.config.Headers), methods}
}

func (r candidate) matchesHost(host string) bool {
	if suffix, ok := strings.CutPrefix(r.host, "*"); ok {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return r.host == "" || r.host == host
}

func (r *route) matchesPath(p string) bool {
	if r.config.Path != "" {
		return p == r.config.Path
	}
	return under(p, r.config.Prefix)
}

func (r *route) matchesHeaders(h http.Header) bool {
	for name, want := range r.config.Headers {
		got := h.Values(name)
		if len(got) == 0 || want != "*" && !slices.Contains(got, want) {
			return false
		}
	}
	return true
}

func (r *route) matchesMethod(m string) bool {
	return len(r.config.Methods) == 0 || slices.Contains(r.config.Methods, m)
}

// match returns the route of a request; or if there is none, the methods with which there would be
// one.
func (x *router) match(r *http.Request) (found *route, allowed []string) {
	host := hostOf(r)
	for _, c := range x.candidates {
		if !c.matchesHost(host) || !c.matchesPath(r.URL.Path) || !c.matchesHeaders(r.Header) {
			continue
		}
		if c.matchesMethod(r.Method) {
			return c.route, nil
		}
		allowed = append(allowed, c.config.Methods...)
	}
	slices.Sort(allowed)
	return nil, slices.Compact(allowed)
}

func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// ServeHTTP serves a request by its route.
func (x *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "" && r.Method != http.MethodConnect { // GET http://host HTTP/1.1
		r.URL.Path = "/"
	}
	// What is decided by the path here must be the path that the backend sees: /public/../private is
	// not public to a server that resolves it.
	if r.URL.Path != "*" && !cleanPath(r.URL.Path) {
		problem(w, http.StatusBadRequest, "The path must not have //, /./, /../, ; or control characters in it.")
		return
	}
	c, allowed := x.match(r)
	switch {
	case c != nil:
		entryOf(r).route = c
		c.handler.ServeHTTP(w, r)
	case allowed != nil:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		problem(w, http.StatusMethodNotAllowed, "There is nothing here for this method.")
	default:
		problem(w, http.StatusNotFound, "There is no route for this host and path.")
	}
}

// stripPrefix has the backend see the path without a prefix.
func stripPrefix(prefix string, next http.Handler) http.Handler {
	if prefix == "" {
		return next
	}
	prefix = strings.TrimSuffix(prefix, "/")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := *r.URL
		u.Path = "/" + strings.TrimPrefix(strings.TrimPrefix(u.Path, prefix), "/")
		if u.RawPath != "" {
			// It is the same path in another form of escaping; where the prefix itself was escaped,
			// that is lost, and then the path is escaped anew.
			raw, ok := strings.CutPrefix(u.RawPath, (&url.URL{Path: prefix}).EscapedPath())
			u.RawPath = ""
			if ok {
				u.RawPath = "/" + strings.TrimPrefix(raw, "/")
			}
		}
		r.URL = &u
		next.ServeHTTP(w, r)
	})
}

// changeResponse changes the headers of all answers of a route, also of the gateway's own.
func changeResponse(c headersConfig, next http.Handler) http.Handler {
	if c.empty() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&headerWriter{ResponseWriter: w, change: c}, r)
	})
}

func (c headersConfig) empty() bool { return len(c.Set)+len(c.Add)+len(c.Remove) == 0 }

func (c headersConfig) apply(h http.Header) {
	for _, name := range c.Remove {
		h.Del(name)
	}
	for name, v := range c.Set {
		h.Set(name, v)
	}
	for name, v := range c.Add {
		h.Add(name, v)
	}
}

// A headerWriter changes headers at the last moment at which that is possible.
type headerWriter struct {
	http.ResponseWriter
	change headersConfig
	done   bool
}

// Unwrap is for http.ResponseController.
func (w *headerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader changes the headers of the final response.
func (w *headerWriter) WriteHeader(code int) {
	if !w.done && (code >= 200 || code == http.StatusSwitchingProtocols) {
		w.done = true
		w.change.apply(w.Header())
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write writes the headers, if nobody has.
func (w *headerWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// problem answers what the gateway itself has to say, in the form of RFC 9457.
func problem(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
