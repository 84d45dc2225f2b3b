package bloom

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// ops is what a filter can do, for a test that runs all kinds alike. What a kind cannot do is nil.
type ops struct {
	name      string
	add       func(k int) bool
	contains  func(k int) bool
	reset     func()
	clone     func() ops
	union     func(ops) error
	intersect func(ops) error
	marshal   func() ([]byte, error)
	unmarshal func([]byte) error
	fill      func() float64
	fpr       func() float64
	bits      func() uint64
	self      any
}

// everything is what the filters have in common.
type everything interface {
	Filter[int]
	Reset()
	MarshalBinary() ([]byte, error)
	UnmarshalBinary([]byte) error
	FillRatio() float64
	EstimatedFPR() float64
	Bits() uint64
}

func common(name string, f everything) ops {
	return ops{
		name: name, add: f.Add, contains: f.Contains, reset: f.Reset,
		marshal: f.MarshalBinary, unmarshal: f.UnmarshalBinary,
		fill: f.FillRatio, fpr: f.EstimatedFPR, bits: f.Bits, self: f,
	}
}

// combining adds what only some have.
func combining[F interface {
	everything
	Union(F) error
	Intersect(F) error
	Clone() F
}](name string, f F) ops {
	o := common(name, f)
	o.union = func(other ops) error { return f.Union(other.self.(F)) }
	o.intersect = func(other ops) error { return f.Intersect(other.self.(F)) }
	o.clone = func() ops { return combining(name, f.Clone()) }
	return o
}

// setup makes empty filters of one kind, which can be combined.
type setup struct {
	name string
	make func() ops
}

func setups(t testing.TB, n uint64, p float64) []setup {
	constant := Func(9, func(int) uint64 { return 12345 })
	var all []setup
	for _, hash := range []struct {
		name string
		Hasher[int]
	}{{"XXH", XXH[int](7)}, {"constant", constant}} {
		hash, name := hash.Hasher, "/"+hash.name
		all = append(all,
			setup{"Blocked" + name, func() ops {
				f, err := NewBlocked(Config[int]{N: n, FPR: p, Hash: hash})
				require.NoError(t, err)
				return combining("Blocked", f)
			}},
			setup{"Concurrent" + name, func() ops {
				f, err := NewConcurrent(Config[int]{N: n, FPR: p, Hash: hash})
				require.NoError(t, err)
				return combining("Concurrent", f)
			}},
			setup{"SingleWinner" + name, func() ops {
				f, err := NewConcurrent(Config[int]{N: n, FPR: p, Hash: hash, SingleWinner: true})
				require.NoError(t, err)
				return combining("SingleWinner", f)
			}},
			setup{"Scalable" + name, func() ops {
				f, err := NewScalable(Config[int]{N: n/8 + 1, FPR: p, Hash: hash})
				require.NoError(t, err)
				o := common("Scalable", f)
				var clone func(f *Scalable[int]) func() ops
				clone = func(f *Scalable[int]) func() ops {
					return func() ops {
						c := f.Clone()
						o := common("Scalable", c)
						o.clone = clone(c)
						return o
					}
				}
				o.clone = clone(f)
				return o
			}},
			setup{"Rotating" + name, func() ops {
				f, err := NewRotating(RotatingConfig[int]{N: n, FPR: p, Hash: hash, Generations: 3})
				require.NoError(t, err)
				return common("Rotating", f)
			}},
		)
	}
	all = append(all,
		setup{"SplitBlock", func() ops {
			f, err := NewSplitBlock(Config[int]{N: n, FPR: p})
			require.NoError(t, err)
			return combining("SplitBlock", f)
		}},
		setup{"Classic", func() ops {
			f, err := NewClassic(Config[int]{N: n, FPR: p})
			require.NoError(t, err)
			return combining("Classic", f)
		}},
	)
	return all
}

// A run is a filter, another one that can be combined with it, and the sets that they stand for.
type run struct {
	t        testing.TB
	f, g     ops
	inF, inG map[int]bool
}

func newRun(t testing.TB, s setup) *run {
	return &run{t: t, f: s.make(), g: s.make(), inF: map[int]bool{}, inG: map[int]bool{}}
}

const stepKinds = 10

