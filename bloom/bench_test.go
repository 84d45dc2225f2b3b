package bloom

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// BenchmarkKinds is the table in the package's comment: what one look-up costs in a filter of
// 10,000 keys at 1 %, beside the share that is found and the bits a key. In a stream of keys that are
// there and keys that are not, at random, the caller's branch on the result is mispredicted
// half the time, and that is measured, too.
func BenchmarkKinds(b *testing.B) {
	const n = 10_000
	rng := rand.New(rand.NewPCG(1, 1))
	added, absent := make([]uint64, n), make([]uint64, n)
	for i := range added {
		added[i], absent[i] = rng.Uint64(), rng.Uint64()
	}
	mixed := make([]uint64, 1<<20) // so long that no branch predictor remembers it
	for i := range mixed {
		if mixed[i] = added[rng.IntN(n)]; rng.IntN(2) == 0 {
			mixed[i] = absent[rng.IntN(n)]
		}
	}
	c := Config[uint64]{N: n, FPR: 0.01}
	single := c
	single.SingleWinner = true
	small := c
	small.N = n/31 + 1
	blocked, _ := NewBlocked(c)
	concurrent, _ := NewConcurrent(c)
	words, _ := NewConcurrent(single)
	split, _ := NewSplitBlock(c)
	classic, _ := NewClassic(c)
	scalable, _ := NewScalable(c)
	grown, _ := NewScalable(small)
	rotating, _ := NewRotating(RotatingConfig[uint64]{N: n/4 + 1, FPR: 0.01, Generations: 3, Window: 1 << 60})
	cuckoo, _ := NewCuckoo(c)
	guard, _ := NewGuard[uint64, int](c)
	for i, k := range added {
		for _, f := range []Filter[uint64]{blocked, concurrent, words, split, classic, scalable, grown, rotating} {
			f.Add(k)
		}
		if i%(n/4) == n/4-1 && i < n-1 {
			rotating.Rotate()
		}
		if err := cuckoo.Add(k); err != nil {
			b.Fatal(err)
		}
	}
	fuse8, err := BuildFuse8(Config[uint64]{}, slices.Values(added))
	if err != nil {
		b.Fatal(err)
	}
	fuse16, err := BuildFuse16(Config[uint64]{}, slices.Values(added))
	if err != nil {
		b.Fatal(err)
	}
	err = guard.Rebuild(context.Background(), func(yield func(uint64, error) bool) {
		for _, k := range added {
			if !yield(k, nil) {
				return
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	bits := func(f interface{ Bits() uint64 }) float64 { return float64(f.Bits()) / n }
	s := guard.state.Load()
	guardBits := bits(s.base)
	for _, f := range s.recent {
		guardBits += bits(f)
	}
	for _, ks := range []struct {
		name string
		keys []uint64
	}{{"hit", added}, {"miss", absent}, {"mixed", mixed}} {
		lookUp(b, "Blocked", ks.name, ks.keys, blocked, bits(blocked))
		lookUp(b, "Concurrent", ks.name, ks.keys, concurrent, bits(concurrent))
		lookUp(b, "SingleWinner", ks.name, ks.keys, words, bits(words))
		lookUp(b, "SplitBlock", ks.name, ks.keys, split, bits(split))
		lookUp(b, "Classic", ks.name, ks.keys, classic, bits(classic))
		lookUp(b, "Scalable", ks.name, ks.keys, scalable, bits(scalable))
		lookUp(b, fmt.Sprintf("Scalable%d", grown.Stages()), ks.name, ks.keys, grown, bits(grown))
		lookUp(b, "Rotating", ks.name, ks.keys, rotating, bits(rotating))
		lookUp(b, "Cuckoo", ks.name, ks.keys, cuckoo, bits(cuckoo))
		lookUp(b, "Fuse8", ks.name, ks.keys, fuse8, bits(fuse8))
		lookUp(b, "Fuse16", ks.name, ks.keys, fuse16, bits(fuse16))
		lookUp(b, "Guard", ks.name, ks.keys, guard, guardBits)
	}
}

func lookUp[F Tester[uint64]](b *testing.B, kind, name string, keys []uint64, f F, bits float64) {
	b.Run(fmt.Sprintf("kind=%s/keys=%s", kind, name), func(b *testing.B) {
		b.ReportAllocs()
		found, i, sum := 0, 0, uint64(0)
		for b.Loop() {
			k := keys[i]
			if i++; i == len(keys) {
				i = 0
			}
			if f.Contains(k) {
				found++
				sum += k * k // something that is not done without a branch
			} else {
				sum ^= k
			}
		}
		b.ReportMetric(100*float64(found)/float64(b.N), "%found")
		b.ReportMetric(bits, "bits/key")
		sink = sum
	})
}

var sink uint64
