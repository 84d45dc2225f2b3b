package shard

import (
	"context"
	"iter"
	"slices"
)

// Stream calls f for each of the shards, several at the same time, and yields each reply as soon as
// it is there. It asks as Gather does, and refuses what Gather refuses, as the only pair.
//
// Each shard is yielded once: with a nil error, or with an *Error if it has failed or was not
// asked, and then only the Shard of the reply is set. If any has failed, one more pair follows,
// which is the last: a Reply that is empty, and a *PartialError with all that have failed, which
// says whether enough have answered. So a loop that ends at any error never takes a part for the whole,
// and one that goes on at an *Error is told in the end:
//
//	for reply, err := range shard.Stream(ctx, shards, policy, ask) {
//		switch err := err.(type) {
//		case nil:
//			use(reply)
//		case *shard.Error:
//			continue // the PartialError has it, too
//		default: // a *shard.PartialError, or what Gather returns before it asks any
//			return err
//		}
//	}
//
// When too many have failed for MinSuccess to be reached, FailFast ends the calls that still run;
// they are yielded all the same, and so are those that are not asked any more.
//
// A reply that the loop has not taken occupies its place among the Policy.Concurrency that are
// asked at the same time: a slow loop delays the next call, and no more than Concurrency replies
// are held for it.
//
// The calls end before the loop does, however that ends: break, return, panic and runtime.Goexit
// cancel their context, and wait for them. f is given a context that ends at the latest when the
// loop does. If f panics, or calls runtime.Goexit, the others are cancelled, and waited for; then
// the range statement panics with a *PanicError, or calls runtime.Goexit.
//
// Each range over what Stream returns asks all shards anew. It is safe for concurrent use by multiple
// goroutines, if f is.
//
// Complexity: O(len(shards)).
func Stream[R any](ctx context.Context, shards []ID, p Policy, f func(context.Context, ID) (R, error)) iter.Seq2[Reply[R], error] {
	shards = slices.Clone(shards)
	return func(yield func(Reply[R], error) bool) {
		r, err := newRound(ctx, shards, p, f)
		if err != nil {
			yield(Reply[R]{}, err)
			return
		}
		if !r.stream(yield) {
			return
		}
		if err := r.partial(); err != nil {
			yield(Reply[R]{}, err)
		}
	}
}

// stream asks all shards, and yields what they answer. It reports whether the loop has taken all.
func (r *round[R]) stream(yield func(Reply[R], error) bool) bool {
	// Without room: what is not taken stays with its worker.
	r.answers = make(chan answer[R])
	r.left = make(chan struct{})
	r.crashed = make(chan struct{})
	defer r.end()
	defer r.cancel(errOver)
	defer close(r.left)
	r.start(r.workers)
	for range r.shards {
		var a answer[R]
		select {
		case a = <-r.answers:
		case <-r.crashed:
		}
		select {
		case <-r.crashed: // a, if there is one, may be an error that comes of that
			r.cancel(errCrashed) // the call that has crashed may not have come to it yet
			return false         // and end does not return
		default:
		}
		r.yielding = true
		more := yield(a.reply, a.err)
		r.yielding = false
		if !more {
			return false
		}
	}
	return true
}
