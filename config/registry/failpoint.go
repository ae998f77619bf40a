package registry

import (
	"os"
	"syscall"
)

// failpoint is the name of an environment variable that names the moment at which
// the process is killed. Only what tests link has one.
var failpoint string

func at(moment string) {
	if failpoint != "" && os.Getenv(failpoint) == moment {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
