package consistenthash

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzMap reads changes of nodes with any names and weights from data, makes them in a map of every
// algorithm, and compares it with the model.
func FuzzMap(f *testing.F) {
	f.Add([]byte{1, 'a', 1, 0, 1, 'b', 1, 0, 1, 'c', 9, 1}, uint64(1))
	f.Add([]byte{2, 'a', 'b', 255, 255, 2, 'a', 'b', 0, 0, 0, 1, 'x', 3, 0}, uint64(2))
	f.Add([]byte{0, 0, 0, 0}, uint64(3))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		all := subjects()
		s := all[seed%uint64(len(all))]
		m := newMap(t, s.algorithm, nil)
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 12 {
			if len(data) < 3 || int(data[0])+3 > len(data) {
				break
			}
			id := string(data[1 : 1+data[0]])
			weight := uint32(binary.LittleEndian.Uint16(data[1+data[0]:]))
			data = data[3+data[0]:]
			before := m.Fingerprint()
			err := m.Update(func(tx *Tx[string]) error {
				if _, ok := tx.Get(id); ok && weight%5 == 0 {
					return tx.Remove(id)
				}
				if weight%5 == 1 {
					weight %= 64
				}
				return tx.Set(Member[string]{Node{ID: id, Weight: weight % 2048}, id})
			})
			if id == "" {
				require.Error(t, err)
				require.Equal(t, before, m.Fingerprint())
				continue
			}
			require.NoError(t, err)
		}
		compareWithModel(t, m, s, rng, 6)
		anew := newMap(t, s.algorithm, m.Members())
		require.Equal(t, anew.Fingerprint(), m.Fingerprint())
		for range 100 {
			h := rng.Uint64()
			require.Equal(t, anew.state.Load().picker.Pick(h), m.state.Load().picker.Pick(h))
		}
	})
}

// FuzzBound compares the bound with its definition in arithmetic that cannot overflow.
func FuzzBound(f *testing.F) {
	f.Add(uint64(10500), uint64(65536), uint64(1), uint64(10))
	f.Add(uint64(maxLoad*loadUnit), uint64(1)<<50, uint64(1)<<31, uint64(1)<<48)
	f.Fuzz(func(t *testing.T, load, n, weight, total uint64) {
		load = loadUnit + load%((maxLoad-1)*loadUnit+1)
		total = 1 + total%(1<<49-1)
		weight = 1 + weight%min(total, 1<<32-1)
		n >>= 1
		require.Equal(t, exactBound(load, n, weight, total), bound(load, n, weight, total))
	})
}
