//go:build linux

package route

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"golang.org/x/sys/unix"
)

// testTUN is the device, opened by the test in the translator's place. It
// writes down what comes and sends what it is told to.
type testTUN struct {
	t    *testing.T
	file *os.File
	done sync.WaitGroup

	mu   sync.Mutex
	seen []string
}

func openTUN(t *testing.T, ns *netns.NS, name string) *testTUN {
	t.Helper()
	var fd int
	var err error
	ns.Do(func() { fd, err = tunFD(name) })
	if err != nil {
		t.Fatalf("open tun: %v", err)
	}
	u := &testTUN{t: t, file: os.NewFile(uintptr(fd), "tun")}
	u.done.Go(u.read)
	t.Cleanup(u.close)
	return u
}

func tunFD(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

func (u *testTUN) close() {
	_ = u.file.Close()
	u.done.Wait()
}

func (u *testTUN) read() {
	buf := make([]byte, 65536)
	for {
		n, err := u.file.Read(buf)
		if err != nil {
			return
		}
		if n < 20 || buf[0]>>4 == 6 && buf[24] == 0xff {
			continue // multicast listener reports of the device itself
		}
		u.mu.Lock()
		u.seen = append(u.seen, describe(buf[:n]))
		u.mu.Unlock()
	}
}

// describe says what a packet is: "17 192.0.2.20>192.0.2.10 5000>40000", or
// "ipv6 2001:db8::1>2001:db8::2".
func describe(p []byte) string {
	if p[0]>>4 == 6 && len(p) >= 40 {
		return fmt.Sprintf("ipv6 %v>%v", netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])))
	}
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(p[i : i+4])) }
	s := fmt.Sprintf("%d %v>%v", p[9], at(12), at(16))
	fragment := binary.BigEndian.Uint16(p[6:])
	if fragment&0x3fff != 0 {
		s += fmt.Sprintf(" frag %d", fragment&0x1fff*8)
	}
	if l4 := p[20:]; fragment&0x1fff == 0 && len(l4) >= 8 {
		if p[9] == unix.IPPROTO_ICMP {
			s += fmt.Sprintf(" icmp %d/%d", l4[0], l4[1])
		}
		s += fmt.Sprintf(" %d>%d", binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:]))
		if p[9] == unix.IPPROTO_ICMP {
			s += fmt.Sprintf(" id %d", binary.BigEndian.Uint16(l4[4:]))
		}
	}
	return s
}

// saw waits for a packet.
func (u *testTUN) saw(match func(string) bool) bool {
	for range 100 {
		u.mu.Lock()
		found := slices.ContainsFunc(u.seen, match)
		u.mu.Unlock()
		if found {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func (u *testTUN) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = nil
}

func (u *testTUN) packets() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

func (u *testTUN) send(p []byte) {
	u.t.Helper()
	if _, err := u.file.Write(p); err != nil {
		u.t.Errorf("write to the device: %v", err)
	}
}

func packet4(src, dst string, proto byte, payload []byte) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

// udp is a UDP datagram without a checksum.
func udp(sport, dport uint16, payload string) []byte {
	p := make([]byte, 8)
	binary.BigEndian.PutUint16(p, sport)
	binary.BigEndian.PutUint16(p[2:], dport)
	binary.BigEndian.PutUint16(p[4:], uint16(8+len(payload)))
	return append(p, payload...)
}

func icmp4(kind, code byte, id uint16, body []byte) []byte {
	p := append([]byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, body...)
	binary.BigEndian.PutUint16(p[2:], checksum(p))
	return p
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
