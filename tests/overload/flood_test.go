//go:build linux

package overload

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// kinds are what a workload can flood with, and remoteKinds what comes from outside. A server
// answers no more than scarce questions a second in scarceNames, as some networks let no more
// come from one host.
var (
	kinds       = []string{"udp", "options", "fragments", "ports", "icmp", "syn", "toobig", "own", "names", "lookups", "spoofed"}
	remoteKinds = []string{"in-udp", "in-nobody", "in-ping", "in-errors", "in-fragments", "in-later"}
)

const (
	burst   = 64
	packets = 4096 // different ones of a flood, at least a burst
	scarce  = 1024
)

// flood sends packets of a kind as fast as one processor can: kind, and for a workload
// its address, where the packets say that they go, and the first of 1024 ports that are
// its own; at last which processor it has, 0 for the last one. Lines say where it sends: here,
// away, which is the same packets to a device that drops them, or off. It answers each with
// how many it has sent since the one before.
func flood(args []string) error {
	all, here, away, err := loaded(args)
	if err != nil {
		return err
	}
	domain := unix.AF_INET6
	if len(here) == unix.SizeofSockaddrInet4 {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	cpu, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	var to atomic.Pointer[[]byte]
	var sent atomic.Uint64
	turn := make(chan struct{}, 1)
	go func() {
		pin(cpu)
		blast(fd, all, &to, &sent, turn)
	}()
	fmt.Println("ready")
	before := uint64(0)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "here":
			to.Store(&here)
		case "away":
			to.Store(&away)
		default:
			to.Store(nil)
		}
		select {
		case turn <- struct{}{}:
		default:
		}
		n := sent.Load()
		fmt.Println(n - before)
		before = n
	}
	return nil
}

// pin leaves the calling goroutine one processor, counted from the last, and no other: so
// it takes as much of neighbours' time wherever it sends.
func pin(cpu int) {
	runtime.LockOSThread()
	var have, one unix.CPUSet
	if unix.SchedGetaffinity(0, &have) != nil {
		return
	}
	left := have.Count() - cpu%have.Count()
	for n := 0; left > 0; n++ {
		if have.IsSet(n) {
			if left--; left == 0 {
				one.Set(n)
			}
		}
	}
	unix.SchedSetaffinity(0, &one)
}

type message struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// blast sends wherever to says, and waits for a turn while that is nowhere.
func blast(fd int, all [][]byte, to *atomic.Pointer[[]byte], sent *atomic.Uint64, turn <-chan struct{}) {
	messages, vectors := make([]message, len(all)), make([]unix.Iovec, len(all))
	for i, b := range all {
		vectors[i] = unix.Iovec{Base: &b[0], Len: uint64(len(b))}
		messages[i].Iov, messages[i].Iovlen = &vectors[i], 1
	}
	var name *[]byte
	for at := 0; ; at = (at + burst) % len(all) {
		if now := to.Load(); now != name {
			if name = now; name != nil {
				for i := range messages {
					messages[i].Name, messages[i].Namelen = &(*name)[0], uint32(len(*name))
				}
			}
		}
		if name == nil {
			<-turn
			continue
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[at])), burst, 0, 0, 0)
		if errno == 0 {
			sent.Add(uint64(n))
		}
	}
}

// loaded is the packets of a flood, and the addresses that lead them here and away.
func loaded(args []string) (all [][]byte, here, away []byte, err error) {
	if strings.HasPrefix(args[0], "in-") {
		for i := range packets {
			all = append(all, craft4(args[0], i))
		}
		return all, name4(netip.AddrFrom4([4]byte(all[0][16:20]))), name4(netip.MustParseAddr(nowhere4)), nil
	}
	first, err := strconv.Atoi(args[3])
	if err != nil {
		return nil, nil, nil, err
	}
	src, dst := netip.MustParseAddr(args[1]), netip.MustParseAddr(args[2])
	for i := range packets {
		all = append(all, craft(args[0], src, dst, uint16(first), i))
	}
	return all, name6(dst), name6(netip.MustParseAddr(nowhere6)), nil
}

func name6(a netip.Addr) []byte {
	s := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}
	return append([]byte(nil), (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&s))[:]...)
}

func name4(a netip.Addr) []byte {
	s := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
	return append([]byte(nil), (*[unix.SizeofSockaddrInet4]byte)(unsafe.Pointer(&s))[:]...)
}

