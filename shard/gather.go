package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sysblocks/sysblocks/internal/flight"
)

var (
	// ErrAllFailed is what a PartialError also is, for errors.Is, if no shard has answered. (If what asks a
	// shard calls Gather in turn, it can be an error of that: there, look whether Succeeded is 0.)
	ErrAllFailed = errors.New("all shards have failed")
	// ErrGivenUp is why the contexts of shards end, and why shards are not asked any more, when
	// FailFast is set and too many have failed. The errors of such shards are that, for errors.Is.
	ErrGivenUp = errors.New("given up, as too many others have failed")
)

// Why the contexts of shards end otherwise.
var (
	errCrashed = errors.New("given up, as another call has panicked, or has ended its goroutine")
	errOver    = errors.New("the shards are not asked any more")
)

// A PanicError is what Gather, and the loop over Stream, panic with when the function that asks a
// shard has panicked: it has the value, and the stack of that call.
type PanicError = flight.PanicError

// An Error says why a shard has not answered.
//
// An Error is safe for concurrent use by multiple goroutines, as long as none changes it.
type Error struct {
	// Shard is the shard.
	Shard ID
	// Asked is whether the function that asks was called. If it was not, nothing can have changed.
	Asked bool
	// Err is what that function has returned. If its context had ended by then, Err is also the
	// error of the context, and its cause, as not all drivers return these. If the shard was not
	// asked, these are all it is.
	Err error
}

// Error returns the shard and the error.
func (e *Error) Error() string {
	if !e.Asked {
		return fmt.Sprintf("shard %q was not asked: %v", e.Shard, e.Err)
	}
	return fmt.Sprintf("shard %q: %v", e.Shard, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// A PartialError says that not all shards have answered, and names those that have not. For errors.Is
// and errors.As it is each of their errors, too, and ErrAllFailed if none has answered.
//
//	var partial *shard.PartialError
//	if errors.As(err, &partial) && partial.Enough {
//		// The replies are of use, but not of all shards: say so to who gets them.
//	}
//
// A PartialError is safe for concurrent use by multiple goroutines, as long as none changes it.
type PartialError struct {
	// Failed is the shards that have not answered, in the order in which they were given. It is
	// never empty.
	Failed []*Error
	// Succeeded is how many have answered.
	Succeeded int
	// Enough is whether as many have answered as Policy.MinSuccess asks for.
	Enough bool
}

// Is reports whether target is ErrAllFailed, and no shard has answered.
func (e *PartialError) Is(target error) bool { return target == ErrAllFailed && e.Succeeded == 0 }

// Unwrap returns the errors of the shards, each an *Error.
func (e *PartialError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f
	}
	return errs
}

// What Error shows: of so many errors that differ, and so many shards of each; the names and the errors
// only up to so many bytes.
const (
	shownErrors = 4
	shownShards = 8
	shownName   = 48
	shownError  = 200
)

// Error returns one line that says how many shards have failed, and which ones, together with their
// errors; those that have the same error stand together. If they are very many, or their names or
// errors are very long, it does not show all: Failed has them.
func (e *PartialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "shard: %d of %d shards have failed", len(e.Failed), len(e.Failed)+e.Succeeded)
	type group struct {
		text  string
		shown []ID
		count int
	}
	var groups []group
	others := 0
	for _, f := range e.Failed {
		text := "not asked: "
		if f.Asked {
			text = ""
		}
		text += oneLine(fmt.Sprint(f.Err), shownError)
		i := slices.IndexFunc(groups, func(g group) bool { return g.text == text })
		if i < 0 {
			if i = len(groups); i == shownErrors {
				others++
				continue
			}
			groups = append(groups, group{text: text})
		}
		g := &groups[i]
		if g.count++; len(g.shown) < shownShards {
			g.shown = append(g.shown, f.Shard)
		}
	}
	separator := ": "
	for _, g := range groups {
		b.WriteString(separator)
		separator = "; "
		for i, id := range g.shown {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%q", oneLine(string(id), shownName))
		}
		if more := g.count - len(g.shown); more > 0 {
			fmt.Fprintf(&b, " and %d more", more)
		}
		b.WriteString(": ")
		b.WriteString(g.text)
	}
	if others > 0 {
		fmt.Fprintf(&b, "; and %d more with other errors", others)
	}
	return b.String()
}

