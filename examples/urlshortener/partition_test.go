package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// A gate is between a process and the broker. What it holds back comes later, as over a network that is slow, or with a
// process that is stopped; what it cuts does not come at all.
type gate struct {
	addr string // where it is reached

	mu       sync.Mutex
	changed  *sync.Cond
	up, down bool // nothing goes to the broker, or comes from there
	cut      bool // there are no connections
	conns    map[net.Conn]bool
}

// newGate returns a gate to an address, or to the socket of a path.
func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	g.changed = sync.NewCond(&g.mu)
	var jobs sync.WaitGroup
	jobs.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial(map[bool]string{false: "tcp", true: "unix"}[filepath.IsAbs(target)], target)
			if err != nil || !g.enter(from, to) {
				from.Close()
				if err == nil {
					to.Close()
				}
				continue
			}
			jobs.Go(func() { g.pass(to, from, &g.up) })
			jobs.Go(func() { g.pass(from, to, &g.down) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		g.set(false, false, true)
		jobs.Wait()
	})
	return g
}

func (g *gate) enter(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return false
	}
	for _, c := range conns {
		g.conns[c] = true
	}
	return true
}

// pass copies what is sent, but while held is true.
func (g *gate) pass(to, from net.Conn, held *bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		g.mu.Lock()
		for *held && !g.cut {
			g.changed.Wait()
		}
		g.mu.Unlock()
		if err == nil {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			to.Close()
			from.Close()
			g.mu.Lock()
			delete(g.conns, to)
			delete(g.conns, from)
			g.mu.Unlock()
			return
		}
	}
}

// set says what is held back, and whether all is cut.
func (g *gate) set(up, down, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up, g.down, g.cut = up, down, cut
	if cut {
		for c := range g.conns {
			c.Close()
		}
	}
	g.changed.Broadcast()
}

func (g *gate) heal() { g.set(false, false, false) }

// A peer is the links of a process, with the way to the broker and to the others, and nothing else of it.
type peer struct {
	*links
	name string
	gate *gate
}

// newTCPBroker starts a broker, and returns its address.
func newTCPBroker(t *testing.T) string {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoSigs: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s.Addr().String()
}

