package shard

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What a shard does. Those that do not fall return early when their context ends, but for stubborn.
const (
	succeeds = iota
	fails
	hangs // longer than PerShard, if there is one
	stubborn
	panics
	exits
	behaviours
)

// What becomes of a shard.
const (
	answered  = "answered"
	failedOwn = "failed"
	timedOut  = "timed out"
	cancelled = "cancelled"
	givenUp   = "given up"
	notAsked  = "not asked"
	crashed   = "crashed"
)

var (
	errOwn    = errors.New("own")
	errCaller = errors.New("caller")
)

// A plan is a call of Gather or Stream, and all that happens. No two things happen at the same time
// but by each other.
type plan struct {
	policy   Policy
	does     []int
	takes    []time.Duration
	cancelAt time.Duration // -1: never
}

const longTime = 1 << 40 // more than 18 minutes; longer than what does not hang takes

// newPlan makes a plan of any bytes.
func newPlan(seed uint64, data []byte) plan {
	rng := rand.New(rand.NewPCG(seed, 7))
	p := plan{cancelAt: -1}
	head := [4]byte{}
	data = data[copy(head[:], data):]
	if len(data) == 0 {
		data = []byte{0}
	}
	n := min(len(data), 24)
	p.policy.Concurrency = int(head[0]) % (n + 2)
	p.policy.MinSuccess = int(head[1]) % (n + 1)
	p.policy.FailFast = head[2]&1 != 0
	if head[2]&2 != 0 {
		p.policy.PerShard = longTime
	}
	switch head[3] % 4 {
	case 0:
		p.cancelAt = time.Duration(rng.Int64N(4 * longTime))
	case 1:
		p.cancelAt = time.Duration(rng.Int64N(2)) // before it begins, or as soon as it has
	}
	slow := 0
	for _, b := range data[:n] {
		does := int(b) % behaviours
		takes := time.Duration(1000 + rng.Int64N(longTime-1000))
		if does == hangs {
			// Those that begin at the same time are too slow at the same time, and which is the first
			// is not told.
			if slow++; slow > 1 && p.policy.FailFast {
				does = fails
			} else {
				takes += longTime
			}
		}
		p.does, p.takes = append(p.does, does), append(p.takes, takes)
	}
	return p
}

// A fate is what becomes of a shard, and when.
type fate struct {
	what string
	at   time.Duration
}

// An outcome is what comes of a plan.
type outcome struct {
	fates []fate
	begun []bool
	crash int // what fell, or 0
	at    time.Duration
	end   time.Duration
}

// expect does what a plan says in the simplest way: event by event.
func (p plan) expect() outcome {
	n := len(p.does)
	o := outcome{fates: make([]fate, n), begun: make([]bool, n)}
	need, workers := n, n
	if p.policy.MinSuccess > 0 {
		need = p.policy.MinSuccess
	}
	if p.policy.Concurrency > 0 {
		workers = min(workers, p.policy.Concurrency)
	}
	ends := map[int]time.Duration{} // of those that run
	next, failed, why := 0, 0, ""   // why the context has ended
	now := time.Duration(0)
	end := func(reason string) { // of the context
		if why != "" {
			return
		}
		why = reason
		for i := range ends {
			if p.does[i] == succeeds || p.does[i] == fails || p.does[i] == hangs {
				ends[i] = now
				o.fates[i].what = reason
			}
		}
	}
	fail := func() {
		if failed++; failed > n-need && p.policy.FailFast {
			end(givenUp)
		}
	}
	begin := func() { // what a worker does that has nothing to do
		for ; next < n; next++ {
			i := next
			if why == "" {
				o.begun[i] = true
				takes := p.takes[i]
				switch p.does[i] {
				case fails:
					o.fates[i].what = failedOwn
				case panics, exits:
					o.fates[i].what = crashed
				default:
					o.fates[i].what = answered
				}
				if p.does[i] == hangs && p.policy.PerShard > 0 {
					takes = p.policy.PerShard
					o.fates[i].what = timedOut
				}
				ends[i] = now + takes
				next++
				return
			}
			o.fates[i] = fate{notAsked, now}
			fail()
		}
	}
	if p.cancelAt == 0 {
		end(cancelled)
	}
	for range workers {
		begin()
	}
	for len(ends) > 0 {
		first := -1
		for i, t := range ends {
			if first < 0 || t < ends[first] {
				first = i
			}
		}
		if p.cancelAt > now && p.cancelAt < ends[first] && why == "" {
			now = p.cancelAt
			end(cancelled)
			continue
		}
		now = ends[first]
		delete(ends, first)
		o.fates[first].at = now
		switch o.fates[first].what {
		case answered:
		case crashed:
			if o.crash == 0 {
				o.crash, o.at = p.does[first], now
			}
			end(crashed)
			continue // this worker does not go on
		default:
			fail()
		}
		begin()
	}
	o.end = now
	return o
}

