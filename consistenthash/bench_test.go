package consistenthash

import (
	"fmt"
	"testing"
)

// The benchmarks here are of the package alone; those against other libraries are in benchmarks/.

var benchKeys = func() []string {
	keys := make([]string, 1<<14)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i) // 16 bytes
	}
	return keys
}()

func BenchmarkGet(b *testing.B) {
	for _, a := range algorithms() {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("algorithm=%v/nodes=%d", a, n), func(b *testing.B) {
				m := newMap(b, a, fleet("server", n))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					m.Get(benchKeys[i&(len(benchKeys)-1)])
					i++
				}
			})
		}
	}
}

func BenchmarkGetN(b *testing.B) {
	for _, a := range algorithms() {
		for name, p := range map[string]Placement{"any": {}, "zones": {MaxPerZone: 1}} {
			b.Run(fmt.Sprintf("algorithm=%v/nodes=100/n=3/placement=%s", a, name), func(b *testing.B) {
				m := newMap(b, a, fleet("server", 100))
				b.ReportAllocs()
				dst := make([]string, 0, 3)
				i := 0
				for b.Loop() {
					dst, _ = m.GetN(dst[:0], benchKeys[i&(len(benchKeys)-1)], 3, p)
					i++
				}
			})
		}
	}
}

func BenchmarkJump(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("buckets=%d", n), func(b *testing.B) {
			h := uint64(0)
			for b.Loop() {
				h += uint64(Jump(HashUint64(h), n)) + 1
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, a := range algorithms() {
		for _, weights := range []string{"equal", "1to10"} {
			b.Run(fmt.Sprintf("algorithm=%v/nodes=1000/weights=%s", a, weights), func(b *testing.B) {
				members := fleet("server", 1000)
				if weights != "equal" {
					for i := range members {
						members[i].Weight = uint32(1 + i%10)
					}
				}
				b.ReportAllocs()
				for b.Loop() {
					newMap(b, a, members)
				}
			})
		}
	}
}

// BenchmarkUpdate adds one node to 1000 and removes it again: two updates.
func BenchmarkUpdate(b *testing.B) {
	for _, a := range algorithms() {
		b.Run(fmt.Sprintf("algorithm=%v/nodes=1000", a), func(b *testing.B) {
			m := newMap(b, a, fleet("server", 1000))
			b.ReportAllocs()
			for b.Loop() {
				update(b, m, func(tx *Tx[string]) error { return tx.Add(Member[string]{Node: Node{ID: "new", Weight: 1}}) })
				update(b, m, func(tx *Tx[string]) error { return tx.Remove("new") })
			}
		})
	}
}

func BenchmarkBounded(b *testing.B) {
	bounded := newBounded(b, newMap(b, nil, fleet("server", 100)), BoundedConfig{})
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l, err := bounded.Acquire(benchKeys[i&(len(benchKeys)-1)])
			if err != nil {
				b.Error(err)
			}
			l.Release()
		}
	})
}

func BenchmarkDiff(b *testing.B) {
	before, after := newMap(b, nil, fleet("server", 100)), newMap(b, nil, fleet("server", 101))
	for b.Loop() {
		for range Diff(before, after) {
		}
	}
}