// oneLine returns s without line breaks, and cut to about n bytes.
func oneLine(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), ", ")
}

// Gather calls f for each of the shards, several at the same time, and returns the replies of those
// that have succeeded, in the order of shards.
//
// If any has failed, the error is a *PartialError, which names those, and says whether enough
// have answered; the replies of the others are returned with it. So a nil error means that all
// have answered, and no code that looks at the error only can take a part for the whole. What f
// returns beside an error is dropped.
//
// The list must have no hole: if it is empty, or a shard is "", the error is ErrNoShard. That, a
// shard that is given twice, and a Policy that is not valid for so many shards are refused before
// any is asked, with an error that is not a *PartialError.
//
// When ctx ends, the contexts of the calls that run do, and shards that are not asked yet are not
// asked; they are named in the PartialError with the cause of ctx. What has been answered by then
// counts. f is given a context that ends at the latest when Gather returns, so that nothing that
// depends on the context, such as an *sql.Rows, can be the reply: read it in f.
//
// Gather returns when all calls of f have returned, whatever happens: f must return when its
// context ends, and if it does not, Gather waits for it. The calls run in goroutines that end
// before Gather does, but for one at a time that runs in the caller's. If f panics, or calls
// runtime.Goexit, the others are cancelled, and waited for; then Gather panics with a *PanicError,
// or calls runtime.Goexit.
//
// Complexity: O(len(shards)), with at most 5 allocations, and those of ctx, if all succeed, the
// shards are sorted, or not more than 16, and PerShard is 0.
func Gather[R any](ctx context.Context, shards []ID, p Policy, f func(context.Context, ID) (R, error)) ([]Reply[R], error) {
	r, err := newRound(ctx, shards, p, f)
	if err != nil {
		return nil, err
	}
	r.replies = make([]Reply[R], len(shards))
	r.gather()
	failed := r.partial()
	if failed == nil {
		return r.replies, nil
	}
	got := r.replies[:0]
	for i, reply := range r.replies {
		if r.errs[i] == nil {
			got = append(got, reply)
		}
	}
	clear(r.replies[len(got):])
	if len(got) == 0 {
		got = nil
	}
	return got, failed
}

// A round is asking each of many shards once. Its workers, which are goroutines, take one shard
// after the other, until none is left: so there are never more calls than workers, and no shard
// waits while one has nothing to do.
type round[R any] struct {
	shards   []ID
	f        func(context.Context, ID) (R, error)
	perShard time.Duration
	workers  int
	need     int // how many must succeed
	failFast bool

	ctx    context.Context // of all calls
	cancel context.CancelCauseFunc

	next    atomic.Int64   // the first of shards that no worker has taken
	running sync.WaitGroup // the workers, but for the caller

	// Where the replies go to. For Gather: each to its own place, and the error to errs. For
	// Stream: both through answers, unless left is closed.
	replies []Reply[R]
	answers chan answer[R]
	left    chan struct{}
	crashed chan struct{} // closed when crash is set, if not nil

	yielding bool // the body of the loop over Stream runs, or has panicked, or has ended its goroutine

	mu     sync.Mutex
	errs   []*Error // by the index of the shard; nil if all is well so far
	failed int      // how many of errs are there
	crash  error    // a *PanicError, or flight.ErrGoexit, if a call has not returned
}

// An answer is what a worker of Stream hands over.
type answer[R any] struct {
	reply Reply[R]
	err   error
}

