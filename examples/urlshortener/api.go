package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxBody is the largest body that is read: a URL of the longest kind, escaped as JSON can be, and the rest.
	maxBody = 16 << 10
	// createTimeout and readTimeout are how long a request may take.
	createTimeout = 3 * time.Second
	readTimeout   = 3 * time.Second
	maxExpiry     = 100 * 365 * 24 * time.Hour
	pageSize      = 20
	maxPageSize   = 100
)

// An api is what programs and the page use.
type api struct {
	links *links
	base  string // of short URLs; "": what the request says, or a proxy that is trusted
	keys  *apiKeys
	log   *slog.Logger

	proxies proxies
	private bool // targets may be private
}

// register adds the paths of the API.
func (a *api) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /api/links", a.create)
	mux.HandleFunc("GET /api/links", a.list)
	mux.HandleFunc("GET /api/links/{code}", a.show)
	mux.HandleFunc("DELETE /api/links/{code}", a.remove)
	mux.HandleFunc("/api/links", notAllowed("GET, HEAD, POST"))
	mux.HandleFunc("/api/links/{code}", notAllowed("DELETE, GET, HEAD"))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusNotFound, "there is nothing here; the API is described in /openapi.json")
	})
}

// notAllowed answers methods that a path does not have.
func notAllowed(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		writeProblem(w, http.StatusMethodNotAllowed, "the method must be one of "+allow)
	}
}

// A problem is an error as RFC 9457 has it.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{"about:blank", http.StatusText(status), status, detail})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// A linkView is a link as the API shows it.
type linkView struct {
	Code      string     `json:"code"`
	ShortURL  string     `json:"short_url"`
	URL       string     `json:"url"`
	Permanent bool       `json:"permanent"`
	Created   time.Time  `json:"created"`
	Expires   *time.Time `json:"expires,omitempty"`
	Clicks    *tally     `json:"clicks,omitempty"`
}

func (a *api) view(r *http.Request, l link) linkView {
	base := a.base
	if base == "" {
		scheme, host := a.proxies.origin(r)
		base = scheme + "://" + host
	}
	v := linkView{Code: l.Code, ShortURL: base + "/" + l.Code, URL: l.Target, Permanent: l.Permanent, Created: l.Created}
	if !l.Expires.IsZero() {
		v.Expires = &l.Expires
	}
	return v
}

// A createRequest is the body of a request for a new link.
type createRequest struct {
	URL       string     `json:"url"`
	Alias     string     `json:"alias"`
	Permanent bool       `json:"permanent"`
	Expires   *time.Time `json:"expires"`
	ExpiresIn *int64     `json:"expires_in"` // seconds
}

func (a *api) create(w http.ResponseWriter, r *http.Request) {
	owner, ok := a.keys.owner(w, r)
	if !ok {
		return
	}
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		writeProblem(w, http.StatusUnsupportedMediaType, "the body must be application/json")
		return
	}
	body, err := readCreate(w, r)
	if err != nil {
		writeBodyError(w, err)
		return
	}
	target, err := checkTarget(body.URL, a.private)
	if err != nil {
		writeProblem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if body.Alias != "" {
		if err := checkAlias(body.Alias); err != nil {
			writeProblem(w, http.StatusUnprocessableEntity, err.Error())
			return
		}
	}
	expires, err := expiry(body, a.links.clock())
	if err != nil {
		writeProblem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), createTimeout)
	defer cancel()
	made, err := a.links.create(ctx, draft{Target: target, Alias: body.Alias, Owner: owner, Permanent: body.Permanent, Expires: expires})
	switch {
	case errors.Is(err, errTaken):
		writeProblem(w, http.StatusConflict, fmt.Sprintf("the alias %s is taken", body.Alias))
	case err != nil:
		a.writeUnavailable(w, r, err)
	default:
		w.Header().Set("Location", "/api/links/"+made.Code)
		writeJSON(w, http.StatusCreated, a.view(r, made))
	}
}

// readCreate reads the body of a request for a new link.
func readCreate(w http.ResponseWriter, r *http.Request) (body createRequest, err error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return body, err
	case err != nil: // it says who was connected to whom
		return body, errors.New("it cannot be read")
	case !utf8.Valid(text): // what the decoder would put in its place is not what was meant
		return body, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return body, err
	}
	if _, err := d.Token(); err == nil {
		return body, errors.New("there is more behind the object")
	} else if !errors.Is(err, io.EOF) {
		return body, err
	}
	return body, nil
}

// expiry returns when a link is to expire; zero: never.
func expiry(body createRequest, now time.Time) (time.Time, error) {
	const most = int64(maxExpiry / time.Second)
	switch {
	case body.Expires != nil && body.ExpiresIn != nil:
		return time.Time{}, errors.New("give expires or expires_in, and not both")
	case body.ExpiresIn != nil:
		if n := *body.ExpiresIn; n < 1 || n > most {
			return time.Time{}, fmt.Errorf("expires_in must be from 1 to %d seconds, got %d", most, n)
		}
		return now.Add(time.Duration(*body.ExpiresIn) * time.Second), nil
	case body.Expires == nil:
		return time.Time{}, nil
	}
	at := body.Expires.Truncate(time.Millisecond) // as it is stored
	if !at.After(now) || at.After(now.Add(maxExpiry)) {
		return time.Time{}, errors.New("expires must be in the future, and within 100 years")
	}
	return at, nil
}

