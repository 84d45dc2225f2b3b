// Package benchmarks compares the library with its peers: in one process, on one workload,
// the implementations taking turns. See README.md for the commands and the results.
package benchmarks
