package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// members is the processes that serve the same links, so far as one of them knows. What they have to agree on is that a
// link that was acknowledged is found by all of them, though each has a filter of its own, and remembers for a while
// what does not exist. So a process that makes a link tells all others of the code before the link is in the database,
// and again when it is, and waits for their answers.
//
// A process that has died does not answer. Each process tells the others that it is there, every beatEvery; whoever was
// not heard of for leaseTime is waited for no longer. And whoever could not tell the others for that time, by his own
// clock, stops trusting his filter, and what he remembers, before the others stop waiting: he sends before they
// receive, so his time is over first. (Only that clocks run equally fast is needed.) He trusts them again when all
// others have seen him, and he has made his filter anew.
//
// Who joins is told of no link that somebody is just making without knowing of him. So everybody answers a new process
// only when the links that were under way are made: then they are in the database, where the filter that is made next
// finds them.
type members struct {
	self  member
	conn  *nats.Conn
	log   *slog.Logger
	hooks memberHooks

	making   sync.RWMutex // held for reading while a link is made, and for writing when a process joins
	draining atomic.Bool  // no requests are to be sent to this process any more

	mu        sync.Mutex
	directory           // of the others
	sent      time.Time // when the last beat was sent that the broker has taken
	trusted   bool      // the filter, and what does not exist; and only until sent is too long ago
	periods   uint64    // how often that has begun

	stop context.CancelFunc
	jobs sync.WaitGroup
	subs []*nats.Subscription
}

// A member is a process.
type member struct {
	ID  string `json:"id"`
	URL string `json:"url"` // where the others reach it; "" nowhere
	// Draining is whether it is about to end: it is told of links as before, but no requests are to be sent to it.
	Draining bool `json:"draining,omitempty"`

	heard time.Time
}

func (o member) same(p member) bool {
	return o.ID == p.ID && o.URL == p.URL && o.Draining == p.Draining
}

// A directory is the processes that were heard of lately: what members, and a front, know of them. It is not safe for
// concurrent use.
type directory struct {
	others  map[string]*member
	left    map[string]time.Time // who has said so, and when: a beat may come later than that
	changed chan struct{}        // closed when others has changed
}

func newDirectory() directory {
	return directory{others: map[string]*member{}, left: map[string]time.Time{}, changed: make(chan struct{})}
}

// hear notes that a process is there.
func (d *directory) hear(o member, now time.Time) {
	if _, left := d.left[o.ID]; o.ID == "" || left {
		return
	}
	old := d.others[o.ID]
	if old != nil && old.Draining { // it ends: what does not say so was sent before
		o.Draining = true
	}
	o.heard = now
	d.others[o.ID] = &o
	if old == nil || !old.same(o) {
		d.change()
	}
}

// leave notes that a process has said that it ends.
func (d *directory) leave(id string, now time.Time) {
	d.left[id] = now
	if d.others[id] != nil {
		delete(d.others, id)
		d.change()
	}
}

// forget forgets who was not heard of.
func (d *directory) forget(now time.Time) {
	for id, o := range d.others {
		if now.Sub(o.heard) > leaseTime {
			delete(d.others, id)
			d.change()
		}
	}
	for id, when := range d.left {
		if now.Sub(when) > leaseTime {
			delete(d.left, id)
		}
	}
}

func (d *directory) change() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// memberHooks is what a process does for the others, and with itself. They are called by several goroutines at once.
type memberHooks struct {
	admit    func(code string)           // the code may exist from now on
	drop     func(code string)           // what is known of the code is not true any more
	distrust func()                      // nothing is known of what does not exist
	rebuild  func(context.Context) error // it is, when this returns
}

// errUntold is in the errors of links that the other processes could not be told of.
var errUntold = errors.New("the other processes cannot be told")

const (
	beatEvery = 300 * time.Millisecond
	leaseTime = 3 * time.Second
	// answerWait is how long the others have before it is looked whether they are there at all.
	answerWait = 200 * time.Millisecond

	beatSubject     = "members.beat"
	leaveSubject    = "members.leave"
	announceSubject = "members.announce"
)

