package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// shardsOf returns n shards: "s00", "s01" and so on.
func shardsOf(n int) []ID {
	ids := make([]ID, n)
	for i := range ids {
		ids[i] = ID(fmt.Sprintf("s%02d", i))
	}
	return ids
}

func noop(context.Context, ID) (int, error) { return 0, nil }

// An asker is Gather, or Stream in its form.
type asker func(context.Context, []ID, Policy, func(context.Context, ID) (string, error)) ([]Reply[string], error)

// asks are the two ways to ask: they return the replies in the order in which they come, and the
// last error.
var asks = map[string]asker{
	"gather": Gather[string],
	"stream": func(ctx context.Context, shards []ID, p Policy, f func(context.Context, ID) (string, error)) ([]Reply[string], error) {
		replies, _, last := drain(Stream(ctx, shards, p, f))
		return replies, last
	},
}

// drain takes all that a Stream yields.
func drain[R any](seq iter.Seq2[Reply[R], error]) (replies []Reply[R], failed []*Error, last error) {
	for reply, err := range seq {
		if last != nil {
			panic("a pair behind the last")
		}
		switch err := err.(type) {
		case nil:
			replies = append(replies, reply)
		case *Error:
			if reply.Shard != err.Shard {
				panic("an error of another shard")
			}
			failed = append(failed, err)
		default:
			if reply.Shard != "" {
				panic("a shard beside the last error")
			}
			last = err
		}
	}
	return replies, failed, last
}

// forAsks tests both ways to ask, in a bubble, in which no goroutine may be left.
func forAsks(t *testing.T, test func(t *testing.T, ask asker)) {
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, ask) })
		})
	}
}

func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shards := []ID{"d", "a", "c", "b"}
		start := time.Now()
		replies, err := Gather(t.Context(), shards, Policy{}, func(_ context.Context, s ID) (string, error) {
			time.Sleep(time.Duration(s[0]-'a') * time.Second)
			return "of " + string(s), nil
		})
		require.NoError(t, err)
		require.Equal(t, []Reply[string]{{"d", "of d"}, {"a", "of a"}, {"c", "of c"}, {"b", "of b"}}, replies)
		require.Equal(t, 3*time.Second, time.Since(start), "all at the same time")
	})
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shards := []ID{"d", "a", "c", "b"}
		seq := Stream(t.Context(), shards, Policy{}, func(_ context.Context, s ID) (string, error) {
			time.Sleep(time.Duration(s[0]-'a') * time.Second)
			return "of " + string(s), nil
		})
		clear(shards) // it has its own
		for range 2 { // it can be used again
			start := time.Now()
			replies, failed, err := drain(seq)
			require.NoError(t, err)
			require.Empty(t, failed)
			require.Equal(t, []Reply[string]{{"a", "of a"}, {"b", "of b"}, {"c", "of c"}, {"d", "of d"}}, replies)
			require.Equal(t, 3*time.Second, time.Since(start))
		}
	})
}

