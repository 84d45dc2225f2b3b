package loadbalance_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// servers are three endpoints, whose values could be clients of them.
func servers() []loadbalance.Endpoint[string] {
	return []loadbalance.Endpoint[string]{
		{ID: "a", Value: "10.0.0.1:80", Weight: 1},
		{ID: "b", Value: "10.0.0.2:80", Weight: 1},
		{ID: "c", Value: "10.0.0.3:80", Weight: 1},
	}
}

func Example() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	served := map[string]bool{}
	for range 100 {
		err := pool.Do(context.Background(), loadbalance.Request{}, func(_ context.Context, addr string) error {
			served[addr] = true // here goes the request
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(served)
	// Output: map[10.0.0.1:80:true 10.0.0.2:80:true 10.0.0.3:80:true]
}

// A Lease that is not ended counts against its endpoint for ever: with "_" there is nobody to end it.
// Do cannot forget it.
func Example_mistake() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()[:1]})
	if err != nil {
		fmt.Println(err)
		return
	}
	get := func() string {
		lease, err := pool.Pick(loadbalance.Request{})
		if err != nil {
			return ""
		}
		return lease.Value() // wrong: and who calls Done?
	}
	for range 3 {
		get()
	}
	fmt.Println(pool.Stats().Endpoints[0].InFlight, "in flight")

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	fmt.Println(pool.Drain(ctx, "a"))
	// Output:
	// 3 in flight
	// loadbalance: 3 requests are in flight at "a": context deadline exceeded
}

func ExamplePool_Pick() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Where it has failed, it is not tried again.
	var r loadbalance.Request
	for range 4 {
		lease, err := pool.Pick(r)
		if err != nil {
			fmt.Println(err, errors.Is(err, loadbalance.ErrUnavailable))
			break
		}
		r.Tried = append(r.Tried, lease.ID())
		lease.Done(loadbalance.ConnectError)
	}
	// Output: loadbalance: no endpoint is available: all others have been tried true
}

// PickID is for sticky sessions: to the endpoint of the last time, or any other.
func ExamplePool_PickID() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()})
	if err != nil {
		fmt.Println(err)
		return
	}
	lease, err := pool.PickID("b")
	if err != nil {
		lease, err = pool.Pick(loadbalance.Request{})
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lease.Done(loadbalance.OK)
	fmt.Println(lease.Value())
	// Output: 10.0.0.2:80
}

// Another package can ask for a balancer without knowing this one.
func ExamplePool_Choose() {
	type balancer interface {
		Choose(hash uint64) (string, func(error), error)
	}
	send := func(to balancer, key string) {
		addr, done, err := to.Choose(loadbalance.HashString(key))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(key, "goes to", addr)
		done(nil)
	}
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers(), Policy: loadbalance.IPHash()})
	if err != nil {
		fmt.Println(err)
		return
	}
	send(pool, "alice")
	send(pool, "erin")
	send(pool, "alice")
	// Output:
	// alice goes to 10.0.0.1:80
	// erin goes to 10.0.0.2:80
	// alice goes to 10.0.0.1:80
}

// What is known of endpoints that stay is kept.
func ExamplePool_Set() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()})
	if err != nil {
		fmt.Println(err)
		return
	}
	next := servers()[1:]
	next[0].Weight = 5
	next = append(next, loadbalance.Endpoint[string]{ID: "d", Value: "10.0.0.4:80", Weight: 1})
	diff, err := pool.Set(next)
	fmt.Printf("%+v %v\n", diff, err)

	_, err = pool.Set(append(next, next[0]))
	fmt.Println(err)
	// Output:
	// {Added:[d] Removed:[a] Changed:[b]} <nil>
	// loadbalance: endpoint "b": ID is there already
}

