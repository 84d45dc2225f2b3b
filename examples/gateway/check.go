package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// check says all that is wrong, but for what only the constructors of the parts can know.
func (c *config) check() error {
	var errs []error
	bad := func(at []any, format string, args ...any) {
		errs = append(errs, c.errorAt(at, format, args...))
	}
	// To the decoder, auth: with all below it commented out is no auth, and the route is open.
	c.walk(func(_, value *yaml.Node, at []any) {
		if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null" {
			bad(at, "must not be empty")
		}
	})
	if errs != nil {
		return errors.Join(errs...) // what else there would be is for the same reason
	}
	if len(c.Listeners) == 0 {
		bad([]any{"listeners"}, "must be at least one")
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		at := []any{"listeners", i}
		if l.BodyIdleTimeout < 0 {
			bad(append(at, "body_idle_timeout"), "must be at least 0, got %v", l.BodyIdleTimeout)
		} else if l.BodyIdleTimeout == 0 {
			l.BodyIdleTimeout = defaultBodyIdleTimeout
		}
		c.checkAddress(bad, append(at, "address"), l.Address)
		if t := l.TLS; t != nil {
			switch {
			case len(t.SelfSigned) > 0 && (t.Cert != "" || t.Key != ""):
				bad(append(at, "tls"), "must have cert and key, or self_signed, got both")
			case len(t.SelfSigned) == 0 && (t.Cert == "" || t.Key == ""):
				bad(append(at, "tls"), "must have cert and key, or self_signed")
			}
			if i := slices.Index(t.SelfSigned, ""); i >= 0 {
				bad(append(at, "tls", "self_signed", i), "must be a name or address, got \"\"")
			}
		}
	}
	for i, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Bits() == 0 {
			bad([]any{"trusted_proxies", i}, "must be a prefix such as 10.0.0.0/8, and not of everybody, got %q", s)
			continue
		}
		c.trusted = append(c.trusted, p.Masked())
	}
	if c.Admin.Address != "" {
		c.checkAddress(bad, []any{"admin", "address"}, c.Admin.Address)
	}
	for i := range c.Listeners {
		for j := range i {
			if a := c.Listeners[i].Address; sameAddress(a, c.Listeners[j].Address) {
				bad([]any{"listeners", i, "address"}, "must be that of one listener only, got %q, where listeners[%d] is", a, j)
				break
			}
		}
		if a := c.Admin.Address; sameAddress(a, c.Listeners[i].Address) {
			bad([]any{"admin", "address"}, "must not be where a listener is, got %q, where listeners[%d] is", a, i)
			break
		}
	}
	for i, h := range c.Admin.Hosts {
		c.Admin.Hosts[i] = strings.ToLower(strings.TrimSuffix(h, ".")) // as hostOf has it
	}
	if d := c.Shutdown.Delay; d < 0 {
		bad([]any{"shutdown", "delay"}, "must be at least 0, got %v", d)
	}
	if d := c.Shutdown.Timeout; d < 0 {
		bad([]any{"shutdown", "timeout"}, "must be at least 0, got %v", d)
	}
	if c.Shutdown.Timeout == 0 {
		c.Shutdown.Timeout = 10 * time.Second
	}
	if c.AccessLog == "" {
		c.AccessLog = "stdout"
	}
	c.checkKeys(bad)
	if len(c.Pools) == 0 {
		bad([]any{"pools"}, "must be at least one")
	}
	for name, p := range c.Pools {
		c.checkPool(bad, name, p)
	}
	if len(c.Routes) == 0 {
		bad([]any{"routes"}, "must be at least one")
	}
	names := map[string]bool{}
	seen := map[string]string{} // the names of the routes, by their requests
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Name == "" {
			bad([]any{"routes", i, "name"}, "must not be empty")
		} else if names[r.Name] {
			bad([]any{"routes", i, "name"}, "must be that of one route only, got %q again", r.Name)
		}
		names[r.Name] = true
		c.checkRoute(bad, i, r)
		unseen := false
		for _, key := range r.requests() {
			if _, ok := seen[key]; !ok {
				seen[key], unseen = r.Name, true
			}
		}
		if !unseen {
			bad([]any{"routes", i}, "must be for other requests than route %q, which comes first", seen[r.requests()[0]])
		}
	}
	slices.SortStableFunc(errs, func(a, b error) int { return lineOf(a) - lineOf(b) }) // pools are in no order
	return errors.Join(errs...)
}

