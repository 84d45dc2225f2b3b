//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package shard

import (
	"context"
	"os"
)

// lockDir does nothing, as the system has no flock, or package syscall does not offer it. If two processes
// with the same number save their marks at the same moment, both can find the one that they have loaded,
// and issue the same IDs, until one of them saves the next.
func lockDir(context.Context, *os.File) error { return nil }
