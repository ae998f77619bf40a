//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// tunLoop is the contender that reads packets from a TUN device and writes them
// back as they are: no translator in user space that makes two system calls a
// packet does better, so what it lacks is the device's doing.
const (
	tunLoop   = "tun loop"
	loopTable = "64"
)

// beginLoop has all that is forwarded go through the loop.
func (l *lab) beginLoop() (*exec.Cmd, error) {
	c := l.role("x", "tun-loop", "tunloop0")
	if err := netns.Start(c); err != nil {
		return nil, err
	}
	err := l.in("x", "for i in $(seq 50); do ip link show tunloop0 >/dev/null 2>&1 && break; sleep 0.1; done\n"+
		"ip link set tunloop0 up mtu 1500; ip -6 route add default dev tunloop0 table "+loopTable+
		"; for i in w6 s4; do ip -6 rule add iif $i lookup "+loopTable+"; done")
	if err != nil {
		end(c)
		return nil, err
	}
	return c, nil
}

func (l *lab) tidyLoop() {
	l.in("x", "for i in w6 s4; do ip -6 rule del iif $i lookup "+loopTable+"; done")
}

// loopTUN is the loop: a queue and a thread for each CPU, superpackets and
// checksums left as they come.
func loopTUN(args []string) error {
	debug.SetGCPercent(-1)                                       // there is no garbage, and the threads never tell that they wait
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + runtime.NumCPU()) // for the same reason
	for range runtime.NumCPU() {
		fd, err := openQueue(args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		go func() {
			runtime.LockOSThread()
			buffer := make([]byte, 1<<17)
			for {
				n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)))
				if errno == unix.EINTR {
					runtime.Gosched()
				}
				if errno == 0 {
					unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&buffer[0])), n)
				}
			}
		}()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	os.Exit(0)
	return nil
}

func openQueue(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, err
	}
	return fd, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_USO4|unix.TUN_F_USO6)
}
