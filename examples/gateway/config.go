package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// config is the YAML file. demo.yaml shows all of it, with comments.
type config struct {
	Listeners      []listenerConfig      `yaml:"listeners"`
	TrustedProxies []string              `yaml:"trusted_proxies"` // whose X-Forwarded-For is believed
	Admin          adminConfig           `yaml:"admin"`
	AccessLog      string                `yaml:"access_log"` // "stdout", "off", or a file; "": stdout
	Shutdown       shutdownConfig        `yaml:"shutdown"`
	APIKeys        []apiKeyConfig        `yaml:"api_keys"`
	Pools          map[string]poolConfig `yaml:"pools"`
	Routes         []routeConfig         `yaml:"routes"`

	trusted []netip.Prefix
	file    string
	root    *yaml.Node
}

type listenerConfig struct {
	Address string     `yaml:"address"`
	TLS     *tlsConfig `yaml:"tls"` // nil: plain HTTP

	BodyIdleTimeout time.Duration `yaml:"body_idle_timeout"` // for the client to send, or take, some of a body. 0: 30 s
}

type tlsConfig struct {
	Cert       string   `yaml:"cert"`
	Key        string   `yaml:"key"`
	SelfSigned []string `yaml:"self_signed"` // the names and addresses of a certificate made at the start
}

type adminConfig struct {
	Address string   `yaml:"address"` // "": none
	Hosts   []string `yaml:"hosts"`   // the names, besides addresses and localhost, by which browsers may come
}

type shutdownConfig struct {
	Delay   time.Duration `yaml:"delay"`   // /healthz fails, and all is served: for balancers in front. 0: none
	Timeout time.Duration `yaml:"timeout"` // for requests in flight to end. 0: 10 s
}

type apiKeyConfig struct {
	Name      string       `yaml:"name"`
	SHA256    string       `yaml:"sha256"`
	RateLimit *limitConfig `yaml:"rate_limit"` // instead of those by api_key of routes

	sum [32]byte
}

type limitConfig struct {
	Count int64         `yaml:"count"`
	Per   time.Duration `yaml:"per"`
	Burst int64         `yaml:"burst"` // 0: count
}

func (l limitConfig) limit() ratelimit.Limit {
	return ratelimit.Limit{Count: l.Count, Per: l.Per, Burst: l.Burst}
}

type poolConfig struct {
	Policy         *policyConfig    `yaml:"policy"` // nil: power_of_two_choices
	Zone           string           `yaml:"zone"`
	Endpoints      []endpointConfig `yaml:"endpoints"`
	DNS            *dnsConfig       `yaml:"dns"`
	ResolveEvery   time.Duration    `yaml:"resolve_every"`
	Health         *healthConfig    `yaml:"health"`
	Outlier        *outlierConfig   `yaml:"outlier"`
	SlowStart      time.Duration    `yaml:"slow_start"`
	PanicThreshold float64          `yaml:"panic_threshold"`
}

type endpointConfig struct {
	ID       string  `yaml:"id"` // "": host:port of URL
	URL      string  `yaml:"url"`
	Weight   *uint32 `yaml:"weight"` // nil: 1
	Zone     string  `yaml:"zone"`
	Priority uint8   `yaml:"priority"`

	url *url.URL
}

type dnsConfig struct {
	Host string `yaml:"host"`
	Port uint16 `yaml:"port"`
}

type healthConfig struct {
	HTTP      string        `yaml:"http"` // the path
	TCP       bool          `yaml:"tcp"`
	Interval  time.Duration `yaml:"interval"`
	Timeout   time.Duration `yaml:"timeout"`
	Rise      int           `yaml:"rise"`
	Fall      int           `yaml:"fall"`
	StartDown bool          `yaml:"start_down"`
}

type outlierConfig struct {
	ConsecutiveErrors int           `yaml:"consecutive_errors"`
	SuccessRateFactor float64       `yaml:"success_rate_factor"`
	MinRequests       int           `yaml:"min_requests"`
	MinEndpoints      int           `yaml:"min_endpoints"`
	Interval          time.Duration `yaml:"interval"`
	EjectFor          time.Duration `yaml:"eject_for"`
	MaxEjectFor       time.Duration `yaml:"max_eject_for"`
	MaxEjected        float64       `yaml:"max_ejected"`
}

// A policyConfig is written as its name alone, or as a mapping.
type policyConfig struct {
	Name      string        `yaml:"name"`
	Algorithm string        `yaml:"algorithm"` // of consistent_hash
	Bound     float64       `yaml:"bound"`     // of consistent_hash
	Inner     *policyConfig `yaml:"inner"`     // of prefer_zone
}

