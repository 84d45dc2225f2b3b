package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// An entry is a value that tells where it comes from.
type entry struct{ key, input, index int }

func byKey(a, b entry) int { return cmp.Compare(a.key, b.key) }

// A source is an input that counts what is taken of it, and whether it runs.
type source struct {
	entries []entry
	err     error  // at the end
	fall    func() // at the end
	taken   int
	begun   int
	running int
}

func (s *source) seq(yield func(entry, error) bool) {
	s.begun++
	s.running++
	defer func() { s.running-- }()
	for _, e := range s.entries {
		s.taken++
		if !yield(e, nil) {
			return
		}
	}
	if s.fall != nil {
		s.fall()
	}
	if s.err != nil {
		yield(entry{1, 2, 3}, s.err)
	}
}

// sources are inputs with the given keys.
func sources(keys ...[]int) (list []*source, seqs []iter.Seq2[entry, error]) {
	for i, ks := range keys {
		s := &source{}
		for j, k := range ks {
			s.entries = append(s.entries, entry{k, i, j})
		}
		list, seqs = append(list, s), append(seqs, s.seq)
	}
	return list, seqs
}

// collect returns what seq yields, until it has an error, which must be the last.
func collect[R any](t testing.TB, seq iter.Seq2[R, error]) (values []R, last error) {
	values = []R{}
	for v, err := range seq {
		require.NoError(t, last, "a pair behind the last")
		if last = err; err == nil {
			values = append(values, v)
		}
	}
	return values, last
}

// randomKeys returns the keys of k sorted inputs: few that are equal, or many.
func randomKeys(rng *rand.Rand, k int) [][]int {
	keys := make([][]int, k)
	span := 1 << rng.IntN(12)
	for i := range keys {
		for range rng.IntN(40) * rng.IntN(2) {
			keys[i] = append(keys[i], rng.IntN(span))
		}
		slices.Sort(keys[i])
	}
	return keys
}

// naive is what the merge must be.
func naive(list []*source) []entry {
	all := []entry{}
	for _, s := range list {
		all = append(all, s.entries...)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].key < all[j].key })
	return all
}

func TestMergeSortedModel(t *testing.T) {
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 0))
		k := rng.IntN(20)
		list, seqs := sources(randomKeys(rng, k)...)
		want := naive(list)
		compared := 0
		merged := MergeSorted(func(a, b entry) int { compared++; return byKey(a, b) }, seqs...)
		clear(seqs) // it has its own
		got, err := collect(t, merged)
		require.NoError(t, err, "seed %d", seed)
		require.Equal(t, want, got, "seed %d", seed)
		// One for each level of the tree; one against the first input; one for the order.
		require.LessOrEqual(t, compared, k+len(want)*(bits.Len(uint(max(k-2, 0)))+2), "seed %d", seed)

		// The first n, of which no more is taken than need be, and then all, again.
		n := rng.IntN(len(want) + 2)
		for _, s := range list {
			s.taken, s.begun = 0, 0
		}
		got, err = collect(t, Limit(n, merged))
		require.NoError(t, err, "seed %d", seed)
		require.Equal(t, want[:min(n, len(want))], got, "seed %d", seed)
		taken := 0
		for i, s := range list {
			require.Zero(t, s.running, "seed %d", seed)
			yielded := 0
			for _, e := range got {
				if e.input == i {
					yielded++
				}
			}
			require.LessOrEqual(t, s.taken, yielded+1, "seed %d", seed)
			require.LessOrEqual(t, s.begun, 1, "seed %d", seed)
			taken += s.taken
		}
		require.LessOrEqual(t, taken, max(0, n+k-1), "seed %d", seed)
		if n == 0 {
			require.Zero(t, taken, "seed %d", seed)
		}
		got, _ = collect(t, merged)
		require.Equal(t, want, got, "seed %d", seed)
	}
}

