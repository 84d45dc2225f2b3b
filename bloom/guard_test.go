package bloom

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// keysTo yields 0 to n-1.
func keysTo(n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
	}
}

func newGuard(t testing.TB, n uint64) *Guard[int, string] {
	g, err := NewGuard[int, string](Config[int]{N: n, FPR: 0.01})
	require.NoError(t, err)
	return g
}

func TestGuard(t *testing.T) {
	ctx := t.Context()
	g := newGuard(t, 1000)
	loads := 0
	load := func(_ context.Context, k int) (string, error) {
		loads++
		if k < 1000 {
			return fmt.Sprint(k), nil
		}
		return "", fmt.Errorf("row %d: %w", k, ErrNotFound)
	}
	// It fails open.
	require.True(t, g.Open())
	v, err := g.Get(ctx, 5, load)
	require.NoError(t, err)
	require.Equal(t, "5", v)
	_, err = g.Get(ctx, 5000, load)
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, 2, loads)
	require.Equal(t, GuardStats{Passed: 2}, g.Stats())
	require.Equal(t, 1.0, g.EstimatedFPR())

	require.NoError(t, g.Rebuild(ctx, keysTo(1000)))
	require.False(t, g.Open())
	guarded := g.Guarded(load)
	for k := range 1000 {
		v, err := guarded(ctx, k)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(k), v)
	}
	loads = 0
	for k := range 10_000 {
		v, err := g.Get(ctx, 1000+k, load)
		require.ErrorIs(t, err, ErrNotFound)
		require.Empty(t, v)
	}
	require.LessOrEqual(t, loads, 105)
	s := g.Stats()
	require.Equal(t, GuardStats{Passed: 1002 + uint64(loads), Refused: 10_000 - uint64(loads), NotFound: uint64(loads), Rebuilds: 1}, s)
	require.InDelta(t, float64(loads)/10_000, s.AbsentRatio(), 1e-9)
	require.Zero(t, GuardStats{}.AbsentRatio())
	require.InDelta(t, s.AbsentRatio(), g.EstimatedFPR(), 0.005)

	require.False(t, g.Contains(77_777))
	g.Admit(77_777)
	require.True(t, g.Contains(77_777))
	require.Equal(t, uint64(1), g.Stats().Admitted)

	// What load returns is returned as it is.
	down := errors.New("the store is down")
	_, err = g.Get(ctx, 5, func(context.Context, int) (string, error) { return "", down })
	require.Equal(t, down, err)
}

// Of a million requests for absent keys, one in a hundred reaches the loader at most.
func TestGuardAbsent(t *testing.T) {
	const requests = 1_000_000
	n := 100_000
	if brief() {
		n = 10_000
	}
	g := newGuard(t, uint64(n))
	require.NoError(t, g.Rebuild(t.Context(), keysTo(n)))
	for i := range n / 100 {
		g.Admit(-1 - i)
	}
	loads := 0
	load := func(context.Context, int) (string, error) { loads++; return "", ErrNotFound }
	for i := range requests {
		_, err := g.Get(t.Context(), n+i, load)
		require.True(t, err == ErrNotFound, "%v", err)
	}
	t.Logf("%.3f %% reached the loader", 100*float64(loads)/requests)
	require.LessOrEqual(t, loads, requests/100*105/100)
}

