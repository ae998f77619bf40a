// Package host makes gVisor hosts: an IP stack on one link, with the few things
// that programs do with a network, in the standard library's terms. The local
// stack, the demo and tests are made of them. Translation may not enter here.
package host

import (
	"bytes"
	"context"
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

// NIC is the one link that a host has.
const NIC tcpip.NICID = 1

// backlog bounds connections that nobody has accepted yet; beyond it gVisor
// answers with SYN cookies.
const backlog = 128

// Host is a stack with a link, addresses, and a default route in both families.
type Host struct{ *stack.Stack }

// New makes a host on link with the valid ones of addrs. Close ends it, and the
// link.
func New(link stack.LinkEndpoint, addrs ...netip.Addr) (*Host, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	h := &Host{s}
	sack := tcpip.TCPSACKEnabled(true)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		h.Close()
		return nil, fmt.Errorf("selective acknowledgements: %s", err)
	}
	if err := s.CreateNIC(NIC, link); err != nil {
		h.Close()
		return nil, fmt.Errorf("link: %s", err)
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		p := tcpip.ProtocolAddress{Protocol: protocol(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := s.AddProtocolAddress(NIC, p, stack.AddressProperties{}); err != nil {
			h.Close()
			return nil, fmt.Errorf("address %s: %s", a, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: NIC},
		{Destination: header.IPv6EmptySubnet, NIC: NIC},
	})
	return h, nil
}

// Close ends all connections and waits for the host's goroutines.
func (h *Host) Close() {
	h.Stack.Close()
	h.Stack.RemoveNIC(NIC)
	h.Stack.Wait()
}

// SetBuffers bounds what one TCP connection may buffer, in bytes each way.
func (h *Host) SetBuffers(least, normal, most int) error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: least, Default: normal, Max: most}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: least, Default: normal, Max: most}
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send} {
		if err := h.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("TCP buffers: %s", err)
		}
	}
	return nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: NIC, Port: a.Port()}
	if a.Addr().IsValid() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	return f
}

// DialContext is net.Dialer's, for addresses without names.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	at := full(to)
	switch network {
	case "tcp", "tcp4", "tcp6":
		return gonet.DialContextTCP(ctx, h.Stack, at, protocol(to.Addr()))
	case "udp", "udp4", "udp6":
		return gonet.DialUDP(h.Stack, nil, &at, protocol(to.Addr()))
	}
	return nil, net.UnknownNetworkError(network)
}

// ListenTCP listens on one address and port.
func (h *Host) ListenTCP(at netip.AddrPort) (net.Listener, error) {
	var queue waiter.Queue
	ep, err := h.NewEndpoint(tcp.ProtocolNumber, protocol(at.Addr()), &queue)
	if err != nil {
		return nil, fmt.Errorf("listen tcp %s: %s", at, err)
	}
	if err = ep.Bind(full(at)); err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		ep.Close()
		return nil, fmt.Errorf("listen tcp %s: %s", at, err)
	}
	return gonet.NewTCPListener(h.Stack, &queue, ep), nil
}

// ListenUDP takes datagrams at one address and port.
func (h *Host) ListenUDP(at netip.AddrPort) (net.PacketConn, error) {
	local := full(at)
	conn, err := gonet.DialUDP(h.Stack, &local, nil, protocol(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen udp %s: %w", at, err)
	}
	return conn, nil
}

// Ping sends an echo request with an identifier (0: any) and waits for its
// reply, which must bring back the payload.
func (h *Host) Ping(ctx context.Context, to netip.Addr, id uint16, payload []byte) (time.Duration, error) {
	proto, kind := icmp.ProtocolNumber4, byte(header.ICMPv4Echo)
	if to.Is6() {
		proto, kind = icmp.ProtocolNumber6, byte(header.ICMPv6EchoRequest)
	}
	var queue waiter.Queue
	ep, err := h.NewEndpoint(proto, protocol(to), &queue)
	if err != nil {
		return 0, fmt.Errorf("ping %s: %s", to, err)
	}
	defer ep.Close()
	if err := ep.Bind(tcpip.FullAddress{NIC: NIC, Port: id}); err != nil {
		return 0, fmt.Errorf("ping %s: %s", to, err)
	}
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	began := time.Now()
	request := append([]byte{kind, 0, 0, 0, 0, 0, 0, 1}, payload...)
	at := full(netip.AddrPortFrom(to, 0))
	if _, err := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{To: &at}); err != nil {
		return 0, fmt.Errorf("ping %s: %s", to, err)
	}
	select {
	case <-readable:
	case <-ctx.Done():
		return 0, fmt.Errorf("ping %s: no reply: %w", to, ctx.Err())
	}
	var reply bytes.Buffer
	if _, err := ep.Read(&reply, tcpip.ReadOptions{}); err != nil {
		return 0, fmt.Errorf("ping %s: %s", to, err)
	}
	if !bytes.HasSuffix(reply.Bytes(), payload) || reply.Len() != len(request) {
		return 0, errors.New("ping " + to.String() + ": another payload came back")
	}
	return time.Since(began), nil
}