// Any value that is out of order is found, and nothing is yielded that is out of order.
func TestMergeSortedUnsorted(t *testing.T) {
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		k := 1 + rng.IntN(8)
		keys := randomKeys(rng, k)
		bad := rng.IntN(k)
		if len(keys[bad]) < 2 {
			continue
		}
		i := rng.IntN(len(keys[bad]) - 1)
		keys[bad][i], keys[bad][i+1] = keys[bad][i+1], keys[bad][i]
		list, seqs := sources(keys...)
		got, err := collect(t, MergeSorted(byKey, seqs...))
		require.True(t, slices.IsSortedFunc(got, byKey), "seed %d", seed)
		for _, s := range list {
			require.Zero(t, s.running)
		}
		if slices.IsSorted(keys[bad]) {
			require.NoError(t, err, "seed %d", seed)
			continue
		}
		require.ErrorIs(t, err, ErrUnsorted, "seed %d", seed)
		require.EqualError(t, err, fmt.Sprintf("shard: input %d of %d: not sorted", bad, k), "seed %d", seed)
		// All up to the first of the two has been yielded.
		require.Contains(t, got, entry{keys[bad][i], bad, i}, "seed %d", seed)
		require.NotContains(t, got, entry{keys[bad][i+1], bad, i + 1}, "seed %d", seed)
	}
}

// An error of an input ends the merge, before it would yield a value that may not be the next.
func TestMergeSortedError(t *testing.T) {
	failure := errors.New("failure")
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 2))
		k := 1 + rng.IntN(8)
		list, seqs := sources(randomKeys(rng, k)...)
		want := naive(list)
		bad := list[rng.IntN(k)]
		bad.err = failure
		got, err := collect(t, MergeSorted(byKey, seqs...))
		require.Equal(t, failure, err, "seed %d: it is as it was", seed)
		for v, err := range MergeSorted(byKey, seqs...) {
			require.True(t, err == nil || v == entry{}, "seed %d", seed)
		}
		// The merge has come as far as the last value of that input, and not further.
		end := 0
		if n := len(bad.entries); n > 0 {
			end = 1 + slices.Index(want, bad.entries[n-1])
		}
		require.Equal(t, want[:end], got, "seed %d", seed)
		for _, s := range list {
			require.Zero(t, s.running, "seed %d", seed)
		}
	}
}

func TestMergeSortedRefuses(t *testing.T) {
	_, seqs := sources([]int{1}, []int{2})
	require.PanicsWithValue(t, "shard: cmp must not be nil", func() { MergeSorted(nil, seqs...) })
	got, err := collect(t, MergeSorted(byKey, seqs[0], nil, seqs[1]))
	require.Empty(t, got)
	require.EqualError(t, err, "shard: seqs must not be nil, got it at index 1 of 3")
	got, err = collect(t, MergeSorted(byKey))
	require.Empty(t, got)
	require.NoError(t, err)
}

// However the merge ends, all inputs end, also when that makes one fall.
func TestMergeSortedFalls(t *testing.T) {
	for how, fall := range map[string]func(){"panic": func() { panic("fall") }, "goexit": runtime.Goexit} {
		want := any("goexit")
		if how == "panic" {
			want = "fall"
		}
		for k := 1; k < 6; k++ {
			for who := range k + 2 {
				for after := range 8 {
					synctest.Test(t, func(t *testing.T) {
						keys := make([][]int, k)
						for i := range keys {
							keys[i] = []int{i, i + 1, i + 2}
						}
						list, seqs := sources(keys...)
						fallen := false
						fall := func() { fallen = true; fall() }
						left := after // calls of cmp, or values
						if who < k {
							list[who].fall = fall
						}
						got := fallsAs(func() {
							for _, err := range MergeSorted(func(a, b entry) int {
								if left--; who == k && left < 0 {
									fall()
								}
								return byKey(a, b)
							}, seqs...) {
								require.NoError(t, err)
								if left--; who == k+1 && left < 0 {
									fall()
								}
							}
						})
						if fallen {
							require.Equal(t, want, got)
						} else {
							require.Equal(t, "returned", got)
							require.GreaterOrEqual(t, who, k)
						}
						for _, s := range list {
							require.Zero(t, s.running)
						}
					})
				}
			}
		}
	}
}

