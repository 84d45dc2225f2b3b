package shard

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConsistency(t *testing.T) {
	for c, want := range map[Consistency]string{
		Primary: "Primary", Eventual: "Eventual", ReadYourWrites: "ReadYourWrites",
		BoundedStaleness(5 * time.Second): "BoundedStaleness(5s)", BoundedStaleness(math.MaxInt64): "BoundedStaleness(2562047h47m16.854775807s)",
		BoundedStaleness(0): "Primary", BoundedStaleness(-1): "Primary", BoundedStaleness(math.MinInt64): "Primary", -3: "Consistency(-3)",
	} {
		require.Equal(t, want, c.String())
	}
}

// sessionWith returns a session in which something was written, with epoch 1.
func sessionWith(ctx context.Context, wrote map[place]written) context.Context {
	ctx = WithSession(ctx)
	s := sessionOf(ctx)
	for p, w := range wrote {
		s.epoch = 1
		s.setLocked(p, w)
	}
	return ctx
}

func TestSessionToken(t *testing.T) {
	ctx := t.Context()
	require.Empty(t, SessionToken(ctx))
	require.Empty(t, SessionToken(WithSession(ctx)))
	for _, wrote := range []map[place]written{
		{{"", "a"}: {pos: Position{1, 2, 3}}},
		{{"", ""}: {}},
		{{"orders", "a"}: {pos: Position{math.MaxUint64, math.MaxUint64, math.MaxUint64}}, {"", "a"}: {unknown: true}, {"users", "é\n\x00"}: {pos: Position{0, 0, 1}, epoch: math.MaxUint64}},
	} {
		token := SessionToken(sessionWith(ctx, wrote))
		require.Regexp(t, `^[-_A-Za-z0-9]+$`, token)
		again, err := WithSessionToken(ctx, token)
		require.NoError(t, err)
		require.Equal(t, token, SessionToken(again))
		for p, w := range wrote {
			pos, all, unknown := sessionOf(again).need(p, 0)
			require.Equal(t, w.unknown, unknown)
			require.False(t, all)
			if !unknown {
				require.Equal(t, w.pos, pos)
			}
		}
		_, all, _ := sessionOf(again).need(place{"others", "a"}, 0)
		require.True(t, all)
	}
	empty, err := WithSessionToken(ctx, "")
	require.NoError(t, err)
	require.NotNil(t, sessionOf(empty))

	// Into a session that has something already, the later of both counts.
	both := sessionWith(ctx, map[place]written{{"", "a"}: {pos: Position{1, 1, 9}}, {"", "b"}: {pos: Position{1, 1, 1}}, {"", "c"}: {pos: Position{1, 1, 1}}})
	same, err := WithSessionToken(both, SessionToken(sessionWith(ctx, map[place]written{
		{"", "a"}: {pos: Position{1, 1, 5}}, {"", "b"}: {pos: Position{1, 2, 0}}, {"", "c"}: {pos: Position{7, 1, 1}}, {"", "d"}: {pos: Position{1, 1, 1}}})))
	require.NoError(t, err)
	require.Equal(t, both, same)
	pos, _, _ := sessionOf(both).need(place{"", "a"}, 0)
	require.Equal(t, Position{1, 1, 9}, pos)
	pos, _, _ = sessionOf(both).need(place{"", "b"}, 0)
	require.Equal(t, Position{1, 2, 0}, pos)
	_, _, unknown := sessionOf(both).need(place{"", "c"}, 0)
	require.True(t, unknown, "of another source")
	pos, _, _ = sessionOf(both).need(place{"", "d"}, 0)
	require.Equal(t, Position{1, 1, 1}, pos)
}

// What does not fit is read from the primaries.
func TestSessionTokenBound(t *testing.T) {
	ctx := WithSession(t.Context())
	s := sessionOf(ctx)
	const n = 200
	at := func(i int) place { return place{"a name", ID(fmt.Sprint("shard-", i))} }
	for i := range n {
		s.note(at(i), Position{1 << 60, 1, uint64(i) << 30}, epochs{}, 0)
	}
	for range 3 { // it stays the same, whoever carries it
		token := SessionToken(ctx)
		require.LessOrEqual(t, len(token), maxToken)
		require.Greater(t, len(token), maxToken-100)
		var err error
		ctx, err = WithSessionToken(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, token, SessionToken(ctx))
		known := 0
		for i := range n {
			pos, all, unknown := sessionOf(ctx).need(at(i), 0)
			require.False(t, all)
			if !unknown {
				require.Equal(t, uint64(i)<<30, pos.Offset)
				require.Greater(t, i, n/3, "the last that were written")
				known++
			}
		}
		require.Greater(t, known, n/4)
	}
	long := sessionWith(t.Context(), map[place]written{{"", ID(strings.Repeat("x", 300))}: {pos: Position{1, 1, 1}}})
	ctx, err := WithSessionToken(t.Context(), SessionToken(long))
	require.NoError(t, err)
	_, _, unknown := sessionOf(ctx).need(place{"", ID(strings.Repeat("x", 300))}, 0)
	require.True(t, unknown)
}