// An announcement is what a process tells the others, and they answer with their IDs.
type announcement struct {
	Kind string `json:"kind"` // "admit", "drop" or "join"
	Code string `json:"code,omitempty"`
	From member `json:"from"`
}

func newMembers(conn *nats.Conn, self member, hooks memberHooks, log *slog.Logger) (*members, error) {
	m := &members{self: self, conn: conn, log: log, hooks: hooks, directory: newDirectory()}
	for subject, handle := range map[string]nats.MsgHandler{
		beatSubject: m.onBeat, leaveSubject: m.onLeave, announceSubject: m.onAnnounce,
	} {
		sub, err := conn.Subscribe(subject, handle)
		if err != nil {
			return nil, errors.Join(err, m.unsubscribe())
		}
		m.subs = append(m.subs, sub)
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	hooks.distrust()
	m.jobs.Go(func() { m.beat(ctx) })
	return m, nil
}

func (m *members) unsubscribe() error {
	var err error
	for _, s := range m.subs {
		err = errors.Join(err, s.Unsubscribe())
	}
	return err
}

// close tells the others that the process leaves, so that nobody waits for it.
func (m *members) close() {
	m.stop()
	m.jobs.Wait()
	m.mu.Lock()
	m.trusted = false // before the others stop telling
	m.mu.Unlock()
	m.hooks.distrust()
	_ = m.conn.Publish(leaveSubject, encode(m.self))
	_ = m.conn.FlushTimeout(time.Second)
	_ = m.unsubscribe()
}

// drain tells the others, and fronts, that no requests are to be sent to this process any more.
func (m *members) drain() {
	m.draining.Store(true)
	_ = m.conn.Publish(beatSubject, encode(m.me())) // or the next beat says it
	_ = m.conn.FlushTimeout(time.Second)
}

// me returns this process as the others are to see it.
func (m *members) me() member {
	me := m.self
	me.Draining = m.draining.Load()
	return me
}

func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot be: it is strings and the like
	}
	return body
}

