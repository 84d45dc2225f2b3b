package redistier

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

type point struct{ X, Y int }

func offline() redis.UniversalClient {
	return redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
}

func TestConfigErrors(t *testing.T) {
	client := offline()
	defer client.Close()
	_, err := New(Config[string, int]{Prefix: "p"})
	require.EqualError(t, err, "redistier: Client must not be nil")
	_, err = New(Config[string, int]{Client: client})
	require.EqualError(t, err, "redistier: Prefix must not be empty")
	_, err = New(Config[string, int]{Client: client, Prefix: "p", Key: func(s string) string { return s }})
	require.EqualError(t, err, "redistier: Key and ParseKey must both be given, or neither")
	_, err = New(Config[string, int]{Client: client, Prefix: "p", MaxSize: -1})
	require.EqualError(t, err, "redistier: MaxSize must be at least 0, got -1")
	_, err = New(Config[string, int]{Client: client, Prefix: "p", Ping: -1})
	require.EqualError(t, err, "redistier: Ping must be at least 0, got -1ns")
	_, err = New(Config[string, int]{Client: client, Prefix: "p", LeaseTime: time.Microsecond})
	require.EqualError(t, err, "redistier: LeaseTime must be at least 1ms, or 0, got 1µs")
	_, err = New(Config[point, int]{Client: client, Prefix: "p"})
	require.EqualError(t, err, "redistier: Key and ParseKey must be given for keys of type redistier.point")
}

func newTier[K comparable, V any](t *testing.T, config Config[K, V]) *Tier[K, V] {
	t.Helper()
	if config.Client == nil {
		client := offline()
		t.Cleanup(func() { client.Close() })
		config.Client = client
	}
	config.Prefix = "p:"
	tier, err := New(config)
	require.NoError(t, err)
	return tier
}

// roundTrip encodes and decodes a value, and returns how it was stored.
func roundTrip[V any](t *testing.T, tier *Tier[string, V], v V) []byte {
	t.Helper()
	stored, err := tier.coding.encode(v)
	require.NoError(t, err)
	back, err := tier.coding.decode(string(stored))
	require.NoError(t, err)
	require.Equal(t, v, back)
	return stored
}

func TestCodecs(t *testing.T) {
	require.Equal(t, `p{"X":1,"Y":2}`, string(roundTrip(t, newTier(t, Config[string, point]{}), point{1, 2})))
	roundTrip(t, newTier(t, Config[string, point]{Codec: Gob[point]{}}), point{1, 2})
	roundTrip(t, newTier(t, Config[string, map[point]string]{Codec: Gob[map[point]string]{}}), map[point]string{{1, 2}: "a"})
	_, err := newTier(t, Config[string, float64]{}).coding.encode(math.NaN())
	require.Error(t, err)
}

func TestCompression(t *testing.T) {
	large := strings.Repeat("sysblocks ", 1000)
	stored := roundTrip(t, newTier(t, Config[string, string]{}), large)
	require.EqualValues(t, formatZstd, stored[0])
	require.Less(t, len(stored), 200)
	require.EqualValues(t, formatPlain, roundTrip(t, newTier(t, Config[string, string]{CompressAbove: -1}), large)[0])
	require.EqualValues(t, formatPlain, roundTrip(t, newTier(t, Config[string, string]{}), "small")[0])
	require.EqualValues(t, formatZstd, roundTrip(t, newTier(t, Config[string, string]{CompressAbove: 100}), large[:200])[0])
	noise := make([]byte, 2000) // what does not become smaller stays as it is
	for i := range noise {
		noise[i] = byte('!' + (i*i*31+i>>3*7919)%90)
	}
	roundTrip(t, newTier(t, Config[string, string]{CompressAbove: 10}), fmt.Sprintf("%x", noise[:5]))
}