func ExamplePool_Drain() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers(), Policy: loadbalance.RoundRobin()})
	if err != nil {
		fmt.Println(err)
		return
	}
	lease, err := pool.PickID("a")
	if err != nil {
		fmt.Println(err)
		return
	}
	drained := make(chan error)
	go func() { drained <- pool.Drain(context.Background(), "a") }()
	lease.Done(loadbalance.OK) // the last request there
	fmt.Println(<-drained)
	_, err = pool.PickID("a")
	fmt.Println(err)
	fmt.Println(pool.Remove("a"), len(pool.Endpoints()))
	// Output:
	// <nil>
	// loadbalance: no endpoint is available: "a" is given no requests now
	// <nil> 2
}

func ExamplePool_Stats() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers()})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, outcome := range []loadbalance.Outcome{loadbalance.OK, loadbalance.ServerError, loadbalance.OK} {
		lease, err := pool.PickID("a")
		if err != nil {
			fmt.Println(err)
			return
		}
		lease.Done(outcome)
	}
	a := pool.Stats().Endpoints[0]
	fmt.Println(a.State, "picked", a.Picked, "failed", a.Failed, "in flight", a.InFlight)
	// Output: healthy picked 3 failed 1 in flight 0
}

// Three, one and one of five, and the three not one after the other.
func ExampleSmoothWeightedRoundRobin() {
	endpoints := servers()
	endpoints[0].Weight = 3
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: endpoints, Policy: loadbalance.SmoothWeightedRoundRobin(), Seed: 7})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 10 {
		lease, err := pool.Pick(loadbalance.Request{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(lease.ID(), " ")
		lease.Done(loadbalance.OK)
	}
	// Output: a a b a c a a b a c
}

// All requests of a client go to the same endpoint.
func ExampleIPHash() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers(), Policy: loadbalance.IPHash()})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, client := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"} {
		lease, err := pool.Pick(loadbalance.Request{Hash: loadbalance.HashAddr(netip.MustParseAddr(client))})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(client, lease.ID())
		lease.Done(loadbalance.OK)
	}
	// Output:
	// 192.0.2.1 b
	// 192.0.2.2 c
	// 192.0.2.1 b
}

