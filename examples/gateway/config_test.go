package main

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// valid is a config whose lines the tests replace.
const valid = `listeners:
  - address: 127.0.0.1:0
api_keys:
  - name: alice
    sha256: 0000000000000000000000000000000000000000000000000000000000000001
pools:
  api:
    policy: round_robin
    endpoints:
      - url: http://127.0.0.1:1
routes:
  - name: all
    prefix: /
    pool: api
`

func TestConfigErrors(t *testing.T) {
	for _, x := range []struct{ name, old, new, want string }{
		// What is not YAML, or has another form.
		{"syntax", "routes:\n", "routes: [\n", "x.yaml: "},
		{"tab", "  api:\n", "\tapi:\n", "x.yaml: line "},
		{"empty", valid, "", "x.yaml: the file is empty"},
		{"two documents", "routes:\n", "---\nroutes:\n", "x.yaml: must be one YAML document"},
		{"twice", "    pool: api\n", "    pool: api\n    pool: api\n", `x.yaml:15: mapping key "pool" already defined at line 14`},
		{"unknown", "    pool: api\n", "    pool: api\n    retrys: {tries: 2}\n", `x.yaml:15: route "all": unknown field "retrys"`},
		{"unknown in a mapping", "    pool: api\n", "    pool: api\n    retries: {trys: 2}\n", `x.yaml:15: route "all": retries unknown field "trys"`},
		{"unknown at the top", "routes:\n", "route: []\nroutes:\n", `x.yaml:11: unknown field "route"`},
		{"unknown in a pool", "    policy: round_robin\n", "    polcy: round_robin\n", `x.yaml:8: pool "api": unknown field "polcy"`},
		{"unknown in a policy", "policy: round_robin\n", "policy: {name: round_robin, algo: ring}\n", `x.yaml:8: pool "api": policy unknown field "algo"`},
		{"duration", "    pool: api\n", "    pool: api\n    timeout: 5\n", `x.yaml:15: route "all": timeout must be a duration such as 250ms, got 5`},
		{"duration's unit", "    pool: api\n", "    pool: api\n    timeout: 5 minutes\n", `x.yaml:15: route "all": timeout must be a duration such as 250ms, got 5 minutes`},
		{"number", "    pool: api\n", "    pool: api\n    retries: {tries: many}\n", `x.yaml:15: route "all": retries.tries must be a whole number, got many`},
		{"weight", "      - url: http://127.0.0.1:1\n", "      - url: http://127.0.0.1:1\n        weight: -1\n", `x.yaml:11: pool "api": endpoints[0].weight must be a whole number of at least 0, and not too large, got -1`},
		{"list", "    pool: api\n", "    pool: api\n    methods: GET\n", `x.yaml:15: route "all": methods must be a list, got GET`},
		{"mapping", "    pool: api\n", "    pool: api\n    retries: 3\n", `x.yaml:15: route "all": retries must be a mapping, got 3`},
		{"boolean", "    pool: api\n", "    pool: api\n    preserve_host: maybe\n", `x.yaml:15: route "all": preserve_host must be true or false, got maybe`},

		// Listeners, admin.
		{"no listener", "listeners:\n  - address: 127.0.0.1:0\n", "", "listeners must be at least one"},
		{"no port", "127.0.0.1:0", "localhost", `x.yaml:2: listeners[0].address must be host:port or :port, got "localhost"`},
		{"port", "127.0.0.1:0", "localhost:http", `x.yaml:2: listeners[0].address must end in a port from 0 to 65535, got "localhost:http"`},
		{"idle", "  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n    body_idle_timeout: -1s\n", `x.yaml:3: listeners[0].body_idle_timeout must be at least 0, got -1s`},
		{"TLS without key", "  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n    tls: {cert: a.pem}\n", `x.yaml:3: listeners[0].tls must have cert and key, or self_signed`},
		{"TLS with both", "  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n    tls: {cert: a, key: b, self_signed: [c]}\n", `x.yaml:3: listeners[0].tls must have cert and key, or self_signed, got both`},
		{"proxies", "routes:\n", "trusted_proxies: [10.0.0.1]\nroutes:\n", `x.yaml:11: trusted_proxies[0] must be a prefix such as 10.0.0.0/8, and not of everybody, got "10.0.0.1"`},
		{"all proxies", "routes:\n", "trusted_proxies: [0.0.0.0/0]\nroutes:\n", `and not of everybody, got "0.0.0.0/0"`},
		{"admin", "routes:\n", "admin: {address: x}\nroutes:\n", `x.yaml:11: admin.address must be host:port or :port, got "x"`},
		{"shutdown", "routes:\n", "shutdown: {timeout: -1s}\nroutes:\n", `x.yaml:11: shutdown.timeout must be at least 0, got -1s`},
		{"log", "routes:\n", "access_log: /no/such/directory/log\nroutes:\n", `x.yaml:11: access_log must be stdout, off, or a file that can be written: open /no/such/directory/log: no such file or directory`},

		// Keys.
		{"hash", "0001\n", "001\n", `x.yaml:5: api_keys[0].sha256 must be the SHA-256 of the key as 64 hexadecimal digits, got 63 characters`},
		{"a key itself", "0000000000000000000000000000000000000000000000000000000000000001", "secret", `x.yaml:5: api_keys[0].sha256 must be the SHA-256 of the key as 64 hexadecimal digits, got 6 characters`},
		{"key name", "name: alice", "name: al ice", `x.yaml:4: api_keys[0].name must be of letters, digits, and - . _, got "al ice"`},
		{"key twice", "pools:\n", "  - {name: bob, sha256: \"0000000000000000000000000000000000000000000000000000000000000001\"}\npools:\n", `x.yaml:6: api_keys[1].sha256 must be that of one key only, got that of "alice" again`},
		{"plan", "pools:\n", "    rate_limit: {count: 0, per: 1s}\npools:\n", `x.yaml:6: api_keys[0].rate_limit.count must be at least 1, got 0`},
		{"plan too fine", "pools:\n", "    rate_limit: {count: 9000000000000000000, per: 1s}\npools:\n", `x.yaml:6: api_keys[0].rate_limit`},

		// Pools.
		{"policy", "round_robin", "fastest", `x.yaml:8: pool "api": policy must be one of consistent_hash, ip_hash, least_connections, least_response_time, power_of_two_choices, prefer_zone, random, round_robin, smooth_weighted_round_robin, weighted_least_connections, weighted_random, got "fastest"`},
		{"algorithm", "policy: round_robin", "policy: {name: consistent_hash, algorithm: circle}", `x.yaml:8: pool "api": policy.algorithm must be one of ring, slots, got "circle"`},
		{"bound", "policy: round_robin", "policy: {name: consistent_hash, bound: 0.5}", `x.yaml:8: pool "api": policy.bound must be 0, which is none, or from 1 to 1000, got 0.5`},
		{"bound of another", "policy: round_robin", "policy: {name: round_robin, bound: 2}", `x.yaml:8: pool "api": policy.bound is for consistent_hash only, got it with round_robin`},
		{"inner", "policy: round_robin", "policy: {name: prefer_zone, inner: nearest}", `x.yaml:8: pool "api": policy.inner must be one of`},
		{"inner of another", "policy: round_robin", "policy: {name: random, inner: random}", `x.yaml:8: pool "api": policy.inner is for prefer_zone only, got it with random`},
		{"URL", "http://127.0.0.1:1", "127.0.0.1:1", `x.yaml:10: pool "api": endpoints[0].url must be such as http://host:port, got "127.0.0.1:1"`},
		{"password", "http://127.0.0.1:1", "http://u:secret@127.0.0.1:1", `must have no user, query or fragment, got "http://u:xxxxx@127.0.0.1:1"`},
		{"endpoint twice", "routes:\n", "      - url: http://127.0.0.1:1/\nroutes:\n", `x.yaml:11: pool "api": endpoints[1].id must be that of one endpoint only, got "127.0.0.1:1" again`},
		{"no endpoints", "    endpoints:\n      - url: http://127.0.0.1:1\n", "", `x.yaml:7: pool "api": endpoints must be at least one, or dns must be set`},
		{"DNS, too", "routes:\n", "    dns: {host: a, port: 1}\nroutes:\n", `x.yaml:11: pool "api": dns must not be set with endpoints`},
		{"health", "routes:\n", "    health: {http: /a, tcp: true}\nroutes:\n", `x.yaml:11: pool "api": health must have either http, with a path, or tcp: true`},
		{"health path", "routes:\n", "    health: {http: a}\nroutes:\n", `x.yaml:11: pool "api": health.http must be a path, got "a"`},
		// What only the library knows has the place in the file, too.
		{"health interval", "routes:\n", "    health: {http: /a, interval: 1us}\nroutes:\n", `x.yaml:11: pool "api": health.interval must be `},
		{"health fall", "routes:\n", "    health:\n      http: /a\n      fall: -1\nroutes:\n", `x.yaml:13: pool "api": health.fall must be `},
		{"outlier", "routes:\n", "    outlier:\n      max_ejected: 2\nroutes:\n", `x.yaml:12: pool "api": outlier.max_ejected must be `},
		{"slow start", "routes:\n", "    slow_start: 100h\nroutes:\n", `x.yaml:11: pool "api": slow_start must be `},
		{"panic", "routes:\n", "    panic_threshold: 50\nroutes:\n", `x.yaml:11: pool "api": panic_threshold must be `},
		{"resolve", "    endpoints:\n      - url: http://127.0.0.1:1\n", "    dns: {host: a, port: 1}\n    resolve_every: 1ms\n", `x.yaml:10: pool "api": resolve_every must be `},

		// Routes.
		{"no name", "  - name: all\n    prefix: /\n", "  - prefix: /\n", `x.yaml:12: routes[0]: name must not be empty`},
		{"name twice", "    pool: api\n", "    pool: api\n  - {name: all, prefix: /a, pool: api}\n", `x.yaml:15: route "all": name must be that of one route only, got "all" again`},
		{"no path", "    prefix: /\n", "", `x.yaml:12: route "all": must have either path or prefix`},
		{"both paths", "    prefix: /\n", "    prefix: /\n    path: /\n", `x.yaml:12: route "all": must have either path or prefix`},
		{"dots", "prefix: /", "prefix: /a/../b", `x.yaml:13: route "all": prefix must begin with /, and have no //, /./, /../, ; or control characters, got "/a/../b"`},
		{"strip", "prefix: /\n", "prefix: /api\n    strip_prefix: /v1\n", `x.yaml:14: route "all": strip_prefix must be where the route's paths begin, "/api", got "/v1"`},
		{"host", "prefix: /\n", "prefix: /\n    hosts: [Example.com]\n", `x.yaml:14: route "all": hosts[0] must be a name in lower case without a port, or one after "*.", got "Example.com"`},
		{"host pattern", "prefix: /\n", "prefix: /\n    hosts: [a.*]\n", `hosts[0] must be a name`},
		{"method", "prefix: /\n", "prefix: /\n    methods: [get]\n", `x.yaml:14: route "all": methods[0] must be a method in upper case, got "get"`},
		{"pool", "pool: api", "pool: apl", `x.yaml:14: route "all": pool must be one of the pools, got "apl"`},
		{"own policy", "pool: api", "pool: api\n    policy: best", `x.yaml:15: route "all": policy must be one of`},
		{"hash", "pool: api", "pool: api\n    policy: ip_hash\n    hash: {header: A, cookie: b}", `x.yaml:16: route "all": hash must have one of header, cookie, and address: true, got 2`},
		{"header", "pool: api", "pool: api\n    request_headers: {set: {\"a b\": c}}", `x.yaml:15: route "all": request_headers.set.a b must be the name of a header, got "a b"`},
		{"header value", "pool: api", "pool: api\n    response_headers: {add: {a: \"b\\r\\nc: d\"}}", `x.yaml:15: route "all": response_headers.add.a must be the value of a header, got "b\r\nc: d"`},
		{"host header", "pool: api", "pool: api\n    request_headers: {set: {host: a}}", `request_headers.set.host must not be set; see preserve_host`},
		{"tries", "pool: api", "pool: api\n    retries: {tries: 11}", `x.yaml:15: route "all": retries.tries must be from 0 to 10, got 11`},
		{"try timeout", "pool: api", "pool: api\n    retries: {try_timeout: -1s}", `x.yaml:15: route "all": retries.try_timeout must be `},
		{"ratio", "pool: api", "pool: api\n    retries: {ratio: -1}", `x.yaml:15: route "all": retries.ratio must be `},
		{"breaker", "pool: api", "pool: api\n    breaker: {open_for: 1s}", `x.yaml:15: route "all": breaker loadbalance: ConsecutiveFailures or FailureRate must be set, got 0 for both`},
		{"breaker's rate", "pool: api", "pool: api\n    breaker: {failure_rate: 50}", `x.yaml:15: route "all": breaker.failure_rate must be `},
		{"limit", "pool: api", "pool: api\n    rate_limit: {count: 5}", `x.yaml:15: route "all": rate_limit.per must be more than 0, got 0s`},
		{"limit by", "pool: api", "pool: api\n    rate_limit: {count: 5, per: 1s, by: user}", `x.yaml:15: route "all": rate_limit.by must be address or api_key, got "user"`},
		{"limit by key", "pool: api", "pool: api\n    rate_limit: {count: 5, per: 1s, by: api_key}", `x.yaml:15: route "all": rate_limit.by must not be api_key on a route without auth`},
		{"auth", "pool: api", "pool: api\n    auth: {keys: [alice]}", `x.yaml:15: route "all": auth.api_key must be the name of a header, got ""`},
		// What would do something else than it says, or nothing.
		{"same requests", "pool: api", "pool: api\n  - {name: b, prefix: /, hosts: [b.test], pool: api}\n  - {name: c, prefix: /, hosts: [b.test.], pool: api}", `x.yaml:16: route "c": must be for other requests than route "b", which comes first`},
		{"same methods and headers", "pool: api", "pool: api\n  - {name: b, path: /, methods: [GET, PUT], headers: {x-a: b, c: d}, pool: api}\n  - {name: c, path: /, methods: [PUT, GET], headers: {C: d, X-A: b}, pool: api}", `x.yaml:16: route "c": must be for other requests than route "b", which comes first`},
		{"header Host", "pool: api", "pool: api\n    headers: {Host: a}", `x.yaml:15: route "all": headers.Host must be another header than Host; see hosts`},
		{"key in X-Consumer", "pool: api", "pool: api\n    auth: {api_key: x-consumer}", `x.yaml:15: route "all": auth.api_key must be a header that is the client's, got "x-consumer"`},
		{"hash by X-Real-IP", "pool: api", "pool: api\n    policy: ip_hash\n    hash: {header: X-Real-IP}", `x.yaml:16: route "all": hash.header must be a header that is the client's, got "X-Real-IP"`},
		{"URL's port", "http://127.0.0.1:1", "http://127.0.0.1:99999", `x.yaml:10: pool "api": endpoints[0].url must have a port from 1 to 65535, or none, got "http://127.0.0.1:99999"`},
		{"URL's empty port", "http://127.0.0.1:1", "\"http://127.0.0.1:\"", `endpoints[0].url must have a port from 1 to 65535, or none, got "http://127.0.0.1:"`},
		{"path with a query", "prefix: /\n", "path: /a?x=1\n", `x.yaml:13: route "all": path must be a path alone, without ? and #, and as it is unescaped, got "/a?x=1"`},
		{"escaped prefix", "prefix: /\n", "prefix: /a%20b\n", `x.yaml:13: route "all": prefix must be a path alone, without ? and #, and as it is unescaped, got "/a%20b"`},
		{"same listeners", "  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:8080\n  - address: :8080\n", `x.yaml:3: listeners[1].address must be that of one listener only, got ":8080", where listeners[0] is`},
		{"admin at a listener", "  - address: 127.0.0.1:0\n", "  - address: localhost:8080\nadmin: {address: \"localhost:8080\"}\n", `x.yaml:3: admin.address must not be where a listener is, got "localhost:8080", where listeners[0] is`},
		{"hash without a policy", "pool: api", "pool: api\n    hash: {header: X-User}", `x.yaml:15: route "all": hash is for policies that hash, such as consistent_hash, got it with round_robin`},
		{"sticky age", "pool: api", "pool: api\n    sticky: {cookie: a, max_age: -1h}", `x.yaml:15: route "all": sticky.max_age must be whole seconds, from 0 to 68 years, got -1h0m0s`},

		// What has nothing in it is not what is not there.
		{"empty auth", "pool: api", "pool: api\n    auth:\n    #  api_key: X-API-Key", `x.yaml:15: route "all": auth must not be empty`},
		{"null auth", "pool: api", "pool: api\n    auth: null", `x.yaml:15: route "all": auth must not be empty`},
		{"empty with an anchor", "pool: api", "pool: api\n    breaker: &no ~\n  - {name: b, prefix: /b, pool: api}", `x.yaml:15: route "all": breaker must not be empty`},
		{"empty limit", "pool: api", "pool: api\n    rate_limit:", `x.yaml:15: route "all": rate_limit must not be empty`},
		{"empty health", "routes:\n", "    health:\nroutes:\n", `x.yaml:11: pool "api": health must not be empty`},
		{"empty TLS", "127.0.0.1:0\n", "127.0.0.1:0\n    tls:\n", `x.yaml:3: listeners[0].tls must not be empty`},
		{"empty routes", "  - name: all\n    prefix: /\n    pool: api\n", "", `x.yaml:11: routes must not be empty`},
		{"empty key", "pool: api", "pool: api\n    auth: {api_key: X-API-Key, keys: [~]}", `x.yaml:15: route "all": auth.keys[0] must not be empty`},
		{"no keys", "pool: api", "pool: api\n    auth: {api_key: X-API-Key, keys: []}", `x.yaml:15: route "all": auth.keys must be at least one, or be left out, which is all of api_keys`},
		{"no hosts", "pool: api", "pool: api\n    hosts: []", `x.yaml:15: route "all": hosts must be at least one, or be left out, which is any`},
		{"no methods", "pool: api", "pool: api\n    methods: []", `x.yaml:15: route "all": methods must be at least one, or be left out, which is any`},
		{"no headers", "pool: api", "pool: api\n    headers: {}", `x.yaml:15: route "all": headers must be at least one, or be left out, which is any`},
		{"auth key", "pool: api", "pool: api\n    auth: {api_key: X-API-Key, keys: [mallory]}", `x.yaml:15: route "all": auth.keys[0] must be the name of one of api_keys, got "mallory"`},
		{"sticky", "pool: api", "pool: api\n    sticky: {cookie: \"a b\"}", `x.yaml:15: route "all": sticky.cookie must be of letters, digits, and - . _, got "a b"`},
		{"sticky secret", "pool: api", "pool: api\n    sticky: {cookie: a, secret: short}", `x.yaml:15: route "all": sticky.secret must have at least 16 characters, got 5`},
	} {
		t.Run(x.name, func(t *testing.T) {
			require.Contains(t, valid, x.old)
			text := strings.Replace(valid, x.old, x.new, 1)
			c, err := parseConfig("x.yaml", []byte(text))
			if err == nil { // then it is for who makes the parts
				var g *gateway
				g, err = newGateway(c, options{stdout: &clitest.Output{}, stderr: &clitest.Output{}})
				assert.Nil(t, g)
			}
			require.ErrorContains(t, err, x.want)
			assert.Equal(t, 1, strings.Count(err.Error(), "x.yaml:"), err) // it is said once
		})
	}
	c, err := parseConfig("x.yaml", []byte(valid))
	require.NoError(t, err)
	require.NoError(t, explain(c, &bytes.Buffer{}))
}

