package consistenthash

import (
	"math/bits"
	"sync"
)

// Logarithms in fixed point. The scores of weighted rendezvous hashing decide who owns a key, so
// every machine must compute the same ones to the last bit, and math.Log does not promise that:
// some platforms have it in assembly, others may fuse its multiplications and additions.
const (
	logBits  = 10 // of the mantissa choose an entry of the table
	logPoint = 57 // binary places, so that logarithms from 0 to 64 fit into 64 bits
)

// logTable returns a table whose entry i is log2(1 + i/2^logBits), rounded down to logPoint
// binary places. It is made by squaring, in integers: squaring doubles a logarithm, so each
// square that reaches 2 gives a binary digit 1.
var logTable = sync.OnceValue(func() *[1<<logBits + 1]uint64 {
	t := new([1<<logBits + 1]uint64)
	for i := range 1 << logBits {
		x := uint64(1<<logBits+i) << (63 - logBits) // from 1 to 2, with 63 binary places
		var log uint64
		for range logPoint {
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
	t[1<<logBits] = 1 << logPoint
	return t
})

// negLog returns -log2(u / 2^64) in units of 2^-logPoint, rounded up, so at least 1; of 0 as of 1.
//
// Between entries of the table it takes the chord. That makes it monotone, which the order of
// scores relies on: a greater u never has a greater result, as the entries ascend, the chord
// meets them at both ends, and rounding keeps the order. The chord makes it too high by less
// than 2^-22: for the u of winners among many nodes, near 2^64, by a factor that all of them have in
// common; with few nodes of very different weights it makes 0.03 % of a light one's share, at most.
func negLog(t *[1<<logBits + 1]uint64, u uint64) uint64 {
	u = max(u, 1)
	zeros := bits.LeadingZeros64(u)
	m := u << zeros // from 1 to 2, with 63 binary places
	i := m << 1 >> (64 - logBits)
	below, above := t[i], t[i+1]
	part, _ := bits.Mul64(above-below, m<<(1+logBits))
	return uint64(zeros+1)<<logPoint - (below + part)
}
