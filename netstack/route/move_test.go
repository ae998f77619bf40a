//go:build linux

package route

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// TestAnnouncementBytes has an independent parser read what is sent.
func TestAnnouncementBytes(t *testing.T) {
	p := gopacket.NewPacket(arpAnnouncement(upLink.mac, netip.MustParseAddr("192.0.2.5")), layers.LayerTypeARP, gopacket.Default)
	want := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: upLink.mac[:], SourceProtAddress: []byte{192, 0, 2, 5},
		DstHwAddress: make([]byte, 6), DstProtAddress: []byte{192, 0, 2, 5}}
	arp, _ := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if arp == nil {
		t.Fatal(p)
	}
	want.BaseLayer = arp.BaseLayer
	if diff := cmp.Diff(want, arp); diff != "" {
		t.Errorf("ARP: (-want +got)\n%s", diff)
	}

	b := advertisement(upLink, netip.MustParseAddr("2001:db8::1"))
	p = gopacket.NewPacket(b, layers.LayerTypeIPv6, gopacket.Default)
	ip, _ := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	na, _ := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if ip == nil || na == nil {
		t.Fatal(p)
	}
	if ip.HopLimit != 255 || ip.SrcIP.String() != "fe80::1" || ip.DstIP.String() != "ff02::1" || int(ip.Length) != len(b)-40 {
		t.Errorf("IPv6 %+v", ip)
	}
	if na.Router() || na.Solicited() || !na.Override() || na.TargetAddress.String() != "2001:db8::1" || len(na.Options) != 1 ||
		na.Options[0].Type != layers.ICMPv6OptTargetAddress || string(na.Options[0].Data) != string(upLink.mac[:]) {
		t.Errorf("advertisement %+v", na)
	}
	if icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
		_ = icmp.SetNetworkLayerForChecksum(ip)
	}
	if err, mismatches := p.VerifyChecksums(); err != nil || len(mismatches) > 0 {
		t.Errorf("checksums: %v, %v", mismatches, err)
	}
}

// bridged is two hosts and a neighbour on one bridge. The neighbour keeps for
// hours what it knows, as routers do.
type bridged struct {
	t           *testing.T
	a, b, neigh *netns.NS
	atA, atB    *Manager
}

func newBridged(t *testing.T) *bridged {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "sysctl", "ping")
	n := &bridged{t: t, a: netns.New(t, "a"), b: netns.New(t, "b"), neigh: netns.New(t, "neigh")}
	bridge := netns.New(t, "bridge")
	bridge.Run("ip", "link", "add", "br0", "type", "bridge")
	bridge.Run("ip", "link", "set", "br0", "up")
	for i, ns := range []*netns.NS{n.a, n.b, n.neigh} {
		port := string(rune('p')) + string(rune('0'+i))
		netns.Veth(t, ns, "eth0", bridge, port)
		bridge.Run("ip", "link", "set", port, "master", "br0")
		ns.IP("addr add 192.0.2.2" + string(rune('0'+i)) + "/24 dev eth0")
		addr6(t, ns, "2001:db8::2"+string(rune('0'+i)))
	}
	n.neigh.Run("sysctl", "-qw", "net.ipv4.neigh.eth0.base_reachable_time_ms=36000000", "net.ipv6.neigh.eth0.base_reachable_time_ms=36000000")
	n.atA, n.atB = n.start(n.a), n.start(n.b)
	return n
}

// start runs a manager that has nothing yet.
func (n *bridged) start(ns *netns.NS) *Manager {
	n.t.Helper()
	ns.IP("tuntap add natless0 mode tun")
	m, err := New(Config{Device: "natless0", StateDir: n.t.TempDir(), ManageSysctls: true})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := m.Set(Desired{Uplink: "eth0"}); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go ns.Do(func() { ended <- m.Run(ctx) })
	n.t.Cleanup(func() { cancel(); <-ended })
	<-m.Ready()
	return m
}

func (n *bridged) set(m *Manager, d Desired) {
	n.t.Helper()
	d.Uplink = "eth0"
	if err := m.Set(d); err != nil {
		n.t.Fatal(err)
	}
}