// What is refused is refused before anything is asked.
func TestGatherRefuses(t *testing.T) {
	many := append(shardsOf(40), "s20")
	for _, x := range []struct {
		shards []ID
		policy Policy
		err    string
		is     error
	}{
		{nil, Policy{}, "shard: shards must not be empty: no shard is responsible", ErrNoShard},
		{[]ID{}, Policy{MinSuccess: 1}, "shard: shards must not be empty: no shard is responsible", ErrNoShard},
		{[]ID{"a", "", "b"}, Policy{}, `shard: shards must not be "", got it at index 1 of 3: no shard is responsible`, ErrNoShard},
		{[]ID{"a", "b", "a"}, Policy{}, `shard: shards must differ, got "a" at indices 0 and 2`, nil},
		{[]ID{"a", "a"}, Policy{}, `shard: shards must differ, got "a" at indices 0 and 1`, nil},
		{many, Policy{}, `shard: shards must differ, got "s20" at indices 20 and 40`, nil},
		{[]ID{"a"}, Policy{Concurrency: -1}, "shard: Concurrency must be at least 0, got -1", nil},
		{[]ID{"a"}, Policy{MinSuccess: math.MinInt}, fmt.Sprint("shard: MinSuccess must be at least 0, got ", math.MinInt), nil},
		{[]ID{"a"}, Policy{MinSuccess: 2}, "shard: MinSuccess must be at most 1, which is how many shards are asked, got 2", nil},
		{[]ID{"a"}, Policy{PerShard: -1}, "shard: PerShard must be at least 0, got -1ns", nil},
	} {
		for name, ask := range asks {
			replies, err := ask(t.Context(), x.shards, x.policy, func(context.Context, ID) (string, error) {
				t.Errorf("%s: asked", name)
				return "", nil
			})
			require.EqualError(t, err, x.err, name)
			require.Nil(t, replies)
			var partial *PartialError
			require.False(t, errors.As(err, &partial))
			require.False(t, errors.Is(err, ErrAllFailed))
			if x.is != nil {
				require.ErrorIs(t, err, x.is)
			} else {
				require.NotErrorIs(t, err, ErrNoShard)
			}
		}
	}
	require.PanicsWithValue(t, "shard: the function that asks a shard must not be nil", func() {
		Gather[int](t.Context(), shardsOf(1), Policy{}, nil)
	})
	require.Panics(t, func() {
		for range Stream[int](t.Context(), shardsOf(1), Policy{}, nil) {
		}
	})
	for _, shards := range [][]ID{shardsOf(1), shardsOf(17), shardsOf(40), {"b", "a"}} {
		require.NoError(t, checkShards(shards))
		slices.Reverse(shards)
		require.NoError(t, checkShards(shards))
	}
}

func TestPartial(t *testing.T) {
	refused, odd := errors.New("refused"), &slowError{"x", 1}
	f := func(_ context.Context, s ID) (string, error) {
		time.Sleep(time.Duration(s[0]) * time.Second)
		switch s {
		case "b":
			return "dropped", refused
		case "d":
			return "dropped", fmt.Errorf("odd: %w", odd)
		}
		return "of " + string(s), nil
	}
	forAsks(t, func(t *testing.T, ask asker) {
		for minimum, enough := range []bool{false, true, true, true, false, false} {
			replies, err := ask(t.Context(), []ID{"a", "b", "c", "d", "e"}, Policy{MinSuccess: minimum}, f)
			require.Equal(t, []Reply[string]{{"a", "of a"}, {"c", "of c"}, {"e", "of e"}}, replies)
			var partial *PartialError
			require.ErrorAs(t, err, &partial)
			require.Equal(t, 3, partial.Succeeded)
			require.Equal(t, enough, partial.Enough, minimum)
			require.Len(t, partial.Failed, 2)
			require.Equal(t, &Error{Shard: "b", Asked: true, Err: refused}, partial.Failed[0])
			require.EqualError(t, partial.Failed[0], `shard "b": refused`)
			require.Equal(t, ID("d"), partial.Failed[1].Shard)
			require.ErrorIs(t, err, refused)
			var as *slowError
			require.ErrorAs(t, err, &as)
			require.NotErrorIs(t, err, ErrAllFailed)
			require.EqualError(t, err, `shard: 2 of 5 shards have failed: "b": refused; "d": odd: shard "x" takes longer than 1ns`)
		}
		replies, err := ask(t.Context(), []ID{"b", "d"}, Policy{MinSuccess: 1}, f)
		require.Nil(t, replies)
		require.ErrorIs(t, err, ErrAllFailed)
		require.ErrorIs(t, err, refused)
		var partial *PartialError
		require.ErrorAs(t, err, &partial)
		require.False(t, partial.Enough)
		require.Zero(t, partial.Succeeded)
	})
}

