package httplimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A Limiter limits by key: dist.Limiter is one, which several processes share, and Keyed makes one
// of a ratelimit.Keyed. It is safe for concurrent use by multiple goroutines.
type Limiter interface {
	// Take takes n tokens of key, if they are there; otherwise it changes nothing. ctx is that of the
	// request.
	Take(ctx context.Context, key string, n int64) ratelimit.Result
	// Peek reports whether Take would take, or when, and changes nothing.
	Peek(ctx context.Context, key string, n int64) ratelimit.Result
}

// Keyed returns a Limiter that asks k, in this process.
func Keyed(k *ratelimit.Keyed[string]) Limiter { return keyed{k} }

type keyed struct{ k *ratelimit.Keyed[string] }

func (x keyed) Take(_ context.Context, key string, n int64) ratelimit.Result { return x.k.Take(key, n) }
func (x keyed) Peek(_ context.Context, key string, n int64) ratelimit.Result { return x.k.Peek(key, n) }

// DefaultMaxKeys is for how many keys in debt there is room if Policy.Limiter is nil. If all
// are used, 34 MB are.
const DefaultMaxKeys = 1 << 20

// A Policy is one limit of requests.
type Policy struct {
	_ struct{}

	// Name is what clients know the policy by, in printable ASCII; "default" if empty. No two policies
	// have the same.
	Name string
	// Limit is how much is allowed for each key, and what RateLimit-Policy says. Required. Unlimited
	// and None are refused: leave such a policy out. Count and Burst are at most 10^15-1.
	Limit ratelimit.Limit
	// Limiter decides, by Limit. Every policy has its own. nil: a ratelimit.Keyed, in this process, with
	// room for DefaultMaxKeys, of which only hashes are kept, and that drops the key that is nearest to
	// having all its tokens when there are more.
	Limiter Limiter
	// Key returns what the request is limited by; see ByHeader. nil: the address of the client, see
	// Config.Addr. All requests with the same key share the limit, also those with an empty one. It
	// must not be something that who sends the request can choose freely: with another key for each
	// request, there is no limit.
	Key func(*http.Request) string
	// Cost returns how many tokens the request takes; nil: 1. With 0 the policy takes no part in the
	// request. A negative cost is a mistake, and refused like one that is more than there can be.
	Cost func(*http.Request) int64
	// Unit is what the limit counts, if not requests: "content-bytes", say. It is the parameter qu of
	// RateLimit-Policy, in printable ASCII.
	Unit string
	// Shadow is whether the policy only counts, and shows Config.OnDecision what it would refuse: to
	// try a limit before it hurts anybody. It is in no header, and not in the status.
	Shadow bool
}

// Config configures a Middleware.
type Config struct {
	_ struct{}

	// Policies are the limits that a request must all keep to. At least one.
	Policies []Policy
	// Addr says how the address of a client is found, for policies without a Key.
	Addr AddrConfig
	// Legacy adds X-RateLimit-Limit, -Remaining and -Reset, for clients that know nothing else. They
	// are those of the policy that refuses longest, or else has the fewest tokens.
	Legacy bool
	// Refuse answers a request that is refused. The headers of the limits, and Retry-After, are
	// there already; it writes the status and the body. nil: WriteProblem.
	Refuse func(http.ResponseWriter, *http.Request, Decision)
	// OnDecision is called for each request that a policy takes part in, before it goes on or is
	// refused: for logs and counts. It is the place to see what Shadow policies would have refused, and
	// what was decided without the others (Result.Degraded).
	OnDecision func(*http.Request, Decision)
}

// A Decision says what is done with a request, and why. A Decision is safe for concurrent use by
// multiple goroutines, as long as none changes it.
type Decision struct {
	// Allowed is whether the request goes on.
	Allowed bool
	// RetryAfter is what Retry-After says; 0 if the request is allowed. It is ratelimit.Never, without
	// such a header, if it costs more than there can be.
	RetryAfter time.Duration
	// Outcomes are what each of Config.Policies says, in their order.
	Outcomes []Outcome
}

// Violated returns the names of the policies that refused the request: none if it is allowed.
func (d Decision) Violated() []string {
	var names []string
	for i := range d.Outcomes {
		if o := &d.Outcomes[i]; o.violated() {
			names = append(names, o.Policy)
		}
	}
	return names
}

// An Outcome is what one policy says of a request. An Outcome is safe for concurrent use by multiple
// goroutines, as long as none changes it.
type Outcome struct {
	Policy string // its name
	Shadow bool   // whether it only counts
	Key    string // what the request is limited by
	Cost   int64  // 0 if the policy took no part: then it has no Key, and the zero Result
	// Result is what the limiter has decided. If another policy has refused the request, it is what it
	// would have.
	Result ratelimit.Result
}

func (o *Outcome) violated() bool { return !o.Shadow && !o.Result.OK() }

// A Middleware limits requests before they reach a handler.
//
// A Middleware is safe for concurrent use by multiple goroutines. Each policy is as consistent as its
// Limiter; several are all or none as far as can be seen: see Handler. The zero value cannot be used.
type Middleware struct {
	policies   []policy
	header     string // RateLimit-Policy; empty if all are in the shadow
	addr       *ClientAddr
	legacy     bool
	refuse     func(http.ResponseWriter, *http.Request, Decision)
	onDecision func(*http.Request, Decision)
}

// A policy is a Policy with its defaults.
type policy struct {
	Policy
	quoted string // the name, as a String of a structured field
}

