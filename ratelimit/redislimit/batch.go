package redislimit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A batcher sends what several callers ask for at the same time in one round trip. One system call then
// serves all of them, here and at the server, where that takes longer than the script.
//
// Up to maxLeaders callers, the leaders, wait for the server, each with a batch. The others queue,
// until a leader is back: then the first in the queue leads, with all who are behind it. So one who
// is alone never waits for others, and nobody waits for a batch to fill. As leaders are callers,
// there is no goroutine to stop. A leader whose context has ended makes room at once: it may be at
// a connection that is dead, and the next may get one that is not. Whose context ends in the queue,
// is not sent.
//
// With a client of several servers, as in a Cluster, everybody goes alone: a batch would be back when
// the slowest of its servers is, and one that hangs would take the keys of all with it.
type batcher struct {
	client redis.UniversalClient
	single bool // whether it is one of a single server

	mu      sync.Mutex
	leaders int
	queue   []*entry // none while there is room for a leader
}

const (
	maxLeaders = 4
	maxBatch   = 128
)

// An entry is one caller's. Keys and args are all that a leader needs of it.
type entry struct {
	ctx   context.Context
	keys  []string
	args  []any
	cmd   *redis.Cmd    // the answer, once done
	batch []*entry      // if it is to lead: itself, and who was behind it; changed with mu held
	gone  bool          // whether it does not wait any more; with mu held
	wake  chan struct{} // of capacity 1: it is to lead, or it is done
}

var errPanic = errors.New("the client has panicked in another goroutine")

// do runs the script with the keys and args of e, and returns its answer.
func (b *batcher) do(e *entry) ([]int64, error) {
	if !b.single {
		b.run(e.ctx, []*entry{e})
		return e.cmd.Int64Slice()
	}
	b.mu.Lock()
	if b.leaders < maxLeaders {
		b.leaders++
		e.batch = []*entry{e}
		b.mu.Unlock()
	} else {
		e.wake = make(chan struct{}, 1)
		b.queue = append(b.queue, e)
		b.mu.Unlock()
		select {
		case <-e.wake:
		case <-e.ctx.Done():
			b.leave(e)
			return nil, e.ctx.Err()
		}
		if e.batch == nil {
			return e.cmd.Int64Slice()
		}
	}
	stop := context.AfterFunc(e.ctx, b.next)
	defer func() {
		if stop() {
			b.next()
		}
		for _, f := range e.batch[1:] {
			if f.cmd == nil {
				f.cmd = redis.NewCmdResult(nil, errPanic)
			}
			f.wake <- struct{}{}
		}
	}()
	ctx, cancel := together(e.batch)
	defer cancel()
	b.run(ctx, e.batch)
	return e.cmd.Int64Slice()
}

// next lets the first of the queue lead, in the place of a leader that is back.
func (b *batcher) next() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nextLocked()
}

func (b *batcher) nextLocked() {
	if len(b.queue) == 0 {
		b.leaders--
		return
	}
	n := min(len(b.queue), maxBatch)
	e := b.queue[0]
	e.batch = slices.Clone(b.queue[:n])
	b.queue = slices.Delete(b.queue, 0, n)
	e.wake <- struct{}{}
}

// leave is for one that does not wait any more. If it is in the batch of another, it stays there; if it
// was to lead, the others go back to the front of the queue.
func (b *batcher) leave(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.gone = true
	if i := slices.Index(b.queue, e); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	} else if e.batch != nil {
		// Those of the others who have left meanwhile must not lead: they would never be back.
		waiting := slices.DeleteFunc(e.batch[1:], func(f *entry) bool { return f.gone })
		b.queue = slices.Insert(b.queue, 0, waiting...)
		b.nextLocked()
	}
}

// together returns a context for a batch: that of one who is alone; else one that ends when the
// last deadline has passed, as the others should not fail because one has less time, or has gone.
func together(batch []*entry) (context.Context, context.CancelFunc) {
	ctx := batch[0].ctx
	if len(batch) == 1 {
		return ctx, func() {}
	}
	var last time.Time
	ctx = context.WithoutCancel(ctx)
	for _, e := range batch {
		d, ok := e.ctx.Deadline()
		if !ok {
			return ctx, func() {}
		}
		if d.After(last) {
			last = d
		}
	}
	return context.WithDeadline(ctx, last)
}

// run gets the answers to a batch: by the hash of the script, and where the server does not know it, by
// its text.
func (b *batcher) run(ctx context.Context, batch []*entry) {
	b.send(ctx, batch, script.EvalSha)
	unknown := 0
	for _, e := range batch {
		if redis.HasErrorPrefix(e.cmd.Err(), "NOSCRIPT") {
			unknown++
		}
	}
	if unknown == 0 {
		return
	}
	b.send(ctx, slices.DeleteFunc(slices.Clone(batch), func(e *entry) bool {
		return !redis.HasErrorPrefix(e.cmd.Err(), "NOSCRIPT")
	}), script.Eval)
}

func (b *batcher) send(ctx context.Context, batch []*entry, eval func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) {
	if len(batch) == 1 {
		e := batch[0]
		e.cmd = eval(ctx, b.client, e.keys, e.args...)
		return
	}
	pipe := b.client.Pipeline()
	cmds := make([]*redis.Cmd, len(batch))
	for i, e := range batch {
		cmds[i] = eval(ctx, pipe, e.keys, e.args...)
	}
	_, _ = pipe.Exec(ctx) // each has its error
	for i, e := range batch {
		e.cmd = cmds[i]
	}
}