// requests returns which requests a route is for, in the same words for the same ones, for each of its hosts.
func (r *routeConfig) requests() []string {
	hosts := r.Hosts
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	headers := map[string]string{}
	for name, v := range r.Headers {
		headers[http.CanonicalHeaderKey(name)] = v
	}
	methods := slices.Compact(slices.Sorted(slices.Values(r.Methods)))
	var all []string
	for _, h := range hosts {
		all = append(all, fmt.Sprintf("%q %q %q %q %q", h, r.Path, r.Prefix, methods, headers)) // maps are printed in order
	}
	return all
}

func lineOf(err error) int {
	m := regexp.MustCompile(`:(\d+): `).FindStringSubmatch(err.Error())
	n, _ := strconv.Atoi(m[1])
	return n
}

type badFunc func(at []any, format string, args ...any)

func (c *config) checkAddress(bad badFunc, at []any, a string) {
	i := strings.LastIndexByte(a, ':')
	if i < 0 {
		bad(at, "must be host:port or :port, got %q", a)
	} else if p, err := strconv.ParseUint(a[i+1:], 10, 16); err != nil || strconv.FormatUint(p, 10) != a[i+1:] {
		bad(at, "must end in a port from 0 to 65535, got %q", a)
	}
}

// sameAddress reports whether only one of two can be listened at. Port 0 is another one each time.
func sameAddress(a, b string) bool {
	i, j := strings.LastIndexByte(a, ':'), strings.LastIndexByte(b, ':')
	if i < 0 || j < 0 || a[i:] != b[j:] || a[i:] == ":0" {
		return false
	}
	a, b = strings.ToLower(a[:i]), strings.ToLower(b[:j])
	all := func(a string) bool { return a == "" || a == "0.0.0.0" || a == "[::]" }
	return a == b || all(a) || all(b)
}

func (c *config) checkKeys(bad badFunc) {
	names := map[string]bool{}
	sums := map[[32]byte]string{}
	for i := range c.APIKeys {
		k := &c.APIKeys[i]
		at := []any{"api_keys", i}
		if !token(k.Name) {
			bad(append(at, "name"), "must be of letters, digits, and - . _, got %q", k.Name)
		} else if names[k.Name] {
			bad(append(at, "name"), "must be that of one key only, got %q again", k.Name)
		}
		names[k.Name] = true
		sum, err := hex.DecodeString(k.SHA256)
		if err != nil || len(sum) != len(k.sum) {
			bad(append(at, "sha256"), "must be the SHA-256 of the key as 64 hexadecimal digits, got %d characters", len(k.SHA256))
			continue
		}
		k.sum = [32]byte(sum)
		if other, ok := sums[k.sum]; ok {
			bad(append(at, "sha256"), "must be that of one key only, got that of %q again", other)
		}
		sums[k.sum] = k.Name
		if k.RateLimit != nil {
			c.checkLimit(bad, append(at, "rate_limit"), *k.RateLimit)
		}
	}
}

func (c *config) checkLimit(bad badFunc, at []any, l limitConfig) {
	switch {
	case l.Count < 1:
		bad(append(at, "count"), "must be at least 1, got %d", l.Count)
	case l.Per <= 0:
		bad(append(at, "per"), "must be more than 0, got %v", l.Per)
	case l.Burst < 0:
		bad(append(at, "burst"), "must be at least 0, got %d", l.Burst)
	}
}

