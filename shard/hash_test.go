package shard

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

func TestHashTag(t *testing.T) {
	for _, c := range []struct{ key, tag string }{
		{"", ""},
		{"user", "user"},
		{"{user1000}.following", "user1000"},
		{"{user1000}.followers", "user1000"},
		{"foo{}{bar}", "foo{}{bar}"}, // of the specification: the first pair is empty, so all of it
		{"foo{{bar}}zap", "{bar"},
		{"foo{bar}{zap}", "bar"},
		{"{}", "{}"},
		{"{a", "{a"},
		{"a}", "a}"},
		{"}a{b}", "b"},
		{"{a}", "a"},
		{"{{}", "{"},
		{"a{b}c{d}", "b"},
	} {
		require.Equal(t, c.tag, HashTag(c.key), "%q", c.key)
	}
}

// TestPublishedVectors compares hashes with what others have published of them.
func TestPublishedVectors(t *testing.T) {
	text := func(h Hash, key string) string { return fmt.Sprintf("%016x", h.hashText(key, 0)) }
	signed := func(h Hash, n int64) string { return fmt.Sprintf("%016x", h.hashNumber(uint64(n), true, 0)) }

	// XXH64: of the reference implementation, and of ClickHouse's tests.
	require.Equal(t, "ef46db3751d8e999", text(XXH64, ""))
	require.Equal(t, "e66ae7354fcfee98", text(XXH64, "ABC"))
	require.Equal(t, "32dd38952c4bc720", text(XXH64, "xxhash"))
	require.Equal(t, uint64(1162348840373071858), XXH64.hashNumber(uint64(0xfffffffffffda493), true, 0)) // -154477

	// CRC-16/XMODEM: its check value in the catalogue of parametrised CRC algorithms, and in the
	// specification of Redis Cluster.
	require.Equal(t, "00000000000031c3", text(CRC16, "123456789"))
	require.Equal(t, 12182, int(crc16("foo")&(RedisSlots-1)))
	require.Equal(t, 5061, int(crc16("bar")&(RedisSlots-1)))

	// The vindexes of Vitess: its tests of "hash" and "xxhash".
	for n, want := range map[int64]string{
		1: "166b40b44aba4bd6", 2: "06e7ea22ce92708f", 3: "4eb190c9a2fa169c",
		4: "d2fd8867d50d2dfe", 5: "70bb023c810ca87a", 6: "f098480ac4c4be71",
		30375298039: "031265661e5f1133", 1123: "031b565d41bdf8ca", 30573721600: "1efd6439f2050ffd",
		116: "1e1788ff0fde093c", -1: "355550b2150e2451", // of 2^64-1 there
	} {
		require.Equal(t, want, signed(VitessHash, n), "%d", n)
	}
	require.Equal(t, "d01ab7e4d6978f0b", text(VitessXXHash, "test1"))
	require.Equal(t, "87eb11714c0a0e89", text(VitessXXHash, "test2"))
	require.Equal(t, "81d8c38e0d850e6a", text(VitessXXHash, "testaverylongvaluetomakesurethisworks"))
	for n, want := range map[int64]string{
		1: "d46405367612b4b7", -1: "d8e2a6a7c8c7623d",
		math.MaxInt64: "b37eb01f7bffafd8", math.MinInt64: "102c27ddb26a609e",
	} {
		require.Equal(t, want, signed(VitessXXHash, n), "%d", n)
	}
	require.Equal(t, "477cfa8d6d8f1f8d", fmt.Sprintf("%016x", VitessXXHash.hashNumber(math.MaxUint64, false, 0)))
}

// TestXXH64 compares with the library, which has no hash of one word, nor of text with a seed in one call.
func TestXXH64(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10000 {
		n, seed := rng.Uint64(), rng.Uint64()>>rng.IntN(64)
		b := binary.LittleEndian.AppendUint64(nil, n)
		d := xxhash.NewWithSeed(seed)
		_, _ = d.Write(b)
		require.Equal(t, d.Sum64(), xxh64Word(n, seed))
		require.Equal(t, d.Sum64(), XXH64.hashText(string(b), seed))
		require.Equal(t, xxhash.Sum64(b), XXH64.hashNumber(n, false, 0))
	}
}

func TestCRC16(t *testing.T) {
	slow := func(s string) (crc uint16) { // bit by bit, as the specification has it
		for i := range len(s) {
			crc ^= uint16(s[i]) << 8
			for range 8 {
				if crc&0x8000 != 0 {
					crc = crc<<1 ^ 0x1021
				} else {
					crc <<= 1
				}
			}
		}
		return crc
	}
	rng := rand.New(rand.NewPCG(2, 2))
	for n := range 100 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		require.Equal(t, slow(string(b)), crc16(string(b)), "%x", b)
	}
}

func TestHashNames(t *testing.T) {
	for h := XXH64; h <= VitessXXHash; h++ {
		text, err := h.MarshalText()
		require.NoError(t, err)
		require.Equal(t, h.String(), string(text))
		var back Hash
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, h, back)
	}
	require.Equal(t, "Hash(9)", Hash(9).String())
	_, err := Hash(9).MarshalText()
	require.EqualError(t, err, "shard: Hash must be crc16, identity, vitess-hash, vitess-xxhash or xxh64, got Hash(9)")
	var h Hash
	require.EqualError(t, h.UnmarshalText([]byte("md5")), `shard: Hash must be crc16, identity, vitess-hash, vitess-xxhash or xxh64, got "md5"`)
}

func TestEncodeKey(t *testing.T) {
	require.Equal(t, "8000000000000005", hex.EncodeToString(EncodeKey(int8(5))))
	require.Equal(t, EncodeKey(int64(-5)), EncodeKey(int16(-5)))
	require.Equal(t, "0000000000000000", hex.EncodeToString(EncodeKey(int64(math.MinInt64))))
	require.Equal(t, "00000000000000ff", hex.EncodeToString(EncodeKey(uint8(255))))
	require.Equal(t, "abc", string(EncodeKey("abc")))
	require.Equal(t, "abc", string(EncodeKey([]byte("abc"))))
	require.Equal(t, EncodeKey(0.0), EncodeKey(math.Copysign(0, -1)))
	require.Equal(t, EncodeKey(1.5), EncodeKey(float32(1.5)))

	_, err := DecodeKey[int8](EncodeKey(200))
	require.EqualError(t, err, "shard: the bytes 80000000000000c8 are no key of type int8")
	_, err = DecodeKey[uint16](EncodeKey(uint32(65536)))
	require.EqualError(t, err, "shard: the bytes 0000000000010000 are no key of type uint16")
	_, err = DecodeKey[float32](EncodeKey(0.1))
	require.EqualError(t, err, "shard: the bytes bfb999999999999a are no key of type float32")
	_, err = DecodeKey[float64]([]byte{0, 0, 0, 0, 0, 0, 0, 1}) // between NaN's and -Inf's
	require.Error(t, err)
	_, err = DecodeKey[int64]([]byte{1, 2})
	require.EqualError(t, err, "shard: a key of type int64 must have 8 bytes, got 2")
}
