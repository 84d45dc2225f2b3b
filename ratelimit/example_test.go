package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

func Example() {
	b, err := ratelimit.NewBucket(ratelimit.PerMinute(100).WithBurst(3))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 4 {
		if r := b.Take(1); r.OK() {
			fmt.Println("allowed,", r.Remaining, "left")
		} else {
			fmt.Println("try again in", r.RetryAfter.Round(10*time.Millisecond))
		}
	}
	// Output:
	// allowed, 2 left
	// allowed, 1 left
	// allowed, 0 left
	// try again in 600ms
}

func ExampleBucket_Allow() {
	b, err := ratelimit.NewBucket(ratelimit.Every(time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Allow(), b.Allow())
	// Output: true false
}

// As many as there are.
func ExampleBucket_TakeUpTo() {
	b, err := ratelimit.NewBucket(ratelimit.PerHour(1000))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.TakeUpTo(600).Allowed, b.TakeUpTo(600).Allowed)
	// Output: 600 400
}

func ExampleBucket_Wait() {
	b, err := ratelimit.NewBucket(ratelimit.PerSecond(100).WithBurst(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	start := time.Now()
	for range 3 {
		if err := b.Wait(context.Background(), 1); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(time.Since(start) >= 20*time.Millisecond)

	// What cannot be in time is refused at once.
	b, err = ratelimit.NewBucket(ratelimit.PerHour(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	b.Allow()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = b.Wait(ctx, 1)
	fmt.Println(errors.Is(err, ratelimit.ErrWait))
	// Output:
	// true
	// true
}

func ExampleBucket_Reserve() {
	b, err := ratelimit.NewBucket(ratelimit.Every(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	b.Allow()
	r, ok := b.Reserve(1, time.Hour)
	fmt.Println(ok, r.Delay().Round(time.Second))
	fmt.Println("given back:", r.Cancel())
	_, ok = b.Reserve(1, time.Second)
	fmt.Println(ok)
	// Output:
	// true 1m0s
	// given back: 1
	// false
}

func ExampleBucket_SetLimit() {
	b, err := ratelimit.NewBucket(ratelimit.PerHour(10))
	if err != nil {
		fmt.Println(err)
		return
	}
	b.Take(4)
	if err := b.SetLimit(ratelimit.PerHour(100)); err != nil {
		fmt.Println(err)
	}
	fmt.Println(b.Limit(), "of which are left", b.Peek(0).Remaining)
	fmt.Println(b.SetLimit(ratelimit.Limit{}))
	// Output:
	// 100 per 1h0m0s, burst 100 of which are left 96
	// ratelimit: invalid limit: Count must be at least 1, got 0
}

// Ten a second, and a thousand a day: what one of them refuses does not count in the other.
func ExampleAll() {
	m, err := ratelimit.All(ratelimit.PerSecond(10), ratelimit.Limit{Count: 1000, Per: 24 * time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := m.Take(8)
	fmt.Println(r.OK(), r.Limit, r.Remaining)
	fmt.Println(m.Take(8).OK(), m.Take(11).RetryAfter == ratelimit.Never)
	// Output:
	// true 10 2
	// false true
}

func ExampleNewPacer() {
	p, err := ratelimit.NewPacer(ratelimit.Every(time.Millisecond), 10, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	start := time.Now()
	for range 3 {
		if err := p.Wait(context.Background()); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(time.Since(start) >= 2*time.Millisecond)
	// Output: true
}

func ExampleNewSlidingLog() {
	l, err := ratelimit.NewSlidingLog(ratelimit.PerHour(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(l.Take(1).OK(), l.Take(1).OK(), l.Take(1).RetryAfter.Round(time.Minute))
	// Output: true true 1h0m0s
}

func ExampleConcurrency_Do() {
	c, err := ratelimit.NewConcurrency(2, 100)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = c.Do(context.Background(), func(context.Context) error {
		fmt.Println("one of two")
		return nil
	})
	fmt.Println(err)
	// Output:
	// one of two
	// <nil>
}

// A limit for each client.
func ExampleNewKeyed() {
	clients, err := ratelimit.NewKeyed[string](ratelimit.PerMinute(100).WithBurst(2), ratelimit.KeyedConfig{
		MaxKeys: 1_000_000,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(clients.Allow("alice"), clients.Allow("alice"), clients.Allow("alice"))
	r := clients.Take("bob", 1)
	fmt.Println(r.OK(), r.Remaining)
	for k, r := range clients.All() {
		if r.Remaining == 0 {
			fmt.Println("exhausted:", k)
		}
	}
	clients.Delete("alice")
	fmt.Println(clients.Allow("alice"))
	// Output:
	// true true false
	// true 1
	// exhausted: alice
	// true
}

// Another limit for those who pay.
func ExampleKeyed_TakeLimit() {
	clients, err := ratelimit.NewKeyed[string](ratelimit.PerMinute(1), ratelimit.KeyedConfig{MaxKeys: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	paying := ratelimit.PerMinute(100)
	for range 2 {
		r, err := clients.TakeLimit("carol", paying, 1)
		fmt.Println(r.OK(), r.Remaining, err)
	}
	fmt.Println(clients.Allow("dave"), clients.Allow("dave"))
	// Output:
	// true 99 <nil>
	// true 98 <nil>
	// true false
}

// A client that sends a great many requests stays exhausted, though there is no room for all the
// clients that a flood invents.
func ExampleKeyedConfig_onFull() {
	clients, err := ratelimit.NewKeyed[int](ratelimit.PerHour(10), ratelimit.KeyedConfig{
		MaxKeys:  100,
		OnFull:   ratelimit.DropLeast,
		HashKeys: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	clients.Take(-1, 10)
	for k := range 100_000 {
		clients.Allow(k)
	}
	fmt.Println(clients.Allow(-1), clients.Len())
	// Output: false 100
}

// Take is not to be called to find out whether it would be allowed: Peek does not take.
func ExampleBucket_Peek_mistake() {
	b, err := ratelimit.NewBucket(ratelimit.PerHour(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("peek:", b.Peek(1).OK(), b.Peek(1).OK())
	fmt.Println("take:", b.Take(1).OK(), b.Take(1).OK())
	// Output:
	// peek: true true
	// take: true false
}
