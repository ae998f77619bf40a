//go:build linux

package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// TestAntiSpoofing: a container that uses the address of another reaches the
// translator no more, one with its own does, and the drops are counted.
func TestAntiSpoofing(t *testing.T) {
	l := newLab(t)
	netns.Require(t, "nft", "ping")
	l.host.IP("link del natless0")
	tun := openTUN(t, l.host, "natless0")
	// The attacker is on an interface of its own, as with the ptp plugin.
	evil := netns.New(t, "evil")
	netns.Veth(t, l.host, "wl1", evil, "eth0")
	l.host.IP("-6 route add fd00:1::2/128 dev wl1")
	l.host.IP("addr add fe80::1/64 dev wl1")
	evil.IP("addr add fd00:1::2/64 dev eth0")
	evil.IP("addr add fd00::2/128 dev eth0") // the other's
	evil.IP("-6 route add default via fe80::1 dev eth0")
	l.wl.IP("-6 route add default via fd00::1")
	d := example()
	d.Uplink = ""

	send := func(ns *netns.NS, src string) bool {
		tun.forget()
		_ = ns.Command("ping", "-6", "-c", "1", "-W", "1", "-I", src, "64:ff9b::192.0.2.20").Run()
		return tun.saw(func(p string) bool { return strings.HasPrefix(p, "ipv6 "+src+">") })
	}
	m, stop := l.start(d)
	if !send(evil, "fd00::2") {
		t.Fatal("without the check the attack must get through, or this test proves nothing")
	}
	d.AntiSpoofing = true
	l.must("set", m.Set(d))
	read := func() (a AntiSpoofing) {
		var err error
		l.host.Do(func() { a, err = ReadAntiSpoofing() })
		l.must("read", err)
		return a
	}
	if a := read(); !a.Installed || a.Packets != 0 {
		t.Errorf("before any attack: %+v", a)
	}
	if !send(l.wl, "fd00::2") || !send(evil, "fd00:1::2") {
		t.Error("a workload with its own address does not get through")
	}
	if send(evil, "fd00::2") {
		t.Error("a workload with another's address gets through")
	}
	if a := read(); a.Packets == 0 || a.Bytes == 0 {
		t.Errorf("the drop was not counted: %+v", a)
	}
	// What was looked up is remembered only for a moment.
	if !send(evil, "fd00:1::2") {
		t.Error("a second packet with its own address does not get through")
	}
	l.host.IP("-6 route replace blackhole fd00:1::2/128 metric 1")
	l.within(soon, "a source that has no route any more is refused", func() bool { return !send(evil, "fd00:1::2") })
	l.host.IP("-6 route del blackhole fd00:1::2/128 metric 1")

	l.host.Run("nft", "flush", "ruleset")
	l.within(soon, "check back after a flush", func() bool { return read().Installed })
	d.Prefix = netip.MustParsePrefix("2001:db8:64::/96")
	l.must("set", m.Set(d))
	if got := l.host.Run("nft", "list", "table", "inet", "natless"); strings.Contains(got, "64:ff9b") || !strings.Contains(got, "2001:db8:64::/96") {
		t.Errorf("after another prefix:\n%s", got)
	}
	l.must("stop", stop())
	if got := l.host.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	if read().Installed {
		t.Error("still installed after the end")
	}
}
