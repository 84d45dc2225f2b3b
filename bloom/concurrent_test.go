package bloom

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goroutines add keys to one filter and look for those that were added, by themselves or by
// others, while it is measured, copied and stored: none is ever missing.
func TestConcurrentUse(t *testing.T) {
	const goroutines = 4
	each := 20_000
	if testing.Short() {
		each = 2000
	}
	for _, s := range setups(t, uint64(goroutines*each), 0.01) {
		switch s.name {
		case "Concurrent/XXH", "SingleWinner/XXH", "Scalable/XXH", "Rotating/XXH":
		default:
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			f := s.make()
			var done [goroutines]atomic.Int64 // keys that each has added
			var wg sync.WaitGroup
			var stop atomic.Bool
			for g := range goroutines {
				wg.Go(func() {
					for i := range each {
						k := i*goroutines + g
						f.add(k)
						done[g].Store(int64(i + 1))
						if !f.contains(k) {
							t.Errorf("%d is missing", k)
							return
						}
						// One that another goroutine has added.
						o := (g + 1) % goroutines
						if n := int(done[o].Load()); n > 0 {
							if k := (i*7919%n)*goroutines + o; !f.contains(k) {
								t.Errorf("%d of goroutine %d is missing", k, o)
								return
							}
						}
					}
				})
			}
			var whole sync.WaitGroup
			whole.Go(func() {
				for !stop.Load() {
					before := [goroutines]int{}
					for g := range before {
						before[g] = int(done[g].Load())
					}
					data, err := f.marshal()
					if err != nil {
						t.Error(err)
						return
					}
					c := s.make()
					if err := c.unmarshal(data); err != nil {
						t.Error(err)
						return
					}
					if f.clone != nil {
						c = f.clone()
					}
					for g, n := range before {
						for i := 0; i < n; i += 97 {
							if !c.contains(i*goroutines + g) {
								t.Errorf("%d is missing in the copy", i*goroutines+g)
								return
							}
						}
					}
					f.fill()
					f.fpr()
				}
			})
			wg.Wait()
			stop.Store(true)
			whole.Wait()
			for k := range goroutines * each {
				require.True(t, f.contains(k), "%d is missing in the end", k)
			}
		})
	}
}

// Of goroutines that add the same keys at the same time, in the same order, one at most wins each, and
// nearly always one does: that nobody wins is as likely as a false positive.
func TestSingleWinner(t *testing.T) {
	const goroutines, keys = 4, 20_000
	concurrent, err := NewConcurrent(Config[int]{N: keys, FPR: 0.001, SingleWinner: true})
	require.NoError(t, err)
	rotating, err := NewRotating(RotatingConfig[int]{N: keys, FPR: 0.003, SingleWinner: true, Generations: 3})
	require.NoError(t, err)
	for name, f := range map[string]Filter[int]{"Concurrent": concurrent, "Rotating": rotating} {
		t.Run(name, func(t *testing.T) {
			winners := make([]atomic.Int32, keys)
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					for k := range keys {
						if f.Add(k) {
							winners[k].Add(1)
						}
						// Generations change meanwhile, not so often that keys are forgotten.
						if r, ok := f.(*Rotating[int]); ok && g == 0 && (k == keys/3 || k == 2*keys/3) {
							r.Rotate()
						}
					}
				})
			}
			wg.Wait()
			none := 0
			for k := range winners {
				n := winners[k].Load()
				require.LessOrEqual(t, n, int32(1), "%d has %d winners", k, n)
				if n == 0 {
					none++
				}
			}
			require.LessOrEqual(t, none, 100)
		})
	}
}

// While a Scalable grows, no stage gets more keys than its rate is for.
func TestScalableGrowth(t *testing.T) {
	f, err := NewScalable(Config[int]{N: 10, FPR: 0.01})
	require.NoError(t, err)
	const goroutines, each = 4, 5000
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				f.Add(i*goroutines + g)
			}
		})
	}
	wg.Wait()
	stages := *f.stages.Load()
	require.Len(t, stages, 11) // 10·(2^11-1) = 20470
	sum := 0.0
	for i, s := range stages {
		require.LessOrEqual(t, s.used.Load(), s.capacity)
		require.Equal(t, uint64(10)<<(len(stages)-1-i), s.capacity)
		require.LessOrEqual(t, lanesFPR(float64(s.capacity), float64(len(s.blocks)), blockLanes, blockWidth), s.rate)
		sum += s.rate
	}
	require.Less(t, sum, 0.01)
	require.LessOrEqual(t, f.EstimatedFPR(), 0.0101)
	// What looked as if it was there, although it was not, was not added.
	require.InEpsilon(t, goroutines*each, f.Len(), 0.01)
	require.Equal(t, 11, f.Stages())
	require.False(t, f.Saturated())
	f.Reset()
	require.Equal(t, 1, f.Stages())
	require.Zero(t, f.Len())
}

