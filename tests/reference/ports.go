package reference

import (
	"encoding/binary"
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// enforce: a workload uses its own ports alone (1.3).
func (c *call) enforce(d *datagram, m *mapping.Mapping, readable bool) {
	if !shareable(d.protocol) {
		c.rule("1.3.no-ports")
		c.fault(translator.ProtocolNotShareable)
		return
	}
	if !readable || d.later() {
		return // of a later fragment, the first one was asked
	}
	sp, _, has := portsOf(d.protocol, d.upper)
	switch {
	case !has: // an ICMP message that does not translate, and has no ports either
		c.fault(translator.ProtocolNotShareable)
	case owns(m, sp):
		c.rule("1.3.source-port")
		if d.isICMP() {
			c.rule("1.3.echo-own")
		}
	case d.isICMP() && d.upper[0] == 128:
		// Folded into the set below.
	default:
		c.rule("1.3.source-port-outside")
		c.faultReply(translator.PortOutsideSet, 1, 1, 0)
	}
}

// EchoRun is the longest contiguous run of a port set, the first of equals.
func EchoRun(s ports.Set) (base, size int) {
	for r := range s.Runs() {
		if n := int(r.Last) - int(r.First) + 1; n > size {
			base, size = int(r.First), n
		}
	}
	return base, size
}

type trailerKey struct {
	workload       netip.Prefix
	folded, serial uint16
	trailer        [8]byte
}

// fold replaces the identifier of an echo request that is outside the port set,
// and says so behind the data.
func (c *call) fold(old *datagram, b []byte, m *mapping.Mapping) []byte {
	if m == nil || m.Ports.IsZero() || old.upper[0] != 128 {
		return b
	}
	id := binary.BigEndian.Uint16(b[4:])
	if owns(m, id) {
		return b
	}
	c.rule("1.3.echo-fold")
	base, size := EchoRun(m.Ports)
	folded := uint16(base + int(id)%size)
	trailer := make([]byte, 8)
	copy(trailer, c.hints.Trailer)
	binary.BigEndian.PutUint16(trailer[2:], id)
	binary.BigEndian.PutUint16(b[4:], folded)
	c.t.trailers[trailerKey{m.IPv6, folded, binary.BigEndian.Uint16(b[6:]), [8]byte(trailer)}] = true
	return append(b, trailer...)
}

// unfold restores the identifier of an echo reply and strips the trailer.
func (c *call) unfold(old *datagram, b []byte, m *mapping.Mapping) []byte {
	if m == nil || m.Ports.IsZero() || old.upper[0] != 0 || len(b) < 16 {
		return b
	}
	key := trailerKey{m.IPv6, binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), [8]byte(b[len(b)-8:])}
	if !c.t.trailers[key] {
		c.rule("1.3.echo-no-trailer")
		return b
	}
	c.rule("1.3.echo-unfold")
	copy(b[4:6], key.trailer[2:4])
	return b[:len(b)-8]
}

// ownerTo6 is the workload that a packet for a shared address belongs to; nil for
// other addresses, and when there is none, which then is a fault.
func (c *call) ownerTo6(d *datagram, readable bool) *mapping.Mapping {
	list := c.t.covering4(d.dst)
	if !shared(list) {
		return nil
	}
	if !shareable(d.protocol) {
		c.rule("1.3.no-ports")
		c.fault(translator.ProtocolNotShareable)
		return nil
	}
	if !readable {
		return nil
	}
	if d.later() {
		return c.trackedOwner(d, list)
	}
	_, dp, has := portsOf(d.protocol, d.upper)
	if !has {
		c.fault(translator.ProtocolNotShareable) // ICMP without an identifier
		return nil
	}
	owner := ownerOf(list, dp)
	if owner == nil {
		if c.t.ces.by4[d.dst] != nil {
			c.rule("1.8.offset")
		}
		c.unassigned(d)
		return nil
	}
	c.rule("1.3.destination-port")
	return owner
}

func (c *call) unassigned(d *datagram) {
	if d.protocol == udp || d.protocol == tcp {
		c.rule("1.3.unassigned-answered")
		c.faultReply(translator.PortUnassigned, 3, 3, 0)
		return
	}
	c.rule("1.3.unassigned")
	c.fault(translator.PortUnassigned)
}
