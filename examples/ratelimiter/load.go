package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// A user sends requests evenly.
type user struct {
	name      string
	perSecond int64
}

// parseUsers reads NAME=RATE,...
func parseUsers(s string) ([]user, error) {
	var users []user
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		name, rate, _ := strings.Cut(part, "=")
		n, err := strconv.ParseInt(rate, 10, 64)
		if err != nil || n < 1 || n > 10_000 || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("-users must be NAME=RATE,... with rates from 1 to 10000, got %q", part)
		}
		if seen[name] {
			return nil, fmt.Errorf("-users has %q twice", name)
		}
		seen[name] = true
		users = append(users, user{name, n})
	}
	return users, nil
}

// A tally is what became of requests.
type tally struct{ admitted, refused, failed int }

func (t *tally) add(o tally) {
	t.admitted += o.admitted
	t.refused += o.refused
	t.failed += o.failed
}

// A load sends the requests of users to services in turn.
type load struct {
	urls   []string
	users  []user
	client *http.Client

	mu      sync.Mutex
	tallies []map[int]*tally // by user and second
}

func newLoad(urls []string, users []user) *load {
	l := &load{urls: urls, users: users, tallies: make([]map[int]*tally, len(users)), client: &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
	}}
	for i := range l.tallies {
		l.tallies[i] = map[int]*tally{}
	}
	return l
}

// run sends for so long, and prints a line a second, and the sum.
func (l *load) run(ctx context.Context, length time.Duration, w io.Writer) error {
	defer l.client.CloseIdleConnections()
	names, heads := "      ", "second"
	for _, u := range l.users {
		names += fmt.Sprintf(column, u.name)
		heads += fmt.Sprintf(column, "200 / 429")
	}
	fmt.Fprintf(w, "%s\n%s\n", names, heads)

	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(length))
	defer cancel()
	var wg sync.WaitGroup
	for i := range l.users {
		wg.Go(func() { l.send(ctx, i, start) })
	}
	second := 0
	for end := false; !end; {
		select {
		case <-ctx.Done():
			end = true
		case <-time.After(time.Until(start.Add(time.Duration(second+1) * time.Second))):
			l.print(w, second)
			second++
		}
	}
	wg.Wait()
	if time.Since(start) > time.Duration(second)*time.Second+100*time.Millisecond {
		l.print(w, second) // a last part of one
	}
	return l.printSums(w)
}

// send sends the requests of one user, paced by the library that is shown.
func (l *load) send(ctx context.Context, who int, start time.Time) {
	pacer, err := ratelimit.NewPacer(ratelimit.PerSecond(l.users[who].perSecond), 1, 0)
	if err != nil {
		panic(err) // parseUsers has seen to that
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; pacer.Wait(ctx) == nil; i++ {
		wg.Go(func() {
			t := l.request(l.urls[i%len(l.urls)]+"/hello", l.users[who].name)
			second := int(time.Since(start) / time.Second)
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.tallies[who][second] == nil {
				l.tallies[who][second] = &tally{}
			}
			l.tallies[who][second].add(t)
		})
	}
}

// request sends one request, and says what became of it.
func (l *load) request(url, user string) tally {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return tally{failed: 1}
	}
	r.Header.Set(userHeader, user)
	resp, err := l.client.Do(r)
	if err != nil {
		return tally{failed: 1}
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	switch resp.StatusCode {
	case http.StatusOK:
		return tally{admitted: 1}
	case http.StatusTooManyRequests:
		return tally{refused: 1}
	}
	return tally{failed: 1}
}

// column is the format of a column of the table.
const column = "%14s"

func (l *load) print(w io.Writer, second int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := make([]tally, len(l.users))
	for i := range row {
		if t := l.tallies[i][second]; t != nil {
			row[i] = *t
		}
	}
	printRow(w, strconv.Itoa(second+1), row)
}

func printRow(w io.Writer, name string, row []tally) {
	line := fmt.Sprintf("%6s", name)
	for _, t := range row {
		line += fmt.Sprintf(column, fmt.Sprintf("%d / %4d", t.admitted, t.refused))
	}
	fmt.Fprintln(w, line)
}

// printSums prints what all seconds come to. It returns an error if a request was neither admitted nor
// refused.
func (l *load) printSums(w io.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := make([]tally, len(l.users))
	failed := 0
	for i := range row {
		for _, t := range l.tallies[i] {
			row[i].add(*t)
		}
		failed += row[i].failed
	}
	printRow(w, "sum", row)
	if failed > 0 {
		return fmt.Errorf("%d requests failed", failed)
	}
	return nil
}
