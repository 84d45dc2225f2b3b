package bloom

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// A Key is a type of keys that XXH hashes. (With seed 0, the zero value of Hasher hashes byte arrays of
// any length.)
type Key interface {
	~string | ~[]byte | ~[16]byte | ~[32]byte |
		~int | ~int8 | ~int16 | ~int32 | ~int64 |
		~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// A Hasher turns keys into numbers of 64 bits. XXH, MapHash and Func make one; the
// zero value stands for XXH[K](0), where K is a type that XXH takes. Filters that are to be
// combined must have the same: made by the same call, or, for XXH and Func, with the same
// arguments. A Hasher is safe for concurrent use by multiple goroutines.
type Hasher[K any] struct {
	seed uint64
	f    func(K) uint64
	id   hashID
	form keyForm
}

// hashID names a hash in a stored filter. What it stands for never changes.
type hashID uint32

const (
	hashUnstorable  hashID = 0
	hashXXHBytes    hashID = 1 // strings and byte arrays
	hashXXHInteger  hashID = 2
	hashFunc        hashID = 3
	hashParquetByte hashID = 4 // BOOLEAN
	hashParquet32   hashID = 5 // INT32, FLOAT
	hashParquet64   hashID = 6 // INT64, DOUBLE
	hashParquetVar  hashID = 7 // BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY
	hashMurmurBytes hashID = 8 // of bits-and-blooms/bloom
	hashMurmurInt   hashID = 9
)

// keyForm is how a key lies in memory.
type keyForm uint8

const (
	formNone keyForm = iota
	formWord         // 8 bytes
	formInt8
	formInt16
	formInt32
	formUint8
	formUint16
	formUint32
	formString
	formSlice
	formArray
	formFunc // whatever it is, f hashes it
)

// XXH returns the hash that is the same in every process and on every machine: XXH64 of strings,
// byte slices and byte arrays, and of integers the number itself, widened to 64 bits with its sign,
// so that the same number of another type is the same key; combined with the seed, and mixed. Who
// knows the seed can make keys that collide, and with strings who does not: use MapHash where that
// matters.
func XXH[K Key](seed uint64) Hasher[K] {
	h := Hasher[K]{seed: seed}
	h.form, h.id = formOf[K]()
	return h
}

// MapHash returns a hash like that of Go's maps, for keys of any comparable type. It has a random
// seed, so nobody can foresee collisions; and a filter that uses it cannot be stored. Two
// calls return different hashes. As in maps, a key that has a NaN in it is never found.
func MapHash[K comparable]() Hasher[K] {
	seed := maphash.MakeSeed()
	return Hasher[K]{seed: rand.Uint64(), form: formFunc, f: func(k K) uint64 { return maphash.Comparable(seed, k) }}
}

// Func returns a hash made of f, which must return the same for equal keys and should use all of
// the 64 bits; it may not change afterwards. name stands for f: filters are combined, and stored
// ones read, if it is the same. With name 0, filters cannot be stored, and be combined only if they
// got the value of the same call. f must be safe for concurrent use if the filter is.
func Func[K any](name uint64, f func(K) uint64) Hasher[K] {
	if f == nil {
		panic("bloom: f of Func must not be nil")
	}
	if name == 0 {
		return Hasher[K]{seed: rand.Uint64(), form: formFunc, f: f}
	}
	return Hasher[K]{seed: name, id: hashFunc, form: formFunc, f: f}
}

// Hash returns the hash of k, for AddHash and ContainsHash of the filters that use the same
// Hasher: who asks many filters hashes once. It is not meant for anything else, as the filters
// themselves do the second half of the mixing.
func (h Hasher[K]) Hash(k K) uint64 { return h.hash(k) }

// What integers are mixed with, and then all hashes by the filters: 2^64 divided by the golden
// ratio, and a number of splitmix64. To multiply to 128 bits and fold these is the cheapest way to
// make all bits depend on all others (wyhash is built of it). Once is not enough for integers:
// keys in regular distances, multiples of 100,000,000 say, then crowd in some blocks, and have
// five times the false positives. Where a filter needs more than 128 bits of a hash, it mixes them
// once more.
const (
	mixer  = 0x9e3779b97f4a7c15
	mixer2 = 0xbf58476d1ce4e5b9
	mixer3 = 0xc4ceb9fe1a85ec53
)

// hash is Hash. XXH64 has mixed already; what functions of the caller's have done, nobody knows.
func (h *Hasher[K]) hash(k K) uint64 {
	switch h.form {
	case formWord:
		hi, lo := bits.Mul64(*(*uint64)(unsafe.Pointer(&k))^h.seed, mixer)
		return hi ^ lo
	case formString:
		return xxhash.Sum64String(*(*string)(unsafe.Pointer(&k))) ^ h.seed
	}
	return h.hashOther(k)
}

// hashOther is hash for all other forms of keys.
func (h *Hasher[K]) hashOther(k K) uint64 {
	if h.form == formNone {
		fixed := *h
		if err := fixed.resolve(); err != nil {
			panic(err.Error())
		}
		return fixed.hash(k)
	}
	x := h.raw(k) ^ h.seed
	if h.form == formSlice || h.form == formArray {
		return x
	}
	hi, lo := bits.Mul64(x, mixer)
	return hi ^ lo
}

// raw returns a number of 64 bits for k. It reads k by its form, which formOf derived from
// its type and which nobody can set; see view.go for why that is safe.
func (h *Hasher[K]) raw(k K) uint64 {
	p := unsafe.Pointer(&k)
	switch h.form {
	case formString:
		return xxhash.Sum64String(*(*string)(p))
	case formSlice:
		return xxhash.Sum64(*(*[]byte)(p))
	case formArray:
		return xxhash.Sum64(unsafe.Slice((*byte)(p), unsafe.Sizeof(k)))
	case formFunc:
		return h.f(k)
	}
	return word(p, h.form)
}

// resolve replaces the zero value by what it stands for.
func (h *Hasher[K]) resolve() error {
	if h.form == formNone {
		if h.form, h.id = formOf[K](); h.form == formNone {
			return fmt.Errorf("bloom: Hash is required for keys of type %v", reflect.TypeFor[K]())
		}
	}
	return nil
}

// same reports whether two hashes are the same.
func (h *Hasher[K]) same(o *Hasher[K]) bool {
	return h.seed == o.seed && h.id == o.id && h.form == o.form
}

// read returns the hash of a stored filter, which is to be read into one that has h. The zero value
// takes the hash of the file, if that is one of XXH; what a filter was made with stays.
func (h Hasher[K]) read(id hashID, seed uint64) (Hasher[K], error) {
	fixed := h
	if h.form == formNone {
		fixed.form, fixed.id = formOf[K]()
		fixed.seed = seed
	}
	switch {
	case id == hashUnstorable:
		return h, fmt.Errorf("bloom: stored with a hash that cannot be stored: %w", ErrCorrupt)
	case id == hashFunc && h.form == formNone:
		return h, fmt.Errorf("bloom: stored with a hash made by Func: make the filter to read into with it: %w", ErrMismatch)
	case fixed.id != id:
		return h, fmt.Errorf("bloom: stored with another hash, or other keys, than the filter to read into has: %w", ErrMismatch)
	case fixed.seed != seed:
		return h, fmt.Errorf("bloom: stored with a hash of seed or name %#x, the filter to read into has %#x: %w", seed, h.seed, ErrMismatch)
	}
	return fixed, nil
}

// storable returns an error if no other process has the hash.
func (h *Hasher[K]) storable() error {
	if h.id == hashUnstorable {
		if h.form == formNone {
			return errors.New("bloom: the zero value cannot be stored")
		}
		return fmt.Errorf("bloom: a filter with MapHash, or a Func without a name, cannot be stored: %w", ErrNotStorable)
	}
	return nil
}
