// Proxybench compares the proxies of package loadbalance/proxy with others in front of the same three backends:
// requests a second and the 99th percentile of latency over HTTP, and bytes a second over TCP.
//
//	go run ./proxybench
//	go run ./proxybench -only bare,sysblocks,nginx,haproxy -rounds 7 -duration 10s
//
// HTTP is driven by wrk, and TCP by this program, whose connections read what backends send as fast as they can.
// Backends and proxies are processes of their own on this machine, which share its CPUs with who drives them; all balance
// by round robin, and keep connections to the backends. In each round all are measured, one after the other, and
// each round begins with another one; ratios are medians of those of the rounds.
//
//	direct              no proxy, and one backend
//	bare                httputil.ReverseProxy with the Transport and the pool of buffers that ours has
//	sysblocks           proxy.NewReverseProxy
//	nginx, haproxy      with access logs off
//	tcp-direct          no proxy, and one backend
//	tcp-sysblocks       proxy.NewTCPProxy
//	tcp-haproxy         mode tcp
//	tcp-haproxy-splice  mode tcp, with option splice-auto
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(serve(role, os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main, with everything that it touches as arguments. It returns 2 if the input is at fault, or a program is missing, 1
// if something could not be measured or written, and otherwise 0.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		o.flags.SetOutput(stdout)
		fmt.Fprintln(stdout, "usage: proxybench [flags]")
		o.flags.PrintDefaults()
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "proxybench:", err)
		return 2
	}
	r, err := o.measure(ctx)
	if err == nil {
		err = r.write(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "proxybench:", err)
		return 1
	}
	return 0
}

type options struct {
	flags       *flag.FlagSet
	rounds      int
	duration    time.Duration
	connections int
	body        int
	contestants []contestant
	programs    map[string]string // where they are
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("proxybench", flag.ContinueOnError)
	o.flags = f
	// The package would print all flags below each error.
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.IntVar(&o.rounds, "rounds", 5, "`number` of rounds")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "how long each is measured in each round, in whole seconds")
	f.IntVar(&o.connections, "connections", 64, "`number` of connections of the clients")
	f.IntVar(&o.body, "body", 1024, "`bytes` in the answers of the HTTP backends")
	only := f.String("only", "", "`list` of what to measure (default all)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("takes flags only, got %q (-h shows all flags)", f.Arg(0))
	case o.rounds < 1 || o.rounds > 1000:
		return o, fmt.Errorf("-rounds: must be from 1 to 1000, got %d", o.rounds)
	case o.duration < time.Second || o.duration > time.Hour || o.duration%time.Second != 0:
		return o, fmt.Errorf("-duration: must be from 1s to 1h, in whole seconds, got %v", o.duration)
	case o.connections < 2 || o.connections > 1000: // wrk needs one for each of its two threads
		return o, fmt.Errorf("-connections: must be from 2 to 1000, got %d", o.connections)
	case o.body < 0 || o.body > 1<<30:
		return o, fmt.Errorf("-body: must be from 0 to %d, got %d", 1<<30, o.body)
	}
	var err error
	if o.contestants, err = choose(contestants, *only); err != nil {
		return o, err
	}
	o.programs, err = find(o.contestants)
	return o, err
}

// choose returns the contestants in a list, or all if it is empty.
func choose(all []contestant, list string) ([]contestant, error) {
	if list == "" {
		return all, nil
	}
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	var chosen []contestant
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("-only: no contestant %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