// craft is the i-th packet of a workload's flood.
func craft(kind string, src, dst netip.Addr, first uint16, i int) []byte {
	own := first + uint16(i%1024)
	small := make([]byte, 18)
	switch kind {
	case "options":
		return ip6(src, dst, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp6(src, dst, own, 9, small)...))
	case "fragments":
		b := []byte{17, 0, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(b[4:], uint32(i))
		return ip6(src, dst, 44, append(b, udp6(src, dst, own, 9, make([]byte, 64))...))
	case "ports":
		return ip6(src, dst, 17, udp6(src, dst, first+2048+uint16(i), 9, small))
	case "icmp": // an echo request with an identifier that is not its own
		b := make([]byte, 16)
		b[0] = 128
		binary.BigEndian.PutUint16(b[4:], first+2048+uint16(i))
		return ip6(src, dst, 58, checked(b, 2, 58, src, dst))
	case "syn":
		b := make([]byte, header.TCPMinimumSize)
		header.TCP(b).Encode(&header.TCPFields{SrcPort: own, DstPort: streamPort, SeqNum: uint32(i) << 16, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
		return ip6(src, dst, 6, checked(b, 16, 6, src, dst))
	case "toobig": // it demands to be told
		return ip6(src, dst, 17, udp6(src, dst, own, 9, make([]byte, 1440)))
	case "spoofed": // senders who are nobody
		b := src.As16()
		binary.BigEndian.PutUint16(b[10:], uint16(1+i))
		src = netip.AddrFrom16(b)
	case "names", "lookups": // that no server answers, and that one does
		zone := deadNames
		if kind == "lookups" {
			zone = scarceNames
		}
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.%s", i, zone), dns.TypeAAAA)
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return ip6(src, dst, 17, udp6(src, dst, own, 53, b))
	}
	return ip6(src, dst, 17, udp6(src, dst, own, 9, small)) // udp, own
}

func ip6(src, dst netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(src.As16()), DstAddr: tcpip.AddrFrom16(dst.As16())})
	b[6] = next
	return append(b, payload...)
}

// checked has the checksum of an upper layer at an offset.
func checked(b []byte, at int, protocol tcpip.TransportProtocolNumber, src, dst netip.Addr) []byte {
	sum := header.PseudoHeaderChecksum(protocol, tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice()), uint16(len(b)))
	binary.BigEndian.PutUint16(b[at:], ^checksum.Checksum(b, sum))
	return b
}

func udp6(src, dst netip.Addr, from, to uint16, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	header.UDP(b).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(len(b) + len(payload))})
	return checked(append(b, payload...), 6, 17, src, dst)
}

// craft4 is the i-th packet of a flood from outside: of thousands of senders, in hundreds
// of networks.
func craft4(kind string, i int) []byte {
	src := netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8 * 7), byte(1 + i%250)})
	dst, own := netip.MustParseAddr(shared4), uint16(floodPort+i%1024)
	nobody := uint16(60000 + i%1024)
	switch kind {
	case "in-nobody": // ports that nobody has
		return ip4(src, dst, 17, 0, udp6(src, dst, 53, nobody, make([]byte, 18)))
	case "in-ping": // the translator's own address
		b := make([]byte, 16)
		b[0] = 8
		binary.BigEndian.PutUint16(b[4:], uint16(i))
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
		return ip4(src, netip.MustParseAddr(own4), 1, 0, b)
	case "in-errors": // about what the flooded workload never sent
		b := append([]byte{3, 4, 0, 0, 0, 0, 1300 >> 8, 1300 & 255}, ip4(dst, src, 17, 0, udp6(dst, src, own, 53, make([]byte, 18)))...)
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
		return ip4(src, dst, 1, 0, b)
	case "in-later": // fragments of which nobody can say whose they are
		b := ip4(src, dst, 17, 0, make([]byte, 64))
		binary.BigEndian.PutUint16(b[4:], uint16(i))
		binary.BigEndian.PutUint16(b[6:], 100)
		return summed(b)
	case "in-fragments": // the first ones
		return ip4(src, dst, 17, 1<<13, udp6(src, dst, 53, own, make([]byte, 64)))
	}
	return ip4(src, dst, 17, 0, udp6(src, dst, 53, own, make([]byte, 18))) // in-udp
}

func ip4(src, dst netip.Addr, protocol uint8, fragment uint16, payload []byte) []byte {
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
	header.IPv4(b).Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + len(payload)), ID: 7, TTL: 64, Protocol: protocol,
		SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4())})
	binary.BigEndian.PutUint16(b[6:], fragment)
	return append(summed(b), payload...)
}

// summed has the checksum of an IPv4 header.
func summed(b []byte) []byte {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:header.IPv4MinimumSize], 0))
	return b
}
