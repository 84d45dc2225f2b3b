package shard

import (
	"crypto/cipher"
	"crypto/des"
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// A Hash names a function from keys to numbers of 64 bits. What it stands for never changes, on any
// platform; the tests hold it fast by vectors.
type Hash uint8

const (
	// XXH64 is the hash of that name, with a seed: of the bytes of strings and byte slices, and of
	// integers, widened to 64 bits with their sign, of those 8 bytes, the lowest first; so the same
	// number of another type is the same key. Of floating-point numbers it is that of the number that
	// EncodeKey's bytes are. It is no secret: who can choose keys, and knows the
	// seed, can find many of one slot.
	XXH64 Hash = iota + 1
	// CRC16 is the hash of Redis Cluster: CRC-16/XMODEM of the key, or of its tag; see HashTag. Keys
	// are strings or byte slices.
	CRC16
	// Identity is no hash: integers are what they are, widened to 64 bits with their sign.
	Identity
	// VitessHash is the vindex "hash" of Vitess: integers, encrypted by DES with a key of zeros.
	VitessHash
	// VitessXXHash is the vindex "xxhash" of Vitess: XXH64 of the bytes of a key, or of the decimal
	// digits of an integer, with the bytes of the result in the opposite order.
	VitessXXHash
)

var hashNames = map[Hash]string{
	XXH64: "xxh64", CRC16: "crc16", Identity: "identity",
	VitessHash: "vitess-hash", VitessXXHash: "vitess-xxhash",
}

// String returns the name of the hash: "xxh64", "crc16", "identity", "vitess-hash" or "vitess-xxhash".
func (h Hash) String() string {
	if name, ok := hashNames[h]; ok {
		return name
	}
	return "Hash(" + strconv.Itoa(int(h)) + ")"
}

// MarshalText returns the name of the hash.
func (h Hash) MarshalText() ([]byte, error) { return marshalName("Hash", hashNames, h) }

// UnmarshalText sets the hash to the one that has the name.
func (h *Hash) UnmarshalText(text []byte) error { return unmarshalName("Hash", hashNames, h, text) }

// takes reports whether the hash is defined for keys of a kind.
func (h Hash) takes(k KeyKind) bool {
	switch h {
	case CRC16:
		return k == Text
	case Identity, VitessHash:
		return k == Int || k == Uint
	case VitessXXHash:
		return k != Float
	}
	return true
}

// HashTag returns the part of a key by which Redis Cluster places it: what is between the first "{" and the
// first "}" after it, if that is not empty, and else the whole key. Keys with the same tag are in the same
// slot: "{user1}.cart" and "{user1}.orders" are. It takes O(len(key)).
func HashTag(key string) string {
	open := strings.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	inner := key[open+1:]
	if end := strings.IndexByte(inner, '}'); end > 0 {
		return inner[:end]
	}
	return key
}

// hashText returns the hash of the bytes of a key.
func (h Hash) hashText(key string, seed uint64) uint64 {
	switch h {
	case CRC16:
		return uint64(crc16(key))
	case VitessXXHash:
		return bits.ReverseBytes64(xxhash.Sum64String(key))
	}
	if seed == 0 {
		return xxhash.Sum64String(key)
	}
	var d xxhash.Digest
	d.ResetWithSeed(seed)
	_, _ = d.WriteString(key)
	return d.Sum64()
}

// hashNumber returns the hash of an integer, signed or not, widened to 64 bits.
func (h Hash) hashNumber(n uint64, signed bool, seed uint64) uint64 {
	switch h {
	case Identity:
		return n
	case VitessHash:
		return vitessDES(n)
	case VitessXXHash:
		var digits [20]byte
		if signed {
			return bits.ReverseBytes64(xxhash.Sum64(strconv.AppendInt(digits[:0], int64(n), 10)))
		}
		return bits.ReverseBytes64(xxhash.Sum64(strconv.AppendUint(digits[:0], n, 10)))
	}
	return xxh64Word(n, seed)
}

// The constants of XXH64.
const (
	prime1 = 0x9e3779b185ebca87
	prime2 = 0xc2b2ae3d27d4eb4f
	prime3 = 0x165667b19e3779f9
	prime4 = 0x85ebca77c2b2ae63
	prime5 = 0x27d4eb2f165667c5
)

// xxh64Word returns XXH64 of the 8 bytes of n, the lowest first.
func xxh64Word(n, seed uint64) uint64 {
	h := seed + prime5 + 8
	h ^= bits.RotateLeft64(n*prime2, 31) * prime1
	h = bits.RotateLeft64(h, 27)*prime1 + prime4
	h ^= h >> 33
	h *= prime2
	h ^= h >> 29
	h *= prime3
	return h ^ h>>32
}

// crcTables[i][b] is the CRC of b and i zero bytes behind it. With eight of them, eight bytes are taken at
// once ("slicing by 8": M. Kounavis and F. Berry, "A Systematic Approach to Building High Performance
// Software-based CRC Generators", 2005).
var crcTables = func() (t [8][256]uint16) {
	for b := range 256 {
		crc := uint16(b) << 8
		for range 8 {
			top := crc >> 15
			crc = crc<<1 ^ top*0x1021
		}
		t[0][b] = crc
	}
	for i := 1; i < 8; i++ {
		for b := range 256 {
			crc := t[i-1][b]
			t[i][b] = crc<<8 ^ t[0][crc>>8]
		}
	}
	return t
}()

// crc16 returns CRC-16/XMODEM: polynomial 0x1021, the highest bit first, from 0.
func crc16(s string) uint16 {
	var crc uint16
	t := &crcTables
	for len(s) >= 8 {
		crc = t[7][s[0]^byte(crc>>8)] ^ t[6][s[1]^byte(crc)] ^ t[5][s[2]] ^ t[4][s[3]] ^
			t[3][s[4]] ^ t[2][s[5]] ^ t[1][s[6]] ^ t[0][s[7]]
		s = s[8:]
	}
	for i := 0; i < len(s); i++ {
		crc = crc<<8 ^ t[0][byte(crc>>8)^s[i]]
	}
	return crc
}

// desBlock encrypts with a key of zeros. Where the runtime is set up to allow nothing that FIPS 140-3 does
// not, there is no DES, and err says so.
var desBlock = sync.OnceValues(func() (cipher.Block, error) { return des.NewCipher(make([]byte, 8)) })

// desBuffers has room for a block, which a call through an interface would put on the heap otherwise.
var desBuffers = sync.Pool{New: func() any { return new([8]byte) }}

func vitessDES(n uint64) uint64 {
	block, err := desBlock()
	if err != nil {
		panic(err) // cannot be: a Map with this hash is not made then
	}
	b := desBuffers.Get().(*[8]byte)
	binary.BigEndian.PutUint64(b[:], n)
	block.Encrypt(b[:], b[:])
	n = binary.BigEndian.Uint64(b[:])
	desBuffers.Put(b)
	return n
}
