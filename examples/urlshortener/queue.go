package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A queue is the broker: NATS with JetStream, in this process with files, or elsewhere.
type queue struct {
	config   queueConfig
	conn     *nats.Conn
	stream   jetstream.JetStream
	groups   atomic.Pointer[jetstream.Stream]
	consumer atomic.Pointer[jetstream.Consumer]
	unsure   atomic.Bool // whether the broker still has what it needs: it may have come back without its files

	embedded atomic.Pointer[natsserver.Server] // nil: it is elsewhere
	failed   atomic.Bool                       // it has not taken a group
}

// A queueConfig says where the broker is.
type queueConfig struct {
	name     string // of what others on the same broker do not share; see cluster
	dir      string
	url      string // "": in this process, with its files in dir
	sync     bool   // what it takes outlasts a power failure, if it is in this process
	replicas int    // on how many servers what it takes is, if it is elsewhere
}

const (
	counterConsumer = "counter"
	// ackWait is how long somebody has to count groups, before the broker gives them to another.
	ackWait = 10 * time.Second
	// syncEvery is how much a power failure can take if sync is off.
	syncEvery = time.Second
	// maxMessage is what the broker must take at once.
	maxMessage = 1 << 20
)

func (c queueConfig) clickStream() string  { return "CLICKS-" + c.name }
func (c queueConfig) clickSubject() string { return "clicks." + c.name }

// openQueue connects to the broker, or starts it in this process.
func openQueue(ctx context.Context, c queueConfig) (*queue, error) {
	q := &queue{config: c}
	options := []nats.Option{
		nats.Name("urlshortener"), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.FlusherTimeout(publishTimeout), // a network that takes nothing would keep who publishes for a minute
		nats.ReconnectHandler(func(*nats.Conn) { q.unsure.Store(true) }),
	}
	if c.url == "" {
		if err := q.start(); err != nil {
			return nil, err
		}
		options = append(options, nats.InProcessServer(q))
	}
	var err error
	if q.conn, err = nats.Connect(c.url, options...); err != nil {
		q.close()
		return nil, fmt.Errorf("the broker of -nats does not answer: %w", err)
	}
	if n := q.conn.MaxPayload(); n < maxMessage {
		q.close()
		return nil, fmt.Errorf("the broker of -nats takes messages of %d bytes at most, and must take %d: set its max_payload", n, maxMessage)
	}
	q.stream, err = jetstream.New(q.conn)
	if err == nil && c.url == "" {
		// Nobody else takes groups from it: what a process that was killed had taken can come at once.
		if err = q.stream.DeleteConsumer(ctx, c.clickStream(), counterConsumer); errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			err = nil
		}
	}
	if err == nil {
		err = q.prepare(ctx)
	}
	if err != nil {
		q.close()
		return nil, fmt.Errorf("the broker cannot keep clicks: %w", err)
	}
	return q, nil
}

// options returns what the broker in this process is to do.
func (c queueConfig) options() *natsserver.Options {
	return &natsserver.Options{
		ServerName: "urlshortener", DontListen: true, JetStream: true, StoreDir: filepath.Join(c.dir, "nats"), NoSigs: true,
		SyncAlways: c.sync, SyncInterval: syncEvery,
	}
}

// start starts the broker in this process.
func (q *queue) start() error {
	s, err := natsserver.NewServer(q.config.options())
	if err != nil {
		return fmt.Errorf("the embedded broker cannot be started: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return errors.New("the embedded broker does not start")
	}
	q.embedded.Store(s)
	return nil
}

// InProcessConn connects to the broker in this process, which may be another than that before.
func (q *queue) InProcessConn() (net.Conn, error) { return q.embedded.Load().InProcessConn() }

// revive restarts a broker in this process that takes nothing any more: when it could not write to its files once, as
// the disk was full, it does not try again. Before, there must be room.
func (q *queue) revive(log *slog.Logger) {
	if q.config.url != "" || !q.failed.Swap(false) {
		return
	}
	old := q.embedded.Load()
	health := old.Healthz(nil)
	if health.Error == "" {
		return
	}
	if err := tryDisk(q.config.dir); err != nil {
		log.Warn("the broker takes no clicks, and neither does the disk", "broker", health.Error, "error", err)
		return
	}
	log.Warn("the broker takes no clicks, and is restarted", "broker", health.Error)
	old.Shutdown()
	old.WaitForShutdown()
	if err := q.start(); err != nil {
		log.Error("the broker cannot be restarted", "error", err)
		q.failed.Store(true)
	}
	q.unsure.Store(true)
}

// tryDisk returns an error if a megabyte cannot be written to a directory.
func tryDisk(dir string) error {
	f, err := os.CreateTemp(dir, "room")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 1<<20))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// prepare makes what the broker needs, or finds it there. A group stays in the stream until it is counted, however long
