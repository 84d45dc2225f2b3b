package main

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// clients knows who has sent a request: whoever has connected, or if that is a trusted proxy, whom it
// says.
type clients struct {
	*httplimit.ClientAddr
	trusted []netip.Prefix
}

func newClients(trusted []netip.Prefix) (*clients, error) {
	a, err := httplimit.NewClientAddr(httplimit.AddrConfig{TrustedProxies: trusted})
	if err != nil {
		return nil, err
	}
	return &clients{a, trusted}, nil
}

// clean removes what only the gateway, or a trusted proxy, may say, so that backends can believe what
// is left. Some of them take X_Consumer for the same as X-Consumer. Forwarded and X-Real-Ip are nobody's:
// proxies that set X-Forwarded-* pass on what the client has written there.
func (c *clients) clean(r *http.Request) {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	trusted := err == nil && slices.ContainsFunc(c.trusted, func(p netip.Prefix) bool {
		return p.Contains(a.Addr().Unmap().WithZone(""))
	})
	for name := range r.Header {
		known := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
		forwarded := strings.HasPrefix(known, "X-Forwarded-")
		if known == consumerHeader || known == "Forwarded" || known == "X-Real-Ip" || forwarded && (!trusted || name != known) {
			delete(r.Header, name)
		}
	}
}
