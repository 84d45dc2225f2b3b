package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/loadbalance/proxy"
)

// backends is how many there are behind each proxy.
const backends = 3

// A contestant is a proxy, or none.
type contestant struct {
	name string
	tcp  bool
	// role is what a child of this program does; "" if it is another program, or nobody.
	role string
	// program is another program, with the arguments for a configuration in a file of that text.
	program string
	args    func(dir, file string) []string
	config  func(o options, dir, listen string, backends []string) string
}

var contestants = []contestant{
	{name: "direct"},
	{name: "bare", role: "bare"},
	{name: "sysblocks", role: "sysblocks"},
	{name: "nginx", program: "nginx", args: nginxArgs, config: nginxConfig},
	{name: "haproxy", program: "haproxy", args: haproxyArgs, config: haproxyConfig("http", "")},
	{name: "tcp-direct", tcp: true},
	{name: "tcp-sysblocks", tcp: true, role: "tcp-sysblocks"},
	{name: "tcp-haproxy", tcp: true, program: "haproxy", args: haproxyArgs, config: haproxyConfig("tcp", "")},
	{name: "tcp-haproxy-splice", tcp: true, program: "haproxy", args: haproxyArgs, config: haproxyConfig("tcp", "  option splice-auto\n")},
}

// ours is the contestant that others are compared with, by whether they are TCP.
var ours = map[bool]string{false: "sysblocks", true: "tcp-sysblocks"}

// sbin is where programs may be that are not in the PATH of everybody.
var sbin = "/usr/sbin"

// find returns where the programs are that the contestants need, and wrk for those of HTTP.
func find(list []contestant) (map[string]string, error) {
	found := make(map[string]string)
	for _, c := range list {
		var need []string
		if !c.tcp {
			need = append(need, "wrk")
		}
		if c.program != "" {
			need = append(need, c.program)
		}
		for _, program := range need {
			path, err := exec.LookPath(program)
			if err != nil {
				path, err = exec.LookPath(filepath.Join(sbin, program))
			}
			if err != nil {
				return nil, fmt.Errorf("%s needs %s, which is not installed (Debian: apt-get install %s); see -only", c.name, program, program)
			}
			found[program] = path
		}
	}
	return found, nil
}

func nginxArgs(dir, file string) []string { return []string{"-p", dir, "-e", "stderr", "-c", file} }

func nginxConfig(o options, dir, listen string, backends []string) string {
	servers := ""
	for _, b := range backends {
		servers += "    server " + b + ";\n"
	}
	return fmt.Sprintf(`daemon off;
pid %[1]s/nginx.pid;
error_log stderr;
worker_processes auto;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000000;
  upstream backends {
%[2]s    keepalive %[3]d;
    keepalive_requests 1000000000;
  }
  server {
    listen %[4]s;
    location / {
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`, dir, servers, o.connections, listen)
}

func haproxyArgs(_, file string) []string { return []string{"-db", "-f", file} }

func haproxyConfig(mode, more string) func(options, string, string, []string) string {
	return func(_ options, _, listen string, backends []string) string {
		servers := ""
		for i, b := range backends {
			servers += fmt.Sprintf("  server s%d %s\n", i, b)
		}
		if mode == "http" {
			servers = "  http-reuse always\n" + servers
		}
		return fmt.Sprintf(`global
  maxconn 2048
defaults
  mode %s
  timeout connect 5s
  timeout client 60s
  timeout server 60s
%sfrontend clients
  bind %s
  default_backend backends
backend backends
  balance roundrobin
%s`, mode, more, listen, servers)
	}
}

// A process runs until stop is called.
type process struct {
	stop func()
	gone chan struct{}
	err  error // how it ended, once gone is closed
	log  *bytes.Buffer
}

// started starts a command, and has it told to end when stop is called, and killed if it does not.
func started(ctx context.Context, path string, args, env []string) (*process, io.Reader, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	p := &process{gone: make(chan struct{}), log: new(bytes.Buffer)}
	cmd.Stderr = p.log
	// Of a child of this program: it ends when its standard input does, even if we are killed; and what it prints first is
	// where it listens.
	if _, err := cmd.StdinPipe(); err != nil {
		cancel()
		return nil, nil, err
	}
	stdout, in, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, nil, err
	}
	cmd.Stdout = in
	err = cmd.Start()
	in.Close()
	if err != nil {
		cancel()
		stdout.Close()
		return nil, nil, err
	}
	go func() {
		defer close(p.gone)
		p.err = cmd.Wait()
	}()
	p.stop = func() {
		cancel()
		<-p.gone
		stdout.Close()
	}
	return p, stdout, nil
}

// failed is an error of a process that has ended, or does not answer.
func (p *process) failed(name string, why error) error {
	p.stop()
	return fmt.Errorf("%s: %w: %s", name, why, bytes.TrimSpace(p.log.Bytes()))
}

var errSilent = errors.New("it does not say where it listens")

// child starts this program in a role, and returns where it listens.
func child(ctx context.Context, role string, env ...string) (*process, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	p, stdout, err := started(ctx, self, nil, append(env, roleVariable+"="+role))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", role, err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, nil, p.failed(role, errSilent)
	}
	return p, strings.Split(strings.TrimSpace(line), ","), nil
}

