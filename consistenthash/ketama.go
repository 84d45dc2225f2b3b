package consistenthash

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// Ketama returns the placement of libketama (R. Jones, last.fm, 2007), for clusters whose clients
// already use it: memcached's, twemproxy's with its ketama distribution and md5 hash, and many
// others. A node's ID is what the other clients name it in their list, usually "host:port". For a
// new cluster, Ring is the same idea, is faster, and is not disturbed by a change of weights.
//
// Each node has 160 points of 32 bits, or with different weights as many as libketama gives it,
// four from each MD5 of "ID-k"; a node of very low weight may get none, and then no keys. A node
// that comes or leaves can change the others' number of points, with different weights, and with
// equal ones for some numbers of nodes (61 is the first), for which libketama's arithmetic gives
// 156: then 1 or 2 % of the keys move between others. Keys are hashed with MD5, so GetHash takes
// the first four bytes of a key's, read as a little-endian number, in the upper 32 bits of a
// position. Points at the same position are all kept, and the one of the lowest ID counts;
// libketama leaves open which.
func Ketama() Algorithm { return ketamaAlgorithm{} }

type ketamaAlgorithm struct{}

func (ketamaAlgorithm) String() string { return "ketama" }

func (ketamaAlgorithm) HashKey(key []byte) uint64 {
	sum := md5.Sum(key)
	return uint64(binary.LittleEndian.Uint32(sum[:])) << 32
}

func (ketamaAlgorithm) Build(nodes []Node) (Picker, error) {
	order, err := ordered(nodes)
	if err != nil {
		return nil, err
	}
	var total, n uint64
	for i := range nodes {
		if w := nodes[i].Weight; w > 0 {
			total += uint64(w)
			n++
		}
	}
	counts := make([]int, len(order)) // of MD5s, each of which gives four points
	sum := 0
	for i, at := range order {
		w := nodes[at].Weight
		if w == 0 {
			continue
		}
		// libketama computes floorf(pct * 40.0 * n), with pct as a float; so do we, rounding
		// where it rounds.
		pct := float32(w) / float32(total)
		counts[i] = int(math.Floor(float64(float32(float64(float64(pct)*40) * float64(n)))))
		sum += counts[i]
	}
	if 4*sum > maxPoints {
		return nil, fmt.Errorf("consistenthash: Ketama takes at most %d points, got %d with %d nodes", maxPoints, 4*sum, n)
	}
	points := make([]ringPoint, 0, 4*sum)
	var name []byte
	for i, at := range order {
		for k := range counts[i] {
			name = strconv.AppendInt(append(append(name[:0], nodes[at].ID...), '-'), int64(k), 10)
			sum := md5.Sum(name)
			for j := 0; j < len(sum); j += 4 {
				// A point of 32 bits stands for all positions with the same upper half, so
				// that a key at the same 32 bits is not after it.
				p := uint64(binary.LittleEndian.Uint32(sum[j:]))<<32 | math.MaxUint32
				points = append(points, ringPoint{p, int32(i)})
			}
		}
	}
	return newRing(points, order), nil
}
