package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

var key16 = []byte("0123456789abcdef")

func TestCodeOf(t *testing.T) {
	for n, want := range map[uint64]string{0: "0000000", 12345: "00003D7", 61: "000000z", 62: "0000010", codeSpace - 1: "zzzzzzz"} {
		require.Equal(t, want, codeOf(n))
	}
	require.EqualValues(t, 3_521_614_606_208, uint64(codeSpace))
}

func TestPermutation(t *testing.T) {
	p, err := newPermutation(key16)
	require.NoError(t, err)
	other, err := newPermutation([]byte("another key, too"))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]bool{}
	same := 0
	for i := range uint64(20_000) {
		n := i
		if i >= 10_000 {
			n = rng.Uint64N(codeSpace)
		}
		m := p.forward(n)
		require.Less(t, m, uint64(codeSpace))
		require.Equal(t, n, p.backward(m))
		require.Equal(t, n, p.forward(p.backward(n)))
		require.False(t, seen[m] && i < 10_000)
		seen[m] = true
		if other.forward(n) == m {
			same++
		}
	}
	require.LessOrEqual(t, same, 1)
	require.Equal(t, uint64(0x1faaba0fa0a), p.forward(0)) // codes that were given out stay as they are

	// Neighbours are far from each other, on both sides evenly.
	up := 0
	for i := range uint64(10_000) {
		if p.forward(i+1) > p.forward(i) {
			up++
		}
	}
	require.InDelta(t, 5000, up, 300) // of 10,000 with probability 1/2: six standard deviations
	_, err = newPermutation([]byte("short"))
	require.EqualError(t, err, "the key of codes must have 16, 24 or 32 bytes, got 5")
}

// FuzzPermutation asks that every number leads back.
func FuzzPermutation(f *testing.F) {
	f.Add(uint64(0), key16)
	f.Add(uint64(codeSpace-1), key16)
	f.Fuzz(func(t *testing.T, n uint64, key []byte) {
		p, err := newPermutation(key)
		if err != nil {
			return
		}
		n %= codeSpace
		require.Equal(t, n, p.backward(p.forward(n)))
		require.Equal(t, n, p.forward(p.backward(n)))
	})
}

// counters hands out blocks as a database does.
type counters struct{ next atomic.Uint64 }

func (c *counters) block(_ context.Context, n uint64) (uint64, error) { return c.next.Add(n) - n, nil }

// TestCounterCoder has several processes with several callers each: no code comes twice.
func TestCounterCoder(t *testing.T) {
	p, err := newPermutation(key16)
	require.NoError(t, err)
	var db counters
	var mu sync.Mutex
	var codes []string
	var wg sync.WaitGroup
	for range 3 {
		c := &counterCoder{permutation: p, block: db.block}
		for range 4 {
			wg.Go(func() {
				var mine []string
				for range 1500 {
					code, same, err := c.propose(context.Background(), "http://example.com", 0)
					if err != nil || same {
						t.Errorf("%v %v", err, same)
					}
					mine = append(mine, code)
				}
				mu.Lock()
				codes = append(codes, mine...)
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	require.Len(t, codes, 3*4*1500)
	slices.Sort(codes)
	require.Len(t, slices.Compact(codes), 3*4*1500)
	require.Regexp(t, regexp.MustCompile(`^[0-9A-Za-z]{7}$`), codes[0])
	require.EqualValues(t, 18*blockSize, db.next.Load()) // blocks are used up before others are asked for
}

func TestCounterCoderFails(t *testing.T) {
	p, err := newPermutation(key16)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		calls := 0
		gate := make(chan struct{})
		var first uint64
		c := &counterCoder{permutation: p, block: func(context.Context, uint64) (uint64, error) {
			calls++
			<-gate
			if calls <= 2 {
				return 0, down
			}
			return first, nil
		}}
		var wg sync.WaitGroup
		results := make(chan error, 10)
		for range 10 {
			wg.Go(func() { _, _, err := c.propose(t.Context(), "", 0); results <- err })
		}
		synctest.Wait()
		require.Equal(t, 1, calls) // one asks, nine wait
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := c.propose(impatient, "", 0)
		require.ErrorIs(t, err, context.Canceled)
		close(gate)
		wg.Wait()
		failed := 0
		for range 10 {
			if errors.Is(<-results, down) {
				failed++
			}
		}
		require.Equal(t, 2, failed) // each who has asked himself; then the block was there for all
		require.Equal(t, 3, calls)

		// The last numbers, and none after them.
		c.next, c.end, first = 0, 0, codeSpace-2
		for range 2 {
			_, _, err = c.propose(t.Context(), "", 0)
			require.NoError(t, err)
		}
		first = codeSpace
		_, _, err = c.propose(t.Context(), "", 0)
		require.ErrorIs(t, err, errNoCodes)
	})
}

func TestRandomCoder(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		code, same, err := randomCoder{}.propose(context.Background(), "", 0)
		require.NoError(t, err)
		require.False(t, same)
		require.Len(t, code, codeLength)
		seen[code] = true
	}
	require.Len(t, seen, 1000) // two alike among so few: once in seven million runs
}

func TestHashCoder(t *testing.T) {
	ctx := context.Background()
	a, b := hashCoder{key: []byte("a")}, hashCoder{key: []byte("b")}
	seen := map[string]bool{}
	for try := range maxHashes {
		code, same, err := a.propose(ctx, "http://example.com", try)
		require.NoError(t, err)
		require.True(t, same)
		again, _, _ := a.propose(ctx, "http://example.com", try)
		require.Equal(t, code, again)
		seen[code] = true
		other, _, _ := b.propose(ctx, "http://example.com", try)
		seen[other] = true
		target, _, _ := a.propose(ctx, fmt.Sprint("http://example.com/", try), 0)
		seen[target] = true
	}
	for range 5 { // the same target leads nowhere else: its codes are random then
		code, same, err := a.propose(ctx, "http://example.com", maxHashes)
		require.NoError(t, err)
		require.False(t, same)
		seen[code] = true
	}
	require.Len(t, seen, 3*maxHashes+5)
}

// TestNumbersAgain has a first database that was restored from a backup, so that numbers come again which others have
// used: links are made all the same, with codes that nobody has.
func TestNumbersAgain(t *testing.T) {
	s := newStore(t)
	l := newTestLinks(t, s)
	p, err := newPermutation(key16)
	require.NoError(t, err)
	codes := map[string]bool{}
	for range 2 {
		l.coder = &counterCoder{permutation: p, block: s.block}
		for range 50 {
			made, err := l.create(t.Context(), draft{Target: "http://example.com/"})
			require.NoError(t, err)
			require.False(t, codes[made.Code])
			codes[made.Code] = true
		}
		_, err := s.first().Exec(`UPDATE counters SET next = 0`)
		require.NoError(t, err)
	}
}