// What had no place in a token can have been written behind what another one says, or a session.
func TestSessionTokenMerge(t *testing.T) {
	full := WithSession(t.Context()) // wrote a, and then so many others that a has no place
	old := SessionToken(sessionWith(t.Context(), map[place]written{{"", "a"}: {pos: Position{1, 1, 1}}, {"", "b"}: {pos: Position{1, 1, 1}}}))
	s := sessionOf(full)
	s.note(place{"", "a"}, Position{1, 1, 2}, epochs{}, 0)
	for i := range 200 {
		s.note(place{"", ID(fmt.Sprint("another-shard-", i))}, Position{1, 1, 1}, epochs{}, 0)
	}
	s.note(place{"", "b"}, Position{1, 1, 2}, epochs{}, 0)
	young := SessionToken(full)
	for _, tokens := range [][]string{{old, young}, {young, old}, {old, young, old}, {young, old, young}} {
		ctx := t.Context()
		for _, token := range tokens {
			var err error
			ctx, err = WithSessionToken(ctx, token)
			require.NoError(t, err)
		}
		_, _, unknown := sessionOf(ctx).need(place{"", "a"}, 0)
		require.True(t, unknown)
		pos, _, unknown := sessionOf(ctx).need(place{"", "b"}, 0)
		require.False(t, unknown)
		require.Equal(t, Position{1, 1, 2}, pos)
		_, _, unknown = sessionOf(ctx).need(place{"", "c"}, 0)
		require.True(t, unknown, "it stays so")
	}

	// What a primary tells after that counts, and what it was telling before does not.
	p := place{"", "a"}
	for _, known := range []bool{false, true} {
		ctx := WithSession(t.Context())
		s := sessionOf(ctx)
		if known {
			s.note(p, Position{1, 1, 1}, epochs{}, 0)
		}
		before := s.marks(p)
		_, err := WithSessionToken(ctx, young)
		require.NoError(t, err)
		s.note(p, Position{1, 1, 1}, epochs{}, before)
		_, _, unknown := s.need(p, 0)
		require.True(t, unknown)
		s.note(p, Position{1, 1, 3}, epochs{}, s.marks(p))
		pos, _, unknown := s.need(p, 0)
		require.False(t, unknown)
		require.Equal(t, Position{1, 1, 3}, pos)
	}
}

// What a session has written may have moved since, to wherever a placement is newer than that.
func TestSessionEpochs(t *testing.T) {
	ctx := WithSession(t.Context())
	s := sessionOf(ctx)
	a, b := place{"", "a"}, place{"", "b"}
	unknown := func(p place, epoch uint64) bool {
		t.Helper()
		carried, err := WithSessionToken(t.Context(), SessionToken(ctx))
		require.NoError(t, err)
		_, _, unknown := s.need(p, epoch)
		_, _, same := sessionOf(carried).need(p, epoch)
		require.Equal(t, unknown, same)
		return unknown
	}
	require.False(t, unknown(a, math.MaxUint64), "nothing is written")
	s.note(a, Position{1, 1, 1}, epochs{5, 5}, s.marks(a))
	require.False(t, unknown(a, 5))
	require.False(t, unknown(b, 5))
	require.True(t, unknown(b, 6))
	require.True(t, unknown(a, 6), "it may have come here behind the position")
	s.note(a, Position{1, 1, 2}, epochs{8, 8}, s.marks(a))
	require.False(t, unknown(a, 8))
	require.True(t, unknown(b, 7), "what was written first can have moved before the second")
	s.note(b, Position{1, 1, 1}, epochs{math.MaxUint64, 7}, s.marks(b)) // asked for by a read
	require.False(t, unknown(b, 7))
	require.True(t, unknown(b, 8))
	require.True(t, unknown(place{"", "c"}, 6))
	s.mark(b, 3) // a write with an older topology
	require.True(t, unknown(place{"", "c"}, 4))
	require.True(t, unknown(b, 3))

	// Of two sessions in one, what either knows counts.
	other := sessionWith(t.Context(), map[place]written{a: {pos: Position{1, 1, 1}, epoch: 11}})
	_, err := WithSessionToken(ctx, SessionToken(other))
	require.NoError(t, err)
	require.False(t, unknown(a, 11))
	require.True(t, unknown(a, 12))
	require.True(t, unknown(place{"", "c"}, 2))
}

