package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

var testCluster = cluster{[]byte("a secret")}

// A fakeProcess is what members call, and remember.
type fakeProcess struct {
	*members
	conn *nats.Conn

	mu       sync.Mutex
	admitted map[string]bool
	dropped  map[string]bool
	rows     *sync.Map // of the database, which all share
	known    map[string]bool
	rebuilt  int
}

func newBroker(t *testing.T) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoSigs: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func newFakeProcess(t *testing.T, broker *natsserver.Server, id string, rows *sync.Map) *fakeProcess {
	t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(broker), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	p := &fakeProcess{conn: conn, admitted: map[string]bool{}, dropped: map[string]bool{}, rows: rows, known: map[string]bool{}}
	set := func(m *map[string]bool) func(string) {
		return func(code string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			(*m)[code] = true
		}
	}
	p.members, err = newMembers(conn, testCluster, member{ID: id}, memberHooks{
		admit: set(&p.admitted), drop: set(&p.dropped), distrust: func() {},
		rebuild: func(context.Context) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.rebuilt++
			rows.Range(func(k, _ any) bool { p.known[k.(string)] = true; return true })
			return nil
		},
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() {
		p.close()
		conn.Close()
	})
	return p
}

// finds reports whether the process would find a code: if its filter can be relied on, only by that.
func (p *fakeProcess) finds(code string) bool {
	before := p.period()
	p.mu.Lock()
	known := p.known[code] || p.admitted[code]
	p.mu.Unlock()
	return known || before == 0 || p.period() != before
}

func (p *fakeProcess) fresh() bool { return p.period() != 0 }

func (p *fakeProcess) insert(code string) error {
	p.hooks.admit(code)
	return p.make(context.Background(), code, func() error { p.rows.Store(code, true); return nil })
}

// TestMembers makes links in all processes while others join and leave, are cut off, and come back: whoever asks any
// process for a link that was acknowledged finds it.
func TestMembers(t *testing.T) {
	t.Parallel()
	broker := newBroker(t)
	rows := new(sync.Map)
	a := newFakeProcess(t, broker, "a", rows)
	b := newFakeProcess(t, broker, "b", rows)
	require.Eventually(t, func() bool { return a.fresh() && b.fresh() && len(a.list()) == 2 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, a.insert("one"))
	for _, p := range []*fakeProcess{a, b} {
		require.True(t, p.finds("one"))
	}
	b.mu.Lock()
	require.True(t, b.admitted["one"] && b.dropped["one"])
	b.mu.Unlock()

	var acknowledged sync.Map
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, p := range []*fakeProcess{a, b} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				code := fmt.Sprint(p.self.ID, i)
				if p.insert(code) == nil {
					acknowledged.Store(code, true)
				}
			}
		})
	}
	check := func(p *fakeProcess) {
		acknowledged.Range(func(k, _ any) bool {
			if !p.finds(k.(string)) {
				t.Errorf("%s does not find %s", p.self.ID, k)
				return false
			}
			return true
		})
	}
	var joined []*fakeProcess
	for i := range 3 { // each joins while links are made
		c := newFakeProcess(t, broker, fmt.Sprint("c", i), rows)
		check(c)
		require.Eventually(t, c.fresh, 20*time.Second, time.Millisecond)
		check(c)
		joined = append(joined, c)
	}
	// One is cut off: nothing that the others tell reaches it, and it says nothing. Then it does not trust what it
	// knows, and the others go on without it.
	lost := joined[0]
	lost.conn.Close()
	require.Eventually(t, func() bool { return !lost.fresh() }, 10*time.Second, time.Millisecond)
	check(lost)
	require.Eventually(t, func() bool { return len(a.list()) == 4 }, 10*time.Second, 10*time.Millisecond)
	before := 0
	acknowledged.Range(func(any, any) bool { before++; return true })
	require.Eventually(t, func() bool {
		after := 0
		acknowledged.Range(func(any, any) bool { after++; return true })
		return after > before+20
	}, 10*time.Second, 10*time.Millisecond)
	check(lost)
	// One leaves as it should: nobody waits for it.
	joined[1].close()
	require.Eventually(t, func() bool { return len(a.list()) == 3 }, time.Second, 10*time.Millisecond)
	close(stop)
	wg.Wait()
	for _, p := range append([]*fakeProcess{a, b}, joined...) {
		check(p)
	}
	require.Greater(t, before, 10)
}

