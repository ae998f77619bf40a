//go:build linux

// Package confine takes away from this process what it needs no more. What a
// unit file confines holds under systemd alone; this holds wherever the process
// was started. Why something is needed stands with who needs it.
package confine

import (
	"errors"
	"fmt"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Needs is what the process keeps. What of it is not there is passed over.
type Needs struct {
	Capabilities []cap.Value
	Write        []string // directories in which files are made and written
	Set          []string // directories whose files are written, and none made
	Devices      []string // that are opened, and asked with ioctl
}

// Confine gives everything else up, for every thread and for good: capabilities,
// also of what would be executed; and with Landlock (Linux 5.13) the right to
// write anywhere else, and to execute anything at all. An error says what could
// not be given up; the rest is.
func Confine(n Needs) error {
	return errors.Join(dropCapabilities(n.Capabilities), noNewPrivileges(), restrictFiles(n))
}

func dropCapabilities(needed []cap.Value) error {
	now, keep := cap.GetProc(), cap.NewSet()
	for _, c := range needed {
		if has, err := now.GetFlag(cap.Permitted, c); err == nil && has {
			if err := errors.Join(keep.SetFlag(cap.Permitted, true, c), keep.SetFlag(cap.Effective, true, c)); err != nil {
				return fmt.Errorf("capability %v: %w", c, err)
			}
		}
	}
	// Who may not change the bounding set has lost nothing by it: it is for what
	// is executed, and nothing is.
	if may, _ := now.GetFlag(cap.Effective, cap.SETPCAP); may {
		for c := cap.Value(0); c < cap.MaxBits(); c++ {
			if had, err := keep.GetFlag(cap.Permitted, c); err == nil && !had {
				if err := cap.DropBound(c); err != nil {
					return fmt.Errorf("bounding set without %v: %w", c, err)
				}
			}
		}
	}
	if err := errors.Join(cap.ResetAmbient(), keep.SetProc()); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}

func noNewPrivileges() error {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}

const (
	read   = ll.AccessFSReadFile | ll.AccessFSReadDir
	set    = read | ll.AccessFSWriteFile | ll.AccessFSTruncate
	change = set | ll.AccessFSMakeReg | ll.AccessFSMakeDir | ll.AccessFSMakeSock |
		ll.AccessFSRemoveFile | ll.AccessFSRemoveDir | ll.AccessFSRefer
)

func restrictFiles(n Needs) error {
	rules := []landlock.Rule{landlock.PathAccess(read, "/")}
	for access, paths := range map[landlock.AccessFSSet][]string{change: n.Write, set: n.Set} {
		for _, p := range paths {
			rules = append(rules, landlock.PathAccess(access, p).IgnoreIfMissing())
		}
	}
	for _, p := range n.Devices {
		if _, err := os.Stat(p); err == nil {
			rules = append(rules, landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSWriteFile|ll.AccessFSIoctlDev, p))
		}
	}
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}
