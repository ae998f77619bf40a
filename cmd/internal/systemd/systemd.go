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
	"maps"
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

// Store leaves descriptors under a name with the service manager, each in place of
// the one that it has of that name and place. The next process gets them by Stored.
func Store(name string, fds ...int) (err error) {
	for i, fd := range fds {
		each := fmt.Sprintf("\nFDNAME=%s-%d", name, i) // it says nothing of an order
		_, removed := Notify("FDSTOREREMOVE=1" + each)
		_, stored := Notify("FDSTORE=1"+each, fd)
		err = errors.Join(err, removed, stored)
	}
	return err
}

// Forget has the service manager close what it keeps under a name, of which Stored gave
// so many.
func Forget(name string, count int) (err error) {
	for i := range count {
		_, removed := Notify(fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=%s-%d", name, i))
		err = errors.Join(err, removed)
	}
	return err
}

// Stored gives the descriptors that a predecessor left under some names, in the order
// in which it stored them. They are the caller's; all others that were left are closed,
// by the service manager too. It is to be called once, before anything is opened.
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
	names = append(names, make([]string, max(0, n-len(names)))...)
	places := map[string]map[int]int{}
	for i := range n {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		name, place := placeOf(names[i])
		if !slices.Contains(wanted, name) {
			unix.Close(fd)
			Notify("FDSTOREREMOVE=1\nFDNAME=" + names[i])
			continue
		}
		if places[name] == nil {
			places[name] = map[int]int{}
		}
		places[name][place] = fd
	}
	fds := map[string][]int{}
	for name, at := range places {
		for _, place := range slices.Sorted(maps.Keys(at)) {
			fds[name] = append(fds[name], at[place])
		}
	}
	return fds
}

// placeOf takes a stored descriptor's name apart. One that is not of ours is "".
func placeOf(stored string) (name string, place int) {
	at := strings.LastIndexByte(stored, '-')
	place, err := strconv.Atoi(stored[at+1:])
	if at < 0 || err != nil {
		return "", 0
	}
	return stored[:at], place
}
