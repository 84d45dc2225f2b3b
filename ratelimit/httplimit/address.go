package httplimit

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// AddrConfig says how the address of a client is found. The zero value is for a server that clients
// connect to themselves: the address is that of the connection, and no header is read.
type AddrConfig struct {
	_ struct{}

	// TrustedProxies are the addresses of the proxies that stand before the server, and write into
	// Header, at its end, who has connected to them. Nobody else may be able to connect from these
	// addresses. What a client has written itself stands further left, and is never used. Prefixes
	// of length 0 are refused, as they would trust everybody.
	TrustedProxies []netip.Prefix
	// TrustUnix is whether connections through a Unix socket, which have no address, come from a
	// trusted proxy.
	TrustUnix bool
	// Header is the one header that the proxies write: "X-Forwarded-For", also if empty, or
	// "Forwarded" (RFC 7239). The other one is not read: a proxy that writes one of them passes the
	// other on as the client has sent it.
	Header string
	// IPv6Prefix is how many bits of an IPv6 address ClientAddr.Key keeps, from 1 to 128. 0: 64, the
	// network that a client is given at least, and in which it can take any address it likes.
	IPv6Prefix int
}

// Bounds of what is read of a header. Whoever is trusted writes less; what is beyond is like garbage.
const (
	maxHops    = 64   // elements that are looked at
	maxElement = 1024 // bytes of one
)

// The headers that can be trusted, in canonical form.
const (
	xForwardedFor = "X-Forwarded-For"
	forwarded     = "Forwarded"
)

// A ClientAddr finds the addresses of clients.
//
// It begins with the address of the connection. As long as the address at hand is that of a trusted
// proxy, the header's next element, from right to left, takes its place: it is what that proxy
// saw. So the result is the nearest address that is not trusted. An element that is no address (it
// is empty, "unknown", obfuscated, or garbage) ends the walk at the proxy that wrote it, as does the
// end of the header: those who come through that proxy then count as one.
//
// A ClientAddr is safe for concurrent use by multiple goroutines. The zero value trusts nobody.
type ClientAddr struct {
	trusted   []netip.Prefix
	unix      bool
	forwarded bool
	bits      int // of IPv6 addresses; 0: 64
}

