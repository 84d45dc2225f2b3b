package dist_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
)

// Two processes share a limit. Here, they are two Limiters, and the Backend is in memory;
// redislimit.New makes one that real processes can share.
func Example() {
	backend, err := dist.NewMemory(dist.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	config := dist.Config{
		Backend:  backend,
		Name:     "api",
		Limits:   []ratelimit.Limit{ratelimit.PerMinute(100).WithBurst(3)},
		Replicas: 2,
		Timeout:  time.Minute, // so that this prints the same on any machine
	}
	one, err := dist.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	two, err := dist.New(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	for _, l := range []*dist.Limiter{one, two, one, two} {
		if r := l.Take(ctx, "alice", 1); r.OK() {
			fmt.Println("allowed,", r.Remaining, "left")
		} else {
			fmt.Println("try again in", r.RetryAfter.Round(100*time.Millisecond))
		}
	}
	// Output:
	// allowed, 2 left
	// allowed, 1 left
	// allowed, 0 left
	// try again in 600ms
}

// Down is a Backend that cannot be reached.
type down struct{}

func (down) Take(context.Context, *dist.Request) (dist.Reply, error) {
	return dist.Reply{}, errors.New("connection refused")
}

// While the Backend is away, each of ten processes allows a tenth.
func ExampleLimiter_Take() {
	l, err := dist.New(dist.Config{
		Backend:  down{},
		Name:     "api",
		Limits:   []ratelimit.Limit{ratelimit.PerHour(30)},
		Replicas: 10,
		OnError:  func(err error) { fmt.Println("error:", err) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 4 {
		r := l.Take(context.Background(), "alice", 1)
		fmt.Println(r.OK(), "of", r.Limit, "degraded:", r.Degraded)
	}
	// Output:
	// error: connection refused
	// true of 3 degraded: true
	// error: connection refused
	// true of 3 degraded: true
	// error: connection refused
	// true of 3 degraded: true
	// error: connection refused
	// false of 3 degraded: true
}

// Peek of 0 is how much there is.
func ExampleLimiter_Peek() {
	backend, err := dist.NewMemory(dist.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := dist.New(dist.Config{
		Backend:  backend,
		Name:     "api",
		Limits:   []ratelimit.Limit{ratelimit.PerSecond(50), ratelimit.PerHour(80)},
		OnOutage: dist.Closed,
		Timeout:  time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	l.Take(ctx, "alice", 40)
	r := l.Peek(ctx, "alice", 0)
	fmt.Println(r.OK(), r.Limit)
	fmt.Println(l.Peek(ctx, "alice", 50).OK(), l.Peek(ctx, "bob", 50).OK())
	// Output:
	// true 50
	// false true
}

func ExampleLimiter_Stats() {
	backend, err := dist.NewMemory(dist.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := dist.New(dist.Config{
		Backend:  backend,
		Name:     "api",
		Limits:   []ratelimit.Limit{ratelimit.Every(time.Hour)},
		OnOutage: dist.Open,
		Timeout:  time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 10 {
		l.Take(context.Background(), "alice", 1)
	}
	s := l.Stats()
	fmt.Println(s.Decided, "calls,", s.Denied, "denied without one")
	// Output: 2 calls, 8 denied without one
}

// A Limiter is made once. One for each request forgets what was denied, and what it knows of the
// Backend: each request would wait for one that is away.
func Example_mistake() {
	backend, err := dist.NewMemory(dist.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	calls := uint64(0)
	for range 10 {
		l, err := dist.New(dist.Config{
			Backend:  backend,
			Name:     "api",
			Limits:   []ratelimit.Limit{ratelimit.Every(time.Hour)},
			OnOutage: dist.Open,
			Timeout:  time.Minute,
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		l.Take(context.Background(), "alice", 1)
		calls += l.Stats().Decided
	}
	fmt.Println(calls, "calls, where one Limiter makes 2")
	// Output: 10 calls, where one Limiter makes 2
}
