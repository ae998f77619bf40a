//go:build linux

package guard

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// lab is a host with
//
//	w1, w2, other ── br0 ── host ── natless0 (which nobody reads)
//	alone ─────────── w3 ──┘  └─── eth0 ── net
//
// w1 and w2 are workloads at named ports of a bridge, other is somebody else's
// container there, alone is a workload on a link of its own.
type lab struct {
	t                               testing.TB
	host, w1, w2, other, alone, net *netns.NS
	m                               *Manager
	table                           *mapping.Table
	stop                            func() error
}

const (
	addr1, addr2, addr3 = "2001:db8:6::11", "2001:db8:6::12", "2001:db8:7::11"
	stray1, stray3      = "2001:db8:6::99", "2001:db8:7::99" // without a mapping
	gateway, gatewayLL  = "2001:db8:6::1", "fe80::1"
	remote              = "2001:db8:64::c000:202"
)

func newLab(t testing.TB) *lab {
	t.Helper()
	netns.Require(t, netns.Root, "nft")
	l := &lab{t: t, host: netns.New(t, "host"), w1: netns.New(t, "w1"), w2: netns.New(t, "w2"),
		other: netns.New(t, "other"), alone: netns.New(t, "alone"), net: netns.New(t, "net")}
	l.host.IP("link add br0 type bridge")
	l.host.IP("link set br0 up")
	l.host.IP("addr add " + gateway + "/64 dev br0")
	l.host.IP("addr add " + gatewayLL + "/64 dev br0")
	l.host.IP("addr add 172.17.0.1/16 dev br0")
	for name, ns := range map[string]*netns.NS{"p1": l.w1, "p2": l.w2, "p3": l.other} {
		netns.Veth(t, l.host, name, ns, "eth0")
		l.host.IP("link set " + name + " master br0")
	}
	netns.Veth(t, l.host, "w3", l.alone, "eth0")
	netns.Veth(t, l.host, "eth0", l.net, "eth0")
	l.host.IP("addr add 192.0.2.1/24 dev eth0")
	l.host.IP("route add default via 192.0.2.2")
	l.host.IP("-6 route add " + addr3 + "/128 dev w3")
	l.host.IP("addr add fe80::1/64 dev w3")
	l.w1.IP("addr add " + addr1 + "/64 dev eth0")
	l.w2.IP("addr add " + addr2 + "/64 dev eth0")
	l.host.IP("tuntap add natless0 mode tun")
	l.host.IP("link set natless0 up")
	l.host.IP("-6 route add 2001:db8:64::/96 dev natless0")
	l.host.IP("route add 198.51.100.0/24 dev natless0")
	l.host.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0",
		"net.ipv4.conf.w3.rp_filter=0", "net.ipv4.conf.br0.rp_filter=0")
	return l
}

func workload(addr, v4, iface string) Workload {
	p := netip.MustParseAddr(addr)
	return Workload{Interface: iface, Mapping: mapping.Mapping{
		IPv6: netip.PrefixFrom(p, 128), IPv4: netip.PrefixFrom(netip.MustParseAddr(v4), 32)}}
}