// A PartialError is one line, which is not long whatever has failed.
func TestPartialErrorText(t *testing.T) {
	failed := func(asked bool, err error, ids ...ID) (list []*Error) {
		for _, id := range ids {
			list = append(list, &Error{Shard: id, Asked: asked, Err: err})
		}
		return list
	}
	e := &PartialError{Failed: failed(false, context.Canceled, shardsOf(1000)...), Succeeded: 24}
	require.EqualError(t, e, `shard: 1000 of 1024 shards have failed: "s00", "s01", "s02", "s03", "s04", "s05", "s06", "s07" and 992 more: not asked: context canceled`)
	e = &PartialError{Failed: slices.Concat(failed(true, context.Canceled, "a"), failed(false, context.Canceled, "b", "c"),
		failed(true, errors.New("one\n\r\ntwo\n"), "d\n"), failed(true, context.Canceled, "e"))}
	require.EqualError(t, e, `shard: 5 of 5 shards have failed: "a", "e": context canceled; "b", "c": not asked: context canceled; "d": one, two`)
	e = &PartialError{Succeeded: 1}
	for i := range 1000 {
		e.Failed = append(e.Failed, failed(true, errors.New(strings.Repeat(fmt.Sprint("é", i), 1000)), ID(strings.Repeat("日本", 1000)))...)
	}
	require.Less(t, len(e.Error()), 3000)
	require.True(t, utf8.ValidString(e.Error()))
	require.True(t, strings.HasSuffix(e.Error(), "; and 996 more with other errors"))
	require.EqualError(t, e.Failed[0].Unwrap(), strings.Repeat("é0", 1000))
	require.EqualError(t, &Error{Shard: "a", Err: context.Canceled}, `shard "a" was not asked: context canceled`)
	require.EqualError(t, &PartialError{Failed: failed(true, nil, "a")}, `shard: 1 of 1 shards have failed: "a": <nil>`)
	for n := range 8 { // cut between letters
		require.Equal(t, "日本"[:n/3*3]+"…", oneLine("日本語", n))
	}
}

func TestConcurrency(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		for _, n := range []int{1, 2, 7, 100} {
			for _, bound := range []int{0, 1, 2, 6, 7, 8, math.MaxInt} {
				var running, most, calls atomic.Int64
				start := time.Now()
				_, err := ask(t.Context(), shardsOf(n), Policy{Concurrency: bound}, func(context.Context, ID) (string, error) {
					calls.Add(1)
					now := running.Add(1)
					for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
					}
					time.Sleep(time.Second)
					running.Add(-1)
					return "", nil
				})
				require.NoError(t, err)
				together := n
				if bound > 0 {
					together = min(n, bound)
				}
				require.EqualValues(t, together, most.Load(), "%d of %d", bound, n)
				require.EqualValues(t, n, calls.Load())
				require.Equal(t, time.Duration((n+together-1)/together)*time.Second, time.Since(start))
			}
		}
	})
}

// The time of a shard begins when it is asked, not while it waits for others.
func TestPerShard(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		start := time.Now()
		var partial *PartialError
		replies, err := ask(t.Context(), []ID{"a", "b", "c", "d"}, Policy{Concurrency: 1, PerShard: 2 * time.Second},
			func(ctx context.Context, s ID) (string, error) {
				end, ok := ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, time.Now().Add(2*time.Second), end)
				if s == "b" || s == "d" {
					<-ctx.Done()
					require.EqualError(t, context.Cause(ctx), fmt.Sprintf("shard %q takes longer than 2s", s))
					require.ErrorIs(t, context.Cause(ctx), context.DeadlineExceeded)
					return "", fmt.Errorf("driver: %w", ctx.Err())
				}
				time.Sleep(time.Second)
				return "", nil
			})
		require.Len(t, replies, 2)
		require.ErrorAs(t, err, &partial)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, `shard: 2 of 4 shards have failed: "b", "d": driver: context deadline exceeded after 2s`)
		require.Equal(t, 6*time.Second, time.Since(start))

		// What comes too late is there, all the same.
		replies, err = ask(t.Context(), shardsOf(2), Policy{PerShard: time.Second}, func(ctx context.Context, s ID) (string, error) {
			time.Sleep(time.Minute)
			return "late", ctx.Err()
		})
		require.ErrorIs(t, err, ErrAllFailed)
		require.Nil(t, replies)
		replies, err = ask(t.Context(), shardsOf(2), Policy{PerShard: time.Second}, func(ctx context.Context, s ID) (string, error) {
			time.Sleep(time.Minute)
			return "late", nil
		})
		require.NoError(t, err)
		require.Len(t, replies, 2)

		// So much is no bound at all.
		_, err = ask(t.Context(), shardsOf(2), Policy{PerShard: math.MaxInt64}, func(ctx context.Context, s ID) (string, error) {
			time.Sleep(100000 * time.Hour)
			return "", ctx.Err()
		})
		require.NoError(t, err)

		// The caller's context ends first.
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("no time"))
		defer cancel()
		_, err = ask(ctx, shardsOf(1), Policy{PerShard: time.Hour}, func(ctx context.Context, s ID) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		require.EqualError(t, err, `shard: 1 of 1 shards have failed: "s00": context deadline exceeded: no time`)
	})
}

