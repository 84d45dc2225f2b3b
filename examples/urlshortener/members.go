package main

import (
	"context"
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
// A process that has died does not answer. Each process sends a beat every beatEvery, which the broker gives to all,
// also to who has sent it. That a process hears its own beat means that the broker works, that it has heard all that
// came before, and that the others hear it: it is in contact, until trustTime after it has sent the last beat that it
// has heard. When contact is lost, it does not trust its filter any more, nor what it remembers; and it says so in its
// beats, as others may still hear them.
//
// Another process is waited for no longer if no beat of it was among all that the broker has sent in leaseTime. For that
// no clock is looked at but the times of two messages: the other's last beat was heard leaseTime before the own one was
// sent that was heard last. So who was stopped for an hour, or cut off, and has messages to read that came meanwhile,
// forgets nobody before he has read them. As leaseTime is longer than trustTime, the other has lost contact before, by
// his own clock. (Clocks must run equally fast, within leaseTime-trustTime. As some stand still when a machine sleeps,
// who asks whether he is still in contact asks two of them.)
//
// Contact begins with a time of listening, in which all who are there are heard. Then a process says that it is in, and
// when it has heard itself say so, of any two processes one knows the other: it asks all who are in to answer when the
// links that they are just making without knowing of it are made. These are in the database then, where the filter that
// is made next finds them; and what is remembered from before is forgotten.
//
// Messages may be lost when the connection to the broker is made anew, or there are more than the client can keep. Then
// what was not heard says nothing, and contact is lost as well.
//
// All this relies on the broker giving the messages of all to all in about the same order, as one nats-server does.
// Servers that form a cluster, and lose each other, would leave two groups of processes that know nothing of each other.
type members struct {
	self    member
	cluster cluster
	conn    *nats.Conn
	log     *slog.Logger
	hooks   memberHooks

	making   sync.RWMutex // held for reading while a link is made, and for writing when a process joins
	draining atomic.Bool  // no requests are to be sent to this process any more

	mu        sync.Mutex
	directory           // of the others
	number    uint64    // of the last beat
	beats     [64]sent  // the last ones, by their numbers
	echoed    uint64    // the number of the last beat that was heard
	horizon   time.Time // when that was sent: whatever the broker had before was heard
	gaps      uint64    // what gapsOf returned at that time
	since     time.Time // when the contact began; zero: there is none
	after     uint64    // only a beat after this one begins it
	contacts  uint64    // how often it was lost
	in        uint64    // the number of the first beat that says that it is in; 0: none does
	joining   bool      // join is running
	cancel    context.CancelFunc
	trusted   bool   // the filter, and what does not exist; and only while there is contact
	periods   uint64 // how often that has begun
	owed      map[string]bool
	paying    bool
	answering map[string]bool // inboxes of those who join, and have to wait for the answer

	stop context.CancelFunc
	jobs sync.WaitGroup
	subs []*nats.Subscription
}

// A member is a process, by what it says in its beats.
type member struct {
	ID  string `json:"id"`
	URL string `json:"url"` // where the others reach it; "" nowhere
	// Number is of the beat: of two the higher is newer.
	Number uint64 `json:"number,omitempty"`
	// In is whether it has to be told of links: it relies on that, or is about to.
	In bool `json:"in,omitempty"`
	// Draining is whether it is about to end: it is told of links as before, but no requests are to be sent to it.
	Draining bool `json:"draining,omitempty"`
	// Left is in the last beat, by which it says that it ends.
	Left bool `json:"left,omitempty"`

	heard time.Time
}

func (o member) same(p member) bool {
	return o.ID == p.ID && o.URL == p.URL && o.In == p.In && o.Draining == p.Draining
}

// sent is when a beat was sent.
type sent struct {
	number uint64
	at     time.Time // before it was
}

// memberHooks is what a process does for the others, and with itself. They are called by several goroutines at once,
// some with a lock held: they must not call members.
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
	trustTime = leaseTime - 2*beatEvery
	// answerWait is how long the others have before it is looked whether they are there at all.
	answerWait = 200 * time.Millisecond
	// joinAgain is how long it takes from an attempt to make the filter to the next.
	joinAgain = time.Second
	// maxOwed is how many codes are kept that the others have yet to be told of.
	maxOwed = 10_000
)

// An announcement is what a process tells the others, and they answer with their IDs.
type announcement struct {
	// Kind is "admit", a link will be made; "made", it is; "drop", it is changed; or "join".
	Kind string `json:"kind"`
	Code string `json:"code,omitempty"`
	From member `json:"from"` // the ID, and all of it if the process joins
}

