package trace

import "math/bits"

// Belady returns the number of hits that the best possible cache of size
// entries has on keys. No policy can do better, however much it knows; what a
// policy falls short of it is the most that is still to be won.
//
// It is the MIN algorithm (L. A. Belady, "A Study of Replacement Algorithms for
// a Virtual-Storage Computer", IBM Systems Journal 5(2), 1966): evict the entry
// whose next use is the farthest away. The key that just came in counts among
// the entries to choose from, so one that is next used last of all leaves at
// once, which amounts to never admitting it. This is the bound for caches that
// may refuse a key, and what Caffeine's simulator calls clairvoyant; the
// original, which must place every page, can only hit less often.
//
// It takes O(n log n) time, with a logarithm to base 64, and about nine bytes
// a request.
func Belady(keys []uint64, size int) (hits int) {
	if size < 1 {
		return 0
	}
	// next[t] is the time at which the key of request t is used again, or
	// len(keys).
	next := make([]int, len(keys))
	last := make(map[uint64]int)
	for t := len(keys) - 1; t >= 0; t-- {
		if use, ok := last[keys[t]]; ok {
			next[t] = use
		} else {
			next[t] = len(keys)
		}
		last[keys[t]] = t
	}

	// An entry is represented by the time of its next use: that is unique, it
	// tells a hit by itself, and the greatest is the one to evict. Entries
	// without a next use would be evicted before any other, so they can be left
	// out altogether.
	held := newTimes(len(keys))
	count := 0
	for t, use := range next {
		if held.has(t) {
			hits++
			held.remove(t)
			count--
		}
		if use == len(keys) {
			continue
		}
		held.add(use)
		if count++; count > size {
			held.remove(held.max())
			count--
		}
	}
	return hits
}

// times is a set of small integers. Level 0 has a bit for each integer; a bit
// of a higher level says whether the word below it is other than zero. The top
// level is one word.
type times [][]uint64

func newTimes(n int) times {
	var s times
	for {
		n = (n + 63) / 64
		s = append(s, make([]uint64, max(n, 1)))
		if n <= 1 {
			return s
		}
	}
}

func (s times) has(i int) bool { return s[0][i>>6]&(1<<(i&63)) != 0 }

func (s times) add(i int) {
	for _, level := range s {
		level[i>>6] |= 1 << (i & 63)
		i >>= 6
	}
}

func (s times) remove(i int) {
	for _, level := range s {
		level[i>>6] &^= 1 << (i & 63)
		if level[i>>6] != 0 {
			return
		}
		i >>= 6
	}
}

// max returns the greatest member; the set must not be empty.
func (s times) max() int {
	i := 0
	for l := len(s) - 1; l >= 0; l-- {
		i = i<<6 + bits.Len64(s[l][i]) - 1
	}
	return i
}
