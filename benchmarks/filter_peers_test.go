package benchmarks

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"

	"github.com/FastFilter/xorfilter"
	bnb "github.com/bits-and-blooms/bloom/v3"
	"github.com/cespare/xxhash/v2"
	"github.com/greatroar/blobloom"
	parquet "github.com/parquet-go/parquet-go/bloom"
	parquetxxhash "github.com/parquet-go/parquet-go/bloom/xxhash"
	cuckoo "github.com/seiflotfy/cuckoofilter"

	"github.com/sysblocks/sysblocks/bloom"
)

// A filter is one implementation with keys of one type. Its loops are written out for each, so that
// what is measured is a direct call, as in a program, and not one through an interface: that
// would add the same to all, and so hide differences.
type filter[K any] struct {
	add  func(keys []K)
	test func(keys []K) (found int)
	bits func() uint64
}

// A filterImpl makes filters for n keys at 1 % false positives, or at what it has. build is for
// those that are made of all keys at once.
type filterImpl[K any] struct {
	name  string
	make  func(tb testing.TB, n int) filter[K]
	build func(tb testing.TB, keys []K) filter[K]
}

const filterFPR = 0.01

// blockedImpls are the filters for one goroutine.
func blockedImpls() ([]filterImpl[uint64], []filterImpl[string]) {
	ints := []filterImpl[uint64]{
		{name: "sysblocks", make: func(tb testing.TB, n int) filter[uint64] {
			f := must(bloom.NewBlocked(bloom.Config[uint64]{N: uint64(n), FPR: filterFPR}))(tb)
			return filter[uint64]{
				func(keys []uint64) {
					for _, k := range keys {
						f.Add(k)
					}
				},
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}},
		{name: "bits-and-blooms", make: func(_ testing.TB, n int) filter[uint64] {
			f := bnb.NewWithEstimates(uint(n), filterFPR)
			return filter[uint64]{
				func(keys []uint64) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						f.Add(b[:])
					}
				},
				func(keys []uint64) (found int) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						if f.Test(b[:]) {
							found++
						}
					}
					return found
				}, func() uint64 { return uint64(f.Cap()) }}
		}},
		{name: "blobloom", make: func(_ testing.TB, n int) filter[uint64] {
			f := blobloom.NewOptimized(blobloom.Config{Capacity: uint64(n), FPRate: filterFPR})
			return filter[uint64]{
				func(keys []uint64) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						f.Add(xxhash.Sum64(b[:]))
					}
				},
				func(keys []uint64) (found int) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						if f.Has(xxhash.Sum64(b[:])) {
							found++
						}
					}
					return found
				}, f.NumBits}
		}},
	}
	texts := []filterImpl[string]{
		{name: "sysblocks", make: func(tb testing.TB, n int) filter[string] {
			f := must(bloom.NewBlocked(bloom.Config[string]{N: uint64(n), FPR: filterFPR}))(tb)
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						f.Add(k)
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}},
		{name: "bits-and-blooms", make: func(_ testing.TB, n int) filter[string] {
			f := bnb.NewWithEstimates(uint(n), filterFPR)
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						f.AddString(k)
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						if f.TestString(k) {
							found++
						}
					}
					return found
				}, func() uint64 { return uint64(f.Cap()) }}
		}},
		{name: "blobloom", make: func(_ testing.TB, n int) filter[string] {
			f := blobloom.NewOptimized(blobloom.Config{Capacity: uint64(n), FPRate: filterFPR})
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						f.Add(xxhash.Sum64String(k))
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						if f.Has(xxhash.Sum64String(k)) {
							found++
						}
					}
					return found
				}, f.NumBits}
		}},
	}
	return ints, texts
}

