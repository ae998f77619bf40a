package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/internal/nftsocket"
)

const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h

// linuxKernel is the kernel of the network namespace in which it was opened;
// it must be used on a thread in that namespace, since /proc/sys depends on it.
type linuxKernel struct {
	device  string
	sysctls string // where they are written
	index   int    // of the device at the last observation
	hops    *hops
	handle  *netlink.Handle
	nft     *nftsocket.Conn
	tables  map[nftTable]nftDef // how to make what was desired at the last observation
	dump    *netlink.Handle     // strict: the kernel filters routes, not we
	conn    *mdl.Conn           // for what the handle cannot say: protocols of neighbours
}

func openKernel(device, sysctlDir string) (*linuxKernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	dump, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	_ = dump.SetStrictCheck(true) // Linux 4.20; without it the library filters
	conn, err := mdl.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		handle.Close()
		dump.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	_ = conn.SetOption(mdl.ExtendedAcknowledge, true) // better messages; not worth failing for
	nft, err := nftsocket.Open()
	if err != nil {
		handle.Close()
		dump.Close()
		conn.Close()
		return nil, err
	}
	all := new(hops)
	all.stale.Store(true)
	return &linuxKernel{hops: all, device: device, sysctls: sysctlDir, handle: handle, dump: dump, conn: conn, nft: nft}, nil
}

func (k *linuxKernel) close() error {
	k.handle.Close()
	k.dump.Close()
	k.nft.Close()
	return k.conn.Close()
}

func (k *linuxKernel) observe(d Desired) (*observed, error) {
	o := &observed{have: state{}}
	for _, read := range []func(Desired, *observed) error{k.readLinks, k.readRoutes, k.readRules, k.readTables} {
		if err := read(d, o); err != nil {
			return nil, err
		}
	}
	proxies, err := k.proxies()
	for _, p := range proxies {
		o.have.add(p)
	}
	return o, err
}

func (k *linuxKernel) readLinks(d Desired, o *observed) error {
	rpFilter := k.sysctl(rpFilterAll)
	o.rpFilter = rpFilter != "" && rpFilter != "0"
	links, err := dump.Whole(k.handle.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	addrs6, err := dump.Whole(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	ipv4 := map[int]bool{}
	for _, a := range addrs {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			ipv4[a.LinkIndex] = true
		}
		o.owned = o.owned || fromIPNet(a.IPNet).Addr() == d.HostPool.Addr
	}
	k.index = 0
	names := make(map[int]string, len(links))
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		if a.Name == d.Uplink {
			o.uplink = primary(addrs, a.Index)
			readUplink(a, addrs6, o)
		}
		o.ifaces = append(o.ifaces, iface{name: a.Name, index: a.Index, ipv4: ipv4[a.Index]})
		if a.Name == k.device {
			o.device = a.Index
			k.index = a.Index
			o.have.add(link{up: a.Flags&net.FlagUp != 0, mtu: a.MTU, txQueueLen: a.TxQLen})
		}
	}
	return k.readTaken(names, addrs, addrs6, o)
}

// primary is the address that the kernel prefers as a source on an interface.
func primary(addrs []netlink.Addr, index int) netip.Addr {
	for _, a := range addrs {
		if a.LinkIndex == index && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unix.IFA_F_SECONDARY == 0 {
			return fromIPNet(a.IPNet).Addr()
		}
	}
	return netip.Addr{}
}

// UplinkAddr is the host's own IPv4 address on an interface.
func UplinkAddr(name string) (netip.Addr, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("uplink %s: %w", name, err)
	}
	if bridge := bridgeOf(l); bridge != nil {
		l = bridge
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, unix.AF_INET) })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("uplink %s: %w", name, err)
	}
	a := primary(addrs, l.Attrs().Index)
	if !a.IsValid() {
		return a, fmt.Errorf("uplink %s: has no IPv4 address", name)
	}
	return a, nil
}

