//go:build linux

package wiring

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/iprule"
	"github.com/natless/natless/translator/ports"
)

const mainTable, localTable = unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL

var protocols = []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP}

var protocolNames = map[int]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}

// address is a /32: nothing else of IPv4 is on the link.
type address struct {
	iface string
	addr  netip.Addr
}

func (a address) String() string { return fmt.Sprintf("address %v/32 on %s", a.addr, a.iface) }
func (address) rank() int        { return 0 }

func (a address) link() (netlink.Link, *netlink.Addr, error) {
	l, err := netlink.LinkByName(a.iface)
	return l, &netlink.Addr{IPNet: single(a.addr)}, err
}

func (a address) add() error {
	l, addr, err := a.link()
	if err == nil {
		err = netlink.AddrAdd(l, addr)
	}
	return unless(err, unix.EEXIST)
}

func (a address) remove() error {
	l, addr, err := a.link()
	if err == nil {
		err = netlink.AddrDel(l, addr)
	}
	return unless(err, unix.EADDRNOTAVAIL)
}

func (a address) there() (bool, error) {
	all, err := addresses(a.iface)
	for _, p := range all {
		if p == netip.PrefixFrom(a.addr, 32) {
			return true, err
		}
	}
	return false, err
}

// route is the default route by an IPv6 next hop (RTA_VIA, Linux 5.2).
type route struct {
	iface    string
	via, src netip.Addr
	table    int
}

func (r route) String() string {
	s := fmt.Sprintf("route default via inet6 %v dev %s src %v", r.via, r.iface, r.src)
	if r.table != mainTable {
		s += fmt.Sprintf(" table %d", r.table)
	}
	return s
}

func (route) rank() int { return 1 }

func (r route) netlink() (*netlink.Route, error) {
	l, err := netlink.LinkByName(r.iface)
	if err != nil {
		return nil, err
	}
	return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Table: r.table,
		Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: r.via.AsSlice()}, Src: r.src.AsSlice(), Protocol: own,
		Flags: int(netlink.FLAG_ONLINK)}, nil // the gateway is who the IPv6 default route says
}

func (r route) add() error {
	n, err := r.netlink()
	if err == nil {
		err = netlink.RouteAdd(n)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: is this kernel older than Linux 5.2, or without IPv4?", err)
	}
	return err
}

func (r route) remove() error {
	n, err := r.netlink()
	if err == nil {
		err = netlink.RouteDel(n)
	}
	return unless(err, unix.ESRCH)
}

// unreachable closes the translation prefix: a workload has one of both ways, and
// software that knows both families goes on with IPv4 at once.
type unreachable struct{ prefix netip.Prefix }

func (u unreachable) String() string { return fmt.Sprintf("route unreachable %v", u.prefix.Masked()) }
func (unreachable) rank() int        { return 2 }

// closed is the metric of the route: more than it has by other ways, so that it goes
// before another to the same prefix.
const closed = 1

func (u unreachable) netlink() *netlink.Route {
	p := u.prefix.Masked()
	return &netlink.Route{Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}, Type: unix.RTN_UNREACHABLE,
		Protocol: own, Priority: closed}
}

func (u unreachable) add() error    { return netlink.RouteAdd(u.netlink()) }
func (u unreachable) remove() error { return unless(netlink.RouteDel(u.netlink()), unix.ESRCH) }

// rule is a policy rule. There is none for ICMP: what the kernel looks up for it has
// type and code where ports are (struct flowi), and a ping of the address is for
// whoever answers there.
type rule struct {
	pref  int
	to    netip.Addr // invalid: all
	iif   string     // "lo" is what the container itself sends
	proto int
	ports ports.Range
	table int
}

func (r rule) String() string {
	s := fmt.Sprintf("rule %d", r.pref)
	if r.to.IsValid() {
		s += fmt.Sprintf(" to %v iif %s", r.to, r.iif)
	}
	if r.proto != 0 {
		s += fmt.Sprintf(" %s dport %v", protocolNames[r.proto], r.ports)
	}
	if r.table == localTable {
		return s + " lookup local"
	}
	return fmt.Sprintf("%s lookup %d", s, r.table)
}

func (rule) rank() int { return 3 }

func (r rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Protocol, n.IifName, n.IPProto = unix.AF_INET, r.pref, r.table, own, r.iif, r.proto
	if r.to.IsValid() {
		n.Dst = single(r.to)
	}
	if r.proto != 0 {
		n.Dport = netlink.NewRulePortRange(r.ports.First, r.ports.Last)
	}
	return n
}

func (r rule) add() error    { return changeRule(iprule.Add, r.netlink(), unix.EEXIST) }
func (r rule) remove() error { return changeRule(iprule.Delete, r.netlink(), unix.ENOENT) }

// changeRule changes a rule in the namespace of this thread, unless it is so already.
func changeRule(change func(*mdl.Conn, *netlink.Rule) error, r *netlink.Rule, already error) error {
	conn, err := mdl.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	return unless(change(conn, r), already)
}

// noKernelRule is that the kernel's own rule 0, which looks up the local table before
// all others, is gone: prefLocal stands for it.
type noKernelRule struct{}

func (noKernelRule) String() string { return "no rule 0 lookup local" }
func (noKernelRule) rank() int      { return 4 }

func kernelRule() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Protocol = unix.AF_INET, 0, localTable, unix.RTPROT_KERNEL
	return n
}

func (noKernelRule) add() error {
	n := kernelRule()
	n.Protocol = 0 // whoever made it
	return changeRule(iprule.Delete, n, unix.ENOENT)
}

func (noKernelRule) remove() error { return changeRule(iprule.Add, kernelRule(), unix.EEXIST) }

func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// addresses are the interface's of IPv4.
func addresses(iface string) (all []netip.Prefix, err error) {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, err
	}
	list, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, unix.AF_INET) })
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP.To4())
		if bits, _ := a.Mask.Size(); ok {
			all = append(all, netip.PrefixFrom(addr, bits))
		}
	}
	return all, err
}
