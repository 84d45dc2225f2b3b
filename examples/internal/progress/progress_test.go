package progress

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Where no terminal is, there is nothing.
func TestNoTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer f.Close()
	var out bytes.Buffer
	for _, b := range []*Bar{New(&out), New(f)} {
		b.Describe("reading")
		b.Plan("placing", 10)
		b.Done(5)
		b.Done(100)
		b.Finish()
	}
	require.Empty(t, out.String())
	info, err := f.Stat()
	require.NoError(t, err)
	require.Zero(t, info.Size())
	_, ok := Terminal(f)
	require.False(t, ok)
}

// More than was planned is not the end.
func TestDone(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, true)
	for range 2 {
		b.Plan("placing", 10)
		for range 7 {
			b.Done(3)
		}
		require.Equal(t, int64(9), b.bar.State().CurrentNum)
		require.False(t, b.bar.IsFinished())
	}
	b.Finish()
	require.True(t, b.bar.IsFinished())
	require.Contains(t, out.String(), "placing")
}