func TestFailFast(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		for _, x := range []struct {
			minimum int
			takes   time.Duration // until so many have failed
			err     string
		}{
			{0, 2, `shard: 5 of 6 shards have failed: "s01": own; "s02", "s03": context canceled: given up, as too many others have failed; "s04", "s05": not asked: context canceled: given up, as too many others have failed`},
			{5, 4, `shard: 4 of 6 shards have failed: "s01", "s03": own; "s04", "s05": context canceled: given up, as too many others have failed`},
			{4, 6, `shard: 3 of 6 shards have failed: "s01", "s03", "s05": own`},
			{3, 6, `shard: 3 of 6 shards have failed: "s01", "s03", "s05": own`},
		} {
			start := time.Now()
			_, err := ask(t.Context(), shardsOf(6), Policy{Concurrency: 3, MinSuccess: x.minimum, FailFast: true},
				func(ctx context.Context, s ID) (string, error) {
					i := time.Duration(s[2] - '0')
					select {
					case <-ctx.Done():
						require.ErrorIs(t, context.Cause(ctx), ErrGivenUp)
						return "", ctx.Err()
					case <-time.After((i+1)*time.Second - time.Since(start)):
					}
					if i%2 == 1 {
						return "", errors.New("own")
					}
					return "", nil
				})
			require.EqualError(t, err, x.err)
			require.Equal(t, x.takes*time.Second, time.Since(start))
			require.Equal(t, strings.Contains(x.err, "given up"), errors.Is(err, ErrGivenUp))
			var partial *PartialError
			require.ErrorAs(t, err, &partial)
			require.Equal(t, x.minimum == 3, partial.Enough)
		}
	})
}

// What is returned beside an error is dropped: nothing keeps it alive.
func TestDropped(t *testing.T) {
	replies, err := Gather(t.Context(), shardsOf(9), Policy{}, func(_ context.Context, s ID) (*int, error) {
		if (s[2]-'0')%3 == 1 {
			return new(int), errors.New("failed")
		}
		return new(int), nil
	})
	require.Error(t, err)
	require.Len(t, replies, 6)
	for i, r := range replies[:9] {
		require.Equal(t, i < 6, r.Value != nil)
	}
}

