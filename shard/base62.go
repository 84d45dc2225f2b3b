package shard

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// base62Digits are the digits of Base62 in the order of their values, which is that of their bytes.
const base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// base62Len is how many digits the greatest number has.
const base62Len = 11

// base62Values are the values of bytes, 255 for those that are not digits.
var base62Values = func() (v [256]uint8) {
	for i := range v {
		v[i] = math.MaxUint8
	}
	for i := range len(base62Digits) {
		v[base62Digits[i]] = uint8(i)
	}
	return v
}()

// Base62 returns n in Base62: with the digits 0-9, A-Z and a-z, in this order, and without leading
// zeros; 12345 is "3D7". Seven digits are enough for 62^7 = 3,521,614,606,208 numbers, and eleven for
// all. It allocates the string.
//
// Numbers of different lengths do not sort as their strings do: see Base62Fixed. Upper and lower case
// differ, so they need a column, a file system or a host name where they do.
func Base62(n uint64) string {
	var buf [base62Len]byte
	return string(buf[putBase62(&buf, n):])
}

// AppendBase62 appends n to b as Base62 returns it, and returns the result. It allocates nothing if b
// has the room.
func AppendBase62(b []byte, n uint64) []byte {
	var buf [base62Len]byte
	return append(b, buf[putBase62(&buf, n):]...)
}

// Base62Fixed returns n in Base62 with leading zeros, always in 11 characters: such strings sort, byte
// by byte, as the numbers do. ParseBase62Fixed reads them.
func Base62Fixed(n uint64) string {
	var buf [base62Len]byte
	for i := range putBase62(&buf, n) {
		buf[i] = '0'
	}
	return string(buf[:])
}

// putBase62 writes n to the end of buf, and returns where it begins.
func putBase62(buf *[base62Len]byte, n uint64) int {
	i := len(buf)
	for {
		i--
		q := n / 62
		buf[i] = base62Digits[n-q*62]
		if q == 0 {
			return i
		}
		n = q
	}
}

// ParseBase62 returns the number that Base62 makes s of. There is just one such s: what has leading
// zeros is refused, because where two strings are one key, caches hold it twice, and a ban of one is
// not a ban of the other. It returns an error that says what is wrong, and where, if s is empty, has
// another character, leading zeros, or is more than 64 bits hold. It allocates only for an error, which
// quotes no more than 11 bytes of s.
func ParseBase62(s string) (uint64, error) {
	if len(s) > 1 && s[0] == '0' && len(s) <= base62Len {
		return 0, fmt.Errorf("shard: Base62 must not have leading zeros, got %q", s)
	}
	return parseBase62(s)
}

// ParseBase62Fixed returns the number that Base62Fixed makes s of. It returns an error if s does not
// have 11 bytes, or as ParseBase62 does.
func ParseBase62Fixed(s string) (uint64, error) {
	if len(s) != base62Len {
		return 0, fmt.Errorf("shard: Base62 of a fixed width must have %d characters, got %d bytes", base62Len, len(s))
	}
	return parseBase62(s)
}

func parseBase62(s string) (uint64, error) {
	if s == "" {
		return 0, fmt.Errorf("shard: Base62 must not be empty")
	}
	if len(s) > base62Len {
		return 0, fmt.Errorf("shard: Base62 must have at most %d characters, got %d bytes", base62Len, len(s))
	}
	n := uint64(0)
	for i := range len(s) {
		v := uint64(base62Values[s[i]])
		if v == math.MaxUint8 {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return 0, fmt.Errorf("shard: Base62 must have the characters 0-9, A-Z and a-z only, got %q at byte %d of %q", r, i, s)
		}
		// Ten digits always fit: 62^10 < 2^60. With the eleventh, n*62 may not.
		if n > (math.MaxUint64-v)/62 {
			return 0, fmt.Errorf("shard: Base62 must be at most %s, which is 2^64-1, got %q", Base62(math.MaxUint64), s)
		}
		n = n*62 + v
	}
	return n, nil
}
