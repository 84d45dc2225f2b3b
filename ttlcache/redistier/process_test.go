//go:build servers

package redistier

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// TestMain makes this program, when a test starts it again, a process with a cache of its own,
// which does what it reads.
func TestMain(m *testing.M) {
	if addr := os.Getenv("REDISTIER_TEST_ADDR"); addr != "" {
		serve(addr)
		return
	}
	os.Exit(m.Run())
}

func serve(addr string) {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	tier, err := New(Config[string, string]{Client: client, Prefix: "process:"})
	if err != nil {
		panic(err)
	}
	cache, err := ttlcache.New(ttlcache.Config[string, string]{Capacity: 1000, TTL: time.Hour, Next: tier})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch words := strings.Fields(in.Text()); words[0] {
		case "set":
			fmt.Println(cache.Set(ctx, words[1], words[2]))
		case "delete":
			fmt.Println(cache.Delete(ctx, words[1]))
		case "load":
			v, err := cache.GetOrLoad(ctx, words[1])
			fmt.Println(v, err)
		case "memory": // what the process has in its own memory
			fmt.Println(cache.Get(words[1]))
		}
	}
	_ = cache.Close(ctx)
}

// A process is another process with a cache.
type process struct {
	t   *testing.T
	in  *os.File
	out *bufio.Scanner
}

func startProcess(t *testing.T, addr string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "REDISTIER_TEST_ADDR="+addr)
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = w.Close()
		_ = cmd.Wait()
		_ = r.Close()
	})
	return &process{t, w, bufio.NewScanner(out)}
}

func (p *process) do(format string, args ...any) string {
	p.t.Helper()
	_, err := fmt.Fprintf(p.in, format+"\n", args...)
	require.NoError(p.t, err)
	require.True(p.t, p.out.Scan(), "the process has ended")
	return strings.TrimSpace(p.out.Text())
}

func TestTwoProcesses(t *testing.T) {
	s := startServer(t)
	one, two := startProcess(t, s.Addr), startProcess(t, s.Addr)
	// Until both listen.
	for _, p := range [][2]*process{{one, two}, {two, one}} {
		eventually(t, "a process listens", func() bool {
			p[0].do("set probe x")
			p[1].do("delete probe")
			time.Sleep(5 * time.Millisecond)
			return p[0].do("memory probe") == "false"
		})
	}
	for i := range 100 {
		writer, reader := one, two
		if i%2 == 1 {
			writer, reader = two, one
		}
		require.Equal(t, "<nil>", writer.do("set key v%d", i))
		// (It may be dropped from his memory by the message of an earlier change of the other.)
		require.Equal(t, fmt.Sprintf("v%d <nil>", i), writer.do("load key"))
		eventually(t, "the other sees the write", func() bool { return reader.do("load key") == fmt.Sprintf("v%d <nil>", i) })
		if i%5 == 4 {
			require.Equal(t, "<nil>", writer.do("delete key"))
			eventually(t, "the other sees the delete", func() bool { return reader.do("memory key") == "false" })
			require.Equal(t, ttlcache.ErrNotFound.Error(), reader.do("load key"))
		}
	}
}
