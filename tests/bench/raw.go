//go:build linux

package main

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Programs that measure packets, and lean streams, wait in raw system calls:
// the Go runtime's poller and scheduler would put work of their own on the way,
// some 30 µs of a round trip, and who is measured would be hidden behind who
// measures. Each waits on one thread, so the runtime's threads suffice.

// congestion is what TCP is measured with, whatever the machine's default is:
// one that paces (BBR) waits for timers, which hides what forwarding costs.
const congestion = "cubic"

// setCongestion is for net.Dialer and net.ListenConfig.
func setCongestion(_, _ string, c syscall.RawConn) (err error) {
	if err2 := c.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
	}); err2 != nil {
		return err2
	}
	return os.NewSyscallError("TCP congestion control "+congestion, err)
}

// rawStream is a descriptor of a connection.
type rawStream int

// newRawStream duplicates the connection's descriptor.
func newRawStream(conn *net.TCPConn) (rawStream, error) {
	file, err := conn.File()
	if err != nil {
		return -1, err
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return rawStream(fd), unix.SetNonblock(fd, false)
}

func (s rawStream) Read(b []byte) (int, error) {
	n, err := call(unix.SYS_READ, int(s), b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write writes all of b.
func (s rawStream) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var n int
		n, err = call(unix.SYS_WRITE, int(s), b[done:])
		done += n
	}
	return done, err
}

func (s rawStream) CloseWrite() error { return unix.Shutdown(int(s), unix.SHUT_WR) }

func (s rawStream) Close() error { return unix.Close(int(s)) }

// call is a raw read or write, taken up again where a signal interrupted it.
func call(number uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// pause sleeps without telling the runtime.
func pause(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
