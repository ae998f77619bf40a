//go:build linux

package route

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

const (
	// promptly is how long a first contact may take, and lateAtMost how long on a
	// machine that is busy: the kernel's own delay is 0.4 s in the middle.
	promptly   = 150 * time.Millisecond
	lateAtMost = 350 * time.Millisecond
)

// contact sends a datagram to each address from a neighbour that knows none of
// them, and says how long it took until the neighbour knew each.
func contact(ns *netns.NS, addrs []netip.Addr) (took []time.Duration, err error) {
	ns.Do(func() {
		var h *netlink.Handle
		if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return
		}
		defer h.Close()
		var c *net.UDPConn
		if c, err = net.ListenUDP("udp", nil); err != nil {
			return
		}
		defer c.Close()
		start := time.Now()
		for _, a := range addrs {
			if _, err = c.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(a, 9)); err != nil {
				return
			}
		}
		known := map[netip.Addr]bool{}
		for len(known) < len(addrs) && time.Since(start) < 3*time.Second {
			var all []netlink.Neigh
			if all, err = h.NeighList(0, unix.AF_UNSPEC); err != nil {
				return
			}
			for _, n := range all {
				a, _ := netip.AddrFromSlice(n.IP)
				a = a.Unmap()
				if n.State&unix.NUD_REACHABLE != 0 && !known[a] && slices.Contains(addrs, a) {
					known[a] = true
					took = append(took, time.Since(start))
				}
			}
		}
		if len(known) < len(addrs) {
			err = fmt.Errorf("%d of %d addresses answered", len(known), len(addrs))
		}
	})
	return took, err
}

// addr6 gives an uplink an IPv6 address, and waits until the kernel, which does the
// rest of it later, sends from there.
func addr6(t *testing.T, ns *netns.NS, addr string) {
	t.Helper()
	ns.IP("addr add " + addr + "/64 dev eth0")
	for start := time.Now(); !strings.Contains(ns.IP("-6 route show table local"), "local "+addr+" ") ||
		strings.Contains(ns.IP("-6 addr show dev eth0"), "tentative"); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("%s cannot be used", addr)
		}
	}
}

// TestFirstContact: a neighbour that has never heard of an address of ours gets
// its answer at once, one at a time and many at the same time.
func TestFirstContact(t *testing.T) {
	l := newLab(t)
	addr6(t, l.host, "2001:db8::10")
	addr6(t, l.net, "2001:db8::20")
	d := example()
	d.Mapped4 = prefixes("192.0.2.50/32", "192.0.2.128/25")
	d.IPv4 = netip.MustParseAddr("192.0.2.5")
	l.start(d)
	var took []time.Duration
	for _, a := range []string{"192.0.2.50", "192.0.2.5", "192.0.2.130", "192.0.2.140", "192.0.2.250", "2001:db8::1"} {
		one, err := contact(l.net, []netip.Addr{netip.MustParseAddr(a)})
		l.must("first contact with "+a, err)
		took = append(took, one...)
	}
	l.net.IP("neigh flush dev eth0")
	var all []netip.Addr
	for a := netip.MustParseAddr("192.0.2.150"); len(all) < 100; a = a.Next() {
		all = append(all, a)
	}
	burst, err := contact(l.net, all)
	l.must("first contact with 100 at once", err)
	t.Logf("one by one %v, the last of 100 at once %v", took, burst[len(burst)-1])
	for _, times := range [][]time.Duration{took, burst} {
		slices.Sort(times)
		if times[len(times)/2] > promptly || times[len(times)-1] > lateAtMost {
			t.Errorf("first contacts took %v, want half of them within %v and all within %v", times, promptly, lateAtMost)
		}
	}
}

// TestNeighboursPutBack: what was set for neighbours is as it was when the manager
// ends, and after one that was killed; also where the uplink got another name.
func TestNeighboursPutBack(t *testing.T) {
	l := newLab(t)
	addr6(t, l.host, "2001:db8::10")
	l.host.Run("sysctl", "-qw", "net.ipv4.neigh.eth0.proxy_delay=40")
	before := l.snapshot()
	_, stop := l.start(example())
	read := func(key string) string { return l.host.Run("sysctl", "-n", key) }
	if got := read("net.ipv4.neigh.eth0.proxy_delay") + read("net.ipv6.neigh.eth0.proxy_delay") + read("net.ipv6.conf.eth0.proxy_ndp"); got != "001" {
		t.Errorf("delays and proxy_ndp are %s, want 001", got)
	}
	l.host.Run("sysctl", "-qw", "net.ipv4.neigh.eth0.proxy_delay=80")
	l.within(soon, "a delay that somebody set is 0 again", func() bool { return read("net.ipv4.neigh.eth0.proxy_delay") == "0" })
	l.must("end", stop())
	if after := l.snapshot(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}

	l.startAndKill(example())
	l.host.Run("ip", "link", "set", "eth0", "down")
	l.host.Run("ip", "link", "set", "eth0", "name", "wan0")
	var err error
	l.host.Do(func() { err = Cleanup(l.config) })
	l.must("clean up", err)
	if got := read("net.ipv4.neigh.wan0.proxy_delay") + " " + read("net.ipv6.conf.wan0.proxy_ndp") + " " + read("net.ipv4.conf.wan0.forwarding"); got != "40 0 0" {
		t.Errorf("under its new name the uplink has %s, want 40 0 0", got)
	}
}
