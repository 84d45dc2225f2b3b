//go:build race

package ttlcache

// The race detector makes everything ten times slower, so what is long, and has one goroutine, is left to the
// runs without it.
func init() { underRace = true }
