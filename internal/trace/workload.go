package trace

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Zipf returns n requests for the given number of distinct keys, of which the
// k-th most popular is asked for with a probability proportional to k to the
// power of -s. Any s > 0 will do: web traffic lies around 0.8, and the larger s
// is, the fewer keys get most of the requests.
//
// The requests depend on the arguments only. The k-th most popular key is the
// same number whatever the seed and the number of keys, so that callers with
// seeds of their own contend for the same keys; the numbers are spread over all
// 64 bits, so that popular keys are not neighbours. Zipf panics if n is
// negative, if there are no keys, or if s is not a positive finite number.
func Zipf(n int, keys uint64, s float64, seed uint64) []uint64 {
	checkLength(n)
	z := newZipf(keys, s)
	rng := newRand(seed)
	out := make([]uint64, n)
	for i := range out {
		out[i] = mix(z.rank(rng))
	}
	return out
}

// Loop returns n requests for 0, 1, …, keys-1, again and again: the worst case
// of least recently used, which never hits unless it holds all of them. Loop
// panics if n is negative or if there are no keys.
func Loop(n int, keys uint64) []uint64 {
	checkLength(n)
	checkKeys(keys)
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i) % keys
	}
	return out
}

// Scan returns n requests in turns of 9,000 requests that follow [Zipf] with
// s = 0.9, and 1,000 that run through new keys, each of which is asked for once
// and never again. It shows how much of what is popular a policy lets a scan
// push out. Scan panics if n is negative or if there are no keys.
func Scan(n int, keys uint64, seed uint64) []uint64 {
	return turns(n, keys, 0, seed)
}

// Synthetic returns n requests that ask of a policy what real traffic does at
// once: to keep what is popular, to resist scans, and to forget. It is [Scan]
// over 20,000 keys, of which after every turn of 10,000 requests the 100 most
// popular become the least popular, while all others move up. Those 100 had more
// than a third of the popular traffic, so a policy that trusts old frequencies
// falls behind.
//
// The first n requests of a longer sequence with the same seed are the same.
// Synthetic panics if n is negative.
func Synthetic(n int, seed uint64) []uint64 {
	return turns(n, 20_000, 100, seed)
}

// turns makes the requests of Scan; after every turn each key moves up by shift
// ranks, and the first ones go to the end.
func turns(n int, keys, shift, seed uint64) []uint64 {
	const (
		popular = 9_000
		turn    = 10_000
	)
	checkLength(n)
	z := newZipf(keys, 0.9)
	rng := newRand(seed)
	out := make([]uint64, n)
	moved := uint64(0)       // below keys
	fresh := uint64(1) << 63 // above all ranks
	for i := range out {
		switch at := i % turn; {
		case at < popular:
			out[i] = mix((z.rank(rng) + moved) % keys)
		default:
			out[i] = mix(fresh)
			fresh++
			if at == turn-1 {
				moved = (moved + shift) % keys
			}
		}
	}
	return out
}

// Reuse returns n requests, of which about every second one is for a new key, and every key is
// asked for once more, between low and high requests later. Nothing is popular: least recently
// used keeps what will be asked for, if it has room for as many keys as come in that time,
// and a policy that goes by frequency has nothing to go by. Reuse panics if n is negative, or
// if not 1 ≤ low ≤ high.
func Reuse(n, low, high int, seed uint64) []uint64 {
	checkLength(n)
	if low < 1 || low > high {
		panic(fmt.Sprintf("trace: the distances must be 1 or more, and the lower one first, got %d and %d", low, high))
	}
	rng := newRand(seed)
	out := make([]uint64, n)
	again := make([]uint64, n) // what is to be asked for once more: 0 for a new key
	fresh := uint64(0)
	for i := range out {
		if again[i] != 0 {
			out[i] = again[i]
			continue
		}
		fresh++
		out[i] = mix(fresh)
		// The first free place from a random distance on, or none.
		for at := i + low + rng.IntN(high-low+1); at < n && at <= i+high; at++ {
			if again[at] == 0 {
				again[at] = out[i]
				break
			}
		}
	}
	return out
}