// Any consistent hashing will do: here that of https://arxiv.org/abs/1406.2294, in a few lines. An
// Algorithm of package consistenthash makes a Locator with its method Build.
func ExampleConsistentHash() {
	jump := func(ids []string, _ []uint32) (loadbalance.Locator, error) {
		return loadbalance.LocatorFunc(func(h uint64) int {
			b, j := int64(-1), int64(0)
			for j < int64(len(ids)) {
				b = j
				h = h*2862933555777941757 + 1
				j = int64(float64(b+1) * (float64(int64(1)<<31) / float64((h>>33)+1)))
			}
			return int(b)
		}), nil
	}
	pool, err := loadbalance.New(loadbalance.Config[string]{
		Endpoints: servers(),
		Policy:    loadbalance.ConsistentHash(jump, 1.25),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A hot key does not overrun the endpoint that it belongs to.
	for range 120 {
		if _, err := pool.Pick(loadbalance.Request{Hash: loadbalance.HashString("hot")}); err != nil { // and Done, when it has ended
			fmt.Println(err)
		}
	}
	for _, e := range pool.Stats().Endpoints {
		fmt.Print(e.InFlight, " ")
	}
	// Output: 50 20 50
}

func ExamplePreferZone() {
	pool, err := loadbalance.New(loadbalance.Config[string]{
		Policy: loadbalance.PreferZone(loadbalance.RoundRobin()),
		Zone:   "east", // where we are
		Endpoints: []loadbalance.Endpoint[string]{
			{ID: "a", Weight: 1, Zone: "east"},
			{ID: "b", Weight: 1, Zone: "east"},
			{ID: "c", Weight: 1, Zone: "west"},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	picked := map[string]int{}
	for range 100 {
		lease, err := pool.Pick(loadbalance.Request{})
		if err != nil {
			fmt.Println(err)
			return
		}
		picked[lease.ID()]++
		lease.Done(loadbalance.OK)
	}
	fmt.Println(picked)
	// Output: map[a:50 b:50]
}

// sticky is a Policy of one's own: the first endpoint, as long as it can be used, as of a primary and its
// replacements.
type sticky struct{}

func (sticky) Build(loadbalance.View, loadbalance.Picker) loadbalance.Picker { return sticky{} }

func (sticky) Pick(loadbalance.View, loadbalance.Request) int { return 0 }

func ExamplePolicy() {
	pool, err := loadbalance.New(loadbalance.Config[string]{Endpoints: servers(), Policy: sticky{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		lease, err := pool.Pick(loadbalance.Request{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(lease.ID(), " ")
		lease.Done(loadbalance.OK)
	}
	fmt.Println(pool.Remove("a"))
	lease, err := pool.Pick(loadbalance.Request{})
	fmt.Println(lease.ID(), err)
	// Output:
	// a a a <nil>
	// b <nil>
}

// An endpoint whose requests fail is given none for a while.
func ExampleOutlierConfig() {
	ejected := make(chan string, 1)
	pool, err := loadbalance.New(loadbalance.Config[string]{
		Endpoints: servers(),
		Outlier:   loadbalance.OutlierConfig{ConsecutiveErrors: 3, EjectFor: time.Minute},
		OnEvent: func(e loadbalance.Event) {
			if e.Kind == loadbalance.Ejected {
				ejected <- e.ID
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	for range 3 {
		lease, err := pool.PickID("b")
		if err != nil {
			fmt.Println(err)
			return
		}
		lease.Done(loadbalance.ServerError)
	}
	fmt.Println(<-ejected, pool.Stats().Endpoints[1].State, pool.Stats().Available)
	// Output: b ejected 2
}

func ExampleHealthConfig() {
	down := make(chan string, 1)
	pool, err := loadbalance.New(loadbalance.Config[string]{
		Endpoints: servers(),
		Health: loadbalance.HealthConfig[string]{
			Check: func(_ context.Context, e loadbalance.Endpoint[string]) error { // or CheckTCP, or proxy.CheckHTTP
				if e.ID == "b" {
					return errors.New("connection refused")
				}
				return nil
			},
			Interval: 10 * time.Millisecond,
			Fall:     2,
		},
		OnEvent: func(e loadbalance.Event) {
			if e.Kind == loadbalance.Down {
				down <- fmt.Sprint(e.ID, ": ", e.Err)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	fmt.Println(<-down)
	// Output: b: connection refused
}

func ExampleResolver() {
	pool, err := loadbalance.New(loadbalance.Config[string]{
		// DNS("service.example", 80, …) looks up a name.
		Resolve: func(context.Context) ([]loadbalance.Endpoint[string], error) {
			return servers(), nil
		},
		ResolveEvery: time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	if err := pool.Refresh(context.Background()); err != nil { // the first time, wait for it
		fmt.Println(err)
	}
	fmt.Println(len(pool.Endpoints()))
	// Output: 3
}

// Retries are at most a fifth of all requests, and the two that are saved up.
func ExampleBudget() {
	budget, err := loadbalance.NewBudget(loadbalance.BudgetConfig{Ratio: 0.2, Burst: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	retries := 0
	for range 100 {
		budget.Request()
		if budget.Retry() { // everything fails
			retries++
		}
	}
	fmt.Println(retries)
	// Output: 21
}

func ExampleBreaker() {
	breaker, err := loadbalance.NewBreaker(loadbalance.BreakerConfig{ConsecutiveFailures: 2, OpenFor: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	calls := 0
	for range 5 {
		err = breaker.Do(context.Background(), func(context.Context) error {
			calls++
			return errors.New("out of order")
		})
	}
	fmt.Println(calls, breaker.State(), errors.Is(err, loadbalance.ErrOpen))
	// Output: 2 open true
}
