package reference

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// message is an ICMP error taken apart (RFC 792, 4443, 4884).
type message struct {
	typ, code  byte
	rest       uint32 // MTU or pointer
	quote      []byte
	extensions []byte
}

// readMessage takes an ICMP error apart. unit is the bytes that RFC 4884's
// length field, at byte at, counts by; 0 for messages that have none.
func readMessage(b []byte, at, unit int) message {
	m := message{typ: b[0], code: b[1], quote: b[8:]}
	if unit == 0 {
		return m
	}
	// Less than an extension header (RFC 4884 7) is not an extension.
	if n := int(b[at]) * unit; n > 0 && n+4 <= len(m.quote) {
		m.quote, m.extensions = m.quote[:n], m.quote[n:]
	}
	return m
}

func unit4(typ byte) int {
	if typ == 3 || typ == 11 || typ == 12 {
		return 4
	}
	return 0
}

func unit6(typ byte) int {
	if typ == 1 || typ == 3 {
		return 8
	}
	return 0
}

// lengthAt is where RFC 4884 has put the length: byte 5 of an ICMPv4 message,
// byte 4 of an ICMPv6 one.
const (
	lengthAt4 = 5
	lengthAt6 = 4
)

// write puts an ICMP error of at most room bytes together, without checksum.
// The quote is cut and padded as RFC 4884 wants when extensions follow.
func (m message) write(c *call, room, at, unit int) []byte {
	quote, length := m.quote, 0
	extensions := m.extensions
	if len(extensions) > 0 && unit == 0 {
		c.rule("6.extensions-dropped")
		extensions = nil
	}
	if len(extensions) > 0 {
		space := (room - 8 - len(extensions)) / unit * unit
		padded := padTo(quote[:min(len(quote), max(space, 0))], unit, 128)
		if 8+len(padded)+len(extensions) <= room && len(padded)/unit < 256 {
			c.rule("6.extensions-kept")
			quote, length = padded, len(padded)/unit
		} else {
			c.rule("6.extensions-dropped")
			extensions = nil
		}
	}
	if len(quote) > room-8 {
		if room == 576-20 {
			c.rule("6.size4")
		} else {
			c.rule("6.size6")
		}
		quote = quote[:room-8]
	}
	b := []byte{m.typ, m.code, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[4:], m.rest)
	if length > 0 {
		b[at] = byte(length)
	}
	b = append(b, quote...)
	return append(b, extensions...)
}

func padTo(b []byte, unit, least int) []byte {
	out := append([]byte(nil), b...)
	for len(out) < least || len(out)%unit != 0 {
		out = append(out, 0)
	}
	return out
}

// checksumWrong verifies an ICMP error.
func (c *call) checksumWrong(d *datagram) bool {
	if c.in.Offload.Flags&translator.FlagNeedsCsum != 0 {
		return false
	}
	return checksum.Checksum(d.upper, d.pseudoSum()) != 0xffff
}

// errorTo6 translates an ICMPv4 error.
func (c *call) errorTo6(old *datagram) {
	if c.checksumWrong(old) {
		c.rule("4.icmp-error-verified")
		c.fault(translator.BadChecksum)
	}
	in := readMessage(old.upper, lengthAt4, unit4(old.upper[0]))
	in.rest = binary.BigEndian.Uint32(old.upper[4:])
	out, fine := c.typeTo6(in)
	if !fine {
		c.fault(translator.ICMPUntranslatable)
	}
	quote := c.quoteTo6(in.quote)
	owner := c.errorOwnerTo6(old, in.quote)
	if q, why := read4(in.quote, true); why == ok {
		m := owner
		if list := c.t.covering4(old.dst); len(list) > 0 && !shared(list) {
			m = list[0]
		}
		c.policeQuote(q, m, true, q.dst)
	}
	src, why := c.errorSourceTo6(old)
	if why != ok {
		c.fault(why)
	}
	dst, why := c.workload6(old.dst, owner, translator.UntranslatableDestination)
	if why != ok {
		c.fault(why)
	}
	if len(c.faults) > 0 {
		return
	}
	out.quote, out.extensions = quote, in.extensions
	d := &datagram{src: src, dst: dst, tos: old.tos, ttl: old.ttl - 1, protocol: icmp6}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	verdict := translator.Forward6
	if c.hairpin {
		c.rule("1.4.errors")
		d.ttl, verdict = old.ttl, translator.Hairpin
	}
	d.upper = out.write(c, 1280-40, lengthAt6, unit6(out.typ))
	c.emit(verdict, d)
}

// emit writes a packet with an ICMP error.
func (c *call) emit(v translator.Verdict, d *datagram) {
	d.claimed = len(d.upper)
	x := ^checksum.Checksum(d.upper, d.pseudoSum())
	binary.BigEndian.PutUint16(d.upper[2:], x)
	c.forward(v, Packet{Bytes: c.write6(d)})
}

var allOnes = netip.MustParseAddr("255.255.255.255")

