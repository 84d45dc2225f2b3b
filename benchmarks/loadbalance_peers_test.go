package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	orca "github.com/cncf/xds/go/xds/data/orca/v3"
	kratoserrors "github.com/go-kratos/kratos/v2/errors"
	"github.com/go-kratos/kratos/v2/registry"
	"github.com/go-kratos/kratos/v2/selector"
	kratosp2c "github.com/go-kratos/kratos/v2/selector/p2c"
	kratosrandom "github.com/go-kratos/kratos/v2/selector/random"
	kratoswrr "github.com/go-kratos/kratos/v2/selector/wrr"
	"github.com/stretchr/testify/require"
	"github.com/zeromicro/go-zero/core/logx"
	_ "github.com/zeromicro/go-zero/zrpc/p2c" // registers p2c_ewma
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/leastrequest"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/balancer/weightedroundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/loadbalance"
)

// A chooser balances requests over endpoints, which are numbers from 0. hash matters to few.
type chooser struct {
	// pick chooses, and the request is never said to end.
	pick func(hash uint64) int
	// both chooses, and says at once that the request has ended well.
	both func(hash uint64) int
	// hold chooses, and says how the request has ended when it has. It may allocate more than both does.
	hold func(hash uint64) (int, func(failed bool))
}

// A chooserImpl makes choosers of n endpoints, with the weights 1, 2, 3, 4, 1 and so on, or equal ones.
type chooserImpl struct {
	name string
	make func(tb testing.TB, n int, weighted bool) chooser
	// forgetful does not count requests in flight, so what it does is all in pick.
	forgetful bool
}

// chooserPolicies are our policies, and what others have of the same kind.
var chooserPolicies = []struct {
	name     string
	policy   loadbalance.Policy
	weighted bool
	counts   bool // what it does goes by requests in flight or latency
	peers    []chooserImpl
}{
	{"rr", loadbalance.RoundRobin(), false, false, []chooserImpl{{"grpc", grpcRoundRobin, true}}},
	{"wrr", loadbalance.SmoothWeightedRoundRobin(), true, false, []chooserImpl{
		{"kratos", kratosChooser(kratoswrr.NewBuilder), true}, {"grpc", grpcWeightedRoundRobin, true},
	}},
	{"random", loadbalance.Random(), false, false, []chooserImpl{{"kratos", kratosChooser(kratosrandom.NewBuilder), true}}},
	{"wrandom", loadbalance.WeightedRandom(), true, false, nil},
	{"p2c", loadbalance.PowerOfTwoChoices(), false, true, []chooserImpl{
		{"kratos", kratosChooser(kratosp2c.NewBuilder), false}, {"gozero", gozeroP2C, false}, {"grpc", grpcLeastRequest, false},
	}},
	{"lrt", loadbalance.LeastResponseTime(), false, true, []chooserImpl{
		{"kratos", kratosChooser(kratosp2c.NewBuilder), false}, {"gozero", gozeroP2C, false},
	}},
	{"leastconn", loadbalance.LeastConnections(), false, true, nil},
	{"wleastconn", loadbalance.WeightedLeastConnections(), true, true, nil},
	{"iphash", loadbalance.IPHash(), false, false, nil},
	{"consistent", loadbalance.ConsistentHash(maglev, 0), false, false, nil},
	{"bounded", loadbalance.ConsistentHash(maglev, 1.25), false, true, nil},
	{"zone", loadbalance.PreferZone(nil), false, true, nil},
}

// maglev is a Locator of package consistenthash.
func maglev(ids []string, weights []uint32) (loadbalance.Locator, error) {
	nodes := make([]consistenthash.Node, len(ids))
	for i, id := range ids {
		nodes[i] = consistenthash.Node{ID: id, Weight: weights[i]}
	}
	return consistenthash.Maglev(0).Build(nodes)
}

