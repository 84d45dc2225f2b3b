// Package sharding has the numbers by which a cache divides itself into shards, with a lock
// each.
package sharding

import "math/bits"

// Max bounds the number of shards that a user may ask for: no machine gains from more.
const Max = 1 << 16

const (
	// perProc and maxDefault say how many shards there are by default for each CPU, and at
	// the most. Readers do not get in each other's way within a shard; the number is for
	// writers, of whom two at once should seldom meet. With only one CPU they meet when one
	// is preempted; there it counts more that the ends of fewer lists stay in the
	// cache, and there are two, because one would have to be exact.
	perProc    = 32
	oneProc    = 2
	maxDefault = 256

	// stripesPerProc and maxStripes say in how many stripes of a lock the readers
	// announce themselves: a goroutine on another CPU uses the same one, and so slows
	// the reader down, with a chance of one in eight or less on up to four CPUs.
	stripesPerProc = 4
	maxStripes     = 16
)

// Default returns the number of shards of a cache for procs CPUs, each of which is to
// have minShare of the capacity at least, and maxShare at most: a power of two.
func Default(procs, capacity, minShare, maxShare int) int {
	most := min(perProc*procs, maxDefault)
	if procs == 1 {
		most = oneProc
	}
	n := FloorPow2(max(1, min(most, capacity/minShare)))
	for n < Max && capacity/n >= maxShare {
		n *= 2
	}
	return n
}

// Asked returns the number of shards of a cache whose user asks for n, at least 1: a power
// of two, at most the capacity.
func Asked(n, capacity int) int {
	return min(1<<bits.Len(uint(n-1)), FloorPow2(capacity))
}

// Share returns the part of capacity that shard i of n has. The parts add up to
// capacity, and none of them shrinks when the capacity grows.
func Share(capacity, n, i int) uint64 {
	if i < capacity%n {
		return uint64(capacity/n) + 1
	}
	return uint64(capacity / n)
}

// Stripes returns the number of stripes in which the readers of a shard announce themselves,
// at most most: a power of two. With one CPU no two of them can disturb each other.
func Stripes(procs, most int) int {
	if procs == 1 {
		return 1
	}
	return min(stripesPerProc*FloorPow2(procs), maxStripes, FloorPow2(max(1, most)))
}

// FloorPow2 returns the largest power of two that is at most n, which is at least 1.
func FloorPow2(n int) int { return 1 << (bits.Len(uint(n)) - 1) }
