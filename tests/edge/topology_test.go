//go:build linux

// Package edge holds IPv6-only hosts at the edge of a fabric against relays and an IPv4
// server. What one host can prove alone may not enter here.
package edge

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	server4, server6 = "192.0.2.99", "64:ff9b:1::192.0.2.99"
	shared4, third4  = "203.0.113.1", "203.0.113.5" // of one and two; of three
)

// blocks6 are the hosts' addresses on the fabric, of 203.0.113.0/30 and of 203.0.113.4/30.
var blocks6 = [2]string{"2001:db8:e0:f::100/126", "2001:db8:e1:1::cb00:7104/126"}

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// fleet is
//
//	one ─┐                   ┌─ relay 0 ─┐
//	two ─┴─ host 0 ──┐       │           │
//	                 ├─ fab ─┤           ├─ up ── server
//	three ─ host 1 ──┘       └─ relay 1 ─┘
//
// where the links of fab have an MTU of 1280 and no IPv4, and those on the right no IPv6.
// Host 0 has been told the MTU, and its addresses lie on the link; host 1 has not been, and
// a fleet lends it its block while it runs. One and two share an address.
type fleet struct {
	t                                testing.TB
	path                             string // fast_path of the hosts
	one, two, three, fab, up, server *netns.NS
	hosts, relays                    [2]*netns.NS
	edges, daemons                   [2]*daemon.Daemon // of these
}

const hostConfig = `
fast_path: %s
prefix: 64:ff9b:1::/96
addresses: {ipv4: 192.0.0.8, ipv6: "2001:db8:e%d::1"}
pools: [{name: lent, %s, ports_per_workload: 4096, reserved_ports: 0-1023}]
edge: {enabled: true, prefix: "2001:db8:f64::/96", %s}
flows: {enabled: true}
metrics: {listen: "[::1]:9464"}
`

const relayConfig = `
uplinks: [up]
fabric: [fab]
prefix: 2001:db8:f64::/96
addresses: {ipv4: 198.51.100.%[1]d, ipv6: "2001:db8:f0:%[1]d::1"}
mtu: {ipv6: 1280}
relay: {ipv4: [203.0.113.0/24]}
metrics: {listen: "[::1]:9464"}
`

func newFleet(t *testing.T, path string) *fleet {
	t.Helper()
	f := &fleet{t: t, path: path}
	for name, ns := range map[string]**netns.NS{"one": &f.one, "two": &f.two, "three": &f.three, "fab": &f.fab, "up": &f.up, "server": &f.server,
		"host0": &f.hosts[0], "host1": &f.hosts[1], "relay0": &f.relays[0], "relay1": &f.relays[1]} {
		*ns = netns.New(t, name)
	}
	for _, r := range []*netns.NS{f.fab, f.up} {
		r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1",
			"net.ipv6.fib_multipath_hash_policy=1")
	}
	f.link(f.server, "eth0", f.up, "server", "192.0.2.99/24", "192.0.2.1/24", 1500)
	f.server.IP("route add default via 192.0.2.1")
	for i := range 2 {
		f.link(f.relays[i], "fab", f.fab, fmt.Sprintf("relay%d", i), fmt.Sprintf("2001:db8:f%d::1/64", i), fmt.Sprintf("2001:db8:f%d::2/64", i), 1280)
		f.link(f.relays[i], "up", f.up, fmt.Sprintf("relay%d", i), fmt.Sprintf("10.0.%d.1/24", i), fmt.Sprintf("10.0.%d.2/24", i), 1500)
		f.relays[i].IP(fmt.Sprintf("-6 route add default via 2001:db8:f%d::2", i))
		f.relays[i].IP(fmt.Sprintf("route add default via 10.0.%d.2", i))
		f.link(f.hosts[i], "fab", f.fab, fmt.Sprintf("host%d", i), fmt.Sprintf("2001:db8:e%d:f::1/64", i), fmt.Sprintf("2001:db8:e%d:f::2/64", i), 1280)
		f.hosts[i].IP(fmt.Sprintf("-6 route add default via 2001:db8:e%d:f::2", i))
		f.fab.IP(fmt.Sprintf("-6 route add 2001:db8:e%d::/48 via 2001:db8:e%d:f::1", i, i))
	}
	f.ways(0, 1)
	for i := range 2 {
		f.daemons[i] = daemon.Start(t, f.relays[i], fmt.Sprintf(relayConfig, i+1))
		f.edges[i] = daemon.Start(t, f.hosts[i], f.config(i, blocks6))
	}
	f.tell(1, blocks6)
	lent := api.BlockSet{Epoch: 1, Blocks: []api.Block{{IPv4: netip.MustParsePrefix("203.0.113.4/30"), Pool: "lent", Lease: 1}}}
	if got, err := f.edges[1].Client().PutBlocks(t.Context(), lent); err != nil || got.EdgeHost.String() != "2001:db8:e1:1::/96" {
		t.Fatalf("%+v, %v", got, err)
	}
	f.workload(f.one, 0, "one", "2001:db8:a::1", shared4, 8080)
	f.workload(f.two, 0, "two", "2001:db8:a::2", shared4, 8081)
	f.workload(f.three, 1, "three", "2001:db8:b::3", third4, 8080)
	return f
}