// A rebuild that fails changes nothing, however it fails.
func TestGuardRebuildFails(t *testing.T) {
	g := newGuard(t, 1000)
	require.EqualError(t, g.Rebuild(t.Context(), nil), "bloom: keys of Rebuild must not be nil")
	broken := errors.New("connection lost")
	half := func(yield func(int, error) bool) {
		_ = yield(1, nil) && yield(2, nil) && yield(0, broken)
	}
	err := g.Rebuild(t.Context(), half)
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "bloom: Rebuild ended after 2 keys: connection lost")
	require.True(t, g.Open(), "still, since nothing is known")

	require.NoError(t, g.Rebuild(t.Context(), keysTo(1000)))
	check := func() {
		t.Helper()
		require.False(t, g.Open())
		for k := range 1000 {
			require.True(t, g.Contains(k))
		}
		require.True(t, g.Contains(-5))
	}
	g.Admit(-5)
	for range 5 {
		require.Error(t, g.Rebuild(t.Context(), half))
		check()
	}
	require.PanicsWithValue(t, "scan", func() {
		_ = g.Rebuild(t.Context(), func(func(int, error) bool) { panic("scan") })
	})
	check()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, g.Rebuild(ended, keysTo(5)), context.Canceled)
	check()
	late, cancel := context.WithCancel(t.Context())
	err = g.Rebuild(late, func(yield func(int, error) bool) {
		yield(1, nil)
		cancel()
	})
	require.ErrorIs(t, err, context.Canceled)
	check()
	done := make(chan bool)
	go func() {
		defer close(done)
		_ = g.Rebuild(t.Context(), func(func(int, error) bool) { runtime.Goexit() })
	}()
	<-done
	check()
	// Only one at a time.
	err = g.Rebuild(t.Context(), func(func(int, error) bool) {
		require.ErrorIs(t, g.Rebuild(t.Context(), keysTo(1)), ErrRebuilding)
	})
	require.NoError(t, err)
	require.False(t, g.Contains(7))
	require.True(t, g.Contains(-5), "it was admitted a moment ago")
}

// A key that is admitted is never refused, when and wherever a rebuild is, and whether the scan sees
// it or not, if its row becomes visible within AdmitGrace.
func TestGuardAdmitDuringRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, 1000)
		scan := func(during func()) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				_ = yield(1, nil)
				during()
				_ = yield(2, nil)
			}
		}
		admitted := map[int]time.Time{}
		next := 100
		admit := func() {
			g.Admit(next)
			admitted[next] = time.Now()
			next++
		}
		rng := rand.New(rand.NewPCG(1, 1))
		dropped := 0
		admit()
		for range 500 {
			time.Sleep(time.Duration(rng.Int64N(int64(AdmitGrace / 2))))
			began := time.Now()
			err := g.Rebuild(t.Context(), func(yield func(int, error) bool) {
				scan(func() {
					time.Sleep(time.Duration(rng.Int64N(int64(AdmitGrace / 2))))
					admit()
				})(yield)
				if rng.IntN(4) == 0 {
					_ = yield(0, errors.New("the scan fails"))
				}
			})
			if rng.IntN(2) == 0 {
				admit()
			}
			require.LessOrEqual(t, len(g.state.Load().recent), 3)
			for k, at := range admitted {
				if began.Sub(at) <= AdmitGrace {
					require.True(t, g.Contains(k), "%v after Admit", time.Since(at))
				} else if err == nil && began.Sub(at) > 4*AdmitGrace && !g.Contains(k) {
					// No scan saw it: it is deleted, or was never there.
					delete(admitted, k)
					dropped++
				}
			}
		}
		require.Less(t, len(admitted), 60)
		require.Greater(t, dropped, 200)
		require.True(t, g.Contains(1))
	})
}

func TestGuardFailOpen(t *testing.T) {
	g := newGuard(t, 1000)
	require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
	require.False(t, g.Contains(55))
	g.FailOpen()
	require.True(t, g.Contains(55))
	require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
	require.False(t, g.Contains(55))
	// A rebuild that had begun before is not enough: its scan may have missed what is meant.
	require.NoError(t, g.Rebuild(t.Context(), func(yield func(int, error) bool) { g.FailOpen() }))
	require.True(t, g.Open())
	require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
	require.False(t, g.Open())
}

