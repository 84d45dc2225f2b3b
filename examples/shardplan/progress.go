package main

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct{ bar *progressbar.ProgressBar }

func newProgress(w io.Writer) *progress {
	return &progress{progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(terminal(w)),
		progressbar.OptionSetWidth(40),
		progressbar.OptionClearOnFinish(),
	)}
}

// plan says how much is to be done, of what.
func (p *progress) plan(what string, n int64) {
	p.bar.Describe(what)
	p.bar.Set(0)
	p.bar.ChangeMax64(n + 1) // the bar waits below its end for finish
}

func (p *progress) done(n int) { p.bar.Add(n) }

func (p *progress) finish() { p.bar.Finish() }