// What means the same is taken for the same.
func TestNormalised(t *testing.T) {
	text := strings.Replace(valid, "prefix: /", "prefix: /\n    hosts: [b.example., \"*.example.\"]", 1) + "admin: {hosts: [Gw.Internal, gw2.]}\n"
	c, err := parseConfig("x.yaml", []byte(text))
	require.NoError(t, err)
	assert.Equal(t, []string{"b.example", "*.example"}, c.Routes[0].Hosts)
	assert.Equal(t, []string{"gw.internal", "gw2"}, c.Admin.Hosts)

	// And what can be told apart is not.
	text = strings.Replace(valid, "pool: api", "pool: api\n  - {name: b, prefix: /, hosts: [b.test], pool: api}\n  - {name: c, prefix: /, hosts: [b.test, c.test], pool: api}\n  - {name: d, prefix: /, methods: [GET], pool: api}", 1)
	text = strings.Replace(text, "  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n  - address: 127.0.0.1:0\n  - address: 127.0.0.1:80\n  - address: 127.0.0.2:80\n", 1)
	_, err = parseConfig("x.yaml", []byte(text))
	require.NoError(t, err)
}

// All that is wrong is said at once, in the order of the lines.
func TestAllConfigErrors(t *testing.T) {
	text := strings.NewReplacer("round_robin", "best", "127.0.0.1:0", "nowhere", "pool: api", "pool: apl").Replace(valid)
	_, err := parseConfig("x.yaml", []byte(text))
	var at []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		at = append(at, strings.Join(strings.SplitN(line, ":", 3)[:2], ":"))
	}
	assert.Equal(t, []string{"x.yaml:2", "x.yaml:8", "x.yaml:14"}, at)
}

