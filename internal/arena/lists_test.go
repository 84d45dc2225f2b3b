package arena

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLists compares random operations on three lists with slices.
func TestLists(t *testing.T) {
	const room, steps = 50, 20_000
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	hasher := NewHasher()
	var a Lists[int, int]
	require.True(t, a.Full())
	a.Init(room)
	var lists [3]List
	var want [3][]int // keys, the front first
	for step := range steps {
		k := r.IntN(2 * room)
		h := hashOf(hasher, k)
		n, to := a.Find(h, k), r.IntN(3)
		from := slices.IndexFunc(want[:], func(keys []int) bool { return slices.Contains(keys, k) })
		require.Equal(t, from >= 0, n != 0, "seed %d, step %d", seed, step)
		if n != 0 {
			require.Equal(t, h, a.Hash(n))
			a.Detach(&lists[from], n)
			want[from] = slices.DeleteFunc(want[from], func(o int) bool { return o == k })
			if r.IntN(2) == 0 {
				a.Drop(n)
				continue
			}
		} else {
			if a.Full() {
				continue
			}
			n = a.Add(h, k, step)
		}
		a.PushFront(&lists[to], n)
		want[to] = slices.Insert(want[to], 0, k)

		require.NoError(t, a.Check(&lists[0], &lists[1], &lists[2]), "seed %d, step %d", seed, step)
		for i := range lists {
			l := &lists[i]
			require.Equal(t, len(want[i]), l.Len())
			var keys, back []int
			for n := l.Front(); n != 0; n = a.Next(n) {
				keys = append(keys, *a.Key(n))
			}
			for n := l.Back(); n != 0; n = a.Prev(n) {
				back = append(back, *a.Key(n))
			}
			slices.Reverse(back)
			require.Equal(t, keys, back)
			require.True(t, slices.Equal(want[i], keys), "seed %d, step %d", seed, step)
		}
	}
}

// TestListsCheck breaks each invariant.
func TestListsCheck(t *testing.T) {
	for name, breaks := range map[string]func(a *Lists[int, int], l *List){
		"cycle":    func(a *Lists[int, int], l *List) { a.nodes[1].next = l.head },
		"nowhere":  func(a *Lists[int, int], l *List) { a.nodes[1].next = 99 },
		"prev":     func(a *Lists[int, int], l *List) { a.nodes[2].prev = 1 },
		"tail":     func(a *Lists[int, int], l *List) { l.tail = 2 },
		"length":   func(a *Lists[int, int], l *List) { l.len++ },
		"unlisted": func(a *Lists[int, int], l *List) { a.Detach(l, 2) },
		"unused":   func(a *Lists[int, int], l *List) { a.used = 2 },
	} {
		var a Lists[int, int]
		var l List
		a.Init(5)
		for k := range 3 {
			a.PushFront(&l, a.Add(uint32(k)<<28, k, k))
		}
		require.NoError(t, a.Check(&l))
		breaks(&a, &l)
		require.Error(t, a.Check(&l), name)
	}
}

func TestMoveBefore(t *testing.T) {
	var a Arena[int, int]
	a.Reserve(5)
	var nodes []uint32
	for k := range 5 {
		nodes = append(nodes, a.Insert(uint32(k)<<28, k, k))
	}
	want := []int{4, 3, 2, 1, 0}
	for range 1000 {
		k, at := rand.IntN(5), rand.IntN(6)
		if k == at {
			continue
		}
		want = slices.DeleteFunc(want, func(o int) bool { return o == k })
		if at == 5 {
			a.MoveBefore(nodes[k], 0)
			want = append(want, k)
		} else {
			a.MoveBefore(nodes[k], nodes[at])
			want = slices.Insert(want, slices.Index(want, at), k)
		}
		require.NoError(t, a.Check())
		var got []int
		for n := a.Front(); n != 0; n = a.Next(n) {
			got = append(got, *a.Key(n))
		}
		require.Equal(t, want, got)
	}
}
