package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	embedded *natsserver.Server // nil: it is elsewhere
	conn     *nats.Conn
	stream   jetstream.JetStream
	consumer atomic.Pointer[jetstream.Consumer]
	unsure   atomic.Bool // whether the broker still has what it needs: it may have come back without its files
}

const (
	clickStream     = "CLICKS"
	clickSubject    = "clicks"
	counterConsumer = "counter"
	// keepGroups is for how long a group may be on its way. Whoever forgets that it was counted waits longer.
	keepGroups = 7 * 24 * time.Hour
	// ackWait is how long somebody has to count groups, before the broker gives them to another.
	ackWait = 10 * time.Second
)

// openQueue connects to the broker at url, or starts one in this process, with its files in dir.
func openQueue(ctx context.Context, dir, url string) (*queue, error) {
	q := &queue{}
	options := []nats.Option{
		nats.Name("urlshortener"), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { q.unsure.Store(true) }),
	}
	if url == "" {
		s, err := natsserver.NewServer(&natsserver.Options{
			ServerName: "urlshortener", DontListen: true, JetStream: true, StoreDir: filepath.Join(dir, "nats"), NoSigs: true,
		})
		if err != nil {
			return nil, fmt.Errorf("the embedded broker cannot be started: %w", err)
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			s.Shutdown()
			return nil, errors.New("the embedded broker does not start")
		}
		q.embedded = s
		options = append(options, nats.InProcessServer(s))
	}
	var err error
	if q.conn, err = nats.Connect(url, options...); err != nil {
		q.close()
		return nil, fmt.Errorf("the broker of -nats does not answer: %w", err)
	}
	q.stream, err = jetstream.New(q.conn)
	if err == nil && q.embedded != nil {
		// Nobody else takes groups from it: what a process that was killed had taken can come at once.
		if err = q.stream.DeleteConsumer(ctx, clickStream, counterConsumer); errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
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

// prepare makes what the broker needs, or finds it there.
func (q *queue) prepare(ctx context.Context) (err error) {
	if _, err = q.stream.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: clickStream, Subjects: []string{clickSubject}, Storage: jetstream.FileStorage,
		Retention: jetstream.WorkQueuePolicy, MaxAge: keepGroups, Duplicates: 2 * time.Minute,
	}); err != nil {
		return err
	}
	consumer, err := q.stream.CreateOrUpdateConsumer(ctx, clickStream, jetstream.ConsumerConfig{
		Durable: counterConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 5 * fetchGroups,
	})
	if err == nil {
		q.consumer.Store(&consumer)
	}
	return err
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
	_, err = q.stream.Publish(ctx, clickSubject, body, jetstream.WithMsgID(g.ID), jetstream.WithRetryAttempts(0))
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		q.unsure.Store(true)
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
	if q.embedded != nil {
		q.embedded.Shutdown()
		q.embedded.WaitForShutdown()
	}
}

// A counter takes groups from the queue, many at a time, counts them, and then tells the broker that they are done. If
// anything goes wrong in between, they come again.
type counter struct {
	queue *queue
	count func(context.Context, []clickGroup) error
	log   *slog.Logger
	done  sync.WaitGroup
	stop  context.CancelFunc
}

const (
	fetchGroups = 1000
	fetchWait   = 500 * time.Millisecond // what is counted together takes fewer writes
	retryWait   = 500 * time.Millisecond
)

func newCounter(q *queue, count func(context.Context, []clickGroup) error, log *slog.Logger) *counter {
	ctx, stop := context.WithCancel(context.Background())
	c := &counter{queue: q, count: count, log: log, stop: stop}
	c.done.Go(func() {
		for failing := false; ctx.Err() == nil; {
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
	batch, err := (*c.queue.consumer.Load()).Fetch(fetchGroups, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return err
	}
	var groups []clickGroup
	var messages []jetstream.Msg
	for m := range batch.Messages() {
		var g clickGroup
		if err := json.Unmarshal(m.Data(), &g); err != nil || g.ID == "" {
			c.log.Error("a message that is no group of clicks is thrown away", "error", err, "bytes", len(m.Data()))
			_ = m.Term()
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
	if err := c.count(ctx, groups); err != nil {
		for _, m := range messages {
			_ = m.NakWithDelay(retryWait)
		}
		return err
	}
	for _, m := range messages {
		if err := m.Ack(); err != nil { // it comes again, and is passed over
			return err
		}
	}
	return nil
}

// close returns when no group is being counted any more.
func (c *counter) close() {
	c.stop()
	c.done.Wait()
}
