package loadbalance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func hashes(i int) Request { return Request{Hash: uint64(i)} }

func TestIPHashShares(t *testing.T) {
	for _, weights := range [][]uint32{even(2), even(10), even(100), {1, 2, 3, 4}, {1, 1, 1, 9}} {
		sum := 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		const n = 200_000
		for i, got := range count(len(weights), picks(t, pool(t, IPHash(), weights...), n, hashes)) {
			want := float64(weights[i]) / sum
			// Five standard deviations, for the places and the hashes.
			require.InEpsilon(t, n*want, got, 5*(math.Sqrt(1/(places*want))+math.Sqrt(1/(n*want))), "%v", weights)
		}
	}
}

// When endpoints come and go, nothing moves between those that stay; and a table that follows another
// is the one that is built anew.
func TestIPHashMovesNoMoreThanItMust(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := pool(t, IPHash(), even(31)...) // and soon more than 32
	before := picks(t, p, 5000, hashes)
	steps := 60
	if underRace {
		steps = 12
	}
	for step := range steps {
		es := p.Endpoints()
		changed := map[int]bool{}
		for range 1 + rnd.IntN(3) {
			switch i := rnd.IntN(len(es) + 1); {
			case i == len(es) || len(es) < 4:
				id := 100 + step*10 + rnd.IntN(10)
				changed[id] = true
				es = append(es, Endpoint[int]{ID: fmt.Sprintf("h%05d", id), Value: id, Weight: 1 + rnd.Uint32N(4)})
			case rnd.IntN(2) == 0:
				changed[es[i].Value] = true
				es[i].Weight = 1 + rnd.Uint32N(4)
			default:
				changed[es[i].Value] = true
				es = append(es[:i], es[i+1:]...)
			}
			if _, err := p.Set(es); err != nil { // the same ID twice
				es = p.Endpoints()
			}
		}
		after := picks(t, p, 5000, hashes)
		for k := range after {
			if before[k] != after[k] {
				require.True(t, changed[before[k]] || changed[after[k]], "%d moved from %d to %d", k, before[k], after[k])
			}
		}
		fresh, err := New(Config[int]{Policy: IPHash(), Endpoints: es})
		require.NoError(t, err)
		require.Equal(t, after, picks(t, fresh, 5000, hashes), "step %d", step)
		before = after
	}
}

// What other processes must agree on.
func TestHashes(t *testing.T) {
	require.EqualValues(t, uint64(0x26c7827d889f6da3), HashString("hello"))
	addr := netip.MustParseAddr
	require.Equal(t, HashAddr(addr("10.0.0.1")), HashAddr(addr("::ffff:10.0.0.1")))
	require.NotEqual(t, HashAddr(addr("10.0.0.1")), HashAddr(addr("10.0.0.2")))
	require.Equal(t, HashAddr(addr("2001:db8:1:2::1")), HashAddr(addr("2001:db8:1:2:ffff::7")))
	require.NotEqual(t, HashAddr(addr("2001:db8:1:2::1")), HashAddr(addr("2001:db8:1:3::1")))
	require.Equal(t, HashAddr(addr("fe80::1%eth0")), HashAddr(addr("fe80::1%eth1")))
	require.EqualValues(t, uint64(0x95e7f1e41fea861c), HashAddr(addr("192.0.2.1")))
	require.Equal(t, []int{1, 0, 2, 0, 0, 0, 0, 1}, picks(t, pool(t, IPHash(), 1, 1, 1), 8, hashes))
	HashAddr(netip.Addr{}) // does not panic
}
