// Command urlshortener is a URL shortener, put together from the packages of this module: links in four shards, a cache
// and a filter in front of them, rate limits, and clicks that are counted once through a queue. Without flags it needs
// nothing else, and keeps its data in a directory.
//
//	go run ./examples/urlshortener
//	go run ./examples/urlshortener -addr :8080 -dir data -api-key ann=0123456789abcdef
//	go run ./examples/urlshortener -dsn postgres://… -dsn postgres://… -nats nats://…
//	go run ./examples/urlshortener -front -dsn postgres://… -nats nats://…
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // who asks a second time does not want to wait
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// settings is the command line.
type settings struct {
	addr      string
	dir       string
	dsns      []string
	nats      string
	sync      bool
	redis     string
	cacheTTL  time.Duration
	replicas  int
	peers     bool // other processes serve the same links
	advertise string
	front     bool // nothing else than passing requests on to processes
	proxies   proxies
	load      loadSettings
	base      string
	codes     string
	keys      apiKeys
	private   bool
	unlimited bool
	drain     time.Duration
	// natsReplicas is on how many servers of the cluster at nats clicks are.
	natsReplicas int
	// drainDelay is for how long requests are taken that come though readyz, and the others, say that none should.
	drainDelay time.Duration
}

// peersDrainDelay is drainDelay if nothing else is said, and there are other processes: so fronts have noticed, though
// they had missed it the first time.
const peersDrainDelay = time.Second

const usage = `A URL shortener.

  urlshortener                                 in a directory of its own, for a try: http://localhost:8080
  urlshortener -addr :80 -dir /var/lib/links -api-key ann=KEY
  urlshortener -dsn postgres://a/links -dsn postgres://b/links -nats nats://queue
  urlshortener -front -addr :80 -dsn postgres://a/links -nats nats://queue

Each flag can be given in the environment as well: -api-key is URLSHORTENER_API_KEY, with spaces between several values.

Flags:
`

// run is the command: it returns 0 when it was asked to end, 2 after a bad command line, and 1 if something else fails.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	s, err := parse(args, getenv)
	switch {
	case err != nil:
	case s.load.duration > 0:
		err = load(ctx, s, stdout, stderr)
	default:
		err = s.run(ctx, stdout, stderr)
	}
	if err != nil {
		err = oneLine{err}
	}
	return cli.End("urlshortener", err, stdout, stderr)
}

// oneLine is an error, some of drivers take several lines, in one.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }

func (e oneLine) Unwrap() error { return e.error }

func (s settings) run(ctx context.Context, stdout, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("-addr cannot be listened on: %w", err)
	}
	defer l.Close()
	if s.front {
		return s.runFront(ctx, l, log, stdout)
	}
	if s.advertise == "" {
		s.advertise = "http://" + l.Addr().String()
		if a, ok := l.Addr().(*net.TCPAddr); ok && s.peers && (a.IP.IsUnspecified() || a.IP.IsLoopback()) {
			log.Warn("processes and fronts on other machines cannot reach this one: -advertise does not say where", "advertised", s.advertise)
		}
	}
	a, err := newApp(ctx, s, log)
	if err != nil {
		return err
	}
	defer a.close(context.WithoutCancel(ctx))
	fmt.Fprintf(stdout, "http://%s\n", l.Addr())
	return a.serve(ctx, l)
}

