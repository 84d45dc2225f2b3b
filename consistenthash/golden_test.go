package consistenthash

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew; a change of one is a breaking change")

// TestGolden compares placements with those in testdata, which must never change: processes of
// different versions and on different machines agree by them. Each line has a key, its position,
// and the first four nodes of its sequence; the last one a hash of the owners of 100,000 positions.
func TestGolden(t *testing.T) {
	var even, uneven []Node
	for i := range 20 {
		even = append(even, Node{ID: fmt.Sprintf("10.0.0.%d:6379", i), Weight: 1, Zone: fmt.Sprint("zone", i%3)})
		uneven = append(uneven, Node{ID: fmt.Sprint("server", i), Weight: uint32(i * i)})
	}
	for _, a := range []struct {
		name string
		Algorithm
	}{
		{"slots", Slots(SlotsConfig{})},
		{"slots-1024", Slots(SlotsConfig{Slots: 1024, LoadFactor: 1})},
		{"ring", Ring(RingConfig{})},
		{"ring-unit", Ring(RingConfig{VirtualNodes: 100, WeightUnit: 60})},
		{"rendezvous", Rendezvous()},
		{"maglev", Maglev(0)},
		{"ketama", Ketama()},
	} {
		var b bytes.Buffer
		for _, nodes := range [][]Node{even, uneven} {
			var members []Member[string]
			for _, n := range nodes {
				members = append(members, Member[string]{n, n.ID})
			}
			m := newMap(t, a.Algorithm, members)
			fmt.Fprintf(&b, "%v, %d nodes, %s to %s, fingerprint %016x\n", a.Algorithm, len(nodes), nodes[0].ID, nodes[19].ID, m.Fingerprint())
			for i := range 60 {
				key := fmt.Sprint("key", i)
				four, err := m.GetN(nil, key, 4, Placement{})
				require.NoError(t, err)
				fmt.Fprintf(&b, "%s %016x %s\n", key, m.Hash(key), strings.Join(four, " "))
			}
			d := xxhash.New()
			for i := range uint64(100000) {
				d.Write(binary.LittleEndian.AppendUint32(nil, uint32(m.state.Load().picker.Pick(HashUint64(i)))))
			}
			fmt.Fprintf(&b, "owners %016x\n", d.Sum64())
		}
		file := filepath.Join("testdata", a.name+".txt")
		if *updateGolden {
			require.NoError(t, os.WriteFile(file, b.Bytes(), 0o666))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), b.String(), file)
	}
	// Jump has no nodes.
	d := xxhash.New()
	for i := range uint64(100000) {
		d.Write(binary.LittleEndian.AppendUint32(nil, uint32(Jump(HashUint64(i), int(1+i%1000)))))
	}
	require.Equal(t, uint64(0xd4f09b07b47d4cda), d.Sum64(), "Jump")
}
