package shard

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// base62Oracle is Base62 by math/big, whose letters are the other way round.
func base62Oracle(n uint64) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, new(big.Int).SetUint64(n).Text(62))
}

var base62Cases = map[uint64]string{
	0:                 "0",
	9:                 "9",
	10:                "A",
	35:                "Z",
	36:                "a",
	61:                "z",
	62:                "10",
	12345:             "3D7",
	3_521_614_606_207: "zzzzzzz",
	3_521_614_606_208: "10000000",
	math.MaxInt64:     "AzL8n0Y58m7",
	math.MaxUint64:    "LygHa16AHYF",
}

func TestBase62(t *testing.T) {
	for n, want := range base62Cases {
		require.Equal(t, want, Base62(n))
		require.Equal(t, base62Oracle(n), Base62(n))
		got, err := ParseBase62(want)
		require.NoError(t, err)
		require.Equal(t, n, got)
	}
	require.Equal(t, "id-3D7", string(AppendBase62([]byte("id-"), 12345)))
	require.Equal(t, "3D7", string(AppendBase62(nil, 12345)))
}

func TestBase62Fixed(t *testing.T) {
	numbers := []uint64{0, 1, 61, 62, math.MaxInt64, math.MaxUint64}
	for range 1000 {
		numbers = append(numbers, rand.Uint64()>>rand.IntN(64))
	}
	slices.Sort(numbers)
	last := ""
	for _, n := range numbers {
		s := Base62Fixed(n)
		require.Len(t, s, 11)
		require.LessOrEqual(t, last, s)
		require.Equal(t, Base62(n), s[11-len(Base62(n)):])
		require.Empty(t, strings.Trim(s[:11-len(Base62(n))], "0"))
		got, err := ParseBase62Fixed(s)
		require.NoError(t, err)
		require.Equal(t, n, got)
		last = s
	}
	for s, want := range map[string]string{
		"":                  "shard: Base62 of a fixed width must have 11 characters, got 0 bytes",
		"3D7":               "shard: Base62 of a fixed width must have 11 characters, got 3 bytes",
		"000000000000":      "shard: Base62 of a fixed width must have 11 characters, got 12 bytes",
		"00000000 3D7"[:11]: "shard: Base62 must have the characters 0-9, A-Z and a-z only, got ' ' at byte 8 of \"00000000 3D\"",
		"zzzzzzzzzzz":       `shard: Base62 must be at most LygHa16AHYF, which is 2^64-1, got "zzzzzzzzzzz"`,
	} {
		_, err := ParseBase62Fixed(s)
		require.EqualError(t, err, want)
	}
}

func TestParseBase62Errors(t *testing.T) {
	const characters = "shard: Base62 must have the characters 0-9, A-Z and a-z only, got "
	for s, want := range map[string]string{
		"":                        "shard: Base62 must not be empty",
		"00":                      `shard: Base62 must not have leading zeros, got "00"`,
		"03D7":                    `shard: Base62 must not have leading zeros, got "03D7"`,
		"0-":                      `shard: Base62 must not have leading zeros, got "0-"`,
		"000000003D7":             `shard: Base62 must not have leading zeros, got "000000003D7"`,
		"3D-7":                    characters + `'-' at byte 2 of "3D-7"`,
		"+1":                      characters + `'+' at byte 0 of "+1"`,
		"1_0":                     characters + `'_' at byte 1 of "1_0"`,
		" 1":                      characters + `' ' at byte 0 of " 1"`,
		"1\n":                     characters + `'\n' at byte 1 of "1\n"`,
		"1\x00":                   characters + `'\x00' at byte 1 of "1\x00"`,
		"1é":                      characters + `'é' at byte 1 of "1é"`,
		"１":                       characters + `'１' at byte 0 of "１"`,
		"1\xff":                   characters + `'�' at byte 1 of "1\xff"`,
		"LygHa16AHYG":             `shard: Base62 must be at most LygHa16AHYF, which is 2^64-1, got "LygHa16AHYG"`,
		"LygHa16AHZ0":             `shard: Base62 must be at most LygHa16AHYF, which is 2^64-1, got "LygHa16AHZ0"`,
		"zzzzzzzzzzz":             `shard: Base62 must be at most LygHa16AHYF, which is 2^64-1, got "zzzzzzzzzzz"`,
		"100000000000":            "shard: Base62 must have at most 11 characters, got 12 bytes",
		"000000000001":            "shard: Base62 must have at most 11 characters, got 12 bytes",
		strings.Repeat("z", 1e6):  "shard: Base62 must have at most 11 characters, got 1000000 bytes",
		strings.Repeat("0", 1000): "shard: Base62 must have at most 11 characters, got 1000 bytes",
	} {
		n, err := ParseBase62(s)
		require.EqualError(t, err, want)
		require.Zero(t, n)
	}
}

func FuzzBase62(f *testing.F) {
	for n := range base62Cases {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n uint64) {
		s := Base62(n)
		require.Equal(t, base62Oracle(n), s)
		require.Equal(t, s, string(AppendBase62(nil, n)))
		got, err := ParseBase62(s)
		require.NoError(t, err)
		require.Equal(t, n, got)
		fixed := Base62Fixed(n)
		got, err = ParseBase62Fixed(fixed)
		require.NoError(t, err)
		require.Equal(t, n, got)
		if n < math.MaxUint64 {
			require.Less(t, fixed, Base62Fixed(n+1))
		}
	})
}

// FuzzParseBase62 checks that what is taken is what Base62 returns, and what is not, is not.
func FuzzParseBase62(f *testing.F) {
	for _, s := range base62Cases {
		f.Add(s)
	}
	for _, s := range []string{"", "00", "LygHa16AHYG", "zzzzzzzzzzz", "-", "１", "\xff", "000000003D7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseBase62(s)
		require.Equal(t, err == nil, base62Oracle(n) == s)
		n, err = ParseBase62Fixed(s)
		require.Equal(t, err == nil, Base62Fixed(n) == s)
	})
}
