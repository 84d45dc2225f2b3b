package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

var errLocked = errors.New("another process has it")

// lockDir takes a directory for this process alone: two would write to one spool and one broker's files. It is free
// again when the file is closed, or the process ends, however that may be.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("-dir cannot be used: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("-dir cannot be used: %w", err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("-dir %s is in use by another process: give each a directory of its own", dir)
		}
		return nil, fmt.Errorf("-dir %s cannot be locked: %w", dir, err)
	}
	return f, nil
}
