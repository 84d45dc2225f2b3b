package bloom

import (
	"bytes"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newRotating(t testing.TB, c RotatingConfig[int]) *Rotating[int] {
	f, err := NewRotating(c)
	require.NoError(t, err)
	return f
}

// A key is found for Window after its last Add, to the nanosecond, and not much longer; whether
// somebody calls meanwhile or nobody does.
func TestRotatingWindow(t *testing.T) {
	for _, parts := range []int{1, 3, 7, 63} {
		synctest.Test(t, func(t *testing.T) {
			const window = time.Minute
			f := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_001, Window: window, Generations: parts})
			last := map[int]time.Time{}
			rng := rand.New(rand.NewPCG(1, uint64(parts)))
			for step := range 2000 {
				k := rng.IntN(50)
				now := time.Now()
				at, known := last[k]
				age := now.Sub(at)
				found := f.Contains(k)
				if known && age <= window {
					require.True(t, found, "step %d: %d is missing after %v", step, k, age)
				}
				if !known || age > window+window/time.Duration(parts)+time.Microsecond {
					require.False(t, found, "step %d: %d is there after %v", step, k, age)
				}
				if rng.IntN(2) == 0 {
					require.Equal(t, !found, f.Add(k))
					last[k] = now
				}
				switch rng.IntN(40) {
				case 0:
					time.Sleep(window * time.Duration(rng.IntN(4)))
				case 1:
					time.Sleep(window - time.Since(now)) // to the nanosecond
				default:
					time.Sleep(time.Duration(rng.Int64N(int64(window / 8))))
				}
			}
		})
	}
}

// A clock that is read often runs, and is late; that must not make a key live shorter.
func TestRotatingOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRotating(t, RotatingConfig[int]{N: 10_000, FPR: 0.000_01, Window: time.Second, Generations: 2})
		added := map[int]time.Time{}
		for i := range 3000 {
			for range 100 { // makes the clock run
				f.Contains(-1)
			}
			f.Add(i)
			added[i] = time.Now()
			time.Sleep(time.Millisecond + 13*time.Microsecond)
			for _, back := range []int{900, 980} {
				if at, ok := added[i-back]; ok && time.Since(at) <= time.Second {
					require.True(t, f.Contains(i-back), "%v after it was added", time.Since(at))
				}
			}
			if i >= 2000 {
				require.False(t, f.Contains(i-1600))
			}
		}
	})
}

// Keys that are added while generations change are found afterwards.
func TestRotatingRotate(t *testing.T) {
	for _, single := range []bool{false, true} {
		f := newRotating(t, RotatingConfig[int]{N: 100_000, FPR: 0.01, Generations: 2, SingleWinner: single})
		var wg sync.WaitGroup
		var stop atomic.Bool
		var turn atomic.Int64 // what is added within one turn is there in the next
		for g := range 3 {
			wg.Go(func() {
				for i := g; !stop.Load(); i += 3 {
					if i&255 < 3 {
						runtime.Gosched() // or Rotate waits until a time slice of each ends
					}
					before := turn.Load()
					f.Add(i)
					if !f.Contains(i) && turn.Load() <= before+1 {
						t.Errorf("%d is missing", i)
						return
					}
				}
			})
		}
		for range 200 {
			turn.Add(1)
			f.Rotate()
			runtime.Gosched()
		}
		stop.Store(true)
		wg.Wait()
	}
	f := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_01, Generations: 2})
	f.Add(1)
	for range 2 {
		f.Rotate()
		require.True(t, f.Contains(1))
		require.False(t, f.Add(2) && f.Contains(3))
	}
	f.Rotate()
	require.False(t, f.Contains(1))
	require.True(t, f.Contains(2))
	f.Reset()
	require.False(t, f.Contains(2))
	require.Zero(t, f.EstimatedFPR())
}

