package arena

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// hashes are the ways in which the tests make keys collide: not at all, in the tag, in
// the bucket, in both.
var hashes = map[string]uint32{
	"random":   math.MaxUint32,
	"tag":      0xffffff00,
	"bucket":   0x000000ff,
	"constant": 0,
	"two":      0x80000001,
}

// TestModel compares random operations with a map and a list, and checks every
// invariant after each.
func TestModel(t *testing.T) {
	for name, mask := range hashes {
		for _, shift := range []uint8{0, 1, 2} {
			t.Run(fmt.Sprintf("hash=%s/young=%d", name, shift), func(t *testing.T) {
				testModel(t, mask, shift, rand.Uint64())
			})
		}
	}
}

func testModel(t *testing.T, mask uint32, shift uint8, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	hasher := NewHasher[int]()
	hasher.Degrade(uint64(mask))
	var a Arena[int, int]
	a.SetYoung(shift)
	values := map[int]int{}
	var order []int // front first; kept only without a young segment, which reorders less
	toFront := func(k int) {
		for i, o := range order {
			if o == k {
				order = append(order[:i], order[i+1:]...)
				break
			}
		}
		order = append([]int{k}, order...)
	}
	drop := func(k int) {
		delete(values, k)
		for i, o := range order {
			if o == k {
				order = append(order[:i], order[i+1:]...)
				return
			}
		}
	}

	for step := range 3000 {
		k := r.IntN(80)
		h := uint32(hasher.Hash(k))
		n := a.Find(h, k)
		want, ok := values[k]
		require.Equal(t, ok, n != 0, "seed %d, step %d: Find(%d)", seed, step, k)
		if ok {
			require.Equal(t, want, *a.Value(n), "seed %d, step %d: value of %d", seed, step, k)
			require.Equal(t, k, *a.Key(n))
		}
		switch op := r.IntN(20); {
		case op == 0 && r.IntN(10) == 0:
			a.Clear()
			clear(values)
			order = order[:0]
		case op == 1:
			a.Reserve(a.Len() + r.IntN(20))
		case op < 6 && ok:
			a.Remove(n)
			drop(k)
		case op < 12 && ok:
			a.Promote(n)
			toFront(k)
		case op < 15 && !ok && a.Len() > 0:
			last := a.Back()
			drop(*a.Key(last))
			a.Replace(last, h, k, step)
			values[k] = step
			toFront(k)
		case !ok:
			if a.Full() {
				a.Reserve(2*a.Len() + 1)
			}
			require.Equal(t, k, *a.Key(a.Insert(h, k, step)))
			values[k] = step
			toFront(k)
		}
		require.NoError(t, a.Check(), "seed %d, step %d", seed, step)
		require.Equal(t, len(values), a.Len())
		if shift == 0 {
			var got []int
			for n := a.Front(); n != 0; n = a.Next(n) {
				got = append(got, *a.Key(n))
			}
			require.Equal(t, append([]int(nil), order...), got, "seed %d, step %d", seed, step)
		}
	}
}

// TestPromoteSlack holds Promote to its word: what has been promoted is in front of the
// last part of the list, and a young node does not move.
func TestPromoteSlack(t *testing.T) {
	var a Arena[int, int]
	a.SetYoung(2)
	hasher := NewHasher[int]()
	a.Reserve(100)
	for k := range 100 {
		a.Insert(uint32(hasher.Hash(k)), k, k)
	}
	position := func(k int) int {
		at := 0
		for n := a.Front(); *a.Key(n) != k; n = a.Next(n) {
			at++
		}
		return at
	}
	for range 10_000 {
		k := rand.IntN(100)
		before := position(k)
		a.Promote(a.Find(uint32(hasher.Hash(k)), k))
		after := position(k)
		if before < 25 {
			require.Equal(t, before, after)
		} else {
			require.Zero(t, after)
		}
	}
}

