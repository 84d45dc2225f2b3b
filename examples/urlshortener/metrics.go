package main

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is what Prometheus reads.
type metrics struct {
	app      *app // nil: it is a front
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// newRequestMetrics returns those of any process.
func newRequestMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "http_requests_total", Help: "Requests, by path and status."}, []string{"path", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "How long requests take.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 3},
		}, []string{"path"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// newMetrics returns the metrics of a service, whose blocks keep their own counts: those are read when they are asked
// for.
func newMetrics(a *app) *metrics {
	m := newRequestMetrics()
	m.app = a
	count := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	gauge := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	count("cache_hits_total", "Look-ups of links that the cache has answered.", func() float64 { return float64(a.links.cache.Stats().Hits) })
	count("cache_misses_total", "Look-ups of links that it has not.", func() float64 { return float64(a.links.cache.Stats().Misses) })
	count("cache_loads_total", "Links that were loaded.", func() float64 { return float64(a.links.cache.Stats().Loads) })
	gauge("cache_entries", "Links in the cache.", func() float64 { return float64(a.links.cache.Len()) })
	count("filter_refused_total", "Codes that do not exist, and were not looked up in the database.", func() float64 { return float64(a.links.guard.Stats().Refused) })
	count("filter_passed_total", "Codes that were looked up in the database.", func() float64 { return float64(a.links.guard.Stats().Passed) })
	count("clicks_recorded_total", "Clicks of redirects that were answered.", func() float64 { return float64(a.recorder.clicked.Load()) })
	count("clicks_spooled_total", "Of these, those that went through the spool.", func() float64 { return float64(a.recorder.spooled.Load()) })
	count("clicks_dropped_total", "Of these, those that are lost, as there was neither a broker nor room.", func() float64 { return float64(a.recorder.dropped.Load()) })
	count("clicks_refused_total", "Of these, those that the database refuses, and are in a file.", func() float64 { return float64(a.counter.refused.Load()) })
	gauge("spool_bytes", "Bytes of clicks that wait for the broker.", func() float64 { return float64(a.spool.bytes()) })
	gauge("queue_groups", "Groups of clicks that are not counted yet.", func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n, err := a.queue.depth(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})
	count("limited_total", "Requests that the rate limits have refused.", func() float64 { return float64(a.refused.Load()) })
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// count counts requests.
func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		path := pathClass(r.URL.Path) // before anybody changes it
		s := &statusWriter{ResponseWriter: w}
		returned := false
		defer func() {
			status := cmp.Or(s.status, http.StatusOK)
			if !returned { // it panics, and the connection ends
				status = http.StatusInternalServerError
			}
			m.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
			m.seconds.WithLabelValues(path).Observe(time.Since(began).Seconds())
		}()
		next.ServeHTTP(s, r)
		returned = true
	})
}

// pathClass keeps the number of time series small, whatever strangers ask for.
func pathClass(path string) string {
	switch path {
	case "/", "/metrics", "/healthz", "/readyz", "/openapi.json", "/favicon.ico", "/robots.txt":
		return path
	}
	switch first, _, more := strings.Cut(strings.TrimPrefix(path, "/"), "/"); {
	case first == "api" || first == "assets" || first == "peer":
		return "/" + first
	case more:
		return "other"
	}
	return "/{code}"
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 && status >= 200 { // the first that is final is what is sent
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
