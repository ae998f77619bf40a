package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// sound judges packets without a second translator: gopacket parses what comes
// out, lengths fit, and the checksums verify when those of the input did.
func sound(in reference.Packet, r result) error {
	if !r.verdict.IsForward() && !r.verdict.Replied() {
		return nil
	}
	for i, p := range r.packets {
		label := uint32(0)
		if r.verdict == translator.Forward4 && p.Bytes[0]>>4 == 6 && in.Bytes[0]>>4 == 6 { // at an edge
			label = labelOf(in.Bytes)
		}
		if err := parses(p.Bytes, label); err != nil {
			return fmt.Errorf("%v, packet %d: %w", r.verdict, i, err)
		}
		if r.verdict < translator.Pass4 && p.Bytes[0]>>4 == 4 && p.Bytes[0] != 0x45 {
			return fmt.Errorf("%v, packet %d: IPv4 options in what was translated", r.verdict, i)
		}
	}
	if r.packets[0].Offload.Flags&translator.FlagNeedsCsum != 0 {
		return nil
	}
	was := checksumsRight(completed(in))
	if (was && r.packets[0].Offload.GSOType == 0 || r.verdict.Replied()) && !checksumsRight(reassembled(r.packets)) && !fragmented(in.Bytes) {
		return fmt.Errorf("%v: a right checksum has become a wrong one", r.verdict)
	}
	return nil
}

// parses wants gopacket to find an IP packet of exactly these bytes.
func parses(b []byte, label uint32) error {
	if len(b) == 0 {
		return fmt.Errorf("no bytes")
	}
	if b[0]>>4 == 4 {
		var ip layers.IPv4
		if err := ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return err
		}
		if int(ip.Length) != len(b) || int(ip.IHL)*4 > len(b) || onesSum(b[:ip.IHL*4]) != 0xffff {
			return fmt.Errorf("length %d of %d, header length %d", ip.Length, len(b), ip.IHL)
		}
		return nil
	}
	if len(b) == 40 {
		return nil // gopacket takes a packet without payload for a jumbogram
	}
	var ip layers.IPv6
	if err := ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	if int(ip.Length)+40 != len(b) || ip.FlowLabel != label || ip.Version != 6 {
		return fmt.Errorf("length %d of %d, flow label %d", ip.Length, len(b)-40, ip.FlowLabel)
	}
	return nil
}

func labelOf(b []byte) uint32 { return binary.BigEndian.Uint32(b) & 0xfffff }

// completed is a packet with its partial checksum, if it has one, completed.
func completed(p reference.Packet) []byte {
	if p.Offload.Flags&translator.FlagNeedsCsum == 0 {
		return p.Bytes
	}
	b := append([]byte(nil), p.Bytes...)
	at := int(p.Offload.CsumStart)
	if at+int(p.Offload.CsumOffset)+2 <= len(b) {
		put(b[at+int(p.Offload.CsumOffset):], ^onesSum(b[at:]))
	}
	return b
}

// reassembled is the packet that fragments of ours were.
func reassembled(packets []reference.Packet) []byte {
	if len(packets) == 1 {
		return packets[0].Bytes
	}
	if packets[0].Bytes[0]>>4 == 4 {
		return reassembled4(packets)
	}
	b := append([]byte(nil), packets[0].Bytes[:40]...)
	b[6] = packets[0].Bytes[40]
	for _, p := range packets {
		b = append(b, p.Bytes[48:]...)
	}
	put(b[4:], uint16(len(b)-40))
	return b
}

// reassembled4 is reassembled for what stayed IPv4, without what it is a part of.
func reassembled4(packets []reference.Packet) []byte {
	n := int(packets[0].Bytes[0]&15) * 4
	b := append([]byte(nil), packets[0].Bytes[:n]...)
	for _, p := range packets {
		b = append(b, p.Bytes[n:]...)
	}
	put(b[2:], uint16(len(b)))
	last := packets[len(packets)-1].Bytes
	b[6] = last[6]&0x20 | b[6]&0x1f
	put(b[10:], 0)
	put(b[10:], ^onesSum(b[:n]))
	return b
}

