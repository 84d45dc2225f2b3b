package redislimit_test

import (
	"context"
	"fmt"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
	"github.com/sysblocks/sysblocks/ratelimit/redislimit"
)

// Four processes share a limit for each user. It needs a server on localhost, so it is compiled and not
// run.
func Example() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	limiter, err := redislimit.NewLimiter(client, dist.Config{
		Name:     "api",
		Limits:   []ratelimit.Limit{ratelimit.PerSecond(10), ratelimit.PerHour(1000)},
		OnOutage: dist.Share,
		Replicas: 4,
		OnError:  func(err error) { log.Print(err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	if r := limiter.Take(context.Background(), "user 1", 1); r.OK() {
		fmt.Println("allowed,", r.Remaining, "left")
	} else {
		fmt.Println("try again in", r.RetryAfter)
	}
}

// Several Limiters, with a Prefix for all of their keys.
func ExampleNew() {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"localhost:7000", "localhost:7001"}})
	defer client.Close()
	backend, err := redislimit.New(redislimit.Config{Client: client, Prefix: "shop:"})
	if err != nil {
		log.Fatal(err)
	}
	logins, err := dist.New(dist.Config{
		Backend:  backend,
		Name:     "logins",
		Limits:   []ratelimit.Limit{ratelimit.PerMinute(5)},
		OnOutage: dist.Closed,
	})
	if err != nil {
		log.Fatal(err)
	}
	searches, err := dist.New(dist.Config{
		Backend:  backend,
		Name:     "searches",
		Limits:   []ratelimit.Limit{ratelimit.PerSecond(20)},
		OnOutage: dist.Open,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(logins.Take(ctx, "user 1", 1).OK(), searches.Take(ctx, "user 1", 1).OK())
}
