// Command ratelimiter is a small HTTP service in which each user may send 100 requests a minute, and
// a load generator that shows, second by second, what it admits and what it refuses.
//
//	go run ./examples/ratelimiter
//	go run ./examples/ratelimiter -replicas 2 -redis localhost:6379
//	go run ./examples/ratelimiter -edge
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/ratelimit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `A service in which each user may send so many requests, and the load that shows it.

  ratelimiter                           serve, and drive it for some seconds
  ratelimiter -replicas 2               two services that know nothing of each other
  ratelimiter -replicas 2 -redis ADDR   two that share one limit
  ratelimiter -serve ADDR [-redis ADDR] only serve, until interrupted
  ratelimiter -load URL,URL             only drive services that run elsewhere
  ratelimiter -edge                     the burst at the edge of a fixed window,
                                        beside other algorithms

Flags:
`

// settings is the command line.
type settings struct {
	limit    ratelimit.Limit
	redis    string // "": every service for itself
	replicas int
	serve    string
	load     []string
	length   time.Duration
	users    []user
	edge     bool
}

// run is the command: it returns 0 after success, 2 after bad input, and 1 if something failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args)
	switch {
	case err != nil:
	case s.edge:
		err = edge(ctx, stdout)
	case s.serve != "":
		err = serve(ctx, s, stdout)
	default:
		err = drive(ctx, s, stdout)
	}
	return cli.End("ratelimiter", err, stdout, stderr)
}

// serve runs one service until ctx ends.
func serve(ctx context.Context, s settings, stdout io.Writer) error {
	listener, err := net.Listen("tcp", s.serve)
	if err != nil {
		return err
	}
	x, err := newService(s)
	if err != nil {
		listener.Close()
		return err
	}
	fmt.Fprintf(stdout, "%v for each user, at http://%s\n", s.limit, listener.Addr())
	return x.serve(ctx, listener)
}

// drive sends load to services that run elsewhere, or to its own.
func drive(ctx context.Context, s settings, stdout io.Writer) error {
	urls := s.load
	var services []*service
	if len(urls) == 0 {
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan error, s.replicas)
		defer func() {
			stop()
			for range urls {
				<-ended
			}
		}()
		for range s.replicas {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			x, err := newService(s)
			if err != nil {
				listener.Close()
				return err
			}
			services = append(services, x)
			go func() { ended <- x.serve(ctx, listener) }()
			urls = append(urls, "http://"+listener.Addr().String())
		}
		where := "each with a limit of its own"
		if s.redis != "" {
			where = "sharing the limit in Redis at " + s.redis
		}
		if s.replicas == 1 {
			where = strings.TrimPrefix(where, "each ")
		}
		fmt.Fprintf(stdout, "Services  %d, %s\nLimit     %v, for each user\n\n", s.replicas, where, s.limit)
	} else {
		fmt.Fprintf(stdout, "Services  %s\n\n", strings.Join(urls, ", "))
	}
	err := newLoad(urls, s.users).run(ctx, s.length, stdout)
	degraded := uint64(0)
	for _, x := range services {
		degraded += x.degraded()
	}
	if degraded > 0 {
		fmt.Fprintf(stdout, "\nRedis could not be asked about %d of these; by each service's share they were decided.\n", degraded)
	}
	return err
}

// parse returns the settings.
func parse(args []string) (s settings, err error) {
	defer func() { err = cli.Usage(err) }()
	s.limit = ratelimit.PerMinute(100)
	users := "alice=1,bob=20,mallory=150"
	var load string
	flags := flag.NewFlagSet("ratelimiter", flag.ContinueOnError)
	flags.Int64Var(&s.limit.Count, "limit", s.limit.Count, "`N` requests of each user")
	flags.DurationVar(&s.limit.Per, "per", s.limit.Per, "in each `TIME`")
	flags.Int64Var(&s.limit.Burst, "burst", 0, "and `N` at once; 0: as many as -limit")
	flags.StringVar(&s.redis, "redis", "", "share the limit among all services in Redis at `ADDR`")
	flags.IntVar(&s.replicas, "replicas", 1, "how many services there are: `N`, for -redis also elsewhere")
	flags.StringVar(&s.serve, "serve", "", "only serve, at `ADDR`, until interrupted")
	flags.StringVar(&load, "load", "", "only send load, to the services at `URL,URL...`")
	flags.DurationVar(&s.length, "for", 8*time.Second, "send load for `TIME`")
	flags.StringVar(&users, "users", users, "`NAME=RATE,...`: who sends how many requests a second")
	flags.BoolVar(&s.edge, "edge", false, "show the burst at a window's edge")
	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	if given["load"] {
		for u := range strings.SplitSeq(load, ",") {
			parsed, err := url.Parse(u)
			if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
				return s, fmt.Errorf("-load must be URLs such as http://host:port, got %q", u)
			}
			s.load = append(s.load, strings.TrimSuffix(u, "/"))
		}
	}
	if s.users, err = parseUsers(users); err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case s.edge && len(given) > 1:
		return s, errors.New("-edge goes without other flags")
	case given["serve"] && given["load"]:
		return s, errors.New("-serve and -load are for two processes")
	case given["serve"] && s.serve == "":
		return s, errors.New("-serve must not be empty")
	case given["redis"] && s.redis == "":
		return s, errors.New("-redis must not be empty")
	case given["load"] && (given["redis"] || given["replicas"] || given["limit"] || given["per"] || given["burst"]):
		return s, errors.New("-limit, -per, -burst, -redis and -replicas are for those who serve, not for -load")
	case given["serve"] && (given["users"] || given["for"]):
		return s, errors.New("-users and -for are for the load, not for -serve")
	case given["serve"] && given["replicas"] && s.redis == "":
		return s, errors.New("-replicas goes with -redis: without it, every service is for itself")
	case s.replicas < 1 || s.replicas > 100:
		return s, fmt.Errorf("-replicas must be from 1 to 100, got %d", s.replicas)
	case s.length < time.Second || s.length > time.Hour:
		return s, fmt.Errorf("-for must be from 1s to 1h, got %v", s.length)
	}
	// What a limit can be, the library knows.
	if s.load == nil {
		x, err := newService(s)
		if err != nil {
			return s, fmt.Errorf("-limit, -per, -burst: %w", err)
		}
		x.close()
	}
	return s, nil
}
