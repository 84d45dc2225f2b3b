//go:build race

package loadbalance

// The race detector makes everything ten times slower, so what is long is done in its short form.
func init() { underRace = true }
