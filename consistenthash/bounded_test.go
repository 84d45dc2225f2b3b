package consistenthash

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func newBounded(t testing.TB, m *Map[string], c BoundedConfig) *Bounded[string] {
	t.Helper()
	b, err := NewBounded(m, c)
	require.NoError(t, err)
	return b
}

func TestBoundedInvalid(t *testing.T) {
	m := newMap(t, nil, nil)
	for _, f := range []float64{0.5, -1, 1001, math.NaN(), math.Inf(1)} {
		_, err := NewBounded(m, BoundedConfig{LoadFactor: f})
		require.EqualError(t, err, fmt.Sprint("consistenthash: LoadFactor must be from 1 to 1000, got ", f))
	}
}

// TestBoundedModel compares each step with the definition: the request goes to the first node of
// the key's sequence that has less than factor·total·weight/weights.
func TestBoundedModel(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Log("seed", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 0))
	steps := 400
	if underRace {
		steps = 100
	}
	for _, a := range algorithms() {
		for _, factor := range []float64{1, 1.25, 3} {
			m := newMap(t, a, nil)
			b := newBounded(t, m, BoundedConfig{LoadFactor: factor})
			held := map[string]int64{} // in flight, by ID, also on nodes that have gone
			type lease struct {
				id string
				*Lease[string]
			}
			var leases []lease
			for range steps {
				switch op := rng.IntN(20); {
				case op == 0:
					update(t, m, func(tx *Tx[string]) error {
						return change(tx, rng, func() uint32 { return uint32(rng.IntN(4)) })
					})
				case op < 6 && len(leases) > 0:
					i := rng.IntN(len(leases))
					l := leases[i]
					leases[i] = leases[len(leases)-1]
					leases = leases[:len(leases)-1]
					held[l.id]--
					l.Release()
					l.Release()
				default:
					h := HashUint64(uint64(rng.IntN(5))) // few keys, so that they are hot
					got, err := b.AcquireHash(h)
					want := boundedModel(m, held, h, factor)
					if want == "" {
						require.Equal(t, ErrNoNode, err)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, want, got.Value())
					require.Equal(t, want, got.Node().ID)
					held[want]++
					leases = append(leases, lease{want, &got})
				}
				for id, n := range held {
					if got := b.InFlight(id); got != n {
						require.Equal(t, n, got, id)
					}
				}
			}
			for _, l := range leases {
				l.Release()
			}
			require.Zero(t, b.Total())
			for id := range held {
				require.Zero(t, b.InFlight(id))
			}
		}
	}
}

func boundedModel(m *Map[string], held map[string]int64, h uint64, factor float64) string {
	var sequence []Node
	s := m.state.Load()
	for i := range s.picker.(Replicator).Seq(h) {
		sequence = append(sequence, s.nodes[i])
	}
	var weights int64
	total := int64(1)
	for _, n := range sequence {
		weights += int64(n.Weight)
		total += held[n.ID]
	}
	for _, n := range sequence {
		limit := new(big.Rat).SetFrac64(int64(math.Round(factor*10000)), 10000)
		limit.Mul(limit, new(big.Rat).SetFrac64(total*int64(n.Weight), weights))
		if new(big.Rat).SetInt64(held[n.ID]).Cmp(limit) < 0 {
			return n.ID
		}
	}
	if len(sequence) > 0 {
		panic("no node has room")
	}
	return ""
}

// TestBoundedHotKey sends everything to one key, and sees it spread evenly.
func TestBoundedHotKey(t *testing.T) {
	m := newMap(t, nil, fleet("server", 10))
	b := newBounded(t, m, BoundedConfig{})
	owner, _ := m.Get("hot")
	for range 1000 {
		_, err := b.Acquire("hot")
		require.NoError(t, err)
	}
	require.EqualValues(t, 1000, b.Total())
	for i := range 10 {
		id := fmt.Sprint("server", i)
		require.LessOrEqual(t, b.InFlight(id), int64(125), id)
	}
	require.EqualValues(t, 125, b.InFlight(owner))
	require.Zero(t, b.InFlight("unknown"))
}

