package repo

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/loadbalance"
)

// Packages that do not import each other fit together: a Picker of consistenthash is a Locator of loadbalance.

// locate makes a Locator with an Algorithm of package consistenthash.
func locate(a consistenthash.Algorithm) func([]string, []uint32) (loadbalance.Locator, error) {
	return func(ids []string, weights []uint32) (loadbalance.Locator, error) {
		nodes := make([]consistenthash.Node, len(ids))
		for i := range ids {
			nodes[i] = consistenthash.Node{ID: ids[i], Weight: weights[i]}
		}
		return a.Build(nodes)
	}
}

func TestConsistentHashOverConsistenthash(t *testing.T) {
	for name, a := range map[string]consistenthash.Algorithm{
		"Slots": consistenthash.Slots(consistenthash.SlotsConfig{}), "Ring": consistenthash.Ring(consistenthash.RingConfig{}),
		"Maglev": consistenthash.Maglev(0), "Rendezvous": consistenthash.Rendezvous(),
	} {
		t.Run(name, func(t *testing.T) {
			var es []loadbalance.Endpoint[int]
			var ids []string
			for i := range 6 {
				id := fmt.Sprint("node", i)
				es = append(es, loadbalance.Endpoint[int]{ID: id, Value: i, Weight: 1})
				ids = append(ids, id)
			}
			l, err := locate(a)(ids, []uint32{1, 1, 1, 1, 1, 1})
			require.NoError(t, err)
			sequence := l.(consistenthash.Replicator)
			for _, bound := range []float64{0, 1.25} {
				p, err := loadbalance.New(loadbalance.Config[int]{Policy: loadbalance.ConsistentHash(locate(a), bound), Endpoints: es})
				require.NoError(t, err)
				for h := range uint64(2000) {
					h *= 0x9e3779b97f4a7c15
					var tried []string
					for _, want := range sequence.AppendN(nil, h, 6) { // as they would take over, one after the other
						lease, err := p.Pick(loadbalance.Request{Hash: h, Tried: tried})
						require.NoError(t, err)
						require.EqualValues(t, want, lease.Value())
						lease.Done(loadbalance.ServerError)
						tried = append(tried, lease.ID())
					}
				}
				p.Close()
			}
		})
	}
}