// A Scalable that may not grow goes on, and says so.
func TestScalableSaturated(t *testing.T) {
	f, err := NewScalable(Config[int]{N: 100, FPR: 0.01, MaxBytes: 2000})
	require.NoError(t, err)
	for i := range 10_000 {
		f.Add(i)
		require.True(t, f.Contains(i))
	}
	require.True(t, f.Saturated())
	require.LessOrEqual(t, f.Bits()/8, uint64(2000))
	require.Greater(t, f.EstimatedFPR(), 0.5)
	require.Greater(t, f.Len(), uint64(2000))
	for i := range 10_000 {
		require.True(t, f.Contains(i))
	}
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	var g Scalable[int]
	require.NoError(t, g.UnmarshalBinary(data))
	require.True(t, g.Saturated())
	require.Equal(t, f.Len(), g.Len())
	require.True(t, f.Clone().Saturated())
	f.Reset()
	require.False(t, f.Saturated())

	// With more memory it grows again.
	for i := 0; !f.Saturated(); i++ {
		f.Add(i)
	}
	data, err = f.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, g.UnmarshalBinary(data))
	for i := range 10_000 {
		g.Add(-i)
	}
	require.Greater(t, g.Stages(), f.Stages())
	require.Greater(t, g.Len(), uint64(9000))
	require.True(t, g.Saturated(), "one of its stages is too full, still")

	if brief() {
		return // what follows adds to each of many stages
	}
	// Rates cannot fall for ever either.
	f, err = NewScalable(Config[int]{N: 1, FPR: 1e-6})
	require.NoError(t, err)
	for i := range 300_000 {
		f.Add(i)
	}
	require.True(t, f.Saturated())
	require.Equal(t, 16, f.Stages())
}

// A Blocked and a Concurrent read each other's files.
func TestBlockedToConcurrent(t *testing.T) {
	b, err := NewBlocked(Config[string]{N: 1000, FPR: 0.01})
	require.NoError(t, err)
	b.Add("a")
	var file bytes.Buffer
	n, err := b.WriteTo(&file)
	require.NoError(t, err)
	require.Equal(t, int64(file.Len()), n)
	var c Concurrent[string]
	read, err := c.ReadFrom(bytes.NewReader(append(file.Bytes(), "what follows"...)))
	require.NoError(t, err)
	require.Equal(t, n, read)
	require.True(t, c.Contains("a"))
	require.False(t, c.Contains("b"))
	c.Add("b")
	data, err := c.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, b.UnmarshalBinary(data))
	require.True(t, b.Contains("b"))

	// But nobody who asked for a single winner gets a filter that has none.
	single, err := NewConcurrent(Config[string]{N: 1000, FPR: 0.01, SingleWinner: true})
	require.NoError(t, err)
	require.ErrorIs(t, single.UnmarshalBinary(data), ErrMismatch)
	single.Add("a")
	data, err = single.MarshalBinary()
	require.NoError(t, err)
	require.ErrorIs(t, b.UnmarshalBinary(data), ErrMismatch)
	require.NoError(t, c.UnmarshalBinary(data))
	require.True(t, c.Contains("a"))
	require.NotZero(t, c.lanes)
}

// slowWriter does something when it has been written to once.
type slowWriter struct {
	bytes.Buffer
	after func()
	calls int
}

func (w *slowWriter) Write(b []byte) (int, error) {
	if w.calls++; w.calls == 2 {
		w.after()
	}
	return w.Buffer.Write(b)
}

// A copy that is taken while keys are added counts all keys that are in it, so that its stages do
// not get more than they are for either.
func TestScalableCopyCounts(t *testing.T) {
	const n = 100_000
	f, err := NewScalable(Config[int]{N: n, FPR: 0.01})
	require.NoError(t, err)
	w := &slowWriter{after: func() {
		for i := range n {
			f.Add(i)
		}
	}}
	_, err = f.WriteTo(w)
	require.NoError(t, err)
	var g Scalable[int]
	_, err = g.ReadFrom(w)
	require.NoError(t, err)
	for i := range n {
		g.Add(n + i)
	}
	require.LessOrEqual(t, g.EstimatedFPR(), 0.0101)

	var wg sync.WaitGroup
	var stop atomic.Bool
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			f.Add(i)
		}
	})
	for range 20 {
		c := f.Clone()
		for i, s := range *c.stages.Load() {
			keys := lanesCount(s.blocks.fill(), float64(len(s.blocks)), blockWidth)
			require.LessOrEqual(t, float64(keys), 1.02*float64(s.used.Load())+100, "stage %d", i)
		}
	}
	stop.Store(true)
	wg.Wait()
}

// A filter that becomes saturated while it is written is saturated when it is read.
func TestScalableSaturatedMeanwhile(t *testing.T) {
	f, err := NewScalable(Config[int]{N: 1000, FPR: 0.01, MaxBytes: 2000})
	require.NoError(t, err)
	for i := range 500 {
		f.Add(i)
	}
	w := &slowWriter{calls: 1, after: func() {
		for i := range 10_000 {
			f.Add(i)
		}
	}}
	_, err = f.WriteTo(w)
	require.NoError(t, err)
	require.True(t, f.Saturated())
	var g Scalable[int]
	_, err = g.ReadFrom(w)
	require.NoError(t, err)
	require.True(t, g.Saturated())
	require.Equal(t, f.Len(), g.Len())
}