// beat tells the others that the process is there, and looks whether it could.
func (m *members) beat(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		began := time.Now()
		err := m.conn.Publish(beatSubject, encode(m.me()))
		if err == nil {
			err = m.conn.FlushTimeout(beatEvery) // the broker has it
		}
		m.mu.Lock()
		if err == nil {
			m.sent = began
		}
		lost := m.trusted && time.Since(m.sent) > leaseTime-2*beatEvery
		if lost {
			m.trusted = false
		}
		joining := !m.trusted && err == nil
		m.forget(time.Now())
		m.mu.Unlock()
		if lost {
			m.log.Warn("the others cannot be told that this process is there: its filter is not used for now")
			m.hooks.distrust()
		}
		if joining {
			if err := m.join(ctx); err != nil && ctx.Err() == nil {
				m.log.Warn("the filter is not used for now", "error", err)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// period returns the number of the time in which the filter, and what is remembered not to exist, can be relied on;
// 0 if they cannot be now. That something does not exist is known if period was the same before it was looked for and
// after: a process may have been stopped for an hour in between, or have begun to trust a filter that was made anew.
func (m *members) period() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trusted && time.Since(m.sent) < leaseTime-2*beatEvery {
		return m.periods
	}
	return 0
}

// join makes the filter anew when all others have seen this process, and are done with the links that they were making
// before, and trusts it then.
func (m *members) join(ctx context.Context) error {
	// Who is not known yet is heard of within a beat, or has to join himself.
	select {
	case <-time.After(2 * beatEvery):
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	if err := m.tell(ctx, announcement{Kind: "join", From: m.self}); err != nil {
		return err
	}
	if err := m.hooks.rebuild(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// If the others may have stopped waiting meanwhile, it was in vain.
	if m.conn.Publish(beatSubject, encode(m.me())) == nil && m.conn.FlushTimeout(beatEvery) == nil {
		if now := time.Now(); now.Sub(max2(m.sent, began)) < leaseTime-2*beatEvery {
			m.sent, m.trusted = now, true
			m.periods++
			return nil
		}
	}
	m.hooks.distrust()
	return errors.New("making the filter took longer than the others wait")
}

func max2(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (m *members) onBeat(msg *nats.Msg) {
	var o member
	if json.Unmarshal(msg.Data, &o) == nil {
		m.hear(o)
	}
}

// hear notes that a process is there.
func (m *members) hear(o member) {
	if o.ID == m.self.ID {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.directory.hear(o, time.Now())
}

func (m *members) onLeave(msg *nats.Msg) {
	var o member
	if json.Unmarshal(msg.Data, &o) != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave(o.ID, time.Now())
}

func (m *members) onAnnounce(msg *nats.Msg) {
	var a announcement
	if json.Unmarshal(msg.Data, &a) != nil || a.From.ID == m.self.ID {
		return
	}
	answer := func() { _ = msg.Respond([]byte(m.self.ID)) }
	switch a.Kind {
	case "admit":
		m.hooks.admit(a.Code)
		answer()
	case "drop":
		m.hooks.drop(a.Code)
		answer()
	case "join":
		// Others wait for their turn in this goroutine's queue: so it is done in another.
		go func() {
			m.hear(a.From)
			m.making.Lock() // what was under way before is made, and what begins then knows of him
			answer()
			m.making.Unlock()
		}()
	}
}

// make calls insert, which makes a link, with all others told before and after. It returns an error, and has not made
// the link, if not all who are there could be told of the code; if it returns one of telling them that the link is
// there, it is made, and some may not find it for a while.
func (m *members) make(ctx context.Context, code string, insert func() error) error {
	m.making.RLock()
	err := m.tell(ctx, announcement{Kind: "admit", Code: code, From: m.self})
	if err == nil {
		err = insert()
	}
	m.making.RUnlock()
	if err != nil {
		return err
	}
	return m.tell(ctx, announcement{Kind: "drop", Code: code, From: m.self})
}

// tell announces something to the others, and returns when all who are there have answered.
func (m *members) tell(ctx context.Context, a announcement) error {
	m.mu.Lock()
	missing := map[string]bool{}
	for id := range m.others {
		missing[id] = true
	}
	m.mu.Unlock()
	if len(missing) == 0 && a.Kind != "join" {
		return m.contact()
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	inbox := m.conn.NewInbox()
	answers := make(chan *nats.Msg, 256)
	sub, err := m.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("%w: %w", errUntold, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		if err := m.conn.PublishRequest(announceSubject, inbox, body); err != nil {
			return fmt.Errorf("%w: %w", errUntold, err)
		}
		again := time.NewTimer(answerWait)
		for waiting := true; waiting && len(missing) > 0; {
			m.mu.Lock()
			changed := m.changed
			m.forget(time.Now())
			for id := range missing {
				if m.others[id] == nil { // has died, or left
					delete(missing, id)
				}
			}
			m.mu.Unlock()
			if len(missing) == 0 {
				break
			}
			select {
			case answer := <-answers:
				delete(missing, string(answer.Data))
			case <-changed:
			case <-again.C:
				waiting = false // a message may be lost when a connection is: tell them again
			case <-ctx.Done():
				again.Stop()
				return fmt.Errorf("%w: %s do not answer: %w", errUntold, strings.Join(slices.Sorted(maps.Keys(missing)), ", "), context.Cause(ctx))
			}
		}
		again.Stop()
		if len(missing) == 0 {
			return m.contact()
		}
	}
}

// contact returns an error if the broker was not reached lately: then the others have not died, though nothing was heard
// of them.
func (m *members) contact() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.sent) < leaseTime-2*beatEvery {
		return nil
	}
	return fmt.Errorf("%w: the broker is away", errUntold)
}

// list returns the processes that are there, this one included, sorted by ID.
func (m *members) list() []member {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(time.Now())
	all := []member{m.me()}
	for _, o := range m.others {
		all = append(all, *o)
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.ID, b.ID) })
	return all
}