// that takes; if there is no room for more, the broker takes none, and throws away nothing.
func (q *queue) prepare(ctx context.Context) error {
	// Taking away each group by itself is a write for each of them, which waits for the disk, as do groups that come
	// meanwhile. If nobody else counts what is there, this process takes away together what is counted.
	retention := jetstream.WorkQueuePolicy
	if q.config.url == "" {
		retention = jetstream.LimitsPolicy
	}
	groups, err := q.stream.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: q.config.clickStream(), Subjects: []string{q.config.clickSubject()}, Storage: jetstream.FileStorage, Replicas: max(q.config.replicas, 1),
		Retention: retention, Discard: jetstream.DiscardNew, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return err
	}
	consumer, err := groups.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: counterConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 5 * fetchGroups,
	})
	if err != nil {
		return err
	}
	q.groups.Store(&groups)
	q.consumer.Store(&consumer)
	return nil
}

// publish returns nil when the broker has the group in its file.
func (q *queue) publish(ctx context.Context, g clickGroup) error {
	body, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if !q.conn.IsConnected() {
		return nats.ErrConnectionClosed // at once, and not when the time is over
	}
	_, err = q.stream.Publish(ctx, q.config.clickSubject(), body, jetstream.WithMsgID(g.id()), jetstream.WithRetryAttempts(0))
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		q.unsure.Store(true)
	}
	if err != nil {
		q.failed.Store(true)
	}
	return err
}

// depth returns how many groups are on their way.
func (q *queue) depth(ctx context.Context) (uint64, error) {
	info, err := (*q.consumer.Load()).Info(ctx)
	if err != nil {
		return 0, err
	}
	return info.NumPending + uint64(info.NumAckPending), nil
}

func (q *queue) close() {
	if q.conn != nil {
		_ = q.conn.FlushTimeout(time.Second) // what was done is told, or it comes again
		q.conn.Close()
	}
	if s := q.embedded.Load(); s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// A counter takes groups from the queue, many at a time, counts them, and then tells the broker that they are done. If
// anything goes wrong in between, they come again. A group that the database refuses, and no other, keeps none of those
// from being counted; when it was refused often enough, it goes into a file.
type counter struct {
	queue *queue
	count func(context.Context, []clickGroup) ([]refusal, error)
	dir   string // of the file
	log   *slog.Logger
	jobs  sync.WaitGroup
	stop  context.CancelFunc

	discarded uint64 // up to which group, by the broker's number, the stream of a broker in this process was cleared

	refusals map[string]int // how often groups were refused, by ID
	refused  atomic.Int64   // clicks in the file, of this process
}

const (
	fetchGroups = 1000
	// fetchBytes is how long groups may be that are counted together: so they take neither too much memory nor too much
	// time, however long they are. A single one must be shorter.
	fetchBytes = 2 * maxMessage
	fetchWait  = 500 * time.Millisecond // what is counted together takes fewer writes
	retryWait  = 500 * time.Millisecond
	// maxRefusals is how often a group is refused before it goes into the file; each time it waits twice as long.
	maxRefusals = 4
	refusedFile = "clicks.refused"
)

func newCounter(q *queue, count func(context.Context, []clickGroup) ([]refusal, error), dir string, log *slog.Logger) *counter {
	ctx, stop := context.WithCancel(context.Background())
	c := &counter{queue: q, count: count, dir: dir, log: log, stop: stop, refusals: map[string]int{}}
	c.jobs.Go(func() {
		for failing := false; ctx.Err() == nil; {
			q.revive(log)
			if q.conn.IsConnected() && q.unsure.Swap(false) {
				c.mend(ctx)
			}
			err := c.some(ctx)
			if ctx.Err() != nil {
				break
			}
			if (err != nil) != failing { // not each time
				failing = err != nil
				if failing {
					log.Warn("clicks are not counted for now", "error", err)
				} else {
					log.Info("clicks are counted again")
				}
			}
			if err != nil {
				select {
				case <-time.After(retryWait):
				case <-ctx.Done():
				}
				q.unsure.Store(true)
			}
		}
	})
	return c
}

// mend makes anew what a broker does not have that came back without its files. What was in them is lost.
func (c *counter) mend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := c.queue.prepare(ctx); err != nil {
		c.queue.unsure.Store(true)
		c.log.Warn("the broker cannot keep clicks", "error", err)
	}
}

