//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	echoPort = 9998
	between  = 300 * time.Microsecond // an answer and the next question
	patience = 200 * time.Millisecond // with one that is lost
	pinging  = 10 * time.Second       // at most
	fewest   = 20                     // round trips that say something
)

// rtt gives the median and the 99th percentile of round trips, in µs, of one
// small datagram at a time.
func (l *lab) rtt(target string, count int) (p50, p99 float64, err error) {
	end, err := l.background("s4", "udp-echo")
	if err != nil {
		return 0, 0, err
	}
	defer end()
	err = l.output("w6", "udp-ping", []any{target, count}, &p50, &p99)
	return p50, p99, err
}

// loaded is rtt beside a TCP stream that takes all it can get.
func (l *lab) loaded(c *contender, count int) (p50, p99 float64, err error) {
	stop, err := l.load(c)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	time.Sleep(200 * time.Millisecond) // slow start is over
	return l.rtt(c.target, count)
}

// echoUDP sends datagrams back until its standard input ends.
func echoUDP([]string) error {
	fd, err := listenUDP(echoPort)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	// What recvmsg leaves is what sendmsg takes: the sender's address.
	buffer, name := make([]byte, 2048), new(unix.RawSockaddrInet6)
	iov := unix.Iovec{Base: &buffer[0]}
	header := unix.Msghdr{Name: (*byte)(unsafe.Pointer(name)), Iov: &iov}
	header.SetIovlen(1)
	for more := untilInputEnds(); more(); {
		iov.SetLen(len(buffer))
		header.Namelen = unix.SizeofSockaddrInet6
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0)
		if errno == 0 {
			iov.SetLen(int(n))
			unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0)
		}
	}
	return nil
}

// pingUDP measures round trips: target, count. A lost one is left out, and so are
// those for which no time is left, since each lost one takes its time.
func pingUDP(args []string) error {
	fd, err := connectUDP(args[0], echoPort)
	if err != nil {
		return err
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience.Microseconds()})
	count, _ := strconv.Atoi(args[1])
	var trips []float64
	end := time.Now().Add(pinging)
	out, in := make([]byte, 64), make([]byte, 64)
	for i := 0; i < count && time.Now().Before(end); i++ {
		binary.BigEndian.PutUint32(out, uint32(i))
		start := time.Now()
		if _, err := call(unix.SYS_WRITE, fd, out); err != nil {
			return err
		}
		for answered := false; !answered && time.Since(start) < patience; {
			n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)))
			// Else: the runtime's signals, or the answer to one that was given up.
			if answered = errno == 0 && n >= 4 && binary.BigEndian.Uint32(in) == uint32(i); answered {
				trips = append(trips, float64(time.Since(start).Nanoseconds())/1e3)
			}
		}
		pause(between)
	}
	if len(trips) < fewest {
		return fmt.Errorf("%d of %d answers came", len(trips), count)
	}
	slices.Sort(trips)
	fmt.Println(trips[len(trips)/2], trips[len(trips)*99/100])
	return nil
}
