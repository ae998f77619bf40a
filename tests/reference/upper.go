package reference

import (
	"encoding/binary"
	"net/netip"

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
	least := map[byte]int{icmp4: 8, tcp: 20, udp: 8, dccp: 12, icmp6: 8, sctp: 12, udpLite: 8}[protocol]
	if len(b) < least {
		return 0, false
	}
	if protocol != tcp {
		return least, true
	}
	n = int(b[12]>>4) * 4
	return n, n >= 20 && n <= len(b)
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

// pseudo is the pseudo header of RFC 793 or RFC 8200 8.1; ICMPv4 has none.
func pseudo(src, dst netip.Addr, protocol byte, length int) []byte {
	if protocol == icmp4 {
		return nil
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, protocol)
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
// wrong as field is for the bytes before. Both are given with zeros in the
// place of the checksum.
func equallyWrong(field uint16, before, after uint32) uint16 {
	return uint16((uint32(field) + before + 65535 - after) % 65535)
}

// retype is the upper-layer header with the type of an echo message changed.
func retype(to byte, b []byte) []byte {
	out := append([]byte(nil), b...)
	if len(out) == 0 {
		return out
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
	return out
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
	oldPseudo := pseudo(old.src, old.dst, old.protocol, old.claimed)
	newPseudo := pseudo(d.src, d.dst, d.protocol, d.claimed)
	if partial {
		v := equallyWrong(field, sum(newPseudo), sum(oldPseudo))
		if v == 0 && len(newPseudo) > 0 {
			v = 0xffff
		}
		binary.BigEndian.PutUint16(changed[at:], v)
		return
	}
	v := equallyWrong(field, sum(oldPseudo, without(old.upper, at)), sum(newPseudo, without(changed, at)))
	if v == 0 && (old.protocol == udp || old.protocol == udpLite) { // RFC 768, RFC 3828 3.1
		v = 0xffff
	}
	binary.BigEndian.PutUint16(changed[at:], v)
}

// without is b with zeros in the place of the checksum.
func without(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at], out[at+1] = 0, 0
	return out
}

// calculate makes the checksum of a UDP datagram that had none.
func calculate(d *datagram) {
	length := int(binary.BigEndian.Uint16(d.upper[4:]))
	b := d.upper[:min(length, len(d.upper))]
	v := ^checksum.Checksum(b, checksum.Checksum(pseudo(d.src, d.dst, d.protocol, length), 0))
	if v == 0 {
		v = 0xffff
	}
	binary.BigEndian.PutUint16(d.upper[6:], v)
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

// oddOffload: offloads that fit no packet like this; the rules do not say what
// becomes of it, but that it may be called malformed.
func (c *call) oddOffload(d *datagram) bool {
	o := c.in.Offload
	if o == (translator.Offload{}) {
		return false
	}
	needs := o.Flags&translator.FlagNeedsCsum != 0
	if needs && (!c.partial(d) || d.fragmented()) {
		return true
	}
	kinds := map[uint8]byte{translator.GSOTCPv4: tcp, translator.GSOTCPv6: tcp, translator.GSOUDPL4: udp}
	kind := o.GSOType &^ translator.GSOECN
	return c.gso() && (!needs || kinds[kind] != d.protocol || d.frag != nil || o.GSOSize == 0 ||
		kind == translator.GSOTCPv4 && d.src.Is6() || kind == translator.GSOTCPv6 && d.src.Is4())
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
	o.HdrLen = o.CsumStart + uint16(n)
	c.rule("5.hdr-len", "5.gso-size")
	return o
}
