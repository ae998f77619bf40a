package reference

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/translator"
)

// IANA protocol numbers.
const (
	icmp4   = 1
	tcp     = 6
	udp     = 17
	dccp    = 33
	icmp6   = 58
	sctp    = 132
	udpLite = 136
)

// checksumAt is where the checksum field of an upper-layer header stands, for
// those protocols whose checksum translation changes.
func checksumAt(protocol byte) (int, bool) {
	switch protocol {
	case tcp:
		return 16, true
	case udp, udpLite, dccp:
		return 6, true
	case icmp4, icmp6:
		return 2, true
	}
	return 0, false
}

// headerLength is the length of an upper-layer header; ok is false when it does
// not fit into b.
func headerLength(protocol byte, b []byte) (n int, fits bool) {
	least := leastHeader(protocol)
	if len(b) < least {
		return 0, false
	}
	if protocol != tcp {
		return least, true
	}
	n = int(b[12]>>4) * 4
	return n, n >= 20 && n <= len(b)
}

func leastHeader(protocol byte) int {
	switch protocol {
	case icmp4, icmp6, udp, udpLite:
		return 8
	case dccp, sctp:
		return 12
	case tcp:
		return 20
	}
	return 0
}

// portsOf gives source and destination port; for ICMP echo both are the
// identifier (section 1.3). has is false where a protocol has none, or where
// they are cut off.
func portsOf(protocol byte, b []byte) (src, dst uint16, has bool) {
	switch protocol {
	case tcp, udp, udpLite, sctp, dccp:
		if len(b) < 4 {
			return 0, 0, false
		}
		return binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), true
	case icmp4, icmp6:
		if len(b) < 6 || !isEcho(protocol, b[0]) {
			return 0, 0, false
		}
		id := binary.BigEndian.Uint16(b[4:])
		return id, id, true
	}
	return 0, 0, false
}

func shareable(protocol byte) bool {
	switch protocol {
	case tcp, udp, udpLite, sctp, dccp, icmp4, icmp6:
		return true
	}
	return false
}

func isEcho(protocol, typ byte) bool {
	if protocol == icmp4 {
		return typ == 8 || typ == 0
	}
	return typ == 128 || typ == 129
}

// isError: every ICMPv6 type below 128 (RFC 4443 2.1), and what RFC 1122 3.2.2
// calls an error in ICMPv4.
func isError(protocol, typ byte) bool {
	if protocol == icmp6 {
		return typ < 128
	}
	return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
}

// pseudo is the pseudo header of RFC 793 or RFC 8200 8.1, and zeros, which change no
// sum; ICMPv4 has none.
func (d *datagram) pseudo() (b [40]byte) {
	switch {
	case d.protocol == icmp4:
		return b
	case d.src.Is4():
		src, dst := d.src.As4(), d.dst.As4()
		copy(b[0:], src[:])
		copy(b[4:], dst[:])
	default:
		src, dst := d.src.As16(), d.dst.As16()
		copy(b[0:], src[:])
		copy(b[16:], dst[:])
	}
	binary.BigEndian.PutUint32(b[32:], uint32(d.claimed))
	b[39] = d.protocol
	return b
}

// pseudoSum is its sum.
func (d *datagram) pseudoSum() uint16 {
	b := d.pseudo()
	return checksum.Checksum(b[:], 0)
}

// sum is the ones' complement sum of all parts, modulo 65535.
func sum(parts ...[]byte) uint32 {
	var total uint32
	for _, p := range parts {
		total += uint32(checksum.Checksum(p, 0))
	}
	return total % 65535
}

// equallyWrong is the checksum that is for the bytes after exactly as right or
// wrong as field is for the bytes before. Both are sums without the checksum.
func equallyWrong(field uint16, before, after uint32) uint16 {
	return uint16((uint32(field) + before + 65535 - after) % 65535)
}

// retype changes the type of an echo message.
func retype(to byte, out []byte) {
	if len(out) == 0 {
		return
	}
	switch {
	case to == icmp6 && out[0] == 8:
		out[0] = 128
	case to == icmp6 && out[0] == 0:
		out[0] = 129
	case to == icmp4 && out[0] == 128:
		out[0] = 8
	case to == icmp4 && out[0] == 129:
		out[0] = 0
	}
}

// carry translates what stands behind the IP header, from the addresses and
// protocol of old to those of d (sections 4 and 5). changed is what has to
// become of the bytes besides the checksum. partial says that the field holds
// the sum of the pseudo header alone.
func carry(old, d *datagram, changed []byte, partial bool) {
	at, has := checksumAt(old.protocol)
	d.upper = changed
	if !has || old.later() || at+2 > len(old.upper) || at+2 > len(changed) {
		return
	}
	field := binary.BigEndian.Uint16(old.upper[at:])
	if old.protocol == udp && field == 0 && !partial {
		return
	}
	oldPseudo, newPseudo := old.pseudo(), d.pseudo()
	if partial {
		v := equallyWrong(field, sum(newPseudo[:]), sum(oldPseudo[:]))
		if old.isICMP() { // which has a pseudo header in one family alone: made anew
			v = uint16(sum(newPseudo[:]))
		}
		if v == 0 && d.protocol != icmp4 {
			v = 0xffff
		}
		binary.BigEndian.PutUint16(changed[at:], v)
		return
	}
	v := equallyWrong(field, sum(oldPseudo[:], old.upper[:at], old.upper[at+2:]), sum(newPseudo[:], changed[:at], changed[at+2:]))
	if v == 0 && (old.protocol == udp || old.protocol == udpLite) { // RFC 768, RFC 3828 3.1
		v = 0xffff
	}
	binary.BigEndian.PutUint16(changed[at:], v)
}