// chooserImpls are a Pool with a policy, its Picker alone, and the peers.
func chooserImpls(policy loadbalance.Policy, peers []chooserImpl) []chooserImpl {
	return append([]chooserImpl{
		{"sysblocks", func(tb testing.TB, n int, weighted bool) chooser {
			return poolChooser(newPool(tb, loadbalance.Config[int]{Policy: policy, Endpoints: poolEndpoints(n, weighted), Zone: "here"}))
		}, false},
		{"ours-picker", func(tb testing.TB, n int, weighted bool) chooser { return pickerChooser(tb, policy, n, weighted) }, true},
	}, peers...)
}

// poolEndpoints returns n endpoints, half of them in the zone of the callers.
func poolEndpoints(n int, weighted bool) []loadbalance.Endpoint[int] {
	es := make([]loadbalance.Endpoint[int], n)
	for i := range es {
		es[i] = loadbalance.Endpoint[int]{ID: fmt.Sprintf("%05d", i), Value: i, Weight: 1, Zone: [...]string{"here", "there"}[i%2]}
		if weighted {
			es[i].Weight = chooserWeight(i)
		}
	}
	return es
}

func chooserWeight(i int) uint32 { return uint32(1 + i%4) }

func newPool(tb testing.TB, c loadbalance.Config[int]) *loadbalance.Pool[int] {
	p := must(loadbalance.New(c))(tb)
	tb.Cleanup(p.Close)
	return p
}

// poolChooser is a Pool with its Leases.
func poolChooser(p *loadbalance.Pool[int]) chooser {
	return chooser{
		pick: func(hash uint64) int {
			l, err := p.Pick(loadbalance.Request{Hash: hash})
			if err != nil {
				return -1
			}
			return l.Value()
		},
		both: func(hash uint64) int {
			l, err := p.Pick(loadbalance.Request{Hash: hash})
			if err != nil {
				return -1
			}
			i := l.Value()
			l.Done(loadbalance.OK)
			return i
		},
		hold: func(hash uint64) (int, func(failed bool)) {
			l, err := p.Pick(loadbalance.Request{Hash: hash})
			if err != nil {
				return -1, nil
			}
			return l.Value(), func(failed bool) {
				if failed {
					l.Done(loadbalance.ServerError)
					return
				}
				l.Done(loadbalance.OK)
			}
		},
	}
}

// A capture is a Policy that keeps what another one has built: its Picker, without the Pool around it, counts nothing
// in flight and measures no latency, as do many of the peers.
type capture struct {
	loadbalance.Policy
	view   loadbalance.View
	picker loadbalance.Picker
}

func (c *capture) Build(v loadbalance.View, prev loadbalance.Picker) loadbalance.Picker {
	c.view, c.picker = v, c.Policy.Build(v, prev)
	return c.picker
}

func pickerChooser(tb testing.TB, policy loadbalance.Policy, n int, weighted bool) chooser {
	c := &capture{Policy: policy}
	newPool(tb, loadbalance.Config[int]{Policy: c, Endpoints: poolEndpoints(n, weighted), Zone: "here"})
	pick := func(hash uint64) int { return c.picker.Pick(c.view, loadbalance.Request{Hash: hash}) }
	return chooser{pick: pick, both: pick}
}

// A kratosNode is a node of kratos that knows its number.
type kratosNode struct {
	selector.Node
	i int
}

// kratosChooser is a selector of kratos. Its p2c counts of the errors only those that say that a server cannot be
// reached, so that is what it is told of a failure.
func kratosChooser[O any](builder func(...O) selector.Builder) func(testing.TB, int, bool) chooser {
	return func(_ testing.TB, n int, weighted bool) chooser {
		s := builder().Build()
		nodes := make([]selector.Node, n)
		for i := range nodes {
			weight := uint32(1)
			if weighted {
				weight = chooserWeight(i)
			}
			id := fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
			nodes[i] = kratosNode{selector.NewNode("http", id, &registry.ServiceInstance{
				ID: id, Metadata: map[string]string{"weight": strconv.Itoa(int(weight))},
			}), i}
		}
		s.Apply(nodes)
		ctx := context.Background()
		failure := selector.DoneInfo{Err: kratoserrors.ServiceUnavailable("failed", "")}
		return chooser{
			pick: func(uint64) int {
				node, _, err := s.Select(ctx)
				if err != nil {
					return -1
				}
				return node.(kratosNode).i
			},
			both: func(uint64) int {
				node, done, err := s.Select(ctx)
				if err != nil {
					return -1
				}
				done(ctx, selector.DoneInfo{})
				return node.(kratosNode).i
			},
			hold: func(uint64) (int, func(failed bool)) {
				node, done, err := s.Select(ctx)
				if err != nil {
					return -1, nil
				}
				return node.(kratosNode).i, func(failed bool) {
					if failed {
						done(ctx, failure)
						return
					}
					done(ctx, selector.DoneInfo{})
				}
			},
		}
	}
}