// What is too large, or not what this release writes, is an error and nothing worse.
func TestDecodeErrors(t *testing.T) {
	tier := newTier(t, Config[string, string]{MaxSize: 2000})
	_, err := tier.coding.encode(strings.Repeat("x", 3000))
	require.EqualError(t, err, "the value has 3002 bytes, MaxSize is 2000")
	bomb, err := newTier(t, Config[string, string]{}).coding.encode(strings.Repeat("x", 10_000_000))
	require.NoError(t, err)
	require.Less(t, len(bomb), 2000)
	for name, stored := range map[string]string{
		"empty":     "",
		"unknown":   "q123",
		"no json":   "p{",
		"no zstd":   "zabc",
		"too large": "p" + strings.Repeat("x", 2001),
		"a bomb":    string(bomb),
	} {
		_, err := tier.coding.decode(stored)
		require.Error(t, err, name)
	}
	_, err = tier.coding.decode("q")
	require.ErrorIs(t, err, errFormat)
}

func FuzzDecode(f *testing.F) {
	tier, err := New(Config[string, map[string]int]{Client: offline(), Prefix: "p", MaxSize: 1 << 16, Codec: Gob[map[string]int]{}})
	if err != nil {
		f.Fatal(err)
	}
	for _, v := range []map[string]int{nil, {"a": 1}, {"abc": 1, "d": -5}} {
		stored, err := tier.coding.encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(stored))
	}
	f.Add("z(\xb5/\xfd\x04\x00")
	f.Fuzz(func(t *testing.T, stored string) {
		v, err := tier.coding.decode(stored)
		if err != nil {
			return
		}
		stored2, err := tier.coding.encode(v)
		require.NoError(t, err)
		again, err := tier.coding.decode(string(stored2))
		require.NoError(t, err)
		require.Len(t, again, len(v))
	})
}

func TestPlainKeys(t *testing.T) {
	type name string
	type id uint8
	checkKey(t, "a:b", "a:b")
	checkKey(t, name("x"), "x")
	checkKey(t, name(""), "")
	checkKey(t, -5, "-5")
	checkKey(t, int64(math.MinInt64), "-9223372036854775808")
	checkKey(t, uint64(math.MaxUint64), "18446744073709551615")
	checkKey(t, id(255), "255")
	_, parse, ok := plainKeys[id]()
	require.True(t, ok)
	_, err := parse("256")
	require.Error(t, err)
	_, _, ok = plainKeys[float64]()
	require.False(t, ok)
}

func checkKey[K comparable](t *testing.T, k K, want string) {
	t.Helper()
	key, parse, ok := plainKeys[K]()
	require.True(t, ok)
	require.Equal(t, want, key(k))
	back, err := parse(want)
	require.NoError(t, err)
	require.Equal(t, k, back)
}

func TestMessages(t *testing.T) {
	a, b := newTier(t, Config[int, int]{}), newTier(t, Config[int, int]{})
	k, mine, all := a.changed(b.message("17"))
	require.Equal(t, []any{17, false, false}, []any{k, mine, all})
	_, mine, _ = a.changed(a.message("17"))
	require.True(t, mine)
	k, mine, all = a.changed(":17") // by an operator
	require.Equal(t, []any{17, false, false}, []any{k, mine, all})
	for _, message := range []string{":", "", "x", b.message("seventeen")} {
		_, mine, all = a.changed(message)
		require.Equal(t, []any{false, true}, []any{mine, all}, message)
	}
	s := newTier(t, Config[string, int]{})
	empty, mine, all := s.changed(newTier(t, Config[string, int]{}).message(""))
	require.Equal(t, []any{"", false, false}, []any{empty, mine, all})
}

// A key and its lease are in one slot of a Cluster.
func TestKeys(t *testing.T) {
	tier := newTier(t, Config[string, int]{})
	for key, want := range map[string]string{
		"a":       "{p:a}:lease",
		"a{b}c":   "p:a{b}c:lease",
		"a{}c{d}": "{p:a{}c{d}}:lease",
		"":        "{p:}:lease",
	} {
		require.Equal(t, []string{"p:" + key, want}, tier.keys(key))
	}
}

// Keys may be anything that can be written down.
func TestOwnKeys(t *testing.T) {
	tier := newTier(t, Config[point, int]{
		Key: func(p point) string { return fmt.Sprintf("%d,%d", p.X, p.Y) },
		ParseKey: func(s string) (p point, err error) {
			if n, _ := fmt.Sscanf(s, "%d,%d", &p.X, &p.Y); n != 2 {
				err = errors.New("no point")
			}
			return p, err
		},
	})
	k, _, all := tier.changed("other:3,4")
	require.False(t, all)
	require.Equal(t, point{3, 4}, k)
}
