//go:build servers

package redislimit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/dist"
)

// TestMain makes this program, when a test starts it again, a process that takes what it can.
func TestMain(m *testing.M) {
	if addr := os.Getenv("REDISLIMIT_TEST_ADDR"); addr != "" {
		takeAll(addr)
		return
	}
	redis.SetLogger(silence{}) // it would tell of every server that we kill
	os.Exit(m.Run())
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// takeAll asks 1000 times, eight at a time, and prints how much was allowed.
func takeAll(addr string) {
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	l, err := NewLimiter(client, dist.Config{
		Name: "processes", Limits: []ratelimit.Limit{ratelimit.Every(24 * time.Hour).WithBurst(1500), ratelimit.Every(25 * time.Hour).WithBurst(2000)},
		OnOutage: dist.Closed, Timeout: time.Minute,
	})
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	var allowed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 125 {
				allowed.Add(l.Take(context.Background(), "shared", 1).Allowed)
			}
		})
	}
	wg.Wait()
	fmt.Println(allowed.Load(), l.Stats().Degraded)
}

// TestFourProcesses share a limit, and admit exactly it.
func TestFourProcesses(t *testing.T) {
	s := startServer(t)
	self, err := os.Executable()
	require.NoError(t, err)
	var wg sync.WaitGroup
	var total atomic.Int64
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), "REDISLIMIT_TEST_ADDR="+s.Addr)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
			words := strings.Fields(string(out))
			n, err := strconv.ParseInt(words[0], 10, 64)
			if err != nil || words[1] != "0" {
				t.Errorf("it printed %q", out)
			}
			total.Add(n)
		})
	}
	wg.Wait()
	require.EqualValues(t, 1500, total.Load())
}