// New returns a Middleware. It returns an error if c is not valid; it wraps ratelimit.ErrLimit if
// that is for a limit.
func New(c Config) (*Middleware, error) {
	if len(c.Policies) == 0 {
		return nil, errors.New("httplimit: Policies must be at least 1, got 0")
	}
	addr, err := NewClientAddr(c.Addr)
	if err != nil {
		return nil, err
	}
	m := &Middleware{addr: addr, legacy: c.Legacy, refuse: c.Refuse, onDecision: c.OnDecision}
	if m.refuse == nil {
		m.refuse = WriteProblem
	}
	var header []byte
	names := map[string]bool{}
	for _, p := range c.Policies {
		if err := complete(&p); err != nil {
			return nil, err
		}
		if names[p.Name] {
			return nil, fmt.Errorf("httplimit: Name must be different for each policy, got %q twice", p.Name)
		}
		names[p.Name] = true
		if !p.Shadow {
			header = appendPolicy(header, p.Name, p.Unit, p.Limit)
		}
		m.policies = append(m.policies, policy{p, string(appendString(nil, p.Name))})
	}
	m.header = string(header)
	return m, nil
}

// complete checks p, and fills in what it leaves to defaults.
func complete(p *Policy) error {
	if p.Name == "" {
		p.Name = "default"
	}
	if err := checkString("Name", p.Name); err != nil {
		return err
	}
	if err := checkString("Unit", p.Unit); err != nil {
		return err
	}
	if err := checkLimit(p.Limit); err != nil {
		return fmt.Errorf("httplimit: Limit of %q: %w", p.Name, err)
	}
	if p.Limiter == nil {
		k, err := ratelimit.NewKeyed[string](p.Limit, ratelimit.KeyedConfig{MaxKeys: DefaultMaxKeys, HashKeys: true})
		if err != nil {
			return fmt.Errorf("httplimit: Limit of %q: %w", p.Name, err)
		}
		p.Limiter = Keyed(k)
	}
	return nil
}

// ByHeader returns a Policy.Key: the first value of a header of the request, such as an API key, or the
// empty key if there is none. Use it behind what has checked the value, and refuses those it
// does not know: otherwise a new one for each request is a new limit for each request.
func ByHeader(name string) func(*http.Request) string {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) string {
		if values := r.Header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
}

// Handler returns a handler that serves those requests by next that keep to all policies. It panics
// if next is nil.
//
// With one policy, a request is one call of its Limiter. With several, n of them are 2n-1: all but the
// last are asked, the last one takes, and then the others do; so what one of them refuses is not
// taken from the others, unless other requests with the same keys come in between. Then some may
// have been taken from: it is never more that is allowed, but less. Policies in the shadow are asked
// after the others, and take if the request is allowed.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("httplimit: next must not be nil")
	}
	return &handler{m, next}
}

type handler struct {
	m    *Middleware
	next http.Handler
}

// ServeHTTP is what http.Handler asks for.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := h.m
	var few [4]Outcome // on the stack
	out := few[:]
	if len(m.policies) > len(few) {
		out = make([]Outcome, len(m.policies))
	}
	out = out[:len(m.policies)]
	asked, ok := m.decide(r, out)
	var retry time.Duration
	if !ok {
		retry = retryAfter(out)
	}
	m.setHeaders(w.Header(), out, retry)
	if !ok || asked && m.onDecision != nil {
		d := Decision{Allowed: ok, RetryAfter: retry, Outcomes: slices.Clone(out)}
		if m.onDecision != nil {
			m.onDecision(r, d)
		}
		if !ok {
			m.refuse(w, r, d)
			return
		}
	}
	h.next.ServeHTTP(w, r)
}

// decide asks the policies, in the order that Handler says. asked is whether there was any to ask.
func (m *Middleware) decide(r *http.Request, out []Outcome) (asked, ok bool) {
	ctx := r.Context()
	addr, known := "", false
	last := -1
	for i := range out {
		p, o := &m.policies[i], &out[i]
		*o = Outcome{Policy: p.Name, Shadow: p.Shadow, Cost: 1}
		if p.Cost != nil {
			o.Cost = p.Cost(r)
		}
		if o.Cost == 0 {
			continue
		}
		asked = true
		if !p.Shadow {
			last = i
		}
		switch {
		case p.Key != nil:
			o.Key = p.Key(r)
		case known:
			o.Key = addr
		default:
			addr, known = m.addr.Key(r), true
			o.Key = addr
		}
	}
	ok = true
	for i := range out[:max(last, 0)] {
		if o := &out[i]; !o.Shadow && o.Cost != 0 {
			ok = m.ask(ctx, i, o, false) && ok
		}
	}
	if last >= 0 {
		ok = m.ask(ctx, last, &out[last], ok) && ok
	}
	for i := range out[:max(last, 0)] {
		if o := &out[i]; ok && !o.Shadow && o.Cost != 0 {
			ok = m.ask(ctx, i, o, true)
		}
	}
	for i := range out {
		if o := &out[i]; o.Shadow && o.Cost != 0 {
			m.ask(ctx, i, o, ok)
		}
	}
	return asked, ok
}

// ask asks policy i, whether it takes or not.
func (m *Middleware) ask(ctx context.Context, i int, o *Outcome, take bool) bool {
	limiter := m.policies[i].Limiter
	switch {
	case o.Cost < 0:
		o.Result = limiter.Peek(ctx, o.Key, 0)
		o.Result.Allowed, o.Result.RetryAfter = 0, ratelimit.Never
	case take:
		o.Result = limiter.Take(ctx, o.Key, o.Cost)
	default:
		o.Result = limiter.Peek(ctx, o.Key, o.Cost)
	}
	return o.Result.OK()
}