// errorSourceTo6 is the outer source of an ICMPv4 error, which may be any but many
// (RFC 7915 4.1).
func (c *call) errorSourceTo6(d *datagram) (netip.Addr, translator.Verdict) {
	odd := within(d.src, never4)
	switch {
	case d.src.IsMulticast() || d.src == allOnes:
		c.rule("1.1.never4")
		return netip.Addr{}, translator.NeverTranslated
	case odd && c.t.Prefix.IsValid() && (c.t.Prefix != wellKnown && c.t.Edge.Prefix != wellKnown || c.t.AllowNonGlobal):
		c.rule("1.1.error-source")
		return Embed(c.t.Prefix, d.src), ok
	case !odd:
		if src, why := c.sourceTo6(d); why == ok {
			return src, ok
		}
	}
	if c.t.half {
		c.rule("1.10.hop-out")
	}
	if c.t.ICMPSource6.IsValid() {
		c.rule("6.source6-pool")
		if c.t.ICMPSource6.Contains(c.hints.ErrorSource) {
			return c.hints.ErrorSource, ok
		}
		return c.t.ICMPSource6.Addr(), ok
	}
	c.rule("6.source6-own")
	return c.t.IPv6, ok
}

// errorOwnerTo6 is the workload that an error for a shared address belongs to:
// the quoted source port says it.
func (c *call) errorOwnerTo6(d *datagram, quote []byte) *mapping.Mapping {
	list := c.t.covering4(d.dst)
	q, why := read4(quote, true)
	if !shared(list) || why != ok {
		return nil
	}
	if !shareable(q.protocol) {
		c.rule("1.3.no-ports")
		c.fault(translator.ProtocolNotShareable)
		return nil
	}
	sp, _, has := portsOf(q.protocol, q.upper)
	if q.later() || !has {
		c.noPort(c.fault)
		return nil
	}
	owner := ownerOf(list, sp)
	if owner == nil {
		c.rule("1.3.quoted-unassigned")
		c.fault(translator.PortUnassigned)
		return nil
	}
	c.rule("1.3.quoted-source-port")
	return owner
}

// noPort: an error about a packet for or from a shared address quotes no port,
// because it quotes a later fragment, or too little.
func (c *call) noPort(say func(translator.Verdict)) {
	say(translator.PortUnassigned)
	say(translator.PortOutsideSet)
	say(translator.FragmentUnknown)
	say(translator.ProtocolNotShareable)
	say(translator.Malformed)
}

// errorTo4 translates an ICMPv6 error.
func (c *call) errorTo4(old *datagram) {
	if c.checksumWrong(old) {
		c.rule("4.icmp-error-verified")
		c.fault(translator.BadChecksum)
	}
	in := readMessage(old.upper, lengthAt6, unit6(old.upper[0]))
	in.rest = binary.BigEndian.Uint32(old.upper[4:])
	out, fine := c.typeTo4(in)
	if !fine {
		c.fault(translator.ICMPUntranslatable)
	}
	src, m := c.errorSourceTo4(old)
	if m != nil && m.Inside {
		c.fault(translator.PrefixClosed)
	}
	quote := c.quoteTo4(in.quote, src, m)
	dst, why := c.destination4(old.dst)
	if why != ok {
		c.faultReply(why, 1, 0, 0)
	}
	if dst == c.t.IPv4 && dst.IsValid() && len(c.t.covering4(dst)) == 0 {
		c.forUs()
	}
	if len(c.faults) > 0 {
		return
	}
	out.quote, out.extensions = quote, in.extensions
	d := &datagram{src: src, dst: dst, tos: old.tos, ttl: old.ttl - c.hop(), protocol: icmp4, id: max(1, c.hints.Identification)}
	if old.atomic() {
		c.rule("3.atomic")
		d.id = uint16(old.frag.id)
	}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	again := len(c.t.covering4(dst)) > 0 && !c.t.Client
	room := 576 - 20
	if again && !c.reads(shortErrors) {
		room = 1280 - 40 // the bound of the packet that leaves
	}
	d.upper = out.write(c, room, lengthAt4, unit4(out.typ))
	d.claimed = len(d.upper)
	binary.BigEndian.PutUint16(d.upper[2:], ^checksum.Checksum(d.upper, 0))
	p := Packet{Bytes: c.write4(d)}
	c.onward(p, dst, again)
}

// errorSourceTo4 is the outer source of an ICMPv6 error (RFC 6791).
func (c *call) errorSourceTo4(d *datagram) (netip.Addr, *mapping.Mapping) {
	src, m, why := c.address4(d.src, translator.UntranslatableSource)
	if why == ok {
		return src, m
	}
	if why == translator.NeverTranslated {
		c.fault(why) // a router has a better address
	}
	if c.t.ICMPSource4.IsValid() {
		c.rule("6.source4-pool")
		if c.t.ICMPSource4.Contains(c.hints.ErrorSource) {
			return c.hints.ErrorSource, nil
		}
		return c.t.ICMPSource4.Addr(), nil
	}
	if c.t.half {
		c.rule("1.10.hop-in")
	}
	c.rule("6.source4-own")
	return c.t.IPv4, nil
}
