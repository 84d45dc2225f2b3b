//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package shard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of two that have loaded the same mark, one saves.
func TestIDFileMarkTwo(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		path := filepath.Join(dir, fmt.Sprint(i))
		var errs [2]error
		var loaded, done sync.WaitGroup
		loaded.Add(2)
		for n := range errs {
			done.Go(func() {
				m := FileMark(path)
				_, err := m.LoadMark(t.Context())
				loaded.Done()
				loaded.Wait()
				errs[n] = errors.Join(err, m.SaveMark(t.Context(), int64(100+n)))
			})
		}
		done.Wait()
		require.True(t, (errs[0] == nil) != (errs[1] == nil), "%d: %v, %v", i, errs[0], errs[1])
		mark, err := FileMark(path).LoadMark(t.Context())
		require.NoError(t, err)
		if errs[0] == nil {
			require.EqualValues(t, 100, mark)
			require.ErrorContains(t, errs[1], "another generator with the same number of a shard writes to it")
		} else {
			require.EqualValues(t, 101, mark)
		}
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 100, "no other file is left")
}

// While somebody else saves, SaveMark waits, as long as its context lets it.
func TestIDFileMarkLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mark")
	m := FileMark(path)
	require.NoError(t, m.SaveMark(t.Context(), 1))
	other, err := os.Open(filepath.Dir(path))
	require.NoError(t, err)
	require.NoError(t, lockDir(t.Context(), other))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m.SaveMark(ctx, 2), context.DeadlineExceeded)
	mark, err := FileMark(path).LoadMark(endedCtx)
	require.NoError(t, err)
	require.EqualValues(t, 1, mark)
	saved := make(chan error)
	go func() { saved <- m.SaveMark(t.Context(), 3) }()
	require.NoError(t, other.Close())
	require.NoError(t, <-saved)
	require.NoError(t, m.SaveMark(endedCtx, 4), "it needs no time")
	require.Error(t, lockDir(t.Context(), other), "it is closed")
}

// A testProcess is this test as a process of its own, which gets lines and answers with lines.
type testProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startTest starts a test again, with a variable of the environment by which it knows. It returns nil if that
// is not possible, as it is not for an emulated program.
func startTest(t *testing.T, name, variable string) *testProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), variable+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	err = cmd.Start()
	if errors.Is(err, syscall.ENOEXEC) {
		return nil
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &testProcess{cmd: cmd, in: in, out: bufio.NewScanner(out)}
}

// Two processes that begin at the same moment with the same mark do not issue the same IDs.
func TestIDFileMarkProcesses(t *testing.T) {
	const variable = "SHARD_TEST_PROCESSES"
	if os.Getenv(variable) != "" {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			g, err := NewIDGen(IDConfig{Mark: FileMark(in.Text())})
			for i := 0; err == nil && i < 20; i++ {
				var id int64
				if id, err = g.Next(context.Background()); err == nil {
					fmt.Println("ID", id)
				}
			}
			fmt.Println("END", err)
		}
		return
	}
	var processes [2]*testProcess
	for i := range processes {
		if processes[i] = startTest(t, t.Name(), variable); processes[i] == nil {
			return
		}
	}
	dir := t.TempDir()
	for round := range 50 {
		path := filepath.Join(dir, fmt.Sprint(round))
		for _, p := range processes {
			_, err := fmt.Fprintln(p.in, path)
			require.NoError(t, err)
		}
		seen := make(map[string]bool)
		for _, p := range processes {
			for p.out.Scan() && !strings.HasPrefix(p.out.Text(), "END") {
				require.False(t, seen[p.out.Text()], "round %d: both have %s", round, p.out.Text())
				seen[p.out.Text()] = true
			}
			if end := p.out.Text(); end != "END <nil>" {
				require.Contains(t, end, "another generator with the same number of a shard writes to it")
			}
		}
		require.NotEmpty(t, seen)
	}
}

// When the disk is full, the mark stays as it was, and no other file is left.
func TestIDFileMarkFull(t *testing.T) {
	const variable = "SHARD_TEST_FULL"
	if os.Getenv(variable) != "" {
		signal.Ignore(syscall.SIGXFSZ)
		path := filepath.Join(t.TempDir(), "mark")
		m := FileMark(path)
		require.NoError(t, m.SaveMark(t.Context(), 510))
		var limit syscall.Rlimit
		require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
		full := limit
		full.Cur = 1
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))
		err := m.SaveMark(t.Context(), 600)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
		require.ErrorIs(t, err, syscall.EFBIG)
		mark, err := FileMark(path).LoadMark(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 510, mark)
		entries, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.NoError(t, m.SaveMark(t.Context(), 600), "after an error it goes on")
		fmt.Println("DONE")
		return
	}
	p := startTest(t, t.Name(), variable)
	if p == nil {
		return
	}
	for p.out.Scan() && p.out.Text() != "DONE" {
	}
	require.Equal(t, "DONE", p.out.Text())
}