func macOf(ns *netns.NS) string {
	f := strings.Fields(ns.Run("ip", "-o", "link", "show", "eth0"))
	for i := range f {
		if f[i] == "link/ether" {
			return f[i+1]
		}
	}
	return "none"
}

// known is the neighbour's entry for an address.
func (n *bridged) known(addr string) string { return n.neigh.Run("ip", "neigh", "show", addr) }

// learn has the neighbour send to an address, as it does before the move.
func (n *bridged) learn(addr, mac string) {
	n.t.Helper()
	n.follows(3*time.Second, "the neighbour knows "+addr, addr, mac, func() {
		_ = n.neigh.Command("ping", "-c", "1", "-W", "0.1", addr).Run()
	})
}

// follows waits until the neighbour sends to mac what is for addr.
func (n *bridged) follows(d time.Duration, what, addr, mac string, each func()) {
	n.t.Helper()
	for start := time.Now(); !strings.Contains(n.known(addr), mac); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > d {
			n.t.Fatalf("%s: not within %v: %q, want %s", what, d, n.known(addr), mac)
		}
		each()
	}
}

// aMoment is what the move may take: a second, and some on a busy machine.
const aMoment = 2 * time.Second

// TestMove: what was at one host and now is at another, or at another MAC address
// of the same, is sent to there by a neighbour that would not ask for hours.
func TestMove(t *testing.T) {
	t.Parallel()
	n := newBridged(t)
	one, six := prefixes("192.0.2.50/32", "192.0.2.64/28"), netip.MustParseAddr("2001:db8::1")
	addrs := []string{"192.0.2.50", "192.0.2.64", "192.0.2.79", "2001:db8::1"}
	nothing := func() {}
	everywhere := func(what, mac string) {
		t.Helper()
		start := time.Now()
		for _, a := range addrs {
			n.follows(aMoment, what, a, mac, nothing)
		}
		t.Logf("%s: %v", what, time.Since(start).Round(time.Millisecond))
	}
	n.set(n.atA, Desired{Mapped4: one, IPv6: six})
	for _, a := range addrs {
		n.learn(a, macOf(n.a))
	}
	n.set(n.atA, Desired{})
	n.set(n.atB, Desired{Mapped4: one, IPv6: six})
	everywhere("moved to the other host", macOf(n.b))

	n.set(n.atB, Desired{})
	n.set(n.atA, Desired{Mapped4: one, IPv6: six})
	everywhere("and back", macOf(n.a))

	n.a.Run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:77")
	everywhere("another MAC address", "02:00:00:00:00:77")

	n.a.Run("ip", "link", "set", "eth0", "down")
	n.neigh.Run("ip", "neigh", "replace", "192.0.2.50", "lladdr", macOf(n.b), "dev", "eth0", "nud", "reachable")
	n.a.Run("ip", "link", "set", "eth0", "up")
	n.follows(aMoment, "the uplink comes up", "192.0.2.50", "02:00:00:00:00:77", nothing)
}

// TestNotifiesPeers: the kernel tells of a bond that fails over and of a virtual
// machine that moved (NETDEV_NOTIFY_PEERS), when it announces its own addresses.
func TestNotifiesPeers(t *testing.T) {
	message := func(name string, event uint32) mdl.Message {
		ae := mdl.NewAttributeEncoder()
		ae.String(unix.IFLA_IFNAME, name)
		if event > 0 {
			ae.Uint32(unix.IFLA_EVENT, event)
		}
		b, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return mdl.Message{Header: mdl.Header{Type: unix.RTM_NEWLINK}, Data: append(make([]byte, unix.SizeofIfInfomsg), b...)}
	}
	s := &scope{uplink: "bond0"}
	for _, c := range []struct {
		name  string
		event uint32
		want  bool
	}{{"bond0", 0, false}, {"bond0", 2, false}, {"bond0", 3, true}, {"bond0", 4, true}, {"eth1", 4, false}} {
		if got := s.notifiesPeers(message(c.name, c.event)); got != c.want {
			t.Errorf("%s, event %d: %t", c.name, c.event, got)
		}
	}
	if (*scope)(nil).notifiesPeers(message("bond0", 4)) || (&scope{}).notifiesPeers(message("", 4)) {
		t.Error("without an uplink")
	}
}
