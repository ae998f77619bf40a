package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// echo is how to ping in a family.
type echo struct {
	network, any   string
	request, reply icmp.Type
	protocol       int
}

var (
	echo4 = echo{"ip4:icmp", "0.0.0.0", ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, 1}
	echo6 = echo{"ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58}
)

// Echo is Host's.
func (ThisHost) Echo(ctx context.Context, to netip.Addr) error {
	e := echo6
	if to.Is4() {
		e = echo4
	}
	conn, err := icmp.ListenPacket(e.network, e.any)
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	defer conn.Close()
	id := os.Getpid() & 0xffff
	request, err := (&icmp.Message{Type: e.request, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("natless doctor")}}).Marshal(nil)
	if err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(patience)
	}
	conn.SetDeadline(deadline)
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	return e.await(conn, id)
}

// await reads until our reply comes: a raw socket gets those of others too.
func (e echo) await(conn *icmp.PacketConn, id int) error {
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("no reply")
		}
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(e.protocol, buf[:n])
		if err != nil || m.Type != e.reply {
			continue
		}
		if body, ok := m.Body.(*icmp.Echo); ok && body.ID == id {
			return nil
		}
	}
}