// newPeers starts processes over a store, and waits until all trust what they know.
func newPeers(t *testing.T, s *store, broker string, names ...string) []*peer {
	t.Helper()
	var peers []*peer
	var wg sync.WaitGroup
	for _, name := range names {
		p := &peer{links: newTestLinks(t, s), name: name, gate: newGate(t, broker)}
		peers = append(peers, p)
		mux := http.NewServeMux()
		ready := make(chan struct{})
		mux.HandleFunc("GET "+ownerPath+"{code}", func(w http.ResponseWriter, r *http.Request) {
			<-ready
			p.owners.serve(p.links)(w, r)
		})
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		conn, err := nats.Connect("nats://"+p.gate.addr, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		wg.Go(func() {
			defer close(ready)
			if err := p.join(t.Context(), conn, member{ID: name, URL: server.URL}, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	for _, p := range peers {
		t.Cleanup(p.others.close)
	}
	allTrusted(t, peers...)
	return peers
}

// allTrusted waits until each of the peers knows all, and trusts what it knows.
func allTrusted(t *testing.T, peers ...*peer) {
	t.Helper()
	within(t, 30*time.Second, func() bool {
		for _, p := range peers {
			if p.trusted() == 0 || len(p.others.list()) != len(peers) {
				return false
			}
		}
		return true
	}, "they do not find each other")
}

func (p *peer) make(ctx context.Context, code string) error {
	_, err := p.create(ctx, draft{Alias: code, Target: "http://example.com/" + code, Owner: "ann"})
	return err
}

// begin calls f in the background, and returns what waits for it.
func begin(t *testing.T, f func(context.Context) error) (wait func()) {
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	go func() { defer cancel(); done <- f(ctx) }()
	return func() { t.Helper(); require.NoError(t, <-done) }
}

// find fails the test if a link is not found.
func find(t *testing.T, code string, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		_, err := p.resolve(t.Context(), code)
		require.NoError(t, err, "%s is not found by %s", code, p.name)
	}
}

func absent(t *testing.T, code string, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		_, err := p.resolve(t.Context(), code)
		require.ErrorIs(t, err, errNoLink, "%s is found by %s", code, p.name)
	}
}

// TestPartition has one of three processes lose the broker in all ways. What is acknowledged meanwhile is found by all at
// any time, though each remembers that it was not there; and what was deleted is not found when it has the broker again.
func TestPartition(t *testing.T) {
	for _, x := range []struct {
		name          string
		up, down, cut bool
	}{
		{"cut", false, false, true},
		{"silent", true, true, false},
		{"deaf", false, true, false}, // others hear it, and wait for its answers
		{"mute", true, false, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			peers := newPeers(t, newStore(t), newTCPBroker(t), "a", "b", "c")
			a, b, c := peers[0], peers[1], peers[2]
			require.NoError(t, a.make(t.Context(), "deleted"))
			find(t, "deleted", peers...)
			absent(t, "early", peers...)

			b.gate.set(x.up, x.down, x.cut)
			early := begin(t, func(ctx context.Context) error { return a.make(ctx, "early") })
			for lost := false; !lost; { // until it is, b is waited for
				absent(t, "late", b)
				lost = b.trusted() == 0
			}
			early()
			find(t, "early", peers...)
			absent(t, "late", peers...)
			absent(t, "later", peers...)
			for _, code := range []string{"late", "later"} {
				require.NoError(t, c.make(t.Context(), code))
			}
			find(t, "late", peers...)
			find(t, "later", a, c) // b remembers that there is none
			require.NoError(t, c.remove(t.Context(), "deleted", "ann"))
			absent(t, "deleted", a, c)
			err := b.make(t.Context(), "of-b")
			require.ErrorIs(t, err, errUntold)
			require.True(t, unavailable(err))
			_, err = b.store.get(t.Context(), "of-b")
			require.ErrorIs(t, err, errNoLink)

			b.gate.heal()
			within(t, 20*time.Second, func() bool {
				find(t, "early", b)
				find(t, "late", b)
				return b.trusted() != 0
			})
			find(t, "later", b)
			absent(t, "deleted", b)
			allTrusted(t, peers...)
			require.NoError(t, b.make(t.Context(), "of-b"))
			find(t, "of-b", peers...)
		})
	}
}

// TestHealed has the process that makes links cut off: when it is back, it makes none before it knows the others again.
func TestHealed(t *testing.T) {
	t.Parallel()
	peers := newPeers(t, newStore(t), newTCPBroker(t), "a", "b")
	a, b := peers[0], peers[1]
	for _, cut := range []bool{true, false} {
		a.gate.set(!cut, !cut, cut)
		within(t, 10*time.Second, func() bool { return a.trusted() == 0 && len(a.others.list()) == 1 })
		a.gate.heal()
		for n, end := 0, time.Now().Add(30*time.Second); ; n++ {
			code := fmt.Sprintf("code-%v-%d", cut, n)
			absent(t, code, b)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := a.make(ctx, code)
			cancel()
			if err == nil {
				find(t, code, peers...)
				break
			}
			require.True(t, unavailable(err), err)
			require.True(t, time.Now().Before(end))
		}
		allTrusted(t, peers...)
	}
}

// newNewcomer returns a process that begins to hear of the others, which makes its filter by rebuild.
func newNewcomer(t *testing.T, s *store, broker string, rebuild func(context.Context, *peer) error) *peer {
	t.Helper()
	conn, err := nats.Connect("nats://" + broker)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	c, err := s.cluster(t.Context())
	require.NoError(t, err)
	b := &peer{links: newTestLinks(t, s), name: "b"}
	b.others, err = newMembers(conn, c, member{ID: "b"}, memberHooks{
		admit: b.admit, drop: b.cache.Invalidate, distrust: b.guard.FailOpen,
		rebuild: func(ctx context.Context) error { return rebuild(ctx, b) },
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(b.others.close)
	return b
}

// TestNewcomer has a process that begins while others remember that there is no such link: it makes none before it knows
// them.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	s, broker := newStore(t), newTCPBroker(t)
	a := newPeers(t, s, broker, "a")[0]
	b := newNewcomer(t, s, broker, func(ctx context.Context, b *peer) error { return b.rebuild(ctx) })
	for n, end := 0, time.Now().Add(30*time.Second); ; n++ {
		code := fmt.Sprint("code-", n)
		absent(t, code, a)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := b.make(ctx, code)
		cancel()
		if err == nil {
			find(t, code, a, b)
			break
		}
		require.True(t, unavailable(err), err)
		require.True(t, time.Now().Before(end))
	}
}

// TestLeftBehind has the owner of a link be the last to hear of it. What it says meanwhile is not what others remember.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	peers := newPeers(t, s, newTCPBroker(t), "a", "b", "c")
	a, b, c := peers[0], peers[1], peers[2]
	ofB := func(prefix string) string {
		for i := 0; ; i++ {
			code := fmt.Sprint(prefix, i)
			if owner, ok := c.owners.of(code); ok && owner.ID == "b" {
				return code
			}
		}
	}
	// Whether it could be asked meanwhile depends on how long all takes: b has contact until trustTime is over.
	asked := false
	for i := 0; !asked; i++ {
		require.Less(t, i, 10)
		allTrusted(t, peers...)
		code := ofB(fmt.Sprint("new-", i, "-"))
		absent(t, code, b)
		a.admit(code)
		made := begin(t, func(ctx context.Context) error {
			return a.others.make(ctx, code, func() error {
				absent(t, code, c) // so that it is seen below that it has heard of the link
				b.gate.set(false, true, false)
				return s.insert(ctx, link{Code: code, Target: "http://example.com", Owner: "ann"})
			})
		})
		forgotten := func(code string) func() bool {
			return func() bool {
				_, state, _ := c.cache.Lookup(code)
				_, err := s.get(t.Context(), code)
				return state == ttlcache.Absent && err == nil
			}
		}
		within(t, 10*time.Second, forgotten(code))
		_, _ = c.resolve(t.Context(), code) // nobody has acknowledged it yet
		b.gate.heal()
		made()
		find(t, code, peers...)

		allTrusted(t, peers...)
		code = ofB(fmt.Sprint("old-", i, "-"))
		require.NoError(t, a.make(t.Context(), code))
		find(t, code, peers...)
		b.gate.set(false, true, false)
		removed := begin(t, func(ctx context.Context) error { return a.remove(ctx, code, "ann") })
		within(t, 10*time.Second, forgotten(code))
		_, err := c.resolve(t.Context(), code)
		asked = err == nil // b has it yet
		b.gate.heal()
		removed()
		absent(t, code, peers...)
	}
}

// A stopper is a second level in which nothing is, and that stops the process for a while when it is asked.
type stopper struct{ stop func() }

func (s stopper) Get(context.Context, string) (l link, remaining time.Duration, ok bool, err error) {
	s.stop()
	return link{}, 0, false, nil
}
func (stopper) Set(context.Context, string, link, time.Duration) error { return nil }
func (stopper) Delete(context.Context, string) error                   { return nil }

// TestStoppedInBetween has a process stopped while it looks for a link, and a link made meanwhile that it was not told of:
// what its filter says is not believed any more.
func TestStoppedInBetween(t *testing.T) {
	s := newStore(t)
	m := &members{directory: newDirectory(), trusted: true, periods: 1, since: time.Now(), horizon: time.Now().Add(time.Hour)}
	l, err := newLinks(s, randomCoder{}, 100, time.Minute, 1000, stopper{func() {
		require.NoError(t, s.insert(t.Context(), link{Code: "abcdefg", Target: "http://example.com"}))
		m.mu.Lock()
		defer m.mu.Unlock()
		m.horizon = time.Now().Add(-trustTime)
	}})
	require.NoError(t, err)
	require.NoError(t, l.rebuild(t.Context()))
	t.Cleanup(func() { require.NoError(t, l.cache.Close(context.Background())) })
	l.others = m
	require.NotZero(t, l.trusted())
	_, err = l.resolve(t.Context(), "abcdefg")
	require.NoError(t, err)
	require.Zero(t, l.trusted())
	require.EqualValues(t, 1, l.guard.Stats().Refused) // so it was the filter that did not know it
}

// TestOwnerStoppedInBetween has the owner of a link stopped while it looks for it: what it has found may not be true any more.
func TestOwnerStoppedInBetween(t *testing.T) {
	s := newStore(t)
	m := &members{directory: newDirectory(), trusted: true, periods: 1, since: time.Now(), horizon: time.Now().Add(time.Hour)}
	ask := func(stop func()) int {
		l, err := newLinks(s, randomCoder{}, 100, time.Minute, 1000, stopper{stop})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.cache.Close(context.Background())) })
		l.others = m
		r := httptest.NewRequest("GET", ownerPath, nil)
		r.SetPathValue("code", "abcdefg")
		r.Header.Set("Authorization", "Bearer key")
		w := httptest.NewRecorder()
		newOwners(m, "key").serve(l)(w, r)
		return w.Code
	}
	require.NoError(t, s.insert(t.Context(), link{Code: "abcdefg", Target: "http://example.com"}))
	require.Equal(t, http.StatusOK, ask(func() {}))
	require.Equal(t, http.StatusServiceUnavailable, ask(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.horizon = time.Now().Add(-trustTime)
	}))
}

