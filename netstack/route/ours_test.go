//go:build linux

package route

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// datagram sends one from a source, which the namespace has, and says what was
// wrong.
func datagram(ns *netns.NS, from, to string) (err error) {
	ns.Do(func() {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 40001))}
		var c net.Conn
		if c, err = d.Dial("udp", net.JoinHostPort(to, "40000")); err == nil {
			_, err = c.Write([]byte("natless"))
			c.Close()
		}
	})
	return err
}

// TestOursAsSource: what has one of the translator's addresses as its source and
// comes from outside is dropped and counted, whatever the kernel's own check
// says; what has another comes through.
func TestOursAsSource(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	for _, rpFilter := range []int{0, 2} {
		t.Run(fmt.Sprint("rp_filter ", rpFilter), func(t *testing.T) { t.Parallel(); testOursAsSource(t, rpFilter) })
	}
}

func testOursAsSource(t *testing.T, rpFilter int) {
	l := newLab(t)
	l.host.IP("link del natless0")
	tun := openTUN(t, l.host, "natless0")
	l.host.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.conf.all.rp_filter=%d", rpFilter), fmt.Sprintf("net.ipv4.conf.eth0.rp_filter=%d", rpFilter),
		"net.ipv4.conf.eth0.accept_local=1") // the kernel's own check of the host's address, too
	l.host.IP("addr add 192.0.2.11/24 dev eth0")
	l.net.IP("route add default via 192.0.2.11")
	d := example()
	d.Mapped4 = append(d.Mapped4, netip.MustParsePrefix("198.51.100.64/27"))
	d.HostPool = HostPool{Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("40000-40099")}
	d.AntiSpoofing = true
	m, stop := l.start(d)
	dropped := func() uint64 {
		var a AntiSpoofing
		var err error
		l.host.Do(func() { a, err = ReadAntiSpoofing() })
		l.must("read", err)
		return a.Causes["own-source"]
	}
	const to = "198.51.100.2" // mapped
	send := func(from string) {
		t.Helper()
		l.net.IP("addr replace " + from + "/32 dev lo")
		l.must("send from "+from, datagram(l.net, from, to))
	}
	arrives := func(from string) bool {
		t.Helper()
		send(from)
		sent := func(p string) bool { return strings.HasPrefix(p, "17 "+from+">") }
		return eventually(300*time.Millisecond, func() bool { return tun.saw(sent) })
	}
	for n, from := range []string{
		"203.0.113.2",   // mapped with others
		"198.51.100.77", // of a pool
		"198.51.100.64", // its first
		"198.51.100.95", // its last
		"192.0.2.1",     // the translator's
		"203.0.113.8",   // of ICMP errors
		"192.0.2.10",    // the host's, shared
	} {
		if send(from); !eventually(soon, func() bool { return dropped() == uint64(n+1) }) {
			t.Errorf("from %s: %d packets were dropped, want %d", from, dropped(), n+1)
		}
		if tun.saw(func(p string) bool { return strings.HasPrefix(p, "17 "+from+">") }) {
			t.Errorf("from %s: it came to the device", from)
		}
	}
	for _, from := range []string{"192.0.2.20", "203.0.113.4", "198.51.100.96", "198.51.100.63", "9.9.9.9"} {
		if rpFilter == 0 && !arrives(from) {
			t.Errorf("from %s: did not come through", from)
		}
	}
	// An address in a pool that somebody else's route leads elsewhere is theirs.
	l.host.IP("route add 198.51.100.70/32 via 192.0.2.20")
	if !arrives("198.51.100.70") {
		t.Error("a native host inside a pool did not come through")
	}
	// Another pool: the addresses change, and the counters go on.
	before := dropped()
	d.Mapped4 = slices.Clone(d.Mapped4) // the manager has the one before
	d.Mapped4[len(d.Mapped4)-1] = netip.MustParsePrefix("198.51.100.64/26")
	l.must("set", m.Set(d))
	send("198.51.100.96")
	if !eventually(soon, func() bool { return dropped() == before+1 }) {
		t.Errorf("after a larger pool: %d dropped, want %d", dropped(), before+1)
	}
	l.host.Run("nft", "flush", "set", "inet", "natless", ours4Set)
	l.within(soon, "the addresses are back", func() bool {
		return strings.Contains(l.host.Run("nft", "list", "set", "inet", "natless", ours4Set), "198.51.100.64")
	})
	l.must("stop", stop())
}

// eventually polls.
func eventually(d time.Duration, holds func() bool) bool {
	for end := time.Now().Add(d); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// TestManyOurs: as many addresses as there may be routes, none beside another.
func TestManyOurs(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	l := newLab(t)
	d := example()
	d.Uplink, d.AntiSpoofing = "", true
	for i := range 4096 {
		d.Mapped4 = append(d.Mapped4, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(i>>8), byte(i), 2}), 32))
	}
	m, _ := l.start(d)
	if got := len(regexp.MustCompile(`\b100\.[67]\d\.`).FindAllString(l.host.Run("nft", "list", "set", "inet", "natless", ours4Set), -1)); got != 4096 {
		t.Errorf("%d of 4096 addresses are guarded", got)
	}
	l.must("set the same again", m.Set(d))
}

// TestGuardComesFirst looks at every change: what drops is there before anything
// is that lets packets flow, and stays until nothing is any more.
func TestGuardComesFirst(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, true)
	check := func(step string, open bool) {
		t.Helper()
		for _, line := range strings.Split(k.took(), "\n") {
			switch {
			case strings.HasPrefix(line, "+ nft inet set"):
				open = false
			case open && (strings.HasPrefix(line, "+ link") || strings.HasPrefix(line, "+ route") || strings.Contains(line, "forwarding = 1")):
				t.Errorf("%s: %q comes before the guard", step, line)
			}
		}
	}
	d := example()
	d.AntiSpoofing = true
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	check("start", true)
	d.Prefix, d.Mapped4 = netip.MustParsePrefix("2001:db8:64::/96"), prefixes("198.51.100.0/24")
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(k.took(), "\n") {
		if !strings.Contains(line, "proxy") {
			got = append(got, line)
		}
	}
	want := lines(
		"+ nft inet set ours4",
		"\t192.0.2.1", "\t198.51.100.0-198.51.100.255", "\t203.0.113.0-203.0.113.3", "\t203.0.113.8",
		"+ nft inet set ours6",
		"\t64:ff9b::-64:ff9b::ffff:ffff", "\t2001:db8::1", "\t2001:db8:f::", "\t2001:db8:64::-2001:db8:64::ffff:ffff",
		"+ route 198.51.100.0/24",
		"+ route 2001:db8:64::/96",
		"- route 64:ff9b::/96",
		"- route 203.0.113.0/30",
		"- route 198.51.100.2/32",
		"+ nft inet set ours4",
		"\t192.0.2.1", "\t198.51.100.0-198.51.100.255", "\t203.0.113.8",
		"+ nft inet set ours6",
		"\t2001:db8::1", "\t2001:db8:f::", "\t2001:db8:64::-2001:db8:64::ffff:ffff",
	)
	if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
		t.Errorf("another prefix and other mappings: (-want +got)\n%s", diff)
	}
	for failAt := 1; failAt < 6; failAt++ { // whatever fails, the guard was first
		k := newFake()
		r := newTestReconciler(t, k, true)
		k.failAt = failAt
		if r.set(d) == nil {
			t.Fatalf("change %d did not fail", failAt)
		}
		for o := range k.have {
			if _, ok := o.(route); ok && len(guards(k.have)) != 3 {
				t.Errorf("after change %d failed: %v without the guard", failAt, o)
			}
		}
	}
}
