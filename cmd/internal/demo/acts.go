package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/host"
)

// embedded is an IPv4 address as workloads know it.
func embedded(a netip.Addr) netip.Addr {
	b := prefix.Addr().As16()
	copy(b[12:], a.AsSlice())
	return netip.AddrFrom16(b)
}

// pings goes both ways, once with an identifier that is not the workload's.
func (s *show) pings(ctx context.Context) error {
	s.title("Pings")
	own := s.shop.Ports.Longest().First + 7
	const alien = 9
	for _, p := range []struct {
		from *host.Host
		who  string
		to   netip.Addr
		id   uint16
	}{
		{s.shop.Host, "demo/shop", embedded(server4), own},
		{s.shop.Host, "demo/shop", embedded(server4), alien},
		{s.server, "the server", shared.Addr(), s.blog.Ports.Longest().First + 7},
		{s.shop.Host, "demo/shop", own6, alien},
		{s.server, "the server", own4, alien},
	} {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		took, err := p.from.Ping(ctx, p.to, p.id, make([]byte, 56))
		cancel()
		if err != nil {
			return err
		}
		s.say("    %-10s > %-22s id %-5d %4d µs\n", p.who, p.to, p.id, took.Microseconds())
	}
	s.say("\n    Identifier %d is nobody's: outside it is one of demo/shop's, and a tag in the echo data brings it back.\n", alien)
	s.say("%s", sides(s.net.trace.of(shop6, protoICMP4, alien), 4))
	return nil
}

// inbound has the server connect to the port that was given to demo/shop alone.
func (s *show) inbound(ctx context.Context) error {
	s.title("From the IPv4 side to demo/shop's own port 443")
	ln, err := s.shop.ListenTCP(netip.AddrPortFrom(shop6, 443))
	if err != nil {
		return err
	}
	defer ln.Close()
	heard := make(chan string, 1)
	go func() {
		defer close(heard)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		heard <- fmt.Sprintf("%q from %s", b, c.RemoteAddr())
	}()
	c, err := s.server.DialContext(ctx, "tcp", netip.AddrPortFrom(shared.Addr(), 443).String())
	if err != nil {
		return err
	}
	fmt.Fprint(c, "hello")
	c.Close()
	text, ok := <-heard
	if !ok {
		return errors.New("demo/shop heard nothing")
	}
	s.say("    demo/shop heard %s\n", text)
	unowned := netip.AddrPortFrom(shared.Addr(), 60000)
	if _, err := s.server.DialContext(ctx, "tcp", unowned.String()); err != nil {
		s.say("    %s belongs to nobody: %v\n", unowned, reason(err))
	}
	return nil
}

// reason is the last part of an error.
func reason(err error) string {
	parts := strings.Split(err.Error(), ": ")
	return parts[len(parts)-1]
}

// literal has a program that knows IPv4 alone go to an address, in a workload that has
// its IPv4 inside; another from a port that is not its own is refused.
func (s *show) literal(ctx context.Context) (port uint16, err error) {
	url := "http://" + server4.String() + "/"
	s.title("An IPv4-only program in demo/till, whose IPv4 is inside: " + url)
	peer, _, err := fetch(ctx, url, s.till.DialContext)
	if err != nil {
		return 0, err
	}
	s.say("    demo/till sent from its own address, which natless forwards as it is; the server saw %s\n", peer)
	e, err := explain.Packet(s.net.translator, fmt.Sprintf("ipv4 from %s src %s dst %s tcp sport %d dport 80",
		till6, shared.Addr(), server4, peer.Port()))
	if err != nil {
		return 0, err
	}
	s.say("%s", indent(e.Text))
	return peer.Port(), nil
}

// whois tells who was behind what the server saw.
func (s *show) whois(ports []uint16, owner func(io.Writer, api.Owner) error) error {
	for _, port := range ports {
		at := netip.AddrPortFrom(shared.Addr(), port)
		s.title("natless whois " + at.String())
		a, err := s.registry.Whois(at, time.Time{})
		if err != nil {
			return err
		}
		var b strings.Builder
		o := api.Owner{Key: a.Key, Name: a.Request.Name, Pool: a.Pool, IPv6: a.Request.IPv6, Address: a.Address, Ports: a.Ports, Since: a.Since,
			Inside: a.Inside().IsValid()}
		if err := owner(&b, o); err != nil {
			return err
		}
		s.say("%s", indent(b.String()))
	}
	return nil
}