// TestJoinWaits has a process that makes links deaf for a while, in which another joins: either it knows of the other one,
// or it makes no more links when the other reads which there are.
func TestJoinWaits(t *testing.T) {
	t.Parallel()
	s, broker := newStore(t), newTCPBroker(t)
	a := newPeers(t, s, broker, "a")[0]
	made := false
	b := newNewcomer(t, s, broker, func(ctx context.Context, b *peer) error {
		err := b.rebuild(ctx)
		if err == nil && !made { // as if it took so long
			made = a.make(ctx, "abcdefg") == nil
		}
		return err
	})
	within(t, 10*time.Second, func() bool { // until it is about to say that it is in
		b.others.mu.Lock()
		defer b.others.mu.Unlock()
		return !b.others.since.IsZero() && b.others.horizon.Sub(b.others.since) > leaseTime-2*beatEvery
	})
	a.gate.set(false, true, false)
	within(t, 20*time.Second, func() bool { return b.trusted() != 0 })
	if made {
		find(t, "abcdefg", b)
	}
	a.gate.heal()
	within(t, 20*time.Second, func() bool { return a.trusted() != 0 && len(b.others.list()) == 2 })
	require.NoError(t, a.make(t.Context(), "later"))
	find(t, "later", a, b)
}

// TestDeployments has two deployments, over different databases, on one broker, and strangers: nobody waits for
// processes of the other one, or asks them.
func TestDeployments(t *testing.T) {
	t.Parallel()
	broker := newTCPBroker(t)
	first := newPeers(t, newStore(t), broker, "a", "b")
	second := newPeers(t, newStore(t), broker, "c", "d")
	conn, err := nats.Connect("nats://" + broker)
	require.NoError(t, err)
	defer conn.Close()
	heard, err := conn.SubscribeSync("urlshortener.>")
	require.NoError(t, err)
	require.NoError(t, conn.Flush())
	subjects := map[string]bool{}
	for len(subjects) < 2 {
		msg, err := heard.NextMsg(10 * time.Second)
		require.NoError(t, err)
		if subjects[msg.Subject] { // what is published below is heard here as well
			continue
		}
		subjects[msg.Subject] = true
		for _, stranger := range []cluster{{}, {[]byte("x")}} {
			require.NoError(t, conn.Publish(msg.Subject, stranger.seal(beatKind, member{ID: "stranger", URL: "http://stranger", Number: 1, In: true})))
		}
		require.NoError(t, conn.Publish(msg.Subject, []byte(`{"id": "stranger", "in": true}`)))
		require.NoError(t, conn.Publish(msg.Subject, msg.Data)) // once more
	}
	require.NoError(t, conn.Flush())
	second[0].gate.set(true, true, false)
	for i := range 20 {
		code := fmt.Sprint("code-", i)
		require.NoError(t, first[i%2].make(t.Context(), code))
		find(t, code, first...)
		absent(t, code, second[1])
		require.Len(t, first[i%2].others.list(), 2)
	}
	require.NotEqual(t, first[0].owners.secret, second[0].owners.secret)
}