// writeBodyError answers a body that cannot be read.
func writeBodyError(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		writeProblem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body must be at most %d bytes", large.Limit))
		return
	}
	writeProblem(w, http.StatusBadRequest, "the body must be an object with url, and maybe alias, permanent, expires or expires_in: "+bodyReason(err))
}

// bodyReason returns what is wrong with a body, in words of JSON and not of Go.
func bodyReason(err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var date *time.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return "it is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case errors.As(err, &syntax):
		return fmt.Sprintf("it is no JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind) && kind.Field == "":
		return "it is a JSON " + kind.Value
	case errors.As(err, &kind):
		return fmt.Sprintf("%s cannot be a JSON %s", kind.Field, kind.Value)
	case errors.As(err, &date), strings.HasPrefix(err.Error(), "Time.UnmarshalJSON: "): // there is one time only
		return "expires must be a time such as 2030-01-31T12:00:00Z"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// writeUnavailable answers when something behind the service does not.
func (a *api) writeUnavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		w.WriteHeader(statusGone) // nobody waits for the answer
		return
	}
	a.log.Warn("a request has failed", "method", r.Method, "path", r.URL.Path, "error", err)
	if unavailable(err) || errors.Is(err, context.Canceled) {
		what := "the database does not answer"
		if errors.Is(err, errUntold) {
			what = "other processes cannot be told of it at the moment"
		}
		w.Header().Set("Retry-After", "5")
		writeProblem(w, http.StatusServiceUnavailable, what+"; please try again")
		return
	}
	writeProblem(w, http.StatusInternalServerError, "something is wrong with the service")
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	owner, ok := a.keys.owner(w, r)
	if !ok {
		return
	}
	q := r.URL.Query()
	n := pageSize
	if text := q.Get("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxPageSize {
			writeProblem(w, http.StatusBadRequest, fmt.Sprintf("limit must be from 1 to %d", maxPageSize))
			return
		}
	}
	after, err := parseCursor(q.Get("after"))
	if err != nil {
		writeProblem(w, http.StatusBadRequest, "after must be what next was in the page before")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	found, err := a.links.store.list(ctx, owner, after, n+1, a.links.clock()) // one more: is there a next page?
	if err != nil {
		a.writeUnavailable(w, r, err)
		return
	}
	page := struct {
		Links []linkView `json:"links"`
		Next  string     `json:"next,omitempty"`
	}{Links: []linkView{}}
	if len(found) > n {
		found = found[:n]
		last := found[n-1]
		page.Next = cursor{last.Created.UnixMilli(), last.Code}.String()
	}
	for _, l := range found {
		page.Links = append(page.Links, a.view(r, l))
	}
	writeJSON(w, http.StatusOK, page)
}

// String returns the cursor for a URL.
func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", c.created, c.code))
}

func parseCursor(s string) (c cursor, err error) {
	if s == "" {
		return cursor{}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(text) > 64 {
		return cursor{}, errors.New("bad cursor")
	}
	created, code, ok := strings.Cut(string(text), " ")
	if c.created, err = strconv.ParseInt(created, 10, 64); err != nil || !ok || !validCode(code) {
		return cursor{}, errors.New("bad cursor")
	}
	c.code = code
	return c, nil
}

func (a *api) show(w http.ResponseWriter, r *http.Request) {
	owner, ok := a.keys.owner(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	l, err := a.links.resolve(ctx, r.PathValue("code"))
	if err == nil && l.Owner != owner {
		err = errNoLink // whose it is, is nobody's business
	}
	if errors.Is(err, errNoLink) {
		writeProblem(w, http.StatusNotFound, "there is no such link of yours")
		return
	}
	var t tally
	if err == nil {
		t, err = a.links.store.clicks(ctx, l.Code)
	}
	if err != nil {
		a.writeUnavailable(w, r, err)
		return
	}
	v := a.view(r, l)
	v.Clicks = &t
	writeJSON(w, http.StatusOK, v)
}

func (a *api) remove(w http.ResponseWriter, r *http.Request) {
	owner, ok := a.keys.owner(w, r)
	if !ok {
		return
	}
	code := r.PathValue("code")
	if !validCode(code) {
		writeProblem(w, http.StatusNotFound, "there is no such link of yours")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), createTimeout)
	defer cancel()
	switch err := a.links.remove(ctx, code, owner); {
	case errors.Is(err, errNoLink), errors.Is(err, errNotOwner):
		writeProblem(w, http.StatusNotFound, "there is no such link of yours")
	case err != nil:
		a.writeUnavailable(w, r, err)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// referrer returns the host of the page that the click came from, or "" if that is not said, or is no name or address
// in its usual form.
func referrer(r *http.Request) string {
	u, err := url.Parse(r.Header.Get("Referer"))
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:", r))
	}) {
		return ""
	}
	return host
}