// Shift returns n requests for a set of that many keys, all equally popular, which after every
// so many requests is replaced as a whole by another one: what was useful is so no more at one
// stroke. Shift panics if n is negative, if there are no keys, or if every is not positive.
func Shift(n int, keys uint64, every int, seed uint64) []uint64 {
	checkLength(n)
	checkKeys(keys)
	if every < 1 {
		panic(fmt.Sprintf("trace: the number of requests to each set must be positive, got %d", every))
	}
	rng := newRand(seed)
	out := make([]uint64, n)
	for i := range out {
		out[i] = mix(uint64(i/every)*keys + rng.Uint64N(keys))
	}
	return out
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// mix is a bijection on 64 bits that leaves no trace of order: the finalizer of
// splitmix64 (G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable
// Pseudorandom Number Generators", OOPSLA 2014). Being a bijection it keeps
// distinct keys distinct.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15 // or else 0 would map to 0
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// zipf samples ranks by rejection-inversion (W. Hörmann and G. Derflinger,
// "Rejection-Inversion to Generate Variates from Monotone Discrete
// Distributions", ACM TOMACS 6(3), 1996): invert the integral of x^-s, a
// continuous hat over the histogram, round to the next integer, and reject what
// falls between hat and histogram. Unlike [rand.Zipf], which has the same
// origin, it takes any s > 0; unlike a table it needs no memory and no start-up
// time; and the distribution is exact, up to rounding.
type zipf struct {
	s         float64
	n         float64
	low, high float64 // the range of the integral that is sampled
	near      float64 // how far below its integer a sample is accepted unseen
}

func newZipf(keys uint64, s float64) zipf {
	checkKeys(keys)
	if !(s > 0) || math.IsInf(s, 1) {
		panic(fmt.Sprintf("trace: the exponent of Zipf must be positive and finite, got %v", s))
	}
	z := zipf{s: s, n: float64(keys)}
	z.low = z.integral(1.5) - 1
	z.high = z.integral(z.n + 0.5)
	z.near = 2 - z.inverse(z.integral(2.5)-z.weight(2))
	return z
}

// rank returns 0 for the most popular key.
func (z zipf) rank(rng *rand.Rand) uint64 {
	for {
		u := z.high + rng.Float64()*(z.low-z.high)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), z.n) // rounding may step outside
		if k-x <= z.near || u >= z.integral(k+0.5)-z.weight(k) {
			return uint64(k) - 1
		}
	}
}

func (z zipf) weight(x float64) float64 { return math.Exp(-z.s * math.Log(x)) }

// integral is (x^(1-s) - 1) / (1-s), or log x where s is 1, in a form that is
// accurate in the neighbourhood of 1 as well.
func (z zipf) integral(x float64) float64 {
	log := math.Log(x)
	t := (1 - z.s) * log
	if math.Abs(t) < 1e-8 {
		return log * (1 + t/2)
	}
	return log * (math.Expm1(t) / t)
}

// inverse of integral.
func (z zipf) inverse(y float64) float64 {
	t := max((1-z.s)*y, -1) // rounding may step below
	if math.Abs(t) < 1e-8 {
		return math.Exp(y * (1 - t/2))
	}
	return math.Exp(y * (math.Log1p(t) / t))
}

func checkLength(n int) {
	if n < 0 {
		panic(fmt.Sprintf("trace: the number of requests must not be negative, got %d", n))
	}
}

// checkKeys keeps the number of keys where float64 counts them one by one.
func checkKeys(keys uint64) {
	if keys < 1 || keys > 1<<53 {
		panic(fmt.Sprintf("trace: the number of keys must be from 1 to 2^53, got %d", keys))
	}
}
