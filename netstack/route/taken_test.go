package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func linkAddress(iface, local, peer, broadcast string) linkAddr {
	l := linkAddr{iface: iface, subnet: netip.MustParsePrefix(local)}
	l.local = l.subnet.Addr()
	if peer != "" {
		l.subnet = netip.MustParsePrefix(peer)
		l.peer = l.subnet.Addr()
	}
	if broadcast != "" {
		l.broadcast = netip.MustParseAddr(broadcast)
	}
	return l
}

// TestTaken goes through the kinds of links that hosts have.
func TestTaken(t *testing.T) {
	pool := netip.MustParsePrefix("192.0.2.0/28")
	for name, c := range map[string]struct {
		addrs    []linkAddr
		gateways []gateway
		want     string
	}{
		"the pool is part of the subnet": {
			[]linkAddr{linkAddress("eth0", "192.0.2.1/24", "", "192.0.2.255")}, []gateway{{netip.MustParseAddr("192.0.2.2"), "eth0"}},
			"192.0.2.0 is the network address of 192.0.2.0/24 on eth0, 192.0.2.1 is the host's own on eth0, 192.0.2.2 is a gateway on eth0"},
		"the pool is the subnet": {
			[]linkAddr{linkAddress("eth0", "192.0.2.1/28", "", "")}, nil,
			"192.0.2.0 is the network address of 192.0.2.0/28 on eth0, 192.0.2.1 is the host's own on eth0, " +
				"192.0.2.15 is the broadcast address of 192.0.2.0/28 on eth0"},
		"the pool holds the subnet": {
			[]linkAddr{linkAddress("eth0", "192.0.2.9/30", "", "")}, nil,
			"192.0.2.8 is the network address of 192.0.2.8/30 on eth0, 192.0.2.9 is the host's own on eth0, " +
				"192.0.2.11 is the broadcast address of 192.0.2.8/30 on eth0"},
		"routed here": {
			[]linkAddr{linkAddress("eth0", "198.51.100.7/24", "", "198.51.100.255")}, []gateway{{netip.MustParseAddr("198.51.100.1"), "eth0"}}, ""},
		"a subnet of two (RFC 3021)": {
			[]linkAddr{linkAddress("eth0", "192.0.2.4/31", "", "")}, []gateway{{netip.MustParseAddr("192.0.2.5"), "eth0"}},
			"192.0.2.4 is the host's own on eth0, 192.0.2.5 is a gateway on eth0"},
		"one address, and a gateway that is on the link all the same": {
			[]linkAddr{linkAddress("eth0", "192.0.2.4/32", "", "")}, []gateway{{netip.MustParseAddr("192.0.2.1"), "eth0"}},
			"192.0.2.1 is a gateway on eth0, 192.0.2.4 is the host's own on eth0"},
		"a link with two ends": {
			[]linkAddr{linkAddress("ppp0", "192.0.2.4/32", "192.0.2.6/32", "")}, nil,
			"192.0.2.4 is the host's own on ppp0, 192.0.2.6 is the other end of ppp0"},
		"a secondary address in a subnet of its own": {
			[]linkAddr{linkAddress("eth0", "198.51.100.7/24", "", ""), linkAddress("eth0", "192.0.2.5/29", "", "192.0.2.6")}, nil,
			"192.0.2.0 is the network address of 192.0.2.0/29 on eth0, 192.0.2.5 is the host's own on eth0, " +
				"192.0.2.6 is the broadcast address of eth0, 192.0.2.7 is the broadcast address of 192.0.2.0/29 on eth0"},
		"IPv6 is the host's own, too": {
			[]linkAddr{linkAddress("eth0", "2001:db8::1/64", "", "")}, nil, ""},
	} {
		taken := takenBy(c.addrs, c.gateways)
		if got := taken.Words(taken.Within(pool)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	if got := takenBy([]linkAddr{linkAddress("eth0", "2001:db8::1/64", "", "")}, nil); len(got) != 1 || got[netip.MustParseAddr("2001:db8::1")] == "" {
		t.Errorf("IPv6: %v", got)
	}
	many := Taken{}
	for i := range 20 {
		many[netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})] = "x"
	}
	if got := many.Words(many.Within(netip.MustParsePrefix("192.0.2.0/24"))); strings.Count(got, " is ") != maxTakenWords || !strings.HasSuffix(got, ", and 12 more") {
		t.Error(got)
	}
}

