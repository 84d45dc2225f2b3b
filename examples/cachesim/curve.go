package main

import "sort"

// A curve holds the hits at every cache size: curve[size], from 0 to the number
// of distinct keys. It never falls.
type curve []int

// lruCurve returns the hits of least recently used at every size from one pass.
//
// LRU has the inclusion property: a cache of size s holds what one of size s-1
// holds, and one entry more. So a request hits in exactly the caches whose size
// is at least its stack distance, the number of distinct keys asked for since
// the same key's last request, itself included (R. L. Mattson, J. Gecsei,
// D. R. Slutz and I. L. Traiger, "Evaluation techniques for storage
// hierarchies", IBM Systems Journal 9(2), 1970). A Fenwick tree over time, with
// a one at each key's last request, counts them in O(log n).
func lruCurve(keys []uint64) curve {
	ones := make(fenwick, len(keys)+1)
	last := make(map[uint64]int) // of each key, from 1
	hits := make(curve, 1)
	for i, key := range keys {
		now := i + 1
		if then, ok := last[key]; ok {
			distance := len(last) - ones.sum(then-1)
			hits[distance]++
			ones.add(then, -1)
		} else {
			hits = append(hits, 0)
		}
		ones.add(now, 1)
		last[key] = now
	}
	for size := 1; size < len(hits); size++ {
		hits[size] += hits[size-1]
	}
	return hits
}

// smallest returns the least size with at least the given number of hits, or
// false if there is none.
func (c curve) smallest(hits int) (size int, ok bool) {
	size = sort.SearchInts(c, hits)
	return size, size < len(c)
}

// fenwick holds prefix sums over 1, 2, …, len-1 (P. M. Fenwick, "A New Data
// Structure for Cumulative Frequency Tables", Software: Practice and Experience
// 24(3), 1994).
type fenwick []int32

func (f fenwick) add(i int, delta int32) {
	for ; i < len(f); i += i & -i {
		f[i] += delta
	}
}

func (f fenwick) sum(i int) (total int) {
	for ; i > 0; i -= i & -i {
		total += int(f[i])
	}
	return total
}
