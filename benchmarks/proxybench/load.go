package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A result is what one contestant did in one round.
type result struct {
	rate   float64       // requests or bytes a second
	p99    time.Duration // of requests
	errors int           // answers that are none, and connections that failed
}

// A report is all results.
type report struct {
	options
	results map[string][]result // by contestant, one for each round
}

// measure starts all contestants, and measures them in turn.
func (o options) measure(ctx context.Context) (report, error) {
	r := report{o, make(map[string][]result)}
	behind := make(map[bool][]string)
	addrs := make(map[string]string)
	for _, c := range o.contestants {
		if behind[c.tcp] == nil {
			role := map[bool]string{false: "http-backends", true: "tcp-backends"}[c.tcp]
			p, list, err := child(ctx, role, bodyVariable+"="+strconv.Itoa(o.body))
			if err != nil {
				return r, err
			}
			defer p.stop()
			behind[c.tcp] = list
		}
		stop, addr, err := o.start(ctx, c, behind[c.tcp])
		if err != nil {
			return r, err
		}
		defer stop()
		addrs[c.name] = addr
	}
	for round := range o.rounds {
		for i := range o.contestants {
			c := o.contestants[(i+round)%len(o.contestants)]
			drive := o.wrk
			if c.tcp {
				drive = o.stream
			}
			res, err := drive(ctx, addrs[c.name])
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			if err != nil {
				return r, fmt.Errorf("%s: %w", c.name, err)
			}
			r.results[c.name] = append(r.results[c.name], res)
		}
	}
	return r, nil
}

// wrk drives a server of HTTP.
func (o options) wrk(ctx context.Context, addr string) (result, error) {
	seconds := strconv.Itoa(int(o.duration / time.Second))
	cmd := exec.CommandContext(ctx, o.programs["wrk"], "-t2", "-c"+strconv.Itoa(o.connections), "-d"+seconds+"s", "--latency", "http://"+addr+"/")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkRate   = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)`)
	wrkP99    = regexp.MustCompile(`(?m)^\s+99%\s+([0-9.]+)(us|ms|s|m|h)\s*$`)
	wrkBad    = regexp.MustCompile(`(?m)^\s+Non-2xx or 3xx responses: ([0-9]+)`)
	wrkErrors = regexp.MustCompile(`(?m)^\s+Socket errors: connect ([0-9]+), read ([0-9]+), write ([0-9]+), timeout ([0-9]+)`)
)

// parseWrk reads what wrk prints.
func parseWrk(out string) (result, error) {
	rate, p99 := wrkRate.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if rate == nil || p99 == nil {
		return result{}, fmt.Errorf("wrk has printed no rate or no 99th percentile: %s", out)
	}
	var r result
	var err, err2 error
	r.rate, err = strconv.ParseFloat(rate[1], 64)
	r.p99, err2 = time.ParseDuration(p99[1] + p99[2])
	if bad := wrkBad.FindStringSubmatch(out); bad != nil {
		n, _ := strconv.Atoi(bad[1]) // digits
		r.errors += n
	}
	if bad := wrkErrors.FindStringSubmatch(out); bad != nil {
		for _, digits := range bad[1:] {
			n, _ := strconv.Atoi(digits)
			r.errors += n
		}
	}
	return r, errors.Join(err, err2)
}

// stream reads from a server as fast as it can, by all connections.
func (o options) stream(ctx context.Context, addr string) (result, error) {
	conns := make([]net.Conn, o.connections)
	for i := range conns {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	var bytes, bad atomic.Int64
	var running sync.WaitGroup
	start := time.Now()
	end := start.Add(o.duration)
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			c.Close()
		}
	})
	defer stop()
	for _, c := range conns {
		running.Go(func() {
			buffer := make([]byte, 256<<10)
			_ = c.SetReadDeadline(end) // an error would be one of Read, too
			for {
				n, err := c.Read(buffer)
				bytes.Add(int64(n))
				if err == nil {
					continue
				}
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					bad.Add(1) // it has ended early
				}
				return
			}
		})
	}
	running.Wait()
	return result{rate: float64(bytes.Load()) / time.Since(start).Seconds(), errors: int(bad.Load())}, nil
}