// A port that is taken is the listener's error, and then nothing is served, and nothing has begun.
func TestListenErrors(t *testing.T) {
	var checked atomic.Bool
	endpoint := serveBackend(t, func(http.ResponseWriter, *http.Request) { checked.Store(true) })
	file := filepath.Join(t.TempDir(), "access.log")
	taken := echo(t, "taken").Listener.Addr().String()
	for _, x := range []struct{ old, new, want string }{
		{"  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n  - address: " + taken + "\n", `x.yaml:3: listeners[1].address must be free: `},
		{"routes:\n", "admin: {address: \"" + taken + "\"}\nroutes:\n", `x.yaml:12: admin.address must be free: `},
		{"  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n    tls: {cert: no.pem, key: no.pem}\n", `x.yaml:3: listeners[0].tls must be a certificate and its key: `},
	} {
		text := strings.NewReplacer(x.old, x.new, "http://127.0.0.1:1\n", endpoint.URL+"\n    health: {http: /healthz}\n").Replace(valid)
		c, err := parseConfig("x.yaml", []byte(text+"access_log: "+file+"\n"))
		require.NoError(t, err)
		_, err = startServer(c, options{stdout: &clitest.Output{}, stderr: &clitest.Output{}})
		require.ErrorContains(t, err, x.want)
		require.NoFileExists(t, file)
	}
	assert.False(t, checked.Load(), "an endpoint was asked")

	// And what else is wrong leaves no listener behind.
	addr := closedPort(t)
	c, err := parseConfig("x.yaml", []byte(strings.Replace(valid, "127.0.0.1:0", addr, 1)+"access_log: /no/such/directory/log\n"))
	require.NoError(t, err)
	_, err = startServer(c, options{stdout: &clitest.Output{}, stderr: &clitest.Output{}})
	require.ErrorContains(t, err, "access_log")
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	l.Close()
}

