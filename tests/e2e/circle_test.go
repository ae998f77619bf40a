//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const longestLife = 255

// passes is how many packets the kernel gave the device so far.
func (n *topology) passes() (sent uint64) {
	n.t.Helper()
	var err error
	n.host.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName("natless0"); err == nil {
			sent = l.Attrs().Statistics.TxPackets
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return sent
}

// upper is a packet of a protocol without its IP header.
func upper(t *testing.T, proto layers.IPProtocol, src, dst netip.Addr) []byte {
	t.Helper()
	var ip gopacket.NetworkLayer = &layers.IPv4{SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Protocol: proto}
	if src.Is6() {
		ip = &layers.IPv6{SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), NextHeader: proto}
	}
	var all []gopacket.SerializableLayer
	switch proto {
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: 4000, DstPort: 5000}
		l.SetNetworkLayerForChecksum(ip)
		all = append(all, l)
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: 4000, DstPort: 5000, SYN: true, Window: 1000}
		l.SetNetworkLayerForChecksum(ip)
		all = append(all, l)
	case layers.IPProtocolICMPv4:
		all = append(all, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 4000, Seq: 1})
	case layers.IPProtocolICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
		l.SetNetworkLayerForChecksum(ip)
		all = append(all, l, &layers.ICMPv6Echo{Identifier: 4000, SeqNumber: 1})
	}
	b := gopacket.NewSerializeBuffer()
	all = append(all, gopacket.Payload("natless, which has to be longer than the least upper header"))
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// raw sends one packet that lives as long as can be.
func raw(t *testing.T, ns *netns.NS, proto layers.IPProtocol, src, dst netip.Addr) {
	t.Helper()
	body := upper(t, proto, src, dst)
	var err error
	ns.Do(func() { err = sendRaw(int(proto), src, dst, body) })
	if err != nil {
		t.Fatalf("%v from %v to %v: %v", proto, src, dst, err)
	}
}

func sendRaw(proto int, src, dst netip.Addr, body []byte) error {
	family, level, life := unix.AF_INET, unix.IPPROTO_IP, unix.IP_TTL
	var from, to unix.Sockaddr = &unix.SockaddrInet4{}, &unix.SockaddrInet4{}
	if dst.Is4() {
		from, to = &unix.SockaddrInet4{Addr: src.As4()}, &unix.SockaddrInet4{Addr: dst.As4()}
	} else {
		family, level, life = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		from, to = &unix.SockaddrInet6{Addr: src.As16()}, &unix.SockaddrInet6{Addr: dst.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW, proto)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, life, longestLife); err != nil {
		return fmt.Errorf("time to live: %w", err)
	}
	if err := unix.Bind(fd, from); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return unix.Sendto(fd, body, 0, to)
}

// TestNothingCircles: whatever leads to the device ends there, once, whoever
// sends it, by whatever protocol: nothing comes back to the device that was there.
func TestNothingCircles(t *testing.T) {
	daemon.OnePath(t, "its configuration says fast_path: off")
	n := newTopology(t, `
fast_path: off
uplink: uplink
icmp_source_pool: {ipv4: 198.51.100.8/30, ipv6: "2001:db8:f::/126"}
mapped_blocks: [203.0.114.0/28]
pools:
  - {name: shared, ipv4: 198.51.100.64/31}
  - {name: whole, ipv4: 198.51.100.72/29, whole_address: true}`)
	four := []string{own4, "198.51.100.9", "198.51.100.64", "198.51.100.73", "203.0.114.5", workload1v4, workload2v4}
	six := []string{own6, "2001:db8:f::1", "2001:db8:64::", "2001:db8:64::ffff:ffff", "2001:db8:64::7f00:1"}
	for _, a := range four {
		b := netip.MustParseAddr(a).As4()
		six = append(six, fmt.Sprintf("2001:db8:64::%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]))
	}
	six = append(six, "2001:db8:64::c000:201", serverv6) // the host's own address, and one outside
	n.warm()
	check := func(from *netns.NS, src, dst string, protos ...layers.IPProtocol) {
		t.Helper()
		for _, proto := range protos {
			// Hosts send this and that of their own accord, and late: what circles
			// does so every time.
			got := uint64(longestLife)
			for try := 0; try < 3 && got > n.answers(dst)+1; try++ {
				n.still()
				before := n.passes()
				raw(t, from, proto, netip.MustParseAddr(src), netip.MustParseAddr(dst))
				within(t, 3*time.Second, "a packet from "+src+" to "+dst+" comes to the device", func() bool { return n.passes() > before })
				n.still()
				got = min(got, n.passes()-before)
			}
			if got > n.answers(dst)+1 {
				t.Errorf("%v from %s to %s: the device was passed %d times", proto, src, dst, got)
			}
		}
	}
	for _, dst := range four {
		check(n.server, server, dst, layers.IPProtocolUDP, layers.IPProtocolTCP, layers.IPProtocolICMPv4, layers.IPProtocolESP, 99)
	}
	for _, dst := range six {
		check(n.w1, workload1, dst, layers.IPProtocolUDP, layers.IPProtocolTCP, layers.IPProtocolICMPv6, layers.IPProtocolESP, 99)
	}
}

// warm has every neighbour known, so that nobody's resolution is in the figures.
func (n *topology) warm() {
	n.t.Helper()
	n.w1.Run("ping", "-n", "-c", "1", "-W", "2", serverv6)
	n.w2.Run("ping", "-n", "-c", "1", "-W", "2", serverv6)
}

// still waits until the device has been still for a moment.
func (n *topology) still() {
	n.t.Helper()
	for last, quiet := n.passes(), 0; quiet < 3; {
		time.Sleep(3 * time.Millisecond)
		if now := n.passes(); now == last {
			quiet++
		} else {
			last, quiet = now, 0
		}
	}
}

// answers is how many packets may come to the device because somebody behind it
// answers what was sent to dst.
func (n *topology) answers(dst string) uint64 {
	switch dst {
	case "2001:db8:64::c633:6401": // to the stack behind it, and its answer
		return 2
	case serverv6, workload1v4, workload2v4, "2001:db8:64::c000:201",
		"2001:db8:64::c633:6402", "2001:db8:64::c633:6403":
		return 1
	}
	return 0
}