// newRound checks what it is given.
func newRound[R any](ctx context.Context, shards []ID, p Policy, f func(context.Context, ID) (R, error)) (*round[R], error) {
	if f == nil {
		panic("shard: the function that asks a shard must not be nil")
	}
	if err := p.check(len(shards)); err != nil {
		return nil, err
	}
	if err := checkShards(shards); err != nil {
		return nil, err
	}
	r := &round[R]{shards: shards, f: f, perShard: p.PerShard, workers: len(shards), need: len(shards), failFast: p.FailFast}
	if p.Concurrency > 0 {
		r.workers = min(p.Concurrency, r.workers)
	}
	if p.MinSuccess > 0 {
		r.need = p.MinSuccess
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r, nil
}

// check returns an error if the policy makes no sense for n shards.
func (p Policy) check(n int) error {
	switch {
	case p.Concurrency < 0:
		return fmt.Errorf("shard: Concurrency must be at least 0, got %d", p.Concurrency)
	case p.MinSuccess < 0:
		return fmt.Errorf("shard: MinSuccess must be at least 0, got %d", p.MinSuccess)
	case p.MinSuccess > n && n > 0:
		return fmt.Errorf("shard: MinSuccess must be at most %d, which is how many shards are asked, got %d", n, p.MinSuccess)
	case p.PerShard < 0:
		return fmt.Errorf("shard: PerShard must be at least 0, got %v", p.PerShard)
	}
	return nil
}

// checkShards returns an error if shards is empty, has one that is "", or one twice.
func checkShards(shards []ID) error {
	if len(shards) == 0 {
		return fmt.Errorf("shard: shards must not be empty: %w", ErrNoShard)
	}
	sorted := true
	for i, s := range shards {
		if s == "" {
			return fmt.Errorf("shard: shards must not be \"\", got it at index %d of %d: %w", i, len(shards), ErrNoShard)
		}
		sorted = sorted && (i == 0 || shards[i-1] < s)
	}
	if sorted {
		return nil // as those of a Lister are
	}
	twice := func(i, j int) error {
		return fmt.Errorf("shard: shards must differ, got %q at indices %d and %d", shards[i], i, j)
	}
	if len(shards) <= 16 { // this is faster than a map, and does not allocate
		for j, s := range shards {
			if i := slices.Index(shards[:j], s); i >= 0 {
				return twice(i, j)
			}
		}
		return nil
	}
	seen := make(map[ID]int, len(shards))
	for j, s := range shards {
		if i, ok := seen[s]; ok {
			return twice(i, j)
		}
		seen[s] = j
	}
	return nil
}

// gather asks all shards, with the caller as one of the workers.
func (r *round[R]) gather() {
	defer r.end() // even if f ends this goroutine
	// Each shard has a worker to come before the caller begins with one, which may take long. If f does
	// not, the first workers may leave nothing for the others.
	r.start(r.workers - 1)
	r.work()
}

// start starts n workers.
func (r *round[R]) start(n int) {
	if n == 0 {
		return
	}
	worker := func() { // one for all: a go statement with a method would allocate each time
		defer r.running.Done()
		r.work()
	}
	for range n {
		if r.next.Load() >= int64(len(r.shards)) {
			return
		}
		r.running.Add(1)
		go worker()
	}
}

// work asks shards until none is left that nobody has taken.
func (r *round[R]) work() {
	for {
		i := int(r.next.Add(1) - 1)
		if i >= len(r.shards) {
			return
		}
		v, failure, ok := r.ask(i)
		if !ok {
			return
		}
		reply := Reply[R]{Shard: r.shards[i]}
		if failure != nil {
			r.fail(i, failure)
		} else {
			reply.Value = v
		}
		if r.answers == nil {
			r.replies[i] = reply
			continue
		}
		a := answer[R]{reply: reply}
		if failure != nil {
			a.err = failure
		}
		select {
		case r.answers <- a:
		case <-r.left:
			return
		}
	}
}

// ask asks shard i, unless it is too late. It returns false if f has panicked, which is noted, and the
// context of all has ended then.
func (r *round[R]) ask(i int) (v R, failure *Error, ok bool) {
	id, ctx := r.shards[i], r.ctx
	if err := ctx.Err(); err != nil {
		return v, &Error{Shard: id, Err: because(ctx, err)}, true
	}
	if r.perShard > 0 {
		var free context.CancelFunc
		ctx, free = context.WithTimeoutCause(ctx, r.perShard, &slowError{id, r.perShard})
		defer free()
	}
	defer func() {
		if !ok {
			r.fell(recover())
		}
	}()
	v, err := r.f(ctx, id)
	if err != nil { // whose methods may panic as well: a typed nil does
		failure = &Error{Shard: id, Asked: true, Err: because(ctx, err)}
	}
	return v, failure, true
}

// fell notes that a call has panicked with v, or has called runtime.Goexit if that is nil. It is
// called while that is under way, so that the stack is that of the call. If several fall, the first
// counts: the others may have because of it.
func (r *round[R]) fell(v any) {
	crash := flight.ErrGoexit
	if v != nil {
		p, ok := v.(*PanicError) // of a call inside f
		if !ok {
			p = &PanicError{Value: v, Stack: debug.Stack()}
		}
		crash = p
	}
	r.mu.Lock()
	first := r.crash == nil
	if first {
		r.crash = crash
	}
	r.mu.Unlock()
	if first && r.crashed != nil {
		close(r.crashed) // before what others return because of that can be an answer
	}
	r.cancel(errCrashed)
}

// fail notes that shard i has failed.
func (r *round[R]) fail(i int, failure *Error) {
	r.mu.Lock()
	if r.errs == nil {
		r.errs = make([]*Error, len(r.shards))
	}
	r.errs[i] = failure
	r.failed++
	hopeless := r.failed > len(r.shards)-r.need
	r.mu.Unlock()
	if hopeless && r.failFast {
		r.cancel(ErrGivenUp)
	}
}

// end waits for the workers, and lets the caller fall as a call has.
func (r *round[R]) end() {
	r.running.Wait()
	r.cancel(errOver)
	if p, ok := r.crash.(*PanicError); ok {
		panic(p)
	}
	if r.crash != nil && !r.yielding { // a panic of the loop would be lost
		runtime.Goexit()
	}
}

// partial returns a *PartialError if a shard has failed. No worker may run any more.
func (r *round[R]) partial() error {
	if r.failed == 0 {
		return nil
	}
	e := &PartialError{Failed: make([]*Error, 0, r.failed), Succeeded: len(r.shards) - r.failed}
	e.Enough = e.Succeeded >= r.need
	for _, failure := range r.errs {
		if failure != nil {
			e.Failed = append(e.Failed, failure)
		}
	}
	return e
}

// because returns err with the error of ctx and the cause, where ctx has ended, and err is not
// these already.
func because(ctx context.Context, err error) error {
	ended := ctx.Err()
	if ended == nil {
		return err
	}
	cause := context.Cause(ctx)
	told := errors.Is(err, ended)
	if slow, ok := cause.(*slowError); ok { // it stands behind the name of the shard
		if told {
			return fmt.Errorf("%w after %v", err, slow.after)
		}
		return fmt.Errorf("%w (%w after %v)", err, ended, slow.after)
	}
	switch more := !errors.Is(err, cause) && cause != ended; {
	case told && more:
		return fmt.Errorf("%w: %w", err, cause)
	case told:
		return err
	case more:
		return fmt.Errorf("%w (%w: %w)", err, ended, cause)
	default:
		return fmt.Errorf("%w (%w)", err, ended)
	}
}

// A slowError is why the context of a shard ends after Policy.PerShard.
type slowError struct {
	shard ID
	after time.Duration
}

// Error returns the shard and the time.
func (e *slowError) Error() string {
	return fmt.Sprintf("shard %q takes longer than %v", e.shard, e.after)
}

// Unwrap returns context.DeadlineExceeded.
func (e *slowError) Unwrap() error { return context.DeadlineExceeded }
