package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const nic tcpip.NICID = 1

// backlog bounds connections that nobody has accepted yet; beyond it gVisor
// answers with SYN cookies.
const backlog = 128

// newStack makes a host with the valid ones of addrs, a default route in both
// families, and little memory for each connection.
func newStack(link stack.LinkEndpoint, addrs []netip.Addr) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 32 << 10, Max: 64 << 10}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 32 << 10, Max: 64 << 10}
	timeWait := tcpip.TCPTimeWaitTimeoutOption(5 * time.Second)
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send, &timeWait} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("%T: %s", o, err)
		}
	}
	if err := s.CreateNIC(nic, link); err != nil {
		return nil, errors.New(err.String())
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		p := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := s.AddProtocolAddress(nic, p, stack.AddressProperties{}); err != nil {
			return nil, fmt.Errorf("address %s: %s", a, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	return s, nil
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func fullAddress(a netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.AsSlice()), Port: port}
}

func (s *Stack) listenTCP(a netip.Addr, port uint16) (net.Listener, error) {
	var queue waiter.Queue
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(a), &queue)
	if err != nil {
		return nil, fmt.Errorf("tcp %s: %s", a, err)
	}
	if err = ep.Bind(fullAddress(a, port)); err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		ep.Close()
		return nil, fmt.Errorf("tcp %s: %s", netip.AddrPortFrom(a, port), err)
	}
	return gonet.NewTCPListener(s.stack, &queue, ep), nil
}

func (s *Stack) listenUDP(a netip.Addr, port uint16) (net.PacketConn, error) {
	at := fullAddress(a, port)
	conn, err := gonet.DialUDP(s.stack, &at, nil, protocolOf(a))
	if err != nil {
		return nil, fmt.Errorf("udp %s: %w", netip.AddrPortFrom(a, port), err)
	}
	return conn, nil
}
