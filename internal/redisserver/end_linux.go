//go:build servers

package redisserver

import (
	"os/exec"
	"syscall"
)

// endWithUs has the server killed when this process is, and cannot do so itself.
func endWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