// A grpcConn is what a balancer of gRPC sees of a client, all of whose connections are up.
type grpcConn struct {
	balancer.ClientConn // nil: what is not below is not called

	mu      sync.Mutex
	picker  balancer.Picker
	numbers map[string]int // by address
	pending []func()       // calls that gRPC makes later
}

func (c *grpcConn) later(f func()) {
	c.mu.Lock()
	c.pending = append(c.pending, f)
	c.mu.Unlock()
}

// run makes the calls that are pending, and those that follow from them.
func (c *grpcConn) run() {
	for {
		c.mu.Lock()
		calls := c.pending
		c.pending = nil
		c.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		for _, f := range calls {
			f()
		}
	}
}

func (c *grpcConn) NewSubConn(a []resolver.Address, o balancer.NewSubConnOptions) (balancer.SubConn, error) {
	return &grpcSubConn{cc: c, i: c.numbers[a[0].Addr], listen: o.StateListener}, nil
}

func (c *grpcConn) UpdateState(s balancer.State) {
	c.mu.Lock()
	c.picker = s.Picker
	c.mu.Unlock()
}

func (c *grpcConn) ResolveNow(resolver.ResolveNowOptions) {}
func (c *grpcConn) Target() string                        { return "benchmark" }
func (c *grpcConn) MetricsRecorder() estats.MetricsRecorder {
	return &estats.UnimplementedMetricsRecorder{}
}

type grpcSubConn struct {
	balancer.SubConn // nil: what is not below is not called

	cc     *grpcConn
	i      int
	listen func(balancer.SubConnState)
}

func (s *grpcSubConn) Connect() {
	for _, state := range []connectivity.State{connectivity.Connecting, connectivity.Ready} {
		s.cc.later(func() { s.listen(balancer.SubConnState{ConnectivityState: state}) })
	}
}

func (s *grpcSubConn) RegisterHealthListener(f func(balancer.SubConnState)) {
	s.cc.later(func() { f(balancer.SubConnState{ConnectivityState: connectivity.Ready}) })
}

func (s *grpcSubConn) Shutdown()                          {}
func (s *grpcSubConn) UpdateAddresses([]resolver.Address) {}

// grpcPicker returns the picker of a balancer of gRPC for n endpoints. prepare, if it is not nil, is called with it, and
// then the one is returned that the balancer makes after.
func grpcPicker(tb testing.TB, name, config string, n int, prepare func(balancer.Picker)) balancer.Picker {
	cc := &grpcConn{numbers: make(map[string]int)}
	builder := balancer.Get(name)
	require.NotNil(tb, builder, name)
	b := builder.Build(cc, balancer.BuildOptions{})
	tb.Cleanup(b.Close)
	var state balancer.ClientConnState
	for i := range n {
		a := resolver.Address{Addr: fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)}
		cc.numbers[a.Addr] = i
		// Old balancers go by the one, new ones by the other.
		state.ResolverState.Addresses = append(state.ResolverState.Addresses, a)
		state.ResolverState.Endpoints = append(state.ResolverState.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
	}
	if p, ok := builder.(balancer.ConfigParser); ok && config != "" {
		state.BalancerConfig = must[serviceconfig.LoadBalancingConfig](p.ParseConfig(json.RawMessage(config)))(tb)
	}
	require.NoError(tb, b.UpdateClientConnState(state))
	cc.run()
	if prepare != nil {
		prepare(cc.picker)
		require.NoError(tb, b.UpdateClientConnState(state))
		cc.run()
	}
	return cc.picker
}

