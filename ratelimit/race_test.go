//go:build race

package ratelimit

// The race detector makes single-threaded arithmetic ten times slower and has nothing to find in
// it, so what is only that is done in its short form.
func init() { underRace = true }
