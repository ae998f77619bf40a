package flows

import "encoding/binary"

// Packet is a translated packet, as a loop has it in its hands.
type Packet struct {
	Bytes          []byte // as it leaves, IPv4 or IPv6
	Src, Dst       uint32 // its IPv4 addresses, where it leaves as IPv6
	Length         int    // as IPv4, from the IP header on
	ID             uint16 // of an echo message, where it was IPv4 when it came
	GSO            int    // bytes of data in a segment of a superpacket, or 0
	Source, Target uint32 // slots of the workloads that sent it and that it is for; 0: none
	Rule           uint32 // serial of the rule that would have denied it, if it were not only audited; 0: none
}

// AddPacket counts a packet with each of its workloads, if it is one of the sample. A
// superpacket is in the sample or not as a whole.
func (t *Table) AddPacket(p *Packet, now int64) {
	if t.sample > 1 && !t.drawn() {
		return
	}
	var k Key
	l4, header := p.upper(&k.Proto)
	src, dst := p.Src, p.Dst
	if len(p.Bytes) >= size4 && p.Bytes[0]>>4 == 4 {
		src, dst = binary.BigEndian.Uint32(p.Bytes[12:]), binary.BigEndian.Uint32(p.Bytes[16:])
	}
	var sport, dport uint16
	var flags uint8
	switch {
	case len(l4) < 8:
	case k.Proto == protoTCP:
		sport, dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		if len(l4) >= 20 {
			flags, header = l4[13], header+int(l4[12]>>4)*4
		}
	case k.Proto == protoUDP:
		sport, dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		header += 8
	}
	packets, bytes := Wire(p.Length, header, p.GSO)
	if k.Slot = p.Source; k.Slot != 0 {
		k.Local, k.Remote, k.LocalPort, k.RemotePort = src, dst, sport, dport
		k.icmp(l4, p.ID)
		t.forwarded(k, Sent, packets, bytes, flags, p.Rule, now)
	}
	if k.Slot = p.Target; k.Slot != 0 {
		k.Local, k.Remote, k.LocalPort, k.RemotePort = dst, src, dport, sport
		k.icmp(l4, p.ID)
		t.forwarded(k, Received, packets, bytes, flags, p.Rule, now)
	}
}

// forwarded is Add, and notes the rule that is only audited.
func (t *Table) forwarded(k Key, d Direction, packets, bytes uint64, flags uint8, rule uint32, now int64) {
	s := t.add(k, d, packets, bytes, flags, now)
	switch {
	case s == nil:
		t.lose(k.Slot, Lost{Packets: packets, Bytes: bytes})
	case rule != 0:
		s.Rule = rule
	}
}

const (
	size4         = 20
	size6         = 40
	sizeFragment  = 8
	echo4, reply4 = 8, 0
	echo6, reply6 = 128, 129
)

// upper finds the upper layer, nil where a fragment has none, and how long the
// header in front of it is as IPv4.
func (p *Packet) upper(proto *uint8) (l4 []byte, header int) {
	b := p.Bytes
	if len(b) >= size4 && b[0]>>4 == 4 {
		header = int(b[0]&15) * 4
		*proto = b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 || header > len(b) {
			return nil, header
		}
		return b[header:], header
	}
	if len(b) < size6 {
		return nil, size4
	}
	*proto, l4 = b[6], b[size6:]
	if *proto == protoFragment && len(l4) >= sizeFragment { // the only extension header that translation makes
		*proto = l4[0]
		if binary.BigEndian.Uint16(l4[2:])&0xfff8 != 0 {
			l4 = nil
		} else {
			l4 = l4[sizeFragment:]
		}
	}
	return l4, size4
}

// icmp makes a key of an ICMP message, in the words of IPv4.
func (k *Key) icmp(l4 []byte, id uint16) {
	if k.Proto != protoICMP && k.Proto != protoICMP6 {
		return
	}
	six := k.Proto == protoICMP6
	k.Proto, k.LocalPort, k.RemotePort = protoICMP, 0, 0
	if len(l4) < 8 {
		return
	}
	typ, code := l4[0], l4[1]
	switch {
	case six && (typ == echo6 || typ == reply6), !six && (typ == echo4 || typ == reply4):
		if k.LocalPort, k.RemotePort = id, echo4<<8; id == 0 {
			k.LocalPort = binary.BigEndian.Uint16(l4[4:])
		}
	case six:
		k.RemotePort = icmp4Of(typ, code)
	default:
		k.RemotePort = uint16(typ)<<8 | uint16(code)
	}
}

// icmp4Of is type and code of an ICMPv6 error as IPv4 had it (RFC 7915 4.2, read
// backwards as far as that goes).
func icmp4Of(typ, code uint8) uint16 {
	switch typ {
	case 1: // destination unreachable
		return 3<<8 | uint16([...]uint8{0: 0, 1: 10, 2: 1, 3: 1, 4: 3}[min(code, 4)])
	case 2: // packet too big
		return 3<<8 | 4
	case 3: // time exceeded
		return 11<<8 | uint16(code)
	}
	return 12 << 8
}

// Wire is how many packets a packet of some length is on an IPv4 wire, and their bytes:
// each of a superpacket's, with so much data in it, has the headers again.
func Wire(length, header, segment int) (packets, bytes uint64) {
	data := length - header
	if segment <= 0 || data <= segment {
		return 1, uint64(length)
	}
	n := (data + segment - 1) / segment
	return uint64(n), uint64(data + n*header)
}
