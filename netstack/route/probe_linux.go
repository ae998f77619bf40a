package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/socket"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/netstack/dump"
)

const (
	probeApart = time.Millisecond       // between two addresses
	probeWait  = 150 * time.Millisecond // after each round
)

// ErrNoARP is about a link that has none.
var ErrNoARP = errors.New("no ARP there")

// Probe asks the hosts on an interface's link for IPv4 addresses that should be
// nobody's but ours, as RFC 5227 2.1.1 does before an address is used, and gives
// the MAC addresses of those that answer. It asks once from 0.0.0.0, as a probe
// does, and once from the host's own address, if it has one there: a Linux host
// that answers for others, as natless has it do, does not answer probes. It takes
// CAP_NET_RAW.
func Probe(ctx context.Context, iface string, addrs []netip.Addr) (map[netip.Addr]string, error) {
	links, err := dump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == iface })
	if i < 0 {
		return nil, fmt.Errorf("%s: %w", iface, unix.ENODEV)
	}
	o := new(observed)
	readUplink(links[i].Attrs(), nil, o)
	up := o.link
	if !up.up {
		return nil, fmt.Errorf("%s: %w", iface, ErrNoARP)
	}
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(unix.ETH_P_ARP)), "packet", nil)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	defer conn.Close()
	if err := conn.Bind(&unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: up.index}); err != nil {
		return nil, fmt.Errorf("%s: %w", iface, err)
	}
	p := prober{conn: conn, link: up, addrs: addrs, found: map[netip.Addr]string{}}
	for _, l := range links {
		p.own = append(p.own, l.Attrs().HardwareAddr.String())
	}
	from := []netip.Addr{netip.IPv4Unspecified()}
	if own, err := UplinkAddr(iface); err == nil {
		from = append(from, own)
	}
	for _, a := range from {
		if err := p.round(ctx, a); err != nil {
			return nil, fmt.Errorf("%s: %w", iface, err)
		}
	}
	return p.found, nil
}

type prober struct {
	conn  *socket.Conn
	link  uplinkLink
	addrs []netip.Addr
	own   []string // MAC addresses of this host
	found map[netip.Addr]string
}

func (p *prober) round(ctx context.Context, from netip.Addr) error {
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: p.link.index, Halen: 6}
	copy(to.Addr[:], header.EthernetBroadcastAddress)
	for _, a := range p.addrs {
		arp := header.ARP(arpAnnouncement(p.link.mac, a))
		copy(arp.ProtocolAddressSender(), from.AsSlice())
		if err := p.conn.Sendto(ctx, arp, 0, to); err != nil {
			return err
		}
		if err := p.listen(ctx, probeApart); err != nil {
			return err
		}
	}
	return p.listen(ctx, probeWait)
}

// listen notes who answers for a while. The while is the context's: the socket takes
// a deadline of the context for its own.
func (p *prober) listen(ctx context.Context, d time.Duration) error {
	own, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	b := make([]byte, 256)
	for {
		n, _, err := p.conn.Recvfrom(own, b, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		arp := header.ARP(b[:n])
		if !arp.IsValid() {
			continue
		}
		a, _ := netip.AddrFromSlice(arp.ProtocolAddressSender())
		mac := net.HardwareAddr(arp.HardwareAddressSender()).String()
		if slices.Contains(p.addrs, a) && !slices.Contains(p.own, mac) {
			p.found[a] = mac
		}
	}
}
