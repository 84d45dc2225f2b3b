package clitest

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m, echo) }

// echo is a command: it prints its arguments, and then the signals that it gets, until SIGTERM.
func echo() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	for i, arg := range os.Args[1:] {
		fmt.Fprintln([]*os.File{os.Stdout, os.Stderr}[i%2], arg)
	}
	for sig := range signals {
		fmt.Println("got", sig)
		if sig == syscall.SIGTERM {
			os.Exit(3)
		}
	}
}

func TestProcess(t *testing.T) {
	p := Start(t, "one", "two 2", "three")
	require.Equal(t, []string{"two 2", "2"}, p.Until(t, &p.Stderr, `^two (\d)$`))
	p.Until(t, &p.Stdout, "three")
	p.Signal(t, syscall.SIGHUP)
	p.Until(t, &p.Stdout, "got hangup")
	require.Equal(t, 3, p.End(t, syscall.SIGTERM))
	require.Equal(t, "one\nthree\ngot hangup\ngot terminated\n", p.Stdout.String())
	require.Equal(t, "two 2\n", p.Stderr.String())
	require.Equal(t, p.Stdout.String()+p.Stderr.String(), p.Output())
	require.Equal(t, 3, p.End(t, syscall.SIGKILL), "it has ended before")
	require.True(t, Fails(t, func(tb testing.TB) { p.Until(tb, &p.Stdout, "one") }), "that was before")

	killed := Start(t, "one")
	killed.Until(t, &killed.Stdout, "one")
	require.Equal(t, -1, killed.End(t, syscall.SIGKILL))
}

func TestGolden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "testdata", "x.golden")
	require.True(t, Fails(t, func(tb testing.TB) { Golden(tb, file, "a") }), "it is not there")
	*update = true
	Golden(t, file, "a")
	*update = false
	Golden(t, file, "a")
	require.True(t, Fails(t, func(tb testing.TB) { Golden(tb, file, "b") }))
}