// At whatever time the context ends: nothing is begun after that, what has been answered counts, and
// all that has not is named with the cause.
func TestCancelAnywhere(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		const n, together = 10, 3
		why := errors.New("why")
		for end := range 12 { // seconds, and half of one
			ctx, cancel := context.WithCancelCause(t.Context())
			at := time.Duration(end)*time.Second - time.Second/2
			if end == 0 {
				cancel(why)
			} else {
				time.AfterFunc(at, func() { cancel(why) })
			}
			start := time.Now()
			var calls atomic.Int64
			replies, err := ask(ctx, shardsOf(n), Policy{Concurrency: together}, func(ctx context.Context, s ID) (string, error) {
				calls.Add(1)
				require.NoError(t, ctx.Err())
				select {
				case <-ctx.Done():
					require.Equal(t, why, context.Cause(ctx))
					return "", ctx.Err()
				case <-time.After(time.Second):
					return string(s), nil
				}
			})
			done := min(n, max(0, end-1)*together)
			require.Len(t, replies, done)
			for _, r := range replies {
				require.Equal(t, string(r.Shard), r.Value)
			}
			if done == n {
				require.NoError(t, err)
				continue
			}
			require.Equal(t, max(0, at), time.Since(start))
			require.ErrorIs(t, err, why)
			require.ErrorIs(t, err, context.Canceled)
			var partial *PartialError
			require.ErrorAs(t, err, &partial)
			require.Len(t, partial.Failed, n-done)
			require.Equal(t, done, partial.Succeeded)
			asked := 0
			for _, f := range partial.Failed {
				require.ErrorIs(t, f, why)
				require.EqualError(t, f.Err, "context canceled: why")
				if f.Asked {
					asked++
				}
			}
			require.EqualValues(t, done+asked, calls.Load())
		}
	})
}

// fallsAs calls f in a goroutine of its own, and returns what it has panicked with, or "goexit".
func fallsAs(f func()) any {
	var result any = "goexit"
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				result = v
			}
		}()
		f()
		result = "returned"
	}()
	<-done
	return result
}

// A call that panics, or ends its goroutine, ends the others, which are waited for, and then the
// caller.
func TestCrash(t *testing.T) {
	cause := errors.New("cause")
	for how, fall := range map[string]func(){
		"panic":  func() { panic(cause) },
		"goexit": runtime.Goexit,
		"nested": func() {
			Gather(context.Background(), shardsOf(2), Policy{}, func(context.Context, ID) (int, error) { panic(cause) })
		},
	} {
		forAsks(t, func(t *testing.T, ask asker) {
			for i := range 8 {
				for _, bound := range []int{0, 1, 3} {
					var begun, ended atomic.Int64
					start := time.Now()
					got := fallsAs(func() {
						ask(t.Context(), shardsOf(8), Policy{Concurrency: bound}, func(ctx context.Context, s ID) (string, error) {
							begun.Add(1)
							defer ended.Add(1)
							if int(s[2]-'0') == i {
								time.Sleep(time.Second)
								fall()
							}
							if bound == 0 {
								<-ctx.Done()
								require.Equal(t, errCrashed, context.Cause(ctx))
								time.Sleep(time.Second) // it takes its time
							}
							return "", ctx.Err()
						})
					})
					if how == "goexit" {
						require.Equal(t, "goexit", got)
					} else {
						p, ok := got.(*PanicError)
						require.True(t, ok, got)
						require.Equal(t, cause, p.Value)
						require.ErrorIs(t, p, cause)
						require.Contains(t, string(p.Stack), "TestCrash", "the stack is that of the call")
					}
					require.Equal(t, begun.Load(), ended.Load())
					switch bound {
					case 0:
						require.Equal(t, 2*time.Second, time.Since(start))
					case 1:
						require.EqualValues(t, i+1, begun.Load(), "none is begun after that")
					}
				}
			}
		})
	}
}

// If several fall, the first one counts.
func TestCrashTwice(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		got := fallsAs(func() {
			ask(t.Context(), shardsOf(6), Policy{}, func(ctx context.Context, s ID) (string, error) {
				i := int(s[2] - '0')
				time.Sleep(time.Duration(i+1) * time.Second)
				if i%2 == 1 {
					runtime.Goexit()
				}
				panic(i)
			})
		})
		require.Equal(t, 0, got.(*PanicError).Value)
	})
}

