package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

//go:embed page
var page embed.FS

const (
	statusEvery  = 500 * time.Millisecond
	maxFollowers = 32 // who follows the status at the same time
)

// status is what /status.json shows, and each event of /status/events.
type status struct {
	Time   time.Time     `json:"time"`
	Pools  []poolStatus  `json:"pools"`
	Routes []routeStatus `json:"routes"`
}

type poolStatus struct {
	Name         string           `json:"name"`
	Of           string           `json:"of"` // the pool of the config
	Policy       string           `json:"policy"`
	Available    int              `json:"available"`
	Panicked     bool             `json:"panicked"`
	ResolveError string           `json:"resolve_error,omitempty"`
	Endpoints    []endpointStatus `json:"endpoints"`
}

type endpointStatus struct {
	ID         string  `json:"id"`
	State      string  `json:"state"`
	Why        string  `json:"why,omitempty"`
	Zone       string  `json:"zone,omitempty"`
	Priority   uint8   `json:"priority"`
	Weight     uint32  `json:"weight"`
	Ramp       float64 `json:"ramp"`
	InFlight   int64   `json:"in_flight"`
	Picked     uint64  `json:"picked"`
	Failed     uint64  `json:"failed"`
	LatencyMS  float64 `json:"latency_ms"`
	EjectedFor float64 `json:"ejected_for_s"`
}

type routeStatus struct {
	Name         string `json:"name"`
	Pool         string `json:"pool"`
	Requests     uint64 `json:"requests"`
	InFlight     int64  `json:"in_flight"`
	Tries        uint64 `json:"tries"`
	Limited      uint64 `json:"rate_limited"`
	Unauthorized uint64 `json:"unauthorized"`
	Breaker      string `json:"breaker,omitempty"`
}

func (g *gateway) status() status {
	s := status{Time: time.Now().UTC()}
	for _, p := range g.pools {
		stats := p.Stats()
		ps := poolStatus{Name: p.name, Of: p.of, Policy: p.policy, Available: stats.Available, Panicked: stats.Panicked, Endpoints: []endpointStatus{}}
		if stats.ResolveError != nil {
			ps.ResolveError = stats.ResolveError.Error()
		}
		for _, e := range stats.Endpoints {
			es := endpointStatus{
				ID: e.ID, State: e.State.String(), Zone: e.Zone, Priority: e.Priority, Weight: e.Weight, Ramp: e.Ramp,
				InFlight: e.InFlight, Picked: e.Picked, Failed: e.Failed,
				LatencyMS: float64(e.Latency) / float64(time.Millisecond), EjectedFor: e.EjectedFor.Seconds(),
			}
			if e.CheckError != nil {
				es.Why = e.CheckError.Error()
			}
			ps.Endpoints = append(ps.Endpoints, es)
		}
		s.Pools = append(s.Pools, ps)
	}
	for _, r := range g.routes {
		rs := routeStatus{
			Name: r.config.Name, Pool: r.pool.name, Requests: r.requests.Load(), InFlight: r.inFlight.Load(),
			Tries: r.tries.Load(), Limited: r.limited.Load(), Unauthorized: r.unauthorized.Load(),
		}
		if r.breaker != nil {
			rs.Breaker = r.breaker.State().String()
		}
		s.Routes = append(s.Routes, rs)
	}
	return s
}

// admin is what the admin listener serves.
func (g *gateway) admin() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the name is that of go:embed
	}
	// What browsers are for. Otherwise a name that an attacker has pointed here would be the same origin
	// to a browser as his page.
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(g.status())
	})
	mux.HandleFunc("GET /status/events", g.events)
	mux.HandleFunc("POST /pools/{pool}/{action}", g.act)
	// A page of another origin may not press the buttons: the browser says where a request is from.
	guarded := http.NewCrossOriginProtection().Handler(mux)

	all := http.NewServeMux()
	all.Handle("GET /metrics", g.metrics.handler())
	all.HandleFunc("GET /healthz", g.healthz)
	all.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !g.knownHost(r) {
			http.Error(w, "the host must be an address, localhost, or in admin.hosts", http.StatusMisdirectedRequest)
			return
		}
		guarded.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		all.ServeHTTP(w, r)
	})
}

// healthz is for a balancer in front: it fails as soon as the gateway is about to stop.
func (g *gateway) healthz(w http.ResponseWriter, _ *http.Request) {
	if g.draining.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// events sends the status until the client goes, or the gateway stops. It is the goroutine of the
// request that does so: while nobody listens, there is none.
func (g *gateway) events(w http.ResponseWriter, r *http.Request) {
	if g.followers.Add(1) > maxFollowers {
		g.followers.Add(-1)
		http.Error(w, "too many listen already", http.StatusServiceUnavailable)
		return
	}
	defer g.followers.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	c := http.NewResponseController(w)
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	for {
		data, err := json.Marshal(g.status()) // has no line breaks
		if err != nil {
			return
		}
		// Who does not read for so long is not there any more.
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
			return
		}
		if err := c.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-g.stopped:
			return
		case <-ticker.C:
		}
	}
}

// act drains or resumes an endpoint.
func (g *gateway) act(w http.ResponseWriter, r *http.Request) {
	var act func(p *pool, id string) error
	switch r.PathValue("action") {
	case "drain":
		act = func(p *pool, id string) error {
			// Nobody waits here until it is drained; the page shows it.
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			if err := p.Drain(ctx, id); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}
	case "resume":
		act = (*pool).Resume
	default:
		http.Error(w, "the action must be drain or resume", http.StatusNotFound)
		return
	}
	id := r.URL.Query().Get("endpoint") // not in the path: there can be slashes in it
	var err error
	found := false
	for _, p := range g.pools {
		// An endpoint is in all Pools that were made of one pool of the config.
		if p.of == r.PathValue("pool") {
			found = true
			err = errors.Join(err, act(p, id))
		}
	}
	if !found {
		http.Error(w, "no such pool", http.StatusNotFound)
		return
	}
	switch {
	case errors.Is(err, loadbalance.ErrUnknown):
		http.Error(w, "no such endpoint", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (g *gateway) knownHost(r *http.Request) bool {
	host := hostOf(r)
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host == "localhost" || slices.Contains(g.config.Admin.Hosts, host)
}

// statusURL is where the status page is, as people can open it.
func statusURL(a net.Addr) string {
	host, port, _ := net.SplitHostPort(a.String())
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}
