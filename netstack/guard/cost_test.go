//go:build linux

package guard

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// BenchmarkGuard is what a datagram costs from a workload to the device, which
// nobody reads: processor time, so that others on the machine do not count.
func BenchmarkGuard(b *testing.B) {
	for _, guarded := range []bool{false, true} {
		name := "without"
		if guarded {
			name = "with"
		}
		b.Run(name, func(b *testing.B) {
			l := newLab(b)
			l.w1.IP("-6 route add default via " + gateway)
			l.alone.IP("addr add " + addr3 + "/64 dev eth0")
			l.alone.IP("-6 route add default via fe80::1 dev eth0")
			if guarded {
				l.start()
			}
			b.Run("bridge", func(b *testing.B) { cost(b, l.w1) })
			b.Run("veth", func(b *testing.B) { cost(b, l.alone) })
		})
	}
}

func cost(b *testing.B, ns *netns.NS) {
	var err error
	ns.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet6{Port: 9, Addr: netip.MustParseAddr(remote).As16()}
		var before, after unix.Timespec
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
		for b.Loop() {
			_ = unix.Sendto(fd, []byte("natless"), 0, to) // an error of before is of no account
		}
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
		b.ReportMetric(float64(after.Nano()-before.Nano())/float64(b.N), "cpu-ns/op")
	})
	if err != nil {
		b.Fatal(err)
	}
}
