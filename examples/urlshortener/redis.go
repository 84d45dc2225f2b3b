package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
	"github.com/sysblocks/sysblocks/ratelimit/redislimit"
	"github.com/sysblocks/sysblocks/ttlcache"
	"github.com/sysblocks/sysblocks/ttlcache/redistier"
)

// A shared is what processes share in Redis: the second level of their caches, and the rate limits. Redis may go away
// at any time; then each process has its cache and its share of the limits, and nobody waits for long.
type shared struct {
	client   *redis.Client
	tier     *redistier.Tier[string, link]
	backend  *redislimit.Backend
	replicas int
}

// redisTimeout is for how long a look-up waits for Redis, before it goes on to the database.
const redisTimeout = 200 * time.Millisecond

// openShared connects to Redis, for the processes of a cluster. It must answer now, or the address is taken to be wrong.
func openShared(ctx context.Context, addr string, c cluster, replicas int) (*shared, error) {
	logging.Disable() // that it is away is in the metrics, not in a line for each try
	s := &shared{replicas: replicas, client: redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: redisTimeout, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout, PoolTimeout: redisTimeout,
	})}
	start, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.client.Ping(start).Err(); err != nil {
		s.close()
		return nil, fmt.Errorf("the Redis of -redis at %s does not answer: %w", addr, err)
	}
	var err error
	prefix := "urlshortener:" + c.name() + ":"
	if s.tier, err = redistier.New(redistier.Config[string, link]{Client: s.client, Prefix: prefix + "links:"}); err == nil {
		s.backend, err = redislimit.New(redislimit.Config{Client: s.client, Prefix: prefix})
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// next returns the second level of a cache: nil for a nil shared.
func (s *shared) next() ttlcache.Tier[string, link] {
	if s == nil {
		return nil
	}
	return s.tier
}

// limiter returns what decides by a limit, for all processes: nil for a nil shared, which is each by itself.
func (s *shared) limiter(name string, limit ratelimit.Limit) (httplimit.Limiter, error) {
	if s == nil {
		return nil, nil
	}
	return dist.New(dist.Config{Backend: s.backend, Name: name, Limits: []ratelimit.Limit{limit}, Replicas: s.replicas})
}

func (s *shared) close() {
	if s != nil {
		_ = s.client.Close()
	}
}
