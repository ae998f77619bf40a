//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	udpPort   = 9999
	udpFlows  = 4
	burst     = 32 // datagrams for each sendmmsg
	maxLoss   = 0.001
	precision = 1.05 // of the rate that is searched
)

// search finds the highest rates of datagrams at which none is lost, and at
// which no more than a thousandth is (RFC 8219 6.5 as far as one machine
// allows). A trial that fails is repeated once, so that a neighbour's burst of
// work on the machine does not decide.
type search struct {
	try  func(rate float64) (trial, error)
	none trial // the best without loss
	few  trial // the best with no more than maxLoss
	err  error
}

func (s *search) run() error {
	low, high := s.bisect(5e3, 1.2e6, func(t trial) bool { return t.lost() <= maxLoss })
	if s.none.rate < low {
		s.bisect(max(s.none.rate, 5e3), high, func(t trial) bool { return t.lost() == 0 })
	}
	return s.err
}

// bisect narrows down between a rate that is good and one that is not.
func (s *search) bisect(low, high float64, good func(trial) bool) (float64, float64) {
	for s.err == nil && high/low > precision {
		rate := math.Sqrt(low * high)
		ok := false
		for range 2 {
			var t trial
			if t, s.err = s.try(rate); s.err != nil {
				return low, high
			}
			s.keep(t)
			if ok = t.reached() && good(t); ok {
				break
			}
		}
		if ok {
			low = rate
		} else {
			high = rate
		}
	}
	return low, high
}

func (s *search) keep(t trial) {
	if !t.reached() {
		return
	}
	if t.lost() == 0 && t.received > s.none.received {
		s.none = t
	}
	if t.lost() <= maxLoss && t.received > s.few.received {
		s.few = t
	}
}

// trial is what came of sending at one rate.
type trial struct {
	rate           float64 // datagrams a second
	seconds        float64
	sent, received float64
	perMpkt        work
}

func (t trial) lost() float64 { return 1 - t.received/t.sent }

// reached says that the generator kept to the rate.
func (t trial) reached() bool { return t.sent >= 0.97*t.rate*t.seconds }

func (t trial) kpps() float64 {
	if t.seconds == 0 {
		return 0
	}
	return t.received / t.seconds / 1e3
}

func (l *lab) try(c *contender, size int, rate float64, length time.Duration) (t trial, err error) {
	t.rate, t.seconds = rate, length.Seconds()
	end, err := l.background("s4", "udp-sink")
	if err != nil {
		return t, err
	}
	before := worked(c)
	err = l.output("w6", "udp-generate", []any{c.target, rate, length, size}, &t.sent)
	after := worked(c)
	time.Sleep(50 * time.Millisecond) // what is on its way arrives
	received, err2 := end()
	if err == nil {
		err = err2
	}
	if err != nil {
		return t, err
	}
	if _, err := fmt.Sscan(received, &t.received); err != nil {
		return t, fmt.Errorf("udp-sink printed %q: %w", received, err)
	}
	t.perMpkt = after.since(before, t.received/1e6)
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
				pause(time.Duration(early * float64(time.Second)))
			}
			continue
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(sockets[flow%udpFlows]), uintptr(unsafe.Pointer(&batch[0])), burst, 0, 0, 0)
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

// untilInputEnds says true until the standard input ends, also to one who waits
// without telling the runtime.
func untilInputEnds() func() bool {
	var ended atomic.Bool
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
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
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&batch[0])), 64, unix.MSG_WAITFORONE, 0, 0)
		if errno == 0 {
			got += int(n)
		}
	}
	fmt.Println(got)
	return nil
}