func newMembers(conn *nats.Conn, c cluster, self member, hooks memberHooks, log *slog.Logger) (*members, error) {
	m := &members{
		self: self, cluster: c, conn: conn, log: log, hooks: hooks, directory: newDirectory(),
		contacts: 1, owed: map[string]bool{}, answering: map[string]bool{},
	}
	for kind, handle := range map[string]nats.MsgHandler{beatKind: m.onBeat, announceKind: m.onAnnounce} {
		sub, err := conn.Subscribe(c.subject(kind), handle)
		if err != nil {
			return nil, errors.Join(err, m.unsubscribe())
		}
		m.subs = append(m.subs, sub)
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	hooks.distrust()
	m.jobs.Go(func() { m.run(ctx) })
	return m, nil
}

func (m *members) unsubscribe() error {
	var err error
	for _, s := range m.subs {
		err = errors.Join(err, s.Unsubscribe())
	}
	return err
}

// close tells the others that the process leaves, so that nobody waits for it. Links that are being made are not
// acknowledged any more.
func (m *members) close() {
	m.stop()
	m.mu.Lock()
	m.loseLocked()
	m.mu.Unlock()
	m.jobs.Wait()
	_ = m.beat(true)
	_ = m.conn.FlushTimeout(time.Second)
	_ = m.unsubscribe()
}

// drain tells the others, and fronts, that no requests are to be sent to this process any more.
func (m *members) drain() {
	m.draining.Store(true)
	_ = m.beat(false) // or the next one says it
	_ = m.conn.FlushTimeout(time.Second)
}

// run sends beats, looks whether they are heard, and joins.
func (m *members) run(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		_ = m.beat(false)
		m.mu.Lock()
		if !m.since.IsZero() && !m.contactLocked() {
			m.loseLocked()
		}
		m.forget(m.horizon)
		if !m.joining && !m.trusted && !m.since.IsZero() && m.horizon.Sub(m.since) > leaseTime {
			m.joining = true
			var joining context.Context
			joining, m.cancel = context.WithCancel(ctx)
			contact := m.contacts
			m.jobs.Go(func() { m.join(joining, contact) })
		}
		if !m.paying && len(m.owed) > 0 && m.presentLocked() {
			m.paying = true
			m.jobs.Go(func() { m.pay(ctx) })
		}
		m.mu.Unlock()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// beat tells the others that the process is there, or that it leaves.
func (m *members) beat(left bool) error {
	m.mu.Lock()
	b := m.beatLocked()
	m.mu.Unlock()
	b.Left = left
	return m.conn.Publish(m.cluster.subject(beatKind), m.cluster.seal(beatKind, b))
}

// beatLocked returns what a new beat says.
func (m *members) beatLocked() member {
	m.number++
	m.beats[m.number%uint64(len(m.beats))] = sent{m.number, time.Now()}
	b := m.self
	b.Number, b.In, b.Draining = m.number, m.in > 0, m.draining.Load()
	return b
}

// elapsed returns the time since then. Of a clock that stands still while the machine sleeps, and one that can be set,
// the one counts by which it is longer.
func elapsed(then time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// contactLocked reports whether there is contact, which it does not see that is over.
func (m *members) contactLocked() bool { return !m.since.IsZero() && elapsed(m.horizon) < trustTime }

// presentLocked reports whether all others who are in are known, and know this process or will know it before they
// rely on knowing all.
func (m *members) presentLocked() bool { return m.in > 0 && m.echoed >= m.in && m.contactLocked() }

// loseLocked notes that there was a time without contact, or that it is over for good.
func (m *members) loseLocked() {
	if m.trusted {
		m.log.Warn("the other processes cannot be heard: what is not known is looked up in the database, and no links are made")
	}
	m.since, m.after, m.in, m.trusted = time.Time{}, m.number, 0, false
	m.contacts++
	if m.cancel != nil {
		m.cancel()
	}
	m.hooks.distrust()
	m.change()
}

// period returns the number of the time in which the filter, and what is remembered not to exist, can be relied on;
// 0 if they cannot be now. That something does not exist is known if period was the same before it was looked for and
// after: a process may have been stopped for an hour in between, or have begun to trust a filter that was made anew.
func (m *members) period() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trusted && m.contactLocked() {
		return m.periods
	}
	return 0
}

// joined reports whether the process has ever been one of them.
func (m *members) joined() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.periods > 0
}

// join joins the others, makes the filter anew, and trusts it then.
func (m *members) join(ctx context.Context, contact uint64) {
	err := m.tryJoin(ctx, contact)
	if err != nil && ctx.Err() == nil {
		m.log.Warn("the filter is not used for now", "error", err)
		select {
		case <-time.After(joinAgain):
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joining = false
	m.cancel()
}

func (m *members) tryJoin(ctx context.Context, contact uint64) error {
	m.mu.Lock()
	if m.contacts != contact {
		m.mu.Unlock()
		return context.Canceled
	}
	if m.in == 0 {
		m.in = m.number + 1
	}
	me := m.beatLocked()
	m.mu.Unlock()
	// This beat need not come to the broker: one will that says the same.
	_ = m.conn.Publish(m.cluster.subject(beatKind), m.cluster.seal(beatKind, me))
	if _, err := m.await(ctx, m.presentLocked); err != nil {
		return err
	}
	if err := m.tell(ctx, announcement{Kind: "join", From: me}); err != nil {
		return err
	}
	if err := m.hooks.rebuild(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.contacts == contact && m.contactLocked() {
		m.trusted = true
		m.periods++
		return nil
	}
	return context.Canceled // it begins anew
}

// await waits for a condition, which is looked at with the lock held, and returns the number of the contact in which it
// came true.
func (m *members) await(ctx context.Context, condition func() bool) (contact uint64, err error) {
	for {
		m.mu.Lock()
		ok, contact, changed := condition(), m.contacts, m.changed
		m.mu.Unlock()
		if ok {
			return contact, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// present returns the number of the contact, when all others who are in are known; or an error if there is none, or it
// takes too long.
func (m *members) present(ctx context.Context) (contact uint64, err error) {
	var here bool
	contact, err = m.await(ctx, func() bool {
		here = m.presentLocked()
		return here || !m.contactLocked()
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: it is not known yet who they are: %w", errUntold, err)
	case !here:
		return 0, fmt.Errorf("%w: the broker is away", errUntold)
	}
	return contact, nil
}

// still returns an error if there was a time without contact since present has returned its number: then there may be
// others who were not known.
func (m *members) still(contact uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.contacts == contact && m.presentLocked() {
		return nil
	}
	return fmt.Errorf("%w: the broker was away", errUntold)
}

// gapsOf returns a number that changes when messages of a subscription may have been lost: before any is heard that came
// after those.
func (m *members) gapsOf(sub *nats.Subscription) uint64 {
	dropped, _ := sub.Dropped()
	return m.conn.Stats().Reconnects + uint64(dropped)
}

func (m *members) onBeat(msg *nats.Msg) {
	var b member
	if !m.cluster.open(beatKind, msg.Data, &b) || b.ID == "" {
		return
	}
	gaps := m.gapsOf(msg.Sub)
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.ID != m.self.ID {
		m.hear(b, time.Now())
		return
	}
	s := m.beats[b.Number%uint64(len(m.beats))]
	if s.number != b.Number || b.Number <= m.echoed { // too old to say anything
		return
	}
	switch {
	case gaps != m.gaps, !m.since.IsZero() && !m.contactLocked(): // before it looks well again
		m.loseLocked()
	case m.since.IsZero() && b.Number > m.after:
		m.since = time.Now()
	}
	m.gaps, m.echoed, m.horizon = gaps, b.Number, s.at
	m.forget(m.horizon)
	m.change()
}

func (m *members) onAnnounce(msg *nats.Msg) {
	var a announcement
	if !m.cluster.open(announceKind, msg.Data, &a) || a.From.ID == "" || a.From.ID == m.self.ID {
		return
	}
	switch a.Kind {
	case "admit":
		m.hooks.admit(a.Code)
	case "made":
		m.hooks.admit(a.Code)
		m.hooks.drop(a.Code)
	case "drop":
		m.hooks.drop(a.Code)
	case "join":
		m.onJoin(msg, a.From)
		return
	default:
		return
	}
	m.answer(msg)
}

func (m *members) answer(msg *nats.Msg) {
	_ = msg.Respond(m.cluster.seal(answerKind+msg.Reply, m.self.ID))
}

// onJoin answers when all links are made, or are not, that were under way. Others wait for their turn in the queue of
// its goroutine: so it is done in another, of which there is one for each who waits, however often he asks.
func (m *members) onJoin(msg *nats.Msg, from member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear(from, time.Now())
	if m.answering[msg.Reply] {
		return
	}
	m.answering[msg.Reply] = true
	go func() {
		m.making.Lock() // what was under way before is made, and what begins then knows of him
		m.answer(msg)
		m.making.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.answering, msg.Reply)
	}()
}

// make calls insert, which makes a link, with all others told before and after. It returns an error, and has not made
// the link, if not all who are in could be told of the code; if it returns one of telling them that the link is there,
// it is made, and some may not find it until they are told later.
func (m *members) make(ctx context.Context, code string, insert func() error) error {
	contact, err := m.present(ctx)
	if err == nil {
		err = m.insert(ctx, contact, code, insert)
	}
	if err != nil {
		return err
	}
	return m.sayOrOwe(ctx, contact, "made", code)
}

func (m *members) insert(ctx context.Context, contact uint64, code string, insert func() error) error {
	m.making.RLock()
	defer m.making.RUnlock()
	if err := m.say(ctx, contact, "admit", code); err != nil {
		return err
	}
	return insert()
}

// report tells the others that a link was made, or is changed.
func (m *members) report(ctx context.Context, kind, code string) error {
	contact, err := m.present(ctx)
	if err != nil {
		m.owe(code)
		return err
	}
	return m.sayOrOwe(ctx, contact, kind, code)
}

func (m *members) sayOrOwe(ctx context.Context, contact uint64, kind, code string) error {
	err := m.say(ctx, contact, kind, code)
	if err != nil {
		m.owe(code)
	}
	return err
}

// say announces something, and returns when all who were in from when contact was the number of the contact have
// answered.
func (m *members) say(ctx context.Context, contact uint64, kind, code string) error {
	a := announcement{Kind: kind, Code: code, From: member{ID: m.self.ID}}
	err := m.tell(ctx, a)
	if err == nil && kind == "drop" {
		// One may have asked another for the link after it had forgotten it, and the other before.
		err = m.tell(ctx, a)
	}
	if err == nil {
		err = m.still(contact)
	}
	return err
}

// owe notes that the others have to be told of a code later, if there are not too many.
func (m *members) owe(code string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.owed) < maxOwed {
		m.owed[code] = true
	}
}

// pay tells the others what they could not be told when it happened.
func (m *members) pay(ctx context.Context) {
	m.mu.Lock()
	codes := slices.Collect(maps.Keys(m.owed))
	m.mu.Unlock()
	for _, code := range codes {
		ctx, cancel := context.WithTimeout(ctx, 2*leaseTime)
		contact, err := m.present(ctx)
		for _, kind := range []string{"made", "drop"} { // whichever it was
			if err == nil {
				err = m.say(ctx, contact, kind, code)
			}
		}
		cancel()
		if err != nil {
			break
		}
		m.mu.Lock()
		delete(m.owed, code)
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paying = false
}

// tell announces something to the others, and returns when all who are in have answered.
func (m *members) tell(ctx context.Context, a announcement) error {
	missing := map[string]bool{}
	m.mu.Lock()
	for id, o := range m.others {
		if o.In {
			missing[id] = true
		}
	}
	m.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	inbox := m.conn.NewInbox()
	answers := make(chan *nats.Msg, 256)
	sub, err := m.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("%w: %w", errUntold, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	body := m.cluster.seal(announceKind, a)
	for {
		if err := m.conn.PublishRequest(m.cluster.subject(announceKind), inbox, body); err != nil {
			return fmt.Errorf("%w: %w", errUntold, err)
		}
		again := time.NewTimer(answerWait)
		for waiting := true; waiting && len(missing) > 0; {
			m.mu.Lock()
			changed := m.changed
			for id := range missing {
				if o := m.others[id]; o == nil || !o.In { // has died, or left, or does not rely on it any more
					delete(missing, id)
				}
			}
			m.mu.Unlock()
			if len(missing) == 0 {
				break
			}
			select {
			case answer := <-answers:
				var id string
				if m.cluster.open(answerKind+inbox, answer.Data, &id) {
					delete(missing, id)
				}
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
			return nil
		}
	}
}

// list returns the processes that are in, sorted by ID, and this one in any case. It is a hint: who has died is in it
// until his time is over.
func (m *members) list() []member {
	m.mu.Lock()
	defer m.mu.Unlock()
	self := m.self
	self.In, self.Draining = true, m.draining.Load()
	all := []member{self}
	for _, o := range m.others {
		if o.In && time.Since(o.heard) <= leaseTime {
			all = append(all, *o)
		}
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// A directory is the processes that were heard of lately: what members, and a front, know of them. It is not safe for
// concurrent use.
type directory struct {
	others  map[string]*member
	left    map[string]time.Time // who has said so, and when: what he has said before may come later
	changed chan struct{}        // closed, and replaced, when something has changed
}

func newDirectory() directory {
	return directory{others: map[string]*member{}, left: map[string]time.Time{}, changed: make(chan struct{})}
}

// hear notes what a process says of itself. What it has said before may come later.
func (d *directory) hear(o member, now time.Time) {
	old := d.others[o.ID]
	if _, left := d.left[o.ID]; o.ID == "" || left || old != nil && o.Number < old.Number {
		return
	}
	if o.Left {
		d.leave(o.ID, now)
		return
	}
	if old != nil && old.Draining { // that is for good
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

// forget forgets of whom nothing was heard in leaseTime before a time.
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
