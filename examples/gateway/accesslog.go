package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

const requestIDHeader = "X-Request-Id"

// An entry is what is known of a request: the handlers fill it in, and at the end it is a line of
// the access log.
type entry struct {
	id       string
	client   netip.Addr // not valid: nobody knows
	route    *route     // nil: there is none
	hash     uint64     // for policies that hash
	endpoint string     // of the last try
	tries    int
	apiKey   string // its name

	clientFailed bool // it is the client's failure that no endpoint has answered
}

func (e *entry) routeName() string {
	if e.route == nil {
		return noRoute
	}
	return e.route.config.Name
}

type entryKey struct{}

// entryOf returns the entry of a request, which accessLog has made.
func entryOf(r *http.Request) *entry {
	return r.Context().Value(entryKey{}).(*entry)
}

// accessLog is the outermost handler: it gives requests their IDs, and writes a line for each.
func accessLog(log *slog.Logger, clients *clients, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		e := &entry{id: r.Header.Get(requestIDHeader), client: clients.Addr(r)}
		if !token(e.id) { // there is none, or somebody wants to write something else into logs
			e.id = newID()
		}
		method, host, path := r.Method, r.Host, r.URL.Path // handlers change them
		r = r.Clone(context.WithValue(r.Context(), entryKey{}, e))
		r.Header.Set(requestIDHeader, e.id)
		clients.clean(r)
		w.Header().Set(requestIDHeader, e.id)
		rec := &recorder{ResponseWriter: w}
		ended := false
		defer func() {
			// Also after a panic, with which the proxy ends a response that it cannot go on with.
			status := rec.status()
			if !ended && rec.code == 0 {
				status = 0 // there was none
			}
			log.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("id", e.id),
				slog.String("method", method),
				slog.String("host", host),
				slog.String("path", path),
				slog.String("route", e.routeName()),
				slog.String("endpoint", e.endpoint),
				slog.Int("status", status),
				slog.Int64("bytes", rec.bytes),
				slog.Float64("duration_ms", float64(time.Since(start))/float64(time.Millisecond)),
				slog.Int("tries", e.tries),
				slog.String("api_key", e.apiKey),
				slog.String("client", e.clientString()),
			)
		}()
		next.ServeHTTP(rec, r)
		ended = true
	})
}

// clientString is "" if nobody knows.
func (e *entry) clientString() string {
	if !e.client.IsValid() {
		return ""
	}
	return e.client.String()
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// A recorder remembers what is answered. What is sent after a WebSocket has begun, it does not see.
type recorder struct {
	http.ResponseWriter
	code  int
	bytes int64
	final func(code int) // is called with the status before it is written; nil: nothing is
}

// note notes the final status.
func (w *recorder) note(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	if w.final != nil {
		w.final(code)
	}
}

// Unwrap is for http.ResponseController: so streams are flushed, and WebSockets taken over.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack is how the proxy begins a WebSocket: there is no WriteHeader then.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.note(http.StatusSwitchingProtocols)
	}
	return c, rw, err
}

// WriteHeader notes the first final status.
func (w *recorder) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.note(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write counts the body.
func (w *recorder) Write(p []byte) (int, error) {
	w.note(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *recorder) status() int {
	if w.code == 0 {
		return http.StatusOK // the server writes it
	}
	return w.code
}

// openLog opens what access_log says, and returns what closes it.
func openLog(where string, stdout io.Writer) (*slog.Logger, func() error, error) {
	nothing := func() error { return nil }
	switch where {
	case "off":
		return slog.New(slog.DiscardHandler), nothing, nil
	case "stdout":
		return slog.New(slog.NewJSONHandler(stdout, nil)), nothing, nil
	}
	f, err := os.OpenFile(where, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(slog.NewJSONHandler(f, nil)), f.Close, nil
}