func (l *lab) start() {
	l.t.Helper()
	all := []Workload{workload(addr1, "198.51.100.1", "p1"), workload(addr2, "198.51.100.2", "p2"), workload(addr3, "198.51.100.3", "w3")}
	var err error
	if l.table, err = mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), []mapping.Mapping{all[0].Mapping, all[1].Mapping, all[2].Mapping}); err != nil {
		l.t.Fatal(err)
	}
	l.host.Do(func() {
		l.m, err = New(Config{Device: "natless0", Log: slog.New(slog.DiscardHandler)}, l.table, slices.Values(all))
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go l.host.Do(func() { ended <- l.m.Run(ctx) })
	l.stop = func() error {
		cancel()
		defer func() { l.stop = func() error { return nil } }()
		return <-ended
	}
	l.t.Cleanup(func() { _ = l.stop() })
	select {
	case <-l.m.Ready():
	case <-time.After(10 * time.Second):
		l.t.Fatal("not ready")
	}
}

func (l *lab) counts() map[string]uint64 {
	l.t.Helper()
	var c map[string]uint64
	var err error
	l.host.Do(func() { c, err = Read() })
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) mac(ns *netns.NS, dev string) (mac net.HardwareAddr) {
	l.t.Helper()
	ns.Do(func() {
		if i, err := net.InterfaceByName(dev); err == nil {
			mac = i.HardwareAddr
		}
	})
	if mac == nil {
		l.t.Fatalf("%s has no %s", ns.Name, dev)
	}
	return mac
}

// send puts a frame on eth0 of a namespace.
func (l *lab) send(ns *netns.NS, all ...gopacket.SerializableLayer) {
	l.t.Helper()
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...)
	ns.Do(func() {
		var i *net.Interface
		var fd int
		if err == nil {
			i, err = net.InterfaceByName("eth0")
		}
		if err == nil {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		}
		if err == nil {
			err = unix.Sendto(fd, b.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: i.Index})
			unix.Close(fd)
		}
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

var allNodes = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}

// frames by what they are.

func (l *lab) ether(ns *netns.NS, proto layers.EthernetType) *layers.Ethernet {
	to := l.mac(l.host, "br0")
	if ns == l.alone {
		to = l.mac(l.host, "w3")
	}
	return &layers.Ethernet{SrcMAC: l.mac(ns, "eth0"), DstMAC: to, EthernetType: proto}
}

func header(src, dst string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: next, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func (l *lab) datagram(ns *netns.NS, src, dst string) []gopacket.SerializableLayer {
	ip := header(src, dst, layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: 4000, DstPort: 5000}
	udp.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{l.ether(ns, layers.EthernetTypeIPv6), ip, udp, gopacket.Payload("natless")}
}

func (l *lab) icmp(ns *netns.NS, src, dst string, kind uint8, body []byte) []gopacket.SerializableLayer {
	ip := header(src, dst, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	icmp.SetNetworkLayerForChecksum(ip)
	e := l.ether(ns, layers.EthernetTypeIPv6)
	if strings.HasPrefix(dst, "ff02") {
		e.DstMAC = allNodes
	}
	return []gopacket.SerializableLayer{e, ip, icmp, gopacket.Payload(body)}
}

// unreachable is an error about a packet of addr1's.
func (l *lab) unreachable(ns *netns.NS, src, dst string) []gopacket.SerializableLayer {
	quoted := gopacket.NewSerializeBuffer()
	all := l.datagram(l.w1, dst, addr1)[1:]
	if err := gopacket.SerializeLayers(quoted, gopacket.SerializeOptions{FixLengths: true}, all...); err != nil {
		l.t.Fatal(err)
	}
	return l.icmp(ns, src, dst, layers.ICMPv6TypeDestinationUnreachable, append(make([]byte, 4), quoted.Bytes()...))
}

// claim is a neighbour advertisement, or a solicitation, with a link-layer option.
func (l *lab) claim(ns *netns.NS, kind uint8, src, target string) []gopacket.SerializableLayer {
	body := append([]byte{0x20, 0, 0, 0}, net.ParseIP(target)...) // override
	body = append(append(body, 2, 1), l.mac(ns, "eth0")...)
	return l.icmp(ns, src, "ff02::1", kind, body)
}

func (l *lab) ipv4(ns *netns.NS, src, dst string) []gopacket.SerializableLayer {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
	udp := &layers.UDP{SrcPort: 4000, DstPort: 5000}
	udp.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{l.ether(ns, layers.EthernetTypeIPv4), ip, udp, gopacket.Payload("natless")}
}

func tagged(all []gopacket.SerializableLayer, ids ...uint16) []gopacket.SerializableLayer {
	e := *all[0].(*layers.Ethernet)
	out := []gopacket.SerializableLayer{&e}
	next := e.EthernetType
	e.EthernetType = layers.EthernetTypeDot1Q
	for i, id := range ids {
		t := layers.EthernetTypeDot1Q
		if i == len(ids)-1 {
			t = next
		}
		out = append(out, &layers.Dot1Q{VLANIdentifier: id, Type: t})
	}
	return append(out, all[1:]...)
}

// TestWhoSendsWhat is the table of who may send what where.
func TestWhoSendsWhat(t *testing.T) {
	l := newLab(t)
	l.start()
	type frame = []gopacket.SerializableLayer
	const na, ns, ra, redirected = layers.ICMPv6TypeNeighborAdvertisement, layers.ICMPv6TypeNeighborSolicitation, layers.ICMPv6TypeRouterAdvertisement, layers.ICMPv6TypeRedirect
	for _, c := range []struct {
		what  string
		from  *netns.NS
		frame frame
		cause string // "": it passes
	}{
		{"a datagram of its own", l.w1, l.datagram(l.w1, addr1, remote), ""},
		{"the same on a link of its own", l.alone, l.datagram(l.alone, addr3, remote), ""},
		{"a datagram from the other's address", l.w2, l.datagram(l.w2, addr1, remote), "bridge-source"},
		{"the same to a neighbour", l.w2, l.datagram(l.w2, addr1, addr2), "bridge-source"},
		{"the same by somebody else's container", l.other, l.datagram(l.other, addr1, remote), "bridge-source"},
		{"the same with a priority tag", l.w2, tagged(l.datagram(l.w2, addr1, remote), 0), "bridge-source"},
		{"the same with two", l.w2, tagged(l.datagram(l.w2, addr1, remote), 0, 0), "bridge-tags"},
		{"a datagram from the host's address", l.w2, l.datagram(l.w2, gateway, addr1), "bridge-source"},
		{"an unmapped address, which the translator refuses", l.w2, l.datagram(l.w2, stray1, remote), ""},
		{"an error from its own address", l.w1, l.unreachable(l.w1, addr1, remote), ""},
		{"an error from a link of its own", l.alone, l.unreachable(l.alone, addr3, remote), ""},
		{"an error from another workload, which the translator judges", l.w2, l.unreachable(l.w2, addr2, remote), ""},
		{"an error from an unmapped neighbour", l.w1, l.unreachable(l.w1, stray1, remote), "error-without-mapping"},
		{"an error from somebody else's container", l.other, l.unreachable(l.other, stray1, remote), "error-without-mapping"},
		{"an error from an unmapped address on a link of its own", l.alone, l.unreachable(l.alone, stray3, remote), "error-without-mapping"},
		{"an error that does not go to the translator", l.w1, l.unreachable(l.w1, stray1, gateway), ""},
		{"an advertisement of its own address", l.w1, l.claim(l.w1, na, addr1, addr1), ""},
		{"an advertisement from a link-local address", l.w1, l.claim(l.w1, na, "fe80::5", addr1), ""},
		{"an advertisement of the other's address", l.w2, l.claim(l.w2, na, addr2, addr1), "bridge-neighbour"},
		{"the same from a link-local address", l.w2, l.claim(l.w2, na, "fe80::5", addr1), "bridge-neighbour"},
		{"the same by somebody else's container", l.other, l.claim(l.other, na, "fe80::5", addr1), "bridge-neighbour"},
		{"the same with a priority tag", l.w2, tagged(l.claim(l.w2, na, addr2, addr1), 0), "bridge-neighbour"},
		{"an advertisement of the gateway", l.w2, l.claim(l.w2, na, addr2, gateway), "bridge-neighbour"},
		{"an advertisement of the gateway's link-local address", l.w2, l.claim(l.w2, na, addr2, gatewayLL), "bridge-neighbour"},
		{"an advertisement of an unmapped address", l.w2, l.claim(l.w2, na, addr2, stray1), ""},
		{"a question for the other's address", l.w2, l.claim(l.w2, ns, addr2, addr1), ""},
		{"a question from the other's address", l.w2, l.claim(l.w2, ns, addr1, addr2), "bridge-source"},
		{"the search for duplicates of its own address", l.w1, l.claim(l.w1, ns, "::", addr1), ""},
		{"the search for duplicates of the other's address", l.w2, l.claim(l.w2, ns, "::", addr1), "bridge-neighbour"},
		{"a router advertisement", l.w2, l.icmp(l.w2, "fe80::5", "ff02::1", ra, make([]byte, 12)), "bridge-router"},
		{"a redirect", l.w2, l.icmp(l.w2, gatewayLL, addr1, redirected, make([]byte, 36)), "bridge-router"},
		{"IPv4 with any source", l.alone, l.ipv4(l.alone, "192.0.2.77", "192.0.2.2"), "ipv4-at-workload"},
		{"IPv4 on the bridge with any source", l.w1, l.ipv4(l.w1, "192.0.2.77", "192.0.2.2"), "ipv4-at-workload"},
		{"IPv4 with a workload's source", l.w1, l.ipv4(l.w1, "198.51.100.1", "192.0.2.2"), "ipv4-at-workload"},
		{"IPv4 of somebody else's container", l.other, l.ipv4(l.other, "172.17.0.5", "192.0.2.2"), ""},
	} {
		before := l.counts()
		l.send(c.from, c.frame...)
		after := l.counts() // the frame went through the kernel while it was sent
		for cause := range before {
			want := uint64(0)
			if cause == c.cause {
				want = 1
			}
			if got := after[cause] - before[cause]; got != want {
				t.Errorf("%s: %d dropped by %s, want %d", c.what, got, cause, want)
			}
		}
		if len(before) != 6 {
			t.Fatalf("causes: %v", before)
		}
	}
	if t.Failed() {
		t.Log(l.host.Run("nft", "list", "ruleset"))
	}
	if err := l.stop(); err != nil {
		t.Error(err)
	}
	if left := l.host.Run("nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestHijack: without the guard an advertisement brings another's datagrams; with
// it they stay where they belong.
func TestHijack(t *testing.T) {
	l := newLab(t)
	received := func(ns *netns.NS) *net.UDPConn {
		var c *net.UDPConn
		var err error
		ns.Do(func() { c, err = net.ListenUDP("udp6", &net.UDPAddr{Port: 5000}) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	one, two := received(l.w1), received(l.w2)
	l.w2.IP("addr add " + addr1 + "/128 dev eth0")
	// send says who receives what the host sends to addr1 after w2 claimed it.
	send := func() string {
		l.host.Run("ping", "-6", "-c", "1", "-W", "2", addr1)
		l.send(l.w2, l.claim(l.w2, layers.ICMPv6TypeNeighborAdvertisement, addr2, addr1)...)
		l.host.Do(func() {
			if c, err := net.Dial("udp6", "["+addr1+"]:5000"); err == nil {
				c.Write([]byte("secret"))
				c.Close()
			}
		})
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			for who, c := range map[string]*net.UDPConn{"one": one, "two": two} {
				c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				if n, err := c.Read(make([]byte, 10)); n == 6 && err == nil {
					return who
				}
			}
		}
		return "nobody"
	}
	l.host.IP("-6 neigh flush all")
	if got := send(); got != "two" {
		t.Fatalf("without the guard the attack must succeed, or this test proves nothing; received by %s", got)
	}
	l.start()
	l.host.IP("-6 neigh flush all")
	for range 3 {
		if got := send(); got != "one" {
			t.Errorf("with the guard, received by %s", got)
		}
	}
}

// TestFollows: workloads come and go, move to another port, and somebody takes
// our rules away.
func TestFollows(t *testing.T) {
	l := newLab(t)
	l.start()
	has := func(set, what string) bool {
		out, err := l.host.Command("nft", "list", "set", set[:strings.Index(set, " ")], tableName, set[strings.Index(set, " ")+1:]).CombinedOutput()
		return err == nil && strings.Contains(string(out), what)
	}
	within := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not: %s\n%s", what, l.host.Run("nft", "list", "ruleset"))
			}
		}
	}
	w := workload("2001:db8:6::13", "198.51.100.13", "p3")
	table, err := l.table.Insert(w.Mapping)
	l.m.looking.Lock() // a look at the host is under way, and may take long: nobody who comes waits for it
	if err == nil {
		err = l.m.Put(table, w)
	}
	l.m.looking.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if !has("bridge at", "2001:db8:6::13") || !has("inet sources", "2001:db8:6::13") {
		t.Error("a new workload is not policed when Put returns")
	}
	l.m.mu.Lock()
	looks := l.m.audits
	l.m.mu.Unlock()
	l.m.Delete(l.table, w)
	within("a workload that has gone is forgotten", func() bool {
		return !has("bridge theirs", "2001:db8:6::13") && !has("inet sources", "2001:db8:6::13")
	})
	time.Sleep(100 * time.Millisecond)
	l.m.mu.Lock()
	if l.m.audits != looks {
		t.Errorf("it looked at its tables %d times for what it removed itself", l.m.audits-looks)
	}
	l.m.mu.Unlock()
	netns.Veth(t, l.host, "late", netns.New(t, "late"), "eth0")
	before := strings.Count(l.host.Run("nft", "list", "set", "bridge", tableName, watchedSet), "\"")
	l.host.IP("link set late master br0")
	within("a new port is watched", func() bool {
		return strings.Count(l.host.Run("nft", "list", "set", "bridge", tableName, watchedSet), "\"") > before
	})
	for _, c := range []string{"flush ruleset", "flush chain bridge natless-guard claim", "flush set bridge natless-guard at",
		"delete table inet natless-guard", "add rule inet natless-guard guard counter"} {
		l.host.Run("nft", strings.Fields(c)...)
		if strings.HasPrefix(c, "add") { // nobody is told of that; the next look mends it
			l.host.IP("link set late down")
			l.host.Run("nft", "flush", "set", "inet", tableName, sourcesSet)
		}
		within("all is back after "+c, func() bool {
			return has("bridge at", addr1) && has("inet sources", addr1) && maps.Equal(l.counts(), map[string]uint64{
				"ipv4-at-workload": 0, "error-without-mapping": 0, "bridge-source": 0, "bridge-neighbour": 0, "bridge-router": 0, "bridge-tags": 0}) &&
				strings.Count(l.host.Run("nft", "list", "table", "bridge", tableName), "comment") == 15 &&
				strings.Count(l.host.Run("nft", "list", "table", "inet", tableName), "counter") == 2
		})
	}
	if said := l.m.Lacking(); len(said) != 0 {
		t.Errorf("lacking: %q", said)
	}
	commit, err := l.m.Plan(l.table)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.m.Put(table, w); err != nil { // it came while another table was planned
		t.Fatal(err)
	}
	if err := commit(table, w); err != nil {
		t.Fatal(err)
	}
	if !has("bridge at", "2001:db8:6::13") {
		t.Error("who came while another table was planned is not policed")
	}
	l.m.Delete(l.table, w)
	l.m.names.Lock()
	clear(l.m.named)
	l.m.names.Unlock()
	if commit, err = l.m.Plan(l.table); err == nil {
		err = commit(l.table)
	}
	if err != nil {
		t.Fatal(err)
	}
	if said := l.m.Lacking(); len(said) != 1 || !strings.Contains(said[0], "2 workloads are at ports of bridge br0 that nobody named") {
		t.Errorf("without names it says %q", said)
	}
}