// However the loop over a Stream ends, the calls have ended, too.
func TestStreamLeft(t *testing.T) {
	for how, leave := range map[string]func(){
		"break":  nil,
		"panic":  func() { panic("left") },
		"goexit": runtime.Goexit,
	} {
		for _, bound := range []int{0, 1, 3} {
			for at := range 6 {
				for _, crash := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						var running, calls atomic.Int64
						seen := 0
						got := fallsAs(func() {
							for range Stream(t.Context(), shardsOf(6), Policy{Concurrency: bound}, func(ctx context.Context, s ID) (int, error) {
								running.Add(1)
								calls.Add(1)
								defer running.Add(-1)
								select {
								case <-ctx.Done():
									require.Equal(t, errOver, context.Cause(ctx))
									time.Sleep(time.Second)
									if crash {
										panic("call")
									}
									return 0, ctx.Err()
								case <-time.After(time.Duration(s[2]-'0'+1) * time.Second):
									return 0, nil
								}
							}) {
								if seen++; seen > at {
									if leave == nil {
										break
									}
									leave()
								}
							}
						})
						require.Zero(t, running.Load())
						require.Equal(t, at+1, seen)
						if bound > 0 {
							require.LessOrEqual(t, calls.Load(), int64(at+1+bound))
						}
						falls := crash && at < 5 && bound != 1 // some call runs when the loop ends
						p, ok := got.(*PanicError)
						if bound != 1 {
							require.Equal(t, falls, ok, got)
						}
						switch {
						case ok:
							require.Equal(t, "call", p.Value)
						case how == "break":
							require.Equal(t, "returned", got)
						case how == "panic":
							require.Equal(t, "left", got)
						default:
							require.Equal(t, "goexit", got)
						}
					})
				}
			}
		}
	}
}

// A loop that does not take what is there delays the calls: not more than Concurrency replies are held.
func TestStreamWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		taken := 0
		for _, err := range Stream(t.Context(), shardsOf(50), Policy{Concurrency: 4}, func(context.Context, ID) (int, error) {
			calls.Add(1)
			return 0, nil
		}) {
			require.NoError(t, err)
			taken++
			time.Sleep(time.Hour)
			require.EqualValues(t, min(50, taken+4), calls.Load())
		}
		require.Equal(t, 50, taken)
	})
}

// A Stream can be taken by pieces, and given up before it has begun.
func TestStreamPulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, stop := iter.Pull2(Stream(t.Context(), shardsOf(5), Policy{}, noop))
		stop()
		_, _, ok := next()
		require.False(t, ok)
		next, stop = iter.Pull2(Stream(t.Context(), shardsOf(5), Policy{}, noop))
		_, err, ok := next()
		require.NoError(t, err)
		require.True(t, ok)
		stop()
	})
}

// The error of the loop tells also who is not asked because of FailFast: each shard is yielded once.
func TestStreamFailFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replies, failed, last := drain(Stream(t.Context(), shardsOf(10), Policy{Concurrency: 2, FailFast: true}, func(_ context.Context, s ID) (int, error) {
			time.Sleep(time.Second)
			if s == "s04" {
				return 0, errors.New("own")
			}
			time.Sleep(time.Millisecond)
			return 0, nil
		}))
		require.Len(t, replies, 5)
		require.Len(t, failed, 5)
		var partial *PartialError
		require.ErrorAs(t, last, &partial)
		require.ElementsMatch(t, failed, partial.Failed)
		require.Equal(t, "s04", string(failed[0].Shard))
		for i, f := range failed {
			require.Equal(t, i == 0, f.Asked)
			require.Equal(t, i != 0, errors.Is(f, ErrGivenUp))
		}
	})
}

// The context that a call is given ends with Gather, or the loop; if it has a time of its own, with the call.
func TestContextEnds(t *testing.T) {
	forAsks(t, func(t *testing.T, ask asker) {
		for _, p := range []Policy{{Concurrency: 1}, {Concurrency: 1, PerShard: time.Hour}} {
			type key struct{}
			var given []context.Context
			_, err := ask(context.WithValue(t.Context(), key{}, "value"), shardsOf(3), p, func(ctx context.Context, _ ID) (string, error) {
				require.Equal(t, "value", ctx.Value(key{}))
				require.NoError(t, ctx.Err())
				for _, earlier := range given {
					require.Equal(t, p.PerShard > 0, earlier.Err() != nil)
				}
				given = append(given, ctx)
				return "", nil
			})
			require.NoError(t, err)
			for _, ctx := range given {
				require.ErrorIs(t, ctx.Err(), context.Canceled)
			}
		}
	})
}

