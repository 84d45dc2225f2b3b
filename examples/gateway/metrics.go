package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// noRoute is the label of what fits no route.
const noRoute = "none"

// metrics are what /metrics shows. Labels are names of the config, and codes: nothing that clients
// choose.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(g *gateway) *metrics {
	x := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_requests_total", Help: "Requests that were answered, by route and status.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_request_duration_seconds", Help: "From the request's header to the end of the response.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11), // to 9.5 s
		}, []string{"route"}),
	}
	x.registry.MustRegister(x.requests, x.duration, gatewayCollector{g},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return x
}

func (x *metrics) handler() http.Handler {
	return promhttp.HandlerFor(x.registry, promhttp.HandlerOpts{})
}

// measure counts the requests of all routes.
func (x *metrics) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() { // also after a panic, with which the proxy ends a response that broke off
			name := entryOf(r).routeName()
			x.requests.WithLabelValues(name, strconv.Itoa(rec.status())).Inc()
			x.duration.WithLabelValues(name).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(rec, r)
	})
}

var (
	routeLabels    = []string{"route"}
	endpointLabels = []string{"pool", "endpoint"}

	inFlightDesc     = prometheus.NewDesc("gateway_requests_in_flight", "Requests of a route that are not answered yet.", routeLabels, nil)
	triesDesc        = prometheus.NewDesc("gateway_tries_total", "Requests that were sent to endpoints: those of clients, and retries.", routeLabels, nil)
	limitedDesc      = prometheus.NewDesc("gateway_rate_limited_total", "Requests that were answered by 429, as their clients had sent too many.", routeLabels, nil)
	unauthorizedDesc = prometheus.NewDesc("gateway_unauthorized_total", "Requests that were answered by 401, as they had no valid API key.", routeLabels, nil)
	breakerDesc      = prometheus.NewDesc("gateway_breaker_state", "1 for the state that the breaker of a route is in.", []string{"route", "state"}, nil)

	stateDesc     = prometheus.NewDesc("gateway_endpoint_state", "1 for the state that an endpoint is in.", []string{"pool", "endpoint", "state"}, nil)
	loadDesc      = prometheus.NewDesc("gateway_endpoint_in_flight", "Requests in flight at an endpoint.", endpointLabels, nil)
	pickedDesc    = prometheus.NewDesc("gateway_endpoint_picked_total", "Requests that an endpoint was given.", endpointLabels, nil)
	failedDesc    = prometheus.NewDesc("gateway_endpoint_failed_total", "Requests that have failed at an endpoint.", endpointLabels, nil)
	latencyDesc   = prometheus.NewDesc("gateway_endpoint_latency_seconds", "Peak EWMA of an endpoint's latency, where the policy goes by it.", endpointLabels, nil)
	availableDesc = prometheus.NewDesc("gateway_pool_available", "Endpoints of a pool that requests can be given to.", []string{"pool"}, nil)
)

// A gatewayCollector asks the pools and routes when somebody asks for the metrics: what they know is
// not kept twice, and an endpoint that has gone leaves nothing behind.
type gatewayCollector struct{ g *gateway }

// Describe sends nothing, as endpoints come and go.
func (c gatewayCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends what the pools and routes know now.
func (c gatewayCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, r := range c.g.routes {
		name := r.config.Name
		gauge(inFlightDesc, float64(r.inFlight.Load()), name)
		counter(triesDesc, r.tries.Load(), name)
		counter(limitedDesc, r.limited.Load(), name)
		counter(unauthorizedDesc, r.unauthorized.Load(), name)
		if r.breaker != nil {
			now := r.breaker.State()
			for _, s := range []loadbalance.BreakerState{loadbalance.Closed, loadbalance.Open, loadbalance.HalfOpen} {
				gauge(breakerDesc, oneIf(s == now), name, s.String())
			}
		}
	}
	for _, p := range c.g.pools {
		s := p.Stats()
		gauge(availableDesc, float64(s.Available), p.name)
		for _, e := range s.Endpoints {
			for state := loadbalance.Healthy; state <= loadbalance.Weightless; state++ {
				gauge(stateDesc, oneIf(state == e.State), p.name, e.ID, state.String())
			}
			gauge(loadDesc, float64(e.InFlight), p.name, e.ID)
			counter(pickedDesc, e.Picked, p.name, e.ID)
			counter(failedDesc, e.Failed, p.name, e.ID)
			if e.Latency > 0 {
				gauge(latencyDesc, e.Latency.Seconds(), p.name, e.ID)
			}
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