// concurrentImpls are the filters that goroutines may share; bits-and-blooms has none, and is
// given the lock that its users give it.
func concurrentImpls() []filterImpl[string] {
	ours := func(single bool) func(tb testing.TB, n int) filter[string] {
		return func(tb testing.TB, n int) filter[string] {
			f := must(bloom.NewConcurrent(bloom.Config[string]{N: uint64(n), FPR: filterFPR, SingleWinner: single}))(tb)
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						f.Add(k)
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}
	}
	return []filterImpl[string]{
		{name: "sysblocks", make: ours(false)},
		{name: "single-winner", make: ours(true)},
		{name: "blobloom", make: func(_ testing.TB, n int) filter[string] {
			c := blobloom.Config{Capacity: uint64(n), FPRate: filterFPR}
			f := blobloom.NewSyncOptimized(c)
			bits, _ := blobloom.Optimize(c)
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						f.Add(xxhash.Sum64String(k))
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						if f.Has(xxhash.Sum64String(k)) {
							found++
						}
					}
					return found
				}, func() uint64 { return bits }}
		}},
		{name: "bits-and-blooms", make: func(_ testing.TB, n int) filter[string] {
			var mu sync.RWMutex
			f := bnb.NewWithEstimates(uint(n), filterFPR)
			return filter[string]{
				func(keys []string) {
					for _, k := range keys {
						mu.Lock()
						f.AddString(k)
						mu.Unlock()
					}
				},
				func(keys []string) (found int) {
					for _, k := range keys {
						mu.RLock()
						if f.TestString(k) {
							found++
						}
						mu.RUnlock()
					}
					return found
				}, func() uint64 { return uint64(f.Cap()) }}
		}},
	}
}

// splitImpls are the filters of the Parquet format.
func splitImpls() []filterImpl[uint64] {
	return []filterImpl[uint64]{
		{name: "sysblocks", make: func(tb testing.TB, n int) filter[uint64] {
			f := must(bloom.NewSplitBlock(bloom.Config[uint64]{N: uint64(n), FPR: filterFPR}))(tb)
			return filter[uint64]{
				func(keys []uint64) {
					for _, k := range keys {
						f.Add(k)
					}
				},
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}},
		{name: "parquet-go", make: func(_ testing.TB, n int) filter[uint64] {
			f := make(parquet.SplitBlockFilter, parquet.NumSplitBlocksOf(int64(n), 11))
			return filter[uint64]{
				func(keys []uint64) {
					for _, k := range keys {
						f.Insert(parquetxxhash.Sum64Uint64(k))
					}
				},
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Check(parquetxxhash.Sum64Uint64(k)) {
							found++
						}
					}
					return found
				}, func() uint64 { return uint64(len(f)) * parquet.BlockSize * 8 }}
		}},
	}
}

// cuckooImpls are the filters that keys can be deleted from. seiflotfy's has fingerprints of
// 8 bits, so 3 % false positives, and a number of places that is a power of two; it is full
// before these are, so it is asked for a quarter more.
func cuckooImpls() []filterImpl[uint64] {
	return []filterImpl[uint64]{
		{name: "sysblocks", make: func(tb testing.TB, n int) filter[uint64] {
			f := must(bloom.NewCuckoo(bloom.Config[uint64]{N: uint64(n), FPR: filterFPR}))(tb)
			return filter[uint64]{
				func(keys []uint64) {
					for _, k := range keys {
						if err := f.Add(k); err != nil {
							tb.Fatal(err)
						}
					}
				},
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}},
		{name: "seiflotfy", make: func(tb testing.TB, n int) filter[uint64] {
			f := cuckoo.NewFilter(uint(n + n/4))
			places := uint64(1)
			for places < uint64(n+n/4) {
				places *= 2
			}
			return filter[uint64]{
				func(keys []uint64) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						if !f.Insert(b[:]) {
							tb.Fatal("full")
						}
					}
				},
				func(keys []uint64) (found int) {
					var b [8]byte
					for _, k := range keys {
						binary.LittleEndian.PutUint64(b[:], k)
						if f.Lookup(b[:]) {
							found++
						}
					}
					return found
				}, func() uint64 { return places * 8 }}
		}},
	}
}

// fuseImpls are the filters that are made once of all keys, with 0.39 % false positives. xorfilter
// takes numbers, and mixes them itself.
func fuseImpls() []filterImpl[uint64] {
	return []filterImpl[uint64]{
		{name: "sysblocks", build: func(tb testing.TB, keys []uint64) filter[uint64] {
			f := must(bloom.BuildFuse8(bloom.Config[uint64]{}, slices.Values(keys)))(tb)
			return filter[uint64]{nil,
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, f.Bits}
		}},
		{name: "xorfilter", build: func(tb testing.TB, keys []uint64) filter[uint64] {
			f := must(xorfilter.PopulateBinaryFuse8(slices.Clone(keys)))(tb)
			return filter[uint64]{nil,
				func(keys []uint64) (found int) {
					for _, k := range keys {
						if f.Contains(k) {
							found++
						}
					}
					return found
				}, func() uint64 { return uint64(len(f.Fingerprints)) * 8 }}
		}},
	}
}
