package redistier_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sysblocks/sysblocks/ttlcache"
	"github.com/sysblocks/sysblocks/ttlcache/redistier"
)

// Two levels: the memory of this process, and a Redis that all processes share. It needs a server
// on localhost, so it is compiled and not run.
func Example() {
	client := redis.NewClient(&redis.Options{
		Addr:                  "localhost:6379",
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           250 * time.Millisecond,
		ReadTimeout:           250 * time.Millisecond,
		WriteTimeout:          250 * time.Millisecond,
		ContextTimeoutEnabled: true,
	})
	defer client.Close()
	tier, err := redistier.New(redistier.Config[int64, string]{Client: client, Prefix: "users:v1:"})
	if err != nil {
		log.Fatal(err)
	}
	cache, err := ttlcache.New(ttlcache.Config[int64, string]{
		Capacity: 10_000,
		TTL:      10 * time.Minute,
		Loader: func(context.Context, int64) (ttlcache.Entry[string], error) {
			return ttlcache.Entry[string]{Value: "from the database"}, nil
		},
		Next: tier,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	defer cache.Close(ctx) // before the client

	fmt.Println(cache.GetOrLoad(ctx, 1))
}
