//go:build linux

package route

import (
	"net/netip"
	"strings"
	"testing"
)

// TestGatewayInPool: on a host whose pool covers its gateway and itself, the host
// still reaches the gateway, answers for neither, and follows when the gateway
// changes or it gets one more address.
func TestGatewayInPool(t *testing.T) {
	l := newLab(t) // 192.0.2.10/24, and .20 on the link
	l.host.IP("route add default via 192.0.2.20")
	l.host.IP("route add 203.0.113.0/24 table 77 nexthop via 192.0.2.21 dev eth0 nexthop via 192.0.2.22 dev eth0")
	d := Desired{Uplink: "eth0", Mapped4: prefixes("192.0.2.0/26")}
	m, _ := l.start(d)
	taken := <-m.Taken()
	for a, want := range map[string]string{
		"192.0.2.0": "the network address of 192.0.2.0/24 on eth0", "192.0.2.255": "the broadcast address of 192.0.2.0/24 on eth0",
		"192.0.2.10": "the host's own on eth0", "192.0.2.20": "a gateway on eth0", "192.0.2.21": "a gateway on eth0", "192.0.2.22": "a gateway on eth0",
		"192.0.2.11": "", "192.0.2.63": "", "fd00::1": "the host's own on wl0",
	} {
		if got := taken[netip.MustParseAddr(a)]; got != want {
			t.Errorf("%s is %q, want %q", a, got, want)
		}
	}
	l.host.Run("ping", "-c", "1", "-W", "2", "192.0.2.20")
	answers := func() string { return l.host.IP("neigh show proxy") + "\n" }
	for _, a := range []string{"192.0.2.0 ", "192.0.2.10 ", "192.0.2.20 ", "192.0.2.21 ", "192.0.2.22 "} {
		if strings.Contains(answers(), a) {
			t.Errorf("answers for %s", a)
		}
	}
	if n := strings.Count(answers(), "dev eth0"); n != 59 {
		t.Errorf("answers for %d addresses, want 59", n)
	}

	l.net.IP("addr add 192.0.2.30/24 dev eth0")
	l.host.IP("route replace default via 192.0.2.30")
	l.within(soon, "another gateway", func() bool {
		return !strings.Contains(answers(), "192.0.2.30 ") && strings.Contains(answers(), "192.0.2.20 ")
	})
	l.host.Run("ping", "-c", "1", "-W", "2", "192.0.2.30")
	l.host.IP("addr add 192.0.2.31/24 dev eth0")
	l.within(soon, "one more address", func() bool { return !strings.Contains(answers(), "192.0.2.31 ") })
	l.within(soon, "told of both", func() bool {
		taken := <-m.Taken()
		return taken[netip.MustParseAddr("192.0.2.31")] != "" && taken[netip.MustParseAddr("192.0.2.20")] == ""
	})
	l.host.IP("route del default")
	l.within(soon, "no gateway", func() bool { return strings.Contains(answers(), "192.0.2.30 ") })
	l.host.IP("route del 203.0.113.0/24 table 77")
	l.must("set the same", m.Set(d)) // who assigns sees at a reload that these are free
	if got := answers(); !strings.Contains(got, "192.0.2.21 ") || !strings.Contains(got, "192.0.2.22 ") {
		t.Error("after a reload, no answers for gateways that are gone")
	}
	d.Mapped4 = prefixes("192.0.2.32/29")
	l.must("set", m.Set(d))
	if n := strings.Count(answers(), "dev eth0"); n != 8 {
		t.Errorf("answers for %d addresses, want 8", n)
	}
	before, err := l.readTaken()
	l.must("read", err)
	if before[netip.MustParseAddr("192.0.2.31")] == "" || before[netip.MustParseAddr("192.0.2.21")] != "" {
		t.Errorf("read %v", before)
	}
}

func (l *lab) readTaken() (t Taken, err error) {
	l.host.Do(func() { t, err = ReadTaken("natless0") })
	return t, err
}
