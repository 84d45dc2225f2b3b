package arena

import "hash/maphash"

// A Hasher is what the hash of a key depends on beside the key:
//
//	hash = maphash.Comparable(Seed, key) & Mask
//
// The callers write this line themselves, because a method would be just too large for the
// compiler to inline. Comparable panics, as a map does, if the key is or holds an
// interface and the dynamic value in it is not comparable.
type Hasher struct {
	Seed maphash.Seed // random, so that nobody outside can choose keys that collide
	Mask uint64       // all ones; the tests clear bits of it to make hashes collide
}

// NewHasher returns a Hasher with a random seed.
func NewHasher() Hasher { return Hasher{maphash.MakeSeed(), ^uint64(0)} }
