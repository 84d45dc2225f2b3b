package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxTarget is the longest target that is taken, in bytes: what browsers and proxies go along with.
	maxTarget = 2048
	minAlias  = 3
	maxAlias  = 32
)

// checkTarget returns the target in the form that is stored, or an error that says why it is not taken.
//
// No name is looked up: a name that resolves to a private address passes, now or after its owner has changed
// it. Whoever follows a link decides where that leads, in his own network.
func checkTarget(target string, private bool) (string, error) {
	switch {
	case target == "":
		return "", errors.New("url is required")
	case len(target) > maxTarget:
		return "", fmt.Errorf("url must be at most %d bytes, got %d", maxTarget, len(target))
	case !utf8.ValidString(target):
		return "", errors.New("url must be UTF-8")
	case strings.ContainsFunc(target, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r == '\\' }):
		// Browsers drop tabs and line breaks, and take a backslash for a slash: they would go elsewhere than
		// what is checked here.
		return "", errors.New("url must have no spaces, control characters or backslashes")
	}
	u, err := url.Parse(target)
	if err != nil {
		return "", errors.New("url must be a URL: " + reason(err))
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("url must begin with http:// or https://, got the scheme %q", u.Scheme)
	case u.Opaque != "" || strings.Trim(u.Hostname(), ".") == "":
		return "", errors.New("url must name a host")
	case u.User != nil:
		return "", errors.New("url must have no user name or password")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("url must have a port from 1 to 65535, got %s", p)
		}
	}
	if !private {
		if err := checkHost(u.Hostname()); err != nil {
			return "", err
		}
	}
	u.RawQuery = asciiQuery(u.RawQuery)
	stored := u.String()
	if len(stored) > maxTarget {
		return "", fmt.Errorf("url must be at most %d bytes with its escapes, got %d", maxTarget, len(stored))
	}
	return stored, nil
}

// asciiQuery escapes what is not ASCII in a query, as u.String does in the other parts: the target goes into a header,
// in which clients disagree about the meaning of other bytes.
func asciiQuery(q string) string {
	var b strings.Builder
	for i := range len(q) {
		if c := q[i]; c < utf8.RuneSelf {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// reason returns what is wrong with a URL, without the URL.
func reason(err error) string {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}

// checkHost refuses names and addresses that lead to the network, or the machine, of whoever follows the link.
func checkHost(host string) error {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return fmt.Errorf("url must not lead to a private address, got %s", host)
	case strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }):
		// Full-width digits and dots are what browsers make an address of.
		return errors.New("url must have an international name in its ASCII form (xn--…)")
	}
	addr, ok := address(name)
	if !ok {
		return nil
	}
	addr = addr.Unmap()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || reserved(addr) {
		return fmt.Errorf("url must not lead to a private address, got %s", host)
	}
	return nil
}

// address returns the address that a browser takes a host for: not only in the usual form, but also as one to four
// numbers, decimal, octal or hexadecimal, of which the last has the rest of the bits (the WHATWG's URL standard, "IPv4
// parser"): 127.1, 2130706433 and 0x7f.0.0.1 are 127.0.0.1.
func address(host string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.WithZone(""), true
	}
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var n uint64
	for i, part := range parts {
		base, digits := 10, part
		switch {
		case strings.HasPrefix(part, "0x"):
			base, digits = 16, part[2:]
		case len(part) > 1 && part[0] == '0':
			base, digits = 8, part[1:]
		}
		v := uint64(0)
		if digits != "" || base == 16 { // "0x" alone is 0
			var err error
			if v, err = strconv.ParseUint("0"+digits, base, 64); err != nil {
				return netip.Addr{}, false
			}
		} else if base == 10 {
			return netip.Addr{}, false
		}
		rest := uint(8 * (4 - i)) // bits that the others have left
		if i < len(parts)-1 {
			rest = 8
		}
		if v >= 1<<rest {
			return netip.Addr{}, false // browsers refuse it
		}
		if i < len(parts)-1 {
			n |= v << (8 * (3 - uint(i)))
		} else {
			n |= v
		}
	}
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), true
}

// notPublic is what neither netip nor the Internet takes for public.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("64:ff9b:1::/48"),
}

// embedding is the prefixes whose addresses have an address of four bytes in them, and at which byte.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("::/96"), 12},
}

func reserved(a netip.Addr) bool {
	for _, p := range notPublic {
		if p.Contains(a) {
			return true
		}
	}
	for _, e := range embedding {
		if e.prefix.Contains(a) {
			b := a.As16()
			inner := netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
			if !inner.IsGlobalUnicast() || inner.IsPrivate() || reserved(inner) {
				return true
			}
		}
	}
	return false
}

// reservedAliases are the paths that the service has for itself, and those that others will look for.
var reservedAliases = map[string]bool{
	"api": true, "assets": true, "static": true, "healthz": true, "readyz": true, "metrics": true, "openapi": true,
	"favicon": true, "robots": true, "admin": true, "login": true, "index": true, "well-known": true, "peer": true,
}

// checkAlias returns an error that says why an alias is not taken.
func checkAlias(alias string) error {
	switch {
	case len(alias) < minAlias || len(alias) > maxAlias:
		return fmt.Errorf("alias must have from %d to %d characters, got %d", minAlias, maxAlias, len(alias))
	case strings.ContainsFunc(alias, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '-' || r == '_')
	}):
		return errors.New("alias must have only letters A to Z and a to z, digits, - and _")
	case reservedAliases[strings.ToLower(alias)]:
		return fmt.Errorf("alias must not be a word that the service uses, got %s", alias)
	}
	return nil
}

// validCode reports whether a path can be a code or an alias at all; others are not looked up.
func validCode(code string) bool { return len(code) <= maxAlias && checkAlias(code) == nil }
