//go:build servers

package shard

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/redisserver"
)

// TestRedisKeyslot asks a real server for the slots of 100,000 random keys, most of them with braces.
func TestRedisKeyslot(t *testing.T) {
	server := redisserver.Start(t, "--cluster-enabled", "yes")
	conn, err := net.Dial("tcp", server.Addr)
	require.NoError(t, err)
	defer conn.Close()
	m, err := NewSlots[string](SlotsConfig{Shards: ids("s", RedisSlots), Hash: CRC16})
	require.NoError(t, err)
	b, err := NewSlots[[]byte](SlotsConfig{Shards: ids("s", RedisSlots), Hash: CRC16})
	require.NoError(t, err)

	const keys, batch = 100_000, 1000
	rng := rand.New(rand.NewPCG(4, 4))
	in := bufio.NewReader(conn)
	tagged := 0
	for range keys / batch {
		var list []string
		var out strings.Builder
		for range batch {
			k := randomKey(rng)
			if HashTag(k) != k {
				tagged++
			}
			list = append(list, k)
			fmt.Fprintf(&out, "*3\r\n$7\r\nCLUSTER\r\n$7\r\nKEYSLOT\r\n$%d\r\n%s\r\n", len(k), k)
		}
		_, err := conn.Write([]byte(out.String()))
		require.NoError(t, err)
		for _, k := range list {
			line, err := in.ReadString('\n')
			require.NoError(t, err)
			slot, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, ":")))
			require.NoError(t, err, "%q", line)
			require.Equal(t, PartID(slot), m.Locate(k).Part, "%q", k)
			require.Equal(t, PartID(slot), b.Locate([]byte(k)).Part, "%q", k)
		}
	}
	require.Greater(t, tagged, keys/4)
}

// randomKey returns bytes of any kind, among them pieces with braces.
func randomKey(rng *rand.Rand) string {
	var k []byte
	for range rng.IntN(6) {
		switch rng.IntN(5) {
		case 0:
			k = append(k, "{}{{}}"[rng.IntN(6)])
		case 1:
			k = fmt.Appendf(k, "{user%d}", rng.IntN(1000))
		case 2:
			k = append(k, "{}"...)
		default:
			for range rng.IntN(20) {
				k = append(k, byte(rng.Uint32()))
			}
		}
	}
	return string(k)
}