// some counts what is there, or waits a while for something.
func (c *counter) some(ctx context.Context) error {
	if err := c.discard(ctx); err != nil {
		return err
	}
	batch, err := (*c.queue.consumer.Load()).Fetch(fetchGroups, jetstream.FetchMaxBytes(fetchBytes), jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return err
	}
	var groups []clickGroup
	var messages []jetstream.Msg
	for m := range batch.Messages() {
		var g clickGroup
		if err := json.Unmarshal(m.Data(), &g); err != nil || g.Run == "" || g.Number == 0 {
			c.log.Error("a message that is no group of clicks is thrown away", "error", err, "bytes", len(m.Data()))
			_ = m.Ack()
			continue
		}
		groups, messages = append(groups, g), append(messages, m)
	}
	if err := batch.Error(); err != nil && len(groups) == 0 {
		return err
	}
	if len(groups) == 0 {
		return nil
	}
	refused, err := c.count(ctx, groups)
	if err != nil {
		for _, m := range messages {
			_ = m.NakWithDelay(retryWait)
		}
		return err
	}
	why := map[string]error{}
	for _, r := range refused {
		why[r.group.id()] = r.err
	}
	for i, m := range messages {
		if err := why[groups[i].id()]; err != nil {
			c.refuse(m, groups[i], err)
			continue
		}
		delete(c.refusals, groups[i].id())
		if err := m.Ack(); err != nil { // it comes again, and is passed over
			return err
		}
	}
	return nil
}

// discard takes from the stream of a broker in this process what is done with, together with all before it. Only the
// broker knows that for sure: its numbers begin anew with a new stream.
func (c *counter) discard(ctx context.Context) error {
	if c.queue.config.url != "" {
		return nil
	}
	info, err := (*c.queue.consumer.Load()).Info(ctx)
	if err != nil || info.AckFloor.Stream == c.discarded {
		return err
	}
	if err := (*c.queue.groups.Load()).Purge(ctx, jetstream.WithPurgeSequence(info.AckFloor.Stream+1)); err != nil {
		return err
	}
	c.discarded = info.AckFloor.Stream
	return nil
}

// refuse has a group that the database refuses come again later, or puts it into the file.
func (c *counter) refuse(m jetstream.Msg, g clickGroup, why error) {
	n := c.refusals[g.id()] + 1
	if n < maxRefusals {
		c.refusals[g.id()] = n
		_ = m.NakWithDelay(retryWait << (n - 1))
		return
	}
	if err := c.setAside(g, why); err != nil {
		c.log.Error("clicks that the database refuses stay in the queue", "error", err)
		_ = m.NakWithDelay(time.Minute)
		return
	}
	c.log.Error("clicks that the database refuses are kept aside, and not counted", "group", g.id(), "clicks", len(g.Clicks), "file", c.file(), "error", why)
	c.refused.Add(int64(len(g.Clicks)))
	delete(c.refusals, g.id())
	_ = m.Ack()
}

func (c *counter) file() string { return filepath.Join(c.dir, refusedFile) }

// setAside writes a group to the file, as a line of JSON.
func (c *counter) setAside(g clickGroup, why error) error {
	line, err := json.Marshal(struct {
		Error string     `json:"error"`
		Group clickGroup `json:"group"`
	}{why.Error(), g})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.file(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(line, '\n')); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(c.dir)
	}
	return err
}

// close returns when no group is being counted any more.
func (c *counter) close() {
	c.stop()
	c.jobs.Wait()
}
