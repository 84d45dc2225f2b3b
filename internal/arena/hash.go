package arena

import "hash/maphash"

// A Hasher hashes keys with a seed of its own, so that nobody outside the process can
// choose keys that collide. The zero value is not ready for use.
type Hasher[K comparable] struct {
	seed maphash.Seed
	mask uint64 // all ones; the tests clear bits of it to make hashes collide
}

// NewHasher returns a Hasher with a random seed.
func NewHasher[K comparable]() Hasher[K] {
	return Hasher[K]{seed: maphash.MakeSeed(), mask: ^uint64(0)}
}

// Hash returns the hash of k, well mixed in all 64 bits. It panics, as a map does, if
// K is or holds an interface and the dynamic value in it is not comparable.
func (h *Hasher[K]) Hash(k K) uint64 {
	return maphash.Comparable(h.seed, k) & h.mask
}

// Degrade makes all hashes agree but in the bits of mask, for tests of collisions.
// It must be called before the first Hash.
func (h *Hasher[K]) Degrade(mask uint64) { h.mask = mask }