// run does it with Gather or Stream, in a bubble, and compares.
func (p plan) run(t *testing.T, stream bool) {
	n := len(p.does)
	shards := shardsOf(n)
	want := p.expect()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	start := time.Now()
	if p.cancelAt == 0 {
		cancel(errCaller)
	} else if p.cancelAt > 0 {
		time.AfterFunc(p.cancelAt, func() { cancel(errCaller) })
	}
	begun := make([]bool, n) // each written by its own call
	f := func(ctx context.Context, s ID) (int, error) {
		i := slices.Index(shards, s)
		if begun[i] {
			t.Errorf("%s is asked again", s)
		}
		begun[i] = true
		switch p.does[i] {
		case stubborn, panics, exits:
			time.Sleep(p.takes[i])
		default:
			select {
			case <-ctx.Done():
				return -1, ctx.Err()
			case <-time.After(p.takes[i]):
			}
		}
		switch p.does[i] {
		case fails:
			return -1, errOwn
		case panics:
			panic(i)
		case exits:
			runtime.Goexit()
		}
		return i, nil
	}
	got := make([]fate, n)
	note := func(reply Reply[int], failure *Error) {
		i := slices.Index(shards, reply.Shard)
		if got[i].what != "" {
			t.Errorf("%s has come twice", reply.Shard)
		}
		what := answered
		switch {
		case failure == nil:
			if reply.Value != i {
				t.Errorf("%s: got %d", reply.Shard, reply.Value)
			}
		case !failure.Asked:
			what = notAsked
		case errors.Is(failure, errOwn):
			what = failedOwn
		case errors.Is(failure, errCaller):
			what = cancelled
		case errors.Is(failure, ErrGivenUp):
			what = givenUp
		case errors.Is(failure, context.DeadlineExceeded):
			what = timedOut
		}
		if failure != nil && errors.Is(failure, errCrashed) {
			t.Errorf("%s: %v", reply.Shard, failure)
		}
		got[i] = fate{what, time.Since(start)}
	}
	var last error
	fell := fallsAs(func() {
		if !stream {
			var replies []Reply[int]
			replies, last = Gather(ctx, shards, p.policy, f)
			if !slices.IsSortedFunc(replies, func(a, b Reply[int]) int { return cmp.Compare(a.Shard, b.Shard) }) {
				t.Error("not in the order of shards")
			}
			for _, r := range replies {
				note(r, nil)
			}
			if partial, ok := last.(*PartialError); ok {
				for _, f := range partial.Failed {
					note(Reply[int]{Shard: f.Shard}, f)
				}
			}
			return
		}
		for reply, err := range Stream(ctx, shards, p.policy, f) {
			if failure, ok := err.(*Error); ok || err == nil {
				note(reply, failure)
			} else {
				last = err
			}
		}
	})
	require.Equal(t, want.end, time.Since(start))
	require.Equal(t, want.begun, begun)
	switch want.crash {
	case panics:
		require.IsType(t, &PanicError{}, fell)
	case exits:
		require.Equal(t, "goexit", fell)
	default:
		require.Equal(t, "returned", fell)
	}
	for i, f := range want.fates {
		switch {
		case want.crash == 0 && !stream:
			require.Equal(t, f.what, got[i].what, "shard %d", i)
		case want.crash == 0 || stream && f.what != "" && f.at < want.at:
			require.Equal(t, f, got[i], "shard %d", i)
		case !stream:
			require.Empty(t, got[i])
		}
	}
	if want.crash != 0 {
		require.NoError(t, last)
		return
	}
	succeeded := 0
	var failed []ID
	for i, f := range want.fates {
		if f.what == answered {
			succeeded++
		} else {
			failed = append(failed, shards[i])
		}
	}
	if len(failed) == 0 {
		require.NoError(t, last)
		return
	}
	partial, ok := last.(*PartialError)
	require.True(t, ok, last)
	require.Equal(t, succeeded, partial.Succeeded)
	require.Equal(t, p.policy.MinSuccess > 0 && succeeded >= p.policy.MinSuccess, partial.Enough)
	require.Equal(t, succeeded == 0, errors.Is(last, ErrAllFailed))
	for i, f := range partial.Failed {
		require.Equal(t, failed[i], f.Shard)
	}
	require.Len(t, failed, len(partial.Failed))
}

func runPlan(t *testing.T, seed uint64, data []byte) {
	p := newPlan(seed, data)
	for _, stream := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, data %v, stream %v: %+v", seed, data, stream, p)
				}
			}()
			p.run(t, stream)
		})
	}
}

// randomBytes returns bytes for newPlan of which most do not crash.
func randomBytes(rng *rand.Rand) []byte {
	data := make([]byte, 4+rng.IntN(20))
	kinds := 1 + rng.IntN(behaviours)
	for i := range data {
		data[i] = byte(rng.IntN(256))
		if i >= 4 && rng.IntN(8) > 0 {
			data[i] = byte(rng.IntN(min(kinds, panics)))
		}
	}
	return data
}

func TestGatherModel(t *testing.T) {
	for seed := range uint64(400) {
		runPlan(t, seed, randomBytes(rand.New(rand.NewPCG(seed, 3))))
	}
}

// FuzzGather compares what policies do with a simulation.
func FuzzGather(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, randomBytes(rand.New(rand.NewPCG(seed, 4))))
	}
	f.Fuzz(runPlan)
}

// FuzzMergeSorted compares the merge of any inputs, sorted or not, with sorting them: each byte is
// a key, and 255 begins another input.
func FuzzMergeSorted(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 2, 3, 255, 255, 1}, 3)
	f.Add([]byte{}, 0)
	f.Add([]byte{2, 1}, 9)
	f.Add([]byte{1, 255, 3, 2, 255, 5}, 2)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		keys := [][]int{nil}
		sorted := true
		for _, b := range data {
			if b == 255 {
				keys = append(keys, nil)
				continue
			}
			last := &keys[len(keys)-1]
			sorted = sorted && (len(*last) == 0 || (*last)[len(*last)-1] <= int(b))
			*last = append(*last, int(b))
		}
		if len(keys) > 300 {
			return
		}
		list, seqs := sources(keys...)
		got, err := collect(t, MergeSorted(byKey, seqs...))
		require.True(t, slices.IsSortedFunc(got, byKey))
		if !sorted {
			require.ErrorIs(t, err, ErrUnsorted)
			return
		}
		want := naive(list)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = collect(t, Limit(n, MergeSorted(byKey, seqs...)))
		if n < 0 {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want[:min(n, len(want))], got)
	})
}