func (k *linuxKernel) readRoutes(_ Desired, o *observed) error {
	if o.device == 0 {
		return nil
	}
	filter := &netlink.Route{LinkIndex: o.device, Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC}
	const mask = netlink.RT_FILTER_OIF | netlink.RT_FILTER_PROTOCOL | netlink.RT_FILTER_TABLE
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Whole(func() ([]netlink.Route, error) {
			return k.dump.RouteListFiltered(family, filter, mask)
		})
		if errors.Is(err, unix.ENODEV) { // it has gone meanwhile, and its routes with it
			return nil
		}
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			o.have.add(fromRoute(family, r))
		}
	}
	return nil
}

func fromRoute(family int, r netlink.Route) route {
	out := route{dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), table: r.Table, metric: r.Priority}
	if family == unix.AF_INET6 && out.metric == defaultMetric6 {
		out.metric = 0
	}
	if family == unix.AF_INET {
		out.dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	if r.Dst != nil {
		out.dst = fromIPNet(r.Dst)
	}
	if out.table == unix.RT_TABLE_MAIN {
		out.table = 0
	}
	return out
}

func fromIPNet(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (k *linuxKernel) apply(c change) error {
	var err error
	switch o := c.object.(type) {
	case sysctl:
		err = k.writeSysctl(o)
	case link:
		err = k.setLink(o)
	case route:
		err = k.changeRoute(c.remove, o)
	case proxy:
		err = k.changeProxy(c.remove, o)
	case nftTable:
		err = k.changeTable(c.remove, o)
	case nftContent:
		err = k.changeContent(o)
	case rule:
		err = k.changeRule(c.remove, o.netlink())
	case kernelLocalRule:
		err = k.changeRule(c.remove, o.netlink())
	case localBehind:
		err = k.copyZeroRules()
	case spareRules:
		err = k.removeSpareRules()
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	return nil
}

func (k *linuxKernel) setLink(want link) error {
	l, err := k.handle.LinkByName(k.device)
	if err != nil {
		return err
	}
	a := l.Attrs()
	if a.MTU != want.mtu {
		err = k.handle.LinkSetMTU(l, want.mtu)
	}
	if err == nil && a.TxQLen != want.txQueueLen {
		err = k.handle.LinkSetTxQLen(l, want.txQueueLen)
	}
	if err == nil && a.Flags&net.FlagUp == 0 {
		// No link-local address: nobody is there to talk to. A kernel that
		// cannot leave it away only sends some packets that are dropped.
		_ = k.handle.LinkSetIP6AddrGenMode(l, addrGenModeNone)
		err = k.handle.LinkSetUp(l)
	}
	return err
}

func (k *linuxKernel) changeRoute(remove bool, r route) error {
	nr := &netlink.Route{
		LinkIndex: k.index, Dst: toIPNet(r.dst), Protocol: Protocol, Table: r.table, Priority: r.metric,
		Scope: unix.RT_SCOPE_LINK,
	}
	if r.dst.Addr().Is6() {
		nr.Scope = unix.RT_SCOPE_UNIVERSE
	}
	if remove {
		return ignore(k.handle.RouteDel(nr), unix.ESRCH, unix.ENODEV)
	}
	// RouteAdd, not RouteReplace: that would silently take over a route of
	// somebody else, the host's own to its link perhaps.
	err := k.handle.RouteAdd(nr)
	if errors.Is(err, unix.EEXIST) && !k.hasRoute(nr) {
		return fmt.Errorf("%w (ip route show %v)", errTaken, r.dst)
	}
	return ignore(err, unix.EEXIST)
}

// hasRoute reports whether an equal route of ours exists.
func (k *linuxKernel) hasRoute(r *netlink.Route) bool {
	o := &observed{facts: facts{device: r.LinkIndex}, have: state{}}
	err := k.readRoutes(Desired{}, o)
	return err == nil && o.have[route{dst: fromIPNet(r.Dst), table: r.Table, metric: r.Priority}]
}

// errTaken is about a route that is somebody else's.
var errTaken = errors.New("somebody else has such a route")

func ignore(err error, errnos ...unix.Errno) error {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func (k *linuxKernel) sysctl(key string) string {
	value, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// writeSysctl writes where the manager was told to; what is read is the same
// everywhere.
func (k *linuxKernel) writeSysctl(s sysctl) error {
	// A line even when it is empty: an empty write would change nothing.
	return os.WriteFile(filepath.Join(k.sysctls, s.key), []byte(s.value+"\n"), 0)
}