// calculate makes the checksum of a UDP datagram that had none.
func calculate(d *datagram) {
	length := int(binary.BigEndian.Uint16(d.upper[4:]))
	b := d.upper[:min(length, len(d.upper))]
	v := ^checksum.Checksum(b, d.udpPseudoSum())
	if v == 0 {
		v = 0xffff
	}
	binary.BigEndian.PutUint16(d.upper[6:], v)
}

// leave leaves the checksums to whoever cuts a superpacket into segments: it wants
// the sum of the pseudo header.
func (c *call) leave(d *datagram) {
	c.rule("4.zero-calculate-super")
	binary.BigEndian.PutUint16(d.upper[6:], d.udpPseudoSum())
	c.left = true
}

// udpPseudoSum is pseudoSum with the length that the UDP header has.
func (d *datagram) udpPseudoSum() uint16 {
	whole := *d
	whole.claimed = int(binary.BigEndian.Uint16(d.upper[4:]))
	return whole.pseudoSum()
}

// finish does what a device would have done for a partial checksum.
func finish(d *datagram) {
	at, _ := checksumAt(d.protocol)
	v := ^checksum.Checksum(d.upper, 0)
	if v == 0 && (d.protocol == udp || d.protocol == udpLite) {
		v = 0xffff
	}
	binary.BigEndian.PutUint16(d.upper[at:], v)
}

// partial says that the packet's checksum field holds but the pseudo header's
// sum (VIRTIO 1.2 5.1.6.2).
func (c *call) partial(d *datagram) bool {
	o := c.in.Offload
	at, has := checksumAt(d.protocol)
	return o.Flags&translator.FlagNeedsCsum != 0 && has &&
		int(o.CsumStart) == d.upperAt && int(o.CsumOffset) == at
}

// oddOffload: offloads that fit no packet like this.
func (c *call) oddOffload(d *datagram) bool {
	o := c.in.Offload
	if o.Flags&translator.FlagNeedsCsum != 0 && (!c.partial(d) || d.fragmented()) {
		return true
	}
	if !c.gso() {
		return false
	}
	if d.frag != nil || o.GSOSize == 0 {
		return true
	}
	switch o.GSOType {
	case translator.GSOTCPv4, translator.GSOTCPv4 | translator.GSOECN:
		return d.protocol != tcp || d.src.Is6()
	case translator.GSOTCPv6, translator.GSOTCPv6 | translator.GSOECN:
		return d.protocol != tcp || d.src.Is4()
	case translator.GSOUDPL4:
		return d.protocol != udp
	}
	return true
}

func (c *call) gso() bool { return c.in.Offload.GSOType != translator.GSONone }

// segment is the upper-layer length of the longest packet that a packet stands
// for: its own, or that of one segment.
func (c *call) segment(d *datagram) int {
	if !c.gso() {
		return d.claimed
	}
	n, _ := headerLength(d.protocol, d.upper)
	return min(d.claimed, n+int(c.in.Offload.GSOSize))
}

// offload moves the fields of the virtio-net header with the upper-layer
// header (section 5).
func (c *call) offload(old, d *datagram, at int) translator.Offload {
	o := c.in.Offload
	if c.left {
		o.Flags |= translator.FlagNeedsCsum
		o.CsumStart, o.CsumOffset = uint16(old.upperAt), 6
	}
	if o.Flags&translator.FlagNeedsCsum != 0 {
		c.rule("5.csum-start")
		o.CsumStart = uint16(int(o.CsumStart) + at - old.upperAt)
	}
	if !c.gso() {
		return o
	}
	ecn := o.GSOType & translator.GSOECN
	switch kind := o.GSOType &^ translator.GSOECN; {
	case kind == translator.GSOTCPv4 && d.src.Is6():
		c.rule("5.gso-type")
		o.GSOType = translator.GSOTCPv6 | ecn
	case kind == translator.GSOTCPv6 && d.src.Is4():
		c.rule("5.gso-type")
		o.GSOType = translator.GSOTCPv4 | ecn
	case kind == translator.GSOUDPL4:
		c.rule("5.gso-udp")
	}
	n, _ := headerLength(d.protocol, d.upper)
	o.HdrLen = uint16(at + n)
	c.rule("5.hdr-len", "5.gso-size")
	return o
}
