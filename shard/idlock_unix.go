//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package shard

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// lockDir waits until nobody else on this machine has locked a directory, and locks it until it is closed,
// or the process ends.
//
// The directory is locked, and not the mark, which is replaced by another file, or a file of its own, which
// would have to stay for good. It is tried again and again because a flock that waits knows no context.
func lockDir(ctx context.Context, dir *os.File) error {
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return &os.PathError{Op: "flock", Path: dir.Name(), Err: err}
		}
		t := time.NewTimer(time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return &os.PathError{Op: "flock", Path: dir.Name(), Err: ctx.Err()}
		}
	}
}