func (r *run) step(op, k int) {
	f := r.f
	switch op {
	case 0, 1, 2:
		before := f.contains(k)
		added := f.add(k)
		// An Add that finds the key says so, and one that changes nothing too.
		if before == added {
			r.t.Fatalf("Contains(%d) was %v, and Add %v", k, before, added)
		}
		r.inF[k] = true
	case 3:
		r.g.add(k)
		r.inG[k] = true
	case 4:
		f.contains(k)
	case 5:
		if k%8 == 0 {
			f.reset()
			clear(r.inF)
			if f.contains(k) || f.fill() != 0 || f.fpr() != 0 {
				r.t.Fatalf("not empty after Reset: fill %v, rate %v", f.fill(), f.fpr())
			}
		}
	case 6:
		if f.union != nil {
			require.NoError(r.t, f.union(r.g))
			for k := range r.inG {
				r.inF[k] = true
			}
		}
	case 7:
		if f.intersect != nil && k%4 == 0 {
			require.NoError(r.t, f.intersect(r.g))
			for k := range r.inF {
				if !r.inG[k] {
					delete(r.inF, k)
				}
			}
		}
	case 8:
		if f.clone != nil {
			c := f.clone()
			want, err := c.marshal()
			require.NoError(r.t, err)
			f.add(k)
			f.add(k + 1000)
			f.reset()
			got, err := c.marshal()
			require.NoError(r.t, err)
			require.Equal(r.t, want, got, "a change of a filter reached its clone")
			r.f = c
		}
	case 9:
		data, err := f.marshal()
		require.NoError(r.t, err)
		require.NoError(r.t, r.f.unmarshal(data))
		again, err := r.f.marshal()
		require.NoError(r.t, err)
		if f.name != "Rotating" { // the time of writing is in it
			require.Equal(r.t, data, again)
		}
	}
}

func (r *run) check() {
	for k := range r.inF {
		if !r.f.contains(k) {
			r.t.Fatalf("%d is missing", k)
		}
	}
	for k := range r.inG {
		if !r.g.contains(k) {
			r.t.Fatalf("%d is missing in the other", k)
		}
	}
	if fill, rate := r.f.fill(), r.f.fpr(); fill < 0 || fill > 1 || rate < 0 || rate > 1 {
		r.t.Fatalf("fill %v, rate %v", fill, rate)
	}
}

// Random operations on each kind of filter beside a map: no key is ever missing, and Add says what
// Contains said.
func TestModel(t *testing.T) {
	for i, s := range setups(t, 64, 0.01) {
		t.Run(s.name, func(t *testing.T) {
			runs := 60
			if brief() {
				runs = 10
			}
			for seed := range runs {
				rng := rand.New(rand.NewPCG(uint64(i), uint64(seed)))
				r := newRun(t, s)
				for step := range 200 {
					op, k := rng.IntN(stepKinds), rng.IntN(200)
					func() {
						defer func() {
							if t.Failed() {
								t.Logf("seed %d, step %d: operation %d with %d", seed, step, op, k)
							}
						}()
						r.step(op, k)
						r.check()
					}()
				}
			}
		})
	}
}

func FuzzModel(f *testing.F) {
	n := len(setups(f, 64, 0.01))
	for i := range n {
		f.Add(uint8(i), []byte{0, 1, 3, 2, 6, 0, 4, 3, 9, 0, 8, 3, 1, 8, 7, 4, 5, 8})
	}
	f.Fuzz(func(t *testing.T, which uint8, steps []byte) {
		r := newRun(t, setups(t, 64, 0.01)[int(which)%n])
		for i := 0; i+1 < len(steps) && i < 400; i += 2 {
			r.step(int(steps[i])%stepKinds, int(steps[i+1]))
		}
		r.check()
	})
}

