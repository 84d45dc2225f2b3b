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

// clean removes what only a trusted proxy may say, so that backends can believe what is left.
func (c *clients) clean(r *http.Request) {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && slices.ContainsFunc(c.trusted, func(p netip.Prefix) bool { return p.Contains(a.Addr().Unmap().WithZone("")) }) {
		return
	}
	for name := range r.Header {
		if name == "Forwarded" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			delete(r.Header, name)
		}
	}
}
