package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/socket"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// NextHop is Host's: that of the default route, or of another by the uplink.
func (ThisHost) NextHop(uplink string) (netip.Addr, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	index := 0
	if uplink != "" {
		l, err := netlink.LinkByName(uplink)
		if err != nil {
			return netip.Addr{}, err
		}
		if index = l.Attrs().Index; l.Attrs().MasterIndex != 0 {
			index = l.Attrs().MasterIndex
		}
	}
	var found netip.Addr
	for _, r := range routes {
		gw, ok := netip.AddrFromSlice(r.Gw.To4())
		if !ok || index != 0 && r.LinkIndex != index {
			continue
		}
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return gw, nil
		}
		if index != 0 && !found.IsValid() {
			found = gw
		}
	}
	return found, nil
}

// RoundTrip is Host's. Nothing is set on the host: the request is sent with its own
// IPv4 header, and replies are looked at as they pass.
func (h ThisHost) RoundTrip(ctx context.Context, from, to netip.Addr) (trip RoundTrip, err error) {
	token := make([]byte, 16)
	rand.Read(token)
	arriving, err := tap(from, 0)
	if err != nil {
		return trip, err
	}
	defer arriving.Close()
	ours, err := tapOf(from, h.Device)
	if err != nil {
		return trip, err
	}
	defer ours.Close()
	if err := request(from, to, token); err != nil {
		return trip, fmt.Errorf("echo request from %v to %v: %w", from, to, err)
	}
	if trip.Back, err = seen(ctx, arriving, token); err != nil || !trip.Back {
		return trip, err
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), 200*time.Millisecond) // it is in this host already
	defer cancel()
	trip.Ours, err = seen(soon, ours, token)
	return trip, err
}

// tap sees echo replies for an address at an interface, or those that come in at any.
func tap(to netip.Addr, index int) (*socket.Conn, error) {
	protocol := unix.ETH_P_IP // incoming alone
	if index != 0 {
		protocol = unix.ETH_P_ALL // what the kernel sends to the device, too
	}
	c, err := socket.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, "packet", nil) // hears nothing until it is bound
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	filter, err := bpf.Assemble([]bpf.Instruction{ // of the IPv4 header on: ICMP, to this address
		bpf.LoadAbsolute{Off: 9, Size: 1}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 16, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(to.AsSlice()), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16}, bpf.RetConstant{},
	})
	if err == nil {
		err = c.SetBPF(filter)
	}
	if err == nil {
		err = c.Bind(&unix.SockaddrLinklayer{Protocol: uint16(protocol)<<8 | uint16(protocol)>>8, Ifindex: index})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return c, nil
}

func tapOf(to netip.Addr, device string) (*socket.Conn, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return tap(to, l.Attrs().Index)
}

// request sends an echo request with identifier 0, which is no workload's.
func request(from, to netip.Addr, token []byte) error {
	conn, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	raw, err := ipv4.NewRawConn(conn)
	if err != nil {
		conn.Close()
		return err
	}
	defer raw.Close()
	body, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{Seq: 1, Data: token}}).Marshal(nil)
	if err != nil {
		return err
	}
	header := &ipv4.Header{Version: 4, Len: ipv4.HeaderLen, TotalLen: ipv4.HeaderLen + len(body), TTL: 64, Protocol: unix.IPPROTO_ICMP,
		Src: from.AsSlice(), Dst: to.AsSlice()}
	return raw.WriteTo(header, body, nil)
}

// seen waits for the echo reply with a token.
func seen(ctx context.Context, c *socket.Conn, token []byte) (bool, error) {
	buf := make([]byte, 2048)
	for {
		n, _, err := c.Recvfrom(ctx, buf, 0)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, err
		}
		if n < ipv4.HeaderLen {
			continue
		}
		m, err := icmp.ParseMessage(unix.IPPROTO_ICMP, buf[min(n, int(buf[0]&15)*4):n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && bytes.Equal(echo.Data, token) {
			return true, nil
		}
	}
}