// Filters of another size, hash or kind of bits are not combined, and stay as they are.
func TestMismatch(t *testing.T) {
	type F = *Concurrent[int]
	makes := func(c Config[int]) F {
		f, err := NewConcurrent(c)
		require.NoError(t, err)
		f.Add(1)
		return f
	}
	base := Config[int]{N: 1000, FPR: 0.01}
	f := makes(base)
	want, err := f.MarshalBinary()
	require.NoError(t, err)
	for i, c := range []Config[int]{
		{N: 2000, FPR: 0.01},
		{N: 1000, FPR: 0.001},
		{N: 1000, FPR: 0.01, SingleWinner: true},
		{N: 1000, FPR: 0.01, Hash: XXH[int](1)},
		{N: 1000, FPR: 0.01, Hash: MapHash[int]()},
		{N: 1000, FPR: 0.01, Hash: Func(1, func(k int) uint64 { return uint64(k) })},
	} {
		o := makes(c)
		o.Add(2)
		require.ErrorIs(t, f.Union(o), ErrMismatch, "%d", i)
		require.ErrorIs(t, f.Intersect(o), ErrMismatch, "%d", i)
		require.ErrorIs(t, o.Union(f), ErrMismatch, "%d", i)
	}
	got, err := f.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, want, got)
	m := MapHash[int]()
	a, b := makes(Config[int]{N: 1000, FPR: 0.01, Hash: m}), makes(Config[int]{N: 1000, FPR: 0.01, Hash: m})
	b.Add(5)
	require.NoError(t, a.Union(b))
	require.True(t, a.Contains(5))
}

// Hash and ContainsHash are another way to the same bits.
func TestHashMethods(t *testing.T) {
	h := XXH[string](3)
	c := Config[string]{N: 1000, FPR: 0.01, Hash: h}
	blocked, err := NewBlocked(c)
	require.NoError(t, err)
	byHash, err := NewBlocked(c)
	require.NoError(t, err)
	shared, err := NewConcurrent(c)
	require.NoError(t, err)
	scalable, err := NewScalable(c)
	require.NoError(t, err)
	rotating, err := NewRotating(RotatingConfig[string]{N: 1000, FPR: 0.01, Hash: h, Generations: 1})
	require.NoError(t, err)
	for i := range 2000 {
		k := fmt.Sprint(i)
		want := blocked.Add(k)
		require.Equal(t, want, byHash.AddHash(h.Hash(k)))
		require.Equal(t, want, shared.AddHash(h.Hash(k)))
		scalable.AddHash(h.Hash(k))
		rotating.AddHash(h.Hash(k))
	}
	for i := range 20_000 {
		k := fmt.Sprint(i)
		want := blocked.Contains(k)
		require.Equal(t, want, blocked.ContainsHash(h.Hash(k)))
		require.Equal(t, want, byHash.Contains(k))
		require.Equal(t, want, shared.Contains(k))
		require.Equal(t, want, shared.ContainsHash(h.Hash(k)))
		require.Equal(t, scalable.Contains(k), scalable.ContainsHash(h.Hash(k)))
		require.Equal(t, rotating.Contains(k), rotating.ContainsHash(h.Hash(k)))
	}
	require.Equal(t, blocked.blocks, byHash.blocks)
	require.Equal(t, blocked.blocks, shared.blocks)
}

func TestEstimatedCount(t *testing.T) {
	for _, load := range []float64{0.1, 1, 2} {
		const n = 10_000
		c := Config[int]{N: n, FPR: 0.01}
		blocked, _ := NewBlocked(c)
		concurrent, _ := NewConcurrent(c)
		c.SingleWinner = true
		words, _ := NewConcurrent(c)
		count := int(load * n)
		for i := range count {
			blocked.Add(i)
			concurrent.Add(i)
			words.Add(i)
		}
		for name, got := range map[string]uint64{
			"Blocked": blocked.EstimatedCount(), "Concurrent": concurrent.EstimatedCount(), "SingleWinner": words.EstimatedCount(),
		} {
			require.InEpsilon(t, count, got, 0.02, "%s with %d keys", name, count)
		}
	}
	f, _ := NewBlocked(Config[int]{N: 1, FPR: 0.5})
	require.Zero(t, f.EstimatedCount())
	for i := range 100_000 {
		f.Add(i)
	}
	require.Equal(t, 1.0, f.FillRatio())
	require.Equal(t, 1.0, f.EstimatedFPR())
	require.Less(t, f.EstimatedCount(), uint64(1e9)) // a number, although nobody knows
}