// UnmarshalYAML reads either form.
func (p *policyConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&p.Name)
	}
	type plain policyConfig // has no UnmarshalYAML
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		// What Decode is called for here does not know that the Decoder is strict.
		if k := n.Content[i]; !slices.Contains([]string{"name", "algorithm", "bound", "inner"}, k.Value) {
			return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: field %s not found in type main.policyConfig", k.Line, k.Value)}}
		}
	}
	return n.Decode((*plain)(p))
}

func (p *policyConfig) String() string {
	if p == nil {
		return defaultPolicy
	}
	var args []string
	if p.Algorithm != "" {
		args = append(args, p.Algorithm)
	}
	if p.Bound != 0 {
		args = append(args, strconv.FormatFloat(p.Bound, 'g', -1, 64))
	}
	if p.Inner != nil {
		args = append(args, p.Inner.String())
	}
	if args == nil {
		return p.Name
	}
	return p.Name + "(" + strings.Join(args, ", ") + ")"
}

type routeConfig struct {
	Name string `yaml:"name"`

	Hosts   []string          `yaml:"hosts"`
	Path    string            `yaml:"path"`
	Prefix  string            `yaml:"prefix"`
	Methods []string          `yaml:"methods"`
	Headers map[string]string `yaml:"headers"` // "*" is any value

	StripPrefix     string           `yaml:"strip_prefix"`
	PreserveHost    bool             `yaml:"preserve_host"` // the backend is told the client's Host, not its own
	RequestHeaders  headersConfig    `yaml:"request_headers"`
	ResponseHeaders headersConfig    `yaml:"response_headers"`
	Pool            string           `yaml:"pool"`
	Policy          *policyConfig    `yaml:"policy"` // nil: that of the pool
	Hash            *hashConfig      `yaml:"hash"`
	Sticky          *stickyConfig    `yaml:"sticky"`
	Timeout         time.Duration    `yaml:"timeout"` // for all of a request, until it is answered. 0: none
	Retries         retriesConfig    `yaml:"retries"`
	Breaker         *breakerConfig   `yaml:"breaker"`
	RateLimit       *rateLimitConfig `yaml:"rate_limit"`
	Auth            *authConfig      `yaml:"auth"`
}

type headersConfig struct {
	Set    map[string]string `yaml:"set"`
	Add    map[string]string `yaml:"add"`
	Remove []string          `yaml:"remove"`
}

type hashConfig struct {
	Header  string `yaml:"header"`
	Cookie  string `yaml:"cookie"`
	Address bool   `yaml:"address"`
}

type stickyConfig struct {
	Cookie   string        `yaml:"cookie"`
	Secret   string        `yaml:"secret"` // "": another one after each start
	MaxAge   time.Duration `yaml:"max_age"`
	Insecure bool          `yaml:"insecure"` // also without TLS
}

type retriesConfig struct {
	Tries      int           `yaml:"tries"`       // the first one counts. 0: 3; 1: there are no retries
	TryTimeout time.Duration `yaml:"try_timeout"` // until there is an answer; it does not run while the client is waited for. 0: none
	Ratio      float64       `yaml:"ratio"`       // how many retries there may be for each request. 0: 0.2
	Burst      int           `yaml:"burst"`       // and how many more
}

type breakerConfig struct {
	ConsecutiveFailures int           `yaml:"consecutive_failures"`
	FailureRate         float64       `yaml:"failure_rate"`
	MinRequests         int           `yaml:"min_requests"`
	Window              time.Duration `yaml:"window"`
	OpenFor             time.Duration `yaml:"open_for"`
	Probes              int           `yaml:"probes"`
}

type rateLimitConfig struct {
	limitConfig `yaml:",inline"`
	By          string `yaml:"by"` // "address" or "api_key"; "": address
}

type authConfig struct {
	APIKey string   `yaml:"api_key"` // the header
	Keys   []string `yaml:"keys"`    // by name; none: all
}

// readConfig reads a file, and says everything that is wrong with it.
func readConfig(file string) (*config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseConfig(file, text)
}

func parseConfig(file string, text []byte) (*config, error) {
	c := &config{file: file, root: new(yaml.Node)}
	if err := yaml.Unmarshal(text, c.root); err != nil {
		return nil, c.yamlError(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(c); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: the file is empty", file)
	} else if err != nil {
		return nil, c.yamlError(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: must be one YAML document, and there is more than one", file)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}
