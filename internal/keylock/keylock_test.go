package keylock

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestLockExcludes(t *testing.T) {
	var l Locks[int]
	var wg sync.WaitGroup
	inside := make([]int, 4) // the race detector watches these
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				k := (g + i) % len(inside)
				if err := l.Lock(t.Context(), k); err != nil {
					t.Error(err)
					return
				}
				inside[k]++
				if inside[k] != 1 {
					t.Errorf("%d are inside", inside[k])
				}
				runtime.Gosched()
				inside[k]--
				l.Unlock(k)
			}
		})
	}
	wg.Wait()
	require.Empty(t, l.keys, "no memory is kept")
}

func TestLockInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks[string]
		require.NoError(t, l.Lock(t.Context(), "a"))
		require.NoError(t, l.Lock(t.Context(), "b"), "another key")
		var order []int
		for i := range 10 {
			go func() {
				if l.Lock(t.Context(), "a") == nil {
					order = append(order, i)
					l.Unlock("a")
				}
			}()
			synctest.Wait()
		}
		l.Unlock("a")
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, order)
		l.Unlock("b")
		require.Empty(t, l.keys)
	})
}

func TestTryLock(t *testing.T) {
	var l Locks[string]
	require.True(t, l.TryLock("a"))
	require.False(t, l.TryLock("a"))
	require.True(t, l.TryLock("b"))
	l.Unlock("a")
	require.NoError(t, l.Lock(t.Context(), "a"))
	require.False(t, l.TryLock("a"))
	l.Unlock("a")
	l.Unlock("b")
	require.Empty(t, l.keys)
}

func TestLockGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks[string]
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, l.Lock(ctx, "a"))
		done := make(chan error, 1)
		go func() { done <- l.Lock(ctx, "a") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.ErrorIs(t, l.Lock(ctx, "b"), context.Canceled, "even if it is free")
		require.Len(t, l.keys, 1)
		l.Unlock("a")
		require.Empty(t, l.keys)
	})
}
