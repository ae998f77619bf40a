package route

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// sendPatience bounds how long a full queue of the link holds up announcements.
const sendPatience = 100 * time.Millisecond

// linkSocket sends ARP and neighbour discovery on any link of the network
// namespace in which it was opened. It is opened once, since that takes
// CAP_NET_RAW, and bound to no interface, since those come and go; it receives
// nothing. (mdlayher/packet binds.)
type linkSocket struct{ conn *socket.Conn }

func openLinkSocket() (*linkSocket, error) {
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, "packet", nil)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return &linkSocket{conn}, nil
}

func (s *linkSocket) close() error { return s.conn.Close() }

// announce tells all hosts on a link that an address is at the link's MAC address.
func (s *linkSocket) announce(l uplinkLink, addr netip.Addr) error {
	to := &unix.SockaddrLinklayer{Ifindex: l.index, Halen: 6}
	var packet []byte
	if addr.Is4() {
		to.Protocol = networkOrder(unix.ETH_P_ARP)
		copy(to.Addr[:], header.EthernetBroadcastAddress)
		packet = arpAnnouncement(l.mac, addr)
	} else {
		if !l.source6.IsValid() {
			return nil // follow announces it when there is one
		}
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
		copy(to.Addr[:], header.EthernetAddressFromMulticastIPv6Address(header.IPv6AllNodesMulticastAddress))
		packet = advertisement(l, addr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendPatience)
	defer cancel()
	return s.conn.Sendto(ctx, packet, 0, to)
}

// networkOrder is how sockaddr_ll wants a protocol.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// arpAnnouncement is an ARP request for an address, from it (RFC 5227 2.3).
func arpAnnouncement(mac [6]byte, addr netip.Addr) []byte {
	arp := header.ARP(make([]byte, header.ARPSize))
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), mac[:])
	copy(arp.ProtocolAddressSender(), addr.AsSlice())
	copy(arp.ProtocolAddressTarget(), addr.AsSlice())
	return arp
}

// advertisement is an unsolicited neighbour advertisement (RFC 4861 4.4, 7.2.6).
// It overrides what neighbours have, although we answer for another: there is no
// owner on the link that should come before us (7.2.8).
func advertisement(l uplinkLink, addr netip.Addr) []byte {
	options := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(l.mac[:])}
	length := header.ICMPv6NeighborAdvertMinimumSize + options.Length()
	b := make([]byte, header.IPv6MinimumSize+length)
	src, dst := tcpip.AddrFrom16(l.source6.As16()), header.IPv6AllNodesMulticastAddress
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(length), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: header.NDPHopLimit, SrcAddr: src, DstAddr: dst,
	})
	icmp := header.ICMPv6(b[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetTargetAddress(tcpip.AddrFrom16(addr.As16()))
	na.SetOverrideFlag(true)
	na.Options().Serialize(options)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	return b
}
