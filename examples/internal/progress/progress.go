// Package progress shows how far a command of the examples is, on a terminal and nowhere else.
package progress

import (
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A Bar is a line on a terminal, which grows. It is not safe for concurrent use.
type Bar struct {
	bar  *progressbar.ProgressBar
	left int64
}

// New returns a Bar on w, of which nothing is seen until there is a plan.
func New(w io.Writer) *Bar {
	_, visible := Terminal(w)
	return newBar(w, visible)
}

func newBar(w io.Writer, visible bool) *Bar {
	return &Bar{bar: progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(visible),
		progressbar.OptionSetWidth(40),
		progressbar.OptionClearOnFinish(),
	)}
}

// Describe says what is done now.
func (b *Bar) Describe(what string) { b.bar.Describe(what) }

// Plan says how much there is to be done, of what. What was done before is forgotten.
func (b *Bar) Plan(what string, n int64) {
	b.left = n
	b.bar.Describe(what)
	_ = b.bar.Set(0)
	b.bar.ChangeMax64(n + 1)
}

// Done says that n more are done. A plan may be an estimate: however much is done, the bar waits below its end for Finish.
func (b *Bar) Done(n int) {
	if int64(n) <= b.left {
		b.left -= int64(n)
		_ = b.bar.Add(n)
	}
}

// Finish takes the bar away, if it is there.
func (b *Bar) Finish() { _ = b.bar.Finish() }

// Terminal tells whether w is a terminal, and how wide.
func Terminal(w io.Writer) (columns int, ok bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	return columns, err == nil
}
