package main

import (
	"context"
	"errors"
	"net/netip"
	"net/url"

	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/loadbalance/proxy"
)

// A pool is a pool of the config with one policy. A route that names a policy of its own has a pool of
// its own, over the same endpoints: each checks them itself, and knows the requests that it has given
// them itself.
type pool struct {
	*loadbalance.Pool[*url.URL]
	name   string
	of     string // its name in the config
	policy string
}

// newPool makes a pool. With dry, it asks no endpoint and no name server anything.
func (c *config) newPool(name, of string, policy *policyConfig, onEvent func(pool string, e loadbalance.Event), dry bool) (*pool, error) {
	pc := c.Pools[of]
	at := []any{"pools", of}
	lc := loadbalance.Config[*url.URL]{
		Policy:         newPolicy(policy),
		Endpoints:      c.endpoints(of),
		Zone:           pc.Zone,
		SlowStart:      pc.SlowStart,
		PanicThreshold: pc.PanicThreshold,
		ResolveEvery:   pc.ResolveEvery,
		OnEvent:        func(e loadbalance.Event) { onEvent(name, e) },
	}
	if d := pc.DNS; d != nil {
		lc.Resolve = loadbalance.DNS(d.Host, d.Port, func(a netip.AddrPort) *url.URL {
			return &url.URL{Scheme: "http", Host: a.String()}
		})
		if dry {
			lc.Resolve = func(context.Context) ([]loadbalance.Endpoint[*url.URL], error) {
				return nil, errors.New("nobody is asked")
			}
		}
	}
	if h := pc.Health; h != nil {
		lc.Health = loadbalance.HealthConfig[*url.URL]{
			Interval: h.Interval, Timeout: h.Timeout, Rise: h.Rise, Fall: h.Fall, StartDown: h.StartDown,
			Check: loadbalance.CheckTCP(func(e loadbalance.Endpoint[*url.URL]) string { return hostPort(e.Value) }),
		}
		if h.HTTP != "" {
			check, err := proxy.CheckHTTP(proxy.CheckHTTPConfig{Path: h.HTTP})
			if err != nil {
				return nil, c.libraryError([]any{"pools", of, "health"}, err)
			}
			lc.Health.Check = check
		}
		if dry {
			lc.Health.Check = func(context.Context, loadbalance.Endpoint[*url.URL]) error { return nil }
		}
	}
	if o := pc.Outlier; o != nil {
		lc.Outlier = loadbalance.OutlierConfig{
			ConsecutiveErrors: o.ConsecutiveErrors, SuccessRateFactor: o.SuccessRateFactor,
			MinRequests: o.MinRequests, MinEndpoints: o.MinEndpoints,
			Interval: o.Interval, EjectFor: o.EjectFor, MaxEjectFor: o.MaxEjectFor, MaxEjected: o.MaxEjected,
		}
	}
	p, err := loadbalance.New(lc)
	if err != nil {
		return nil, c.libraryError(at, err)
	}
	return &pool{Pool: p, name: name, of: of, policy: policy.String()}, nil
}

// endpoints returns those of a pool of the config.
func (c *config) endpoints(of string) []loadbalance.Endpoint[*url.URL] {
	var endpoints []loadbalance.Endpoint[*url.URL]
	for _, e := range c.Pools[of].Endpoints {
		weight := uint32(1)
		if e.Weight != nil {
			weight = *e.Weight
		}
		endpoints = append(endpoints, loadbalance.Endpoint[*url.URL]{ID: e.ID, Value: e.url, Weight: weight, Zone: e.Zone, Priority: e.Priority})
	}
	return endpoints
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return u.Host + ":443"
	}
	return u.Host + ":80"
}