// grpcChooser is a picker of gRPC.
func grpcChooser(p balancer.Picker) chooser {
	info := balancer.PickInfo{Ctx: context.Background()}
	failure := balancer.DoneInfo{Err: status.Error(codes.Unavailable, "failed")}
	return chooser{
		pick: func(uint64) int {
			r, err := p.Pick(info)
			if err != nil {
				return -1
			}
			return r.SubConn.(*grpcSubConn).i
		},
		both: func(uint64) int {
			r, err := p.Pick(info)
			if err != nil {
				return -1
			}
			if r.Done != nil {
				r.Done(balancer.DoneInfo{})
			}
			return r.SubConn.(*grpcSubConn).i
		},
		hold: func(uint64) (int, func(failed bool)) {
			r, err := p.Pick(info)
			if err != nil {
				return -1, nil
			}
			return r.SubConn.(*grpcSubConn).i, func(failed bool) {
				switch {
				case r.Done == nil:
				case failed:
					r.Done(failure)
				default:
					r.Done(balancer.DoneInfo{})
				}
			}
		},
	}
}

func grpcRoundRobin(tb testing.TB, n int, _ bool) chooser {
	return grpcChooser(grpcPicker(tb, roundrobin.Name, "", n, nil))
}

func grpcLeastRequest(tb testing.TB, n int, _ bool) chooser {
	return grpcChooser(grpcPicker(tb, leastrequest.Name, `{"choiceCount": 2}`, n, nil))
}

// grpcWeightedRoundRobin is a picker that goes by weights which endpoints report with their answers: a server that does
// 100 requests a second for each unit of weight, when half of it is in use. In the benchmarks themselves no answer has
// a report; one would cost a lock and a reading of the clock.
func grpcWeightedRoundRobin(tb testing.TB, n int, _ bool) chooser {
	return grpcChooser(grpcPicker(tb, weightedroundrobin.Name, `{"blackoutPeriod": "0s"}`, n, func(p balancer.Picker) {
		for range n { // until there are weights, it takes turns
			r := must(p.Pick(balancer.PickInfo{Ctx: context.Background()}))(tb)
			r.Done(balancer.DoneInfo{ServerLoad: &orca.OrcaLoadReport{
				ApplicationUtilization: 0.5,
				RpsFractional:          100 * float64(chooserWeight(r.SubConn.(*grpcSubConn).i)),
			}})
		}
	}))
}

func gozeroP2C(tb testing.TB, n int, _ bool) chooser {
	logx.DisableStat() // the first request of each minute would print what all have done
	return grpcChooser(grpcPicker(tb, "p2c_ewma", "", n, nil))
}

// TestChoosers checks that what the benchmarks call balances: over all endpoints, by the weights if there are some.
func TestChoosers(t *testing.T) {
	const n, each = 8, 2000 // two rounds of the weights 1, 2, 3, 4
	for _, p := range chooserPolicies {
		for _, impl := range chooserImpls(p.policy, p.peers) {
			t.Run("policy="+p.name+"/impl="+impl.name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				c := impl.make(t, n, p.weighted)
				hold := func(hash uint64) int {
					i, done := c.hold(hash)
					done(i == 0)
					return i
				}
				if c.hold == nil {
					hold = c.both
				}
				for name, choose := range map[string]func(uint64) int{"pick": c.pick, "both": c.both, "hold": hold} {
					if p.counts && (impl.forgetful || name == "pick" || name == "hold") {
						continue // nothing is known, or nothing ends, or one looks bad
					}
					counts := make([]int, n)
					for range n * each {
						i := choose(r.Uint64())
						require.True(t, i >= 0 && i < n, name)
						counts[i]++
					}
					if p.counts {
						// Those that go by what is in flight, or by latency, may well prefer some when all do nothing.
						slices.Sort(counts)
						require.Positive(t, counts[n-2], "%s: %v", name, counts)
						continue
					}
					for i, got := range counts {
						share := 1.0
						if p.weighted {
							share = float64(chooserWeight(i)) / 2.5
						}
						require.InEpsilon(t, each*share, got, 0.2, "%s: %v", name, counts)
					}
				}
			})
		}
	}
}
