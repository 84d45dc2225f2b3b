package main

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	bar  *progressbar.ProgressBar
	left int
}

func newProgress(w io.Writer) *progress {
	_, visible := terminal(w)
	return &progress{bar: progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(visible),
		progressbar.OptionSetWidth(40),
		progressbar.OptionClearOnFinish(),
	)}
}

func (p *progress) describe(what string) { p.bar.Describe(what) }

// plan says how many requests are to be replayed.
func (p *progress) plan(requests int) {
	p.left = requests
	p.bar.ChangeMax64(int64(requests))
}

// done reports replayed requests. The plan is an estimate: the bar waits below
// its end for finish.
func (p *progress) done(requests int) {
	if requests < p.left {
		p.left -= requests
		p.bar.Add(requests)
	}
}

func (p *progress) finish() { p.bar.Finish() }