func TestSessionTokenErrors(t *testing.T) {
	good := SessionToken(sessionWith(t.Context(), map[place]written{{"n", "a"}: {pos: Position{1, 2, 300}}}))
	raw, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	edit := func(f func(b []byte) []byte) string {
		return base64.RawURLEncoding.EncodeToString(f(append([]byte{}, raw...)))
	}
	for name, token := range map[string]string{
		"no base64":        "!",
		"another alphabet": "+" + good,
		"padded":           good + "=",
		"lines":            good[:4] + "\n" + good[4:],
		"spaces":           good + " ",
		"short":            edit(func(b []byte) []byte { return b[:1] }),
		"no epoch":         edit(func(b []byte) []byte { return b[:2] }),
		"nothing in it":    edit(func(b []byte) []byte { return b[:3] }),
		"another version":  edit(func(b []byte) []byte { b[0]++; return b }),
		"flags":            edit(func(b []byte) []byte { b[1] = 2; return b }),
		"flags of one":     edit(func(b []byte) []byte { b[3] = 2; return b }),
		"cut":              edit(func(b []byte) []byte { return b[:len(b)-1] }),
		"too long":         edit(func(b []byte) []byte { return append(b, 0) }),
		"twice":            edit(func(b []byte) []byte { return append(b, b[3:]...) }),
		"a long name":      edit(func(b []byte) []byte { b[4] = 200; return b }),
		"not the shortest": edit(func(b []byte) []byte { return append(b[:len(b)-1], b[len(b)-1]|0x80, 0) }),
		"overflow":         edit(func(b []byte) []byte { return append(b[:len(b)-2], []byte(strings.Repeat("\xff", 12))...) }),
		"bits left over":   "AQGAAR",
		"large":            strings.Repeat("A", maxToken+1),
	} {
		ctx, err := WithSessionToken(t.Context(), token)
		require.ErrorIs(t, err, errToken, name)
		require.Equal(t, t.Context(), ctx, name)
	}
	for i := range len(good) { // no part of it
		_, err := WithSessionToken(t.Context(), good[:i])
		require.Equal(t, i == 0, err == nil)
	}
}

func FuzzSessionToken(f *testing.F) {
	f.Add("")
	f.Add(SessionToken(sessionWith(context.Background(), map[place]written{{"n", "a"}: {pos: Position{1, 2, 300}}, {"", "b"}: {unknown: true}})))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte{1, 1, 1}))
	f.Fuzz(func(t *testing.T, token string) {
		ctx, err := WithSessionToken(t.Context(), token)
		if err != nil {
			return
		}
		if got := SessionToken(ctx); got != token {
			t.Errorf("%q has become %q", token, got)
		}
	})
}

// A session is used by several goroutines.
func TestSessionConcurrent(t *testing.T) {
	ctx := WithSession(t.Context())
	s := sessionOf(ctx)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range uint64(100) {
				p := place{"", ID(fmt.Sprint(i % 5))}
				marks := s.marks(p)
				s.note(p, Position{1, 1, i * uint64(g)}, epochs{}, marks)
				token := SessionToken(ctx)
				if _, err := WithSessionToken(ctx, token); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range uint64(5) {
		pos, _, unknown := s.need(place{"", ID(fmt.Sprint(i))}, 0)
		require.False(t, unknown)
		require.Equal(t, (95+i)*7, pos.Offset)
	}
}

func TestBehindPage(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for _, tt := range []struct{ lsn, want uint64 }{
		{5 * block, 5 * block},
		{5*block + 24, 5 * block},
		{5*block + 40, 5*block + 40}, // the end of a record that continues
		{5*block + 25, 5*block + 25},
		{3 * segment, 3 * segment},
		{3*segment + 40, 3 * segment},
		{3*segment + 24, 3*segment + 24},
		{0, 0}, {24, 24}, {40, 0},
		{math.MaxUint64, math.MaxUint64},
	} {
		require.Equal(t, tt.want, behindPage(tt.lsn, block, segment), "%d", tt.lsn)
	}
}
