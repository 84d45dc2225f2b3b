// Package fixedlog computes logarithms in fixed point. The scores of weighted rendezvous hashing decide who
// owns a key, so every machine must compute the same ones to the last bit, and math.Log does not promise that:
// some platforms have it in assembly, others may fuse its multiplications and additions.
package fixedlog

import (
	"math/bits"
	"sync"
)

// Point is the number of binary places of a logarithm, so that those from 0 to 64 fit into 64 bits.
const Point = 57

const logBits = 10 // of the mantissa choose an entry of the table

// A Table is what Neg looks up.
type Table = [1<<logBits + 1]uint64

// NewTable returns the Table, which is the same for all callers: entry i is log2(1 + i/2^logBits), rounded down to Point
// binary places. It is made by squaring, in integers: squaring doubles a logarithm, so each
// square that reaches 2 gives a binary digit 1.
var NewTable = sync.OnceValue(func() *Table {
	t := new(Table)
	for i := range 1 << logBits {
		x := uint64(1<<logBits+i) << (63 - logBits) // from 1 to 2, with 63 binary places
		var log uint64
		for range Point {
			hi, lo := bits.Mul64(x, x) // from 1 to 4, with 126
			log <<= 1
			if hi>>63 == 1 {
				log |= 1
				x = hi
			} else {
				x = hi<<1 | lo>>63
			}
		}
		t[i] = log
	}
	t[1<<logBits] = 1 << Point
	return t
})

// Neg returns -log2(u / 2^64) in units of 2^-Point, rounded up, so at least 1; of 0 as of 1.
//
// Between entries of the table it takes the chord. That makes it monotone, which the order of
// scores relies on: a greater u never has a greater result, as the entries ascend, the chord
// meets them at both ends, and rounding keeps the order. The chord makes it too high by less
// than 2^-22: for the u of winners among many nodes, near 2^64, by a factor that all of them have in
// common; with few nodes of very different weights it makes 0.03 % of a light one's share, at most.
func Neg(t *Table, u uint64) uint64 {
	u = max(u, 1)
	zeros := bits.LeadingZeros64(u)
	m := u << zeros // from 1 to 2, with 63 binary places
	i := m << 1 >> (64 - logBits)
	below, above := t[i], t[i+1]
	part, _ := bits.Mul64(above-below, m<<(1+logBits))
	return uint64(zeros+1)<<Point - (below + part)
}
