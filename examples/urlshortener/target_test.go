package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckTarget(t *testing.T) {
	for target, want := range map[string]string{
		"http://example.com":                    "http://example.com",
		"HTTPS://Example.com:8443/a?b=c#d":      "https://Example.com:8443/a?b=c#d",
		"https://example.com/ü?q=ü":             "https://example.com/%C3%BC?q=%C3%BC",
		"https://example.com/?q=\u202e%zz'&\"":  "https://example.com/?q=%E2%80%AE%zz'&\"",
		"http://93.184.216.34/":                 "http://93.184.216.34/",
		"http://[2606:2800:220:1::1]/":          "http://[2606:2800:220:1::1]/",
		"http://localhost.example.com":          "http://localhost.example.com",
		"http://10.example.com":                 "http://10.example.com",
		"http://xn--bcher-kva.example/":         "http://xn--bcher-kva.example/",
		"http://[64:ff9b::93.184.216.34]/":      "http://[64:ff9b::93.184.216.34]/",
		"http://1.2.3.4.5/":                     "http://1.2.3.4.5/", // five numbers: a name
		"http://example.com/?u=http://10.0.0.1": "http://example.com/?u=http://10.0.0.1",
	} {
		got, err := checkTarget(target, false)
		require.NoError(t, err, target)
		require.Equal(t, want, got)
	}
	for target, want := range map[string]string{
		"":                              "url is required",
		"example.com":                   `url must begin with http:// or https://, got the scheme ""`,
		"//example.com":                 `url must begin with http:// or https://, got the scheme ""`,
		"javascript:alert(1)":           `url must begin with http:// or https://, got the scheme "javascript"`,
		"JavaScript:alert(1)":           `url must begin with http:// or https://, got the scheme "javascript"`,
		"java\tscript:alert(1)":         "url must have no spaces, control characters or backslashes",
		"file:///etc/passwd":            `url must begin with http:// or https://, got the scheme "file"`,
		"data:text/html,x":              `url must begin with http:// or https://, got the scheme "data"`,
		"http:example.com":              "url must name a host",
		"http:///path":                  "url must name a host",
		"http://./":                     "url must name a host",
		"http://:80/":                   "url must name a host",
		"http://user:pass@example.com":  "url must have no user name or password",
		"http://example.com@evil.com":   "url must have no user name or password",
		"http://example.com\\@evil.com": "url must have no spaces, control characters or backslashes",
		"http://exam ple.com":           "url must have no spaces, control characters or backslashes",
		"http://example.com/\x00":       "url must have no spaces, control characters or backslashes",
		"http://example.com/\r\nSet-":   "url must have no spaces, control characters or backslashes",
		"http://example.com/\xff":       "url must be UTF-8",
		"http://example.com:99999":      "url must have a port from 1 to 65535, got 99999",
		"http://example.com:0":          "url must have a port from 1 to 65535, got 0",
		"http://example.com/%zz":        `url must be a URL: invalid URL escape "%zz"`,
		"http://bücher.example":         "url must have an international name in its ASCII form (xn--…)",
		"http://１２７.0.0.1/":             "url must have an international name in its ASCII form (xn--…)",
		"http://a/" + long(3000):        "url must be at most 2048 bytes, got 3009",
		"http://a.b/" + umlauts(1000):   "url must be at most 2048 bytes with its escapes, got 6011",
	} {
		_, err := checkTarget(target, false)
		require.EqualError(t, err, want, "%q", target)
	}
}

func long(n int) string    { return strings.Repeat("a", n) }
func umlauts(n int) string { return strings.Repeat("ü", n) }

func TestPrivateTargets(t *testing.T) {
	for _, host := range []string{
		"localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001",
		"0x7f.0.0.1", "0X7F.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "0", "0.0.0.0", "0x", "10.0.0.1", "10.1", "172.16.0.1",
		"172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.0.1", "224.0.0.1", "240.0.0.1",
		"255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd12::1]", "[ff02::1]", "[fec0::1]",
		"[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::10.0.0.1]", "[2002:a00:1::]", "[2002:7f00:1::1]",
	} {
		for _, port := range []string{"", ":8080"} {
			target := "http://" + host + port + "/admin"
			_, err := checkTarget(target, false)
			require.ErrorContains(t, err, "url must not lead to a private address", target)
			_, err = checkTarget(target, true)
			require.NoError(t, err, target)
		}
	}
}

func TestCheckAlias(t *testing.T) {
	for _, alias := range []string{"abc", "my-link_2", "ABC", strings.Repeat("a", maxAlias), "0000000", "api2"} {
		require.NoError(t, checkAlias(alias))
		require.True(t, validCode(alias))
	}
	for alias, want := range map[string]string{
		"":                              "alias must have from 3 to 32 characters, got 0",
		"ab":                            "alias must have from 3 to 32 characters, got 2",
		strings.Repeat("a", maxAlias+1): "alias must have from 3 to 32 characters, got 33",
		"a/b":                           "alias must have only letters A to Z and a to z, digits, - and _",
		"../etc":                        "alias must have only letters A to Z and a to z, digits, - and _",
		"..%2f":                         "alias must have only letters A to Z and a to z, digits, - and _",
		"a\x00b":                        "alias must have only letters A to Z and a to z, digits, - and _",
		"a b":                           "alias must have only letters A to Z and a to z, digits, - and _",
		"ünï":                           "alias must have only letters A to Z and a to z, digits, - and _",
		"api":                           "alias must not be a word that the service uses, got api",
		"Metrics":                       "alias must not be a word that the service uses, got Metrics",
	} {
		require.EqualError(t, checkAlias(alias), want, "%q", alias)
		require.False(t, validCode(alias))
	}
}

// FuzzCheckTarget asks that what is taken is a URL with a host, and is taken again as it was stored.
func FuzzCheckTarget(f *testing.F) {
	for _, s := range []string{"http://example.com", "javascript:alert(1)", "http://[::1]", "http://0x7f.1", "https://a:b@c", "http://a/%2f?#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		stored, err := checkTarget(target, false)
		if err != nil {
			return
		}
		u, err := url.Parse(stored)
		require.NoError(t, err)
		require.Contains(t, []string{"http", "https"}, u.Scheme)
		require.NotEmpty(t, u.Hostname())
		require.False(t, strings.ContainsAny(stored, " \t\r\n\\"))
		again, err := checkTarget(stored, false)
		require.NoError(t, err)
		require.Equal(t, stored, again)
	})
}
