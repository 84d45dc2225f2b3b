package bloom

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func mixed(raw, seed uint64) uint64 { return fold(raw^seed, 0x9e3779b97f4a7c15) }

type (
	myString string
	myBytes  []byte
	myInt    int32
)

func TestXXH(t *testing.T) {
	const seed = 77
	for _, s := range []string{"", "a", "user:00000000001", string(make([]byte, 1000))} {
		want := (xxhash.Sum64String(s)) ^ seed
		require.Equal(t, want, XXH[string](seed).Hash(s))
		require.Equal(t, want, XXH[myString](seed).Hash(myString(s)))
		require.Equal(t, want, XXH[[]byte](seed).Hash([]byte(s)))
		require.Equal(t, want, XXH[myBytes](seed).Hash(myBytes(s)))
	}
	require.Equal(t, (xxhash.Sum64(nil))^seed, XXH[[]byte](seed).Hash(nil))
	uuid := [16]byte{1, 2, 3, 15: 9}
	require.Equal(t, (xxhash.Sum64(uuid[:]))^seed, XXH[[16]byte](seed).Hash(uuid))
	sum := [32]byte{31: 9}
	require.Equal(t, (xxhash.Sum64(sum[:]))^seed, XXH[[32]byte](seed).Hash(sum))

	// The same number is the same key, whatever its type.
	for _, n := range []int64{0, 1, 127, -1, -128} {
		want := mixed(uint64(n), seed)
		require.Equal(t, want, XXH[int](seed).Hash(int(n)))
		require.Equal(t, want, XXH[int8](seed).Hash(int8(n)))
		require.Equal(t, want, XXH[int16](seed).Hash(int16(n)))
		require.Equal(t, want, XXH[int32](seed).Hash(int32(n)))
		require.Equal(t, want, XXH[myInt](seed).Hash(myInt(n)))
		require.Equal(t, want, XXH[int64](seed).Hash(n))
	}
	for _, n := range []uint64{0, 1, 127, 255} {
		want := mixed(n, seed)
		require.Equal(t, want, XXH[uint](seed).Hash(uint(n)))
		require.Equal(t, want, XXH[uint8](seed).Hash(uint8(n)))
		require.Equal(t, want, XXH[uint16](seed).Hash(uint16(n)))
		require.Equal(t, want, XXH[uint32](seed).Hash(uint32(n)))
		require.Equal(t, want, XXH[uint64](seed).Hash(n))
		require.Equal(t, want, XXH[uintptr](seed).Hash(uintptr(n)))
	}
	require.Equal(t, mixed(0xffffffff, seed), XXH[uint32](seed).Hash(0xffffffff))
	require.NotEqual(t, XXH[int](1).Hash(5), XXH[int](2).Hash(5))
}

// These must be the same for ever, or stored filters become useless. They were computed by another
// program, from the definition of XXH64.
func TestXXHGolden(t *testing.T) {
	for _, c := range []struct {
		seed uint64
		key  any
		want uint64
	}{
		{0, "", 0xef46db3751d8e999},
		{0, "sysblocks", 0xa631814fca84616d},
		{1, "sysblocks", 0xa631814fca84616c},
		{0, uint64(0), 0},
		{0, uint64(1), 0x9e3779b97f4a7c15},
		{7, uint64(12345), 0xb84242cacb4de0c6},
		{1 << 63, uint64(1<<63 | 5), 0x1715609f7c746c6a},
	} {
		var got uint64
		switch k := c.key.(type) {
		case string:
			got = XXH[string](c.seed).Hash(k)
		case uint64:
			got = XXH[uint64](c.seed).Hash(k)
		}
		require.Equal(t, fmt.Sprintf("%#x", c.want), fmt.Sprintf("%#x", got), "seed %d, key %v", c.seed, c.key)
	}
}

func TestMapHash(t *testing.T) {
	type point struct{ x, y int }
	h := MapHash[point]()
	require.Equal(t, h.Hash(point{1, 2}), h.Hash(point{1, 2}))
	require.NotEqual(t, h.Hash(point{1, 2}), h.Hash(point{2, 1}))
	o := MapHash[point]()
	require.NotEqual(t, h.Hash(point{1, 2}), o.Hash(point{1, 2}))
	require.True(t, h.same(&h))
	require.False(t, h.same(&o))
}

func TestFunc(t *testing.T) {
	f := func(k float64) uint64 { return uint64(k) }
	a, b := Func(1, f), Func(2, f)
	require.Equal(t, mixed(3, 1), a.Hash(3)) // a Func that does not mix is mixed
	require.False(t, a.same(&b))
	a2 := Func(1, f)
	require.True(t, a.same(&a2))
	x, y := Func(0, f), Func(0, f)
	require.False(t, x.same(&y))
	x2 := x
	require.True(t, x.same(&x2))
	require.PanicsWithValue(t, "bloom: f of Func must not be nil", func() { Func[int](1, nil) })
}

func TestHashRequired(t *testing.T) {
	type point struct{ X int }
	_, err := NewBlocked(Config[point]{N: 1, FPR: 0.01})
	require.EqualError(t, err, "bloom: Hash is required for keys of type bloom.point")
	_, err = NewBlocked(Config[any]{N: 1, FPR: 0.01})
	require.EqualError(t, err, "bloom: Hash is required for keys of type interface {}")
	_, err = NewBlocked(Config[float64]{N: 1, FPR: 0.01})
	require.Error(t, err)
	_, err = NewBlocked(Config[point]{N: 1, FPR: 0.01, Hash: MapHash[point]()})
	require.NoError(t, err)
	_, err = NewBlocked(Config[[20]byte]{N: 1, FPR: 0.01})
	require.NoError(t, err)
}

// The zero value of a Hasher is XXH with seed 0, by itself too.
func TestZeroHasher(t *testing.T) {
	var h Hasher[string]
	require.Equal(t, XXH[string](0).Hash("x"), h.Hash("x"))
	var n Hasher[int]
	require.Equal(t, XXH[int](0).Hash(7), n.Hash(7))
	var p Hasher[struct{ X int }]
	require.PanicsWithValue(t, "bloom: Hash is required for keys of type struct { X int }", func() { p.Hash(struct{ X int }{1}) })
}

// A zero value says what is wrong, instead of giving a wrong answer.
func TestZeroValue(t *testing.T) {
	var f Blocked[string]
	require.Panics(t, func() { f.Contains("a") })
	_, err := f.MarshalBinary()
	require.EqualError(t, err, "bloom: the zero value cannot be stored")
}