func TestConfig(t *testing.T) {
	kinds := map[string]func(c Config[string]) error{
		"Blocked":    func(c Config[string]) error { _, err := NewBlocked(c); return err },
		"Concurrent": func(c Config[string]) error { _, err := NewConcurrent(c); return err },
		"SplitBlock": func(c Config[string]) error { _, err := NewSplitBlock(c); return err },
		"Classic":    func(c Config[string]) error { _, err := NewClassic(c); return err },
		"Scalable":   func(c Config[string]) error { _, err := NewScalable(c); return err },
		"Cuckoo":     func(c Config[string]) error { _, err := NewCuckoo(c); return err },
		"Guard":      func(c Config[string]) error { _, err := NewGuard[string, int](c); return err },
		"Rotating": func(c Config[string]) error {
			_, err := NewRotating(RotatingConfig[string]{
				N: c.N, FPR: c.FPR, MaxBytes: c.MaxBytes, Hash: c.Hash, SingleWinner: c.SingleWinner, Generations: 2,
			})
			return err
		},
	}
	for name, make := range kinds {
		require.NoError(t, make(Config[string]{N: 1, FPR: 0.99999}), name)
		require.NoError(t, make(Config[string]{N: 1, FPR: 0.0004}), name)
		require.EqualError(t, make(Config[string]{FPR: 0.01}), "bloom: N must be at least 1, got 0", name)
		for _, p := range []string{"0", "1", "-1", "2", "NaN", "+Inf", "-Inf"} {
			require.EqualError(t, make(Config[string]{N: 1, FPR: parse(t, p)}), "bloom: FPR must be more than 0 and less than 1, got "+p, name)
		}
		require.ErrorIs(t, make(Config[string]{N: 1 << 40, FPR: 0.01}), ErrTooLarge, name)
		require.ErrorIs(t, make(Config[string]{N: 1<<64 - 1, FPR: 0.01}), ErrTooLarge, name)
		require.ErrorIs(t, make(Config[string]{N: 1_000_000, FPR: 0.01, MaxBytes: 1000}), ErrTooLarge, name)
		if name != "Concurrent" && name != "Rotating" {
			require.EqualError(t, make(Config[string]{N: 1, FPR: 0.5, SingleWinner: true}),
				"bloom: SingleWinner is for a Concurrent or a Rotating, not for a "+name)
		}
		if name != "Classic" {
			require.ErrorContains(t, make(Config[string]{N: 1, FPR: 1e-30}), "bloom: FPR of a "+name+" must be at least", name)
		}
	}
	require.EqualError(t, kinds["Blocked"](Config[string]{N: 1_000_000, FPR: 0.01, MaxBytes: 1000}),
		"bloom: N = 1000000 with FPR = 0.01 takes 1262464 bytes, MaxBytes is 1000: over MaxBytes")
	require.EqualError(t, kinds["Concurrent"](Config[string]{N: 1, FPR: 1e-5, SingleWinner: true}),
		"bloom: FPR of a Concurrent with SingleWinner must be at least 0.0001, got 1e-05")
}

func parse(t *testing.T, s string) float64 {
	var p float64
	_, err := fmt.Sscan(s, &p)
	require.NoError(t, err)
	return p
}

// No operation on a key allocates.
func TestAllocs(t *testing.T) {
	for _, s := range setups(t, 1000, 0.01) {
		f := s.make()
		k := 0
		require.Zero(t, testing.AllocsPerRun(50, func() {
			f.add(k)
			f.contains(k + 1)
			f.contains(-k)
			k += 2
		}), s.name)
	}
	text := "user:00000000001"
	slice := []byte(text)
	b, _ := NewBlocked(Config[string]{N: 1000, FPR: 0.01})
	m, _ := NewBlocked(Config[string]{N: 1000, FPR: 0.01, Hash: MapHash[string]()})
	s, _ := NewConcurrent(Config[[]byte]{N: 1000, FPR: 0.01})
	a, _ := NewConcurrent(Config[[16]byte]{N: 1000, FPR: 0.01})
	require.Zero(t, testing.AllocsPerRun(50, func() {
		b.Add(text)
		b.Contains(text)
		m.Add(text)
		m.Contains(text)
		s.Add(slice)
		s.Contains(slice)
		a.Add([16]byte(slice))
		a.Contains([16]byte(slice))
	}))
}