// TestFlapping cuts and heals the ways of three processes to the broker at random, while links are made, looked for
// before, and followed: one that was acknowledged is found by each, whatever happens. Those of which it was acknowledged
// that they are deleted are found by nobody, when all have the broker again.
func TestFlapping(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	peers := newPeers(t, newStore(t), newTCPBroker(t), "a", "b", "c")
	ctx, stop := context.WithTimeout(t.Context(), 12*time.Second)
	defer stop()
	var mu sync.Mutex
	var made, deleted []string
	note := func(list *[]string, code string) {
		mu.Lock()
		defer mu.Unlock()
		*list = append(*list, code)
	}
	look := func(p *peer, code string) {
		if _, err := p.resolve(t.Context(), code); errors.Is(err, errNoLink) {
			t.Errorf("seed %d: %s does not find %s", seed, p.name, code)
			stop()
		}
	}
	within := func(f func(context.Context) error) bool {
		ctx, cancel := context.WithTimeout(t.Context(), createTimeout)
		defer cancel()
		return f(ctx) == nil
	}
	var wg sync.WaitGroup
	for i, p := range peers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() { // makes links, and deletes some
			for n := 0; ctx.Err() == nil; n++ {
				code := fmt.Sprint(p.name, "-", n)
				for _, q := range peers {
					if rng.IntN(2) == 0 {
						_, _ = q.resolve(t.Context(), code)
					}
				}
				if !within(func(ctx context.Context) error { return p.make(ctx, code) }) {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				for _, j := range rng.Perm(len(peers)) {
					look(peers[j], code)
				}
				if rng.IntN(8) > 0 {
					note(&made, code)
				} else if q := peers[rng.IntN(len(peers))]; within(func(ctx context.Context) error { return q.remove(ctx, code, "ann") }) {
					note(&deleted, code)
				}
			}
		})
		wg.Go(func() { // follows any
			rng := rand.New(rand.NewPCG(seed, uint64(10+i)))
			for ctx.Err() == nil {
				code := ""
				mu.Lock()
				if len(made) > 0 {
					code = made[rng.IntN(len(made))]
				}
				mu.Unlock()
				if code != "" {
					look(p, code)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Go(func() { // partitions
		rng := rand.New(rand.NewPCG(seed, 20))
		for ctx.Err() == nil {
			p := peers[rng.IntN(len(peers))]
			switch rng.IntN(5) {
			case 0:
				p.gate.set(false, false, true)
			case 1:
				p.gate.set(true, true, false)
			case 2:
				p.gate.set(true, false, false)
			case 3:
				p.gate.set(false, true, false)
			case 4: // the connection is made anew at once
				p.gate.set(false, false, true)
				p.gate.heal()
			}
			for _, longest := range []time.Duration{2 * leaseTime, leaseTime} {
				if rng.IntN(2) == 0 {
					longest /= 20
				}
				select {
				case <-time.After(time.Duration(rng.Int64N(int64(longest)))):
				case <-ctx.Done():
				}
				p.gate.heal()
			}
		}
	})
	wg.Wait()
	for _, p := range peers {
		p.gate.heal()
	}
	allTrusted(t, peers...)
	for _, p := range peers {
		for _, code := range made {
			look(p, code)
		}
		for _, code := range deleted {
			_, err := p.resolve(t.Context(), code)
			require.ErrorIs(t, err, errNoLink, "seed %d: %s finds %s", seed, p.name, code)
		}
	}
	t.Logf("%d links made, %d deleted", len(made), len(deleted))
}
