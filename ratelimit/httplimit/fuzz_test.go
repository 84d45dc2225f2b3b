package httplimit

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// chain is what proxies add, one after the other, to what a client has sent: on the same line, or on a
// new one.
func chain(text string, client string, hops, style uint8, element func(addr string, style uint8) string) []string {
	lines := []string{text}
	seen := client
	for i := range hops % 8 {
		e := element(seen, style)
		switch {
		case style>>i&1 == 1:
			lines = append(lines, e)
		case style&2 == 0:
			lines[len(lines)-1] += ", " + e
		default:
			lines[len(lines)-1] += "," + e
		}
		seen = netip.AddrFrom4([4]byte{10, style, 0, i}).String()
	}
	return lines
}

// walk is what ClientAddr does, with the elements from left to right.
func walk(a *ClientAddr, elements []string) netip.Addr {
	addr := netip.MustParseAddrPort(proxy).Addr()
	for i := len(elements) - 1; i >= 0; i-- {
		next, ok := parseNode(elements[i])
		if !ok {
			break
		}
		if addr = next; !a.trusts(addr) {
			break
		}
	}
	return addr
}

// seed adds a case of a table, unless it is so long that the fuzzer would do nothing but shorten it.
func seed(f *testing.F, text string, i int) {
	if len(text) < 256 {
		f.Add(text, uint8(i), uint8(i*37))
	}
}

// FuzzXForwardedFor checks that what a client sends never changes the address that the proxies have
// seen, and the walk against one over all that was split.
func FuzzXForwardedFor(f *testing.F) {
	for i, c := range spoofed {
		seed(f, strings.Join(c.lines, "\n"), i)
	}
	a := newAddr(f, AddrConfig{TrustedProxies: testProxies})
	f.Fuzz(func(t *testing.T, text string, hops, style uint8) {
		lines := chain(text, client, hops, style, func(addr string, style uint8) string {
			if style&4 != 0 {
				return addr + ":4711"
			}
			return addr
		})
		r := from(proxy, xForwardedFor, lines...)
		if hops%8 > 0 {
			require.Equal(t, client, a.Addr(r).String(), "%q", lines)
		}

		r = from(proxy, xForwardedFor, strings.Split(text, "\n")...)
		got := a.Addr(r)
		require.True(t, got.IsValid())
		require.Empty(t, got.Zone())
		require.False(t, got.Is4In6())
		elements := strings.Split(strings.ReplaceAll(text, "\n", ","), ",")
		if len(elements) > maxHops || len(text) > maxElement {
			return
		}
		for i := range elements {
			elements[i] = strings.Trim(elements[i], " \t")
		}
		require.Equal(t, walk(a, elements), got)
		// Prepended text changes nothing, unless all that is there was written by who is trusted.
		if !a.trusts(got) {
			r = from(proxy, xForwardedFor, append([]string{"6.6.6.6"}, strings.Split("6.6.6.6,"+text, "\n")...)...)
			require.Equal(t, got, a.Addr(r))
		}
	})
}

// The grammar of RFC 7239, section 4, with spaces around commas only.
var (
	pair            = "[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"(?:[^\"\\\\]|\\\\.)*\")"
	forwardedGroup  = "(?:" + pair + ")?(?:;(?:" + pair + ")?)*"
	forwardedList   = regexp.MustCompile("^" + forwardedGroup + "(?:[ \t]*,[ \t]*" + forwardedGroup + ")*$")
	forwardedCut    = regexp.MustCompile("^(" + forwardedGroup + ")(?:[ \t]*,[ \t]*|$)")
	forwardedPair   = regexp.MustCompile(pair)
	forwardedEscape = regexp.MustCompile(`\\(.)`)
)

// splitForwarded is the values of "for" from left to right, of a header that keeps to the grammar.
func splitForwarded(s string) []string {
	var nodes []string
	for {
		m := forwardedCut.FindStringSubmatch(s)
		node, n := "", 0
		for _, p := range forwardedPair.FindAllString(m[1], -1) {
			name, value, _ := strings.Cut(p, "=")
			if !strings.EqualFold(name, "for") {
				continue
			}
			n++
			if node = value; value[0] == '"' {
				node = forwardedEscape.ReplaceAllString(value[1:len(value)-1], "$1")
			}
		}
		if n != 1 {
			node = ""
		}
		nodes = append(nodes, strings.Trim(node, " \t"))
		if len(m[0]) == len(s) && m[0] == m[1] {
			return nodes
		}
		s = s[len(m[0]):]
	}
}

// FuzzForwarded checks the same of Forwarded.
func FuzzForwarded(f *testing.F) {
	for i, c := range forwardeds {
		seed(f, strings.Join(c.lines, ","), i)
	}
	a := newAddr(f, AddrConfig{TrustedProxies: testProxies, Header: "Forwarded"})
	f.Fuzz(func(t *testing.T, text string, hops, style uint8) {
		lines := chain(text, client, hops, style, func(addr string, style uint8) string {
			switch style >> 3 & 3 {
			case 0:
				return "for=" + addr
			case 1:
				return `For="` + addr + `:_p";proto=http`
			case 2:
				return `by=_x;for="\` + addr + `";host="\\, \"for=6.6.6.6"`
			}
			return `host="a,b";for="[::ffff:` + addr + `]:80"`
		})
		if hops%8 > 0 {
			require.Equal(t, client, a.Addr(from(proxy, forwarded, lines...)).String(), "%q", lines)
		}

		got := a.Addr(from(proxy, forwarded, text))
		require.True(t, got.IsValid())
		require.Empty(t, got.Zone())
		require.False(t, got.Is4In6())
		if len(text) > maxElement || strings.Count(text, ",") >= maxHops || strings.Contains(text, "\n") {
			return
		}
		if forwardedList.MatchString(text) {
			require.Equal(t, walk(a, splitForwarded(text)), got)
		}
		if !a.trusts(got) {
			for _, before := range []string{"for=6.6.6.6", `for="`, `"`, `\`, "for=6.6.6.6;x="} {
				require.Equal(t, got, a.Addr(from(proxy, forwarded, before, before+","+text)), "%q", before)
			}
		}
	})
}