// Inputs that fall when they are ended do not keep the others from it.
func TestMergeSortedFallsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, seqs := sources([]int{1, 2}, []int{1, 2}, []int{1, 2}, []int{1, 2})
		for i := range seqs {
			seqs[i] = func(yield func(entry, error) bool) {
				defer func() {
					if list[i].running != 0 {
						t.Error("it runs")
					}
					panic(i)
				}()
				list[i].seq(yield)
			}
		}
		got := fallsAs(func() {
			for range MergeSorted(byKey, seqs...) {
				break
			}
		})
		require.NotEqual(t, "returned", got)
		for _, s := range list {
			require.Zero(t, s.running)
			require.Equal(t, 1, s.begun)
		}
	})
}

// Where the loop ends, nothing more is taken.
func TestMergeSortedBreak(t *testing.T) {
	for k := 1; k < 6; k++ {
		for n := 1; n <= 3*k; n++ {
			synctest.Test(t, func(t *testing.T) {
				list, seqs := sources(slices.Repeat([][]int{{1, 2, 3}}, k)...)
				yielded := 0
				for v, err := range MergeSorted(byKey, seqs...) {
					require.NoError(t, err)
					require.Equal(t, entry{1 + yielded/k, yielded % k, yielded / k}, v)
					if yielded++; yielded == n {
						break
					}
				}
				taken := 0
				for _, s := range list {
					require.Zero(t, s.running)
					taken += s.taken
				}
				require.LessOrEqual(t, taken, n+k-1)
			})
		}
	}
}

// An input that has ended keeps no value alive.
func TestMergeSortedFrees(t *testing.T) {
	m := &merge[*int]{cmp: func(a, b *int) int { return *a - *b }, inputs: make([]input[*int], 3)}
	defer m.stop()
	one, two := 1, 2
	require.NoError(t, m.start([]iter.Seq2[*int, error]{Values([]*int{&one}), Values([]*int{&two}), Values[*int](nil)}))
	require.Nil(t, m.inputs[2].value)
	for i, v := range []*int{&one, &two} {
		require.Equal(t, 2-i, m.left)
		require.Same(t, v, m.min())
		require.NoError(t, m.advance())
		require.Nil(t, m.inputs[i].value)
	}
	require.Zero(t, m.left)
}

func TestLimit(t *testing.T) {
	failure := errors.New("failure")
	for n, want := range []int{0, 1, 2, 3, 3} {
		list, seqs := sources([]int{1, 2, 3})
		list[0].err = failure
		got, err := collect(t, Limit(n, seqs[0]))
		require.Len(t, got, want)
		require.Equal(t, want, list[0].taken, "not more than that")
		require.Equal(t, n > 3, err != nil)
		require.Zero(t, list[0].running)
		if n == 0 {
			require.Zero(t, list[0].begun)
		}
	}
	list, seqs := sources([]int{1, 2, 3})
	got, err := collect(t, Limit(-1, seqs[0]))
	require.Empty(t, got)
	require.EqualError(t, err, "shard: n must be at least 0, got -1")
	require.Zero(t, list[0].begun)
	for range Limit(3, seqs[0]) {
		break
	}
	require.Equal(t, 1, list[0].taken)

	// Errors that do not end what is limited do not count.
	synctest.Test(t, func(t *testing.T) {
		replies, errs := 0, 0
		for _, err := range Limit(2, Stream(t.Context(), shardsOf(6), Policy{Concurrency: 1}, func(_ context.Context, s ID) (int, error) {
			if s == "s00" || s == "s02" {
				return 0, failure
			}
			return 0, nil
		})) {
			if err != nil {
				errs++
			} else {
				replies++
			}
		}
		require.Equal(t, 2, replies)
		require.Equal(t, 2, errs)
	})
}

func TestValues(t *testing.T) {
	got, err := collect(t, Values([]int{3, 1, 2}))
	require.NoError(t, err)
	require.Equal(t, []int{3, 1, 2}, got)
	for v := range Values([]int{3, 1, 2}) {
		require.Equal(t, 3, v)
		break
	}
	got, err = collect(t, Values[int](nil))
	require.NoError(t, err)
	require.Empty(t, got)
}
