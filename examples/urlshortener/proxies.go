package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// proxies are the networks of those that stand before this process, and say who has sent a request, and where to.
// What others say of that is not believed.
type proxies []netip.Prefix

// add adds a network, or an address.
func (p *proxies) add(v string) error {
	prefix, err := netip.ParsePrefix(v)
	if addr, bad := netip.ParseAddr(v); bad == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return fmt.Errorf("must be a network such as 10.0.0.0/8, or an address, got %q", v)
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	if prefix.Bits() == 0 {
		return fmt.Errorf("must not be everybody, got %q", v)
	}
	*p = append(*p, prefix.Masked())
	return nil
}

// config says how httplimit finds the address of a client.
func (p proxies) config() httplimit.AddrConfig { return httplimit.AddrConfig{TrustedProxies: p} }

// trust reports whether a request has come from one of them.
func (p proxies) trust(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr := from.Addr().Unmap().WithZone("")
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// origin returns where a client has sent a request: as a trusted proxy says, and otherwise as the request does.
func (p proxies) origin(r *http.Request) (scheme, host string) {
	scheme, host = "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && !validHost(host) { // or there is none: HTTP/1.0
		host = local.String()
	}
	if !p.trust(r) {
		return scheme, host
	}
	if s := strings.ToLower(last(r.Header["X-Forwarded-Proto"])); s == "http" || s == "https" {
		scheme = s
	}
	if h := last(r.Header["X-Forwarded-Host"]); validHost(h) {
		host = h
	}
	return scheme, host
}

// last returns the last element of a header that is a list: what the nearest proxy has written, if those that write
// there add to what was there before.
func last(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	s := lines[len(lines)-1]
	return strings.TrimSpace(s[strings.LastIndexByte(s, ',')+1:])
}

// validHost reports whether a name or address, perhaps with a port, can be in a URL as it is.
func validHost(h string) bool {
	return h != "" && len(h) <= 260 && !strings.ContainsFunc(h, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:[]", r))
	})
}