// The command says the same of a file, and does not start.
func TestCheckCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	code, _, stderr := command(t, "-config", file)
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "no such file")

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(valid, "round_robin", "best", 1)), 0o600))
	for _, args := range [][]string{{"-config", file}, {"-config", file, "-check"}} {
		code, stdout, stderr := command(t, args...)
		assert.Equal(t, 2, code)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, "gateway: "+file+":8: pool \"api\": policy must be one of ")
	}

	require.NoError(t, os.WriteFile(file, []byte(valid), 0o600))
	code, stdout, stderr := command(t, "-config", file, "-check")
	require.Zero(t, code, stderr)
	assert.Contains(t, stdout, file+" is valid.")
	assert.Regexp(t, `api +round_robin +1 endpoints +not checked`, stdout)
	assert.Regexp(t, `all +\*/\.\.\. +3 tries +-> api`, stdout)

	code, stdout, stderr = command(t, "-check")
	require.Zero(t, code, stderr)
	assert.Contains(t, stdout, "demo.yaml is valid.")
}

func TestFlagErrors(t *testing.T) {
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"-x"}, "flag provided but not defined"},
		{[]string{"x"}, `unexpected argument "x"`},
		{[]string{"-config="}, "-config must not be empty"},
		{[]string{"-config=x", "-keep"}, "-keep is for the demonstration"},
		{[]string{"-check", "-for=2s"}, "-for is for the demonstration"},
		{[]string{"-for=1ms"}, "-for must be from 1s to 1m, got 1ms"},
		{[]string{"-listen=x"}, `-listen must be host:port or :port, got "x"`},
		{[]string{"-listen=x:99999"}, `-listen must end in a port from 0 to 65535, got "x:99999"`},
	} {
		code, stdout, stderr := command(t, x.args...)
		assert.Equal(t, 2, code, x.args)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, x.want)
	}
	code, stdout, _ := command(t, "-help")
	assert.Zero(t, code)
	assert.Contains(t, stdout, "-config FILE")
}