func (c *config) checkPool(bad badFunc, name string, p poolConfig) {
	at := []any{"pools", name}
	if !token(name) {
		bad(at, "must have a name of letters, digits, and - . _")
	}
	c.checkPolicy(bad, append(at, "policy"), p.Policy)
	switch {
	case len(p.Endpoints) == 0 && p.DNS == nil:
		bad(append(at, "endpoints"), "must be at least one, or dns must be set")
	case len(p.Endpoints) > 0 && p.DNS != nil:
		bad(append(at, "dns"), "must not be set with endpoints, as it would replace them")
	}
	ids := map[string]bool{}
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		at := append(slices.Clip(at), "endpoints", i)
		u, err := url.Parse(e.URL)
		switch {
		case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
			bad(append(at, "url"), "must be such as http://host:port, got %q", e.URL)
			continue
		case u.User != nil || u.RawQuery != "" || u.Fragment != "":
			bad(append(at, "url"), "must have no user, query or fragment, got %q", u.Redacted())
			continue
		case u.Port() == "" && strings.HasSuffix(u.Host, ":"), u.Port() != "" && !port(u.Port()):
			bad(append(at, "url"), "must have a port from 1 to 65535, or none, got %q", e.URL)
			continue
		}
		e.url = u
		if e.ID == "" {
			e.ID = u.Host
		}
		if ids[e.ID] {
			bad(append(at, "id"), "must be that of one endpoint only, got %q again", e.ID)
		}
		ids[e.ID] = true
	}
	if d := p.DNS; d != nil {
		switch {
		case d.Host == "":
			bad(append(at, "dns", "host"), "must not be empty")
		case d.Port == 0:
			bad(append(at, "dns", "port"), "must be from 1 to 65535, got 0")
		}
	}
	if h := p.Health; h != nil {
		switch {
		case (h.HTTP != "") == h.TCP:
			bad(append(at, "health"), "must have either http, with a path, or tcp: true")
		case h.HTTP != "" && !strings.HasPrefix(h.HTTP, "/"):
			bad(append(at, "health", "http"), "must be a path, got %q", h.HTTP)
		}
	}
}

