//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	udpPort   = 9999
	echoPort  = 9998
	udpFlows  = 4
	burst     = 32 // datagrams for each sendmmsg
	maxLoss   = 0.001
	precision = 1.05 // of the rate that is searched
)

// search finds the highest rate of datagrams at which no more than a
// thousandth is lost, by bisection (RFC 8219 6.5 as far as one machine allows).
// A trial that fails is repeated once, so that a neighbour's burst of work on
// the machine does not decide.
func (l *lab) search(c contender, size int, length time.Duration) (pps float64, perMpkt work, err error) {
	low, high := 5e3, 1.2e6
	for high/low > precision {
		rate := math.Sqrt(low * high)
		var t trial
		for try := 0; try < 2 && !t.ok && err == nil; try++ {
			t, err = l.try(c, size, rate, length)
		}
		if err != nil {
			return 0, work{}, err
		}
		if t.ok {
			low, pps, perMpkt = rate, t.received/length.Seconds(), t.perMpkt
		} else {
			high = rate
		}
	}
	return pps, perMpkt, nil
}

// trial is what came of sending at one rate.
type trial struct {
	sent, received float64
	perMpkt        work
	ok             bool // the rate was reached, and nearly all arrived
}

func (l *lab) try(c contender, size int, rate float64, length time.Duration) (t trial, err error) {
	end, err := l.background("s4", "udp-sink")
	if err != nil {
		return t, err
	}
	before := worked(c)
	out, err := l.role("w6", "udp-generate", c.target, rate, length, size).Output()
	after := worked(c)
	time.Sleep(100 * time.Millisecond)
	received, err2 := end()
	if err == nil {
		err = err2
	}
	if err != nil {
		return t, err
	}
	if _, err := fmt.Sscan(string(out)+received, &t.sent, &t.received); err != nil {
		return t, fmt.Errorf("%q %q: %w", out, received, err)
	}
	t.perMpkt = after.since(before, t.received/1e6)
	t.ok = t.received >= t.sent*(1-maxLoss) && t.sent >= 0.97*rate*length.Seconds()
	return t, nil
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

func messages(n, size int) []mmsghdr {
	m := make([]mmsghdr, n)
	for i := range m {
		buffer := make([]byte, size)
		m[i].header.Iov = &unix.Iovec{Base: &buffer[0]}
		m[i].header.Iov.SetLen(size)
		m[i].header.SetIovlen(1)
	}
	return m
}

// generateUDP sends at a pace: target, packets a second, length, payload size.
func generateUDP(args []string) error {
	rate, _ := strconv.ParseFloat(args[1], 64)
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	size, _ := strconv.Atoi(args[3])
	var sockets [udpFlows]int
	for i := range sockets {
		if sockets[i], err = connectUDP(args[0], udpPort); err != nil {
			return err
		}
		unix.SetsockoptInt(sockets[i], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	batch, sent := messages(burst, size), 0
	start := time.Now()
	for flow := 0; ; flow++ {
		passed := time.Since(start)
		if passed >= length {
			break
		}
		if early := float64(sent+burst)/rate - passed.Seconds(); early > 0 {
			if early > 60e-6 {
				unix.Nanosleep(&unix.Timespec{Nsec: int64(early * 1e9)}, nil)
			}
			continue
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(sockets[flow%udpFlows]), uintptr(unsafe.Pointer(&batch[0])), burst, 0, 0, 0)
		if errno == 0 {
			sent += int(n)
		}
	}
	fmt.Println(sent)
	return nil
}

func connectUDP(target string, port int) (int, error) {
	address, err := netip.ParseAddr(target)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: address.As16()})
}

func listenUDP(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000})
	return fd, unix.Bind(fd, &unix.SockaddrInet6{Port: port})
}

// untilInputEnds says true until the standard input ends.
func untilInputEnds() func() bool {
	var ended atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	return func() bool { return !ended.Load() }
}

// sinkUDP counts datagrams until its standard input ends.
func sinkUDP([]string) error {
	fd, err := listenUDP(udpPort)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	batch, got := messages(64, 2048), 0
	for more := untilInputEnds(); more(); {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&batch[0])), 64, unix.MSG_WAITFORONE, 0, 0)
		if errno == 0 {
			got += int(n)
		}
	}
	fmt.Println(got)
	return nil
}

// rtt gives the median and the 99th percentile of round trips, in µs, of one
// small datagram at a time.
func (l *lab) rtt(target string, count int) (p50, p99 float64, err error) {
	end, err := l.background("s4", "udp-echo")
	if err != nil {
		return 0, 0, err
	}
	defer end()
	out, err := l.role("w6", "udp-ping", target, count).Output()
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(out), &p50, &p99)
	return p50, p99, err
}

// echoUDP sends datagrams back until its standard input ends.
func echoUDP([]string) error {
	fd, err := listenUDP(echoPort)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	buffer := make([]byte, 2048)
	for more := untilInputEnds(); more(); {
		if n, from, err := unix.Recvfrom(fd, buffer, 0); err == nil {
			unix.Sendto(fd, buffer[:n], 0, from)
		}
	}
	return nil
}

// pingUDP measures round trips: target, count. A lost one is left out.
func pingUDP(args []string) error {
	fd, err := connectUDP(args[0], echoPort)
	if err != nil {
		return err
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000})
	count, _ := strconv.Atoi(args[1])
	var trips []float64
	out, in := make([]byte, 64), make([]byte, 64)
	for i := range count {
		binary.BigEndian.PutUint32(out, uint32(i))
		start := time.Now()
		if _, err := unix.Write(fd, out); err != nil {
			return err
		}
		for {
			_, err := unix.Read(fd, in)
			if err == nil && binary.BigEndian.Uint32(in) != uint32(i) {
				continue // the answer to one that was given up
			}
			if err == nil {
				trips = append(trips, float64(time.Since(start).Nanoseconds())/1e3)
			}
			break
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 300000}, nil)
	}
	if len(trips) < count/2 {
		return fmt.Errorf("%d of %d answers came", len(trips), count)
	}
	slices.Sort(trips)
	fmt.Println(trips[len(trips)/2], trips[len(trips)*99/100])
	return nil
}