// An error tells that the context had ended, and why, whether it is the error of the context or not.
func TestBecause(t *testing.T) {
	own, why := errors.New("own"), errors.New("why")
	for _, x := range []struct {
		err, cause error
		want       string
	}{
		{own, why, "own (context canceled: why)"},
		{own, nil, "own (context canceled)"},
		{own, own, "own (context canceled)"},
		{own, context.DeadlineExceeded, "own (context canceled: context deadline exceeded)"},
		{own, &slowError{"a", time.Second}, "own (context canceled after 1s)"},
		{context.Canceled, why, "context canceled: why"},
		{context.Canceled, nil, "context canceled"},
		{context.Canceled, &slowError{"a", time.Second}, "context canceled after 1s"},
		{fmt.Errorf("driver: %w", context.Canceled), why, "driver: context canceled: why"},
		{errors.Join(context.Canceled, why), why, "context canceled\nwhy"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		require.Equal(t, x.err, because(ctx, x.err))
		cancel(x.cause)
		got := because(ctx, x.err)
		require.EqualError(t, got, x.want)
		require.ErrorIs(t, got, x.err)
		require.ErrorIs(t, got, context.Canceled)
		if _, slow := x.cause.(*slowError); !slow {
			require.ErrorIs(t, got, context.Cause(ctx))
		}
	}
}

func TestGatherAllocs(t *testing.T) {
	if underRace {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, n := range []int{1, 16} {
		shards := shardsOf(n)
		slices.Reverse(shards)
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := Gather(ctx, shards, Policy{}, noop); err != nil {
				t.Fatal(err)
			}
		})
		require.LessOrEqual(t, allocs, 5.0, n)
	}
}

// Under load, on as many processors as there are.
func TestGatherStress(t *testing.T) {
	shards := shardsOf(32)
	failure := errors.New("failure")
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		var running, most atomic.Int64
		bound := 1 + i%9
		f := func(ctx context.Context, s ID) (string, error) {
			now := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			n := int(s[1]-'0')*10 + int(s[2]-'0')
			switch {
			case i%5 == 0 && n == i%32:
				cancel()
			case i%3 == 0 && n%4 == 1:
				return "", failure
			case i%7 == 0:
				runtime.Gosched()
			}
			return string(s), ctx.Err()
		}
		for _, ask := range asks {
			replies, err := ask(ctx, shards, Policy{Concurrency: bound, FailFast: i%2 == 0, MinSuccess: 28}, f)
			require.Zero(t, running.Load())
			require.LessOrEqual(t, most.Load(), int64(bound))
			for _, r := range replies {
				require.Equal(t, string(r.Shard), r.Value)
			}
			if err == nil {
				require.Len(t, replies, 32)
				continue
			}
			var partial *PartialError
			require.ErrorAs(t, err, &partial)
			require.Equal(t, len(replies), partial.Succeeded)
			require.Equal(t, 32-len(replies), len(partial.Failed))
		}
		cancel()
	}
}

// TestGatherErrorPanics has errors whose methods panic, as those of a pointer that is nil do, in goroutines where
// nobody could recover.
func TestGatherErrorPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := fallsAs(func() {
			_, _ = Gather(t.Context(), shardsOf(8), Policy{PerShard: time.Millisecond}, func(ctx context.Context, _ ID) (int, error) {
				<-ctx.Done()
				var e *fs.PathError
				return 0, e
			})
		})
		p, ok := got.(*PanicError)
		require.True(t, ok, "%v", got)
		require.ErrorContains(t, p, "nil pointer")
	})
}

// TestStreamKeepsPanic has calls that end their goroutines because the body of the loop has panicked.
func TestStreamKeepsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, "body", fallsAs(func() {
			for range Stream(t.Context(), shardsOf(4), Policy{}, func(ctx context.Context, s ID) (int, error) {
				if s != shardsOf(1)[0] {
					<-ctx.Done()
					runtime.Goexit()
				}
				return 0, nil
			}) {
				panic("body")
			}
		}))
	})
}