// parse returns the settings. Its errors are cli's: of what was given, or for help.
func parse(args []string, getenv func(string) string) (s settings, err error) {
	flags := flag.NewFlagSet("urlshortener", flag.ContinueOnError)
	var secret error // of a flag whose value must not be shown
	list := func(name string, add func(string) error) func(string) error {
		return func(v string) error {
			for _, one := range strings.Fields(v) {
				if bad := add(one); bad != nil && secret == nil {
					secret = cli.Usagef("invalid value of -%s: %w", name, bad)
				}
			}
			return nil
		}
	}
	flags.StringVar(&s.addr, "addr", "localhost:8080", "listen on `HOST:PORT`; with port 0, on a free one")
	flags.StringVar(&s.dir, "dir", "urlshortener-data", "keep data in `DIRECTORY`")
	flags.Func("dsn", "a PostgreSQL database that is a shard, by its `URL`; can be given more than once, always in the same order (default: files)", list("dsn", func(v string) error {
		if u, err := url.Parse(v); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			return errors.New("must be a URL that begins with postgres://")
		}
		if slices.Contains(s.dsns, v) {
			return errors.New("the same database is there twice")
		}
		s.dsns = append(s.dsns, v)
		return nil
	}))
	flags.Func("nats", "the NATS server at `URL`, with JetStream, takes clicks; several of one cluster with commas between them (default: one in this process)", list("nats", func(v string) error {
		for one := range strings.SplitSeq(v, ",") {
			if !strings.Contains(one, "://") {
				one = "nats://" + one
			}
			// The error of a URL would show the password in it.
			if u, err := url.Parse(one); err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Host == "" {
				return errors.New("must be a URL such as nats://localhost:4222")
			}
		}
		s.nats = v
		return nil
	}))
	flags.IntVar(&s.natsReplicas, "nats-replicas", 1, "`NUMBER` of servers of the cluster at -nats, from 1 to 5, that have each click")
	flags.BoolVar(&s.sync, "sync", true, "answer a redirect when the disk has its click; with -sync=false a power failure can take those of a second")
	flags.Func("redis", "processes share links and limits in the Redis at `HOST:PORT` (default: none)", func(v string) error {
		host, port, err := net.SplitHostPort(v)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			return errors.New("must be HOST:PORT")
		}
		s.redis = v
		return nil
	})
	flags.DurationVar(&s.cacheTTL, "cache-ttl", time.Minute, "ask the database again for a link that is in use after `DURATION`")
	flags.IntVar(&s.replicas, "replicas", 1, "`NUMBER` of processes that share limits: what each has of them while Redis is away")
	flags.Func("base", "short URLs begin with `URL` (default: as they were asked for)", func(v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return errors.New("must be a URL such as https://sho.rt")
		}
		s.base = u.Scheme + "://" + u.Host
		return nil
	})
	s.codes = "counter"
	flags.Func("codes", "how codes are made: `STRATEGY` counter, random or hash (default counter)", func(v string) error {
		if v != "counter" && v != "random" && v != "hash" {
			return errors.New("must be counter, random or hash")
		}
		s.codes = v
		return nil
	})
	flags.Func("api-key", "let `NAME=KEY` make links; can be given more than once (default: anybody can)", list("api-key", s.keys.add))
	flags.BoolVar(&s.peers, "peers", false, "other processes serve the same links, in the databases of -dsn, and tell each other of new ones over the broker of -nats")
	flags.Func("advertise", "other processes reach this one at `URL` (default: the address that it listens on)", func(v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
			return errors.New("must be a URL such as http://10.0.0.7:8080")
		}
		s.advertise = u.Scheme + "://" + u.Host
		return nil
	})
	flags.BoolVar(&s.front, "front", false, "keep no links, and pass requests on to the processes with -peers that the broker of -nats, and the first database of -dsn, know")
	flags.Func("trusted-proxies", "believe what those with addresses in `NETWORK` say of where requests come from and went to, in X-Forwarded-For, -Proto and -Host; can be given more than once (default: nobody)", list("trusted-proxies", s.proxies.add))
	flags.BoolVar(&s.private, "allow-private", false, "allow links to private addresses")
	flags.BoolVar(&s.unlimited, "no-limits", false, "have no rate limits")
	flags.DurationVar(&s.drain, "drain", 10*time.Second, "let requests finish for `DURATION` when asked to end")
	flags.DurationVar(&s.drainDelay, "drain-delay", 0, "when asked to end, go on for `DURATION` with /readyz saying that no requests should come (default: 1s with -peers, otherwise 0)")
	s.load.flags(flags)

	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, cli.Usagef("unexpected argument %q", flags.Arg(0))
	}
	flags.VisitAll(func(f *flag.Flag) {
		name := "URLSHORTENER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := getenv(name); v != "" && !given[f.Name] && err == nil {
			given[f.Name] = true
			if bad := f.Value.Set(v); bad != nil {
				err = cli.Usagef("invalid value %q of %s: %w", v, name, bad)
			}
		}
	})
	if s.peers && !given["drain-delay"] {
		s.drainDelay = peersDrainDelay
	}
	var others []string // which are not for a front
	flags.VisitAll(func(f *flag.Flag) {
		if given[f.Name] && !slices.Contains(frontFlags, f.Name) && f.Value.String() != "false" {
			others = append(others, "-"+f.Name)
		}
	})
	switch {
	case err != nil:
	case secret != nil:
		err = secret
	case s.dir == "":
		err = cli.Usagef("-dir must not be empty")
	case s.drain < 0:
		err = cli.Usagef("-drain must be at least 0, got %v", s.drain)
	case s.drainDelay < 0:
		err = cli.Usagef("-drain-delay must be at least 0, got %v", s.drainDelay)
	case s.front && len(others) > 0:
		err = cli.Usagef("-front keeps no links, it passes requests on to processes that do: %s cannot be given with it", strings.Join(others, ", "))
	case s.front && (len(s.dsns) == 0 || s.nats == ""):
		err = cli.Usagef("-front needs the broker of the processes, and the first database, which says who they are: -nats and -dsn")
	case s.peers && (len(s.dsns) == 0 || s.nats == ""):
		err = cli.Usagef("-peers needs databases and a broker that the processes share: -dsn and -nats")
	case s.cacheTTL < time.Second || s.cacheTTL > time.Hour:
		err = cli.Usagef("-cache-ttl must be from 1s to 1h, got %v", s.cacheTTL)
	case s.natsReplicas < 1 || s.natsReplicas > 5:
		err = cli.Usagef("-nats-replicas must be from 1 to 5, got %d", s.natsReplicas)
	case s.natsReplicas > 1 && s.nats == "":
		err = cli.Usagef("-nats-replicas needs a cluster at -nats")
	case s.replicas < 1:
		err = cli.Usagef("-replicas must be at least 1, got %d", s.replicas)
	case s.replicas > 1 && s.redis == "":
		err = cli.Usagef("-replicas needs a Redis at -redis, in which processes share limits")
	default:
		err = cli.Usage(s.load.check())
	}
	return s, err
}
