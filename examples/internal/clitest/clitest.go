// Package clitest has what the tests of the examples' commands have in common: processes of their own to signal and to
// kill, files with what a command is to print, a disk that is full, and a test that may fail.
package clitest

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is longer than a process takes for anything.
const patience = 30 * time.Second

// variable is in the environment of the processes that Start starts.
const variable = "TEST_AS_COMMAND"

var update = flag.Bool("update", false, "write the golden files")

// Golden compares what was printed with the file that has what is to be, or writes that with -update.
func Golden(tb testing.TB, file, got string) {
	tb.Helper()
	if *update {
		require.NoError(tb, cmp.Or(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o644)))
	}
	want, err := os.ReadFile(file)
	require.NoError(tb, err)
	require.Equal(tb, string(want), got, file)
}

// Full is a disk that is.
type Full struct{}

// Write fails.
func (Full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// Output is what is printed. The zero value is empty. An Output is safe for concurrent use by multiple goroutines.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
	read int // of text, by line
}

// Write adds to what is written.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns all that is written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// line returns the next line, without its end, if it is whole.
func (o *Output) line() (line string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line, _, ok = strings.Cut(string(o.text.Bytes()[o.read:]), "\n")
	if ok {
		o.read += len(line) + 1
	}
	return line, ok
}

// Main is for TestMain. It runs the tests; but in a process that Start has started, main instead.
func Main(m *testing.M, main func()) {
	if os.Getenv(variable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A Process is the command in a process of its own, which the test binary is then: TestMain calls Main. It is not safe for
// concurrent use.
type Process struct {
	Stdout, Stderr Output // what it has printed

	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

// Start starts the command. It is killed when the test ends.
func Start(tb testing.TB, args ...string) *Process {
	tb.Helper()
	p := &Process{cmd: exec.Command(os.Args[0], args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), variable+"=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.Stdout, &p.Stderr
	require.NoError(tb, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	return p
}

// Output returns all that the process has printed.
func (p *Process) Output() string { return p.Stdout.String() + p.Stderr.String() }

// Until waits until the process prints a line to o, its Stdout or Stderr, in which there is the pattern. Lines up to that
// of the last call are left out. It returns what regexp.FindStringSubmatch does.
func (p *Process) Until(tb testing.TB, o *Output, pattern string) []string {
	tb.Helper()
	wanted := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ended := p.ended() // before what it has printed is looked at
		for line, ok := o.line(); ok; line, ok = o.line() {
			if found := wanted.FindStringSubmatch(line); found != nil {
				return found
			}
		}
		if ended || time.Now().After(deadline) {
			tb.Fatalf("it does not print %s, but:\n%s", pattern, p.Output())
		}
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process, if it has not ended.
func (p *Process) Signal(tb testing.TB, sig os.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(tb, err)
	}
}

// Wait waits until the process has ended, and returns its exit code: -1 if it was killed.
func (p *Process) Wait(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		tb.Fatalf("the process does not end:\n%s", p.Output())
	}
	return p.cmd.ProcessState.ExitCode()
}

// End sends a signal to the process, and waits until it has ended.
func (p *Process) End(tb testing.TB, sig os.Signal) (code int) {
	tb.Helper()
	p.Signal(tb, sig)
	return p.Wait(tb)
}
