package httplimit

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func newAddr(t testing.TB, c AddrConfig) *ClientAddr {
	t.Helper()
	a, err := NewClientAddr(c)
	require.NoError(t, err)
	return a
}

// from returns a request from remote, with the lines of a header.
func from(remote, header string, lines ...string) *http.Request {
	r := &http.Request{Method: http.MethodGet, RemoteAddr: remote, Header: http.Header{}}
	for _, l := range lines {
		r.Header.Add(header, l)
	}
	return r
}

// Tests trust these.
var testProxies = prefixes("10.0.0.0/8", "fd00::/8", "192.0.2.44/32")

const (
	proxy  = "10.0.0.1:4711"
	client = "203.0.113.9"
)

// spoofed are headers X-Forwarded-For as they arrive, and the address that counts. Clients write what
// they like; the proxies have added the rest.
var spoofed = []struct {
	name   string
	remote string
	lines  []string
	want   string
}{
	{"no proxy, no header", "203.0.113.9:1", nil, client},
	{"no proxy, but a header", "203.0.113.9:1", []string{"1.2.3.4"}, client},
	{"no proxy, a header that names one", "203.0.113.9:1", []string{"1.2.3.4, 10.0.0.1"}, client},
	{"one proxy", proxy, []string{"203.0.113.9"}, client},
	{"one proxy, prepended", proxy, []string{"1.2.3.4, 203.0.113.9"}, client},
	{"prepended without space", proxy, []string{"1.2.3.4,203.0.113.9"}, client},
	{"spaces and tabs", proxy, []string{"1.2.3.4 ,\t 203.0.113.9 \t"}, client},
	{"a trusted address prepended", proxy, []string{"10.0.0.7, 203.0.113.9"}, client},
	{"two proxies", proxy, []string{"1.2.3.4, 203.0.113.9, 10.0.0.2"}, client},
	{"three proxies, three lines", proxy, []string{"1.2.3.4", "203.0.113.9, 192.0.2.44", "fd00::3"}, client},
	{"the client's own line", proxy, []string{"1.2.3.4, 10.9.9.9", "203.0.113.9"}, client},
	{"an empty line before", proxy, []string{"", "203.0.113.9"}, client},
	{"garbage prepended", proxy, []string{"\x00\xff'; DROP TABLE, 203.0.113.9"}, client},
	{"a quote prepended", proxy, []string{`"1.2.3.4, 203.0.113.9`}, client},
	{"very long", proxy, []string{strings.Repeat("10.0.0.9, ", 50_000) + "203.0.113.9"}, client},
	{"with port", proxy, []string{"1.2.3.4:80, 203.0.113.9:50123"}, client},
	{"IPv4 in IPv6", proxy, []string{"1.2.3.4, ::ffff:203.0.113.9"}, client},
	{"IPv4 in IPv6, hexadecimal", proxy, []string{"::ffff:cb00:7109"}, client},
	{"IPv4 in IPv6 with port", proxy, []string{"[::ffff:203.0.113.9]:99"}, client},
	{"the connection is IPv4 in IPv6", "[::ffff:10.0.0.1]:4711", []string{"203.0.113.9"}, client},
	{"a proxy is IPv4 in IPv6", proxy, []string{"203.0.113.9, ::ffff:10.0.0.2"}, client},
	{"IPv6", proxy, []string{"1.2.3.4, 2001:db8::1"}, "2001:db8::1"},
	{"IPv6 in brackets", proxy, []string{"[2001:db8::1]"}, "2001:db8::1"},
	{"IPv6 with port", proxy, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
	{"IPv6 with zone", proxy, []string{"fe80::1%eth0"}, "fe80::1"},
	{"IPv6 with zone and port", proxy, []string{"[fe80::1%25eth0]:443"}, "fe80::1"},
	{"a trusted zone", proxy, []string{"203.0.113.9, fd00::1%evil"}, client},

	// What is no address ends the walk at the proxy that wrote it.
	{"empty", proxy, []string{""}, "10.0.0.1"},
	{"empty element", proxy, []string{"1.2.3.4, "}, "10.0.0.1"},
	{"unknown", proxy, []string{"1.2.3.4, unknown"}, "10.0.0.1"},
	{"unknown further left", proxy, []string{"1.2.3.4, unknown, 10.0.0.2"}, "10.0.0.2"},
	{"garbage", proxy, []string{"1.2.3.4, evil.example"}, "10.0.0.1"},
	{"unix", proxy, []string{"1.2.3.4, unix:"}, "10.0.0.1"},
	{"leading zeros", proxy, []string{"1.2.3.4, 010.0.0.2"}, "10.0.0.1"},
	{"number", proxy, []string{"1.2.3.4, 167772162"}, "10.0.0.1"},
	{"prefix", proxy, []string{"1.2.3.4, 10.0.0.0/8"}, "10.0.0.1"},
	{"IPv4 in brackets", proxy, []string{"1.2.3.4, [10.0.0.2]"}, "10.0.0.1"},
	{"IPv4 with zone", proxy, []string{"1.2.3.4, 10.0.0.2%eth0"}, "10.0.0.1"},
	{"no zone", proxy, []string{"1.2.3.4, fd00::1%"}, "10.0.0.1"},
	{"no port", proxy, []string{"1.2.3.4, 10.0.0.2:"}, "10.0.0.1"},
	{"port of letters", proxy, []string{"1.2.3.4, 10.0.0.2:8x"}, "10.0.0.1"},
	{"port too long", proxy, []string{"1.2.3.4, 10.0.0.2:123456"}, "10.0.0.1"},
	{"no bracket", proxy, []string{"1.2.3.4, [fd00::1"}, "10.0.0.1"},
	{"after the bracket", proxy, []string{"1.2.3.4, [fd00::1]x"}, "10.0.0.1"},
	{"two addresses", proxy, []string{"1.2.3.4, 10.0.0.2 10.0.0.3"}, "10.0.0.1"},
	{"quoted", proxy, []string{`1.2.3.4, "10.0.0.2"`}, "10.0.0.1"},
	{"element too long", proxy, []string{"1.2.3.4, 10.0.0.2" + strings.Repeat(" ", 2000)}, "10.0.0.1"},

	// Nothing but proxies: the first of them is the client.
	{"no header", proxy, nil, "10.0.0.1"},
	{"only proxies", proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
	{"too many", proxy, []string{"10.1.1.1, 10.1.1.2" + strings.Repeat(", 10.0.0.2", maxHops-1)}, "10.1.1.2"},

	// Connections without an address.
	{"Unix socket", "@", []string{"203.0.113.9"}, "invalid IP"},
	{"no RemoteAddr", "", []string{"203.0.113.9"}, "invalid IP"},
	{"garbage in RemoteAddr", "evil", []string{"203.0.113.9"}, "invalid IP"},
	{"RemoteAddr without port", "10.0.0.1", []string{"203.0.113.9"}, client},
	{"RemoteAddr with zone", "[fe80::1%eth0]:80", []string{"1.2.3.4"}, "fe80::1"},
}

func TestXForwardedFor(t *testing.T) {
	a := newAddr(t, AddrConfig{TrustedProxies: testProxies})
	named := newAddr(t, AddrConfig{TrustedProxies: testProxies, Header: "x-forwarded-for"})
	for _, c := range spoofed {
		t.Run(c.name, func(t *testing.T) {
			r := from(c.remote, xForwardedFor, c.lines...)
			require.Equal(t, c.want, a.Addr(r).String())
			require.Equal(t, c.want, named.Addr(r).String())
			// The other header is not read.
			r.Header.Set("Forwarded", "for=6.6.6.6")
			require.Equal(t, c.want, a.Addr(r).String())
			r.Header.Set("X-Real-Ip", "6.6.6.6")
			require.Equal(t, c.want, a.Addr(r).String())
		})
	}
}

// forwardeds are the same for Forwarded.
var forwardeds = []struct {
	name  string
	lines []string
	want  string
}{
	{"simple", []string{"for=203.0.113.9"}, client},
	{"prepended", []string{"for=1.2.3.4, for=203.0.113.9"}, client},
	{"all parameters", []string{`for=1.2.3.4, For="203.0.113.9:80";proto=https;host="a, for=10.0.0.2";by=10.0.0.1`}, client},
	{"order", []string{"proto=http;by=10.0.0.1;FOR=203.0.113.9"}, client},
	{"port without quotes", []string{"for=203.0.113.9:80"}, client},
	{"obfuscated port", []string{`for="203.0.113.9:_p"`}, client},
	{"spaces", []string{"for=1.2.3.4 ,\tfor=203.0.113.9 ; proto=http\t"}, client},
	{"empty pairs", []string{";for=203.0.113.9;;"}, client},
	{"escapes", []string{`for="\2\03.0.113\.9"`}, client},
	{"two proxies, two lines", []string{"for=1.2.3.4, for=203.0.113.9", `for="[fd00::1]:80"`}, client},
	{"an open quote prepended", []string{`for="1.2.3.4, for=203.0.113.9`}, client},
	{"an open quote and backslash prepended", []string{`for="\, for=203.0.113.9`}, client},
	{"an open quote, and quotes after it", []string{`for="1.2.3.4, for="203.0.113.9"`}, client},
	{"escaped quotes", []string{`for=203.0.113.9;host="\", for=10.0.0.2;x=\"\\"`}, client},
	{"IPv6", []string{`for="[2001:db8:cafe::17]:4711"`}, "2001:db8:cafe::17"},
	{"IPv6 without brackets", []string{`for="2001:db8:cafe::17"`}, "2001:db8:cafe::17"},
	{"very long", []string{strings.Repeat("for=10.0.0.9, ", 50_000) + "for=203.0.113.9"}, client},

	{"empty", []string{""}, "10.0.0.1"},
	{"empty element", []string{"for=1.2.3.4, "}, "10.0.0.1"},
	{"unknown", []string{"for=1.2.3.4, for=unknown"}, "10.0.0.1"},
	{"obfuscated", []string{"for=1.2.3.4, for=_hidden"}, "10.0.0.1"},
	{"obfuscated further left", []string{"for=1.2.3.4, for=_hidden, for=10.0.0.2"}, "10.0.0.2"},
	{"no for", []string{"for=1.2.3.4, proto=http"}, "10.0.0.1"},
	{"two", []string{"for=1.2.3.4, for=10.0.0.2;for=10.0.0.3"}, "10.0.0.1"},
	{"as X-Forwarded-For", []string{"1.2.3.4, 10.0.0.2"}, "10.0.0.1"},
	{"no name", []string{"for=1.2.3.4, =10.0.0.2"}, "10.0.0.1"},
	{"a space before the value", []string{"for=1.2.3.4, for= 10.0.0.2"}, "10.0.0.1"},
	{"a space in the name", []string{"for=1.2.3.4, f or=10.0.0.2"}, "10.0.0.1"},
	{"a quote in a token", []string{`for=1.2.3.4, for=10.0".0.2"`}, "10.0.0.1"},
	{"after the quotes", []string{`for=1.2.3.4, for="10.0.0.2"x`}, "10.0.0.1"},
	{"not closed", []string{`for="10.0.0.2`}, "10.0.0.1"},
	{"not closed, with an escape", []string{`for="10.0.0.2\"`}, "10.0.0.1"},
	{"ends in a backslash", []string{`for="10.0.0.2\`}, "10.0.0.1"},
	{"element too long", []string{"for=1.2.3.4, for=10.0.0.2;x=" + strings.Repeat("y", 2000)}, "10.0.0.1"},
	{"backslashes", []string{`for=1.2.3.4, for=10.0.0.2;x="` + strings.Repeat(`\`, 2001) + `"`}, "10.0.0.1"},
	{"only proxies", []string{"for=10.0.0.3, for=10.0.0.2"}, "10.0.0.3"},
	{"too many", []string{"for=10.1.1.1, for=10.1.1.2" + strings.Repeat(",for=10.0.0.2", maxHops-1)}, "10.1.1.2"},
}

func TestForwarded(t *testing.T) {
	a := newAddr(t, AddrConfig{TrustedProxies: testProxies, Header: "Forwarded"})
	for _, c := range forwardeds {
		t.Run(c.name, func(t *testing.T) {
			r := from(proxy, forwarded, c.lines...)
			r.Header.Set("X-Forwarded-For", "6.6.6.6")
			require.Equal(t, c.want, a.Addr(r).String())
			r.RemoteAddr = "203.0.113.7:80" // who is not trusted
			require.Equal(t, "203.0.113.7", a.Addr(r).String())
		})
	}
}

// Without proxies no header is read.
func TestNobodyTrusted(t *testing.T) {
	for _, a := range []*ClientAddr{newAddr(t, AddrConfig{}), {}} {
		for _, c := range spoofed {
			r := from("203.0.113.9:80", xForwardedFor, c.lines...)
			require.Equal(t, client, a.Addr(r).String(), c.name)
			r = from("@", xForwardedFor, c.lines...)
			require.False(t, a.Addr(r).IsValid(), c.name)
			require.Empty(t, a.Key(r))
		}
	}
}

func TestTrustUnix(t *testing.T) {
	a := newAddr(t, AddrConfig{TrustUnix: true})
	both := newAddr(t, AddrConfig{TrustUnix: true, TrustedProxies: testProxies})
	for _, remote := range []string{"", "@", "@abstract", "/run/nginx.sock"} {
		require.Equal(t, client, a.Addr(from(remote, xForwardedFor, "1.2.3.4, 203.0.113.9")).String())
		require.Equal(t, "10.0.0.2", a.Addr(from(remote, xForwardedFor, "203.0.113.9, 10.0.0.2")).String())
		require.Equal(t, client, both.Addr(from(remote, xForwardedFor, "203.0.113.9, 10.0.0.2")).String())
		require.False(t, a.Addr(from(remote, xForwardedFor, "203.0.113.9, unix:")).IsValid())
		require.False(t, a.Addr(from(remote, xForwardedFor)).IsValid())
	}
	require.False(t, a.Addr(from("garbage", xForwardedFor, "203.0.113.9")).IsValid())
	require.Equal(t, "1.2.3.4", a.Addr(from("1.2.3.4:5", xForwardedFor, "203.0.113.9")).String())
}

func TestAddrKey(t *testing.T) {
	for _, c := range []struct {
		bits         int
		remote, want string
	}{
		{0, "203.0.113.9:80", "203.0.113.9"},
		{0, "[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"},
		{0, "[2001:db8:1:2:ffff::]:80", "2001:db8:1:2::/64"},
		{56, "[2001:db8:1:2ff:3:4:5:6]:80", "2001:db8:1:200::/56"},
		{1, "[ffff::]:80", "8000::/1"},
		{128, "[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2:3:4:5:6/128"},
		{64, "[fe80::1%eth0]:80", "fe80::/64"},
		{64, "[::ffff:203.0.113.9]:80", "203.0.113.9"},
		{48, "@", ""},
	} {
		require.Equal(t, c.want, newAddr(t, AddrConfig{IPv6Prefix: c.bits}).Key(from(c.remote, "")), c.remote)
	}
	require.Equal(t, "2001:db8::/64", new(ClientAddr).Key(from("[2001:db8::1]:80", "")))
}

func TestAddrConfig(t *testing.T) {
	for _, c := range []struct {
		c    AddrConfig
		want string
	}{
		{AddrConfig{TrustedProxies: []netip.Prefix{{}}}, "httplimit: TrustedProxies must be valid prefixes, got invalid Prefix at 0"},
		{AddrConfig{TrustedProxies: prefixes("10.0.0.0/8", "0.0.0.0/0")}, "httplimit: TrustedProxies must not be everybody, got 0.0.0.0/0"},
		{AddrConfig{TrustedProxies: prefixes("::/0")}, "httplimit: TrustedProxies must not be everybody, got ::/0"},
		{AddrConfig{TrustedProxies: prefixes("::ffff:1.2.3.4/96")}, "httplimit: TrustedProxies must not be everybody, got ::ffff:1.2.3.4/96"},
		{AddrConfig{Header: "X-Real-IP"}, `httplimit: Header must be "X-Forwarded-For" or "Forwarded", got "X-Real-IP"`},
		{AddrConfig{IPv6Prefix: -1}, "httplimit: IPv6Prefix must be from 0 to 128, got -1"},
		{AddrConfig{IPv6Prefix: 129}, "httplimit: IPv6Prefix must be from 0 to 128, got 129"},
	} {
		_, err := NewClientAddr(c.c)
		require.EqualError(t, err, c.want)
	}
	// What comes in is copied, and brought into one form.
	trusted := prefixes("10.1.2.3/8", "::ffff:192.0.2.0/120")
	a := newAddr(t, AddrConfig{TrustedProxies: trusted})
	trusted[0] = netip.MustParsePrefix("1.0.0.0/8")
	require.Equal(t, client, a.Addr(from("192.0.2.7:80", xForwardedFor, "203.0.113.9, 10.9.9.9")).String())
}

// What a client sends does not make it take longer than a little.
func TestAddrBounded(t *testing.T) {
	a := newAddr(t, AddrConfig{TrustedProxies: testProxies})
	f := newAddr(t, AddrConfig{TrustedProxies: testProxies, Header: "Forwarded"})
	const size = 1 << 20 // as much as a server reads
	start := time.Now()
	for _, s := range []string{" ", ",", "10.0.0.1,", `"`, `\`, `\"`, `"\`, "for=10.0.0.1,", `for="10.0.0.1",`, ";", "a=b;", "%", ":", "["} {
		long := strings.Repeat(s, size/len(s))
		for _, line := range []string{long, long + ",10.0.0.2", long + ",for=10.0.0.2"} {
			a.Addr(from(proxy, xForwardedFor, line, line))
			f.Addr(from(proxy, forwarded, line, line))
		}
	}
	t.Log("in all", time.Since(start)) // not a condition; it would be minutes
}

func TestAddrAllocs(t *testing.T) {
	a := newAddr(t, AddrConfig{TrustedProxies: testProxies})
	r := from(proxy, xForwardedFor, "1.2.3.4, [2001:db8::1]:80, ::ffff:10.0.0.1")
	require.Zero(t, testing.AllocsPerRun(100, func() { a.Addr(r) }))
	require.EqualValues(t, 1, testing.AllocsPerRun(100, func() { a.Key(r) }))
}
