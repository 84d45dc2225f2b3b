package main

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOwnerUnreachable asks a machine that does not say anything, not even that there is nobody: when the time of a
// question is over, so is the attempt to connect. Otherwise those of two minutes would be there at once.
func TestOwnerUnreachable(t *testing.T) {
	t.Parallel()
	// A socket with a queue of one that is full, and nobody accepts: what comes then is not answered.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer syscall.Close(fd)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	at, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	hole := member{ID: "b", URL: fmt.Sprint("http://127.0.0.1:", at.(*syscall.SockaddrInet4).Port)}

	o := newOwners(&members{self: member{ID: "a"}, directory: newDirectory()}, "")
	for range 10 {
		_, err := o.ask(t.Context(), hole, "abcdefg")
		require.Error(t, err)
	}
	dialing := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "net/http.(*Transport).dialConnFor(")
	}
	require.Eventually(t, func() bool { return dialing() == 0 }, 10*time.Second, 10*time.Millisecond)
}