// TestWithout: holes leave out exactly themselves.
func TestWithout(t *testing.T) {
	p := netip.MustParsePrefix("192.0.2.0/26")
	for seed := range 40 {
		var holes []netip.Addr
		for i := range seed % 7 {
			holes = append(holes, netip.AddrFrom4([4]byte{192, 0, 2, byte(seed*13+i*29) % 70}))
		}
		left := without(p, holes)
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			in := 0
			for _, q := range left {
				if q.Contains(a) {
					in++
				}
			}
			if want := map[bool]int{true: 0, false: 1}[slices.Contains(holes, a)]; in != want {
				t.Fatalf("holes %v: %v is in %d of %v, want %d", holes, a, in, left, want)
			}
		}
	}
	if got := without(netip.MustParsePrefix("0.0.0.0/1"), []netip.Addr{netip.MustParseAddr("127.255.255.255")}); len(got) != 31 {
		t.Errorf("%d prefixes", len(got))
	}
}

// TestTakenWithout: what is not held stays as it is.
func TestTakenWithout(t *testing.T) {
	taken := Taken{netip.MustParseAddr("192.0.2.2"): "a gateway", netip.MustParseAddr("2001:db8::1"): "the host's own", netip.MustParseAddr("203.0.113.1"): "x"}
	got := taken.Without(prefixes("198.51.100.0/24", "192.0.2.0/30"))
	if want := prefixes("198.51.100.0/24", "192.0.2.0/31", "192.0.2.3/32"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestTakenStates: the host, 192.0.2.1 behind gateway 192.0.2.2 with a pool
// that covers both, and what changes when another gateway comes.
func TestTakenStates(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, true)
	about := func(addrs []linkAddr, gateways ...string) {
		var g []gateway
		for _, a := range gateways {
			g = append(g, gateway{netip.MustParseAddr(a), "eth0"})
		}
		k.facts.taken, k.facts.held = takenBy(addrs, g), heldBy(addrs, g)
	}
	own := []linkAddr{linkAddress("eth0", "192.0.2.1/24", "", "192.0.2.255")}
	about(own, "192.0.2.2")
	d := Desired{MTU: 1500, Uplink: "eth0", Mapped4: prefixes("192.0.2.0/29")}
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	got := k.took()
	for i := range 8 {
		want := i > 2
		if line := fmt.Sprintf("+ proxy 192.0.2.%d dev eth0", i); strings.Contains(got, line) != want {
			t.Errorf("%q: want %t in\n%s", line, want, got)
		}
	}
	if diff := cmp.Diff(lines("+ route 192.0.2.0/31", "+ route 192.0.2.3/32", "+ route 192.0.2.4/30"), grep(got, "route")); diff != "" {
		t.Errorf("routes leave the gateway out: (-want +got)\n%s", diff)
	}
	if !strings.Contains(r.warned, "192.0.2.2 is a gateway on eth0") {
		t.Errorf("warned %q", r.warned)
	}
	about(append(own, linkAddress("eth0", "192.0.2.5/24", "", "")), "192.0.2.3")
	if err := r.reconcile(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines("+ route 192.0.2.2/32", "+ proxy 192.0.2.2 dev eth0",
		"- proxy 192.0.2.5 dev eth0", "- proxy 192.0.2.3 dev eth0", "- route 192.0.2.3/32"), k.took()); diff != "" {
		t.Errorf("another gateway, one more address: (-want +got)\n%s", diff)
	}
	if !strings.Contains(r.warned, "192.0.2.5 is the host's own on eth0") {
		t.Errorf("warned %q", r.warned)
	}
}
