//go:build servers

package pgserver

import (
	"os/exec"
	"syscall"
)

// endWithUs has the server killed when this process is, and cannot do so itself. Its processes end when
// the first of them has.
func endWithUs(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
