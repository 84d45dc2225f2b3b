package arena

import (
	"fmt"
	"hash/maphash"
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
		for _, slack := range []int{0, 25, math.MaxInt} {
			t.Run(fmt.Sprintf("hash=%s/slack=%d", name, slack), func(t *testing.T) {
				testModel(t, mask, slack, rand.Uint64())
			})
		}
	}
}

func testModel(t *testing.T, mask uint32, slack int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	hasher := NewHasher()
	hasher.Mask = uint64(mask)
	var a Arena[int, int]
	a.SetSlack(slack)
	values := map[int]int{}
	var order []int // front first; kept only without slack
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
		h := hashOf(hasher, k)
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
		case op == 2 && r.IntN(10) == 0 && slack == 25:
			a.SetSlack(20 + r.IntN(30))
		case op < 6 && ok:
			a.Remove(n)
			drop(k)
		case op < 12 && ok:
			a.Promote(n)
			toFront(k)
		case op < 15 && !ok && a.Len() > 0:
			last := a.Back()
			drop(*a.Key(last))
			a.ReplaceBack(h, k, step)
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
		if slack == 0 {
			var got []int
			for n := a.Front(); n != 0; n = a.Next(n) {
				got = append(got, *a.Key(n))
			}
			require.Equal(t, append([]int(nil), order...), got, "seed %d, step %d", seed, step)
		}
	}
}

// TestNear holds Near to its word over many turns of the era's eight bits: against a
// count of what has been put in front of each node since it was.
func TestNear(t *testing.T) {
	const room, slack = 64, 16
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	hasher := NewHasher()
	var a Arena[int, int]
	a.SetSlack(slack)
	a.Reserve(room)
	for k := range room {
		a.Insert(hashOf(hasher, k), k, k)
	}
	clock, put := room, map[int]int{}
	for k := range room {
		put[k] = k + 1
	}
	hot := 4
	for step := range 1_000_000 {
		if step%50_000 == 0 {
			hot = 1 + r.IntN(room) // the others get very old
		}
		k := r.IntN(hot)
		if step%10_007 == 0 {
			k = r.IntN(room)
		}
		n := a.Find(hashOf(hasher, k), k)
		near := a.Near(n)
		if since := clock - put[k]; near {
			if since >= slack {
				require.Less(t, since, slack, "seed %d, step %d", seed, step)
			}
		} else if least := slack*3/4 - slack/nearEras; since <= least {
			require.Greater(t, since, least, "seed %d, step %d", seed, step)
		}
		a.Promote(n)
		if near {
			require.True(t, a.Near(n))
		} else {
			clock++
			put[k] = clock
			if n != a.Front() {
				require.Equal(t, n, a.Front())
			}
		}
		if step%1000 == 0 {
			require.NoError(t, a.Check(), "seed %d, step %d", seed, step)
		}
	}
}

// TestAllBucketsPassedOver: a look-up ends although entries that once found no room at home
// have left every bucket with a count.
func TestAllBucketsPassedOver(t *testing.T) {
	var a Arena[int, int]
	a.Reserve(21)
	buckets := len(a.buckets)
	require.Equal(t, 3, buckets)
	k := 0
	insert := func(at int) int {
		k++
		h := uint32(at)*(1<<32/3) + 1<<28 + uint32(k)
		require.Equal(t, at, a.home(h))
		a.Insert(h, k, k)
		return k
	}
	for at := range buckets {
		var keys []int
		for range slots + 1 {
			keys = append(keys, insert(at))
		}
		for _, k := range keys[:slots] {
			for n := a.Front(); n != 0; n = a.Next(n) {
				if *a.Key(n) == k {
					a.Remove(n)
					break
				}
			}
		}
		require.NoError(t, a.Check())
	}
	for at := range buckets {
		require.NotZero(t, a.buckets[at].overflow)
		require.Zero(t, a.Find(uint32(at)*(1<<32/3)+1<<28, -1))
	}
	require.Equal(t, 3, a.Len())
}

// TestChurn turns over small arenas, whose few buckets come into every state.
func TestChurn(t *testing.T) {
	steps := 300_000
	if testing.Short() {
		steps = 30_000
	}
	for _, n := range []int{13, 14, 20, 21, 40} {
		hasher := NewHasher()
		var a Arena[int, int]
		a.Reserve(n)
		for k := range n {
			a.Insert(hashOf(hasher, k), k, k)
		}
		for k := n; k < steps; k++ {
			require.True(t, a.Find(hashOf(hasher, k), k) == 0)
			a.ReplaceBack(hashOf(hasher, k), k, k)
			if k%5 == 0 {
				a.Promote(a.Back())
			}
			require.True(t, a.Find(hashOf(hasher, k), k) != 0)
		}
		require.NoError(t, a.Check())
	}
}

// TestCheck breaks every invariant, to see that Check sees it.
func TestCheck(t *testing.T) {
	full := func() *Arena[int, int] {
		a := new(Arena[int, int])

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
		"tail":             func(a *Arena[int, int]) { a.tail = 7 },
		"near":             func(a *Arena[int, int]) { a.eraLen, a.near, a.mask = 1, 4, 1<<24-1 },
		"length":           func(a *Arena[int, int]) { a.len++ },
		"free cycle":       func(a *Arena[int, int]) { a.nodes[3].next = 3 },
		"free in the list": func(a *Arena[int, int]) { a.nodes[3].next = 4 },
		"lost":             func(a *Arena[int, int]) { a.free = 0 },
		"free with a key":  func(a *Arena[int, int]) { a.nodes[3].key = 1 },
		"tag without node": func(a *Arena[int, int]) { a.buckets[0].setTag(11, 1) },
		"wrong tag":        func(a *Arena[int, int]) { a.buckets[0].setTag(0, a.buckets[0].tag(0)+1) },
		"twice":            func(a *Arena[int, int]) { a.buckets[0].node[1] = a.buckets[0].node[0] },
		"missing": func(a *Arena[int, int]) {
			a.unlink(a.hashes[1], 1)
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
		require.Equal(t, first(x, 8), lowest((x-ones)&^x&highs, 8), "%x", x)
		y := uint32(x)
		require.Equal(t, first(x, 4), lowest(uint64((y-ones32)&^y&highs32), 4), "%x", y)
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
	require.Equal(t, int64(298_261_618), int64(bucketsFor(MaxLen)), "no overflow where int has 32 bits")
}

func hashOf(h Hasher, k int) uint32 { return uint32(maphash.Comparable(h.Seed, k) & h.Mask) }

// setTag sets the tag of a slot.
func (b *bucket) setTag(slot uint, tag uint8) {
	if slot < 8 {
		b.lo = b.lo&^(0xff<<(8*slot)) | uint64(tag)<<(8*slot)
	} else {
		s := 8 * (slot - 8)
		b.hi = b.hi&^(0xff<<s) | uint32(tag)<<s
	}
}
