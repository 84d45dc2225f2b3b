package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
	"github.com/sysblocks/sysblocks/shard"
)

//go:embed page
var pageFiles embed.FS

// A server is the service over HTTP.
type server struct {
	links    *links
	recorder *recorder
	api      *api
	limits   *httplimit.Middleware // nil: none
	metrics  *metrics
	log      *slog.Logger

	seen     *seenStatus
	draining atomic.Bool                     // it is being shut down: readyz says so first
	ready    func(ctx context.Context) error // what is missing
}

// statusGone stands, in the metrics, for an answer to a client that has gone away: no client ever sees it.
const statusGone = 499

// handler returns all paths. Those of the service come before codes.
func (s *server) handler() http.Handler {
	limited := http.NewServeMux()
	s.api.register(limited)
	limited.HandleFunc("GET /{code}", s.redirect)

	mux := http.NewServeMux()
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // cannot be: it is embedded
	}
	static := http.FileServerFS(files)
	mux.Handle("GET /{$}", static)
	mux.Handle("GET /assets/", http.StripPrefix("/assets/", static))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "openapi.json") })
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "favicon.svg") })
	mux.HandleFunc("GET /robots.txt", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("User-agent: *\nDisallow: /api/\n"))
	})
	mux.HandleFunc("GET /api/status", s.status)
	mux.HandleFunc("/api/status", notAllowed("GET, HEAD"))
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.links.owners != nil {
		mux.HandleFunc("GET "+ownerPath+"{code}", s.links.owners.serve(s.links))
	}
	var rest http.Handler = limited
	if s.limits != nil {
		rest = s.limits.Handler(limited)
	}
	mux.Handle("/", rest)
	// A page elsewhere cannot make a browser change anything here: what changes something must come from this
	// origin, or from what is no browser.
	same := http.NewCrossOriginProtection()
	same.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusForbidden, "a page of another origin must not do this")
	}))
	return s.metrics.count(secure(same.Handler(mux)))
}

// contentSecurityPolicy lets the page load what is embedded here, and nothing else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// These are the same in all answers, and not changed: a slice for each of them would be for nothing.
var (
	policyHeader   = []string{contentSecurityPolicy}
	nosniffHeader  = []string{"nosniff"}
	referrerHeader = []string{"strict-origin-when-cross-origin"}
	noStore        = []string{"no-store"}
)

// secure sets the headers that all answers have.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Security-Policy"] = policyHeader
		h["X-Content-Type-Options"] = nosniffHeader
		h["Referrer-Policy"] = referrerHeader
		next.ServeHTTP(w, r)
	})
}

// permanentAge is how long a client may keep a permanent redirect at most, in seconds: until then its clicks are not
// counted, and it does not learn that the link was deleted.
const permanentAge = 90

// redirect follows a link. It is answered when its click is recorded.
func (s *server) redirect(w http.ResponseWriter, r *http.Request) {
	code := r.PathValue("code")
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	h := w.Header()
	h["Cache-Control"] = noStore
	l, err := s.links.resolve(ctx, code)
	switch {
	case errors.Is(err, errNoLink):
		http.Error(w, "There is no such link. It may have expired, or have been deleted.", http.StatusNotFound)
		return
	case err != nil && r.Context().Err() != nil:
		w.WriteHeader(statusGone) // nobody waits for the answer
		return
	case err != nil:
		s.log.Warn("a link cannot be looked up", "code", code, "error", err)
		h.Set("Retry-After", "5")
		http.Error(w, "This link cannot be looked up at the moment. Please try again.", http.StatusServiceUnavailable)
		return
	}
	now := s.links.clock()
	if r.Method == http.MethodGet {
		_ = s.recorder.record(ctx, click{Code: l.Code, Day: dayOf(now), Referrer: referrer(r)})
	}
	h["Location"] = []string{l.Target}
	status := http.StatusFound
	if l.Permanent {
		status = http.StatusMovedPermanently
		age := permanentAge
		if !l.Expires.IsZero() { // nobody may keep it for longer than there is
			age = min(age, int(l.Expires.Sub(now)/time.Second))
		}
		h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", age))
	}
	w.WriteHeader(status)
}

// readyz says whether requests are to be sent here.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if s.draining.Load() {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	if err := s.ready(ctx); err != nil {
		s.log.Warn("the service is not ready", "error", err)
		http.Error(w, missing(err), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// missing says which databases do not answer, and to strangers no more than that: drivers tell who connects to where.
func missing(err error) string {
	var partial *shard.PartialError
	if errors.Is(err, errJoining) {
		return err.Error()
	}
	if !errors.As(err, &partial) {
		return "the databases do not answer"
	}
	var names []string
	for _, f := range partial.Failed {
		names = append(names, string(f.Shard))
	}
	return "no answer from " + strings.Join(names, ", ")
}
