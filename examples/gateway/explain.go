package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// explain says what a config means, or what is wrong with it. It connects to nothing.
func explain(c *config, stdout io.Writer) error {
	g, err := newGateway(c, options{stdout: io.Discard, stderr: io.Discard, dry: true})
	if err != nil {
		return err
	}
	defer g.close()
	for i, l := range c.Listeners {
		if l.TLS == nil {
			continue
		}
		if _, err := certificate(l.TLS); err != nil {
			return c.errorAt([]any{"listeners", i, "tls"}, "must be a certificate and its key: %w", err)
		}
	}
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s is valid.\n\nListeners\n", c.file)
	for _, l := range c.Listeners {
		scheme := "http"
		if l.TLS != nil {
			scheme = "https"
		}
		fmt.Fprintf(w, "  %s\t%s\n", l.Address, scheme)
	}
	if c.Admin.Address != "" {
		fmt.Fprintf(w, "  %s\tadmin\n", c.Admin.Address)
	}
	fmt.Fprintln(w, "\nPools")
	for _, p := range g.pools {
		pc := c.Pools[p.of]
		where := fmt.Sprintf("%d endpoints", len(pc.Endpoints))
		if pc.DNS != nil {
			where = fmt.Sprintf("endpoints of %s:%d in DNS", pc.DNS.Host, pc.DNS.Port)
		}
		checked := "not checked"
		if h := pc.Health; h != nil {
			checked = "checked by " + cmp.Or(h.HTTP, "TCP")
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", p.name, p.policy, where, checked)
	}
	fmt.Fprintln(w, "\nRoutes, in the order in which they are looked at")
	for _, r := range newRouter(g.routes).candidates {
		fmt.Fprintf(w, "  %s\t%s\t%s\t-> %s\n", r.config.Name, r.describe(), strings.Join(r.does(), ", "), r.pool.name)
	}
	return w.Flush()
}

// describe says what requests the candidate is for.
func (r candidate) describe() string {
	what := cmp.Or(r.host, "*")
	if r.config.Path != "" {
		what += r.config.Path
	} else {
		what += strings.TrimSuffix(r.config.Prefix, "/") + "/..."
	}
	if len(r.config.Methods) > 0 {
		what = strings.Join(r.config.Methods, ",") + " " + what
	}
	for _, name := range slices.Sorted(maps.Keys(r.config.Headers)) {
		what += fmt.Sprintf(" [%s: %s]", name, r.config.Headers[name])
	}
	return what
}

// does says what the route does besides balancing.
func (r candidate) does() []string {
	c := r.config
	tries := cmp.Or(c.Retries.Tries, 3)
	does := []string{fmt.Sprintf("%d tries", tries)}
	if tries == 1 {
		does[0] = "no retries"
	}
	if c.Auth != nil {
		does = append(does, "API key in "+c.Auth.APIKey)
	}
	if c.RateLimit != nil {
		does = append(does, fmt.Sprintf("%v for each %s", c.RateLimit.limit(), strings.ReplaceAll(c.RateLimit.By, "_", " ")))
	}
	if c.Breaker != nil {
		does = append(does, "breaker")
	}
	if c.Sticky != nil {
		does = append(does, "sticky")
	}
	return does
}
