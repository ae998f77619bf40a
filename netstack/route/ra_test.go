//go:build linux

package route

import (
	"net"
	"testing"

	"github.com/natless/natless/tests/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// sendRA sends a router advertisement (RFC 4861 4.2) with a router lifetime of
// 1800 s to all nodes on dev.
func sendRA(t *testing.T, ns *netns.NS, dev string) {
	t.Helper()
	body := []byte{64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	packet, err := (&icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: body}}).Marshal(nil)
	if err == nil {
		ns.Do(func() { err = sendTo(dev, packet) })
	}
	if err != nil {
		t.Fatalf("router advertisement: %v", err)
	}
}

func sendTo(dev string, packet []byte) error {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	c, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	defer c.Close()
	p := ipv6.NewPacketConn(c)
	cm := &ipv6.ControlMessage{HopLimit: 255, IfIndex: ifi.Index}
	_, err = p.WriteTo(packet, cm, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: dev})
	return err
}