func (f *fleet) link(a *netns.NS, nameA string, b *netns.NS, nameB, addrA, addrB string, mtu int) {
	f.t.Helper()
	netns.Veth(f.t, a, nameA, b, nameB)
	a.IP("addr add " + addrA + " dev " + nameA + nodad(addrA))
	b.IP("addr add " + addrB + " dev " + nameB + nodad(addrB))
	a.IP(fmt.Sprintf("link set dev %s mtu %d", nameA, mtu))
	b.IP(fmt.Sprintf("link set dev %s mtu %d", nameB, mtu))
}

func nodad(prefix string) string {
	if netip.MustParsePrefix(prefix).Addr().Is6() {
		return " nodad"
	}
	return ""
}

// ways has both routers send by these relays.
func (f *fleet) ways(relays ...int) {
	f.t.Helper()
	six, four := "-6 route replace 2001:db8:f64::/96", "route replace 203.0.113.0/24"
	for _, i := range relays {
		six += fmt.Sprintf(" nexthop via 2001:db8:f%d::1", i)
		four += fmt.Sprintf(" nexthop via 10.0.%d.1", i)
	}
	f.fab.Command("ip", "-6", "route", "flush", "2001:db8:f64::/96").Run() // IPv6 appends ways
	f.fab.IP(six)
	f.up.IP(four)
}

// config is that of a host, whose addresses on the fabric these are.
func (f *fleet) config(host int, at [2]string) string {
	if host == 0 {
		return "uplink: fab" + fmt.Sprintf(hostConfig, f.path, host, "ipv4: 203.0.113.0/30", "mtu: 1280, blocks: [{ipv4: 203.0.113.0/30, ipv6: \""+at[0]+"\"}]")
	}
	all := netip.PrefixFrom(netip.MustParsePrefix(at[1]).Addr(), 96).Masked()
	return fmt.Sprintf(hostConfig, f.path, host, "from: fleet", "host: \""+all.String()+"\"")
}

// tell tells the relays which blocks the hosts were lent, and by which addresses they have them.
func (f *fleet) tell(epoch uint64, at [2]string) {
	f.t.Helper()
	rules := []api.Rule{
		{IPv4: netip.MustParsePrefix("203.0.113.0/30"), IPv6: netip.MustParsePrefix(at[0]), Lease: epoch},
		{IPv4: netip.MustParsePrefix("203.0.113.4/30"), IPv6: netip.MustParsePrefix(at[1]), Lease: epoch},
	}
	for i, d := range f.daemons {
		if got, err := d.Client().PutRules(f.t.Context(), api.RuleSet{Epoch: epoch, Rules: rules}); err != nil || got.State != api.RelayServes {
			f.t.Fatalf("relay %d: %+v, %v", i, got, err)
		}
	}
}

// workload makes one of a host, which gets a share of an address and a published port.
func (f *fleet) workload(ns *netns.NS, host int, name, addr, address string, published uint16) {
	f.t.Helper()
	netns.Veth(f.t, ns, "eth0", f.hosts[host], name)
	ns.IP("addr add " + addr + "/128 dev eth0 nodad")
	f.hosts[host].IP("addr add fe80::1/64 dev " + name + " nodad")
	f.hosts[host].IP("-6 route add " + addr + "/128 dev " + name)
	ns.IP("-6 route add default via fe80::1 dev eth0")
	got, err := f.edges[host].Client().Put(f.t.Context(), api.Key{ContainerID: name, Interface: "eth0"}, api.Request{
		Name: name, IPv6: []netip.Addr{netip.MustParseAddr(addr)}, HostInterface: name, Address: netip.MustParseAddr(address), ExtraPorts: []uint16{published}})
	if err != nil {
		f.t.Fatal(err)
	}
	run := got.Ports.Longest()
	ns.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", run.First, run.Last))
}
