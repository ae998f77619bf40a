//go:build linux

// Package systemd talks with the service manager: it says how the daemon is,
// and leaves descriptors with it that outlive the daemon (sd_notify(3),
// sd_listen_fds(3), "File Descriptor Store" on systemd.io). What is said, and
// which descriptors, may not enter. Without a service manager all of it does
// nothing.
package systemd

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstFD is the first descriptor that is passed (SD_LISTEN_FDS_START).
const firstFD = 3

// Notify tells the service manager something, and reports whether there is one.
// Descriptors that go with it are duplicated.
func Notify(state string, fds ...int) (bool, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return false, nil
	}
	// go-systemd's SdNotify cannot pass descriptors, nor can a connected
	// *net.UnixConn of datagrams.
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true, fmt.Errorf("notify systemd: %w", err)
	}
	defer unix.Close(socket)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(socket, []byte(state), rights, &unix.SockaddrUnix{Name: path}, 0); err != nil {
		return true, fmt.Errorf("notify systemd: %w", err)
	}
	return true, nil
}

// Store leaves descriptors under a name with the service manager, in place of
// those that it has of that name. The next process gets them by Stored.
func Store(name string, fds ...int) error {
	_, removed := Notify("FDSTOREREMOVE=1\nFDNAME=" + name)
	_, stored := Notify("FDSTORE=1\nFDNAME="+name, fds...)
	return errors.Join(removed, stored)
}

// Forget has the service manager close what it keeps under a name, and closes what it
// gave of that.
func Forget(name string, fds []int) error {
	for _, fd := range fds {
		unix.Close(fd)
	}
	_, err := Notify("FDSTOREREMOVE=1\nFDNAME=" + name)
	return err
}

// Stored gives the descriptors that a predecessor left under some names. They are
// the caller's; all others that were left are closed. It is to be called once,
// before anything is opened.
func Stored(wanted ...string) map[string][]int {
	defer os.Unsetenv("LISTEN_PID")
	defer os.Unsetenv("LISTEN_FDS")
	defer os.Unsetenv("LISTEN_FDNAMES")
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil
	}
	// Not os.NewFile, as go-systemd does: it would hand those that do not block
	// to the runtime's poller, which every packet would wake from then on.
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	fds := map[string][]int{}
	for i := range n {
		fd := firstFD + i
		if i < len(names) && slices.Contains(wanted, names[i]) {
			unix.CloseOnExec(fd)
			fds[names[i]] = append(fds[names[i]], fd)
		} else {
			unix.Close(fd)
		}
	}
	return fds
}