// TestMembersFail has a row that is not inserted, and a context that ends while somebody does not answer.
func TestMembersFail(t *testing.T) {
	t.Parallel()
	broker := newBroker(t)
	rows := new(sync.Map)
	a := newFakeProcess(t, broker, "a", rows)
	require.Eventually(t, a.fresh, 10*time.Second, 10*time.Millisecond)
	taken := errors.New("taken")
	require.ErrorIs(t, a.make(t.Context(), "x", func() error { return taken }), taken)

	a.members.mu.Lock()
	a.hear(member{ID: "dead", In: true}, time.Now())
	a.members.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := a.make(ctx, "y", func() error { rows.Store("y", true); return nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the other processes cannot be told: dead do not answer")
	_, there := rows.Load("y")
	require.False(t, there)
	require.NoError(t, a.insert("z")) // when its time is over
	require.Len(t, a.list(), 1)
}

// TestContact has contact begin anew when messages may have been lost, however quickly the connection was made again, and
// when the clock says that it was over, though nothing has failed.
func TestContact(t *testing.T) {
	t.Parallel()
	a := newFakeProcess(t, newBroker(t), "a", new(sync.Map))
	for _, interrupt := range []func(){
		func() { require.NoError(t, a.conn.ForceReconnect()) },
		func() {
			a.members.mu.Lock()
			defer a.members.mu.Unlock()
			a.horizon = a.horizon.Add(-trustTime)
		},
	} {
		require.Eventually(t, a.fresh, 20*time.Second, time.Millisecond)
		before := a.period()
		contact, err := a.present(t.Context())
		require.NoError(t, err)
		interrupt()
		require.Eventually(t, func() bool { return a.still(contact) != nil && a.period() != before }, 20*time.Second, time.Millisecond)
		require.ErrorIs(t, a.still(contact), errUntold)
		require.Eventually(t, a.fresh, 20*time.Second, time.Millisecond)
		require.Greater(t, a.period(), before)
		require.ErrorIs(t, a.still(contact), errUntold)
	}
}

// TestSlowMember has a process whose beats come seldom, but not too seldom: who begins makes no links before it has heard it.
func TestSlowMember(t *testing.T) {
	t.Parallel()
	broker := newBroker(t)
	conn, err := nats.Connect("", nats.InProcessServer(broker))
	require.NoError(t, err)
	defer conn.Close()
	a := newFakeProcess(t, broker, "a", new(sync.Map))
	began := time.Now()
	for n := uint64(1); ; n++ {
		a.members.mu.Lock()
		present, known := a.presentLocked(), a.others["slow"] != nil
		a.members.mu.Unlock()
		require.True(t, known || !present)
		if present {
			break
		}
		if time.Since(began) > trustTime/2 { // the first one was just before
			require.NoError(t, conn.Publish(testCluster.subject(beatKind), testCluster.seal(beatKind, member{ID: "slow", Number: n, In: true})))
			require.NoError(t, conn.Flush())
			began = time.Now()
		}
		require.Less(t, n, uint64(100_000))
		time.Sleep(time.Millisecond)
	}
}

// TestUnheard has a process that has said that it is in, and not heard itself say so yet: others may have said the same
// before, and it has not heard them either. Until then it makes no links.
func TestUnheard(t *testing.T) {
	m := &members{directory: newDirectory(), in: 5, echoed: 4, since: time.Now(), horizon: time.Now().Add(time.Hour)}
	require.True(t, m.contactLocked())
	require.False(t, m.presentLocked())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, m.make(ctx, "x", func() error { t.Error("it is made"); return nil }), errUntold)
	m.echoed = 5
	require.True(t, m.presentLocked())
}

// TestLostInBetween has the contact lost while a link is made: who was not known may not have been told, so it is not
// acknowledged.
func TestLostInBetween(t *testing.T) {
	t.Parallel()
	a := newFakeProcess(t, newBroker(t), "a", new(sync.Map))
	require.Eventually(t, a.fresh, 10*time.Second, 10*time.Millisecond)
	err := a.make(t.Context(), "x", func() error {
		a.members.mu.Lock()
		defer a.members.mu.Unlock()
		a.loseLocked()
		return nil
	})
	require.ErrorIs(t, err, errUntold)
	a.members.mu.Lock()
	defer a.members.mu.Unlock()
	require.True(t, a.owed["x"]) // they are told later
}

// TestLateEcho has a process hear its own beats long after it has sent them, as if it had been stopped: what others have
// said since then comes later, so nobody is forgotten who was heard within leaseTime before a beat was sent.
func TestLateEcho(t *testing.T) {
	conn, err := nats.Connect("", nats.InProcessServer(newBroker(t)))
	require.NoError(t, err)
	defer conn.Close()
	sub, err := conn.SubscribeSync("x")
	require.NoError(t, err)
	m := &members{
		self: member{ID: "a"}, cluster: testCluster, conn: conn, log: slog.New(slog.DiscardHandler), directory: newDirectory(),
		hooks: memberHooks{distrust: func() {}},
	}
	now := time.Now()
	m.hear(member{ID: "b", In: true}, now.Add(-5*time.Second))
	for n, ago := range map[uint64]time.Duration{3: 4 * time.Second, 4: time.Second} {
		m.beats[n] = sent{n, now.Add(-ago)}
	}
	echo := func(n uint64) {
		m.onBeat(&nats.Msg{Sub: sub, Data: testCluster.seal(beatKind, member{ID: "a", Number: n})})
	}
	echo(3)
	require.Contains(t, m.others, "b")
	echo(4)
	require.Empty(t, m.others)
}

// TestAnswerToJoin has a process join while another makes a link: it is answered when the link is made, and not before.
func TestAnswerToJoin(t *testing.T) {
	broker := newBroker(t)
	a := newFakeProcess(t, broker, "a", new(sync.Map))
	conn, err := nats.Connect("", nats.InProcessServer(broker))
	require.NoError(t, err)
	defer conn.Close()
	answers, err := conn.SubscribeSync(conn.NewInbox())
	require.NoError(t, err)

	a.making.RLock()
	join := announcement{Kind: "join", From: member{ID: "b", In: true}}
	require.NoError(t, conn.PublishRequest(testCluster.subject(announceKind), answers.Subject, testCluster.seal(announceKind, join)))
	require.Eventually(t, func() bool { // until it waits for that
		free := a.making.TryRLock()
		if free {
			a.making.RUnlock()
		}
		return !free
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, a.conn.Flush())
	require.NoError(t, conn.Flush())
	pending, _, err := answers.Pending()
	require.NoError(t, err)
	require.Zero(t, pending)
	a.making.RUnlock()
	_, err = answers.NextMsg(10 * time.Second)
	require.NoError(t, err)
}