// TestLease releases what is not to be released.
func TestLease(t *testing.T) {
	m := newMap(t, nil, fleet("server", 2))
	b := newBounded(t, m, BoundedConfig{LoadFactor: 1000})
	var zero Lease[string]
	zero.Release()
	require.Zero(t, zero.Value())
	require.Zero(t, b.Total())
	a, err := b.AcquireBytes([]byte("key"))
	require.NoError(t, err)
	c, err := b.Acquire("key")
	require.NoError(t, err)
	require.Equal(t, a.Node(), c.Node())
	require.Equal(t, Node{ID: a.Value(), Weight: 1, Zone: a.Node().Zone}, a.Node())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(a.Release)
	}
	wg.Wait()
	require.EqualValues(t, 1, b.Total())
	require.EqualValues(t, 1, b.InFlight(c.Value()))
}

// TestLeaseCopies releases copies of leases, which nobody should: counts are wrong then, but never
// negative, and requests go on.
func TestLeaseCopies(t *testing.T) {
	m := newMap(t, nil, fleet("server", 2))
	b := newBounded(t, m, BoundedConfig{})
	a, err := b.Acquire("key")
	require.NoError(t, err)
	c := Lease[string]{member: a.member, total: a.total, load: a.load}
	a.Release()
	c.Release()
	require.Zero(t, b.Total())
	require.Zero(t, b.InFlight(a.Value()))
	again, err := b.Acquire("key")
	require.NoError(t, err)
	require.EqualValues(t, 1, b.InFlight(again.Value()))
}

// TestBoundedWhileANodeComesBack stops an update where the count of a node that comes back is not
// yet in the total, and requests of before it come and go.
func TestBoundedWhileANodeComesBack(t *testing.T) {
	m := newMap(t, nil, fleet("server", 2))
	b := newBounded(t, m, BoundedConfig{LoadFactor: 1})
	held := make([]*Lease[string], 0, 200)
	for range 200 {
		l, err := b.Acquire("key")
		require.NoError(t, err)
		held = append(held, &l)
	}
	update(t, m, func(tx *Tx[string]) error { return tx.Remove("server1") })
	require.EqualValues(t, 100, b.Total())
	word := b.loads["server1"].word.Or(live) // as followLocked does first
	for _, l := range held {
		l.Release()
	}
	require.Negative(t, b.total.Load())
	require.Zero(t, b.Total())
	// One request is within the bound for one; another would wait for the update to get on.
	l, err := b.Acquire("key")
	require.NoError(t, err)
	require.Equal(t, "server0", l.Value())
	b.total.Add(inFlight(word))
	require.EqualValues(t, 1, b.Total())
	_, err = b.Acquire("key")
	require.NoError(t, err)
	l.Release()
	require.EqualValues(t, 1, b.Total())
}

