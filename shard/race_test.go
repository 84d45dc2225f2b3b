//go:build race

package shard

// The race detector makes everything ten times slower, and its pools and maps allocate, so what is
// long is done in its short form, and allocations are not counted.
func init() { underRace = true }