// start starts a contestant, and returns where it listens.
func (o options) start(ctx context.Context, c contestant, backends []string) (stop func(), addr string, err error) {
	switch {
	case c.role != "":
		p, addrs, err := child(ctx, c.role, backendsVariable+"="+strings.Join(backends, ","))
		if err != nil {
			return nil, "", err
		}
		return p.stop, addrs[0], nil
	case c.program == "":
		return func() {}, backends[0], nil
	}
	dir, err := os.MkdirTemp("", "proxybench")
	if err != nil {
		return nil, "", err
	}
	// A port that is free now may be taken before the program has it; then another one will do.
	for range 5 {
		if addr, err = freeAddr(); err != nil {
			break
		}
		file := filepath.Join(dir, "config")
		if err = os.WriteFile(file, []byte(c.config(o, dir, addr, backends)), 0o666); err != nil {
			break
		}
		var p *process
		if p, _, err = started(ctx, o.programs[c.program], c.args(dir, file), nil); err != nil {
			break
		}
		if err = p.listening(addr); err == nil {
			return func() { p.stop(); os.RemoveAll(dir) }, addr, nil
		}
		err = p.failed(c.name, err)
	}
	os.RemoveAll(dir)
	return nil, "", err
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// listening waits until the process listens.
func (p *process) listening(addr string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.gone:
			return fmt.Errorf("it has ended (%v)", p.err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// What a child is told.
const (
	roleVariable     = "PROXYBENCH_ROLE"
	backendsVariable = "PROXYBENCH_BACKENDS"
	bodyVariable     = "PROXYBENCH_BODY"
)

// serve is main of a child. It prints where it listens, and ends when its standard input does.
func serve(role string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := serveRole(role, stdout); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", role, err)
		return 1
	}
	_, _ = io.Copy(io.Discard, stdin)
	return 0
}

func serveRole(role string, stdout io.Writer) error {
	var handle func(net.Listener) error
	listeners := 1
	behind := strings.Split(os.Getenv(backendsVariable), ",")
	switch role {
	case "http-backends":
		size, err := strconv.Atoi(os.Getenv(bodyVariable))
		if err != nil {
			return err
		}
		body := bytes.Repeat([]byte("x"), size)
		listeners = backends
		handle = httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = w.Write(body)
		}))
	case "tcp-backends":
		listeners = backends
		handle = sendForever
	case "bare":
		urls, err := parseURLs(behind)
		if err != nil {
			return err
		}
		var next atomic.Uint64
		handle = httpServer(&httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(urls[next.Add(1)%uint64(len(urls))])
				r.SetXForwarded()
			},
			Transport:  newTransport(),
			BufferPool: buffers{},
			ErrorLog:   log.New(io.Discard, "", 0), // of clients that have gone
		})
	case "sysblocks":
		urls, err := parseURLs(behind)
		if err != nil {
			return err
		}
		pool, err := loadbalance.New(loadbalance.Config[*url.URL]{Policy: loadbalance.RoundRobin(), Endpoints: endpoints(urls)})
		if err != nil {
			return err
		}
		h, err := proxy.NewReverseProxy(pool, proxy.ReverseProxyConfig{Transport: proxy.TransportConfig{Base: newTransport()}})
		if err != nil {
			return err
		}
		handle = httpServer(h)
	case "tcp-sysblocks":
		pool, err := loadbalance.New(loadbalance.Config[string]{Policy: loadbalance.RoundRobin(), Endpoints: endpoints(behind)})
		if err != nil {
			return err
		}
		p, err := proxy.NewTCPProxy(pool, proxy.TCPConfig{})
		if err != nil {
			return err
		}
		handle = p.Serve
	default:
		return errors.New("there is no such role")
	}
	var addrs []string
	for range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addrs = append(addrs, l.Addr().String())
		go func() { log.Fatal(handle(l)) }()
	}
	_, err := fmt.Fprintln(stdout, strings.Join(addrs, ","))
	return err
}

func endpoints[T any](values []T) []loadbalance.Endpoint[T] {
	es := make([]loadbalance.Endpoint[T], len(values))
	for i, v := range values {
		es[i] = loadbalance.Endpoint[T]{ID: strconv.Itoa(i), Value: v, Weight: 1}
	}
	return es
}

func parseURLs(addrs []string) ([]*url.URL, error) {
	urls := make([]*url.URL, len(addrs))
	for i, a := range addrs {
		u, err := url.Parse("http://" + a)
		if err != nil {
			return nil, err
		}
		urls[i] = u
	}
	return urls, nil
}

// newTransport is what both proxies in Go send requests with.
func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true, IdleConnTimeout: time.Minute}
}

func httpServer(h http.Handler) func(net.Listener) error {
	return (&http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}).Serve
}

// buffers is a pool of what a ReverseProxy would otherwise make for each answer.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[32 << 10]byte)(b)) }

// sendForever sends as much as each client takes.
func sendForever(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			chunk := make([]byte, 256<<10)
			for {
				if _, err := c.Write(chunk); err != nil {
					return // the client has had enough
				}
			}
		}()
	}
}
