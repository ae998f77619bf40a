//go:build linux

package route

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// BenchmarkGuard is what a datagram costs from who sends it to the device, which
// nobody reads: processor time, so that others on the machine do not count.
func BenchmarkGuard(b *testing.B) {
	for _, guarded := range []bool{false, true} {
		name := "without"
		if guarded {
			name = "with"
		}
		b.Run(name, func(b *testing.B) {
			l := newLab(b)
			d := example()
			d.Uplink, d.AntiSpoofing = "", guarded
			d.IPv4 = netip.MustParseAddr("198.51.100.1") // most sources share no first bits with ours
			l.start(d)
			l.wl.IP("-6 route add default via fd00::1")
			l.net.IP("route add default via 192.0.2.10")
			b.Run("6to4", func(b *testing.B) { cost(b, l.wl, "64:ff9b::c000:214") })
			b.Run("4to6", func(b *testing.B) { cost(b, l.net, "198.51.100.2") })
			b.Run("6", func(b *testing.B) { cost(b, l.wl, "fd00:9::1") })
		})
	}
}

func cost(b *testing.B, ns *netns.NS, to string) {
	var err error
	ns.Do(func() {
		var fd int
		addr := netip.MustParseAddr(to)
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: 9, Addr: addr.As16()}
		family := unix.AF_INET6
		if addr.Is4() {
			sa, family = &unix.SockaddrInet4{Port: 9, Addr: addr.As4()}, unix.AF_INET
		}
		if fd, err = unix.Socket(family, unix.SOCK_DGRAM, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		var before, after unix.Timespec
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
		for b.Loop() {
			_ = unix.Sendto(fd, []byte("natless"), 0, sa) // an error of before is of no account
		}
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
		b.ReportMetric(float64(after.Nano()-before.Nano())/float64(b.N), "cpu-ns/op")
	})
	if err != nil {
		b.Fatal(err)
	}
}