// NewClientAddr returns a ClientAddr, for those who need the address for something else, too, or
// in a Policy.Key. It returns an error if c is not valid.
func NewClientAddr(c AddrConfig) (*ClientAddr, error) {
	a := &ClientAddr{trusted: slices.Clone(c.TrustedProxies), unix: c.TrustUnix, bits: c.IPv6Prefix}
	for i, p := range a.trusted {
		if !p.IsValid() {
			return nil, fmt.Errorf("httplimit: TrustedProxies must be valid prefixes, got %v at %d", p, i)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Bits() == 0 {
			return nil, fmt.Errorf("httplimit: TrustedProxies must not be everybody, got %v", c.TrustedProxies[i])
		}
		a.trusted[i] = p.Masked()
	}
	switch http.CanonicalHeaderKey(c.Header) {
	case "", xForwardedFor:
	case forwarded:
		a.forwarded = true
	default:
		return nil, fmt.Errorf("httplimit: Header must be %q or %q, got %q", xForwardedFor, forwarded, c.Header)
	}
	if c.IPv6Prefix < 0 || c.IPv6Prefix > 128 {
		return nil, fmt.Errorf("httplimit: IPv6Prefix must be from 0 to 128, got %d", c.IPv6Prefix)
	}
	return a, nil
}

// Addr returns the address of the client that has sent r, without a zone, and as IPv4 if it is one
// in IPv6. It is not valid if nothing is known, as it is with Unix sockets; ask IsValid. It takes time
// in proportion to the proxies, whatever the client has sent.
func (a *ClientAddr) Addr(r *http.Request) netip.Addr {
	addr, ok := parseNode(r.RemoteAddr)
	if ok && !a.trusts(addr) || !ok && !(a.unix && isUnix(r.RemoteAddr)) {
		return addr
	}
	name := xForwardedFor
	if a.forwarded {
		name = forwarded
	}
	lines := r.Header[name]
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; hops++ {
			var element string
			var ok bool
			rest, element, more, ok = cutLast(rest, a.forwarded)
			if ok && a.forwarded {
				element, ok = forwardedFor(element)
			}
			if !ok || hops == maxHops {
				return addr
			}
			next, ok := parseNode(strings.Trim(element, " \t"))
			if !ok {
				return addr
			}
			addr = next
			if !a.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// Key returns what is limited together: Addr, or of an IPv6 address its network, such as
// "2001:db8::/64". If nothing is known, it is empty, so that all of whom nothing is known
// share one limit.
func (a *ClientAddr) Key(r *http.Request) string {
	addr := a.Addr(r)
	if !addr.IsValid() {
		return ""
	}
	var buf [netipMax]byte
	if addr.Is4() {
		return string(addr.AppendTo(buf[:0]))
	}
	bits := a.bits
	if bits == 0 {
		bits = 64
	}
	return string(netip.PrefixFrom(addr, bits).Masked().AppendTo(buf[:0]))
}

// netipMax is the length of the longest prefix, with room.
const netipMax = 64

func (a *ClientAddr) trusts(addr netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// isUnix reports whether a RemoteAddr is that of a Unix socket: it has no name, or an abstract one,
// or a path.
func isUnix(s string) bool { return s == "" || s[0] == '@' || s[0] == '/' }

// cutLast cuts the last element off a list: what stands behind the last comma that is not within
// quotes, if quotes count. more is whether there was a comma, and ok is false if the element is too
// long.
//
// It goes from right to left, and so looks at nothing that stands left of the comma. From left to
// right, an opening quote in what the client has sent would swallow what proxies have added.
func cutLast(s string, quotes bool) (rest, element string, more, ok bool) {
	low := max(0, len(s)-maxElement)
	quoted := false
	for i := len(s) - 1; i >= low; i-- {
		switch s[i] {
		case ',':
			if !quoted {
				return s[:i], s[i+1:], true, true
			}
		case '"':
			if quotes && !(quoted && escaped(s[low:i])) {
				quoted = !quoted
			}
		}
	}
	return "", s, false, low == 0
}

// escaped reports whether what follows s within a quoted string is escaped: whether s ends in an
// odd number of backslashes.
func escaped(s string) bool { return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1 }

// forwardedFor returns the value of the parameter "for" of an element of Forwarded. It is false if
// there is none, or two, or the element is not what RFC 7239 says. Spaces are allowed around
// semicolons, and in values without quotes all that does not end them: many proxies write addresses
// with ports so.
func forwardedFor(s string) (node string, ok bool) {
	for {
		s = strings.Trim(s, " \t")
		if s == "" {
			return node, ok
		}
		if s[0] == ';' {
			s = s[1:]
			continue
		}
		i := strings.IndexAny(s, "=; \t\"\\")
		if i <= 0 || s[i] != '=' {
			return "", false
		}
		name, value := s[:i], ""
		var valid bool
		if value, s, valid = cutValue(s[i+1:]); !valid {
			return "", false
		}
		if strings.EqualFold(name, "for") {
			if ok {
				return "", false
			}
			node, ok = value, true
		}
		s = strings.TrimLeft(s, " \t")
		if s != "" && s[0] != ';' {
			return "", false
		}
	}
}

// cutValue cuts a token or a quoted string off s.
func cutValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		i := strings.IndexAny(s, "; \t\"\\")
		if i < 0 {
			return s, "", true
		}
		return s[:i], s[i:], s[i] != '"' && s[i] != '\\'
	}
	s = s[1:]
	i := strings.IndexAny(s, `"\`)
	if i >= 0 && s[i] == '"' {
		return s[:i], s[i+1:], true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// parseNode parses an address as connections and headers have it: with or without a port, which
// RFC 7239 lets be obfuscated, with or without brackets if it is IPv6, and with or without a zone,
// which is dropped. An IPv4 address in IPv6 becomes IPv4.
func parseNode(s string) (netip.Addr, bool) {
	bracketed := strings.HasPrefix(s, "[")
	if bracketed {
		host, port, ok := strings.Cut(s[1:], "]")
		if !ok || port != "" && (port[0] != ':' || !isPort(port[1:])) {
			return netip.Addr{}, false
		}
		s = host
	} else if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		if !isPort(s[i+1:]) {
			return netip.Addr{}, false
		}
		s = s[:i]
	}
	s, zone, hasZone := strings.Cut(s, "%")
	if hasZone && zone == "" {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Is4() && (bracketed || hasZone) {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// isPort reports whether s is up to five digits, or an obfuscated port.
func isPort(s string) bool {
	if s != "" && s[0] == '_' {
		return true
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 5
}
