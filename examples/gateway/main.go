// Command gateway is an API gateway that one YAML file describes: routes, pools of endpoints that it
// balances requests over, retries, breakers, rate limits, API keys, TLS, metrics, and a status page.
// Without arguments it shows all that with small servers of its own, and ends.
//
//	go run ./examples/gateway
//	go run ./examples/gateway -config gateway.yaml
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `An API gateway that one YAML file describes.

  gateway                       show it, with servers and clients of its own
  gateway -keep                 and go on until interrupted, to look at the status page
  gateway -config FILE          serve, until interrupted
  gateway -config FILE -check   say what is wrong with the file, or what it means

Flags:
`

// settings is the command line.
type settings struct {
	config string
	listen string
	check  bool
	keep   bool
	length time.Duration
}

// run is the command: it returns 0 after success, 2 after bad input, and 1 if something failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args)
	if err == nil {
		err = s.run(ctx, stdout, stderr)
	}
	return cli.End("gateway", err, stdout, stderr)
}

func (s settings) run(ctx context.Context, stdout, stderr io.Writer) error {
	if s.config == "" && !s.check {
		return demonstrate(ctx, s, stdout)
	}
	read := func() (*config, error) {
		c, err := readConfig(s.config)
		if err == nil && s.listen != "" {
			c.Listeners[0].Address = s.listen
		}
		return c, err
	}
	if s.config == "" {
		read = func() (*config, error) { return parseConfig("demo.yaml", demoYAML) }
	}
	c, err := read()
	if err != nil {
		return cli.Input(err)
	}
	if s.check {
		return cli.Input(explain(c, stdout))
	}
	return serve(ctx, c, read, stdout, stderr)
}

// serve serves until ctx ends.
func serve(ctx context.Context, c *config, read func() (*config, error), stdout, stderr io.Writer) error {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	x, err := startServer(c, options{stdout: stdout, stderr: stderr})
	if err != nil {
		return err
	}
	for i := range x.addrs { // to stderr, as the access log may be in stdout
		fmt.Fprintln(stderr, "Serving", x.url(i))
	}
	if x.adminAddr != nil {
		fmt.Fprintln(stderr, "Status page", statusURL(x.adminAddr))
	}
	return x.run(ctx, again, read)
}

// parse returns the settings.
func parse(args []string) (s settings, err error) {
	defer func() { err = cli.Usage(err) }()
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.StringVar(&s.config, "config", "", "serve what `FILE` describes, until interrupted")
	flags.StringVar(&s.listen, "listen", "", "listen at `ADDR` instead of the first listener's address")
	flags.BoolVar(&s.check, "check", false, "only say what is wrong with the config, or what it means")
	flags.BoolVar(&s.keep, "keep", false, "go on with the demonstration until interrupted")
	flags.DurationVar(&s.length, "for", 4*time.Second, "how long the demonstration takes: `TIME`")
	given, err := cli.Parse(flags, usage, args)
	if err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case given["config"] && s.config == "":
		return s, errors.New("-config must not be empty")
	case given["keep"] && (given["config"] || given["check"]):
		return s, errors.New("-keep is for the demonstration, not for -config or -check")
	case given["for"] && (given["config"] || given["check"]):
		return s, errors.New("-for is for the demonstration, not for -config or -check")
	case s.length < time.Second || s.length > time.Minute:
		return s, fmt.Errorf("-for must be from 1s to 1m, got %v", s.length)
	}
	if given["listen"] {
		var wrong error
		(*config).checkAddress(nil, func(_ []any, format string, args ...any) {
			wrong = fmt.Errorf("-listen "+format, args...)
		}, nil, s.listen)
		if wrong != nil {
			return s, wrong
		}
	}
	return s, nil
}