// The filter grows with the store, and keeps its rate.
func TestGuardGrows(t *testing.T) {
	g := newGuard(t, 10)
	require.NoError(t, g.Rebuild(t.Context(), keysTo(20_000)))
	require.LessOrEqual(t, g.EstimatedFPR(), 0.01)
	stages := g.state.Load().base.Stages()
	require.Greater(t, stages, 5)
	require.NoError(t, g.Rebuild(t.Context(), keysTo(20_000)))
	require.Equal(t, 1, g.state.Load().base.Stages(), "the next rebuild knows how many there are")
	for k := range 5000 {
		g.Admit(-k)
	}
	require.LessOrEqual(t, g.EstimatedFPR(), 0.01)
}

// A table whose rows are admitted, committed after some time, and asked for at once, while it is
// scanned again and again, some of the scans failing.
func TestGuardUnderLoad(t *testing.T) {
	g := newGuard(t, 1000)
	var mu sync.Mutex
	rows := map[int]bool{}
	snapshot := func(yield func(int, error) bool) {
		mu.Lock()
		keys := make([]int, 0, len(rows))
		for k := range rows {
			keys = append(keys, k)
		}
		mu.Unlock()
		for i, k := range keys {
			if i == 300 && k%2 == 0 {
				_ = yield(0, errors.New("the scan fails"))
				return
			}
			if !yield(k, nil) {
				return
			}
		}
	}
	load := func(_ context.Context, k int) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if rows[k] {
			return "row", nil
		}
		return "", ErrNotFound
	}
	require.NoError(t, g.Rebuild(t.Context(), snapshot))
	var stop atomic.Bool
	var scans sync.WaitGroup
	scans.Go(func() {
		for !stop.Load() {
			_ = g.Rebuild(context.Background(), snapshot)
		}
	})
	writers, each := 3, 3000
	if testing.Short() {
		each = 500
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				k := i*writers + w
				g.Admit(k)
				mu.Lock()
				rows[k] = true
				mu.Unlock()
				for _, k := range []int{k, i / 2 * writers, i / 3 * writers} {
					if k%writers != w && k != 0 {
						k += w
					}
					if !rowsHas(&mu, rows, k) {
						continue
					}
					if _, err := g.Get(context.Background(), k, load); err != nil {
						t.Errorf("row %d was refused: %v", k, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	scans.Wait()
	for k := range writers * each {
		require.True(t, g.Contains(k))
	}
}

func rowsHas(mu *sync.Mutex, rows map[int]bool, k int) bool {
	mu.Lock()
	defer mu.Unlock()
	return rows[k]
}

// A row that becomes visible AdmitGrace after Admit passes, to the nanosecond.
func TestGuardGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, 1000)
		require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
		for range 5 {
			time.Sleep(time.Hour)
			g.Admit(77)
			require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
			time.Sleep(AdmitGrace)
			require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
			require.True(t, g.Contains(77))
			time.Sleep(time.Nanosecond)
			require.NoError(t, g.Rebuild(t.Context(), keysTo(10)))
			require.False(t, g.Contains(77))
			require.Equal(t, 2, cap(g.state.Load().recent), "what was dropped is kept alive")
		}
	})
}

// With too little memory a Rebuild does the best it can, and says so.
func TestGuardMaxBytes(t *testing.T) {
	const n = 20_000
	one := newGuard(t, n)
	require.NoError(t, one.Rebuild(t.Context(), keysTo(n)))
	g, err := NewGuard[int, string](Config[int]{N: 1000, FPR: 0.01, MaxBytes: one.state.Load().base.Bits()/8 + 100})
	require.NoError(t, err)
	require.NoError(t, g.Rebuild(t.Context(), keysTo(n)))
	for range 3 { // when it knows how many there are
		require.NoError(t, g.Rebuild(t.Context(), keysTo(n)))
		require.LessOrEqual(t, g.EstimatedFPR(), 0.01)
		require.False(t, g.Saturated())
	}
	require.NoError(t, g.Rebuild(t.Context(), keysTo(3*n)))
	require.NoError(t, g.Rebuild(t.Context(), keysTo(3*n)))
	require.True(t, g.Saturated())
	for k := range 3 * n {
		require.True(t, g.Contains(k))
	}
}
