package redistier

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	retryFirst = 20 * time.Millisecond // from the loss of the line to the first attempt, then twice as long
	retryLast  = time.Second           // but no longer
)

// Subscribe makes the Tier call invalidate with each key that another Tier has changed, and clear
// when it may have missed some: when the line is lost, and when it is back. A goroutine
// waits for messages until the function that Subscribe returns has been called, which waits for
// it. Subscribe does not wait until the line is there.
func (t *Tier[K, V]) Subscribe(invalidate func(K), clear func()) (unsubscribe func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		wait := retryFirst
		for ctx.Err() == nil {
			if t.listen(ctx, invalidate, clear) {
				wait = retryFirst
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			wait = min(2*wait, retryLast)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// listen listens until the line is lost, and reports whether it was there.
func (t *Tier[K, V]) listen(ctx context.Context, invalidate func(K), clear func()) (was bool) {
	line := t.config.Client.Subscribe(ctx, t.channel)
	// To close the line is the only way to end a Receive that is under way.
	stop := context.AfterFunc(ctx, func() { _ = line.Close() })
	defer func() {
		if stop() {
			_ = line.Close()
		}
		if was {
			clear()
		}
	}()
	probed := false
	for {
		message, err := line.ReceiveTimeout(ctx, t.config.Ping)
		var timeout net.Error
		switch {
		case err == nil:
			probed = false
		case errors.As(err, &timeout) && timeout.Timeout() && !probed && was && ctx.Err() == nil:
			if line.Ping(ctx) != nil {
				return was
			}
			probed = true
			continue
		default:
			return was // an answer to the probe did not come either
		}
		switch message := message.(type) {
		case *redis.Subscription:
			// The line is there, or there again: then go-redis has connected anew.
			was = true
			clear()
		case *redis.Message:
			switch k, mine, all := t.changed(message.Payload); {
			case mine:
			case all:
				clear()
			default:
				invalidate(k)
			}
		}
	}
}