// What is stored and read later has aged meanwhile.
func TestRotatingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_01, Window: time.Minute, Generations: 4})
		f.Add(1)
		time.Sleep(31 * time.Second) // two generations without a key between
		f.Add(2)
		var file bytes.Buffer
		_, err := f.WriteTo(&file)
		require.NoError(t, err)

		var g Rotating[int]
		require.NoError(t, g.UnmarshalBinary(file.Bytes()))
		require.True(t, g.Contains(1))
		require.True(t, g.Contains(2))
		require.Equal(t, f.Bits(), g.Bits())
		time.Sleep(29 * time.Second)
		require.True(t, g.Contains(1))
		time.Sleep(16 * time.Second)
		require.False(t, g.Contains(1))
		require.True(t, g.Contains(2))

		// The same file, now older.
		var h Rotating[int]
		require.NoError(t, h.UnmarshalBinary(file.Bytes()))
		require.False(t, h.Contains(1))
		require.True(t, h.Contains(2))
		time.Sleep(15 * time.Second)
		require.True(t, h.Contains(2))
		time.Sleep(16 * time.Second)
		require.False(t, h.Contains(2))

		time.Sleep(24 * 365 * time.Hour)
		require.NoError(t, h.UnmarshalBinary(file.Bytes()))
		require.False(t, h.Contains(2))
		require.True(t, h.Add(3))
		require.True(t, h.Contains(3))

		// Without a window, and in a filter that is in use.
		m := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_01, Generations: 4})
		m.Add(7)
		data, err := m.MarshalBinary()
		require.NoError(t, err)
		require.NoError(t, h.UnmarshalBinary(data))
		time.Sleep(24 * time.Hour)
		require.True(t, h.Contains(7))
		require.False(t, h.Contains(3))

		single := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.001, Generations: 4, SingleWinner: true})
		require.ErrorIs(t, single.UnmarshalBinary(data), ErrMismatch)
		single.Add(5)
		data, err = single.MarshalBinary()
		require.NoError(t, err)
		require.NoError(t, h.UnmarshalBinary(data))
		require.True(t, h.Contains(5))
	})
}

func TestRotatingConfig(t *testing.T) {
	good := RotatingConfig[int]{N: 100, FPR: 0.01, Window: time.Minute, Generations: 4}
	for want, change := range map[string]func(c *RotatingConfig[int]){
		"bloom: Generations must be 1 to 63, got 0":                                     func(c *RotatingConfig[int]) { c.Generations = 0 },
		"bloom: Generations must be 1 to 63, got 64":                                    func(c *RotatingConfig[int]) { c.Generations = 64 },
		"bloom: Window must be 0, or at least 1ms for each of 4 Generations, got -1ns":  func(c *RotatingConfig[int]) { c.Window = -1 },
		"bloom: Window must be 0, or at least 1ms for each of 4 Generations, got 3.9ms": func(c *RotatingConfig[int]) { c.Window = 3900 * time.Microsecond },
		"bloom: FPR of a Rotating with SingleWinner must be at least 0.0005, got 0.0001": func(c *RotatingConfig[int]) {
			c.FPR, c.SingleWinner = 0.0001, true
		},
	} {
		c := good
		change(&c)
		_, err := NewRotating(c)
		require.EqualError(t, err, want)
	}
	c := good
	c.MaxBytes = 500
	_, err := NewRotating(c)
	require.ErrorIs(t, err, ErrTooLarge)

	// Windows that nearly overflow, read by a filter that has been in use.
	for _, window := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, 1 << 62} {
		synctest.Test(t, func(t *testing.T) {
			c := RotatingConfig[int]{N: 100, FPR: 0.000_01, Window: window, Generations: 1}
			f, g := newRotating(t, c), newRotating(t, c)
			time.Sleep(24 * time.Hour)
			f.Add(1)
			f.Rotate()
			for range 3 {
				data, err := f.MarshalBinary()
				require.NoError(t, err)
				require.NoError(t, g.UnmarshalBinary(data))
				require.True(t, g.Contains(1))
				require.LessOrEqual(t, len(g.state.Load().generations), 2)
				f, g = g, f
			}
		})
	}

	// The longest window there is, and the shortest.
	synctest.Test(t, func(t *testing.T) {
		f := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_01, Window: math.MaxInt64, Generations: 1})
		f.Add(1)
		time.Sleep(200 * 365 * 24 * time.Hour)
		require.True(t, f.Contains(1))
		data, err := f.MarshalBinary()
		require.NoError(t, err)
		require.NoError(t, f.UnmarshalBinary(data))
		require.True(t, f.Contains(1))
	})
	synctest.Test(t, func(t *testing.T) {
		f := newRotating(t, RotatingConfig[int]{N: 100, FPR: 0.000_01, Window: 4 * time.Millisecond, Generations: 4})
		f.Add(1)
		time.Sleep(4 * time.Millisecond)
		require.True(t, f.Contains(1))
		time.Sleep(2 * time.Millisecond)
		require.False(t, f.Contains(1))
	})
}
