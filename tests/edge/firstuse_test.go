//go:build linux

package edge

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const firstUseConfig = `
fast_path: %s
uplink: fab
prefix: 64:ff9b:1::/96
addresses: {ipv4: 192.0.0.8, ipv6: "2001:db8:e0::1"}
pools:
  - name: whole
    ipv4: 203.0.113.0/27
    whole_address: true
    cooldown: 0s
    first_use: {sources: ["2001:db8:a::/64", "2001:db8:c::/64"], idle: 24h, most_per_prefix: 6, rate: 1000}
edge: {enabled: true, prefix: "2001:db8:f64::/96", host: "2001:db8:e0:1::/96", mtu: 1280}
`

// TestFirstUse: at the edge, too, a source has IPv4 by its first packet, and whoever pretends to
// be many gets as much as its /64 may have; what comes by the fabric gives nobody anything.
func TestFirstUse(t *testing.T) {
	netns.Require(t, netns.Root)
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			firstUse(t, path)
		})
	}
}

func firstUse(t *testing.T, path string) {
	f := &fleet{t: t, path: path}
	source, other, host, fab := netns.New(t, "source"), netns.New(t, "other"), netns.New(t, "host"), netns.New(t, "fab")
	f.link(source, "eth0", host, "source", "2001:db8:a::2/64", "2001:db8:a::1/64", 1500)
	f.link(other, "eth0", host, "other", "2001:db8:c::2/64", "2001:db8:c::1/64", 1500)
	f.link(host, "fab", fab, "host", "2001:db8:e0:f::1/64", "2001:db8:e0:f::2/64", 1280)
	source.IP("-6 route add default via 2001:db8:a::1")
	other.IP("-6 route add default via 2001:db8:c::1")
	host.IP("-6 route add default via 2001:db8:e0:f::2")
	fab.IP("-6 route add 2001:db8:e0:1::/96 via 2001:db8:e0:f::1")
	fab.IP("-6 addr add 2001:db8:f64::c000:263/128 dev lo nodad") // a relay that is a server as well
	d := daemon.Start(t, host, fmt.Sprintf(firstUseConfig, path))
	given := func() (all []api.Workload) {
		list, err := d.Client().List(t.Context(), api.Filter{Name: "first-use/*"})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	var l *net.UDPConn
	var err error
	fab.Do(func() { l, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("2001:db8:f64::c000:263")}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	port := l.LocalAddr().(*net.UDPAddr).Port

	say(t, source, "2001:db8:a::2", port)
	l.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, from, err := l.ReadFromUDPAddrPort(make([]byte, 100))
	if err != nil || !strings.HasPrefix(from.Addr().String(), "2001:db8:e0:1::cb00:71") {
		t.Fatalf("the first packet came from %v, %v", from, err)
	}
	all := given()
	if len(all) != 1 || all[0].Request.IPv6[0] != netip.MustParseAddr("2001:db8:a::2") {
		t.Fatalf("%+v", all)
	}
	source.IP("-6 route add local 2001:db8:a:0:1::/80 dev lo")
	for i := range 100 {
		say(t, source, fmt.Sprintf("2001:db8:a:0:1::%x", i+1), port)
	}
	fab.IP("-6 route add 64:ff9b:1::/96 via 2001:db8:e0:f::1")
	fab.IP("-6 addr add 2001:db8:c::77/128 dev lo nodad") // forged
	for range 5 {
		say(t, fab, "2001:db8:c::77", port)
	}
	within(t, "the flood to have what it may have", func() bool { return len(given()) == 6 })
	say(t, other, "2001:db8:c::2", port)
	within(t, "another to have its own", func() bool { return len(given()) == 7 })
	for _, w := range given() {
		if w.Request.IPv6[0] == netip.MustParseAddr("2001:db8:c::77") {
			t.Errorf("a source that came by the fabric has %+v", w)
		}
	}
}

func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// say sends a datagram by the workloads' prefix, with a source that the namespace need not have.
func say(t *testing.T, ns *netns.NS, from string, port int) {
	t.Helper()
	free := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1) })
	}}
	var c net.Conn
	var err error
	ns.Do(func() { c, err = free.DialContext(context.Background(), "udp6", fmt.Sprintf("[%s]:%d", server6, port)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
}
