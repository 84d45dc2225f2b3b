// Package flight makes sure that what many ask for at once is loaded once.
//
// It is the idea of golang.org/x/sync/singleflight, with what that lacks where the callers are
// requests with deadlines:
//
//   - A load runs in a goroutine of its own, with the values of the first caller's context,
//     but not its end. Each caller waits as long as his own context lets him; the load's context
//     ends when the last one has gone, and who comes then starts another load.
//   - A load that was overtaken, because what it loads has been changed meanwhile, can be
//     told so: its callers get what they came for, but it must not be kept.
//   - One load can be for several keys, each of which can be asked for alone.
//
// A panic of the load, or a call of runtime.Goexit, reaches all callers, as in singleflight.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A Group is the loads that are under way, one at most for each key. It is guarded by a lock
// of its owner, which Join, Start, Overtake and End need, and which lets the owner decide in one
// step that a key is not there and is to be loaded. The zero value has none.
type Group[K comparable, V any] struct {
	calls   map[K]*Call[K, V]
	started uint64
}

// A Call is the load of one key.
type Call[K comparable, V any] struct {
	// Key is what the call is for.
	Key K
	// Number is how many calls of the group started before this one.
	Number uint64

	run       *Run
	overtaken bool // guarded by the lock of the group

	done  chan struct{}
	value V
	err   error
}

// A Run is one run of a load, for the calls that were started with it.
type Run struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	free   context.CancelFunc // of the timeout
	users  atomic.Int64       // callers that wait, and one if the load is wanted by itself
}

// errNobodyWaits is why the context of a load ends when all callers have gone.
var errNobodyWaits = errors.New("nobody waits for the load any more")

// NewRun prepares a run whose context has the values of ctx and ends after timeout, if that is
// positive. A run that is wanted goes on when nobody waits for it; else it has one user, the
// caller, for each of whose calls Wait or Release is to be called.
func NewRun(ctx context.Context, timeout time.Duration, wanted bool) *Run {
	r := &Run{free: func() {}}
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if timeout > 0 {
		r.ctx, r.free = context.WithTimeoutCause(r.ctx, timeout, fmt.Errorf("the load takes longer than %v: %w", timeout, context.DeadlineExceeded))
	}
	if wanted {
		r.users.Store(1)
	}
	return r
}

// Cancel ends the context of the run, for the given reason, which is what callers who wait get.
func (r *Run) Cancel(cause error) { r.cancel(cause) }

// Go calls load in a goroutine of its own, and then end with what load returned: with a
// *PanicError if it panicked, and with ErrGoexit if it called runtime.Goexit. Then the context
// of the run ends.
func (r *Run) Go(load func(context.Context) error, end func(error)) {
	go func() {
		err := ErrGoexit
		defer func() { r.free(); r.cancel(context.Canceled) }()
		defer func() { end(err) }()
		err = r.guard(load)
	}()
}

// guard calls load, and returns a panic as an error.
func (r *Run) guard(load func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return load(r.ctx)
}

// ErrGoexit stands for a load that called runtime.Goexit. No caller of Wait sees it.
var ErrGoexit = errors.New("the load called runtime.Goexit")

// A PanicError is what Wait panics with when the load has panicked. (Others whose calls run in goroutines
// of their own use it as well.)
type PanicError struct {
	Value any    // what the load panicked with
	Stack []byte // of the load's goroutine
}

// Error returns the value and the stack.
func (p *PanicError) Error() string {
	return fmt.Sprintf("panic: %v\n\n%s", p.Value, p.Stack)
}

// Unwrap returns the value, if it is an error.
func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// enter adds a caller, unless the context of the run has ended.
func (r *Run) enter() bool {
	for {
		n := r.users.Load()
		if n == 0 || r.ctx.Err() != nil {
			return false
		}
		if r.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave takes a caller away. If he is the last, nobody can enter any more.
func (r *Run) leave() {
	if r.users.Add(-1) == 0 {
		r.cancel(errNobodyWaits)
	}
}

// Join returns the call for k that is under way, or nil. The caller must Wait for it.
func (g *Group[K, V]) Join(k K) *Call[K, V] {
	if c := g.calls[k]; c != nil && c.run.enter() {
		return c
	}
	return nil
}

// UnderWay reports whether a call for k is under way that Join would join.
func (g *Group[K, V]) UnderWay(k K) bool {
	c := g.calls[k]
	return c != nil && c.run.users.Load() > 0 && c.run.ctx.Err() == nil
}

// Started returns the number of calls that were started so far.
func (g *Group[K, V]) Started() uint64 { return g.started }

// Start starts a call for k, which run is to load. A call that is under way is overtaken.
// If the run is not wanted by itself, the caller must Wait for the call, or Release it.
func (g *Group[K, V]) Start(k K, run *Run, waits bool) *Call[K, V] {
	if g.calls == nil {
		g.calls = map[K]*Call[K, V]{}
	}
	g.Overtake(k)
	if waits {
		run.users.Add(1)
	}
	c := &Call[K, V]{Key: k, Number: g.started, run: run, done: make(chan struct{})}
	g.started++
	g.calls[k] = c
	return c
}

// Overtake says that what is being loaded for k is not to be kept, and not to be joined.
func (g *Group[K, V]) Overtake(k K) {
	if len(g.calls) == 0 {
		return
	}
	if c := g.calls[k]; c != nil {
		c.overtaken = true
		delete(g.calls, k)
	}
}

// OvertakeAll does so for all keys.
func (g *Group[K, V]) OvertakeAll() {
	for _, c := range g.calls {
		c.overtaken = true
	}
	clear(g.calls)
}

// Valid reports whether what the call loads may still be kept: it was not overtaken.
func (g *Group[K, V]) Valid(c *Call[K, V]) bool { return !c.overtaken }

// End takes c out of the group, so that the next caller starts another, and reports whether
// it was there: it was neither ended nor overtaken. The load ends it in one step with
// keeping what it has loaded.
func (g *Group[K, V]) End(c *Call[K, V]) bool {
	if g.calls[c.Key] != c {
		return false
	}
	delete(g.calls, c.Key)
	return true
}

// Finish gives all callers that wait what was loaded. It needs no lock.
func (c *Call[K, V]) Finish(v V, err error) {
	c.value, c.err = v, err
	close(c.done)
}

// Release is for a caller who does not wait.
func (c *Call[K, V]) Release() { c.run.leave() }

// Wait waits for the load, and returns what it has loaded; it panics if the load has panicked,
// and calls runtime.Goexit if the load has. It returns the error of ctx if that ends first, and
// the reason if the context of the load does.
func (c *Call[K, V]) Wait(ctx context.Context) (V, error) {
	select {
	case <-c.done: // it counts even if a context has ended as well
	default:
		select {
		case <-c.done:
		case <-c.run.ctx.Done():
			select {
			case <-c.done: // the context ends after that, too
			default:
				var none V
				return none, context.Cause(c.run.ctx)
			}
		case <-ctx.Done():
			c.run.leave()
			var none V
			return none, ctx.Err()
		}
	}
	if p, ok := c.err.(*PanicError); ok {
		panic(p)
	}
	if c.err == ErrGoexit {
		runtime.Goexit()
	}
	return c.value, c.err
}

// Await is Wait for a caller who does not want what is loaded: it returns an error only if ctx
// ends before the load, or its context, does.
func (c *Call[K, V]) Await(ctx context.Context) error {
	select {
	case <-c.done:
	case <-c.run.ctx.Done():
	case <-ctx.Done():
		c.run.leave()
		return ctx.Err()
	}
	return nil
}