func port(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (c *config) checkPolicy(bad badFunc, at []any, p *policyConfig) {
	if p == nil {
		return
	}
	if _, v := c.lookup(at...); v.Kind == yaml.MappingNode {
		at = append(slices.Clip(at), "name")
	}
	if _, ok := policies[p.Name]; !ok {
		bad(at, "must be one of %s, got %q", strings.Join(policyNames(), ", "), p.Name)
		return
	}
	of := func(field string) []any { return append(slices.Clip(at[:len(at)-1]), field) }
	if p.Name != "consistent_hash" {
		if p.Algorithm != "" {
			bad(of("algorithm"), "is for consistent_hash only, got it with %s", p.Name)
		}
		if p.Bound != 0 {
			bad(of("bound"), "is for consistent_hash only, got it with %s", p.Name)
		}
	} else {
		if _, ok := algorithms[p.Algorithm]; !ok && p.Algorithm != "" {
			bad(of("algorithm"), "must be one of %s, got %q", strings.Join(algorithmNames(), ", "), p.Algorithm)
		}
		if p.Bound != 0 && !(p.Bound >= 1 && p.Bound <= 1000) {
			bad(of("bound"), "must be 0, which is none, or from 1 to 1000, got %v", p.Bound)
		}
	}
	switch {
	case p.Inner == nil:
	case p.Name != "prefer_zone":
		bad(of("inner"), "is for prefer_zone only, got it with %s", p.Name)
	case p.Inner.Name == "prefer_zone":
		bad(of("inner"), "must not be prefer_zone again")
	default:
		c.checkPolicy(bad, of("inner"), p.Inner)
	}
}

func (c *config) checkRoute(bad badFunc, i int, r *routeConfig) {
	of := func(steps ...any) []any { return append([]any{"routes", i}, steps...) }
	for field, none := range map[string]bool{
		"hosts": r.Hosts != nil && len(r.Hosts) == 0, "methods": r.Methods != nil && len(r.Methods) == 0,
		"headers": r.Headers != nil && len(r.Headers) == 0,
	} {
		if none {
			bad(of(field), "must be at least one, or be left out, which is any")
		}
	}
	for j, h := range r.Hosts {
		h = strings.TrimSuffix(h, ".") // as hostOf has it
		r.Hosts[j] = h
		name := strings.TrimPrefix(h, "*.")
		if name == "" || strings.ContainsAny(name, "*:/ ") || strings.ToLower(name) != name {
			bad(of("hosts", j), "must be a name in lower case without a port, or one after \"*.\", got %q", h)
		}
	}
	if (r.Path == "") == (r.Prefix == "") {
		bad(of(), "must have either path or prefix")
	}
	for _, p := range []struct{ field, value string }{{"path", r.Path}, {"prefix", r.Prefix}, {"strip_prefix", r.StripPrefix}} {
		if p.value != "" && !cleanPath(p.value) {
			bad(of(p.field), "must begin with /, and have no //, /./, /../, ; or control characters, got %q", p.value)
		} else if strings.ContainsAny(p.value, "?#") || escaped.MatchString(p.value) {
			bad(of(p.field), "must be a path alone, without ? and #, and as it is unescaped, got %q", p.value)
		}
	}
	if r.StripPrefix != "" && !under(r.Path+r.Prefix, r.StripPrefix) {
		bad(of("strip_prefix"), "must be where the route's paths begin, %q, got %q", r.Path+r.Prefix, r.StripPrefix)
	}
	for j, m := range r.Methods {
		if m == "" || strings.ToUpper(m) != m || !headerName.MatchString(m) {
			bad(of("methods", j), "must be a method in upper case, got %q", m)
		}
	}
	for k, v := range r.Headers {
		c.checkHeader(bad, of("headers", k), k, v)
		c.checkRead(bad, of("headers", k), k)
	}
	for _, h := range []struct {
		field string
		headersConfig
	}{{"request_headers", r.RequestHeaders}, {"response_headers", r.ResponseHeaders}} {
		for k, v := range h.Set {
			c.checkHeader(bad, of(h.field, "set", k), k, v)
			if strings.EqualFold(k, "Host") {
				bad(of(h.field, "set", k), "must not be set; see preserve_host")
			}
		}
		for k, v := range h.Add {
			c.checkHeader(bad, of(h.field, "add", k), k, v)
		}
		for j, k := range h.Remove {
			c.checkHeader(bad, of(h.field, "remove", j), k, "")
		}
	}
	if _, ok := c.Pools[r.Pool]; !ok {
		bad(of("pool"), "must be one of the pools, got %q", r.Pool)
	}
	c.checkPolicy(bad, of("policy"), r.Policy)
	if h := r.Hash; h != nil {
		policy := r.Policy
		if policy == nil {
			policy = c.Pools[r.Pool].Policy
		}
		if _, ok := c.Pools[r.Pool]; ok && !policy.usesHash() {
			bad(of("hash"), "is for policies that hash, such as consistent_hash, got it with %s", policy)
		}
		n := 0
		for _, set := range []bool{h.Header != "", h.Cookie != "", h.Address} {
			if set {
				n++
			}
		}
		if n != 1 {
			bad(of("hash"), "must have one of header, cookie, and address: true, got %d", n)
		}
		if h.Header != "" {
			c.checkHeader(bad, of("hash", "header"), h.Header, "")
			c.checkRead(bad, of("hash", "header"), h.Header)
		}
		if h.Cookie != "" && !token(h.Cookie) {
			bad(of("hash", "cookie"), "must be of letters, digits, and - . _, got %q", h.Cookie)
		}
	}
	if s := r.Sticky; s != nil {
		switch {
		case !token(s.Cookie):
			bad(of("sticky", "cookie"), "must be of letters, digits, and - . _, got %q", s.Cookie)
		case s.MaxAge < 0 || s.MaxAge > math.MaxInt32*time.Second || s.MaxAge%time.Second != 0:
			bad(of("sticky", "max_age"), "must be whole seconds, from 0 to 68 years, got %v", s.MaxAge)
		case s.Secret != "" && len(s.Secret) < 16:
			bad(of("sticky", "secret"), "must have at least 16 characters, got %d", len(s.Secret))
		}
	}
	if r.Timeout < 0 {
		bad(of("timeout"), "must be at least 0, got %v", r.Timeout)
	}
	if n := r.Retries.Tries; n < 0 || n > 10 {
		bad(of("retries", "tries"), "must be from 0 to 10, got %d", n)
	}
	if l := r.RateLimit; l != nil {
		if l.By == "" {
			l.By = "address"
		}
		switch {
		case l.By != "address" && l.By != "api_key":
			bad(of("rate_limit", "by"), "must be address or api_key, got %q", l.By)
		case l.By == "api_key" && r.Auth == nil:
			bad(of("rate_limit", "by"), "must not be api_key on a route without auth: the keys would not be known")
		}
		c.checkLimit(bad, of("rate_limit"), l.limitConfig)
	}
	if a := r.Auth; a != nil {
		if a.APIKey == "" {
			bad(of("auth", "api_key"), "must be the name of a header, got \"\"")
		} else {
			c.checkHeader(bad, of("auth", "api_key"), a.APIKey, "")
			c.checkRead(bad, of("auth", "api_key"), a.APIKey)
		}
		if len(c.APIKeys) == 0 {
			bad(of("auth"), "needs api_keys, and there are none")
		}
		if a.Keys != nil && len(a.Keys) == 0 {
			bad(of("auth", "keys"), "must be at least one, or be left out, which is all of api_keys")
		}
		for j, name := range a.Keys {
			if !slices.ContainsFunc(c.APIKeys, func(k apiKeyConfig) bool { return k.Name == name }) {
				bad(of("auth", "keys", j), "must be the name of one of api_keys, got %q", name)
			}
		}
	}
}

var escaped = regexp.MustCompile("%[0-9A-Fa-f]{2}")

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func (c *config) checkHeader(bad badFunc, at []any, name, value string) {
	if !headerName.MatchString(name) {
		bad(at, "must be the name of a header, got %q", name)
	}
	if strings.ContainsFunc(value, control) {
		bad(at, "must be the value of a header, got %q", value)
	}
}

// checkRead says which headers there are none of, or only what the gateway has set, when a route is looked for.
func (c *config) checkRead(bad badFunc, at []any, name string) {
	switch known := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")); {
	case known == "Host":
		bad(at, "must be another header than Host; see hosts")
	case known == consumerHeader || known == requestIDHeader || known == "Forwarded" || known == "X-Real-Ip":
		bad(at, "must be a header that is the client's, got %q", name)
	}
}

// token reports whether s can be in a label, a cookie and a log line without a second thought.
func token(s string) bool {
	return s != "" && len(s) <= 100 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == ""
}

// cleanPath reports whether a server that resolves "..", "." and "//" sees the same path. Some take \
// for /, some leave out of a segment what follows a ; in it, and some end the path at a NUL: to them
// /account;x is /account, which may be another route's.
func cleanPath(p string) bool {
	if strings.ContainsRune(p, ';') || strings.ContainsFunc(p, unicode.IsControl) {
		return false
	}
	segments := strings.Split(strings.ReplaceAll(p, `\`, "/"), "/")
	for i, x := range segments {
		switch {
		case i == 0: // what is before the first /
			if x != "" {
				return false
			}
		case x == "." || x == "..":
			return false
		case x == "" && i < len(segments)-1:
			return false
		}
	}
	return len(segments) > 1
}

// under reports whether p is prefix, or in it: prefix ends where a segment of p does.
func under(p, prefix string) bool {
	rest, ok := strings.CutPrefix(p, prefix)
	return ok && (rest == "" || strings.HasSuffix(prefix, "/") || rest[0] == '/')
}
