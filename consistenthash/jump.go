package consistenthash

// Jump returns the bucket, from 0 to n - 1, of the key at h; -1 if n is less than 1. It is the jump
// consistent hash of J. Lamping and E. Veach ("A Fast, Minimal Memory, Consistent Hash
// Algorithm", 2014).
//
// It needs no memory, spreads keys evenly, and moves the least that is possible when the number
// of buckets grows or shrinks at the end. Buckets are numbers: one in the middle cannot be
// removed, and there are no weights. It takes O(log n).
func Jump(h uint64, n int) int {
	b, j := int64(-1), int64(0)
	for j < int64(n) {
		b = j
		h = h*2862933555777941757 + 1
		next := float64(b+1) * (float64(1<<31) / float64(h>>33+1))
		if next >= float64(n) {
			break // it need not fit into an int64
		}
		j = int64(next)
	}
	return int(b)
}
