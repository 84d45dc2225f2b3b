package benchmarks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var filterSizes = flag.String("filters", "10000,1000000,10000000", "numbers of keys of the filters")

// BenchmarkBlocked compares the filters for one goroutine: add is of new keys, hit of keys that are
// there, in an order that has nothing to do with that of the adds, miss of others.
func BenchmarkBlocked(b *testing.B) {
	ints, texts := blockedImpls()
	compareFilters(b, "keys=uint64", ints, uintKeys, 1, "add", "hit", "miss")
	compareFilters(b, "keys=string", texts, textKeys, 1, "add", "hit", "miss")
}

// BenchmarkBlockedParallel is Blocked's look-ups by two goroutines, nobody adding.
func BenchmarkBlockedParallel(b *testing.B) {
	ints, texts := blockedImpls()
	compareFilters(b, "keys=uint64", ints, uintKeys, 2, "hit", "miss")
	compareFilters(b, "keys=string", texts, textKeys, 2, "hit", "miss")
}

// BenchmarkConcurrent compares the filters that goroutines share, with one and two.
func BenchmarkConcurrent(b *testing.B) {
	compareFilters(b, "keys=string/goroutines=1", concurrentImpls(), textKeys, 1, "add", "hit", "miss")
	compareFilters(b, "keys=string/goroutines=2", concurrentImpls(), textKeys, 2, "add", "hit", "miss")
}

// BenchmarkSplitBlock compares the filters of the Parquet format.
func BenchmarkSplitBlock(b *testing.B) {
	compareFilters(b, "keys=uint64", splitImpls(), uintKeys, 1, "add", "hit", "miss")
}

// BenchmarkCuckoo compares the filters with deletion.
func BenchmarkCuckoo(b *testing.B) {
	compareFilters(b, "keys=uint64", cuckooImpls(), uintKeys, 1, "add", "hit", "miss")
}

// BenchmarkFuse compares the filters that are made of all keys at once.
func BenchmarkFuse(b *testing.B) {
	compareFilters(b, "keys=uint64", fuseImpls(), uintKeys, 1, "hit", "miss")
}

// uintKeys returns random numbers: n that are added, those that are looked up and found, and those
// that are looked up and not.
func uintKeys(n int) (added, hits, misses []uint64) {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	added = make([]uint64, n)
	for i := range added {
		added[i] = rng.Uint64()
	}
	hits, misses = make([]uint64, lookups(n)), make([]uint64, lookups(n))
	for i := range hits {
		hits[i], misses[i] = added[rng.IntN(n)], rng.Uint64()
	}
	return added, hits, misses
}

// textKeys returns strings of 16 bytes.
func textKeys(n int) (added, hits, misses []string) {
	const width = 16
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	// All lie in the order in which they are used: what is measured is the filter, not how the
	// keys come from memory.
	format := func(n int, key func(i int) (string, int)) []string {
		var all strings.Builder
		all.Grow(n * width)
		for i := range n {
			prefix, number := key(i)
			fmt.Fprintf(&all, "%s%011d", prefix, number)
		}
		s := all.String()
		keys := make([]string, n)
		for i := range keys {
			keys[i] = s[i*width : (i+1)*width]
		}
		return keys
	}
	added = format(n, func(i int) (string, int) { return "user:", i })
	hits = format(lookups(n), func(int) (string, int) { return "user:", rng.IntN(n) })
	order := rng.Perm(lookups(n))
	misses = format(lookups(n), func(i int) (string, int) { return "none:", order[i] })
	return added, hits, misses
}

// lookups is how many keys are looked up again and again: so many that all of a filter is used.
func lookups(n int) int { return min(n, 2_000_000) }

// compareFilters lets the implementations take turns with each operation.
func compareFilters[K any](b *testing.B, kind string, impls []filterImpl[K], keys func(n int) (added, hits, misses []K), goroutines int, ops ...string) {
	sizes := *filterSizes
	if testing.Short() {
		sizes = "1000"
	}
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatalf("-filters: %v", err)
		}
		added, hits, misses := keys(n)
		runs := make([]*filterOps[K], len(impls))
		for i, in := range impls {
			runs[i] = &filterOps[K]{impl: in, n: n, added: added, hits: hits, misses: misses}
		}
		for _, op := range ops {
			for round := range *rounds {
				for j := range impls {
					r := runs[(j+round)%len(impls)]
					name := fmt.Sprintf("op=%s/%s/n=%d/impl=%s/round=%d", op, kind, n, r.impl.name, round+1)
					b.Run(name, func(b *testing.B) {
						b.ReportAllocs()
						r.fill(b)
						if op == "add" {
							r.addNew(b, goroutines)
						} else {
							r.lookUp(b, op == "hit", goroutines)
						}
						b.ReportMetric(float64(r.filter.bits())/float64(n), "bits/key")
						b.ReportMetric(100*r.fpr, "%fpr")
					})
				}
			}
		}
	}
}

// filterOps is one implementation in a comparison.
type filterOps[K any] struct {
	impl                filterImpl[K]
	n                   int
	added, hits, misses []K
	filter              filter[K]
	filled              bool
	fpr                 float64
	at                  int // where in the keys the next run begins
}

// fill makes the filter with all keys, once, and measures its false positives.
func (r *filterOps[K]) fill(tb testing.TB) {
	if r.filled {
		return
	}
	if r.impl.build != nil {
		r.filter = r.impl.build(tb, r.added)
	} else {
		r.filter = r.impl.make(tb, r.n)
		r.filter.add(r.added)
	}
	if found := r.filter.test(r.added); found != len(r.added) {
		tb.Fatalf("%d of %d keys are missing", len(r.added)-found, len(r.added))
	}
	r.fpr = float64(r.filter.test(r.misses)) / float64(len(r.misses))
	r.filled = true
}

// addNew adds b.N new keys: when all are in, it goes on with an empty filter.
func (r *filterOps[K]) addNew(b *testing.B, goroutines int) {
	for left := b.N; left > 0; {
		b.StopTimer()
		f := r.impl.make(b, r.n)
		b.StartTimer()
		part := r.added[:min(len(r.added), left)]
		divide(part, goroutines, func(keys []K) int {
			f.add(keys)
			return 0
		})
		left -= len(part)
	}
}

// lookUp looks b.N keys up, and goes on where it ended the last time.
func (r *filterOps[K]) lookUp(b *testing.B, hit bool, goroutines int) {
	keys := r.misses
	if hit {
		keys = r.hits
	}
	found := 0
	b.ResetTimer()
	for left := b.N; left > 0; {
		r.at %= len(keys)
		part := keys[r.at:min(len(keys), r.at+left)]
		found += divide(part, goroutines, r.filter.test)
		r.at += len(part)
		left -= len(part)
	}
	if hit && found != b.N {
		b.Fatalf("%d of %d keys are missing", b.N-found, b.N)
	}
}

// divide calls do with the keys, in as many parts as there are goroutines, and adds up.
func divide[K any](keys []K, goroutines int, do func([]K) int) int {
	if goroutines == 1 {
		return do(keys)
	}
	var sum atomic.Int64
	var wg sync.WaitGroup
	for i := range goroutines {
		part := keys[len(keys)*i/goroutines : len(keys)*(i+1)/goroutines]
		wg.Go(func() { sum.Add(int64(do(part))) })
	}
	wg.Wait()
	return int(sum.Load())
}