// command runs the command in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs clitest.Output
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// demo.yaml shows all that can be in a config.
func TestDemoConfigIsComplete(t *testing.T) {
	var missing []string
	var walk func(x reflect.Type)
	walk = func(x reflect.Type) {
		switch x.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(x.Elem())
		case reflect.Struct:
			for f := range x.Fields() {
				name, ok := f.Tag.Lookup("yaml")
				if !ok {
					continue
				}
				if name != ",inline" && !regexp.MustCompile(`\b`+name+`:`).Match(demoYAML) {
					missing = append(missing, x.Name()+"."+name)
				}
				if f.Type != reflect.PointerTo(x) {
					walk(f.Type)
				}
			}
		}
	}
	walk(reflect.TypeFor[config]())
	assert.Empty(t, missing)
	for name := range policies {
		assert.Contains(t, string(demoYAML), name)
	}
	for name := range algorithms {
		assert.Contains(t, string(demoYAML), name)
	}
}

// The config of the README is valid, and its errors are those that it shows.
func TestReadmeConfig(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, m)
	text := string(m[1])
	c, err := parseConfig("gateway.yaml", []byte(text))
	require.NoError(t, err)
	g, err := newGateway(c, options{stdout: &clitest.Output{}, stderr: &clitest.Output{}, dry: true})
	require.NoError(t, err)
	g.close()

	text = strings.NewReplacer("tries: 3", "tries: 99", "X-API-Key}", "X-API-Key, keys: [eve]}").Replace(text)
	_, err = parseConfig("gateway.yaml", []byte(text))
	require.Error(t, err)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		assert.Contains(t, string(readme), "gateway: "+line+"\n")
	}
}

// Every policy and every algorithm of the config can be built.
func TestPolicies(t *testing.T) {
	assert.Len(t, policies, 11) // those of the package's table
	for name := range policies {
		c, err := parseConfig("x.yaml", []byte(strings.Replace(valid, "round_robin", name, 1)))
		require.NoError(t, err)
		require.NoError(t, explain(c, &bytes.Buffer{}), name)
	}
	for name := range algorithms {
		c, err := parseConfig("x.yaml", []byte(strings.Replace(valid, "round_robin", "{name: prefer_zone, inner: {name: consistent_hash, algorithm: "+name+", bound: 1.5}}", 1)))
		require.NoError(t, err)
		assert.Equal(t, "prefer_zone(consistent_hash("+name+", 1.5))", c.Pools["api"].Policy.String())
		assert.True(t, c.Pools["api"].Policy.usesHash())
		require.NoError(t, explain(c, &bytes.Buffer{}), name)
	}
}
