package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/natless/natless/netstack/route"
)

// Held is Host's.
func (h ThisHost) Held() (map[netip.Addr]string, error) { return route.ReadTaken(h.Device) }

// Neighbours is Host's.
func (ThisHost) Neighbours(ctx context.Context, iface string, addrs []netip.Addr) (map[netip.Addr]string, error) {
	found, err := route.Probe(ctx, iface, addrs)
	if errors.Is(err, route.ErrNoARP) {
		return nil, nil
	}
	return found, err
}

// Source is Host's. Nothing is sent.
func (ThisHost) Source(to netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), nil
}