// checksumsRight verifies, by gopacket, the checksum behind the IP header, if
// gopacket knows the protocol and the packet is whole.
func checksumsRight(b []byte) bool {
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if len(b) > 0 && b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.DecodeOptions{NoCopy: true})
	if p.Layer(layers.LayerTypeIPv6Fragment) != nil {
		return false
	}
	if ip, is := p.NetworkLayer().(*layers.IPv4); is && (ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0) {
		return false
	}
	for _, l := range p.Layers() {
		c, has := l.(gopacket.LayerWithChecksum)
		if !has || l.LayerType() == layers.LayerTypeIPv4 {
			continue
		}
		if over, needs := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); needs && over.SetNetworkLayerForChecksum(p.NetworkLayer()) != nil {
			return false
		}
		if err, result := c.VerifyChecksum(); err != nil || !result.Valid {
			return false
		}
		return true
	}
	return false
}

// circles says that a packet leaves toward where it would come back from (rule
// 1.1.ours-once).
func (p *pair) circles(in reference.Packet, r result) error {
	if !r.verdict.IsForward() || r.verdict == translator.Deliver4 || in.From.IsValid() || p.world.Client || p.leadsHere(in.Bytes) == "" {
		return nil // somebody else's route has brought it here
	}
	for _, out := range r.packets {
		if why := p.leadsHere(out.Bytes); why != "" {
			return fmt.Errorf("%v leads here again, by %s: %s", r.verdict, why, describe(out))
		}
	}
	return nil
}

// leadsHere is the route that would lead a packet to the translator, or "".
func (p *pair) leadsHere(b []byte) string {
	if b[0]>>4 == 4 {
		a := netip.AddrFrom4([4]byte(b[16:20]))
		if a == p.world.Host4 {
			return "" // the kernel leads there what is for workloads alone
		}
		for _, own := range append(p.world.Pools4, netip.PrefixFrom(p.world.IPv4, 32), p.world.ICMPSource4) {
			if own.Contains(a) {
				return own.String()
			}
		}
		if p.table.Lookup4(mapping.Addr4From(a)) != nil {
			return "a mapping"
		}
		return ""
	}
	a := netip.AddrFrom16([16]byte(b[24:40]))
	switch {
	case a == p.world.IPv6:
		return "its own address"
	case p.world.ICMPSource6.Contains(a):
		return p.world.ICMPSource6.String()
	case p.world.Edge.Enabled() && p.fast.FromFabric(buffer(reference.Packet{Bytes: b})):
		return "a block"
	case p.world.Prefix.Contains(a) && p.table.Lookup6(mapping.Addr6From(a)) == nil:
		return "the prefix"
	}
	return ""
}

// fragmented says that an IPv4 packet is a part of a datagram.
func fragmented(b []byte) bool { return b[0]>>4 == 4 && get(b[6:])&0x3fff != 0 }

// TestSound runs generated packets past gopacket.
func TestSound(t *testing.T) {
	verified := 0
	for i, w := range generate.Worlds() {
		p := newPair(t, w)
		g := generate.New(w, uint64(500+i))
		for range 2000 {
			for _, in := range []reference.Packet{g.Next4(), g.Next6()} {
				r := p.translate(in)
				if err := sound(in, r); err != nil {
					t.Errorf("%s: %v\n%s", w.Name, err, describe(in))
				}
				if err := p.circles(in, r); err != nil {
					t.Errorf("%s: %v\n%s", w.Name, err, describe(in))
				}
				if r.verdict.IsForward() && checksumsRight(in.Bytes) {
					verified++
				}
			}
		}
	}
	if verified < 3000 {
		t.Errorf("%d packets with a checksum that gopacket knows are too few", verified)
	}
}