func TestDo(t *testing.T) {
	m := newMap(t, nil, fleet("server", 2))
	b := newBounded(t, m, BoundedConfig{})
	mine := errors.New("mine")
	require.Equal(t, mine, b.Do("key", func(v string) error {
		require.EqualValues(t, 1, b.InFlight(v))
		return mine
	}))
	require.PanicsWithValue(t, "mine", func() { _ = b.Do("key", func(string) error { panic("mine") }) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Do("key", func(string) error { runtime.Goexit(); return nil })
	}()
	<-done
	require.Zero(t, b.Total())
	update(t, m, func(tx *Tx[string]) error { tx.Clear(); return nil })
	require.Equal(t, ErrNoNode, b.Do("key", func(string) error { panic("is not called") }))
}

// TestBoundedComesBack removes a node with requests in flight, and adds it again before they end.
func TestBoundedComesBack(t *testing.T) {
	m := newMap(t, nil, fleet("server", 3))
	b := newBounded(t, m, BoundedConfig{LoadFactor: 1})
	leases := make([]*Lease[string], 300)
	for i := range leases {
		l, err := b.AcquireHash(HashUint64(uint64(i)))
		require.NoError(t, err)
		leases[i] = &l
	}
	require.EqualValues(t, 100, b.InFlight("server1"))
	member := fleet("server", 2)[1]
	remove := func(tx *Tx[string]) error { return tx.Remove("server1") }
	add := func(tx *Tx[string]) error { return tx.Add(member) }

	update(t, m, remove)
	require.EqualValues(t, 200, b.Total(), "of the nodes that remain")
	require.EqualValues(t, 100, b.InFlight("server1"))
	released := 0
	for _, l := range leases {
		if l.Value() == "server1" && released < 40 {
			released++
			l.Release()
		}
	}
	require.EqualValues(t, 200, b.Total())
	require.EqualValues(t, 60, b.InFlight("server1"))

	update(t, m, add)
	require.EqualValues(t, 260, b.Total())
	require.EqualValues(t, 60, b.InFlight("server1"))
	// It fills up to what the others have, as the bound is of all.
	for range 40 {
		l, err := b.Acquire("key")
		require.NoError(t, err)
		leases = append(leases, &l)
	}
	require.EqualValues(t, 100, b.InFlight("server1"))

	// Drained it is given nothing more.
	update(t, m, func(tx *Tx[string]) error { return tx.SetWeight("server1", 0) })
	for range 50 {
		l, err := b.Acquire("key")
		require.NoError(t, err)
		require.NotEqual(t, "server1", l.Value())
		leases = append(leases, &l)
	}
	for _, l := range leases {
		l.Release()
	}
	require.Zero(t, b.Total())

	// What has gone and has nothing in flight is forgotten.
	update(t, m, remove)
	b.current()
	require.Len(t, b.loads, 2)
}

// TestBoundedNeverOvershoots acquires from many goroutines and releases nothing: then at the end
// each bound must hold for the total there is, which no bound applied on the way was above.
func TestBoundedNeverOvershoots(t *testing.T) {
	for range 20 {
		members := fleet("server", 7)
		for i := range members {
			members[i].Weight = uint32(1 + i%3)
		}
		m := newMap(t, nil, members)
		b := newBounded(t, m, BoundedConfig{LoadFactor: 1.1})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					if _, err := b.Acquire("hot"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1600, b.Total())
		var sum int64
		for i := range members {
			n := b.InFlight(members[i].ID)
			sum += n
			require.LessOrEqual(t, n, int64(bound(11000, 1600, uint64(members[i].Weight), 13)))
		}
		require.EqualValues(t, 1600, sum)
	}
}

// TestBoundedUnderUpdates changes nodes all the time under parallel leases and look-ups. At the end all
// counts are zero; and while it goes on, no node that has gone for good is given a request.
func TestBoundedUnderUpdates(t *testing.T) {
	for _, a := range algorithms() {
		if _, ok := a.(slotsAlgorithm); ok {
			a = Slots(SlotsConfig{Slots: 1024})
		}
		m := newMap(t, a, fleet("server", 5))
		b := newBounded(t, m, BoundedConfig{LoadFactor: 1.05})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var acquired atomic.Int64
		for g := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 1))
				var held []*Lease[string]
				for {
					select {
					case <-stop:
						for _, l := range held {
							l.Release()
						}
						return
					default:
					}
					l, err := b.AcquireHash(HashUint64(rng.Uint64N(4)))
					if err != nil {
						t.Error(err)
						return
					}
					acquired.Add(1)
					held = append(held, &l)
					for len(held) > 20 {
						i := rng.IntN(len(held))
						held[i].Release()
						held[i] = held[len(held)-1]
						held = held[:len(held)-1]
					}
					if _, ok := m.Get("key"); !ok {
						t.Error("no owner")
						return
					}
				}
			})
		}
		rng := rand.New(rand.NewPCG(9, 1))
		rounds := 300
		if underRace || testing.Short() {
			rounds = 60
		}
		for range rounds {
			update(t, m, func(tx *Tx[string]) error {
				id := fmt.Sprint("server", 1+rng.IntN(4)) // server0 stays
				if _, ok := tx.Get(id); ok && rng.IntN(2) == 0 {
					return tx.Remove(id)
				}
				return tx.Set(Member[string]{Node{ID: id, Weight: uint32(rng.IntN(3))}, id})
			})
			for was := acquired.Load(); acquired.Load() < was+20 && !t.Failed(); {
				runtime.Gosched()
			}
			if n := b.Total(); n < 0 {
				t.Errorf("%d in flight", n)
			}
		}
		close(stop)
		wg.Wait()
		require.Zero(t, b.Total())
		for i := range 5 {
			require.Zero(t, b.InFlight(fmt.Sprint("server", i)), "%v", a)
		}
		update(t, m, func(tx *Tx[string]) error { tx.Clear(); return nil })
		b.current()
		require.Empty(t, b.loads)
	}
}