// TestCheck breaks every invariant, to see that Check sees it.
func TestCheck(t *testing.T) {
	full := func() *Arena[int, int] {
		a := new(Arena[int, int])
		a.SetYoung(1)
		a.Reserve(10)
		for k := 1; k <= 8; k++ {
			a.Insert(uint32(k)<<28|uint32(k), k, k)
		}
		a.Remove(3)
		return a
	}
	require.NoError(t, full().Check())
	require.NoError(t, new(Arena[int, int]).Check())
	for name, breaks := range map[string]func(a *Arena[int, int]){
		"no nodes":         func(a *Arena[int, int]) { a.nodes = nil },
		"hashes":           func(a *Arena[int, int]) { a.hashes = a.hashes[1:] },
		"used":             func(a *Arena[int, int]) { a.used = 99 },
		"unused":           func(a *Arena[int, int]) { a.used++ },
		"list cycle":       func(a *Arena[int, int]) { a.nodes[1].next = 8 },
		"list to unused":   func(a *Arena[int, int]) { a.nodes[8].next = 10 },
		"prev":             func(a *Arena[int, int]) { a.nodes[2].prev = 7 },
		"sentinel's prev":  func(a *Arena[int, int]) { a.nodes[0].prev = 7 },
		"young":            func(a *Arena[int, int]) { a.nodes[1].prev |= young },
		"young length":     func(a *Arena[int, int]) { a.youngLen++ },
		"young edge":       func(a *Arena[int, int]) { a.edge = 1 },
		"length":           func(a *Arena[int, int]) { a.len++ },
		"free cycle":       func(a *Arena[int, int]) { a.nodes[3].next = 3 },
		"free in the list": func(a *Arena[int, int]) { a.nodes[3].next = 4 },
		"lost":             func(a *Arena[int, int]) { a.free = 0 },
		"free with a key":  func(a *Arena[int, int]) { a.nodes[3].key = 1 },
		"tag without node": func(a *Arena[int, int]) { a.buckets[0].setTag(11, 1) },
		"wrong tag":        func(a *Arena[int, int]) { a.buckets[0].setTag(0, a.buckets[0].tag(0)+1) },
		"twice":            func(a *Arena[int, int]) { a.buckets[0].node[1] = a.buckets[0].node[0] },
		"missing": func(a *Arena[int, int]) {
			a.unlink(1)
		},
		"overflow": func(a *Arena[int, int]) { a.buckets[0].overflow++ },
	} {
		a := full()
		breaks(a)
		require.Error(t, a.Check(), name)
	}
}

func TestZeroBytes(t *testing.T) {
	for range 100_000 {
		x := rand.Uint64()
		for i := range 8 {
			if rand.IntN(3) == 0 {
				x &^= 0xff << (8 * i)
			}
		}
		first := func(x uint64, n int) int {
			for i := range n {
				if uint8(x>>(8*i)) == 0 {
					return i
				}
			}
			return n
		}
		lowest := func(marks uint64, n int) int {
			for i := range n {
				if marks>>(8*i)&0x80 != 0 {
					return i
				}
			}
			return n
		}
		require.Equal(t, first(x, 8), lowest(zeroBytes(x), 8), "%x", x)
		require.Equal(t, first(x, 4), lowest(uint64(zeroBytes32(uint32(x))), 4), "%x", uint32(x))
	}
}

func TestTagOf(t *testing.T) {
	for h := range uint32(1 << 10) {
		tag := tagOf(h << 4)
		require.NotZero(t, tag)
		if uint8(h<<4) != 0 {
			require.Equal(t, uint8(h<<4), tag)
		}
	}
}

func TestBucketsFor(t *testing.T) {
	for n := range 10_000 {
		buckets := bucketsFor(n)
		require.GreaterOrEqual(t, buckets*slots*loadPercent, n*100, "%d entries", n)
		require.Less(t, (buckets-1)*slots*loadPercent, max(n*100, 1), "%d entries", n)
	}
	require.Equal(t, int64(255652815), int64(bucketsFor(MaxLen)), "no overflow where int has 32 bits")
}

// TestHasher: hashes depend on the instance, but not on the way a key is held.
func TestHasher(t *testing.T) {
	a, b := NewHasher[string](), NewHasher[string]()
	differ := 0
	for i := range 100 {
		k := fmt.Sprint(i)
		require.Equal(t, a.Hash(k), a.Hash(string([]byte(k))))
		if a.Hash(k) != b.Hash(k) {
			differ++
		}
	}
	require.Greater(t, differ, 90)
	require.Panics(t, func() {
		h := NewHasher[any]()
		h.Hash([]int{1})
	})
}
